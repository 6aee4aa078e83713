//! Values on their topic: formats, properties, deadband and intervals.

use fieldgate::mqtt::{PayloadFormat as Indicator, ProtocolVersion, QoS};
use fieldgate::pipeline::settings::{PayloadFormat, PointSettings, TimeFormat};
use fieldgate::point::{FaultKind, Outcome, PointKind, Reading, Value};
use fieldgate::time::{Instant, WallTime};

use crate::support::{Bench, button, ms, pairs, point, pump, temperature, text};

#[test]
fn a_value_is_bare_and_says_the_rest_in_properties() {
    let mut bench = Bench::with(PointSettings {
        expiry: Some(ms(90_500)),
        ..temperature()
    });
    bench.advance(ms(123));
    bench.float(21.449_999);
    let message = &bench.said[0];
    assert_eq!(message.topic(), "shed/greenhouse/temperature");
    assert_eq!(text(message), "21.4");
    assert_eq!(message.qos(), QoS::AtLeastOnce);
    assert!(message.retain());
    assert_eq!(
        pairs(message),
        [
            "unit=°C",
            "time=2026-11-23T10:00:00.123Z",
            "quality=good",
            "seq=1"
        ]
    );
    let publish = message.as_publish(ProtocolVersion::V5, bench.now.monotonic);
    assert_eq!(publish.properties.content_type, Some("text/plain"));
    assert_eq!(
        publish.properties.payload_format_indicator,
        Some(Indicator::Utf8)
    );
    assert_eq!(publish.properties.message_expiry_interval, Some(91));
}

