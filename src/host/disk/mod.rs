//! The disk that the journal is on: two workers, and what the loop is owed by them.
//!
//! Linux offers no readiness for `fdatasync` and for reading files. One thread opens, makes,
//! commits, sets aside and removes, in the order of the commands; another reads, so that a fetch
//! does not wait for a sync. Neither exists before the first command.
//!
//! A worker that has given no sign of life for as long as its request may take is stuck: that is
//! counted (a health fault), its request is answered with [`DiskError::Timeout`], and the loop goes
//! on. What was given up before it was begun is never begun; what a late answer says is dropped and
//! counted. The journal knows that nobody can tell what of it is on the disk.

mod folder;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use self::folder::{Lock, Opened, Segments};
use super::timer::{TimerKey, Timers};
use super::worker::{self, Health, Mailbox, Refused, Worker};
use crate::buffer::Payload;
use crate::journal::disk::{BatchId, DiskCommand, DiskError, DiskEvent, ReadId, Slot};
use crate::time::{Duration, Instant};

pub use self::folder::{Folder, read_up_to, slot_of};

/// Commands that a worker has at once. Others wait in the loop; how many there are is bounded by
/// what the journal has under way.
const QUEUE_MAX: usize = 16;

/// How long a worker may be silent over one command that moves no bytes. SD cards have been seen to
/// tidy up for seconds, disks to start for ten.
const PATIENCE: Duration = Duration::from_secs(20);

/// And a second more for so many bytes: a slow card writes them in that.
const BYTES_PER_SECOND: u64 = 1 << 20;

/// Which worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// All but reading.
    Write,
    /// Reading.
    Read,
}

/// The journal's disk, as the loop sees it.
#[derive(Debug)]
pub(super) struct Disk {
    mailbox: Mailbox,
    /// `None`: there is none, and every command is refused.
    data_dir: Option<PathBuf>,
    writer: Lane,
    reader: Lane,
    /// From the first [`DiskCommand::Open`] that succeeded to the end.
    lock: Option<Lock>,
    /// The number of the last command.
    last: u64,
    health: Health,
}

/// One worker, and what it owes.
#[derive(Debug)]
struct Lane {
    side: Side,
    /// Started with the first command, again if it is gone.
    worker: Option<Worker<Job>>,
    /// Not handed over yet.
    waiting: VecDeque<Job>,
    /// Handed over, and not answered, in time or late.
    handed: usize,
    /// Without an answer, in order.
    owed: VecDeque<Owed>,
    /// Up to this number nobody waits any more. Shared with the worker.
    given_up: Arc<AtomicU64>,
    /// Up to this number it was a worker's that is gone.
    lost: u64,
    /// Its last sign of life.
    seen: Instant,
    is_stuck: bool,
}

/// What a worker is asked.
#[derive(Debug)]
struct Job {
    request: u64,
    command: DiskCommand,
    /// For `Open`: we have the lock.
    is_locked: bool,
}

/// Who waits for it, since when, and how long.
#[derive(Debug)]
struct Owed {
    request: u64,
    expected: Expected,
    asked: Instant,
    patience: Duration,
}

/// What it answers to.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Opened,
    Made(Slot),
    Synced(BatchId),
    Read(ReadId),
    Nothing,
}

/// What a worker answers: to each command one, also where the journal expects none.
#[derive(Debug)]
pub(super) struct Answer {
    side: Side,
    request: u64,
    done: Done,
}

#[derive(Debug)]
enum Done {
    Opened(Result<Opened, DiskError>),
    Made(Slot, Result<(), DiskError>),
    Synced(BatchId, Result<(), DiskError>, Vec<u8>),
    Read(ReadId, Result<Vec<u8>, DiskError>),
    /// Of what is not answered, and of what was given up before it was begun.
    Nothing,
}

