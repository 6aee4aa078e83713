//! One point as the pipeline knows it: its last value, what has been said about it, and when to
//! speak again.
//!
//! There are three things to say: the value, its quality, and the reason. Each has a slot that is
//! marked when it is due and read when the message is drawn, so a flood of readings overwrites
//! instead of growing. Events alone are queued, for each one counts; their queue is bounded.
//!
//! | what happens | value topic, bare | value topic, JSON | quality and reason |
//! |---|---|---|---|
//! | a change of at least `deadband` | after `min_interval` | after `min_interval` | |
//! | nothing for `max_interval` | repeated while good or uncertain | repeated | |
//! | a fault, silence, a doubt, all well again | keeps the last good value | after `min_interval` | at once |

use std::collections::VecDeque;

use super::EVENTS_QUEUED_MAX;
use super::number::is_change;
use super::pending::Pending;
use super::settings::{PayloadFormat, PointSettings};
use super::stats::Stats;
use super::transform::Transform;
use crate::point::{Fault, FaultKind, Outcome, PointKind, Quality, Value};
use crate::time::{Duration, Instant, Now, WallTime};
use crate::units::format_duration;

/// State of one point.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) settings: PointSettings,
    pub(super) transform: Transform,
    pub(super) pending: Pending,
    /// Whether it stands in the pipeline's list of points with something to say.
    pub(super) is_queued: bool,
    /// The last value measured, for as long as nothing better is known.
    good: Option<Sample>,
    /// What is known about the point now; `None` until anything is.
    condition: Option<Condition>,
    /// The last number as the device gave it: it is converted again if the settings change.
    raw: Option<Raw>,
    /// Whether `raw` is what was heard last, rather than a fault of the device.
    is_raw_current: bool,
    /// Whether its device has ever said what the point is, and not only been told.
    is_read: bool,
    /// What the device has been told since it last said what the point is.
    told: Option<Value>,
    /// When the device was last heard of; at first, when the point was made.
    heard: Instant,
    /// The last value message; `None` before the first.
    published: Option<Published>,
    /// What the quality topic says.
    announced_quality: Option<Quality>,
    /// What the reason topic says.
    announced_reason: Announced,
    /// An event's value has not been published yet.
    has_fresh_event: bool,
    due: Due,
    events: VecDeque<Sample>,
    /// Of the last value message; the first one has 1.
    seq: u64,
}

/// A value with the circumstances of its measurement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) value: Value,
    pub(super) at: Instant,
    /// `None`: the clock was not known then.
    pub(super) wall: Option<WallTime>,
    /// Good or uncertain.
    pub(super) quality: Quality,
    /// Of an uncertain one.
    pub(super) doubt: Option<Fault>,
}

impl Sample {
    fn new(now: Now, at: Instant, value: Value, doubt: Option<Fault>) -> Self {
        let quality = match doubt {
            None => Quality::Good,
            Some(_) => Quality::Uncertain,
        };
        Self {
            value,
            at,
            wall: now.wall_at(at),
            quality,
            doubt,
        }
    }

    /// What is known about the point while this is the last thing heard of it.
    fn condition(&self) -> Condition {
        Condition {
            quality: self.quality,
            reason: self.doubt.clone(),
            at: self.at,
            wall: self.wall,
        }
    }
}

/// A number before conversion.
#[derive(Debug, Clone)]
struct Raw {
    value: Value,
    doubt: Option<Fault>,
    at: Instant,
}

/// What is known about a point.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub(super) quality: Quality,
    /// Why it is not good.
    pub(super) reason: Option<Fault>,
    pub(super) at: Instant,
    pub(super) wall: Option<WallTime>,
}

/// What the last value message said.
#[derive(Debug)]
struct Published {
    at: Instant,
    value: Option<Value>,
    quality: Quality,
    reason: Option<Fault>,
}

/// What stands in the reason topic.
#[derive(Debug)]
enum Announced {
    /// Something from before our time, perhaps.
    Unknown,
    /// It is clear.
    Nothing,
    /// This.
    Reason(Fault),
}

impl Announced {
    fn says(&self, reason: Option<&Fault>) -> bool {
        match self {
            Self::Unknown => false,
            Self::Nothing => reason.is_none(),
            Self::Reason(said) => reason == Some(said),
        }
    }
}

/// Slots that are due.
#[derive(Debug, Default)]
struct Due {
    value: bool,
    quality: bool,
    reason: bool,
}

/// Something to say, as [`Point::next_due`] hands it out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Saying {
    /// One event, to which the sequence number has just been given.
    Event(Sample),
    /// The value topic, likewise.
    Value,
    /// The quality topic.
    Quality(Quality),
    /// The reason topic; `None` clears it.
    Reason(Option<Fault>),
}

