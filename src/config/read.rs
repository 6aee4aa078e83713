//! Reading values out of the tree: one function for each sort of value, each of which says what is
//! wrong and what would be right. What is wrong is reported and read as absent, so that one mistake
//! never hides another.

use core::ops::RangeInclusive;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Environment;
use super::diagnostic::{Diagnostic, Diagnostics, Span, all_of, shown};
use super::later;
use super::names;
use super::place::{self, Place};
use super::tree::{Entry, Node, Table, Value};
use super::words;
use crate::time::Duration;
use crate::units;

/// A rate of more than this is no limit, and should be written so.
const RATE_MAX: u64 = 1 << 40;

/// A value and the key that gave it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// What every reader needs: where to report, and where relative paths start.
#[derive(Debug)]
pub(super) struct Cx<'e> {
    pub(super) out: Diagnostics,
    pub(super) environment: &'e Environment,
    /// Which key gave which setting, by dotted path.
    pub(super) origins: BTreeMap<String, Span>,
    /// Texts that stood without quotes: that has been said.
    unquoted: BTreeSet<Span>,
}

impl<'e> Cx<'e> {
    pub(super) fn new(
        out: Diagnostics,
        environment: &'e Environment,
        unquoted: BTreeSet<Span>,
    ) -> Self {
        Self {
            out,
            environment,
            origins: BTreeMap::new(),
            unquoted,
        }
    }

    /// Whether a value is a text only because it stood without quotes: `yes`.
    pub(super) fn is_unquoted(&self, entry: &Entry) -> bool {
        self.unquoted.contains(&entry.node.span)
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.out.push(diagnostic);
    }

