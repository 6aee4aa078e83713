//! The client machine and a small server, back to back, over a transport that breaks at any moment.
//!
//! The server keeps the session, so whatever is lost on the way: a QoS 1 message arrives at least
//! once, a QoS 2 message exactly once, both in the order in which they were published, and the
//! client learns of each exactly once. The same holds the other way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use fieldgate::buffer::{Memory, Payload, SendQueue};
use fieldgate::mqtt::client::{Client, ConnectOptions, Event};
use fieldgate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::{
    Ack, ApplicationMessage, Connack, ConnackProperties, Packet, PacketId, ProtocolVersion,
    Publish, PublishProperties, QoS, ReasonCode, ReceiveMaximum, TopicName,
};
use fieldgate::time::{Duration, Instant};
use proptest::prelude::*;

const TOPIC: &str = "t";

/// One side of a session as it should be, without any cleverness.
#[derive(Debug, Default)]
struct Server {
    /// What arrived, without QoS 2 duplicates.
    delivered: Vec<(QoS, u32)>,
    /// QoS 2 identifiers between PUBLISH and PUBREL.
    received: BTreeSet<PacketId>,
    /// Ours that are not acknowledged: identifier, QoS, number, released.
    unsettled: VecDeque<(PacketId, QoS, u32, bool)>,
    next_id: u16,
    /// Of the connection.
    input: Vec<u8>,
    output: Vec<u8>,
    is_connected: bool,
    publishes_seen: u16,
    acknowledged: u16,
    receive_maximum: u16,
}

impl Server {
    fn handle_input(&mut self, version: ProtocolVersion, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Ok(Frame::Complete { total_len, .. }) = frame::peek(&self.input, PACKET_SIZE_MAX)
        {
            let rest = self.input.split_off(total_len);
            let frame = std::mem::replace(&mut self.input, rest);
            let packet = Packet::parse(version, &frame).expect("a client sends good packets");
            self.handle_packet(version, &packet);
        }
    }

    fn handle_packet(&mut self, version: ProtocolVersion, packet: &Packet<'_>) {
        match *packet {
            Packet::Connect(connect) => {
                assert!(!self.is_connected, "one CONNECT");
                self.is_connected = true;
                let limits = ConnackProperties {
                    receive_maximum: ReceiveMaximum::new(self.receive_maximum),
                    ..ConnackProperties::default()
                };
                let connack = Connack {
                    session_present: self.next_id > 0 && !connect.clean_start,
                    reason: ReasonCode::Success,
                    properties: if version == ProtocolVersion::V5 {
                        limits
                    } else {
                        ConnackProperties::default()
                    },
                };
                // From now on there is a session.
                self.next_id = self.next_id.max(1);
                self.send(version, &Packet::Connack(connack));
                for (id, qos, number, released) in self.unsettled.clone() {
                    if released {
                        self.send(version, &Packet::Pubrel(Ack::success(id)));
                    } else {
                        self.send_publish(version, qos, id, number, true);
                    }
                }
            }
            Packet::Publish(publish) => {
                let number = u32::from_be_bytes(publish.payload.try_into().expect("four bytes"));
                match publish.packet_id {
                    None => {}
                    Some(id) if publish.qos == QoS::AtLeastOnce => {
                        self.count_publish(version);
                        self.delivered.push((publish.qos, number));
                        self.acknowledged += 1;
                        self.send(version, &Packet::Puback(Ack::success(id)));
                    }
                    Some(id) => {
                        self.count_publish(version);
                        if self.received.insert(id) {
                            self.delivered.push((publish.qos, number));
                        } else {
                            assert!(publish.dup, "[MQTT-3.3.1-1]");
                        }
                        self.send(version, &Packet::Pubrec(Ack::success(id)));
                    }
                }
            }
            Packet::Pubrel(ack) => {
                self.received.remove(&ack.packet_id);
                self.acknowledged = self.acknowledged.saturating_add(1);
                self.send(version, &Packet::Pubcomp(Ack::success(ack.packet_id)));
            }
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                self.unsettled.retain(|entry| entry.0 != ack.packet_id);
            }
            Packet::Pubrec(ack) => {
                for entry in &mut self.unsettled {
                    if entry.0 == ack.packet_id {
                        entry.3 = true;
                    }
                }
                self.send(version, &Packet::Pubrel(Ack::success(ack.packet_id)));
            }
            Packet::Pingreq => self.send(version, &Packet::Pingresp),
            ref other => panic!("{other:?}"),
        }
    }

    fn count_publish(&mut self, version: ProtocolVersion) {
        self.publishes_seen += 1;
        let outstanding = self.publishes_seen.saturating_sub(self.acknowledged);
        if version == ProtocolVersion::V5 {
            assert!(outstanding <= self.receive_maximum, "[MQTT-3.3.4-7]");
        }
    }

    fn publish(&mut self, version: ProtocolVersion, qos: QoS, number: u32) {
        self.next_id += 1;
        let id = PacketId::new(self.next_id).expect("a test has fewer");
        self.unsettled.push_back((id, qos, number, false));
        if self.is_connected {
            self.send_publish(version, qos, id, number, false);
        }
    }

    fn send_publish(
        &mut self,
        version: ProtocolVersion,
        qos: QoS,
        id: PacketId,
        number: u32,
        dup: bool,
    ) {
        let publish = Publish {
            dup,
            qos,
            retain: false,
            topic: TOPIC,
            packet_id: Some(id),
            properties: PublishProperties::default(),
            payload: &number.to_be_bytes(),
        };
        self.send(version, &Packet::Publish(publish));
    }

    fn send(&mut self, version: ProtocolVersion, packet: &Packet<'_>) {
        packet.encode_into(version, &mut self.output);
    }

    fn handle_closed(&mut self) {
        self.input.clear();
        self.output.clear();
        self.is_connected = false;
        self.publishes_seen = 0;
        self.acknowledged = 0;
    }
}

