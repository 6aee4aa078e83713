//! `driver = "lines"`: text lines on a serial port, a point for each named group of a pattern, and
//! commands.

use std::collections::BTreeMap;

use regex_lite::RegexBuilder;

use super::bus::{self, Buses};
use super::common::{self, Common};
use super::device::{Drafts, PointDraft, is_free_name};
use super::diagnostic::{Diagnostic, all_of, shown};
use super::names;
use super::place::Place;
use super::read::{Cx, Section};
use super::tree::{Entry, Value};
use super::wiring::Wiring;
use crate::field::settings::{Driver, LinesPoint, LinesSettings, TextKind};
use crate::pipeline::settings::ValueType;

/// Bytes of a pattern at most: it is matched against every line.
const PATTERN_MAX: usize = 4096;

/// Bytes that a compiled pattern may take.
const PROGRAM_MAX: usize = 1 << 20;

/// Bytes of a command or a question at most.
const COMMAND_MAX: usize = 512;

/// Points of one device at most.
const POINTS_MAX: usize = 64;

/// A line longer than this is discarded when the file says nothing else.
pub(super) const LINE_MAX: usize = 1024;

/// How values are understood, by their words.
pub(super) const TYPES: [(&str, TextKind); 3] = [
    ("number", TextKind::Number),
    ("bool", TextKind::Bool),
    ("text", TextKind::Text),
];

/// What stands for the value in a command.
const VALUE: &str = "{value}";

/// How booleans are written on the wire when the file says nothing else.
pub(super) const WORDS: (&str, &str) = ("0", "1");

/// `bus`, `pattern`, `poll` and the points. Where something is wrong and has been reported, what is
/// right is read all the same, so that the settings of its points are judged too.
pub(super) fn read(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    own: &Common,
    buses: &mut Buses,
    wiring: &mut Wiring,
) -> Option<(Driver, Drafts)> {
    let before = cx.out.errors();
    let port = if let Some(entry) = section.get(cx, "bus") {
        buses
            .serial(cx, entry)
            .map(|(name, port)| (name, port, entry.key))
    } else {
        let help = "declare the port as [serial.NAME] and write `bus = \"serial.NAME\"`";
        section.missing(cx, "bus", help);
        None
    };
    let pattern = section.get(cx, "pattern");
    let groups = pattern.and_then(|entry| groups(cx, entry));
    let poll_entry = section.get(cx, "poll");
    let poll = poll_entry.and_then(|entry| sent(cx, entry, "\"W\\r\\n\""));
    if let (Some(entry), None) = (poll_entry, pattern) {
        let help = "add a `pattern` with a named group for each value";
        cx.error(
            entry.key,
            "`poll` asks, and no `pattern` reads the answer",
            "",
            help,
        );
    }
    let line_max = section.get(cx, "line_max");
    let line_max = line_max.and_then(|entry| cx.size(entry, 16..=65_536, "1KiB"));
    let pattern_is_right = pattern.is_none() || groups.is_some();
    let groups = groups.unwrap_or_default();
    let (points, drafts) = points(cx, section, &groups, pattern_is_right);
    if points.is_empty() && cx.out.errors() == before && common::is_enabled(own, &Common::default())
    {
        let help = "a `pattern` with named groups, `'(?<weight>[-+0-9.]+) kg'`, or points with a \
            `command`";
        cx.error(
            section.span,
            format!("{} has no points", section.header()),
            "",
            help,
        );
    }
    if points.is_empty() {
        return None;
    }
    let (port_name, port) = match port {
        Some((name, port, span)) => {
            wiring.serial(&port.path, span);
            (name, port)
        }
        None => ("".into(), bus::stand_in()),
    };
    let pattern = pattern.and_then(|entry| match &entry.node.value {
        Value::Text(text) => Some(text.as_str().into()),
        _ => None,
    });
    Some((
        Driver::Lines(LinesSettings {
            port_name,
            port,
            pattern,
            poll,
            line_max: line_max.map_or(LINE_MAX, |bytes| bytes as usize),
            points,
        }),
        drafts,
    ))
}

