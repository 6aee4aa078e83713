//! The one MQTT client, without I/O: bridge, `pub`, `sub` and `bench` drive it.
//!
//! ```text
//! handle_connected ─► handle_input, handle_timeout, publish, subscribe ─► handle_closed ─► again
//!         after each of them: poll_event until None, poll_transmit, poll_timeout
//! ```
//!
//! It owns the session's state, so it lives longer than a connection: after
//! [`Client::handle_closed`] the next [`Client::handle_connected`] resumes, and messages that were
//! not acknowledged are sent again, in order, with DUP. If the server has lost the session they are
//! published anew.
//!
//! | limit | at the limit |
//! |---|---|
//! | Receive Maximum of the server, and [`ConnectOptions::inflight_maximum`] | [`Refusal::Full`] |
//! | [`UNSENT_BYTES_MAX`] of publications not sent yet | [`Refusal::Full`] |
//! | [`PENDING_REQUESTS_MAX`] subscribe and unsubscribe requests | [`Refusal::Full`] |
//! | [`EVENTS_MAX`] events not polled, [`CONTROL_BYTES_MAX`] of answers not sent, Receive Maximum of ours not acknowledged before 5.0 | [`Client::handle_input`] consumes no more |
//! | Receive Maximum, Maximum Packet Size, Topic Alias Maximum of ours | the connection is closed with its reason |
//!
//! A session may outlive its process too. With [`Steps::ByCaller`] nothing of QoS 2 is said before
//! its owner has written down how far the message is; after a start [`Client::restore_sent`] and
//! [`Client::restore_received`] put that back before the first connection.
//!
//! It makes nothing of DISCONNECT or CONNACK but events: reconnecting, backing off and subscribing
//! again are its owner's. Extended authentication is not offered, so an AUTH from the server is a
//! violation [MQTT-4.12.0-6].

mod event;
mod inbox;
mod options;
mod transmit;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

pub use event::{AckToken, CloseCause, Event, Farewell, ReceivedMessage, Refusal, Step, Violation};
pub use options::{Acknowledge, ConnectOptions, OptionsError, ServerLimits, Steps, WillOptions};

use crate::buffer::{HIGH_WATER, Payload, SendQueue};
use crate::mqtt::basic::{PacketId, ProtocolVersion, QoS, SubscriptionIdentifier};
use crate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::packet::{
    Ack, Connack, Disconnect, Packet, PacketType, Publish, ReasonCodes, Subscribe,
    SubscriptionRequest, SubscriptionRequests, TopicFilters, Unsubscribe,
};
use crate::mqtt::property::{SubscribeProperties, UnsubscribeProperties};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::time::{Duration, Instant};
use inbox::{Arrival, Inbox};
use transmit::{Publication, TransmitQueue, packet_len};
use window::{Acked, Window, Withdrawn};

/// Subscribe and unsubscribe requests that may wait for an answer.
pub const PENDING_REQUESTS_MAX: usize = 64;

/// Events that may wait to be polled before no more input is consumed. One packet makes at most
/// one; only a CONNACK makes one for each message under way besides.
pub const EVENTS_MAX: usize = 256;

/// Bytes of answers to the server that may wait to be sent before no more of its input is consumed.
pub const CONTROL_BYTES_MAX: usize = 16 * 1024;

/// Bytes of publications that may wait to be sent before no more are taken.
pub const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// A PINGREQ is sent this part of the keep-alive early, so that a late timer does not make it late.
const PING_EARLY_DIVISOR: u32 = 10;

/// How long after a PINGREQ anything at all must have come, as a part of the keep-alive.
const PING_TIMEOUT_DIVISOR: u32 = 2;

/// The client machine.
#[derive(Debug)]
pub struct Client {
    options: ConnectOptions,
    /// The identifier that the server chose, if we left it to it.
    assigned_client_id: String,
    state: State,
    limits: ServerLimits,
    window: Window,
    inbox: Inbox,
    /// Invariant: at most [`PENDING_REQUESTS_MAX`], none of whose identifiers is in `window`.
    requests: BTreeMap<PacketId, Request>,
    next_packet_id: PacketId,
    transmit: TransmitQueue,
    events: VecDeque<Event>,
    /// The server said yes before, so that 3.1, whose CONNACK does not say, may be resumed.
    has_session: bool,
    /// A CONNECT was sent whose CONNACK has not come: the server may have begun a new session by
    /// it, and will say of that the next time that it is there.
    is_unanswered: bool,
    last_sent: Instant,
    last_received: Instant,
    ping_sent: Option<Instant>,
    counters: Counters,
}

