//! Virtual time, the network, and the hardware, driven by one generator.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::IoSlice;

use fieldgate::field::bus::{BusError, BusOutcome};
use fieldgate::field::line::{LineCommand, LineEvent};
use fieldgate::gateway::Gateway;
use fieldgate::gateway::boundary::{
    CloseCause, Input, JournalCommand, JournalEvent, Notice, Output, Peer,
};
use fieldgate::id::{ConnId, LineId, ListenerId, RequestId};
use fieldgate::mqtt::{ProtocolVersion, QoS};
use fieldgate::rng::Rng;
use fieldgate::slab::GenSlab;
use fieldgate::time::{Duration, Instant, Now, WallTime};

use super::client::{Client, Outgoing};
use super::devices::Lm75;
use super::oracle;

/// How long faults go on, and how long the world may then take to settle.
const TROUBLE: Duration = Duration::from_secs(120);
const CALM: Duration = Duration::from_secs(900);

/// Steps after which a run that does not end is a failure.
const STEPS_MAX: u64 = 2_000_000;

const CONFIG: &str = r#"
[gateway]
name = "sim"
[gateway.defaults]
every = "5s"
[device.room]
driver = "lm75"
bus = "i2c.1"
address = 0x48
[device.relay]
driver = "gpio"
bus = "gpio.header"
[device.relay.point.out]
kind = "output"
line = 17
safe_state = false
"#;

/// What a run did; equal for equal seeds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    pub steps: u64,
    pub cuts: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub bus_faults: u64,
    pub commands: u64,
    /// A running hash over everything that crossed the boundary.
    pub trace: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.cuts += other.cuts;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.bus_faults += other.bus_faults;
        self.commands += other.commands;
        self.trace ^= other.trace;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client dials, if it has no connection.
    Dial(usize),
    /// A client's bytes move some way.
    Carry(usize),
    /// A client publishes something.
    Publish(usize),
    /// A client says that it is alive.
    Ping(usize),
    /// A connection breaks.
    Cut(usize),
    /// A transfer ends.
    Transfer(RequestId),
    /// The room warms, cools, or its sensor comes loose.
    Weather,
}

struct Pipe {
    conn: ConnId,
    client: usize,
    /// The gateway has asked for it to be closed after what is queued.
    closing: bool,
}

