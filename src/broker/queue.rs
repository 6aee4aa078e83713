//! What waits for a subscriber: references to kept messages, and replays of retained ones, in the
//! order of their coming.
//!
//! A subscription's replay stands in the queue at the place where the subscription was made, so
//! that what was published after it is delivered after it.
//!
//! Of a session that outlives the process not all is in memory: beyond a window, what is kept is
//! *spilled*, which means that it is counted here and lies in the journal alone, from which it is
//! drawn back in its order ([`keep`](super::keep)).
//!
//! ```text
//! front ── in memory ── spilled ── what is not kept and came after something spilled ── back
//! ```
//!
//! | what | in memory | order |
//! |---|---|---|
//! | kept, while nothing is spilled | up to [`WINDOW`] entries or [`WINDOW_BYTES`] | as it came |
//! | kept, once something is | no | by its number |
//! | not kept: QoS 0, what is kept for nobody, replays | yes | behind what was spilled before it |

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

/// Entries of a queue that are in memory, of what is kept.
pub const WINDOW: usize = 256;

/// The same in bytes.
pub const WINDOW_BYTES: usize = 256 * 1024;

/// What has to be free in the memory's account before more is drawn back than one entry.
const SPARE_BYTES: usize = WINDOW_BYTES / 64;

/// The queue of one session.
#[derive(Debug)]
pub(super) struct Queue {
    /// What can be sent next. Invariant: of those with a number, each is below `spilled_from`.
    entries: VecDeque<Entry>,
    /// What is not kept and came while something was spilled: behind all numbers below that with
    /// which it stands here. Invariant: in their order; empty while nothing is spilled.
    rest: VecDeque<(u64, Entry)>,
    /// Of the entries in memory that are messages.
    messages: usize,
    /// Their cost.
    bytes: usize,
    /// The part of it that is in `rest`.
    rest_bytes: usize,
    /// Something is in the journal alone, or was when that was last looked at.
    is_spilling: bool,
    /// How much that is, and about what it costs: what is refused or damaged makes it wrong until
    /// the journal has no more.
    spilled: usize,
    spilled_bytes: usize,
    /// None of that has a number below this.
    spilled_from: u64,
    /// And none expires before this.
    spilled_expires_first: Instant,
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
            rest: VecDeque::new(),
            messages: 0,
            bytes: 0,
            rest_bytes: 0,
            is_spilling: false,
            spilled: 0,
            spilled_bytes: 0,
            spilled_from: 0,
            spilled_expires_first: Instant::FAR_FUTURE,
            expires_first: Instant::FAR_FUTURE,
            last_sequence: 0,
            is_mixed: false,
            charge: memory.charge(0),
        }
    }

    /// `next` is the number that the next kept message gets.
    pub(super) fn push(&mut self, reference: Reference, expires_at: Instant, next: u64) {
        if self.is_spilling && reference.sequence == 0 {
            return self.push_rest(reference, expires_at, next);
        }
        debug_assert!(
            !self.is_spilling || reference.sequence < self.spilled_from,
            "what is kept spills behind what is spilled"
        );
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

    /// Puts a message that is not kept behind what is spilled with a number below `after`.
    pub(super) fn push_rest(&mut self, reference: Reference, expires_at: Instant, after: u64) {
        debug_assert_eq!(reference.sequence, 0, "it is not kept");
        self.messages += 1;
        self.bytes += reference.cost;
        self.rest_bytes += reference.cost;
        self.expires_first = self.expires_first.min(expires_at);
        let at = self.rest.partition_point(|(other, _)| *other <= after);
        self.rest.insert(at, (after, Entry::Message(reference)));
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

    /// `next` as for [`Queue::push`].
    pub(super) fn push_replay(&mut self, replay: Box<Replay>, next: u64) {
        if self.is_spilling {
            self.rest.push_back((next, Entry::Replay(replay)));
        } else {
            self.entries.push_back(Entry::Replay(replay));
        }
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
            if self.rest.is_empty() {
                self.expires_first = Instant::FAR_FUTURE;
            }
            self.is_mixed = false;
            if self.entries.capacity() > CAPACITY_KEPT {
                self.entries = VecDeque::new();
            }
        }
        Some(entry)
    }

    /// Takes out the message that has waited longest, if it is in memory and before all that is
    /// spilled.
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

    /// The same of what is not kept and lies behind what is spilled.
    pub(super) fn pop_oldest_of_rest(&mut self) -> Option<Reference> {
        let is_message = |(_, entry): &(u64, Entry)| matches!(entry, Entry::Message(_));
        let at = self.rest.iter().position(is_message)?;
        match self.rest.remove(at) {
            Some((_, Entry::Message(reference))) => {
                self.rest_bytes -= reference.cost;
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
        for _ in 0..self.rest.len() {
            match self.rest.pop_front() {
                Some((_, Entry::Message(reference))) if goes(&reference) => {
                    self.rest_bytes -= reference.cost;
                    self.forget(reference.cost);
                    gone(reference);
                }
                stays => self.rest.extend(stays),
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
        let goes =
            |entry: &Entry| matches!(entry, Entry::Replay(replay) if is_over(&replay.filter));
        if self.entries.len() + self.rest.len() > self.messages {
            self.entries.retain(|entry| !goes(entry));
            self.rest.retain(|(_, entry)| !goes(entry));
        }
    }

    /// What is in memory, from the front to the back.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .chain(self.rest.iter().map(|(_, entry)| entry))
    }

    /// The lowest number that a kept message in here has, or may have if it is spilled.
    pub(super) fn first_sequence(&self) -> Option<u64> {
        let spilled = self.is_spilling.then_some(self.spilled_from);
        self.first_in_memory().into_iter().chain(spilled).min()
    }

    fn first_in_memory(&self) -> Option<u64> {
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

    /// Whether nothing waits, not in the journal either.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.is_spilling
    }

    /// Messages that wait, wherever they are.
    pub(super) fn messages(&self) -> usize {
        self.messages + self.spilled
    }

    /// What they cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.spilled_bytes
    }

    /// Of the messages: those that are in the journal alone.
    pub(super) fn spilled(&self) -> usize {
        self.spilled
    }

    pub(super) fn is_spilling(&self) -> bool {
        self.is_spilling
    }

    pub(super) fn spilled_from(&self) -> u64 {
        self.spilled_from
    }

    /// Whether something may have expired in the journal.
    pub(super) fn may_have_expired_there(&self, now: Instant) -> bool {
        self.is_spilling && self.spilled_expires_first <= now
    }

    /// Whether another message that is kept is to be spilled.
    pub(super) fn is_window_full(&self, window: usize) -> bool {
        self.is_spilling
            || self.entries.len() >= window
            || self.bytes - self.rest_bytes >= WINDOW_BYTES
    }

    /// Whether there is room for something that is spilled. One entry is taken whatever the memory
    /// says: without that nothing would ever be sent.
    pub(super) fn wants_spilled(&self, window: usize, memory: &Memory) -> bool {
        let has_room = self.entries.len() < window / 2
            && self.bytes - self.rest_bytes < WINDOW_BYTES
            && memory.has_room(SPARE_BYTES);
        self.is_spilling && (self.entries.is_empty() || has_room)
    }

    /// A message is in the journal alone.
    pub(super) fn spill(&mut self, sequence: u64, cost: usize, expires_at: Instant) {
        if !self.is_spilling {
            self.is_spilling = true;
            self.spilled_from = sequence;
            self.spilled_expires_first = Instant::FAR_FUTURE;
        }
        self.spilled += 1;
        self.spilled_bytes += cost;
        self.spilled_expires_first = self.spilled_expires_first.min(expires_at);
    }

    /// So many messages are in the journal from before, of which nothing more is known.
    pub(super) fn recover_spilled(&mut self, messages: usize, bytes: usize) {
        self.is_spilling = true;
        self.spilled = messages;
        self.spilled_bytes = bytes;
        self.spilled_from = 0;
        self.spilled_expires_first = Instant::default();
    }

    /// One that was spilled is not any more: it is here, or gone. What it was thought to cost;
    /// `None` if there was thought to be none. `cost` if it is known.
    pub(super) fn unspill(&mut self, cost: Option<usize>) -> Option<usize> {
        let share = self.spilled_bytes.checked_div(self.spilled)?;
        let cost = cost.unwrap_or(share).min(self.spilled_bytes);
        self.spilled -= 1;
        let cost = if self.spilled == 0 {
            self.spilled_bytes
        } else {
            cost
        };
        self.spilled_bytes -= cost;
        Some(cost)
    }

    /// The journal has given back the one with this number. [`Queue::join_rest`] follows once it is
    /// in its place.
    pub(super) fn pass(&mut self, sequence: u64) {
        self.join_rest(sequence);
        self.spilled_from = sequence + 1;
    }

    /// What was put behind numbers below this is next.
    pub(super) fn join_rest(&mut self, sequence: u64) {
        while let Some((after, _)) = self.rest.front()
            && *after <= sequence
            && let Some((_, entry)) = self.rest.pop_front()
        {
            if let Entry::Message(reference) = &entry {
                self.rest_bytes -= reference.cost;
            }
            self.entries.push_back(entry);
        }
    }

    /// Nothing is spilled any more. What was thought to be.
    pub(super) fn end_spilling(&mut self) -> (usize, usize) {
        self.is_spilling = false;
        self.join_rest(u64::MAX);
        (
            core::mem::take(&mut self.spilled),
            core::mem::take(&mut self.spilled_bytes),
        )
    }

    /// What is said of it, with what is found in memory.
    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self, messages: usize, bytes: usize) {
        assert_eq!((messages, bytes), (self.messages, self.bytes));
        assert!(self.is_spilling || self.rest.is_empty());
        assert!(self.is_spilling || self.spilled + self.spilled_bytes == 0);
        let numbers = self.entries.iter().filter_map(|entry| match entry {
            Entry::Message(reference) => Some(reference.sequence),
            Entry::Replay(_) => None,
        });
        if self.is_spilling {
            assert!(numbers.into_iter().all(|number| number < self.spilled_from));
        }
        assert!(self.rest.iter().is_sorted_by_key(|(after, _)| *after));
    }

    fn forget(&mut self, cost: usize) {
        self.messages -= 1;
        self.bytes -= cost;
        self.charge.set(self.messages * REFERENCE_BYTES);
    }
}

/// A queue that was longer than this gives its memory back when it runs empty.
const CAPACITY_KEPT: usize = 64;
