//! From what a disk holds to what was promised: twice over the log, in bounded pieces.
//!
//! The first pass finds what is where, the second tells the owners the values of their keys. A
//! segment in which none of these lives is not read a second time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::disk::{DiskCommand, DiskError, ReadId, Slot};
use super::queue::Queue;
use super::record::{self, Life, Record, Spot, Written};
use super::segment::{
    BLOCK, BatchHeader, LIMBOS, Place, SLOTS_MAX, SegmentHeader, SegmentRead, State, padded,
};
use super::walk::{Step, Stream};
use super::{Damage, Event, Journal, Note, Phase, Recovered, Thing, Unusable};
use crate::buffer::Payload;
use crate::id::QueueId;

/// Events, and bytes of bodies in them, beyond which recovery waits for them to be taken.
const EVENTS_MAX: usize = 64;
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Segments whose headers are read at once.
const HEADS_AHEAD: usize = 4;

/// A segment's header and its first batch's.
const HEAD_LEN: u32 = 2 * BLOCK;

/// The headers of all segments.
#[derive(Debug, Default)]
pub(super) struct Scan {
    to_read: VecDeque<u32>,
    reading: Vec<(ReadId, u32)>,
    found: BTreeMap<u32, (SegmentRead, Option<BatchHeader>)>,
}

/// The first pass.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// By life, oldest first.
    order: VecDeque<u32>,
    /// Places by life, for blocks.
    by_sequence: BTreeMap<u64, u32>,
    pub(super) current: Option<(u32, Stream)>,
    /// Of the present segment a batch has been seen.
    has_batch: bool,
    /// Of the segment before: its life, its place, the batch that would have followed.
    before: Option<(Life, u32, Option<u64>)>,
    /// A bad batch of which nothing says that it had been synced, yet.
    doubtful: Option<(u32, u64)>,
}

/// The second pass.
#[derive(Debug, Default)]
pub(super) struct Tell {
    order: VecDeque<u32>,
    pub(super) current: Option<(u32, Stream)>,
    /// Queues up to this have been told.
    queues_from: u64,
}

impl Journal {
    pub(super) fn opened(&mut self, outcome: Result<Vec<(Slot, u32)>, DiskError>) {
        if !matches!(self.phase, Phase::Opening) {
            self.stats.strays += 1;
            return;
        }
        let mut there = match outcome {
            Ok(there) => there,
            Err(error) => {
                self.stats.last_error = Some(error.clone());
                self.phase = Phase::Unusable;
                self.events
                    .push_back(Event::Unusable(Unusable::Disk(error)));
                return;
            }
        };
        there.retain(|(slot, _)| slot.0 < SLOTS_MAX);
        let there: BTreeMap<Slot, u32> = there.into_iter().collect();
        let beyond = there.keys().copied().filter(|slot| slot.0 >= self.budget);
        let slots = (0..self.budget).map(Slot).chain(beyond.collect::<Vec<_>>());
        let mut scan = Scan::default();
        for slot in slots {
            let size = there.get(&slot).copied().unwrap_or(0);
            let index = self.table.push(slot, size, State::Unmade);
            if size >= HEAD_LEN {
                scan.to_read.push_back(index);
            } else if slot.0 >= self.budget {
                self.table.set_state(index, State::Gone);
            }
        }
        self.phase = Phase::Scan(scan);
        self.advance();
    }

    /// An answer to a question of recovery, if it is one.
    pub(super) fn recovery_read(
        &mut self,
        read: ReadId,
        outcome: &Result<Payload, DiskError>,
    ) -> bool {
        match &mut self.phase {
            Phase::Scan(scan) => {
                let Some(at) = scan.reading.iter().position(|(id, _)| *id == read) else {
                    return false;
                };
                let (_, index) = scan.reading.swap_remove(at);
                let found = if let Ok(bytes) = outcome {
                    (
                        SegmentHeader::read(&bytes[..bytes.len().min(BLOCK as usize)]),
                        bytes.get(BLOCK as usize..).and_then(BatchHeader::read),
                    )
                } else {
                    self.stats.reads_failed += 1;
                    (SegmentRead::Garbled, None)
                };
                scan.found.insert(index, found);
                true
            }
            Phase::Replay(Replay { current, .. }) | Phase::Tell(Tell { current, .. }) => current
                .as_mut()
                .is_some_and(|(_, stream)| stream.answer(read, outcome)),
            _ => false,
        }
    }

