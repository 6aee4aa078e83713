//! What survives a power cut: one append-only log of everything that was promised.
//!
//! The machine turns what its owners want kept into batches, says when they are synced, gives back
//! after a start what was kept before, and makes room by copying forward what still lives. It does
//! no I/O: [`disk`] is what it asks of a host.
//!
//! # The file format, version 1
//!
//! A journal is a folder of segments of one size. All numbers are little-endian, all checksums
//! CRC32C. A segment is a header block, then batches; headers begin at a multiple of 4096.
//!
//! **The header of a segment**, one block, synced before the first batch is written:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `FGJRNSEG` |
//! | 8 | 4 | version of the format: 1 |
//! | 12 | 4 | checksum of bytes 0 to 11: the same in every version, so that a newer one is told from garbage |
//! | 16 | 4 | checksum of bytes 24 to 4095 |
//! | 24 | 8 | epoch: counted up with every start |
//! | 32 | 8 | sequence: counted up with every segment begun, never reused; the order of the log |
//! | 40 | 8 | next queue id |
//! | 64 | 4032 | a bit for each slot (the lowest first) that held something then: of slots whose bit is 0, older lives are over |
//!
//! **The header of a batch**:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `FGJRNBAT` |
//! | 8 | 4 | checksum of bytes 12 to 63 |
//! | 12 | 4 | bytes of records that follow this header; zeros follow up to the next block |
//! | 16 | 8 | epoch of its segment |
//! | 24 | 8 | sequence of its segment |
//! | 32 | 8 | number: counted up from 1 within an epoch; one that failed to sync is written again, in another segment, under its number |
//! | 40 | 8 | the highest number that was synced when this was written: a bad batch up to there is damage, a later one a torn tail |
//! | 48 | 8 | next queue id |
//!
//! **A record**:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | its length, these bytes included |
//! | 4 | 4 | checksum of epoch, sequence (8 bytes each), offset in the segment (4), and bytes 8 to the end |
//! | 8 | 1 | what it is |
//! | 9 | | what it says |
//!
//! | what it is | what it says |
//! |---|---|
//! | 1 data | number of targets (2), the targets, the body |
//! | 2 key deleted | key (17) |
//! | 3 state of a queue | queue (8), 3 (1), head (8): all below is consumed, next (8); the first one makes the queue |
//! | 4 queue dropped | queue (8) |
//! | 5 block | queue (8), epoch and sequence of the segment with the entries (8 each), number of the first (8), then for each entry: its number less the first (1), offset (4), length of its record (4) |
//!
//! | target | bytes |
//! |---|---|
//! | value of a key | 1, length of the note (2), key: kind (1), id (8), sub (8); note |
//! | entry of a queue | 3, length of the note (2), queue (8), number (8); note |
//!
//! Where an entry or a state has 2 instead of 3, it is of a queue that an earlier build had all in
//! memory: it is read as if it were 3, and written again as that.
//!
//! Later in the log wins: a value ends the one before, a state what lies below its head. Copies
//! that cleaning makes keep an entry's number.
//!
//! # Limits
//!
//! | what | limit | what happens there |
//! |---|---|---|
//! | bytes on the disk | [`Settings::size`] | appends are refused with [`Refused::Full`] while fewer than [`RESERVE`] segments are free; [`Journal::append_needed`] may use one of those |
//! | bytes not synced | [`UNSYNCED_MAX`] | the same |
//! | a record | a segment less two blocks | [`Refused::TooLarge`] |
//! | a queue's window | 256 entries or 256 KiB | it is not filled further until drawn |
//! | looks at once | [`LOOKS_MAX`] | the next one is refused |
//! | a segment's slots | [`SLOTS_MAX`] | files with higher numbers are not touched |
//!
//! Refusals and everything that goes wrong are counted in [`Stats`].

mod batch;
mod clean;
mod crc;
pub mod disk;
mod draw;
mod inspect;
mod look;
mod queue;
mod record;
mod recover;
mod segment;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smallvec::SmallVec;

