//! Dialling, backing off, falling over and back, versions and refusals.

use super::house::*;
use fieldgate::bridge::settings::{Reconnect, Settings, Version};
use fieldgate::bridge::{Credentials, Phase};
use fieldgate::mqtt::{ConnackProperties, Packet, ReasonCode};
use fieldgate::time::Duration;

fn two_endpoints() -> Settings {
    Settings {
        endpoints: vec![endpoint("one"), endpoint("two")],
        failback: Some(Duration::from_secs(300)),
        ..settings()
    }
}

fn version_of(connect: &[u8]) -> u8 {
    assert_eq!(connect[0], 0x10, "CONNECT");
    connect[8]
}

#[test]
fn pauses_grow_and_a_steady_connection_makes_them_short_again() {
    let mut rig = Rig::new(settings());
    let mut longest = Duration::ZERO;
    for attempt in 0..12 {
        rig.unreachable();
        assert_eq!(rig.bridge.phase(), Phase::Waiting);
        let pause = rig.pause();
        assert!(
            pause <= Duration::from_secs(1 << attempt.min(7)),
            "{pause:?}"
        );
        longest = longest.max(pause);
    }
    let max = Reconnect::default().max;
    assert!(longest >= max / 2 && longest <= max, "{longest:?}");
    // Up, but not for long: that is no better than not at all.
    rig.connect();
    rig.cut(true);
    assert!(rig.pause() >= max / 2);
    rig.connect();
    rig.seconds(11);
    rig.cut(true);
    assert!(rig.pause() <= Duration::from_secs(1));
    assert_eq!(rig.status().last_error.as_deref(), Some("connection lost"));
    assert_eq!(
        (rig.bridge.stats().lost, rig.bridge.stats().connects),
        (2, 2)
    );
}

#[test]
fn endpoints_are_tried_in_order_and_the_first_takes_over_again() {
    let mut rig = Rig::new(two_endpoints());
    assert_eq!(rig.dials, [endpoint("one")]);
    rig.unreachable();
    assert_eq!(rig.dials, [endpoint("two")], "at once");
    rig.unreachable();
    assert!(rig.dials.is_empty(), "after the last one there is a pause");
    rig.pause();
    assert_eq!(rig.dials, [endpoint("one")]);
    rig.unreachable();
    rig.connect();
    assert_eq!(rig.status().endpoint, 1);
    let first = rig.conn;
    // The first is tried while the link stays up.
    rig.alive(301);
    assert_eq!(rig.dials, [endpoint("one")]);
    rig.unreachable();
    assert_eq!((rig.bridge.phase(), rig.conn), (Phase::Up, first));
    rig.alive(301);
    rig.open();
    assert_eq!(rig.closes, [(first.expect("it was up"), true)]);
    assert_eq!(rig.bridge.phase(), Phase::Connecting);
    rig.connack(true, ConnackProperties::default());
    assert_eq!(
        (rig.status().endpoint, rig.bridge.stats().failbacks),
        (0, 1)
    );
    rig.alive(1000);
    assert!(rig.dials.is_empty(), "there is no better one");
}

#[test]
fn a_peer_that_says_it_does_not_know_5_0_is_spoken_to_in_3_1_1_from_then_on() {
    let mut rig = Rig::new(settings());
    rig.open();
    assert_eq!(version_of(&rig.packets()[0]), 5);
    // In its own words: CONNACK of 3.1.1 with code 1.
    rig.receive_bytes(&[0x20, 0x02, 0x00, 0x01]);
    rig.open();
    assert_eq!(version_of(&rig.packets()[0]), 4);
    rig.receive_bytes(&[0x20, 0x02, 0x00, 0x00]);
    assert_eq!(rig.status().version, V4);
    rig.cut(false);
    rig.pause();
    rig.open();
    assert_eq!(version_of(&rig.packets()[0]), 4);
    assert_eq!(rig.bridge.stats().downgrades, 1);
}

#[test]
fn a_peer_that_closes_without_a_word_is_tried_in_3_1_1_once() {
    let mut rig = Rig::new(settings());
    rig.open();
    rig.cut(true);
    rig.open();
    assert_eq!(version_of(&rig.packets()[0]), 4);
    rig.cut(true);
    assert_eq!(rig.bridge.phase(), Phase::Waiting);
    rig.pause();
    rig.open();
    assert_eq!(version_of(&rig.packets()[0]), 5);
    // A line that breaks is no answer.
    rig.cut(false);
    assert_eq!(rig.bridge.phase(), Phase::Waiting);
    rig.pause();
    // And one that is pinned is not changed.
    let mut pinned = settings();
    pinned.version = Version::Pinned(V5);
    let mut rig = Rig::new(pinned);
    rig.open();
    rig.refuse(ReasonCode::UnsupportedProtocolVersion);
    assert_eq!(rig.bridge.phase(), Phase::Waiting);
    assert_eq!(rig.bridge.stats().refused_for_good, 1);
}