impl Point {
    /// A point of which nothing is known.
    pub(super) fn new(now: Now, settings: PointSettings, first_seq: u64) -> Self {
        Self {
            transform: Transform::new(&settings),
            settings,
            pending: Pending::default(),
            is_queued: false,
            good: None,
            condition: None,
            raw: None,
            is_raw_current: false,
            is_read: false,
            told: None,
            heard: now.monotonic,
            published: None,
            announced_quality: None,
            announced_reason: Announced::Unknown,
            has_fresh_event: false,
            due: Due::default(),
            events: VecDeque::new(),
            seq: first_seq,
        }
    }

    /// Takes in what a driver found out.
    pub(super) fn handle_outcome(
        &mut self,
        now: Now,
        at: Instant,
        outcome: Outcome,
        stats: &mut Stats,
    ) {
        self.is_read |= !matches!(outcome, Outcome::Fault(_));
        self.told = None;
        self.take_in(now, at, outcome, stats);
    }

    /// The device has been told what to be, for good. That is no measurement, but for a point that
    /// is never read it is all there is.
    pub(super) fn handle_told(&mut self, now: Now, raw: Value, value: Value, stats: &mut Stats) {
        if self.is_event() {
            return;
        }
        if self.is_read {
            self.told = Some(value);
        } else {
            self.take_in(now, now.monotonic, Outcome::Good(raw), stats);
        }
    }

    /// What was wrong is over, although there is no value to show for it: what was last known holds
    /// again.
    pub(super) fn handle_recovered(&mut self, now: Now, stats: &mut Stats) {
        let is_fault = |condition: &Condition| condition.quality == Quality::Fault;
        if !self.condition.as_ref().is_some_and(is_fault) {
            return;
        }
        self.heard = now.monotonic;
        self.condition = Some(match &self.good {
            Some(sample) => sample.condition(),
            None => Condition {
                quality: Quality::Good,
                reason: None,
                at: now.monotonic,
                wall: now.wall_at(now.monotonic),
            },
        });
        self.refresh(now, stats);
    }

    fn take_in(&mut self, now: Now, at: Instant, outcome: Outcome, stats: &mut Stats) {
        self.heard = now.monotonic;
        let (raw, doubt) = match outcome {
            Outcome::Good(raw) => (raw, None),
            Outcome::Uncertain(raw, doubt) => (raw, Some(doubt)),
            Outcome::Fault(fault) => {
                self.is_raw_current = false;
                self.fail(now, at, fault, stats);
                return self.refresh(now, stats);
            }
        };
        let is_text = matches!(raw, Value::Text(_));
        self.raw = (!is_text).then(|| Raw {
            value: raw.clone(),
            doubt: doubt.clone(),
            at,
        });
        self.is_raw_current = true;
        match self.transform.publish(raw) {
            Ok(value) => {
                self.measure(now, at, value, doubt);
                self.has_fresh_event = self.is_event();
                self.publish_measured(now, stats);
            }
            Err(fault) => self.fail(now, at, fault, stats),
        }
        self.refresh(now, stats);
    }

    /// Does what has become due.
    pub(super) fn handle_timeout(&mut self, now: Now, stats: &mut Stats) {
        if self.stale_at().is_some_and(|at| at <= now.monotonic) {
            stats.stale += 1;
            self.told = None;
            let silence = self.settings.stale_after.unwrap_or_default();
            let detail = format!("nothing has been heard for {}", format_duration(silence));
            let (at, wall) = match &self.good {
                Some(sample) => (sample.at, sample.wall),
                None => (self.heard, now.wall_at(self.heard)),
            };
            self.condition = Some(Condition {
                quality: Quality::Stale,
                reason: Some(Fault::new(FaultKind::Silent, detail)),
                at,
                wall,
            });
        }
        self.refresh(now, stats);
    }

    /// Takes on other settings and says again whatever reads differently by them. `has_moved`:
    /// under another topic.
    pub(super) fn handle_settings(
        &mut self,
        now: Now,
        settings: PointSettings,
        has_moved: bool,
        stats: &mut Stats,
    ) {
        let reads_alike = {
            // These decide when to speak, not what to say.
            let like = PointSettings {
                deadband: settings.deadband,
                min_interval: settings.min_interval,
                max_interval: settings.max_interval,
                stale_after: settings.stale_after,
                accept_retained: settings.accept_retained,
                ..self.settings.clone()
            };
            like == settings
        };
        let transform = Transform::new(&settings);
        let converts_alike = transform == self.transform;
        self.transform = transform;
        self.settings = settings;
        if !reads_alike {
            self.published = None;
            self.due.value = false;
        }
        if !converts_alike {
            self.convert_again(now, stats);
        }
        if has_moved {
            self.announced_quality = None;
            self.announced_reason = Announced::Unknown;
        }
        self.refresh(now, stats);
    }

