//! The loop: one thread that owns everything and never blocks.
//!
//! A turn has an order, and the durability of acknowledgements rests on it: take in (workers'
//! answers, then sources within their budgets), advance time, let the gateway settle, do what it
//! says, write. A source that has spent its budget stays on the ready list, and while anything is
//! on it the poll does not wait.
//!
//! ```text
//! poll ─ now ─ answers ─ sources ─ time ─ end_turn ─ outputs ─ write ─ watchdog
//! ```

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mio::{Events, Poll};

use super::bus::Buses;
use super::control::{Control, Served};
use super::gpio::{EdgesRead, Lines};
use super::net::{
    ACCEPTS_PER_TURN, Accepted, CONNECTIONS_MAX, Closing, Connection, Lingering, Listener,
    READ_PER_TURN, ReadOutcome, Transport, WRITE_PER_TURN, WriteOutcome,
};
use super::serial::{self, Ports, Progress};
use super::signal::{Asked, Signals};
use super::systemd::Systemd;
use super::timer::{Alarm, TimerKey, Timers};
use super::token::{Readiness, Source};
use super::worker::{Answer, Errands, Mailbox};
use super::{ExitReason, HostError, HostEvent, HostSettings, Loader, Observer, clock};
use crate::buffer::RecvBuffer;
use crate::field::line::{LineCommand, LineEvent};
use crate::field::port::{PortCommand, PortEvent};
use crate::gateway::Gateway;
use crate::gateway::boundary::{
    CloseCause, CloseHow, ControlEvent, Input, JournalCommand, JournalEvent, Notice, Output,
};
use crate::gateway::settings::{Bind, Config};
use crate::id::{ConnId, ControlId, LineId, ListenerId, PortId, RequestId};
use crate::point::Fault;
use crate::slab::{GenSlab, IdTable, Key};
use crate::time::{Duration, Instant, Now};

/// Events taken from the poll in one turn; the others come with the next.
const EVENTS_PER_TURN: usize = 256;

/// How long a listener waits when no descriptor is left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// A clean stop is over after this long, whatever still waits: the promise is 5 s.
const STOP_LIMIT: Duration = Duration::from_millis(4500);

/// How long a stopped gateway waits for its last bytes to be read and its last lines to be set.
const LAST_BYTES: Duration = Duration::from_millis(1500);

/// Reading the configuration takes no longer than this, or is reported as failed.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// Reloads that may wait for one another; more are answered at once.
const LOADS_MAX: usize = 16;

/// What the host has met with since it started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Times that no descriptor was left to accept with.
    pub accepts_exhausted: u64,
    /// Connections closed as they came, for there were too many in all or they could not be polled.
    pub accepts_refused: u64,
    /// Connections now.
    pub connections: usize,
    /// Sockets that linger now.
    pub lingering: usize,
    /// Sockets that stopped lingering because others had to.
    pub linger_cut_short: u64,
    /// Closes that did not write everything in time.
    pub flushes_expired: u64,
    /// Requests that the loop answered because a worker did not.
    pub worker_expired: u64,
    /// Answers of workers that came after that.
    pub worker_late: u64,
    /// Buses and GPIO chips whose worker owes an overdue answer now.
    pub workers_stuck: usize,
    /// Threads that open, close or load something now.
    pub errands: usize,
    /// Control clients turned away.
    pub control_refused: u64,
    /// Control clients closed for a line without an end, or for not reading.
    pub control_overflowed: u64,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Another turn.
    Continue,
    /// No further turn.
    Exit(ExitReason),
}

/// A gateway and everything of Linux that it uses.
pub struct EventLoop {
    gateway: Gateway,
    poll: Poll,
    events: Events,
    /// Of this turn, detached from `events`.
    happened: Vec<(Source, Readiness)>,
    timers: Timers,
    alarm: Alarm,
    mailbox: Mailbox,
    answers: Vec<Answer>,
    errands: Arc<Errands>,
    /// What the host itself has to tell the gateway, in the next turn's beginning. Bounded by the
    /// outputs of one turn.
    inputs: VecDeque<Input>,
    /// Sources that may have more to read. Each once; its own flag says so.
    ready: VecDeque<Source>,
    /// Connections that may have more to write. Each once; its own flag says so.
    writable: VecDeque<ConnId>,
    /// Spare room for a turn's connections to write.
    writing: Vec<ConnId>,
    listeners: IdTable<ListenerId, Listener>,
    connections: GenSlab<ConnId, Connection>,
    lingering: Lingering,
    buses: Buses,
    lines: Lines,
    ports: Ports,
    control: Option<Control>,
    signals: Option<Signals>,
    systemd: Systemd,
    loader: Option<Arc<Loader>>,
    /// Who waits for the configuration; the first one's is being read. At most [`LOADS_MAX`].
    loads: VecDeque<Option<RequestId>>,
    /// Of the reading that is under way: the answer of one that was given up is not taken for the
    /// next.
    load_count: u64,
    on_event: Option<Box<Observer>>,
    stop: Stop,
    /// Fed at the end of this turn, if it finishes.
    watchdog_is_due: bool,
    counters: Counters,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    Asked,
    /// The gateway has done its part; bytes and lines are waited for until then.
    LastBytes(Instant),
    Done(ExitReason),
}