impl Disk {
    pub(super) fn new(mailbox: Mailbox, data_dir: Option<PathBuf>) -> Self {
        Self {
            mailbox,
            data_dir,
            writer: Lane::new(Side::Write),
            reader: Lane::new(Side::Read),
            lock: None,
            last: 0,
            health: Health::default(),
        }
    }

    /// Takes a command. `tell` hears of what can be answered at once, for it cannot be done.
    pub(super) fn submit(
        &mut self,
        timers: &mut Timers,
        now: Instant,
        command: DiskCommand,
        mut tell: impl FnMut(DiskEvent),
    ) {
        let Some(data_dir) = &self.data_dir else {
            let error = DiskError::Failed(Errno::ENOENT as i32, "there is no data_dir".into());
            if let Some(event) = expected_of(&command).failed(error, bytes_of(command)) {
                tell(event);
            }
            return;
        };
        let lane = match command {
            DiskCommand::Read { .. } => &mut self.reader,
            _ => &mut self.writer,
        };
        self.last += 1;
        lane.owed.push_back(Owed {
            request: self.last,
            expected: expected_of(&command),
            asked: now,
            patience: patience_for(&command),
        });
        lane.waiting.push_back(Job {
            request: self.last,
            command,
            is_locked: self.lock.is_some(),
        });
        lane.hand_over(data_dir, &self.mailbox, &mut tell);
        lane.arm(timers);
    }

    /// A worker has answered. `tell` hears of it if the journal still waits for it.
    pub(super) fn answered(
        &mut self,
        timers: &mut Timers,
        now: Instant,
        answer: Answer,
        mut tell: impl FnMut(DiskEvent),
    ) {
        let lane = match answer.side {
            Side::Write => &mut self.writer,
            Side::Read => &mut self.reader,
        };
        if answer.request <= lane.lost {
            self.health.late += 1;
            return;
        }
        lane.seen = now;
        lane.handed -= 1;
        if std::mem::take(&mut lane.is_stuck) {
            self.health.stuck -= 1;
            log::info!("the journal's disk answers again: {}", lane.name());
        }
        let event = match answer.done {
            Done::Opened(outcome) => Some(DiskEvent::Opened(outcome.map(|opened| {
                // Also if it comes late: the folder is ours, and we must not be in our own way.
                self.lock = opened.lock.or(self.lock.take());
                opened.found
            }))),
            Done::Made(slot, outcome) => Some(DiskEvent::Made { slot, outcome }),
            Done::Synced(batch, outcome, bytes) => Some(DiskEvent::Synced {
                batch,
                outcome,
                bytes,
            }),
            Done::Read(read, outcome) => Some(DiskEvent::Read {
                read,
                outcome: outcome.map(Payload::from),
            }),
            Done::Nothing => None,
        };
        if lane
            .owed
            .front()
            .is_some_and(|owed| owed.request == answer.request)
        {
            lane.owed.pop_front();
            event.into_iter().for_each(&mut tell);
        } else {
            self.health.late += 1;
        }
        if let Some(data_dir) = &self.data_dir {
            lane.hand_over(data_dir, &self.mailbox, &mut tell);
        }
        lane.arm(timers);
    }

    /// A worker has been silent for too long. What it owes is answered, as far as it is due.
    pub(super) fn expired(
        &mut self,
        timers: &mut Timers,
        now: Instant,
        side: Side,
        mut tell: impl FnMut(DiskEvent),
    ) {
        let lane = match side {
            Side::Write => &mut self.writer,
            Side::Read => &mut self.reader,
        };
        while let Some(owed) = lane.owed.front()
            && owed.due(lane.seen) <= now
        {
            let (request, expected) = (owed.request, owed.expected);
            lane.owed.pop_front();
            lane.given_up.store(request, Ordering::Release);
            let bytes = lane.take_back(request);
            self.health.expired += 1;
            if !std::mem::replace(&mut lane.is_stuck, true) {
                self.health.stuck += 1;
                log::warn!(
                    "the journal's disk is silent past its deadline: {}",
                    lane.name()
                );
            }
            if let Some(event) = expected.failed(DiskError::Timeout, bytes) {
                tell(event);
            }
        }
        lane.arm(timers);
    }

