//! Attacks by the order of things: takeovers, resumptions, QoS 2, subscriptions that come and go.

use fieldgate::id::ConnId;
use fieldgate::mqtt::{Connect, Packet, TopicName, Will, WillProperties};
use fieldgate::rng::Rng;

use crate::house::*;
use crate::siege::Siege;

/// A client that stays for an hour, and leaves a will after so many seconds.
fn with_will(id: &str, delay: u32) -> Connect<'_> {
    Connect {
        will: Some(Will {
            topic: TopicName::new("wills").unwrap(),
            payload: b"gone",
            qos: Q1,
            retain: false,
            properties: WillProperties {
                will_delay_interval: Some(delay),
                ..WillProperties::default()
            },
        }),
        ..lasting(V5, id)
    }
}

/// A connection that is closed from here on, if it was not.
fn drop_if_open(b: &mut House, conn: ConnId) {
    if b.is_open(conn) {
        b.drop_conn(conn);
    }
}

cases! {
    fn identifiers_that_are_never_released(b: &mut House) {
        let mut b = Siege::of(b);
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q0);
        // 5.0: no more than the Receive Maximum.
        let conn = b.client(V5, "attacker");
        for number in 1..=21 {
            b.send(conn, &Packet::Publish(numbered(number, Q2, "t", "x")));
        }
        assert!(!b.is_open(conn));
        assert_eq!(b.read_all(conn).last().unwrap(), "DISCONNECT 0x93");
        assert_eq!(b.read_all(taker).len(), 20);
        // 3.1.1: as many as there are, two bytes each, and no message twice.
        let conn = b.stayer(V4, "attacker");
        let before = b.held();
        for number in (1..=u16::MAX).chain(1..=1000) {
            b.push(conn, &Packet::Publish(numbered(number, Q2, "t", "x")));
            if number % 10_000 == 0 {
                b.turn();
            }
        }
        b.turn();
        assert!(b.held() - before < 400_000, "{} bytes", b.held());
        assert_eq!(b.read_all(taker).len(), 65_535);
        assert_eq!(b.stat("duplicates_received"), 1000);
        b.calm();
        b.disconnect(conn);
        let conn = b.client(V4, "attacker");
        b.disconnect(conn);
        b.disconnect(taker);
        b.lifted();
    }

    fn subscriptions_and_takeovers_in_any_order(b: &mut House) {
        let mut b = Siege::of(b);
        let mut rng = Rng::from_seed(11);
        let filters = ["a", "a/#", "+", "a/+", "#", "$share/g/a", "$share/g/#", "$share/h/a", "a/b"];
        let names = ["one", "two", "three"];
        let mut conns: Vec<ConnId> = Vec::new();
        for step in 0..3000 {
            let pick = |rng: &mut Rng, count: usize| rng.below(count as u64) as usize;
            match rng.below(8) {
                0 => {
                    let version = [V4, V5][pick(&mut rng, 2)];
                    let clean_start = rng.below(3) == 0;
                    let name = names[pick(&mut rng, 3)];
                    let conn = b.dial(&Connect { clean_start, ..lasting(version, name) });
                    conns.push(conn);
                }
                1 if !conns.is_empty() => {
                    let conn = conns.swap_remove(pick(&mut rng, conns.len()));
                    drop_if_open(&mut b, conn);
                }
                2..=4 if !conns.is_empty() => {
                    let conn = conns[pick(&mut rng, conns.len())];
                    if b.is_open(conn) {
                        let filter = filters[pick(&mut rng, filters.len())];
                        let qos = [Q0, Q1, Q2][pick(&mut rng, 3)];
                        let options = fieldgate::mqtt::SubscriptionOptions::new(qos);
                        b.subscribe_with(conn, filter, options, None);
                    }
                }
                5 if !conns.is_empty() => {
                    let conn = conns[pick(&mut rng, conns.len())];
                    if b.is_open(conn) {
                        b.unsubscribe(conn, filters[pick(&mut rng, filters.len())]);
                    }
                }
                6 if !conns.is_empty() => {
                    let conn = conns[pick(&mut rng, conns.len())];
                    if b.is_open(conn) {
                        let qos = [Q0, Q1][pick(&mut rng, 2)];
                        b.publish(conn, qos, ["a", "a/b", "c"][pick(&mut rng, 3)], "x");
                    }
                }
                _ => b.wait(fieldgate::time::Duration::from_secs(rng.below(2))),
            }
            if step % 500 == 0 {
                b.calm();
            }
        }
        for conn in conns {
            drop_if_open(&mut b, conn);
        }
        b.seconds(8 * 24 * 3600);
        b.lifted();
    }

    fn resumption_meets_takeover_will_and_expiry(b: &mut House) {
        let mut b = Siege::of(b);
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "wills", Q0);
        let brief = |id| {
            let mut connect = with_will(id, 5);
            connect.properties.session_expiry_interval = Some(5);
            connect
        };
        // The connection breaks, and its client is back before, at, and after the end of both.
        for (wait, present, wills) in [(4, true, 0), (5, false, 1), (6, false, 1)] {
            let first = b.dial(&brief("a"));
            assert!(b.read(first).starts_with("CONNACK Success"));
            b.subscribe(first, "queue", Q1);
            b.drop_conn(first);
            b.publish(watcher, Q1, "queue", "kept");
            b.read(watcher);
            b.seconds(wait);
            assert_eq!(b.read_all(watcher).len(), wills, "{wait}");
            let second = b.dial(&brief("a"));
            let answer = b.read(second);
            assert_eq!(answer.ends_with("present"), present, "{wait}");
            assert_eq!(b.read_all(second).len(), usize::from(present));
            // And is taken over at once, twice, by who means to stay and by who does not.
            let third = b.dial(&brief("a"));
            assert!(!b.is_open(second));
            assert!(b.read(third).ends_with("present"));
            let fourth = b.dial(&Connect { clean_start: true, ..connect(V5, "a") });
            assert_eq!(b.read(fourth), "CONNACK Success");
            // Its session is over, so its will goes out at once.
            assert_eq!(b.read_all(watcher).len(), 1);
            b.disconnect(fourth);
            b.seconds(10);
            assert_eq!(b.read_all(watcher).len(), 0);
            b.calm();
        }
        b.disconnect(watcher);
        b.lifted();
    }

    fn exactly_once_wherever_the_connection_breaks(b: &mut House) {
        let mut b = Siege::of(b);
        // Towards us: it breaks after each packet of the handshake.
        let taker = b.client(V5, "taker");
        b.subscribe(taker, "t", Q0);
        for version in [V4, V5] {
            for broken in 0..=3 {
                let name = format!("{version}-{broken}");
                let mut conn = b.stayer(version, &name);
                let message = numbered(7, Q2, "t", &name);
                for step in 0..2 {
                    let dup = step > 0;
                    b.send(conn, &Packet::Publish(fieldgate::mqtt::Publish { dup, ..message }));
                    if step == 0 && broken == 1 {
                        b.drop_conn(conn);
                        conn = b.dial(&lasting(version, &name));
                    }
                }
                if broken == 2 {
                    b.drop_conn(conn);
                    conn = b.dial(&lasting(version, &name));
                }
                b.pubrel(conn, 7);
                if broken == 3 {
                    b.drop_conn(conn);
                    conn = b.dial(&lasting(version, &name));
                    b.pubrel(conn, 7);
                }
                let answers = b.read_all(conn);
                assert!(answers.last().unwrap().starts_with("PUBCOMP 7"), "{answers:?}");
                assert_eq!(b.read_all(taker).len(), 1, "{name}");
                let conn = b.join(&Connect { clean_start: true, ..connect(version, &name) });
                b.disconnect(conn);
            }
        }
        b.disconnect(taker);
        // Towards the client: it has taken the message once it has said PUBREC.
        let publisher = b.client(V5, "publisher");
        for version in [V4, V5] {
            let conn = b.stayer(version, "receiver");
            b.subscribe(conn, "r", Q2);
            b.publish(publisher, Q2, "r", "once");
            assert_eq!(b.read(conn), "PUBLISH r q2 #1 \"once\"");
            b.drop_conn(conn);
            let conn = b.dial(&lasting(version, "receiver"));
            assert!(b.read(conn).ends_with("present"));
            assert_eq!(b.read(conn), "PUBLISH r q2 #1 dup \"once\"");
            b.pubrec(conn, 1);
            assert_eq!(b.read(conn), "PUBREL 1");
            b.drop_conn(conn);
            let conn = b.dial(&lasting(version, "receiver"));
            b.read(conn);
            assert_eq!(b.read(conn), "PUBREL 1", "the message is not sent again");
            b.pubcomp(conn, 1);
            b.drop_conn(conn);
            let conn = b.dial(&lasting(version, "receiver"));
            b.read(conn);
            assert_eq!(b.read(conn), "");
            b.disconnect(conn);
            let conn = b.join(&Connect { clean_start: true, ..connect(version, "receiver") });
            b.disconnect(conn);
            b.pubrel(publisher, 1);
            b.read_all(publisher);
        }
        b.disconnect(publisher);
        b.lifted();
    }

    fn a_session_comes_back_under_its_own_name_only(b: &mut House) {
        let mut b = Siege::of(b);
        let conn = b.stayer(V5, "device");
        b.subscribe(conn, "secret", Q1);
        b.drop_conn(conn);
        let publisher = b.client(V5, "publisher");
        b.publish(publisher, Q1, "secret", "x");
        b.disconnect(publisher);
        let others = ["", "Device", "device ", "devic", "device\u{200B}", "\u{FF44}evice", "device/#"];
        for name in others {
            let conn = b.dial(&lasting(V5, name));
            let answer = b.read(conn);
            assert!(!answer.contains("present"), "{name:?} {answer}");
            assert_eq!(b.read(conn), "", "{name:?}");
            drop_if_open(&mut b, conn);
        }
        // An identifier that is in use is no reason to take another message for this one.
        let conn = b.dial(&lasting(V5, "device"));
        assert!(b.read(conn).ends_with("present"));
        assert_eq!(b.read(conn), "PUBLISH secret q1 #1 \"x\"");
        for number in 2..=3 {
            b.publish(conn, Q1, "secret", "y");
            let mut got = b.read_all(conn);
            got.sort();
            assert_eq!(got, ["PUBACK 1".to_owned(), format!("PUBLISH secret q1 #{number} \"y\"")]);
        }
        b.drop_conn(conn);
        b.seconds(3600);
        b.lifted();
    }
}