/// The named groups of a pattern, in its order.
fn groups(cx: &mut Cx<'_>, entry: &Entry) -> Option<Vec<String>> {
    let pattern = cx.text(entry, "'(?<weight>[-+0-9.]+) kg'")?;
    let span = entry.node.span;
    if pattern.len() > PATTERN_MAX {
        let label = format!("{} bytes, {PATTERN_MAX} are allowed", pattern.len());
        cx.error(
            span,
            "the pattern is too long",
            label,
            "match only what you need of the line",
        );
        return None;
    }
    let regex = match RegexBuilder::new(pattern).size_limit(PROGRAM_MAX).build() {
        Ok(regex) => regex,
        Err(error) => {
            cx.push(
                Diagnostic::error("the pattern is not a regular expression")
                    .at(span, error.to_string())
                    .help(
                        "put it in single quotes, so that TOML leaves its backslashes alone; \
                        groups are `(?<name>…)`",
                    ),
            );
            return None;
        }
    };
    let groups: Vec<String> = regex.capture_names().flatten().map(str::to_owned).collect();
    if groups.is_empty() {
        let help = "each value is a named group: `'weight: (?<weight>[-+0-9.]+)'`";
        cx.error(span, "the pattern has no named group", "", help);
        return None;
    }
    let mut right = true;
    for group in &groups {
        if names::is_name(group) {
            right &= is_free_name(cx, group, span);
        } else {
            right = false;
            let help = match names::nearest_name(group) {
                Some(near) => format!("for example `(?<{near}>…)`"),
                None => String::from("a name has a-z, 0-9 and `_`"),
            };
            let title = format!("{} is not a point's name", shown(group));
            cx.error(span, title, "a group of this pattern", help);
        }
    }
    if groups.len() > POINTS_MAX {
        let title = format!("more than {POINTS_MAX} named groups");
        cx.error(
            span,
            title,
            "",
            "make several devices of them: they may share the port",
        );
        return None;
    }
    right.then_some(groups)
}

/// The groups of the pattern, and the points that the file writes.
fn points(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    groups: &[String],
    pattern_is_right: bool,
) -> (BTreeMap<Box<str>, LinesPoint>, Drafts) {
    let mut points = BTreeMap::new();
    let mut drafts = Drafts::new();
    for group in groups {
        points.insert(
            group.as_str().into(),
            LinesPoint {
                kind: TextKind::Number,
                read: true,
                command: None,
                booleans: (WORDS.0.into(), WORDS.1.into()),
            },
        );
    }
    let entries = cx.named(
        section.table(),
        "point",
        "[device.NAME.point.NAME]",
        names::is_name,
    );
    for entry in entries.iter().take(POINTS_MAX) {
        let path = format!("{}.point.{}", section.path, entry.name);
        let Some(point) = Section::open(cx, Place::TextPoint, path, entry) else {
            continue;
        };
        let is_read = groups.contains(&entry.name);
        if !is_read && !is_free_name(cx, &entry.name, entry.key) {
            continue;
        }
        let is_twin = |group: &&String| names::folded(group) == names::folded(&entry.name);
        if let Some(twin) = groups.iter().find(is_twin).filter(|_| !is_read) {
            cx.error(
                entry.key,
                format!("`{twin}` and `{}` differ only by `-` and `_`", entry.name),
                "the other one is a group of the pattern",
                format!("write `{twin}`, or give one of them another name"),
            );
            continue;
        }
        let name: Box<str> = entry.name.as_str().into();
        let (settings, draft) = one(cx, &point, is_read, entry);
        let is_command = settings.command.is_some() || point.table().get("command").is_some();
        if !is_read && !is_command {
            if pattern_is_right {
                nothing_says_it(cx, entry, groups);
            }
            continue;
        }
        if common::is_enabled(&draft.common, &Common::default()) {
            points.insert(name.clone(), settings);
            drafts.insert(name, draft);
        } else {
            points.remove(&name);
        }
    }
    if let Some(entry) = entries.get(POINTS_MAX) {
        let title = format!("more than {POINTS_MAX} points");
        cx.error(
            entry.key,
            title,
            "",
            "make several devices of them: they may share the port",
        );
    }
    for name in points.keys() {
        drafts.entry(name.clone()).or_insert_with(|| PointDraft {
            common: Common::default(),
            values: ValueType::Number,
            span: section.span,
            label: None,
        });
    }
    (points, drafts)
}

