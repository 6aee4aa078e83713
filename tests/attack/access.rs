//! Attacks on who may do what.

use fieldgate::broker::Origin;
use fieldgate::broker::settings::{AccessSettings, Effect, Order, Pattern, Rule, Rules, Who};
use fieldgate::credential::PasswordHash;
use fieldgate::id::ConnId;
use fieldgate::mqtt::{
    Connect, Packet, Publish, SubscriptionOptions, TopicName, Will, WillProperties,
};

use crate::house::*;
use crate::siege::Siege;

/// Everybody may publish and read below these filters, and nothing else; the two who do nothing
/// wrong may do all.
fn open_to(filters: &[&str]) -> AccessSettings {
    let rule = |who, filter: &str| Rule {
        who,
        effect: Effect::Allow,
        publish: true,
        subscribe: true,
        filter: Pattern::new(filter).unwrap(),
        own: false,
    };
    let mut list: Vec<_> = filters
        .iter()
        .map(|filter| rule(Who::Everybody, filter))
        .collect();
    for client in ["good-publisher", "good-subscriber", "boss"] {
        list.push(rule(Who::Client(client.into()), "#"));
    }
    AccessSettings {
        rules: Some(Rules {
            list,
            order: Order::FirstMatch,
            default: Effect::Deny,
        }),
        ..AccessSettings::default()
    }
}

fn ask(b: &mut House, conn: ConnId, filter: &str) -> String {
    b.subscribe_with(conn, filter, SubscriptionOptions::new(Q1), None);
    b.read(conn)
}

/// Logs in with a password that is right.
fn log_in(b: &mut House, connect: &Connect<'_>) -> ConnId {
    let conn = b.dial(connect);
    let (asked, ..) = b.verifications.pop_front().expect("a password is compared");
    assert_eq!(asked, conn);
    b.verified(conn, true);
    conn
}

fn users(names: &[&str]) -> AccessSettings {
    let hash = format!("$7$101$c2FsdA==${}QQ==", "A".repeat(84));
    let hash = || PasswordHash::parse(&hash).unwrap();
    let users = names.iter().map(|name| (Box::from(*name), hash()));
    AccessSettings {
        users: Some(users.collect()),
        ..AccessSettings::default()
    }
}

fn as_user<'a>(name: &'a str, connect: &Connect<'a>) -> Connect<'a> {
    Connect {
        username: Some(name),
        password: Some(b"right"),
        ..*connect
    }
}

