//! Wills and power cuts: who is gone when the gateway is back, and who is told.

use fieldgate::broker::keep::{KeyKind, RETURN_GRACE, Target, What};
use fieldgate::broker::settings::{Durability, Level};
use fieldgate::id::{ConnId, Lsn};
use fieldgate::mqtt::{Connect, Packet, Publish, QoS, ReasonCode, TopicName, Will, WillProperties};
use fieldgate::time::{Duration, WallTime};

use crate::house::*;

const GRACE: u64 = RETURN_GRACE.as_secs();

fn with_will<'a>(qos: QoS, delay: u32, connect: &Connect<'a>) -> Connect<'a> {
    Connect {
        will: Some(Will {
            topic: TopicName::new("state").unwrap(),
            payload: b"offline",
            qos,
            retain: true,
            properties: WillProperties {
                will_delay_interval: connect.version.is_v5().then_some(delay),
                ..WillProperties::default()
            },
        }),
        ..*connect
    }
}

/// A client of each sort: its session stays, or ends with its connection.
fn everybody() -> Vec<Connect<'static>> {
    let mut all = Vec::new();
    for qos in [Q0, Q1, Q2] {
        for version in [V4, V5] {
            all.push(with_will(qos, 0, &lasting(version, "a")));
            all.push(with_will(qos, 0, &connect(version, "a")));
        }
    }
    all
}

/// Connects, and is "online" for everybody who looks.
fn goes_online(b: &mut House, connect: &Connect<'_>) -> ConnId {
    let conn = b.join(connect);
    let online = Publish {
        retain: true,
        ..publish(Q1, "state", "online")
    };
    b.send(conn, &Packet::Publish(online));
    assert!(b.read(conn).starts_with("PUBACK 1"));
    conn
}

/// What is retained for its topic.
fn state(b: &mut House) -> String {
    let stranger = b.client(V5, "stranger");
    b.subscribe(stranger, "state", Q0);
    let said = b.read(stranger);
    b.disconnect(stranger);
    said.split('"').nth(1).unwrap_or_default().to_owned()
}

/// What a change does to the record of a will.
fn is_of_will(what: &What) -> bool {
    match what {
        What::Record { targets, .. } => targets
            .iter()
            .any(|target| matches!(target, Target::Key(key) if key.kind == KeyKind::Will)),
        What::Delete(key) => key.kind == KeyKind::Will,
        _ => false,
    }
}

fn will_changes(b: &House) -> Vec<(Lsn, Option<Level>)> {
    let changes = b.ledger.changes().iter();
    let of_wills = changes.filter(|change| is_of_will(&change.what));
    of_wills.map(|change| (change.lsn, change.level)).collect()
}

#[test]
fn who_does_not_come_back_after_a_power_cut_is_told_of_once() {
    for connect in everybody() {
        let b = &mut House::new(false);
        goes_online(b, &connect);
        b.crash(10);
        assert_eq!(
            (b.stat("recovered_wills"), state(b).as_str()),
            (1, "online")
        );
        let watcher = b.client(V4, "watcher");
        b.subscribe(watcher, "state", Q0);
        b.read_all(watcher);
        b.seconds(GRACE - 1);
        assert_eq!(b.read(watcher), "", "it may be on its way: {connect:?}");
        b.seconds(1);
        assert_eq!(b.read_all(watcher), ["PUBLISH state q0 \"offline\""]);
        assert_eq!(state(b), "offline");
        b.crash(10);
        assert_eq!(
            (b.stat("recovered_wills"), state(b).as_str()),
            (0, "offline")
        );
        b.seconds(2 * GRACE);
        assert_eq!(b.stat("wills_published"), 0);
    }
}

#[test]
fn who_comes_back_in_time_is_not_gone() {
    for connect in everybody() {
        let b = &mut House::new(false);
        goes_online(b, &connect);
        b.crash(10);
        b.seconds(GRACE - 1);
        b.join(&connect);
        b.seconds(2 * GRACE);
        assert_eq!(
            (b.stat("wills_published"), state(b).as_str()),
            (0, "online")
        );
        // Its new connection has its will like any other.
        b.crash(10);
        assert_eq!(b.stat("recovered_wills"), 1);
        let conn = b.join(&connect);
        b.drop_conn(conn);
        assert_eq!(state(b), "offline");
    }
}

