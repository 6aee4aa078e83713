//! BME280 and BMP280: temperature, pressure and (BME280) humidity, measured on demand.
//!
//! Sources: Bosch BST-BME280-DS002 and BST-BMP280-DS001. A cycle is *forced mode* (3.3.3 there):
//! settings and mode are written, the chip measures once and goes back to sleep, and after the
//! longest time that the datasheet gives (appendix B: 9.1) everything is read in one burst, which
//! the chip keeps consistent (4: "shadowing").
//!
//! | register | what |
//! |---|---|
//! | `0x88`… `0xA1` | calibration: `T1`…`T3`, `P1`…`P9`, a gap, `H1` |
//! | `0xD0` | chip id: `0x60` BME280, `0x58` BMP280 |
//! | `0xE0` | reset, by writing `0xB6` |
//! | `0xE1`… `0xE7` | calibration: `H2`…`H6`, `H4` and `H5` sharing a byte |
//! | `0xF2` `0xF4` `0xF5` | `ctrl_hum`, `ctrl_meas`, `config` |
//! | `0xF3` | status: bit 3 measuring, bit 0 copying its calibration |
//! | `0xF7`… `0xFE` | pressure (20 bits), temperature (20), humidity (16) |
//!
//! After any fault all of it is done again, from the chip id on: the chip may have lost its power,
//! or be another one. The settings come back with the burst, so a reset in between is noticed.
//!
//! A channel that was skipped reads as the middle of its range (`0x80000`, `0x8000`): values that
//! also a measurement can have, at 26.5 °C or at 66 % with an ordinary calibration. So it is the
//! settings that say whether a channel was measured, never the value of that channel.

use super::{Site, sampled};
use crate::field::driver::{Completion, Sample, Step};
use crate::field::settings::I2cChip;
use crate::point::{Fault, FaultKind, Outcome, PointSpec};
use crate::time::{Duration, Instant};

const CALIBRATION: u8 = 0x88;
const CALIBRATION_LEN: usize = 26;
const CHIP_ID: u8 = 0xD0;
const RESET: u8 = 0xE0;
const RESET_WORD: u8 = 0xB6;
const CALIBRATION_HUMIDITY: u8 = 0xE1;
const CALIBRATION_HUMIDITY_LEN: usize = 7;
const CTRL_HUM: u8 = 0xF2;
const STATUS: u8 = 0xF3;
const CTRL_MEAS: u8 = 0xF4;
const CONFIG: u8 = 0xF5;

const STATUS_MEASURING: u8 = 0x08;
const STATUS_COPYING: u8 = 0x01;

const ID_BME280: u8 = 0x60;
const ID_BMP280: u8 = 0x58;
/// Samples of the BMP280 that were sold.
const IDS_BMP280_SAMPLES: [u8; 2] = [0x56, 0x57];

/// How often each quantity is measured and averaged: "weather monitoring" (3.5.1), the least self
/// heating. As a register value, 1 means once.
const OVERSAMPLING: u8 = 1;
/// Of humidity, in `ctrl_hum`.
const OVERSAMPLING_MASK: u8 = 0x07;
const MODE_FORCED: u8 = 1;
const MODE_MASK: u8 = 0x03;
const SETTINGS: u8 = OVERSAMPLING << 5 | OVERSAMPLING << 2;

/// What a channel holds after a reset (5.3: memory map) until it is measured.
const RESET_20_BITS: u32 = 0x8_0000;
const RESET_16_BITS: u32 = 0x8000;

/// Time from power-on to communication (1: `t_startup`) is 2 ms; the reset repeats it.
const START_UP: Duration = Duration::from_millis(3);

/// While the chip says that it is not ready it is asked again after this long, …
const RETRY_DELAY: Duration = Duration::from_millis(3);
/// … so many times.
pub(super) const RETRIES_MAX: u8 = 5;

