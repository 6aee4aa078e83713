//! Shared subscriptions: whose turn it is, and what becomes of the messages of a member that is
//! slow, lost or gone.

use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, QoS, ReasonCode, ReceiveMaximum, SubscriptionOptions,
};

use crate::house::*;

const JOBS: &str = "$share/workers/jobs/#";

fn worker(b: &mut House, name: &str, qos: QoS) -> ConnId {
    let conn = b.stayer(V5, name);
    b.subscribe(conn, JOBS, qos);
    conn
}

/// A worker that takes so many messages at once.
fn narrow(b: &mut House, name: &str, window: u16) -> ConnId {
    let lasting = lasting(V5, name);
    let conn = b.join(&Connect {
        properties: ConnectProperties {
            receive_maximum: ReceiveMaximum::new(window),
            ..lasting.properties
        },
        ..lasting
    });
    b.subscribe(conn, JOBS, Q2);
    conn
}

/// Publishes `jobs/FIRST` and so on, in one go.
fn publish_jobs(b: &mut House, publisher: ConnId, qos: QoS, numbers: core::ops::Range<u16>) {
    for number in numbers {
        let topic = format!("jobs/{number}");
        let job = publish(qos, &topic, "");
        let job = if qos > Q0 {
            numbered(number + 1, qos, &topic, "")
        } else {
            job
        };
        b.push(publisher, &Packet::Publish(job));
    }
    b.turn();
}

fn topics(b: &mut House, conn: ConnId) -> Vec<String> {
    let all = b.read_all(conn);
    let word = |line: &String| line.split(' ').nth(1).unwrap_or_default().to_owned();
    all.iter()
        .filter(|line| line.starts_with("PUBLISH"))
        .map(word)
        .collect()
}

