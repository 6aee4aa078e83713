//! GPIO devices: inputs, events, counters and outputs, each on a line of its own.
//!
//! A line is requested from the host and answered with `Ready` or `Lost`; a lost one is requested
//! again after a back-off, by itself, so that one line which another program holds does not take
//! the device's others along. The device is offline when none of its lines is ours.
//!
//! | kind | reads as | when |
//! |---|---|---|
//! | input | its level | when it becomes ours, and when that changes |
//! | event | the level that the edge went to | with every wanted edge |
//! | counter | edges since the start, a `u64` | every `every` |
//! | output | its level | when it becomes ours, and when that changes |

mod edges;
mod output;

use super::Output;
use super::backoff::Backoff;
use super::context::Context;
use super::line::{Chip, Direction, Edges, LineCommand, LineEvent, LineRef, LineSettings};
use super::report::Reporter;
use super::schedule::Schedule;
use super::settings::{GpioKind, GpioSettings, Persist};
use super::timers::Timer;
use crate::id::{DeviceId, LineId};
use crate::point::{Fault, FaultKind, Outcome, PointKind, PointSpec, PointWrite, Value};
use crate::slab::GenSlab;
use crate::time::{Duration, Instant};

use self::edges::{EdgeTrack, Seen};
use self::output::OutputLine;
pub use self::output::{SET_BACKOFF_BASE, SET_BACKOFF_MAX, SETS_PENDING_MAX, STOP_ATTEMPTS_MAX};

/// Events that the kernel keeps for one of our inputs: a burst of 256 between two turns. What
/// overflows is noticed, and a counter counts it all the same.
pub const EVENT_BUFFER: u32 = 256;

/// A line that could not be requested is requested again after a delay doubled from this, …
pub const LINE_BACKOFF_BASE: Duration = Duration::from_millis(500);
/// … up to this.
pub const LINE_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The points of a `gpio` device, in the order of their names.
pub(super) fn points(settings: &GpioSettings) -> Vec<PointSpec> {
    settings
        .points
        .iter()
        .map(|(name, point)| PointSpec {
            name: name.clone(),
            kind: match point.kind {
                GpioKind::Input { .. } | GpioKind::Output(_) => PointKind::State,
                GpioKind::Event { .. } => PointKind::Event,
                GpioKind::Counter { .. } => PointKind::Counter,
            },
            unit: "".into(),
            resolution: match point.kind {
                GpioKind::Counter { .. } => 1.0,
                _ => 0.0,
            },
            range: None,
            writable: matches!(point.kind, GpioKind::Output(_)),
        })
        .collect()
}

/// Which line of which device an event is for.
pub(super) type LineOwners = GenSlab<LineId, (DeviceId, usize)>;

/// A GPIO device.
#[derive(Debug)]
pub(super) struct Gpio {
    /// In the order of the table.
    lines: Vec<Line>,
    /// `None`: nothing counts.
    schedule: Option<Schedule>,
}

#[derive(Debug)]
struct Line {
    id: LineId,
    settings: LineSettings,
    state: State,
    backoff: Backoff,
    role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The host has been asked.
    Requested,
    /// It is ours.
    Ready,
    /// It is not, and why.
    Lost(Fault),
}

#[derive(Debug)]
enum Role {
    Input {
        track: EdgeTrack,
        level: Option<bool>,
        /// The level has been asked for: the answer is owed to somebody, or follows a loss.
        is_reading: bool,
    },
    Event {
        track: EdgeTrack,
    },
    Counter {
        track: EdgeTrack,
        total: u64,
        /// It was not ours for a while, in which nothing was counted.
        had_gap: bool,
        tally: Tally,
    },
    Output(OutputLine),
}

/// How much of a counter's total is kept.
#[derive(Debug)]
struct Tally {
    persist: Persist,
    kept: u64,
    /// Since it is not all. Invariant: while `kept` is less than the total.
    since: Option<Instant>,
}

impl Tally {
    /// The counter has counted: whether the total is to be kept now.
    fn count(&mut self, now: Instant, total: u64) -> bool {
        self.since.get_or_insert(now);
        total - self.kept >= self.persist.pulses
    }

    /// The counter is published: the same.
    fn is_due(&self, now: Instant) -> bool {
        self.since
            .is_some_and(|since| since + self.persist.interval <= now)
    }