impl EventLoop {
    /// Sets everything up; nothing is opened before the first turn but the control socket.
    ///
    /// # Errors
    /// If the poll or the control socket cannot be set up.
    pub fn new(config: Config, settings: HostSettings) -> Result<Self, HostError> {
        let poll = Poll::new().map_err(system("setting up the poll"))?;
        let registry = poll.registry();
        let mailbox = Mailbox::new(registry).map_err(system("setting up the waker"))?;
        let alarm = Alarm::new(registry).map_err(system("setting up a timer"))?;
        let signals = settings
            .handle_signals
            .then(|| Signals::take_over(registry))
            .transpose()
            .map_err(system("taking over signals"))?;
        let control = settings
            .control
            .map(|control| {
                Control::open(&control, registry).map_err(|error| HostError::Control {
                    path: control.path,
                    error,
                })
            })
            .transpose()?;
        let seed = match settings.seed {
            Some(seed) => seed,
            None => clock::seed().map_err(system("drawing a seed"))?,
        };
        let systemd = Systemd::from_environment();
        let mut timers = Timers::default();
        let now = clock::now();
        if let Some(interval) = systemd.watchdog_interval() {
            timers.arm(TimerKey::Watchdog, now.monotonic + interval);
        }
        let errands = Arc::new(Errands::new(mailbox.clone()));
        Ok(Self {
            gateway: Gateway::new(config, seed, now),
            events: Events::with_capacity(EVENTS_PER_TURN),
            happened: Vec::new(),
            timers,
            alarm,
            answers: Vec::new(),
            inputs: VecDeque::new(),
            ready: VecDeque::new(),
            writable: VecDeque::new(),
            writing: Vec::new(),
            listeners: IdTable::new(),
            connections: GenSlab::new(),
            lingering: Lingering::default(),
            buses: Buses::new(mailbox.clone()),
            lines: Lines::new(mailbox.clone()),
            ports: Ports::new(mailbox.clone(), errands.clone()),
            control,
            signals,
            systemd,
            loader: settings.loader,
            loads: VecDeque::new(),
            load_count: 0,
            on_event: settings.on_event,
            stop: Stop::No,
            watchdog_is_due: false,
            counters: Counters::default(),
            poll,
            mailbox,
            errands,
        })
    }

    /// Turns until it is over. A panic in a turn makes outputs safe as far as the gateway still
    /// can.
    ///
    /// # Errors
    /// If the poll fails, or the loop panicked.
    pub fn run(mut self) -> Result<ExitReason, HostError> {
        loop {
            // The state may be broken after a panic: it is asked once more to stop, and never
            // trusted again.
            match catch_unwind(AssertUnwindSafe(|| self.turn(None))) {
                Ok(Ok(Flow::Continue)) => {}
                Ok(Ok(Flow::Exit(reason))) => return Ok(reason),
                Ok(Err(error)) => return Err(error),
                Err(panic) => {
                    let message = message_of(&*panic);
                    log::error!("internal error, outputs are made safe: {message}");
                    self.make_safe();
                    return Err(HostError::Panicked { message });
                }
            }
        }
    }

    /// One turn, which waits for at most `limit` (`None`: until something happens).
    ///
    /// # Errors
    /// If the poll fails.
    pub fn turn(&mut self, limit: Option<Duration>) -> Result<Flow, HostError> {
        self.wait(limit)?;
        self.counters.turns += 1;
        let now = clock::now();
        self.take_in(now);
        self.serve_sources(now);
        self.advance_time(now);
        self.gateway.end_turn(now);
        self.do_outputs(now);
        self.write_out(now);
        self.feed_watchdog(now);
        Ok(self.flow(now))
    }

    /// Asks for a clean stop, as SIGTERM does; the second time, at once.
    pub fn stop(&mut self) {
        match self.stop {
            Stop::No => {
                self.stop = Stop::Asked;
                self.systemd.stopping();
                let limit = clock::monotonic() + STOP_LIMIT;
                self.timers.arm(TimerKey::StopGuard, limit);
                self.inputs.push_back(Input::Stop);
            }
            Stop::Asked | Stop::LastBytes(_) => self.stop = Stop::Done(ExitReason::Interrupted),
            Stop::Done(_) => {}
        }
    }

    /// Reads the configuration again, as SIGHUP does.
    pub fn reload(&mut self) {
        self.load(None);
    }

