//! Virtual time, the network, and the hardware, driven by one generator.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io::IoSlice;

use fieldgate::broker::Stats;
use fieldgate::field::bus::{BusError, BusOp, BusOutcome};
use fieldgate::field::line::{Direction, Edges, LineCommand, LineEvent};
use fieldgate::field::port::{PortCommand, PortEvent};
use fieldgate::gateway::Gateway;
use fieldgate::gateway::boundary::{
    CloseCause, CloseHow, Input, JournalCommand, JournalEvent, Notice, Output, Peer,
};
use fieldgate::id::{ConnId, LineId, ListenerId, PortId, RequestId};
use fieldgate::mqtt::{ProtocolVersion, QoS, ReasonCode};
use fieldgate::point::{Fault, FaultKind};
use fieldgate::rng::Rng;
use fieldgate::slab::GenSlab;
use fieldgate::time::{Duration, Instant, Now, WallTime};

use super::client::{Client, Outgoing, Profile};
use super::devices::{Lm75, Scale};
use super::model::{Counts, HOARDER, Model};
use super::oracle;

/// How long faults go on, and how long the world may then take to settle.
const TROUBLE: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(900);

/// Steps after which a run that does not end is a failure.
const STEPS_MAX: u64 = 2_000_000;

/// What a socket takes before its client reads.
const SOCKET_BYTES: usize = 48 * 1024;

/// Messages in a session's queue, which only one client's reaches.
const QUEUE_MESSAGES: usize = 250;

/// What tells two states of a quiet gateway apart in memory: the digits of sequence numbers.
const SLACK: usize = 64;

const CONFIG: &str = r#"
[gateway]
name = "sim"
[gateway.defaults]
every = "5s"
[broker]
queue = { messages = 250, when_full = "WHEN_FULL" }
[serial.scale]
path = "/dev/scale"
baud = 9600
[device.room]
driver = "lm75"
bus = "i2c.1"
address = 0x48
[device.relay]
driver = "gpio"
bus = "gpio.header"
[device.relay.point.out]
kind = "output"
line = 17
safe_state = false
[device.door]
driver = "gpio"
bus = "gpio.header"
[device.door.point.open]
kind = "input"
line = 27
[device.door.point.bell]
kind = "event"
line = 22
[device.scale]
driver = "lines"
bus = "serial.scale"
pattern = 'ST,GS,(?<grams>[0-9]+)g'
"#;

// The clients, by their places.
const PUBLISHER: usize = 0;
const SUBSCRIBER: usize = 1;
const SLOW: usize = 2;
const DRIFTER: usize = 3;
const VISITOR: usize = 4;
const HOARDER_PLACE: usize = 5;
const WITNESS: usize = 6;

/// What a run did; equal for equal seeds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    pub steps: u64,
    pub cuts: u64,
    pub bus_faults: u64,
    pub line_faults: u64,
    pub port_faults: u64,
    pub commands: u64,
    pub counts: Counts,
    /// A running hash over everything that crossed the boundary.
    pub trace: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.cuts += other.cuts;
        self.bus_faults += other.bus_faults;
        self.line_faults += other.line_faults;
        self.port_faults += other.port_faults;
        self.commands += other.commands;
        self.counts.add(&other.counts);
        self.trace ^= other.trace;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client dials, if it has no connection; or although it has one.
    Dial(usize),
    Redial(usize),
    /// A client's bytes move some way, and the gateway's to a client.
    Carry(usize),
    Deliver(ConnId),
    /// A client acknowledges what it has got.
    Acknowledge(usize),
    /// A client publishes something.
    Publish(usize),
    /// A client publishes a lot of it, which nobody fetches.
    Flood,
    /// A client says that it is alive.
    Ping(usize),
    /// A connection breaks, or is left.
    Cut(usize),
    Leave(usize),
    /// A subscription is given up.
    Unsubscribe(usize),
    /// A transfer ends, an output is driven, a line or a port answers.
    Transfer(RequestId),
    Driven(LineId, RequestId, bool),
    LineBack(LineId),
    PortBack(PortId),
    /// The scale says its weight, and its bytes move some way.
    Weigh,
    SerialBytes,
    /// Somebody uses the door, which has a bell.
    Door,
    /// The room warms, cools, or its sensor comes loose; an adapter is pulled.
    Weather,
}

struct Pipe {
    client: usize,
    /// The client has given it up, and the gateway does not know.
    is_abandoned: bool,
    /// The gateway has asked for its end.
    closing: Option<CloseHow>,
    to_client: Vec<u8>,
}

struct Line {
    is_output: bool,
    active: bool,
    is_ready: bool,
    edges: u32,
    settings: fieldgate::field::line::LineSettings,
}

