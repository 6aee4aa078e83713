//! Sections 3.1 and 3.2: CONNECT and CONNACK.

use fieldgate::mqtt::{
    Connect, ConnectProperties, Packet, PacketType, Publish, PublishProperties,
    SubscriptionOptions, TopicAlias, TopicName, UserPropertiesBuf, Will, WillProperties,
};

use crate::house::*;
use crate::support::*;

fn will() -> Will<'static> {
    Will {
        topic: TopicName::new("will").unwrap(),
        payload: b"gone",
        qos: Q0,
        retain: false,
        properties: WillProperties::default(),
    }
}

/// The client identifier that CONNACK assigns.
fn assigned(b: &mut House, conn: fieldgate::id::ConnId) -> String {
    b.read_with(conn, |packet| match packet {
        Packet::Connack(connack) => {
            let name = connack.properties.assigned_client_identifier;
            name.expect("a client identifier is assigned").to_owned()
        }
        _ => panic!("{packet:?}"),
    })
    .unwrap()
}

cases! {
    // [MQTT-3.1.0-1] [MQTT-3.1.0-1/3.1.1]
    fn no_packet_but_connect_comes_first(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q0);
        for version in BOTH {
            for first_byte in (0x20..=0xF0_u8).step_by(0x10) {
                let flags = if matches!(first_byte, 0x60 | 0x80 | 0xA0) { 2 } else { 0 };
                let conn = b.open();
                let body = [&field(b"t"), no_properties(version), b"\0\0\0\0"].concat();
                b.send_bytes(conn, &packet(first_byte | flags, &body));
                assert!(!b.is_open(conn), "{first_byte:#04x}");
                assert!(b.read_bytes(conn).is_empty(), "{first_byte:#04x}");
            }
        }
        assert_eq!(b.read(watcher), "");
        assert_eq!(b.stat("protocol_errors"), 28);
    }

    // [MQTT-3.1.0-2] [MQTT-3.2.0-2] [MQTT-3.1.0-2/3.1.1]
    fn a_second_connect_ends_the_connection_and_changes_nothing(b: &mut House) {
        for version in BOTH {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q1);
            b.send(conn, &Packet::Connect(connect(version, "a")));
            let expected: &[_] = if version == V5 { &["DISCONNECT 0x82"] } else { &[] };
            assert_eq!(b.read_all(conn), expected, "no second CONNACK");
            assert!(!b.is_open(conn));
            let (conn, got) = back(b, version, "a");
            assert_eq!(got, ["CONNACK Success present"], "its clean start is not done");
            b.publish(conn, Q0, "t", "x");
            assert_eq!(b.read(conn), "PUBLISH t q0 \"x\"");
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
    }

    // [MQTT-3.1.2-1] [MQTT-3.1.2-1/3.1.1]
    fn another_protocol_name_gets_no_answer_and_no_connection(b: &mut House) {
        for version in BOTH {
            for name in [&b"MQTt"[..], b"mqtt", b"MQTTT", b"MQT", b"", b"MQIsdP"] {
                let rest = [version.level(), 2, 0, 0];
                let end = no_properties(version);
                let body = [&field(name), &rest[..], end, &field(b"i")].concat();
                let conn = b.open();
                b.send_bytes(conn, &packet(0x10, &body));
                assert!(b.read_bytes(conn).is_empty(), "{name:?}");
                assert!(!b.is_open(conn), "{name:?}");
            }
        }
        assert_eq!(b.stat("sessions"), 0);
    }

    // [MQTT-3.1.2-2] [MQTT-3.1.2-2/3.1.1]
    fn another_protocol_level_is_told_so_and_disconnected(b: &mut House) {
        for (level, answer) in [
            (0, &[0x20, 2, 0, 1][..]), (3, &[0x20, 2, 0, 1]), (6, &[0x20]), (0x7F, &[0x20]),
        ] {
            let mut bytes = connect_bytes(V4, 2, b"");
            bytes[8] = level;
            let conn = b.open();
            b.send_bytes(conn, &bytes);
            let got = b.read_bytes(conn);
            assert!(got.starts_with(answer), "{level}: {got:02x?}");
            assert!(level < 5 || got[3] == 0x84, "{level}: {got:02x?}");
            assert!(!b.is_open(conn));
        }
        assert_eq!(b.stat("sessions"), 0);
    }

    // [MQTT-3.1.2-3] [MQTT-3.1.2-3/3.1.1]
    fn the_reserved_connect_flag_is_looked_at(b: &mut House) {
        for version in BOTH {
            refused(b, version, &connect_bytes(version, 0x03, b""), 0x81);
            refused(b, version, &connect_bytes(version, 0x01, b""), 0x81);
        }
    }

    // [MQTT-3.1.2-6] [MQTT-3.2.2-3] [MQTT-3.1.2-4/3.1.1] [MQTT-3.2.2-3/3.1.1]
    fn without_a_session_there_is_a_new_one(b: &mut House) {
        for version in BOTH {
            let (conn, got) = back(b, version, "a");
            assert_eq!(got, ["CONNACK Success"]);
            b.subscribe(conn, "t", Q1);
            b.drop_conn(conn);
            b.seconds(10);
            let (conn, got) = back(b, version, "a");
            assert_eq!(got, ["CONNACK Success present"], "and it stays");
            b.drop_conn(conn);
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
    }

    // [MQTT-3.1.2-9] [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-16] [MQTT-3.1.2-17]
    // [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT-3.1.3-1] [MQTT-3.1.3-3] [MQTT-3.1.4-1]
    // [MQTT-3.1.2-9/3.1.1] [MQTT-3.1.2-11/3.1.1] [MQTT-3.1.2-13/3.1.1] [MQTT-3.1.2-15/3.1.1]
    // [MQTT-3.1.2-18/3.1.1] [MQTT-3.1.2-19/3.1.1] [MQTT-3.1.2-20/3.1.1] [MQTT-3.1.2-21/3.1.1]
    // [MQTT-3.1.3-1/3.1.1] [MQTT-3.1.3-3/3.1.1] [MQTT-3.1.4-1/3.1.1]
    fn the_payload_of_a_connect_is_what_its_flags_say(b: &mut House) {
        const WILL: u8 = 0x06;
        const USERNAME: u8 = 0x82;
        const PASSWORD: u8 = 0xC2;
        let (topic, text) = (field(b"will"), field(b"text"));
        for version in BOTH {
            let will = [no_properties(version), &topic, &text].concat();
            let everything = [&will[..], &text, &text].concat();
            for (flags, rest) in [
                (0x02, &[][..]), (WILL, &will), (USERNAME, &text), (WILL | PASSWORD, &everything),
            ] {
                let bytes = connect_bytes(version, flags, rest);
                let conn = b.open();
                b.send_bytes(conn, &bytes);
                assert!(b.is_open(conn), "{bytes:02x?}");
                b.disconnect(conn);
                // One field less, one field more.
                let less = if rest.is_empty() { connect_of(version, flags, b"") } else {
                    connect_bytes(version, flags, &rest[..rest.len() - text.len()])
                };
                refused(b, version, &less, 0x81);
                let more = connect_bytes(version, flags, &[rest, &text].concat());
                refused(b, version, &more, 0x81);
            }
            // Will QoS and Will Retain without a will.
            for flags in [0x0A, 0x12, 0x22, 0x2A] {
                refused(b, version, &connect_bytes(version, flags, b""), 0x81);
            }
            // Nothing at all, and half of it.
            refused(b, version, &connect_of(version, 0x02, b"\0"), 0x81);
            refused(b, version, &connect_of(version, 0x02, b"\0\x02i"), 0x81);
        }
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q0);
        // The will comes before the user name: its topic is the first field after it.
        let rest = [field(b"topic"), field(b"payload"), field(b"user"), field(b"word")].concat();
        let conn = b.open();
        b.send_bytes(conn, &connect_bytes(V4, WILL | PASSWORD, &rest));
        b.drop_conn(conn);
        assert_eq!(b.read(watcher), "PUBLISH topic q0 \"payload\"");
    }

    // [MQTT-3.1.2-22/3.1.1]
    fn a_password_needs_a_user_name_before_5_0(b: &mut House) {
        refused(b, V4, &connect_bytes(V4, 0x42, &field(b"secret")), 0x81);
        let conn = b.open();
        b.send_bytes(conn, &connect_bytes(V5, 0x42, &field(b"secret")));
        assert!(b.is_open(conn), "5.0 has no such rule");
    }

    // [MQTT-3.1.2-7] [MQTT-3.1.2-12] [MQTT-3.1.2-14] [MQTT-3.1.2-14/3.1.1] [MQTT-3.1.2-16/3.1.1]
    fn a_will_is_published_at_its_qos_and_not_retained_unless_it_says_so(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "will", Q2);
        for version in BOTH {
            for (qos, seen) in [(Q0, "q0"), (Q1, "q1"), (Q2, "q2")] {
                let conn = b.join(&Connect {
                    will: Some(Will { qos, ..will() }),
                    ..connect(version, "a")
                });
                assert_eq!(b.read(watcher), "", "not before the connection ends");
                b.drop_conn(conn);
                let got = b.read(watcher);
                assert!(got.starts_with(&format!("PUBLISH will {seen}")), "{got}");
                let late = b.client(V5, "late");
                b.subscribe(late, "will", Q2);
                assert_eq!(b.read(late), "");
            }
            // QoS 3 does not exist.
            let rest = [no_properties(version), &field(b"will"), &field(b"")].concat();
            refused(b, version, &connect_bytes(version, 0x1E, &rest), 0x81);
        }
    }

    // [MQTT-3.1.2-10] [MQTT-3.1.2-10/3.1.1]
    fn a_will_is_published_once(b: &mut House) {
        let watcher = b.client(V4, "watcher");
        b.subscribe(watcher, "will", Q0);
        for version in BOTH {
            let conn = b.join(&Connect { will: Some(will()), ..lasting(version, "a") });
            b.drop_conn(conn);
            assert_eq!(b.read(watcher), "PUBLISH will q0 \"gone\"");
            let (conn, _) = back(b, version, "a");
            b.drop_conn(conn);
            b.seconds(10_000);
            assert_eq!(b.read(watcher), "", "it is not in the session any more");
            let conn = b.join(&Connect { will: Some(will()), ..lasting(version, "a") });
            b.disconnect(conn);
            let (conn, _) = back(b, version, "a");
            b.drop_conn(conn);
            b.seconds(10_000);
            assert_eq!(b.read(watcher), "", "nor after DISCONNECT");
        }
    }

    // [MQTT-3.1.3-9]
    fn a_client_that_is_back_in_time_has_its_will_for_itself(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "will", Q0);
        let properties = WillProperties {
            will_delay_interval: Some(60),
            ..WillProperties::default()
        };
        for again in [lasting(V5, "a"), lasting(V4, "a")] {
            let will = Will { properties, ..will() };
            let conn = b.join(&Connect { will: Some(will), ..lasting(V5, "a") });
            b.drop_conn(conn);
            b.seconds(59);
            let conn = b.join(&again);
            b.disconnect(conn);
            b.seconds(1000);
            assert_eq!(b.read(watcher), "", "not while it is back, nor when it has gone in peace");
        }
    }

    // [MQTT-3.1.2-12/3.1.1]
    fn without_a_will_nothing_is_published(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q0);
        for version in BOTH {
            let conn = b.client(version, "a");
            b.drop_conn(conn);
            let conn = b.client(version, "a");
            b.send_bytes(conn, &[0, 0]);
            assert_eq!(b.read(watcher), "");
        }
        assert_eq!(b.stat("wills_published"), 0);
    }

    // [MQTT-3.1.3-10]
    fn a_wills_user_properties_keep_their_order(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "will", Q1);
        let mut pairs = UserPropertiesBuf::new();
        for (name, value) in [("b", "1"), ("a", "2"), ("b", "0"), ("", "")] {
            assert!(pairs.push(name, value));
        }
        let properties = WillProperties {
            user_properties: pairs.as_properties(),
            ..WillProperties::default()
        };
        let will = Will { properties, ..will() };
        let conn = b.join(&Connect { will: Some(will), ..connect(V5, "a") });
        b.drop_conn(conn);
        b.read_with(watcher, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            let got: Vec<_> = publish.properties.user_properties.iter().collect();
            assert_eq!(got, [("b", "1"), ("a", "2"), ("b", "0"), ("", "")]);
        }).unwrap();
    }

    // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
    fn no_packet_is_larger_than_the_client_takes(b: &mut House) {
        b.broker.protect("shed");
        for limit in [20, 25, 30, 40, 60] {
            let conn = b.dial(&narrow(&connect(V5, "a"), limit));
            let connack = b.read_bytes(conn);
            assert!(connack.len() <= limit as usize, "{connack:02x?}");
            if !b.is_open(conn) {
                continue;
            }
            b.subscribe(conn, "t", Q1);
            for qos in [Q0, Q1] {
                let text = "x".repeat(limit as usize);
                for len in (0..limit as usize).rev() {
                    b.publish(conn, qos, "t", &text[..len]);
                    while let Some((len, id)) = b.read_with(conn, |packet| match packet {
                        Packet::Publish(publish) => (publish.encoded_len(V5), publish.packet_id),
                        other => (other.encoded_len(V5), None),
                    }) {
                        assert!(len <= limit as usize, "{len} bytes");
                        if let Some(id) = id {
                            b.puback(conn, id.value());
                        }
                    }
                }
            }
            // A reason would be too much, and so would one code for each of many filters.
            b.publish(conn, Q1, "shed/x", "");
            assert_eq!(b.read(conn), "PUBACK 1 0x87");
            let many = b"\0\x01f\0".repeat(60);
            b.send_bytes(conn, &packet(0x82, &[&b"\0\x01\0"[..], &many].concat()));
            assert_eq!(b.read(conn), "DISCONNECT 0x95");
        }
    }

    // [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11] [MQTT-3.3.2-8]
    fn a_subscriber_is_sent_no_topic_alias_above_its_maximum(b: &mut House) {
        for maximum in [None, Some(0), Some(1), Some(3), Some(10), Some(100), Some(u16::MAX)] {
            let properties = ConnectProperties {
                topic_alias_maximum: maximum,
                ..ConnectProperties::default()
            };
            let taker = b.join(&Connect { properties, ..connect(V5, "taker") });
            b.subscribe(taker, "#", Q1);
            let publisher = b.client(V5, "publisher");
            let mut highest = 0;
            for round in 0..200 {
                let topic = format!("topic/{}", round % 20);
                let properties = PublishProperties {
                    // That of the publisher is its own affair.
                    topic_alias: TopicAlias::new(16),
                    ..PublishProperties::default()
                };
                let message = Publish { properties, ..publish(Q0, &topic, "x") };
                b.send(publisher, &Packet::Publish(message));
                b.read_with(taker, |packet| {
                    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                    let alias = publish.properties.topic_alias.map_or(0, TopicAlias::value);
                    assert!(alias > 0 || publish.topic == topic);
                    highest = highest.max(alias);
                }).unwrap();
            }
            // As many as it takes, up to what the settings say.
            assert_eq!(highest, maximum.unwrap_or(0).min(16));
        }
    }

    // [MQTT-3.1.3-2] [MQTT-3.1.3-2/3.1.1]
    fn a_session_is_its_client_identifiers(b: &mut House) {
        let names = ["pump", "Pump", "pum", "pump ", "pump/1", "pümp", "pu\u{308}mp"];
        for version in BOTH {
            for name in names {
                let conn = b.stayer(version, name);
                b.subscribe(conn, name, Q1);
                b.drop_conn(conn);
            }
            assert_eq!(b.stat("sessions"), names.len() as u64);
            let publisher = b.client(version, "publisher");
            for name in names {
                b.publish(publisher, Q1, name, name);
                b.read(publisher);
            }
            b.disconnect(publisher);
            for name in names {
                let (conn, got) = back(b, version, name);
                let expected = format!("PUBLISH {name} q1 #1 {name:?}");
                assert_eq!(got, ["CONNACK Success present".to_owned(), expected]);
                b.disconnect(conn);
                let fresh = b.client(version, name);
                b.disconnect(fresh);
            }
        }
    }

    // [MQTT-3.1.3-5] [MQTT-3.1.3-5/3.1.1]
    fn every_client_identifier_that_the_standard_promises_is_taken(b: &mut House) {
        const ALL: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for version in BOTH {
            for at in 0..ALL.len() {
                b.client(version, &ALL[at..=at]);
                let name = &ALL[at..(at + 23).min(ALL.len())];
                b.client(version, name);
            }
        }
    }

    // [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
    fn an_assigned_client_identifier_is_new_and_the_clients_own(b: &mut House) {
        let conn = b.dial(&lasting(V5, ""));
        let name = assigned(b, conn);
        assert!(!name.is_empty());
        b.subscribe(conn, "t", Q1);
        b.drop_conn(conn);
        let other = b.dial(&lasting(V5, ""));
        assert_ne!(assigned(b, other), name);
        let (conn, got) = back(b, V5, &name);
        assert_eq!(got, ["CONNACK Success present"]);
        b.publish(conn, Q0, "t", "x");
        assert_eq!(b.read(conn), "PUBLISH t q0 \"x\"");
    }

    // [MQTT-3.1.3-6/3.1.1] [MQTT-3.1.3-7/3.1.1] [MQTT-3.1.3-8/3.1.1] [MQTT-3.1.3-9/3.1.1]
    fn in_3_1_1_nobody_without_a_name_has_a_session_that_stays(b: &mut House) {
        let one = b.client(V4, "");
        let two = b.client(V4, "");
        assert!(b.is_open(one) && b.is_open(two), "each has a name of its own");
        let conn = b.dial(&lasting(V4, ""));
        assert_eq!(b.read_bytes(conn), [0x20, 2, 0, 2]);
        assert!(!b.is_open(conn));
        assert_eq!(b.stat("sessions"), 2);
    }

    // [MQTT-3.1.4-6] [MQTT-3.2.2-7] [MQTT-4.13.2-1] [MQTT-3.1.4-5/3.1.1] [MQTT-3.2.2-5/3.1.1]
    fn nothing_behind_a_connect_that_is_refused_is_done(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q0);
        for version in BOTH {
            let conn = b.open_where(false);
            let mut bytes = bytes_of(version, &Packet::Connect(Connect {
                will: Some(will()),
                ..connect(version, "a")
            }));
            bytes.extend(publish_bytes(version, b"t", b"x"));
            bytes.extend(subscribe_bytes(version, b"t", 0));
            bytes.extend([0xC0, 0]);
            b.send_bytes(conn, &bytes);
            let answer = b.read_bytes(conn);
            let code = if version == V5 { 0x87 } else { 5 };
            assert_eq!(answer[..4], [0x20, answer[1], 0, code]);
            assert_eq!(answer.len(), 2 + usize::from(answer[1]), "and nothing after it");
            assert!(!b.is_open(conn));
            assert_eq!(b.read(watcher), "", "no message and no will");
        }
        assert_eq!((b.stat("sessions"), b.stat("subscriptions")), (1, 1));
    }

    // [MQTT-3.2.2-6/3.1.1]
    fn where_no_return_code_applies_there_is_no_connack(b: &mut House) {
        b.set(|settings| {
            settings.maximum_qos = Q1;
            settings.retain_available = false;
            settings.max_sessions = 0;
        });
        let conn = b.dial(&connect(V4, "a"));
        assert_eq!(b.read_bytes(conn), [0x20, 2, 0, 3], "unavailable");
        for (qos, retain) in [(Q2, false), (Q0, true)] {
            let will = Will { qos, retain, ..will() };
            let conn = b.dial(&Connect { will: Some(will), ..connect(V4, "a") });
            assert!(b.read_bytes(conn).is_empty());
            assert!(!b.is_open(conn));
        }
    }

    // [MQTT-3.2.2-7] [MQTT-3.2.2-8]
    fn every_refusal_has_a_code_of_its_table(b: &mut House) {
        b.set(|settings| {
            settings.maximum_qos = Q1;
            settings.retain_available = false;
            settings.max_sessions = 1;
            settings.max_packet_size = 2000;
        });
        let plain = connect(V5, "a");
        let with_will = |will| Connect { will: Some(will), ..plain };
        let with_method = ConnectProperties {
            authentication_method: Some("PLAIN"),
            ..ConnectProperties::default()
        };
        let bytes = |connect: &Connect<'_>| bytes_of(V5, &Packet::Connect(*connect));
        let mut other_version = bytes(&plain);
        other_version[8] = 6;
        let topic = [&[0][..], &field(b"#"), &field(b"")].concat();
        let stays = b.stayer(V5, "one is enough");
        for (bytes, code) in [
            (connect_bytes(V5, 3, b""), 0x81), (other_version, 0x84),
            // Receive Maximum 0.
            (packet(0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01i"), 0x82),
            (bytes(&Connect { properties: with_method, ..plain }), 0x8C),
            (connect_bytes(V5, 6, &topic), 0x90),
            (bytes(&Connect { client_id: &"x".repeat(3000), ..plain }), 0x95),
            (bytes(&plain), 0x97),
            (bytes(&with_will(Will { retain: true, ..will() })), 0x9A),
            (bytes(&with_will(Will { qos: Q2, ..will() })), 0x9B),
        ] {
            let conn = b.open();
            b.send_bytes(conn, &bytes);
            let reason = b.read_with(conn, |packet| match packet {
                Packet::Connack(connack) => connack.reason,
                _ => panic!("{packet:?}"),
            }).unwrap();
            assert_eq!(reason.code(), code);
            assert!(reason.is_allowed_in(PacketType::Connack));
            assert!(!b.is_open(conn), "{code:#04x}");
        }
        assert!(b.is_open(stays));
    }

    // [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-6]
    // [MQTT-3.2.2-1/3.1.1] [MQTT-3.2.2-2/3.1.1] [MQTT-3.2.2-4/3.1.1]
    fn session_present_is_the_only_flag_and_goes_with_success(b: &mut House) {
        for version in BOTH {
            let mut answers = Vec::new();
            let first = lasting(version, "a");
            let clean = Connect { clean_start: true, ..first };
            for connect in [first, first, clean, first] {
                let conn = b.dial(&connect);
                answers.push(b.read_bytes(conn)[2..4].to_vec());
                b.drop_conn(conn);
            }
            // A clean session of 3.1.1 ends with its connection.
            let stays = u8::from(version == V5);
            assert_eq!(answers, [[0, 0], [1, 0], [0, 0], [stays, 0]]);
            // There is a session, and who comes for it is refused.
            let conn = b.open_where(false);
            b.send(conn, &Packet::Connect(first));
            let answer = b.read_bytes(conn);
            assert_eq!(answer[2], 0, "{answer:02x?}");
            assert!(answer[3] > 0);
            assert!(!b.is_open(conn));
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
    }

    // [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.1.4-4/3.1.1] [MQTT-3.2.0-1/3.1.1]
    fn success_is_the_first_word(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for version in BOTH {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q1);
            b.drop_conn(conn);
            b.publish(publisher, Q1, "t", "x");
            let conn = b.open();
            let mut bytes = bytes_of(version, &Packet::Connect(lasting(version, "a")));
            bytes.extend([0xC0, 0]);
            b.send_bytes(conn, &bytes);
            let answer = b.read_bytes(conn);
            assert_eq!((answer[0], answer[2], answer[3]), (0x20, 1, 0));
            assert!(answer.ends_with(b"x"));
            b.disconnect(conn);
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
    }

    // [MQTT-3.1.2-29]
    fn who_does_not_want_problem_information_gets_it_in_no_acknowledgement(b: &mut House) {
        b.broker.protect("shed");
        b.set(|settings| settings.max_subscriptions = 0);
        for wanted in [true, false] {
            let properties = ConnectProperties {
                request_problem_information: Some(wanted),
                ..ConnectProperties::default()
            };
            let conn = b.join(&Connect { properties, ..connect(V5, "a") });
            b.publish(conn, Q1, "shed/x", "");
            b.publish(conn, Q2, "shed/x", "");
            b.subscribe_with(conn, "t", SubscriptionOptions::new(Q0), None);
            for name in ["PUBACK", "PUBREC", "SUBACK"] {
                b.read_with(conn, |packet| {
                    let (told, pairs) = match packet {
                        Packet::Puback(ack) | Packet::Pubrec(ack) => {
                            (ack.properties.reason_string, ack.properties.user_properties)
                        }
                        Packet::Suback(ack) => {
                            (ack.properties.reason_string, ack.properties.user_properties)
                        }
                        _ => panic!("{packet:?}"),
                    };
                    assert_eq!(told.is_some(), wanted, "{name}");
                    assert!(pairs.is_empty());
                }).unwrap();
            }
            b.pubrel(conn, 7);
            assert_eq!(b.read_bytes(conn), [0x70, 3, 0, 7, 0x92]);
        }
    }
}
