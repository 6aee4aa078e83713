//! Room: what still lives in old segments is copied to the end of the log, and what holds nothing
//! is used again.

use smallvec::SmallVec;

use super::disk::DiskCommand;
use super::queue::{Queue, RUN_MAX};
use super::record::{self, Life, Record, Spot, Written};
use super::segment::{BLOCK, LIMBOS, Place, State};
use super::walk::{Step, Stream};
use super::{Journal, RESERVE, Thing, UNSYNCED_MAX};
use crate::id::QueueId;
use crate::time::Now;

/// Damaged files that are kept for people to look at; further ones are used again.
const SET_ASIDE_MAX: u64 = 4;

/// A segment that is being emptied.
#[derive(Debug)]
pub(super) struct Cleaning {
    pub(super) segment: u32,
    life: Life,
    pub(super) stream: Stream,
}

impl Journal {
    /// Writes again what lives in the record at `place`. False if nothing does.
    pub(super) fn copy(&mut self, bytes: &[u8], place: Place) -> bool {
        let Some(read) = record::read(bytes) else {
            return false;
        };
        let thing = match &read {
            Record::Data { targets, body } => return self.copy_data(targets, body, place),
            Record::State { queue, .. } => {
                let is_present = self
                    .queues
                    .get(queue)
                    .is_some_and(|queue| queue.state.is_some_and(|(at, _)| at == place));
                if is_present {
                    self.write_state(*queue);
                }
                return is_present;
            }
            Record::Block { queue, spots, .. } => {
                return self.copy_block(bytes, *queue, spots, place);
            }
            Record::Delete(key) => Thing::Key(*key),
            Record::Dropped(queue) => Thing::Queue(*queue),
        };
        let Some(grave) = self.graves.get(&thing).filter(|grave| grave.place == place) else {
            return false;
        };
        let old = grave.bytes;
        self.writer.scratch.clear();
        self.writer.scratch.extend_from_slice(bytes);
        let new = self.write();
        self.table.dies(place.segment, old, self.writer.landed);
        self.table.born(new.segment, old);
        let sequence = self.table.at(new.segment).life.sequence;
        if let Some(grave) = self.graves.get_mut(&thing) {
            grave.place = new;
            grave.since = grave.since.min(sequence);
        }
        self.writer.young.push(thing);
        true
    }

