//! The configuration: raw (the files as written) to meant (validated whole), with diagnostics.
//!
//! [`parse`] takes texts and gives either a [`Meant`], whole and consistent, or every mistake at
//! once with its place. [`load`] reads the files first, and those that they name; it is the only
//! function here that touches a disk. Nothing here opens hardware, looks a name up or asks for the
//! time.
//!
//! The way of a setting: `tree` turns TOML into values with places and merges the files; a reader
//! for each table (`gateway`, `broker`, `listener`, `bridge`, `bus`, `device` and the drivers' own)
//! checks and converts it with the functions of `read`; `common` lets the nearest of defaults,
//! device and point win; `wiring` and `topics` check what crosses devices. What is documented
//! and not built yet is refused by name (`later`); words of other programs are recognised
//! (`words`).

pub mod access;
mod bridge;
mod broker;
mod bus;
mod chip;
mod common;
mod device;
mod diagnostic;
mod durability;
mod gateway;
mod gpio;
mod header;
mod journal;
mod later;
mod lines;
mod listener;
mod load;
mod names;
mod place;
mod print;
mod read;
mod redirect;
mod topics;
mod transport;
mod tree;
mod wiring;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity, Source};
pub use load::load;

use crate::field::line::Chip;
use crate::field::port::PortSettings;
use crate::gateway::settings::Config;
use crate::pipeline::settings::TimeFormat;
use crate::time::Duration;
use crate::units;

/// Everything that the files say, validated whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Meant {
    /// For the gateway.
    pub gateway: Config,
    /// For the logger. `RUST_LOG` wins over it.
    pub log: LogSettings,
    /// Where `read`, `set` and their like find us.
    pub control: ControlSettings,
    /// Where we keep what outlives a restart. `None`: nowhere; the file names no folder and there
    /// is no service manager.
    pub data_dir: Option<PathBuf>,
    /// Texts for people, by dotted path: `device.pump` or `device.pump.point.running`.
    pub labels: BTreeMap<String, Box<str>>,
    /// The files that `[access]` names.
    pub access_files: access::AccessFiles,
    /// How every point writes times; kept for a gateway without points.
    time_format: TimeFormat,
    /// Buses by their names, as far as they are declared.
    buses: BusTables,
    /// Devices that are written and switched off.
    disabled: BTreeSet<Box<str>>,
    /// Where each setting comes from, by dotted path: `fieldgate.toml:12:1`.
    origins: BTreeMap<String, String>,
}

impl Meant {
    /// Tells the gateway from others of its name, by a part that is its own for ever: what its
    /// bridges call themselves ends with it. To be done once, before the configuration is used.
    pub fn identify(&mut self, part: &str) {
        let origins = &self.origins;
        let is_written = |name: &str| origins.contains_key(&format!("bridge.{name}.client_id"));
        bridge::identify(&mut self.gateway.bridges, is_written, part);
    }

    /// Where a setting comes from, for messages.
    fn origin_of(&self, path: &str) -> String {
        let origin = self.origins.get(path).cloned();
        origin.unwrap_or_else(|| "the configuration".into())
    }
}

/// What is declared beside the devices, for `check --print`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct BusTables {
    i2c: BTreeMap<u8, Duration>,
    gpio: BTreeMap<Box<str>, Chip>,
    serial: BTreeMap<Box<str>, PortSettings>,
    /// What each device names as its bus.
    of_device: BTreeMap<Box<str>, Box<str>>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// Of everything that `levels` does not name.
    pub level: LogLevel,
    /// By module below the crate: `broker`, `host::net`.
    pub levels: BTreeMap<Box<str>, LogLevel>,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What an operator must look at now.
    Error,
    /// What an operator should look at today.
    Warn,
    /// One line for each change of lifecycle.
    #[default]
    Info,
    /// One line for each packet.
    Debug,
    /// Bytes.
    Trace,
}

impl LogLevel {
    /// As the file and `RUST_LOG` write it.
    pub fn as_str(self) -> &'static str {
        print::word(&gateway::LEVELS, self)
    }
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// Absolute path of the unix socket, whose mode is 0660.
    pub socket: Box<str>,
    /// The group that owns it. `None`: that of the process.
    pub group: Option<Box<str>>,
}

