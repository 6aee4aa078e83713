//! Buses: I2C adapters, and the machine's own files, a worker each.
//!
//! Linux offers no readiness for these transfers, so a thread carries them out, one at a time. What
//! one turn asks of a bus is handed over together when the turn's outputs are done, and wakes the
//! loop once: an idle gateway on a battery pays for wake-ups, not for reading files. The loop
//! remembers what it is owed: a transfer whose deadline passes is answered with
//! [`BusError::Timeout`] whatever the worker does, and its late answer is dropped and counted. A
//! bus that is stuck stays stuck alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use rppal::i2c::I2c;
use smallvec::SmallVec;

use super::clock;
use super::timer::{TimerKey, Timers};
use super::worker::{self, Health, Mailbox, Refused, Worker};
use crate::field::bus::{
    BusError, BusOp, BusOutcome, BusReply, BusSettings, Bytes, Fact, I2C_READ_MAX, Question,
};
use crate::id::{BusId, RequestId};
use crate::slab::IdTable;
use crate::time::{Duration, Instant};

/// Transfers that one turn may ask of one bus, and turns whose transfers may wait for it; one more
/// is answered with [`BusError::Busy`].
pub(super) const BUS_QUEUE_MAX: usize = 64;

/// Files of `/proc` and `/sys` that the machine's worker keeps open: reading again is then one
/// system call instead of four.
const OPEN_FILES_MAX: usize = 32;

/// All buses that the gateway needs.
#[derive(Debug)]
pub(super) struct Buses {
    mailbox: Mailbox,
    table: IdTable<BusId, Bus>,
    /// Those that have something to hand over. Each once.
    asked: Vec<BusId>,
    /// Transfers without an answer. Bounded by what the field has under way.
    owed: BTreeMap<RequestId, BusId>,
    health: Health,
}

#[derive(Debug)]
struct Bus {
    settings: BusSettings,
    /// Started with the first transfer, again if it is gone.
    worker: Option<Worker<Batch>>,
    /// Asked in this turn.
    batch: Batch,
    is_stuck: bool,
}

/// What is handed over together.
type Batch = SmallVec<[Transfer; 1]>;

/// What the worker of a bus is asked.
#[derive(Debug)]
struct Transfer {
    bus: BusId,
    request: RequestId,
    op: BusOp,
    deadline: Instant,
}

/// What it answers.
#[derive(Debug)]
pub(super) struct Answer {
    bus: BusId,
    request: RequestId,
    outcome: BusOutcome,
}

