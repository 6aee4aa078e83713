//! CONNECT and its answer, keep-alive, and the ways a connection ends.

use fieldgate::broker::CloseHow;
use fieldgate::mqtt::{
    Auth, AuthProperties, Connect, ConnectProperties, Disconnect, Packet, PacketType, ReasonCode,
    ReceiveMaximum, TopicName, Will, WillProperties,
};
use fieldgate::time::Duration;

use crate::house::*;

cases! {
    fn connack_tells_what_the_server_takes_and_offers(b: &mut House) {
        let conn = b.dial(&connect(V5, "a"));
        b.read_with(conn, |packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            let properties = connack.properties;
            assert_eq!(connack.reason, ReasonCode::Success);
            assert!(!connack.session_present);
            assert_eq!(properties.receive_maximum, ReceiveMaximum::new(20));
            assert_eq!(properties.maximum_packet_size.map(u32::from), Some(1024 * 1024));
            assert_eq!(properties.topic_alias_maximum, Some(16));
            assert_eq!(properties.wildcard_subscription_available, Some(true));
            assert_eq!(properties.subscription_identifier_available, Some(true));
            assert_eq!(properties.shared_subscription_available, Some(true));
            assert_eq!(properties.session_expiry_interval, None);
            assert_eq!(properties.assigned_client_identifier, None);
            assert_eq!(properties.server_keep_alive, None);
        }).unwrap();
    }

    fn connack_of_3_1_1_has_two_bytes(b: &mut House) {
        let conn = b.dial(&connect(V4, "a"));
        assert_eq!(b.read_bytes(conn), [0x20, 2, 0, 0]);
    }

    fn version_3_1_is_served_too(b: &mut House) {
        let old = b.stayer(V3, "old");
        b.subscribe(old, "t", Q1);
        b.disconnect(old);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "kept");
        let old = b.dial(&lasting(V3, "old"));
        assert_eq!(b.read(old), "CONNACK Success", "3.1 has no session present flag");
        assert_eq!(b.read(old), "PUBLISH t q1 #1 \"kept\"");
    }

    fn an_empty_client_id_is_assigned_in_5_0(b: &mut House) {
        let mut names = Vec::new();
        for _ in 0..2 {
            let conn = b.dial(&connect(V5, ""));
            names.push(b.read_with(conn, |packet| match packet {
                Packet::Connack(connack) => {
                    connack.properties.assigned_client_identifier.unwrap().to_owned()
                }
                _ => panic!("{packet:?}"),
            }));
        }
        assert_ne!(names[0], names[1]);
        assert_eq!(b.stat("sessions"), 2);
    }

    fn an_empty_client_id_in_3_1_1_needs_a_clean_session(b: &mut House) {
        let conn = b.dial(&connect(V4, ""));
        assert_eq!(b.read(conn), "CONNACK Success");
        let conn = b.dial(&lasting(V4, ""));
        assert_eq!(b.read(conn), "CONNACK Client Identifier not valid");
        assert!(!b.is_open(conn));
        let conn = b.dial(&connect(V3, ""));
        assert_eq!(b.read(conn), "CONNACK Client Identifier not valid");
    }

    fn the_first_packet_is_connect(b: &mut House) {
        for bytes in [&[0xC0, 0][..], &[0x30, 3, 0, 1, b'a'], &[0x10], &[0xE0, 0]] {
            let conn = b.open();
            b.send_bytes(conn, bytes);
            assert_eq!(b.is_open(conn), bytes == [0x10], "{bytes:?}");
            assert!(b.read_bytes(conn).is_empty());
        }
        assert_eq!(b.stat("protocol_errors"), 3);
        assert!(b.closed.iter().all(|(_, how)| *how == CloseHow::Now));
    }

    fn a_second_connect_is_a_protocol_error(b: &mut House) {
        let conn = b.client(V5, "a");
        b.send(conn, &Packet::Connect(connect(V5, "a")));
        assert_eq!(b.read(conn), "DISCONNECT 0x82");
        assert!(!b.is_open(conn));
        let conn = b.client(V4, "b");
        b.send(conn, &Packet::Connect(connect(V4, "b")));
        assert_eq!(b.read(conn), "");
        assert!(!b.is_open(conn));
    }

    fn nothing_behind_the_last_packet_is_looked_at(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q0);
        let conn = b.client(V4, "a");
        let mut bytes = Vec::new();
        let version = V4;
        Packet::Disconnect(Disconnect::new(ReasonCode::Success)).encode_into(version, &mut bytes);
        Packet::Publish(publish(Q0, "t", "late")).encode_into(version, &mut bytes);
        b.send_bytes(conn, &bytes);
        assert_eq!(b.read(watcher), "");
        assert!(!b.is_open(conn));
    }

    fn connack_comes_before_the_disconnect_of_what_follows(b: &mut House) {
        let conn = b.open();
        let mut bytes = Vec::new();
        Packet::Connect(connect(V5, "a")).encode_into(V5, &mut bytes);
        bytes.extend([0x00, 0x00]);
        b.send_bytes(conn, &bytes);
        assert_eq!(b.read_all(conn), ["CONNACK Success", "DISCONNECT 0x81"]);
        assert!(!b.is_open(conn));
    }

    fn an_unknown_version_is_told_which_words_it_understands(b: &mut House) {
        let with_level = |level| {
            let mut bytes = Vec::new();
            Packet::Connect(connect(V4, "a")).encode_into(V4, &mut bytes);
            bytes[8] = level;
            bytes
        };
        let conn = b.open();
        b.send_bytes(conn, &with_level(6));
        let answer = b.read_bytes(conn);
        assert_eq!((answer[0], answer[3]), (0x20, 0x84));
        let conn = b.open();
        b.send_bytes(conn, &with_level(2));
        assert_eq!(b.read_bytes(conn), [0x20, 2, 0, 1]);
    }

    fn who_does_not_speak_mqtt_gets_no_answer(b: &mut House) {
        let conn = b.open();
        b.send_bytes(conn, b"GET / HTTP/1.1\r\n\r\n");
        assert!(!b.is_open(conn));
        assert!(b.read_bytes(conn).is_empty());
    }

    fn an_authentication_method_is_refused(b: &mut House) {
        let conn = b.dial(&Connect {
            properties: ConnectProperties {
                authentication_method: Some("SCRAM-SHA-1"),
                ..ConnectProperties::default()
            },
            ..connect(V5, "a")
        });
        assert_eq!(b.read(conn), "CONNACK Bad authentication method");
        assert!(!b.is_open(conn));
        let conn = b.client(V5, "a");
        b.send(conn, &Packet::Auth(Auth {
            reason: ReasonCode::ReAuthenticate,
            properties: AuthProperties {
                authentication_method: Some("SCRAM-SHA-1"),
                ..AuthProperties::default()
            },
        }));
        assert_eq!(b.read(conn), "DISCONNECT 0x82");
    }

    fn credentials_are_ignored_where_anybody_may_come_and_refused_elsewhere(b: &mut House) {
        let with_password = |version| Connect {
            username: Some("anna"),
            password: Some(b"secret"),
            ..connect(version, "a")
        };
        let conn = b.dial(&with_password(V4));
        assert_eq!(b.read(conn), "CONNACK Success");
        for version in [V4, V5] {
            let conn = b.open_where(false);
            b.send(conn, &Packet::Connect(with_password(version)));
            assert_eq!(b.read(conn), "CONNACK Bad User Name or Password");
            let conn = b.open_where(false);
            b.send(conn, &Packet::Connect(connect(version, "a")));
            assert_eq!(b.read(conn), "CONNACK Not authorized");
            assert!(!b.is_open(conn));
        }
        assert_eq!(b.stat("refused_connects"), 4);
    }

    fn pings_are_answered(b: &mut House) {
        for version in [V3, V4, V5] {
            let conn = b.client(version, "a");
            b.send(conn, &Packet::Pingreq);
            assert_eq!(b.read(conn), "PINGRESP");
        }
    }

    fn what_only_a_server_says_is_a_protocol_error(b: &mut House) {
        for packet in [&[0xD0, 0][..], &[0x20, 3, 0, 0, 0], &[0x90, 4, 0, 1, 0, 0]] {
            let conn = b.client(V5, "a");
            b.send_bytes(conn, packet);
            assert_eq!(b.read(conn), "DISCONNECT 0x82", "{packet:?}");
            assert!(PacketType::from_first_byte(packet[0]).is_some());
        }
    }

    fn silence_for_one_and_a_half_keep_alives_ends_the_connection(b: &mut House) {
        for (version, answer) in [(V5, "DISCONNECT 0x8d"), (V4, "")] {
            let conn = b.join(&Connect { keep_alive: 10, ..connect(version, "a") });
            b.wait(Duration::from_secs(14));
            b.send(conn, &Packet::Pingreq);
            assert_eq!(b.read(conn), "PINGRESP");
            b.wait(Duration::from_millis(14_999));
            assert!(b.is_open(conn));
            b.wait(Duration::from_millis(1));
            assert_eq!(b.read(conn), answer);
            assert!(!b.is_open(conn));
        }
        assert_eq!(b.stat("keep_alive_timeouts"), 2);
    }

    fn a_keep_alive_of_zero_is_none(b: &mut House) {
        let conn = b.client(V5, "a");
        b.seconds(100_000);
        assert!(b.is_open(conn));
    }

    fn the_operator_can_override_the_keep_alive(b: &mut House) {
        b.set(|settings| settings.keep_alive_override = Some(20));
        let conn = b.dial(&connect(V5, "a"));
        b.read_with(conn, |packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            assert_eq!(connack.properties.server_keep_alive, Some(20));
        }).unwrap();
        b.seconds(29);
        assert!(b.is_open(conn));
        b.seconds(1);
        assert_eq!(b.read(conn), "DISCONNECT 0x8d");
    }

    fn who_cannot_be_told_of_a_keep_alive_keeps_its_own(b: &mut House) {
        b.set(|settings| settings.keep_alive_override = Some(20));
        let conn = b.join(&Connect { keep_alive: 60, ..connect(V4, "a") });
        b.seconds(89);
        assert!(b.is_open(conn));
        b.seconds(1);
        assert!(!b.is_open(conn));
    }

    fn who_never_says_connect_is_not_waited_for(b: &mut House) {
        let conn = b.open();
        b.send_bytes(conn, &[0x10, 40, 0]);
        b.seconds(9);
        assert!(b.is_open(conn));
        b.seconds(1);
        assert!(!b.is_open(conn));
        assert_eq!(b.stat("connect_timeouts"), 1);
    }

    fn a_clean_stop_says_so_to_5_0_clients_and_refuses_new_ones(b: &mut House) {
        let five = b.client(V5, "five");
        let old = b.client(V4, "old");
        let fresh = b.open();
        b.broker.stop(b.now, &mut b.outbox);
        b.turn();
        assert_eq!(b.read(five), "DISCONNECT 0x8b");
        assert_eq!(b.read(old), "");
        for conn in [five, old, fresh] {
            assert!(!b.is_open(conn));
        }
        let late = b.open();
        assert!(!b.is_open(late));
    }

    fn who_cannot_take_a_connack_is_told_nothing_and_has_no_will(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q0);
        let will = Will {
            topic: TopicName::new("will").unwrap(),
            payload: b"gone",
            qos: Q0,
            retain: false,
            properties: WillProperties::default(),
        };
        for limit in [1, 3, 4, 20] {
            let properties = ConnectProperties {
                maximum_packet_size: core::num::NonZeroU32::new(limit),
                ..ConnectProperties::default()
            };
            let conn = b.dial(&Connect { will: Some(will), properties, ..connect(V5, "a") });
            assert!(b.read_bytes(conn).is_empty(), "no DISCONNECT before a CONNACK");
            assert!(!b.is_open(conn));
        }
        assert_eq!((b.read(watcher), b.stat("sessions")), (String::new(), 1));
    }

    fn reason_strings_that_are_too_long_for_the_client_are_left_out(b: &mut House) {
        let conn = b.join(&Connect {
            properties: ConnectProperties {
                maximum_packet_size: core::num::NonZeroU32::new(60),
                ..ConnectProperties::default()
            },
            ..connect(V5, "a")
        });
        b.send_bytes(conn, &[0x00, 0x00]);
        let bytes = b.read_bytes(conn);
        assert!(bytes.len() <= 60, "{bytes:?}");
        assert_eq!(bytes[0], 0xE0);
    }
}
