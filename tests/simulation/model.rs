//! What the gateway owes its clients, said by a broker that is too simple to be wrong.
//!
//! The model stands on the wire: it sees every byte that the gateway is given and every byte that it
//! writes, and nothing of its inside. From the first it knows what each session has to get; the
//! second it holds against that, packet by packet:
//!
//! | of each connection | |
//! |---|---|
//! | CONNACK first, and it tells the truth about the session | `[MQTT-3.2.0-1] [MQTT-3.2.2-2]` |
//! | answers in the order of what they answer, each once | `[MQTT-4.6.0-2]` and its neighbours |
//! | nothing behind DISCONNECT, and only for a reason | `[MQTT-3.14.4-1]` |
//! | closed when it has been silent for one and a half keep-alives, not before | `[MQTT-3.1.2-22]` |
//! | never more unacknowledged than its Receive Maximum | `[MQTT-3.3.4-9]` |
//!
//! | of each session | |
//! |---|---|
//! | every message that matches, once, in the order of publication, at the lower QoS | `[MQTT-4.6.0-6]` |
//! | RETAIN only on replays, and a replay of exactly what is retained | `[MQTT-3.3.1-8] [MQTT-3.3.1-12]` |
//! | no packet identifier that is in use | `[MQTT-2.2.1-4]` |
//! | sent again after a resumption: all, in order, with DUP; and DUP on nothing else | `[MQTT-4.4.0-1]` |
//! | an expiry interval that has run while the message waited | `[MQTT-3.3.2-6]` |
//! | the will when the connection is lost, and only then | `[MQTT-3.1.2-8] [MQTT-3.14.4-3]` |
//! | a full queue loses what its policy says, and no more | |
//!
//! The gateway's own messages, under its base topic, the model cannot foresee: of them it checks the
//! envelope, and the oracle the rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use fieldgate::id::ConnId;
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Connect, Packet, PacketId, PacketType, ProtocolVersion, Publish, QoS, ReasonCode,
    ReceiveMaximum, SubscriptionIdentifier,
};
use fieldgate::time::{Duration, Instant};

/// The gateway's base topic in the simulation.
pub const BASE: &str = "sim/";

/// What a 3.1.1 client, or one without a Receive Maximum, gets at once: `inflight_maximum`.
pub const WINDOW_BY_DEFAULT: u16 = 20;

/// How long a connection may be open without a CONNECT: `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The one client whose queue runs over.
pub const HOARDER: &str = "hoarder";

/// A message that was published.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    topic: String,
    payload: Vec<u8>,
    qos: QoS,
    retain: bool,
    /// Seconds of life as published, and the end of them.
    expiry: Option<(u32, Instant)>,
}

