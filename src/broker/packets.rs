//! What each packet of a client does. CONNECT, PUBLISH and SUBSCRIBE have files of their own.

use super::connection::{Pause, Phase, Tag};
use super::inflight::Acked;
use super::keep::Stage;
use super::queue::Reference;
use super::session::{NEVER, Session};
use super::settings::PublishQuota;
use super::settle::Kind;
use super::{Broker, CloseHow, Fate, Output};
use crate::buffer::{Outbox, Payload};
use crate::id::{ConnId, Lsn, SessionId};
use crate::mqtt::{
    Ack, Disconnect, Packet, PacketId, PacketType, ProtocolVersion, Publish, ReasonCode,
};

impl Broker {
    /// One whole packet. `shared` is the same bytes where they were large enough to be read into a
    /// buffer of their own.
    pub(super) fn on_frame(
        &mut self,
        conn: ConnId,
        frame: &[u8],
        shared: Option<&Payload>,
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        self.stats.packets_received += 1;
        connection.heard_at = self.now.monotonic;
        let (phase, version) = (connection.phase, connection.version);
        let packet_type = frame.first().copied().and_then(PacketType::from_first_byte);
        match phase {
            Phase::Closing | Phase::Verifying => {}
            Phase::Authenticating => self.on_frame_of_authentication(conn, frame, outbox),
            Phase::Fresh if packet_type != Some(PacketType::Connect) => {
                let why = "the first packet is not CONNECT"; // [MQTT-3.1.0-1]
                self.violate(conn, ReasonCode::ProtocolError, why, outbox);
            }
            Phase::Fresh => match Packet::parse(version, frame) {
                Ok(Packet::Connect(connect)) => self.on_connect(conn, &connect, frame, outbox),
                Ok(_) => {}
                Err(error) => self.refuse_bytes(conn, frame, &error, outbox),
            },
            Phase::Live(session) if packet_type == Some(PacketType::Publish) => {
                if self.settings.publish_quota != PublishQuota::default() {
                    self.note_published(conn, frame.len());
                }
                match Publish::parse(version, frame) {
                    Ok(publish) => {
                        let body = shared.map(|shared| {
                            shared.slice(frame.len() - publish.payload.len()..frame.len())
                        });
                        self.on_publish(conn, session, &publish, body, outbox);
                    }
                    Err(error) => self.refuse_bytes(conn, frame, &error, outbox),
                }
            }
            // Whatever it says: [MQTT-3.1.0-2]
            Phase::Live(_) if packet_type == Some(PacketType::Connect) => {
                self.not_allowed(conn, "a second CONNECT", outbox);
            }
            Phase::Live(session) => {
                if let Some((packet_type, packet_id)) = Ack::parse_short(frame) {
                    return self.on_short_ack(conn, session, packet_type, packet_id, outbox);
                }
                match Packet::parse(version, frame) {
                    Ok(packet) => self.on_packet(conn, session, version, &packet, outbox),
                    Err(error) => self.refuse_bytes(conn, frame, &error, outbox),
                }
            }
        }
    }

    /// What [`Broker::on_packet`] does with an acknowledgement that says nothing but Success.
    fn on_short_ack(
        &mut self,
        conn: ConnId,
        session: SessionId,
        packet_type: PacketType,
        packet_id: PacketId,
        outbox: &mut Outbox,
    ) {
        let ack = Ack::success(packet_id);
        match packet_type {
            PacketType::Puback => self.on_puback(conn, session, &ack, outbox),
            PacketType::Pubrec => self.on_pubrec(conn, session, &ack, outbox),
            PacketType::Pubrel => self.on_pubrel(conn, session, packet_id, outbox),
            _ => self.on_pubcomp(conn, session, packet_id, outbox),
        }
    }

