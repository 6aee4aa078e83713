//! Our I2C drivers against independent ones on the same fake chips: `lm75` and `tmp1x2` for the
//! thermometers, whatever their registers say; `bme280`, which computes in floating point where we
//! compute in integers, for both of Bosch's chips.

use std::convert::Infallible;

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::{ErrorType, I2c, Operation};
use fieldgate::field::settings::I2cChip;
use fieldgate::point::{FaultKind, Outcome, Value};
use fieldgate::time::{Duration, Instant};
use proptest::prelude::*;

use crate::bench::Bench;
use crate::chips::{CALIBRATION, Chip, Thermometer, Weather};

/// A fake chip behind the trait that the crates want.
struct Bus {
    chip: Chip,
    now: Instant,
}

impl Bus {
    fn with(chip: Chip) -> Self {
        let now = Instant::default();
        Self { chip, now }
    }
}

impl ErrorType for Bus {
    type Error = Infallible;
}

impl I2c for Bus {
    fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), Infallible> {
        // Whatever was started is done by the next time: the crates' delays are not told to us.
        self.now = self.now + Duration::from_secs(1);
        for operation in operations {
            match operation {
                Operation::Write(bytes) => {
                    self.chip.transfer(self.now, bytes, 0);
                }
                Operation::Read(buffer) => {
                    let bytes = self.chip.transfer(self.now, &[], buffer.len());
                    buffer.copy_from_slice(&bytes);
                }
            }
        }
        Ok(())
    }
}

/// Our reading of every word that a thermometer's register can hold is that of `theirs`, or is
/// refused because the chip cannot measure it.
fn compare_thermometer(
    chip: I2cChip,
    fake: &Thermometer,
    (low, high): (f64, f64),
    words: impl Iterator<Item = u16>,
    theirs: impl Fn(Chip) -> f32,
) {
    let mut bench = Bench::new();
    bench.add_i2c("it", chip, 0x48, Duration::from_secs(10));
    for word in words {
        let mut fake = fake.clone();
        fake.temperature = word;
        let fake = Chip::Thermometer(fake);
        bench.chips.insert((1, 0x48), fake.clone());
        bench.forget();
        bench.get("it/temperature");
        // A TMP105 is set to its finest first.
        bench.run_millis(400);
        let reference = f64::from(theirs(fake));
        match bench.last("it/temperature") {
            Outcome::Good(Value::Float(value)) => {
                assert!((low..=high).contains(&value), "{word:#06x}");
                // Both are multiples of a power of two: exactly.
                assert!(value.total_cmp(&reference).is_eq(), "{word:#06x}: {value}");
            }
            Outcome::Fault(fault) => {
                assert_eq!(fault.kind, FaultKind::OutOfRange, "{word:#06x}: {fault}");
                assert!(!(low..=high).contains(&reference), "{word:#06x}: {fault}");
            }
            other => panic!("{word:#06x}: {other:?}"),
        }
    }
}

#[test]
fn an_lm75_is_read_as_the_lm75_crate_reads_it() {
    compare_thermometer(
        I2cChip::Lm75,
        &Thermometer::lm75(0),
        (-55.0, 125.0),
        // Nine bits count; LM75B and its successors have more, which are cut off.
        (0..=u16::MAX).step_by(16),
        |chip| {
            let mut driver = lm75::Lm75::new(Bus::with(chip), lm75::Address::default());
            driver.read_temperature().expect("the fake answers")
        },
    );
}

/// Through `tmp1x2`, whose normal and extended mode differ by a bit of the word.
fn tmp1x2_celsius(chip: Chip) -> f32 {
    let mut driver = tmp1x2::Tmp1x2::new(Bus::with(chip), tmp1x2::SlaveAddr::default());
    driver.read_temperature().expect("the fake answers")
}

#[test]
fn a_tmp102_is_read_as_the_tmp1x2_crate_reads_it_in_both_modes() {
    for (bit, step) in [(0, 16), (1, 8)] {
        compare_thermometer(
            I2cChip::Tmp102,
            &Thermometer::tmp102(0),
            (-55.0, 150.0),
            (bit..=u16::MAX).step_by(step),
            tmp1x2_celsius,
        );
    }
}

