//! How far messages of QoS 2 are that go up or come down, in the journal.
//!
//! | kept | as | until |
//! |---|---|---|
//! | a message that is sent to a peer | key [`BRIDGE_SENT`], by queue and number: version 1, flags (1: PUBREC has come, 2: it is sent as a live one), packet identifier u16 | PUBCOMP |
//! | that messages are through | key [`BRIDGE_OVER`], by queue and number / 512: version 1, a bit for each of 512 numbers | everything up to the last of them is done with |
//! | a message that a peer has sent | the broker's key [`KeyKind::Brought`], in the record of the message | PUBREL |
//!
//! What is durable of a queue's consumption is a number below which everything is consumed. So a
//! message that is through while an older one waits comes back after a power cut, and only its bit
//! keeps it from being sent a second time. There are as many such records as there are 512 numbers
//! from the oldest that waits to the latest that is through.

use std::collections::{BTreeMap, BTreeSet};

use super::Gateway;
use crate::bridge::{Kept, Note, Underway};
use crate::broker::keep::KeyKind;
use crate::broker::settings::Level;
use crate::id::{BridgeId, Lsn, QueueId};
use crate::journal::{Class, Journal, Key, Target};
use crate::mqtt::PacketId;
use crate::time::Now;

/// The kind of keys that say how far a message is on its way to a peer.
pub(in crate::gateway) const BRIDGE_SENT: u8 = 19;

/// The kind of keys that say which messages are through.
pub(in crate::gateway) const BRIDGE_OVER: u8 = 20;

/// Numbers in a record of what is through.
const BLOCK: u64 = 512;

/// The version of what is written here.
const VERSION: u8 = 1;

/// How far messages are of one bridge.
#[derive(Debug, Default)]
pub(super) struct Steps {
    sent: BTreeMap<u64, Sent>,
    over: BTreeMap<u64, [u8; BLOCK as usize / 8]>,
    /// What the peer is to release.
    pub(super) received: BTreeSet<PacketId>,
    /// Messages that are through, of which the journal did not take that.
    untold: BTreeSet<u64>,
}

/// How far a message is on its way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    packet_id: PacketId,
    is_released: bool,
    is_live: bool,
}

impl Steps {
    /// Puts what is known into what a bridge begins with.
    pub(super) fn tell(&self, kept: &mut Kept) {
        for (sequence, sent) in &self.sent {
            let underway = Underway {
                sequence: *sequence,
                packet_id: sent.packet_id,
                is_live: sent.is_live,
            };
            if sent.is_released {
                kept.released.push(underway);
            } else {
                kept.published.push(underway);
            }
        }
        kept.received = self.received.iter().copied().collect();
    }

    pub(super) fn is_over(&self, sequence: u64) -> bool {
        let block = self.over.get(&(sequence / BLOCK));
        block.is_some_and(|bits| {
            let (byte, bit) = place_of(sequence);
            bits[byte] & bit != 0
        })
    }

    pub(super) fn has_marks(&self) -> bool {
        !self.over.is_empty()
    }

    /// A message is through, and `first` the first that is not.
    pub(super) fn end(
        &mut self,
        now: Now,
        journal: &mut Journal,
        (queue, sequence): (QueueId, u64),
        first: u64,
    ) {
        if !self.sent.contains_key(&sequence) {
            return;
        }
        if sequence >= first && !self.mark(now, journal, queue, sequence) {
            // As long as its identifier is known to be used, it is not sent again either.
            self.untold.insert(sequence);
            return;
        }
        self.sent.remove(&sequence);
        journal.delete(now, sent_key(queue, sequence), Class::Lazy);
    }

    /// Notes that a message is through; whether that was taken.
    fn mark(&mut self, now: Now, journal: &mut Journal, queue: QueueId, sequence: u64) -> bool {
        let number = sequence / BLOCK;
        let bits = self.over.entry(number).or_insert([0; _]);
        let (byte, bit) = place_of(sequence);
        bits[byte] |= bit;
        let target = Target::Key {
            key: over_key(queue, number),
            note: &[],
        };
        let body: [&[u8]; 2] = [&[VERSION], bits];
        let appended = journal.append_needed(now, &[target], &body, Class::Lazy);
        appended.is_ok()
    }