impl Buses {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            table: IdTable::new(),
            asked: Vec::new(),
            owed: BTreeMap::new(),
            health: Health::default(),
        }
    }

    /// A bus is needed. Nothing is opened before the first transfer.
    pub(super) fn open(&mut self, bus: BusId, settings: BusSettings) {
        let entry = Bus {
            settings,
            worker: None,
            batch: Batch::new(),
            is_stuck: false,
        };
        if let Some(before) = self.table.insert(bus, entry) {
            self.health.stuck -= usize::from(before.is_stuck);
        }
    }

    /// A bus is no longer needed. Its worker ends with its last transfer; what is owed is still
    /// answered.
    pub(super) fn close(&mut self, bus: BusId) {
        if let Some(mut before) = self.table.remove(bus) {
            self.health.stuck -= usize::from(before.is_stuck);
            // What the worker does not take, its deadline answers.
            let _ = before.hand_over(&self.mailbox);
        }
    }

    /// Takes a transfer, for [`Buses::hand_over`]. `Some`: it cannot be, and this is the answer.
    pub(super) fn submit(
        &mut self,
        timers: &mut Timers,
        bus_id: BusId,
        request: RequestId,
        op: BusOp,
        deadline: Instant,
    ) -> Option<BusOutcome> {
        let Some(bus) = self.table.get_mut(bus_id) else {
            return Some(Err(BusError::Unavailable(Errno::ENODEV as i32)));
        };
        if bus.batch.len() >= BUS_QUEUE_MAX {
            return Some(Err(BusError::Busy));
        }
        if bus.batch.is_empty() {
            self.asked.push(bus_id);
        }
        bus.batch.push(Transfer {
            bus: bus_id,
            request,
            op,
            deadline,
        });
        self.owed.insert(request, bus_id);
        timers.arm(TimerKey::Bus(request), deadline);
        None
    }

    /// Hands what was submitted to the workers, and tells what they do not take.
    pub(super) fn hand_over(
        &mut self,
        timers: &mut Timers,
        mut refused: impl FnMut(RequestId, BusOutcome),
    ) {
        for bus_id in self.asked.drain(..) {
            let Some(bus) = self.table.get_mut(bus_id) else {
                continue;
            };
            let Err((batch, error)) = bus.hand_over(&self.mailbox) else {
                continue;
            };
            for transfer in batch {
                self.owed.remove(&transfer.request);
                timers.disarm(TimerKey::Bus(transfer.request));
                refused(transfer.request, Err(error));
            }
        }
    }

    /// A worker has answered. `Some`: the gateway still waits for it.
    pub(super) fn answered(
        &mut self,
        timers: &mut Timers,
        answer: Answer,
    ) -> Option<(RequestId, BusOutcome)> {
        if let Some(bus) = self.table.get_mut(answer.bus)
            && bus.is_stuck
        {
            bus.is_stuck = false;
            self.health.stuck -= 1;
            log::info!("bus answers again bus={}", name_of(&bus.settings));
        }
        if self.owed.remove(&answer.request).is_none() {
            self.health.late += 1;
            return None;
        }
        timers.disarm(TimerKey::Bus(answer.request));
        Some((answer.request, answer.outcome))
    }

    /// A transfer's deadline has passed. `Some`: it is answered now.
    pub(super) fn expired(&mut self, request: RequestId) -> Option<(RequestId, BusOutcome)> {
        let bus = self.owed.remove(&request)?;
        self.health.expired += 1;
        if let Some(bus) = self.table.get_mut(bus)
            && !bus.is_stuck
        {
            bus.is_stuck = true;
            self.health.stuck += 1;
            log::warn!(
                "bus is silent past its deadline bus={}",
                name_of(&bus.settings)
            );
        }
        Some((request, Err(BusError::Timeout)))
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }
}

impl Bus {
    /// Gives its batch to its worker, or back with the reason.
    fn hand_over(&mut self, mailbox: &Mailbox) -> Result<(), (Batch, BusError)> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let worker = match &self.worker {
            Some(worker) => worker,
            None => match start(&self.settings, mailbox.clone()) {
                Ok(worker) => self.worker.insert(worker),
                Err(error) => return Err((batch, BusError::Unavailable(errno(&error)))),
            },
        };
        worker.submit(batch).map_err(|refused| match refused {
            Refused::Full(batch) => (batch, BusError::Busy),
            Refused::Gone(batch) => {
                self.worker = None;
                (batch, BusError::Unavailable(Errno::EIO as i32))
            }
        })
    }
}

/// What the log calls a bus, and its thread.
fn name_of(settings: &BusSettings) -> String {
    match settings {
        BusSettings::I2c { number, .. } => format!("i2c-{number}"),
        BusSettings::Machine => "machine".to_owned(),
    }
}

fn start(settings: &BusSettings, mailbox: Mailbox) -> io::Result<Worker<Batch>> {
    let mut device = Device::new(settings);
    Worker::start(&name_of(settings), BUS_QUEUE_MAX, move |batch: Batch| {
        let mut transfers = batch.into_iter().peekable();
        while let Some(transfer) = transfers.next() {
            let outcome = if clock::monotonic() > transfer.deadline {
                // It waited too long behind others; the loop has answered it.
                Err(BusError::Timeout)
            } else {
                device.transfer(&transfer.op)
            };
            let answer = worker::Answer::Bus(Answer {
                bus: transfer.bus,
                request: transfer.request,
                outcome,
            });
            if transfers.peek().is_some() {
                // If the next one hangs, the loop finds this at its deadline at the latest.
                mailbox.leave(answer);
            } else {
                mailbox.post(answer);
            }
        }
    })
}

