//! One measured run: connects, subscribes, warms up, publishes, and counts what arrives.
//!
//! One thread drives all connections, with packets that were encoded before. With a rate the k-th
//! message is *due* at a time that depends on nothing but k, and its latency runs from there,
//! whenever it could really be sent: a broker that stalls is charged for every message that should
//! have gone meanwhile (coordinated omission corrected). Without a rate as many messages are under
//! way as the window allows, and latency runs from the moment of sending: that is a measure of
//! throughput, and its latencies are no more than the window divided by it.

use std::collections::BTreeMap;

use crate::cli::Failure;
use crate::cli::client::random_id;
use crate::host::dial::Address;
use crate::host::swarm::{self, Swarm};
use crate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use crate::mqtt::{
    Connect, ConnectProperties, Disconnect, Packet, PacketId, PacketType, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, Subscribe, SubscribeProperties, SubscriptionOptions,
    SubscriptionRequest, SubscriptionRequests, TopicAlias, TopicFilter, UserPropertiesBuf,
};
use crate::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::histogram::Histogram;
use super::process::Process;

/// Who publishes to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// Many publishers, one subscriber.
    FanIn,
    /// One publisher, many subscribers.
    FanOut,
    /// Pairs, each with a topic of its own.
    PointToPoint,
    /// Clients with ten subscriptions each, nine of them with wildcards, 4.5 of all for a topic.
    Wildcards,
    /// To a client that is away: what is counted is what was acknowledged.
    Queue,
    /// What was queued for a client, once it is back.
    Drain,
}

impl Workload {
    pub(super) const ALL: [Self; 6] = [
        Self::FanIn,
        Self::FanOut,
        Self::PointToPoint,
        Self::Wildcards,
        Self::Queue,
        Self::Drain,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FanIn => "fan-in",
            Self::FanOut => "fan-out",
            Self::PointToPoint => "p2p",
            Self::Wildcards => "wildcards",
            Self::Queue => "queue",
            Self::Drain => "drain",
        }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) workload: Workload,
    /// Publishers of a fan-in, a queue or a drain, subscribers of a fan-out, pairs, clients with
    /// wildcards.
    pub(super) clients: usize,
    /// Over which the publications of a fan go in turn; pairs have one each.
    pub(super) topics: usize,
    pub(super) qos: QoS,
    /// Bytes, at least [`PAYLOAD_MIN`].
    pub(super) payload: usize,
    /// To publish, in all.
    pub(super) messages: u64,
    /// Messages of one write.
    pub(super) batch: usize,
    /// Published a second, in all; `None`: as many as go.
    pub(super) rate: Option<f64>,
    /// Messages that may be outstanding without a rate, in all.
    pub(super) window: u64,
    /// With a topic alias after the first message, and properties; only in 5.0.
    pub(super) has_properties: bool,
    pub(super) version: ProtocolVersion,
    /// The broker, if it can be looked at.
    pub(super) broker: Option<Process>,
}

impl Plan {
    /// Connections that publish, and connections that subscribe.
    fn peers(&self) -> (usize, usize) {
        match self.workload {
            Workload::FanIn | Workload::Queue | Workload::Drain => (self.clients, 1),
            Workload::FanOut => (1, self.clients),
            Workload::PointToPoint => (self.clients, self.clients),
            Workload::Wildcards => (WILDCARD_PUBLISHERS, self.clients),
        }
    }
}

/// A payload starts with its number and the time from which it is measured.
pub(super) const PAYLOAD_MIN: usize = 16;

/// Connections at once.
pub(super) const CLIENTS_MAX: usize = 20_000;

/// Connections that have not been welcomed yet: listen queues are short.
const DIALS_MAX: usize = 32;

/// So long without anything arriving, what is missing is lost.
const SILENCE: Duration = Duration::from_secs(3);

/// So long a broker may take to answer what it must answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Messages that are sent before anything is measured, at most.
const WARM_UP_MAX: u64 = 5000;

/// A publisher's unacknowledged messages, where the broker names no limit.
const UNACKNOWLEDGED_MAX: u32 = 60_000;

/// Publishers to clients with wildcards.
const WILDCARD_PUBLISHERS: usize = 10;

