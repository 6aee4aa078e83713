//! What the section of each packet demands, beyond properties and the fixed header.

use fieldgate::mqtt::packet::connack_for;
use fieldgate::mqtt::{
    Ack, AckProperties, Connack, ConnackProperties, DecodeError, Disconnect, DisconnectProperties,
    Fault, Packet, PacketId, PacketType, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, RetainHandling, SubscriptionOptions, TopicAlias, TopicError, UserPropertiesBuf,
};

use crate::samples::{Ingredients, VERSIONS, bytes_of, types_of, with_packet};

use ProtocolVersion::{V3, V4, V5};

fn parse(version: ProtocolVersion, bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    Packet::parse(version, bytes)
}

fn fault(version: ProtocolVersion, bytes: &[u8]) -> Fault {
    match parse(version, bytes) {
        Ok(packet) => panic!("{bytes:02X?}: {packet:?}"),
        Err(error) => error.fault,
    }
}

/// One byte of fixed header and one of length before `body`.
fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    let mut bytes = vec![first_byte, body.len() as u8];
    bytes.extend_from_slice(body);
    bytes
}

fn connect(name: &[u8], level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![0, name.len() as u8];
    body.extend_from_slice(name);
    body.extend([level, flags, 0, 60]);
    body.extend_from_slice(rest);
    packet(0x10, &body)
}

#[test]
fn a_connect_is_read_in_whatever_version_it_says() {
    for (name, level, expected) in [
        (&b"MQIsdp"[..], 3, Ok(V3)),
        (b"MQTT", 4, Ok(V4)),
        (b"MQTT", 5, Ok(V5)),
        (b"MQTT", 3, Err(Fault::ProtocolLevelUnsupported(3))),
        (b"MQTT", 0, Err(Fault::ProtocolLevelUnsupported(0))),
        (b"MQTT", 6, Err(Fault::ProtocolLevelUnsupported(6))),
        (b"MQTT", 0x84, Err(Fault::ProtocolLevelUnsupported(0x84))),
        (b"MQIsdp", 4, Err(Fault::ProtocolLevelUnsupported(4))),
        (b"MQTTX", 4, Err(Fault::ProtocolNameUnknown)),
        (b"mqtt", 4, Err(Fault::ProtocolNameUnknown)),
        (b"", 4, Err(Fault::ProtocolNameUnknown)),
        (b"\xFF\xFF", 4, Err(Fault::ProtocolNameUnknown)),
    ] {
        let rest: &[u8] = if level == 5 { b"\0\0\0" } else { b"\0\0" };
        let bytes = connect(name, level, 0x02, rest);
        // The version of the connection is not known yet, so it does not matter.
        for version in VERSIONS {
            let read = parse(version, &bytes).map_err(|error| error.fault);
            let read = read.map(|packet| match packet {
                Packet::Connect(connect) => connect.version,
                other => panic!("{other:?}"),
            });
            assert_eq!(read, expected, "{name:?} {level}");
        }
    }
}

#[test]
fn a_connect_that_cannot_be_read_is_answered_in_the_words_of_its_version() {
    for (bytes, expected) in [
        // 0x01 in 3.1.1's words below 5 [MQTT-3.1.2-2/3.1.1], 0x84 in 5.0's from there
        // [MQTT-3.1.2-2].
        (connect(b"MQTT", 3, 2, b"\0\0"), Some((V4, 0x84))),
        (connect(b"MQIsdp", 4, 2, b"\0\0"), Some((V4, 0x84))),
        (connect(b"MQTT", 6, 2, b"\0\0\0"), Some((V5, 0x84))),
        // A bridge that says so by a bit expects the refusal of its version without that bit.
        (connect(b"MQTT", 0x84, 2, b"\0\0"), Some((V4, 0x84))),
        (connect(b"HTTP", 4, 2, b"\0\0"), None),
        // Malformed: 5.0 says so, 3.1.1 closes [MQTT-3.1.4-1/3.1.1].
        (connect(b"MQTT", 5, 3, b"\0\0\0"), Some((V5, 0x81))),
        (connect(b"MQTT", 4, 3, b"\0\0"), None),
        (connect(b"MQIsdp", 3, 3, b"\0\0"), None),
        (
            connect(b"MQTT", 5, 2, b"\x05\x11\0\0\0\0"),
            Some((V5, 0x81)),
        ),
        (
            connect(b"MQTT", 5, 2, b"\x03\x21\0\0\0\0"),
            Some((V5, 0x82)),
        ),
        (packet(0x10, b"\0\x04MQ"), None),
        (packet(0x10, b""), None),
    ] {
        let error = parse(V4, &bytes).expect_err("it cannot be read");
        let answer = connack_for(&bytes, &error);
        assert_eq!(
            answer.map(|(version, reason)| (version, reason.code())),
            expected,
            "{bytes:02X?}"
        );
        if let Some((_, reason)) = answer {
            assert!(reason.is_allowed_in(PacketType::Connack));
        }
    }
    assert_eq!(
        ReasonCode::UnsupportedProtocolVersion.to_connect_return_code(),
        Some(1)
    );
    let error = parse(V4, b"\xC0\x01\0").expect_err("not a CONNECT");
    assert_eq!(connack_for(b"\xC0\x01\0", &error), None);
}

