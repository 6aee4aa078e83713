//! The server's messages on their way to us.

use crate::samples::bytes_of;
use fieldgate::mqtt::ProtocolVersion::{V3, V4, V5};
use fieldgate::mqtt::client::{Acknowledge, ConnectOptions, EVENTS_MAX, Violation};
use fieldgate::mqtt::{
    Ack, Packet, Publish, PublishProperties, ReasonCode, ReceiveMaximum, SubscriptionIdentifier,
    SubscriptionIdentifiers, TopicAlias,
};

use super::*;

#[test]
fn messages_are_handed_over_and_acknowledged() {
    for version in [V3, V4, V5] {
        let mut harness = Harness::connected(options(version));
        harness.receive(&publish("a", QOS_0, 0, false));
        harness.receive(&publish("b", QOS_1, 7, true));
        harness.receive(&publish("c", QOS_2, 8, false));
        harness.assert_sent(&[puback(7), pubrec(8)]);
        let events = harness.events();
        let topics: Vec<_> = events
            .iter()
            .map(|event| received(event).message.topic())
            .collect();
        assert_eq!(topics, ["a", "b", "c"]);
        assert!(received(&events[1]).dup);
        assert_eq!(&**received(&events[1]).message.payload(), b"21.4");
        assert_eq!(received(&events[2]).message.qos(), QOS_2);
        // Again before its release: another PUBREC, no second delivery [MQTT-4.3.3-10].
        harness.receive(&publish("c", QOS_2, 8, true));
        harness.receive(&pubrel(8));
        harness.assert_sent(&[pubrec(8), pubcomp(8)]);
        assert!(harness.events().is_empty());
        assert_eq!(harness.client.counters().duplicates, 1);
        // After it, a new message [MQTT-4.3.3-12]; and a QoS 1 message always is [MQTT-4.3.2-5].
        harness.receive(&publish("c", QOS_2, 8, false));
        harness.receive(&publish("b", QOS_1, 7, true));
        assert_eq!(harness.events().len(), 2);
    }
}

#[test]
fn a_qos_2_identifier_outlives_the_connection() {
    let mut harness = Harness::connected(lasting(V5));
    harness.receive(&publish("a", QOS_2, 8, false));
    harness.receive(&publish("b", QOS_2, 9, false));
    harness.events();
    harness.resume();
    harness.receive(&publish("a", QOS_2, 8, true));
    harness.receive(&pubrel(9));
    harness.assert_sent(&[pubrec(8), pubcomp(9)]);
    assert!(harness.events().is_empty());
}

#[test]
fn a_release_of_what_we_do_not_know_is_answered_so() {
    let mut harness = Harness::connected(options(V5));
    harness.receive(&pubrel(5));
    let answer = Ack::new(id(5), ReasonCode::PacketIdentifierNotFound);
    harness.assert_sent(&[Packet::Pubcomp(answer)]);
    harness.receive(&pubrec(6));
    let answer = Ack::new(id(6), ReasonCode::PacketIdentifierNotFound);
    harness.assert_sent(&[Packet::Pubrel(answer)]);
    harness.receive(&puback(7));
    harness.receive(&pubcomp(8));
    assert!(harness.sent().is_empty());
    assert!(harness.events().is_empty());
    assert_eq!(harness.client.counters().strays, 4);
}

#[test]
fn acknowledgements_by_the_caller_leave_in_order_mqtt_4_6_0_2() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..options(V5)
    });
    harness.receive(&publish("a", QOS_1, 1, false));
    harness.receive(&publish("b", QOS_2, 2, false));
    harness.receive(&publish("c", QOS_1, 3, false));
    harness.receive(&publish("d", QOS_0, 0, false));
    let tokens: Vec<_> = harness
        .events()
        .iter()
        .map(|event| received(event).ack)
        .collect();
    assert_eq!(tokens[3], None, "QoS 0 needs none");
    let [a, b, c] = [0, 1, 2].map(|index| tokens[index].expect("a token"));
    assert!(harness.sent().is_empty());
    assert!(harness.client.acknowledge(c, ReasonCode::Success));
    assert!(harness.client.acknowledge(b, ReasonCode::QuotaExceeded));
    assert!(harness.sent().is_empty());
    assert!(harness.client.acknowledge(a, ReasonCode::Success));
    assert!(!harness.client.acknowledge(a, ReasonCode::Success), "once");
    harness.assert_sent(&[
        puback(1),
        Packet::Pubrec(Ack::new(id(2), ReasonCode::QuotaExceeded)),
        puback(3),
    ]);
    // A refused QoS 2 message leaves no identifier behind [MQTT-4.3.3-9].
    harness.receive(&publish("b", QOS_2, 2, false));
    assert_eq!(harness.events().len(), 1);
}

