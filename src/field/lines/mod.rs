//! Devices that speak, and may understand, lines of text on a serial port.
//!
//! Each line that comes on the port is held against the pattern of each of its devices; a named
//! group that took part is a reading of the point of that name. What a device is told is a
//! template with the value in it. Several devices may share a port: the line that one of them does
//! not understand is another's.
//!
//! | what happens | what is said |
//! |---|---|
//! | the port is lost | `unplugged` on every point, or what the host says; offline |
//! | [`POLLS_UNANSWERED_MAX`] polls without a line that matches | `no_answer`, or `bad_answer` if lines came; offline |
//! | [`UNCLAIMED_LINES_MAX`] lines in a row that nobody understands | `bad_answer`: the pattern, or the speed, is wrong |
//! | a group that is no number, or no finite one | `bad_answer` on that point |
//!
//! A point that has only a command is what it was last told to be; it reads as nothing.

mod splitter;

use regex_lite::Regex;

use super::context::Context;
use super::ports::Ports;
use super::report::Reporter;
use super::schedule::{Origin, Schedule};
use super::settings::{LinesPoint, LinesSettings, TextKind};
use super::timers::Timer;
use crate::buffer::Payload;
use crate::id::PortId;
use crate::point::{Fault, FaultKind, Outcome, PointKind, PointSpec, PointWrite, Value};
use crate::time::{Duration, Instant};

pub use self::splitter::FIRST_LINE_QUIET;
pub(super) use self::splitter::{Piece, Splitter};

/// So many polls in a row without an answer are a fault.
pub const POLLS_UNANSWERED_MAX: u32 = 3;

/// So many lines in a row that no device of the port understands are a fault.
pub const UNCLAIMED_LINES_MAX: u32 = 8;

/// While a poll is unanswered, a wish for a fresh reading does not send another one for so long.
pub const POLL_GAP: Duration = Duration::from_secs(1);

/// Characters of a device's own words in a reason.
const EXCERPT_MAX: usize = 32;

/// What stands for the value in a command.
const PLACEHOLDER: &str = "{value}";

/// The points of a `lines` device, in the order of their names.
pub(super) fn points(settings: &LinesSettings) -> Vec<PointSpec> {
    settings
        .points
        .iter()
        .map(|(name, point)| PointSpec {
            name: name.clone(),
            kind: if point.read {
                PointKind::Sampled
            } else {
                PointKind::State
            },
            unit: "".into(),
            resolution: 0.0,
            range: None,
            writable: point.command.is_some(),
        })
        .collect()
}

/// A device on a port.
#[derive(Debug)]
pub(super) struct Lines {
    port: PortId,
    line_max: usize,
    /// `None`: it is only told things. An error is one of the configuration, which checks it too.
    pattern: Option<Result<Regex, Fault>>,
    points: Vec<Point>,
    poll: Option<Poll>,
    /// Lines since the last one that anybody understood.
    unclaimed: u32,
}

#[derive(Debug)]
struct Poll {
    bytes: Payload,
    schedule: Schedule,
    sent: Option<Instant>,
    unanswered: u32,
}

#[derive(Debug)]
struct Point {
    name: Box<str>,
    settings: LinesPoint,
    /// As last read, or as last told if it does not read.
    last: Option<Value>,
    /// A pulse is passing: what the point was before it.
    base: Option<Value>,
    /// A pulse has ended while the port was closed: this is still to be sent.
    owed: Option<Value>,
}

impl Lines {
    /// A device that has acquired its port.
    pub(super) fn new(
        reporter: &Reporter,
        cx: &mut Context,
        ports: &Ports,
        port: PortId,
        settings: LinesSettings,
        every: Duration,
    ) -> Self {
        let is_shared = ports.get(port).is_some_and(|port| port.users().count() > 1);
        let poll = settings.poll.as_ref().map(|poll| {
            // Two devices on one line that are asked at once would answer at once.
            let origin = if is_shared {
                Origin::by_chance(&mut cx.rng)
            } else {
                cx.origin
            };
            let schedule = Schedule::new(cx.now, every, origin, &mut cx.rng);
            cx.wake_at(Timer::Sample(reporter.device()), schedule.next());
            Poll {
                bytes: Payload::copy_from(poll.as_bytes()),
                schedule,
                sent: None,
                unanswered: 0,
            }
        });
        Self {
            port,
            line_max: settings.line_max,
            pattern: settings.pattern.as_deref().map(|pattern| {
                Regex::new(pattern).map_err(|error| {
                    let story = format!("the pattern cannot be understood: {error}");
                    Fault::new(FaultKind::Refused, story)
                })
            }),
            points: settings
                .points
                .into_iter()
                .map(|(name, point)| Point {
                    name,
                    settings: point,
                    last: None,
                    base: None,
                    owed: None,
                })
                .collect(),
            poll,
            unclaimed: 0,
        }
    }

