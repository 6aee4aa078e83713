//! Bytes that are no packets, whole packets changed at random, and packets cut anywhere.

use fieldgate::mqtt::{
    Ack, Connect, Disconnect, Packet, ProtocolVersion, Publish, PublishProperties, ReasonCode,
    Subscribe, SubscribeProperties, SubscriptionOptions, SubscriptionRequest, SubscriptionRequests,
    TopicAlias, TopicFilter,
};
use proptest::prelude::*;

use crate::house::*;

cases! {
    fn each_fault_has_its_reason_code(b: &mut House) {
        for (bytes, reason) in [
            (&[0x00, 0x00][..], "DISCONNECT 0x81"),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], "DISCONNECT 0x81"),
            (&[0x36, 5, 0, 1, b't', 0, 1], "DISCONNECT 0x81"),
            (&[0x30, 4, 0, 1, b'#', 0], "DISCONNECT 0x90"),
            (&[0x30, 3, 0, 0, 0], "DISCONNECT 0x82"),
            (&[0x32, 6, 0, 1, b't', 0, 0, 0], "DISCONNECT 0x82"),
            (&[0x82, 7, 0, 1, 0, 0, 1, b'a', 3], "DISCONNECT 0x81"),
            (&[0x82, 8, 0, 1, 0, 0, 2, b'#', b'a', 0], "DISCONNECT 0x8f"),
            (&[0x82, 3, 0, 1, 0], "DISCONNECT 0x82"),
            (&[0x60, 2, 0, 1], "DISCONNECT 0x81"),
            (&[0x40, 3, 0, 1, 0xFF], "DISCONNECT 0x82"),
        ] {
            let conn = b.client(V5, "five");
            b.send_bytes(conn, bytes);
            assert_eq!(b.read(conn), reason, "{bytes:02x?}");
            assert!(!b.is_open(conn));
        }
        assert_eq!(b.stat("protocol_errors"), 11);
        let conn = b.client(V4, "old");
        b.send_bytes(conn, &[0x00, 0x00]);
        assert!(b.read_bytes(conn).is_empty(), "3.1.1 has no such answer");
        assert!(!b.is_open(conn));
    }

    fn packets_cut_anywhere_mean_the_same(b: &mut House) {
        let mut bytes = Vec::new();
        for packet in conversation() {
            packet.encode_into(V5, &mut bytes);
        }
        let mut expected = None;
        for step in [1, 2, 3, 7, 50, bytes.len()] {
            let conn = b.open();
            for piece in bytes.chunks(step) {
                b.push_bytes(conn, piece);
            }
            b.turn();
            let got = b.read_all(conn);
            assert!(!b.is_open(conn));
            assert_eq!(expected.get_or_insert_with(|| got.clone()), &got, "{step}");
        }
        assert_eq!(b.stat("protocol_errors"), 0);
    }
}

fn conversation() -> Vec<Packet<'static>> {
    let filter = TopicFilter::new("t/#").unwrap();
    let requests = Box::leak(Box::new([SubscriptionRequest {
        filter,
        options: SubscriptionOptions::new(Q0),
    }]));
    let aliased = Publish {
        properties: PublishProperties {
            topic_alias: TopicAlias::new(1),
            ..PublishProperties::default()
        },
        ..publish(Q0, "t/1", "aliased")
    };
    vec![
        Packet::Connect(connect(V5, "cut")),
        Packet::Subscribe(Subscribe {
            packet_id: id(1),
            properties: SubscribeProperties::default(),
            requests: SubscriptionRequests::from_slice(requests),
        }),
        Packet::Publish(publish(Q0, "t/1", "zero")),
        Packet::Publish(publish(Q1, "t/1", "one")),
        Packet::Publish(aliased),
        Packet::Publish(Publish {
            topic: "",
            ..aliased
        }),
        Packet::Publish(numbered(2, Q2, "t/2", "two")),
        Packet::Pubrel(Ack::success(id(2))),
        Packet::Pingreq,
        Packet::Disconnect(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION)),
    ]
}

fn version() -> impl Strategy<Value = ProtocolVersion> {
    prop_oneof![Just(V3), Just(V4), Just(V5)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_leave_a_broker_that_serves_others(
        version in version(),
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8),
        connected in any::<bool>(),
    ) {
        let mut b = House::new(false);
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "w", Q1);
        let conn = if connected { b.client(version, "a") } else { b.open() };
        for piece in pieces {
            if b.is_open(conn) {
                b.send_bytes(conn, &piece);
            }
        }
        let other = b.client(V4, "other");
        b.publish(other, Q1, "w", "still here");
        prop_assert_eq!(b.read(other), "PUBACK 1");
        prop_assert_eq!(b.read(watcher), "PUBLISH w q1 #1 \"still here\"");
    }

    #[test]
    fn packets_with_wrong_bytes_leave_a_broker_that_serves_others(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        version in version(),
    ) {
        let mut b = House::new(true);
        let mut bytes = Vec::new();
        for packet in conversation() {
            let packet = match packet {
                Packet::Connect(connect) => Packet::Connect(Connect { version, ..connect }),
                Packet::Publish(publish) if publish.topic.is_empty() => continue,
                packet => packet,
            };
            packet.encode_into(version, &mut bytes);
        }
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let conn = b.open();
        b.send_bytes(conn, &bytes);
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "w", Q1);
        b.publish(watcher, Q1, "w", "still here");
        prop_assert_eq!(b.read_all(watcher), ["PUBACK 1", "PUBLISH w q1 #1 \"still here\""]);
    }
}
