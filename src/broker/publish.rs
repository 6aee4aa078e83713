//! From a publication to its takers.
//!
//! The fast way keeps nothing: a message of QoS 0 for a client that is there and has nothing
//! waiting is encoded once for each layout (version and RETAIN; with subscription identifiers or
//! topic aliases each by itself) and copied into the send queues. Every other taker gets a
//! reference to a message that is kept once.

use super::access::{Permissions, Verdict};
use super::aliases::write_head;
use super::keep::{self, Held, Key, KeyKind, Sender, Spilled, Target, What};
use super::message;
use super::queue::{Identifiers, Reference};
use super::retained::{Age, Limits};
use super::routes::Route;
use super::session::Arrival;
use super::settings::{Level, WhenFull};
use super::settle::Kind;
use super::shared;
use super::subscriptions::Match;
use super::{BridgeEntry, Broker, LastWill, Origin, Output, Taker, level_of};
use crate::buffer::{COPY_MAX, HIGH_WATER, Outbox, Payload, SendQueue};
use smallvec::SmallVec;

use crate::id::{ConnId, Lsn, MessageId, SessionId, ShareId};
use crate::mqtt::{
    Ack, ApplicationMessage, Packet, PacketId, PayloadFormat, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, SubscriptionIdentifier, SubscriptionIdentifiers, TopicName,
};
use crate::time::{Duration, Instant};

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// What the journal must have synced before the publication may be acknowledged to whoever sent
    /// it; 0 is nothing.
    pub lsn: Lsn,
    /// Takers that it matched.
    pub matched: usize,
    /// Why it reaches nobody.
    pub refused: Option<ReasonCode>,
}

/// What is used again for every publication, so that a warm broker allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    matches: Vec<Match>,
    identifiers: Vec<SubscriptionIdentifier>,
    layouts: Layouts,
    topic: String,
    pub(super) reasons: Vec<ReasonCode>,
}

/// Who publishes.
enum By<'a> {
    /// A client that is connected. What it may do is its session's.
    Client(SessionId),
    /// Anybody else, with the permissions of a client that is gone.
    Other(Origin, Option<&'a Permissions>),
}

impl By<'_> {
    fn origin(&self) -> Origin {
        match *self {
            By::Client(id) => Origin::Client(id),
            By::Other(origin, _) => origin,
        }
    }
}

/// A publication on its way to its takers.
struct Fanout<'a> {
    origin: Origin,
    publish: &'a Publish<'a>,
    /// The payload to be shared, made when the first taker needs it.
    body: Option<Payload>,
    kept: Kept,
    /// How what of it is kept outlives the process; `None`: not at all.
    level: Option<Level>,
    /// By whom, or as what.
    targets: SmallVec<[Target; 2]>,
    /// It is what its topic retains now, and to be kept as that some time.
    is_to_be_retained: bool,
    /// Nobody gets it before it is synced (QoS 2): who has sent it, under which identifier.
    sender: Option<(Sender, PacketId)>,
    /// What waits for that beside sessions.
    held: Vec<Output>,
    /// For bridges whose entries are numbered: they wait for the sync by themselves.
    bridged: Vec<Output>,
    /// The end of the retained message that it removes, which its sender waits for; 0: none.
    removal: Lsn,
    /// Takers in whose memory it has no place.
    spilled: SmallVec<[Spilled; 2]>,
}

/// Whether the publication is kept in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    NotYet,
    /// With one reference for the time of the fan-out.
    As(MessageId),
    /// The memory budget had no room.
    Refused,
}

impl Broker {
    /// Publishes a message that did not come from a client. Of `message`, DUP, a topic alias and
    /// subscription identifiers are not looked at; the packet identifier only at QoS 2 from a
    /// bridge, and is kept with the message then.
    pub fn publish(
        &mut self,
        now: crate::time::Now,
        origin: Origin,
        message: &Publish<'_>,
        outbox: &mut Outbox,
    ) -> Published {
        self.now = now;
        let published = if TopicName::new(message.topic).is_err() {
            Published::refused(ReasonCode::TopicNameInvalid)
        } else {
            self.route(&By::Other(origin, None), message, None, outbox)
        };
        self.finish(outbox);
        published
    }

    /// Replaces what is retained under a topic and tells nobody: it is what a subscription that is
    /// being made finds, as if it had been there before. It has no expiry.
    pub fn restate(&mut self, now: crate::time::Now, message: &Publish<'_>) {
        debug_assert!(message.properties.message_expiry_interval.is_none());
        self.now = now;
        if TopicName::new(message.topic).is_err() {
            return;
        }
        let mut fanout = Fanout {
            origin: Origin::System,
            publish: message,
            body: None,
            kept: Kept::NotYet,
            level: None,
            is_to_be_retained: false,
            targets: SmallVec::new(),
            sender: None,
            held: Vec::new(),
            bridged: Vec::new(),
            removal: Lsn(0),
            spilled: SmallVec::new(),
        };
        self.retain(&mut fanout, Age::Old);
        if let Kept::As(message) = fanout.kept {
            self.messages.release(message);
        }
        self.update_gauges();
    }

