//! Queues at their limits: what gives way, and that it is counted.

use fieldgate::broker::settings::{Level, WhenFull};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{Packet, Publish, PublishProperties, RetainHandling};

use crate::house::*;

/// A session without a connection whose queue takes three messages.
fn absent(b: &mut House, when_full: WhenFull) {
    b.set(|settings| {
        settings.queue.messages = 3;
        settings.queue.when_full = when_full;
    });
    let conn = b.stayer(V5, "absent");
    b.subscribe(conn, "t", Q1);
    b.disconnect(conn);
}

fn publish_five(b: &mut House) -> Vec<String> {
    let conn = b.client(V5, "publisher");
    let mut answers = Vec::new();
    for payload in ["1", "2", "3", "4", "5"] {
        b.publish(conn, Q1, "t", payload);
        answers.push(b.read(conn));
    }
    answers
}

fn come_back(b: &mut House) -> Vec<String> {
    let conn = b.dial(&lasting(V5, "absent"));
    let mut got = b.read_all(conn);
    got.remove(0);
    got.iter()
        .map(|packet| {
            packet
                .rsplit(' ')
                .next()
                .unwrap()
                .trim_matches('"')
                .to_owned()
        })
        .collect()
}

fn stalled(b: &mut House) -> ConnId {
    let conn = b.client(V5, "stalled");
    b.subscribe(conn, "t", Q0);
    b.stall(conn, true);
    conn
}

