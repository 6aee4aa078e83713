//! `[device.NAME]`: which driver, wired to what, with which points, published how.

use std::collections::{BTreeMap, BTreeSet};

use super::bus::Buses;
use super::chip;
use super::common::{self, Common, Levels, PointContext};
use super::diagnostic::{Diagnostic, Span, all_of, one_of, shown};
use super::gateway::Gateway;
use super::gpio;
use super::later;
use super::lines;
use super::names;
use super::place::{self, Place};
use super::read::{Cx, Section};
use super::topics::Topics;
use super::tree::{Entry, Value};
use super::wiring::Wiring;
use crate::field;
use crate::field::settings::{DeviceSettings, Driver, I2cChip, SystemSettings};
use crate::gateway::settings::DeviceConfig;
use crate::pipeline::settings::ValueType;
use crate::point::PointSpec;
use crate::time::Duration;

/// Devices at most.
const DEVICES_MAX: usize = 1000;

/// What `driver` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DriverName {
    System,
    Gpio,
    Lines,
    I2c(I2cChip),
}

/// Drivers by their words.
const DRIVERS: [(&str, DriverName); 8] = [
    ("system", DriverName::System),
    ("gpio", DriverName::Gpio),
    ("lines", DriverName::Lines),
    ("lm75", DriverName::I2c(I2cChip::Lm75)),
    ("tmp102", DriverName::I2c(I2cChip::Tmp102)),
    ("tmp105", DriverName::I2c(I2cChip::Tmp105)),
    ("bme280", DriverName::I2c(I2cChip::Bme280)),
    ("bmp280", DriverName::I2c(I2cChip::Bmp280)),
];

/// The file system that `system` reports when the file names none.
pub(super) const DISK: &str = "/";

/// One point as the file has it, before its defaults are filled in.
#[derive(Debug)]
pub(super) struct PointDraft {
    pub(super) common: Common,
    pub(super) values: ValueType,
    /// Where it is written; for a point that only the driver names, where the device is.
    pub(super) span: Span,
    pub(super) label: Option<Box<str>>,
}

/// What a driver's own keys give.
pub(super) type Drafts = BTreeMap<Box<str>, PointDraft>;

/// Everything that devices are checked against together.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) configs: BTreeMap<Box<str>, DeviceConfig>,
    /// By dotted path.
    pub(super) labels: BTreeMap<String, Box<str>>,
    /// What each device names as its bus.
    pub(super) buses: BTreeMap<Box<str>, Box<str>>,
    /// Those that are switched off.
    pub(super) disabled: BTreeSet<Box<str>>,
    pub(super) wiring: Wiring,
}

/// Every `[device.NAME]`.
pub(super) fn read(
    cx: &mut Cx<'_>,
    root: &Section<'_>,
    gateway: &Gateway,
    buses: &mut Buses,
) -> Devices {
    let mut devices = Devices::default();
    let mut topics = Topics::default();
    let entries = cx.named(root.table(), "device", "[device.NAME]", names::is_name);
    for entry in entries.iter().take(DEVICES_MAX) {
        if entry.name == names::RESERVED_DEVICE {
            cx.error(
                entry.key,
                format!("`{}` is the gateway itself", entry.name),
                "",
                "its topics say how the gateway is; give the device another name",
            );
            continue;
        }
        one(cx, entry, gateway, buses, &mut devices, &mut topics);
    }
    if let Some(entry) = entries.get(DEVICES_MAX) {
        let title = format!("more than {DEVICES_MAX} devices");
        cx.error(entry.key, title, "", "run a second gateway");
    }
    devices.wiring.check(cx);
    topics.check(cx, &gateway.base_topic, devices.configs.keys());
    devices
}