/// A wait that is shorter is not slept: the poll's resolution is a millisecond.
const SPIN: Duration = Duration::from_millis(2);

/// What a run has shown.
#[derive(Clone)]
pub(super) struct Outcome {
    /// From the first publication to the last delivery.
    pub(super) elapsed: Duration,
    pub(super) published: u64,
    /// Deliveries; of a queue, acknowledgements.
    pub(super) delivered: u64,
    /// That were expected and have not come.
    pub(super) lost: u64,
    pub(super) latency: Histogram,
    /// Of the broker.
    pub(super) broker_cpu: Option<Duration>,
    /// Of the broker: bytes resident at the end, and at their peak.
    pub(super) broker_memory: Option<(u64, u64)>,
    /// Of this process, to see whether it was the bottleneck.
    pub(super) own_cpu: Duration,
}

impl Outcome {
    /// Deliveries a second.
    pub(super) fn throughput(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU seconds of the broker for a million deliveries.
    pub(super) fn cpu_per_million(&self) -> Option<f64> {
        let cpu = self.broker_cpu?.as_secs_f64();
        (self.delivered > 0).then(|| cpu * 1e6 / self.delivered as f64)
    }
}

/// Carries out a plan.
pub(super) fn run(plan: &Plan, address: &Address) -> Result<Outcome, Failure> {
    let mut load = Load::new(plan)?;
    load.connect(address, address)?;
    let (_, subscribers) = plan.peers();
    if matches!(plan.workload, Workload::Queue | Workload::Drain) {
        load.leave(subscribers)?;
    }
    if plan.workload == Workload::Drain {
        load.publish(plan.messages)?;
        load.tally.delivered = 0;
    } else {
        let warm_up = (plan.messages / 10).min(WARM_UP_MAX);
        if warm_up > 0 {
            load.publish(warm_up)?;
        }
        load.reset();
    }
    let before = plan.broker.and_then(Process::cpu);
    let own_before = Process::own().cpu().unwrap_or_default();
    let start = swarm::now();
    if plan.workload == Workload::Drain {
        load.come_back(address)?;
    } else {
        load.publish(plan.messages)?;
    }
    let elapsed = load.tally.last_arrival.max(start).since(start);
    let after = plan.broker.and_then(Process::cpu);
    let own_after = Process::own().cpu().unwrap_or_default();
    let broker_memory = plan.broker.and_then(Process::memory);
    load.disconnect()?;
    let expected = load.tally.expected;
    Ok(Outcome {
        elapsed,
        published: load.published,
        delivered: load.tally.delivered,
        lost: expected.saturating_sub(load.tally.delivered),
        latency: load.tally.latency,
        broker_cpu: before
            .zip(after)
            .map(|(before, after)| after.saturating_sub(before)),
        broker_memory,
        own_cpu: own_after.saturating_sub(own_before),
    })
}

/// What a part of a run has shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed {
    /// Deliveries, or acknowledgements.
    pub(super) count: u64,
    pub(super) elapsed: Duration,
}

