//! What waits for sessions in the journal alone.
//!
//! Once a session's window is full ([`WINDOW`] entries or [`WINDOW_BYTES`]), what is kept for it is
//! counted in its queue and not held in memory: it is *spilled*. All that is kept and comes later
//! is spilled too, until the journal says that it has no more; so the order is that of the numbers,
//! and what the broker believes to be there decides nothing but the figures and the limits.
//!
//! ```text
//! poll_wanted ─┬─ restore          the next entry, in the window or done with
//!              ├─ handle_fetching  it is being read; handle_drawable follows
//!              └─ handle_drained   there is none
//! ```
//!
//! | what is spilled | is drawn back |
//! |---|---|
//! | for a client that is there | as its window has room |
//! | for one that is away | not, but for what follows |
//! | and may have expired, while its queue is full | as the window has room: what has expired goes then, and counts as long |
//! | and may be another member's of a group, when its client is lost or leaves the group | the same |
//! | and may be another member's of a group, when its session is over | all of it, after a start too |
//! | after a start, up to the last message of QoS 2 that was under way | all of it, before anybody is let in |
//!
//! A limit that drops the oldest drops what is spilled too, unread. An entry whose record is not
//! taken is one no more: who waits for it is not answered, and what nobody waits for comes back
//! into memory, where it stands behind what was spilled before it.

use smallvec::SmallVec;

use super::record::{SentEntry, Stage, decode_message, decode_note, encode_presence};
use super::{Broker, Change, Estate, Held, Keeper, Key, KeyKind, Target, What};
use crate::broker::queue::Entry;
use crate::broker::shared::{ANYBODY, Fitness};
use crate::broker::{Origin, Reference};
use crate::buffer::{Outbox, Payload};
use crate::id::{Lsn, MessageId, QueueId, SessionId};
use crate::mqtt::{ApplicationMessage, QoS};
use crate::time::{Instant, Now};

#[cfg(doc)]
use crate::broker::{WINDOW, WINDOW_BYTES};

/// The next entry of a session's queue that is wanted back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Whose. `None`: the session is over, and other members of its groups get what is theirs.
    pub session: Option<SessionId>,
    /// Of which queue.
    pub queue: QueueId,
    /// The first that is not below this number.
    pub from: u64,
}

/// An entry that is in the journal alone, or is about to be.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Spilled {
    pub(in crate::broker) session: SessionId,
    pub(in crate::broker) sequence: u64,
    pub(in crate::broker) cost: usize,
    /// If it is not taken, it comes again.
    pub(in crate::broker) is_awaited: bool,
}

impl Keeper {
    /// What is wanted back for those who inherit from sessions that are over.
    fn next_of_estates(&self) -> Option<Wanted> {
        let mut estates = self.estates.iter();
        let next = estates.find(|(queue, _)| !self.fetching.contains_key(queue));
        next.map(|(queue, estate)| Wanted {
            session: None,
            queue: *queue,
            from: estate.from,
        })
    }
}

impl Broker {
    /// Which entry is wanted back next. To be answered before this is asked again; not before every
    /// change has been taken.
    pub fn poll_wanted(&mut self) -> Option<Wanted> {
        loop {
            let keeper = self.keeper.as_mut()?;
            if !keeper.changes.is_empty() {
                return None; // What is not in the journal yet would not be found there.
            }
            let Some(id) = keeper.hungry.first().copied() else {
                return keeper.next_of_estates();
            };
            let wanted = self.wanted(id);
            if wanted.is_some() {
                return wanted;
            }
            if let Some(keeper) = &mut self.keeper {
                keeper.hungry.remove(&id);
            }
            if let Some(session) = self.sessions.get_mut(id) {
                session.is_searched = false;
            }
        }
    }

    fn wanted(&self, id: SessionId) -> Option<Wanted> {
        let session = self.sessions.get(id)?;
        let queue = session.kept?.queue;
        let keeper = self.keeper.as_ref()?;
        let is_gathered = keeper.gathering.contains_key(&id);
        let has_room = session.queue.wants_spilled(self.window, &self.memory);
        let is_looked_at = session.link.is_some() || session.is_searched;
        let is_wanted = is_gathered || (is_looked_at && has_room);
        (is_wanted && !keeper.fetching.contains_key(&queue)).then(|| Wanted {
            session: Some(id),
            queue,
            from: session.queue.spilled_from(),
        })
    }

