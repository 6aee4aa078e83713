//! Fake I2C chips, made of registers as the datasheets describe them.

use fieldgate::time::{Duration, Instant};

/// What answers at an address.
#[derive(Debug, Clone)]
pub enum Chip {
    /// LM75, TMP102, TMP105: they differ in how many bytes their configuration has.
    Thermometer(Thermometer),
    /// BME280, BMP280.
    Weather(Box<Weather>),
}

impl Chip {
    /// Writes, then reads. `None`: it does not acknowledge.
    pub fn transfer(&mut self, now: Instant, write: &[u8], read: usize) -> Vec<u8> {
        match self {
            Self::Thermometer(chip) => chip.transfer(write, read),
            Self::Weather(chip) => chip.transfer(now, write, read),
        }
    }
}

/// A thermometer with a pointer register, a temperature and a configuration.
#[derive(Debug, Clone)]
pub struct Thermometer {
    /// As the register reads at full resolution.
    pub temperature: u16,
    pub configuration: Vec<u8>,
    /// A TMP105 masks the bits that its configuration does not ask for.
    pub has_resolution: bool,
    pointer: u8,
}

impl Thermometer {
    pub fn lm75(temperature: u16) -> Self {
        Self {
            temperature,
            configuration: vec![0x00],
            has_resolution: false,
            pointer: 0,
        }
    }

    pub fn tmp102(temperature: u16) -> Self {
        Self {
            configuration: vec![0x60, 0xA0],
            ..Self::lm75(temperature)
        }
    }

    pub fn tmp105(temperature: u16) -> Self {
        Self {
            has_resolution: true,
            ..Self::lm75(temperature)
        }
    }

    fn transfer(&mut self, write: &[u8], read: usize) -> Vec<u8> {
        if let [pointer, data @ ..] = write {
            self.pointer = *pointer;
            if *pointer == 1 {
                for (byte, value) in self.configuration.iter_mut().zip(data) {
                    *byte = *value;
                }
            }
        }
        let register = if self.pointer == 0 {
            let bits = if self.has_resolution {
                9 + (self.configuration[0] >> 5 & 3)
            } else {
                16
            };
            let mask = u16::MAX << (16 - bits);
            (self.temperature & mask).to_be_bytes().to_vec()
        } else {
            self.configuration.clone()
        };
        register.into_iter().cycle().take(read).collect()
    }
}

/// A BME280 or BMP280.
#[derive(Debug, Clone)]
pub struct Weather {
    pub registers: [u8; 256],
    /// What the next measurement will find: temperature, pressure, humidity.
    pub raw: (u32, u32, u32),
    /// How long a measurement takes. The real one is done after 9.3 ms at most.
    pub takes: Duration,
    /// When the running measurement is done.
    done: Option<Instant>,
    pointer: u8,
}

/// The example of the BMP280's datasheet, with the humidity of an ordinary BME280.
pub const CALIBRATION: [i32; 18] = [
    27_504, 26_435, -1_000, 36_477, -10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000, 75,
    367, 0, 314, 50, 30,
];

impl Weather {
    pub fn bme280() -> Self {
        Self::new(0x60, CALIBRATION)
    }

    pub fn bmp280() -> Self {
        Self::new(0x58, CALIBRATION)
    }

    pub fn new(id: u8, calibration: [i32; 18]) -> Self {
        let mut registers = [0; 256];
        registers[0xD0] = id;
        for (index, word) in calibration[..12].iter().enumerate() {
            let bytes = (*word as u16).to_le_bytes();
            registers[0x88 + 2 * index..][..2].copy_from_slice(&bytes);
        }
        let [h1, h2, h3, h4, h5, h6] = core::array::from_fn(|index| calibration[12 + index]);
        registers[0xA1] = h1 as u8;
        registers[0xE1..=0xE2].copy_from_slice(&(h2 as u16).to_le_bytes());
        registers[0xE3] = h3 as u8;
        registers[0xE4] = (h4 >> 4) as u8;
        registers[0xE5] = (h4 & 0x0F) as u8 | ((h5 & 0x0F) << 4) as u8;
        registers[0xE6] = (h5 >> 4) as u8;
        registers[0xE7] = h6 as u8;
        let mut chip = Self {
            registers,
            raw: (519_888, 415_148, 30_000),
            takes: Duration::from_micros(9_300),
            done: None,
            pointer: 0,
        };
        chip.power_on();
        chip
    }

    /// What a reset, or an interruption of its power, leaves.
    pub fn power_on(&mut self) {
        self.registers[0xF2..=0xF5].fill(0);
        self.set_raw((0x8_0000, 0x8_0000, 0x8000));
        self.done = None;
    }

    fn set_raw(&mut self, (temperature, pressure, humidity): (u32, u32, u32)) {
        for (register, raw) in [(0xF7, pressure), (0xFA, temperature)] {
            self.registers[register..][..3].copy_from_slice(&(raw << 4).to_be_bytes()[1..]);
        }
        self.registers[0xFD..=0xFE].copy_from_slice(&(humidity as u16).to_be_bytes());
    }

    fn transfer(&mut self, now: Instant, write: &[u8], read: usize) -> Vec<u8> {
        if self.done.is_some_and(|done| done <= now) {
            self.done = None;
            self.registers[0xF4] &= !0x03;
            let measures = |register: u8, shift: u8| register >> shift & 7 != 0;
            let (temperature, pressure, humidity) = self.raw;
            self.set_raw((
                if measures(self.registers[0xF4], 5) {
                    temperature
                } else {
                    0x8_0000
                },
                if measures(self.registers[0xF4], 2) {
                    pressure
                } else {
                    0x8_0000
                },
                if measures(self.registers[0xF2], 0) {
                    humidity
                } else {
                    0x8000
                },
            ));
        }
        self.registers[0xF3] = if self.done.is_some() { 0x08 } else { 0 };
        if let [pointer, rest @ ..] = write {
            self.pointer = *pointer;
            let mut pairs = rest.iter().copied();
            let mut register = Some(*pointer);
            while let (Some(at), Some(value)) = (register, pairs.next()) {
                self.write(now, at, value);
                register = pairs.next();
            }
        }
        (0..read)
            .map(|offset| self.registers[usize::from(self.pointer.wrapping_add(offset as u8))])
            .collect()
    }

    fn write(&mut self, now: Instant, register: u8, value: u8) {
        match register {
            0xE0 if value == 0xB6 => self.power_on(),
            0xF2 | 0xF5 => self.registers[usize::from(register)] = value,
            0xF4 => {
                self.registers[0xF4] = value;
                if value & 3 != 0 {
                    self.done = Some(now + self.takes);
                }
            }
            _ => {}
        }
    }
}