#[test]
fn a_token_of_an_earlier_connection_does_not_acknowledge_another_message() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..lasting(V4)
    });
    harness.receive(&publish("a", QOS_1, 1, false));
    harness.receive(&publish("b", QOS_2, 2, false));
    let tokens: Vec<_> = harness
        .events()
        .iter()
        .filter_map(|event| received(event).ack)
        .collect();
    harness.resume();
    harness.receive(&publish("x", QOS_1, 1, false));
    let new = received(&harness.events()[0]).ack.expect("a token");
    assert!(!harness.client.acknowledge(tokens[0], ReasonCode::Success));
    assert!(harness.sent().is_empty());
    // The QoS 2 message is remembered: taken now, answered when it comes again, and not delivered
    // twice.
    assert!(harness.client.acknowledge(tokens[1], ReasonCode::Success));
    assert!(harness.sent().is_empty());
    harness.receive(&publish("b", QOS_2, 2, true));
    assert!(harness.client.acknowledge(new, ReasonCode::Success));
    harness.assert_sent(&[puback(1), pubrec(2)]);
    assert!(harness.events().is_empty());
}

#[test]
fn a_qos_2_message_that_comes_again_before_it_was_taken_waits_for_its_first_token() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..lasting(V5)
    });
    harness.receive(&publish("b", QOS_2, 2, false));
    let token = received(&harness.events()[0]).ack.expect("a token");
    harness.resume();
    harness.receive(&publish("b", QOS_2, 2, true));
    assert!(harness.events().is_empty());
    assert!(harness.sent().is_empty());
    assert!(harness.client.acknowledge(token, ReasonCode::Success));
    harness.assert_sent(&[pubrec(2)]);
    harness.receive(&pubrel(2));
    harness.assert_sent(&[pubcomp(2)]);
}

#[test]
fn before_5_0_a_slow_caller_is_not_read_past_his_limit() {
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        receive_maximum: ReceiveMaximum::new(2).expect("not 0"),
        ..options(V4)
    });
    let one = bytes_of(&publish("a", QOS_1, 1, false), V4);
    let mut bytes = Vec::new();
    for index in 1..=3 {
        bytes.extend(bytes_of(&publish("a", QOS_1, index, false), V4));
    }
    let consumed = harness.client.handle_input(harness.now, &bytes);
    assert_eq!(consumed, 2 * one.len());
    let token = received(&harness.events()[0]).ack.expect("a token");
    harness.client.acknowledge(token, ReasonCode::Success);
    let rest = &bytes[consumed..];
    assert_eq!(harness.client.handle_input(harness.now, rest), one.len());
}

#[test]
fn more_than_receive_maximum_is_a_violation_in_5_0() {
    for qos in [QOS_1, QOS_2] {
        let mut harness = Harness::connected(ConnectOptions {
            acknowledge: Acknowledge::ByCaller,
            receive_maximum: ReceiveMaximum::new(2).expect("not 0"),
            ..options(V5)
        });
        harness.receive(&publish("a", qos, 1, false));
        harness.receive(&publish("a", qos, 2, false));
        harness.events();
        harness.receive(&publish("a", qos, 3, false));
        assert_eq!(harness.violation(), Violation::ReceiveMaximumExceeded);
        harness.assert_sent(&[disconnect(ReasonCode::ReceiveMaximumExceeded)]);
    }
}

