//! Records: what the broker writes of what it keeps, and reads back.
//!
//! # What is in a record
//!
//! Numbers are little-endian, text is UTF-8 without a length where it is the rest.
//!
//! | record | body |
//! |---|---|
//! | session | version 1, flags (1: has a user), expiry u32, end i64 (ms since 1970, 0: not yet), length of the client identifier u16, client identifier, user |
//! | subscription | version 1, flags (QoS, 4: no local, 8: retain as published), identifier u32 (0: none), filter |
//! | message | version 1, time of keeping i64 (ms since 1970), PUBLISH of 5.0 at QoS 0 with QoS in its place: flags (QoS, 4: RETAIN), packet |
//! | sent | version 1, stage (0: PUBLISH, 1: PUBREL, 2: PUBCOMP), packet identifier u16 |
//! | will | version 1, flags (1: has a user), delay u32 (s), due i64 (ms since 1970, 0: its client is there, or the clock was not set), length of the client identifier u16, client identifier, length of the user u16, user, message |
//! | received, with no taker to keep the message for | version 1 |
//!
//! The note of a queue's entry: flags (QoS, 4: RETAIN), count of identifiers, each u32, filter of
//! the shared subscription that it came by.

use smallvec::SmallVec;

use super::{Kept, Key, KeyKind, Target};
use crate::broker::queue::{Identifiers, Reference};
use crate::broker::session::Session;
use crate::broker::shared::Shared;
use crate::broker::subscriptions::Subscription;
use crate::buffer::Payload;
use crate::id::{MessageId, QueueId, ShareId, stable_hash};
use crate::mqtt::{
    ApplicationMessage, Packet, PacketId, ProtocolVersion, Publish, QoS, SubscriptionIdentifier,
    TopicFilter, TopicName,
};
use crate::time::{Instant, Now, WallTime};

/// The version of every record's body.
const VERSION: u8 = 1;

/// The body of a record that says only that it is there.
pub(in crate::broker) fn encode_presence() -> Vec<u8> {
    vec![VERSION]
}

/// Whether it is such a body.
pub(super) fn is_presence(body: &[u8]) -> bool {
    body == [VERSION]
}

/// How far a QoS 2 message is, and under which identifier.
pub(super) fn encode_sent(stage: Stage, packet_id: PacketId) -> Vec<u8> {
    let mut body = vec![VERSION, stage as u8];
    body.extend_from_slice(&packet_id.value().to_le_bytes());
    body
}

/// How far a QoS 2 message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Stage {
    /// PUBLISH was sent, or is about to be.
    Published = 0,
    /// PUBREC has come.
    Released = 1,
    /// PUBCOMP has.
    Over = 2,
}

#[derive(Debug)]
pub(super) struct SentEntry {
    pub(super) packet_id: PacketId,
    pub(super) stage: Stage,
    pub(super) sequence: u64,
}

/// `sequence` is the key's part within the session.
pub(super) fn decode_sent(sequence: u64, body: &[u8]) -> Option<SentEntry> {
    let mut reader = Bytes(body);
    reader.version()?;
    let stage = match reader.u8()? {
        0 => Stage::Published,
        1 => Stage::Released,
        2 => Stage::Over,
        _ => return None,
    };
    Some(SentEntry {
        packet_id: PacketId::new(reader.u16()?)?,
        stage,
        sequence,
    })
}

/// The identifiers of QoS 2 messages under way that a session has keys for.
pub(super) fn kept_identifiers(kept: Kept, session: &Session) -> Vec<Key> {
    let received = session.received.iter();
    let received = received.map(|id| kept.key(KeyKind::Received, id.value().into()));
    let sent = session.inflight.iter().map(|sent| sent.sequence);
    let sent = sent.chain(session.over.iter().copied());
    let sent = sent.filter(|sequence| *sequence != 0);
    let sent = sent.map(|sequence| kept.key(KeyKind::Sent, sequence));
    received.chain(sent).collect()
}

/// An entry of a queue.
pub(in crate::broker) fn queue_target(
    queue: QueueId,
    sequence: u64,
    said: &Note<'_>,
    shared: &Shared,
) -> Target {
    let mut note = SmallVec::new();
    note.push(said.qos.bits() | u8::from(said.retain) << 2);
    note.push(said.identifiers.len().min(255) as u8);
    for identifier in said.identifiers.iter().take(255) {
        note.extend_from_slice(&identifier.value().to_le_bytes());
    }
    let filter = said.share.and_then(|share| shared.filter(share));
    note.extend_from_slice(filter.unwrap_or_default().as_bytes());
    Target::Queue {
        queue,
        sequence,
        note,
    }
}

