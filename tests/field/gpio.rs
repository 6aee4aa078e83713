//! Inputs, events, counters and outputs.

use std::collections::BTreeMap;

use fieldgate::field::line::{Bias, Chip, Direction, Drive, Edges, LineEvent, LineRef};
use fieldgate::field::settings::{
    Driver, GpioKind, GpioPoint, GpioSettings, OnStart, OutputSettings, Persist, SafeState,
};
use fieldgate::field::{LINE_BACKOFF_MAX, SETS_PENDING_MAX, STOP_ATTEMPTS_MAX};
use fieldgate::point::{Fault, FaultKind, Outcome, Value};
use fieldgate::time::{Duration, Instant};

use crate::bench::{Bench, Said, text_of};

const MINUTE: Duration = Duration::from_secs(60);

fn device(points: &[(&str, u32, GpioKind)]) -> Driver {
    let points: BTreeMap<Box<str>, GpioPoint> = points
        .iter()
        .map(|(name, offset, kind)| {
            let point = GpioPoint {
                line: LineRef::Offset(*offset),
                active_low: false,
                bias: Bias::PullUp,
                kind: kind.clone(),
            };
            ((*name).into(), point)
        })
        .collect();
    Driver::Gpio(GpioSettings {
        chip: Chip::Header,
        points,
    })
}

fn input() -> GpioKind {
    GpioKind::Input {
        debounce: Duration::from_millis(2),
    }
}

fn event(edges: Edges) -> GpioKind {
    GpioKind::Event {
        edges,
        debounce: Duration::ZERO,
    }
}

fn counter(edges: Edges) -> GpioKind {
    GpioKind::Counter {
        edges,
        debounce: Duration::ZERO,
        persist: Persist::default(),
    }
}

fn output(safe_state: SafeState) -> OutputSettings {
    OutputSettings {
        drive: Drive::PushPull,
        safe_state,
        on_start: OnStart::Safe,
        lease: None,
    }
}

/// A device `pump` with the point `running` on line 17.
fn pump(settings: OutputSettings) -> Bench {
    let mut bench = Bench::new();
    let driver = device(&[("running", 17, GpioKind::Output(settings))]);
    bench.add("pump", driver, Duration::from_secs(10));
    bench.run_millis(1);
    bench
}

fn on() -> Value {
    Value::Bool(true)
}

fn off() -> Value {
    Value::Bool(false)
}

fn one(name: &str, offset: u32, kind: GpioKind) -> Bench {
    let mut bench = Bench::new();
    bench.add(
        "box",
        device(&[(name, offset, kind)]),
        Duration::from_secs(10),
    );
    bench.run_millis(1);
    bench
}

// Inputs, events and counters.

#[test]
fn an_input_says_its_level_at_the_start_and_every_change_with_the_kernels_stamp() {
    let mut bench = one("door", 4, input());
    assert_eq!(bench.last_text("box/door"), "false");
    assert_eq!(bench.online("box"), Some(true));
    bench.run_secs(100);
    bench.edge(4, true);
    let at = bench.now;
    bench.run_secs(1);
    bench.edge(4, false);
    bench.run_secs(1);
    let readings = bench.readings("box/door");
    assert_eq!(readings.len(), 3, "silence is no reading");
    assert_eq!(readings[1].1, at);
    assert_eq!(text_of(&readings[1].2), "true");
    assert_eq!(text_of(&readings[2].2), "false");
}

#[test]
fn an_input_is_requested_with_both_edges_and_its_debounce() {
    let bench = one("door", 4, input());
    let settings = bench.lines[&4].settings.clone().expect("requested");
    assert_eq!(settings.bias, Bias::PullUp);
    let Direction::Input {
        edges, debounce, ..
    } = settings.direction
    else {
        panic!("no input");
    };
    assert_eq!((edges, debounce), (Edges::Both, Duration::from_millis(2)));
}

#[test]
fn a_stamp_later_than_now_is_kept() {
    let mut bench = one("door", 4, input());
    let at = bench.now + Duration::from_millis(3);
    let line = bench.lines[&4].owner.expect("ours");
    let now = bench.clocks();
    let edge = LineEvent::Edge {
        at,
        active: true,
        line_seqno: 1,
    };
    bench.field.handle_line(now, line, edge);
    bench.drain();
    assert_eq!(bench.readings("box/door").last().expect("a reading").1, at);
}

