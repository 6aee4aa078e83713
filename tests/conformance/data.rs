//! Sections 1.5 and 2: strings, numbers, the fixed header, packet identifiers, properties.

use fieldgate::mqtt::{Packet, QoS};

use crate::house::*;
use crate::support::*;

/// Not UTF-8: a lone byte, an overlong form, both ends of the surrogates, a sequence that is cut
/// off, a code point beyond the last.
const ILL_FORMED: [&[u8]; 6] = [
    b"a\xFF",
    b"\xC0\x80",
    b"\xED\xA0\x80",
    b"\xED\xBF\xBF",
    b"\xE2\x82",
    b"\xF5\x80\x80\x80",
];

cases! {
    // [MQTT-1.5.4-1] [MQTT-3.3.2-1] [MQTT-3.8.3-1] [MQTT-3.10.3-1]
    // [MQTT-1.5.3-1/3.1.1] [MQTT-3.3.2-1/3.1.1] [MQTT-3.8.3-1/3.1.1] [MQTT-3.10.3-1/3.1.1]
    fn topics_and_filters_that_are_not_utf_8_end_the_connection(b: &mut House) {
        for version in BOTH {
            for text in ILL_FORMED {
                breaks(b, version, &publish_bytes(version, text, b""), 0x81);
                breaks(b, version, &subscribe_bytes(version, text, 0), 0x81);
                breaks(b, version, &unsubscribe_bytes(version, text), 0x81);
            }
        }
    }

    // [MQTT-1.5.4-1] [MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12]
    // [MQTT-1.5.3-1/3.1.1] [MQTT-3.1.3-4/3.1.1] [MQTT-3.1.3-10/3.1.1] [MQTT-3.1.3-11/3.1.1]
    fn strings_of_a_connect_that_are_not_utf_8_refuse_it(b: &mut House) {
        for version in BOTH {
            for text in ILL_FORMED {
                refused(b, version, &connect_of(version, 0x02, &field(text)), 0x81);
                let will = [no_properties(version), &field(text), &field(b"")].concat();
                refused(b, version, &connect_bytes(version, 0x06, &will), 0x81);
                refused(b, version, &connect_bytes(version, 0x82, &field(text)), 0x81);
            }
        }
    }

    // [MQTT-1.5.4-2] [MQTT-4.7.3-2] [MQTT-1.5.3-2/3.1.1] [MQTT-4.7.3-2/3.1.1]
    fn the_null_character_stands_in_no_string(b: &mut House) {
        for version in BOTH {
            for text in [&b"\0"[..], b"a\0b", b"a/\0", b"a long topic with a null \0 in it"] {
                breaks(b, version, &publish_bytes(version, text, b""), 0x81);
                breaks(b, version, &subscribe_bytes(version, text, 0), 0x81);
                breaks(b, version, &unsubscribe_bytes(version, text), 0x81);
                refused(b, version, &connect_of(version, 0x02, &field(text)), 0x81);
                let will = [no_properties(version), &field(text), &field(b"")].concat();
                refused(b, version, &connect_bytes(version, 0x06, &will), 0x81);
                refused(b, version, &connect_bytes(version, 0x82, &field(text)), 0x81);
            }
        }
    }

    // [MQTT-1.5.4-3] [MQTT-1.5.3-3/3.1.1]
    fn a_byte_order_mark_is_a_character_like_any_other(b: &mut House) {
        for version in BOTH {
            let conn = b.client(version, "a");
            b.subscribe(conn, "\u{FEFF}t", Q0);
            b.publish(conn, Q0, "t", "without");
            assert_eq!(b.read(conn), "");
            b.publish(conn, Q0, "\u{FEFF}t", "with");
            assert_eq!(b.read(conn), "PUBLISH \u{FEFF}t q0 \"with\"");
            let other = b.client(version, "\u{FEFF}a");
            assert!(b.is_open(conn) && b.is_open(other), "two names are two clients");
        }
    }

    // [MQTT-1.5.5-1]
    fn a_number_has_no_more_bytes_than_it_needs_in_5_0(b: &mut House) {
        breaks(b, V5, &[0xC0, 0x80, 0x00], 0x81);
        breaks(b, V5, &[0x82, 0x88, 0x00, 0, 1, 0, 0, 2, b'a', b'b', 0], 0x81);
        // A Property Length of 0 in two bytes, and a Subscription Identifier of 1 in two.
        breaks(b, V5, &packet(0x82, b"\0\x01\x80\0\0\x01a\0"), 0x81);
        breaks(b, V5, &packet(0x82, b"\0\x01\x03\x0B\x81\0\0\x01a\0"), 0x81);
        let old = b.client(V4, "old");
        b.send_bytes(old, &[0xC0, 0x80, 0x00]);
        assert_eq!(b.read(old), "PINGRESP", "3.1.1 has no such rule");
    }

    // [MQTT-1.5.7-1]
    fn name_and_value_of_a_user_property_are_strings(b: &mut House) {
        let pairs: [[&[u8]; 2]; 4] =
            [[b"\xFF", b"v"], [b"n", b"\xFF"], [b"\0", b"v"], [b"n", b"\0"]];
        for [name, value] in pairs {
            let property = [&[0x26][..], &field(name), &field(value)].concat();
            let body = [&field(b"t"), &[property.len() as u8][..], &property].concat();
            breaks(b, V5, &packet(0x30, &body), 0x81);
        }
    }

    // [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
    // [MQTT-2.2.2-1/3.1.1] [MQTT-2.2.2-2/3.1.1] [MQTT-3.6.1-1/3.1.1] [MQTT-3.8.1-1/3.1.1]
    // [MQTT-3.10.1-1/3.1.1] [MQTT-3.14.1-1/3.1.1]
    fn reserved_flags_end_the_connection(b: &mut House) {
        for version in BOTH {
            let subscribe = subscribe_bytes(version, b"t", 0);
            let unsubscribe = unsubscribe_bytes(version, b"t");
            let goods: [&[u8]; 8] = [
                &[0x40, 2, 0, 1], &[0x50, 2, 0, 1], &[0x62, 2, 0, 1], &[0x70, 2, 0, 1],
                &subscribe, &unsubscribe, &[0xC0, 0], &[0xE0, 0],
            ];
            for good in goods {
                for flags in (0..16).filter(|flags| *flags != good[0] & 0x0F) {
                    let mut bytes = good.to_vec();
                    bytes[0] = bytes[0] & 0xF0 | flags;
                    breaks(b, version, &bytes, 0x81);
                }
            }
        }
        for flags in 1..16 {
            breaks(b, V5, &[0xF0 | flags, 0], 0x81);
        }
        assert_eq!(b.stat("subscriptions"), 0);
    }

    // [MQTT-2.2.1-2] [MQTT-4.3.1-1] [MQTT-2.3.1-5/3.1.1] [MQTT-4.3.1-1/3.1.1]
    fn a_qos_0_publication_has_no_packet_identifier_and_no_dup(b: &mut House) {
        for version in BOTH {
            let taker = b.client(version, "taker");
            b.subscribe(taker, "t", Q2);
            let publisher = b.client(version, "publisher");
            // What would be an identifier belongs to the payload.
            let bytes = publish_bytes(version, b"t", b"\0\x07x");
            b.send_bytes(publisher, &bytes);
            assert_eq!(b.read_bytes(taker), bytes);
            b.subscribe(taker, "u", Q0);
            b.publish(publisher, Q1, "u", "x");
            assert_eq!(b.read_bytes(taker), publish_bytes(version, b"u", b"x"));
        }
    }

    // [MQTT-2.2.1-3] [MQTT-2.3.1-1/3.1.1]
    fn packet_identifier_0_is_not_one(b: &mut House) {
        for version in BOTH {
            let end = no_properties(version);
            for first_byte in [0x32, 0x34] {
                let body = [&field(b"t"), &[0, 0][..], end].concat();
                breaks(b, version, &packet(first_byte, &body), 0x82);
            }
            let subscribe = [&[0, 0][..], end, &field(b"t"), &[0]].concat();
            breaks(b, version, &packet(0x82, &subscribe), 0x82);
            let unsubscribe = [&[0, 0][..], end, &field(b"t")].concat();
            breaks(b, version, &packet(0xA2, &unsubscribe), 0x82);
            for first_byte in [0x40, 0x50, 0x62, 0x70] {
                breaks(b, version, &packet(first_byte, &[0, 0]), 0x82);
            }
        }
    }

    // [MQTT-2.2.1-5] [MQTT-2.2.1-6] [MQTT-3.8.4-2] [MQTT-3.10.4-5] [MQTT-4.3.2-4] [MQTT-4.3.3-8]
    // [MQTT-4.3.3-11] [MQTT-2.3.1-6/3.1.1] [MQTT-2.3.1-7/3.1.1] [MQTT-3.8.4-2/3.1.1]
    // [MQTT-3.10.4-4/3.1.1] [MQTT-3.10.4-5/3.1.1]
    fn an_answer_has_the_identifier_of_what_it_answers(b: &mut House) {
        for version in BOTH {
            let taker = b.client(version, "taker");
            b.subscribe(taker, "t", Q0);
            let conn = b.client(version, "a");
            for number in [1_u16, 2, 255, 256, 65_535] {
                let [high, low] = number.to_be_bytes();
                let end = no_properties(version);
                b.send(conn, &Packet::Publish(numbered(number, Q1, "t", "")));
                assert_eq!(b.read_bytes(conn), [0x40, 2, high, low]);
                b.send(conn, &Packet::Publish(numbered(number, Q2, "t", "")));
                assert_eq!(b.read_bytes(conn), [0x50, 2, high, low]);
                b.pubrel(conn, number);
                assert_eq!(b.read_bytes(conn), [0x70, 2, high, low]);
                let subscribe = [&[high, low][..], end, &field(b"f"), &[1]].concat();
                b.send_bytes(conn, &packet(0x82, &subscribe));
                assert_eq!(b.read(conn), format!("SUBACK {number} [0x01]"));
                let unsubscribe = [&[high, low][..], end, &field(b"f")].concat();
                for code in ["0x00", "0x11"] {
                    b.send_bytes(conn, &packet(0xA2, &unsubscribe));
                    let codes = if version == V5 { code } else { "" };
                    assert_eq!(b.read(conn), format!("UNSUBACK {number} [{codes}]"));
                }
            }
        }
    }

    // [MQTT-2.2.2-1]
    fn where_there_are_no_properties_their_length_says_0(b: &mut House) {
        let conn = b.client(V5, "a");
        b.send_bytes(conn, &subscribe_bytes(V5, b"t", 1));
        assert_eq!(b.read_bytes(conn), [0x90, 4, 0, 1, 0, 1]);
        b.publish(conn, Q0, "t", "x");
        assert_eq!(b.read_bytes(conn), [0x30, 5, 0, 1, b't', 0, b'x']);
        b.publish(conn, Q1, "t", "x");
        let (puback, publish) = ([0x40, 2, 0, 1], [0x32, 7, 0, 1, b't', 0, 1, 0, b'x']);
        assert_eq!(b.read_bytes(conn), [&puback[..], &publish].concat());
        b.send_bytes(conn, &unsubscribe_bytes(V5, b"t"));
        assert_eq!(b.read_bytes(conn), [0xB0, 4, 0, 1, 0, 0]);
    }
}

