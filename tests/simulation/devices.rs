//! The simulation's hardware: an LM75 on an I2C bus, and a scale on a serial port. The relay and the
//! door on GPIO lines have no more to them than their levels, which the world keeps.

use fieldgate::field::bus::{BusError, BusOp, BusOutcome, BusReply};

/// The chip's address.
pub const ADDRESS: u8 = 0x48;

/// An LM75: a pointer register and four registers of two bytes (one for the configuration).
#[derive(Debug)]
pub struct Lm75 {
    /// In steps of 0.5 °C.
    pub half_degrees: i16,
    pointer: u8,
    configuration: u8,
    /// Unplugged: nothing acknowledges.
    pub absent: bool,
}

impl Lm75 {
    pub fn new() -> Self {
        Self {
            half_degrees: 42,
            pointer: 0,
            configuration: 0,
            absent: false,
        }
    }

    /// What the gateway should publish.
    pub fn celsius(&self) -> f64 {
        f64::from(self.half_degrees) / 2.0
    }

    pub fn transfer(&mut self, op: &BusOp) -> BusOutcome {
        let BusOp::I2c {
            address,
            write,
            read,
        } = op
        else {
            return Err(BusError::Failed(95));
        };
        if self.absent || *address != ADDRESS {
            return Err(BusError::NoAnswer);
        }
        if let Some((pointer, values)) = write.split_first() {
            self.pointer = pointer & 3;
            if let (1, Some(value)) = (self.pointer, values.first()) {
                self.configuration = *value;
            }
        }
        let temperature = (self.half_degrees << 7).to_be_bytes();
        let register: &[u8] = match self.pointer {
            0 => &temperature,
            1 => &[self.configuration],
            2 => &[75, 0],
            _ => &[80, 0],
        };
        let bytes = register
            .iter()
            .copied()
            .cycle()
            .take(usize::from(*read))
            .collect();
        Ok(BusReply::Bytes(bytes))
    }
}

/// A scale on a serial port, which says its weight in lines.
#[derive(Debug)]
pub struct Scale {
    pub grams: u64,
    /// Of lines that have not gone out whole.
    pub unsent: Vec<u8>,
}

impl Scale {
    pub fn new() -> Self {
        Self {
            grams: 1250,
            unsent: Vec::new(),
        }
    }

    pub fn speak(&mut self) {
        let line = format!("ST,GS,{}g\r\n", self.grams);
        self.unsent.extend_from_slice(line.as_bytes());
    }
}
