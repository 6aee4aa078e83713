//! Drivers of devices that are asked: a closed set of step machines.
//!
//! A driver never sleeps and never touches a bus. It is stepped with what has happened and says
//! what it wants next, until its cycle ends with a reading or a fault:
//!
//! | it is told | it says | then |
//! |---|---|---|
//! | [`Completion::Begin`]: its time has come | [`Step::Transfer`] | it is stepped with the answer |
//! | [`Completion::Bus`]: a transfer's answer | [`Step::WaitUntil`] | it is stepped then |
//! | [`Completion::Woken`]: it has waited | [`Step::Reading`], [`Step::Fault`] | the cycle is over |
//!
//! After a fault it is reset: it knows nothing of its chip any more, and begins by finding out. A
//! driver bounds its own cycle: it never asks for a transfer without end.

use super::bus::{BusOp, BusOutcome, BusSettings};
use super::i2c::{Bme280, Lm75};
use super::settings::{self, I2cChip};
use super::system::System;
use super::{gpio, i2c, lines, system};
use crate::point::{Fault, Outcome, PointSpec};
use crate::time::Instant;

/// A driver of a device that is asked.
#[derive(Debug)]
pub(super) enum Driver {
    System(System),
    Lm75(Lm75),
    Bme280(Bme280),
}

impl Driver {
    /// The driver of the machine's own figures.
    pub(super) fn system(settings: settings::SystemSettings) -> Self {
        Self::System(System::new(settings))
    }

    /// The driver of an I2C chip.
    pub(super) fn i2c(settings: &settings::I2cSettings) -> Self {
        let site = i2c::Site {
            bus: settings.bus,
            address: settings.address,
        };
        match settings.chip {
            I2cChip::Lm75 | I2cChip::Tmp102 | I2cChip::Tmp105 => {
                Self::Lm75(Lm75::new(site, settings.chip))
            }
            I2cChip::Bme280 | I2cChip::Bmp280 => Self::Bme280(Bme280::new(site, settings.chip)),
        }
    }

    /// Takes one step.
    pub(super) fn step(&mut self, now: Instant, completion: &Completion) -> Step {
        match self {
            Self::System(driver) => driver.step(now, completion),
            Self::Lm75(driver) => driver.step(now, completion),
            Self::Bme280(driver) => driver.step(now, completion),
        }
    }

    /// Forgets what it knew of its chip.
    pub(super) fn reset(&mut self) {
        match self {
            Self::System(driver) => driver.reset(),
            Self::Lm75(driver) => driver.reset(),
            Self::Bme280(driver) => driver.reset(),
        }
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Completion {
    /// A cycle begins.
    Begin,
    /// The transfer that was asked for.
    Bus(BusOutcome),
    /// The time that was waited for.
    Woken,
}

/// What a driver wants.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// This transfer.
    Transfer(BusOp),
    /// Nothing until then.
    WaitUntil(Instant),
    /// The cycle is over: what it found out of each point, by its place in the driver's table.
    Reading(Sample),
    /// The cycle is over: nothing can be said of any point.
    Fault(Fault),
}

/// Outcomes by the place of their point in the driver's table.
pub(super) type Sample = Vec<(usize, Outcome)>;

/// The bus that a driver's transfers go to.
pub(super) fn bus_of(settings: &settings::I2cSettings) -> BusSettings {
    BusSettings::I2c {
        number: settings.bus,
        transfer_timeout: settings.transfer_timeout,
    }
}

/// What points a device has, in the order in which [`super::Field::add_device`] is given their
/// ids: with units, resolution, what the sensor can measure, and whether they can be written.
pub fn points_of(driver: &settings::Driver) -> Vec<PointSpec> {
    match driver {
        settings::Driver::System(_) => system::points(),
        settings::Driver::Gpio(settings) => gpio::points(settings),
        settings::Driver::I2c(settings) => i2c::points(settings.chip),
        settings::Driver::Lines(settings) => lines::points(settings),
    }
}