    fn keep(&mut self, reporter: &Reporter, cx: &mut Context, index: usize, total: u64) {
        if total == self.kept {
            return;
        }
        self.kept = total;
        self.since = None;
        if let Some(point) = reporter.point(index) {
            cx.emit(Output::Total { point, total });
        }
    }
}

impl Gpio {
    /// A device whose lines are all being requested.
    pub(super) fn new(
        reporter: &Reporter,
        cx: &mut Context,
        owners: &mut LineOwners,
        settings: GpioSettings,
        every: Duration,
    ) -> Self {
        let mut lines = Vec::with_capacity(settings.points.len());
        for (index, point) in settings.points.into_values().enumerate() {
            lines.push(Line {
                id: owners.insert((reporter.device(), index)),
                settings: LineSettings {
                    chip: settings.chip.clone(),
                    line: point.line,
                    direction: direction_of(&point.kind),
                    active_low: point.active_low,
                    bias: point.bias,
                },
                state: State::Requested,
                backoff: Backoff::new(LINE_BACKOFF_BASE, LINE_BACKOFF_MAX),
                role: Role::of(point.kind),
            });
        }
        for line in &lines {
            line.request(cx);
        }
        let counts = lines
            .iter()
            .any(|line| matches!(line.role, Role::Counter { .. }));
        let schedule = counts.then(|| {
            let schedule = Schedule::new(cx.now, every, cx.origin, &mut cx.rng);
            cx.wake_at(Timer::Sample(reporter.device()), schedule.next());
            schedule
        });
        Self { lines, schedule }
    }

    /// What the host says of a line. `false`: it makes no sense for it.
    pub(super) fn handle_line(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        event: LineEvent,
    ) -> bool {
        let Some(line) = self.lines.get_mut(index) else {
            return false;
        };
        match event {
            LineEvent::Ready { active } => line.become_ready(reporter, cx, index, active),
            LineEvent::Edge {
                at,
                active,
                line_seqno,
            } => return line.handle_edge(reporter, cx, index, at, active, line_seqno),
            LineEvent::Level { active } => return line.handle_level(reporter, cx, index, active),
            LineEvent::Set { request, outcome } => {
                let fault = outcome.as_ref().err().cloned();
                if !line.handle_set(reporter, cx, index, request, outcome) {
                    return false;
                }
                if let Some(fault) = fault.filter(is_chip_gone) {
                    self.lose_chip(reporter, cx, &fault);
                }
            }
            LineEvent::Lost(fault) => {
                let was_ready = line.state == State::Ready;
                line.become_lost(reporter, cx, index, fault.clone());
                if was_ready && is_chip_gone(&fault) {
                    self.lose_chip(reporter, cx, &fault);
                }
                self.vanish_without_lines(reporter, cx);
            }
        }
        true
    }

