//! `fieldgate scan`: what is connected to this machine, as text or as JSON.

use lexopt::Parser;

use crate::host::scan::{GpioChip, Inventory, scan};

use super::{Argument, Failure, Globals, code, help, other_argument, output};

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    while let Some(argument) = Argument::next(&mut parser)? {
        if let Some(code) = other_argument(argument, &mut parser, &mut globals, help::SCAN)? {
            return Ok(code);
        }
    }
    let inventory = scan();
    if globals.json {
        let value = serde_json::to_value(&inventory)
            .map_err(|error| Failure::failed("cannot write this as JSON").because(error))?;
        return output::print_json(&value);
    }
    output::print(&render(&inventory))?;
    for problem in &inventory.problems {
        output::complain(problem);
    }
    Ok(code::DONE)
}

fn render(found: &Inventory) -> String {
    let mut text = String::new();
    let mut section = |title: &str, rows: Vec<Vec<String>>| {
        text.push_str(title);
        text.push('\n');
        if rows.is_empty() {
            text.push_str("  none\n");
        }
        text.push_str(&output::columns(&rows, "  "));
        text.push('\n');
    };
    let board = found.board.iter().map(|board| {
        let known = board.raspberry_pi.clone().unwrap_or_default();
        vec![board.model.clone(), known]
    });
    section("Board", board.collect());
    if found.gpio.is_empty() {
        section("GPIO chips", Vec::new());
    }
    for chip in &found.gpio {
        let title = format!("GPIO chip {} [{}]", chip.path.display(), chip.label);
        section(&title, lines(chip));
    }
    let i2c = found.i2c.iter().flat_map(|bus| {
        let head = vec![format!("i2c.{}", bus.number), bus.name.clone()];
        let devices = bus.devices.iter().map(|device| {
            let driver = used_by(device.driver.as_ref());
            vec![
                format!("  0x{:02x}", device.address),
                device.name.clone(),
                driver,
            ]
        });
        std::iter::once(head).chain(devices)
    });
    section("I2C buses", i2c.collect());
    let onewire = found.onewire.iter().map(|device| {
        let family = device.family.unwrap_or("unknown family");
        vec![device.id.clone(), family.to_owned()]
    });
    section("1-Wire", onewire.collect());
    let spi = found.spi.iter().map(|device| {
        let driver = used_by(device.driver.as_ref());
        vec![device.name.clone(), device.modalias.clone(), driver]
    });
    section("SPI", spi.collect());
    let serial = found.serial.iter().flat_map(|port| {
        let driver = port.driver.clone().unwrap_or_default();
        let product = port.product.clone().unwrap_or_default();
        let head = vec![port.path.display().to_string(), driver, product];
        let links = port
            .links
            .iter()
            .map(|link| vec![format!("  {}", link.display())]);
        std::iter::once(head).chain(links).collect::<Vec<_>>()
    });
    section("Serial ports", serial.collect());
    let iio = found.iio.iter().map(|device| {
        let path = device.path.display().to_string();
        vec![path, device.name.clone(), device.channels.join(" ")]
    });
    section("IIO", iio.collect());
    let hwmon = found.hwmon.iter().flat_map(|monitor| {
        monitor.channels.iter().map(|channel| {
            let value = channel.value.map_or_else(String::new, |value| {
                format!("{value} {}", channel.unit).trim_end().to_owned()
            });
            vec![
                format!("{}/{}", monitor.path.display(), channel.file),
                monitor.name.clone(),
                channel.label.clone().unwrap_or_default(),
                value,
            ]
        })
    });
    section("Hardware monitors", hwmon.collect());
    text.pop();
    text
}

/// Lines that have a name or a user. Chips with hundreds of nameless ones are summed up.
fn lines(chip: &GpioChip) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for line in &chip.lines {
        if line.name.is_empty() && line.consumer.is_none() {
            continue;
        }
        let user = match line.consumer.as_deref() {
            None => "free".to_owned(),
            Some("") => "used".to_owned(),
            Some(consumer) => format!("used by {consumer}"),
        };
        let offset = format!("line {}", line.offset);
        rows.push(vec![
            offset,
            line.name.clone(),
            line.direction.to_owned(),
            user,
        ]);
    }
    let rest = chip.lines.len() - rows.len();
    if rest > 0 {
        rows.push(vec![
            "others".to_owned(),
            format!("{rest} without a name, free"),
        ]);
    }
    rows
}

fn used_by(driver: Option<&String>) -> String {
    driver.map_or_else(
        || "no driver".to_owned(),
        |driver| format!("driver {driver}"),
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::host::scan::{Board, GpioLine, I2cBus, I2cDevice, SerialPort};

    #[test]
    fn an_inventory_reads_as_sections() {
        let line = |offset, name: &str, consumer: Option<&str>| GpioLine {
            offset,
            name: name.to_owned(),
            consumer: consumer.map(ToOwned::to_owned),
            direction: "in",
        };
        let found = Inventory {
            board: Some(Board {
                model: "Raspberry Pi 3 Model B".to_owned(),
                raspberry_pi: None,
            }),
            gpio: vec![GpioChip {
                path: "/dev/gpiochip0".into(),
                label: "pinctrl-bcm2835".to_owned(),
                lines: vec![
                    line(0, "ID_SDA", None),
                    line(1, "", None),
                    line(17, "GPIO17", Some("fieldgate")),
                ],
            }],
            i2c: vec![I2cBus {
                number: 1,
                name: "bcm2835 (i2c@7e804000)".to_owned(),
                devices: vec![I2cDevice {
                    address: 0x68,
                    name: "ds3231".to_owned(),
                    driver: Some("rtc-ds1307".to_owned()),
                }],
            }],
            serial: vec![SerialPort {
                path: "/dev/ttyUSB0".into(),
                links: vec![PathBuf::from("/dev/serial/by-id/usb-FTDI-if00-port0")],
                driver: Some("ftdi_sio".to_owned()),
                product: Some("FTDI FT232R USB UART".to_owned()),
            }],
            ..Inventory::default()
        };
        insta::assert_snapshot!(render(&found), @r"
        Board
          Raspberry Pi 3 Model B

        GPIO chip /dev/gpiochip0 [pinctrl-bcm2835]
          line 0   ID_SDA                  in  free
          line 17  GPIO17                  in  used by fieldgate
          others   1 without a name, free

        I2C buses
          i2c.1   bcm2835 (i2c@7e804000)
            0x68  ds3231                  driver rtc-ds1307

        1-Wire
          none

        SPI
          none

        Serial ports
          /dev/ttyUSB0                             ftdi_sio  FTDI FT232R USB UART
            /dev/serial/by-id/usb-FTDI-if00-port0

        IIO
          none

        Hardware monitors
          none
        ");
    }
}