#[test]
fn lost_edges_are_told_counted_and_the_level_is_read_again() {
    let mut bench = one("door", 4, input());
    bench.edge(4, true);
    bench.run_millis(1);
    // Three edges overflow the kernel's buffer; the line ends where it was.
    bench.lines.get_mut(&4).expect("a line").seqno += 3;
    bench.edge(4, true);
    bench.run_millis(1);
    let texts: Vec<_> = bench.outcomes("box/door").iter().map(text_of).collect();
    assert_eq!(
        texts,
        [
            "false",
            "true",
            "true (edges_lost: gpio.header line 4: a gap in the kernel's count proves that edges \
             were lost)",
            "true"
        ]
    );
    assert_eq!(bench.stats("box").edges_lost, 3);
}

#[test]
fn two_equal_edges_prove_a_loss() {
    let mut bench = one("door", 4, input());
    bench.edge(4, true);
    bench.run_millis(1);
    bench.edge(4, true);
    bench.run_millis(1);
    let stats = bench.stats("box");
    assert_eq!(stats.edges_lost, 1);
    assert_eq!(stats.faults.of(FaultKind::EdgesLost), 1);
    assert_eq!(bench.last_text("box/door"), "true");
}

#[test]
fn every_wanted_edge_is_an_event_and_no_other() {
    let mut bench = one("bell", 4, event(Edges::Rising));
    assert!(
        bench.outcomes("box/bell").is_empty(),
        "nothing has happened"
    );
    for _ in 0..3 {
        bench.edge(4, true);
        bench.run_millis(100);
    }
    assert_eq!(bench.outcomes("box/bell").len(), 3);
    bench.get("box/bell");
    bench.run_secs(1);
    assert_eq!(bench.outcomes("box/bell").len(), 3, "asking makes no event");
}

#[test]
fn no_pulse_of_a_meter_is_missed_even_if_the_kernels_buffer_overflows() {
    let mut bench = one("volume", 4, counter(Edges::Rising));
    for _ in 0..1000 {
        bench.edge(4, true);
    }
    bench.run_secs(15);
    assert_eq!(bench.last_text("box/volume"), "1000");
    // 500 pulses come while nobody reads: only the last few reach us, the count tells of the rest.
    bench.lines.get_mut(&4).expect("a line").seqno += 490;
    for _ in 0..10 {
        bench.edge(4, true);
    }
    bench.run_millis(1);
    let Outcome::Uncertain(Value::Uint(1491), fault) = bench.last("box/volume") else {
        panic!("{:?}", bench.last("box/volume"));
    };
    assert_eq!(fault.kind, FaultKind::EdgesLost);
    bench.run_secs(10);
    assert_eq!(bench.last_text("box/volume"), "1500");
    assert_eq!(bench.stats("box").edges_lost, 490);
}

#[test]
fn a_total_is_kept_after_so_many_pulses_after_a_time_and_when_the_device_goes() {
    let mut bench = one("volume", 4, counter(Edges::Rising));
    for _ in 0..250 {
        bench.edge(4, true);
    }
    bench.run_millis(1);
    assert_eq!(bench.totals("box/volume"), [100, 200]);
    // The others in time, and nothing again while nothing is counted.
    bench.run_secs(600);
    assert_eq!(bench.totals("box/volume"), [100, 200, 250]);
    bench.edge(4, true);
    bench.run_millis(1);
    bench.stop();
    assert_eq!(bench.totals("box/volume"), [100, 200, 250, 251]);
}

#[test]
fn a_counter_goes_on_from_what_was_kept() {
    let mut bench = one("volume", 4, counter(Edges::Rising));
    bench.restore_total("box/volume", 5000);
    bench.edge(4, true);
    bench.run_secs(15);
    assert_eq!(bench.last_text("box/volume"), "5001");
    // What it has counted further by itself stays.
    bench.restore_total("box/volume", 5000);
    bench.run_secs(15);
    assert_eq!(bench.last_text("box/volume"), "5001");
    bench.run_secs(60);
    assert_eq!(bench.totals("box/volume"), [5001]);
}

#[test]
fn an_edge_delivered_twice_counts_once() {
    let mut bench = one("volume", 4, counter(Edges::Rising));
    let line = bench.lines[&4].owner.expect("ours");
    let now = bench.clocks();
    for line_seqno in [1, 1, 2, 1, 2] {
        let edge = LineEvent::Edge {
            at: bench.now,
            active: true,
            line_seqno,
        };
        bench.field.handle_line(now, line, edge);
    }
    bench.run_secs(15);
    assert_eq!(bench.last_text("box/volume"), "2");
    assert_eq!(bench.stats("box").edges_repeated, 3);
}

