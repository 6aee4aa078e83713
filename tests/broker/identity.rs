//! Who a client is, and whose a session is.

use fieldgate::broker::settings::AccessSettings;
use fieldgate::broker::{Admission, VERIFICATIONS_PER_ADDRESS_MAX};
use fieldgate::credential::PasswordHash;
use fieldgate::id::ConnId;
use fieldgate::mqtt::{Connect, Packet, ProtocolVersion};

use crate::house::*;

const BOTH: [ProtocolVersion; 2] = [V4, V5];

/// One that ends in these two characters.
fn hash(last: &str) -> PasswordHash {
    PasswordHash::parse(&format!("$7$101$c2FsdA==${}{last}==", "A".repeat(84))).unwrap()
}

fn users(names: &[(&str, &str)]) -> AccessSettings {
    let users = names
        .iter()
        .map(|(name, last)| (Box::from(*name), hash(last)));
    AccessSettings {
        users: Some(users.collect()),
        ..AccessSettings::default()
    }
}

fn with_users(b: &mut House) {
    b.set(|settings| settings.access = users(&[("anna", "QQ"), ("bert", "gg")]));
}

fn login<'a>(connect: &Connect<'a>, name: &'a str, password: &'a str) -> Connect<'a> {
    Connect {
        username: Some(name),
        password: Some(password.as_bytes()),
        ..*connect
    }
}

/// Sends CONNECT and answers what is asked about its password.
fn enter(b: &mut House, connect: &Connect<'_>, is_right: bool) -> ConnId {
    let conn = b.dial(connect);
    assert_eq!(
        b.read(conn),
        "",
        "nothing is said before the password is compared"
    );
    let (asked, ..) = b.verifications.pop_front().expect("a password is compared");
    assert_eq!(asked, conn);
    b.verified(conn, is_right);
    conn
}