impl Passed {
    /// A second.
    pub(super) fn rate(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// The connections of a run, and what has come of it so far.
pub(super) struct Load<'a> {
    plan: &'a Plan,
    swarm: Swarm,
    tally: Tally,
    /// The first level of its topics.
    base: String,
    publishers: usize,
    topics: Vec<Topic>,
    published: u64,
    /// So long without anything arriving, what is missing is lost.
    patience: Duration,
    /// The publisher that is next without a rate.
    turn: usize,
    /// A write that is being put together.
    out: Vec<u8>,
    random: u64,
}

/// What arrives, and what it says of the other end.
struct Tally {
    version: ProtocolVersion,
    /// Acknowledgements are deliveries.
    counts_acks: bool,
    /// Where messages are told apart: what comes a second time is no delivery.
    arrivals: Option<Arrivals>,
    peers: Vec<Peer>,
    welcomed: usize,
    subscribed: usize,
    pongs: usize,
    delivered: u64,
    /// Deliveries, or acknowledgements.
    expected: u64,
    /// Of QoS 1 and 2, by all publishers together.
    unacknowledged: u64,
    /// Of a delivery.
    first_arrival: Option<Instant>,
    last_arrival: Instant,
    latency: Histogram,
    closed: usize,
    trouble: Option<Failure>,
}

#[derive(Debug, Clone)]
struct Peer {
    next_id: PacketId,
    unacknowledged: u32,
    unacknowledged_max: u32,
    /// The broker knows its topic's alias.
    has_alias: bool,
}

/// A topic, and its publication as bytes.
struct Topic {
    plain: Template,
    /// With the alias alone.
    aliased: Option<Template>,
    /// Deliveries of each message.
    copies: u64,
}

/// A packet in which only the identifier and the payload's beginning change.
struct Template {
    bytes: Vec<u8>,
    id_at: Option<usize>,
    payload_at: usize,
}

impl<'a> Load<'a> {
    fn new(plan: &'a Plan) -> Result<Self, Failure> {
        let (publishers, subscribers) = plan.peers();
        let swarm =
            Swarm::new().map_err(|error| Failure::failed("cannot set up a poll").because(error))?;
        // Two runs, and what somebody else publishes, do not meet.
        let base = random_id("bench");
        let names: Vec<(String, u64)> = match plan.workload {
            Workload::Wildcards => wildcard_topics(&base, plan),
            Workload::FanOut => names(&base, plan.topics, plan.clients as u64),
            Workload::PointToPoint => names(&base, plan.clients, 1),
            Workload::FanIn | Workload::Queue | Workload::Drain => names(&base, plan.topics, 1),
        };
        let topics = names
            .iter()
            .map(|(name, copies)| Topic::new(plan, name, *copies))
            .collect();
        let peer = Peer {
            next_id: PacketId::FIRST,
            unacknowledged: 0,
            unacknowledged_max: UNACKNOWLEDGED_MAX,
            has_alias: false,
        };
        Ok(Self {
            plan,
            swarm,
            tally: Tally {
                version: plan.version,
                counts_acks: matches!(plan.workload, Workload::Queue | Workload::Drain),
                arrivals: None,
                peers: vec![peer; publishers + subscribers],
                welcomed: 0,
                subscribed: 0,
                pongs: 0,
                delivered: 0,
                expected: 0,
                unacknowledged: 0,
                first_arrival: None,
                last_arrival: Instant::default(),
                latency: Histogram::new(),
                closed: 0,
                trouble: None,
            },
            base,
            publishers,
            topics,
            published: 0,
            patience: SILENCE,
            turn: 0,
            out: Vec::new(),
            random: 1,
        })
    }

    /// One whose messages are told apart, and which waits so long for what is missing.
    pub(super) fn numbered(plan: &'a Plan, patience: Duration) -> Result<Self, Failure> {
        let mut load = Self::new(plan)?;
        load.tally.arrivals = Some(Arrivals::default());
        load.patience = patience;
        Ok(load)
    }

    /// A filter that takes all that it publishes.
    pub(super) fn filter(&self) -> String {
        format!("{}/#", self.base)
    }

    fn reset(&mut self) {
        self.published = 0;
        self.tally.expected = 0;
        self.tally.delivered = 0;
        self.tally.latency = Histogram::new();
    }

    /// Connects everybody and subscribes, a portion at a time: what is published goes `to` one
    /// broker, and is awaited `from` that one or another. Subscribers come first: their numbers are
    /// the low ones.
    pub(super) fn connect(&mut self, to: &Address, from: &Address) -> Result<(), Failure> {
        let (publishers, subscribers) = self.plan.peers();
        let stays = matches!(self.plan.workload, Workload::Queue | Workload::Drain);
        for index in 0..subscribers + publishers {
            let is_subscriber = index < subscribers;
            let mut hello = self.hello(index, is_subscriber && stays);
            if is_subscriber {
                self.subscribe(index, &mut hello);
            }
            self.dial(index, if is_subscriber { from } else { to }, &hello)?;
            self.wait_until(|tally| index + 1 - tally.welcomed < DIALS_MAX)?;
        }
        let all = publishers + subscribers;
        self.wait_until(|tally| tally.welcomed == all && tally.subscribed == subscribers)
    }