cases! {
    fn what_is_unacknowledged_has_a_limit_in_bytes(b: &mut House) {
        for qos in [Q1, Q2] {
            b.set(|settings| settings.queue.bytes = 5000);
            let conn = b.client(V4, "a");
            b.subscribe(conn, "t", qos);
            let publisher = b.client(V5, "publisher");
            for number in 1..=7 {
                b.send(publisher, &Packet::Publish(numbered(number, qos, "t", &"x".repeat(1000))));
            }
            let sent = b.read_all(conn).len() as u16;
            assert!((3..=5).contains(&sent), "{sent}: the one that goes over it is the last");
            // Each that is taken makes room for one, whether or not all of it is over.
            for number in 1..=3 {
                if qos == Q1 {
                    b.puback(conn, number);
                } else {
                    b.pubrec(conn, number);
                    assert_eq!(b.read(conn), format!("PUBREL {number}"));
                    if number < 3 {
                        b.pubcomp(conn, number);
                    }
                }
                let more = b.read_all(conn);
                assert_eq!(more.len(), usize::from(sent + number <= 7), "{more:?}");
            }
            b.disconnect(conn);
            b.disconnect(publisher);
        }
    }

    fn drop_newest_keeps_what_waits(b: &mut House) {
        absent(b, WhenFull::DropNewest);
        assert_eq!(publish_five(b), ["PUBACK 1"; 5]);
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (3, 2));
        assert_eq!(come_back(b), ["1", "2", "3"]);
    }

    fn drop_oldest_keeps_what_comes(b: &mut House) {
        absent(b, WhenFull::DropOldest);
        assert_eq!(publish_five(b), ["PUBACK 1"; 5]);
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (3, 2));
        assert_eq!(come_back(b), ["3", "4", "5"]);
    }

    fn refuse_tells_the_publisher_and_reaches_nobody(b: &mut House) {
        absent(b, WhenFull::Refuse);
        let other = b.client(V5, "other");
        b.subscribe(other, "t", Q0);
        assert_eq!(publish_five(b), [
            "PUBACK 1", "PUBACK 1", "PUBACK 1", "PUBACK 1 0x97", "PUBACK 1 0x97",
        ]);
        assert_eq!(b.read_all(other).len(), 3);
        for (qos, payload) in [(Q1, "6"), (Q2, "7")] {
            let conn = b.client(V4, "old");
            b.publish(conn, qos, "t", payload);
            assert_eq!(b.read_all(conn), [""; 0], "3.1.1 cannot be told");
            assert!(!b.is_open(conn), "but it must not believe that all is well");
        }
        assert_eq!(b.read_all(other).len(), 0);
        assert_eq!(b.stat("refused_queue_full"), 4);
        assert_eq!(come_back(b), ["1", "2", "3"]);
    }

    fn refuse_does_not_mind_a_reader_with_room(b: &mut House) {
        b.set(|settings| {
            settings.queue.messages = 0;
            settings.queue.when_full = WhenFull::Refuse;
        });
        let conn = b.client(V5, "reader");
        b.subscribe(conn, "t", Q0);
        assert_eq!(publish_five(b), ["PUBACK 1"; 5]);
        assert_eq!(b.read_all(conn).len(), 5);
    }

    fn disconnect_ends_the_slow_readers_connection_and_keeps_its_session(b: &mut House) {
        b.set(|settings| {
            settings.queue.messages = 3;
            settings.queue.when_full = WhenFull::Disconnect;
            settings.inflight_maximum = 1;
        });
        let conn = b.stayer(V5, "absent");
        b.subscribe(conn, "t", Q1);
        assert_eq!(publish_five(b), ["PUBACK 1"; 5]);
        let got = b.read_all(conn);
        assert_eq!(got, ["PUBLISH t q1 #1 \"1\"", "DISCONNECT 0x97"]);
        assert!(!b.is_open(conn));
        assert_eq!((b.stat("disconnected_queue_full"), b.stat("dropped_queue_full")), (1, 1));
        b.set(|settings| settings.inflight_maximum = 20);
        assert_eq!(come_back(b), ["1", "2", "3", "4"]);
    }

    fn bytes_count_too(b: &mut House) {
        b.set(|settings| settings.queue.bytes = 10_000);
        let conn = b.stayer(V5, "absent");
        b.subscribe(conn, "t", Q1);
        b.disconnect(conn);
        let publisher = b.client(V5, "publisher");
        for _ in 0..5 {
            b.publish(publisher, Q1, "t", &"x".repeat(3000));
        }
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (3, 2));
        assert!(b.stat("queued_bytes") <= 10_000);
    }

    fn all_queues_together_have_a_limit(b: &mut House) {
        for when_full in [WhenFull::DropNewest, WhenFull::DropOldest] {
            b.set(|settings| {
                settings.queues_bytes = 10_000;
                settings.queue.when_full = when_full;
            });
            for name in ["a", "b"] {
                let conn = b.stayer(V5, name);
                b.subscribe(conn, name, Q1);
                b.disconnect(conn);
            }
            let publisher = b.client(V5, "publisher");
            for _ in 0..3 {
                b.publish(publisher, Q1, "a", &"x".repeat(3000));
            }
            b.publish(publisher, Q1, "b", &"x".repeat(3000));
            assert_eq!((b.stat("queued"), b.stat("dropped_over_budget")), (3, 1));
            b.publish(publisher, Q1, "b", "small");
            assert_eq!(b.stat("queued"), 4);
            b.stat("queued_bytes");
            for name in ["a", "b"] {
                let conn = b.client(V5, name);
                b.disconnect(conn);
            }
            *b = House::new(b.fetches > 0);
        }
    }

    fn one_message_larger_than_the_queue_does_not_empty_it(b: &mut House) {
        absent(b, WhenFull::DropOldest);
        b.set(|settings| {
            settings.queue.bytes = 5000;
            settings.queue.when_full = WhenFull::DropOldest;
        });
        let publisher = b.client(V5, "publisher");
        b.publish(publisher, Q1, "t", "small");
        b.publish(publisher, Q1, "t", &"x".repeat(10_000));
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (1, 1));
    }

    fn what_has_expired_gives_way_first(b: &mut House) {
        absent(b, WhenFull::DropNewest);
        let publisher = b.client(V5, "publisher");
        for (expiry, payload) in [(Some(10), "short"), (None, "long"), (Some(20), "middle")] {
            let properties = PublishProperties {
                message_expiry_interval: expiry,
                ..PublishProperties::default()
            };
            let message = Publish { properties, ..publish(Q1, "t", payload) };
            b.send(publisher, &Packet::Publish(message));
        }
        b.seconds(10);
        b.publish(publisher, Q1, "t", "new");
        assert_eq!((b.stat("queued"), b.stat("dropped_expired")), (3, 1));
        b.publish(publisher, Q1, "t", "too many");
        assert_eq!(b.stat("dropped_queue_full"), 1);
        assert_eq!(come_back(b), ["long", "middle", "new"]);
    }

    fn a_slow_reader_at_qos_0_has_references_and_then_the_policy(b: &mut House) {
        b.set(|settings| settings.queue.messages = 10);
        let slow = stalled(b);
        let publisher = b.client(V5, "publisher");
        let payload = "x".repeat(1000);
        for _ in 0..100 {
            b.publish(publisher, Q0, "t", &payload);
        }
        let sent = b.outbox.queue(slow).unwrap().len();
        assert!((60_000..70_000).contains(&sent), "{sent}");
        assert_eq!(b.stat("queued"), 10);
        assert_eq!(b.stat("dropped_queue_full"), 100 - 10 - b.stat("publishes_sent"));
        b.stall(slow, false);
        assert_eq!(b.read_all(slow).len() as u64, b.stat("publishes_sent"));
        assert_eq!((b.stat("queued"), b.stat("messages")), (0, 0));
    }

    fn a_full_subscriber_never_slows_its_publisher(b: &mut House) {
        b.set(|settings| settings.queue.messages = 1);
        let conn = b.client(V4, "both");
        b.subscribe(conn, "t", Q1);
        for _ in 0..100 {
            b.publish(conn, Q1, "t", "to myself");
        }
        let pubacks = b.read_all(conn).iter().filter(|packet| *packet == "PUBACK 1").count();
        assert_eq!(pubacks, 100);
    }

    fn the_memory_budget_limits_what_is_kept_in_memory_alone(b: &mut House) {
        b.set(|settings| settings.durability.default = Level::None);
        let conn = b.stayer(V5, "absent");
        b.subscribe(conn, "t", Q1);
        b.disconnect(conn);
        let publisher = b.client(V5, "publisher");
        let room = b.memory.used() + fieldgate::buffer::CHUNK_SIZE + 10_000;
        b.set(|settings| {
            settings.durability.default = Level::None;
            settings.memory = room;
        });
        for _ in 0..10 {
            b.publish(publisher, Q1, "t", &"x".repeat(1500));
            assert_eq!(b.read(publisher), "PUBACK 1");
        }
        assert!(b.stat("queued") > 0);
        assert!(b.stat("dropped_over_budget") > 0);
        assert_eq!(b.stat("queued") + b.stat("dropped_over_budget"), 10);
        let conn = b.dial(&connect(V5, &"x".repeat(10_000)));
        assert_eq!(b.read(conn), "CONNACK Quota exceeded");
        b.subscribe_with(publisher, &"y".repeat(10_000), options(Q0, RetainHandling::Send), None);
        assert_eq!(b.read(publisher), "SUBACK 1 [0x97]");
        b.set(|settings| settings.durability.default = Level::None);
        b.publish(publisher, Q1, "t", "fits again");
        assert_eq!(come_back(b).last().unwrap(), "again");
    }
}
