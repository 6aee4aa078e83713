//! QoS 2 between a bridge and its upstream broker, when the power goes in the middle of it.

use std::time::Duration;

use fieldgate::gateway::boundary::{CloseCause, Input};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Ack, AckProperties, Packet, PacketId, Publish, PublishProperties, ReasonCode, ReasonCodes,
    Suback,
};

use crate::house::{House, Q1, Q2, V4, V5};

const BRIDGED: &str = r#"
[gateway]
name = "shed"
data_dir = "/nowhere"
[journal]
size = "512KiB"
segment = "64KiB"
sync_within = "50ms"
[broker]
connect_rate = "unlimited"
[bridge.cloud]
url = "mqtt://cloud.example"
state_topic = ""
[[bridge.cloud.send]]
filter = "plant/#"
qos = 2
[[bridge.cloud.receive]]
filter = "down/#"
qos = 2
"#;

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not 0")
}

/// What the bridge sends first has the second identifier: SUBSCRIBE has the first.
fn pubrec(house: &mut House, conn: ConnId, number: u16) {
    house.send(conn, &Packet::Pubrec(Ack::success(id(number))));
}

fn pubrel(house: &mut House, conn: ConnId, number: u16) {
    house.send(conn, &Packet::Pubrel(Ack::success(id(number))));
}

fn pubcomp(house: &mut House, conn: ConnId, number: u16) {
    house.send(conn, &Packet::Pubcomp(Ack::success(id(number))));
}

fn publish_down(house: &mut House, conn: ConnId, number: u16, dup: bool, payload: &str) {
    let publish = Packet::Publish(Publish {
        dup,
        qos: Q2,
        retain: false,
        topic: "down/x",
        packet_id: Some(id(number)),
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    });
    house.send(conn, &publish);
}

/// Publishes on the plant's behalf, and waits until that is kept.
fn tell(house: &mut House, payloads: &[&str]) {
    let client = house.client(V5, "client");
    for payload in payloads {
        house.publish(client, Q1, "plant/a", payload);
    }
    house.read_all(client);
}

/// After this, all that happened before is on the disk.
fn sync(house: &mut House) {
    let client = house.client(V5, "other");
    house.publish_with(client, Q1, "elsewhere", "x", |publish| {
        publish.retain = true;
    });
    assert_eq!(house.read_all(client).len(), 1);
}

/// The power goes and comes back; the peer has kept the session.
fn cut_and_resume(house: &mut House) -> ConnId {
    house.cut_power(BRIDGED);
    let (conn, is_clean) = house.welcome_bridge(V5, true);
    assert!(!is_clean, "a clean session would lose what is half way");
    conn
}

/// What was sent since, but for subscriptions.
fn said(house: &mut House, conn: ConnId) -> Vec<String> {
    let mut said = house.read_exactly(conn);
    said.retain(|packet| packet != "SUBSCRIBE");
    said
}

/// With the disk held, nothing of `expected` is sent; then all of it.
fn waits_for_the_disk(house: &mut House, conn: ConnId, expected: &[&str]) {
    assert_eq!(said(house, conn), [""; 0], "before it is on the disk");
    house.holds_disk = false;
    house.turn();
    assert_eq!(said(house, conn), expected);
}

#[test]
fn every_step_up_waits_for_the_disk() {
    let mut house = House::with(BRIDGED);
    tell(&mut house, &["1", "2"]);
    house.holds_disk = true;
    let conn = house.let_bridge_in(V5);
    let both = ["PUBLISH 2 plant/a = 1", "PUBLISH 3 plant/a = 2"];
    waits_for_the_disk(&mut house, conn, &both);
    house.holds_disk = true;
    pubrec(&mut house, conn, 3);
    waits_for_the_disk(&mut house, conn, &["PUBREL 3"]);
    pubcomp(&mut house, conn, 3);
    pubrec(&mut house, conn, 2);
    pubcomp(&mut house, conn, 2);
    sync(&mut house);
    let conn = cut_and_resume(&mut house);
    assert_eq!(said(&mut house, conn), [""; 0], "both are through");
}

/// A message has been sent, and nothing but its acknowledgement is awaited.
fn one_under_way() -> (House, ConnId) {
    let mut house =
        House::with(&BRIDGED.replace("state_topic", "keep_alive = \"off\"\nstate_topic"));
    tell(&mut house, &["1"]);
    let conn = house.let_bridge_in(V5);
    let suback = Packet::Suback(Suback {
        packet_id: id(1),
        properties: AckProperties::default(),
        reasons: ReasonCodes::from_slice(&[ReasonCode::GrantedQos2]),
    });
    house.send(conn, &suback);
    assert_eq!(said(&mut house, conn).len(), 1);
    (house, conn)
}