    fn dial(&mut self, index: usize, address: &Address, hello: &[u8]) -> Result<(), Failure> {
        let made = self.swarm.connect(address).map_err(|error| {
            Failure::failed(format!("cannot open connection {}", index + 1))
                .because(error)
                .hint("`ulimit -n` says how many files may be open")
        })?;
        self.write(made, hello)
    }

    /// CONNECT.
    fn hello(&self, index: usize, stays: bool) -> Vec<u8> {
        let version = self.plan.version;
        let mut bytes = Vec::new();
        Packet::Connect(Connect {
            version,
            clean_start: !stays,
            keep_alive: 0,
            client_id: &format!("{}-{index}", self.base),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: (stays && version.is_v5()).then_some(3600),
                ..ConnectProperties::default()
            },
        })
        .encode_into(version, &mut bytes);
        bytes
    }

    fn subscribe(&self, subscriber: usize, bytes: &mut Vec<u8>) {
        let filters = match self.plan.workload {
            Workload::PointToPoint => vec![format!("{}/{subscriber}", self.base)],
            Workload::Wildcards => wildcard_filters(&self.base, subscriber, self.plan.clients),
            _ => vec![format!("{}/+", self.base)],
        };
        let requests: Vec<_> = filters
            .iter()
            .map(|filter| SubscriptionRequest {
                filter: TopicFilter::new(filter).expect("letters, digits, slashes, wildcards"),
                options: SubscriptionOptions::new(self.plan.qos),
            })
            .collect();
        Packet::Subscribe(Subscribe {
            packet_id: PacketId::FIRST,
            properties: SubscribeProperties::default(),
            requests: SubscriptionRequests::from_slice(&requests),
        })
        .encode_into(self.plan.version, bytes);
    }