    pub(super) const fn port(&self) -> PortId {
        self.port
    }

    /// The port is open (or was, when the device came to it).
    pub(super) fn handle_opened(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        ports: &mut Ports,
    ) {
        self.unclaimed = 0;
        if let Some(poll) = &mut self.poll {
            poll.unanswered = 0;
            poll.sent = None;
        }
        if let Some(Err(fault)) = &self.pattern {
            self.report_readable(reporter, cx, &fault.clone());
        }
        if self.pattern.is_none() {
            // It will never say anything that could show that it is there.
            reporter.succeed(cx);
        }
        for index in 0..self.points.len() {
            if !self.points[index].settings.read {
                reporter.recover(cx, index);
            }
            if let Some(value) = self.points[index].owed.take() {
                self.send_owed(cx, ports, index, value);
            }
        }
    }

    /// The port is gone.
    pub(super) fn handle_closed(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        fault: &Fault,
    ) {
        if let Some(poll) = &mut self.poll {
            poll.unanswered = 0;
            poll.sent = None;
        }
        reporter.report_all(cx, fault);
        reporter.vanish(cx);
    }

    /// A line has come: whether it was ours.
    pub(super) fn handle_text(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        text: &str,
    ) -> bool {
        let Some(Ok(pattern)) = &self.pattern else {
            return false;
        };
        let captures = if text.len() > self.line_max {
            None
        } else {
            pattern.captures(text)
        };
        let Some(captures) = captures else {
            reporter.stats.lines_unmatched += 1;
            return false;
        };
        reporter.stats.lines_matched += 1;
        self.unclaimed = 0;
        if let Some(poll) = &mut self.poll {
            poll.unanswered = 0;
            poll.sent = None;
        }
        reporter.succeed(cx);
        let at = cx.now;
        for (index, point) in self.points.iter_mut().enumerate() {
            if !point.settings.read {
                continue;
            }
            let Some(group) = captures.name(&point.name) else {
                continue;
            };
            let outcome = match value_of(&point.settings, group.as_str()) {
                Ok(value) => {
                    if point.base.is_none() {
                        point.last = Some(value.clone());
                    }
                    Outcome::Good(value)
                }
                Err(story) => Outcome::Fault(Fault::new(FaultKind::BadAnswer, story)),
            };
            reporter.report(cx, index, at, outcome);
        }
        true
    }

    /// A line has come that nobody understood.
    pub(super) fn handle_unclaimed(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        port_name: &str,
    ) {
        if !matches!(self.pattern, Some(Ok(_))) {
            return;
        }
        self.unclaimed = self.unclaimed.saturating_add(1);
        if self.unclaimed == UNCLAIMED_LINES_MAX {
            let story = format!(
                "{UNCLAIMED_LINES_MAX} lines in a row on {port_name} match no pattern: \
                 is the speed right?"
            );
            let fault = Fault::new(FaultKind::BadAnswer, story);
            self.report_readable(reporter, cx, &fault);
        }
    }

    /// The next poll is due.
    pub(super) fn handle_due(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        ports: &mut Ports,
    ) {
        let Some(poll) = &mut self.poll else {
            return;
        };
        reporter.stats.ticks_missed += poll.schedule.advance(cx.now);
        cx.wake_at(Timer::Sample(reporter.device()), poll.schedule.next());
        let unanswered = poll.unanswered;
        let Some(port) = ports.get(self.port).filter(|port| port.is_open()) else {
            return;
        };
        if unanswered >= POLLS_UNANSWERED_MAX {
            let name = port.name();
            let fault = if self.unclaimed > 0 {
                let story = format!("what {name} answers to the poll matches no pattern");
                Fault::new(FaultKind::BadAnswer, story)
            } else {
                let story = format!("nothing answers the poll on {name}");
                Fault::new(FaultKind::NoAnswer, story)
            };
            self.report_readable(reporter, cx, &fault);
            reporter.vanish(cx);
        }
        self.send_poll(reporter, cx, ports);
    }

    /// Somebody wants a fresh reading: the next line brings it, and a poll brings the line.
    pub(super) fn handle_wish(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        ports: &mut Ports,
        index: usize,
    ) {
        reporter.want(index);
        let port = ports.get(self.port);
        if let Some(fault) = port.and_then(super::ports::Port::fault).cloned() {
            let now = cx.now;
            reporter.report(cx, index, now, Outcome::Fault(fault));
            return;
        }
        let Some(poll) = &self.poll else {
            return;
        };
        let is_answer_due = poll.sent.is_some_and(|sent| cx.now.since(sent) < POLL_GAP);
        if !is_answer_due && port.is_some_and(super::ports::Port::is_open) {
            self.send_poll(reporter, cx, ports);
        }
    }

