//! Transfers: what a driver may ask of a bus, and what comes back.
//!
//! Every bus has a worker that carries out one transfer at a time, because Linux offers no
//! readiness for them. The files of `/proc` and `/sys` are a bus too, for reading them can block:
//! there one transfer answers all that a sample asks, for handing it to the worker and back costs
//! more than reading a file.

use smallvec::SmallVec;

use crate::time::Duration;

/// Which bus, as the host opens it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BusSettings {
    /// `/dev/i2c-NUMBER`.
    I2c {
        /// The adapter's number.
        number: u8,
        /// The kernel's limit for one transfer (`I2C_TIMEOUT`), in steps of 10 ms.
        transfer_timeout: Duration,
    },
    /// The machine's own `/proc`, `/sys` and file systems.
    Machine,
}

/// Bytes of a transfer: few enough to need no allocation for every chip that we know.
pub type Bytes = SmallVec<[u8; 32]>;

/// One transfer. Bounded: what is read never exceeds what the operation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusOp {
    /// Writes, then reads with a repeated start; either may be empty.
    I2c {
        /// Seven bits.
        address: u8,
        /// Sent first.
        write: Bytes,
        /// How many bytes to read then, at most [`I2C_READ_MAX`].
        read: u16,
    },
    /// Asks the machine.
    Machine(Box<[Question]>),
}

/// What the machine can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What a file says, read from its start.
    File {
        /// Absolute.
        path: Box<str>,
        /// More bytes than this are cut off.
        max: u32,
    },
    /// The size and the free space of a file system (`statvfs`).
    DiskSpace {
        /// Any path on it.
        path: Box<str>,
    },
    /// How long ago the machine was started (`CLOCK_BOOTTIME`: also while it was suspended).
    Uptime,
}

/// The most that one I2C read may bring (`i2c-dev` allows 8192).
pub const I2C_READ_MAX: u16 = 8192;

/// What a transfer brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusReply {
    /// The bytes read: exactly as many as were asked for.
    Bytes(Bytes),
    /// What the machine says to each question, in their order. One that cannot be answered does
    /// not spoil the others.
    Machine(Vec<Result<Fact, BusError>>),
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// What the file says, up to `max` bytes.
    File(Bytes),
    /// Of a file system, in bytes.
    DiskSpace {
        /// In all.
        total: u64,
        /// That an ordinary user may still fill.
        available: u64,
    },
    /// Since the machine was started.
    Uptime(Duration),
}

/// Why a transfer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BusError {
    /// Nothing acknowledged the address (`ENXIO`, `EREMOTEIO`), or there is no such file
    /// (`ENOENT`).
    NoAnswer,
    /// The kernel or the worker gave up waiting (`ETIMEDOUT`, `EAGAIN`).
    Timeout,
    /// The bus is not there or may not be used (`ENODEV`, `EACCES`), with the error number.
    Unavailable(i32),
    /// Anything else, with the error number.
    Failed(i32),
    /// The worker's queue was full; nothing was tried.
    Busy,
}

/// An error number as Linux means it, for people: those that buses and files bring.
pub(super) fn error_text(number: i32) -> String {
    let meaning = match number {
        1 | 13 => "no permission",
        2 | 6 | 19 => "there is no such device",
        5 => "input/output error",
        11 => "lost the bus to another master",
        16 => "in use by a kernel driver",
        22 => "invalid argument",
        71 => "protocol error",
        95 => "not supported by the adapter",
        110 => "timed out",
        121 => "not acknowledged",
        _ => return format!("error {number}"),
    };
    format!("{meaning}, error {number}")
}

/// What the host answers to a transfer: exactly once for each request.
pub type BusOutcome = Result<BusReply, BusError>;
