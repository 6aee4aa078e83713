//! What waits for a bridge, in two lanes, and what is under way.
//!
//! ```text
//! push ─► waiting, in a lane ── draw ─► drawn ── consume ─► gone
//!               ▲                         │
//!               └───────── rewind ────────┘
//! ```
//!
//! An entry is known by its sequence number, which grows with each push. It is gone only when it is
//! consumed, which the bridge does once the peer has acknowledged it; so whatever happens to a
//! connection, an entry that was drawn can be drawn again. Entries are in memory; what the bridge
//! asks of them is what a queue on disk can answer too: the front of a lane, by number, one at a
//! time.
//!
//! | lane | takes | order |
//! |---|---|---|
//! | live | what is pushed while the link is up | as pushed |
//! | backlog | what is pushed while it is down; what waits when it goes down or comes up; what is rewound; what must not pass an older entry of its topic ([`Lanes::One`]) | by sequence number |
//!
//! | limit | at the limit | counter |
//! |---|---|---|
//! | [`QueueLimits::bytes`], [`QueueLimits::messages`] | [`WhenFull`] | `dropped_full` |
//! | the memory budget | one that waits goes, and if that does not make room the new one | `dropped_over_budget` |
//! | [`QueueLimits::age`] | what is older is dropped when the queue is next looked at | `dropped_aged` |
//! | a message's own expiry | dropped when it would be drawn | `expired` |

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::settings::{Keep, Lanes, QueueLimits, WhenFull};
use crate::buffer::{Charge, Memory};
use crate::mqtt::ApplicationMessage;
use crate::rng::{HashMap, Rng};
use crate::time::{Instant, WallTime};

/// Names an entry; grows with each push, and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seq(pub u64);

/// One of the two queues in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Live,
    Backlog,
}

/// A message that waits, as its rule wants it sent; what the peer cannot take is seen to when it is
/// drawn.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// With the topic that it has upstream, the QoS of its rule, and RETAIN as published.
    pub message: Rc<ApplicationMessage>,
    /// Where it goes as backlog, if a peer cannot be told otherwise that it is.
    pub backlog_topic: Option<Box<str>>,
    pub keep: Keep,
    pub lanes: Lanes,
    /// When it came.
    pub at: Instant,
    /// The same for people; `None` if the clock was not set.
    pub time: Option<WallTime>,
}

/// Bytes of tables per entry and per topic: an estimate, made of what the maps keep.
const ENTRY_COST: usize = 160;

impl Entry {
    fn cost(&self) -> usize {
        // The topic once more, for the table of topics.
        let topics =
            self.message.topic().len() + self.backlog_topic.as_ref().map_or(0, |it| it.len());
        self.message.footprint() + topics + ENTRY_COST
    }
}

/// What was dropped, and why.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drops {
    pub full: u64,
    pub over_budget: u64,
    pub aged: u64,
    pub expired: u64,
    pub coalesced: u64,
    pub link_down: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// `None`: drawn.
    lane: Option<Lane>,
}

