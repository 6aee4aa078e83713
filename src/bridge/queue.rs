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
//! connection, an entry that was drawn can be drawn again.
//!
//! An entry may be *kept*: it is in a journal too, under its number, until [`Queue::poll_consumed`]
//! says that it is done with. Of those not all are in memory: beyond a window they are *spilled*,
//! which means that they are counted here and brought back in their order ([`Queue::wanted`],
//! [`Queue::restore`]) when the window has room. All of the backlog that is in memory and lies
//! before the first that is spilled goes first.
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
//! | [`WINDOW`] entries or [`WINDOW_BYTES`] of a lane, of what is kept | spilled | |
//! | [`TOPICS_MAX`] topics of which it is remembered that a newer value was sent, while something is spilled | those of which nothing is in memory are forgotten | |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::Place;
use super::settings::{Keep, Lanes, QueueLimits, WhenFull};
use crate::buffer::{Charge, Memory};
use crate::id::Lsn;
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

/// Entries of one lane that are in memory, of what is kept.
pub(super) const WINDOW: usize = 256;

/// The same in bytes.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;

/// Topics that are remembered while something is spilled.
pub(super) const TOPICS_MAX: usize = 65_536;

/// Bytes of tables per entry and per topic: an estimate, made of what the maps keep.
const ENTRY_COST: usize = 160;

/// Bytes that the journal has around an entry's content, and in the list of its places: somewhat
/// more than they are, so that what the limits allow fits into a journal that was made for them.
const RECORD_COST: usize = 80;

impl Entry {
    fn cost(&self) -> usize {
        // The topic once more, for the table of topics.
        let topics =
            self.message.topic().len() + self.backlog_topic.as_ref().map_or(0, |it| it.len());
        self.message.footprint() + topics + ENTRY_COST
    }

    /// What it counts while it is in the journal alone.
    fn cost_on_disk(&self) -> usize {
        self.message.content_len() + RECORD_COST
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
    pub unkept: u64,
    pub discarded: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// `None`: drawn.
    lane: Option<Lane>,
    /// Its place in the live lane, if it is there.
    order: Seq,
    /// It is in the journal too.
    is_kept: bool,
    /// It is not to be drawn before this is synced.
    held_until: Lsn,
    /// A newer value of its topic was there already when it came back.
    is_superseded: bool,
}

/// Whether an entry is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    No,
    /// And is not to be drawn before this is synced.
    Until(Lsn),
}

