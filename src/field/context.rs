//! What every part of the field needs while it works: the time, chance, timers, names for
//! questions, and the place where its outputs go.

use std::collections::VecDeque;

use super::Output;
use super::schedule::Origin;
use super::timers::{Timer, Timers};
use crate::id::RequestId;
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// Lent to whatever part of the field is at work.
#[derive(Debug)]
pub(super) struct Context {
    /// Of this call.
    pub(super) now: Instant,
    /// The field's own.
    pub(super) rng: Rng,
    /// Of the grid on which devices are due.
    pub(super) origin: Origin,
    /// Nothing new is begun any more.
    pub(super) is_stopping: bool,
    pub(super) timers: Timers,
    outputs: VecDeque<Output>,
    last_request: u64,
}

impl Context {
    pub(super) fn new(mut rng: Rng) -> Self {
        Self {
            now: Instant::default(),
            origin: Origin::by_chance(&mut rng),
            rng,
            is_stopping: false,
            timers: Timers::default(),
            outputs: VecDeque::new(),
            last_request: 0,
        }
    }

    /// Queues an output. The queue holds what one call brought: it is drained after each.
    pub(super) fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// The oldest output.
    pub(super) fn take_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A name for a question that was never used before.
    pub(super) fn new_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    /// Sets a timer, at the earliest for the moment after now: so time always advances.
    pub(super) fn wake_at(&mut self, timer: Timer, at: Instant) {
        let at = at.max(self.now + Duration::from_nanos(1));
        self.timers.arm(timer, at);
    }

    /// Sets a timer so long from now.
    pub(super) fn wake_after(&mut self, timer: Timer, delay: Duration) {
        self.wake_at(timer, self.now + delay);
    }
}
