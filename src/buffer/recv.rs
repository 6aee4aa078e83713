//! What a peer has sent and nobody has parsed yet.
//!
//! The gateway owns it, the host reads into [`RecvBuffer::spare`], the parser looks at
//! [`RecvBuffer::bytes`] and consumes whole frames. An empty buffer holds no memory. A frame that
//! does not fit in a chunk is announced with [`RecvBuffer::expect_frame`]: its whole length is
//! reserved against the budget at once, but allocated only as its bytes arrive, and its body can be
//! taken without a copy.
//!
//! A stranger, of whom nothing is known yet, gets no chunk either: its buffer starts at
//! [`FIRST_STEP`] and doubles as its bytes arrive, so that a thousand connections that have sent
//! half a CONNECT hold what they have sent and little more.

use super::{CHUNK_SIZE, Charge, Chunk, Memory};

/// A large frame's buffer grows by this much at a time, so that a peer pays in bytes sent for bytes
/// held.
pub const GROW_STEP: usize = 64 * 1024;

/// What a stranger's first byte makes us hold; every further step is as long as all before it.
pub const FIRST_STEP: usize = 512;

/// Unparsed bytes of one connection or serial port.
#[derive(Debug)]
pub struct RecvBuffer {
    memory: Memory,
    store: Store,
    is_stranger: bool,
}

#[derive(Debug)]
enum Store {
    Empty,
    Steps(Box<Steps>),
    /// Invariant: `start < end` or nothing has been read yet; `end <= CHUNK_SIZE`.
    Chunk {
        chunk: Chunk,
        start: u32,
        end: u32,
    },
    Frame(Box<Frame>),
}

/// A stranger's bytes. Invariant: `start < end` or nothing has been read yet; `end <= bytes.len()
/// <= CHUNK_SIZE`.
#[derive(Debug)]
struct Steps {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    charge: Charge,
}

/// One frame of `total` bytes, of which `filled` are here. Invariant: `filled <= total`, `filled <=
/// bytes.len()`, and nothing of the next frame is ever in it.
#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    filled: usize,
    total: usize,
    _reserved: Charge,
}