/// What is known of a topic while an entry has it.
#[derive(Debug, Default)]
struct Topic {
    /// Entries, waiting or drawn; not 0.
    count: usize,
    /// Of those that wait in the backlog.
    backlog: usize,
    /// The latest that was pushed with RETAIN, gone or not.
    newest_retained: Option<Seq>,
    /// The one that waits of a rule that keeps the latest.
    latest: Option<Seq>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    limits: QueueLimits,
    slots: BTreeMap<Seq, Slot>,
    /// Invariant: the entries of `slots` that wait in each lane.
    live: BTreeSet<Seq>,
    backlog: BTreeSet<Seq>,
    /// Invariant: what is said of each topic in [`Topic`].
    topics: HashMap<Box<str>, Topic>,
    next_seq: Seq,
    is_up: bool,
    /// Invariant: the cost of all entries.
    bytes: usize,
    memory: Memory,
    charge: Charge,
    drops: Drops,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits, memory: &Memory, rng: &mut Rng) -> Self {
        Self {
            limits,
            slots: BTreeMap::new(),
            live: BTreeSet::new(),
            backlog: BTreeSet::new(),
            topics: HashMap::with_hasher(rng.hash_state()),
            next_seq: Seq(1),
            is_up: false,
            bytes: 0,
            memory: memory.clone(),
            charge: memory.charge(0),
            drops: Drops::default(),
        }
    }

    /// From here on these limits hold; what is above them goes when the next entry comes.
    pub(super) fn set_limits(&mut self, limits: QueueLimits) {
        self.limits = limits;
    }

    /// The link is up, or down. Either way what waits is backlog from here on; when it goes down,
    /// what nobody wants kept is dropped.
    pub(super) fn set_up(&mut self, is_up: bool) {
        self.is_up = is_up;
        for seq in core::mem::take(&mut self.live) {
            self.backlog.insert(seq);
            let slot = self.slots.get_mut(&seq).expect("lanes name what is there");
            slot.lane = Some(Lane::Backlog);
            let topic = self.topics.get_mut(slot.entry.message.topic());
            topic.expect("an entry's topic is known").backlog += 1;
        }
        if !is_up {
            let unkept: Vec<_> = self
                .backlog
                .iter()
                .filter(|seq| self.slots[seq].entry.keep == Keep::Nothing)
                .copied()
                .collect();
            for seq in unkept {
                self.remove(seq);
                self.drops.link_down += 1;
            }
        }
        self.settle();
    }

    /// Takes an entry in. What it becomes is counted, whatever it is.
    pub(super) fn push(&mut self, now: Instant, entry: Entry) {
        self.drop_aged(now);
        if !self.is_up && entry.keep == Keep::Nothing {
            self.drops.link_down += 1;
            return;
        }
        if entry.keep == Keep::Latest && self.replace(&entry) {
            self.settle();
            return;
        }
        if self.make_room(entry.cost()) {
            self.insert(entry);
        }
        self.settle();
    }

    /// The first entry of a lane that is still worth sending.
    pub(super) fn front(&mut self, now: Instant, lane: Lane) -> Option<(Seq, &Entry)> {
        self.drop_aged(now);
        loop {
            let seq = *self.lane(lane).first()?;
            if self.slots[&seq].entry.message.is_expired(now) {
                self.remove(seq);
                self.settle();
                self.drops.expired += 1;
                continue;
            }
            return Some((seq, &self.slots[&seq].entry));
        }
    }

    /// An entry that waits is under way.
    pub(super) fn draw(&mut self, seq: Seq) {
        self.unlink(seq);
        debug_assert!(self.slots.contains_key(&seq), "what is drawn was waiting");
    }

    /// An entry is done with.
    pub(super) fn consume(&mut self, seq: Seq) {
        self.remove(seq);
        self.settle();
    }

    /// An entry that was drawn is to be drawn again.
    pub(super) fn rewind(&mut self, seq: Seq) {
        let Some(slot) = self.slots.get_mut(&seq) else {
            return;
        };
        debug_assert!(slot.lane.is_none(), "what is rewound was drawn");
        slot.lane = Some(Lane::Backlog);
        let is_latest = slot.entry.keep == Keep::Latest;
        let name = slot.entry.message.topic();
        let topic = self
            .topics
            .get_mut(name)
            .expect("an entry's topic is known");
        topic.backlog += 1;
        self.backlog.insert(seq);
        if is_latest {
            if topic.latest.is_none() {
                topic.latest = Some(seq);
            } else {
                // A later one waits already.
                self.remove(seq);
                self.drops.coalesced += 1;
            }
        }
        self.settle();
    }

    /// Whether a retained message was pushed for this entry's topic after it.
    pub(super) fn is_superseded(&self, seq: Seq) -> bool {
        let topic = self.slots.get(&seq).map(|slot| slot.entry.message.topic());
        topic
            .and_then(|topic| self.topics.get(topic)?.newest_retained)
            .is_some_and(|newest| newest > seq)
    }

    pub(super) fn is_down(&self) -> bool {
        !self.is_up
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.slots.get(&seq).map(|slot| &slot.entry)
    }

    /// Whether nothing waits.
    pub(super) fn is_drained(&self) -> bool {
        self.live.is_empty() && self.backlog.is_empty()
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Entries, waiting or under way.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Those that wait in the backlog.
    pub(super) fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// Bytes of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest entry came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.slots.values().next().map(|slot| slot.entry.at)
    }

    pub(super) fn drops(&self) -> Drops {
        self.drops
    }

    fn lane(&self, lane: Lane) -> &BTreeSet<Seq> {
        match lane {
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
        }
    }

    fn insert(&mut self, entry: Entry) {
        let seq = self.next_seq;
        self.next_seq = Seq(seq.0 + 1);
        self.bytes += entry.cost();
        let name = entry.message.topic();
        if !self.topics.contains_key(name) {
            self.topics.insert(name.into(), Topic::default());
        }
        let topic = self.topics.get_mut(name).expect("it was made just now");
        let is_behind = entry.lanes == Lanes::One && topic.backlog > 0;
        let lane = if self.is_up && !is_behind {
            self.live.insert(seq);
            Lane::Live
        } else {
            self.backlog.insert(seq);
            topic.backlog += 1;
            Lane::Backlog
        };
        topic.count += 1;
        if entry.message.retain() {
            topic.newest_retained = Some(seq);
        }
        if entry.keep == Keep::Latest {
            topic.latest = Some(seq);
        }
        let lane = Some(lane);
        self.slots.insert(seq, Slot { entry, lane });
    }

    /// Puts the latest message of a topic in the place of the one before it, if that waits. In the
    /// live lane it keeps its place, for a topic that changes often is not to wait longest; from
    /// the backlog it is taken out, and the new one is pushed.
    fn replace(&mut self, entry: &Entry) -> bool {
        let topic = self.topics.get(entry.message.topic());
        let Some(seq) = topic.and_then(|topic| topic.latest) else {
            return false;
        };
        self.drops.coalesced += 1;
        if !self.live.contains(&seq) {
            self.remove(seq);
            return false;
        }
        let slot = self.slots.get_mut(&seq).expect("lanes name what is there");
        self.bytes = self.bytes - slot.entry.cost() + entry.cost();
        slot.entry = entry.clone();
        let topic = self.topics.get_mut(entry.message.topic());
        if entry.message.retain()
            && let Some(topic) = topic
        {
            topic.newest_retained = topic.newest_retained.max(Some(seq));
        }
        true
    }

    /// Whether there is room for an entry of this cost, after what the limits ask for.
    fn make_room(&mut self, cost: usize) -> bool {
        let QueueLimits {
            bytes, messages, ..
        } = self.limits;
        if cost as u64 > bytes {
            self.drops.full += 1;
            return false;
        }
        while self.bytes.saturating_add(cost) as u64 > bytes
            || messages.is_some_and(|most| self.slots.len() as u64 >= most)
        {
            self.drops.full += 1;
            let oldest = match self.limits.when_full {
                WhenFull::DropOldest => self.oldest_waiting(),
                WhenFull::DropNewest => None,
            };
            let Some(oldest) = oldest else {
                return false;
            };
            self.remove(oldest);
        }
        let mut freed = 0;
        self.settle();
        while !self.memory.has_room(cost) {
            // It is not this queue alone that fills the memory: it gives back as much as it takes.
            self.drops.over_budget += 1;
            match self.oldest_waiting() {
                Some(oldest) if freed < cost => {
                    freed += self.slots[&oldest].entry.cost();
                    self.remove(oldest);
                    self.settle();
                }
                _ => return false,
            }
        }
        true
    }

    fn oldest_waiting(&self) -> Option<Seq> {
        let (live, backlog) = (self.live.first(), self.backlog.first());
        live.into_iter().chain(backlog).min().copied()
    }

    fn drop_aged(&mut self, now: Instant) {
        let Some(age) = self.limits.age else {
            return;
        };
        while let Some(oldest) = self.oldest_waiting()
            && self.slots[&oldest].entry.at + age <= now
        {
            self.remove(oldest);
            self.settle();
            self.drops.aged += 1;
        }
    }

    /// Takes an entry out of its lane.
    fn unlink(&mut self, seq: Seq) {
        let Some(slot) = self.slots.get_mut(&seq) else {
            return;
        };
        let lane = slot.lane.take();
        let topic = self.topics.get_mut(slot.entry.message.topic());
        let topic = topic.expect("an entry's topic is known");
        if topic.latest == Some(seq) {
            topic.latest = None;
        }
        match lane {
            None => {}
            Some(Lane::Live) => {
                self.live.remove(&seq);
            }
            Some(Lane::Backlog) => {
                self.backlog.remove(&seq);
                topic.backlog -= 1;
            }
        }
    }

    fn remove(&mut self, seq: Seq) {
        self.unlink(seq);
        let Some(Slot { entry, .. }) = self.slots.remove(&seq) else {
            return;
        };
        self.bytes -= entry.cost();
        let name = entry.message.topic();
        let topic = self
            .topics
            .get_mut(name)
            .expect("an entry's topic is known");
        topic.count -= 1;
        if topic.count == 0 {
            self.topics.remove(name);
        }
    }

    /// Tells the memory's account what is held.
    fn settle(&mut self) {
        self.charge.set(self.bytes);
        self.check_invariants();
    }

    fn check_invariants(&self) {
        // Looking at all of it each time would make a long queue's tests slow for no news.
        if !cfg!(debug_assertions) || self.slots.len() > 64 {
            return;
        }
        let in_lane = |lane| {
            let slots = self.slots.iter();
            slots
                .filter(move |(_, slot)| slot.lane == Some(lane))
                .map(|(seq, _)| seq)
        };
        debug_assert!(in_lane(Lane::Live).eq(&self.live));
        debug_assert!(in_lane(Lane::Backlog).eq(&self.backlog));
        let bytes: usize = self.slots.values().map(|slot| slot.entry.cost()).sum();
        debug_assert_eq!(self.bytes, bytes);
        let counts: usize = self.topics.values().map(|topic| topic.count).sum();
        debug_assert_eq!(counts, self.slots.len());
        let backlog: usize = self.topics.values().map(|topic| topic.backlog).sum();
        debug_assert_eq!(backlog, self.backlog.len());
        debug_assert!(self.next_seq > self.slots.keys().next_back().copied().unwrap_or(Seq(0)));
        debug_assert!(
            self.is_up || self.live.is_empty(),
            "nothing is live while the link is down"
        );
        for topic in self.topics.values() {
            debug_assert!(
                topic
                    .latest
                    .is_none_or(|seq| self.slots[&seq].lane.is_some())
            );
        }
    }
}
