//! `[journal]`: how much of a disk it may take. Where it is kept follows from `data_dir` of
//! `[gateway]`; without one there is no journal, and whoever asks for one is told.

use core::ops::RangeInclusive;
use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Span};
use super::gateway::Gateway;
use super::place::Place;
use super::read::{Cx, Section, Times, times};
use crate::bridge::settings::{Keep, SendRule, Settings as BridgeSettings};
use crate::broker::settings::{Durability, Level, Settings};
use crate::gateway::settings::JournalSettings;
use crate::time::Duration;
use crate::units::format_size;

/// How long something may wait for its sync. A flash chip does not survive many syncs a second for
/// years, and what has waited for an hour is not durable by any word's meaning.
pub(super) const SYNC_TIMES: Times = times(
    "s",
    Duration::from_millis(10),
    Duration::from_secs(3600),
    "1s",
);

/// By name.
type Bridges = BTreeMap<Box<str>, BridgeSettings>;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// What is written is a multiple of this many bytes.
const BLOCK: u64 = 4 * KIB;

/// From what holds a few batches to what holds the largest packet twice.
const SEGMENT_SIZES: RangeInclusive<u64> = 64 * KIB..=512 * MIB;

/// Fewer segments leave nothing to clean with: some are kept free.
const SEGMENTS_MIN: u64 = 8;

/// Each of them is a few numbers in memory, and a file.
const SEGMENTS_MAX: u64 = 65_536;

const SIZES: RangeInclusive<u64> = SEGMENTS_MIN * 64 * KIB..=TIB;

/// `[journal]`, filled in; `None` without a folder to keep it in.
pub(super) fn read(
    cx: &mut Cx<'_>,
    root: &Section<'_>,
    gateway: &Gateway,
    broker: &Settings,
    bridges: &Bridges,
) -> Option<JournalSettings> {
    let mut settings = JournalSettings::default();
    let of_bridges = bridges.values().map(|bridge| bridge.queue.bytes);
    let of_broker = (broker.queues_bytes as u64).saturating_add(broker.retained_bytes as u64);
    let kept = of_bridges.fold(of_broker, u64::saturating_add);
    // Fuller than this it has no room to be cleaned in, and the longest queue gives way.
    let needed = (kept / 4).saturating_mul(5).next_multiple_of(64 * MIB);
    settings.size = settings.size.max(needed).min(*SIZES.end());
    let section = root
        .get(cx, "journal")
        .and_then(|entry| Section::open(cx, Place::Journal, "journal", entry));
    if let Some(section) = &section {
        sizes(cx, section, &mut settings);
        if let Some(entry) = section.get(cx, "sync_within")
            && let Some(within) = cx.duration(entry, &SYNC_TIMES)
        {
            settings.sync_within = within;
        }
    }
    if cx.out.errors() > 0 {
        // What does not fit may be what could not be read.
        return Some(settings);
    }
    if gateway.data_dir.is_none() {
        warn_without_folder(cx, section.is_some(), &broker.durability);
        warn_of_bridges_without_folder(cx, bridges);
        return None;
    }
    warn_of_limits(cx, &settings, broker, kept);
    Some(settings)
}

fn sizes(cx: &mut Cx<'_>, section: &Section<'_>, settings: &mut JournalSettings) {
    let (size, segment) = (section.get(cx, "size"), section.get(cx, "segment"));
    let mut is_right = true;
    if let Some(entry) = size {
        match cx.size(entry, SIZES, "1GiB") {
            Some(bytes) => settings.size = bytes,
            None => is_right = false,
        }
    }
    if let Some(entry) = segment {
        match cx.size(entry, SEGMENT_SIZES, "4MiB") {
            Some(bytes) if bytes % BLOCK == 0 => settings.segment = bytes as u32,
            Some(bytes) => {
                let near = format_size(bytes.next_multiple_of(BLOCK));
                let title = "`segment` is a multiple of 4KiB";
                let help = format!("for example `segment = \"{near}\"`");
                cx.error(entry.node.span, title, "", help);
                is_right = false;
            }
            None => is_right = false,
        }
    }
    if is_right && let Some(entry) = size.or(segment) {
        segments(cx, settings, entry.node.span);
    }
}

