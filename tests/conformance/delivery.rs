//! Sections 4.1 to 4.6: session state, the three qualities of service, redelivery, order.

use fieldgate::mqtt::{Ack, Packet, Publish, PublishProperties, ReasonCode};

use crate::house::*;
use crate::support::*;

/// What became of a session's state while its client was away.
fn leave(b: &mut House, version: fieldgate::mqtt::ProtocolVersion, seconds: u64) -> Vec<String> {
    let conn = b.stayer(version, "a");
    b.subscribe(conn, "t", Q1);
    b.drop_conn(conn);
    b.seconds(seconds);
    let publisher = b.client(version, "publisher");
    b.publish(publisher, Q1, "t", "while away");
    b.disconnect(publisher);
    let (conn, got) = back(b, version, "a");
    b.disconnect(conn);
    let fresh = b.client(version, "a");
    b.disconnect(fresh);
    got
}

cases! {
    // [MQTT-4.1.0-2] [MQTT-3.1.2-23] [MQTT-4.5.0-1]
    // [MQTT-4.1.0-1/3.1.1] [MQTT-3.1.2-5/3.1.1] [MQTT-4.5.0-1/3.1.1]
    fn a_session_lasts_as_long_as_it_is_to_and_takes_what_comes(b: &mut House) {
        let kept = ["CONNACK Success present", "PUBLISH t q1 #1 \"while away\""];
        for version in BOTH {
            assert_eq!(leave(b, version, 3599), kept);
        }
        assert_eq!(leave(b, V5, 3600), ["CONNACK Success"]);
    }

    // [MQTT-4.1.0-1] [MQTT-4.1.0-2/3.1.1]
    fn a_session_lasts_at_least_as_long_as_its_connection(b: &mut House) {
        for version in BOTH {
            let conn = b.client(version, "a");
            b.subscribe(conn, "t", Q1);
            b.seconds(100_000_000);
            b.publish(conn, Q1, "t", "x");
            assert_eq!(b.read_all(conn).last().unwrap(), "PUBLISH t q1 #1 \"x\"");
        }
    }

    // [MQTT-3.1.2-6/3.1.1] [MQTT-3.1.4-4] [MQTT-3.1.2-4] [MQTT-3.1.4-3/3.1.1]
    fn a_clean_session_begins_with_nothing_and_leaves_nothing(b: &mut House) {
        for version in BOTH {
            let publisher = b.client(version, "publisher");
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q2);
            b.publish(publisher, Q2, "t", "in flight");
            b.send(conn, &Packet::Publish(numbered(9, Q2, "nobody", "unreleased")));
            b.drop_conn(conn);
            let conn = b.client(version, "a");
            assert_eq!(b.read(conn), "", "nothing of the old session");
            b.pubrel(conn, 9);
            let unknown = if version == V5 { "PUBCOMP 9 0x92" } else { "PUBCOMP 9" };
            assert_eq!(b.read(conn), unknown);
            b.subscribe(conn, "t", Q1);
            b.drop_conn(conn);
            let (conn, got) = back(b, version, "a");
            assert_eq!(got, ["CONNACK Success"], "nothing of the clean one");
            b.publish(publisher, Q0, "t", "x");
            assert_eq!(b.read(conn), "");
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
        assert_eq!(b.stat("messages"), 0);
    }

    // [MQTT-4.3.2-3] [MQTT-4.4.0-1] [MQTT-2.3.1-3/3.1.1] [MQTT-2.3.1-4/3.1.1]
    // [MQTT-4.3.2-1/3.1.1] [MQTT-4.4.0-1/3.1.1]
    fn a_qos_1_message_is_sent_again_until_its_puback(b: &mut House) {
        for version in BOTH {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q1);
            let publisher = b.client(version, "publisher");
            b.publish(publisher, Q1, "t", "x");
            assert_eq!(b.read_all(conn), ["PUBLISH t q1 #1 \"x\""]);
            b.seconds(1000);
            assert_eq!(b.read(conn), "", "not again on the same connection");
            for _ in 0..3 {
                b.drop_conn(conn);
                let (conn, got) = back(b, version, "a");
                assert_eq!(got, ["CONNACK Success present", "PUBLISH t q1 #1 dup \"x\""]);
                b.puback(conn, 2);
                b.drop_conn(conn);
            }
            let (conn, _) = back(b, version, "a");
            b.puback(conn, 1);
            b.drop_conn(conn);
            let (conn, got) = back(b, version, "a");
            assert_eq!(got, ["CONNACK Success present"], "it is acknowledged");
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
            assert!(!b.is_open(conn));
        }
    }

    // [MQTT-4.3.2-4] [MQTT-4.3.2-5] [MQTT-3.3.4-1] [MQTT-4.3.2-2/3.1.1] [MQTT-3.3.4-1/3.1.1]
    fn after_a_puback_the_same_identifier_is_a_new_message(b: &mut House) {
        for version in BOTH {
            let taker = b.client(version, "taker");
            b.subscribe(taker, "t", Q0);
            let conn = b.client(version, "a");
            for (number, dup) in [(1, false), (2, true), (3, false)] {
                let text = number.to_string();
                let message = Publish { dup, ..publish(Q1, "t", &text) };
                b.send(conn, &Packet::Publish(message));
                assert_eq!(b.read_all(conn), ["PUBACK 1"]);
                assert_eq!(b.read_all(taker), [format!("PUBLISH t q0 {text:?}")]);
            }
        }
    }

    // [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1]
    // [MQTT-4.3.3-1/3.1.1] [MQTT-4.4.0-1/3.1.1]
    fn a_qos_2_message_is_sent_again_until_pubrec_and_released_until_pubcomp(b: &mut House) {
        for version in BOTH {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q2);
            let publisher = b.client(version, "publisher");
            b.publish(publisher, Q2, "t", "x");
            assert_eq!(b.read_all(conn), ["PUBLISH t q2 #1 \"x\""]);
            b.drop_conn(conn);
            let (conn, got) = back(b, version, "a");
            assert_eq!(got[1..], ["PUBLISH t q2 #1 dup \"x\""]);
            b.pubcomp(conn, 1);
            b.puback(conn, 1);
            assert_eq!(b.read(conn), "", "neither acknowledges a PUBLISH of QoS 2");
            b.drop_conn(conn);
            let (conn, got) = back(b, version, "a");
            assert_eq!(got[1..], ["PUBLISH t q2 #1 dup \"x\""]);
            b.pubrec(conn, 1);
            assert_eq!(b.read(conn), "PUBREL 1");
            for _ in 0..2 {
                b.drop_conn(conn);
                let (conn, got) = back(b, version, "a");
                assert_eq!(got[1..], ["PUBREL 1"], "and the PUBLISH never again");
                b.drop_conn(conn);
            }
            let (conn, _) = back(b, version, "a");
            b.pubcomp(conn, 1);
            b.drop_conn(conn);
            let (_, got) = back(b, version, "a");
            assert_eq!(got, ["CONNACK Success present"]);
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
        assert_eq!(b.stat("messages"), 0);
    }

    // [MQTT-4.3.3-10] [MQTT-4.3.3-12] [MQTT-4.3.3-2/3.1.1]
    fn between_pubrec_and_pubcomp_an_identifier_is_one_message(b: &mut House) {
        for version in BOTH {
            let taker = b.client(version, "taker");
            b.subscribe(taker, "t", Q0);
            let conn = b.stayer(version, "a");
            for round in ["1", "2"] {
                for count in 0..3 {
                    let message = Publish { dup: count > 0, ..publish(Q2, "t", round) };
                    b.send(conn, &Packet::Publish(message));
                    assert_eq!(b.read_all(conn), ["PUBREC 1"]);
                }
                assert_eq!(b.read_all(taker), [format!("PUBLISH t q0 {round:?}")]);
                b.pubrel(conn, 1);
                assert_eq!(b.read_all(conn), ["PUBCOMP 1"]);
            }
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
    }

    // [MQTT-4.3.3-9]
    fn after_a_pubrec_that_refuses_the_same_identifier_is_a_new_message(b: &mut House) {
        b.broker.protect("shed");
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q0);
        let conn = b.client(V5, "a");
        b.publish(conn, Q2, "shed/x", "refused");
        assert_eq!(b.read(conn), "PUBREC 1 0x87");
        b.publish(conn, Q2, "t", "new");
        assert_eq!(b.read(conn), "PUBREC 1");
        assert_eq!(b.read_all(taker), ["PUBLISH t q0 \"new\""]);
    }

    // [MQTT-4.3.3-7] [MQTT-4.3.3-13] [MQTT-3.3.2-5]
    fn expiry_ends_what_waits_and_not_what_is_under_way(b: &mut House) {
        let expiring = |number, topic| Publish {
            properties: PublishProperties {
                message_expiry_interval: Some(5),
                ..PublishProperties::default()
            },
            ..numbered(number, Q2, topic, "x")
        };
        let conn = b.join(&with_window(&lasting(V5, "a"), 1));
        b.subscribe(conn, "t", Q2);
        let publisher = b.client(V5, "publisher");
        for number in [1, 2] {
            b.send(publisher, &Packet::Publish(expiring(number, "t")));
            assert_eq!(b.read(publisher), format!("PUBREC {number}"));
        }
        assert_eq!(b.read_all(conn), ["PUBLISH t q2 #1 expiry=5 \"x\""]);
        b.seconds(10);
        b.drop_conn(conn);
        let (conn, got) = back(b, V5, "a");
        assert_eq!(got[1..], ["PUBLISH t q2 #1 dup expiry=0 \"x\""], "the second has waited");
        b.pubrec(conn, 1);
        assert_eq!(b.read(conn), "PUBREL 1");
        b.pubcomp(conn, 1);
        assert_eq!(b.read(conn), "");
        for number in [1, 2] {
            b.pubrel(publisher, number);
            assert_eq!(b.read(publisher), format!("PUBCOMP {number}"), "the sender goes on");
        }
        assert_eq!((b.stat("messages"), b.stat("dropped_expired")), (0, 1));
    }

    // [MQTT-4.4.0-2] [MQTT-4.8.2-6]
    fn what_a_subscriber_refuses_is_not_sent_again_to_anybody(b: &mut House) {
        for filter in ["t", "$share/g/t"] {
            let conn = b.stayer(V5, "a");
            b.subscribe(conn, filter, Q2);
            let publisher = b.client(V5, "publisher");
            for (number, qos) in [(1, Q1), (2, Q2)] {
                b.send(publisher, &Packet::Publish(numbered(number, qos, "t", "x")));
            }
            assert_eq!(b.read_all(conn).len(), 2);
            let other = b.client(V5, "other");
            if filter.starts_with('$') {
                b.subscribe(other, filter, Q2);
            }
            b.send(conn, &Packet::Puback(Ack::new(id(1), ReasonCode::UnspecifiedError)));
            b.send(conn, &Packet::Pubrec(Ack::new(id(2), ReasonCode::QuotaExceeded)));
            assert_eq!(b.read(conn), "", "no PUBREL");
            b.drop_conn(conn);
            let (conn, got) = back(b, V5, "a");
            assert_eq!(got, ["CONNACK Success present"]);
            let fresh = b.client(V5, "a");
            b.disconnect(fresh);
            assert!(!b.is_open(conn));
            assert_eq!(b.read(other), "");
            b.disconnect(other);
        }
    }

    // [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT-4.6.0-5/3.1.1] [MQTT-4.6.0-6/3.1.1]
    fn messages_keep_their_order_live_queued_and_again(b: &mut House) {
        for version in BOTH {
            for qos in [Q1, Q2] {
                let conn = b.stayer(version, "a");
                b.subscribe(conn, "t", qos);
                let publisher = b.client(V5, "publisher");
                let send = |b: &mut House, numbers: core::ops::RangeInclusive<u16>| {
                    for number in numbers {
                        let text = number.to_string();
                        b.push(publisher, &Packet::Publish(numbered(number, qos, "t", &text)));
                        b.turn();
                        b.pubrel(publisher, number);
                    }
                };
                let texts = |got: &[String]| -> Vec<u16> {
                    let publish = |line: &&String| line.starts_with("PUBLISH");
                    let last = |line: &String| line.rsplit(' ').next().unwrap().to_owned();
                    got.iter().filter(publish).map(last)
                        .map(|word| word.trim_matches('"').parse().unwrap())
                        .collect()
                };
                send(b, 1..=5);
                assert_eq!(texts(&b.read_all(conn)), [1, 2, 3, 4, 5]);
                b.drop_conn(conn);
                send(b, 6..=10);
                let (conn, got) = back(b, version, "a");
                assert_eq!(texts(&got), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
                // Acknowledged out of order, and lost again.
                for number in [2, 4] {
                    if qos == Q1 { b.puback(conn, number) } else { b.pubrec(conn, number) }
                }
                b.drop_conn(conn);
                send(b, 11..=12);
                let (conn, got) = back(b, version, "a");
                assert_eq!(texts(&got), [1, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
                b.disconnect(publisher);
                let fresh = b.client(version, "a");
                b.disconnect(fresh);
                assert!(!b.is_open(conn));
            }
        }
    }
}
