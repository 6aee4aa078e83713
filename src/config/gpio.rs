//! `driver = "gpio"`: lines of one chip, each a point of some kind.

use std::collections::BTreeMap;

use super::bus::{Buses, HEADER};
use super::common::{self, Common};
use super::device::{Drafts, PointDraft, is_free_name};
use super::diagnostic::{Diagnostic, shown};
use super::header::{self, Pin};
use super::names;
use super::place::Place;
use super::read::{Cx, Section, Times, times, times_or_off};
use super::tree::{Entry, Value};
use super::wiring::Wiring;
use crate::field::line::{Bias, Chip, Drive, Edges, LineRef};
use crate::field::settings::{
    Driver, GpioKind, GpioPoint, GpioSettings, OnStart, OutputSettings, Persist, SafeState,
};
use crate::pipeline::settings::ValueType;
use crate::time::Duration;

/// Lines of one device at most.
const POINTS_MAX: usize = 256;

/// The largest offset that is taken for one: no chip of the kernel has more lines.
const OFFSET_MAX: i128 = 1023;

/// Bytes of a line's name: `GPIO_MAX_NAME_SIZE` is 32 with its zero.
const LINE_NAME_MAX: usize = 31;

/// The kernel debounces in microseconds, in 32 bits. More than a minute is a mistake.
const DEBOUNCES: Times = times_or_off(
    "ms",
    Duration::from_micros(1),
    Duration::from_secs(60),
    "5ms",
);

const LEASES: Times = times(
    "s",
    Duration::from_millis(100),
    Duration::from_secs(30 * 86_400),
    "10m",
);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Input,
    Event,
    Counter,
    Output,
}

const KINDS: [(&str, Kind); 4] = [
    ("input", Kind::Input),
    ("event", Kind::Event),
    ("counter", Kind::Counter),
    ("output", Kind::Output),
];

/// Words of the file and what they mean, in both directions.
pub(super) const BIASES: [(&str, Bias); 4] = [
    ("as-is", Bias::AsIs),
    ("disabled", Bias::Disabled),
    ("pull-up", Bias::PullUp),
    ("pull-down", Bias::PullDown),
];
/// See [`BIASES`].
pub(super) const EDGES: [(&str, Edges); 3] = [
    ("rising", Edges::Rising),
    ("falling", Edges::Falling),
    ("both", Edges::Both),
];
/// See [`BIASES`].
pub(super) const DRIVES: [(&str, Drive); 3] = [
    ("push-pull", Drive::PushPull),
    ("open-drain", Drive::OpenDrain),
    ("open-source", Drive::OpenSource),
];
/// See [`BIASES`].
pub(super) const ON_STARTS: [(&str, OnStart); 2] =
    [("safe", OnStart::Safe), ("keep", OnStart::Keep)];

