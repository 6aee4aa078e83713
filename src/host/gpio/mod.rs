//! GPIO lines through the kernel's character device.
//!
//! A worker for each chip requests, sets, reads and releases, because a chip behind I2C or USB may
//! sleep in any of these; edges are read on the loop from the request's descriptor, which is
//! non-blocking and in the poll. Stamps and debounce are the kernel's. What becomes of a released
//! line is up to its chip: the header's lines stay as they are.

mod request;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use gpiocdev::line::EdgeKind;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

pub(super) use self::request::HEADER_LABELS;
use self::request::{errno_of, fault_of, level, request, value_of};
use self::watch::ChipWatch;
use super::timer::{TimerKey, Timers};
use super::token::{Readiness, Source};
use super::worker::{self, Health, Mailbox, Refused, Worker};
use crate::field::line::{Chip, LineCommand, LineEvent, LineSettings};
use crate::id::{LineId, RequestId};
use crate::point::{Fault, FaultKind};
use crate::slab::{IdTable, Key};
use crate::time::{Duration, Instant};

/// Operations that may wait for one chip. One more is answered with a fault.
const CHIP_QUEUE_MAX: usize = 256;

/// After this long the loop answers for a chip that does not set or read a line.
const LINE_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for one that does not give a line out, which is more work (the kernel starts a thread
/// for each line with edges), and which all lines of a chip may wait for one after another.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Edges of one line that are handed over in one turn; the others wait in the kernel's buffer for
/// the next.
pub(super) const EDGES_PER_TURN: usize = 64;

/// All lines that the field asked for.
#[derive(Debug)]
pub(super) struct Lines {
    mailbox: Mailbox,
    /// A worker for each chip that has lines, by the name that the configuration uses.
    workers: BTreeMap<Chip, ChipWorker>,
    table: IdTable<LineId, Line>,
    /// Operations without an answer. Bounded by [`CHIP_QUEUE_MAX`] for each chip.
    owed: BTreeMap<u64, Owed>,
    next_op: u64,
    /// From the first line that is ours.
    watch: Option<ChipWatch>,
    health: Health,
}

#[derive(Debug)]
struct ChipWorker {
    worker: Worker<Op>,
    lines: usize,
    /// It owes an overdue answer. It is kept while it does, also without lines: another thread for
    /// the same chip would only hang too.
    is_stuck: bool,
}

#[derive(Debug)]
struct Line {
    chip: Chip,
    state: State,
    /// On the loop's ready list.
    pub is_ready: bool,
}

#[derive(Debug)]
enum State {
    Requested,
    Held(Handle),
}

/// A line that is ours.
#[derive(Debug, Clone)]
struct Handle {
    request: Arc<gpiocdev::Request>,
    offset: u32,
    /// Edges so far, where the kernel does not count them (the first version of its interface).
    counted: Option<u32>,
    has_edges: bool,
}

#[derive(Debug, Clone, Copy)]
struct Owed {
    line: LineId,
    what: OwedWhat,
}

#[derive(Debug, Clone, Copy)]
enum OwedWhat {
    Request,
    Set(RequestId),
    Read,
    /// Whether the line is still there.
    Check,
}

impl OwedWhat {
    const fn timeout(self) -> Duration {
        match self {
            Self::Request => REQUEST_TIMEOUT,
            Self::Set(_) | Self::Read | Self::Check => LINE_TIMEOUT,
        }
    }
}

/// What a chip's worker is asked. The last one to let go of a request gives the line back, which
/// may sleep, so that is a worker's affair too.
#[derive(Debug)]
struct Op {
    number: u64,
    line: LineId,
    what: OpWhat,
}

#[derive(Debug)]
enum OpWhat {
    Request(LineSettings),
    Set(Handle, bool),
    Read(Handle),
    Release(Handle),
}

/// What it answers.
#[derive(Debug)]
pub(super) struct Answer {
    chip: Chip,
    op: u64,
    line: LineId,
    what: AnswerWhat,
}

#[derive(Debug)]
enum AnswerWhat {
    Requested(Result<(Handle, bool), Fault>),
    Level(Result<bool, Fault>),
}

/// How reading edges ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EdgesRead {
    /// Nothing is left.
    Drained,
    /// The budget is spent.
    More,
    /// The chip is gone; the line has been let go.
    Lost(Fault),
}