    /// A command.
    pub(super) fn handle_write(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        ports: &mut Ports,
        index: usize,
        write: &PointWrite,
    ) {
        let outcome = self.try_write(reporter, cx, ports, index, write);
        reporter.answer(cx, write, outcome);
    }

    fn try_write(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        ports: &mut Ports,
        index: usize,
        write: &PointWrite,
    ) -> Result<Value, Fault> {
        let Some(point) = self.points.get(index) else {
            return Err(Fault::new(FaultKind::Refused, "there is no such point"));
        };
        let bytes = command_for(point, &write.value)?;
        let base = match write.hold {
            None => None,
            Some(hold) if hold.is_zero() => {
                let story = format!("{}: a pulse takes some time", point.name);
                return Err(Fault::new(FaultKind::BadValue, story));
            }
            // A pulse in a pulse returns to what was before both.
            Some(_) => Some(point.before_pulse(&write.value)?),
        };
        ports.write(cx, self.port, bytes)?;
        reporter.stats.writes += 1;
        let timer = Timer::Hold(reporter.device(), index as u16);
        match write.hold {
            Some(hold) => cx.wake_after(timer, hold),
            None => cx.timers.disarm(timer),
        }
        let point = &mut self.points[index];
        point.owed = None;
        if base.is_none() {
            point.last = Some(write.value.clone());
        }
        point.base = base;
        Ok(write.value.clone())
    }

    /// A pulse is over.
    pub(super) fn handle_hold_end(&mut self, cx: &mut Context, ports: &mut Ports, index: usize) {
        let Some(point) = self.points.get_mut(index) else {
            return;
        };
        if let Some(value) = point.base.take() {
            self.send_owed(cx, ports, index, value);
        }
    }

    /// Pulses end now; nothing else is begun.
    pub(super) fn stop(&mut self, reporter: &Reporter, cx: &mut Context, ports: &mut Ports) {
        cx.timers.disarm(Timer::Sample(reporter.device()));
        for index in 0..self.points.len() {
            cx.timers
                .disarm(Timer::Hold(reporter.device(), index as u16));
            self.handle_hold_end(cx, ports, index);
        }
    }

    /// What a pulse leaves: at once, or as soon as the port is there again.
    fn send_owed(&mut self, cx: &mut Context, ports: &mut Ports, index: usize, value: Value) {
        let point = &mut self.points[index];
        let sent = command_for(point, &value).and_then(|bytes| ports.write(cx, self.port, bytes));
        point.last = Some(value.clone());
        if sent.is_err() {
            point.owed = Some(value);
        }
    }

    fn send_poll(&mut self, reporter: &mut Reporter, cx: &mut Context, ports: &mut Ports) {
        let Some(poll) = &mut self.poll else {
            return;
        };
        if ports.write(cx, self.port, poll.bytes.clone()).is_ok() {
            reporter.stats.polls += 1;
            poll.unanswered = poll.unanswered.saturating_add(1);
            poll.sent = Some(cx.now);
        }
    }

    fn report_readable(&self, reporter: &mut Reporter, cx: &mut Context, fault: &Fault) {
        let at = cx.now;
        for (index, point) in self.points.iter().enumerate() {
            if point.settings.read {
                reporter.report(cx, index, at, Outcome::Fault(fault.clone()));
            }
        }
    }
}

impl Point {
    /// What a pulse to `value` will return to.
    fn before_pulse(&self, value: &Value) -> Result<Value, Fault> {
        if let Some(base) = self.base.as_ref().or(self.last.as_ref()) {
            return Ok(base.clone());
        }
        match value {
            Value::Bool(active) => Ok(Value::Bool(!active)),
            _ => Err(Fault::new(
                FaultKind::BadValue,
                format!(
                    "{}: nothing is known that a pulse could return to",
                    self.name
                ),
            )),
        }
    }
}

/// The text of a group, as its point understands it.
fn value_of(settings: &LinesPoint, text: &str) -> Result<Value, String> {
    match settings.kind {
        TextKind::Text => Ok(Value::Text(text.into())),
        TextKind::Number => number_of(text)
            .map(Value::Float)
            .ok_or_else(|| format!("{:?} is no number", excerpt(text))),
        TextKind::Bool => {
            let (inactive, active) = &settings.booleans;
            let word = text.trim();
            if word.eq_ignore_ascii_case(active) {
                Ok(Value::Bool(true))
            } else if word.eq_ignore_ascii_case(inactive) {
                Ok(Value::Bool(false))
            } else {
                let text = excerpt(text);
                Err(format!("{text:?} is neither {inactive:?} nor {active:?}"))
            }
        }
    }
}

