//! Chips on an I2C bus: a file each, and what they share.

mod bme280;
mod lm75;

use super::bus::{BusError, BusOp, BusOutcome, BusReply, Bytes, error_text};
use super::settings::I2cChip;
use crate::point::{Fault, FaultKind, Outcome, PointKind, PointSpec, Value};

pub(super) use bme280::Bme280;
pub(super) use lm75::Lm75;

/// The points of a chip.
pub(super) fn points(chip: I2cChip) -> Vec<PointSpec> {
    match chip {
        I2cChip::Lm75 | I2cChip::Tmp102 | I2cChip::Tmp105 => lm75::points(chip),
        I2cChip::Bme280 | I2cChip::Bmp280 => bme280::points(chip),
    }
}

/// Where a chip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) bus: u8,
    /// Seven bits.
    pub(super) address: u8,
}

impl Site {
    /// Reads `count` bytes from `register` on.
    fn read(self, register: u8, count: u16) -> BusOp {
        BusOp::I2c {
            address: self.address,
            write: Bytes::from_slice(&[register]),
            read: count,
        }
    }

    /// Writes bytes, the first of them a register.
    fn write(self, bytes: &[u8]) -> BusOp {
        BusOp::I2c {
            address: self.address,
            write: Bytes::from_slice(bytes),
            read: 0,
        }
    }

    /// The `N` bytes that a transfer brought, or what went wrong and where.
    fn bytes<const N: usize>(self, outcome: &BusOutcome) -> Result<[u8; N], Fault> {
        let reply = outcome.as_ref().map_err(|error| self.failed(*error))?;
        match reply {
            BusReply::Bytes(bytes) => bytes.as_slice().try_into().map_err(|_| {
                let count = bytes.len();
                self.bad_answer(format_args!("{count} bytes came where {N} were asked for"))
            }),
            BusReply::Machine(_) => Err(self.bad_answer(format_args!("no bytes came"))),
        }
    }

    /// A failed transfer, told.
    fn failed(self, error: BusError) -> Fault {
        let Self { bus, address } = self;
        let (kind, story) = match error {
            BusError::NoAnswer => (
                FaultKind::NoAnswer,
                format!("nothing answered at {address:#04x} on i2c.{bus}"),
            ),
            BusError::Timeout => (
                FaultKind::Timeout,
                format!("i2c.{bus} did not answer in time for {address:#04x}"),
            ),
            BusError::Unavailable(number) => (
                FaultKind::BusError,
                format!("i2c.{bus} cannot be used ({})", error_text(number)),
            ),
            BusError::Failed(number) => (
                FaultKind::BusError,
                format!(
                    "i2c.{bus} failed for {address:#04x} ({})",
                    error_text(number)
                ),
            ),
            BusError::Busy => (FaultKind::Busy, format!("i2c.{bus} has too much to do")),
        };
        Fault::new(kind, story)
    }

    /// An answer of the wrong shape.
    fn bad_answer(self, story: core::fmt::Arguments<'_>) -> Fault {
        self.fault(FaultKind::BadAnswer, story)
    }

    /// `kind`, with a story that ends with the place.
    fn fault(self, kind: FaultKind, story: core::fmt::Arguments<'_>) -> Fault {
        let Self { bus, address } = self;
        Fault::new(kind, format!("{story}, at {address:#04x} on i2c.{bus}"))
    }

    /// A value within what the sensor can measure, or a fault.
    fn in_range(self, what: &str, value: f64, (low, high): (f64, f64)) -> Outcome {
        if (low..=high).contains(&value) {
            Outcome::Good(Value::Float(value))
        } else {
            // Without the value: it is noise, and the same fault need not be told again and again.
            Outcome::Fault(self.fault(
                FaultKind::OutOfRange,
                format_args!("{what} is outside {low} to {high}"),
            ))
        }
    }
}

/// A row of a chip's table.
fn sampled(name: &str, unit: &str, resolution: f64, range: (f64, f64)) -> PointSpec {
    PointSpec {
        name: name.into(),
        kind: PointKind::Sampled,
        unit: unit.into(),
        resolution,
        range: Some(range),
        writable: false,
    }
}