use crate::buffer::{Charge, Memory, Payload};
use crate::id::{Lsn, QueueId};
use crate::time::{Duration, Instant, Now};
use batch::{UnderWay, Writer};
use clean::Cleaning;
use disk::{DiskCommand, DiskError, DiskEvent, ReadId, Slot};
pub use inspect::{Found, FoundTarget, inspect};
use look::Look;
pub use look::{LOOKS_MAX, Looked, LookedAt};
use queue::Queue;
use record::Written;
use recover::{Replay, Scan, Tell};
use segment::{BATCH_HEADER, Place, Table};
pub use segment::{BLOCK, SLOTS_MAX, VERSION};

/// Free segments that owners' data may not use: deletes, consumption and copies can always be
/// written, and what is needed to send what is in it, so that a full journal can be emptied.
pub const RESERVE: u32 = 2;

/// A journal has at least so many segments, whatever its settings say.
pub const SEGMENTS_MIN: u32 = 6;

/// A segment is at least so long: a header and a few batches.
pub const SEGMENT_MIN: u32 = 8 * BLOCK;

/// Bytes that wait for the disk, beyond which owners' data is refused.
pub const UNSYNCED_MAX: usize = 4 * 1024 * 1024;

/// So many queues are accounted for after every call; more, after every so many.
const QUEUES_FEW: usize = 64;
const ACCOUNT_EVERY: u32 = 64;

/// How large a journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes on the disk: rounded down to whole segments, at least [`SEGMENTS_MIN`] of them.
    pub size: u64,
    /// Bytes of a segment: rounded down to blocks, at least [`SEGMENT_MIN`].
    pub segment: u32,
}

/// The owner's name for a value. Ordered; what it means is the owner's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is: a session, a subscription, a retained message.
    pub kind: u8,
    /// Of which.
    pub id: u64,
    /// A part of it.
    pub sub: u64,
}

/// What makes a record live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// It is the present value of a key.
    Key {
        /// Which.
        key: Key,
        /// A few bytes of the owner's, at most 65 535.
        note: &'a [u8],
    },
    /// It is an entry of a queue, which gives it the next number.
    Queue {
        /// Which.
        queue: QueueId,
        /// A few bytes of the owner's, at most 65 535.
        note: &'a [u8],
    },
    /// The same, under a number of the owner's: not below the next, and above those before it in
    /// this record.
    Numbered {
        /// Which.
        queue: QueueId,
        /// The entry's number.
        sequence: u64,
        /// A few bytes of the owner's, at most 65 535.
        note: &'a [u8],
    },
}

/// How soon a record is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// At the end of the turn, or when the commit under way is done.
    Strict,
    /// Within this time.
    Interval(Duration),
    /// With the next commit, or after 10 s.
    Lazy,
}

/// Why an append was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No room, or too much waits for the disk. [`Event::Room`] follows.
    Full,
    /// No segment can hold it.
    TooLarge,
    /// Before [`Event::RecoveryDone`].
    NotReady,
    /// There is no disk that takes anything. [`Event::Room`] follows when there is.
    Failed,
    /// A target is a queue that does not exist: its record was damaged, or it was never made.
    NoQueue,
}

/// The owner's bytes of one target.
pub type Note = SmallVec<[u8; 16]>;

/// The next entry of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Draw {
    /// It is here.
    Ready {
        /// To be consumed by.
        sequence: u64,
        /// Of the target.
        note: Note,
        /// Of the record.
        body: Payload,
    },
    /// It is being read.
    Pending,
    /// There is none that was not drawn.
    Empty,
}

/// How a queue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// The lowest entry that is not consumed, or `next`.
    pub head: u64,
    /// The number that the next entry gets.
    pub next: u64,
    /// Not consumed.
    pub entries: u64,
    /// Of the journal, that they hold: a record with several targets counts in parts.
    pub bytes: u64,
}

/// What a recovery tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// A record with a value that lives. They come in the order of the log.
    Record {
        /// Of which it is the value.
        keys: Vec<(Key, Note)>,
        /// What was appended.
        body: Payload,
    },
    /// A queue, after all records. What is in it is drawn.
    Queue {
        /// Which.
        queue: QueueId,
        /// With what in it.
        state: QueueState,
    },
}

