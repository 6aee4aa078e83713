//! A journal with a disk and a clock, driven as a host drives it.

use std::collections::{BTreeMap, VecDeque};

use fieldgate::buffer::Memory;
use fieldgate::id::QueueId;
use fieldgate::journal::{Event, Journal, Key, QueueState, Recovered, Settings, Summary};
use fieldgate::time::{Duration, Instant, Now, WallTime};

use super::disk::Disk;

pub const SMALL: Settings = Settings {
    size: 16 * 32 * 1024,
    segment: 32 * 1024,
};

/// What a recovery told.
#[derive(Debug, Default)]
pub struct Told {
    pub keys: BTreeMap<Key, Vec<u8>>,
    pub queues: BTreeMap<QueueId, QueueState>,
    pub summary: Option<Summary>,
}

pub struct House {
    pub journal: Journal,
    pub disk: Disk,
    pub now: Now,
    pub events: VecDeque<Event>,
    pub settings: Settings,
}

impl House {
    pub fn new(seed: u64, settings: Settings) -> Self {
        Self::on(Disk::new(seed), settings)
    }

    pub fn on(disk: Disk, settings: Settings) -> Self {
        Self {
            journal: Journal::new(settings, &Memory::new(usize::MAX)),
            disk,
            now: Now {
                monotonic: Instant::from_nanos(1_000_000_000),
                wall: WallTime::EARLIEST_PLAUSIBLE,
            },
            events: VecDeque::new(),
            settings,
        }
    }

    /// One started with, and its recovery.
    pub fn started(seed: u64, settings: Settings) -> Self {
        let mut house = Self::new(seed, settings);
        house.recover();
        house
    }

    fn collect(&mut self) {
        loop {
            while let Some(event) = self.journal.poll_event() {
                self.events.push_back(event);
            }
            let mut any = false;
            while let Some(command) = self.journal.poll_command() {
                self.disk.submit(command);
                any = true;
            }
            if !any {
                return;
            }
        }
    }

    /// One turn: at most one answer of the disk.
    pub fn turn(&mut self) -> bool {
        self.now.monotonic = self.now.monotonic + Duration::from_micros(100);
        self.journal.end_turn(self.now);
        self.collect();
        let Some(event) = self.disk.step() else {
            return false;
        };
        self.journal.handle_disk(self.now, event);
        self.collect();
        true
    }

    /// Turns until the disk has nothing to do.
    pub fn rest(&mut self) {
        for _ in 0..1_000_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the disk is never done");
    }

    pub fn advance(&mut self, by: Duration) {
        self.now.monotonic = self.now.monotonic + by;
        self.journal.handle_timeout(self.now);
        self.collect();
    }

    /// Rests, and lets every deadline pass within `by`.
    pub fn rest_for(&mut self, by: Duration) {
        let until = self.now.monotonic + by;
        self.rest();
        for _ in 0..100_000 {
            let Some(at) = self.journal.poll_timeout().filter(|at| *at <= until) else {
                return;
            };
            self.now.monotonic = self.now.monotonic.max(at);
            self.journal.handle_timeout(self.now);
            self.collect();
            self.rest();
        }
        panic!("deadlines do not move");
    }

    /// Runs until the recovery has told everything.
    pub fn recover(&mut self) -> Told {
        let mut told = Told::default();
        for _ in 0..1_000_000 {
            let mut is_done = false;
            let went_on = self.turn();
            for event in self.events.drain(..) {
                match event {
                    Event::Recovered(Recovered::Record { keys, body }) => {
                        for (key, _) in keys {
                            let twice = told.keys.insert(key, body.to_vec());
                            assert!(twice.is_none(), "{key:?} is told once");
                        }
                    }
                    Event::Recovered(Recovered::Queue { queue, state }) => {
                        told.queues.insert(queue, state);
                    }
                    Event::RecoveryDone(summary) => {
                        told.summary = Some(summary);
                        is_done = true;
                    }
                    Event::Damaged { .. } => {}
                    Event::Unusable(_) => return told,
                    other => panic!("{other:?} during recovery"),
                }
            }
            if is_done {
                return told;
            }
            assert!(went_on, "recovery waits for nothing");
        }
        panic!("recovery never ends");
    }

    /// Power fails, and comes back.
    pub fn crash(self) -> (Self, Told) {
        self.crash_then(|_| {})
    }

    /// The same, and meanwhile something happens to the disk.
    pub fn crash_then(self, happens: impl FnOnce(&mut Disk)) -> (Self, Told) {
        let mut disk = self.disk;
        disk.crash();
        happens(&mut disk);
        let mut house = Self::on(disk, self.settings);
        let told = house.recover();
        (house, told)
    }
}
