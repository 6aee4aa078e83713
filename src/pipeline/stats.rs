//! What the pipeline has counted since it was made: every limit, refusal and loss has a number
//! here.

use serde::{Serialize, Serializer};

use crate::point::FaultKind;

/// Counters, which only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Stats {
    /// Readings of points that exist.
    pub readings: u64,
    /// Readings, answers and commands for points that are gone.
    pub unknown_point: u64,
    /// Value messages made: as many as sequence numbers were given out.
    pub published: u64,
    /// Messages about quality and reasons.
    pub quality_published: u64,
    /// Messages that were not made because their topic is none; the configuration prevents it.
    pub unpublishable: u64,
    /// Readings that were no change worth a message.
    pub suppressed_unchanged: u64,
    /// Readings that `min_interval` held back; the last one before its end is published.
    pub held_by_min_interval: u64,
    /// Readings that replaced one which nobody had drawn yet.
    pub coalesced: u64,
    /// Messages made because of `max_interval`.
    pub repeated: u64,
    /// Events lost because [`super::EVENTS_QUEUED_MAX`] waited already.
    pub events_dropped: u64,
    /// Times a point went silent for its `stale_after`.
    pub stale: u64,
    /// Readings that were faults, by kind in the order of [`FaultKind::ALL`]; those that the
    /// pipeline found are among them.
    #[serde(serialize_with = "by_kind")]
    pub faults: [u64; FaultKind::ALL.len()],
    /// Commands that came in for points that exist.
    pub commands: u64,
    /// Commands whose result was `ok`.
    pub commands_ok: u64,
    /// Commands that were not understood, or did not fit the point.
    pub commands_bad_value: u64,
    /// Commands that were not allowed: a point that is not writable, a retained command, a gateway
    /// that stops.
    pub commands_refused: u64,
    /// Commands refused because [`super::PENDING_COMMANDS_MAX`] of that point were waiting.
    pub commands_busy: u64,
    /// Commands that the device refused or could not carry out.
    pub commands_failed: u64,
    /// Commands that nobody answered in time.
    pub commands_timed_out: u64,
    /// Commands lost without a result, because [`super::OUTPUTS_QUEUED_MAX`] outputs had not been
    /// drawn.
    pub commands_dropped: u64,
    /// Answers for which nobody was waiting any more.
    pub late_answers: u64,
    /// Response Topics that were not used, because they were no place for a result.
    pub response_topics_refused: u64,
}

impl Stats {
    /// How many faults of a kind there were.
    pub fn faults_of(&self, kind: FaultKind) -> u64 {
        self.faults[index(kind)]
    }

    /// All faults together.
    pub fn faults_total(&self) -> u64 {
        self.faults.iter().sum()
    }

    pub(super) fn count_fault(&mut self, kind: FaultKind) {
        self.faults[index(kind)] += 1;
    }

    /// Counts a command that has ended in an error.
    pub(super) fn count_refusal(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::BadValue | FaultKind::OutOfRange => self.commands_bad_value += 1,
            FaultKind::Refused | FaultKind::Stopping => self.commands_refused += 1,
            FaultKind::Busy => self.commands_busy += 1,
            _ => self.commands_failed += 1,
        }
    }
}

/// Kinds that occurred, by their word.
fn by_kind<S: Serializer>(
    counts: &[u64; FaultKind::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let rows = FaultKind::ALL.into_iter().zip(counts);
    let occurred = rows.filter(|(_, count)| **count > 0);
    serializer.collect_map(occurred.map(|(kind, count)| (kind.as_str(), count)))
}

fn index(kind: FaultKind) -> usize {
    FaultKind::ALL
        .iter()
        .position(|known| *known == kind)
        .expect("ALL has every kind")
}
