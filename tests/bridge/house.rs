//! The host of these tests: a bridge, the bytes of its connection, a clock that moves when told, and
//! two kinds of peer: a script, and the broker machine.

use std::collections::VecDeque;
use std::io::IoSlice;

use fieldgate::bridge::settings::{
    Endpoint, Keep, Lanes, Profile, QueueLimits, Queued, ReceiveRule, Reconnect, Scheme, SendRule,
    Settings, TlsSettings, Version,
};
use fieldgate::bridge::{Bridge, Credentials, DeadReason, Output, Phase, Status, Ticket};
use fieldgate::buffer::{Memory, Payload, SendQueue};
use fieldgate::id::{ConnId, Lsn, RuleId};
use fieldgate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use fieldgate::mqtt::{
    Ack, ApplicationMessage, Connack, ConnackProperties, Packet, PacketId, ProtocolVersion,
    Publish, PublishProperties, ReasonCode, ReasonCodes, Suback, TopicName, UserPropertiesBuf,
};
use fieldgate::rng::Rng;
use fieldgate::slab::Key;
use fieldgate::time::{Duration, Instant, Now, WallTime};
use fieldgate::units::Rate;

pub use fieldgate::mqtt::ProtocolVersion::{V4, V5};
pub use fieldgate::mqtt::QoS::{self, AtLeastOnce as Q1, AtMostOnce as Q0, ExactlyOnce as Q2};

pub use super::upstream::Upstream;

pub const WINDOW: u16 = 8;

pub fn endpoint(host: &str) -> Endpoint {
    Endpoint::Network {
        scheme: Scheme::Mqtt,
        host: host.into(),
        port: 1883,
        path: "/".into(),
    }
}

/// One endpoint, no state topic, `shed/#` up at QoS 1 as it is, nothing down.
pub fn settings() -> Settings {
    Settings {
        origin: "shed-1".into(),
        base_topic: "shed".into(),
        endpoints: vec![endpoint("one")],
        failback: None,
        version: Version::Auto,
        client_id: "shed-cloud".into(),
        username: None,
        password: None,
        tls: TlsSettings::default(),
        keep_alive: 60,
        session_expiry: 3600,
        clean_start: false,
        reconnect: Reconnect::default(),
        stalled_after: Some(Duration::from_secs(30)),
        profile: Profile::Generic,
        state_topic: None,
        queue: QueueLimits::default(),
        replay_rate: None,
        inflight_maximum: WINDOW,
        receive_maximum: 16,
        max_packet_size: 64 * 1024,
        send: vec![send_rule("shed/#", Q1)],
        receive: Vec::new(),
    }
}

pub fn send_rule(filter: &str, qos: QoS) -> SendRule {
    SendRule {
        filter: filter.into(),
        except: Vec::new(),
        to: None,
        backlog_to: None,
        qos,
        keep: Keep::All,
        lanes: Lanes::Two,
    }
}

pub fn receive_rule(filter: &str, to: Option<&str>, qos: QoS) -> ReceiveRule {
    ReceiveRule {
        filter: filter.into(),
        to: to.map(Into::into),
        qos,
        queued: Queued::Refuse,
    }
}

pub fn message(topic: &str, payload: &str, retain: bool) -> ApplicationMessage {
    message_with(topic, payload, Q1, retain, &[])
}

pub fn message_with(
    topic: &str,
    payload: &str,
    qos: QoS,
    retain: bool,
    pairs: &[(&str, &str)],
) -> ApplicationMessage {
    let mut buffer = UserPropertiesBuf::new();
    for (name, value) in pairs {
        assert!(buffer.push(name, value));
    }
    let properties = PublishProperties {
        user_properties: buffer.as_properties(),
        ..PublishProperties::default()
    };
    let topic = TopicName::new(topic).expect("a name");
    let payload = Payload::copy_from(payload.as_bytes());
    ApplicationMessage::new(topic, payload, qos, retain, &properties, Instant::default())
}

