//! Bridges with a journal: what becomes of their queues when the power goes, when they are taken out
//! of the configuration, when somebody drops them, and when there is no room. And what of the points
//! outlives a power cut, and of wills.

use std::time::Duration;

use fieldgate::broker::keep::RETURN_GRACE;
use fieldgate::gateway::boundary::{CloseCause, Input};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, Publish, PublishProperties,
    ReasonCode, TopicName, Will, WillProperties,
};

use crate::house::{House, Q1, V4, V5};

const KEPT: &str = r#"
[gateway]
name = "shed"
data_dir = "/nowhere"
[journal]
size = "512KiB"
segment = "64KiB"
sync_within = "50ms"
[broker]
connect_rate = "unlimited"
"#;

const BRIDGE: &str = r#"
[bridge.cloud]
url = "mqtt://cloud.example"
state_topic = ""
[[bridge.cloud.send]]
filter = "plant/#"
to = "up/#"
"#;

fn bridged() -> String {
    format!("{KEPT}{BRIDGE}")
}

/// Acknowledges everything that comes until nothing does: the first has the identifier `from`.
fn drain(house: &mut House, conn: ConnId, mut from: u16) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut said = house.read_values(conn);
        if said.is_empty() {
            // What has waited is not sent faster than `replay_rate`.
            house.wait(Duration::from_secs(1));
            said = house.read_values(conn);
        }
        if said.is_empty() {
            return all;
        }
        for _ in &said {
            let packet_id = PacketId::new(from).expect("not so many");
            house.send(conn, &Packet::Puback(Ack::success(packet_id)));
            from += 1;
        }
        all.extend(said);
    }
}