    /// PUBLISH of a client.
    pub(super) fn on_publish(
        &mut self,
        conn: ConnId,
        id: SessionId,
        publish: &Publish<'_>,
        body: Option<Payload>,
        outbox: &mut Outbox,
    ) {
        self.stats.publishes_received += 1;
        if !publish.properties.subscription_identifiers.is_empty() {
            let why = "a subscription identifier from a client"; // [MQTT-3.3.4-6]
            return self.violate(conn, ReasonCode::ProtocolError, why, outbox);
        }
        if publish.qos > self.settings.maximum_qos {
            let why = "a QoS above what CONNACK allows"; // [MQTT-3.2.2-11]
            return self.violate(conn, ReasonCode::QosNotSupported, why, outbox);
        }
        if publish.retain && !self.settings.retain_available {
            let why = "RETAIN, which CONNACK does not allow"; // [MQTT-3.2.2-14]
            return self.violate(conn, ReasonCode::RetainNotSupported, why, outbox);
        }
        if publish.properties.topic_alias.is_none() {
            return self.on_named_publish(conn, id, publish, body, outbox);
        }
        let mut topic = core::mem::take(&mut self.scratch.topic);
        topic.clear();
        match self.resolve_alias(conn, publish, &mut topic) {
            Ok(()) => {
                let named = Publish {
                    topic: &topic,
                    ..*publish
                };
                self.on_named_publish(conn, id, &named, body, outbox);
            }
            Err((reason, why)) => self.violate(conn, reason, why, outbox),
        }
        self.scratch.topic = topic;
    }

    /// Notes what an alias stands for, or looks it up (5.0, 3.3.2.3.4).
    fn resolve_alias(
        &mut self,
        conn: ConnId,
        publish: &Publish<'_>,
        topic: &mut String,
    ) -> Result<(), (ReasonCode, &'static str)> {
        let (Some(alias), Some(connection)) = (
            publish.properties.topic_alias,
            self.connections.get_mut(conn),
        ) else {
            return Ok(());
        };
        let index = usize::from(alias.value()) - 1;
        if alias.value() > connection.alias_maximum {
            // [MQTT-3.3.2-9]
            let why = "a topic alias above what CONNACK allows";
            return Err((ReasonCode::TopicAliasInvalid, why));
        }
        if index >= connection.aliases.len() {
            connection.aliases.resize(index + 1, None);
        }
        let known = &mut connection.aliases[index];
        if publish.topic.is_empty() {
            let Some(known) = known else {
                return Err((ReasonCode::ProtocolError, "an unknown topic alias"));
            };
            topic.push_str(known);
            return Ok(());
        }
        topic.push_str(publish.topic);
        if known.as_deref() != Some(publish.topic) {
            *known = Some(publish.topic.into());
            connection.charge.set(connection.cost());
        }
        Ok(())
    }

