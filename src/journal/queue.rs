//! Durable queues: where their entries are, and nothing of what they hold.
//!
//! A queue has a [`Run`] for at most 256 entries of one segment: a bit for each, and the places of
//! all only while the run is new or is being drawn; otherwise they are in a record of the journal,
//! its block.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::disk::ReadId;
use super::record::{Life, Spot};
use super::segment::{Place, Table};
use super::{Note, QueueState};
use crate::buffer::Payload;
use crate::time::Instant;

/// Entries of a run: a bit for each.
pub(super) const RUN_MAX: u64 = 256;

/// Entries that a queue's window holds, and bytes of bodies beyond which it does not fetch more.
pub(super) const WINDOW_MAX: usize = 256;
pub(super) const WINDOW_BYTES_MAX: usize = 256 * 1024;

/// Bytes of bodies in all windows, and of reads under way, beyond which nothing is read ahead, and
/// of what is wanted only so many entries at a time.
pub(super) const WINDOWS_BYTES_MAX: usize = 4 * 1024 * 1024;
pub(super) const WINDOW_CROWDED: usize = 16;

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    /// The number of the next entry.
    pub(super) next: u64,
    /// Everything below is consumed, as the log says it.
    pub(super) floor: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Its present state record, and that one's bytes.
    pub(super) state: Option<(Place, u32)>,
    /// The life with its first record.
    pub(super) since: u64,
    pub(super) backlog: Backlog,
}

/// Entries that follow one another in one segment.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) segment: u32,
    /// Which of `base..base + 256` live.
    bits: [u64; 4],
    pub(super) live: u32,
    /// That the living ones count.
    bytes: u32,
    /// Of all that were put, in order; also of some that do not live any more.
    pub(super) spots: Option<Vec<Spot>>,
    pub(super) block: Option<(Place, u32)>,
}

/// What is in a queue, and how far it is drawn. Runs are by their base: no number in one is below
/// it, and all are below the next run's base.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) runs: BTreeMap<u64, Run>,
    /// Runs without a block.
    pub(super) open: BTreeSet<u64>,
    /// A run with a block whose places are in memory nevertheless.
    pub(super) loaded: Option<u64>,
    /// The number from which on nothing has been drawn.
    pub(super) drawn: u64,
    pub(super) window: VecDeque<Fetched>,
    pub(super) window_bytes: usize,
    pub(super) fetch: Option<Fetch>,
    /// A draw was told to wait.
    pub(super) waiting: bool,
    /// Failures of the fetch in a row; after the first, one entry at a time is read.
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
}

/// What was read and not drawn yet.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) sequence: u64,
    pub(super) note: Note,
    pub(super) body: Payload,
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) read: ReadId,
    pub(super) segment: u32,
    pub(super) life: Life,
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) what: Wanted,
}

#[derive(Debug)]
pub(super) enum Wanted {
    /// Of the run with this base.
    Block(u64),
    Entries(Vec<Spot>),
}

impl Run {
    pub(super) fn new(segment: u32) -> Self {
        Self {
            segment,
            bits: [0; 4],
            live: 0,
            bytes: 0,
            spots: Some(Vec::new()),
            block: None,
        }
    }

    fn set(&mut self, delta: u64) {
        self.bits[(delta / 64) as usize] |= 1 << (delta % 64);
    }

    pub(super) fn has(&self, delta: u64) -> bool {
        delta < RUN_MAX && self.bits[(delta / 64) as usize] >> (delta % 64) & 1 == 1
    }

    /// The first that lives, from `delta` on.
    pub(super) fn first(&self, delta: u64) -> Option<u64> {
        let mut word = (delta / 64) as usize;
        let mut masked = *self.bits.get(word)? & (u64::MAX << (delta % 64));
        loop {
            if masked != 0 {
                return Some(word as u64 * 64 + u64::from(masked.trailing_zeros()));
            }
            word += 1;
            masked = *self.bits.get(word)?;
        }
    }

    fn last(&self) -> Option<u64> {
        (0..4).rev().find_map(|word| {
            let bits = self.bits[word];
            (bits != 0).then(|| word as u64 * 64 + 63 - u64::from(bits.leading_zeros()))
        })
    }

    /// Takes one out; the bytes that it counted.
    fn clear(&mut self, delta: u64) -> u32 {
        self.bits[(delta / 64) as usize] &= !(1 << (delta % 64));
        let share = self.bytes / self.live;
        self.live -= 1;
        self.bytes -= share;
        share
    }

    /// Moves the base on by `by`; nothing below lives.
    fn rebase(&mut self, by: u64) {
        let mut moved = [0; 4];
        for (delta, word) in (by..RUN_MAX).zip(0..RUN_MAX) {
            if self.has(delta) {
                moved[(word / 64) as usize] |= 1 << (word % 64);
            }
        }
        self.bits = moved;
    }

