//! What these tests share: packets by hand, and what becomes of who sends a wrong one.

use fieldgate::id::ConnId;
use fieldgate::mqtt::{Connect, ConnectProperties, Packet, ProtocolVersion};

use crate::house::*;

/// The versions that the manifest is about.
pub const BOTH: [ProtocolVersion; 2] = [V4, V5];

/// A fixed header before a body.
pub fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    let mut rest = body.len();
    loop {
        let more = if rest > 0x7F { 0x80 } else { 0 };
        bytes.push((rest & 0x7F) as u8 | more);
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Bytes with their length in two bytes before them.
pub fn field(bytes: &[u8]) -> Vec<u8> {
    let mut field = (bytes.len() as u16).to_be_bytes().to_vec();
    field.extend_from_slice(bytes);
    field
}

/// An empty Property Length, where the version has one.
pub fn no_properties(version: ProtocolVersion) -> &'static [u8] {
    if version.is_v5() { &[0] } else { &[] }
}

/// A CONNECT with these flags, and with this after the client identifier `i`.
pub fn connect_bytes(version: ProtocolVersion, flags: u8, rest: &[u8]) -> Vec<u8> {
    connect_of(version, flags, &[&field(b"i"), rest].concat())
}

/// A CONNECT with these flags and this payload.
pub fn connect_of(version: ProtocolVersion, flags: u8, payload: &[u8]) -> Vec<u8> {
    let head = [0, 4, b'M', b'Q', b'T', b'T', version.level(), flags, 0, 0];
    packet(0x10, &[&head[..], no_properties(version), payload].concat())
}

/// A PUBLISH of QoS 0 with this topic, whatever it is.
pub fn publish_bytes(version: ProtocolVersion, topic: &[u8], payload: &[u8]) -> Vec<u8> {
    packet(
        0x30,
        &[&field(topic), no_properties(version), payload].concat(),
    )
}

/// A SUBSCRIBE with identifier 1 for this filter, whatever it is.
pub fn subscribe_bytes(version: ProtocolVersion, filter: &[u8], options: u8) -> Vec<u8> {
    let id = [0, 1];
    packet(
        0x82,
        &[
            &id[..],
            no_properties(version),
            &field(filter),
            &[options][..],
        ]
        .concat(),
    )
}

/// An UNSUBSCRIBE with identifier 1 for this filter, whatever it is.
pub fn unsubscribe_bytes(version: ProtocolVersion, filter: &[u8]) -> Vec<u8> {
    let id = [0, 1];
    packet(
        0xA2,
        &[&id[..], no_properties(version), &field(filter)].concat(),
    )
}

/// A connected client sends this and its connection ends for it: in 5.0 with this reason code, in
/// 3.1.1 without a word.
pub fn breaks(b: &mut House, version: ProtocolVersion, bytes: &[u8], code: u8) {
    let conn = b.client(version, "breaker");
    b.send_bytes(conn, bytes);
    let last_words = b.read_all(conn);
    if version.is_v5() {
        assert_eq!(
            last_words,
            [format!("DISCONNECT {code:#04x}")],
            "{bytes:02x?}"
        );
    } else {
        assert!(last_words.is_empty(), "{last_words:?} {bytes:02x?}");
    }
    assert!(!b.is_open(conn), "{bytes:02x?}");
}

/// Bytes that are to be a CONNECT are refused and the connection ends: in 5.0 with this reason
/// code, in 3.1.1 without a word.
pub fn refused(b: &mut House, version: ProtocolVersion, bytes: &[u8], code: u8) {
    let conn = b.open();
    b.send_bytes(conn, bytes);
    let answer = b.read_bytes(conn);
    if version.is_v5() {
        assert_eq!(answer.first(), Some(&0x20), "a CONNACK for {bytes:02x?}");
        assert_eq!(answer[2..4], [0, code], "{bytes:02x?}");
    } else {
        assert!(answer.is_empty(), "{answer:02x?} for {bytes:02x?}");
    }
    assert!(!b.is_open(conn), "{bytes:02x?}");
}

/// A client that takes packets of at most so many bytes.
pub fn narrow<'a>(connect: &Connect<'a>, max_packet_size: u32) -> Connect<'a> {
    Connect {
        properties: ConnectProperties {
            maximum_packet_size: core::num::NonZeroU32::new(max_packet_size),
            ..connect.properties
        },
        ..*connect
    }
}

/// A client of 5.0 that takes so many publications at once.
pub fn with_window<'a>(connect: &Connect<'a>, receive_maximum: u16) -> Connect<'a> {
    Connect {
        properties: ConnectProperties {
            receive_maximum: fieldgate::mqtt::ReceiveMaximum::new(receive_maximum),
            ..connect.properties
        },
        ..*connect
    }
}

/// The packet's bytes.
pub fn bytes_of(version: ProtocolVersion, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode_into(version, &mut bytes);
    bytes
}

/// A client whose session stays is dialled again; the answers to its CONNECT and what follows.
pub fn back(b: &mut House, version: ProtocolVersion, name: &str) -> (ConnId, Vec<String>) {
    let conn = b.dial(&lasting(version, name));
    let got = b.read_all(conn);
    (conn, got)
}
