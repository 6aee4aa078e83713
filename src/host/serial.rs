//! Serial ports: opened and closed by errands, read and written by the loop.
//!
//! Opening and configuring a tty may block, and closing one may wait 30 s for a line that nobody
//! drains, so both happen on a thread, with `TCIOFLUSH` before the close. In between the descriptor
//! is non-blocking and in the poll. Bytes are read straight into the gateway's buffer for the port;
//! what waits to be written is bounded.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serialport::{ClearBuffer, SerialPort, TTYPort};

use super::timer::{TimerKey, Timers};
use super::token::{Readiness, Source};
use super::worker::{self, Errands, Mailbox};
use crate::buffer::Payload;
use crate::field::port::{Parity, PortSettings};
use crate::id::PortId;
use crate::point::{Fault, FaultKind};
use crate::slab::{IdTable, Key};
use crate::time::{Duration, Instant};

/// Bytes that may wait to be written to one port: 70 s of a line at 9600 baud. A port that takes
/// nothing for so long is closed.
pub(super) const WRITE_QUEUE_MAX: usize = 64 * 1024;

/// Bytes read of one port in one turn; the others wait in the kernel's buffer for the next.
pub(super) const READ_PER_TURN: usize = 16 * 1024;

/// After this long a port that does not open is given up. The errand may come back later; then it
/// only closes again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// All ports that the field asked for.
#[derive(Debug)]
pub(super) struct Ports {
    mailbox: Mailbox,
    errands: Arc<Errands>,
    table: IdTable<PortId, Port>,
}

#[derive(Debug)]
struct Port {
    /// For the log and for faults.
    path: Box<str>,
    state: State,
    /// On the loop's ready list.
    is_ready: bool,
}

#[derive(Debug)]
enum State {
    Opening,
    Open(OpenPort),
}

#[derive(Debug)]
struct OpenPort {
    tty: TTYPort,
    /// There may be something to read.
    readable: bool,
    /// The last write was taken whole, or the poll has said that there is room again.
    writable: bool,
    /// The poll is asked for room, too. Only while something waits for it: a tty tells of room
    /// whenever bytes have left it, which would wake the loop for every poll of a device.
    wants_room: bool,
    queue: VecDeque<Payload>,
    /// Of the queue's first payload.
    written: usize,
    /// Invariant: the queue's bytes less `written`, at most [`WRITE_QUEUE_MAX`].
    waiting: usize,
}

/// What an errand has opened.
#[derive(Debug)]
pub(super) struct Answer {
    port: PortId,
    outcome: Result<TTYPort, Fault>,
}

/// How reading or writing ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many bytes; more may be there.
    Some(usize),
    /// Nothing for now: the poll will tell.
    Blocked,
    /// The port is gone and has been closed.
    Lost(Fault),
}

impl Ports {
    pub(super) fn new(mailbox: Mailbox, errands: Arc<Errands>) -> Self {
        Self {
            mailbox,
            errands,
            table: IdTable::new(),
        }
    }

    /// Opens a port on a thread. `Some`: it cannot even be tried.
    pub(super) fn open(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        now: Instant,
        port: PortId,
        settings: PortSettings,
    ) -> Option<Fault> {
        self.close(registry, timers, port);
        let path = settings.path.clone();
        let mailbox = self.mailbox.clone();
        let errand = move || {
            let outcome = open(&settings);
            mailbox.post(worker::Answer::Port(Answer { port, outcome }));
        };
        if self.errands.run("tty-open", errand).is_err() {
            return Some(Fault::new(
                FaultKind::Busy,
                format!("{path}: too many devices hang while they are opened or closed"),
            ));
        }
        timers.arm(TimerKey::PortOpen(port), now + OPEN_TIMEOUT);
        self.table.insert(
            port,
            Port {
                path,
                state: State::Opening,
                is_ready: false,
            },
        );
        None
    }