/// What was odd but harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Acknowledgements of what we do not know.
    pub strays: u64,
    /// QoS 2 messages that came again and were not delivered again.
    pub duplicates: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No transport.
    Idle,
    /// CONNECT is queued or sent.
    Connecting { deadline: Instant },
    /// CONNACK has come.
    Connected,
    /// Over; what is queued may still be sent.
    Closing,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    answer: PacketType,
    filter_count: usize,
}

impl Client {
    /// A client with no connection and no session.
    pub fn new(options: ConnectOptions) -> Result<Self, OptionsError> {
        options.check()?;
        Ok(Self {
            limits: limits_before_connack(&options),
            options,
            assigned_client_id: String::new(),
            state: State::Idle,
            window: Window::default(),
            inbox: Inbox::default(),
            requests: BTreeMap::new(),
            next_packet_id: PacketId::FIRST,
            transmit: TransmitQueue::default(),
            events: VecDeque::new(),
            has_session: false,
            is_unanswered: false,
            last_sent: Instant::default(),
            last_received: Instant::default(),
            ping_sent: None,
            counters: Counters::default(),
        })
    }

    /// The transport is open: CONNECT is queued. If there was one before that nobody closed, it is
    /// closed first.
    pub fn handle_connected(&mut self, now: Instant) {
        self.handle_closed();
        if core::mem::replace(&mut self.is_unanswered, true) {
            self.inbox.doubt();
        }
        let deadline = now + self.options.connect_timeout;
        self.state = State::Connecting { deadline };
        self.limits = limits_before_connack(&self.options);
        self.last_sent = now;
        self.last_received = now;
        let connect = Packet::Connect(self.options.connect(&self.assigned_client_id));
        self.transmit.push(self.options.version, &connect);
    }

    /// The transport is closed, by whomever.
    pub fn handle_closed(&mut self) {
        if matches!(self.state, State::Connecting { .. } | State::Connected) {
            self.events
                .push_back(Event::Closed(CloseCause::TransportClosed));
        }
        self.state = State::Idle;
        self.transmit.clear();
        self.requests.clear();
        self.window.connection_lost();
        self.inbox.connection_lost();
        self.ping_sent = None;
    }