cases! {
    fn a_right_password_lets_in_and_a_wrong_one_does_not(b: &mut House) {
        with_users(b);
        for version in BOTH {
            let anna = login(&connect(version, "a"), "anna", "secret");
            let conn = b.dial(&anna);
            let (_, compared, password) = b.verifications.pop_front().unwrap();
            assert_eq!((&compared, password.bytes()), (&hash("QQ"), &b"secret"[..]));
            assert!(!format!("{password:?}").contains("secret"));
            b.verified(conn, true);
            assert_eq!(b.read(conn), "CONNACK Success");
            b.disconnect(conn);
            let conn = enter(b, &anna, false);
            let answer = b.read(conn).to_lowercase();
            assert_eq!(answer, "connack bad user name or password");
            assert!(!b.is_open(conn));
        }
        assert_eq!((b.stat("refused_logins"), b.stat("sessions")), (2, 0));
    }

    fn an_unknown_user_costs_as_much_and_never_gets_in(b: &mut House) {
        with_users(b);
        let conn = b.dial(&login(&connect(V5, "a"), "nobody", "secret"));
        let (_, compared, _) = b.verifications.pop_front().unwrap();
        assert_eq!(compared.scheme, hash("QQ").scheme);
        b.verified(conn, true);
        assert!(b.read(conn).starts_with("CONNACK Bad"));
        assert_eq!(b.stat("sessions"), 0);
    }

    fn what_follows_a_connect_waits_for_it(b: &mut House) {
        with_users(b);
        let conn = b.dial(&login(&connect(V5, "a"), "anna", "secret"));
        b.subscribe_with(conn, "x", fieldgate::mqtt::SubscriptionOptions::new(Q0), None);
        b.send(conn, &Packet::Pingreq);
        assert_eq!(b.read(conn), "");
        b.verifications.clear();
        b.verified(conn, true);
        assert_eq!(b.read_all(conn), ["CONNACK Success", "SUBACK 1 [0x00]", "PINGRESP"]);
    }

    fn a_password_that_is_compared_for_too_long_is_given_up(b: &mut House) {
        with_users(b);
        let conn = b.dial(&login(&connect(V5, "a"), "anna", "secret"));
        b.seconds(10);
        assert!(!b.is_open(conn));
        b.verified(conn, true);
        assert_eq!((b.stat("connect_timeouts"), b.stat("sessions")), (1, 0));
    }

    fn so_many_passwords_of_one_address_are_compared_at_once(b: &mut House) {
        with_users(b);
        let names: Vec<_> = (0..=VERIFICATIONS_PER_ADDRESS_MAX).map(|n| format!("c{n}")).collect();
        let conns: Vec<_> = names
            .iter()
            .map(|name| b.dial(&login(&connect(V5, name), "anna", "secret")))
            .collect();
        let (last, first) = conns.split_last().unwrap();
        assert!(b.read(*last).starts_with("CONNACK Server busy"));
        assert_eq!((b.verifications.len(), b.stat("refused_verifications")), (first.len(), 1));
        b.drop_conn(first[0]);
        b.verified(first[1], true);
        assert_eq!(b.read(first[1]), "CONNACK Success");
        let again = b.dial(&login(&connect(V5, "again"), "anna", "secret"));
        assert_eq!(b.read(again), "", "there is room again");
    }

    fn nobody_else_gets_a_users_session(b: &mut House) {
        with_users(b);
        for version in BOTH {
            let conn = enter(b, &login(&lasting(version, "a"), "anna", "secret"), true);
            assert_eq!(b.read(conn), "CONNACK Success");
            for other in [lasting(version, "a"), connect(version, "a")] {
                let refused = enter(b, &login(&other, "bert", "secret"), true);
                assert_eq!(b.read(refused), "CONNACK Not authorized");
                let refused = b.dial(&other);
                assert_eq!(b.read(refused), "CONNACK Not authorized", "nobody is not anna");
            }
            assert!(b.is_open(conn), "and takes nothing over");
            b.drop_conn(conn);
            let conn = enter(b, &login(&lasting(version, "a"), "anna", "secret"), true);
            assert_eq!(b.read(conn), "CONNACK Success present");
            b.disconnect(conn);
            let conn = enter(b, &login(&connect(version, "a"), "anna", "secret"), true);
            b.disconnect(conn);
        }
        assert_eq!(b.stat("refused_owners"), 8);
    }

    fn the_transports_word_counts_and_the_clients_does_not(b: &mut House) {
        with_users(b);
        let conn = b.open();
        b.broker.handle_identified(conn, "anna");
        b.send(conn, &Packet::Connect(login(&lasting(V5, "a"), "bert", "wrong")));
        assert_eq!(b.read(conn), "CONNACK Success");
        assert!(b.verifications.is_empty());
        b.drop_conn(conn);
        let conn = enter(b, &login(&lasting(V5, "a"), "anna", "secret"), true);
        assert_eq!(b.read(conn), "CONNACK Success present", "it is anna's session");
    }

    fn without_a_password_file_a_name_is_nobodys(b: &mut House) {
        let conn = b.join(&login(&lasting(V5, "a"), "anna", "secret"));
        b.drop_conn(conn);
        let conn = b.dial(&login(&lasting(V5, "a"), "bert", "secret"));
        assert_eq!(b.read(conn), "CONNACK Success present");
        assert!(b.verifications.is_empty());
    }

    fn who_has_no_name_needs_a_listener_that_allows_it(b: &mut House) {
        with_users(b);
        let conn = b.open_where(false);
        b.send(conn, &Packet::Connect(connect(V5, "a")));
        assert_eq!(b.read(conn), "CONNACK Not authorized");
        b.client(V5, "a");
    }

    fn another_password_ends_what_the_old_one_let_in(b: &mut House) {
        with_users(b);
        let anna = enter(b, &login(&lasting(V5, "a"), "anna", "secret"), true);
        let bert = enter(b, &login(&lasting(V5, "b"), "bert", "secret"), true);
        let nobody = b.client(V5, "c");
        b.read_all(anna);
        b.set(|settings| settings.access = users(&[("anna", "gg"), ("bert", "gg")]));
        assert_eq!(b.read(anna), "DISCONNECT 0x87");
        assert!(!b.is_open(anna) && b.is_open(bert) && b.is_open(nobody));
        b.set(|settings| settings.access = users(&[]));
        assert!(!b.is_open(bert) && b.is_open(nobody));
        assert_eq!(b.stat("sessions"), 3, "the sessions stay theirs");
    }
}

#[test]
fn an_address_is_not_needed_to_be_let_in() {
    let b = &mut House::new(false);
    let admission = Admission {
        allow_anonymous: true,
        excess: 0,
        address: None,
        is_exempt: false,
        is_costly: false,
    };
    let conn = b.open_as(admission);
    b.send(conn, &Packet::Connect(connect(V5, "a")));
    assert_eq!(b.read(conn), "CONNACK Success");
}
