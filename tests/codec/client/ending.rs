//! DISCONNECT, violations, and transports that close.

use crate::samples::{Ingredients, bytes_of, types_of, with_packet};
use fieldgate::mqtt::ProtocolVersion::{V3, V4, V5};
use fieldgate::mqtt::client::{Acknowledge, CloseCause, ConnectOptions, Event, Refusal, Violation};
use fieldgate::mqtt::{
    Auth, AuthProperties, Disconnect, DisconnectProperties, Packet, PacketType, ReasonCode,
};
use proptest::prelude::*;

use super::*;

#[test]
fn disconnect_is_the_last_word_mqtt_3_14_4_1() {
    let mut harness = Harness::connected(options(V5));
    harness.publish("t", QOS_0);
    harness
        .client
        .disconnect(ReasonCode::DisconnectWithWillMessage);
    assert_eq!(harness.events(), [Event::Closed(CloseCause::Disconnected)]);
    assert_eq!(
        harness.client.publish(message("t", QOS_0)),
        Err(Refusal::NotConnected)
    );
    assert!(!harness.client.is_finished());
    harness.assert_sent(&[
        publish("t", QOS_0, 0, false),
        disconnect(ReasonCode::DisconnectWithWillMessage),
    ]);
    assert!(harness.client.is_finished());
    // What still comes is not looked at.
    harness.receive(&publish("a", QOS_1, 1, false));
    harness.client.handle_closed();
    assert!(harness.events().is_empty());
    assert!(harness.sent().is_empty());
}

#[test]
fn before_5_0_a_will_is_kept_by_not_saying_disconnect() {
    let mut harness = Harness::connected(options(V4));
    harness
        .client
        .disconnect(ReasonCode::DisconnectWithWillMessage);
    assert!(harness.sent().is_empty());
    let mut harness = Harness::connected(options(V4));
    harness.client.disconnect(ReasonCode::NORMAL_DISCONNECTION);
    harness.assert_sent(&[disconnect(ReasonCode::Success)]);
}

#[test]
fn a_server_says_goodbye_in_5_0_only() {
    let farewell = Packet::Disconnect(Disconnect {
        reason: ReasonCode::ServerMoved,
        properties: DisconnectProperties {
            reason_string: Some("moving"),
            server_reference: Some("b.example"),
            ..DisconnectProperties::default()
        },
    });
    let mut harness = Harness::connected(options(V5));
    harness.receive(&farewell);
    let events = harness.events();
    let [Event::Closed(cause @ CloseCause::ServerDisconnected(farewell))] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(farewell.reason, ReasonCode::ServerMoved);
    assert_eq!(farewell.server_reference.as_deref(), Some("b.example"));
    assert!(!cause.may_retry());
    assert_eq!(
        cause.to_string(),
        "server disconnected: Server moved (0x9D), \"moving\", use \"b.example\""
    );
    let mut harness = Harness::connected(options(V4));
    harness.receive(&disconnect(ReasonCode::Success));
    assert_eq!(
        harness.violation(),
        Violation::Unexpected(PacketType::Disconnect)
    );
    assert!(harness.sent().is_empty(), "3.1.1 has no words for it");
    // [MQTT-3.14.2-2]
    let mut harness = Harness::connected(options(V5));
    harness.receive(&Packet::Disconnect(Disconnect {
        reason: ReasonCode::Success,
        properties: DisconnectProperties {
            session_expiry_interval: Some(1),
            ..DisconnectProperties::default()
        },
    }));
    assert_eq!(harness.violation(), Violation::SessionExpiryFromServer);
}

#[test]
fn a_packet_that_is_not_a_servers_to_send_now_is_a_violation() {
    use PacketType as P;
    for version in [V4, V5] {
        for packet_type in types_of(version) {
            let bytes = with_packet(&Ingredients::bare(), version, packet_type, |packet| {
                bytes_of(&packet, version)
            });
            // Before CONNACK, everything but CONNACK [MQTT-3.2.0-1].
            let mut harness = Harness::new(options(version));
            harness.client.handle_connected(harness.now);
            harness.sent();
            if packet_type != P::Connack {
                harness.receive_bytes(&bytes);
                assert_eq!(harness.violation(), Violation::Unexpected(packet_type));
                assert!(harness.sent().is_empty());
            }
            // After it, what only a client sends, and a second CONNACK [MQTT-3.2.0-2].
            let mut harness = Harness::connected(options(version));
            let never = matches!(
                packet_type,
                P::Connect | P::Connack | P::Subscribe | P::Unsubscribe | P::Pingreq | P::Auth
            );
            if never {
                harness.receive_bytes(&bytes);
                assert_eq!(harness.violation(), Violation::Unexpected(packet_type));
                if version == V5 {
                    harness.assert_sent(&[disconnect(ReasonCode::ProtocolError)]);
                }
                assert!(harness.client.is_finished());
            }
        }
    }
}

