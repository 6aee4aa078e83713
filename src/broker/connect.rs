//! CONNECT: who may come in, and which session it is.
//!
//! ```text
//! CONNECT ── what we can do at all ── who is it ──▶ a name is known ──▶ session, CONNACK
//!                                        ├─ a password ─▶ Verify … Verified ─┤
//!                                        └─ a method ───▶ AUTH … AUTH ───────┘
//! ```
//!
//! A name comes from the transport (a certificate, the kernel), from a password that is right,
//! or from an authentication (see `authenticate`). A
//! name that nobody can check gives no rights: on a listener that lets in anybody, without a
//! password file, its bearer is nobody.

use core::fmt;
use core::num::NonZeroU32;
use std::rc::Rc;

use super::access::{AccessSettings, Permissions, Verdict};
use super::admission::Excess;
use super::aliases::Aliases;
use super::connection::{Connection, Kept, Pause, Phase, Tag, Whence};
use super::inflight::WINDOW_MAX;
use super::session::{Link, NEVER, Session};
use super::settle::Kind;
use super::{
    Broker, CloseHow, Fate, Origin, Output, VERIFICATIONS_MAX, VERIFICATIONS_PER_ADDRESS_MAX,
    level_of,
};
use crate::buffer::Outbox;
use crate::credential::PasswordHash;
use crate::credential::scram::Exchange;
use crate::id::{ConnId, Lsn, SessionId};
use crate::mqtt::frame::PACKET_SIZE_MAX;
use crate::mqtt::packet::connack_for;
use crate::mqtt::{
    ApplicationMessage, Connack, ConnackProperties, Connect, DecodeError, Packet, ProtocolVersion,
    QoS, ReasonCode, ReceiveMaximum,
};
use crate::time::{Duration, Instant, Now};

/// A password on its way to be compared. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

