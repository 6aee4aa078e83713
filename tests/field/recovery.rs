//! Whatever has gone wrong, and in whatever order: once it is right again, everything works again
//! by itself, and soon.

use std::collections::BTreeMap;

use fieldgate::field::bus::BusError;
use fieldgate::field::line::{Bias, Chip, Drive, Edges, LineRef};
use fieldgate::field::port::{Parity, PortSettings};
use fieldgate::field::settings::{
    Driver, GpioKind, GpioPoint, GpioSettings, I2cChip, LinesPoint, LinesSettings, OnStart,
    OutputSettings, Persist, SafeState, SystemSettings, TextKind,
};
use fieldgate::field::{BACKOFF_MAX, HOST_GRACE, LINE_BACKOFF_MAX, PORT_BACKOFF_MAX};
use fieldgate::point::{Outcome, Value};
use fieldgate::time::Duration;
use proptest::prelude::*;

use crate::bench::{Bench, Trouble, i2c, text_of};
use crate::chips::{Chip as FakeChip, Thermometer, Weather};

const PATH: &str = "/dev/serial/by-id/scale";
const ANSWER: &str = "weight 3 kg\r\n";
const EVERY: Duration = Duration::from_secs(5);

/// One thing that goes wrong, or right again.
#[derive(Debug, Clone, Copy)]
enum Act {
    Bus(Option<u8>, Option<Trouble>),
    PowerCut,
    Files(bool),
    Lines(bool),
    Broken(bool),
    Plug(bool),
    Answer(Option<&'static str>),
    Set(bool, Option<u64>),
    Get(usize),
    Wait(u64),
}

const POINTS: [&str; 8] = [
    "greenhouse/temperature",
    "greenhouse/humidity",
    "fine/temperature",
    "machine/load",
    "box/door",
    "box/volume",
    "box/valve",
    "scale/weight",
];

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let trouble = proptest::option::of(prop_oneof![
        Just(Trouble::Absent),
        Just(Trouble::Stuck),
        Just(Trouble::Error(BusError::Failed(121))),
        Just(Trouble::Error(BusError::Busy)),
        Just(Trouble::Forgotten),
    ]);
    let address = prop_oneof![Just(None), Just(Some(0x76)), Just(Some(0x48))];
    let answer = prop_oneof![Just(None), Just(Some("what?\n")), Just(Some(ANSWER))];
    let act = prop_oneof![
        4 => (address, trouble).prop_map(|(address, trouble)| Act::Bus(address, trouble)),
        1 => Just(Act::PowerCut),
        1 => any::<bool>().prop_map(Act::Files),
        2 => any::<bool>().prop_map(Act::Lines),
        2 => any::<bool>().prop_map(Act::Broken),
        2 => any::<bool>().prop_map(Act::Plug),
        1 => answer.prop_map(Act::Answer),
        3 => (any::<bool>(), proptest::option::of(1..9_000_u64))
            .prop_map(|(active, hold)| Act::Set(active, hold)),
        2 => (0..POINTS.len()).prop_map(Act::Get),
        8 => (0..20_000_u64).prop_map(Act::Wait),
    ];
    proptest::collection::vec(act, 0..60)
}