/// The TMP105's word is that of the TMP102's normal mode; there is no crate of its own.
#[test]
fn a_tmp105_is_read_as_the_tmp1x2_crate_reads_a_tmp102() {
    compare_thermometer(
        I2cChip::Tmp105,
        &Thermometer::tmp105(0),
        (-55.0, 128.0),
        (0..=u16::MAX).step_by(16),
        |chip| {
            let Chip::Thermometer(mut fake) = chip else {
                unreachable!("it is a thermometer");
            };
            fake.has_resolution = false;
            tmp1x2_celsius(Chip::Thermometer(fake))
        },
    );
}

struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

/// Temperature in °C, pressure in hPa, humidity in percent.
fn theirs(chip: Weather) -> Option<[f64; 3]> {
    let chip = Chip::Weather(Box::new(chip));
    let mut driver = bme280::i2c::BME280::new_primary(Bus::with(chip));
    driver.init(&mut NoDelay).ok()?;
    let measured = driver.measure(&mut NoDelay).ok()?;
    Some([
        f64::from(measured.temperature),
        f64::from(measured.pressure) / 100.0,
        f64::from(measured.humidity),
    ])
}

/// The same, as far as the chip has it.
fn ours(kind: I2cChip, chip: Weather) -> Vec<Outcome> {
    let mut bench = Bench::new();
    bench.chips.insert((1, 0x76), Chip::Weather(Box::new(chip)));
    bench.add_i2c("it", kind, 0x76, Duration::from_secs(10));
    bench.run_secs(2);
    let points: &[&str] = match kind {
        I2cChip::Bme280 => &["it/temperature", "it/pressure", "it/humidity"],
        _ => &["it/temperature", "it/pressure"],
    };
    points.iter().map(|name| bench.last(name)).collect()
}

/// What the crate says within the sensor's range, we say too, give or take what is lost in integers:
/// so many percent of humidity.
fn compare_weather(kind: I2cChip, chip: &Weather, percent: f64) -> Result<(), TestCaseError> {
    let theirs = theirs(chip.clone()).expect("the crate measures");
    // The crate clamps to the range where we refuse; at the edges they may differ on that.
    let limits = [
        (-39.9, 84.9, 0.011),
        (300.5, 1099.5, 0.02),
        (0.5, 99.5, percent),
    ];
    // Without a temperature there is nothing to compare the others by.
    let is_measured = (-39.9..=84.9).contains(&theirs[0]);
    let ours = ours(kind, chip.clone());
    for ((outcome, reference), (low, high, tolerance)) in ours.into_iter().zip(theirs).zip(limits) {
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
    Ok(())
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
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn both_drivers_agree_wherever_the_sensor_can_measure(
        which in 0..3_usize,
        kind in prop_oneof![Just((I2cChip::Bme280, 0x60)), Just((I2cChip::Bmp280, 0x58))],
        // Roughly -40 to 85 °C, 300 to 1100 hPa, 0 to 100 %.
        temperature in 320_000..700_000_u32,
        pressure in 250_000..650_000_u32,
        humidity in 15_000..45_000_u32,
    ) {
        let (kind, id) = kind;
        let mut chip = Weather::new(id, CALIBRATIONS[which]);
        chip.raw = (temperature, pressure, humidity);
        compare_weather(kind, &chip, 0.05)?;
    }

    /// Every word stands where the other driver looks for it: each is somewhere around that of an
    /// ordinary chip, and the two of 12 bits that share a byte are anything at all.
    #[test]
    fn both_drivers_find_the_calibration_in_the_same_registers(
        words in proptest::collection::vec(-300..300_i32, 18),
        h4 in -2_048..2_048_i32,
        h5 in -2_048..2_048_i32,
        raw in (450_000..600_000_u32, 350_000..480_000_u32, 20_000..40_000_u32),
    ) {
        let mut calibration = CALIBRATION;
        for (word, change) in calibration.iter_mut().zip(words) {
            // What is a byte in the chip stays one.
            *word += if word.abs() < 400 { change / 10 } else { change };
        }
        // The crate multiplies by the term of `H3` once more than the datasheet's formulas do, in
        // integers and in floating point (4.2.3, 8.1). Real chips have nothing there.
        calibration[14] = 0;
        calibration[15] = h4;
        calibration[16] = h5;
        let mut chip = Weather::new(0x60, calibration);
        chip.raw = raw;
        // The formula of the datasheet rounds more the further `H5` is from those of real chips.
        compare_weather(I2cChip::Bme280, &chip, 0.2)?;
    }
}