    /// What the host has met with.
    pub fn counters(&self) -> Counters {
        let (buses, lines) = (self.buses.health(), self.lines.health());
        let control = self
            .control
            .as_ref()
            .map(Control::health)
            .unwrap_or_default();
        Counters {
            connections: self.connections.len(),
            lingering: self.lingering.len(),
            linger_cut_short: self.lingering.cut_short(),
            worker_expired: self.counters.worker_expired + buses.expired + lines.expired,
            worker_late: buses.late + lines.late,
            workers_stuck: buses.stuck + lines.stuck,
            errands: self.errands.running(),
            control_refused: control.refused,
            control_overflowed: control.overflowed,
            ..self.counters
        }
    }

    // ------------------------------------------------------------------------------------ poll

    fn wait(&mut self, limit: Option<Duration>) -> Result<(), HostError> {
        let now = clock::monotonic();
        // The first turn has the outputs of the gateway's beginning to do.
        let work_is_left = self.counters.turns == 0
            || !self.inputs.is_empty()
            || !self.ready.is_empty()
            || !self.writable.is_empty()
            || matches!(self.stop, Stop::Done(_));
        let timeout = if work_is_left {
            Some(Duration::ZERO)
        } else {
            let next = [
                self.gateway.poll_timeout().map(|(at, _)| at),
                self.timers.next(),
                limit.map(|limit| now + limit),
            ];
            self.alarm.timeout(next.into_iter().flatten().min(), now)
        };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => return Err(system("waiting for events")(error)),
        }
        self.happened.clear();
        for event in &self.events {
            if let Some(source) = Source::from_token(event.token()) {
                self.happened.push((source, Readiness::from(event)));
            }
        }
        Ok(())
    }

    // --------------------------------------------------------------------------------- take in

    /// What the host and its workers have to tell.
    fn take_in(&mut self, now: Now) {
        // A connection that was closed in the last turn is reported before its slot can be given to
        // another.
        while let Some(input) = self.inputs.pop_front() {
            self.gateway.handle_input(now, input);
        }
        let mut answers = std::mem::take(&mut self.answers);
        self.mailbox.take(&mut answers);
        for answer in answers.drain(..) {
            self.handle_answer(now, answer);
        }
        self.answers = answers;
    }

    fn handle_answer(&mut self, now: Now, answer: Answer) {
        let registry = self.poll.registry();
        let input = match answer {
            Answer::Bus(answer) => self
                .buses
                .answered(&mut self.timers, answer)
                .map(|(request, outcome)| Input::Bus { request, outcome }),
            Answer::Line(answer) => self
                .lines
                .answered(registry, &mut self.timers, answer)
                .map(line_input),
            Answer::Port(answer) => {
                self.ports
                    .opened(registry, &mut self.timers, answer)
                    .map(|(port, outcome)| Input::Port {
                        port,
                        event: match outcome {
                            Ok(()) => PortEvent::Opened,
                            Err(fault) => PortEvent::Closed(fault),
                        },
                    })
            }
            Answer::Loaded { count, outcome } => {
                if count == self.load_count {
                    self.loaded(now, outcome);
                }
                None
            }
        };
        if let Some(input) = input {
            self.gateway.handle_input(now, input);
        }
    }

    // --------------------------------------------------------------------------------- sources

    /// Notes what the poll has said, then gives each ready source one budget.
    fn serve_sources(&mut self, now: Now) {
        let happened = std::mem::take(&mut self.happened);
        for &(source, readiness) in &happened {
            self.note(source, readiness);
        }
        self.happened = happened;
        for _ in 0..self.ready.len() {
            let Some(source) = self.ready.pop_front() else {
                break;
            };
            self.serve(now, source);
        }
    }

    fn note(&mut self, source: Source, readiness: Readiness) {
        let is_new = match source {
            // Its answers have been taken in already.
            Source::Waker => false,
            Source::Alarm => {
                self.alarm.fired();
                false
            }
            Source::Signal | Source::ControlListener | Source::Linger(_) => true,
            Source::Listener(slot) => match self.listener_at(slot) {
                Some((_, listener)) => {
                    listener.readable = true;
                    !listener.is_paused && !std::mem::replace(&mut listener.is_ready, true)
                }
                None => false,
            },
            Source::Connection(slot) => self.note_connection(slot, readiness),
            Source::Control(slot) => self
                .control
                .as_mut()
                .is_some_and(|control| control.event(slot, readiness)),
            Source::Line(slot) => self.lines.event(slot, readiness),
            Source::Port(slot) => self.ports.event(slot, readiness),
        };
        if is_new {
            self.ready.push_back(source);
        }
    }

    fn note_connection(&mut self, slot: u32, readiness: Readiness) -> bool {
        let Some(conn) = self.connections.key_at_slot(slot) else {
            return false;
        };
        let Some(connection) = self.connections.get_mut(conn) else {
            return false;
        };
        let was_writable = connection.is_writable();
        connection.note(readiness);
        if connection.is_writable()
            && !was_writable
            && !std::mem::replace(&mut connection.is_ready_to_write, true)
        {
            self.writable.push_back(conn);
        }
        connection.is_readable() && !std::mem::replace(&mut connection.is_ready_to_read, true)
    }

    fn serve(&mut self, now: Now, source: Source) {
        match source {
            Source::Waker | Source::Alarm => {}
            Source::Signal => self.read_signals(),
            Source::ControlListener => self.accept_control(now),
            Source::Listener(slot) => self.accept(now, slot),
            Source::Connection(slot) => {
                if let Some(conn) = self.connections.key_at_slot(slot) {
                    self.read(now, conn);
                }
            }
            Source::Linger(slot) => {
                if self.lingering.discard(&mut self.timers, slot) {
                    self.ready.push_back(source);
                }
            }
            Source::Control(slot) => self.serve_control(now, slot),
            Source::Line(slot) => {
                let gateway = &mut self.gateway;
                let read = self
                    .lines
                    .read_edges(self.poll.registry(), slot, |line, event| {
                        gateway.handle_input(now, Input::Line { line, event });
                    });
                match read {
                    EdgesRead::More => self.ready.push_back(source),
                    EdgesRead::Lost(fault) => log::warn!("line lost: {fault}"),
                    EdgesRead::Drained => {}
                }
            }
            Source::Port(slot) => {
                if let Some(port) = self.ports.take_ready(slot) {
                    self.serve_port(now, port);
                }
            }
        }
    }

    fn read_signals(&mut self) {
        while let Some(asked) = self.signals.as_mut().and_then(Signals::poll) {
            match asked {
                Asked::Stop => {
                    log::info!("told to stop");
                    self.stop();
                }
                Asked::Reload => self.reload(),
            }
        }
    }

    // ------------------------------------------------------------------------------- listeners

    fn listener_at(&mut self, slot: u32) -> Option<(ListenerId, &mut Listener)> {
        let id = self.listeners.key_at_slot(slot)?;
        Some((id, self.listeners.get_mut(id)?))
    }

    fn accept(&mut self, now: Now, slot: u32) {
        let Some((id, listener)) = self.listener_at(slot) else {
            return;
        };
        listener.is_ready = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get_mut(id) else {
                return;
            };
            match listener.accept() {
                Accepted::Peer(stream, peer) => {
                    listener.is_paused = false;
                    let Some(conn) = self.admit(Transport::Plain(stream)) else {
                        continue;
                    };
                    let input = Input::Accepted {
                        conn,
                        listener: id,
                        peer,
                    };
                    self.gateway.handle_input(now, input);
                }
                Accepted::Gone => {}
                Accepted::Nobody => return,
                Accepted::Exhausted(error) => {
                    self.counters.accepts_exhausted += 1;
                    if !std::mem::replace(&mut listener.is_paused, true) {
                        log::error!("cannot accept clients: {error}");
                    }
                    let again = now.monotonic + ACCEPT_AGAIN;
                    self.timers.arm(TimerKey::AcceptAgain(id), again);
                    return;
                }
            }
        }
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.is_ready = true;
            self.ready.push_back(Source::Listener(slot));
        }
    }

    /// Takes a new connection into the tables and the poll.
    fn admit(&mut self, mut transport: Transport) -> Option<ConnId> {
        let conn = self.connections.vacant_key();
        let token = Source::Connection(conn.slot()).token();
        let registered = if self.connections.len() < CONNECTIONS_MAX {
            transport.register(self.poll.registry(), token)
        } else {
            Err(io::Error::other("too many connections"))
        };
        if let Err(error) = registered {
            self.counters.accepts_refused += 1;
            log::warn!("connection refused: {error}");
            return None;
        }
        self.counters.accepted += 1;
        Some(self.connections.insert(Connection::new(transport)))
    }

    fn accept_control(&mut self, now: Now) {
        let Some(control) = &mut self.control else {
            return;
        };
        let gateway = &mut self.gateway;
        let accepted = control.accept(self.poll.registry(), |client, event| {
            gateway.handle_input(now, Input::Control { client, event });
        });
        if let Err(error) = accepted {
            self.counters.accepts_exhausted += 1;
            log::error!("cannot accept control clients: {error}");
            let again = now.monotonic + ACCEPT_AGAIN;
            self.timers.arm(TimerKey::ControlAcceptAgain, again);
        }
    }

    fn serve_control(&mut self, now: Now, slot: u32) {
        let Some(control) = &mut self.control else {
            return;
        };
        let gateway = &mut self.gateway;
        let served = control.serve(&mut self.timers, now.monotonic, slot, |client, event| {
            gateway.handle_input(now, Input::Control { client, event });
        });
        if served == Served::More {
            self.ready.push_back(Source::Control(slot));
        }
    }

    // ----------------------------------------------------------------------------- connections

    /// Reads one connection within its budget.
    fn read(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        connection.is_ready_to_read = false;
        match connection.closing {
            Closing::No => self.read_to_gateway(now, conn),
            Closing::PeerDone => self.close(now, conn, CloseCause::Peer),
            Closing::Flush => self.read_to_nowhere(now, conn),
        }
    }

    fn read_to_gateway(&mut self, now: Now, conn: ConnId) {
        let mut left = READ_PER_TURN;
        loop {
            let Some(connection) = self.connections.get_mut(conn) else {
                return;
            };
            if !connection.is_readable() {
                return;
            }
            if left == 0 {
                connection.is_ready_to_read = true;
                self.ready.push_back(Source::Connection(conn.slot()));
                return;
            }
            // Paused, or a whole frame waits to be parsed: `poll_resumed` says when to go on.
            let buffer = self.gateway.recv_buffer(conn);
            let Some((buffer, room)) = buffer.and_then(with_room) else {
                if let Some(errno) = connection.write_failed() {
                    self.close(now, conn, CloseCause::Failed(errno));
                }
                return;
            };
            let room = room.min(left);
            let outcome = connection.read(&mut buffer.spare()[..room]);
            let count = match outcome {
                ReadOutcome::More(count) | ReadOutcome::Drained(count) => count,
                ReadOutcome::Ended | ReadOutcome::Failed(_) => 0,
            };
            if count > 0 {
                left -= count;
                // The gateway commits what is new.
                self.gateway
                    .handle_input(now, Input::Received { conn, count });
            } else {
                // Room that stayed empty goes back to the pool.
                buffer.commit(0);
            }
            match outcome {
                ReadOutcome::More(_) => {}
                ReadOutcome::Drained(_) => return,
                ReadOutcome::Ended => {
                    self.peer_done(now, conn);
                    return;
                }
                ReadOutcome::Failed(errno) => {
                    self.close(now, conn, CloseCause::Failed(errno));
                    return;
                }
            }
        }
    }

    /// The peer has sent its last byte.
    fn peer_done(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if let Some(errno) = connection.write_failed() {
            self.close(now, conn, CloseCause::Failed(errno));
            return;
        }
        // What its last bytes are answered with is written first: the gateway hears of the end in
        // the next turn.
        connection.closing = Closing::PeerDone;
        connection.is_ready_to_read = true;
        self.ready.push_back(Source::Connection(conn.slot()));
    }

    /// Discards what the peer of a closing connection still says.
    fn read_to_nowhere(&mut self, now: Now, conn: ConnId) {
        let mut scratch = [0; 4096];
        let mut left = READ_PER_TURN;
        while let Some(connection) = self.connections.get_mut(conn) {
            if !connection.is_readable() {
                return;
            }
            if left == 0 {
                connection.is_ready_to_read = true;
                self.ready.push_back(Source::Connection(conn.slot()));
                return;
            }
            match connection.read(&mut scratch) {
                ReadOutcome::More(count) => left = left.saturating_sub(count),
                // It may still read what we have to say.
                ReadOutcome::Drained(_) | ReadOutcome::Ended => return,
                ReadOutcome::Failed(_) => {
                    self.close(now, conn, CloseCause::Ours);
                    return;
                }
            }
        }
    }

    /// The end of a connection: out of the tables, and one `Closed` for the gateway, before its
    /// slot is anybody else's.
    fn close(&mut self, now: Now, conn: ConnId, cause: CloseCause) {
        if self.connections.remove(conn).is_some() {
            self.timers.disarm(TimerKey::Flush(conn));
            self.gateway
                .handle_input(now, Input::Closed { conn, cause });
        }
    }

    /// As [`EventLoop::close`], for when outputs are being done: the gateway hears of it at the
    /// start of the next turn.
    fn close_later(&mut self, conn: ConnId, cause: CloseCause) -> Option<Connection> {
        let connection = self.connections.remove(conn)?;
        self.timers.disarm(TimerKey::Flush(conn));
        self.inputs.push_back(Input::Closed { conn, cause });
        Some(connection)
    }

    // ----------------------------------------------------------------------------------- ports

    fn serve_port(&mut self, now: Now, port: PortId) {
        let registry = self.poll.registry();
        if let Progress::Lost(fault) = self.ports.flush(registry, &mut self.timers, port) {
            self.port_lost(now, port, fault);
            return;
        }
        let mut left = serial::READ_PER_TURN;
        loop {
            let Some(buffer) = self.gateway.port_buffer(port) else {
                return;
            };
            let spare = buffer.spare();
            let room = spare.len().min(left);
            let registry = self.poll.registry();
            let progress = self
                .ports
                .read(registry, &mut self.timers, port, &mut spare[..room]);
            match progress {
                Progress::Some(count) => {
                    left -= count;
                    let event = PortEvent::Received { count };
                    self.gateway.handle_input(now, Input::Port { port, event });
                }
                Progress::Blocked => {
                    buffer.commit(0);
                    return;
                }
                Progress::Lost(fault) => {
                    buffer.commit(0);
                    self.port_lost(now, port, fault);
                    return;
                }
            }
            if left == 0 {
                if self.ports.wake(port) {
                    self.ready.push_back(Source::Port(port.slot()));
                }
                return;
            }
        }
    }

    fn port_lost(&mut self, now: Now, port: PortId, fault: Fault) {
        log::warn!("serial port lost: {fault}");
        let event = PortEvent::Closed(fault);
        self.gateway.handle_input(now, Input::Port { port, event });
    }

    // ------------------------------------------------------------------------------------ time

    fn advance_time(&mut self, now: Now) {
        while let Some(key) = self.timers.pop_due(now.monotonic) {
            self.handle_timer(now, key);
        }
        let due = self.gateway.poll_timeout();
        if due.is_some_and(|(at, _)| at <= now.monotonic) {
            self.gateway.handle_timeout(now);
        }
    }

    fn handle_timer(&mut self, now: Now, key: TimerKey) {
        let registry = self.poll.registry();
        match key {
            TimerKey::Flush(conn) => {
                self.counters.flushes_expired += 1;
                self.close(now, conn, CloseCause::Ours);
            }
            TimerKey::Linger(slot) => self.lingering.close(&mut self.timers, slot),
            TimerKey::AcceptAgain(id) => {
                if let Some(listener) = self.listeners.get_mut(id)
                    && !std::mem::replace(&mut listener.is_ready, true)
                {
                    self.ready.push_back(Source::Listener(id.slot()));
                }
            }
            TimerKey::ControlAcceptAgain => self.ready.push_back(Source::ControlListener),
            TimerKey::ControlHalfClosed(client) => {
                let control = self.control.as_mut();
                if control.is_some_and(|control| control.close(&mut self.timers, client)) {
                    let event = ControlEvent::Closed;
                    self.gateway
                        .handle_input(now, Input::Control { client, event });
                }
            }
            TimerKey::Bus(request) => {
                if let Some((request, outcome)) = self.buses.expired(request) {
                    self.gateway
                        .handle_input(now, Input::Bus { request, outcome });
                }
            }
            TimerKey::LineOp(op) => {
                if let Some(event) = self.lines.expired(registry, op) {
                    self.gateway.handle_input(now, line_input(event));
                }
            }
            TimerKey::PortOpen(port) => {
                if let Some(fault) = self.ports.open_expired(port) {
                    self.counters.worker_expired += 1;
                    self.port_lost(now, port, fault);
                }
            }
            TimerKey::Load => {
                self.counters.worker_expired += 1;
                let outcome = Err("reading the configuration takes too long".into());
                self.loaded(now, outcome);
            }
            TimerKey::Watchdog => self.watchdog_is_due = true,
            TimerKey::StopGuard => {
                log::warn!("a clean stop took too long");
                self.stop = Stop::Done(ExitReason::Stopped);
            }
        }
    }

    // --------------------------------------------------------------------------------- outputs

    fn do_outputs(&mut self, now: Now) {
        while let Some(output) = self.gateway.poll_output() {
            self.do_output(now, output);
        }
        while let Some(conn) = self.gateway.poll_resumed() {
            self.inputs.push_back(Input::Received { conn, count: 0 });
            if let Some(connection) = self.connections.get_mut(conn)
                && connection.is_readable()
                && !std::mem::replace(&mut connection.is_ready_to_read, true)
            {
                self.ready.push_back(Source::Connection(conn.slot()));
            }
        }
    }

    fn do_output(&mut self, now: Now, output: Output) {
        match output {
            Output::Listen { listener, bind } => self.listen(listener, &bind),
            Output::Unlisten { listener } => {
                self.timers.disarm(TimerKey::AcceptAgain(listener));
                self.listeners.remove(listener);
            }
            Output::Close { conn, how } => self.start_to_close(conn, how),
            Output::OpenBus { bus, settings } => self.buses.open(bus, settings),
            Output::CloseBus { bus } => self.buses.close(bus),
            Output::Bus {
                bus,
                request,
                op,
                deadline,
            } => {
                let refused = self
                    .buses
                    .submit(&mut self.timers, bus, request, op, deadline);
                if let Some(outcome) = refused {
                    self.inputs.push_back(Input::Bus { request, outcome });
                }
            }
            Output::Line(command) => self.command_line(now, command),
            Output::Port(command) => self.command_port(now, command),
            Output::Control { client, line } => self.answer_control(client, &line),
            Output::Load { request } => self.load(Some(request)),
            Output::Journal(JournalCommand::Fetch { message }) => {
                // There is no journal yet: everything is in memory.
                let payload = None;
                self.inputs
                    .push_back(Input::Journal(JournalEvent::Fetched { message, payload }));
            }
            Output::Notice(notice) => self.notice(now, &notice),
        }
    }

    fn listen(&mut self, id: ListenerId, bind: &Bind) {
        let token = Source::Listener(id.slot()).token();
        let outcome = match Listener::open(bind, self.poll.registry(), token) {
            Ok((listener, bound)) => {
                self.listeners.insert(id, listener);
                Ok(bound)
            }
            Err(error) => Err(error.to_string().into_boxed_str()),
        };
        self.tell(HostEvent::Listening {
            listener: id,
            outcome: outcome.as_deref().map_err(|text| &**text),
        });
        self.inputs.push_back(Input::Listening {
            listener: id,
            outcome,
        });
    }

    fn start_to_close(&mut self, conn: ConnId, how: CloseHow) {
        match how {
            CloseHow::Now => {
                self.close_later(conn, CloseCause::Ours);
            }
            CloseHow::AfterFlush { deadline } => {
                let Some(connection) = self.connections.get_mut(conn) else {
                    return;
                };
                connection.closing = Closing::Flush;
                self.timers.arm(TimerKey::Flush(conn), deadline);
                // Even if nothing is queued: then it is over as soon as it is looked at.
                if !std::mem::replace(&mut connection.is_ready_to_write, true) {
                    self.writable.push_back(conn);
                }
            }
        }
    }

    fn command_line(&mut self, now: Now, command: LineCommand) {
        let registry = self.poll.registry();
        let answer = self
            .lines
            .command(registry, &mut self.timers, now.monotonic, command);
        self.inputs.extend(answer.map(line_input));
    }

    fn command_port(&mut self, now: Now, command: PortCommand) {
        let registry = self.poll.registry();
        let timers = &mut self.timers;
        let (port, lost) = match command {
            PortCommand::Open { port, settings } => {
                let refused = self
                    .ports
                    .open(registry, timers, now.monotonic, port, settings);
                (port, refused)
            }
            PortCommand::Write { port, bytes } => {
                match self.ports.write(registry, timers, port, bytes) {
                    Progress::Lost(fault) => (port, Some(fault)),
                    Progress::Some(_) | Progress::Blocked => (port, None),
                }
            }
            PortCommand::Close { port } => {
                self.ports.close(registry, timers, port);
                (port, None)
            }
        };
        if let Some(fault) = lost {
            log::warn!("serial port lost: {fault}");
            let event = PortEvent::Closed(fault);
            self.inputs.push_back(Input::Port { port, event });
        }
    }

    fn answer_control(&mut self, client: ControlId, line: &str) {
        if let Some(control) = &mut self.control
            && control.send(client, line)
        {
            self.ready.push_back(Source::Control(client.slot()));
        }
    }

    fn notice(&mut self, now: Now, notice: &Notice) {
        match notice {
            Notice::Ready | Notice::Reloaded => self.systemd.ready(),
            Notice::Reloading => self.systemd.reloading(),
            Notice::Stopped => self.last_bytes(now),
        }
        self.tell(HostEvent::Notice(notice));
    }

    fn tell(&mut self, event: HostEvent<'_>) {
        if let Some(on_event) = &mut self.on_event {
            on_event(event);
        }
    }

    // ---------------------------------------------------------------------------------- reload

    fn load(&mut self, request: Option<RequestId>) {
        let refusal = if self.loader.is_none() {
            "there is no configuration file to read again"
        } else if self.loads.len() >= LOADS_MAX {
            "too many reloads wait for one another"
        } else {
            self.loads.push_back(request);
            if self.loads.len() == 1 {
                self.start_load();
            }
            return;
        };
        let outcome = Err(refusal.into());
        self.inputs.push_back(Input::Loaded { request, outcome });
    }

    fn start_load(&mut self) {
        let Some(loader) = self.loader.clone() else {
            return;
        };
        self.load_count += 1;
        let (count, mailbox) = (self.load_count, self.mailbox.clone());
        let errand = move || {
            let outcome = match loader() {
                Ok(config) => Ok(Box::new(config)),
                Err(errors) => Err(errors.into_boxed_str()),
            };
            mailbox.post(Answer::Loaded { count, outcome });
        };
        // Without a thread for it, the deadline answers.
        let _ = self.errands.run("load", errand);
        let limit = clock::monotonic() + LOAD_LIMIT;
        self.timers.arm(TimerKey::Load, limit);
    }

    fn loaded(&mut self, now: Now, outcome: Result<Box<Config>, Box<str>>) {
        self.timers.disarm(TimerKey::Load);
        // A late answer belongs to nobody from here on.
        self.load_count += 1;
        if let Some(request) = self.loads.pop_front() {
            self.gateway
                .handle_input(now, Input::Loaded { request, outcome });
        }
        if !self.loads.is_empty() {
            self.start_load();
        }
    }

    // ----------------------------------------------------------------------------------- write

    /// One write for each connection that has something to say and room to say it.
    fn write_out(&mut self, now: Now) {
        while let Some(conn) = self.gateway.poll_writable() {
            if let Some(connection) = self.connections.get_mut(conn)
                && !std::mem::replace(&mut connection.is_ready_to_write, true)
            {
                self.writable.push_back(conn);
            }
        }
        let mut writing = std::mem::take(&mut self.writing);
        writing.extend(self.writable.drain(..));
        for conn in writing.drain(..) {
            self.write(now, conn);
        }
        self.writing = writing;
    }

    fn write(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        connection.is_ready_to_write = false;
        if !connection.is_writable() {
            // Its edge brings it back. Nothing is drawn for a socket that cannot take it.
            return;
        }
        let is_closing = connection.closing == Closing::Flush;
        let Some(queue) = self.gateway.fill(now, conn, WRITE_PER_TURN) else {
            if is_closing {
                self.linger(now, conn);
            }
            return;
        };
        match connection.write(queue, WRITE_PER_TURN) {
            WriteOutcome::Taken if !queue.is_empty() || (queue.has_more() && !is_closing) => {
                connection.is_ready_to_write = true;
                self.writable.push_back(conn);
            }
            WriteOutcome::Taken if is_closing => self.linger(now, conn),
            WriteOutcome::Taken | WriteOutcome::Blocked => {}
            WriteOutcome::Failed(_) if is_closing => {
                self.close_later(conn, CloseCause::Ours);
            }
            WriteOutcome::Failed(errno) => {
                // Its last words may lie unread: a DISCONNECT among them means that no will is to
                // be sent.
                connection.fail(errno);
                if !std::mem::replace(&mut connection.is_ready_to_read, true) {
                    self.ready.push_back(Source::Connection(conn.slot()));
                }
            }
        }
    }

    /// Everything is written: the gateway is done with the connection, the socket waits for its
    /// peer.
    fn linger(&mut self, now: Now, conn: ConnId) {
        let transport = self
            .close_later(conn, CloseCause::Ours)
            .and_then(Connection::into_lingering);
        if let Some(transport) = transport {
            let registry = self.poll.registry();
            self.lingering
                .add(registry, &mut self.timers, now.monotonic, transport);
        }
    }

    fn feed_watchdog(&mut self, now: Now) {
        if std::mem::take(&mut self.watchdog_is_due) {
            self.systemd.alive();
            if let Some(interval) = self.systemd.watchdog_interval() {
                self.timers
                    .arm(TimerKey::Watchdog, now.monotonic + interval);
            }
        }
    }

    // ------------------------------------------------------------------------------------ stop

    /// The gateway has done its part of a stop. What is on its way out gets a moment more.
    fn last_bytes(&mut self, now: Now) {
        if matches!(self.stop, Stop::Done(_)) {
            return;
        }
        let until = now.monotonic + LAST_BYTES;
        self.stop = Stop::LastBytes(until);
        self.timers.arm(TimerKey::StopGuard, until);
        self.listeners = IdTable::new();
        self.ports.close_all(self.poll.registry(), &mut self.timers);
    }

    fn flow(&mut self, now: Now) -> Flow {
        if let Stop::LastBytes(until) = self.stop {
            let all_is_said = self.lingering.is_empty()
                && self.inputs.is_empty()
                && !self.lines.is_busy()
                && self.errands.running() == 0
                && self
                    .connections
                    .iter()
                    .all(|(_, connection)| connection.closing != Closing::Flush);
            if all_is_said || now.monotonic >= until {
                self.stop = Stop::Done(ExitReason::Stopped);
            }
        }
        match self.stop {
            Stop::Done(reason) => Flow::Exit(reason),
            Stop::No | Stop::Asked | Stop::LastBytes(_) => Flow::Continue,
        }
    }

    /// After a panic: one more attempt at a clean stop, which is what sets outputs to their safe
    /// state.
    fn make_safe(&mut self) {
        let until = clock::monotonic() + LAST_BYTES;
        if self.stop == Stop::No {
            self.stop();
        }
        while clock::monotonic() < until {
            let limit = Some(until.since(clock::monotonic()));
            match catch_unwind(AssertUnwindSafe(|| self.turn(limit))) {
                Ok(Ok(Flow::Continue)) => {}
                Ok(Ok(Flow::Exit(_)) | Err(_)) => return,
                Err(panic) => {
                    log::error!("outputs may not be safe: {}", message_of(&*panic));
                    return;
                }
            }
        }
    }
}

/// A buffer with the room that it has; `None`: it has none.
fn with_room(buffer: &mut RecvBuffer) -> Option<(&mut RecvBuffer, usize)> {
    let room = buffer.spare().len();
    (room > 0).then_some((buffer, room))
}

fn line_input((line, event): (LineId, LineEvent)) -> Input {
    Input::Line { line, event }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> HostError {
    move |error| HostError::System { what, error }
}

/// What a panic said, as far as it is text.
fn message_of(panic: &(dyn Any + Send)) -> Box<str> {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).into()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.as_str().into()
    } else {
        "a panic without a message".into()
    }
}
