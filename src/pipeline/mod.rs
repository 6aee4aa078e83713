//! Readings to messages, command messages to writes: transforms, quality, rates, payload formats, results.
//!
//! [`Pipeline`] is a machine without I/O. It is told of points, readings, commands and answers with `handle_*`, and asked
//! for messages, writes and samples with [`Pipeline::poll_output`], until that is `None`. It owns what is known of each
//! point and every command that waits; it leaves subscriptions, access and the retained store to the broker, and the
//! devices to the field.
//!
//! | limit | what happens there | counter |
//! |---|---|---|
//! | one undrawn value, quality and reason a point | the latest wins | [`Stats::coalesced`] |
//! | [`EVENTS_QUEUED_MAX`] undrawn events a point | the newest is lost, and the quality is uncertain | [`Stats::events_dropped`] |
//! | [`PENDING_COMMANDS_MAX`] a point | `busy` | [`Stats::commands_busy`] |
//! | [`OUTPUTS_QUEUED_MAX`] undrawn outputs | commands are lost | [`Stats::commands_dropped`] |
//! | [`SET_TIMEOUT`], [`GET_TIMEOUT`] | `timeout` | [`Stats::commands_timed_out`] |
//! | [`command::COMMAND_MAX`], [`command::TRANSACTION_MAX`] | `bad_value` | [`Stats::commands_bad_value`] |
//! | [`RESPONSE_TOPIC_MAX`], [`CORRELATION_DATA_MAX`] | no result there | [`Stats::response_topics_refused`] |
//!
//! Every command ends in exactly one result on `TOPIC/result`. Its sender's Response Topic gets the same message as well
//! (not instead: others watch `…/result`), unless that is no topic name, starts with `$`, or is one that the gateway owns:
//! there it could be a command. A Response Topic that is the point's own `…/result` is simply obeyed. Whether the sender
//! might publish there itself is for the caller to decide, who knows its rights, and then passes none.

mod availability;
pub mod command;
pub mod json;
mod message;
mod number;
mod pending;
mod point;
pub mod settings;
mod stats;
mod transform;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::availability::Device;
use self::command::{Refusal, Wanted, parse_get, parse_set};
use self::message::{Ending, Writer};
use self::pending::{Awaited, Reply, Waiting};
use self::point::{Point, Saying};
use self::settings::PointSettings;
use crate::id::{DeviceId, PointId, RequestId};
use crate::mqtt::{ApplicationMessage, TopicName};
use crate::point::{
    Fault, FaultKind, Outcome, PointKind, PointWrite, Quality, Reading, Value, Written,
};
use crate::slab::IdTable;
use crate::time::{Duration, Instant, Now, WallTime};

pub use stats::Stats;

/// Commands of one point that wait for its device at once.
pub const PENDING_COMMANDS_MAX: usize = 8;
/// How long a `…/set` waits for the device.
pub const SET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a `…/get` waits for a reading; a slow conversion behind a busy bus takes a while.
pub const GET_TIMEOUT: Duration = Duration::from_secs(10);
/// Events of one point that have not been drawn: more than the kernel keeps of a line between two turns.
pub const EVENTS_QUEUED_MAX: usize = 256;
/// Outputs that have not been drawn. They are drawn in every turn; who does not is out of order.
pub const OUTPUTS_QUEUED_MAX: usize = 4096;
/// The longest Response Topic that is remembered, in bytes.
pub const RESPONSE_TOPIC_MAX: usize = 1024;
/// The longest Correlation Data that is remembered, in bytes.
pub const CORRELATION_DATA_MAX: usize = 1024;