fn one(
    cx: &mut Cx<'_>,
    entry: &Entry,
    gateway: &Gateway,
    buses: &mut Buses,
    devices: &mut Devices,
    topics: &mut Topics,
) {
    let path = format!("device.{}", entry.name);
    let Some(name) = driver_name(cx, entry, &path) else {
        return;
    };
    let place = match name {
        DriverName::System => Place::System,
        DriverName::Gpio => Place::Lines,
        DriverName::Lines => Place::Text,
        DriverName::I2c(_) => Place::Chip,
    };
    let Some(section) = Section::open(cx, place, path, entry) else {
        return;
    };
    let own = Common::read(cx, &section);
    let enabled = common::is_enabled(&own, &gateway.defaults);
    if let Some(label) = common::label(cx, &section) {
        devices.labels.insert(section.path.clone(), label);
    }
    let simulated = section.get(cx, "simulated");
    let simulated = simulated.and_then(|entry| cx.flag(entry)).unwrap_or(false);
    let mut wiring = Wiring::default();
    let errors_before = cx.out.errors();
    let read = match name {
        DriverName::System => {
            let driver = system(cx, &section);
            Some(with_fixed_points(cx, &section, driver))
        }
        DriverName::I2c(chip) => {
            let driver = chip::read(cx, &section, chip, buses, &mut wiring);
            Some(with_fixed_points(cx, &section, driver))
        }
        DriverName::Gpio => gpio::read(cx, &section, &own, buses, &mut wiring),
        DriverName::Lines => lines::read(cx, &section, &own, buses, &mut wiring),
    };
    let Some((driver, mut drafts)) = read else {
        return;
    };
    let is_whole = cx.out.errors() == errors_before;
    let specs = field::points_of(&driver);
    // If not all of its points could be read, the missing ones may be those that are meant.
    let writable = !is_whole || specs.iter().any(|spec| spec.writable);
    let accept_retained = accept_retained(cx, &section, writable);
    let inherited = common::every(&own, &gateway.defaults);
    let every = period(cx, inherited, &specs, &drafts);
    if let Some(span) = every.1 {
        cx.origin(section.key_path("every"), span);
    }
    let mut used = BTreeSet::from(["enabled"]);
    let mut points = BTreeMap::new();
    let is_shared = own.topic_span().is_some() && specs.len() > 1;
    if let Some(span) = own.topic_span().filter(|_| is_shared) {
        let help = "write it at the points: `[device.NAME.point.NAME]`";
        let title = format!("every point of {} would have one topic", section.header());
        cx.error(span, title, format!("it has {} points", specs.len()), help);
    }
    for spec in specs {
        let path = format!("{}.point.{}", section.path, spec.name);
        let draft = drafts.remove(&spec.name).unwrap_or_else(|| PointDraft {
            common: Common::default(),
            values: ValueType::Number,
            span: section.span,
            label: None,
        });
        if let Some(label) = draft.label {
            devices.labels.insert(path.clone(), label);
        }
        let context = PointContext {
            path: &path,
            topic: format!("{}/{}/{}", gateway.base_topic, entry.name, spec.name),
            values: draft.values,
            every,
            time_format: gateway.time_format,
            accept_retained: accept_retained && spec.writable,
            simulated,
        };
        let levels = Levels {
            point: &draft.common,
            device: &own,
            gateway: &gateway.defaults,
        };
        let point_name = spec.name.clone();
        let settings = common::settle(cx, &context, &levels, spec, &mut used);
        let inherited = [&own, &gateway.defaults].map(Common::topic_span);
        let written = draft.common.topic_span().or(inherited[0]).or(inherited[1]);
        if enabled && !is_shared {
            topics.add(&settings.topic, path, written.unwrap_or(draft.span));
        }
        points.insert(point_name, settings);
    }
    for (key, span) in own.given() {
        if is_whole && !used.contains(key) {
            let title = format!("`{key}` has no effect on {}", section.header());
            cx.error(
                *span,
                title,
                "none of its points has a use for it",
                "take it out",
            );
        }
    }
    let device: Box<str> = entry.name.as_str().into();
    if !enabled {
        devices.disabled.insert(device);
        return;
    }
    if let Some(Value::Text(bus)) = section.table().get("bus").map(|entry| &entry.node.value) {
        devices.buses.insert(device.clone(), bus.as_str().into());
    }
    devices.wiring.merge(cx, wiring);
    let field = DeviceSettings {
        driver,
        every: every.0,
    };
    devices
        .configs
        .insert(device, DeviceConfig { field, points });
}

