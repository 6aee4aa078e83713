//! From the bytes of a segment to its batches and records, whatever the bytes are.
//!
//! A [`Walk`] is pure over what it is shown. A [`Stream`] reads a segment for it in bounded pieces.

use std::collections::VecDeque;

use super::disk::{DiskCommand, DiskError, ReadId, Slot};
use super::record::{self, Life};
use super::segment::{BATCH_HEADER, BLOCK, BatchHeader, padded};
use crate::buffer::Payload;

/// Bytes of one read.
pub(super) const READ_MAX: u32 = 256 * 1024;

/// Reads of a stream that are under way at once.
const READS_AHEAD: usize = 2;

/// What comes next in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Show the bytes up to this offset, and ask again.
    Need(u32),
    /// A batch begins.
    Batch(BatchHeader),
    /// A whole record with a good checksum.
    Record { offset: u32, len: u32 },
    /// Bytes of batch `number` that are not what was written. If not `proven`, nothing behind them
    /// says that they had been synced, and the rest of that batch is left out.
    Bad {
        offset: u32,
        number: u64,
        proven: bool,
    },
    /// Nothing of this life follows.
    End,
}

/// A place in a segment's bytes.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    life: Life,
    /// Nothing is looked for behind this.
    size: u32,
    at: At,
    /// The number of the next batch, if one was seen.
    expected: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Header(u32),
    Records {
        at: u32,
        end: u32,
        number: u64,
        /// A later batch says that this one had been synced.
        proven: bool,
    },
    /// No header at `from`; looking for one from `at` on.
    Lost {
        from: u32,
        at: u32,
    },
    End,
}

impl Walk {
    pub(super) fn new(life: Life, size: u32) -> Self {
        Self {
            life,
            size,
            at: At::Header(BLOCK),
            expected: None,
        }
    }

    /// Bytes before this are not asked for again.
    pub(super) fn position(&self) -> u32 {
        match self.at {
            At::Header(at) | At::Records { at, .. } | At::Lost { at, .. } => at,
            At::End => self.size,
        }
    }

    /// Where the next batch would begin, once the end has been reached.
    pub(super) fn next_number(&self) -> Option<u64> {
        self.expected
    }

    /// The next step. `bytes` begin at `start`, which is not behind [`Walk::position`].
    pub(super) fn step(&mut self, bytes: &[u8], start: u32) -> Step {
        let have = u64::from(start) + bytes.len() as u64;
        let slice = |from: u32, to: u32| {
            bytes
                .get(from.saturating_sub(start) as usize..to.saturating_sub(start) as usize)
                .unwrap_or(&[])
        };
        loop {
            match self.at {
                At::End => return Step::End,
                At::Header(at) => {
                    let Some(until) = self.header_end(at) else {
                        self.at = At::End;
                        continue;
                    };
                    if u64::from(until) > have {
                        return Step::Need(until);
                    }
                    let header = self.header(slice(at, until), at);
                    match header.filter(|header| self.expected.is_none_or(|n| n == header.number)) {
                        Some(header) => {
                            self.expected = Some(header.number + 1);
                            let first = at + BATCH_HEADER as u32;
                            self.at = At::Records {
                                at: first,
                                end: first + header.len,
                                number: header.number,
                                proven: false,
                            };
                            return Step::Batch(header);
                        }
                        None => {
                            self.at = At::Lost {
                                from: at,
                                at: if header.is_some() { at } else { at + BLOCK },
                            };
                        }
                    }
                }
                At::Lost { from, at } => {
                    let Some(until) = self.header_end(at) else {
                        self.at = At::End;
                        continue;
                    };
                    if u64::from(until) > have {
                        return Step::Need(until);
                    }
                    let missing = self.expected.unwrap_or(1);
                    let found = self
                        .header(slice(at, until), at)
                        .filter(|header| header.number >= missing && header.synced >= missing);
                    if let Some(found) = found {
                        self.expected = Some(found.number);
                        self.at = At::Header(at);
                        return Step::Bad {
                            offset: from,
                            number: missing,
                            proven: true,
                        };
                    }
                    self.at = At::Lost {
                        from,
                        at: at + BLOCK,
                    };
                }
                At::Records {
                    at,
                    end,
                    number,
                    proven,
                } => {
                    if at == end {
                        self.at = At::Header(padded(end));
                        continue;
                    }
                    let room = end - at;
                    if u64::from(at) + 8 > have && room >= 8 {
                        return Step::Need(at + 8);
                    }
                    let claimed = record::claimed_len(slice(at, (at + 8).min(end)), room as usize);
                    if let Some(len) = claimed {
                        let until = at + len as u32;
                        if u64::from(until) > have {
                            return Step::Need(until);
                        }
                        if record::is_signed(slice(at, until), self.life, at) {
                            self.at = At::Records {
                                at: until,
                                end,
                                number,
                                proven,
                            };
                            return Step::Record {
                                offset: at,
                                len: len as u32,
                            };
                        }
                    }
                    let behind = padded(end);
                    let mut is_proven = proven;
                    if !is_proven && let Some(until) = self.header_end(behind) {
                        if u64::from(until) > have {
                            return Step::Need(until);
                        }
                        is_proven = self
                            .header(slice(behind, until), behind)
                            .is_some_and(|next| next.number > number && next.synced >= number);
                    }
                    self.at = match claimed {
                        Some(len) if is_proven => At::Records {
                            at: at + len as u32,
                            end,
                            number,
                            proven: true,
                        },
                        _ => At::Header(behind),
                    };
                    return Step::Bad {
                        offset: at,
                        number,
                        proven: is_proven,
                    };
                }
            }
        }
    }