    /// The chip is gone, as one of its lines has shown: no other line of it is ours any more
    /// either, and all are requested again, for a chip that comes back is another one.
    fn lose_chip(&mut self, reporter: &mut Reporter, cx: &mut Context, fault: &Fault) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            if line.state == State::Ready {
                cx.emit(Output::Line(LineCommand::Release { line: line.id }));
                line.become_lost(reporter, cx, index, fault.clone());
            }
        }
        self.vanish_without_lines(reporter, cx);
    }

    fn vanish_without_lines(&self, reporter: &mut Reporter, cx: &mut Context) {
        let mut lines = self.lines.iter();
        if lines.all(|line| matches!(line.state, State::Lost(_))) {
            reporter.vanish(cx);
        }
    }

    /// A command.
    pub(super) fn handle_write(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        write: PointWrite,
    ) {
        let Some(line) = self.lines.get_mut(index) else {
            return;
        };
        let place = Place(&line.settings);
        let Role::Output(output) = &mut line.role else {
            let story = format!("{place} is no output");
            reporter.answer(cx, &write, Err(Fault::new(FaultKind::Refused, story)));
            return;
        };
        let fault = match &line.state {
            State::Ready => return output.handle_command(reporter, cx, line.id, place, write),
            State::Requested => Fault::new(FaultKind::Busy, format!("{place} is not ready yet")),
            State::Lost(fault) => fault.clone(),
        };
        reporter.answer(cx, &write, Err(fault));
    }

    /// Somebody wants a fresh reading. An event has none to give: it happens, or it does not.
    pub(super) fn handle_wish(&mut self, reporter: &mut Reporter, cx: &mut Context, index: usize) {
        let Some(line) = self.lines.get_mut(index) else {
            return;
        };
        let now = cx.now;
        if let State::Lost(fault) = &line.state {
            if !matches!(line.role, Role::Event { .. }) {
                reporter.want(index);
                reporter.report(cx, index, now, Outcome::Fault(fault.clone()));
            }
            return;
        }
        match &mut line.role {
            Role::Event { .. } => {}
            Role::Counter { .. } if line.state != State::Ready => reporter.want(index),
            Role::Counter { total, .. } => {
                let outcome = Outcome::Good(Value::Uint(*total));
                reporter.report(cx, index, now, outcome);
            }
            Role::Input { .. } | Role::Output(_) => {
                reporter.want(index);
                line.read_level(cx);
            }
        }
    }

    /// The counters are due.
    pub(super) fn handle_due(&mut self, reporter: &mut Reporter, cx: &mut Context) {
        let Some(schedule) = &mut self.schedule else {
            return;
        };
        reporter.stats.ticks_missed += schedule.advance(cx.now);
        cx.wake_at(Timer::Sample(reporter.device()), schedule.next());
        for (index, line) in self.lines.iter_mut().enumerate() {
            if let Role::Counter {
                total,
                had_gap,
                tally,
                ..
            } = &mut line.role
                && line.state == State::Ready
            {
                if tally.is_due(cx.now) {
                    tally.keep(reporter, cx, index, *total);
                }
                let value = Value::Uint(*total);
                let outcome = if core::mem::take(had_gap) {
                    let story = "the line was gone for a while, in which nothing was counted";
                    Outcome::Uncertain(value, Fault::new(FaultKind::EdgesLost, story))
                } else {
                    Outcome::Good(value)
                };
                let at = cx.now;
                reporter.report(cx, index, at, outcome);
            }
        }
    }

    /// A line is to be requested again, or an output to be set again.
    pub(super) fn handle_retry(&mut self, cx: &mut Context, index: usize) {
        let Some(line) = self.lines.get_mut(index) else {
            return;
        };
        match (&line.state, &mut line.role) {
            (State::Lost(_), _) if !cx.is_stopping => {
                line.state = State::Requested;
                line.request(cx);
            }
            (State::Ready, Role::Output(output)) => output.settle(cx, line.id),
            _ => {}
        }
    }

    /// A pulse ends, or a lease runs out.
    pub(super) fn handle_output_timer(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        timer: Timer,
    ) {
        let Some(line) = self.lines.get_mut(index) else {
            return;
        };
        if let Role::Output(output) = &mut line.role
            && line.state == State::Ready
        {
            if matches!(timer, Timer::Pulse(_)) {
                output.end_pulse(cx, line.id);
            } else if output.expire_lease(cx, line.id) {
                reporter.stats.leases_expired += 1;
                log::warn!("lease expired device={} point={index}", reporter.name());
            }
        }
    }

    /// Outputs go to their safe state; nothing else is begun.
    pub(super) fn stop(&mut self, reporter: &Reporter, cx: &mut Context) {
        cx.timers.disarm(Timer::Sample(reporter.device()));
        self.keep_totals(reporter, cx);
        for line in &mut self.lines {
            match (&line.state, &mut line.role) {
                (State::Ready, Role::Output(output)) => output.make_safe(cx, line.id),
                _ => cx.timers.disarm(Timer::Line(line.id)),
            }
        }
    }

    /// A counter goes on from here, if it has not counted further.
    pub(super) fn restore_total(&mut self, index: usize, kept: u64) {
        let line = self.lines.get_mut(index);
        if let Some(Role::Counter { total, tally, .. }) = line.map(|line| &mut line.role)
            && kept > *total
        {
            *total = kept;
            tally.kept = kept;
            tally.since = None;
        }
    }

    fn keep_totals(&mut self, reporter: &Reporter, cx: &mut Context) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            if let Role::Counter { total, tally, .. } = &mut line.role {
                tally.keep(reporter, cx, index, *total);
            }
        }
    }

    /// Whether every output has answered that it is safe, or has proven not to.
    pub(super) fn is_stopped(&self) -> bool {
        self.lines
            .iter()
            .all(|line| match (&line.state, &line.role) {
                (State::Ready, Role::Output(output)) => output.is_settled(),
                (State::Requested, Role::Output(_)) => false,
                _ => true,
            })
    }

    /// The device goes: outputs to their safe state, then every line back to the kernel. Commands
    /// that wait are answered.
    pub(super) fn remove(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        owners: &mut LineOwners,
    ) {
        cx.timers.disarm(Timer::Sample(reporter.device()));
        self.keep_totals(reporter, cx);
        for line in &mut self.lines {
            if let Role::Output(output) = &mut line.role {
                if line.state == State::Ready {
                    output.make_safe(cx, line.id);
                }
                let fault = Fault::new(FaultKind::Stopping, "the device has been removed");
                output.abandon(reporter, cx, &fault);
            }
            for timer in [
                Timer::Line(line.id),
                Timer::Pulse(line.id),
                Timer::Lease(line.id),
            ] {
                cx.timers.disarm(timer);
            }
            if !matches!(line.state, State::Lost(_)) {
                cx.emit(Output::Line(LineCommand::Release { line: line.id }));
            }
            owners.remove(line.id);
        }
    }
}

