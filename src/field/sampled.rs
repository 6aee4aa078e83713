//! A device that is asked: its driver, its bus, its schedule, and what happens when it fails.
//!
//! | state | leaves it by |
//! |---|---|
//! | idle | its due time, the end of its back-off, or somebody's wish for a fresh reading |
//! | on the bus | the transfer's answer, which the host owes by the transfer's deadline |
//! | waiting | the time that the driver named |
//!
//! A due time that comes while a cycle is still running is skipped and counted. A cycle in which
//! nothing could be measured is a failure: the driver is reset and the device left alone for a
//! back-off, doubled from `every` up to [`BACKOFF_MAX`]; a device that is sampled less often than
//! that is tried again earlier, so that it comes back soon.

use super::backoff::Backoff;
use super::buses::Buses;
use super::context::Context;
use super::driver::{Completion, Driver, Sample, Step};
use super::report::Reporter;
use super::schedule::Schedule;
use super::timers::Timer;
use crate::id::BusId;
use crate::point::{Fault, FaultKind, Outcome};
use crate::time::Duration;

/// The longest that a device which fails is left alone.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A device that is asked.
#[derive(Debug)]
pub(super) struct Sampled {
    bus: BusId,
    driver: Driver,
    schedule: Schedule,
    backoff: Backoff,
    state: State,
    /// Somebody has asked while a cycle was under way, which may have measured before.
    again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    OnBus,
    Waiting,
}

impl Sampled {
    pub(super) fn new(
        reporter: &Reporter,
        cx: &mut Context,
        bus: BusId,
        driver: Driver,
        every: Duration,
    ) -> Self {
        let schedule = Schedule::new(cx.now, every, cx.origin, &mut cx.rng);
        cx.wake_at(Timer::Sample(reporter.device()), schedule.next());
        Self {
            bus,
            driver,
            schedule,
            backoff: Backoff::new(every, BACKOFF_MAX),
            state: State::Idle,
            again: false,
        }
    }

    pub(super) const fn bus(&self) -> BusId {
        self.bus
    }

    /// Its due time, or the end of its back-off.
    pub(super) fn handle_due(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        buses: &mut Buses,
    ) {
        let skipped = self.schedule.advance(cx.now);
        if self.backoff.attempts() == 0 {
            reporter.stats.ticks_missed += skipped;
        }
        cx.wake_at(Timer::Sample(reporter.device()), self.schedule.next());
        if self.state == State::Idle {
            self.step(reporter, cx, buses, &Completion::Begin);
        } else {
            reporter.stats.ticks_missed += 1;
        }
    }

    /// Somebody wants a fresh reading of one of its points: at once, whatever the back-off says.
    pub(super) fn handle_wish(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        buses: &mut Buses,
        index: usize,
    ) {
        reporter.want(index);
        if self.state == State::Idle {
            self.step(reporter, cx, buses, &Completion::Begin);
        } else {
            self.again = true;
        }
    }

    /// The answer to its transfer.
    pub(super) fn handle_answer(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        buses: &mut Buses,
        completion: &Completion,
    ) {
        if self.state == State::OnBus {
            self.step(reporter, cx, buses, completion);
        }
    }

    /// The time that its driver waited for.
    pub(super) fn handle_woken(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        buses: &mut Buses,
    ) {
        if self.state == State::Waiting {
            self.step(reporter, cx, buses, &Completion::Woken);
        }
    }

    /// No further cycle is begun.
    pub(super) fn stop(&mut self, reporter: &Reporter, cx: &mut Context) {
        cx.timers.disarm(Timer::Sample(reporter.device()));
        cx.timers.disarm(Timer::Step(reporter.device()));
        self.state = State::Idle;
        self.again = false;
    }

    fn step(
        &mut self,
        reporter: &mut Reporter,
        cx: &mut Context,
        buses: &mut Buses,
        completion: &Completion,
    ) {
        self.state = State::Idle;
        if cx.is_stopping {
            return;
        }
        match self.driver.step(cx.now, completion) {
            Step::Transfer(op) => {
                self.state = State::OnBus;
                if buses.submit(cx, self.bus, reporter.device(), op).is_err() {
                    let fault = Fault::new(FaultKind::Busy, "too many devices wait for the bus");
                    self.state = State::Idle;
                    self.end(reporter, cx, Err(fault));
                }
            }
            Step::WaitUntil(at) => {
                self.state = State::Waiting;
                cx.wake_at(Timer::Step(reporter.device()), at);
            }
            Step::Reading(sample) => self.end(reporter, cx, Ok(sample)),
            Step::Fault(fault) => self.end(reporter, cx, Err(fault)),
        }
        if self.state == State::Idle && core::mem::take(&mut self.again) {
            // At once, but not in this call: a device that fails at once would never let go.
            cx.wake_after(Timer::Sample(reporter.device()), Duration::ZERO);
        }
    }

    fn end(&mut self, reporter: &mut Reporter, cx: &mut Context, outcome: Result<Sample, Fault>) {
        let worked = match outcome {
            Ok(sample) => {
                let worked = sample
                    .iter()
                    .any(|(_, outcome)| !matches!(outcome, Outcome::Fault(_)));
                if worked {
                    reporter.succeed(cx);
                }
                for (index, outcome) in sample {
                    reporter.report(cx, index, cx.now, outcome);
                }
                worked
            }
            Err(fault) => {
                reporter.report_all(cx, &fault);
                false
            }
        };
        if worked {
            self.backoff.succeed();
            return;
        }
        self.driver.reset();
        reporter.fail(cx);
        let delay = self.backoff.fail(&mut cx.rng);
        cx.wake_after(Timer::Sample(reporter.device()), delay);
    }
}