    /// Bytes have come. Returns how many were consumed: whole packets, and all bytes once the
    /// connection is over. Poll events and transmit what is queued, then call again with the rest;
    /// what is left when it consumes nothing is an incomplete packet, or waits for room (see the
    /// table of limits).
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        while self.is_open() && self.has_room_for_input() {
            let rest = &bytes[consumed..];
            let outcome = match frame::peek(rest, self.options.maximum_packet_size) {
                Ok(Frame::Incomplete { .. }) => break,
                Ok(Frame::Complete { total_len, .. }) => {
                    consumed += total_len;
                    self.last_received = now;
                    self.handle_frame(now, &rest[..total_len])
                }
                Err(error) => Err(error.into()),
            };
            if let Err(violation) = outcome {
                self.close_with(violation.into(), CloseCause::ServerMisbehaved(violation));
            }
        }
        if self.is_open() {
            consumed
        } else {
            bytes.len()
        }
    }

    /// When [`Client::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Connecting { deadline } => Some(deadline),
            State::Connected => {
                let interval = self.ping_interval()?;
                let ping = self.ping_deadline().map_or_else(
                    // A client that only sends would never notice a dead server: ping when either
                    // side is silent.
                    || self.last_sent.min(self.last_received) + interval,
                    |dead| dead.min(self.last_sent + interval),
                );
                Some(ping)
            }
            State::Idle | State::Closing => None,
        }
    }

    /// Time has come to [`Client::poll_timeout`]; earlier it does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        if matches!(self.state, State::Connecting { .. }) {
            self.close_silently(CloseCause::ConnectTimeout);
        } else if self.ping_deadline().is_some_and(|at| at <= now) {
            self.close_silently(CloseCause::KeepAliveTimeout);
        } else {
            self.send(&Packet::Pingreq); // [MQTT-3.1.2-20]
            self.ping_sent = Some(now);
            // As good as: it goes as soon as the transport takes it, and until then another one
            // would not help.
            self.last_sent = now;
        }
    }

    /// Moves packets that are due to `out`, while it holds fewer than [`HIGH_WATER`] bytes. Returns
    /// whether more wait.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut SendQueue) -> bool {
        let window = &mut self.window;
        let sent = self
            .transmit
            .drain(self.options.version, now, out, HIGH_WATER, |packet_id| {
                window.mark_sent(packet_id);
            });
        if sent {
            self.last_sent = now;
        }
        !self.transmit.is_empty()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Publishes a message as it is: its topic, QoS, RETAIN, properties. With QoS 1 or 2 it is kept
    /// until [`Event::Published`] says what became of its packet identifier, over as many
    /// connections as that takes.
    pub fn publish(
        &mut self,
        message: Rc<ApplicationMessage>,
    ) -> Result<Option<PacketId>, Refusal> {
        if self.state != State::Connected {
            return Err(Refusal::NotConnected);
        }
        if let Some(refusal) = refusal_of(&message, self.options.version, &self.limits) {
            return Err(refusal);
        }
        if self.transmit.publish_bytes() >= UNSENT_BYTES_MAX {
            return Err(Refusal::Full);
        }
        if message.qos() == QoS::AtMostOnce {
            self.transmit.push_publication(Publication {
                message,
                packet_id: None,
                dup: false, // [MQTT-4.3.1-1]
            });
            return Ok(None);
        }
        let inflight_maximum = usize::from(self.options.inflight_maximum);
        if !self.window.has_quota() || self.window.len() >= inflight_maximum {
            return Err(Refusal::Full); // [MQTT-3.3.4-7]
        }
        let packet_id = self.new_packet_id().ok_or(Refusal::Full)?;
        let is_withheld = self.withholds() && message.qos() == QoS::ExactlyOnce;
        self.window.insert(packet_id, message, is_withheld);
        self.queue_publications();
        Ok(Some(packet_id))
    }

    /// A QoS 2 message goes one step further: what it waited for is written down. `false` if none
    /// waited.
    pub fn take_step(&mut self, step: Step, packet_id: PacketId) -> bool {
        match step {
            Step::Publish => {
                let waited = self.window.permit_publish(packet_id);
                if waited && self.state == State::Connected {
                    self.queue_publications();
                }
                waited
            }
            Step::Release => {
                let waited = self.window.permit_release(packet_id);
                if waited && self.state == State::Connected {
                    self.send(&Packet::Pubrel(Ack::success(packet_id))); // [MQTT-4.3.3-4]
                }
                waited
            }
            Step::Complete => {
                let waited = self.inbox.complete(packet_id);
                if waited && self.state == State::Connected {
                    self.send(&Packet::Pubcomp(Ack::success(packet_id))); // [MQTT-4.3.3-11]
                }
                waited
            }
        }
    }

    /// A QoS 2 message that an earlier process may have sent under this identifier; `None`: the
    /// server had acknowledged it with PUBREC. In the order of sending, before the first
    /// connection. `false` if the identifier is taken.
    pub fn restore_sent(
        &mut self,
        packet_id: PacketId,
        message: Option<Rc<ApplicationMessage>>,
    ) -> bool {
        debug_assert!(!self.is_open(), "what was sent before comes back first");
        let is_free = !self.window.contains(packet_id);
        if is_free {
            self.has_session = true;
            self.window.restore(packet_id, message);
        }
        is_free
    }

    /// A QoS 2 message that an earlier process has taken under this identifier, which the server
    /// has not released yet. Before the first connection.
    pub fn restore_received(&mut self, packet_id: PacketId) {
        debug_assert!(!self.is_open(), "what has come before comes back first");
        self.has_session = true;
        self.inbox.restore(packet_id);
    }

    /// Whether [`Client::publish`] would take a small message of this QoS now.
    pub fn can_publish(&self, qos: QoS) -> bool {
        let has_room = self.transmit.publish_bytes() < UNSENT_BYTES_MAX;
        let has_place = qos == QoS::AtMostOnce
            || (self.window.has_quota()
                && self.window.len() < usize::from(self.options.inflight_maximum));
        self.state == State::Connected && has_room && has_place && qos <= self.limits.maximum_qos
    }

    /// Subscribes; [`Event::Subscribed`] is the answer.
    pub fn subscribe(
        &mut self,
        requests: &[SubscriptionRequest<'_>],
        identifier: Option<SubscriptionIdentifier>,
    ) -> Result<PacketId, Refusal> {
        let packet_id = self.new_request(requests.len())?;
        if identifier.is_some() && !self.limits.subscription_identifiers {
            return Err(Refusal::SubscriptionIdentifierNotSupported);
        }
        let packet = Packet::Subscribe(Subscribe {
            packet_id,
            properties: SubscribeProperties {
                subscription_identifier: identifier,
                ..SubscribeProperties::default()
            },
            requests: SubscriptionRequests::from_slice(requests),
        });
        self.send_request(packet_id, &packet, PacketType::Suback, requests.len())
    }

    /// Unsubscribes; [`Event::Unsubscribed`] is the answer.
    pub fn unsubscribe(&mut self, filters: &[TopicFilter<'_>]) -> Result<PacketId, Refusal> {
        let packet_id = self.new_request(filters.len())?;
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: UnsubscribeProperties::default(),
            filters: TopicFilters::from_slice(filters),
        });
        self.send_request(packet_id, &packet, PacketType::Unsuback, filters.len())
    }

    /// Says that a message was taken ([`Acknowledge::ByCaller`]); with a reason of 0x80 or above,
    /// which only 5.0 can tell, that it was not. `false` if the token is spent or its connection is
    /// gone: then the server sends the message again, or knows already.
    pub fn acknowledge(&mut self, token: AckToken, reason: ReasonCode) -> bool {
        let can_refuse = self.options.version.is_v5();
        let reason = if can_refuse {
            reason
        } else {
            ReasonCode::Success
        };
        let known = self.inbox.accept(token, reason);
        self.send_acknowledgements();
        known
    }

    /// Forgets a message of a connection that is gone, which nobody has taken. Of QoS 2 its
    /// identifier stood for it: when it comes again, it is handed over again.
    pub fn disown(&mut self, token: AckToken) {
        self.inbox.disown(token);
    }

    /// Ends the connection in order: DISCONNECT follows what is queued. Before 5.0, which has no
    /// reasons, the server would forget the will with it; so
    /// [`ReasonCode::DisconnectWithWillMessage`] only closes.
    pub fn disconnect(&mut self, reason: ReasonCode) {
        if self.state == State::Connected {
            let is_v5 = self.options.version.is_v5();
            if is_v5 || reason == ReasonCode::NORMAL_DISCONNECTION {
                self.send(&Packet::Disconnect(Disconnect::new(reason)));
            }
        }
        match self.state {
            State::Connecting { .. } => self.close_silently(CloseCause::Disconnected),
            State::Connected => {
                self.state = State::Closing;
                self.events
                    .push_back(Event::Closed(CloseCause::Disconnected));
            }
            State::Idle | State::Closing => {}
        }
    }

    /// Whether CONNACK has said yes and nothing has ended the connection.
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Whether the connection is over and all is sent that will be: close the transport.
    pub fn is_finished(&self) -> bool {
        self.state == State::Closing && self.transmit.is_empty()
    }

    /// Whether a CONNECT was sent to which no CONNACK has come: the server may have begun a new
    /// session by it, and says of that the next time that it is there.
    pub fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    /// What the server takes; before its CONNACK, what 3.1.1 would.
    pub fn limits(&self) -> &ServerLimits {
        &self.limits
    }

    /// What we connect with.
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Clean Start of the next connection. A client that wants a fresh session once, and then to
    /// keep it, says so here.
    pub fn set_clean_start(&mut self, clean_start: bool) {
        self.options.clean_start = clean_start;
    }

    /// What the next connections are made with. Between two of them only. The session is kept,
    /// whatever changes: whether there still is one, the server says.
    ///
    /// # Errors
    /// If no CONNECT can be made of them; then those before stay.
    pub fn set_options(&mut self, options: ConnectOptions) -> Result<(), OptionsError> {
        debug_assert!(!self.is_open(), "a connection keeps what it began with");
        options.check()?;
        // Before 3.1.1 nobody says, and under another identifier there is none.
        self.has_session &= self.options.client_id == options.client_id;
        self.options = options;
        Ok(())
    }

    /// How many QoS 1 and 2 messages of ours may be under way from now on; at least 1. Those that
    /// are stay so; on the next connection they too are sent again only as far as this allows.
    pub fn set_inflight_maximum(&mut self, inflight_maximum: u16) {
        self.options.inflight_maximum = inflight_maximum.max(1);
        if self.state == State::Connected {
            self.window.widen(self.quota());
            self.queue_publications();
        }
    }

    /// Takes back a message between two connections, or one that waits for [`Step::Publish`]: it
    /// is not sent again, and nothing will say what became of it. If it is a QoS 2 message that the
    /// server may have, its identifier is released on the next connection, so that the next message
    /// with it is not taken for this one. `false` if it cannot be taken back.
    pub fn withdraw(&mut self, packet_id: PacketId) -> bool {
        if self.state != State::Idle && !self.window.is_withheld(packet_id) {
            return false;
        }
        let withholds = self.withholds();
        let withdrawn = self.window.withdraw(packet_id, withholds);
        if withdrawn == Withdrawn::ToBeReleased && withholds {
            self.say_that_it_waits(Step::Release, packet_id);
        }
        if self.state == State::Connected {
            // What stood behind it may go.
            self.queue_publications();
        }
        withdrawn != Withdrawn::No
    }

    /// Whether nothing is left of a QoS 2 message of ours but an identifier that the server is to
    /// release.
    pub fn has_to_release(&self, packet_id: PacketId) -> bool {
        self.window.has_release(packet_id)
    }

    fn withholds(&self) -> bool {
        self.options.steps == Steps::ByCaller
    }

    fn say_that_it_waits(&mut self, step: Step, packet_id: PacketId) {
        self.events.push_back(Event::Waits { step, packet_id });
    }

    /// Our client identifier: as configured, or as the server assigned it; empty if neither.
    pub fn client_id(&self) -> &str {
        if self.options.client_id.is_empty() {
            &self.assigned_client_id
        } else {
            &self.options.client_id
        }
    }

    /// QoS 1 and 2 messages of ours that are not settled.
    pub fn inflight(&self) -> usize {
        self.window.len()
    }

    /// What was odd but harmless, since this client was made.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn handle_frame(&mut self, now: Instant, frame: &[u8]) -> Result<(), Violation> {
        let version = self.options.version;
        if let Some(connack) = refusal_by_older_server(version, self.state, frame) {
            self.refused(&connack);
            return Ok(());
        }
        let packet = Packet::parse(version, frame)?;
        let packet_type = packet.packet_type();
        if matches!(self.state, State::Connecting { .. }) {
            // The first packet, and no other [MQTT-3.2.0-1].
            return match packet {
                Packet::Connack(connack) => self.handle_connack(&connack),
                _ => Err(Violation::Unexpected(packet_type)),
            };
        }
        match packet {
            Packet::Publish(publish) => self.handle_publish(now, &publish),
            Packet::Puback(ack) => {
                let acked = self.window.puback(ack.packet_id, ack.reason);
                self.handle_acked(packet_type, ack.packet_id, acked)
            }
            Packet::Pubrec(ack) => {
                let withholds = self.withholds();
                let acked = self.window.pubrec(ack.packet_id, ack.reason, withholds);
                self.handle_acked(packet_type, ack.packet_id, acked)
            }
            Packet::Pubcomp(ack) => {
                let acked = self.window.pubcomp(ack.packet_id);
                self.handle_acked(packet_type, ack.packet_id, acked)
            }
            Packet::Pubrel(ack) => self.handle_pubrel(ack.packet_id),
            Packet::Suback(suback) => {
                self.handle_answer(packet_type, suback.packet_id, suback.reasons)
            }
            Packet::Unsuback(unsuback) => {
                self.handle_answer(packet_type, unsuback.packet_id, unsuback.reasons)
            }
            Packet::Pingresp => {
                self.ping_sent = None;
                Ok(())
            }
            // A server has DISCONNECT only in 5.0.
            Packet::Disconnect(disconnect) if version.is_v5() => {
                self.handle_disconnect(&disconnect)
            }
            // A second CONNACK [MQTT-3.2.0-2], AUTH unasked [MQTT-4.12.0-6], or what only clients
            // send.
            Packet::Connack(_)
            | Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Pingreq
            | Packet::Disconnect(_)
            | Packet::Auth(_) => Err(Violation::Unexpected(packet_type)),
        }
    }

    fn handle_connack(&mut self, connack: &Connack<'_>) -> Result<(), Violation> {
        if connack.reason != ReasonCode::Success {
            self.refused(connack);
            return Ok(());
        }
        if connack.session_present && self.options.clean_start {
            return Err(Violation::SessionPresentUnasked); // [MQTT-3.2.2-2]
        }
        if let Some(id) = connack.properties.assigned_client_identifier {
            id.clone_into(&mut self.assigned_client_id);
        }
        // 3.1 does not say. A server that keeps sessions kept ours, if it had one.
        let unsaid = self.options.version == ProtocolVersion::V3
            && self.has_session
            && !self.options.clean_start;
        let session_present = connack.session_present || unsaid;
        self.has_session = true;
        self.is_unanswered = false;
        self.limits = limits_of(connack, &self.options);
        self.state = State::Connected;
        self.events.push_back(Event::Connected {
            session_present,
            limits: self.limits,
        });
        self.resume(session_present);
        Ok(())
    }

    /// Goes on with what was under way before this connection [MQTT-4.4.0-1].
    fn resume(&mut self, session_present: bool) {
        let mut settled = Vec::new();
        if !session_present {
            self.inbox.session_lost();
            settled = self.window.session_lost();
        }
        let (version, limits) = (self.options.version, self.limits);
        settled.extend(self.window.refuse(|message| {
            refusal_of(message, version, &limits).map(|refusal| match refusal {
                Refusal::QosNotSupported => ReasonCode::QosNotSupported,
                Refusal::RetainNotSupported => ReasonCode::RetainNotSupported,
                _ => ReasonCode::PacketTooLarge,
            })
        }));
        for (packet_id, reason) in settled {
            self.events
                .push_back(Event::Published { packet_id, reason });
        }
        let releases: Vec<_> = self.window.releases().collect();
        for packet_id in releases {
            self.send(&Packet::Pubrel(Ack::success(packet_id)));
        }
        let aliases = self.options.outgoing_topic_aliases;
        self.transmit.begin(
            aliases.min(self.limits.topic_alias_maximum), // [MQTT-3.2.2-17]
            self.limits.maximum_packet_size as usize,
        );
        self.window.begin(self.quota());
        self.queue_publications();
    }

    fn handle_publish(&mut self, now: Instant, publish: &Publish<'_>) -> Result<(), Violation> {
        let receive_maximum = self.options.receive_maximum.value();
        let receive_maximum = Some(receive_maximum).filter(|_| self.options.version.is_v5());
        let topic = self
            .inbox
            .resolve(publish, self.options.topic_alias_maximum)?;
        let payload = Payload::copy_from(publish.payload);
        let message = ApplicationMessage::from_publish(publish, topic, payload, now);
        let arrival =
            self.inbox
                .arrive(publish.qos, publish.packet_id, publish.dup, receive_maximum)?;
        let token = match arrival {
            Arrival::Deliver => None,
            Arrival::DeliverWith(token) => Some(token),
            Arrival::Duplicate => {
                self.counters.duplicates += 1;
                self.send_acknowledgements();
                return Ok(());
            }
        };
        let by_caller = self.options.acknowledge == Acknowledge::ByCaller;
        self.events.push_back(Event::Message(ReceivedMessage {
            message,
            ack: token.filter(|_| by_caller),
            packet_id: publish.packet_id,
            dup: publish.dup,
            subscription_identifiers: publish.properties.subscription_identifiers.iter().collect(),
        }));
        if let Some(token) = token
            && !by_caller
        {
            self.inbox.accept(token, ReasonCode::Success);
            self.send_acknowledgements();
        }
        Ok(())
    }

    /// PUBACK, PUBREC or PUBCOMP has done something to the window.
    fn handle_acked(
        &mut self,
        packet: PacketType,
        packet_id: PacketId,
        acked: Acked,
    ) -> Result<(), Violation> {
        match acked {
            Acked::Settled(reason) => {
                self.events
                    .push_back(Event::Published { packet_id, reason });
                self.queue_publications();
            }
            Acked::Release => self.send(&Packet::Pubrel(Ack::success(packet_id))), // [MQTT-4.3.3-4]
            Acked::ReleaseWaits => self.say_that_it_waits(Step::Release, packet_id),
            Acked::Known => {}
            Acked::Unknown => {
                self.counters.strays += 1;
                if packet == PacketType::Pubrec {
                    let reason = ReasonCode::PacketIdentifierNotFound;
                    self.send(&Packet::Pubrel(Ack::new(packet_id, reason)));
                }
            }
            Acked::Mismatch => return Err(Violation::AckMismatch(packet, packet_id)),
        }
        Ok(())
    }

    fn handle_pubrel(&mut self, packet_id: PacketId) -> Result<(), Violation> {
        let withholds = self.withholds();
        let reason = match self.inbox.release(packet_id, withholds) {
            inbox::Release::Done => ReasonCode::Success,
            inbox::Release::Waits => {
                self.say_that_it_waits(Step::Complete, packet_id);
                return Ok(());
            }
            inbox::Release::Known => return Ok(()),
            inbox::Release::Unknown => {
                self.counters.strays += 1;
                ReasonCode::PacketIdentifierNotFound
            }
            inbox::Release::NotYetReceived => {
                return Err(Violation::AckMismatch(PacketType::Pubrel, packet_id));
            }
        };
        self.send(&Packet::Pubcomp(Ack::new(packet_id, reason))); // [MQTT-4.3.3-11]
        Ok(())
    }

    /// SUBACK or UNSUBACK.
    fn handle_answer(
        &mut self,
        packet: PacketType,
        packet_id: PacketId,
        reasons: ReasonCodes<'_>,
    ) -> Result<(), Violation> {
        let request = self
            .requests
            .get(&packet_id)
            .filter(|request| request.answer == packet)
            .ok_or(Violation::AckMismatch(packet, packet_id))?;
        let says_nothing = packet == PacketType::Unsuback && !self.options.version.is_v5();
        if reasons.len() != request.filter_count && !says_nothing {
            return Err(Violation::ReasonCountMismatch(packet, packet_id));
        }
        self.requests.remove(&packet_id);
        let reasons = reasons.iter().collect();
        self.events.push_back(if packet == PacketType::Suback {
            Event::Subscribed { packet_id, reasons }
        } else {
            Event::Unsubscribed { packet_id, reasons }
        });
        Ok(())
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect<'_>) -> Result<(), Violation> {
        if disconnect.properties.session_expiry_interval.is_some() {
            return Err(Violation::SessionExpiryFromServer); // [MQTT-3.14.2-2]
        }
        self.close_silently(CloseCause::ServerDisconnected(Farewell {
            reason: disconnect.reason,
            reason_string: disconnect.properties.reason_string.map(str::to_owned),
            server_reference: disconnect.properties.server_reference.map(str::to_owned),
        }));
        Ok(())
    }

    fn refused(&mut self, connack: &Connack<'_>) {
        self.is_unanswered = false;
        self.close_silently(CloseCause::Refused(Farewell {
            reason: connack.reason,
            reason_string: connack.properties.reason_string.map(str::to_owned),
            server_reference: connack.properties.server_reference.map(str::to_owned),
        }));
    }

    /// Ends the connection with a reason, where the version can say it; before 5.0 a DISCONNECT
    /// would mean that all is well. What is queued is not sent any more.
    fn close_with(&mut self, reason: ReasonCode, cause: CloseCause) {
        let can_say = self.state == State::Connected && self.options.version.is_v5();
        self.close_silently(cause);
        if can_say {
            let reason = if reason.is_allowed_in(PacketType::Disconnect) {
                reason
            } else {
                ReasonCode::ProtocolError
            };
            self.send(&Packet::Disconnect(Disconnect::new(reason))); // [MQTT-4.13.1-1]
        }
    }

    fn close_silently(&mut self, cause: CloseCause) {
        self.transmit.clear();
        self.state = State::Closing;
        self.events.push_back(Event::Closed(cause));
    }

    /// How many QoS 1 and 2 messages may be sent and not acknowledged on this connection.
    fn quota(&self) -> u16 {
        let receive_maximum = self.limits.receive_maximum.value();
        receive_maximum.min(self.options.inflight_maximum) // [MQTT-3.3.4-7]
    }

    /// Queues publications while the server has room for them.
    fn queue_publications(&mut self) {
        while let Some(publication) = self.window.poll_queue() {
            self.transmit.push_publication(publication);
        }
    }

    /// Queues the acknowledgements that are due, in order.
    fn send_acknowledgements(&mut self) {
        if self.state != State::Connected {
            return;
        }
        while let Some(due) = self.inbox.poll_due() {
            let ack = Ack::new(due.packet_id, due.reason);
            let packet = match due.qos {
                QoS::ExactlyOnce => Packet::Pubrec(ack),
                _ => Packet::Puback(ack),
            };
            self.send(&packet);
        }
    }

    fn send(&mut self, packet: &Packet<'_>) {
        self.transmit.push(self.options.version, packet);
    }

    /// A packet identifier for a request, if there may be one more.
    fn new_request(&mut self, filter_count: usize) -> Result<PacketId, Refusal> {
        if self.state != State::Connected {
            return Err(Refusal::NotConnected);
        }
        if filter_count == 0 {
            return Err(Refusal::NoFilters); // [MQTT-3.8.3-2]
        }
        if self.requests.len() >= PENDING_REQUESTS_MAX {
            return Err(Refusal::Full);
        }
        self.new_packet_id().ok_or(Refusal::Full)
    }

    fn send_request(
        &mut self,
        packet_id: PacketId,
        packet: &Packet<'_>,
        answer: PacketType,
        filter_count: usize,
    ) -> Result<PacketId, Refusal> {
        let len = packet.encoded_len(self.options.version);
        let max = self.limits.maximum_packet_size;
        if len > max as usize {
            return Err(Refusal::PacketTooLarge { len, max }); // [MQTT-3.2.2-15]
        }
        let request = Request {
            answer,
            filter_count,
        };
        self.requests.insert(packet_id, request);
        self.send(packet);
        Ok(packet_id)
    }

    /// An identifier that nothing under way has [MQTT-2.2.1-3].
    fn new_packet_id(&mut self) -> Option<PacketId> {
        for _ in 0..u16::MAX {
            let id = self.next_packet_id;
            self.next_packet_id = id.next();
            if !self.window.contains(id) && !self.requests.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Connecting { .. } | State::Connected)
    }

    fn has_room_for_input(&self) -> bool {
        let receive_maximum = usize::from(self.options.receive_maximum.value());
        let caller_has_room =
            self.options.version.is_v5() || self.inbox.waiting() < receive_maximum;
        caller_has_room
            && self.events.len() < EVENTS_MAX
            && self.transmit.control_bytes() < CONTROL_BYTES_MAX
    }

    /// Seconds of silence after which a PINGREQ is due; `None` if keep-alive is off.
    fn ping_interval(&self) -> Option<Duration> {
        let keep_alive = Duration::from_secs(u64::from(self.limits.keep_alive));
        (!keep_alive.is_zero()).then(|| keep_alive.saturating_sub(keep_alive / PING_EARLY_DIVISOR))
    }

    /// When the server counts as dead: nothing at all has come since a PINGREQ.
    fn ping_deadline(&self) -> Option<Instant> {
        let keep_alive = Duration::from_secs(u64::from(self.limits.keep_alive));
        let sent = self.ping_sent?;
        Some(sent.max(self.last_received) + keep_alive / PING_TIMEOUT_DIVISOR)
    }
}

