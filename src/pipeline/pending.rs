//! Commands that wait for the device, of one point: bounded, and each with a deadline.

use super::{GET_TIMEOUT, PENDING_COMMANDS_MAX, SET_TIMEOUT};
use crate::id::RequestId;
use crate::point::Value;
use crate::time::Instant;

/// The commands of one point that have not ended.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// In order of arrival, at most [`PENDING_COMMANDS_MAX`].
    commands: Vec<Waiting>,
}

/// A command that has not ended.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What it waits for.
    pub(super) answer: Awaited,
    /// Who wants to know.
    pub(super) reply: Reply,
    /// When it came.
    pub(super) since: Instant,
}

/// What ends a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Awaited {
    /// The answer to a write.
    Written {
        /// Named by the answer.
        request: RequestId,
        /// What the point becomes, in the published unit.
        value: Value,
        /// For a while only.
        is_pulse: bool,
    },
    /// The next reading.
    Reading,
}

/// Where a result goes besides `…/result`, and what it repeats.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reply {
    /// Checked: not one of ours, no wildcards.
    pub(super) response_topic: Option<Box<str>>,
    pub(super) correlation_data: Option<Box<[u8]>>,
    /// JSON.
    pub(super) transaction: Option<Box<str>>,
    pub(super) ticket: Option<super::Ticket>,
}

impl Pending {
    /// Whether the next command must be refused.
    pub(super) fn is_full(&self) -> bool {
        self.commands.len() >= PENDING_COMMANDS_MAX
    }

    /// Adds a command.
    pub(super) fn push(&mut self, command: Waiting) {
        debug_assert!(!self.is_full(), "the limit is asked for first");
        self.commands.push(command);
    }

    /// Takes the command that waits for this write.
    pub(super) fn take_written(&mut self, request: RequestId) -> Option<Waiting> {
        let is_it = |command: &Waiting| match &command.answer {
            Awaited::Written {
                request: awaited, ..
            } => *awaited == request,
            Awaited::Reading => false,
        };
        let index = self.commands.iter().position(is_it)?;
        Some(self.commands.remove(index))
    }

    /// Takes every command that waits for a reading.
    pub(super) fn take_readers(&mut self) -> Vec<Waiting> {
        self.take_if(|command| command.answer == Awaited::Reading)
    }

    /// Takes every command whose time is up.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Waiting> {
        self.take_if(|command| command.deadline() <= now)
    }

    /// Takes them all.
    pub(super) fn take_all(&mut self) -> Vec<Waiting> {
        core::mem::take(&mut self.commands)
    }

    /// Whether somebody waits for a reading.
    pub(super) fn has_reader(&self) -> bool {
        self.commands
            .iter()
            .any(|command| command.answer == Awaited::Reading)
    }

    /// What the point will be once its latest write is carried out.
    pub(super) fn last_written(&self) -> Option<&Value> {
        self.commands
            .iter()
            .rev()
            .find_map(|command| match &command.answer {
                Awaited::Written { value, .. } => Some(value),
                Awaited::Reading => None,
            })
    }

    /// When the first of them times out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.commands.iter().map(Waiting::deadline).min()
    }

    /// Commands that wait.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    fn take_if(&mut self, ends: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        // Nobody waits, most of the time: that allocates nothing.
        if !self.commands.iter().any(&ends) {
            return Vec::new();
        }
        let (ended, waiting) = core::mem::take(&mut self.commands)
            .into_iter()
            .partition(|command| ends(command));
        self.commands = waiting;
        ended
    }
}

impl Waiting {
    /// When it ends by itself.
    pub(super) fn deadline(&self) -> Instant {
        self.since
            + match self.answer {
                Awaited::Written { .. } => SET_TIMEOUT,
                Awaited::Reading => GET_TIMEOUT,
            }
    }
}
