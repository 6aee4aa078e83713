//! Sections 3.12 to 3.15, 4.12 and 4.13: pings, goodbyes, authentication, errors.

use fieldgate::mqtt::{
    Connect, ConnectProperties, Packet, ReasonCode, TopicName, Will, WillProperties,
};

use crate::house::*;
use crate::scram::{
    self, METHOD, again, asked, asking, auth, challenge, go_on, proof, read_auth, with_users,
};
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

const FIRST: &str = "n,,n=anna,r=nonce";

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
        // Where nobody has a verifier for it, there is no such method either.
        let bytes = bytes_of(V5, &Packet::Connect(asking(&connect(V5, "a"), FIRST)));
        refused(b, V5, &bytes, 0x8C);
    }

    // [MQTT-4.12.0-2] [MQTT-4.12.0-5] [MQTT-3.15.2-1]
    fn every_auth_says_what_it_is_and_names_the_method_of_connect(b: &mut House) {
        with_users(b);
        let conn = b.dial(&asking(&connect(V5, "a"), FIRST));
        // 0x18, the method, and data; nothing before CONNACK but this.
        let bytes = b.read_bytes(conn);
        let method = [&[0x15][..], &field(METHOD.as_bytes())].concat();
        assert_eq!((bytes[0], bytes[2]), (0xF0, 0x18));
        assert_eq!(bytes[4..4 + method.len()], method);
        b.drop_conn(conn);
        let conn = scram::enter(b, &connect(V5, "a"), "anna", "secret");
        b.send(conn, &again(FIRST));
        let asked = challenge(b, conn);
        let (last, expected) = proof(FIRST, &asked, "secret");
        b.send(conn, &go_on(&last));
        assert_eq!(read_auth(b, conn), (ReasonCode::Success, expected));
        assert_eq!(b.read(conn), "");
    }

    // [MQTT-4.12.0-4] [MQTT-4.12.0-3] [MQTT-4.12.0-5]
    fn an_authentication_is_refused_wherever_it_goes_wrong(b: &mut House) {
        with_users(b);
        // At the first message.
        let conn = b.dial(&asking(&connect(V5, "a"), "n,,n=anna"));
        assert_eq!(b.read(conn), "CONNACK Not authorized");
        assert!(!b.is_open(conn));
        let (_, right) = asked(b, FIRST, "secret");
        for (answer, code) in [
            (go_on("c=biws"), "Not authorized"),
            (go_on(&right), "Not authorized"), // of another exchange
            (go_on(""), "Not authorized"),
            (auth(ReasonCode::ContinueAuthentication, Some("SCRAM-SHA-1"), "x"),
                "Bad authentication method"),
            (auth(ReasonCode::ReAuthenticate, Some(METHOD), FIRST), "Protocol Error"),
            (auth(ReasonCode::Success, Some(METHOD), "x"), "Protocol Error"),
            (auth(ReasonCode::ContinueAuthentication, None, "x"), "Protocol Error"),
        ] {
            let (conn, _) = asked(b, FIRST, "secret");
            b.send(conn, &answer);
            assert_eq!(b.read(conn), format!("CONNACK {code}"), "{answer:?}");
            assert_eq!(b.read(conn), "");
            assert!(!b.is_open(conn));
        }
        // AUTH may be empty, which says Success; and flags and codes are those that it has.
        for (bytes, code) in [
            (&[0xF0, 0][..], 0x82), (&[0xF1, 0], 0x81), (&[0xF0, 2, 0x80, 0], 0x82),
            (&[0xF0, 1, 0x18], 0x81),
        ] {
            let (conn, _) = asked(b, FIRST, "secret");
            b.send_bytes(conn, bytes);
            let answer = b.read_bytes(conn);
            assert_eq!((answer[0], answer[3]), (0x20, code), "{bytes:02x?}");
            assert!(!b.is_open(conn));
        }
        assert_eq!(b.stat("sessions"), 0);
    }

    // [MQTT-3.1.2-30]
    fn nothing_but_auth_and_disconnect_comes_before_connack(b: &mut House) {
        with_users(b);
        let connect = asking(&connect(V5, "a"), FIRST);
        for bytes in [
            bytes_of(V5, &Packet::Pingreq),
            bytes_of(V5, &Packet::Connect(connect)),
            publish_bytes(V5, b"t", b"x"),
            subscribe_bytes(V5, b"t", 0),
            vec![0x30, 0xFF, 0x01],
        ] {
            let (conn, right) = asked(b, FIRST, "secret");
            let bytes = [bytes, bytes_of(V5, &go_on(&right))].concat();
            b.send_bytes(conn, &bytes);
            assert_eq!(b.read_all(conn), ["CONNACK Protocol Error"], "{bytes:02x?}");
            assert!(!b.is_open(conn));
        }
        let (conn, _) = asked(b, FIRST, "secret");
        b.send_bytes(conn, &[0xE0, 0]);
        assert_eq!(b.read(conn), "");
        assert!(!b.is_open(conn));
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
        with_users(b);
        for packet in [again(FIRST), go_on(FIRST)] {
            breaks(b, V5, &bytes_of(V5, &packet), 0x82);
        }
        // 3.1.1 has no such packet.
        breaks(b, V4, &bytes_of(V5, &again(FIRST)), 0x81);
    }

    // [MQTT-4.12.1-1] [MQTT-4.12.1-2] [MQTT-4.12.0-5]
    fn to_fail_at_authenticating_again_ends_the_connection(b: &mut House) {
        with_users(b);
        let once_more = auth(ReasonCode::ReAuthenticate, Some(METHOD), FIRST);
        for (is_asked, packet, code) in [
            (false, auth(ReasonCode::ReAuthenticate, Some("SCRAM-SHA-1"), FIRST), 0x8C),
            (false, auth(ReasonCode::ReAuthenticate, None, FIRST), 0x82),
            (false, again("n,,n=anna"), 0x87),
            (false, go_on("x"), 0x82),
            (false, auth(ReasonCode::Success, Some(METHOD), ""), 0x82),
            (true, once_more, 0x82),
            (true, go_on("x"), 0x87),
            (true, auth(ReasonCode::ContinueAuthentication, Some("x"), "x"), 0x8C),
            (true, auth(ReasonCode::Success, Some(METHOD), ""), 0x82),
        ] {
            let conn = scram::enter(b, &connect(V5, "a"), "anna", "secret");
            if is_asked {
                b.send(conn, &again(FIRST));
                challenge(b, conn);
            }
            b.send(conn, &packet);
            assert_eq!(b.read_all(conn), [format!("DISCONNECT {code:#04x}")], "{packet:?}");
            assert!(!b.is_open(conn));
        }
        // A wrong proof.
        let conn = scram::enter(b, &connect(V5, "a"), "anna", "secret");
        b.send(conn, &again(FIRST));
        let asked = challenge(b, conn);
        b.send(conn, &go_on(&proof(FIRST, &asked, "wrong").0));
        assert_eq!(b.read_all(conn), ["DISCONNECT 0x87"]);
        assert!(!b.is_open(conn));
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