#[test]
fn authentication_that_was_not_offered_is_a_violation_mqtt_4_12_0_6() {
    let mut harness = Harness::connected(options(V5));
    harness.receive(&Packet::Auth(Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: AuthProperties {
            authentication_method: Some("m"),
            ..AuthProperties::default()
        },
    }));
    assert_eq!(harness.violation(), Violation::Unexpected(PacketType::Auth));
}

#[test]
fn acknowledgements_of_the_wrong_kind_are_violations() {
    for (qos, answer) in [
        (QOS_2, puback(1)),
        (QOS_1, pubrec(1)),
        (QOS_1, pubcomp(1)),
        (QOS_2, pubcomp(1)),
    ] {
        let mut harness = Harness::connected(options(V5));
        harness.publish("t", qos);
        harness.sent();
        harness.receive(&answer);
        let expected = Violation::AckMismatch(answer.packet_type(), id(1));
        assert_eq!(harness.violation(), expected);
        harness.assert_sent(&[disconnect(ReasonCode::ProtocolError)]);
    }
    // Of what was not sent yet.
    let mut harness = Harness::connected(options(V5));
    harness.publish("t", QOS_1);
    harness.receive(&puback(1));
    assert!(matches!(harness.violation(), Violation::AckMismatch(..)));
    // A release of what the caller has not taken.
    let mut harness = Harness::connected(ConnectOptions {
        acknowledge: Acknowledge::ByCaller,
        ..options(V5)
    });
    harness.receive(&publish("a", QOS_2, 2, false));
    harness.events();
    harness.receive(&pubrel(2));
    let expected = Violation::AckMismatch(PacketType::Pubrel, id(2));
    assert_eq!(harness.violation(), expected);
}

#[test]
fn what_cannot_be_read_is_answered_with_its_reason() {
    let mut harness = Harness::connected(ConnectOptions {
        maximum_packet_size: 100,
        ..options(V5)
    });
    // The header is enough.
    let consumed = harness.client.handle_input(harness.now, &[0x30, 0x63]);
    assert_eq!(consumed, 2);
    assert!(matches!(harness.violation(), Violation::Decode(_)));
    harness.assert_sent(&[disconnect(ReasonCode::PacketTooLarge)]);

    for (bytes, reason) in [
        (&b"\x30\x04\0\x01+\0"[..], ReasonCode::TopicNameInvalid),
        (b"\x00\x00", ReasonCode::MalformedPacket),
        (b"\xD1\x00", ReasonCode::MalformedPacket),
        (b"\x40\x02\x00\x00", ReasonCode::ProtocolError),
    ] {
        let mut harness = Harness::connected(options(V5));
        harness.publish("unsent", QOS_0);
        harness.receive_bytes(bytes);
        assert!(matches!(harness.violation(), Violation::Decode(_)));
        harness.assert_sent(&[disconnect(reason)]);
    }
}

#[test]
fn a_transport_that_closes_is_told_once() {
    let mut harness = Harness::new(options(V5));
    harness.client.handle_closed();
    assert!(harness.events().is_empty());
    harness.client.handle_connected(harness.now);
    harness.client.handle_connected(harness.now);
    assert_eq!(
        harness.events(),
        [Event::Closed(CloseCause::TransportClosed)]
    );
    harness.client.handle_closed();
    harness.client.handle_closed();
    assert_eq!(
        harness.events(),
        [Event::Closed(CloseCause::TransportClosed)]
    );
    assert_eq!(harness.client.handle_input(harness.now, b"late"), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_a_client_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ingredients in proptest::collection::vec(Ingredients::any(), 1..4),
        kinds in proptest::collection::vec(0_usize..15, 0..30),
        by_caller in any::<bool>(),
    ) {
        for version in [V3, V4, V5] {
            let mut harness = Harness::connected(ConnectOptions {
                acknowledge: if by_caller { Acknowledge::ByCaller } else { Acknowledge::OnReceipt },
                topic_alias_maximum: 10,
                ..options(version)
            });
            for (index, kind) in kinds.iter().enumerate() {
                let kind = PacketType::ALL[*kind];
                if kind == PacketType::Auth && version != V5 {
                    continue;
                }
                let _ = harness.client.publish(message("t", QOS_2));
                let ingredients = &ingredients[index % ingredients.len()];
                let bytes = with_packet(ingredients, version, kind, |packet| {
                    bytes_of(&packet, version)
                });
                harness.client.handle_input(harness.now, &bytes);
                harness.sent();
            }
            harness.client.handle_input(harness.now, &bytes);
            harness.sent();
            harness.events();
        }
    }
}
