//! The clients of the worlds in which the power goes: they know what they were told, and what their
//! protocol makes them remember.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fieldgate::id::ConnId;
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, Subscribe, SubscribeProperties, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests, TopicFilter,
};
use fieldgate::rng::Rng;
use fieldgate::time::Instant;

/// A client, and what its protocol makes it remember.
pub struct Client {
    pub name: String,
    pub version: ProtocolVersion,
    pub conn: Option<ConnId>,
    pub is_welcome: bool,
    /// It has been in once: its session has to be there from then on.
    was_in: bool,
    pub recv: Vec<u8>,
    /// What it has said and the network has not carried.
    pub unsent: VecDeque<u8>,
    /// The time, as far as it has been told.
    pub clock: Instant,
    pub role: Role,
}

pub enum Role {
    Sender(Sender),
    Taker(Taker),
}

/// It publishes numbers, in order, to its topics in turn.
pub struct Sender {
    pub topics: Vec<String>,
    pub qos: QoS,
    pub retain: bool,
    /// How many it is to publish.
    pub messages: u32,
    /// Unacknowledged at once.
    pub window: usize,
    /// Lengths of its payloads, in turn.
    pub lens: [usize; 4],
    pub next: u32,
    next_id: PacketId,
    /// Oldest first: identifier, number, released.
    pub underway: Vec<(PacketId, u32, bool)>,
    /// Done with.
    pub acknowledged: u32,
    /// What it was promised first by PUBACK or PUBREC, and when. At QoS 0: what was taken for
    /// certain, for a PINGRESP came later.
    pub promised: BTreeMap<u32, Instant>,
    /// At QoS 0: what was said on this connection and may not have been taken.
    fresh: Vec<u32>,
    /// At QoS 0: how many of `fresh` came before each PINGREQ that is not answered.
    asked: VecDeque<usize>,
}

#[derive(Default)]
pub struct Taker {
    pub filter: &'static str,
    pub is_subscribed: bool,
    /// QoS 2 identifiers that were received and not released.
    pub pending: BTreeSet<PacketId>,
    /// Topic, QoS, number, in the order of their coming.
    pub got: Vec<(String, QoS, u32)>,
    /// It does not read for a while.
    pub is_idle: bool,
    /// Nobody waits for it before they publish.
    pub is_late: bool,
}

impl Client {
    pub fn new(rng: &mut Rng, name: String, role: Role) -> Self {
        Self {
            name,
            version: if rng.chance(1, 2) {
                ProtocolVersion::V4
            } else {
                ProtocolVersion::V5
            },
            conn: None,
            is_welcome: false,
            was_in: false,
            recv: Vec::new(),
            unsent: VecDeque::new(),
            clock: Instant::default(),
            role,
        }
    }

    pub fn forget_connection(&mut self) -> Option<ConnId> {
        self.is_welcome = false;
        self.recv.clear();
        self.unsent.clear();
        if let Role::Sender(sender) = &mut self.role {
            sender.fresh.clear();
            sender.asked.clear();
        }
        self.conn.take()
    }

    fn say(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode_into(self.version, &mut bytes);
        self.unsent.extend(bytes);
    }

    pub fn connect(&mut self, conn: ConnId) {
        self.conn = Some(conn);
        let name = self.name.clone();
        let properties = ConnectProperties {
            session_expiry_interval: self.version.is_v5().then_some(100_000_000),
            ..ConnectProperties::default()
        };
        self.say(&Packet::Connect(Connect {
            version: self.version,
            client_id: &name,
            clean_start: false,
            keep_alive: 0,
            properties,
            will: None,
            username: None,
            password: None,
        }));
    }

    pub fn read(&mut self) {
        let bytes = std::mem::take(&mut self.recv);
        let mut at = 0;
        while let Ok(Frame::Complete { total_len, .. }) = frame::peek(&bytes[at..], 1 << 20) {
            let packet = Packet::parse(self.version, &bytes[at..at + total_len])
                .unwrap_or_else(|error| panic!("{} was sent nonsense: {error}", self.name));
            self.take(&packet);
            at += total_len;
        }
        self.recv = bytes[at..].to_vec();
    }

