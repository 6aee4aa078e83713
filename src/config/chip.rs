//! Chips on I2C: at which addresses each can be, and at which it usually is.

use core::ops::RangeInclusive;

use super::bus::{Buses, TRANSFER_TIMEOUT};
use super::diagnostic::shown;
use super::read::{Cx, Section};
use super::tree::{Entry, Value};
use super::wiring::Wiring;
use crate::field::settings::{Driver, I2cChip, I2cSettings};

/// The addresses that a chip's address pins can select; the first is the usual one.
fn addresses(chip: I2cChip) -> RangeInclusive<u8> {
    match chip {
        // Three address pins, 1001 A2 A1 A0. The TMP105 comes with fewer of them; its range is the
        // family's.
        I2cChip::Lm75 | I2cChip::Tmp105 => 0x48..=0x4F,
        // One pin with four levels: GND, V+, SDA, SCL.
        I2cChip::Tmp102 => 0x48..=0x4B,
        // One pin: SDO.
        I2cChip::Bme280 | I2cChip::Bmp280 => 0x76..=0x77,
    }
}

/// `bus` and `address`. Where one of them is wrong, which has been reported, a default stands in,
/// so that the settings of its points are judged too.
pub(super) fn read(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    chip: I2cChip,
    buses: &mut Buses,
    wiring: &mut Wiring,
) -> Driver {
    let address = match section.get(cx, "address") {
        Some(entry) => address(cx, entry, chip).map(|address| (address, entry.key)),
        None => Some((*addresses(chip).start(), section.span)),
    };
    let mut settings = I2cSettings {
        bus: 0,
        address: *addresses(chip).start(),
        transfer_timeout: TRANSFER_TIMEOUT,
        chip,
    };
    if let Some(entry) = section.get(cx, "bus") {
        if let (Some((bus, timeout)), Some((address, span))) = (buses.i2c(cx, entry), address) {
            wiring.i2c(bus, entry.key);
            wiring.address(bus, address, &section.path, span);
            (settings.bus, settings.address) = (bus, address);
            settings.transfer_timeout = timeout;
        }
    } else {
        let help = "for example `bus = \"i2c.1\"`: the header's SDA1 and SCL1";
        section.missing(cx, "bus", help);
    }
    Driver::I2c(settings)
}

fn address(cx: &mut Cx<'_>, entry: &Entry, chip: I2cChip) -> Option<u8> {
    let allowed = addresses(chip);
    let (first, last) = (allowed.start(), allowed.end());
    if let Value::Text(text) = &entry.node.value {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let number = u8::from_str_radix(digits, 16).unwrap_or(*first);
        let title = format!("an address is a number, not {}", shown(text));
        let help = format!("without quotes: `address = {number:#04x}`");
        cx.error(entry.node.span, title, "", help);
        return None;
    }
    let found = match entry.node.value {
        Value::Integer(number) => number.and_then(|number| u8::try_from(number).ok()),
        _ => None,
    };
    if let Some(address) = found.filter(|address| allowed.contains(address)) {
        return Some(address);
    }
    // 76 is what one writes who leaves the 0x out.
    let hex = found.and_then(|address| u8::from_str_radix(&address.to_string(), 16).ok());
    let label = match hex.filter(|address| allowed.contains(address)) {
        Some(address) => format!("did you mean {address:#04x}?"),
        None => String::new(),
    };
    cx.error(
        entry.node.span,
        "this chip cannot have that address",
        label,
        format!("its address pins select {first:#04x} to {last:#04x}"),
    );
    None
}
