//! Any bytes give a packet or an error. What is a packet can be sent on, and is the same packet at
//! the other end.

use fieldgate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::{Packet, ProtocolVersion, ReasonCode};
use proptest::prelude::*;

use crate::samples::{Ingredients, VERSIONS, bytes_of, types_of, with_packet};

/// Parses whatever it is; if it is a packet, looks at all of it and encodes it again.
fn feed(version: ProtocolVersion, bytes: &[u8]) {
    let total_len = match frame::peek(bytes, PACKET_SIZE_MAX) {
        Ok(Frame::Complete { total_len, .. }) => total_len,
        Ok(Frame::Incomplete { .. }) => return,
        Err(error) => return check_error(error.reason()),
    };
    match Packet::parse(version, &bytes[..total_len]) {
        Err(error) => {
            assert!(error.offset <= total_len, "{error}");
            check_error(error.reason());
        }
        Ok(packet) => {
            let version = match packet {
                Packet::Connect(connect) => connect.version,
                _ => version,
            };
            let again = bytes_of(&packet, version);
            assert_eq!(Packet::parse(version, &again), Ok(packet));
            assert!(!format!("{packet:?}").is_empty());
        }
    }
}

/// A fault of the peer is a failure that DISCONNECT or CONNACK can say.
fn check_error(reason: ReasonCode) {
    use fieldgate::mqtt::PacketType::{Connack, Disconnect};
    assert!(reason.is_error());
    assert!(reason.is_allowed_in(Connack) || reason.is_allowed_in(Disconnect));
}

/// A body behind a right fixed header.
fn framed(first_byte: u8, body: &[u8]) -> Vec<u8> {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for version in VERSIONS {
            feed(version, &bytes);
        }
    }

    #[test]
    fn random_bodies_of_every_type_never_panic(
        body in proptest::collection::vec(
            // Small numbers are lengths and identifiers, and so lead deeper in.
            prop_oneof![0_u8..=12, any::<u8>(), Just(0_u8), Just(0x26)], 0..60)
    ) {
        for version in VERSIONS {
            for packet_type in types_of(version) {
                feed(version, &framed(packet_type.first_byte(), &body));
            }
        }
    }

    #[test]
    fn damaged_packets_never_panic(
        ingredients in Ingredients::any(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        for version in VERSIONS {
            for packet_type in types_of(version) {
                let bytes = with_packet(&ingredients, version, packet_type, |packet| {
                    bytes_of(&packet, version)
                });
                let mut damaged = bytes.clone();
                for (index, byte) in &damage {
                    let at = index.index(damaged.len());
                    damaged[at] = *byte;
                }
                for other in VERSIONS {
                    feed(other, &damaged);
                }
                // Cut off, with a header that says so.
                let body = &bytes[2..];
                if !body.is_empty() {
                    feed(version, &framed(bytes[0], &body[..cut.index(body.len())]));
                }
            }
        }
    }
}

#[test]
fn every_prefix_of_a_body_behind_a_right_header_is_an_error_or_another_packet() {
    for ingredients in [Ingredients::full(), Ingredients::bare()] {
        for version in VERSIONS {
            for packet_type in types_of(version) {
                let bytes = with_packet(&ingredients, version, packet_type, |packet| {
                    bytes_of(&packet, version)
                });
                let header_len = match frame::peek(&bytes, PACKET_SIZE_MAX) {
                    Ok(Frame::Complete { header_len, .. }) => header_len,
                    other => panic!("{other:?}"),
                };
                for cut in header_len..bytes.len() {
                    feed(version, &framed(bytes[0], &bytes[header_len..cut]));
                }
            }
        }
    }
}
