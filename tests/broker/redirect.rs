//! Server redirection: clients are told which server to use instead.

use std::rc::Rc;

use fieldgate::broker::settings::Redirect;
use fieldgate::id::ConnId;
use fieldgate::mqtt::{Connect, Packet, ReasonCode, TopicName, Will, WillProperties};

use crate::house::*;
use crate::scram::{self, asked, go_on, with_users};

const ELSEWHERE: &str = "new.example:1883 [2001:db8::1]";

fn redirect(b: &mut House, conn: ConnId, is_permanent: Option<bool>) {
    let redirect = is_permanent.map(|is_permanent| {
        let reference = ELSEWHERE.into();
        Rc::new(Redirect {
            reference,
            is_permanent,
        })
    });
    b.broker
        .handle_redirected(b.now, conn, redirect, &mut b.outbox);
    b.turn();
}

/// Reason and Server Reference of CONNACK or DISCONNECT.
fn told(b: &mut House, conn: ConnId) -> (ReasonCode, Option<String>) {
    let told = b.read_with(conn, |packet| match packet {
        Packet::Connack(connack) => (
            connack.reason,
            connack.properties.server_reference.map(String::from),
        ),
        Packet::Disconnect(packet) => (
            packet.reason,
            packet.properties.server_reference.map(String::from),
        ),
        _ => panic!("{packet:?}"),
    });
    told.expect("a last word")
}

cases! {
    fn who_comes_is_told_where_to_go(b: &mut House) {
        for (is_permanent, reason) in [
            (false, ReasonCode::UseAnotherServer), (true, ReasonCode::ServerMoved),
        ] {
            // Nobody asks who it is: the other server will.
            let conn = b.open_where(false);
            redirect(b, conn, Some(is_permanent));
            b.send(conn, &Packet::Connect(connect(V5, "a")));
            assert_eq!(told(b, conn), (reason, Some(ELSEWHERE.into())));
            assert!(!b.is_open(conn));
            for version in [V3, V4] {
                let conn = b.open();
                redirect(b, conn, Some(is_permanent));
                b.send(conn, &Packet::Connect(connect(version, "a")));
                assert_eq!(b.read_bytes(conn), [0x20, 2, 0, 3], "server unavailable");
                assert!(!b.is_open(conn));
            }
        }
        assert_eq!((b.stat("redirects"), b.stat("sessions")), (6, 0));
    }

    fn who_is_there_is_told_too_and_keeps_its_session(b: &mut House) {
        let will = Will {
            topic: TopicName::new("will").unwrap(),
            payload: b"gone",
            qos: Q0,
            retain: false,
            properties: WillProperties::default(),
        };
        let watcher = b.client(V5, "watcher");
        b.subscribe(watcher, "will", Q0);
        for (is_permanent, reason) in [
            (false, ReasonCode::UseAnotherServer), (true, ReasonCode::ServerMoved),
        ] {
            let conn = b.join(&Connect { will: Some(will), ..lasting(V5, "a") });
            redirect(b, conn, Some(is_permanent));
            assert_eq!(told(b, conn), (reason, Some(ELSEWHERE.into())));
            assert!(!b.is_open(conn));
            assert_eq!(b.read(watcher), "PUBLISH will q0 \"gone\"");
        }
        let old = b.stayer(V4, "old");
        redirect(b, old, Some(true));
        assert_eq!(b.read(old), "");
        assert!(!b.is_open(old) && b.is_open(watcher));
        assert_eq!(b.stat("sessions"), 3);
    }

    fn no_other_goodbye_has_a_reference(b: &mut House) {
        let conn = b.open();
        redirect(b, conn, Some(true));
        redirect(b, conn, None);
        b.send(conn, &Packet::Connect(connect(V5, "a")));
        assert_eq!(told(b, conn), (ReasonCode::Success, None));
        b.client(V5, "a");
        assert_eq!(told(b, conn), (ReasonCode::SessionTakenOver, None));
        let conn = b.open();
        redirect(b, conn, Some(true));
        b.broker.stop(b.now, &mut b.outbox);
        b.send(conn, &Packet::Connect(connect(V5, "b")));
        assert!(!b.is_open(conn));
    }

    fn who_is_proving_itself_meanwhile_is_told_at_the_end(b: &mut House) {
        with_users(b);
        let (conn, last) = asked(b, "n,,n=anna,r=x", "secret");
        redirect(b, conn, Some(false));
        b.send(conn, &go_on(&last));
        assert_eq!(told(b, conn), (ReasonCode::UseAnotherServer, Some(ELSEWHERE.into())));
        let conn = b.dial(&Connect {
            username: Some("anna"),
            password: Some(b"secret"),
            ..connect(V4, "a")
        });
        redirect(b, conn, Some(false));
        b.verified(conn, true);
        assert_eq!(b.read_bytes(conn), [0x20, 2, 0, 3]);
        scram::enter(b, &connect(V5, "a"), "anna", "secret");
    }

    fn a_reference_that_is_too_long_for_its_client_is_not_sent(b: &mut House) {
        let narrow = Connect {
            properties: fieldgate::mqtt::ConnectProperties {
                maximum_packet_size: core::num::NonZeroU32::new(20),
                ..Default::default()
            },
            ..connect(V5, "a")
        };
        let conn = b.open();
        redirect(b, conn, Some(true));
        b.send(conn, &Packet::Connect(narrow));
        assert_eq!(b.read(conn), "");
        assert!(!b.is_open(conn));
    }
}
