//! The host's own deadlines, and how the poll waits for the next one.
//!
//! The gateway keeps its timers itself. These few belong to what only the host sees: a flush that
//! takes too long, a socket that lingers, a worker that owes an answer. They are disarmed exactly,
//! because a stale one would wake an idle gateway.

use mio::Registry;
use mio::unix::SourceFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsFd, AsRawFd};

use super::disk;
use super::token::Source;
use crate::deadlines::ExactDeadlines;
use crate::id::{BridgeId, ConnId, ControlId, ListenerId, PortId, RequestId};
use crate::time::{Duration, Instant};

/// What a deadline of the host is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    /// A closing connection must have written everything.
    Flush(ConnId),
    /// A lingering socket is closed whether or not its peer has hung up.
    Linger(u32),
    /// A proxy must have said for whom it speaks.
    ProxyHeader(u32),
    /// Changed certificates are read.
    Credentials,
    /// A listener tries again to accept.
    AcceptAgain(ListenerId),
    /// The control socket tries again to accept.
    ControlAcceptAgain,
    /// A control client that has shut down its writing half has had its time.
    ControlHalfClosed(ControlId),
    /// A bus transfer is answered, by the loop if need be.
    Bus(RequestId),
    /// A GPIO operation is answered, by the loop if need be.
    LineOp(u64),
    /// The journal's disk is answered for, by the loop if need be.
    Disk(disk::Side),
    /// A serial port must have opened.
    PortOpen(PortId),
    /// An upstream broker must have been reached, or another of its addresses is tried.
    Dial(BridgeId),
    /// The configuration must have been read.
    Load,
    /// `WATCHDOG=1` is due.
    Watchdog,
    /// A clean stop has taken too long.
    StopGuard,
}

/// Deadlines by time, each key at most once.
pub(super) type Timers = ExactDeadlines<TimerKey>;

/// A wait shorter than this is timed by a timerfd. The poll's own timeout is rounded up to whole
/// milliseconds, which is too late for a sensor's conversion or a gap on a serial line, and good
/// enough for everything longer.
const FINE: Duration = Duration::from_millis(20);

/// Turns the next deadline into a timeout of the poll.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    /// What the timerfd is set to, until that has passed.
    set: Option<Instant>,
}

impl Alarm {
    pub(super) fn new(registry: &Registry) -> std::io::Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        registry.register(
            &mut SourceFd(&timer.as_fd().as_raw_fd()),
            Source::Alarm.token(),
            mio::Interest::READABLE,
        )?;
        Ok(Self { timer, set: None })
    }

    /// How long the poll may wait for `at`: `None` for ever, which also means until the timerfd
    /// says so.
    pub(super) fn timeout(&mut self, at: Option<Instant>, now: Instant) -> Option<Duration> {
        let at = at?;
        let wait = at.since(now);
        if wait.is_zero() || wait >= FINE {
            return Some(wait);
        }
        if self.set == Some(at) {
            return None;
        }
        let expiration =
            Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at.as_nanos())));
        match self
            .timer
            .set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
        {
            // It is registered edge-triggered and need not be read: every expiry is a new edge.
            Ok(()) => {
                self.set = Some(at);
                None
            }
            Err(_) => Some(wait),
        }
    }

    /// The timerfd has fired.
    pub(super) fn fired(&mut self) {
        self.set = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_moved_fires_once() {
        let mut timers = Timers::default();
        timers.arm(TimerKey::Watchdog, Instant::from_nanos(10));
        timers.arm(TimerKey::StopGuard, Instant::from_nanos(15));
        timers.arm(TimerKey::Watchdog, Instant::from_nanos(20));
        timers.arm(TimerKey::Load, Instant::from_nanos(12));
        timers.disarm(TimerKey::Load);
        timers.disarm(TimerKey::Load);
        assert_eq!(timers.next(), Some(Instant::from_nanos(15)));
        assert_eq!(timers.pop_due(Instant::from_nanos(14)), None);
        let due = Instant::from_nanos(30);
        assert_eq!(timers.pop_due(due), Some(TimerKey::StopGuard));
        assert_eq!(timers.pop_due(due), Some(TimerKey::Watchdog));
        assert_eq!(timers.pop_due(due), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_short_wait_ends_by_timerfd_and_never_early() {
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let mut alarm = Alarm::new(poll.registry()).unwrap();
        for _ in 0..3 {
            let now = super::super::clock::monotonic();
            let at = now + Duration::from_micros(300);
            assert_eq!(alarm.timeout(Some(at), now), None);
            assert_eq!(alarm.timeout(Some(at), now), None, "set only once");
            poll.poll(&mut events, Some(Duration::from_secs(5)))
                .unwrap();
            let tokens: Vec<_> = events
                .iter()
                .map(|event| Source::from_token(event.token()))
                .collect();
            assert_eq!(tokens, [Some(Source::Alarm)]);
            assert!(super::super::clock::monotonic() >= at);
            alarm.fired();
        }
    }

    #[test]
    fn a_long_wait_is_the_polls_own() {
        let poll = mio::Poll::new().unwrap();
        let mut alarm = Alarm::new(poll.registry()).unwrap();
        let now = Instant::from_nanos(1_000_000_000);
        assert_eq!(alarm.timeout(None, now), None);
        assert_eq!(alarm.timeout(Some(now), now), Some(Duration::ZERO));
        assert_eq!(alarm.timeout(Some(now + FINE), now), Some(FINE));
    }
}