/// Something that a session has to get.
#[derive(Debug)]
enum Due {
    Message {
        message: Rc<Message>,
        qos: QoS,
        /// Subscription identifiers, in order.
        identifiers: Vec<u32>,
        /// The connection broke while it was due: it may have been drawn for that one, and then
        /// comes with DUP.
        drawn: Drawn,
        /// What has come may have been this, or a copy of it that has expired meanwhile.
        may_have_come: bool,
    },
    Replay {
        filter: String,
        qos: QoS,
        identifier: Option<u32>,
        /// In the order of topics, which is that of the store.
        left: VecDeque<Rc<Message>>,
        /// The connection broke: what is QoS 0 may be gone, and the rest come with DUP.
        is_lossy: bool,
        /// The subscription is gone, or was made again: what comes was drawn before that.
        is_cancelled: bool,
        /// What has come may have been of this replay, or still of the cancelled one before it.
        may_have_come: Vec<Rc<Message>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drawn {
    No,
    Perhaps,
    /// Something that had to wait for it has come.
    Surely,
}

/// Sent and not acknowledged.
#[derive(Debug)]
struct Sent {
    order: u64,
    id: u16,
    topic: String,
    payload: Vec<u8>,
    qos: QoS,
    is_released: bool,
    /// It was released on an earlier connection, and this one has not said so yet.
    is_to_be_released: bool,
}

#[derive(Debug)]
struct Subscription {
    qos: QoS,
    identifier: Option<u32>,
}

#[derive(Debug)]
struct Session {
    subscriptions: BTreeMap<String, Subscription>,
    due: VecDeque<Due>,
    sent: Vec<Sent>,
    next_order: u64,
    /// QoS 2 from the client, not released.
    received: BTreeSet<u16>,
    conn: Option<ConnId>,
    expiry: u32,
    expires_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    Live,
    /// Nothing more is taken from it; what may still come to it is this DISCONNECT.
    Over(Option<ReasonCode>),
}

#[derive(Debug)]
struct Conn {
    version: ProtocolVersion,
    client: String,
    stage: Stage,
    to_gateway: Vec<u8>,
    to_client: Vec<u8>,
    /// Whether CONNACK has to say that the session was there; `None` once it was said.
    present: Option<bool>,
    is_resumed: bool,
    opened_at: Instant,
    heard_at: Instant,
    keep_alive: u16,
    will: Option<Rc<Message>>,
    window: u16,
    unacknowledged: BTreeSet<u16>,
    /// Everything before this order has been sent again.
    resent: u64,
    /// What is sent from here on is new.
    is_new_only: bool,
    owed: VecDeque<(PacketType, u16)>,
    said_goodbye: bool,
}

/// How often the interesting things have happened: a run in which they do not proves nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub publications: u64,
    pub deliveries: u64,
    pub redeliveries: u64,
    pub releases_again: u64,
    pub replays: u64,
    pub wills: u64,
    pub takeovers: u64,
    pub resumptions: u64,
    pub silences: u64,
    pub windows_filled: u64,
    pub expired_messages: u64,
    pub expired_sessions: u64,
    pub lost_at_limit: u64,
}

impl Counts {
    fn fields(&mut self) -> [&mut u64; 13] {
        [
            &mut self.publications,
            &mut self.deliveries,
            &mut self.redeliveries,
            &mut self.releases_again,
            &mut self.replays,
            &mut self.wills,
            &mut self.takeovers,
            &mut self.resumptions,
            &mut self.silences,
            &mut self.windows_filled,
            &mut self.expired_messages,
            &mut self.expired_sessions,
            &mut self.lost_at_limit,
        ]
    }

    pub fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for (to, from) in self.fields().into_iter().zip(other.fields()) {
            *to += *from;
        }
    }

    /// Whether everything has happened at least once.
    pub fn has_all(&self) -> bool {
        self.clone().fields().iter().all(|count| **count > 0)
    }
}

/// The model.
#[derive(Debug)]
pub struct Model {
    now: Instant,
    conns: BTreeMap<ConnId, Conn>,
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, Rc<Message>>,
    /// Of the queue of [`HOARDER`].
    queue_messages: usize,
    drops_oldest: bool,
    pub is_stopping: bool,
    /// Commands as they reached the gateway, by payload.
    pub commands: BTreeMap<String, u32>,
    pub counts: Counts,
}

