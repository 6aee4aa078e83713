//! One record: what is written of it, and what is read back from bytes that may be anything.
//!
//! The layout is the table in the module's head. A record's checksum is begun with the life of its
//! segment and its own place there, so that bytes of an earlier life, or at another place, are not
//! taken for it.

use smallvec::SmallVec;

use super::crc::crc32c;
use super::{Key, Target};
use crate::id::QueueId;

/// Length and checksum.
pub(super) const PREFIX: usize = 8;

/// Numbers above this are refused on reading, so that no sum of one and a bit overflows.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

const DATA: u8 = 1;
const DELETE: u8 = 2;
const STATE: u8 = 3;
const DROPPED: u8 = 4;
const BLOCK: u8 = 5;

const OF_KEY: u8 = 1;
const OF_QUEUE: u8 = 3;
/// The same of a queue that an earlier build had all in memory: read, and not written any more.
const OF_RESIDENT: u8 = 2;

/// Bytes of a queue's state record: the one that is rewritten in place while its batch fills.
pub(super) const STATE_LEN: usize = PREFIX + 1 + 8 + 1 + 8 + 8;

/// Which life of which segment, for checksums: nothing of another one is valid in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Life {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
}

impl Life {
    pub(super) fn seed(self, offset: u32) -> u32 {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..].copy_from_slice(&offset.to_le_bytes());
        crc32c(0, &bytes)
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Data {
        targets: SmallVec<[Written<'a>; 4]>,
        body: &'a [u8],
    },
    Delete(Key),
    State {
        queue: QueueId,
        /// Everything below is consumed.
        head: u64,
        next: u64,
    },
    Dropped(QueueId),
    Block {
        queue: QueueId,
        /// Of the segment that the entries are in.
        life: Life,
        spots: Vec<Spot>,
    },
}

/// A target as it is written: an entry of a queue has its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written<'a> {
    Key {
        key: Key,
        note: &'a [u8],
    },
    Entry {
        queue: QueueId,
        sequence: u64,
        note: &'a [u8],
    },
}

/// Where an entry of a queue is, within a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) sequence: u64,
    pub(super) offset: u32,
    /// Of its whole record.
    pub(super) len: u32,
}

/// Bytes that a target takes in its record.
pub(super) fn target_len(target: &Target<'_>) -> usize {
    match target {
        Target::Key { note, .. } => 1 + 2 + 17 + note.len(),
        Target::Queue { note, .. } | Target::Numbered { note, .. } => 1 + 2 + 16 + note.len(),
    }
}

/// Bytes of a record of data beside targets and body.
pub(super) const DATA_HEAD: usize = PREFIX + 1 + 2;

/// What each of `count` targets counts of a record's bytes.
pub(super) fn share(len: usize, count: usize) -> u32 {
    (len / count.max(1)) as u32
}

/// Appends a record of data.
pub(super) fn put_data<'b>(
    out: &mut Vec<u8>,
    targets: &[Written<'_>],
    body: impl IntoIterator<Item = &'b [u8]>,
) {
    let start = begin(out, DATA);
    out.extend_from_slice(&(targets.len() as u16).to_le_bytes());
    for target in targets {
        match *target {
            Written::Key { key, note } => {
                out.push(OF_KEY);
                out.extend_from_slice(&(note.len() as u16).to_le_bytes());
                put_key(out, key);
                out.extend_from_slice(note);
            }
            Written::Entry {
                queue,
                sequence,
                note,
            } => {
                out.push(OF_QUEUE);
                out.extend_from_slice(&(note.len() as u16).to_le_bytes());
                out.extend_from_slice(&queue.0.to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(note);
            }
        }
    }
    for part in body {
        out.extend_from_slice(part);
    }
    end(out, start);
}

/// Appends any record.
pub(super) fn put(out: &mut Vec<u8>, record: &Record<'_>) {
    match record {
        Record::Data { targets, body } => put_data(out, targets, [*body]),
        Record::Delete(key) => {
            let start = begin(out, DELETE);
            put_key(out, *key);
            end(out, start);
        }
        Record::State { queue, head, next } => {
            let start = begin(out, STATE);
            out.extend_from_slice(&queue.0.to_le_bytes());
            out.push(OF_QUEUE);
            out.extend_from_slice(&head.to_le_bytes());
            out.extend_from_slice(&next.to_le_bytes());
            end(out, start);
        }
        Record::Dropped(queue) => {
            let start = begin(out, DROPPED);
            out.extend_from_slice(&queue.0.to_le_bytes());
            end(out, start);
        }
        Record::Block { queue, life, spots } => {
            let start = begin(out, BLOCK);
            let first = spots.first().map_or(0, |spot| spot.sequence);
            out.extend_from_slice(&queue.0.to_le_bytes());
            out.extend_from_slice(&life.epoch.to_le_bytes());
            out.extend_from_slice(&life.sequence.to_le_bytes());
            out.extend_from_slice(&first.to_le_bytes());
            for spot in spots {
                out.push((spot.sequence - first) as u8);
                out.extend_from_slice(&spot.offset.to_le_bytes());
                out.extend_from_slice(&spot.len.to_le_bytes());
            }
            end(out, start);
        }
    }
}

fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    out.push(kind);
    start
}

