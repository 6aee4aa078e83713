//! Encoded bytes on their way to one peer: small things copied side by side, large ones shared.
//!
//! Measured sender cost per message on loopback decides: up to 2 KiB a copy into a contiguous chunk
//! is cheaper than one more element of a gathered write, from 16 KiB on it is dearer, in between
//! they tie (`cargo bench --bench buffer`).

use std::collections::VecDeque;
use std::io::IoSlice;

use super::{CHUNK_SIZE, Charge, Chunk, Memory, Payload, SMALL_CHUNK_SIZE};

/// A packet of at most this many bytes is copied whole; of a longer one the payload is shared.
pub const COPY_MAX: usize = 2048;

/// Unsent bytes above which a connection's takers keep references instead of encoding more.
pub const HIGH_WATER: usize = 64 * 1024;

/// Encoded bytes of one connection, in order.
#[derive(Debug)]
pub struct SendQueue {
    memory: Memory,
    /// Here rather than in `rest` because most queues never have more than one, and an idle one
    /// holds nothing.
    first: Option<Segment>,
    /// Invariant: empty if there is no first one.
    rest: VecDeque<Segment>,
    len: usize,
    more: bool,
    /// Bytes taken off the front since the queue was made.
    sent: u64,
}

#[derive(Debug)]
enum Segment {
    /// Invariant: `start < end <= chunk.len()`, except while it is being written.
    Chunk {
        chunk: Chunk,
        start: u32,
        end: u32,
    },
    /// A head too long for a chunk (a topic may have 65 535 bytes, properties more), or one behind
    /// which a shared payload follows.
    Owned(Box<Owned>),
    Shared {
        payload: Payload,
        start: usize,
    },
}

#[derive(Debug)]
struct Owned {
    bytes: Box<[u8]>,
    start: usize,
    _charge: Charge,
}

/// A queue whose list of segments was longer than this gives it back when it is drained.
const SEGMENTS_KEPT: usize = 64;

impl SendQueue {
    /// An empty queue, which holds no chunk.
    pub fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            first: None,
            rest: VecDeque::new(),
            len: 0,
            more: false,
            sent: 0,
        }
    }

    /// Appends `len` bytes and gives them to be written, all of them, by the caller. They are
    /// contiguous.
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        self.len += len;
        if len > CHUNK_SIZE {
            return self.reserve_owned(len);
        }
        if !self.has_room_behind(len) {
            // Most queues are empty again before they hold more.
            let chunk = if self.first.is_none() && len <= SMALL_CHUNK_SIZE {
                self.memory.small_chunk()
            } else {
                self.memory.chunk()
            };
            self.push(Segment::Chunk {
                chunk,
                start: 0,
                end: 0,
            });
        }
        let Some(Segment::Chunk { chunk, end, .. }) = self.last_mut() else {
            unreachable!("the last segment is a chunk with room")
        };
        let start = *end as usize;
        *end += len as u32;
        &mut chunk[start..start + len]
    }

    /// As [`SendQueue::reserve`], for a head behind which a payload is to be shared: nothing could
    /// be appended to a chunk that was begun for it, so it is begun for none.
    pub fn reserve_head(&mut self, len: usize) -> &mut [u8] {
        if self.has_room_behind(len) {
            return self.reserve(len);
        }
        self.len += len;
        self.reserve_owned(len)
    }

    fn has_room_behind(&mut self, len: usize) -> bool {
        matches!(self.last_mut(),
            Some(Segment::Chunk { chunk, end, .. }) if chunk.len() - *end as usize >= len)
    }

    fn reserve_owned(&mut self, len: usize) -> &mut [u8] {
        let owned = Owned {
            bytes: vec![0; len].into_boxed_slice(),
            start: 0,
            _charge: self.memory.charge(len),
        };
        self.push(Segment::Owned(Box::new(owned)));
        let Some(Segment::Owned(owned)) = self.last_mut() else {
            unreachable!("it was pushed just now")
        };
        &mut owned.bytes
    }

    /// Appends a payload by reference, or by copy if it is small.
    pub fn push_payload(&mut self, payload: &Payload) {
        if payload.len() <= COPY_MAX {
            if !payload.is_empty() {
                self.reserve(payload.len()).copy_from_slice(payload);
            }
            return;
        }
        self.len += payload.len();
        self.push(Segment::Shared {
            payload: payload.clone(),
            start: 0,
        });
    }

    fn push(&mut self, segment: Segment) {
        if self.first.is_none() {
            self.first = Some(segment);
        } else {
            self.rest.push_back(segment);
        }
    }

    fn last_mut(&mut self) -> Option<&mut Segment> {
        self.rest.back_mut().or(self.first.as_mut())
    }

    /// Unsent bytes, shared ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that have been sent since the queue was made.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether whoever fills this queue had more to add when it was last asked: the host asks again
    /// once this is sent.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// See [`SendQueue::has_more`].
    pub fn set_more(&mut self, more: bool) {
        self.more = more;
    }

    /// The front as slices for a gathered write: at most `slices.len()` of them, of at most
    /// `budget` bytes together. Returns how many were set.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>], budget: usize) -> usize {
        let mut left = budget;
        let mut count = 0;
        for (slot, segment) in slices.iter_mut().zip(self.first.iter().chain(&self.rest)) {
            let bytes = segment.unsent();
            let bytes = &bytes[..bytes.len().min(left)];
            if bytes.is_empty() {
                break;
            }
            *slot = IoSlice::new(bytes);
            left -= bytes.len();
            count += 1;
        }
        count
    }

    /// The first contiguous run of unsent bytes, empty if there are none.
    pub fn front(&self) -> &[u8] {
        self.first.as_ref().map_or(&[], Segment::unsent)
    }

    /// Forgets the first `count` bytes, which have been sent.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len, "only what was queued can be sent");
        self.len -= count;
        self.sent += count as u64;
        let mut left = count;
        while left > 0 {
            let segment = self.first.as_mut();
            let segment = segment.expect("`len` counts the segments' bytes");
            let here = segment.unsent().len().min(left);
            segment.advance(here);
            left -= here;
            if segment.unsent().is_empty() {
                self.first = self.rest.pop_front();
            }
        }
        if self.len == 0 && self.rest.capacity() > SEGMENTS_KEPT {
            self.rest = VecDeque::new();
        }
    }

    /// Forgets everything and gives all memory back.
    pub fn clear(&mut self) {
        self.first = None;
        self.rest = VecDeque::new();
        self.len = 0;
        self.more = false;
    }
}

