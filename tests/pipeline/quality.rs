//! What is said when a value cannot be trusted, and when it can be again; devices' availability.

use fieldgate::mqtt::QoS;
use fieldgate::pipeline::json::Object;
use fieldgate::pipeline::settings::{PayloadFormat, PointSettings};
use fieldgate::point::{Fault, FaultKind, Outcome, Quality, Value};
use fieldgate::time::Instant;

use crate::support::{Bench, button, device, ms, pairs, point, temperature};

#[test]
fn quality_and_reason_are_said_on_change() {
    let mut bench = Bench::with(temperature());
    bench.float(21.4);
    assert_eq!(
        bench.take(),
        [
            "temperature 21.4",
            "temperature/reason ",
            "temperature/quality good"
        ]
    );
    bench.float(21.5);
    assert_eq!(bench.take(), ["temperature 21.5"]);
    bench.fault(FaultKind::NoAnswer, "nothing answered at 0x76 on i2c.1");
    assert_eq!(
        bench.take(),
        [
            "temperature/reason no_answer: nothing answered at 0x76 on i2c.1",
            "temperature/quality fault"
        ]
    );
    bench.fault(FaultKind::NoAnswer, "nothing answered at 0x76 on i2c.1");
    assert_eq!(bench.take(), [""; 0]);
    bench.fault(FaultKind::BadChecksum, "crc 0x12");
    assert_eq!(bench.take(), ["temperature/reason bad_checksum: crc 0x12"]);
    // The value was the last good one all the time; the same one again is no news, but its quality
    // is.
    assert_eq!(bench.retained["shed/greenhouse/temperature"], "21.5");
    bench.float(21.5);
    assert_eq!(
        bench.take(),
        ["temperature/reason ", "temperature/quality good"]
    );
    assert!(
        !bench
            .retained
            .contains_key("shed/greenhouse/temperature/reason")
    );
    let stats = bench.pipeline.stats();
    assert_eq!(stats.faults_of(FaultKind::NoAnswer), 2);
    assert_eq!(stats.faults_total(), 3);
}

#[test]
fn on_a_fault_json_says_null_and_what_was_last_known() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        ..temperature()
    });
    bench.float(21.4);
    bench.take();
    bench.advance(ms(1000));
    bench.fault(FaultKind::NoAnswer, "\"gone\"");
    assert_eq!(
        bench.take()[0],
        "temperature {\"value\":null,\"unit\":\"°C\",\"time\":\"2026-11-23T10:00:01.000Z\",\
         \"quality\":\"fault\",\"seq\":2,\"reason\":\"no_answer: \\\"gone\\\"\",\"last\":21.4,\
         \"last_time\":\"2026-11-23T10:00:00.000Z\"}"
    );
    bench.fault(FaultKind::NoAnswer, "\"gone\"");
    assert_eq!(bench.take_values(), [""; 0]);
    bench.float(21.4);
    let said = bench.take_values();
    assert!(said[0].starts_with("{\"value\":21.4,"), "{said:?}");
}

#[test]
fn a_first_fault_in_json_has_no_last_value() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        ..temperature()
    });
    bench.fault(FaultKind::Timeout, "late");
    let said = bench.take_values();
    assert!(said[0].starts_with("{\"value\":null,"), "{said:?}");
    assert!(!said[0].contains("last"), "{said:?}");
}

#[test]
fn json_obeys_min_interval_also_for_faults_and_the_quality_topic_does_not_wait() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        min_interval: Some(ms(1000)),
        ..temperature()
    });
    bench.float(21.4);
    bench.take();
    bench.fault(FaultKind::Timeout, "late");
    assert_eq!(
        bench.take(),
        [
            "temperature/reason timeout: late",
            "temperature/quality fault"
        ]
    );
    bench.advance(ms(1000));
    let said = bench.take();
    assert!(
        said[0].starts_with("temperature {\"value\":null,"),
        "{said:?}"
    );
}

#[test]
fn a_doubtful_value_is_published_with_its_doubt() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        ..temperature()
    });
    let doubt = Fault::new(FaultKind::EdgesLost, "2 edges");
    bench.outcome(0, Outcome::Uncertain(Value::Float(3.0), doubt));
    let said = bench.take();
    assert!(said[0].contains("\"value\":3,"), "{said:?}");
    assert!(
        said[0].contains("\"reason\":\"edges_lost: 2 edges\""),
        "{said:?}"
    );
    assert_eq!(
        said[1..],
        [
            "temperature/reason edges_lost: 2 edges",
            "temperature/quality uncertain"
        ]
    );
}

