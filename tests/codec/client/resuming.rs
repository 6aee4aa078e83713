//! A session over several connections.

use fieldgate::mqtt::ProtocolVersion::{V3, V4, V5};
use fieldgate::mqtt::client::{Event, Refusal, Violation};
use fieldgate::mqtt::{ConnackProperties, ReasonCode, ReceiveMaximum};

use super::*;

#[test]
fn what_was_not_acknowledged_goes_again_in_order_with_dup_mqtt_4_4_0_1() {
    for version in [V3, V4, V5] {
        let mut harness = Harness::connected(lasting(version));
        for (topic, qos) in [
            ("a", QOS_1),
            ("b", QOS_2),
            ("c", QOS_2),
            ("d", QOS_1),
            ("e", QOS_2),
        ] {
            harness.publish(topic, qos);
        }
        harness.sent();
        harness.publish("unsent", QOS_1);
        harness.publish("gone", QOS_0);
        harness.receive(&puback(4));
        harness.receive(&pubrec(5));
        harness.receive(&pubrec(2));
        harness.events();
        harness.resume();
        // Releases in the order of their PUBRECs [MQTT-4.6.0-4], messages in that of their
        // publication [MQTT-4.6.0-1]. The last one was never sent, so it is no duplicate.
        harness.assert_sent(&[
            pubrel(5),
            pubrel(2),
            publish("a", QOS_1, 1, true),
            publish("c", QOS_2, 3, true),
            publish("unsent", QOS_1, 6, false),
        ]);
        harness.receive(&pubcomp(5));
        harness.receive(&puback(1));
        assert_eq!(
            harness.events(),
            [
                published(5, ReasonCode::Success),
                published(1, ReasonCode::Success)
            ]
        );
        // And once more, what is still left.
        harness.resume();
        harness.assert_sent(&[
            pubrel(2),
            publish("c", QOS_2, 3, true),
            publish("unsent", QOS_1, 6, true),
        ]);
    }
}

#[test]
fn a_resumed_session_keeps_to_a_smaller_window() {
    let mut harness = Harness::connected(lasting(V5));
    for topic in ["a", "b", "c", "d"] {
        harness.publish(topic, QOS_1);
    }
    harness.sent();
    harness.client.handle_closed();
    harness.events();
    let properties = ConnackProperties {
        receive_maximum: ReceiveMaximum::new(2),
        ..ConnackProperties::default()
    };
    harness.connect(true, properties);
    harness.assert_sent(&[publish("a", QOS_1, 1, true), publish("b", QOS_1, 2, true)]);
    // What was published later does not overtake.
    assert_eq!(
        harness.client.publish(message("e", QOS_1)),
        Err(Refusal::Full)
    );
    harness.receive(&puback(1));
    assert_eq!(
        harness.client.publish(message("e", QOS_1)),
        Err(Refusal::Full)
    );
    harness.assert_sent(&[publish("c", QOS_1, 3, true)]);
    harness.receive(&puback(2));
    harness.receive(&puback(3));
    harness.assert_sent(&[publish("d", QOS_1, 4, true)]);
    assert_eq!(harness.publish("e", QOS_1), Some(id(5)));
}

#[test]
fn releases_of_an_earlier_connection_do_not_widen_the_window() {
    let mut harness = Harness::connected(lasting(V5));
    harness.publish("a", QOS_2);
    harness.sent();
    harness.receive(&pubrec(1));
    harness.client.handle_closed();
    harness.events();
    let properties = ConnackProperties {
        receive_maximum: ReceiveMaximum::new(1),
        ..ConnackProperties::default()
    };
    harness.connect(true, properties);
    harness.publish("b", QOS_1);
    harness.sent();
    harness.receive(&pubcomp(1));
    // "b" still has the only place (4.9: the quota never exceeds Receive Maximum).
    assert!(!harness.client.can_publish(QOS_1));
}

