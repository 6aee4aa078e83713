//! What must hold for any bytes: shared by the fuzz targets and by the plain test that runs the
//! kept corpus.
#![allow(dead_code, reason = "each fuzz target uses one of these")]

use std::num::NonZeroU32;
use std::rc::Rc;

#[path = "lives.rs"]
mod lives;

use fieldgate::broker::keep::{Description, KeyKind, describe};
use fieldgate::buffer::{Memory, Payload, SendQueue};
use fieldgate::config::access::{LineError, parse_acl, parse_passwords};
use fieldgate::credential::scram::{ClientFirst, Exchange, MESSAGE_MAX, Secret};
use fieldgate::credential::{PasswordHash, SHA256_BYTES, Scheme};
use fieldgate::gateway::settings::{CertificateName, WebSocketSettings};
use fieldgate::host::certificate::{NAME_MAX, name_of, valid_until};
use fieldgate::host::frames::{CONTROL_MAX, Deframer, End, Said};
use fieldgate::host::proxy::{self, Parsed, V2_MAX};
use fieldgate::host::upgrade;
use fieldgate::journal::{Found, inspect};
use fieldgate::mqtt::client::{Acknowledge, Client, ConnectOptions, Event};
use fieldgate::mqtt::frame::{self, FIXED_HEADER_LEN_MAX, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::packet::connack_for;
use fieldgate::mqtt::topic::{check_filter, check_name, matches};
use fieldgate::mqtt::{
    ApplicationMessage, Packet, PacketType, ProtocolVersion, PublishProperties, QoS, ReasonCode,
    SubscriptionOptions, SubscriptionRequest, TopicFilter, TopicName,
};
use fieldgate::time::{Duration, Instant};

const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V3,
    ProtocolVersion::V4,
    ProtocolVersion::V5,
];

/// A stream of packets, in every version: each is an error with a reason, or a packet that comes
/// back from its own encoding.
pub fn packet(bytes: &[u8]) {
    for version in VERSIONS {
        let mut rest = bytes;
        while !rest.is_empty() {
            match frame::peek(rest, PACKET_SIZE_MAX) {
                Ok(Frame::Incomplete { needed }) => {
                    assert!(
                        needed.map_or(rest.len() < FIXED_HEADER_LEN_MAX, |len| len > rest.len())
                    );
                    break;
                }
                Err(error) => {
                    assert!(error.reason().is_error());
                    break;
                }
                Ok(Frame::Complete { total_len, .. }) => {
                    one_packet(version, &rest[..total_len]);
                    rest = &rest[total_len..];
                }
            }
        }
    }
}

fn one_packet(version: ProtocolVersion, bytes: &[u8]) {
    let packet = match Packet::parse(version, bytes) {
        Ok(packet) => packet,
        Err(error) => {
            assert!(error.offset <= bytes.len());
            assert!(!error.to_string().is_empty());
            if let Some((_, reason)) = connack_for(bytes, &error) {
                assert!(reason.is_allowed_in(PacketType::Connack));
            }
            return;
        }
    };
    let version = match packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    };
    let mut again = Vec::new();
    packet.encode_into(version, &mut again);
    assert_eq!(again.len(), packet.encoded_len(version));
    assert_eq!(Packet::parse(version, &again), Ok(packet));
    for limit in [2, 4, 16, again.len() as u32] {
        if let Some(cut) = packet.fit(version, limit) {
            assert!(cut.encoded_len(version) <= limit as usize);
        }
    }
    if let Packet::Publish(publish) = packet {
        let payload_len = publish.payload.len();
        let mut head = vec![0; publish.head_len(version, payload_len)];
        publish.encode_head(version, payload_len, &mut head);
        assert_eq!(head, again[..again.len() - payload_len]);
        keep(version, &publish);
    }
}

