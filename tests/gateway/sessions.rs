//! Sessions with a journal: what waits for a client that is away is on the disk, and comes from there.

use std::time::Duration;

use fieldgate::broker::WINDOW;
use fieldgate::gateway::boundary::{CloseCause, Input};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, Publish, PublishProperties,
};

use crate::house::{House, Q1, Q2, V5};
use crate::tags;

const KEPT: &str = r#"
[gateway]
name = "shed"
data_dir = "/nowhere"
[journal]
size = "16MiB"
segment = "256KiB"
sync_within = "50ms"
[broker]
queue = { messages = 100000, bytes = "64MiB" }
connect_rate = "unlimited"
"#;

/// A client whose session stays for an hour.
fn taker(house: &mut House) -> ConnId {
    house.dial_with(&Connect {
        version: V5,
        clean_start: false,
        keep_alive: 0,
        client_id: "taker",
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties {
            session_expiry_interval: Some(3600),
            ..ConnectProperties::default()
        },
    })
}

fn close(house: &mut House, conn: ConnId) {
    house.input(Input::Closed {
        conn,
        cause: CloseCause::Peer,
    });
}

/// A session that has subscribed, and whose client is gone.
fn away(house: &mut House) {
    let conn = taker(house);
    house.subscribe_at(conn, "plant/#", Q1);
    house.read_all(conn);
    close(house, conn);
}

/// Publishes these numbers at QoS 1 and waits for each answer.
fn publish(house: &mut House, conn: ConnId, numbers: core::ops::Range<u32>) {
    for number in numbers {
        house.publish(conn, Q1, "plant/a", &number.to_string());
    }
    house.wait(Duration::from_millis(100));
    for answer in house.read_all(conn) {
        assert_eq!(answer, "PUBACK 0x00");
    }
}

/// Acknowledges everything that comes until nothing does: the numbers in it.
fn drain(house: &mut House, conn: ConnId, from: u16) -> Vec<u32> {
    let (mut all, mut next) = (Vec::new(), from);
    loop {
        let said = house.read_values(conn);
        if said.is_empty() {
            return all;
        }
        for value in said {
            let packet_id = PacketId::new(next).expect("not so many");
            house.send(conn, &Packet::Puback(Ack::success(packet_id)));
            next += 1;
            let number = value.rsplit(' ').next().and_then(|word| word.parse().ok());
            all.push(number.expect("a number"));
        }
    }
}