    /// Goes on, as far as what was read goes and events are taken.
    pub(super) fn advance(&mut self) {
        while self.events.len() < EVENTS_MAX && self.event_bytes < EVENT_BYTES_MAX {
            let goes_on = match core::mem::replace(&mut self.phase, Phase::Moving) {
                Phase::Scan(scan) => self.scan_on(scan),
                Phase::Replay(replay) => self.replay_on(replay),
                Phase::Tell(tell) => self.tell_on(tell),
                other => {
                    self.phase = other;
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn scan_on(&mut self, mut scan: Scan) -> bool {
        while scan.reading.len() < HEADS_AHEAD
            && let Some(index) = scan.to_read.pop_front()
        {
            self.next_read += 1;
            let read = ReadId(self.next_read);
            self.commands.push_back(DiskCommand::Read {
                read,
                slot: self.table.at(index).slot,
                offset: 0,
                len: HEAD_LEN,
            });
            scan.reading.push((read, index));
        }
        if !scan.reading.is_empty() {
            self.phase = Phase::Scan(scan);
            return false;
        }
        self.scanned(&scan.found);
        true
    }

    /// All headers are there: which lives count, and in which order.
    fn scanned(&mut self, found: &BTreeMap<u32, (SegmentRead, Option<BatchHeader>)>) {
        for (index, (read, _)) in found {
            if let SegmentRead::Newer(version) = read {
                let slot = self.table.at(*index).slot;
                self.phase = Phase::Unusable;
                self.events
                    .push_back(Event::Unusable(Unusable::NewerVersion {
                        slot,
                        version: *version,
                    }));
                return;
            }
        }
        let top = found
            .values()
            .filter_map(|(read, _)| match read {
                SegmentRead::Header(header) => Some(header),
                _ => None,
            })
            .max_by_key(|header| header.life.sequence);
        let mut lives: BTreeMap<u64, u32> = BTreeMap::new();
        for (index, (read, batch)) in found {
            let slot = self.table.at(*index).slot;
            let (life, next_queue) = match read {
                SegmentRead::Header(header) => (Some(header.life), header.next_queue),
                // Without its header a segment is known by its first batch.
                SegmentRead::Garbled => (
                    batch.map(|batch| batch.life),
                    batch.map_or(0, |batch| batch.next_queue),
                ),
                _ => (None, 0),
            };
            self.next_queue = self.next_queue.max(next_queue);
            let is_held = top.is_none_or(|top| {
                top.holds(slot) || life.is_some_and(|life| life.sequence >= top.life.sequence)
            });
            if let Some(life) = life {
                self.writer.epoch = self.writer.epoch.max(life.epoch);
                self.writer.sequence = self.writer.sequence.max(life.sequence);
                if is_held && !lives.contains_key(&life.sequence) {
                    let segment = self.table.at_mut(*index);
                    segment.life = life;
                    segment.held = true;
                    self.table.set_state(*index, State::Closed);
                    lives.insert(life.sequence, *index);
                    self.table.held.insert(life.sequence);
                    continue;
                }
            }
            // A header that was being written when power failed looks like this too; but then no
            // later one says that the segment held something.
            let is_lost = life.is_none()
                && matches!(read, SegmentRead::Garbled)
                && top.is_some_and(|top| top.holds(slot));
            if is_lost {
                self.damage(Some(slot), Damage::Segment);
                self.commands.push_back(DiskCommand::SetAside { slot });
                self.stats.set_aside += 1;
            }
            let fits = self.table.at(*index).size == self.segment_size;
            let state = if fits && !is_lost {
                State::Idle
            } else {
                State::Unmade
            };
            self.table.set_state(*index, state);
        }
        self.trim();
        self.writer.epoch += 1;
        self.writer.sequence += 1;
        self.summary.segments = lives.len() as u32;
        self.phase = Phase::Replay(Replay {
            order: lives.values().copied().collect(),
            by_sequence: lives,
            ..Replay::default()
        });
    }

    fn damage(&mut self, slot: Option<Slot>, what: Damage) {
        self.summary.damaged += 1;
        self.events.push_back(Event::Damaged { slot, what });
    }

    fn replay_on(&mut self, mut replay: Replay) -> bool {
        let Some((index, mut stream)) = replay.current.take() else {
            let Some(index) = replay.order.pop_front() else {
                if replay.doubtful.take().is_some() {
                    self.summary.torn += 1;
                }
                self.replayed();
                return true;
            };
            let segment = self.table.at(index);
            let mut stream = Stream::new(segment.slot, segment.life, segment.size);
            stream.ask(&mut self.next_read, &mut self.commands);
            self.table.at_mut(index).used = BLOCK;
            self.table.at_mut(index).synced = BLOCK;
            replay.has_batch = false;
            replay.current = Some((index, stream));
            self.phase = Phase::Replay(replay);
            return true;
        };
        let segment = self.table.at(index);
        let (slot, life) = (segment.slot, segment.life);
        match stream.step() {
            None => {
                stream.ask(&mut self.next_read, &mut self.commands);
                replay.current = Some((index, stream));
                self.phase = Phase::Replay(replay);
                return false;
            }
            Some(Step::End | Step::Need(_)) => {
                self.stats.reads_failed += u64::from(stream.unreadable);
                let used = self.table.at(index).used;
                self.summary.bytes += u64::from(used);
                replay.before = Some((life, index, stream.walk.next_number()));
                self.phase = Phase::Replay(replay);
                return true;
            }
            Some(Step::Batch(header)) => {
                let end = padded(stream.walk.position() + header.len);
                let segment = self.table.at_mut(index);
                segment.used = end;
                segment.synced = end;
                self.next_queue = self.next_queue.max(header.next_queue);
                self.summary.batches += 1;
                self.judge(&mut replay, life, index, header);
            }
            Some(Step::Bad {
                offset,
                number,
                proven,
            }) => {
                if proven {
                    replay.doubtful = None;
                    self.table.at_mut(index).damaged = true;
                    self.damage(Some(slot), Damage::Bytes { offset });
                } else {
                    replay.doubtful = Some((index, number));
                }
            }
            Some(Step::Record { offset, len }) => {
                self.summary.records += 1;
                let place = Place {
                    segment: index,
                    offset,
                };
                let is_known = self.replay(&replay, stream.record(offset, len), place);
                if !is_known {
                    self.damage(Some(slot), Damage::Bytes { offset });
                }
            }
        }
        replay.current = Some((index, stream));
        self.phase = Phase::Replay(replay);
        true
    }

    /// What a batch says about those before it.
    fn judge(&mut self, replay: &mut Replay, life: Life, index: u32, header: BatchHeader) {
        let is_first = !core::mem::replace(&mut replay.has_batch, true);
        let Some((before, before_index, expected)) = replay.before.filter(|_| is_first) else {
            return;
        };
        let follows = before.epoch == life.epoch && before.sequence + 1 == life.sequence;
        // A doubtful batch that was not synced has been written again, with the same number, at
        // the beginning of the next segment: then it is no damage.
        let doubtful = replay.doubtful.take();
        let is_lost = match (doubtful, expected) {
            (Some((at, number)), _) if at != index => {
                let lost = follows && header.number > number && header.synced >= number;
                self.summary.torn += u32::from(!lost);
                lost
            }
            (None, Some(expected)) => {
                follows && header.number > expected && header.synced >= expected
            }
            (doubtful, _) => {
                replay.doubtful = doubtful;
                false
            }
        };
        if is_lost {
            let segment = self.table.at_mut(before_index);
            segment.damaged = true;
            let (slot, offset) = (segment.slot, segment.used);
            self.damage(Some(slot), Damage::Bytes { offset });
        }
    }

    /// False if the record says nothing that we know.
    fn replay(&mut self, replay: &Replay, bytes: &[u8], place: Place) -> bool {
        let Some(read) = record::read(bytes) else {
            return false;
        };
        let life = self.table.at(place.segment).life.sequence;
        let len = bytes.len() as u32;
        match read {
            Record::Data { targets, .. } => {
                let share = record::share(bytes.len(), targets.len());
                for target in &targets {
                    match *target {
                        Written::Key { key, .. } => {
                            self.set_key(key, place, share, 0);
                        }
                        Written::Entry {
                            queue: id,
                            sequence,
                            ..
                        } => {
                            if self.graves.contains_key(&Thing::Queue(id)) {
                                continue;
                            }
                            self.next_queue = self.next_queue.max(id.0 + 1);
                            let spot = Spot {
                                sequence,
                                offset: place.offset,
                                len,
                            };
                            let queue = self.queues.entry(id);
                            let queue = queue.or_insert_with(|| Queue::new(life));
                            queue.put(spot, place.segment, share, 0, &mut self.table);
                            self.opened.insert(id);
                        }
                    }
                }
            }
            Record::Delete(key) => {
                let since = match self.keys.remove(&key) {
                    Some(value) => {
                        self.table.dies(value.place.segment, value.bytes, 0);
                        Some(value.since)
                    }
                    None => None,
                };
                self.bury(Thing::Key(key), since, place, len);
            }
            Record::Dropped(id) => {
                self.next_queue = self.next_queue.max(id.0 + 1);
                let since = self.queues.remove(&id).map(|mut queue| {
                    queue.clear(0, &mut self.table);
                    queue.since
                });
                self.bury(Thing::Queue(id), since, place, len);
            }
            Record::State {
                queue: id,
                head,
                next,
            } => {
                if self.graves.contains_key(&Thing::Queue(id)) {
                    return true;
                }
                self.next_queue = self.next_queue.max(id.0 + 1);
                let queue = self.queues.entry(id);
                let queue = queue.or_insert_with(|| Queue::new(life));
                queue.take_below(head, 0, &mut self.table);
                queue.floor = queue.floor.max(head);
                queue.next = queue.next.max(next);
                if let Some((old, len)) = queue.state.replace((place, len)) {
                    self.table.dies(old.segment, len, 0);
                }
                self.table.born(place.segment, len);
            }
            Record::Block {
                queue: id,
                life,
                spots,
            } => {
                let segment = replay
                    .by_sequence
                    .get(&life.sequence)
                    .copied()
                    .filter(|index| self.table.at(*index).life == life);
                if let Some(segment) = segment
                    && let Some(queue) = self.queues.get_mut(&id)
                {
                    queue.adopt(&spots, segment, place, len, &mut self.table);
                    self.opened.insert(id);
                }
            }
        }
        true
    }

    fn bury(&mut self, thing: Thing, since: Option<u64>, place: Place, bytes: u32) {
        let old = self.graves.remove(&thing);
        if let Some(old) = &old {
            self.table.dies(old.place.segment, old.bytes, 0);
        }
        let since = match (since, old.map(|old| old.since)) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => match one.or(other) {
                Some(since) => since,
                // A dropped queue must stay dropped for what is found of it later, if anything.
                None => self.table.at(place.segment).life.sequence,
            },
        };
        self.add_grave(thing, place, bytes, since);
    }

    fn replayed(&mut self) {
        self.drop_graves();
        let told: BTreeSet<u32> = self.keys.values().map(|it| it.place.segment).collect();
        let mut order: Vec<u32> = told.into_iter().collect();
        order.sort_by_key(|index| self.table.at(*index).life.sequence);
        self.table.emptied = self
            .table
            .slots()
            .filter(|(_, segment)| segment.state == State::Closed && segment.live == 0)
            .map(|(index, _)| index)
            .collect();
        debug_assert!(
            self.table.segments[..LIMBOS as usize]
                .iter()
                .all(|limbo| limbo.live == 0),
            "nothing is in limbo before the first append"
        );
        self.phase = Phase::Tell(Tell {
            order: order.into(),
            ..Tell::default()
        });
    }

    fn tell_on(&mut self, mut tell: Tell) -> bool {
        if let Some((index, mut stream)) = tell.current.take() {
            match stream.step() {
                None => {
                    stream.ask(&mut self.next_read, &mut self.commands);
                    tell.current = Some((index, stream));
                    self.phase = Phase::Tell(tell);
                    return false;
                }
                Some(Step::End | Step::Need(_)) => {}
                Some(Step::Record { offset, len }) => {
                    let place = Place {
                        segment: index,
                        offset,
                    };
                    self.tell(stream.record(offset, len), place);
                    tell.current = Some((index, stream));
                }
                Some(Step::Batch(_) | Step::Bad { .. }) => tell.current = Some((index, stream)),
            }
        } else if let Some(index) = tell.order.pop_front() {
            let segment = self.table.at(index);
            let mut stream = Stream::new(segment.slot, segment.life, segment.size);
            stream.ask(&mut self.next_read, &mut self.commands);
            tell.current = Some((index, stream));
        } else if let Some((id, queue)) = self.queues.range(QueueId(tell.queues_from)..).next() {
            self.summary.queues += 1;
            self.summary.entries += queue.entries;
            tell.queues_from = id.0 + 1;
            self.events.push_back(Event::Recovered(Recovered::Queue {
                queue: *id,
                state: queue.summary(),
            }));
        } else {
            self.phase = Phase::Ready;
            self.writer.number = 1;
            self.summary.keys = self.keys.len() as u64;
            self.next_queue = self.next_queue.max(1);
            self.stats.damaged = u64::from(self.summary.damaged);
            self.stats.torn = u64::from(self.summary.torn);
            self.events
                .push_back(Event::RecoveryDone(self.summary.clone()));
            return false;
        }
        self.phase = Phase::Tell(tell);
        true
    }

    fn tell(&mut self, bytes: &[u8], place: Place) {
        let Some(Record::Data { targets, body }) = record::read(bytes) else {
            return;
        };
        let mut keys = Vec::new();
        for target in &targets {
            let Written::Key { key, note } = *target else {
                continue;
            };
            let value = self.keys.get(&key);
            if value.is_some_and(|value| value.place == place) {
                keys.push((key, Note::from_slice(note)));
            }
        }
        if keys.is_empty() {
            return;
        }
        self.event_bytes += body.len();
        self.events.push_back(Event::Recovered(Recovered::Record {
            keys,
            body: Payload::copy_from(body),
        }));
    }
}
