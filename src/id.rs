//! Names for things that outlive a function call.
//!
//! Slots are reused, so an id is a slot *and* a generation: an id that has gone stale misses, it
//! never finds the next tenant. Ids are small, `Copy`, ordered (for deterministic iteration) and
//! mean nothing outside this process, but for [`stable_hash`].

use core::fmt;

use crate::slab::Key;

/// A number for a name, the same in every process and on every machine (FNV-1a, 64 bits): for what
/// is kept on a disk. Not for tables that strangers fill: they could choose names that collide.
pub fn stable_hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let bytes = bytes.into_iter();
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

macro_rules! slot_ids {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            slot: u32,
            generation: u32,
        }

        impl Key for $name {
            fn from_parts(slot: u32, generation: u32) -> Self {
                Self { slot, generation }
            }

            fn slot(self) -> u32 {
                self.slot
            }

            fn generation(self) -> u32 {
                self.generation
            }
        }

        /// `slot.generation`, as the log prints it.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.slot, self.generation)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}.{})"), self.slot, self.generation)
            }
        }
    )+};
}

slot_ids! {
    /// A stream of MQTT bytes: an accepted client or a dialled upstream. Minted by the host.
    ConnId
    /// An MQTT session of the broker, which may outlive its connection.
    SessionId
    /// A message that the broker keeps. Stable, and not a location.
    MessageId
    /// A group of sessions that share a subscription.
    ShareId
    /// An upstream broker.
    BridgeId
    /// A device as configured. Minted by the gateway.
    DeviceId
    /// One named value of one device. Minted by the gateway.
    PointId
    /// A bus with a worker: I2C, or the machine's own files.
    BusId
    /// A GPIO line that we hold, or try to hold.
    LineId
    /// A serial port.
    PortId
    /// A socket that accepts clients.
    ListenerId
    /// A connection on the control socket. Minted by the host.
    ControlId
}

/// A question to the host whose answer names it. Counted up from 1, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A rule of a bridge, by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u16);

/// A queue that outlives its connection and this process: a session's, or that of a bridge's rule.
/// Counted up from 1, never reused, also not after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// Log sequence number: a place in the journal. What is at or below the synced mark survives a
/// power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);
