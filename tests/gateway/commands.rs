//! Commands by message, and who may speak for the gateway.

use std::time::Duration;

use crate::house::{House, Q0, Q1, Q2, V4, V5, asks_for};

#[test]
fn a_command_has_exactly_one_result() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.subscribe(client, "shed/+/+/result");
    house.read_all(client);
    for (topic, payload, result) in [
        (
            "shed/relay/lamp/set",
            "on",
            r#"{"status":"ok","value":true,"latency_ms":0}"#,
        ),
        (
            "shed/relay/lamp/get",
            "",
            r#"{"status":"ok","value":true,"latency_ms":0}"#,
        ),
        (
            "shed/relay/lamp/set",
            r#"{"value":"toggle","transaction":"t"}"#,
            r#"{"status":"ok","value":false,"transaction":"t","latency_ms":0}"#,
        ),
        (
            "shed/room/temperature/get",
            "",
            r#"{"status":"ok","value":21,"latency_ms":0}"#,
        ),
    ] {
        house.publish(client, Q0, topic, payload);
        let point = topic.rsplit_once('/').unwrap().0;
        assert_eq!(
            house.read_values(client),
            [format!("{point}/result = {result}")]
        );
    }
    for (topic, payload, kind) in [
        ("shed/relay/lamp/set", "maybe", "bad_value"),
        ("shed/room/temperature/set", "20", "refused"),
    ] {
        house.publish(client, Q0, topic, payload);
        let told = house.read_values(client);
        assert_eq!(told.len(), 1, "{told:?}");
        let start = format!(r#"{{"status":"error","error":"{kind}: "#);
        assert!(told[0].contains(&start), "{told:?}");
    }
    // Nothing comes afterwards, and a point that does not exist has nobody to answer.
    house.publish(client, Q0, "shed/relay/bogus/set", "on");
    house.wait(Duration::from_secs(60));
    assert_eq!(house.read_values(client), [""; 0]);
}

#[test]
fn a_command_of_qos_2_is_obeyed_once() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.subscribe(client, "shed/relay/lamp/result");
    house.read_all(client);
    let toggle = |house: &mut House, dup| {
        house.publish_with(client, Q2, "shed/relay/lamp/set", "toggle", |publish| {
            publish.dup = dup;
            publish.packet_id = fieldgate::mqtt::PacketId::new(100);
        });
    };
    toggle(&mut house, false);
    toggle(&mut house, true);
    let all = house.read_all(client);
    assert_eq!(
        all.iter().filter(|packet| *packet == "PUBREC 0x00").count(),
        2,
        "{all:?}"
    );
    assert_eq!(
        all.iter()
            .filter(|packet| packet.starts_with("PUBLISH "))
            .count(),
        1
    );
    assert!(house.levels()[&17]);
    house.pubrel(client, 100);
    assert_eq!(house.read_all(client), ["PUBCOMP 0x00"]);
    assert!(house.levels()[&17]);
}

#[test]
fn a_result_goes_where_its_sender_wants_it_too() {
    let mut house = House::new();
    let client = house.client(V5, "client");
    house.subscribe(client, "answers/#");
    house.subscribe(client, "shed/relay/lamp/result");
    house.read_all(client);
    house.publish_with(client, Q0, "shed/relay/lamp/set", "on", |publish| {
        asks_for(publish, "answers/lamp");
    });
    let result = r#"{"status":"ok","value":true,"latency_ms":0} #42"#;
    assert_eq!(
        house.read_values(client),
        [
            format!("shed/relay/lamp/result = {result}"),
            format!("answers/lamp = {result}")
        ]
    );
}

#[test]
fn a_retained_command_is_refused_and_not_kept() {
    for version in [V4, V5] {
        let mut house = House::new();
        let client = house.client(version, "client");
        house.subscribe(client, "shed/relay/lamp/result");
        house.read_all(client);
        house.publish_with(client, Q0, "shed/relay/lamp/set", "on", |publish| {
            publish.retain = true;
        });
        let told = house.read_values(client);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains(r#""error":"refused: a retained command"#),
            "{told:?}"
        );
        assert!(!house.levels()[&17]);
        assert_eq!(house.retained("shed/relay/lamp/set"), [].into());
        let status = house.answer(r#"{"verb":"status"}"#);
        assert_eq!(status["data"]["broker"]["retained_commands"], 1);
    }
}

#[test]
fn nobody_speaks_for_the_gateway() {
    let owned = [
        "shed/room/temperature",
        "shed/room/temperature/quality",
        "shed/room/availability",
        "shed/relay/lamp/result",
        "shed/gateway/state",
        "shed/gateway/health/state",
        "shed/gateway/response/read",
        "shed",
        "$SYS/broker/version",
    ];
    let mut house = House::new();
    let before = house.retained("shed/#");
    let watcher = house.listener("watcher", "shed/#");
    let system = house.listener("system", "$SYS/broker/version");
    let five = house.client(V5, "five");
    let three = house.client(V4, "three");
    for topic in owned {
        for retain in [false, true] {
            let mut send = |conn, qos| {
                house.publish_with(conn, qos, topic, "forged", |publish| {
                    publish.retain = retain;
                });
                house.read_all(conn)
            };
            assert_eq!(send(five, Q0), [""; 0], "{topic}");
            assert_eq!(send(five, Q1), ["PUBACK 0x87"], "{topic}");
            assert_eq!(send(five, Q2), ["PUBREC 0x87"], "{topic}");
            // 3.1.1 cannot say no: it is acknowledged, dropped and counted.
            assert_eq!(send(three, Q0), [""; 0], "{topic}");
            assert_eq!(send(three, Q1), ["PUBACK 0x00"], "{topic}");
        }
    }
    assert_eq!(house.read_values(watcher), [""; 0]);
    assert_eq!(house.read_values(system), [""; 0]);
    assert_eq!(house.retained("shed/#"), before);
    let status = house.answer(r#"{"verb":"status"}"#);
    let refused = status["data"]["broker"]["refused_publishes"]
        .as_u64()
        .unwrap();
    assert_eq!(refused, owned.len() as u64 * 2 * 5);
    // Elsewhere everybody may, and below points to commands.
    house.publish(five, Q1, "elsewhere", "free");
    house.publish(five, Q1, "shed/relay/lamp/set", "on");
    assert_eq!(house.read_all(five), ["PUBACK 0x10", "PUBACK 0x00"]);
    assert!(house.levels()[&17]);
}
