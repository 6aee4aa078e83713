//! Serial ports: non-blocking, reopened when the adapter comes back.

use crate::buffer::Payload;
use crate::id::PortId;
use crate::point::Fault;

/// A port as the host opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// A device node, best one of `/dev/serial/by-id` or `/dev/serial/by-path`, which survive a
    /// replug.
    pub path: Box<str>,
    /// Bits per second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Even, odd or none.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

/// The parity bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// `N`
    None,
    /// `E`
    Even,
    /// `O`
    Odd,
}

/// What the field asks of the host about a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortCommand {
    /// Open it; answered by [`PortEvent::Opened`] or [`PortEvent::Closed`].
    Open {
        /// As the field will know it.
        port: PortId,
        /// What to open.
        settings: PortSettings,
    },
    /// Send bytes, after all that was sent before. What the port cannot take within the host's
    /// limit is an error.
    Write {
        /// A port that is open.
        port: PortId,
        /// What to send.
        bytes: Payload,
    },
    /// Close it. No answer, and no event of it from here on.
    Close {
        /// The port.
        port: PortId,
    },
}

/// What the host says about a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortEvent {
    /// It is open, and what was in its buffers before has been discarded.
    Opened,
    /// So many bytes have been read into the port's receive buffer.
    Received {
        /// How many.
        count: usize,
    },
    /// It could not be opened, or it is gone. The field asks again after a back-off.
    Closed(Fault),
}
