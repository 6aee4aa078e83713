//! Sessions: clean and lasting, takeover, expiry, and what is sent again.

use fieldgate::mqtt::{
    Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, ReasonCode,
    ReceiveMaximum,
};
use fieldgate::time::Duration;

use crate::house::*;

fn with_expiry(client_id: &str, seconds: u32) -> Connect<'_> {
    Connect {
        clean_start: false,
        properties: ConnectProperties {
            session_expiry_interval: Some(seconds),
            ..ConnectProperties::default()
        },
        ..connect(V5, client_id)
    }
}

cases! {
    fn a_lasting_session_keeps_subscriptions_and_messages(b: &mut House) {
        let other = b.client(V5, "other");
        for version in [V4, V5] {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t/#", Q1);
            b.disconnect(conn);
            for payload in ["1", "2"] {
                b.publish(other, Q1, "t/x", payload);
            }
            b.publish(other, Q0, "t/x", "not kept");
            let conn = b.dial(&lasting(version, "a"));
            let got = b.read_all(conn);
            assert_eq!(got[0], "CONNACK Success present");
            assert!(got[1].ends_with("\"1\"") && got[2].ends_with("\"2\""), "{got:?}");
            assert_eq!(got.len(), 3);
            b.publish(other, Q1, "t/y", "live");
            assert!(b.read(conn).ends_with("\"live\""));
            let fresh = b.client(version, "a");
            b.disconnect(fresh);
        }
        assert_eq!(b.stat("dropped_offline"), 2);
    }

    fn a_clean_start_forgets_everything(b: &mut House) {
        let other = b.client(V5, "other");
        for version in [V4, V5] {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q1);
            b.publish(other, Q1, "t", "in flight");
            assert_eq!(b.read_all(conn).len(), 1);
            b.drop_conn(conn);
            b.publish(other, Q1, "t", "queued");
            let conn = b.dial(&Connect { clean_start: true, ..lasting(version, "a") });
            assert_eq!(b.read_all(conn), ["CONNACK Success"]);
            b.publish(other, Q1, "t", "nobody's");
            assert_eq!(b.read(conn), "");
            assert_eq!(b.stat("messages"), 0);
            assert_eq!(b.stat("subscriptions"), 0);
            b.disconnect(conn);
        }
    }

    fn a_session_without_expiry_ends_with_its_connection(b: &mut House) {
        let conn = b.join(&Connect { clean_start: false, ..connect(V5, "a") });
        b.subscribe(conn, "t", Q1);
        b.drop_conn(conn);
        assert_eq!(b.stat("sessions"), 0);
        let conn = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read(conn), "CONNACK Success");
    }

    fn a_session_ends_when_it_expires_and_not_before(b: &mut House) {
        let conn = b.join(&with_expiry("a", 60));
        b.drop_conn(conn);
        b.wait(Duration::from_millis(59_999));
        let conn = b.dial(&with_expiry("a", 60));
        assert_eq!(b.read(conn), "CONNACK Success present");
        b.drop_conn(conn);
        b.seconds(30);
        assert_eq!(b.stat("sessions"), 1, "the first deadline is not the second's");
        b.seconds(30);
        assert_eq!((b.stat("sessions"), b.stat("expired_sessions")), (0, 1));
        let conn = b.dial(&with_expiry("a", 60));
        assert_eq!(b.read(conn), "CONNACK Success");
    }

    fn a_connected_session_does_not_expire(b: &mut House) {
        let conn = b.join(&with_expiry("a", 1));
        b.drop_conn(conn);
        let conn = b.join(&with_expiry("a", 1));
        b.seconds(100);
        assert!(b.is_open(conn));
        assert_eq!(b.stat("sessions"), 1);
    }

    fn the_expiry_is_limited_and_the_client_is_told(b: &mut House) {
        let limit = 7 * 24 * 3600;
        for (asked, told) in [(u32::MAX, Some(limit)), (limit + 1, Some(limit)), (limit, None)] {
            let conn = b.dial(&with_expiry("a", asked));
            b.read_with(conn, |packet| {
                let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
                assert_eq!(connack.properties.session_expiry_interval, told);
            }).unwrap();
            b.disconnect(conn);
        }
        let conn = b.stayer(V4, "old");
        b.drop_conn(conn);
        b.seconds(u64::from(limit));
        assert_eq!(b.stat("sessions"), 0, "3.1.1 sessions have the limit too");
    }

    fn without_a_limit_a_session_may_stay_for_ever(b: &mut House) {
        b.set(|settings| settings.max_session_expiry = None);
        let conn = b.join(&with_expiry("a", u32::MAX));
        b.drop_conn(conn);
        assert_eq!(b.broker.poll_timeout().map(|at| at.as_nanos() < u64::MAX / 2), Some(true),
            "only the connection's own timer is left");
        b.seconds(10 * 365 * 24 * 3600);
        assert_eq!(b.stat("sessions"), 1);
    }

    fn disconnect_can_change_the_expiry(b: &mut House) {
        let leave = |expiry| Packet::Disconnect(Disconnect {
            reason: ReasonCode::NORMAL_DISCONNECTION,
            properties: DisconnectProperties {
                session_expiry_interval: Some(expiry),
                ..DisconnectProperties::default()
            },
        });
        let conn = b.join(&with_expiry("a", 60));
        b.send(conn, &leave(0));
        assert_eq!(b.stat("sessions"), 0);
        let conn = b.join(&with_expiry("a", 60));
        b.send(conn, &leave(10));
        b.seconds(10);
        assert_eq!(b.stat("sessions"), 0);
        let conn = b.join(&with_expiry("a", 0));
        b.send(conn, &leave(10));
        assert_eq!(b.read(conn), "DISCONNECT 0x82", "none in CONNECT is none for good");
        assert_eq!(b.stat("sessions"), 0);
    }

    fn takeover_sends_0x8e_then_closes(b: &mut House) {
        for version in [V4, V5] {
            let old = b.client(version, "a");
            let new = b.client(version, "a");
            let expected = if version == V5 { "DISCONNECT 0x8e" } else { "" };
            assert_eq!(b.read(old), expected);
            assert!(!b.is_open(old));
            assert!(b.is_open(new));
            b.subscribe(new, "t", Q0);
            b.publish(new, Q0, "t", "x");
            assert_eq!(b.read(new), "PUBLISH t q0 \"x\"");
            b.disconnect(new);
        }
        assert_eq!(b.stat("takeovers"), 2);
    }

    fn takeover_goes_on_with_the_session(b: &mut House) {
        let old = b.stayer(V5, "a");
        b.subscribe(old, "t", Q1);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "in flight");
        assert_eq!(b.read(old), "PUBLISH t q1 #1 \"in flight\"");
        let new = b.dial(&lasting(V4, "a"));
        assert_eq!(b.read_all(new), [
            "CONNACK Success present",
            "PUBLISH t q1 #1 dup \"in flight\"",
        ]);
        b.puback(new, 1);
        assert_eq!(b.stat("messages"), 0);
    }

    fn takeover_of_a_session_that_ends_with_its_connection_starts_anew(b: &mut House) {
        let old = b.client(V5, "a");
        b.subscribe(old, "t", Q1);
        let new = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read(new), "CONNACK Success");
        assert_eq!(b.stat("subscriptions"), 0);
    }

    fn unacknowledged_messages_are_sent_again_in_their_order(b: &mut House) {
        for version in [V4, V5] {
            let conn = b.stayer(version, "a");
            b.subscribe(conn, "t", Q2);
            let other = b.client(V5, "other");
            for (number, qos) in [(1, Q1), (2, Q2), (3, Q1), (4, Q2)] {
                b.send(other, &Packet::Publish(numbered(number, qos, "t", &number.to_string())));
            }
            assert_eq!(b.read_all(conn).len(), 4);
            b.puback(conn, 3);
            b.pubrec(conn, 2);
            assert_eq!(b.read(conn), "PUBREL 2");
            b.drop_conn(conn);
            b.send(other, &Packet::Publish(numbered(9, Q1, "t", "new")));
            let conn = b.dial(&lasting(version, "a"));
            assert_eq!(b.read_all(conn), [
                "CONNACK Success present",
                "PUBLISH t q1 #1 dup \"1\"",
                "PUBREL 2",
                "PUBLISH t q2 #4 dup \"4\"",
                "PUBLISH t q1 #5 \"new\"",
            ]);
            b.pubcomp(conn, 2);
            b.puback(conn, 1);
            b.puback(conn, 5);
            b.pubrec(conn, 4);
            b.pubcomp(conn, 4);
            assert_eq!(b.stat("messages"), 0);
            let conn = b.client(version, "a");
            b.disconnect(conn);
        }
    }

    fn nothing_is_sent_again_without_a_new_connection(b: &mut House) {
        let conn = b.client(V4, "a");
        b.subscribe(conn, "t", Q1);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "x");
        assert_eq!(b.read_all(conn).len(), 1);
        b.seconds(1000);
        assert_eq!(b.read(conn), "");
    }

    fn sending_again_keeps_to_the_new_receive_maximum(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "t", Q1);
        let other = b.client(V5, "other");
        for payload in ["1", "2", "3"] {
            b.publish(other, Q1, "t", payload);
        }
        assert_eq!(b.read_all(conn).len(), 3);
        b.drop_conn(conn);
        let mut narrow = lasting(V5, "a");
        narrow.properties.receive_maximum = ReceiveMaximum::new(1);
        let conn = b.dial(&narrow);
        for (number, payload) in [(1, "1"), (2, "2"), (3, "3")] {
            let got = b.read_all(conn);
            assert_eq!(got.last().unwrap(), &format!("PUBLISH t q1 #{number} dup \"{payload}\""));
            assert!(got.len() <= 2);
            b.puback(conn, number);
        }
        b.publish(other, Q1, "t", "4");
        assert_eq!(b.read(conn), "PUBLISH t q1 #4 \"4\"");
    }

    fn what_is_released_again_counts_until_its_end(b: &mut House) {
        let mut narrow = lasting(V5, "a");
        narrow.properties.receive_maximum = ReceiveMaximum::new(1);
        let conn = b.join(&narrow);
        b.subscribe(conn, "t", Q2);
        let other = b.client(V5, "other");
        for payload in ["1", "2", "3"] {
            b.publish(other, Q2, "t", payload);
            b.pubrel(other, 1);
        }
        assert_eq!(b.read_all(conn), ["PUBLISH t q2 #1 \"1\""]);
        b.pubrec(conn, 1);
        b.drop_conn(conn);
        let conn = b.dial(&narrow);
        assert_eq!(b.read_all(conn), ["CONNACK Success present", "PUBREL 1"]);
        b.pubcomp(conn, 1);
        assert_eq!(b.read_all(conn), ["PUBLISH t q2 #2 \"2\""]);
        b.send(conn, &Packet::Pingreq);
        assert_eq!(b.read_all(conn), ["PINGRESP"], "one at a time");
    }

    fn a_pubrel_does_not_wait_for_room_when_a_session_goes_on(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "t", Q2);
        let publisher = b.client(V5, "publisher");
        for number in 1..=5 {
            b.send(publisher, &Packet::Publish(numbered(number, Q2, "t", "x")));
        }
        assert_eq!(b.read_all(conn).len(), 5);
        for number in [3, 5] {
            b.pubrec(conn, number);
        }
        b.drop_conn(conn);
        let mut narrow = lasting(V5, "a");
        narrow.properties.receive_maximum = ReceiveMaximum::new(1);
        let conn = b.dial(&narrow);
        assert_eq!(b.read_all(conn), [
            "CONNACK Success present", "PUBLISH t q2 #1 dup \"x\"", "PUBREL 3", "PUBREL 5",
        ]);
        for number in [3, 5] {
            b.pubcomp(conn, number);
        }
        b.pubrec(conn, 1);
        b.pubcomp(conn, 1);
        let got = b.read_all(conn);
        assert!(got.contains(&"PUBLISH t q2 #2 dup \"x\"".to_owned()), "{got:?}");
        assert!(!got.iter().any(|line| line == "PUBREL 3" || line == "PUBREL 5"), "{got:?}");
    }

    fn sending_again_passes_what_has_become_too_large(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "t", Q1);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", &"x".repeat(200));
        b.publish(other, Q1, "t", "small");
        assert_eq!(b.read_all(conn).len(), 2);
        b.drop_conn(conn);
        let mut narrow = lasting(V5, "a");
        narrow.properties.maximum_packet_size = core::num::NonZeroU32::new(100);
        let conn = b.dial(&narrow);
        assert_eq!(b.read_all(conn), [
            "CONNACK Success present",
            "PUBLISH t q1 #2 dup \"small\"",
        ]);
        assert_eq!(b.stat("dropped_too_large"), 1);
    }

    fn a_session_may_change_its_version(b: &mut House) {
        let conn = b.stayer(V4, "a");
        b.subscribe(conn, "t", Q1);
        b.disconnect(conn);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "x");
        let conn = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read_all(conn), ["CONNACK Success present", "PUBLISH t q1 #1 \"x\""]);
    }

    fn what_was_meant_for_a_connection_at_qos_0_is_gone_with_it(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "t", Q1);
        b.stall(conn, true);
        let other = b.client(V5, "other");
        b.publish(other, Q1, "t", "kept");
        b.publish(other, Q0, "t", "gone");
        b.drop_conn(conn);
        let conn = b.dial(&lasting(V5, "a"));
        assert_eq!(b.read_all(conn), ["CONNACK Success present", "PUBLISH t q1 #1 \"kept\""]);
    }

    fn sessions_leave_nothing_behind(b: &mut House) {
        let conn = b.stayer(V5, "a");
        b.subscribe(conn, "#", Q2);
        b.stall(conn, true);
        let other = b.client(V4, "other");
        for number in 1..=30 {
            b.send(other, &Packet::Publish(numbered(number, Q2, "t", "x")));
            b.pubrel(other, number);
        }
        b.drop_conn(conn);
        b.drop_conn(other);
        assert!(b.memory.used() > 0);
        b.seconds(3600);
        assert_eq!((b.stat("sessions"), b.stat("messages")), (0, 0));
        assert_eq!(b.memory.used(), 0);
    }
}
