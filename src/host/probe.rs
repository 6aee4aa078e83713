//! Whether what a device needs is there and may be used: for `fieldgate check --hardware`.
//!
//! Nothing is driven and nothing is written to a device. An output's line is looked up, not
//! requested; a serial port is opened without touching its settings; at an I2C address one byte is
//! read, which every chip that we know takes for a look.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gpiocdev::{AbiVersion, Chip as GpioChip};
use nix::libc;
use rppal::i2c::I2c;

use super::gpio::HEADER_LABELS;
use crate::field::line::{Chip, LineRef};
use crate::field::settings::{Driver, GpioKind, GpioSettings, I2cSettings, SystemSettings};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What it is.
    pub what: String,
    /// What was found, or why it cannot be used.
    pub outcome: Result<String, String>,
}

impl Probe {
    fn new(what: impl Into<String>, outcome: Result<String, String>) -> Self {
        Self {
            what: what.into(),
            outcome,
        }
    }

    /// Whether it cannot be used.
    pub fn is_failure(&self) -> bool {
        self.outcome.is_err()
    }
}

/// Looks at everything that a driver needs.
pub fn device(driver: &Driver) -> Vec<Probe> {
    match driver {
        Driver::System(settings) => system(settings),
        Driver::Gpio(settings) => gpio(settings),
        Driver::I2c(settings) => i2c(settings),
        Driver::Lines(settings) => vec![serial(&settings.port.path)],
    }
}

fn system(settings: &SystemSettings) -> Vec<Probe> {
    let mut probes = Vec::new();
    if let Some(path) = &settings.temperature {
        let mut text = String::new();
        let outcome = File::open(&**path)
            .and_then(|file| file.take(64).read_to_string(&mut text))
            .map(|_| format!("says {}", text.trim()))
            .map_err(|error| said(&error));
        probes.push(Probe::new(&**path, outcome));
    }
    let outcome = nix::sys::statvfs::statvfs(Path::new(&*settings.disk))
        .map(|_| "is there".to_owned())
        .map_err(|error| said(&error.into()));
    probes.push(Probe::new(&*settings.disk, outcome));
    probes
}

fn gpio(settings: &GpioSettings) -> Vec<Probe> {
    let chip = match open_chip(&settings.chip) {
        Ok(chip) => chip,
        Err(why) => return vec![Probe::new(chip_name(&settings.chip), Err(why))],
    };
    let path = chip.path().display().to_string();
    settings
        .points
        .iter()
        .map(|(name, point)| {
            let role = match point.kind {
                GpioKind::Output(_) => "output, not driven",
                _ => "input",
            };
            let what = format!("{name}: {} of {path}", line_name(&point.line));
            Probe::new(
                what,
                line(&chip, &point.line).map(|found| format!("{found} ({role})")),
            )
        })
        .collect()
}

fn open_chip(wanted: &Chip) -> Result<GpioChip, String> {
    let open = |path: &Path| {
        // gpiocdev's own errors do not say that it is a matter of permission.
        File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| said(&error))?;
        let mut chip = GpioChip::from_path(path).map_err(|error| error.to_string())?;
        let version = chip.detect_abi_version().unwrap_or(AbiVersion::V1);
        chip.using_abi_version(version);
        Ok(chip)
    };
    if let Chip::Path(path) = wanted {
        return open(Path::new(&**path));
    }
    let paths: Vec<PathBuf> = gpiocdev::chip::chips().map_err(|error| error.to_string())?;
    let mut failed = None;
    for path in &paths {
        match open(path) {
            Ok(chip) => {
                let label = chip.info().map(|info| info.label).unwrap_or_default();
                let right = match wanted {
                    Chip::Header => HEADER_LABELS.contains(&label.as_str()),
                    Chip::Label(name) => label == **name,
                    Chip::Path(_) => false,
                };
                if right {
                    return Ok(chip);
                }
            }
            Err(why) => failed = Some(format!("{}: {why}", path.display())),
        }
    }
    Err(failed.unwrap_or_else(|| match paths.len() {
        0 => "this machine has no GPIO chip".to_owned(),
        count => format!("none of {count} GPIO chips is it"),
    }))
}