    /// An error at a place, with what would be right.
    pub(super) fn error(
        &mut self,
        span: Span,
        title: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Diagnostic::error(title).at(span, label).help(help));
    }

    /// Remembers which key gave a setting.
    pub(super) fn origin(&mut self, path: impl Into<String>, span: Span) {
        self.origins.insert(path.into(), span);
    }

    fn wrong_type(&mut self, entry: &Entry, wanted: &str, example: &str) {
        if self.is_unquoted(entry) {
            return;
        }
        let found = entry.node.value.type_name();
        let mut error = Diagnostic::error(format!("{} is {wanted}", shown(&entry.name)))
            .at(entry.node.span, format!("this is {found}"));
        if !example.is_empty() {
            error = error.help(format!("for example `{} = {example}`", entry.name));
        }
        self.push(error);
    }

    /// A text.
    pub(super) fn text<'t>(&mut self, entry: &'t Entry, example: &str) -> Option<&'t str> {
        if let Value::Text(text) = &entry.node.value {
            return Some(text);
        }
        self.wrong_type(entry, "a text in quotes", example);
        None
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, entry: &Entry) -> Option<bool> {
        if let Value::Bool(flag) = entry.node.value {
            return Some(flag);
        }
        let example = match &entry.node.value {
            Value::Text(text) if text == "false" || text == "off" || text == "no" => "false",
            _ => "true",
        };
        self.wrong_type(entry, "true or false, without quotes", example);
        None
    }

    /// A whole number in a range.
    pub(super) fn whole(&mut self, entry: &Entry, range: RangeInclusive<u64>) -> Option<u64> {
        let Value::Integer(number) = entry.node.value else {
            let quoted = match &entry.node.value {
                Value::Text(text) => text.parse().ok().filter(|number| range.contains(number)),
                _ => None,
            };
            let example = quoted.unwrap_or(*range.start()).to_string();
            self.wrong_type(entry, "a whole number, without quotes", &example);
            return None;
        };
        let fits = number
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| range.contains(number));
        if fits.is_none() {
            self.error(
                entry.node.span,
                format!("{} is out of range", shown(&entry.name)),
                "",
                format!("it goes from {} to {}", range.start(), range.end()),
            );
        }
        fits
    }

    /// A whole number, or `"off"` for none.
    #[expect(
        clippy::option_option,
        reason = "wrong, switched off, and set are three different things"
    )]
    pub(super) fn whole_or_off(
        &mut self,
        entry: &Entry,
        range: RangeInclusive<u64>,
    ) -> Option<Option<u64>> {
        match &entry.node.value {
            Value::Text(text) if text == "off" => Some(None),
            Value::Integer(Some(0)) => {
                self.zero_is_off(entry);
                None
            }
            _ => self.whole(entry, range).map(Some),
        }
    }

    fn zero_is_off(&mut self, entry: &Entry) {
        self.error(
            entry.node.span,
            format!("{} is never 0", shown(&entry.name)),
            "",
            format!("write `{} = \"off\"`", entry.name),
        );
    }

    /// A finite number.
    pub(super) fn number(&mut self, entry: &Entry) -> Option<f64> {
        let number = match entry.node.value {
            Value::Integer(Some(number)) => number as f64,
            Value::Float(number) => number,
            _ => {
                let quoted = match &entry.node.value {
                    Value::Text(text) => text.parse::<f64>().ok().filter(|it| it.is_finite()),
                    _ => None,
                };
                let example = format!("{:?}", quoted.unwrap_or(1.5));
                self.wrong_type(entry, "a number, without quotes", &example);
                return None;
            }
        };
        if !number.is_finite() {
            self.error(
                entry.node.span,
                format!("{} is a finite number", shown(&entry.name)),
                "",
                format!("for example `{} = 1.5`", entry.name),
            );
            return None;
        }
        Some(number)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, entry: &Entry, words: &[(&str, T)]) -> Option<T> {
        let example = format!("\"{}\"", words[0].0);
        let text = self.text(entry, &example)?;
        self.word(&entry.name, text, entry.node.span, words)
    }

    /// One of a few words, wherever it stands.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &str,
        text: &str,
        span: Span,
        words: &[(&str, T)],
    ) -> Option<T> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if let Some(what) = later::value(key, text) {
            self.push(later::refusal(&what, span));
            return None;
        }
        let names = || words.iter().map(|(word, _)| *word);
        let label = match place::nearest(text, names()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => String::new(),
        };
        let title = format!("{} is no value of `{key}`", shown(text));
        let list: Vec<String> = names().map(|word| format!("\"{word}\"")).collect();
        let help = format!("it is one of {}", list.join(", "));
        self.error(span, title, label, help);
        None
    }

    /// A duration with its unit.
    pub(super) fn duration(&mut self, entry: &Entry, times: &Times) -> Option<Duration> {
        let text = match &entry.node.value {
            Value::Text(text) => text,
            Value::Integer(_) | Value::Float(_) => {
                self.bare_duration(entry, times);
                return None;
            }
            _ => {
                self.wrong_type(
                    entry,
                    "a duration with its unit",
                    &format!("\"{}\"", times.example),
                );
                return None;
            }
        };
        if text == "off" || text == "unlimited" {
            self.error(
                entry.node.span,
                format!("{} cannot be {text}", shown(&entry.name)),
                "",
                format!("for example `{} = \"{}\"`", entry.name, times.example),
            );
            return None;
        }
        match units::parse_duration(text) {
            Ok(duration) if duration.is_zero() && times.off => {
                self.zero_is_off(entry);
                None
            }
            Ok(duration) if (times.min..=times.max).contains(&duration) => Some(duration),
            Ok(_) => {
                let (min, max) = (
                    units::format_duration(times.min),
                    units::format_duration(times.max),
                );
                self.error(
                    entry.node.span,
                    format!("{} is out of range", shown(&entry.name)),
                    "",
                    format!("it goes from \"{min}\" to \"{max}\""),
                );
                None
            }
            Err(error) => {
                self.bad_unit(entry, "duration", &error, times.example);
                None
            }
        }
    }

    /// A duration, or `"off"` for none.
    #[expect(
        clippy::option_option,
        reason = "wrong, switched off, and set are three different things"
    )]
    pub(super) fn duration_or_off(
        &mut self,
        entry: &Entry,
        times: &Times,
    ) -> Option<Option<Duration>> {
        match &entry.node.value {
            Value::Text(text) if text == "off" => Some(None),
            _ => self.duration(entry, times).map(Some),
        }
    }

    fn bare_duration(&mut self, entry: &Entry, times: &Times) {
        let name = &entry.name;
        let help = match entry.node.value {
            Value::Integer(Some(0)) if times.off => format!("write `{name} = \"off\"`"),
            Value::Integer(Some(number)) if number > 0 => {
                let usual = times.unit;
                let other = if usual == "ms" { "s" } else { "ms" };
                format!(
                    "`{name} = \"{number}{usual}\"`, or \"{number}{other}\"; units are us, ms, s, \
                        m, h, d"
                )
            }
            _ => format!("for example `{name} = \"{}\"`", times.example),
        };
        self.error(
            entry.node.span,
            format!("{} is a duration and needs a unit", shown(name)),
            "of what?",
            help,
        );
    }

    fn bad_unit(&mut self, entry: &Entry, what: &str, error: &units::UnitError, example: &str) {
        let help = match &error.instead {
            Some(instead) => format!("write \"{instead}\""),
            None => format!("for example `{} = \"{example}\"`", entry.name),
        };
        self.error(
            entry.node.span,
            format!("{} is not a {what}", shown_text(&entry.node)),
            error.wrong.clone(),
            help,
        );
    }

    /// So many in a time, or `"unlimited"` for no limit; `parse` is one of [`units`].
    #[expect(
        clippy::option_option,
        reason = "the outer one is about the file, the inner one about what it says"
    )]
    pub(super) fn rate_or_unlimited(
        &mut self,
        entry: &Entry,
        parse: fn(&str) -> Result<units::Rate, units::UnitError>,
        example: &str,
    ) -> Option<Option<units::Rate>> {
        let text = match &entry.node.value {
            Value::Text(text) if text == "unlimited" => return Some(None),
            Value::Text(text) => text.clone(),
            Value::Integer(Some(number)) => number.to_string(),
            _ => {
                let what = "so many in a time";
                self.wrong_type(entry, what, &format!("\"{example}\""));
                return None;
            }
        };
        match parse(&text) {
            Ok(rate) if rate.count <= RATE_MAX => Some(Some(rate)),
            Ok(_) => {
                self.error(
                    entry.node.span,
                    format!("{} is out of range", shown(&entry.name)),
                    "",
                    format!("no limit is `{} = \"unlimited\"`", entry.name),
                );
                None
            }
            Err(error) => {
                self.bad_unit(entry, "rate", &error, example);
                None
            }
        }
    }

    /// A whole number, or `"unlimited"` for no limit.
    #[expect(
        clippy::option_option,
        reason = "the outer one is about the file, the inner one about what it says"
    )]
    pub(super) fn whole_or_unlimited(
        &mut self,
        entry: &Entry,
        range: RangeInclusive<u64>,
    ) -> Option<Option<u64>> {
        match &entry.node.value {
            Value::Text(text) if text == "unlimited" => Some(None),
            _ => self.whole(entry, range).map(Some),
        }
    }

    /// A size with its unit, in bytes.
    pub(super) fn size(
        &mut self,
        entry: &Entry,
        range: RangeInclusive<u64>,
        example: &str,
    ) -> Option<u64> {
        let text = match &entry.node.value {
            Value::Text(text) => text,
            Value::Integer(Some(number)) => {
                let help = match u64::try_from(*number) {
                    Ok(bytes) if bytes > 0 => {
                        let size = units::format_size(bytes);
                        format!("`{} = \"{size}\"`, if bytes are meant", entry.name)
                    }
                    _ => format!("for example `{} = \"{example}\"`", entry.name),
                };
                let title = format!("{} is a size and needs a unit", shown(&entry.name));
                self.error(entry.node.span, title, "of what?", help);
                return None;
            }
            _ => {
                self.wrong_type(entry, "a size with its unit", &format!("\"{example}\""));
                return None;
            }
        };
        if text == "off" || text == "unlimited" {
            self.error(
                entry.node.span,
                format!("{} cannot be {text}", shown(&entry.name)),
                "",
                format!(
                    "everything has a limit here; for example `{} = \"{example}\"`",
                    entry.name
                ),
            );
            return None;
        }
        match units::parse_size(text) {
            Ok(bytes) if range.contains(&bytes) => Some(bytes),
            Ok(_) => {
                let (min, max) = (
                    units::format_size(*range.start()),
                    units::format_size(*range.end()),
                );
                self.error(
                    entry.node.span,
                    format!("{} is out of range", shown(&entry.name)),
                    "",
                    format!("it goes from \"{min}\" to \"{max}\""),
                );
                None
            }
            Err(error) => {
                self.bad_unit(entry, "size", &error, example);
                None
            }
        }
    }

    /// Two different texts: for inactive and for active.
    pub(super) fn pair(&mut self, entry: &Entry) -> Option<(Box<str>, Box<str>)> {
        let example = "[\"OFF\", \"ON\"]";
        let Value::Array(items) = &entry.node.value else {
            self.wrong_type(entry, "a list of two texts: inactive, active", example);
            return None;
        };
        let texts: Vec<&str> = items
            .iter()
            .filter_map(|item| match &item.value {
                Value::Text(text) if !text.is_empty() => Some(text.as_str()),
                _ => None,
            })
            .collect();
        match (items.len(), &texts[..]) {
            (2, [inactive, active]) if inactive != active => {
                Some(((*inactive).into(), (*active).into()))
            }
            _ => {
                let span = items.get(2).map_or(entry.node.span, |third| third.span);
                self.error(
                    span,
                    format!(
                        "{} is two different texts: inactive, active",
                        shown(&entry.name)
                    ),
                    "",
                    format!("for example `{} = {example}`", entry.name),
                );
                None
            }
        }
    }

    /// A text, or a list of texts: each with its place.
    pub(super) fn texts<'t>(&mut self, entry: &'t Entry, example: &str) -> Vec<At<&'t str>> {
        let nodes: Vec<&Node> = match &entry.node.value {
            Value::Array(items) => items.iter().collect(),
            _ => vec![&entry.node],
        };
        let mut texts = Vec::new();
        for node in nodes {
            if let Value::Text(text) = &node.value {
                texts.push(At {
                    value: text.as_str(),
                    span: node.span,
                });
            } else {
                self.error(
                    node.span,
                    format!("{} is a text, or a list of texts", shown(&entry.name)),
                    format!("this is {}", node.value.type_name()),
                    format!("for example `{} = {example}`", entry.name),
                );
            }
        }
        texts
    }

    /// A path; a relative one starts at the folder of the file that says it.
    pub(super) fn path(&mut self, entry: &Entry, example: &str) -> Option<Box<str>> {
        let text = self.text(entry, example)?;
        self.resolve(text, entry.node.span, &entry.name, example)
    }

    /// See [`Cx::path`].
    pub(super) fn resolve(
        &mut self,
        text: &str,
        span: Span,
        key: &str,
        example: &str,
    ) -> Option<Box<str>> {
        if text.is_empty() || text.chars().any(char::is_control) {
            self.error(
                span,
                format!("{} is not a path", shown(text)),
                "",
                format!("for example `{key} = {example}`"),
            );
            return None;
        }
        let path = Path::new(text);
        if path.is_absolute() {
            return Some(text.into());
        }
        let source = &self.out.sources()[span.file as usize].path;
        let folder = source.parent().unwrap_or_else(|| Path::new(""));
        let path = self.environment.current_directory.join(folder).join(path);
        Some(path.to_string_lossy().into())
    }

    /// The entries of a table of named tables, with their names checked.
    pub(super) fn named<'t>(
        &mut self,
        table: &'t Table,
        key: &'static str,
        header: &str,
        is_name: fn(&str) -> bool,
    ) -> Vec<&'t Entry> {
        let Some(entry) = table.get(key) else {
            return Vec::new();
        };
        let Value::Table(tables) = &entry.node.value else {
            let help = match words::of_line(key) {
                Some(help) => help,
                None => format!("write a table `{header}` with its keys below it"),
            };
            let title = format!("{} is not a value but a table", shown(key));
            self.error(entry.node.span, title, "", help);
            return Vec::new();
        };
        let mut seen: BTreeMap<String, &Entry> = BTreeMap::new();
        let mut named = Vec::new();
        for entry in tables.entries() {
            if !matches!(entry.node.value, Value::Table(_)) {
                self.error(
                    entry.key,
                    format!("{} stands where a name is expected", shown(&entry.name)),
                    "",
                    format!("tables are named: `{header}`"),
                );
                continue;
            }
            if !is_name(&entry.name) {
                let help = match names::nearest_name(&entry.name).filter(|near| is_name(near)) {
                    Some(near) => format!("for example `{near}`"),
                    None => format!("it is part of `{header}`"),
                };
                self.push(
                    Diagnostic::error(format!("{} is not a name", shown(&entry.name)))
                        .at(
                            entry.key,
                            "a name has a-z, 0-9, `_` and `-`, starts with one of a-z, 0-9, and \
                                has 63 at most",
                        )
                        .help(help),
                );
                continue;
            }
            if let Some(other) = seen.insert(names::folded(&entry.name), entry) {
                self.push(
                    Diagnostic::error(format!(
                        "`{}` and `{}` differ only by `-` and `_`",
                        other.name, entry.name
                    ))
                    .at(entry.key, "this one")
                    .also(other.key, "and this one")
                    .help("give one of them another name: people and other programs mix them up"),
                );
            }
            named.push(entry);
        }
        named
    }
}

