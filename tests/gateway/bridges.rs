//! Bridges in the house: what goes up, what comes down, and what a reload or a stop does to them.

use std::time::Duration;

use fieldgate::gateway::boundary::{CloseCause, Input};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{Ack, AckProperties, Packet, PacketId, ReasonCode, ReasonCodes, Suback};

use fieldgate::slab::Key;

use crate::house::{House, Q1, V5, config};

/// A gateway without devices, and a bridge.
const BRIDGED: &str = r#"
[gateway]
name = "shed"
[bridge.cloud]
url = "mqtt://cloud.example"
[[bridge.cloud.send]]
filter = "plant/#"
except = ["plant/+/raw"]
to = "up/#"
[[bridge.cloud.receive]]
filter = "down/#"
qos = 1
"#;

fn puback(house: &mut House, conn: ConnId, number: u16) {
    let packet_id = PacketId::new(number).unwrap();
    house.send(conn, &Packet::Puback(Ack::success(packet_id)));
}

fn bridge(house: &mut House) -> serde_json::Value {
    house.answer(r#"{"verb":"status"}"#)["data"]["bridges"]["cloud"].clone()
}

#[test]
fn what_its_rules_name_goes_up_once_the_link_is_there_and_is_kept_until_it_is_acknowledged() {
    let mut house = House::with(BRIDGED);
    assert_eq!(house.dialled(), ["mqtt://cloud.example:1883"]);
    let client = house.client(V5, "client");
    for (topic, payload) in [
        ("plant/a", "1"),
        ("plant/a/raw", "no"),
        ("other", "no"),
        ("plant/a/set", "no"),
    ] {
        house.publish(client, Q1, topic, payload);
    }
    assert_eq!(bridge(&mut house)["queue"], 1);
    let conn = house.let_bridge_in(V5);
    assert_eq!(bridge(&mut house)["state"], "up");
    assert_eq!(house.read_values(conn), ["up/a = 1"]);
    house.publish(client, Q1, "plant/b", "2");
    assert_eq!(house.read_values(conn), ["up/b = 2"]);
    assert_eq!(bridge(&mut house)["inflight"], 2);
    // The link is lost: what was not acknowledged goes again.
    for number in 1..=2 {
        puback(&mut house, conn, number);
    }
    house.input(Input::Closed {
        conn,
        cause: CloseCause::Peer,
    });
    assert_eq!(bridge(&mut house)["state"], "waiting");
    house.wait(Duration::from_secs(2));
    let conn = house.let_bridge_in(V5);
    let said = house.read_values(conn);
    assert!(said.contains(&"up/b = 2".to_owned()), "{said:?}");
}

#[test]
fn what_comes_down_is_published_and_acknowledged() {
    let mut house = House::with(BRIDGED);
    let watcher = house.listener("watcher", "down/#");
    let conn = house.let_bridge_in(V5);
    house.read_all(conn);
    let suback = Packet::Suback(Suback {
        packet_id: PacketId::new(1).unwrap(),
        properties: AckProperties::default(),
        reasons: ReasonCodes::from_slice(&[ReasonCode::GrantedQos1]),
    });
    house.send(conn, &suback);
    house.publish(conn, Q1, "down/x", "hello");
    assert_eq!(house.read_values(watcher), ["down/x = hello"]);
    assert_eq!(house.read_all(conn), ["PUBACK 0x00"]);
    assert_eq!(bridge(&mut house)["counters"]["received"], 1);
}

#[test]
fn a_reload_touches_what_it_changes() {
    let mut house = House::with(BRIDGED);
    let client = house.client(V5, "client");
    house.publish_with(client, Q1, "extra/x", "kept", |publish| {
        publish.retain = true;
    });
    let conn = house.let_bridge_in(V5);
    house.read_all(conn);
    house.take_said();
    // Another rule: the connection stays, and what is retained for the new rule is sent.
    let more = format!("{BRIDGED}[[bridge.cloud.send]]\nfilter = \"extra/#\"\n");
    house.reload(&more);
    assert_eq!(house.take_said(), ["reloading", "reloaded"]);
    assert_eq!(house.read_values(conn), ["extra/x = (retained) kept"]);
    // The same again: nothing is sent twice.
    house.reload(&format!(
        "{more}# a comment\n[broker]\nmax_connections = 99\n"
    ));
    assert_eq!(house.read_values(conn), [""; 0]);
    house.publish(client, Q1, "plant/a", "1");
    assert_eq!(house.read_values(conn), ["up/a = 1"]);
    // Another address: the bridge says goodbye, and dials there.
    house.take_said();
    house.reload(&more.replace("cloud.example", "other.example"));
    assert!(house.read_all(conn).contains(&"DISCONNECT 0x00".to_owned()));
    assert_eq!(house.dialled(), ["mqtt://other.example:1883"]);
    let conn = house.let_bridge_in(V5);
    house.read_all(conn);
    // It is taken out: nothing is left of it.
    house.reload("[gateway]\nname = \"shed\"\n");
    assert!(house.read_all(conn).contains(&"DISCONNECT 0x00".to_owned()));
    house.publish(client, Q1, "plant/a", "2");
    let status = house.answer(r#"{"verb":"status"}"#);
    assert_eq!(status["data"]["bridges"], serde_json::json!({}));
    assert!(house.dialled().is_empty());
}

#[test]
fn a_stop_says_offline_upstream() {
    let text = BRIDGED.replace("url =", "state_topic = \"up/shed\"\nurl =");
    let mut house = House::with(&text);
    let conn = house.let_bridge_in(V5);
    assert_eq!(house.read_values(conn), ["up/shed = (retained) online"]);
    house.take_said();
    house.input(Input::Stop);
    let said = house.read_all(conn);
    assert_eq!(
        said,
        ["PUBLISH up/shed = (retained) offline", "DISCONNECT 0x00"]
    );
    assert!(house.take_said().contains(&"stopped".to_owned()));
}

#[test]
fn what_the_peer_never_takes_is_written_down_and_the_queue_moves_on() {
    let mut house = House::with(BRIDGED);
    let client = house.client(V5, "client");
    let watcher = house.listener("watcher", "shed/gateway/events/#");
    let conn = house.let_bridge_in(V5);
    house.read_all(conn);
    house.publish(client, Q1, "plant/bad", "x");
    house.publish(client, Q1, "plant/good", "y");
    let said = house.read_values(conn);
    assert_eq!(said, ["up/bad = x", "up/good = y"]);
    house.take_said();
    // The first packet identifier of a publication is that behind the one of SUBSCRIBE.
    let refusal = Ack::new(PacketId::new(2).unwrap(), ReasonCode::NotAuthorized);
    house.send(conn, &Packet::Puback(refusal));
    let said = house.take_said().join("\n");
    let letter = said.strip_prefix("dead letter cloud: ").unwrap_or(&said);
    let letter: serde_json::Value = serde_json::from_str(letter).expect("it is JSON");
    assert_eq!(letter["topic"], "up/bad");
    assert_eq!(letter["payload"], "x");
    assert_eq!(letter["reason"], "refused: Not authorized (0x87)");
    let event = "shed/gateway/events/dead_letter = cloud: up/bad: refused: Not authorized (0x87)";
    assert!(house.read_values(watcher).contains(&event.to_owned()));
    assert_eq!(bridge(&mut house)["counters"]["dead_letters"], 1);
}

#[test]
fn the_queue_is_shown_and_can_be_dropped() {
    let mut house = House::with(BRIDGED);
    let client = house.client(V5, "client");
    for payload in ["1", "2", "3"] {
        house.publish(client, Q1, "plant/a", payload);
    }
    let queue = house.answer(r#"{"verb":"queue"}"#)["data"]["bridges"]["cloud"].clone();
    assert_eq!(
        (&queue["messages"], &queue["kept"]),
        (&3.into(), &false.into())
    );
    let dropped = house.answer(r#"{"verb":"queue","drop":"cloud"}"#);
    assert_eq!(dropped["data"]["dropped"], 3);
    assert_eq!(dropped["data"]["bridges"]["cloud"]["messages"], 0);
    let refused = house.answer(r#"{"verb":"queue","drop":"clod"}"#);
    assert_eq!(
        refused["error"],
        "no bridge has a queue of the name \"clod\""
    );
    let conn = house.let_bridge_in(V5);
    assert_eq!(house.read_values(conn), [""; 0]);
}

#[test]
fn a_link_that_is_down_is_a_fault_until_it_is_up() {
    let mut house = House::with(BRIDGED);
    let watcher = house.listener("watcher", "shed/gateway/events/#");
    house.fail_dialled("no route to host");
    house.wait(Duration::from_secs(2));
    let health = house.retained("shed/gateway/health/#");
    assert_eq!(health["shed/gateway/health/state"], "fault");
    let reason = &health["shed/gateway/health/reason"];
    assert_eq!(reason, "bridge cloud is down: no route to host");
    house.let_bridge_in(V5);
    house.wait(Duration::from_secs(2));
    let health = house.retained("shed/gateway/health/#");
    assert_eq!(health["shed/gateway/health/state"], "ok");
    let said = house.read_values(watcher);
    assert_eq!(said, ["shed/gateway/events/bridge_up = cloud"]);
}

#[test]
fn a_dial_that_nobody_waits_for_is_closed() {
    let mut house = House::with(BRIDGED);
    house.reload("[gateway]\nname = \"shed\"\n");
    house.take_said();
    assert_eq!(config(BRIDGED).bridges.len(), 1);
    let conn = house.open_dialled();
    assert!(
        house
            .take_said()
            .contains(&format!("close {} now", conn.slot()))
    );
}