fn end(out: &mut [u8], start: usize) {
    let len = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

fn put_key(out: &mut Vec<u8>, key: Key) {
    out.push(key.kind);
    out.extend_from_slice(&key.id.to_le_bytes());
    out.extend_from_slice(&key.sub.to_le_bytes());
}

/// Gives a written record the checksum of its place.
pub(super) fn sign(record: &mut [u8], life: Life, offset: u32) {
    let crc = crc32c(life.seed(offset), &record[PREFIX..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The length that a record's first bytes claim, if that can be one within `room`.
pub(super) fn claimed_len(bytes: &[u8], room: usize) -> Option<usize> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (len > PREFIX && len <= room).then_some(len)
}

/// Whether a whole record is what was written at this place in this life.
pub(super) fn is_signed(record: &[u8], life: Life, offset: u32) -> bool {
    record.len() > PREFIX
        && record[4..8] == crc32c(life.seed(offset), &record[PREFIX..]).to_le_bytes()
}

/// Reads a record whose checksum is right, or that never left memory. `None` of what no version
/// that we know has written.
pub(super) fn read(record: &[u8]) -> Option<Record<'_>> {
    let mut from = Reader(record.get(PREFIX..)?);
    let read = match from.byte()? {
        DATA => {
            let count = from.short()?;
            let mut targets = SmallVec::new();
            for _ in 0..count {
                targets.push(from.target()?);
            }
            if targets.is_empty() {
                return None;
            }
            return Some(Record::Data {
                targets,
                body: from.0,
            });
        }
        DELETE => Record::Delete(from.key()?),
        STATE => {
            let queue = QueueId(from.number()?);
            if !matches!(from.byte()?, OF_QUEUE | OF_RESIDENT) {
                return None;
            }
            let (head, next) = (from.number()?, from.number()?);
            if head > next {
                return None;
            }
            Record::State { queue, head, next }
        }
        DROPPED => Record::Dropped(QueueId(from.number()?)),
        BLOCK => {
            let queue = QueueId(from.number()?);
            let life = Life {
                epoch: from.number()?,
                sequence: from.number()?,
            };
            let first = from.number()?;
            let mut spots: Vec<Spot> = Vec::new();
            while !from.0.is_empty() {
                let spot = Spot {
                    sequence: first + u64::from(from.byte()?),
                    offset: from.word()?,
                    len: from.word()?,
                };
                let ascends = spots.last().is_none_or(|last| {
                    last.sequence < spot.sequence
                        && u64::from(last.offset) + u64::from(last.len) <= u64::from(spot.offset)
                });
                if !ascends {
                    return None;
                }
                spots.push(spot);
            }
            if spots.is_empty() {
                return None;
            }
            Record::Block { queue, life, spots }
        }
        _ => return None,
    };
    from.0.is_empty().then_some(read)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u64> {
        self.long().filter(|number| *number < NUMBER_MAX)
    }

    fn key(&mut self) -> Option<Key> {
        Some(Key {
            kind: self.byte()?,
            id: self.long()?,
            sub: self.long()?,
        })
    }

    fn target(&mut self) -> Option<Written<'a>> {
        let tag = self.byte()?;
        let note_len = usize::from(self.short()?);
        Some(match tag {
            OF_KEY => Written::Key {
                key: self.key()?,
                note: self.take(note_len)?,
            },
            OF_QUEUE | OF_RESIDENT => Written::Entry {
                queue: QueueId(self.number()?),
                sequence: self.number()?,
                note: self.take(note_len)?,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life {
        epoch: 3,
        sequence: 9,
    };

    fn written(record: &Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, record);
        sign(&mut bytes, LIFE, 4160);
        bytes
    }

    fn samples() -> Vec<Record<'static>> {
        let key = Key {
            kind: 2,
            id: 7,
            sub: u64::MAX,
        };
        let queue = QueueId(5);
        vec![
            Record::Data {
                targets: SmallVec::from_slice(&[
                    Written::Key { key, note: b"n" },
                    Written::Entry {
                        queue,
                        sequence: 12,
                        note: b"",
                    },
                ]),
                body: b"21.4",
            },
            Record::Delete(key),
            Record::State {
                queue,
                head: 3,
                next: 8,
            },
            Record::Dropped(queue),
            Record::Block {
                queue,
                life: LIFE,
                spots: vec![
                    Spot {
                        sequence: 40,
                        offset: 4160,
                        len: 100,
                    },
                    Spot {
                        sequence: 295,
                        offset: 4300,
                        len: 50,
                    },
                ],
            },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for record in samples() {
            let bytes = written(&record);
            assert_eq!(claimed_len(&bytes, bytes.len()), Some(bytes.len()));
            assert!(is_signed(&bytes, LIFE, 4160));
            let again = read(&bytes).expect("it is whole");
            assert_eq!(format!("{again:?}"), format!("{record:?}"));
        }
        assert_eq!(written(&samples()[2]).len(), STATE_LEN);
    }

    #[test]
    fn another_place_and_another_life_are_refused() {
        for record in samples() {
            let bytes = written(&record);
            assert!(!is_signed(&bytes, LIFE, 4161));
            let later = Life {
                sequence: LIFE.sequence + 1,
                ..LIFE
            };
            assert!(!is_signed(&bytes, later, 4160));
        }
    }

    #[test]
    fn a_cut_record_is_refused_or_is_data_with_less_body() {
        for record in samples() {
            let bytes = written(&record);
            for len in 0..bytes.len() {
                assert!(!is_signed(&bytes[..len], LIFE, 4160));
                match read(&bytes[..len]) {
                    None | Some(Record::Data { .. } | Record::Block { .. }) => {}
                    other => panic!("{len} bytes of {record:?}: {other:?}"),
                }
            }
        }
    }
}
