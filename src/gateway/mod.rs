//! One deterministic value that is the whole gateway: (state, now, input) in, outputs out.
//!
//! [`Gateway`] owns the machines, the buffers and the account of their memory. It reads no clock
//! and touches no device: a host reports with [`Gateway::handle_input`], lets time pass with
//! [`Gateway::handle_timeout`], ends each turn with [`Gateway::end_turn`] and then does what the
//! `poll_*` methods say. The same calls with the same seed give the same outputs, always:
//! `tests/simulation` depends on it.
//!
//! ```text
//! completions, sources  → handle_input      parse, decide, queue
//! time                  → handle_timeout    strictly advances poll_timeout
//! end_turn                                  acknowledgements that are synced become bytes
//! outputs               ← poll_output       until None
//! write                 ← poll_writable, fill
//! ```
//!
//! | file | does |
//! |---|---|
//! | `bridges` | links to upstream brokers, and their place between the machines |
//! | `durable` | what the broker wants kept, to the journal and back |
//! | `route` | carries values between machines that do not know one another |
//! | `registry` | which devices and points there are, and what a reload changes |
//! | `requests` | the verbs of the control socket and of `BASE/gateway/request/…` |
//! | `status` | what is counted, as JSON |
//! | `health` | what the gateway is and what is wrong with it, as topics |
//! | `system` | `$SYS` |
//! | `totals` | what of the points outlives the process |

pub mod boundary;
mod bridges;
mod durable;
mod export;
mod health;
mod registry;
mod requests;
mod route;
pub mod settings;
mod status;
mod system;
mod totals;

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use self::boundary::{
    CloseCause, HostCounters, Input, JournalEvent, Notice, Output, Peer, TimerKind,
};
use self::bridges::Bridges;
use self::durable::Durable;
use self::health::Health;
use self::registry::Registry;
use self::requests::Requests;
use self::settings::{Bind, Config, ListenerSettings};
use self::system::System;
use self::totals::Totals;
use crate::broker::{Admission, Broker};
use crate::buffer::{CHUNK_SIZE, Memory, Outbox, RecvBuffer, SendQueue};
use crate::field::Field;
use crate::field::line::LineEvent;
use crate::field::port::PortEvent;
use crate::id::{ConnId, LineId, ListenerId, PortId};
use crate::pipeline::Pipeline;
use crate::rng::Rng;
use crate::slab::{GenSlab, IdTable};
use crate::time::{Duration, Instant, Now};

pub use self::durable::key_name;
pub use self::health::HEALTH_INTERVAL;

/// How long a clean stop may take before it is declared done: outputs that do not answer, clients
/// that do not read.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(4);

/// The whole gateway; see the module's documentation for the order of calls.
pub struct Gateway {
    config: Config,
    memory: Memory,
    broker: Broker,
    field: Field,
    pipeline: Pipeline,
    bridges: Bridges,
    /// While there is a journal.
    durable: Option<Durable>,
    registry: Registry,
    requests: Requests,
    totals: Totals,
    listeners: GenSlab<ListenerId, Listener>,
    outbox: Outbox,
    recv: IdTable<ConnId, RecvBuffer>,
    /// Which listener each connection came by.
    doors: IdTable<ConnId, ListenerId>,
    ports: IdTable<PortId, RecvBuffer>,
    /// Connections that wanted to read while the memory budget was spent; offered again once there
    /// is room.
    starved: VecDeque<ConnId>,
    resumed: VecDeque<ConnId>,
    outputs: VecDeque<Output>,
    /// What has to answer once before the gateway calls itself ready.
    awaited: BTreeSet<Awaited>,
    life: Life,
    started: Instant,
    counters: Counters,
    host: HostCounters,
    health: Health,
    system: System,
}

/// What is counted here and not by a machine.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counters {
    /// Connections that were not read for a turn because the memory budget was spent.
    pub starved: u64,
    /// Configurations that were refused at a reload.
    pub reloads_refused: u64,
    /// Configurations that were taken over at a reload.
    pub reloads: u64,
    /// Requests that asked for more answers at once than [`requests::PENDING_MAX`].
    pub requests_refused: u64,
    /// Bytes received from clients.
    pub bytes_received: u64,
    /// Listeners that were opened, could not be, or went.
    pub listenings: u64,
}

