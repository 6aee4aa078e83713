//! One output: what it should be, what it is, and who has said so.
//!
//! An output has a *base*, the level that it has when nothing is passing: what was last commanded,
//! or its safe state. A pulse leaves the base for a while and returns to it; a lease moves the base
//! to the safe state when nobody renews the command. A set that has failed leaves the line in
//! doubt: after a back-off it is set to its base again, until it obeys. So a pulse ends and a lease
//! expires even if the chip is slow to obey, and the fault is over as soon as the line works. A
//! *command* that has failed is answered so, and never obeyed late.

use std::collections::VecDeque;

use super::Place;
use crate::field::Output;
use crate::field::backoff::Backoff;
use crate::field::context::Context;
use crate::field::line::LineCommand;
use crate::field::report::Reporter;
use crate::field::settings::{OnStart, OutputSettings, SafeState};
use crate::field::timers::Timer;
use crate::id::{LineId, RequestId};
use crate::point::{Fault, FaultKind, Outcome, PointWrite, Value};
use crate::time::Duration;

/// Sets of one line that the host has not answered yet; a command above that is refused.
pub const SETS_PENDING_MAX: usize = 16;

/// A set that failed and is owed is repeated after a delay doubled from this, …
pub const SET_BACKOFF_BASE: Duration = Duration::from_millis(50);
/// … up to this.
pub const SET_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// So often an output is told to be safe before the gateway stops without it.
pub const STOP_ATTEMPTS_MAX: u32 = 4;

/// The level from the moment of the request.
pub(super) fn initial_level(settings: &OutputSettings) -> Option<bool> {
    match settings.on_start {
        OnStart::Safe => safe_level(settings),
        OnStart::Keep => None,
    }
}

/// What is safe, `None`: as it is.
fn safe_level(settings: &OutputSettings) -> Option<bool> {
    match settings.safe_state {
        SafeState::Active => Some(true),
        SafeState::Inactive => Some(false),
        SafeState::Keep => None,
    }
}

/// An output line that is ours, or will be.
#[derive(Debug)]
pub(super) struct OutputLine {
    settings: OutputSettings,
    /// As the host last said.
    level: Option<bool>,
    /// What it is when no pulse is passing.
    base: bool,
    is_pulsing: bool,
    /// The last set has failed.
    has_failed: bool,
    is_reading: bool,
    /// Invariant: at most [`SETS_PENDING_MAX`] commands; ours come on top, one for each timer.
    pending: VecDeque<Pending>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Pending {
    request: RequestId,
    /// `None`: nobody has commanded it, the pulse or the lease did.
    command: Option<PointWrite>,
    /// It has moved the base, …
    moves_base: bool,
    /// … which was this before.
    base_before: bool,
}

impl OutputLine {
    pub(super) fn new(settings: OutputSettings) -> Self {
        Self {
            base: safe_level(&settings).unwrap_or(false),
            settings,
            level: None,
            is_pulsing: false,
            has_failed: false,
            is_reading: false,
            pending: VecDeque::new(),
            backoff: Backoff::new(SET_BACKOFF_BASE, SET_BACKOFF_MAX),
        }
    }

    /// Whether an answer to [`LineCommand::Read`] is awaited.
    pub(super) fn is_reading_mut(&mut self) -> &mut bool {
        &mut self.is_reading
    }

    /// What the host has read.
    pub(super) fn level_is(&mut self, active: bool) {
        self.level = Some(active);
    }

    /// The line is ours, with this level.
    pub(super) fn become_ready(&mut self, cx: &mut Context, line: LineId, active: bool) {
        self.level = Some(active);
        self.base = active;
        self.is_pulsing = false;
        self.has_failed = false;
        self.is_reading = false;
        self.backoff.succeed();
        if cx.is_stopping {
            self.make_safe(cx, line);
        } else {
            self.renew_lease(cx, line);
        }
    }

    /// A command: carried out, or answered with why not.
    pub(super) fn handle_command(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        line: LineId,
        place: Place<'_>,
        write: PointWrite,
    ) {
        let active = match self.admit(reporter, place, &write) {
            Ok(active) => active,
            Err(fault) => return reporter.answer(cx, &write, Err(fault)),
        };
        reporter.stats.writes += 1;
        let base_before = self.base;
        if let Some(hold) = write.hold {
            // From now, not from the answer: the host sets the line in this very turn.
            self.is_pulsing = true;
            cx.wake_after(Timer::Pulse(line), hold);
        } else {
            self.end_of_pulse(cx, line);
            self.base = active;
        }
        self.renew_lease(cx, line);
        self.pending.push_back(Pending {
            request: drive(cx, line, active),
            moves_base: write.hold.is_none(),
            command: Some(write),
            base_before,
        });
    }

    /// The level that a command asks for.
    fn admit(
        &self,
        reporter: &mut Reporter,
        place: Place<'_>,
        write: &PointWrite,
    ) -> Result<bool, Fault> {
        let active = match write.value {
            Value::Bool(active) => active,
            Value::Int(0) | Value::Uint(0) => false,
            Value::Int(1) | Value::Uint(1) => true,
            _ => {
                let story = format!("{place} is active or inactive, nothing else");
                return Err(Fault::new(FaultKind::BadValue, story));
            }
        };
        if write.hold.is_some_and(|hold| hold.is_zero()) {
            let story = format!("{place}: a pulse takes some time");
            return Err(Fault::new(FaultKind::BadValue, story));
        }
        if self.pending.len() >= SETS_PENDING_MAX {
            reporter.stats.queue_full += 1;
            let story = format!("{place}: {SETS_PENDING_MAX} commands are under way");
            return Err(Fault::new(FaultKind::Busy, story));
        }
        Ok(active)
    }