fn is_up(house: &mut House) -> bool {
    house.answer(r#"{"verb":"status"}"#)["data"]["bridges"]["cloud"]["state"] == "up"
}

#[test]
fn a_peer_that_answers_nothing_is_left_while_more_is_noted_for_it() {
    let (mut house, conn) = one_under_way();
    for payload in ["2", "3"] {
        house.wait(Duration::from_secs(12));
        tell(&mut house, &[payload]);
        assert_eq!(said(&mut house, conn).len(), 1);
    }
    assert!(is_up(&mut house));
    house.wait(Duration::from_secs(7));
    assert!(!is_up(&mut house), "the first has waited for 31 s");
}

#[test]
fn a_disk_that_takes_its_time_is_no_peer_that_does_not_answer() {
    let (mut house, conn) = one_under_way();
    house.holds_disk = true;
    pubrec(&mut house, conn, 2);
    house.wait(Duration::from_secs(15));
    assert!(is_up(&mut house));
    house.holds_disk = false;
    house.turn();
    assert_eq!(said(&mut house, conn), ["PUBREL 2"]);
    house.wait(Duration::from_secs(29));
    assert!(is_up(&mut house), "it has been awaited for 29 s");
    house.wait(Duration::from_secs(2));
    assert!(!is_up(&mut house));
}

#[test]
fn a_message_that_was_sent_before_a_power_cut_goes_again_as_the_same() {
    for (version, word) in [(V4, "3.1.1"), (V5, "5")] {
        let text = BRIDGED.replace("state_topic", &format!("version = \"{word}\"\nstate_topic"));
        let mut house = House::with(&text);
        tell(&mut house, &["1", "2"]);
        let mut conn = house.let_bridge_in(version);
        if version == V4 {
            // A clean session of 3.1.1 lasts as long as its connection.
            house.input(Input::Closed {
                conn,
                cause: CloseCause::Peer,
            });
            conn = house.let_bridge_in(version);
        }
        assert_eq!(said(&mut house, conn).len(), 2);
        house.cut_power(&text);
        let (conn, is_clean) = house.welcome_bridge(version, true);
        assert!(!is_clean);
        let again = ["PUBLISH 2 again plant/a = 1", "PUBLISH 3 again plant/a = 2"];
        assert_eq!(said(&mut house, conn), again);
        // Another one has another identifier.
        tell(&mut house, &["3"]);
        assert_eq!(said(&mut house, conn), ["PUBLISH 4 plant/a = 3"]);
    }
}

#[test]
fn a_message_that_the_peer_has_is_only_released_after_a_power_cut() {
    let mut house = House::with(BRIDGED);
    tell(&mut house, &["1", "2"]);
    let conn = house.let_bridge_in(V5);
    pubrec(&mut house, conn, 2);
    for _ in 0..2 {
        let conn = cut_and_resume(&mut house);
        let expected = ["PUBREL 2", "PUBLISH 3 again plant/a = 2"];
        assert_eq!(said(&mut house, conn), expected);
    }
}

#[test]
fn what_is_through_stays_so_while_an_older_message_waits() {
    let mut house = House::with(BRIDGED);
    tell(&mut house, &["1", "2", "3"]);
    let conn = house.let_bridge_in(V5);
    for number in [3, 4] {
        pubrec(&mut house, conn, number);
        pubcomp(&mut house, conn, number);
    }
    sync(&mut house);
    for _ in 0..2 {
        let conn = cut_and_resume(&mut house);
        assert_eq!(said(&mut house, conn), ["PUBLISH 2 again plant/a = 1"]);
    }
    pubrec_and_all(&mut house);
}

/// The last one goes through too: nothing is left in the queue.
fn pubrec_and_all(house: &mut House) {
    let conn = cut_and_resume(house);
    pubrec(house, conn, 2);
    pubcomp(house, conn, 2);
    let queues = house.answer(r#"{"verb":"queue"}"#);
    assert_eq!(queues["data"]["bridges"]["cloud"]["messages"], 0);
}

#[test]
fn a_message_far_behind_others_is_found_again_before_the_bridge_connects() {
    let mut house = House::with(BRIDGED);
    let payloads: Vec<String> = (1..=600).map(|number| number.to_string()).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let slow = BRIDGED.replace("state_topic", "replay_rate = \"1/s\"\nstate_topic");
    house.reload(&slow);
    tell(&mut house, &payloads);
    let conn = house.let_bridge_in(V5);
    tell(&mut house, &["live"]);
    let sent = said(&mut house, conn);
    let expected = ["PUBLISH 2 plant/a = 1", "PUBLISH 3 plant/a = live"];
    assert_eq!(sent, expected);
    house.cut_power(&slow);
    let (conn, _) = house.welcome_bridge(V5, true);
    let again = said(&mut house, conn);
    let expected = [
        "PUBLISH 2 again plant/a = 1",
        "PUBLISH 3 again plant/a = live",
    ];
    assert_eq!(again[..2], expected);
}

#[test]
fn a_bridge_that_nothing_is_known_of_begins_clean() {
    let journal = BRIDGED.find("data_dir").expect("it is there");
    let rest = BRIDGED.find("[broker]").expect("it is there");
    let without = format!("{}{}", &BRIDGED[..journal], &BRIDGED[rest..]);
    for text in [BRIDGED, &without] {
        let mut house = House::with(text);
        let (_, is_clean) = house.welcome_bridge(V5, false);
        assert!(is_clean, "{text}");
    }
}

#[test]
fn what_comes_down_is_delivered_once_across_a_power_cut() {
    let mut house = House::with(BRIDGED);
    let watcher = house.listener("watcher", "down/#");
    let conn = house.let_bridge_in(V5);
    said(&mut house, conn);
    house.holds_disk = true;
    publish_down(&mut house, conn, 5, false, "1");
    assert_eq!(house.read_values(watcher), [""; 0]);
    waits_for_the_disk(&mut house, conn, &["PUBREC 5"]);
    assert_eq!(house.read_values(watcher), ["down/x = 1"]);
    // The answer was lost.
    let conn = cut_and_resume(&mut house);
    let watcher = house.listener("watcher", "down/#");
    publish_down(&mut house, conn, 5, true, "1");
    assert_eq!(said(&mut house, conn), ["PUBREC 5"]);
    assert_eq!(house.read_values(watcher), [""; 0], "it was there before");
    house.holds_disk = true;
    pubrel(&mut house, conn, 5);
    waits_for_the_disk(&mut house, conn, &["PUBCOMP 5"]);
    // From here on the identifier stands for another message.
    let conn = cut_and_resume(&mut house);
    let watcher = house.listener("watcher", "down/#");
    publish_down(&mut house, conn, 5, false, "2");
    assert_eq!(house.read_values(watcher), ["down/x = 2"]);
}

#[test]
fn identifiers_of_a_session_that_the_peer_has_lost_are_forgotten_before_a_new_one_begins() {
    let mut house = House::with(BRIDGED);
    let conn = house.let_bridge_in(V5);
    publish_down(&mut house, conn, 5, false, "1");
    assert_eq!(said(&mut house, conn), ["PUBREC 5"]);
    house.cut_power(BRIDGED);
    house.holds_disk = false;
    house.turn();
    house.holds_disk = true;
    let conn = house.let_bridge_in(V5);
    let early = house.read_exactly(conn);
    assert_eq!(early, [""; 0], "it subscribes when the disk has that");
    house.holds_disk = false;
    house.turn();
    assert_eq!(house.read_exactly(conn), ["SUBSCRIBE"]);
    let conn = cut_and_resume(&mut house);
    let watcher = house.listener("watcher", "down/#");
    publish_down(&mut house, conn, 5, true, "2");
    assert_eq!(house.read_values(watcher), ["down/x = 2"]);
}

#[test]
fn of_a_queue_that_is_dropped_only_the_identifiers_under_way_are_left() {
    let mut house = House::with(BRIDGED);
    tell(&mut house, &["1"]);
    let conn = house.let_bridge_in(V5);
    assert_eq!(said(&mut house, conn).len(), 1);
    house.answer(r#"{"verb":"queue","drop":"cloud"}"#);
    let conn = cut_and_resume(&mut house);
    assert_eq!(said(&mut house, conn), ["PUBREL 2"]);
    pubcomp(&mut house, conn, 2);
    tell(&mut house, &["2"]);
    let sent = said(&mut house, conn);
    assert!(sent[0].ends_with("plant/a = 2"), "{sent:?}");
}

#[test]
fn a_bridge_that_comes_back_goes_on_with_what_was_half_way() {
    let mut house = House::with(BRIDGED);
    tell(&mut house, &["1", "2"]);
    let conn = house.let_bridge_in(V5);
    pubrec(&mut house, conn, 3);
    said(&mut house, conn);
    let without = BRIDGED.find("[bridge.cloud]").expect("it is there");
    house.reload(&BRIDGED[..without]);
    house.input(Input::Closed {
        conn,
        cause: CloseCause::Peer,
    });
    house.reload(BRIDGED);
    let (conn, is_clean) = house.welcome_bridge(V5, true);
    assert!(!is_clean);
    let expected = ["PUBREL 3", "PUBLISH 2 again plant/a = 1"];
    assert_eq!(said(&mut house, conn), expected);
}