    /// Everything below `first` is done with.
    pub(super) fn forget_below(
        &mut self,
        now: Now,
        journal: &mut Journal,
        queue: QueueId,
        first: u64,
    ) {
        let others = self.over.split_off(&(first / BLOCK));
        for number in core::mem::replace(&mut self.over, others).into_keys() {
            journal.delete(now, over_key(queue, number), Class::Lazy);
        }
    }

    /// Forgets everything, with its queue.
    pub(super) fn drop(self, now: Now, journal: &mut Journal, queue: QueueId) {
        for sequence in self.sent.into_keys() {
            journal.delete(now, sent_key(queue, sequence), Class::Lazy);
        }
        for number in self.over.into_keys() {
            journal.delete(now, over_key(queue, number), Class::Lazy);
        }
        for packet_id in self.received {
            journal.delete(now, received_key(queue, packet_id), Class::Lazy);
        }
    }

    fn recover(&mut self, key: Key, body: &[u8]) -> Option<()> {
        if key.kind == KeyKind::Brought as u8 {
            self.received.insert(PacketId::new(key.sub as u16)?);
            return Some(());
        }
        let (version, body) = body.split_first()?;
        if *version != VERSION {
            return None;
        }
        match (key.kind, body) {
            (BRIDGE_SENT, [flags, low, high]) => {
                let sent = Sent {
                    packet_id: PacketId::new(u16::from_le_bytes([*low, *high]))?,
                    is_released: flags & 1 != 0,
                    is_live: flags & 2 != 0,
                };
                self.sent.insert(key.sub, sent);
            }
            (BRIDGE_OVER, bits) => {
                self.over.insert(key.sub, bits.try_into().ok()?);
            }
            _ => return None,
        }
        Some(())
    }
}

impl super::Bridges {
    /// A record of the journal about a step.
    pub(in crate::gateway) fn recover_step(&mut self, key: Key, body: &[u8]) {
        let steps = self.steps.entry(QueueId(key.id)).or_default();
        if steps.recover(key, body).is_none() {
            log::error!("journal: a step of queue {} cannot be read", key.id);
        }
    }
}

/// Whether a key is about a step.
pub(in crate::gateway) fn is_step(key: Key) -> bool {
    [BRIDGE_SENT, BRIDGE_OVER, KeyKind::Brought as u8].contains(&key.kind)
}

impl Gateway {
    /// A bridge wants a step noted.
    pub(super) fn note_step(&mut self, now: Now, id: BridgeId, note: Note) {
        let level = self.broker.session_level();
        let link = self.bridges.links.get_mut(id);
        let (Some(link), Some(durable)) = (link, &mut self.durable) else {
            return;
        };
        let Some(queue) = link.queue else {
            return;
        };
        let (class, is_awaited) = match level {
            Some(Level::Interval(within)) => (Class::Interval(within), false),
            Some(Level::Strict) => (Class::Strict, true),
            Some(Level::None) | None => (Class::Lazy, false),
        };
        let steps = self.bridges.steps.entry(queue).or_default();
        let journal = &mut durable.journal;
        let mut put = |underway: Underway, is_released| {
            let key = sent_key(queue, underway.sequence);
            let target = Target::Key { key, note: &[] };
            let sent = Sent {
                packet_id: underway.packet_id,
                is_released,
                is_live: underway.is_live,
            };
            let body = sent.encode();
            let appended = journal.append_needed(now, &[target], &[&body], class);
            if let Err(refused) = &appended {
                log::warn!("a step of a bridge is not kept: {refused:?}");
            } else {
                steps.sent.insert(underway.sequence, sent);
            }
            appended.ok()
        };
        let lsn = match note {
            Note::Published(underway) => put(underway, false),
            Note::Released(underway) => put(underway, true),
            Note::Forgotten { sequence } => {
                steps.sent.remove(&sequence);
                journal.delete(now, sent_key(queue, sequence), Class::Lazy);
                Some(Lsn(0))
            }
            Note::Completed { packet_id } => {
                let is_known = steps.received.remove(&packet_id);
                let key = received_key(queue, packet_id);
                is_known
                    .then(|| journal.delete(now, key, class))
                    .or(Some(Lsn(0)))
            }
            Note::SessionLost => {
                let received = core::mem::take(&mut steps.received).into_iter();
                let ends = received.map(|it| journal.delete(now, received_key(queue, it), class));
                ends.last().or(Some(Lsn(0)))
            }
        };
        let lsn = lsn.map(|lsn| if is_awaited { lsn } else { Lsn(0) });
        if lsn.is_some_and(|lsn| lsn > Lsn(0)) {
            durable.wait();
        }
        link.bridge.handle_noted(now.monotonic, note, lsn);
    }