/// What the sensor can measure (1, table 1 to 3).
const RANGE_CELSIUS: (f64, f64) = (-40.0, 85.0);
const RANGE_HPA: (f64, f64) = (300.0, 1100.0);
const RANGE_PERCENT: (f64, f64) = (0.0, 100.0);

/// The points of these chips.
pub(super) fn points(chip: I2cChip) -> Vec<PointSpec> {
    let mut points = vec![
        sampled("temperature", "°C", 0.01, RANGE_CELSIUS),
        sampled("pressure", "hPa", 0.01, RANGE_HPA),
    ];
    if chip == I2cChip::Bme280 {
        points.push(sampled("humidity", "%", 0.01, RANGE_PERCENT));
    }
    points
}

/// The driver.
#[derive(Debug)]
pub(in crate::field) struct Bme280 {
    site: Site,
    has_humidity: bool,
    state: State,
    calibration: Calibration,
    /// How often the chip has said in this cycle that it is not ready.
    retries: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is known of the chip.
    Unknown,
    /// Its id is being read.
    Identifying,
    /// It is being reset.
    Resetting,
    /// It starts.
    Starting,
    /// Its status is being read: it may still copy its calibration.
    CheckingStart,
    /// Its calibration is being read.
    Calibrating,
    /// The calibration of its humidity is being read.
    CalibratingHumidity,
    /// It sleeps and is known.
    Ready,
    /// A measurement is being started.
    Triggering,
    /// It measures.
    Measuring,
    /// The results are being read.
    Reading,
}

impl Bme280 {
    pub(in crate::field) fn new(site: Site, chip: I2cChip) -> Self {
        Self {
            site,
            has_humidity: chip == I2cChip::Bme280,
            state: State::Unknown,
            calibration: Calibration::default(),
            retries: 0,
        }
    }

    pub(in crate::field) fn reset(&mut self) {
        self.state = State::Unknown;
        self.calibration = Calibration::default();
    }

    pub(in crate::field) fn step(&mut self, now: Instant, completion: &Completion) -> Step {
        self.try_step(now, completion).unwrap_or_else(Step::Fault)
    }

    fn try_step(&mut self, now: Instant, completion: &Completion) -> Result<Step, Fault> {
        if *completion == Completion::Begin {
            self.retries = 0;
        }
        let site = self.site;
        match (self.state, completion) {
            (State::Unknown, Completion::Begin) => {
                self.state = State::Identifying;
                Ok(Step::Transfer(site.read(CHIP_ID, 1)))
            }
            (State::Identifying, Completion::Bus(outcome)) => {
                let [id] = site.bytes(outcome)?;
                self.check_id(id)?;
                self.state = State::Resetting;
                Ok(Step::Transfer(site.write(&[RESET, RESET_WORD])))
            }
            (State::Resetting, Completion::Bus(outcome)) => {
                site.bytes::<0>(outcome)?;
                self.state = State::Starting;
                Ok(Step::WaitUntil(now + START_UP))
            }
            (State::Starting, Completion::Woken) => {
                self.state = State::CheckingStart;
                Ok(Step::Transfer(site.read(STATUS, 1)))
            }
            (State::CheckingStart, Completion::Bus(outcome)) => {
                let [status] = site.bytes(outcome)?;
                if status & STATUS_COPYING != 0 {
                    self.state = State::Starting;
                    return self.retry(now);
                }
                self.state = State::Calibrating;
                let count = CALIBRATION_LEN as u16;
                Ok(Step::Transfer(site.read(CALIBRATION, count)))
            }
            (State::Calibrating, Completion::Bus(outcome)) => {
                let bytes = site.bytes(outcome)?;
                self.calibration = Calibration::of(&bytes);
                if !self.calibration.is_plausible() {
                    return Err(site.bad_answer(format_args!("the calibration is empty")));
                }
                if !self.has_humidity {
                    return Ok(self.trigger());
                }
                self.state = State::CalibratingHumidity;
                let count = CALIBRATION_HUMIDITY_LEN as u16;
                Ok(Step::Transfer(site.read(CALIBRATION_HUMIDITY, count)))
            }
            (State::CalibratingHumidity, Completion::Bus(outcome)) => {
                self.calibration.add_humidity(site.bytes(outcome)?);
                Ok(self.trigger())
            }
            (State::Ready, Completion::Begin) => Ok(self.trigger()),
            (State::Triggering, Completion::Bus(outcome)) => {
                site.bytes::<0>(outcome)?;
                self.state = State::Measuring;
                Ok(Step::WaitUntil(now + measuring_time(self.has_humidity)))
            }
            (State::Measuring, Completion::Woken) => {
                self.state = State::Reading;
                // From the settings to the last result: they tell whether the chip is still as it
                // was set up.
                Ok(Step::Transfer(if self.has_humidity {
                    site.read(CTRL_HUM, BURST as u16)
                } else {
                    site.read(STATUS, BURST_BMP280 as u16)
                }))
            }
            (State::Reading, Completion::Bus(outcome)) => {
                let mut burst = [0; BURST];
                if self.has_humidity {
                    burst = site.bytes(outcome)?;
                } else {
                    let part: [u8; BURST_BMP280] = site.bytes(outcome)?;
                    burst[1..=BURST_BMP280].copy_from_slice(&part);
                }
                self.finish(now, &burst)
            }
            _ => Err(site.bad_answer(format_args!("an answer out of turn"))),
        }
    }

