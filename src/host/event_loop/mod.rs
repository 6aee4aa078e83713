//! The loop: one thread that owns everything and never blocks.
//!
//! A turn has an order, and the durability of acknowledgements rests on it: take in (workers'
//! answers, then sources within their budgets), advance time, let the gateway settle, do what it
//! says, write. Workers are heard between two sources too, and the disk gets its next batch at
//! once: that decides nothing, for an acknowledgement becomes bytes in `end_turn` alone. A source
//! that has spent its budget stays on the ready list, and while anything is on it the poll does not
//! wait. Listeners are in `doors`, clients' connections in `clients`, upstream brokers in
//! `upstreams`, what the gateway says in `outputs`.
//!
//! ```text
//! poll ─ now ─ answers ─ sources ─ time ─ end_turn ─ outputs ─ write ─ watchdog
//! ```

mod clients;
mod doors;
mod outputs;
mod upstreams;

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use mio::{Events, Poll};

use self::doors::IsNew;
use super::bus::Buses;
use super::control::{Control, Served};
use super::disk::Disk;
use super::gpio::{EdgesRead, Lines};
use super::letters::Letters;
use super::net::{Closing, Connection, Credentials, Lingering, Listener, Proxied};
use super::password::Passwords;
use super::serial::{self, Ports, Progress};
use super::signal::{Asked, Signals};
use super::systemd::Systemd;
use super::timer::{Alarm, TimerKey, Timers};
use super::token::{Readiness, Source};
use super::upstream::Upstreams;
use super::users::Users;
use super::worker::{Answer, Errands, Mailbox};
use super::{ExitReason, HostError, HostSettings, Loader, Observer, clock, footprint};
use crate::field::line::LineEvent;
use crate::field::port::PortEvent;
use crate::gateway::Gateway;
use crate::gateway::boundary::{CloseCause, ControlEvent, HostCounters, Input};
use crate::gateway::settings::{Bind, Config, TransportSettings};
use crate::id::{ConnId, LineId, ListenerId, PortId, RequestId};
use crate::point::Fault;
use crate::slab::{GenSlab, IdTable, Key};
use crate::time::{Duration, Instant, Now};

/// Events taken from the poll in one turn; the others come with the next.
const EVENTS_PER_TURN: usize = 256;

/// How long a listener waits when no descriptor is left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// How often the service manager is told that a start goes on.
const STILL_STARTING: Duration = Duration::from_secs(10);

/// A clean stop is over after this long, whatever still waits: the promise is 5 s.
const STOP_LIMIT: Duration = Duration::from_millis(4500);

/// How long a stopped gateway waits for its last bytes to be read and its last lines to be set.
const LAST_BYTES: Duration = Duration::from_millis(1500);

/// Reading the configuration takes no longer than this, or is reported as failed.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// Reloads that may wait for one another; more are answered at once.
const LOADS_MAX: usize = 16;

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
    /// Listeners that open once their certificates are read.
    locked: Vec<Locked>,
    credentials: Credentials,
    proxied: Proxied,
    users: Users,
    letters: Letters,
    connections: GenSlab<ConnId, Connection>,
    upstreams: Upstreams,
    lingering: Lingering,
    buses: Buses,
    disk: Disk,
    lines: Lines,
    ports: Ports,
    passwords: Passwords,
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
    /// When [`STOP_LIMIT`] is over, once a stop was asked for.
    stop_by: Instant,
    /// When the manager was last told that the start goes on; `None` once it is over.
    is_starting_since: Option<Instant>,
    /// When what only the beginning needed is given up once more.
    settled_at: Option<Instant>,
    /// Why the gateway cannot start.
    failed: Option<Box<str>>,
    /// Fed at the end of this turn, if it finishes.
    watchdog_is_due: bool,
    counters: HostCounters,
}