#[test]
fn who_comes_back_without_a_will_leaves_none() {
    for connect in everybody() {
        let b = &mut House::new(false);
        goes_online(b, &connect);
        b.crash(10);
        b.join(&Connect {
            will: None,
            ..connect
        });
        b.crash(10);
        b.seconds(2 * GRACE);
        assert_eq!(
            (b.stat("wills_published"), state(b).as_str()),
            (0, "online")
        );
    }
}

#[test]
fn who_has_said_goodbye_leaves_no_will() {
    for connect in everybody() {
        let b = &mut House::new(false);
        let conn = goes_online(b, &connect);
        b.disconnect(conn);
        b.crash(10);
        assert_eq!(b.stat("recovered_wills"), 0);
        b.seconds(2 * GRACE);
        assert_eq!(state(b), "online");
        if connect.version.is_v5() {
            let conn = b.join(&connect);
            b.disconnect_with(conn, ReasonCode::DisconnectWithWillMessage);
            assert_eq!(state(b), "offline");
        }
    }
}

/// Wherever the power goes between a lost connection and whatever that has brought about: the will
/// is published, perhaps twice.
#[test]
fn a_will_is_not_lost_between_its_publication_and_its_end() {
    for connect in everybody() {
        let mut cuts = 0;
        let mut repeated = 0;
        loop {
            let b = &mut House::new(false);
            let conn = goes_online(b, &connect);
            let before = b.broker.last_lsn();
            b.drop_conn(conn);
            assert_eq!(b.stat("wills_published"), 1);
            let last = b.broker.last_lsn();
            let mark = Lsn(before.0 + cuts);
            if mark > last {
                break;
            }
            b.mark = Some(mark);
            b.crash(10);
            b.seconds(GRACE);
            assert_eq!(
                state(b),
                "offline",
                "{mark:?} of {before:?}..{last:?}, {connect:?}"
            );
            repeated += b.stat("wills_published");
            cuts += 1;
        }
        assert!(
            cuts > 1 && repeated > 0 && repeated < cuts,
            "{repeated} of {cuts}"
        );
    }
}

/// The same of a takeover: the session's new connection is there, or was not promised.
#[test]
fn a_takeover_does_not_end_the_next_will() {
    for connect in everybody() {
        let b = &mut House::new(false);
        goes_online(b, &connect);
        goes_online(b, &connect);
        assert_eq!(b.stat("wills_published"), 1);
        b.crash(10);
        assert_eq!(b.stat("recovered_wills"), 1);
        b.seconds(GRACE);
        assert_eq!(state(b), "offline");
    }
}

