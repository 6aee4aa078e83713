//! What is done at a rate: it fills a bucket that drains steadily.
//!
//! The bucket is one point in time, the one at which it will be empty, so that it costs nothing
//! while nobody looks.

use crate::time::{Duration, Instant};
use crate::units::Rate;

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bucket {
    /// Invariant: whatever was poured in has drained by then.
    empty_at: Instant,
}

impl Bucket {
    /// Pours in so many.
    pub(super) fn pour(&mut self, now: Instant, rate: Rate, count: u64) {
        self.empty_at = self.empty_at.max(now) + rate.time_for(count);
    }

    /// How long what is in it takes to drain.
    pub(super) fn level(self, now: Instant) -> Duration {
        self.empty_at.since(now)
    }

    /// When there is no more in it than drains in `level`.
    pub(super) fn at_level(self, level: Duration) -> Instant {
        self.empty_at.saturating_sub(level)
    }

    /// When it is empty.
    pub(super) fn empty_at(self) -> Instant {
        self.empty_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_drains_at_its_rate_and_not_below_nothing() {
        let at = |millis: u64| Instant::default() + Duration::from_millis(millis);
        let rate = Rate::per_second(10);
        let mut bucket = Bucket::default();
        for _ in 0..10 {
            bucket.pour(at(1000), rate, 1);
        }
        assert_eq!(bucket.level(at(1000)), Duration::from_secs(1));
        assert_eq!(bucket.level(at(1600)), Duration::from_millis(400));
        assert_eq!(bucket.at_level(Duration::from_millis(400)), at(1600));
        assert_eq!(bucket.level(at(9000)), Duration::ZERO);
        bucket.pour(at(9000), rate, 1);
        assert_eq!(bucket.empty_at(), at(9100));
    }
}