impl Model {
    pub fn new(queue_messages: usize, drops_oldest: bool) -> Self {
        Self {
            now: Instant::default(),
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
            queue_messages,
            drops_oldest,
            is_stopping: false,
            commands: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    // ---- what happens to the gateway

    pub fn accepted(&mut self, now: Instant, conn: ConnId) {
        self.now = now;
        let fresh = Conn {
            version: ProtocolVersion::V5,
            client: String::new(),
            stage: Stage::Fresh,
            to_gateway: Vec::new(),
            to_client: Vec::new(),
            present: None,
            is_resumed: false,
            opened_at: now,
            heard_at: now,
            keep_alive: 0,
            will: None,
            window: 0,
            unacknowledged: BTreeSet::new(),
            resent: 0,
            is_new_only: false,
            owed: VecDeque::new(),
            said_goodbye: false,
        };
        self.conns.insert(conn, fresh);
    }

    /// These bytes are about to be given to the gateway.
    pub fn received(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.now = now;
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        state.to_gateway.extend_from_slice(bytes);
        let input = core::mem::take(&mut state.to_gateway);
        let mut version = state.version;
        let mut at = 0;
        let mut wills = Vec::new();
        while let Frame::Complete { total_len, .. } =
            frame::peek(&input[at..], frame::PACKET_SIZE_MAX).expect("our clients speak MQTT")
        {
            let frame = &input[at..at + total_len];
            at += total_len;
            let packet = Packet::parse(version, frame).expect("our clients speak MQTT");
            if let Packet::Connect(connect) = &packet {
                version = connect.version;
            }
            self.take_packet(conn, &packet, &mut wills);
        }
        if let Some(state) = self.conns.get_mut(&conn) {
            state.to_gateway = input[at..].to_vec();
        }
        // The gateway publishes them at the end of the call that brought them about.
        for will in wills {
            self.publish_will(&will);
        }
    }

    /// The network connection is gone, and the gateway is about to be told so.
    pub fn closed(&mut self, now: Instant, conn: ConnId) {
        self.now = now;
        if let Some(will) = self.end(conn, None) {
            self.publish_will(&will);
        }
        self.conns.remove(&conn);
    }

    /// The gateway wants a connection closed.
    pub fn close_asked(&mut self, now: Instant, conn: ConnId) {
        self.now = now;
        let Some(state) = self.conns.get(&conn) else {
            return; // It has ended in the same turn, for a reason that was seen.
        };
        if state.stage != Stage::Live {
            let patience = state.opened_at + CONNECT_TIMEOUT;
            assert!(
                state.stage != Stage::Fresh || self.is_stopping || patience <= now,
                "closed before CONNECT was there"
            );
            return;
        }
        let reason = if self.is_stopping {
            ReasonCode::ServerShuttingDown
        } else {
            let name = &state.client;
            let due = state.silent_at();
            assert!(
                due.is_some_and(|due| due <= now),
                "{name} is disconnected at {now:?} for no reason, keep-alive ends at {due:?}"
            );
            self.counts.silences += 1;
            ReasonCode::KeepAliveTimeout
        };
        if let Some(will) = self.end(conn, Some(reason)) {
            self.publish_will(&will);
        }
    }

    /// These bytes have been written to the client.
    pub fn sent(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.now = now;
        let state = self.conns.get_mut(&conn).expect("a connection is open");
        state.to_client.extend_from_slice(bytes);
        let output = core::mem::take(&mut state.to_client);
        let version = state.version;
        let mut at = 0;
        while let Frame::Complete { total_len, .. } =
            frame::peek(&output[at..], frame::PACKET_SIZE_MAX).expect("the gateway speaks MQTT")
        {
            let packet = Packet::parse(version, &output[at..at + total_len]);
            at += total_len;
            self.check_packet(conn, &packet.expect("the gateway speaks MQTT"));
        }
        let state = self.conns.get_mut(&conn).expect("it was there");
        state.to_client = output[at..].to_vec();
    }

    // ---- what must hold between turns

    /// After everything due at `now` has been handled.
    pub fn check_time(&mut self, now: Instant) {
        self.now = now;
        for (conn, state) in &self.conns {
            if state.stage == Stage::Live {
                let due = state.silent_at();
                let name = &state.client;
                assert!(
                    due.is_none_or(|due| due > now),
                    "{name} on {conn} has been silent since {:?} and is still connected",
                    state.heard_at
                );
            }
        }
        let gone = |session: &Session| session.expires_at.is_some_and(|at| at <= now);
        let before = self.sessions.len();
        self.sessions.retain(|_, session| !gone(session));
        self.counts.expired_sessions += (before - self.sessions.len()) as u64;
    }

    /// When the next session ends.
    pub fn next_expiry(&self) -> Option<Instant> {
        let ends = self.sessions.values().filter_map(|one| one.expires_at);
        ends.min()
    }

    /// What somebody connected still has to get, if anything.
    pub fn unsettled(&self) -> Option<String> {
        for (name, session) in &self.sessions {
            let Some(conn) = session.conn else {
                continue;
            };
            let owed = &self.conns[&conn].owed;
            if !owed.is_empty() {
                return Some(format!("{name} waits for {owed:?}"));
            }
            if !session.sent.is_empty() {
                return Some(format!("{name} has not acknowledged {:?}", session.sent));
            }
            let missing = session.due.iter().find(|due| self.is_missing(due));
            if let Some(missing) = missing {
                return Some(format!("{name} has not got {missing:?}"));
            }
        }
        None
    }

    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What is retained besides the gateway's own.
    pub fn retained_topics(&self) -> Vec<String> {
        self.retained.keys().cloned().collect()
    }

    fn is_missing(&self, due: &Due) -> bool {
        match due {
            Due::Message {
                message,
                may_have_come,
                ..
            } => !message.is_over(self.now) && !may_have_come,
            Due::Replay {
                left,
                is_lossy,
                is_cancelled,
                may_have_come,
                qos,
                ..
            } => left.iter().any(|message| {
                let may_be_lost = *is_lossy && message.qos.min(*qos) == QoS::AtMostOnce;
                let is_optional = *is_cancelled || may_be_lost || may_have_come.contains(message);
                !is_optional && !is_stale(message, &self.retained, self.now)
            }),
        }
    }

    // ---- from the client

    fn take_packet(&mut self, conn: ConnId, packet: &Packet<'_>, wills: &mut Vec<Rc<Message>>) {
        let now = self.now;
        let state = self.conns.get_mut(&conn).expect("looked up");
        match (state.stage, packet) {
            (Stage::Over(_), _) => return,
            (Stage::Fresh, Packet::Connect(connect)) => return self.connect(conn, connect, wills),
            (Stage::Fresh, other) => panic!("a client began with {:?}", other.packet_type()),
            (Stage::Live, _) => state.heard_at = now,
        }
        let name = state.client.clone();
        let session = self
            .sessions
            .get_mut(&name)
            .expect("a live connection has one");
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id.map_or(0, PacketId::value);
                let is_new = match publish.qos {
                    QoS::AtMostOnce => true,
                    QoS::AtLeastOnce => {
                        state.owed.push_back((PacketType::Puback, id));
                        true
                    }
                    QoS::ExactlyOnce => {
                        state.owed.push_back((PacketType::Pubrec, id));
                        session.received.insert(id)
                    }
                };
                if is_new {
                    self.publication(publish);
                }
            }
            Packet::Pubrel(ack) => {
                session.received.remove(&ack.packet_id.value());
                let owed = (PacketType::Pubcomp, ack.packet_id.value());
                state.owed.push_back(owed);
            }
            Packet::Puback(ack) => {
                let id = ack.packet_id.value();
                session
                    .sent
                    .retain(|sent| sent.id != id || sent.qos != QoS::AtLeastOnce);
                state.unacknowledged.remove(&id);
            }
            Packet::Pubrec(ack) => {
                let id = ack.packet_id.value();
                for sent in &mut session.sent {
                    sent.is_released |= sent.id == id;
                }
                state.owed.push_back((PacketType::Pubrel, id));
            }
            Packet::Pubcomp(ack) => {
                let id = ack.packet_id.value();
                session
                    .sent
                    .retain(|sent| sent.id != id || !sent.is_released);
                state.unacknowledged.remove(&id);
            }
            Packet::Subscribe(subscribe) => {
                let owed = (PacketType::Suback, subscribe.packet_id.value());
                state.owed.push_back(owed);
                let identifier = subscribe
                    .properties
                    .subscription_identifier
                    .map(SubscriptionIdentifier::value);
                for request in &subscribe.requests {
                    let filter = request.filter.as_str().to_owned();
                    let qos = request.options.maximum_qos;
                    session.cancel_replay(&filter);
                    let matching = self.retained.iter();
                    let left = matching
                        .filter(|(topic, _)| matches(&filter, topic))
                        .map(|(_, message)| message.clone())
                        .collect();
                    let replay = Due::Replay {
                        filter: filter.clone(),
                        qos,
                        identifier,
                        left,
                        is_lossy: false,
                        is_cancelled: false,
                        may_have_come: Vec::new(),
                    };
                    session.due.push_back(replay);
                    let subscription = Subscription { qos, identifier };
                    session.subscriptions.insert(filter, subscription);
                }
            }
            Packet::Unsubscribe(unsubscribe) => {
                let owed = (PacketType::Unsuback, unsubscribe.packet_id.value());
                state.owed.push_back(owed);
                for filter in &unsubscribe.filters {
                    session.subscriptions.remove(filter.as_str());
                    session.cancel_replay(filter.as_str());
                }
            }
            Packet::Pingreq => state.owed.push_back((PacketType::Pingresp, 0)),
            Packet::Disconnect(disconnect) => {
                if let Some(seconds) = disconnect.properties.session_expiry_interval {
                    session.expiry = seconds;
                }
                if disconnect.reason == ReasonCode::NORMAL_DISCONNECTION {
                    state.will = None;
                }
                wills.extend(self.end(conn, None));
            }
            other => panic!("a client sent {:?}", other.packet_type()),
        }
    }