    fn on_named_publish(
        &mut self,
        conn: ConnId,
        id: SessionId,
        publish: &Publish<'_>,
        body: Option<Payload>,
        outbox: &mut Outbox,
    ) {
        let by = By::Client(id);
        let is_malformed = self.settings.check_payload_format && !is_as_it_says(publish);
        let Some(packet_id) = publish.packet_id else {
            if is_malformed {
                self.stats.refused_payload_formats += 1;
            } else {
                self.route(&by, publish, body, outbox);
            }
            return;
        };
        let is_exactly_once = publish.qos == QoS::ExactlyOnce;
        let arrival = if is_exactly_once {
            self.session_mut(id).received.arrival(packet_id)
        } else {
            Arrival::New
        };
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let is_v5 = connection.version.is_v5();
        if arrival != Arrival::Repeated {
            if is_v5 && connection.unacknowledged >= connection.receive_maximum {
                let why = "more unacknowledged publications than CONNACK allows"; // [MQTT-3.3.4-7]
                return self.violate(conn, ReasonCode::ReceiveMaximumExceeded, why, outbox);
            }
            connection.unacknowledged = connection.unacknowledged.saturating_add(1);
        }
        if arrival != Arrival::New {
            // Delivered before; only the answer was lost [MQTT-4.3.3-10].
            self.stats.duplicates_received += 1;
            self.session_mut(id).received.note(packet_id);
            let pubrec = Packet::Pubrec(Ack::success(packet_id));
            let lsn = self.settle.last();
            self.answer(conn, lsn, Kind::PublishTaken, &pubrec, outbox);
            return;
        }
        let published = if is_malformed {
            self.stats.refused_payload_formats += 1;
            Published::refused(ReasonCode::PayloadFormatInvalid)
        } else {
            self.route(&by, publish, body, outbox)
        };
        let lsn = published.lsn;
        if !is_v5 && published.refused == Some(ReasonCode::QuotaExceeded) {
            // An acknowledgement would be a promise, and a refusal there is none; but the
            // connection may be closed (3.3.5-2 of 3.1.1), and the message comes again.
            let why = "the queue of a subscriber is full";
            return self.disconnect(conn, ReasonCode::QuotaExceeded, why, outbox);
        }
        // 3.1.1 has no way to refuse: there what nobody may publish is acknowledged.
        let reason = match published.refused {
            Some(reason) if is_v5 => reason,
            Some(_) => ReasonCode::Success,
            None if published.matched == 0 && is_v5 => ReasonCode::NoMatchingSubscribers,
            None => ReasonCode::Success,
        };
        let mut ack = Ack::new(packet_id, reason);
        ack.properties.reason_string = why_refused(reason);
        let (kind, packet) = match (is_exactly_once, reason.is_error()) {
            (false, _) => (Kind::PublishDone, Packet::Puback(ack)),
            (true, true) => (Kind::PublishDone, Packet::Pubrec(ack)), // [MQTT-4.3.3-9]
            (true, false) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.received.note(packet_id);
                }
                (Kind::PublishTaken, Packet::Pubrec(ack))
            }
        };
        self.answer(conn, lsn, kind, &packet, outbox);
    }

    /// Publishes what a lost client has left.
    pub(super) fn publish_will(&mut self, will: &LastWill, outbox: &mut Outbox) {
        self.stats.wills_published += 1;
        let message = &will.message;
        let publish = message.as_publish(ProtocolVersion::V5, self.now.monotonic);
        let body = Some(message.payload().clone());
        let by = By::Other(will.origin, will.permissions.as_deref());
        let before = self.last_lsn();
        self.route(&by, &publish, body, outbox);
        self.will_is_published(will, before);
    }

    /// Clients of 3.1.1 are told nothing, so whoever looks for their messages finds it here.
    #[cold]
    fn log_refused(&mut self, origin: Origin, topic: &str) {
        self.stats.refused_publishes += 1;
        let count = self.stats.refused_publishes;
        let session = match origin {
            Origin::Client(id) => self.sessions.get(id),
            Origin::Bridge(_) | Origin::Field | Origin::System => None,
        };
        let client = session.map_or("-", |session| &*session.client_id);
        let (client, topic) = (client.escape_debug(), topic.escape_debug());
        log::log!(
            level_of(count),
            "publication refused client={client} topic={topic} count={count}: the rules of access \
             do not allow it, or the topic is the gateway's own"
        );
    }

    /// Brings a publication to all who take it, and to the retained store. Its topic is valid.
    fn route(
        &mut self,
        by: &By<'_>,
        publish: &Publish<'_>,
        body: Option<Payload>,
        outbox: &mut Outbox,
    ) -> Published {
        let topic = publish.topic;
        let mut route = self.routes.take(
            topic,
            &mut self.subscriptions,
            &mut self.exceptions,
            &self.sessions,
        );
        let origin = by.origin();
        let verdict = self.verdict(by, topic, &mut route);
        if verdict == Verdict::Refused {
            self.routes.put(route);
            self.log_refused(origin, topic);
            return Published::refused(ReasonCode::NotAuthorized);
        }
        let mut scratch = core::mem::take(&mut self.scratch);
        scratch.matches.clear();
        scratch.layouts.clear();
        if let Origin::Client(id) = origin
            && route.has_no_local
        {
            // [MQTT-3.8.3-3]
            let own = Taker::Session(id);
            let is_wanted = |found: &&Match| !(found.subscription.no_local && found.taker == own);
            scratch
                .matches
                .extend(route.matches.iter().filter(is_wanted));
        }
        let is_awaited = publish.qos > QoS::AtMostOnce && keep::waits(origin);
        let level = self.level_for(topic, is_awaited);
        let received = self.received_key(by, publish).filter(|_| level.is_some());
        let mut fanout = Fanout {
            origin,
            publish,
            body,
            kept: Kept::NotYet,
            level,
            is_to_be_retained: false,
            sender: publish
                .packet_id
                .filter(|_| received.is_some() && level == Some(Level::Strict))
                .map(|packet_id| match *by {
                    By::Client(id) => (Sender::Client(id), packet_id),
                    By::Other(..) => (Sender::Upstream, packet_id),
                }),
            targets: received.into_iter().map(Target::Key).collect(),
            held: Vec::new(),
            bridged: Vec::new(),
            removal: Lsn(0),
            spilled: SmallVec::new(),
        };
        let published = self.fan_out(&route, &mut scratch, verdict, &mut fanout, outbox);
        if let Kept::As(message) = fanout.kept {
            self.messages.release(message);
        }
        scratch.layouts.release();
        // Deliveries do not make publications, so nobody has used these meanwhile.
        self.scratch = scratch;
        self.routes.put(route);
        published
    }

    /// Under which key it is kept that this QoS 2 message has come.
    fn received_key(&self, by: &By<'_>, publish: &Publish<'_>) -> Option<Key> {
        let packet_id = publish
            .packet_id
            .filter(|_| publish.qos == QoS::ExactlyOnce)?;
        match *by {
            By::Client(id) => {
                let kept = self.sessions.get(id)?.kept?;
                Some(kept.key(KeyKind::Received, packet_id.value().into()))
            }
            By::Other(Origin::Bridge(bridge), _) => self.brought_key(bridge, packet_id),
            By::Other(..) => None,
        }
    }

    /// Keeps a publication for all who want that, in one record. What its sender's answer waits
    /// for; 0: nothing.
    fn keep_publication(&mut self, fanout: &mut Fanout<'_>) -> Lsn {
        let mut targets = core::mem::take(&mut fanout.targets);
        let is_queued = |target: &Target| matches!(target, Target::Queue { .. });
        if fanout.is_to_be_retained && targets.iter().any(is_queued) {
            // Its record is written anyway. And whoever takes it from the queue after a power cut
            // finds that it is retained.
            let key = self.retained_key(fanout.publish.topic);
            targets.extend(key.map(Target::Key));
        }
        let Some(level) = fanout.level.filter(|_| !targets.is_empty()) else {
            self.outputs.extend(fanout.bridged.drain(..));
            return fanout.removal;
        };
        let is_told_only = |target: &Target| {
            let Target::Key(key) = target else {
                return false;
            };
            matches!(key.kind, KeyKind::Received | KeyKind::Brought)
        };
        let body = if targets.iter().all(is_told_only) {
            keep::encode_presence()
        } else {
            match fanout.kept {
                Kept::As(message) => {
                    keep::encode_message(&self.messages.get(message).message, self.now)
                }
                Kept::NotYet | Kept::Refused => match fanout.bridged.first() {
                    Some(Output::Delivery { message, .. }) => {
                        keep::encode_message(message, self.now)
                    }
                    _ if !fanout.spilled.is_empty() => {
                        let body = fanout.share(&self.memory);
                        keep::encode_message(&fanout.message(body, self.now), self.now)
                    }
                    _ => return fanout.removal,
                },
            }
        };
        let lsn = self.log(Some(level), What::Record { targets, body });
        for mut output in fanout.bridged.drain(..) {
            if let Output::Delivery {
                entry: Some(entry), ..
            } = &mut output
            {
                entry.lsn = entry.lsn.map(|_| lsn);
            }
            self.outputs.push_back(output);
        }
        for spilled in fanout.spilled.drain(..) {
            if fanout.sender.is_some() {
                self.hold(lsn, Held::Spilled(spilled.session, spilled.sequence));
            }
            self.note_spilled(lsn, spilled);
        }
        if let Some((sender, packet_id)) = fanout.sender {
            let message = match fanout.kept {
                Kept::As(message) => Some(message),
                Kept::NotYet | Kept::Refused => None,
            };
            let taken = Held::Taken {
                sender,
                packet_id,
                message,
            };
            self.hold(lsn, taken);
            for output in fanout.held.drain(..) {
                self.hold(lsn, Held::Delivery(output));
            }
        }
        if level == Level::Strict { lsn } else { Lsn(0) }
    }

    /// Whether it may be published: what is known of a client is not asked again.
    fn verdict(&self, by: &By<'_>, topic: &str, route: &mut Route) -> Verdict {
        let id = match *by {
            By::Client(id) => id,
            By::Other(origin, permissions) => {
                return self.access.may_publish(origin, permissions, topic);
            }
        };
        let session = self.sessions.get(id);
        let permissions = session.and_then(|session| session.permissions.as_deref());
        if permissions.is_none() {
            return self.access.may_publish(by.origin(), None, topic);
        }
        route.verdict(id).unwrap_or_else(|| {
            let verdict = self.access.may_publish(by.origin(), permissions, topic);
            route.note(id, verdict);
            verdict
        })
    }

    fn fan_out(
        &mut self,
        route: &Route,
        scratch: &mut Scratch,
        verdict: Verdict,
        fanout: &mut Fanout<'_>,
        outbox: &mut Outbox,
    ) -> Published {
        let Scratch {
            matches,
            identifiers,
            layouts,
            ..
        } = scratch;
        let matches = match fanout.origin {
            Origin::Client(_) if route.has_no_local => matches,
            _ => &route.matches,
        };
        let same_taker = |one: &Match, other: &Match| one.taker == other.taker;
        if self.settings.queue.when_full == WhenFull::Refuse
            && matches
                .chunk_by(same_taker)
                .any(|found| self.would_overflow(found, fanout, outbox))
        {
            self.stats.refused_queue_full += 1;
            return Published::refused(ReasonCode::QuotaExceeded);
        }
        if fanout.publish.retain {
            if verdict == Verdict::AllowedNeverRetained {
                self.stats.retained_commands += 1;
            } else {
                self.retain(fanout, Age::New);
            }
        }
        self.deliveries += route.refused;
        self.stats.refused_deliveries += route.refused;
        let mut matched = 0;
        for found in matches.chunk_by(same_taker) {
            self.deliveries += 1;
            matched += 1;
            let id = match found[0].taker {
                Taker::Session(id) => id,
                Taker::Shared(share) => {
                    self.deliver_to_one(share, layouts, fanout, outbox);
                    continue;
                }
                other => {
                    self.deliver(other, fanout);
                    continue;
                }
            };
            // One copy, at the highest QoS, with all identifiers [MQTT-3.3.4-2] [MQTT-3.3.4-4].
            identifiers.clear();
            let mut granted = QoS::AtMostOnce;
            let mut retain = false;
            for Match { subscription, .. } in found {
                granted = granted.max(subscription.maximum_qos);
                retain |= subscription.retain_as_published;
                identifiers.extend(subscription.identifier);
            }
            let delivery = Delivery {
                qos: fanout.publish.qos.min(granted),    // [MQTT-3.8.4-8]
                retain: retain && fanout.publish.retain, // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
                identifiers,
                share: None,
            };
            self.deliver_to_session(id, &delivery, layouts, fanout, outbox);
        }
        if matched == 0 {
            self.stats.unmatched += 1;
        }
        Published {
            lsn: self.keep_publication(fanout),
            matched,
            refused: None,
        }
    }

    /// To a taker that is not a session.
    fn deliver(&mut self, taker: Taker, fanout: &mut Fanout<'_>) {
        if let (Taker::Bridge(to, _), Origin::Bridge(from)) = (taker, fanout.origin)
            && to == from
        {
            // It has come from there.
            return;
        }
        let message = match fanout.kept {
            Kept::As(kept) => self.messages.get(kept).message.clone(),
            Kept::NotYet | Kept::Refused => {
                let body = fanout.share(&self.memory);
                fanout.message(body, self.now)
            }
        };
        let numbered = self.number(taker);
        let is_numbered = numbered.is_some();
        let entry = numbered.map(|numbered| {
            let target = numbered.target.filter(|_| fanout.level.is_some());
            let entry = BridgeEntry {
                sequence: numbered.sequence,
                // Of the record that is yet to be made.
                lsn: target.is_some().then_some(Lsn(0)),
                is_held: fanout.sender.is_some(),
            };
            fanout.targets.extend(target);
            entry
        });
        let delivery = Output::Delivery {
            taker,
            origin: fanout.origin,
            message,
            is_replay: false,
            entry,
        };
        if is_numbered {
            fanout.bridged.push(delivery);
        } else if fanout.sender.is_some() {
            fanout.held.push(delivery);
        } else {
            self.outputs.push_back(delivery);
        }
    }

    /// To the member of a group whose turn it is.
    fn deliver_to_one(
        &mut self,
        share: ShareId,
        layouts: &mut Layouts,
        fanout: &mut Fanout<'_>,
        outbox: &mut Outbox,
    ) {
        let cost = message::cost(fanout.publish.topic, fanout.publish.payload);
        let (topic, qos) = (fanout.publish.topic, fanout.publish.qos);
        let offer = shared::Offer { topic, qos, cost };
        let Some(member) = self.choose(share, offer, shared::ANYBODY, Some(outbox)) else {
            // Nobody is there for QoS 0, or every queue is full.
            self.stats.dropped_shared += 1;
            return;
        };
        let subscription = member.subscription;
        let delivery = Delivery {
            qos: qos.min(subscription.maximum_qos),
            retain: subscription.retain_as_published && fanout.publish.retain,
            identifiers: &shared::identifiers_of(&member),
            share: Some(share),
        };
        self.deliver_to_session(member.session, &delivery, layouts, fanout, outbox);
    }

    fn deliver_to_session(
        &mut self,
        id: SessionId,
        delivery: &Delivery<'_>,
        layouts: &mut Layouts,
        fanout: &mut Fanout<'_>,
        outbox: &mut Outbox,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        if delivery.qos == QoS::AtMostOnce {
            let Some(link) = &session.link else {
                self.stats.dropped_offline += 1;
                return;
            };
            if link.is_open
                && session.queue.is_empty()
                && link.unsent.is_empty()
                && fanout.sender.is_none()
                && outbox
                    .queue(link.conn)
                    .is_some_and(|queue| queue.len() < HIGH_WATER)
            {
                if link.aliases.is_some() {
                    return self.deliver_by_alias(id, delivery, fanout, outbox);
                }
                let (version, limit) = (link.version, link.max_packet_size as usize);
                if let Some(queue) = outbox.write(link.conn) {
                    let fits = layouts.write(version, delivery, limit, fanout, &self.memory, queue);
                    if fits {
                        self.stats.publishes_sent += 1;
                    } else {
                        self.stats.dropped_too_large += 1; // [MQTT-3.1.2-25]
                    }
                }
                return;
            }
        }
        self.enqueue(id, delivery, fanout, outbox);
    }

    /// At once, to a client that takes topic aliases: nobody else gets the same head.
    fn deliver_by_alias(
        &mut self,
        id: SessionId,
        delivery: &Delivery<'_>,
        fanout: &mut Fanout<'_>,
        outbox: &mut Outbox,
    ) {
        let session = self.sessions.get_mut(id);
        let Some(link) = session.and_then(|session| session.link.as_mut()) else {
            return;
        };
        let Some(queue) = outbox.write(link.conn) else {
            return;
        };
        let (version, limit) = (link.version, link.max_packet_size as usize);
        let packet = delivery.packet(fanout.publish);
        let payload = packet.payload;
        let aliases = link.aliases.as_deref_mut();
        if !write_head(aliases, version, &packet, payload.len(), limit, queue) {
            self.stats.dropped_too_large += 1; // [MQTT-3.1.2-25]
            return;
        }
        if payload.len() > COPY_MAX {
            queue.push_payload(&fanout.share(&self.memory));
        } else if !payload.is_empty() {
            queue.reserve(payload.len()).copy_from_slice(payload);
        }
        self.stats.publishes_sent += 1;
    }

    /// Puts a reference into a session's queue, or lets something give way.
    fn enqueue(
        &mut self,
        id: SessionId,
        delivery: &Delivery<'_>,
        fanout: &mut Fanout<'_>,
        outbox: &mut Outbox,
    ) {
        let cost = message::cost(fanout.publish.topic, fanout.publish.payload);
        if !self.make_room(id, cost, outbox) {
            return;
        }
        if fanout.level.is_some() && self.spills(id, delivery.qos, cost) {
            return self.spill(id, delivery, cost, fanout);
        }
        let Some(message) = self.keep(fanout) else {
            self.stats.dropped_over_budget += 1;
            return;
        };
        self.messages.retain(message);
        let mut reference = Reference {
            message,
            qos: delivery.qos,
            retain: delivery.retain,
            is_again: false,
            identifiers: Identifiers::from_slice(delivery.identifiers),
            share: delivery.share,
            cost,
            sequence: 0,
        };
        if fanout.level.is_some()
            && delivery.qos > QoS::AtMostOnce
            && let Some(kept) = &mut self.session_mut(id).kept
        {
            reference.sequence = kept.next();
            let note = keep::Note::of(&reference);
            let target = keep::queue_target(kept.queue, reference.sequence, &note, &self.shared);
            fanout.targets.push(target);
        }
        self.push_reference(id, reference);
    }

    /// Counts a message for a session that is in the journal alone.
    fn spill(
        &mut self,
        id: SessionId,
        delivery: &Delivery<'_>,
        cost: usize,
        fanout: &mut Fanout<'_>,
    ) {
        let note = keep::Note {
            qos: delivery.qos,
            retain: delivery.retain,
            identifiers: delivery.identifiers,
            share: delivery.share,
        };
        let session = self.sessions.get_mut(id);
        let Some(kept) = session.and_then(|session| session.kept.as_mut()) else {
            return;
        };
        let (queue, sequence) = (kept.queue, kept.next());
        let target = keep::queue_target(queue, sequence, &note, &self.shared);
        fanout.targets.push(target);
        let properties = &fanout.publish.properties;
        let interval = properties.message_expiry_interval;
        let expires_at = interval.map_or(Instant::FAR_FUTURE, |seconds| {
            self.now.monotonic + Duration::from_secs(seconds.into())
        });
        let spilled = Spilled {
            session: id,
            sequence,
            cost,
            is_awaited: fanout.level == Some(Level::Strict),
        };
        self.count_spilled(&spilled, expires_at);
        fanout.spilled.push(spilled);
    }

    /// Puts a reference, which holds its message, into a session's queue whatever its limits say.
    pub(super) fn push_reference(&mut self, id: SessionId, reference: Reference) {
        let expires_at = self.messages.get(reference.message).expires_at();
        self.queued += 1;
        self.queued_bytes += reference.cost;
        let session = self.session_mut(id);
        let next = session.kept.map_or(0, keep::Kept::upcoming);
        session.queue.push(reference, expires_at, next);
        if let Some(link) = &session.link {
            let conn = link.conn;
            self.woken.push(conn);
        }
    }

    /// Whether a message of this cost may be queued; something may have given way for it.
    fn make_room(&mut self, id: SessionId, cost: usize, outbox: &mut Outbox) -> bool {
        loop {
            match self.room(id, cost) {
                Room::Yes => return true,
                Room::ForgetExpired => self.forget_expired(id),
                Room::QueueFull | Room::AllFull => break,
            }
        }
        self.look_for_expired(id);
        let full = self.room(id, cost);
        match self.settings.queue.when_full {
            WhenFull::DropOldest if self.can_make_room(id, cost) => {
                while self.room(id, cost) != Room::Yes && self.drop_oldest(id) {
                    self.count_overflow(id, full);
                }
                true
            }
            WhenFull::DropOldest | WhenFull::DropNewest | WhenFull::Refuse => {
                self.count_overflow(id, full);
                false
            }
            WhenFull::Disconnect => {
                self.count_overflow(id, full);
                let link = self.session_mut(id).link.as_ref().map(|link| link.conn);
                if let Some(conn) = link {
                    self.stats.disconnected_queue_full += 1;
                    let why = "the session's queue is full";
                    self.disconnect(conn, ReasonCode::QuotaExceeded, why, outbox);
                }
                false
            }
        }
    }

    /// Whether the queue would have room if it were empty.
    fn can_make_room(&self, id: SessionId, cost: usize) -> bool {
        let limits = &self.settings.queue;
        let own = self
            .sessions
            .get(id)
            .map_or(0, |session| session.queue.bytes());
        let others = self.queued_bytes - own;
        limits.messages > 0 && cost <= limits.bytes && others + cost <= self.settings.queues_bytes
    }

    pub(super) fn room(&self, id: SessionId, cost: usize) -> Room {
        let limits = &self.settings.queue;
        let Some(session) = self.sessions.get(id) else {
            return Room::QueueFull;
        };
        let queue = &session.queue;
        let is_full = queue.messages() >= limits.messages || queue.bytes() + cost > limits.bytes;
        let are_full = self.queued_bytes + cost > self.settings.queues_bytes;
        if !is_full && !are_full {
            Room::Yes
        } else if queue.may_have_expired(self.now.monotonic) {
            Room::ForgetExpired
        } else if is_full {
            Room::QueueFull
        } else {
            Room::AllFull
        }
    }

    /// Takes what has expired out of a full queue.
    fn forget_expired(&mut self, id: SessionId) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let (messages, stats) = (&mut self.messages, &mut self.stats);
        let mut first = Instant::FAR_FUTURE;
        let mut gone = Vec::new();
        let (count, bytes) = session.queue.purge(
            |reference| {
                let expires_at = messages.get(reference.message).expires_at();
                let is_over = expires_at <= now.monotonic;
                if !is_over {
                    first = first.min(expires_at);
                }
                is_over
            },
            |reference| gone.push(reference),
        );
        session.queue.set_expires_first(first);
        stats.dropped_expired += gone.len() as u64;
        self.queued -= count;
        self.queued_bytes -= bytes;
        for reference in gone {
            self.let_go(id, &reference);
        }
    }

    fn drop_oldest(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else {
            return false;
        };
        let mut oldest = session.queue.pop_oldest();
        if oldest.is_none() {
            if self.drop_oldest_spilled(id) {
                return true;
            }
            let session = self.sessions.get_mut(id);
            oldest = session.and_then(|session| session.queue.pop_oldest_of_rest());
        }
        let Some(oldest) = oldest else {
            return false;
        };
        self.queued -= 1;
        self.queued_bytes -= oldest.cost;
        self.let_go(id, &oldest);
        true
    }

    /// A message is lost at a limit. The first of a row is told, the rest are counted.
    fn count_overflow(&mut self, id: SessionId, room: Room) {
        let counter = if room == Room::AllFull {
            &mut self.stats.dropped_over_budget
        } else {
            &mut self.stats.dropped_queue_full
        };
        *counter += 1;
        // A full queue loses every message: one line for each power of two is enough to see it
        // grow.
        if counter.is_power_of_two() {
            let lost = *counter;
            if let Some(session) = self.sessions.get(id) {
                let conn = session.link.as_ref().map(|link| link.conn);
                let client = session.client_id.escape_debug();
                log::warn!("queue full, messages lost client={client} conn={conn:?} lost={lost}");
            }
        }
    }

    /// Whether this taker's queue would have to let something give way: asked only if the publisher
    /// is to be refused then.
    fn would_overflow(&self, found: &[Match], fanout: &Fanout<'_>, outbox: &Outbox) -> bool {
        // A group goes round those that are full; if all of them are, it is dropped and counted.
        let Taker::Session(id) = found[0].taker else {
            return false;
        };
        let Some(session) = self.sessions.get(id) else {
            return false;
        };
        let granted = found.iter().map(|found| found.subscription.maximum_qos);
        let qos = granted.max().unwrap_or_default().min(fanout.publish.qos);
        if qos == QoS::AtMostOnce {
            let Some(link) = &session.link else {
                return false;
            };
            let is_direct = session.queue.is_empty()
                && outbox
                    .queue(link.conn)
                    .is_some_and(|queue| queue.len() < HIGH_WATER);
            if is_direct {
                return false;
            }
        }
        let cost = message::cost(fanout.publish.topic, fanout.publish.payload);
        // What is kept needs no memory to wait in.
        let is_kept = session.kept.is_some() && fanout.level.is_some() && qos > QoS::AtMostOnce;
        !matches!(self.room(id, cost), Room::Yes | Room::ForgetExpired)
            || !(is_kept || self.memory.has_room(cost))
    }

    /// The publication as a kept message, made when the first taker needs it.
    fn keep(&mut self, fanout: &mut Fanout<'_>) -> Option<MessageId> {
        if fanout.kept == Kept::NotYet {
            let body = fanout.share(&self.memory);
            let message = fanout.message(body, self.now);
            fanout.kept = self
                .messages
                .insert(message, fanout.origin)
                .map_or(Kept::Refused, Kept::As);
        }
        match fanout.kept {
            Kept::As(message) => Some(message),
            Kept::NotYet | Kept::Refused => None,
        }
    }

    /// Makes the publication its topic's retained message, or removes that if it is empty.
    fn retain(&mut self, fanout: &mut Fanout<'_>, age: Age) {
        let topic = fanout.publish.topic;
        let number = self.retained.number(topic);
        if fanout.publish.payload.is_empty() {
            if let Some(message) = self.retained.remove(topic) {
                self.messages.release(message); // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
                self.end_retained(number, fanout);
            }
            return;
        }
        let limits = Limits {
            messages: self.settings.retained_messages,
            bytes: self.settings.retained_bytes,
        };
        let stored = self.keep(fanout).and_then(|message| {
            let stored = self.messages.get(message);
            let (cost, expires_at) = (stored.cost(), stored.expires_at());
            let before = self
                .retained
                .store(topic, message, cost, expires_at, limits, age)
                .ok()?;
            self.messages.retain(message);
            Some(before)
        });
        if stored.is_some() {
            self.keep_retained(fanout);
        } else {
            self.end_retained(number, fanout);
        }
        let before = stored.unwrap_or_else(|| {
            self.stats.retained_refused += 1;
            if self.stats.retained_refused.is_power_of_two() {
                let refused = self.stats.retained_refused;
                let topic = topic.escape_debug();
                log::warn!("retained store full topic={topic} refused={refused}");
            }
            // What is there is no longer true.
            self.retained.remove(topic)
        });
        if let Some(before) = before {
            self.messages.release(before); // [MQTT-3.3.1-5]
        }
    }
}