    fn copy_data(&mut self, targets: &[Written<'_>], body: &[u8], place: Place) -> bool {
        let living: SmallVec<[Written<'_>; 4]> = targets
            .iter()
            .filter(|target| match target {
                Written::Key { key, .. } => {
                    self.keys.get(key).is_some_and(|value| value.place == place)
                }
                Written::Entry {
                    queue, sequence, ..
                } => self
                    .queues
                    .get_mut(queue)
                    .is_some_and(|queue| queue.lives_at(*sequence, place)),
            })
            .copied()
            .collect();
        if living.is_empty() {
            return false;
        }
        self.writer.scratch.clear();
        record::put_data(&mut self.writer.scratch, &living, [body]);
        let len = self.writer.scratch.len();
        let new = self.write();
        self.stats.bytes_copied += len as u64;
        let number = self.writer.landed;
        let share = record::share(len, living.len());
        let life = self.table.at(new.segment).life.sequence;
        for target in &living {
            match target {
                Written::Key { key, .. } => {
                    if let Some(value) = self.keys.get_mut(key) {
                        self.table.dies(value.place.segment, value.bytes, number);
                        self.table.born(new.segment, share);
                        value.place = new;
                        value.bytes = share;
                        value.since = value.since.min(life);
                    }
                }
                &Written::Entry {
                    queue: id,
                    sequence,
                    ..
                } => {
                    let spot = Spot {
                        sequence,
                        offset: new.offset,
                        len: len as u32,
                    };
                    if let Some(queue) = self.queues.get_mut(&id) {
                        queue.put(spot, new.segment, share, number, &mut self.table);
                        self.opened.insert(id);
                    }
                }
            }
        }
        true
    }

    fn copy_block(&mut self, bytes: &[u8], id: QueueId, spots: &[Spot], place: Place) -> bool {
        let (Some(first), Some(last)) = (spots.first(), spots.last()) else {
            return false;
        };
        let Some(queue) = self.queues.get(&id) else {
            return false;
        };
        let low = first.sequence.saturating_sub(RUN_MAX);
        // Of a run that was cut in two both parts have it.
        let runs = queue.backlog.runs.range(low..=last.sequence);
        let runs: SmallVec<[u64; 2]> = runs
            .filter(|(_, run)| run.block.is_some_and(|(at, _)| at == place))
            .map(|(base, _)| *base)
            .collect();
        for base in &runs {
            self.copy_block_of(bytes, id, *base, place);
        }
        !runs.is_empty()
    }

    fn copy_block_of(&mut self, bytes: &[u8], id: QueueId, base: u64, place: Place) {
        self.writer.scratch.clear();
        self.writer.scratch.extend_from_slice(bytes);
        let new = self.write();
        let len = bytes.len() as u32;
        self.table.dies(place.segment, len, self.writer.landed);
        self.table.born(new.segment, len);
        if let Some(queue) = self.queues.get_mut(&id)
            && let Some(run) = queue.backlog.runs.get_mut(&base)
        {
            run.block = Some((new, len));
        }
    }

    /// Writes the blocks of runs that are complete, so that their places need not be in memory: as
    /// long as the reserve is there, which is for what makes room. Those of a full journal that has
    /// none come to more than that.
    pub(super) fn close_runs(&mut self) {
        if !self.has_room_for_blocks() {
            return;
        }
        let mut complete: Vec<(QueueId, u64)> = Vec::new();
        self.opened.retain(|id| {
            let queue = self.queues.get(id);
            queue.is_some_and(|queue| !queue.backlog.open.is_empty())
        });
        for id in &self.opened {
            let Some(Queue { backlog, .. }) = self.queues.get(id) else {
                continue;
            };
            for base in &backlog.open {
                let Some(run) = backlog.runs.get(base) else {
                    continue;
                };
                let segment = self.table.at(run.segment);
                let Some(spots) = &run.spots else {
                    continue;
                };
                let (Some(first), Some(last)) = (spots.first(), spots.last()) else {
                    continue;
                };
                let is_full = last.sequence + 1 - base >= RUN_MAX
                    || last.sequence - first.sequence + 1 >= RUN_MAX;
                let is_synced = last.offset < segment.synced && segment.state != State::Limbo;
                let is_past = segment.state == State::Closed;
                if is_synced && (is_full || is_past) {
                    complete.push((*id, *base));
                }
            }
        }
        for (queue, base) in complete {
            if !self.has_room_for_blocks() {
                return;
            }
            self.close_run(queue, base);
        }
    }

    fn has_room_for_blocks(&self) -> bool {
        self.usable() >= RESERVE && self.writer.limbo.bytes.is_empty()
    }

    fn close_run(&mut self, queue: QueueId, base: u64) {
        let Some(Queue { backlog, .. }) = self.queues.get_mut(&queue) else {
            return;
        };
        let is_drawn = backlog
            .first_from(backlog.drawn)
            .is_some_and(|(_, at)| at == base);
        let Some(run) = backlog.runs.get(&base) else {
            return;
        };
        let living = run.spots.iter().flatten();
        let spots = living
            .filter(|spot| spot.sequence >= base && run.has(spot.sequence - base))
            .copied()
            .collect();
        let life = self.table.at(run.segment).life;
        self.writer.scratch.clear();
        record::put(
            &mut self.writer.scratch,
            &Record::Block { queue, life, spots },
        );
        let len = self.writer.scratch.len() as u32;
        let place = self.write();
        self.table.born(place.segment, len);
        self.stats.blocks += 1;
        let Some(Queue { backlog, .. }) = self.queues.get_mut(&queue) else {
            return;
        };
        backlog.open.remove(&base);
        if let Some(run) = backlog.runs.get_mut(&base) {
            run.block = Some((place, len));
            if !is_drawn {
                run.spots = None;
            }
        }
        if is_drawn {
            backlog.unload();
            backlog.loaded = Some(base);
        }
    }

    /// Segments in which nothing lives, as far as is synced, can be used again.
    pub(super) fn reclaim(&mut self) {
        if self.table.emptied.is_empty() {
            return;
        }
        let synced = self.writer.synced_number;
        let emptied = core::mem::take(&mut self.table.emptied);
        for index in emptied {
            let segment = self.table.at(index);
            if segment.state != State::Closed || segment.live > 0 {
                continue;
            }
            // Where no batch was ever synced nothing on the disk is needed: segments that a failing
            // disk has spoilt one after the other are made anew.
            let has_synced = segment.synced > BLOCK;
            if has_synced && segment.last_death > synced || self.writer_uses(index) {
                if !self.table.emptied.contains(&index) {
                    self.table.emptied.push(index);
                }
                continue;
            }
            let slot = segment.slot;
            let state = if segment.damaged && self.stats.set_aside < SET_ASIDE_MAX {
                self.stats.set_aside += 1;
                self.commands.push_back(DiskCommand::SetAside { slot });
                State::Unmade
            } else if segment.poisoned || segment.damaged || segment.size != self.segment_size {
                State::Unmade
            } else {
                State::Idle
            };
            self.table.set_state(index, state);
        }
        self.trim();
    }

    /// Removes files that the configuration has no room for, as far as what lives elsewhere can be
    /// ended and moved without them. The reserve may be among them: a full journal that was made
    /// smaller can be emptied like any other.
    pub(super) fn trim(&mut self) {
        let first = LIMBOS + self.budget;
        for index in first..self.table.segments.len() as u32 {
            let segment = self.table.at(index);
            if matches!(segment.state, State::Idle | State::Unmade) && self.usable() > RESERVE {
                let slot = segment.slot;
                self.commands.push_back(DiskCommand::Remove { slot });
                self.table.set_state(index, State::Gone);
            }
        }
    }

    /// Whether a batch that is not synced belongs into this segment.
    fn writer_uses(&self, index: u32) -> bool {
        let segment = self.table.at(index);
        segment.used > segment.synced
    }

    /// Begins to empty a segment if there is reason to, and reads on.
    pub(super) fn clean(&mut self, now: Now) {
        let is_over = self.cleaning.as_ref().is_some_and(|cleaning| {
            let segment = self.table.at(cleaning.segment);
            segment.state != State::Closed || segment.life != cleaning.life || segment.live == 0
        });
        if is_over {
            self.cleaning = None;
        }
        if self.is_behind() {
            return;
        }
        if self.cleaning.is_none()
            && let Some(index) = self.choose()
        {
            let segment = self.table.at(index);
            self.cleaning = Some(Cleaning {
                segment: index,
                life: segment.life,
                stream: Stream::new(segment.slot, segment.life, segment.used),
            });
            self.stats.cleanings += 1;
        }
        self.clean_on(now);
    }

    /// Copies would only add to what waits for the disk.
    fn is_behind(&self) -> bool {
        self.writer.retry_at.is_some()
            || !self.writer.limbo.bytes.is_empty()
            || self.writer.unsynced() > UNSYNCED_MAX / 2
    }

    /// The oldest segment that is worth it.
    fn choose(&self) -> Option<u32> {
        let usable = self.usable();
        let room = self.room_for_copies();
        let candidates = || {
            self.table
                .slots()
                .filter(|(_, segment)| {
                    segment.state == State::Closed
                        && segment.live > 0
                        && !segment.stuck
                        && segment.used == segment.synced
                        && segment.live_bytes + u64::from(2 * BLOCK) <= room
                })
                .map(|(index, segment)| (segment.life.sequence, index, segment))
        };
        let oldest = |filter: &dyn Fn(&super::segment::Segment) -> bool| {
            candidates()
                .filter(|(_, _, segment)| filter(segment))
                .min_by_key(|(sequence, ..)| *sequence)
                .map(|(_, index, _)| index)
        };
        let below = |segment: &super::segment::Segment, percent: u64| {
            segment.live_bytes * 100 < u64::from(segment.size.saturating_sub(BLOCK)) * percent
        };
        if usable > RESERVE {
            let unfit = oldest(&|segment| {
                segment.poisoned
                    || segment.damaged
                    || segment.slot.0 >= self.budget
                    || segment.size != self.segment_size
            });
            if unfit.is_some() {
                return unfit;
            }
        }
        if usable >= RESERVE + 2 {
            return None;
        }
        oldest(&|segment| below(segment, 50)).or_else(|| {
            if usable > RESERVE {
                return None;
            }
            candidates()
                .filter(|(_, _, segment)| below(segment, 75))
                .min_by_key(|(sequence, _, segment)| (segment.live_bytes, *sequence))
                .map(|(_, index, _)| index)
        })
    }

    /// Copies what has been read, a bounded amount, and asks for more.
    pub(super) fn clean_on(&mut self, now: Now) {
        let Some(mut cleaning) = self.cleaning.take() else {
            return;
        };
        let mut copied = false;
        loop {
            match cleaning.stream.step() {
                Some(Step::Record { offset, len }) => {
                    let place = Place {
                        segment: cleaning.segment,
                        offset,
                    };
                    copied |= self.copy(cleaning.stream.record(offset, len), place);
                }
                Some(Step::End) => {
                    // What is left could not be read: it stays, and is found by its readers.
                    if self.table.at(cleaning.segment).live > 0 {
                        self.table.at_mut(cleaning.segment).stuck = true;
                        self.stats.stuck += 1;
                    }
                    if copied {
                        self.set_due(now.monotonic);
                    }
                    return;
                }
                Some(Step::Batch(_) | Step::Bad { .. } | Step::Need(_)) => {}
                None => break,
            }
        }
        if copied {
            self.set_due(now.monotonic);
        }
        if !self.is_behind() {
            cleaning.stream.ask(&mut self.next_read, &mut self.commands);
        }
        self.cleaning = Some(cleaning);
    }
}