/// What the worker's thread owns.
enum Device {
    I2c {
        number: u8,
        timeout: Duration,
        /// The adapter and the address that it is set to; opened when needed, and again after it
        /// was gone.
        open: Option<(I2c, Option<u8>)>,
    },
    Machine {
        /// By path, in the order of their last use, at most [`OPEN_FILES_MAX`].
        open: Vec<(Box<str>, File)>,
    },
}

impl Device {
    fn new(settings: &BusSettings) -> Self {
        match settings {
            BusSettings::I2c {
                number,
                transfer_timeout,
            } => Self::I2c {
                number: *number,
                timeout: *transfer_timeout,
                open: None,
            },
            BusSettings::Machine => Self::Machine { open: Vec::new() },
        }
    }

    fn transfer(&mut self, op: &BusOp) -> BusOutcome {
        match (self, op) {
            (
                Self::I2c {
                    number,
                    timeout,
                    open,
                },
                BusOp::I2c {
                    address,
                    write,
                    read,
                },
            ) => {
                let (adapter, selected) = match open {
                    Some(adapter) => adapter,
                    None => open.insert((open_adapter(*number, *timeout)?, None)),
                };
                let outcome = transfer_i2c(adapter, selected, *address, write, *read);
                if outcome == Err(BusError::Unavailable(Errno::ENODEV as i32)) {
                    *open = None;
                }
                outcome
            }
            (Self::Machine { open }, BusOp::Machine(questions)) => {
                let facts = questions.iter().map(|question| match question {
                    Question::File { path, max } => read_file(open, path, *max),
                    Question::DiskSpace { path } => disk_space(path),
                    Question::Uptime => Ok(Fact::Uptime(clock::uptime())),
                });
                Ok(BusReply::Machine(facts.collect()))
            }
            // Not this bus's kind of transfer: the gateway is mistaken, not the device.
            _ => Err(BusError::Failed(Errno::EINVAL as i32)),
        }
    }
}

fn open_adapter(number: u8, timeout: Duration) -> Result<I2c, BusError> {
    // `with_bus` works on every machine; `I2c::new` wants to know the board.
    let adapter = I2c::with_bus(number).map_err(|error| match i2c_error(&error) {
        BusError::NoAnswer => BusError::Unavailable(Errno::ENOENT as i32),
        BusError::Failed(errno) => BusError::Unavailable(errno),
        other => other,
    })?;
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = adapter.set_timeout(millis) {
        log::debug!("I2C_TIMEOUT is not understood bus=i2c-{number} error={error}");
    }
    Ok(adapter)
}

fn transfer_i2c(
    adapter: &mut I2c,
    selected: &mut Option<u8>,
    address: u8,
    write: &[u8],
    read: u16,
) -> BusOutcome {
    if *selected != Some(address) {
        *selected = None;
        adapter
            .set_slave_address(u16::from(address))
            .map_err(|error| i2c_error(&error))?;
        *selected = Some(address);
    }
    let read = usize::from(read.min(I2C_READ_MAX));
    let mut bytes = Bytes::from_elem(0, read);
    let whole = if read == 0 {
        adapter.write(write).map(|count| count == write.len())
    } else if write.is_empty() {
        adapter.read(&mut bytes).map(|count| count == read)
    } else {
        adapter.write_read(write, &mut bytes).map(|()| true)
    };
    match whole {
        Ok(true) => Ok(BusReply::Bytes(bytes)),
        Ok(false) => Err(BusError::Failed(Errno::EIO as i32)),
        Err(error) => Err(i2c_error(&error)),
    }
}

