//! The pauses between attempts.

use super::settings::Reconnect;
use crate::rng::Rng;
use crate::time::Duration;

/// Doubles from pause to pause, up to a longest one, each between half of it and all of it: so that
/// many gateways that lost one broker do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// How often the shortest pause is doubled for the next one.
    doublings: u32,
}

impl Backoff {
    /// The next pause.
    pub(super) fn next(&mut self, reconnect: Reconnect, rng: &mut Rng) -> Duration {
        let factor = 1_u32.checked_shl(self.doublings).unwrap_or(u32::MAX);
        let pause = reconnect.min.saturating_mul(factor).min(reconnect.max);
        if pause < reconnect.max {
            self.doublings += 1;
        }
        rng.jitter(pause)
    }

    /// The longest pause, for what only a person can mend; those after it are as long.
    pub(super) fn longest(&mut self, reconnect: Reconnect, rng: &mut Rng) -> Duration {
        while self.doublings < u32::BITS
            && reconnect.min.saturating_mul(1 << self.doublings.min(31)) < reconnect.max
        {
            self.doublings += 1;
        }
        rng.jitter(reconnect.max)
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        self.doublings = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let reconnect = Reconnect {
            min: Duration::from_secs(1),
            max: Duration::from_secs(10),
        };
        let mut rng = Rng::from_seed(1);
        let mut backoff = Backoff::default();
        for whole in [1, 2, 4, 8, 10, 10, 10] {
            let pause = backoff.next(reconnect, &mut rng);
            let whole = Duration::from_secs(whole);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next(reconnect, &mut rng) <= Duration::from_secs(1));
        assert!(backoff.longest(reconnect, &mut rng) >= Duration::from_secs(5));
        assert!(backoff.next(reconnect, &mut rng) >= Duration::from_secs(5));
    }
}
