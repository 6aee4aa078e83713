//! What the peer does not take: adapted where it may be, else a dead letter.

use core::num::NonZeroU32;

use super::house::*;
use fieldgate::bridge::DeadReason;
use fieldgate::bridge::settings::Profile;
use fieldgate::mqtt::{ConnackProperties, Disconnect, Packet, ReasonCode, ReceiveMaximum};
use fieldgate::time::Duration;

#[test]
fn the_peers_limits_are_obeyed() {
    let mut rules = settings();
    rules.send[0].qos = Q2;
    let mut rig = Rig::new(rules);
    rig.connect_with(
        false,
        ConnackProperties {
            maximum_qos: Some(Q1),
            retain_available: Some(false),
            maximum_packet_size: NonZeroU32::new(200),
            receive_maximum: ReceiveMaximum::new(2),
            ..ConnackProperties::default()
        },
    );
    rig.send("shed/a", "1", true);
    rig.send("shed/a", &"x".repeat(300), true);
    rig.send("shed/a", "2", true);
    rig.send("shed/a", "3", true);
    let sent = rig.publishes();
    assert_eq!(payloads(&sent), ["1", "2"], "two at a time");
    assert!(sent.iter().all(|it| it.qos == Q1 && !it.retain));
    rig.ack_all(&sent);
    assert_eq!(payloads(&rig.publishes()), ["3"]);
    assert!(matches!(
        rig.dead[..],
        [(_, DeadReason::TooLarge { max: 200, .. })]
    ));
    assert_eq!(rig.bridge.stats().lowered_qos, 3);
    assert_eq!(rig.bridge.stats().dead_letters, 1);
}

#[test]
fn a_peer_that_takes_less_than_the_one_before_gets_less() {
    let mut rules = settings();
    rules.send[0].qos = Q2;
    let mut rig = Rig::new(rules);
    rig.connect();
    rig.send("shed/a", "1", true);
    assert_eq!(rig.publishes()[0].qos, Q2);
    rig.cut(false);
    rig.pause();
    rig.connect_with(
        false,
        ConnackProperties {
            maximum_qos: Some(Q0),
            ..ConnackProperties::default()
        },
    );
    let sent = rig.publishes();
    assert_eq!((payloads(&sent), sent[0].qos), (vec!["1"], Q0));
    assert_eq!((rig.status().queue_length, rig.status().inflight), (0, 0));
    assert!(rig.dead.is_empty());
}

#[test]
fn a_profile_says_what_its_broker_never_takes() {
    let mut rules = settings();
    rules.profile = Profile::Aws;
    rules.keep_alive = 0;
    let mut rig = Rig::new(rules);
    rig.open();
    let packets = rig.packets();
    let Ok(Packet::Connect(connect)) = Packet::parse(V5, &packets[0]) else {
        panic!("no CONNECT");
    };
    assert_eq!(connect.keep_alive, 1200);
    rig.connack(false, ConnackProperties::default());
    rig.send("shed/2/3/4/5/6/7/8/9", "deep", false);
    rig.send("shed/a", &"x".repeat(128 * 1024 + 1), false);
    assert_eq!(
        rig.dead,
        [
            ("shed/2/3/4/5/6/7/8/9".into(), DeadReason::TopicOutOfProfile),
            (
                "shed/a".into(),
                DeadReason::TooLarge {
                    len: 128 * 1024 + 1,
                    max: 128 * 1024
                }
            ),
        ]
    );
    // A hundred a second, in all.
    let mut count = 0;
    for number in 0..300 {
        rig.send("shed/a", &number.to_string(), false);
    }
    for _ in 0..100 {
        let sent = rig.publishes();
        count += sent.len();
        rig.ack_all(&sent);
        rig.wait(Duration::from_millis(10));
    }
    assert!((90..=120).contains(&count), "{count}");
}

#[test]
fn what_the_peer_refuses_for_ever_is_a_dead_letter_and_the_queue_moves_on() {
    for reason in [
        ReasonCode::TopicNameInvalid,
        ReasonCode::PayloadFormatInvalid,
        ReasonCode::NotAuthorized,
    ] {
        let mut rig = Rig::new(settings());
        rig.connect();
        rig.send("shed/bad", "1", false);
        rig.send("shed/good", "2", false);
        let sent = rig.publishes();
        rig.nack(sent[0].packet_id.unwrap(), reason);
        rig.ack(sent[1].packet_id.unwrap());
        assert_eq!(rig.dead, [("shed/bad".into(), DeadReason::Refused(reason))]);
        assert_eq!(rig.status().queue_length, 0);
    }
}

#[test]
fn what_the_peer_refuses_for_now_is_sent_again() {
    let mut rig = Rig::new(settings());
    rig.connect();
    rig.send("shed/a", "1", false);
    for _ in 0..10 {
        let sent = rig.publishes();
        assert_eq!(payloads(&sent), ["1"]);
        assert!(!sent[0].dup, "it is a new packet");
        rig.nack(sent[0].packet_id.unwrap(), ReasonCode::QuotaExceeded);
        assert!(rig.publishes().is_empty(), "not at once");
        rig.seconds(6);
    }
    let sent = rig.publishes();
    rig.ack_all(&sent);
    assert_eq!(rig.bridge.stats().put_off, 10);
    assert!(rig.dead.is_empty());
    // Without a reason it is tried three times.
    rig.send("shed/b", "2", false);
    for _ in 0..3 {
        let sent = rig.publishes();
        rig.nack(sent[0].packet_id.unwrap(), ReasonCode::UnspecifiedError);
        rig.seconds(6);
    }
    let reason = DeadReason::Refused(ReasonCode::UnspecifiedError);
    assert_eq!(rig.dead, [("shed/b".into(), reason)]);
}

#[test]
fn a_message_that_the_peer_closes_for_is_found_and_put_aside() {
    for says_why in [false, true] {
        let mut rig = Rig::new(settings());
        for payload in ["1", "poison", "2", "3"] {
            let topic = format!("shed/{payload}");
            rig.send(&topic, payload, false);
        }
        let mut arrived = Vec::new();
        let mut connections = 0;
        while arrived.len() < 3 {
            connections += 1;
            assert!(connections < 20, "it is not found: {arrived:?}");
            rig.connect_with(connections > 1, ConnackProperties::default());
            'connection: loop {
                let sent = rig.publishes();
                if sent.is_empty() {
                    break;
                }
                for it in sent {
                    if it.payload == "poison" {
                        if says_why {
                            let reason = ReasonCode::TopicNameInvalid;
                            rig.receive(&Packet::Disconnect(Disconnect::new(reason)));
                        } else {
                            rig.cut(true);
                        }
                        break 'connection;
                    }
                    arrived.push(it.payload);
                    rig.ack(it.packet_id.unwrap());
                }
            }
            if arrived.len() < 3 {
                rig.pause();
            }
        }
        assert_eq!(arrived, ["1", "2", "3"]);
        assert_eq!(
            rig.dead,
            [("shed/poison".into(), DeadReason::ClosesConnection)]
        );
        assert_eq!(rig.status().queue_length, 0);
    }
}

#[test]
fn a_line_that_breaks_puts_no_message_under_suspicion() {
    let mut rig = Rig::new(settings());
    rig.send("shed/a", "1", false);
    for round in 0..20 {
        rig.connect_with(round > 0, ConnackProperties::default());
        assert_eq!(payloads(&rig.publishes()), ["1"]);
        rig.cut(false);
        rig.pause();
    }
    assert!(rig.dead.is_empty());
    assert_eq!(rig.status().queue_length, 1);
}
