//! The fourth judge: a gateway on a disk that loses its power, the bridges that carry everything up,
//! upstream brokers that are there when they are, and in some worlds a plant (`plant.rs`).
//!
//! Publishers at every QoS, a listener to what comes down, devices that are pulled; connections that
//! are cut at any byte, dials that fail; peers that acknowledge nothing, lose the session, take no
//! such topic, are killed and come back with what they had synced, or with less than they had
//! acknowledged (`peer.rs`); a disk that is late, full and failing; power that goes at any moment;
//! reloads that turn the rules, take a bridge or a device out and bring it back; a clock that is
//! set. In the end everything is in order, and then:
//!
//! * what was acknowledged to its publisher and is kept for a bridge has arrived upstream, but for
//!   what a configured limit has dropped and counted; so have readings that were older than
//!   `sync_within` at each crash;
//! * each topic's messages arrived in order within a lane, what came again left out; with one lane
//!   in order altogether;
//! * at QoS 2 nothing came twice while the session with the upstream broker lived, whatever the
//!   power did; nor has anything that it sent at QoS 2 been heard here twice;
//! * of what is kept as the latest the last has come, and what is retained upstream is what was
//!   retained here last;
//! * what was acknowledged to the upstream broker has come to whoever listens here;
//! * readings of devices have come with their times and numbers, as `plant.rs` says;
//! * what was published while a long backlog was sent, and nothing went wrong, did not wait for it;
//! * nobody waited for ever for a peer that had fallen silent;
//! * memory was bounded while hundreds waited, nothing waits in the end, and nothing is left of the
//!   queues in the journal.
//!
//! `SIM_UPLINK=4711` replays a seed, `SIM_SEEDS=500` says how many there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fieldgate::bridge::Credentials;
use fieldgate::broker::settings::{
    AccessSettings, Effect, Order, Pattern, Rule, Rules, Settings, Who,
};
use fieldgate::buffer::Payload;
use fieldgate::gateway::boundary::{CloseHow, ControlEvent, Dialled, Input, Output};
use fieldgate::id::{BridgeId, ConnId, ControlId};
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    ApplicationMessage, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion,
    PublishProperties, QoS, TopicName,
};
use fieldgate::rng::Rng;
use fieldgate::slab::Key;
use fieldgate::time::{Duration, Instant, WallTime};

use super::disk::Trouble;
use super::ledger::{Arrival, Ledger, area_of};
use super::peer::Peer;
use super::people::Role;
use super::plan::{BAD, BEAT, Plan, people};
use super::plant::{self, Equipment, Plant};
use super::site::{End, Site};

/// Turns after which a run that does not end is a failure.
const TURNS_MAX: u32 = 40_000;

/// After so many nothing goes wrong any more.
const TROUBLE_MAX: u32 = 4_000;

/// What all buffers, queues and tables of the gateway may hold at any time: windows, not backlogs.
const MEMORY_MAX: usize = 4 * 1024 * 1024;

/// The place of a connection that the gateway knows nothing of: behind all of its own.
const STRANGER: u32 = 500;

/// A connection on which nothing is acknowledged lasts no longer: `stalled_after`, and a gateway
/// that was asleep.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is live arrives within this while a backlog of so many is sent.
const BEAT_WITHIN: Duration = Duration::from_millis(250);
const BACKLOG_LONG: u64 = 250;

/// How many messages come down each line.
const DOWN: u32 = 30;

