//! The fixed header: every flag of every type, every boundary of the length.

use fieldgate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::{
    Fault, Packet, PacketId, PacketType, ProtocolVersion, Publish, PublishProperties, QoS,
};

use crate::samples::{Ingredients, VERSIONS, bytes_of, types_of, with_packet};

/// Table 2-2: the flags that each type has. PUBLISH has a test of its own.
fn flags_of(packet: PacketType) -> u8 {
    match packet {
        PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0b0000,
    }
}

#[test]
fn reserved_flags_must_be_as_listed_mqtt_2_1_3_1() {
    for version in VERSIONS {
        for packet in types_of(version).filter(|packet| *packet != PacketType::Publish) {
            let good = with_packet(&Ingredients::full(), version, packet, |packet| {
                bytes_of(&packet, version)
            });
            assert_eq!(good[0] & 0x0F, flags_of(packet));
            for flags in 0..16 {
                let mut bytes = good.clone();
                bytes[0] = bytes[0] & 0xF0 | flags;
                let is_resent_in_3_1 = version == ProtocolVersion::V3
                    && flags_of(packet) == 0b0010
                    && flags & 0b0110 == 0b0010;
                let parsed = Packet::parse(version, &bytes);
                if flags == flags_of(packet) || is_resent_in_3_1 {
                    assert!(parsed.is_ok(), "{packet} {flags:04b}");
                } else {
                    let error = parsed.expect_err("reserved flags");
                    assert_eq!(error.fault, Fault::FlagsReserved, "{packet} {flags:04b}");
                    assert_eq!(error.packet, Some(packet));
                }
            }
        }
    }
}

#[test]
fn the_flags_of_publish_say_dup_qos_and_retain() {
    for version in VERSIONS {
        for flags in 0..16_u8 {
            let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
            let mut bytes = vec![0x30 | flags, 0, 0, 1, b't'];
            if qos > 0 {
                bytes.extend([0, 7]);
            }
            if version == ProtocolVersion::V5 {
                bytes.push(0);
            }
            bytes[1] = bytes.len() as u8 - 2;
            let parsed = Publish::parse(version, &bytes);
            let is_forgiven = version == ProtocolVersion::V3;
            match (qos, dup) {
                (3, _) => assert_eq!(parsed.expect_err("QoS 3").fault, Fault::QosInvalid),
                (0, true) if !is_forgiven => {
                    assert_eq!(parsed.expect_err("DUP").fault, Fault::DupWithoutQos);
                }
                _ => {
                    let publish = parsed.expect("good flags");
                    assert_eq!(publish.qos.bits(), qos);
                    assert_eq!(publish.dup, dup && qos > 0);
                    assert_eq!(publish.retain, retain);
                    assert_eq!(
                        publish.packet_id.map(PacketId::value),
                        (qos > 0).then_some(7)
                    );
                }
            }
        }
    }
}

#[test]
fn a_publish_of_qos_0_never_says_dup() {
    let publish = Publish {
        dup: true,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: PublishProperties::default(),
        payload: b"",
    };
    for version in VERSIONS {
        let mut bytes = Vec::new();
        Packet::Publish(publish).encode_into(version, &mut bytes);
        assert_eq!(bytes[0], 0x30, "[MQTT-3.3.1-2]");
    }
}

#[test]
fn packet_type_0_does_not_exist_and_auth_not_before_5_0() {
    for flags in 0..16 {
        let error = frame::peek(&[flags, 0], PACKET_SIZE_MAX).expect_err("type 0");
        assert_eq!(error.fault, Fault::PacketTypeReserved);
        let error = Packet::parse(ProtocolVersion::V5, &[flags, 0]).expect_err("type 0");
        assert_eq!(error.packet, None);
    }
    let error = Packet::parse(ProtocolVersion::V4, &[0xF0, 0]).expect_err("AUTH in 3.1.1");
    assert_eq!(error.fault, Fault::PacketTypeReserved);
    assert!(Packet::parse(ProtocolVersion::V5, &[0xF0, 0]).is_ok());
    assert!(Packet::parse(ProtocolVersion::V5, &[]).is_err());
}