/// What a recovery found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segments of the log.
    pub segments: u32,
    /// Their used bytes.
    pub bytes: u64,
    /// Batches read.
    pub batches: u64,
    /// Records read, live or not.
    pub records: u64,
    /// Keys with a value.
    pub keys: u64,
    /// Queues.
    pub queues: u64,
    /// Entries of all queues.
    pub entries: u64,
    /// Places that had been synced and cannot be read.
    pub damaged: u32,
    /// Batches that were being written when power failed.
    pub torn: u32,
}

/// Why there is no journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// The folder cannot be opened.
    Disk(DiskError),
    /// Nothing is read or written: a newer program's journal must not be spoilt.
    NewerVersion {
        /// The first such segment.
        slot: Slot,
        /// Its version; ours is [`VERSION`].
        version: u32,
    },
}

/// What had been synced and is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A whole segment has no readable header.
    Segment,
    /// From there on, up to the next record or batch that can be read.
    Bytes {
        /// In the segment.
        offset: u32,
    },
    /// An entry could not be read, and is out of its queue.
    Entry(QueueId, u64),
}

/// What the owners should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was kept.
    Recovered(Recovered),
    /// That was all: appends are taken.
    RecoveryDone(Summary),
    /// There will be no recovery, and every append is refused. A lock and a newer version end a
    /// start; the rest is the gateway's to decide. A folder is not opened a second time.
    Unusable(Unusable),
    /// For the log and for people.
    Damaged {
        /// Where, if that is known.
        slot: Option<Slot>,
        /// What.
        what: Damage,
    },
    /// What was not synced is being written again elsewhere.
    CommitFailed(DiskError),
    /// Appends are refused.
    Full,
    /// Appends are taken again.
    Room,
    /// What [`Journal::append_needed`] has refused is taken again, and as yet nothing else.
    Reserve,
    /// A draw that was pending can go on.
    Drawable(QueueId),
    /// A look at a queue is over.
    Looked(Looked),
}

/// Counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records written, copies included.
    pub records: u64,
    /// Bytes of owners' bodies appended.
    pub body_bytes: u64,
    /// Commits, headers of segments included.
    pub commits: u64,
    /// That failed.
    pub commits_failed: u64,
    /// Bytes handed to the disk.
    pub bytes_written: u64,
    /// Bytes of records that were written again to make room or after a failure.
    pub bytes_copied: u64,
    /// Segments that were emptied to make room.
    pub cleanings: u64,
    /// Segments that could not be emptied because something in them cannot be read.
    pub stuck: u64,
    /// Segments begun.
    pub segments_begun: u64,
    /// Files made.
    pub segments_made: u64,
    /// Files that could not be made.
    pub makes_failed: u64,
    /// Segments that can be filled, besides the one that is.
    pub segments_free: u32,
    /// Segments in all.
    pub segments: u32,
    /// Bytes of what lives.
    pub live_bytes: u64,
    /// Damaged files that were put out of the way.
    pub set_aside: u64,
    /// Damaged places found by the recovery.
    pub damaged: u64,
    /// Torn batches found by the recovery.
    pub torn: u64,
    /// Entries that could not be read.
    pub entries_lost: u64,
    /// Reads of a few entries alone, because many queues were drawn from at once.
    pub reads_crowded: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Blocks written.
    pub blocks: u64,
    /// Draws that had to wait.
    pub draws_pending: u64,
    /// Appends refused for want of room.
    pub refused_full: u64,
    /// Appends refused because too much waits for the disk.
    pub refused_behind: u64,
    /// Appends refused because the disk fails.
    pub refused_failed: u64,
    /// Appends refused for their size.
    pub refused_too_large: u64,
    /// Answers that nobody waits for.
    pub strays: u64,
    /// Bytes of memory: buffers, windows, and the table of what is where.
    pub memory: usize,
    /// Bytes that wait for the disk.
    pub unsynced: usize,
    /// What the disk said when it last failed.
    pub last_error: Option<DiskError>,
}

