//! The settings that cascade: `[gateway.defaults]`, the device, the point. The nearest wins.
//!
//! A key that is written at a point must have an effect there. One that is inherited may find a
//! point that has no use for it (a `deadband` and a switch): there it is ignored, as long as some
//! point of the device uses it.

use std::collections::BTreeSet;

use super::broker::whole_seconds;
use super::diagnostic::{Diagnostic, Span, shown};
use super::names;
use super::read::{At, Cx, Section, Times, times, times_or_off};
use super::tree::Value;
use crate::mqtt::QoS;
use crate::pipeline::settings::{PayloadFormat, PointSettings, TimeFormat, ValueType, scaled};
use crate::point::{PointKind, PointSpec};
use crate::time::Duration;
use crate::units;

/// How often a device is sampled when nobody says.
const EVERY: Duration = Duration::from_secs(10);

const EVERY_TIMES: Times = times(
    "s",
    Duration::from_millis(10),
    Duration::from_secs(30 * 86_400),
    "10s",
);
const INTERVALS: Times = times_or_off(
    "s",
    Duration::from_millis(1),
    Duration::from_secs(365 * 86_400),
    "5m",
);
const STALE_TIMES: Times = times_or_off(
    "s",
    Duration::from_millis(10),
    Duration::from_secs(365 * 86_400),
    "30s",
);
/// Message Expiry Interval: seconds in 32 bits.
const EXPIRIES: Times = times_or_off(
    "s",
    Duration::from_secs(1),
    Duration::from_secs(u32::MAX as u64),
    "1h",
);

/// Payload formats by their words.
pub(super) const PAYLOADS: [(&str, PayloadFormat); 2] = [
    ("value", PayloadFormat::Value),
    ("json", PayloadFormat::Json),
];

/// Characters of a unit, and of a label, at most.
const UNIT_MAX: usize = 32;
const LABEL_MAX: usize = 200;

/// What one level says.
#[derive(Debug, Clone, Default)]
pub(super) struct Common {
    pub(super) every: Option<At<Duration>>,
    qos: Option<At<QoS>>,
    retain: Option<At<bool>>,
    payload: Option<At<PayloadFormat>>,
    booleans: Option<At<(Box<str>, Box<str>)>>,
    stale_after: Option<At<Option<Duration>>>,
    min_interval: Option<At<Option<Duration>>>,
    max_interval: Option<At<Option<Duration>>>,
    deadband: Option<At<f64>>,
    precision: Option<At<u8>>,
    expiry: Option<At<Option<Duration>>>,
    unit: Option<At<Box<str>>>,
    scale: Option<At<f64>>,
    offset: Option<At<f64>>,
    min: Option<At<f64>>,
    max: Option<At<f64>>,
    topic: Option<At<Box<str>>>,
    pub(super) enabled: Option<At<bool>>,
    /// Every key that is written here, right or wrong.
    given: Vec<(&'static str, Span)>,
}

impl Common {
    pub(super) fn read(cx: &mut Cx<'_>, section: &Section<'_>) -> Self {
        let mut common = Self::default();
        for key in super::place::COMMON {
            let Some(entry) = section.get(cx, key) else {
                continue;
            };
            let span = entry.key;
            common.given.push((key, span));
            macro_rules! take {
                ($field:ident, $value:expr) => {
                    common.$field = $value.map(|value| At { value, span })
                };
            }
            match key {
                "every" => take!(every, cx.duration(entry, &EVERY_TIMES)),
                "qos" => take!(qos, cx.whole(entry, 0..=2).map(qos)),
                "retain" => take!(retain, cx.flag(entry)),
                "payload" => take!(payload, cx.choice(entry, &PAYLOADS)),
                "booleans" => take!(booleans, cx.pair(entry)),
                "stale_after" => take!(stale_after, cx.duration_or_off(entry, &STALE_TIMES)),
                "min_interval" => take!(min_interval, cx.duration_or_off(entry, &INTERVALS)),
                "max_interval" => take!(max_interval, cx.duration_or_off(entry, &INTERVALS)),
                "deadband" => take!(deadband, deadband(cx, entry)),
                "precision" => take!(precision, cx.whole(entry, 0..=9).map(|digits| digits as u8)),
                "expiry" => take!(expiry, expiry(cx, entry)),
                "unit" => take!(unit, short_text(cx, entry, UNIT_MAX, "\"°C\"")),
                "scale" => take!(scale, scale(cx, entry)),
                "offset" => take!(offset, cx.number(entry)),
                "min" => take!(min, cx.number(entry)),
                "max" => take!(max, cx.number(entry)),
                "topic" => take!(topic, topic(cx, entry)),
                "enabled" => take!(enabled, cx.flag(entry)),
                _ => unreachable!("every key of COMMON has its line above"),
            }
        }
        common
    }