#[test]
fn what_only_a_person_can_mend_is_not_hammered() {
    let max = Reconnect::default().max;
    for (reason, for_good) in [
        (ReasonCode::BadUserNameOrPassword, true),
        (ReasonCode::NotAuthorized, true),
        (ReasonCode::ClientIdentifierNotValid, true),
        (ReasonCode::Banned, true),
        (ReasonCode::ServerUnavailable, false),
        (ReasonCode::ServerBusy, false),
        (ReasonCode::QuotaExceeded, false),
    ] {
        let mut rig = Rig::new(settings());
        rig.open();
        rig.refuse(reason);
        let pause = rig.pause();
        assert_eq!(pause >= max / 2, for_good, "{reason} {pause:?}");
        let error = rig.status().last_error.expect("it is said");
        assert!(error.contains(&reason.to_string()), "{error}");
    }
    // Another client has our identifier.
    let mut rig = Rig::new(settings());
    rig.connect();
    rig.seconds(20);
    let reason = ReasonCode::SessionTakenOver;
    rig.receive(&Packet::Disconnect(fieldgate::mqtt::Disconnect::new(
        reason,
    )));
    assert!(rig.pause() >= max / 2);
}

#[test]
fn credentials_are_those_of_each_dial() {
    let mut rig = Rig::new(settings());
    for password in ["old", "new"] {
        rig.open_with(Credentials {
            username: Some("shed".into()),
            password: Some(password.as_bytes().into()),
        });
        let packets = rig.packets();
        let Ok(Packet::Connect(connect)) = Packet::parse(V5, &packets[0]) else {
            panic!("no CONNECT");
        };
        assert_eq!(connect.username, Some("shed"));
        assert_eq!(connect.password, Some(password.as_bytes()));
        assert_eq!(connect.properties.session_expiry_interval, Some(3600));
        assert!(!connect.clean_start);
        rig.refuse(ReasonCode::BadUserNameOrPassword);
        rig.pause();
    }
}

#[test]
fn the_state_topic_says_online_and_offline_and_is_the_will() {
    let mut with_state = settings();
    with_state.state_topic = Some("plants/shed/state".into());
    let mut rig = Rig::new(with_state);
    rig.open();
    let packets = rig.packets();
    let Ok(Packet::Connect(connect)) = Packet::parse(V5, &packets[0]) else {
        panic!("no CONNECT");
    };
    let will = connect.will.expect("there is one");
    assert_eq!(
        (will.topic.as_str(), will.payload),
        ("plants/shed/state", &b"offline"[..])
    );
    assert!(will.retain);
    // A peer that has no retained messages does not take such a will.
    rig.refuse(ReasonCode::RetainNotSupported);
    rig.open();
    let packets = rig.packets();
    let Ok(Packet::Connect(connect)) = Packet::parse(V5, &packets[0]) else {
        panic!("no CONNECT");
    };
    assert!(!connect.will.expect("there is one").retain);
    rig.connack(false, ConnackProperties::default());
    let online = rig.publishes();
    assert_eq!(payloads(&online), ["online"]);
    assert!(online[0].retain && online[0].qos == Q1);
    rig.ack_all(&online);
    rig.bridge.stop(rig.now);
    rig.turn();
    let packets = rig.packets();
    let last: Vec<_> = packets.iter().map(|packet| packet[0] & 0xF0).collect();
    assert_eq!(last, [0x30, 0xE0], "offline, then DISCONNECT");
    assert!(rig.bridge.is_idle());
    assert!(rig.bridge.poll_timeout().is_none());
}

#[test]
fn a_dial_that_is_not_wanted_any_more_is_closed() {
    let mut rig = Rig::new(settings());
    rig.bridge.stop(rig.now);
    let dial = rig.dials.clone();
    rig.turn();
    assert_eq!(rig.undials, 1);
    rig.dials = dial;
    let conn = rig.open();
    assert_eq!(rig.closes, [(conn, false)]);
    assert!(rig.bridge.is_idle());
}

#[test]
fn other_settings_reconnect_only_if_the_connection_would_be_another() {
    let mut rig = Rig::new(settings());
    rig.connect();
    let mut other = settings();
    other.send.push(send_rule("barn/#", Q0));
    other.replay_rate = Some(per_second(5));
    rig.bridge.reconfigure(rig.now, other.clone()).unwrap();
    rig.turn();
    assert_eq!(rig.bridge.phase(), Phase::Up);
    rig.send_by(1, &message("barn/a", "1", false));
    assert_eq!(rig.publishes()[0].qos, Q0);
    rig.send("shed/a", "kept", false);
    other.keep_alive = 30;
    rig.bridge.reconfigure(rig.now, other.clone()).unwrap();
    rig.turn();
    assert_eq!(rig.bridge.phase(), Phase::Dialling);
    rig.connect_with(false, ConnackProperties::default());
    assert_eq!(payloads(&rig.publishes()), ["kept"]);
    other.endpoints.clear();
    assert!(rig.bridge.reconfigure(rig.now, other).is_err());
    assert_eq!(rig.bridge.phase(), Phase::Up);
}
