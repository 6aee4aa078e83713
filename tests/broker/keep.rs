//! What comes back after a crash, and what may leave only once it is sure to.

use fieldgate::broker::keep::{KeyKind, What};
use fieldgate::broker::settings::{Durability, Level};
use fieldgate::id::Lsn;
use fieldgate::mqtt::{Connect, Packet, Publish};
use fieldgate::time::Duration;

use crate::house::*;

/// A session with this subscription whose client is away, and a publisher.
fn away(b: &mut House, filter: &str, qos: fieldgate::mqtt::QoS) -> fieldgate::id::ConnId {
    let taker = b.stayer(V5, "taker");
    b.subscribe(taker, filter, qos);
    b.disconnect(taker);
    b.client(V5, "publisher")
}

/// Everything that was sent to the taker, once it is back.
fn back(b: &mut House) -> (fieldgate::id::ConnId, Vec<String>) {
    let conn = b.dial(&lasting(V5, "taker"));
    let mut all = b.read_all(conn);
    assert_eq!(all.remove(0), "CONNACK Success present");
    (conn, all)
}

cases! {
    fn a_session_its_subscriptions_and_its_messages_come_back(b: &mut House) {
        let conn = away(b, "t/+", Q1);
        for payload in ["one", "two", "three"] {
            b.publish(conn, Q1, "t/1", payload);
            assert!(b.read(conn).starts_with("PUBACK 1"));
        }
        b.publish(conn, Q1, "elsewhere", "x");
        b.crash(10);
        assert_eq!((b.stat("recovered_sessions"), b.stat("recovered_messages")), (1, 3));
        let (taker, got) = back(b);
        assert_eq!(got, [
            "PUBLISH t/1 q1 #1 dup \"one\"",
            "PUBLISH t/1 q1 #2 dup \"two\"",
            "PUBLISH t/1 q1 #3 dup \"three\"",
        ]);
        let conn = b.client(V5, "publisher");
        b.publish(conn, Q1, "t/2", "four");
        assert_eq!(b.read(taker), "PUBLISH t/2 q1 #4 \"four\"", "it is subscribed");
    }

    fn what_was_acknowledged_does_not_come_back(b: &mut House) {
        let conn = away(b, "t", Q1);
        for payload in ["one", "two", "three"] {
            b.publish(conn, Q1, "t", payload);
        }
        let (taker, _) = back(b);
        b.puback(taker, 1);
        b.puback(taker, 3);
        b.crash(0);
        // What is done with is a mark: the third may come again, as QoS 1 allows.
        let (_, got) = back(b);
        assert_eq!(got, ["PUBLISH t q1 #1 dup \"two\"", "PUBLISH t q1 #2 dup \"three\""]);
    }

    fn a_clean_session_keeps_nothing(b: &mut House) {
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q1);
        let conn = b.client(V4, "publisher");
        b.mark = Some(b.broker.last_lsn());
        b.publish(conn, Q1, "t", "x");
        assert_eq!(b.read(conn), "PUBACK 1", "nobody durable takes it: it waits for nothing");
        assert_eq!(b.read(taker), "PUBLISH t q1 #1 \"x\"");
        assert!(b.ledger.changes().is_empty());
    }

    fn nothing_is_kept_of_qos_0(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q2);
        let conn = b.client(V5, "publisher");
        let before = b.ledger.changes().len();
        b.publish(conn, Q0, "t", "x");
        assert_eq!(b.read(taker), "PUBLISH t q0 \"x\"");
        assert_eq!(b.ledger.changes().len(), before);
    }

    fn an_unsubscribed_filter_does_not_come_back(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        for filter in ["a", "b/#", "+/c", "$share/g/d"] {
            b.subscribe(taker, filter, Q1);
        }
        for filter in ["a", "$share/g/d"] {
            b.unsubscribe(taker, filter);
        }
        b.crash(0);
        assert_eq!(b.stat("subscriptions"), 2);
        let (taker, _) = back(b);
        let conn = b.client(V5, "publisher");
        for topic in ["a", "b", "d", "x/c"] {
            b.publish(conn, Q0, topic, "x");
        }
        assert_eq!(b.read_all(taker), ["PUBLISH b q0 \"x\"", "PUBLISH x/c q0 \"x\""]);
    }

    fn a_subscription_comes_back_as_it_was(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        let mut options = options(Q1, fieldgate::mqtt::RetainHandling::DoNotSend);
        options.retain_as_published = true;
        options.no_local = true;
        b.subscribe_with(taker, "t", options, Some(7));
        b.crash(0);
        let (taker, _) = back(b);
        b.publish(taker, Q1, "t", "own");
        assert_eq!(b.read_all(taker), ["PUBACK 1 0x10"]);
        let conn = b.client(V5, "publisher");
        b.retain(conn, "t", "kept");
        assert_eq!(b.read_all(taker), ["PUBLISH t q0 retain by=[7] \"kept\""]);
    }

    fn sessions_expire_by_the_wall_clock_while_nobody_runs(b: &mut House) {
        let dial = |b: &mut House, name: &'static str, seconds| {
            let mut connect = lasting(V5, name);
            connect.properties.session_expiry_interval = Some(seconds);
            b.join(&connect)
        };
        let short = dial(b, "short", 60);
        b.disconnect(short);
        let long = dial(b, "long", 6000);
        b.disconnect(long);
        dial(b, "busy", 60);
        b.crash(61);
        assert_eq!(b.stat("recovered_sessions"), 3);
        // The time of one that was connected runs from now.
        b.seconds(1);
        assert_eq!((b.stat("sessions"), b.stat("expired_sessions")), (2, 1));
        b.seconds(60);
        assert_eq!(b.stat("sessions"), 1, "and is over a minute later");
        b.crash(0);
        assert_eq!(b.stat("sessions"), 1, "an end is kept too");
    }

    fn a_clock_that_is_not_set_ends_nothing(b: &mut House) {
        let mut connect = lasting(V5, "a");
        connect.properties.session_expiry_interval = Some(60);
        let conn = b.join(&connect);
        b.disconnect(conn);
        b.now.wall = fieldgate::time::WallTime::from_unix_millis(0);
        b.crash(100);
        assert_eq!(b.stat("sessions"), 1, "nobody knows how long it was");
        b.seconds(59);
        assert_eq!(b.stat("sessions"), 1, "its time runs from the start");
        b.seconds(2);
        assert_eq!(b.stat("sessions"), 0);
    }

    fn a_clean_start_ends_what_was_kept(b: &mut House) {
        let conn = away(b, "t", Q1);
        b.publish(conn, Q1, "t", "x");
        let again = b.dial(&Connect { clean_start: true, ..lasting(V5, "taker") });
        assert_eq!(b.read(again), "CONNACK Success");
        b.crash(0);
        assert_eq!((b.stat("sessions"), b.stat("subscriptions"), b.stat("queued")), (1, 0, 0));
    }

    fn an_end_leaves_nothing_behind(b: &mut House) {
        let conn = b.stayer(V5, "publisher");
        b.subscribe(conn, "a", Q1);
        b.subscribe(conn, "$share/g/b", Q2);
        for (number, topic) in [(1, "a"), (2, "b")] {
            b.send(conn, &Packet::Publish(numbered(number, Q2, topic, "x")));
        }
        let all = b.read_all(conn);
        assert_eq!(all.len(), 4, "{all:?}");
        let bye = b.dial(&connect(V5, "publisher"));
        assert_eq!(b.read(bye), "CONNACK Success");
        assert_eq!(b.ledger.live(), (0, 0), "no key, no entry");
        b.crash(0);
        assert_eq!(b.stat("sessions"), 0);
    }

    fn what_is_kept_for_a_taker_is_kept_as_retained_with_it(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q1);
        b.disconnect(taker);
        let reading = |payload| Publish { retain: true, ..publish(Q1, "t", payload) };
        b.say(fieldgate::broker::Origin::Field, &reading("1"));
        b.turn();
        let last = b.ledger.changes().last().cloned();
        let Some(What::Record { targets, .. }) = last.map(|change| change.what) else {
            panic!("it is kept at once");
        };
        assert_eq!(targets.len(), 2, "in one record: {targets:?}");
        let records = b.ledger.changes().len();
        b.seconds(2);
        assert_eq!(b.ledger.changes().len(), records, "and not once more");
        // If that record is not taken, it is kept by itself.
        b.refuses = Some(|change| matches!(&change.what, What::Record { targets, .. } if targets.len() == 2));
        b.say(fieldgate::broker::Origin::Field, &reading("2"));
        b.turn();
        b.refuses = None;
        b.seconds(2);
        b.crash(0);
        let other = b.client(V5, "other");
        b.subscribe(other, "t", Q1);
        assert_eq!(b.read(other), "PUBLISH t q1 #1 retain \"2\"");
    }

    fn retained_messages_come_back(b: &mut House) {
        let conn = b.client(V5, "publisher");
        b.retain(conn, "a", "one");
        b.retain(conn, "b", "one");
        b.retain(conn, "c", "one");
        b.retain(conn, "$odd", "one");
        b.seconds(1);
        b.retain(conn, "a", "two");
        b.retain(conn, "b", "");
        b.seconds(1);
        b.retain(conn, "c", "too late");
        b.crash(0);
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "#", Q0);
        assert_eq!(b.read_all(taker), [
            "PUBLISH a q0 retain \"two\"",
            "PUBLISH c q0 retain \"one\"",
        ]);
        // And go on under their names.
        let conn = b.client(V5, "publisher");
        b.retain(conn, "a", "");
        b.retain(conn, "d", "new");
        b.seconds(1);
        b.crash(0);
        assert_eq!((b.stat("retained"), b.ledger.live()), (2, (2, 0)));
    }

    fn a_retained_value_that_changes_often_is_kept_once_in_a_while(b: &mut House) {
        let conn = b.client(V5, "publisher");
        for round in 0..10 {
            for value in 0..100 {
                let topic = format!("t/{}", value % 2);
                b.retain(conn, &topic, &format!("{round} {value}"));
            }
            b.seconds(1);
        }
        assert_eq!(b.ledger.changes().len(), 20);
    }

    fn of_two_sessions_of_one_client_the_later_one_stays(b: &mut House) {
        for is_in_order in [true, false] {
            let first = b.join(&Connect { clean_start: true, ..lasting(V5, "taker") });
            b.subscribe(first, "t", Q2);
            b.disconnect(first);
            let second = b.join(&Connect { clean_start: true, ..lasting(V5, "taker") });
            b.subscribe(second, "u", Q1);
            b.disconnect(second);
            b.turn();
            b.ledger.lose_ends();
            b.ledger.is_in_order = is_in_order;
            b.crash(0);
            assert_eq!((b.stat("sessions"), b.stat("subscriptions")), (1, 1));
            let conn = b.client(V5, "publisher");
            b.publish(conn, Q1, "t", "x");
            b.publish(conn, Q1, "u", "y");
            assert_eq!(back(b).1, ["PUBLISH u q1 #1 \"y\""]);
        }
    }

    fn a_retained_value_that_was_not_kept_is_kept_when_there_is_room(b: &mut House) {
        let conn = b.client(V5, "publisher");
        b.retain(conn, "t", "1");
        b.seconds(1);
        assert_eq!(b.ledger.changes().len(), 1);
        let lsn = b.broker.last_lsn();
        b.refuse(lsn);
        let House { broker, outbox, now, .. } = b;
        broker.handle_journal_room(*now, false, outbox);
        b.retain(conn, "u", "2");
        b.seconds(5);
        assert_eq!(b.ledger.changes().len(), 1, "there is none");
        let House { broker, outbox, now, .. } = b;
        broker.handle_journal_room(*now, true, outbox);
        b.seconds(1);
        assert_eq!(b.ledger.changes().len(), 3);
        b.crash(0);
        assert_eq!(b.stat("retained"), 2);
    }

    fn who_publishes_a_retained_message_at_qos_1_waits_for_it(b: &mut House) {
        let conn = b.client(V4, "publisher");
        b.mark = Some(b.broker.last_lsn());
        b.send(conn, &Packet::Publish(Publish { retain: true, ..numbered(1, Q1, "t", "x") }));
        assert_eq!(b.read(conn), "");
        b.mark = None;
        b.turn();
        assert_eq!(b.read(conn), "PUBACK 1");
        b.mark = Some(b.broker.last_lsn());
        b.send(conn, &Packet::Publish(Publish { retain: true, ..numbered(2, Q1, "t", "") }));
        assert_eq!(b.read(conn), "");
        b.crash(0);
        assert_eq!(b.stat("retained"), 1, "nobody was told that it is gone");
    }

    fn a_qos_2_message_that_was_taken_is_not_taken_again(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q2);
        b.disconnect(taker);
        let conn = b.stayer(V5, "publisher");
        b.send(conn, &Packet::Publish(numbered(9, Q2, "t", "x")));
        assert_eq!(b.read(conn), "PUBREC 9");
        b.crash(0);
        let conn = b.dial(&lasting(V5, "publisher"));
        b.send(conn, &Packet::Publish(Publish { dup: true, ..numbered(9, Q2, "t", "x") }));
        assert_eq!(b.read_all(conn), ["CONNACK Success present", "PUBREC 9"]);
        b.pubrel(conn, 9);
        assert_eq!(b.read(conn), "PUBCOMP 9");
        b.crash(0);
        let conn = b.dial(&lasting(V5, "publisher"));
        b.pubrel(conn, 9);
        assert_eq!(b.read_all(conn), ["CONNACK Success present", "PUBCOMP 9 0x92"]);
        let (_, got) = back(b);
        assert_eq!(got, ["PUBLISH t q2 #1 \"x\""]);
    }

    fn pubrec_and_the_delivery_to_anybody_wait_for_the_sync(b: &mut House) {
        let (at_0, at_1) = (b.client(V5, "at 0"), b.client(V5, "at 1"));
        b.subscribe(at_0, "t", Q0);
        b.subscribe(at_1, "t", Q1);
        let conn = b.stayer(V5, "publisher");
        b.mark = Some(b.broker.last_lsn());
        b.send(conn, &Packet::Publish(numbered(9, Q2, "t", "x")));
        b.publish(conn, Q0, "t", "behind it");
        for who in [conn, at_0, at_1] {
            assert_eq!(b.read(who), "");
        }
        b.mark = None;
        b.turn();
        assert_eq!(b.read(conn), "PUBREC 9");
        let held = "PUBLISH t q0 \"x\"";
        assert_eq!(b.read_all(at_0), [held, "PUBLISH t q0 \"behind it\""]);
        assert_eq!(b.read_all(at_1), ["PUBLISH t q1 #1 \"x\"", "PUBLISH t q0 \"behind it\""]);
        assert_eq!(b.broker.held(), 0);
    }

    fn each_step_of_qos_2_to_a_client_waits_for_its_sync(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q2);
        let conn = b.client(V5, "publisher");
        b.mark = Some(b.broker.last_lsn());
        b.publish(conn, Q2, "t", "x");
        // The sender is nobody who comes back, so the message itself waits for nothing.
        assert_eq!(b.read(taker), "", "its identifier is not synced");
        b.mark = Some(b.broker.last_lsn());
        b.turn();
        assert_eq!(b.read(taker), "PUBLISH t q2 #1 \"x\"");
        b.pubrec(taker, 1);
        assert_eq!(b.read(taker), "");
        b.mark = None;
        b.turn();
        assert_eq!(b.read(taker), "PUBREL 1");
    }

    fn qos_2_goes_on_where_it_was(b: &mut House) {
        let conn = away(b, "t", Q2);
        for payload in ["one", "two", "three", "four"] {
            b.publish(conn, Q1, "t", payload);
        }
        for payload in ["five", "six", "seven"] {
            b.publish(conn, Q2, "t", payload);
            b.turn_and_release(conn, Q2);
        }
        b.read_all(conn);
        let (taker, got) = back(b);
        assert_eq!(got.len(), 7);
        // Of four at QoS 1 the last two are acknowledged, of three at QoS 2 each is elsewhere.
        b.puback(taker, 3);
        b.puback(taker, 4);
        b.pubrec(taker, 6);
        b.pubrec(taker, 7);
        b.pubcomp(taker, 7);
        b.crash(0);
        let (taker, got) = back(b);
        assert_eq!(got, [
            "PUBLISH t q2 #5 dup \"five\"",
            "PUBREL 6",
            "PUBLISH t q1 #7 dup \"one\"",
            "PUBLISH t q1 #8 dup \"two\"",
            "PUBLISH t q1 #9 dup \"three\"",
            "PUBLISH t q1 #10 dup \"four\"",
        ], "and of the seventh nothing");
        for number in 7..=10 {
            b.puback(taker, number);
        }
        b.pubrec(taker, 5);
        b.pubcomp(taker, 5);
        b.pubcomp(taker, 6);
        b.read_all(taker);
        let sent = |b: &House| b.ledger.live();
        // The session, its subscription.
        assert_eq!(sent(b), (2, 0));
        b.crash(0);
        assert_eq!(back(b).1, Vec::<String>::new());
    }

    fn an_unsynced_step_has_not_happened(b: &mut House) {
        let conn = away(b, "t", Q1);
        b.publish(conn, Q1, "t", "synced");
        let synced = b.broker.last_lsn();
        b.mark = Some(synced);
        b.publish(conn, Q1, "t", "not synced");
        assert_eq!(b.read_all(conn), ["PUBACK 1"]);
        b.crash(0);
        assert_eq!(back(b).1, ["PUBLISH t q1 #1 dup \"synced\""]);
    }

    fn suback_and_unsuback_and_connack_wait(b: &mut House) {
        b.mark = Some(b.broker.last_lsn());
        let conn = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read(conn), "");
        b.mark = None;
        b.turn();
        assert_eq!(b.read(conn), "CONNACK Success");
        b.mark = Some(b.broker.last_lsn());
        b.subscribe_with(conn, "t", options(Q1, fieldgate::mqtt::RetainHandling::Send), None);
        assert_eq!(b.read(conn), "");
        b.mark = None;
        b.turn();
        assert_eq!(b.read(conn), "SUBACK 1 [0x01]");
        b.mark = Some(b.broker.last_lsn());
        b.unsubscribe(conn, "t");
        assert_eq!(b.read(conn), "");
        b.crash(0);
        assert_eq!(b.stat("subscriptions"), 1);
    }

    fn a_topic_without_durability_is_not_kept(b: &mut House) {
        b.set(|settings| settings.durability = Durability {
            default: Level::Strict,
            rules: vec![
                ("raw/#".into(), Level::None),
                ("log/#".into(), Level::Interval(Duration::from_secs(2))),
            ],
        });
        let conn = away(b, "#", Q2);
        b.mark = Some(b.broker.last_lsn());
        let count = b.ledger.changes().len();
        b.publish(conn, Q1, "raw/1", "x");
        assert_eq!(b.read(conn), "PUBACK 1", "at once");
        assert_eq!(b.ledger.changes().len(), count);
        b.publish(conn, Q1, "log/1", "x");
        assert_eq!(b.read(conn), "PUBACK 1", "at once");
        let last = b.ledger.changes().last().expect("one");
        assert_eq!(last.level, Some(Level::Interval(Duration::from_secs(2))));
        b.publish(conn, Q1, "strict", "x");
        assert_eq!(b.read(conn), "");
        b.mark = None;
        b.turn();
        assert_eq!(b.read(conn), "PUBACK 1");
        b.crash(0);
        assert_eq!(back(b).1, [
            "PUBLISH log/1 q1 #1 dup \"x\"",
            "PUBLISH strict q1 #2 dup \"x\"",
        ]);
    }

    fn a_group_keeps_its_messages_through_all(b: &mut House) {
        for name in ["one", "two"] {
            let member = b.stayer(V5, name);
            b.subscribe(member, "$share/g/t", Q1);
            b.disconnect(member);
        }
        let conn = b.client(V5, "publisher");
        for payload in ["1", "2", "3", "4"] {
            b.publish(conn, Q1, "t", payload);
        }
        b.crash(0);
        assert_eq!(b.stat("queued"), 4);
        // One leaves for good: its messages are the other's, also after another crash.
        let leaver = b.dial(&Connect { clean_start: true, ..lasting(V5, "one") });
        b.read_all(leaver);
        b.crash(0);
        assert_eq!(b.stat("queued"), 4);
        let other = b.dial(&lasting(V5, "two"));
        let got = b.read_all(other);
        assert_eq!(got.len(), 5, "{got:?}");
    }

    fn messages_expire_while_nobody_runs(b: &mut House) {
        let conn = away(b, "t", Q1);
        for expiry in [10, 100] {
            let mut message = numbered(1, Q1, "t", "x");
            message.properties.message_expiry_interval = Some(expiry);
            b.send(conn, &Packet::Publish(message));
        }
        b.crash(50);
        assert_eq!(back(b).1, ["PUBLISH t q1 #1 dup expiry=50 \"x\""]);
        assert_eq!(b.stat("dropped_expired"), 1);
    }

    fn who_waits_for_what_is_not_kept_is_let_go_without_an_answer(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "t", Q1);
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q2);
        b.disconnect(taker);
        let conn = b.stayer(V5, "publisher");
        let other = b.client(V5, "other");
        b.mark = Some(b.broker.last_lsn());
        b.send(conn, &Packet::Publish(numbered(9, Q2, "t", "x")));
        let lsn = b.broker.last_lsn();
        b.refuse(lsn);
        b.mark = None;
        b.turn();
        assert!(!b.is_open(conn));
        assert_eq!(b.read(conn), "");
        assert_eq!((b.stat("unkept"), b.stat("disconnected_unkept")), (1, 1));
        assert_eq!(b.read(watcher), "", "nobody has got it");
        b.publish(other, Q1, "t", "next");
        assert_eq!(b.read(watcher), "PUBLISH t q1 #1 \"next\"");
        // And comes with it again.
        let conn = b.dial(&lasting(V5, "publisher"));
        b.send(conn, &Packet::Publish(Publish { dup: true, ..numbered(9, Q2, "t", "x") }));
        assert_eq!(b.read_all(conn), ["CONNACK Success present", "PUBREC 9"]);
        assert_eq!(b.read(watcher), "PUBLISH t q1 #2 \"x\"");
        assert_eq!(back(b).1.len(), 2);
    }

    fn a_step_that_was_not_kept_is_kept_when_its_client_is_back(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q2);
        let conn = b.client(V5, "publisher");
        for payload in ["one", "two"] {
            b.publish(conn, Q2, "t", payload);
            b.turn_and_release(conn, Q2);
        }
        assert_eq!(b.read_all(taker).len(), 2);
        b.mark = Some(b.broker.last_lsn());
        let lsn = Lsn(b.broker.last_lsn().0 + 1);
        b.pubrec(taker, 2);
        b.refuse(lsn);
        b.mark = None;
        b.turn();
        assert!(!b.is_open(taker));
        let expected = ["PUBLISH t q2 #1 dup \"one\"", "PUBREL 2"];
        assert_eq!(back(b).1, expected);
        b.crash(0);
        assert_eq!(back(b).1, expected, "the first is not over, so the second must be known");
    }

    fn what_is_not_kept_may_have_been_replaced_already(b: &mut House) {
        let conn = b.stayer(V5, "publisher");
        b.mark = Some(b.broker.last_lsn());
        b.send(conn, &Packet::Publish(Publish { retain: true, ..numbered(1, Q2, "t", "x") }));
        let lsn = b.broker.last_lsn();
        b.send(conn, &Packet::Publish(Publish { retain: true, ..numbered(2, Q2, "t", "") }));
        b.refuse(lsn);
        b.mark = None;
        b.turn();
        assert!(!b.is_open(conn));
        assert_eq!((b.stat("retained"), b.broker.held()), (0, 0));
    }

    fn a_step_that_is_not_kept_is_tried_again(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q2);
        let conn = b.client(V5, "publisher");
        b.mark = Some(b.broker.last_lsn());
        b.publish(conn, Q2, "t", "x");
        let lsn = b.broker.last_lsn();
        b.refuse(lsn);
        assert_eq!(b.read(taker), "");
        b.mark = None;
        b.turn();
        assert_eq!(b.read(taker), "PUBLISH t q2 #2 \"x\"");
        // While the journal is full it is tried once, for that may have room for such a step.
        let House { broker, outbox, now, .. } = b;
        broker.handle_journal_room(*now, false, outbox);
        b.mark = Some(b.broker.last_lsn());
        b.send(conn, &Packet::Publish(numbered(2, Q2, "t", "y")));
        let lsn = b.broker.last_lsn();
        b.refuse(lsn);
        b.mark = None;
        b.turn();
        assert_eq!(b.read(taker), "");
        let House { broker, outbox, now, .. } = b;
        broker.handle_journal_room(*now, true, outbox);
        b.turn();
        assert_eq!(b.read(taker), "PUBLISH t q2 #4 \"y\"");
    }

    fn a_session_that_stays_after_all_is_kept_with_what_it_has(b: &mut House) {
        let mut brief = lasting(V5, "taker");
        brief.properties.session_expiry_interval = Some(0);
        let taker = b.join(&brief);
        b.subscribe(taker, "t", Q1);
        b.subscribe(taker, "$share/g/s", Q1);
        b.stall(taker, true);
        let conn = b.client(V5, "publisher");
        b.publish(conn, Q1, "t", "x");
        // A second connection takes over before the first has ended.
        let taker = b.dial(&lasting(V5, "taker"));
        b.read_all(taker);
        b.crash(0);
        // The first one's session ended with it [MQTT-4.1.0-2].
        assert_eq!((b.stat("sessions"), b.stat("subscriptions")), (1, 0));
    }

    fn a_shorter_expiry_at_the_end_is_kept(b: &mut House) {
        let conn = b.stayer(V5, "a");
        let mut bye = fieldgate::mqtt::Disconnect::new(fieldgate::mqtt::ReasonCode::Success);
        bye.properties.session_expiry_interval = Some(5);
        b.send(conn, &Packet::Disconnect(bye));
        b.crash(6);
        b.seconds(1);
        assert_eq!(b.stat("sessions"), 0);
    }

    fn bytes_that_are_no_records_are_counted_and_let_go(b: &mut House) {
        let conn = away(b, "t", Q1);
        b.publish(conn, Q1, "t", "x");
        b.retain(conn, "r", "x");
        b.seconds(1);
        let spoilt = b.ledger.spoil();
        assert!(spoilt >= 4);
        b.crash(0);
        assert!(b.stat("unrecovered") > 0);
        assert_eq!((b.stat("sessions"), b.stat("retained"), b.stat("queued")), (0, 0, 0));
        let is_gone = |kind| {
            b.ledger.changes().iter().any(|change| {
                matches!(change.what, What::Delete(key) if key.kind == kind)
            })
        };
        assert!(is_gone(KeyKind::Session), "and is not there for ever");
        assert!(b.broker.last_lsn() > Lsn(0));
    }
}
