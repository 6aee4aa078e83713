//! An MQTT client of the simulation: it keeps its own session state, so that it can be cut off at
//! any byte and resume.
//!
//! Written on the codec alone, not on the library's client machine: two programs that share a
//! mistake agree on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, ReceiveMaximum, Subscribe, SubscribeProperties,
    SubscriptionIdentifier, SubscriptionOptions, SubscriptionRequest, SubscriptionRequests,
    TopicFilter, TopicFilters, TopicName, Unsubscribe, UnsubscribeProperties, Will, WillProperties,
};

/// What a client is, for the whole of a run.
#[derive(Debug, Clone)]
pub struct Profile {
    pub name: &'static str,
    pub version: ProtocolVersion,
    pub filters: Vec<(&'static str, QoS)>,
    /// Starts anew with each connection.
    pub is_clean: bool,
    /// Seconds that its session outlives a connection, in 5.0.
    pub expiry: u32,
    pub keep_alive: u16,
    pub leaves_will: bool,
    pub receive_maximum: Option<u16>,
    pub identifier: Option<u32>,
}

impl Profile {
    pub fn new(name: &'static str, version: ProtocolVersion) -> Self {
        Self {
            name,
            version,
            filters: Vec::new(),
            is_clean: false,
            expiry: 3600,
            keep_alive: 30,
            leaves_will: false,
            receive_maximum: None,
            identifier: None,
        }
    }

    /// Whether its session is there for ever, as far as a run goes.
    fn is_lasting(&self) -> bool {
        !self.is_clean && (!self.version.is_v5() || self.expiry >= 3600)
    }
}

/// What a client wants published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
    pub expiry: Option<u32>,
}

/// What a client was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Published,
    Released,
}

/// A client whose session outlives its connections.
#[derive(Debug)]
pub struct Client {
    pub profile: Profile,
    /// Whether its filters were acknowledged.
    subscribed: bool,
    connected: bool,
    was_connected: bool,
    /// For a client that would be lasting: this connection is its last.
    is_last: bool,
    wills: u64,
    next_id: PacketId,
    waiting: VecDeque<Outgoing>,
    inflight: BTreeMap<u16, (u64, Outgoing, Stage)>,
    sent: u64,
    received_qos2: BTreeSet<u16>,
    unsubscribing: Option<u16>,
    /// Bytes to the gateway, acknowledgements that it takes its time with, and bytes of the gateway
    /// that are not a whole packet yet.
    pub out: Vec<u8>,
    held: Vec<u8>,
    input: Vec<u8>,
    /// What was acknowledged to us, in the order of the acknowledgements.
    pub acknowledged: Vec<Outgoing>,
    pub inbox: Vec<Incoming>,
    /// Why the gateway has said goodbye, in 5.0.
    pub goodbyes: Vec<ReasonCode>,
}

/// Messages that a client has unacknowledged; below every server's default.
const WINDOW: usize = 8;

/// Packet identifiers that a client uses.
const IDS: u16 = 24;

impl Client {
    pub fn new(profile: Profile) -> Self {
        Self {
            subscribed: profile.filters.is_empty(),
            profile,
            connected: false,
            was_connected: false,
            is_last: false,
            wills: 0,
            next_id: PacketId::FIRST,
            waiting: VecDeque::new(),
            inflight: BTreeMap::new(),
            sent: 0,
            received_qos2: BTreeSet::new(),
            unsubscribing: None,
            out: Vec::new(),
            held: Vec::new(),
            input: Vec::new(),
            acknowledged: Vec::new(),
            inbox: Vec::new(),
            goodbyes: Vec::new(),
        }
    }

