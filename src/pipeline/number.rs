//! Numbers as people and programs read them: rounding to what the sensor can tell, and the shortest
//! decimal.
//!
//! A number is printed as the shortest decimal that reads back as the same `f64`: without exponent,
//! without `-0`, and without `.0` where it is whole. Rounding is decimal too: 0.1 steps give
//! `21.4`, never `21.400000000000002`.

use core::fmt::{self, Write};

use crate::point::Value;

/// Below this every whole number is an `f64` of its own; above it neighbours merge.
pub(crate) const EXACT_INTEGER_MAX: u64 = 1 << 53;

/// How values of a point are rounded. Made once, from its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rounding {
    /// As the value comes.
    AsIs,
    /// To so many decimal places.
    Places(u8),
    /// To multiples of `step`, which has `places` decimal places.
    Steps { step: f64, places: u8 },
}

impl Rounding {
    /// From the configured precision, else from the sensor's resolution. A resolution that is not a
    /// positive number means none.
    pub(crate) fn new(resolution: f64, precision: Option<u8>) -> Self {
        if let Some(places) = precision {
            return Self::Places(places);
        }
        if !(resolution.is_finite() && resolution > 0.0) {
            return Self::AsIs;
        }
        let mut text = DecimalText::new();
        if write!(text, "{resolution}").is_err() {
            return Self::AsIs;
        }
        let (whole, fraction) = text.as_str().split_once('.').unwrap_or((text.as_str(), ""));
        let Ok(places) = u8::try_from(fraction.len()) else {
            return Self::AsIs;
        };
        let is_power_of_ten = if places == 0 {
            whole == "1"
        } else {
            whole == "0" && fraction.trim_start_matches('0') == "1"
        };
        if is_power_of_ten {
            Self::Places(places)
        } else {
            Self::Steps {
                step: resolution,
                places,
            }
        }
    }

    /// The nearest value that the rounding allows; finite if `value` is, and never `-0`.
    pub(crate) fn round(self, value: f64) -> f64 {
        let rounded = match self {
            Self::AsIs => value,
            Self::Places(places) => round_to_places(value, places),
            Self::Steps { step, places } => {
                let count = (value / step).round();
                // So many steps that an f64 cannot count them: the value is coarser than the step
                // already.
                if count.abs() < EXACT_INTEGER_MAX as f64 {
                    round_to_places(count * step, places)
                } else {
                    value
                }
            }
        };
        // Negative zero compares equal to zero and prints differently.
        if rounded == 0.0 { 0.0 } else { rounded }
    }

    /// As [`Rounding::round`] for a whole number, which stays exact if the step is whole. `None`:
    /// only `round` can tell.
    pub(crate) fn round_whole(self, value: i128) -> Option<i128> {
        match self {
            Self::AsIs | Self::Places(_) => Some(value),
            Self::Steps { step, .. } if step.fract() == 0.0 && step < EXACT_INTEGER_MAX as f64 => {
                let step = step as i128;
                let below = value.div_euclid(step) * step;
                let beyond_half = 2 * (value - below) >= step;
                Some(if beyond_half { below + step } else { below })
            }
            Self::Steps { .. } => None,
        }
    }
}

/// Decimal rounding through the decimal text, which is the only exact way.
fn round_to_places(value: f64, places: u8) -> f64 {
    // The gap between neighbours is wider than the last place: every digit that could be cut is not
    // there.
    let in_last_places = value.abs() * 10_f64.powi(i32::from(places));
    if in_last_places >= EXACT_INTEGER_MAX as f64 || !value.is_finite() {
        return value;
    }
    let mut text = DecimalText::new();
    match write!(text, "{value:.*}", usize::from(places)) {
        Ok(()) => text.as_str().parse().unwrap_or(value),
        Err(fmt::Error) => value,
    }
}

