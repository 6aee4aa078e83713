//! Time as values: nobody in the core asks for it, the host hands it in.
//!
//! [`Instant`] is `CLOCK_MONOTONIC` in nanoseconds, the clock with which the kernel stamps GPIO
//! edges. An edge may therefore be *later* than the `now` of the turn that handles it, so
//! subtraction saturates. [`WallTime`] is a separate field: it jumps, it may not be set yet, and no
//! timer runs on it except expiry across restarts.

use core::fmt;
use core::ops::Add;

pub use core::time::Duration;

/// Both clocks, read once per turn by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Drives every timer.
    pub monotonic: Instant,
    /// Is only ever printed, sent, or compared with an expiry that outlives a restart.
    pub wall: WallTime,
}

impl Now {
    /// The wall time at which something happened that carries a monotonic stamp, `None` while the
    /// clock is not known to be right.
    pub fn wall_at(&self, at: Instant) -> Option<WallTime> {
        if !self.wall.is_plausible() {
            return None;
        }
        let wall = if at > self.monotonic {
            self.wall
                .0
                .saturating_add(nanos_i64(at.since(self.monotonic)))
        } else {
            self.wall
                .0
                .saturating_sub(nanos_i64(self.monotonic.since(at)))
        };
        Some(WallTime(wall))
    }
}

/// A point on `CLOCK_MONOTONIC`, in nanoseconds since an unspecified start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The latest instant: 584 years after the clock's start, which stands for "never".
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// From the kernel's nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The kernel's nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved back, stopping at the clock's start.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos_u64(duration)))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FAR_FUTURE`].
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos_u64(duration)))
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(i64);

impl WallTime {
    /// 2026-11-01T00:00:00Z. A clock before this has not been set: the code did not exist then. A
    /// Pi has no battery behind its clock and starts in 1970, or where its last run stopped.
    pub const EARLIEST_PLAUSIBLE: Self = Self(1_793_491_200_000_000_000);

    /// From nanoseconds since the Unix epoch.
    pub const fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the Unix epoch; saturates after the year 2262.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn unix_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    pub const fn unix_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Whether the clock can be believed: it is not before this program was written.
    pub fn is_plausible(self) -> bool {
        self >= Self::EARLIEST_PLAUSIBLE
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time moved on, stopping at the year 2262.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos_i64(duration)))
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-23T10:00:00.123Z`.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.unix_millis();
        let (days, of_day) = (
            millis.div_euclid(MILLIS_PER_DAY),
            millis.rem_euclid(MILLIS_PER_DAY),
        );
        let (year, month, day) = civil_from_days(days);
        let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
        let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
        )
    }
}

const MILLIS_PER_DAY: i64 = 86_400_000;

/// Days since 1970-01-01 to a date of the proleptic Gregorian calendar. Years are counted from
/// March, so that the leap day is the last of its year and months have a fixed rhythm of 153 days
/// in five.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_400_YEARS: i64 = 146_097;
    const DAYS_FROM_0000_03_01_TO_1970_01_01: i64 = 719_468;
    let shifted = days + DAYS_FROM_0000_03_01_TO_1970_01_01;
    let era = shifted.div_euclid(DAYS_PER_400_YEARS);
    let day_of_era = shifted.rem_euclid(DAYS_PER_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn nanos_u64(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn nanos_i64(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_later_than_now_is_no_time_ago() {
        let now = Instant::from_nanos(1000);
        assert_eq!(now.since(Instant::from_nanos(2000)), Duration::ZERO);
    }

    #[test]
    fn adding_saturates() {
        let late = Instant::from_nanos(u64::MAX - 1);
        assert_eq!(late + Duration::from_secs(1), Instant::FAR_FUTURE);
        assert_eq!(late + Duration::MAX, Instant::FAR_FUTURE);
    }

    #[test]
    fn wall_time_prints_as_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_795_428_000_123, "2026-11-23T10:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(WallTime::from_unix_millis(millis).to_string(), text);
        }
    }

    #[test]
    fn capture_time_is_unknown_until_the_clock_is_set() {
        let now = |wall| Now {
            monotonic: Instant::from_nanos(5_000),
            wall,
        };
        let at = Instant::from_nanos(2_000);
        assert_eq!(now(WallTime::from_unix_millis(12)).wall_at(at), None);
        let wall = WallTime::EARLIEST_PLAUSIBLE.saturating_add(Duration::from_secs(1));
        assert_eq!(
            now(wall).wall_at(at).map(WallTime::unix_nanos),
            Some(wall.0 - 3_000)
        );
        let later = Instant::from_nanos(6_000);
        assert_eq!(
            now(wall).wall_at(later).map(WallTime::unix_nanos),
            Some(wall.0 + 1_000)
        );
    }
}