impl Lines {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            workers: BTreeMap::new(),
            table: IdTable::new(),
            owed: BTreeMap::new(),
            next_op: 0,
            watch: None,
            health: Health::default(),
        }
    }

    /// Does what the field asks. `Some`: it could not be done, and this is the answer.
    pub(super) fn command(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        now: Instant,
        command: LineCommand,
    ) -> Option<(LineId, LineEvent)> {
        match command {
            LineCommand::Request { line, settings } => {
                self.let_go(registry, line);
                let entry = Line {
                    chip: settings.chip.clone(),
                    state: State::Requested,
                    is_ready: false,
                };
                if let Err(fault) = self.hold_worker(&settings.chip) {
                    return Some((line, LineEvent::Lost(fault)));
                }
                self.table.insert(line, entry);
                self.submit(
                    timers,
                    now,
                    line,
                    OwedWhat::Request,
                    OpWhat::Request(settings),
                )
            }
            LineCommand::Set {
                line,
                request,
                active,
            } => {
                let Some(handle) = self.handle(line) else {
                    let outcome = Err(not_held());
                    return Some((line, LineEvent::Set { request, outcome }));
                };
                let what = OpWhat::Set(handle, active);
                self.submit(timers, now, line, OwedWhat::Set(request), what)
            }
            LineCommand::Read { line } => {
                let Some(handle) = self.handle(line) else {
                    return Some((line, LineEvent::Lost(not_held())));
                };
                self.submit(timers, now, line, OwedWhat::Read, OpWhat::Read(handle))
            }
            LineCommand::Release { line } => {
                self.let_go(registry, line);
                None
            }
        }
    }

    /// A worker has answered. `Some`: the field still waits for it.
    pub(super) fn answered(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        answer: Answer,
    ) -> Option<(LineId, LineEvent)> {
        timers.disarm(TimerKey::LineOp(answer.op));
        self.recover(&answer.chip);
        let owed = self.owed.remove(&answer.op);
        let line = answer.line;
        let is_current = owed.is_some() && self.table.contains(line);
        if owed.is_none() {
            self.health.late += 1;
        }
        match (answer.what, owed.map(|owed| owed.what)) {
            (AnswerWhat::Requested(Ok((handle, active))), _) => {
                if !is_current {
                    self.give_back(None, handle);
                    return None;
                }
                if let Err(error) = watch(registry, line, &handle) {
                    let fault = Fault::new(
                        FaultKind::BusError,
                        format!("cannot wait for edges: {error}"),
                    );
                    self.give_back(None, handle);
                    self.forget(line);
                    return Some((line, LineEvent::Lost(fault)));
                }
                if let Some(entry) = self.table.get_mut(line) {
                    entry.state = State::Held(handle);
                }
                self.watch_chips(registry);
                Some((line, LineEvent::Ready { active }))
            }
            (AnswerWhat::Requested(Err(fault)), _) => {
                if !is_current {
                    return None;
                }
                self.forget(line);
                Some((line, LineEvent::Lost(fault)))
            }
            (AnswerWhat::Level(outcome), Some(OwedWhat::Set(request))) => {
                is_current.then_some((line, LineEvent::Set { request, outcome }))
            }
            (AnswerWhat::Level(outcome), Some(OwedWhat::Check)) => {
                let fault = outcome.err()?;
                if !is_current || fault.kind != FaultKind::Unplugged {
                    return None;
                }
                self.let_go(registry, line);
                Some((line, LineEvent::Lost(fault)))
            }
            (AnswerWhat::Level(Ok(active)), Some(_)) => {
                is_current.then_some((line, LineEvent::Level { active }))
            }
            (AnswerWhat::Level(Err(fault)), Some(_)) => {
                if !is_current {
                    return None;
                }
                self.let_go(registry, line);
                Some((line, LineEvent::Lost(fault)))
            }
            (AnswerWhat::Level(_), None) => None,
        }
    }

    /// An operation's deadline has passed. `Some`: it is answered now.
    pub(super) fn expired(&mut self, registry: &Registry, op: u64) -> Option<(LineId, LineEvent)> {
        let owed = self.owed.remove(&op)?;
        self.health.expired += 1;
        let fault = Fault::new(
            FaultKind::Timeout,
            format!(
                "the GPIO chip has not answered for {} s",
                owed.what.timeout().as_secs()
            ),
        );
        let chip = &self.table.get(owed.line)?.chip;
        if let Some(worker) = self.workers.get_mut(chip)
            && !std::mem::replace(&mut worker.is_stuck, true)
        {
            self.health.stuck += 1;
            log::warn!(
                "GPIO chip is silent past its deadline chip={}",
                name_of(chip)
            );
        }
        match owed.what {
            OwedWhat::Set(request) => Some((
                owed.line,
                LineEvent::Set {
                    request,
                    outcome: Err(fault),
                },
            )),
            OwedWhat::Request | OwedWhat::Read => {
                self.let_go(registry, owed.line);
                Some((owed.line, LineEvent::Lost(fault)))
            }
            OwedWhat::Check => None,
        }
    }

    /// Nodes of chips have gone: every line that is ours is asked whether it still has its chip.
    pub(super) fn check_chips(&mut self, timers: &mut Timers, now: Instant) {
        if !self.watch.as_mut().is_some_and(ChipWatch::has_news) {
            return;
        }
        for line in self.table.keys() {
            if let Some(handle) = self.handle(line) {
                // A chip with too much to do to be asked is there.
                let _ = self.submit(timers, now, line, OwedWhat::Check, OpWhat::Read(handle));
            }
        }
    }

    /// The line behind an event of the poll; `true`: put it on the ready list, it was not there.
    pub(super) fn event(&mut self, slot: u32, readiness: Readiness) -> bool {
        let Some(line) = self.table.key_at_slot(slot) else {
            return false;
        };
        let entry = self.table.get_mut(line).expect("the key was read just now");
        let is_new = readiness.readable && !entry.is_ready;
        entry.is_ready |= is_new;
        is_new
    }

    /// Reads edges within the budget, and hands each to `event`.
    pub(super) fn read_edges(
        &mut self,
        registry: &Registry,
        slot: u32,
        mut event: impl FnMut(LineId, LineEvent),
    ) -> EdgesRead {
        let Some(line) = self.table.key_at_slot(slot) else {
            return EdgesRead::Drained;
        };
        let entry = self.table.get_mut(line).expect("the key was read just now");
        entry.is_ready = false;
        let State::Held(handle) = &mut entry.state else {
            return EdgesRead::Drained;
        };
        let outcome = read_edges(handle, |edge| event(line, edge));
        match outcome {
            Ok(true) => EdgesRead::Drained,
            Ok(false) => {
                entry.is_ready = true;
                EdgesRead::More
            }
            Err(error) => {
                let fault = fault_of(&error, "reading edges");
                self.let_go(registry, line);
                event(line, LineEvent::Lost(fault.clone()));
                EdgesRead::Lost(fault)
            }
        }
    }

    /// Whether operations are still without an answer: a clean stop waits for them.
    pub(super) fn is_busy(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Whether a request for a line is still without an answer.
    pub(super) fn is_requesting(&self) -> bool {
        self.owed
            .values()
            .any(|owed| matches!(owed.what, OwedWhat::Request))
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    fn submit(
        &mut self,
        timers: &mut Timers,
        now: Instant,
        line: LineId,
        owed: OwedWhat,
        what: OpWhat,
    ) -> Option<(LineId, LineEvent)> {
        let op = self.next_op;
        self.next_op += 1;
        let chip = self.table.get(line).map(|entry| &entry.chip);
        let worker = chip.and_then(|chip| self.workers.get(chip));
        let refused = match worker {
            None => "its chip has no worker",
            Some(chip) => match chip.worker.submit(Op {
                number: op,
                line,
                what,
            }) {
                Ok(()) => {
                    self.owed.insert(op, Owed { line, what: owed });
                    timers.arm(TimerKey::LineOp(op), now + owed.timeout());
                    return None;
                }
                Err(Refused::Full(_)) => "too many operations wait for its chip",
                Err(Refused::Gone(_)) => "its chip's worker has ended",
            },
        };
        let fault = Fault::new(FaultKind::Busy, refused);
        match owed {
            OwedWhat::Set(request) => Some((
                line,
                LineEvent::Set {
                    request,
                    outcome: Err(fault),
                },
            )),
            OwedWhat::Request | OwedWhat::Read => {
                self.forget(line);
                Some((line, LineEvent::Lost(fault)))
            }
            OwedWhat::Check => None,
        }
    }

    fn watch_chips(&mut self, registry: &Registry) {
        if self.watch.is_some() {
            return;
        }
        match ChipWatch::new(registry, Path::new(watch::FOLDER)) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => {
                log::warn!("a GPIO chip that is unplugged may go unnoticed: {error}");
            }
        }
    }

    fn handle(&self, line: LineId) -> Option<Handle> {
        match &self.table.get(line)?.state {
            State::Held(handle) => Some(handle.clone()),
            State::Requested => None,
        }
    }

    /// Counts a line to its chip's worker, which is started for the first.
    fn hold_worker(&mut self, chip: &Chip) -> Result<(), Fault> {
        if let Some(worker) = self.workers.get_mut(chip) {
            worker.lines += 1;
            return Ok(());
        }
        let (mailbox, served) = (self.mailbox.clone(), chip.clone());
        let serve = move |op| serve(&mailbox, &served, op);
        let worker = Worker::start("gpio", CHIP_QUEUE_MAX, serve)
            .map_err(|error| Fault::new(FaultKind::BusError, format!("no thread: {error}")))?;
        let worker = ChipWorker {
            worker,
            lines: 1,
            is_stuck: false,
        };
        self.workers.insert(chip.clone(), worker);
        Ok(())
    }

    /// A chip has answered something.
    fn recover(&mut self, chip: &Chip) {
        let Some(worker) = self.workers.get_mut(chip) else {
            return;
        };
        if std::mem::take(&mut worker.is_stuck) {
            self.health.stuck -= 1;
            log::info!("GPIO chip answers again chip={}", name_of(chip));
            if worker.lines == 0 {
                self.workers.remove(chip);
            }
        }
    }

    /// Ends the loop's part in a line and hands it back to the kernel through the worker.
    fn let_go(&mut self, registry: &Registry, line: LineId) {
        let handle = self.handle(line);
        if let Some(handle) = handle {
            if handle.has_edges {
                // It was registered; if the kernel has dropped it by itself, so much the better.
                let _ = registry.deregister(&mut SourceFd(&handle.request.as_raw_fd()));
            }
            let chip = self.table.get(line).map(|entry| entry.chip.clone());
            if let Some(entry) = self.table.get_mut(line) {
                entry.state = State::Requested;
            }
            self.give_back(chip.as_ref(), handle);
        }
        self.forget(line);
    }

    /// Lets a worker drop a request: the chip's own, or one for the purpose.
    fn give_back(&mut self, chip: Option<&Chip>, handle: Handle) {
        let op = Op {
            number: 0,
            line: LineId::from_parts(0, 0),
            what: OpWhat::Release(handle),
        };
        let worker = chip.and_then(|chip| self.workers.get(chip));
        let op = match worker.map(|chip| &chip.worker) {
            Some(worker) => match worker.submit(op) {
                Ok(()) => return,
                Err(Refused::Full(op) | Refused::Gone(op)) => op,
            },
            None => op,
        };
        if let Err(error) = worker::spawn("gpio-release", move || drop(op)) {
            log::warn!("a line is given back on the loop: {error}");
        }
    }

    /// Takes a line out of the tables, and its chip's worker with the last one.
    fn forget(&mut self, line: LineId) {
        let Some(entry) = self.table.remove(line) else {
            return;
        };
        if let Some(worker) = self.workers.get_mut(&entry.chip) {
            worker.lines -= 1;
            if worker.lines == 0 && !worker.is_stuck {
                self.workers.remove(&entry.chip);
            }
        }
    }
}

