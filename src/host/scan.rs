//! What is connected to this machine, as the kernel tells it: for `fieldgate scan`.
//!
//! It reads sysfs and asks GPIO chips for the names of their lines. It never writes to a device,
//! and sends nothing on a bus: what answers at an I2C address is not asked here. A kernel without
//! one of these subsystems simply has nothing there; what is there and may not be looked at is a
//! [problem](Inventory::problems).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use gpiocdev::line::{Direction, Info as LineInfo};
use gpiocdev::{AbiVersion, Chip};
use rppal::system::DeviceInfo;
use serde::Serialize;

/// Everything that was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Inventory {
    /// What the machine says it is.
    pub board: Option<Board>,
    /// Chips of `/dev/gpiochip*`.
    pub gpio: Vec<GpioChip>,
    /// Adapters of `/dev/i2c-*`.
    pub i2c: Vec<I2cBus>,
    /// Devices on 1-Wire buses.
    pub onewire: Vec<OneWireDevice>,
    /// Devices on SPI buses.
    pub spi: Vec<SpiDevice>,
    /// Serial ports with hardware behind them.
    pub serial: Vec<SerialPort>,
    /// Industrial I/O devices: sensors that the kernel drives itself.
    pub iio: Vec<IioDevice>,
    /// Hardware monitors.
    pub hwmon: Vec<Hwmon>,
    /// What is there and could not be looked at, with the reason.
    pub problems: Vec<String>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Board {
    /// In its maker's words.
    pub model: String,
    /// The Raspberry Pi that it is, if it is one that we know.
    pub raspberry_pi: Option<String>,
}

/// A GPIO chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpioChip {
    /// `/dev/gpiochip0`
    pub path: PathBuf,
    /// What the configuration names it by.
    pub label: String,
    /// In the order of their offsets.
    pub lines: Vec<GpioLine>,
}

/// A line of a GPIO chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpioLine {
    /// On its chip.
    pub offset: u32,
    /// From the device tree; empty if it has none.
    pub name: String,
    /// Who uses it: `None` if nobody does, empty if the kernel does not say.
    pub consumer: Option<String>,
    /// `in` or `out`.
    pub direction: &'static str,
}

/// An I2C adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct I2cBus {
    /// As in `i2c.NUMBER`.
    pub number: u32,
    /// The adapter's name.
    pub name: String,
    /// What kernel drivers have on it.
    pub devices: Vec<I2cDevice>,
}

/// A device that the kernel knows on an I2C bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct I2cDevice {
    /// Seven bits.
    pub address: u16,
    /// What the device tree calls it.
    pub name: String,
    /// The driver that has claimed it.
    pub driver: Option<String>,
}

/// A device on a 1-Wire bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OneWireDevice {
    /// Family and serial number: `28-0316a279a9ff`.
    pub id: String,
    /// What the family is, if we know.
    pub family: Option<&'static str>,
}

/// A device on an SPI bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpiDevice {
    /// `spi0.0`: bus and chip select.
    pub name: String,
    /// What the device tree calls it.
    pub modalias: String,
    /// The driver that has it; `spidev` is the one that programs can use.
    pub driver: Option<String>,
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SerialPort {
    /// `/dev/ttyUSB0`
    pub path: PathBuf,
    /// Names that survive a replug: those by identity first, then those by place.
    pub links: Vec<PathBuf>,
    /// The kernel's driver.
    pub driver: Option<String>,
    /// Of a USB adapter: its maker and product.
    pub product: Option<String>,
}

/// An industrial I/O device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IioDevice {
    /// Its folder.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// Files with values: `in_temp_input`.
    pub channels: Vec<String>,
}

/// A hardware monitor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hwmon {
    /// Its folder.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// Its inputs.
    pub channels: Vec<HwmonChannel>,
}

/// An input of a hardware monitor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HwmonChannel {
    /// `temp1_input`
    pub file: String,
    /// What it measures, in the driver's words.
    pub label: Option<String>,
    /// What it says now, in `unit`.
    pub value: Option<f64>,
    /// Of the value.
    pub unit: &'static str,
}

/// Entries that are read of one folder. A kernel has tens, a broken one might have millions.
const ENTRIES_MAX: usize = 4096;

/// Bytes that are read of one of the kernel's small files.
const FILE_MAX: u64 = 4096;