/// Both sides and what lies between them.
struct Pair {
    version: ProtocolVersion,
    client: Client,
    out: SendQueue,
    /// Bytes that have reached the client and are not consumed.
    kept: Vec<u8>,
    server: Server,
    now: Instant,
    /// What the client has published and not heard of: number by identifier.
    waiting: BTreeMap<PacketId, u32>,
    settled: Vec<u32>,
    received: Vec<(QoS, u32)>,
    is_open: bool,
}

impl Pair {
    fn new(version: ProtocolVersion, receive_maximum: u16) -> Self {
        let options = ConnectOptions {
            version,
            client_id: "c".into(),
            clean_start: false,
            session_expiry_interval: u32::MAX,
            receive_maximum: ReceiveMaximum::DEFAULT,
            inflight_maximum: 10,
            ..ConnectOptions::default()
        };
        Self {
            version,
            client: Client::new(options).expect("good options"),
            out: SendQueue::new(&Memory::new(usize::MAX)),
            kept: Vec::new(),
            server: Server {
                receive_maximum,
                ..Server::default()
            },
            now: Instant::from_nanos(1),
            waiting: BTreeMap::new(),
            settled: Vec::new(),
            received: Vec::new(),
            is_open: false,
        }
    }

    fn open(&mut self) {
        if !self.is_open {
            self.is_open = true;
            self.client.handle_connected(self.now);
        }
    }

    fn cut(&mut self) {
        self.is_open = false;
        self.client.handle_closed();
        self.server.handle_closed();
        self.out.clear();
        self.kept.clear();
        self.drain_events();
    }

    fn publish(&mut self, qos: QoS, number: u32) -> bool {
        let message = ApplicationMessage::new(
            TopicName::new(TOPIC).expect("a name"),
            Payload::copy_from(&number.to_be_bytes()),
            qos,
            false,
            &PublishProperties::default(),
            self.now,
        );
        match self.client.publish(Rc::new(message)) {
            Ok(Some(id)) => {
                assert!(
                    self.waiting.insert(id, number).is_none(),
                    "an unused identifier"
                );
                true
            }
            Ok(None) => panic!("QoS 1 and 2 have identifiers"),
            Err(refusal) => {
                assert!(refusal.may_retry(), "{refusal}");
                false
            }
        }
    }

    /// Carries up to so many bytes to the server.
    fn carry_up(&mut self, count: usize) -> bool {
        self.client.poll_transmit(self.now, &mut self.out);
        let front = self.out.front();
        let bytes = front[..front.len().min(count)].to_vec();
        self.out.consume(bytes.len());
        self.server.handle_input(self.version, &bytes);
        !bytes.is_empty()
    }