/// The value's own text for a message.
fn shown_text(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => shown(text),
        other => other.type_name().to_owned(),
    }
}

/// What a duration may be.
#[derive(Debug)]
pub(super) struct Times {
    /// What people mean by a bare number here.
    pub(super) unit: &'static str,
    pub(super) min: Duration,
    pub(super) max: Duration,
    pub(super) example: &'static str,
    /// `"off"` is a word for it.
    pub(super) off: bool,
}

/// A table that is being read: its unknown keys have been reported.
#[derive(Debug)]
pub(super) struct Section<'t> {
    place: Place,
    /// `device.pump`
    pub(super) path: String,
    /// Of its header or name.
    pub(super) span: Span,
    table: &'t Table,
}

impl<'t> Section<'t> {
    /// Opens a table and reports every key that it does not take.
    pub(super) fn open(
        cx: &mut Cx<'_>,
        place: Place,
        path: impl Into<String>,
        entry: &'t Entry,
    ) -> Option<Self> {
        let path = path.into();
        let Value::Table(table) = &entry.node.value else {
            let help = match words::of_key(&entry.name) {
                Some(help) => help,
                None => format!("write a table `[{path}]` with its keys below it"),
            };
            let title = format!("{} is not a value but a table", shown(&entry.name));
            cx.error(entry.node.span, title, "", help);
            return None;
        };
        let section = Self {
            place,
            path,
            span: entry.key,
            table,
        };
        section.report_unknown(cx);
        Some(section)
    }