pub struct World {
    gateway: Gateway,
    rng: Rng,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    event_count: u64,
    listener: Option<ListenerId>,
    conns: GenSlab<ConnId, ()>,
    pipes: BTreeMap<ConnId, Pipe>,
    /// Connections whose queue was not emptied: their sockets become writable some time.
    unwritten: BTreeSet<ConnId>,
    clients: Vec<Client>,
    model: Model,
    chip: Lm75,
    scale: Scale,
    door: bool,
    transfers: BTreeMap<RequestId, BusOp>,
    lines: BTreeMap<LineId, Line>,
    port: Option<PortId>,
    port_is_open: bool,
    /// Every draw of a queued message is answered with Pending first.
    fetching: bool,
    ready: bool,
    stopped: bool,
    /// Faults happen, and clients are busy.
    trouble: bool,
    /// Nobody dials of his own accord any more.
    closing_time: bool,
    published: Vec<Outgoing>,
    transactions: u64,
    /// Those that must not be obeyed.
    retained_transactions: BTreeSet<u64>,
    report: Report,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let now = Instant::from_nanos(1_000_000_000);
        let drops_oldest = rng.chance(1, 2);
        let when_full = if drops_oldest {
            "drop_oldest"
        } else {
            "drop_newest"
        };
        let source = fieldgate::config::Source {
            path: "sim.toml".into(),
            text: CONFIG.replace("WHEN_FULL", when_full),
        };
        let environment = fieldgate::config::Environment::default();
        let loaded = fieldgate::config::parse(vec![source], &environment)
            .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let mut gateway = Gateway::new(loaded.meant.gateway, rng.next_u64(), at(now));
        let fetching = rng.chance(1, 2);
        gateway.broker_mut().set_fetch_every_draw(fetching);
        let clients = profiles(&mut rng).into_iter().map(Client::new).collect();
        Self {
            gateway,
            rng,
            now,
            events: BinaryHeap::new(),
            event_count: 0,
            listener: None,
            conns: GenSlab::new(),
            pipes: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            clients,
            model: Model::new(QUEUE_MESSAGES, drops_oldest),
            chip: Lm75::new(),
            scale: Scale::new(),
            door: false,
            transfers: BTreeMap::new(),
            lines: BTreeMap::new(),
            port: None,
            port_is_open: false,
            fetching,
            ready: false,
            stopped: false,
            trouble: false,
            closing_time: false,
            published: Vec::new(),
            transactions: 0,
            retained_transactions: BTreeSet::new(),
            report: Report::default(),
        }
    }

    /// Silence, trouble, calm, farewell, and the end; the oracle looks at each.
    pub fn run(mut self) -> Report {
        self.drain_outputs();
        self.after_millis(500, 1_000, Event::Weigh);
        self.pass(Duration::from_secs(20));
        // The bell rings, so that all has been said that there is to say.
        self.set_door(true);
        self.pass(Duration::from_secs(1));
        self.set_door(false);
        self.pass(Duration::from_secs(20));
        assert!(self.ready, "the gateway never said that it is ready");
        let before = self.quiet_state();

        self.meet();
        self.trouble = true;
        self.pass(TROUBLE);
        self.trouble = false;

        self.calm_down();
        self.final_command(true);
        self.check();

        self.farewell();
        self.final_command_is_undone();
        let after = self.quiet_state();
        oracle::check_nothing_is_left(&before, &after, SLACK);
        assert_eq!(self.model.session_count(), 0, "sessions, by the model");

        self.stop();
        self.report.counts = self.model.counts.clone();
        self.report
    }

    // ---- the course of a run

    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.now < until {
            self.step();
        }
    }

    /// Goes on until something is so, or the run has failed.
    fn pass_until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let until = self.now + CALM;
        while !is_so(self) {
            self.step();
            assert!(self.now < until, "{what}: {}", self.what_is_missing());
        }
    }

    fn what_is_missing(&self) -> String {
        let names = self.clients.iter().filter(|client| !client.is_settled());
        let names: Vec<_> = names.map(Client::name).collect();
        format!("clients {names:?}, and {:?}", self.model.unsettled())
    }

    /// The clients come, each in its time.
    fn meet(&mut self) {
        self.dial(WITNESS);
        self.after_millis(5_000, 10_000, Event::Ping(WITNESS));
        self.pass_until("the witness", |world| world.clients[WITNESS].is_settled());
        self.dial(HOARDER_PLACE);
        self.pass_until("the hoarder subscribes", |world| {
            world.clients[HOARDER_PLACE].is_settled()
        });
        self.leave(HOARDER_PLACE, false);
        for client in [PUBLISHER, SUBSCRIBER, SLOW, DRIFTER, VISITOR] {
            self.after_millis(1, 50, Event::Dial(client));
            self.after_millis(100, 5_000, Event::Cut(client));
            self.after_millis(1_000, 2_000, Event::Ping(client));
        }
        for client in [DRIFTER, VISITOR] {
            self.after_millis(2_000, 9_000, Event::Leave(client));
        }
        for client in [SUBSCRIBER, SLOW] {
            self.after_millis(1_000, 9_000, Event::Redial(client));
        }
        self.after_millis(5_000, 20_000, Event::Unsubscribe(VISITOR));
        for client in [PUBLISHER, SLOW] {
            self.after_millis(10, 100, Event::Publish(client));
        }
        self.after_millis(1_000, 10_000, Event::Weather);
        self.after_millis(100, 2_000, Event::Door);
        for _ in 0..7 {
            self.after_millis(1_000, 50_000, Event::Flood);
        }
    }

    fn calm_down(&mut self) {
        // As it was before the first client came, so that memory can be compared.
        self.chip = Lm75::new();
        self.scale.grams = 1250;
        self.set_door(false);
        // Its queue may be full: what is still under way would be one too many while it is drained.
        self.pass_until("all but the hoarder are settled", |world| {
            let mut clients = world.clients.iter().enumerate();
            clients.all(|(place, client)| place == HOARDER_PLACE || client.is_settled())
        });
        self.after_millis(0, 10, Event::Dial(HOARDER_PLACE));
        self.after_millis(1_000, 2_000, Event::Ping(HOARDER_PLACE));
        self.pass(Duration::from_secs(30));
        self.pass_until("not settled", Self::is_settled);
    }

    fn is_settled(&self) -> bool {
        self.clients.iter().all(Client::is_settled)
            && self.model.unsettled().is_none()
            && self.wrong_value().is_none()
    }

    /// A value that is published and is not what the hardware says.
    fn wrong_value(&self) -> Option<String> {
        let expected = [
            ("sim/room/temperature", self.chip.celsius().to_string()),
            ("sim/room/temperature/quality", "good".to_owned()),
            ("sim/room/availability", "online".to_owned()),
            ("sim/scale/grams", self.scale.grams.to_string()),
            ("sim/scale/grams/quality", "good".to_owned()),
            ("sim/door/open", self.door.to_string()),
            ("sim/door/open/quality", "good".to_owned()),
            ("sim/door/bell/quality", "good".to_owned()),
            ("sim/relay/out", self.relay().to_string()),
            ("sim/relay/out/quality", "good".to_owned()),
            ("sim/gateway/state", "online".to_owned()),
        ];
        for (topic, value) in expected {
            for client in [WITNESS, SUBSCRIBER] {
                let said = oracle::last(&self.clients[client], topic);
                if said.as_deref() != Some(&*value) {
                    let name = self.clients[client].name();
                    return Some(format!("{name}: {topic} is {said:?}, not {value}"));
                }
            }
        }
        None
    }

    fn relay(&self) -> bool {
        let outputs: Vec<_> = self.lines.values().filter(|line| line.is_output).collect();
        assert_eq!(outputs.len(), 1, "one output is requested");
        outputs[0].active
    }

    /// Commands while nothing goes wrong are obeyed.
    fn final_command(&mut self, active: bool) {
        self.command(PUBLISHER, active, QoS::ExactlyOnce, false);
        self.pass(Duration::from_secs(1));
        self.pass_until("a command", Self::is_settled);
        assert_eq!(self.relay(), active, "the relay, after a command");
    }

    /// So that what is retained is as long as it was.
    fn final_command_is_undone(&mut self) {
        let relay = self.lines.values().find(|line| line.is_output);
        assert!(
            relay.is_some_and(|relay| !relay.active),
            "the relay was switched off"
        );
    }

    fn check(&mut self) {
        let wrong = self.wrong_value();
        assert_eq!(wrong, None);
        for publisher in [PUBLISHER, SLOW] {
            oracle::check_delivery(
                &self.published,
                &self.clients[publisher],
                &self.clients[SUBSCRIBER],
            );
        }
        oracle::check_results(
            &self.model.commands,
            self.transactions,
            &self.retained_transactions,
            &self.clients[WITNESS],
            &self.clients[PUBLISHER],
        );
        oracle::check_same_story(&self.clients[WITNESS], &self.clients[SUBSCRIBER]);
        let keep_alives = self.clients.iter().flat_map(|client| &client.goodbyes);
        for reason in keep_alives {
            let is_known = matches!(
                reason,
                ReasonCode::KeepAliveTimeout | ReasonCode::SessionTakenOver
            );
            assert!(is_known, "a client was told {reason:?}");
        }
    }

    /// Retained messages are cleared, and every client goes without leaving anything.
    fn farewell(&mut self) {
        self.final_command(false);
        // A broken connection is a will, which may be retained.
        self.closing_time = true;
        for client in 0..self.clients.len() {
            self.clients[client].retire();
            if client != PUBLISHER {
                self.leave(client, false);
            }
        }
        self.pass_until("the others leave", |world| world.pipes.len() == 1);
        for topic in self.model.retained_topics() {
            let message = Outgoing {
                topic,
                payload: Vec::new(),
                qos: QoS::AtLeastOnce,
                retain: true,
                expiry: None,
            };
            self.clients[PUBLISHER].publish(message);
        }
        self.carry(PUBLISHER);
        self.pass_until("retained messages are cleared", |world| {
            world.clients[PUBLISHER].is_settled()
        });
        self.leave(PUBLISHER, false);
        self.pass_until("the publisher leaves", |world| world.pipes.is_empty());
        // In 3.1.1 a session that stays is ended by one that does not.
        for client in 0..self.clients.len() {
            self.dial(client);
        }
        self.pass_until("everybody is there once more", |world| {
            world.clients.iter().all(Client::is_settled)
        });
        for client in 0..self.clients.len() {
            self.leave(client, false);
        }
        self.pass_until("everybody leaves", |world| world.pipes.is_empty());
        self.pass(Duration::from_secs(11));
    }

    fn quiet_state(&self) -> (Stats, usize) {
        (
            self.gateway.broker().stats().clone(),
            self.gateway.memory().used(),
        )
    }

    /// A clean stop leaves outputs safe, and tells everybody.
    fn stop(&mut self) {
        let mut witness = Profile::new("late witness", self.clients[WITNESS].profile.version);
        witness.filters = vec![("sim/#", QoS::AtLeastOnce)];
        witness.is_clean = true;
        self.clients.push(Client::new(witness));
        let late = self.clients.len() - 1;
        self.dial(late);
        self.pass_until("a late witness", |world| {
            world.clients[late].is_settled() && world.model.unsettled().is_none()
        });
        self.command(late, true, QoS::AtLeastOnce, false);
        // What it has not acknowledged would keep the last word from it.
        self.pass_until("the last command", |world| {
            world.relay() && world.clients[late].is_settled() && world.model.unsettled().is_none()
        });
        self.model.is_stopping = true;
        self.input(Input::Stop);
        self.drain_outputs();
        self.pass_until("the stop", |world| world.stopped);
        assert!(self.pipes.is_empty(), "connections outlive the stop");
        let late = &self.clients[late];
        let state = oracle::last(late, "sim/gateway/state");
        // Who would have to wait for the journal is told goodbye first.
        if !self.fetching {
            assert_eq!(state.as_deref(), Some("offline"));
        }
        if late.profile.version.is_v5() {
            assert_eq!(late.goodbyes, [ReasonCode::ServerShuttingDown]);
        }
    }

    // ---- one turn of the host

    fn step(&mut self) {
        self.report.steps += 1;
        assert!(self.report.steps < STEPS_MAX, "the run does not end");
        let next_event = self.events.peek().map(|Reverse((at, ..))| *at);
        let next_timer = self.gateway.poll_timeout().map(|(at, _)| at);
        let next = [next_event, next_timer]
            .into_iter()
            .flatten()
            .min()
            .expect("something is always due");
        self.now = self.now.max(next);
        if self.rng.chance(1, 2) {
            // The host is late now and then; not where it would be a question of who is first.
            let late = self.now + Duration::from_micros(self.rng.below(15_000));
            if self.model.next_expiry().is_none_or(|end| end > late) {
                self.now = late;
            }
        }
        // What is ready is reported in any order.
        let mut due = Vec::new();
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= self.now
            && due.len() < 8
        {
            due.push(self.events.pop().expect("peeked").0.2);
        }
        while !due.is_empty() {
            let place = self.rng.below(due.len() as u64) as usize;
            let event = due.swap_remove(place);
            self.handle_event(event);
        }
        let now = at(self.now);
        let timer_before = self.gateway.poll_timeout().map(|(at, _)| at);
        self.gateway.handle_timeout(now);
        if timer_before.is_some_and(|at| at <= self.now && at.as_nanos() > 0) {
            let after = self.gateway.poll_timeout().map(|(at, _)| at);
            let moved = after.is_none_or(|at| at > self.now || at.as_nanos() == 0);
            assert!(
                moved,
                "a timeout that was handled is due again: {after:?} at {:?}",
                self.now
            );
        }
        self.gateway.end_turn(now);
        self.drain_outputs();
        self.model.check_time(self.now);
        while let Some(conn) = self.gateway.poll_resumed() {
            self.gateway
                .handle_input(now, Input::Received { conn, count: 0 });
        }
        self.drain_outputs();
        self.write_out();
        self.drain_outputs();
        self.finish_closing();
    }

    fn handle_event(&mut self, event: Event) {
        let trouble = self.trouble;
        match event {
            Event::Dial(client) => {
                let is_away = client == HOARDER_PLACE && trouble;
                if self.conn_of(client).is_none() && !is_away && !self.closing_time {
                    self.dial(client);
                }
            }
            Event::Redial(client) => {
                if trouble {
                    self.abandon(client);
                    self.dial(client);
                    if self.rng.chance(1, 2) {
                        // CONNECT, and in the same turn something for whoever comes.
                        self.carry(client);
                        self.publish(PUBLISHER);
                        self.carry(PUBLISHER);
                    }
                    self.after_millis(1_000, 15_000, Event::Redial(client));
                }
            }
            Event::Carry(client) => self.carry(client),
            Event::Deliver(conn) => self.deliver(conn),
            Event::Acknowledge(client) => {
                self.clients[client].release_acks();
                self.carry(client);
            }
            Event::Ping(client) => {
                self.clients[client].ping();
                self.carry(client);
                let keep_alive = u64::from(self.clients[client].profile.keep_alive) * 1000;
                self.after_millis(keep_alive / 4, keep_alive / 2, Event::Ping(client));
            }
            Event::Publish(client) => {
                if trouble {
                    for _ in 0..=self.rng.below(2) {
                        self.publish(client);
                    }
                    self.after_millis(5, 1_500, Event::Publish(client));
                }
            }
            Event::Flood => {
                for _ in 0..QUEUE_MESSAGES / 5 {
                    let message = self.message("flood", QoS::AtLeastOnce);
                    self.clients[PUBLISHER].publish(message);
                }
                self.carry(PUBLISHER);
            }
            Event::Cut(client) => {
                if trouble {
                    self.cut(client);
                    self.after_millis(50, 8_000, Event::Cut(client));
                }
            }
            Event::Leave(client) => {
                if trouble {
                    let with_will = self.rng.chance(1, 3);
                    self.leave(client, with_will);
                    self.after_millis(1_000, 15_000, Event::Leave(client));
                }
            }
            Event::Unsubscribe(client) => {
                if trouble {
                    self.clients[client].unsubscribe();
                    self.carry(client);
                    self.after_millis(1_000, 20_000, Event::Unsubscribe(client));
                }
            }
            Event::Transfer(request) => self.end_transfer(request),
            Event::Driven(line, request, active) => self.driven(line, request, active),
            Event::LineBack(line) => self.line_back(line),
            Event::PortBack(port) => self.port_back(port),
            Event::Weigh => {
                if self.port_is_open {
                    self.scale.speak();
                    self.after_millis(0, 5, Event::SerialBytes);
                }
                self.after_millis(500, 4_000, Event::Weigh);
            }
            Event::SerialBytes => self.carry_serial(),
            Event::Door => {
                if trouble {
                    self.set_door(!self.door);
                    self.after_millis(100, 9_000, Event::Door);
                }
            }
            Event::Weather => {
                if trouble {
                    self.chip.half_degrees = self.rng.below(100) as i16 - 20;
                    self.chip.absent = self.rng.chance(1, 4);
                    self.scale.grams = self.rng.below(30_000);
                    if self.rng.chance(1, 4) {
                        self.pull_adapter();
                    }
                    if self.rng.chance(1, 4) {
                        self.lose_line();
                    }
                    self.after_millis(1_000, 12_000, Event::Weather);
                }
            }
        }
    }

    // ---- the network

    fn conn_of(&self, client: usize) -> Option<ConnId> {
        let is_own = |pipe: &Pipe| pipe.client == client && !pipe.is_abandoned;
        let mut own = self.pipes.iter().filter(|(_, pipe)| is_own(pipe));
        own.next().map(|(conn, _)| *conn)
    }

    fn dial(&mut self, client: usize) {
        let listener = self.listener.expect("the gateway listens");
        let conn = self.conns.insert(());
        let pipe = Pipe {
            client,
            is_abandoned: false,
            closing: None,
            to_client: Vec::new(),
        };
        self.pipes.insert(conn, pipe);
        self.clients[client].open();
        self.model.accepted(self.now, conn);
        let peer = Peer::Unix {
            uid: 0,
            pid: client as i32,
        };
        self.input(Input::Accepted {
            conn,
            listener,
            peer,
        });
        self.after_millis(0, 5, Event::Carry(client));
    }

    /// A client's connection ends on its side alone.
    fn abandon(&mut self, client: usize) {
        if let Some(conn) = self.conn_of(client) {
            let pipe = self.pipes.get_mut(&conn).expect("it is there");
            pipe.is_abandoned = true;
            pipe.to_client.clear();
        }
        self.clients[client].cut();
    }

    /// Some of a client's bytes reach the gateway: any number of them.
    fn carry(&mut self, client: usize) {
        let Some(conn) = self.conn_of(client) else {
            return;
        };
        let is_closing = self.pipes[&conn].closing.is_some();
        let waiting = self.clients[client].out.len();
        if waiting == 0 || is_closing {
            return;
        }
        let count = if self.rng.chance(1, 3) {
            self.rng.below(waiting as u64) as usize + 1
        } else {
            waiting
        };
        if let Some(buffer) = self.gateway.recv_buffer(conn) {
            let spare = buffer.spare();
            let count = count.min(spare.len());
            let bytes: Vec<u8> = self.clients[client].out.drain(..count).collect();
            spare[..count].copy_from_slice(&bytes);
            self.model.received(self.now, conn, &bytes);
            self.input(Input::Received { conn, count });
        }
        if !self.clients[client].out.is_empty() {
            self.after_millis(0, 20, Event::Carry(client));
        }
    }

    /// Some of the gateway's bytes reach a client.
    fn deliver(&mut self, conn: ConnId) {
        let Some(pipe) = self.pipes.get_mut(&conn) else {
            return;
        };
        if pipe.is_abandoned {
            return; // The socket fills up.
        }
        let client = pipe.client;
        let waiting = pipe.to_client.len();
        let count = if self.rng.chance(1, 3) {
            self.rng.below(waiting as u64 + 1) as usize
        } else {
            waiting
        };
        let bytes: Vec<u8> = pipe.to_client.drain(..count).collect();
        if !pipe.to_client.is_empty() {
            self.after_millis(0, 20, Event::Deliver(conn));
        }
        self.clients[client].handle_bytes(&bytes);
        if !self.clients[client].out.is_empty() {
            self.after_millis(0, 5, Event::Carry(client));
        }
        if self.clients[client].owes_acks() {
            self.after_millis(0, 120, Event::Acknowledge(client));
        }
    }

    fn cut(&mut self, client: usize) {
        let Some(conn) = self.conn_of(client) else {
            return;
        };
        self.report.cuts += 1;
        if self.rng.chance(1, 4) {
            // Nobody tells the gateway: it finds out by the keep-alive, or by the next connection.
            self.abandon(client);
            return self.after_millis(1, 12_000, Event::Dial(client));
        }
        if self.rng.chance(1, 3) {
            // The last data and the end come together.
            self.clients[client].release_acks();
            self.carry(client);
        }
        if self.pipes[&conn].closing.is_some() {
            return;
        }
        let cause = if self.rng.chance(1, 2) {
            CloseCause::Peer
        } else {
            CloseCause::Failed(104)
        };
        self.clients[client].cut();
        self.end_pipe(conn, cause);
        self.after_millis(1, 4_000, Event::Dial(client));
    }

    fn leave(&mut self, client: usize, with_will: bool) {
        if self.clients[client].leave(with_will) {
            self.after_millis(0, 5, Event::Carry(client));
        }
    }

    fn end_pipe(&mut self, conn: ConnId, cause: CloseCause) {
        self.pipes.remove(&conn).expect("a pipe ends once");
        self.unwritten.remove(&conn);
        self.conns.remove(conn);
        self.model.closed(self.now, conn);
        self.input(Input::Closed { conn, cause });
    }

    fn write_out(&mut self) {
        let mut ready: Vec<ConnId> = Vec::new();
        while let Some(conn) = self.gateway.poll_writable() {
            ready.push(conn);
        }
        // Sockets that could not take everything become writable again some time.
        for conn in core::mem::take(&mut self.unwritten) {
            if self.rng.chance(1, 2) {
                ready.push(conn);
            } else {
                self.unwritten.insert(conn);
            }
        }
        while !ready.is_empty() {
            let place = self.rng.below(ready.len() as u64) as usize;
            let conn = ready.swap_remove(place);
            let room = if self.rng.chance(1, 4) {
                self.rng.below(300) as usize
            } else {
                64 * 1024
            };
            if self.write(conn, room) {
                self.unwritten.insert(conn);
            }
        }
    }

    /// Writes what a socket takes; whether there is more.
    fn write(&mut self, conn: ConnId, room: usize) -> bool {
        let Some(pipe) = self.pipes.get(&conn) else {
            return false;
        };
        let room = room.min(SOCKET_BYTES - pipe.to_client.len().min(SOCKET_BYTES));
        let Some(queue) = self.gateway.fill(at(self.now), conn, 64 * 1024) else {
            return false;
        };
        let mut slices = [IoSlice::new(&[]); 8];
        let count = queue.gather(&mut slices, room);
        let bytes: Vec<u8> = slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        queue.consume(bytes.len());
        let more = !queue.is_empty() || queue.has_more();
        if !bytes.is_empty() {
            self.trace(b"out", &bytes);
            self.model.sent(self.now, conn, &bytes);
            let pipe = self.pipes.get_mut(&conn).expect("looked up");
            pipe.to_client.extend_from_slice(&bytes);
            self.after_millis(0, 10, Event::Deliver(conn));
        }
        more
    }

    /// A connection that the gateway closes is gone once its last bytes are out.
    fn finish_closing(&mut self) {
        let done: Vec<(ConnId, CloseHow)> = self
            .pipes
            .iter()
            .filter_map(|(conn, pipe)| Some((*conn, pipe.closing?)))
            .collect();
        for (conn, how) in done {
            if how != CloseHow::Now {
                let is_stuck = self.pipes[&conn].is_abandoned;
                while self.write(conn, 64 * 1024) && !is_stuck {
                    let pipe = self.pipes.get_mut(&conn).expect("it is there");
                    let bytes = core::mem::take(&mut pipe.to_client);
                    self.clients[pipe.client].handle_bytes(&bytes);
                }
            }
            let pipe = &self.pipes[&conn];
            let client = pipe.client;
            if !pipe.is_abandoned {
                let bytes = pipe.to_client.clone();
                self.clients[client].handle_bytes(&bytes);
                self.clients[client].cut();
                self.after_millis(1, 6_000, Event::Dial(client));
            }
            self.end_pipe(conn, CloseCause::Ours);
        }
    }

    // ---- what clients say

    fn message(&mut self, topic: &str, qos: QoS) -> Outgoing {
        let number = self.published.len();
        let message = Outgoing {
            topic: topic.to_owned(),
            payload: number.to_string().into_bytes(),
            qos,
            retain: false,
            expiry: None,
        };
        self.published.push(message.clone());
        message
    }

    fn publish(&mut self, client: usize) {
        let ears = [PUBLISHER, SUBSCRIBER];
        if !ears.iter().all(|ear| self.clients[*ear].is_subscribed()) {
            return;
        }
        if self.rng.chance(1, 5) {
            let active = self.rng.chance(1, 2);
            let qos = self.any_qos();
            let retain = self.rng.chance(1, 10);
            return self.command(client, active, qos, retain);
        }
        let qos = self.any_qos();
        if self.rng.chance(1, 20) {
            // What the gateway owns is not the clients' to write.
            let message = Outgoing {
                topic: "sim/room/temperature".to_owned(),
                payload: b"forged".to_vec(),
                qos: QoS::AtMostOnce,
                retain: true,
                expiry: None,
            };
            self.clients[client].publish(message);
            return self.after_millis(0, 5, Event::Carry(client));
        }
        let name = self.clients[client].name();
        let mut message = self.message(&format!("app/{name}/{qos}"), qos);
        message.retain = self.rng.chance(1, 3);
        if self.rng.chance(1, 20) {
            // Large enough to be shared, and to be grown into while it arrives.
            let length = self.rng.below(200_000) as usize + 8;
            message.payload.resize(length, b'.');
        }
        if self.rng.chance(1, 6) {
            message.expiry = Some(self.rng.below(8) as u32 + 1);
        }
        if message.retain && self.rng.chance(1, 5) {
            // Without a number one cannot be told from the next, so none may be missing.
            message.payload.clear();
            message.expiry = None;
        }
        *self.published.last_mut().expect("just made") = message.clone();
        self.clients[client].publish(message);
        self.after_millis(0, 5, Event::Carry(client));
    }

    fn command(&mut self, client: usize, active: bool, qos: QoS, retain: bool) {
        self.transactions += 1;
        self.report.commands += 1;
        let number = self.transactions;
        if retain {
            self.retained_transactions.insert(number);
        }
        let payload = format!(r#"{{"value":{active},"transaction":"t{number}"}}"#);
        let command = Outgoing {
            topic: "sim/relay/out/set".to_owned(),
            payload: payload.into_bytes(),
            qos,
            retain,
            expiry: None,
        };
        self.clients[client].publish(command);
        self.after_millis(0, 5, Event::Carry(client));
    }

    fn any_qos(&mut self) -> QoS {
        [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.rng.below(3) as usize]
    }

    // ---- the hardware

    fn end_transfer(&mut self, request: RequestId) {
        let op = self
            .transfers
            .remove(&request)
            .expect("a transfer ends once");
        let outcome: BusOutcome = if self.trouble && self.rng.chance(1, 10) {
            let errors = [
                BusError::NoAnswer,
                BusError::Timeout,
                BusError::Failed(5),
                BusError::Busy,
            ];
            Err(*self.rng.choose(&errors).expect("not empty"))
        } else {
            self.chip.transfer(&op)
        };
        self.report.bus_faults += u64::from(outcome.is_err());
        self.input(Input::Bus { request, outcome });
    }

    fn line_command(&mut self, command: LineCommand) {
        match command {
            LineCommand::Request { line, settings } => {
                let active = match &settings.direction {
                    Direction::Output { initial, .. } => initial.unwrap_or(false),
                    Direction::Input { .. } => self.door,
                };
                let line_state = Line {
                    is_output: matches!(settings.direction, Direction::Output { .. }),
                    active,
                    is_ready: false,
                    edges: 0,
                    settings,
                };
                self.lines.insert(line, line_state);
                self.after_millis(0, 30, Event::LineBack(line));
            }
            LineCommand::Set {
                line,
                request,
                active,
            } => self.after_millis(0, 30, Event::Driven(line, request, active)),
            LineCommand::Read { line } => {
                let active = self.lines[&line].active;
                let event = LineEvent::Level { active };
                self.input(Input::Line { line, event });
            }
            LineCommand::Release { line } => {
                self.lines.remove(&line);
            }
        }
    }

    fn line_back(&mut self, line: LineId) {
        let fails = self.trouble && self.rng.chance(1, 3);
        let door = self.door;
        let Some(state) = self.lines.get_mut(&line) else {
            return;
        };
        let event = if fails {
            self.report.line_faults += 1;
            LineEvent::Lost(Fault::new(FaultKind::BusError, "held by another"))
        } else {
            state.is_ready = true;
            if matches!(state.settings.direction, Direction::Input { .. }) {
                state.active = door;
            }
            let active = state.active;
            LineEvent::Ready { active }
        };
        self.input(Input::Line { line, event });
    }

    fn driven(&mut self, line: LineId, request: RequestId, active: bool) {
        let fails = self.trouble && self.rng.chance(1, 10);
        let Some(state) = self.lines.get_mut(&line) else {
            return;
        };
        if !state.is_ready {
            return; // It was lost meanwhile.
        }
        let outcome = if fails {
            self.report.line_faults += 1;
            Err(Fault::new(FaultKind::BusError, "not now"))
        } else {
            state.active = active;
            Ok(active)
        };
        let event = LineEvent::Set { request, outcome };
        self.input(Input::Line { line, event });
    }

    /// A chip goes away, with one of its lines.
    fn lose_line(&mut self) {
        let ready: Vec<_> = self
            .lines
            .iter()
            .filter(|(_, line)| line.is_ready)
            .map(|(id, _)| *id)
            .collect();
        let Some(line) = self.rng.choose(&ready).copied() else {
            return;
        };
        let state = self.lines.get_mut(&line).expect("listed");
        state.is_ready = false;
        self.report.line_faults += 1;
        let fault = Fault::new(FaultKind::BusError, "the chip is gone");
        let event = LineEvent::Lost(fault);
        self.input(Input::Line { line, event });
    }

    fn set_door(&mut self, open: bool) {
        let changed = self.door != open;
        self.door = open;
        let at = self.now;
        let mut events = Vec::new();
        for (line, state) in &mut self.lines {
            let is_told = match &state.settings.direction {
                Direction::Output { .. } => false,
                Direction::Input { edges, .. } => match edges {
                    Edges::Both => true,
                    Edges::Rising => open,
                    Edges::Falling => !open,
                },
            };
            if is_told && state.is_ready && changed {
                state.active = open;
                state.edges += 1;
                let line_seqno = state.edges;
                let active = open;
                events.push((
                    *line,
                    LineEvent::Edge {
                        at,
                        active,
                        line_seqno,
                    },
                ));
            }
        }
        for (line, event) in events {
            self.input(Input::Line { line, event });
        }
    }

    fn port_command(&mut self, command: &PortCommand) {
        match command {
            PortCommand::Open { port, .. } => {
                self.port = Some(*port);
                self.after_millis(0, 30, Event::PortBack(*port));
            }
            PortCommand::Write { .. } => panic!("nobody writes to the scale"),
            PortCommand::Close { .. } => {
                self.port = None;
                self.port_is_open = false;
            }
        }
    }

    fn port_back(&mut self, port: PortId) {
        if self.port != Some(port) {
            return;
        }
        let event = if self.trouble && self.rng.chance(1, 3) {
            self.report.port_faults += 1;
            PortEvent::Closed(Fault::new(FaultKind::BusError, "no such device"))
        } else {
            self.port_is_open = true;
            self.scale.unsent.clear();
            PortEvent::Opened
        };
        self.input(Input::Port { port, event });
    }

    fn pull_adapter(&mut self) {
        let Some(port) = self.port.filter(|_| self.port_is_open) else {
            return;
        };
        self.port_is_open = false;
        self.scale.unsent.clear();
        self.report.port_faults += 1;
        let event = PortEvent::Closed(Fault::new(FaultKind::BusError, "the adapter is gone"));
        self.input(Input::Port { port, event });
    }

    fn carry_serial(&mut self) {
        let waiting = self.scale.unsent.len();
        let Some(port) = self.port.filter(|_| self.port_is_open && waiting > 0) else {
            return;
        };
        let count = self.rng.below(waiting as u64) as usize + 1;
        let buffer = self.gateway.port_buffer(port).expect("the port is open");
        let spare = buffer.spare();
        let count = count.min(spare.len());
        for (place, byte) in spare.iter_mut().zip(self.scale.unsent.drain(..count)) {
            *place = byte;
        }
        let event = PortEvent::Received { count };
        self.input(Input::Port { port, event });
        if !self.scale.unsent.is_empty() {
            self.after_millis(0, 40, Event::SerialBytes);
        }
    }

    // ---- the boundary

    fn drain_outputs(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            self.trace(b"do", format!("{output:?}").as_bytes());
            match output {
                Output::Listen { listener, .. } => {
                    self.listener = Some(listener);
                    self.input(Input::Listening {
                        listener,
                        outcome: Ok("sim:1883".into()),
                    });
                }
                Output::Bus { request, op, .. } => {
                    self.transfers.insert(request, op);
                    self.after_millis(1, 40, Event::Transfer(request));
                }
                Output::Line(command) => self.line_command(command),
                Output::Port(command) => self.port_command(&command),
                Output::Close { conn, how } => {
                    self.model.close_asked(self.now, conn);
                    if let Some(pipe) = self.pipes.get_mut(&conn) {
                        assert_eq!(pipe.closing, None, "closed twice");
                        pipe.closing = Some(how);
                    }
                }
                Output::Journal(JournalCommand::Fetch { message }) => {
                    assert!(
                        self.fetching,
                        "nothing is fetched when everything is in memory"
                    );
                    self.input(Input::Journal(JournalEvent::Fetched {
                        message,
                        payload: None,
                    }));
                }
                Output::Disk(command) => panic!("nobody asked for {command:?}"),
                Output::Dial { .. } | Output::Undial { .. } | Output::DeadLetter { .. } => {
                    panic!("there is no bridge")
                }
                Output::Notice(notice) => {
                    self.ready |= notice == Notice::Ready;
                    if notice == Notice::Stopped {
                        self.stopped = true;
                        let outputs = self.lines.values().filter(|line| line.is_output);
                        let unsafe_ones = outputs.filter(|line| line.active).count();
                        assert_eq!(unsafe_ones, 0, "stopped, and an output is not safe");
                    }
                }
                Output::OpenBus { .. }
                | Output::CloseBus { .. }
                | Output::Unlisten { .. }
                | Output::Retune { .. } => {}
                Output::Control { .. } | Output::Load { .. } | Output::Verify { .. } => {
                    panic!("nobody asked for {output:?}")
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.trace(b"in", format!("{input:?}").as_bytes());
        self.gateway.handle_input(at(self.now), input);
    }

    fn after_millis(&mut self, least: u64, most: u64, event: Event) {
        let micros = least * 1000 + self.rng.below((most - least) * 1000 + 1);
        self.event_count += 1;
        let when = self.now + Duration::from_micros(micros);
        self.events.push(Reverse((when, self.event_count, event)));
    }

    /// FNV-1a over everything that crosses: cheap, and the same everywhere.
    fn trace(&mut self, kind: &[u8], bytes: &[u8]) {
        for byte in kind.iter().chain(bytes) {
            self.report.trace =
                (self.report.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn profiles(rng: &mut Rng) -> Vec<Profile> {
    let (one, two, zero) = (QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce);
    let any = [zero, one, two][rng.below(3) as usize];
    let mut profile = |name| {
        let version = if rng.chance(1, 2) {
            ProtocolVersion::V5
        } else {
            ProtocolVersion::V4
        };
        let mut profile = Profile::new(name, version);
        profile.receive_maximum = Some(rng.below(6) as u16 + 1);
        profile
    };
    let mut publisher = profile("publisher");
    publisher.filters = vec![("sim/+/+/result", two)];
    let mut subscriber = profile("subscriber");
    subscriber.filters = vec![("app/#", two), ("will/#", two), ("sim/#", one)];
    let mut slow = profile("slow");
    slow.filters = vec![("app/#", one), ("app/publisher/+", zero), ("app/+/2", two)];
    slow.identifier = Some(77);
    let mut drifter = profile("drifter");
    drifter.filters = vec![("app/+/1", one), ("app/+/2", two), ("will/visitor", two)];
    drifter.expiry = 3;
    drifter.keep_alive = 5;
    drifter.leaves_will = true;
    let mut visitor = profile("visitor");
    visitor.filters = vec![("app/#", any), ("will/+", one)];
    visitor.is_clean = true;
    visitor.keep_alive = 4;
    visitor.leaves_will = true;
    let mut hoarder = profile(HOARDER);
    hoarder.filters = vec![("flood", one)];
    let mut witness = profile("witness");
    witness.filters = vec![("sim/#", two)];
    witness.receive_maximum = None;
    vec![
        publisher, subscriber, slow, drifter, visitor, hoarder, witness,
    ]
}

fn at(monotonic: Instant) -> Now {
    let wall =
        WallTime::EARLIEST_PLAUSIBLE.saturating_add(Duration::from_nanos(monotonic.as_nanos()));
    Now { monotonic, wall }
}
