//! Drawing from a queue: a window in memory, filled by reads of what is on the disk.

use super::batch::LAZY_WITHIN;
use super::disk::{DiskCommand, DiskError, ReadId};
use super::queue::{
    Fetch, Fetched, Queue, WINDOW_BYTES_MAX, WINDOW_CROWDED, WINDOW_MAX, WINDOWS_BYTES_MAX, Wanted,
};
use super::record::{self, Record, Spot, Written};
use super::segment::{Place, State};
use super::walk::READ_MAX;
use super::{Damage, Draw, Event, Journal, Note};
use crate::buffer::Payload;
use crate::id::QueueId;
use crate::time::{Duration, Now};

/// Between two attempts at what could not be read.
const FETCH_RETRY: Duration = Duration::from_secs(1);

/// Attempts at one entry, after which it is given up.
const FETCH_ATTEMPTS: u32 = 3;

impl Journal {
    /// The next entry of a queue that was not drawn yet. After `Pending` comes
    /// [`Event::Drawable`].
    pub fn draw(&mut self, id: QueueId) -> Draw {
        if !self.is_ready() {
            return Draw::Empty;
        }
        let Some(Queue { backlog, .. }) = self.queues.get_mut(&id) else {
            return Draw::Empty;
        };
        let Some((sequence, base)) = backlog.first_from(backlog.drawn) else {
            return Draw::Empty;
        };
        while let Some(front) = backlog.window.front() {
            if front.sequence > sequence {
                break;
            }
            let Some(fetched) = backlog.window.pop_front() else {
                break;
            };
            backlog.window_bytes -= fetched.body.len();
            self.windows_bytes -= fetched.body.len();
            if fetched.sequence == sequence {
                backlog.drawn = sequence + 1;
                if backlog.window.len() < WINDOW_MAX / 2 {
                    self.fetch(id);
                }
                return Draw::Ready {
                    sequence,
                    note: fetched.note,
                    body: fetched.body,
                };
            }
        }
        let spot = backlog.runs.get(&base).and_then(|run| {
            let spots = run.spots.as_ref()?;
            let at = spots.binary_search_by_key(&sequence, |spot| spot.sequence);
            let place = Place {
                segment: run.segment,
                offset: spots[at.ok()?].offset,
            };
            Some(place)
        });
        if let Some(place) = spot
            && let Some(bytes) = self.writer.in_memory(place)
            && let Some((note, body)) = entry(bytes, id, sequence)
        {
            backlog.drawn = sequence + 1;
            return Draw::Ready {
                sequence,
                note,
                body,
            };
        }
        backlog.waiting = true;
        self.stats.draws_pending += 1;
        self.fetch(id);
        Draw::Pending
    }

    /// The same, of those that are not below `from`: the others are with their owner.
    pub fn draw_from(&mut self, id: QueueId, from: u64) -> Draw {
        if let Some(Queue { backlog, .. }) = self.queues.get_mut(&id) {
            backlog.drawn = backlog.drawn.max(from);
        }
        self.draw(id)
    }

    /// What was drawn and is not consumed is drawn again.
    pub fn rewind(&mut self, id: QueueId) {
        if let Some(Queue { backlog, .. }) = self.queues.get_mut(&id) {
            self.windows_bytes -= backlog.rewind();
        }
    }

    /// Many queues are drawn from at once: together they are not to hold much.
    fn is_crowded(&self) -> bool {
        self.windows_bytes + self.fetches.len() * READ_MAX as usize >= WINDOWS_BYTES_MAX
    }

