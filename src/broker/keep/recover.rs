//! What comes back after a start.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::record::{
    SentEntry, Stage, decode_message, decode_sent, decode_session, decode_subscription,
};
use super::{Kept, Key, KeyKind, Recovered, RecoveredQueue, Recovery, What};
use crate::broker::message;
use crate::broker::retained::{Age, Limits};
use crate::broker::session::{NEVER, Session};
use crate::broker::{Broker, Origin, Taker};
use crate::buffer::{Outbox, Payload};
use crate::id::{MessageId, QueueId, SessionId};
use crate::mqtt::PacketId;
use crate::time::{Instant, Now};

impl Broker {
    /// Something that was kept comes back. In the order of keeping, or any other.
    pub fn recover(&mut self, now: Now, record: Recovered) {
        self.now = now;
        let Recovered { keys, body } = record;
        let is_message = keys.iter().any(|key| key.kind == KeyKind::Retained);
        let message = is_message
            .then(|| decode_message(&body, now))
            .flatten()
            .and_then(|message| self.messages.insert(message, Origin::System));
        if is_message && message.is_none() {
            self.stats.unrecovered += 1;
        }
        let keeper = self.keeper.as_mut();
        let Some(recovery) = keeper.and_then(|keeper| keeper.recovery.as_mut()) else {
            return;
        };
        let mut retained = None;
        for key in keys {
            match (key.kind, message) {
                (KeyKind::Retained, Some(message)) => retained = Some((key, message)),
                (KeyKind::Retained, None) => {}
                (KeyKind::Session | KeyKind::Estate, _) => {
                    recovery.queued.insert(key.id);
                    recovery.values.push((key, body.clone()));
                }
                _ => recovery.values.push((key, body.clone())),
            }
        }
        if let Some((key, message)) = retained {
            self.recover_retained(key, message);
        }
        if let Some(message) = message {
            self.messages.release(message);
        }
    }

    /// A queue comes back, after all records; whether it is a session's.
    pub fn recover_queue(&mut self, queue: RecoveredQueue) -> bool {
        let keeper = self.keeper.as_mut();
        let Some(recovery) = keeper.and_then(|keeper| keeper.recovery.as_mut()) else {
            return false;
        };
        let is_ours = recovery.queued.contains(&queue.queue.0);
        if is_ours {
            recovery.queues.insert(queue.queue, queue);
        }
        is_ours
    }

    fn recover_retained(&mut self, key: Key, message: MessageId) {
        let stored = self.messages.get(message);
        let (cost, expires_at) = (stored.cost(), stored.expires_at());
        let topic = stored.message.topic().to_owned();
        if let Some(keeper) = &mut self.keeper {
            keeper.last_retained = keeper.last_retained.max(key.id);
        }
        let limits = Limits {
            messages: self.settings.retained_messages,
            bytes: self.settings.retained_bytes,
        };
        let stored = self
            .retained
            .store(&topic, message, cost, expires_at, limits, Age::New);
        let Ok(before) = stored else {
            self.stats.retained_refused += 1;
            self.log(None, What::Delete(key));
            return;
        };
        self.messages.retain(message);
        if let Some(number) = self.retained.number_mut(&topic) {
            *number = key.id;
        }
        if let Some(before) = before {
            self.messages.release(before);
        }
    }

    /// Everything that was kept has come back: sessions stand as they stood. Without connections.
    pub fn recovered(&mut self, now: Now, outbox: &mut Outbox) {
        self.now = now;
        let keeper = self.keeper.as_mut();
        let Some(recovery) = keeper.and_then(|keeper| keeper.recovery.take()) else {
            return;
        };
        let Recovery { values, queues, .. } = *recovery;
        let mut sessions = BTreeMap::new();
        for (key, body) in values
            .iter()
            .filter(|(key, _)| key.kind == KeyKind::Session)
        {
            if let Some(id) = self.recover_session(*key, body) {
                sessions.insert(key.id, id);
            }
        }
        // One that a later one of the same client has ended is known by its number no more.
        sessions.retain(|_, id| self.sessions.contains(*id));
        for (key, body) in &values {
            if let (KeyKind::Subscription, Some(id)) = (key.kind, sessions.get(&key.id)) {
                self.recover_subscription(*id, body);
            }
        }
        let is_estate = |(key, _): &&(Key, Payload)| key.kind == KeyKind::Estate;
        for (key, _) in values.iter().filter(is_estate) {
            let queue = QueueId(key.id);
            // If its session is there, that it was over was not kept.
            if queues.contains_key(&queue) && !sessions.contains_key(&key.id) {
                self.recover_estate(*key);
            } else {
                self.log(None, What::Delete(*key));
            }
        }
        for (queue, found) in queues {
            match sessions.get(&queue.0) {
                Some(id) => self.recover_entries(*id, &found),
                None if self.is_estate(queue) => {}
                // There is a later session of its client, or nobody knows whose it is.
                None => {
                    self.log(None, What::DropQueue(queue));
                }
            }
        }
        self.recover_wills(&values, &sessions);
        let mut sent = BTreeMap::new();
        for (key, body) in values {
            let id = sessions.get(&key.id).copied();
            let is_known = match (key.kind, id) {
                (KeyKind::Session | KeyKind::Brought | KeyKind::Will | KeyKind::Estate, _)
                | (KeyKind::Subscription, Some(_)) => true,
                (KeyKind::Received, Some(id)) => {
                    let packet_id = PacketId::new(key.sub as u16);
                    packet_id
                        .map(|it| self.session_mut(id).received.note(it))
                        .is_some()
                }
                (KeyKind::Sent, Some(id)) => match decode_sent(key.sub, &body) {
                    Some(entry) => {
                        sent.entry(id).or_insert_with(Vec::new).push(entry);
                        true
                    }
                    None => false,
                },
                (KeyKind::Retained, _) | (_, None) => false,
            };
            if !is_known {
                self.log(None, What::Delete(key));
            }
        }
        for (id, entries) in sent {
            self.gather(id, entries);
        }
        for id in sessions.into_values() {
            let session = self.session_mut(id);
            session.received.reconnect();
            self.arm_session(id);
        }
        self.finish(outbox);
    }

