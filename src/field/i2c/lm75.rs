//! LM75, TMP102 and TMP105: thermometers that measure by themselves and keep the last value.
//!
//! | register | | LM75 | TMP102 | TMP105 |
//! |---|---|---|---|---|
//! | 0 | temperature | 9 bits, 0.5 °C | 12 bits, 0.0625 °C (13 in extended mode) | 9 to 12 bits |
//! | 1 | configuration | 1 byte | 2 bytes | 1 byte |
//!
//! Values are two's complement, left-aligned in 16 bits (National/TI LM75B datasheet, "Temperature
//! Data Format"; TI TMP102, tables 8-2 and 8-3; TI TMP105, table 3). None of them has an identity
//! to check. A chip that somebody has put to sleep would say the same for ever, and one that has
//! lost its power for a moment is back at its power-on settings: so every cycle looks at the
//! configuration first, clears the shutdown bit and sets the TMP105 to 12 bits. Whatever is
//! written is read back.

use super::{Site, sampled};
use crate::field::bus::BusOutcome;
use crate::field::driver::{Completion, Step};
use crate::field::settings::I2cChip;
use crate::point::{Fault, PointSpec};
use crate::time::{Duration, Instant};

const TEMPERATURE: u8 = 0;
const CONFIGURATION: u8 = 1;

/// Configuration, first byte: the chip sleeps.
const SHUTDOWN: u8 = 0x01;
/// Configuration, first byte: the resolution of a TMP105, here 12 bits.
const RESOLUTION_12_BITS: u8 = 0x60;
/// Configuration, first byte: starts a measurement of a sleeping chip, and reads as something else.
const ONE_SHOT: u8 = 0x80;

/// The slowest of them at its finest: an LM75 or TMP105 takes up to 300 ms for a first value.
const CONVERSION_MAX: Duration = Duration::from_millis(300);

/// The points of these chips.
pub(super) fn points(chip: I2cChip) -> Vec<PointSpec> {
    vec![sampled("temperature", "°C", resolution(chip), range(chip))]
}

/// The driver.
#[derive(Debug)]
pub(in crate::field) struct Lm75 {
    site: Site,
    chip: I2cChip,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between cycles.
    Idle,
    /// Its configuration is being read.
    Looking,
    /// This configuration is being written.
    Writing([u8; 2]),
    /// Its configuration is being read back.
    Checking([u8; 2]),
    /// The first value of the new configuration is being measured.
    Settling,
    /// Its temperature is being read.
    Reading,
}

impl Lm75 {
    pub(in crate::field) const fn new(site: Site, chip: I2cChip) -> Self {
        Self {
            site,
            chip,
            state: State::Idle,
        }
    }

    pub(in crate::field) fn reset(&mut self) {
        self.state = State::Idle;
    }

    pub(in crate::field) fn step(&mut self, now: Instant, completion: &Completion) -> Step {
        self.try_step(now, completion).unwrap_or_else(Step::Fault)
    }

    fn try_step(&mut self, now: Instant, completion: &Completion) -> Result<Step, Fault> {
        match (self.state, completion) {
            (State::Idle, Completion::Begin) => {
                self.state = State::Looking;
                Ok(self.read_configuration())
            }
            (State::Looking, Completion::Bus(outcome)) => {
                let found = self.configuration(outcome)?;
                let wanted = self.wanted(found);
                if wanted == found {
                    return Ok(self.read_temperature());
                }
                self.state = State::Writing(wanted);
                let bytes = [CONFIGURATION, wanted[0], wanted[1]];
                Ok(Step::Transfer(
                    self.site.write(&bytes[..=self.configuration_len()]),
                ))
            }
            (State::Writing(wanted), Completion::Bus(outcome)) => {
                self.site.bytes::<0>(outcome)?;
                self.state = State::Checking(wanted);
                Ok(self.read_configuration())
            }
            (State::Checking(wanted), Completion::Bus(outcome)) => {
                let found = self.configuration(outcome)?;
                let mask = SHUTDOWN | self.resolution_bits();
                if (found[0] ^ wanted[0]) & mask != 0 {
                    let (wrote, reads) = (wanted[0], found[0]);
                    return Err(self.site.bad_answer(format_args!(
                        "the configuration reads {reads:#04x} after {wrote:#04x} was written"
                    )));
                }
                self.state = State::Settling;
                Ok(Step::WaitUntil(now + CONVERSION_MAX))
            }
            (State::Settling, Completion::Woken) => Ok(self.read_temperature()),
            (State::Reading, Completion::Bus(outcome)) => {
                let raw = self.site.bytes(outcome)?;
                self.state = State::Idle;
                let celsius = celsius(self.chip, raw);
                let outcome = self.site.in_range("temperature", celsius, range(self.chip));
                Ok(Step::Reading(vec![(0, outcome)]))
            }
            _ => {
                self.reset();
                Err(self.site.bad_answer(format_args!("an answer out of turn")))
            }
        }
    }

