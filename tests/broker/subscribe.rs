//! SUBSCRIBE and UNSUBSCRIBE: filters, options, identifiers, overlaps.

use fieldgate::mqtt::{
    Packet, Publish, RetainHandling, Subscribe, SubscribeProperties, SubscriptionOptions,
    SubscriptionRequest, SubscriptionRequests, TopicFilter, TopicFilters, Unsubscribe,
    UnsubscribeProperties,
};

use crate::house::*;

cases! {
    fn one_suback_answers_all_filters_in_their_order(b: &mut House) {
        for version in [V4, V5] {
            let conn = b.client(version, "a");
            let request = |filter, qos| SubscriptionRequest {
                filter: TopicFilter::new(filter).unwrap(),
                options: SubscriptionOptions::new(qos),
            };
            let requests = [
                request("a", Q2), request("$share/g/b", Q1), request("c/#", Q0), request("d/+", Q1),
            ];
            b.send(conn, &Packet::Subscribe(Subscribe {
                packet_id: id(77),
                properties: SubscribeProperties::default(),
                requests: SubscriptionRequests::from_slice(&requests),
            }));
            assert_eq!(b.read(conn), "SUBACK 77 [0x02 0x01 0x00 0x01]");
            assert_eq!(b.stat("subscriptions"), 4);
            b.disconnect(conn);
        }
    }

    fn a_full_client_may_still_change_what_it_has(b: &mut House) {
        b.set(|settings| settings.max_subscriptions = 2);
        let conn = b.client(V5, "a");
        let other = b.client(V5, "other");
        b.retain(other, "b", "kept");
        let request = |filter, qos| SubscriptionRequest {
            filter: TopicFilter::new(filter).unwrap(),
            options: SubscriptionOptions::new(qos),
        };
        // As a sequence of packets with one filter each [MQTT-3.8.4-5].
        let requests = [
            request("a", Q0), request("b", Q0), request("c", Q0), request("a", Q2),
            request("b", Q1), request("$share/g/c", Q0), request("b", Q2),
        ];
        b.send(conn, &Packet::Subscribe(Subscribe {
            packet_id: id(3),
            properties: SubscribeProperties::default(),
            requests: SubscriptionRequests::from_slice(&requests),
        }));
        let answers = b.read_all(conn);
        assert_eq!(answers[0], "SUBACK 3 [0x00 0x00 0x97 0x02 0x01 0x97 0x02]");
        assert_eq!(answers[1..], ["PUBLISH b q0 retain \"kept\""], "once, whatever the number");
        assert_eq!((b.stat("subscriptions"), b.stat("refused_subscriptions")), (2, 2));
    }

    fn one_unsuback_answers_all_filters_in_their_order(b: &mut House) {
        for (version, answer) in [(V4, "UNSUBACK 8 []"), (V5, "UNSUBACK 8 [0x11 0x00 0x11]")] {
            let conn = b.client(version, "a");
            b.subscribe(conn, "a/+", Q1);
            let filters = ["a/b", "a/+", "a/+"].map(|filter| TopicFilter::new(filter).unwrap());
            b.send(conn, &Packet::Unsubscribe(Unsubscribe {
                packet_id: id(8),
                properties: UnsubscribeProperties::default(),
                filters: TopicFilters::from_slice(&filters),
            }));
            assert_eq!(b.read(conn), answer);
            b.publish(conn, Q0, "a/b", "x");
            assert_eq!(b.read(conn), "");
            assert_eq!(b.stat("subscriptions"), 0);
        }
    }

    fn overlapping_subscriptions_bring_one_copy_with_everything(b: &mut House) {
        let conn = b.client(V5, "a");
        for (filter, qos, identifier) in
            [("a/+", Q0, Some(7)), ("a/#", Q2, None), ("#", Q1, Some(3)), ("+/b", Q1, Some(7))]
        {
            b.subscribe_with(conn, filter, SubscriptionOptions::new(qos), identifier);
            b.read(conn);
        }
        let other = b.client(V5, "other");
        b.publish(other, Q2, "a/b", "x");
        assert_eq!(b.read_all(conn), ["PUBLISH a/b q2 #1 by=[3, 7, 7] \"x\""]);
        b.publish(other, Q0, "a/b", "y");
        assert_eq!(b.read_all(conn), ["PUBLISH a/b q0 by=[3, 7, 7] \"y\""]);
        b.publish(other, Q0, "c", "z");
        assert_eq!(b.read_all(conn), ["PUBLISH c q0 by=[3] \"z\""]);
    }

    fn subscribing_again_replaces_options_and_identifier(b: &mut House) {
        let conn = b.client(V5, "a");
        b.subscribe_with(conn, "t", SubscriptionOptions::new(Q2), Some(1));
        b.subscribe_with(conn, "t", SubscriptionOptions::new(Q0), Some(2));
        b.read_all(conn);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "x");
        assert_eq!(b.read_all(conn), ["PUBLISH t q0 by=[2] \"x\""]);
        assert_eq!(b.stat("subscriptions"), 1);
    }

    fn no_local_keeps_a_clients_own_messages_from_it(b: &mut House) {
        let conn = b.client(V5, "a");
        let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Q1) };
        b.subscribe_with(conn, "t/#", no_local, Some(1));
        b.read(conn);
        b.publish(conn, Q1, "t/x", "own");
        assert_eq!(b.read_all(conn), ["PUBACK 1 0x10"]);
        let other = b.client(V5, "other");
        b.publish(other, Q0, "t/x", "other's");
        assert_eq!(b.read_all(conn), ["PUBLISH t/x q0 by=[1] \"other's\""]);
        b.subscribe_with(conn, "t/+", SubscriptionOptions::new(Q1), Some(2));
        b.read(conn);
        b.publish(conn, Q0, "t/x", "own");
        assert_eq!(b.read_all(conn), ["PUBLISH t/x q0 by=[2] \"own\""]);
    }

    fn retain_as_published_keeps_the_flag_of_live_messages(b: &mut House) {
        let plain = b.client(V5, "plain");
        b.subscribe(plain, "t", Q1);
        let faithful = b.client(V5, "faithful");
        let options = SubscriptionOptions {
            retain_as_published: true,
            ..SubscriptionOptions::new(Q1)
        };
        b.subscribe_with(faithful, "t", options, None);
        b.read(faithful);
        let other = b.client(V5, "other");
        for (qos, name) in [(Q0, "q0"), (Q1, "q1 #1")] {
            b.send(other, &Packet::Publish(Publish { retain: true, ..publish(qos, "t", "x") }));
            assert_eq!(b.read(plain), format!("PUBLISH t {name} \"x\""));
            assert_eq!(b.read(faithful), format!("PUBLISH t {name} retain \"x\""));
        }
        b.publish(other, Q0, "t", "y");
        assert_eq!(b.read(faithful), "PUBLISH t q0 \"y\"");
    }

    fn wildcards_do_not_reach_into_dollar_topics(b: &mut House) {
        let conn = b.client(V5, "a");
        b.subscribe(conn, "#", Q0);
        b.subscribe(conn, "+/x", Q0);
        let system = fieldgate::broker::Origin::System;
        assert_eq!(b.say(system, &publish(Q0, "$SYS/x", "hidden")).matched, 0);
        assert_eq!(b.read(conn), "");
        b.subscribe(conn, "$SYS/+", Q0);
        b.say(system, &publish(Q0, "$SYS/x", "seen"));
        assert_eq!(b.read_all(conn), ["PUBLISH $SYS/x q0 \"seen\""]);
    }

    fn what_was_queued_before_an_unsubscribe_is_delivered(b: &mut House) {
        let conn = b.client(V5, "a");
        b.subscribe(conn, "t", Q1);
        b.stall(conn, true);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "before");
        b.unsubscribe(conn, "t");
        b.publish(other, Q1, "t", "after");
        b.stall(conn, false);
        let got = b.read_all(conn);
        assert!(got.contains(&"PUBLISH t q1 #1 \"before\"".to_owned()), "{got:?}");
        assert_eq!(got.len(), 2, "{got:?}");
    }

    fn a_client_has_at_most_so_many_subscriptions(b: &mut House) {
        b.set(|settings| settings.max_subscriptions = 2);
        let conn = b.client(V5, "a");
        b.subscribe(conn, "1", Q0);
        b.subscribe(conn, "2", Q0);
        b.subscribe_with(conn, "3", SubscriptionOptions::new(Q0), None);
        assert_eq!(b.read(conn), "SUBACK 1 [0x97]");
        b.subscribe(conn, "2", Q1);
        b.unsubscribe(conn, "1");
        assert_eq!(b.read(conn), "UNSUBACK 2 [0x00]");
        b.subscribe(conn, "3", Q0);
        assert_eq!(b.stat("refused_subscriptions"), 1);
        let old = b.client(V4, "old");
        b.subscribe(old, "1", Q0);
        b.subscribe(old, "2", Q0);
        b.subscribe_with(old, "3", options(Q0, RetainHandling::Send), None);
        assert_eq!(b.read(old), "SUBACK 1 [0x80]");
    }
}