/// A bridge and its side of the wire.
pub struct Rig {
    pub bridge: Bridge,
    pub now: Now,
    pub memory: Memory,
    next_conn: u32,
    pub conn: Option<ConnId>,
    out: SendQueue,
    /// What the bridge has sent and nobody has taken.
    pub sent: VecDeque<u8>,
    /// What came for the bridge and it has not consumed.
    unread: Vec<u8>,
    pub dials: VecDeque<Endpoint>,
    pub undials: usize,
    pub closes: Vec<(ConnId, bool)>,
    pub published: Vec<ApplicationMessage>,
    pub tickets: VecDeque<Ticket>,
    /// Received messages are settled at once.
    pub settles: bool,
    pub dead: Vec<(String, DeadReason)>,
    pub version: ProtocolVersion,
}

impl Rig {
    pub fn new(settings: Settings) -> Self {
        let memory = Memory::new(usize::MAX);
        let mut rig = Self {
            bridge: Bridge::new("cloud", settings, &memory, &mut Rng::from_seed(5)).unwrap(),
            now: Now {
                monotonic: Instant::from_nanos(1) + Duration::from_secs(1000),
                wall: WallTime::EARLIEST_PLAUSIBLE,
            },
            next_conn: 0,
            conn: None,
            out: SendQueue::new(&memory),
            memory,
            sent: VecDeque::new(),
            unread: Vec::new(),
            dials: VecDeque::new(),
            undials: 0,
            closes: Vec::new(),
            published: Vec::new(),
            tickets: VecDeque::new(),
            settles: true,
            dead: Vec::new(),
            version: V5,
        };
        rig.bridge.start();
        rig.turn();
        rig
    }

    /// Does what the bridge says.
    pub fn turn(&mut self) {
        loop {
            let mut busy = false;
            while let Some(output) = self.bridge.poll_output() {
                busy = true;
                self.output(output);
            }
            if let Some(conn) = self.bridge.poll_wake() {
                busy = true;
                self.fill(conn);
            }
            if !busy {
                break;
            }
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Dial { endpoint } => self.dials.push_back(endpoint),
            Output::Undial => {
                self.undials += 1;
                self.dials.clear();
            }
            Output::Close { conn, after_flush } => {
                self.closes.push((conn, after_flush));
                if self.conn == Some(conn) {
                    self.conn = None;
                    self.unread.clear();
                    if !after_flush {
                        self.out.clear();
                    }
                }
                self.bridge.handle_closed(self.now, conn, false);
            }
            Output::Publish {
                message, ticket, ..
            } => {
                self.published.push(message);
                match ticket {
                    Some(ticket) if self.settles => {
                        self.bridge.settle(ticket, ReasonCode::Success);
                    }
                    Some(ticket) => self.tickets.push_back(ticket),
                    None => {}
                }
            }
            Output::Note(note) => {
                // Nothing of it is ever lost here.
                self.bridge
                    .handle_noted(self.now.monotonic, note, Some(Lsn(0)));
            }
            Output::DeadLetter {
                message, reason, ..
            } => self.dead.push((message.topic().into(), reason)),
        }
    }

    fn fill(&mut self, conn: ConnId) {
        loop {
            self.bridge.fill(self.now, conn, 64 * 1024, &mut self.out);
            if self.out.is_empty() {
                assert!(!self.out.has_more(), "who has more gives some");
                return;
            }
            while !self.out.is_empty() {
                let mut slices = [IoSlice::new(&[]); 8];
                let count = self.out.gather(&mut slices, usize::MAX);
                let written: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                for slice in &slices[..count] {
                    self.sent.extend(slice.iter());
                }
                self.out.consume(written);
            }
        }
    }

    /// Answers the oldest dial with a transport.
    pub fn open(&mut self) -> ConnId {
        self.open_with(Credentials::default())
    }

    pub fn open_with(&mut self, credentials: Credentials) -> ConnId {
        self.dials.pop_front().expect("somebody dials");
        let conn = ConnId::from_parts(self.next_conn, 0);
        self.next_conn += 1;
        self.sent.clear();
        self.unread.clear();
        self.out.clear();
        self.conn = Some(conn);
        self.bridge.handle_dialled(self.now, conn, credentials);
        self.turn();
        conn
    }