#[test]
fn beyond_the_range_is_a_fault() {
    for (value, story) in [
        (85.1, "out_of_range: 85.1 °C is above 85 °C"),
        (-40.1, "out_of_range: -40.1 °C is below -40 °C"),
        (f64::NAN, "bad_answer: the device's number is NaN"),
        (f64::INFINITY, "bad_answer: the device's number is inf"),
    ] {
        let mut bench = Bench::with(temperature());
        bench.float(85.04);
        bench.take();
        bench.float(value);
        assert_eq!(
            bench.take(),
            [
                format!("temperature/reason {story}"),
                "temperature/quality fault".into()
            ]
        );
        assert_eq!(bench.retained["shed/greenhouse/temperature"], "85");
    }
}

#[test]
fn a_scale_that_overflows_is_a_fault() {
    let mut settings = temperature();
    settings.scale = 1e10;
    settings.spec.range = None;
    let mut bench = Bench::with(settings);
    bench.float(1e300);
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "fault"
    );
    assert_eq!(bench.take_values(), [""; 0]);
}

#[test]
fn silence_makes_a_value_stale_and_the_next_one_good() {
    let mut bench = Bench::with(PointSettings {
        stale_after: Some(ms(30_000)),
        max_interval: Some(ms(60_000)),
        ..temperature()
    });
    bench.float(21.4);
    bench.advance(ms(20_000));
    bench.float(21.4);
    bench.take();
    bench.advance(ms(29_999));
    assert_eq!(bench.take(), [""; 0]);
    bench.advance(ms(1));
    assert_eq!(
        bench.take(),
        [
            "temperature/reason silent: nothing has been heard for 30s",
            "temperature/quality stale"
        ]
    );
    // What is stale is not repeated, for it would look alive.
    bench.advance(ms(1_000_000));
    assert_eq!(bench.take(), [""; 0]);
    assert_eq!(bench.pipeline.stats().stale, 1);
    bench.float(21.4);
    let said = bench.take();
    assert!(
        said.contains(&"temperature/quality good".to_owned()),
        "{said:?}"
    );
}

#[test]
fn stale_json_keeps_its_value_and_its_time() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        stale_after: Some(ms(30_000)),
        ..temperature()
    });
    bench.float(21.4);
    bench.take();
    bench.advance(ms(30_000));
    let said = bench.take_values();
    assert_eq!(
        said,
        [
            "{\"value\":21.4,\"unit\":\"°C\",\"time\":\"2026-11-23T10:00:00.000Z\",\
          \"quality\":\"stale\",\"seq\":2,\"reason\":\"silent: nothing has been heard for 30s\"}"
        ]
    );
}

#[test]
fn a_point_that_never_spoke_goes_stale_too() {
    let mut bench = Bench::with(PointSettings {
        stale_after: Some(ms(30_000)),
        ..temperature()
    });
    assert_eq!(bench.take(), [""; 0]);
    bench.advance(ms(30_000));
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "stale"
    );
    assert_eq!(bench.take_values(), [""; 0]);
}

#[test]
fn silence_does_not_make_a_fault_milder() {
    let mut bench = Bench::with(PointSettings {
        stale_after: Some(ms(30_000)),
        ..temperature()
    });
    bench.fault(FaultKind::Unplugged, "gone");
    bench.advance(ms(100_000));
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "fault"
    );
    assert_eq!(bench.pipeline.poll_timeout(), None);
}

#[test]
fn a_long_reason_is_cut_and_control_characters_cannot_break_json() {
    let mut bench = Bench::with(PointSettings {
        payload: PayloadFormat::Json,
        ..temperature()
    });
    bench.fault(FaultKind::BadAnswer, &"ä\n".repeat(2000));
    let reason = &bench.retained["shed/greenhouse/temperature/reason"];
    assert!(reason.len() <= 1030 && reason.ends_with('…'));
    let json = bench.take_values();
    assert!(!json[0].contains('\n'));
}

#[test]
fn a_bare_value_carries_the_quality_with_which_it_was_measured() {
    let mut bench = Bench::with(temperature());
    let doubt = Fault::new(FaultKind::BadAnswer, "short");
    bench.outcome(0, Outcome::Uncertain(Value::Float(3.0), doubt));
    assert_eq!(pairs(&bench.said[0])[2], "quality=uncertain");
}