    /// An errand has come back. `Some`: the field still waits for it.
    pub(super) fn opened(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        answer: Answer,
    ) -> Option<(PortId, Result<(), Fault>)> {
        let id = answer.port;
        let Some(port) = self.table.get_mut(id) else {
            if let Ok(tty) = answer.outcome {
                close(&self.errands, tty);
            }
            return None;
        };
        timers.disarm(TimerKey::PortOpen(id));
        let tty = match answer.outcome {
            Ok(tty) => tty,
            Err(fault) => {
                self.table.remove(id);
                return Some((id, Err(fault)));
            }
        };
        let token = Source::Port(id.slot()).token();
        let mut source = SourceFd(&tty.as_raw_fd());
        if let Err(error) = registry.register(&mut source, token, Interest::READABLE) {
            let fault = io_fault(&port.path, "waiting for it", &error);
            self.table.remove(id);
            close(&self.errands, tty);
            return Some((id, Err(fault)));
        }
        port.state = State::Open(OpenPort {
            tty,
            readable: false,
            writable: true,
            wants_room: false,
            queue: VecDeque::new(),
            written: 0,
            waiting: 0,
        });
        Some((id, Ok(())))
    }

    /// A port has not opened in time. `Some`: the field still waits for it.
    pub(super) fn open_expired(&mut self, id: PortId) -> Option<Fault> {
        let port = self.table.remove(id)?;
        Some(Fault::new(
            FaultKind::Timeout,
            format!(
                "{} has not opened for {} s",
                port.path,
                OPEN_TIMEOUT.as_secs()
            ),
        ))
    }

    /// Gives a port up and closes it on a thread. Nothing happens if it is not there.
    pub(super) fn close(&mut self, registry: &Registry, timers: &mut Timers, id: PortId) {
        let Some(port) = self.table.remove(id) else {
            return;
        };
        timers.disarm(TimerKey::PortOpen(id));
        if let State::Open(open) = port.state {
            // A tty that has hung up may have left the poll by itself.
            let _ = registry.deregister(&mut SourceFd(&open.tty.as_raw_fd()));
            close(&self.errands, open.tty);
        }
    }

    /// Whether a port is still being opened.
    pub(super) fn is_opening(&self) -> bool {
        self.table
            .iter()
            .any(|(_, port)| matches!(port.state, State::Opening))
    }

    /// Closes every port, so that the exit does not wait for one that nobody drains.
    pub(super) fn close_all(&mut self, registry: &Registry, timers: &mut Timers) {
        for id in self.table.keys() {
            self.close(registry, timers, id);
        }
    }

    /// Notes an event of the poll. `Some(true)`: put it on the ready list, it was not there.
    pub(super) fn event(&mut self, slot: u32, readiness: Readiness) -> bool {
        let Some(id) = self.table.key_at_slot(slot) else {
            return false;
        };
        let port = self.table.get_mut(id).expect("the key was read just now");
        let State::Open(open) = &mut port.state else {
            return false;
        };
        open.readable |= readiness.readable;
        open.writable |= readiness.writable;
        let is_new = !port.is_ready;
        port.is_ready = true;
        is_new
    }

    /// Puts a port on the ready list itself; see [`Ports::event`].
    pub(super) fn wake(&mut self, id: PortId) -> bool {
        self.table
            .get_mut(id)
            .is_some_and(|port| !std::mem::replace(&mut port.is_ready, true))
    }

    /// Takes a port off the ready list.
    pub(super) fn take_ready(&mut self, slot: u32) -> Option<PortId> {
        let id = self.table.key_at_slot(slot)?;
        self.table.get_mut(id)?.is_ready = false;
        Some(id)
    }