#[test]
fn remaining_length_at_every_boundary() {
    // (Remaining Length, bytes that say it)
    let boundaries = [
        (127, 1),
        (128, 2),
        (16_383, 2),
        (16_384, 3),
        (2_097_151, 3),
        (2_097_152, 4),
    ];
    for version in VERSIONS {
        for (remaining, len_of_len) in boundaries {
            let overhead = if version == ProtocolVersion::V5 { 4 } else { 3 };
            let payload = vec![0xA5; remaining - overhead];
            let publish = Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic: "t",
                packet_id: None,
                properties: PublishProperties::default(),
                payload: &payload,
            };
            let bytes = bytes_of(&Packet::Publish(publish), version);
            assert_eq!(bytes.len(), 1 + len_of_len + remaining);
            let expected = Frame::Complete {
                first_byte: 0x30,
                header_len: 1 + len_of_len,
                total_len: bytes.len(),
            };
            assert_eq!(frame::peek(&bytes, PACKET_SIZE_MAX), Ok(expected));
            assert_eq!(Publish::parse(version, &bytes), Ok(publish));
        }
    }
}

#[test]
fn the_longest_packet_is_announced_and_a_longer_one_cannot_be() {
    let header = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
    let needed = Some(268_435_455 + 5);
    assert_eq!(
        frame::peek(&header, PACKET_SIZE_MAX),
        Ok(Frame::Incomplete { needed })
    );
    let header = [0x30, 0xFF, 0xFF, 0xFF, 0xFF];
    let error = frame::peek(&header, PACKET_SIZE_MAX).expect_err("five bytes");
    assert_eq!(error.fault, Fault::VariableByteIntegerTooLong);
}

#[test]
fn a_padded_length_is_an_error_in_5_0_only_mqtt_1_5_5_1() {
    let padded = [0xD0, 0x80, 0x00];
    let expected = Frame::Complete {
        first_byte: 0xD0,
        header_len: 3,
        total_len: 3,
    };
    assert_eq!(frame::peek(&padded, 100), Ok(expected));
    assert_eq!(
        Packet::parse(ProtocolVersion::V4, &padded),
        Ok(Packet::Pingresp)
    );
    let error = Packet::parse(ProtocolVersion::V5, &padded).expect_err("padded");
    assert_eq!(error.fault, Fault::VariableByteIntegerNotMinimal);

    // A CONNECT says its version behind the length.
    for (version, is_ok) in [(ProtocolVersion::V4, true), (ProtocolVersion::V5, false)] {
        let good = with_packet(
            &Ingredients::bare(),
            version,
            PacketType::Connect,
            |packet| bytes_of(&packet, version),
        );
        assert!(good[1] < 0x80, "the sample is short");
        let mut padded = vec![good[0], good[1] | 0x80, 0x80, 0x00];
        padded.extend_from_slice(&good[2..]);
        assert_eq!(Packet::parse(version, &padded).is_ok(), is_ok);
    }
}

#[test]
fn a_frame_of_another_length_than_its_header_says_is_refused() {
    let publish = [0x30, 0x04, 0x00, 0x01, b't', b'x'];
    assert!(Packet::parse(ProtocolVersion::V4, &publish).is_ok());
    for (bytes, fault) in [
        (&publish[..5], Fault::Truncated),
        (&publish[..1], Fault::Truncated),
        (
            &[0x30, 0x03, 0x00, 0x01, b't', b'x'][..],
            Fault::TrailingBytes,
        ),
    ] {
        let error = Packet::parse(ProtocolVersion::V4, bytes).expect_err("wrong length");
        assert_eq!(error.fault, fault);
    }
}
