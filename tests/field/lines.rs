//! Text lines on serial ports.

use std::collections::BTreeMap;

use fieldgate::field::port::{Parity, PortSettings};
use fieldgate::field::settings::{Driver, LinesPoint, LinesSettings, TextKind};
use fieldgate::field::{PORT_BACKOFF_MAX, UNCLAIMED_LINES_MAX};
use fieldgate::point::{FaultKind, Outcome, Value};
use fieldgate::time::Duration;

use crate::bench::{Bench, Said, text_of};

const PATH: &str = "/dev/serial/by-id/scale";
const EVERY: Duration = Duration::from_secs(10);

fn read(kind: TextKind) -> LinesPoint {
    LinesPoint {
        kind,
        read: true,
        command: None,
        booleans: ("CLOSED".into(), "OPEN".into()),
    }
}

fn told(kind: TextKind, command: &str) -> LinesPoint {
    LinesPoint {
        read: false,
        command: Some(command.into()),
        ..read(kind)
    }
}

fn settings(pattern: Option<&str>, points: &[(&str, LinesPoint)]) -> LinesSettings {
    let points: BTreeMap<Box<str>, LinesPoint> = points
        .iter()
        .map(|(name, point)| ((*name).into(), point.clone()))
        .collect();
    LinesSettings {
        port_name: "scale".into(),
        port: PortSettings {
            path: PATH.into(),
            baud: 9600,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
        },
        pattern: pattern.map(Into::into),
        poll: None,
        line_max: 80,
        points,
    }
}

const WEIGHT: &str = r"ST,GS,\s*(?<weight>[-+0-9.a-z ]+)\s*kg";

fn scale_settings() -> LinesSettings {
    settings(Some(WEIGHT), &[("weight", read(TextKind::Number))])
}

fn bench_with(settings: LinesSettings) -> Bench {
    let mut bench = Bench::new();
    bench.plug(PATH);
    bench.add("scale", Driver::Lines(settings), EVERY);
    bench.run_secs(1);
    bench
}

#[test]
fn a_scale_is_read_however_its_lines_arrive() {
    let mut bench = bench_with(scale_settings());
    bench.receive(PATH, "ST,GS,  14");
    bench.receive(PATH, ".25 kg\r");
    assert_eq!(bench.last_text("scale/weight"), "14.25");
    bench.receive(PATH, "\nST,GS,+  1 kg\r\nST,GS, -2.5kg\r\n");
    let texts: Vec<_> = bench.outcomes("scale/weight").iter().map(text_of).collect();
    assert_eq!(texts, ["14.25", "1", "-2.5"]);
    assert_eq!(bench.online("scale"), Some(true));
}

#[test]
fn half_a_line_is_never_a_value() {
    let mut bench = Bench::new();
    bench.plug(PATH);
    let loose = settings(
        Some(r"(?<weight>[0-9.]+) kg"),
        &[("weight", read(TextKind::Number))],
    );
    bench.add("scale", Driver::Lines(loose), EVERY);
    bench.run_millis(3);
    bench.receive(PATH, "4.2 kg\n");
    assert!(bench.outcomes("scale/weight").is_empty());
    bench.receive(PATH, "14.2 kg\n");
    assert_eq!(bench.last_text("scale/weight"), "14.2");
    let stats = bench.field.stats();
    assert_eq!(stats.port("serial.scale").expect("a port").lines_partial, 1);
}

#[test]
fn a_port_that_is_unplugged_is_a_fault_and_is_read_again_when_it_is_back() {
    let mut bench = bench_with(scale_settings());
    bench.receive(PATH, "ST,GS, 14.25 kg\nST,GS, 1");
    bench.unplug(PATH);
    bench.run_millis(1);
    assert_eq!(
        bench.last_text("scale/weight"),
        format!("unplugged: {PATH} was unplugged")
    );
    assert_eq!(bench.online("scale"), Some(false));
    bench.run_secs(600);
    assert!(bench.ports[PATH].opens < 40, "with a back-off");
    bench.plug(PATH);
    bench.run(PORT_BACKOFF_MAX);
    bench.run_secs(1);
    // What was left of a line before does not mix with what comes now.
    bench.receive(PATH, "ST,GS, 7.5 kg\n");
    assert_eq!(bench.last_text("scale/weight"), "7.5");
    assert_eq!(bench.online("scale"), Some(true));
}

