//! Sections 3.12 to 3.15, 4.12 and 4.13: pings, goodbyes, authentication, errors.

use fieldgate::mqtt::{
    Auth, AuthProperties, Connect, ConnectProperties, Packet, ReasonCode, TopicName, Will,
    WillProperties,
};

use crate::house::*;
use crate::support::*;

fn with_will<'a>(connect: &Connect<'a>) -> Connect<'a> {
    let will = Will {
        topic: TopicName::new("will").unwrap(),
        payload: b"gone",
        qos: Q0,
        retain: false,
        properties: WillProperties::default(),
    };
    Connect {
        will: Some(will),
        ..*connect
    }
}

fn auth(reason: ReasonCode) -> Packet<'static> {
    let properties = AuthProperties {
        authentication_method: Some("SCRAM-SHA-256"),
        ..AuthProperties::default()
    };
    Packet::Auth(Auth { reason, properties })
}

cases! {
    // [MQTT-3.12.4-1] [MQTT-3.12.4-1/3.1.1]
    fn each_ping_has_one_answer(b: &mut House) {
        for version in [V3, V4, V5] {
            let conn = b.client(version, "a");
            for count in [1, 2, 5] {
                b.send_bytes(conn, &[0xC0, 0].repeat(count));
                assert_eq!(b.read_bytes(conn), [0xD0, 0].repeat(count));
            }
        }
    }

    // [MQTT-3.14.2-2] [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.1-1] [MQTT-4.13.2-1]
    // [MQTT-4.8.0-1/3.1.1]
    fn nothing_follows_a_disconnect_but_the_end(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for version in BOTH {
            for bad in [&[0x00, 0][..], &[0xD0, 0], &[0x30, 2, 0, 0], &[0xE1, 0]] {
                let conn = b.stayer(version, "a");
                b.subscribe(conn, "t", Q0);
                b.read_all(conn);
                // What the error stands before is not looked at.
                let bytes = [bad, &publish_bytes(version, b"t", b"x"), &[0xC0, 0]].concat();
                b.push_bytes(conn, &bytes);
                b.push(publisher, &Packet::Publish(publish(Q0, "t", "y")));
                b.turn();
                if version == V5 {
                    b.read_with(conn, |packet| {
                        let Packet::Disconnect(disconnect) = packet else { panic!("{packet:?}") };
                        assert!(disconnect.reason.is_error());
                        let properties = &disconnect.properties;
                        assert_eq!(properties.session_expiry_interval, None);
                    }).unwrap();
                }
                assert_eq!(b.read(conn), "", "{bad:02x?}");
                assert!(!b.is_open(conn));
                assert_eq!(b.read(publisher), "");
            }
        }
    }

    // [MQTT-3.14.4-1]
    fn who_is_disconnected_for_its_own_publication_has_no_answer_to_it(b: &mut House) {
        b.set(|settings| {
            settings.queue.messages = 0;
            settings.queue.when_full = fieldgate::broker::settings::WhenFull::Disconnect;
        });
        for qos in [Q1, Q2] {
            let conn = b.client(V5, "a");
            b.subscribe(conn, "t", Q2);
            b.publish(conn, qos, "t", "x");
            assert_eq!(b.read_all(conn), ["DISCONNECT 0x97"]);
            assert!(!b.is_open(conn));
        }
    }

    // [MQTT-3.14.2-1]
    fn a_disconnect_says_why_in_a_code_of_its_table(b: &mut House) {
        // What is read here is parsed, and a code that the packet may not carry does not parse.
        for (bytes, code) in [
            (&[0x00, 0][..], 0x81), (&[0xD0, 0], 0x82), (&[0x36, 4, 0, 1, b't', 0], 0x81),
            (&[0x30, 4, 0, 1, b'#', 0], 0x90), (&[0x82, 7, 0, 1, 0, 0, 1, b'+', 0x40], 0x81),
            (&[0x82, 8, 0, 1, 0, 0, 2, b'a', b'+', 0], 0x8F),
            (&[0x30, 7, 0, 1, b't', 3, 0x23, 0, 0], 0x94), (&[0x40, 3, 0, 1, 1], 0x82),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
        ] {
            breaks(b, V5, bytes, code);
        }
        let silent = b.join(&Connect { keep_alive: 1, ..connect(V5, "a") });
        b.seconds(2);
        assert_eq!(b.read(silent), "DISCONNECT 0x8d");
        let old = b.client(V5, "a");
        b.client(V5, "a");
        assert_eq!(b.read(old), "DISCONNECT 0x8e");
    }

    // [MQTT-3.14.4-3] [MQTT-3.1.2-8] [MQTT-3.14.4-3/3.1.1] [MQTT-3.1.2-8/3.1.1]
    fn a_normal_disconnect_and_nothing_else_deletes_the_will(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "will", Q0);
        let published = "PUBLISH will q0 \"gone\"";
        for version in BOTH {
            for expected in [published, ""] {
                let conn = b.join(&with_will(&connect(version, "a")));
                if expected.is_empty() {
                    b.send_bytes(conn, &[0xE0, 0]);
                } else {
                    b.drop_conn(conn);
                }
                assert_eq!(b.read(watcher), expected);
            }
            let conn = b.join(&Connect { keep_alive: 2, ..with_will(&connect(version, "a")) });
            b.seconds(3);
            assert!(!b.is_open(conn));
            assert_eq!(b.read(watcher), published, "silence");
            b.join(&with_will(&connect(version, "a")));
            b.client(version, "a");
            assert_eq!(b.read(watcher), published, "a takeover");
        }
        for (code, expected) in [(0x00, ""), (0x04, published), (0x80, published)] {
            let conn = b.join(&with_will(&connect(V5, "a")));
            b.send_bytes(conn, &[0xE0, 1, code]);
            assert_eq!(b.read(watcher), expected, "{code:#04x}");
        }
    }

    // [MQTT-4.12.0-1]
    fn an_authentication_method_that_is_not_served_refuses_the_connect(b: &mut House) {
        for method in ["", "PLAIN", "GS2-KRB5", "scram-sha-256 "] {
            let properties = ConnectProperties {
                authentication_method: Some(method),
                ..ConnectProperties::default()
            };
            let bytes = bytes_of(V5, &Packet::Connect(Connect { properties, ..connect(V5, "a") }));
            refused(b, V5, &bytes, 0x8C);
        }
        assert_eq!(b.stat("sessions"), 0);
    }

    // [MQTT-4.12.0-6]
    fn without_a_method_there_is_no_authentication(b: &mut House) {
        let conn = b.dial(&connect(V5, "a"));
        b.read_with(conn, |packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            assert_eq!(connack.properties.authentication_method, None);
            assert_eq!(connack.properties.authentication_data, None);
        }).unwrap();
        assert_eq!(b.read(conn), "");
    }

    // [MQTT-4.12.0-7] [MQTT-4.12.1-1] [MQTT-4.12.1-2]
    fn who_named_no_method_may_not_authenticate(b: &mut House) {
        for reason in [ReasonCode::ReAuthenticate, ReasonCode::ContinueAuthentication] {
            breaks(b, V5, &bytes_of(V5, &auth(reason)), 0x82);
        }
        // 3.1.1 has no such packet.
        breaks(b, V4, &bytes_of(V5, &auth(ReasonCode::ReAuthenticate)), 0x81);
    }

    // [MQTT-4.8.0-2/3.1.1]
    fn what_cannot_be_received_for_want_of_memory_ends_the_connection(b: &mut House) {
        for version in BOTH {
            let conn = b.client(version, "a");
            let room = b.memory.used() + 50_000;
            b.set(|settings| settings.memory = room);
            b.send_bytes(conn, &packet(0x30, &field(&b"x".repeat(60_000)))[..1000]);
            b.seconds(30);
            let expected = if version == V5 { "DISCONNECT 0x97" } else { "" };
            assert_eq!(b.read(conn), expected);
            assert!(!b.is_open(conn));
            b.set(|_| {});
        }
    }
}
