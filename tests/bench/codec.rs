//! What a packet costs to read and to write: PUBLISH, which is nearly all packets, in both
//! versions.
//!
//! `cargo bench --bench codec`. The mark to beat is 31 ns for reading a PUBLISH, which a
//! hand-written borrowing parser took; the codecs of other crates took 83 and 92.

use divan::{Bencher, black_box};
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::topic::matches;
use fieldgate::mqtt::{
    Packet, PacketId, PayloadFormat, ProtocolVersion, Publish, PublishProperties, QoS,
    UserPropertiesBuf,
};

const TOPIC: &str = "plant/line-4/pump-7/temperature";
const SIZES: [usize; 2] = [64, 1024];

fn main() {
    divan::main();
}

fn publish(payload: &[u8], qos: QoS) -> Publish<'_> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: TOPIC,
        packet_id: (qos != QoS::AtMostOnce).then_some(PacketId::FIRST),
        properties: PublishProperties::default(),
        payload,
    }
}

fn encoded(publish: &Publish<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = vec![0; publish.encoded_len(version)];
    publish.encode(version, &mut bytes);
    bytes
}

/// Finds the packet's end and reads it, as for each packet that comes in.
fn read(bencher: Bencher<'_, '_>, version: ProtocolVersion, bytes: &[u8]) {
    bencher.bench_local(|| {
        let bytes = black_box(bytes);
        let Ok(Frame::Complete { total_len, .. }) = frame::peek(bytes, 1024 * 1024) else {
            unreachable!("a whole packet was given");
        };
        let packet = Packet::parse(version, &bytes[..total_len]);
        matches!(black_box(&packet), Ok(Packet::Publish(_)))
    });
}

fn write(bencher: Bencher<'_, '_>, version: ProtocolVersion, publish: &Publish<'_>) {
    let mut out = vec![0; 4096];
    bencher.bench_local(|| {
        let publish = black_box(publish);
        let len = publish.encoded_len(version);
        publish.encode(version, &mut out[..len]);
        black_box(&out);
    });
}

#[divan::bench(args = SIZES)]
fn read_publish_3_1_1(bencher: Bencher<'_, '_>, size: usize) {
    let payload = vec![b'x'; size];
    let bytes = encoded(&publish(&payload, QoS::AtMostOnce), ProtocolVersion::V4);
    read(bencher, ProtocolVersion::V4, &bytes);
}

#[divan::bench(args = SIZES)]
fn read_publish_5_0(bencher: Bencher<'_, '_>, size: usize) {
    let payload = vec![b'x'; size];
    let bytes = encoded(&publish(&payload, QoS::AtMostOnce), ProtocolVersion::V5);
    read(bencher, ProtocolVersion::V5, &bytes);
}

/// As a reading of ours travels: four user properties, a content type, a format.
#[divan::bench]
fn read_publish_5_0_with_properties(bencher: Bencher<'_, '_>) {
    let mut pairs = UserPropertiesBuf::new();
    for (name, value) in [
        ("unit", "°C"),
        ("time", "2026-11-23T10:00:00.123Z"),
        ("quality", "good"),
        ("seq", "1042"),
    ] {
        assert!(pairs.push(name, value));
    }
    let publish = Publish {
        properties: PublishProperties {
            payload_format_indicator: Some(PayloadFormat::Utf8),
            message_expiry_interval: Some(30),
            content_type: Some("text/plain"),
            user_properties: pairs.as_properties(),
            ..PublishProperties::default()
        },
        ..publish(b"21.4", QoS::AtLeastOnce)
    };
    read(
        bencher,
        ProtocolVersion::V5,
        &encoded(&publish, ProtocolVersion::V5),
    );
}

/// For a caller that knows from the first byte what it has, and has measured it.
#[divan::bench]
fn read_known_publish_3_1_1(bencher: Bencher<'_, '_>) {
    let payload = [b'x'; 64];
    let bytes = encoded(&publish(&payload, QoS::AtMostOnce), ProtocolVersion::V4);
    bencher.bench_local(|| {
        let publish = Publish::parse(ProtocolVersion::V4, black_box(&bytes));
        black_box(&publish).is_ok()
    });
}

#[divan::bench(args = SIZES)]
fn write_publish_3_1_1(bencher: Bencher<'_, '_>, size: usize) {
    let payload = vec![b'x'; size];
    write(
        bencher,
        ProtocolVersion::V4,
        &publish(&payload, QoS::AtLeastOnce),
    );
}

#[divan::bench(args = SIZES)]
fn write_publish_5_0(bencher: Bencher<'_, '_>, size: usize) {
    let payload = vec![b'x'; size];
    write(
        bencher,
        ProtocolVersion::V5,
        &publish(&payload, QoS::AtLeastOnce),
    );
}

#[divan::bench(args = ["plant/+/+/temperature", "plant/#", "plant/line-4/pump-7/pressure"])]
fn match_one_filter(bencher: Bencher<'_, '_>, filter: &str) {
    bencher.bench_local(|| matches(black_box(filter), black_box(TOPIC)));
}