    fn connect(&mut self, conn: ConnId, connect: &Connect<'_>, wills: &mut Vec<Rc<Message>>) {
        let name = connect.client_id.to_owned();
        let before = self.sessions.get(&name).and_then(|session| session.conn);
        if let Some(old) = before {
            self.counts.takeovers += 1;
            wills.extend(self.end(old, Some(ReasonCode::SessionTakenOver)));
        }
        if connect.clean_start {
            self.sessions.remove(&name);
        }
        let is_present = self.sessions.contains_key(&name);
        self.counts.resumptions += u64::from(is_present);
        let session = self
            .sessions
            .entry(name.clone())
            .or_insert_with(|| Session {
                subscriptions: BTreeMap::new(),
                due: VecDeque::new(),
                sent: Vec::new(),
                next_order: 0,
                received: BTreeSet::new(),
                conn: None,
                expiry: 0,
                expires_at: None,
            });
        session.conn = Some(conn);
        session.expires_at = None;
        for sent in &mut session.sent {
            sent.is_to_be_released = sent.is_released;
        }
        session.expiry = if connect.version.is_v5() {
            connect.properties.session_expiry_interval.unwrap_or(0)
        } else if connect.clean_start {
            0
        } else {
            u32::MAX
        };
        let state = self.conns.get_mut(&conn).expect("looked up");
        state.stage = Stage::Live;
        state.version = connect.version;
        state.client = name;
        state.present = Some(is_present);
        state.is_resumed = is_present;
        state.heard_at = self.now;
        state.opened_at = self.now;
        state.keep_alive = connect.keep_alive;
        let maximum = connect.properties.receive_maximum;
        state.window = maximum.map_or(WINDOW_BY_DEFAULT, ReceiveMaximum::value);
        state.will = connect.will.as_ref().map(|will| {
            Rc::new(Message {
                topic: will.topic.as_str().to_owned(),
                payload: will.payload.to_vec(),
                qos: will.qos,
                retain: will.retain,
                expiry: None,
            })
        });
    }

