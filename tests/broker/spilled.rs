//! What waits for a session in the journal alone: how much, in which order, and until when.

use fieldgate::broker::WINDOW;
use fieldgate::broker::keep::{Change, Key, KeyKind, Target, What};
use fieldgate::broker::settings::{Effect, Level, Order, Rules, WhenFull};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{Connect, Packet, Publish, PublishProperties, QoS, ReceiveMaximum};
use fieldgate::time::Duration;

use crate::house::*;

/// A session with this subscription whose client is away, and a publisher.
fn away(b: &mut House, qos: QoS) -> ConnId {
    let taker = b.stayer(V5, "taker");
    b.subscribe(taker, "t", qos);
    b.disconnect(taker);
    b.client(V5, "publisher")
}

fn publish_all(b: &mut House, conn: ConnId, qos: QoS, payloads: core::ops::Range<u32>) {
    for payload in payloads {
        b.publish(conn, qos, "t", &payload.to_string());
        b.turn_and_release(conn, qos);
    }
}

/// The taker with room for so many unacknowledged publications.
fn come(b: &mut House, receive_maximum: u16) -> ConnId {
    come_as(b, "taker", receive_maximum)
}

fn come_as(b: &mut House, client_id: &str, receive_maximum: u16) -> ConnId {
    let mut connect = lasting(V5, client_id);
    connect.properties.receive_maximum = ReceiveMaximum::new(receive_maximum);
    let conn = b.dial(&connect);
    assert_eq!(b.read(conn), "CONNACK Success present");
    conn
}

/// Another member of the group for which `taker`, who is away, has 600 messages, and one that is its
/// own.
fn heir(b: &mut House, qos: QoS) -> ConnId {
    let one = b.stayer(V5, "taker");
    b.subscribe(one, "$share/g/t", qos);
    b.subscribe(one, "u", Q1);
    b.disconnect(one);
    let conn = b.client(V5, "publisher");
    publish_all(b, conn, qos, 0..600);
    b.publish(conn, Q1, "u", "1000");
    b.turn_and_release(conn, Q1);
    let other = b.stayer(V5, "other");
    b.subscribe(other, "$share/g/t", qos);
    other
}

/// Number and payload of a PUBLISH, and whether it says DUP.
fn parts(packet: &str) -> Option<(u16, u32, bool)> {
    let mut words = packet.strip_prefix("PUBLISH ")?.split(' ');
    let number = words.clone().find_map(|word| word.strip_prefix('#'));
    let payload = words.next_back()?.trim_matches('"');
    Some((
        number.map_or(0, |number| number.parse().expect("a number")),
        payload.parse().expect("a number"),
        packet.contains(" dup "),
    ))
}

/// Reads and acknowledges until nothing comes: the payloads.
fn drain(b: &mut House, conn: ConnId) -> Vec<u32> {
    let mut all = Vec::new();
    loop {
        let packets = b.read_all(conn);
        if packets.is_empty() {
            return all;
        }
        for packet in packets {
            if let Some((number, payload, _)) = parts(&packet) {
                all.push(payload);
                if packet.contains(" q1 ") {
                    b.puback(conn, number);
                } else if packet.contains(" q2 ") {
                    b.pubrec(conn, number);
                }
            } else if let Some(rest) = packet.strip_prefix("PUBREL ") {
                b.pubcomp(conn, rest.parse().expect("a number"));
            } else {
                panic!("{packet}");
            }
        }
    }
}

fn range(of: core::ops::Range<u32>) -> Vec<u32> {
    of.collect()
}

/// Whether a change keeps an entry of a queue.
fn is_entry(change: &Change) -> bool {
    let is_of_queue = |target: &Target| matches!(target, Target::Queue { .. });
    matches!(&change.what, What::Record { targets, .. } if targets.iter().any(is_of_queue))
}

fn expiring(payload: &str, seconds: u32) -> Packet<'_> {
    Packet::Publish(Publish {
        properties: PublishProperties {
            message_expiry_interval: Some(seconds),
            ..PublishProperties::default()
        },
        ..numbered(1, Q1, "t", payload)
    })
}