    fn read_temperature(&mut self) -> Step {
        self.state = State::Reading;
        Step::Transfer(self.site.read(TEMPERATURE, 2))
    }

    fn read_configuration(&self) -> Step {
        let count = self.configuration_len() as u16;
        Step::Transfer(self.site.read(CONFIGURATION, count))
    }

    fn configuration(&self, outcome: &BusOutcome) -> Result<[u8; 2], Fault> {
        if self.configuration_len() == 2 {
            self.site.bytes(outcome)
        } else {
            let [byte] = self.site.bytes(outcome)?;
            Ok([byte, 0])
        }
    }

    /// What the configuration should be: as it is, but awake and fine.
    fn wanted(&self, [first, second]: [u8; 2]) -> [u8; 2] {
        let wanted = first & !SHUTDOWN | self.resolution_bits();
        if wanted == first {
            return [first, second];
        }
        [wanted & !ONE_SHOT, second]
    }

    fn configuration_len(&self) -> usize {
        match self.chip {
            I2cChip::Tmp102 => 2,
            _ => 1,
        }
    }

    fn resolution_bits(&self) -> u8 {
        match self.chip {
            I2cChip::Tmp105 => RESOLUTION_12_BITS,
            _ => 0,
        }
    }
}

/// Degrees Celsius of a temperature register.
fn celsius(chip: I2cChip, raw: [u8; 2]) -> f64 {
    let raw = i16::from_be_bytes(raw);
    match chip {
        I2cChip::Lm75 => f64::from(raw >> 7) * 0.5,
        // Extended mode says so in the last bit, and has one bit more in front (table 8-3).
        I2cChip::Tmp102 if raw & 1 != 0 => f64::from(raw >> 3) * 0.0625,
        _ => f64::from(raw >> 4) * 0.0625,
    }
}

/// The step of a value.
fn resolution(chip: I2cChip) -> f64 {
    match chip {
        I2cChip::Lm75 => 0.5,
        _ => 0.0625,
    }
}