/// The value of a key, or the record that ended one.
#[derive(Debug, Clone, Copy)]
struct Value {
    place: Place,
    /// That it counts.
    bytes: u32,
    /// The life with the first record of the same thing that may still be found.
    since: u64,
}

/// What a grave is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Key(Key),
    Queue(QueueId),
}

#[derive(Debug)]
enum Phase {
    Opening,
    Scan(Scan),
    Replay(Replay),
    Tell(Tell),
    Ready,
    Unusable,
    /// Within [`Journal::advance`] alone.
    Moving,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    segment_size: u32,
    /// Slots.
    budget: u32,
    phase: Phase,
    table: Table,
    keys: BTreeMap<Key, Value>,
    /// Deleted keys and dropped queues whose end must be kept.
    graves: BTreeMap<Thing, Value>,
    queues: BTreeMap<QueueId, Queue>,
    /// At most [`LOOKS_MAX`].
    looks: Vec<Look>,
    /// Those that may have runs without a block.
    opened: BTreeSet<QueueId>,
    /// Reads under way, and for which of them.
    fetches: BTreeMap<ReadId, QueueId>,
    /// Those for which a read has failed that is to be tried again.
    retrying: BTreeSet<QueueId>,
    next_queue: u64,
    writer: Writer,
    cleaning: Option<Cleaning>,
    next_read: u64,
    commands: VecDeque<DiskCommand>,
    events: VecDeque<Event>,
    /// Of bodies in events.
    event_bytes: usize,
    sequences: Vec<u64>,
    told_full: bool,
    /// What was needed was refused since then.
    is_stuck: bool,
    summary: Summary,
    stats: Stats,
    /// What the queues take in memory, as it was when they were last looked through.
    queues_bytes: usize,
    /// Calls since then.
    unaccounted: u32,
    /// Of bodies in all windows.
    windows_bytes: usize,
    charge: Charge,
}

impl Journal {
    /// A journal that will ask to open its folder.
    pub fn new(settings: Settings, memory: &Memory) -> Self {
        let segment_size = (settings.segment.max(SEGMENT_MIN) / BLOCK) * BLOCK;
        let budget = (settings.size / u64::from(segment_size))
            .clamp(u64::from(SEGMENTS_MIN), u64::from(SLOTS_MAX)) as u32;
        Self {
            segment_size,
            budget,
            phase: Phase::Opening,
            table: Table::new(),
            keys: BTreeMap::new(),
            graves: BTreeMap::new(),
            queues: BTreeMap::new(),
            looks: Vec::new(),
            opened: BTreeSet::new(),
            fetches: BTreeMap::new(),
            retrying: BTreeSet::new(),
            next_queue: 1,
            writer: Writer::default(),
            cleaning: None,
            next_read: 0,
            commands: VecDeque::from([DiskCommand::Open]),
            events: VecDeque::new(),
            event_bytes: 0,
            sequences: Vec::new(),
            told_full: false,
            is_stuck: false,
            summary: Summary::default(),
            stats: Stats::default(),
            queues_bytes: 0,
            windows_bytes: 0,
            unaccounted: 0,
            charge: memory.charge(0),
        }
    }

