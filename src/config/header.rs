//! The 40-pin header of a Raspberry Pi: which pin is which line, and which lines other hardware
//! wants.
//!
//! Source: the Raspberry Pi documentation, "GPIO and the 40-pin header"; the same on every board
//! that has 40 pins.

/// What a pin of the header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pin {
    /// A line: its BCM number, which is its offset on the header's chip.
    Line(u32),
    /// Supply or ground: what it carries.
    Power(&'static str),
}

/// Pins 1 to 40.
const PINS: [Pin; 40] = [
    Pin::Power("3.3 V"),
    Pin::Power("5 V"),
    Pin::Line(2),
    Pin::Power("5 V"),
    Pin::Line(3),
    Pin::Power("ground"),
    Pin::Line(4),
    Pin::Line(14),
    Pin::Power("ground"),
    Pin::Line(15),
    Pin::Line(17),
    Pin::Line(18),
    Pin::Line(27),
    Pin::Power("ground"),
    Pin::Line(22),
    Pin::Line(23),
    Pin::Power("3.3 V"),
    Pin::Line(24),
    Pin::Line(10),
    Pin::Power("ground"),
    Pin::Line(9),
    Pin::Line(25),
    Pin::Line(11),
    Pin::Line(8),
    Pin::Power("ground"),
    Pin::Line(7),
    Pin::Line(0),
    Pin::Line(1),
    Pin::Line(5),
    Pin::Power("ground"),
    Pin::Line(6),
    Pin::Line(12),
    Pin::Line(13),
    Pin::Power("ground"),
    Pin::Line(19),
    Pin::Line(16),
    Pin::Line(26),
    Pin::Line(20),
    Pin::Power("ground"),
    Pin::Line(21),
];

/// The highest line that is on the header.
pub(super) const LINE_MAX: u32 = 27;

/// What pin `number` (1 to 40) is.
pub(super) fn pin(number: u32) -> Option<Pin> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    PINS.get(index).copied()
}

/// The pin at which a line is, 1 to 40.
pub(super) fn pin_of(line: u32) -> Option<usize> {
    PINS.iter()
        .position(|pin| *pin == Pin::Line(line))
        .map(|index| index + 1)
}

/// The line that the device tree calls so on boards where its name is not `GPIO` and its number.
pub(super) fn line_named(name: &str) -> Option<u32> {
    if let Some(number) = name.strip_prefix("GPIO") {
        return number
            .parse()
            .ok()
            .filter(|line| *line <= LINE_MAX && !number.starts_with('+'));
    }
    Some(match name {
        "ID_SD" | "ID_SDA" => 0,
        "ID_SC" | "ID_SCL" => 1,
        "SDA1" => 2,
        "SCL1" => 3,
        "SPI_CE1_N" => 7,
        "SPI_CE0_N" => 8,
        "SPI_MISO" => 9,
        "SPI_MOSI" => 10,
        "SPI_SCLK" => 11,
        "TXD0" | "TXD1" => 14,
        "RXD0" | "RXD1" => 15,
        _ => return None,
    })
}

/// What I2C bus `number` uses a line of the header for.
pub(super) fn i2c_role(number: u8, line: u32) -> Option<&'static str> {
    match (number, line) {
        (0, 0) => Some("SDA0"),
        (0, 1) => Some("SCL0"),
        (1, 2) => Some("SDA1"),
        (1, 3) => Some("SCL1"),
        _ => None,
    }
}

/// What the header's serial port uses a line for.
pub(super) fn serial_role(path: &str, line: u32) -> Option<&'static str> {
    let is_header_port = ["/dev/serial0", "/dev/ttyAMA0", "/dev/ttyS0"].contains(&path);
    match line {
        14 if is_header_port => Some("TXD"),
        15 if is_header_port => Some("RXD"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_line_of_the_header_is_at_exactly_one_pin() {
        let lines: BTreeSet<u32> = PINS
            .iter()
            .filter_map(|pin| match pin {
                Pin::Line(line) => Some(*line),
                Pin::Power(_) => None,
            })
            .collect();
        assert_eq!(lines, (0..=LINE_MAX).collect());
        assert_eq!(
            PINS.len() - lines.len(),
            12,
            "eight ground, two each of the supplies"
        );
    }

    #[test]
    fn well_known_pins() {
        assert_eq!(pin(11), Some(Pin::Line(17)));
        assert_eq!(pin(3), Some(Pin::Line(2)));
        assert_eq!(pin(6), Some(Pin::Power("ground")));
        assert_eq!(pin(0), None);
        assert_eq!(pin(41), None);
        assert_eq!(pin_of(17), Some(11));
        assert_eq!(line_named("GPIO17"), Some(17));
        assert_eq!(line_named("GPIO+7"), None);
        assert_eq!(line_named("GPIO28"), None);
        assert_eq!(line_named("SDA1"), Some(2));
    }
}
