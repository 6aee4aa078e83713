//! What waits for a subscriber: references to kept messages, and replays of retained ones, in the
//! order of their coming.
//!
//! A subscription's replay stands in the queue at the place where the subscription was made, so
//! that what was published after it is delivered after it.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::retained::Replay;
use crate::buffer::{Charge, Memory};
use crate::id::{MessageId, ShareId};
use crate::mqtt::{QoS, SubscriptionIdentifier};
use crate::time::Instant;

/// The subscriptions that a message came by; rarely more than one.
pub(super) type Identifiers = SmallVec<[SubscriptionIdentifier; 2]>;

/// A message for one subscriber.
#[derive(Debug)]
pub(super) struct Reference {
    /// Holds one reference in the store.
    pub(super) message: MessageId,
    /// At which it is delivered: the lower of published and granted.
    pub(super) qos: QoS,
    /// The RETAIN flag that it is sent with.
    pub(super) retain: bool,
    /// It was there when the power failed, and may have been sent by then: it goes out with DUP.
    pub(super) is_again: bool,
    pub(super) identifiers: Identifiers,
    /// The group that it is one member's of: it may go to another.
    pub(super) share: Option<ShareId>,
    /// Bytes that it counts in the queue, whoever else refers to the message.
    pub(super) cost: usize,
    /// Its number in the session's queue as it is kept; 0: it is not kept.
    pub(super) sequence: u64,
}

impl Clone for Reference {
    fn clone(&self) -> Self {
        Self {
            // By value: a general clone goes through an iterator.
            identifiers: Identifiers::from_slice(&self.identifiers),
            ..*self
        }
    }
}

/// Bytes that a waiting reference takes beside its message.
pub(super) const REFERENCE_BYTES: usize = size_of::<Entry>();

/// The queue of one session.
#[derive(Debug)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// Of the entries that are messages.
    messages: usize,
    /// Their cost.
    bytes: usize,
    /// Of the entries that are messages: never later than the earliest of them.
    expires_first: Instant,
    /// The highest number of a kept message that was put behind the others.
    last_sequence: u64,
    /// A lower one came behind a higher one: a group's message that nobody else wanted.
    is_mixed: bool,
    /// For the entries; what they refer to is charged where it is kept.
    charge: Charge,
}

#[derive(Debug)]
pub(super) enum Entry {
    Message(Reference),
    /// Boxed because replays are few and messages many.
    Replay(Box<Replay>),
}