fn queue(house: &mut House) -> serde_json::Value {
    house.answer(r#"{"verb":"queue"}"#)["data"]["sessions"]["longest"][0].clone()
}

fn in_order(numbers: core::ops::Range<u32>) -> Vec<u32> {
    numbers.collect()
}

#[test]
fn what_waits_for_a_client_that_is_away_is_on_the_disk_and_comes_in_order() {
    let mut house = House::with(KEPT);
    away(&mut house);
    let client = house.client(V5, "client");
    publish(&mut house, client, 0..2000);
    let found = queue(&mut house);
    assert_eq!(found["messages"], 2000, "{found}");
    assert_eq!(found["on_disk"], 2000 - WINDOW, "{found}");
    let stats = house.gateway.broker().stats();
    assert_eq!(stats.messages - stats.retained, WINDOW as u64);
    house.cut_power(KEPT);
    let found = queue(&mut house);
    assert_eq!(found["messages"], 2000, "{found}");
    assert_eq!(found["on_disk"], 2000, "{found}");
    let stats = house.gateway.broker().stats();
    assert_eq!(stats.messages, stats.retained);
    let conn = taker(&mut house);
    assert_eq!(drain(&mut house, conn, 1), in_order(0..2000));
    let client = house.client(V5, "client");
    publish(&mut house, client, 2000..2010);
    assert_eq!(drain(&mut house, conn, 2001), in_order(2000..2010));
    // What was acknowledged is over, as soon as that is written down.
    house.wait(Duration::from_secs(15));
    house.cut_power(KEPT);
    let conn = taker(&mut house);
    assert_eq!(drain(&mut house, conn, 1), [0; 0]);
}

/// An earlier build had all of it in memory, and has tagged it so.
#[test]
fn what_an_earlier_build_has_kept_for_a_session_comes_in_order() {
    let mut house = House::with(KEPT);
    away(&mut house);
    let client = house.client(V5, "client");
    publish(&mut house, client, 0..600);
    house.disk.crash();
    let mut early = 0;
    for slot in house.disk.slots() {
        let mut segment = house.disk.bytes(slot).expect("it is there").clone();
        early += tags::make_early(&mut segment);
        house.disk.put(slot, segment);
    }
    assert!(early > 600, "its entries and its state: {early}");
    house.cut_power(KEPT);
    let found = queue(&mut house);
    assert_eq!(found["messages"], 600, "{found}");
    assert_eq!(found["on_disk"], 600, "{found}");
    let conn = taker(&mut house);
    assert_eq!(drain(&mut house, conn, 1), in_order(0..600));
    let client = house.client(V5, "client");
    publish(&mut house, client, 600..610);
    assert_eq!(drain(&mut house, conn, 601), in_order(600..610));
    house.wait(Duration::from_secs(15));
    house.cut_power(KEPT);
    let conn = taker(&mut house);
    assert_eq!(drain(&mut house, conn, 1), [0; 0]);
}

#[test]
fn a_client_that_is_slow_gets_everything_in_order() {
    let mut house = House::with(KEPT);
    away(&mut house);
    let conn = taker(&mut house);
    let client = house.client(V5, "client");
    publish(&mut house, client, 0..1500);
    assert!(house.gateway.broker().stats().queued_on_disk > 0);
    assert_eq!(drain(&mut house, conn, 1), in_order(0..1500));
    assert_eq!(house.gateway.broker().stats().queued, 0);
}

#[test]
fn a_client_that_goes_while_the_disk_reads_for_it_misses_nothing() {
    let mut house = House::with(KEPT);
    away(&mut house);
    let client = house.client(V5, "client");
    publish(&mut house, client, 0..1000);
    house.cut_power(KEPT);
    house.holds_disk = true;
    for _ in 0..2 {
        let conn = taker(&mut house);
        assert_eq!(house.read_values(conn), [""; 0]);
        close(&mut house, conn);
    }
    let conn = taker(&mut house);
    house.holds_disk = false;
    house.turn();
    assert_eq!(drain(&mut house, conn, 1), in_order(0..1000));
}

#[test]
fn what_was_not_synced_is_neither_lost_to_its_publisher_nor_invented() {
    let mut house = House::with(KEPT);
    away(&mut house);
    let client = house.client(V5, "client");
    publish(&mut house, client, 0..300);
    house.holds_disk = true;
    for number in 300..315 {
        house.publish(client, Q1, "plant/a", &number.to_string());
    }
    assert_eq!(house.read_all(client), [""; 0], "nobody was promised these");
    house.holds_disk = false;
    house.cut_power(KEPT);
    let conn = taker(&mut house);
    let got = drain(&mut house, conn, 1);
    assert!(got.len() >= 300, "{}", got.len());
    assert_eq!(got, in_order(0..got.len() as u32));
}

#[test]
fn what_is_under_way_at_qos_2_is_known_before_anybody_is_let_in() {
    let mut house = House::with(KEPT);
    let conn = taker(&mut house);
    house.subscribe_at(conn, "plant/#", Q2);
    let client = house.client(V5, "client");
    for number in 0..400_u16 {
        house.send(
            client,
            &Packet::Publish(Publish {
                dup: false,
                qos: Q2,
                retain: false,
                topic: "plant/a",
                packet_id: PacketId::new(number + 1),
                properties: PublishProperties::default(),
                payload: number.to_string().as_bytes(),
            }),
        );
        house.pubrel(client, number + 1);
    }
    house.wait(Duration::from_millis(100));
    let sent = house.read_values(conn).len();
    assert!((1..400).contains(&sent), "{sent}");
    assert!(house.gateway.broker().stats().queued_on_disk > 0);
    house.holds_disk = true;
    house.take_said();
    house.cut_power(KEPT);
    assert!(!house.take_said().join(" ").contains("ready"));
    house.holds_disk = false;
    house.turn();
    let stats = house.gateway.broker().stats();
    assert_eq!(stats.messages - stats.retained, sent as u64);
    let conn = taker(&mut house);
    let mut got = Vec::new();
    loop {
        let said = house.read_values(conn);
        if said.is_empty() {
            break;
        }
        for value in said {
            got.push(value.rsplit(' ').next().and_then(|word| word.parse().ok()));
            let packet_id = PacketId::new(got.len() as u16).expect("not so many");
            house.send(conn, &Packet::Pubrec(Ack::success(packet_id)));
            house.send(conn, &Packet::Pubcomp(Ack::success(packet_id)));
        }
    }
    assert_eq!(got, (0..400).map(Some).collect::<Vec<Option<u32>>>());
}

/// The same, many in one read and so in one commit.
fn publish_together(house: &mut House, conn: ConnId, numbers: core::ops::Range<u32>) {
    let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
    for some in numbers.chunks(20) {
        let packets = (1..).zip(some).map(|(packet_id, number)| {
            Packet::Publish(Publish {
                dup: false,
                qos: Q1,
                retain: false,
                topic: "plant/a",
                packet_id: PacketId::new(packet_id),
                properties: PublishProperties::default(),
                payload: number.as_bytes(),
            })
        });
        let packets: Vec<_> = packets.collect();
        house.send_together(conn, &packets);
        house.wait(Duration::from_millis(100));
        assert_eq!(house.read_all(conn).len(), some.len());
    }
}

#[test]
fn memory_stays_flat_however_much_waits() {
    let mut house = House::with(KEPT);
    away(&mut house);
    let client = house.client(V5, "client");
    publish_together(&mut house, client, 0..1000);
    house.wait(Duration::from_secs(15));
    let before = house.gateway.memory().used();
    publish_together(&mut house, client, 1000..12_000);
    house.wait(Duration::from_secs(15));
    let after = house.gateway.memory().used();
    // A byte and a half for each: a bit, and its part of what is known of a run of 256.
    assert!(after < before + 11_000 * 3 / 2, "{before} {after}");
    assert_eq!(queue(&mut house)["messages"], 12_000);
    house.cut_power(KEPT);
    let after = house.gateway.memory().used();
    assert!(after < before + 11_000 * 3 / 2, "{before} {after}");
    assert_eq!(queue(&mut house)["messages"], 12_000);
}
