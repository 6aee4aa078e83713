//! Pulling: what a connection is sent when its socket can take it.
//!
//! First what a resumed session sends again, in the order of the first time; then the queue. A
//! message of QoS 1 or 2 goes only while the client's Receive Maximum has room; behind one that has
//! to wait everything waits, for order's sake.

use super::inflight::Stage;
use super::message::{Draw, Stored};
use super::queue::{Entry, Identifiers, Reference};
use super::retained::Seen;
use super::session::Link;
use super::{Broker, Output, aliases, keep};
use crate::buffer::{Outbox, SendQueue};
use crate::id::{ConnId, MessageId, SessionId};
use crate::mqtt::{Ack, Packet, PacketId, PublishProperties, QoS, SubscriptionIdentifiers};
use crate::time::Now;

use super::connection::Phase;

/// Retained topics that one call looks at; the rest waits for the next.
const SCAN_MAX: usize = 2000;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Something was sent, or dropped: go on.
    Done,
    /// Nothing more before an acknowledgement or a fetch, which wake the connection themselves.
    Blocked,
    /// There is more, but not in this call.
    Later,
    /// There is no more.
    Empty,
}

impl Broker {
    /// Draws what waits for this connection and encodes it, until its send queue holds `budget`
    /// bytes. Says in the queue whether there is more.
    pub fn fill(&mut self, now: Now, conn: ConnId, budget: usize, outbox: &mut Outbox) {
        self.now = now;
        let Some(queue) = outbox.queue_mut(conn) else {
            return;
        };
        queue.set_more(false);
        let Some(Phase::Live(id)) = self
            .connections
            .get(conn)
            .map(|connection| connection.phase)
        else {
            return;
        };
        let is_open = |link: &Link| link.is_open;
        if !self
            .sessions
            .get(id)
            .is_some_and(|session| session.has_work() && session.link.as_ref().is_some_and(is_open))
        {
            return;
        }
        let mut scan = SCAN_MAX;
        while queue.len() < budget {
            match self.step(id, queue, &mut scan) {
                Step::Done => {}
                Step::Blocked | Step::Empty => {
                    self.look_at(id);
                    return self.finish(outbox);
                }
                Step::Later => break,
            }
        }
        self.look_at(id);
        queue.set_more(self.sessions.get(id).is_some_and(super::Session::has_work));
        self.finish(outbox);
    }

    fn step(&mut self, id: SessionId, queue: &mut SendQueue, scan: &mut usize) -> Step {
        match self.resend(id, queue) {
            Step::Empty => {}
            other => return other,
        }
        match self.send_settled(id, queue) {
            Step::Empty => self.draw(id, queue, scan),
            other => other,
        }
    }

    /// Sends a QoS 2 message of which it is synced by now that it is under way.
    fn send_settled(&mut self, id: SessionId, queue: &mut SendQueue) -> Step {
        let synced = self.settle.synced();
        let Some((session, link)) = open_session(&mut self.sessions, id) else {
            return Step::Empty;
        };
        let Some((order, _)) = link
            .unsent
            .front()
            .copied()
            .filter(|(_, lsn)| *lsn <= synced)
        else {
            return Step::Empty;
        };
        if let Some(sent) = session.inflight.first_since(order)
            && sent.order == order
            && let Stage::Published(reference) = &sent.stage
        {
            let stored = match self.messages.draw(reference.message, id) {
                Draw::Ready(stored) => stored,
                Draw::Pending(fetch) => return pending(&mut self.outputs, &mut self.stats, fetch),
            };
            let sending = Sending {
                dup: false,
                qos: reference.qos,
                retain: reference.retain,
                packet_id: Some(sent.packet_id),
                identifiers: &reference.identifiers,
            };
            // It fitted when it was drawn, and only grows shorter.
            sending.write(stored, link, self.now, queue);
            self.stats.publishes_sent += 1;
        }
        link.unsent.pop_front();
        Step::Done
    }