/// All points, and what is to be said about them.
#[derive(Debug)]
pub struct Pipeline {
    points: IdTable<PointId, Point>,
    devices: IdTable<DeviceId, Device>,
    /// One entry for each point that has a deadline, its `armed`.
    timers: BTreeSet<(Instant, PointId)>,
    /// Whatever counts one by one: results, writes, samples, clearings.
    queue: VecDeque<Output>,
    /// Points with something to say, each once.
    due: VecDeque<PointId>,
    /// The value topics, with the number of points that have it: two while a reload swaps them.
    topics: BTreeMap<Box<str>, u32>,
    base_topic: Box<str>,
    last_request: u64,
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

/// A name that whoever hands in a command knows its result by. It means nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How a command has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Of the command.
    pub ticket: Ticket,
    /// Whose command it was.
    pub point: PointId,
    /// What the point now is, in the published unit, or why not.
    pub outcome: Result<Value, Fault>,
    /// From the command to its end.
    pub latency: Duration,
}

/// A message on `…/set` or `…/get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Which of the two.
    pub verb: Verb,
    /// As it came.
    pub payload: &'a [u8],
    /// It was published with RETAIN=1: refused, unless the point accepts retained commands.
    pub retained: bool,
    /// It comes out of somebody's retained store, with a subscription, and was not published now: always refused.
    pub stored: bool,
    /// Where its sender wants the result as well [MQTT-3.3.2-14]. `None` also if its sender might not publish there.
    pub response_topic: Option<&'a str>,
    /// What that result repeats.
    pub correlation_data: Option<&'a [u8]>,
    /// Also answer with [`Output::Answer`].
    pub ticket: Option<Ticket>,
}

impl<'a> Command<'a> {
    /// A plain command.
    pub const fn new(verb: Verb, payload: &'a [u8]) -> Self {
        Self {
            verb,
            payload,
            retained: false,
            stored: false,
            response_topic: None,
            correlation_data: None,
            ticket: None,
        }
    }
}

/// What a command wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Make the point this.
    Set,
    /// Read the point now.
    Get,
}

impl Verb {
    /// The last level of its topic.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Get => "get",
        }
    }
}

/// What is known of a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot<'a> {
    /// How it is published.
    pub settings: &'a PointSettings,
    /// The last value measured, in the published unit; `None` before there was one. Mind the quality.
    pub value: Option<&'a Value>,
    /// `None`: nothing has been heard yet.
    pub quality: Option<Quality>,
    /// Why it is not good.
    pub reason: Option<&'a Fault>,
    /// When the value was captured, `None` while the clock is not known.
    pub time: Option<WallTime>,
    /// When the value was captured.
    pub at: Option<Instant>,
    /// Of the last value message; 0 before the first.
    pub seq: u64,
    /// Commands that wait for the device.
    pub pending: usize,
}

impl Snapshot<'_> {
    /// How old the value is.
    pub fn age(&self, now: Now) -> Option<Duration> {
        self.at.map(|at| now.monotonic.since(at))
    }
}

impl Pipeline {
    /// No points.
    pub fn new() -> Self {
        Self {
            points: IdTable::new(),
            devices: IdTable::new(),
            timers: BTreeSet::new(),
            queue: VecDeque::new(),
            due: VecDeque::new(),
            topics: BTreeMap::new(),
            base_topic: Box::default(),
            last_request: 0,
            is_stopping: false,
            writer: Writer::default(),
            now: Now {
                monotonic: Instant::default(),
                wall: WallTime::default(),
            },
            stats: Stats::default(),
        }
    }

    /// Which topics belong to the gateway, besides those of points: no result is sent there on a stranger's word.
    pub fn set_base_topic(&mut self, base_topic: &str) {
        self.base_topic = base_topic.into();
    }

    /// A point exists from here on. Nothing is said about it before its first reading, or its silence.
    pub fn add_point(&mut self, now: Now, point: PointId, settings: PointSettings) {
        if self.points.contains(point) {
            return self.update_point(now, point, settings);
        }
        self.now = now;
        *self.topics.entry(settings.topic.clone()).or_default() += 1;
        let evicted = self.points.insert(point, Point::new(now, settings));
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
        if let Some(armed) = removed.armed {
            self.timers.remove(&(armed, point));
        }
        if removed.is_queued {
            self.due.retain(|queued| *queued != point);
        }
        let fault = Fault::new(FaultKind::Refused, "the point is no longer configured");
        let settings = &removed.settings;
        for waiting in removed.pending.take_all() {
            self.stats.count_refusal(fault.kind);
            let outputs = answers(&mut self.writer, now, point, settings, waiting, Err(&fault));
            self.queue.extend(outputs);
        }
        self.disown(&settings.topic);
        self.clear_all(settings, removed.is_retained());
        if let Some(device) = removed.device {
            self.leave_device(point, device);
        }
        self.check_invariants();
    }

