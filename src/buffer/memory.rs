//! The memory accountant: one budget over all buffers, queues and tables, and the pool of chunks.
//!
//! A [`Memory`] is a handle; its clones share one account, which is why it can live in every buffer
//! without being passed around. Charges give themselves back when dropped, so an account cannot
//! leak while values do not.

use core::cell::Cell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Bytes in a chunk: one read from a socket, one TLS record, one WebSocket frame.
pub const CHUNK_SIZE: usize = 16 * 1024;

/// Bytes in a small chunk: what most connections are sent in one turn. A thousand subscribers that
/// get a message each then touch a few pages each, and not a chunk each.
pub const SMALL_CHUNK_SIZE: usize = 2048;

/// Free chunks kept for the next taker; beyond this they go back to the allocator.
pub const FREE_CHUNKS_MAX: usize = 32;

/// The same of small ones: as many bytes again.
pub const FREE_SMALL_CHUNKS_MAX: usize = FREE_CHUNKS_MAX * CHUNK_SIZE / SMALL_CHUNK_SIZE;

/// A handle to the account and the pool.
#[derive(Debug, Clone)]
pub struct Memory(Rc<Account>);

struct Account {
    limit: Cell<usize>,
    used: Cell<usize>,
    peak: Cell<usize>,
    refused: Cell<u64>,
    /// Invariant: at most [`FREE_CHUNKS_MAX`], each [`CHUNK_SIZE`] long. `Cell` by taking and
    /// putting back.
    free: Cell<Vec<Box<[u8]>>>,
    /// The same of small ones, at most [`FREE_SMALL_CHUNKS_MAX`].
    free_small: Cell<Vec<Box<[u8]>>>,
}

impl Memory {
    /// An account with a budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Rc::new(Account {
            limit: Cell::new(limit),
            used: Cell::new(0),
            peak: Cell::new(0),
            refused: Cell::new(0),
            free: Cell::new(Vec::new()),
            free_small: Cell::new(Vec::new()),
        }))
    }

    /// Charges `bytes`, or refuses and counts that if the budget does not allow it.
    pub fn try_reserve(&self, bytes: usize) -> Option<Charge> {
        if !self.has_room(bytes) {
            self.0.refused.set(self.0.refused.get() + 1);
            return None;
        }
        Some(self.charge(bytes))
    }

    /// Charges `bytes` whatever the budget says: for what is small, bounded elsewhere, and must not
    /// fail.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.0.add(bytes);
        Charge {
            account: self.0.clone(),
            bytes,
        }
    }

    /// Whether `bytes` more would fit. A question, not counted as a refusal.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.0.used.get().saturating_add(bytes) <= self.0.limit.get()
    }

    /// A chunk, from the pool if it has one. Never refused: chunks are bounded by connections, and
    /// an acknowledgement must get out even when the budget is spent.
    pub fn chunk(&self) -> Chunk {
        self.chunk_of(CHUNK_SIZE)
    }

    /// A small chunk, on the same terms.
    pub fn small_chunk(&self) -> Chunk {
        self.chunk_of(SMALL_CHUNK_SIZE)
    }

    fn chunk_of(&self, size: usize) -> Chunk {
        let (pool, _) = self.0.pool(size);
        let mut free = pool.take();
        let bytes = free
            .pop()
            .unwrap_or_else(|| vec![0; size].into_boxed_slice());
        pool.set(free);
        self.0.add(size);
        Chunk {
            bytes,
            account: self.0.clone(),
        }
    }

    /// Bytes charged now, free chunks not counted.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    /// The most that was ever charged at once.
    pub fn peak(&self) -> usize {
        self.0.peak.get()
    }

    /// The budget.
    pub fn limit(&self) -> usize {
        self.0.limit.get()
    }

    /// Changes the budget; what is charged already stays, and refusals follow until it fits.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.set(limit);
    }

    /// How often a reservation was refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.get()
    }
}

impl Account {
    /// Free chunks of this size, and how many there may be.
    fn pool(&self, size: usize) -> (&Cell<Vec<Box<[u8]>>>, usize) {
        if size == SMALL_CHUNK_SIZE {
            (&self.free_small, FREE_SMALL_CHUNKS_MAX)
        } else {
            (&self.free, FREE_CHUNKS_MAX)
        }
    }

    fn add(&self, bytes: usize) {
        let used = self.used.get() + bytes;
        self.used.set(used);
        self.peak.set(self.peak.get().max(used));
    }

    fn subtract(&self, bytes: usize) {
        let used = self.used.get().checked_sub(bytes);
        self.used
            .set(used.expect("only what was charged is given back"));
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Account({} of {} bytes)",
            self.used.get(),
            self.limit.get()
        )
    }
}

/// Bytes charged to an account until this is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Rc<Account>,
    bytes: usize,
}

impl Charge {
    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the charge to what has become true, whatever the budget says.
    pub fn set(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.account.add(bytes - self.bytes);
        } else {
            self.account.subtract(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.subtract(self.bytes);
    }
}

/// [`CHUNK_SIZE`] bytes, or [`SMALL_CHUNK_SIZE`], that return to the pool when dropped. What they
/// held before is still in them.
#[derive(Debug)]
pub struct Chunk {
    bytes: Box<[u8]>,
    account: Rc<Account>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let size = self.bytes.len();
        self.account.subtract(size);
        let (pool, most) = self.account.pool(size);
        let mut free = pool.take();
        if free.len() < most {
            free.push(core::mem::take(&mut self.bytes));
        }
        pool.set(free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_budget_does_not_allow_and_counts_it() {
        let memory = Memory::new(100);
        let first = memory.try_reserve(60).expect("fits");
        assert!(memory.try_reserve(41).is_none());
        assert_eq!((memory.used(), memory.refused()), (60, 1));
        drop(first);
        assert!(memory.try_reserve(100).is_some());
        assert_eq!((memory.used(), memory.peak()), (0, 100));
    }

    #[test]
    fn a_charge_follows_what_is_true() {
        let memory = Memory::new(100);
        let mut charge = memory.charge(150);
        charge.set(20);
        assert_eq!(memory.used(), 20);
        charge.set(30);
        assert_eq!(
            (charge.bytes(), memory.used(), memory.peak()),
            (30, 30, 150)
        );
        drop(charge);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn chunks_return_to_the_pool_up_to_its_limit() {
        let memory = Memory::new(0);
        let mut chunk = memory.chunk();
        chunk[0] = 7;
        assert_eq!(memory.used(), CHUNK_SIZE);
        drop(chunk);
        assert_eq!(
            (memory.used(), memory.chunk()[0]),
            (0, 7),
            "the same chunk comes back"
        );
        let many: Vec<_> = (0..FREE_CHUNKS_MAX + 5).map(|_| memory.chunk()).collect();
        drop(many);
        assert_eq!(memory.0.free.take().len(), FREE_CHUNKS_MAX);
        let small = memory.small_chunk();
        assert_eq!(
            (small.len(), memory.used()),
            (SMALL_CHUNK_SIZE, SMALL_CHUNK_SIZE)
        );
        drop(small);
        assert_eq!(memory.0.free_small.take().len(), 1);
    }
}