#[test]
fn a_snapshot_shows_the_last_value_and_what_has_become_of_it() {
    let mut bench = Bench::with(temperature());
    let empty = bench.pipeline.snapshot(point(0)).unwrap();
    assert_eq!(
        (empty.value, empty.quality, empty.age(bench.now)),
        (None, None, None)
    );
    bench.float(21.4);
    bench.advance(ms(1500));
    bench.fault(FaultKind::NoAnswer, "gone");
    let shown = bench.pipeline.snapshot(point(0)).unwrap();
    let start = crate::support::START;
    assert_eq!(shown.value, None);
    assert_eq!(shown.last, Some((&Value::Float(21.4), Some(start))));
    assert_eq!(shown.time, Some(start.saturating_add(ms(1500))));
    assert_eq!(shown.quality, Some(Quality::Fault));
    assert_eq!(shown.reason.unwrap().kind, FaultKind::NoAnswer);
    assert_eq!(shown.at, Some(Instant::from_nanos(0)));
    assert_eq!(shown.age(bench.now), Some(ms(1500)));
    let mut json = String::new();
    let mut object = Object::begin(&mut json);
    shown.write_state(&mut object);
    shown.write_details(bench.now, &mut object);
    object.end();
    assert_eq!(
        json,
        "{\"value\":null,\"unit\":\"°C\",\"time\":\"2026-11-23T10:00:01.500Z\",\
         \"quality\":\"fault\",\"seq\":1,\
         \"reason\":\"no_answer: gone\",\"last\":21.4,\"last_time\":\"2026-11-23T10:00:00.000Z\",\
         \"age_ms\":1500,\"topic\":\"shed/greenhouse/temperature\",\"writable\":false}"
    );
    assert!(bench.pipeline.snapshot(point(1)).is_none());
}

#[test]
fn a_devices_availability_is_told_on_change_and_cleared_with_it() {
    const TOPIC: &str = "shed/greenhouse/availability";
    let mut bench = Bench::new();
    let (pipeline, now) = (&mut bench.pipeline, bench.now);
    pipeline.add_device(now, device(0), TOPIC, QoS::AtLeastOnce);
    bench.drain();
    assert_eq!(bench.retained.get(TOPIC), None, "nothing is known yet");
    let available = |bench: &mut Bench, is_online| {
        bench
            .pipeline
            .handle_availability(bench.now, device(0), is_online);
        bench.drain();
    };
    available(&mut bench, true);
    available(&mut bench, true);
    assert_eq!(bench.take(), ["availability online"]);
    available(&mut bench, false);
    assert_eq!(bench.retained[TOPIC], "offline");
    available(&mut bench, true);
    // A reload that moves it takes along what is known.
    let (pipeline, now) = (&mut bench.pipeline, bench.now);
    pipeline.add_device(now, device(0), "shed/house/availability", QoS::AtLeastOnce);
    bench.drain();
    let topics: Vec<_> = bench.retained.iter().collect();
    assert_eq!(topics.len(), 1);
    assert_eq!(bench.retained["shed/house/availability"], "online");
    bench.pipeline.handle_stop(bench.now);
    available(&mut bench, true);
    assert_eq!(bench.retained["shed/house/availability"], "offline");
    bench.pipeline.remove_device(bench.now, device(0));
    bench.drain();
    assert!(bench.retained.is_empty());
}

#[test]
fn a_recovery_without_a_value_ends_the_fault() {
    let mut bench = Bench::with(button());
    bench.fault(FaultKind::Unplugged, "gone");
    bench.take();
    bench.pipeline.handle_recovered(bench.now, point(0));
    bench.drain();
    assert_eq!(bench.take(), ["pressed/reason ", "pressed/quality good"]);
    // What was never wrong does not recover.
    bench.pipeline.handle_recovered(bench.now, point(0));
    bench.drain();
    assert_eq!(bench.take(), [""; 0]);
    // A value that was known before holds again, with its doubts.
    let mut bench = Bench::with(temperature());
    let doubt = Fault::new(FaultKind::BadAnswer, "short");
    bench.outcome(0, Outcome::Uncertain(Value::Float(3.0), doubt));
    bench.fault(FaultKind::Unplugged, "gone");
    bench.pipeline.handle_recovered(bench.now, point(0));
    bench.drain();
    assert_eq!(
        bench.retained["shed/greenhouse/temperature/quality"],
        "uncertain"
    );
}
