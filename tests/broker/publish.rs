//! The three qualities of service in both directions, order, expiry, aliases, large messages.

use fieldgate::buffer::COPY_MAX;
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PayloadFormat, Publish, PublishProperties, ReasonCode,
    ReceiveMaximum, SubscriptionIdentifier, SubscriptionIdentifiers, TopicAlias, TopicName,
    UserPropertiesBuf,
};

use crate::house::*;

cases! {
    fn each_quality_of_service_is_acknowledged_in_its_way(b: &mut House) {
        for version in [V3, V4, V5] {
            let other = b.client(version, "other");
            b.subscribe(other, "t", Q0);
            let conn = b.client(version, "a");
            b.publish(conn, Q0, "t", "x");
            assert_eq!(b.read(conn), "");
            b.publish(conn, Q1, "t", "x");
            assert_eq!(b.read(conn), "PUBACK 1");
            b.publish(conn, Q2, "t", "x");
            assert_eq!(b.read(conn), "PUBREC 1");
            b.pubrel(conn, 1);
            assert_eq!(b.read(conn), "PUBCOMP 1");
            assert_eq!(b.read_all(other), ["PUBLISH t q0 \"x\""; 3]);
        }
    }

    fn a_subscriber_gets_the_lower_of_published_and_granted(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        for (granted, number) in [(Q0, 0), (Q1, 1), (Q2, 2)] {
            let conn = b.client(V4, &format!("s{number}"));
            b.subscribe(conn, "t", granted);
            for (published, qos) in [(Q0, 0), (Q1, 1), (Q2, 2)] {
                b.publish(publisher, published, "t", "x");
                if published == Q2 {
                    b.pubrel(publisher, 1);
                }
                let expected = qos.min(number);
                assert!(b.read(conn).starts_with(&format!("PUBLISH t q{expected}")));
            }
        }
    }

    fn a_qos_2_delivery_runs_through_four_packets(b: &mut House) {
        let conn = b.client(V5, "a");
        b.subscribe(conn, "t", Q2);
        let other = b.client(V5, "other");
        b.publish(other, Q2, "t", "x");
        assert_eq!(b.read(conn), "PUBLISH t q2 #1 \"x\"");
        b.pubrec(conn, 1);
        assert_eq!(b.read(conn), "PUBREL 1");
        b.pubrec(conn, 1);
        assert_eq!(b.read(conn), "PUBREL 1", "a second PUBREC is answered too");
        b.pubcomp(conn, 1);
        assert_eq!(b.read(conn), "");
        assert_eq!(b.stat("messages"), 0);
    }

    fn a_qos_2_message_sent_twice_is_delivered_once(b: &mut House) {
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q0);
        for version in [V4, V5] {
            let conn = b.stayer(version, "a");
            b.publish(conn, Q2, "t", "once");
            assert_eq!(b.read(conn), "PUBREC 1");
            b.drop_conn(conn);
            let conn = b.stayer(version, "a");
            let again = Publish { dup: true, ..publish(Q2, "t", "once") };
            for _ in 0..2 {
                b.send(conn, &Packet::Publish(again));
                assert_eq!(b.read(conn), "PUBREC 1");
            }
            b.pubrel(conn, 1);
            assert_eq!(b.read(conn), "PUBCOMP 1");
            assert_eq!(b.read_all(taker), ["PUBLISH t q0 \"once\""]);
            b.publish(conn, Q2, "t", "new");
            assert_eq!(b.read_all(taker), ["PUBLISH t q0 \"new\""]);
            b.pubrel(conn, 1);
            b.disconnect(conn);
        }
        assert_eq!(b.stat("duplicates_received"), 4);
    }

    fn identifiers_nobody_knows_are_answered_where_the_flow_needs_it(b: &mut House) {
        let conn = b.client(V5, "five");
        b.pubrel(conn, 7);
        assert_eq!(b.read(conn), "PUBCOMP 7 0x92");
        b.pubrec(conn, 7);
        assert_eq!(b.read(conn), "PUBREL 7 0x92");
        b.puback(conn, 7);
        b.pubcomp(conn, 7);
        assert_eq!(b.read(conn), "");
        let conn = b.client(V4, "old");
        b.pubrel(conn, 7);
        assert_eq!(b.read(conn), "PUBCOMP 7");
        b.pubrec(conn, 7);
        assert_eq!(b.read(conn), "PUBREL 7");
        assert_eq!(b.stat("unknown_packet_ids"), 6);
    }

    fn a_subscriber_that_refuses_a_message_does_not_get_it_again(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "t", Q2);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "one");
        b.publish(other, Q2, "t", "two");
        assert_eq!(b.read_all(conn).len(), 2);
        b.send(conn, &Packet::Puback(Ack::new(id(1), ReasonCode::QuotaExceeded)));
        b.send(conn, &Packet::Pubrec(Ack::new(id(2), ReasonCode::PayloadFormatInvalid)));
        assert_eq!(b.read(conn), "");
        b.drop_conn(conn);
        let conn = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read_all(conn), ["CONNACK Success present"]);
        assert_eq!(b.stat("messages"), 0);
    }

    fn nobody_subscribed_is_told_in_5_0(b: &mut House) {
        let conn = b.client(V5, "five");
        b.publish(conn, Q1, "t", "x");
        assert_eq!(b.read(conn), "PUBACK 1 0x10");
        b.publish(conn, Q2, "t", "x");
        assert_eq!(b.read(conn), "PUBREC 1 0x10");
        b.pubrel(conn, 1);
        assert_eq!(b.read(conn), "PUBCOMP 1");
        let conn = b.client(V4, "old");
        b.publish(conn, Q1, "t", "x");
        assert_eq!(b.read(conn), "PUBACK 1");
        assert_eq!(b.stat("unmatched"), 3);
    }

    fn what_one_client_publishes_arrives_in_its_order(b: &mut House) {
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "#", Q2);
        let conn = b.client(V5, "a");
        let mut expected = Vec::new();
        for number in 1..=9_u16 {
            let payload = number.to_string();
            let qos = [Q0, Q1, Q2][usize::from(number % 3)];
            let message = Publish {
                packet_id: (qos > Q0).then(|| id(number)),
                ..publish(qos, "t", &payload)
            };
            b.push(conn, &Packet::Publish(message));
            expected.push(format!("\"{payload}\""));
        }
        b.turn();
        let arrived: Vec<_> = b.read_all(taker).into_iter()
            .map(|packet| packet.rsplit(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(arrived, expected);
        let answers = b.read_all(conn);
        assert_eq!(answers, [
            "PUBACK 1", "PUBREC 2", "PUBACK 4", "PUBREC 5", "PUBACK 7", "PUBREC 8",
        ]);
    }

    fn a_subscriber_is_never_sent_more_than_it_takes_at_once(b: &mut House) {
        let conn = b.join(&Connect {
            properties: ConnectProperties {
                receive_maximum: ReceiveMaximum::new(2),
                ..ConnectProperties::default()
            },
            ..connect(V5, "a")
        });
        b.subscribe(conn, "t", Q2);
        let other = b.client(V5, "other");
        for payload in ["1", "2", "3", "4", "5"] {
            b.publish(other, Q1, "t", payload);
        }
        assert_eq!(b.read_all(conn), ["PUBLISH t q1 #1 \"1\"", "PUBLISH t q1 #2 \"2\""]);
        b.puback(conn, 2);
        assert_eq!(b.read_all(conn), ["PUBLISH t q1 #3 \"3\""]);
        b.puback(conn, 1);
        b.puback(conn, 3);
        assert_eq!(b.read_all(conn), ["PUBLISH t q1 #4 \"4\"", "PUBLISH t q1 #5 \"5\""]);
        b.publish(other, Q2, "t", "6");
        b.puback(conn, 4);
        assert_eq!(b.read_all(conn), ["PUBLISH t q2 #6 \"6\""]);
        b.publish(other, Q1, "t", "7");
        b.pubrec(conn, 6);
        assert_eq!(b.read_all(conn), ["PUBREL 6"], "PUBREC does not free the place");
        b.pubcomp(conn, 6);
        assert_eq!(b.read_all(conn), ["PUBLISH t q1 #7 \"7\""]);
    }

    fn a_3_1_1_subscriber_has_the_window_of_the_settings(b: &mut House) {
        b.set(|settings| settings.inflight_maximum = 3);
        let conn = b.client(V4, "a");
        b.subscribe(conn, "t", Q1);
        let other = b.client(V5, "other");
        for _ in 0..5 {
            b.publish(other, Q1, "t", "x");
        }
        assert_eq!(b.read_all(conn).len(), 3);
        b.puback(conn, 1);
        assert_eq!(b.read_all(conn).len(), 1);
    }

    fn more_unacknowledged_publications_than_connack_allows_end_the_connection(b: &mut House) {
        b.set(|settings| settings.receive_maximum = 2);
        let conn = b.client(V5, "a");
        for number in 1..=2 {
            b.send(conn, &Packet::Publish(numbered(number, Q2, "t", "x")));
        }
        assert_eq!(b.read_all(conn), ["PUBREC 1 0x10", "PUBREC 2 0x10"]);
        b.pubrel(conn, 1);
        b.send(conn, &Packet::Publish(numbered(3, Q2, "t", "x")));
        assert_eq!(b.read_all(conn), ["PUBCOMP 1", "PUBREC 3 0x10"]);
        b.send(conn, &Packet::Publish(numbered(4, Q1, "t", "x")));
        assert_eq!(b.read(conn), "DISCONNECT 0x93");
    }

    fn acknowledged_publications_never_count_against_the_receive_maximum(b: &mut House) {
        b.set(|settings| settings.receive_maximum = 1);
        let conn = b.client(V5, "a");
        for _ in 0..5 {
            b.publish(conn, Q1, "t", "x");
            assert_eq!(b.read(conn), "PUBACK 1 0x10");
        }
        b.publish(conn, Q1, "$SYS/x", "refused");
        assert_eq!(b.read(conn), "PUBACK 1 0x87");
        b.publish(conn, Q2, "$SYS/x", "refused");
        assert_eq!(b.read(conn), "PUBREC 1 0x87");
        b.publish(conn, Q1, "t", "x");
        assert_eq!(b.read(conn), "PUBACK 1 0x10");
    }

    fn properties_travel_unaltered_to_5_0_and_not_to_3_1_1(b: &mut House) {
        let five = b.client(V5, "five");
        b.subscribe(five, "t", Q1);
        let queued = b.client(V5, "queued");
        b.subscribe(queued, "t", Q0);
        let old = b.client(V4, "old");
        b.subscribe(old, "t", Q1);
        let conn = b.client(V5, "a");
        let mut pairs = UserPropertiesBuf::new();
        assert!(pairs.push("b", "1") && pairs.push("a", "2") && pairs.push("b", "3"));
        let properties = PublishProperties {
            payload_format_indicator: Some(PayloadFormat::Utf8),
            message_expiry_interval: Some(100),
            response_topic: TopicName::new("answers").ok(),
            correlation_data: Some(b"\x00\x01"),
            content_type: Some("text/plain"),
            user_properties: pairs.as_properties(),
            ..PublishProperties::default()
        };
        b.send(conn, &Packet::Publish(Publish { properties, ..publish(Q1, "t", "x") }));
        for taker in [five, queued] {
            b.read_with(taker, |packet| {
                let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                assert_eq!(publish.properties, properties);
            }).unwrap();
        }
        assert_eq!(b.read(old), "PUBLISH t q1 #1 \"x\"");
    }

    fn what_is_left_of_the_expiry_is_told_and_what_is_expired_is_not_delivered(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "t", Q1);
        b.drop_conn(conn);
        let other = b.client(V5, "other");
        for (seconds, payload) in [(10, "short"), (100, "long")] {
            let properties = PublishProperties {
                message_expiry_interval: Some(seconds),
                ..PublishProperties::default()
            };
            let message = Publish { properties, ..publish(Q1, "t", payload) };
            b.send(other, &Packet::Publish(message));
        }
        b.seconds(10);
        let conn = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read_all(conn), [
            "CONNACK Success present",
            "PUBLISH t q1 #1 expiry=90 \"long\"",
        ]);
        assert_eq!(b.stat("dropped_expired"), 1);
    }

    fn a_message_on_its_way_does_not_expire(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "t", Q2);
        let properties = PublishProperties {
            message_expiry_interval: Some(10),
            ..PublishProperties::default()
        };
        let other = b.client(V5, "other");
        let message = Publish { properties, ..publish(Q2, "t", "x") };
        b.send(other, &Packet::Publish(message));
        assert_eq!(b.read(conn), "PUBLISH t q2 #1 expiry=10 \"x\"");
        b.drop_conn(conn);
        b.seconds(20);
        let conn = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read_all(conn), [
            "CONNACK Success present",
            "PUBLISH t q2 #1 dup expiry=0 \"x\"",
        ]);
    }

    fn a_topic_alias_stands_for_its_topic_until_it_is_given_anew(b: &mut House) {
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "#", Q0);
        let conn = b.client(V5, "a");
        for (alias, topic, payload) in [(1, "one", "1"), (2, "two", "2"), (1, "", "3"),
            (1, "three", "4"), (1, "", "5"), (2, "", "6")] {
            let properties = PublishProperties {
                topic_alias: TopicAlias::new(alias),
                ..PublishProperties::default()
            };
            let message = Publish { properties, ..publish(Q0, topic, payload) };
            b.send(conn, &Packet::Publish(message));
        }
        assert_eq!(b.read_all(taker), [
            "PUBLISH one q0 \"1\"",
            "PUBLISH two q0 \"2\"",
            "PUBLISH one q0 \"3\"",
            "PUBLISH three q0 \"4\"",
            "PUBLISH three q0 \"5\"",
            "PUBLISH two q0 \"6\"",
        ]);
    }

    fn an_alias_ends_with_its_connection_and_has_a_highest_number(b: &mut House) {
        let with_alias = |alias, topic| Publish {
            properties: PublishProperties {
                topic_alias: TopicAlias::new(alias),
                ..PublishProperties::default()
            },
            ..publish(Q0, topic, "x")
        };
        let conn = b.stayer(V5, "a");
        b.send(conn, &Packet::Publish(with_alias(16, "t")));
        b.drop_conn(conn);
        let conn = b.stayer(V5, "a");
        b.send(conn, &Packet::Publish(with_alias(16, "")));
        assert_eq!(b.read(conn), "DISCONNECT 0x82");
        let conn = b.stayer(V5, "a");
        b.send(conn, &Packet::Publish(with_alias(17, "t")));
        assert_eq!(b.read(conn), "DISCONNECT 0x94");
        b.set(|settings| settings.topic_alias_maximum = 0);
        let conn = b.stayer(V5, "a");
        b.send(conn, &Packet::Publish(with_alias(1, "t")));
        assert_eq!(b.read(conn), "DISCONNECT 0x94");
    }

    fn a_subscription_identifier_from_a_client_is_a_protocol_error(b: &mut House) {
        let conn = b.client(V5, "a");
        let list = [SubscriptionIdentifier::new(1).unwrap()];
        let properties = PublishProperties {
            subscription_identifiers: SubscriptionIdentifiers::from_slice(&list),
            ..PublishProperties::default()
        };
        b.send(conn, &Packet::Publish(Publish { properties, ..publish(Q0, "t", "x") }));
        assert_eq!(b.read(conn), "DISCONNECT 0x82");
    }

    fn a_message_too_large_for_its_subscriber_is_passed_over(b: &mut House) {
        let small = b.join(&Connect {
            properties: ConnectProperties {
                maximum_packet_size: core::num::NonZeroU32::new(100),
                ..ConnectProperties::default()
            },
            ..connect(V5, "small")
        });
        b.subscribe(small, "t", Q1);
        let other = b.client(V5, "other");
        let large = "x".repeat(100);
        for (qos, sent) in [(Q0, 0), (Q1, 1)] {
            b.publish(other, qos, "t", &large);
            b.publish(other, qos, "t", "fits");
            let received = b.read_all(small);
            assert_eq!(received.len(), 1, "{received:?}");
            assert!(received[0].ends_with("\"fits\""));
            assert_eq!(b.stat("dropped_too_large"), sent + 1);
        }
        b.puback(small, 1);
        assert_eq!(b.stat("messages"), 0);
    }

    fn messages_of_every_size_arrive_whole(b: &mut House) {
        let direct = b.client(V5, "direct");
        b.subscribe(direct, "t", Q0);
        let old = b.client(V4, "old");
        b.subscribe(old, "t", Q0);
        let queued = b.client(V5, "queued");
        b.subscribe(queued, "t", Q1);
        let conn = b.client(V4, "a");
        for len in [0, 1, 127, 128, COPY_MAX - 1, COPY_MAX, COPY_MAX + 1, 5000, 16_000, 16_383,
            16_384, 16_385, 65_536, 200_000, 1_000_000] {
            let payload: String = (0..len).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
            b.publish(conn, Q1, "t", &payload);
            assert_eq!(b.read(conn), "PUBACK 1");
            for (taker, qos) in [(direct, Q0), (old, Q0), (queued, Q1)] {
                let packet_id = b.read_with(taker, |packet| {
                    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
                    assert_eq!(publish.qos, qos);
                    assert!(publish.payload == payload.as_bytes(), "{len}");
                    publish.packet_id
                }).unwrap();
                if let Some(packet_id) = packet_id {
                    b.puback(taker, packet_id.value());
                }
            }
        }
        for conn in [direct, old, queued, conn] {
            b.disconnect(conn);
        }
        assert_eq!(b.stat("messages"), 0);
        assert_eq!(b.memory.used(), 0, "nothing is left behind");
    }

    fn a_publisher_gets_its_own_message_back(b: &mut House) {
        let conn = b.client(V4, "a");
        b.subscribe(conn, "t", Q2);
        b.publish(conn, Q2, "t", "x");
        assert_eq!(b.read_all(conn), ["PUBREC 1", "PUBLISH t q2 #1 \"x\""]);
    }

    fn many_takers_get_the_same_bytes(b: &mut House) {
        let takers: Vec<_> = (0..50).map(|number| {
            let version = [V3, V4, V5][number % 3];
            let conn = b.client(version, &format!("taker-{number}"));
            b.subscribe(conn, "t/+", [Q0, Q1, Q2][number % 3]);
            conn
        }).collect();
        let conn = b.client(V5, "a");
        b.publish(conn, Q1, "t/1", "to all");
        for (number, taker) in takers.into_iter().enumerate() {
            let expected = if number % 3 == 0 { "PUBLISH t/1 q0 \"to all\"" }
                else { "PUBLISH t/1 q1 #1 \"to all\"" };
            assert_eq!(b.read(taker), expected);
        }
    }
}