fn i2c_error(error: &rppal::i2c::Error) -> BusError {
    match error {
        rppal::i2c::Error::Io(error) => bus_error(Errno::from_raw(errno(error))),
        rppal::i2c::Error::InvalidSlaveAddress(_) => BusError::Failed(Errno::EINVAL as i32),
        _ => BusError::Failed(Errno::EOPNOTSUPP as i32),
    }
}

fn bus_error(errno: Errno) -> BusError {
    match errno {
        // i2c-dev's words for a missing acknowledgement, by adapter driver; and a file that is not
        // there.
        Errno::ENXIO | Errno::EREMOTEIO | Errno::ENOENT => BusError::NoAnswer,
        Errno::ETIMEDOUT | Errno::EAGAIN => BusError::Timeout,
        Errno::ENODEV | Errno::EACCES | Errno::EPERM => BusError::Unavailable(errno as i32),
        _ => BusError::Failed(errno as i32),
    }
}

/// The error number; `EIO` for the errors that the standard library makes up itself.
fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}

fn read_file(open: &mut Vec<(Box<str>, File)>, path: &str, max: u32) -> Result<Fact, BusError> {
    let place = open.iter().position(|(name, _)| **name == *path);
    let file = match place {
        Some(place) => open.remove(place).1,
        None => File::open(path).map_err(|error| file_error(&error))?,
    };
    let outcome = read_from_start(&file, max);
    // A file that answered is kept, for the kernel makes its text anew for every read from the
    // start. Others are not: an ordinary file may have been replaced by another of its name, and
    // one that failed may be a device that is gone.
    let is_virtual = path.starts_with("/proc/") || path.starts_with("/sys/");
    if outcome.is_ok() && is_virtual {
        if open.len() == OPEN_FILES_MAX {
            open.remove(0);
        }
        open.push((path.into(), file));
    } else if place.is_some() {
        // It was open from before: perhaps only this descriptor has gone stale (a sensor unplugged
        // and back).
        drop(file);
        return File::open(path)
            .map_err(|error| file_error(&error))
            .and_then(|file| read_from_start(&file, max));
    }
    outcome
}

