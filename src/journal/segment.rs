//! Segments: their header, the headers of their batches, and the table of what lives in each.

use std::collections::BTreeSet;

use super::crc::crc32c;
use super::disk::Slot;
use super::record::{Life, NUMBER_MAX};

/// Bytes of a block: headers begin at a multiple of it, and what is committed is a number of them.
pub const BLOCK: u32 = 4096;

/// The version of the format that this code writes, and the highest that it reads.
pub const VERSION: u32 = 1;

/// Bytes of a batch's header.
pub(super) const BATCH_HEADER: usize = 64;

/// Slots above this are not ours: the header's set of segments has no place for them.
pub const SLOTS_MAX: u32 = 8 * (BLOCK - SET_AT as u32);

const SEGMENT_MAGIC: [u8; 8] = *b"FGJRNSEG";
const BATCH_MAGIC: [u8; 8] = *b"FGJRNBAT";

/// Where the set of segments begins in a segment's header.
const SET_AT: usize = 64;

/// `offset` moved up to the next block.
pub(super) fn padded(offset: u32) -> u32 {
    offset.next_multiple_of(BLOCK)
}

/// The first block of a segment's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) life: Life,
    /// Higher than every queue's number when it was written.
    pub(super) next_queue: u64,
    /// A bit for each slot that held something when it was written: an older life in another slot
    /// is over.
    pub(super) held: Vec<u8>,
}

/// What a block says that should be a segment's header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentRead {
    Header(SegmentHeader),
    Newer(u32),
    /// Zeros: no life yet.
    Blank,
    Garbled,
}

impl SegmentHeader {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + BLOCK as usize, 0);
        let block = &mut out[start..];
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let guard = crc32c(0, &block[..12]);
        block[12..16].copy_from_slice(&guard.to_le_bytes());
        block[24..32].copy_from_slice(&self.life.epoch.to_le_bytes());
        block[32..40].copy_from_slice(&self.life.sequence.to_le_bytes());
        block[40..48].copy_from_slice(&self.next_queue.to_le_bytes());
        block[SET_AT..SET_AT + self.held.len()].copy_from_slice(&self.held);
        let crc = crc32c(0, &block[24..]);
        block[16..20].copy_from_slice(&crc.to_le_bytes());
    }

    pub(super) fn read(block: &[u8]) -> SegmentRead {
        if block.iter().all(|byte| *byte == 0) {
            return SegmentRead::Blank;
        }
        if block.len() < BLOCK as usize
            || block[..8] != SEGMENT_MAGIC
            || block[12..16] != crc32c(0, &block[..12]).to_le_bytes()
        {
            return SegmentRead::Garbled;
        }
        let version = word(block, 8);
        if version > VERSION {
            return SegmentRead::Newer(version);
        }
        let block = &block[..BLOCK as usize];
        let header = Self {
            life: Life {
                epoch: long(block, 24),
                sequence: long(block, 32),
            },
            next_queue: long(block, 40),
            held: block[SET_AT..].to_vec(),
        };
        let plausible = is_number(header.life.epoch)
            && is_number(header.life.sequence)
            && is_number(header.next_queue);
        if !plausible || block[16..20] != crc32c(0, &block[24..]).to_le_bytes() {
            return SegmentRead::Garbled;
        }
        SegmentRead::Header(header)
    }

    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.held
            .get(slot.0 as usize / 8)
            .is_some_and(|byte| byte >> (slot.0 % 8) & 1 == 1)
    }
}

/// What stands before the records of one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) life: Life,
    /// Counted up from 1 within an epoch. A batch that was not synced, and is written again
    /// elsewhere, keeps its number.
    pub(super) number: u64,
    /// The highest that was synced when this was written.
    pub(super) synced: u64,
    /// Higher than every queue's number when this was written.
    pub(super) next_queue: u64,
    /// Bytes of records.
    pub(super) len: u32,
}

