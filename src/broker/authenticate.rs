//! Enhanced authentication (4.12): SCRAM-SHA-256, at CONNECT and again at any time after it.
//!
//! It is offered if the password file has a verifier for it. A client whose line is of another
//! format fares like one that is not in the file: it is asked for a proof that nobody can give.

use super::connect::Refusal;
use super::connection::{Phase, Tag};
use super::settle::Kind;
use super::{Broker, CloseHow, Output};
use crate::buffer::Outbox;
use crate::credential::scram::{self, ClientFirst, Exchange, ScramError, Secret};
use crate::credential::{PasswordHash, Scheme};
use crate::id::{ConnId, Lsn, SessionId};
use crate::mqtt::{Auth, AuthProperties, Packet, PacketType, ReasonCode};
use crate::rng::Rng;
use crate::time::Instant;

/// Bytes of a packet that we take before CONNACK from a client that authenticates itself.
pub(super) const AUTH_PACKET_MAX: u32 = 8 * 1024;

/// Verifiers that those of unknown users are modelled on.
const SAMPLES_MAX: usize = 16;

/// What authentication needs beside the users.
#[derive(Debug)]
pub(super) struct Authenticator {
    /// Of this start. The host's seed has 64 bits, so that is what it is worth.
    secret: Secret,
    /// Nonces that were made.
    nonces: u64,
    /// The first verifiers of the password file; none: nobody can authenticate like this.
    samples: Vec<PasswordHash>,
}

/// An exchange that waits for the client's proof.
#[derive(Debug)]
pub(super) struct Pending {
    exchange: Exchange,
    /// CONNECT; empty if the client is connected already.
    frame: Box<[u8]>,
    /// When it began.
    pub(super) since: Instant,
}

impl Pending {
    /// Bytes that it holds.
    pub(super) fn footprint(&self) -> usize {
        size_of::<Self>() + self.exchange.footprint() + self.frame.len()
    }
}

impl Authenticator {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let drawn = [(); 4].map(|()| rng.next_u64().to_be_bytes());
        Self {
            secret: Secret::new(&drawn.concat()),
            nonces: 0,
            samples: Vec::new(),
        }
    }

    /// The users have changed.
    pub(super) fn update(&mut self, access: &super::AccessSettings) {
        let hashes = access.users.iter().flat_map(|users| users.values());
        self.samples = hashes
            .filter(|hash| is_verifier(hash))
            .take(SAMPLES_MAX)
            .cloned()
            .collect();
    }

    /// Whether a client may ask for it.
    pub(super) fn offers(&self, method: &str) -> bool {
        method == scram::METHOD && !self.samples.is_empty()
    }
}

impl Broker {
    /// Reads a client's first message, and makes the answer to it.
    pub(super) fn begin_exchange(&mut self, data: Option<&[u8]>) -> Result<Exchange, Refusal> {
        let first = match ClientFirst::parse(data.unwrap_or_default()) {
            Ok(first) => first,
            Err(error) => return Err(self.failed(error)),
        };
        let access = &self.settings.access;
        let Authenticator {
            secret,
            nonces,
            samples,
        } = &mut self.authenticator;
        let known = access
            .users
            .as_ref()
            .and_then(|users| users.get(&first.user));
        let known = known.filter(|hash| is_verifier(hash));
        // Computed for those who are known too: the answer takes as long.
        let stable = access.secret.as_ref().unwrap_or(secret);
        let decoy = samples
            .get(stable.pick(&first.user, samples.len().max(1)))
            .map(|sample| stable.decoy(&first.user, sample));
        *nonces += 1;
        let nonce = secret.nonce(*nonces);
        let verifier = known.cloned().or(decoy);
        verifier
            .and_then(|verifier| Exchange::begin(&first, verifier, &nonce))
            .ok_or_else(|| self.failed(ScramError::Refused))
    }