    /// An entry comes back: `note` and `body` as they were given.
    pub fn restore(
        &mut self,
        now: Now,
        wanted: Wanted,
        sequence: u64,
        note: &[u8],
        body: &Payload,
        outbox: &mut Outbox,
    ) {
        self.now = now;
        let Some(id) = wanted.session else {
            self.pass_on(wanted.queue, sequence, note, body);
            return self.finish(outbox);
        };
        if !self.sessions.contains(id) {
            return;
        }
        self.unspill(id, None);
        self.session_mut(id).queue.pass(sequence);
        if let Some(message) = decode_message(body, now) {
            self.take_in(id, sequence, note, message);
        } else {
            self.stats.unrecovered += 1;
            self.consumed(id, sequence);
        }
        self.session_mut(id).queue.join_rest(sequence + 1);
        self.end_gathering(id);
        self.finish(outbox);
    }

    /// What becomes of an entry that has come back.
    fn take_in(&mut self, id: SessionId, sequence: u64, note: &[u8], message: ApplicationMessage) {
        let is_over = match self.under_way(id, sequence) {
            Some(Stage::Published) => false,
            // The rest is known by itself.
            Some(Stage::Released | Stage::Over) => true,
            None if message.is_expired(self.now.monotonic) => {
                self.stats.dropped_expired += 1; // [MQTT-3.3.2-5]
                true
            }
            None => {
                let is_allowed = self.session_mut(id).may_receive(message.topic());
                self.stats.refused_deliveries += u64::from(!is_allowed);
                !is_allowed
            }
        };
        if is_over {
            return self.consumed(id, sequence);
        }
        let message = self.messages.restore(message, Origin::System);
        let Some((mut reference, _)) = self.read_entry(note, message) else {
            self.stats.unrecovered += 1;
            self.consumed(id, sequence);
            return self.messages.release(message);
        };
        reference.sequence = sequence;
        let before = self
            .session_mut(id)
            .kept
            .map_or(0, |kept| kept.again_before);
        // At QoS 2 it would be known.
        reference.is_again = sequence < before && reference.qos == QoS::AtLeastOnce;
        let is_held = self.hold_restored(id, sequence, message);
        if !is_held && self.is_given(id, &reference) {
            return self.let_go(id, &reference);
        }
        self.push_reference(id, reference);
    }

    /// An entry that has come back, without its number, and whether it is a group's.
    fn read_entry(&self, note: &[u8], message: MessageId) -> Option<(Reference, bool)> {
        let (mut reference, share) = decode_note(note, message)?;
        reference.cost = self.messages.get(message).cost();
        reference.share = self.shared.find(&share);
        Some((reference, !share.is_empty()))
    }

    /// A message that nobody may see before its sync may have come back before it.
    fn hold_restored(&mut self, id: SessionId, sequence: u64, message: MessageId) -> bool {
        let Some(keeper) = &mut self.keeper else {
            return false;
        };
        let is_it = |(_, held): &&mut (Lsn, Held)| match held {
            Held::Spilled(of, number) => (*of, *number) == (id, sequence),
            _ => false,
        };
        let Some((_, held)) = keeper.held.iter_mut().find(is_it) else {
            return false;
        };
        *held = Held::Restored(message);
        self.messages.hold(message);
        true
    }

    /// Whether a message of a group goes to another member.
    fn is_given(&mut self, id: SessionId, reference: &Reference) -> bool {
        let Some(session) = self.sessions.get(id) else {
            return false;
        };
        let is_gathered = |keeper: &Keeper| keeper.gathering.contains_key(&id);
        let worst = match reference.share {
            None => return false,
            _ if self.keeper.as_deref().is_some_and(is_gathered) => return false,
            Some(share) if !session.shares.contains(&share) => Fitness::Away,
            Some(_) if session.link.is_none() => Fitness::Busy,
            Some(_) => return false,
        };
        self.messages.retain(reference.message);
        let is_given = self.give(reference, worst).is_some();
        if !is_given {
            self.messages.release(reference.message);
        }
        is_given
    }

