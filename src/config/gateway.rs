//! `[gateway]`, `[log]` and `[control]`: who we are, what we say, and where we are spoken to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::common::Common;
use super::diagnostic::{all_of, shown};
use super::names;
use super::place::{self, Place};
use super::read::{At, Cx, Section};
use super::tree::{Table, Value};
use super::{ControlSettings, LogLevel, LogSettings};
use crate::pipeline::settings::TimeFormat;

/// `[gateway]`, with its defaults filled in.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) name: Box<str>,
    pub(super) base_topic: Box<str>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) time_format: TimeFormat,
    pub(super) defaults: Common,
}

/// How times are written, by their words.
pub(super) const TIME_FORMATS: [(&str, TimeFormat); 3] = [
    ("rfc3339", TimeFormat::Rfc3339),
    ("unix_ms", TimeFormat::UnixMillis),
    ("unix_ns", TimeFormat::UnixNanos),
];

impl Gateway {
    pub(super) fn read(cx: &mut Cx<'_>, root: &Section<'_>) -> Self {
        let section = root
            .get(cx, "gateway")
            .and_then(|entry| Section::open(cx, Place::Gateway, "gateway", entry));
        let mut gateway = Self {
            name: names::from_hostname(&cx.environment.hostname).into(),
            base_topic: "".into(),
            data_dir: cx.environment.state_directory.clone(),
            time_format: TimeFormat::default(),
            defaults: Common::default(),
        };
        let mut base_topic = None;
        if let Some(section) = section {
            if let Some(entry) = section.get(cx, "name")
                && let Some(name) = cx.text(entry, "\"shed\"")
            {
                if names::is_name(name) {
                    gateway.name = name.into();
                } else {
                    let help = match names::nearest_name(name) {
                        Some(near) => format!("for example `name = \"{near}\"`"),
                        None => String::from("it becomes part of client ids and topics"),
                    };
                    cx.error(
                        entry.node.span,
                        format!("{} is not a name", shown(name)),
                        "a name has a-z, 0-9, `_` and `-`, and 63 of them at most",
                        help,
                    );
                }
            }
            base_topic = section.get(cx, "base_topic").and_then(|entry| {
                let topic = cx.text(entry, "\"plant/shed\"")?;
                match names::topic_error(topic) {
                    None => Some(topic.into()),
                    Some(wrong) => {
                        let title = format!("{} is not a base topic", shown(topic));
                        let help = "for example `base_topic = \"plant/shed\"`";
                        cx.error(entry.node.span, title, wrong, help);
                        None
                    }
                }
            });
            if let Some(entry) = section.get(cx, "data_dir") {
                gateway.data_dir = cx
                    .path(entry, "\"/var/lib/fieldgate\"")
                    .map(|path| PathBuf::from(&*path));
            }
            if let Some(entry) = section.get(cx, "time_format")
                && let Some(format) = cx.choice(entry, &TIME_FORMATS)
            {
                gateway.time_format = format;
            }
            if let Some(entry) = section.get(cx, "defaults")
                && let Some(section) = Section::open(cx, Place::Defaults, "gateway.defaults", entry)
            {
                gateway.defaults = Common::read(cx, &section);
            }
        }
        gateway.base_topic = base_topic.unwrap_or_else(|| gateway.name.clone());
        gateway
    }
}

/// Log levels by their words.
pub(super) const LEVELS: [(&str, LogLevel); 6] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
    ("off", LogLevel::Off),
];

/// The modules whose level can be set: those of the crate's root that log.
const MODULES: [&str; 10] = [
    "mqtt", "broker", "bridge", "journal", "field", "pipeline", "gateway", "config", "host", "cli",
];

/// `[log]`
pub(super) fn log(cx: &mut Cx<'_>, root: &Section<'_>) -> LogSettings {
    let mut settings = LogSettings::default();
    let section = root
        .get(cx, "log")
        .and_then(|entry| Section::open(cx, Place::Log, "log", entry));
    let Some(section) = section else {
        return settings;
    };
    if let Some(entry) = section.get(cx, "level")
        && let Some(level) = cx.choice(entry, &LEVELS)
    {
        settings.level = level;
    }
    if let Some(entry) = section.get(cx, "levels") {
        match &entry.node.value {
            Value::Table(table) => settings.levels = levels(cx, table),
            other => cx.error(
                entry.node.span,
                "`levels` is a table of modules and their levels",
                format!("this is {}", other.type_name()),
                "for example `levels = { broker = \"debug\" }`",
            ),
        }
    }
    settings
}

/// Modules with a level of their own at most.
const LEVELS_MAX: usize = 256;

fn levels(cx: &mut Cx<'_>, table: &Table) -> BTreeMap<Box<str>, LogLevel> {
    let mut levels = BTreeMap::new();
    if let Some(entry) = table.entries().nth(LEVELS_MAX) {
        let title = format!("more than {LEVELS_MAX} modules with a level of their own");
        cx.error(
            entry.key,
            title,
            "",
            "name what they have in common: `host`",
        );
    }
    for entry in table.entries().take(LEVELS_MAX) {
        cx.origin(format!("log.levels.{}", entry.name), entry.key);
        let segments: Vec<&str> = entry.name.split("::").collect();
        let is_segment = |segment: &&str| {
            !segment.is_empty()
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if MODULES.contains(&segments[0]) && segments.iter().all(is_segment) {
            if let Some(level) = cx.choice(entry, &LEVELS) {
                levels.insert(entry.name.as_str().into(), level);
            }
        } else {
            let label = match place::nearest(segments[0], MODULES) {
                Some(module) => format!("did you mean `{module}`?"),
                None => String::new(),
            };
            cx.error(
                entry.key,
                format!("{} is not a module of fieldgate", shown(&entry.name)),
                label,
                format!(
                    "modules are {}, and what is inside of them: \"host::net\"",
                    all_of(MODULES)
                ),
            );
        }
    }
    levels
}

/// Where the control socket is when nobody says so.
const CONTROL_FOLDER: &str = "/run/fieldgate";

/// `[control]`
pub(super) fn control(cx: &mut Cx<'_>, root: &Section<'_>) -> At<ControlSettings> {
    let folder = cx.environment.runtime_directory.as_deref();
    let folder = folder.unwrap_or_else(|| Path::new(CONTROL_FOLDER));
    let mut settings = At {
        value: ControlSettings {
            socket: folder.join("control.sock").to_string_lossy().into(),
            group: None,
        },
        span: root.span,
    };
    let section = root
        .get(cx, "control")
        .and_then(|entry| Section::open(cx, Place::Control, "control", entry));
    let Some(section) = section else {
        return settings;
    };
    if let Some(entry) = section.get(cx, "socket")
        && let Some(path) = cx.path(entry, "\"/run/fieldgate/control.sock\"")
        && super::listener::fits_socket(cx, &path, entry.node.span)
    {
        settings = At {
            value: ControlSettings {
                socket: path,
                group: None,
            },
            span: entry.node.span,
        };
    }
    if let Some(entry) = section.get(cx, "group") {
        settings.value.group = super::listener::group(cx, entry);
    }
    settings
}
