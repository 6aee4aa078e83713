//! How long to leave something alone that has failed: longer each time, never in step with others.

use crate::rng::Rng;
use crate::time::Duration;

/// Doublings after which nothing grows any more: 2³² × 1 ms is seven weeks.
const ATTEMPTS_MAX: u32 = 32;

/// The delays of one thing that may fail.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Delays of `base` doubled once, twice, … up to `max`, each shortened by chance by up to half.
    pub(super) const fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max,
            attempts: 0,
        }
    }

    /// It has failed again: how long to wait.
    pub(super) fn fail(&mut self, rng: &mut Rng) -> Duration {
        self.attempts = (self.attempts + 1).min(ATTEMPTS_MAX);
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        let delay = self.base.saturating_mul(factor).min(self.max);
        rng.jitter(delay).max(Duration::from_millis(1))
    }

    /// It works.
    pub(super) fn succeed(&mut self) {
        self.attempts = 0;
    }

    /// Failures since it last worked.
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_begin_again_after_a_success() {
        let mut rng = Rng::from_seed(1);
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(60));
        for expected in [20, 40, 60, 60, 60] {
            let delay = backoff.fail(&mut rng);
            let whole = Duration::from_secs(expected);
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?}");
        }
        backoff.succeed();
        assert!(backoff.fail(&mut rng) <= Duration::from_secs(20));
        for _ in 0..100 {
            assert!(backoff.fail(&mut rng) <= Duration::from_secs(60));
        }
    }
}
