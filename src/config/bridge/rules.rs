//! `[[bridge.NAME.send]]` and `[[bridge.NAME.receive]]`, and what they make together.

use std::collections::BTreeMap;

use super::super::diagnostic::{Diagnostic, Span, shown};
use super::super::place::Place;
use super::super::read::{Cx, Section};
use super::super::tree::{Entry, Value};
use super::two_places;
use crate::bridge::mapping::Mapping;
use crate::bridge::settings::{Keep, Lanes, Queued, ReceiveRule, SendRule, Settings, Version};
use crate::gateway::settings::DeviceConfig;
use crate::mqtt::{ProtocolVersion, QoS, TopicFilter};
use crate::pipeline::settings::PayloadFormat;

/// Rules of one bridge in one direction at most.
const RULES_MAX: usize = 1000;

/// Exceptions of one rule at most.
const EXCEPT_MAX: usize = 1000;

/// What waits while the link is down, by its word.
pub(in crate::config) const KEEPS: [(&str, Keep); 3] = [
    ("all", Keep::All),
    ("latest", Keep::Latest),
    ("none", Keep::Nothing),
];

/// By their number.
pub(in crate::config) const LANES: [(u64, Lanes); 2] = [(1, Lanes::One), (2, Lanes::Two)];

/// What becomes of commands that come late, by its word.
pub(in crate::config) const QUEUED: [(&str, Queued); 2] =
    [("refuse", Queued::Refuse), ("obey", Queued::Obey)];

/// A rule, and where what it says stands.
#[derive(Debug)]
pub(super) struct Placed<R> {
    pub(super) rule: R,
    pub(super) filter: Span,
    /// Of `filter`, where there is no `to`.
    pub(super) to: Span,
    pub(super) qos: Span,
    keep: Span,
}

/// All of one bridge.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) send: Vec<Placed<SendRule>>,
    pub(super) receive: Vec<Placed<ReceiveRule>>,
}

impl Rules {
    /// What the first rule that takes a local topic calls it upstream.
    pub(super) fn upstream_of(&self, local: &str) -> Option<Box<str>> {
        self.send.iter().find_map(|Placed { rule, .. }| {
            let mapping = Mapping::new(&rule.filter, rule.to.as_deref(), &rule.except).ok()?;
            mapping.map(local)
        })
    }
}

pub(super) fn read(cx: &mut Cx<'_>, bridge: &Section<'_>) -> Rules {
    let mut rules = Rules::default();
    each(cx, bridge, "send", Place::Send, |cx, section| {
        rules.send.extend(send(cx, section));
    });
    each(cx, bridge, "receive", Place::Receive, |cx, section| {
        rules.receive.extend(receive(cx, section));
    });
    rules
}

/// Each table of a list of tables.
fn each(
    cx: &mut Cx<'_>,
    bridge: &Section<'_>,
    key: &'static str,
    place: Place,
    mut one: impl FnMut(&mut Cx<'_>, &Section<'_>),
) {
    let Some(entry) = bridge.get(cx, key) else {
        return;
    };
    let path = bridge.key_path(key);
    let Value::Array(items) = &entry.node.value else {
        let title = format!("`{key}` is a list of tables");
        let help = format!("each rule is a table of its own: `[[{path}]]`");
        cx.error(entry.node.span, title, "", help);
        return;
    };
    for (index, item) in items.iter().enumerate() {
        if index == RULES_MAX {
            let title = format!("more than {RULES_MAX} rules");
            cx.push(Diagnostic::error(title).at(item.span, ""));
            return;
        }
        let item = Entry {
            name: key.into(),
            key: item.span,
            node: item.clone(),
        };
        if let Some(section) = Section::open(cx, place, format!("{path}.{index}"), &item) {
            one(cx, &section);
        }
    }
}

