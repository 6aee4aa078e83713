//! What the journal asks of a disk, and what it is told: the whole of its boundary with a host.
//!
//! A segment is a file of one size in the journal's folder, named by its slot (`00000007.seg`).
//! The host does what it is told, in order, on workers: one writes and syncs, another reads, so
//! that a fetch does not wait for a sync. It decides nothing, retries nothing, and keeps nothing of
//! a segment's meaning: bytes are the machine's.

use crate::buffer::Payload;

/// A segment's file, by number: its name is this number with eight digits and `.seg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// A write that is to be synced. Counted up from 1, in the order of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// A question whose answer names it. Counted up from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Do this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskCommand {
    /// Make the folder if it is not there, lock it, and look what it holds. Answered by
    /// [`DiskEvent::Opened`]. The first command, and the only one until its answer.
    Open,
    /// Make the file of a slot: `size` bytes, all of them written as zeros and synced, and the
    /// folder synced, so that a later write changes no metadata. A file that is there is replaced.
    /// Answered by [`DiskEvent::Made`].
    Make {
        /// Which.
        slot: Slot,
        /// Bytes.
        size: u32,
    },
    /// Write these bytes there, then `fdatasync`. Answered by [`DiskEvent::Synced`]. At most one is
    /// under way.
    Commit {
        /// Named by the answer.
        batch: BatchId,
        /// Where.
        slot: Slot,
        /// A multiple of 4096.
        offset: u32,
        /// Their number is a multiple of 4096. Comes back with the answer, to be used again.
        bytes: Vec<u8>,
    },
    /// Read. Answered by [`DiskEvent::Read`]. Several may be under way.
    Read {
        /// Named by the answer.
        read: ReadId,
        /// Where.
        slot: Slot,
        /// From this byte on.
        offset: u32,
        /// At most so many bytes.
        len: u32,
    },
    /// Take a file out of the way: it is damaged, and kept for people to look at, under its name
    /// with `.damaged` after it. Not answered; what fails is logged by the host.
    SetAside {
        /// Which.
        slot: Slot,
    },
    /// Remove a file: the configuration has fewer segments. Not answered.
    Remove {
        /// Which.
        slot: Slot,
    },
}

/// It was done, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskEvent {
    /// Of [`DiskCommand::Open`]: the segments that are there with their sizes, by slot. A folder
    /// that another process has locked is refused with [`DiskError::Locked`].
    Opened(Result<Vec<(Slot, u32)>, DiskError>),
    /// Of [`DiskCommand::Make`].
    Made {
        /// Which.
        slot: Slot,
        /// After a failure the file is gone, or of no use.
        outcome: Result<(), DiskError>,
    },
    /// Of [`DiskCommand::Commit`].
    Synced {
        /// Which.
        batch: BatchId,
        /// After a failure nobody knows what of it is on the disk, nor of what was synced in that
        /// file since it was last opened: the kernel forgets pages that it could not write.
        outcome: Result<(), DiskError>,
        /// Of the command; what they hold does not matter any more.
        bytes: Vec<u8>,
    },
    /// Of [`DiskCommand::Read`]: fewer bytes than asked for only at the end of the file.
    Read {
        /// Which.
        read: ReadId,
        /// What is there.
        outcome: Result<Payload, DiskError>,
    },
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskError {
    /// Another process has the folder: its number, if it can be told.
    Locked(Option<u32>),
    /// No space, or over a quota.
    Full,
    /// The filesystem may only be read.
    ReadOnly,
    /// It took longer than its deadline. It may still happen; the host does not say.
    Timeout,
    /// What the system said, with the error number.
    Failed(i32, Box<str>),
}

impl core::fmt::Display for DiskError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Locked(Some(pid)) => write!(f, "in use by process {pid}"),
            Self::Locked(None) => f.write_str("in use by another process"),
            Self::Full => f.write_str("no space left"),
            Self::ReadOnly => f.write_str("the filesystem is read-only"),
            Self::Timeout => f.write_str("the disk does not answer"),
            Self::Failed(_, what) => f.write_str(what),
        }
    }
}