    /// What was wanted is being read: nothing more of that queue is wanted before
    /// [`Broker::handle_drawable`].
    pub fn handle_fetching(&mut self, wanted: Wanted) {
        self.stats.fetches += 1;
        if let Some(keeper) = &mut self.keeper {
            keeper.fetching.insert(wanted.queue, wanted.session);
        }
    }

    /// What was being read for a queue may be drawn.
    pub fn handle_drawable(&mut self, queue: QueueId) {
        if let Some(keeper) = &mut self.keeper
            && let Some(id) = keeper.fetching.remove(&queue)
        {
            keeper.hungry.extend(id);
        }
    }

    /// There is no more in a queue than what was drawn.
    pub fn handle_drained(&mut self, now: Now, wanted: Wanted, outbox: &mut Outbox) {
        self.now = now;
        let Some(id) = wanted.session else {
            let keeper = self.keeper.as_mut();
            if let Some(over) = keeper.and_then(|keeper| keeper.estates.remove(&wanted.queue)) {
                self.log(None, What::DropQueue(wanted.queue));
                self.log(None, What::Delete(over.key));
            }
            return;
        };
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let (count, bytes) = session.queue.end_spilling();
        self.queued -= count;
        self.queued_bytes -= bytes;
        self.spilled -= count;
        self.end_gathering(id);
        self.wake_session(id, outbox);
        self.finish(outbox);
    }

    /// Queues of which nothing is wanted for now: what was read ahead may be forgotten.
    pub fn poll_rested(&mut self) -> Option<QueueId> {
        self.keeper.as_mut()?.rested.pop()
    }

    /// Whether sessions wait for what they had under way before the start: nobody is to be let in.
    pub fn is_gathering(&self) -> bool {
        let keeper = self.keeper.as_ref();
        keeper.is_some_and(|keeper| !keeper.gathering.is_empty())
    }

    /// Whether a message for this session is to be in the journal alone.
    pub(in crate::broker) fn spills(&self, id: SessionId, qos: QoS, cost: usize) -> bool {
        self.sessions.get(id).is_some_and(|session| {
            session.kept.is_some()
                && qos > QoS::AtMostOnce
                && (session.queue.is_window_full(self.window) || !self.memory.has_room(cost))
        })
    }

    /// Counts a message that is in the journal alone.
    pub(in crate::broker) fn count_spilled(&mut self, spilled: &Spilled, expires_at: Instant) {
        let Spilled { sequence, cost, .. } = *spilled;
        let session = self.session_mut(spilled.session);
        session.queue.spill(sequence, cost, expires_at);
        self.queued += 1;
        self.queued_bytes += cost;
        self.spilled += 1;
        self.look_at(spilled.session);
    }

    /// It is in this change, which may not be taken.
    pub(in crate::broker) fn note_spilled(&mut self, lsn: Lsn, spilled: Spilled) {
        if let Some(keeper) = &mut self.keeper {
            keeper.unsettled.push_back((lsn, spilled));
        }
    }

    /// One less is spilled, as far as that is known.
    fn unspill(&mut self, id: SessionId, cost: Option<usize>) -> bool {
        let Some(bytes) = self.session_mut(id).queue.unspill(cost) else {
            return false;
        };
        self.queued -= 1;
        self.queued_bytes -= bytes;
        self.spilled -= 1;
        true
    }

    /// Drops the first that is spilled, if any is.
    pub(in crate::broker) fn drop_oldest_spilled(&mut self, id: SessionId) -> bool {
        let Some(queue) = self.sessions.get(id).and_then(|session| session.kept) else {
            return false;
        };
        if !self.unspill(id, None) {
            return false;
        }
        let from = self.session_mut(id).queue.spilled_from();
        let queue = queue.queue;
        self.log(None, What::ConsumedFirst { queue, from });
        true
    }