    /// Splits off what lives at `delta` and behind it, as a run based there.
    fn split(&mut self, delta: u64) -> Self {
        let mut high = self.clone();
        for low in 0..delta.min(RUN_MAX) {
            high.bits[(low / 64) as usize] &= !(1 << (low % 64));
        }
        for word in 0..4 {
            self.bits[word] &= !high.bits[word];
        }
        high.live = high.bits.iter().map(|word| word.count_ones()).sum();
        // Each counts the average: that is what `clear` takes out.
        high.bytes = if high.live == self.live {
            self.bytes
        } else {
            (u64::from(self.bytes) * u64::from(high.live) / u64::from(self.live)) as u32
        };
        self.live -= high.live;
        self.bytes -= high.bytes;
        high.rebase(delta);
        high
    }
}

impl Backlog {
    /// The run that may hold `sequence`.
    fn run_of(&mut self, sequence: u64) -> Option<(u64, &mut Run)> {
        self.runs
            .range_mut(..=sequence)
            .next_back()
            .map(|(base, run)| (*base, run))
            .filter(|(base, _)| sequence - base < RUN_MAX)
    }

    /// The segment in which an entry lives.
    pub(super) fn segment_of(&mut self, sequence: u64) -> Option<u32> {
        let (base, run) = self.run_of(sequence)?;
        run.has(sequence - base).then_some(run.segment)
    }

    /// The first that lives, from `sequence` on, with the base of its run.
    pub(super) fn first_from(&self, sequence: u64) -> Option<(u64, u64)> {
        if let Some((base, run)) = self.runs.range(..=sequence).next_back()
            && let Some(delta) = run.first(sequence - base)
        {
            return Some((base + delta, *base));
        }
        // A run that is not empty has a first one.
        let (base, run) = self.runs.range(sequence.saturating_add(1)..).next()?;
        Some((base + run.first(0)?, *base))
    }

    fn remove_run(&mut self, base: u64, table: &mut Table, number: u64) {
        self.open.remove(&base);
        if self.loaded == Some(base) {
            self.loaded = None;
        }
        if let Some(run) = self.runs.remove(&base)
            && let Some((place, len)) = run.block
        {
            table.dies(place.segment, len, number);
        }
    }

    /// Puts an entry at the end of the run before it, or into a new one. False if a run that cannot
    /// be split stands in its way: that no journal of ours has.
    fn put(&mut self, spot: Spot, segment: u32, share: u32, table: &mut Table) -> bool {
        let sequence = spot.sequence;
        // A run that begins above it must not have a base at or below it.
        self.settle_base(sequence);
        if let Some((base, run)) = self.run_of(sequence) {
            let last = run.last().map_or(0, |delta| base + delta);
            let place = run.spots.as_ref().and_then(|spots| spots.last());
            let follows = place.is_none_or(|last| {
                last.sequence < sequence && last.offset.saturating_add(last.len) <= spot.offset
            });
            if last >= sequence {
                if run.block.is_some() || run.spots.is_none() {
                    return false;
                }
                let high = run.split(sequence + 1 - base);
                if high.live > 0 {
                    self.open.insert(sequence + 1);
                    self.runs.insert(sequence + 1, high);
                }
            } else if run.segment == segment && run.block.is_none() && follows {
                run.set(sequence - base);
                run.live += 1;
                run.bytes = run.bytes.saturating_add(share);
                if let Some(spots) = &mut run.spots {
                    spots.push(spot);
                }
                table.born(segment, share);
                return true;
            }
        }
        if self.runs.contains_key(&sequence) {
            return false;
        }
        let mut run = Run::new(segment);
        run.set(0);
        run.live = 1;
        run.bytes = share;
        run.spots = Some(vec![spot]);
        self.runs.insert(sequence, run);
        self.open.insert(sequence);
        table.born(segment, share);
        true
    }

    /// Takes an entry out; its bytes, or `None` if it does not live.
    fn take(&mut self, sequence: u64, number: u64, table: &mut Table) -> Option<u32> {
        let (base, run) = self.run_of(sequence)?;
        let delta = sequence - base;
        if !run.has(delta) {
            return None;
        }
        let share = run.clear(delta);
        let segment = run.segment;
        let is_empty = run.live == 0;
        table.dies(segment, share, number);
        if is_empty {
            self.remove_run(base, table, number);
        }
        Some(share)
    }