    /// A point's settings may have changed. Its state, its sequence and its commands stay; what is retained where it is no
    /// longer published is cleared; what reads differently now is published again. Equal settings change nothing.
    pub fn update_point(&mut self, now: Now, point: PointId, settings: PointSettings) {
        self.now = now;
        let Some(state) = self.points.get_mut(point) else {
            return self.add_point(now, point, settings);
        };
        if state.settings == settings {
            return;
        }
        let was_retained = state.is_retained();
        let before = state.settings.clone();
        let has_moved = before.topic != settings.topic;
        let topic = settings.topic.clone();
        state.handle_settings(now, settings, has_moved, &mut self.stats);
        let is_retained = state.is_retained();
        if has_moved {
            *self.topics.entry(topic).or_default() += 1;
            self.disown(&before.topic);
            self.clear_all(&before, was_retained);
        } else if was_retained && !is_retained {
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

    /// A command has come for a point. It ends in exactly one result, sooner or later.
    pub fn handle_command(&mut self, now: Now, point: PointId, command: Command<'_>) {
        self.now = now;
        if self.queue.len() >= OUTPUTS_QUEUED_MAX {
            self.stats.commands_dropped += 1;
            return;
        }
        if !self.points.contains(point) {
            self.stats.unknown_point += 1;
            let fault = Fault::new(FaultKind::Refused, "there is no such point");
            if let Some(ticket) = command.ticket {
                self.queue.push_back(Output::Answer(Answer {
                    ticket,
                    point,
                    outcome: Err(fault),
                    latency: Duration::ZERO,
                }));
            }
            return;
        }
        self.stats.commands += 1;
        let mut reply = self.reply_to(point, &command);
        let begun = match self.begin(point, &command) {
            Ok((answer, output, transaction)) => {
                reply.transaction = transaction;
                Ok((answer, output))
            }
            Err(Refusal { fault, transaction }) => {
                reply.transaction = transaction;
                Err(fault)
            }
        };
        match begun {
            Ok((answer, output)) => {
                let waiting = Waiting {
                    answer,
                    reply,
                    since: now.monotonic,
                };
                let state = self.points.get_mut(point).expect("found above");
                state.pending.push(waiting);
                self.queue.extend(output);
            }
            Err(fault) => {
                self.stats.count_refusal(fault.kind);
                let waiting = Waiting {
                    answer: Awaited::Reading,
                    reply,
                    since: now.monotonic,
                };
                self.end(point, waiting, Err(&fault));
            }
        }
        self.settle(point);
        self.check_invariants();
    }

    /// A write has been carried out, or not. What it says that the point now is counts as a reading of it.
    pub fn handle_written(&mut self, now: Now, written: Written) {
        self.now = now;
        let Written {
            point,
            request,
            outcome,
        } = written;
        let Some(state) = self.points.get_mut(point) else {
            self.stats.unknown_point += 1;
            return;
        };
        let waiting = state.pending.take_written(request);
        if waiting.is_none() {
            self.stats.late_answers += 1;
        }
        let ended = match outcome {
            Ok(raw) => {
                let value = state.transform.convert(raw.clone());
                if !state.is_event() {
                    let outcome = Outcome::Good(raw);
                    state.handle_outcome(now, now.monotonic, outcome, &mut self.stats);
                }
                value
            }
            Err(fault) => Err(fault),
        };
        if let Some(waiting) = waiting {
            match &ended {
                Ok(_) => self.stats.commands_ok += 1,
                Err(fault) => self.stats.count_refusal(fault.kind),
            }
            self.end(point, waiting, ended.as_ref());
        }
        self.settle(point);
        self.check_invariants();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        while let Some((at, point)) = self.timers.first().copied() {
            if at > now.monotonic {
                break;
            }
            self.timers.pop_first();
            let state = self
                .points
                .get_mut(point)
                .expect("a point that goes takes its timer along");
            state.armed = None;
            state.handle_timeout(now, &mut self.stats);
            for waiting in state.pending.take_due(now.monotonic) {
                self.stats.commands_timed_out += 1;
                let story = match waiting.answer {
                    Awaited::Written(..) => "the device has not answered within ",
                    Awaited::Reading => "no reading came within ",
                };
                let waited = command::duration_text(waiting.deadline().since(waiting.since));
                let fault = Fault::new(FaultKind::Timeout, format!("{story}{waited}"));
                self.end(point, waiting, Err(&fault));
            }
            self.settle(point);
        }
        self.check_invariants();
    }

    /// The gateway stops: every command that waits ends, every further one is refused, and devices are offline.
    pub fn handle_stop(&mut self, now: Now) {
        self.now = now;
        self.is_stopping = true;
        let fault = stopping();
        for point in self.points.keys() {
            let Some(state) = self.points.get_mut(point) else {
                continue;
            };
            for waiting in state.pending.take_all() {
                self.stats.count_refusal(fault.kind);
                self.end(point, waiting, Err(&fault));
            }
            self.settle(point);
        }
        for device in self.devices.keys() {
            self.refresh_device(device);
        }
        self.check_invariants();
    }

    /// When [`Pipeline::handle_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
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
                let Some(message) = self.writer.saying(self.now, state, &saying) else {
                    self.stats.unpublishable += 1;
                    continue;
                };
                match saying {
                    Saying::Event(..) | Saying::Value(_) => self.stats.published += 1,
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

    /// What is known of a point.
    pub fn snapshot(&self, point: PointId) -> Option<Snapshot<'_>> {
        let state = self.points.get(point)?;
        let good = state.good();
        let condition = state.condition();
        Some(Snapshot {
            settings: &state.settings,
            value: good.map(|sample| &sample.value),
            quality: condition.map(|condition| condition.quality),
            reason: condition.and_then(|condition| condition.reason.as_ref()),
            time: good.and_then(|sample| sample.wall.or_else(|| self.now.wall_at(sample.at))),
            at: good.map(|sample| sample.at),
            seq: state.seq(),
            pending: state.pending.len(),
        })
    }

    /// Every point, in the order of their slots.
    pub fn points(&self) -> impl Iterator<Item = PointId> {
        self.points.iter().map(|(point, _)| point)
    }

    /// What has been counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether a command may begin, and what it then waits for and asks for.
    fn begin(&mut self, point: PointId, command: &Command<'_>) -> Result<Begun, Refusal> {
        let state = self.points.get(point).expect("the caller has found it");
        let settings = &state.settings;
        let spec = &settings.spec;
        let parsed = match command.verb {
            Verb::Set => parse_set(command.payload, settings.value_type, &settings.booleans)
                .map(|parsed| (Some((parsed.wanted, parsed.hold)), parsed.transaction)),
            Verb::Get => parse_get(command.payload).map(|transaction| (None, transaction)),
        };
        // Permission comes before understanding, but even a refusal repeats the transaction.
        let (allowed, transaction) = match &parsed {
            Ok((_, transaction)) | Err(Refusal { transaction, .. }) => {
                (self.allow(state, command), transaction.clone())
            }
        };
        if let Err(fault) = allowed {
            return Err(Refusal { fault, transaction });
        }
        let Some((wanted, hold)) = parsed?.0 else {
            let is_asked = state.pending.has_reader();
            let output = (!is_asked).then_some(Output::Sample(point));
            return Ok((Awaited::Reading, output, transaction));
        };
        debug_assert!(spec.writable, "`allow` has asked");
        let refuse = |fault| Refusal {
            fault,
            transaction: transaction.clone(),
        };
        let value = match wanted {
            Wanted::Value(value) => value,
            Wanted::Toggle => opposite(state).map_err(refuse)?,
        };
        let raw = state.transform.command(value.clone()).map_err(refuse)?;
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let write = PointWrite {
            point,
            request,
            value: raw,
            hold,
        };
        let awaited = Awaited::Written(request, value);
        Ok((awaited, Some(Output::Write(write)), transaction))
    }

    /// Whether a command of this sort is allowed at all, and there is room for it.
    fn allow(&self, state: &Point, command: &Command<'_>) -> Result<(), Fault> {
        let refused = |detail: &str| Err(Fault::new(FaultKind::Refused, detail));
        if self.is_stopping {
            return Err(stopping());
        }
        let settings = &state.settings;
        if command.stored {
            return refused("a retained command is not obeyed when a subscription brings it");
        }
        if command.retained && !settings.accept_retained {
            return refused("a retained command is not obeyed; publish it without RETAIN");
        }
        match command.verb {
            Verb::Set if !settings.spec.writable => return refused("the point is not writable"),
            Verb::Get if settings.spec.kind == PointKind::Event => {
                return refused("an event has no value that could be read");
            }
            Verb::Set | Verb::Get => {}
        }
        if state.pending.is_full() {
            let detail = format!("{PENDING_COMMANDS_MAX} commands are waiting already");
            return Err(Fault::new(FaultKind::Busy, detail));
        }
        Ok(())
    }

    /// Where a command's result goes.
    fn reply_to(&mut self, point: PointId, command: &Command<'_>) -> Reply {
        let own_topic = self.points.get(point).map(|state| &*state.settings.topic);
        let is_own_result =
            |topic: &str| own_topic.and_then(|own| topic.strip_prefix(own)) == Some("/result");
        let correlation_data = command
            .correlation_data
            .filter(|data| data.len() <= CORRELATION_DATA_MAX);
        let is_whole = correlation_data == command.correlation_data;
        let asked_for = command.response_topic.filter(|topic| !is_own_result(topic));
        let accepted = asked_for.filter(|topic| is_whole && self.is_free_topic(topic));
        if asked_for.is_some() && accepted.is_none() {
            self.stats.response_topics_refused += 1;
        }
        Reply {
            response_topic: accepted.map(Box::from),
            correlation_data: correlation_data.map(Box::from),
            transaction: None,
            ticket: command.ticket,
        }
    }

    /// Whether a stranger may direct a result to this topic: a name, not a broker's, not one of the gateway's.
    fn is_free_topic(&self, topic: &str) -> bool {
        if topic.len() > RESPONSE_TOPIC_MAX || TopicName::new(topic).is_err() {
            return false;
        }
        let is_ours = |owner: &str| {
            !owner.is_empty()
                && topic
                    .strip_prefix(owner)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut above = topic.match_indices('/').map(|(at, _)| &topic[..at]);
        !topic.starts_with('$')
            && !is_ours(&self.base_topic)
            && !self.topics.contains_key(topic)
            && !above.any(|topic| self.topics.contains_key(topic))
    }

    fn answer_readers(&mut self, point: PointId, readers: Vec<Waiting>) {
        let Some(state) = self.points.get(point) else {
            return;
        };
        let fault = state.condition().and_then(|condition| {
            let is_fault = condition.quality == Quality::Fault;
            condition.reason.clone().filter(|_| is_fault)
        });
        let outcome = match (fault, state.good()) {
            (Some(fault), _) => Err(fault),
            (None, Some(sample)) => Ok(sample.value.clone()),
            (None, None) => Err(Fault::new(FaultKind::NotMeasured, "there is no value yet")),
        };
        for waiting in readers {
            match &outcome {
                Ok(_) => self.stats.commands_ok += 1,
                Err(_) => self.stats.commands_failed += 1,
            }
            self.end(point, waiting, outcome.as_ref());
        }
    }

    /// Tells everybody who wants to know how a command of a present point has ended.
    fn end(&mut self, point: PointId, waiting: Waiting, outcome: Result<&Value, &Fault>) {
        if let Some(state) = self.points.get(point) {
            let settings = &state.settings;
            let outputs = answers(
                &mut self.writer,
                self.now,
                point,
                settings,
                waiting,
                outcome,
            );
            self.queue.extend(outputs);
        }
    }

    /// Clears what is retained under a point's topics, unless another point has taken them over meanwhile.
    fn clear_all(&mut self, settings: &PointSettings, is_value_retained: bool) {
        if self.topics.contains_key(&settings.topic) {
            return;
        }
        if is_value_retained {
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

    /// After a point has changed: its place among those with something to say, its timer, its device.
    fn settle(&mut self, point: PointId) {
        let Some(state) = self.points.get_mut(point) else {
            return;
        };
        if state.has_due() && !state.is_queued {
            state.is_queued = true;
            self.due.push_back(point);
        }
        let next = state.next_deadline().filter(|at| *at < Instant::FAR_FUTURE);
        if next != state.armed {
            if let Some(armed) = state.armed {
                self.timers.remove(&(armed, point));
            }
            if let Some(next) = next {
                self.timers.insert((next, point));
            }
            state.armed = next;
        }
        let reach = state.reach();
        if reach != state.known_reach {
            state.known_reach = reach;
            if let Some(device) = state.device {
                self.refresh_device(device);
            }
        }
    }

    /// What holds between two calls.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let mut armed = 0;
        for (point, state) in self.points.iter() {
            if let Some(at) = state.armed {
                armed += 1;
                assert!(self.timers.contains(&(at, point)), "{point} has its timer");
            }
            assert!(state.pending.len() <= PENDING_COMMANDS_MAX);
            assert!(!state.has_due() || state.is_queued, "{point} is drawn");
            assert!(self.topics.contains_key(&state.settings.topic));
        }
        assert_eq!(self.timers.len(), armed, "a timer has a point");
        let queued = self.points.iter().filter(|(_, state)| state.is_queued);
        assert_eq!(self.due.len(), queued.count(), "each waits once");
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self::new()
    }
}

/// What a command that begins waits for, what it asks for, and its transaction.
type Begun = (Awaited, Option<Output>, Option<Box<str>>);

/// What tells everybody who wants to know how a command has ended.
fn answers(
    writer: &mut Writer,
    now: Now,
    point: PointId,
    settings: &PointSettings,
    waiting: Waiting,
    outcome: Result<&Value, &Fault>,
) -> impl Iterator<Item = Output> {
    let latency = now.monotonic.since(waiting.since);
    let ending = Ending { outcome, latency };
    let results = writer.results(now, settings, &waiting.reply, &ending);
    let answer = waiting.reply.ticket.map(|ticket| {
        Output::Answer(Answer {
            ticket,
            point,
            outcome: outcome.cloned().map_err(Fault::clone),
            latency,
        })
    });
    let results = results.into_iter().flatten().map(Output::Publish);
    results.chain(answer)
}

/// What a toggle means: the opposite of what the writes under way will make of the point, else of what it is.
fn opposite(state: &Point) -> Result<Value, Fault> {
    let value = match state.pending.last_written() {
        Some(value) => value,
        None => state.known_value()?,
    };
    match value {
        Value::Bool(active) => Ok(Value::Bool(!active)),
        Value::Int(number) => Ok(Value::Bool(*number == 0)),
        Value::Uint(number) => Ok(Value::Bool(*number == 0)),
        Value::Float(_) | Value::Text(_) => {
            let detail = "only what is on or off can be toggled";
            Err(Fault::new(FaultKind::BadValue, detail))
        }
    }
}

fn stopping() -> Fault {
    Fault::new(FaultKind::Stopping, "the gateway is stopping")
}