/// A message that is kept says the same as the packet that it came by.
fn keep(version: ProtocolVersion, publish: &fieldgate::mqtt::Publish<'_>) {
    let Ok(topic) = TopicName::new(publish.topic) else {
        return;
    };
    let payload = Payload::copy_from(publish.payload);
    let message = ApplicationMessage::from_publish(publish, topic, payload, Instant::default());
    let kept = message.as_publish(version, Instant::default());
    let mut expected = *publish;
    expected.dup = false;
    expected.packet_id = None;
    expected.properties.topic_alias = None;
    expected.properties.subscription_identifiers = fieldgate::mqtt::SubscriptionIdentifiers::EMPTY;
    assert_eq!(kept, expected);
}

/// A filter and a topic, with a line feed between them.
pub fn topic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (filter, topic) = text.split_once('\n').unwrap_or((&text, ""));
    let matched = matches(filter, topic);
    if check_filter(filter).is_ok() && check_name(topic).is_ok() {
        let checked = TopicFilter::new(filter).expect("it was checked");
        let inner = checked
            .share()
            .map_or(filter, |(_, filter)| filter.as_str());
        assert_eq!(checked.matches(topic), naive_matches(inner, topic));
        assert_eq!(matched, naive_matches(filter, topic));
    }
}

fn naive_matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            ([wanted, filter @ ..], [level, topic @ ..]) => {
                (*wanted == "+" || wanted == level) && levels(filter, topic)
            }
            _ => false,
        }
    }
    let filter: Vec<_> = filter.split('/').collect();
    let topic: Vec<_> = topic.split('/').collect();
    let is_hidden = topic[0].starts_with('$') && matches!(filter[0], "#" | "+");
    !is_hidden && levels(&filter, &topic)
}

/// A script for a client: a byte of options, then steps of one byte each, of which some take more
/// bytes.
pub fn client(bytes: &[u8]) {
    let Some((&first, mut script)) = bytes.split_first() else {
        return;
    };
    let options = ConnectOptions {
        version: VERSIONS[usize::from(first % 3)],
        client_id: "fuzz".into(),
        clean_start: first & 0x10 != 0,
        topic_alias_maximum: 4,
        maximum_packet_size: 1024,
        acknowledge: if first & 0x20 == 0 {
            Acknowledge::OnReceipt
        } else {
            Acknowledge::ByCaller
        },
        ..ConnectOptions::default()
    };
    let mut client = Client::new(options).expect("the options are good");
    let mut out = SendQueue::new(&Memory::new(usize::MAX));
    let mut kept = Vec::new();
    let mut tokens = Vec::new();
    let mut now = Instant::default();
    let mut open = 0;
    while let Some((&step, rest)) = script.split_first() {
        script = rest;
        match step % 12 {
            0 => {
                kept.clear();
                out.clear();
                client.handle_connected(now);
                open += 1;
            }
            1 => {
                kept.clear();
                out.clear();
                client.handle_closed();
            }
            2..=4 => {
                let qos = QoS::from_bits(step % 12 - 2).expect("0, 1 or 2");
                let message = ApplicationMessage::new(
                    TopicName::new("t").expect("a name"),
                    Payload::copy_from(&[step]),
                    qos,
                    step & 0x80 != 0,
                    &PublishProperties::default(),
                    now,
                );
                let could = client.can_publish(qos);
                let did = client.publish(Rc::new(message)).is_ok();
                assert!(could || !did);
            }
            5 => {
                let filter = TopicFilter::new("a/+").expect("a filter");
                let options = SubscriptionOptions::new(QoS::AtLeastOnce);
                let _ = client.subscribe(&[SubscriptionRequest { filter, options }], None);
            }
            6 => {
                let filter = TopicFilter::new("a/+").expect("a filter");
                let _ = client.unsubscribe(&[filter]);
            }
            7 => {
                if let Some(token) = tokens.pop() {
                    let reason = if step & 0x80 == 0 {
                        ReasonCode::Success
                    } else {
                        ReasonCode::QuotaExceeded
                    };
                    client.acknowledge(token, reason);
                }
            }
            8 => {
                now = now + Duration::from_secs(u64::from(step));
                client.handle_timeout(now);
                assert!(client.poll_timeout().is_none_or(|at| at > now));
            }
            9 => client.disconnect(ReasonCode::DisconnectWithWillMessage),
            _ => {
                // The next byte says how many bytes the server sends.
                let len = script.first().map_or(0, |len| usize::from(*len));
                let end = (1 + len).min(script.len());
                kept.extend_from_slice(script.get(1..end).unwrap_or_default());
                script = &script[end..];
            }
        }
        loop {
            let consumed = client.handle_input(now, &kept);
            kept.drain(..consumed);
            while let Some(event) = client.poll_event() {
                match event {
                    Event::Message(received) => tokens.extend(received.ack),
                    Event::Closed(_) => {
                        open -= 1;
                        assert!((0..=1).contains(&open), "one end for each beginning");
                    }
                    _ => {}
                }
            }
            if consumed == 0 {
                break;
            }
        }
        if step & 0x40 == 0 {
            client.poll_transmit(now, &mut out);
            out.clear();
        }
    }
}

