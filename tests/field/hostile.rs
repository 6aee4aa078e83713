//! What no honest host would send: late, twice, out of order, for things that are not there.

use std::collections::BTreeMap;

use fieldgate::buffer::{Memory, RecvBuffer};
use fieldgate::field::bus::{BusError, BusOp, BusReply, Fact};
use fieldgate::field::line::{Bias, Chip, Drive, Edges, LineCommand, LineEvent, LineRef};
use fieldgate::field::port::{Parity, PortCommand, PortEvent, PortSettings};
use fieldgate::field::settings::{
    DeviceSettings, Driver, GpioKind, GpioPoint, GpioSettings, I2cChip, LinesPoint, LinesSettings,
    OnStart, OutputSettings, Persist, SafeState, SystemSettings, TextKind,
};
use fieldgate::field::{Field, Output, points_of};
use fieldgate::id::{DeviceId, LineId, PointId, PortId, RequestId};
use fieldgate::point::{Fault, FaultKind, Outcome, PointWrite, Value};
use fieldgate::rng::Rng;
use fieldgate::slab::{GenSlab, Key};
use fieldgate::time::{Duration, Instant, Now, WallTime};
use proptest::prelude::*;

use crate::bench::{Bench, i2c};

#[test]
fn questions_about_what_is_not_there_are_answered_and_counted() {
    let mut bench = Bench::new();
    let now = bench.clocks();
    let stranger = Bench::an_unknown_point();
    bench.field.handle_sample(now, stranger);
    assert!(matches!(
        bench.field.poll_output(),
        Some(Output::Reading(reading)) if matches!(reading.outcome, Outcome::Fault(_))
    ));
    let write = PointWrite {
        point: stranger,
        request: RequestId(1),
        value: Value::Bool(true),
        hold: None,
    };
    bench.field.handle_write(now, write);
    assert!(matches!(
        bench.field.poll_output(),
        Some(Output::Written(written)) if written.outcome.is_err()
    ));
    bench
        .field
        .handle_bus(now, RequestId(77), Err(BusError::Timeout));
    let line = LineId::from_parts(5, 0);
    bench
        .field
        .handle_line(now, line, LineEvent::Ready { active: true });
    let memory = Memory::new(usize::MAX);
    let mut recv = RecvBuffer::new(&memory);
    let port = PortId::from_parts(3, 1);
    bench
        .field
        .handle_port(now, port, PortEvent::Opened, &mut recv);
    bench.field.remove_device(now, DeviceId::from_parts(8, 8));
    let strays = bench.field.stats().strays;
    assert_eq!(
        (
            strays.answers,
            strays.line_events,
            strays.port_events,
            strays.points
        ),
        (1, 1, 1, 2)
    );
}

/// One of everything.
fn devices() -> Vec<Driver> {
    let gpio_point = |offset, kind| GpioPoint {
        line: LineRef::Offset(offset),
        active_low: false,
        bias: Bias::AsIs,
        kind,
    };
    let debounce = Duration::ZERO;
    let output = OutputSettings {
        drive: Drive::PushPull,
        safe_state: SafeState::Inactive,
        on_start: OnStart::Safe,
        lease: Some(Duration::from_secs(7)),
    };
    let word = |read, command: Option<&str>| LinesPoint {
        kind: TextKind::Number,
        read,
        command: command.map(Into::into),
        booleans: ("0".into(), "1".into()),
    };
    vec![
        i2c(1, I2cChip::Bme280, 0x76),
        i2c(1, I2cChip::Tmp105, 0x48),
        Driver::System(SystemSettings {
            temperature: None,
            disk: "/".into(),
        }),
        Driver::Gpio(GpioSettings {
            chip: Chip::Header,
            points: BTreeMap::from([
                ("a".into(), gpio_point(1, GpioKind::Input { debounce })),
                (
                    "b".into(),
                    gpio_point(
                        2,
                        GpioKind::Event {
                            edges: Edges::Both,
                            debounce,
                        },
                    ),
                ),
                (
                    "c".into(),
                    gpio_point(
                        3,
                        GpioKind::Counter {
                            edges: Edges::Both,
                            debounce,
                            persist: Persist::default(),
                        },
                    ),
                ),
                ("d".into(), gpio_point(4, GpioKind::Output(output))),
            ]),
        }),
        Driver::Lines(LinesSettings {
            port_name: "p".into(),
            port: PortSettings {
                path: "/dev/p".into(),
                baud: 9600,
                data_bits: 8,
                parity: Parity::None,
                stop_bits: 1,
            },
            pattern: Some("(?<x>[-0-9a-z.]+)".into()),
            poll: Some("?\n".into()),
            line_max: 20,
            points: BTreeMap::from([
                ("x".into(), word(true, Some("x={value}\n"))),
                ("y".into(), word(false, Some("y={value}\n"))),
            ]),
        }),
    ]
}