impl BatchHeader {
    pub(super) fn write(&self, out: &mut [u8]) {
        out[..8].copy_from_slice(&BATCH_MAGIC);
        out[12..16].copy_from_slice(&self.len.to_le_bytes());
        out[16..24].copy_from_slice(&self.life.epoch.to_le_bytes());
        out[24..32].copy_from_slice(&self.life.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.number.to_le_bytes());
        out[40..48].copy_from_slice(&self.synced.to_le_bytes());
        out[48..56].copy_from_slice(&self.next_queue.to_le_bytes());
        out[56..64].fill(0);
        let crc = crc32c(0, &out[12..64]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
    }

    /// `None` of bytes that are no batch's header.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER)?;
        if bytes[..8] != BATCH_MAGIC || bytes[8..12] != crc32c(0, &bytes[12..]).to_le_bytes() {
            return None;
        }
        let header = Self {
            life: Life {
                epoch: long(bytes, 16),
                sequence: long(bytes, 24),
            },
            number: long(bytes, 32),
            synced: long(bytes, 40),
            next_queue: long(bytes, 48),
            len: word(bytes, 12),
        };
        let numbers = [
            header.life.epoch,
            header.life.sequence,
            header.number,
            header.synced,
            header.next_queue,
        ];
        numbers.into_iter().all(is_number).then_some(header)
    }
}

/// Whether a number from a disk is one that we count to: one more of it never overflows.
fn is_number(number: u64) -> bool {
    number < NUMBER_MAX
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Where a record is. Its segment is a place in the [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// What a slot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is no file, or none that can be used.
    Unmade,
    Making,
    /// A file of the right size in which nothing lives.
    Idle,
    /// Its header is being written.
    Preparing,
    /// Its header is synced, and it is the next one to be filled.
    Next,
    /// It is being filled.
    Active,
    /// It is read only, until nothing in it lives.
    Closed,
    /// No slot: records in memory that have no place on the disk yet.
    Limbo,
    /// The configuration has no such slot any more.
    Gone,
}

/// One slot, and what lives in it.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) slot: Slot,
    /// Of its file.
    pub(super) size: u32,
    pub(super) state: State,
    pub(super) life: Life,
    /// Whether `life` may be found there by a recovery.
    pub(super) held: bool,
    /// Where the next batch goes.
    pub(super) used: u32,
    /// Everything below is synced.
    pub(super) synced: u32,
    /// Records and targets that live here, and their bytes.
    pub(super) live: u32,
    pub(super) live_bytes: u64,
    /// The batch that ended the last life here: until it is synced, the bytes are needed.
    pub(super) last_death: u64,
    /// A sync failed here: its file is made anew before it is used again.
    pub(super) poisoned: bool,
    /// Recovery found damage: its file is set aside when nothing lives in it.
    pub(super) damaged: bool,
    /// Something that lives here could not be read: cleaning leaves it alone.
    pub(super) stuck: bool,
}

/// All slots, and the two limbos.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) segments: Vec<Segment>,
    /// Sequence numbers of lives that a recovery may find: what ends an older record must be kept
    /// while such a life may hold that record.
    pub(super) held: BTreeSet<u64>,
    /// Those that have come to hold nothing, and may not be free yet.
    pub(super) emptied: Vec<u32>,
    idle: u32,
    unmade: u32,
}

/// Two, because what moves out of one may have to go into the other.
pub(super) const LIMBOS: u32 = 2;

/// The life of a limbo: later than every other.
const LIMBO_LIFE: Life = Life {
    epoch: u64::MAX,
    sequence: u64::MAX,
};

impl Table {
    pub(super) fn new() -> Self {
        let limbo = Segment {
            state: State::Limbo,
            life: LIMBO_LIFE,
            ..Segment::new(Slot(u32::MAX), 0, State::Limbo)
        };
        Self {
            segments: vec![limbo; LIMBOS as usize],
            held: BTreeSet::new(),
            emptied: Vec::new(),
            idle: 0,
            unmade: 0,
        }
    }

    pub(super) fn push(&mut self, slot: Slot, size: u32, state: State) -> u32 {
        let index = self.segments.len() as u32;
        self.segments.push(Segment::new(slot, size, State::Limbo));
        self.set_state(index, state);
        index
    }

    /// Every slot, limbos left out.
    pub(super) fn slots(&self) -> impl DoubleEndedIterator<Item = (u32, &Segment)> {
        self.segments
            .iter()
            .enumerate()
            .skip(LIMBOS as usize)
            .map(|(index, segment)| (index as u32, segment))
    }

