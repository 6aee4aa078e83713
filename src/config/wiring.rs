//! What one wire, address or port is used for, across devices: each for one thing.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Span};
use super::header;
use super::read::Cx;
use crate::field::line::{Chip, LineRef};

/// Who uses something, as a dotted path, and where that is written.
type User = (String, Span);

/// Everything that the devices seen so far are wired to.
#[derive(Debug, Default)]
pub(super) struct Wiring {
    addresses: BTreeMap<(u8, u8), User>,
    lines: BTreeMap<(Chip, LineRef), User>,
    /// I2C adapters in use, and where a device first names them.
    i2c: BTreeMap<u8, Span>,
    /// Serial ports in use, by path.
    serial: BTreeMap<Box<str>, Span>,
    clashes: Vec<Diagnostic>,
}

impl Wiring {
    pub(super) fn i2c(&mut self, bus: u8, span: Span) {
        self.i2c.entry(bus).or_insert(span);
    }

    pub(super) fn serial(&mut self, path: &str, span: Span) {
        self.serial.entry(path.into()).or_insert(span);
    }

    pub(super) fn address(&mut self, bus: u8, address: u8, path: &str, span: Span) {
        let user = (path.to_owned(), span);
        if let Some(other) = self.addresses.insert((bus, address), user.clone()) {
            self.clashes
                .push(two_addresses(bus, address, &other, &user));
        }
    }

    pub(super) fn line(&mut self, chip: &Chip, line: &LineRef, path: &str, span: Span) {
        let user = (path.to_owned(), span);
        if let Some(other) = self
            .lines
            .insert((chip.clone(), line.clone()), user.clone())
        {
            self.clashes.push(two_lines(line, &other, &user));
        }
    }

    /// Takes another device's wiring in.
    pub(super) fn merge(&mut self, cx: &mut Cx<'_>, other: Self) {
        for (bus, span) in other.i2c {
            self.i2c(bus, span);
        }
        for (path, span) in other.serial {
            self.serial(&path, span);
        }
        for ((bus, address), (path, span)) in other.addresses {
            self.address(bus, address, &path, span);
        }
        for ((chip, line), (path, span)) in other.lines {
            self.line(&chip, &line, &path, span);
        }
        for clash in other.clashes {
            cx.push(clash);
        }
    }

    /// Reports what is used twice.
    pub(super) fn check(&mut self, cx: &mut Cx<'_>) {
        for clash in self.clashes.drain(..) {
            cx.push(clash);
        }
        for ((chip, line), user) in &self.lines {
            let (Chip::Header, LineRef::Offset(line)) = (chip, line) else {
                continue;
            };
            for (bus, span) in &self.i2c {
                if let Some(role) = header::i2c_role(*bus, *line) {
                    cx.push(
                        Diagnostic::error(format!("line {line} is {role} of i2c.{bus}"))
                            .at(user.1, format!("used as GPIO{}", at_pin(*line)))
                            .also(*span, "used as a bus")
                            .help("a wire is one of the two: move the GPIO to another line"),
                    );
                }
            }
            for (path, span) in &self.serial {
                if let Some(role) = header::serial_role(path, *line) {
                    cx.push(
                        Diagnostic::warning(format!("line {line} is usually {role} of {path}"))
                            .at(user.1, format!("used as GPIO{}", at_pin(*line)))
                            .also(*span, "used as a serial port")
                            .help(
                                "unless that port is routed elsewhere, move the GPIO to another \
                                line",
                            ),
                    );
                }
            }
        }
    }
}

fn at_pin(line: u32) -> String {
    header::pin_of(line).map_or(String::new(), |pin| format!(" at pin {pin}"))
}

fn two_addresses(bus: u8, address: u8, first: &User, second: &User) -> Diagnostic {
    Diagnostic::error(format!(
        "`{}` and `{}` have one address on i2c.{bus}",
        first.0, second.0
    ))
    .at(second.1, format!("{address:#04x} here"))
    .also(first.1, format!("{address:#04x} here too"))
    .help("give each its own `address`, as its address pins are wired, or another bus")
}

fn two_lines(line: &LineRef, first: &User, second: &User) -> Diagnostic {
    let what = match line {
        LineRef::Offset(offset) => format!("line {offset}"),
        LineRef::Name(name) => format!("line {name}"),
        LineRef::Pin(pin) => format!("pin {pin}"),
    };
    Diagnostic::error(format!("{what} is used twice"))
        .at(second.1, format!("by `{}`", second.0))
        .also(first.1, format!("and by `{}`", first.0))
        .help("the kernel gives a line to one user only")
}