    /// Carries up to so many bytes to the client.
    fn carry_down(&mut self, count: usize) -> bool {
        let count = count.min(self.server.output.len());
        self.kept.extend(self.server.output.drain(..count));
        loop {
            let consumed = self.client.handle_input(self.now, &self.kept);
            self.kept.drain(..consumed);
            self.drain_events();
            if consumed == 0 {
                break;
            }
        }
        count > 0
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Published { packet_id, reason } => {
                    assert_eq!(reason, ReasonCode::Success);
                    let number = self.waiting.remove(&packet_id).expect("settled once");
                    self.settled.push(number);
                }
                Event::Message(received) => {
                    let message = received.message;
                    let payload = (**message.payload()).try_into().expect("four bytes");
                    self.received
                        .push((message.qos(), u32::from_be_bytes(payload)));
                }
                Event::Connected { .. } => {}
                Event::Closed(cause) => assert!(!self.is_open, "{cause}"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Lets everything arrive.
    fn settle(&mut self) {
        self.open();
        while self.carry_up(usize::MAX) | self.carry_down(usize::MAX) {}
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(bool),
    ServerPublish(bool),
    Up(usize),
    Down(usize),
    Cut,
    Open,
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any::<bool>().prop_map(Step::Publish),
        3 => any::<bool>().prop_map(Step::ServerPublish),
        6 => (1_usize..60).prop_map(Step::Up),
        6 => (1_usize..60).prop_map(Step::Down),
        1 => Just(Step::Cut),
        2 => Just(Step::Open),
        1 => any::<u8>().prop_map(Step::Pass),
    ]
}

fn qos_of(exactly_once: bool) -> QoS {
    if exactly_once {
        QoS::ExactlyOnce
    } else {
        QoS::AtLeastOnce
    }
}

/// What came of one QoS: everything, in order of its first arrival, and for QoS 2 once.
fn check_arrivals(published: &[(QoS, u32)], arrived: &[(QoS, u32)]) -> Result<(), TestCaseError> {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let numbers = |list: &[(QoS, u32)]| -> Vec<u32> {
            let of_qos = list.iter().filter(|entry| entry.0 == qos);
            of_qos.map(|entry| entry.1).collect()
        };
        let mut arrived = numbers(arrived);
        if qos == QoS::AtLeastOnce {
            let mut seen = BTreeSet::new();
            arrived.retain(|number| seen.insert(*number));
        }
        prop_assert_eq!(numbers(published), arrived);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_doubled_or_reordered(
        steps in proptest::collection::vec(step(), 0..120),
        is_v5 in any::<bool>(),
        receive_maximum in 1_u16..6,
    ) {
        let version = if is_v5 { ProtocolVersion::V5 } else { ProtocolVersion::V4 };
        let mut pair = Pair::new(version, receive_maximum);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        // The first connection makes the session.
        pair.settle();
        for step in steps {
            match step {
                Step::Publish(exactly_once) => {
                    let (qos, number) = (qos_of(exactly_once), up.len() as u32);
                    if pair.publish(qos, number) {
                        up.push((qos, number));
                    }
                }
                Step::ServerPublish(exactly_once) => {
                    let (qos, number) = (qos_of(exactly_once), down.len() as u32);
                    pair.server.publish(version, qos, number);
                    down.push((qos, number));
                }
                Step::Up(count) => drop(pair.carry_up(count)),
                Step::Down(count) => drop(pair.carry_down(count)),
                Step::Cut => pair.cut(),
                Step::Open => pair.open(),
                Step::Pass(seconds) => {
                    // Not so long that a silent server would be given up.
                    pair.now = pair.now + Duration::from_millis(u64::from(seconds));
                }
            }
        }
        pair.settle();
        check_arrivals(&up, &pair.server.delivered)?;
        check_arrivals(&down, &pair.received)?;
        prop_assert!(pair.waiting.is_empty());
        pair.settled.sort_unstable();
        let all: Vec<u32> = (0..up.len() as u32).collect();
        prop_assert_eq!(&pair.settled, &all);
        prop_assert_eq!(pair.client.inflight(), 0);
        prop_assert!(pair.server.unsettled.is_empty());
        prop_assert!(pair.server.received.is_empty());
    }
}