    /// The first `count` connections say goodbye, and are gone when this returns.
    fn leave(&mut self, count: usize) -> Result<(), Failure> {
        let mut goodbye = Vec::new();
        Packet::Disconnect(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION))
            .encode_into(self.plan.version, &mut goodbye);
        let gone = self.tally.closed + count;
        for index in 0..count {
            self.write(index, &goodbye)?;
            self.swarm.shut_down(index);
        }
        self.wait_until(|tally| tally.closed >= gone)
    }

    /// The client that was away takes what was queued for it.
    fn come_back(&mut self, address: &Address) -> Result<(), Failure> {
        let welcomed = self.tally.welcomed + 1;
        let returned = self.tally.peers.len();
        let like = self.tally.peers[0].clone();
        self.tally.peers.push(like);
        self.tally.counts_acks = false;
        self.tally.expected = self.published;
        let hello = self.hello(0, true);
        self.dial(returned, address, &hello)?;
        self.tally.last_arrival = swarm::now();
        while self.tally.welcomed < welcomed || self.tally.delivered < self.tally.expected {
            self.wait(SILENCE)?;
            if swarm::now().since(self.tally.last_arrival) >= SILENCE {
                return Ok(());
            }
        }
        // Its last acknowledgements have been taken in when this is answered.
        let mut ping = Vec::new();
        Packet::Pingreq.encode_into(self.plan.version, &mut ping);
        self.write(returned, &ping)?;
        self.wait_until(|tally| tally.pongs > 0)
    }

    /// Publishes so many messages, and is done when all are acknowledged: nothing arrives.
    pub(super) fn fill(&mut self, count: u64) -> Result<Passed, Failure> {
        self.tally.counts_acks = true;
        let passed = self.pass(count);
        self.tally.counts_acks = false;
        passed
    }

    /// Publishes so many messages, and is done when all are acknowledged and have arrived, or
    /// nothing has come for too long.
    pub(super) fn pass(&mut self, count: u64) -> Result<Passed, Failure> {
        (self.tally.expected, self.tally.delivered) = (0, 0);
        let start = swarm::now();
        self.publish(count)?;
        Ok(Passed {
            count: self.tally.delivered,
            elapsed: self.tally.last_arrival.since(start),
        })
    }

    /// Takes what has been published with [`Load::fill`], and is done when all of it has arrived,
    /// or nothing has come for too long. Time runs from the first that comes.
    pub(super) fn drain(&mut self, count: u64) -> Result<Passed, Failure> {
        (self.tally.expected, self.tally.delivered) = (count, 0);
        self.tally.first_arrival = None;
        self.tally.last_arrival = swarm::now();
        while self.tally.delivered < count
            && swarm::now().since(self.tally.last_arrival) < self.patience
        {
            self.wait(SILENCE)?;
            self.check_connections()?;
        }
        let last = self.tally.last_arrival;
        Ok(Passed {
            count: self.tally.delivered,
            elapsed: last.since(self.tally.first_arrival.unwrap_or(last)),
        })
    }

    /// Where messages are told apart nobody may be sent away: what is missing would not be found.
    fn check_connections(&self) -> Result<(), Failure> {
        if self.tally.arrivals.is_none() || self.tally.closed == 0 {
            return Ok(());
        }
        Err(Failure::failed("a connection was closed at the other end")
            .hint("a disk that is too slow for what is under way? --window makes that less"))
    }

    /// Of all that were published: how many have not arrived, and how often one came again.
    pub(super) fn missing_and_repeated(&self) -> (u64, u64) {
        let arrivals = self.tally.arrivals.as_ref();
        let (distinct, repeated) = arrivals.map_or((0, 0), |arrivals| {
            (arrivals.distinct(), arrivals.repeated())
        });
        (self.published.saturating_sub(distinct), repeated)
    }

    pub(super) fn disconnect(&mut self) -> Result<(), Failure> {
        let mut goodbye = Vec::new();
        Packet::Disconnect(Disconnect::new(ReasonCode::NORMAL_DISCONNECTION))
            .encode_into(self.plan.version, &mut goodbye);
        for index in 0..self.tally.peers.len() {
            self.write(index, &goodbye)?;
            self.swarm.shut_down(index);
        }
        let until = swarm::now() + Duration::from_secs(1);
        while self.tally.closed < self.tally.peers.len() && swarm::now() < until {
            self.wait(until.since(swarm::now()))?;
        }
        Ok(())
    }

    /// Publishes so many messages and waits for what comes of them.
    fn publish(&mut self, count: u64) -> Result<(), Failure> {
        let first = self.published;
        let last = first + count;
        let start = swarm::now();
        self.tally.last_arrival = start;
        let due =
            |index: u64, rate: f64| start + Duration::from_secs_f64((index - first) as f64 / rate);
        loop {
            let now = swarm::now();
            let mut limit = SILENCE;
            match self.plan.rate {
                Some(rate) => {
                    // The k-th message belongs to one publisher, however the others are doing.
                    while self.published < last {
                        let at = due(self.published, rate);
                        if at > now {
                            limit = limit.min(at.since(now));
                            break;
                        }
                        let publisher = (self.published % self.publishers as u64) as usize;
                        if !self.send(publisher, 1, at)? {
                            break;
                        }
                    }
                }
                None => self.send_all(last, now)?,
            }
            let is_over =
                self.tally.delivered >= self.tally.expected && self.tally.unacknowledged == 0;
            if self.published == last && is_over {
                return Ok(());
            }
            self.wait(limit)?;
            self.check_connections()?;
            let silent = swarm::now().since(self.tally.last_arrival) >= self.patience;
            let nothing_due = self.published == last || self.plan.rate.is_none();
            if silent && nothing_due {
                // QoS 0 may lose; more than that is the broker's shame, and is told.
                if self.published < last {
                    return Err(Failure::failed(format!(
                        "the broker has stopped: {} of {} messages were published and {} arrived",
                        self.published, last, self.tally.delivered
                    )));
                }
                return Ok(());
            }
        }
    }

    /// Without a rate: everybody in turn, as long as anybody can and the window is not full.
    fn send_all(&mut self, last: u64, now: Instant) -> Result<(), Failure> {
        let copies: u64 = self.topics.iter().map(|topic| topic.copies).sum();
        let copies = copies as f64 / self.topics.len() as f64;
        let window = self.plan.window as f64 * copies;
        let mut stuck = 0;
        while self.published < last && stuck < self.publishers {
            let batch = (self.plan.batch as u64)
                .min(last - self.published)
                .min(self.plan.window);
            let outstanding = self.tally.expected.saturating_sub(self.tally.delivered);
            if outstanding as f64 + batch as f64 * copies > window {
                break;
            }
            let sent = self.send(self.turn, batch as usize, now)?;
            stuck = if sent { 0 } else { stuck + 1 };
            self.turn = (self.turn + 1) % self.publishers;
        }
        Ok(())
    }

    /// Writes so many messages at once. `false`: this publisher has to wait.
    fn send(&mut self, publisher: usize, count: usize, from: Instant) -> Result<bool, Failure> {
        let index = self.tally.peers.len() - self.publishers + publisher;
        let peer = &mut self.tally.peers[index];
        let is_acknowledged = self.plan.qos > QoS::AtMostOnce;
        let most = peer.unacknowledged_max;
        let count = count.min(most as usize);
        let is_full = is_acknowledged && peer.unacknowledged + count as u32 > most;
        if self.swarm.is_behind(index) || is_full {
            return Ok(false);
        }
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        for _ in 0..count {
            let topic = match self.plan.workload {
                Workload::PointToPoint => publisher,
                Workload::Wildcards => {
                    // A linear congruential generator is random enough to choose topics.
                    self.random = self
                        .random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (self.random >> 33) as usize % self.topics.len()
                }
                _ => (self.published % self.topics.len() as u64) as usize,
            };
            let topic = &self.topics[topic];
            let template = match &topic.aliased {
                Some(aliased) if peer.has_alias => aliased,
                _ => &topic.plain,
            };
            peer.has_alias = true;
            let id = is_acknowledged.then_some(peer.next_id);
            template.append(&mut out, id, self.published, from);
            if is_acknowledged {
                peer.next_id = peer.next_id.next();
                peer.unacknowledged += 1;
                self.tally.unacknowledged += 1;
            }
            self.published += 1;
            self.tally.expected += if self.tally.counts_acks {
                1
            } else {
                topic.copies
            };
        }
        let written = self.write(index, &out);
        self.out = out;
        written.map(|()| true)
    }

    fn write(&mut self, index: usize, bytes: &[u8]) -> Result<(), Failure> {
        self.swarm.write(index, bytes).map_err(broken)
    }

    fn wait_until(&mut self, is_so: impl Fn(&Tally) -> bool) -> Result<(), Failure> {
        let until = swarm::now() + ANSWER;
        while !is_so(&self.tally) {
            if swarm::now() >= until {
                return Err(Failure::failed("the broker does not answer"));
            }
            self.wait(until.since(swarm::now()))?;
        }
        Ok(())
    }

    /// Takes in what has arrived, or arrives within `limit`.
    fn wait(&mut self, limit: Duration) -> Result<(), Failure> {
        let limit = match limit {
            limit if limit < SPIN => Duration::ZERO,
            limit => limit.saturating_sub(SPIN / 2),
        };
        let tally = &mut self.tally;
        let closed = std::cell::Cell::new(0);
        let arrived =
            |index, bytes: &[u8], answers: &mut Vec<u8>| tally.take_in(index, bytes, answers);
        let is_closed = |_| closed.set(closed.get() + 1);
        self.swarm
            .turn(Some(limit), arrived, is_closed)
            .map_err(broken)?;
        self.tally.closed += closed.get();
        match self.tally.trouble.take() {
            Some(trouble) => Err(trouble),
            None => Ok(()),
        }
    }
}