cases! {
    fn beyond_a_window_what_waits_is_not_in_memory_and_comes_in_order(b: &mut House) {
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..1000);
        assert_eq!((b.stat("queued"), b.stat("messages")), (1000, WINDOW as u64));
        assert_eq!(b.stat("queued_on_disk"), 1000 - WINDOW as u64);
        let queue = b.broker.queues().next().expect("there is one");
        assert_eq!((queue.messages, queue.on_disk), (1000, 1000 - WINDOW));
        let taker = come(b, 20);
        assert_eq!(drain(b, taker), range(0..1000));
        assert_eq!((b.stat("queued"), b.stat("queued_bytes"), b.stat("queued_on_disk")), (0, 0, 0));
        assert_eq!(b.ledger.live().1, 0, "nothing is left of it");
        // And once that is over it waits for nothing.
        let before = b.drawn;
        publish_all(b, conn, Q1, 0..10);
        assert_eq!(drain(b, taker), range(0..10));
        assert_eq!(b.drawn, before);
    }

    fn after_a_start_nothing_is_in_memory_before_it_is_wanted(b: &mut House) {
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..1000);
        b.crash(0);
        assert_eq!((b.stat("queued"), b.stat("messages"), b.stat("queued_on_disk")), (1000, 0, 1000));
        assert_eq!(b.stat("recovered_messages"), 1000);
        let conn = b.client(V5, "publisher");
        publish_all(b, conn, Q1, 1000..1010);
        let taker = come(b, 20);
        let first = b.read(taker);
        assert_eq!(parts(&first), Some((1, 0, true)), "it may have been sent before");
        b.puback(taker, 1);
        assert!(b.stat("messages") <= WINDOW as u64);
        assert_eq!(drain(b, taker), range(1..1010));
        assert_eq!((b.stat("queued"), b.stat("queued_bytes"), b.stat("messages")), (0, 0, 0));
    }

    fn what_was_spilled_by_this_process_does_not_say_dup(b: &mut House) {
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..300);
        let taker = come(b, 400);
        let packets = b.read_all(taker);
        assert!(packets.iter().all(|packet| !packet.contains(" dup ")), "{packets:?}");
        assert_eq!(packets.len(), 300);
    }

    fn what_comes_while_something_is_spilled_comes_behind_it(b: &mut House) {
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..600);
        let taker = come(b, 1);
        let (mut next, mut got) = (600, Vec::new());
        while let Some((number, payload, _)) = parts(&b.read(taker)) {
            got.push(payload);
            if next < 1200 {
                publish_all(b, conn, Q1, next..next + 2);
                next += 2;
            }
            b.puback(taker, number);
            assert!(b.stat("messages") <= WINDOW as u64 + 1);
        }
        assert_eq!(got, range(0..1200));
    }

    fn what_is_not_kept_waits_in_its_place(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q1);
        b.subscribe(taker, "u", Q0);
        b.disconnect(taker);
        let conn = b.client(V5, "publisher");
        publish_all(b, conn, Q1, 0..300);
        let taker = come(b, 1);
        publish_all(b, conn, Q0, 300..303);
        publish_all(b, conn, Q1, 303..306);
        b.publish(conn, Q0, "u", "306");
        publish_all(b, conn, Q1, 307..310);
        assert_eq!(b.stat("messages"), WINDOW as u64 + 4, "those are in memory, the rest is not");
        assert_eq!(drain(b, taker), range(0..310));
        assert_eq!((b.stat("queued"), b.stat("messages")), (0, 0));
        // What is not kept does not outlive the connection.
        let conn = b.client(V5, "publisher");
        b.drop_conn(taker);
        publish_all(b, conn, Q1, 0..300);
        let taker = come(b, 1);
        publish_all(b, conn, Q0, 300..303);
        b.drop_conn(taker);
        assert_eq!(b.stat("queued"), 299);
        let taker = come(b, 1);
        assert_eq!(drain(b, taker), range(0..300));
    }

    fn a_retained_message_comes_before_what_was_published_after_the_subscription(b: &mut House) {
        let conn = away(b, Q1);
        b.retain(conn, "r", "1000");
        publish_all(b, conn, Q1, 0..300);
        let taker = come(b, 1);
        assert_eq!(parts(&b.read(taker)).map(|(_, payload, _)| payload), Some(0));
        b.subscribe(taker, "r", Q1);
        publish_all(b, conn, Q1, 300..310);
        b.puback(taker, 1);
        let got = drain(b, taker);
        let expected: Vec<u32> = (1..300).chain([1000]).chain(300..310).collect();
        assert_eq!(got, expected);
    }

    fn the_oldest_gives_way_wherever_it_is(b: &mut House) {
        let limit = |settings: &mut fieldgate::broker::settings::Settings| {
            settings.queue.messages = 500;
            settings.queue.when_full = WhenFull::DropOldest;
        };
        b.set(limit);
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..2000);
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (500, 1500));
        assert_eq!(b.stat("messages"), 0, "what was in memory went first");
        assert_eq!(b.ledger.live().1, 500);
        b.crash(0);
        assert_eq!(b.stat("queued"), 500);
        let conn = b.client(V5, "publisher");
        publish_all(b, conn, Q1, 2000..2100);
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (500, 100));
        let taker = come(b, 20);
        assert_eq!(drain(b, taker), range(1600..2100));
        assert_eq!((b.stat("queued"), b.stat("queued_bytes"), b.ledger.live().1), (0, 0, 0));
    }

    fn the_newest_gives_way_wherever_the_others_are(b: &mut House) {
        b.set(|settings| {
            settings.queue.messages = 500;
            settings.queue.when_full = WhenFull::DropNewest;
        });
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..600);
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (500, 100));
        b.crash(0);
        let conn = b.client(V5, "publisher");
        publish_all(b, conn, Q1, 600..610);
        assert_eq!((b.stat("queued"), b.stat("dropped_queue_full")), (500, 10));
        let taker = come(b, 20);
        assert_eq!(drain(b, taker), range(0..500));
    }

    fn the_limit_in_bytes_counts_what_is_not_in_memory(b: &mut House) {
        b.set(|settings| {
            settings.queue.bytes = 200_000;
            settings.queue.when_full = WhenFull::DropNewest;
        });
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..2000);
        let queued = b.stat("queued");
        assert!((300..1500).contains(&queued), "{queued}");
        assert!(b.stat("queued_bytes") <= 200_000);
        assert_eq!(b.stat("queued") + b.stat("dropped_queue_full"), 2000);
    }

    fn what_has_expired_in_the_journal_gives_way(b: &mut House) {
        b.set(|settings| {
            settings.queue.messages = 600;
            settings.queue.when_full = WhenFull::DropNewest;
        });
        let conn = away(b, Q1);
        for payload in 0..600 {
            b.send(conn, &expiring(&payload.to_string(), 60));
            b.read_all(conn);
        }
        assert_eq!(b.stat("queued"), 600);
        b.crash(30);
        b.seconds(31);
        let conn = b.client(V5, "publisher");
        publish_all(b, conn, Q1, 600..603);
        assert_eq!(b.stat("dropped_expired"), 600);
        let taker = come(b, 20);
        // The first was one too many before it was known that there is room.
        assert_eq!(drain(b, taker), range(601..603));
        assert_eq!((b.stat("queued"), b.stat("queued_bytes")), (0, 0));
    }

    fn what_has_expired_is_not_sent(b: &mut House) {
        let conn = away(b, Q1);
        for payload in 0..600 {
            let seconds = if payload % 2 == 0 { 60 } else { 600 };
            b.send(conn, &expiring(&payload.to_string(), seconds));
            b.read_all(conn);
        }
        b.seconds(61);
        let taker = come(b, 20);
        let expected: Vec<u32> = (0..600).filter(|payload| payload % 2 == 1).collect();
        assert_eq!(drain(b, taker), expected);
        assert_eq!(b.stat("dropped_expired"), 300);
    }

    fn an_end_of_the_session_ends_what_is_not_in_memory(b: &mut House) {
        for is_clean_start in [true, false] {
            let conn = away(b, Q2);
            publish_all(b, conn, Q1, 0..600);
            if is_clean_start {
                let taker = b.dial(&Connect { clean_start: true, ..lasting(V5, "taker") });
                assert_eq!(b.read_all(taker), ["CONNACK Success"]);
                b.disconnect(taker);
            } else {
                let mut brief = lasting(V5, "taker");
                brief.properties.session_expiry_interval = Some(5);
                let taker = b.dial(&brief);
                b.drop_conn(taker);
                b.seconds(6);
                assert_eq!(b.stat("sessions"), 1, "the publisher's");
            }
            assert_eq!((b.stat("queued"), b.stat("queued_bytes")), (0, 0));
            assert_eq!((b.stat("queued_on_disk"), b.ledger.live().1), (0, 0));
            b.crash(0);
            assert_eq!(b.stat("queued"), 0);
        }
    }

    fn a_session_that_is_to_end_with_its_connection_gets_what_is_spilled(b: &mut House) {
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..600);
        let mut brief = lasting(V5, "taker");
        brief.properties.session_expiry_interval = Some(0);
        let taker = b.dial(&brief);
        assert_eq!(b.read(taker), "CONNACK Success present");
        assert_eq!(drain(b, taker), range(0..600));
        b.drop_conn(taker);
        assert_eq!((b.stat("sessions"), b.ledger.live()), (1, (0, 0)));
        // The same if the power fails before.
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..600);
        b.dial(&brief);
        b.crash(0);
        b.seconds(1);
        assert_eq!((b.stat("sessions"), b.stat("queued"), b.ledger.live()), (0, 0, (0, 0)));
    }

    fn what_is_not_taken_and_comes_again_is_not_counted(b: &mut House) {
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..300);
        b.refuses = Some(is_entry);
        b.publish(conn, Q1, "t", "300");
        assert!(!b.is_open(conn), "it sends it again");
        b.refuses = None;
        assert_eq!(b.stat("queued"), 300);
        let conn = b.client(V5, "publisher");
        publish_all(b, conn, Q1, 300..310);
        let taker = come(b, 20);
        assert_eq!(drain(b, taker), range(0..310));
        assert_eq!((b.stat("queued"), b.stat("queued_bytes")), (0, 0));
    }

    fn what_is_not_taken_and_comes_not_again_waits_in_memory(b: &mut House) {
        b.set(|settings| {
            settings.durability.default = Level::Interval(Duration::from_secs(1));
        });
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..300);
        b.refuses = Some(is_entry);
        publish_all(b, conn, Q1, 300..310);
        b.refuses = None;
        publish_all(b, conn, Q1, 310..320);
        assert_eq!((b.stat("queued"), b.stat("messages")), (320, WINDOW as u64 + 10));
        let taker = come(b, 20);
        assert_eq!(drain(b, taker), range(0..320), "each in its place");
        assert_eq!((b.stat("queued"), b.stat("queued_bytes"), b.ledger.live().1), (0, 0, 0));
    }

    fn what_is_under_way_at_qos_2_goes_on_where_it_was(b: &mut House) {
        let conn = away(b, Q2);
        publish_all(b, conn, Q2, 0..600);
        let taker = come(b, 20);
        let packets = b.read_all(taker);
        assert_eq!(packets.len(), 20);
        // Of the first twenty: 0 sent, 1 received, 2 over, and so on.
        for number in 1..=20 {
            if number % 3 != 1 {
                b.pubrec(taker, number);
            }
        }
        b.read_all(taker);
        for number in (3..=20).step_by(3) {
            b.pubcomp(taker, number);
        }
        let behind = b.read_all(taker).len();
        assert_eq!(behind, 6);
        b.crash(0);
        assert_eq!(b.stat("messages"), 7 + 6, "those that are sent again, and nothing else");
        let taker = come(b, 20);
        let again = b.read_all(taker);
        let sent: Vec<_> = again.iter().filter_map(|packet| parts(packet)).collect();
        let expected: Vec<u32> = (0..20).step_by(3).chain(20..26).collect();
        let resent = sent.iter().filter(|(.., is_dup)| *is_dup);
        assert_eq!(resent.map(|(_, payload, _)| *payload).collect::<Vec<_>>(), expected);
        for packet in &again {
            if let Some((number, ..)) = parts(packet) {
                b.pubrec(taker, number);
            } else if let Some(number) = packet.strip_prefix("PUBREL ") {
                b.pubcomp(taker, number.parse().unwrap());
            }
        }
        let mut got: Vec<u32> = sent.iter().map(|(_, payload, _)| *payload).collect();
        got.extend(drain(b, taker));
        assert_eq!(got, expected.into_iter().chain(26..600).collect::<Vec<_>>());
        assert_eq!((b.stat("queued"), b.stat("messages"), b.ledger.live().1), (0, 0, 0));
    }

    fn a_message_of_qos_2_is_not_seen_before_it_is_synced(b: &mut House) {
        let conn = b.stayer(V5, "publisher");
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q1);
        b.disconnect(taker);
        publish_all(b, conn, Q1, 0..300);
        let taker = come(b, 1000);
        assert_eq!(b.read_all(taker).len(), 300);
        b.stall(taker, true);
        for payload in 300..600 {
            publish_all(b, conn, Q1, payload..payload + 1);
        }
        b.mark = Some(b.broker.last_lsn());
        b.send(conn, &Packet::Publish(numbered(9, Q2, "t", "600")));
        b.stall(taker, false);
        let packets = b.read_all(taker);
        let last = packets.last().and_then(|packet| parts(packet));
        assert_eq!(last.map(|(_, payload, _)| payload), Some(599));
        b.mark = None;
        b.turn();
        assert_eq!(parts(&b.read(taker)).map(|(_, payload, _)| payload), Some(600));
    }

    fn a_groups_messages_go_to_another_member_when_theirs_is_lost(b: &mut House) {
        let one = b.stayer(V5, "taker");
        b.subscribe(one, "$share/g/t", Q1);
        b.disconnect(one);
        let conn = b.client(V5, "publisher");
        publish_all(b, conn, Q1, 0..600);
        let one = come(b, 1);
        let first = b.read(one);
        assert_eq!(parts(&first).map(|(_, payload, _)| payload), Some(0));
        let other = b.stayer(V5, "other");
        b.subscribe(other, "$share/g/t", Q1);
        b.drop_conn(one);
        b.turn();
        assert_eq!(drain(b, other), range(1..600));
        let one = come(b, 1);
        assert_eq!(drain(b, one), [0], "which it may have got already");
        assert_eq!((b.stat("queued"), b.stat("queued_bytes"), b.ledger.live().1), (0, 0, 0));
    }

    fn a_groups_messages_go_to_another_member_when_their_session_is_over(b: &mut House) {
        let other = heir(b, Q1);
        let one = b.dial(&Connect { clean_start: true, ..lasting(V5, "taker") });
        assert_eq!(b.read(one), "CONNACK Success");
        assert_eq!(drain(b, other), range(0..600), "but not what was for that session alone");
        assert_eq!((b.stat("queued"), b.stat("messages"), b.ledger.live().1), (0, 0, 0));
    }

    fn what_a_session_leaves_to_its_groups_survives_the_power(b: &mut House) {
        let other = heir(b, Q2);
        b.disconnect(other);
        let one = come(b, 5);
        assert_eq!(b.read_all(one).len(), 5, "these end with the session");
        b.drop_conn(one);
        // Where the mark stands when the power fails: at the session's end, and within the rest.
        let ends = |change: &Change| matches!(change.what, What::Delete(Key { kind: KeyKind::Session, .. }));
        let before = b.broker.last_lsn();
        b.dial(&Connect { clean_start: true, ..connect(V5, "taker") });
        let mut later = b.ledger.changes().iter().filter(|change| change.lsn > before);
        let end = later.find(|change| ends(change)).expect("it has ended").lsn;
        b.mark = Some(end);
        b.crash(0);
        let is_done = |change: &&Change| matches!(change.what, What::Consumed { .. });
        let half = b.ledger.changes().iter().filter(is_done).nth(150).expect("half of them").lsn;
        b.mark = Some(half);
        b.crash(0);
        let other = come_as(b, "other", 20);
        assert_eq!(drain(b, other), range(5..600), "once, and not what was that session's alone");
        assert_eq!((b.stat("queued"), b.stat("messages"), b.ledger.live().1), (0, 0, 0));
        b.crash(0);
        let other = come_as(b, "other", 20);
        assert_eq!(b.read_all(other).len(), 0);
    }

    fn new_rules_hold_for_what_is_in_the_journal_too(b: &mut House) {
        let conn = away(b, Q1);
        publish_all(b, conn, Q1, 0..600);
        b.set(|settings| {
            settings.access.rules = Some(Rules {
                list: Vec::new(),
                order: Order::FirstMatch,
                default: Effect::Deny,
            });
        });
        let taker = come(b, 20);
        assert_eq!(drain(b, taker), [0; 0]);
        assert_eq!((b.stat("refused_deliveries"), b.stat("queued")), (600, 0));
        assert_eq!(b.ledger.live().1, 0);
    }

    fn what_has_no_room_in_memory_waits_in_the_journal(b: &mut House) {
        let conn = away(b, Q1);
        let limit = b.memory.used() + 30_000;
        b.set(|settings| settings.memory = limit);
        publish_all(b, conn, Q1, 0..200);
        assert_eq!((b.stat("queued"), b.stat("dropped_over_budget")), (200, 0));
        assert!(b.stat("queued_on_disk") > 0);
        let taker = come(b, 20);
        assert_eq!(drain(b, taker), range(0..200));
    }
}
