//! The journal tests' disk in virtual time: late, failing and full as long as it is told to be.

use std::collections::VecDeque;

use fieldgate::journal::disk::{DiskCommand, DiskError, DiskEvent};
use fieldgate::rng::Rng;
use fieldgate::time::{Duration, Instant};

use super::platter;

pub struct Disk {
    platter: platter::Disk,
    rng: Rng,
    /// In the order of their coming, and when they are done.
    running: VecDeque<(Instant, DiskCommand)>,
    /// The longest that anything takes, in milliseconds.
    slow: u64,
    faults: u64,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub struct Trouble {
    faults: platter::Faults,
    make_error: DiskError,
    slow: u64,
}

impl Trouble {
    pub fn none() -> Self {
        Self {
            faults: platter::Faults::default(),
            make_error: DiskError::Full,
            slow: 5,
        }
    }

    /// What cannot be read is lost, whoever keeps it: so that does not happen.
    pub fn some(rng: &mut Rng) -> Self {
        let often = |rng: &mut Rng| match rng.below(2) {
            0 => 0,
            _ => 1000 / (2 + rng.below(8)),
        };
        let (commits, makes) = (often(rng), often(rng));
        let is_full = rng.chance(1, 3);
        Self {
            faults: platter::Faults {
                commits,
                makes: if is_full { 1000 } else { makes },
                reads: 0,
            },
            make_error: if is_full {
                DiskError::Full
            } else {
                DiskError::Failed(5, "input/output error".into())
            },
            slow: [5, 50, 2_000][rng.below(3) as usize],
        }
    }
}

impl Disk {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        Self {
            platter: platter::Disk::new(rng.next_u64()),
            rng,
            running: VecDeque::new(),
            slow: Trouble::none().slow,
            faults: 0,
        }
    }

    pub fn set_trouble(&mut self, trouble: Trouble) {
        self.platter.faults = trouble.faults;
        self.platter.make_error = trouble.make_error;
        self.slow = trouble.slow;
    }

    /// How often something failed.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    pub fn submit(&mut self, now: Instant, command: DiskCommand) {
        let is_commit = |command: &DiskCommand| matches!(command, DiskCommand::Commit { .. });
        assert!(
            !is_commit(&command) || !self.running.iter().any(|(_, it)| is_commit(it)),
            "one commit at a time"
        );
        let takes = Duration::from_micros(self.rng.below(self.slow * 1000 + 1));
        self.running.push_back((now + takes, command));
    }

    /// What is done by now. Reads overtake what writes; among those order is kept.
    pub fn poll_event(&mut self, now: Instant) -> Option<DiskEvent> {
        loop {
            let mut has_write = false;
            let at = self.running.iter().position(|(at, command)| {
                let is_read = matches!(command, DiskCommand::Read { .. });
                let may = is_read || !std::mem::replace(&mut has_write, true);
                may && *at <= now
            })?;
            let (_, command) = self.running.remove(at)?;
            self.platter.submit(command);
            if let Some(event) = self.platter.step() {
                self.faults += u64::from(is_failure(&event));
                return Some(event);
            }
        }
    }

    /// The power goes.
    pub fn crash(&mut self) {
        for (_, command) in self.running.drain(..) {
            self.platter.submit(command);
        }
        self.platter.crash();
    }
}

fn is_failure(event: &DiskEvent) -> bool {
    match event {
        DiskEvent::Opened(outcome) => outcome.is_err(),
        DiskEvent::Made { outcome, .. } | DiskEvent::Synced { outcome, .. } => outcome.is_err(),
        DiskEvent::Read { outcome, .. } => outcome.is_err(),
    }
}
