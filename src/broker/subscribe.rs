//! SUBSCRIBE and UNSUBSCRIBE, and the same for takers that are not clients.

use std::collections::{BTreeMap, BTreeSet};

use super::keep::Kept;
use super::retained::Replay;
use super::settle::Kind;
use super::subscriptions::{Subscription, Subscriptions};
use super::{Broker, Output, SYSTEM_LEVEL, Taker, level_of};
use crate::buffer::Outbox;
use crate::id::{ConnId, SessionId};
use crate::mqtt::{
    AckProperties, Packet, QoS, ReasonCode, ReasonCodes, RetainHandling, Suback, Subscribe,
    SubscriptionIdentifier, SubscriptionOptions, SubscriptionRequest, TopicFilter, Unsuback,
    Unsubscribe, topic,
};

impl Broker {
    /// Subscribes a taker that is not a client: deliveries come as [`Output::Delivery`]. What is
    /// retained comes at once, unless the options say otherwise. A subscription with the same
    /// filter is replaced.
    pub fn subscribe(
        &mut self,
        taker: Taker,
        filter: TopicFilter<'_>,
        options: SubscriptionOptions,
    ) {
        debug_assert!(
            !matches!(taker, Taker::Session(_)),
            "clients subscribe by packets"
        );
        let subscription = Subscription::new(options, None);
        let before = self
            .subscriptions
            .insert(taker, filter.as_str(), subscription);
        self.update_gauges();
        if !is_replayed(options.retain_handling, before.is_some()) {
            return;
        }
        let mut excepted = Vec::new();
        let mut found = Vec::new();
        for (topic, id) in self.retained.iter() {
            let stored = self.messages.get(id);
            if stored.is_expired(self.now) || !topic::matches(filter.as_str(), topic) {
                continue;
            }
            excepted.clear();
            self.exceptions.matches(topic, &mut excepted);
            if !excepted.iter().any(|it| it.taker == taker) {
                found.push((stored.origin, stored.message.clone()));
            }
        }
        for (origin, message) in found {
            let entry = self.keep_replay(taker, &message);
            self.outputs.push_back(Output::Delivery {
                taker,
                origin,
                message,
                is_replay: true,
                entry,
            });
        }
    }

    /// Takes what this filter matches out of everything that the taker, which is not a client, has
    /// subscribed to and will be.
    pub fn except(&mut self, taker: Taker, filter: TopicFilter<'_>) {
        let subscription = Subscription::new(SubscriptionOptions::new(QoS::AtMostOnce), None);
        self.exceptions.insert(taker, filter.as_str(), subscription);
    }

    /// Ends a subscription made by [`Broker::subscribe`]; whether there was one.
    pub fn unsubscribe(&mut self, taker: Taker, filter: TopicFilter<'_>) -> bool {
        let removed = self.subscriptions.remove(taker, filter.as_str());
        self.update_gauges();
        removed.is_some()
    }

    /// Ends all subscriptions of a taker that is not a client, and exceptions from them.
    pub fn unsubscribe_all(&mut self, taker: Taker) {
        self.subscriptions.remove_all(taker);
        self.exceptions.remove_all(taker);
        self.update_gauges();
    }