impl Queue {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            entries: VecDeque::new(),
            messages: 0,
            bytes: 0,
            expires_first: Instant::FAR_FUTURE,
            last_sequence: 0,
            is_mixed: false,
            charge: memory.charge(0),
        }
    }

    pub(super) fn push(&mut self, reference: Reference, expires_at: Instant) {
        self.messages += 1;
        self.bytes += reference.cost;
        self.expires_first = self.expires_first.min(expires_at);
        if reference.sequence != 0 {
            self.is_mixed |= reference.sequence < self.last_sequence;
            self.last_sequence = self.last_sequence.max(reference.sequence);
        }
        self.entries.push_back(Entry::Message(reference));
        self.charge.set(self.messages * REFERENCE_BYTES);
    }

    /// Puts a message back that was taken out: before those that came after it.
    pub(super) fn put_back(&mut self, reference: Reference, expires_at: Instant) {
        self.messages += 1;
        self.bytes += reference.cost;
        self.expires_first = self.expires_first.min(expires_at);
        let is_before = |entry: &Entry| match entry {
            Entry::Message(other) => other.sequence != 0 && other.sequence < reference.sequence,
            Entry::Replay(_) => false,
        };
        let later = self.entries.iter().position(|entry| !is_before(entry));
        let at = later.unwrap_or(self.entries.len());
        self.entries.insert(at, Entry::Message(reference));
        self.charge.set(self.messages * REFERENCE_BYTES);
    }

    pub(super) fn push_replay(&mut self, replay: Box<Replay>) {
        self.entries.push_back(Entry::Replay(replay));
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut()
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if let Entry::Message(reference) = &entry {
            self.forget(reference.cost);
        }
        if self.entries.is_empty() {
            self.expires_first = Instant::FAR_FUTURE;
            self.is_mixed = false;
            if self.entries.capacity() > CAPACITY_KEPT {
                self.entries = VecDeque::new();
            }
        }
        Some(entry)
    }

    /// Takes out the message that has waited longest.
    pub(super) fn pop_oldest(&mut self) -> Option<Reference> {
        let is_message = |entry: &Entry| matches!(entry, Entry::Message(_));
        let at = self.entries.iter().position(is_message)?;
        match self.entries.remove(at) {
            Some(Entry::Message(reference)) => {
                self.forget(reference.cost);
                Some(reference)
            }
            _ => None,
        }
    }

    /// Takes out every message that `goes`, and hands it to `gone`. How many these were, and their
    /// cost: what the sums over all queues have to give up.
    pub(super) fn purge(
        &mut self,
        mut goes: impl FnMut(&Reference) -> bool,
        mut gone: impl FnMut(Reference),
    ) -> (usize, usize) {
        let (messages, bytes) = (self.messages, self.bytes);
        for _ in 0..self.entries.len() {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            match entry {
                Entry::Message(reference) if goes(&reference) => {
                    self.forget(reference.cost);
                    gone(reference);
                }
                stays => self.entries.push_back(stays),
            }
        }
        (messages - self.messages, bytes - self.bytes)
    }

    /// Whether something in here may have expired; from then on not before `then`, which the caller
    /// has found.
    pub(super) fn may_have_expired(&self, now: Instant) -> bool {
        self.expires_first <= now
    }

    pub(super) fn set_expires_first(&mut self, then: Instant) {
        self.expires_first = then;
    }

    /// Ends the replays of subscriptions that are gone, or are made again.
    pub(super) fn cancel_replays(&mut self, is_over: impl Fn(&str) -> bool) {
        if self.entries.len() > self.messages {
            self.entries
                .retain(|entry| !matches!(entry, Entry::Replay(replay) if is_over(&replay.filter)));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The lowest number of a kept message in here.
    pub(super) fn first_sequence(&self) -> Option<u64> {
        let kept = self.entries.iter().filter_map(|entry| match entry {
            Entry::Message(reference) if reference.sequence != 0 => Some(reference.sequence),
            Entry::Message(_) | Entry::Replay(_) => None,
        });
        if self.is_mixed {
            kept.min()
        } else {
            kept.into_iter().next()
        }
    }

    /// Of the messages that wait: the one at this place.
    pub(super) fn reference(&self, at: usize) -> Option<&Reference> {
        let references = self.entries.iter().filter_map(|entry| match entry {
            Entry::Message(reference) => Some(reference),
            Entry::Replay(_) => None,
        });
        references.into_iter().nth(at)
    }

    /// Numbers the message at this place, above those before it.
    pub(super) fn number(&mut self, at: usize, sequence: u64) {
        let references = self.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Message(reference) => Some(reference),
            Entry::Replay(_) => None,
        });
        if let Some(reference) = references.into_iter().nth(at) {
            reference.sequence = sequence;
            self.last_sequence = self.last_sequence.max(sequence);
        }
    }

    /// Takes out the message with this number. They lie in order, but for what other members of a
    /// group have handed over.
    pub(super) fn take_sequence(&mut self, sequence: u64) -> Option<Reference> {
        let is_it = |entry: &Entry| match entry {
            Entry::Message(reference) => reference.sequence == sequence,
            Entry::Replay(_) => false,
        };
        let at = self.entries.iter().position(is_it)?;
        match self.entries.remove(at) {
            Some(Entry::Message(reference)) => {
                self.forget(reference.cost);
                Some(reference)
            }
            _ => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self, cost: usize) {
        self.messages -= 1;
        self.bytes -= cost;
        self.charge.set(self.messages * REFERENCE_BYTES);
    }
}

/// A queue that was longer than this gives its memory back when it runs empty.
const CAPACITY_KEPT: usize = 64;