    fn check_id(&self, id: u8) -> Result<(), Fault> {
        let is_bmp280 = id == ID_BMP280 || IDS_BMP280_SAMPLES.contains(&id);
        if (self.has_humidity && id == ID_BME280) || (!self.has_humidity && is_bmp280) {
            return Ok(());
        }
        let found = match id {
            ID_BME280 => "a bme280",
            _ if is_bmp280 => "a bmp280, which has no humidity sensor",
            0x61 => "a bme680",
            0x55 => "a bmp180",
            _ => "another chip",
        };
        Err(self.site.fault(
            FaultKind::WrongDevice,
            format_args!("chip id {id:#04x}: {found}"),
        ))
    }

    fn trigger(&mut self) -> Step {
        self.state = State::Triggering;
        let ctrl_meas = SETTINGS | MODE_FORCED;
        // Pairs of register and value (6.2.1). `config` first: it is ignored while measuring;
        // `ctrl_hum` takes effect with the write to `ctrl_meas` (5.4.3).
        Step::Transfer(if self.has_humidity {
            let pairs = [CONFIG, 0, CTRL_HUM, OVERSAMPLING, CTRL_MEAS, ctrl_meas];
            self.site.write(&pairs)
        } else {
            self.site.write(&[CONFIG, 0, CTRL_MEAS, ctrl_meas])
        })
    }

    /// The chip is not ready: once more later, but not for ever.
    fn retry(&mut self, now: Instant) -> Result<Step, Fault> {
        self.retries += 1;
        if self.retries > RETRIES_MAX {
            return Err(self.site.fault(
                FaultKind::Timeout,
                format_args!("the chip says that it is still busy"),
            ));
        }
        Ok(Step::WaitUntil(now + RETRY_DELAY))
    }

    fn finish(&mut self, now: Instant, burst: &[u8; BURST]) -> Result<Step, Fault> {
        let byte = |register: u8| burst[usize::from(register - CTRL_HUM)];
        if byte(STATUS) & STATUS_MEASURING != 0 {
            self.state = State::Measuring;
            return self.retry(now);
        }
        let skips_humidity = self.has_humidity && byte(CTRL_HUM) & OVERSAMPLING_MASK == 0;
        if byte(CTRL_MEAS) & !MODE_MASK != SETTINGS || skips_humidity {
            return Err(self.not_measured("the chip has lost its settings"));
        }
        let at = |register: u8| u32::from(byte(register));
        let pressure = at(0xF7) << 12 | at(0xF8) << 4 | at(0xF9) >> 4;
        let temperature = at(0xFA) << 12 | at(0xFB) << 4 | at(0xFC) >> 4;
        let humidity = at(0xFD) << 8 | at(0xFE);
        let is_as_reset = temperature == RESET_20_BITS
            && pressure == RESET_20_BITS
            && (!self.has_humidity || humidity == RESET_16_BITS);
        if is_as_reset {
            return Err(self.not_measured("the chip has measured nothing"));
        }
        self.state = State::Ready;
        Ok(Step::Reading(self.convert(temperature, pressure, humidity)))
    }