/// A listener that opens once its certificates are read.
struct Locked {
    listener: ListenerId,
    bind: Bind,
    transport: Rc<TransportSettings>,
    /// The gateway has been told that it cannot open.
    is_told: bool,
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
            locked: Vec::new(),
            credentials: Credentials::new(mailbox.clone(), errands.clone()),
            proxied: Proxied::default(),
            users: Users::new(mailbox.clone(), errands.clone()),
            letters: Letters::new(
                mailbox.clone(),
                errands.clone(),
                settings.data_dir.as_deref(),
            ),
            connections: GenSlab::new(),
            upstreams: Upstreams::new(mailbox.clone(), errands.clone(), settings.dialling),
            lingering: Lingering::default(),
            buses: Buses::new(mailbox.clone()),
            disk: Disk::new(mailbox.clone(), settings.data_dir),
            lines: Lines::new(mailbox.clone()),
            ports: Ports::new(mailbox.clone(), errands.clone()),
            passwords: Passwords::new(mailbox.clone()),
            control,
            signals,
            systemd,
            loader: settings.loader,
            loads: VecDeque::new(),
            load_count: 0,
            on_event: settings.on_event,
            stop: Stop::No,
            stop_by: Instant::FAR_FUTURE,
            is_starting_since: Some(clock::monotonic()),
            settled_at: None,
            failed: None,
            watchdog_is_due: false,
            counters: HostCounters::default(),
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
    /// If the poll fails, or the gateway says that it cannot start.
    pub fn turn(&mut self, limit: Option<Duration>) -> Result<Flow, HostError> {
        self.wait(limit)?;
        self.counters.turns += 1;
        let now = clock::now();
        self.take_in(now);
        self.serve_sources(now);
        self.advance_time(now);
        *self.gateway.host_counters_mut() = self.counters();
        self.gateway.end_turn(now);
        self.do_outputs(now);
        self.write_out(now);
        self.feed_watchdog(now);
        self.ask_for_patience(now);
        if self.settled_at.is_some_and(|at| at <= now.monotonic) {
            self.settled_at = None;
            footprint::forget_start();
        }
        if let Some(why) = self.failed.take() {
            return Err(HostError::Refused { why });
        }
        Ok(self.flow(now))
    }

    /// A long journal takes its time to be read; a turn is a step of that.
    fn ask_for_patience(&mut self, now: Now) {
        let since = self.is_starting_since;
        if since.is_some_and(|since| now.monotonic.since(since) >= STILL_STARTING) {
            self.is_starting_since = Some(now.monotonic);
            self.systemd.starting(3 * STILL_STARTING);
        }
    }