    /// The keys that are written here.
    pub(super) fn given(&self) -> &[(&'static str, Span)] {
        &self.given
    }

    /// Where `topic` is written, if it is.
    pub(super) fn topic_span(&self) -> Option<Span> {
        self.topic.as_ref().map(|at| at.span)
    }
}

/// The three levels, and what of them this point has used.
#[derive(Debug)]
pub(super) struct Levels<'a> {
    pub(super) point: &'a Common,
    pub(super) device: &'a Common,
    pub(super) gateway: &'a Common,
}

impl Levels<'_> {
    fn nearest<T>(&self, field: impl Fn(&Common) -> Option<&At<T>>) -> Option<&At<T>> {
        field(self.point)
            .or_else(|| field(self.device))
            .or_else(|| field(self.gateway))
    }
}

/// How often a device is sampled, and where that is written.
pub(super) fn every(device: &Common, gateway: &Common) -> (Duration, Option<Span>) {
    match device.every.or(gateway.every) {
        Some(at) => (at.value, Some(at.span)),
        None => (EVERY, None),
    }
}

/// Whether a device is on: its own word, or the default's.
pub(super) fn is_enabled(nearest: &Common, next: &Common) -> bool {
    nearest.enabled.or(next.enabled).is_none_or(|at| at.value)
}

/// What a point inherits from its device besides its settings.
#[derive(Debug)]
pub(super) struct PointContext<'a> {
    /// `device.pump.point.running`
    pub(super) path: &'a str,
    /// `BASE/DEVICE/POINT`
    pub(super) topic: String,
    pub(super) values: ValueType,
    pub(super) every: (Duration, Option<Span>),
    pub(super) time_format: TimeFormat,
    pub(super) accept_retained: bool,
    pub(super) simulated: bool,
}

/// Whether such a point is read on a schedule.
pub(super) fn is_sampled(kind: PointKind) -> bool {
    matches!(kind, PointKind::Sampled | PointKind::Counter)
}

/// Why a key has no effect on a point, if it has none.
fn idle(key: &str, values: ValueType, kind: PointKind) -> Option<&'static str> {
    match key {
        "booleans" if values != ValueType::Bool => Some("its values are not booleans"),
        "unit" | "scale" | "offset" | "min" | "max" | "deadband" | "precision"
            if values != ValueType::Number =>
        {
            Some("its values are not numbers")
        }
        "every" | "stale_after" if !is_sampled(kind) => {
            Some("it is not sampled: it speaks when something changes, and silence is no fault")
        }
        "min_interval" | "max_interval" if kind == PointKind::Event => {
            Some("every event is a message, and nothing else is")
        }
        _ => None,
    }
}