/// What came of frames.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    data: Vec<u8>,
    controls: Vec<(bool, Vec<u8>)>,
    end: Option<End>,
}

fn hear<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut deframer = Deframer::new(70_000);
    let mut heard = Heard::default();
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let controls = &mut heard.controls;
        let kept = deframer.decode(&mut bytes, |said| {
            let (is_ping, payload) = match said {
                Said::Ping(payload) => (true, payload),
                Said::Pong(payload) => (false, payload),
            };
            assert!(payload.len() <= CONTROL_MAX);
            controls.push((is_ping, payload.to_vec()));
        });
        heard.data.extend_from_slice(&bytes[..kept]);
    }
    heard.end = deframer.end();
    heard
}

/// A WebSocket client's bytes: the first says how the rest is cut, which must not matter.
pub fn frames(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = hear(core::iter::once(bytes));
    assert!(whole.data.len() <= bytes.len());
    if let Some(End::Violation(violation)) = whole.end {
        assert!((1002..=1009).contains(&violation.close_code()));
    }
    assert_eq!(hear(bytes.chunks(usize::from(cut) + 1)), whole);
}

/// A PROXY header: what was said about its beginning stays true when more comes.
pub fn proxy(bytes: &[u8]) {
    let mut said = None;
    for cut in 0..=bytes.len() {
        let now = proxy::parse(&bytes[..cut]);
        if let Ok(Parsed::Header { len, .. }) = now {
            assert!(len <= cut && len <= V2_MAX);
        }
        if let Some(before) = said {
            assert_eq!(now, before);
        }
        if now != Ok(Parsed::Incomplete) {
            said = Some(now);
        }
    }
    assert!(bytes.len() < V2_MAX || said.is_some());
}

/// The first byte is the kind of the record's key, or none; what follows is its body, and a
/// segment: either is told or not, and what is told lies within it.
pub fn journal(bytes: &[u8]) {
    let mut last = 0;
    let mut ends = 0;
    inspect(bytes, &mut |found| {
        let offset = match found {
            Found::Batch { offset, .. } | Found::Bad { offset, .. } => offset,
            Found::Data {
                offset, len, body, ..
            } => {
                assert!(body.len() < len as usize);
                offset
            }
            Found::End { used } => {
                ends += 1;
                used
            }
            Found::NewerVersion(_) => {
                ends += 1;
                return;
            }
            _ => return,
        };
        assert!(offset >= last);
        last = offset;
    });
    assert_eq!(ends, 1);
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let kind = KeyKind::from_u8(*kind);
    match describe(kind, body) {
        Some(Description::Message(message)) => {
            assert!(message.topic.len() + message.payload.len() < body.len());
        }
        Some(Description::Will {
            client_id, message, ..
        }) => assert!(client_id.len() + message.topic.len() + message.payload.len() < body.len()),
        Some(Description::Session {
            client_id, user, ..
        }) => assert!(client_id.len() + user.unwrap_or_default().len() < body.len()),
        Some(Description::Subscription { filter, .. }) => check_filter(filter).expect("a filter"),
        Some(Description::Sent { packet_id, .. }) => assert_ne!(packet_id, 0),
        Some(Description::Presence) => assert_eq!(kind, Some(KeyKind::Received)),
        None => {}
    }
}