#[test]
fn a_counter_is_published_at_its_interval_and_whenever_asked() {
    let mut bench = one("volume", 4, counter(Edges::Falling));
    bench.run_secs(100);
    let count = bench.outcomes("box/volume").len();
    assert!((10..=11).contains(&count), "{count}");
    bench.edge(4, false);
    bench.get("box/volume");
    bench.run_millis(1);
    bench.get("box/volume");
    assert_eq!(bench.last_text("box/volume"), "1");
}

#[test]
fn a_line_that_another_program_holds_is_a_fault_and_is_tried_again() {
    let mut bench = Bench::new();
    let busy = Fault::new(
        FaultKind::BusError,
        "gpio.header line 4 is held by \"spi0 CS0\"",
    );
    bench.lines.entry(4).or_default().refused = Some(busy);
    let driver = device(&[("door", 4, input()), ("window", 5, input())]);
    bench.add("box", driver, Duration::from_secs(10));
    bench.run_secs(300);
    assert_eq!(
        bench.last_text("box/window"),
        "false",
        "its neighbour works"
    );
    assert_eq!(bench.online("box"), Some(true));
    assert_eq!(bench.outcomes("box/door").len(), 1, "told once");
    let requests = bench.lines[&4].requests;
    assert!((8..40).contains(&requests), "{requests}");
    bench.lines.get_mut(&4).expect("a line").refused = None;
    bench.run(LINE_BACKOFF_MAX);
    assert_eq!(bench.last_text("box/door"), "false");
}

#[test]
fn a_chip_that_is_unplugged_takes_its_device_offline_until_it_is_back() {
    let mut bench = Bench::new();
    let driver = device(&[
        ("bell", 3, event(Edges::Both)),
        ("door", 4, input()),
        ("volume", 5, counter(Edges::Rising)),
        ("valve", 6, GpioKind::Output(output(SafeState::Inactive))),
    ]);
    bench.add("box", driver, Duration::from_secs(10));
    bench.run_secs(15);
    for offset in 3..7 {
        bench.pull_line(offset);
    }
    bench.run_millis(1);
    assert_eq!(bench.online("box"), Some(false));
    for point in ["bell", "door", "volume", "valve"] {
        let name = format!("box/{point}");
        assert_eq!(bench.last_text(&name), "unplugged: the gpio chip is gone");
    }
    let answer = bench.set_and_wait("box/valve", on());
    assert_eq!(
        answer.map_err(|fault| fault.kind),
        Err(FaultKind::Unplugged)
    );
    bench.forget();
    for line in bench.lines.values_mut() {
        line.refused = None;
    }
    bench.run(LINE_BACKOFF_MAX + Duration::from_secs(10));
    assert_eq!(bench.online("box"), Some(true));
    assert_eq!(bench.last_text("box/door"), "false");
    assert_eq!(bench.last_text("box/valve"), "false");
    // An event has no value to show, but its fault is over.
    assert!(
        bench
            .said
            .iter()
            .any(|(_, said)| *said == Said::Recovered("box/bell".into()))
    );
    assert!(matches!(
        bench.outcomes("box/volume")[0],
        Outcome::Uncertain(..)
    ));
}

/// A host may learn that a chip is gone only from the line that it uses next.
#[test]
fn a_chip_that_is_gone_is_gone_for_all_its_lines_and_comes_back_for_all() {
    let gone = Fault::new(FaultKind::Unplugged, "setting the line: no such device");
    let new = || {
        let mut bench = Bench::new();
        let driver = device(&[
            ("door", 4, input()),
            ("valve", 6, GpioKind::Output(output(SafeState::Inactive))),
            ("volume", 5, counter(Edges::Rising)),
        ]);
        bench.add("box", driver, Duration::from_secs(10));
        bench.run_secs(15);
        for line in bench.lines.values_mut() {
            line.refused = Some(gone.clone());
        }
        bench
    };
    let by_command = |bench: &mut Bench| {
        let answer = bench.set_and_wait("box/valve", on());
        assert_eq!(answer, Err(gone.clone()));
    };
    let by_host = |bench: &mut Bench| bench.pull_line(4);
    for learn in [&by_command as &dyn Fn(&mut Bench), &by_host] {
        let mut bench = new();
        learn(&mut bench);
        bench.run_millis(1);
        assert_eq!(bench.online("box"), Some(false));
        for point in ["door", "valve", "volume"] {
            let text = bench.last_text(&format!("box/{point}"));
            assert!(text.starts_with("unplugged"), "{point}: {text}");
        }
        let requests = bench.lines[&6].requests;
        for line in bench.lines.values_mut() {
            line.refused = None;
        }
        bench.run(LINE_BACKOFF_MAX + Duration::from_secs(10));
        assert_eq!(bench.online("box"), Some(true));
        assert!(bench.lines[&6].requests > requests, "requested anew");
        assert_eq!(bench.set_and_wait("box/valve", on()), Ok(on()));
    }
}

