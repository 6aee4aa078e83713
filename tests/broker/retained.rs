//! Retained messages: stored, replaced, cleared, replayed, limited.

use fieldgate::broker::{Origin, Taker};
use fieldgate::mqtt::{
    Connect, ConnectProperties, Packet, Publish, PublishProperties, ReceiveMaximum, RetainHandling,
    Subscribe, SubscribeProperties, SubscriptionOptions, SubscriptionRequest, SubscriptionRequests,
    TopicFilter,
};

use crate::house::*;

cases! {
    fn a_new_subscription_brings_what_is_retained(b: &mut House) {
        let conn = b.client(V5, "a");
        b.retain(conn, "t/1", "old");
        b.retain(conn, "t/1", "one");
        b.retain(conn, "t/2", "two");
        b.retain(conn, "u", "other");
        for version in [V4, V5] {
            let taker = b.client(version, "taker");
            b.subscribe(taker, "t/#", Q2);
            assert_eq!(b.read_all(taker), [
                "PUBLISH t/1 q0 retain \"one\"",
                "PUBLISH t/2 q0 retain \"two\"",
            ]);
        }
        assert_eq!(b.stat("retained"), 3);
    }

    fn what_is_restated_is_found_as_if_it_had_been_there_before(b: &mut House) {
        let restate = |b: &mut House, payload: &str| {
            let message = Publish { retain: true, ..publish(Q0, "$SYS/x", payload) };
            b.broker.restate(b.now, &message);
            b.turn();
        };
        let live = b.client(V5, "live");
        b.subscribe(live, "$SYS/x", Q0);
        assert_eq!(b.system_subscribed, 1);
        restate(b, "first");
        let conn = b.client(V5, "a");
        b.subscribe(conn, "#", Q0);
        assert_eq!(b.system_subscribed, 1, "it does not reach there");
        // After the subscription, and before it draws.
        let requests = [SubscriptionRequest {
            filter: TopicFilter::new("$SYS/#").unwrap(),
            options: SubscriptionOptions::new(Q0),
        }];
        b.push(conn, &Packet::Subscribe(Subscribe {
            packet_id: id(2),
            properties: SubscribeProperties::default(),
            requests: SubscriptionRequests::from_slice(&requests),
        }));
        assert_eq!(b.system_subscribed, 2);
        restate(b, "second");
        assert_eq!(b.read_all(conn), ["SUBACK 2 [0x00]", "PUBLISH $SYS/x q0 retain \"second\""]);
        assert_eq!(b.read_all(live), [""; 0], "nobody was told");
        assert!(b.broker.is_system_watched());
        b.unsubscribe(conn, "$SYS/#");
        b.drop_conn(live);
        assert!(!b.broker.is_system_watched());
        assert_eq!(b.stat("retained"), 1);
    }

    fn an_empty_payload_clears_and_is_delivered_live(b: &mut House) {
        let live = b.client(V5, "live");
        b.subscribe(live, "t", Q0);
        let conn = b.client(V5, "a");
        b.retain(conn, "t", "x");
        b.retain(conn, "t", "");
        assert_eq!(b.read_all(live), ["PUBLISH t q0 \"x\"", "PUBLISH t q0 \"\""]);
        let late = b.client(V5, "late");
        b.subscribe(late, "t", Q0);
        assert_eq!(b.read(late), "");
        assert_eq!((b.stat("retained"), b.stat("retained_bytes")), (0, 0));
    }

    fn a_message_without_the_flag_changes_nothing_retained(b: &mut House) {
        let conn = b.client(V5, "a");
        b.retain(conn, "t", "kept");
        b.publish(conn, Q0, "t", "live");
        b.publish(conn, Q0, "t", "");
        let late = b.client(V5, "late");
        b.subscribe(late, "t", Q0);
        assert_eq!(b.read_all(late), ["PUBLISH t q0 retain \"kept\""]);
    }

    fn retain_handling_says_when_a_subscription_brings_them(b: &mut House) {
        let conn = b.client(V5, "a");
        b.retain(conn, "t", "x");
        let replayed = ["SUBACK 1 [0x00]", "PUBLISH t q0 retain \"x\""];
        for (handling, first, again) in [
            (RetainHandling::Send, 2, 2),
            (RetainHandling::SendIfNew, 2, 1),
            (RetainHandling::DoNotSend, 1, 1),
        ] {
            let taker = b.client(V5, "taker");
            for count in [first, again] {
                b.subscribe_with(taker, "t", options(Q0, handling), None);
                assert_eq!(b.read_all(taker), replayed[..count], "{handling:?}");
            }
        }
    }

    fn a_replayed_message_has_the_lower_qos_and_the_identifier(b: &mut House) {
        let conn = b.client(V5, "a");
        let message = Publish { retain: true, ..publish(Q2, "t", "x") };
        b.send(conn, &Packet::Publish(message));
        for (granted, seen) in [(Q0, "q0"), (Q1, "q1 #1"), (Q2, "q2 #1")] {
            let taker = b.client(V5, "taker");
            b.subscribe_with(taker, "+", SubscriptionOptions::new(granted), Some(9));
            b.read(taker);
            assert_eq!(b.read(taker), format!("PUBLISH t {seen} retain by=[9] \"x\""));
        }
    }

    fn a_replay_keeps_to_the_receive_maximum(b: &mut House) {
        let conn = b.client(V5, "a");
        for number in 1..=5 {
            let topic = format!("t/{number}");
            let message = Publish { retain: true, ..numbered(number, Q1, &topic, "x") };
            b.send(conn, &Packet::Publish(message));
        }
        let taker = b.join(&Connect {
            properties: ConnectProperties {
                receive_maximum: ReceiveMaximum::new(2),
                ..ConnectProperties::default()
            },
            ..connect(V5, "taker")
        });
        b.subscribe(taker, "t/+", Q1);
        assert_eq!(b.read_all(taker).len(), 2);
        for number in 1..=5 {
            b.puback(taker, number);
            assert_eq!(b.read_all(taker).len(), usize::from(number <= 3));
        }
        assert_eq!(b.stat("messages"), 5);
    }

    fn a_replay_waits_for_a_slow_reader(b: &mut House) {
        let conn = b.client(V5, "a");
        let payload = "x".repeat(1000);
        for number in 0..300 {
            b.retain(conn, &format!("t/{number:03}"), &payload);
        }
        let taker = b.client(V5, "taker");
        b.stall(taker, true);
        b.subscribe_with(taker, "t/#", SubscriptionOptions::new(Q0), None);
        let here = taker;
        b.broker.fill(b.now, here, 64 * 1024, &mut b.outbox);
        let queue = b.outbox.queue(here).unwrap();
        assert!(queue.len() < 70_000, "{}", queue.len());
        b.publish(conn, Q0, "t/000", "live");
        b.stall(taker, false);
        let got = b.read_all(taker);
        assert_eq!(got.len(), 302);
        assert_eq!(got[0], "SUBACK 1 [0x00]");
        assert_eq!(got[301], "PUBLISH t/000 q0 \"live\"", "live comes after the replay");
    }

    fn a_value_that_changes_during_the_replay_comes_once(b: &mut House) {
        let conn = b.client(V5, "a");
        for topic in ["t/1", "t/2"] {
            b.retain(conn, topic, "old");
        }
        let taker = b.client(V5, "taker");
        b.stall(taker, true);
        b.subscribe_with(taker, "t/#", SubscriptionOptions::new(Q0), None);
        b.retain(conn, "t/2", "new");
        b.stall(taker, false);
        assert_eq!(b.read_all(taker), [
            "SUBACK 1 [0x00]",
            "PUBLISH t/1 q0 retain \"old\"",
            "PUBLISH t/2 q0 \"new\"",
        ]);
    }

    fn unsubscribing_ends_a_replay(b: &mut House) {
        let conn = b.client(V5, "a");
        b.retain(conn, "t", "x");
        let taker = b.client(V5, "taker");
        b.stall(taker, true);
        b.subscribe_with(taker, "t", SubscriptionOptions::new(Q0), None);
        b.unsubscribe(taker, "t");
        b.stall(taker, false);
        assert_eq!(b.read_all(taker), ["SUBACK 1 [0x00]", "UNSUBACK 2 [0x00]"]);
    }

    fn retained_messages_expire(b: &mut House) {
        let conn = b.client(V5, "a");
        let properties = PublishProperties {
            message_expiry_interval: Some(10),
            ..PublishProperties::default()
        };
        let message = Publish { retain: true, properties, ..publish(Q0, "t", "x") };
        b.send(conn, &Packet::Publish(message));
        b.seconds(4);
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q0);
        assert_eq!(b.read(taker), "PUBLISH t q0 retain expiry=6 \"x\"");
        b.seconds(6);
        assert_eq!((b.stat("retained"), b.stat("retained_expired")), (0, 1));
        b.subscribe(taker, "t", Q0);
        assert_eq!(b.read(taker), "");
    }

    fn no_local_keeps_a_clients_own_retained_messages_from_it(b: &mut House) {
        let conn = b.client(V5, "a");
        b.retain(conn, "t", "own");
        let other = b.client(V5, "other");
        b.retain(other, "u", "other's");
        let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Q0) };
        b.subscribe_with(conn, "#", no_local, None);
        assert_eq!(b.read_all(conn), ["SUBACK 1 [0x00]", "PUBLISH u q0 retain \"other's\""]);
    }

    fn a_full_store_drops_the_old_value_and_counts(b: &mut House) {
        b.set(|settings| settings.retained_messages = 1);
        let live = b.client(V5, "live");
        b.subscribe(live, "#", Q0);
        let conn = b.client(V5, "a");
        b.retain(conn, "t", "one");
        b.retain(conn, "u", "no room");
        assert_eq!(b.read_all(live).len(), 2, "live delivery does not depend on the store");
        assert_eq!((b.stat("retained"), b.stat("retained_refused")), (1, 1));
        b.retain(conn, "t", "two");
        assert_eq!(b.stat("retained_refused"), 1, "replacing needs no room");
        b.set(|settings| settings.retained_bytes = 1000);
        b.retain(conn, "t", &"x".repeat(2000));
        assert_eq!((b.stat("retained"), b.stat("retained_refused")), (0, 2));
        assert_eq!(b.stat("messages"), 0);
    }

    fn takers_of_the_gateway_get_what_is_retained_at_once(b: &mut House) {
        let conn = b.client(V5, "a");
        b.retain(conn, "t", "x");
        let filter = TopicFilter::new("#").unwrap();
        b.broker.subscribe(Taker::Requests, filter, SubscriptionOptions::new(Q1));
        b.turn();
        let delivery = b.deliveries.pop_front().unwrap();
        assert!(delivery.is_replay && delivery.message.retain());
        assert!(matches!(delivery.origin, Origin::Client(_)));
        assert_eq!(&**delivery.message.payload(), b"x");
        b.publish(conn, Q1, "t", "live");
        let delivery = b.deliveries.pop_front().unwrap();
        assert!(!delivery.is_replay && !delivery.message.retain());
        assert!(b.broker.unsubscribe(Taker::Requests, filter));
        b.publish(conn, Q1, "t", "live");
        assert!(b.deliveries.is_empty());
    }
}