    /// A connection serves its session no more. Gives back the will that is now to be published.
    fn end(&mut self, conn: ConnId, goodbye: Option<ReasonCode>) -> Option<Rc<Message>> {
        let state = self.conns.get_mut(&conn)?;
        let was_live = state.stage == Stage::Live;
        state.stage = Stage::Over(goodbye);
        if !was_live {
            return None;
        }
        let name = state.client.clone();
        let will = state.will.take();
        let session = self
            .sessions
            .get_mut(&name)
            .expect("a live connection has one");
        session.conn = None;
        if session.expiry == 0 {
            self.sessions.remove(&name);
            return will;
        }
        session.expires_at = (session.expiry != u32::MAX)
            .then(|| self.now + Duration::from_secs(session.expiry.into()));
        // QoS 0 is for a client that is there.
        session
            .due
            .retain(|due| !matches!(due, Due::Message { qos, .. } if *qos == QoS::AtMostOnce));
        for due in &mut session.due {
            match due {
                Due::Message { drawn, .. } => *drawn = Drawn::Perhaps,
                Due::Replay { is_lossy, .. } => *is_lossy = true,
            }
        }
        will
    }

    fn publish_will(&mut self, will: &Rc<Message>) {
        self.counts.wills += 1;
        self.route(will);
    }

    fn publication(&mut self, publish: &Publish<'_>) {
        if publish.topic.starts_with(BASE) {
            if publish.topic.ends_with("/set") {
                let payload = String::from_utf8_lossy(publish.payload).into_owned();
                *self.commands.entry(payload).or_default() += 1;
            }
            return;
        }
        self.counts.publications += 1;
        let seconds = publish.properties.message_expiry_interval;
        let end = |seconds: u32| self.now + Duration::from_secs(seconds.into());
        let message = Message {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            retain: publish.retain,
            expiry: seconds.map(|seconds| (seconds, end(seconds))),
        };
        self.route(&Rc::new(message));
    }

    fn route(&mut self, message: &Rc<Message>) {
        if message.retain && message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else if message.retain {
            self.retained.insert(message.topic.clone(), message.clone());
        }
        for (name, session) in &mut self.sessions {
            let mut granted = None;
            let mut identifiers = Vec::new();
            for (filter, subscription) in &session.subscriptions {
                if matches(filter, &message.topic) {
                    granted = granted.max(Some(subscription.qos));
                    identifiers.extend(subscription.identifier);
                }
            }
            let Some(granted) = granted else {
                continue;
            };
            let qos = message.qos.min(granted);
            if qos == QoS::AtMostOnce && session.conn.is_none() {
                continue;
            }
            identifiers.sort_unstable();
            session.due.push_back(Due::Message {
                message: message.clone(),
                qos,
                identifiers,
                drawn: Drawn::No,
                may_have_come: false,
            });
            let count = session.messages_due();
            if count > self.queue_messages {
                assert!(
                    name == HOARDER && session.conn.is_none(),
                    "{name} reaches a limit that only {HOARDER} is to reach: {count}"
                );
                self.counts.lost_at_limit += 1;
                if self.drops_oldest {
                    let is_message = |due: &Due| matches!(due, Due::Message { .. });
                    let oldest = session.due.iter().position(is_message);
                    session.due.remove(oldest.expect("there are too many"));
                } else {
                    session.due.pop_back();
                }
            }
        }
    }