impl RecvBuffer {
    /// An empty buffer, which holds nothing.
    pub fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            store: Store::Empty,
            is_stranger: false,
        }
    }

    /// An empty buffer for somebody who has still to say who it is: it grows as bytes arrive, until
    /// [`RecvBuffer::trust`].
    pub fn for_stranger(memory: &Memory) -> Self {
        Self {
            is_stranger: true,
            ..Self::new(memory)
        }
    }

    /// It is known who sends: from here on there is a whole chunk for each read.
    pub fn trust(&mut self) {
        self.is_stranger = false;
    }

    /// Where the host may read to next; never empty unless a whole frame waits to be parsed. What
    /// is read counts only once [`RecvBuffer::commit`] says so.
    pub fn spare(&mut self) -> &mut [u8] {
        match &mut self.store {
            Store::Empty if self.is_stranger => {
                self.store = Store::Steps(Box::new(Steps {
                    bytes: vec![0; FIRST_STEP],
                    start: 0,
                    end: 0,
                    charge: self.memory.charge(FIRST_STEP),
                }));
            }
            Store::Empty => self.store = Store::chunk_of(&[], &self.memory),
            Store::Steps(steps) if !self.is_stranger => {
                self.store = Store::chunk_of(steps.unparsed(), &self.memory);
            }
            _ => {}
        }
        match &mut self.store {
            Store::Empty => &mut [],
            Store::Steps(steps) => steps.spare(),
            Store::Chunk { chunk, start, end } => {
                let (from, to) = (*start as usize, *end as usize);
                if to == CHUNK_SIZE && from > 0 {
                    chunk.copy_within(from..to, 0);
                    *end -= *start;
                    *start = 0;
                }
                &mut chunk[*end as usize..]
            }
            Store::Frame(frame) => {
                let step = if self.is_stranger {
                    frame.filled.clamp(FIRST_STEP, GROW_STEP)
                } else {
                    GROW_STEP
                };
                frame.spare(step)
            }
        }
    }

    /// `count` bytes have been read into [`RecvBuffer::spare`].
    ///
    /// # Panics
    /// If that is more than there was room for: the host is broken then.
    pub fn commit(&mut self, count: usize) {
        let room = match &self.store {
            Store::Empty => 0,
            Store::Steps(steps) => steps.bytes.len() - steps.end,
            Store::Chunk { end, .. } => CHUNK_SIZE - *end as usize,
            Store::Frame(frame) => frame.bytes.len() - frame.filled,
        };
        assert!(count <= room, "a read stays within the spare room");
        match &mut self.store {
            Store::Empty => {}
            Store::Steps(steps) => steps.end += count,
            Store::Chunk { end, .. } => *end += count as u32,
            Store::Frame(frame) => frame.filled += count,
        }
        self.release_if_drained();
    }

    /// What has arrived and is not consumed.
    pub fn bytes(&self) -> &[u8] {
        match &self.store {
            Store::Empty => &[],
            Store::Steps(steps) => steps.unparsed(),
            Store::Chunk { chunk, start, end } => &chunk[*start as usize..*end as usize],
            Store::Frame(frame) => &frame.bytes[..frame.filled],
        }
    }

    /// Forgets the first `count` bytes; an empty buffer gives its memory back.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn consume(&mut self, count: usize) {
        assert!(
            count <= self.bytes().len(),
            "only what has arrived is consumed"
        );
        match &mut self.store {
            Store::Empty => {}
            Store::Steps(steps) => steps.start += count,
            Store::Chunk { start, .. } => *start += count as u32,
            Store::Frame(frame) => {
                frame.bytes.drain(..count);
                frame.filled -= count;
                frame.total -= count;
            }
        }
        self.release_if_drained();
    }

    /// Says that the frame at the front is `total` bytes long and not yet whole. If it does not fit
    /// in a chunk, its length is reserved and further reads go straight to its place. `Err` if the
    /// budget refuses: the caller closes or pauses.
    pub fn expect_frame(&mut self, total: usize) -> Result<(), OverBudget> {
        if total <= CHUNK_SIZE || matches!(self.store, Store::Frame(_)) {
            return Ok(());
        }
        let reserved = self.memory.try_reserve(total).ok_or(OverBudget)?;
        let here = self.bytes();
        debug_assert!(here.len() < total, "a frame that is here is not expected");
        let step = if self.is_stranger { 1 } else { GROW_STEP };
        let mut bytes = Vec::with_capacity(here.len().next_multiple_of(step).min(total));
        bytes.extend_from_slice(here);
        let filled = bytes.len();
        self.store = Store::Frame(Box::new(Frame {
            bytes,
            filled,
            total,
            _reserved: reserved,
        }));
        Ok(())
    }

    /// Takes the buffer of a large frame that is whole, so that its payload can be shared without a
    /// copy. `None` if the front is not such a frame; then it is small and lies in
    /// [`RecvBuffer::bytes`].
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        match &mut self.store {
            Store::Frame(frame) if frame.filled == frame.total => {
                frame.bytes.truncate(frame.filled);
                let bytes = core::mem::take(&mut frame.bytes);
                self.store = Store::Empty;
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Whether the front is a large frame and all of it is here: [`RecvBuffer::take_frame`] will
    /// answer.
    pub fn has_large_frame(&self) -> bool {
        matches!(&self.store, Store::Frame(frame) if frame.filled == frame.total)
    }

    /// Forgets everything and gives all memory back.
    pub fn clear(&mut self) {
        self.store = Store::Empty;
    }

    fn release_if_drained(&mut self) {
        let drained = match &self.store {
            Store::Empty => false,
            Store::Steps(steps) => steps.start == steps.end,
            Store::Chunk { start, end, .. } => start == end,
            Store::Frame(frame) => frame.total == 0,
        };
        if drained {
            self.store = Store::Empty;
        }
    }
}

impl Store {
    fn chunk_of(bytes: &[u8], memory: &Memory) -> Self {
        let mut chunk = memory.chunk();
        chunk[..bytes.len()].copy_from_slice(bytes);
        Self::Chunk {
            chunk,
            start: 0,
            end: bytes.len() as u32,
        }
    }
}

impl Steps {
    fn unparsed(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn spare(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            let grown = (2 * self.end).min(CHUNK_SIZE);
            self.bytes.reserve_exact(grown - self.end);
            self.bytes.resize(grown, 0);
            self.charge.set(grown);
        }
        &mut self.bytes[self.end..]
    }
}

impl Frame {
    fn spare(&mut self, step: usize) -> &mut [u8] {
        if self.filled == self.bytes.len() && self.filled < self.total {
            let grown = (self.filled + step).min(self.total);
            self.bytes.reserve_exact(grown - self.filled);
            self.bytes.resize(grown, 0);
        }
        &mut self.bytes[self.filled..]
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

    #[test]
    fn a_stranger_holds_what_it_has_sent_and_little_more() {
        let memory = Memory::new(usize::MAX);
        let mut buffer = RecvBuffer::for_stranger(&memory);
        read(&mut buffer, b"half");
        assert_eq!(memory.used(), FIRST_STEP);
        for here in 5..=10_000 {
            assert_eq!(read(&mut buffer, &[7]), 1);
            assert!(memory.used() <= FIRST_STEP.max(2 * here));
        }
        buffer.consume(9_000);
        buffer.trust();
        assert_eq!(read(&mut buffer, &[8; 5000]), 5000);
        assert_eq!(memory.used(), CHUNK_SIZE);
        assert_eq!(buffer.bytes()[..1000], [7; 1000]);
        assert_eq!(buffer.bytes()[1000..], [8; 5000]);
        buffer.consume(6000);
        assert_eq!(memory.used(), 0);

        let mut buffer = RecvBuffer::for_stranger(&memory);
        read(&mut buffer, &[1; 100]);
        buffer.expect_frame(100_000).expect("no limit");
        assert_eq!(buffer.spare().len(), FIRST_STEP, "allocated as it comes");
        buffer.clear();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_buffer_without_bytes_is_small() {
        assert!(size_of::<RecvBuffer>() <= 56);
    }

    proptest! {
        #[test]
        fn gives_back_what_was_read_in_order(
            steps in proptest::collection::vec((0_usize..20_000, 0_usize..20_000), 1..40),
            frame in proptest::option::of(CHUNK_SIZE + 1..200_000_usize),
            trusted_at in 0_usize..40,
        ) {
            let memory = Memory::new(usize::MAX);
            let mut buffer = RecvBuffer::for_stranger(&memory);
            let mut model: Vec<u8> = Vec::new();
            let mut next = 0_u8;
            for (index, (arriving, leaving)) in steps.into_iter().enumerate() {
                let mut bytes = vec![0; arriving];
                for byte in &mut bytes {
                    next = next.wrapping_add(1);
                    *byte = next;
                }
                if index == trusted_at {
                    buffer.trust();
                }
                // A stranger whose first CHUNK_SIZE bytes are no packet is not read further.
                if trusted_at > index && buffer.bytes().len() == CHUNK_SIZE {
                    buffer.trust();
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
