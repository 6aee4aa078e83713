//! Limits of connections, sessions and packets, and who waits.

use fieldgate::broker::{CloseHow, DELIVERIES_PER_CALL_MAX, REFUSALS_MAX};
use fieldgate::id::Lsn;
use fieldgate::mqtt::{Connect, Packet, RetainHandling};
use fieldgate::time::Duration;

use crate::house::*;

cases! {
    fn connections_beyond_the_limit_are_refused_with_a_word(b: &mut House) {
        b.set(|settings| settings.max_connections = 2);
        let first = b.client(V5, "1");
        b.client(V5, "2");
        let conn = b.dial(&connect(V5, "3"));
        assert_eq!(b.read(conn), "CONNACK Quota exceeded");
        assert!(!b.is_open(conn));
        let conn = b.dial(&connect(V4, "3"));
        assert_eq!(b.read(conn), "CONNACK Server unavailable");
        b.disconnect(first);
        b.client(V5, "3");
        assert_eq!(b.stat("refused_connections"), 2);
    }

    fn a_listener_has_a_limit_of_its_own(b: &mut House) {
        let admission = |excess| fieldgate::broker::Admission {
            allow_anonymous: true,
            excess,
            address: None,
        };
        let conn = b.open_as(admission(1));
        b.send(conn, &Packet::Connect(connect(V5, "1")));
        assert_eq!(b.read(conn), "CONNACK Quota exceeded");
        let conn = b.open_as(admission(REFUSALS_MAX as u32));
        assert!(b.is_open(conn), "it waits for its refusal");
        let conn = b.open_as(admission(REFUSALS_MAX as u32 + 1));
        assert!(!b.is_open(conn));
        assert_eq!(b.stat("refused_connections"), 3);
    }

    fn only_so_many_wait_for_their_refusal(b: &mut House) {
        b.set(|settings| settings.max_connections = 1);
        b.client(V5, "1");
        let waiting: Vec<_> = (0..REFUSALS_MAX).map(|_| b.open()).collect();
        let one_more = b.open();
        assert!(!b.is_open(one_more));
        assert!(waiting.iter().all(|conn| b.is_open(*conn)));
    }

    fn sessions_have_a_limit(b: &mut House) {
        b.set(|settings| settings.max_sessions = 2);
        let first = b.stayer(V5, "1");
        b.stayer(V5, "2");
        let conn = b.dial(&lasting(V5, "3"));
        assert_eq!(b.read(conn), "CONNACK Quota exceeded");
        b.disconnect(first);
        let conn = b.dial(&lasting(V4, "3"));
        assert_eq!(b.read(conn), "CONNACK Server unavailable", "a session stays");
        b.stayer(V5, "1");
        assert_eq!(b.stat("refused_sessions"), 2);
    }

    fn a_packet_above_the_maximum_ends_the_connection_at_its_header(b: &mut House) {
        b.set(|settings| settings.max_packet_size = 1000);
        for (version, answer) in [(V5, "DISCONNECT 0x95"), (V4, "")] {
            let conn = b.client(version, "a");
            b.publish(conn, Q0, "t", &"x".repeat(900));
            assert!(b.is_open(conn));
            b.send_bytes(conn, &[0x30, 0xE6, 0x07]);
            assert_eq!(b.read(conn), answer);
            assert!(!b.is_open(conn));
        }
        assert_eq!(b.stat("oversized_packets"), 2);
    }

    fn a_3_1_1_client_is_not_read_while_its_publications_are_unsettled(b: &mut House) {
        b.set(|settings| settings.receive_maximum = 3);
        let conn = b.join(&Connect { keep_alive: 10, ..connect(V4, "a") });
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q1);
        let mark = b.broker.last_lsn();
        b.mark = Some(mark);
        let mut bytes = Vec::new();
        for number in 1..=10 {
            let message = numbered(number, if number % 2 == 0 { Q1 } else { Q2 }, "t", "x");
            Packet::Publish(message).encode_into(V4, &mut bytes);
        }
        b.send_bytes(conn, &bytes);
        assert!(b.broker.is_paused(conn));
        assert_eq!(b.read(conn), "", "nothing is synced");
        assert_eq!(b.stat("publishes_received"), 3);
        b.wait(Duration::from_secs(100));
        assert!(b.is_open(conn), "its keep-alive does not run");
        b.mark = Some(Lsn(u64::MAX));
        b.turn();
        assert!(!b.broker.is_paused(conn));
        let answers = b.read_all(conn);
        assert_eq!(answers.len(), 10);
        assert_eq!(answers[..3], ["PUBREC 1", "PUBACK 2", "PUBREC 3"]);
        b.seconds(14);
        assert!(b.is_open(conn));
        b.seconds(1);
        assert!(!b.is_open(conn), "and then it does again");
    }

    fn a_5_0_client_is_held_by_the_receive_maximum_alone(b: &mut House) {
        b.set(|settings| settings.receive_maximum = 2);
        let conn = b.client(V5, "a");
        b.subscribe(conn, "t", Q1);
        let mark = b.broker.last_lsn();
        b.mark = Some(mark);
        for number in 1..=2 {
            b.send(conn, &Packet::Publish(numbered(number, Q1, "t", "x")));
        }
        assert!(!b.broker.is_paused(conn));
        b.send(conn, &Packet::Pingreq);
        b.send(conn, &Packet::Publish(numbered(3, Q1, "t", "x")));
        assert!(!b.read_all(conn).iter().any(|packet| packet.starts_with("PUBACK")));
        b.mark = Some(Lsn(u64::MAX));
        b.turn();
        let got = b.read_all(conn);
        assert_eq!(got, ["PUBACK 1", "PUBACK 2", "PINGRESP", "DISCONNECT 0x93"]);
    }

    fn a_large_packet_waits_for_memory_and_then_goes_on(b: &mut House) {
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q0);
        let conn = b.client(V4, "a");
        let room = b.memory.used() + 50_000;
        b.set(|settings| settings.memory = room);
        b.publish(conn, Q1, "t", &"x".repeat(100_000));
        assert!(b.broker.is_paused(conn));
        assert_eq!(b.read(conn), "");
        b.seconds(29);
        b.set(|_| {});
        b.turn();
        assert_eq!(b.read(conn), "PUBACK 1");
        assert_eq!(b.read(taker), "PUBLISH t q0 100000 bytes");
        assert_eq!(b.stat("over_budget_packets"), 1);
    }

    fn a_large_packet_does_not_wait_for_ever(b: &mut House) {
        let conn = b.client(V5, "a");
        let room = b.memory.used() + 50_000;
        b.set(|settings| settings.memory = room);
        b.publish(conn, Q1, "t", &"x".repeat(100_000));
        b.seconds(30);
        assert_eq!(b.read(conn), "DISCONNECT 0x97");
        assert!(!b.is_open(conn));
    }

    fn one_publisher_with_many_takers_leaves_room_for_others(b: &mut House) {
        const TAKERS: u64 = 200;
        for number in 0..TAKERS {
            let taker = b.client(V4, &number.to_string());
            b.subscribe(taker, "t", Q0);
        }
        let conn = b.client(V4, "a");
        let mut bytes = Vec::new();
        for _ in 0..300 {
            Packet::Publish(publish(Q0, "t", "")).encode_into(V4, &mut bytes);
        }
        b.push_bytes(conn, &bytes);
        let sent = b.stat("publishes_sent");
        assert!((DELIVERIES_PER_CALL_MAX..DELIVERIES_PER_CALL_MAX + TAKERS).contains(&sent));
        assert!(b.broker.is_paused(conn));
        b.turn();
        assert_eq!(b.stat("publishes_received"), 300);
    }

    fn packet_identifiers_that_are_never_released_are_charged(b: &mut House) {
        let conn = b.stayer(V4, "a");
        let before = b.memory.used();
        for number in 1..=1000 {
            b.send(conn, &Packet::Publish(numbered(number, Q2, "t", "")));
        }
        assert!(b.memory.used() >= before + 1000 * size_of::<u16>());
        for number in 1..=1000 {
            b.pubrel(conn, number);
        }
        assert_eq!(b.memory.used(), before);
    }

    fn a_replay_is_charged_until_it_is_over(b: &mut House) {
        let conn = b.client(V5, "a");
        b.stall(conn, true);
        let filter = format!("+/{}", "x".repeat(10_000));
        let before = b.memory.used();
        b.subscribe_with(conn, &filter, options(Q1, RetainHandling::DoNotSend), None);
        let subscribed = b.memory.used() - before;
        b.subscribe_with(conn, &filter, options(Q1, RetainHandling::Send), None);
        assert!(b.memory.used() > before + subscribed + filter.len());
        b.stall(conn, false);
        assert!(b.memory.used() <= before + subscribed);
    }

    fn memory_is_given_back_when_everybody_is_gone(b: &mut House) {
        for number in 0..50 {
            let name = number.to_string();
            let conn = b.join(&Connect { keep_alive: 60, ..connect(V5, &name) });
            b.subscribe(conn, &format!("{name}/#"), Q2);
            b.publish(conn, Q2, &format!("{name}/x"), "x");
            b.drop_conn(conn);
        }
        assert_eq!(b.memory.used(), 0);
        assert!(b.closed.iter().all(|(_, how)| *how != CloseHow::Now));
    }
}
