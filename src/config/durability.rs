//! `[broker.durability]`: what an acknowledgement waits for, topic by topic.

use super::diagnostic::{Diagnostic, shown};
use super::journal::SYNC_TIMES;
use super::place::Place;
use super::read::{Cx, Section};
use super::tree::{Entry, Node, Value};
use crate::broker::settings::{Durability, Level};
use crate::mqtt::TopicFilter;

/// Rules at most: every message of a durable session is held against them, one after the other.
const RULES_MAX: usize = 256;

/// Levels that are a word.
pub(super) const LEVELS: [(&str, Level); 2] = [("strict", Level::Strict), ("none", Level::None)];

const EXAMPLE: &str = "rules = [{ filter = \"shed/+/raw/#\", level = \"none\" }]";

/// `[broker.durability]`, if it is there.
pub(super) fn read(cx: &mut Cx<'_>, broker: &Section<'_>) -> Durability {
    let mut durability = Durability::default();
    let path = broker.key_path("durability");
    let section = broker
        .get(cx, "durability")
        .and_then(|entry| Section::open(cx, Place::Durability, path, entry));
    let Some(section) = section else {
        return durability;
    };
    if let Some(entry) = section.get(cx, "default")
        && let Some(default) = level(cx, &section, entry)
    {
        durability.default = default;
    }
    if let Some(entry) = section.get(cx, "rules") {
        durability.rules = rules(cx, &section, entry);
    }
    durability
}

fn rules(cx: &mut Cx<'_>, section: &Section<'_>, entry: &Entry) -> Vec<(Box<str>, Level)> {
    let Value::Array(items) = &entry.node.value else {
        let help = format!("for example `{EXAMPLE}`");
        cx.error(entry.node.span, "`rules` is a list of tables", "", help);
        return Vec::new();
    };
    let mut rules: Vec<(Box<str>, Level)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if index == RULES_MAX {
            cx.push(Diagnostic::error(format!("more than {RULES_MAX} rules")).at(item.span, ""));
            break;
        }
        rules.extend(rule(cx, section, index, item));
    }
    rules
}

fn rule(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    index: usize,
    item: &Node,
) -> Option<(Box<str>, Level)> {
    if !matches!(item.value, Value::Table(_)) {
        let help = format!("for example `{EXAMPLE}`");
        cx.error(item.span, "`rules` is a list of tables", "", help);
        return None;
    }
    let item = Entry {
        name: "rules".into(),
        key: item.span,
        node: item.clone(),
    };
    let path = format!("{}.{index}", section.key_path("rules"));
    let rule = Section::open(cx, Place::DurabilityRule, path, &item)?;
    let filter = rule.get(cx, "filter");
    if filter.is_none() {
        missing(cx, &rule, "filter", "filter = \"shed/+/raw/#\"");
    }
    let level = if let Some(entry) = rule.get(cx, "level") {
        level(cx, &rule, entry)
    } else {
        missing(cx, &rule, "level", "level = \"none\"");
        None
    };
    let filter = filter.and_then(|entry| self::filter(cx, entry))?;
    Some((filter, level?))
}

fn missing(cx: &mut Cx<'_>, section: &Section<'_>, key: &str, example: &str) {
    let title = format!("a rule of `[broker.durability]` has no `{key}`");
    cx.error(section.span, title, "", format!("for example `{example}`"));
}

fn filter(cx: &mut Cx<'_>, entry: &Entry) -> Option<Box<str>> {
    let text = cx.text(entry, "\"shed/+/raw/#\"")?;
    match TopicFilter::new(text) {
        Ok(filter) if !filter.is_shared() => Some(text.into()),
        Ok(_) => {
            let help = "the filter behind `$share/NAME/` names the same topics";
            cx.error(entry.node.span, "a rule has no shared filter", "", help);
            None
        }
        Err(error) => {
            let title = format!("{} is no topic filter", shown(text));
            cx.push(Diagnostic::error(title).at(entry.node.span, error.to_string()));
            None
        }
    }
}

/// A word, or `{ interval = "1s" }`.
fn level(cx: &mut Cx<'_>, section: &Section<'_>, entry: &Entry) -> Option<Level> {
    let key = &entry.name;
    match &entry.node.value {
        Value::Text(text) if text == "interval" => {
            let help = format!("write `{key} = {{ interval = \"1s\" }}`");
            cx.error(entry.node.span, "an interval has a length", "", help);
            None
        }
        Value::Table(_) => {
            let path = section.key_path(key);
            let interval = Section::open(cx, Place::Interval, path, entry)?;
            let Some(entry) = interval.get(cx, "interval") else {
                let help = format!("write `{key} = {{ interval = \"1s\" }}`");
                cx.error(entry.node.span, "an interval has a length", "", help);
                return None;
            };
            cx.duration(entry, &SYNC_TIMES).map(Level::Interval)
        }
        _ => cx.choice(entry, &LEVELS),
    }
}