    pub fn name(&self) -> &'static str {
        self.profile.name
    }

    /// A new network connection is there: says CONNECT.
    pub fn open(&mut self) {
        self.cut();
        let profile = self.profile.clone();
        let is_clean = profile.is_clean || self.is_last;
        if is_clean {
            self.forget();
        }
        self.wills += 1;
        let payload = format!("will {} of {}", self.wills, profile.name);
        let topic = format!("will/{}", profile.name);
        let will = profile.leaves_will.then(|| Will {
            topic: TopicName::new(&topic).expect("a topic"),
            payload: payload.as_bytes(),
            qos: QoS::ExactlyOnce,
            retain: self.wills.is_multiple_of(2),
            properties: WillProperties::default(),
        });
        let mut connect = Connect {
            version: profile.version,
            clean_start: is_clean,
            keep_alive: profile.keep_alive,
            client_id: profile.name,
            will,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        if profile.version.is_v5() {
            connect.properties.session_expiry_interval = (!is_clean).then_some(profile.expiry);
            connect.properties.receive_maximum =
                profile.receive_maximum.and_then(ReceiveMaximum::new);
        }
        self.send(&Packet::Connect(connect));
    }

    /// The network connection is gone; what lay in it is lost.
    pub fn cut(&mut self) {
        self.out.clear();
        self.held.clear();
        self.input.clear();
        self.connected = false;
    }

    /// Says goodbye, in order, or so that its will is published. Whether it could.
    pub fn leave(&mut self, with_will: bool) -> bool {
        if !self.connected {
            return false;
        }
        let mut disconnect = Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
        if self.profile.version.is_v5() {
            if with_will {
                disconnect.reason = ReasonCode::DisconnectWithWillMessage;
            }
            if self.is_last && !self.profile.is_clean {
                disconnect.properties.session_expiry_interval = Some(0);
            }
        }
        self.release_acks();
        self.send(&Packet::Disconnect(disconnect));
        self.connected = false;
        true
    }

    /// From its next connection on it starts anew and leaves nothing behind.
    pub fn retire(&mut self) {
        self.is_last = true;
        self.profile.leaves_will = false;
    }

    pub fn publish(&mut self, message: Outgoing) {
        self.waiting.push_back(message);
        self.pump();
    }

    /// Whatever it wants to say may be said only to somebody who listens.
    pub fn ping(&mut self) {
        if self.connected {
            self.send(&Packet::Pingreq);
        }
    }

    /// Ends its first subscription.
    pub fn unsubscribe(&mut self) {
        let Some((filter, _)) = self.profile.filters.first().copied() else {
            return;
        };
        if !self.connected || !self.subscribed || self.unsubscribing.is_some() {
            return;
        }
        let id = self.mint();
        self.unsubscribing = Some(id.value());
        let filters = [TopicFilter::new(filter).expect("a filter")];
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id: id,
            properties: UnsubscribeProperties::default(),
            filters: TopicFilters::from_slice(&filters),
        }));
    }

    /// Lets go what it has to acknowledge.
    pub fn release_acks(&mut self) {
        let held = core::mem::take(&mut self.held);
        self.out.extend(held);
    }

    /// Whether everything was acknowledged and nothing waits.
    pub fn is_settled(&self) -> bool {
        self.connected
            && self.subscribed
            && self.waiting.is_empty()
            && self.inflight.is_empty()
            && self.received_qos2.is_empty()
            && self.held.is_empty()
            && self.out.is_empty()
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
                    let packet = Packet::parse(self.profile.version, &input[at..at + total_len]);
                    self.handle_packet(&packet.expect("the gateway speaks MQTT"));
                    at += total_len;
                }
            }
        }
        self.input = input[at..].to_vec();
    }

    fn handle_packet(&mut self, packet: &Packet<'_>) {
        let name = self.profile.name;
        match *packet {
            Packet::Connack(connack) => {
                assert!(!connack.reason.is_error(), "{name}: {:?}", connack.reason);
                if !connack.session_present {
                    let is_lost = self.was_connected && self.profile.is_lasting() && !self.is_last;
                    assert!(!is_lost, "{name}'s session was lost");
                    self.forget();
                }
                self.connected = true;
                self.was_connected = true;
                self.resume();
            }
            Packet::Publish(ref publish) => self.handle_publish(publish),
            Packet::Puback(ack) => self.complete(ack.packet_id, QoS::AtLeastOnce),
            Packet::Pubrec(ack) => {
                let entry = self.inflight.get_mut(&ack.packet_id.value());
                let (_, message, stage) = entry.expect("PUBREC of something in flight");
                assert_eq!(message.qos, QoS::ExactlyOnce);
                *stage = Stage::Released;
                self.hold(&Packet::Pubrel(Ack::success(ack.packet_id)));
            }
            Packet::Pubcomp(ack) => self.complete(ack.packet_id, QoS::ExactlyOnce),
            Packet::Pubrel(ack) => {
                self.received_qos2.remove(&ack.packet_id.value());
                self.hold(&Packet::Pubcomp(Ack::success(ack.packet_id)));
            }
            Packet::Suback(suback) => {
                assert!(
                    suback.reasons.iter().all(|reason| !reason.is_error()),
                    "{suback:?}"
                );
                self.subscribed = true;
            }
            Packet::Unsuback(unsuback) => {
                assert_eq!(self.unsubscribing, Some(unsuback.packet_id.value()));
            }
            Packet::Pingresp => {}
            Packet::Disconnect(disconnect) => {
                self.goodbyes.push(disconnect.reason);
                self.connected = false;
            }
            other => panic!("a server does not send {:?}", other.packet_type()),
        }
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) {
        let incoming = Incoming {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
        };
        match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => self.inbox.push(incoming),
            (QoS::AtLeastOnce, Some(id)) => {
                self.inbox.push(incoming);
                self.hold(&Packet::Puback(Ack::success(id)));
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
                self.hold(&Packet::Pubrec(Ack::success(id)));
            }
            (_, None) => unreachable!("the codec gives QoS 1 and 2 an identifier"),
        }
    }

    /// After CONNACK: subscribes if that was never acknowledged, and sends again what is in flight,
    /// in order.
    fn resume(&mut self) {
        if !self.subscribed {
            let filters = self.profile.filters.clone();
            let list: Vec<_> = filters
                .iter()
                .map(|(filter, qos)| SubscriptionRequest {
                    filter: TopicFilter::new(filter).expect("a filter"),
                    options: SubscriptionOptions::new(*qos),
                })
                .collect();
            let identifier = self
                .profile
                .identifier
                .filter(|_| self.profile.version.is_v5());
            let subscribe = Subscribe {
                packet_id: self.mint(),
                properties: SubscribeProperties {
                    subscription_identifier: identifier.and_then(SubscriptionIdentifier::new),
                    ..SubscribeProperties::default()
                },
                requests: SubscriptionRequests::from_slice(&list),
            };
            self.send(&Packet::Subscribe(subscribe));
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
                Stage::Released => self.send(&Packet::Pubrel(Ack::success(id))),
            }
        }
        self.pump();
    }

    /// Nothing is left of its session.
    fn forget(&mut self) {
        self.subscribed = self.profile.filters.is_empty() || self.is_last;
        self.inflight.clear();
        self.received_qos2.clear();
        self.unsubscribing = None;
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
        // Used again as soon as may be: what is remembered for too long is found out.
        self.next_id = if id.value() < IDS {
            id.next()
        } else {
            PacketId::FIRST
        };
        id
    }

    fn send_publish(&mut self, message: &Outgoing, packet_id: Option<PacketId>, dup: bool) {
        let is_v5 = self.profile.version.is_v5();
        let publish = Publish {
            dup,
            qos: message.qos,
            retain: message.retain,
            topic: &message.topic,
            packet_id,
            properties: PublishProperties {
                message_expiry_interval: message.expiry.filter(|_| is_v5),
                ..PublishProperties::default()
            },
            payload: &message.payload,
        };
        self.send(&Packet::Publish(publish));
    }

    fn send(&mut self, packet: &Packet<'_>) {
        packet.encode_into(self.profile.version, &mut self.out);
    }

    /// Acknowledgements leave in order, but not at once.
    fn hold(&mut self, packet: &Packet<'_>) {
        packet.encode_into(self.profile.version, &mut self.held);
    }

    /// Whether there is something to acknowledge.
    pub fn owes_acks(&self) -> bool {
        !self.held.is_empty()
    }
}
