//! When a device is due: on a grid, which neither drifts nor bunches up what was missed.
//!
//! Due times are multiples of `every` on that grid, whatever a reading took; ticks that passed
//! unused are skipped and counted, never made up for. The first reading does not wait for the grid:
//! someone has just started the gateway and looks.
//!
//! The grid is common to all devices, and its origin drawn by chance once for the gateway: devices
//! of one interval are due in the same turn, those of its multiples with them, and one wake-up of a
//! sleeping machine serves them all. A bus does not suffer from that, for it takes one transfer
//! after the other anyway; nor do brokers, for ten gateways have ten origins. Only devices that
//! would talk at the same time on one serial line have a place by chance each.

use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// The first reading comes within this time of the start.
pub const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Shorter intervals than this are this: a bus has other devices.
pub const EVERY_MIN: Duration = Duration::from_millis(1);

/// The due times of one device.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    every: Duration,
    next: Instant,
    /// The grid's next point after `next`, if that is not on the grid (it is the first).
    grid: Option<Instant>,
}

/// Where the multiples of an interval are counted from: any one point of the grid, which may be
/// ahead as well as past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin(Instant);

impl Origin {
    /// Somewhere within a day, so that every place on the grid of an interval is as likely.
    pub(super) fn by_chance(rng: &mut Rng) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self(Instant::default() + some_of(DAY, rng))
    }

    /// The first point of the grid of `every` that is not before `at`.
    fn first_from(self, at: Instant, every: Duration) -> Instant {
        let every = nanos(every);
        let (origin, at_place) = (self.0.as_nanos() % every, at.as_nanos() % every);
        let ahead = if origin >= at_place {
            origin - at_place
        } else {
            every - (at_place - origin)
        };
        at + Duration::from_nanos(ahead)
    }
}

impl Schedule {
    /// A schedule that begins now, on the grid with that origin.
    pub(super) fn new(now: Instant, every: Duration, origin: Origin, rng: &mut Rng) -> Self {
        let every = every.max(EVERY_MIN);
        let next = now + some_of(every.min(FIRST_WITHIN), rng);
        // Far enough behind the first reading that the second one says something new.
        let grid = origin.first_from(next + every / 2, every);
        Self {
            every,
            next,
            grid: Some(grid),
        }
    }

    /// When the device is due.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Moves on to the first due time after `now` and says how many were skipped on the way.
    pub(super) fn advance(&mut self, now: Instant) -> u64 {
        if self.next > now {
            return 0;
        }
        let mut skipped = 0;
        if let Some(grid) = self.grid.take() {
            self.next = grid;
            if grid > now {
                return 0;
            }
            skipped = 1;
        }
        let every = nanos(self.every);
        let ticks = nanos(now.since(self.next)) / every;
        self.next = self.next + Duration::from_nanos(every.saturating_mul(ticks + 1));
        skipped + ticks
    }
}

/// Between nothing and all of `duration`.
fn some_of(duration: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.below(nanos(duration).max(1)))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    #[test]
    fn ticks_that_passed_are_skipped_not_bunched() {
        let mut rng = Rng::from_seed(5);
        let every = Duration::from_secs(10);
        let origin = Origin::by_chance(&mut rng);
        let mut schedule = Schedule::new(Instant::from_nanos(0), every, origin, &mut rng);
        assert!(schedule.next() < Instant::from_nanos(0) + FIRST_WITHIN);
        schedule.advance(schedule.next());
        let second = schedule.next();
        assert_eq!(schedule.advance(second + Duration::from_secs(35)), 3);
        assert_eq!(
            schedule.next(),
            second + Duration::from_secs(40),
            "still on the grid"
        );
        assert_eq!(schedule.advance(schedule.next()), 0);
    }

    #[test]
    fn devices_of_one_grid_are_due_together_whenever_they_were_added() {
        let mut rng = Rng::from_seed(9);
        let origin = Origin::by_chance(&mut rng);
        let due = |every: u64, added: u64, rng: &mut Rng| {
            let added = Instant::from_nanos(added);
            let mut schedule = Schedule::new(added, Duration::from_secs(every), origin, rng);
            schedule.advance(Instant::from_nanos(60_000_000_000));
            schedule.next()
        };
        let first = due(10, 0, &mut rng);
        for added in [1, 2_500_000_000, 19_999_999_999] {
            assert_eq!(due(10, added, &mut rng), first);
        }
        // A multiple of the interval is due with it, though not each time.
        let rare = due(30, 7, &mut rng);
        assert_eq!(rare.since(first).as_nanos() % 10_000_000_000, 0);
    }

    #[test]
    fn origins_are_spread_over_the_interval() {
        let mut rng = Rng::from_seed(9);
        let every = Duration::from_secs(10);
        let mut tenths = [0; 10];
        for _ in 0..200 {
            let origin = Origin::by_chance(&mut rng);
            let mut schedule = Schedule::new(Instant::from_nanos(0), every, origin, &mut rng);
            schedule.advance(schedule.next());
            schedule.advance(schedule.next());
            tenths[(schedule.next().as_nanos() / 1_000_000_000 % 10) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| *count > 5), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn the_next_due_time_is_always_ahead_and_within_reach(
            seed: u64,
            start in 0..u64::MAX / 4,
            every in 0..100_000_000_000_u64,
            delays in proptest::collection::vec(0..500_000_000_000_u64, 1..20),
        ) {
            let mut now = Instant::from_nanos(start);
            let every = Duration::from_nanos(every);
            let mut rng = Rng::from_seed(seed);
            let origin = Origin::by_chance(&mut rng);
            let mut schedule = Schedule::new(now, every, origin, &mut rng);
            let every = every.max(EVERY_MIN);
            for delay in delays {
                now = now.max(schedule.next()) + Duration::from_nanos(delay);
                schedule.advance(now);
                prop_assert!(schedule.next() > now);
                prop_assert!(schedule.next() <= now + every + every);
            }
        }
    }
}