/// How a session takes an entry of its queue.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Note<'a> {
    pub(in crate::broker) qos: QoS,
    pub(in crate::broker) retain: bool,
    pub(in crate::broker) identifiers: &'a [SubscriptionIdentifier],
    pub(in crate::broker) share: Option<ShareId>,
}

impl<'a> Note<'a> {
    pub(in crate::broker) fn of(reference: &'a Reference) -> Self {
        Self {
            qos: reference.qos,
            retain: reference.retain,
            identifiers: &reference.identifiers,
            share: reference.share,
        }
    }
}

pub(super) fn decode_note(note: &[u8], message: MessageId) -> Option<(Reference, String)> {
    let mut reader = Bytes(note);
    let flags = reader.u8()?;
    let count = reader.u8()?;
    let identifiers: Option<Identifiers> = (0..count)
        .map(|_| SubscriptionIdentifier::new(reader.u32()?))
        .collect();
    let reference = Reference {
        message,
        qos: QoS::from_bits(flags & 3)?,
        retain: flags & 4 != 0,
        is_again: false,
        identifiers: identifiers?,
        share: None::<ShareId>,
        cost: 0,
        sequence: 0,
    };
    Some((reference, core::str::from_utf8(reader.0).ok()?.to_owned()))
}

/// Two filters of one client that collide cost that client one of them after a start; it would have
/// to look for them.
pub(super) fn hash(filter: &str) -> u64 {
    stable_hash(filter.bytes())
}

pub(super) fn encode_session(session: &Session, now: Now) -> Vec<u8> {
    let is_away = session.link.is_none() && session.expires_at < Instant::FAR_FUTURE;
    let left = session.expires_at.since(now.monotonic);
    let end = if is_away && now.wall.is_plausible() {
        now.wall.saturating_add(left).unix_millis()
    } else {
        0
    };
    let user = session.user.as_deref();
    let mut body = vec![VERSION, u8::from(user.is_some())];
    body.extend_from_slice(&session.expiry_seconds.to_le_bytes());
    body.extend_from_slice(&end.to_le_bytes());
    body.extend_from_slice(&(session.client_id.len() as u16).to_le_bytes());
    body.extend_from_slice(session.client_id.as_bytes());
    body.extend_from_slice(user.unwrap_or_default().as_bytes());
    body
}

pub(super) struct SessionEntry<'a> {
    pub(super) client_id: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) expiry_seconds: u32,
    pub(super) end: Option<WallTime>,
}

pub(super) fn decode_session(body: &[u8]) -> Option<SessionEntry<'_>> {
    let mut reader = Bytes(body);
    reader.version()?;
    let flags = reader.u8()?;
    let expiry_seconds = reader.u32()?;
    let end = reader.u64()? as i64;
    let len = usize::from(reader.u16()?);
    let client_id = core::str::from_utf8(reader.take(len)?).ok()?;
    let user = core::str::from_utf8(reader.0).ok()?;
    Some(SessionEntry {
        client_id,
        user: (flags & 1 != 0).then_some(user),
        expiry_seconds,
        end: (end != 0).then(|| WallTime::from_unix_millis(end)),
    })
}

pub(super) fn encode_subscription(filter: &str, subscription: Subscription) -> Vec<u8> {
    let identifier = subscription
        .identifier
        .map_or(0, SubscriptionIdentifier::value);
    let flags = subscription.maximum_qos.bits()
        | u8::from(subscription.no_local) << 2
        | u8::from(subscription.retain_as_published) << 3;
    let mut body = vec![VERSION, flags];
    body.extend_from_slice(&identifier.to_le_bytes());
    body.extend_from_slice(filter.as_bytes());
    body
}

pub(super) fn decode_subscription(body: &[u8]) -> Option<(TopicFilter<'_>, Subscription)> {
    let mut reader = Bytes(body);
    reader.version()?;
    let flags = reader.u8()?;
    let identifier = reader.u32()?;
    let filter = TopicFilter::new(core::str::from_utf8(reader.0).ok()?).ok()?;
    let subscription = Subscription {
        maximum_qos: QoS::from_bits(flags & 3)?,
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        identifier: SubscriptionIdentifier::new(identifier),
    };
    Some((filter, subscription))
}