    /// A client has published: if that is more than its quota, this is the last of it for a while.
    fn note_published(&mut self, conn: ConnId, len: usize) {
        let now = self.now.monotonic;
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let until = connection
            .published
            .note(now, &self.settings.publish_quota, len);
        if let Some(until) = until.filter(|_| connection.pause == Pause::No) {
            connection.pause = Pause::Quota(until);
            self.stats.pauses += 1;
            self.stats.quota_pauses += 1;
            self.arm_connection(conn);
        }
    }

    fn on_packet(
        &mut self,
        conn: ConnId,
        session: SessionId,
        version: ProtocolVersion,
        packet: &Packet<'_>,
        outbox: &mut Outbox,
    ) {
        match packet {
            Packet::Puback(ack) => self.on_puback(conn, session, ack, outbox),
            Packet::Pubrec(ack) => self.on_pubrec(conn, session, ack, outbox),
            Packet::Pubrel(ack) => self.on_pubrel(conn, session, ack.packet_id, outbox),
            Packet::Pubcomp(ack) => self.on_pubcomp(conn, session, ack.packet_id, outbox),
            Packet::Subscribe(subscribe) => self.on_subscribe(conn, session, subscribe, outbox),
            Packet::Unsubscribe(unsubscribe) => {
                self.on_unsubscribe(conn, session, unsubscribe, outbox);
            }
            // [MQTT-3.12.4-1]
            Packet::Pingreq => self.answer(conn, Lsn(0), Kind::Other, &Packet::Pingresp, outbox),
            Packet::Disconnect(disconnect) => self.on_disconnect(conn, disconnect, outbox),
            Packet::Auth(auth) => self.on_auth(conn, session, auth, outbox),
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp
            | Packet::Publish(_) => {
                let what = format!("{} from a client of {version}", packet.packet_type());
                self.not_allowed(conn, &what, outbox);
            }
        }
    }

    fn not_allowed(&mut self, conn: ConnId, what: &str, outbox: &mut Outbox) {
        self.violate(conn, ReasonCode::ProtocolError, what, outbox);
    }

    fn on_puback(&mut self, conn: ConnId, id: SessionId, ack: &Ack<'_>, outbox: &mut Outbox) {
        let acked = self.session_mut(id).inflight.puback(ack.packet_id);
        self.on_acked(conn, id, acked, ack, outbox);
    }

    fn on_pubrec(&mut self, conn: ConnId, id: SessionId, ack: &Ack<'_>, outbox: &mut Outbox) {
        let inflight = &mut self.session_mut(id).inflight;
        let sequence = inflight.sequence_of(ack.packet_id);
        let acked = if ack.reason.is_error() {
            inflight.pubrec_failed(ack.packet_id)
        } else {
            inflight.pubrec(ack.packet_id)
        };
        let answer = match &acked {
            Acked::Release(_) => Some(ReasonCode::Success), // [MQTT-4.3.3-4]
            // In 3.1.1 there is no other way for the client to be rid of it.
            Acked::Unknown if !ack.reason.is_error() => Some(ReasonCode::PacketIdentifierNotFound),
            Acked::Done(_) | Acked::Unknown => None,
        };
        let mut lsn = Lsn(0);
        match acked {
            Acked::Release(Some(_)) => {
                let released = self.keep_sent(id, ack.packet_id, Stage::Released, sequence);
                lsn = released.unwrap_or_default();
            }
            // It came before, and may not be synced yet.
            Acked::Release(None) => lsn = self.settle.last(),
            Acked::Done(_) => self.forget_sent(id, sequence),
            Acked::Unknown => {}
        }
        self.on_acked(conn, id, acked, ack, outbox);
        if let Some(reason) = answer {
            let pubrel = Packet::Pubrel(Ack::new(ack.packet_id, reason));
            self.answer(conn, lsn, Kind::Other, &pubrel, outbox);
        }
    }

