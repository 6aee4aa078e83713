//! Wills: when they are published and when they are forgotten.

use fieldgate::mqtt::{Connect, Packet, QoS, ReasonCode, TopicName, Will, WillProperties};

use crate::house::*;

fn will(qos: QoS, retain: bool) -> Will<'static> {
    Will {
        topic: TopicName::new("will").unwrap(),
        payload: b"gone",
        qos,
        retain,
        properties: WillProperties::default(),
    }
}

fn with_will<'a>(connect: &Connect<'a>) -> Connect<'a> {
    Connect {
        will: Some(will(Q1, false)),
        ..*connect
    }
}

/// A client whose session stays for an hour, with a will that waits.
fn patient(delay: u32) -> Connect<'static> {
    let mut patient = with_will(&lasting(V5, "a"));
    let will = patient.will.as_mut().unwrap();
    will.properties.will_delay_interval = Some(delay);
    patient
}

fn watcher(b: &mut House) -> fieldgate::id::ConnId {
    let watcher = b.client(V4, "watcher");
    b.subscribe(watcher, "will", Q0);
    watcher
}

const WILL: &str = "PUBLISH will q0 \"gone\"";

cases! {
    fn a_broken_connection_publishes_the_will(b: &mut House) {
        let watcher = watcher(b);
        for version in [V4, V5] {
            let conn = b.join(&with_will(&connect(version, "a")));
            b.drop_conn(conn);
            assert_eq!(b.read_all(watcher), [WILL]);
            let conn = b.join(&with_will(&lasting(version, "a")));
            b.drop_conn(conn);
            assert_eq!(b.read_all(watcher), [WILL]);
            let conn = b.join(&lasting(version, "a"));
            b.drop_conn(conn);
            assert_eq!(b.read(watcher), "", "a new connection brings its own will, or none");
            let conn = b.client(version, "a");
            b.disconnect(conn);
        }
        assert_eq!(b.stat("wills_published"), 4);
    }

    fn a_normal_disconnect_forgets_the_will(b: &mut House) {
        let watcher = watcher(b);
        for version in [V4, V5] {
            let conn = b.join(&with_will(&connect(version, "a")));
            b.disconnect(conn);
            assert!(!b.is_open(conn));
            assert_eq!(b.read(watcher), "");
        }
    }

    fn a_disconnect_with_any_other_reason_publishes_it(b: &mut House) {
        let watcher = watcher(b);
        for reason in [ReasonCode::DisconnectWithWillMessage, ReasonCode::UnspecifiedError] {
            let conn = b.join(&with_will(&connect(V5, "a")));
            b.disconnect_with(conn, reason);
            assert_eq!(b.read(watcher), WILL);
        }
    }

    fn a_protocol_error_publishes_it(b: &mut House) {
        let watcher = watcher(b);
        for version in [V4, V5] {
            let conn = b.join(&with_will(&connect(version, "a")));
            b.send_bytes(conn, &[0xF1, 0]);
            assert!(!b.is_open(conn));
            assert_eq!(b.read_all(watcher), [WILL]);
        }
    }

    fn a_keep_alive_timeout_publishes_it(b: &mut House) {
        let watcher = watcher(b);
        let conn = b.join(&Connect { keep_alive: 2, ..with_will(&connect(V5, "a")) });
        b.seconds(3);
        assert!(!b.is_open(conn));
        assert_eq!(b.read(watcher), WILL);
    }

    fn a_takeover_publishes_it(b: &mut House) {
        let watcher = watcher(b);
        b.join(&with_will(&lasting(V5, "a")));
        b.join(&with_will(&lasting(V5, "a")));
        assert_eq!(b.read_all(watcher), [WILL]);
    }

    fn a_will_waits_for_its_delay_and_is_published_once(b: &mut House) {
        let watcher = watcher(b);
        let conn = b.join(&patient(60));
        b.drop_conn(conn);
        b.seconds(59);
        assert_eq!(b.read(watcher), "");
        b.seconds(1);
        assert_eq!(b.read_all(watcher), [WILL]);
        b.seconds(7200);
        assert_eq!(b.read(watcher), "");
        assert_eq!((b.stat("wills_published"), b.stat("sessions")), (1, 1));
    }

    fn a_client_that_is_back_in_time_takes_its_will_back(b: &mut House) {
        let watcher = watcher(b);
        let conn = b.join(&patient(60));
        b.drop_conn(conn);
        b.seconds(59);
        let conn = b.join(&lasting(V5, "a"));
        b.seconds(100);
        b.disconnect(conn);
        assert_eq!(b.read(watcher), "");
    }

    fn a_session_that_ends_does_not_wait_with_its_will(b: &mut House) {
        let watcher = watcher(b);
        let mut short = patient(60);
        short.properties.session_expiry_interval = Some(10);
        let conn = b.join(&short);
        b.drop_conn(conn);
        b.seconds(9);
        assert_eq!(b.read(watcher), "");
        b.seconds(1);
        assert_eq!(b.read_all(watcher), [WILL], "the session has expired");

        let conn = b.join(&patient(60));
        b.drop_conn(conn);
        b.client(V5, "a");
        assert_eq!(b.read_all(watcher), [WILL], "a clean start has ended it");

        let mut passing = patient(60);
        passing.properties.session_expiry_interval = None;
        let conn = b.join(&passing);
        b.drop_conn(conn);
        assert_eq!(b.read_all(watcher), [WILL], "it ended with the connection");
    }

    fn a_disconnect_with_will_waits_too(b: &mut House) {
        let watcher = watcher(b);
        let conn = b.join(&patient(60));
        b.disconnect_with(conn, ReasonCode::DisconnectWithWillMessage);
        assert_eq!(b.read(watcher), "");
        b.seconds(60);
        assert_eq!(b.read(watcher), WILL);
    }

    fn a_will_that_is_to_wait_is_taken_back_by_a_takeover(b: &mut House) {
        let watcher = watcher(b);
        let patient = patient(60);
        b.join(&patient);
        b.join(&patient);
        assert_eq!(b.read(watcher), "");
        let fresh = Connect { clean_start: true, ..patient };
        b.join(&fresh);
        assert_eq!(b.read(watcher), WILL, "its session has ended");
    }

    fn a_retained_will_is_retained(b: &mut House) {
        let conn = b.join(&Connect { will: Some(will(Q2, true)), ..connect(V4, "a") });
        b.drop_conn(conn);
        let late = b.client(V5, "late");
        b.subscribe(late, "will", Q2);
        assert_eq!(b.read(late), "PUBLISH will q2 #1 retain \"gone\"");
    }

    fn the_wills_properties_travel_and_its_expiry_begins_when_it_is_published(b: &mut House) {
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "will", Q1);
        let mut described = with_will(&connect(V5, "a"));
        described.will.as_mut().unwrap().properties = WillProperties {
            message_expiry_interval: Some(100),
            content_type: Some("text/plain"),
            ..WillProperties::default()
        };
        let conn = b.join(&described);
        b.seconds(1000);
        b.drop_conn(conn);
        b.read_with(watcher, |packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!(publish.properties.message_expiry_interval, Some(100));
            assert_eq!(publish.properties.content_type, Some("text/plain"));
        }).unwrap();
    }

    fn a_will_may_set_off_the_next(b: &mut House) {
        // Each watches the other's topic with a queue that is full at once, and is disconnected for
        // it.
        b.set(|settings| {
            settings.queue.messages = 0;
            settings.queue.when_full = fieldgate::broker::settings::WhenFull::Disconnect;
        });
        let mut conns = Vec::new();
        for number in 0..5 {
            let (own, next) = (format!("w/{number}"), format!("w/{}", (number + 1) % 5));
            let name = format!("c{number}");
            let conn = b.join(&Connect {
                will: Some(Will { topic: TopicName::new(&own).unwrap(), ..will(Q1, false) }),
                ..connect(V5, &name)
            });
            b.subscribe(conn, &next, Q1);
            conns.push(conn);
        }
        b.drop_conn(conns[0]);
        for conn in conns {
            assert!(!b.is_open(conn));
        }
        assert_eq!((b.stat("wills_published"), b.stat("sessions")), (5, 0));
    }
}