#[derive(Debug)]
struct Listener {
    /// Of its table.
    name: Box<str>,
    bind: Bind,
    settings: ListenerSettings,
    /// Connections that came by it and are not closed.
    connections: u32,
    /// Why it could not be opened.
    error: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Awaited {
    Listener(ListenerId),
    Line(LineId),
    Journal,
    Sequences,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Starting,
    Running,
    /// `offline` is on its way and outputs are on theirs to safety; clients are told once what was
    /// queued is written.
    Stopping {
        deadline: Instant,
        told: Told,
    },
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// In this turn only `offline` goes out.
    NotYet,
    /// From the next turn on.
    Due,
    Yes,
}

impl Gateway {
    /// A gateway that has asked for its listeners, buses, lines and ports. `seed` decides all
    /// chance in it.
    pub fn new(config: Config, seed: u64, now: Now) -> Self {
        let mut rng = Rng::from_seed(seed);
        let memory = Memory::new(config.broker.memory);
        let mut broker = Broker::new(config.broker.clone(), &memory, &mut rng);
        broker.protect(&config.base_topic);
        let mut gateway = Self {
            broker,
            field: Field::new(&mut rng),
            pipeline: Pipeline::new(),
            bridges: Bridges::new(&mut rng),
            durable: None,
            registry: Registry::default(),
            requests: Requests::default(),
            totals: Totals::default(),
            listeners: GenSlab::new(),
            outbox: Outbox::new(&memory),
            recv: IdTable::new(),
            doors: IdTable::new(),
            ports: IdTable::new(),
            starved: VecDeque::new(),
            resumed: VecDeque::new(),
            outputs: VecDeque::new(),
            awaited: BTreeSet::new(),
            life: Life::Starting,
            started: now.monotonic,
            counters: Counters::default(),
            host: HostCounters::default(),
            health: Health::default(),
            system: System::new(now.monotonic),
            memory,
            config,
        };
        gateway.pipeline.set_base_topic(&gateway.config.base_topic);
        match gateway.config.journal {
            Some(settings) => {
                gateway.broker.start_keeping(settings.sync_within);
                gateway.durable = Some(Durable::new(&settings, &gateway.memory));
                gateway.awaited.insert(Awaited::Journal);
            }
            None => gateway.start(now),
        }
        gateway.route(now);
        gateway.announce_if_ready();
        gateway
    }

    /// Opens the house to everybody, as soon as the first sequence numbers are reserved.
    fn start(&mut self, now: Now) {
        let has_to_wait = self.resume_sequences(now);
        // Before anything is published, so that the bridges get it.
        self.update_bridges(now);
        self.open_house(now);
        self.awaited.insert(Awaited::Sequences);
        if !has_to_wait {
            self.open_doors(now);
        }
    }

    /// The devices, and then those who may want something of them.
    fn open_doors(&mut self, now: Now) {
        self.give_up_sequences();
        self.awaited.remove(&Awaited::Sequences);
        self.add_devices(now);
        self.update_listeners();
    }

    /// The doors are not open yet.
    fn is_closed(&self) -> bool {
        self.awaited.contains(&Awaited::Sequences)
    }

