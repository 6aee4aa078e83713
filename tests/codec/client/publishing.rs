//! Our messages on their way to the server.

use fieldgate::buffer::{COPY_MAX, Payload};
use fieldgate::mqtt::ProtocolVersion::{V3, V4, V5};
use fieldgate::mqtt::client::{ConnectOptions, Refusal, UNSENT_BYTES_MAX};
use fieldgate::mqtt::{
    Ack, ApplicationMessage, ConnackProperties, Packet, Publish, PublishProperties, ReasonCode,
    ReceiveMaximum, SubscriptionIdentifier, SubscriptionOptions, SubscriptionRequest, TopicFilter,
    TopicName,
};
use fieldgate::time::{Duration, Instant};
use std::rc::Rc;

use super::*;

#[test]
fn publications_go_through_their_handshakes() {
    for version in [V3, V4, V5] {
        let mut harness = Harness::connected(options(version));
        assert_eq!(harness.publish("a", QOS_0), None);
        assert_eq!(harness.publish("b", QOS_1), Some(id(1)));
        assert_eq!(harness.publish("c", QOS_2), Some(id(2)));
        harness.assert_sent(&[
            publish("a", QOS_0, 0, false),
            publish("b", QOS_1, 1, false),
            publish("c", QOS_2, 2, false),
        ]);
        assert_eq!(harness.client.inflight(), 2);
        harness.receive(&puback(1));
        harness.receive(&pubrec(2));
        harness.assert_sent(&[pubrel(2)]);
        assert_eq!(harness.events(), [published(1, ReasonCode::Success)]);
        harness.receive(&pubcomp(2));
        assert_eq!(harness.events(), [published(2, ReasonCode::Success)]);
        assert_eq!(harness.client.inflight(), 0);
        // Identifiers go on, they are not used again at once.
        assert_eq!(harness.publish("d", QOS_1), Some(id(3)));
    }
}

#[test]
fn reasons_of_5_0_reach_the_publisher() {
    let mut harness = Harness::connected(options(V5));
    for qos in [QOS_1, QOS_1, QOS_2, QOS_2] {
        harness.publish("t", qos);
    }
    harness.sent();
    let ack = |packet_id, reason| Ack::new(id(packet_id), reason);
    harness.receive(&Packet::Puback(ack(1, ReasonCode::NoMatchingSubscribers)));
    harness.receive(&Packet::Puback(ack(2, ReasonCode::NotAuthorized)));
    harness.receive(&Packet::Pubrec(ack(3, ReasonCode::QuotaExceeded)));
    harness.receive(&Packet::Pubrec(ack(4, ReasonCode::NoMatchingSubscribers)));
    // A refused QoS 2 message is settled without a PUBREL [MQTT-4.3.3-4].
    harness.assert_sent(&[pubrel(4)]);
    harness.receive(&pubcomp(4));
    assert_eq!(
        harness.events(),
        [
            published(1, ReasonCode::NoMatchingSubscribers),
            published(2, ReasonCode::NotAuthorized),
            published(3, ReasonCode::QuotaExceeded),
            published(4, ReasonCode::NoMatchingSubscribers),
        ]
    );
}

#[test]
fn no_more_than_receive_maximum_is_under_way_mqtt_3_3_4_7() {
    let properties = ConnackProperties {
        receive_maximum: ReceiveMaximum::new(2),
        ..ConnackProperties::default()
    };
    let mut harness = Harness::connected_with(options(V5), properties);
    harness.publish("a", QOS_1);
    harness.publish("b", QOS_2);
    assert_eq!(
        harness.client.publish(message("c", QOS_1)),
        Err(Refusal::Full)
    );
    assert!(!harness.client.can_publish(QOS_2));
    // Everything else goes on [MQTT-3.3.4-8].
    assert!(harness.client.can_publish(QOS_0));
    harness.publish("d", QOS_0);
    harness.sent();
    // A PUBREC gives no place back, PUBCOMP does (4.9).
    harness.receive(&pubrec(2));
    assert!(!harness.client.can_publish(QOS_1));
    harness.receive(&pubcomp(2));
    assert_eq!(harness.publish("c", QOS_1), Some(id(3)));
    assert!(!harness.client.can_publish(QOS_1));
    // A refusal does.
    harness.sent();
    harness.receive(&Packet::Puback(Ack::new(id(1), ReasonCode::QuotaExceeded)));
    assert!(harness.client.can_publish(QOS_1));
}

#[test]
fn our_own_inflight_maximum_holds_where_the_server_says_nothing() {
    let options = ConnectOptions {
        inflight_maximum: 1,
        ..options(V4)
    };
    let mut harness = Harness::connected(options);
    harness.publish("a", QOS_1);
    assert_eq!(
        harness.client.publish(message("b", QOS_2)),
        Err(Refusal::Full)
    );
    harness.sent();
    harness.receive(&puback(1));
    harness.publish("b", QOS_2);
}