    /// A session's queue is full: what has expired in the journal goes when it is looked at.
    pub(in crate::broker) fn look_for_expired(&mut self, id: SessionId) {
        let now = self.now.monotonic;
        if let Some(session) = self.sessions.get_mut(id)
            && session.queue.may_have_expired_there(now)
        {
            session.is_searched = true;
            self.look_at(id);
        }
    }

    /// A session may have room for what is spilled.
    pub(in crate::broker) fn look_at(&mut self, id: SessionId) {
        let session = self.sessions.get(id);
        if session.is_some_and(|session| session.queue.is_spilling())
            && let Some(keeper) = &mut self.keeper
        {
            keeper.hungry.insert(id);
        }
    }

    /// A session's client is gone, and what is spilled may be for others.
    pub(in crate::broker) fn rest(&mut self, id: SessionId) {
        let session = self.sessions.get(id);
        let Some(kept) = session.and_then(|session| session.kept) else {
            return;
        };
        if let Some(keeper) = &mut self.keeper
            && session.is_some_and(|session| session.queue.is_spilling())
        {
            keeper.fetching.remove(&kept.queue);
            keeper.rested.push(kept.queue);
            keeper.hungry.insert(id);
        }
    }

    /// A session is about to end: what is spilled may be another member's of its groups. What is to
    /// be logged of that.
    pub(super) fn bequeath(&mut self, id: SessionId) -> Vec<What> {
        let session = self.sessions.get(id);
        let Some(session) = session.filter(|it| it.queue.is_spilling() && !it.shares.is_empty())
        else {
            return Vec::new();
        };
        let (Some(kept), Some(keeper)) = (session.kept, &mut self.keeper) else {
            return Vec::new();
        };
        let (queue, from) = (kept.queue, session.queue.spilled_from());
        let key = kept.key(KeyKind::Estate, from);
        keeper.rested.push(queue);
        keeper.estates.insert(queue, Estate { key, from });
        // What is in memory goes to others from there; what is under way at QoS 2 ends with its
        // session [MQTT-4.8.2-5].
        let waiting = session.queue.iter().filter_map(|entry| match entry {
            Entry::Message(reference) => Some(reference.sequence),
            Entry::Replay(_) => None,
        });
        let under_way = session.inflight.iter().map(|sent| sent.sequence);
        let gathering = keeper.gathering.get(&id).into_iter().flatten();
        let numbers = waiting
            .chain(under_way)
            .chain(gathering.map(|entry| entry.sequence))
            .filter(|sequence| *sequence != 0);
        let targets = SmallVec::from_iter([Target::Key(key)]);
        let body = encode_presence();
        let mut logged = vec![What::Record { targets, body }];
        logged.extend(numbers.map(|sequence| What::Consumed { queue, sequence }));
        logged
    }

    /// A session is no more; whether its queue is to stay.
    pub(super) fn forget_spilled(&mut self, id: SessionId, queue: QueueId) -> bool {
        let Some(keeper) = &mut self.keeper else {
            return false;
        };
        keeper.hungry.remove(&id);
        keeper.fetching.remove(&queue);
        keeper.gathering.remove(&id);
        self.is_estate(queue)
    }

    /// Whether a queue is there for the groups of a session that is over.
    pub(super) fn is_estate(&self, queue: QueueId) -> bool {
        let keeper = self.keeper.as_ref();
        keeper.is_some_and(|keeper| keeper.estates.contains_key(&queue))
    }

    /// After a start: who inherits what a session left that is over.
    pub(super) fn recover_estate(&mut self, key: Key) {
        if let Some(keeper) = &mut self.keeper {
            let from = key.sub;
            keeper.estates.insert(QueueId(key.id), Estate { key, from });
        }
    }

    /// An entry of a session that is over: another member's of its group, or nobody's.
    fn pass_on(&mut self, queue: QueueId, sequence: u64, note: &[u8], body: &Payload) {
        let estates = self.keeper.as_mut().map(|keeper| &mut keeper.estates);
        if let Some(estate) = estates.and_then(|estates| estates.get_mut(&queue)) {
            estate.from = sequence + 1;
        }
        self.pass_on_message(note, body);
        self.log(None, What::Consumed { queue, sequence });
    }