    /// Where a header at `at` ends, if it lies within the segment.
    fn header_end(&self, at: u32) -> Option<u32> {
        let block_end = at.checked_add(BLOCK)?;
        (block_end <= self.size).then_some(at + BATCH_HEADER as u32)
    }

    fn header(&self, bytes: &[u8], at: u32) -> Option<BatchHeader> {
        let header = BatchHeader::read(bytes)?;
        let end = u64::from(at) + BATCH_HEADER as u64 + u64::from(header.len);
        (header.life == self.life && end <= u64::from(self.size)).then_some(header)
    }
}

/// A segment that is read from its first batch to its end.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) walk: Walk,
    slot: Slot,
    size: u32,
    /// The bytes from `start` on.
    buffer: Vec<u8>,
    start: u32,
    /// Where the next read begins.
    next: u32,
    /// In order of offset; each with its answer when that has come.
    reads: VecDeque<Reading>,
    /// Reads that failed, and whose bytes are taken for zeros.
    pub(super) unreadable: u32,
}

#[derive(Debug)]
struct Reading {
    /// `None`: it is still to be asked.
    id: Option<ReadId>,
    offset: u32,
    len: u32,
    bytes: Option<Payload>,
}

impl Stream {
    pub(super) fn new(slot: Slot, life: Life, size: u32) -> Self {
        Self {
            walk: Walk::new(life, size),
            slot,
            size,
            buffer: Vec::new(),
            start: BLOCK,
            next: BLOCK.min(size),
            reads: VecDeque::new(),
            unreadable: 0,
        }
    }

    /// Asks for what is ahead. `next_read` is the number of the last question.
    pub(super) fn ask(&mut self, next_read: &mut u64, commands: &mut VecDeque<DiskCommand>) {
        while self.reads.len() < READS_AHEAD && self.next < self.size {
            let len = READ_MAX.min(self.size - self.next);
            self.reads.push_back(Reading {
                id: None,
                offset: self.next,
                len,
                bytes: None,
            });
            self.next += len;
        }
        let asked = self.reads.iter().filter(|read| read.id.is_some()).count();
        let more = READS_AHEAD.saturating_sub(asked);
        for read in self
            .reads
            .iter_mut()
            .filter(|read| read.id.is_none() && read.bytes.is_none())
            .take(more)
        {
            *next_read += 1;
            read.id = Some(ReadId(*next_read));
            commands.push_back(DiskCommand::Read {
                read: ReadId(*next_read),
                slot: self.slot,
                offset: read.offset,
                len: read.len,
            });
        }
    }

    /// Takes an answer, if it is one of this stream's.
    pub(super) fn answer(&mut self, id: ReadId, outcome: &Result<Payload, DiskError>) -> bool {
        let Some(index) = self.reads.iter().position(|read| read.id == Some(id)) else {
            return false;
        };
        let read = &mut self.reads[index];
        match outcome {
            Ok(bytes) => read.bytes = Some(bytes.clone()),
            Err(_) if read.len > BLOCK => {
                // One bad sector must not cost a quarter of a megabyte: once more, in blocks.
                let (offset, end) = (read.offset, read.offset + read.len);
                self.reads.remove(index);
                let mut at = index;
                let mut from = offset;
                while from < end {
                    let len = BLOCK.min(end - from);
                    self.reads.insert(
                        at,
                        Reading {
                            id: None,
                            offset: from,
                            len,
                            bytes: None,
                        },
                    );
                    at += 1;
                    from += len;
                }
                return true;
            }
            Err(_) => {
                read.bytes = Some(Payload::EMPTY);
                self.unreadable += 1;
            }
        }
        while let Some(bytes) = self.reads.front_mut().and_then(|read| read.bytes.take()) {
            let len = self.reads.pop_front().map_or(0, |read| read.len) as usize;
            let taken = bytes.len().min(len);
            self.buffer.extend_from_slice(&bytes[..taken]);
            // A file that is shorter than it should be ends in zeros.
            self.buffer.resize(self.buffer.len() + len - taken, 0);
        }
        true
    }

    /// The next step, `None` while its bytes have not come.
    pub(super) fn step(&mut self) -> Option<Step> {
        let step = self.walk.step(&self.buffer, self.start);
        if let Step::Need(until) = step {
            self.forget();
            debug_assert!(until <= self.size, "the walk stays within the segment");
            return None;
        }
        Some(step)
    }

    /// The bytes of a record that was just stepped on.
    pub(super) fn record(&self, offset: u32, len: u32) -> &[u8] {
        let from = (offset - self.start) as usize;
        &self.buffer[from..from + len as usize]
    }

    /// Drops what lies behind the walk.
    fn forget(&mut self) {
        let passed = self.walk.position().saturating_sub(self.start) as usize;
        let passed = passed.min(self.buffer.len());
        self.buffer.drain(..passed);
        self.start += passed as u32;
    }

    /// Bytes held, those of reads under way counted as come.
    pub(super) fn footprint(&self) -> usize {
        let reads: usize = self
            .reads
            .iter()
            .filter(|read| read.id.is_some())
            .map(|read| read.len as usize)
            .sum();
        self.buffer.capacity() + reads
    }
}
