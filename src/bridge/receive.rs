//! What comes down: subscribing, and what becomes of what is received.

use super::mapping::is_command;
use super::message::{Age, Marks, Onward, onward};
use super::settings::Queued;
use super::{Bridge, ECHO_TIME, FILTERS_MAX, HOPS_MAX, LATE_QUIET, Output, State, Ticket};
use crate::mqtt::client::{AckToken, ReceivedMessage, Refusal};
use crate::mqtt::{
    PacketId, QoS, ReasonCode, RetainHandling, SubscriptionOptions, SubscriptionRequest,
    TopicFilter, TopicName,
};
use crate::time::{Instant, Now};

/// What a received message is.
enum Verdict {
    /// To be published under this topic.
    Taken(Box<str>),
    Unmatched,
    Unmapped,
    /// A command that only a wildcard lets in.
    CommandUnnamed,
    CommandLate,
    Loop,
    Duplicate,
}

impl Bridge {
    /// What was received with this ticket is as safe as it is going to be, or was refused
    /// (a reason of 0x80 or above, which only 5.0 can tell).
    pub fn settle(&mut self, ticket: Ticket, reason: ReasonCode) {
        self.acknowledge(Some(ticket.0), reason);
    }

    /// What was received with this ticket is not taken, and its connection is gone: when it comes
    /// again, under whatever identifier, it is as good as new.
    pub fn disown(&mut self, ticket: Ticket) {
        self.client.disown(ticket.0);
    }

    fn acknowledge(&mut self, token: Option<AckToken>, reason: ReasonCode) {
        if let Some(token) = token {
            self.client.acknowledge(token, reason);
            self.wake = true;
        }
    }

    pub(super) fn on_message(&mut self, now: Now, received: ReceivedMessage) {
        let verdict = self.judge(now.monotonic, &received);
        let ReceivedMessage {
            message,
            ack,
            packet_id,
            ..
        } = received;
        let count = match &verdict {
            Verdict::Taken(_) => &mut self.stats.received,
            Verdict::Unmatched => &mut self.stats.unmatched,
            Verdict::Unmapped => &mut self.stats.unmapped,
            Verdict::CommandUnnamed => &mut self.stats.commands_refused,
            Verdict::CommandLate => &mut self.stats.commands_late,
            Verdict::Loop => &mut self.stats.loops,
            Verdict::Duplicate => &mut self.stats.duplicates,
        };
        *count += 1;
        let Verdict::Taken(topic) = verdict else {
            if matches!(verdict, Verdict::CommandLate) {
                let topic = message.topic();
                log::warn!("bridge {} refuses a late command topic={topic}", self.name);
            }
            // It is dealt with: a refusal would only bring it again.
            return self.acknowledge(ack, ReasonCode::Success);
        };
        let to = Onward {
            topic: TopicName::new(&topic).expect("a mapped topic is one"),
            qos: message.qos(),
            retain: message.retain(),
            origin: None,
            age: Age::Live,
        };
        let message = onward(&message, to, now.monotonic);
        let message = message.expect("nothing is added to its user properties");
        let ticket = ack.map(Ticket);
        let is_kept = message.qos() == QoS::ExactlyOnce && self.notes.are_kept;
        self.outputs.push_back(Output::Publish {
            message,
            packet_id: packet_id.filter(|_| is_kept),
            ticket,
        });
    }

    fn judge(&mut self, now: Instant, received: &ReceivedMessage) -> Verdict {
        let message = &received.message;
        let topic = message.topic();
        let base = &self.settings.base_topic;
        let mut verdict = Verdict::Unmatched;
        let mut found = None;
        for (mapping, rule) in self.receive.iter().zip(&self.settings.receive) {
            if !mapping.matches(topic) {
                continue;
            }
            match mapping.map(topic) {
                None => verdict = Verdict::Unmapped,
                Some(local) if mapping.target_names(base, &local) => {
                    found = Some((local, rule.queued));
                    break;
                }
                Some(_) => verdict = Verdict::CommandUnnamed,
            }
        }
        let Some((local, queued)) = found else {
            return verdict;
        };
        let marks = Marks::of(message);
        if marks.origin == Some(&*self.settings.origin) || marks.hops >= HOPS_MAX {
            return Verdict::Loop;
        }
        if !self.client.options().version.is_v5() {
            let parts = [topic.as_bytes(), message.payload()];
            let echo = self.sent_before.fingerprint(&parts);
            if self.sent_before.take(now.saturating_sub(ECHO_TIME), echo) {
                return Verdict::Loop;
            }
        }
        if let (Some(origin), Some(seq)) = (marks.origin, marks.seq) {
            let time = marks.time.unwrap_or_default();
            let parts = [origin, topic, seq, time].map(str::as_bytes);
            let [origin, topic, seq, time] = parts;
            let parts = [origin, topic, seq, time, message.payload()];
            let known = self.received_before.fingerprint(&parts);
            if !self.received_before.contains(known) {
                self.received_before.insert(now, known);
            } else if received.dup {
                return Verdict::Duplicate;
            }
        }
        let is_refused = queued == Queued::Refuse && is_command(base, &local);
        if is_refused && (message.retain() || now < self.late_until) {
            if now < self.late_until {
                self.late_until = (now + LATE_QUIET).min(self.late_max);
            }
            return Verdict::CommandLate;
        }
        Verdict::Taken(local)
    }