fn line(chip: &GpioChip, wanted: &LineRef) -> Result<String, String> {
    let info = match wanted {
        LineRef::Offset(offset) => chip.line_info(*offset).map_err(|_| {
            let count = chip.info().map_or(0, |info| info.num_lines);
            format!("there is no line {offset}: the chip has {count}")
        })?,
        LineRef::Pin(pin) => return Err(format!("pin {pin} is no line of this chip")),
        LineRef::Name(name) => chip
            .find_line_info(name)
            .ok_or_else(|| format!("no line of the chip is called {name}"))?,
    };
    if info.used {
        return Err(format!("is used by {}", info.consumer));
    }
    Ok("is free".to_owned())
}

fn i2c(settings: &I2cSettings) -> Vec<Probe> {
    let path = format!("/dev/i2c-{}", settings.bus);
    // rppal says no more than that it failed, if it is a matter of permission.
    let opened = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| said(&error))
        .and_then(|_| I2c::with_bus(settings.bus).map_err(|error| error.to_string()));
    let mut bus = match opened {
        Ok(bus) => bus,
        Err(why) => return vec![Probe::new(path, Err(why))],
    };
    let mut byte = [0];
    let outcome = bus
        .set_slave_address(settings.address.into())
        .and_then(|()| bus.read(&mut byte))
        .map(|_| "answers".to_owned())
        .map_err(|error| match error {
            rppal::i2c::Error::Io(error) => match error.raw_os_error() {
                Some(libc::ENXIO | libc::EREMOTEIO) => "nothing answers".to_owned(),
                Some(libc::EBUSY) => "is used by a kernel driver".to_owned(),
                _ => said(&error),
            },
            other => other.to_string(),
        });
    let what = format!("0x{:02x} on {path}", settings.address);
    vec![Probe::new(what, outcome)]
}

fn serial(path: &str) -> Probe {
    let outcome = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => "is used by another program".to_owned(),
            _ => said(&error),
        })
        .and_then(|file| {
            nix::sys::termios::tcgetattr(&file)
                .map(|_| "is a serial port".to_owned())
                .map_err(|_| "is no serial port".to_owned())
        });
    Probe::new(path, outcome)
}

fn chip_name(chip: &Chip) -> String {
    match chip {
        Chip::Header => "the GPIO chip of the 40-pin header".to_owned(),
        Chip::Label(label) => format!("the GPIO chip {label}"),
        Chip::Path(path) => path.to_string(),
    }
}

fn line_name(line: &LineRef) -> String {
    match line {
        LineRef::Offset(offset) => format!("line {offset}"),
        LineRef::Name(name) => format!("line {name}"),
        LineRef::Pin(pin) => format!("pin {pin}"),
    }
}

/// The kernel's words, and what to do about the commonest.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "permission denied: this user is not in the device's group".to_owned()
        }
        io::ErrorKind::NotFound => "is not there".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::plant::Plant;

    #[test]
    fn a_pty_is_a_serial_port_and_a_file_is_none() {
        let plant = Plant::start().unwrap();
        assert_eq!(
            serial(plant.path()).outcome,
            Ok("is a serial port".to_owned())
        );
        assert_eq!(
            serial("/dev/null").outcome,
            Err("is no serial port".to_owned())
        );
        assert_eq!(
            serial("/dev/no-such-port").outcome,
            Err("is not there".to_owned())
        );
    }

    #[test]
    fn what_is_missing_says_so() {
        let settings = SystemSettings {
            temperature: Some("/sys/no/such/file".into()),
            disk: "/".into(),
        };
        let probes = system(&settings);
        assert!(probes[0].is_failure());
        assert!(!probes[1].is_failure());
        let chip = Chip::Path("/dev/no-such-chip".into());
        assert_eq!(open_chip(&chip).unwrap_err(), "is not there");
    }
}
