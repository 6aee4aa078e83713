//! What the rules let clients do, and that they are asked each time.

use fieldgate::broker::settings::{AccessSettings, Effect, Order, Pattern, Rule, Rules, Who};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{Connect, Packet, QoS, SubscriptionOptions, TopicName, Will, WillProperties};

use crate::house::*;

/// `allow c:NAME ps FILTER` and so on; `*` is everybody.
fn rules(lines: &[&str]) -> AccessSettings {
    let rule = |line: &&str| {
        let words: Vec<_> = line.split(' ').collect();
        let [effect, who, verbs, filter] = words[..] else {
            panic!("{line}");
        };
        Rule {
            who: who
                .strip_prefix("c:")
                .map_or(Who::Everybody, |client| Who::Client(client.into())),
            effect: if effect == "allow" {
                Effect::Allow
            } else {
                Effect::Deny
            },
            publish: verbs.contains('p'),
            subscribe: verbs.contains('s'),
            filter: Pattern::new(filter).unwrap(),
            own: verbs.contains('o'),
        }
    };
    let list = lines.iter().map(rule).collect();
    let rules = Rules {
        list,
        order: Order::FirstMatch,
        default: Effect::Deny,
    };
    AccessSettings {
        rules: Some(rules),
        ..AccessSettings::default()
    }
}

fn set(b: &mut House, lines: &[&str]) {
    b.set(|settings| settings.access = rules(lines));
}

fn house(b: &mut House) -> ConnId {
    set(
        b,
        &[
            "allow * s open/#",
            "allow c:a p open/#",
            "allow c:boss ps #",
        ],
    );
    let boss = b.client(V5, "boss");
    b.subscribe(boss, "#", Q2);
    boss
}