/// The beginning of what a device has sent, for a message.
fn excerpt(text: &str) -> &str {
    match text.char_indices().nth(EXCERPT_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// A decimal number that is finite. Scales write `+   12.5`: blanks behind the sign are nothing.
fn number_of(text: &str) -> Option<f64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.trim_start();
    // `inf`, `nan` and a second sign are words to Rust's parser, but no numbers of a device.
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    number.is_finite().then_some(sign * number + 0.0)
}

/// The bytes that tell a point to be `value`.
fn command_for(point: &Point, value: &Value) -> Result<Payload, Fault> {
    let Some(template) = &point.settings.command else {
        let story = format!("{} has no command", point.name);
        return Err(Fault::new(FaultKind::Refused, story));
    };
    let bad = |story: &str| {
        let story = format!("{}: {story}", point.name);
        Err(Fault::new(FaultKind::BadValue, story))
    };
    let (inactive, active) = &point.settings.booleans;
    let word: std::borrow::Cow<'_, str> = match (point.settings.kind, value) {
        (TextKind::Bool, Value::Bool(true)) => (&**active).into(),
        (TextKind::Bool, Value::Bool(false)) => (&**inactive).into(),
        (TextKind::Bool, _) => return bad("the value is neither active nor inactive"),
        (TextKind::Text, Value::Text(text)) => (&**text).into(),
        (TextKind::Text | TextKind::Number, Value::Int(number)) => number.to_string().into(),
        (TextKind::Text | TextKind::Number, Value::Uint(number)) => number.to_string().into(),
        (TextKind::Text | TextKind::Number, Value::Float(number)) if number.is_finite() => {
            // Rust writes the shortest decimal without an exponent; adding 0 makes -0 a 0.
            (number + 0.0).to_string().into()
        }
        (TextKind::Text, Value::Bool(_)) => return bad("the value is no text"),
        (TextKind::Text | TextKind::Number, _) => return bad("the value is no number"),
    };
    // A line end inside of a value would be a second command that nobody has checked.
    if word.chars().any(char::is_control) {
        return bad("the value has control characters in it");
    }
    Ok(Payload::from(
        template.replace(PLACEHOLDER, &word).into_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_as_devices_write_them() {
        for (text, expected) in [
            ("14.25", Some(14.25)),
            (" +  12.5 ", Some(12.5)),
            ("-0.5", Some(-0.5)),
            ("- 3", Some(-3.0)),
            (".5", Some(0.5)),
            ("-0", Some(0.0)),
            ("1e3", Some(1000.0)),
            ("", None),
            ("+", None),
            ("nan", None),
            ("-inf", None),
            ("--1", None),
            ("1e999", None),
            ("12,5", None),
            ("12 5", None),
            ("\u{fffd}2", None),
        ] {
            assert_eq!(number_of(text), expected, "{text:?}");
        }
        assert!(number_of("-0").is_some_and(f64::is_sign_positive));
    }

    #[test]
    fn commands_carry_the_value_and_nothing_else() {
        let point = |kind| Point {
            name: "valve".into(),
            settings: LinesPoint {
                kind,
                read: false,
                command: Some("VALVE {value}\r\n".into()),
                booleans: ("CLOSED".into(), "OPEN".into()),
            },
            last: None,
            base: None,
            owed: None,
        };
        let sent = |kind, value| {
            command_for(&point(kind), &value)
                .map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
                .map_err(|fault| fault.kind)
        };
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(
            sent(TextKind::Bool, Value::Bool(true)).as_deref(),
            Ok("VALVE OPEN\r\n")
        );
        assert_eq!(
            sent(TextKind::Number, Value::Float(-0.0)).as_deref(),
            Ok("VALVE 0\r\n")
        );
        assert_eq!(
            sent(TextKind::Number, Value::Float(1e-7)).as_deref(),
            Ok("VALVE 0.0000001\r\n")
        );
        assert_eq!(
            sent(TextKind::Text, text("half")).as_deref(),
            Ok("VALVE half\r\n")
        );
        for (kind, value) in [
            (TextKind::Text, text("a\r\nVALVE OPEN")),
            (TextKind::Text, text("\0")),
            (TextKind::Number, text("7")),
            (TextKind::Number, Value::Float(f64::NAN)),
            (TextKind::Number, Value::Bool(true)),
            (TextKind::Bool, Value::Int(1)),
        ] {
            assert_eq!(sent(kind, value), Err(FaultKind::BadValue));
        }
    }

    proptest! {
        #[test]
        fn what_is_a_number_is_finite(text in ".{0,20}") {
            if let Some(number) = number_of(&text) {
                prop_assert!(number.is_finite());
            }
        }
    }
}