#[test]
fn a_number_that_is_none_is_a_fault_on_that_point() {
    let mut bench = bench_with(scale_settings());
    for (text, expected) in [
        ("ST,GS, nan kg", "bad_answer: \"nan \" is no number"),
        ("ST,GS, inf kg", "bad_answer: \"inf \" is no number"),
        ("ST,GS, 1.2.3 kg", "bad_answer: \"1.2.3 \" is no number"),
        ("ST,GS, 3 kg", "3"),
    ] {
        bench.receive(PATH, format!("{text}\n"));
        assert_eq!(bench.last_text("scale/weight"), expected);
    }
}

#[test]
fn only_groups_that_took_part_are_readings() {
    let settings = settings(
        Some(r"^(?:level=(?<level>\S+)|valve=(?<valve>\S+))"),
        &[
            ("level", read(TextKind::Number)),
            ("valve", read(TextKind::Bool)),
        ],
    );
    let mut bench = bench_with(settings);
    bench.receive(PATH, "level=3\n");
    assert!(bench.outcomes("scale/valve").is_empty());
    bench.receive(PATH, "valve=open\n");
    assert_eq!(bench.outcomes("scale/level").len(), 1);
    assert_eq!(bench.last_text("scale/valve"), "true");
    bench.receive(PATH, "valve=ajar\n");
    assert_eq!(
        bench.last_text("scale/valve"),
        "bad_answer: \"ajar\" is neither \"CLOSED\" nor \"OPEN\""
    );
}

#[test]
fn lines_that_are_too_long_wrong_or_no_text_are_counted_and_the_next_one_is_read() {
    let mut bench = bench_with(scale_settings());
    bench.receive(PATH, vec![b'x'; 10_000]);
    bench.receive(PATH, "\nhello\n");
    bench.receive(PATH, b"\xFF\xFE\x00 ST,GS, 3 kg\n".as_slice());
    assert_eq!(bench.last_text("scale/weight"), "3");
    let stats = bench.field.stats();
    let port = stats.port("serial.scale").expect("a port");
    assert_eq!(port.lines_too_long, 1);
    assert_eq!(port.lines_not_utf8, 1);
    assert_eq!(port.lines_unclaimed, 1);
    assert_eq!(bench.stats("scale").lines_unmatched, 1);
}

#[test]
fn a_wrong_speed_is_noticed() {
    let mut bench = bench_with(scale_settings());
    for _ in 0..UNCLAIMED_LINES_MAX {
        assert!(bench.outcomes("scale/weight").is_empty());
        bench.receive(PATH, b"\x80\xF1\x07\n".as_slice());
    }
    assert_eq!(
        bench.last_text("scale/weight"),
        "bad_answer: 8 lines in a row on serial.scale match no pattern: is the speed right?"
    );
    bench.receive(PATH, "ST,GS, 3 kg\n");
    assert_eq!(bench.last_text("scale/weight"), "3");
}

#[test]
fn two_devices_share_a_port() {
    let mut bench = bench_with(scale_settings());
    let other = LinesSettings {
        line_max: 10,
        ..settings(Some("T=(?<t>.*)"), &[("t", read(TextKind::Number))])
    };
    bench.add("thermo", Driver::Lines(other), EVERY);
    assert_eq!(bench.ports[PATH].opens, 1);
    for _ in 0..20 {
        bench.receive(PATH, "T=21.5\nST,GS, 3 kg\n");
    }
    assert_eq!(bench.last_text("thermo/t"), "21.5");
    assert_eq!(bench.last_text("scale/weight"), "3");
    bench.receive(PATH, "T=12345678901\n");
    assert_eq!(bench.last_text("thermo/t"), "21.5", "too long for this one");
    bench.remove("scale");
    bench.drain();
    assert!(bench.ports[PATH].open.is_some());
    bench.remove("thermo");
    bench.drain();
    assert!(bench.ports[PATH].open.is_none());
}