    /// Asks for the proof: of a connected client if `frame`, its CONNECT, is empty.
    pub(super) fn ask_for_proof(
        &mut self,
        conn: ConnId,
        exchange: Exchange,
        frame: &[u8],
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if connection.phase == Phase::Fresh {
            connection.phase = Phase::Authenticating;
            connection.takes = Some(AUTH_PACKET_MAX);
        }
        let ours = exchange.server_first().to_owned();
        connection.exchange = Some(Box::new(Pending {
            exchange,
            frame: frame.into(),
            since: self.now.monotonic,
        }));
        connection.charge.set(connection.cost());
        self.arm_connection(conn);
        self.say(conn, ReasonCode::ContinueAuthentication, &ours, outbox); // [MQTT-4.12.0-2]
    }

    /// AUTH, or something else, before CONNACK.
    pub(super) fn on_frame_of_authentication(
        &mut self,
        conn: ConnId,
        frame: &[u8],
        outbox: &mut Outbox,
    ) {
        let packet_type = frame.first().copied().and_then(PacketType::from_first_byte);
        if !is_awaited(packet_type) {
            let why = "neither AUTH nor DISCONNECT before CONNACK"; // [MQTT-3.1.2-30]
            return self.violate(conn, ReasonCode::ProtocolError, why, outbox);
        }
        let version = crate::mqtt::ProtocolVersion::V5;
        match Packet::parse(version, frame) {
            Ok(Packet::Auth(auth)) => self.on_first_auth(conn, &auth, outbox),
            Ok(_) => {
                // It gives up. It has no session and no will yet.
                if let Some(connection) = self.connections.get_mut(conn) {
                    connection.phase = Phase::Closing;
                    connection.exchange = None;
                    connection.charge.set(connection.cost());
                }
                self.outputs.push_back(Output::Close {
                    conn,
                    how: CloseHow::AfterFlush,
                });
            }
            Err(error) => self.refuse_bytes(conn, frame, &error, outbox),
        }
    }

    /// The proof that CONNECT waits for.
    fn on_first_auth(&mut self, conn: ConnId, auth: &Auth<'_>, outbox: &mut Outbox) {
        if let Err((reason, why)) = continues(auth) {
            return self.violate(conn, reason, why, outbox);
        }
        let proven = self.prove(conn, auth);
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let (pending, ours) = match proven {
            Ok(proven) => proven,
            Err((reason, why)) => {
                // [MQTT-4.12.0-4]
                return self.refuse_connect(conn, reason, why, outbox);
            }
        };
        connection.phase = Phase::Fresh;
        connection.has_password = true;
        if let Ok(Packet::Connect(connect)) = Packet::parse(connection.version, &pending.frame) {
            let user = pending.exchange.user();
            self.enter(conn, &connect, Some(user), Some(&ours), outbox);
        }
    }

    /// AUTH of a connected client.
    pub(super) fn on_auth(
        &mut self,
        conn: ConnId,
        id: SessionId,
        auth: &Auth<'_>,
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if !connection.has_method {
            let why = "AUTH without a method"; // [MQTT-4.12.0-7]
            return self.violate(conn, ReasonCode::ProtocolError, why, outbox);
        }
        let is_pending = connection.exchange.is_some();
        if auth.reason == ReasonCode::ReAuthenticate && is_its_method(auth) && !is_pending {
            return match self.begin_exchange(auth.properties.authentication_data) {
                Ok(exchange) => self.ask_for_proof(conn, exchange, &[], outbox),
                Err((reason, why)) => self.dismiss(conn, reason, why, outbox),
            };
        }
        if let Err((reason, why)) = continues(auth) {
            return self.violate(conn, reason, why, outbox); // [MQTT-4.12.1-1]
        }
        if !is_pending {
            let why = "AUTH that continues nothing";
            return self.violate(conn, ReasonCode::ProtocolError, why, outbox);
        }
        let (pending, ours) = match self.prove(conn, auth) {
            Ok(proven) => proven,
            Err((reason, why)) => return self.dismiss(conn, reason, why, outbox),
        };
        let session = self.session_mut(id);
        if session.user.as_deref() != Some(pending.exchange.user()) {
            // Its session and its permissions are those of whom it came as.
            let (reason, why) = self.failed(ScramError::OtherIdentity);
            return self.dismiss(conn, reason, why, outbox);
        }
        log::debug!("authenticated again {}", Tag(conn, &session.client_id));
        self.say(conn, ReasonCode::Success, &ours, outbox);
    }

