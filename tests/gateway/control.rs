//! Requests, on the control socket and as messages: each ends in exactly one answer.

use std::time::Duration;

use fieldgate::gateway::boundary::ControlEvent;
use serde_json::{Value, json};

use crate::house::{House, Q1, SHED, V5, asks_for};

#[test]
fn read_brings_one_fresh_reading_in_the_words_of_the_payload() {
    let mut house = House::new();
    house.half_degrees = Some(-3);
    let answer = house.answer(r#"{"verb":"read","point":"room/temperature","transaction":"a"}"#);
    assert_eq!(answer["status"], "ok");
    assert_eq!(answer["transaction"], "a");
    let data = &answer["data"];
    assert_eq!(data["point"], "room/temperature");
    assert_eq!(data["value"].to_string(), "-1.5");
    assert_eq!(data["unit"], "°C");
    assert_eq!(data["quality"], "good");
    assert_eq!(data["topic"], "shed/room/temperature");
    assert_eq!(data["writable"], false);
    assert_eq!(data["age_ms"], 0);
    assert_eq!(data["latency_ms"], 0);
    assert_eq!(data["time"], house.now.wall.to_string());
    // A whole number is written without a fraction.
    house.half_degrees = Some(42);
    let line = r#"{"verb":"read","point":"room/temperature"}"#;
    house.ask(0, line);
    let said = house.take_said().join("\n");
    assert!(said.contains(r#""value":21,"#), "{said}");
}

#[test]
fn a_read_that_fails_says_what_was_known() {
    let mut house = House::new();
    let measured =
        house.answer(r#"{"verb":"devices"}"#)["data"]["room"]["points"]["temperature"]["time"]
            .clone();
    house.half_degrees = None;
    let answer = house.answer(r#"{"verb":"read","point":"room/temperature"}"#);
    assert_eq!(answer["status"], "error");
    let error = answer["error"].as_str().unwrap();
    assert!(error.starts_with("no_answer: "), "{error}");
    let data = &answer["data"];
    assert_eq!(data["value"], Value::Null);
    assert_eq!(data["last"], 21);
    assert_eq!(data["last_time"], measured);
    assert_eq!(data["quality"], "fault");
    assert_eq!(data["reason"], answer["error"]);
    // `devices` says the same.
    let devices = house.answer(r#"{"verb":"devices"}"#);
    let point = &devices["data"]["room"]["points"]["temperature"];
    assert_eq!(point["value"], Value::Null);
    assert_eq!(
        (&point["last"], &point["reason"]),
        (&data["last"], &data["reason"])
    );
}

#[test]
fn an_answer_has_the_numbers_of_the_json_payload() {
    let mut house =
        House::with(&SHED.replace("[device.room]", "[device.room]\npayload = \"json\""));
    let retained = house.retained("shed/room/temperature");
    let payload: Value = serde_json::from_str(&retained["shed/room/temperature"]).unwrap();
    let devices = house.answer(r#"{"verb":"devices"}"#);
    let point = &devices["data"]["room"]["points"]["temperature"];
    for (field, value) in payload.as_object().unwrap() {
        assert_eq!(&point[field], value, "{field}");
    }
}

#[test]
fn set_answers_with_what_the_point_has_become() {
    let mut house = House::new();
    let answer = house.answer(r#"{"verb":"set","point":"relay/lamp","value":"on"}"#);
    let expected = json!({
        "status": "ok",
        "data": { "point": "relay/lamp", "value": true, "latency_ms": 0 },
    });
    assert_eq!(answer, expected);
    assert!(house.levels()[&17]);
    house.ask(
        0,
        r#"{"verb":"set","point":"relay/lamp","value":"off","for":"2s"}"#,
    );
    assert_eq!(house.take_answers().len(), 1);
    assert!(!house.levels()[&17]);
    house.wait(Duration::from_secs(2));
    assert!(house.levels()[&17], "the pulse is over");
}

#[test]
fn devices_and_status_are_answered_at_once() {
    let mut house = House::new();
    let devices = house.answer(r#"{"verb":"devices"}"#);
    let names: Vec<_> = devices["data"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["relay", "room"]);
    assert_eq!(devices["data"]["room"]["availability"], "online");
    assert_eq!(devices["data"]["relay"]["points"]["lamp"]["value"], false);
    assert_eq!(devices["data"]["relay"]["points"]["fan"]["value"], true);
    house.client(V5, "one");
    house.count(|host| host.turns = 1234);
    let status = house.answer(r#"{"verb":"status"}"#)["data"].clone();
    assert_eq!(status["name"], "shed");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["uptime_s"], 5);
    assert_eq!(status["health"], json!({"state": "ok", "reason": ""}));
    assert_eq!(status["host"]["turns"], 1234);
    assert_eq!(status["broker"]["connected"], 1);
    assert!(status["gateway"]["bytes_received"].as_u64().unwrap() > 0);
    assert!(status["gateway"]["bytes_sent"].as_u64().unwrap() > 0);
    assert_eq!(status["field"]["buses"]["i2c.1"]["no_answer"], 0);
}

#[test]
fn a_malformed_line_gets_its_one_answer() {
    let mut house = House::new();
    for (line, story) in [
        (&b""[..], "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "a request is a JSON object"),
        (b"\"read\"", "a request is a JSON object"),
        (b"{}", "there is no request \"\""),
        (br#"{"verb":7}"#, "there is no request \"\""),
        (br#"{"verb":"rea"}"#, "there is no request \"rea\""),
        (br#"{"verb":"read"}"#, "there is no point \"\""),
        (
            br#"{"verb":"read","point":"room"}"#,
            "there is no point \"room\"",
        ),
        (
            br#"{"verb":"read","point":["room/temperature"]}"#,
            "there is no point",
        ),
        (
            br#"{"verb":"set","point":"relay/lamp"}"#,
            "`value` is missing",
        ),
        (
            br#"{"verb":"set","point":"relay/lamp","value":null}"#,
            "bad_value: ",
        ),
        (
            br#"{"verb":"set","point":"relay/lamp","value":"maybe"}"#,
            "bad_value: ",
        ),
        (
            br#"{"verb":"set","point":"relay/lamp","value":true,"for":"2"}"#,
            "write \"2s\"",
        ),
        (
            br#"{"verb":"set","point":"relay/lamp","value":true,"for":{}}"#,
            "bad_value: ",
        ),
        (
            br#"{"verb":"set","point":"room/temperature","value":1}"#,
            "refused: ",
        ),
    ] {
        house.take_said();
        house.ask_bytes(5, line);
        let answers = house.take_answers();
        let shown = String::from_utf8_lossy(line);
        assert_eq!(answers.len(), 1, "{shown}: {answers:?}");
        let (client, answer) = &answers[0];
        assert_eq!(
            (*client, &answer["status"]),
            (5, &json!("error")),
            "{shown}"
        );
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(story), "{shown}: {error}");
    }
    assert!(!house.levels()[&17]);
}

#[test]
fn any_transaction_comes_back_as_it_was() {
    let mut house = House::new();
    for transaction in [
        "\"a \\\"b\\\"\"",
        "7",
        "1.0",
        "18446744073709551616",
        "null",
        "{\"x\":[1]}",
    ] {
        for verb in [
            r#""status""#,
            r#""nonsense""#,
            r#""read","point":"room/temperature""#,
        ] {
            house.take_said();
            house.ask(
                0,
                &format!(r#"{{"verb":{verb},"transaction":{transaction}}}"#),
            );
            let said = house.take_said().join("\n");
            let end = format!(",\"transaction\":{transaction}}}");
            assert!(said.ends_with(&end), "{said}");
        }
    }
}

#[test]
fn one_request_too_many_is_refused_and_counted() {
    const PENDING_MAX: usize = 64;
    let mut house = House::new();
    for _ in 0..PENDING_MAX {
        house.ask(1, r#"{"verb":"reload"}"#);
    }
    assert_eq!(house.take_answers(), []);
    for line in [
        r#"{"verb":"reload"}"#,
        r#"{"verb":"read","point":"room/temperature"}"#,
    ] {
        let answer = house.answer(line);
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with("busy: "), "{error}");
    }
    // What needs no waiting is answered all the same, and one that ends makes room.
    let status = house.answer(r#"{"verb":"status"}"#);
    assert_eq!(status["data"]["gateway"]["requests_refused"], 2);
    house.loaded(Err("no"));
    assert_eq!(house.take_answers().len(), 1);
    let answer = house.answer(r#"{"verb":"read","point":"room/temperature"}"#);
    assert_eq!(answer["status"], "ok");
}

#[test]
fn commands_of_one_point_are_limited_too() {
    let mut house = House::new();
    house.holds_bus = true;
    let line = r#"{"verb":"read","point":"room/temperature"}"#;
    for _ in 0..8 {
        house.ask(1, line);
    }
    assert_eq!(house.take_answers(), []);
    let error = house.answer(line)["error"].to_string();
    assert!(error.contains("busy: "), "{error}");
    // Nobody waits for ever.
    house.wait(Duration::from_secs(20));
    let answers = house.take_answers();
    assert_eq!(answers.len(), 8, "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|(client, answer)| *client == 1 && answer["status"] == "error")
    );
}

#[test]
fn a_client_that_is_gone_is_not_answered_and_holds_no_place() {
    let mut house = House::new();
    house.control(1, ControlEvent::Opened);
    house.control(2, ControlEvent::Opened);
    for client in [1, 2] {
        for _ in 0..32 {
            house.ask(client, r#"{"verb":"reload"}"#);
        }
    }
    house.control(1, ControlEvent::Closed);
    house.take_said();
    house.ask(3, r#"{"verb":"reload"}"#);
    assert_eq!(house.take_said(), ["load"], "there is room again");
    for _ in 0..65 {
        house.loaded(Err("no"));
    }
    let answers = house.take_answers();
    let to = |client| answers.iter().filter(|(to, _)| *to == client).count();
    assert_eq!((to(1), to(2), to(3)), (0, 32, 1));
}

#[test]
fn a_request_may_come_as_a_message() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.subscribe(client, "shed/gateway/response/+");
    house.subscribe(client, "answers/#");
    house.read_all(client);
    let read = r#"{"point":"room/temperature","transaction":1}"#;
    house.publish(client, Q1, "shed/gateway/request/read", read);
    let all = house.read_all(client);
    assert_eq!(all.len(), 2, "{all:?}");
    let answer = all
        .iter()
        .find(|packet| packet.starts_with("PUBLISH "))
        .unwrap();
    let (topic, json) = answer.split_once(" = ").unwrap();
    assert_eq!(topic, "PUBLISH shed/gateway/response/read");
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!(
        (&json["status"], &json["transaction"]),
        (&json!("ok"), &json!(1))
    );
    assert_eq!(json["data"]["value"], 21);

    // With a Response Topic of its own, it goes there as well.
    house.publish_with(client, Q1, "shed/gateway/request/nonsense", "", |publish| {
        asks_for(publish, "answers/1");
    });
    let topics: Vec<_> = house
        .read_values(client)
        .iter()
        .map(|line| {
            assert!(line.ends_with(" #42"), "{line}");
            line.split(" = ").next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(topics, ["shed/gateway/response/nonsense", "answers/1"]);

    // But nobody makes the gateway speak for its own points, or command itself.
    for topic in [
        "shed/room/temperature",
        "shed/relay/lamp/set",
        "$SYS/broker/version",
    ] {
        house.publish_with(client, Q1, "shed/gateway/request/status", "", |publish| {
            asks_for(publish, topic);
        });
        let told = house.read_values(client);
        assert_eq!(told.len(), 1, "{told:?}");
    }
    assert!(!house.levels()[&17]);

    // A retained one is refused, and not kept.
    house.publish_with(client, Q1, "shed/gateway/request/status", "", |publish| {
        publish.retain = true;
    });
    let told = house.read_values(client).remove(0);
    assert!(told.contains("a retained request is not obeyed"), "{told}");
    assert_eq!(house.retained("shed/gateway/request/#"), [].into());
    house.publish(client, Q1, "shed/gateway/request/status", "[1]");
    let told = house.read_values(client).remove(0);
    assert!(told.contains("a request is a JSON object"), "{told}");
}