    /// Makes `sequence`, which is about to be put elsewhere, the lowest of its run, or cuts that
    /// run in two before it. If it lives in a run without places, what is before it there had ended
    /// when the copy was written, for a segment's records are copied in their order. If it does
    /// not, it had ended once without that being on the disk, and lived elsewhere: then both parts
    /// keep the block. Returns how many ended by that, with their bytes.
    fn make_way(&mut self, sequence: u64, number: u64, table: &mut Table) -> (u64, u64) {
        let mut ended = (0, 0);
        loop {
            let Some((base, run)) = self.run_of(sequence) else {
                return ended;
            };
            let Some(first) = run.first(0) else {
                return ended;
            };
            if base + first >= sequence {
                return ended;
            }
            if run.block.is_none() && run.spots.is_some() {
                let high = run.split(sequence - base);
                if high.live > 0 {
                    self.runs.insert(sequence, high);
                    self.open.insert(sequence);
                }
                return ended;
            }
            if run.last().is_none_or(|last| base + last < sequence) {
                return ended;
            }
            if !run.has(sequence - base) {
                let mut high = run.split(sequence - base);
                if let Some((place, len)) = high.block {
                    // It is read again when it is needed.
                    high.spots = None;
                    table.born(place.segment, len);
                }
                self.runs.insert(sequence, high);
                return ended;
            }
            if let Some(share) = self.take(base + first, number, table) {
                ended = (ended.0 + 1, ended.1 + u64::from(share));
            }
        }
    }

    /// After the lowest of a run has been taken out: its base is above it.
    fn settle_base(&mut self, taken: u64) {
        let Some((base, run)) = self.run_of(taken) else {
            return;
        };
        let by = taken + 1 - base;
        if run.first(0).is_none_or(|first| first < by) {
            return;
        }
        let Some(mut run) = self.runs.remove(&base) else {
            return;
        };
        run.rebase(by);
        self.runs.insert(base + by, run);
        if self.open.remove(&base) {
            self.open.insert(base + by);
        }
        if self.loaded == Some(base) {
            self.loaded = Some(base + by);
        }
        if let Some(Fetch {
            what: Wanted::Block(wanted),
            ..
        }) = &mut self.fetch
            && *wanted == base
        {
            *wanted = base + by;
        }
    }

    /// The runs between a block's first and its last become one, whose block it is. False if that
    /// cannot be.
    fn adopt(
        &mut self,
        spots: &[Spot],
        segment: u32,
        place: Place,
        len: u32,
        table: &mut Table,
    ) -> bool {
        let (Some(first), Some(last)) = (spots.first(), spots.last()) else {
            return false;
        };
        let (low, high) = (first.sequence, last.sequence);
        for cut in [low, high + 1] {
            if let Some((base, run)) = self.run_of(cut)
                && run.block.is_none()
                && run.segment == segment
                && run.first(0).is_some_and(|first| base + first < cut)
                && run.last().is_some_and(|last| base + last >= cut)
            {
                let split = run.split(cut - base);
                self.runs.insert(cut, split);
                self.open.insert(cut);
            }
        }
        let start = self
            .run_of(low)
            .filter(|(base, run)| run.first(0).is_some_and(|first| base + first >= low));
        let start = start.map_or(low, |(base, _)| base);
        let bases: Vec<u64> = self
            .runs
            .range(start..=high)
            .map(|(base, _)| *base)
            .collect();
        let fits = bases.iter().all(|base| {
            self.runs.get(base).is_some_and(|run| {
                run.segment == segment && run.last().is_some_and(|last| base + last <= high)
            })
        });
        let lowest = bases
            .first()
            .and_then(|base| Some(base + self.runs.get(base)?.first(0)?));
        let (true, Some(lowest)) = (fits, lowest) else {
            return false;
        };
        let mut merged = Run::new(segment);
        merged.spots = None;
        for base in bases {
            let Some(run) = self.runs.get(&base) else {
                continue;
            };
            let mut delta = run.first(0);
            while let Some(at) = delta {
                merged.set(base + at - lowest);
                delta = run.first(at + 1);
            }
            merged.live += run.live;
            merged.bytes = merged.bytes.saturating_add(run.bytes);
            self.remove_run(base, table, 0);
        }
        merged.block = Some((place, len));
        table.born(place.segment, len);
        self.runs.insert(lowest, merged);
        true
    }

    /// The places of a run have been read: keeps them, and forgets those of the run before.
    pub(super) fn load(&mut self, base: u64, spots: Vec<Spot>) {
        self.unload();
        if let Some(run) = self.runs.get_mut(&base) {
            run.spots = Some(spots);
            if run.block.is_some() {
                self.loaded = Some(base);
            }
        }
    }

    pub(super) fn unload(&mut self) {
        if let Some(loaded) = self.loaded.take()
            && let Some(run) = self.runs.get_mut(&loaded)
            && run.block.is_some()
        {
            run.spots = None;
        }
    }

    /// Everything that was drawn or fetched is forgotten.
    /// Returns the bytes of bodies that were in the window.
    pub(super) fn rewind(&mut self) -> usize {
        self.drawn = 0;
        self.window.clear();
        self.fetch = None;
        core::mem::take(&mut self.window_bytes)
    }