/// What may happen.
#[derive(Debug, Clone)]
enum Act {
    Wait(u64),
    Answer {
        which: u8,
        again: bool,
        kind: u8,
        bytes: Vec<u8>,
    },
    Line {
        which: u8,
        event: u8,
        seqno: u32,
        active: bool,
    },
    Port {
        which: u8,
        event: u8,
        bytes: Vec<u8>,
    },
    Write {
        which: u8,
        value: u8,
        hold: Option<u64>,
    },
    Sample(u8),
    Replace(u8),
    Stop,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let bytes =
        || proptest::collection::vec(prop_oneof![any::<u8>(), b'0'..=b'9', Just(b'\n')], 0..40);
    let act = prop_oneof![
        6 => (0..3_000_u64).prop_map(Act::Wait),
        10 => (any::<u8>(), prop::bool::weighted(0.1), 0..8_u8, bytes()).prop_map(
            |(which, again, kind, bytes)| Act::Answer { which, again, kind, bytes }
        ),
        6 => (any::<u8>(), 0..6_u8, any::<u32>(), any::<bool>()).prop_map(
            |(which, event, seqno, active)| Act::Line { which, event, seqno, active }
        ),
        4 => (any::<u8>(), 0..4_u8, bytes()).prop_map(
            |(which, event, bytes)| Act::Port { which, event, bytes }
        ),
        4 => (any::<u8>(), 0..7_u8, proptest::option::of(0..5_000_u64)).prop_map(
            |(which, value, hold)| Act::Write { which, value, hold }
        ),
        2 => any::<u8>().prop_map(Act::Sample),
        1 => any::<u8>().prop_map(Act::Replace),
    ];
    (proptest::collection::vec(act, 0..120), any::<bool>()).prop_map(|(mut acts, stops)| {
        if stops {
            let place = acts.len() * 2 / 3;
            acts.insert(place, Act::Stop);
        }
        acts
    })
}