    fn not_measured(&self, what: &str) -> Fault {
        self.site.fault(
            FaultKind::NotMeasured,
            format_args!("{what}: was its power interrupted?"),
        )
    }

    fn convert(&self, temperature: u32, pressure: u32, humidity: u32) -> Sample {
        let mut sample = Sample::new();
        let mut add = |outcome| sample.push((sample.len(), outcome));
        let fine = self.calibration.fine_temperature(temperature);
        let outcome = self
            .site
            .in_range("temperature", fine.celsius(), RANGE_CELSIUS);
        // The other two are compensated by the temperature: without it they are nothing, and
        // outside of its range their formulas are not meant to hold.
        let is_usable = matches!(outcome, Outcome::Good(_));
        let without = outcome.clone();
        add(outcome);
        add(match self.calibration.hectopascal(fine, pressure) {
            _ if !is_usable => without.clone(),
            Some(hpa) => self.site.in_range("pressure", hpa, RANGE_HPA),
            None => Outcome::Fault(
                self.site
                    .bad_answer(format_args!("the calibration makes no pressure")),
            ),
        });
        if self.has_humidity {
            add(if is_usable {
                let percent = self.calibration.percent(fine, humidity);
                self.site.in_range("humidity", percent, RANGE_PERCENT)
            } else {
                without
            });
        }
        sample
    }
}

/// `ctrl_hum` to `hum_lsb`.
const BURST: usize = 0xFE - 0xF2 + 1;
/// Of these, the status to `temp_xlsb`, which is what a BMP280 has.
const BURST_BMP280: usize = 0xFC - 0xF3 + 1;

/// The longest that one measurement takes (appendix B, 9.1), with each quantity measured once:
/// 1.25 ms, 2.3 ms for each, and 0.575 ms more for pressure and for humidity.
fn measuring_time(has_humidity: bool) -> Duration {
    let micros = 1_250 + 2_300 + (2_300 + 575) + if has_humidity { 2_300 + 575 } else { 0 };
    Duration::from_micros(micros)
}

/// What the factory has found out about this one chip (table 16).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Calibration {
    t1: u16,
    t2: i16,
    t3: i16,
    p1: u16,
    p: [i16; 8],
    h1: u8,
    h2: i16,
    h3: u8,
    h4: i16,
    h5: i16,
    h6: i8,
}

/// Temperature as the other formulas want it (`t_fine`), in 1/5120 °C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FineTemperature(i64);

impl FineTemperature {
    fn celsius(self) -> f64 {
        // The datasheet's integer formula, which ends with hundredths of a degree.
        ((self.0 * 5 + 128) >> 8) as f64 / 100.0
    }
}