/// A request for a WebSocket: accepted or refused, and answered as HTTP.
pub fn upgrade(bytes: &[u8]) {
    let Some(len) = upgrade::head_len(bytes, 0) else {
        return;
    };
    let answer = match upgrade::accept(&bytes[..len], &WebSocketSettings::default()) {
        Ok(answer) => {
            assert!(answer.starts_with(b"HTTP/1.1 101 "));
            answer
        }
        Err(refused) => refused.answer(),
    };
    assert!(upgrade::head_len(&answer, 0).is_some());
}

/// An ACL file: rules, or mistakes each with its place.
pub fn acl(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match parse_acl(&text) {
        Ok(rules) => {
            for rule in &rules.list {
                assert!(!rule.filter.as_str().is_empty());
            }
            // Comments and empty lines change nothing.
            let spaced = text.replace('\n', "\n# a comment\n\n");
            assert_eq!(parse_acl(&spaced), Ok(rules));
        }
        Err(errors) => places(&text, errors.iter().map(ToString::to_string)),
    }
}

/// A password file: users, or mistakes each with its place, of which none tells a hash.
pub fn passwords(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match parse_passwords(&text) {
        Ok(users) => {
            for name in users.keys() {
                assert!(!name.is_empty() && !name.chars().any(char::is_control));
            }
            assert!(users.len() <= text.lines().count());
        }
        Err(errors) => {
            places(&text, errors.iter().map(ToString::to_string));
            for line in text.lines() {
                let hash = line.split_once(':').map_or("", |(_, hash)| hash.trim());
                let is_told = |error: &LineError| error.to_string().contains(hash);
                let is_one = hash.len() >= 60 && hash.starts_with('$');
                assert!(!is_one || !errors.iter().any(is_told));
            }
        }
    }
}

/// Each message begins with the line and the column that it is about, is one line, and they come in
/// order.
fn places(text: &str, messages: impl Iterator<Item = String>) {
    let mut last = 0;
    for message in messages {
        let mut parts = message.splitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
        let (line, column) = (number().expect("a line"), number().expect("a column"));
        assert!(line >= last && line <= text.lines().count());
        let len = text.lines().nth(line - 1).map_or(0, str::len);
        assert!((1..=len + 1).contains(&column), "{message}");
        assert!(!message.chars().any(char::is_control));
        last = line;
    }
}

/// Whole connections; see `lives`.
pub fn broker(bytes: &[u8]) {
    lives::broker(bytes);
}

/// A certificate's names.
pub fn certificate(bytes: &[u8]) {
    for which in [
        CertificateName::CommonName,
        CertificateName::Subject,
        CertificateName::Alternative,
    ] {
        if let Ok(name) = name_of(bytes, which) {
            assert!(!name.is_empty() && name.len() <= NAME_MAX);
            assert!(!name.chars().any(char::is_control));
        }
    }
    if let Some(end) = valid_until(bytes) {
        assert_eq!(end.len(), 15);
    }
}

/// A client's two messages, with a line feed between them: without the password nothing is proven,
/// and what is asked is the client's nonce and ours.
pub fn scram(bytes: &[u8]) {
    let cut = bytes.iter().position(|byte| *byte == b'\n');
    let (first, last) = bytes.split_at(cut.unwrap_or(bytes.len()));
    let Ok(first) = ClientFirst::parse(first) else {
        return;
    };
    assert!(!first.user.is_empty() && first.user.len() <= MESSAGE_MAX);
    assert!(!first.user.chars().any(char::is_control));
    let sample = PasswordHash {
        scheme: Scheme::ScramSha256 {
            iterations: NonZeroU32::MIN,
        },
        salt: [1; 16].into(),
        digest: [2; 2 * SHA256_BYTES].into(),
    };
    let verifier = Secret::new(b"fuzz").decoy(&first.user, &sample);
    let exchange = Exchange::begin(&first, verifier, "ours").expect("a verifier of SCRAM");
    let asked = exchange.server_first();
    assert!(asked.starts_with("r=") && asked.ends_with(",i=1"));
    assert_eq!(
        asked.split(',').count(),
        3,
        "one nonce, one salt, one number"
    );
    assert_eq!(exchange.user(), &*first.user);
    assert!(exchange.finish(last.get(1..).unwrap_or_default()).is_err());
}