cases! {
    fn who_may_not_publish_is_told_and_nobody_else_is(b: &mut House) {
        let boss = house(b);
        for (version, puback, pubrec) in
            [(V4, "PUBACK 1", "PUBREC 1"), (V5, "PUBACK 1 0x87", "PUBREC 1 0x87")]
        {
            let conn = b.client(version, "b");
            b.publish(conn, Q0, "open/x", "no");
            b.retain(conn, "open/x", "no");
            b.publish(conn, Q1, "open/x", "no");
            assert_eq!(b.read(conn), puback);
            b.publish(conn, Q2, "open/x", "no");
            assert_eq!(b.read(conn), pubrec);
            assert!(b.is_open(conn));
            b.disconnect(conn);
        }
        let conn = b.client(V5, "a");
        b.publish(conn, Q1, "open/x", "yes");
        assert_eq!(b.read(conn), "PUBACK 1");
        b.publish(conn, Q1, "closed/x", "no");
        assert_eq!(b.read(conn), "PUBACK 1 0x87");
        assert_eq!(b.read_all(boss), ["PUBLISH open/x q1 #1 \"yes\""]);
        assert_eq!((b.stat("retained"), b.stat("refused_publishes")), (0, 9));
    }

    fn a_filter_that_can_bring_nothing_is_refused(b: &mut House) {
        house(b);
        for (version, refused) in [(V4, "0x80"), (V5, "0x87")] {
            let conn = b.client(version, "b");
            for (filter, answer) in [
                ("closed/#", refused), ("$share/g/closed", refused), ("$SYS/#", refused),
                ("#", "0x00"), ("open", "0x00"), ("$share/g/+/x", "0x00"),
            ] {
                b.subscribe_with(conn, filter, SubscriptionOptions::new(Q0), None);
                assert_eq!(b.read(conn), format!("SUBACK 1 [{answer}]"), "{filter}");
            }
            b.disconnect(conn);
        }
        assert_eq!(b.stat("refused_subscriptions"), 6);
    }

    fn each_delivery_is_asked_for_live_and_retained(b: &mut House) {
        let boss = house(b);
        b.retain(boss, "open/old", "1");
        b.retain(boss, "closed/old", "1");
        let conn = b.client(V5, "b");
        b.subscribe_with(conn, "#", SubscriptionOptions::new(Q1), None);
        b.read(conn);
        assert_eq!(b.read_all(conn), ["PUBLISH open/old q0 retain \"1\""]);
        for qos in [Q0, Q1] {
            b.publish(boss, qos, "closed/new", "2");
            b.publish(boss, qos, "open/new", "2");
        }
        assert_eq!(b.read_all(conn), [
            "PUBLISH open/new q0 \"2\"", "PUBLISH open/new q1 #1 \"2\"",
        ]);
        assert_eq!(b.stat("refused_deliveries"), 3);
    }

    fn a_group_passes_over_members_that_may_not_have_it(b: &mut House) {
        set(b, &["deny c:low s secret/#", "allow * ps #"]);
        let (low, high) = (b.client(V5, "low"), b.client(V5, "high"));
        for conn in [low, high] {
            b.subscribe(conn, "$share/g/#", Q1);
        }
        let publisher = b.client(V5, "publisher");
        for _ in 0..4 {
            b.publish(publisher, Q0, "secret/x", "");
        }
        assert_eq!((b.read_all(low).len(), b.read_all(high).len()), (0, 4));
    }

    fn new_rules_reach_what_waits_and_what_was_subscribed(b: &mut House) {
        let boss = house(b);
        let conn = b.stayer(V5, "b");
        b.subscribe(conn, "open/#", Q1);
        b.drop_conn(conn);
        b.publish(boss, Q1, "open/a", "1");
        b.publish(boss, Q1, "open/b", "1");
        set(b, &["deny * s open/a", "allow * ps #"]);
        b.publish(boss, Q1, "open/a", "2");
        let conn = b.stayer(V5, "b");
        assert_eq!(b.read_all(conn), ["PUBLISH open/b q1 #1 \"1\""]);
        set(b, &["allow * ps #"]);
        b.publish(boss, Q1, "open/a", "3");
        assert_eq!(b.read_all(conn), ["PUBLISH open/a q1 #2 \"3\""], "it is still subscribed");
        assert_eq!(b.stat("queued"), 0);
    }

    fn what_was_found_of_a_topic_is_not_believed_after_a_change(b: &mut House) {
        let boss = house(b);
        let conn = b.client(V5, "a");
        let say = |b: &mut House| {
            b.publish(conn, Q1, "open/x", "");
            (b.read(conn), b.read_all(boss).len())
        };
        assert_eq!(say(b), ("PUBACK 1".into(), 1));
        assert_eq!(say(b), ("PUBACK 1".into(), 1));
        set(b, &["allow c:boss ps #", "deny * ps #"]);
        assert_eq!(say(b), ("PUBACK 1 0x87".into(), 0), "it may not publish any more");
        set(b, &["deny c:boss s open/x", "allow * ps #"]);
        assert_eq!(say(b), ("PUBACK 1 0x10".into(), 0), "nobody may have it any more");
        set(b, &["allow * ps #"]);
        assert_eq!(say(b), ("PUBACK 1".into(), 1));
        b.broker.protect("open");
        assert_eq!(say(b), ("PUBACK 1 0x87".into(), 0), "it is the gateway's");
        b.broker.protect("");
        let other = b.client(V5, "other");
        b.subscribe(other, "open/+", Q0);
        assert_eq!(say(b), ("PUBACK 1".into(), 1));
        assert_eq!(b.read_all(other).len(), 1);
        b.drop_conn(other);
        // Who comes back under a name is another, to whom other rules apply.
        set(b, &["deny c:a p open/x", "allow * ps #"]);
        assert_eq!(say(b), ("PUBACK 1 0x87".into(), 0));
        let other = b.client(V5, "other");
        b.publish(other, Q1, "open/x", "");
        assert_eq!(b.read(other), "PUBACK 1");
    }

    fn a_will_is_asked_for_at_connect_and_when_it_is_published(b: &mut House) {
        let boss = house(b);
        let will = |topic| Will {
            topic: TopicName::new(topic).unwrap(),
            payload: b"gone",
            qos: QoS::AtMostOnce,
            retain: false,
            properties: WillProperties::default(),
        };
        let with_will = |topic| Connect { will: Some(will(topic)), ..connect(V5, "a") };
        let conn = b.dial(&with_will("closed/x"));
        assert_eq!(b.read(conn), "CONNACK Not authorized");
        let conn = b.join(&with_will("open/x"));
        b.drop_conn(conn);
        assert_eq!(b.read_all(boss), ["PUBLISH open/x q0 \"gone\""]);
        let conn = b.join(&with_will("open/x"));
        set(b, &["allow c:boss ps #"]);
        b.drop_conn(conn);
        assert_eq!(b.read(boss), "", "it may not any more");
    }

    fn only_a_rule_that_says_so_lets_a_client_speak_for_the_gateway(b: &mut House) {
        b.broker.protect("shed");
        set(b, &["allow c:a po shed/#", "allow * p #"]);
        for (name, answer) in [("a", "PUBACK 1 0x10"), ("b", "PUBACK 1 0x87")] {
            let conn = b.client(V5, name);
            b.send(conn, &Packet::Publish(publish(Q1, "shed/pump/running", "on")));
            assert_eq!(b.read(conn), answer);
        }
        let a = b.client(V5, "a");
        b.publish(a, Q1, "$SYS/x", "");
        assert_eq!(b.read(a), "PUBACK 1 0x87", "that is nobody's");
    }
}
