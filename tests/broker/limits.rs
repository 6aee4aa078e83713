//! Limits of connections, sessions and packets, and who waits.

use fieldgate::broker::settings::PublishQuota;
use fieldgate::broker::{CloseHow, DELIVERIES_PER_CALL_MAX, REFUSALS_MAX};
use fieldgate::id::Lsn;
use fieldgate::mqtt::{Connect, Packet, RetainHandling};
use fieldgate::time::Duration;
use fieldgate::units::Rate;

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
            is_exempt: false,
            is_costly: false,
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

    fn an_address_has_so_many_connections(b: &mut House) {
        b.set(|settings| settings.max_connections_per_address = Some(2));
        let first = b.open_from("192.0.2.1");
        b.open_from("192.0.2.1");
        for (version, answer) in [(V5, "CONNACK Quota exceeded"), (V4, "CONNACK Server unavailable")] {
            let conn = b.open_from("192.0.2.1");
            b.send(conn, &Packet::Connect(connect(version, "a")));
            assert_eq!(b.read(conn), answer);
            assert!(!b.is_open(conn));
        }
        let other = b.open_from("192.0.2.2");
        b.send(other, &Packet::Connect(connect(V5, "other")));
        assert_eq!(b.read(other), "CONNACK Success");
        b.drop_conn(first);
        let conn = b.open_from("192.0.2.1");
        b.send(conn, &Packet::Connect(connect(V5, "a")));
        assert_eq!(b.read(conn), "CONNACK Success");
        assert_eq!((b.stat("refused_per_address"), b.stat("addresses")), (2, 2));
        // Those who are exempt have no number.
        for _ in 0..10 {
            let conn = b.open();
            assert!(b.is_open(conn));
        }
        assert_eq!(b.stat("refused_per_address"), 2);
    }

    fn an_address_that_connects_too_fast_is_told_so_and_let_in_again(b: &mut House) {
        b.set(|settings| settings.connect_rate = Some(Rate::per_second(1)));
        for _ in 0..10 {
            let conn = b.open_from("192.0.2.1");
            b.drop_conn(conn);
        }
        let answers = [(V5, "CONNACK Connection rate exceeded"), (V4, "CONNACK Server unavailable")];
        for (version, answer) in answers {
            let conn = b.open_from("192.0.2.1");
            b.send(conn, &Packet::Connect(connect(version, "a")));
            assert_eq!(b.read(conn), answer);
            assert!(!b.is_open(conn));
        }
        let costly = fieldgate::broker::Admission {
            allow_anonymous: true,
            excess: 0,
            address: Some([192, 0, 2, 1].into()),
            is_exempt: false,
            is_costly: true,
        };
        let conn = b.open_as(costly);
        assert!(!b.is_open(conn), "no handshake for that");
        let other = b.open_from("192.0.2.2");
        assert!(b.is_open(other));
        assert_eq!(b.stat("refused_connect_rate"), 3);
        b.seconds(1);
        let conn = b.open_from("192.0.2.1");
        b.send(conn, &Packet::Connect(connect(V5, "a")));
        assert_eq!(b.read(conn), "CONNACK Success");
    }

    fn failures_bring_the_back_off_early(b: &mut House) {
        b.set(|settings| settings.connect_rate = Some(Rate::per_second(1)));
        let conn = b.open_from("192.0.2.1");
        b.send_bytes(conn, b"GET / HTTP/1.1\r\n\r\n");
        assert!(!b.is_open(conn));
        let conn = b.open_from("192.0.2.1");
        b.send(conn, &Packet::Connect(connect(V5, "a")));
        assert_eq!(b.read(conn), "CONNACK Connection rate exceeded");
        b.seconds(600);
        // Silence is a failure too.
        let conn = b.open_from("192.0.2.1");
        b.seconds(10);
        assert!(!b.is_open(conn));
        assert_eq!(b.stat("connect_timeouts"), 1);
        let conn = b.open_from("192.0.2.1");
        b.drop_conn(conn);
        let conn = b.open_from("192.0.2.1");
        b.send(conn, &Packet::Connect(connect(V5, "a")));
        assert_eq!(b.read(conn), "CONNACK Connection rate exceeded");
    }

    fn a_connect_has_a_size_of_its_own(b: &mut House) {
        b.set(|settings| settings.max_connect_size = 2000);
        let long = "x".repeat(1900);
        b.client(V5, &long);
        let long = "x".repeat(2000);
        let whole = |version| {
            let mut bytes = Vec::new();
            Packet::Connect(connect(version, &long)).encode_into(version, &mut bytes);
            bytes
        };
        // Its first bytes say it.
        for (version, answer) in [(V5, "CONNACK Packet too large"), (V4, "")] {
            let conn = b.open();
            let before = b.memory.used();
            b.send_bytes(conn, &whole(version)[..12]);
            assert_eq!(b.read(conn), answer);
            assert!(!b.is_open(conn));
            assert!(b.memory.used() <= before);
        }
        assert_eq!(b.stat("oversized_packets"), 2);
        // Afterwards the other limit counts.
        let conn = b.client(V5, "a");
        b.publish(conn, Q0, "t", &long);
        assert!(b.is_open(conn));
    }

    fn half_a_connect_costs_what_it_has_sent(b: &mut House) {
        let before = b.memory.used();
        let mut bytes = Vec::new();
        let long = "x".repeat(10_000);
        Packet::Connect(connect(V5, &long)).encode_into(V5, &mut bytes);
        for sent in [1, 2, 100, 500] {
            for _ in 0..100 {
                let conn = b.open();
                b.send_bytes(conn, &bytes[..sent]);
                assert!(b.is_open(conn));
            }
        }
        let each = (b.memory.used() - before) / 400;
        assert!(each < 1500, "{each} bytes each");
        b.seconds(10);
        assert_eq!(b.memory.used(), before);
        assert_eq!(b.stat("connect_timeouts"), 400);
    }

    fn user_properties_are_counted(b: &mut House) {
        let conn = b.client(V5, "a");
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q0);
        let packet = |count: usize| {
            let mut bytes = vec![0x30];
            let properties = [0x26, 0, 1, b'k', 0, 1, b'v'].repeat(count);
            let mut length = Vec::new();
            for mut number in [3 + 2 + properties.len() , properties.len()] {
                while number >= 0x80 {
                    length.push(number as u8 | 0x80);
                    number >>= 7;
                }
                length.push(number as u8);
                if bytes.len() == 1 {
                    bytes.append(&mut length);
                    bytes.extend([0, 1, b't']);
                }
            }
            bytes.append(&mut length);
            bytes.extend(properties);
            bytes
        };
        b.send_bytes(conn, &packet(1024));
        assert!(b.read(taker).starts_with("PUBLISH t q0"));
        b.send_bytes(conn, &packet(1025));
        assert_eq!(b.read(conn), "DISCONNECT 0x97");
        assert_eq!(b.read(taker), "");
    }

    fn who_publishes_more_than_its_quota_is_read_later(b: &mut House) {
        let quota = |messages, bytes| PublishQuota { messages, bytes };
        for quota in [
            quota(Some(Rate::per_second(10)), None),
            quota(None, Some(Rate::per_second(100))),
        ] {
            let taker = b.client(V4, "taker");
            b.set(|settings| settings.publish_quota = quota);
            b.subscribe(taker, "t", Q0);
            let conn = b.join(&Connect { keep_alive: 1, ..connect(V4, "a") });
            // Ten bytes each.
            let mut bytes = Vec::new();
            for _ in 0..25 {
                Packet::Publish(publish(Q1, "t", "xxx")).encode_into(V4, &mut bytes);
            }
            assert_eq!(bytes.len(), 250);
            b.send_bytes(conn, &bytes);
            // The one that goes over it is the last.
            assert_eq!(b.read_all(taker).len(), 11);
            assert_eq!(b.read_all(conn).len(), 11, "what was taken is acknowledged");
            assert!(b.broker.is_paused(conn));
            let other = b.client(V4, "other");
            b.publish(other, Q0, "t", "y");
            assert_eq!(b.read_all(taker).len(), 1, "it is one client's");
            b.seconds(1);
            assert_eq!(b.read_all(taker).len(), 10);
            b.seconds(1);
            assert_eq!(b.read_all(taker).len(), 4, "nothing is lost");
            assert!(b.is_open(conn), "its keep-alive did not run");
            for conn in [conn, taker, other] {
                b.disconnect(conn);
            }
            b.seconds(60);
        }
        assert!(b.stat("quota_pauses") >= 4);
    }

    fn who_comes_and_goes_leaves_no_deadlines_behind(b: &mut House) {
        for number in 0..4000 {
            let clean = Connect { clean_start: true, ..lasting(V5, "a") };
            let conn = b.join(&clean);
            b.disconnect(conn);
            assert!(b.stat("deadlines") < 2000, "{number}");
        }
        b.seconds(4000);
        assert_eq!((b.stat("sessions"), b.stat("deadlines")), (0, 0));
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
        let conn = b.stayer(V5, "a");
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