fn broken(error: std::io::Error) -> Failure {
    Failure::failed("a connection is broken").because(error)
}

impl Tally {
    /// Deals with whole packets; how many bytes these were.
    fn take_in(&mut self, index: usize, bytes: &[u8], answers: &mut Vec<u8>) -> usize {
        let now = swarm::now();
        let mut used = 0;
        while let Ok(Frame::Complete {
            header_len,
            total_len,
            ..
        }) = frame::peek(&bytes[used..], PACKET_SIZE_MAX)
        {
            let frame = &bytes[used..used + total_len];
            if self
                .packet(index, frame, header_len, now, answers)
                .is_none()
            {
                let text = "the broker has sent something that is no packet";
                self.trouble.get_or_insert_with(|| Failure::failed(text));
            }
            used += total_len;
        }
        used
    }

    /// `None`: it is malformed.
    fn packet(
        &mut self,
        index: usize,
        frame: &[u8],
        header_len: usize,
        now: Instant,
        answers: &mut Vec<u8>,
    ) -> Option<()> {
        let body = &frame[header_len..];
        match PacketType::from_first_byte(frame[0])? {
            PacketType::Publish => self.delivery(frame[0], body, now, answers)?,
            PacketType::Puback | PacketType::Pubcomp => {
                self.check(body);
                let peer = &mut self.peers[index];
                peer.unacknowledged = peer.unacknowledged.saturating_sub(1);
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
                if self.counts_acks {
                    self.delivered += 1;
                }
                self.last_arrival = now;
            }
            PacketType::Pubrec => {
                self.check(body);
                answers.extend_from_slice(&[0x62, 2, *body.first()?, *body.get(1)?]);
            }
            PacketType::Pubrel => {
                answers.extend_from_slice(&[0x70, 2, *body.first()?, *body.get(1)?]);
            }
            PacketType::Pingresp => self.pongs += 1,
            _ => self.greeting(index, frame)?,
        }
        Some(())
    }