    /// Reads once into `buffer`. An empty buffer is no progress.
    pub(super) fn read(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        id: PortId,
        buffer: &mut [u8],
    ) -> Progress {
        let Some((path, open)) = self.open_port(id) else {
            return Progress::Blocked;
        };
        if !open.readable || buffer.is_empty() {
            return Progress::Blocked;
        }
        let fault = loop {
            match nix::unistd::read(fd(&open.tty), buffer) {
                // A tty has no end; this is how one that was unplugged reads.
                Ok(0) => break Fault::new(FaultKind::Unplugged, format!("{path} has hung up")),
                Ok(count) => return Progress::Some(count),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    open.readable = false;
                    return Progress::Blocked;
                }
                Err(errno) => break io_fault(path, "reading", &errno.into()),
            }
        };
        self.close(registry, timers, id);
        Progress::Lost(fault)
    }

    /// Queues bytes and writes what the port takes.
    pub(super) fn write(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        id: PortId,
        bytes: Payload,
    ) -> Progress {
        let Some((path, open)) = self.open_port(id) else {
            // The field hears, or has heard, that it is closed.
            return Progress::Blocked;
        };
        if open.waiting + bytes.len() > WRITE_QUEUE_MAX {
            let detail = format!("{path} has not taken {} bytes", open.waiting);
            self.close(registry, timers, id);
            return Progress::Lost(Fault::new(FaultKind::Busy, detail));
        }
        if !bytes.is_empty() {
            open.waiting += bytes.len();
            open.queue.push_back(bytes);
        }
        self.flush(registry, timers, id)
    }

    /// Writes what waits, until the port takes no more.
    pub(super) fn flush(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        id: PortId,
    ) -> Progress {
        let Some((path, open)) = self.open_port(id) else {
            return Progress::Blocked;
        };
        let mut total = 0;
        let fault = loop {
            let wants_room = !open.queue.is_empty() && !open.writable;
            if wants_room != open.wants_room
                && let Err(error) = open.ask_for_room(registry, id, wants_room)
            {
                break io_fault(path, "waiting for it", &error);
            }
            let Some(front) = open.queue.front() else {
                return Progress::Some(total);
            };
            if !open.writable {
                return Progress::Blocked;
            }
            match nix::unistd::write(fd(&open.tty), &front[open.written..]) {
                Ok(count) => {
                    total += count;
                    open.waiting -= count;
                    open.written += count;
                    if open.written == front.len() {
                        open.queue.pop_front();
                        open.written = 0;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => open.writable = false,
                Err(errno) => break io_fault(path, "writing", &errno.into()),
            }
        };
        self.close(registry, timers, id);
        Progress::Lost(fault)
    }

    fn open_port(&mut self, id: PortId) -> Option<(&str, &mut OpenPort)> {
        let port = self.table.get_mut(id)?;
        match &mut port.state {
            State::Open(open) => Some((&port.path, open)),
            State::Opening => None,
        }
    }
}

impl OpenPort {
    /// Asks the poll for room, or no longer. If there is room already, the poll says so at once.
    fn ask_for_room(&mut self, registry: &Registry, id: PortId, wanted: bool) -> io::Result<()> {
        let interest = if wanted {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        let token = Source::Port(id.slot()).token();
        registry.reregister(&mut SourceFd(&self.tty.as_raw_fd()), token, interest)?;
        self.wants_room = wanted;
        Ok(())
    }
}

/// Opens a tty and makes it non-blocking again, which serialport undoes. Blocks; called by errands.
fn open(settings: &PortSettings) -> Result<TTYPort, Fault> {
    let builder = serialport::new(&*settings.path, settings.baud)
        .data_bits(match settings.data_bits {
            5 => serialport::DataBits::Five,
            6 => serialport::DataBits::Six,
            7 => serialport::DataBits::Seven,
            _ => serialport::DataBits::Eight,
        })
        .parity(match settings.parity {
            Parity::None => serialport::Parity::None,
            Parity::Even => serialport::Parity::Even,
            Parity::Odd => serialport::Parity::Odd,
        })
        .stop_bits(if settings.stop_bits == 2 {
            serialport::StopBits::Two
        } else {
            serialport::StopBits::One
        });
    let path = &settings.path;
    let tty = TTYPort::open(&builder).map_err(|error| {
        let kind = match error.kind() {
            serialport::ErrorKind::NoDevice => FaultKind::Unplugged,
            serialport::ErrorKind::Io(io::ErrorKind::NotFound) => FaultKind::Unplugged,
            _ => FaultKind::BusError,
        };
        Fault::new(kind, format!("{path}: {error}"))
    })?;
    // What somebody sent before we listened belongs to nobody's conversation.
    tty.clear(ClearBuffer::All)
        .map_err(|error| Fault::new(FaultKind::BusError, format!("{path}: {error}")))?;
    fcntl(fd(&tty), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|errno| io_fault(path, "opening", &errno.into()))?;
    Ok(tty)
}

fn close(errands: &Errands, tty: TTYPort) {
    let errand = move || {
        // Without this, the close waits for the line to take what is queued.
        let _ = tty.clear(ClearBuffer::All);
        drop(tty);
    };
    if let Err(errand) = errands.run("tty-close", errand) {
        // So many devices hang that there is no thread left: this one may as well be the loop's,
        // for it was flushed.
        log::warn!("a serial port is closed on the loop");
        errand();
    }
}

fn fd(tty: &TTYPort) -> BorrowedFd<'_> {
    // SAFETY: the descriptor belongs to `tty`, which closes it when dropped and not before, and the
    // borrow ends first.
    unsafe { BorrowedFd::borrow_raw(tty.as_raw_fd()) }
}

fn io_fault(path: &str, doing: &str, error: &io::Error) -> Fault {
    let kind = match error.raw_os_error().map(Errno::from_raw) {
        // How a tty says that its adapter was pulled.
        Some(Errno::EIO | Errno::ENXIO | Errno::ENODEV) => FaultKind::Unplugged,
        _ => FaultKind::BusError,
    };
    Fault::new(kind, format!("{path}: {doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use mio::{Events, Poll};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Ports with a poll around them, and one pty.
    struct Bench {
        poll: Poll,
        mailbox: Mailbox,
        timers: Timers,
        ports: Ports,
        id: PortId,
    }

    impl Bench {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let mailbox = Mailbox::new(poll.registry()).unwrap();
            let ports = Ports::new(mailbox.clone(), Arc::new(Errands::new(mailbox.clone())));
            Self {
                poll,
                mailbox,
                timers: Timers::default(),
                ports,
                id: PortId::from_parts(0, 0),
            }
        }

        fn start_to_open(&mut self, path: &str) {
            let settings = PortSettings {
                path: path.into(),
                baud: 9600,
                data_bits: 8,
                parity: Parity::None,
                stop_bits: 1,
            };
            let now = super::super::clock::monotonic();
            let refused = self.ports.open(
                self.poll.registry(),
                &mut self.timers,
                now,
                self.id,
                settings,
            );
            assert_eq!(refused, None);
        }

        fn open(&mut self, path: &str) -> Option<(PortId, Result<(), Fault>)> {
            self.start_to_open(path);
            self.answer()
        }

        fn answer(&mut self) -> Option<(PortId, Result<(), Fault>)> {
            let mut answers = Vec::new();
            while answers.is_empty() {
                self.wait();
                self.mailbox.take(&mut answers);
            }
            let Some(worker::Answer::Port(answer)) = answers.pop() else {
                panic!("{answers:?}");
            };
            self.ports
                .opened(self.poll.registry(), &mut self.timers, answer)
        }

        fn wait(&mut self) {
            let mut events = Events::with_capacity(4);
            self.poll.poll(&mut events, Some(PATIENCE)).unwrap();
            assert!(!events.is_empty(), "nothing happens");
            for event in &events {
                if let Some(Source::Port(slot)) = Source::from_token(event.token()) {
                    self.ports.event(slot, event.into());
                    self.ports.take_ready(slot);
                }
            }
        }

        fn read(&mut self) -> Result<Vec<u8>, Fault> {
            let mut all = Vec::new();
            loop {
                let mut buffer = [0; 16];
                match self
                    .ports
                    .read(self.poll.registry(), &mut self.timers, self.id, &mut buffer)
                {
                    Progress::Some(count) => all.extend_from_slice(&buffer[..count]),
                    Progress::Blocked if all.is_empty() => self.wait(),
                    Progress::Blocked => return Ok(all),
                    Progress::Lost(fault) => return Err(fault),
                }
            }
        }

        fn waiting(&mut self) -> usize {
            self.ports.open_port(self.id).unwrap().1.waiting
        }

        fn write(&mut self, bytes: &[u8]) -> Progress {
            let bytes = Payload::copy_from(bytes);
            self.ports
                .write(self.poll.registry(), &mut self.timers, self.id, bytes)
        }
    }

    fn pty() -> (TTYPort, String) {
        let (master, slave) = TTYPort::pair().unwrap();
        let path = slave.name().unwrap();
        // Kept open, the slave would hold the port's lock.
        drop(slave);
        (master, path)
    }

    #[test]
    fn a_port_speaks_both_ways_and_hangs_up() {
        let (mut master, path) = pty();
        let mut bench = Bench::new();
        assert_eq!(bench.open(&path), Some((bench.id, Ok(()))));
        master.write_all(b"level=41.5\n").unwrap();
        assert_eq!(bench.read().unwrap(), b"level=41.5\n");
        assert_eq!(bench.write(b"pump on\n"), Progress::Some(8));
        let mut heard = [0; 8];
        master.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"pump on\n");
        drop(master);
        assert_eq!(bench.read().unwrap_err().kind, FaultKind::Unplugged);
        assert_eq!(bench.write(b"anybody?"), Progress::Blocked, "it is gone");
    }

    #[test]
    fn a_port_that_is_not_there_is_unplugged() {
        let mut bench = Bench::new();
        let Some((_, Err(fault))) = bench.open("/dev/no-such-tty") else {
            panic!("it cannot open");
        };
        assert_eq!(fault.kind, FaultKind::Unplugged);
        assert!(fault.detail.contains("/dev/no-such-tty"), "{fault}");
        assert_eq!(bench.timers.next(), None);
    }

    #[test]
    fn a_port_that_takes_nothing_is_closed_at_its_limit() {
        let (master, path) = pty();
        let mut bench = Bench::new();
        assert_eq!(bench.open(&path), Some((bench.id, Ok(()))));
        let mut sent = 0;
        let fault = loop {
            match bench.write(&[b'x'; 4096]) {
                Progress::Lost(fault) => break fault,
                Progress::Some(_) | Progress::Blocked => sent += 4096,
            }
            assert!(sent < 1_000_000, "the queue has no end");
        };
        assert_eq!(fault.kind, FaultKind::Busy);
        drop(master);
    }

    #[test]
    fn what_a_port_does_not_take_at_once_follows_when_there_is_room() {
        let (mut master, path) = pty();
        let mut bench = Bench::new();
        assert_eq!(bench.open(&path), Some((bench.id, Ok(()))));
        let mut sent = 0;
        while bench.write(&[b'x'; 4096]) != Progress::Blocked {
            sent += 4096;
        }
        sent += 4096;
        let mut heard = vec![0; sent];
        let (first, rest) = heard.split_at_mut(64);
        master.read_exact(first).unwrap();
        let reader = std::thread::scope(|scope| {
            let reader = scope.spawn(|| master.read_exact(rest));
            while bench.waiting() > 0 {
                bench.wait();
                let registry = bench.poll.registry();
                let flushed = bench.ports.flush(registry, &mut bench.timers, bench.id);
                assert!(!matches!(flushed, Progress::Lost(_)), "{flushed:?}");
            }
            reader.join().unwrap()
        });
        reader.unwrap();
        assert!(heard.iter().all(|byte| *byte == b'x'));

        // Nothing waits any more, and the poll no longer tells of room.
        assert_eq!(bench.write(b"poll\n"), Progress::Some(5));
        let mut heard = [0; 5];
        master.read_exact(&mut heard).unwrap();
        master.write_all(b"level=41.5\n").unwrap();
        let mut events = Events::with_capacity(4);
        bench.poll.poll(&mut events, Some(PATIENCE)).unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.is_readable(), event.is_writable()))
            .collect();
        assert_eq!(told, [(true, false)]);
    }

    #[test]
    fn a_port_closed_while_it_opens_never_opens() {
        let (_master, path) = pty();
        let mut bench = Bench::new();
        bench.start_to_open(&path);
        bench
            .ports
            .close(bench.poll.registry(), &mut bench.timers, bench.id);
        assert_eq!(bench.answer(), None);
        assert_eq!(bench.timers.next(), None);
    }
}
