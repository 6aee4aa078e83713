//! An MQTT client of the simulation: it keeps its own session state, so that it can be cut off at
//! any byte and resume.
//!
//! Written on the codec alone, not on the library's client machine: two programs that share a
//! mistake agree on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, ReasonCode, Subscribe, SubscribeProperties, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests, TopicFilter,
};

/// What a client wants published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
}

/// What a client was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub dup: bool,
    pub retain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Published,
    Released,
}

/// A client whose session outlives its connections.
#[derive(Debug)]
pub struct Client {
    pub name: &'static str,
    pub version: ProtocolVersion,
    /// Filters to subscribe to, and whether that was acknowledged.
    filters: Vec<&'static str>,
    subscribed: bool,
    connected: bool,
    next_id: PacketId,
    waiting: VecDeque<Outgoing>,
    inflight: BTreeMap<u16, (u64, Outgoing, Stage)>,
    sent: u64,
    received_qos2: BTreeSet<u16>,
    /// Bytes to the gateway, and bytes of it that are not a whole packet yet.
    pub out: Vec<u8>,
    input: Vec<u8>,
    /// What was acknowledged to us, in the order of the acknowledgements.
    pub acknowledged: Vec<Outgoing>,
    pub inbox: Vec<Incoming>,
    pub redelivered: u64,
}

/// Messages that a client has unacknowledged; below every server's default.
const WINDOW: usize = 8;

impl Client {
    pub fn new(name: &'static str, version: ProtocolVersion, filters: Vec<&'static str>) -> Self {
        Self {
            name,
            version,
            subscribed: filters.is_empty(),
            filters,
            connected: false,
            next_id: PacketId::FIRST,
            waiting: VecDeque::new(),
            inflight: BTreeMap::new(),
            sent: 0,
            received_qos2: BTreeSet::new(),
            out: Vec::new(),
            input: Vec::new(),
            acknowledged: Vec::new(),
            inbox: Vec::new(),
            redelivered: 0,
        }
    }

    /// A new network connection is there: says CONNECT.
    pub fn open(&mut self) {
        self.out.clear();
        self.input.clear();
        self.connected = false;
        let mut connect = Connect {
            version: self.version,
            clean_start: false,
            keep_alive: 30,
            client_id: self.name,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        if self.version.is_v5() {
            connect.properties.session_expiry_interval = Some(3600);
        }
        self.send(&Packet::Connect(connect));
    }

    /// The network connection is gone; what lay in it is lost.
    pub fn cut(&mut self) {
        self.out.clear();
        self.input.clear();
        self.connected = false;
    }

    pub fn publish(&mut self, message: Outgoing) {
        self.waiting.push_back(message);
        self.pump();
    }

    pub fn ping(&mut self) {
        if self.connected {
            self.send(&Packet::Pingreq);
        }
    }

    /// Whether everything was acknowledged and nothing waits.
    pub fn is_settled(&self) -> bool {
        self.connected && self.subscribed && self.waiting.is_empty() && self.inflight.is_empty()
    }

    /// Whether its subscriptions are in force.
    pub fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Bytes from the gateway, as many as the network happened to bring.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = core::mem::take(&mut self.input);
        let mut at = 0;
        loop {
            match frame::peek(&input[at..], frame::PACKET_SIZE_MAX)
                .expect("the gateway speaks MQTT")
            {
                Frame::Incomplete { .. } => break,
                Frame::Complete { total_len, .. } => {
                    let packet = Packet::parse(self.version, &input[at..at + total_len]);
                    self.handle_packet(&packet.expect("the gateway speaks MQTT"));
                    at += total_len;
                }
            }
        }
        self.input = input[at..].to_vec();
    }

    fn handle_packet(&mut self, packet: &Packet<'_>) {
        match *packet {
            Packet::Connack(connack) => {
                assert!(
                    !connack.reason.is_error(),
                    "{} was refused: {:?}",
                    self.name,
                    connack.reason
                );
                self.connected = true;
                if !connack.session_present {
                    assert!(
                        self.sent == 0 && !self.subscribed_once(),
                        "{}'s session was lost",
                        self.name
                    );
                }
                self.resume();
            }
            Packet::Publish(ref publish) => self.handle_publish(publish),
            Packet::Puback(ack) => self.complete(ack.packet_id, QoS::AtLeastOnce),
            Packet::Pubrec(ack) => {
                let entry = self.inflight.get_mut(&ack.packet_id.value());
                let (_, message, stage) = entry.expect("PUBREC of something in flight");
                assert_eq!(message.qos, QoS::ExactlyOnce);
                *stage = Stage::Released;
                self.send(&Packet::Pubrel(Ack::new(
                    ack.packet_id,
                    ReasonCode::Success,
                )));
            }
            Packet::Pubcomp(ack) => self.complete(ack.packet_id, QoS::ExactlyOnce),
            Packet::Pubrel(ack) => {
                self.received_qos2.remove(&ack.packet_id.value());
                self.send(&Packet::Pubcomp(Ack::new(
                    ack.packet_id,
                    ReasonCode::Success,
                )));
            }
            Packet::Suback(suback) => {
                assert!(
                    suback.reasons.iter().all(|reason| !reason.is_error()),
                    "{suback:?}"
                );
                self.subscribed = true;
            }
            Packet::Pingresp => {}
            Packet::Disconnect(disconnect) => {
                panic!("{} was disconnected: {:?}", self.name, disconnect.reason)
            }
            other => panic!("a server does not send {:?}", other.packet_type()),
        }
    }