    // ---- subscriptions

    /// A connection has begun: asks for what the peer does not have of us.
    pub(super) fn resubscribe(&mut self, now: Instant, session_present: bool) {
        self.asked.clear();
        if !session_present {
            self.subscribed.clear();
        }
        self.update_subscriptions(now);
    }

    /// Makes what the peer has of us what the rules say.
    pub(super) fn update_subscriptions(&mut self, now: Instant) {
        if !matches!(self.state, State::Up { .. }) {
            return;
        }
        let rules = &self.settings.receive;
        let is_wanted = |filter: &str| rules.iter().any(|rule| *rule.filter == *filter);
        let (kept, gone) = core::mem::take(&mut self.subscribed)
            .into_iter()
            .partition(|(filter, _)| is_wanted(filter));
        self.subscribed = kept;
        let gone: std::collections::BTreeMap<_, _> = gone;
        self.to_unsubscribe = gone.into_keys().collect();
        let missing = rules.iter().enumerate().filter(|(_, rule)| {
            self.subscribed
                .get(&rule.filter)
                .is_none_or(|qos| *qos != rule.qos)
        });
        self.to_subscribe = missing.map(|(index, _)| index).collect();
        self.ask_for_subscriptions(now);
    }

    pub(super) fn ask_for_subscriptions(&mut self, now: Instant) {
        if self.notes.is_forgetting {
            // The identifiers of a new session would be taken for those of the old one.
            return;
        }
        let most = self.settings.profile.limits().filters_per_subscribe;
        let most = most.min(FILTERS_MAX);
        while !self.to_unsubscribe.is_empty() {
            let chunk: Vec<_> = self
                .to_unsubscribe
                .iter()
                .take(most)
                .filter_map(|filter| TopicFilter::new(filter).ok())
                .collect();
            let outcome = self.client.unsubscribe(&chunk);
            if matches!(outcome, Err(Refusal::Full | Refusal::NotConnected)) {
                return;
            }
            // One that cannot be ended stays; what comes by it matches no rule.
            let count = most.min(self.to_unsubscribe.len());
            self.to_unsubscribe.drain(..count);
        }
        while !self.to_subscribe.is_empty() {
            let mut count = self.to_subscribe.len().min(most);
            let outcome = loop {
                match self.ask_for(count) {
                    Err(Refusal::PacketTooLarge { .. }) if count > 1 => count /= 2,
                    outcome => break outcome,
                }
            };
            match outcome {
                Ok(packet_id) => {
                    if !self.awaits_peer() {
                        self.progress_at = now;
                    }
                    let indices = self.to_subscribe.drain(..count).collect();
                    self.asked.insert(packet_id, indices);
                }
                Err(Refusal::Full | Refusal::NotConnected) => return,
                Err(refusal) => {
                    let name = &self.name;
                    log::error!("bridge {name} cannot subscribe: {refusal}");
                    self.stats.subscriptions_refused += 1;
                    self.to_subscribe.pop_front();
                }
            }
        }
        self.wake = true;
    }

    /// Asks for the first `count` of those that are missing.
    fn ask_for(&mut self, count: usize) -> Result<PacketId, Refusal> {
        let rules = &self.settings.receive;
        let indices = self.to_subscribe.iter().take(count);
        let requests: Vec<_> = indices
            .filter_map(|index| {
                let rule = &rules[*index];
                let filter = TopicFilter::new(&rule.filter).ok()?;
                let options = SubscriptionOptions {
                    // Not what we sent ourselves; a shared one may not ask for that [MQTT-3.8.3-4].
                    no_local: !filter.is_shared(),
                    retain_as_published: true,
                    // With a session that the peer kept, what is retained was sent before.
                    retain_handling: RetainHandling::SendIfNew,
                    ..SubscriptionOptions::new(rule.qos)
                };
                Some(SubscriptionRequest { filter, options })
            })
            .collect();
        self.client.subscribe(&requests, None)
    }

    pub(super) fn on_subscribed(&mut self, now: Instant, id: PacketId, reasons: &[ReasonCode]) {
        let Some(indices) = self.asked.remove(&id) else {
            return;
        };
        self.progress_at = now;
        for (index, reason) in indices.into_iter().zip(reasons) {
            let Some(rule) = self.settings.receive.get(index) else {
                continue;
            };
            if reason.is_error() {
                let (name, filter) = (&self.name, &rule.filter);
                log::error!("bridge {name}: subscription refused filter={filter} {reason}");
                self.stats.subscriptions_refused += 1;
            } else {
                self.subscribed.insert(rule.filter.clone(), rule.qos);
            }
        }
        self.ask_for_subscriptions(now);
    }
}