/// Whether a fault of one line means that its whole chip has been unplugged.
fn is_chip_gone(fault: &Fault) -> bool {
    fault.kind == FaultKind::Unplugged
}

impl Line {
    fn request(&self, cx: &mut Context) {
        cx.emit(Output::Line(LineCommand::Request {
            line: self.id,
            settings: self.settings.clone(),
        }));
    }

    fn read_level(&mut self, cx: &mut Context) {
        let is_reading = match &mut self.role {
            Role::Input { is_reading, .. } => is_reading,
            Role::Output(output) => output.is_reading_mut(),
            Role::Event { .. } | Role::Counter { .. } => return,
        };
        if self.state == State::Ready && !core::mem::replace(is_reading, true) {
            cx.emit(Output::Line(LineCommand::Read { line: self.id }));
        }
    }

    fn become_ready(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        active: bool,
    ) {
        self.state = State::Ready;
        self.backoff.succeed();
        cx.timers.disarm(Timer::Line(self.id));
        reporter.succeed(cx);
        let now = cx.now;
        match &mut self.role {
            Role::Input {
                track,
                level,
                is_reading,
            } => {
                track.restart();
                *level = Some(active);
                *is_reading = false;
                reporter.report(cx, index, now, Outcome::Good(Value::Bool(active)));
            }
            Role::Event { track } => {
                track.restart();
                reporter.recover(cx, index);
            }
            Role::Counter { track, had_gap, .. } => {
                track.restart();
                if reporter.is_faulty(index) {
                    *had_gap = true;
                }
            }
            Role::Output(output) => {
                output.become_ready(cx, self.id, active);
                reporter.report(cx, index, now, Outcome::Good(Value::Bool(active)));
            }
        }
    }

    fn become_lost(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        fault: Fault,
    ) {
        if let Role::Output(output) = &mut self.role {
            output.abandon(reporter, cx, &fault);
            cx.timers.disarm(Timer::Pulse(self.id));
            cx.timers.disarm(Timer::Lease(self.id));
        }
        let now = cx.now;
        reporter.report(cx, index, now, Outcome::Fault(fault.clone()));
        self.state = State::Lost(fault);
        if !cx.is_stopping {
            let delay = self.backoff.fail(&mut cx.rng);
            cx.wake_after(Timer::Line(self.id), delay);
        }
    }

