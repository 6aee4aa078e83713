//! What the field counts.

use serde::{Serialize, Serializer};

use crate::id::DeviceId;
use crate::point::FaultKind;

/// Everything at one moment, in order of buses, ports and devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By name: `i2c.1`, `machine`.
    pub buses: Vec<(Box<str>, BusStats)>,
    /// By name: `serial.scale`.
    pub ports: Vec<(Box<str>, PortStats)>,
    /// By id, with the name.
    pub devices: Vec<(DeviceId, Box<str>, DeviceStats)>,
    /// What belongs to nobody.
    pub strays: Strays,
}

impl Stats {
    /// The counters of a device.
    pub fn device(&self, device: DeviceId) -> Option<&DeviceStats> {
        self.devices
            .iter()
            .find(|(id, ..)| *id == device)
            .map(|(_, _, stats)| stats)
    }

    /// The counters of a bus.
    pub fn bus(&self, name: &str) -> Option<&BusStats> {
        self.buses
            .iter()
            .find(|(bus, _)| **bus == *name)
            .map(|(_, stats)| stats)
    }

    /// The counters of a port.
    pub fn port(&self, name: &str) -> Option<&PortStats> {
        self.ports
            .iter()
            .find(|(port, _)| **port == *name)
            .map(|(_, stats)| stats)
    }
}

/// Faults, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl FaultCounts {
    /// One more.
    pub(super) fn count(&mut self, kind: FaultKind) {
        self.0[Self::place(kind)] += 1;
    }

    /// How many of one kind.
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.0[Self::place(kind)]
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn place(kind: FaultKind) -> usize {
        // `ALL` is in the order of declaration: a test below holds it to that.
        kind as usize
    }
}

/// Kinds that occurred, by their word.
impl Serialize for FaultCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let occurred = FaultKind::ALL.into_iter().filter(|kind| self.of(*kind) > 0);
        serializer.collect_map(occurred.map(|kind| (kind.as_str(), self.of(kind))))
    }
}

/// Of one device. What its driver has no use for stays 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeviceStats {
    /// Values measured, doubtful ones included.
    pub readings: u64,
    /// Every fault and every doubt, also those that were not reported because nothing had changed.
    pub faults: FaultCounts,
    /// Due times that passed while the device was still busy with the one before.
    pub ticks_missed: u64,
    /// Edges, as the kernel reported them.
    pub edges: u64,
    /// Edges that are proven to be lost.
    pub edges_lost: u64,
    /// Edges that came twice or too late, and were left out.
    pub edges_repeated: u64,
    /// Commands handed to the device.
    pub writes: u64,
    /// Commands that were not carried out.
    pub writes_refused: u64,
    /// Commands refused because too many waited ([`super::SETS_PENDING_MAX`]).
    pub queue_full: u64,
    /// Leases that ran out.
    pub leases_expired: u64,
    /// Lines of text that the pattern understood.
    pub lines_matched: u64,
    /// Lines of text that it did not.
    pub lines_unmatched: u64,
    /// Polls sent.
    pub polls: u64,
}

/// Of one bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BusStats {
    /// Transfers handed to the host.
    pub transfers: u64,
    /// Answered with data.
    pub answered: u64,
    /// Nothing answered.
    pub no_answer: u64,
    /// Nothing answered in time.
    pub timeouts: u64,
    /// Failed otherwise.
    pub errors: u64,
    /// Transfers refused because too many waited ([`super::BUS_QUEUE_MAX`]).
    pub queue_full: u64,
    /// The host itself never answered: its fault, and a bus that would have stalled.
    pub unanswered: u64,
}

/// Of one port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PortStats {
    /// Times that it was opened.
    pub opened: u64,
    /// Times that it was lost, or could not be opened.
    pub lost: u64,
    /// Bytes read.
    pub bytes_received: u64,
    /// Bytes handed to the host.
    pub bytes_sent: u64,
    /// Whole lines, empty ones not counted.
    pub lines: u64,
    /// Lines discarded for their length.
    pub lines_too_long: u64,
    /// Lines discarded because we came in the middle of them.
    pub lines_partial: u64,
    /// Lines with bytes that are no UTF-8 (each replaced by U+FFFD).
    pub lines_not_utf8: u64,
    /// Lines that no device of this port understood.
    pub lines_unclaimed: u64,
}

/// What came for something that is not there, any more or at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Strays {
    /// Answers to transfers that nobody waits for: late, twice, or never asked.
    pub answers: u64,
    /// Events of lines that are not ours, or that make no sense for them.
    pub line_events: u64,
    /// Events of ports that are not ours, and bytes of ports that are not open.
    pub port_events: u64,
    /// Commands and questions for points that do not exist.
    pub points: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_in_the_order_of_their_list() {
        for (place, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(FaultCounts::place(kind), place);
        }
    }
}