    fn take(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Connack(connack) => {
                assert!(
                    !connack.reason.is_error(),
                    "{} is refused: {connack:?}",
                    self.name
                );
                assert!(
                    connack.session_present || !self.was_in,
                    "the session of {} is lost",
                    self.name
                );
                self.is_welcome = true;
                self.was_in = true;
                self.resume();
            }
            Packet::Suback(_) => {
                if let Role::Taker(taker) = &mut self.role {
                    taker.is_subscribed = true;
                }
            }
            Packet::Publish(publish) => self.take_publish(publish),
            Packet::Pubrel(ack) => {
                if let Role::Taker(taker) = &mut self.role {
                    taker.pending.remove(&ack.packet_id);
                }
                self.say(&Packet::Pubcomp(Ack::success(ack.packet_id)));
            }
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                if let Role::Sender(sender) = &mut self.role {
                    sender.promise(ack.packet_id, self.clock);
                    let before = sender.underway.len();
                    sender.underway.retain(|(id, ..)| *id != ack.packet_id);
                    sender.acknowledged += (before - sender.underway.len()) as u32;
                }
            }
            Packet::Pubrec(ack) => {
                if let Role::Sender(sender) = &mut self.role {
                    sender.promise(ack.packet_id, self.clock);
                    for (id, _, is_released) in &mut sender.underway {
                        *is_released |= *id == ack.packet_id;
                    }
                }
                self.say(&Packet::Pubrel(Ack::success(ack.packet_id)));
            }
            Packet::Pingresp => {
                if let Role::Sender(sender) = &mut self.role {
                    sender.confirm(self.clock);
                }
            }
            Packet::Disconnect(_) => {}
            other => panic!("{} was sent {other:?}", self.name),
        }
    }

    /// What its protocol has it do first.
    fn resume(&mut self) {
        let mut packets = Vec::new();
        match &self.role {
            Role::Sender(sender) => {
                for (id, number, is_released) in &sender.underway {
                    if *is_released {
                        Packet::Pubrel(Ack::success(*id)).encode_into(self.version, &mut packets);
                    } else {
                        sender.encode(*id, *number, true, self.version, &mut packets);
                    }
                }
            }
            Role::Taker(taker) if !taker.is_subscribed => {
                let request = SubscriptionRequest {
                    filter: TopicFilter::new(taker.filter).expect("a filter"),
                    options: SubscriptionOptions::new(QoS::ExactlyOnce),
                };
                Packet::Subscribe(Subscribe {
                    packet_id: PacketId::FIRST,
                    properties: SubscribeProperties::default(),
                    requests: SubscriptionRequests::from_slice(&[request]),
                })
                .encode_into(self.version, &mut packets);
            }
            Role::Taker(_) => {}
        }
        self.unsent.extend(packets);
    }

    fn take_publish(&mut self, publish: &Publish<'_>) {
        let text = std::str::from_utf8(publish.payload).expect("a number");
        let number = text.trim().parse().expect("a number");
        let Role::Taker(taker) = &mut self.role else {
            panic!("{} did not subscribe", self.name);
        };
        let got = (publish.topic.to_owned(), publish.qos, number);
        match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => {
                if taker.pending.insert(id) {
                    taker.got.push(got);
                }
                self.say(&Packet::Pubrec(Ack::success(id)));
            }
            (_, Some(id)) => {
                taker.got.push(got);
                self.say(&Packet::Puback(Ack::success(id)));
            }
            (_, None) => taker.got.push(got),
        }
    }
}

impl Sender {
    pub fn new(topics: &[&str], qos: QoS, messages: u32) -> Self {
        Self {
            topics: topics.iter().map(ToString::to_string).collect(),
            qos,
            retain: false,
            messages,
            window: 5,
            lens: [4, 60, 700, 5000],
            next: 0,
            next_id: PacketId::FIRST,
            underway: Vec::new(),
            acknowledged: 0,
            promised: BTreeMap::new(),
            fresh: Vec::new(),
            asked: VecDeque::new(),
        }
    }

    /// The topic of a message.
    pub fn topic(&self, number: u32) -> &str {
        &self.topics[number as usize % self.topics.len()]
    }

    /// It has published everything, and knows what became of it.
    pub fn is_done(&self) -> bool {
        match self.qos {
            QoS::AtMostOnce => self.next >= self.messages && self.fresh.is_empty(),
            _ => self.acknowledged >= self.messages,
        }
    }

    /// At QoS 0: what may not have been taken.
    pub fn unconfirmed(&self) -> impl Iterator<Item = u32> {
        self.fresh.iter().copied()
    }

    fn promise(&mut self, id: PacketId, at: Instant) {
        let found = self.underway.iter().find(|(it, ..)| *it == id);
        if let Some((_, number, _)) = found {
            self.promised.entry(*number).or_insert(at);
        }
    }

    fn confirm(&mut self, at: Instant) {
        let count = self.asked.pop_front().unwrap_or(0);
        for number in self.fresh.drain(..count) {
            self.promised.insert(number, at);
        }
        for asked in &mut self.asked {
            *asked -= count;
        }
    }

    /// One more, if it may.
    pub fn publish(&mut self, version: ProtocolVersion, unsent: &mut VecDeque<u8>) {
        let is_full = self.underway.len() >= self.window || self.fresh.len() >= 4 * self.window;
        let mut bytes = Vec::new();
        if is_full || self.next >= self.messages {
            if self.asked.is_empty() && !self.fresh.is_empty() {
                self.ask(version, &mut bytes);
                unsent.extend(bytes);
            }
            return;
        }
        let (id, number) = (self.next_id, self.next);
        self.next += 1;
        if self.qos == QoS::AtMostOnce {
            self.fresh.push(number);
            self.encode(id, number, false, version, &mut bytes);
            if self.asked.len() < 2 {
                self.ask(version, &mut bytes);
            }
        } else {
            self.next_id = id.next();
            self.underway.push((id, number, false));
            self.encode(id, number, false, version, &mut bytes);
        }
        unsent.extend(bytes);
    }

    /// Asks whether everything so far has been taken.
    fn ask(&mut self, version: ProtocolVersion, into: &mut Vec<u8>) {
        Packet::Pingreq.encode_into(version, into);
        self.asked.push_back(self.fresh.len());
    }

    fn encode(
        &self,
        id: PacketId,
        number: u32,
        dup: bool,
        version: ProtocolVersion,
        into: &mut Vec<u8>,
    ) {
        let len = self.lens[number as usize % 4];
        let payload = format!("{number:<len$}");
        Packet::Publish(Publish {
            dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic(number),
            packet_id: (self.qos > QoS::AtMostOnce).then_some(id),
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        })
        .encode_into(version, into);
    }
}
