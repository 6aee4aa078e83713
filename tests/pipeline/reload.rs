//! Points that come, change and go while the gateway runs.

use fieldgate::pipeline::settings::{PayloadFormat, PointSettings};
use fieldgate::point::{FaultKind, Value};

use crate::support::{Bench, button, ms, pairs, point, pump, temperature};

fn update(bench: &mut Bench, slot: u32, settings: PointSettings) {
    bench
        .pipeline
        .update_point(bench.now, point(slot), settings);
    bench.drain();
}

#[test]
fn what_was_published_of_a_point_is_cleared_when_it_goes() {
    let mut bench = Bench::with(pump());
    bench.good(Value::Bool(true));
    bench.fault(FaultKind::Unplugged, "gone");
    bench.set("on");
    assert_eq!(bench.retained.len(), 3);
    bench.take();
    bench.pipeline.remove_point(bench.now, point(0));
    bench.drain();
    assert!(bench.retained.is_empty(), "{:?}", bench.retained);
    assert_eq!(
        bench.take(),
        [
            concat!(
                r#"running/result {"status":"error","error":"refused: the point is no longer "#,
                r#"configured","latency_ms":0}"#
            ),
            "running ",
            "running/quality ",
            "running/reason ",
        ]
    );
    assert_eq!(bench.pipeline.poll_timeout(), None);
    bench.good(Value::Bool(true));
    assert_eq!(bench.take(), [""; 0]);
}

#[test]
fn a_point_that_comes_back_goes_on_with_its_sequence_numbers() {
    let mut bench = Bench::with(temperature());
    bench.float(21.4);
    bench.float(21.5);
    bench.pipeline.remove_point(bench.now, point(0));
    bench.drain();
    bench.pipeline.add_point(bench.now, point(0), temperature());
    bench.said.clear();
    bench.float(21.4);
    assert!(pairs(&bench.said[0]).contains(&"seq=3".to_owned()));
}

#[test]
fn an_event_leaves_no_value_to_clear() {
    let mut bench = Bench::with(button());
    bench.good(Value::Bool(true));
    bench.take();
    bench.pipeline.remove_point(bench.now, point(0));
    bench.drain();
    assert_eq!(bench.take(), ["pressed/quality ", "pressed/reason "]);
}

#[test]
fn settings_that_are_equal_change_nothing() {
    let mut bench = Bench::with(temperature());
    bench.float(21.4);
    bench.take();
    update(&mut bench, 0, temperature());
    assert_eq!(bench.take(), [""; 0]);
}

#[test]
fn settings_that_only_say_when_do_not_repeat_the_value() {
    let mut bench = Bench::with(temperature());
    bench.float(21.4);
    bench.take();
    update(
        &mut bench,
        0,
        PointSettings {
            deadband: 1.0,
            min_interval: Some(ms(1000)),
            max_interval: Some(ms(5000)),
            stale_after: Some(ms(2000)),
            ..temperature()
        },
    );
    assert_eq!(bench.take(), [""; 0]);
    bench.advance(ms(2000));
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "stale"
    );
}

#[test]
fn another_scale_converts_the_last_reading_again() {
    let mut bench = Bench::with(temperature());
    bench.float(20.0);
    bench.take();
    let mut fahrenheit = temperature();
    fahrenheit.scale = 1.8;
    fahrenheit.offset = 32.0;
    fahrenheit.spec.unit = "°F".into();
    fahrenheit.spec.range = None;
    update(&mut bench, 0, fahrenheit);
    assert_eq!(pairs(&bench.said[0])[0], "unit=°F");
    assert_eq!(pairs(&bench.said[0])[3], "seq=2", "the sequence goes on");
    assert_eq!(bench.take(), ["temperature 68"]);
}

#[test]
fn a_wider_range_heals_and_a_narrower_one_hurts() {
    let mut bench = Bench::with(temperature());
    bench.float(90.0);
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "fault"
    );
    let mut wide = temperature();
    wide.spec.range = Some((-40.0, 125.0));
    update(&mut bench, 0, wide);
    assert_eq!(bench.retained["shed/greenhouse/temperature"], "90");
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "good"
    );
    update(&mut bench, 0, temperature());
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "fault"
    );
}

#[test]
fn a_fault_stays_a_fault_whatever_the_scale() {
    let mut bench = Bench::with(temperature());
    bench.float(20.0);
    bench.fault(FaultKind::NoAnswer, "gone");
    bench.take();
    let mut doubled = temperature();
    doubled.scale = 2.0;
    update(&mut bench, 0, doubled);
    assert_eq!(
        bench.take(),
        ["temperature 40"],
        "the last good value, in the new scale"
    );
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "fault"
    );
}

#[test]
fn a_point_that_moves_takes_everything_along() {
    let mut bench = Bench::with(temperature());
    bench.float(21.4);
    bench.take();
    let moved = PointSettings {
        topic: "shed/house/warmth".into(),
        ..temperature()
    };
    update(&mut bench, 0, moved);
    let topics: Vec<_> = bench.retained.keys().map(String::as_str).collect();
    assert_eq!(topics, ["shed/house/warmth", "shed/house/warmth/quality"]);
}

#[test]
fn two_points_that_swap_topics_do_not_clear_each_other() {
    let at = |topic: &str| PointSettings {
        topic: topic.into(),
        ..pump()
    };
    let mut bench = Bench::with(at("shed/a/x"));
    bench
        .pipeline
        .add_point(bench.now, point(1), at("shed/b/x"));
    bench.good(Value::Bool(true));
    bench.outcome(1, fieldgate::point::Outcome::Good(Value::Bool(false)));
    update(&mut bench, 0, at("shed/b/x"));
    update(&mut bench, 1, at("shed/a/x"));
    assert_eq!(bench.retained["shed/a/x"], "false");
    assert_eq!(bench.retained["shed/b/x"], "true");
    assert_eq!(bench.retained.len(), 4);
}

#[test]
fn a_value_that_is_not_retained_any_more_is_cleared() {
    let mut bench = Bench::with(temperature());
    bench.float(21.4);
    let settings = PointSettings {
        retain: false,
        ..temperature()
    };
    update(&mut bench, 0, settings);
    let topics: Vec<_> = bench.retained.keys().map(String::as_str).collect();
    assert_eq!(topics, ["shed/greenhouse/temperature/quality"]);
}

#[test]
fn another_payload_format_is_shown_at_once() {
    let mut bench = Bench::with(temperature());
    bench.float(21.4);
    bench.take();
    let settings = PointSettings {
        payload: PayloadFormat::Json,
        ..temperature()
    };
    update(&mut bench, 0, settings);
    let said = bench.take();
    assert!(
        said[0].starts_with("temperature {\"value\":21.4,"),
        "{said:?}"
    );
}

#[test]
fn a_command_that_waits_survives_a_reload() {
    let mut bench = Bench::with(pump());
    bench.set("on");
    let settings = PointSettings {
        topic: "shed/pump/moved".into(),
        ..pump()
    };
    update(&mut bench, 0, settings);
    bench.take();
    bench.carry_out();
    let said = bench.take();
    assert!(
        said[0].starts_with("moved/result {\"status\":\"ok\""),
        "{said:?}"
    );
}
