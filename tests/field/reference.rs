//! Our BME280 against an independent driver, the `bme280` crate, which computes in floating point
//! where we compute in integers.

use std::convert::Infallible;

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::{ErrorType, I2c, Operation};
use fieldgate::field::settings::I2cChip;
use fieldgate::point::{Outcome, Value};
use fieldgate::time::{Duration, Instant};
use proptest::prelude::*;

use crate::bench::Bench;
use crate::chips::{CALIBRATION, Chip, Weather};

/// The same fake chip behind the trait that the crate wants.
struct Bus {
    chip: Weather,
    now: Instant,
}

impl ErrorType for Bus {
    type Error = Infallible;
}

impl I2c for Bus {
    fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), Infallible> {
        // Whatever was started is done by the next time: the crate's delays are not told to us.
        self.now = self.now + Duration::from_secs(1);
        let mut chip = Chip::Weather(Box::new(self.chip.clone()));
        for operation in operations {
            match operation {
                Operation::Write(bytes) => {
                    chip.transfer(self.now, bytes, 0);
                }
                Operation::Read(buffer) => {
                    let bytes = chip.transfer(self.now, &[], buffer.len());
                    buffer.copy_from_slice(&bytes);
                }
            }
        }
        let Chip::Weather(chip) = chip else {
            unreachable!("it was one before");
        };
        self.chip = *chip;
        Ok(())
    }
}

struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

/// Temperature in °C, pressure in hPa, humidity in percent.
fn theirs(chip: Weather) -> Option<[f64; 3]> {
    let now = Instant::default();
    let mut driver = bme280::i2c::BME280::new_primary(Bus { chip, now });
    driver.init(&mut NoDelay).ok()?;
    let measured = driver.measure(&mut NoDelay).ok()?;
    Some([
        f64::from(measured.temperature),
        f64::from(measured.pressure) / 100.0,
        f64::from(measured.humidity),
    ])
}

fn ours(chip: Weather) -> [Outcome; 3] {
    let mut bench = Bench::new();
    bench.chips.insert((1, 0x76), Chip::Weather(Box::new(chip)));
    bench.add_i2c("it", I2cChip::Bme280, 0x76, Duration::from_secs(10));
    bench.run_secs(2);
    ["it/temperature", "it/pressure", "it/humidity"].map(|name| bench.last(name))
}

/// Calibrations of the datasheet's example and of two chips as they are sold.
const CALIBRATIONS: [[i32; 18]; 3] = [
    CALIBRATION,
    [
        28_485, 26_735, 50, 36_738, -10_635, 3_024, 6_980, -4, -7, 9_900, -10_230, 4_285, 75, 353,
        0, 340, 0, 30,
    ],
    [
        27_971, 26_180, 50, 37_234, -10_680, 3_024, 7_130, -40, -7, 12_300, -12_000, 5_000, 75,
        370, 0, 301, 50, 30,
    ],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn both_drivers_agree_wherever_the_sensor_can_measure(
        which in 0..3_usize,
        // Roughly -40 to 85 °C, 300 to 1100 hPa, 0 to 100 %; without the raw values that say that
        // nothing was measured, which are ours to refuse and the crate takes as they are.
        temperature in (320_000..700_000_u32).prop_filter("skipped", |raw| *raw != 0x8_0000),
        pressure in (250_000..650_000_u32).prop_filter("skipped", |raw| *raw != 0x8_0000),
        humidity in (15_000..45_000_u32).prop_filter("skipped", |raw| *raw != 0x8000),
    ) {
        let mut chip = Weather::new(0x60, CALIBRATIONS[which]);
        chip.raw = (temperature, pressure, humidity);
        let (ours, theirs) = (ours(chip.clone()), theirs(chip));
        let theirs = theirs.expect("the crate measures");
        // The crate clamps to the range where we refuse; at the edges they may differ on that.
        let limits = [(-39.9, 84.9, 0.011), (300.5, 1099.5, 0.02), (0.5, 99.5, 0.05)];
        // Without a temperature there is nothing to compare the others by.
        let is_measured = (-39.9..=84.9).contains(&theirs[0]);
        for ((outcome, reference), (low, high, tolerance)) in
            ours.into_iter().zip(theirs).zip(limits)
        {
            if !is_measured || !(low..=high).contains(&reference) {
                continue;
            }
            let Outcome::Good(Value::Float(value)) = outcome else {
                return Err(TestCaseError::fail(format!("{outcome:?} for {reference}")));
            };
            prop_assert!(
                (value - reference).abs() <= tolerance,
                "{value} and {reference}"
            );
        }
    }
}
