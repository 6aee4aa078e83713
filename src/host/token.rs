//! What an event of the poll is about: a sort of source and its slot, packed into mio's token.
//!
//! Four bits of sort and 28 of slot, because a token has 32 bits on a Pi Zero. There is no
//! generation in it: an event is only a hint that something may be ready, and one that reaches the
//! next tenant of a slot costs it a read that says `EAGAIN`.

use mio::Token;

/// Where an event came from, or whose turn it is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A worker has answered.
    Waker,
    /// The signal descriptor.
    Signal,
    /// The fine timer.
    Alarm,
    /// The control socket itself.
    ControlListener,
    /// A listener, by slot of its `ListenerId`.
    Listener(u32),
    /// A connection, by slot of its `ConnId`.
    Connection(u32),
    /// A connection that only waits for its peer to hang up.
    Linger(u32),
    /// A connection on the control socket, by slot of its `ControlId`.
    Control(u32),
    /// A GPIO line, by slot of its `LineId`.
    Line(u32),
    /// A serial port, by slot of its `PortId`.
    Port(u32),
    /// The folder with the nodes of GPIO chips.
    Chips,
    /// A connection whose proxy has not said yet for whom it speaks.
    Proxied(u32),
    /// A folder of certificates has changed.
    Credentials,
    /// An upstream broker that is being dialled, by slot of its `BridgeId`.
    Upstream(u32),
}

const SLOT_BITS: u32 = 28;

/// Slots that fit in a token; every table of the host is limited far below it.
pub(super) const SLOTS_MAX: u32 = 1 << SLOT_BITS;

impl Source {
    /// As the poll carries it.
    pub(super) fn token(self) -> Token {
        let (sort, slot) = match self {
            Self::Waker => (0, 0),
            Self::Signal => (1, 0),
            Self::Alarm => (2, 0),
            Self::ControlListener => (3, 0),
            Self::Listener(slot) => (4, slot),
            Self::Connection(slot) => (5, slot),
            Self::Linger(slot) => (6, slot),
            Self::Control(slot) => (7, slot),
            Self::Line(slot) => (8, slot),
            Self::Port(slot) => (9, slot),
            Self::Chips => (10, 0),
            Self::Proxied(slot) => (11, slot),
            Self::Credentials => (12, 0),
            Self::Upstream(slot) => (13, slot),
        };
        debug_assert!(slot < SLOTS_MAX, "tables are limited far below 2²⁸ slots");
        Token(((sort << SLOT_BITS) | slot) as usize)
    }

    /// Back from the poll; `None` for a token that nobody here made.
    pub(super) fn from_token(token: Token) -> Option<Self> {
        let bits = u32::try_from(token.0).ok()?;
        let slot = bits & (SLOTS_MAX - 1);
        Some(match bits >> SLOT_BITS {
            0 => Self::Waker,
            1 => Self::Signal,
            2 => Self::Alarm,
            3 => Self::ControlListener,
            4 => Self::Listener(slot),
            5 => Self::Connection(slot),
            6 => Self::Linger(slot),
            7 => Self::Control(slot),
            8 => Self::Line(slot),
            9 => Self::Port(slot),
            10 => Self::Chips,
            11 => Self::Proxied(slot),
            12 => Self::Credentials,
            13 => Self::Upstream(slot),
            _ => return None,
        })
    }
}

/// What an event said, detached from mio's buffer so that the loop may change anything while it
/// walks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Readiness {
    /// There may be something to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The peer has shut down its writing half, or all of it, or failed: there will be no further
    /// event, so read to the end.
    pub read_closed: bool,
    /// Nobody will ever read what we write.
    pub write_closed: bool,
}

impl From<&mio::event::Event> for Readiness {
    fn from(event: &mio::event::Event) -> Self {
        let failed = event.is_error();
        Self {
            readable: event.is_readable() || event.is_read_closed() || failed,
            writable: event.is_writable() || event.is_write_closed() || failed,
            read_closed: event.is_read_closed() || failed,
            write_closed: event.is_write_closed() || failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_brings_back_its_source() {
        let sources = [
            Source::Waker,
            Source::Signal,
            Source::Alarm,
            Source::ControlListener,
            Source::Listener(0),
            Source::Connection(SLOTS_MAX - 1),
            Source::Linger(1),
            Source::Control(2),
            Source::Line(3),
            Source::Port(4),
            Source::Chips,
            Source::Proxied(5),
            Source::Credentials,
            Source::Upstream(6),
        ];
        for source in sources {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
        assert_eq!(Source::from_token(Token(usize::MAX)), None);
        assert_eq!(Source::from_token(Token(0xF000_0000)), None);
    }
}