#[test]
fn every_byte_of_connect_flags() {
    for (name, level, version) in [(&b"MQIsdp"[..], 3, V3), (b"MQTT", 4, V4), (b"MQTT", 5, V5)] {
        for flags in 0..=u8::MAX {
            let bit = |mask| flags & mask != 0;
            let (will, will_qos) = (bit(0x04), flags >> 3 & 3);
            let mut rest = Vec::new();
            if version == V5 {
                rest.push(0);
            }
            rest.extend(b"\0\x01i");
            if will {
                rest.extend(if version == V5 { &b"\0"[..] } else { b"" });
                rest.extend(b"\0\x01w\0\x01m");
            }
            if bit(0x80) {
                rest.extend(b"\0\x01u");
            }
            if bit(0x40) {
                rest.extend(b"\0\x01p");
            }
            let bytes = connect(name, level, flags, &rest);
            let expected = if bit(0x01) {
                Some(Fault::BitsReserved) // [MQTT-3.1.2-3]
            } else if will_qos == 3 {
                Some(Fault::QosInvalid) // [MQTT-3.1.2-12]
            } else if (!will && (will_qos != 0 || bit(0x20)))
                || (version != V5 && bit(0x40) && !bit(0x80))
            {
                // [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-22/3.1.1]
                Some(Fault::ConnectFlagsInconsistent)
            } else {
                None
            };
            match (parse(V4, &bytes), expected) {
                (Err(error), Some(fault)) => {
                    assert_eq!(error.fault, fault, "{flags:08b}");
                    assert_eq!(error.field, "connect flags");
                    assert_eq!(bytes[error.offset], flags);
                }
                (Ok(Packet::Connect(connect)), None) => {
                    assert_eq!(connect.clean_start, bit(0x02));
                    assert_eq!(connect.client_id, "i");
                    assert_eq!(connect.keep_alive, 60);
                    assert_eq!(connect.will.is_some(), will);
                    if let Some(will) = connect.will {
                        assert_eq!(will.qos.bits(), will_qos);
                        assert_eq!(will.retain, bit(0x20));
                        assert_eq!((will.topic.as_str(), will.payload), ("w", &b"m"[..]));
                    }
                    assert_eq!(connect.username, bit(0x80).then_some("u"));
                    assert_eq!(connect.password, bit(0x40).then_some(&b"p"[..]));
                }
                (parsed, _) => panic!("{version} {flags:08b}: {parsed:?}"),
            }
            // A field that the flags promise is there [MQTT-3.1.2-17] [MQTT-3.1.2-19], one that
            // they do not is not [MQTT-3.1.2-16] [MQTT-3.1.2-18].
            if expected.is_none() {
                let short = connect(name, level, flags, &rest[..rest.len() - 1]);
                assert_eq!(fault(V4, &short), Fault::Truncated);
                rest.push(0);
                let long = connect(name, level, flags, &rest);
                assert_eq!(fault(V4, &long), Fault::TrailingBytes);
            }
        }
    }
}

#[test]
fn a_will_topic_is_a_topic_name() {
    let will = |topic: &[u8]| {
        let mut rest = b"\0\0".to_vec();
        rest.extend([0, topic.len() as u8]);
        rest.extend(topic);
        rest.extend(b"\0\0");
        connect(b"MQTT", 4, 0x06, &rest)
    };
    assert!(parse(V4, &will(b"a/b")).is_ok());
    assert_eq!(
        fault(V4, &will(b"a/+")),
        Fault::TopicName(TopicError::WildcardInName)
    );
    assert_eq!(fault(V4, &will(b"")), Fault::TopicName(TopicError::Empty));
    assert_eq!(fault(V4, &will(b"\0")), Fault::NullCharacter);
    assert_eq!(fault(V4, &will(b"\xFF")), Fault::NotUtf8);
}