/// What is known of a topic while an entry has it, or may have it that is spilled.
#[derive(Debug, Default)]
struct Topic {
    /// Entries, waiting or drawn.
    count: usize,
    /// Of those that wait in the backlog.
    backlog: usize,
    /// The latest that was pushed, gone or not.
    newest: Option<Seq>,
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
    /// Invariant: the entries of `slots` that wait in each lane; the live ones by their place.
    live: BTreeMap<Seq, Seq>,
    backlog: BTreeSet<Seq>,
    /// Invariant: what is said of each topic in [`Topic`].
    topics: HashMap<Box<str>, Topic>,
    next_seq: Seq,
    is_up: bool,
    /// Invariant: the cost of all entries in memory.
    bytes: usize,
    /// Of those, that wait in the live lane.
    live_bytes: usize,
    /// Entries that are in the journal alone, and about their bytes.
    spilled: u64,
    spilled_bytes: u64,
    /// None of them is below this.
    spilled_from: Seq,
    /// Changes up to this are on the disk.
    synced: Lsn,
    /// Entries of changes that may not be, and whether they are spilled.
    unsynced: VecDeque<(Lsn, Seq, bool)>,
    /// Entries that the journal need not keep any more.
    consumed: Vec<u64>,
    memory: Memory,
    charge: Charge,
    drops: Drops,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits, memory: &Memory, rng: &mut Rng) -> Self {
        Self {
            limits,
            slots: BTreeMap::new(),
            live: BTreeMap::new(),
            backlog: BTreeSet::new(),
            topics: HashMap::with_hasher(rng.hash_state()),
            next_seq: Seq(1),
            is_up: false,
            bytes: 0,
            live_bytes: 0,
            spilled: 0,
            spilled_bytes: 0,
            spilled_from: Seq(0),
            synced: Lsn(0),
            unsynced: VecDeque::new(),
            consumed: Vec::new(),
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
        self.live_bytes = 0;
        for seq in core::mem::take(&mut self.live).into_values() {
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

    /// Takes an entry in. What it becomes is counted, whatever it is. One without a place is not
    /// kept.
    pub(super) fn push(&mut self, now: Instant, entry: Entry, place: Option<Place>) {
        self.drop_aged(now);
        let seq = self.number(place);
        let lsn = place.and_then(|place| place.lsn);
        if !self.is_up && entry.keep == Keep::Nothing {
            self.drops.link_down += 1;
            self.let_go(seq, lsn.is_some());
            return;
        }
        let order = match entry.keep {
            Keep::Latest => self.replace(&entry),
            Keep::All | Keep::Nothing => None,
        };
        let is_spilled = lsn.is_some()
            && entry.keep == Keep::All
            && (self.is_window_full(&entry) || !self.memory.has_room(entry.cost()));
        let cost = if is_spilled {
            entry.cost_on_disk()
        } else {
            entry.cost()
        };
        if !self.make_room(cost, is_spilled) {
            self.let_go(seq, lsn.is_some());
        } else if is_spilled {
            self.note_topic(seq, &entry);
            if self.spilled == 0 {
                self.spilled_from = seq;
            }
            self.spilled += 1;
            self.spilled_bytes += cost as u64;
            self.unsynced.extend(lsn.map(|lsn| (lsn, seq, true)));
        } else {
            let is_held = place.is_some_and(|place| place.is_held);
            let kept = match lsn {
                None => Kept::No,
                Some(lsn) => Kept::Until(if is_held { lsn } else { Lsn(0) }),
            };
            let lane = self.lane_of(&entry);
            self.insert(seq, entry, lane, order.unwrap_or(seq), kept);
            self.unsynced.extend(lsn.map(|lsn| (lsn, seq, false)));
        }
        self.settle();
    }

    /// The number of an entry that is given one, or takes the next.
    pub(super) fn number(&mut self, place: Option<Place>) -> Seq {
        let seq = place.map_or(self.next_seq, |place| Seq(place.sequence));
        debug_assert!(seq >= self.next_seq, "numbers grow");
        self.next_seq = Seq(seq.0 + 1);
        seq
    }

    /// An entry that was never taken in is not to be kept any longer either.
    pub(super) fn let_go(&mut self, seq: Seq, is_kept: bool) {
        if is_kept {
            self.consumed.push(seq.0);
        }
    }

    /// So many entries are in the journal from before, below `next`.
    pub(super) fn recover(&mut self, entries: u64, bytes: u64, next: u64) {
        debug_assert!(self.slots.is_empty(), "before anything is pushed");
        self.spilled = entries;
        self.spilled_bytes = bytes;
        self.spilled_from = Seq(0);
        self.next_seq = Seq(next);
    }

    /// Whether the window has room for what is spilled, and from which number on that is.
    pub(super) fn wanted(&self) -> Option<u64> {
        if self.spilled == 0 {
            return None;
        }
        let before = self.backlog.range(..self.spilled_from).count();
        let has_room = before < WINDOW / 2
            && (self.bytes - self.live_bytes < WINDOW_BYTES || before == 0)
            && (before == 0 || self.memory.has_room(WINDOW_BYTES / 64));
        has_room.then_some(self.spilled_from.0)
    }

    /// An entry comes back that was spilled, or one that is here already. `entry` is `None` if
    /// nothing is to be made of it, for its age (`is_aged`) or because nobody takes it. Whether it
    /// `is_superseded` is not known here: a newer value may have been sent by an earlier process.
    pub(super) fn restore(
        &mut self,
        seq: Seq,
        entry: Option<Entry>,
        is_aged: bool,
        is_superseded: bool,
    ) {
        if seq < self.spilled_from {
            return;
        }
        self.spilled_from = Seq(seq.0 + 1);
        if self.slots.contains_key(&seq) {
            return;
        }
        self.unspill();
        let newer = entry.as_ref().and_then(|entry| {
            let topic = self.topics.get(entry.message.topic())?;
            topic.newest.filter(|newest| *newest > seq)
        });
        match entry {
            None => {
                self.drops.aged += u64::from(is_aged);
                self.let_go(seq, true);
            }
            Some(entry) if entry.keep == Keep::Latest && newer.is_some() => {
                self.drops.coalesced += 1;
                self.let_go(seq, true);
            }
            Some(entry) => {
                if entry.keep == Keep::Latest {
                    self.replace(&entry);
                }
                let held_until = self.change_of(seq);
                let kept = Kept::Until(held_until);
                self.insert(seq, entry, Lane::Backlog, seq, kept);
                if let Some(slot) = self.slots.get_mut(&seq) {
                    slot.is_superseded = is_superseded;
                }
            }
        }
        self.forget_topics();
        self.settle();
    }

    /// One entry less is spilled, of as many bytes as they have on average.
    fn unspill(&mut self) {
        self.spilled_bytes -= self.spilled_bytes / self.spilled.max(1);
        self.spilled = self.spilled.saturating_sub(1);
    }

    /// An entry comes back, out of turn, that an earlier process has drawn.
    pub(super) fn restore_drawn(&mut self, seq: Seq, entry: Entry, is_superseded: bool) {
        debug_assert!(!self.slots.contains_key(&seq), "it comes back once");
        self.unspill();
        self.insert(seq, entry, Lane::Backlog, seq, Kept::Until(Lsn(0)));
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.is_superseded = is_superseded;
        }
        self.draw(seq);
        self.forget_topics();
        self.settle();
    }

    /// Nothing below this is waiting or under way.
    pub(super) fn first_unfinished(&self) -> u64 {
        let spilled = (self.spilled > 0).then_some(self.spilled_from);
        let first = self.slots.keys().next().copied().into_iter().chain(spilled);
        first.min().unwrap_or(self.next_seq).0
    }

    pub(super) fn next_number(&self) -> u64 {
        self.next_seq.0
    }

    /// Forgets everything that waits.
    pub(super) fn drop_waiting(&mut self) {
        while let Some(seq) = self.oldest_waiting() {
            self.remove(seq);
            self.drops.discarded += 1;
        }
        self.drops.discarded += self.spilled;
        self.unsynced.retain(|(.., is_spilled)| !is_spilled);
        self.nothing_is_spilled();
    }

    /// Nothing is spilled any more, whatever was counted.
    pub(super) fn nothing_is_spilled(&mut self) {
        self.spilled = 0;
        self.spilled_bytes = 0;
        self.forget_topics();
        self.settle();
    }

    /// Changes up to `synced` are on the disk; whether something waited for that.
    pub(super) fn handle_synced(&mut self, synced: Lsn) -> bool {
        self.synced = synced;
        let mut is_news = false;
        while self
            .unsynced
            .front()
            .is_some_and(|(lsn, ..)| *lsn <= synced)
        {
            self.unsynced.pop_front();
            is_news = true;
        }
        is_news
    }

    /// A change is not kept. If somebody waits for it (`is_awaited`), the message comes again; if
    /// not, it stays as long as the process does, unless it is in no window.
    pub(super) fn handle_unkept(&mut self, lsn: Lsn, is_awaited: bool) {
        let unsynced = core::mem::take(&mut self.unsynced).into_iter();
        let (gone, others): (VecDeque<_>, _) = unsynced.partition(|(it, ..)| *it == lsn);
        self.unsynced = others;
        for (_, seq, is_spilled) in gone {
            if is_spilled {
                self.unspill();
                self.drops.unkept += u64::from(!is_awaited);
            } else if let Some(slot) = self.slots.get_mut(&seq) {
                slot.is_kept = false;
                slot.held_until = Lsn(0);
                if is_awaited {
                    self.remove(seq);
                }
            }
        }
        self.forget_topics();
        self.settle();
    }

    /// The next entry that the journal need not keep any more.
    pub(super) fn poll_consumed(&mut self) -> Option<u64> {
        self.consumed.pop()
    }

    /// The change that keeps an entry, if it may not be on the disk.
    fn change_of(&self, seq: Seq) -> Lsn {
        let at = self.unsynced.partition_point(|(_, it, _)| *it < seq);
        let found = self.unsynced.get(at).filter(|(_, it, _)| *it == seq);
        found.map_or(Lsn(0), |(lsn, ..)| *lsn)
    }

    /// Whether an entry that is kept is to be spilled.
    fn is_window_full(&self, entry: &Entry) -> bool {
        match self.lane_of(entry) {
            // What is spilled goes before it.
            Lane::Backlog => {
                self.spilled > 0
                    || self.backlog.len() >= WINDOW
                    || self.bytes - self.live_bytes >= WINDOW_BYTES
            }
            Lane::Live => self.live.len() >= 4 * WINDOW || self.live_bytes >= 4 * WINDOW_BYTES,
        }
    }

    fn lane_of(&self, entry: &Entry) -> Lane {
        let topic = self.topics.get(entry.message.topic());
        let has_backlog = self.spilled > 0 || topic.is_some_and(|topic| topic.backlog > 0);
        if self.is_up && !(entry.lanes == Lanes::One && has_backlog) {
            Lane::Live
        } else {
            Lane::Backlog
        }
    }

    /// The first entry of a lane that is still worth sending.
    pub(super) fn front(&mut self, now: Instant, lane: Lane) -> Option<(Seq, &Entry)> {
        self.drop_aged(now);
        loop {
            let seq = self.first(lane)?;
            let is_behind = lane == Lane::Backlog && self.spilled > 0 && seq >= self.spilled_from;
            if is_behind || self.slots[&seq].held_until > self.synced {
                return None;
            }
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
        let Some(slot) = self.slots.get(&seq) else {
            return false;
        };
        let topic = self.topics.get(slot.entry.message.topic());
        let newest = topic.and_then(|topic| topic.newest_retained);
        slot.is_superseded || newest.is_some_and(|newest| newest > seq)
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
    pub(super) fn len(&self) -> u64 {
        self.slots.len() as u64 + self.spilled
    }

    /// Those that wait in the backlog.
    pub(super) fn backlog_len(&self) -> u64 {
        self.backlog.len() as u64 + self.spilled
    }

    /// Those that are in the journal alone.
    pub(super) fn spilled(&self) -> u64 {
        self.spilled
    }

    /// Bytes of all entries, as far as that is known of those that are not in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64 + self.spilled_bytes
    }

    /// When the oldest entry came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.slots.values().next().map(|slot| slot.entry.at)
    }

    pub(super) fn drops(&self) -> Drops {
        self.drops
    }

    fn first(&self, lane: Lane) -> Option<Seq> {
        match lane {
            Lane::Live => self.live.values().next().copied(),
            Lane::Backlog => self.backlog.first().copied(),
        }
    }

    /// Takes an entry into memory. `order` is its place in the live lane.
    fn insert(&mut self, seq: Seq, entry: Entry, lane: Lane, order: Seq, kept: Kept) {
        self.bytes += entry.cost();
        self.note_topic(seq, &entry);
        let topic = self.topics.get_mut(entry.message.topic());
        let topic = topic.expect("it was noted just now");
        topic.count += 1;
        match lane {
            Lane::Live => {
                self.live.insert(order, seq);
                self.live_bytes += entry.cost();
            }
            Lane::Backlog => {
                self.backlog.insert(seq);
                topic.backlog += 1;
            }
        }
        if entry.keep == Keep::Latest {
            topic.latest = Some(seq);
        }
        let slot = Slot {
            entry,
            lane: Some(lane),
            order,
            is_kept: kept != Kept::No,
            held_until: match kept {
                Kept::No => Lsn(0),
                Kept::Until(lsn) => lsn,
            },
            is_superseded: false,
        };
        self.slots.insert(seq, slot);
    }

    /// Remembers that an entry's topic was pushed.
    fn note_topic(&mut self, seq: Seq, entry: &Entry) {
        let name = entry.message.topic();
        if !self.topics.contains_key(name) {
            if self.spilled > 0 && self.topics.len() >= TOPICS_MAX {
                self.topics.retain(|_, topic| topic.count > 0);
            }
            self.topics.insert(name.into(), Topic::default());
        }
        let topic = self.topics.get_mut(name).expect("it was made just now");
        topic.newest = topic.newest.max(Some(seq));
        if entry.message.retain() {
            topic.newest_retained = topic.newest_retained.max(Some(seq));
        }
    }

    /// When nothing is spilled, a topic without an entry in memory has none.
    fn forget_topics(&mut self) {
        if self.spilled == 0 {
            self.spilled_bytes = 0;
            self.topics.retain(|_, topic| topic.count > 0);
        }
    }

    /// Takes out the latest message of a topic, if it waits: there is a later one. In the live lane
    /// that gets its place, for a topic that changes often is not to wait longest.
    fn replace(&mut self, entry: &Entry) -> Option<Seq> {
        let topic = self.topics.get(entry.message.topic());
        let seq = topic.and_then(|topic| topic.latest)?;
        let slot = &self.slots[&seq];
        let order = (slot.lane == Some(Lane::Live)).then_some(slot.order);
        self.drops.coalesced += 1;
        self.remove(seq);
        order
    }

    /// Whether there is room for an entry of this cost, after what the limits ask for. One that is
    /// to be spilled takes no memory.
    fn make_room(&mut self, cost: usize, is_spilled: bool) -> bool {
        let QueueLimits {
            bytes, messages, ..
        } = self.limits;
        if cost as u64 > bytes {
            self.drops.full += 1;
            return false;
        }
        while self.bytes() + cost as u64 > bytes || messages.is_some_and(|most| self.len() >= most)
        {
            let oldest = match self.limits.when_full {
                WhenFull::DropOldest => self.oldest_waiting(),
                WhenFull::DropNewest => None,
            };
            let is_on_disk = self.spilled > 0 && oldest.is_none_or(|it| it >= self.spilled_from);
            if is_on_disk && self.limits.when_full == WhenFull::DropOldest {
                // It is on its way into the window, and goes when it is there.
                break;
            }
            self.drops.full += 1;
            let Some(oldest) = oldest else {
                return false;
            };
            self.remove(oldest);
        }
        let mut freed = 0;
        self.settle();
        if is_spilled {
            return true;
        }
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
        let (live, backlog) = (self.first(Lane::Live), self.first(Lane::Backlog));
        live.into_iter().chain(backlog).min()
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
                self.live.remove(&slot.order);
                self.live_bytes -= slot.entry.cost();
            }
            Some(Lane::Backlog) => {
                self.backlog.remove(&seq);
                topic.backlog -= 1;
            }
        }
    }

    fn remove(&mut self, seq: Seq) {
        self.unlink(seq);
        let Some(Slot { entry, is_kept, .. }) = self.slots.remove(&seq) else {
            return;
        };
        self.let_go(seq, is_kept);
        self.bytes -= entry.cost();
        let name = entry.message.topic();
        let topic = self
            .topics
            .get_mut(name)
            .expect("an entry's topic is known");
        topic.count -= 1;
        if topic.count == 0 && self.spilled == 0 {
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
        let live: BTreeSet<Seq> = self.live.values().copied().collect();
        debug_assert!(in_lane(Lane::Live).eq(&live));
        debug_assert!(in_lane(Lane::Backlog).eq(&self.backlog));
        let bytes: usize = self.slots.values().map(|slot| slot.entry.cost()).sum();
        debug_assert_eq!(self.bytes, bytes);
        let live: usize = self
            .live
            .values()
            .map(|seq| self.slots[seq].entry.cost())
            .sum();
        debug_assert_eq!(self.live_bytes, live);
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
