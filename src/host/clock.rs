//! The one place that reads a clock, and the one that draws a seed.

use std::fs::File;
use std::io::Read;

use nix::time::{ClockId, clock_gettime};

use crate::time::{Duration, Instant, Now, WallTime};

/// Both clocks. Neither is a system call on the kernels we know (vDSO).
pub(super) fn now() -> Now {
    Now {
        monotonic: monotonic(),
        wall: WallTime::from_unix_nanos(nanos(ClockId::CLOCK_REALTIME)),
    }
}

/// `CLOCK_MONOTONIC`, with which the kernel stamps edges.
pub(super) fn monotonic() -> Instant {
    Instant::from_nanos(nanos(ClockId::CLOCK_MONOTONIC) as u64)
}

/// How long the machine has been up, suspended or not. This too takes no system call.
pub(super) fn uptime() -> Duration {
    Duration::from_nanos(nanos(ClockId::CLOCK_BOOTTIME) as u64)
}

/// Chance for the gateway's generator, from the kernel.
pub(super) fn seed() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn nanos(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("all these clocks exist on every Linux");
    // `time_t` and `c_long` are 32 bits wide on some of our targets.
    #[expect(clippy::useless_conversion, reason = "they differ by target")]
    let (seconds, nanos) = (i64::from(time.tv_sec()), i64::from(time.tv_nsec()));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_does_not_go_back_and_wall_time_is_believable() {
        let first = now();
        let second = now();
        assert!(second.monotonic >= first.monotonic);
        assert!(first.wall > WallTime::from_unix_millis(0));
    }

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed().unwrap(), seed().unwrap());
    }
}