#[test]
fn connack_flags_and_codes() {
    for flags in 0..=u8::MAX {
        let bytes = packet(0x20, &[flags, 0]);
        let read = parse(V4, &bytes).map_err(|error| error.fault);
        match read {
            Ok(_) => assert!(flags <= 1, "[MQTT-3.2.2-1] {flags:08b}"),
            Err(fault) => assert_eq!((fault, flags > 1), (Fault::BitsReserved, true)),
        }
    }
    for code in 0..=u8::MAX {
        let old = packet(0x20, &[0, code]);
        assert_eq!(parse(V4, &old).is_ok(), code <= 5);
        let new = packet(0x20, &[0, code, 0]);
        let is_known = ReasonCode::from_u8(code)
            .is_some_and(|reason| reason.is_allowed_in(PacketType::Connack));
        assert_eq!(
            parse(V5, &new).is_ok(),
            is_known,
            "[MQTT-3.2.2-8] 0x{code:02X}"
        );
    }
    // A refusal has no session [MQTT-3.2.2-6] [MQTT-3.2.2-4/3.1.1].
    assert_eq!(
        fault(V4, &packet(0x20, &[1, 5])),
        Fault::SessionPresentOnRefusal
    );
    assert_eq!(
        fault(V5, &packet(0x20, &[1, 0x87, 0])),
        Fault::SessionPresentOnRefusal
    );
}

#[test]
fn a_reason_becomes_a_return_code_before_5_0() {
    for (reason, code) in [
        (ReasonCode::Success, 0),
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerBusy, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
        (ReasonCode::Banned, 5),
    ] {
        let connack = Packet::Connack(Connack {
            session_present: false,
            reason,
            properties: ConnackProperties::default(),
        });
        assert_eq!(bytes_of(&connack, V4), [0x20, 2, 0, code]);
    }
}

#[test]
fn a_publish_has_a_topic_or_in_5_0_an_alias() {
    assert_eq!(fault(V4, &packet(0x30, b"\0\0x")), Fault::TopicMissing);
    assert_eq!(fault(V5, &packet(0x30, b"\0\0\0x")), Fault::TopicMissing);
    let Ok(Packet::Publish(publish)) = parse(V5, b"\x30\x06\0\0\x03\x23\0\x07") else {
        panic!("an alias alone");
    };
    assert_eq!(publish.topic, "");
    assert_eq!(
        publish.properties.topic_alias.map(TopicAlias::value),
        Some(7)
    );
    for (topic, code) in [
        (&b"a/#"[..], 0x90),
        (b"+", 0x90),
        (b"a\0b", 0x81),
        (b"\xC3\x28", 0x81),
        (b"\xED\xA0\x80", 0x81),
    ] {
        let mut body = vec![0, topic.len() as u8];
        body.extend(topic);
        let reason = ReasonCode::from(fault(V4, &packet(0x30, &body)));
        assert_eq!(reason.code(), code, "{topic:02X?}");
    }
    let deep = vec![b'/'; 120];
    let mut body = vec![0, 120];
    body.extend(&deep);
    assert!(parse(V4, &packet(0x30, &body)).is_ok(), "121 levels");
}

#[test]
fn packet_identifier_0_is_an_error_everywhere() {
    for version in VERSIONS {
        for packet_type in types_of(version) {
            let bytes = with_packet(&Ingredients::bare(), version, packet_type, |packet| {
                let has_id = !matches!(
                    packet,
                    Packet::Connect(_)
                        | Packet::Connack(_)
                        | Packet::Publish(_)
                        | Packet::Pingreq
                        | Packet::Pingresp
                        | Packet::Disconnect(_)
                        | Packet::Auth(_)
                );
                has_id.then(|| bytes_of(&packet, version))
            });
            if let Some(mut bytes) = bytes {
                bytes[2] = 0;
                bytes[3] = 0;
                let error = parse(version, &bytes).expect_err("packet identifier 0");
                assert_eq!(error.fault, Fault::PacketIdZero, "{packet_type}");
                assert_eq!((error.field, error.offset), ("packet identifier", 2));
            }
        }
    }
    for first_byte in [0x32, 0x34] {
        assert_eq!(
            fault(V4, &packet(first_byte, b"\0\x01t\0\0")),
            Fault::PacketIdZero
        );
    }
}