    /// The file itself.
    pub(super) fn root(cx: &mut Cx<'_>, table: &'t Table) -> Self {
        let section = Self {
            place: Place::Root,
            path: String::new(),
            span: Span::default(),
            table,
        };
        section.report_unknown(cx);
        section
    }

    fn report_unknown(&self, cx: &mut Cx<'_>) {
        for entry in self.table.entries() {
            if !self.place.keys().any(|key| key == entry.name) {
                cx.push(place::unknown_key(self.place, &self.path, entry));
            }
        }
    }

    /// The entry of a key, if it is there and this place takes it. Its origin is remembered.
    pub(super) fn get(&self, cx: &mut Cx<'_>, key: &'static str) -> Option<&'t Entry> {
        if !self.place.keys().any(|known| known == key) {
            return None;
        }
        let entry = self.table.get(key)?;
        cx.origin(self.key_path(key), entry.key);
        Some(entry)
    }

    /// `device.pump.every`
    pub(super) fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// All of it.
    pub(super) fn table(&self) -> &'t Table {
        self.table
    }

    /// `[device.pump]`, for messages.
    pub(super) fn header(&self) -> String {
        format!("`[{}]`", self.path)
    }

    /// That a key which must be given is not.
    pub(super) fn missing(&self, cx: &mut Cx<'_>, key: &str, help: impl Into<String>) {
        let title = format!("{} has no `{key}`", self.header());
        cx.error(self.span, title, "", help);
    }
}

/// `"off"`, `10ms` and the like in tables of what is allowed.
pub(super) const fn times(
    unit: &'static str,
    min: Duration,
    max: Duration,
    example: &'static str,
) -> Times {
    Times {
        unit,
        min,
        max,
        example,
        off: false,
    }
}

/// Like [`times`], where `"off"` is allowed too.
pub(super) const fn times_or_off(
    unit: &'static str,
    min: Duration,
    max: Duration,
    example: &'static str,
) -> Times {
    Times {
        off: true,
        ..times(unit, min, max, example)
    }
}

/// Names of things that were declared, for help.
pub(super) fn declared<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.into_iter().collect();
    (!names.is_empty()).then(|| all_of(names))
}
