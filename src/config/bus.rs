//! `[i2c.N]`, `[gpio.NAME]` and `[serial.NAME]`: what devices are wired to, and how a device names
//! it.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Diagnostic, Span, shown};
use super::later;
use super::names;
use super::place::{self, Place};
use super::read::{Cx, Section, Times, declared, times};
use super::tree::{Entry, Value};
use crate::field::line::Chip;
use crate::field::port::{Parity, PortSettings};
use crate::time::Duration;

/// The kernel's limit for one I2C transfer when the file gives none: a stuck bus then costs the
/// others 50 ms.
pub(super) const TRANSFER_TIMEOUT: Duration = Duration::from_millis(50);

/// `I2C_TIMEOUT` counts in steps of 10 ms.
const TRANSFER_TIMEOUTS: Times = times(
    "ms",
    Duration::from_millis(10),
    Duration::from_secs(10),
    "50ms",
);

/// What most instruments are set to when they leave the factory.
pub(super) const BAUD: u32 = 9600;

/// Buses of one family at most.
const BUSES_MAX: usize = 256;

/// The name of the header's chip, which is there without a table.
pub(super) const HEADER: &str = "header";

/// What was declared. `None` as a value: declared, and wrong; who refers to it is not told again.
#[derive(Debug, Default)]
pub(super) struct Buses {
    pub(super) i2c: BTreeMap<u8, (Span, Option<Duration>)>,
    pub(super) gpio: BTreeMap<Box<str>, (Span, Option<Chip>)>,
    pub(super) serial: BTreeMap<Box<str>, (Span, Option<PortSettings>)>,
    /// Who is referred to: `serial.scale`.
    used: BTreeSet<String>,
}

/// Families of buses, as `bus = "FAMILY.NAME"` says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    I2c,
    Gpio,
    Serial,
}

impl Family {
    const ALL: [(&str, Self); 3] = [
        ("i2c", Self::I2c),
        ("gpio", Self::Gpio),
        ("serial", Self::Serial),
    ];

    const fn example(self) -> &'static str {
        match self {
            Self::I2c => "i2c.1",
            Self::Gpio => "gpio.header",
            Self::Serial => "serial.NAME",
        }
    }
}

impl Buses {
    pub(super) fn read(cx: &mut Cx<'_>, root: &Section<'_>) -> Self {
        let mut buses = Self::default();
        for entry in declarations(cx, root, "i2c", "[i2c.N]", is_number) {
            let timeout = Section::open(cx, Place::I2c, format!("i2c.{}", entry.name), entry)
                .and_then(|section| transfer_timeout(cx, &section));
            let number = entry.name.parse().expect("is_number has seen it");
            buses.i2c.insert(number, (entry.key, timeout));
        }
        for entry in declarations(cx, root, "gpio", "[gpio.NAME]", names::is_name) {
            let chip = Section::open(cx, Place::Gpio, format!("gpio.{}", entry.name), entry)
                .and_then(|section| chip(cx, &section, &entry.name));
            buses
                .gpio
                .insert(entry.name.as_str().into(), (entry.key, chip));
        }
        for entry in declarations(cx, root, "serial", "[serial.NAME]", names::is_name) {
            let port = Section::open(cx, Place::Serial, format!("serial.{}", entry.name), entry)
                .and_then(|section| port(cx, &section));
            if let Some(port) = &port {
                buses.same_path(cx, entry, port);
            }
            buses
                .serial
                .insert(entry.name.as_str().into(), (entry.key, port));
        }
        buses
    }

    fn same_path(&self, cx: &mut Cx<'_>, entry: &Entry, port: &PortSettings) {
        for (name, (span, other)) in &self.serial {
            if other.as_ref().is_some_and(|other| other.path == port.path) {
                cx.push(
                    Diagnostic::error(format!(
                        "`serial.{name}` and `serial.{}` are one port",
                        entry.name
                    ))
                    .at(entry.key, shown(&port.path))
                    .also(*span, "the same path")
                    .help("declare it once; several devices may name it as their `bus`"),
                );
            }
        }
    }

    /// The adapter that a chip's `bus` names, and the limit for its transfers.
    pub(super) fn i2c(&mut self, cx: &mut Cx<'_>, entry: &Entry) -> Option<(u8, Duration)> {
        let name = self.bus(cx, entry, Family::I2c)?;
        if !is_number(&name) {
            let title = format!("{} is not an I2C adapter", shown(&format!("i2c.{name}")));
            let help = "adapters are numbered: `/dev/i2c-1` is \"i2c.1\"";
            cx.error(entry.node.span, title, "", help);
            return None;
        }
        let number = name.parse().expect("is_number has seen it");
        match self.i2c.get(&number) {
            Some((_, timeout)) => Some((number, timeout.unwrap_or(TRANSFER_TIMEOUT))),
            None => Some((number, TRANSFER_TIMEOUT)),
        }
    }