    fn subscribed_once(&self) -> bool {
        self.subscribed && !self.filters.is_empty()
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) {
        self.redelivered += u64::from(publish.dup);
        let incoming = Incoming {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            dup: publish.dup,
            retain: publish.retain,
        };
        match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => self.inbox.push(incoming),
            (QoS::AtLeastOnce, Some(id)) => {
                self.inbox.push(incoming);
                self.send(&Packet::Puback(Ack::new(id, ReasonCode::Success)));
            }
            (QoS::ExactlyOnce, Some(id)) => {
                if self.received_qos2.insert(id.value()) {
                    self.inbox.push(incoming);
                } else {
                    assert!(
                        publish.dup,
                        "a packet identifier in use came again without DUP"
                    );
                }
                self.send(&Packet::Pubrec(Ack::new(id, ReasonCode::Success)));
            }
            (_, None) => unreachable!("the codec gives QoS 1 and 2 an identifier"),
        }
    }

    /// After CONNACK: subscribes if that was never acknowledged, and sends again what is in flight,
    /// in order.
    fn resume(&mut self) {
        if !self.subscribed {
            let options = SubscriptionOptions::new(QoS::ExactlyOnce);
            let list: Vec<_> = self
                .filters
                .iter()
                .map(|filter| SubscriptionRequest {
                    filter: TopicFilter::new(filter).expect("a filter"),
                    options,
                })
                .collect();
            let id = self.mint();
            let subscribe = Subscribe {
                packet_id: id,
                properties: SubscribeProperties::default(),
                requests: SubscriptionRequests::from_slice(&list),
            };
            let mut bytes = Vec::new();
            Packet::Subscribe(subscribe).encode_into(self.version, &mut bytes);
            self.out.extend(bytes);
        }
        let mut again: Vec<_> = self
            .inflight
            .iter()
            .map(|(id, entry)| (entry.0, *id))
            .collect();
        again.sort_unstable();
        for (_, id) in again {
            let (_, message, stage) = self.inflight[&id].clone();
            let id = PacketId::new(id).expect("not zero");
            match stage {
                Stage::Published => self.send_publish(&message, Some(id), true),
                Stage::Released => self.send(&Packet::Pubrel(Ack::new(id, ReasonCode::Success))),
            }
        }
        self.pump();
    }

    fn complete(&mut self, id: PacketId, qos: QoS) {
        let (_, message, _) = self
            .inflight
            .remove(&id.value())
            .expect("an ack of something in flight");
        assert_eq!(message.qos, qos, "acknowledged as another QoS");
        self.acknowledged.push(message);
        self.pump();
    }

    fn pump(&mut self) {
        while self.connected && self.inflight.len() < WINDOW {
            let Some(message) = self.waiting.pop_front() else {
                break;
            };
            self.sent += 1;
            if message.qos == QoS::AtMostOnce {
                self.send_publish(&message, None, false);
                continue;
            }
            let id = self.mint();
            self.send_publish(&message, Some(id), false);
            self.inflight
                .insert(id.value(), (self.sent, message, Stage::Published));
        }
    }

    fn mint(&mut self) -> PacketId {
        while self.inflight.contains_key(&self.next_id.value()) {
            self.next_id = self.next_id.next();
        }
        let id = self.next_id;
        self.next_id = id.next();
        id
    }

    fn send_publish(&mut self, message: &Outgoing, packet_id: Option<PacketId>, dup: bool) {
        let publish = Publish {
            dup,
            qos: message.qos,
            retain: message.retain,
            topic: &message.topic,
            packet_id,
            properties: PublishProperties::default(),
            payload: &message.payload,
        };
        self.send(&Packet::Publish(publish));
    }

    fn send(&mut self, packet: &Packet<'_>) {
        packet.encode_into(self.version, &mut self.out);
    }
}
