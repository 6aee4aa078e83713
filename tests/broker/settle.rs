//! What waits for the journal's mark, and in which order it leaves.

use fieldgate::id::Lsn;
use fieldgate::mqtt::{Connect, Packet, RetainHandling};

use crate::house::*;

cases! {
    fn nothing_is_acknowledged_before_the_mark_has_passed_it(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "t", Q1);
        b.disconnect(taker);
        let conn = b.client(V5, "a");
        let before = b.broker.last_lsn();
        b.mark = Some(before);
        b.publish(conn, Q1, "t", "x");
        let one = b.broker.last_lsn();
        b.send(conn, &Packet::Publish(numbered(2, Q2, "t", "y")));
        let two = b.broker.last_lsn();
        assert!(before < one && one < two);
        assert_eq!(b.read(conn), "");
        b.mark = Some(one);
        b.turn();
        assert_eq!(b.read_all(conn), ["PUBACK 1"]);
        b.mark = Some(two);
        b.turn();
        assert_eq!(b.read_all(conn), ["PUBREC 2"]);
    }

    fn what_nobody_keeps_waits_for_nothing(b: &mut House) {
        let conn = b.client(V5, "a");
        b.mark = Some(b.broker.last_lsn());
        b.publish(conn, Q1, "t", "x");
        assert_eq!(b.read(conn), "PUBACK 1 0x10");
        b.send(conn, &Packet::Pingreq);
        assert_eq!(b.read(conn), "PINGRESP");
    }

    fn answers_leave_in_order(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.mark = Some(b.broker.last_lsn());
        b.subscribe_with(conn, "t", options(Q1, RetainHandling::Send), None);
        b.send(conn, &Packet::Pingreq);
        b.publish(conn, Q1, "nobody", "x");
        assert_eq!(b.read(conn), "", "everything stands behind the SUBACK");
        b.mark = Some(Lsn(u64::MAX));
        b.turn();
        assert_eq!(b.read_all(conn), ["SUBACK 1 [0x01]", "PINGRESP", "PUBACK 1 0x10"]);
    }

    fn nothing_is_sent_before_connack(b: &mut House) {
        let first = b.stayer(V5, "a");
        b.subscribe(first, "t", Q1);
        b.disconnect(first);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "kept");
        b.mark = Some(b.broker.last_lsn());
        let conn = b.dial(&lasting(V5, "a"));
        b.publish(other, Q0, "t", "live");
        assert_eq!(b.read(conn), "");
        b.mark = Some(Lsn(u64::MAX));
        b.turn();
        assert_eq!(b.read_all(conn), [
            "CONNACK Success present",
            "PUBLISH t q1 #1 \"kept\"",
            "PUBLISH t q0 \"live\"",
        ]);
    }

    fn any_number_of_answers_may_wait(b: &mut House) {
        const REPETITIONS: usize = 70_000;
        let conn = b.stayer(V5, "a");
        b.mark = Some(b.broker.last_lsn());
        let mut bytes = Vec::new();
        Packet::Publish(publish(Q2, "t", "")).encode_into(V5, &mut bytes);
        b.send_bytes(conn, &bytes.repeat(REPETITIONS));
        assert!(b.read_bytes(conn).is_empty(), "nothing is synced");
        b.mark = Some(Lsn(u64::MAX));
        b.turn();
        // The first says besides that nobody has subscribed.
        let first = [0x50, 3, 0, 1, 0x10];
        let answers = [&first[..], &[0x50, 2, 0, 1].repeat(REPETITIONS - 1)].concat();
        assert!(b.read_bytes(conn) == answers, "an answer each");
    }

    fn a_goodbye_waits_behind_what_was_promised_before_it(b: &mut House) {
        b.mark = Some(b.broker.last_lsn());
        let conn = b.open();
        let mut bytes = Vec::new();
        Packet::Connect(lasting(V5, "a")).encode_into(V5, &mut bytes);
        bytes.extend([0xF1, 0]);
        b.send_bytes(conn, &bytes);
        assert!(b.is_open(conn));
        assert_eq!(b.read(conn), "");
        b.mark = Some(Lsn(u64::MAX));
        b.turn();
        assert_eq!(b.read_all(conn), ["CONNACK Success", "DISCONNECT 0x81"]);
        assert!(!b.is_open(conn));
    }

    fn a_connection_that_is_gone_holds_nothing_up(b: &mut House) {
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q1);
        let gone = b.stayer(V4, "gone");
        let stays = b.client(V5, "stays");
        b.mark = Some(b.broker.last_lsn());
        b.publish(gone, Q2, "t", "x");
        b.publish(stays, Q1, "t", "y");
        b.drop_conn(gone);
        b.mark = Some(Lsn(u64::MAX));
        b.turn();
        assert_eq!(b.read(stays), "PUBACK 1");
        let back = b.dial(&lasting(V4, "gone"));
        b.send(back, &Packet::Publish(fieldgate::mqtt::Publish {
            dup: true,
            ..publish(Q2, "t", "x")
        }));
        assert_eq!(b.read_all(back), ["CONNACK Success present", "PUBREC 1"]);
        assert_eq!(b.stat("duplicates_received"), 1, "it had been taken");
    }

    fn a_clean_session_that_replaces_another_is_told_after_it_is_true(b: &mut House) {
        let old = b.stayer(V5, "a");
        b.mark = Some(b.broker.last_lsn());
        let new = b.dial(&Connect { clean_start: true, ..lasting(V5, "a") });
        assert_eq!(b.read(old), "DISCONNECT 0x8e");
        assert_eq!(b.read(new), "");
        b.mark = None;
        b.turn();
        assert_eq!(b.read(new), "CONNACK Success");
    }
}
