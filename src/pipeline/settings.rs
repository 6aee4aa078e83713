//! What the configuration may say about how a point is published: validated, complete, with every
//! default filled in.

use crate::mqtt::QoS;
use crate::point::PointSpec;
use crate::time::Duration;

/// How one point's values become messages, and messages commands.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSettings {
    /// From the driver's table, with the configuration's `unit`, `min` and `max` already in it.
    /// `resolution` and `range` are in the published unit, that is after `scale` and `offset`: see
    /// [`scaled`].
    pub spec: PointSpec,
    /// What its values are, and hence what a command may say.
    pub value_type: ValueType,
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

/// What the values of a point are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueType {
    /// Active or inactive: commands are words.
    Bool,
    /// A number, within the point's range.
    Number,
    /// Text: a command is taken as it is.
    Text,
}

/// A driver's table entry as it is after `scale` and `offset`, for [`PointSettings::spec`]: what
/// the sensor can measure and tell apart, in the published unit. The configuration's own `min` and
/// `max` are in that unit already and go on top.
#[must_use]
pub fn scaled(mut spec: PointSpec, scale: f64, offset: f64) -> PointSpec {
    spec.resolution = six_digits(spec.resolution * scale.abs());
    spec.range = spec.range.map(|(min, max)| {
        let (one, other) = (min * scale + offset, max * scale + offset);
        (one.min(other), one.max(other))
    });
    spec
}

/// Without the binary dust of a product: 0.01 × 1.8 is 0.018, and values rounded to it have three
/// decimals.
fn six_digits(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::PointKind;

    #[test]
    fn a_table_entry_scales_with_its_values() {
        let celsius = PointSpec {
            name: "temperature".into(),
            kind: PointKind::Sampled,
            unit: "°F".into(),
            resolution: 0.01,
            range: Some((-40.0, 85.0)),
            writable: false,
        };
        let fahrenheit = scaled(celsius.clone(), 1.8, 32.0);
        assert_eq!(fahrenheit.resolution.to_string(), "0.018");
        assert_eq!(fahrenheit.range, Some((-40.0, 185.0)));
        let negative = scaled(celsius, -1.0, 0.0);
        assert_eq!(negative.resolution.to_string(), "0.01");
        assert_eq!(negative.range, Some((-85.0, 40.0)));
    }
}