#[test]
fn acknowledgements_may_leave_out_their_end_in_5_0_only() {
    for first_byte in [0x40, 0x50, 0x62, 0x70] {
        let id = PacketId::new(0x0102).expect("not 0");
        let ack_of = |packet: Packet<'_>| match packet {
            Packet::Puback(ack)
            | Packet::Pubrec(ack)
            | Packet::Pubrel(ack)
            | Packet::Pubcomp(ack) => (ack.packet_id, ack.reason),
            other => panic!("{other:?}"),
        };
        let code = if first_byte == 0x62 || first_byte == 0x70 {
            0x92
        } else {
            0x97
        };
        let failure = ReasonCode::from_u8(code).expect("a code");
        for (body, expected) in [
            (&[1, 2][..], ReasonCode::Success),
            (&[1, 2, 0], ReasonCode::Success),
            (&[1, 2, code], failure),
            (&[1, 2, code, 0], failure),
        ] {
            let bytes = packet(first_byte, body);
            assert_eq!(parse(V5, &bytes).map(ack_of), Ok((id, expected)));
            let old = parse(V4, &bytes);
            assert_eq!(old.is_ok(), body.len() == 2);
        }
        assert_eq!(fault(V5, &packet(first_byte, &[1])), Fault::Truncated);
        assert_eq!(fault(V5, &packet(first_byte, &[])), Fault::Truncated);
        assert_eq!(
            fault(V5, &packet(first_byte, &[1, 2, 0, 0, 0])),
            Fault::TrailingBytes
        );
    }
}

#[test]
fn acknowledgements_are_as_short_as_they_can_be() {
    let id = PacketId::new(7).expect("not 0");
    let mut ack = Ack::success(id);
    assert_eq!(bytes_of(&Packet::Puback(ack), V5), [0x40, 2, 0, 7]);
    ack.reason = ReasonCode::NoMatchingSubscribers;
    assert_eq!(bytes_of(&Packet::Puback(ack), V5), [0x40, 3, 0, 7, 0x10]);
    assert_eq!(bytes_of(&Packet::Puback(ack), V4), [0x40, 2, 0, 7]);
    ack.properties.reason_string = Some("x");
    assert_eq!(
        bytes_of(&Packet::Puback(ack), V5),
        [0x40, 8, 0, 7, 0x10, 4, 0x1F, 0, 1, b'x']
    );
    let disconnect = |reason| Packet::Disconnect(Disconnect::new(reason));
    assert_eq!(bytes_of(&disconnect(ReasonCode::Success), V5), [0xE0, 0]);
    assert_eq!(
        bytes_of(&disconnect(ReasonCode::SessionTakenOver), V5),
        [0xE0, 1, 0x8E]
    );
    assert_eq!(
        bytes_of(&disconnect(ReasonCode::SessionTakenOver), V4),
        [0xE0, 0]
    );
}