cases! {
    fn members_take_turns_in_every_version_and_at_every_qos(b: &mut House) {
        let conns: Vec<_> = [(V4, "a"), (V5, "b"), (V4, "c")]
            .map(|(version, name)| b.stayer(version, name))
            .to_vec();
        for conn in &conns {
            b.subscribe(*conn, JOBS, Q2);
        }
        let publisher = b.client(V5, "publisher");
        for qos in [Q0, Q1, Q2] {
            publish_jobs(b, publisher, qos, 0..6);
            let taken: Vec<_> = conns.iter().map(|conn| topics(b, *conn)).collect();
            assert!(taken.iter().all(|jobs| jobs.len() == 2), "{taken:?}");
            let mut all = taken.concat();
            all.sort();
            assert_eq!(all, ["jobs/0", "jobs/1", "jobs/2", "jobs/3", "jobs/4", "jobs/5"]);
            b.read_all(publisher);
            if qos == Q2 {
                break;
            }
            for conn in &conns {
                for number in 1..=2 {
                    b.puback(*conn, number);
                }
            }
        }
        assert_eq!((b.stat("subscriptions"), b.stat("dropped_shared")), (3, 0));
    }

    fn each_group_and_each_plain_subscription_gets_its_own_copy(b: &mut House) {
        let conn = b.client(V5, "a");
        for (filter, identifier) in [(JOBS, 1), ("$share/others/jobs/+", 2), ("jobs/1", 3)] {
            b.subscribe_with(conn, filter, SubscriptionOptions::new(Q0), Some(identifier));
            b.read(conn);
        }
        let publisher = b.client(V4, "publisher");
        b.publish(publisher, Q0, "jobs/1", "x");
        let mut copies = b.read_all(conn);
        copies.sort();
        assert_eq!(copies, [
            "PUBLISH jobs/1 q0 by=[1] \"x\"",
            "PUBLISH jobs/1 q0 by=[2] \"x\"",
            "PUBLISH jobs/1 q0 by=[3] \"x\"",
        ]);
    }

    fn nothing_retained_comes_with_a_share(b: &mut House) {
        let publisher = b.client(V4, "publisher");
        b.retain(publisher, "jobs/1", "old");
        let worker = worker(b, "a", Q1);
        assert_eq!(b.read(worker), "");
    }

    fn a_member_gets_its_own_qos_and_its_own_retain_flag(b: &mut House) {
        let low = worker(b, "low", Q0);
        let high = b.stayer(V5, "high");
        let options = SubscriptionOptions {
            retain_as_published: true,
            ..SubscriptionOptions::new(Q2)
        };
        b.subscribe_with(high, JOBS, options, None);
        b.read(high);
        let publisher = b.client(V5, "publisher");
        for number in 1..=2 {
            let job = fieldgate::mqtt::Publish {
                retain: true,
                ..numbered(number, Q1, "jobs/1", "x")
            };
            b.send(publisher, &Packet::Publish(job));
        }
        assert_eq!(b.read_all(low), ["PUBLISH jobs/1 q0 \"x\""]);
        assert_eq!(b.read_all(high), ["PUBLISH jobs/1 q1 #1 retain \"x\""]);
    }

    fn a_member_whose_window_is_full_is_passed_over(b: &mut House) {
        let slow = narrow(b, "slow", 1);
        let quick = narrow(b, "quick", 20);
        let publisher = b.client(V5, "publisher");
        publish_jobs(b, publisher, Q1, 0..8);
        assert_eq!(topics(b, slow).len(), 1);
        assert_eq!(topics(b, quick).len(), 7);
        b.puback(slow, 1);
        publish_jobs(b, publisher, Q1, 8..10);
        assert_eq!(topics(b, slow).len(), 1, "it is free again");
    }

    fn a_lost_member_leaves_its_unsent_messages_to_one_that_is_there(b: &mut House) {
        let slow = narrow(b, "slow", 1);
        let publisher = b.client(V5, "publisher");
        publish_jobs(b, publisher, Q1, 0..4);
        assert_eq!(topics(b, slow), ["jobs/0"]);
        let other = worker(b, "other", Q1);
        assert_eq!(b.read(other), "", "they wait for the one that was there");
        b.drop_conn(slow);
        assert_eq!(topics(b, other), ["jobs/1", "jobs/2", "jobs/3"]);
        let slow = b.stayer(V5, "slow");
        assert_eq!(b.read_all(slow), ["PUBLISH jobs/0 q1 #1 dup \"\""], "what was sent is its own");
    }

    fn messages_wait_for_a_member_if_all_are_away(b: &mut House) {
        let worker = worker(b, "a", Q1);
        b.drop_conn(worker);
        let publisher = b.client(V5, "publisher");
        publish_jobs(b, publisher, Q1, 0..2);
        publish_jobs(b, publisher, Q0, 2..3);
        assert_eq!(b.stat("dropped_shared"), 1, "QoS 0 waits for nobody");
        let worker = b.stayer(V5, "a");
        assert_eq!(topics(b, worker), ["jobs/0", "jobs/1"]);
    }

    fn a_session_that_ends_leaves_everything_but_qos_2_under_way(b: &mut House) {
        let gone = narrow(b, "gone", 2);
        let publisher = b.client(V5, "publisher");
        publish_jobs(b, publisher, Q1, 0..1);
        publish_jobs(b, publisher, Q2, 1..4);
        assert_eq!(topics(b, gone), ["jobs/0", "jobs/1"]);
        let other = worker(b, "other", Q2);
        b.drop_conn(gone);
        assert_eq!(topics(b, other), ["jobs/2", "jobs/3"]);
        b.seconds(3601);
        assert_eq!(b.read_all(other), ["PUBLISH jobs/0 q1 #3 \"\""], "sent to it the first time");
    }

    fn whoever_unsubscribes_leaves_what_it_was_not_sent(b: &mut House) {
        let slow = narrow(b, "slow", 1);
        let publisher = b.client(V5, "publisher");
        publish_jobs(b, publisher, Q1, 0..3);
        assert_eq!(topics(b, slow), ["jobs/0"]);
        let other = worker(b, "other", Q1);
        b.unsubscribe(slow, JOBS);
        assert_eq!(b.read(slow), "UNSUBACK 2 [0x00]");
        b.unsubscribe(slow, JOBS);
        assert_eq!(b.read(slow), "UNSUBACK 2 [0x11]");
        assert_eq!(topics(b, other), ["jobs/1", "jobs/2"]);
        b.unsubscribe(other, JOBS);
        publish_jobs(b, publisher, Q1, 3..4);
        assert_eq!((b.read_all(slow).len(), b.stat("subscriptions")), (0, 0));
    }

    fn what_a_member_refuses_goes_to_nobody_else(b: &mut House) {
        let one = worker(b, "one", Q1);
        let two = worker(b, "two", Q1);
        let publisher = b.client(V5, "publisher");
        publish_jobs(b, publisher, Q1, 0..1);
        let (taker, other) = if topics(b, one).is_empty() { (two, one) } else { (one, two) };
        let refused = Ack::new(id(1), ReasonCode::UnspecifiedError);
        b.send(taker, &Packet::Puback(refused));
        b.drop_conn(taker);
        b.seconds(3601);
        assert_eq!(b.read(other), "");
    }

    fn subscribing_again_changes_the_membership(b: &mut House) {
        let worker = worker(b, "a", Q2);
        b.subscribe(worker, JOBS, Q0);
        let publisher = b.client(V5, "publisher");
        b.publish(publisher, Q1, "jobs/1", "x");
        assert_eq!(b.read_all(worker), ["PUBLISH jobs/1 q0 \"x\""]);
        assert_eq!(b.stat("subscriptions"), 1);
    }

    fn memberships_count_against_the_clients_subscriptions(b: &mut House) {
        b.set(|settings| settings.max_subscriptions = 2);
        let conn = b.client(V5, "a");
        b.subscribe(conn, JOBS, Q0);
        b.subscribe(conn, "x", Q0);
        b.subscribe_with(conn, "$share/g/y", SubscriptionOptions::new(Q0), None);
        assert_eq!(b.read(conn), "SUBACK 1 [0x97]");
        b.subscribe(conn, JOBS, Q1);
    }

    fn nothing_is_left_of_groups_without_members(b: &mut House) {
        let before = b.memory.used();
        for name in ["a", "b", "c"] {
            worker(b, name, Q1);
        }
        let publisher = b.client(V5, "publisher");
        publish_jobs(b, publisher, Q1, 0..50);
        for name in ["a", "b", "c"] {
            let conn = b.client(V5, name);
            b.disconnect(conn);
        }
        b.disconnect(publisher);
        assert_eq!((b.stat("sessions"), b.stat("subscriptions")), (0, 0));
        assert_eq!((b.stat("messages"), b.memory.used()), (0, before));
    }
}