fn read_from_start(file: &File, max: u32) -> Result<Fact, BusError> {
    /// A shorter first read of a file that the kernel makes up was all of it.
    const WHOLE_BELOW: usize = 2048;

    let mut bytes = Bytes::new();
    let mut chunk = [0; 4096];
    while bytes.len() < max as usize {
        let room = (max as usize - bytes.len()).min(chunk.len());
        match file.read_at(&mut chunk[..room], bytes.len() as u64) {
            Ok(0) => break,
            Ok(count) => {
                bytes.extend_from_slice(&chunk[..count]);
                if count < room && bytes.len() < WHOLE_BELOW {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(file_error(&error)),
        }
    }
    Ok(Fact::File(bytes))
}

fn file_error(error: &io::Error) -> BusError {
    bus_error(Errno::from_raw(errno(error)))
}

fn disk_space(path: &str) -> Result<Fact, BusError> {
    let space = statvfs(path).map_err(bus_error)?;
    // `fsblkcnt_t` and `c_ulong` have 32 bits on some of our targets.
    #[expect(clippy::useless_conversion, reason = "they differ by target")]
    let [unit, total, available] = [
        u64::from(space.fragment_size()),
        u64::from(space.blocks()),
        u64::from(space.blocks_available()),
    ];
    Ok(Fact::DiskSpace {
        total: total.saturating_mul(unit),
        available: available.saturating_mul(unit),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::slab::Key;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn ask(device: &mut Device, question: Question) -> Result<Fact, BusError> {
        let op = BusOp::Machine([question].into());
        let Ok(BusReply::Machine(facts)) = device.transfer(&op) else {
            panic!("the machine does not answer");
        };
        let [fact] = facts.try_into().expect("one question has one answer");
        fact
    }

    fn read(device: &mut Device, path: &str, max: u32) -> Result<Fact, BusError> {
        let path = path.into();
        ask(device, Question::File { path, max })
    }

    fn disk(path: &str) -> Question {
        Question::DiskSpace { path: path.into() }
    }

    fn disk_op() -> BusOp {
        BusOp::Machine([disk("/")].into())
    }

    #[test]
    fn the_machines_own_files_are_read_again_and_again() {
        let mut device = Device::new(&BusSettings::Machine);
        for _ in 0..2 {
            let Ok(Fact::File(bytes)) = read(&mut device, "/proc/loadavg", 100) else {
                panic!("/proc/loadavg cannot be read");
            };
            assert!(bytes.ends_with(b"\n"), "{bytes:?}");
        }
        let Device::Machine { open } = &device else {
            unreachable!()
        };
        assert_eq!(open.len(), 1, "it is kept open");
        let Ok(Fact::File(bytes)) = read(&mut device, "/proc/meminfo", 10) else {
            panic!("/proc/meminfo cannot be read");
        };
        assert_eq!(bytes.len(), 10, "more than was asked for is cut off");
        let Ok(Fact::File(bytes)) = read(&mut device, "/proc/meminfo", 65_536) else {
            panic!("/proc/meminfo cannot be read");
        };
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.contains("MemAvailable"), "{text}");
    }

    #[test]
    fn what_is_not_there_does_not_answer() {
        let mut device = Device::new(&BusSettings::Machine);
        assert_eq!(
            read(&mut device, "/no/such/file", 10),
            Err(BusError::NoAnswer)
        );
        assert_eq!(ask(&mut device, disk("/no/such")), Err(BusError::NoAnswer));
        let Ok(Fact::DiskSpace { total, available }) = ask(&mut device, disk("/")) else {
            panic!("the root file system has no size");
        };
        assert!(available <= total && total > 0);
    }

    #[test]
    fn the_machine_has_been_up_for_as_long_as_the_kernel_says() {
        let mut device = Device::new(&BusSettings::Machine);
        let Ok(Fact::File(text)) = read(&mut device, "/proc/uptime", 100) else {
            panic!("/proc/uptime cannot be read");
        };
        let text = String::from_utf8(text.to_vec()).unwrap();
        let said: f64 = text.split(' ').next().unwrap().parse().unwrap();
        let Ok(Fact::Uptime(since)) = ask(&mut device, Question::Uptime) else {
            panic!("the machine has no uptime");
        };
        // Its hundredths are cut off, and it was asked first.
        assert!(since.as_nanos() as f64 / 1e9 >= said, "{since:?}, {text}");
    }

    #[test]
    fn an_adapter_that_is_not_there_is_unavailable() {
        let mut device = Device::new(&BusSettings::I2c {
            number: 250,
            transfer_timeout: Duration::from_millis(50),
        });
        let op = BusOp::I2c {
            address: 0x48,
            write: Bytes::new(),
            read: 2,
        };
        assert!(matches!(
            device.transfer(&op),
            Err(BusError::Unavailable(_))
        ));
        assert!(matches!(
            device.transfer(&disk_op()),
            Err(BusError::Failed(_))
        ));
    }

    #[test]
    fn a_stuck_worker_is_answered_for_and_counted_until_it_answers() {
        let poll = mio::Poll::new().unwrap();
        let mailbox = Mailbox::new(poll.registry()).unwrap();
        let mut timers = Timers::default();
        let mut buses = Buses::new(mailbox);
        let bus = BusId::from_parts(0, 0);
        buses.open(bus, BusSettings::Machine);
        let (answer, gate) = channel::<()>();
        let stuck = Worker::start("test", BUS_QUEUE_MAX, move |_| {
            let _ = gate.recv();
        })
        .unwrap();
        buses.table.get_mut(bus).unwrap().worker = Some(stuck);

        let now = clock::monotonic();
        let request = RequestId(1);
        assert_eq!(
            buses.submit(&mut timers, bus, request, disk_op(), now),
            None
        );
        buses.hand_over(&mut timers, |request, _| panic!("{request} is refused"));
        assert_eq!(timers.pop_due(now), Some(TimerKey::Bus(request)));
        assert_eq!(
            buses.expired(request),
            Some((request, Err(BusError::Timeout)))
        );
        assert_eq!(buses.expired(request), None, "answered once");
        assert_eq!(buses.health().stuck, 1);

        drop(answer);
        let late = Answer {
            bus,
            request,
            outcome: Err(BusError::NoAnswer),
        };
        assert_eq!(buses.answered(&mut timers, late), None);
        let healed = Health {
            expired: 1,
            late: 1,
            stuck: 0,
        };
        assert_eq!(buses.health(), healed);
    }

    #[test]
    fn what_one_turn_asks_comes_back_through_the_mailbox_with_one_wake_up() {
        let mut poll = mio::Poll::new().unwrap();
        let mailbox = Mailbox::new(poll.registry()).unwrap();
        let mut timers = Timers::default();
        let mut buses = Buses::new(mailbox.clone());
        let bus = BusId::from_parts(0, 0);
        let deadline = clock::monotonic() + PATIENCE;
        assert!(
            buses
                .submit(&mut timers, bus, RequestId(1), disk_op(), deadline)
                .is_some(),
            "a bus that was never opened"
        );
        buses.open(bus, BusSettings::Machine);
        let requests = [RequestId(2), RequestId(3), RequestId(4)];
        for request in requests {
            assert_eq!(
                buses.submit(&mut timers, bus, request, disk_op(), deadline),
                None
            );
        }
        buses.hand_over(&mut timers, |request, _| panic!("{request} is refused"));
        let mut events = mio::Events::with_capacity(1);
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        let mut answers = Vec::new();
        mailbox.take(&mut answers);
        let mut answered = Vec::new();
        for answer in answers {
            let worker::Answer::Bus(answer) = answer else {
                panic!("{answer:?}");
            };
            let (request, outcome) = buses.answered(&mut timers, answer).unwrap();
            assert!(matches!(outcome, Ok(BusReply::Machine(_))), "{outcome:?}");
            answered.push(request);
        }
        assert_eq!(answered, requests);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn what_a_worker_does_not_take_is_answered_and_no_longer_owed() {
        let poll = mio::Poll::new().unwrap();
        let mut timers = Timers::default();
        let mut buses = Buses::new(Mailbox::new(poll.registry()).unwrap());
        let bus = BusId::from_parts(0, 0);
        buses.open(bus, BusSettings::Machine);
        let (worker, queue) = std::sync::mpsc::sync_channel(1);
        drop(queue);
        buses.table.get_mut(bus).unwrap().worker = Some(Worker::over(worker));
        let deadline = clock::monotonic() + PATIENCE;
        for request in [RequestId(1), RequestId(2)] {
            let refused = buses.submit(&mut timers, bus, request, disk_op(), deadline);
            assert_eq!(refused, None);
        }
        let mut refused = Vec::new();
        buses.hand_over(&mut timers, |request, outcome| {
            assert!(matches!(outcome, Err(BusError::Unavailable(_))));
            refused.push(request);
        });
        assert_eq!(refused, [RequestId(1), RequestId(2)]);
        assert_eq!(timers.next(), None);
        assert_eq!(buses.expired(RequestId(1)), None, "nothing is owed");
        // The next turn has a new worker.
        let refused = buses.submit(&mut timers, bus, RequestId(3), disk_op(), deadline);
        assert_eq!(refused, None);
        buses.hand_over(&mut timers, |request, _| panic!("{request} is refused"));
    }
}