impl Segment {
    fn unsent(&self) -> &[u8] {
        match self {
            Self::Chunk { chunk, start, end } => &chunk[*start as usize..*end as usize],
            Self::Owned(owned) => &owned.bytes[owned.start..],
            Self::Shared { payload, start } => &payload[*start..],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Chunk { start, .. } => *start += count as u32,
            Self::Owned(owned) => owned.start += count,
            Self::Shared { start, .. } => *start += count,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contents(queue: &SendQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = queue.gather(&mut slices, usize::MAX);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn small_is_copied_and_large_is_shared() {
        let memory = Memory::new(usize::MAX);
        let mut queue = SendQueue::new(&memory);
        queue.push_payload(&Payload::from(vec![1; COPY_MAX]));
        let large = Payload::from(vec![2; COPY_MAX + 1]);
        queue.push_payload(&large);
        assert!(matches!(queue.first, Some(Segment::Chunk { .. })));
        assert_eq!(queue.rest[0].unsent().as_ptr(), large.as_ptr());
        assert_eq!(queue.len(), 2 * COPY_MAX + 1);
    }

    #[test]
    fn a_drained_queue_holds_no_chunk() {
        let memory = Memory::new(usize::MAX);
        let mut queue = SendQueue::new(&memory);
        queue.reserve(10).fill(1);
        assert_eq!(memory.used(), SMALL_CHUNK_SIZE);
        queue.reserve(SMALL_CHUNK_SIZE - 9).fill(1);
        assert_eq!(memory.used(), SMALL_CHUNK_SIZE + CHUNK_SIZE);
        queue.consume(SMALL_CHUNK_SIZE + 1);
        assert_eq!(memory.used(), 0);
        let large = Payload::from(vec![2; COPY_MAX + 1]);
        queue.reserve(CHUNK_SIZE + 1).fill(1);
        assert_eq!(
            memory.used(),
            CHUNK_SIZE + 1,
            "a long head is accounted for"
        );
        for _ in 0..1000 {
            queue.push_payload(&large);
        }
        queue.consume(queue.len());
        assert_eq!((memory.used(), queue.rest.capacity()), (0, 0));
        assert!(queue.front().is_empty());
    }

    #[test]
    fn heads_of_shared_payloads_hold_no_chunks() {
        let memory = Memory::new(usize::MAX);
        let mut queue = SendQueue::new(&memory);
        let payload = Payload::from(vec![2; COPY_MAX + 1]);
        for _ in 0..10 {
            queue.reserve_head(7).fill(1);
            queue.push_payload(&payload);
        }
        assert_eq!(memory.used(), 10 * 7, "the heads alone");
        assert_eq!(queue.len(), 10 * (7 + payload.len()));
        queue.clear();
        queue.reserve(1).fill(3);
        queue.reserve_head(7).fill(1);
        assert_eq!(
            memory.used(),
            SMALL_CHUNK_SIZE,
            "where there is room a head is copied"
        );
    }

    proptest! {
        #[test]
        fn sends_what_was_queued_in_order(
            steps in proptest::collection::vec(
                (0_usize..40_000, any::<bool>(), 0_usize..50_000),
                1..30,
            )
        ) {
            let memory = Memory::new(usize::MAX);
            let mut queue = SendQueue::new(&memory);
            let mut model: Vec<u8> = Vec::new();
            for (index, (len, shared, sent)) in steps.into_iter().enumerate() {
                let bytes = vec![index as u8; len];
                if shared {
                    queue.push_payload(&Payload::from(bytes.clone()));
                } else if len > 0 {
                    queue.reserve(len).copy_from_slice(&bytes);
                }
                model.extend(bytes);
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(contents(&queue), &model[..]);
                let sent = sent.min(model.len());
                queue.consume(sent);
                model.drain(..sent);
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
            queue.clear();
            prop_assert_eq!(memory.used(), 0);
        }

        #[test]
        fn a_gathered_write_keeps_to_its_budget(
            lens in proptest::collection::vec(1_usize..30_000, 1..10), budget in 0_usize..100_000
        ) {
            let memory = Memory::new(usize::MAX);
            let mut queue = SendQueue::new(&memory);
            for len in lens {
                queue.reserve(len).fill(0);
            }
            let mut slices = [IoSlice::new(&[]); 16];
            let count = queue.gather(&mut slices, budget);
            let total: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            prop_assert_eq!(total, budget.min(queue.len()));
        }
    }
}