    /// Sends one unacknowledged packet again, with its identifier [MQTT-4.4.0-1].
    fn resend(&mut self, id: SessionId, queue: &mut SendQueue) -> Step {
        let Some((session, link)) = open_session(&mut self.sessions, id) else {
            return Step::Empty;
        };
        let Some(from) = link.resend_from else {
            return Step::Empty;
        };
        let Some(sent) = session.inflight.first_since(from) else {
            link.resend_from = None;
            return Step::Empty;
        };
        let (order, packet_id) = (sent.order, sent.packet_id);
        match &sent.stage {
            Stage::Released if order < link.released_before => {}
            Stage::Released => release_again(packet_id, link, queue, &mut self.stats),
            Stage::Published(reference) => {
                if link.unacknowledged >= link.window {
                    return release_ahead(session.inflight, order, link, queue, &mut self.stats);
                }
                let stored = match self.messages.draw(reference.message, id) {
                    Draw::Ready(stored) => stored,
                    Draw::Pending(fetch) => {
                        return pending(&mut self.outputs, &mut self.stats, fetch);
                    }
                };
                let resent = Sending {
                    dup: true, // [MQTT-3.3.1-1]
                    qos: reference.qos,
                    retain: reference.retain,
                    packet_id: Some(packet_id),
                    identifiers: &reference.identifiers,
                };
                if resent.write(stored, link, self.now, queue) {
                    link.unacknowledged += 1;
                    self.stats.publishes_sent += 1;
                    self.stats.retransmissions += 1;
                } else {
                    // The client has come back and takes less than before [MQTT-3.1.2-25].
                    link.resend_from = Some(order + 1);
                    let gone = session.inflight.remove(order);
                    self.stats.dropped_too_large += 1;
                    if let Some(sent) = gone
                        && let Stage::Published(reference) = sent.stage
                    {
                        self.forget_sent(id, sent.sequence);
                        self.let_go(id, &reference);
                    }
                    return Step::Done;
                }
            }
        }
        link.resend_from = Some(order + 1);
        Step::Done
    }

    /// Sends the next message of the queue.
    fn draw(&mut self, id: SessionId, queue: &mut SendQueue, scan: &mut usize) -> Step {
        let now = self.now;
        let Some((session, link)) = open_session(&mut self.sessions, id) else {
            return Step::Empty;
        };
        // What is next is drawn back first, if nothing is in memory before it.
        let at_end = if session.queue.is_spilling() {
            Step::Blocked
        } else {
            Step::Empty
        };
        let (reference, is_replay) = match session.queue.front_mut() {
            None => return at_end,
            Some(Entry::Message(reference)) => (reference.clone(), false),
            Some(Entry::Replay(replay)) => match replay.look(&self.retained, scan) {
                Seen::Tired => return Step::Later,
                Seen::Done => {
                    session.queue.pop();
                    return Step::Done;
                }
                Seen::Message(message) => {
                    let stored = self.messages.get(message);
                    let subscription = &replay.subscription;
                    let is_own = stored.origin == super::Origin::Client(id);
                    let is_allowed = session
                        .permissions
                        .is_none_or(|permissions| permissions.may_receive(stored.message.topic()));
                    if (subscription.no_local && is_own) || !is_allowed {
                        replay.advance(); // [MQTT-3.8.3-3]
                        self.stats.refused_deliveries += u64::from(!is_allowed);
                        return Step::Done;
                    }
                    let reference = Reference {
                        message,
                        qos: stored.message.qos().min(subscription.maximum_qos),
                        retain: true,
                        is_again: false,
                        identifiers: subscription.identifier.into_iter().collect(),
                        share: None,
                        cost: stored.cost(),
                        sequence: 0,
                    };
                    (reference, true)
                }
            },
        };
        // It is sent once, also if the power fails meanwhile (4.3.3).
        let waits = reference.qos == QoS::ExactlyOnce && reference.sequence != 0;
        let is_expired = self.messages.get(reference.message).is_expired(now);
        let has_room = self.keeper.as_ref().is_none_or(|keeper| keeper.may_begin());
        if waits && !is_expired && !has_room {
            return Step::Blocked;
        }
        if !waits && !link.unsent.is_empty() {
            return Step::Blocked; // Behind those that wait for their sync.
        }
        if !is_expired && reference.qos > QoS::AtMostOnce && link.unacknowledged >= link.window {
            return Step::Blocked; // [MQTT-3.3.4-9]
        }
        // Who acknowledges nothing holds as many bytes again as may wait for it, and no more.
        let is_full = session.inflight.bytes() >= self.settings.queue.bytes;
        if !is_expired && reference.qos > QoS::AtMostOnce && is_full {
            return Step::Blocked;
        }
        let was_sent = if is_expired {
            self.stats.dropped_expired += 1; // [MQTT-3.3.2-5]
            None
        } else {
            let stored = match self.messages.draw(reference.message, id) {
                Draw::Ready(stored) => stored,
                Draw::Pending(fetch) => return pending(&mut self.outputs, &mut self.stats, fetch),
            };
            let mut sending = Sending {
                dup: reference.is_again,
                qos: reference.qos,
                retain: reference.retain,
                packet_id: (reference.qos > QoS::AtMostOnce).then_some(PacketId::FIRST),
                identifiers: &reference.identifiers,
            };
            let fits = sending.fits(stored, link, now);
            if fits {
                if reference.qos > QoS::AtMostOnce {
                    sending.packet_id = Some(session.inflight.unused_id());
                    link.unacknowledged += 1;
                }
                if !waits {
                    sending.write(stored, link, now, queue);
                    self.stats.publishes_sent += 1;
                }
            } else {
                self.stats.dropped_too_large += 1; // [MQTT-3.1.2-25]
            }
            Some(fits)
        };
        let is_kept = was_sent == Some(true) && reference.qos > QoS::AtMostOnce;
        if is_replay {
            if let Some(Entry::Replay(replay)) = session.queue.front_mut() {
                replay.advance();
            }
            if is_kept {
                self.messages.retain(reference.message);
            }
        } else {
            session.queue.pop();
            self.queued -= 1;
            self.queued_bytes -= reference.cost;
            if !is_kept {
                self.let_go(id, &reference);
                return Step::Done;
            }
        }
        if is_kept {
            let sequence = reference.sequence;
            let packet_id = session.inflight.send(reference);
            let order = session.inflight.last_order();
            if waits {
                let lsn = self.keep_sent(id, packet_id, keep::Stage::Published, sequence);
                let lsn = lsn.unwrap_or_default();
                if let Some((_, link)) = open_session(&mut self.sessions, id) {
                    link.unsent.push_back((order, lsn));
                }
                self.hold(lsn, keep::Held::Session(id, order));
            }
        }
        Step::Done
    }
}