/// Settles a point: the nearest level that says something, else the default.
pub(super) fn settle(
    cx: &mut Cx<'_>,
    context: &PointContext<'_>,
    levels: &Levels<'_>,
    spec: PointSpec,
    used: &mut BTreeSet<&'static str>,
) -> PointSettings {
    let (values, kind) = (context.values, spec.kind);
    for (key, span) in levels.point.given() {
        if let Some(reason) = idle(key, values, kind) {
            cx.error(
                *span,
                format!("`{key}` has no effect on {}", shown(&spec.name)),
                reason,
                "take it out",
            );
        }
    }
    let is_event = kind == PointKind::Event;
    for (key, _) in levels.device.given() {
        let overridden = *key == "every" && levels.point.every.is_some();
        let is_idle = idle(key, values, kind).is_some() || (*key == "retain" && is_event);
        if !is_idle && !overridden {
            used.insert(key);
        }
    }
    // Inherited settings that this point has no use for are as if they were not there.
    let mut pick = Picker {
        cx,
        path: context.path,
        levels,
        values,
        kind,
    };
    let qos = pick.value("qos", |level| level.qos.as_ref());
    let retain = if is_event {
        // `retain = true` for everything is meant for states: an event that is told again later
        // never happened.
        let own = levels.point.retain.as_ref();
        own.is_some_and(|at| at.value)
    } else {
        pick.value("retain", |level| level.retain.as_ref())
            .unwrap_or(true)
    };
    let payload = pick.value("payload", |level| level.payload.as_ref());
    let booleans = pick.value("booleans", |level| level.booleans.as_ref());
    let stale_after = pick.at("stale_after", |level| level.stale_after.as_ref());
    let min_interval = pick.at("min_interval", |level| level.min_interval.as_ref());
    let max_interval = pick.at("max_interval", |level| level.max_interval.as_ref());
    let deadband = pick.value("deadband", |level| level.deadband.as_ref());
    let precision = pick.value("precision", |level| level.precision.as_ref());
    let expiry = pick.value("expiry", |level| level.expiry.as_ref());
    let unit = pick.value("unit", |level| level.unit.as_ref());
    let scale = pick.value("scale", |level| level.scale.as_ref());
    let offset = pick.value("offset", |level| level.offset.as_ref());
    let min = pick.at("min", |level| level.min.as_ref());
    let max = pick.at("max", |level| level.max.as_ref());
    let topic = pick.value("topic", |level| level.topic.as_ref());

    let (scale, offset) = (scale.unwrap_or(1.0), offset.unwrap_or(0.0));
    let mut spec = scaled(spec, scale, offset);
    if let Some(unit) = unit {
        spec.unit = unit;
    }
    range(cx, &mut spec, min, max);
    intervals(cx, min_interval.as_ref(), max_interval.as_ref());
    let sampled = idle("stale_after", values, kind).is_none();
    let stale_after = match stale_after {
        Some(at) => {
            fresh_enough(cx, &at, context.every);
            at.value
        }
        None if sampled => Some(context.every.0.saturating_mul(3)),
        None => None,
    };
    if is_event && let Some(at) = levels.point.retain.as_ref().filter(|at| at.value) {
        cx.push(
            Diagnostic::warning(format!("{} is an event and is retained", shown(&spec.name)))
                .at(at.span, "")
                .help("whoever subscribes later takes the last one for a new one"),
        );
    }
    PointSettings {
        spec,
        value_type: values,
        topic: topic.unwrap_or_else(|| context.topic.as_str().into()),
        qos: qos.unwrap_or(QoS::AtLeastOnce),
        retain,
        payload: payload.unwrap_or_default(),
        time_format: context.time_format,
        booleans: booleans.unwrap_or_else(|| ("false".into(), "true".into())),
        scale,
        offset,
        precision,
        deadband: deadband.unwrap_or(0.0),
        min_interval: min_interval.and_then(|at| at.value),
        max_interval: max_interval.and_then(|at| at.value),
        stale_after,
        expiry: expiry.flatten(),
        accept_retained: context.accept_retained,
        simulated: context.simulated,
    }
}

/// Finds the nearest level that says something, and remembers its place as the origin of the
/// point's setting.
struct Picker<'a, 'c, 'e> {
    cx: &'c mut Cx<'e>,
    path: &'a str,
    levels: &'a Levels<'a>,
    values: ValueType,
    kind: PointKind,
}

impl Picker<'_, '_, '_> {
    fn at<T: Clone>(
        &mut self,
        key: &str,
        field: impl Fn(&Common) -> Option<&At<T>>,
    ) -> Option<At<T>> {
        if idle(key, self.values, self.kind).is_some() {
            return None;
        }
        let found = self.levels.nearest(field)?.clone();
        self.cx.origin(format!("{}.{key}", self.path), found.span);
        Some(found)
    }

    fn value<T: Clone>(
        &mut self,
        key: &str,
        field: impl Fn(&Common) -> Option<&At<T>>,
    ) -> Option<T> {
        self.at(key, field).map(|at| at.value)
    }
}

/// The configured range over the driver's.
fn range(cx: &mut Cx<'_>, spec: &mut PointSpec, min: Option<At<f64>>, max: Option<At<f64>>) {
    if min.is_none() && max.is_none() {
        return;
    }
    let (driver_min, driver_max) = spec.range.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let low = min.map_or(driver_min, |at| at.value);
    let high = max.map_or(driver_max, |at| at.value);
    if low >= high {
        let (written, other) = (max.or(min), max.and(min));
        if let Some(written) = written {
            let mut error = Diagnostic::error(format!("`min` {low} is not below `max` {high}"))
                .at(written.span, "");
            if let Some(other) = other {
                error = error.also(other.span, "");
            }
            cx.push(error.help("values outside of them are faults: nothing would be left"));
        }
        return;
    }
    spec.range = Some((low, high));
}

