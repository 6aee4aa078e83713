//! Looking at a queue without drawing from it: what is in it stays there, and whoever draws
//! notices nothing.
//!
//! A look reads one piece and is over. It keeps nothing of the queue's: not the window, not the
//! places of a run's entries.

use super::disk::{DiskCommand, DiskError, ReadId};
use super::draw::entry;
use super::queue::{Fetch, Queue, WINDOW_MAX, Wanted};
use super::record::{self, Life, Record, Spot};
use super::segment::{Place, State};
use super::walk::READ_MAX;
use super::{Event, Journal, Note};
use crate::buffer::Payload;
use crate::id::QueueId;

/// Looks at once; another one is refused.
pub const LOOKS_MAX: usize = 16;

/// Attempts at one read, after which what it was for is passed over.
const ATTEMPTS: u32 = 3;

/// A piece of a queue, as it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The number that its asker gave.
    pub ask: u64,
    /// What lives, oldest first: at most 256 entries, and 256 KiB unless one alone is longer.
    pub entries: Vec<LookedAt>,
    /// Where to look next; `None`: nothing follows.
    pub next: Option<u64>,
    /// Entries that could not be read, and are passed over.
    pub unreadable: u64,
}

impl Looked {
    /// Of its bodies.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.body.len()).sum()
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedAt {
    /// Its number.
    pub sequence: u64,
    /// Of the target.
    pub note: Note,
    /// Of the record.
    pub body: Payload,
}

/// One that is under way.
#[derive(Debug)]
pub(super) struct Look {
    ask: u64,
    queue: QueueId,
    from: u64,
    unreadable: u64,
    failures: u32,
    fetch: Option<Fetch>,
    /// The places of a run's entries, from its block there.
    block: Option<(Place, Life, Vec<Spot>)>,
}

/// What a look does next.
enum Next {
    /// The places of the run are needed.
    Block { base: u64, place: Place, len: u32 },
    /// They are here: of a block that is in memory.
    Loaded(Place, Life, Vec<Spot>),
    /// So are the entries, and the last of them has this number.
    Ready(Vec<LookedAt>, u64),
    /// They are read from this segment.
    Entries(u32, Vec<Spot>),
    /// This one cannot be found, ever.
    PassOver(u64),
    /// Nothing lives there.
    Nothing,
}

impl Journal {
    /// Looks at the entries of a queue from number `from` on. [`Event::Looked`] follows, with `ask`
    /// in it. False if there is no such queue, or if too many are looking.
    pub fn look(&mut self, ask: u64, queue: QueueId, from: u64) -> bool {
        if !self.is_ready() || !self.queues.contains_key(&queue) || self.looks.len() >= LOOKS_MAX {
            return false;
        }
        self.looks.push(Look {
            ask,
            queue,
            from,
            unreadable: 0,
            failures: 0,
            fetch: None,
            block: None,
        });
        self.look_on(self.looks.len() - 1);
        true
    }

    /// Goes on until something has to be read, or the look is over.
    fn look_on(&mut self, at: usize) {
        loop {
            match self.next_of_look(&self.looks[at]) {
                Next::Block { base, place, len } => {
                    let start = place.offset;
                    let what = Wanted::Block(base);
                    return self.read_for_look(at, place.segment, start, len, what);
                }
                Next::Loaded(place, life, spots) => {
                    self.looks[at].block = Some((place, life, spots));
                }
                Next::Ready(entries, last) => {
                    return self.end_look(at, entries, Some(last + 1));
                }
                Next::Entries(segment, spots) => {
                    let (Some(first), Some(last)) = (spots.first(), spots.last()) else {
                        return self.end_look(at, Vec::new(), None);
                    };
                    let start = first.offset;
                    let len = last.offset.saturating_add(last.len) - start;
                    return self.read_for_look(at, segment, start, len, Wanted::Entries(spots));
                }
                Next::PassOver(sequence) => self.pass_over(at, sequence),
                Next::Nothing => return self.end_look(at, Vec::new(), None),
            }
        }
    }