/// Whether there are enough of them, and not too many.
fn segments(cx: &mut Cx<'_>, settings: &JournalSettings, span: Span) {
    let (bytes, each) = (settings.size, u64::from(settings.segment));
    if bytes / each < SEGMENTS_MIN {
        let (least, most) = (
            format_size(each * SEGMENTS_MIN),
            format_size((bytes / SEGMENTS_MIN) & !(BLOCK - 1)),
        );
        let title = format!("the journal has fewer than {SEGMENTS_MIN} segments");
        let help = if bytes / SEGMENTS_MIN >= *SEGMENT_SIZES.start() {
            format!("write `size = \"{least}\"` or more, or `segment = \"{most}\"` or less")
        } else {
            format!("write `size = \"{least}\"` or more")
        };
        cx.error(span, title, "", help);
    } else if bytes / each > SEGMENTS_MAX {
        let least = format_size(bytes.div_ceil(SEGMENTS_MAX).next_multiple_of(BLOCK));
        let title = format!("the journal has more than {SEGMENTS_MAX} segments");
        let help = format!("write `segment = \"{least}\"` or more");
        cx.error(span, title, "", help);
    }
}

/// Somebody asks for what there is no place for.
fn warn_without_folder(cx: &mut Cx<'_>, has_table: bool, durability: &Durability) {
    let levels = durability.rules.iter().map(|(_, level)| level);
    let is_asked = |path: &str| cx.origins.get(path).copied();
    let span = if has_table {
        is_asked("journal")
    } else if levels
        .chain([&durability.default])
        .all(|level| *level == Level::None)
    {
        None
    } else {
        is_asked("broker.durability")
    };
    if let Some(span) = span {
        cx.push(
            Diagnostic::warning("nothing outlives a restart: there is no folder to keep it in")
                .at(span, "without effect")
                .help("write `data_dir` in [gateway]; a service has $STATE_DIRECTORY instead"),
        );
    }
}

/// A bridge that is to keep what it cannot.
fn warn_of_bridges_without_folder(cx: &mut Cx<'_>, bridges: &Bridges) {
    for (name, bridge) in bridges {
        let keeps = |rule: &SendRule| rule.keep != Keep::Nothing;
        let mut span = ["url", "urls"].iter();
        let span = span.find_map(|key| cx.origins.get(&format!("bridge.{name}.{key}")).copied());
        if let Some(span) = span.filter(|_| bridge.send.iter().any(keeps)) {
            cx.push(
                Diagnostic::warning("what waits for this bridge is lost in a restart")
                    .at(span, "there is no folder to keep it in")
                    .help("write `data_dir` in [gateway]; a service has $STATE_DIRECTORY instead"),
            );
        }
    }
}

/// Limits elsewhere that the journal would meet first.
fn warn_of_limits(cx: &mut Cx<'_>, settings: &JournalSettings, broker: &Settings, kept: u64) {
    let span = |keys: &[&str]| keys.iter().find_map(|key| cx.origins.get(*key).copied());
    let room = settings.size / 5 * 4;
    let mut warnings = Vec::new();
    if kept > room
        && let Some(span) = span(&["journal.size"])
    {
        let [kept, size] = [kept, settings.size].map(format_size);
        warnings.push(
            Diagnostic::warning("the journal is full before the queues are")
                .at(span, "")
                .help(format!(
                    "`queues` and `retained` of [broker] and the queues of bridges may have {kept} \
                     together, and four fifths of the journal's {size} are theirs"
                )),
        );
    }
    if u64::from(broker.max_packet_size) > u64::from(settings.segment) / 2
        && let Some(span) = span(&["journal.segment", "broker.max_packet_size"])
    {
        warnings.push(
            Diagnostic::warning("not every message fits into the journal")
                .at(span, "")
                .help(
                    "a message and all who take it are in one segment: make `segment` of [journal] \
                     twice as large as `max_packet_size` of [broker]",
                ),
        );
    }
    for warning in warnings {
        cx.push(warning);
    }
}
