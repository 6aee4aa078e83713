//! What a peer has sent and nobody has parsed yet.
//!
//! The gateway owns it, the host reads into [`RecvBuffer::spare`], the parser looks at
//! [`RecvBuffer::bytes`] and consumes whole frames. An empty buffer holds no memory. A frame that
//! does not fit in a chunk is announced with [`RecvBuffer::expect_frame`]: its whole length is
//! reserved against the budget at once, but allocated only as its bytes arrive, and its body can be
//! taken without a copy.

use super::{CHUNK_SIZE, Charge, Chunk, Memory};

/// A large frame's buffer grows by this much at a time, so that a peer pays in bytes sent for bytes
/// held.
pub const GROW_STEP: usize = 64 * 1024;

/// Unparsed bytes of one connection or serial port.
#[derive(Debug)]
pub struct RecvBuffer {
    memory: Memory,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Empty,
    /// Invariant: `start < end` or nothing has been read yet; `end <= CHUNK_SIZE`.
    Chunk {
        chunk: Chunk,
        start: usize,
        end: usize,
    },
    /// One frame of `total` bytes, of which `filled` are here. Invariant: `filled <= total`,
    /// `filled <= bytes.len()`, and nothing of the next frame is ever in it.
    Frame {
        bytes: Vec<u8>,
        filled: usize,
        total: usize,
        _reserved: Charge,
    },
}

