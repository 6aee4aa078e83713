//! Sections 3.8 to 3.11: SUBSCRIBE, UNSUBSCRIBE and their answers.

use fieldgate::mqtt::{Packet, Publish, RetainHandling, SubscriptionOptions};

use crate::house::*;
use crate::support::*;

cases! {
    // [MQTT-3.8.3-2] [MQTT-3.10.3-2] [MQTT-3.8.3-3/3.1.1] [MQTT-3.10.3-2/3.1.1]
    fn a_request_without_a_filter_ends_the_connection(b: &mut House) {
        for version in BOTH {
            for first_byte in [0x82, 0xA2] {
                let body = [&[0, 1][..], no_properties(version)].concat();
                breaks(b, version, &packet(first_byte, &body), 0x82);
            }
        }
    }

    // [MQTT-3.8.3-4]
    fn no_local_does_not_go_with_a_share(b: &mut House) {
        breaks(b, V5, &subscribe_bytes(V5, b"$share/g/t", 0x04), 0x82);
        breaks(b, V5, &subscribe_bytes(V5, b"$share/g/#", 0x06), 0x82);
        let conn = b.client(V5, "a");
        b.send_bytes(conn, &subscribe_bytes(V5, b"t", 0x04));
        assert_eq!(b.read(conn), "SUBACK 1 [0x00]");
    }

    // [MQTT-3.8.3-5] [MQTT-3.8.3-4/3.1.1]
    fn reserved_subscription_options_are_malformed(b: &mut House) {
        for options in [0x40, 0x80, 0xC0, 0x41, 0x03] {
            breaks(b, V5, &subscribe_bytes(V5, b"t", options), 0x81);
        }
        for options in [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x81, 0xFC, 0xFF] {
            breaks(b, V4, &subscribe_bytes(V4, b"t", options), 0x81);
        }
        assert_eq!(b.stat("subscriptions"), 0);
    }

    // [MQTT-3.8.4-1] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2]
    // [MQTT-3.8.4-1/3.1.1] [MQTT-3.8.4-4/3.1.1] [MQTT-3.8.4-5/3.1.1] [MQTT-3.9.3-1/3.1.1]
    // [MQTT-3.9.3-2/3.1.1]
    fn one_suback_has_one_code_for_each_filter(b: &mut House) {
        b.set(|settings| settings.max_subscriptions = 5);
        for version in BOTH {
            let conn = b.client(version, "a");
            b.subscribe(conn, "y", Q0);
            b.subscribe(conn, "z", Q0);
            let list = [
                &field(b"a")[..], &[2], &field(b"b"), &[1], &field(b"a"), &[0], &field(b"c"), &[1],
                &field(b"d"), &[2],
            ].concat();
            let body = [&[0, 9][..], no_properties(version), &list].concat();
            b.send_bytes(conn, &packet(0x82, &body));
            let refused = if version == V5 { "0x97" } else { "0x80" };
            // `a` is asked for twice and is one subscription, so that `d` is the sixth.
            let expected = format!("SUBACK 9 [0x02 0x01 0x00 0x01 {refused}]");
            assert_eq!(b.read_all(conn), [expected]);
            // The second request for `a` has replaced the first.
            b.publish(conn, Q0, "a", "x");
            assert_eq!(b.read_all(conn), ["PUBLISH a q0 \"x\""]);
            let publisher = b.client(version, "publisher");
            b.publish(publisher, Q1, "a", "x");
            assert_eq!(b.read_all(conn), ["PUBLISH a q0 \"x\""]);
            b.disconnect(conn);
        }
    }

    // [MQTT-3.8.4-3] [MQTT-3.8.4-3/3.1.1]
    fn the_same_filter_again_replaces_the_subscription(b: &mut House) {
        for version in BOTH {
            let publisher = b.client(version, "publisher");
            b.retain(publisher, "t", "kept");
            let conn = b.client(version, "a");
            for (qos, seen) in [(Q2, "q1 #1"), (Q0, "q0"), (Q1, "q1 #2")] {
                b.subscribe(conn, "t", qos);
                assert_eq!(b.read_all(conn), ["PUBLISH t q0 retain \"kept\""], "it comes again");
                b.publish(publisher, Q1, "t", "x");
                assert_eq!(b.read_all(conn), [format!("PUBLISH t {seen} \"x\"")], "one copy");
            }
            b.unsubscribe(conn, "t");
            b.read(conn);
            b.publish(publisher, Q1, "t", "x");
            assert_eq!(b.read(conn), "", "there was one subscription");
            b.disconnect(conn);
        }
    }

    // [MQTT-3.8.4-4] [MQTT-3.8.4-3/3.1.1]
    fn nothing_is_lost_while_a_subscription_is_replaced(b: &mut House) {
        for version in BOTH {
            let conn = b.client(version, "a");
            b.subscribe(conn, "t/#", Q1);
            let publisher = b.client(version, "publisher");
            b.retain(publisher, "t/old", "kept");
            b.read_all(conn);
            b.stall(conn, true);
            for number in 0..9 {
                b.publish(publisher, Q1, "t/x", &number.to_string());
                if number % 3 == 1 {
                    b.subscribe_with(conn, "t/#", options(Q1, RetainHandling::Send), None);
                }
            }
            b.stall(conn, false);
            let got = b.read_all(conn);
            let live: Vec<_> = got.iter()
                .filter(|line| line.starts_with("PUBLISH t/x"))
                .map(|line| line.rsplit(' ').next().unwrap())
                .collect();
            let expected = (0..9).map(|number| format!("\"{number}\""));
            assert_eq!(live, expected.collect::<Vec<_>>());
            assert!(got.contains(&"PUBLISH t/old q0 retain \"kept\"".to_owned()), "{got:?}");
            b.retain(publisher, "t/old", "");
            b.disconnect(conn);
        }
    }

    // [MQTT-3.8.4-8] [MQTT-3.8.4-6/3.1.1] [MQTT-3.3.5-1/3.1.1]
    fn a_message_comes_at_the_lower_of_both_qualities(b: &mut House) {
        for version in BOTH {
            let publisher = b.client(version, "publisher");
            for granted in [Q0, Q1, Q2] {
                for published in [Q0, Q1, Q2] {
                    let message = publish(published, "t", "x");
                    b.send(publisher, &Packet::Publish(Publish { retain: true, ..message }));
                    b.pubrel(publisher, 1);
                    let conn = b.client(version, "a");
                    b.subscribe(conn, "t", granted);
                    b.publish(publisher, published, "t", "x");
                    b.pubrel(publisher, 1);
                    let lower = granted.min(published);
                    for way in ["retained", "live"] {
                        let qos = b.read_with(conn, |packet| match packet {
                            Packet::Publish(publish) => publish.qos,
                            _ => panic!("{packet:?}"),
                        });
                        assert_eq!(qos, Some(lower), "{way}");
                    }
                    b.disconnect(conn);
                }
            }
            // Of overlapping subscriptions the highest counts.
            let conn = b.client(version, "a");
            for (filter, qos) in [("u/#", Q0), ("u/+", Q2), ("u/x", Q1)] {
                b.subscribe(conn, filter, qos);
            }
            b.publish(publisher, Q2, "u/x", "x");
            assert_eq!(b.read_all(conn), ["PUBLISH u/x q2 #1 \"x\""]);
            b.pubrel(publisher, 1);
        }
    }

    // [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-1/3.1.1] [MQTT-3.10.4-2/3.1.1]
    fn an_unsubscribe_ends_the_same_filter_and_no_other(b: &mut House) {
        for version in BOTH {
            let publisher = b.client(version, "publisher");
            for (filter, topic) in [("a/+", "a/b"), ("a/#", "a/b"), ("a/b", "a/b"), ("#", "a/b")] {
                let conn = b.client(version, "a");
                b.subscribe(conn, filter, Q0);
                for other in ["a/+", "a/#", "a/b", "#", "a", "A/b", "a/b/", "/a/b", "+/+"] {
                    if other != filter {
                        b.unsubscribe(conn, other);
                        let codes = if version == V5 { "0x11" } else { "" };
                        assert_eq!(b.read(conn), format!("UNSUBACK 2 [{codes}]"));
                    }
                }
                b.publish(publisher, Q0, topic, "x");
                assert_eq!(b.read(conn), format!("PUBLISH {topic} q0 \"x\""), "{filter}");
                b.unsubscribe(conn, filter);
                b.read(conn);
                b.publish(publisher, Q0, topic, "x");
                assert_eq!(b.read(conn), "", "{filter}");
                b.disconnect(conn);
            }
        }
    }

    // [MQTT-3.10.4-3] [MQTT-3.10.4-3/3.1.1]
    fn what_was_begun_before_an_unsubscribe_is_brought_to_its_end(b: &mut House) {
        for version in BOTH {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q2);
            let publisher = b.client(version, "publisher");
            for (number, qos) in [(1, Q1), (2, Q2), (3, Q2)] {
                b.send(publisher, &Packet::Publish(numbered(number, qos, "t", "x")));
                b.pubrel(publisher, number);
            }
            assert_eq!(b.read_all(conn).len(), 3);
            b.pubrec(conn, 3);
            assert_eq!(b.read(conn), "PUBREL 3");
            b.unsubscribe(conn, "t");
            assert!(b.read(conn).starts_with("UNSUBACK"));
            b.drop_conn(conn);
            let (conn, got) = back(b, version, "a");
            assert_eq!(got[1..], [
                "PUBLISH t q1 #1 dup \"x\"", "PUBLISH t q2 #2 dup \"x\"", "PUBREL 3",
            ]);
            b.pubrec(conn, 2);
            assert_eq!(b.read(conn), "PUBREL 2");
            b.disconnect(conn);
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
    }

    // [MQTT-3.10.4-4] [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] [MQTT-3.10.4-6/3.1.1]
    fn one_unsuback_answers_many_filters(b: &mut House) {
        for (version, answer) in [(V4, "UNSUBACK 7 []"), (V5, "UNSUBACK 7 [0x00 0x11 0x00 0x11]")] {
            let conn = b.client(version, "a");
            for filter in ["a", "b", "c"] {
                b.subscribe(conn, filter, Q0);
            }
            let list = [field(b"c"), field(b"x"), field(b"a"), field(b"a")].concat();
            let body = [&[0, 7][..], no_properties(version), &list].concat();
            b.send_bytes(conn, &packet(0xA2, &body));
            assert_eq!(b.read_all(conn), [answer]);
            for topic in ["a", "b", "c"] {
                b.publish(conn, Q0, topic, "x");
            }
            assert_eq!(b.read_all(conn), ["PUBLISH b q0 \"x\""]);
            b.disconnect(conn);
        }
    }

    // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
    fn retain_handling_chooses_which_subscriptions_bring_retained_messages(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for topic in ["t/1", "t/2", "u"] {
            b.retain(publisher, topic, "x");
        }
        for (handling, first, again) in [
            (RetainHandling::Send, 2, 2), (RetainHandling::SendIfNew, 2, 0),
            (RetainHandling::DoNotSend, 0, 0),
        ] {
            let conn = b.client(V5, "a");
            for count in [first, again] {
                b.subscribe_with(conn, "t/+", options(Q0, handling), None);
                let got = b.read_all(conn);
                assert_eq!(got.len(), 1 + count, "{handling:?} {got:?}");
            }
            b.unsubscribe(conn, "t/+");
            b.read(conn);
            b.subscribe_with(conn, "t/+", options(Q0, handling), None);
            assert_eq!(b.read_all(conn).len(), 1 + first, "it is new again");
        }
    }

    // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
    fn retain_as_published_says_which_flag_live_messages_have(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for as_published in [false, true] {
            let conn = b.client(V5, "a");
            let options = SubscriptionOptions {
                retain_as_published: as_published,
                ..SubscriptionOptions::new(Q1)
            };
            b.subscribe_with(conn, "t", options, None);
            b.read_all(conn);
            for qos in [Q0, Q1] {
                for retain in [false, true] {
                    let message = Publish { retain, ..publish(qos, "t", "x") };
                    b.send(publisher, &Packet::Publish(message));
                    let seen = b.read_with(conn, |packet| match packet {
                        Packet::Publish(publish) => publish.retain,
                        _ => panic!("{packet:?}"),
                    });
                    assert_eq!(seen, Some(retain && as_published));
                }
            }
        }
    }
}