    pub(super) fn on_subscribe(
        &mut self,
        conn: ConnId,
        session: SessionId,
        subscribe: &Subscribe<'_>,
        outbox: &mut Outbox,
    ) {
        let identifier = subscribe.properties.subscription_identifier;
        if identifier.is_some() && !self.settings.subscription_identifiers {
            let why = "a subscription identifier, which CONNACK does not allow";
            let reason = ReasonCode::SubscriptionIdentifiersNotSupported;
            return self.violate(conn, reason, why, outbox);
        }
        let mut reasons = core::mem::take(&mut self.scratch.reasons);
        let mut replays = Replays::new();
        let before = self.settle.last();
        for request in &subscribe.requests {
            // As a sequence of single requests [MQTT-3.8.4-5]. What is retained is looked for when
            // all are done: a packet may name one filter a hundred thousand times.
            let place = (reasons.len(), &mut replays);
            let reason = self.on_subscription(session, &request, identifier, place);
            reasons.push(reason);
        }
        self.start_replays(session, replays);
        // The subscriptions are the session's, and may have to outlive a power cut.
        let lsn = self.logged_since(before);
        let suback = Packet::Suback(Suback {
            packet_id: subscribe.packet_id, // [MQTT-3.8.4-2]
            properties: AckProperties {
                reason_string: reasons.iter().find_map(|reason| why_refused(*reason)),
                ..AckProperties::default()
            },
            reasons: ReasonCodes::from_slice(&reasons), // [MQTT-3.9.3-1]
        });
        self.answer(conn, lsn, Kind::Other, &suback, outbox);
        if self
            .sessions
            .get(session)
            .is_some_and(|session| !session.queue.is_empty())
        {
            outbox.wake(conn);
        }
        reasons.clear();
        self.scratch.reasons = reasons;
    }

    #[cold]
    fn refuse_subscription(
        &mut self,
        id: SessionId,
        filter: &str,
        reason: ReasonCode,
    ) -> ReasonCode {
        self.stats.refused_subscriptions += 1;
        let count = self.stats.refused_subscriptions;
        let client = self.session_mut(id).client_id.escape_debug();
        let filter = filter.escape_debug();
        log::log!(
            level_of(count),
            "subscription refused client={client} filter={filter} reason={reason} count={count}"
        );
        reason
    }

    fn on_subscription<'a>(
        &mut self,
        id: SessionId,
        request: &SubscriptionRequest<'a>,
        identifier: Option<SubscriptionIdentifier>,
        (order, replays): (usize, &mut Replays<'a>),
    ) -> ReasonCode {
        let filter = request.filter.as_str();
        let taker = Taker::Session(id);
        let is_shared = request.filter.is_shared();
        if let Some(reason) = self.refuses(id, request.filter) {
            return self.refuse_subscription(id, filter, reason);
        }
        let session = self.session_mut(id);
        let shares = session.shares.len();
        let is_new = if is_shared {
            let share = self.shared.find(filter);
            share.is_none_or(|share| !self.session_mut(id).shares.contains(&share))
        } else {
            self.subscriptions.get(taker, filter).is_none()
        };
        let limit = self.settings.max_subscriptions as usize;
        let cost = if is_shared {
            Self::cost_of_share(request.filter)
        } else {
            Subscriptions::cost_of(filter)
        };
        let is_full =
            self.subscriptions.count_of(taker) + shares >= limit || !self.memory.has_room(cost);
        if is_new && is_full {
            return self.refuse_subscription(id, filter, ReasonCode::QuotaExceeded);
        }
        let options = SubscriptionOptions {
            maximum_qos: request.options.maximum_qos.min(self.settings.maximum_qos),
            ..request.options
        };
        let subscription = Subscription::new(options, identifier);
        let granted = ReasonCode::granted(options.maximum_qos); // [MQTT-3.8.4-7]
        self.keep_subscription(id, filter, subscription);
        if is_shared {
            // Nothing retained comes with it (4.8.2).
            self.join_share(id, request.filter, subscription);
            return granted;
        }
        self.subscriptions.insert(taker, filter, subscription);
        if filter.split('/').next() == Some(SYSTEM_LEVEL)
            && self.outputs.back() != Some(&Output::SystemSubscribed)
        {
            self.outputs.push_back(Output::SystemSubscribed);
        }
        if is_replayed(options.retain_handling, !is_new) {
            replays.insert(filter, (order, subscription));
        }
        granted
    }

