//! One measured run: connects, subscribes, warms up, publishes, and counts what arrives.
//!
//! One thread drives all connections. With a rate the k-th message is *due* at a time that depends
//! on nothing but k, and its latency runs from there, whenever it could really be sent: a broker
//! that stalls is charged for every message that should have gone meanwhile (coordinated omission
//! corrected). Without a rate as many messages are under way as the window allows, and latency runs
//! from the moment of sending: that is a measure of throughput, and its latencies are no more than
//! the window divided by it.

use std::rc::Rc;

use crate::buffer::Payload;
use crate::host::dial::{Address, Dialer, Happening, LinkId};
use crate::mqtt::client::{Client, ConnectOptions, Event, ReceivedMessage, Refusal};
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::{
    ProtocolVersion, PublishProperties, QoS, ReasonCode, SubscriptionOptions, SubscriptionRequest,
    TopicFilter, TopicName,
};
use crate::time::{Duration, Instant};

use super::histogram::Histogram;
use super::process::Process;
use crate::cli::Failure;
use crate::cli::client::random_id;

/// Who publishes to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// Many publishers, one subscriber.
    FanIn,
    /// One publisher, many subscribers.
    FanOut,
    /// Pairs, each with a topic of its own.
    PointToPoint,
}

impl Workload {
    pub(super) const ALL: [Self; 3] = [Self::FanIn, Self::FanOut, Self::PointToPoint];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FanIn => "fan-in",
            Self::FanOut => "fan-out",
            Self::PointToPoint => "p2p",
        }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) workload: Workload,
    /// Publishers of a fan-in, subscribers of a fan-out, pairs.
    pub(super) clients: usize,
    /// Over which the publications of a fan go in turn; pairs have one each.
    pub(super) topics: usize,
    pub(super) qos: QoS,
    /// Bytes, at least [`PAYLOAD_MIN`].
    pub(super) payload: usize,
    /// To publish, in all.
    pub(super) messages: u64,
    /// Published a second, in all; `None`: as many as go.
    pub(super) rate: Option<f64>,
    /// Deliveries that may be outstanding without a rate, for each connection that receives.
    pub(super) window: u64,
    pub(super) version: ProtocolVersion,
    /// The broker, if it can be looked at.
    pub(super) broker: Option<Process>,
}

/// A payload starts with its number and the time from which it is measured.
pub(super) const PAYLOAD_MIN: usize = 16;

/// Connections that are dialled at once: listen queues are short.
const DIALS_MAX: usize = 64;

/// Connections at once.
pub(super) const CLIENTS_MAX: usize = 20_000;

/// So long without anything arriving, what is missing is lost.
const SILENCE: Duration = Duration::from_secs(3);

/// Messages that are sent before anything is measured, at most.
const WARM_UP_MAX: u64 = 5000;

/// What a run has shown.
#[derive(Clone)]
pub(super) struct Outcome {
    /// From the first publication to the last delivery.
    pub(super) elapsed: Duration,
    pub(super) published: u64,
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
    load.connect(address)?;
    let warm_up = (plan.messages / 10).min(WARM_UP_MAX);
    if warm_up > 0 {
        load.publish(warm_up)?;
    }
    load.reset();
    let before = plan.broker.and_then(Process::cpu);
    let own_before = Process::own().cpu().unwrap_or_default();
    let start = load.dialer.now();
    load.publish(plan.messages)?;
    let elapsed = load.last_arrival.max(start).since(start);
    let after = plan.broker.and_then(Process::cpu);
    let own_after = Process::own().cpu().unwrap_or_default();
    let broker_memory = plan.broker.and_then(Process::memory);
    load.disconnect()?;
    Ok(Outcome {
        elapsed,
        published: load.published,
        delivered: load.delivered,
        lost: load.expected().saturating_sub(load.delivered),
        latency: load.latency,
        broker_cpu: before
            .zip(after)
            .map(|(before, after)| after.saturating_sub(before)),
        broker_memory,
        own_cpu: own_after.saturating_sub(own_before),
    })
}

struct Load<'a> {
    plan: &'a Plan,
    dialer: Dialer,
    /// Indexes below `publishers` publish, those from there on subscribe.
    links: Vec<LinkId>,
    publishers: usize,
    topics: Vec<String>,
    /// Invariant: as long as the payloads are.
    payload: Vec<u8>,
    published: u64,
    delivered: u64,
    last_arrival: Instant,
    latency: Histogram,
    /// The publisher that is next without a rate.
    turn: usize,
    up: usize,
    subscribed: usize,
}

