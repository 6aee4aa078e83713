//! What the configuration may say about how a point is published: validated, complete, with every
//! default filled in.

use crate::mqtt::QoS;
use crate::point::PointSpec;
use crate::time::Duration;

/// How one point's values become messages, and messages commands.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSettings {
    /// From the driver's table, with the configuration's `unit`, `min` and `max` already in it.
    pub spec: PointSpec,
    /// Where its values go: `BASE/DEVICE/POINT`, or what `topic` says.
    pub topic: Box<str>,
    /// Of its values.
    pub qos: QoS,
    /// Whether its values are retained.
    pub retain: bool,
    /// How its values are written.
    pub payload: PayloadFormat,
    /// How times are written in JSON and user properties.
    pub time_format: TimeFormat,
    /// The words for inactive and active.
    pub booleans: (Box<str>, Box<str>),
    /// The published value is `raw × scale + offset`; a command is turned back by the inverse.
    /// `scale` is not 0.
    pub scale: f64,
    /// See `scale`.
    pub offset: f64,
    /// Decimal places; `None`: from the resolution.
    pub precision: Option<u8>,
    /// A change smaller than this is not worth a message; 0: every change is.
    pub deadband: f64,
    /// At most one message in this time (a change in between is sent at its end).
    pub min_interval: Option<Duration>,
    /// At least one message in this time, changed or not.
    pub max_interval: Option<Duration>,
    /// Without a reading for this long the quality is stale. `None`: silence is not a fault.
    pub stale_after: Option<Duration>,
    /// The Message Expiry Interval of its values.
    pub expiry: Option<Duration>,
    /// A retained command is obeyed once when it arrives live (not when a subscription brings it).
    pub accept_retained: bool,
    /// What it says is simulated, and says so.
    pub simulated: bool,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadFormat {
    /// The bare value.
    #[default]
    Value,
    /// An object with value, unit, time, quality and sequence number.
    Json,
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeFormat {
    /// `2026-11-23T10:00:00.123Z`
    #[default]
    Rfc3339,
    /// Milliseconds since the Unix epoch.
    UnixMillis,
    /// Nanoseconds since the Unix epoch.
    UnixNanos,
}