    /// The next thing to say, whose slot is free after that.
    pub(super) fn next_due(&mut self) -> Option<Saying> {
        if let Some(sample) = self.events.pop_front() {
            self.seq += 1;
            return Some(Saying::Event(sample));
        }
        if core::mem::take(&mut self.due.value) {
            let at = self.published.as_ref().map_or(self.heard, |last| last.at);
            let condition = self.condition.as_ref();
            self.published = Some(Published {
                at,
                value: self.good.as_ref().map(|sample| sample.value.clone()),
                quality: condition.map_or(Quality::Good, |now| now.quality),
                reason: condition.and_then(|now| now.reason.clone()),
            });
            self.seq += 1;
            return Some(Saying::Value);
        }
        let condition = self.condition.as_ref()?;
        // The reason first: who reads "fault" can then already ask why.
        if core::mem::take(&mut self.due.reason)
            && !self.announced_reason.says(condition.reason.as_ref())
        {
            self.announced_reason = match &condition.reason {
                Some(reason) => Announced::Reason(reason.clone()),
                None => Announced::Nothing,
            };
            return Some(Saying::Reason(condition.reason.clone()));
        }
        if core::mem::take(&mut self.due.quality)
            && self.announced_quality != Some(condition.quality)
        {
            self.announced_quality = Some(condition.quality);
            return Some(Saying::Quality(condition.quality));
        }
        None
    }

    /// Whether [`Point::next_due`] may have something.
    pub(super) fn has_due(&self) -> bool {
        self.due.value || self.due.quality || self.due.reason || !self.events.is_empty()
    }