// Outputs.

#[test]
fn an_output_has_its_safe_state_from_the_first_moment() {
    for (safe_state, expected) in [
        (SafeState::Inactive, vec![(0, false)]),
        (SafeState::Active, vec![(0, true)]),
        (SafeState::Keep, vec![]),
    ] {
        let bench = pump(output(safe_state));
        let start = Instant::from_nanos(1_000_000_000);
        assert_eq!(bench.driven(17, start), expected);
    }
}

#[test]
fn an_output_that_is_to_be_kept_is_left_as_the_kernel_has_it() {
    let mut bench = Bench::new();
    bench.lines.entry(17).or_default().level = true;
    let settings = OutputSettings {
        on_start: OnStart::Keep,
        ..output(SafeState::Inactive)
    };
    let driver = device(&[("running", 17, GpioKind::Output(settings))]);
    bench.add("pump", driver, Duration::from_secs(10));
    bench.run_millis(1);
    assert_eq!(bench.last_text("pump/running"), "true");
    assert!(bench.lines[&17].driven.is_empty());
}

#[test]
fn a_command_is_answered_with_what_the_line_now_is() {
    let mut bench = pump(output(SafeState::Inactive));
    assert_eq!(bench.set_and_wait("pump/running", on()), Ok(on()));
    assert_eq!(bench.last_text("pump/running"), "true");
    assert_eq!(bench.set_and_wait("pump/running", Value::Int(0)), Ok(off()));
    assert_eq!(bench.last_text("pump/running"), "false");
    for bad in [Value::Int(2), Value::Float(1.0), Value::Text("on".into())] {
        let answer = bench.set_and_wait("pump/running", bad);
        assert_eq!(answer.map_err(|fault| fault.kind), Err(FaultKind::BadValue));
    }
}

#[test]
fn a_pulse_is_exact_and_returns_to_what_was() {
    let mut bench = pump(output(SafeState::Inactive));
    bench.run_secs(5);
    let start = bench.now;
    let request = bench.set("pump/running", on(), Some(Duration::from_millis(100)));
    bench.run_secs(10);
    assert_eq!(bench.driven(17, start), [(0, true), (100, false)]);
    assert_eq!(bench.answer(request), Ok(on()));
    let texts: Vec<_> = bench.outcomes("pump/running").iter().map(text_of).collect();
    assert_eq!(texts, ["false", "true", "false"]);

    // On an output that is on, a pulse of off returns to on.
    bench.set_and_wait("pump/running", on()).expect("obeyed");
    let start = bench.now;
    bench.set("pump/running", off(), Some(Duration::from_millis(250)));
    bench.run_secs(1);
    assert_eq!(bench.driven(17, start), [(0, false), (250, true)]);
}

#[test]
fn a_new_command_supersedes_a_pulse() {
    let mut bench = pump(output(SafeState::Inactive));
    bench.run_secs(5);
    let start = bench.now;
    bench.set("pump/running", on(), Some(Duration::from_millis(500)));
    bench.run_millis(200);
    bench.set("pump/running", on(), None);
    bench.run_secs(5);
    assert_eq!(
        bench.driven(17, start),
        [(0, true), (200, true)],
        "no end of the pulse"
    );

    // A pulse within a pulse returns to what was before both.
    bench.set("pump/running", off(), None);
    bench.run_secs(5);
    let start = bench.now;
    bench.set("pump/running", on(), Some(Duration::from_secs(10)));
    bench.run_secs(1);
    bench.set("pump/running", on(), Some(Duration::from_secs(2)));
    bench.run_secs(60);
    assert_eq!(
        bench.driven(17, start),
        [(0, true), (1000, true), (3000, false)]
    );
}

#[test]
fn a_pulse_of_nothing_and_a_pulse_for_ever_harm_nobody() {
    let mut bench = pump(output(SafeState::Inactive));
    let request = bench.set("pump/running", on(), Some(Duration::ZERO));
    assert_eq!(
        bench.answer(request).map_err(|fault| fault.kind),
        Err(FaultKind::BadValue)
    );
    bench.set("pump/running", on(), Some(Duration::MAX));
    bench.run_secs(1_000_000);
    assert_eq!(bench.last_text("pump/running"), "true");
}