#[test]
fn topic_aliases_last_as_long_as_the_connection() {
    let aliased = |topic, alias| {
        Packet::Publish(Publish {
            dup: false,
            qos: QOS_0,
            retain: false,
            topic,
            packet_id: None,
            properties: PublishProperties {
                topic_alias: TopicAlias::new(alias),
                ..PublishProperties::default()
            },
            payload: b"",
        })
    };
    let options = ConnectOptions {
        topic_alias_maximum: 2,
        ..lasting(V5)
    };
    let mut harness = Harness::connected(options.clone());
    for (topic, alias, expected) in [
        ("a", 2, "a"),
        ("", 2, "a"),
        ("b", 1, "b"),
        ("c", 2, "c"),
        ("", 2, "c"),
        ("", 1, "b"),
    ] {
        harness.receive(&aliased(topic, alias));
        assert_eq!(received(&harness.events()[0]).message.topic(), expected);
    }
    // [MQTT-3.3.2-7]
    harness.resume();
    harness.receive(&aliased("", 1));
    assert_eq!(harness.violation(), Violation::TopicAliasUnknown(1));
    harness.assert_sent(&[disconnect(ReasonCode::ProtocolError)]);

    let mut harness = Harness::connected(options);
    harness.receive(&aliased("a", 3));
    assert_eq!(harness.violation(), Violation::TopicAliasTooHigh(3));
    harness.assert_sent(&[disconnect(ReasonCode::TopicAliasInvalid)]);
}

#[test]
fn subscription_identifiers_come_with_the_message() {
    let mut harness = Harness::connected(options(V5));
    let ids = [1, 300].map(|id| SubscriptionIdentifier::new(id).expect("in range"));
    let Packet::Publish(plain) = publish("a", QOS_0, 0, false) else {
        unreachable!("a PUBLISH was made");
    };
    harness.receive(&Packet::Publish(Publish {
        properties: PublishProperties {
            subscription_identifiers: SubscriptionIdentifiers::from_slice(&ids),
            ..PublishProperties::default()
        },
        ..plain
    }));
    assert_eq!(received(&harness.events()[0]).subscription_identifiers, ids);
}

#[test]
fn input_may_come_in_any_pieces() {
    let mut bytes = Vec::new();
    for packet in [
        publish("a", QOS_1, 1, false),
        Packet::Pingresp,
        publish("b", QOS_2, 2, false),
        pubrel(2),
    ] {
        bytes.extend(bytes_of(&packet, V5));
    }
    for piece in 1..=bytes.len() {
        let mut harness = Harness::connected(options(V5));
        let mut kept = Vec::new();
        for chunk in bytes.chunks(piece) {
            kept.extend_from_slice(chunk);
            let consumed = harness.client.handle_input(harness.now, &kept);
            kept.drain(..consumed);
        }
        assert!(kept.is_empty());
        assert_eq!(harness.events().len(), 2);
        harness.assert_sent(&[puback(1), pubrec(2), pubcomp(2)]);
    }
}

#[test]
fn no_more_is_read_than_events_are_polled() {
    let mut harness = Harness::connected(options(V4));
    let one = bytes_of(&publish("a", QOS_0, 0, false), V4);
    let bytes = one.repeat(EVENTS_MAX + 10);
    let consumed = harness.client.handle_input(harness.now, &bytes);
    assert_eq!(consumed, EVENTS_MAX * one.len());
    assert_eq!(
        harness.client.handle_input(harness.now, &bytes[consumed..]),
        0
    );
    assert_eq!(harness.events().len(), EVENTS_MAX);
    harness.receive_bytes(&bytes[consumed..]);
    assert_eq!(harness.events().len(), 10);
}

#[test]
fn no_more_is_read_than_answers_are_sent() {
    let mut harness = Harness::connected(options(V4));
    let one = bytes_of(&publish("a", QOS_1, 1, false), V4);
    let bytes = one.repeat(200);
    let mut consumed = 0;
    loop {
        let now = harness.client.handle_input(harness.now, &bytes);
        harness.events();
        consumed += now;
        if now == 0 {
            break;
        }
    }
    assert_eq!(
        consumed / one.len() * 4,
        fieldgate::mqtt::client::CONTROL_BYTES_MAX
    );
    assert_eq!(harness.sent().len(), consumed / one.len());
    harness.receive_bytes(&bytes);
}