/// Looks at this machine.
pub fn scan() -> Inventory {
    Scanner::new("/").scan()
}

/// Looks at what lies below a folder: `/`, or what a test has built.
struct Scanner {
    root: PathBuf,
    problems: Vec<String>,
}

impl Scanner {
    fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            problems: Vec::new(),
        }
    }

    fn scan(mut self) -> Inventory {
        Inventory {
            board: self.board(),
            gpio: self.gpio(),
            i2c: self.i2c(),
            onewire: self.onewire(),
            spi: self.spi(),
            serial: self.serial(),
            iio: self.iio(),
            hwmon: self.hwmon(),
            problems: self.problems,
        }
    }

    fn board(&self) -> Option<Board> {
        let model = self
            .text("proc/device-tree/model")
            .or_else(|| self.text("sys/class/dmi/id/product_name"))?;
        let known = DeviceInfo::new().ok();
        Some(Board {
            raspberry_pi: known.map(|info| info.model().to_string()),
            model,
        })
    }

    fn gpio(&mut self) -> Vec<GpioChip> {
        let names = self.entries("dev", |name| name.starts_with("gpiochip"));
        let mut chips = Vec::new();
        for name in names {
            let path = self.root.join("dev").join(name);
            match gpio_chip(&path) {
                Ok(chip) => chips.push(chip),
                Err(reason) => self.problems.push(format!("{}: {reason}", path.display())),
            }
        }
        chips
    }

    fn i2c(&mut self) -> Vec<I2cBus> {
        let names = self.entries("sys/class/i2c-dev", |name| name.starts_with("i2c-"));
        let mut buses = Vec::new();
        for name in names {
            let Some(number) = name.strip_prefix("i2c-").and_then(|it| it.parse().ok()) else {
                continue;
            };
            let folder = format!("sys/class/i2c-dev/{name}");
            self.check_access(&format!("dev/{name}"), "i2c");
            buses.push(I2cBus {
                number,
                name: self.text(&format!("{folder}/name")).unwrap_or_default(),
                devices: self.i2c_devices(number),
            });
        }
        buses.sort_by_key(|bus| bus.number);
        buses
    }

    /// `1-0048` is address 0x48 on bus 1.
    fn i2c_devices(&self, bus: u32) -> Vec<I2cDevice> {
        let prefix = format!("{bus}-");
        let names = self.entries("sys/bus/i2c/devices", |name| name.starts_with(&prefix));
        let mut devices = Vec::new();
        for name in names {
            let folder = format!("sys/bus/i2c/devices/{name}");
            if let Ok(address) = u16::from_str_radix(&name[prefix.len()..], 16) {
                devices.push(I2cDevice {
                    address,
                    name: self.text(&format!("{folder}/name")).unwrap_or_default(),
                    driver: self.link_name(&format!("{folder}/driver")),
                });
            }
        }
        devices
    }

    fn onewire(&self) -> Vec<OneWireDevice> {
        let is_device = |name: &str| name.as_bytes().get(2) == Some(&b'-');
        self.entries("sys/bus/w1/devices", is_device)
            .into_iter()
            .map(|id| OneWireDevice {
                family: one_wire_family(&id),
                id,
            })
            .collect()
    }

    fn spi(&self) -> Vec<SpiDevice> {
        self.entries("sys/bus/spi/devices", |_| true)
            .into_iter()
            .map(|name| {
                let folder = format!("sys/bus/spi/devices/{name}");
                SpiDevice {
                    modalias: self
                        .text(&format!("{folder}/modalias"))
                        .map(|text| text.trim_start_matches("spi:").to_owned())
                        .unwrap_or_default(),
                    driver: self.link_name(&format!("{folder}/driver")),
                    name,
                }
            })
            .collect()
    }

    fn serial(&mut self) -> Vec<SerialPort> {
        let links = self.serial_links();
        let mut ports = Vec::new();
        for name in self.entries("sys/class/tty", |_| true) {
            let folder = format!("sys/class/tty/{name}");
            // A terminal that no hardware is behind, and a slot of the 8250 driver without a chip.
            let has_device = self.root.join(&folder).join("device").exists();
            let is_empty_slot = self.text(&format!("{folder}/type")).as_deref() == Some("0");
            if !has_device || is_empty_slot {
                continue;
            }
            self.check_access(&format!("dev/{name}"), "dialout");
            let path = PathBuf::from("/dev").join(&name);
            ports.push(SerialPort {
                links: links
                    .iter()
                    .filter(|(target, _)| *target == name)
                    .map(|(_, link)| link.clone())
                    .collect(),
                driver: self.link_name(&format!("{folder}/device/driver")),
                product: self.usb_product(&folder),
                path,
            });
        }
        ports
    }

    /// Which tty each name below `/dev/serial` leads to.
    fn serial_links(&self) -> Vec<(String, PathBuf)> {
        let mut links = Vec::new();
        for kind in ["by-id", "by-path"] {
            let folder = format!("dev/serial/{kind}");
            for name in self.entries(&folder, |_| true) {
                if let Some(target) = self.link_name(&format!("{folder}/{name}")) {
                    links.push((target, Path::new("/").join(&folder).join(name)));
                }
            }
        }
        links
    }

    /// The words of the USB device above a tty, a few levels up.
    fn usb_product(&self, tty: &str) -> Option<String> {
        const LEVELS: usize = 4;
        let mut folder = fs::canonicalize(self.root.join(tty).join("device")).ok()?;
        for _ in 0..LEVELS {
            if folder.join("idVendor").exists() {
                let word = |file| read_text(&folder.join(file));
                let words: Vec<_> = [word("manufacturer"), word("product")]
                    .into_iter()
                    .flatten()
                    .collect();
                return if words.is_empty() {
                    Some(format!("{}:{}", word("idVendor")?, word("idProduct")?))
                } else {
                    Some(words.join(" "))
                };
            }
            folder.pop();
        }
        None
    }

    fn iio(&self) -> Vec<IioDevice> {
        let is_device = |name: &str| name.starts_with("iio:device");
        let is_channel = |name: &str| {
            name.starts_with("in_") && (name.ends_with("_raw") || name.ends_with("_input"))
        };
        self.entries("sys/bus/iio/devices", is_device)
            .into_iter()
            .map(|name| {
                let folder = format!("sys/bus/iio/devices/{name}");
                IioDevice {
                    path: Path::new("/").join(&folder),
                    name: self.text(&format!("{folder}/name")).unwrap_or_default(),
                    channels: self.entries(&folder, is_channel),
                }
            })
            .collect()
    }

    fn hwmon(&self) -> Vec<Hwmon> {
        self.entries("sys/class/hwmon", |_| true)
            .into_iter()
            .map(|name| {
                let folder = format!("sys/class/hwmon/{name}");
                let channels = self.entries(&folder, |file| file.ends_with("_input"));
                Hwmon {
                    path: Path::new("/").join(&folder),
                    name: self.text(&format!("{folder}/name")).unwrap_or_default(),
                    channels: channels
                        .into_iter()
                        .map(|file| self.hwmon_channel(&folder, file))
                        .collect(),
                }
            })
            .collect()
    }

    fn hwmon_channel(&self, folder: &str, file: String) -> HwmonChannel {
        let (unit, scale) = hwmon_unit(&file);
        let label = file.replace("_input", "_label");
        let value = self.text(&format!("{folder}/{file}"));
        let value = value.and_then(|text| text.parse::<f64>().ok());
        HwmonChannel {
            label: self.text(&format!("{folder}/{label}")),
            value: value.map(|value| value / scale),
            unit,
            file,
        }
    }

    /// Names in a folder, sorted as people count; none if there is no such folder.
    fn entries(&self, folder: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| wanted(name))
            .take(ENTRIES_MAX)
            .collect();
        names.sort_by_cached_key(|name| natural_key(name));
        names
    }

    fn text(&self, path: &str) -> Option<String> {
        read_text(&self.root.join(path))
    }

    /// The last part of what a link leads to.
    fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether a device node may be opened is said by its permissions, without opening it.
    fn check_access(&mut self, node: &str, group: &str) {
        use nix::unistd::{AccessFlags, access};
        let path = self.root.join(node);
        match access(&path, AccessFlags::R_OK | AccessFlags::W_OK) {
            Err(nix::Error::EACCES) => self.problems.push(format!(
                "/{node}: permission denied; members of the group {group} may use it"
            )),
            Err(nix::Error::ENOENT) => self.problems.push(format!(
                "/{node}: the kernel knows it, but there is no such device node"
            )),
            _ => {}
        }
    }
}

