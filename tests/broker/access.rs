//! The gateway's own topics, and who may write them.

use fieldgate::broker::{Origin, Taker};
use fieldgate::id::PointId;
use fieldgate::mqtt::{
    Connect, Packet, Publish, ReasonCode, SubscriptionOptions, TopicFilter, TopicName, Will,
    WillProperties,
};
use fieldgate::slab::Key;

use crate::house::*;

fn protect(b: &mut House) {
    b.broker.protect("shed");
}

cases! {
    fn clients_do_not_write_what_the_gateway_owns(b: &mut House) {
        protect(b);
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "#", Q2);
        for (version, puback, pubrec) in
            [(V4, "PUBACK 1", "PUBREC 1"), (V5, "PUBACK 1 0x87", "PUBREC 1 0x87")]
        {
            let conn = b.client(version, "a");
            for topic in ["shed/pump/running", "shed/gateway/state", "shed", "$SYS/broker/uptime"] {
                b.retain(conn, topic, "forged");
                b.publish(conn, Q1, topic, "forged");
                assert_eq!(b.read(conn), puback);
                b.publish(conn, Q2, topic, "forged");
                assert_eq!(b.read(conn), pubrec);
                if version == V4 {
                    b.pubrel(conn, 1);
                    assert_eq!(b.read(conn), "PUBCOMP 1");
                }
                assert!(b.is_open(conn));
            }
        }
        assert_eq!(b.read(watcher), "");
        assert_eq!((b.stat("refused_publishes"), b.stat("retained")), (24, 0));
        b.retain(watcher, "shedding/x", "not ours");
        assert_eq!(b.stat("retained"), 1);
    }

    fn commands_reach_their_point_and_are_never_stored(b: &mut House) {
        protect(b);
        let point = Taker::Commands(PointId::from_parts(3, 1));
        let options = SubscriptionOptions::new(Q2);
        for filter in ["shed/pump/running/set", "shed/pump/running/get"] {
            b.broker.subscribe(point, TopicFilter::new(filter).unwrap(), options);
        }
        let all = TopicFilter::new("shed/gateway/request/#").unwrap();
        b.broker.subscribe(Taker::Requests, all, options);
        let conn = b.client(V5, "a");
        for (topic, taker) in [
            ("shed/pump/running/set", point),
            ("shed/pump/running/get", point),
            ("shed/gateway/request/read", Taker::Requests),
        ] {
            b.publish(conn, Q1, topic, "on");
            assert_eq!(b.read(conn), "PUBACK 1");
            let delivery = b.deliveries.pop_front().unwrap();
            assert_eq!((delivery.taker, delivery.message.topic()), (taker, topic));
            assert!(!delivery.message.retain());
            let retained = Publish { retain: true, ..publish(Q1, topic, "on") };
            b.send(conn, &Packet::Publish(retained));
            assert_eq!(b.read(conn), "PUBACK 1");
            let delivery = b.deliveries.pop_front().unwrap();
            assert!(delivery.message.retain() && !delivery.is_replay, "so that it can be refused");
        }
        assert_eq!((b.stat("retained"), b.stat("retained_commands")), (0, 3));
        assert!(b.deliveries.is_empty());
    }

    fn the_gateways_own_messages_go_anywhere(b: &mut House) {
        protect(b);
        let conn = b.client(V5, "a");
        b.subscribe(conn, "shed/#", Q1);
        b.subscribe(conn, "$SYS/#", Q1);
        let value = Publish { retain: true, ..publish(Q1, "shed/pump/running", "true") };
        let published = b.say(Origin::Field, &value);
        assert_eq!((published.matched, published.refused), (1, None));
        assert_eq!(published.lsn, fieldgate::id::Lsn(0), "nobody waits for it to be kept");
        assert_eq!(b.read(conn), "PUBLISH shed/pump/running q1 #1 \"true\"");
        let uptime = Publish { retain: true, ..publish(Q0, "$SYS/broker/uptime", "1") };
        b.say(Origin::System, &uptime);
        assert_eq!(b.read(conn), "PUBLISH $SYS/broker/uptime q0 \"1\"");
        assert_eq!(b.stat("retained"), 2);
        let bad = b.say(Origin::System, &publish(Q0, "a/+", "x"));
        assert_eq!(bad.refused, Some(ReasonCode::TopicNameInvalid));
    }

    fn a_will_on_the_gateways_topics_is_refused_at_once(b: &mut House) {
        protect(b);
        let will = |topic| Some(Will {
            topic: TopicName::new(topic).unwrap(),
            payload: b"x",
            qos: Q0,
            retain: false,
            properties: WillProperties::default(),
        });
        let conn = b.dial(&Connect { will: will("shed/gateway/state"), ..connect(V5, "a") });
        assert_eq!(b.read(conn), "CONNACK Not authorized");
        let conn = b.dial(&Connect { will: will("shed/pump/running/set"), ..connect(V4, "a") });
        assert_eq!(b.read(conn), "CONNACK Success", "a will may be a command");
    }
}
