//! A disk that can lose power: what was synced stays, of what was not any sector may be lost or
//! torn. It knows nothing of what is written on it, and takes its chances from a seed.
//!
//! After a sync that failed nobody is told the truth any more: as a kernel does, it takes what it
//! could not write for written, so later syncs of that file succeed and keep what they like, until
//! the file is made anew or the power has been off.
//!
//! It asserts the one thing that a journal must keep to: within a file's life (between two writes
//! of its first block) nothing that was synced is written again.

use std::collections::{BTreeMap, VecDeque};

use fieldgate::buffer::Payload;
use fieldgate::journal::disk::{DiskCommand, DiskError, DiskEvent, Slot};
use fieldgate::rng::Rng;

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
struct File {
    /// What survives for certain.
    synced: Vec<u8>,
    /// What a read sees.
    seen: Vec<u8>,
    /// Synced since the first block was last written.
    written: Vec<(u32, u32)>,
    /// A sync of it has failed.
    is_failed: bool,
}

/// How often what fails, in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub makes: u64,
    pub commits: u64,
    pub reads: u64,
}

/// The disk: survives crashes of who uses it.
#[derive(Debug)]
pub struct Disk {
    files: BTreeMap<Slot, File>,
    waiting: VecDeque<DiskCommand>,
    pub rng: Rng,
    pub faults: Faults,
    /// What a failing make says.
    pub make_error: DiskError,
    pub commits: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub read_max: u32,
    pub set_aside: Vec<Slot>,
}

