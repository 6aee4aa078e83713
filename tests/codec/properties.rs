//! Every property in every packet: where it may stand, how often, and with which values. The table
//! is written from the standard's table 2-4 by hand, and is not the one in the code.

use fieldgate::mqtt::{
    Fault, Packet, PropertyId, ProtocolVersion, ReasonCode, SubscriptionIdentifier,
};

/// A packet that has properties; CONNECT has them in two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Connect,
    Will,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Disconnect,
    Auth,
}

use Place::{
    Auth, Connack, Connect, Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Suback,
    Subscribe, Unsuback, Unsubscribe, Will,
};

const PLACES: [Place; 14] = [
    Connect,
    Will,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Disconnect,
    Auth,
];

/// Identifier, a good value, where it may stand.
const TABLE: &[(u8, &[u8], &[Place])] = &[
    (0x01, &[1], &[Publish, Will]),
    (0x02, &[0, 0, 0, 1], &[Publish, Will]),
    (0x03, b"\0\x01c", &[Publish, Will]),
    (0x08, b"\0\x03a/b", &[Publish, Will]),
    (0x09, b"\0\x02\xFF\0", &[Publish, Will]),
    (0x0B, &[0xFF, 0x7F], &[Publish, Subscribe]),
    (
        0x11,
        &[0xFF, 0xFF, 0xFF, 0xFF],
        &[Connect, Connack, Disconnect],
    ),
    (0x12, b"\0\x01i", &[Connack]),
    (0x13, &[0, 60], &[Connack]),
    (0x15, b"\0\x01m", &[Connect, Connack, Auth]),
    (0x16, b"\0\x01d", &[Connect, Connack, Auth]),
    (0x17, &[0], &[Connect]),
    (0x18, &[0, 0, 0, 9], &[Will]),
    (0x19, &[1], &[Connect]),
    (0x1A, b"\0\x01r", &[Connack]),
    (0x1C, b"\0\x01s", &[Connack, Disconnect]),
    (
        0x1F,
        b"\0\x03why",
        &[
            Connack, Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback, Disconnect, Auth,
        ],
    ),
    (0x21, &[0, 1], &[Connect, Connack]),
    (0x22, &[0, 0], &[Connect, Connack]),
    (0x23, &[0, 1], &[Publish]),
    (0x24, &[1], &[Connack]),
    (0x25, &[0], &[Connack]),
    (0x26, b"\0\x01k\0\x01v", &PLACES),
    (0x27, &[0, 0, 0, 1], &[Connect, Connack]),
    (0x28, &[0], &[Connack]),
    (0x29, &[0], &[Connack]),
    (0x2A, &[0], &[Connack]),
];