#[test]
fn devices_of_one_port_are_not_polled_at_once() {
    let mut bench = Bench::new();
    bench.plug(PATH);
    let poll = |text: &str| LinesSettings {
        poll: Some(text.into()),
        ..scale_settings()
    };
    bench.add("first", Driver::Lines(poll("1?\n")), EVERY);
    bench.add("second", Driver::Lines(poll("2?\n")), EVERY);
    bench.run_secs(100);
    // The first ones come as soon as they can.
    let polls = &bench.ports[PATH].sent[2..];
    assert!(polls.len() >= 18, "{polls:?}");
    for pair in polls.windows(2) {
        assert!(
            pair[1].0.since(pair[0].0) > Duration::from_millis(100),
            "{polls:?}"
        );
    }
}

#[test]
fn a_command_is_the_template_with_the_value_in_it() {
    let settings = settings(
        None,
        &[
            ("level", told(TextKind::Number, "LEVEL {value}\r\n")),
            ("valve", told(TextKind::Bool, "VALVE {value}\n")),
        ],
    );
    let mut bench = bench_with(settings);
    assert_eq!(bench.online("scale"), Some(true), "it never says anything");
    let answer = bench.set_and_wait("scale/level", Value::Float(12.5));
    assert_eq!(answer, Ok(Value::Float(12.5)));
    bench
        .set_and_wait("scale/valve", Value::Bool(true))
        .expect("sent");
    let sent: Vec<_> = bench.ports[PATH]
        .sent
        .iter()
        .map(|(_, text)| text.as_str())
        .collect();
    assert_eq!(sent, ["LEVEL 12.5\r\n", "VALVE OPEN\n"]);
    let answer = bench.set_and_wait("scale/level", Value::Text("1\r\nVALVE OPEN".into()));
    assert_eq!(answer.map_err(|fault| fault.kind), Err(FaultKind::BadValue));
    bench.unplug(PATH);
    bench.run_millis(1);
    let answer = bench.set_and_wait("scale/level", Value::Float(1.0));
    assert_eq!(
        answer.map_err(|fault| fault.kind),
        Err(FaultKind::Unplugged)
    );
    bench.plug(PATH);
    bench.forget();
    bench.run_secs(2);
    assert!(
        bench
            .said
            .contains(&(bench.said[0].0, Said::Recovered("scale/valve".into())))
    );
}

#[test]
fn a_pulse_on_a_device_of_words_returns_and_survives_an_unplugged_port() {
    let settings = settings(None, &[("valve", told(TextKind::Bool, "{value}\n"))]);
    let mut bench = bench_with(settings);
    let start = bench.now;
    bench.set(
        "scale/valve",
        Value::Bool(true),
        Some(Duration::from_millis(300)),
    );
    bench.run_millis(100);
    bench.set(
        "scale/valve",
        Value::Bool(true),
        Some(Duration::from_millis(300)),
    );
    bench.run_secs(1);
    let sent = |bench: &Bench| -> Vec<(u64, String)> {
        let of = |(at, text): &(fieldgate::time::Instant, String)| {
            (at.since(start).as_millis() as u64, text.clone())
        };
        bench.ports[PATH].sent.iter().map(of).collect()
    };
    assert_eq!(
        sent(&bench),
        [
            (0, "OPEN\n".to_owned()),
            (100, "OPEN\n".to_owned()),
            (400, "CLOSED\n".to_owned())
        ]
    );
    bench.set(
        "scale/valve",
        Value::Bool(true),
        Some(Duration::from_millis(300)),
    );
    bench.run_millis(100);
    bench.unplug(PATH);
    bench.run_secs(5);
    bench.plug(PATH);
    bench.run(PORT_BACKOFF_MAX);
    assert_eq!(
        sent(&bench).last().map(|(_, text)| text.clone()).as_deref(),
        Some("CLOSED\n")
    );
    // And a stop ends what is passing.
    bench.set(
        "scale/valve",
        Value::Bool(true),
        Some(Duration::from_secs(60)),
    );
    bench.stop();
    assert_eq!(
        sent(&bench).last().map(|(_, text)| text.clone()).as_deref(),
        Some("CLOSED\n")
    );
    assert!(bench.field.is_stopped());
}

