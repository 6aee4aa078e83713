//! The client's side of SCRAM-SHA-256, for tests: written from RFC 5802 alone, with nothing of the
//! broker's own.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use data_encoding::BASE64;
use fieldgate::broker::settings::AccessSettings;
use fieldgate::credential::PasswordHash;
use fieldgate::id::ConnId;
use fieldgate::mqtt::{Auth, AuthProperties, Connect, ConnectProperties, Packet, ReasonCode};
use ring::{digest, hmac, pbkdf2};

use crate::house::*;

pub const METHOD: &str = "SCRAM-SHA-256";
pub const SALT: &[u8] = b"a salt of 16 byt";
pub const ROUNDS: u32 = 4096;

fn sign(key: &[u8], of: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, of).as_ref().to_vec()
}

fn salted(password: &str, salt: &[u8], rounds: u32) -> [u8; 32] {
    let mut salted = [0; 32];
    let rounds = NonZeroU32::new(rounds).unwrap();
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, rounds, salt, password.as_bytes(), &mut salted);
    salted
}

/// What stands in the password file.
pub fn verifier(password: &str) -> PasswordHash {
    let salted = salted(password, SALT, ROUNDS);
    let stored = digest::digest(&digest::SHA256, &sign(&salted, b"Client Key"));
    let server = sign(&salted, b"Server Key");
    let [salt, stored, server] = [SALT, stored.as_ref(), &server].map(|part| BASE64.encode(part));
    let text = format!("$scram-sha-256$i={ROUNDS}${salt}${stored}${server}");
    PasswordHash::parse(&text).unwrap()
}

/// Users with these passwords.
pub fn users(passwords: &[(&str, &str)]) -> AccessSettings {
    let users = passwords
        .iter()
        .map(|(name, password)| (Box::from(*name), verifier(password)));
    AccessSettings {
        users: Some(users.collect::<BTreeMap<_, _>>()),
        ..AccessSettings::default()
    }
}

/// Two users who have passwords: `secret` and `other`.
pub fn with_users(b: &mut House) {
    b.set(|settings| settings.access = users(&[("anna", "secret"), ("bert", "other")]));
}

/// `connect` with SCRAM, and a client's first message.
pub fn asking<'a>(connect: &Connect<'a>, first: &'a str) -> Connect<'a> {
    Connect {
        properties: ConnectProperties {
            authentication_method: Some(METHOD),
            authentication_data: Some(first.as_bytes()),
            ..connect.properties
        },
        ..*connect
    }
}

pub fn auth<'a>(reason: ReasonCode, method: Option<&'a str>, data: &'a str) -> Packet<'a> {
    Packet::Auth(Auth {
        reason,
        properties: AuthProperties {
            authentication_method: method,
            authentication_data: Some(data.as_bytes()),
            ..AuthProperties::default()
        },
    })
}

pub fn go_on(data: &str) -> Packet<'_> {
    auth(ReasonCode::ContinueAuthentication, Some(METHOD), data)
}

pub fn again(data: &str) -> Packet<'_> {
    auth(ReasonCode::ReAuthenticate, Some(METHOD), data)
}

/// The AUTH that the client has got: reason and data. Its method is always ours.
pub fn read_auth(b: &mut House, conn: ConnId) -> (ReasonCode, String) {
    b.read_with(conn, |packet| {
        let Packet::Auth(auth) = packet else {
            panic!("{packet:?}")
        };
        assert_eq!(auth.properties.authentication_method, Some(METHOD));
        let data = auth.properties.authentication_data.unwrap().to_vec();
        (auth.reason, String::from_utf8(data).unwrap())
    })
    .expect("an AUTH")
}

/// What the server has asked: `server-first`.
pub fn challenge(b: &mut House, conn: ConnId) -> String {
    let (reason, data) = read_auth(b, conn);
    assert_eq!(reason, ReasonCode::ContinueAuthentication);
    data
}

/// The value of a field of a message.
pub fn value(message: &str, name: char) -> String {
    let field = message
        .split(',')
        .find(|field| field.starts_with(name) && field[1..].starts_with('='));
    field.expect("such a field")[2..].to_owned()
}

/// `client-final`, and the `server-final` that proves the server.
pub fn proof(first: &str, server_first: &str, password: &str) -> (String, String) {
    let (header, bare) = first.split_at(first.match_indices(',').nth(1).unwrap().0 + 1);
    let salt = BASE64.decode(value(server_first, 's').as_bytes()).unwrap();
    let rounds = value(server_first, 'i').parse().unwrap();
    let salted = salted(password, &salt, rounds);
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let binding = BASE64.encode(header.as_bytes());
    let nonce = value(server_first, 'r');
    let unproven = format!("c={binding},r={nonce}");
    let signed = format!("{bare},{server_first},{unproven}");
    let signature = sign(stored_key.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(&signature)
        .map(|(one, other)| one ^ other)
        .collect();
    let server = sign(&sign(&salted, b"Server Key"), signed.as_bytes());
    let last = format!("{unproven},p={}", BASE64.encode(&proof));
    (last, format!("v={}", BASE64.encode(&server)))
}

/// A client that has been asked for its proof, which comes back and is not sent yet.
pub fn asked(b: &mut House, first: &str, password: &str) -> (ConnId, String) {
    let conn = b.dial(&asking(&connect(V5, "a"), first));
    let asked = challenge(b, conn);
    (conn, proof(first, &asked, password).0)
}

/// Connects as far as the proof, which is sent and not answered yet. `server-final` comes back.
pub fn prove(b: &mut House, connect: &Connect<'_>, user: &str, password: &str) -> (ConnId, String) {
    let first = format!("n,,n={user},r=nonce");
    let conn = b.dial(&asking(connect, &first));
    let asked = challenge(b, conn);
    assert_eq!(b.read(conn), "", "nothing else is said before CONNACK");
    let (last, expected) = proof(&first, &asked, password);
    b.send(conn, &go_on(&last));
    (conn, expected)
}

/// A client that has come in.
pub fn enter(b: &mut House, connect: &Connect<'_>, user: &str, password: &str) -> ConnId {
    let (conn, expected) = prove(b, connect, user, password);
    b.read_with(conn, |packet| {
        let Packet::Connack(connack) = packet else {
            panic!("{packet:?}")
        };
        assert_eq!(connack.reason, ReasonCode::Success);
        let properties = connack.properties;
        assert_eq!(properties.authentication_method, Some(METHOD));
        let data = properties.authentication_data;
        assert_eq!(data, Some(expected.as_bytes()), "the server knows it too");
    })
    .expect("a CONNACK");
    conn
}
