//! What may leave only after the journal has synced: one queue of (sequence number, connection,
//! answer).
//!
//! Answers leave in order per connection. An answer that waits for nothing, on a connection where
//! nothing waits, is written at once; every other becomes bytes in [`Broker::end_turn`], when the
//! synced mark has passed it. Without a journal the mark is always current, so nothing waits longer
//! than a turn.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::connection::{Connection, Pause, Phase};
use super::{Broker, CloseHow, Fate, Output};
use crate::buffer::Outbox;
use crate::id::{ConnId, Lsn};
use crate::mqtt::{Disconnect, Packet, ReasonCode};

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Settle {
    /// Invariant: sequence numbers do not fall.
    waiting: VecDeque<Waiting>,
    /// Everything at or below this has been synced.
    synced: Lsn,
    /// The last number that was given out.
    last: Lsn,
}

#[derive(Debug)]
struct Waiting {
    lsn: Lsn,
    conn: ConnId,
    kind: Kind,
    /// Encoded when it was made; most answers have four bytes.
    bytes: SmallVec<[u8; 16]>,
}

/// What follows when an answer becomes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection is open for deliveries.
    Connack,
    /// A QoS 1 PUBLISH, or a QoS 2 PUBLISH that was refused, is over.
    PublishDone,
    /// A QoS 2 PUBLISH is ours, but not released.
    PublishTaken,
    /// A QoS 2 PUBLISH is over.
    Pubcomp,
    /// Nothing.
    Other,
    /// The last word: the connection is closed once it is flushed.
    Last,
}

impl Kind {
    /// Whether it answers a PUBLISH.
    const fn is_of_publish(self) -> bool {
        matches!(self, Self::PublishDone | Self::PublishTaken)
    }
}

impl Settle {
    /// A number for a change that the journal is to keep.
    pub(super) fn log(&mut self) -> Lsn {
        self.last.0 += 1;
        self.last
    }

    pub(super) fn last(&self) -> Lsn {
        self.last
    }

    pub(super) fn synced(&self) -> Lsn {
        self.synced
    }

    /// Who waits for this, or for it and what was changed with it.
    pub(super) fn waiting_for(&self, lsn: Lsn) -> Vec<ConnId> {
        // An answer waits for the last of the changes that it stands for.
        let first = self.waiting.partition_point(|waiting| waiting.lsn < lsn);
        let of = self.waiting.get(first).map(|waiting| waiting.lsn);
        let rest = self.waiting.iter().skip(first);
        let waiting = rest.take_while(|waiting| Some(waiting.lsn) == of);
        waiting.map(|waiting| waiting.conn).collect()
    }

    /// Nothing that waits for this connection is ever said: what it stands for has not come true.
    pub(super) fn silence(&mut self, conn: ConnId) {
        let waiting = self.waiting.iter_mut();
        for answer in waiting.filter(|answer| answer.conn == conn) {
            answer.bytes.clear();
        }
    }

    /// How many wait: for `check_invariants`.
    #[cfg(debug_assertions)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Broker {
    /// Sends an answer after the sync of `lsn`; [`Lsn`] 0 waits for nothing. What is too large for
    /// the client even without its diagnostics cannot be sent [MQTT-3.1.2-24]; the client is
    /// disconnected then.
    pub(super) fn answer(
        &mut self,
        conn: ConnId,
        lsn: Lsn,
        kind: Kind,
        packet: &Packet<'_>,
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if connection.phase == Phase::Closing && kind != Kind::Last {
            return; // Nothing follows a goodbye [MQTT-3.14.4-1].
        }
        let (version, limit) = (connection.version, connection.max_packet_size);
        if let Some(bytes) = packet.encode_short(version)
            && limit >= bytes.len() as u32
        {
            return self.answer_short(conn, lsn, kind, bytes, outbox);
        }
        let is_diagnostic = matches!(packet, Packet::Connack(_) | Packet::Disconnect(_));
        let packet = if connection.wants_diagnostics || is_diagnostic {
            *packet
        } else {
            packet.without_diagnostics() // [MQTT-3.1.2-29]
        };
        let Some(packet) = packet.fit(version, limit) else {
            match kind {
                Kind::Last => self.last_word(conn, outbox),
                Kind::Connack => {
                    // Nothing is said before CONNACK, a goodbye neither [MQTT-3.14.0-1], and who
                    // was never told of a connection has no will.
                    self.detach(conn, Fate::Discard);
                    self.last_word(conn, outbox);
                }
                _ => {
                    let why = "an answer is too large";
                    self.disconnect(conn, ReasonCode::PacketTooLarge, why, outbox);
                }
            }
            return;
        };
        let len = packet.encoded_len(version);
        if connection.waiting == 0 && lsn <= self.settle.synced {
            if let Some(queue) = outbox.write(conn) {
                packet.encode(version, queue.reserve(len));
                self.stats.answers_sent += 1;
            }
            self.answered(conn, kind, outbox);
            return;
        }
        let mut bytes = SmallVec::from_elem(0, len);
        packet.encode(version, &mut bytes);
        self.push_waiting(conn, lsn, kind, bytes);
    }