    /// Ends the connection of a client that has not authenticated itself again [MQTT-4.12.1-2].
    pub(super) fn dismiss(
        &mut self,
        conn: ConnId,
        reason: ReasonCode,
        why: &str,
        outbox: &mut Outbox,
    ) {
        if let Some(connection) = self.connections.get(conn) {
            let client = Tag(conn, &connection.client_id);
            log::info!("authentication failed {client}: {why}");
        }
        self.disconnect(conn, reason, why, outbox);
    }

    /// Takes the exchange to its end. What comes back is what there was, and our last message.
    fn prove(&mut self, conn: ConnId, auth: &Auth<'_>) -> Result<(Box<Pending>, String), Refusal> {
        let nothing = (ReasonCode::ProtocolError, "AUTH that continues nothing");
        let connection = self.connections.get_mut(conn).ok_or(nothing)?;
        let pending = connection.exchange.take().ok_or(nothing)?;
        connection.charge.set(connection.cost());
        let exchange = &pending.exchange;
        let user = exchange.user();
        // Who is known by a certificate as well is one and the same.
        let is_same = connection
            .identity
            .as_deref()
            .is_none_or(|name| name == user);
        // As it is now: the file may have been read again since.
        let users = self.settings.access.users.as_ref();
        let is_current = users.and_then(|users| users.get(user)) == Some(exchange.verifier());
        match exchange.finish(auth.properties.authentication_data.unwrap_or_default()) {
            Ok(ours) if is_same && is_current => Ok((pending, ours)),
            Ok(_) => Err(self.failed(ScramError::Refused)),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&mut self, error: ScramError) -> Refusal {
        self.stats.refused_logins += 1;
        (ReasonCode::NotAuthorized, error.reason_string())
    }

    /// Sends AUTH [MQTT-4.12.0-5].
    fn say(&mut self, conn: ConnId, reason: ReasonCode, data: &str, outbox: &mut Outbox) {
        let properties = AuthProperties {
            authentication_method: Some(scram::METHOD),
            authentication_data: Some(data.as_bytes()),
            ..AuthProperties::default()
        };
        let packet = Packet::Auth(Auth { reason, properties });
        self.answer(conn, Lsn(0), Kind::Other, &packet, outbox);
    }
}

/// Whether a packet of this type may come between CONNECT and CONNACK [MQTT-3.1.2-30].
pub(super) fn is_awaited(packet_type: Option<PacketType>) -> bool {
    matches!(packet_type, Some(PacketType::Auth | PacketType::Disconnect))
}

fn is_verifier(hash: &PasswordHash) -> bool {
    matches!(hash.scheme, Scheme::ScramSha256 { .. })
}

fn is_its_method(auth: &Auth<'_>) -> bool {
    auth.properties.authentication_method == Some(scram::METHOD)
}

/// Whether this AUTH may go on with an exchange.
fn continues(auth: &Auth<'_>) -> Result<(), Refusal> {
    if auth.properties.authentication_method.is_some() && !is_its_method(auth) {
        let why = "another method than CONNECT's"; // [MQTT-4.12.0-5]
        return Err((ReasonCode::BadAuthenticationMethod, why));
    }
    if auth.reason != ReasonCode::ContinueAuthentication {
        let why = "AUTH that does not continue"; // [MQTT-4.12.0-3]
        return Err((ReasonCode::ProtocolError, why));
    }
    Ok(())
}
