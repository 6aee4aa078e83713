//! Commands: what is obeyed, what is refused, and the one result of each.

use fieldgate::id::RequestId;
use fieldgate::pipeline::settings::PointSettings;
use fieldgate::pipeline::{
    CORRELATION_DATA_MAX, Command, GET_TIMEOUT, Output, PENDING_COMMANDS_MAX, RESPONSE_TOPIC_MAX,
    SET_TIMEOUT, Ticket, Verb,
};
use fieldgate::point::{Fault, FaultKind, Outcome, PointWrite, Value, Written};
use fieldgate::time::Duration;

use crate::support::{Bench, button, ms, pairs, point, pump, temperature, text, valve};

const GET: Command<'static> = Command::new(Verb::Get, b"");

fn set(payload: &str) -> Command<'_> {
    Command::new(Verb::Set, payload.as_bytes())
}

#[test]
fn a_set_is_written_and_its_result_tells_how_it_went() {
    let mut bench = Bench::with(pump());
    bench.set("on");
    assert_eq!(
        bench.writes,
        [PointWrite {
            point: point(0),
            request: RequestId(1),
            value: Value::Bool(true),
            hold: None,
        }]
    );
    assert_eq!(
        bench.take(),
        [""; 0],
        "no result before the device has answered"
    );
    bench.advance(Duration::from_micros(12_345));
    bench.carry_out();
    assert_eq!(
        bench.take(),
        [
            r#"running/result {"status":"ok","value":true,"latency_ms":12.345}"#,
            "running true",
            "running/reason ",
            "running/quality good",
        ]
    );
    assert_eq!(bench.pipeline.stats().commands_ok, 1);
}