#[test]
fn a_lease_that_nobody_renews_ends_in_the_safe_state() {
    let mut bench = pump(OutputSettings {
        lease: Some(MINUTE),
        ..output(SafeState::Inactive)
    });
    let start = bench.now;
    for _ in 0..3 {
        bench.set("pump/running", on(), None);
        bench.run_secs(50);
    }
    assert_eq!(bench.last_text("pump/running"), "true");
    bench.run_secs(20);
    assert_eq!(bench.last_text("pump/running"), "false");
    assert_eq!(bench.driven(17, start).last(), Some(&(160_000, false)));
    assert_eq!(bench.stats("pump").leases_expired, 1);
    bench.forget();
    bench.run_secs(1000);
    assert_eq!(bench.wakes, 0, "a lease that has run out wakes nobody");
}

#[test]
fn a_lease_also_bounds_what_was_found_at_the_start_and_what_does_not_obey_at_first() {
    let mut bench = Bench::new();
    bench.lines.entry(17).or_default().level = true;
    let settings = OutputSettings {
        on_start: OnStart::Keep,
        lease: Some(MINUTE),
        ..output(SafeState::Inactive)
    };
    let driver = device(&[("running", 17, GpioKind::Output(settings))]);
    bench.add("pump", driver, Duration::from_secs(10));
    bench.run_secs(59);
    bench.lines.get_mut(&17).expect("a line").is_broken = true;
    bench.run_secs(30);
    assert!(bench.lines[&17].level);
    assert_eq!(
        bench.last_text("pump/running"),
        "bus_error: the line does not obey"
    );
    bench.lines.get_mut(&17).expect("a line").is_broken = false;
    bench.run_secs(6);
    assert!(!bench.lines[&17].level);
    assert_eq!(bench.last_text("pump/running"), "false");
}

#[test]
fn a_lease_bounds_a_pulse_too() {
    let mut bench = pump(OutputSettings {
        lease: Some(MINUTE),
        ..output(SafeState::Inactive)
    });
    let start = bench.now;
    bench.set("pump/running", on(), Some(Duration::from_secs(3600)));
    bench.run_secs(4000);
    assert_eq!(bench.driven(17, start), [(0, true), (60_000, false)]);
}

#[test]
fn a_line_that_does_not_obey_is_a_fault_and_the_command_is_not_obeyed_late() {
    let mut bench = pump(output(SafeState::Inactive));
    bench.lines.get_mut(&17).expect("a line").is_broken = true;
    let answer = bench.set_and_wait("pump/running", on());
    assert_eq!(answer.map_err(|fault| fault.kind), Err(FaultKind::BusError));
    assert_eq!(
        bench.last_text("pump/running"),
        "bus_error: the line does not obey"
    );
    let start = bench.now;
    bench.lines.get_mut(&17).expect("a line").is_broken = false;
    bench.run_secs(60);
    let driven = bench.driven(17, start);
    assert_eq!(driven.len(), 1, "once more to what it was, until it obeys");
    assert!(!driven[0].1);
    assert_eq!(
        bench.last_text("pump/running"),
        "false",
        "the fault is over"
    );
}

#[test]
fn a_pulse_ends_even_if_the_line_does_not_obey_at_first() {
    let mut bench = pump(output(SafeState::Inactive));
    let start = bench.now;
    bench.set("pump/running", on(), Some(Duration::from_millis(100)));
    bench.run_millis(50);
    bench.lines.get_mut(&17).expect("a line").is_broken = true;
    bench.run_secs(2);
    bench.lines.get_mut(&17).expect("a line").is_broken = false;
    bench.run_secs(6);
    let driven = bench.driven(17, start);
    assert_eq!(driven.len(), 2);
    assert!(!driven[1].1);
    assert_eq!(bench.last_text("pump/running"), "false");
}

#[test]
fn a_failed_command_that_ended_a_pulse_leaves_what_was_before_the_pulse() {
    let mut bench = pump(output(SafeState::Inactive));
    bench.set("pump/running", on(), Some(Duration::from_secs(10)));
    bench.run_secs(1);
    bench.lines.get_mut(&17).expect("a line").is_broken = true;
    assert!(bench.set_and_wait("pump/running", on()).is_err());
    bench.lines.get_mut(&17).expect("a line").is_broken = false;
    bench.run_secs(5);
    assert!(
        !bench.lines[&17].level,
        "off again, although the pulse's own end is void"
    );
}

