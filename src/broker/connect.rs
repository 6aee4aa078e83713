//! CONNECT: who may come in, and which session it is.

use core::num::NonZeroU32;
use std::rc::Rc;

use super::access::Verdict;
use super::connection::{Phase, Tag};
use super::inflight::WINDOW_MAX;
use super::session::{Link, NEVER, Session};
use super::settle::Kind;
use super::{Broker, CloseHow, Fate, Origin, Output, level_of};
use crate::buffer::Outbox;
use crate::id::{ConnId, Lsn, SessionId};
use crate::mqtt::frame::PACKET_SIZE_MAX;
use crate::mqtt::packet::connack_for;
use crate::mqtt::{
    ApplicationMessage, Connack, ConnackProperties, Connect, DecodeError, Packet, ProtocolVersion,
    ReasonCode, ReceiveMaximum,
};
use crate::time::{Duration, Instant};

impl Broker {
    /// A client's first packet.
    pub(super) fn on_connect(&mut self, conn: ConnId, connect: &Connect<'_>, outbox: &mut Outbox) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        connection.version = connect.version;
        connection.client_id = connect.client_id.into();
        if let Some(limit) = connect.properties.maximum_packet_size {
            connection.max_packet_size = limit.get();
        }
        if let Err((reason, why)) = self.admit(conn, connect) {
            return self.refuse_connect(conn, reason, why, outbox);
        }
        let assigned = connect
            .client_id
            .is_empty()
            .then(|| self.assign_client_id());
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        let Some((id, is_present)) = self.open_session(client_id, connect, outbox) else {
            self.stats.refused_sessions += 1;
            let why = "no more sessions";
            return self.refuse_connect(conn, ReasonCode::QuotaExceeded, why, outbox);
        };
        let asked = session_expiry_asked(connect);
        let granted = self.session_expiry_granted(asked);
        let keep_alive = self
            .settings
            .keep_alive_override
            .unwrap_or(connect.keep_alive);
        self.attach(conn, id, connect, granted, keep_alive);
        let lsn = self.settle.log();
        log::info!(
            "connected {} version={} clean={} present={is_present} keep_alive={keep_alive}",
            Tag(conn, client_id),
            connect.version,
            connect.clean_start,
        );
        let settings = &self.settings;
        let properties = ConnackProperties {
            session_expiry_interval: (granted != asked).then_some(granted),
            receive_maximum: ReceiveMaximum::new(settings.receive_maximum),
            maximum_packet_size: NonZeroU32::new(settings.max_packet_size)
                .filter(|limit| limit.get() < PACKET_SIZE_MAX),
            assigned_client_identifier: assigned.as_deref(), // [MQTT-3.2.2-16]
            topic_alias_maximum: Some(settings.topic_alias_maximum),
            wildcard_subscription_available: Some(true),
            subscription_identifier_available: Some(true),
            shared_subscription_available: Some(true),
            server_keep_alive: settings.keep_alive_override, // [MQTT-3.1.2-21]
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

    /// Whether this client may come in at all.
    fn admit(
        &mut self,
        conn: ConnId,
        connect: &Connect<'_>,
    ) -> Result<(), (ReasonCode, &'static str)> {
        let connection = self.connections.get(conn);
        let connection = connection.expect("the caller has looked it up");
        if self.is_stopping {
            return Err((ReasonCode::ServerUnavailable, "stopping"));
        }
        if connection.is_over_limit {
            return Err((ReasonCode::QuotaExceeded, "too many connections"));
        }
        if connect.properties.authentication_method.is_some() {
            // [MQTT-4.12.0-1]
            let why = "no authentication method is supported";
            return Err((ReasonCode::BadAuthenticationMethod, why));
        }
        if !connection.admission.allow_anonymous {
            let has_credentials = connect.username.is_some() || connect.password.is_some();
            return Err(if has_credentials {
                // There is nothing to compare them with.
                (
                    ReasonCode::BadUserNameOrPassword,
                    "unknown user or password",
                )
            } else {
                (ReasonCode::NotAuthorized, "credentials are required")
            });
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
            // Who it is does not matter yet; that it is a client does.
            let somebody = Origin::Client(self.sessions.vacant_key());
            let verdict = self.access.may_publish(somebody, will.topic.as_str());
            if verdict == Verdict::Refused {
                self.stats.refused_publishes += 1;
                let why = "the will's topic is not the client's to publish on";
                return Err((ReasonCode::NotAuthorized, why));
            }
        }
        Ok(())
    }

    /// Finds or makes the client's session, and takes it from whoever has it. Whether it was there.
    /// `None`: no room.
    fn open_session(
        &mut self,
        client_id: &str,
        connect: &Connect<'_>,
        outbox: &mut Outbox,
    ) -> Option<(SessionId, bool)> {
        let before = self.clients.get(client_id).copied();
        if before.is_none() && self.sessions.len() >= self.settings.max_sessions as usize {
            return None;
        }
        if let Some(id) = before {
            self.take_over(id, outbox);
            if connect.clean_start {
                self.remove_session(id); // [MQTT-3.1.2-4]
            }
        }
        // A session that ended with its connection is gone by now too.
        if let Some(id) = before.filter(|id| self.sessions.contains(*id)) {
            return Some((id, true)); // [MQTT-3.1.2-5]
        }
        let charge = self.memory.try_reserve(Session::cost(client_id))?;
        let client_id: Rc<str> = client_id.into();
        let id = self
            .sessions
            .insert(Session::new(client_id.clone(), &self.memory, charge));
        self.clients.insert(client_id, id);
        Some((id, false)) // [MQTT-3.1.2-6]
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
            is_open: false,
            resend_from: (session.inflight.len() > 0).then_some(0), // [MQTT-4.4.0-1]
        });
        self.connected += 1;
        self.stats.connected_maximum = self.stats.connected_maximum.max(self.connected as u64);
        session.expiry_seconds = expiry_seconds;
        session.expires_at = Instant::FAR_FUTURE;
        session.will = None; // It is back before its will was due [MQTT-3.1.3-9].
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
            let aliases = usize::from(self.settings.topic_alias_maximum);
            connection.aliases = vec![None; aliases];
        }
        connection.charge.set(connection.cost());
        self.arm_connection(conn);
    }

    /// Refuses a CONNECT [MQTT-3.1.4-2].
    fn refuse_connect(&mut self, conn: ConnId, reason: ReasonCode, why: &str, outbox: &mut Outbox) {
        self.stats.refused_connects += 1;
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let count = self.stats.refused_connects;
        let client = Tag(conn, &connection.client_id);
        let level = level_of(count);
        log::log!(
            level,
            "CONNECT refused {client} reason={reason} count={count}: {why}"
        );
        connection.phase = Phase::Closing;
        let version = connection.version;
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
                reason_string: Some(why),
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