/// A packet of 5.0 with these properties at this place.
fn packet_with(place: Place, properties: &[u8]) -> Vec<u8> {
    assert!(properties.len() < 100, "one byte of length");
    let mut section = vec![properties.len() as u8];
    section.extend_from_slice(properties);
    let (first_byte, before, after): (u8, &[u8], &[u8]) = match place {
        Connect => (0x10, b"\0\x04MQTT\x05\x02\0\0", b"\0\0"),
        Will => (0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0", b"\0\x01w\0\0"),
        Connack => (0x20, &[0, 0], &[]),
        Publish => (0x30, b"\0\x01t", b"payload"),
        Puback => (0x40, &[0, 1, 0], &[]),
        Pubrec => (0x50, &[0, 1, 0], &[]),
        Pubrel => (0x62, &[0, 1, 0], &[]),
        Pubcomp => (0x70, &[0, 1, 0], &[]),
        Subscribe => (0x82, &[0, 1], b"\0\x01f\0"),
        Suback => (0x90, &[0, 1], &[0]),
        Unsubscribe => (0xA2, &[0, 1], b"\0\x01f"),
        Unsuback => (0xB0, &[0, 1], &[0]),
        Disconnect => (0xE0, &[0], &[]),
        Auth => (0xF0, &[0x18], &[]),
    };
    let len = before.len() + section.len() + after.len();
    let mut bytes = vec![first_byte, len as u8];
    assert!(len < 128);
    bytes.extend_from_slice(before);
    bytes.extend(section);
    bytes.extend_from_slice(after);
    bytes
}

fn record(id: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![id];
    bytes.extend_from_slice(value);
    bytes
}

/// What must stand beside a property: AUTH has a method, and data has one too.
fn companions(place: Place, id: u8) -> Vec<u8> {
    let needs_method = place == Auth || id == 0x16;
    if needs_method && id != 0x15 {
        record(0x15, b"\0\x01m")
    } else {
        Vec::new()
    }
}

fn fault_of(place: Place, properties: &[u8]) -> Fault {
    let bytes = packet_with(place, properties);
    match Packet::parse(ProtocolVersion::V5, &bytes) {
        Ok(packet) => panic!("{place:?} {properties:02X?}: {packet:?}"),
        Err(error) => error.fault,
    }
}

#[test]
fn the_table_names_every_property() {
    let ids: Vec<_> = TABLE.iter().map(|row| row.0).collect();
    let all: Vec<_> = PropertyId::ALL.iter().map(|id| *id as u8).collect();
    assert_eq!(ids, all);
}

#[test]
fn a_property_stands_where_table_2_4_says_and_nowhere_else() {
    for &(id, value, places) in TABLE {
        for place in PLACES {
            let mut properties = companions(place, id);
            properties.extend(record(id, value));
            if places.contains(&place) {
                let bytes = packet_with(place, &properties);
                let packet = Packet::parse(ProtocolVersion::V5, &bytes);
                let packet = packet.unwrap_or_else(|error| panic!("0x{id:02X}: {error}"));
                let mut again = Vec::new();
                packet.encode_into(ProtocolVersion::V5, &mut again);
                assert_eq!(Packet::parse(ProtocolVersion::V5, &again), Ok(packet));
                assert_eq!(again.len(), bytes.len(), "{place:?} keeps 0x{id:02X}");
            } else {
                let id = PropertyId::from_u8(id).expect("in the table");
                let properties = record(id as u8, value);
                let fault = fault_of(place, &properties);
                assert_eq!(fault, Fault::PropertyMisplaced(id));
                assert_eq!(ReasonCode::from(fault), ReasonCode::MalformedPacket);
            }
        }
    }
}

#[test]
fn only_user_properties_and_the_identifiers_of_publish_may_repeat() {
    for &(id, value, places) in TABLE {
        for &place in places {
            let mut properties = companions(place, id);
            properties.extend(record(id, value));
            properties.extend(record(id, value));
            let may_repeat = id == 0x26 || (id == 0x0B && place == Publish);
            if may_repeat {
                let bytes = packet_with(place, &properties);
                assert!(Packet::parse(ProtocolVersion::V5, &bytes).is_ok());
            } else {
                let fault = fault_of(place, &properties);
                let id = PropertyId::from_u8(id).expect("in the table");
                assert_eq!(fault, Fault::PropertyDuplicate(id), "{place:?}");
                assert_eq!(ReasonCode::from(fault), ReasonCode::ProtocolError);
            }
        }
    }
}

#[test]
fn a_property_that_ends_early_is_malformed() {
    for &(id, value, places) in TABLE {
        for &place in places {
            for cut in 0..value.len() {
                let fault = fault_of(place, &record(id, &value[..cut]));
                assert_eq!(fault, Fault::Truncated, "{place:?} 0x{id:02X}");
            }
        }
    }
}

#[test]
fn identifiers_that_do_not_exist_are_malformed() {
    let known: Vec<_> = TABLE.iter().map(|row| row.0).collect();
    for place in PLACES {
        for id in (0..=0x7F).filter(|id| !known.contains(id)) {
            assert_eq!(
                fault_of(place, &[id]),
                Fault::PropertyUnknown(u32::from(id))
            );
        }
        // An identifier is a Variable Byte Integer, in the fewest bytes.
        assert_eq!(fault_of(place, &[0x80, 0x01]), Fault::PropertyUnknown(128));
        assert_eq!(
            fault_of(place, &[0xA6, 0x00, 0, 0, 0, 0]),
            Fault::VariableByteIntegerNotMinimal
        );
        assert_eq!(fault_of(place, &[0x80]), Fault::Truncated);
    }
}

#[test]
fn values_out_of_range_are_protocol_errors() {
    for (place, id, value) in [
        (Publish, 0x01, &[2][..]),
        (Publish, 0x0B, &[0]),
        (Subscribe, 0x0B, &[0]),
        (Connect, 0x17, &[2]),
        (Connect, 0x19, &[2]),
        (Connect, 0x21, &[0, 0]),
        (Connack, 0x21, &[0, 0]),
        (Connack, 0x24, &[2]),
        (Connack, 0x25, &[2]),
        (Connect, 0x27, &[0, 0, 0, 0]),
        (Connack, 0x27, &[0, 0, 0, 0]),
        (Connack, 0x28, &[2]),
        (Connack, 0x29, &[0xFF]),
        (Connack, 0x2A, &[2]),
    ] {
        let fault = fault_of(place, &record(id, value));
        let expected = PropertyId::from_u8(id).expect("in the table");
        assert_eq!(fault, Fault::PropertyValueInvalid(expected));
        assert_eq!(ReasonCode::from(fault), ReasonCode::ProtocolError);
    }
}

#[test]
fn values_with_a_reason_code_of_their_own() {
    for (place, id, value, code) in [
        (Publish, 0x23, &b"\0\0"[..], 0x94), // Topic Alias 0 [MQTT-3.3.2-8]
        (Publish, 0x08, b"\0\x03a/#", 0x90), // a wildcard [MQTT-3.3.2-14]
        (Publish, 0x08, b"\0\0", 0x90),      // an empty topic [MQTT-4.7.3-1]
        (Will, 0x08, b"\0\x01+", 0x90),
        (Publish, 0x08, b"\0\x01\xFF", 0x81), // not UTF-8 [MQTT-3.3.2-13]
        (Publish, 0x03, b"\0\x01\xFF", 0x81), // [MQTT-3.3.2-19]
        (Publish, 0x03, b"\0\x01\0", 0x81),   // U+0000 [MQTT-1.5.4-2]
        (Publish, 0x26, b"\0\x01k\0\x01\0", 0x81), // [MQTT-1.5.7-1]
        (Publish, 0x26, b"\0\x02\xED\xA0\0\0", 0x81),
        (Publish, 0x0B, &[0x80, 0x00], 0x81), // not minimal [MQTT-1.5.5-1]
    ] {
        let reason = ReasonCode::from(fault_of(place, &record(id, value)));
        assert_eq!(reason.code(), code, "0x{id:02X} {value:02X?}");
    }
}

#[test]
fn authentication_data_needs_a_method() {
    for place in [Connect, Connack, Auth] {
        let fault = fault_of(place, &record(0x16, b"\0\x01d"));
        let expected = Fault::PropertyMissing(PropertyId::AuthenticationMethod);
        assert_eq!(fault, expected, "{place:?}");
    }
    // AUTH with nothing at all has none [3.15.2.2.2]; an empty AUTH is Success (3.15.2.1).
    let fault = fault_of(Auth, &[]);
    let expected = Fault::PropertyMissing(PropertyId::AuthenticationMethod);
    assert_eq!(fault, expected);
}

#[test]
fn a_property_length_beyond_the_packet_is_malformed() {
    for place in PLACES {
        let mut bytes = packet_with(place, &[]);
        let at = bytes.len()
            - match place {
                Connect => 3,
                Will => 6,
                Publish => 8,
                Subscribe => 5,
                Suback | Unsuback => 2,
                Unsubscribe => 4,
                _ => 1,
            };
        assert_eq!(bytes[at], 0, "{place:?}: the property length");
        bytes[at] = 0x7F;
        let error = Packet::parse(ProtocolVersion::V5, &bytes).expect_err("too long");
        assert_eq!(error.fault, Fault::Truncated, "{place:?}");
        assert_eq!(error.field, "properties");
    }
}

#[test]
fn user_properties_and_identifiers_keep_their_order_among_others() {
    let mut properties = Vec::new();
    for (id, value) in [
        (0x03, &b"\0\x01c"[..]),
        (0x26, b"\0\x01a\0\x011"),
        (0x0B, &[9]),
        (0x02, &[0, 0, 0, 5]),
        (0x26, b"\0\x01a\0\x012"),
        (0x0B, &[0x80, 0x01]),
        (0x26, b"\0\0\0\0"),
        (0x01, &[0]),
    ] {
        properties.extend(record(id, value));
    }
    let bytes = packet_with(Publish, &properties);
    let Ok(Packet::Publish(publish)) = Packet::parse(ProtocolVersion::V5, &bytes) else {
        panic!("a PUBLISH");
    };
    let properties = publish.properties;
    let pairs: Vec<_> = properties.user_properties.iter().collect();
    assert_eq!(pairs, [("a", "1"), ("a", "2"), ("", "")]);
    assert_eq!(properties.user_properties.find("a"), Some("1"));
    let ids: Vec<_> = properties
        .subscription_identifiers
        .iter()
        .map(SubscriptionIdentifier::value)
        .collect();
    assert_eq!(ids, [9, 128]);
    assert_eq!(properties.message_expiry_interval, Some(5));
    assert_eq!(publish.payload, b"payload");
}