#[test]
fn a_result_is_json_and_never_retained() {
    let mut bench = Bench::with(PointSettings {
        simulated: true,
        ..pump()
    });
    bench.set("on");
    bench.carry_out();
    let result = &bench.said[0];
    assert_eq!(result.topic(), "shed/pump/running/result");
    assert!(!result.retain());
    assert_eq!(result.properties().content_type, Some("application/json"));
    assert_eq!(pairs(result), ["simulated=true"]);
    assert!(text(result).ends_with(r#""simulated":true}"#));
}

#[test]
fn an_object_makes_a_pulse_and_names_its_result() {
    let mut bench = Bench::with(pump());
    bench.set(r#"{"value":true,"for":"500ms","transaction":"a\"1"}"#);
    assert_eq!(bench.writes[0].hold, Some(ms(500)));
    bench.carry_out();
    assert_eq!(
        bench.take_results(),
        [r#"{"status":"ok","value":true,"transaction":"a\"1"}"#]
    );
}

#[test]
fn a_toggle_is_the_opposite_of_what_is_known_or_under_way() {
    let mut bench = Bench::with(pump());
    bench.set("toggle");
    assert_eq!(
        bench.take_results(),
        [r#"{"status":"error","error":"refused: its state is not known yet"}"#]
    );
    bench.good(Value::Bool(false));
    bench.set("toggle");
    bench.set("TOGGLE");
    let values: Vec<_> = bench
        .writes
        .iter()
        .map(|write| write.value.clone())
        .collect();
    assert_eq!(values, [Value::Bool(true), Value::Bool(false)]);
    bench.carry_out();
    bench.carry_out();
    bench.take();
    bench.fault(FaultKind::Unplugged, "gone");
    bench.set("toggle");
    assert_eq!(
        bench.take_results(),
        [r#"{"status":"error","error":"refused: its state is not known: unplugged: gone"}"#]
    );
}

#[test]
fn a_number_is_turned_back_by_scale_and_offset() {
    for (payload, raw) in [
        ("21.5", Value::Int(215)),
        ("100", Value::Int(1000)),
        ("0", Value::Int(0)),
        ("33.3", Value::Int(333)),
        ("33.333", Value::Float(333.33)),
    ] {
        let mut bench = Bench::with(valve());
        bench.set(payload);
        match (&bench.writes[0].value, &raw) {
            (Value::Float(value), Value::Float(raw)) => assert!((value - raw).abs() < 1e-9),
            (value, raw) => assert_eq!(value, raw, "{payload}"),
        }
    }
    let mut bench = Bench::with(valve());
    bench.set("21.5");
    bench.carry_out();
    assert_eq!(bench.take_results(), [r#"{"status":"ok","value":21.5}"#]);
    assert_eq!(bench.retained["shed/valve/position"], "21.5");
}

#[test]
fn what_does_not_fit_the_point_is_refused_with_a_reason() {
    for (settings, payload, error) in [
        (valve(), "101", "out_of_range: 101 % is above 100 %"),
        (valve(), "-1", "out_of_range: -1 % is below 0 %"),
        (valve(), "on", "bad_value: \\\"on\\\" is not a number"),
        (
            valve(),
            "toggle",
            "bad_value: \\\"toggle\\\" is not a number",
        ),
        (
            pump(),
            "2",
            "bad_value: \\\"2\\\" is not true, false or toggle",
        ),
        (pump(), "{}", "bad_value: the object has no `value`"),
        (temperature(), "1", "refused: the point is not writable"),
    ] {
        let mut bench = Bench::with(settings);
        bench.set(payload);
        let expected = format!(r#"{{"status":"error","error":"{error}"}}"#);
        assert_eq!(bench.take_results(), [expected], "{payload}");
        assert!(bench.writes.is_empty());
    }
}

#[test]
fn a_refusal_repeats_the_transaction() {
    let mut bench = Bench::with(temperature());
    bench.set(r#"{"value":1,"transaction":17}"#);
    assert_eq!(
        bench.take_results(),
        [r#"{"status":"error","error":"refused: the point is not writable","transaction":17}"#]
    );
}

#[test]
fn a_retained_command_is_refused_unless_it_is_accepted_live() {
    let retained = Command {
        retained: true,
        ..set("on")
    };
    let stored = Command {
        stored: true,
        ..retained
    };
    let mut bench = Bench::with(pump());
    bench.command(retained);
    bench.command(stored);
    let results = bench.take_results();
    assert!(
        results[0].contains("publish it without RETAIN"),
        "{results:?}"
    );
    assert!(
        results[1].contains("when a subscription brings it"),
        "{results:?}"
    );
    assert!(bench.writes.is_empty());

    let mut bench = Bench::with(PointSettings {
        accept_retained: true,
        ..pump()
    });
    bench.command(stored);
    assert!(bench.writes.is_empty());
    bench.command(retained);
    assert_eq!(bench.writes.len(), 1);
}

#[test]
fn what_the_device_refuses_is_the_result() {
    let mut bench = Bench::with(pump());
    bench.good(Value::Bool(false));
    bench.take();
    bench.set("on");
    let write = bench.writes.remove(0);
    bench.written(&write, Err(Fault::new(FaultKind::BusError, "line 17: EIO")));
    assert_eq!(
        bench.take_results(),
        [r#"{"status":"error","error":"bus_error: line 17: EIO"}"#]
    );
    // The value stays what it was.
    assert_eq!(bench.retained["shed/pump/running"], "false");
    assert_eq!(bench.pipeline.stats().commands_failed, 1);
}

#[test]
fn a_write_that_nobody_answers_times_out_and_a_late_answer_is_no_second_result() {
    let mut bench = Bench::with(pump());
    bench.set("on");
    bench.advance(SET_TIMEOUT.saturating_sub(ms(1)));
    assert_eq!(bench.take(), [""; 0]);
    bench.advance(ms(1));
    assert_eq!(
        bench.take(),
        [concat!(
            r#"running/result {"status":"error","error":"timeout: the device has not "#,
            r#"answered within 5s","latency_ms":5000}"#
        )]
    );
    bench.carry_out();
    assert_eq!(bench.take(), [""; 0]);
    let stats = bench.pipeline.stats();
    assert_eq!((stats.commands_timed_out, stats.late_answers), (1, 1));
}

#[test]
fn so_many_commands_wait_and_no_more() {
    let mut bench = Bench::with(pump());
    for _ in 0..PENDING_COMMANDS_MAX {
        bench.set("on");
    }
    bench.set(r#"{"value":true,"transaction":"late"}"#);
    assert_eq!(bench.writes.len(), PENDING_COMMANDS_MAX);
    assert_eq!(
        bench.take_results(),
        [concat!(
            r#"{"status":"error","error":"busy: 8 commands are waiting already","#,
            r#""transaction":"late"}"#
        )]
    );
    bench.carry_out();
    bench.set("on");
    assert_eq!(bench.writes.len(), PENDING_COMMANDS_MAX);
    assert_eq!(bench.pipeline.stats().commands_busy, 1);
}

#[test]
fn a_get_samples_and_every_asker_gets_the_reading_that_follows() {
    let mut bench = Bench::with(temperature());
    bench.float(20.0);
    bench.take();
    bench.command(GET);
    bench.command(Command::new(Verb::Get, br#"{"transaction":2}"#));
    assert_eq!(bench.samples, [point(0)], "one transfer serves both");
    bench.advance(ms(20));
    bench.float(21.0);
    assert_eq!(
        bench.take_results(),
        [
            r#"{"status":"ok","value":21}"#,
            r#"{"status":"ok","value":21,"transaction":2}"#
        ]
    );
    bench.command(GET);
    assert_eq!(bench.samples.len(), 2);
    bench.fault(FaultKind::NoAnswer, "gone");
    assert_eq!(
        bench.take_results(),
        [r#"{"status":"error","error":"no_answer: gone"}"#]
    );
}

#[test]
fn a_get_without_a_reading_times_out() {
    let mut bench = Bench::with(temperature());
    bench.command(GET);
    bench.advance(GET_TIMEOUT);
    assert_eq!(
        bench.take_results(),
        [r#"{"status":"error","error":"timeout: no reading came within 10s"}"#]
    );
}

#[test]
fn an_event_cannot_be_read() {
    let mut bench = Bench::with(button());
    bench.command(GET);
    assert!(bench.samples.is_empty());
    assert!(bench.take_results()[0].contains("refused: an event has no value"));
}

#[test]
fn the_result_goes_to_the_response_topic_as_well() {
    let mut bench = Bench::with(pump());
    bench.command(Command {
        response_topic: Some("clients/anna/answers"),
        correlation_data: Some(b"\x00\x01"),
        ..set("on")
    });
    bench.carry_out();
    let results: Vec<_> = bench
        .said
        .iter()
        .filter(|message| text(message).starts_with(r#"{"status""#))
        .collect();
    let topics: Vec<_> = results.iter().map(|message| message.topic()).collect();
    assert_eq!(topics, ["shed/pump/running/result", "clients/anna/answers"]);
    assert_eq!(results[0].payload(), results[1].payload());
    for result in results {
        assert_eq!(result.properties().correlation_data, Some(&b"\x00\x01"[..]));
    }
}

#[test]
fn a_response_topic_that_is_no_place_for_a_result_is_ignored_and_counted() {
    let mut other = pump();
    other.topic = "elsewhere/relay".into();
    let mut bench = Bench::with(pump());
    bench.pipeline.add_point(bench.now, point(1), other);
    let too_long = "x".repeat(RESPONSE_TOPIC_MAX + 1);
    let hostile = [
        "",
        "a/+/b",
        "a/#",
        "a\0b",
        "$SYS/broker/x",
        "$share/g/a",
        "shed",
        "shed/pump/running",
        "shed/pump/running/set",
        "shed/gateway/request/read",
        "elsewhere/relay",
        "elsewhere/relay/set",
        &too_long,
    ];
    for topic in hostile {
        bench.command(Command {
            response_topic: Some(topic),
            ..set("nonsense")
        });
        assert_eq!(bench.take_results().len(), 1, "{topic}");
    }
    let refused = |bench: &Bench| bench.pipeline.stats().response_topics_refused;
    assert_eq!(refused(&bench), hostile.len() as u64);
    for topic in ["shedding/x", "elsewhere", "elsewhere/relays", "/shed"] {
        bench.command(Command {
            response_topic: Some(topic),
            ..set("nonsense")
        });
        let said = std::mem::take(&mut bench.said);
        assert_eq!(said[1].topic(), topic);
    }
    assert_eq!(refused(&bench), hostile.len() as u64);
}

#[test]
fn the_points_own_result_topic_is_a_response_topic_like_any_other_but_said_once() {
    let mut bench = Bench::with(pump());
    bench.command(Command {
        response_topic: Some("shed/pump/running/result"),
        correlation_data: Some(b"7"),
        ..set("nonsense")
    });
    assert_eq!(bench.said.len(), 1);
    assert_eq!(bench.said[0].properties().correlation_data, Some(&b"7"[..]));
    assert_eq!(bench.pipeline.stats().response_topics_refused, 0);
}

#[test]
fn correlation_data_that_is_too_long_makes_the_response_topic_useless() {
    let mut bench = Bench::with(pump());
    let data = vec![1; CORRELATION_DATA_MAX + 1];
    bench.command(Command {
        response_topic: Some("clients/anna"),
        correlation_data: Some(&data),
        ..set("nonsense")
    });
    assert_eq!(bench.said.len(), 1);
    assert_eq!(bench.said[0].properties().correlation_data, None);
    assert_eq!(bench.pipeline.stats().response_topics_refused, 1);
}

#[test]
fn a_ticket_brings_an_answer_as_a_value() {
    let mut bench = Bench::with(valve());
    let ticket = Some(Ticket(5));
    bench.command(Command {
        ticket,
        ..set("50")
    });
    bench.advance(ms(3));
    bench.carry_out();
    let answer = bench.answers.remove(0);
    assert_eq!(answer.ticket, Ticket(5));
    assert_eq!(answer.outcome, Ok(Value::Float(50.0)));
    assert_eq!(answer.latency, ms(3));
    // Also for a point that does not exist, which has no topic to answer on.
    let command = Command { ticket, ..GET };
    bench.pipeline.handle_command(bench.now, point(9), command);
    bench.drain();
    assert_eq!(
        bench.answers.remove(0).outcome.unwrap_err().kind,
        FaultKind::Refused
    );
    assert_eq!(bench.pipeline.stats().unknown_point, 1);
}

#[test]
fn stopping_ends_what_waits_and_refuses_the_rest() {
    let mut bench = Bench::with(pump());
    bench.set("on");
    bench.pipeline.handle_stop(bench.now);
    bench.drain();
    bench.set("off");
    let stopping = r#"{"status":"error","error":"stopping: the gateway is stopping"}"#;
    assert_eq!(bench.take_results(), [stopping, stopping]);
    assert_eq!(bench.writes.len(), 1);
    assert_eq!(bench.pipeline.poll_timeout(), None);
}

#[test]
fn commands_that_nobody_draws_are_lost_and_counted_not_heaped_up() {
    let mut bench = Bench::with(temperature());
    let limit = fieldgate::pipeline::OUTPUTS_QUEUED_MAX;
    for _ in 0..limit + 100 {
        bench.pipeline.handle_command(bench.now, point(0), set("1"));
    }
    bench.drain();
    assert_eq!(bench.take_results().len(), limit);
    assert_eq!(bench.pipeline.stats().commands_dropped, 100);
}

#[test]
fn answers_and_readings_of_points_that_are_gone_are_counted() {
    let mut bench = Bench::new();
    let written = Written {
        point: point(3),
        request: RequestId(1),
        outcome: Ok(Value::Bool(true)),
    };
    bench.pipeline.handle_written(bench.now, written);
    bench.outcome(3, Outcome::Good(Value::Bool(true)));
    assert_eq!(bench.pipeline.stats().unknown_point, 2);
    assert_eq!(bench.pipeline.poll_output(), None::<Output>);
}

#[test]
fn what_a_device_was_told_is_published_only_if_it_never_speaks_for_itself() {
    // A point without readings is what it was last told to be, but a pulse has an end.
    let mut bench = Bench::with(pump());
    bench.set("on");
    bench.carry_out();
    assert_eq!(bench.take_values(), ["true"]);
    bench.set(r#"{"value":false,"for":"1s"}"#);
    bench.carry_out();
    assert_eq!(bench.take_values(), [""; 0]);
    // A device that speaks has the last word.
    bench.good(Value::Bool(true));
    bench.set("off");
    bench.carry_out();
    assert_eq!(bench.take_values(), [""; 0]);
    bench.good(Value::Bool(false));
    assert_eq!(bench.take_values(), ["false"]);
}

#[test]
fn a_second_toggle_does_not_wait_for_the_device_to_confirm_the_first() {
    let mut bench = Bench::with(pump());
    bench.good(Value::Bool(false));
    bench.set("toggle");
    assert_eq!(bench.writes[0].value, Value::Bool(true));
    bench.carry_out();
    bench.set("toggle");
    assert_eq!(bench.writes[0].value, Value::Bool(false));
}
