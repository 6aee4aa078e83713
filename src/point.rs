//! What field devices say and are told, in words that the field, the pipeline and the gateway
//! share.
//!
//! A *point* is one named value of one device. A driver turns bytes into a [`Reading`]; the
//! pipeline turns readings into messages and command messages into a [`PointWrite`]; whoever
//! carried it out answers with [`Written`].

use core::fmt;

use crate::id::{PointId, RequestId};
use crate::time::{Duration, Instant};

/// One value, as measured or as commanded.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Active or inactive, in logical terms.
    Bool(bool),
    /// A signed whole number.
    Int(i64),
    /// An unsigned whole number: counters, which may exceed [`i64::MAX`].
    Uint(u64),
    /// A finite number: NaN and infinity are faults, never values.
    Float(f64),
    /// Text as the device sent it.
    Text(Box<str>),
}

impl Value {
    /// The value as a number: booleans are 0 and 1, text is none.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(active) => Some(f64::from(u8::from(*active))),
            Self::Int(value) => Some(*value as f64),
            Self::Uint(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Text(_) => None,
        }
    }
}

/// How far a value can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// Measured, plausible, and as fresh as the configuration asks.
    Good,
    /// Good once, but nothing has been heard since `stale_after`.
    Stale,
    /// Not a measurement: the device, the wire or the bus failed.
    Fault,
    /// Measured, but something about it is doubtful.
    Uncertain,
}

impl Quality {
    /// The bare word that `…/quality` carries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale => "stale",
            Self::Fault => "fault",
            Self::Uncertain => "uncertain",
        }
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a value is not good, or why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The sort of thing that went wrong: for counters and for deciding what to do.
    pub kind: FaultKind,
    /// What and where, for the person who looks: `nothing answered at 0x76 on i2c.1`.
    pub detail: Box<str>,
}

impl Fault {
    /// A fault with its story.
    pub fn new(kind: FaultKind, detail: impl Into<Box<str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}

/// `no_answer: nothing answered at 0x76 on i2c.1`, which is what `…/reason` carries.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// Sorts of faults, by who can do something about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Nothing acknowledged its address, or answered a question: wiring, power, address.
    NoAnswer,
    /// The bus or the device took longer than its deadline.
    Timeout,
    /// The bus itself failed: stuck, missing, no permission.
    BusError,
    /// A checksum does not match: noise, cable length, interference.
    BadChecksum,
    /// The answer has the wrong shape.
    BadAnswer,
    /// Another chip than the configured one answers.
    WrongDevice,
    /// Outside of what the sensor can measure, or of the configured `min` and `max`.
    OutOfRange,
    /// The device says that it has not measured yet (a power-on value, a skipped channel).
    NotMeasured,
    /// A port or chip that was there is gone: unplugged.
    Unplugged,
    /// Edges were lost: the kernel's buffer overflowed, or two equal edges came in a row.
    EdgesLost,
    /// Nothing has been heard for `stale_after`.
    Silent,
    /// A command's value does not fit the point.
    BadValue,
    /// The point cannot be written, or the command is not allowed.
    Refused,
    /// A queue in front of the device is full.
    Busy,
    /// The gateway is stopping.
    Stopping,
}

impl FaultKind {
    /// Every kind, for counters.
    pub const ALL: [Self; 15] = [
        Self::NoAnswer,
        Self::Timeout,
        Self::BusError,
        Self::BadChecksum,
        Self::BadAnswer,
        Self::WrongDevice,
        Self::OutOfRange,
        Self::NotMeasured,
        Self::Unplugged,
        Self::EdgesLost,
        Self::Silent,
        Self::BadValue,
        Self::Refused,
        Self::Busy,
        Self::Stopping,
    ];

    /// The word that users match on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::Timeout => "timeout",
            Self::BusError => "bus_error",
            Self::BadChecksum => "bad_checksum",
            Self::BadAnswer => "bad_answer",
            Self::WrongDevice => "wrong_device",
            Self::OutOfRange => "out_of_range",
            Self::NotMeasured => "not_measured",
            Self::Unplugged => "unplugged",
            Self::EdgesLost => "edges_lost",
            Self::Silent => "silent",
            Self::BadValue => "bad_value",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a driver found out about one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Whose value it is.
    pub point: PointId,
    /// When it was captured: the kernel's stamp for an edge, the end of the transfer for a bus.
    pub at: Instant,
    /// The value, or why there is none.
    pub outcome: Outcome,
}

/// A value with its quality, or a fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Measured.
    Good(Value),
    /// Measured, with a doubt.
    Uncertain(Value, Fault),
    /// Not measured.
    Fault(Fault),
}

/// A command for one point, already understood.
#[derive(Debug, Clone, PartialEq)]
pub struct PointWrite {
    /// What to write.
    pub point: PointId,
    /// Named by the answer.
    pub request: RequestId,
    /// In logical terms and in the device's own unit.
    pub value: Value,
    /// A pulse: after this long the point returns to what it was.
    pub hold: Option<Duration>,
}

/// The one answer to a [`PointWrite`].
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Of the command.
    pub point: PointId,
    /// Of the command.
    pub request: RequestId,
    /// What the point now is, or why it was not written.
    pub outcome: Result<Value, Fault>,
}

/// What is known of a point before anything is measured: from the driver's table, and from the
/// configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSpec {
    /// Its name, the last level of its topic.
    pub name: Box<str>,
    /// How it behaves.
    pub kind: PointKind,
    /// Of its values, as written in messages; empty if they have none.
    pub unit: Box<str>,
    /// The smallest step that means something, in `unit`; 0: as the value comes. Values are rounded
    /// to it.
    pub resolution: f64,
    /// What the sensor can measure, in `unit`; beyond it is a fault.
    pub range: Option<(f64, f64)>,
    /// Whether `…/set` is understood.
    pub writable: bool,
}

/// How a point's values come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointKind {
    /// Sampled on a schedule, and goes stale.
    Sampled,
    /// Reported when it changes; silence is not a fault.
    State,
    /// Happens: not retained, every one counts.
    Event,
    /// Only grows.
    Counter,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_fault_reads_as_kind_and_story() {
        let fault = Fault::new(FaultKind::NoAnswer, "nothing answered at 0x76 on i2c.1");
        assert_eq!(
            fault.to_string(),
            "no_answer: nothing answered at 0x76 on i2c.1"
        );
    }

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        let words: BTreeSet<_> = FaultKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(words.len(), FaultKind::ALL.len());
    }
}