/// Puts the descriptor of a line with edges in the poll.
fn watch(registry: &Registry, line: LineId, handle: &Handle) -> io::Result<()> {
    if !handle.has_edges {
        return Ok(());
    }
    let fd = handle.request.as_raw_fd();
    // The kernel hands the request out blocking, and `read` must never wait here.
    fcntl(
        handle.request.as_ref(),
        FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
    )?;
    let token = Source::Line(line.slot()).token();
    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
}

/// `Ok(true)`: everything that the kernel had was read.
fn read_edges(
    handle: &mut Handle,
    mut event: impl FnMut(LineEvent),
) -> Result<bool, gpiocdev::Error> {
    /// `struct gpio_v2_line_event` has 48 bytes; 16 of them are the kernel's default buffer for a
    /// line.
    const WORDS: usize = 16 * 6;

    let size = handle.request.edge_event_u64_size();
    let mut words = [0_u64; WORDS];
    let mut count = 0;
    while count < EDGES_PER_TURN {
        let room = (WORDS / size).min(EDGES_PER_TURN - count) * size;
        let read = match handle
            .request
            .read_edge_events_into_slice(&mut words[..room])
        {
            Ok(read) => read,
            Err(error) => match errno_of(&error) {
                Some(Errno::EAGAIN) => return Ok(true),
                Some(Errno::EINTR) => continue,
                _ => return Err(error),
            },
        };
        if read < size {
            return Ok(true);
        }
        for words in words[..read].chunks_exact(size) {
            let edge = handle.request.edge_event_from_slice(words)?;
            let line_seqno = match &mut handle.counted {
                Some(counted) => {
                    *counted = counted.wrapping_add(1);
                    *counted
                }
                None => edge.line_seqno,
            };
            event(LineEvent::Edge {
                at: Instant::from_nanos(edge.timestamp_ns),
                active: edge.kind == EdgeKind::Rising,
                line_seqno,
            });
            count += 1;
        }
    }
    Ok(false)
}