    fn recover_session(&mut self, key: Key, body: &[u8]) -> Option<SessionId> {
        let Some(found) = decode_session(body) else {
            self.stats.unrecovered += 1;
            self.log(None, What::Delete(key));
            self.log(None, What::DropQueue(QueueId(key.id)));
            return None;
        };
        let now = self.now;
        let rules = self.settings.access.rules.as_ref();
        let permissions = rules.map(|rules| Rc::new(rules.bind(found.user, found.client_id)));
        let charge = self.memory.charge(Session::cost(found.client_id));
        let client_id: Rc<str> = found.client_id.into();
        let mut session = Session::new(client_id.clone(), &self.memory, charge);
        session.user = found.user.map(Rc::from);
        session.permissions = permissions;
        session.expiry_seconds = found.expiry_seconds;
        session.kept = Some(Kept {
            queue: QueueId(key.id),
            next_sequence: 1,
            again_before: 0,
        });
        // A clock that has not been set yet ends nothing.
        session.expires_at = match found.end {
            _ if found.expiry_seconds == NEVER => Instant::FAR_FUTURE,
            Some(end) if now.wall.is_plausible() => now.monotonic + end.since(now.wall),
            _ => session.end_after(now.monotonic),
        };
        if let Some(other) = self.clients.get(&client_id).copied() {
            // Its end was not synced; the higher number is the later one.
            let kept = self.session_mut(other).kept;
            if kept.is_some_and(|kept| kept.queue.0 > key.id) {
                self.log(None, What::Delete(key));
                self.log(None, What::DropQueue(QueueId(key.id)));
                return None;
            }
            self.remove_session(other);
        }
        let id = self.sessions.insert(session);
        self.clients.insert(client_id, id);
        self.stats.recovered_sessions += 1;
        Some(id)
    }

    /// What waits for a session is in the journal alone.
    fn recover_entries(&mut self, id: SessionId, found: &RecoveredQueue) {
        let session = self.session_mut(id);
        if let Some(kept) = &mut session.kept {
            kept.next_sequence = kept.next_sequence.max(found.next);
            kept.again_before = kept.next_sequence;
        }
        if found.entries == 0 {
            return;
        }
        let count = found.entries as usize;
        let bytes = found.bytes as usize + count * message::cost("", &[]);
        session.queue.recover_spilled(count, bytes);
        self.queued += count;
        self.queued_bytes += bytes;
        self.spilled += count;
        self.stats.recovered_messages += found.entries;
    }

    fn recover_subscription(&mut self, id: SessionId, body: &[u8]) {
        let Some((filter, subscription)) = decode_subscription(body) else {
            self.stats.unrecovered += 1;
            return;
        };
        if filter.is_shared() {
            self.join_share(id, filter, subscription);
        } else {
            let taker = Taker::Session(id);
            self.subscriptions
                .insert(taker, filter.as_str(), subscription);
        }
    }

    /// QoS 2 messages that were on their way, in the order in which they were sent. They are in
    /// memory as far as they are not done with.
    pub(super) fn recover_sent(&mut self, id: SessionId, mut entries: Vec<SentEntry>) {
        entries.sort_by_key(|entry| entry.sequence);
        let mut over = Vec::new();
        for entry in entries {
            let SentEntry {
                packet_id,
                sequence,
                stage,
                ..
            } = entry;
            let reference = self.session_mut(id).queue.take_sequence(sequence);
            if let Some(reference) = &reference {
                self.queued -= 1;
                self.queued_bytes -= reference.cost;
            }
            let inflight = &mut self.session_mut(id).inflight;
            match (stage, reference) {
                (Stage::Published, Some(reference)) => {
                    inflight.restore(packet_id, sequence, Some(reference));
                }
                // It was consumed, so its PUBREC had come, though that is not kept.
                (Stage::Published | Stage::Released, None) => {
                    inflight.restore(packet_id, sequence, None);
                }
                (Stage::Released, Some(reference)) => {
                    inflight.restore(packet_id, sequence, None);
                    self.let_go(id, &reference);
                }
                (Stage::Over, reference) => {
                    over.push(sequence);
                    if let Some(reference) = reference {
                        self.let_go(id, &reference);
                    }
                }
            }
        }
        over.sort_unstable();
        self.session_mut(id).over = over;
        self.forget_over(id);
    }
}