impl Broker {
    /// A topic has no retained message any more. Whoever says so at QoS 1 or 2 is answered when
    /// that can not be undone.
    fn end_retained(&mut self, number: u64, fanout: &mut Fanout<'_>) {
        let lsn = self.forget_retained(number, fanout.publish.topic, fanout.level);
        if fanout.level == Some(Level::Strict) {
            fanout.removal = lsn;
        }
    }

    /// A topic has another retained message. Whoever publishes at QoS 0 does not wait, and neither
    /// do we: of what changes often, the last is kept in time.
    fn keep_retained(&mut self, fanout: &mut Fanout<'_>) {
        let topic = fanout.publish.topic;
        match fanout.level {
            None => {
                let number = self.retained.number(topic);
                self.forget_retained(number, topic, None);
            }
            Some(Level::Strict) => {
                fanout
                    .targets
                    .extend(self.retained_key(topic).map(Target::Key));
            }
            Some(Level::Interval(within)) => {
                self.keep_retained_within(topic, within);
                fanout.is_to_be_retained = true;
            }
            // Which is no level of a publication that is kept.
            Some(Level::None) => {}
        }
    }
}

/// Whether a queue has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    /// Not before its expired messages are taken out.
    ForgetExpired,
    /// The session's own limit is reached.
    QueueFull,
    /// That of all queues together is.
    AllFull,
}