    fn on_pubcomp(
        &mut self,
        conn: ConnId,
        id: SessionId,
        packet_id: PacketId,
        outbox: &mut Outbox,
    ) {
        let inflight = &mut self.session_mut(id).inflight;
        let sequence = inflight.sequence_of(packet_id);
        let acked = inflight.pubcomp(packet_id);
        if matches!(acked, Acked::Done(_)) {
            self.sent_is_over(id, packet_id, sequence);
        }
        self.on_acked(conn, id, acked, &Ack::success(packet_id), outbox);
    }

    fn on_acked(
        &mut self,
        conn: ConnId,
        id: SessionId,
        acked: Acked,
        ack: &Ack<'_>,
        outbox: &mut Outbox,
    ) {
        let gone: Option<Reference> = match acked {
            Acked::Done(reference) => {
                let session = self.session_mut(id);
                if let Some(link) = &mut session.link {
                    // Never above what it started with (4.9).
                    link.unacknowledged = link.unacknowledged.saturating_sub(1);
                }
                if session.has_work() {
                    outbox.wake(conn);
                }
                reference
            }
            Acked::Release(reference) => reference,
            Acked::Unknown => {
                self.stats.unknown_packet_ids += 1;
                None
            }
        };
        if ack.reason.is_error() {
            let client = &self.session_mut(id).client_id;
            log::debug!(
                "subscriber refused a message {} reason={}",
                Tag(conn, client),
                ack.reason
            );
        }
        if let Some(reference) = gone {
            self.let_go(id, &reference);
        }
    }

    /// A QoS 2 message is released by its sender [MQTT-4.3.3-11].
    fn on_pubrel(&mut self, conn: ConnId, id: SessionId, packet_id: PacketId, outbox: &mut Outbox) {
        let was_known = self.session_mut(id).received.release(packet_id);
        let before = self.settle.last();
        self.forget_received(id, packet_id);
        let lsn = self.logged_since(before);
        let reason = if was_known {
            ReasonCode::Success
        } else {
            self.stats.unknown_packet_ids += 1;
            ReasonCode::PacketIdentifierNotFound
        };
        let pubcomp = Packet::Pubcomp(Ack::new(packet_id, reason));
        self.answer(conn, lsn, Kind::Pubcomp, &pubcomp, outbox);
    }

    fn on_disconnect(&mut self, conn: ConnId, disconnect: &Disconnect<'_>, outbox: &mut Outbox) {
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        let Phase::Live(id) = connection.phase else {
            return;
        };
        if let Some(asked) = disconnect.properties.session_expiry_interval {
            if connection.ends_session && asked > 0 {
                // It was 0 in CONNECT, and the session's end cannot be put off now (3.14.2.2.2).
                let why = "a session expiry in DISCONNECT after none in CONNECT";
                return self.violate(conn, ReasonCode::ProtocolError, why, outbox);
            }
            let granted = self.session_expiry_granted(asked);
            self.session_mut(id).expiry_seconds = granted;
            self.keep_session(id);
        }
        let fate = if disconnect.reason == ReasonCode::NORMAL_DISCONNECTION {
            Fate::Discard // [MQTT-3.14.4-3]
        } else {
            Fate::Publish
        };
        let session = self.session_mut(id);
        log::info!(
            "disconnected {} reason={} session={}",
            Tag(conn, &session.client_id),
            disconnect.reason,
            Expiry(session.expiry_seconds),
        );
        self.detach(conn, fate);
        self.outputs.push_back(Output::Close {
            conn,
            how: CloseHow::AfterFlush,
        });
    }

    /// The session of a live connection.
    pub(super) fn session_mut(&mut self, id: SessionId) -> &mut Session {
        self.sessions
            .get_mut(id)
            .expect("a live connection has a session")
    }
}

/// `ends`, `stays`, or the seconds that it stays.
struct Expiry(u32);

impl core::fmt::Display for Expiry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            0 => f.write_str("ends"),
            NEVER => f.write_str("stays"),
            seconds => write!(f, "{seconds}s"),
        }
    }
}