cases! {
    fn connack_waits_for_the_will_of_a_session_that_stays(b: &mut House) {
        b.mark = Some(b.broker.last_lsn());
        let conn = b.dial(&with_will(Q1, 0, &lasting(V5, "a")));
        assert_eq!(b.read(conn), "");
        let [(lsn, level)] = will_changes(b)[..] else { panic!("{:?}", b.ledger.changes()) };
        assert_eq!(level, None, "with what CONNACK waits for anyway, and no sync of its own");
        assert_eq!(lsn, b.broker.last_lsn());
        b.mark = Some(Lsn(lsn.0 - 1));
        b.turn();
        assert_eq!(b.read(conn), "");
        b.mark = Some(lsn);
        b.turn();
        assert_eq!(b.read(conn), "CONNACK Success");
        b.crash(0);
        assert_eq!((b.stat("recovered_sessions"), b.stat("recovered_wills")), (1, 1));
    }

    fn connack_does_not_wait_for_the_will_of_a_session_that_ends(b: &mut House) {
        b.mark = Some(b.broker.last_lsn());
        let conn = b.dial(&with_will(Q1, 0, &connect(V4, "a")));
        assert_eq!(b.read(conn), "CONNACK Success");
        let levels: Vec<_> = will_changes(b).into_iter().map(|(_, level)| level).collect();
        assert_eq!(levels, [Some(Level::Interval(SYNC_WITHIN))]);
        let conn = b.dial(&connect(V4, "b"));
        assert_eq!(b.read(conn), "CONNACK Success");
        assert_eq!(b.ledger.changes().len(), 1, "without a will nothing is kept");
    }

    fn a_subscriber_that_is_away_gets_the_will(b: &mut House) {
        let taker = b.stayer(V5, "taker");
        b.subscribe(taker, "state", Q1);
        b.disconnect(taker);
        b.join(&with_will(Q1, 0, &lasting(V4, "a")));
        b.crash(10);
        b.seconds(GRACE);
        b.crash(10);
        let taker = b.stayer(V5, "taker");
        assert_eq!(b.read_all(taker), ["PUBLISH state q1 #1 dup \"offline\""]);
    }

    fn a_delay_runs_on_by_the_wall_clock(b: &mut House) {
        let conn = goes_online(b, &with_will(Q1, 1000, &lasting(V5, "a")));
        b.seconds(5000);
        b.drop_conn(conn);
        b.seconds(300);
        b.crash(300);
        b.seconds(300);
        b.crash(0);
        b.seconds(99);
        assert_eq!(state(b), "online");
        b.seconds(1);
        assert_eq!(state(b), "offline");
    }

    fn a_delay_that_is_over_meanwhile_leaves_the_grace(b: &mut House) {
        let conn = goes_online(b, &with_will(Q1, 100, &lasting(V5, "a")));
        b.drop_conn(conn);
        b.crash(1000);
        b.seconds(GRACE - 1);
        assert_eq!(state(b), "online");
        b.seconds(1);
        assert_eq!(state(b), "offline");
    }

    fn a_delay_that_had_not_begun_runs_from_the_start(b: &mut House) {
        goes_online(b, &with_will(Q1, 100, &lasting(V5, "a")));
        b.crash(1000);
        b.seconds(99);
        assert_eq!(state(b), "online");
        b.seconds(1);
        assert_eq!(state(b), "offline");
    }

    fn a_clock_that_is_not_set_begins_a_delay_again(b: &mut House) {
        let conn = goes_online(b, &with_will(Q1, 1000, &lasting(V5, "a")));
        b.drop_conn(conn);
        b.seconds(900);
        let wall = b.now.wall;
        b.now.wall = WallTime::from_unix_millis(0);
        b.crash(0);
        b.seconds(999);
        assert_eq!(state(b), "online");
        b.seconds(1);
        assert_eq!(state(b), "offline");
        // Nor does one that is set back prolong it.
        let conn = goes_online(b, &with_will(Q1, 100, &lasting(V5, "a")));
        b.now.wall = wall.saturating_add(Duration::from_secs(1_000_000));
        let other = b.join(&with_will(Q1, 100, &lasting(V5, "a")));
        b.drop_conn(other);
        assert!(!b.is_open(conn));
        b.now.wall = wall;
        b.crash(0);
        b.seconds(100);
        assert_eq!(b.stat("wills_published"), 1);
    }

    fn the_end_of_a_session_brings_its_will_forward(b: &mut House) {
        let mut connect = with_will(Q1, 1000, &lasting(V5, "a"));
        connect.properties.session_expiry_interval = Some(20);
        goes_online(b, &connect);
        b.crash(0);
        b.seconds(19);
        assert_eq!(state(b), "online");
        b.seconds(1);
        assert_eq!(state(b), "offline");
        assert_eq!(b.stat("expired_sessions"), 1);
        // And by a clean start.
        let connect = with_will(Q1, 1000, &lasting(V5, "a"));
        goes_online(b, &connect);
        b.crash(0);
        b.join(&Connect { clean_start: true, ..connect });
        assert_eq!(state(b), "offline");
    }

    fn a_will_whose_session_has_ended_is_published_all_the_same(b: &mut House) {
        let connect = with_will(Q1, 1000, &lasting(V5, "a"));
        let conn = goes_online(b, &connect);
        b.drop_conn(conn);
        // The session's end is on the disk, and nothing of what that brings about.
        b.seconds(900);
        let before = b.broker.last_lsn();
        b.join(&Connect { clean_start: true, will: None, ..connect });
        let changes = b.ledger.changes().iter();
        let ended = changes.filter(|change| change.lsn > before).find(|change| {
            matches!(change.what, What::DropQueue(_))
        });
        b.mark = Some(ended.expect("the session has ended").lsn);
        b.crash(0);
        assert_eq!((b.stat("sessions"), b.stat("recovered_wills")), (0, 1));
        b.seconds(GRACE);
        assert_eq!(state(b), "offline");
    }

    fn nobody_takes_back_the_will_of_another_users_client(b: &mut House) {
        let conn = b.open();
        b.broker.handle_identified(conn, "anna");
        b.send(conn, &Packet::Connect(with_will(Q1, 0, &connect(V5, "a"))));
        assert_eq!(b.read(conn), "CONNACK Success");
        b.crash(0);
        assert_eq!(state(b), "");
        b.client(V5, "a");
        assert_eq!(state(b), "offline");
    }

    fn a_will_to_a_topic_that_is_not_kept_is_not_kept(b: &mut House) {
        b.set(|settings| {
            settings.durability = Durability {
                default: Level::Strict,
                rules: vec![("state".into(), Level::None)],
            };
        });
        b.join(&with_will(Q1, 0, &lasting(V5, "a")));
        b.join(&with_will(Q1, 0, &connect(V5, "b")));
        assert_eq!(will_changes(b), []);
        b.crash(0);
        b.seconds(2 * GRACE);
        assert_eq!(b.stat("wills_published"), 0);
    }

    fn an_expiry_begins_with_the_publication(b: &mut House) {
        let mut connect = with_will(Q1, 0, &lasting(V5, "a"));
        let will = connect.will.as_mut().unwrap();
        will.properties.message_expiry_interval = Some(30);
        will.properties.content_type = Some("text/plain");
        b.join(&connect);
        b.seconds(1000);
        b.crash(1000);
        b.seconds(GRACE);
        let stranger = b.client(V5, "stranger");
        b.subscribe(stranger, "state", Q0);
        b.read_with(stranger, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!(publish.properties.message_expiry_interval, Some(30));
            assert_eq!(publish.properties.content_type, Some("text/plain"));
        }).unwrap();
    }

    fn a_stop_publishes_what_is_due_and_keeps_what_waits(b: &mut House) {
        goes_online(b, &with_will(Q0, 0, &connect(V4, "a")));
        let mut waiting = with_will(Q1, 600, &lasting(V5, "b"));
        waiting.will.as_mut().unwrap().topic = TopicName::new("other").unwrap();
        b.join(&waiting);
        b.broker.stop(b.now, &mut b.outbox);
        b.turn();
        assert_eq!(b.stat("wills_published"), 1);
        let (_, level) = will_changes(b).last().copied().unwrap();
        assert_eq!(level, Some(Level::Strict), "there is no later");
        b.crash(100);
        assert_eq!((b.stat("recovered_wills"), state(b).as_str()), (1, "offline"));
        b.seconds(499);
        assert_eq!(b.stat("wills_published"), 0);
        b.seconds(1);
        assert_eq!(b.stat("wills_published"), 1);
    }

    fn a_record_that_cannot_be_read_is_counted_and_forgotten(b: &mut House) {
        b.join(&with_will(Q1, 0, &connect(V5, "a")));
        assert_eq!(b.ledger.spoil(), 1);
        b.crash(0);
        assert_eq!((b.stat("unrecovered"), b.stat("recovered_wills")), (1, 0));
        b.crash(0);
        assert_eq!(b.stat("unrecovered"), 0);
    }
}
