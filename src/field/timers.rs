//! When the field wants to be woken, exactly.
//!
//! Unlike the broker's keep-alives, the field's deadlines are few (a handful for each device) and
//! are often moved *earlier* or taken back: a pulse is superseded, a lease renewed. So this is an
//! ordered set without stale entries, and the gateway is never woken for nothing. Its size is
//! bounded by the devices, lines and ports that exist.

use crate::deadlines::ExactDeadlines;
use crate::id::{DeviceId, LineId, PortId, RequestId};

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A device is due: to be sampled, polled, or to publish its counters.
    Sample(DeviceId),
    /// A driver has waited long enough.
    Step(DeviceId),
    /// A transfer should have been answered long ago.
    Transfer(RequestId),
    /// A line is to be requested again, or set again.
    Line(LineId),
    /// A pulse on a line ends.
    Pulse(LineId),
    /// Nobody has renewed a command.
    Lease(LineId),
    /// A port is to be opened again.
    Port(PortId),
    /// A pulse on a point of a `lines` device ends.
    Hold(DeviceId, u16),
}

/// All deadlines: at most one for each [`Timer`].
pub(super) type Timers = ExactDeadlines<Timer>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Key;
    use crate::time::Instant;

    #[test]
    fn a_moved_deadline_fires_once_and_where_it_was_moved_to() {
        let mut timers = Timers::default();
        let at = Instant::from_nanos;
        let pulse = Timer::Pulse(LineId::from_parts(0, 0));
        let lease = Timer::Lease(LineId::from_parts(0, 0));
        timers.arm(pulse, at(30));
        timers.arm(lease, at(20));
        timers.arm(pulse, at(10));
        assert_eq!(timers.next(), Some(at(10)));
        timers.arm(pulse, at(40));
        assert_eq!(timers.pop_due(at(25)), Some(lease));
        assert_eq!(timers.pop_due(at(39)), None);
        assert_eq!(timers.pop_due(at(40)), Some(pulse));
        assert_eq!(timers.next(), None);
        timers.arm(pulse, Instant::FAR_FUTURE);
        assert_eq!(timers.next(), None, "never is not a deadline");
    }
}