    /// The journal has room again.
    pub(super) fn try_steps_again(&mut self, now: Now) {
        for (_, link) in self.bridges.links.iter_mut() {
            link.bridge.try_notes_again();
            let (Some(queue), Some(durable)) = (link.queue, &mut self.durable) else {
                continue;
            };
            let Some(steps) = self.bridges.steps.get_mut(&queue) else {
                continue;
            };
            let first = link.bridge.first_unfinished();
            for sequence in core::mem::take(&mut steps.untold) {
                steps.end(now, &mut durable.journal, (queue, sequence), first);
            }
        }
    }

    /// A bridge has another queue: of what is under way only the identifiers are left.
    pub(super) fn move_steps(&mut self, now: Now, old: QueueId, queue: QueueId) {
        let (Some(steps), Some(durable)) = (self.bridges.steps.remove(&old), self.durable.as_mut())
        else {
            return;
        };
        let journal = &mut durable.journal;
        let mut moved = Steps {
            received: steps.received.clone(),
            ..Steps::default()
        };
        for (sequence, sent) in &steps.sent {
            let is_released = true;
            let sent = Sent {
                is_released,
                ..*sent
            };
            moved.sent.insert(*sequence, sent);
        }
        let sent = moved.sent.iter();
        let sent = sent.map(|(sequence, sent)| {
            let key = sent_key(queue, *sequence);
            (key, sent.encode().to_vec())
        });
        let received = moved.received.iter();
        let received = received.map(|it| (received_key(queue, *it), vec![VERSION]));
        for (key, body) in sent.chain(received) {
            let target = Target::Key { key, note: &[] };
            if let Err(refused) = journal.append_needed(now, &[target], &[&body], Class::Strict) {
                log::warn!("a step of a bridge is not kept: {refused:?}");
            }
        }
        steps.drop(now, journal, old);
        self.bridges.steps.insert(queue, moved);
        durable.wait();
    }
}

impl Sent {
    fn encode(self) -> [u8; 4] {
        let [low, high] = self.packet_id.value().to_le_bytes();
        let flags = u8::from(self.is_released) | u8::from(self.is_live) << 1;
        [VERSION, flags, low, high]
    }
}

fn place_of(sequence: u64) -> (usize, u8) {
    let at = (sequence % BLOCK) as usize;
    (at / 8, 1 << (at % 8))
}

fn sent_key(queue: QueueId, sequence: u64) -> Key {
    Key {
        kind: BRIDGE_SENT,
        id: queue.0,
        sub: sequence,
    }
}

fn over_key(queue: QueueId, number: u64) -> Key {
    Key {
        kind: BRIDGE_OVER,
        id: queue.0,
        sub: number,
    }
}

fn received_key(queue: QueueId, packet_id: PacketId) -> Key {
    Key {
        kind: KeyKind::Brought as u8,
        id: queue.0,
        sub: packet_id.value().into(),
    }
}