fn serve(mailbox: &Mailbox, chip: &Chip, op: Op) {
    let what = match op.what {
        OpWhat::Request(settings) => AnswerWhat::Requested(request(&settings)),
        OpWhat::Set(handle, active) => AnswerWhat::Level(
            handle
                .request
                .set_value(handle.offset, value_of(active))
                .map(|()| active)
                .map_err(|error| fault_of(&error, "setting the line")),
        ),
        OpWhat::Read(handle) => AnswerWhat::Level(level(&handle)),
        OpWhat::Release(handle) => {
            drop(handle);
            return;
        }
    };
    mailbox.post(worker::Answer::Line(Answer {
        chip: chip.clone(),
        op: op.number,
        line: op.line,
        what,
    }));
}

/// What the log calls a chip.
fn name_of(chip: &Chip) -> &str {
    match chip {
        Chip::Header => "header",
        Chip::Label(name) | Chip::Path(name) => name,
    }
}

fn not_held() -> Fault {
    Fault::new(FaultKind::BusError, "the line is not held")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use mio::{Events, Poll};

    use super::*;
    use crate::field::line::{Bias, Direction, Edges, LineRef};

    /// Real edges are the virtual Pi's to make; here are the ways in which there is no line.
    struct Bench {
        poll: Poll,
        mailbox: Mailbox,
        timers: Timers,
        lines: Lines,
        id: LineId,
    }

    impl Bench {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let mailbox = Mailbox::new(poll.registry()).unwrap();
            Self {
                lines: Lines::new(mailbox.clone()),
                poll,
                mailbox,
                timers: Timers::default(),
                id: LineId::from_parts(3, 1),
            }
        }

        fn request(&mut self, chip: Chip, line: LineRef) -> Option<(LineId, LineEvent)> {
            let settings = LineSettings {
                chip,
                line,
                direction: Direction::Input {
                    edges: Edges::Both,
                    debounce: Duration::ZERO,
                    event_buffer: 0,
                },
                active_low: false,
                bias: Bias::AsIs,
            };
            let line = self.id;
            self.command(LineCommand::Request { line, settings })
        }

        fn command(&mut self, command: LineCommand) -> Option<(LineId, LineEvent)> {
            let now = Instant::from_nanos(0);
            self.lines
                .command(self.poll.registry(), &mut self.timers, now, command)
        }

        fn answer(&mut self) -> Option<(LineId, LineEvent)> {
            let mut answers = Vec::new();
            let mut events = Events::with_capacity(1);
            while answers.is_empty() {
                self.poll
                    .poll(&mut events, Some(Duration::from_secs(10)))
                    .unwrap();
                assert!(!events.is_empty(), "no answer");
                self.mailbox.take(&mut answers);
            }
            let Some(worker::Answer::Line(answer)) = answers.pop() else {
                panic!("{answers:?}");
            };
            self.lines
                .answered(self.poll.registry(), &mut self.timers, answer)
        }
    }

    #[test]
    fn a_chip_that_is_not_there_is_named() {
        let mut bench = Bench::new();
        for (chip, named) in [
            (Chip::Label("no-such-chip".into()), "no-such-chip"),
            (Chip::Path("/dev/null".into()), "/dev/null"),
        ] {
            assert_eq!(bench.request(chip, LineRef::Offset(1)), None);
            let Some((line, LineEvent::Lost(fault))) = bench.answer() else {
                panic!("it cannot be ready");
            };
            assert_eq!(line, bench.id);
            assert!(fault.detail.contains(named), "{fault}");
        }
        assert!(bench.lines.workers.is_empty(), "no line, no thread");
        assert_eq!(bench.timers.next(), None);
    }

    #[test]
    fn a_line_that_is_not_held_is_refused_and_not_waited_for() {
        let mut bench = Bench::new();
        let (line, request) = (bench.id, RequestId(1));
        let set = LineCommand::Set {
            line,
            request,
            active: true,
        };
        let Some((_, LineEvent::Set { outcome, .. })) = bench.command(set) else {
            panic!("it is answered");
        };
        assert!(outcome.is_err());
        assert_eq!(bench.command(LineCommand::Release { line }), None);
        assert!(!bench.lines.is_busy());
    }

    #[test]
    fn a_stuck_chip_is_answered_for_and_gets_no_second_thread() {
        let mut bench = Bench::new();
        let chip = Chip::Label("stuck".into());
        let (release, gate) = channel::<()>();
        let worker = ChipWorker {
            worker: Worker::start("test", 8, move |_| {
                let _ = gate.recv();
            })
            .unwrap(),
            lines: 0,
            is_stuck: false,
        };
        bench.lines.workers.insert(chip.clone(), worker);
        for op in 0..2 {
            assert_eq!(bench.request(chip.clone(), LineRef::Offset(1)), None);
            let due = Instant::from_nanos(0) + REQUEST_TIMEOUT;
            assert_eq!(bench.timers.pop_due(due), Some(TimerKey::LineOp(op)));
            let expired = bench.lines.expired(bench.poll.registry(), op);
            let Some((_, LineEvent::Lost(fault))) = expired else {
                panic!("{expired:?}");
            };
            assert_eq!(fault.kind, FaultKind::Timeout);
            assert_eq!(
                (bench.lines.workers.len(), bench.lines.health.stuck),
                (1, 1)
            );
        }
        let late = Answer {
            chip,
            op: 0,
            line: bench.id,
            what: AnswerWhat::Requested(Err(not_held())),
        };
        let registry = bench.poll.registry();
        assert_eq!(
            bench.lines.answered(registry, &mut bench.timers, late),
            None
        );
        let health = Health {
            expired: 2,
            late: 1,
            stuck: 0,
        };
        assert_eq!(bench.lines.health(), health);
        assert!(bench.lines.workers.is_empty());
        drop(release);
    }
}