/// Whether a payload that says that it is UTF-8 is (3.3.2.3.2).
fn is_as_it_says(publish: &Publish<'_>) -> bool {
    publish.properties.payload_format_indicator != Some(PayloadFormat::Utf8)
        || core::str::from_utf8(publish.payload).is_ok()
}

/// What a publisher is told beside the reason code.
fn why_refused(reason: ReasonCode) -> Option<&'static str> {
    match reason {
        ReasonCode::NotAuthorized => Some("no permission to publish to this topic"),
        ReasonCode::QuotaExceeded => Some("the queue of a subscriber is full"),
        ReasonCode::PayloadFormatInvalid => Some("the payload is not the UTF-8 that it says it is"),
        _ => None,
    }
}

impl Published {
    fn refused(reason: ReasonCode) -> Self {
        Self {
            lsn: Lsn(0),
            matched: 0,
            refused: Some(reason),
        }
    }
}

impl Fanout<'_> {
    /// The payload as something to be shared. A large one carries its charge, for a send queue may
    /// hold it when nobody else does.
    fn share(&mut self, memory: &crate::buffer::Memory) -> Payload {
        let bytes = self.publish.payload;
        self.body
            .get_or_insert_with(|| {
                if bytes.len() <= COPY_MAX {
                    return Payload::copy_from(bytes);
                }
                let charge = memory.charge(bytes.len());
                Payload::from_vec_charged(bytes.to_vec(), 0..bytes.len(), charge)
            })
            .clone()
    }

    /// The same behind a packet's head, the whole packet in one piece: the copy that
    /// [`Fanout::share`] would make, and the others get their part of it.
    fn share_behind(&mut self, head: &[u8], memory: &crate::buffer::Memory) -> Payload {
        let bytes = [head, self.publish.payload].concat();
        let len = bytes.len();
        let whole = Payload::from_vec_charged(bytes, 0..len, memory.charge(len));
        self.body = Some(whole.slice(head.len()..len));
        whole
    }

    fn message(&self, body: Payload, now: crate::time::Now) -> ApplicationMessage {
        let topic = TopicName::new(self.publish.topic)
            .expect("a topic is checked before it is published to");
        ApplicationMessage::from_publish(self.publish, topic, body, now.monotonic)
    }
}