    /// The chip that a GPIO device's `bus` names.
    pub(super) fn gpio(&mut self, cx: &mut Cx<'_>, entry: &Entry) -> Option<Chip> {
        let name = self.bus(cx, entry, Family::Gpio)?;
        if let Some((_, chip)) = self.gpio.get(name.as_str()) {
            return chip.clone();
        }
        if name == HEADER {
            return Some(Chip::Header);
        }
        let known = self.gpio.keys().map(|name| &**name).chain([HEADER]);
        undeclared(cx, entry, "gpio", &name, known, "chip = \"pinctrl-rp1\"");
        None
    }

    /// The port that a device's `bus` names.
    pub(super) fn serial(
        &mut self,
        cx: &mut Cx<'_>,
        entry: &Entry,
    ) -> Option<(Box<str>, PortSettings)> {
        let name = self.bus(cx, entry, Family::Serial)?;
        if let Some((_, port)) = self.serial.get(name.as_str()) {
            return port.clone().map(|port| (name.as_str().into(), port));
        }
        let known = self.serial.keys().map(|name| &**name);
        undeclared(
            cx,
            entry,
            "serial",
            &name,
            known,
            "path = \"/dev/serial/by-id/…\"",
        );
        None
    }

    /// The name behind `FAMILY.`, if the family is the wanted one.
    fn bus(&mut self, cx: &mut Cx<'_>, entry: &Entry, wanted: Family) -> Option<String> {
        let example = wanted.example();
        let text = cx.text(entry, &format!("\"{example}\""))?;
        if let Some(what) = later::bus(text) {
            cx.push(later::refusal(&what, entry.node.span));
            return None;
        }
        let family = text.split_once('.').and_then(|(family, name)| {
            let (_, family) = Family::ALL.iter().find(|(word, _)| *word == family)?;
            Some((*family, name))
        });
        match family {
            Some((family, name)) if family == wanted => {
                self.used.insert(text.to_owned());
                Some(name.to_owned())
            }
            _ => {
                let number = text
                    .strip_prefix("/dev/i2c-")
                    .or_else(|| text.strip_prefix("i2c-"))
                    .or_else(|| text.strip_prefix("i2c"))
                    .unwrap_or(text);
                let help = if wanted == Family::I2c && is_number(number) {
                    format!("write \"i2c.{number}\"")
                } else if wanted == Family::Serial {
                    String::from("declare the port as [serial.NAME] and write \"serial.NAME\"")
                } else {
                    format!("for example `bus = \"{example}\"`")
                };
                let what = match wanted {
                    Family::I2c => "an I2C bus",
                    Family::Gpio => "a GPIO chip",
                    Family::Serial => "a serial port",
                };
                let title = format!("{} does not name {what}", shown(text));
                cx.error(entry.node.span, title, "", help);
                None
            }
        }
    }

    /// Warns of what was declared for nobody.
    pub(super) fn warn_unused(&self, cx: &mut Cx<'_>) {
        let i2c = self
            .i2c
            .iter()
            .map(|(n, (span, _))| (format!("i2c.{n}"), *span));
        let gpio = self
            .gpio
            .iter()
            .map(|(n, (span, _))| (format!("gpio.{n}"), *span));
        let serial = self
            .serial
            .iter()
            .map(|(n, (span, _))| (format!("serial.{n}"), *span));
        let unused: Vec<_> = i2c
            .chain(gpio)
            .chain(serial)
            .filter(|(name, _)| !self.used.contains(name))
            .collect();
        for (name, span) in unused {
            cx.push(
                Diagnostic::warning(format!("no device is on `{name}`"))
                    .at(span, "")
                    .help(format!("a device names it: `bus = \"{name}\"`")),
            );
        }
    }
}

/// The tables of a family, of which there are not too many.
fn declarations<'t>(
    cx: &mut Cx<'_>,
    root: &Section<'t>,
    family: &'static str,
    header: &str,
    is_name: fn(&str) -> bool,
) -> Vec<&'t Entry> {
    let mut entries = cx.named(root.table(), family, header, is_name);
    if let Some(entry) = entries.get(BUSES_MAX) {
        let title = format!("more than {BUSES_MAX} tables `{header}`");
        cx.error(entry.key, title, "", "take out those that no device uses");
        entries.truncate(BUSES_MAX);
    }
    entries
}

fn undeclared<'a>(
    cx: &mut Cx<'_>,
    entry: &Entry,
    family: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    example: &str,
) {
    let label = match place::nearest(name, known.clone()) {
        Some(near) => format!("did you mean \"{family}.{near}\"?"),
        None => String::from("declared nowhere"),
    };
    let there = match declared(
        known
            .map(|name| format!("{family}.{name}"))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str),
    ) {
        Some(names) => format!("; declared are {names}"),
        None => String::new(),
    };
    let table = if names::is_name(name) { name } else { "NAME" };
    cx.error(
        entry.node.span,
        format!("there is no {}", shown(&format!("{family}.{name}"))),
        label,
        format!("declare it: a table `[{family}.{table}]` with `{example}`{there}"),
    );
}

