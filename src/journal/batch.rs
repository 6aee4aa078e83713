//! The way to the disk: records go into a batch, batches into segments, one commit at a time.
//!
//! What has no place on the disk yet, because no segment is ready or the last sync failed, waits in
//! a limbo: a buffer in memory that is a segment as far as places are concerned. It is moved into
//! real batches by the same code that cleaning uses.

use super::disk::{BatchId, DiskCommand, DiskError};
use super::record::{self, Life, Record};
use super::segment::{
    BATCH_HEADER, BLOCK, BatchHeader, Place, SLOTS_MAX, SegmentHeader, State, padded,
};
use super::{Class, Event, Journal, Phase, RESERVE, Thing, Value};
use crate::id::Lsn;
use crate::time::{Duration, Instant, Now};

/// Bytes of records in a batch, unless one record alone is longer.
const BATCH_MAX: usize = 1024 * 1024;

/// A batch of so many bytes is not held back for more.
const BATCH_ENOUGH: usize = 256 * 1024;

/// Buffers of more bytes than this are not kept for the next batch.
const SPARE_MAX: usize = 2 * BATCH_MAX;

/// A lazy record is committed after this, if nothing else has taken it along.
pub(super) const LAZY_WITHIN: Duration = Duration::from_secs(10);

/// The number of the batch that will hold what is in limbo: later than every other.
pub(super) const LIMBO_NUMBER: u64 = u64::MAX;

/// Between two attempts at a disk that fails.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// Records on their way into one commit.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) segment: u32,
    /// Of its header.
    pub(super) offset: u32,
    pub(super) number: u64,
    /// The header's place, then records.
    pub(super) bytes: Vec<u8>,
    /// The last of the owners' records in it.
    pub(super) last: Lsn,
    pub(super) due: Option<Instant>,
}

/// What the disk has been told to commit.
#[derive(Debug)]
pub(super) enum UnderWay {
    Batch(BatchId, Batch),
    Header {
        id: BatchId,
        segment: u32,
        /// Lives that this header says are over.
        over: Vec<(u32, u64)>,
    },
}

/// Records without a place on the disk.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    /// Which of the two.
    pub(super) index: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) last: Lsn,
    pub(super) due: Option<Instant>,
}

/// Everything about writing.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) epoch: u64,
    /// Of the next segment.
    pub(super) sequence: u64,
    /// Of the next batch.
    pub(super) number: u64,
    pub(super) synced_number: u64,
    pub(super) last: Lsn,
    pub(super) synced: Lsn,
    pub(super) filling: Option<Batch>,
    pub(super) sealed: std::collections::VecDeque<Batch>,
    pub(super) under_way: Option<UnderWay>,
    pub(super) active: Option<u32>,
    pub(super) next: Option<u32>,
    pub(super) limbo: Limbo,
    /// While everything unsynced is gathered again.
    gathering: bool,
    /// The number of the batch that holds the last record written.
    pub(super) landed: u64,
    /// The record to be written.
    pub(super) scratch: Vec<u8>,
    spare: Vec<Vec<u8>>,
    commits: u64,
    /// Failed commits in a row.
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) making: Option<u32>,
    pub(super) make_failures: u32,
    pub(super) make_retry_at: Option<Instant>,
    /// Graves whose record is not known to be synced.
    pub(super) young: Vec<Thing>,
}

fn retry_after(failures: u32) -> Duration {
    RETRY_FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(RETRY_LAST)
}

impl Writer {
    /// Bytes that are in memory because they are not synced.
    pub(super) fn unsynced(&self) -> usize {
        let under_way = match &self.under_way {
            Some(UnderWay::Batch(_, batch)) => batch.bytes.len(),
            _ => 0,
        };
        let sealed: usize = self.sealed.iter().map(|batch| batch.bytes.len()).sum();
        let filling = self.filling.as_ref().map_or(0, |batch| batch.bytes.len());
        under_way + sealed + filling + self.limbo.bytes.len()
    }

    /// Bytes of memory, the copy that the disk has included.
    pub(super) fn footprint(&self) -> usize {
        let under_way = match &self.under_way {
            Some(UnderWay::Batch(_, batch)) => 2 * batch.bytes.capacity(),
            _ => 0,
        };
        let batches = self.sealed.iter().chain(&self.filling);
        under_way
            + batches.map(|batch| batch.bytes.capacity()).sum::<usize>()
            + self.spare.iter().map(Vec::capacity).sum::<usize>()
            + self.limbo.bytes.capacity()
            + self.scratch.capacity()
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < 3 && buffer.capacity() <= SPARE_MAX {
            self.spare.push(buffer);
        }
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        let under_way = match &self.under_way {
            Some(UnderWay::Batch(_, batch)) => Some(batch),
            _ => None,
        };
        under_way
            .into_iter()
            .chain(&self.sealed)
            .chain(&self.filling)
    }