/// A publication as one session gets it.
struct Delivery<'a> {
    qos: QoS,
    retain: bool,
    identifiers: &'a [SubscriptionIdentifier],
    share: Option<ShareId>,
}

impl Delivery<'_> {
    /// As a packet without identifier, which QoS 0 is.
    fn packet<'p>(&'p self, publish: &Publish<'p>) -> Publish<'p> {
        Publish {
            dup: false, // At QoS 0 nothing is ever sent again.
            qos: QoS::AtMostOnce,
            retain: self.retain,
            packet_id: None,
            properties: PublishProperties {
                topic_alias: None,
                subscription_identifiers: SubscriptionIdentifiers::from_slice(self.identifiers),
                ..publish.properties
            },
            ..*publish
        }
    }
}

/// The packet as it was encoded for earlier takers: by version and RETAIN.
#[derive(Debug, Default)]
struct Layouts {
    slots: [Layout; 4],
}

/// Whole if the packet is small, otherwise without its payload; empty if nobody needed it yet.
#[derive(Debug, Default)]
struct Layout {
    bytes: Vec<u8>,
    /// Of a large packet whose payload had to be copied anyway: all of it, to be shared.
    whole: Option<Payload>,
}

/// A layout with more room than this gives it back, so that one long head is not kept for ever.
const LAYOUT_KEPT: usize = 4 * COPY_MAX;