/// The number of an adapter, as it is written in `/dev`.
fn is_number(text: &str) -> bool {
    text.parse::<u8>()
        .is_ok_and(|number| number.to_string() == text)
}

fn transfer_timeout(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<Duration> {
    let entry = section.get(cx, "transfer_timeout")?;
    let timeout = cx.duration(entry, &TRANSFER_TIMEOUTS)?;
    if timeout.as_nanos() % 10_000_000 == 0 {
        return Some(timeout);
    }
    let rounded = timeout.as_millis().div_ceil(10) * 10;
    cx.error(
        entry.node.span,
        "`transfer_timeout` goes in steps of 10 ms",
        "",
        format!("the kernel counts so; write \"{rounded}ms\""),
    );
    None
}

fn chip(cx: &mut Cx<'_>, section: &Section<'_>, name: &str) -> Option<Chip> {
    let Some(entry) = section.get(cx, "chip") else {
        if name == HEADER {
            return Some(Chip::Header);
        }
        let help =
            "its label as `gpiodetect` shows it in brackets, `chip = \"pinctrl-rp1\"`, or a path";
        section.missing(cx, "chip", help);
        return None;
    };
    let text = cx.text(entry, "\"pinctrl-rp1\"")?;
    if text.contains('/') {
        let path = cx.resolve(text, entry.node.span, "chip", "\"/dev/gpiochip0\"")?;
        return Some(Chip::Path(path));
    }
    let is_device = text
        .strip_prefix("gpiochip")
        .is_some_and(|number| number.parse::<u32>().is_ok());
    if is_device || text.is_empty() || text.chars().any(char::is_control) {
        let help = if is_device {
            format!("write the path: \"/dev/{text}\"")
        } else {
            String::from("for example `chip = \"pinctrl-rp1\"`")
        };
        let title = format!("{} is not a chip's label", shown(text));
        cx.error(entry.node.span, title, "", help);
        return None;
    }
    Some(Chip::Label(text.into()))
}

fn port(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<PortSettings> {
    let baud = section
        .get(cx, "baud")
        .map(|entry| cx.whole(entry, 50..=4_000_000));
    let format = section.get(cx, "format").map(|entry| format(cx, entry));
    if let Some(entry) = section.get(cx, "rs485") {
        cx.choice(entry, &[("adapter", ())]);
    }
    let Some(entry) = section.get(cx, "path") else {
        let help =
            "`fieldgate scan` lists the ports; for example `path = \"/dev/serial/by-id/usb-…\"`";
        section.missing(cx, "path", help);
        return None;
    };
    let path = cx.path(entry, "\"/dev/serial/by-id/usb-…\"")?;
    if ["/dev/ttyUSB", "/dev/ttyACM"]
        .iter()
        .any(|moving| path.starts_with(moving))
    {
        cx.push(
            Diagnostic::warning(format!("{} may be another adapter tomorrow", shown(&path)))
                .at(entry.node.span, "numbered in the order of plugging in")
                .help(
                    "name it as /dev/serial/by-id or /dev/serial/by-path does; `fieldgate scan` \
                    lists them",
                ),
        );
    }
    let (data_bits, parity, stop_bits) = format.unwrap_or(Some((8, Parity::None, 1)))?;
    Some(PortSettings {
        path,
        baud: baud.unwrap_or(Some(u64::from(BAUD)))? as u32,
        data_bits,
        parity,
        stop_bits,
    })
}

/// A port for a device whose own could not be read, which has been reported.
pub(super) fn stand_in() -> PortSettings {
    PortSettings {
        path: "".into(),
        baud: BAUD,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
    }
}

/// `8N1`
fn format(cx: &mut Cx<'_>, entry: &Entry) -> Option<(u8, Parity, u8)> {
    let text = match &entry.node.value {
        Value::Text(text) => text.as_str(),
        _ => "",
    };
    if let [data @ b'5'..=b'8', parity, stop @ b'1'..=b'2'] = text.as_bytes() {
        let parity = match parity {
            b'N' => Some(Parity::None),
            b'E' => Some(Parity::Even),
            b'O' => Some(Parity::Odd),
            _ => None,
        };
        if let Some(parity) = parity {
            return Some((data - b'0', parity, stop - b'0'));
        }
    }
    let help = match text.to_ascii_uppercase() {
        upper if ["8N1", "7E1", "8E1", "7O1", "8O1", "8N2"].contains(&upper.as_str()) => {
            format!("write \"{upper}\"")
        }
        _ => String::from("for example `format = \"8N1\"`"),
    };
    cx.error(
        entry.node.span,
        "`format` is data bits, parity and stop bits",
        "5 to 8; N, E or O; 1 or 2",
        help,
    );
    None
}
