//! Attacks by what is in a packet.

use fieldgate::mqtt::{Connect, Packet, ProtocolVersion};

use crate::house::*;
use crate::siege::Siege;
use crate::support::{
    BOTH, breaks, connect_bytes, connect_of, field, no_properties, packet, publish_bytes,
    subscribe_bytes, unsubscribe_bytes,
};

/// One of each packet that a client may send, with everything that it may carry.
fn of_each_kind(version: ProtocolVersion) -> Vec<Vec<u8>> {
    let properties = |bytes: &[u8]| {
        if version.is_v5() {
            [&[bytes.len() as u8][..], bytes].concat()
        } else {
            Vec::new()
        }
    };
    let user = b"\x26\x00\x01k\x00\x01v";
    let ack: &[u8] = if version.is_v5() {
        &[0, 1, 0, 0]
    } else {
        &[0, 1]
    };
    let mut packets = vec![
        packet(
            0x3B,
            &[
                &field(b"t/u")[..],
                &[0, 1],
                &properties(
                    &[
                        &b"\x01\x01\x02\x00\x00\x00\x3C\x03\x00\x01c\x08\x00\x01r\x09\x00\x01d"[..],
                        b"\x23\x00\x01",
                        user,
                    ]
                    .concat(),
                ),
                b"payload",
            ]
            .concat(),
        ),
        packet(0x40, ack),
        packet(0x50, ack),
        packet(0x62, ack),
        packet(0x70, ack),
        packet(
            0x82,
            &[
                &[0, 2][..],
                &properties(&[&b"\x0B\x05"[..], user].concat()),
                &field(b"s/+/#"),
                &[1],
                &field(b"$share/g/s"),
                &[2],
            ]
            .concat(),
        ),
        packet(
            0xA2,
            &[&[0, 3][..], &properties(user), &field(b"s/+/#")].concat(),
        ),
        packet(0xC0, &[]),
    ];
    if version.is_v5() {
        let said = [&b"\x11\x00\x00\x00\x3C\x1F\x00\x01r"[..], user].concat();
        packets.push(packet(0xE0, &[&[4][..], &properties(&said)].concat()));
        packets.push(packet(0xF0, b"\x18\x07\x15\x00\x01m\x16\x00\x00"));
    } else {
        packets.push(packet(0xE0, &[]));
    }
    packets
}

/// A CONNECT with everything.
fn whole_connect(version: ProtocolVersion) -> Vec<u8> {
    let mut payload = field(b"client");
    let mut head = [&[0, 4][..], b"MQTT", &[version.level(), 0xEE, 0, 60]].concat();
    if version.is_v5() {
        let properties =
            b"\x11\0\0\0\x3C\x21\0\x05\x27\0\0\x10\0\x22\0\x02\x17\x01\x26\0\x01k\0\x01v";
        head.push(properties.len() as u8);
        head.extend(properties);
        let will = b"\x18\x00\x00\x00\x05\x01\x01\x02\x00\x00\x00\x3C\x26\x00\x01k\x00\x01v";
        payload.push(will.len() as u8);
        payload.extend(will);
    }
    for part in [&b"will/topic"[..], b"gone", b"name", b"password"] {
        payload.extend(field(part));
    }
    packet(0x10, &[head, payload].concat())
}