    /// Something happened. Outputs may follow.
    pub fn handle_input(&mut self, now: Now, input: Input) {
        match input {
            Input::Received { conn, count } => self.handle_received(now, conn, count),
            Input::Accepted {
                conn,
                listener,
                peer,
            } => self.handle_accepted(now, conn, listener, &peer),
            Input::Closed { conn, cause } => self.handle_closed(now, conn, cause),
            Input::Identified { conn, name } => self.broker.handle_identified(conn, &name),
            Input::Verified { conn, is_right } => {
                self.broker
                    .handle_verified(now, conn, is_right, &mut self.outbox);
            }
            Input::Dialled { bridge, outcome } => self.handle_dialled(now, bridge, outcome),
            Input::Listening { listener, outcome } => self.handle_listening(listener, outcome),
            Input::Line { line, event } => {
                if matches!(event, LineEvent::Ready { .. } | LineEvent::Lost(_)) {
                    self.awaited.remove(&Awaited::Line(line));
                }
                self.field.handle_line(now, line, event);
            }
            Input::Bus { request, outcome } => self.field.handle_bus(now, request, outcome),
            Input::Port { port, event } => self.handle_port(now, port, event),
            Input::Control { client, event } => self.handle_control(now, client, event),
            Input::Loaded { request, outcome } => self.handle_loaded(now, request, outcome),
            Input::Journal(JournalEvent::Fetched { message, .. }) => {
                self.broker.handle_fetched(now, message, &mut self.outbox);
            }
            Input::Disk(event) => self.handle_disk(now, event),
            Input::Stop => self.stop(now),
        }
        self.route(now);
        self.announce_if_ready();
    }

    /// Lets time pass: everything due at `now` happens, and [`Gateway::poll_timeout`] moves on.
    pub fn handle_timeout(&mut self, now: Now) {
        self.broker.handle_timeout(now, &mut self.outbox);
        self.field.handle_timeout(now);
        self.pipeline.handle_timeout(now);
        self.time_bridges(now);
        if let Some(durable) = &mut self.durable {
            durable.journal.handle_timeout(now);
        }
        if !self.is_recovering() {
            self.tell_system(now);
            self.tell_health(now);
        }
        self.advance_stop(now);
        self.route(now);
        self.announce_if_ready();
    }

