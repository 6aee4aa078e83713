//! Deadlines in order: what machines and hosts keep their timers in.
//!
//! [`Deadlines`] is a heap with lazy re-arming, for many keys that are touched far more often than
//! they fire. [`ExactDeadlines`] is an ordered set without stale entries, for few keys that are
//! moved earlier or taken back: its owner is never woken for nothing.
//!
//! Touching a keep-alive on every packet must cost a store, not a heap operation. So an entry that
//! fires is only a question: its owner compares `now` with the deadline that it keeps itself, and
//! arms the key again if that has moved. Entries whose owner is gone answer themselves, for keys
//! carry generations.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

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

    /// Forgets stale entries: those that `is_live` does not know, and all but one of equal ones.
    /// For owners that come and go, or move, faster than their deadlines pass.
    pub fn retain(&mut self, mut is_live: impl FnMut(Instant, K) -> bool) {
        let mut entries = core::mem::take(&mut self.heap).into_vec();
        entries.retain(|Reverse((at, key))| is_live(*at, *key));
        entries.sort_unstable();
        entries.dedup();
        entries.shrink_to(2 * entries.len());
        self.heap = entries.into();
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

/// Deadlines by time, each key at most once. Two keys that are due together fire in their order.
#[derive(Debug, Clone)]
pub struct ExactDeadlines<K> {
    /// Invariant: the same pairs as in `at`.
    order: BTreeSet<(Instant, K)>,
    at: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> ExactDeadlines<K> {
    /// Moves a key's deadline to `at`, wherever it was. [`Instant::FAR_FUTURE`] takes it back.
    pub fn arm(&mut self, key: K, at: Instant) {
        if self.at.get(&key) == Some(&at) {
            return;
        }
        self.disarm(key);
        if at < Instant::FAR_FUTURE {
            self.at.insert(key, at);
            self.order.insert((at, key));
        }
    }

    /// Takes a deadline back; nothing happens if there is none.
    pub fn disarm(&mut self, key: K) {
        if let Some(at) = self.at.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest key that is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.at.remove(&key);
        Some(key)
    }

    /// When a key is due; `None` if it is not armed.
    pub fn get(&self, key: K) -> Option<Instant> {
        self.at.get(&key).copied()
    }

    /// Every key that is armed, in their order.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.at.keys().copied()
    }
}

impl<K> Default for ExactDeadlines<K> {
    fn default() -> Self {
        Self {
            order: BTreeSet::new(),
            at: BTreeMap::new(),
        }
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
    fn an_exact_deadline_is_moved_and_taken_back_without_a_trace() {
        let at = Instant::from_nanos;
        let mut deadlines = ExactDeadlines::default();
        deadlines.arm('a', at(30));
        deadlines.arm('b', at(20));
        deadlines.arm('a', at(10));
        deadlines.arm('a', at(10));
        assert_eq!(
            (deadlines.next(), deadlines.get('a')),
            (Some(at(10)), Some(at(10)))
        );
        assert_eq!(deadlines.pop_due(at(9)), None);
        assert_eq!(deadlines.pop_due(at(30)), Some('a'));
        deadlines.arm('b', Instant::FAR_FUTURE);
        assert_eq!((deadlines.next(), deadlines.get('b')), (None, None));
        deadlines.disarm('b');
        assert_eq!(deadlines.keys().next(), None);
    }

    #[test]
    fn what_is_stale_is_forgotten_when_asked_and_the_rest_stays_in_order() {
        let at = Instant::from_nanos;
        let mut deadlines = Deadlines::new();
        for (time, key) in [(30, 'c'), (10, 'b'), (20, 'x'), (10, 'b'), (40, 'b')] {
            deadlines.arm(at(time), key);
        }
        deadlines.retain(|time, key| key != 'x' && time < at(40));
        assert_eq!(deadlines.len(), 2);
        assert_eq!(deadlines.pop_due(at(50)), Some('b'));
        assert_eq!(deadlines.pop_due(at(50)), Some('c'));
    }

    #[test]
    fn never_is_not_a_deadline() {
        let mut deadlines = Deadlines::new();
        deadlines.arm(Instant::FAR_FUTURE, ());
        assert!(deadlines.is_empty());
        assert_eq!(deadlines.next(), None);
    }
}