    fn pass_on_message(&mut self, note: &[u8], body: &Payload) {
        let Some(message) = decode_message(body, self.now) else {
            self.stats.unrecovered += 1;
            return;
        };
        if message.is_expired(self.now.monotonic) {
            self.stats.dropped_expired += 1; // [MQTT-3.3.2-5]
            return;
        }
        let message = self.messages.restore(message, Origin::System);
        let found = self.read_entry(note, message);
        let is_given = found.is_some_and(|(reference, is_a_groups)| {
            let is_given = self.give(&reference, ANYBODY).is_some();
            self.stats.dropped_offline += u64::from(is_a_groups && !is_given);
            is_given
        });
        if !is_given {
            self.messages.release(message);
        }
    }

    /// A change was not taken: what was spilled by it is not there.
    pub(super) fn unspill_unkept(&mut self, change: &Change) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let unsettled = &keeper.unsettled;
        let first = unsettled.partition_point(|(lsn, _)| *lsn < change.lsn);
        let gone = unsettled.range(first..);
        let gone = gone.take_while(|(lsn, _)| *lsn == change.lsn);
        let gone: Vec<Spilled> = gone.map(|(_, spilled)| *spilled).collect();
        for spilled in gone {
            let id = spilled.session;
            let Some(session) = self.sessions.get(id) else {
                continue;
            };
            let kept = session.kept;
            self.unspill(id, Some(spilled.cost));
            if let Some(kept) = kept.filter(|_| !spilled.is_awaited) {
                self.take_back_in(id, kept.queue, spilled.sequence, &change.what);
            }
        }
    }

    /// A message that nobody brings again is held in memory, for the journal has it not.
    fn take_back_in(&mut self, id: SessionId, of: QueueId, number: u64, what: &What) {
        let What::Record { targets, body } = what else {
            return;
        };
        let note = targets.iter().find_map(|target| match target {
            Target::Queue {
                queue,
                sequence,
                note,
            } if *queue == of && *sequence == number => Some(note),
            Target::Queue { .. } | Target::Key(_) => None,
        });
        let message = decode_message(&Payload::copy_from(body), self.now);
        let (Some(note), Some(message)) = (note, message) else {
            return;
        };
        let Some(message) = self.messages.insert(message, Origin::System) else {
            self.stats.dropped_over_budget += 1;
            return;
        };
        let Some((reference, _)) = self.read_entry(note, message) else {
            return self.messages.release(message);
        };
        let expires_at = self.messages.get(message).expires_at();
        self.queued += 1;
        self.queued_bytes += reference.cost;
        let queue = &mut self.session_mut(id).queue;
        if queue.is_spilling() {
            queue.push_rest(reference, expires_at, number);
        } else {
            queue.push(reference, expires_at, number);
        }
    }

    /// How far a message was that is drawn back after a start.
    fn under_way(&self, id: SessionId, sequence: u64) -> Option<Stage> {
        let entries = self.keeper.as_ref()?.gathering.get(&id)?;
        let at = entries.binary_search_by_key(&sequence, |entry| entry.sequence);
        Some(entries[at.ok()?].stage)
    }

    /// What a session had under way is to be drawn back before it is known where it stands.
    pub(super) fn gather(&mut self, id: SessionId, mut entries: Vec<SentEntry>) {
        entries.sort_by_key(|entry| entry.sequence);
        let session = self.sessions.get(id);
        if session.is_some_and(|session| session.queue.is_spilling())
            && let Some(keeper) = &mut self.keeper
        {
            keeper.gathering.insert(id, entries);
            keeper.hungry.insert(id);
        } else {
            self.recover_sent(id, entries);
        }
    }

    /// All of that has been drawn, or there is no more.
    fn end_gathering(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let Some(entries) = keeper.gathering.get(&id) else {
            return;
        };
        let last = entries.last().map_or(0, |entry| entry.sequence);
        let queue = &session.queue;
        if (!queue.is_spilling() || queue.spilled_from() > last)
            && let Some(entries) = keeper.gathering.remove(&id)
        {
            self.recover_sent(id, entries);
        }
    }
}