/// Why this server does not take this message, if it does not.
fn refusal_of(
    message: &ApplicationMessage,
    version: ProtocolVersion,
    limits: &ServerLimits,
) -> Option<Refusal> {
    if message.qos() > limits.maximum_qos {
        return Some(Refusal::QosNotSupported); // [MQTT-3.2.2-11]
    }
    if message.retain() && !limits.retain_available {
        return Some(Refusal::RetainNotSupported); // [MQTT-3.2.2-14]
    }
    let (len, max) = (packet_len(message, version), limits.maximum_packet_size);
    if len > max as usize {
        return Some(Refusal::PacketTooLarge { len, max }); // [MQTT-3.2.2-15]
    }
    None
}

/// A server that does not know 5.0 refuses a CONNECT of 5.0 in its own words [MQTT-3.1.2-2/3.1.1].
fn refusal_by_older_server(
    version: ProtocolVersion,
    state: State,
    frame: &[u8],
) -> Option<Connack<'static>> {
    let is_first = matches!(state, State::Connecting { .. });
    match *frame {
        [0x20, 0x02, 0x00, code] if version.is_v5() && is_first => {
            let reason = ReasonCode::from_connect_return_code(code)?;
            (reason != ReasonCode::Success).then(|| Connack {
                session_present: false,
                reason,
                properties: crate::mqtt::ConnackProperties::default(),
            })
        }
        _ => None,
    }
}

