//! The host of these tests: a broker, its buffers, a clock that moves when told, and clients made
//! of bytes.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;

use fieldgate::broker::keep::Change;
use fieldgate::broker::settings::Settings;
use fieldgate::broker::{Admission, Broker, CloseHow, Origin, Output, Password, Published, Taker};
use fieldgate::buffer::{Memory, Outbox, RecvBuffer};
use fieldgate::credential::PasswordHash;
use fieldgate::id::{ConnId, Lsn};
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Ack, ApplicationMessage, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion,
    Publish, PublishProperties, QoS, ReasonCode, ReasonCodes, RetainHandling, Subscribe,
    SubscribeProperties, SubscriptionIdentifier, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests, TopicFilter, TopicFilters, Unsubscribe, UnsubscribeProperties,
};
use fieldgate::rng::Rng;
use fieldgate::slab::Key;
use fieldgate::time::{Duration, Instant, Now, WallTime};

use crate::ledger::Ledger;

pub use ProtocolVersion::{V3, V4, V5};
pub use QoS::{AtLeastOnce as Q1, AtMostOnce as Q0, ExactlyOnce as Q2};

/// Defines each case as a test that runs twice: with draws answered at once, and with every first
/// draw pending.
macro_rules! cases {
    ($(fn $name:ident($house:ident: &mut House) $body:block)*) => {$(
        #[test]
        fn $name() {
            for every_draw_is_fetched in [false, true] {
                println!("every_draw_is_fetched={every_draw_is_fetched}");
                let $house = &mut House::new(every_draw_is_fetched);
                $body
            }
        }
    )*};
}
pub(crate) use cases;

/// How soon what nobody waits for is kept.
pub const SYNC_WITHIN: Duration = Duration::from_secs(1);

/// A client's end of a connection.
struct Peer {
    version: ProtocolVersion,
    recv: RecvBuffer,
    /// Bytes that the client has sent and the broker was not ready to read.
    unread: VecDeque<u8>,
    /// Bytes that the broker has sent.
    sent: Vec<u8>,
    /// The client does not read.
    is_stalled: bool,
    is_closed: bool,
}

pub struct House {
    pub broker: Broker,
    pub memory: Memory,
    pub outbox: Outbox,
    pub now: Now,
    /// What the broker has asked to be kept.
    pub ledger: Ledger,
    fetch: bool,
    settings: Settings,
    peers: BTreeMap<ConnId, Peer>,
    next: u32,
    /// Where the journal's mark stands; `None` is current.
    pub mark: Option<Lsn>,
    /// Changes that the journal does not take.
    pub refuses: Option<fn(&Change) -> bool>,
    /// Entries that were wanted back from it.
    pub drawn: u32,
    pub deliveries: VecDeque<Delivery>,
    pub closed: Vec<(ConnId, CloseHow)>,
    pub fetches: usize,
    /// How often somebody subscribed below `$SYS`.
    pub system_subscribed: usize,
    /// Passwords that somebody is to compare.
    pub verifications: VecDeque<(ConnId, PasswordHash, Password)>,
}

#[derive(Debug)]
pub struct Delivery {
    pub taker: Taker,
    pub origin: Origin,
    pub message: ApplicationMessage,
    pub is_replay: bool,
}

impl House {
    pub fn new(fetch: bool) -> Self {
        Self::with(Settings::default(), fetch)
    }

    pub fn with(settings: Settings, fetch: bool) -> Self {
        let memory = Memory::new(usize::MAX);
        let kept_settings = settings.clone();
        let mut broker = Broker::new(settings, &memory, &mut Rng::from_seed(7));
        broker.set_fetch_every_draw(fetch);
        let mut outbox = Outbox::new(&memory);
        let now = Now {
            monotonic: Instant::from_nanos(1_000_000_000),
            wall: WallTime::EARLIEST_PLAUSIBLE,
        };
        broker.start_keeping(SYNC_WITHIN);
        broker.recovered(now, &mut outbox);
        let mut ledger = Ledger::default();
        broker.give_queue(ledger.next_queue());
        Self {
            broker,
            outbox,
            memory,
            now,
            ledger,
            fetch,
            settings: kept_settings,
            peers: BTreeMap::new(),
            next: 0,
            mark: None,
            refuses: None,
            drawn: 0,
            deliveries: VecDeque::new(),
            closed: Vec::new(),
            fetches: 0,
            system_subscribed: 0,
            verifications: VecDeque::new(),
        }
    }