/// What a run did; equal for equal seeds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    pub turns: u64,
    pub cuts: u64,
    pub link_cuts: u64,
    pub crashes: u64,
    pub disk_faults: u64,
    pub unkept: u64,
    pub reloads: u64,
    pub absences: u64,
    pub dials_failed: u64,
    pub failovers: u64,
    pub stalls: u64,
    pub sessions_lost: u64,
    pub clock_steps: u64,
    /// The most that was in the journal alone.
    pub spilled: u64,
    /// Entries that were in the journal when somebody looked first after a crash.
    pub restored: u64,
    pub backlog: u64,
    pub dead_letters: u64,
    pub dropped: u64,
    pub promised: u64,
    /// Readings that had to survive a crash.
    pub readings: u64,
    /// The same, of devices; pulses that were counted; and how often a device was pulled.
    pub told: u64,
    pub pulses: u64,
    pub vanished: u64,
    /// Upstream brokers that were killed; messages that they had taken and not acknowledged then;
    /// and what they had acknowledged and not kept, those that lie.
    pub peer_crashes: u64,
    /// Live messages that have overtaken a long backlog.
    pub beats: u64,
    pub undone: u64,
    pub betrayed: u64,
    pub arrived: u64,
    pub again: u64,
    pub down: u64,
    pub memory: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        let Self {
            turns,
            cuts,
            link_cuts,
            crashes,
            disk_faults,
            unkept,
            reloads,
            absences,
            dials_failed,
            failovers,
            stalls,
            sessions_lost,
            clock_steps,
            spilled,
            restored,
            backlog,
            dead_letters,
            dropped,
            promised,
            readings,
            told,
            pulses,
            vanished,
            peer_crashes,
            beats,
            undone,
            betrayed,
            arrived,
            again,
            down,
            memory,
        } = other;
        self.turns += turns;
        self.cuts += cuts;
        self.link_cuts += link_cuts;
        self.crashes += crashes;
        self.disk_faults += disk_faults;
        self.unkept += unkept;
        self.reloads += reloads;
        self.absences += absences;
        self.dials_failed += dials_failed;
        self.failovers += failovers;
        self.stalls += stalls;
        self.sessions_lost += sessions_lost;
        self.clock_steps += clock_steps;
        self.spilled = self.spilled.max(*spilled);
        self.restored += restored;
        self.backlog += backlog;
        self.dead_letters += dead_letters;
        self.dropped += dropped;
        self.promised += promised;
        self.readings += readings;
        self.told += told;
        self.pulses += pulses;
        self.vanished += vanished;
        self.peer_crashes += peer_crashes;
        self.beats += beats;
        self.undone += undone;
        self.betrayed += betrayed;
        self.arrived += arrived;
        self.again += again;
        self.down += down;
        self.memory = self.memory.max(*memory);
    }

    /// Whether everything that can happen did.
    pub fn has_all(&self) -> bool {
        ![
            self.cuts,
            self.link_cuts,
            self.crashes,
            self.disk_faults,
            self.unkept,
            self.reloads,
            self.absences,
            self.dials_failed,
            self.failovers,
            self.stalls,
            self.sessions_lost,
            self.clock_steps,
            self.spilled,
            self.restored,
            self.backlog,
            self.dead_letters,
            self.dropped,
            self.readings,
            self.told,
            self.pulses,
            self.vanished,
            self.peer_crashes,
            self.beats,
            self.undone,
            self.betrayed,
            self.again,
            self.down,
        ]
        .contains(&0)
    }
}

/// A bridge's peer, and the network between them.
struct Link {
    upstream: Peer,
    dial: Option<(BridgeId, Instant)>,
    /// An address was tried and failed since it was up last.
    has_failed: bool,
    conn: Option<ConnId>,
    version: ProtocolVersion,
    /// It was spoken to as one of 3.1.1 once: what was under way then says no more later.
    was_old: bool,
    /// What is on its way to the peer, and from it.
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    /// What the peer has had of a packet that is not complete.
    half: Vec<u8>,
    /// Until then no dial succeeds, and nothing that is said reaches the peer.
    dead_until: Instant,
    stalled_until: Instant,
    /// The connection on which the peer takes everything and says nothing any more, and since when
    /// the bridge has waited for an answer on it.
    mute: Option<(ConnId, Option<Instant>)>,
    /// What comes down: how many were published, which identifier has which, and which of them
    /// were acknowledged.
    published: u32,
    named: BTreeMap<PacketId, u32>,
    acknowledged: BTreeSet<u32>,
    /// Of the counters, in processes and bridges before this one.
    before: Counts,
}

/// A message that is to overtake the backlog on a line, while that has this connection.
struct Beat {
    line: usize,
    conn: ConnId,
    number: u32,
}

/// Of a bridge's counters.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    dropped: u64,
    stalled: u64,
}