impl Password {
    /// What the client sent.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A reason and what is said beside it.
pub(super) type Refusal = (ReasonCode, &'static str);

/// What CONNECT says about who sent it.
enum Identity {
    /// This user, or nobody in particular.
    Known(Option<Box<str>>),
    /// A password says so, which is to be compared.
    Claimed { hash: PasswordHash, is_known: bool },
    /// It will be proven.
    Asked(Exchange),
}

impl Broker {
    /// The transport vouches for a client's name: its certificate, or the kernel. What the client
    /// says of itself does not matter then. Before its first bytes.
    pub fn handle_identified(&mut self, conn: ConnId, name: &str) {
        if let Some(connection) = self.connections.get_mut(conn)
            && connection.phase == Phase::Fresh
        {
            connection.identity = Some(name.into());
        }
    }

    /// A password has been compared; see [`Output::Verify`].
    pub fn handle_verified(&mut self, now: Now, conn: ConnId, is_right: bool, outbox: &mut Outbox) {
        self.now = now;
        self.verifying.retain(|other| *other != conn);
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let Some(Kept { frame, is_known }) = connection.kept.take() else {
            return;
        };
        connection.charge.set(connection.cost());
        if connection.phase != Phase::Verifying {
            return;
        }
        connection.phase = Phase::Fresh;
        connection.pause = Pause::Over;
        self.resumed.push_back(conn);
        if let Ok(Packet::Connect(connect)) = Packet::parse(ProtocolVersion::V5, &frame) {
            if is_right && is_known {
                connection.has_password = true;
                self.enter(conn, &connect, connect.username, None, outbox);
            } else {
                self.stats.refused_logins += 1;
                let why = "unknown user or wrong password";
                self.refuse_connect(conn, ReasonCode::BadUserNameOrPassword, why, outbox);
            }
        }
        self.finish(outbox);
    }

    /// A client's first packet.
    pub(super) fn on_connect(
        &mut self,
        conn: ConnId,
        connect: &Connect<'_>,
        frame: &[u8],
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        connection.version = connect.version;
        connection.client_id = connect.client_id.into();
        if let Some(limit) = connect.properties.maximum_packet_size {
            connection.max_packet_size = limit.get();
        }
        connection.wants_diagnostics =
            connect.properties.request_problem_information != Some(false);
        let identity = self
            .admit(conn, connect)
            .and_then(|()| self.identify(conn, connect));
        match identity {
            Ok(Identity::Known(user)) => {
                self.enter(conn, connect, user.as_deref(), None, outbox);
            }
            Ok(Identity::Asked(exchange)) => self.ask_for_proof(conn, exchange, frame, outbox),
            Ok(Identity::Claimed { hash, is_known }) => {
                let kept = Kept {
                    frame: frame.into(),
                    is_known,
                };
                let password = connect.password.unwrap_or_default();
                if let Err((reason, why)) = self.verify(conn, kept, hash, password) {
                    self.refuse_connect(conn, reason, why, outbox);
                }
            }
            Err((reason, why)) => self.refuse_connect(conn, reason, why, outbox),
        }
    }

    /// Lets a client in that is known, or refuses it for what only its name can tell. `proof` is
    /// the last word of an authentication.
    pub(super) fn enter(
        &mut self,
        conn: ConnId,
        connect: &Connect<'_>,
        user: Option<&str>,
        proof: Option<&str>,
        outbox: &mut Outbox,
    ) {
        let assigned = connect
            .client_id
            .is_empty()
            .then(|| self.assign_client_id());
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        let before_all = self.settle.last();
        let connection = self.connections.get(conn);
        if let Some(redirect) = connection.and_then(|connection| connection.redirect.as_deref()) {
            // Since it has said CONNECT.
            let reason = redirect.reason();
            self.stats.redirects += 1;
            return self.refuse_connect(conn, reason, "", outbox);
        }
        let rules = self.settings.access.rules.as_ref();
        let permissions = rules.map(|rules| Rc::new(rules.bind(user, client_id)));
        let opened = self
            .may_enter(client_id, connect, user, permissions.as_deref())
            .and_then(|()| self.open_session(client_id, connect, outbox));
        let (id, is_present) = match opened {
            Ok(opened) => opened,
            Err((reason, why)) => return self.refuse_connect(conn, reason, why, outbox),
        };
        let session = self.session_mut(id);
        let before = core::mem::replace(&mut session.permissions, permissions);
        let are_others = before.is_some() && before != session.permissions;
        session.user = user.map(Rc::from);
        if are_others {
            self.routes.forget();
        }
        let asked = session_expiry_asked(connect);
        let granted = self.session_expiry_granted(asked);
        // Who cannot be told keeps its own: by a shorter one a client in order would be cut off.
        let keep_alive = self.settings.keep_alive_override;
        let keep_alive = keep_alive.filter(|_| connect.version.is_v5());
        let keep_alive = keep_alive.unwrap_or(connect.keep_alive);
        self.attach(conn, id, connect, granted, keep_alive);
        self.keep_session(id);
        self.look_at(id);
        self.keep_will(conn, id);
        let lsn = self.logged_since(before_all);
        // Nobody waits for these.
        self.keep_lone_will(conn, id);
        self.find_stray(client_id, user);
        log::info!(
            "connected {} {} user={} version={} clean={} present={is_present} \
             keep_alive={keep_alive}",
            Tag(conn, client_id),
            self.whence(conn),
            user.unwrap_or("-").escape_debug(),
            connect.version,
            connect.clean_start,
        );
        let wants_information = connect.properties.request_response_information == Some(true);
        let settings = &self.settings;
        let information = settings.response_information.clone();
        let information = information.filter(|_| wants_information);
        let properties = ConnackProperties {
            session_expiry_interval: (granted != asked).then_some(granted),
            receive_maximum: ReceiveMaximum::new(settings.receive_maximum),
            maximum_qos: Some(settings.maximum_qos).filter(|qos| *qos < QoS::ExactlyOnce),
            retain_available: (!settings.retain_available).then_some(false),
            maximum_packet_size: NonZeroU32::new(settings.max_packet_size)
                .filter(|limit| limit.get() < PACKET_SIZE_MAX),
            assigned_client_identifier: assigned.as_deref(), // [MQTT-3.2.2-16]
            topic_alias_maximum: Some(settings.topic_alias_maximum),
            wildcard_subscription_available: Some(settings.wildcard_subscriptions),
            subscription_identifier_available: Some(settings.subscription_identifiers),
            shared_subscription_available: Some(settings.shared_subscriptions),
            server_keep_alive: settings.keep_alive_override, // [MQTT-3.1.2-21]
            response_information: information.as_deref(),    // [MQTT-3.1.2-28]
            // [MQTT-4.12.0-5]
            authentication_method: connect.properties.authentication_method,
            authentication_data: proof.map(str::as_bytes),
            ..ConnackProperties::default()
        };
        let connack = Connack {
            // 3.1 has no such flag: its byte is reserved.
            session_present: is_present && connect.version != ProtocolVersion::V3,
            reason: ReasonCode::Success,
            properties,
        };
        self.answer(conn, lsn, Kind::Connack, &Packet::Connack(connack), outbox);
    }

    /// A first packet that cannot be read.
    pub(super) fn refuse_connect_bytes(
        &mut self,
        conn: ConnId,
        frame: &[u8],
        error: &DecodeError,
        outbox: &mut Outbox,
    ) {
        self.stats.protocol_errors += 1;
        log::debug!("no CONNECT conn={conn}: {error}");
        match (connack_for(frame, error), self.connections.get_mut(conn)) {
            (Some((version, reason)), Some(connection)) => {
                connection.version = version;
                self.refuse_connect(conn, reason, &error.to_string(), outbox);
            }
            _ => self.disconnect(conn, error.reason(), "", outbox),
        }
    }

    /// Whether any client could come in with this CONNECT.
    fn admit(&mut self, conn: ConnId, connect: &Connect<'_>) -> Result<(), Refusal> {
        let connection = self.connections.get(conn);
        let connection = connection.expect("the caller has looked it up");
        if self.is_stopping {
            return Err((ReasonCode::ServerUnavailable, "stopping"));
        }
        if let Some(redirect) = &connection.redirect {
            self.stats.redirects += 1;
            return Err((redirect.reason(), ""));
        }
        match connection.excess {
            None => {}
            Some(Excess::Everybody) => {
                return Err((ReasonCode::QuotaExceeded, "too many connections"));
            }
            Some(Excess::Address) => {
                let why = "too many connections of one address";
                return Err((ReasonCode::QuotaExceeded, why));
            }
            Some(Excess::Rate) => {
                let why = "too many connections in a short time";
                return Err((ReasonCode::ConnectionRateExceeded, why));
            }
        }
        if let Some(method) = connect.properties.authentication_method
            && !self.authenticator.offers(method)
        {
            // [MQTT-4.12.0-1]
            let why = "this authentication method is not supported";
            return Err((ReasonCode::BadAuthenticationMethod, why));
        }
        if connect.client_id.is_empty() {
            // 3.1 demands an identifier; 3.1.1 a clean session with none [MQTT-3.1.3-8/3.1.1].
            let may_be_empty = match connect.version {
                ProtocolVersion::V3 => false,
                ProtocolVersion::V4 => connect.clean_start,
                ProtocolVersion::V5 => true, // [MQTT-3.1.3-6]
            };
            if !may_be_empty {
                let why = "a client identifier is required";
                return Err((ReasonCode::ClientIdentifierNotValid, why));
            }
        }
        if let Some(will) = &connect.will {
            if will.qos > self.settings.maximum_qos {
                let why = "the will has a QoS above what is supported"; // [MQTT-3.2.2-12]
                return Err((ReasonCode::QosNotSupported, why));
            }
            if will.retain && !self.settings.retain_available {
                let why = "the will is to be retained, which is not supported"; // [MQTT-3.2.2-13]
                return Err((ReasonCode::RetainNotSupported, why));
            }
        }
        Ok(())
    }

    /// Who it is, or how to find out.
    fn identify(&mut self, conn: ConnId, connect: &Connect<'_>) -> Result<Identity, Refusal> {
        if connect.properties.authentication_method.is_some() {
            let data = connect.properties.authentication_data;
            return self.begin_exchange(data).map(Identity::Asked);
        }
        let connection = self.connections.get(conn);
        let connection = connection.expect("the caller has looked it up");
        if let Some(name) = connection.identity.as_deref() {
            return Ok(Identity::Known(Some(name.into())));
        }
        let has_credentials = connect.username.is_some() || connect.password.is_some();
        match (&self.settings.access.users, connect.username) {
            (Some(users), Some(name)) => {
                let known = users.get(name).cloned();
                let is_known = known.is_some();
                // Whoever asks for a user that nobody knows waits as long for the answer.
                let any = || users.values().next().map(PasswordHash::decoy);
                let hash = known.or_else(any).ok_or((
                    ReasonCode::BadUserNameOrPassword,
                    "unknown user or wrong password",
                ))?;
                Ok(Identity::Claimed { hash, is_known })
            }
            (None, _) if connection.admission.allow_anonymous => Ok(Identity::Known(None)),
            _ if has_credentials => Err((
                // There is nothing to compare them with.
                ReasonCode::BadUserNameOrPassword,
                "unknown user or wrong password",
            )),
            _ if connection.admission.allow_anonymous => Ok(Identity::Known(None)),
            _ => Err((ReasonCode::NotAuthorized, "credentials are required")),
        }
    }

    /// Has a password compared.
    fn verify(
        &mut self,
        conn: ConnId,
        kept: Kept,
        hash: PasswordHash,
        password: &[u8],
    ) -> Result<(), Refusal> {
        let address_of = |conn: &ConnId| {
            let connection: Option<&Connection> = self.connections.get(*conn);
            connection.and_then(|connection| connection.admission.address)
        };
        let address = address_of(&conn);
        let of_address = self
            .verifying
            .iter()
            .filter(|other| address_of(other) == address);
        if self.verifying.len() >= VERIFICATIONS_MAX
            || of_address.count() >= VERIFICATIONS_PER_ADDRESS_MAX
        {
            self.stats.refused_verifications += 1;
            return Err((ReasonCode::ServerBusy, "too many logins at once"));
        }
        let Some(connection) = self.connections.get_mut(conn) else {
            return Ok(());
        };
        connection.phase = Phase::Verifying;
        connection.pause = Pause::Verifying;
        connection.kept = Some(kept);
        connection.charge.set(connection.cost());
        self.verifying.push(conn);
        let password = Password(password.into());
        self.outputs.push_back(Output::Verify {
            conn,
            hash,
            password,
        });
        Ok(())
    }

    /// Whether this client may have this session and this will.
    fn may_enter(
        &mut self,
        client_id: &str,
        connect: &Connect<'_>,
        user: Option<&str>,
        permissions: Option<&Permissions>,
    ) -> Result<(), Refusal> {
        let session = self.clients.get(client_id);
        if let Some(session) = session.and_then(|id| self.sessions.get(*id))
            && session.user.as_deref() != user
        {
            self.stats.refused_owners += 1;
            let why = "the session of this client identifier is another user's";
            return Err((ReasonCode::NotAuthorized, why));
        }
        if let Some(will) = &connect.will {
            // Who it is does not matter yet; that it is a client does.
            let somebody = Origin::Client(self.sessions.vacant_key());
            let verdict = self
                .access
                .may_publish(somebody, permissions, will.topic.as_str());
            if verdict == Verdict::Refused {
                self.stats.refused_publishes += 1;
                let why = "the will's topic is not the client's to publish on";
                return Err((ReasonCode::NotAuthorized, why));
            }
        }
        Ok(())
    }

    /// New rules: what they come to for each session, and what it may not receive any more.
    pub(super) fn apply_rules(&mut self) {
        self.routes.forget();
        let rules = self.settings.access.rules.clone();
        for id in self.sessions.keys() {
            let session = self.session_mut(id);
            session.permissions = rules
                .as_ref()
                .map(|rules| Rc::new(rules.bind(session.user.as_deref(), &session.client_id)));
            let Some(permissions) = session.permissions.clone() else {
                continue;
            };
            let Self {
                sessions,
                messages,
                stats,
                ..
            } = self;
            let session = sessions.get_mut(id).expect("its key was listed just now");
            let mut gone = Vec::new();
            let (count, bytes) = session.queue.purge(
                |reference| {
                    let topic = messages.get(reference.message).message.topic();
                    !permissions.may_receive(topic)
                },
                |reference| gone.push(reference),
            );
            stats.refused_deliveries += gone.len() as u64;
            self.queued -= count;
            self.queued_bytes -= bytes;
            for reference in gone {
                self.let_go(id, &reference);
            }
            self.look_at(id);
        }
    }

    /// Ends the connections of users whose password is not what it was.
    pub(super) fn dismiss_users(&mut self, before: &AccessSettings, outbox: &mut Outbox) {
        for conn in self.connections.keys() {
            let Some(connection) = self.connections.get(conn) else {
                continue;
            };
            let Phase::Live(id) = connection.phase else {
                continue;
            };
            if !connection.has_password {
                continue;
            }
            let user = self.session_mut(id).user.clone().unwrap_or_default();
            let of = |access: &AccessSettings| access.users.as_ref()?.get(&*user).cloned();
            if of(before) != of(&self.settings.access) {
                let why = "the password has been changed";
                self.disconnect(conn, ReasonCode::NotAuthorized, why, outbox);
            }
        }
    }

    /// Finds or makes the client's session, and takes it from whoever has it. Whether it was there.
    fn open_session(
        &mut self,
        client_id: &str,
        connect: &Connect<'_>,
        outbox: &mut Outbox,
    ) -> Result<(SessionId, bool), Refusal> {
        const NO_ROOM: Refusal = (ReasonCode::QuotaExceeded, "no more sessions");
        let before = self.clients.get(client_id).copied();
        if before.is_none() && self.sessions.len() >= self.settings.max_sessions as usize {
            self.stats.refused_sessions += 1;
            return Err(NO_ROOM);
        }
        if let Some(id) = before {
            self.take_over(id, outbox);
            if connect.clean_start {
                self.remove_session(id); // [MQTT-3.1.2-4]
            }
        }
        // A session that ended with its connection is gone by now too.
        if let Some(id) = before.filter(|id| self.sessions.contains(*id)) {
            return Ok((id, true)); // [MQTT-3.1.2-5]
        }
        let Some(charge) = self.memory.try_reserve(Session::cost(client_id)) else {
            self.stats.refused_sessions += 1;
            return Err(NO_ROOM);
        };
        let client_id: Rc<str> = client_id.into();
        let id = self
            .sessions
            .insert(Session::new(client_id.clone(), &self.memory, charge));
        self.clients.insert(client_id, id);
        Ok((id, false)) // [MQTT-3.1.2-6]
    }

    /// Ends the connection that a session has, because its client has made a new one
    /// [MQTT-3.1.4-3].
    fn take_over(&mut self, id: SessionId, outbox: &mut Outbox) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let Some(old) = session.link.as_ref().map(|link| link.conn) else {
            return;
        };
        self.stats.takeovers += 1;
        log::info!("session taken over {}", Tag(old, &session.client_id));
        self.detach(old, Fate::Publish);
        self.goodbye(old, ReasonCode::SessionTakenOver, "", outbox);
    }

    /// Puts a session on a connection.
    fn attach(
        &mut self,
        conn: ConnId,
        id: SessionId,
        connect: &Connect<'_>,
        expiry_seconds: u32,
        keep_alive: u16,
    ) {
        let session = self
            .sessions
            .get_mut(id)
            .expect("the session was opened just now");
        // A client that names no Receive Maximum has said that it takes everything; we keep to a
        // moderate number.
        let window = connect
            .properties
            .receive_maximum
            .map_or(self.settings.inflight_maximum, ReceiveMaximum::value)
            .clamp(1, WINDOW_MAX);
        session.link = Some(Link {
            conn,
            version: connect.version,
            max_packet_size: connect
                .properties
                .maximum_packet_size
                .map_or(u32::MAX, NonZeroU32::get),
            window,
            unacknowledged: 0,
            aliases: Aliases::new(
                connect.properties.topic_alias_maximum.unwrap_or(0), // [MQTT-3.1.2-27]
                self.settings.outgoing_topic_aliases,
                &self.memory,
            ),
            is_open: false,
            resend_from: (session.inflight.len() > 0).then_some(0), // [MQTT-4.4.0-1]
            released_before: 0,
            unsent: std::collections::VecDeque::new(),
        });
        self.connected += 1;
        self.stats.connected_maximum = self.stats.connected_maximum.max(self.connected as u64);
        session.expiry_seconds = expiry_seconds;
        session.expires_at = Instant::FAR_FUTURE;
        let waited = session.will.take(); // It is back before its will was due [MQTT-3.1.3-9].
        session.received.reconnect();
        let connection = self
            .connections
            .get_mut(conn)
            .expect("the caller has looked it up");
        connection.phase = Phase::Live(id);
        connection.client_id = session.client_id.clone();
        connection.heard_at = self.now.monotonic;
        connection.patience = Duration::from_secs(keep_alive.into()) * 3 / 2; // [MQTT-3.1.2-22]
        connection.receive_maximum = self.settings.receive_maximum.max(1);
        connection.takes = Some(self.settings.max_packet_size);
        connection.ends_session = expiry_seconds == 0;
        connection.has_method = connect.properties.authentication_method.is_some();
        connection.will = connect
            .will
            .as_ref()
            .map(|will| Box::new(ApplicationMessage::from_will(will))); // [MQTT-3.1.2-7]
        let delay = connect
            .will
            .as_ref()
            .and_then(|will| will.properties.will_delay_interval);
        connection.will_delay = Duration::from_secs(delay.unwrap_or(0).into());
        if connect.version.is_v5() {
            connection.alias_maximum = self.settings.topic_alias_maximum;
        }
        connection.charge.set(connection.cost());
        self.arm_connection(conn);
        // Before what is logged of the session: CONNACK waits for both.
        self.forget_will(id, waited.and_then(|waited| waited.kept));
    }

    fn whence(&self, conn: ConnId) -> Whence {
        let connection = self.connections.get(conn);
        Whence(connection.and_then(|connection| connection.admission.address))
    }

    /// Refuses a CONNECT [MQTT-3.1.4-2].
    pub(super) fn refuse_connect(
        &mut self,
        conn: ConnId,
        reason: ReasonCode,
        why: &str,
        outbox: &mut Outbox,
    ) {
        self.stats.refused_connects += 1;
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let count = self.stats.refused_connects;
        let client = Tag(conn, &connection.client_id);
        let whence = Whence(connection.admission.address);
        let level = level_of(count);
        log::log!(
            level,
            "CONNECT refused {client} {whence} reason={reason} count={count}: {why}"
        );
        connection.phase = Phase::Closing;
        connection.exchange = None;
        connection.charge.set(connection.cost());
        let version = connection.version;
        let redirect = connection.redirect.clone();
        if is_its_own_fault(reason) {
            self.blame(conn);
        }
        if !version.is_v5() && reason.to_connect_return_code().is_none() {
            // 3.1.1 has no words for it [MQTT-3.2.2-6/3.1.1].
            self.outputs.push_back(Output::Close {
                conn,
                how: CloseHow::Now,
            });
            return;
        }
        let connack = Connack {
            session_present: false, // [MQTT-3.2.2-6]
            reason,
            properties: ConnackProperties {
                reason_string: Some(why).filter(|why| !why.is_empty()),
                // (3.2.2.3.16)
                server_reference: redirect.as_ref().and_then(|it| it.reference_for(reason)),
                ..ConnackProperties::default()
            },
        };
        self.answer(conn, Lsn(0), Kind::Last, &Packet::Connack(connack), outbox);
    }

    /// A client identifier that nobody has [MQTT-3.1.3-6].
    fn assign_client_id(&mut self) -> Box<str> {
        loop {
            let id = format!("auto-{:016x}", self.rng.next_u64());
            if !self.clients.contains_key(id.as_str()) {
                return id.into();
            }
        }
    }

    /// What a session gets of the expiry that its client asked for.
    pub(super) fn session_expiry_granted(&self, asked: u32) -> u32 {
        let Some(limit) = self.settings.max_session_expiry else {
            return asked;
        };
        let limit = u32::try_from(limit.as_secs()).unwrap_or(NEVER);
        asked.min(limit)
    }
}

/// Whether a CONNECT is refused for what its sender has done rather than for how we are.
fn is_its_own_fault(reason: ReasonCode) -> bool {
    !matches!(
        reason,
        ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::QuotaExceeded
            | ReasonCode::UseAnotherServer
            | ReasonCode::ServerMoved
            | ReasonCode::ConnectionRateExceeded
    )
}

/// How long a client wants its session to outlive its connection.
fn session_expiry_asked(connect: &Connect<'_>) -> u32 {
    if connect.version.is_v5() {
        connect.properties.session_expiry_interval.unwrap_or(0)
    } else if connect.clean_start {
        0
    } else {
        NEVER
    }
}