    /// The host has set the line, or not. `false`: nobody asked.
    pub(super) fn handle_set(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        line: LineId,
        index: usize,
        request: RequestId,
        outcome: Result<bool, Fault>,
    ) -> bool {
        let Some(place) = self.pending.iter().position(|set| set.request == request) else {
            return false;
        };
        let Some(set) = self.pending.remove(place) else {
            return false;
        };
        let now = cx.now;
        match outcome {
            Ok(level) => {
                let has_changed = self.level.replace(level) != Some(level);
                self.has_failed = false;
                self.backoff.succeed();
                if has_changed || reporter.is_faulty(index) || reporter.is_wanted(index) {
                    reporter.report(cx, index, now, Outcome::Good(Value::Bool(level)));
                }
                if let Some(write) = &set.command {
                    reporter.answer(cx, write, Ok(Value::Bool(level)));
                }
            }
            Err(fault) => {
                self.has_failed = true;
                reporter.report(cx, index, now, Outcome::Fault(fault.clone()));
                if let Some(write) = &set.command {
                    self.undo(place, &set);
                    reporter.answer(cx, write, Err(fault));
                }
                self.owe(cx, line);
            }
        }
        true
    }

    /// The pulse is over.
    pub(super) fn end_pulse(&mut self, cx: &mut Context, line: LineId) {
        self.end_of_pulse(cx, line);
        self.set_base(cx, line);
    }

    /// Nobody has renewed the command: whether that changes anything.
    pub(super) fn expire_lease(&mut self, cx: &mut Context, line: LineId) -> bool {
        let Some(safe) = safe_level(&self.settings) else {
            return false;
        };
        let changes = self.is_pulsing || self.base != safe || self.level != Some(safe);
        if changes {
            self.end_of_pulse(cx, line);
            self.move_base(cx, line, safe);
        }
        changes
    }

    /// Once more what a failed set has left undone.
    pub(super) fn settle(&mut self, cx: &mut Context, line: LineId) {
        if self.is_owed() {
            self.set_base(cx, line);
        }
    }

    /// To the safe state, whatever it was told before.
    pub(super) fn make_safe(&mut self, cx: &mut Context, line: LineId) {
        let was_pulsing = self.is_pulsing;
        self.end_of_pulse(cx, line);
        cx.timers.disarm(Timer::Lease(line));
        self.backoff.succeed();
        match safe_level(&self.settings) {
            Some(safe) => self.move_base(cx, line, safe),
            None if was_pulsing || self.is_owed() => self.set_base(cx, line),
            None => {}
        }
    }

    /// Whether nothing is under way and nothing is owed, or it is not worth waiting for any longer.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && (!self.is_owed() || self.backoff.attempts() >= STOP_ATTEMPTS_MAX)
    }

    /// The line is gone: whoever waits is told.
    pub(super) fn abandon(&mut self, reporter: &mut Reporter, cx: &mut Context, fault: &Fault) {
        self.level = None;
        self.is_pulsing = false;
        self.has_failed = false;
        self.is_reading = false;
        for set in core::mem::take(&mut self.pending) {
            if let Some(write) = &set.command {
                reporter.answer(cx, write, Err(fault.clone()));
            }
        }
    }

    /// Whether nobody knows that the line is at its base, and nothing under way will tell.
    fn is_owed(&self) -> bool {
        self.has_failed && !self.is_pulsing && self.pending.is_empty()
    }

    /// A command has failed: as if it had never come.
    fn undo(&mut self, place: usize, failed: &Pending) {
        if !failed.moves_base {
            return;
        }
        let later = self.pending.iter_mut().skip(place);
        match later.into_iter().find(|set| set.moves_base) {
            Some(next) => next.base_before = failed.base_before,
            None => self.base = failed.base_before,
        }
    }

    fn owe(&mut self, cx: &mut Context, line: LineId) {
        if !self.is_owed() {
            return;
        }
        let delay = self.backoff.fail(&mut cx.rng);
        if !cx.is_stopping || self.backoff.attempts() < STOP_ATTEMPTS_MAX {
            cx.wake_after(Timer::Line(line), delay);
        }
    }

    fn end_of_pulse(&mut self, cx: &mut Context, line: LineId) {
        self.is_pulsing = false;
        cx.timers.disarm(Timer::Pulse(line));
    }

    fn renew_lease(&mut self, cx: &mut Context, line: LineId) {
        if let Some(lease) = self.settings.lease
            && safe_level(&self.settings).is_some()
        {
            cx.wake_after(Timer::Lease(line), lease);
        }
    }

    fn move_base(&mut self, cx: &mut Context, line: LineId, base: bool) {
        let base_before = core::mem::replace(&mut self.base, base);
        self.pending.push_back(Pending {
            request: drive(cx, line, base),
            command: None,
            moves_base: true,
            base_before,
        });
    }

    fn set_base(&mut self, cx: &mut Context, line: LineId) {
        self.pending.push_back(Pending {
            request: drive(cx, line, self.base),
            command: None,
            moves_base: false,
            base_before: self.base,
        });
    }
}

/// Asks the host, and needs not ask again for what was owed.
fn drive(cx: &mut Context, line: LineId, active: bool) -> RequestId {
    cx.timers.disarm(Timer::Line(line));
    let request = cx.new_request();
    cx.emit(Output::Line(LineCommand::Set {
        line,
        request,
        active,
    }));
    request
}