fn send(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<Placed<SendRule>> {
    const EXAMPLE: &str = "\"shed/#\"";
    let qos_entry = section.get(cx, "qos");
    let qos = qos(cx, qos_entry);
    let keep_entry = section.get(cx, "keep");
    let keep = keep_entry.and_then(|entry| cx.choice(entry, &KEEPS));
    let lanes = section.get(cx, "lanes").and_then(|entry| {
        let number = cx.whole(entry, 1..=2)?;
        LANES.iter().find(|(known, _)| *known == number)
    });
    let except = section
        .get(cx, "except")
        .map(|entry| except(cx, entry))
        .unwrap_or_default();
    let filter_entry = filter_entry(cx, section, EXAMPLE)?;
    let to_entry = section.get(cx, "to");
    let backlog_entry = section.get(cx, "backlog_to");
    let filter = filter(cx, filter_entry, EXAMPLE)?;
    if TopicFilter::new(filter).is_ok_and(TopicFilter::is_shared) {
        let help = "write the filter behind `$share/NAME/`: a bridge takes every message itself";
        cx.error(
            filter_entry.node.span,
            "what is sent is not shared",
            "",
            help,
        );
        return None;
    }
    for (text, span) in &except {
        if !overlap(filter, text) {
            let title = format!("{} is without effect here", shown(text));
            let label = "the filter takes none of this";
            let help = "take it out, or look for the slip";
            two_places(
                cx,
                title,
                (*span, label),
                (filter_entry.node.span, ""),
                help,
            );
        }
    }
    let to = to_entry.map(|entry| target(cx, entry, filter, filter_entry));
    let backlog_to = backlog_entry.map(|entry| target(cx, entry, filter, filter_entry));
    // What waits for nobody's acknowledgement is not worth keeping, unless somebody says so.
    let keep = keep.unwrap_or(if qos == QoS::AtMostOnce {
        Keep::Nothing
    } else {
        Keep::All
    });
    let (keep_span, qos_span) = (at(keep_entry, section), at(qos_entry, section));
    if keep == Keep::All && qos == QoS::AtMostOnce {
        cx.push(
            Diagnostic::warning("everything is kept, and then sent without an acknowledgement")
                .at(keep_span, "kept while the link is down")
                .also(qos_span, "and lost if it breaks while it is sent")
                .help("with `qos = 1` it is kept until it has arrived"),
        );
    }
    Some(Placed {
        filter: filter_entry.node.span,
        to: to_entry.unwrap_or(filter_entry).node.span,
        qos: qos_span,
        keep: keep_span,
        rule: SendRule {
            filter: filter.into(),
            except: except.iter().map(|(text, _)| (*text).into()).collect(),
            to: complete(to)?,
            backlog_to: complete(backlog_to)?,
            qos,
            keep,
            lanes: lanes.map(|(_, lanes)| *lanes).unwrap_or_default(),
        },
    })
}

fn receive(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<Placed<ReceiveRule>> {
    const EXAMPLE: &str = "\"plants/shed/+/+/set\"";
    let qos_entry = section.get(cx, "qos");
    let qos = qos(cx, qos_entry);
    let queued = section.get(cx, "queued");
    let queued = queued.and_then(|entry| cx.choice(entry, &QUEUED));
    let filter_entry = filter_entry(cx, section, EXAMPLE)?;
    let to_entry = section.get(cx, "to");
    let filter = filter(cx, filter_entry, EXAMPLE)?;
    let to = to_entry.map(|entry| target(cx, entry, unshared(filter), filter_entry));
    Some(Placed {
        filter: filter_entry.node.span,
        to: to_entry.unwrap_or(filter_entry).node.span,
        qos: at(qos_entry, section),
        keep: section.span,
        rule: ReceiveRule {
            filter: filter.into(),
            to: complete(to)?,
            qos,
            queued: queued.unwrap_or_default(),
        },
    })
}

fn at(entry: Option<&Entry>, section: &Section<'_>) -> Span {
    entry.map_or(section.span, |entry| entry.key)
}

/// `None` if something was given and is wrong.
#[expect(
    clippy::option_option,
    reason = "wrong, absent and given are three different things"
)]
fn complete<T>(given: Option<Option<T>>) -> Option<Option<T>> {
    match given {
        None => Some(None),
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
    }
}

fn qos(cx: &mut Cx<'_>, entry: Option<&Entry>) -> QoS {
    let number = entry.and_then(|entry| cx.whole(entry, 0..=2));
    number
        .and_then(|number| QoS::from_bits(number as u8))
        .unwrap_or(QoS::AtLeastOnce)
}

fn filter_entry<'t>(cx: &mut Cx<'_>, section: &Section<'t>, example: &str) -> Option<&'t Entry> {
    let entry = section.get(cx, "filter");
    if entry.is_none() {
        section.missing(cx, "filter", format!("for example `filter = {example}`"));
    }
    entry
}