pub struct World {
    site: Site,
    plan: Plan,
    links: Vec<Link>,
    ledger: Ledger,
    plant: Option<Plant>,
    /// One a line.
    beats: Vec<Beat>,
    /// Of what happens to upstream brokers.
    fate: Rng,
    /// Things go wrong with the disk, with the power, with the links, with the configuration.
    moods: [bool; 4],
    /// Since when the disk is in order.
    disk_calm: Option<Instant>,
    /// When the gateway was last asleep for longer than a turn.
    jumped: Instant,
    next_stranger: u32,
    /// Nobody has looked since the power came back.
    is_new: bool,
    answer: Option<serde_json::Value>,
    report: Report,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let mut fate = Rng::from_seed(seed ^ 0x5eed_fa7e);
        // Few have all: most seeds are to be small.
        let equipment = fate.chance(1, 3).then(|| Equipment::draw(&mut fate));
        let plan = Plan::draw(&mut rng, equipment);
        let moods = std::array::from_fn(|_| rng.chance(2, 3));
        let clients = people(&mut rng);
        let site = Site::new(rng.fork(), plan.config(), clients);
        let mut links: Vec<Link> = plan
            .lines
            .iter()
            .map(|_| Link::new(&mut rng, &mut fate))
            .collect();
        for link in &mut links {
            // Often nobody is there for a while, so that a backlog comes up.
            link.dead_until = site.now + Duration::from_millis(rng.below(6_000));
        }
        let disk_calm = Some(Instant::default());
        Self {
            ledger: Ledger::new(plan.lines.len()),
            plant: equipment.map(|it| Plant::new(fate.fork(), it)),
            beats: Vec::new(),
            fate,
            site,
            plan,
            links,
            moods,
            disk_calm,
            jumped: Instant::default(),
            next_stranger: 0,
            is_new: false,
            answer: None,
            report: Report::default(),
        }
    }

    pub fn run(mut self) -> Report {
        self.site.pace = 2;
        let mut calm_since = None;
        for turn in 0..TURNS_MAX {
            self.turn();
            self.report.turns += 1;
            let is_done = self.are_senders_done();
            if self.site.trouble && (turn > TROUBLE_MAX || is_done && turn > TROUBLE_MAX / 2) {
                self.end_trouble();
            }
            if turn % 50 == 0 {
                self.look();
            }
            if !self.site.trouble && turn % 20 == 0 {
                let is_calm = is_done && self.is_drained();
                // A moment more, so that what is under way comes, and what should not has time to.
                let since = *calm_since.get_or_insert(turn);
                if !is_calm {
                    calm_since = None;
                } else if turn - since > 120 && self.has_heard_all() || turn - since > 1000 {
                    self.judge();
                    return self.report;
                }
            }
        }
        let status = self.ask(r#"{"verb":"status"}"#);
        panic!(
            "not all is delivered after so long: senders done: {}, {} {}",
            self.are_senders_done(),
            status["bridges"],
            status["journal"],
        );
    }

    fn are_senders_done(&self) -> bool {
        self.site.clients.iter().all(|client| match &client.role {
            Role::Sender(sender) => sender.is_done(),
            Role::Taker(_) => true,
        })
    }

    fn end_trouble(&mut self) {
        self.site.trouble = false;
        self.site.disk.set_trouble(Trouble::none());
        for link in &mut self.links {
            link.dead_until = self.site.now;
            link.stalled_until = self.site.now;
        }
        if let Some(plant) = &mut self.plant {
            plant.end_trouble();
            self.plan.equipment = Some(plant.equipment);
            self.site.reload(self.plan.config());
        }
        if self.plan.lines.iter().any(|line| !line.is_there) {
            self.bring_back();
        }
    }

    /// Whether nothing waits for any bridge, and everything that came down was heard.
    fn is_drained(&mut self) -> bool {
        let queues = self.ask(r#"{"verb":"queue"}"#);
        let bridges = queues["bridges"].as_object().cloned().unwrap_or_default();
        bridges.len() == self.links.len()
            && self.site.gateway.broker().stats().queued == 0
            && bridges
                .values()
                .all(|queue| queue["messages"] == 0 && queue["state"] == "up")
            && self.links.iter().all(|link| link.published == DOWN)
    }

    /// Asks the gateway something, as a control client does.
    fn ask(&mut self, line: &str) -> serde_json::Value {
        self.answer = None;
        let client = ControlId::from_parts(0, 0);
        let event = ControlEvent::Line(line.as_bytes().into());
        self.site.input(Input::Control { client, event });
        self.obey();
        let mut answer = self.answer.take().expect("it answers at once");
        answer["data"].take()
    }

    fn counts(&self, status: &serde_json::Value, index: usize) -> Counts {
        let counters = &status["bridges"][self.plan.lines[index].name]["counters"];
        let of = |name: &str| counters[name].as_u64().unwrap_or(0);
        let dropped = [
            "dropped_full",
            "dropped_over_budget",
            "dropped_aged",
            "expired",
            "dropped_unkept",
        ];
        Counts {
            dropped: dropped.into_iter().map(of).sum(),
            stalled: of("stalled"),
        }
    }

    /// Looks at how things are.
    fn look(&mut self) {
        let status = self.ask(r#"{"verb":"status"}"#);
        log::debug!("{}", status["bridges"]);
        for (line, link) in self.plan.lines.iter().zip(&mut self.links) {
            link.is_noticed(&status["bridges"][line.name], self.site.now);
            let on_disk = status["bridges"][line.name]["on_disk"].as_u64();
            let on_disk = on_disk.unwrap_or(0);
            self.report.spilled = self.report.spilled.max(on_disk);
            self.report.restored += on_disk * u64::from(self.is_new);
        }
        self.beat(&status);
        self.is_new = false;
        let used = self.site.gateway.memory().used();
        self.report.memory = self.report.memory.max(used as u64);
        assert!(used < MEMORY_MAX, "{used} bytes are held");
    }

    /// While a line has a long backlog and nothing goes wrong, something is published.
    fn beat(&mut self, status: &serde_json::Value) {
        let (now, is_over) = (self.site.now, self.are_senders_done());
        let links = &self.links;
        self.beats
            .retain(|beat| links[beat.line].speaks_on() == Some(beat.conn));
        let name = format!("p-{BEAT}");
        let clients = &mut self.site.clients;
        let sender = clients.iter_mut().find(|client| client.name == name);
        let Some(Role::Sender(sender)) = sender.map(|client| &mut client.role) else {
            panic!("there is one who publishes that");
        };
        for beat in &self.beats {
            // A journal that is full does not take it.
            let since = sender.promised.get(&beat.number);
            let waited = since.map_or(Duration::ZERO, |since| now.since(*since));
            assert!(waited < BEAT_WITHIN, "behind the backlog for {waited:?}");
        }
        if self.site.trouble || !is_over {
            return;
        }
        for line in 0..self.plan.lines.len() {
            let status = &status["bridges"][self.plan.lines[line].name];
            let backlog = status["backlog"].as_u64().unwrap_or(0);
            let queue = status["queue"].as_u64().unwrap_or(0);
            // What else is live and waits is few.
            let is_up =
                status["state"] == "up" && self.plan.lines[line].is_slow() && queue - backlog < 8;
            let has_one = self.beats.iter().any(|beat| beat.line == line);
            let Some(conn) = self.links[line].speaks_on() else {
                continue;
            };
            if !is_up || backlog < BACKLOG_LONG || has_one {
                continue;
            }
            let beat = Beat {
                line,
                conn,
                number: sender.messages,
            };
            sender.messages += 1;
            self.beats.push(beat);
        }
    }

    /// What the process has counted is about to be forgotten.
    fn count(&mut self, only: Option<usize>) {
        let status = self.ask(r#"{"verb":"status"}"#);
        for index in 0..self.links.len() {
            if only.is_none_or(|only| only == index) && self.plan.lines[index].is_there {
                let Counts { dropped, stalled } = self.counts(&status, index);
                let before = &mut self.links[index].before;
                before.dropped += dropped;
                before.stalled += stalled;
            }
        }
    }

    // ---- trouble

    fn trouble_somebody(&mut self) {
        let [disk, power, network, config] = self.moods;
        let draw = self.site.rng.below(1_000);
        let at = self.site.rng.below(self.links.len() as u64) as usize;
        let now = self.site.now;
        match draw {
            0..6 => {
                let index = self.site.rng.below(self.site.clients.len() as u64) as usize;
                self.site.cut(index);
            }
            6..8 if power => self.crash(),
            8..10 if disk => {
                let trouble = Trouble::some(&mut self.site.rng);
                self.site.disk.set_trouble(trouble);
                self.disk_calm = None;
            }
            10..18 if self.disk_calm.is_none() => {
                self.site.disk.set_trouble(Trouble::none());
                self.disk_calm = Some(now);
            }
            18..24 if network => self.cut_link(at, true),
            24..26 if network => {
                let millis = self.site.rng.below(5_000);
                self.links[at].dead_until = now + Duration::from_millis(millis);
                self.cut_link(at, true);
            }
            26..32 if network => {
                let millis = 2_500 + self.site.rng.below(3_000);
                self.links[at].stalled_until = now + Duration::from_millis(millis);
            }
            32..33 if network => self.lose_session(at),
            33..35 if config => self.reload(at),
            35..37 if config && !self.plan.lines[at].is_there => self.bring_back(),
            37..38 => {
                self.report.clock_steps += 1;
                let step = Duration::from_secs(self.site.rng.below(86_400));
                self.site.wall = if self.site.rng.chance(1, 2) {
                    self.site.wall.saturating_add(step)
                } else {
                    let earlier = self.site.wall.unix_millis() - step.as_millis() as i64;
                    WallTime::from_unix_millis(earlier)
                };
            }
            38..42 => {
                let jump = Duration::from_millis(self.site.rng.below(400));
                self.site.advance(jump);
                self.jumped = self.site.now;
            }
            _ => {}
        }
    }

    fn trouble_peers(&mut self) {
        for index in 0..self.links.len() {
            if self.fate.chance(1, 2_000) {
                let link = &mut self.links[index];
                link.mute = link.conn.map(|conn| (conn, None));
            }
            if self.links[index].upstream.is_mortal() && self.fate.chance(1, 1_000) {
                self.crash_peer(index);
            }
        }
    }

    /// What has arrived belongs to the epoch that ends now.
    fn end_epoch(&mut self, index: usize) {
        self.links[index].upstream.sync();
        self.arrive(index);
    }

    fn crash(&mut self) {
        for index in 0..self.links.len() {
            self.end_epoch(index);
        }
        self.count(None);
        let is_calm = self
            .disk_calm
            .is_some_and(|since| since + Duration::from_millis(2_500) < self.site.now);
        let is_awake = self.jumped + Duration::from_millis(150) < self.site.now;
        let is_kept = self.site.gateway.broker().stats().unkept == 0;
        let is_certain = is_calm && is_awake && is_kept;
        self.report.readings += self.ledger.crash(&self.site, is_certain);
        if let Some(plant) = &mut self.plant {
            self.report.told += plant.crash(self.site.now, is_certain);
        }
        for index in 0..self.links.len() {
            self.cut_link(index, false);
            self.links[index].dial = None;
        }
        self.site.crash();
        self.is_new = true;
    }

    fn reload(&mut self, at: usize) {
        self.report.reloads += 1;
        if self.plan.lines[at].is_there && self.site.rng.chance(1, 5) {
            self.report.absences += 1;
            self.end_epoch(at);
            self.count(Some(at));
            let is_kept = self.site.gateway.broker().stats().unkept == 0;
            self.ledger.leave(at, &self.site, is_kept);
            if let Some(plant) = &mut self.plant {
                plant.leave(at, is_kept);
            }
            self.plan.lines[at].is_there = false;
        } else if let Some(plant) = &mut self.plant
            && self.fate.chance(1, 4)
        {
            plant.reconfigure();
            self.plan.equipment = Some(plant.equipment);
        } else {
            self.plan.lines[at].change(&mut self.site.rng);
        }
        self.site.reload(self.plan.config());
    }

    fn bring_back(&mut self) {
        for at in 0..self.plan.lines.len() {
            if !self.plan.lines[at].is_there {
                self.end_epoch(at);
                self.plan.lines[at].is_there = true;
                self.ledger.come_back(at, &self.site);
                if let Some(plant) = &mut self.plant {
                    plant.come_back(at);
                }
            }
        }
        self.site.reload(self.plan.config());
    }

    /// The connection of a bridge is gone, and what was on its way; `is_told`: the gateway hears of
    /// it.
    fn cut_link(&mut self, index: usize, is_told: bool) {
        let now = self.site.at();
        let link = &mut self.links[index];
        let Some(conn) = link.conn.take() else {
            return;
        };
        link.forget_connection();
        link.upstream.lose(now, conn);
        if is_told {
            self.report.link_cuts += 1;
            self.site.cut_conn(conn);
        }
    }

    /// The upstream broker has forgotten the bridge's session: another client has taken it over,
    /// and ended it.
    fn lose_session(&mut self, index: usize) {
        self.report.sessions_lost += 1;
        self.end_epoch(index);
        self.ledger.lose_session(index);
        self.next_stranger += 1;
        let stranger = ConnId::from_parts(STRANGER, self.next_stranger);
        let client_id = format!("edge-{}", self.plan.lines[index].name);
        let mut bytes = Vec::new();
        Packet::Connect(Connect {
            version: ProtocolVersion::V5,
            client_id: &client_id,
            clean_start: true,
            keep_alive: 0,
            properties: ConnectProperties::default(),
            will: None,
            username: None,
            password: None,
        })
        .encode_into(ProtocolVersion::V5, &mut bytes);
        let now = self.site.at();
        let upstream = &mut self.links[index].upstream;
        upstream.accept(now, stranger);
        upstream.feed(now, stranger, &bytes);
        upstream.say(now, stranger);
        upstream.lose(now, stranger);
        upstream.sync();
    }

    /// The process of an upstream broker is killed, and it is back after a while; sometimes it
    /// keeps no sessions.
    fn crash_peer(&mut self, index: usize) {
        self.report.peer_crashes += 1;
        let off = Duration::from_millis(self.fate.below(3_000));
        self.links[index].dead_until = self.site.now + off;
        self.cut_link(index, true);
        let now = self.site.at();
        let peer = &mut self.links[index].upstream;
        peer.crash(now);
        let is_liar = peer.is_liar();
        if is_liar {
            self.ledger.betray(index);
        }
        if self.fate.chance(1, 3) {
            self.lose_session(index);
        }
    }

    // ---- turns

    fn turn(&mut self) {
        if self.site.trouble {
            self.trouble_somebody();
            self.trouble_peers();
            self.obey();
        }
        if let Some(plant) = &mut self.plant {
            plant.turn(&mut self.site);
        }
        self.site.turn();
        if let Some(plant) = &mut self.plant {
            plant.end_turn(&self.site, self.disk_calm.is_some());
        }
        self.obey();
        for (conn, bytes) in std::mem::take(&mut self.site.said) {
            let link = self.links.iter_mut().find(|link| link.conn == Some(conn));
            if let Some(link) = link {
                link.up.extend(bytes);
            }
        }
        for index in 0..self.links.len() {
            self.answer_dial(index);
            self.publish_down(index);
            self.carry(index);
            self.arrive(index);
        }
        self.report.cuts = self.site.cuts;
        self.report.crashes = self.site.crashes;
    }

    /// Does what the gateway has asked for.
    fn obey(&mut self) {
        while let Some(output) = self.site.outputs.pop_front() {
            let output = match &mut self.plant {
                Some(plant) => plant.obey(self.site.now, output),
                None => Some(output),
            };
            let Some(output) = output else { continue };
            match output {
                Output::Dial { bridge, target } => {
                    let host = target.endpoint.to_string();
                    let index = self.line_of(&host);
                    let link = &mut self.links[index];
                    let millis = self.site.rng.below(30);
                    link.dial = Some((bridge, self.site.now + Duration::from_millis(millis)));
                    let is_other = host.contains("two");
                    self.report.failovers += u64::from(is_other && link.has_failed);
                }
                Output::Undial { bridge } => {
                    for link in &mut self.links {
                        link.dial = link.dial.filter(|(it, _)| *it != bridge);
                    }
                }
                Output::Close { conn, how } => self.close(conn, how),
                Output::DeadLetter { line, .. } => {
                    let letter: serde_json::Value =
                        serde_json::from_str(&line).expect("a letter is JSON");
                    let topic = letter["topic"].as_str().expect("a topic");
                    assert!(topic.contains(BAD), "a dead letter: {letter}");
                    self.report.dead_letters += 1;
                }
                Output::Control { line, .. } => {
                    self.answer = Some(serde_json::from_str(&line).expect("an answer is JSON"));
                }
                _ => {}
            }
        }
    }

    /// Whose address it is.
    fn line_of(&self, host: &str) -> usize {
        let lines = &mut self.plan.lines.iter();
        let found = lines.position(|line| host.contains(line.name));
        found.expect("a bridge's addresses have its name")
    }

    fn close(&mut self, conn: ConnId, how: CloseHow) {
        let found = self.links.iter().position(|link| link.conn == Some(conn));
        let Some(index) = found else {
            return self.site.closed(conn);
        };
        if matches!(how, CloseHow::AfterFlush { .. })
            && (!self.site.trouble || self.site.rng.chance(1, 2))
        {
            while self.site.write_to(conn) {}
            let now = self.site.at();
            let said = std::mem::take(&mut self.site.said);
            let link = &mut self.links[index];
            let (mine, others) = said.into_iter().partition(|(it, _)| *it == conn);
            self.site.said = others;
            let mine: Vec<(ConnId, Vec<u8>)> = mine;
            link.up
                .extend(mine.into_iter().flat_map(|(_, bytes)| bytes));
            let bytes: Vec<u8> = link.up.drain(..).collect();
            link.hear(&bytes);
            link.upstream.feed(now, conn, &bytes);
            self.arrive(index);
        }
        self.cut_link(index, false);
        self.site.closed(conn);
    }

    fn answer_dial(&mut self, index: usize) {
        let link = &mut self.links[index];
        let now = self.site.now;
        let Some((bridge, at)) = link.dial else {
            return;
        };
        if at > now {
            return;
        }
        link.dial = None;
        let is_dead = now < link.dead_until || self.site.trouble && self.site.rng.chance(1, 5);
        if is_dead {
            link.has_failed = true;
            self.report.dials_failed += 1;
            let outcome = Err("no route to host".into());
            return self.site.input(Input::Dialled { bridge, outcome });
        }
        link.has_failed = false;
        // Of an address that is left for a better one the old connection is closed in a moment.
        self.cut_link(index, true);
        let conn = self.site.conns.insert(End::Dialled(index));
        let link = &mut self.links[index];
        link.conn = Some(conn);
        link.upstream.accept(self.site.at(), conn);
        let credentials = Credentials::default();
        let outcome = Ok(Dialled { conn, credentials });
        self.site.input(Input::Dialled { bridge, outcome });
    }

    fn publish_down(&mut self, index: usize) {
        let link = &mut self.links[index];
        // Who has not subscribed yet hears nothing.
        let is_heard = self.site.clients.iter().any(|client| match &client.role {
            Role::Taker(taker) => taker.is_subscribed,
            Role::Sender(_) => false,
        });
        let is_up = link.conn.is_some() && is_heard;
        if link.published < DOWN && (!self.site.trouble || is_up && self.site.rng.chance(1, 40)) {
            let (below, qos) = match link.published % 2 {
                0 => ("x", QoS::AtLeastOnce),
                _ => ("once", QoS::ExactlyOnce),
            };
            let topic = format!("down/{}/{below}", self.plan.lines[index].name);
            let topic = TopicName::new(&topic).expect("a topic");
            let payload = Payload::copy_from(link.published.to_string().as_bytes());
            let properties = PublishProperties::default();
            let message =
                ApplicationMessage::new(topic, payload, qos, false, &properties, self.site.now);
            link.upstream.publish(self.site.at(), &message);
            link.published += 1;
        }
    }

    /// Some bytes go each way.
    fn carry(&mut self, index: usize) {
        let now = self.site.at();
        let trouble = self.site.trouble;
        let mut some = |most: u64| {
            if trouble {
                self.site.rng.below(most) as usize
            } else {
                usize::MAX
            }
        };
        let (up, down) = (some(1500), some(600));
        let link = &mut self.links[index];
        link.upstream.tick(now);
        let Some(conn) = link.conn else {
            return;
        };
        if self.site.now >= link.stalled_until {
            let count = link.up.len().min(up);
            let bytes: Vec<u8> = link.up.drain(..count).collect();
            link.hear(&bytes);
            link.upstream.feed(now, conn, &bytes);
            // Who lies takes its time.
            let seldom = if link.upstream.is_liar() { 40 } else { 3 };
            if !self.site.trouble || self.fate.chance(1, seldom) {
                link.upstream.sync();
            }
            let bytes = link.upstream.say(now, conn);
            if link.mute.is_none_or(|(it, _)| it != conn) {
                link.say(&bytes);
            }
        }
        let mut bytes = std::mem::take(&mut link.down);
        self.site.receive(conn, &mut bytes, down);
        let link = &mut self.links[index];
        link.down = bytes;
        if link.upstream.has_closed(conn) {
            self.cut_link(index, true);
        }
    }

    /// What has arrived upstream.
    fn arrive(&mut self, index: usize) {
        let is_v5 = self.plan.lines[index].is_v5();
        for arrived in self.links[index].upstream.arrived() {
            if arrived.topic.starts_with("down/") {
                continue;
            }
            log::debug!("line {index} {arrived:?}");
            let (head, topic) = arrived.topic.split_once('/').expect("it was mapped");
            if let Some(plant) = &mut self.plant
                && topic.starts_with(plant::BASE)
            {
                let is_v5 = !self.links[index].was_old;
                let properties = (arrived.time.as_deref(), arrived.seq.as_deref());
                plant.arrive(
                    index,
                    (topic, &arrived.payload),
                    is_v5.then_some(properties),
                    is_v5.then_some(arrived.is_backlog),
                    self.ledger.epoch(index),
                );
                continue;
            }
            let number = arrived.payload.trim().parse().expect("a number");
            // A peer of 5.0 whose first word was cut off is spoken to as one of 3.1.1, once.
            let is_backlog = if !self.links[index].was_old {
                Some(arrived.is_backlog)
            } else if !is_v5 && area_of(topic).1.has_backlog_topic() {
                Some(head == "old")
            } else {
                None
            };
            assert!(head == "up" || head == "old" && !is_v5, "{arrived:?}");
            let is_it = |beat: &Beat| (beat.line, beat.number) == (index, number);
            if topic.starts_with(BEAT)
                && let Some(at) = self.beats.iter().position(is_it)
            {
                self.report.beats += 1;
                self.beats.swap_remove(at);
            }
            self.report.backlog += u64::from(is_backlog == Some(true));
            self.ledger.arrive(
                index,
                Arrival {
                    topic: topic.to_owned(),
                    number,
                    is_backlog,
                },
            );
        }
    }

    // ---- the end

    fn judge(&mut self) {
        let status = self.ask(r#"{"verb":"status"}"#);
        for index in 0..self.links.len() {
            let Counts { dropped, stalled } = self.counts(&status, index);
            let dropped = dropped + self.links[index].before.dropped;
            self.report.dropped += dropped;
            self.report.stalls += stalled + self.links[index].before.stalled;
            let missing = self.plant.as_ref().map(|plant| plant.judge(index));
            let missing = missing.unwrap_or_default();
            self.ledger.judge(index, &self.site, missing, dropped);
            let peer = &mut self.links[index].upstream;
            self.report.undone += peer.undone;
            self.report.betrayed += peer.betrayed;
            if !peer.is_liar() && dropped == 0 {
                let retained = peer.retained(self.site.at());
                Ledger::judge_retained(&self.site, &retained);
                if let Some(plant) = &self.plant {
                    plant.judge_retained(index, &retained);
                }
            }
            self.judge_down(index);
        }
        if let Some(plant) = &self.plant {
            self.report.pulses = plant.pulses;
            self.report.vanished = plant.vanished;
        }
        let stats = self.site.gateway.broker().stats();
        assert_eq!(stats.queued, 0, "nothing is left in a queue");
        assert_eq!(stats.unrecovered, 0, "what was written can be read");
        assert_eq!(self.site.gateway.broker().held(), 0, "nothing is held back");
        self.report.unkept = self.site.unkept + stats.unkept;
        self.report.disk_faults = self.site.disk.faults();
        let (promised, arrived, again) = self.ledger.totals(&self.site);
        self.report.promised = promised;
        self.report.arrived = arrived;
        self.report.again = again;
        // Without their bridges the queues say themselves what is in them.
        for line in &mut self.plan.lines {
            line.is_there = false;
        }
        self.site.reload(self.plan.config());
        let queues = self.ask(r#"{"verb":"queue"}"#);
        let bridges = queues["bridges"].as_object().cloned().unwrap_or_default();
        assert_eq!(bridges.len(), self.links.len(), "{queues}");
        for queue in bridges.values() {
            let left = (&queue["messages"], &queue["bytes"]);
            assert_eq!(
                left,
                (&0.into(), &0.into()),
                "left in the journal: {queues}"
            );
        }
    }

    /// What has come down a line to whoever listens here.
    fn heard(&self, index: usize) -> impl Iterator<Item = (&str, u32)> {
        let below = format!("down/{}/", self.plan.lines[index].name);
        self.site
            .clients
            .iter()
            .filter_map(|client| match &client.role {
                Role::Taker(taker) => Some(taker),
                Role::Sender(_) => None,
            })
            .flat_map(|taker| &taker.got)
            .filter(move |(topic, ..)| topic.starts_with(&below))
            .map(|(topic, _, number)| (topic.as_str(), *number))
    }

    /// Of what was acknowledged upstream.
    fn not_heard(&self, index: usize) -> Vec<u32> {
        let link = &self.links[index];
        let heard: BTreeSet<u32> = self.heard(index).map(|(_, number)| number).collect();
        let missing = link.acknowledged.difference(&heard).copied();
        missing
            .filter(|number| !link.upstream.is_liar() || *number % 2 == 0)
            .collect()
    }

    fn has_heard_all(&self) -> bool {
        (0..self.links.len()).all(|index| self.not_heard(index).is_empty())
    }

    /// What was acknowledged upstream has been heard here.
    fn judge_down(&mut self, index: usize) {
        let link = &self.links[index];
        // Who has forgotten which identifier it gave to which message of QoS 2, gives it to another
        // while it still stands for the first.
        let is_confused = link.upstream.is_liar();
        let mut heard = BTreeSet::new();
        for (topic, number) in self.heard(index) {
            let is_new = heard.insert(number);
            let is_once = is_new || number % 2 == 0 || is_confused;
            assert!(is_once, "heard twice: {topic} {number}");
        }
        let missing = self.not_heard(index);
        assert!(
            missing.is_empty(),
            "acknowledged and not heard: {missing:?}"
        );
        self.report.down += link.acknowledged.len() as u64;
    }
}

impl Link {
    fn new(rng: &mut Rng, fate: &mut Rng) -> Self {
        let deny = Rule {
            who: Who::Everybody,
            effect: Effect::Deny,
            publish: true,
            subscribe: false,
            filter: Pattern::literal(&format!("+/+/{BAD}/#")).expect("a filter"),
            own: false,
        };
        let rules = Rules {
            list: vec![deny],
            order: Order::FirstMatch,
            default: Effect::Allow,
        };
        let settings = Settings {
            receive_maximum: 1 + rng.below(20) as u16,
            topic_alias_maximum: rng.below(4) as u16,
            access: AccessSettings {
                users: None,
                rules: Some(rules),
                secret: None,
            },
            ..Settings::default()
        };
        let is_mortal = fate.chance(1, 3);
        let is_liar = is_mortal && fate.chance(1, 4);
        Self {
            upstream: Peer::new(settings, is_mortal, is_liar),
            dial: None,
            has_failed: false,
            conn: None,
            version: ProtocolVersion::V5,
            was_old: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            half: Vec::new(),
            dead_until: Instant::default(),
            stalled_until: Instant::default(),
            mute: None,
            published: 0,
            named: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            before: Counts::default(),
        }
    }

    /// A bridge that waits for an answer that never comes does not do so for ever.
    fn is_noticed(&mut self, status: &serde_json::Value, now: Instant) {
        let Some((conn, since)) = &mut self.mute else {
            return;
        };
        // What waits for the bridge's own disk is not awaited of its peer.
        let waits = status["inflight"].as_u64() > status["waiting_for_disk"].as_u64();
        if self.conn != Some(*conn) {
            self.mute = None;
        } else if !waits {
            *since = None;
        } else if status["state"] == "up" {
            let since = *since.get_or_insert(now);
            let waited = now.since(since);
            assert!(waited < PATIENCE, "nothing is acknowledged, and it waits");
        }
    }

    /// Its connection, if it says anything there.
    fn speaks_on(&self) -> Option<ConnId> {
        let conn = self.conn?;
        let is_mute = self.mute.is_some_and(|(mute, _)| mute == conn);
        (!is_mute).then_some(conn)
    }

    fn forget_connection(&mut self) {
        self.up.clear();
        self.down.clear();
        self.half.clear();
    }

    /// What the peer is told: it may acknowledge what came down.
    fn hear(&mut self, bytes: &[u8]) {
        self.half.extend_from_slice(bytes);
        let mut at = 0;
        while let Ok(Frame::Complete { total_len, .. }) = frame::peek(&self.half[at..], 1 << 20) {
            match Packet::parse(self.version, &self.half[at..at + total_len]) {
                Ok(Packet::Connect(connect)) => {
                    self.version = connect.version;
                    self.was_old |= !connect.version.is_v5();
                }
                Ok(Packet::Puback(ack) | Packet::Pubrec(ack)) if !ack.reason.is_error() => {
                    self.acknowledged.extend(self.named.get(&ack.packet_id));
                }
                Ok(_) => {}
                Err(error) => panic!("the bridge says nonsense: {error}"),
            }
            at += total_len;
        }
        self.half.drain(..at);
    }

    /// What the peer says, whole packets.
    fn say(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Ok(Frame::Complete { total_len, .. }) = frame::peek(&bytes[at..], 1 << 20) {
            if let Ok(Packet::Publish(publish)) =
                Packet::parse(self.version, &bytes[at..at + total_len])
                && let Some(id) = publish.packet_id
            {
                let text = std::str::from_utf8(publish.payload).expect("a number");
                self.named.insert(id, text.parse().expect("a number"));
            }
            at += total_len;
        }
        assert_eq!(at, bytes.len(), "whole packets are said");
        self.down.extend(bytes);
    }
}
