//! The journal tests' disk in virtual time: late, failing and full as long as it is told to be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fieldgate::journal::disk::{DiskCommand, DiskError, DiskEvent, Slot};
use fieldgate::journal::{Found, FoundTarget, Key, inspect};
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

/// What one commit holds: where its header is, and what each record says of which keys.
struct Batch {
    offset: u32,
    number: u64,
    records: Vec<(u32, u32, Vec<Key>)>,
}

impl Disk {
    /// Spoils a bit of what had been synced, with something behind it that lives: the header of a
    /// batch, or a record. The keys whose present values are thereby lost; `None`: there is no such
    /// place.
    pub fn rot(&mut self) -> Option<BTreeSet<Key>> {
        let mut segments: Vec<(u64, Slot, Vec<Batch>)> = Vec::new();
        for slot in self.platter.slots() {
            let bytes = self.platter.bytes(slot).expect("it is there");
            let (mut life, mut batches) = (0, Vec::<Batch>::new());
            inspect(bytes, &mut |found| match (found, batches.last_mut()) {
                (Found::Segment { sequence, .. }, _) => life = sequence,
                (Found::Batch { offset, number, .. }, _) => batches.push(Batch {
                    offset,
                    number,
                    records: Vec::new(),
                }),
                (
                    Found::Data {
                        offset,
                        len,
                        targets,
                        ..
                    },
                    Some(batch),
                ) => {
                    let keys = targets.iter().filter_map(|target| match target {
                        FoundTarget::Key(key, _) => Some(*key),
                        FoundTarget::Entry(..) => None,
                    });
                    batch.records.push((offset, len, keys.collect()));
                }
                _ => {}
            });
            segments.push((life, slot, batches));
        }
        // Where each key was written last.
        let mut places: BTreeMap<Key, (u64, u32)> = BTreeMap::new();
        for (life, _, batches) in &segments {
            for (offset, _, keys) in batches.iter().flat_map(|batch| &batch.records) {
                for key in keys {
                    let place = places.entry(*key).or_default();
                    *place = (*place).max((*life, *offset));
                }
            }
        }
        let lives = |life: u64, (offset, _, keys): &(u32, u32, Vec<Key>)| {
            keys.iter().any(|key| places[key] == (life, *offset))
        };
        // Slot, first and last byte that may be spoilt, records that are lost.
        let mut choices: Vec<(Slot, u32, u32, u64, Vec<u32>)> = Vec::new();
        for (life, slot, batches) in &segments {
            for (index, batch) in batches.iter().enumerate() {
                let behind = &batches[index + 1..];
                // Without one that follows nothing would say that this had been synced.
                if behind
                    .first()
                    .is_none_or(|next| next.number <= batch.number)
                {
                    continue;
                }
                let mut behind = behind.iter().flat_map(|batch| &batch.records);
                if behind.any(|record| lives(*life, record)) {
                    let lost = batch.records.iter().map(|(offset, ..)| *offset).collect();
                    let from = batch.offset + 12;
                    choices.push((*slot, from, from + 44, *life, lost));
                }
                for (at, (offset, len, _)) in batch.records.iter().enumerate() {
                    let mut behind = batch.records[at + 1..].iter();
                    if behind.any(|record| lives(*life, record)) {
                        let from = offset + 8;
                        choices.push((*slot, from, offset + len, *life, vec![*offset]));
                    }
                }
            }
        }
        let (slot, from, to, life, lost) = self.rng.choose(&choices)?.clone();
        let at = from + self.rng.below(u64::from(to - from)) as u32;
        self.platter.bytes(slot).expect("it is there")[at as usize] ^= 1 << self.rng.below(8);
        let keys = places.iter();
        let keys = keys.filter(|(_, (of, offset))| *of == life && lost.contains(offset));
        Some(keys.map(|(key, _)| *key).collect())
    }
}

fn is_failure(event: &DiskEvent) -> bool {
    match event {
        DiskEvent::Opened(outcome) => outcome.is_err(),
        DiskEvent::Made { outcome, .. } | DiskEvent::Synced { outcome, .. } => outcome.is_err(),
        DiskEvent::Read { outcome, .. } => outcome.is_err(),
    }
}