fn nothing_says_it(cx: &mut Cx<'_>, entry: &Entry, groups: &[String]) {
    let label = match super::place::nearest(&entry.name, groups.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => String::from("no group of the pattern, and no `command`"),
    };
    let help = if groups.is_empty() {
        String::from("give it a `command`, or the device a `pattern`")
    } else {
        format!("the pattern's groups are {}", all_of(groups))
    };
    let title = format!("nothing reads or writes {}", shown(&entry.name));
    cx.error(entry.key, title, label, help);
}

fn one(
    cx: &mut Cx<'_>,
    point: &Section<'_>,
    is_read: bool,
    entry: &Entry,
) -> (LinesPoint, PointDraft) {
    let kind = point.get(cx, "type");
    let kind = kind
        .and_then(|entry| cx.choice(entry, &TYPES))
        .unwrap_or(TextKind::Number);
    let words_entry = point.get(cx, "words");
    let words = words_entry.and_then(|entry| cx.pair(entry));
    if let Some(entry) = words_entry.filter(|_| kind != TextKind::Bool) {
        cx.error(
            entry.key,
            "`words` are for booleans",
            "without effect here",
            "add `type = \"bool\"`, or take it out",
        );
    }
    let command_entry = point.get(cx, "command");
    let command = command_entry.and_then(|entry| sent(cx, entry, "\"PUMP {value}\\n\""));
    if let (Some(command), Some(entry)) = (&command, command_entry)
        && !command.contains(VALUE)
        && kind != TextKind::Bool
    {
        let help = "`{value}` stands for the value: `command = \"SET {value}\\n\"`";
        cx.error(
            entry.node.span,
            "the command says nothing of the value",
            "",
            help,
        );
    }
    let draft = PointDraft {
        common: Common::read(cx, point),
        values: match kind {
            TextKind::Number => ValueType::Number,
            TextKind::Bool => ValueType::Bool,
            TextKind::Text => ValueType::Text,
        },
        span: entry.key,
        label: common::label(cx, point),
    };
    let settings = LinesPoint {
        kind,
        read: is_read,
        command,
        booleans: words.unwrap_or_else(|| (WORDS.0.into(), WORDS.1.into())),
    };
    (settings, draft)
}

/// Bytes to send, terminator included.
fn sent(cx: &mut Cx<'_>, entry: &Entry, example: &str) -> Option<Box<str>> {
    let text = cx.text(entry, example)?;
    let span = entry.node.span;
    if text.is_empty() || text.len() > COMMAND_MAX {
        let title = format!("`{}` has 1 to {COMMAND_MAX} bytes", entry.name);
        cx.error(
            span,
            title,
            "",
            format!("for example `{} = {example}`", entry.name),
        );
        return None;
    }
    if text.contains("\\n") || text.contains("\\r") {
        cx.push(
            Diagnostic::error(format!(
                "`{}` would send a backslash and a letter",
                entry.name
            ))
            .at(span, "in single quotes nothing is escaped")
            .help(format!("use double quotes: `{} = {example}`", entry.name)),
        );
        return None;
    }
    if !text.ends_with(['\n', '\r']) {
        cx.push(
            Diagnostic::warning(format!("`{}` does not end a line", entry.name))
                .at(span, "")
                .help(format!(
                    "most devices wait for the end: `{} = {example}`",
                    entry.name
                )),
        );
    }
    Some(text.into())
}