    /// Asks for a clean stop, as SIGTERM does; the second time, at once.
    pub fn stop(&mut self) {
        match self.stop {
            Stop::No => {
                self.stop = Stop::Asked;
                self.systemd.stopping();
                self.stop_by = clock::monotonic() + STOP_LIMIT;
                self.timers.arm(TimerKey::StopGuard, self.stop_by);
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

    /// Whether lines or ports that the gateway has asked for are neither open nor refused yet.
    pub fn is_opening(&self) -> bool {
        self.lines.is_requesting() || self.ports.is_opening()
    }

    /// The gateway, to look at.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// What the host has met with.
    pub fn counters(&self) -> HostCounters {
        let workers = [self.buses.health(), self.lines.health(), self.disk.health()];
        let control = self
            .control
            .as_ref()
            .map(Control::health)
            .unwrap_or_default();
        HostCounters {
            connections: self.connections.len() as u64,
            proxies_refused: self.proxied.refused(),
            credentials_failed: self.credentials.failures(),
            lingering: self.lingering.len() as u64,
            linger_cut_short: self.lingering.cut_short(),
            worker_expired: self.counters.worker_expired
                + workers.iter().map(|health| health.expired).sum::<u64>(),
            worker_late: workers.iter().map(|health| health.late).sum(),
            workers_stuck: workers.iter().map(|health| health.stuck as u64).sum(),
            errands: self.errands.running() as u64,
            control_refused: control.refused,
            control_overflowed: control.overflowed,
            log_lines_lost: super::log::lines_lost(),
            ..self.counters
        }
    }

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

    /// What the host and its workers have to tell.
    fn take_in(&mut self, now: Now) {
        // A connection that was closed in the last turn is reported before its slot can be given to
        // another.
        while let Some(input) = self.inputs.pop_front() {
            self.gateway.handle_input(now, input);
        }
        self.take_answers(now);
    }

    fn take_answers(&mut self, now: Now) {
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
            Answer::Disk(answer) => {
                let gateway = &mut self.gateway;
                self.disk
                    .answered(&mut self.timers, now.monotonic, answer, |event| {
                        gateway.handle_input(now, Input::Disk(event));
                    });
                self.feed_disk(now);
                None
            }
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
            Answer::Credentials { number, outcome } => {
                let settled = self.credentials.answered(&mut self.timers, number, outcome);
                if let Some(settled) = settled {
                    self.credentials_settled(now, settled);
                }
                None
            }
            Answer::Letters { lost } => {
                self.counters.dead_letters_lost += self.letters.written(lost);
                None
            }
            Answer::UserName { uid, name } => {
                self.user_named(now, uid, name);
                None
            }
            Answer::Upstream {
                bridge,
                number,
                outcome,
            } => {
                self.upstream_prepared(now, bridge, number, *outcome);
                None
            }
            Answer::Verified { conn, is_right } => Some(Input::Verified { conn, is_right }),
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
            self.hear_workers(now);
        }
    }

    /// Takes in what workers have done since the turn began. A busy turn takes milliseconds, and
    /// the disk is not to be idle for that long with a batch waiting for it. Whoever has left an
    /// answer wakes the loop as well, so another turn follows, which does what comes of it. What
    /// the host itself has to tell comes first: the slot of a connection that was closed is
    /// nobody's before.
    fn hear_workers(&mut self, now: Now) {
        if self.inputs.is_empty() && self.mailbox.has_answers() {
            self.take_answers(now);
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
            Source::Signal
            | Source::ControlListener
            | Source::Linger(_)
            | Source::Chips
            | Source::Proxied(_)
            | Source::Credentials => true,
            Source::Upstream(slot) => self.upstreams.event(slot, readiness),
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
            Source::Proxied(slot) => {
                if let Some(announced) = self.proxied.look(&mut self.timers, slot) {
                    self.welcome(now, announced, IsNew::No);
                }
            }
            Source::Upstream(slot) => self.serve_upstream(now, slot),
            Source::Credentials => self.credentials.changed(&mut self.timers, now.monotonic),
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
            Source::Chips => self.lines.check_chips(&mut self.timers, now.monotonic),
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
            TimerKey::ProxyHeader(slot) => self.proxied.expired(&mut self.timers, slot),
            TimerKey::Credentials => self.credentials.settled(&mut self.timers),
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
            TimerKey::Disk(side) => {
                let gateway = &mut self.gateway;
                self.disk
                    .expired(&mut self.timers, now.monotonic, side, |event| {
                        gateway.handle_input(now, Input::Disk(event));
                    });
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
            TimerKey::Dial(bridge) => self.dial_expired(now, bridge),
            TimerKey::Load => {
                self.counters.worker_expired += 1;
                let outcome = Err("reading the configuration takes too long".into());
                self.loaded(now, outcome);
            }
            TimerKey::Watchdog => self.watchdog_is_due = true,
            // What is being written to the disk has until the limit of the whole stop.
            TimerKey::StopGuard
                if matches!(self.stop, Stop::LastBytes(_))
                    && self.disk.is_writing()
                    && now.monotonic < self.stop_by =>
            {
                self.timers.arm(TimerKey::StopGuard, self.stop_by);
            }
            TimerKey::StopGuard => {
                log::warn!("a clean stop took too long");
                self.stop = Stop::Done(ExitReason::Stopped);
            }
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

    /// The gateway has done its part of a stop. What is on its way out gets a moment more.
    fn last_bytes(&mut self, now: Now) {
        if matches!(self.stop, Stop::Done(_)) {
            return;
        }
        let until = now.monotonic + LAST_BYTES;
        self.stop = Stop::LastBytes(until);
        self.timers.arm(TimerKey::StopGuard, until);
        self.listeners = IdTable::new();
        self.locked.clear();
        self.upstreams.undial_all(&mut self.timers);
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
            let (is_over, limit) = if self.disk.is_writing() {
                (false, until.max(self.stop_by))
            } else {
                (all_is_said, until)
            };
            if is_over || now.monotonic >= limit {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;

    use super::*;
    use crate::host::disk::Side;
    use crate::journal::disk::{BatchId, DiskCommand, Slot};

    /// Nobody may come, and nothing is wired.
    pub(super) fn bare_config() -> Config {
        Config {
            name: "test".into(),
            base_topic: "test".into(),
            broker: crate::broker::settings::Settings::default(),
            journal: None,
            exempt_addresses: Vec::new(),
            listeners: BTreeMap::new(),
            devices: BTreeMap::new(),
            bridges: BTreeMap::new(),
        }
    }

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A loop whose disk is in the middle of a commit: the segment is a FIFO, which does not open
    /// before somebody opens its other end.
    fn committing(name: &str) -> (EventLoop, Folder, PathBuf) {
        let name = format!("fieldgate-stop-{name}-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        let _ = fs::remove_dir_all(&folder.0);
        fs::create_dir_all(folder.0.join("journal")).unwrap();
        let segment = folder.0.join("journal/00000000.seg");
        nix::unistd::mkfifo(&segment, Mode::S_IRWXU).unwrap();

        let settings = HostSettings {
            data_dir: Some(folder.0.clone()),
            ..HostSettings::default()
        };
        let mut event_loop = EventLoop::new(bare_config(), settings).unwrap();
        let command = DiskCommand::Commit {
            batch: BatchId(1),
            slot: Slot(0),
            offset: 0,
            bytes: vec![0; 4096],
        };
        let (now, timers) = (clock::monotonic(), &mut event_loop.timers);
        let disk = &mut event_loop.disk;
        disk.submit(timers, now, command, |event| panic!("{event:?}"));
        (event_loop, folder, segment)
    }

    /// Turns until it ends, or until its last bytes have had twice their time.
    fn turn_to_the_end(event_loop: &mut EventLoop) -> Option<ExitReason> {
        let limit = clock::monotonic() + 2 * LAST_BYTES;
        while clock::monotonic() < limit {
            let wait = limit.since(clock::monotonic());
            if let Flow::Exit(reason) = event_loop.turn(Some(wait)).unwrap() {
                return Some(reason);
            }
        }
        None
    }

    #[test]
    fn a_stop_waits_for_a_commit_that_is_under_way() {
        let (mut event_loop, _folder, segment) = committing("waits");
        event_loop.stop();
        assert_eq!(turn_to_the_end(&mut event_loop), None);
        fs::File::open(segment).unwrap();
        // The gateway has not asked for it, and is not to hear of it.
        let late = clock::monotonic() + Duration::from_secs(3600);
        let mut told = 0;
        event_loop
            .disk
            .expired(&mut event_loop.timers, late, Side::Write, |_| told += 1);
        assert_eq!((told, event_loop.counters().workers_stuck), (1, 1));
        let end = turn_to_the_end(&mut event_loop);
        assert_eq!(end, Some(ExitReason::Stopped));
        let counters = event_loop.counters();
        assert_eq!((counters.workers_stuck, counters.worker_late), (0, 1));
    }

    #[test]
    fn a_stop_waits_for_no_disk_longer_than_for_everything() {
        let (mut event_loop, _folder, segment) = committing("limit");
        let asked = clock::monotonic();
        event_loop.stop();
        assert_eq!(turn_to_the_end(&mut event_loop), None);
        let end = turn_to_the_end(&mut event_loop);
        assert_eq!(end, Some(ExitReason::Stopped));
        let took = clock::monotonic().since(asked);
        assert!(
            took >= STOP_LIMIT && took < STOP_LIMIT + LAST_BYTES,
            "{took:?}"
        );
        fs::File::open(segment).unwrap();
    }
}