impl RecvBuffer {
    /// An empty buffer, which holds nothing.
    pub fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            store: Store::Empty,
        }
    }

    /// Where the host may read to next; never empty unless a whole frame waits to be parsed. What
    /// is read counts only once [`RecvBuffer::commit`] says so.
    pub fn spare(&mut self) -> &mut [u8] {
        if matches!(self.store, Store::Empty) {
            self.store = Store::Chunk {
                chunk: self.memory.chunk(),
                start: 0,
                end: 0,
            };
        }
        match &mut self.store {
            Store::Empty => &mut [],
            Store::Chunk { chunk, start, end } => {
                if *end == CHUNK_SIZE && *start > 0 {
                    chunk.copy_within(*start..*end, 0);
                    *end -= *start;
                    *start = 0;
                }
                &mut chunk[*end..]
            }
            Store::Frame {
                bytes,
                filled,
                total,
                ..
            } => {
                if *filled == bytes.len() && *filled < *total {
                    let grown = (*filled + GROW_STEP).min(*total);
                    bytes.reserve_exact(grown - *filled);
                    bytes.resize(grown, 0);
                }
                &mut bytes[*filled..]
            }
        }
    }

    /// `count` bytes have been read into [`RecvBuffer::spare`].
    ///
    /// # Panics
    /// If that is more than there was room for: the host is broken then.
    pub fn commit(&mut self, count: usize) {
        match &mut self.store {
            Store::Empty => assert!(count == 0, "nothing is read into no room"),
            Store::Chunk { end, .. } => {
                assert!(
                    count <= CHUNK_SIZE - *end,
                    "a read stays within the spare room"
                );
                *end += count;
            }
            Store::Frame { bytes, filled, .. } => {
                assert!(
                    count <= bytes.len() - *filled,
                    "a read stays within the spare room"
                );
                *filled += count;
            }
        }
        self.release_if_drained();
    }

    /// What has arrived and is not consumed.
    pub fn bytes(&self) -> &[u8] {
        match &self.store {
            Store::Empty => &[],
            Store::Chunk { chunk, start, end } => &chunk[*start..*end],
            Store::Frame { bytes, filled, .. } => &bytes[..*filled],
        }
    }

    /// Forgets the first `count` bytes; an empty buffer gives its memory back.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn consume(&mut self, count: usize) {
        match &mut self.store {
            Store::Empty => assert!(count == 0, "nothing is consumed of nothing"),
            Store::Chunk { start, end, .. } => {
                assert!(count <= *end - *start, "only what has arrived is consumed");
                *start += count;
            }
            Store::Frame {
                bytes,
                filled,
                total,
                ..
            } => {
                assert!(count <= *filled, "only what has arrived is consumed");
                bytes.drain(..count);
                *filled -= count;
                *total -= count;
            }
        }
        self.release_if_drained();
    }

    /// Says that the frame at the front is `total` bytes long and not yet whole. If it does not fit
    /// in a chunk, its length is reserved and further reads go straight to its place. `Err` if the
    /// budget refuses: the caller closes or pauses.
    pub fn expect_frame(&mut self, total: usize) -> Result<(), OverBudget> {
        if total <= CHUNK_SIZE || matches!(self.store, Store::Frame { .. }) {
            return Ok(());
        }
        let reserved = self.memory.try_reserve(total).ok_or(OverBudget)?;
        let here = self.bytes();
        debug_assert!(here.len() < total, "a frame that is here is not expected");
        let mut bytes = Vec::with_capacity(here.len().next_multiple_of(GROW_STEP).min(total));
        bytes.extend_from_slice(here);
        let filled = bytes.len();
        self.store = Store::Frame {
            bytes,
            filled,
            total,
            _reserved: reserved,
        };
        Ok(())
    }

    /// Takes the buffer of a large frame that is whole, so that its payload can be shared without a
    /// copy. `None` if the front is not such a frame; then it is small and lies in
    /// [`RecvBuffer::bytes`].
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        match &mut self.store {
            Store::Frame {
                bytes,
                filled,
                total,
                ..
            } if filled == total => {
                bytes.truncate(*filled);
                let bytes = core::mem::take(bytes);
                self.store = Store::Empty;
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Whether the front is a large frame and all of it is here: [`RecvBuffer::take_frame`] will
    /// answer.
    pub fn has_large_frame(&self) -> bool {
        matches!(&self.store, Store::Frame { filled, total, .. } if filled == total)
    }

    /// Forgets everything and gives all memory back.
    pub fn clear(&mut self) {
        self.store = Store::Empty;
    }

    fn release_if_drained(&mut self) {
        let drained = match &self.store {
            Store::Empty => false,
            Store::Chunk { start, end, .. } => start == end,
            Store::Frame { total, .. } => *total == 0,
        };
        if drained {
            self.store = Store::Empty;
        }
    }
}

/// The memory budget refused a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverBudget;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(buffer: &mut RecvBuffer, bytes: &[u8]) -> usize {
        let spare = buffer.spare();
        let count = bytes.len().min(spare.len());
        spare[..count].copy_from_slice(&bytes[..count]);
        buffer.commit(count);
        count
    }

    #[test]
    fn an_idle_buffer_holds_nothing() {
        let memory = Memory::new(usize::MAX);
        let mut buffer = RecvBuffer::new(&memory);
        assert_eq!(memory.used(), 0);
        read(&mut buffer, b"abc");
        assert_eq!(memory.used(), CHUNK_SIZE);
        buffer.consume(3);
        assert_eq!(memory.used(), 0);
        buffer.spare();
        buffer.commit(0);
        assert_eq!(
            memory.used(),
            0,
            "a read that brought nothing leaves nothing"
        );
    }

    #[test]
    fn a_large_frame_is_reserved_at_once_and_grown_as_it_comes() {
        let memory = Memory::new(1_000_000);
        let mut buffer = RecvBuffer::new(&memory);
        read(&mut buffer, &[1; 100]);
        assert_eq!(buffer.expect_frame(2_000_000), Err(OverBudget));
        assert_eq!(buffer.bytes(), &[1; 100], "a refusal changes nothing");
        buffer.expect_frame(300_000).expect("fits");
        assert_eq!(memory.used(), 300_000);
        assert!(buffer.take_frame().is_none());
        assert!(buffer.spare().len() <= GROW_STEP);
        let mut here = 100;
        while here < 300_000 {
            here += read(&mut buffer, &[2; 10_000]);
        }
        assert_eq!(here, 300_000, "nothing of the next frame was read");
        assert!(buffer.has_large_frame());
        let frame = buffer.take_frame().expect("whole");
        assert_eq!(frame.len(), 300_000);
        assert_eq!(memory.used(), 0);
    }

    proptest! {
        #[test]
        fn gives_back_what_was_read_in_order(
            steps in proptest::collection::vec((0_usize..20_000, 0_usize..20_000), 1..40),
            frame in proptest::option::of(CHUNK_SIZE + 1..200_000_usize),
        ) {
            let memory = Memory::new(usize::MAX);
            let mut buffer = RecvBuffer::new(&memory);
            let mut model: Vec<u8> = Vec::new();
            let mut next = 0_u8;
            for (index, (arriving, leaving)) in steps.into_iter().enumerate() {
                let mut bytes = vec![0; arriving];
                for byte in &mut bytes {
                    next = next.wrapping_add(1);
                    *byte = next;
                }
                let count = read(&mut buffer, &bytes);
                next = next.wrapping_sub((arriving - count) as u8);
                model.extend_from_slice(&bytes[..count]);
                if index == 3 && let Some(total) = frame && model.len() < total {
                    buffer.expect_frame(total).expect("no limit");
                }
                prop_assert_eq!(buffer.bytes(), &model[..]);
                let count = leaving.min(model.len());
                buffer.consume(count);
                model.drain(..count);
                prop_assert_eq!(buffer.bytes(), &model[..]);
            }
            buffer.clear();
            prop_assert_eq!(memory.used(), 0);
        }
    }
}
