//! Every packet comes back as it was, whole or in pieces.

use fieldgate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::{Ack, Packet, PacketId, PacketType, ProtocolVersion, Publish};
use proptest::prelude::*;

use crate::samples::{Ingredients, VERSIONS, bytes_of, types_of, with_packet};

/// Encodes, measures, parses and encodes again.
fn check(packet: &Packet<'_>, version: ProtocolVersion) {
    let bytes = bytes_of(packet, version);
    assert_eq!(bytes.len(), packet.encoded_len(version), "{packet:?}");
    let complete = frame::peek(&bytes, PACKET_SIZE_MAX);
    assert!(
        matches!(complete, Ok(Frame::Complete { total_len, first_byte, .. })
            if total_len == bytes.len() && first_byte == bytes[0]),
        "{packet:?}: {complete:?}"
    );
    let parsed = Packet::parse(version, &bytes).expect("our own bytes");
    assert_eq!(parsed, *packet);
    // What was read is written from the bytes it was read from, so this is another path.
    assert_eq!(bytes_of(&parsed, version), bytes);
}

/// No prefix is a packet, and the frame says so; followed by others it is the same packet.
fn check_splits(packet: &Packet<'_>, version: ProtocolVersion) {
    let bytes = bytes_of(packet, version);
    for cut in 0..bytes.len() {
        match frame::peek(&bytes[..cut], PACKET_SIZE_MAX) {
            Ok(Frame::Incomplete { needed: None }) => assert!(cut < 5),
            Ok(Frame::Incomplete {
                needed: Some(needed),
            }) => assert_eq!(needed, bytes.len()),
            other => panic!("{cut} bytes of {packet:?}: {other:?}"),
        }
        assert!(Packet::parse(version, &bytes[..cut]).is_err());
    }
    let mut two = bytes.clone();
    two.extend_from_slice(&bytes);
    assert_eq!(
        frame::peek(&two, PACKET_SIZE_MAX),
        frame::peek(&bytes, PACKET_SIZE_MAX)
    );
    assert!(
        Packet::parse(version, &two).is_err(),
        "one packet at a time"
    );
}

/// The head of a PUBLISH, with the payload behind it, is the packet.
fn check_head(publish: &Publish<'_>, version: ProtocolVersion) {
    let whole = bytes_of(&Packet::Publish(*publish), version);
    let len = publish.payload.len();
    let mut head = vec![0; publish.head_len(version, len)];
    publish.encode_head(version, len, &mut head);
    if let Some(id) = publish.packet_id {
        let at = publish.packet_id_offset(version, len).expect("it has one");
        assert_eq!(head[at..at + 2], id.value().to_be_bytes());
    }
    head.extend_from_slice(publish.payload);
    assert_eq!(head, whole);
    let mut direct = vec![0; publish.encoded_len(version)];
    publish.encode(version, &mut direct);
    assert_eq!(direct, whole);
    assert_eq!(Publish::parse(version, &whole), Ok(*publish));
}

#[test]
fn full_and_bare_packets_come_back_from_every_split() {
    for ingredients in [Ingredients::full(), Ingredients::bare()] {
        for version in VERSIONS {
            for packet_type in types_of(version) {
                with_packet(&ingredients, version, packet_type, |packet| {
                    check(&packet, version);
                    check_splits(&packet, version);
                });
            }
        }
    }
}

/// The short way in and out is the long one's, or none.
fn check_short(packet: &Packet<'_>, version: ProtocolVersion) {
    let bytes = bytes_of(packet, version);
    if let Some(short) = packet.encode_short(version) {
        assert_eq!(short[..], bytes);
        assert!(Ack::parse_short(&bytes).is_some());
    }
    if let Some((packet_type, packet_id)) = Ack::parse_short(&bytes) {
        assert_eq!(packet_type, packet.packet_type());
        assert_eq!(packet.encode_short(version).map(Vec::from), Some(bytes));
        match packet {
            Packet::Puback(ack)
            | Packet::Pubrec(ack)
            | Packet::Pubrel(ack)
            | Packet::Pubcomp(ack) => assert_eq!(packet_id, ack.packet_id),
            other => panic!("{other:?} is no acknowledgement"),
        }
    }
}

#[test]
fn what_is_nearly_a_short_acknowledgement_is_none() {
    for frame in [
        &[0x40, 2, 0, 0][..],
        &[0x41, 2, 0, 1],
        &[0x60, 2, 0, 1],
        &[0x90, 2, 0, 1],
        &[0x40, 3, 0, 1],
        &[0x40, 2, 0, 1, 0],
        &[0x40, 2, 0],
    ] {
        assert_eq!(Ack::parse_short(frame), None, "{frame:?}");
    }
    let expected = (PacketType::Pubrel, PacketId::new(0x0102).unwrap());
    assert_eq!(Ack::parse_short(&[0x62, 2, 1, 2]), Some(expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_packet_comes_back(ingredients in Ingredients::any()) {
        for version in VERSIONS {
            for packet_type in types_of(version) {
                with_packet(&ingredients, version, packet_type, |packet| {
                    prop_assert_eq!(packet.packet_type(), packet_type);
                    check(&packet, version);
                    check_short(&packet, version);
                    if let Packet::Publish(publish) = packet {
                        check_head(&publish, version);
                    }
                    Ok(())
                })?;
            }
        }
    }

    #[test]
    fn every_packet_comes_back_from_every_split(ingredients in Ingredients::any()) {
        for version in VERSIONS {
            for packet_type in types_of(version) {
                with_packet(&ingredients, version, packet_type, |packet| {
                    check_splits(&packet, version);
                });
            }
        }
    }
}