    /// Keeps `body` (its parts in order) for as long as one of `targets` makes it live. The numbers
    /// that the queue targets got, in their order, are in [`Journal::sequences`] until the next
    /// append.
    pub fn append(
        &mut self,
        now: Now,
        targets: &[Target<'_>],
        body: &[&[u8]],
        class: Class,
    ) -> Result<Lsn, Refused> {
        self.append_above(now, targets, body, class, RESERVE)
    }

    /// The same for a few bytes that have a part of the reserve: those without which nothing can be
    /// taken out of a full journal (who takes it, and that it is under way), and what is written
    /// again and again in the place of the one before.
    pub fn append_needed(
        &mut self,
        now: Now,
        targets: &[Target<'_>],
        body: &[&[u8]],
        class: Class,
    ) -> Result<Lsn, Refused> {
        self.append_above(now, targets, body, class, RESERVE - 1)
    }

    /// Leaves so many segments free.
    fn append_above(
        &mut self,
        now: Now,
        targets: &[Target<'_>],
        body: &[&[u8]],
        class: Class,
        reserve: u32,
    ) -> Result<Lsn, Refused> {
        self.sequences.clear();
        let body_len: usize = body.iter().map(|part| part.len()).sum();
        let targets_len: usize = targets.iter().map(record::target_len).sum();
        let is_long = |target: &Target<'_>| match target {
            Target::Key { note, .. }
            | Target::Queue { note, .. }
            | Target::Numbered { note, .. } => note.len() > usize::from(u16::MAX),
        };
        let too_large = targets.len() > usize::from(u16::MAX) || targets.iter().any(is_long);
        let len = if too_large {
            usize::MAX
        } else {
            record::DATA_HEAD + targets_len + body_len
        };
        self.admit(len, reserve)?;
        let mut written: SmallVec<[Written<'_>; 4]> = SmallVec::new();
        for (index, target) in targets.iter().enumerate() {
            written.push(match *target {
                Target::Key { key, note } => Written::Key { key, note },
                Target::Queue { queue: id, note } => {
                    let queue = self.queues.get(&id).ok_or(Refused::NoQueue)?;
                    let before = targets[..index].iter().filter(
                        |target| matches!(target, Target::Queue { queue, .. } if *queue == id),
                    );
                    let sequence = queue.next + before.count() as u64;
                    Written::Entry {
                        queue: id,
                        sequence,
                        note,
                    }
                }
                Target::Numbered {
                    queue: id,
                    sequence,
                    note,
                } => {
                    let queue = self.queues.get(&id).ok_or(Refused::NoQueue)?;
                    Written::Entry {
                        queue: id,
                        sequence: sequence.max(queue.next),
                        note,
                    }
                }
            });
        }
        self.writer.scratch.clear();
        record::put_data(&mut self.writer.scratch, &written, body.iter().copied());
        let (place, lsn) = self.write_owned(now, class);
        let number = self.writer.landed;
        self.stats.body_bytes += body_len as u64;
        let share = record::share(len, written.len());
        for target in &written {
            match *target {
                Written::Key { key, .. } => self.set_key(key, place, share, number),
                Written::Entry {
                    queue: id,
                    sequence,
                    ..
                } => {
                    self.sequences.push(sequence);
                    let spot = record::Spot {
                        sequence,
                        offset: place.offset,
                        len: len as u32,
                    };
                    if let Some(queue) = self.queues.get_mut(&id) {
                        let lives = queue.put(spot, place.segment, share, number, &mut self.table);
                        self.opened.insert(id);
                        assert!(lives, "a new entry is the last of its queue");
                    }
                }
            }
        }
        Ok(lsn)
    }

    /// The record at `place` is the value of `key` from now on.
    fn set_key(&mut self, key: Key, place: Place, bytes: u32, number: u64) {
        let mut since = self.table.at(place.segment).life.sequence;
        if let Some(grave) = self.graves.remove(&Thing::Key(key)) {
            self.table.dies(grave.place.segment, grave.bytes, number);
            since = since.min(grave.since);
        }
        if let Some(old) = self.keys.get(&key) {
            self.table.dies(old.place.segment, old.bytes, number);
            since = since.min(old.since);
        }
        self.table.born(place.segment, bytes);
        self.keys.insert(
            key,
            Value {
                place,
                bytes,
                since,
            },
        );
    }

    /// Whether an owner's record of `len` bytes is taken, and leaves so many segments free.
    fn admit(&mut self, len: usize, reserve: u32) -> Result<(), Refused> {
        let refused = match self.phase {
            Phase::Ready => self.judge_room(len, reserve),
            Phase::Unusable => Err(Refused::Failed),
            _ => Err(Refused::NotReady),
        };
        match refused {
            Ok(()) => {}
            Err(Refused::TooLarge) => self.stats.refused_too_large += 1,
            Err(Refused::Failed) => self.stats.refused_failed += 1,
            Err(_) => {}
        }
        if matches!(refused, Err(Refused::Full | Refused::Failed)) && self.is_ready() {
            self.tell_full();
            self.is_stuck |= reserve < RESERVE;
        }
        refused
    }

    fn tell_full(&mut self) {
        if !core::mem::replace(&mut self.told_full, true) {
            self.events.push_back(Event::Full);
        }
    }

    fn judge_room(&mut self, len: usize, reserve: u32) -> Result<(), Refused> {
        let most = (self.segment_size - 2 * BLOCK) as usize;
        if len > most {
            return Err(Refused::TooLarge);
        }
        if self.writer.retry_at.is_some() {
            return Err(Refused::Failed);
        }
        let unsynced = self.writer.unsynced();
        if unsynced > 0 && unsynced + len > UNSYNCED_MAX {
            self.stats.refused_behind += 1;
            return Err(Refused::Full);
        }
        let limbo = self.writer.limbo.bytes.len();
        let needed = if limbo > 0 || self.writer.active.is_none() {
            ((limbo + len) / (most / 2).max(1)) as u32 + 1
        } else {
            let left = self.writer.active.map_or(0, |active| {
                let segment = self.table.at(active);
                let used = match &self.writer.filling {
                    Some(batch) => batch.offset + batch.bytes.len() as u32,
                    None => segment.used + BATCH_HEADER as u32,
                };
                segment.size.saturating_sub(used)
            });
            u32::from((left as usize) < len + BATCH_HEADER + BLOCK as usize)
        };
        if self.usable() < reserve + needed {
            self.stats.refused_full += 1;
            if self.usable() == 0 && self.writer.make_failures > 0 && self.writer.active.is_none() {
                return Err(Refused::Failed);
            }
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// The numbers that the last append's queue targets got, in their order.
    pub fn sequences(&self) -> &[u64] {
        &self.sequences
    }

    /// Ends a key. Always taken; without effect if it has no value.
    pub fn delete(&mut self, now: Now, key: Key, class: Class) -> Lsn {
        let Some(value) = self.keys.get(&key).copied().filter(|_| self.is_ready()) else {
            return self.writer.last;
        };
        self.writer.scratch.clear();
        record::put(&mut self.writer.scratch, &record::Record::Delete(key));
        let len = self.writer.scratch.len() as u32;
        let (place, lsn) = self.write_owned(now, class);
        self.keys.remove(&key);
        self.table
            .dies(value.place.segment, value.bytes, self.writer.landed);
        self.dig(Thing::Key(key), place, len, value.since);
        lsn
    }

    /// The record at `place` ends something for as long as it may be found.
    fn add_grave(&mut self, thing: Thing, place: Place, bytes: u32, since: u64) {
        self.table.born(place.segment, bytes);
        self.graves.insert(
            thing,
            Value {
                place,
                bytes,
                since,
            },
        );
    }

    fn dig(&mut self, thing: Thing, place: Place, bytes: u32, since: u64) {
        let since = since.min(self.table.at(place.segment).life.sequence);
        self.add_grave(thing, place, bytes, since);
        self.writer.young.push(thing);
    }

    /// A name for a queue, never given before. It is durable once the queue's making is.
    pub fn new_queue_id(&mut self) -> QueueId {
        let id = QueueId(self.next_queue);
        self.next_queue += 1;
        id
    }

    /// Makes a queue; without effect if it exists.
    pub fn make_queue(&mut self, now: Now, id: QueueId, class: Class) -> Result<Lsn, Refused> {
        if self.is_ready() && self.queues.contains_key(&id) {
            return Ok(self.writer.last);
        }
        self.admit(record::STATE_LEN, RESERVE)?;
        self.next_queue = self.next_queue.max(id.0 + 1);
        self.writer.scratch.clear();
        record::put(
            &mut self.writer.scratch,
            &record::Record::State {
                queue: id,
                head: 1,
                next: 1,
            },
        );
        let len = self.writer.scratch.len() as u32;
        let (place, lsn) = self.write_owned(now, class);
        self.table.born(place.segment, len);
        let mut queue = Queue::new(self.table.at(place.segment).life.sequence);
        queue.state = Some((place, len));
        self.queues.insert(id, queue);
        Ok(lsn)
    }

    /// Ends a queue with all that is in it. Always taken; without effect if it does not exist.
    pub fn drop_queue(&mut self, now: Now, id: QueueId, class: Class) -> Lsn {
        if !self.is_ready() || !self.queues.contains_key(&id) {
            return self.writer.last;
        }
        self.writer.scratch.clear();
        record::put(&mut self.writer.scratch, &record::Record::Dropped(id));
        let len = self.writer.scratch.len() as u32;
        let (place, lsn) = self.write_owned(now, class);
        let number = self.writer.landed;
        if let Some(mut queue) = self.queues.remove(&id) {
            queue.clear(number, &mut self.table);
            self.windows_bytes -= queue.backlog.rewind();
            self.dig(Thing::Queue(id), place, len, queue.since);
        }
        lsn
    }

    /// An entry is done with, in whatever order. What is durable of it is the queue's head, which
    /// is written lazily.
    pub fn consume(&mut self, now: Now, id: QueueId, sequence: u64) {
        if self.is_ready() && self.end_entry(id, sequence) {
            let due = now.monotonic + batch::LAZY_WITHIN;
            self.set_due(due);
        }
    }

    /// The same for the first entry that is left of those not below `from`; which that was.
    pub fn consume_first(&mut self, now: Now, id: QueueId, from: u64) -> Option<u64> {
        let (first, _) = self.queues.get(&id)?.backlog.first_from(from)?;
        self.consume(now, id, first);
        Some(first)
    }

    /// Takes an entry out of its queue. False if it was not in it.
    fn end_entry(&mut self, id: QueueId, sequence: u64) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else {
            return false;
        };
        let homes = queue.homes_of(sequence);
        if !queue.take(sequence, 0, &mut self.table) {
            return false;
        }
        self.write_state(id);
        // Only now is it known which batch says that it ended.
        for index in homes.into_iter().flatten() {
            let segment = self.table.at_mut(index);
            segment.last_death = segment.last_death.max(self.writer.landed);
        }
        true
    }

    /// How a queue stands.
    pub fn queue(&self, id: QueueId) -> Option<QueueState> {
        self.queues.get(&id).map(Queue::summary)
    }

    /// Starts the commit that is due, if none is under way.
    pub fn end_turn(&mut self, now: Now) {
        self.pump(now);
    }

    /// The highest number all of whose predecessors, and itself, survive a power cut.
    pub fn synced(&self) -> Lsn {
        self.writer.synced
    }

    /// Of the last record appended.
    pub fn last(&self) -> Lsn {
        self.writer.last
    }

    /// The disk has done something, or not.
    pub fn handle_disk(&mut self, now: Now, event: DiskEvent) {
        match event {
            DiskEvent::Opened(outcome) => self.opened(outcome),
            DiskEvent::Made { slot, outcome } => {
                let making = self.writer.making;
                match making.filter(|index| self.table.at(*index).slot == slot) {
                    Some(index) => self.made(now, index, outcome),
                    None => self.stats.strays += 1,
                }
            }
            DiskEvent::Synced {
                batch,
                outcome,
                bytes,
            } => self.committed(now, batch, outcome, bytes),
            DiskEvent::Read { read, outcome } => {
                if self.recovery_read(read, &outcome) {
                    self.advance();
                } else if let Some(cleaning) = &mut self.cleaning
                    && cleaning.stream.answer(read, &outcome)
                {
                    if outcome.is_err() {
                        self.stats.reads_failed += 1;
                    }
                    self.clean_on(now);
                } else if !self.looked(read, &outcome) && !self.fetched(now, read, &outcome) {
                    self.stats.strays += 1;
                }
            }
        }
        self.pump(now);
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.retry_fetches(now);
        self.pump(now);
    }

    /// When to call [`Journal::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_ready() {
            return None;
        }
        let due = match &self.writer.filling {
            Some(batch) if self.writer.under_way.is_none() && !self.waits_for_copies() => batch.due,
            _ => None,
        };
        let fetches = self.retrying.iter();
        let fetches = fetches.filter_map(|id| self.queues.get(id)?.backlog.retry_at);
        [due, self.writer.retry_at, self.writer.make_retry_at]
            .into_iter()
            .flatten()
            .chain(fetches)
            .min()
    }

    /// What the disk shall do.
    pub fn poll_command(&mut self) -> Option<DiskCommand> {
        self.commands.pop_front()
    }

    /// Bytes that are not on the disk yet.
    pub fn unsynced(&self) -> usize {
        self.writer.unsynced()
    }

    /// Whether there is one.
    pub fn has_command(&self) -> bool {
        !self.commands.is_empty()
    }

    /// What the owners should know. Recovery reads on when these are taken.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.advance();
        }
        let event = self.events.pop_front()?;
        match &event {
            Event::Recovered(Recovered::Record { body, .. }) => self.event_bytes -= body.len(),
            Event::Looked(looked) => self.event_bytes -= looked.bytes(),
            _ => {}
        }
        Some(event)
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Everything that follows from what has happened.
    fn pump(&mut self, now: Now) {
        if self.is_ready() {
            self.reclaim();
            self.commit(now);
            self.prepare(now);
            self.settle();
            self.clean(now);
            self.reclaim();
            self.commit(now);
            self.prepare(now);
            if self.told_full && self.has_room_above(RESERVE) {
                self.told_full = false;
                self.is_stuck = false;
                self.events.push_back(Event::Room);
            }
            if self.is_stuck && self.has_room_above(RESERVE - 1) {
                self.is_stuck = false;
                self.events.push_back(Event::Reserve);
            }
        }
        self.account();
        self.check_invariants();
    }

    /// Whether a segment more than these is free, and the disk keeps up.
    fn has_room_above(&self, reserve: u32) -> bool {
        self.writer.retry_at.is_none()
            && self.writer.failures == 0
            && self.writer.unsynced() <= UNSYNCED_MAX / 2
            && self.writer.limbo.bytes.is_empty()
            && self.usable() > reserve
    }

    fn account(&mut self) {
        let stream = match &self.phase {
            Phase::Replay(Replay { current, .. }) | Phase::Tell(Tell { current, .. }) => {
                current.as_ref().map(|(_, stream)| stream)
            }
            _ => self.cleaning.as_ref().map(|cleaning| &cleaning.stream),
        };
        let tables = self.keys.len() * (size_of::<Key>() + size_of::<Value>())
            + self.graves.len() * (size_of::<Thing>() + size_of::<Value>());
        // Many of them are not looked through in every turn.
        self.unaccounted += 1;
        if self.queues.len() < QUEUES_FEW || self.unaccounted >= ACCOUNT_EVERY {
            self.unaccounted = 0;
            self.queues_bytes = self.queues.values().map(Queue::footprint).sum();
        }
        self.stats.memory = self.writer.footprint()
            + stream.map_or(0, walk::Stream::footprint)
            + tables * 3 / 2
            + self.queues_bytes
            + self.windows_bytes
            + self.event_bytes
            + self.table.segments.len() * size_of::<segment::Segment>();
        self.charge.set(self.stats.memory);
        self.stats.unsynced = self.writer.unsynced();
        self.stats.segments = self.budget;
        self.stats.segments_free = self.usable();
        self.stats.live_bytes = self
            .table
            .segments
            .iter()
            .map(|segment| segment.live_bytes)
            .sum();
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.writer.synced <= self.writer.last,
            "only what is appended is synced"
        );
        debug_assert!(
            self.writer.sealed.is_empty() || self.writer.under_way.is_some(),
            "what is sealed is committed as soon as nothing else is"
        );
        debug_assert!(
            !matches!(self.writer.under_way, Some(UnderWay::Batch(_, ref batch))
                if self.table.at(batch.segment).poisoned),
            "nothing is written to where a sync has failed"
        );
        debug_assert_eq!(
            self.windows_bytes,
            self.queues
                .values()
                .map(|queue| queue.backlog.window_bytes)
                .sum::<usize>(),
            "what is in windows is counted once"
        );
    }
}