// [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-2.3.1-4/3.1.1]
#[test]
fn an_identifier_in_use_is_not_given_again() {
    for (version, qos) in [(V4, Q1), (V5, Q2)] {
        let b = &mut House::new(false);
        let taker = b.client(version, "taker");
        b.subscribe(taker, "t", qos);
        let publisher = b.client(V4, "publisher");
        let given = |b: &mut House| {
            b.push(publisher, &Packet::Publish(publish(qos, "t", "")));
            b.turn_and_release(publisher, qos);
            b.read_with(taker, |packet| {
                let Packet::Publish(publish) = packet else {
                    panic!("{packet:?}")
                };
                publish.packet_id.unwrap().value()
            })
            .unwrap()
        };
        let kept = given(b);
        let mut comes_round = false;
        let mut last = kept;
        for _ in 0..65_600 {
            let number = given(b);
            assert_ne!(number, kept, "it is still in use");
            comes_round |= number < last;
            last = number;
            settle(b, taker, qos, number);
        }
        assert!(comes_round, "all of them were used");
    }
}

/// The taker acknowledges a message to its end.
fn settle(b: &mut House, taker: fieldgate::id::ConnId, qos: QoS, number: u16) {
    if qos == Q1 {
        b.puback(taker, number);
    } else {
        b.pubrec(taker, number);
        b.read_bytes(taker);
        b.pubcomp(taker, number);
    }
}