/// Writes a finite number by the rules above; anything else would be a fault before it came here.
pub(crate) fn write_float(out: &mut impl Write, value: f64) -> fmt::Result {
    debug_assert!(value.is_finite(), "{value} is a fault, not a value");
    if value == 0.0 {
        out.write_char('0')
    } else {
        // `Display` of a float is the shortest that reads back, and has neither exponent nor `.0`.
        write!(out, "{value}")
    }
}

/// Whether `after` is a change worth a message: for numbers one of at least `deadband`, any if that
/// is 0.
#[expect(clippy::float_cmp, reason = "both were rounded alike: equal is equal")]
pub(crate) fn is_change(before: &Value, after: &Value, deadband: f64) -> bool {
    if before == after {
        return false;
    }
    if deadband <= 0.0 || deadband.is_nan() {
        // 1 and 1.0 print alike, so to a subscriber they are alike.
        return match (whole(before), whole(after)) {
            (Some(before), Some(after)) => before != after,
            _ => numbers(before, after).is_none_or(|(before, after)| before != after),
        };
    }
    if let (Some(before), Some(after)) = (whole(before), whole(after)) {
        return before.abs_diff(after) as f64 >= deadband;
    }
    match numbers(before, after) {
        Some((before, after)) => {
            // 21.4 − 21.3 is a little less than 0.1: forgive what binary fractions lose.
            let slack = 4.0 * f64::EPSILON * before.abs().max(after.abs());
            (after - before).abs() + slack >= deadband
        }
        None => true,
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        Value::Bool(_) | Value::Float(_) | Value::Text(_) => None,
    }
}

fn numbers(before: &Value, after: &Value) -> Option<(f64, f64)> {
    match (before, after) {
        (Value::Bool(_) | Value::Text(_), _) | (_, Value::Bool(_) | Value::Text(_)) => None,
        _ => Some((before.as_f64()?, after.as_f64()?)),
    }
}

/// Room for one decimal on the stack: a sign, 16 digits before the point (see [`round_to_places`]),
/// 255 after it; or the longest `Display` of a resolution that is worth keeping.
struct DecimalText {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl DecimalText {
    const CAPACITY: usize = 320;

    fn new() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            len: 0,
        }
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).expect("only whole strings were written")
    }
}