    /// Whether something is being written, or waits to be.
    pub(super) fn is_writing(&self) -> bool {
        self.writer.handed > 0 || !self.writer.waiting.is_empty()
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_writing() {
            // Nobody else may have the folder while this process may still write to it.
            std::mem::forget(self.lock.take());
        }
    }
}

impl Lane {
    fn new(side: Side) -> Self {
        Self {
            side,
            worker: None,
            waiting: VecDeque::new(),
            handed: 0,
            owed: VecDeque::new(),
            given_up: Arc::default(),
            lost: 0,
            seen: Instant::default(),
            is_stuck: false,
        }
    }

    /// Of its thread.
    fn name(&self) -> &'static str {
        match self.side {
            Side::Write => "disk-write",
            Side::Read => "disk-read",
        }
    }

    /// Gives the worker what it can take. If there is no worker to be had, all that is owed is
    /// answered so.
    fn hand_over(&mut self, data_dir: &Path, mailbox: &Mailbox, tell: &mut impl FnMut(DiskEvent)) {
        while self.handed < QUEUE_MAX
            && let Some(job) = self.waiting.pop_front()
        {
            let submitted = match &self.worker {
                Some(worker) => worker.submit(job),
                None => match self.start(data_dir, mailbox) {
                    Ok(worker) => self.worker.insert(worker).submit(job),
                    Err(error) => {
                        log::error!("no thread for {}: {error}", self.name());
                        Err(Refused::Gone(job))
                    }
                },
            };
            match submitted {
                Ok(()) => self.handed += 1,
                Err(Refused::Full(job)) => {
                    self.waiting.push_front(job);
                    return;
                }
                Err(Refused::Gone(job)) => {
                    self.waiting.push_front(job);
                    self.fail(tell);
                }
            }
        }
    }

    /// The worker is gone, and with it what it had.
    fn fail(&mut self, tell: &mut impl FnMut(DiskEvent)) {
        self.worker = None;
        self.handed = 0;
        while let Some(owed) = self.owed.pop_front() {
            self.lost = owed.request;
            let bytes = self.take_back(owed.request);
            let error = DiskError::Failed(Errno::EIO as i32, "no thread for the disk".into());
            if let Some(event) = owed.expected.failed(error, bytes) {
                tell(event);
            }
        }
    }

    /// Forgets a command that has not been handed over: the first, if it is that one. Its bytes
    /// come back.
    fn take_back(&mut self, request: u64) -> Option<Vec<u8>> {
        let first = self.waiting.front()?;
        if first.request == request {
            self.waiting
                .pop_front()
                .and_then(|job| bytes_of(job.command))
        } else {
            None
        }
    }

    fn start(&self, data_dir: &Path, mailbox: &Mailbox) -> io::Result<Worker<Job>> {
        let (side, mailbox, given_up) = (self.side, mailbox.clone(), self.given_up.clone());
        let folder = folder::folder_of(data_dir);
        let mut segments = Segments::new(data_dir);
        Worker::start(self.name(), QUEUE_MAX, move |job: Job| {
            let request = job.request;
            let is_given_up = request <= given_up.load(Ordering::Acquire);
            let done = serve(&mut segments, &folder, job, is_given_up);
            mailbox.post(worker::Answer::Disk(Answer {
                side,
                request,
                done,
            }));
        })
    }

    /// Sets the deadline of what is owed first; what is behind it cannot be done earlier.
    fn arm(&self, timers: &mut Timers) {
        let key = TimerKey::Disk(self.side);
        match self.owed.front() {
            Some(owed) => timers.arm(key, owed.due(self.seen)),
            None => timers.disarm(key),
        }
    }
}

impl Owed {
    /// When a worker that was last `seen` then has had its time.
    fn due(&self, seen: Instant) -> Instant {
        self.asked.max(seen) + self.patience
    }
}