    fn delivery(
        &mut self,
        first_byte: u8,
        body: &[u8],
        now: Instant,
        answers: &mut Vec<u8>,
    ) -> Option<()> {
        let topic_len = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
        let mut at = 2 + topic_len;
        let qos = first_byte >> 1 & 3;
        if qos > 0 {
            let answer = if qos == 1 { 0x40 } else { 0x50 };
            answers.extend_from_slice(&[answer, 2, *body.get(at)?, *body.get(at + 1)?]);
            at += 2;
        }
        if self.version.is_v5() {
            let (mut len, mut shift) = (0, 0);
            loop {
                let byte = *body.get(at)?;
                at += 1;
                len |= usize::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            at += len;
        }
        let from = body.get(at + 8..at + 16)?.try_into().ok()?;
        let from = Instant::from_nanos(u64::from_be_bytes(from));
        self.last_arrival = now;
        self.first_arrival.get_or_insert(now);
        if let Some(arrivals) = &mut self.arrivals {
            let number = body.get(at..at + 8)?.try_into().ok()?;
            if !arrivals.insert(u64::from_be_bytes(number)) {
                return Some(());
            }
        }
        self.latency.record(now.since(from).as_nanos() as u64);
        self.delivered += 1;
        Some(())
    }

    /// An acknowledgement may say in 5.0 that the broker does not want the message.
    fn check(&mut self, body: &[u8]) {
        if let Some(reason) = body.get(2).copied().and_then(ReasonCode::from_u8)
            && reason.is_error()
        {
            let text = format!("the broker refuses a message: {reason}");
            self.trouble.get_or_insert_with(|| Failure::failed(text));
        }
    }

    fn greeting(&mut self, index: usize, frame: &[u8]) -> Option<()> {
        let text = match Packet::parse(self.version, frame).ok()? {
            Packet::Connack(connack) if !connack.reason.is_error() => {
                self.welcomed += 1;
                if let Some(maximum) = connack.properties.receive_maximum {
                    self.peers[index].unacknowledged_max = maximum.value().into();
                }
                return Some(());
            }
            Packet::Suback(suback) if suback.reasons.iter().all(|reason| !reason.is_error()) => {
                self.subscribed += 1;
                return Some(());
            }
            Packet::Connack(connack) => {
                format!("the broker refuses a connection: {}", connack.reason)
            }
            Packet::Suback(_) => "the broker refuses a subscription".to_owned(),
            Packet::Disconnect(goodbye) => format!("the broker says goodbye: {}", goodbye.reason),
            other => format!("the broker has sent {}", other.packet_type()),
        };
        self.trouble.get_or_insert_with(|| Failure::failed(text));
        Some(())
    }
}

impl Topic {
    fn new(plan: &Plan, name: &str, copies: u64) -> Self {
        let mut users = UserPropertiesBuf::default();
        let mut properties = PublishProperties::default();
        let mut aliased = None;
        if plan.has_properties && plan.version.is_v5() {
            let is_pushed = users.push("unit", "degree Celsius");
            debug_assert!(is_pushed, "short words can be encoded");
            properties = PublishProperties {
                content_type: Some("application/json"),
                response_topic: None,
                correlation_data: Some(&[7; 8]),
                user_properties: users.as_properties(),
                topic_alias: TopicAlias::new(1),
                ..properties
            };
            aliased = Some(Template::new(plan, "", properties));
        }
        Self {
            plain: Template::new(plan, name, properties),
            aliased,
            copies,
        }
    }
}

impl Template {
    fn new(plan: &Plan, topic: &str, properties: PublishProperties<'_>) -> Self {
        let payload = vec![b'.'; plan.payload];
        let publish = Publish {
            dup: false,
            qos: plan.qos,
            retain: false,
            topic,
            packet_id: (plan.qos > QoS::AtMostOnce).then_some(PacketId::FIRST),
            properties,
            payload: &payload,
        };
        let mut bytes = Vec::new();
        Packet::Publish(publish).encode_into(plan.version, &mut bytes);
        Self {
            id_at: publish.packet_id_offset(plan.version, payload.len()),
            payload_at: bytes.len() - payload.len(),
            bytes,
        }
    }