fn open_session(
    sessions: &mut crate::slab::GenSlab<SessionId, super::Session>,
    id: SessionId,
) -> Option<(SessionParts<'_>, &mut Link)> {
    let session = sessions.get_mut(id)?;
    let parts = SessionParts {
        permissions: session.permissions.as_deref(),
        queue: &mut session.queue,
        inflight: &mut session.inflight,
    };
    Some((parts, session.link.as_mut()?))
}

/// Sends a PUBREL again.
fn release_again(
    packet_id: PacketId,
    link: &mut Link,
    queue: &mut SendQueue,
    stats: &mut super::Stats,
) {
    let packet = Packet::Pubrel(Ack::success(packet_id));
    let len = packet.encoded_len(link.version);
    packet.encode(link.version, queue.reserve(len));
    stats.answers_sent += 1;
    // Its PUBLISH is not over before PUBCOMP, which gives one back: it counts on this connection as
    // it did on the last [MQTT-3.3.4-9].
    link.unacknowledged += 1;
}

/// Sends the next PUBREL behind a publication that has to wait for room: only publications may
/// [MQTT-3.3.4-10].
fn release_ahead(
    inflight: &super::inflight::Inflight,
    from: u64,
    link: &mut Link,
    queue: &mut SendQueue,
    stats: &mut super::Stats,
) -> Step {
    let from = link.released_before.max(from);
    let is_next = |stage: &Stage| matches!(stage, Stage::Released);
    let next = inflight
        .iter()
        .find(|sent| sent.order >= from && is_next(&sent.stage));
    let Some(sent) = next else {
        return Step::Blocked;
    };
    release_again(sent.packet_id, link, queue, stats);
    link.released_before = sent.order + 1;
    Step::Done
}

/// What a draw changes in a session, beside its link.
struct SessionParts<'a> {
    permissions: Option<&'a super::access::Permissions>,
    queue: &'a mut super::queue::Queue,
    inflight: &'a mut super::inflight::Inflight,
}

fn pending(
    outputs: &mut std::collections::VecDeque<Output>,
    stats: &mut super::Stats,
    fetch: Option<MessageId>,
) -> Step {
    if let Some(message) = fetch {
        stats.fetches += 1;
        outputs.push_back(Output::Fetch { message });
    }
    Step::Blocked
}

/// A kept message on its way to one client.
struct Sending<'a> {
    dup: bool,
    qos: QoS,
    retain: bool,
    packet_id: Option<PacketId>,
    identifiers: &'a Identifiers,
}

impl Sending<'_> {
    fn publish<'p>(
        &'p self,
        stored: &'p Stored,
        link: &Link,
        now: Now,
    ) -> crate::mqtt::Publish<'p> {
        let publish = stored.message.as_publish(link.version, now.monotonic);
        crate::mqtt::Publish {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            properties: PublishProperties {
                subscription_identifiers: SubscriptionIdentifiers::from_slice(self.identifiers),
                ..publish.properties
            },
            ..publish
        }
    }

    /// Whether the client takes a packet of this size.
    fn fits(&self, stored: &Stored, link: &Link, now: Now) -> bool {
        let publish = self.publish(stored, link, now);
        let (payload, limit) = (publish.payload.len(), link.max_packet_size as usize);
        let aliases = link.aliases.as_deref();
        aliases::fits(aliases, link.version, &publish, payload, limit)
    }

    /// Writes it, small bodies by copy and large ones by reference. `false`, and nothing is
    /// written, if it is larger than the client takes.
    fn write(&self, stored: &Stored, link: &mut Link, now: Now, queue: &mut SendQueue) -> bool {
        let publish = self.publish(stored, link, now);
        let payload = stored.message.payload();
        let (version, limit) = (link.version, link.max_packet_size as usize);
        let aliases = link.aliases.as_deref_mut();
        if !aliases::write_head(aliases, version, &publish, payload.len(), limit, queue) {
            return false;
        }
        queue.push_payload(payload);
        true
    }
}