    /// Ends a turn's decisions: acknowledgements whose records are synced become bytes.
    pub fn end_turn(&mut self, now: Now) {
        let synced = self.settle_journal(now);
        if self.is_closed() && self.life == Life::Starting && self.are_sequences_reserved(now) {
            self.open_doors(now);
        }
        self.broker.end_turn(now, synced, &mut self.outbox);
        self.settle_bridges(now, synced);
        if self.life == Life::Running {
            self.reserve_sequences(now);
        }
        if !self.is_recovering() {
            self.tell_health(now);
        }
        self.route(now);
        self.announce_if_ready();
        while let Some(conn) = self.broker.poll_resumed() {
            self.resumed.push_back(conn);
        }
        while !self.starved.is_empty() && self.memory.has_room(CHUNK_SIZE) {
            self.resumed.extend(self.starved.pop_front());
        }
        if let Life::Stopping {
            told: told @ Told::NotYet,
            ..
        } = &mut self.life
        {
            *told = Told::Due;
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        output.or_else(|| self.poll_disk().map(Output::Disk))
    }

    /// Where to read a connection's bytes to. `None`: it is paused (it will come back through
    /// [`Gateway::poll_resumed`]), closing, or gone.
    pub fn recv_buffer(&mut self, conn: ConnId) -> Option<&mut RecvBuffer> {
        let is_paused = match self.bridges.of(conn) {
            Some(bridge) => self.bridges.is_jammed(bridge),
            None => self.broker.is_paused(conn),
        };
        if is_paused {
            return None;
        }
        let recv = self.recv.get_mut(conn)?;
        // A buffer that is part of the way through a packet already holds its memory.
        if recv.bytes().is_empty() && !self.memory.has_room(CHUNK_SIZE) {
            self.counters.starved += 1;
            if !self.starved.contains(&conn) {
                self.starved.push_back(conn);
            }
            return None;
        }
        Some(recv)
    }

    /// Where to read a serial port's bytes to. `None`: it was closed.
    pub fn port_buffer(&mut self, port: PortId) -> Option<&mut RecvBuffer> {
        self.ports.get_mut(port)
    }

    /// A connection that may be read again: first [`Input::Received`] with a count of 0, then
    /// reads.
    pub fn poll_resumed(&mut self) -> Option<ConnId> {
        self.resumed.pop_front()
    }

    /// A connection with something to send; each at most once a turn.
    pub fn poll_writable(&mut self) -> Option<ConnId> {
        self.outbox.poll_ready()
    }

    /// A connection with so much to send that it should be sent before the turn ends, and what it
    /// is. All of it may be sent at any time: what is to wait does not become bytes.
    pub fn poll_pressed(&mut self) -> Option<(ConnId, &mut SendQueue)> {
        let conn = self.outbox.poll_pressed()?;
        self.outbox.queue_mut(conn).map(|queue| (conn, queue))
    }

    /// Draws and encodes until about `budget` bytes wait, and gives the queue to send from. If it
    /// says [`SendQueue::has_more`] or is not empty afterwards, the host asks again when the socket
    /// has room.
    pub fn fill(&mut self, now: Now, conn: ConnId, budget: usize) -> Option<&mut SendQueue> {
        match self.bridges.of(conn) {
            Some(bridge) => self.fill_bridge(now, bridge, conn, budget),
            None => self.broker.fill(now, conn, budget, &mut self.outbox),
        }
        self.route(now);
        self.outbox.queue_mut(conn)
    }

    /// When [`Gateway::handle_timeout`] is due next, and for whom.
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        if !self.outputs.is_empty() || !self.resumed.is_empty() || self.wants_disk() {
            // Something came up after this turn's outputs were drained.
            return Some((Instant::from_nanos(0), TimerKind::Gateway));
        }
        let journal = match &self.durable {
            // A turn has appended something after it was sealed.
            Some(durable) if durable.is_waited_for() => Some(Instant::from_nanos(0)),
            Some(durable) => durable.journal.poll_timeout(),
            None => None,
        };
        // Until then nothing is told.
        let is_read = !self.is_recovering();
        let gateway = match self.life {
            Life::Stopping {
                told: Told::Due, ..
            } => Some(Instant::from_nanos(0)),
            Life::Stopping { deadline, .. } => Some(deadline),
            Life::Starting => self.reserved_until(),
            _ => None,
        };
        [
            (self.broker.poll_timeout(), TimerKind::Broker),
            (self.bridges.poll_timeout(), TimerKind::Bridge),
            (self.field.poll_timeout(), TimerKind::Field),
            (self.pipeline.poll_timeout(), TimerKind::Pipeline),
            (journal, TimerKind::Journal),
            (gateway, TimerKind::Gateway),
            (self.system.next().filter(|_| is_read), TimerKind::Gateway),
            (self.health.next().filter(|_| is_read), TimerKind::Gateway),
        ]
        .into_iter()
        .filter_map(|(at, kind)| at.map(|at| (at, kind)))
        .min()
    }