fn queue(house: &mut House) -> serde_json::Value {
    house.answer(r#"{"verb":"queue"}"#)["data"]["bridges"]["cloud"].clone()
}

#[test]
fn what_was_acknowledged_goes_up_after_a_power_cut() {
    let mut house = House::with(&bridged());
    let client = house.client(V5, "client");
    for payload in ["1", "2", "3"] {
        house.publish(client, Q1, "plant/a", payload);
    }
    assert_eq!(house.read_all(client), ["PUBACK 0x00"; 3]);
    house.cut_power(&bridged());
    let conn = house.let_bridge_in(V5);
    assert_eq!(
        drain(&mut house, conn, 1),
        ["up/a = 1", "up/a = 2", "up/a = 3"]
    );
    assert_eq!(queue(&mut house)["messages"], 0);
}

#[test]
fn what_waits_on_the_disk_counts_for_the_limit_what_it_takes_there() {
    let config = bridged().replace("512KiB", "8MiB");
    let mut house = House::with(&config);
    let client = house.client(V5, "client");
    let payload = "x".repeat(64);
    for _ in 0..3000 {
        house.publish(client, Q1, "plant/a", &payload);
    }
    assert_eq!(house.read_all(client).len(), 3000);
    let bytes = |house: &mut House| {
        let queue = queue(house);
        assert_eq!(queue["messages"], 3000);
        queue["bytes"].as_f64().expect("a number")
    };
    let before = bytes(&mut house);
    house.cut_power(&config);
    let after = bytes(&mut house);
    assert!(after > 3000.0 * f64::from(64 + 7));
    assert!(
        (0.6..1.1).contains(&(after / before)),
        "{before} and then {after}"
    );
}

#[test]
fn the_disk_gets_its_next_batch_in_the_middle_of_a_turn() {
    let mut house = House::with(&bridged());
    let client = house.client(V5, "client");
    house.holds_disk = true;
    let publish = |number| {
        Packet::Publish(Publish {
            dup: false,
            qos: Q1,
            retain: false,
            topic: "plant/a",
            packet_id: PacketId::new(number),
            properties: PublishProperties::default(),
            payload: b"1",
        })
    };
    house.send_together(client, &[publish(1)]);
    house.take_in(client, &[publish(2)]);
    house.commit_one();
    house.take_in(client, &[publish(3)]);
    house.commit_one();
    // Two batches are on the disk, and the third is on its way there, before the turn has ended:
    // only then is anybody told.
    assert_eq!(house.read_all(client), [""; 0]);
    house.turn();
    assert_eq!(house.read_all(client), ["PUBACK 0x00"; 2]);
    house.commit_one();
    house.turn();
    assert_eq!(house.read_all(client), ["PUBACK 0x00"]);
}

#[test]
fn a_reload_before_the_journal_is_read_forgets_nothing() {
    let mut house = House::with(&bridged());
    let client = house.client(V5, "client");
    house.publish(client, Q1, "plant/a", "1");
    assert_eq!(house.read_all(client), ["PUBACK 0x00"]);
    house.holds_disk = true;
    house.cut_power(&bridged());
    house.take_said();
    let other = bridged().replace("cloud.example", "other.example");
    house.reload(&format!(
        "{other}[listener.main]\nbind = \"127.0.0.1:1884\"\n"
    ));
    assert!(house.dialled().is_empty(), "nothing is known yet");
    assert!(!house.take_said().join(" ").contains("listen"));
    house.holds_disk = false;
    house.turn();
    assert!(
        house
            .take_said()
            .contains(&"listen 127.0.0.1:1884".to_owned())
    );
    assert_eq!(house.dialled(), ["mqtt://other.example:1883"]);
    let conn = house.let_bridge_in(V5);
    assert_eq!(drain(&mut house, conn, 1), ["up/a = 1"]);
}

#[test]
fn the_queue_of_a_bridge_that_is_away_waits_for_it() {
    let mut house = House::with(&bridged());
    let client = house.client(V5, "client");
    house.publish(client, Q1, "plant/a", "1");
    house.publish(client, Q1, "plant/b", "2");
    house.reload(KEPT);
    let left = queue(&mut house);
    assert_eq!(
        (&left["configured"], &left["messages"]),
        (&false.into(), &2.into())
    );
    // What is published meanwhile it does not get, but for what is retained in the end.
    house.publish(client, Q1, "plant/a", "missed");
    for payload in ["old", "new"] {
        house.publish_with(client, Q1, "plant/c", payload, |publish| {
            publish.retain = true;
        });
    }
    house.cut_power(KEPT);
    assert_eq!(queue(&mut house)["messages"], 2);
    house.reload(&bridged());
    assert_eq!(queue(&mut house)["messages"], 3);
    let conn = house.let_bridge_in(V5);
    assert_eq!(
        drain(&mut house, conn, 1),
        ["up/a = 1", "up/b = 2", "up/c = (retained) new"]
    );
    // It was away once: what is retained is not sent again.
    house.wait(Duration::from_secs(15));
    house.cut_power(&bridged());
    let conn = house.let_bridge_in(V5);
    assert_eq!(drain(&mut house, conn, 1), [""; 0]);
    // And at last it is dropped.
    let client = house.client(V5, "client");
    house.publish(client, Q1, "plant/a", "4");
    house.reload(KEPT);
    let dropped = house.answer(r#"{"verb":"queue","drop":"cloud"}"#);
    assert!(dropped["data"]["dropped"].as_u64() >= Some(1), "{dropped}");
    assert_eq!(dropped["data"]["bridges"], serde_json::json!({}));
}

#[test]
fn what_was_dropped_from_the_queue_does_not_come_back_and_what_follows_does() {
    let mut house = House::with(&bridged());
    let client = house.client(V5, "client");
    for payload in ["1", "2", "3"] {
        house.publish(client, Q1, "plant/a", payload);
    }
    let dropped = house.answer(r#"{"verb":"queue","drop":"cloud"}"#);
    assert_eq!(dropped["data"]["dropped"], 3);
    assert_eq!(dropped["data"]["bridges"]["cloud"]["messages"], 0);
    house.publish(client, Q1, "plant/a", "4");
    assert_eq!(house.read_all(client), ["PUBACK 0x00"; 4]);
    house.cut_power(&bridged());
    let conn = house.let_bridge_in(V5);
    assert_eq!(drain(&mut house, conn, 1), ["up/a = 4"]);
}

#[test]
fn a_full_journal_has_room_again_when_the_bridge_has_sent_what_is_in_it() {
    let text = bridged();
    let mut house = House::with(&text);
    let payload = "x".repeat(8 * 1024);
    let mut acknowledged = 0;
    for _ in 0..100 {
        let client = house.client(V5, "client");
        house.publish(client, Q1, "plant/a", &payload);
        let said = house.read_all(client);
        if said != ["PUBACK 0x00"] {
            break;
        }
        acknowledged += 1;
        house.input(Input::Closed {
            conn: client,
            cause: CloseCause::Peer,
        });
    }
    let status = house.answer(r#"{"verb":"status"}"#);
    assert!((10..100).contains(&acknowledged), "{acknowledged} {status}");
    let conn = house.let_bridge_in(V5);
    let said = drain(&mut house, conn, 1);
    assert_eq!(said.len(), acknowledged);
    house.wait(Duration::from_secs(2));
    let client = house.client(V5, "client");
    house.publish(client, Q1, "plant/a", "after");
    assert_eq!(house.read_all(client), ["PUBACK 0x00"]);
    assert_eq!(house.read_values(conn), ["up/a = after"]);
}

#[test]
fn a_value_that_waited_does_not_take_the_place_of_a_newer_one_after_a_power_cut() {
    let text = bridged().replace("state_topic", "replay_rate = \"1/s\"\nstate_topic");
    let mut house = House::with(&text);
    let client = house.client(V5, "client");
    let retain = |house: &mut House, payload: &str| {
        house.publish_with(client, Q1, "plant/a", payload, |publish| {
            publish.retain = true;
        });
    };
    house.publish(client, Q1, "plant/b", "first");
    retain(&mut house, "old");
    retain(&mut house, "older");
    let conn = house.let_bridge_in(V5);
    assert_eq!(house.read_values(conn), ["up/b = first"]);
    retain(&mut house, "new");
    assert_eq!(house.read_values(conn), ["up/a = (retained) new"]);
    for number in 1..=2 {
        let packet_id = PacketId::new(number).unwrap();
        house.send(conn, &Packet::Puback(Ack::success(packet_id)));
    }
    // It is on the disk that these have been sent.
    house.publish(client, Q1, "elsewhere", "x");
    house.publish(client, Q1, "plant/b", "second");
    house.cut_power(&bridged());
    let conn = house.let_bridge_in(V5);
    let said = drain(&mut house, conn, 1);
    assert!(said.contains(&"up/a = old".to_owned()), "{said:?}");
    assert!(
        !said.contains(&"up/a = (retained) old".to_owned()),
        "{said:?}"
    );
    let last = said.iter().rfind(|it| it.contains("(retained)"));
    assert!(
        last.is_none_or(|it| it == "up/a = (retained) new"),
        "{said:?}"
    );
}

#[test]
fn an_upstream_broker_that_sends_faster_than_the_disk_waits_and_nobody_spins() {
    let receive = "[[bridge.cloud.receive]]\nfilter = \"down/#\"\nqos = 1\n";
    let text = format!("{}{receive}", bridged());
    let text = text.replace("url =", "version = \"3.1.1\"\nurl =");
    let mut house = House::with(&text);
    let conn = house.let_bridge_in(V4);
    house.read_all(conn);
    house.holds_disk = true;
    let packets: Vec<_> = (1..=50)
        .map(|number| {
            Packet::Publish(Publish {
                dup: false,
                qos: Q1,
                retain: true,
                topic: "down/x",
                packet_id: PacketId::new(number),
                properties: PublishProperties::default(),
                payload: b"1",
            })
        })
        .collect();
    // As many are taken as may wait, and then the turn ends.
    house.send_together(conn, &packets);
    assert_eq!(house.read_all(conn), [""; 0]);
    assert!(house.gateway.recv_buffer(conn).is_none(), "it is not read");
    assert!(
        house.is_quiet(),
        "and not asked again before something has changed"
    );
    house.holds_disk = false;
    house.turn();
    house.wait(Duration::from_secs(1));
    assert_eq!(house.read_all(conn).len(), 50);
    assert!(house.gateway.recv_buffer(conn).is_some());
}

/// A client with a retained will whose session stays, or not.
fn dial_with_will(house: &mut House, client_id: &str, is_to_stay: bool) -> ConnId {
    house.dial_with(&Connect {
        version: V5,
        clean_start: !is_to_stay,
        keep_alive: 0,
        client_id,
        will: Some(Will {
            topic: TopicName::new("plant/state").expect("a topic"),
            payload: b"offline",
            qos: Q1,
            retain: true,
            properties: WillProperties::default(),
        }),
        username: None,
        password: None,
        properties: ConnectProperties {
            session_expiry_interval: is_to_stay.then_some(3600),
            ..ConnectProperties::default()
        },
    })
}

fn goes_online(house: &mut House, client_id: &str, is_to_stay: bool) -> ConnId {
    let conn = dial_with_will(house, client_id, is_to_stay);
    house.publish_with(conn, Q1, "plant/state", "online", |publish| {
        publish.retain = true;
    });
    // In 5.0 it is told whether anybody takes it.
    let said = house.read_all(conn);
    assert!(said.len() == 2 && said[1].starts_with("PUBACK"), "{said:?}");
    conn
}

fn state(house: &mut House) -> Option<String> {
    house.retained("plant/state").remove("plant/state")
}

#[test]
fn who_is_gone_after_a_power_cut_is_told_of_here_and_upstream() {
    for is_to_stay in [true, false] {
        let mut house = House::with(&bridged());
        goes_online(&mut house, "client", is_to_stay);
        house.wait(Duration::from_secs(1));
        for _ in 0..2 {
            house.cut_power(&bridged());
            assert_eq!(state(&mut house).as_deref(), Some("online"));
        }
        house.wait(RETURN_GRACE);
        assert_eq!(state(&mut house).as_deref(), Some("offline"));
        house.cut_power(&bridged());
        assert_eq!(state(&mut house).as_deref(), Some("offline"));
        let conn = house.let_bridge_in(V5);
        let said = drain(&mut house, conn, 1);
        let last = said.last().map(String::as_str);
        assert_eq!(last, Some("up/state = (retained) offline"), "{said:?}");
        house.wait(RETURN_GRACE * 2);
        assert_eq!(house.gateway.broker().stats().wills_published, 0);
    }
}

#[test]
fn a_stop_publishes_a_will_and_the_next_start_does_not() {
    for is_to_stay in [true, false] {
        let mut house = House::with(KEPT);
        goes_online(&mut house, "client", is_to_stay);
        house.take_said();
        house.input(Input::Stop);
        house.wait(Duration::from_secs(3));
        assert!(house.take_said().contains(&"stopped".to_owned()));
        assert_eq!(house.gateway.broker().stats().wills_published, 1);
        house.cut_power(KEPT);
        assert_eq!(state(&mut house).as_deref(), Some("offline"));
        house.wait(RETURN_GRACE * 2);
        let stats = house.gateway.broker().stats();
        assert_eq!((stats.recovered_wills, stats.wills_published), (0, 0));
    }
}

/// Messages that wait for the bridge until the journal takes no more, of any length.
fn fill(house: &mut House) {
    for len in [8 * 1024, 256, 1] {
        let payload = "x".repeat(len);
        let mut left = 100;
        loop {
            let client = house.client(V5, "filler");
            house.publish(client, Q1, "plant/a", &payload);
            if house.read_all(client) != ["PUBACK 0x00"] {
                break;
            }
            house.input(Input::Closed {
                conn: client,
                cause: CloseCause::Peer,
            });
            left -= 1;
            assert!(left > 0, "it is not full");
        }
    }
}

#[test]
fn a_full_journal_lets_clients_in_whose_wills_it_does_not_take() {
    for is_to_stay in [true, false] {
        let mut house = House::with(&bridged());
        // A session that is there already needs little.
        let conn = dial_with_will(&mut house, "client", is_to_stay);
        let goodbye = Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
        house.send(conn, &Packet::Disconnect(goodbye));
        fill(&mut house);
        let conn = dial_with_will(&mut house, "client", is_to_stay);
        assert_eq!(house.read_all(conn), ["CONNACK Success"]);
        assert_eq!(house.gateway.broker().stats().unkept_wills, 1);
        house.cut_power(&bridged());
        assert_eq!(house.gateway.broker().stats().recovered_wills, 0);
    }
}

#[test]
fn a_will_stays_whose_publication_a_full_journal_does_not_take() {
    for is_to_stay in [true, false] {
        let mut house = House::with(&bridged());
        let conn = goes_online(&mut house, "client", is_to_stay);
        fill(&mut house);
        house.input(Input::Closed {
            conn,
            cause: CloseCause::Peer,
        });
        assert_eq!(state(&mut house).as_deref(), Some("offline"));
        house.wait(Duration::from_secs(2));
        house.cut_power(&bridged());
        let conn = house.let_bridge_in(V5);
        drain(&mut house, conn, 1);
        house.wait(RETURN_GRACE);
        assert_eq!(state(&mut house).as_deref(), Some("offline"));
        assert_eq!(house.gateway.broker().stats().wills_published, 1);
        // Who has come back meanwhile is not gone, whatever is left of its last connection.
        let mut house = House::with(&bridged());
        let conn = goes_online(&mut house, "client", is_to_stay);
        fill(&mut house);
        house.input(Input::Closed {
            conn,
            cause: CloseCause::Peer,
        });
        let conn = house.let_bridge_in(V5);
        drain(&mut house, conn, 1);
        house.client(V5, "client");
        house.wait(Duration::from_secs(2));
        house.cut_power(&bridged());
        assert_eq!(house.gateway.broker().stats().recovered_wills, 0);
    }
}

const METER: &str = r#"
[device.meter]
driver = "gpio"
bus = "gpio.header"
[device.meter.point.volume]
kind = "counter"
line = 4
persist = { pulses = 10, interval = "1m" }
"#;

fn metered() -> String {
    format!("{KEPT}{METER}")
}

fn read(house: &mut House, what: &str) -> u64 {
    let answer = house.answer(r#"{"verb":"read","point":"meter/volume"}"#);
    answer["data"][what].as_u64().expect("a number")
}

#[test]
fn a_meter_loses_no_more_in_a_power_cut_than_it_may_and_nothing_in_a_clean_stop() {
    let mut house = House::with(&metered());
    house.edges(4, 25);
    assert_eq!(read(&mut house, "value"), 25);
    house.wait(Duration::from_secs(1));
    house.cut_power(&metered());
    assert_eq!(read(&mut house, "value"), 20, "of ten pulses each");
    house.edges(4, 3);
    // Not ten of them, but a minute.
    house.wait(Duration::from_secs(80));
    house.cut_power(&metered());
    assert_eq!(read(&mut house, "value"), 23);
    house.edges(4, 4);
    house.take_said();
    house.input(Input::Stop);
    house.wait(Duration::from_secs(3));
    assert!(house.take_said().contains(&"stopped".to_owned()));
    house.cut_power(&metered());
    assert_eq!(read(&mut house, "value"), 27);
}

#[test]
fn a_meter_counts_on_through_reloads() {
    let mut house = House::with(&metered());
    house.edges(4, 7);
    // Its device is made anew.
    house.reload(&metered().replace("line = 4", "line = 4\nbias = \"pull-up\""));
    assert_eq!(read(&mut house, "value"), 7);
    house.edges(4, 2);
    // It is away, the power too, and comes back.
    house.reload(KEPT);
    house.wait(Duration::from_secs(2));
    house.cut_power(KEPT);
    house.reload(&metered());
    house.edges(4, 1);
    assert_eq!(read(&mut house, "value"), 10);
}

#[test]
fn sequence_numbers_go_on_behind_those_that_may_have_been_given_out() {
    let mut house = House::with(&metered());
    house.wait(Duration::from_secs(30));
    let before = read(&mut house, "seq");
    assert!(before > 0);
    for _ in 0..2 {
        let known = read(&mut house, "seq");
        house.cut_power(&metered());
        house.wait(Duration::from_secs(30));
        assert!(read(&mut house, "seq") > known + 1000);
    }
}

#[test]
fn no_device_is_read_before_its_numbers_are_on_the_disk_unless_that_takes_long() {
    let mut house = House::with(&metered());
    house.wait(Duration::from_secs(30));
    house.holds_commits = true;
    house.cut_power(&metered());
    assert!(!house.has_lines());
    house.holds_commits = false;
    house.turn();
    assert!(house.has_lines());
    house.holds_commits = true;
    house.cut_power(&metered());
    house.wait(Duration::from_secs(4));
    assert!(!house.has_lines());
    house.wait(Duration::from_secs(2));
    assert!(house.has_lines());
}

#[test]
fn who_brings_more_than_the_disk_takes_waits_and_nobody_else_does() {
    let receive = "[[bridge.cloud.receive]]\nfilter = \"down/#\"\nqos = 1\n";
    let text = format!("{}{receive}", bridged());
    let text = text.replace("512KiB", "64MiB").replace("64KiB", "4MiB");
    for version in [V4, V5] {
        let mut house = House::with(&text);
        let conn = house.let_bridge_in(V5);
        house.read_all(conn);
        let payload = "x".repeat(30_000);
        let clients: Vec<_> = (0..20)
            .map(|number| house.client(version, &format!("client-{number}")))
            .collect();
        let (other, watcher) = (house.client(V5, "other"), house.listener("watcher", "live"));
        house.holds_disk = true;
        // Six megabytes: more than may wait for the disk at all.
        let mut unread: Vec<Vec<u8>> = vec![Vec::new(); clients.len()];
        for number in 1..=10 {
            for (client, bytes) in clients.iter().zip(&mut unread) {
                let publish = Packet::Publish(Publish {
                    dup: false,
                    qos: Q1,
                    retain: false,
                    topic: "plant/a",
                    packet_id: PacketId::new(number),
                    properties: PublishProperties::default(),
                    payload: payload.as_bytes(),
                });
                publish.encode_into(version, bytes);
                house.offer(*client, bytes);
            }
        }
        let waiting: usize = unread.iter().map(Vec::len).sum();
        assert!(waiting > 2_000_000, "{waiting} bytes are not read");
        let paused = clients.iter();
        let paused = paused.filter(|it| house.gateway.recv_buffer(**it).is_none());
        assert_eq!(paused.count(), 20);
        house.publish(other, fieldgate::mqtt::QoS::AtMostOnce, "live", "1");
        assert_eq!(house.read_values(watcher), ["live = 1"]);
        let down = Packet::Publish(Publish {
            dup: false,
            qos: Q1,
            retain: true,
            topic: "down/x",
            packet_id: PacketId::new(9),
            properties: PublishProperties::default(),
            payload: b"1",
        });
        house.send(conn, &down);
        assert!(house.gateway.recv_buffer(conn).is_none(), "the peer waits");
        house.holds_disk = false;
        house.turn();
        for _ in 0..10 {
            for (client, bytes) in clients.iter().zip(&mut unread) {
                house.offer(*client, bytes);
            }
            house.wait(Duration::from_secs(1));
        }
        for client in &clients {
            assert_eq!(house.read_all(*client), ["PUBACK 0x00"; 10]);
        }
        assert!(house.read_all(conn).contains(&"PUBACK 0x00".to_owned()));
        assert_eq!(house.gateway.broker().stats().disconnected_unkept, 0);
        assert!(house.gateway.broker().stats().journal_pauses > 0);
    }
}