    /// When it next wants [`Point::handle_timeout`], its commands included.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let held = if self.wants_value() {
            self.held_until()
        } else {
            None
        };
        [
            held,
            self.repeat_at(),
            self.stale_at(),
            self.pending.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The last value measured.
    pub(super) fn good(&self) -> Option<&Sample> {
        self.good.as_ref()
    }

    /// What is known now.
    pub(super) fn condition(&self) -> Option<&Condition> {
        self.condition.as_ref()
    }

    /// The last sequence number given out.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether its values happen, rather than last.
    pub(super) fn is_event(&self) -> bool {
        self.settings.spec.kind == PointKind::Event
    }

    /// The value as it is known to be, for a toggle.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) fn known_value(&self) -> Result<&Value, Fault> {
        // What it was told last is not published before the device confirms it, but a second toggle
        // must not repeat the first.
        if let Some(told) = &self.told {
            return Ok(told);
        }
        let story = match (&self.good, &self.condition) {
            (Some(sample), Some(condition)) => match condition.quality {
                Quality::Good | Quality::Uncertain => return Ok(&sample.value),
                Quality::Stale | Quality::Fault => condition.reason.as_ref(),
            },
            (_, condition) => condition.as_ref().and_then(|now| now.reason.as_ref()),
        };
        let detail = match story {
            Some(reason) => format!("its state is not known: {reason}"),
            None => "its state is not known yet".to_owned(),
        };
        Err(Fault::new(FaultKind::Refused, detail))
    }

    fn measure(&mut self, now: Now, at: Instant, value: Value, doubt: Option<Fault>) {
        let sample = Sample::new(now, at, value, doubt);
        self.condition = Some(sample.condition());
        self.good = Some(sample);
    }

    fn fail(&mut self, now: Now, at: Instant, fault: Fault, stats: &mut Stats) {
        stats.count_fault(fault.kind);
        self.condition = Some(Condition {
            quality: Quality::Fault,
            reason: Some(fault),
            at,
            wall: now.wall_at(at),
        });
    }

    /// Converts the last number by the present settings. An event does not happen again by that.
    fn convert_again(&mut self, now: Now, stats: &mut Stats) {
        let Some(Raw { value, doubt, at }) = self.raw.clone() else {
            return;
        };
        let is_stale = self
            .condition
            .as_ref()
            .is_some_and(|condition| condition.quality == Quality::Stale);
        let decides = self.is_raw_current && !is_stale;
        match self.transform.publish(value) {
            Ok(value) if decides => self.measure(now, at, value, doubt),
            Ok(value) => self.good = Some(Sample::new(now, at, value, doubt)),
            Err(fault) => {
                // What was good by the old settings may mean anything by the new ones.
                self.good = None;
                if decides {
                    self.fail(now, at, fault, stats);
                }
            }
        }
    }

    /// Decides about a value that has just been measured, and counts the decision.
    fn publish_measured(&mut self, now: Now, stats: &mut Stats) {
        if self.is_event() {
            return self.publish_event(now, stats);
        }
        if self.due.value {
            stats.coalesced += 1;
        } else if !self.wants_value() {
            stats.suppressed_unchanged += 1;
        } else if self.held_until().is_some_and(|at| at > now.monotonic) {
            stats.held_by_min_interval += 1;
        }
    }

    /// Queues the present value as an event, now or at the end of `min_interval`.
    fn publish_event(&mut self, now: Now, stats: &mut Stats) {
        if !self.wants_value() {
            if core::mem::take(&mut self.has_fresh_event) {
                stats.suppressed_unchanged += 1;
            }
            return;
        }
        if self.held_until().is_some_and(|at| at > now.monotonic) {
            stats.held_by_min_interval += 1;
            return;
        }
        self.has_fresh_event = false;
        let Some(sample) = &self.good else { return };
        if self.events.len() >= EVENTS_QUEUED_MAX {
            stats.events_dropped += 1;
            let detail = "events came faster than they could be published";
            let fault = Fault::new(FaultKind::EdgesLost, detail);
            if let Some(condition) = &mut self.condition {
                condition.quality = Quality::Uncertain;
                condition.reason = Some(fault);
            }
            return;
        }
        self.published = Some(Published {
            at: now.monotonic,
            value: Some(sample.value.clone()),
            quality: sample.quality,
            reason: None,
        });
        self.events.push_back(sample.clone());
    }

    /// Marks what is due at `now`.
    fn refresh(&mut self, now: Now, stats: &mut Stats) {
        if let Some(condition) = &self.condition {
            self.due.quality |= self.announced_quality != Some(condition.quality);
            self.due.reason |= !self.announced_reason.says(condition.reason.as_ref());
        }
        if self.is_event() {
            if self.has_fresh_event && self.held_until().is_none_or(|at| at <= now.monotonic) {
                self.publish_event(now, stats);
            }
            return;
        }
        if self.due.value {
            return;
        }
        if self.wants_value() {
            if self.held_until().is_none_or(|at| at <= now.monotonic) {
                self.mark_value(now);
            }
        } else if self.repeat_at().is_some_and(|at| at <= now.monotonic) {
            stats.repeated += 1;
            self.mark_value(now);
        }
    }

    fn mark_value(&mut self, now: Now) {
        self.due.value = true;
        match &mut self.published {
            Some(last) => last.at = now.monotonic,
            None => {
                self.published = Some(Published {
                    at: now.monotonic,
                    value: None,
                    quality: Quality::Good,
                    reason: None,
                });
            }
        }
    }

    /// Whether a value message would say something that the last one did not.
    fn wants_value(&self) -> bool {
        let deadband = self.settings.deadband;
        let differs = |sample: &Sample| match self.published.as_ref() {
            None => true,
            Some(last) => last
                .value
                .as_ref()
                .is_none_or(|value| is_change(value, &sample.value, deadband)),
        };
        if self.is_event() {
            let counts_always = deadband <= 0.0 || deadband.is_nan();
            return self.has_fresh_event
                && self
                    .good
                    .as_ref()
                    .is_some_and(|sample| counts_always || differs(sample));
        }
        if self.due.value {
            return false;
        }
        match self.settings.payload {
            PayloadFormat::Value => self.good.as_ref().is_some_and(differs),
            PayloadFormat::Json => self.condition.as_ref().is_some_and(|now| {
                self.published
                    .as_ref()
                    .is_none_or(|last| (last.quality, &last.reason) != (now.quality, &now.reason))
                    || (now.quality != Quality::Fault && self.good.as_ref().is_some_and(differs))
            }),
        }
    }

    /// Until when `min_interval` holds messages back; `None`: there has been none, or no limit.
    fn held_until(&self) -> Option<Instant> {
        let interval = not_zero(self.settings.min_interval)?;
        Some(self.published.as_ref()?.at + interval)
    }

    /// When `max_interval` asks for a message. A bare value is repeated only while it is true:
    /// repeated after a fault, it would look alive.
    fn repeat_at(&self) -> Option<Instant> {
        let interval = not_zero(self.settings.max_interval)?;
        let is_alive = self.condition.as_ref().is_some_and(|now| {
            matches!(now.quality, Quality::Good | Quality::Uncertain)
                || self.settings.payload == PayloadFormat::Json
        });
        if self.is_event() || !is_alive {
            return None;
        }
        Some(self.published.as_ref()?.at + interval)
    }

    /// When silence becomes a quality. A fault is not made milder by silence.
    fn stale_at(&self) -> Option<Instant> {
        let silence = not_zero(self.settings.stale_after)?;
        match self.condition.as_ref().map(|condition| condition.quality) {
            None | Some(Quality::Good | Quality::Uncertain) => Some(self.heard + silence),
            Some(Quality::Stale | Quality::Fault) => None,
        }
    }
}

/// An interval of nothing would be due again at once, for ever.
fn not_zero(interval: Option<Duration>) -> Option<Duration> {
    interval.filter(|interval| !interval.is_zero())
}