#[test]
fn what_the_server_does_not_take_is_refused_here() {
    let properties = ConnackProperties {
        maximum_qos: Some(QOS_1),
        retain_available: Some(false),
        maximum_packet_size: core::num::NonZeroU32::new(20),
        subscription_identifier_available: Some(false),
        ..ConnackProperties::default()
    };
    let mut harness = Harness::connected_with(options(V5), properties);
    let refused = |harness: &mut Harness, message| {
        let refusal = harness.client.publish(message).expect_err("refused");
        assert!(!refusal.may_retry());
        refusal
    };
    assert_eq!(
        refused(&mut harness, message("t", QOS_2)),
        Refusal::QosNotSupported
    );
    assert!(!harness.client.can_publish(QOS_2));
    let retained = Rc::new(ApplicationMessage::new(
        TopicName::new("t").expect("a name"),
        Payload::EMPTY,
        QOS_0,
        true,
        &PublishProperties::default(),
        Instant::default(),
    ));
    assert_eq!(refused(&mut harness, retained), Refusal::RetainNotSupported);
    // 2 of fixed header, 3 of topic, 2 of identifier, 1 of properties: 12 are left.
    let fits = message_with("t", QOS_1, &[0; 12]);
    assert!(harness.client.publish(fits).is_ok());
    let expected = Refusal::PacketTooLarge { len: 21, max: 20 };
    let large = message_with("t", QOS_1, &[0; 13]);
    assert_eq!(refused(&mut harness, large), expected);
    let request = SubscriptionRequest {
        filter: TopicFilter::new("0123456789abc").expect("a filter"),
        options: SubscriptionOptions::new(QOS_0),
    };
    let identifier = SubscriptionIdentifier::new(1);
    assert_eq!(
        harness.client.subscribe(&[request], identifier),
        Err(Refusal::SubscriptionIdentifierNotSupported)
    );
    assert_eq!(
        harness.client.subscribe(&[request], None),
        Err(Refusal::PacketTooLarge { len: 21, max: 20 })
    );
    assert_eq!(harness.client.subscribe(&[], None), Err(Refusal::NoFilters));
}

#[test]
fn what_waits_for_the_transport_is_bounded() {
    let mut harness = Harness::connected(options(V4));
    let large = message_with("t", QOS_0, &vec![0; UNSENT_BYTES_MAX]);
    assert!(harness.client.publish(large.clone()).is_ok());
    assert_eq!(harness.client.publish(large), Err(Refusal::Full));
    assert!(!harness.client.can_publish(QOS_0));
    harness.sent();
    assert!(harness.client.can_publish(QOS_0));
}

#[test]
fn a_large_payload_is_shared_and_not_copied() {
    let mut harness = Harness::connected(options(V4));
    let message = message_with("t", QOS_0, &vec![7; COPY_MAX + 1]);
    harness.client.publish(message.clone()).expect("room");
    harness.client.poll_transmit(harness.now, &mut harness.out);
    let head = harness.out.front().len();
    harness.out.consume(head);
    assert_eq!(harness.out.front().as_ptr(), message.payload().as_ptr());
}

#[test]
fn the_expiry_interval_is_what_is_left_when_it_is_sent() {
    let mut harness = Harness::connected(options(V5));
    let message = ApplicationMessage::new(
        TopicName::new("t").expect("a name"),
        Payload::EMPTY,
        QOS_0,
        false,
        &PublishProperties {
            message_expiry_interval: Some(60),
            ..PublishProperties::default()
        },
        harness.now,
    );
    harness.client.publish(Rc::new(message)).expect("room");
    harness.now = harness.now + Duration::from_secs(45);
    let sent = harness.sent();
    let publish = Publish::parse(V5, &sent[0]).expect("a PUBLISH");
    assert_eq!(publish.properties.message_expiry_interval, Some(15));
}

#[test]
fn the_first_topics_of_a_connection_get_the_aliases_that_the_server_takes() {
    let options = ConnectOptions {
        outgoing_topic_aliases: 8,
        ..lasting(V5)
    };
    let takes_two = ConnackProperties {
        topic_alias_maximum: Some(2),
        ..ConnackProperties::default()
    };
    let aliased = |topic, alias, dup| {
        let Packet::Publish(publish) = publish(topic, QOS_0, 0, dup) else {
            unreachable!("it is one");
        };
        Packet::Publish(Publish {
            properties: PublishProperties {
                topic_alias: fieldgate::mqtt::TopicAlias::new(alias),
                ..PublishProperties::default()
            },
            ..publish
        })
    };
    let mut harness = Harness::connected_with(options.clone(), takes_two);
    for topic in ["a", "b", "a", "c", "b"] {
        harness.publish(topic, QOS_0);
    }
    harness.assert_sent(&[
        aliased("a", 1, false),
        aliased("b", 2, false),
        aliased("", 1, false),
        publish("c", QOS_0, 0, false),
        aliased("", 2, false),
    ]);
    // They end with the connection.
    harness.client.handle_closed();
    harness.events();
    harness.connect(true, takes_two);
    harness.publish("b", QOS_0);
    harness.assert_sent(&[aliased("b", 1, false)]);
    // A packet that just fits is not made larger, and a server that says nothing gets none.
    let unaliased = publish("a", QOS_0, 0, false);
    let just_fits = ConnackProperties {
        maximum_packet_size: core::num::NonZeroU32::new(bytes_of(&unaliased, V5).len() as u32),
        ..takes_two
    };
    for properties in [just_fits, ConnackProperties::default()] {
        let mut harness = Harness::connected_with(options.clone(), properties);
        harness.publish("a", QOS_0);
        harness.assert_sent(&[publish("a", QOS_0, 0, false)]);
    }
}