fn gpio_chip(path: &Path) -> Result<GpioChip, String> {
    let said = |error: gpiocdev::Error| match error {
        gpiocdev::Error::Os(error) => error.to_string(),
        other => other.to_string(),
    };
    let open = fs::File::options().read(true).write(true).open(path);
    if let Err(error) = open {
        return Err(match error.kind() {
            ErrorKind::PermissionDenied => {
                "permission denied; members of the group gpio may use it".to_owned()
            }
            _ => error.to_string(),
        });
    }
    let mut chip = Chip::from_path(path).map_err(said)?;
    if let Ok(version) = chip.detect_abi_version() {
        chip.using_abi_version(version);
    } else {
        chip.using_abi_version(AbiVersion::V1);
    }
    let info = chip.info().map_err(said)?;
    let mut lines = Vec::new();
    for line in chip.line_info_iter().map_err(said)? {
        lines.push(gpio_line(line.map_err(said)?));
    }
    Ok(GpioChip {
        path: path.to_owned(),
        label: info.label,
        lines,
    })
}

fn gpio_line(info: LineInfo) -> GpioLine {
    GpioLine {
        offset: info.offset,
        name: info.name,
        consumer: info.used.then_some(info.consumer),
        direction: match info.direction {
            Direction::Input => "in",
            Direction::Output => "out",
        },
    }
}