/// How often the device is sampled. It is sampled as a whole: a point's own `every` is right as
/// long as the other sampled points of the device agree.
fn period(
    cx: &mut Cx<'_>,
    inherited: (Duration, Option<Span>),
    specs: &[PointSpec],
    drafts: &Drafts,
) -> (Duration, Option<Span>) {
    let sampled = specs.iter().filter(|spec| common::is_sampled(spec.kind));
    let own: Vec<_> = sampled
        .map(|spec| drafts.get(&spec.name).and_then(|draft| draft.common.every))
        .collect();
    let Some(first) = own.iter().flatten().next() else {
        return inherited;
    };
    let periods = own.iter().map(|own| own.map_or(inherited.0, |at| at.value));
    if periods.clone().all(|period| period == first.value) {
        return (first.value, Some(first.span));
    }
    for at in own.iter().flatten() {
        cx.push(later::own_every(at.span));
    }
    inherited
}

/// What `driver` says. Until that is known, no other key of the device can be judged.
fn driver_name(cx: &mut Cx<'_>, entry: &Entry, path: &str) -> Option<DriverName> {
    let Value::Table(table) = &entry.node.value else {
        return None;
    };
    let Some(driver) = table.get("driver") else {
        let meant = table
            .entries()
            .find_map(|entry| super::words::of_key(&entry.name).filter(|_| entry.name == "module"));
        let names = one_of(DRIVERS.iter().map(|(name, _)| *name));
        let help = meant.unwrap_or_else(|| format!("its driver is {names}"));
        cx.error(entry.key, format!("`[{path}]` has no `driver`"), "", help);
        return None;
    };
    cx.origin(format!("{path}.driver"), driver.key);
    cx.choice(driver, &DRIVERS)
}

/// A retained command is obeyed only where there are commands.
fn accept_retained(cx: &mut Cx<'_>, section: &Section<'_>, writable: bool) -> bool {
    let Some(entry) = section.get(cx, "accept_retained") else {
        return false;
    };
    let accepts = cx.flag(entry).unwrap_or(false);
    if accepts && !writable {
        let title = format!("`accept_retained` has no effect on {}", section.header());
        cx.error(
            entry.key,
            title,
            "none of its points takes commands",
            "take it out",
        );
    }
    accepts
}

fn system(cx: &mut Cx<'_>, section: &Section<'_>) -> Driver {
    let example = "\"/sys/class/thermal/thermal_zone0/temp\"";
    let temperature = section.get(cx, "temperature");
    let temperature = temperature.and_then(|entry| cx.path(entry, example));
    let disk = section.get(cx, "disk");
    let disk = disk.and_then(|entry| cx.path(entry, "\"/\""));
    Driver::System(SystemSettings {
        temperature,
        disk: disk.unwrap_or_else(|| DISK.into()),
    })
}

/// The points that a driver brings along, with what the file says of some of them.
fn with_fixed_points(cx: &mut Cx<'_>, section: &Section<'_>, driver: Driver) -> (Driver, Drafts) {
    let specs = field::points_of(&driver);
    let mut drafts = Drafts::new();
    for entry in cx.named(
        section.table(),
        "point",
        "[device.NAME.point.NAME]",
        names::is_name,
    ) {
        let known = specs.iter().map(|spec| &*spec.name);
        if !known.clone().any(|name| name == entry.name) {
            no_such_point(cx, section, entry, known);
            continue;
        }
        let path = format!("{}.point.{}", section.path, entry.name);
        let Some(point) = Section::open(cx, Place::FixedPoint, path, entry) else {
            continue;
        };
        let draft = PointDraft {
            common: Common::read(cx, &point),
            values: ValueType::Number,
            span: entry.key,
            label: common::label(cx, &point),
        };
        drafts.insert(entry.name.as_str().into(), draft);
    }
    (driver, drafts)
}

fn no_such_point<'a>(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    entry: &Entry,
    known: impl Iterator<Item = &'a str> + Clone,
) {
    let label = match place::nearest(&entry.name, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => String::new(),
    };
    cx.push(
        Diagnostic::error(format!(
            "{} has no point {}",
            section.header(),
            shown(&entry.name)
        ))
        .at(entry.key, label)
        .help(format!("its points are {}", all_of(known))),
    );
}

/// A point's name must leave room for what the gateway writes beside it.
pub(super) fn is_free_name(cx: &mut Cx<'_>, name: &str, span: Span) -> bool {
    if !names::RESERVED_POINTS.contains(&name) {
        return true;
    }
    cx.error(
        span,
        format!("`{name}` is reserved"),
        "the gateway writes a topic of this name itself",
        format!("reserved are {}", all_of(names::RESERVED_POINTS)),
    );
    false
}