fn polled() -> LinesSettings {
    LinesSettings {
        poll: Some("READ\r\n".into()),
        ..scale_settings()
    }
}

#[test]
fn a_polled_device_is_asked_at_its_interval_and_whenever_somebody_asks() {
    let mut bench = Bench::new();
    bench.plug(PATH);
    bench.ports.get_mut(PATH).expect("a port").answer = Some("ST,GS, 3 kg\r\n");
    bench.add("scale", Driver::Lines(polled()), EVERY);
    bench.run_secs(100);
    let polls = bench.ports[PATH].sent.len();
    assert!((10..=11).contains(&polls), "{polls}");
    assert_eq!(bench.outcomes("scale/weight").len(), polls);
    for _ in 0..20 {
        bench.get("scale/weight");
    }
    bench.run_millis(50);
    assert_eq!(
        bench.ports[PATH].sent.len(),
        polls + 1,
        "one poll answers them all"
    );
}

#[test]
fn a_polled_device_that_does_not_answer_is_a_fault_and_comes_back() {
    let mut bench = bench_with(polled());
    bench.run_secs(60);
    assert_eq!(
        bench.last_text("scale/weight"),
        "no_answer: nothing answers the poll on serial.scale"
    );
    assert_eq!(bench.outcomes("scale/weight").len(), 1);
    assert_eq!(bench.online("scale"), Some(false));
    bench.ports.get_mut(PATH).expect("a port").answer = Some("ST,GS, 3 kg\r\n");
    bench.run(EVERY + EVERY);
    assert_eq!(bench.last_text("scale/weight"), "3");
    assert_eq!(bench.online("scale"), Some(true));
}

#[test]
fn a_polled_device_that_answers_nonsense_is_told_apart_from_a_silent_one() {
    let mut bench = bench_with(polled());
    bench.ports.get_mut(PATH).expect("a port").answer = Some("ERR 7\r\n");
    bench.run_secs(60);
    assert_eq!(
        bench.last_text("scale/weight"),
        "bad_answer: what serial.scale answers to the poll matches no pattern"
    );
}

#[test]
fn a_wish_on_a_closed_port_is_answered_with_the_fault_each_time() {
    let mut bench = bench_with(scale_settings());
    bench.unplug(PATH);
    bench.run_millis(1);
    bench.forget();
    for _ in 0..3 {
        bench.get("scale/weight");
    }
    assert_eq!(bench.outcomes("scale/weight").len(), 3);
}

#[test]
fn a_port_that_is_not_there_at_the_start_is_opened_when_it_comes() {
    let mut bench = Bench::new();
    bench.add("scale", Driver::Lines(scale_settings()), EVERY);
    bench.run_secs(10);
    assert!(matches!(bench.last("scale/weight"), Outcome::Fault(_)));
    bench.plug(PATH);
    bench.run(PORT_BACKOFF_MAX);
    bench.run_secs(1);
    bench.receive(PATH, "ST,GS, 3 kg\n");
    assert_eq!(bench.last_text("scale/weight"), "3");
}

#[test]
fn a_pattern_that_cannot_be_understood_is_a_fault_not_a_panic() {
    let mut bench = bench_with(settings(Some("(?<a"), &[("a", read(TextKind::Text))]));
    assert!(
        bench
            .last_text("scale/a")
            .starts_with("refused: the pattern")
    );
    bench.receive(PATH, "x\n");
}