    /// Other settings, from the default ones.
    pub fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::default();
        change(&mut settings);
        self.settings = settings.clone();
        self.broker
            .reconfigure(self.now, settings, &mut self.outbox);
        self.turn();
    }

    // ---- time and turns

    pub fn wait(&mut self, duration: Duration) {
        let until = self.now.monotonic + duration;
        // As a host would: to each deadline in turn.
        while let Some(at) = self.broker.poll_timeout()
            && at <= until
        {
            if at > self.now.monotonic {
                self.advance(at.since(self.now.monotonic));
            }
            self.broker.handle_timeout(self.now, &mut self.outbox);
            assert!(
                self.broker
                    .poll_timeout()
                    .is_none_or(|next| next > self.now.monotonic),
                "a timeout that was handled is over"
            );
            self.turn();
        }
        self.advance(until.since(self.now.monotonic));
        self.turn();
    }

    pub fn seconds(&mut self, seconds: u64) {
        self.wait(Duration::from_secs(seconds));
    }

    fn advance(&mut self, duration: Duration) {
        self.now.monotonic = self.now.monotonic + duration;
        self.now.wall = self.now.wall.saturating_add(duration);
    }

    /// Ends the turn, does what the broker says, writes what it has for its clients; again until
    /// nothing happens.
    pub fn turn(&mut self) {
        loop {
            let mark = self.mark.unwrap_or_else(|| self.broker.last_lsn());
            self.broker.end_turn(self.now, mark, &mut self.outbox);
            let mut busy = self.outputs();
            while let Some(conn) = self.outbox.poll_ready() {
                busy |= self.flush(conn);
            }
            busy |= self.outputs();
            while let Some(conn) = self.broker.poll_resumed() {
                busy = true;
                self.parse(conn);
            }
            if !busy {
                break;
            }
        }
    }

    fn outputs(&mut self) -> bool {
        let mut busy = self.note_changes();
        busy |= self.draw();
        while let Some(output) = self.broker.poll_output() {
            busy = true;
            match output {
                Output::Close { conn, how } => {
                    self.closed.push((conn, how));
                    if how == CloseHow::AfterFlush {
                        self.flush(conn);
                    }
                    self.gone(conn);
                }
                Output::Delivery {
                    taker,
                    origin,
                    message,
                    is_replay,
                    ..
                } => self.deliveries.push_back(Delivery {
                    taker,
                    origin,
                    message,
                    is_replay,
                }),
                Output::SystemSubscribed => self.system_subscribed += 1,
                Output::Verify {
                    conn,
                    hash,
                    password,
                } => self.verifications.push_back((conn, hash, password)),
                Output::Fetch { message } => {
                    self.fetches += 1;
                    self.broker
                        .handle_fetched(self.now, message, &mut self.outbox);
                }
            }
        }
        busy
    }

    /// Gives back what is in the journal alone, at once or after a read.
    fn draw(&mut self) -> bool {
        let mut busy = false;
        let mut was_read = false;
        while self.broker.poll_rested().is_some() {}
        while let Some(wanted) = self.broker.poll_wanted() {
            busy = true;
            self.drawn += 1;
            let is_away = self.fetch && !was_read;
            was_read = is_away;
            if is_away {
                self.broker.handle_fetching(wanted);
                self.broker.handle_drawable(wanted.queue);
                continue;
            }
            let House {
                broker,
                outbox,
                now,
                ..
            } = self;
            match self.ledger.draw(wanted.queue, wanted.from) {
                Some((sequence, note, body)) => {
                    broker.restore(*now, wanted, sequence, &note, &body, outbox);
                }
                None => broker.handle_drained(*now, wanted, outbox),
            }
        }
        busy
    }

    /// A change was not taken.
    pub fn refuse(&mut self, lsn: Lsn) {
        self.note_changes();
        let mut changes = self.ledger.changes().iter();
        let change = changes.find(|change| change.lsn == lsn).cloned();
        let change = change.expect("it was made");
        self.ledger.refuse(lsn);
        self.broker
            .handle_unkept(self.now, &change, &mut self.outbox);
    }

    fn note_changes(&mut self) -> bool {
        let before = self.ledger.changes().len();
        while let Some(change) = self.broker.poll_change() {
            let is_refused = self.refuses.is_some_and(|refuses| refuses(&change));
            self.ledger.note(change.clone());
            if is_refused {
                self.ledger.refuse(change.lsn);
                self.broker
                    .handle_unkept(self.now, &change, &mut self.outbox);
            }
        }
        if self.broker.wants_queue() {
            self.broker.give_queue(self.ledger.next_queue());
        }
        self.ledger.changes().len() > before
    }

    /// The power fails and comes back after so many seconds: what the mark has passed is there
    /// again, connections are not.
    pub fn crash(&mut self, seconds: u64) {
        self.note_changes();
        let synced = self.mark.unwrap_or_else(|| self.broker.last_lsn());
        self.start_again(synced, seconds);
    }

    fn start_again(&mut self, synced: Lsn, seconds: u64) {
        self.ledger.crash(synced);
        self.advance(Duration::from_secs(seconds));
        let settings = self.settings.clone();
        self.memory = Memory::new(usize::MAX);
        self.outbox = Outbox::new(&self.memory);
        self.broker = Broker::new(settings, &self.memory, &mut Rng::from_seed(8));
        self.broker.set_fetch_every_draw(self.fetch);
        self.broker.start_keeping(SYNC_WITHIN);
        for record in self.ledger.records() {
            self.broker.recover(self.now, record);
        }
        for queue in self.ledger.queues() {
            self.broker.recover_queue(queue);
        }
        self.broker.recovered(self.now, &mut self.outbox);
        self.peers.clear();
        self.deliveries.clear();
        self.mark = None;
        self.note_changes();
        self.turn();
    }

    /// Writes all that the connection has, as a socket with room would.
    fn flush(&mut self, conn: ConnId) -> bool {
        if self.peers.get(&conn).is_none_or(|peer| peer.is_stalled) {
            return false;
        }
        let mut busy = false;
        loop {
            self.broker
                .fill(self.now, conn, 64 * 1024, &mut self.outbox);
            let Some(queue) = self.outbox.queue_mut(conn) else {
                return busy;
            };
            if queue.is_empty() && !queue.has_more() {
                return busy;
            }
            busy = true;
            let peer = self.peers.get_mut(&conn).expect("a queue has a peer");
            while !queue.is_empty() {
                let mut slices = [IoSlice::new(&[]); 8];
                let count = queue.gather(&mut slices, usize::MAX);
                let written: usize = slices[..count].iter().map(|slice| slice.len()).sum();
                for slice in &slices[..count] {
                    peer.sent.extend_from_slice(slice);
                }
                queue.consume(written);
            }
        }
    }

    fn gone(&mut self, conn: ConnId) {
        if let Some(peer) = self.peers.get_mut(&conn)
            && !peer.is_closed
        {
            peer.is_closed = true;
            peer.recv.clear();
            self.broker.handle_closed(self.now, conn, &mut self.outbox);
            self.outbox.close(conn);
        }
    }

    fn parse(&mut self, conn: ConnId) {
        loop {
            let Some(peer) = self.peers.get_mut(&conn) else {
                return;
            };
            if peer.is_closed {
                return;
            }
            self.broker
                .handle_received(self.now, conn, &mut peer.recv, &mut self.outbox);
            if self.broker.is_paused(conn) || peer.unread.is_empty() {
                return;
            }
            let spare = peer.recv.spare();
            let count = spare.len().min(peer.unread.len());
            assert!(count > 0, "what is not paused can be read into");
            for (place, byte) in spare.iter_mut().zip(peer.unread.drain(..count)) {
                *place = byte;
            }
            peer.recv.commit(count);
        }
    }

    // ---- connections

    /// A network connection, and nothing on it.
    pub fn open(&mut self) -> ConnId {
        self.open_where(true)
    }

    pub fn open_where(&mut self, allow_anonymous: bool) -> ConnId {
        self.open_as(Admission {
            allow_anonymous,
            excess: 0,
            address: Some([192, 0, 2, 1].into()),
            is_exempt: true,
            is_costly: false,
        })
    }

    /// A connection from an address that the limits are for.
    pub fn open_from(&mut self, address: &str) -> ConnId {
        self.open_as(Admission {
            allow_anonymous: true,
            excess: 0,
            address: Some(address.parse().expect("an address")),
            is_exempt: false,
            is_costly: false,
        })
    }

    pub fn open_as(&mut self, admission: Admission) -> ConnId {
        let conn = ConnId::from_parts(self.next, 0);
        self.next += 1;
        self.outbox.open(conn);
        self.peers.insert(
            conn,
            Peer {
                version: V5,
                recv: RecvBuffer::for_stranger(&self.memory),
                unread: VecDeque::new(),
                sent: Vec::new(),
                is_stalled: false,
                is_closed: false,
            },
        );
        self.broker
            .handle_accepted(self.now, conn, admission, &mut self.outbox);
        self.outputs();
        conn
    }

    /// A password has been compared.
    pub fn verified(&mut self, conn: ConnId, is_right: bool) {
        self.broker
            .handle_verified(self.now, conn, is_right, &mut self.outbox);
        self.turn();
    }

    /// A connection with its CONNECT sent.
    pub fn dial(&mut self, connect: &Connect<'_>) -> ConnId {
        let conn = self.open();
        self.send(conn, &Packet::Connect(*connect));
        conn
    }

    /// A connected client that leaves nothing behind.
    pub fn client(&mut self, version: ProtocolVersion, id: &str) -> ConnId {
        self.join(&connect(version, id))
    }

    /// A connected client whose session stays for an hour.
    pub fn stayer(&mut self, version: ProtocolVersion, id: &str) -> ConnId {
        self.join(&lasting(version, id))
    }

    /// A connected client.
    pub fn join(&mut self, connect: &Connect<'_>) -> ConnId {
        let conn = self.dial(connect);
        let answer = self.read(conn);
        assert!(answer.starts_with("CONNACK Success"), "{answer}");
        conn
    }

    /// The network connection breaks.
    pub fn drop_conn(&mut self, conn: ConnId) {
        self.gone(conn);
        self.turn();
    }

    pub fn is_open(&self, conn: ConnId) -> bool {
        !self.peers[&conn].is_closed
    }

    /// The client stops reading, or reads on.
    pub fn stall(&mut self, conn: ConnId, is_stalled: bool) {
        self.peers.get_mut(&conn).unwrap().is_stalled = is_stalled;
        if !is_stalled {
            self.flush(conn);
            self.turn();
        }
    }

    // ---- bytes and packets

    pub fn send_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.push_bytes(conn, bytes);
        self.turn();
    }

    /// Without the end of the turn.
    pub fn push_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        let peer = self.peers.get_mut(&conn).unwrap();
        peer.unread.extend(bytes);
        if !self.broker.is_paused(conn) {
            self.parse(conn);
        }
        self.outputs();
    }

    pub fn send(&mut self, conn: ConnId, packet: &Packet<'_>) {
        self.push(conn, packet);
        self.turn();
    }

    /// Without the end of the turn.
    pub fn push(&mut self, conn: ConnId, packet: &Packet<'_>) {
        let peer = self.peers.get_mut(&conn).unwrap();
        if let Packet::Connect(connect) = packet {
            peer.version = connect.version;
        }
        let mut bytes = Vec::new();
        packet.encode_into(peer.version, &mut bytes);
        self.push_bytes(conn, &bytes);
    }

    /// The next packet that the client has got, in words; empty if there is none.
    pub fn read(&mut self, conn: ConnId) -> String {
        self.read_with(conn, describe).unwrap_or_default()
    }

    /// All packets that the client has got.
    pub fn read_all(&mut self, conn: ConnId) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(packet) = self.read_with(conn, describe) {
            all.push(packet);
        }
        all
    }

    /// The next packet that the client has got.
    pub fn read_with<T>(&mut self, conn: ConnId, look: impl FnOnce(&Packet<'_>) -> T) -> Option<T> {
        let peer = self.peers.get_mut(&conn).unwrap();
        match frame::peek(&peer.sent, u32::MAX).unwrap() {
            Frame::Incomplete { .. } => {
                assert!(peer.sent.is_empty(), "half a packet was sent");
                None
            }
            Frame::Complete { total_len, .. } => {
                let packet = Packet::parse(peer.version, &peer.sent[..total_len]).unwrap();
                let seen = look(&packet);
                peer.sent.drain(..total_len);
                Some(seen)
            }
        }
    }

    /// The bytes that the client has got.
    pub fn read_bytes(&mut self, conn: ConnId) -> Vec<u8> {
        core::mem::take(&mut self.peers.get_mut(&conn).unwrap().sent)
    }

    // ---- what clients do

    pub fn publish(&mut self, conn: ConnId, qos: QoS, topic: &str, payload: &str) {
        self.send(conn, &Packet::Publish(publish(qos, topic, payload)));
    }

    /// After a PUBLISH was pushed: ends the turn, and takes the publisher's answers out of what it
    /// has been sent, with a PUBREL between them for QoS 2.
    pub fn turn_and_release(&mut self, conn: ConnId, qos: QoS) {
        self.turn();
        match qos {
            Q0 => {}
            Q1 => self.take_out(conn, 0x40),
            Q2 => {
                self.take_out(conn, 0x50);
                self.pubrel(conn, 1);
                self.take_out(conn, 0x70);
            }
        }
    }

    /// Takes one packet out of the middle of what a client has been sent.
    fn take_out(&mut self, conn: ConnId, first_byte: u8) {
        let sent = &mut self.peers.get_mut(&conn).unwrap().sent;
        let mut at = 0;
        while at < sent.len() {
            let Ok(Frame::Complete { total_len, .. }) = frame::peek(&sent[at..], u32::MAX) else {
                break;
            };
            if sent[at] == first_byte {
                sent.drain(at..at + total_len);
                return;
            }
            at += total_len;
        }
        panic!("no packet of type {first_byte:#x} was sent");
    }

    pub fn retain(&mut self, conn: ConnId, topic: &str, payload: &str) {
        let message = Publish {
            retain: true,
            ..publish(Q0, topic, payload)
        };
        self.send(conn, &Packet::Publish(message));
    }

    pub fn subscribe(&mut self, conn: ConnId, filter: &str, qos: QoS) {
        self.subscribe_with(conn, filter, SubscriptionOptions::new(qos), None);
        let answer = self.read(conn);
        assert_eq!(answer, format!("SUBACK 1 [{:#04x}]", qos.bits()));
    }

    /// Without reading the SUBACK.
    pub fn subscribe_with(
        &mut self,
        conn: ConnId,
        filter: &str,
        options: SubscriptionOptions,
        identifier: Option<u32>,
    ) {
        let filter = TopicFilter::new(filter).unwrap();
        let requests = [SubscriptionRequest { filter, options }];
        let subscribe = Subscribe {
            packet_id: id(1),
            properties: SubscribeProperties {
                subscription_identifier: identifier.and_then(SubscriptionIdentifier::new),
                ..SubscribeProperties::default()
            },
            requests: SubscriptionRequests::from_slice(&requests),
        };
        self.send(conn, &Packet::Subscribe(subscribe));
    }

    pub fn unsubscribe(&mut self, conn: ConnId, filter: &str) {
        let filters = [TopicFilter::new(filter).unwrap()];
        let unsubscribe = Unsubscribe {
            packet_id: id(2),
            properties: UnsubscribeProperties::default(),
            filters: TopicFilters::from_slice(&filters),
        };
        self.send(conn, &Packet::Unsubscribe(unsubscribe));
    }

    pub fn puback(&mut self, conn: ConnId, number: u16) {
        self.send(conn, &Packet::Puback(Ack::success(id(number))));
    }

    pub fn pubrec(&mut self, conn: ConnId, number: u16) {
        self.send(conn, &Packet::Pubrec(Ack::success(id(number))));
    }

    pub fn pubrel(&mut self, conn: ConnId, number: u16) {
        self.send(conn, &Packet::Pubrel(Ack::success(id(number))));
    }

    pub fn pubcomp(&mut self, conn: ConnId, number: u16) {
        self.send(conn, &Packet::Pubcomp(Ack::success(id(number))));
    }

    pub fn disconnect(&mut self, conn: ConnId) {
        self.disconnect_with(conn, ReasonCode::NORMAL_DISCONNECTION);
    }

    pub fn disconnect_with(&mut self, conn: ConnId, reason: ReasonCode) {
        let disconnect = fieldgate::mqtt::Disconnect::new(reason);
        self.send(conn, &Packet::Disconnect(disconnect));
    }

    /// The gateway itself publishes.
    pub fn say(&mut self, origin: Origin, message: &Publish<'_>) -> Published {
        let published = self
            .broker
            .publish(self.now, origin, message, &mut self.outbox);
        self.turn();
        published
    }

    pub fn stat(&self, name: &str) -> u64 {
        let stat = self.broker.stats().entries().find(|stat| stat.0 == name);
        stat.expect("there is such a counter").1
    }
}