    /// As [`Broker::answer`], with what needs no look at what the client takes.
    fn answer_short(
        &mut self,
        conn: ConnId,
        lsn: Lsn,
        kind: Kind,
        bytes: [u8; 4],
        outbox: &mut Outbox,
    ) {
        let waits = |connection: &Connection| connection.waiting > 0 || lsn > self.settle.synced;
        if self.connections.get(conn).is_some_and(waits) {
            return self.push_waiting(conn, lsn, kind, SmallVec::from_slice(&bytes));
        }
        if let Some(queue) = outbox.write(conn) {
            queue.reserve(bytes.len()).copy_from_slice(&bytes);
            self.stats.answers_sent += 1;
        }
        self.answered(conn, kind, outbox);
    }

    /// Closes a connection whose last word cannot be said, in its turn.
    pub(super) fn last_word(&mut self, conn: ConnId, outbox: &mut Outbox) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if connection.waiting == 0 {
            self.answered(conn, Kind::Last, outbox);
        } else {
            self.push_waiting(conn, Lsn(0), Kind::Last, SmallVec::new());
        }
    }

    /// Says goodbye in 5.0 and closes in both versions. The caller has taken the session off the
    /// connection.
    pub(super) fn goodbye(
        &mut self,
        conn: ConnId,
        reason: ReasonCode,
        why: &str,
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if !connection.version.is_v5() {
            return self.last_word(conn, outbox);
        }
        let redirect = connection.redirect.clone();
        let mut disconnect = Disconnect::new(reason);
        // (3.14.2.2.5)
        disconnect.properties.server_reference =
            redirect.as_ref().and_then(|it| it.reference_for(reason));
        if !why.is_empty() {
            disconnect.properties.reason_string = Some(why);
        }
        let packet = Packet::Disconnect(disconnect);
        self.answer(conn, Lsn(0), Kind::Last, &packet, outbox);
    }

    /// Acknowledgements at or below the mark become bytes.
    pub(super) fn settle_to(&mut self, synced: Lsn, outbox: &mut Outbox) {
        assert!(synced >= self.settle.synced, "what was synced stays synced");
        self.settle.synced = synced;
        while let Some(front) = self.settle.waiting.front() {
            if front.lsn > synced {
                break;
            }
            let Some(Waiting {
                conn, kind, bytes, ..
            }) = self.settle.waiting.pop_front()
            else {
                break;
            };
            let Some(connection) = self.connections.get_mut(conn) else {
                // It is gone, and the session's state says what to do on the next one.
                continue;
            };
            connection.waiting -= 1;
            if kind.is_of_publish() {
                connection.unsettled -= 1;
            }
            if !bytes.is_empty()
                && let Some(queue) = outbox.write(conn)
            {
                queue.reserve(bytes.len()).copy_from_slice(&bytes);
                self.stats.answers_sent += 1;
            }
            self.answered(conn, kind, outbox);
        }
        self.release_held(synced, outbox);
    }

    fn push_waiting(&mut self, conn: ConnId, lsn: Lsn, kind: Kind, bytes: SmallVec<[u8; 16]>) {
        let before = self.settle.waiting.back().map_or(Lsn(0), |last| last.lsn);
        self.settle.waiting.push_back(Waiting {
            lsn: lsn.max(before),
            conn,
            kind,
            bytes,
        });
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.waiting += 1;
            if kind.is_of_publish() {
                connection.unsettled += 1;
            }
        }
    }

    /// An answer has become bytes.
    fn answered(&mut self, conn: ConnId, kind: Kind, outbox: &mut Outbox) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        match kind {
            Kind::PublishDone | Kind::Pubcomp => {
                // Never above what it started with (4.9), so never below zero here.
                connection.unacknowledged = connection.unacknowledged.saturating_sub(1);
            }
            Kind::Connack => {
                if let Phase::Live(session) = connection.phase
                    && let Some(session) = self.sessions.get_mut(session)
                    && let Some(link) = &mut session.link
                {
                    link.is_open = true;
                    if session.has_work() {
                        outbox.wake(conn);
                    }
                }
            }
            Kind::Last => self.outputs.push_back(Output::Close {
                conn,
                how: CloseHow::AfterFlush,
            }),
            Kind::PublishTaken | Kind::Other => {}
        }
        if connection.pause == Pause::Unsettled
            && connection.unsettled < u32::from(connection.receive_maximum)
        {
            connection.pause = Pause::Over;
            self.resumed.push_back(conn);
        }
    }
}