cases! {
    fn a_right_that_is_taken_away_is_gone(b: &mut House) {
        let mut b = Siege::of(b);
        let boss = b.client(V5, "boss");
        let reader = b.stayer(V5, "reader");
        let absent = b.stayer(V5, "absent");
        for conn in [reader, absent] {
            b.subscribe(conn, "plant/#", Q1);
        }
        b.drop_conn(absent);
        b.publish(boss, Q1, "plant/x", "before");
        assert!(b.read(reader).contains("before"));
        b.puback(reader, 1);
        b.set(|settings| settings.access = open_to(&["hall/#"]));
        // The subscription is there, and brings nothing; what waits is not delivered either.
        b.publish(boss, Q1, "plant/x", "after");
        assert_eq!(b.read(reader), "");
        let absent = b.dial(&lasting(V5, "absent"));
        assert!(b.read(absent).ends_with("present"));
        assert_eq!(b.read(absent), "");
        b.calm();
        b.set(|_| {});
        for conn in [boss, reader, absent] {
            b.disconnect(conn);
        }
        b.seconds(3600);
        b.lifted();
    }

    fn templates_without_a_name(b: &mut House) {
        let mut b = Siege::of(b);
        b.set(|settings| settings.access = open_to(&["user/%u/#", "client/%c/#"]));
        for (version, refused) in [(V4, "SUBACK 1 [0x80]"), (V5, "SUBACK 1 [0x87]")] {
            let conn = b.client(version, "nobody");
            for filter in ["user/#", "user//x", "user/%u/x", "user/+/x", "user//#", "client/%c/x"] {
                assert_eq!(ask(&mut b, conn, filter), refused, "{filter}");
            }
            assert_eq!(ask(&mut b, conn, "client/nobody/x"), "SUBACK 1 [0x01]");
            for topic in ["user/x", "user//x", "user/%u/x", "user/nobody/x"] {
                b.publish(conn, Q0, topic, "x");
            }
            b.disconnect(conn);
        }
        assert_eq!(b.stat("refused_publishes"), 8);
        b.calm();
        b.set(|_| {});
        b.lifted();
    }

    fn names_are_not_patterns(b: &mut House) {
        let mut b = Siege::of(b);
        b.set(|settings| settings.access = open_to(&["client/%c/#", "client/%c"]));
        let boss = b.client(V5, "boss");
        let victim = b.client(V5, "victim");
        assert_eq!(ask(&mut b, victim, "client/victim/#"), "SUBACK 1 [0x01]");
        let names = [
            "+", "#", "+/+", ".*", "victim/#", "victim/", "vic.im", "%c", "%u", "^", "*", "v*",
        ];
        for name in names {
            let conn = b.dial(&connect(V5, name));
            assert_eq!(b.read(conn), "CONNACK Success", "{name}");
            for topic in ["client/victim/x", "client/victim"] {
                b.publish(conn, Q1, topic, "x");
                assert_eq!(b.read(conn), "PUBACK 1 0x87", "{name} {topic}");
            }
            assert_eq!(ask(&mut b, conn, "client/victim/x"), "SUBACK 1 [0x87]", "{name}");
            // These may bring what is its own, if its name can be one, and nothing else.
            for filter in ["client/+/x", "client/#", "client/+", "#"] {
                ask(&mut b, conn, filter);
            }
            for topic in ["client/victim/x", "client/victim"] {
                b.publish(boss, Q0, topic, "for one");
            }
            assert_eq!(b.read(conn), "", "{name}");
            b.disconnect(conn);
            assert_eq!(b.read_all(victim).len(), 2);
        }
        b.disconnect(victim);
        b.disconnect(boss);
        b.calm();
        b.set(|_| {});
        b.lifted();
    }

    fn a_session_is_its_users(b: &mut House) {
        let mut b = Siege::of(b);
        b.set(|settings| settings.access = users(&["anna", "mallory"]));
        let anna = as_user("anna", &lasting(V5, "pump"));
        let conn = log_in(&mut b, &anna);
        assert_eq!(b.read(conn), "CONNACK Success");
        b.subscribe(conn, "secret", Q1);
        // Neither taken over nor resumed, nor ended by a clean start.
        for is_connected in [true, false] {
            if !is_connected {
                b.drop_conn(conn);
            }
            for clean_start in [false, true] {
                let theirs = as_user("mallory", &lasting(V5, "pump"));
                let thief = log_in(&mut b, &Connect { clean_start, ..theirs });
                assert_eq!(b.read(thief), "CONNACK Not authorized");
                assert!(!b.is_open(thief));
                assert_eq!(b.is_open(conn), is_connected);
            }
            let nobody = b.dial(&lasting(V5, "pump"));
            assert_eq!(b.read(nobody), "CONNACK Not authorized");
        }
        let conn = log_in(&mut b, &anna);
        assert_eq!(b.read(conn), "CONNACK Success present");
        b.disconnect(conn);
        b.seconds(3600);
        b.set(|_| {});
        b.lifted();
    }

    fn what_is_retained_queued_or_willed_is_asked_for_too(b: &mut House) {
        let mut b = Siege::of(b);
        let boss = b.client(V5, "boss");
        b.set(|settings| settings.access = open_to(&["open/#"]));
        b.retain(boss, "closed/r", "1");
        b.retain(boss, "open/r", "1");
        // The gateway's own retained messages, and what the broker says about itself.
        let system = Publish { retain: true, ..publish(Q0, "$SYS/broker/x", "1") };
        b.say(Origin::System, &system);
        let conn = b.client(V5, "attacker");
        for filter in ["closed/#", "$SYS/#", "$share/g/closed/r", "$SYS/broker/x"] {
            assert_eq!(ask(&mut b, conn, filter), "SUBACK 1 [0x87]", "{filter}");
        }
        assert_eq!(ask(&mut b, conn, "#"), "SUBACK 1 [0x01]");
        assert_eq!(b.read_all(conn), ["PUBLISH open/r q0 retain \"1\""]);
        b.publish(boss, Q1, "closed/x", "live");
        assert_eq!(b.read(conn), "");
        // A will where its client may not publish, and below what the broker says about itself.
        for topic in ["closed/will", "$SYS/broker/will"] {
            let will = Will {
                topic: TopicName::new(topic).unwrap(),
                payload: b"x",
                qos: Q0,
                retain: true,
                properties: WillProperties::default(),
            };
            let willed = b.dial(&Connect { will: Some(will), ..connect(V5, "willed") });
            assert_eq!(b.read(willed), "CONNACK Not authorized");
        }
        for topic in ["$SYS/broker/x", "$SYS/x"] {
            b.send(conn, &Packet::Publish(Publish { retain: true, ..publish(Q1, topic, "no") }));
            assert_eq!(b.read(conn), "PUBACK 1 0x87", "{topic}");
        }
        b.disconnect(conn);
        for topic in ["closed/r", "open/r"] {
            b.retain(boss, topic, "");
        }
        b.say(Origin::System, &Publish { payload: b"", ..system });
        b.disconnect(boss);
        b.set(|_| {});
        b.lifted();
    }
}