    fn next_of_look(&self, look: &Look) -> Next {
        let Some(Queue { backlog, .. }) = self.queues.get(&look.queue) else {
            return Next::Nothing;
        };
        let Some((sequence, base)) = backlog.first_from(look.from) else {
            return Next::Nothing;
        };
        let Some(run) = backlog.runs.get(&base) else {
            return Next::Nothing;
        };
        let spots = match (&run.spots, run.block, &look.block) {
            (Some(spots), _, _) => spots,
            (None, Some((place, _)), Some((known, life, spots)))
                if place == *known && self.table.at(place.segment).life == *life =>
            {
                spots
            }
            (None, Some((place, len)), _) => {
                let Some(bytes) = self.writer.in_memory(place) else {
                    return Next::Block { base, place, len };
                };
                let life = self.table.at(place.segment).life;
                return match record::read(bytes) {
                    Some(Record::Block { spots, .. }) => Next::Loaded(place, life, spots),
                    _ => Next::PassOver(sequence),
                };
            }
            (None, None, _) => return Next::PassOver(sequence),
        };
        let begin = spots.partition_point(|spot| spot.sequence < sequence);
        if spots
            .get(begin)
            .is_none_or(|spot| spot.sequence != sequence)
        {
            // The block does not name it.
            return Next::PassOver(sequence);
        }
        let living = spots[begin..]
            .iter()
            .filter(|spot| spot.sequence >= base && run.has(spot.sequence - base));
        let segment = self.table.at(run.segment);
        // What cannot be read together is read one by one.
        let most = if look.failures > 0 { 1 } else { WINDOW_MAX };
        let (mut ready, mut bytes, mut wanted) = (Vec::new(), 0, Vec::<Spot>::new());
        for spot in living {
            let place = Place {
                segment: run.segment,
                offset: spot.offset,
            };
            let found = self
                .writer
                .in_memory(place)
                .and_then(|record| entry(record, look.queue, spot.sequence));
            let is_full = ready.len().max(wanted.len()) >= most;
            match found {
                Some((note, body))
                    if wanted.is_empty() && !is_full && bytes < READ_MAX as usize =>
                {
                    bytes += body.len();
                    ready.push(LookedAt {
                        sequence: spot.sequence,
                        note,
                        body,
                    });
                }
                None if ready.is_empty() && !is_full => {
                    let end = spot.offset.saturating_add(spot.len);
                    let start = wanted.first().map_or(spot.offset, |first| first.offset);
                    let is_on_disk = spot.offset < segment.synced && segment.state != State::Limbo;
                    let is_near = wanted.is_empty() || end - start <= READ_MAX;
                    if !is_on_disk || !is_near {
                        break;
                    }
                    wanted.push(*spot);
                }
                _ => break,
            }
        }
        match ready.last().map(|last: &LookedAt| last.sequence) {
            Some(last) => Next::Ready(ready, last),
            None if !wanted.is_empty() => Next::Entries(run.segment, wanted),
            // It is nowhere.
            None => Next::PassOver(sequence),
        }
    }

    fn read_for_look(&mut self, at: usize, segment: u32, start: u32, len: u32, what: Wanted) {
        self.next_read += 1;
        let read = ReadId(self.next_read);
        let home = self.table.at(segment);
        self.looks[at].fetch = Some(Fetch {
            read,
            segment,
            life: home.life,
            start,
            len,
            what,
        });
        self.commands.push_back(DiskCommand::Read {
            read,
            slot: home.slot,
            offset: start,
            len,
        });
    }

    /// The entry is left out, and that is told.
    fn pass_over(&mut self, at: usize, sequence: u64) {
        let look = &mut self.looks[at];
        look.from = sequence + 1;
        look.unreadable += 1;
        look.failures = 0;
    }

