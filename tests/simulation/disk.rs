//! A disk in virtual time: late, failing and full, and honest about nothing that was not synced.
//!
//! What a commit wrote is on the platter once it is answered. While it is not, each sector of it may
//! be there or not, or half of it; which of them is decided when the power goes. A read sees what
//! was written, synced or not, as the kernel's cache does. The disk watches, too: within one life of
//! a segment, which begins at its first byte, no block that was synced is written again.

use std::collections::{BTreeMap, VecDeque};

use fieldgate::buffer::Payload;
use fieldgate::journal::disk::{DiskCommand, DiskError, DiskEvent, Slot};
use fieldgate::rng::Rng;
use fieldgate::time::{Duration, Instant};

const SECTOR: usize = 512;

pub struct Disk {
    rng: Rng,
    files: BTreeMap<Slot, File>,
    /// In the order of their coming, when they are done.
    running: VecDeque<(Instant, DiskCommand)>,
    faults: Faults,
    count: u64,
}

#[derive(Default)]
struct File {
    /// What a power cut leaves.
    platter: Vec<u8>,
    /// What a read sees.
    cache: Vec<u8>,
    /// Blocks synced in this life.
    synced: Vec<(u32, u32)>,
}

/// What goes wrong, each one time in so many; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub commit: u64,
    pub make: u64,
    pub read: u64,
    /// Makes are refused for want of space.
    pub is_full: bool,
    /// The longest that anything takes, in milliseconds.
    pub slow: u64,
}

impl Faults {
    pub fn none() -> Self {
        Self {
            slow: 5,
            ..Self::default()
        }
    }

    pub fn some(rng: &mut Rng) -> Self {
        let one_in = |rng: &mut Rng| {
            if rng.chance(1, 2) {
                2 + rng.below(8)
            } else {
                0
            }
        };
        Self {
            commit: one_in(rng),
            make: one_in(rng),
            // What cannot be read is lost, whoever keeps it.
            read: 0,
            is_full: rng.chance(1, 3),
            slow: [5, 50, 2_000][rng.below(3) as usize],
        }
    }
}