    /// Puts the replays of new subscriptions into the queue, instead of those of the subscriptions
    /// that they replace.
    fn start_replays(&mut self, id: SessionId, replays: Replays<'_>) {
        if replays.is_empty() {
            return;
        }
        let session = self.sessions.get_mut(id);
        let session = session.expect("a live connection has a session");
        let next = session.kept.map_or(0, Kept::upcoming);
        session
            .queue
            .cancel_replays(|filter| replays.contains_key(filter));
        let mut replays: Vec<_> = replays.into_iter().collect();
        replays.sort_unstable_by_key(|(_, (order, _))| *order);
        for (filter, (_, subscription)) in replays {
            let replay = Replay::new(filter, subscription, &self.retained, &self.memory);
            session.queue.push_replay(Box::new(replay), next);
        }
    }

    /// Why this client may not subscribe to this filter, whatever it has already.
    fn refuses(&mut self, id: SessionId, filter: TopicFilter<'_>) -> Option<ReasonCode> {
        let settings = &self.settings;
        if filter.is_shared() && !settings.shared_subscriptions {
            return Some(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if filter.has_wildcards() && !settings.wildcard_subscriptions {
            return Some(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        let what = filter.share().map_or(filter, |(_, inner)| inner);
        let permissions = self.session_mut(id).permissions.clone();
        let is_denied = permissions.is_some_and(|rules| !rules.may_subscribe(what.as_str()));
        is_denied.then_some(ReasonCode::NotAuthorized)
    }

    pub(super) fn on_unsubscribe(
        &mut self,
        conn: ConnId,
        session: SessionId,
        unsubscribe: &Unsubscribe<'_>,
        outbox: &mut Outbox,
    ) {
        let mut reasons = core::mem::take(&mut self.scratch.reasons);
        let mut gone = BTreeSet::new();
        let before = self.settle.last();
        for filter in &unsubscribe.filters {
            if filter.is_shared() {
                reasons.push(if self.leave_share(session, filter.as_str()) {
                    self.forget_subscription(session, filter.as_str());
                    ReasonCode::Success
                } else {
                    ReasonCode::NoSubscriptionExisted
                });
                continue;
            }
            let taker = Taker::Session(session);
            let removed = self.subscriptions.remove(taker, filter.as_str());
            // Also of one that is gone already: it may be kept nevertheless.
            self.forget_subscription(session, filter.as_str());
            if removed.is_none() {
                reasons.push(ReasonCode::NoSubscriptionExisted);
                continue;
            }
            gone.insert(filter.as_str());
            reasons.push(ReasonCode::Success);
        }
        if !gone.is_empty() {
            // What was published before stays in the queue, and is delivered.
            let queue = &mut self.session_mut(session).queue;
            queue.cancel_replays(|filter| gone.contains(filter));
        }
        let lsn = self.logged_since(before);
        let unsuback = Packet::Unsuback(Unsuback {
            packet_id: unsubscribe.packet_id, // [MQTT-3.10.4-5]
            properties: AckProperties::default(),
            reasons: ReasonCodes::from_slice(&reasons), // [MQTT-3.11.3-1]
        });
        self.answer(conn, lsn, Kind::Other, &unsuback, outbox);
        reasons.clear();
        self.scratch.reasons = reasons;
    }
}

/// Filters of one SUBSCRIBE that what is retained is to be sent for, with the order in which they
/// stand there.
type Replays<'a> = BTreeMap<&'a str, (usize, Subscription)>;

/// What a subscriber is told beside the reason codes.
fn why_refused(reason: ReasonCode) -> Option<&'static str> {
    match reason {
        ReasonCode::NotAuthorized => Some("no permission to subscribe to this filter"),
        ReasonCode::QuotaExceeded => Some("too many subscriptions"),
        _ => None,
    }
}

/// Whether a subscription brings what is retained [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11].
fn is_replayed(handling: RetainHandling, existed: bool) -> bool {
    match handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => !existed,
        RetainHandling::DoNotSend => false,
    }
}