    pub(super) fn at(&self, index: u32) -> &Segment {
        &self.segments[index as usize]
    }

    pub(super) fn at_mut(&mut self, index: u32) -> &mut Segment {
        &mut self.segments[index as usize]
    }

    pub(super) fn set_state(&mut self, index: u32, state: State) {
        let before = core::mem::replace(&mut self.segments[index as usize].state, state);
        match before {
            State::Idle => self.idle -= 1,
            State::Unmade => self.unmade -= 1,
            _ => {}
        }
        match state {
            State::Idle => self.idle += 1,
            State::Unmade => self.unmade += 1,
            _ => {}
        }
    }

    pub(super) fn idle(&self) -> u32 {
        self.idle
    }

    pub(super) fn unmade(&self) -> u32 {
        self.unmade
    }

    /// Something begins to live there.
    pub(super) fn born(&mut self, index: u32, bytes: u32) {
        let segment = self.at_mut(index);
        segment.live += 1;
        segment.live_bytes += u64::from(bytes);
    }

    /// It ends, by what is in batch `number`.
    pub(super) fn dies(&mut self, index: u32, bytes: u32, number: u64) {
        let segment = self.at_mut(index);
        assert!(segment.live > 0, "only what lives ends");
        segment.live -= 1;
        segment.live_bytes -= u64::from(bytes);
        segment.last_death = segment.last_death.max(number);
        if segment.live == 0 && index >= LIMBOS {
            self.emptied.push(index);
        }
    }

    /// Whether a life that may be found holds something older than `before` and not older than
    /// `since`.
    pub(super) fn is_held(&self, since: u64, before: u64) -> bool {
        since < before && self.held.range(since..before).next().is_some()
    }
}

impl Segment {
    fn new(slot: Slot, size: u32, state: State) -> Self {
        Self {
            slot,
            size,
            state,
            life: Life::default(),
            held: false,
            used: 0,
            synced: 0,
            live: 0,
            live_bytes: 0,
            last_death: 0,
            poisoned: false,
            damaged: false,
            stuck: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        let life = Life {
            epoch: 2,
            sequence: 77,
        };
        let mut held = vec![0; 3];
        held[2] = 0b10;
        let mut bytes = Vec::new();
        let header = SegmentHeader {
            life,
            next_queue: 9,
            held,
        };
        header.write(&mut bytes);
        assert_eq!(bytes.len(), BLOCK as usize);
        let SegmentRead::Header(read) = SegmentHeader::read(&bytes) else {
            panic!("it is a header");
        };
        assert_eq!((read.life, read.next_queue), (life, 9));
        assert!(read.holds(Slot(17)));
        assert!(!read.holds(Slot(16)));
        assert!(!read.holds(Slot(u32::MAX)));

        let batch = BatchHeader {
            life,
            number: 5,
            synced: 4,
            next_queue: 9,
            len: 100,
        };
        let mut bytes = [0xFF; BATCH_HEADER];
        batch.write(&mut bytes);
        assert_eq!(BatchHeader::read(&bytes), Some(batch));
        for at in 0..BATCH_HEADER {
            bytes[at] ^= 4;
            assert_eq!(BatchHeader::read(&bytes), None, "byte {at}");
            bytes[at] ^= 4;
        }
    }

    #[test]
    fn a_newer_version_is_told_from_garbage() {
        let mut bytes = Vec::new();
        SegmentHeader {
            life: Life::default(),
            next_queue: 0,
            held: Vec::new(),
        }
        .write(&mut bytes);
        bytes[8] = 2;
        assert_eq!(SegmentHeader::read(&bytes), SegmentRead::Garbled);
        let guard = crc32c(0, &bytes[..12]);
        bytes[12..16].copy_from_slice(&guard.to_le_bytes());
        assert_eq!(SegmentHeader::read(&bytes), SegmentRead::Newer(2));
        assert_eq!(SegmentHeader::read(&[0; 100]), SegmentRead::Blank);
        assert_eq!(SegmentHeader::read(&[1; 100]), SegmentRead::Garbled);
    }
}