#[test]
fn json_says_everything_in_the_payload() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        ..temperature()
    });
    bench.advance(ms(123));
    bench.float(21.4);
    assert_eq!(
        bench.take()[0],
        concat!(
            r#"temperature {"value":21.4,"unit":"°C","time":"2026-11-23T10:00:00.123Z","#,
            r#""quality":"good","seq":1}"#
        )
    );
    bench.float(-0.04);
    assert_eq!(
        bench.said[0].properties().content_type,
        Some("application/json")
    );
    assert_eq!(pairs(&bench.said[0])[3], "seq=2");
    assert!(text(&bench.said[0]).starts_with(r#"{"value":0,"#));
}

#[test]
fn a_simulated_point_says_so_everywhere() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        simulated: true,
        ..temperature()
    });
    bench.float(21.4);
    let message = &bench.said[0];
    assert!(text(message).ends_with(r#","seq":1,"simulated":true}"#));
    assert_eq!(pairs(message).last().unwrap(), "simulated=true");
}

#[test]
fn times_are_those_of_capture_in_the_configured_format() {
    for (time_format, property, json) in [
        (
            TimeFormat::Rfc3339,
            "time=2026-11-23T10:00:01.000Z",
            r#""time":"2026-11-23T10:00:01.000Z""#,
        ),
        (
            TimeFormat::UnixMillis,
            "time=1795428001000",
            r#""time":1795428001000"#,
        ),
        (
            TimeFormat::UnixNanos,
            "time=1795428001000000000",
            r#""time":"1795428001000000000""#,
        ),
    ] {
        let mut bench = Bench::with(PointSettings {
            payload: PayloadFormat::Json,
            time_format,
            ..temperature()
        });
        bench.advance(ms(5000));
        let reading = Reading {
            point: point(0),
            at: Instant::from_nanos(1_000_000_000),
            outcome: Outcome::Good(Value::Float(1.0)),
        };
        bench.pipeline.handle_reading(bench.now, reading);
        bench.drain();
        assert_eq!(pairs(&bench.said[0])[1], property);
        assert!(text(&bench.said[0]).contains(json), "{json}");
    }
}

#[test]
fn the_time_is_unknown_until_the_clock_is() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        max_interval: Some(ms(60_000)),
        ..temperature()
    });
    bench.now.wall = WallTime::from_unix_millis(0);
    bench.float(21.4);
    assert!(text(&bench.said[0]).contains(r#""time":null"#));
    assert_eq!(pairs(&bench.said[0]), ["unit=°C", "quality=good", "seq=1"]);
    // Set right a minute later, the clock also tells when that was.
    bench.take();
    bench.now.wall = crate::support::START;
    bench.advance(ms(60_000));
    let said = bench.take();
    assert!(
        said[0].contains(r#""time":"2026-11-23T10:00:00.000Z""#),
        "{said:?}"
    );
}

#[test]
fn words_for_booleans_are_the_configured_ones_and_json_has_its_own() {
    let words = PointSettings {
        booleans: ("OFF".into(), "ON".into()),
        ..pump()
    };
    let mut bench = Bench::with(words.clone());
    bench.good(Value::Bool(true));
    bench.good(Value::Bool(false));
    assert_eq!(bench.take_values(), ["ON", "OFF"]);
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        ..words
    });
    bench.good(Value::Bool(true));
    assert!(text(&bench.said[0]).starts_with(r#"{"value":true,"time":"#));
}

#[test]
fn values_are_scaled_rounded_and_exact() {
    for (scale, offset, precision, raw, published) in [
        (1.8, 32.0, None, Value::Float(21.0), "69.8"),
        (0.1, 0.0, None, Value::Int(215), "21.5"),
        (-0.1, 0.0, None, Value::Int(0), "0"),
        (0.0022, 0.0, Some(4), Value::Uint(1000), "2.2"),
        (1.0, 0.0, Some(0), Value::Float(21.5), "22"),
        (
            1.0,
            0.0,
            None,
            Value::Uint(u64::MAX),
            "18446744073709551615",
        ),
        (
            10.0,
            1.0,
            None,
            Value::Int(1_000_000_000_000_000_001),
            "10000000000000000011",
        ),
        (1.0, 0.0, None, Value::Text("as it is".into()), "as it is"),
        (2.0, 1.0, None, Value::Bool(true), "true"),
    ] {
        let mut settings = temperature();
        settings.spec.range = None;
        settings.scale = scale;
        settings.offset = offset;
        settings.precision = precision;
        let mut bench = Bench::with(settings);
        bench.good(raw);
        assert_eq!(bench.take_values(), [published]);
    }
}

#[test]
fn only_changes_are_published() {
    let mut bench = Bench::with(temperature());
    for value in [21.4, 21.41, 21.44, 21.46, 21.5, 21.4] {
        bench.float(value);
    }
    assert_eq!(bench.take_values(), ["21.4", "21.5", "21.4"]);
    let stats = bench.pipeline.stats();
    assert_eq!(
        (stats.readings, stats.published, stats.suppressed_unchanged),
        (6, 3, 3)
    );
}

#[test]
fn the_deadband_is_measured_from_what_was_published() {
    let mut bench = Bench::with(PointSettings {
        deadband: 0.5,
        ..temperature()
    });
    // A slow drift passes once it has gone far enough.
    for value in [20.0, 20.2, 20.4, 20.5, 20.7, 20.1, 20.0] {
        bench.float(value);
    }
    assert_eq!(bench.take_values(), ["20", "20.5", "20"]);
}

#[test]
fn min_interval_sends_the_latest_change_at_its_end() {
    let mut bench = Bench::with(PointSettings {
        min_interval: Some(ms(1000)),
        ..temperature()
    });
    bench.float(20.0);
    bench.advance(ms(300));
    bench.float(21.0);
    bench.advance(ms(300));
    bench.float(22.0);
    assert_eq!(bench.take_values(), ["20"]);
    assert_eq!(
        bench.pipeline.poll_timeout(),
        Some(Instant::from_nanos(1_000_000_000))
    );
    bench.advance(ms(400));
    // The time is that of its capture, not of its sending.
    assert_eq!(pairs(&bench.said[0])[1], "time=2026-11-23T10:00:00.600Z");
    assert_eq!(bench.take_values(), ["22"]);
    assert_eq!(bench.pipeline.poll_timeout(), None);
    // After a pause a change is sent at once, and starts the interval.
    bench.advance(ms(5000));
    bench.float(23.0);
    bench.float(24.0);
    assert_eq!(bench.take_values(), ["23"]);
    bench.advance(ms(999));
    assert_eq!(bench.take_values(), [""; 0]);
    bench.advance(ms(1));
    assert_eq!(bench.take_values(), ["24"]);
    assert_eq!(bench.pipeline.stats().held_by_min_interval, 3);
}

#[test]
fn a_change_that_is_taken_back_within_min_interval_is_not_sent() {
    let mut bench = Bench::with(PointSettings {
        min_interval: Some(ms(1000)),
        ..temperature()
    });
    bench.float(20.0);
    bench.float(25.0);
    bench.float(20.0);
    assert_eq!(bench.pipeline.poll_timeout(), None);
    bench.advance(ms(2000));
    assert_eq!(bench.take_values(), ["20"]);
}

#[test]
fn a_good_value_that_is_held_back_survives_a_fault() {
    let mut bench = Bench::with(PointSettings {
        min_interval: Some(ms(1000)),
        ..temperature()
    });
    bench.float(20.0);
    bench.float(25.0);
    bench.fault(FaultKind::NoAnswer, "gone");
    bench.advance(ms(1000));
    assert_eq!(bench.take_values(), ["20", "25"]);
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "fault"
    );
}

#[test]
fn max_interval_repeats_what_does_not_change() {
    let mut bench = Bench::with(PointSettings {
        max_interval: Some(ms(10_000)),
        ..temperature()
    });
    bench.float(20.0);
    bench.advance(ms(9_999));
    assert_eq!(bench.take_values(), ["20"]);
    bench.advance(ms(1));
    assert_eq!(bench.take_values(), ["20"]);
    // A change starts the interval anew.
    bench.advance(ms(4_000));
    bench.float(21.0);
    bench.advance(ms(9_999));
    assert_eq!(bench.take_values(), ["21"]);
    bench.advance(ms(20_001));
    assert_eq!(bench.take_values(), ["21", "21", "21"]);
    assert_eq!(bench.pipeline.stats().repeated, 4);
    assert_eq!(pairs_seq(&mut bench), 6);
}

fn pairs_seq(bench: &mut Bench) -> u64 {
    bench.pipeline.snapshot(point(0)).unwrap().seq
}

#[test]
fn max_interval_repeats_the_latest_value_within_the_deadband() {
    let mut bench = Bench::with(PointSettings {
        deadband: 1.0,
        max_interval: Some(ms(10_000)),
        ..temperature()
    });
    bench.float(20.0);
    bench.float(20.6);
    bench.advance(ms(10_000));
    assert_eq!(bench.take_values(), ["20", "20.6"]);
    // From there on the deadband counts.
    bench.float(21.5);
    assert_eq!(bench.take_values(), [""; 0]);
    bench.float(21.6);
    assert_eq!(bench.take_values(), ["21.6"]);
}

#[test]
fn an_interval_of_nothing_is_none() {
    let mut bench = Bench::with(PointSettings {
        min_interval: Some(ms(0)),
        max_interval: Some(ms(0)),
        stale_after: Some(ms(0)),
        ..temperature()
    });
    bench.float(20.0);
    assert_eq!(bench.pipeline.poll_timeout(), None);
}

#[test]
fn every_event_is_a_message_and_none_is_retained() {
    let mut bench = Bench::with(button());
    for _ in 0..3 {
        let reading = Reading {
            point: point(0),
            at: bench.now.monotonic,
            outcome: Outcome::Good(Value::Bool(true)),
        };
        bench.pipeline.handle_reading(bench.now, reading);
    }
    bench.drain();
    let said: Vec<_> = bench
        .said
        .iter()
        .filter(|message| !message.retain())
        .collect();
    let numbers: Vec<_> = said
        .iter()
        .map(|message| pairs(message)[2].clone())
        .collect();
    assert_eq!(numbers, ["seq=1", "seq=2", "seq=3"]);
    assert!(said.iter().all(|message| text(message) == "true"));
    assert!(!bench.retained.contains_key("shed/panel/pressed"));
}

#[test]
fn events_are_merged_only_if_an_interval_is_asked_for() {
    let mut bench = Bench::with(PointSettings {
        min_interval: Some(ms(1000)),
        ..button()
    });
    for _ in 0..5 {
        bench.good(Value::Bool(true));
    }
    assert_eq!(bench.take_values(), ["true"]);
    bench.advance(ms(10_000));
    assert_eq!(bench.take_values(), ["true"]);
    assert_eq!(bench.pipeline.stats().held_by_min_interval, 4);
}

#[test]
fn events_within_a_deadband_are_suppressed_only_if_there_is_one() {
    let mut bench = Bench::with(PointSettings {
        deadband: 5.0,
        ..button()
    });
    for value in [10, 12, 15, 15, 21] {
        bench.good(Value::Int(value));
    }
    assert_eq!(bench.take_values(), ["10", "15", "21"]);
}

#[test]
fn a_burst_of_events_that_nobody_draws_is_bounded_and_told() {
    let mut bench = Bench::with(button());
    let limit = fieldgate::pipeline::EVENTS_QUEUED_MAX;
    for _ in 0..limit + 10 {
        let reading = Reading {
            point: point(0),
            at: bench.now.monotonic,
            outcome: Outcome::Good(Value::Bool(true)),
        };
        bench.pipeline.handle_reading(bench.now, reading);
    }
    bench.drain();
    assert_eq!(bench.take_values().len(), limit);
    assert_eq!(bench.pipeline.stats().events_dropped, 10);
    assert_eq!(bench.retained["shed/panel/pressed/quality"], "uncertain");
    assert!(bench.retained["shed/panel/pressed/reason"].starts_with("edges_lost: "));
    bench.good(Value::Bool(true));
    assert_eq!(bench.retained["shed/panel/pressed/quality"], "good");
}

#[test]
fn a_flood_of_readings_that_nobody_draws_keeps_the_latest() {
    let mut bench = Bench::with(temperature());
    for number in 0..1000_u16 {
        let reading = Reading {
            point: point(0),
            at: bench.now.monotonic,
            outcome: Outcome::Good(Value::Float(f64::from(number % 80))),
        };
        bench.pipeline.handle_reading(bench.now, reading);
    }
    bench.drain();
    assert_eq!(bench.take_values(), ["39"]);
    assert_eq!(bench.pipeline.stats().coalesced, 999);
}

#[test]
fn a_counter_publishes_its_growth() {
    let mut settings = temperature();
    settings.spec.kind = PointKind::Counter;
    settings.spec.range = None;
    settings.deadband = 10.0;
    let mut bench = Bench::with(settings);
    for total in [0, 9, 10, 19, 20] {
        bench.good(Value::Uint(u64::MAX - 100 + total));
    }
    let expected: Vec<_> = [0, 10, 20]
        .iter()
        .map(|total| (u64::MAX - 100 + total).to_string())
        .collect();
    assert_eq!(bench.take_values(), expected);
}
