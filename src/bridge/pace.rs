//! How fast something may be sent: a rate, with a short burst so that it is not woken for each
//! message.

use crate::time::{Duration, Instant};
use crate::units::Rate;

/// What may be sent at once after a silence, as a time's worth of messages.
const BURST: Duration = Duration::from_millis(100);

/// A rate that is kept. Without one everything may be sent at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    rate: Option<Rate>,
    /// When all that was sent would have been sent at the even rate.
    even_at: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self {
            rate,
            even_at: Instant::default(),
        }
    }

    /// From here on this rate holds.
    pub(super) fn set_rate(&mut self, rate: Option<Rate>) {
        self.rate = rate;
    }

    /// Whether one more may be sent now.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.rate.is_none() || self.even_at <= now + BURST
    }

    /// One was sent.
    pub(super) fn spend(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            self.even_at = self.even_at.max(now) + rate.time_for(1);
        }
    }

    /// When to look again, if nothing is allowed now: half a burst later than the first that would
    /// be, so that several go at once.
    pub(super) fn next(&self) -> Instant {
        self.even_at.saturating_sub(BURST / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_it_is_the_rate_and_wakes_are_few() {
        for per_second in [1, 7, 200, 5000] {
            let mut pace = Pace::new(Some(Rate::per_second(per_second)));
            let start = Instant::from_nanos(1) + Duration::from_secs(5);
            let (mut now, mut sent, mut wakes) = (start, 0, 0);
            while now < start + Duration::from_secs(60) {
                while pace.allows(now) {
                    pace.spend(now);
                    sent += 1;
                }
                let next = pace.next();
                assert!(next > now, "time advances");
                now = next;
                wakes += 1;
            }
            let expected = 60 * per_second;
            let burst = per_second / 10 + 1;
            assert!((expected..=expected + burst + 1).contains(&sent), "{sent}");
            assert!(wakes <= (60 * 20).min(expected) + 1, "{wakes}");
        }
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut pace = Pace::new(None);
        for _ in 0..1000 {
            assert!(pace.allows(Instant::default()));
            pace.spend(Instant::default());
        }
    }
}