#[test]
fn too_many_commands_at_once_are_refused_and_counted() {
    let mut bench = pump(output(SafeState::Inactive));
    let requests: Vec<_> = (0..SETS_PENDING_MAX + 4)
        .map(|index| bench.set("pump/running", Value::Bool(index % 2 == 0), None))
        .collect();
    bench.run_secs(1);
    let busy = requests
        .iter()
        .filter(|request| {
            bench
                .answer(**request)
                .is_err_and(|fault| fault.kind == FaultKind::Busy)
        })
        .count();
    assert_eq!(busy, 4);
    assert_eq!(bench.stats("pump").queue_full, 4);
}

#[test]
fn an_output_answers_a_wish_with_its_level() {
    let mut bench = pump(output(SafeState::Inactive));
    bench.forget();
    bench.get("pump/running");
    bench.get("pump/running");
    bench.run_millis(1);
    assert_eq!(bench.outcomes("pump/running").len(), 1);
    assert_eq!(bench.last_text("pump/running"), "false");
}

// Stopping, and going.

#[test]
fn at_a_clean_stop_every_output_goes_to_its_safe_state() {
    let mut bench = Bench::new();
    let driver = device(&[
        ("heater", 1, GpioKind::Output(output(SafeState::Inactive))),
        ("brake", 2, GpioKind::Output(output(SafeState::Active))),
        ("lamp", 3, GpioKind::Output(output(SafeState::Keep))),
        ("door", 4, input()),
    ]);
    bench.add("box", driver, Duration::from_secs(10));
    bench.run_millis(1);
    bench.set("box/heater", on(), None);
    bench.set("box/brake", off(), None);
    bench.set("box/lamp", on(), Some(MINUTE));
    bench.run_secs(1);
    assert!(!bench.field.is_stopped());
    bench.stop();
    assert!(!bench.field.is_stopped(), "they have not answered yet");
    bench.run_millis(1);
    assert!(bench.field.is_stopped());
    assert!(!bench.lines[&1].level);
    assert!(bench.lines[&2].level);
    assert!(!bench.lines[&3].level, "a pulse ends, whatever is kept");
    let answer = bench.set_and_wait("box/heater", on());
    assert_eq!(answer.map_err(|fault| fault.kind), Err(FaultKind::Stopping));
    bench.run_secs(3600);
    assert!(!bench.lines[&1].level);
    assert_eq!(bench.field.poll_timeout(), None, "nothing is left to do");
}

#[test]
fn a_stop_before_the_line_is_ours_still_makes_it_safe() {
    let mut bench = Bench::new();
    bench.lines.entry(17).or_default().level = true;
    let settings = OutputSettings {
        on_start: OnStart::Keep,
        ..output(SafeState::Inactive)
    };
    let driver = device(&[("running", 17, GpioKind::Output(settings))]);
    bench.add("pump", driver, Duration::from_secs(10));
    bench.stop();
    assert!(!bench.field.is_stopped());
    bench.run_secs(1);
    assert!(bench.field.is_stopped());
    assert!(!bench.lines[&17].level);
}

#[test]
fn a_stop_does_not_wait_for_a_line_that_never_obeys() {
    let mut bench = pump(output(SafeState::Inactive));
    bench.set_and_wait("pump/running", on()).expect("obeyed");
    bench.lines.get_mut(&17).expect("a line").is_broken = true;
    bench.stop();
    bench.run_secs(3);
    assert!(
        bench.field.is_stopped(),
        "after {STOP_ATTEMPTS_MAX} attempts"
    );
}

#[test]
fn a_removed_output_is_made_safe_before_its_line_is_given_back() {
    let mut bench = pump(output(SafeState::Inactive));
    bench.set_and_wait("pump/running", on()).expect("obeyed");
    let request = bench.set("pump/running", on(), None);
    bench.remove("pump");
    bench.drain();
    assert!(!bench.lines[&17].level);
    assert_eq!(bench.lines[&17].owner, None);
    assert_eq!(
        bench.answer(request).map_err(|fault| fault.kind),
        Err(FaultKind::Stopping)
    );
    // The line can be requested again in the same turn.
    let driver = device(&[("running", 17, GpioKind::Output(output(SafeState::Inactive)))]);
    bench.add("again", driver, Duration::from_secs(10));
    bench.run_millis(1);
    assert_eq!(bench.set_and_wait("again/running", on()), Ok(on()));
}