/// What the first byte of a 1-Wire number means, for those that are met in the field.
fn one_wire_family(id: &str) -> Option<&'static str> {
    Some(match id.get(..2)? {
        "01" => "DS2401 serial number",
        "10" => "DS18S20 thermometer",
        "12" => "DS2406 switch",
        "1d" => "DS2423 counter",
        "20" => "DS2450 analogue converter",
        "22" => "DS1822 thermometer",
        "26" => "DS2438 battery monitor",
        "28" => "DS18B20 thermometer",
        "29" => "DS2408 switch",
        "3a" => "DS2413 switch",
        "3b" => "DS1825 or MAX31850 thermometer",
        "42" => "DS28EA00 thermometer",
        _ => return None,
    })
}

/// The unit of a hwmon file and what its number is divided by
/// (Documentation/hwmon/sysfs-interface).
fn hwmon_unit(file: &str) -> (&'static str, f64) {
    let kind = file.trim_end_matches("_input");
    let kind = kind.trim_end_matches(|c: char| c.is_ascii_digit());
    match kind {
        "temp" => ("°C", 1e3),
        "in" => ("V", 1e3),
        "curr" => ("A", 1e3),
        "power" => ("W", 1e6),
        "energy" => ("J", 1e6),
        "humidity" => ("%", 1e3),
        "fan" => ("rpm", 1.0),
        _ => ("", 1.0),
    }
}

