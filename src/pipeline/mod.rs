//! Readings to messages, command messages to writes: transforms, quality, rates, payload formats,
//! results.
//!
//! [`Pipeline`] is a machine without I/O. It is told of points, readings, commands and answers with
//! `handle_*`, and asked for messages, writes and samples with [`Pipeline::poll_output`], until
//! that is `None`. It owns what is known of each point and every command that waits; it leaves
//! subscriptions, access and the retained store to the broker, and the devices to the field.
//!
//! | limit | what happens there | counter |
//! |---|---|---|
//! | one undrawn value, quality and reason a point | the latest wins | [`Stats::coalesced`] |
//! | [`EVENTS_QUEUED_MAX`] undrawn events a point | the newest is lost, and the quality is uncertain | [`Stats::events_dropped`] |
//! | [`PENDING_COMMANDS_MAX`] a point | `busy` | [`Stats::commands_busy`] |
//! | [`OUTPUTS_QUEUED_MAX`] undrawn outputs | commands are lost | [`Stats::commands_dropped`] |
//! | [`SET_TIMEOUT`], [`GET_TIMEOUT`] | `timeout` | [`Stats::commands_timed_out`] |
//! | [`parse::COMMAND_MAX`], [`parse::TRANSACTION_MAX`] | `bad_value` | [`Stats::commands_bad_value`] |
//! | [`RESPONSE_TOPIC_MAX`], [`CORRELATION_DATA_MAX`] | no result there | [`Stats::response_topics_refused`] |
//!
//! Every command ends in exactly one result on `TOPIC/result`. Its sender's Response Topic gets the
//! same message as well (not instead: others watch `…/result`), unless that is no topic name,
//! starts with `$`, or is one that the gateway owns: there it could be a command. A Response Topic
//! that is the point's own `…/result` is simply obeyed. Whether the sender might publish there
//! itself is for the caller to decide, who knows its rights, and then passes none.

mod availability;
mod command;
pub mod json;
mod message;
mod number;
pub mod parse;
mod pending;
mod point;
pub mod settings;
mod snapshot;
mod stats;
mod transform;

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use self::availability::Device;
use self::command::answers;
use self::message::Writer;
use self::pending::Awaited;
use self::point::{Point, Saying};
use self::settings::PointSettings;
use crate::deadlines::ExactDeadlines;
use crate::id::{DeviceId, PointId};
use crate::mqtt::ApplicationMessage;
use crate::point::{Fault, FaultKind, PointWrite, Reading};
use crate::slab::IdTable;
use crate::time::{Duration, Instant, Now, WallTime};
use crate::units::format_duration;

pub use self::command::{Answer, Command, Ticket, Verb};
pub use self::snapshot::Snapshot;
pub use self::stats::Stats;

/// Commands of one point that wait for its device at once.
pub const PENDING_COMMANDS_MAX: usize = 8;
/// How long a `…/set` waits for the device.
pub const SET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a `…/get` waits for a reading; a slow conversion behind a busy bus takes a while.
pub const GET_TIMEOUT: Duration = Duration::from_secs(10);
/// Events of one point that have not been drawn: more than the kernel keeps of a line between two
/// turns.
pub const EVENTS_QUEUED_MAX: usize = 256;
/// Outputs that have not been drawn. They are drawn in every turn; who does not is out of order.
pub const OUTPUTS_QUEUED_MAX: usize = 1024;
/// The longest Response Topic that is remembered, in bytes.
pub const RESPONSE_TOPIC_MAX: usize = 1024;
/// The longest Correlation Data that is remembered, in bytes.
pub const CORRELATION_DATA_MAX: usize = 1024;

/// All points, and what is to be said about them.
#[derive(Debug)]
pub struct Pipeline {
    points: IdTable<PointId, Point>,
    devices: IdTable<DeviceId, Device>,
    /// Of each point, when it next wants [`Pipeline::handle_timeout`].
    timers: ExactDeadlines<PointId>,
    /// Whatever counts one by one: results, writes, samples, clearings.
    queue: VecDeque<Output>,
    /// Points with something to say, each once.
    due: VecDeque<PointId>,
    /// The value topics, with the number of points that have it: two while a reload swaps them.
    topics: BTreeMap<Box<str>, u32>,
    base_topic: Box<str>,
    last_request: u64,
    /// Below the sequence numbers of points that are added.
    first_seq: u64,
    highest_seq: u64,
    is_stopping: bool,
    writer: Writer,
    /// Of the last call: messages are written when they are drawn, and that is in the same turn.
    now: Now,
    stats: Stats,
}