    /// A record that is still in memory, from its place on.
    pub(super) fn in_memory(&self, place: Place) -> Option<&[u8]> {
        let rest = if place.segment == self.limbo.index {
            self.limbo.bytes.get(place.offset as usize..)?
        } else {
            self.batches()
                .filter(|batch| batch.segment == place.segment && batch.offset <= place.offset)
                .find_map(|batch| batch.bytes.get((place.offset - batch.offset) as usize..))?
        };
        let len = record::claimed_len(rest, rest.len())?;
        Some(&rest[..len])
    }

    /// Whether a record may still be changed where it is: its batch has not been sealed.
    fn unsealed(&mut self, place: Place) -> Option<&mut [u8]> {
        if place.segment == self.limbo.index {
            return self.limbo.bytes.get_mut(place.offset as usize..);
        }
        let batch = self.filling.as_mut()?;
        let offset = place.offset.checked_sub(batch.offset)?;
        if batch.segment == place.segment {
            batch.bytes.get_mut(offset as usize..)
        } else {
            None
        }
    }
}

impl Journal {
    /// Writes what is in `scratch`, at the end of the log.
    pub(super) fn write(&mut self) -> Place {
        let len = self.writer.scratch.len();
        self.stats.records += 1;
        if self.make_room(len)
            && let Some(batch) = &mut self.writer.filling
        {
            let offset = batch.offset + batch.bytes.len() as u32;
            let life = self.table.at(batch.segment).life;
            record::sign(&mut self.writer.scratch, life, offset);
            batch.bytes.extend_from_slice(&self.writer.scratch);
            self.writer.landed = batch.number;
            return Place {
                segment: batch.segment,
                offset,
            };
        }
        let limbo = &mut self.writer.limbo;
        let offset = limbo.bytes.len() as u32;
        limbo.bytes.extend_from_slice(&self.writer.scratch);
        self.writer.landed = LIMBO_NUMBER;
        Place {
            segment: limbo.index,
            offset,
        }
    }

    /// As [`Journal::write`], for an owner: the record gets a number and a deadline.
    pub(super) fn write_owned(&mut self, now: Now, class: Class) -> (Place, Lsn) {
        let place = self.write();
        self.writer.last.0 += 1;
        let last = self.writer.last;
        let due = now.monotonic
            + match class {
                Class::Strict => Duration::ZERO,
                Class::Interval(within) => within,
                Class::Lazy => LAZY_WITHIN,
            };
        self.set_due(due);
        match &mut self.writer.filling {
            Some(batch) if self.writer.landed != LIMBO_NUMBER => batch.last = last,
            _ => self.writer.limbo.last = last,
        }
        (place, last)
    }

    /// What was just written is to be committed by then.
    pub(super) fn set_due(&mut self, at: Instant) {
        let due = match &mut self.writer.filling {
            Some(batch) if self.writer.landed != LIMBO_NUMBER => &mut batch.due,
            _ => &mut self.writer.limbo.due,
        };
        *due = Some(due.map_or(at, |due| due.min(at)));
    }

