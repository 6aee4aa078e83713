//! From what a device says to what is published, and back: scale, offset, rounding, range.
//!
//! `published = raw × scale + offset`, rounded, and then inside the range or a fault. Whole numbers
//! stay whole, and exact, as long as scale and offset are whole: a 64-bit counter loses nothing on
//! its way.

use super::number::{EXACT_INTEGER_MAX, Rounding, write_float};
use super::settings::PointSettings;
use crate::point::{Fault, FaultKind, Value};

/// How one point's numbers are turned into published ones. Made once, from its settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transform {
    scale: f64,
    offset: f64,
    /// `scale` and `offset`, if both are whole and small enough to be exact.
    whole: Option<(i128, i128)>,
    rounding: Rounding,
    range: Option<(f64, f64)>,
    unit: Box<str>,
}

impl Transform {
    /// By a point's settings.
    pub(crate) fn new(settings: &PointSettings) -> Self {
        Self {
            scale: settings.scale,
            offset: settings.offset,
            whole: whole(settings.scale).zip(whole(settings.offset)),
            rounding: Rounding::new(settings.spec.resolution, settings.precision),
            range: settings.spec.range,
            unit: settings.spec.unit.clone(),
        }
    }

    /// What is published for a raw value. Booleans and text pass as they are.
    ///
    /// # Errors
    /// The value is not a finite number, or the published one lies outside of the point's range.
    pub(crate) fn publish(&self, raw: Value) -> Result<Value, Fault> {
        let value = self.convert(raw)?;
        self.check_range(&value)?;
        Ok(value)
    }

    /// As [`Transform::publish`], without asking whether it is in range: for what a device answers
    /// to a command.
    ///
    /// # Errors
    /// The value is not a finite number.
    pub(crate) fn convert(&self, raw: Value) -> Result<Value, Fault> {
        let whole = match &raw {
            Value::Bool(_) | Value::Text(_) => return Ok(raw),
            Value::Int(value) => Some(i128::from(*value)),
            Value::Uint(value) => Some(i128::from(*value)),
            Value::Float(value) if !value.is_finite() => {
                let detail = format!("the device's number is {value}");
                return Err(Fault::new(FaultKind::BadAnswer, detail));
            }
            Value::Float(_) => None,
        };
        if let Some(exact) = whole.and_then(|value| self.convert_whole(value)) {
            return Ok(exact);
        }
        let raw = raw.as_f64().expect("only text has no number");
        // A scale of 1 must not cost a bit.
        let scaled = if self.is_identity() {
            raw
        } else {
            raw * self.scale + self.offset
        };
        if scaled.is_finite() {
            Ok(Value::Float(self.rounding.round(scaled)))
        } else {
            let detail = format!("{raw} times the scale {} is no number", self.scale);
            Err(Fault::new(FaultKind::OutOfRange, detail))
        }
    }

    /// The raw value that is to be written so that the point becomes `value`; a number that is
    /// whole but for what binary fractions lose becomes a whole number, which is what a register
    /// takes.
    ///
    /// # Errors
    /// The value lies outside of the point's range.
    pub(crate) fn command(&self, value: Value) -> Result<Value, Fault> {
        self.check_range(&value)?;
        let number = match &value {
            Value::Bool(_) | Value::Text(_) => return Ok(value),
            _ if self.is_identity() => return Ok(value),
            Value::Int(_) | Value::Uint(_) | Value::Float(_) => {
                value.as_f64().expect("only text has no number")
            }
        };
        let raw = (number - self.offset) / self.scale;
        if !raw.is_finite() {
            let detail = format!("{number} divided by the scale {} is no number", self.scale);
            return Err(Fault::new(FaultKind::BadValue, detail));
        }
        let nearest = raw.round();
        // Two roundings went before, of numbers as large as these.
        let lost = 4.0 * f64::EPSILON * (number.abs() + self.offset.abs()) / self.scale.abs();
        if (raw - nearest).abs() <= lost.min(0.001) && nearest.abs() <= EXACT_INTEGER_MAX as f64 {
            Ok(Value::Int(nearest as i64))
        } else {
            Ok(Value::Float(raw))
        }
    }

    fn convert_whole(&self, value: i128) -> Option<Value> {
        let (scale, offset) = self.whole?;
        let scaled = value.checked_mul(scale)?.checked_add(offset)?;
        let rounded = self.rounding.round_whole(scaled)?;
        i64::try_from(rounded)
            .map(Value::Int)
            .or_else(|_| u64::try_from(rounded).map(Value::Uint))
            .ok()
    }

    #[expect(clippy::float_cmp, reason = "the defaults are exactly these")]
    fn is_identity(&self) -> bool {
        self.scale == 1.0 && self.offset == 0.0
    }

    fn check_range(&self, value: &Value) -> Result<(), Fault> {
        let (Some((min, max)), false) = (self.range, matches!(value, Value::Bool(_))) else {
            return Ok(());
        };
        let (number, bound, side) = match value.as_f64() {
            Some(number) if number < min => (number, min, "below"),
            Some(number) if number > max => (number, max, "above"),
            _ => return Ok(()),
        };
        let mut detail = String::new();
        let _ = write_float(&mut detail, number);
        detail.push_str(&self.spaced_unit());
        detail.push_str(" is ");
        detail.push_str(side);
        detail.push(' ');
        let _ = write_float(&mut detail, bound);
        detail.push_str(&self.spaced_unit());
        Err(Fault::new(FaultKind::OutOfRange, detail))
    }

    fn spaced_unit(&self) -> String {
        if self.unit.is_empty() {
            String::new()
        } else {
            format!(" {}", self.unit)
        }
    }
}

fn whole(number: f64) -> Option<i128> {
    let is_exact = number.fract() == 0.0 && number.abs() <= EXACT_INTEGER_MAX as f64;
    is_exact.then_some(number as i128)
}
