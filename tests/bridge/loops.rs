//! What goes in a circle is stopped.

use super::house::*;
use fieldgate::bridge::settings::Version;
use fieldgate::mqtt::{ApplicationMessage, Packet, Publish, UserPropertiesBuf};
use fieldgate::time::Duration;

fn both_ways(version: Version) -> Rig {
    let mut rules = settings();
    rules.version = version;
    rules.receive = vec![receive_rule("shed/#", None, Q1)];
    Rig::new(rules)
}

fn arrive(rig: &mut Rig, message: &ApplicationMessage, id: u16) {
    let mut publish = message.as_publish(V5, rig.now.monotonic);
    publish.packet_id = fieldgate::mqtt::PacketId::new(id);
    rig.receive(&Packet::Publish(publish));
}

#[test]
fn the_peer_is_asked_not_to_send_us_our_own() {
    let mut rig = both_ways(Version::Auto);
    rig.open();
    rig.packets();
    rig.connack(false, fieldgate::mqtt::ConnackProperties::default());
    let packets = rig.packets();
    let Ok(Packet::Subscribe(subscribe)) = Packet::parse(V5, &packets[0]) else {
        panic!("no SUBSCRIBE");
    };
    let options = subscribe.requests.iter().next().expect("one").options;
    assert!(options.no_local && options.retain_as_published);
}

#[test]
fn what_comes_back_or_has_come_too_far_is_not_taken() {
    let mut rig = both_ways(Version::Auto);
    rig.connect();
    let pairs = |origin, hops| [("fieldgate-origin", origin), ("fieldgate-hops", hops)];
    arrive(
        &mut rig,
        &message_with("shed/a", "1", Q1, false, &pairs("shed-1", "2")),
        1,
    );
    arrive(
        &mut rig,
        &message_with("shed/a", "2", Q1, false, &pairs("barn-1", "8")),
        2,
    );
    arrive(
        &mut rig,
        &message_with("shed/a", "3", Q1, false, &pairs("barn-1", "many")),
        3,
    );
    assert!(rig.published.is_empty());
    arrive(
        &mut rig,
        &message_with("shed/a", "4", Q1, false, &pairs("barn-1", "7")),
        4,
    );
    assert_eq!(rig.published.len(), 1);
    assert_eq!(rig.bridge.stats().loops, 3);
    // All are acknowledged: the peer is not to send them again.
    let acks = rig
        .packets()
        .iter()
        .filter(|packet| packet[0] == 0x40)
        .count();
    assert_eq!(acks, 4);
    // And what has come far goes no further.
    let far = message_with("shed/a", "5", Q1, false, &pairs("barn-1", "8"));
    rig.send_by(0, &far);
    assert!(rig.publishes().is_empty());
    assert_eq!(rig.bridge.stats().loops, 4);
    let near = message_with("shed/a", "6", Q1, false, &pairs("barn-1", "7"));
    rig.send_by(0, &near);
    let pairs: Vec<_> = rig.publishes()[0].pairs.clone();
    let expected = [("fieldgate-origin", "barn-1"), ("fieldgate-hops", "8")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(pairs, expected);
}

#[test]
fn an_echo_of_3_1_1_is_known_for_what_it_is_and_only_once() {
    let mut rig = both_ways(Version::Pinned(V4));
    rig.version = V4;
    rig.connect();
    rig.send("shed/a", "21.4", false);
    let sent = rig.publishes();
    rig.ack_all(&sent);
    let echo = |rig: &mut Rig, id| rig.receive(&Packet::Publish(publish("shed/a", "21.4", Q1, id)));
    echo(&mut rig, 1);
    assert!(rig.published.is_empty());
    echo(&mut rig, 2);
    assert_eq!(rig.published.len(), 1, "somebody else says the same");
    // A minute later it is no echo any more.
    rig.send("shed/a", "21.5", false);
    let sent = rig.publishes();
    rig.ack_all(&sent);
    rig.wait(Duration::from_secs(61));
    rig.receive(&Packet::Publish(publish("shed/a", "21.5", Q1, 3)));
    assert_eq!(rig.published.len(), 2);
}

#[test]
fn a_message_sent_twice_by_its_gateway_is_handed_on_once() {
    let mut rig = both_ways(Version::Auto);
    rig.connect();
    let mut pairs = UserPropertiesBuf::new();
    for (name, value) in [
        ("fieldgate-origin", "barn-1"),
        ("seq", "7"),
        ("time", "noon"),
    ] {
        assert!(pairs.push(name, value));
    }
    let properties = fieldgate::mqtt::PublishProperties {
        user_properties: pairs.as_properties(),
        ..Default::default()
    };
    for (id, dup) in [(1, false), (2, true), (3, true)] {
        let publish = Publish {
            dup,
            properties,
            ..publish("shed/a", "1", Q1, id)
        };
        rig.receive(&Packet::Publish(publish));
    }
    assert_eq!(rig.published.len(), 1);
    assert_eq!(rig.bridge.stats().duplicates, 2);
    // DUP alone says nothing: the first may not have arrived.
    let publish = Publish {
        dup: true,
        ..publish("shed/b", "1", Q1, 4)
    };
    rig.receive(&Packet::Publish(publish));
    assert_eq!(rig.published.len(), 2);
}