/// `bus` and the points. Where something is wrong and has been reported, what is right is read all
/// the same, so that the settings of its points are judged too.
pub(super) fn read(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    own: &Common,
    buses: &mut Buses,
    wiring: &mut Wiring,
) -> Option<(Driver, Drafts)> {
    let chip = if let Some(entry) = section.get(cx, "bus") {
        buses.gpio(cx, entry)
    } else {
        let help = format!("for example `bus = \"gpio.{HEADER}\"`: the 40-pin header");
        section.missing(cx, "bus", help);
        None
    };
    let entries = cx.named(
        section.table(),
        "point",
        "[device.NAME.point.NAME]",
        names::is_name,
    );
    let mut points = BTreeMap::new();
    let mut drafts = Drafts::new();
    let mut is_whole = chip.is_some();
    for entry in entries.iter().take(POINTS_MAX) {
        if !is_free_name(cx, &entry.name, entry.key) {
            is_whole = false;
            continue;
        }
        let path = format!("{}.point.{}", section.path, entry.name);
        let Some((point, draft, line)) = point(cx, entry, path.clone(), chip.as_ref()) else {
            is_whole = false;
            continue;
        };
        if !common::is_enabled(&draft.common, &Common::default()) {
            continue;
        }
        let name: Box<str> = entry.name.as_str().into();
        if let Some(point) = point {
            if let Some(chip) = &chip {
                wiring.line(chip, &point.line, &path, line.unwrap_or(entry.key));
            }
            points.insert(name.clone(), point);
        } else {
            is_whole = false;
        }
        drafts.insert(name, draft);
    }
    if let Some(entry) = entries.get(POINTS_MAX) {
        let title = format!("more than {POINTS_MAX} points");
        cx.error(entry.key, title, "", "make several devices of them");
    }
    if points.is_empty() && is_whole && common::is_enabled(own, &Common::default()) {
        let help = "a gpio device has the points that are written: `[device.NAME.point.NAME]` \
            with `kind` and `line`";
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
    let chip = chip.unwrap_or(Chip::Header);
    Some((Driver::Gpio(GpioSettings { chip, points }), drafts))
}

type PointRead = (
    Option<GpioPoint>,
    PointDraft,
    Option<super::diagnostic::Span>,
);

/// One `[device.NAME.point.NAME]`. The point is absent if any of its own keys is wrong.
fn point(cx: &mut Cx<'_>, entry: &Entry, path: String, chip: Option<&Chip>) -> Option<PointRead> {
    let Value::Table(table) = &entry.node.value else {
        return None;
    };
    let kind = if let Some(kind) = table.get("kind") {
        cx.choice(kind, &KINDS)?
    } else {
        let help = super::words::of_key("pin").filter(|_| table.get("pin").is_some());
        let help = help.unwrap_or_else(|| {
            String::from("`kind = \"input\"`, \"event\", \"counter\" or \"output\"")
        });
        cx.error(entry.key, format!("`[{path}]` has no `kind`"), "", help);
        return None;
    };
    let (place, values) = match kind {
        Kind::Input => (Place::InputPoint, ValueType::Bool),
        Kind::Event => (Place::EventPoint, ValueType::Bool),
        Kind::Counter => (Place::CounterPoint, ValueType::Number),
        Kind::Output => (Place::OutputPoint, ValueType::Bool),
    };
    let section = Section::open(cx, place, path, entry)?;
    section.get(cx, "kind");
    let draft = PointDraft {
        common: Common::read(cx, &section),
        values,
        span: entry.key,
        label: common::label(cx, &section),
    };
    let line_entry = section.get(cx, "line");
    let line = if let Some(entry) = line_entry {
        line(cx, entry, chip)
    } else {
        let help = "for example `line = 17` (the BCM number), `line = \"GPIO17\"` or `line = \
            \"pin:11\"`";
        section.missing(cx, "line", help);
        None
    };
    let active_low = section.get(cx, "active_low");
    let active_low = active_low.map_or(Some(false), |entry| cx.flag(entry));
    let bias = section.get(cx, "bias");
    let bias = bias.map_or(Some(Bias::AsIs), |entry| cx.choice(entry, &BIASES));
    let kind = match kind {
        Kind::Input => debounce(cx, &section).map(|debounce| GpioKind::Input { debounce }),
        Kind::Event => {
            edges(cx, &section).map(|(edges, debounce)| GpioKind::Event { edges, debounce })
        }
        Kind::Counter => {
            let persist = persist(cx, &section);
            edges(cx, &section).map(|(edges, debounce)| GpioKind::Counter {
                edges,
                debounce,
                persist,
            })
        }
        Kind::Output => output(cx, &section).map(GpioKind::Output),
    };
    let point = (|| {
        Some(GpioPoint {
            line: line?,
            active_low: active_low?,
            bias: bias?,
            kind: kind?,
        })
    })();
    Some((point, draft, line_entry.map(|entry| entry.key)))
}

/// A power cut takes back no more than this, and a flash chip wears out with every block.
const PERSIST_TIMES: Times = times(
    "m",
    Duration::from_secs(1),
    Duration::from_secs(86_400),
    "10m",
);

/// `persist = { pulses = 100, interval = "10m" }`
fn persist(cx: &mut Cx<'_>, section: &Section<'_>) -> Persist {
    let mut to = Persist::default();
    let Some(entry) = section.get(cx, "persist") else {
        return to;
    };
    let path = section.key_path("persist");
    let Some(section) = Section::open(cx, Place::Persist, path, entry) else {
        return to;
    };
    let pulses = section.get(cx, "pulses");
    if let Some(pulses) = pulses.and_then(|entry| cx.whole(entry, 1..=1_000_000_000)) {
        to.pulses = pulses;
    }
    let interval = section.get(cx, "interval");
    if let Some(interval) = interval.and_then(|entry| cx.duration(entry, &PERSIST_TIMES)) {
        to.interval = interval;
    }
    to
}

/// `17`, `"GPIO17"`, `"pin:11"`. On the header all three become the BCM number.
fn line(cx: &mut Cx<'_>, entry: &Entry, chip: Option<&Chip>) -> Option<LineRef> {
    let is_header = matches!(chip, Some(Chip::Header));
    match &entry.node.value {
        Value::Integer(Some(number)) if (0..=OFFSET_MAX).contains(number) => {
            let offset = *number as u32;
            if is_header && offset > header::LINE_MAX {
                cx.push(
                    Diagnostic::warning(format!("line {offset} is not on the header"))
                        .at(entry.node.span, "the board itself uses it")
                        .help(format!("the header has lines 0 to {}", header::LINE_MAX)),
                );
            }
            Some(LineRef::Offset(offset))
        }
        Value::Integer(_) => {
            let help =
                format!("offsets go from 0 to {OFFSET_MAX}; `gpioinfo` lists a chip's lines");
            cx.error(entry.node.span, "no chip has such a line", "", help);
            None
        }
        Value::Text(text) => {
            if let Some(pin) = text.strip_prefix("pin:") {
                return header_pin(cx, entry, pin, chip);
            }
            line_name(cx, entry, text, is_header)
        }
        other => {
            cx.error(
                entry.node.span,
                "a line is an offset or a name",
                format!("this is {}", other.type_name()),
                "for example `line = 17`, `line = \"GPIO17\"` or `line = \"pin:11\"`",
            );
            None
        }
    }
}

fn header_pin(cx: &mut Cx<'_>, entry: &Entry, pin: &str, chip: Option<&Chip>) -> Option<LineRef> {
    if matches!(chip, Some(Chip::Label(_) | Chip::Path(_))) {
        cx.error(
            entry.node.span,
            "pins are known of the Raspberry Pi's header only",
            "this chip is another one",
            "name the line by its offset or name; `gpioinfo` lists them",
        );
        return None;
    }
    let number = pin.parse::<u32>().ok().filter(|_| !pin.starts_with('+'));
    match number.and_then(header::pin) {
        Some(Pin::Line(offset)) => Some(LineRef::Offset(offset)),
        Some(Pin::Power(what)) => {
            cx.error(
                entry.node.span,
                format!("pin {pin} of the header is {what}"),
                "not a line",
                "for example pin 11 is line 17: `line = \"pin:11\"`",
            );
            None
        }
        None => {
            let title = format!("the header has no {}", shown(&format!("pin {pin}")));
            cx.error(
                entry.node.span,
                title,
                "",
                "its pins are 1 to 40: `line = \"pin:11\"`",
            );
            None
        }
    }
}

fn line_name(cx: &mut Cx<'_>, entry: &Entry, text: &str, is_header: bool) -> Option<LineRef> {
    if is_header && let Some(offset) = header::line_named(text) {
        return Some(LineRef::Offset(offset));
    }
    let upper = text.to_ascii_uppercase();
    let number = upper
        .strip_prefix("BCM")
        .or_else(|| upper.strip_prefix("GPIO"))
        .unwrap_or(&upper);
    let number = number.trim_start_matches(['_', '-', ' ', '.']);
    let number = number
        .parse::<u32>()
        .ok()
        .filter(|_| !number.starts_with('+'));
    // What the kernel knows by another name: a number in quotes, `BCM17`, `gpio17`.
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_nickname = is_header && !text.starts_with("GPIO");
    if let Some(number) = number.filter(|_| is_digits || is_nickname) {
        let title = format!("{} is not a line's name", shown(text));
        let help = format!("write `line = {number}`, or `line = \"GPIO{number}\"`");
        cx.error(entry.node.span, title, "", help);
        return None;
    }
    if text.is_empty() || text.len() > LINE_NAME_MAX || text.chars().any(char::is_control) {
        let title = format!("{} is not a line's name", shown(text));
        let help = format!("names have {LINE_NAME_MAX} bytes at most; `gpioinfo` lists them");
        cx.error(entry.node.span, title, "", help);
        return None;
    }
    Some(LineRef::Name(text.into()))
}

fn debounce(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<Duration> {
    match section.get(cx, "debounce") {
        None => Some(Duration::ZERO),
        Some(entry) => cx
            .duration_or_off(entry, &DEBOUNCES)
            .map(Option::unwrap_or_default),
    }
}

fn edges(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<(Edges, Duration)> {
    let edges = section.get(cx, "edge");
    let edges = edges.map_or(Some(Edges::Rising), |entry| cx.choice(entry, &EDGES));
    let debounce = debounce(cx, section);
    Some((edges?, debounce?))
}

fn output(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<OutputSettings> {
    let safe_state = if let Some(entry) = section.get(cx, "safe_state") {
        safe_state(cx, entry)
    } else {
        let help = "what the line does at start, at a stop and when a lease runs out: \
            `safe_state = false`, true \
                    or \"keep\", in logical terms";
        section.missing(cx, "safe_state", help);
        None
    };
    let drive = section.get(cx, "drive");
    let drive = drive.map_or(Some(Drive::PushPull), |entry| cx.choice(entry, &DRIVES));
    let on_start = section.get(cx, "on_start");
    let on_start = on_start.map_or(Some(OnStart::Safe), |entry| cx.choice(entry, &ON_STARTS));
    let lease_entry = section.get(cx, "lease");
    let lease = match lease_entry {
        Some(entry) if matches!(&entry.node.value, Value::Text(text) if text == "off") => {
            Some(None)
        }
        Some(entry) => cx.duration(entry, &LEASES).map(Some),
        None => Some(None),
    };
    if let (Some(SafeState::Keep), Some(Some(_)), Some(entry)) = (safe_state, lease, lease_entry) {
        cx.error(
            entry.key,
            "`lease` has no effect with `safe_state = \"keep\"`",
            "when it runs out, the output would stay as it is",
            "give a safe state that is true or false, or take `lease` out",
        );
    }
    Some(OutputSettings {
        drive: drive?,
        safe_state: safe_state?,
        on_start: on_start?,
        lease: lease?,
    })
}

fn safe_state(cx: &mut Cx<'_>, entry: &Entry) -> Option<SafeState> {
    match &entry.node.value {
        _ if cx.is_unquoted(entry) => None,
        Value::Bool(true) => Some(SafeState::Active),
        Value::Bool(false) => Some(SafeState::Inactive),
        Value::Text(text) if text == "keep" => Some(SafeState::Keep),
        other => {
            let help = match other {
                Value::Text(text) if ["on", "true", "active", "high"].contains(&text.as_str()) => {
                    "write `safe_state = true`: active, whatever level that is"
                }
                Value::Text(text)
                    if ["off", "false", "inactive", "low"].contains(&text.as_str()) =>
                {
                    "write `safe_state = false`: inactive, whatever level that is"
                }
                _ => "for example `safe_state = false`",
            };
            cx.error(
                entry.node.span,
                "`safe_state` is true, false or \"keep\"",
                "",
                help,
            );
            None
        }
    }
}