/// What the machine and its service manager say before any file is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// For the gateway's name when the file gives none.
    pub hostname: String,
    /// `$STATE_DIRECTORY`, for `data_dir`.
    pub state_directory: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY`, for the control socket.
    pub runtime_directory: Option<PathBuf>,
    /// Where relative paths of files that are themselves named by relative paths start. Empty: they
    /// stay relative.
    pub current_directory: PathBuf,
}

impl Environment {
    /// From the machine's name and its variables, as `std::env::var_os` gives them.
    pub fn new(hostname: impl Into<String>, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // systemd separates several folders by colons; the first is the main one.
        let first = |name: &str| {
            let value = variable(name)?;
            let path = match value.to_str() {
                Some(text) => PathBuf::from(text.split(':').next().unwrap_or_default()),
                None => PathBuf::from(value),
            };
            (!path.as_os_str().is_empty()).then_some(path)
        };
        Self {
            hostname: hostname.into(),
            state_directory: first("STATE_DIRECTORY"),
            runtime_directory: first("RUNTIME_DIRECTORY"),
            current_directory: PathBuf::new(),
        }
    }

    /// With relative paths starting at `folder`.
    #[must_use]
    pub fn at(mut self, folder: impl Into<PathBuf>) -> Self {
        self.current_directory = folder.into();
        self
    }
}

/// A configuration that can be used, and what is odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What it means.
    pub meant: Meant,
    /// May be empty. `check --strict` fails on them.
    pub warnings: Diagnostics,
    /// Where each setting is written, by dotted path.
    spans: BTreeMap<String, diagnostic::Span>,
}

impl Loaded {
    /// Adds what was found out about a setting after the configuration was read: a file that it
    /// names cannot be used.
    pub fn found(
        &mut self,
        path: &str,
        severity: Severity,
        title: impl Into<String>,
        help: impl Into<String>,
    ) {
        let diagnostic = match severity {
            Severity::Error => Diagnostic::error(title),
            Severity::Warning => Diagnostic::warning(title),
        };
        let diagnostic = match self.spans.get(path) {
            Some(span) => diagnostic.at(*span, ""),
            None => diagnostic,
        };
        self.warnings.push(diagnostic.help(help));
        self.warnings.sort();
    }
}

/// Files at most: the main one and those of `conf.d`.
pub const SOURCES_MAX: usize = 256;

/// Bytes of one file at most.
pub const SOURCE_BYTES_MAX: usize = 1024 * 1024;

/// Reads the sources, of which the later merge into the first, and says what they mean together.
///
/// # Errors
/// Every mistake in them, in the order of the files, together with the warnings.
pub fn parse(
    sources: impl Into<Vec<Source>>,
    environment: &Environment,
) -> Result<Loaded, Diagnostics> {
    let mut sources = sources.into();
    for source in &mut sources {
        // A byte order mark is not part of the first line.
        if let Some(text) = source.text.strip_prefix('\u{feff}') {
            source.text = text.to_owned();
        }
    }
    let mut out = Diagnostics::default();
    if sources.len() > SOURCES_MAX {
        out.push(
            Diagnostic::error(format!("there are {} files", sources.len()))
                .help(format!("{SOURCES_MAX} are read at most")),
        );
    }
    for source in &sources {
        if source.text.len() > SOURCE_BYTES_MAX {
            let path = source.path.display();
            out.push(
                Diagnostic::error(format!("{path} has {} bytes", source.text.len())).help(format!(
                    "{} are read at most",
                    units::format_size(SOURCE_BYTES_MAX as u64)
                )),
            );
        }
    }
    if !out.is_empty() {
        return Err(out);
    }
    let mut out = Diagnostics::new(sources);
    let Some((table, unquoted)) = tree::read(&mut out) else {
        out.sort();
        return Err(out);
    };
    let mut cx = read::Cx::new(out, environment, unquoted);
    let meant = meant(&mut cx, &table);
    let (mut out, origins) = (cx.out, cx.origins);
    out.sort();
    if out.errors() > 0 {
        return Err(out);
    }
    let places = origins
        .iter()
        .map(|(path, span)| (path.clone(), out.place(*span).to_string()))
        .collect();
    Ok(Loaded {
        meant: Meant {
            origins: places,
            ..meant
        },
        warnings: out,
        spans: origins,
    })
}

/// Reads every table. What is wrong is reported, and a default stands in for it.
fn meant(cx: &mut read::Cx<'_>, table: &tree::Table) -> Meant {
    let root = read::Section::root(cx, table);
    let gateway = gateway::Gateway::read(cx, &root);
    let log = gateway::log(cx, &root);
    let control = gateway::control(cx, &root);
    let mut broker = broker::Broker::read(cx, &root);
    let access = access::read(cx, &root);
    broker.settings.access.rules = access.rules;
    let has_passwords = access.files.passwords.is_some();
    let listeners = listener::read(cx, &root, &broker, &control, has_passwords);
    let mut buses = bus::Buses::read(cx, &root);
    let devices = device::read(cx, &root, &gateway, &mut buses);
    let bridges = bridge::read(cx, &root, &gateway, &broker, &devices.configs);
    let journal = journal::read(cx, &root, &gateway, &broker.settings, &bridges);
    if cx.out.errors() == 0 {
        // Otherwise the device that uses it may be the one that could not be read.
        buses.warn_unused(cx);
    }
    Meant {
        gateway: Config {
            name: gateway.name,
            base_topic: gateway.base_topic,
            broker: broker.settings,
            journal,
            exempt_addresses: broker.exempt,
            listeners,
            devices: devices.configs,
            bridges,
        },
        log,
        control: control.value,
        data_dir: gateway.data_dir,
        access_files: access.files,
        time_format: gateway.time_format,
        labels: devices.labels,
        buses: BusTables {
            i2c: buses
                .i2c
                .into_iter()
                .filter_map(|(number, (_, timeout))| Some((number, timeout?)))
                .collect(),
            gpio: buses
                .gpio
                .into_iter()
                .filter_map(|(name, (_, chip))| Some((name, chip?)))
                .collect(),
            serial: buses
                .serial
                .into_iter()
                .filter_map(|(name, (_, port))| Some((name, port?)))
                .collect(),
            of_device: devices.buses,
        },
        disabled: devices.disabled,
        origins: BTreeMap::new(),
    }
}
