//! Sections 4.7 and 4.8: topics, filters, shared subscriptions.

use fieldgate::broker::Origin;
use fieldgate::mqtt::Publish;

use crate::house::*;
use crate::support::*;

cases! {
    // [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.1-2/3.1.1] [MQTT-4.7.1-3/3.1.1]
    fn wildcards_stand_alone_in_their_level_and_a_hash_at_the_end(b: &mut House) {
        for version in BOTH {
            for filter in ["a#", "#a", "a/#/b", "#/", "##", "a/b#", "+#", "a+", "+a", "a/b+/c",
                "++", "$share/g/a#", "$share/g/a+"] {
                breaks(b, version, &subscribe_bytes(version, filter.as_bytes(), 0), 0x8F);
                breaks(b, version, &unsubscribe_bytes(version, filter.as_bytes()), 0x8F);
            }
            let conn = b.client(version, "a");
            for filter in ["#", "a/#", "+", "+/+", "/+", "+/", "a/+/b", "+/#", "/#", "a/+/#"] {
                b.subscribe(conn, filter, Q0);
            }
            b.disconnect(conn);
        }
    }

    // [MQTT-4.7.2-1] [MQTT-4.7.2-1/3.1.1]
    fn a_wildcard_at_the_start_does_not_match_a_dollar_topic(b: &mut House) {
        for version in BOTH {
            let conn = b.client(version, "a");
            for filter in ["#", "+/x", "+/#", "+"] {
                b.subscribe(conn, filter, Q0);
            }
            // Only the server itself publishes there.
            let say = |b: &mut House, retain, payload| {
                for topic in ["$x/x", "$", "$x"] {
                    let message = Publish { retain, ..publish(Q0, topic, payload) };
                    b.say(Origin::System, &message);
                }
            };
            say(b, false, "live");
            say(b, true, "kept");
            assert_eq!(b.read(conn), "");
            let late = b.client(version, "late");
            b.subscribe(late, "#", Q0);
            assert_eq!(b.read(late), "", "nor what is retained");
            b.subscribe(late, "$x/#", Q0);
            assert_eq!(b.read_all(late).len(), 2);
            b.publish(late, Q0, "a/$x", "");
            assert_eq!(b.read_all(conn).len(), 1, "elsewhere it is a character");
            say(b, true, "");
        }
    }

    // [MQTT-4.7.3-1] [MQTT-4.7.3-1/3.1.1]
    fn a_topic_and_a_filter_have_a_character(b: &mut House) {
        for version in BOTH {
            breaks(b, version, &publish_bytes(version, b"", b"x"), 0x82);
            breaks(b, version, &subscribe_bytes(version, b"", 0), 0x8F);
            breaks(b, version, &unsubscribe_bytes(version, b""), 0x8F);
            let will = [no_properties(version), &field(b""), &field(b"")].concat();
            refused(b, version, &connect_bytes(version, 0x06, &will), 0x90);
            let conn = b.client(version, "a");
            b.subscribe(conn, "/", Q0);
            b.publish(conn, Q0, "/", "one is enough");
            assert_eq!(b.read(conn), "PUBLISH / q0 \"one is enough\"");
            b.disconnect(conn);
        }
    }

    // [MQTT-4.7.3-3] [MQTT-4.7.3-3/3.1.1]
    fn a_topic_may_be_as_long_as_its_length_can_say(b: &mut House) {
        let topic = "x".repeat(65_535);
        for version in BOTH {
            let conn = b.client(version, "a");
            b.subscribe(conn, &topic, Q0);
            let bytes = publish_bytes(version, topic.as_bytes(), b"y");
            b.send_bytes(conn, &bytes);
            assert!(b.read_bytes(conn) == bytes, "it comes back whole");
            b.disconnect(conn);
        }
    }

    // [MQTT-4.7.3-4] [MQTT-4.7.3-4/3.1.1]
    fn topics_are_compared_as_they_are_written(b: &mut House) {
        // One letter or a letter and its accent, case, spaces, empty levels, unassigned characters.
        let topics = ["caf\u{E9}", "cafe\u{301}", "Caf\u{E9}", "caf\u{E9} ", " caf\u{E9}",
            "caf\u{E9}/", "/caf\u{E9}", "caf\u{E9}//", "\u{FFFE}", "\u{E000}",
            "\u{7F}", "\u{1}", "\u{FB01}", "fi"];
        for version in BOTH {
            let conn = b.client(version, "a");
            for (at, topic) in topics.iter().enumerate() {
                b.subscribe(conn, topic, Q0);
                for other in topics {
                    b.publish(conn, Q0, other, "x");
                }
                let line = |topic: &&str| format!("PUBLISH {topic} q0 \"x\"");
                let expected: Vec<_> = topics[..=at].iter().map(line).collect();
                assert_eq!(b.read_all(conn), expected);
            }
            b.disconnect(conn);
        }
    }

    // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    fn a_share_has_a_name_and_a_filter(b: &mut House) {
        for filter in ["$share/", "$share//t", "$share/g", "$share/g/", "$share/g+/t", "$share/#/t",
            "$share/+/t", "$share/g#"] {
            breaks(b, V5, &subscribe_bytes(V5, filter.as_bytes(), 0), 0x8F);
            breaks(b, V5, &unsubscribe_bytes(V5, filter.as_bytes()), 0x8F);
        }
        let conn = b.client(V5, "a");
        b.subscribe(conn, "$share/g/t/#", Q0);
        b.publish(conn, Q0, "t/x", "y");
        assert_eq!(b.read_all(conn), ["PUBLISH t/x q0 \"y\""]);
        for other in ["$share/h/t/#", "t/#", "$share/g/t"] {
            b.unsubscribe(conn, other);
            assert_eq!(b.read(conn), "UNSUBACK 2 [0x11]", "{other}");
        }
        b.unsubscribe(conn, "$share/g/t/#");
        assert_eq!(b.read(conn), "UNSUBACK 2 [0x00]");
    }

    // [MQTT-4.8.2-3]
    fn a_member_of_a_share_gets_at_most_the_qos_that_it_was_granted(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for (granted, seen) in [(Q0, "q0"), (Q1, "q1"), (Q2, "q2")] {
            let conn = b.client(V5, "a");
            b.subscribe(conn, "$share/g/t", granted);
            b.publish(publisher, Q2, "t", "x");
            b.pubrel(publisher, 1);
            let got = b.read(conn);
            assert!(got.starts_with(&format!("PUBLISH t {seen}")), "{got}");
            b.disconnect(conn);
        }
    }

    // [MQTT-4.8.2-4] [MQTT-4.8.2-5]
    fn a_qos_2_message_that_was_sent_to_a_member_is_its_own(b: &mut House) {
        let one = b.stayer(V5, "one");
        b.subscribe(one, "$share/g/t", Q2);
        let publisher = b.client(V5, "publisher");
        b.publish(publisher, Q2, "t", "x");
        assert_eq!(b.read(one), "PUBLISH t q2 #1 \"x\"");
        let other = b.client(V5, "other");
        b.subscribe(other, "$share/g/t", Q2);
        b.drop_conn(one);
        assert_eq!(b.read(other), "");
        let (one, got) = back(b, V5, "one");
        assert_eq!(got[1..], ["PUBLISH t q2 #1 dup \"x\""]);
        b.drop_conn(one);
        b.seconds(3600);
        assert_eq!(b.stat("sessions"), 2, "its session has ended");
        assert_eq!(b.read(other), "", "and the message with it");
    }
}
