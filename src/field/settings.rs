//! What the configuration may say about devices: validated, complete, with every default filled in.

use std::collections::BTreeMap;

use super::line::{Bias, Chip, Drive, Edges, LineRef};
use super::port::PortSettings;
use crate::time::Duration;

/// One device. Two that compare equal are the same device to a reload, which then leaves it alone.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceSettings {
    /// How it is reached and what it is.
    pub driver: Driver,
    /// How often it is sampled, if it is a sampled one.
    pub every: Duration,
}

/// A closed set: what a device is.
#[derive(Debug, Clone, PartialEq)]
pub enum Driver {
    /// The machine itself.
    System(SystemSettings),
    /// Lines of one GPIO chip.
    Gpio(GpioSettings),
    /// A chip on an I2C bus.
    I2c(I2cSettings),
    /// Text lines on a serial port.
    Lines(LinesSettings),
}

/// Which of the machine's own figures to read; the points are those of the driver's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemSettings {
    /// The thermal zone's or hwmon channel's file with milli-degrees Celsius; `None`: the first
    /// thermal zone.
    pub temperature: Option<Box<str>>,
    /// The path whose file system is reported.
    pub disk: Box<str>,
}

/// The points of a GPIO device, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct GpioSettings {
    /// All on one chip.
    pub chip: Chip,
    /// Not empty.
    pub points: BTreeMap<Box<str>, GpioPoint>,
}

/// One GPIO point.
#[derive(Debug, Clone, PartialEq)]
pub struct GpioPoint {
    /// Which line of the chip.
    pub line: LineRef,
    /// A low level means active.
    pub active_low: bool,
    /// The pull resistor.
    pub bias: Bias,
    /// What it is for.
    pub kind: GpioKind,
}

/// What a GPIO point is for.
#[derive(Debug, Clone, PartialEq)]
pub enum GpioKind {
    /// A level, reported when it changes (and at `max_interval`).
    Input {
        /// The kernel's debounce; zero for none.
        debounce: Duration,
    },
    /// Something that happens: each wanted edge is one message.
    Event {
        /// Which edges count.
        edges: Edges,
        /// The kernel's debounce; zero for none.
        debounce: Duration,
    },
    /// A total of edges, published every `every`.
    Counter {
        /// Which edges count.
        edges: Edges,
        /// The kernel's debounce; zero for none.
        debounce: Duration,
        /// When the total is kept, so that it goes on after a restart.
        persist: Persist,
    },
    /// A level that we drive.
    Output(OutputSettings),
}

/// When a counter's total is kept: whichever comes first, and at a clean stop. A power cut takes
/// back what has been counted since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persist {
    /// After so many pulses; not 0.
    pub pulses: u64,
    /// So long after the first of them, as soon as the counter is published.
    pub interval: Duration,
}

impl Default for Persist {
    /// A flash chip lasts for years with a block a minute.
    fn default() -> Self {
        Self {
            pulses: 100,
            interval: Duration::from_secs(60),
        }
    }
}

/// How an output behaves when nobody says anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSettings {
    /// How active and inactive are driven.
    pub drive: Drive,
    /// The level at start, at a clean stop, when a lease runs out: in logical terms.
    pub safe_state: SafeState,
    /// What happens to the line when the gateway starts.
    pub on_start: OnStart,
    /// Without a renewed command for this long it goes to its safe state. `None`: commands last.
    pub lease: Option<Duration>,
}

/// What is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SafeState {
    /// Active.
    Active,
    /// Inactive.
    Inactive,
    /// As it is.
    Keep,
}

/// What happens to an output when the gateway starts. (`restore` comes with the journal.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStart {
    /// It goes to its safe state.
    #[default]
    Safe,
    /// It stays as the kernel has it.
    Keep,
}

/// A chip on an I2C bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct I2cSettings {
    /// The adapter's number.
    pub bus: u8,
    /// Seven bits.
    pub address: u8,
    /// The kernel's limit for one transfer on this bus.
    pub transfer_timeout: Duration,
    /// What it is.
    pub chip: I2cChip,
}

/// The I2C chips that we know: a closed set, a file each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum I2cChip {
    /// 9 bits, 0.5 °C.
    Lm75,
    /// 12 bits, 0.0625 °C.
    Tmp102,
    /// 9 to 12 bits, set to 12: 0.0625 °C.
    Tmp105,
    /// Temperature, humidity, pressure; chip id 0x60.
    Bme280,
    /// Temperature, pressure; chip id 0x58.
    Bmp280,
}

/// A device that sends, and may understand, lines of text.
#[derive(Debug, Clone, PartialEq)]
pub struct LinesSettings {
    /// The name of the `[serial.NAME]` table.
    pub port_name: Box<str>,
    /// How to open it. Devices of one port share it.
    pub port: PortSettings,
    /// A regular expression with a named group for each point that is read. A line that does not
    /// match is counted.
    pub pattern: Option<Box<str>>,
    /// Sent every `every` to ask for a line, its terminator included; `None`: the device speaks by
    /// itself.
    pub poll: Option<Box<str>>,
    /// A line longer than this is discarded and counted.
    pub line_max: usize,
    /// Which points there are: the pattern's groups, and those that only have a command.
    pub points: BTreeMap<Box<str>, LinesPoint>,
}

/// One point of a `lines` device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinesPoint {
    /// How its text is understood.
    pub kind: TextKind,
    /// A group of the pattern has its name.
    pub read: bool,
    /// What is sent for `…/set`: a template in which `{value}` stands for the value, its terminator
    /// included.
    pub command: Option<Box<str>>,
    /// How booleans are written in commands and understood in lines: inactive, active.
    pub booleans: (Box<str>, Box<str>),
}

/// How text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// A decimal number.
    Number,
    /// One of the point's two words.
    Bool,
    /// As it is.
    Text,
}