    fn end_look(&mut self, at: usize, entries: Vec<LookedAt>, next: Option<u64>) {
        let look = self.looks.swap_remove(at);
        let looked = Looked {
            ask: look.ask,
            entries,
            next,
            unreadable: look.unreadable,
        };
        self.event_bytes += looked.bytes();
        self.events.push_back(Event::Looked(looked));
    }

    /// An answer to a look's read, if it is one.
    pub(super) fn looked(&mut self, read: ReadId, outcome: &Result<Payload, DiskError>) -> bool {
        let is_it = |look: &Look| look.fetch.as_ref().is_some_and(|fetch| fetch.read == read);
        let Some(at) = self.looks.iter().position(is_it) else {
            return false;
        };
        let look = &mut self.looks[at];
        let (id, from) = (look.queue, look.from);
        let Some(fetch) = look.fetch.take() else {
            return false;
        };
        self.stats.reads_failed += u64::from(outcome.is_err());
        let bytes: &[u8] = outcome.as_deref().unwrap_or(&[]);
        let is_there = self.table.at(fetch.segment).life == fetch.life;
        match fetch.what {
            Wanted::Block(_) => {
                let place = Place {
                    segment: fetch.segment,
                    offset: fetch.start,
                };
                match record::read(bytes) {
                    Some(Record::Block { queue, spots, .. })
                        if queue == id && record::is_signed(bytes, fetch.life, fetch.start) =>
                    {
                        let look = &mut self.looks[at];
                        look.block = Some((place, fetch.life, spots));
                        look.failures = 0;
                    }
                    // Where it was it is no more.
                    _ if !is_there => {}
                    _ if self.look_failed(at, true) => {}
                    _ => return true,
                }
            }
            Wanted::Entries(spots) => {
                let mut entries: Vec<LookedAt> = Vec::new();
                let mut next = from;
                for spot in spots {
                    let begin = (spot.offset - fetch.start) as usize;
                    let record = bytes.get(begin..begin + spot.len as usize).unwrap_or(&[]);
                    let read = record::is_signed(record, fetch.life, spot.offset)
                        .then(|| entry(record, id, spot.sequence))
                        .flatten();
                    let Some((note, body)) = read else {
                        break;
                    };
                    next = spot.sequence + 1;
                    // It may have been consumed meanwhile; where it lives now does not matter.
                    if let Some(Queue { backlog, .. }) = self.queues.get_mut(&id)
                        && backlog.segment_of(spot.sequence).is_some()
                    {
                        entries.push(LookedAt {
                            sequence: spot.sequence,
                            note,
                            body,
                        });
                    }
                }
                if !entries.is_empty() {
                    self.end_look(at, entries, Some(next));
                    return true;
                }
                let look = &mut self.looks[at];
                if next > from {
                    (look.from, look.failures) = (next, 0);
                } else if is_there && !self.look_failed(at, false) {
                    return true;
                }
            }
        }
        self.look_on(at);
        true
    }

    /// What cannot be read after some attempts is passed over, and the look is over: the entry at
    /// which it is, or with a block all that only that leads to. Whether it goes on.
    fn look_failed(&mut self, at: usize, is_block: bool) -> bool {
        let look = &mut self.looks[at];
        look.failures += 1;
        if look.failures < ATTEMPTS {
            return true;
        }
        let mut next = None;
        if let Some(Queue { backlog, .. }) = self.queues.get(&look.queue)
            && let Some((first, base)) = backlog.first_from(look.from)
        {
            let mut following = backlog.first_from(first + 1);
            look.unreadable += 1;
            while is_block
                && let Some((sequence, run)) = following
                && run == base
            {
                look.unreadable += 1;
                following = backlog.first_from(sequence + 1);
            }
            next = following.map(|(sequence, _)| sequence);
        }
        self.end_look(at, Vec::new(), next);
        false
    }
}