/// A small file of the kernel's, without the NUL and the end of line that some have.
fn read_text(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

/// `i2c-10` comes after `i2c-2`.
fn natural_key(name: &str) -> (String, u64, String) {
    let end = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number = name[end..].parse().unwrap_or(0);
    (name[..end].to_owned(), number, name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A folder that looks like a machine, and goes away with the test.
    struct Machine(PathBuf);

    impl Machine {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("fieldgate-scan-{}-{number}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir_all(&root).unwrap();
            Self(root)
        }

        fn file(&self, path: &str, text: &str) -> &Self {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn link(&self, path: &str, target: &str) -> &Self {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
            self
        }

        fn scan(&self) -> Inventory {
            Scanner::new(&self.0).scan()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_machine_without_anything_is_an_empty_inventory() {
        assert_eq!(Machine::new().scan(), Inventory::default());
    }

    #[test]
    fn the_machine_that_runs_this_can_be_looked_at() {
        let inventory = scan();
        assert!(inventory.gpio.iter().all(|chip| !chip.lines.is_empty()));
    }

    #[test]
    fn buses_and_their_devices_are_listed() {
        let machine = Machine::new();
        machine
            .file("proc/device-tree/model", "Raspberry Pi 3 Model B Rev 1.2\0")
            .file("sys/class/i2c-dev/i2c-10/name", "mux\n")
            .file("sys/class/i2c-dev/i2c-2/name", "bcm2835 (i2c@7e804000)\n")
            .file("dev/i2c-2", "")
            .file("sys/bus/i2c/devices/2-0068/name", "ds3231\n")
            .link(
                "sys/bus/i2c/devices/2-0068/driver",
                "../../drivers/rtc-ds1307",
            )
            .file("sys/bus/w1/devices/28-0316a279a9ff/name", "")
            .file("sys/bus/w1/devices/w1_bus_master1/name", "")
            .file("sys/bus/spi/devices/spi0.0/modalias", "spi:spidev\n")
            .link("sys/bus/spi/devices/spi0.0/driver", "../../drivers/spidev");
        let found = machine.scan();
        assert_eq!(found.board.unwrap().model, "Raspberry Pi 3 Model B Rev 1.2");
        let numbers: Vec<_> = found.i2c.iter().map(|bus| bus.number).collect();
        assert_eq!(numbers, [2, 10]);
        let clock = &found.i2c[0].devices[0];
        assert_eq!((clock.address, clock.name.as_str()), (0x68, "ds3231"));
        assert_eq!(clock.driver.as_deref(), Some("rtc-ds1307"));
        assert_eq!(found.onewire.len(), 1);
        assert_eq!(found.onewire[0].family, Some("DS18B20 thermometer"));
        assert_eq!(found.spi[0].modalias, "spidev");
        // The mux has no device node, which somebody will want to know.
        assert_eq!(found.problems.len(), 1);
        assert!(
            found.problems[0].starts_with("/dev/i2c-10: "),
            "{:?}",
            found.problems
        );
    }

    #[test]
    fn serial_ports_have_their_stable_names_and_no_empty_slots() {
        let machine = Machine::new();
        machine
            .file("sys/devices/usb1/1-1/idVendor", "0403")
            .file("sys/devices/usb1/1-1/idProduct", "6001")
            .file("sys/devices/usb1/1-1/manufacturer", "FTDI")
            .file("sys/devices/usb1/1-1/product", "FT232R USB UART")
            .file("sys/devices/usb1/1-1/1-1:1.0/ttyUSB0/uevent", "")
            .link("sys/devices/usb1/1-1/1-1:1.0/ttyUSB0/driver", "../ftdi_sio")
            .link(
                "sys/class/tty/ttyUSB0/device",
                "../../../devices/usb1/1-1/1-1:1.0/ttyUSB0",
            )
            .file("dev/ttyUSB0", "")
            .link("dev/serial/by-id/usb-FTDI-if00-port0", "../../ttyUSB0")
            .link("dev/serial/by-path/platform-1.3-port0", "../../ttyUSB0")
            .file("sys/class/tty/ttyS0/type", "0\n")
            .file("sys/class/tty/ttyS0/device/uevent", "")
            .file("sys/class/tty/tty1/dev", "4:1");
        let found = machine.scan();
        assert_eq!(found.serial.len(), 1);
        let port = &found.serial[0];
        assert_eq!(port.path, Path::new("/dev/ttyUSB0"));
        assert_eq!(port.driver.as_deref(), Some("ftdi_sio"));
        assert_eq!(port.product.as_deref(), Some("FTDI FT232R USB UART"));
        let links = [
            Path::new("/dev/serial/by-id/usb-FTDI-if00-port0"),
            Path::new("/dev/serial/by-path/platform-1.3-port0"),
        ];
        assert_eq!(port.links, links);
        assert_eq!(found.problems, Vec::<String>::new());
    }

    #[test]
    fn monitors_say_their_values_in_units() {
        let machine = Machine::new();
        machine
            .file("sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
            .file("sys/class/hwmon/hwmon0/temp1_input", "48312\n")
            .file("sys/class/hwmon/hwmon0/temp1_label", "core\n")
            .file("sys/class/hwmon/hwmon0/in0_input", "garbage")
            .file("sys/bus/iio/devices/iio:device0/name", "bmp280")
            .file("sys/bus/iio/devices/iio:device0/in_temp_input", "21000")
            .file("sys/bus/iio/devices/iio:device0/sampling_frequency", "1");
        let found = machine.scan();
        let channels = &found.hwmon[0].channels;
        let temperature = &channels[channels.iter().position(|it| it.unit == "°C").unwrap()];
        assert_eq!(temperature.label.as_deref(), Some("core"));
        assert_eq!(temperature.value, Some(48.312));
        assert!(
            channels
                .iter()
                .any(|it| it.unit == "V" && it.value.is_none())
        );
        assert_eq!(found.iio[0].channels, ["in_temp_input"]);
    }
}