impl Write for DecimalText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self
            .bytes
            .get_mut(self.len..self.len + text.len())
            .ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn float(value: f64) -> String {
        let mut text = String::new();
        write_float(&mut text, value).unwrap();
        text
    }

    #[test]
    fn floats_print_as_the_shortest_decimal() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (21.4, "21.4"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e-7, "0.0000001"),
            (1e21, "1000000000000000000000"),
            (123_456_789.125, "123456789.125"),
            (f64::from(21.4_f32), "21.399999618530273"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn values_round_to_the_resolution() {
        for (resolution, value, text) in [
            (0.1, 21.449_999, "21.4"),
            (0.1, 21.35, "21.4"),
            (0.1, -0.04, "0"),
            (0.01, 1013.256, "1013.26"),
            (0.0625, 21.4, "21.375"),
            (0.0625, -0.03, "0"),
            (0.0625, 25.062_5, "25.0625"),
            (0.5, 21.4, "21.5"),
            (0.25, 21.3, "21.25"),
            (1.0, 21.4, "21"),
            (5.0, 21.4, "20"),
            (10.0, 26.0, "30"),
            (100.0, 1e20, "100000000000000000000"),
            (0.0, 21.449_999, "21.449999"),
            (-1.0, 21.449_999, "21.449999"),
            (f64::NAN, 21.449_999, "21.449999"),
            (f64::INFINITY, 21.449_999, "21.449999"),
            (5e-324, 21.449_999, "21.449999"),
            (1e-7, 0.123_456_789, "0.1234568"),
            (0.3, 1.0, "0.9"),
        ] {
            let rounding = Rounding::new(resolution, None);
            assert_eq!(
                float(rounding.round(value)),
                text,
                "{value} in {resolution}"
            );
        }
    }

    #[test]
    fn precision_wins_over_resolution() {
        for (precision, value, text) in [
            (0, 21.6, "22"),
            (1, 21.449_999, "21.4"),
            (3, 2.0 / 3.0, "0.667"),
            (255, 0.1, "0.1"),
            (255, 1e-300, "0"),
            (2, 1e300, &float(1e300)),
        ] {
            let rounding = Rounding::new(0.5, Some(precision));
            assert_eq!(float(rounding.round(value)), text, "{value} to {precision}");
        }
    }

    #[test]
    fn whole_numbers_round_exactly() {
        let to = |resolution| Rounding::new(resolution, None);
        assert_eq!(to(10.0).round_whole(26), Some(30));
        assert_eq!(to(10.0).round_whole(-26), Some(-30));
        assert_eq!(to(10.0).round_whole(25), Some(30));
        assert_eq!(
            to(1.0).round_whole(i128::from(u64::MAX)),
            Some(i128::from(u64::MAX))
        );
        assert_eq!(to(2.5).round_whole(3), None);
    }

    #[test]
    fn a_deadband_of_a_tenth_lets_a_tenth_pass() {
        let cases = [
            (21.3, 21.4, 0.1, true),
            (21.4, 21.3, 0.1, true),
            (21.4, 21.45, 0.1, false),
            (1_000_000.0, 1_000_000.1, 0.1, true),
            (21.4, 21.4, 0.0, false),
            (21.4, 21.400_001, 0.0, true),
            (21.4, 22.0, f64::NAN, true),
        ];
        for (before, after, deadband, expected) in cases {
            let changed = is_change(&Value::Float(before), &Value::Float(after), deadband);
            assert_eq!(changed, expected, "{before} to {after} within {deadband}");
        }
    }

    #[test]
    fn whole_numbers_are_compared_exactly_and_words_always_count() {
        let big = Value::Uint(u64::MAX);
        let next = Value::Uint(u64::MAX - 1);
        assert!(is_change(&big, &next, 0.0));
        assert!(is_change(&big, &next, 1.0));
        assert!(!is_change(&big, &next, 2.0));
        assert!(!is_change(&Value::Int(3), &Value::Uint(3), 0.0));
        assert!(!is_change(&Value::Int(3), &Value::Float(3.0), 0.0));
        assert!(is_change(&Value::Bool(true), &Value::Bool(false), 5.0));
        let text = |text: &str| Value::Text(text.into());
        assert!(is_change(&text("a"), &text("b"), 5.0));
        assert!(!is_change(&text("a"), &text("a"), 5.0));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = float(value);
            let read = text.parse::<f64>().unwrap();
            prop_assert!(read.total_cmp(&(value + 0.0)).is_eq(), "{} {}", read, value);
            prop_assert!(!text.contains(['e', 'E']) && text != "-0" && !text.ends_with(".0"));
        }

        #[test]
        fn rounding_is_near_and_settles(
            value in -1e9_f64..1e9,
            resolution in prop_oneof![
                proptest::sample::select(vec![0.1, 0.01, 0.0625, 0.5, 2.5]),
                1e-4_f64..100.0,
            ],
        ) {
            let rounding = Rounding::new(resolution, None);
            let once = rounding.round(value);
            prop_assert!((once - value).abs() <= resolution * 0.500_001 + value.abs() * 1e-15);
            let twice = rounding.round(once);
            prop_assert!(twice.total_cmp(&once).is_eq(), "{} becomes {}", once, twice);
        }

        #[test]
        fn rounding_is_total(
            bits in any::<u64>(),
            resolution in any::<u64>(),
            precision in any::<Option<u8>>(),
        ) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let rounded = Rounding::new(f64::from_bits(resolution), precision).round(value);
            prop_assert!(rounded.is_finite());
        }
    }
}
