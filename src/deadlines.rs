//! A heap of deadlines with lazy re-arming: what every machine keeps its timers in.
//!
//! Touching a keep-alive on every packet must cost a store, not a heap operation. So an entry that
//! fires is only a question: its owner compares `now` with the deadline that it keeps itself, and
//! arms the key again if that has moved. Entries whose owner is gone answer themselves, for keys
//! carry generations.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;

/// Deadlines by time, then by key, so that two hosts with the same inputs fire in the same order.
#[derive(Debug, Clone)]
pub struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Copy> Deadlines<K> {
    /// No deadlines.
    pub fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }

    /// Asks to be woken for `key` at `at`. The owner arms a key once and re-arms it when it fires;
    /// arming it again for an *earlier* time is right too, and leaves a stale entry that the owner
    /// must tolerate.
    pub fn arm(&mut self, at: Instant, key: K) {
        if at < Instant::FAR_FUTURE {
            self.heap.push(Reverse((at, key)));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the earliest key that is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }

    /// Entries held, stale ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<K: Ord + Copy> Default for Deadlines<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_of_time_then_key() {
        let mut deadlines = Deadlines::new();
        for (at, key) in [(30, 'c'), (10, 'b'), (20, 'x'), (10, 'a')] {
            deadlines.arm(Instant::from_nanos(at), key);
        }
        assert_eq!(deadlines.next(), Some(Instant::from_nanos(10)));
        let mut fired = Vec::new();
        while let Some(key) = deadlines.pop_due(Instant::from_nanos(20)) {
            fired.push(key);
        }
        assert_eq!(fired, ['a', 'b', 'x']);
        assert_eq!(deadlines.len(), 1);
    }

    #[test]
    fn never_is_not_a_deadline() {
        let mut deadlines = Deadlines::new();
        deadlines.arm(Instant::FAR_FUTURE, ());
        assert!(deadlines.is_empty());
        assert_eq!(deadlines.next(), None);
    }
}