/// A message as it is kept.
pub(in crate::broker) fn encode_message(message: &ApplicationMessage, now: Now) -> Vec<u8> {
    let publish = Publish {
        qos: QoS::AtMostOnce,
        ..message.as_publish(ProtocolVersion::V5, now.monotonic)
    };
    let head = 10;
    let mut body = vec![0; head + publish.encoded_len(ProtocolVersion::V5)];
    body[0] = VERSION;
    body[1..9].copy_from_slice(&now.wall.unix_millis().to_le_bytes());
    body[9] = message.qos().bits() | u8::from(message.retain()) << 2;
    publish.encode(ProtocolVersion::V5, &mut body[head..]);
    body
}

/// When it was kept, and the message as it was published, its QoS without a packet identifier.
pub(super) fn read_publish(body: &[u8]) -> Option<(WallTime, Publish<'_>)> {
    let mut reader = Bytes(body);
    reader.version()?;
    let kept_at = WallTime::from_unix_millis(reader.u64()? as i64);
    let flags = reader.u8()?;
    let Packet::Publish(mut publish) = Packet::parse(ProtocolVersion::V5, reader.0).ok()? else {
        return None;
    };
    publish.qos = QoS::from_bits(flags & 3)?;
    publish.retain = flags & 4 != 0;
    Some((kept_at, publish))
}

pub(super) fn decode_message(body: &Payload, now: Now) -> Option<ApplicationMessage> {
    let (kept_at, mut publish) = read_publish(body)?;
    // What has passed of its life while nobody ran; a clock that is not set ends nothing.
    let is_told = kept_at.is_plausible() && now.wall.is_plausible();
    let passed = if is_told {
        now.wall.since(kept_at).as_secs()
    } else {
        0
    };
    let left = publish.properties.message_expiry_interval;
    let left = left.map(|left| u64::from(left).saturating_sub(passed) as u32);
    publish.properties.message_expiry_interval = left;
    let at = body.len() - publish.payload.len();
    let payload = body.slice(at..body.len());
    let topic = TopicName::new(publish.topic).ok()?;
    let payload = Payload::copy_from(&payload);
    Some(ApplicationMessage::from_publish(
        &publish,
        topic,
        payload,
        now.monotonic,
    ))
}

/// When a message was kept.
pub(super) fn kept_at(body: &[u8]) -> Option<WallTime> {
    let mut reader = Bytes(body);
    reader.version()?;
    Some(WallTime::from_unix_millis(reader.u64()? as i64))
}

pub(super) struct WillEntry<'a> {
    pub(super) client_id: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) delay_seconds: u32,
    /// When it is to be published, if its client was away when this was written.
    pub(super) due: Option<WallTime>,
    /// When it was kept.
    pub(super) kept_at: WallTime,
    /// As it is to be published; its expiry has not begun.
    pub(super) publish: Publish<'a>,
}

pub(super) fn encode_will(
    (client_id, user): (&str, Option<&str>),
    delay_seconds: u32,
    due: Option<WallTime>,
    message: &ApplicationMessage,
    now: Now,
) -> Vec<u8> {
    let mut body = vec![VERSION, u8::from(user.is_some())];
    body.extend_from_slice(&delay_seconds.to_le_bytes());
    let due = due.map_or(0, WallTime::unix_millis);
    body.extend_from_slice(&due.to_le_bytes());
    for name in [client_id, user.unwrap_or_default()] {
        body.extend_from_slice(&(name.len() as u16).to_le_bytes());
        body.extend_from_slice(name.as_bytes());
    }
    body.extend_from_slice(&encode_message(message, now));
    body
}

pub(super) fn decode_will(body: &[u8]) -> Option<WillEntry<'_>> {
    let mut reader = Bytes(body);
    reader.version()?;
    let flags = reader.u8()?;
    let delay_seconds = reader.u32()?;
    let due = reader.u64()? as i64;
    let client_id = reader.text()?;
    let user = reader.text()?;
    let (kept_at, publish) = read_publish(reader.0)?;
    Some(WillEntry {
        client_id,
        user: (flags & 1 != 0).then_some(user),
        delay_seconds,
        due: (due != 0).then(|| WallTime::from_unix_millis(due)),
        kept_at,
        publish,
    })
}

/// A reader of little-endian numbers; the rest is what has not been read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// `None`: it is another version's.
    fn version(&mut self) -> Option<()> {
        (self.u8()? == VERSION).then_some(())
    }

    /// Text behind its length.
    fn text(&mut self) -> Option<&'a str> {
        let len = usize::from(self.u16()?);
        core::str::from_utf8(self.take(len)?).ok()
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