impl Layouts {
    fn clear(&mut self) {
        for layout in &mut self.slots {
            layout.bytes.clear();
            layout.bytes.shrink_to(LAYOUT_KEPT);
        }
    }

    /// Lets go of what is shared.
    fn release(&mut self) {
        for layout in &mut self.slots {
            layout.whole = None;
        }
    }

    /// Appends a QoS 0 packet to a client's queue. `false`, and nothing is appended, if it is
    /// larger than the client takes.
    fn write(
        &mut self,
        version: ProtocolVersion,
        delivery: &Delivery<'_>,
        limit: usize,
        fanout: &mut Fanout<'_>,
        memory: &crate::buffer::Memory,
        queue: &mut SendQueue,
    ) -> bool {
        let payload = fanout.publish.payload;
        let is_large = payload.len() > COPY_MAX;
        if !delivery.identifiers.is_empty() && version.is_v5() {
            let packet = delivery.packet(fanout.publish);
            let head = packet.head_len(version, payload.len());
            if head + payload.len() > limit {
                return false;
            }
            if is_large {
                packet.encode_head(version, payload.len(), queue.reserve_head(head));
                queue.push_payload(&fanout.share(memory));
                return true;
            }
            packet.encode_head(version, payload.len(), queue.reserve(head));
            if !payload.is_empty() {
                queue.reserve(payload.len()).copy_from_slice(payload);
            }
            return true;
        }
        let slot = usize::from(version.is_v5()) * 2 + usize::from(delivery.retain);
        let Layout { bytes, whole } = &mut self.slots[slot];
        if bytes.is_empty() {
            let packet = delivery.packet(fanout.publish);
            let head = packet.head_len(version, payload.len());
            bytes.resize(head, 0);
            packet.encode_head(version, payload.len(), bytes);
            if !is_large {
                bytes.extend_from_slice(payload);
            } else if fanout.body.is_none() {
                *whole = Some(fanout.share_behind(bytes, memory));
            }
        }
        let behind = if is_large { payload.len() } else { 0 };
        if bytes.len() + behind > limit {
            return false;
        }
        if let Some(whole) = whole {
            queue.push_payload(whole);
        } else if is_large {
            queue.reserve_head(bytes.len()).copy_from_slice(bytes);
            queue.push_payload(&fanout.share(memory));
        } else {
            queue.reserve(bytes.len()).copy_from_slice(bytes);
        }
        true
    }
}