impl Expected {
    /// That it was not done; `bytes` are the command's, if they are not with the worker.
    fn failed(self, error: DiskError, bytes: Option<Vec<u8>>) -> Option<DiskEvent> {
        match self {
            Self::Opened => Some(DiskEvent::Opened(Err(error))),
            Self::Made(slot) => Some(DiskEvent::Made {
                slot,
                outcome: Err(error),
            }),
            Self::Synced(batch) => Some(DiskEvent::Synced {
                batch,
                outcome: Err(error),
                bytes: bytes.unwrap_or_default(),
            }),
            Self::Read(read) => Some(DiskEvent::Read {
                read,
                outcome: Err(error),
            }),
            Self::Nothing => None,
        }
    }
}

fn expected_of(command: &DiskCommand) -> Expected {
    match command {
        DiskCommand::Open => Expected::Opened,
        DiskCommand::Make { slot, .. } => Expected::Made(*slot),
        DiskCommand::Commit { batch, .. } => Expected::Synced(*batch),
        DiskCommand::Read { read, .. } => Expected::Read(*read),
        DiskCommand::SetAside { .. } | DiskCommand::Remove { .. } => Expected::Nothing,
    }
}

fn bytes_of(command: DiskCommand) -> Option<Vec<u8>> {
    match command {
        DiskCommand::Commit { bytes, .. } => Some(bytes),
        _ => None,
    }
}

fn patience_for(command: &DiskCommand) -> Duration {
    let bytes = match command {
        DiskCommand::Make { size, .. } => u64::from(*size),
        DiskCommand::Commit { bytes, .. } => bytes.len() as u64,
        DiskCommand::Read { len, .. } => u64::from(*len),
        DiskCommand::Open | DiskCommand::SetAside { .. } | DiskCommand::Remove { .. } => 0,
    };
    PATIENCE + Duration::from_secs(bytes.div_ceil(BYTES_PER_SECOND))
}