    pub fn unreachable(&mut self) {
        self.dials.pop_front().expect("somebody dials");
        self.bridge.handle_unreachable(self.now, "no route");
        self.turn();
    }

    /// The transport is gone.
    pub fn cut(&mut self, by_peer: bool) {
        if let Some(conn) = self.conn.take() {
            self.sent.clear();
            self.unread.clear();
            self.out.clear();
            self.bridge.handle_closed(self.now, conn, by_peer);
            self.turn();
        }
    }

    pub fn receive_bytes(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        loop {
            let Some(conn) = self.conn else { return };
            let count = self.bridge.handle_input(self.now, conn, &self.unread);
            self.turn();
            if self.conn == Some(conn) {
                self.unread.drain(..count);
            }
            if count == 0 || self.unread.is_empty() {
                return;
            }
        }
    }

    pub fn receive(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode_into(self.version, &mut bytes);
        self.receive_bytes(&bytes);
    }

    /// A transport and a peer that says yes, also to what it is asked for.
    pub fn connect(&mut self) {
        self.connect_with(false, ConnackProperties::default());
    }

    pub fn connect_with(&mut self, session_present: bool, properties: ConnackProperties<'_>) {
        self.open();
        assert_eq!(self.packets()[0][0], 0x10, "CONNECT");
        self.connack(session_present, properties);
        assert_eq!(self.bridge.phase(), Phase::Up);
        for packet in self.packets() {
            if packet[0] >> 4 == 8 {
                let Ok(Packet::Subscribe(asked)) = Packet::parse(self.version, &packet) else {
                    panic!("no SUBSCRIBE");
                };
                let reasons = vec![ReasonCode::GrantedQos1; asked.requests.iter().count()];
                self.receive(&suback(asked.packet_id, &reasons));
            } else {
                self.sent.extend(packet);
            }
        }
    }

    /// Lets time pass with a peer that answers what the keep-alive asks.
    pub fn alive(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds(1);
            self.receive(&Packet::Pingresp);
        }
    }

    pub fn connack(&mut self, session_present: bool, properties: ConnackProperties<'_>) {
        self.receive(&Packet::Connack(Connack {
            session_present,
            reason: ReasonCode::Success,
            properties,
        }));
    }

    pub fn refuse(&mut self, reason: ReasonCode) {
        self.receive(&Packet::Connack(Connack {
            session_present: false,
            reason,
            properties: ConnackProperties::default(),
        }));
    }

    /// What the bridge has sent since, whole packets.
    pub fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let bytes = self.sent.make_contiguous();
        let mut rest = &*bytes;
        while !rest.is_empty() {
            match frame::peek(rest, PACKET_SIZE_MAX) {
                Ok(Frame::Complete { total_len, .. }) => {
                    packets.push(rest[..total_len].to_vec());
                    rest = &rest[total_len..];
                }
                other => panic!("half a packet: {other:?}"),
            }
        }
        self.sent.clear();
        packets
    }

    /// The PUBLISH packets among them.
    pub fn publishes(&mut self) -> Vec<Sent> {
        let version = self.version;
        let packets = self.packets();
        let packets = packets.iter().filter(|packet| packet[0] >> 4 == 3);
        packets.map(|packet| Sent::of(version, packet)).collect()
    }

    pub fn ack(&mut self, id: PacketId) {
        self.receive(&Packet::Puback(Ack::success(id)));
    }

    pub fn ack_all(&mut self, sent: &[Sent]) {
        for id in sent.iter().filter_map(|sent| sent.packet_id) {
            self.ack(id);
        }
    }

    pub fn nack(&mut self, id: PacketId, reason: ReasonCode) {
        self.receive(&Packet::Puback(Ack::new(id, reason)));
    }

    pub fn send(&mut self, topic: &str, payload: &str, retain: bool) {
        self.send_by(0, &message(topic, payload, retain));
    }

    pub fn send_by(&mut self, rule: u16, message: &ApplicationMessage) {
        self.bridge.send(self.now, RuleId(rule), message, None);
        self.turn();
    }

    pub fn advance(&mut self, duration: Duration) {
        self.now.monotonic = self.now.monotonic + duration;
        self.now.wall = self.now.wall.saturating_add(duration);
    }

    /// Lets time pass, from deadline to deadline.
    pub fn wait(&mut self, duration: Duration) {
        let until = self.now.monotonic + duration;
        while let Some(at) = self.bridge.poll_timeout()
            && at <= until
        {
            if at > self.now.monotonic {
                self.advance(at.since(self.now.monotonic));
            }
            self.bridge.handle_timeout(self.now);
            let next = self.bridge.poll_timeout();
            assert!(
                next.is_none_or(|next| next > self.now.monotonic),
                "{next:?}"
            );
            self.turn();
        }
        self.advance(until.since(self.now.monotonic));
    }

    pub fn seconds(&mut self, seconds: u64) {
        self.wait(Duration::from_secs(seconds));
    }

    pub fn status(&self) -> Status {
        self.bridge.status(self.now)
    }

    /// How long until it dials again.
    pub fn pause(&mut self) -> Duration {
        let start = self.now.monotonic;
        while self.dials.is_empty() {
            let at = self.bridge.poll_timeout().expect("it dials again some day");
            self.wait(at.since(self.now.monotonic));
        }
        self.now.monotonic.since(start)
    }
}