    /// Writes a queue's state, or changes the record of it that is about to be written.
    pub(super) fn write_state(&mut self, id: crate::id::QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let head = queue.head();
        queue.floor = head;
        let state = Record::State {
            queue: id,
            head,
            next: queue.next,
        };
        let before = queue.state;
        self.writer.scratch.clear();
        record::put(&mut self.writer.scratch, &state);
        let mut scratch = core::mem::take(&mut self.writer.scratch);
        if let Some((place, _)) = before
            && let Some(bytes) = self.writer.unsealed(place)
            && bytes.len() >= scratch.len()
        {
            record::sign(
                &mut scratch,
                self.table.at(place.segment).life,
                place.offset,
            );
            bytes[..scratch.len()].copy_from_slice(&scratch);
            self.writer.landed = match &self.writer.filling {
                Some(batch) if batch.segment == place.segment => batch.number,
                _ => LIMBO_NUMBER,
            };
            self.writer.scratch = scratch;
            return;
        }
        let len = scratch.len() as u32;
        self.writer.scratch = scratch;
        let place = self.write();
        let number = self.writer.landed;
        if let Some((old, len)) = before {
            self.table.dies(old.segment, len, number);
        }
        self.table.born(place.segment, len);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.state = Some((place, len));
            queue.since = queue.since.min(self.table.at(place.segment).life.sequence);
        }
    }

    /// Whether `len` bytes more go into a batch that has a place on the disk.
    fn make_room(&mut self, len: usize) -> bool {
        if self.writer.gathering || !self.writer.limbo.bytes.is_empty() {
            return false;
        }
        loop {
            if let Some(batch) = &self.writer.filling {
                let size = self.table.at(batch.segment).size;
                let is_empty = batch.bytes.len() == BATCH_HEADER;
                let records = batch.bytes.len() + len;
                let end = u64::from(batch.offset) + records as u64;
                if end.next_multiple_of(u64::from(BLOCK)) <= u64::from(size)
                    && (is_empty || records <= BATCH_MAX)
                {
                    return true;
                }
                self.seal();
            }
            let Some(active) = self.writer.active else {
                if self.open_next() {
                    continue;
                }
                return false;
            };
            let segment = self.table.at(active);
            let end = u64::from(segment.used) + (BATCH_HEADER + len) as u64;
            if end.next_multiple_of(u64::from(BLOCK)) <= u64::from(segment.size) {
                let offset = segment.used;
                let number = self.writer.number;
                self.writer.number += 1;
                let mut bytes = self.writer.buffer();
                bytes.resize(BATCH_HEADER, 0);
                self.writer.filling = Some(Batch {
                    segment: active,
                    offset,
                    number,
                    bytes,
                    last: Lsn(0),
                    due: None,
                });
            } else {
                self.close_active();
            }
        }
    }

    fn close_active(&mut self) {
        if let Some(active) = self.writer.active.take() {
            self.table.set_state(active, State::Closed);
            if self.table.at(active).live == 0 {
                self.table.emptied.push(active);
            }
        }
    }

    fn may_open_next(&self) -> bool {
        // The last one is only for what makes another one free.
        let frees = self.cleaning.is_some() || !self.table.emptied.is_empty();
        self.writer.next.is_some() && (self.usable() >= 2 || frees)
    }

    fn open_next(&mut self) -> bool {
        if !self.may_open_next() {
            return false;
        }
        let Some(next) = self.writer.next.take() else {
            return false;
        };
        self.table.set_state(next, State::Active);
        self.writer.active = Some(next);
        true
    }

    /// Segments that can be filled, besides the active one.
    pub(super) fn usable(&self) -> u32 {
        let unmade = if self.writer.make_failures == 0 {
            self.table.unmade() + u32::from(self.writer.making.is_some())
        } else {
            0
        };
        let preparing = matches!(self.writer.under_way, Some(UnderWay::Header { .. }));
        self.table.idle() + unmade + u32::from(self.writer.next.is_some()) + u32::from(preparing)
    }

    /// The batch that is being filled takes no more.
    fn seal(&mut self) {
        let Some(batch) = self.writer.filling.take() else {
            return;
        };
        let end = batch.offset + batch.bytes.len() as u32;
        self.table.at_mut(batch.segment).used = padded(end);
        self.writer.sealed.push_back(batch);
    }

    /// With the last segment open, what there is goes into one batch with the copies that will
    /// make another one free: a batch of its own could take the room that they need.
    pub(super) fn waits_for_copies(&self) -> bool {
        self.usable() == 0 && self.cleaning.is_some() && self.writer.limbo.bytes.is_empty()
    }

    /// Bytes of copies that certainly go into what is free.
    pub(super) fn room_for_copies(&self) -> u64 {
        let segment = u64::from(self.segment_size - 2 * BLOCK);
        let left = self.writer.active.map_or(0, |active| {
            let segment = self.table.at(active);
            let used = match &self.writer.filling {
                Some(batch) => batch.offset + batch.bytes.len() as u32,
                None => segment.used,
            };
            segment.size.saturating_sub(padded(used))
        });
        u64::from(left) + u64::from(self.usable()) * segment
    }

    /// Starts the next commit, if none is under way and one is due.
    pub(super) fn commit(&mut self, now: Now) {
        if self.writer.under_way.is_some() {
            return;
        }
        if self.writer.sealed.is_empty()
            && !self.waits_for_copies()
            && self.writer.filling.as_ref().is_some_and(|batch| {
                batch.bytes.len() >= BATCH_ENOUGH
                    || batch.due.is_some_and(|due| due <= now.monotonic)
            })
        {
            self.seal();
        }
        let Some(mut batch) = self.writer.sealed.pop_front() else {
            return;
        };
        let header = BatchHeader {
            life: self.table.at(batch.segment).life,
            number: batch.number,
            synced: self.writer.synced_number,
            next_queue: self.next_queue,
            len: (batch.bytes.len() - BATCH_HEADER) as u32,
        };
        header.write(&mut batch.bytes[..BATCH_HEADER]);
        let mut bytes = self.writer.buffer();
        bytes.extend_from_slice(&batch.bytes);
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        self.writer.commits += 1;
        self.stats.commits += 1;
        self.stats.bytes_written += bytes.len() as u64;
        let id = BatchId(self.writer.commits);
        self.commands.push_back(DiskCommand::Commit {
            batch: id,
            slot: self.table.at(batch.segment).slot,
            offset: batch.offset,
            bytes,
        });
        self.writer.under_way = Some(UnderWay::Batch(id, batch));
    }

    /// Begins the life of another segment, if one will soon be needed.
    pub(super) fn prepare(&mut self, now: Now) {
        let is_waiting = |at: Option<Instant>| at.is_some_and(|at| at > now.monotonic);
        if is_waiting(self.writer.retry_at) {
            return;
        }
        self.writer.retry_at = None;
        let ready = self.table.idle() + u32::from(self.writer.next.is_some());
        if self.writer.making.is_none()
            && ready < RESERVE + 2
            && self.table.unmade() > 0
            && !is_waiting(self.writer.make_retry_at)
        {
            self.writer.make_retry_at = None;
            let unmade = self
                .table
                .slots()
                .find(|(_, segment)| segment.state == State::Unmade)
                .map(|(index, segment)| (index, segment.slot));
            if let Some((index, slot)) = unmade {
                self.table.set_state(index, State::Making);
                self.writer.making = Some(index);
                self.commands.push_back(DiskCommand::Make {
                    slot,
                    size: self.segment_size,
                });
            }
        }
        let is_needed = !self.writer.limbo.bytes.is_empty()
            || self.writer.active.is_none_or(|active| {
                let segment = self.table.at(active);
                segment.used > segment.size / 2
            });
        if self.writer.next.is_some() || self.writer.under_way.is_some() || !is_needed {
            return;
        }
        let oldest = self
            .table
            .slots()
            .filter(|(_, segment)| segment.state == State::Idle)
            .min_by_key(|(index, segment)| {
                // What is outside of the budget is to become empty.
                (segment.slot.0 >= self.budget, segment.life.sequence, *index)
            })
            .map(|(index, _)| index);
        if let Some(index) = oldest {
            self.begin_life(index);
        }
    }

    fn begin_life(&mut self, index: u32) {
        let mut held = vec![0_u8; (SLOTS_MAX / 8) as usize];
        let mut over = Vec::new();
        for (other, segment) in self.table.slots() {
            if matches!(segment.state, State::Active | State::Closed | State::Next) {
                let slot = segment.slot.0;
                held[slot as usize / 8] |= 1 << (slot % 8);
            } else if segment.held {
                over.push((other, segment.life.sequence));
            }
        }
        // Nothing at the end of the set needs to be written.
        while held.last() == Some(&0) {
            held.pop();
        }
        let life = Life {
            epoch: self.writer.epoch,
            sequence: self.writer.sequence,
        };
        self.writer.sequence += 1;
        let mut bytes = self.writer.buffer();
        SegmentHeader {
            life,
            next_queue: self.next_queue,
            held,
        }
        .write(&mut bytes);
        self.table.set_state(index, State::Preparing);
        self.table.held.insert(life.sequence);
        let segment = self.table.at_mut(index);
        segment.life = life;
        segment.held = true;
        segment.used = BLOCK;
        segment.synced = BLOCK;
        segment.last_death = 0;
        segment.stuck = false;
        let slot = segment.slot;
        self.writer.commits += 1;
        self.stats.commits += 1;
        self.stats.bytes_written += bytes.len() as u64;
        self.stats.segments_begun += 1;
        let id = BatchId(self.writer.commits);
        self.commands.push_back(DiskCommand::Commit {
            batch: id,
            slot,
            offset: 0,
            bytes,
        });
        self.writer.under_way = Some(UnderWay::Header {
            id,
            segment: index,
            over,
        });
    }

    pub(super) fn made(&mut self, now: Now, index: u32, outcome: Result<(), DiskError>) {
        self.writer.making = None;
        match outcome {
            Ok(()) => {
                self.writer.make_failures = 0;
                self.stats.segments_made += 1;
                let size = self.segment_size;
                let segment = self.table.at_mut(index);
                let over = segment.held.then_some(segment.life.sequence);
                segment.size = size;
                segment.held = false;
                segment.life = Life::default();
                segment.poisoned = false;
                segment.damaged = false;
                self.table.set_state(index, State::Idle);
                if let Some(sequence) = over {
                    self.table.held.remove(&sequence);
                    self.drop_graves();
                }
            }
            Err(error) => {
                self.table.set_state(index, State::Unmade);
                self.writer.make_failures += 1;
                self.stats.makes_failed += 1;
                self.stats.last_error = Some(error);
                self.writer.make_retry_at =
                    Some(now.monotonic + retry_after(self.writer.make_failures));
            }
        }
    }

    pub(super) fn committed(
        &mut self,
        now: Now,
        id: BatchId,
        outcome: Result<(), DiskError>,
        bytes: Vec<u8>,
    ) {
        let is_ours = match &self.writer.under_way {
            Some(UnderWay::Batch(ours, _) | UnderWay::Header { id: ours, .. }) => *ours == id,
            None => false,
        };
        if !is_ours {
            self.stats.strays += 1;
            return;
        }
        self.writer.give_back(bytes);
        let under_way = self.writer.under_way.take();
        if let Err(error) = outcome {
            self.stats.commits_failed += 1;
            self.stats.last_error = Some(error.clone());
            self.writer.failures += 1;
            // The first time another segment is tried at once: it may be just this place.
            if self.writer.failures > 1 {
                let wait = retry_after(self.writer.failures - 1);
                self.writer.retry_at = Some(now.monotonic + wait);
            }
            match under_way {
                Some(UnderWay::Header { segment, .. }) => {
                    self.table.at_mut(segment).poisoned = true;
                    self.table.set_state(segment, State::Unmade);
                }
                Some(UnderWay::Batch(_, batch)) => {
                    self.events.push_back(Event::CommitFailed(error));
                    self.gather(now, batch);
                }
                None => {}
            }
            return;
        }
        self.writer.failures = 0;
        match under_way {
            Some(UnderWay::Header { segment, over, .. }) => {
                for (index, sequence) in over {
                    self.table.held.remove(&sequence);
                    let old = self.table.at_mut(index);
                    if old.life.sequence == sequence {
                        old.held = false;
                    }
                }
                self.table.set_state(segment, State::Next);
                self.writer.next = Some(segment);
                self.drop_graves();
            }
            Some(UnderWay::Batch(_, batch)) => {
                let end = padded(batch.offset + batch.bytes.len() as u32);
                self.table.at_mut(batch.segment).synced = end;
                assert!(
                    batch.number > self.writer.synced_number,
                    "batches are in order"
                );
                self.writer.synced_number = batch.number;
                self.writer.synced = self.writer.synced.max(batch.last);
                self.writer.give_back(batch.bytes);
                self.bury_young();
                self.close_runs();
            }
            None => {}
        }
    }

    /// After a failed sync: what is not known to be synced is put together again, in memory.
    fn gather(&mut self, now: Now, failed: Batch) {
        let poisoned = failed.segment;
        self.writer.number = failed.number;
        let mut batches = vec![failed];
        batches.extend(self.writer.sealed.drain(..));
        batches.extend(self.writer.filling.take());
        for batch in &batches {
            let segment = self.table.at_mut(batch.segment);
            segment.used = segment.used.min(batch.offset).max(segment.synced);
        }
        if self.writer.active == Some(poisoned) {
            self.close_active();
        }
        self.table.at_mut(poisoned).poisoned = true;
        let synced = self.writer.synced_number;
        for segment in &mut self.table.segments {
            if segment.last_death > synced {
                segment.last_death = LIMBO_NUMBER;
            }
        }
        let old = self.turn_limbo();
        self.writer.gathering = true;
        for batch in batches {
            self.copy_all(
                &batch.bytes[BATCH_HEADER..],
                Place {
                    segment: batch.segment,
                    offset: batch.offset + BATCH_HEADER as u32,
                },
            );
            self.writer.give_back(batch.bytes);
        }
        self.copy_limbo(&old);
        self.writer.gathering = false;
        self.writer.limbo.due = Some(now.monotonic);
        self.writer.limbo.last = self.writer.last;
        self.settled();
    }

    fn turn_limbo(&mut self) -> Limbo {
        let index = 1 - self.writer.limbo.index;
        let new = Limbo {
            index,
            ..Limbo::default()
        };
        core::mem::replace(&mut self.writer.limbo, new)
    }

    fn copy_limbo(&mut self, old: &Limbo) {
        self.copy_all(
            &old.bytes,
            Place {
                segment: old.index,
                offset: 0,
            },
        );
    }

    fn copy_all(&mut self, records: &[u8], mut place: Place) {
        let mut rest = records;
        while let Some(len) = record::claimed_len(rest, rest.len()) {
            self.copy(&rest[..len], place);
            place.offset += len as u32;
            rest = &rest[len..];
        }
        debug_assert!(rest.is_empty(), "memory holds whole records");
    }

    /// Moves what is in limbo to the disk, as far as there is room.
    pub(super) fn settle(&mut self) {
        let limbo = &self.writer.limbo;
        let Some(first) = record::claimed_len(&limbo.bytes, limbo.bytes.len()) else {
            return;
        };
        if self.writer.retry_at.is_some() {
            return;
        }
        let fits = self.writer.active.is_some_and(|active| {
            let segment = self.table.at(active);
            let used = match &self.writer.filling {
                Some(batch) => batch.offset + batch.bytes.len() as u32,
                None => segment.used + BATCH_HEADER as u32,
            };
            u64::from(padded(used)) + first as u64 + u64::from(2 * BLOCK) <= u64::from(segment.size)
        });
        if !fits && !self.may_open_next() {
            return;
        }
        let old = self.turn_limbo();
        self.copy_limbo(&old);
        if self.writer.limbo.bytes.is_empty() {
            let last = old.last;
            if let Some(batch) = &mut self.writer.filling {
                batch.last = batch.last.max(last);
                batch.due = match (batch.due, old.due) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            } else {
                self.writer.limbo.last = last;
            }
            let number = self.writer.number.saturating_sub(1);
            for segment in &mut self.table.segments {
                if segment.last_death == LIMBO_NUMBER {
                    segment.last_death = number;
                }
            }
        } else {
            self.writer.limbo.last = old.last;
            self.writer.limbo.due = old.due;
        }
        self.settled();
    }

    /// If nothing at all is left to be written, everything is as good as synced.
    fn settled(&mut self) {
        let writer = &mut self.writer;
        if !writer.limbo.bytes.is_empty() {
            return;
        }
        let last = core::mem::take(&mut writer.limbo.last);
        let under_way = match &mut writer.under_way {
            Some(UnderWay::Batch(_, batch)) => Some(batch),
            _ => None,
        };
        let batch = writer
            .filling
            .as_mut()
            .or(writer.sealed.back_mut())
            .or(under_way);
        match batch {
            Some(batch) => batch.last = batch.last.max(last),
            None => writer.synced = writer.synced.max(last),
        }
        let number = writer.number.saturating_sub(1);
        for segment in &mut self.table.segments {
            if segment.last_death == LIMBO_NUMBER {
                segment.last_death = number;
            }
        }
    }

    /// Forgets graves of which nothing older can be found any more.
    pub(super) fn drop_graves(&mut self) {
        let table = &mut self.table;
        self.graves.retain(|_, grave| {
            let needed = is_needed(table, grave);
            if !needed {
                table.dies(grave.place.segment, grave.bytes, 0);
            }
            needed
        });
    }

    fn bury_young(&mut self) {
        let young = core::mem::take(&mut self.writer.young);
        for thing in young {
            let Some(grave) = self.graves.get(&thing) else {
                continue;
            };
            let segment = self.table.at(grave.place.segment);
            if segment.state == State::Limbo || grave.place.offset >= segment.synced {
                self.writer.young.push(thing);
            } else if !is_needed(&self.table, grave) {
                self.table.dies(grave.place.segment, grave.bytes, 0);
                self.graves.remove(&thing);
            }
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }
}

/// Whether a grave's record must be kept: it is not synced, or an older life may be found that
/// holds what it ends.
fn is_needed(table: &super::segment::Table, grave: &Value) -> bool {
    let segment = table.at(grave.place.segment);
    segment.state == State::Limbo
        || grave.place.offset >= segment.synced
        || table.is_held(grave.since, segment.life.sequence)
}