pub struct World {
    gateway: Gateway,
    rng: Rng,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    event_count: u64,
    listener: Option<ListenerId>,
    conns: GenSlab<ConnId, ()>,
    pipes: BTreeMap<usize, Pipe>,
    clients: Vec<Client>,
    chip: Lm75,
    transfers: BTreeMap<RequestId, fieldgate::field::bus::BusOp>,
    relay: BTreeMap<LineId, bool>,
    /// Every draw of a queued message is answered with Pending first.
    fetching: bool,
    ready: bool,
    published: Vec<Outgoing>,
    last_command: Option<bool>,
    transactions: u64,
    report: Report,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let now = Instant::from_nanos(1_000_000_000);
        let source = fieldgate::config::Source {
            path: "sim.toml".into(),
            text: CONFIG.to_owned(),
        };
        let environment = fieldgate::config::Environment::default();
        let loaded = fieldgate::config::parse(vec![source], &environment)
            .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let mut gateway = Gateway::new(loaded.meant.gateway, rng.next_u64(), at(now));
        let fetching = rng.chance(1, 2);
        gateway.broker_mut().set_fetch_every_draw(fetching);
        let version = |rng: &mut Rng| {
            if rng.chance(1, 2) {
                ProtocolVersion::V5
            } else {
                ProtocolVersion::V4
            }
        };
        let clients = vec![
            Client::new("publisher", version(&mut rng), vec!["sim/+/+/result"]),
            Client::new("subscriber", version(&mut rng), vec!["app/#", "sim/room/#"]),
        ];
        let mut world = Self {
            gateway,
            rng,
            now,
            events: BinaryHeap::new(),
            event_count: 0,
            listener: None,
            conns: GenSlab::new(),
            pipes: BTreeMap::new(),
            clients,
            chip: Lm75::new(),
            transfers: BTreeMap::new(),
            relay: BTreeMap::new(),
            fetching,
            ready: false,
            published: Vec::new(),
            last_command: None,
            transactions: 0,
            report: Report::default(),
        };
        for client in 0..world.clients.len() {
            world.after_millis(1, 50, Event::Dial(client));
            world.after_millis(100, 5_000, Event::Cut(client));
            world.after_millis(5_000, 10_000, Event::Ping(client));
        }
        world.after_millis(10, 100, Event::Publish(0));
        world.after_millis(1_000, 10_000, Event::Weather);
        world
    }

    /// Trouble, then calm, then the oracle.
    pub fn run(mut self) -> Report {
        self.drain_outputs();
        let trouble_ends = self.now + TROUBLE;
        while self.now < trouble_ends {
            self.step(true);
        }
        self.chip.absent = false;
        let calm_ends = self.now + CALM;
        let settle_at = self.now + Duration::from_secs(600);
        while self.now < calm_ends && !(self.now > settle_at && self.is_settled()) {
            self.step(false);
        }
        assert!(self.ready, "the gateway never said that it is ready");
        for client in &self.clients {
            assert!(
                client.is_settled(),
                "{} has not settled: {client:?}",
                client.name
            );
        }
        self.check();
        self.report.redelivered = self.clients.iter().map(|client| client.redelivered).sum();
        self.report.delivered = self
            .clients
            .iter()
            .map(|client| client.inbox.len() as u64)
            .sum();
        self.report
    }

    fn is_settled(&self) -> bool {
        self.clients.iter().all(Client::is_settled)
    }

    fn check(&mut self) {
        oracle::check_delivery(&self.published, &self.clients[0], &self.clients[1]);
        let last = |topic: &str| {
            let inbox = &self.clients[1].inbox;
            let message = inbox.iter().rev().find(|message| message.topic == topic);
            message.map(|message| String::from_utf8_lossy(&message.payload).into_owned())
        };
        let celsius =
            last("sim/room/temperature").map(|text| text.parse::<f64>().expect("a number"));
        assert_eq!(celsius, Some(self.chip.celsius()), "the room's temperature");
        assert_eq!(
            last("sim/room/temperature/quality").as_deref(),
            Some("good")
        );
        assert_eq!(last("sim/room/availability").as_deref(), Some("online"));
        if let Some(active) = self.last_command {
            let levels: Vec<_> = self.relay.values().copied().collect();
            assert_eq!(
                levels,
                [active],
                "the relay is not where the last command put it"
            );
        }
        let results: Vec<_> = self.clients[0]
            .inbox
            .iter()
            .filter(|message| message.topic == "sim/relay/out/result")
            .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
            .collect();
        for transaction in 1..=self.transactions {
            let name = format!("\"transaction\":\"t{transaction}\"");
            assert!(
                results.iter().any(|result| result.contains(&name)),
                "t{transaction} has no result"
            );
        }
    }

    fn step(&mut self, trouble: bool) {
        self.report.steps += 1;
        assert!(self.report.steps < STEPS_MAX, "the run does not end");
        let next_event = self.events.peek().map(|Reverse((at, ..))| *at);
        let next_timer = self.gateway.poll_timeout().map(|(at, _)| at);
        let next = [next_event, next_timer]
            .into_iter()
            .flatten()
            .min()
            .expect("something is always due");
        if next > self.now {
            self.now = next;
        }
        // A few things may happen in one turn, in any order that their times allow.
        for _ in 0..=self.rng.below(3) {
            let due = self
                .events
                .peek()
                .is_some_and(|Reverse((at, ..))| *at <= self.now);
            if !due {
                break;
            }
            let Reverse((_, _, event)) = self.events.pop().expect("peeked");
            self.handle_event(event, trouble);
        }
        let now = at(self.now);
        let timer_before = self.gateway.poll_timeout().map(|(at, _)| at);
        self.gateway.handle_timeout(now);
        if timer_before.is_some_and(|at| at <= self.now && at.as_nanos() > 0) {
            let after = self.gateway.poll_timeout().map(|(at, _)| at);
            let moved = after.is_none_or(|at| at > self.now || at.as_nanos() == 0);
            assert!(
                moved,
                "a timeout that was handled is due again: {after:?} at {:?}",
                self.now
            );
        }
        self.gateway.end_turn(now);
        self.drain_outputs();
        while let Some(conn) = self.gateway.poll_resumed() {
            self.gateway
                .handle_input(now, Input::Received { conn, count: 0 });
        }
        self.drain_outputs();
        self.write_out();
        self.drain_outputs();
        self.finish_closing();
    }

    fn handle_event(&mut self, event: Event, trouble: bool) {
        match event {
            Event::Dial(client) => self.dial(client),
            Event::Carry(client) => self.carry(client),
            Event::Ping(client) => {
                self.clients[client].ping();
                self.carry(client);
                self.after_millis(5_000, 12_000, Event::Ping(client));
            }
            Event::Publish(client) => {
                if trouble {
                    self.publish(client);
                    self.after_millis(5, 800, Event::Publish(client));
                }
            }
            Event::Cut(client) => {
                if trouble {
                    self.cut(client);
                    self.after_millis(50, 8_000, Event::Cut(client));
                }
            }
            Event::Transfer(request) => self.end_transfer(request, trouble),
            Event::Weather => {
                if trouble {
                    self.chip.half_degrees = self.rng.below(100) as i16 - 20;
                    self.chip.absent = self.rng.chance(1, 4);
                    self.after_millis(1_000, 15_000, Event::Weather);
                }
            }
        }
    }

    fn dial(&mut self, client: usize) {
        let Some(listener) = self.listener else {
            return self.after_millis(10, 20, Event::Dial(client));
        };
        if self.pipes.contains_key(&client) {
            return;
        }
        let conn = self.conns.insert(());
        self.pipes.insert(
            client,
            Pipe {
                conn,
                client,
                closing: false,
            },
        );
        self.clients[client].open();
        let peer = Peer::Unix {
            uid: 0,
            pid: client as i32,
        };
        self.input(Input::Accepted {
            conn,
            listener,
            peer,
        });
        self.after_millis(0, 5, Event::Carry(client));
    }

    /// Some of a client's bytes reach the gateway: any number of them.
    fn carry(&mut self, client: usize) {
        let Some(pipe) = self.pipes.get(&client) else {
            return;
        };
        let (conn, closing) = (pipe.conn, pipe.closing);
        let waiting = self.clients[client].out.len();
        if waiting == 0 || closing {
            return;
        }
        let count = if self.rng.chance(1, 3) {
            self.rng.below(waiting as u64) as usize + 1
        } else {
            waiting
        };
        if let Some(buffer) = self.gateway.recv_buffer(conn) {
            let spare = buffer.spare();
            let count = count.min(spare.len());
            spare[..count].copy_from_slice(&self.clients[client].out[..count]);
            self.clients[client].out.drain(..count);
            self.input(Input::Received { conn, count });
        }
        if !self.clients[client].out.is_empty() {
            self.after_millis(0, 20, Event::Carry(client));
        }
    }

    fn cut(&mut self, client: usize) {
        let Some(pipe) = self.pipes.remove(&client) else {
            return;
        };
        self.report.cuts += 1;
        self.clients[client].cut();
        self.conns.remove(pipe.conn);
        let cause = if self.rng.chance(1, 2) {
            CloseCause::Peer
        } else {
            CloseCause::Failed(104)
        };
        self.input(Input::Closed {
            conn: pipe.conn,
            cause,
        });
        self.after_millis(1, 4_000, Event::Dial(client));
    }

    fn publish(&mut self, client: usize) {
        if !self.clients.iter().all(Client::is_subscribed) {
            return;
        }
        if self.rng.chance(1, 5) {
            let active = self.rng.chance(1, 2);
            self.transactions += 1;
            self.report.commands += 1;
            self.last_command = Some(active);
            let payload = format!(
                r#"{{"value":{active},"transaction":"t{}"}}"#,
                self.transactions
            );
            let topic = "sim/relay/out/set".to_owned();
            // Exactly once, so that a repeated command cannot overtake a later one.
            let qos = QoS::ExactlyOnce;
            let command = Outgoing {
                topic,
                payload: payload.into_bytes(),
                qos,
                retain: false,
            };
            self.clients[client].publish(command);
        } else {
            let qos =
                [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.rng.below(3) as usize];
            let number = self.published.len();
            let mut payload = number.to_string().into_bytes();
            if self.rng.chance(1, 20) {
                // Large enough to be shared, and to be grown into while it arrives.
                payload.resize(self.rng.below(200_000) as usize + 8, b'.');
            }
            let message = Outgoing {
                topic: format!("app/{qos}"),
                payload,
                qos,
                retain: self.rng.chance(1, 4),
            };
            self.published.push(message.clone());
            self.clients[client].publish(message);
        }
        self.after_millis(0, 5, Event::Carry(client));
    }

    fn end_transfer(&mut self, request: RequestId, trouble: bool) {
        let op = self
            .transfers
            .remove(&request)
            .expect("a transfer ends once");
        let outcome: BusOutcome = if trouble && self.rng.chance(1, 10) {
            let errors = [
                BusError::NoAnswer,
                BusError::Timeout,
                BusError::Failed(5),
                BusError::Busy,
            ];
            Err(*self.rng.choose(&errors).expect("not empty"))
        } else {
            self.chip.transfer(&op)
        };
        self.report.bus_faults += u64::from(outcome.is_err());
        self.input(Input::Bus { request, outcome });
    }

    fn write_out(&mut self) {
        let now = at(self.now);
        while let Some(conn) = self.gateway.poll_writable() {
            self.write(now, conn);
        }
        // Sockets that could not take everything become writable again some time.
        let conns: Vec<_> = self.pipes.values().map(|pipe| pipe.conn).collect();
        for conn in conns {
            if self.rng.chance(1, 2) {
                self.write(now, conn);
            }
        }
    }

    fn write(&mut self, now: Now, conn: ConnId) {
        let Some(client) = self
            .pipes
            .values()
            .find(|pipe| pipe.conn == conn)
            .map(|pipe| pipe.client)
        else {
            return;
        };
        let Some(queue) = self.gateway.fill(now, conn, 64 * 1024) else {
            return;
        };
        if queue.is_empty() {
            return;
        }
        let room = if self.rng.chance(1, 4) {
            self.rng.below(300) as usize
        } else {
            64 * 1024
        };
        let mut slices = [IoSlice::new(&[]); 8];
        let count = queue.gather(&mut slices, room);
        let bytes: Vec<u8> = slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        let more = queue.len() > bytes.len() || queue.has_more();
        queue.consume(bytes.len());
        self.trace(b"out", &bytes);
        self.clients[client].handle_bytes(&bytes);
        if !self.clients[client].out.is_empty() || more {
            self.after_millis(0, 5, Event::Carry(client));
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            self.trace(b"do", format!("{output:?}").as_bytes());
            match output {
                Output::Listen { listener, .. } => {
                    self.listener = Some(listener);
                    self.input(Input::Listening {
                        listener,
                        outcome: Ok("sim:1883".into()),
                    });
                }
                Output::Bus { request, op, .. } => {
                    self.transfers.insert(request, op);
                    self.after_millis(1, 40, Event::Transfer(request));
                }
                Output::Line(command) => self.line(&command),
                Output::Close { conn, .. } => {
                    for pipe in self.pipes.values_mut().filter(|pipe| pipe.conn == conn) {
                        pipe.closing = true;
                    }
                }
                Output::Journal(JournalCommand::Fetch { message }) => {
                    assert!(
                        self.fetching,
                        "nothing is fetched when everything is in memory"
                    );
                    self.input(Input::Journal(JournalEvent::Fetched {
                        message,
                        payload: None,
                    }));
                }
                Output::Notice(notice) => self.ready |= notice == Notice::Ready,
                Output::OpenBus { .. } | Output::CloseBus { .. } | Output::Unlisten { .. } => {}
                Output::Control { .. } | Output::Load { .. } | Output::Port(_) => {
                    panic!("nobody asked for {output:?}")
                }
            }
        }
    }

    fn line(&mut self, command: &LineCommand) {
        match *command {
            LineCommand::Request { line, .. } => {
                self.relay.insert(line, false);
                self.input(Input::Line {
                    line,
                    event: LineEvent::Ready { active: false },
                });
            }
            LineCommand::Set {
                line,
                request,
                active,
            } => {
                self.relay.insert(line, active);
                self.input(Input::Line {
                    line,
                    event: LineEvent::Set {
                        request,
                        outcome: Ok(active),
                    },
                });
            }
            LineCommand::Read { line } => {
                let active = self.relay[&line];
                self.input(Input::Line {
                    line,
                    event: LineEvent::Level { active },
                });
            }
            LineCommand::Release { line } => {
                self.relay.remove(&line);
            }
        }
    }

    /// A connection that the gateway closes is gone once its last bytes are out.
    fn finish_closing(&mut self) {
        let done: Vec<usize> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| pipe.closing)
            .map(|(client, _)| *client)
            .collect();
        for client in done {
            let pipe = self.pipes.remove(&client).expect("listed just now");
            self.clients[client].cut();
            self.conns.remove(pipe.conn);
            self.input(Input::Closed {
                conn: pipe.conn,
                cause: CloseCause::Ours,
            });
            self.after_millis(1, 1_000, Event::Dial(client));
        }
    }

    fn input(&mut self, input: Input) {
        self.trace(b"in", format!("{input:?}").as_bytes());
        self.gateway.handle_input(at(self.now), input);
    }

    fn after_millis(&mut self, least: u64, most: u64, event: Event) {
        let micros = least * 1000 + self.rng.below((most - least) * 1000 + 1);
        self.event_count += 1;
        let when = self.now + Duration::from_micros(micros);
        self.events.push(Reverse((when, self.event_count, event)));
    }

    /// FNV-1a over everything that crosses: cheap, and the same everywhere.
    fn trace(&mut self, kind: &[u8], bytes: &[u8]) {
        for byte in kind.iter().chain(bytes) {
            self.report.trace =
                (self.report.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn at(monotonic: Instant) -> Now {
    let wall =
        WallTime::EARLIEST_PLAUSIBLE.saturating_add(Duration::from_nanos(monotonic.as_nanos()));
    Now { monotonic, wall }
}