    fn handle_edge(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        at: Instant,
        active: bool,
        line_seqno: u32,
    ) -> bool {
        let track = match &mut self.role {
            Role::Input { track, .. } | Role::Event { track } | Role::Counter { track, .. }
                if self.state == State::Ready =>
            {
                track
            }
            _ => return false,
        };
        let lost = match track.see(active, line_seqno) {
            Seen::Again => {
                reporter.stats.edges_repeated += 1;
                return true;
            }
            Seen::Next => None,
            Seen::AfterLoss { count, proof } => {
                reporter.stats.edges_lost += u64::from(count);
                let place = Place(&self.settings);
                let story = format!("{place}: {proof} proves that edges were lost");
                Some((count, Fault::new(FaultKind::EdgesLost, story)))
            }
        };
        reporter.stats.edges += 1;
        let outcome = |value: Value, lost: Option<(u32, Fault)>| match lost {
            Some((_, fault)) => Outcome::Uncertain(value, fault),
            None => Outcome::Good(value),
        };
        match &mut self.role {
            Role::Input { level, .. } => {
                let has_changed = level.replace(active) != Some(active);
                let had_loss = lost.is_some();
                if has_changed || had_loss {
                    reporter.report(cx, index, at, outcome(Value::Bool(active), lost));
                }
                if had_loss {
                    self.read_level(cx);
                }
            }
            Role::Event { .. } => {
                reporter.report(cx, index, at, outcome(Value::Bool(active), lost));
            }
            Role::Counter { total, tally, .. } => {
                let missed = lost.as_ref().map_or(0, |(count, _)| u64::from(*count));
                *total = total.saturating_add(1 + missed);
                if tally.count(cx.now, *total) {
                    tally.keep(reporter, cx, index, *total);
                }
                // Without a loss the total is published when it is due.
                if lost.is_some() {
                    reporter.report(cx, index, at, outcome(Value::Uint(*total), lost));
                }
            }
            Role::Output(_) => return false,
        }
        true
    }

    fn handle_level(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        active: bool,
    ) -> bool {
        if self.state != State::Ready {
            return false;
        }
        let now = cx.now;
        let outcome = Outcome::Good(Value::Bool(active));
        match &mut self.role {
            Role::Input {
                level, is_reading, ..
            } => {
                *level = Some(active);
                *is_reading = false;
                reporter.report(cx, index, now, outcome);
                true
            }
            Role::Output(output) => {
                *output.is_reading_mut() = false;
                output.level_is(active);
                reporter.report(cx, index, now, outcome);
                true
            }
            Role::Event { .. } | Role::Counter { .. } => false,
        }
    }

    fn handle_set(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        index: usize,
        request: crate::id::RequestId,
        outcome: Result<bool, Fault>,
    ) -> bool {
        match &mut self.role {
            Role::Output(output) if self.state == State::Ready => {
                output.handle_set(reporter, cx, self.id, index, request, outcome)
            }
            _ => false,
        }
    }
}

impl Role {
    fn of(kind: GpioKind) -> Self {
        match kind {
            GpioKind::Input { .. } => Self::Input {
                track: EdgeTrack::new(true),
                level: None,
                is_reading: false,
            },
            GpioKind::Event { edges, .. } => Self::Event {
                track: EdgeTrack::new(edges == Edges::Both),
            },
            GpioKind::Counter { edges, persist, .. } => Self::Counter {
                track: EdgeTrack::new(edges == Edges::Both),
                total: 0,
                had_gap: false,
                tally: Tally {
                    persist,
                    kept: 0,
                    since: None,
                },
            },
            GpioKind::Output(settings) => Self::Output(OutputLine::new(settings)),
        }
    }
}

fn direction_of(kind: &GpioKind) -> Direction {
    let input = |edges, debounce| Direction::Input {
        edges,
        debounce,
        event_buffer: EVENT_BUFFER,
    };
    match kind {
        GpioKind::Input { debounce } => input(Edges::Both, *debounce),
        GpioKind::Event { edges, debounce }
        | GpioKind::Counter {
            edges, debounce, ..
        } => input(*edges, *debounce),
        GpioKind::Output(settings) => Direction::Output {
            initial: output::initial_level(settings),
            drive: settings.drive,
        },
    }
}

/// Where a line is, for people: `gpio.header line 17`, `pinctrl-rp1 GPIO17`.
#[derive(Debug, Clone, Copy)]
struct Place<'a>(&'a LineSettings);

impl core::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.0.chip {
            Chip::Header => f.write_str("gpio.header")?,
            Chip::Label(name) | Chip::Path(name) => f.write_str(name)?,
        }
        match &self.0.line {
            LineRef::Offset(offset) => write!(f, " line {offset}"),
            LineRef::Name(name) => write!(f, " {name}"),
            LineRef::Pin(pin) => write!(f, " pin {pin}"),
        }
    }
}