cases! {
    fn topics_without_end(b: &mut House) {
        let mut b = Siege::of(b);
        let deep = vec![b'/'; 65_000];
        let filter = [&deep[..], b"/#"].concat();
        for version in BOTH {
            breaks(&mut b, version, &publish_bytes(version, &deep, b"x"), 0x90);
            breaks(&mut b, version, &subscribe_bytes(version, &filter, 0), 0x8F);
            breaks(&mut b, version, &unsubscribe_bytes(version, &filter), 0x8F);
            let conn = b.open();
            let will = [&[0][..usize::from(version.is_v5())], &field(&deep[..8000]), &field(b"x")];
            b.send_bytes(conn, &connect_bytes(version, 0x06, &will.concat()));
            assert!(!b.is_open(conn));
            b.calm();
        }
        // As deep as is allowed, as often as is allowed, and a topic that goes down all of it.
        let conn = b.client(V5, "deep");
        let level = "+/".repeat(126);
        for number in 0..500 {
            b.subscribe(conn, &format!("{level}{number}"), Q0);
        }
        let topic = format!("{}7", "a/".repeat(126));
        b.publish(conn, Q0, &topic, "x");
        assert!(b.read(conn).starts_with("PUBLISH a/a/"));
        b.calm();
        b.disconnect(conn);
        b.lifted();
    }

    fn every_packet_in_every_state(b: &mut House) {
        let mut b = Siege::of(b);
        for version in [V3, V4, V5] {
            for kind in 0..=15_u8 {
                for flags in [0, 2] {
                    let bytes = [kind << 4 | flags, 2, 0, 1];
                    // Before CONNECT nothing is allowed, whatever it is.
                    let fresh = b.open();
                    b.send_bytes(fresh, &bytes);
                    assert!(!b.is_open(fresh), "{bytes:02x?}");
                    // Afterwards what only a server sends is not.
                    let live = b.client(version, "attacker");
                    b.send_bytes(live, &bytes);
                    let may_stay = matches!(kind, 4..=7);
                    assert!(!b.is_open(live) || may_stay, "{bytes:02x?}");
                    if b.is_open(live) {
                        b.drop_conn(live);
                    }
                }
            }
            let twice = b.client(version, "twice");
            b.send_bytes(twice, &connect_of(version, 2, &field(b"twice")));
            assert!(!b.is_open(twice));
        }
        // Whatever a second CONNECT says: even a protocol that nobody speaks.
        for second in [&b"\x00\x04MQTT\x09\x02\x00\x00\x00\x00"[..], b"\x00\x04HTTP", b""] {
            for version in BOTH {
                breaks(&mut b, version, &packet(0x10, second), 0x82);
            }
        }
        b.calm();
        b.lifted();
    }

    fn malformed_packets_leave_nothing_behind(b: &mut House) {
        let mut b = Siege::of(b);
        for version in BOTH {
            let connect = whole_connect(version);
            let mut variants = 0;
            for at in 0..connect.len() {
                for change in [0x01, 0x80, 0xFF] {
                    let mut bytes = connect.clone();
                    bytes[at] ^= change;
                    let conn = b.open();
                    b.send_bytes(conn, &bytes);
                    if b.is_open(conn) {
                        b.drop_conn(conn);
                    }
                    variants += 1;
                }
            }
            for packet in of_each_kind(version) {
                for at in 0..packet.len() {
                    for change in [0x01, 0x80, 0xFF] {
                        let mut bytes = packet.clone();
                        bytes[at] ^= change;
                        let conn = b.client(version, "attacker");
                        b.send_bytes(conn, &bytes);
                        if b.is_open(conn) {
                            b.drop_conn(conn);
                        }
                        variants += 1;
                    }
                }
            }
            assert!(variants > 300, "{variants}");
        }
        // Wills and sessions of those whose CONNECT was still one.
        b.seconds(100);
        b.seconds(8 * 24 * 3600);
        let cleaner = b.client(V5, "cleaner");
        for topic in ["will/topic", "t/u"] {
            b.retain(cleaner, topic, "");
        }
        b.disconnect(cleaner);
        assert_eq!(b.stat("sessions"), 2);
        b.calm();
    }

    fn lengths_at_their_boundaries(b: &mut House) {
        let mut b = Siege::of(b);
        for version in BOTH {
            breaks(&mut b, version, &publish_bytes(version, b"", b"x"), 0x82);
            breaks(&mut b, version, &subscribe_bytes(version, b"", 0), 0x8F);
            breaks(&mut b, version, &unsubscribe_bytes(version, b""), 0x8F);
            // Fields that say that they are longer than the packet, or end just before their end.
            for said in [2, 3, 4, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF_u16] {
                let [high, low] = said.to_be_bytes();
                breaks(&mut b, version, &packet(0x30, &[high, low, b'a']), 0x81);
                let filter = [&[0, 1][..], no_properties(version), &[high, low, b'a']].concat();
                breaks(&mut b, version, &packet(0x82, &filter), 0x81);
                let conn = b.open();
                b.send_bytes(conn, &connect_of(version, 2, &[high, low, b'a']));
                assert!(!b.is_open(conn));
            }
            // The longest of each.
            let conn = b.client(version, "long");
            let longest = "x".repeat(65_535);
            b.publish(conn, Q1, &longest, "x");
            assert!(b.read(conn).starts_with("PUBACK 1"));
            b.subscribe(conn, &longest, Q0);
            b.publish(conn, Q0, &longest, &longest);
            assert!(b.read(conn).ends_with("65535 bytes"));
            b.disconnect(conn);
        }
        // Property lengths.
        for said in [1, 2, 0x7F] {
            breaks(&mut b, V5, &packet(0x30, &[0, 1, b'a', said]), 0x81);
        }
        b.lifted();
    }

    fn properties_without_number(b: &mut House) {
        let mut b = Siege::of(b);
        let user = [0x26, 0, 0, 0, 0].repeat(200_000);
        let mut bytes = field(b"t");
        let len = user.len();
        bytes.extend([len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8]);
        bytes.extend(user);
        breaks(&mut b, V5, &packet(0x30, &bytes), 0x97);
        b.calm();
        b.lifted();
    }

    fn shared_filters_that_are_none(b: &mut House) {
        let mut b = Siege::of(b);
        let none = [
            "$share/", "$share//", "$share/ab", "$share/ab/", "$share//a", "$share/+/a",
            "$share/#/a", "$share/a+/a", "$share/a#", "$share/#",
        ];
        for version in BOTH {
            for filter in none {
                breaks(&mut b, version, &subscribe_bytes(version, filter.as_bytes(), 0), 0x8F);
                breaks(&mut b, version, &unsubscribe_bytes(version, filter.as_bytes()), 0x8F);
            }
            let conn = b.client(version, "member");
            for filter in ["$share/a/b", "$share/a/+", "$share/a//", "$share/$share/$share/a/b"] {
                b.subscribe(conn, filter, Q0);
            }
            b.disconnect(conn);
        }
        b.lifted();
    }

    fn lengths_at_every_split(b: &mut House) {
        let mut b = Siege::of(b);
        for version in BOTH {
            let wrong: [&[u8]; 2] = [
                &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
                &[0x30, 0x80, 0x80, 0x80, 0x80, 0x00],
            ];
            for bytes in wrong {
                for at in 1..bytes.len() {
                    let conn = b.client(version, "attacker");
                    b.send_bytes(conn, &bytes[..at]);
                    b.send_bytes(conn, &bytes[at..]);
                    assert!(!b.is_open(conn), "{bytes:02x?} at {at}");
                }
            }
            // What is right is right in single bytes too.
            let conn = b.open();
            for byte in connect_of(version, 2, &field(b"slow")) {
                b.send_bytes(conn, &[byte]);
            }
            for byte in publish_bytes(version, b"good/topic/slow", &[b'x'; 300]) {
                b.send_bytes(conn, &[byte]);
            }
            assert!(b.is_open(conn));
            b.drop_conn(conn);
        }
        assert_eq!(b.stat("publishes_received"), 3);
    }

    fn zeros_everywhere(b: &mut House) {
        let mut b = Siege::of(b);
        // Where the standard forbids it: Receive Maximum, Maximum Packet Size.
        for property in [&b"\x21\x00\x00"[..], b"\x27\x00\x00\x00\x00"] {
            let head = [&b"\x00\x04MQTT\x05\x02\x00\x00"[..], &[property.len() as u8], property];
            let conn = b.open();
            b.send_bytes(conn, &packet(0x10, &[&head.concat()[..], &field(b"z")].concat()));
            assert_eq!(b.read_bytes(conn)[3], 0x82);
        }
        // Where it does not: session expiry, alias maximum, keep-alive.
        let head = b"\x00\x04MQTT\x05\x02\x00\x00\x08\x11\x00\x00\x00\x00\x22\x00\x00";
        let conn = b.open();
        b.send_bytes(conn, &packet(0x10, &[&head[..], &field(b"z")].concat()));
        assert_eq!(b.read(conn), "CONNACK Success");
        // A message that expires at once, retained, and a subscription that draws it.
        let message = b"\x00\x01z\x05\x02\x00\x00\x00\x00x";
        b.send_bytes(conn, &packet(0x31, message));
        b.subscribe(conn, "z", Q1);
        assert_eq!(b.read(conn), "");
        b.disconnect(conn);
        // Packet identifier, alias and subscription identifier.
        breaks(&mut b, V5, &packet(0x32, b"\x00\x01z\x00\x00\x00x"), 0x82);
        breaks(&mut b, V5, &packet(0x30, b"\x00\x01z\x03\x23\x00\x00x"), 0x94);
        breaks(&mut b, V5, &packet(0x82, b"\x00\x01\x02\x0B\x00\x00\x01z\x00"), 0x82);
        for version in BOTH {
            let conn = b.client(version, "still");
            b.send(conn, &Packet::Pingreq);
            assert_eq!(b.read(conn), "PINGRESP");
            let again = Connect { keep_alive: 0, ..connect(version, "still") };
            b.join(&again);
            b.drop_conn(conn);
        }
        b.calm();
    }
}