pub fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

pub fn connect(version: ProtocolVersion, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A client whose session stays, and which goes on with what it has left.
pub fn lasting(version: ProtocolVersion, client_id: &str) -> Connect<'_> {
    Connect {
        clean_start: false,
        properties: ConnectProperties {
            session_expiry_interval: version.is_v5().then_some(3600),
            ..ConnectProperties::default()
        },
        ..connect(version, client_id)
    }
}

/// With QoS above 0 it has packet identifier 1.
pub fn publish<'a>(qos: QoS, topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: (qos > Q0).then(|| id(1)),
        properties: PublishProperties::default(),
        payload: payload.as_bytes(),
    }
}

pub fn numbered<'a>(number: u16, qos: QoS, topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish {
        packet_id: Some(id(number)),
        ..publish(qos, topic, payload)
    }
}

pub fn options(qos: QoS, retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions {
        retain_handling,
        ..SubscriptionOptions::new(qos)
    }
}

/// A packet in words, short enough to be compared in tests.
pub fn describe(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Connack(connack) => {
            let present = flag(connack.session_present, " present");
            format!("CONNACK {}{present}", connack.reason.name())
        }
        Packet::Publish(publish) => {
            let properties = &publish.properties;
            let id = publish.packet_id.map(|id| format!(" #{id}"));
            let expiry = properties.message_expiry_interval;
            let mut identifiers: Vec<_> = properties
                .subscription_identifiers
                .iter()
                .map(SubscriptionIdentifier::value)
                .collect();
            identifiers.sort_unstable();
            [
                format!("PUBLISH {} q{}", publish.topic, publish.qos),
                id.unwrap_or_default(),
                flag(publish.dup, " dup").into(),
                flag(publish.retain, " retain").into(),
                expiry.map_or(String::new(), |left| format!(" expiry={left}")),
                flag(!identifiers.is_empty(), &format!(" by={identifiers:?}")).into(),
                match core::str::from_utf8(publish.payload) {
                    Ok(payload) if payload.len() <= 40 => format!(" {payload:?}"),
                    _ => format!(" {} bytes", publish.payload.len()),
                },
            ]
            .concat()
        }
        Packet::Puback(ack) => acked("PUBACK", ack),
        Packet::Pubrec(ack) => acked("PUBREC", ack),
        Packet::Pubrel(ack) => acked("PUBREL", ack),
        Packet::Pubcomp(ack) => acked("PUBCOMP", ack),
        Packet::Suback(packet) => {
            format!("SUBACK {} [{}]", packet.packet_id, codes(&packet.reasons))
        }
        Packet::Unsuback(packet) => {
            format!("UNSUBACK {} [{}]", packet.packet_id, codes(&packet.reasons))
        }
        Packet::Pingresp => "PINGRESP".into(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT {:#04x}", disconnect.reason.code()),
        other => format!("{other:?}"),
    }
}

fn flag(is_set: bool, word: &str) -> &str {
    if is_set { word } else { "" }
}

fn acked(name: &str, ack: &Ack<'_>) -> String {
    let number = ack.packet_id;
    if ack.reason == ReasonCode::Success {
        format!("{name} {number}")
    } else {
        format!("{name} {number} {:#04x}", ack.reason.code())
    }
}

fn codes(reasons: &ReasonCodes<'_>) -> String {
    let code = |reason: ReasonCode| format!("{:#04x}", reason.code());
    reasons.iter().map(code).collect::<Vec<_>>().join(" ")
}