#[test]
fn a_lost_session_means_publishing_anew() {
    for version in [V4, V5] {
        let mut harness = Harness::connected(lasting(version));
        harness.publish("a", QOS_1);
        harness.publish("b", QOS_2);
        harness.publish("c", QOS_2);
        harness.sent();
        harness.receive(&pubrec(2));
        harness.receive(&publish("in", QOS_2, 9, false));
        harness.sent();
        harness.events();
        harness.client.handle_closed();
        harness.events();
        harness.connect(false, ConnackProperties::default());
        // The server had taken "b"; the others it may never have seen, and they are no duplicates
        // in a new session.
        assert_eq!(harness.events(), [published(2, ReasonCode::Success)]);
        harness.assert_sent(&[publish("a", QOS_1, 1, false), publish("c", QOS_2, 3, false)]);
        // Identifiers received before mean nothing now [MQTT-3.2.2-5].
        harness.receive(&publish("in", QOS_2, 9, false));
        assert!(matches!(harness.events()[..], [Event::Message(_)]));
    }
}

#[test]
fn a_server_that_takes_less_than_before_settles_what_it_cannot_take() {
    let mut harness = Harness::connected(lasting(V5));
    harness.publish("a", QOS_2);
    harness
        .client
        .publish(message_with("b", QOS_1, &[0; 100]))
        .expect("room");
    harness.publish("c", QOS_1);
    harness.sent();
    harness.client.handle_closed();
    harness.events();
    let properties = ConnackProperties {
        maximum_qos: Some(QOS_1),
        maximum_packet_size: core::num::NonZeroU32::new(50),
        ..ConnackProperties::default()
    };
    harness.connect(true, properties);
    assert_eq!(
        harness.events(),
        [
            published(1, ReasonCode::QosNotSupported),
            published(2, ReasonCode::PacketTooLarge),
        ]
    );
    harness.assert_sent(&[publish("c", QOS_1, 3, true)]);
}

#[test]
fn a_session_that_was_not_asked_for_is_a_violation() {
    let mut harness = Harness::new(options(V4));
    harness.client.handle_connected(harness.now);
    harness.sent();
    harness.receive_bytes(b"\x20\x02\x01\x00");
    assert_eq!(harness.violation(), Violation::SessionPresentUnasked);
}

#[test]
fn a_window_that_is_narrowed_holds_back_what_is_sent_again_until_it_is_widened() {
    let mut harness = Harness::connected(lasting(V5));
    for topic in ["a", "b", "c"] {
        harness.publish(topic, QOS_1);
    }
    harness.sent();
    harness.client.set_inflight_maximum(1);
    harness.resume();
    harness.assert_sent(&[publish("a", QOS_1, 1, true)]);
    harness.client.set_inflight_maximum(2);
    harness.assert_sent(&[publish("b", QOS_1, 2, true)]);
    harness.receive(&puback(1));
    harness.assert_sent(&[publish("c", QOS_1, 3, true)]);
    harness.receive(&puback(2));
    harness.receive(&puback(3));
    harness.events();
    // Two places are two places, also after that.
    harness.publish("d", QOS_1);
    harness.publish("e", QOS_1);
    assert_eq!(
        harness.client.publish(message("f", QOS_1)),
        Err(Refusal::Full)
    );
}

#[test]
fn a_message_that_is_withdrawn_is_not_sent_again_and_its_identifier_is_released() {
    for version in [V4, V5] {
        let mut harness = Harness::connected(lasting(version));
        harness.publish("a", QOS_1);
        harness.publish("b", QOS_2);
        harness.publish("c", QOS_2);
        assert!(!harness.client.withdraw(id(1)), "there is a connection");
        harness.sent();
        harness.publish("unsent", QOS_2);
        harness.client.handle_closed();
        harness.events();
        for taken_back in [1, 2, 4] {
            assert!(harness.client.withdraw(id(taken_back)));
            assert!(!harness.client.withdraw(id(taken_back)), "it is gone");
        }
        harness.connect(true, ConnackProperties::default());
        // The server may have the second one; the fourth it never saw.
        harness.assert_sent(&[pubrel(2), publish("c", QOS_2, 3, true)]);
        harness.receive(&pubcomp(2));
        assert_eq!(harness.events(), [published(2, ReasonCode::Success)]);
        assert_eq!(harness.client.inflight(), 1);
    }
}