    // ---- to the client

    fn check_packet(&mut self, conn: ConnId, packet: &Packet<'_>) {
        let state = self.conns.get_mut(&conn).expect("looked up");
        let name = state.client.clone();
        assert!(!state.said_goodbye, "{name}: something behind DISCONNECT");
        if let Some(present) = state.present.take() {
            let Packet::Connack(connack) = packet else {
                panic!("{name}: {:?} before CONNACK", packet.packet_type());
            };
            assert_eq!(connack.reason, ReasonCode::Success, "{name}");
            assert_eq!(
                connack.session_present, present,
                "{name}: session present, as CONNACK has it, and as it is"
            );
            return;
        }
        let answer = match packet {
            Packet::Puback(ack) | Packet::Pubrec(ack) => {
                assert!(!ack.reason.is_error(), "{name}: {:?}", ack.reason);
                ack.packet_id.value()
            }
            Packet::Pubcomp(ack) => ack.packet_id.value(),
            Packet::Pubrel(ack) => {
                let id = ack.packet_id.value();
                let owed = state.owed.front() == Some(&(PacketType::Pubrel, id));
                if !owed && state.stage == Stage::Live {
                    return self.check_release_again(conn, id);
                } else if !owed {
                    return; // As a PUBLISH.
                }
                id
            }
            Packet::Suback(suback) => suback.packet_id.value(),
            Packet::Unsuback(unsuback) => unsuback.packet_id.value(),
            Packet::Pingresp => 0,
            Packet::Publish(publish) => {
                // What comes behind the end was drawn before it, and counts as lost.
                if state.stage == Stage::Live {
                    self.check_publish(conn, &name, publish);
                }
                return;
            }
            Packet::Disconnect(disconnect) => {
                state.said_goodbye = true;
                assert!(state.version.is_v5(), "{name}: a server's DISCONNECT");
                let reason = disconnect.reason;
                assert_eq!(state.stage, Stage::Over(Some(reason)), "{name}");
                return;
            }
            other => panic!("{name}: a server sent {:?}", other.packet_type()),
        };
        let owed = state.owed.pop_front();
        assert_eq!(
            Some((packet.packet_type(), answer)),
            owed,
            "{name}: an answer, and what is owed"
        );
    }

    /// PUBREL that answers nothing on this connection.
    fn check_release_again(&mut self, conn: ConnId, id: u16) {
        let state = self.conns.get_mut(&conn).expect("looked up");
        let name = &state.client;
        assert!(
            state.is_resumed && !state.is_new_only,
            "{name}: PUBREL {id}, for which nobody asked"
        );
        // A publication may have to wait for room, and then does not hold up a PUBREL.
        let session = self.sessions.get_mut(name).expect("it was resumed");
        let next = session.sent.iter_mut().find(|sent| sent.is_to_be_released);
        let next = next.unwrap_or_else(|| panic!("{name}: PUBREL {id} of nothing"));
        assert_eq!(next.id, id, "{name}: PUBREL again, and {next:?} is next");
        next.is_to_be_released = false;
        self.counts.releases_again += 1;
    }