impl Disk {
    pub fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            waiting: VecDeque::new(),
            rng: Rng::from_seed(seed),
            faults: Faults::default(),
            make_error: DiskError::Full,
            commits: 0,
            reads: 0,
            read_bytes: 0,
            read_max: 0,
            set_aside: Vec::new(),
        }
    }

    pub fn submit(&mut self, command: DiskCommand) {
        self.waiting.push_back(command);
    }

    /// Does one of the commands that wait: the writes in their order, a read at any time.
    pub fn step(&mut self) -> Option<DiskEvent> {
        let first_write = self
            .waiting
            .iter()
            .position(|command| !matches!(command, DiskCommand::Read { .. }));
        let mut choices: Vec<usize> = first_write.into_iter().collect();
        choices.extend(
            (0..self.waiting.len())
                .filter(|index| matches!(self.waiting[*index], DiskCommand::Read { .. })),
        );
        let index = *self.rng.choose(&choices)?;
        let command = self.waiting.remove(index).expect("it waits");
        self.execute(command).or_else(|| self.step())
    }

    fn fails(&mut self, chance: u64) -> bool {
        chance > 0 && self.rng.chance(chance, 1000)
    }

    fn execute(&mut self, command: DiskCommand) -> Option<DiskEvent> {
        let eio = || DiskError::Failed(5, "input/output error".into());
        Some(match command {
            DiskCommand::Open => DiskEvent::Opened(Ok(self
                .files
                .iter()
                .map(|(slot, file)| (*slot, file.seen.len() as u32))
                .collect())),
            DiskCommand::Make { slot, size } => {
                self.files.remove(&slot);
                let outcome = if self.fails(self.faults.makes) {
                    Err(self.make_error.clone())
                } else {
                    let zeros = vec![0; size as usize];
                    self.files.insert(
                        slot,
                        File {
                            synced: zeros.clone(),
                            seen: zeros,
                            written: Vec::new(),
                            is_failed: false,
                        },
                    );
                    Ok(())
                };
                DiskEvent::Made { slot, outcome }
            }
            DiskCommand::Commit {
                batch,
                slot,
                offset,
                bytes,
            } => {
                self.commits += 1;
                self.write(slot, offset, &bytes);
                let outcome = if self.fails(self.faults.commits) {
                    let range = offset as usize..offset as usize + bytes.len();
                    self.settle(slot, range);
                    self.files.get_mut(&slot).expect("it was made").is_failed = true;
                    Err(eio())
                } else if self.files.get(&slot).is_some_and(|file| file.is_failed) {
                    self.settle(slot, offset as usize..offset as usize + bytes.len());
                    Ok(())
                } else {
                    let end = offset + bytes.len() as u32;
                    let file = self.files.get_mut(&slot).expect("it was made");
                    file.synced[offset as usize..end as usize].copy_from_slice(&bytes);
                    file.written.push((offset, end));
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
                self.reads += 1;
                self.read_max = self.read_max.max(len);
                self.read_bytes += u64::from(len);
                let outcome = if self.fails(self.faults.reads) {
                    Err(eio())
                } else {
                    let bytes = self.files.get(&slot).map_or(&[][..], |file| &file.seen);
                    let from = bytes.len().min(offset as usize);
                    let to = bytes.len().min(offset as usize + len as usize);
                    Ok(Payload::copy_from(&bytes[from..to]))
                };
                DiskEvent::Read { read, outcome }
            }
            DiskCommand::SetAside { slot } => {
                self.files.remove(&slot);
                self.set_aside.push(slot);
                return None;
            }
            DiskCommand::Remove { slot } => {
                self.files.remove(&slot);
                return None;
            }
        })
    }

    fn write(&mut self, slot: Slot, offset: u32, bytes: &[u8]) {
        assert!(offset.is_multiple_of(4096), "commits begin at a block");
        assert!(bytes.len().is_multiple_of(4096), "commits are whole blocks");
        let file = self
            .files
            .get_mut(&slot)
            .expect("only what was made is written");
        let end = offset as usize + bytes.len();
        assert!(end <= file.seen.len(), "a commit lies within its file");
        if offset == 0 {
            file.written.clear();
        }
        for (from, to) in &file.written {
            assert!(
                end as u32 <= *from || offset >= *to,
                "{slot:?}: {offset}..{end} was synced as {from}..{to}"
            );
        }
        file.seen[offset as usize..end].copy_from_slice(bytes);
    }

    /// Power fails. What was being done is done in part, or not; nobody is told.
    pub fn crash(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            if let DiskCommand::Commit {
                slot,
                offset,
                bytes,
                ..
            } = command
            {
                self.write(slot, offset, &bytes);
            }
            // A make may have come as far as any length of its file.
            else if let DiskCommand::Make { slot, size } = command
                && self.rng.chance(1, 3)
            {
                let len = self.rng.below(u64::from(size)) as usize;
                self.put(slot, vec![0; len]);
            }
            // It, or a removal, was done or not: both are possible.
            else if !matches!(command, DiskCommand::Read { .. } | DiskCommand::Open)
                && self.rng.chance(1, 2)
            {
                let commits = self.faults;
                self.faults = Faults::default();
                self.execute(command);
                self.faults = commits;
            }
        }
        let slots: Vec<Slot> = self.files.keys().copied().collect();
        for slot in slots {
            let len = self.files[&slot].seen.len();
            self.settle(slot, 0..len);
            self.files.get_mut(&slot).expect("it is there").is_failed = false;
        }
    }

    /// Each sector that was not synced is there, or not, or in part.
    fn settle(&mut self, slot: Slot, range: std::ops::Range<usize>) {
        let file = self.files.get_mut(&slot).expect("it is there");
        for at in range.step_by(SECTOR) {
            let sector = at..(at + SECTOR).min(file.seen.len());
            if file.seen[sector.clone()] == file.synced[sector.clone()] {
                continue;
            }
            let kept = match self.rng.below(5) {
                0 | 1 => sector.len(),
                2 | 3 => 0,
                _ => self.rng.below(SECTOR as u64) as usize,
            };
            let (from, cut) = (sector.start, sector.start + kept.min(sector.len()));
            file.synced[from..cut].copy_from_slice(&file.seen[from..cut]);
            file.seen[cut..sector.end].copy_from_slice(&file.synced[cut..sector.end]);
        }
    }

    /// The bytes of a file, to be looked at or spoilt.
    pub fn bytes(&mut self, slot: Slot) -> Option<&mut Vec<u8>> {
        self.files.get_mut(&slot).map(|file| &mut file.seen)
    }

    /// Puts a file there, as if it had always been.
    pub fn put(&mut self, slot: Slot, bytes: Vec<u8>) {
        self.files.insert(
            slot,
            File {
                synced: bytes.clone(),
                seen: bytes,
                written: Vec::new(),
                is_failed: false,
            },
        );
    }

    pub fn slots(&self) -> Vec<Slot> {
        self.files.keys().copied().collect()
    }
}