    /// What the host has counted, for the host to keep up to date.
    pub fn host_counters_mut(&mut self) -> &mut HostCounters {
        &mut self.host
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The account of all buffers, queues and tables.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The journal's counters, while there is one.
    pub fn journal_stats(&self) -> Option<&crate::journal::Stats> {
        self.durable.as_ref().map(|durable| durable.journal.stats())
    }

    /// The broker, to look at.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The broker, for a test host that plays a journal from which every message must be fetched.
    pub fn broker_mut(&mut self) -> &mut Broker {
        &mut self.broker
    }

    fn handle_accepted(&mut self, now: Now, conn: ConnId, listener: ListenerId, peer: &Peer) {
        self.outbox.open(conn);
        let before = self
            .recv
            .insert(conn, RecvBuffer::for_stranger(&self.memory));
        debug_assert!(
            before.is_none(),
            "a slot is reused only after its connection has closed"
        );
        // A listener that a reload took away may still have had one connection in its backlog:
        // nobody is let in by it.
        let (mut allow_anonymous, mut excess) = (false, 0);
        let (mut redirect, mut is_costly) = (None, false);
        if let Some(entry) = self.listeners.get_mut(listener) {
            self.doors.insert(conn, listener);
            entry.connections += 1;
            allow_anonymous = entry.settings.allow_anonymous;
            let most = entry.settings.max_connections.unwrap_or(u32::MAX);
            excess = entry.connections.saturating_sub(most);
            redirect = entry.settings.redirect.clone().map(Rc::new);
            is_costly = entry.settings.transport.tls.is_some();
        }
        log::debug!("connection accepted conn={conn} peer={peer}");
        let address = match peer {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix { .. } => None,
        };
        let exempt = &self.config.exempt_addresses;
        let admission = Admission {
            allow_anonymous,
            excess,
            address,
            is_exempt: address.is_some_and(|it| exempt.iter().any(|net| net.contains(it))),
            is_costly,
        };
        self.broker
            .handle_accepted(now, conn, admission, &mut self.outbox);
        if redirect.is_some() {
            self.broker
                .handle_redirected(now, conn, redirect, &mut self.outbox);
        }
    }

    fn handle_received(&mut self, now: Now, conn: ConnId, count: usize) {
        let Some(recv) = self.recv.get_mut(conn) else {
            return;
        };
        recv.commit(count);
        self.counters.bytes_received += count as u64;
        if self.bridges.of(conn).is_some() {
            return self.feed_bridge(now, conn);
        }
        self.broker
            .handle_received(now, conn, recv, &mut self.outbox);
    }

    fn handle_closed(&mut self, now: Now, conn: ConnId, cause: CloseCause) {
        log::debug!("connection closed conn={conn} cause={cause}");
        if self.bridges.of(conn).is_some() {
            self.close_bridge(now, conn, cause);
        } else {
            self.broker.handle_closed(now, conn, &mut self.outbox);
        }
        self.outbox.close(conn);
        self.recv.remove(conn);
        if let Some(listener) = self.doors.remove(conn)
            && let Some(entry) = self.listeners.get_mut(listener)
        {
            entry.connections -= 1;
        }
        self.starved.retain(|starved| *starved != conn);
    }

    fn handle_listening(&mut self, listener: ListenerId, outcome: Result<Box<str>, Box<str>>) {
        self.awaited.remove(&Awaited::Listener(listener));
        let Some(entry) = self.listeners.get_mut(listener) else {
            return;
        };
        self.counters.listenings += 1;
        match outcome {
            Ok(address) => {
                log::info!("listening name={} address={address}", entry.name);
                entry.error = None;
            }
            Err(error) => {
                log::error!("cannot listen name={} {}: {error}", entry.name, entry.bind);
                entry.error = Some(error);
            }
        }
    }

    fn handle_port(&mut self, now: Now, port: PortId, event: PortEvent) {
        let Some(recv) = self.ports.get_mut(port) else {
            return;
        };
        if let PortEvent::Received { count } = event {
            recv.commit(count);
        }
        self.field.handle_port(now, port, event, recv);
    }

    fn handle_loaded(
        &mut self,
        now: Now,
        request: Option<crate::id::RequestId>,
        outcome: Result<Box<Config>, Box<str>>,
    ) {
        let answer = match outcome {
            // It would open again what the stop has closed.
            _ if matches!(self.life, Life::Stopping { .. } | Life::Stopped) => {
                Err("the gateway is stopping".into())
            }
            Ok(config) => {
                self.outputs.push_back(Output::Notice(Notice::Reloading));
                self.reconfigure(now, *config);
                self.counters.reloads += 1;
                self.outputs.push_back(Output::Notice(Notice::Reloaded));
                log::info!("configuration reloaded");
                Ok(())
            }
            Err(error) => {
                self.counters.reloads_refused += 1;
                log::error!("configuration refused, the running one stays:\n{error}");
                Err(error)
            }
        };
        if let Some(request) = request {
            self.answer_reload(now, request, answer);
        }
    }

    /// Opens and closes listeners so that they are those of the configuration; what did not change
    /// is not touched. What comes back are those that send their clients elsewhere than before.
    fn update_listeners(&mut self) -> Vec<ListenerId> {
        let mut redirecting = Vec::new();
        let mut wanted: Vec<(Box<str>, Bind, ListenerSettings)> = Vec::new();
        for (name, settings) in &self.config.listeners {
            for bind in &settings.bind {
                wanted.push((name.clone(), bind.clone(), settings.clone()));
            }
        }
        for listener in self.listeners.keys() {
            let entry = self
                .listeners
                .get_mut(listener)
                .expect("the key was listed just now");
            let place = wanted.iter().position(|(_, bind, _)| *bind == entry.bind);
            if let Some(place) = place {
                let (name, _, settings) = wanted.swap_remove(place);
                entry.name = name;
                if entry.settings.transport != settings.transport {
                    let transport = Box::new(settings.transport.clone());
                    self.outputs.push_back(Output::Retune {
                        listener,
                        transport,
                    });
                }
                if entry.settings.redirect != settings.redirect {
                    redirecting.push(listener);
                }
                entry.settings = settings;
            } else {
                self.listeners.remove(listener);
                self.awaited.remove(&Awaited::Listener(listener));
                self.counters.listenings += 1;
                self.outputs.push_back(Output::Unlisten { listener });
            }
        }
        for (name, bind, settings) in wanted {
            let transport = Box::new(settings.transport.clone());
            let listener = self.listeners.insert(Listener {
                name,
                bind: bind.clone(),
                settings,
                connections: 0,
                error: None,
            });
            self.awaited.insert(Awaited::Listener(listener));
            self.outputs.push_back(Output::Listen {
                listener,
                bind,
                transport,
            });
        }
        redirecting
    }

    /// Tells the clients of these listeners where to go now.
    fn redirect_clients(&mut self, now: Now, listeners: &[ListenerId]) {
        for id in listeners {
            let Some(entry) = self.listeners.get(*id) else {
                continue;
            };
            let redirect = entry.settings.redirect.clone().map(Rc::new);
            for conn in self.doors.keys() {
                if self.doors.get(conn) == Some(id) {
                    let redirect = redirect.clone();
                    self.broker
                        .handle_redirected(now, conn, redirect, &mut self.outbox);
                }
            }
        }
    }

    fn announce_if_ready(&mut self) {
        if self.life == Life::Starting && self.awaited.is_empty() {
            self.life = Life::Running;
            self.outputs.push_back(Output::Notice(Notice::Ready));
        }
    }

    fn stop(&mut self, now: Now) {
        if matches!(self.life, Life::Stopping { .. } | Life::Stopped) {
            return;
        }
        log::info!("stopping");
        let deadline = now.monotonic + STOP_TIMEOUT;
        self.life = Life::Stopping {
            deadline,
            told: Told::NotYet,
        };
        for listener in self.listeners.keys() {
            self.listeners.remove(listener);
            self.outputs.push_back(Output::Unlisten { listener });
        }
        self.field.stop(now);
        self.pipeline.handle_stop(now);
        let state = format!("{}/gateway/state", self.config.base_topic);
        self.publish_retained(now, &state, "offline");
    }

    fn advance_stop(&mut self, now: Now) {
        let Life::Stopping { deadline, told } = self.life else {
            return;
        };
        if told == Told::Due {
            self.broker.stop(now, &mut self.outbox);
            self.stop_bridges(now);
            self.life = Life::Stopping {
                deadline,
                told: Told::Yes,
            };
        }
    }

    /// Whether what [`Input::Stop`] asked for has come true, or has had its time.
    fn finish_stop(&mut self, now: Now) {
        let Life::Stopping { deadline, told } = self.life else {
            return;
        };
        let is_kept = self.durable.as_ref().is_none_or(Durable::is_quiet);
        let quiet = told == Told::Yes
            && self.field.is_stopped()
            && self.recv.is_empty()
            && self.bridges.are_idle()
            && is_kept;
        if quiet || now.monotonic >= deadline {
            if !quiet {
                log::warn!(
                    "stopped without waiting longer outputs_safe={} connections={}",
                    self.field.is_stopped(),
                    self.recv.len()
                );
            }
            self.life = Life::Stopped;
            self.outputs.push_back(Output::Notice(Notice::Stopped));
        }
    }
}