impl<'a> Load<'a> {
    fn new(plan: &'a Plan) -> Result<Self, Failure> {
        let (publishers, subscribers) = match plan.workload {
            Workload::FanIn => (plan.clients, 1),
            Workload::FanOut => (1, plan.clients),
            Workload::PointToPoint => (plan.clients, plan.clients),
        };
        let topics = match plan.workload {
            Workload::PointToPoint => plan.clients,
            _ => plan.topics,
        };
        // Two runs, and what somebody else publishes, do not meet.
        let base = random_id("bench");
        let mut dialer = Dialer::new()
            .map_err(|error| Failure::failed("cannot set up a poll").because(error))?;
        let links = (0..publishers + subscribers)
            .map(|index| {
                let options = ConnectOptions {
                    version: plan.version,
                    client_id: format!("{base}-{index}"),
                    // A broker may take 20; what limits us is to be the broker, not this.
                    inflight_maximum: 100,
                    ..ConnectOptions::default()
                };
                let client = Client::new(options)
                    .map_err(|error| Failure::failed("cannot make a client").because(error))?;
                Ok(dialer.add(client))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self {
            plan,
            dialer,
            links,
            publishers,
            topics: (0..topics).map(|topic| format!("{base}/{topic}")).collect(),
            payload: vec![b'.'; plan.payload],
            published: 0,
            delivered: 0,
            last_arrival: Instant::default(),
            latency: Histogram::new(),
            turn: 0,
            up: 0,
            subscribed: 0,
        })
    }

    fn reset(&mut self) {
        self.published = 0;
        self.delivered = 0;
        self.latency = Histogram::new();
    }

    /// How many deliveries a publication makes.
    fn copies(&self) -> u64 {
        match self.plan.workload {
            Workload::FanOut => self.plan.clients as u64,
            Workload::FanIn | Workload::PointToPoint => 1,
        }
    }

    fn expected(&self) -> u64 {
        self.published * self.copies()
    }

    /// Connects everybody and subscribes, a portion at a time.
    fn connect(&mut self, address: &Address) -> Result<(), Failure> {
        let mut dialled = 0;
        let subscribers = self.links.len() - self.publishers;
        while self.up < self.links.len() || self.subscribed < subscribers {
            while dialled < self.links.len() && dialled - self.up < DIALS_MAX {
                self.dialer
                    .dial(self.links[dialled], address)
                    .map_err(|error| too_many(dialled, error))?;
                dialled += 1;
            }
            self.turn(None)?;
        }
        Ok(())
    }

    fn disconnect(&mut self) -> Result<(), Failure> {
        for link in self.links.clone() {
            let goodbye = ReasonCode::NORMAL_DISCONNECTION;
            self.dialer.with(link, |client| client.disconnect(goodbye));
        }
        let until = self.dialer.now() + Duration::from_secs(1);
        let mut left = self.links.len();
        while left > 0 && self.dialer.now() < until {
            self.dialer.turn(Some(until)).map_err(poll_failed)?;
            while let Some(happening) = self.dialer.poll_happening() {
                left -= usize::from(matches!(happening, Happening::Down(_)));
            }
        }
        Ok(())
    }

    /// Publishes so many messages and waits for what comes of them.
    fn publish(&mut self, count: u64) -> Result<(), Failure> {
        let first = self.published;
        let last = first + count;
        let start = self.dialer.now();
        self.last_arrival = start;
        let due =
            |index: u64, rate: f64| start + Duration::from_secs_f64((index - first) as f64 / rate);
        loop {
            let now = self.dialer.now();
            let mut until = now + SILENCE;
            match self.plan.rate {
                Some(rate) => {
                    // The k-th message belongs to one publisher, however the others are doing.
                    while self.published < last {
                        let at = due(self.published, rate);
                        if at > now {
                            until = until.min(at);
                            break;
                        }
                        let publisher = (self.published % self.publishers as u64) as usize;
                        if !self.send(publisher, at, now)? {
                            break;
                        }
                    }
                }
                None => self.send_all(last, now)?,
            }
            if self.published == last && self.delivered >= self.expected() {
                return Ok(());
            }
            self.turn(Some(until))?;
            let silent = self.dialer.now().since(self.last_arrival) >= SILENCE;
            let nothing_due = self.published == last || self.plan.rate.is_none();
            if silent && nothing_due {
                // QoS 0 may lose; more than that is the broker's shame, and is told.
                if self.published < last {
                    return Err(Failure::failed(format!(
                        "the broker has stopped: {} of {} messages were published and {} arrived",
                        self.published, last, self.delivered
                    )));
                }
                return Ok(());
            }
        }
    }

    /// Without a rate: everybody in turn, as long as anybody can and the window is not full.
    fn send_all(&mut self, last: u64, now: Instant) -> Result<(), Failure> {
        let receivers = (self.links.len() - self.publishers) as u64;
        let window = self.plan.window * receivers;
        let mut stuck = 0;
        while self.published < last && stuck < self.publishers {
            if self.expected().saturating_sub(self.delivered) >= window {
                break;
            }
            let sent = self.send(self.turn, now, now)?;
            stuck = if sent { 0 } else { stuck + 1 };
            self.turn = (self.turn + 1) % self.publishers;
        }
        Ok(())
    }

    /// `false`: this publisher has to wait.
    fn send(&mut self, publisher: usize, from: Instant, now: Instant) -> Result<bool, Failure> {
        let link = self.links[publisher];
        if !self.dialer.client(link).can_publish(self.plan.qos) {
            return Ok(false);
        }
        self.payload[..8].copy_from_slice(&self.published.to_be_bytes());
        self.payload[8..16].copy_from_slice(&from.as_nanos().to_be_bytes());
        let topic = match self.plan.workload {
            Workload::PointToPoint => publisher,
            _ => (self.published % self.topics.len() as u64) as usize,
        };
        let message = ApplicationMessage::new(
            TopicName::new(&self.topics[topic]).expect("letters, digits, one slash"),
            Payload::copy_from(&self.payload),
            self.plan.qos,
            false,
            &PublishProperties::default(),
            now,
        );
        match self
            .dialer
            .with(link, |client| client.publish(Rc::new(message)))
        {
            Ok(_) => {
                self.published += 1;
                Ok(true)
            }
            Err(Refusal::Full) => Ok(false),
            Err(refusal) => Err(Failure::failed("the broker takes no messages").because(refusal)),
        }
    }

    fn turn(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        self.dialer.turn(until).map_err(poll_failed)?;
        let now = self.dialer.now();
        while let Some(happening) = self.dialer.poll_happening() {
            match happening {
                Happening::Client(_, Event::Message(received)) => self.arrived(&received, now),
                Happening::Client(link, Event::Connected { .. }) => {
                    self.up += 1;
                    if link.index() >= self.publishers {
                        self.subscribe(link)?;
                    }
                }
                Happening::Client(_, Event::Subscribed { reasons, .. }) => {
                    if let Some(reason) = reasons.iter().find(|reason| reason.is_error()) {
                        let text = format!("the broker refuses a subscription: {reason}");
                        return Err(Failure::failed(text));
                    }
                    self.subscribed += 1;
                }
                Happening::Client(_, Event::Closed(cause)) => {
                    return Err(Failure::failed(format!("a connection is over: {cause}")));
                }
                Happening::Client(_, Event::Published { reason, .. }) if reason.is_error() => {
                    let text = format!("the broker refuses a message: {reason}");
                    return Err(Failure::failed(text));
                }
                Happening::Unreachable(_, error) => {
                    return Err(Failure::failed("cannot connect").because(error));
                }
                Happening::Client(..) | Happening::Down(_) | Happening::Woken | Happening::Stop => {
                }
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, link: LinkId) -> Result<(), Failure> {
        let subscriber = link.index() - self.publishers;
        let own;
        let filter = if self.plan.workload == Workload::PointToPoint {
            &self.topics[subscriber]
        } else {
            let base = self.topics[0].rsplit_once('/').expect("base and number").0;
            own = format!("{base}/+");
            &own
        };
        let request = SubscriptionRequest {
            filter: TopicFilter::new(filter).expect("letters, digits, one slash"),
            options: SubscriptionOptions::new(self.plan.qos),
        };
        self.dialer
            .with(link, |client| client.subscribe(&[request], None))
            .map(drop)
            .map_err(|error| Failure::failed("cannot subscribe").because(error))
    }

    fn arrived(&mut self, received: &ReceivedMessage, now: Instant) {
        let payload = received.message.payload();
        let Some(from) = payload.get(8..16).and_then(|bytes| bytes.try_into().ok()) else {
            return;
        };
        let from = Instant::from_nanos(u64::from_be_bytes(from));
        self.latency.record(now.since(from).as_nanos() as u64);
        self.delivered += 1;
        self.last_arrival = now;
    }
}

fn poll_failed(error: std::io::Error) -> Failure {
    Failure::failed("cannot wait for the connections").because(error)
}

fn too_many(open: usize, error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot open connection {}", open + 1))
        .because(error)
        .hint("`ulimit -n` says how many files may be open")
}