impl Disk {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::from_seed(seed),
            files: BTreeMap::new(),
            running: VecDeque::new(),
            faults: Faults::none(),
            count: 0,
        }
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// How often something failed.
    pub fn faults(&self) -> u64 {
        self.count
    }

    pub fn submit(&mut self, now: Instant, command: DiskCommand) {
        if let DiskCommand::Commit {
            slot,
            offset,
            bytes,
            ..
        } = &command
        {
            assert!(
                offset % 4096 == 0 && bytes.len() % 4096 == 0,
                "whole blocks"
            );
            let end = offset + bytes.len() as u32;
            let file = self
                .files
                .get_mut(slot)
                .expect("a segment is made before it is written");
            assert!(end as usize <= file.cache.len(), "within the segment");
            if *offset == 0 {
                file.synced.clear();
            }
            let again = file
                .synced
                .iter()
                .find(|(from, to)| *offset < *to && *from < end);
            assert_eq!(
                again, None,
                "a synced block is written again: {offset}..{end}"
            );
            file.cache[*offset as usize..end as usize].copy_from_slice(bytes);
            let commits = self
                .running
                .iter()
                .filter(|(_, it)| matches!(it, DiskCommand::Commit { .. }));
            assert_eq!(commits.count(), 0, "one commit at a time");
        }
        let takes = Duration::from_micros(self.rng.below(self.faults.slow * 1000 + 1));
        self.running.push_back((now + takes, command));
    }

    /// What is done by now. Reads overtake what writes; among those order is kept.
    pub fn poll_event(&mut self, now: Instant) -> Option<DiskEvent> {
        let is_read = |command: &DiskCommand| matches!(command, DiskCommand::Read { .. });
        let mut has_write = false;
        let at = self.running.iter().position(|(at, command)| {
            let may = is_read(command) || !std::mem::replace(&mut has_write, true);
            may && *at <= now
        })?;
        let (_, command) = self.running.remove(at)?;
        Some(match self.perform(command) {
            Some(event) => event,
            None => return self.poll_event(now),
        })
    }

    fn fails(&mut self, one_in: u64) -> bool {
        let fails = one_in > 0 && self.rng.chance(1, one_in);
        self.count += u64::from(fails);
        fails
    }

    fn perform(&mut self, command: DiskCommand) -> Option<DiskEvent> {
        let broken = || DiskError::Failed(5, "input/output error".into());
        Some(match command {
            DiskCommand::Open => {
                let all = self.files.iter();
                let all = all.map(|(slot, file)| (*slot, file.cache.len() as u32));
                DiskEvent::Opened(Ok(all.collect()))
            }
            DiskCommand::Make { slot, size } => {
                let is_full = self.faults.is_full;
                let outcome = if is_full {
                    self.count += 1;
                    Err(DiskError::Full)
                } else if self.fails(self.faults.make) {
                    Err(broken())
                } else {
                    Ok(())
                };
                self.files.remove(&slot);
                if outcome.is_ok() {
                    let zeros = vec![0; size as usize];
                    let file = File {
                        platter: zeros.clone(),
                        cache: zeros,
                        synced: Vec::new(),
                    };
                    self.files.insert(slot, file);
                }
                DiskEvent::Made { slot, outcome }
            }
            DiskCommand::Commit {
                batch,
                slot,
                offset,
                bytes,
            } => {
                let outcome = if self.fails(self.faults.commit) {
                    self.lose(slot, offset, &bytes);
                    Err(broken())
                } else {
                    let file = self.files.get_mut(&slot).expect("it is written to");
                    let at = offset as usize;
                    file.platter[at..at + bytes.len()].copy_from_slice(&bytes);
                    file.synced.push((offset, offset + bytes.len() as u32));
                    Ok(())
                };
                DiskEvent::Synced {
                    batch,
                    outcome,
                    bytes,
                }
            }
            DiskCommand::Read {
                read,
                slot,
                offset,
                len,
            } => {
                let fails = self.fails(self.faults.read);
                let file = self.files.get(&slot).filter(|_| !fails);
                let outcome = file.ok_or_else(broken).map(|file| {
                    let from = (offset as usize).min(file.cache.len());
                    let to = (from + len as usize).min(file.cache.len());
                    Payload::from(file.cache[from..to].to_vec())
                });
                DiskEvent::Read { read, outcome }
            }
            DiskCommand::SetAside { slot } | DiskCommand::Remove { slot } => {
                self.files.remove(&slot);
                return None;
            }
        })
    }

    /// Of what was written, any part is there.
    fn lose(&mut self, slot: Slot, offset: u32, bytes: &[u8]) {
        let Some(file) = self.files.get_mut(&slot) else {
            return;
        };
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = offset as usize + number * SECTOR;
            let count = match self.rng.below(8) {
                0..4 => 0,
                4..7 => sector.len(),
                _ => self.rng.below(sector.len() as u64) as usize,
            };
            file.platter[at..at + count].copy_from_slice(&sector[..count]);
        }
    }

    /// The power goes.
    pub fn crash(&mut self) {
        for (_, command) in std::mem::take(&mut self.running) {
            match command {
                DiskCommand::Commit {
                    slot,
                    offset,
                    bytes,
                    ..
                } => self.lose(slot, offset, &bytes),
                DiskCommand::Make { slot, size } => match self.rng.below(3) {
                    0 => {
                        self.files.remove(&slot);
                    }
                    1 => {}
                    _ => {
                        let some = self.rng.below(u64::from(size)) as usize;
                        let file = File {
                            platter: vec![0; some],
                            ..File::default()
                        };
                        self.files.insert(slot, file);
                    }
                },
                DiskCommand::Remove { slot } | DiskCommand::SetAside { slot } => {
                    if self.rng.chance(1, 2) {
                        self.files.remove(&slot);
                    }
                }
                DiskCommand::Open | DiskCommand::Read { .. } => {}
            }
        }
        for file in self.files.values_mut() {
            file.cache = file.platter.clone();
            file.synced.clear();
        }
    }
}
