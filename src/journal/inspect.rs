//! What is in a segment, for people: a pure function over its bytes, which may be anything.

use super::Key;
use super::record::{self, Record, Written};
use super::segment::{BLOCK, BatchHeader, SegmentHeader, SegmentRead};
use super::walk::{Step, Walk};
use crate::id::QueueId;

/// Something in a segment. Offsets are from the segment's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    /// The first block: whose life this is.
    Segment {
        /// Counted up with every start.
        epoch: u64,
        /// Counted up with every segment begun.
        sequence: u64,
        /// Slots that held something then.
        held: Vec<u32>,
    },
    /// The first block is no header. Batches, if there are any, tell the life.
    NoHeader,
    /// Written by a version that this program does not know; nothing else is told.
    NewerVersion(u32),
    /// A batch: what follows was committed together.
    Batch {
        /// Where its header is.
        offset: u32,
        /// Its number within the epoch.
        number: u64,
        /// The batch that was known to be synced when it was written.
        synced: u64,
        /// Bytes of records.
        len: u32,
    },
    /// A record of data.
    Data {
        /// Where.
        offset: u32,
        /// Of the whole record.
        len: u32,
        /// What makes it live.
        targets: Vec<FoundTarget<'a>>,
        /// What the owner wrote.
        body: &'a [u8],
    },
    /// A key ends.
    Delete {
        /// Where.
        offset: u32,
        /// Of the whole record.
        len: u32,
        /// Which.
        key: Key,
    },
    /// A queue's cursor; its first is what made the queue.
    Queue {
        /// Where.
        offset: u32,
        /// Of the whole record.
        len: u32,
        /// Which.
        queue: QueueId,
        /// Everything below is consumed.
        head: u64,
        /// The number of the next entry.
        next: u64,
    },
    /// A queue ends.
    Dropped {
        /// Where.
        offset: u32,
        /// Of the whole record.
        len: u32,
        /// Which.
        queue: QueueId,
    },
    /// The places of a queue's entries.
    Block {
        /// Where.
        offset: u32,
        /// Of the whole record.
        len: u32,
        /// Whose.
        queue: QueueId,
        /// The segment that they are in.
        sequence: u64,
        /// The first entry's number.
        first: u64,
        /// How many.
        entries: u32,
    },
    /// Bytes that are not what was written.
    Bad {
        /// Where.
        offset: u32,
        /// A later batch says that they had been synced: damage. Otherwise they are a torn tail.
        proven: bool,
    },
    /// Nothing of this life follows.
    End {
        /// Bytes from the beginning that hold something.
        used: u32,
    },
}

/// A target of a record of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundTarget<'a> {
    /// The value of a key.
    Key(Key, &'a [u8]),
    /// An entry of a queue: its number, and its note.
    Entry(QueueId, u64, &'a [u8]),
}

/// Tells what is in the bytes of one segment, in order. Bytes beyond 4 GiB are not looked at.
pub fn inspect(bytes: &[u8], tell: &mut dyn FnMut(Found<'_>)) {
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX - BLOCK);
    let head = &bytes[..bytes.len().min(BLOCK as usize)];
    let first = bytes.get(BLOCK as usize..).and_then(BatchHeader::read);
    let life = match SegmentHeader::read(head) {
        SegmentRead::Header(header) => {
            tell(Found::Segment {
                epoch: header.life.epoch,
                sequence: header.life.sequence,
                held: (0..header.held.len() as u32 * 8)
                    .filter(|slot| header.holds(super::disk::Slot(*slot)))
                    .collect(),
            });
            Some(header.life)
        }
        SegmentRead::Newer(version) => {
            tell(Found::NewerVersion(version));
            return;
        }
        SegmentRead::Blank | SegmentRead::Garbled => {
            tell(Found::NoHeader);
            first.map(|batch| batch.life)
        }
    };
    let mut used = 0;
    if let Some(life) = life {
        used = BLOCK.min(size);
        let mut walk = Walk::new(life, size);
        loop {
            match walk.step(bytes, 0) {
                Step::Need(_) | Step::End => break,
                Step::Batch(header) => {
                    let at = walk.position();
                    used = super::segment::padded(at + header.len);
                    tell(Found::Batch {
                        offset: at - super::segment::BATCH_HEADER as u32,
                        number: header.number,
                        synced: header.synced,
                        len: header.len,
                    });
                }
                Step::Bad { offset, proven, .. } => tell(Found::Bad { offset, proven }),
                Step::Record { offset, len } => {
                    let record = &bytes[offset as usize..(offset + len) as usize];
                    tell(found(record, offset));
                }
            }
        }
    }
    tell(Found::End { used });
}

fn found(bytes: &[u8], offset: u32) -> Found<'_> {
    let len = bytes.len() as u32;
    match record::read(bytes) {
        None => Found::Bad {
            offset,
            proven: true,
        },
        Some(Record::Data { targets, body }) => Found::Data {
            offset,
            len,
            targets: targets
                .iter()
                .map(|target| match *target {
                    Written::Key { key, note } => FoundTarget::Key(key, note),
                    Written::Entry {
                        queue,
                        sequence,
                        note,
                    } => FoundTarget::Entry(queue, sequence, note),
                })
                .collect(),
            body,
        },
        Some(Record::Delete(key)) => Found::Delete { offset, len, key },
        Some(Record::State { queue, head, next }) => Found::Queue {
            offset,
            len,
            queue,
            head,
            next,
        },
        Some(Record::Dropped(queue)) => Found::Dropped { offset, len, queue },
        Some(Record::Block { queue, life, spots }) => Found::Block {
            offset,
            len,
            queue,
            sequence: life.sequence,
            first: spots.first().map_or(0, |spot| spot.sequence),
            entries: spots.len() as u32,
        },
    }
}