    /// Reads what will be drawn next, unless that is under way or in memory.
    pub(super) fn fetch(&mut self, id: QueueId) {
        let is_crowded = self.is_crowded();
        // Places found in memory may have to be loaded first: once.
        for _ in 0..2 {
            let Some(Queue { backlog, .. }) = self.queues.get_mut(&id) else {
                return;
            };
            if backlog.fetch.is_some() || backlog.retry_at.is_some() {
                return;
            }
            let from = match backlog.window.back() {
                Some(last) => last.sequence + 1,
                None => backlog.drawn,
            };
            if backlog.window.len() >= WINDOW_MAX || backlog.window_bytes >= WINDOW_BYTES_MAX {
                return;
            }
            if is_crowded && !backlog.window.is_empty() {
                return;
            }
            let Some((sequence, base)) = backlog.first_from(from) else {
                return;
            };
            let Some(run) = backlog.runs.get(&base) else {
                return;
            };
            let segment = self.table.at(run.segment);
            let Some(spots) = &run.spots else {
                let Some((place, len)) = run.block else {
                    return;
                };
                if let Some(bytes) = self.writer.in_memory(place) {
                    let Some(Record::Block { spots, .. }) = record::read(bytes) else {
                        return;
                    };
                    backlog.load(base, spots);
                    continue;
                }
                let home = self.table.at(place.segment);
                self.next_read += 1;
                let read = ReadId(self.next_read);
                self.fetches.insert(read, id);
                self.commands.push_back(DiskCommand::Read {
                    read,
                    slot: home.slot,
                    offset: place.offset,
                    len,
                });
                backlog.fetch = Some(Fetch {
                    read,
                    segment: place.segment,
                    life: home.life,
                    start: place.offset,
                    len,
                    what: Wanted::Block(base),
                });
                return;
            };
            let most = if backlog.failures > 0 {
                1
            } else if is_crowded {
                self.stats.reads_crowded += 1;
                WINDOW_CROWDED
            } else {
                WINDOW_MAX - backlog.window.len()
            };
            let begin = spots.partition_point(|spot| spot.sequence < sequence);
            let mut wanted: Vec<Spot> = Vec::new();
            for spot in &spots[begin..] {
                if spot.sequence < base || !run.has(spot.sequence - base) {
                    continue;
                }
                let end = spot.offset.saturating_add(spot.len);
                let start = wanted.first().map_or(spot.offset, |first| first.offset);
                let is_on_disk = spot.offset < segment.synced && segment.state != State::Limbo;
                let is_near = wanted.is_empty() || end - start <= READ_MAX;
                if !is_on_disk || !is_near || wanted.len() >= most {
                    break;
                }
                wanted.push(*spot);
            }
            let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
                // It is in memory, or its run does not know it any more.
                self.give_up_unplaced(id, sequence, base);
                return;
            };
            self.next_read += 1;
            let read = ReadId(self.next_read);
            self.fetches.insert(read, id);
            let start = first.offset;
            let len = last.offset.saturating_add(last.len) - start;
            self.commands.push_back(DiskCommand::Read {
                read,
                slot: segment.slot,
                offset: start,
                len,
            });
            backlog.fetch = Some(Fetch {
                read,
                segment: run.segment,
                life: segment.life,
                start,
                len,
                what: Wanted::Entries(wanted),
            });
            return;
        }
    }

    /// A block that does not name an entry of its run: it cannot be found, ever.
    fn give_up_unplaced(&mut self, id: QueueId, sequence: u64, base: u64) {
        let queue = self.queues.get(&id);
        let run = queue.and_then(|queue| queue.backlog.runs.get(&base));
        let spots = run.and_then(|run| run.spots.as_ref());
        if spots.is_some_and(|spots| spots.iter().all(|spot| spot.sequence != sequence)) {
            self.lose(id, sequence);
            self.tell_drawable(id);
        }
    }

    fn tell_drawable(&mut self, id: QueueId) {
        if let Some(Queue { backlog, .. }) = self.queues.get_mut(&id)
            && core::mem::take(&mut backlog.waiting)
        {
            self.events.push_back(Event::Drawable(id));
        }
    }

    /// An entry cannot be read: it is out of its queue, and that is told.
    fn lose(&mut self, id: QueueId, sequence: u64) {
        let queue = self.queues.get_mut(&id);
        let segment = queue.and_then(|queue| queue.backlog.segment_of(sequence));
        let slot = segment.map(|segment| self.table.at(segment).slot);
        self.stats.entries_lost += 1;
        self.events.push_back(Event::Damaged {
            slot,
            what: Damage::Entry(id, sequence),
        });
        self.end_entry(id, sequence);
    }

    /// An answer to a fetch, if it is one.
    pub(super) fn fetched(
        &mut self,
        now: Now,
        read: ReadId,
        outcome: &Result<Payload, DiskError>,
    ) -> bool {
        let Some(id) = self.fetches.remove(&read) else {
            return false;
        };
        let Some(Queue { backlog, .. }) = self.queues.get_mut(&id) else {
            return false;
        };
        let Some(fetch) = backlog.fetch.take_if(|fetch| fetch.read == read) else {
            return false; // Nobody has waited for it since the queue was rewound.
        };
        let is_there = self.table.at(fetch.segment).life == fetch.life;
        let bytes: &[u8] = outcome.as_deref().unwrap_or(&[]);
        self.stats.reads_failed += u64::from(outcome.is_err());
        let mut failed = None;
        match fetch.what {
            Wanted::Block(base) => {
                let is_signed = record::is_signed(bytes, fetch.life, fetch.start);
                let is_wanted = backlog.runs.get(&base).is_some_and(|run| {
                    run.spots.is_none()
                        && run.block.is_some_and(|(place, _)| {
                            place.segment == fetch.segment && place.offset == fetch.start
                        })
                });
                match record::read(bytes) {
                    _ if !is_there || !is_wanted => {}
                    Some(Record::Block { queue, spots, .. }) if is_signed && queue == id => {
                        backlog.failures = 0;
                        backlog.load(base, spots);
                    }
                    _ => failed = Some(None),
                }
            }
            Wanted::Entries(spots) => {
                for spot in spots {
                    if backlog.segment_of(spot.sequence) != Some(fetch.segment) || !is_there {
                        // Consumed, or moved meanwhile: what comes after it may be moved too.
                        if backlog.first_from(spot.sequence).map(|(at, _)| at)
                            == Some(spot.sequence)
                        {
                            break;
                        }
                        continue;
                    }
                    let from = (spot.offset - fetch.start) as usize;
                    let record = bytes.get(from..from + spot.len as usize).unwrap_or(&[]);
                    let read = record::is_signed(record, fetch.life, spot.offset)
                        .then(|| entry(record, id, spot.sequence))
                        .flatten();
                    let Some((note, body)) = read else {
                        failed = Some(Some(spot.sequence));
                        break;
                    };
                    backlog.failures = 0;
                    backlog.window_bytes += body.len();
                    self.windows_bytes += body.len();
                    backlog.window.push_back(Fetched {
                        sequence: spot.sequence,
                        note,
                        body,
                    });
                }
            }
        }
        if let Some(entry) = failed {
            self.fetch_failed(now, id, entry);
            return true;
        }
        // A block leads to the entries that it names.
        self.fetch(id);
        if let Some(Queue { backlog, .. }) = self.queues.get(&id)
            && (!backlog.window.is_empty() || backlog.fetch.is_none())
        {
            self.tell_drawable(id);
        }
        true
    }

    /// `sequence` is `None` if it was a block that could not be read.
    fn fetch_failed(&mut self, now: Now, id: QueueId, sequence: Option<u64>) {
        let Some(Queue { backlog, .. }) = self.queues.get_mut(&id) else {
            return;
        };
        backlog.failures += 1;
        if backlog.failures <= FETCH_ATTEMPTS {
            backlog.retry_at = Some(now.monotonic + FETCH_RETRY);
            self.retrying.insert(id);
            return;
        }
        backlog.failures = 0;
        let from = match backlog.window.back() {
            Some(last) => last.sequence + 1,
            None => backlog.drawn,
        };
        if let Some(sequence) = sequence {
            self.lose(id, sequence);
        } else if let Some((_, base)) = backlog.first_from(from) {
            // Without their block the entries cannot be found.
            let mut next = Some(base);
            while let Some(at) = next {
                let Some(Queue { backlog, .. }) = self.queues.get(&id) else {
                    break;
                };
                next = backlog
                    .first_from(at)
                    .filter(|(_, run)| *run == base)
                    .map(|(at, _)| at);
                if let Some(at) = next {
                    self.lose(id, at);
                }
            }
        }
        // Like what is consumed.
        self.set_due(now.monotonic + LAZY_WITHIN);
        self.tell_drawable(id);
    }

    /// Reads again what could not be read.
    pub(super) fn retry_fetches(&mut self, now: Now) {
        let due: Vec<QueueId> = self
            .retrying
            .iter()
            .copied()
            .filter(|id| match self.queues.get(id) {
                Some(Queue { backlog, .. }) => {
                    backlog.retry_at.is_some_and(|at| at <= now.monotonic)
                }
                None => true,
            })
            .collect();
        for id in due {
            self.retrying.remove(&id);
            if let Some(Queue { backlog, .. }) = self.queues.get_mut(&id) {
                backlog.retry_at = None;
            }
            self.fetch(id);
            if let Some(Queue { backlog, .. }) = self.queues.get(&id)
                && backlog.fetch.is_none()
            {
                self.tell_drawable(id);
            }
        }
    }
}

/// Note and body of one entry in a record.
pub(super) fn entry(bytes: &[u8], id: QueueId, wanted: u64) -> Option<(Note, Payload)> {
    let Record::Data { targets, body } = record::read(bytes)? else {
        return None;
    };
    targets.iter().find_map(|target| match target {
        Written::Entry {
            queue,
            sequence,
            note,
            ..
        } if *queue == id && *sequence == wanted => {
            Some((Note::from_slice(note), Payload::copy_from(body)))
        }
        _ => None,
    })
}
