//! Sections 3.3 to 3.7 and 4.9: PUBLISH, its acknowledgements, and how many of them at once.

use fieldgate::mqtt::{
    Ack, AckProperties, Auth, AuthProperties, Connack, ConnackProperties, Disconnect,
    DisconnectProperties, Packet, Publish, PublishProperties, ReasonCode, ReasonCodes, Suback,
    SubscriptionOptions, TopicAlias, Unsuback, UserPropertiesBuf,
};

use crate::house::*;
use crate::support::*;

/// A PUBLISH of QoS 0 to `t` with these properties.
fn with_properties(properties: &[u8]) -> Vec<u8> {
    let len = [properties.len() as u8];
    packet(0x30, &[&field(b"t"), &len[..], properties].concat())
}

cases! {
    // [MQTT-3.3.1-2] [MQTT-3.3.1-2/3.1.1]
    fn dup_does_not_go_with_qos_0(b: &mut House) {
        for version in BOTH {
            let mut bytes = publish_bytes(version, b"t", b"x");
            bytes[0] |= 0x08;
            breaks(b, version, &bytes, 0x81);
        }
    }

    // [MQTT-3.3.1-1] [MQTT-3.3.1-3] [MQTT-4.3.2-2] [MQTT-4.3.3-2]
    // [MQTT-3.3.1-1/3.1.1] [MQTT-3.3.1-3/3.1.1]
    fn dup_says_what_we_do_and_not_what_the_sender_did(b: &mut House) {
        for version in BOTH {
            let publisher = b.client(version, "publisher");
            let taker = b.stayer(version, "taker");
            b.subscribe(taker, "t", Q2);
            for (number, qos) in [(1, Q1), (2, Q2)] {
                let message = Publish { dup: true, ..numbered(number, qos, "t", "x") };
                b.send(publisher, &Packet::Publish(message));
            }
            assert_eq!(b.read_all(taker), ["PUBLISH t q1 #1 \"x\"", "PUBLISH t q2 #2 \"x\""]);
            b.drop_conn(taker);
            let (taker, got) = back(b, version, "taker");
            let again = ["PUBLISH t q1 #1 dup \"x\"", "PUBLISH t q2 #2 dup \"x\""];
            assert_eq!(got[1..], again);
            b.disconnect(taker);
            let fresh = b.client(version, "taker");
            b.disconnect(fresh);
        }
    }

    // [MQTT-3.3.1-4] [MQTT-3.3.1-4/3.1.1]
    fn qos_3_does_not_exist(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q2);
        for version in BOTH {
            for first_byte in [0x36, 0x37, 0x3E, 0x3F] {
                let body = [&field(b"t"), &[0, 1][..], no_properties(version), b"x"].concat();
                breaks(b, version, &packet(first_byte, &body), 0x81);
            }
        }
        assert_eq!(b.read(watcher), "");
    }

    // [MQTT-3.3.1-5] [MQTT-3.3.1-5/3.1.1] [MQTT-3.3.1-6/3.1.1] [MQTT-3.3.1-7/3.1.1]
    // [MQTT-3.3.1-8/3.1.1] [MQTT-3.3.1-9/3.1.1]
    fn the_last_retained_message_of_a_topic_is_kept_with_its_qos(b: &mut House) {
        let live = b.client(V4, "live");
        b.subscribe(live, "t", Q2);
        let publisher = b.client(V4, "publisher");
        for (number, qos, seen) in [(1, Q2, "q2"), (2, Q1, "q1"), (3, Q0, "q0")] {
            let text = number.to_string();
            let packet_id = (qos > Q0).then(|| id(number));
            let message = Publish { retain: true, packet_id, ..publish(qos, "t", &text) };
            b.send(publisher, &Packet::Publish(message));
            let got = b.read(live);
            assert!(!got.contains("retain") && got.contains(seen), "live: {got}");
            for version in BOTH {
                let late = b.client(version, "late");
                b.subscribe(late, "t", Q2);
                let got = b.read_all(late);
                assert_eq!(got.len(), 1, "{got:?}");
                let wanted = format!("PUBLISH t {seen}");
                assert!(got[0].starts_with(&wanted) && got[0].contains(" retain "), "{got:?}");
                assert!(got[0].ends_with(&format!("{text:?}")), "the last one: {got:?}");
            }
        }
    }

    // [MQTT-3.3.1-5]
    fn a_topic_has_one_retained_message(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for text in ["1", "2", "3"] {
            b.retain(publisher, "t", text);
            assert_eq!((b.stat("retained"), b.stat("messages")), (1, 1));
        }
        let late = b.client(V5, "late");
        b.subscribe(late, "t", Q0);
        assert_eq!(b.read_all(late), ["PUBLISH t q0 retain \"3\""]);
    }

    // [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-8]
    // [MQTT-3.3.1-10/3.1.1] [MQTT-3.3.1-11/3.1.1] [MQTT-3.3.1-12/3.1.1]
    fn an_empty_retained_message_removes_and_one_without_the_flag_does_nothing(b: &mut House) {
        for version in BOTH {
            let live = b.client(version, "live");
            b.subscribe(live, "t", Q0);
            let publisher = b.client(version, "publisher");
            b.retain(publisher, "t", "kept");
            b.publish(publisher, Q0, "t", "");
            b.publish(publisher, Q0, "t", "live");
            let late = b.client(version, "late");
            b.subscribe(late, "t", Q0);
            assert_eq!(b.read_all(late), ["PUBLISH t q0 retain \"kept\""]);
            b.retain(publisher, "t", "");
            assert_eq!(b.read_all(live).last().unwrap(), "PUBLISH t q0 \"\"");
            let late = b.client(version, "late");
            b.subscribe(late, "t", Q0);
            assert_eq!(b.read_all(late), [""; 0]);
            assert_eq!((b.stat("retained"), b.stat("messages")), (0, 0));
        }
    }

    // [MQTT-3.1.2-7/3.1.1]
    fn what_is_retained_outlives_the_session_of_its_publisher(b: &mut House) {
        for version in BOTH {
            let publisher = b.client(version, "publisher");
            b.retain(publisher, "t", "kept");
            b.disconnect(publisher);
            b.seconds(1_000_000);
            assert_eq!(b.stat("sessions"), 0);
            let late = b.client(version, "late");
            b.subscribe(late, "t", Q0);
            assert_eq!(b.read(late), "PUBLISH t q0 retain \"kept\"");
            b.disconnect(late);
        }
    }

    // [MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT-3.3.2-2/3.1.1] [MQTT-4.7.1-1/3.1.1]
    fn nobody_publishes_to_a_wildcard(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q0);
        for version in BOTH {
            for topic in [&b"#"[..], b"+", b"a/#", b"a/+/b", b"a+", b"#a", b"a long topic with +"] {
                breaks(b, version, &publish_bytes(version, topic, b"x"), 0x90);
            }
            let will = [no_properties(version), &field(b"a/#"), &field(b"")].concat();
            refused(b, version, &connect_bytes(version, 0x06, &will), 0x90);
        }
        assert_eq!(b.read(watcher), "");
    }

    // [MQTT-3.3.2-1] [MQTT-3.3.2-1/3.1.1]
    fn a_publication_begins_with_its_topic(b: &mut House) {
        for version in BOTH {
            for body in [&b""[..], b"\0", b"\0\x05topi"] {
                breaks(b, version, &packet(0x30, body), 0x81);
            }
        }
    }

    // [MQTT-3.3.2-3] [MQTT-3.3.2-3/3.1.1]
    fn what_arrives_has_a_topic_that_its_filter_matches(b: &mut House) {
        for version in BOTH {
            let taker = b.client(version, "taker");
            for filter in ["a/+/c", "x/#", "e"] {
                b.subscribe(taker, filter, Q0);
            }
            let publisher = b.client(version, "publisher");
            for topic in ["a/b/c", "a/b/d", "a//c", "a/c", "x", "x/y/z", "xx", "e", "e/", "E"] {
                b.publish(publisher, Q0, topic, "");
            }
            let expected = ["a/b/c", "a//c", "x", "x/y/z", "e"];
            assert_eq!(b.read_all(taker), expected.map(|topic| format!("PUBLISH {topic} q0 \"\"")));
        }
    }

    // [MQTT-3.3.2-8]
    fn a_topic_alias_is_not_0(b: &mut House) {
        breaks(b, V5, &with_properties(&[0x23, 0, 0]), 0x94);
    }

    // [MQTT-3.3.2-12]
    fn every_topic_alias_up_to_the_maximum_is_taken(b: &mut House) {
        for maximum in [1, 16, 300] {
            b.set(|settings| settings.topic_alias_maximum = maximum);
            let taker = b.client(V5, "taker");
            b.subscribe(taker, "#", Q0);
            let conn = b.dial(&connect(V5, "a"));
            b.read_with(conn, |packet| {
                let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
                assert_eq!(connack.properties.topic_alias_maximum, Some(maximum));
            }).unwrap();
            for round in 0..2 {
                for alias in 1..=maximum {
                    let name = format!("t/{alias}");
                    let properties = PublishProperties {
                        topic_alias: TopicAlias::new(alias),
                        ..PublishProperties::default()
                    };
                    let topic = if round == 0 { &*name } else { "" };
                    let message = Publish { properties, ..publish(Q0, topic, "") };
                    b.send(conn, &Packet::Publish(message));
                    assert_eq!(b.read(taker), format!("PUBLISH {name} q0 \"\""));
                }
            }
        }
    }

    // [MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19]
    fn a_response_topic_is_a_topic_name_and_a_content_type_a_string(b: &mut House) {
        let property = |id: u8, text: &[u8]| with_properties(&[&[id][..], &field(text)].concat());
        for (text, code) in [
            (&b"a/#"[..], 0x90), (b"+", 0x90), (b"", 0x90), (b"\xFF", 0x81), (b"\0", 0x81),
        ] {
            breaks(b, V5, &property(0x08, text), code);
        }
        for text in [&b"\xFF"[..], b"\xED\xA0\x80", b"\0"] {
            breaks(b, V5, &property(0x03, text), 0x81);
        }
        let conn = b.client(V5, "a");
        b.send_bytes(conn, &property(0x08, b"answers"));
        b.send_bytes(conn, &property(0x03, "töxt".as_bytes()));
        assert!(b.is_open(conn));
    }

    // [MQTT-3.3.2-6]
    fn what_a_subscriber_is_told_of_the_expiry_is_what_is_left(b: &mut House) {
        let message = |qos| Publish {
            properties: PublishProperties {
                message_expiry_interval: Some(100),
                ..PublishProperties::default()
            },
            ..publish(qos, "t", "x")
        };
        let publisher = b.client(V5, "publisher");
        for waited in [0, 1, 30, 99] {
            let taker = b.stayer(V5, "taker");
            b.subscribe(taker, "t", Q1);
            b.drop_conn(taker);
            b.send(publisher, &Packet::Publish(message(Q1)));
            b.seconds(waited);
            let (taker, got) = back(b, V5, "taker");
            let expected = format!("PUBLISH t q1 #1 expiry={} \"x\"", 100 - waited);
            assert_eq!(got, ["CONNACK Success present".to_owned(), expected]);
            b.send(publisher, &Packet::Publish(message(Q0)));
            assert_eq!(b.read(taker), "PUBLISH t q0 expiry=100 \"x\"", "it has not waited");
            b.disconnect(taker);
            let fresh = b.client(V5, "taker");
            b.disconnect(fresh);
        }
    }

    // [MQTT-3.3.4-10] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
    fn a_full_window_holds_up_nothing_but_publications(b: &mut House) {
        b.set(|settings| settings.inflight_maximum = 2);
        for version in BOTH {
            let conn = b.join(&if version == V5 {
                with_window(&connect(V5, "a"), 2)
            } else {
                connect(V4, "a")
            });
            b.subscribe(conn, "t", Q2);
            let publisher = b.client(version, "publisher");
            for number in 1..=4 {
                b.send(publisher, &Packet::Publish(numbered(number, Q2, "t", "x")));
                b.pubrel(publisher, number);
            }
            let sent = ["PUBLISH t q2 #1 \"x\"", "PUBLISH t q2 #2 \"x\""];
            assert_eq!(b.read_all(conn), sent, "and not more");
            b.send(conn, &Packet::Pingreq);
            assert_eq!(b.read(conn), "PINGRESP");
            b.subscribe(conn, "other", Q1);
            b.unsubscribe(conn, "other");
            assert!(b.read(conn).starts_with("UNSUBACK 2"));
            b.publish(conn, Q1, "t/u", "x");
            assert!(b.read(conn).starts_with("PUBACK 1"));
            b.publish(conn, Q2, "t/u", "x");
            assert!(b.read(conn).starts_with("PUBREC 1"));
            b.pubrel(conn, 1);
            assert_eq!(b.read(conn), "PUBCOMP 1");
            for number in [1, 2] {
                b.pubrec(conn, number);
                assert_eq!(b.read_all(conn), [format!("PUBREL {number}")]);
            }
            b.pubcomp(conn, 1);
            assert_eq!(b.read_all(conn), ["PUBLISH t q2 #3 \"x\""], "one place is free");
        }
    }

    // [MQTT-3.3.4-7]
    fn the_21st_unacknowledged_publication_is_one_too_many(b: &mut House) {
        let conn = b.dial(&connect(V5, "a"));
        b.read_with(conn, |packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            let maximum = connack.properties.receive_maximum.unwrap();
            assert_eq!(maximum.value(), 20);
        }).unwrap();
        for number in 1..=20 {
            b.send(conn, &Packet::Publish(numbered(number, Q2, "t", "")));
            assert_eq!(b.read(conn), format!("PUBREC {number} 0x10"));
        }
        b.send(conn, &Packet::Publish(numbered(21, Q2, "t", "")));
        assert_eq!(b.read_all(conn), ["DISCONNECT 0x93"]);
        assert!(!b.is_open(conn));
    }

    // [MQTT-4.9.0-1]
    fn the_first_window_is_what_the_client_takes_and_not_nothing(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for window in [1, 2, 7, 50] {
            let conn = b.join(&with_window(&connect(V5, "a"), window));
            b.subscribe(conn, "t", Q1);
            for _ in 0..window + 10 {
                b.publish(publisher, Q1, "t", "x");
            }
            assert_eq!(b.read_all(conn).len(), usize::from(window));
        }
    }

    // [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2]
    fn every_acknowledgement_has_a_code_of_its_own_table(b: &mut House) {
        b.broker.protect("shed");
        b.set(|settings| {
            settings.check_payload_format = true;
            settings.max_subscriptions = 1;
            settings.queue.messages = 0;
            settings.queue.when_full = fieldgate::broker::settings::WhenFull::Refuse;
        });
        let absent = b.stayer(V5, "absent");
        b.subscribe(absent, "full", Q1);
        b.drop_conn(absent);
        let conn = b.client(V5, "a");
        b.subscribe(conn, "mine", Q0);
        let text = Publish {
            payload: b"\xFF",
            properties: PublishProperties {
                payload_format_indicator: Some(fieldgate::mqtt::PayloadFormat::Utf8),
                ..PublishProperties::default()
            },
            ..publish(Q1, "t", "")
        };
        // What is read here is parsed, and a code that the packet may not carry does not parse.
        for (topic, code) in
            [("nobody", " 0x10"), ("mine", ""), ("shed/x", " 0x87"), ("full", " 0x97")]
        {
            b.publish(conn, Q1, topic, "");
            let got: Vec<_> = b.read_all(conn);
            assert!(got.contains(&format!("PUBACK 1{code}")), "{topic}: {got:?}");
            b.publish(conn, Q2, topic, "");
            let got: Vec<_> = b.read_all(conn);
            assert!(got.contains(&format!("PUBREC 1{code}")), "{topic}: {got:?}");
            b.pubrel(conn, 1);
            b.read(conn);
        }
        for (qos, name) in [(Q1, "PUBACK"), (Q2, "PUBREC")] {
            b.send(conn, &Packet::Publish(Publish { qos, ..text }));
            assert_eq!(b.read(conn), format!("{name} 1 0x99"));
        }
        b.pubrel(conn, 9);
        assert_eq!(b.read(conn), "PUBCOMP 9 0x92");
        b.subscribe_with(conn, "one/more", SubscriptionOptions::new(Q0), None);
        assert_eq!(b.read(conn), "SUBACK 1 [0x97]");
        let old = b.client(V4, "old");
        b.subscribe(old, "mine", Q0);
        b.subscribe_with(old, "one/more", SubscriptionOptions::new(Q0), None);
        assert_eq!(b.read_bytes(old), [0x90, 3, 0, 1, 0x80], "3.1.1 has one code for it");
    }

    // [MQTT-3.6.2-1]
    fn a_pubrel_says_success_or_that_it_does_not_know_the_identifier(b: &mut House) {
        let conn = b.client(V5, "a");
        b.subscribe(conn, "t", Q2);
        let publisher = b.client(V5, "publisher");
        b.publish(publisher, Q2, "t", "x");
        b.read(conn);
        b.pubrec(conn, 1);
        assert_eq!(b.read_bytes(conn), [0x62, 2, 0, 1]);
        b.pubrec(conn, 9);
        assert_eq!(b.read_bytes(conn), [0x62, 3, 0, 9, 0x92]);
    }
}

