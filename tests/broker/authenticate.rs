//! SCRAM-SHA-256: who comes in, who does not, and what an outsider can learn from it.

use fieldgate::broker::settings::AccessSettings;
use fieldgate::credential::PasswordHash;
use fieldgate::credential::scram::Secret;
use fieldgate::mqtt::{Connect, Packet, ReasonCode, TopicName, Will, WillProperties};

use crate::house::*;
use crate::scram::*;

/// The reason string of a refusal.
fn why(b: &mut House, conn: fieldgate::id::ConnId) -> String {
    b.read_with(conn, |packet| match packet {
        Packet::Connack(packet) => packet.properties.reason_string.unwrap().to_owned(),
        Packet::Disconnect(packet) => packet.properties.reason_string.unwrap().to_owned(),
        _ => panic!("{packet:?}"),
    })
    .unwrap()
}

cases! {
    fn a_proof_lets_in_and_the_server_proves_itself(b: &mut House) {
        with_users(b);
        let conn = enter(b, &lasting(V5, "a"), "anna", "secret");
        b.send(conn, &Packet::Pingreq);
        assert_eq!(b.read(conn), "PINGRESP");
        assert!(b.verifications.is_empty(), "no worker is asked");
        b.drop_conn(conn);
        // The session is anna's, as if she had come by her password.
        let (refused, _) = prove(b, &lasting(V5, "a"), "bert", "other");
        assert_eq!(b.read(refused), "CONNACK Not authorized");
        let conn = b.dial(&Connect {
            username: Some("anna"),
            password: Some(b"secret"),
            ..lasting(V5, "a")
        });
        let (_, compared, _) = b.verifications.pop_front().expect("a password is compared");
        assert_eq!(compared, verifier("secret"));
        b.verified(conn, true);
        assert_eq!(b.read(conn), "CONNACK Success present");
    }

    fn a_wrong_proof_and_an_unknown_name_are_told_alike(b: &mut House) {
        with_users(b);
        let mut said = Vec::new();
        for (name, password) in [("anna", "wrong"), ("nobody", "secret"), ("carl", "")] {
            let (conn, _) = prove(b, &connect(V5, "a"), name, password);
            said.push(b.read_bytes(conn));
            assert!(!b.is_open(conn));
        }
        assert_eq!(said[0][3], ReasonCode::NotAuthorized.code());
        assert!(said.iter().all(|words| *words == said[0]));
        assert_eq!((b.stat("refused_logins"), b.stat("sessions")), (3, 0));
    }

    fn an_unknown_name_has_a_salt_like_any_other(b: &mut House) {
        let asked = |b: &mut House, name: &str| {
            let first = format!("n,,n={name},r=x");
            let conn = b.dial(&asking(&connect(V5, "a"), &first));
            challenge(b, conn)
        };
        let access = |secret: &[u8], more: &[(&str, &str)]| {
            let passwords = [&[("anna", "secret")], more].concat();
            AccessSettings { secret: Some(Secret::new(secret)), ..users(&passwords) }
        };
        b.set(|settings| settings.access = access(b"one", &[]));
        let known = asked(b, "anna");
        let nobody = asked(b, "nobody");
        assert_eq!(value(&nobody, 's').len(), value(&known, 's').len());
        assert_eq!(value(&nobody, 'i'), value(&known, 'i'));
        assert_eq!(value(&nobody, 'r').len(), value(&known, 'r').len());
        let again = asked(b, "nobody");
        assert_eq!(value(&again, 's'), value(&nobody, 's'), "it stays the same");
        assert_ne!(value(&again, 'r'), value(&nobody, 'r'), "and a nonce never does");
        assert_ne!(value(&asked(b, "nobodx"), 's'), value(&nobody, 's'));
        // Other users, or a restart, change nothing: only the secret does.
        b.set(|settings| settings.access = access(b"one", &[("bert", "other"), ("aaron", "third")]));
        assert_eq!(value(&asked(b, "nobody"), 's'), value(&nobody, 's'));
        b.set(|settings| settings.access = access(b"two", &[]));
        assert_ne!(value(&asked(b, "nobody"), 's'), value(&nobody, 's'));
    }

    fn who_has_no_verifier_fares_like_a_stranger(b: &mut House) {
        let pbkdf2 = format!("$7$101$c2FsdA==${}QQ==", "A".repeat(84));
        let mut access = users(&[("anna", "secret")]);
        let list = access.users.as_mut().unwrap();
        list.insert("bert".into(), PasswordHash::parse(&pbkdf2).unwrap());
        b.set(|settings| settings.access = access.clone());
        let (conn, _) = prove(b, &connect(V5, "a"), "bert", "other");
        assert_eq!(why(b, conn), "unknown user or wrong password");
        // With no verifier at all there is no such method.
        list_only(&mut access, "bert");
        b.set(|settings| settings.access = access);
        let conn = b.dial(&asking(&connect(V5, "a"), "n,,n=bert,r=x"));
        assert_eq!(b.read(conn), "CONNACK Bad authentication method");
    }

    fn a_message_that_asks_for_too_much_is_refused(b: &mut House) {
        with_users(b);
        for (first, expected) in [
            ("p=tls-exporter,,n=anna,r=x", "channel binding is not supported"),
            ("n,a=bert,n=anna,r=x", "nobody may act as somebody else"),
            ("n,,m=1,n=anna,r=x", "a mandatory SCRAM extension is not supported"),
            ("nonsense", "the SCRAM message is malformed"),
            ("", "the SCRAM message is malformed"),
        ] {
            let conn = b.dial(&asking(&connect(V5, "a"), first));
            assert_eq!(why(b, conn), expected, "{first}");
            assert!(!b.is_open(conn));
        }
        // A client that could bind its channel, and thinks that we cannot, is right.
        let first = "y,,n=anna,r=x";
        let (conn, last) = asked(b, first, "secret");
        b.send(conn, &go_on(&last));
        assert_eq!(b.read(conn), "CONNACK Success");
    }

    fn a_proof_is_of_one_exchange_only(b: &mut House) {
        with_users(b);
        let first = "n,,n=anna,r=x";
        let (conn, last) = asked(b, first, "secret");
        let other = b.dial(&asking(&connect(V5, "b"), first));
        challenge(b, other);
        b.send(other, &go_on(&last));
        assert_eq!(b.read(other), "CONNACK Not authorized");
        b.send(conn, &go_on(&last));
        assert_eq!(b.read(conn), "CONNACK Success");
        b.send(conn, &go_on(&last));
        assert_eq!(b.read(conn), "DISCONNECT 0x82", "it is over");
    }

    fn a_password_that_changes_meanwhile_counts(b: &mut House) {
        with_users(b);
        let first = "n,,n=anna,r=x";
        let (conn, last) = asked(b, first, "secret");
        b.set(|settings| settings.access = users(&[("anna", "changed")]));
        b.send(conn, &go_on(&last));
        assert_eq!(b.read(conn), "CONNACK Not authorized");
        let conn = enter(b, &connect(V5, "a"), "anna", "changed");
        b.set(|settings| settings.access = users(&[("anna", "again")]));
        assert_eq!(b.read(conn), "DISCONNECT 0x87");
    }

    fn who_is_vouched_for_proves_the_same_name(b: &mut House) {
        with_users(b);
        for (name, answer) in [("bert", "CONNACK Not authorized"), ("anna", "CONNACK Success")] {
            let conn = b.open();
            b.broker.handle_identified(conn, "anna");
            let first = format!("n,,n={name},r=x");
            b.send(conn, &Packet::Connect(asking(&connect(V5, "a"), &first)));
            let asked = challenge(b, conn);
            let password = if name == "anna" { "secret" } else { "other" };
            b.send(conn, &go_on(&proof(&first, &asked, password).0));
            assert_eq!(b.read(conn), answer);
        }
    }

    fn a_proof_is_not_waited_for_longer_than_a_connect(b: &mut House) {
        with_users(b);
        let conn = b.dial(&asking(&connect(V5, "a"), "n,,n=anna,r=x"));
        challenge(b, conn);
        b.seconds(9);
        assert!(b.is_open(conn));
        b.seconds(1);
        assert_eq!(b.read(conn), "", "no DISCONNECT before a CONNACK");
        assert!(!b.is_open(conn));
        assert_eq!(b.stat("connect_timeouts"), 1);
        // Nor of a client that is in.
        let conn = enter(b, &connect(V5, "a"), "anna", "secret");
        b.send(conn, &again("n,,n=anna,r=x"));
        challenge(b, conn);
        b.seconds(9);
        assert!(b.is_open(conn));
        b.seconds(1);
        assert_eq!(b.read(conn), "DISCONNECT 0x87");
    }

    fn an_exchange_is_in_the_account_and_goes_with_its_connection(b: &mut House) {
        with_users(b);
        let before = b.memory.used();
        let first = format!("n,,n={},r=x", "a".repeat(2000));
        let conn = b.dial(&asking(&connect(V5, "a"), &first));
        challenge(b, conn);
        assert!(b.memory.used() > before + 6000, "CONNECT, both messages, the name");
        b.send(conn, &Packet::Pingreq);
        assert_eq!(b.read(conn), "CONNACK Protocol Error");
        assert_eq!(b.memory.used(), before);
        // What is no AUTH is not even waited for, nor is one that is large.
        let conn = b.dial(&asking(&connect(V5, "a"), "n,,n=anna,r=x"));
        challenge(b, conn);
        b.send_bytes(conn, &[0x30, 0xFF, 0x30]);
        assert_eq!(b.read(conn), "CONNACK Protocol Error");
        let before = b.memory.used();
        let conn = b.dial(&asking(&connect(V5, "a"), "n,,n=anna,r=x"));
        challenge(b, conn);
        b.send_bytes(conn, &[0xF0, 0x80, 0x80, 0x01]);
        assert_eq!(b.read(conn), "CONNACK Packet too large");
        assert_eq!(b.memory.used(), before);
    }

    fn who_gives_up_leaves_nothing(b: &mut House) {
        with_users(b);
        let watcher = enter(b, &connect(V5, "watcher"), "bert", "other");
        b.subscribe(watcher, "#", Q0);
        let will = Will {
            topic: TopicName::new("will").unwrap(),
            payload: b"gone",
            qos: Q0,
            retain: false,
            properties: WillProperties::default(),
        };
        let connect = Connect { will: Some(will), ..lasting(V5, "a") };
        let leave: [fn(&mut House, fieldgate::id::ConnId); 2] = [House::disconnect, House::drop_conn];
        for leave in leave {
            let conn = b.dial(&asking(&connect, "n,,n=anna,r=x"));
            challenge(b, conn);
            leave(b, conn);
            assert!(!b.is_open(conn));
            assert_eq!(b.read(conn), "");
        }
        assert_eq!((b.read(watcher), b.stat("sessions")), (String::new(), 1));
    }

    fn a_stop_ends_what_has_begun(b: &mut House) {
        with_users(b);
        let conn = b.dial(&asking(&connect(V5, "a"), "n,,n=anna,r=x"));
        challenge(b, conn);
        b.broker.stop(b.now, &mut b.outbox);
        b.turn();
        assert!(!b.is_open(conn));
    }

    fn a_client_authenticates_itself_again_as_often_as_it_likes(b: &mut House) {
        with_users(b);
        let conn = enter(b, &connect(V5, "a"), "anna", "secret");
        let first = "n,,n=anna,r=again";
        for _ in 0..3 {
            b.send(conn, &again(first));
            let asked = challenge(b, conn);
            // Other packets go on meanwhile (4.12.1).
            b.send(conn, &Packet::Pingreq);
            assert_eq!(b.read(conn), "PINGRESP");
            let (last, expected) = proof(first, &asked, "secret");
            b.send(conn, &go_on(&last));
            assert_eq!(read_auth(b, conn), (ReasonCode::Success, expected));
        }
        assert!(b.is_open(conn));
    }

    fn nobody_becomes_somebody_else_on_the_way(b: &mut House) {
        with_users(b);
        let conn = enter(b, &connect(V5, "a"), "anna", "secret");
        let first = "n,,n=bert,r=x";
        b.send(conn, &again(first));
        let asked = challenge(b, conn);
        b.send(conn, &go_on(&proof(first, &asked, "other").0));
        assert_eq!(b.read(conn), "DISCONNECT 0x87");
        assert!(!b.is_open(conn));
    }

    fn an_answer_that_its_client_cannot_take_ends_the_exchange(b: &mut House) {
        with_users(b);
        let narrow = Connect {
            properties: fieldgate::mqtt::ConnectProperties {
                maximum_packet_size: core::num::NonZeroU32::new(60),
                ..Default::default()
            },
            ..connect(V5, "a")
        };
        let conn = b.dial(&asking(&narrow, "n,,n=anna,r=x"));
        assert_eq!(b.read(conn), "CONNACK Packet too large");
        assert!(!b.is_open(conn));
    }
}

/// Leaves one user.
fn list_only(access: &mut AccessSettings, name: &str) {
    access
        .users
        .as_mut()
        .unwrap()
        .retain(|other, _| &**other == name);
}