fn limits_before_connack(options: &ConnectOptions) -> ServerLimits {
    ServerLimits {
        receive_maximum: crate::mqtt::ReceiveMaximum::DEFAULT,
        maximum_packet_size: PACKET_SIZE_MAX,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        wildcard_subscriptions: true,
        topic_alias_maximum: 0,
        subscription_identifiers: options.version.is_v5(),
        shared_subscriptions: true,
        keep_alive: options.keep_alive,
        session_expiry_interval: match options.version {
            ProtocolVersion::V5 => options.session_expiry_interval,
            _ if options.clean_start => 0,
            _ => u32::MAX,
        },
    }
}

fn limits_of(connack: &Connack<'_>, options: &ConnectOptions) -> ServerLimits {
    let said = &connack.properties;
    let unsaid = limits_before_connack(options);
    ServerLimits {
        receive_maximum: said.receive_maximum.unwrap_or(unsaid.receive_maximum),
        maximum_packet_size: said
            .maximum_packet_size
            .map_or(unsaid.maximum_packet_size, |size| {
                size.get().min(PACKET_SIZE_MAX)
            }),
        maximum_qos: said.maximum_qos.unwrap_or(unsaid.maximum_qos),
        retain_available: said.retain_available.unwrap_or(true),
        topic_alias_maximum: said.topic_alias_maximum.unwrap_or(0),
        wildcard_subscriptions: said.wildcard_subscription_available.unwrap_or(true),
        subscription_identifiers: said
            .subscription_identifier_available
            .unwrap_or(unsaid.subscription_identifiers),
        shared_subscriptions: said.shared_subscription_available.unwrap_or(true),
        keep_alive: said.server_keep_alive.unwrap_or(unsaid.keep_alive), // [MQTT-3.2.2-21]
        session_expiry_interval: said
            .session_expiry_interval
            .unwrap_or(unsaid.session_expiry_interval),
    }
}