// [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3]
// [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2]
// [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.15.2-2] [MQTT-3.15.2-3]
#[test]
fn a_reason_string_or_user_property_never_makes_a_packet_too_large() {
    let mut pairs = UserPropertiesBuf::new();
    assert!(pairs.push("key", "value"));
    let user_properties = pairs.as_properties();
    let reason_string = Some("because");
    let properties = AckProperties {
        reason_string,
        user_properties,
    };
    let ack = Ack {
        packet_id: id(7),
        reason: ReasonCode::Success,
        properties,
    };
    let reasons = ReasonCodes::from_slice(&[ReasonCode::Success]);
    let packets = [
        Packet::Connack(Connack {
            session_present: false,
            reason: ReasonCode::ServerBusy,
            properties: ConnackProperties {
                reason_string,
                user_properties,
                ..ConnackProperties::default()
            },
        }),
        Packet::Puback(ack),
        Packet::Pubrec(ack),
        Packet::Pubrel(ack),
        Packet::Pubcomp(ack),
        Packet::Suback(Suback {
            packet_id: id(7),
            properties,
            reasons,
        }),
        Packet::Unsuback(Unsuback {
            packet_id: id(7),
            properties,
            reasons,
        }),
        Packet::Disconnect(Disconnect {
            reason: ReasonCode::ServerBusy,
            properties: DisconnectProperties {
                reason_string,
                user_properties,
                ..DisconnectProperties::default()
            },
        }),
        Packet::Auth(Auth {
            reason: ReasonCode::ContinueAuthentication,
            properties: AuthProperties {
                authentication_method: Some("m"),
                reason_string,
                user_properties,
                ..AuthProperties::default()
            },
        }),
    ];
    for packet in packets {
        let whole = packet.encoded_len(V5) as u32;
        let bare = packet.without_diagnostics().encoded_len(V5) as u32;
        assert!(bare + 20 < whole, "{packet:?}");
        assert_eq!(packet.fit(V5, whole), Some(packet));
        for limit in 0..whole {
            match packet.fit(V5, limit) {
                Some(fits) => assert!(fits.encoded_len(V5) as u32 <= limit, "{fits:?}"),
                None => assert!(limit < bare, "{packet:?} has {bare} bytes without them"),
            }
        }
    }
}