/// A PUBLISH that the bridge has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub topic: String,
    pub payload: String,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    pub packet_id: Option<PacketId>,
    pub pairs: Vec<(String, String)>,
}

impl Sent {
    fn of(version: ProtocolVersion, packet: &[u8]) -> Self {
        let Packet::Publish(publish) = Packet::parse(version, packet).expect("a packet") else {
            panic!("no PUBLISH");
        };
        Self {
            topic: publish.topic.into(),
            payload: String::from_utf8(publish.payload.to_vec()).expect("text"),
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.packet_id,
            pairs: pairs_of(&publish.properties),
        }
    }

    pub fn is_backlog(&self) -> bool {
        self.pairs
            .iter()
            .any(|(name, _)| name == "fieldgate-backlog")
    }
}

pub fn pairs_of(properties: &PublishProperties<'_>) -> Vec<(String, String)> {
    let pairs = properties.user_properties.iter();
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

pub fn payloads(sent: &[Sent]) -> Vec<&str> {
    sent.iter().map(|sent| &*sent.payload).collect()
}

pub fn publish<'a>(topic: &'a str, payload: &'a str, qos: QoS, id: u16) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id),
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    }
}

pub fn suback(packet_id: PacketId, reasons: &[ReasonCode]) -> Packet<'_> {
    Packet::Suback(Suback {
        packet_id,
        properties: fieldgate::mqtt::AckProperties::default(),
        reasons: ReasonCodes::from_slice(reasons),
    })
}

/// The packet identifier of a SUBSCRIBE or UNSUBSCRIBE.
pub fn id_of(packet: &[u8]) -> PacketId {
    PacketId::new(u16::from_be_bytes([packet[2], packet[3]])).expect("not 0")
}

pub fn per_second(count: u64) -> Rate {
    Rate::per_second(count)
}

/// Carries all bytes both ways until both are quiet.
pub fn carry(rig: &mut Rig, upstream: &mut Upstream) {
    while let Some(conn) = rig.conn {
        rig.turn();
        let up: Vec<u8> = rig.sent.drain(..).collect();
        upstream.feed(rig.now, conn, &up);
        let down = upstream.take(rig.now, conn);
        if up.is_empty() && down.is_empty() {
            return;
        }
        rig.receive_bytes(&down);
        if upstream.closed.contains(&conn) {
            rig.cut(true);
        }
    }
}

/// A connection to the broker machine, greeted and settled.
pub fn join(rig: &mut Rig, upstream: &mut Upstream) {
    let conn = rig.open();
    upstream.accept(rig.now, conn);
    carry(rig, upstream);
}
