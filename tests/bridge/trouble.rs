//! Peers that stall, that are silent, and that say anything at all.

use super::house::*;
use fieldgate::bridge::Phase;
use fieldgate::mqtt::{ConnackProperties, Packet, Publish, ReasonCode};
use fieldgate::rng::Rng;
use fieldgate::time::Duration;

#[test]
fn a_peer_that_acknowledges_nothing_is_left() {
    let mut rig = Rig::new(settings());
    rig.connect();
    rig.seconds(29);
    rig.send("shed/a", "1", false);
    assert_eq!(rig.publishes().len(), 1);
    // It is alive: it answers what the keep-alive asks.
    rig.alive(29);
    assert_eq!(rig.bridge.phase(), Phase::Up);
    rig.seconds(2);
    assert_eq!(rig.bridge.stats().stalled, 1);
    assert_eq!(rig.closes.len(), 1);
    rig.pause();
    rig.connect_with(true, ConnackProperties::default());
    let again = rig.publishes();
    assert_eq!(payloads(&again), ["1"]);
    assert!(again[0].dup);
    // One that is slow is not left, and neither is one that has nothing to acknowledge.
    rig.send("shed/a", "2", false);
    let mut sent = again;
    sent.extend(rig.publishes());
    for it in sent {
        rig.alive(20);
        rig.ack(it.packet_id.unwrap());
    }
    rig.alive(1000);
    assert_eq!(rig.bridge.phase(), Phase::Up);
}

#[test]
fn a_subscription_that_is_not_answered_is_a_stall_too() {
    let mut rules = settings();
    rules.receive = vec![receive_rule("news/#", None, Q0)];
    let mut rig = Rig::new(rules);
    rig.open();
    rig.connack(false, ConnackProperties::default());
    rig.seconds(31);
    assert_eq!(rig.bridge.stats().stalled, 1);
}

#[test]
fn a_silent_peer_is_left() {
    let mut rig = Rig::new(settings());
    rig.open();
    rig.seconds(31);
    assert_eq!(rig.closes.len(), 1, "no CONNACK");
    rig.pause();
    rig.connect();
    rig.seconds(100);
    assert_eq!(rig.closes.len(), 2, "no PINGRESP");
    assert_eq!(rig.bridge.stats().lost, 1);
}

#[test]
fn a_peer_that_floods_or_breaks_the_protocol_is_disconnected() {
    let mut rules = settings();
    rules.receive = vec![receive_rule("news/#", None, Q1)];
    let mut rig = Rig::new(rules);
    rig.settles = false;
    rig.connect();
    // More than Receive Maximum, none of which anybody settles.
    for id in 1..=17 {
        rig.receive(&Packet::Publish(publish("news/a", "1", Q1, id)));
    }
    assert_eq!(rig.tickets.len(), 16);
    assert_eq!(rig.bridge.stats().misbehaved, 1);
    assert_eq!(rig.bridge.phase(), Phase::Waiting);
    let last = rig.packets().pop().expect("it is told");
    let expected = ReasonCode::ReceiveMaximumExceeded.code();
    assert_eq!((last[0], last[2]), (0xE0, expected));
    // Tickets of that connection settle nothing on the next one.
    rig.pause();
    rig.connect();
    rig.packets();
    while let Some(ticket) = rig.tickets.pop_front() {
        rig.bridge.settle(ticket, ReasonCode::Success);
    }
    rig.turn();
    assert!(rig.packets().is_empty());
}

#[test]
fn no_bytes_do_more_than_disconnect() {
    for seed in 0..300 {
        let rng = &mut Rng::from_seed(seed);
        let mut rules = settings();
        rules.receive = vec![receive_rule("#", Some("in/#"), Q2)];
        rules.state_topic = Some("state".into());
        rules.send[0].qos = if rng.chance(1, 2) { Q1 } else { Q2 };
        let mut rig = Rig::new(rules);
        for _ in 0..20 {
            if rig.dials.is_empty() {
                rig.pause();
            }
            rig.open();
            if rng.chance(3, 4) {
                rig.version = rig.status().version;
                rig.connack(rng.chance(1, 2), ConnackProperties::default());
            }
            for _ in 0..rng.below(20) {
                rig.send("shed/a", "1", rng.chance(1, 2));
                let bytes = noise(rng, rig.version);
                rig.receive_bytes(&bytes);
                rig.wait(Duration::from_millis(rng.below(3000)));
            }
            rig.cut(rng.chance(1, 2));
        }
        let status = rig.status();
        let stats = *rig.bridge.stats();
        let done = stats.acknowledged + stats.dead_letters + status.queue_length;
        assert_eq!(
            done, stats.queued,
            "seed={seed}: nothing vanishes: {stats:?}"
        );
    }
}

/// A packet that fits, one that does not, or none.
fn noise(rng: &mut Rng, version: fieldgate::mqtt::ProtocolVersion) -> Vec<u8> {
    let id = rng.below(12) as u16 + 1;
    let mut bytes = Vec::new();
    let packet_id = fieldgate::mqtt::PacketId::new(id).expect("not 0");
    let ack = fieldgate::mqtt::Ack::success(packet_id);
    let packet = match rng.below(10) {
        0 | 1 => Packet::Puback(ack),
        2 => Packet::Pubrec(ack),
        3 => Packet::Pubcomp(ack),
        4 => Packet::Pubrel(ack),
        5 => Packet::Pingresp,
        6 => Packet::Publish(Publish {
            dup: rng.chance(1, 2),
            ..publish("a/b", "x", Q1, id)
        }),
        7 => suback(packet_id, &[ReasonCode::GrantedQos2]),
        _ => {
            let len = rng.below(12);
            return (0..len).map(|_| rng.next_u64() as u8).collect();
        }
    };
    packet.encode_into(version, &mut bytes);
    if rng.chance(1, 8) {
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] = rng.next_u64() as u8;
    }
    bytes
}