#[test]
fn a_reason_code_stands_only_where_section_2_4_says() {
    use PacketType::{
        Auth, Connack, Disconnect, Puback, Pubcomp, Pubrec, Pubrel, Suback, Unsuback,
    };
    // The reason code tables of the packets' own sections (3.2.2.2, 3.4.2.1, …), by hand.
    // DISCONNECT 0x8C stands in section 2.4 and not in 3.14.2.1: it is let through.
    let tables: [(PacketType, &[u8]); 9] = [
        (
            Connack,
            &[
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
                0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ],
        ),
        (
            Puback,
            &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        ),
        (
            Pubrec,
            &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        ),
        (Pubrel, &[0x00, 0x92]),
        (Pubcomp, &[0x00, 0x92]),
        (
            Suback,
            &[
                0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
            ],
        ),
        (Unsuback, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
        (
            Disconnect,
            &[
                0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90,
                0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0,
                0xA1, 0xA2,
            ],
        ),
        (Auth, &[0x00, 0x18, 0x19]),
    ];
    for (packet_type, allowed) in tables {
        for code in 0..=u8::MAX {
            let bytes = match packet_type {
                Connack => packet(0x20, &[0, code, 0]),
                Suback | Unsuback => packet(packet_type.first_byte(), &[0, 1, 0, code]),
                Disconnect => packet(0xE0, &[code]),
                Auth => packet(0xF0, &[code, 4, 0x15, 0, 1, b'm']),
                _ => packet(packet_type.first_byte(), &[0, 1, code]),
            };
            let parsed = parse(V5, &bytes);
            assert_eq!(
                parsed.is_ok(),
                allowed.contains(&code),
                "{packet_type} 0x{code:02X}"
            );
            if let Err(error) = parsed {
                assert_eq!(error.fault, Fault::ReasonCodeInvalid(code));
                assert_eq!(bytes[error.offset], code);
            }
        }
    }
}

#[test]
fn a_subscribe_names_at_least_one_filter() {
    for (first_byte, clause) in [(0x82, "[MQTT-3.8.3-2]"), (0xA2, "[MQTT-3.10.3-2]")] {
        let error = parse(V4, &packet(first_byte, &[0, 1])).expect_err(clause);
        assert_eq!(error.fault, Fault::FiltersMissing);
        assert_eq!(error.reason(), ReasonCode::ProtocolError);
        assert_eq!(
            fault(V5, &packet(first_byte, &[0, 1, 0])),
            Fault::FiltersMissing
        );
    }
    assert_eq!(
        fault(V5, &packet(0x90, &[0, 1, 0])),
        Fault::ReasonCodesMissing
    );
    assert_eq!(
        fault(V5, &packet(0xB0, &[0, 1, 0])),
        Fault::ReasonCodesMissing
    );
    assert_eq!(fault(V4, &packet(0x90, &[0, 1])), Fault::ReasonCodesMissing);
    assert!(
        parse(V4, &packet(0xB0, &[0, 1])).is_ok(),
        "3.1.1 has no reasons here"
    );
}

#[test]
fn every_byte_of_subscription_options() {
    for version in VERSIONS {
        for bits in 0..=u8::MAX {
            let mut body = vec![0, 1];
            if version == V5 {
                body.push(0);
            }
            body.extend([0, 1, b'f', bits]);
            let bytes = packet(0x82, &body);
            let reserved = if version == V5 { 0xC0 } else { 0xFC };
            let expected = if bits & reserved != 0 {
                Err(Fault::BitsReserved) // [MQTT-3.8.3-5]
            } else if bits & 3 == 3 {
                Err(Fault::QosInvalid)
            } else if bits & 0x30 == 0x30 {
                Err(Fault::RetainHandlingInvalid)
            } else {
                Ok(SubscriptionOptions {
                    maximum_qos: QoS::from_bits(bits & 3).expect("below 3"),
                    no_local: bits & 4 != 0,
                    retain_as_published: bits & 8 != 0,
                    retain_handling: match bits >> 4 {
                        0 => RetainHandling::Send,
                        1 => RetainHandling::SendIfNew,
                        _ => RetainHandling::DoNotSend,
                    },
                })
            };
            let read = parse(version, &bytes).map_err(|error| error.fault);
            let read = read.map(|packet| match packet {
                Packet::Subscribe(subscribe) => {
                    let requests: Vec<_> = subscribe.requests.iter().collect();
                    assert_eq!(requests.len(), 1);
                    requests[0].options
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(read, expected, "{version} {bits:08b}");
            if let Ok(options) = expected {
                assert_eq!(options.bits(version), bits);
            }
        }
    }
}

#[test]
fn filters_of_subscribe_and_unsubscribe_are_filters() {
    for (filter, code) in [
        (&b"a/#/b"[..], 0x8F),
        (b"a+", 0x8F),
        (b"", 0x8F),
        (b"$share//a", 0x8F),
        (b"$share/g", 0x8F),
        (b"a\0", 0x81),
        (b"\xFF", 0x81),
    ] {
        let mut body = vec![0, 1, 0, 1, b'x', 0, 0, filter.len() as u8];
        body.extend(filter);
        body.push(0);
        let error = parse(V4, &packet(0x82, &body)).expect_err("no filter");
        assert_eq!(error.reason().code(), code, "{filter:02X?}");
        // The second filter is wrong, and the error says where.
        assert_eq!((error.field, error.offset), ("topic filter", 8));
        let mut body = vec![0, 1, 0, filter.len() as u8];
        body.extend(filter);
        let error = parse(V4, &packet(0xA2, &body)).expect_err("no filter");
        assert_eq!(error.reason().code(), code, "{filter:02X?}");
    }
    // No Local on a shared subscription [MQTT-3.8.3-4].
    let shared = packet(0x82, b"\0\x01\0\0\x0A$share/g/a\x04");
    assert_eq!(fault(V5, &shared), Fault::NoLocalOnShared);
}

#[test]
fn pings_and_old_disconnects_have_no_body() {
    for first_byte in [0xC0, 0xD0, 0xE0] {
        assert_eq!(fault(V4, &packet(first_byte, &[0])), Fault::TrailingBytes);
    }
    for first_byte in [0xC0, 0xD0] {
        assert_eq!(fault(V5, &packet(first_byte, &[0])), Fault::TrailingBytes);
    }
}

#[test]
fn an_error_says_which_packet_which_field_and_where() {
    let error = parse(V4, b"\x32\x06\0\x02a\0\0\x01").expect_err("a null character");
    assert_eq!(
        error.to_string(),
        "PUBLISH: topic name at byte 2: contains the null character"
    );
    let error = parse(V5, b"\x30\x07\0\x01t\x02\x23\0\x01").expect_err("cut off");
    assert_eq!(
        error.to_string(),
        "PUBLISH: Topic Alias at byte 7: the packet ends inside this field"
    );
    let error = fieldgate::mqtt::frame::peek(b"\x30\xFF\x7F", 1000).expect_err("too large");
    assert_eq!(
        error.to_string(),
        "PUBLISH: remaining length at byte 1: 16386 bytes, but at most 1000 are taken"
    );
    assert_eq!(error.reason(), ReasonCode::PacketTooLarge);
}

#[test]
fn what_is_for_people_is_dropped_before_a_packet_becomes_too_large() {
    let mut pairs = UserPropertiesBuf::new();
    assert!(pairs.push("key", "value"));
    let properties = AckProperties {
        reason_string: Some("because"),
        user_properties: pairs.as_properties(),
    };
    let ack = Packet::Puback(Ack {
        packet_id: PacketId::FIRST,
        reason: ReasonCode::QuotaExceeded,
        properties,
    });
    let whole = ack.encoded_len(V5) as u32;
    assert_eq!(ack.fit(V5, whole), Some(ack));
    let kept = |packet: Option<Packet<'_>>| match packet {
        Some(Packet::Puback(ack)) => Some((
            ack.properties.reason_string.is_some(),
            !ack.properties.user_properties.is_empty(),
        )),
        None => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(kept(ack.fit(V5, whole - 1)), Some((true, false)));
    assert_eq!(kept(ack.fit(V5, 6)), Some((false, false)));
    assert_eq!(kept(ack.fit(V5, 5)), Some((false, false)));
    assert_eq!(kept(ack.fit(V5, 4)), None);

    let disconnect = Packet::Disconnect(Disconnect {
        reason: ReasonCode::ServerBusy,
        properties: DisconnectProperties {
            reason_string: Some("later"),
            ..DisconnectProperties::default()
        },
    });
    let Some(Packet::Disconnect(short)) = disconnect.fit(V5, 3) else {
        panic!("three bytes are enough");
    };
    assert_eq!(short, Disconnect::new(ReasonCode::ServerBusy));

    // A message's own properties are not for us to drop [MQTT-3.3.2-17].
    let publish = Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: PublishProperties {
            user_properties: pairs.as_properties(),
            ..PublishProperties::default()
        },
        payload: b"",
    });
    assert_eq!(publish.fit(V5, 10), None);
}

#[test]
fn a_maximum_qos_of_2_is_said_by_saying_nothing() {
    let connack = |maximum_qos| {
        Packet::Connack(Connack {
            session_present: false,
            reason: ReasonCode::Success,
            properties: ConnackProperties {
                maximum_qos,
                ..ConnackProperties::default()
            },
        })
    };
    let unsaid = bytes_of(&connack(None), V5);
    assert_eq!(bytes_of(&connack(Some(QoS::ExactlyOnce)), V5), unsaid);
    assert_eq!(
        bytes_of(&connack(Some(QoS::AtLeastOnce)), V5),
        [0x20, 5, 0, 0, 2, 0x24, 1]
    );
}

#[test]
fn user_properties_that_cannot_be_encoded_are_not_taken() {
    let mut pairs = UserPropertiesBuf::new();
    assert!(!pairs.push("a\0", "b"));
    assert!(!pairs.push("a", "\0"));
    assert!(!pairs.push("a", &"x".repeat(65_536)));
    assert!(pairs.as_properties().is_empty());
    assert!(pairs.push("", &"x".repeat(65_535)));
    assert_eq!(pairs.as_properties().iter().count(), 1);
}
