//! The client machine against scripts: what it says to each thing that a server can say.

mod connecting;
mod ending;
mod keep_alive;
mod publishing;
mod receiving;
mod requests;
mod resuming;
mod steps;

use crate::samples::bytes_of;
use fieldgate::buffer::{Memory, Payload, SendQueue};
use fieldgate::mqtt::ProtocolVersion::V3;
use fieldgate::mqtt::client::{
    Client, CloseCause, ConnectOptions, Event, ReceivedMessage, Violation,
};
use fieldgate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::{
    Ack, ApplicationMessage, Connack, ConnackProperties, Disconnect, Packet, PacketId,
    ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, TopicName,
};
use fieldgate::time::{Duration, Instant};
use std::rc::Rc;

/// A client, its transport's outgoing side, and a clock.
struct Harness {
    client: Client,
    out: SendQueue,
    now: Instant,
    version: ProtocolVersion,
}

impl Harness {
    /// Without a transport.
    fn new(options: ConnectOptions) -> Self {
        Self {
            version: options.version,
            client: Client::new(options).expect("good options"),
            out: SendQueue::new(&Memory::new(usize::MAX)),
            now: Instant::from_nanos(1_000_000_000_000),
        }
    }

    /// Connected to a server that says no more than yes.
    fn connected(options: ConnectOptions) -> Self {
        Self::connected_with(options, ConnackProperties::default())
    }

    fn connected_with(options: ConnectOptions, properties: ConnackProperties<'_>) -> Self {
        let mut harness = Self::new(options);
        harness.connect(false, properties);
        harness
    }

    /// Opens a transport, and says yes to the CONNECT.
    fn connect(&mut self, session_present: bool, properties: ConnackProperties<'_>) {
        self.out.clear();
        self.client.handle_connected(self.now);
        assert!(matches!(&self.sent()[..], [packet] if packet[0] == 0x10));
        self.receive(&Packet::Connack(Connack {
            session_present,
            reason: ReasonCode::Success,
            properties,
        }));
        let event = self.client.poll_event();
        assert!(
            matches!(event, Some(Event::Connected { session_present: said, .. })
                if said == session_present || self.version == V3),
            "{event:?}"
        );
    }

    fn resume(&mut self) {
        self.client.handle_closed();
        assert!(matches!(
            self.events()[..],
            [Event::Closed(CloseCause::TransportClosed)]
        ));
        self.connect(true, ConnackProperties::default());
    }

    fn receive(&mut self, packet: &Packet<'_>) {
        let bytes = bytes_of(packet, self.version);
        self.receive_bytes(&bytes);
    }

    fn receive_bytes(&mut self, bytes: &[u8]) {
        let consumed = self.client.handle_input(self.now, bytes);
        assert_eq!(consumed, bytes.len(), "all of it is whole packets");
    }

    /// What has been sent since, packet by packet.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let more = self.client.poll_transmit(self.now, &mut self.out);
        assert!(!more, "the queue takes all of it");
        let mut bytes = Vec::new();
        while !self.out.is_empty() {
            let front = self.out.front().to_vec();
            self.out.consume(front.len());
            bytes.extend(front);
        }
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            match frame::peek(&bytes, PACKET_SIZE_MAX) {
                Ok(Frame::Complete { total_len, .. }) => {
                    let rest = bytes.split_off(total_len);
                    packets.push(std::mem::replace(&mut bytes, rest));
                }
                other => panic!("half a packet was sent: {other:?}"),
            }
        }
        packets
    }

    fn assert_sent(&mut self, expected: &[Packet<'_>]) {
        let version = self.version;
        let expected: Vec<_> = expected
            .iter()
            .map(|packet| bytes_of(packet, version))
            .collect();
        assert_eq!(self.sent(), expected);
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn publish(&mut self, topic: &str, qos: QoS) -> Option<PacketId> {
        self.client
            .publish(message(topic, qos))
            .expect("there is room")
    }

    /// Lets this much time pass, and the client notice.
    fn pass(&mut self, seconds: f64) {
        self.now = self.now + Duration::from_secs_f64(seconds);
        self.client.handle_timeout(self.now);
    }

    fn violation(&mut self) -> Violation {
        match &self.events()[..] {
            [Event::Closed(CloseCause::ServerMisbehaved(violation))] => *violation,
            other => panic!("{other:?}"),
        }
    }
}

fn options(version: ProtocolVersion) -> ConnectOptions {
    ConnectOptions {
        version,
        client_id: "shed".into(),
        ..ConnectOptions::default()
    }
}

/// With a session that outlives the connection.
fn lasting(version: ProtocolVersion) -> ConnectOptions {
    ConnectOptions {
        clean_start: false,
        session_expiry_interval: 3600,
        ..options(version)
    }
}

fn message_with(topic: &str, qos: QoS, payload: &[u8]) -> Rc<ApplicationMessage> {
    Rc::new(ApplicationMessage::new(
        TopicName::new(topic).expect("a name"),
        Payload::copy_from(payload),
        qos,
        false,
        &PublishProperties::default(),
        Instant::default(),
    ))
}

fn message(topic: &str, qos: QoS) -> Rc<ApplicationMessage> {
    message_with(topic, qos, b"21.4")
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not 0")
}

fn publish(topic: &str, qos: QoS, packet_id: u16, dup: bool) -> Packet<'_> {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(packet_id),
        properties: PublishProperties::default(),
        payload: b"21.4",
    })
}

fn puback(packet_id: u16) -> Packet<'static> {
    Packet::Puback(Ack::success(id(packet_id)))
}

fn pubrec(packet_id: u16) -> Packet<'static> {
    Packet::Pubrec(Ack::success(id(packet_id)))
}

fn pubrel(packet_id: u16) -> Packet<'static> {
    Packet::Pubrel(Ack::success(id(packet_id)))
}

fn pubcomp(packet_id: u16) -> Packet<'static> {
    Packet::Pubcomp(Ack::success(id(packet_id)))
}

fn disconnect(reason: ReasonCode) -> Packet<'static> {
    Packet::Disconnect(Disconnect::new(reason))
}

fn published(packet_id: u16, reason: ReasonCode) -> Event {
    Event::Published {
        packet_id: id(packet_id),
        reason,
    }
}

fn received(event: &Event) -> &ReceivedMessage {
    match event {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

const QOS_0: QoS = QoS::AtMostOnce;
const QOS_1: QoS = QoS::AtLeastOnce;
const QOS_2: QoS = QoS::ExactlyOnce;
