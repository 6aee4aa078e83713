//! What a broker may be set not to offer, and what a client may ask not to be told.

use fieldgate::mqtt::{
    Connect, ConnectProperties, Packet, PayloadFormat, Publish, PublishProperties,
    SubscriptionOptions, TopicName, Will, WillProperties,
};

use crate::house::*;

fn with_will(qos: fieldgate::mqtt::QoS, retain: bool) -> Connect<'static> {
    let will = Will {
        topic: TopicName::new("will").unwrap(),
        payload: b"",
        qos,
        retain,
        properties: WillProperties::default(),
    };
    Connect {
        will: Some(will),
        ..connect(V5, "w")
    }
}

cases! {
    fn the_maximum_qos_is_told_and_held_to(b: &mut House) {
        b.set(|settings| settings.maximum_qos = Q1);
        let conn = b.dial(&connect(V5, "a"));
        b.read_with(conn, |packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            assert_eq!(connack.properties.maximum_qos, Some(Q1));
        });
        b.subscribe_with(conn, "x", SubscriptionOptions::new(Q2), None);
        assert_eq!(b.read(conn), "SUBACK 1 [0x01]", "every QoS may be asked for");
        b.publish(conn, Q1, "y", "");
        assert_eq!(b.read(conn), "PUBACK 1 0x10");
        b.publish(conn, Q2, "y", "");
        assert_eq!(b.read(conn), "DISCONNECT 0x9b");
        let old = b.client(V4, "b");
        b.publish(old, Q2, "y", "");
        assert!(!b.is_open(old));
        let will = b.dial(&with_will(Q2, false));
        assert!(b.read(will).contains("QoS not supported"));
    }

    fn nothing_comes_above_the_qos_that_was_granted(b: &mut House) {
        let publisher = b.client(V5, "publisher");
        b.send(publisher, &Packet::Publish(Publish { retain: true, ..publish(Q2, "t", "old") }));
        b.set(|settings| settings.maximum_qos = Q1);
        for version in [V4, V5] {
            let conn = b.client(version, "a");
            b.subscribe_with(conn, "t", SubscriptionOptions::new(Q2), None);
            assert_eq!(b.read(conn), "SUBACK 1 [0x01]");
            assert_eq!(b.read(conn), "PUBLISH t q1 #1 retain \"old\"", "from before");
            b.say(fieldgate::broker::Origin::Field, &publish(Q2, "t", "own"));
            assert_eq!(b.read(conn), "PUBLISH t q1 #2 \"own\"", "our own");
            b.disconnect(conn);
        }
    }

    fn retain_can_be_unavailable(b: &mut House) {
        b.set(|settings| settings.retain_available = false);
        let conn = b.dial(&connect(V5, "a"));
        b.read_with(conn, |packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            assert_eq!(connack.properties.retain_available, Some(false));
        });
        b.retain(conn, "x", "y");
        assert_eq!(b.read(conn), "DISCONNECT 0x9a");
        let will = b.dial(&with_will(Q0, true));
        assert!(b.read(will).contains("Retain not supported"));
        assert_eq!(b.stat("retained"), 0);
    }

    fn kinds_of_subscriptions_can_be_unavailable(b: &mut House) {
        b.set(|settings| {
            settings.wildcard_subscriptions = false;
            settings.shared_subscriptions = false;
            settings.subscription_identifiers = false;
        });
        let conn = b.dial(&connect(V5, "a"));
        b.read_with(conn, |packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            let properties = &connack.properties;
            assert_eq!(properties.wildcard_subscription_available, Some(false));
            assert_eq!(properties.shared_subscription_available, Some(false));
            assert_eq!(properties.subscription_identifier_available, Some(false));
        });
        for (filter, answer) in [("a/+", "0xa2"), ("$share/g/a", "0x9e"), ("a", "0x00")] {
            b.subscribe_with(conn, filter, SubscriptionOptions::new(Q0), None);
            assert_eq!(b.read(conn), format!("SUBACK 1 [{answer}]"));
        }
        b.subscribe_with(conn, "b", SubscriptionOptions::new(Q0), Some(1));
        assert_eq!(b.read(conn), "DISCONNECT 0xa1");
    }

    fn response_information_is_given_to_who_asks(b: &mut House) {
        b.set(|settings| settings.response_information = Some("reply".into()));
        for (asks, expected) in [(None, None), (Some(false), None), (Some(true), Some("reply"))] {
            let conn = b.dial(&Connect {
                properties: ConnectProperties {
                    request_response_information: asks,
                    ..ConnectProperties::default()
                },
                ..connect(V5, "a")
            });
            b.read_with(conn, |packet| {
                let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
                assert_eq!(connack.properties.response_information, expected);
            });
        }
    }

    fn reasons_are_explained_unless_a_client_does_not_want_that(b: &mut House) {
        b.broker.protect("shed");
        for (wants, expected) in [(None, true), (Some(true), true), (Some(false), false)] {
            let conn = b.join(&Connect {
                properties: ConnectProperties {
                    request_problem_information: wants,
                    ..ConnectProperties::default()
                },
                ..connect(V5, "a")
            });
            b.publish(conn, Q1, "shed/x", "");
            b.read_with(conn, |packet| {
                let Packet::Puback(ack) = packet else { panic!("{packet:?}") };
                assert_eq!(ack.properties.reason_string.is_some(), expected);
            });
            b.send_bytes(conn, &[0xF1, 0]);
            b.read_with(conn, |packet| {
                let Packet::Disconnect(disconnect) = packet else { panic!("{packet:?}") };
                assert!(disconnect.properties.reason_string.is_some(), "DISCONNECT may always");
            });
        }
    }

    fn a_payload_is_what_it_says_if_that_is_asked_for(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "x", Q2);
        let text = |qos, payload: &'static [u8]| Publish {
            payload,
            properties: PublishProperties {
                payload_format_indicator: Some(PayloadFormat::Utf8),
                ..PublishProperties::default()
            },
            ..publish(qos, "x", "")
        };
        let conn = b.client(V5, "a");
        b.send(conn, &Packet::Publish(text(Q1, b"\xff")));
        assert_eq!(b.read(conn), "PUBACK 1");
        b.set(|settings| settings.check_payload_format = true);
        b.read_all(watcher);
        b.send(conn, &Packet::Publish(text(Q0, b"\xff")));
        b.send(conn, &Packet::Publish(text(Q1, b"\xff")));
        assert_eq!(b.read(conn), "PUBACK 1 0x99");
        b.send(conn, &Packet::Publish(text(Q2, b"\xff")));
        assert_eq!(b.read(conn), "PUBREC 1 0x99");
        assert_eq!((b.read(watcher), b.stat("refused_payload_formats")), (String::new(), 3));
        b.send(conn, &Packet::Publish(text(Q0, "ü".as_bytes())));
        assert_eq!(b.read(watcher), "PUBLISH x q0 \"ü\"");
    }
}