/// Do this.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Publish, as the field's own message.
    Publish(ApplicationMessage),
    /// Carry out; answered by [`Pipeline::handle_written`].
    Write(PointWrite),
    /// Read this point now; answered by [`Pipeline::handle_reading`].
    Sample(PointId),
    /// A command that carried a ticket has ended.
    Answer(Answer),
}

impl Pipeline {
    /// No points.
    pub fn new() -> Self {
        Self {
            points: IdTable::new(),
            devices: IdTable::new(),
            timers: ExactDeadlines::default(),
            queue: VecDeque::new(),
            due: VecDeque::new(),
            topics: BTreeMap::new(),
            base_topic: Box::default(),
            last_request: 0,
            first_seq: 0,
            highest_seq: 0,
            is_stopping: false,
            writer: Writer::default(),
            now: Now {
                monotonic: Instant::default(),
                wall: WallTime::default(),
            },
            stats: Stats::default(),
        }
    }

    /// Which topics belong to the gateway, besides those of points: no result is sent there on a
    /// stranger's word.
    pub fn set_base_topic(&mut self, base_topic: &str) {
        self.base_topic = base_topic.into();
    }

    /// Points that are added from now on have sequence numbers above this.
    pub fn set_first_seq(&mut self, first_seq: u64) {
        self.first_seq = first_seq;
        self.highest_seq = self.highest_seq.max(first_seq);
    }

    /// No point has given out a higher sequence number.
    pub fn highest_seq(&self) -> u64 {
        self.highest_seq
    }

    /// A point exists from here on. Nothing is said about it before its first reading, or its
    /// silence.
    pub fn add_point(&mut self, now: Now, point: PointId, settings: PointSettings) {
        if self.points.contains(point) {
            return self.update_point(now, point, settings);
        }
        self.now = now;
        *self.topics.entry(settings.topic.clone()).or_default() += 1;
        let evicted = self
            .points
            .insert(point, Point::new(now, settings, self.first_seq));
        debug_assert!(
            evicted.is_none(),
            "a slot's tenant is removed before the next"
        );
        self.settle(point);
        self.check_invariants();
    }

    /// A point is gone: its commands end, and what is retained of it is cleared.
    pub fn remove_point(&mut self, now: Now, point: PointId) {
        self.now = now;
        let Some(mut removed) = self.points.remove(point) else {
            return;
        };
        // It may come back, and its numbers grow for ever.
        self.first_seq = self.first_seq.max(removed.seq());
        self.timers.disarm(point);
        if removed.is_queued {
            self.due.retain(|queued| *queued != point);
        }
        let fault = Fault::new(FaultKind::Refused, "the point is no longer configured");
        let settings = &removed.settings;
        for waiting in removed.pending.take_all() {
            self.stats.count_refusal(fault.kind);
            let outputs = answers(
                &mut self.writer,
                now,
                point,
                settings,
                &waiting,
                Err(&fault),
            );
            self.queue.extend(outputs);
        }
        self.disown(&settings.topic);
        self.clear_all(settings);
        self.check_invariants();
    }

    /// A point's settings may have changed. Its state, its sequence and its commands stay; what is
    /// retained where it is no longer published is cleared; what reads differently now is published
    /// again. Equal settings change nothing.
    pub fn update_point(&mut self, now: Now, point: PointId, settings: PointSettings) {
        self.now = now;
        let Some(state) = self.points.get_mut(point) else {
            return self.add_point(now, point, settings);
        };
        if state.settings == settings {
            return;
        }
        let before = state.settings.clone();
        let has_moved = before.topic != settings.topic;
        let is_value_orphaned = before.retain && !settings.retain;
        let topic = settings.topic.clone();
        state.handle_settings(now, settings, has_moved, &mut self.stats);
        if has_moved {
            *self.topics.entry(topic).or_default() += 1;
            self.disown(&before.topic);
            self.clear_all(&before);
        } else if is_value_orphaned {
            self.clear(&before, "");
        }
        self.settle(point);
        self.check_invariants();
    }

    /// A driver has found something out.
    pub fn handle_reading(&mut self, now: Now, reading: Reading) {
        self.now = now;
        let Reading { point, at, outcome } = reading;
        let Some(state) = self.points.get_mut(point) else {
            self.stats.unknown_point += 1;
            return;
        };
        self.stats.readings += 1;
        state.handle_outcome(now, at, outcome, &mut self.stats);
        let readers = state.pending.take_readers();
        if !readers.is_empty() {
            self.answer_readers(point, readers);
        }
        self.settle(point);
        self.check_invariants();
    }