    fn check_publish(&mut self, conn: ConnId, name: &str, publish: &Publish<'_>) {
        let now = self.now;
        let state = self.conns.get_mut(&conn).expect("looked up");
        let session = self
            .sessions
            .get_mut(name)
            .expect("a live connection has one");
        let what = format!(
            "{name}: {} QoS {} id {:?} dup {} {:?}",
            publish.topic,
            publish.qos,
            publish.packet_id.map(PacketId::value),
            publish.dup,
            String::from_utf8_lossy(&publish.payload[..publish.payload.len().min(40)])
        );
        self.counts.deliveries += 1;
        self.counts.redeliveries += u64::from(publish.dup);
        let id = publish.packet_id.map_or(0, PacketId::value);
        if publish.qos > QoS::AtMostOnce {
            let count = state.unacknowledged.len();
            assert!(
                count < usize::from(state.window),
                "{what}: {count} are unacknowledged, of {}",
                state.window
            );
            assert!(
                state.unacknowledged.insert(id),
                "{what}: its packet identifier is in use"
            );
            self.counts.windows_filled += u64::from(count + 1 == usize::from(state.window));
        }
        if publish.dup {
            assert!(
                state.is_resumed && !state.is_new_only,
                "{what}: DUP, and it cannot have been sent before"
            );
            let known = session.sent.iter().find(|sent| sent.id == id);
            if let Some(known) = known {
                let mut waiting = session.sent.iter().filter(|sent| !sent.is_released);
                let next = waiting.find(|sent| sent.order >= state.resent);
                assert_eq!(next.map(|next| next.id), Some(id), "{what}: not its turn");
                assert!(!known.is_released, "{what}: it was received already");
                assert!(
                    known.topic == publish.topic
                        && known.payload == publish.payload
                        && known.qos == publish.qos,
                    "{what}: the same packet identifier was {known:?}"
                );
                state.resent = known.order + 1;
                return;
            }
        } else if publish.qos > QoS::AtMostOnce {
            assert!(
                session.sent.iter().all(|sent| sent.id != id),
                "{what}: its packet identifier is in use"
            );
            state.is_new_only = true;
        }
        if publish.qos > QoS::AtMostOnce {
            let behind = session.sent.iter().find(|sent| {
                sent.is_to_be_released || !sent.is_released && sent.order >= state.resent
            });
            assert!(behind.is_none(), "{what}: before {behind:?} was sent again");
        }
        if publish.topic.starts_with(BASE) {
            assert!(
                publish.payload != b"forged",
                "{what}: a client wrote what the gateway owns"
            );
        } else {
            session.take_due(&what, publish, state, &self.retained, now, &mut self.counts);
        }
        if publish.qos > QoS::AtMostOnce {
            session.sent.push(Sent {
                order: session.next_order,
                id,
                topic: publish.topic.to_owned(),
                payload: publish.payload.to_vec(),
                qos: publish.qos,
                is_released: false,
                is_to_be_released: false,
            });
            session.next_order += 1;
            state.resent = session.next_order;
        }
    }
}

impl Conn {
    /// When its silence has lasted one and a half keep-alives.
    fn silent_at(&self) -> Option<Instant> {
        let half = Duration::from_millis(u64::from(self.keep_alive) * 500);
        (self.keep_alive > 0).then(|| self.heard_at + half * 3)
    }
}

impl Session {
    fn cancel_replay(&mut self, filter: &str) {
        for due in &mut self.due {
            if let Due::Replay {
                filter: one,
                is_cancelled,
                ..
            } = due
            {
                *is_cancelled |= one == filter;
            }
        }
    }

    fn note_ambiguous(&mut self, filter: &str, message: &Rc<Message>) {
        for due in &mut self.due {
            if let Due::Replay {
                filter: one,
                is_cancelled: false,
                may_have_come,
                ..
            } = due
                && one == filter
            {
                may_have_come.push(message.clone());
            }
        }
    }

    fn messages_due(&self) -> usize {
        let is_message = |due: &&Due| matches!(due, Due::Message { .. });
        self.due.iter().filter(is_message).count()
    }

    /// The next message from this place on that says the same may have been the one that came.
    fn doubt_copy(&mut self, publish: &Publish<'_>, from: usize) {
        let copy = self.due.range_mut(from..).find_map(|due| match due {
            Due::Message {
                message,
                may_have_come,
                ..
            } if message.topic == publish.topic && message.payload == publish.payload => {
                Some(may_have_come)
            }
            Due::Message { .. } | Due::Replay { .. } => None,
        });
        if let Some(may_have_come) = copy {
            *may_have_come = true;
        }
    }