    /// Bytes of memory, roughly, but for the bodies in the window.
    fn footprint(&self) -> usize {
        let places: usize = self
            .open
            .iter()
            .chain(&self.loaded)
            .filter_map(|base| self.runs.get(base)?.spots.as_ref())
            .map(|spots| spots.capacity() * size_of::<Spot>())
            .sum();
        let fetch = self.fetch.as_ref().map_or(0, |fetch| fetch.len as usize);
        self.runs.len() * (size_of::<Run>() + 8) * 3 / 2
            + places
            + self.window.len() * size_of::<Fetched>()
            + fetch
    }
}

impl Queue {
    pub(super) fn new(since: u64) -> Self {
        Self {
            next: 1,
            floor: 1,
            entries: 0,
            bytes: 0,
            state: None,
            since,
            backlog: Backlog::default(),
        }
    }

    /// The lowest entry that lives, or the next.
    pub(super) fn head(&self) -> u64 {
        let first = self.backlog.first_from(0);
        first.map_or(self.next, |(sequence, _)| sequence)
    }

    pub(super) fn summary(&self) -> QueueState {
        QueueState {
            head: self.head(),
            next: self.next,
            entries: self.entries,
            bytes: self.bytes,
        }
    }

    /// A new entry, or one that recovery has found; a copy ends the one that it was made of.
    /// False if it does not live.
    pub(super) fn put(
        &mut self,
        spot: Spot,
        segment: u32,
        share: u32,
        number: u64,
        table: &mut Table,
    ) -> bool {
        if spot.sequence < self.floor {
            return false;
        }
        if spot.sequence < self.next {
            let (ended, bytes) = self.backlog.make_way(spot.sequence, number, table);
            self.entries -= ended;
            self.bytes -= bytes;
            if self.take(spot.sequence, number, table) {
                self.backlog.settle_base(spot.sequence);
            }
        }
        let is_put = self.backlog.put(spot, segment, share, table);
        self.next = self.next.max(spot.sequence + 1);
        if is_put {
            self.entries += 1;
            self.bytes += u64::from(share);
        }
        is_put
    }

    /// A block was found, or found again: it names what lived of its run when it was written.
    pub(super) fn adopt(
        &mut self,
        spots: &[Spot],
        segment: u32,
        place: Place,
        len: u32,
        table: &mut Table,
    ) {
        let (Some(first), Some(last)) = (spots.first(), spots.last()) else {
            return;
        };
        let mut from = first.sequence;
        loop {
            let Some((sequence, _)) = self
                .backlog
                .first_from(from)
                .filter(|(sequence, _)| *sequence <= last.sequence)
            else {
                self.backlog.adopt(spots, segment, place, len, table);
                return;
            };
            let is_ours = self.backlog.segment_of(sequence) == Some(segment);
            let is_named = spots
                .binary_search_by_key(&sequence, |spot| spot.sequence)
                .is_ok();
            if is_ours && !is_named {
                self.take(sequence, 0, table);
            }
            from = sequence + 1;
        }
    }

    /// Whether the entry in the record at `place` is the present one.
    pub(super) fn lives_at(&mut self, sequence: u64, place: Place) -> bool {
        // A number is at most once in one life of a segment.
        self.backlog.segment_of(sequence) == Some(place.segment)
    }

    /// The segments of an entry and of its block.
    pub(super) fn homes_of(&mut self, sequence: u64) -> [Option<u32>; 2] {
        match self.backlog.run_of(sequence) {
            Some((_, run)) => [Some(run.segment), run.block.map(|(place, _)| place.segment)],
            None => [None, None],
        }
    }

    /// Takes an entry out. False if it does not live.
    pub(super) fn take(&mut self, sequence: u64, number: u64, table: &mut Table) -> bool {
        let taken = self.backlog.take(sequence, number, table);
        if let Some(bytes) = taken {
            self.entries -= 1;
            self.bytes -= u64::from(bytes);
        }
        taken.is_some()
    }

    /// Takes everything below `head` out.
    pub(super) fn take_below(&mut self, head: u64, number: u64, table: &mut Table) {
        while self.head() < head.min(self.next) {
            let first = self.head();
            self.take(first, number, table);
        }
    }

    /// Takes everything out, the state record too.
    pub(super) fn clear(&mut self, number: u64, table: &mut Table) {
        self.take_below(u64::MAX, number, table);
        if let Some((place, len)) = self.state.take() {
            table.dies(place.segment, len, number);
        }
    }

    /// Bytes of memory, roughly, but for the bodies in the window.
    pub(super) fn footprint(&self) -> usize {
        size_of::<Self>() + self.backlog.footprint()
    }
}