impl Calibration {
    fn of(bytes: &[u8; CALIBRATION_LEN]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            t1: word(0),
            t2: word(2).cast_signed(),
            t3: word(4).cast_signed(),
            p1: word(6),
            p: core::array::from_fn(|index| word(8 + 2 * index).cast_signed()),
            h1: bytes[25],
            ..Self::default()
        }
    }

    fn add_humidity(&mut self, bytes: [u8; CALIBRATION_HUMIDITY_LEN]) {
        let signed = |at: usize| i16::from(bytes[at].cast_signed());
        self.h2 = i16::from_le_bytes([bytes[0], bytes[1]]);
        self.h3 = bytes[2];
        // Twelve bits each, signed by their upper eight; the middle byte is shared.
        self.h4 = signed(3) << 4 | i16::from(bytes[4] & 0x0F);
        self.h5 = signed(5) << 4 | i16::from(bytes[4] >> 4);
        self.h6 = bytes[6].cast_signed();
    }

    /// No chip is calibrated to nothing: a bus that reads as all zeros or all ones is noticed.
    fn is_plausible(&self) -> bool {
        let is_blank = |word: u16| word == 0 || word == u16::MAX;
        !is_blank(self.t1) && !is_blank(self.t2.cast_unsigned()) && !is_blank(self.p1)
    }

    // The three formulas of 4.2.3, in integers as printed there but wide enough that no
    // calibration whatsoever makes them overflow. Within a sensor's range the results are equal.

    fn fine_temperature(&self, raw: u32) -> FineTemperature {
        let (raw, t1) = (i64::from(raw), i64::from(self.t1));
        let linear = (((raw >> 3) - (t1 << 1)) * i64::from(self.t2)) >> 11;
        let offset = (raw >> 4) - t1;
        let square = (((offset * offset) >> 12) * i64::from(self.t3)) >> 14;
        FineTemperature(linear + square)
    }

    /// `None` if the calibration divides by zero.
    fn hectopascal(&self, fine: FineTemperature, raw: u32) -> Option<f64> {
        let [p2, p3, p4, p5, p6, p7, p8, p9] = self.p.map(i128::from);
        let t = i128::from(fine.0) - 128_000;
        let offset = t * t * p6 + ((t * p5) << 17) + (p4 << 35);
        let scale = ((t * t * p3) >> 8) + ((t * p2) << 12);
        let scale = (((1 << 47) + scale) * i128::from(self.p1)) >> 33;
        if scale == 0 {
            return None;
        }
        let p = 1_048_576 - i128::from(raw);
        let p = ((p << 31) - offset) * 3125 / scale;
        // Far outside of any pressure the products below would not fit.
        if !(0..=1 << 40).contains(&p) {
            return Some(f64::INFINITY);
        }
        let square = (p9 * (p >> 13) * (p >> 13)) >> 25;
        let linear = (p8 * p) >> 19;
        let p = ((p + square + linear) >> 8) + (p7 << 4);
        // Pa in Q24.8; 100 Pa are a hectopascal.
        Some(p as f64 / 256.0 / 100.0)
    }

    fn percent(&self, fine: FineTemperature, raw: u32) -> f64 {
        let [h1, h2, h3, h4, h5, h6] = [
            i64::from(self.h1),
            i64::from(self.h2),
            i64::from(self.h3),
            i64::from(self.h4),
            i64::from(self.h5),
            i64::from(self.h6),
        ];
        let t = fine.0 - 76_800;
        let measured = ((i64::from(raw) << 14) - (h4 << 20) - h5 * t + 16_384) >> 15;
        let by_temperature = (((t * h6) >> 10) * (((t * h3) >> 11) + 32_768)) >> 10;
        let slope = ((by_temperature + 2_097_152) * h2 + 8_192) >> 14;
        let h = measured * slope;
        let h = h - (((((h >> 15) * (h >> 15)) >> 7) * h1) >> 4);
        // %RH in Q22.10 after the last shift; the formula itself limits it to 0 to 100.
        (h.clamp(0, 419_430_400) >> 12) as f64 / 1024.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::field::bus::{BusError, BusOp, BusReply};

    /// The worked example of BST-BMP280-DS001, 3.12 and its figure: the only one that Bosch prints.
    #[test]
    fn converts_as_the_datasheets_example() {
        let fine = EXAMPLE.fine_temperature(519_888);
        assert_eq!(fine, FineTemperature(128_422));
        assert!((fine.celsius() - 25.08).abs() < 1e-9);
        let hpa = EXAMPLE
            .hectopascal(fine, 415_148)
            .expect("no division by 0");
        // Printed for floating point; a truncated `t_fine` makes 0.01 Pa of difference.
        assert!((hpa - 1_006.532_7).abs() < 0.000_2, "{hpa}");
    }

    #[test]
    fn h4_and_h5_share_a_byte_and_are_signed() {
        let mut calibration = Calibration::default();
        calibration.add_humidity([0x6F, 0x01, 0x00, 0x13, 0x2A, 0x03, 0x1E]);
        assert_eq!(calibration.h2, 367);
        assert_eq!(calibration.h4, 0x13A);
        assert_eq!(calibration.h5, 0x032);
        assert_eq!(calibration.h6, 30);
        calibration.add_humidity([0, 0, 0, 0xFF, 0x1F, 0x80, 0xFE]);
        assert_eq!((calibration.h4, calibration.h5), (-1, -2047));
        assert_eq!(calibration.h6, -2);
    }

    #[test]
    fn a_measurement_takes_what_the_datasheet_says() {
        // Appendix B: 9.3 ms for one of each.
        assert_eq!(measuring_time(true), Duration::from_micros(9_300));
        assert_eq!(measuring_time(false), Duration::from_micros(6_425));
    }

    #[test]
    fn a_bmp280_in_place_of_a_bme280_is_told_apart() {
        let mut driver = Bme280::new(SITE, I2cChip::Bme280);
        driver.step(Instant::default(), &Completion::Begin);
        let Step::Fault(fault) = driver.step(Instant::default(), &brought(&[0x58])) else {
            panic!("no fault");
        };
        assert_eq!(
            fault.to_string(),
            "wrong_device: chip id 0x58: a bmp280, which has no humidity sensor, at 0x76 on i2c.1"
        );
    }

    #[test]
    fn a_chip_that_is_never_ready_is_given_up() {
        let mut driver = ready();
        let now = Instant::default();
        driver.step(now, &Completion::Begin);
        let mut step = driver.step(now, &brought(&[]));
        let mut asked = 0;
        while matches!(step, Step::WaitUntil(_)) {
            driver.step(now, &Completion::Woken);
            let mut burst = MEASURED;
            burst[1] = STATUS_MEASURING;
            step = driver.step(now, &brought(&burst));
            asked += 1;
        }
        assert_eq!(asked, RETRIES_MAX + 1);
        assert!(matches!(step, Step::Fault(fault) if fault.kind == FaultKind::Timeout));
    }

    /// What the driver says to a burst.
    fn finish(burst: [u8; BURST]) -> Step {
        let mut driver = ready();
        let now = Instant::default();
        driver.step(now, &Completion::Begin);
        driver.step(now, &brought(&[]));
        driver.step(now, &Completion::Woken);
        driver.step(now, &brought(&burst))
    }

    #[test]
    fn a_chip_that_was_reset_has_not_measured() {
        // In the middle of the measurement; before `ctrl_hum` was written; after it had begun, so
        // that only the results are gone.
        for changes in [
            &[(CTRL_HUM, 0), (CTRL_MEAS, 0)][..],
            &[(CTRL_HUM, 0)],
            &RESULTS_AFTER_RESET,
        ] {
            let mut burst = MEASURED;
            for (register, value) in changes {
                burst[usize::from(register - CTRL_HUM)] = *value;
            }
            let step = finish(burst);
            assert!(matches!(step, Step::Fault(fault) if fault.kind == FaultKind::NotMeasured));
        }
    }

    #[test]
    fn a_measurement_may_be_what_a_skipped_channel_reads_as() {
        for channel in [0..3, 3..6, 6..8] {
            let mut burst = MEASURED;
            for (register, value) in &RESULTS_AFTER_RESET[channel] {
                burst[usize::from(register - CTRL_HUM)] = *value;
            }
            let Step::Reading(sample) = finish(burst) else {
                panic!("no reading");
            };
            assert_eq!(sample.len(), 3);
            for (_, outcome) in sample {
                assert!(matches!(outcome, Outcome::Good(_)), "{outcome:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_calibration_and_any_measurement_make_finite_values_or_faults(
            first: [u8; CALIBRATION_LEN],
            second: [u8; CALIBRATION_HUMIDITY_LEN],
            temperature in 0..=0xF_FFFF_u32,
            pressure in 0..=0xF_FFFF_u32,
            humidity in 0..=0xFFFF_u32,
        ) {
            let mut driver = Bme280::new(SITE, I2cChip::Bme280);
            driver.calibration = Calibration::of(&first);
            driver.calibration.add_humidity(second);
            for (_, outcome) in driver.convert(temperature, pressure, humidity) {
                if let Outcome::Good(value) = outcome {
                    prop_assert!(value.as_f64().is_some_and(f64::is_finite));
                }
            }
        }

        #[test]
        fn any_answers_end_the_cycle(
            chip in prop_oneof![Just(I2cChip::Bme280), Just(I2cChip::Bmp280)],
            answers in proptest::collection::vec(
                prop_oneof![
                    8 => proptest::collection::vec(any::<u8>(), 32).prop_map(Some),
                    1 => Just(None),
                ],
                200,
            ),
        ) {
            let mut driver = Bme280::new(SITE, chip);
            let mut answers = answers.into_iter();
            for _ in 0..5 {
                let mut step = driver.step(Instant::default(), &Completion::Begin);
                for _ in 0..40 {
                    let completion = match &step {
                        Step::Transfer(BusOp::I2c { write, read, .. }) => {
                            let answer = answers.next().expect("enough of them");
                            Completion::Bus(match answer {
                                // The right id now and then, or nothing else would be reached.
                                Some(_) if write[..] == [CHIP_ID] => {
                                    let id = if chip == I2cChip::Bme280 { 0x60 } else { 0x58 };
                                    Ok(BusReply::Bytes([id].as_slice().into()))
                                }
                                Some(bytes) => {
                                    Ok(BusReply::Bytes(bytes[..usize::from(*read)].into()))
                                }
                                None => Err(BusError::NoAnswer),
                            })
                        }
                        Step::WaitUntil(_) => Completion::Woken,
                        _ => break,
                    };
                    step = driver.step(Instant::default(), &completion);
                }
                prop_assert!(matches!(step, Step::Reading(_) | Step::Fault(_)));
                if matches!(step, Step::Fault(_)) {
                    driver.reset();
                }
            }
        }
    }

    const SITE: Site = Site {
        bus: 1,
        address: 0x76,
    };

    const EXAMPLE: Calibration = Calibration {
        t1: 27_504,
        t2: 26_435,
        t3: -1_000,
        p1: 36_477,
        p: [-10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000],
        h1: 75,
        h2: 367,
        h3: 0,
        h4: 314,
        h5: 50,
        h6: 30,
    };

    /// `ctrl_hum` and what follows it, after a measurement.
    const MEASURED: [u8; BURST] = [
        OVERSAMPLING,
        0,
        SETTINGS,
        0,
        0,
        0x65,
        0x5A,
        0xC0,
        0x7E,
        0xED,
        0x00,
        0x75,
        0x30,
    ];

    /// Pressure, temperature, humidity.
    const RESULTS_AFTER_RESET: [(u8, u8); 8] = [
        (0xF7, 0x80),
        (0xF8, 0),
        (0xF9, 0),
        (0xFA, 0x80),
        (0xFB, 0),
        (0xFC, 0),
        (0xFD, 0x80),
        (0xFE, 0),
    ];

    fn ready() -> Bme280 {
        Bme280 {
            state: State::Ready,
            calibration: EXAMPLE,
            ..Bme280::new(SITE, I2cChip::Bme280)
        }
    }

    fn brought(bytes: &[u8]) -> Completion {
        Completion::Bus(Ok(BusReply::Bytes(bytes.into())))
    }
}