    /// What was wrong with a point is over, although there is no value to show for it: an event's
    /// line works again, or the port of a device that is only told things.
    pub fn handle_recovered(&mut self, now: Now, point: PointId) {
        self.now = now;
        let Some(state) = self.points.get_mut(point) else {
            self.stats.unknown_point += 1;
            return;
        };
        state.handle_recovered(now, &mut self.stats);
        self.settle(point);
        self.check_invariants();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        // Each point once, whatever it arms next: time moves on by the caller's hand alone.
        let mut due = SmallVec::<[PointId; 16]>::new();
        while let Some(point) = self.timers.pop_due(now.monotonic) {
            due.push(point);
        }
        for point in due {
            let state = self
                .points
                .get_mut(point)
                .expect("a point that goes takes its timer along");
            state.handle_timeout(now, &mut self.stats);
            for waiting in state.pending.take_due(now.monotonic) {
                self.stats.commands_timed_out += 1;
                let story = match waiting.answer {
                    Awaited::Written { .. } => "the device has not answered within ",
                    Awaited::Reading => "no reading came within ",
                };
                let waited = format_duration(waiting.deadline().since(waiting.since));
                let fault = Fault::new(FaultKind::Timeout, format!("{story}{waited}"));
                self.end(point, &waiting, Err(&fault));
            }
            self.settle(point);
        }
        self.check_invariants();
    }

    /// The gateway stops: every command that waits ends, every further one is refused, and devices
    /// are offline.
    pub fn handle_stop(&mut self, now: Now) {
        self.now = now;
        self.is_stopping = true;
        let fault = command::stopping();
        for point in self.points.keys() {
            let Some(state) = self.points.get_mut(point) else {
                continue;
            };
            for waiting in state.pending.take_all() {
                self.stats.count_refusal(fault.kind);
                self.end(point, &waiting, Err(&fault));
            }
            self.settle(point);
        }
        for device in self.devices.keys() {
            self.publish_availability(device, false);
        }
        self.check_invariants();
    }

    /// When [`Pipeline::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What to do now; `None` until something else happens.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.queue.pop_front() {
            return Some(output);
        }
        while let Some(point) = self.due.front().copied() {
            let state = self
                .points
                .get_mut(point)
                .expect("a point that goes takes its place in this queue along");
            while let Some(saying) = state.next_due() {
                self.highest_seq = self.highest_seq.max(state.seq());
                let Some(message) = self.writer.saying(self.now, state, &saying) else {
                    self.stats.unpublishable += 1;
                    continue;
                };
                match saying {
                    Saying::Event(_) | Saying::Value => self.stats.published += 1,
                    Saying::Quality(_) | Saying::Reason(_) => self.stats.quality_published += 1,
                }
                return Some(Output::Publish(message));
            }
            state.is_queued = false;
            self.due.pop_front();
            // What was drawn may leave a value that is held back, with a deadline.
            self.settle(point);
        }
        None
    }

    /// Every point, in the order of their slots.
    pub fn points(&self) -> impl Iterator<Item = PointId> {
        self.points.iter().map(|(point, _)| point)
    }

    /// What has been counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Clears what is retained under a point's topics, unless another point has taken them over
    /// meanwhile.
    fn clear_all(&mut self, settings: &PointSettings) {
        if self.topics.contains_key(&settings.topic) {
            return;
        }
        if settings.retain {
            self.clear(settings, "");
        }
        self.clear(settings, "/quality");
        self.clear(settings, "/reason");
    }

    fn clear(&mut self, settings: &PointSettings, below: &str) {
        let message = self
            .writer
            .clear(self.now, &settings.topic, below, settings.qos);
        self.queue.extend(message.map(Output::Publish));
    }

    fn disown(&mut self, topic: &str) {
        if let Some(owners) = self.topics.get_mut(topic) {
            *owners -= 1;
            if *owners == 0 {
                self.topics.remove(topic);
            }
        }
    }

    /// After a point has changed: its place among those with something to say, its timer, its
    /// device.
    fn settle(&mut self, point: PointId) {
        let Some(state) = self.points.get_mut(point) else {
            return;
        };
        if state.has_due() && !state.is_queued {
            state.is_queued = true;
            self.due.push_back(point);
        }
        let next = state.next_deadline().unwrap_or(Instant::FAR_FUTURE);
        self.timers.arm(point, next);
    }

    /// What holds between two calls.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        for point in self.timers.keys() {
            assert!(self.points.contains(point), "a timer has a point");
        }
        for (_, state) in self.points.iter() {
            assert!(state.pending.len() <= PENDING_COMMANDS_MAX);
            assert!(!state.has_due() || state.is_queued, "who speaks is drawn");
            assert!(self.topics.contains_key(&state.settings.topic));
        }
        let queued = self.points.iter().filter(|(_, state)| state.is_queued);
        assert_eq!(self.due.len(), queued.count(), "each waits once");
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}
