//! The broker machine as the peer of a bridge, for the bridge's own tests and for the simulation.

use std::collections::BTreeMap;

use fieldgate::broker::{self, Admission, Broker, Origin, Taker};
use fieldgate::buffer::{Memory, Outbox, RecvBuffer};
use fieldgate::id::ConnId;
use fieldgate::mqtt::{ApplicationMessage, ProtocolVersion, QoS, SubscriptionOptions, TopicFilter};
use fieldgate::rng::Rng;
use fieldgate::time::Now;

/// A message that has arrived at the upstream broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    pub topic: String,
    pub payload: String,
    pub retain: bool,
    pub is_backlog: bool,
    /// User properties.
    pub time: Option<String>,
    pub seq: Option<String>,
}

/// The broker machine as a peer.
pub struct Upstream {
    pub broker: Broker,
    outbox: Outbox,
    memory: Memory,
    recv: BTreeMap<ConnId, RecvBuffer>,
    pub arrived: Vec<Arrived>,
    /// Connections that the broker has closed.
    pub closed: Vec<ConnId>,
}

impl Upstream {
    pub fn new(settings: broker::settings::Settings) -> Self {
        let memory = Memory::new(usize::MAX);
        let mut broker = Broker::new(settings, &memory, &mut Rng::from_seed(9));
        let everything = TopicFilter::new("#").expect("a filter");
        broker.subscribe(
            Taker::Requests,
            everything,
            SubscriptionOptions::new(QoS::ExactlyOnce),
        );
        Self {
            broker,
            outbox: Outbox::new(&memory),
            memory,
            recv: BTreeMap::new(),
            arrived: Vec::new(),
            closed: Vec::new(),
        }
    }

    pub fn accept(&mut self, now: Now, conn: ConnId) {
        self.outbox.open(conn);
        self.recv
            .insert(conn, RecvBuffer::for_stranger(&self.memory));
        let admission = Admission {
            allow_anonymous: true,
            excess: 0,
            address: None,
            is_exempt: true,
            is_costly: false,
        };
        self.broker
            .handle_accepted(now, conn, admission, &mut self.outbox);
        self.outputs(now);
    }

    pub fn lose(&mut self, now: Now, conn: ConnId) {
        if self.recv.remove(&conn).is_some() {
            self.broker.handle_closed(now, conn, &mut self.outbox);
            self.outbox.close(conn);
            self.outputs(now);
        }
    }

    pub fn publish(&mut self, now: Now, message: &ApplicationMessage) {
        let view = message.as_publish(ProtocolVersion::V5, now.monotonic);
        self.broker
            .publish(now, Origin::System, &view, &mut self.outbox);
        self.outputs(now);
    }

    /// Takes bytes in.
    pub fn feed(&mut self, now: Now, conn: ConnId, mut bytes: &[u8]) {
        while let Some(recv) = self.recv.get_mut(&conn) {
            let spare = recv.spare();
            let count = spare.len().min(bytes.len());
            spare[..count].copy_from_slice(&bytes[..count]);
            recv.commit(count);
            bytes = &bytes[count..];
            self.broker
                .handle_received(now, conn, recv, &mut self.outbox);
            self.outputs(now);
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// What it has to send.
    pub fn take(&mut self, now: Now, conn: ConnId) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.recv.contains_key(&conn) {
            return bytes;
        }
        loop {
            let mark = self.broker.last_lsn();
            self.broker.end_turn(now, mark, &mut self.outbox);
            while self.outbox.poll_ready().is_some() {}
            self.broker.fill(now, conn, 64 * 1024, &mut self.outbox);
            let Some(queue) = self.outbox.queue_mut(conn) else {
                return bytes;
            };
            if queue.is_empty() && !queue.has_more() {
                break;
            }
            while !queue.is_empty() {
                let front = queue.front().to_vec();
                queue.consume(front.len());
                bytes.extend(front);
            }
        }
        self.outputs(now);
        bytes
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.broker.handle_timeout(now, &mut self.outbox);
        self.outputs(now);
    }

    /// What is retained, by topic.
    pub fn retained(&mut self, now: Now) -> BTreeMap<String, String> {
        let before = self.arrived.len();
        let everything = TopicFilter::new("#").expect("a filter");
        let options = SubscriptionOptions::new(QoS::ExactlyOnce);
        self.broker.subscribe(Taker::Requests, everything, options);
        self.outputs(now);
        let found = self.arrived.drain(before..);
        found.map(|it| (it.topic, it.payload)).collect()
    }

    fn outputs(&mut self, now: Now) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                broker::Output::Delivery { message, .. } => {
                    let pairs = message.properties().user_properties;
                    let of = |name| pairs.find(name).map(str::to_owned);
                    self.arrived.push(Arrived {
                        topic: message.topic().into(),
                        payload: String::from_utf8(message.payload().to_vec()).expect("text"),
                        retain: message.retain(),
                        is_backlog: of("fieldgate-backlog").is_some(),
                        time: of("time"),
                        seq: of("seq"),
                    });
                }
                broker::Output::Close { conn, .. } => {
                    self.closed.push(conn);
                    self.lose(now, conn);
                }
                broker::Output::SystemSubscribed
                | broker::Output::Verify { .. }
                | broker::Output::Fetch { .. } => {}
            }
        }
    }
}