fn workshop(seed: u64) -> Bench {
    let mut bench = Bench::with_seed(seed);
    let weather = FakeChip::Weather(Box::new(Weather::bme280()));
    bench.chips.insert((1, 0x76), weather);
    let thermometer = FakeChip::Thermometer(Thermometer::tmp105(0x1990));
    bench.chips.insert((1, 0x48), thermometer);
    bench
        .files
        .insert("/proc/loadavg".to_owned(), "0.5 0 0 1/2 3".into());
    bench.plug(PATH);
    bench.ports.get_mut(PATH).expect("a port").answer = Some(ANSWER);

    bench.add("greenhouse", i2c(1, I2cChip::Bme280, 0x76), EVERY);
    bench.add("fine", i2c(1, I2cChip::Tmp105, 0x48), EVERY);
    let system = SystemSettings {
        temperature: None,
        disk: "/".into(),
    };
    bench.add("machine", Driver::System(system), EVERY);
    let point = |offset, kind| GpioPoint {
        line: LineRef::Offset(offset),
        active_low: false,
        bias: Bias::AsIs,
        kind,
    };
    let debounce = Duration::ZERO;
    let edges = Edges::Rising;
    let valve = OutputSettings {
        drive: Drive::PushPull,
        safe_state: SafeState::Inactive,
        on_start: OnStart::Safe,
        lease: Some(Duration::from_secs(20)),
    };
    let gpio = GpioSettings {
        chip: Chip::Header,
        points: BTreeMap::from([
            ("door".into(), point(4, GpioKind::Input { debounce })),
            (
                "volume".into(),
                point(
                    5,
                    GpioKind::Counter {
                        edges,
                        debounce,
                        persist: Persist::default(),
                    },
                ),
            ),
            ("valve".into(), point(6, GpioKind::Output(valve))),
        ]),
    };
    bench.add("box", Driver::Gpio(gpio), EVERY);
    let weight = LinesPoint {
        kind: TextKind::Number,
        read: true,
        command: None,
        booleans: ("0".into(), "1".into()),
    };
    let scale = LinesSettings {
        port_name: "scale".into(),
        port: PortSettings {
            path: PATH.into(),
            baud: 9600,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
        },
        pattern: Some("weight (?<weight>.*) kg".into()),
        poll: Some("?\n".into()),
        line_max: 80,
        points: BTreeMap::from([("weight".into(), weight)]),
    };
    bench.add("scale", Driver::Lines(scale), EVERY);
    bench
}

fn act(bench: &mut Bench, act: Act) {
    match act {
        Act::Bus(address, trouble) => {
            match trouble {
                Some(trouble) => bench.trouble.insert((1, address), trouble),
                None => bench.trouble.remove(&(1, address)),
            };
        }
        Act::PowerCut => {
            let thermometer = FakeChip::Thermometer(Thermometer::tmp105(0x1990));
            bench.chips.insert((1, 0x48), thermometer);
            if let Some(FakeChip::Weather(chip)) = bench.chips.get_mut(&(1, 0x76)) {
                chip.power_on();
            }
        }
        Act::Files(there) => {
            let path = "/proc/loadavg".to_owned();
            let text = if there { "0.5 0 0 1/2 3" } else { "?" };
            bench.files.insert(path, text.into());
        }
        Act::Lines(there) => {
            for offset in 4..7 {
                if there {
                    bench.lines.entry(offset).or_default().refused = None;
                } else {
                    bench.pull_line(offset);
                }
            }
        }
        Act::Broken(is_broken) => {
            bench.lines.entry(6).or_default().is_broken = is_broken;
        }
        Act::Plug(true) => bench.plug(PATH),
        Act::Plug(false) => bench.unplug(PATH),
        Act::Answer(answer) => bench.ports.get_mut(PATH).expect("a port").answer = answer,
        Act::Set(active, hold) => {
            let hold = hold.map(Duration::from_millis);
            // A line that has just been pulled is no longer there to be set.
            bench.run_millis(1);
            bench.set("box/valve", Value::Bool(active), hold);
        }
        Act::Get(which) => {
            bench.run_millis(1);
            bench.get(POINTS[which]);
        }
        Act::Wait(millis) => bench.run_millis(millis),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn everything_comes_back_when_its_trouble_is_over(seed: u64, acts in acts()) {
        let mut bench = workshop(seed);
        for step in acts {
            act(&mut bench, step);
            bench.run_millis(1);
        }
        bench.trouble.clear();
        for step in [
            Act::Files(true),
            Act::Lines(true),
            Act::Broken(false),
            Act::Plug(true),
            Act::Answer(Some(ANSWER)),
        ] {
            act(&mut bench, step);
        }
        // The longest back-off, and a cycle or two after it.
        let longest = BACKOFF_MAX.max(LINE_BACKOFF_MAX).max(PORT_BACKOFF_MAX);
        bench.run(longest + HOST_GRACE + EVERY * 3);
        for name in POINTS {
            let outcome = bench.last(name);
            prop_assert!(
                matches!(outcome, Outcome::Good(_)),
                "{name}: {}", text_of(&outcome)
            );
        }
        for name in ["greenhouse", "fine", "machine", "box", "scale"] {
            prop_assert_eq!(bench.online(name), Some(true), "{}", name);
        }
        // The lease has run out long ago: whatever was commanded, the valve is safe.
        prop_assert!(!bench.lines[&6].level);
        prop_assert_eq!(bench.last_text("box/valve"), "false");
        prop_assert_eq!(bench.last_text("fine/temperature"), "25.5625");
    }
}