    fn append(&self, out: &mut Vec<u8>, id: Option<PacketId>, number: u64, from: Instant) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let packet = &mut out[start..];
        if let (Some(at), Some(id)) = (self.id_at, id) {
            packet[at..at + 2].copy_from_slice(&id.value().to_be_bytes());
        }
        let payload = &mut packet[self.payload_at..];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        payload[8..16].copy_from_slice(&from.as_nanos().to_be_bytes());
    }
}

/// Topics that differ in their last level.
fn names(base: &str, count: usize, copies: u64) -> Vec<(String, u64)> {
    (0..count)
        .map(|number| (format!("{base}/{number}"), copies))
        .collect()
}

/// Of each of the first two levels of a topic with wildcards.
const SITES: usize = 100;
/// Of the third level.
const POINTS: usize = 10;

/// Topics `BASE/SITE/DEVICE/POINT`, and how many of the clients' filters take each.
fn wildcard_topics(base: &str, plan: &Plan) -> Vec<(String, u64)> {
    let filters: Vec<String> = (0..plan.clients)
        .flat_map(|client| wildcard_filters("", client, plan.clients))
        .collect();
    let filters: BTreeMap<&str, u64> =
        filters
            .iter()
            .fold(BTreeMap::default(), |mut counts, filter| {
                *counts.entry(filter.as_str()).or_default() += 1;
                counts
            });
    (0..plan.topics)
        .map(|number| {
            // Spread over all of them, whatever their number.
            let number = number * 7919 % (SITES * SITES * POINTS);
            let (site, device) = (number / POINTS % SITES, number / POINTS / SITES);
            let point = number % POINTS;
            let takers = [
                format!("/+/{device}/{point}"),
                format!("/{site}/+/{point}"),
                format!("/{site}/{device}/#"),
            ];
            let copies = takers
                .iter()
                .filter_map(|filter| filters.get(filter.as_str()));
            let name = format!("{base}/{site}/{device}/{point}");
            (name, copies.sum())
        })
        .collect()
}

/// Ten filters of one client, of which no topic has two: with 1000 clients 2 + 2 + 0.5 of all take
/// a topic.
fn wildcard_filters(base: &str, client: usize, clients: usize) -> Vec<String> {
    let (pairs, half) = (SITES * POINTS, clients.div_ceil(2));
    let mut filters = Vec::new();
    for shift in [0, half] {
        let pair = (client + shift) % pairs;
        filters.push(format!("{base}/+/{}/{}", pair / POINTS, pair % POINTS));
    }
    for shift in [0, half] {
        // Another point than that of the filters above.
        let pair = (client + shift) % pairs;
        let point = (pair + 1) % POINTS;
        filters.push(format!("{base}/{}/+/{point}", pair / POINTS));
    }
    // Neither a device nor a site of those above.
    let (device, site) = (client / POINTS % SITES, client / POINTS % SITES);
    for number in 0..5 {
        let site = (site + 3 + 2 * (client % POINTS) + number * 20) % SITES;
        let device = (device + 7 + client % POINTS) % SITES;
        filters.push(format!("{base}/{site}/{device}/#"));
    }
    filters.push(format!("{base}/only/{client}"));
    filters
}