fn filter<'t>(cx: &mut Cx<'_>, entry: &'t Entry, example: &str) -> Option<&'t str> {
    let text = cx.text(entry, example)?;
    is_filter(cx, text, entry.node.span).then_some(text)
}

fn is_filter(cx: &mut Cx<'_>, text: &str, span: Span) -> bool {
    let Err(error) = TopicFilter::new(text) else {
        return true;
    };
    let title = format!("{} is no topic filter", shown(text));
    cx.push(Diagnostic::error(title).at(span, error.to_string()));
    false
}

fn except<'t>(cx: &mut Cx<'_>, entry: &'t Entry) -> Vec<(&'t str, Span)> {
    let texts = cx.texts(entry, "[\"shed/+/raw\"]");
    if texts.len() > EXCEPT_MAX {
        let title = format!("more than {EXCEPT_MAX} of `except`");
        cx.error(entry.node.span, title, "", "take some out");
    }
    let mut filters = Vec::new();
    for text in texts.into_iter().take(EXCEPT_MAX) {
        if is_filter(cx, text.value, text.span) {
            filters.push((text.value, text.span));
        }
    }
    filters
}

/// The other end's name for what `filter` takes: it has the same wildcards in the same order.
fn target(cx: &mut Cx<'_>, entry: &Entry, filter: &str, filter_entry: &Entry) -> Option<Box<str>> {
    let text = cx.text(entry, "\"plants/shed/#\"")?;
    let span = entry.node.span;
    if !is_filter(cx, text, span) {
        return None;
    }
    if TopicFilter::new(text).is_ok_and(TopicFilter::is_shared) {
        let help = "messages are published there: write the topics as they are";
        cx.error(span, "a target is not shared", "", help);
        return None;
    }
    let (theirs, ours) = (wildcards(text), wildcards(filter));
    if theirs == ours {
        return Some(text.into());
    }
    let title = match theirs.len().cmp(&ours.len()) {
        std::cmp::Ordering::Greater => format!("`{}` has more wildcards than `filter`", entry.name),
        std::cmp::Ordering::Less => format!("`{}` has fewer wildcards than `filter`", entry.name),
        std::cmp::Ordering::Equal => {
            format!("`{}` has other wildcards than `filter`", entry.name)
        }
    };
    let help = "the n-th wildcard takes what the n-th of `filter` has matched: they are the same \
        ones, in the same order";
    let (ours, theirs) = (count(&ours), count(&theirs));
    two_places(
        cx,
        title,
        (span, &theirs),
        (filter_entry.node.span, &ours),
        help,
    );
    None
}

fn wildcards(filter: &str) -> Vec<&str> {
    let levels = filter.split('/');
    levels.filter(|level| matches!(*level, "+" | "#")).collect()
}

fn count(wildcards: &[&str]) -> String {
    if wildcards.is_empty() {
        "none".into()
    } else {
        wildcards.join(" ")
    }
}

/// What is behind `$share/NAME/`, if that is there.
fn unshared(filter: &str) -> &str {
    match TopicFilter::new(filter).map(TopicFilter::share) {
        Ok(Some((_, filter))) => filter.as_str(),
        _ => filter,
    }
}

/// What goes up under a name that comes down again, and is then sent up again, goes round for ever.
pub(super) fn check_loops(cx: &mut Cx<'_>, rules: &Rules, base: &str) {
    for up in &rules.send {
        for down in &rules.receive {
            let above = up.rule.to.as_deref().unwrap_or(&up.rule.filter);
            let from_above = unshared(&down.rule.filter);
            let below = down.rule.to.as_deref().unwrap_or(from_above);
            if overlap(above, from_above) && takes(&up.rule, below, base) {
                cx.push(
                    Diagnostic::error("this bridge would send in circles")
                        .at(down.filter, "what comes down from here")
                        .also(up.to, "was sent up to there, and is sent again")
                        .help(
                            "take what comes down out of what goes up: `except` in \
                             [[bridge.NAME.send]], or another `to`",
                        ),
                );
            }
        }
    }
}