/// Beyond this the chip has failed or is not this chip: what the datasheets' tables end with.
fn range(chip: I2cChip) -> (f64, f64) {
    match chip {
        I2cChip::Tmp102 => (-55.0, 150.0),
        I2cChip::Tmp105 => (-55.0, 128.0),
        _ => (-55.0, 125.0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::field::bus::{BusError, BusOp, BusReply};
    use crate::point::Value;

    /// LM75B datasheet, temperature data: 9 bits, left-aligned.
    #[test]
    fn the_lm75_converts_as_its_table_says() {
        for (word, expected) in [
            (0x7D00, 125.0),
            (0x1900, 25.0),
            (0x0080, 0.5),
            (0x0000, 0.0),
            (0xFF80, -0.5),
            (0xE700, -25.0),
            (0xC900, -55.0),
        ] {
            let word: u16 = word;
            assert_eq!(
                Value::Float(celsius(I2cChip::Lm75, word.to_be_bytes())),
                Value::Float(expected)
            );
        }
    }

    /// TMP102 datasheet, table 8-2 (and the TMP105's table 3, which agrees): 12 bits.
    #[test]
    fn twelve_bits_convert_as_the_tables_say() {
        for (word, expected) in [
            (0x7FF0, 127.9375),
            (0x6400, 100.0),
            (0x5000, 80.0),
            (0x4B00, 75.0),
            (0x3200, 50.0),
            (0x1900, 25.0),
            (0x0040, 0.25),
            (0x0000, 0.0),
            (0xFFC0, -0.25),
            (0xE700, -25.0),
            (0xC900, -55.0),
        ] {
            let word: u16 = word;
            for chip in [I2cChip::Tmp102, I2cChip::Tmp105] {
                assert_eq!(
                    Value::Float(celsius(chip, word.to_be_bytes())),
                    Value::Float(expected)
                );
            }
        }
    }

    /// TMP102 datasheet, table 8-3: 13 bits, and the last bit of the register set.
    #[test]
    fn thirteen_bits_convert_as_the_table_says() {
        for (code, expected) in [
            (0x0960, 150.0),
            (0x0800, 128.0),
            (0x07FF, 127.9375),
            (0x0190, 25.0),
            (0x0004, 0.25),
            (0x1FFC, -0.25),
            (0x1E70, -25.0),
            (0x1C90, -55.0),
        ] {
            let word: u16 = (code << 3) | 1;
            assert_eq!(
                Value::Float(celsius(I2cChip::Tmp102, word.to_be_bytes())),
                Value::Float(expected)
            );
        }
    }

    #[test]
    fn a_sleeping_lm75_is_woken_and_given_time() {
        let mut driver = Lm75::new(SITE, I2cChip::Lm75);
        let now = Instant::from_nanos(1_000);
        assert_eq!(
            driver.step(now, &Completion::Begin),
            Step::Transfer(SITE.read(CONFIGURATION, 1))
        );
        assert_eq!(
            driver.step(now, &brought(&[0x19])),
            Step::Transfer(SITE.write(&[CONFIGURATION, 0x18]))
        );
        assert_eq!(
            driver.step(now, &brought(&[])),
            Step::Transfer(SITE.read(CONFIGURATION, 1))
        );
        assert_eq!(
            driver.step(now, &brought(&[0x18])),
            Step::WaitUntil(now + CONVERSION_MAX)
        );
        assert_eq!(
            driver.step(now, &Completion::Woken),
            Step::Transfer(SITE.read(TEMPERATURE, 2))
        );
    }

    #[test]
    fn a_tmp105_that_does_not_keep_its_configuration_is_a_fault() {
        let mut driver = Lm75::new(SITE, I2cChip::Tmp105);
        let now = Instant::default();
        driver.step(now, &Completion::Begin);
        assert_eq!(
            driver.step(now, &brought(&[0x00])),
            Step::Transfer(SITE.write(&[CONFIGURATION, 0x60]))
        );
        driver.step(now, &brought(&[]));
        let Step::Fault(fault) = driver.step(now, &brought(&[0x00])) else {
            panic!("no fault");
        };
        assert_eq!(
            fault.to_string(),
            "bad_answer: the configuration reads 0x00 after 0x60 was written, at 0x48 on i2c.1"
        );
    }

    #[test]
    fn a_tmp102_in_order_is_left_as_it_is() {
        let mut driver = Lm75::new(SITE, I2cChip::Tmp102);
        let now = Instant::default();
        assert_eq!(
            driver.step(now, &Completion::Begin),
            Step::Transfer(SITE.read(CONFIGURATION, 2))
        );
        assert_eq!(
            driver.step(now, &brought(&[0x60, 0xA0])),
            Step::Transfer(SITE.read(TEMPERATURE, 2))
        );
    }

    proptest! {
        #[test]
        fn any_answers_end_the_cycle(
            chip in prop_oneof![
                Just(I2cChip::Lm75), Just(I2cChip::Tmp102), Just(I2cChip::Tmp105)
            ],
            answers in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..4)
                        .prop_map(|bytes| Ok(BusReply::Bytes(bytes.into()))),
                    Just(Err(BusError::NoAnswer)),
                ],
                40,
            ),
        ) {
            let mut driver = Lm75::new(SITE, chip);
            let mut answers = answers.into_iter();
            for _ in 0..8 {
                let mut step = driver.step(Instant::default(), &Completion::Begin);
                for _ in 0..5 {
                    let completion = match &step {
                        Step::Transfer(BusOp::I2c { read, .. }) => {
                            prop_assert!(*read <= 2);
                            Completion::Bus(answers.next().expect("enough of them"))
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
        address: 0x48,
    };

    fn brought(bytes: &[u8]) -> Completion {
        Completion::Bus(Ok(BusReply::Bytes(bytes.into())))
    }
}