/// A host that follows no rule but that ids come from the field.
struct Chaos {
    field: Field,
    now: Instant,
    memory: Memory,
    device_ids: GenSlab<DeviceId, usize>,
    point_ids: GenSlab<PointId, ()>,
    requests: Vec<RequestId>,
    /// The length that an honest answer would have.
    lengths: BTreeMap<RequestId, usize>,
    sets: Vec<RequestId>,
    lines: Vec<LineId>,
    ports: Vec<PortId>,
    written: BTreeMap<RequestId, u32>,
    commands: u64,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut chaos = Self {
            field: Field::new(&mut Rng::from_seed(seed)),
            now: Instant::from_nanos(1),
            memory: Memory::new(usize::MAX),
            device_ids: GenSlab::new(),
            point_ids: GenSlab::new(),
            requests: Vec::new(),
            lengths: BTreeMap::new(),
            sets: Vec::new(),
            lines: Vec::new(),
            ports: Vec::new(),
            written: BTreeMap::new(),
            commands: 0,
        };
        for which in 0..devices().len() {
            chaos.add(which);
        }
        chaos
    }

    fn clocks(&self) -> Now {
        Now {
            monotonic: self.now,
            wall: WallTime::default(),
        }
    }

    fn add(&mut self, which: usize) {
        let driver = devices().swap_remove(which);
        let device = self.device_ids.insert(which);
        let points: Vec<_> = points_of(&driver)
            .into_iter()
            .map(|spec| (self.point_ids.insert(()), spec.name))
            .collect();
        let settings = DeviceSettings {
            driver,
            every: Duration::from_millis(700),
        };
        let now = self.clocks();
        self.field.add_device(now, device, "it", settings, &points);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.field.poll_output() {
            match output {
                Output::Bus { request, op, .. } => {
                    let length = match op {
                        BusOp::I2c { read, .. } => usize::from(read),
                        BusOp::Machine(_) => 30,
                    };
                    self.requests.push(request);
                    self.lengths.insert(request, length);
                }
                Output::Line(LineCommand::Request { line, .. }) => self.lines.push(line),
                Output::Line(LineCommand::Set { request, .. }) => self.sets.push(request),
                Output::Port(PortCommand::Open { port, .. }) => self.ports.push(port),
                Output::Written(written) => {
                    let count = self.written.get_mut(&written.request);
                    *count.expect("an answer to a question") += 1;
                }
                Output::Reading(reading) => {
                    if let Outcome::Good(value) | Outcome::Uncertain(value, _) = reading.outcome {
                        assert!(value.as_f64().is_none_or(f64::is_finite));
                    }
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        let mut wakes = 0;
        while let Some(at) = self.field.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let now = self.clocks();
            self.field.handle_timeout(now);
            assert!(self.field.poll_timeout().is_none_or(|next| next > self.now));
            self.drain();
            wakes += 1;
            assert!(wakes < 10_000, "a storm of wake-ups");
        }
        self.now = end;
    }

    fn act(&mut self, act: Act) {
        let now = self.clocks();
        let pick = |count: usize, which: u8| usize::from(which) % count.max(1);
        match act {
            Act::Wait(millis) => self.wait(millis),
            Act::Answer {
                which,
                again,
                kind,
                mut bytes,
            } => {
                let place = pick(self.requests.len(), which);
                let Some(request) = self.requests.get(place).copied() else {
                    return;
                };
                if !again {
                    self.requests.remove(place);
                }
                let outcome = match kind {
                    0 => Err(BusError::NoAnswer),
                    1 => Err(BusError::Timeout),
                    2 => Err(BusError::Failed(-1)),
                    3 => Ok(BusReply::Machine(vec![
                        Ok(Fact::File(bytes.as_slice().into())),
                        Ok(Fact::DiskSpace {
                            total: u64::from(which),
                            available: bytes.len() as u64,
                        }),
                        Ok(Fact::Uptime(Duration::from_nanos(u64::from(which)))),
                    ])),
                    4 => Ok(BusReply::Bytes(bytes.as_slice().into())),
                    _ => {
                        // The right length, so that something more is reached than that check.
                        bytes.resize(self.lengths[&request], which);
                        if bytes.len() == 1 && kind > 5 {
                            bytes[0] = 0x60;
                        }
                        Ok(BusReply::Bytes(bytes.as_slice().into()))
                    }
                };
                self.field.handle_bus(now, request, outcome);
            }
            Act::Line {
                which,
                event,
                seqno,
                active,
            } => {
                let Some(line) = self.lines.get(pick(self.lines.len(), which)).copied() else {
                    return;
                };
                let fault = Fault::new(FaultKind::Unplugged, "gone");
                let set = self.sets.get(pick(self.sets.len(), which)).copied();
                let event = match event {
                    0 => LineEvent::Ready { active },
                    1 => LineEvent::Level { active },
                    2 => LineEvent::Lost(fault),
                    3 => LineEvent::Set {
                        request: set.unwrap_or(RequestId(u64::from(seqno))),
                        outcome: if active {
                            Ok(seqno % 2 == 0)
                        } else {
                            Err(fault)
                        },
                    },
                    _ => LineEvent::Edge {
                        at: self.now + Duration::from_nanos(u64::from(seqno)),
                        active,
                        line_seqno: if which > 128 { seqno } else { seqno % 16 },
                    },
                };
                self.field.handle_line(now, line, event);
            }
            Act::Port {
                which,
                event,
                bytes,
            } => {
                let Some(port) = self.ports.get(pick(self.ports.len(), which)).copied() else {
                    return;
                };
                let mut recv = RecvBuffer::new(&self.memory);
                let event = match event {
                    0 => PortEvent::Opened,
                    1 => PortEvent::Closed(Fault::new(FaultKind::Unplugged, "gone")),
                    _ => {
                        recv.spare()[..bytes.len()].copy_from_slice(&bytes);
                        recv.commit(bytes.len());
                        // A count that does not fit is the host's affair.
                        PortEvent::Received {
                            count: usize::from(which),
                        }
                    }
                };
                self.field.handle_port(now, port, event, &mut recv);
            }
            Act::Write { which, value, hold } => {
                let points = self.point_ids.keys();
                let value = match value {
                    0 => Value::Bool(true),
                    1 => Value::Bool(false),
                    2 => Value::Int(i64::MIN),
                    3 => Value::Uint(u64::MAX),
                    4 => Value::Float(f64::NAN),
                    5 => Value::Float(1e300),
                    _ => Value::Text("a\nb".into()),
                };
                self.commands += 1;
                let request = RequestId(self.commands);
                self.written.insert(request, 0);
                let write = PointWrite {
                    point: points[pick(points.len(), which)],
                    request,
                    value,
                    hold: hold.map(Duration::from_millis),
                };
                self.field.handle_write(now, write);
            }
            Act::Sample(which) => {
                let points = self.point_ids.keys();
                let point = points[pick(points.len(), which)];
                self.field.handle_sample(now, point);
            }
            Act::Replace(which) => {
                let devices = self.device_ids.keys();
                let device = devices[pick(devices.len(), which)];
                let kind = self.device_ids.remove(device).expect("it was listed");
                self.field.remove_device(now, device);
                self.add(kind);
            }
            Act::Stop => self.field.stop(now),
        }
        self.drain();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_that_a_host_can_do_breaks_the_field(seed: u64, acts in acts()) {
        let mut chaos = Chaos::new(seed);
        for act in acts {
            chaos.act(act);
        }
        // Whoever still waits is answered when the devices go.
        for device in chaos.device_ids.keys() {
            let now = chaos.clocks();
            chaos.field.remove_device(now, device);
        }
        chaos.drain();
        prop_assert!(chaos.written.values().all(|answers| *answers == 1), "{:?}", chaos.written);
        prop_assert_eq!(chaos.field.poll_timeout(), None);
        prop_assert_eq!(chaos.memory.used(), 0);
    }
}