/// On the worker's thread.
fn serve(segments: &mut Segments, folder: &Path, job: Job, is_given_up: bool) -> Done {
    match job.command {
        DiskCommand::SetAside { slot } => {
            segments.set_aside(slot);
            Done::Nothing
        }
        DiskCommand::Remove { slot } => {
            segments.remove(slot);
            Done::Nothing
        }
        // The journal may have other plans with that segment by now.
        _ if is_given_up => Done::Nothing,
        DiskCommand::Open => Done::Opened(segments.open(job.is_locked)),
        DiskCommand::Make { slot, size } => Done::Made(slot, segments.make(slot, size)),
        DiskCommand::Commit {
            batch,
            slot,
            offset,
            bytes,
        } => Done::Synced(batch, segments.commit(slot, offset, &bytes), bytes),
        DiskCommand::Read {
            read,
            slot,
            offset,
            len,
        } => Done::Read(read, folder::read(folder, slot, offset, len)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::sync_channel;

    use mio::{Events, Poll};
    use nix::sys::stat::Mode;

    use super::super::clock;
    use super::*;

    const SIZE: u32 = 64 * 1024;
    const LIMIT: Duration = Duration::from_secs(10);

    /// A disk in a folder of its own, with a loop's surroundings.
    struct Bench {
        root: PathBuf,
        poll: Poll,
        mailbox: Mailbox,
        timers: Timers,
        disk: Disk,
        told: Vec<DiskEvent>,
    }

    impl Bench {
        fn new(name: &str) -> Self {
            let name = format!("fieldgate-disk-{name}-{}", std::process::id());
            let root = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&root);
            let poll = Poll::new().unwrap();
            let mailbox = Mailbox::new(poll.registry()).unwrap();
            Self {
                disk: Disk::new(mailbox.clone(), Some(root.clone())),
                timers: Timers::default(),
                told: Vec::new(),
                root,
                poll,
                mailbox,
            }
        }

        fn submit(&mut self, command: DiskCommand) {
            let now = clock::monotonic();
            let told = &mut self.told;
            self.disk
                .submit(&mut self.timers, now, command, |event| told.push(event));
        }

        /// Turns until a worker has answered.
        fn turn(&mut self) {
            self.wait();
            self.take_in();
        }

        fn wait(&mut self) {
            let mut events = Events::with_capacity(1);
            self.poll.poll(&mut events, Some(LIMIT)).unwrap();
            assert!(!events.is_empty(), "nobody answers");
        }

        fn take_in(&mut self) {
            let mut answers = Vec::new();
            self.mailbox.take(&mut answers);
            for answer in answers {
                let worker::Answer::Disk(answer) = answer else {
                    panic!("{answer:?}");
                };
                let (now, told) = (clock::monotonic(), &mut self.told);
                self.disk
                    .answered(&mut self.timers, now, answer, |event| told.push(event));
            }
        }

        fn next(&mut self) -> DiskEvent {
            while self.told.is_empty() {
                self.turn();
            }
            self.told.remove(0)
        }

        fn ask(&mut self, command: DiskCommand) -> DiskEvent {
            self.submit(command);
            self.next()
        }

        /// What is due when so much time has passed in silence.
        fn pass(&mut self, time: Duration) {
            let (now, told) = (clock::monotonic() + time, &mut self.told);
            while let Some(key) = self.timers.pop_due(now) {
                let TimerKey::Disk(side) = key else {
                    panic!("{key:?}");
                };
                self.disk
                    .expired(&mut self.timers, now, side, |event| told.push(event));
            }
        }

        /// A segment that does not open until [`Bench::release`] is called: the writer is stuck
        /// there as it would be on a disk that hangs.
        fn jam(&self, slot: u32) {
            let path = self.segment(slot);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        }

        /// The other end of a jammed segment, which can be opened when the writer is stuck there.
        fn release(&self, slot: u32) {
            fs::File::open(self.segment(slot)).unwrap();
        }

        fn segment(&self, slot: u32) -> PathBuf {
            self.root.join(format!("journal/{slot:08}.seg"))
        }

        fn open(&mut self) {
            assert_eq!(self.ask(DiskCommand::Open), DiskEvent::Opened(Ok(vec![])));
        }

        fn make(&mut self, slot: u32) {
            let slot = Slot(slot);
            let outcome = Ok(());
            let made = self.ask(DiskCommand::Make { slot, size: SIZE });
            assert_eq!(made, DiskEvent::Made { slot, outcome });
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    fn commit(batch: u64, slot: u32, byte: u8) -> DiskCommand {
        DiskCommand::Commit {
            batch: BatchId(batch),
            slot: Slot(slot),
            offset: 4096,
            bytes: vec![byte; 4096],
        }
    }

    fn read(read: u64, slot: u32) -> DiskCommand {
        DiskCommand::Read {
            read: ReadId(read),
            slot: Slot(slot),
            offset: 4096,
            len: 4096,
        }
    }

    fn synced(batch: u64, byte: u8) -> DiskEvent {
        DiskEvent::Synced {
            batch: BatchId(batch),
            outcome: Ok(()),
            bytes: vec![byte; 4096],
        }
    }

    fn was_read(read: u64, byte: u8) -> DiskEvent {
        DiskEvent::Read {
            read: ReadId(read),
            outcome: Ok(vec![byte; 4096].into()),
        }
    }

    fn timed_out(batch: u64, bytes: Vec<u8>) -> DiskEvent {
        DiskEvent::Synced {
            batch: BatchId(batch),
            outcome: Err(DiskError::Timeout),
            bytes,
        }
    }

    #[test]
    fn what_is_asked_is_done_in_order_and_told() {
        let mut bench = Bench::new("order");
        bench.open();
        bench.make(0);
        bench.submit(commit(1, 0, b'a'));
        assert!(bench.disk.is_writing());
        assert_eq!(bench.next(), synced(1, b'a'));
        assert!(!bench.disk.is_writing());
        assert_eq!(bench.ask(read(1, 0)), was_read(1, b'a'));
        bench.submit(DiskCommand::Remove { slot: Slot(0) });
        bench.make(1);
        assert!(!bench.segment(0).exists());
        assert_eq!(bench.timers.next(), None);
        assert_eq!(bench.disk.health(), Health::default());
    }

    #[test]
    fn no_thread_is_there_before_the_first_command_and_none_without_a_folder() {
        let mut bench = Bench::new("nowhere");
        assert!(bench.disk.writer.worker.is_none());
        assert!(!bench.root.exists());
        bench.disk = Disk::new(bench.mailbox.clone(), None);
        bench.submit(DiskCommand::Open);
        let [DiskEvent::Opened(Err(DiskError::Failed(..)))] = bench.told[..] else {
            panic!("{:?}", bench.told);
        };
        bench.submit(commit(1, 0, b'a'));
        let DiskEvent::Synced { bytes, .. } = &bench.told[1] else {
            panic!("{:?}", bench.told);
        };
        assert_eq!(bytes.len(), 4096, "they come back");
        bench.submit(DiskCommand::Remove { slot: Slot(0) });
        assert_eq!(bench.told.len(), 2);
        assert!(bench.disk.writer.worker.is_none());
        assert_eq!(bench.timers.next(), None);
    }

    #[test]
    fn a_stuck_writer_is_answered_for_and_no_fetch_waits_for_it() {
        let mut bench = Bench::new("stuck");
        bench.open();
        bench.make(0);
        assert_eq!(bench.ask(commit(1, 0, b'a')), synced(1, b'a'));
        bench.jam(1);
        bench.submit(commit(2, 1, b'b'));
        // Behind it. Nobody waits for them any more when their turn comes, so they are not begun.
        bench.submit(commit(3, 0, b'c'));
        let slot = Slot(2);
        bench.submit(DiskCommand::Make { slot, size: SIZE });
        assert_eq!(bench.ask(read(1, 0)), was_read(1, b'a'));

        bench.pass(PATIENCE / 2);
        assert_eq!(bench.told, []);
        bench.pass(PATIENCE * 2);
        let outcome = Err(DiskError::Timeout);
        let told = [
            timed_out(2, vec![]),
            timed_out(3, vec![]),
            DiskEvent::Made { slot, outcome },
        ];
        assert_eq!(std::mem::take(&mut bench.told), told);
        let stuck = Health {
            expired: 3,
            late: 0,
            stuck: 1,
        };
        assert_eq!(bench.disk.health(), stuck);
        assert!(bench.disk.is_writing(), "nobody knows when");
        assert_eq!(bench.ask(read(2, 0)), was_read(2, b'a'));

        bench.release(1);
        while bench.disk.is_writing() {
            bench.turn();
        }
        let healed = Health {
            expired: 3,
            late: 3,
            stuck: 0,
        };
        assert_eq!(bench.disk.health(), healed);
        assert_eq!(bench.told, []);
        assert_eq!(bench.ask(read(3, 0)), was_read(3, b'a'));
        assert!(!bench.segment(2).exists());
        assert_eq!(bench.ask(commit(4, 0, b'd')), synced(4, b'd'));
        assert_eq!(bench.timers.next(), None);
    }

    /// A worker that answers is not stuck, however much there is to do.
    #[test]
    fn a_sign_of_life_gives_those_behind_it_their_whole_time() {
        let mut bench = Bench::new("slow");
        bench.open();
        bench.jam(1);
        bench.jam(2);
        bench.submit(commit(1, 1, b'a'));
        bench.submit(commit(2, 2, b'b'));
        bench.release(1);
        let before = clock::monotonic();
        let DiskEvent::Synced { batch, outcome, .. } = bench.next() else {
            panic!("{:?}", bench.told);
        };
        assert_eq!(batch, BatchId(1));
        assert!(matches!(outcome, Err(DiskError::Failed(..))), "{outcome:?}");
        assert!(bench.timers.next().unwrap() >= before + PATIENCE);
        bench.pass(PATIENCE * 2);
        assert_eq!(bench.told, [timed_out(2, vec![])]);
        bench.release(2);
    }

    #[test]
    fn more_than_a_worker_takes_waits_its_turn() {
        let mut bench = Bench::new("many");
        bench.open();
        bench.make(0);
        bench.jam(1);
        bench.submit(commit(1, 1, b'a'));
        let many = 2 + 3 * QUEUE_MAX as u64;
        for batch in 2..many {
            bench.submit(commit(batch, 0, batch as u8));
            bench.submit(read(batch, 0));
        }
        assert!(bench.disk.writer.waiting.len() > QUEUE_MAX);
        bench.release(1);
        let mut batches = Vec::new();
        let mut reads = Vec::new();
        while batches.len() as u64 + 1 < many || reads.len() as u64 + 2 < many {
            match bench.next() {
                DiskEvent::Synced { batch, .. } => batches.push(batch.0),
                DiskEvent::Read { read, .. } => reads.push(read.0),
                other => panic!("{other:?}"),
            }
        }
        assert!(batches.into_iter().eq(1..many));
        assert!(reads.into_iter().eq(2..many));
        assert!(!bench.disk.is_writing());
    }

    #[test]
    fn what_a_worker_that_is_gone_had_is_answered_and_the_next_one_has_a_new_one() {
        let mut bench = Bench::new("gone");
        bench.open();
        bench.make(0);
        let (worker, queue) = sync_channel(QUEUE_MAX);
        bench.disk.writer.worker = Some(Worker::over(worker));
        bench.submit(commit(1, 0, b'a'));
        drop(queue);
        bench.submit(commit(2, 0, b'b'));
        let told = std::mem::take(&mut bench.told).into_iter();
        let lens = told.map(|event| match event {
            DiskEvent::Synced {
                batch,
                outcome: Err(DiskError::Failed(..)),
                bytes,
            } => (batch.0, bytes.len()),
            other => panic!("{other:?}"),
        });
        assert_eq!(
            lens.collect::<Vec<_>>(),
            [(1, 0), (2, 4096)],
            "the first one's bytes are gone too"
        );
        assert_eq!(bench.timers.next(), None);
        assert_eq!(bench.ask(commit(3, 0, b'c')), synced(3, b'c'));
    }

    #[test]
    fn nobody_gets_the_folder_while_something_may_still_be_written() {
        let mut bench = Bench::new("lock");
        bench.open();
        let mut other = Folder::new(&bench.root);
        let locked = DiskEvent::Opened(Err(DiskError::Locked(Some(std::process::id()))));
        assert_eq!(other.perform(DiskCommand::Open), Some(locked.clone()));
        // Nothing is being written: it is free at once.
        bench.disk = Disk::new(bench.mailbox.clone(), Some(bench.root.clone()));
        let opened = Some(DiskEvent::Opened(Ok(vec![])));
        assert_eq!(other.perform(DiskCommand::Open), opened);
        drop(other);

        bench.open();
        bench.jam(0);
        bench.submit(commit(1, 0, b'a'));
        bench.disk = Disk::new(bench.mailbox.clone(), Some(bench.root.clone()));
        let mut other = Folder::new(&bench.root);
        assert_eq!(other.perform(DiskCommand::Open), Some(locked));
        bench.release(0);
    }

    #[test]
    fn a_folder_that_opens_late_is_ours_all_the_same() {
        let mut bench = Bench::new("late");
        bench.submit(DiskCommand::Open);
        bench.wait();
        bench.pass(PATIENCE * 2);
        let late = DiskEvent::Opened(Err(DiskError::Timeout));
        assert_eq!(std::mem::take(&mut bench.told), [late]);
        bench.take_in();
        assert_eq!(bench.disk.health().late, 1);
        assert!(bench.disk.lock.is_some());
        bench.open();
        bench.make(0);
    }
}
