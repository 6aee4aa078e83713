//! What a bridge remembers of messages so as not to take them twice: those it has sent to a peer
//! that would send them back, and those that it has received.
//!
//! Both are bounded, and keep a fingerprint of each message, not the message. A fingerprint is 64
//! bits from a seeded hasher, so nobody can make two messages with the same one on purpose.

use core::hash::BuildHasher;
use std::collections::{BTreeMap, BTreeSet};

use crate::rng::{HashState, Rng};
use crate::time::{Duration, Instant};

/// Fingerprints of each kind that are remembered; the oldest goes.
pub const REMEMBERED_MAX: usize = 4096;

/// How long a message that was sent may take to come back.
pub const ECHO_TIME: Duration = Duration::from_secs(60);

/// Fingerprints, each as often as it was put in.
#[derive(Debug)]
pub(super) struct Remembered {
    hasher: HashState,
    next_serial: u64,
    /// In the order in which they were put in.
    order: BTreeMap<u64, (Instant, u64)>,
    /// Invariant: fingerprint and serial of each entry of `order`.
    index: BTreeSet<(u64, u64)>,
}

impl Remembered {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            hasher: rng.hash_state(),
            next_serial: 0,
            order: BTreeMap::new(),
            index: BTreeSet::new(),
        }
    }

    /// The same parts have the same fingerprint.
    pub(super) fn fingerprint(&self, parts: &[&[u8]]) -> u64 {
        self.hasher.hash_one(parts)
    }

    /// Puts a fingerprint in.
    pub(super) fn insert(&mut self, now: Instant, fingerprint: u64) {
        if self.order.len() >= REMEMBERED_MAX {
            self.forget_oldest();
        }
        self.next_serial += 1;
        self.order.insert(self.next_serial, (now, fingerprint));
        self.index.insert((fingerprint, self.next_serial));
    }

    /// Whether it is there.
    pub(super) fn contains(&self, fingerprint: u64) -> bool {
        self.serial_of(fingerprint).is_some()
    }

    /// Takes one such fingerprint out, if it is there and was put in since `since`.
    pub(super) fn take(&mut self, since: Instant, fingerprint: u64) -> bool {
        while self
            .order
            .first_key_value()
            .is_some_and(|(_, (at, _))| *at < since)
        {
            self.forget_oldest();
        }
        let Some(serial) = self.serial_of(fingerprint) else {
            return false;
        };
        self.order.remove(&serial);
        self.index.remove(&(fingerprint, serial));
        true
    }

    fn serial_of(&self, fingerprint: u64) -> Option<u64> {
        let mut found = self.index.range((fingerprint, 0)..=(fingerprint, u64::MAX));
        found.next().map(|(_, serial)| *serial)
    }

    fn forget_oldest(&mut self) {
        if let Some((serial, (_, fingerprint))) = self.order.pop_first() {
            self.index.remove(&(fingerprint, serial));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_as_often_as_it_was_put_in_and_in_time() {
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let mut sent = Remembered::new(&mut Rng::from_seed(1));
        let (one, other) = (
            sent.fingerprint(&[b"a", b"1"]),
            sent.fingerprint(&[b"a1", b""]),
        );
        assert_ne!(one, other, "parts have ends");
        sent.insert(at(1), one);
        sent.insert(at(2), one);
        sent.insert(at(3), other);
        assert!(sent.take(at(0), one) && sent.take(at(0), one));
        assert!(!sent.take(at(0), one));
        assert!(!sent.take(at(4), other), "too old");
        for count in 0..2 * REMEMBERED_MAX as u64 {
            sent.insert(at(5), count);
        }
        assert!(!sent.contains(0) && sent.contains(2 * REMEMBERED_MAX as u64 - 1));
        assert_eq!(sent.order.len(), REMEMBERED_MAX);
        assert_eq!(sent.index.len(), REMEMBERED_MAX);
    }
}