fn intervals(
    cx: &mut Cx<'_>,
    min: Option<&At<Option<Duration>>>,
    max: Option<&At<Option<Duration>>>,
) {
    let (Some(min), Some(max)) = (min, max) else {
        return;
    };
    if let (Some(shortest), Some(longest)) = (min.value, max.value)
        && shortest > longest
    {
        cx.push(
            Diagnostic::error("`min_interval` is longer than `max_interval`")
                .at(min.span, "at most one message in this time")
                .also(max.span, "at least one in this time")
                .help("`min_interval` is the shorter one"),
        );
    }
}

fn fresh_enough(cx: &mut Cx<'_>, stale: &At<Option<Duration>>, every: (Duration, Option<Span>)) {
    let (period, written) = every;
    if stale.value.is_none_or(|stale| stale >= period) {
        return;
    }
    let mut error = Diagnostic::error("`stale_after` is shorter than `every`")
        .at(stale.span, "stale after this time without a reading");
    if let Some(span) = written {
        error = error.also(span, "and read so often");
    }
    let wanted = units::format_duration(period.saturating_mul(3));
    cx.push(error.help(format!(
        "the value would be stale between two readings; 3 times `every` is the default: \
            \"{wanted}\""
    )));
}

fn qos(number: u64) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn deadband(cx: &mut Cx<'_>, entry: &super::tree::Entry) -> Option<f64> {
    if matches!(&entry.node.value, Value::Text(text) if text == "off") {
        return Some(0.0);
    }
    let width = cx.number(entry)?;
    if width > 0.0 {
        return Some(width);
    }
    let help = "it is the smallest change worth a message, in the point's unit; `deadband = \
        \"off\"` for every change";
    cx.error(entry.node.span, "`deadband` is larger than 0", "", help);
    None
}

fn scale(cx: &mut Cx<'_>, entry: &super::tree::Entry) -> Option<f64> {
    let factor = cx.number(entry)?;
    if factor != 0.0 {
        return Some(factor);
    }
    let help = "the published value is raw × scale + offset: with 0 it would always be `offset`";
    cx.error(entry.node.span, "`scale` is not 0", "", help);
    None
}

#[expect(
    clippy::option_option,
    reason = "absent, switched off, and set are three different things"
)]
fn expiry(cx: &mut Cx<'_>, entry: &super::tree::Entry) -> Option<Option<Duration>> {
    let expiry = cx.duration_or_off(entry, &EXPIRIES)?;
    match expiry {
        Some(duration) if !whole_seconds(cx, entry, duration) => None,
        fine => Some(fine),
    }
}

fn topic(cx: &mut Cx<'_>, entry: &super::tree::Entry) -> Option<Box<str>> {
    let topic = cx.text(entry, "\"plant/boiler/pressure\"")?;
    let last = topic.rsplit('/').next().unwrap_or_default();
    let wrong = names::topic_error(topic).or_else(|| {
        names::RESERVED_POINTS.contains(&last).then(|| {
            format!("`{last}` is what the gateway itself writes below a point or a device")
        })
    });
    match wrong {
        None => Some(topic.into()),
        Some(wrong) => {
            let title = format!("{} cannot be a point's topic", shown(topic));
            cx.error(
                entry.node.span,
                title,
                wrong,
                "for example `topic = \"plant/boiler/pressure\"`",
            );
            None
        }
    }
}

fn short_text(
    cx: &mut Cx<'_>,
    entry: &super::tree::Entry,
    max: usize,
    example: &str,
) -> Option<Box<str>> {
    let text = cx.text(entry, example)?;
    if text.chars().count() <= max && !text.chars().any(char::is_control) {
        return Some(text.into());
    }
    cx.error(
        entry.node.span,
        format!("`{}` is a short text on one line", entry.name),
        "",
        format!(
            "it has {max} characters at most; for example `{} = {example}`",
            entry.name
        ),
    );
    None
}

/// The label of a device or point, for people.
pub(super) fn label(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<Box<str>> {
    let entry = section.get(cx, "label")?;
    short_text(cx, entry, LABEL_MAX, "\"Water pump\"")
}