    /// Strikes a delivery off the list, or says why it is not on it.
    fn take_due(
        &mut self,
        what: &str,
        publish: &Publish<'_>,
        conn: &Conn,
        retained: &BTreeMap<String, Rc<Message>>,
        now: Instant,
        counts: &mut Counts,
    ) {
        let mut got: Vec<u32> = publish
            .properties
            .subscription_identifiers
            .iter()
            .map(SubscriptionIdentifier::value)
            .collect();
        got.sort_unstable();
        let mut at = 0;
        loop {
            let due = self.due.get_mut(at);
            match due.unwrap_or_else(|| panic!("{what}: nothing is due")) {
                Due::Message {
                    message,
                    qos,
                    identifiers,
                    drawn,
                    may_have_come,
                } => {
                    // Sent again by its publisher, a message lives as long again: the first copy
                    // may have expired, and then it is the second that comes.
                    let may_come = publish.dup || !message.is_over(conn.opened_at);
                    let is_it = may_come
                        && !publish.retain
                        && message.topic == publish.topic
                        && message.payload == publish.payload
                        && *qos == publish.qos;
                    if is_it {
                        let fits = match *drawn {
                            Drawn::No => !publish.dup,
                            Drawn::Perhaps => true,
                            Drawn::Surely => publish.dup,
                        };
                        assert!(fits, "{what}: DUP, and it was drawn before: {drawn:?}");
                        if conn.version.is_v5() {
                            assert_eq!(got, *identifiers, "{what}: subscription identifiers");
                        }
                        check_expiry(what, publish, message, conn, now);
                        let may_be_another = message.is_over(now);
                        self.due.remove(at);
                        if may_be_another {
                            self.doubt_copy(publish, at);
                        }
                        return;
                    }
                    if publish.qos == QoS::AtMostOnce && *drawn != Drawn::No {
                        // What is sent again does not hold up what goes straight through.
                        if !message.is_over(now) {
                            *drawn = Drawn::Surely;
                        }
                        at += 1;
                    } else if *may_have_come || message.is_over(now) {
                        counts.expired_messages += u64::from(!*may_have_come);
                        self.due.remove(at);
                    } else {
                        panic!("{what}: {message:?} is next");
                    }
                }
                Due::Replay {
                    qos,
                    identifier,
                    left,
                    is_lossy,
                    is_cancelled,
                    may_have_come,
                    filter,
                } => {
                    let (is_lossy, is_cancelled) = (*is_lossy, *is_cancelled);
                    let is_it = |message: &Rc<Message>| {
                        message.topic == publish.topic && message.payload == publish.payload
                    };
                    // What was drawn on this connection has no DUP.
                    let upto = if publish.retain && (is_lossy || !publish.dup) {
                        left.iter().position(is_it)
                    } else {
                        None
                    };
                    if upto.is_none() && publish.qos == QoS::AtMostOnce && is_lossy {
                        at += 1;
                        continue;
                    }
                    for passed in left.drain(..upto.unwrap_or(left.len())) {
                        let may_be_lost = is_lossy && passed.qos.min(*qos) == QoS::AtMostOnce;
                        assert!(
                            is_cancelled
                                || may_be_lost
                                || may_have_come.contains(&passed)
                                || is_stale(&passed, retained, now),
                            "{what}: {passed:?} is retained, and was passed over"
                        );
                    }
                    if upto.is_none() {
                        self.due.remove(at);
                        continue;
                    }
                    let message = left.pop_front().expect("found");
                    assert_eq!(publish.qos, message.qos.min(*qos), "{what}");
                    if conn.version.is_v5() {
                        let own: Vec<u32> = identifier.iter().copied().collect();
                        assert_eq!(got, own, "{what}: subscription identifier");
                    }
                    check_expiry(what, publish, &message, conn, now);
                    counts.replays += 1;
                    if is_cancelled {
                        let filter = filter.clone();
                        self.note_ambiguous(&filter, &message);
                    }
                    return;
                }
            }
        }
    }
}

impl Message {
    fn is_over(&self, now: Instant) -> bool {
        self.expiry.is_some_and(|(_, end)| end <= now)
    }
}

/// What is replayed is what is retained when its turn comes.
fn is_stale(message: &Rc<Message>, retained: &BTreeMap<String, Rc<Message>>, now: Instant) -> bool {
    let current = retained.get(&message.topic);
    message.is_over(now) || current.is_none_or(|current| !Rc::ptr_eq(current, message))
}

/// Of the interval, what has passed before this connection is gone, and what lies ahead is left.
fn check_expiry(what: &str, publish: &Publish<'_>, message: &Message, conn: &Conn, now: Instant) {
    let is_over = message.is_over(conn.opened_at);
    assert!(
        publish.dup || !is_over,
        "{what}: it expired before the connection began"
    );
    if !conn.version.is_v5() {
        return;
    }
    let said = publish.properties.message_expiry_interval;
    let Some((interval, end)) = message.expiry else {
        assert_eq!(said, None, "{what}: it does not expire");
        return;
    };
    let said = said.unwrap_or_else(|| panic!("{what}: it expires, and does not say so"));
    let least = end.since(now).as_secs();
    let most = end.since(conn.opened_at).as_secs() + 1;
    assert!(
        said <= interval && u64::from(said) >= least && u64::from(said) <= most,
        "{what}: {said} of {interval} s are left, which are between {least} and {most}"
    );
}

/// Whether a filter takes a topic, level by level.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        if part == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if part == "+" || part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
