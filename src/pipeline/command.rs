//! The life of a command: what it may be, whether it is allowed, what it waits for, and its one
//! result.
//!
//! | it is | result |
//! |---|---|
//! | retained, and that is not accepted; for a point that is not writable; during a stop | `refused`, `stopping` |
//! | one too many for this point | `busy` |
//! | not understood, out of range | `bad_value`, `out_of_range` |
//! | a `set` | what the device says to the write, or `timeout` |
//! | a `get` | the next reading, or `timeout` |

use super::message::{Ending, Writer};
use super::parse::{Refusal, Wanted, parse_get, parse_set};
use super::pending::{Awaited, Reply, Waiting};
use super::point::Point;
use super::settings::PointSettings;
use super::{
    CORRELATION_DATA_MAX, OUTPUTS_QUEUED_MAX, Output, PENDING_COMMANDS_MAX, Pipeline,
    RESPONSE_TOPIC_MAX,
};
use crate::id::{PointId, RequestId};
use crate::mqtt::TopicName;
use crate::point::{Fault, FaultKind, PointKind, PointWrite, Quality, Value, Written};
use crate::time::{Duration, Now};

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
    /// It comes out of somebody's retained store, with a subscription, and was not published now:
    /// always refused.
    pub stored: bool,
    /// Where its sender wants the result as well [MQTT-3.3.2-14]. `None` also if its sender might
    /// not publish there.
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

impl Pipeline {
    /// A command has come for a point. It ends in exactly one result, sooner or later.
    pub fn handle_command(&mut self, now: Now, point: PointId, command: Command<'_>) {
        self.now = now;
        if !self.points.contains(point) {
            self.stats.unknown_point += 1;
            let fault = Fault::new(FaultKind::Refused, "there is no such point");
            return self.answer_only(point, command.ticket, fault);
        }
        if self.queue.len() >= OUTPUTS_QUEUED_MAX {
            self.stats.commands_dropped += 1;
            let fault = Fault::new(FaultKind::Busy, "the gateway does not keep up");
            return self.answer_only(point, command.ticket, fault);
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
                self.end(point, &waiting, Err(&fault));
            }
        }
        self.settle(point);
        self.check_invariants();
    }

    /// A write has been carried out, or not. Its value is published only if nothing better will
    /// come, for a point that its device never speaks of: what a device was told is not what it is.
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
        let Some(waiting) = state.pending.take_written(request) else {
            self.stats.late_answers += 1;
            return;
        };
        let ended = outcome.and_then(|raw| {
            let value = state.transform.convert(raw.clone())?;
            if matches!(
                waiting.answer,
                Awaited::Written {
                    is_pulse: false,
                    ..
                }
            ) {
                state.handle_told(now, raw, value.clone(), &mut self.stats);
            }
            Ok(value)
        });
        match &ended {
            Ok(_) => self.stats.commands_ok += 1,
            Err(fault) => self.stats.count_refusal(fault.kind),
        }
        self.end(point, &waiting, ended.as_ref());
        self.settle(point);
        self.check_invariants();
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
        let awaited = Awaited::Written {
            request,
            value,
            is_pulse: hold.is_some(),
        };
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

    /// Whether a stranger may direct a result to this topic: a name, not a broker's, not one of the
    /// gateway's.
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

    pub(super) fn answer_readers(&mut self, point: PointId, readers: Vec<Waiting>) {
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
            self.end(point, &waiting, outcome.as_ref());
        }
    }

    /// For a command that has no topic for its result, or no room.
    fn answer_only(&mut self, point: PointId, ticket: Option<Ticket>, fault: Fault) {
        if let Some(ticket) = ticket {
            self.queue.push_back(Output::Answer(Answer {
                ticket,
                point,
                outcome: Err(fault),
                latency: Duration::ZERO,
            }));
        }
    }

    /// Tells everybody who wants to know how a command of a present point has ended.
    pub(super) fn end(
        &mut self,
        point: PointId,
        waiting: &Waiting,
        outcome: Result<&Value, &Fault>,
    ) {
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
}

/// What a command that begins waits for, what it asks for, and its transaction.
type Begun = (Awaited, Option<Output>, Option<Box<str>>);

/// What tells everybody who wants to know how a command has ended.
pub(super) fn answers(
    writer: &mut Writer,
    now: Now,
    point: PointId,
    settings: &PointSettings,
    waiting: &Waiting,
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

/// What a toggle means: the opposite of what the writes under way will make of the point, else of
/// what it is.
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

pub(super) fn stopping() -> Fault {
    Fault::new(FaultKind::Stopping, "the gateway is stopping")
}