/// Whether a rule sends something of what a local filter stands for.
fn takes(rule: &SendRule, local: &str, base: &str) -> bool {
    // Wildcards take no commands: those are sent only where they are named.
    let verb = verb_of(local);
    let is_unnamed_verb = verb.is_some() && verb != verb_of(&rule.filter);
    let is_unnamed_request = is_request(local, base) && !is_request(&rule.filter, base);
    overlap(&rule.filter, local)
        && !is_unnamed_verb
        && !is_unnamed_request
        && !rule.except.iter().any(|except| covers(except, local))
}

fn verb_of(filter: &str) -> Option<&str> {
    let (_, last) = filter.rsplit_once('/')?;
    matches!(last, "set" | "get").then_some(last)
}

fn is_request(filter: &str, base: &str) -> bool {
    let rest = filter.strip_prefix(base);
    let rest = rest.and_then(|rest| rest.strip_prefix("/gateway/request"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether some topic matches both filters, neither of them shared.
fn overlap(one: &str, other: &str) -> bool {
    let is_hidden = |topic: &str, filter: &str| {
        topic.starts_with('$') && filter.starts_with(['+', '#']) // [MQTT-4.7.2-1]
    };
    if is_hidden(one, other) || is_hidden(other, one) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

/// Whether a filter matches every topic that another one does.
fn covers(general: &str, special: &str) -> bool {
    if special.starts_with('$') && general.starts_with(['+', '#']) {
        return false;
    }
    let (mut general, mut special) = (general.split('/'), special.split('/'));
    loop {
        match (general.next(), special.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Who keeps everything wants to know later when it was: 5.0 says so beside the payload, older
/// versions only in it.
pub(super) fn check_times(
    cx: &mut Cx<'_>,
    rules: &Rules,
    settings: &Settings,
    devices: &BTreeMap<Box<str>, DeviceConfig>,
) {
    let has_no_properties = match settings.version {
        Version::Pinned(version) => version != ProtocolVersion::V5,
        Version::Auto => settings.profile.limits().version != ProtocolVersion::V5,
    };
    if !has_no_properties {
        return;
    }
    let bare = || {
        devices.iter().flat_map(|(device, config)| {
            let points = config.points.iter();
            points
                .filter(|(_, point)| point.payload == PayloadFormat::Value)
                .map(move |(name, point)| (device, name, &point.topic))
        })
    };
    for placed in &rules.send {
        if placed.rule.keep != Keep::All {
            continue;
        }
        let Ok(mapping) = Mapping::new(&placed.rule.filter, None, &placed.rule.except) else {
            continue;
        };
        let found = bare().find(|(_, _, topic)| mapping.matches(topic));
        if let Some((device, point, _)) = found {
            let title = format!("all values of `{device}/{point}` are kept, and none has a time");
            cx.push(
                Diagnostic::warning(title)
                    .at(placed.keep, "kept while the link is down")
                    .help(
                        "3.1.1 has no place for it but the payload: `payload = \"json\"` at the \
                         point or its device, or `keep = \"latest\"`",
                    ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::topic::matches;
    use proptest::prelude::*;

    #[test]
    fn filters_overlap_if_a_topic_matches_both() {
        for (one, other, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "a/b", true),
            ("a/+", "+/b", true),
            ("a/+", "b/+", false),
            ("a/#", "a", true),
            ("a/#", "+/x/y", true),
            ("a/#", "b/#", false),
            ("a/+/c", "a/b", false),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_filter_covers_what_matches_no_more_than_it() {
        for (general, special, expected) in [
            ("a/#", "a/+/b", true),
            ("a/#", "a", true),
            ("a/+", "a/#", false),
            ("a/+/b", "a/x/b", true),
            ("a/x/b", "a/+/b", false),
            ("+/+", "a/b", true),
            ("#", "a/#", true),
            ("a/b", "a/b", true),
            ("#", "$SYS", false),
        ] {
            assert_eq!(covers(general, special), expected, "{general} {special}");
        }
    }

    proptest! {
        #[test]
        fn a_topic_is_the_proof(
            one in "(a|b|\\+)(/(a|b|\\+)){0,2}(/#)?",
            other in "(a|b|\\+)(/(a|b|\\+)){0,2}(/#)?",
            topic in "(a|b)(/(a|b)){0,4}",
        ) {
            let (in_one, in_other) = (matches(&one, &topic), matches(&other, &topic));
            prop_assert!(!(in_one && in_other) || overlap(&one, &other));
            prop_assert!(!(covers(&one, &other) && in_other) || in_one);
        }
    }
}
