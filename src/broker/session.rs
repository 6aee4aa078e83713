//! A client's session: what outlives its connection.
//!
//! Its subscriptions lie in the trie, under [`Taker::Session`](super::Taker::Session). Here are the
//! queue, what is unacknowledged in both directions, and, while the client is connected, what its
//! connection takes.

use std::collections::VecDeque;
use std::rc::Rc;

use super::access::Permissions;
use super::aliases::Aliases;
use super::inflight::Inflight;
use super::keep::{Kept, Key};
use super::queue::Queue;
use crate::buffer::{Charge, Memory};
use crate::id::{ConnId, Lsn, ShareId};
use crate::mqtt::{ApplicationMessage, PacketId, ProtocolVersion};
use crate::time::{Duration, Instant};

/// The Session Expiry Interval that means for ever (3.1.2.11.2).
pub(super) const NEVER: u32 = u32::MAX;

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client_id: Rc<str>,
    /// Whose it is: nobody else may go on with it.
    pub(super) user: Option<Rc<str>>,
    /// Its place in what outlives the process, if it does.
    pub(super) kept: Option<Kept>,
    /// What its client may do; `None` while there are no rules.
    pub(super) permissions: Option<Rc<Permissions>>,
    /// While a client is connected.
    pub(super) link: Option<Link>,
    /// Seconds that it outlives its connection; [`NEVER`] is for ever.
    pub(super) expiry_seconds: u32,
    /// When it ends, while no client is connected.
    pub(super) expires_at: Instant,
    /// The will of a client that is gone, until it is due. Invariant: only without a link.
    pub(super) will: Option<WaitingWill>,
    /// The earliest timer of this session in the heap.
    pub(super) armed: Instant,
    pub(super) queue: Queue,
    pub(super) inflight: Inflight,
    pub(super) received: Received,
    /// Sequence numbers of QoS 2 messages that are over and have older ones before them that are
    /// not: until those are, it must not be forgotten that these are. In order.
    pub(super) over: Vec<u64>,
    /// Something of it may not be kept, for the journal did not take it.
    pub(super) is_unsure: bool,
    /// What is spilled is drawn back though its client is away.
    pub(super) is_searched: bool,
    /// The groups that it is a member of.
    pub(super) shares: Vec<ShareId>,
    /// For itself; its queue is charged where it grows.
    _charge: Charge,
}

/// What the connected client takes. It lies here rather than with the connection because every
/// delivery looks at it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) version: ProtocolVersion,
    /// The client's Maximum Packet Size.
    pub(super) max_packet_size: u32,
    /// The client's Receive Maximum, or ours in its stead.
    pub(super) window: u16,
    /// PUBLISH packets of QoS 1 and 2 sent on this connection and not acknowledged (4.9), and
    /// those of the last one that were released again on this.
    pub(super) unacknowledged: u16,
    /// What stands for topics in what it is sent; `None`: nothing may.
    pub(super) aliases: Option<Box<Aliases>>,
    /// CONNACK is written; nothing may be sent before [MQTT-3.2.0-1].
    pub(super) is_open: bool,
    /// While a resumed session sends again: everything before this order has been.
    pub(super) resend_from: Option<u64>,
    /// Of the unacknowledged ones, by order: not sent yet, and when they may be.
    pub(super) unsent: VecDeque<(u64, Lsn)>,
    /// And every PUBREL before this order, some ahead of publications that wait for room.
    pub(super) released_before: u64,
}

/// A will whose Will Delay Interval runs [MQTT-3.1.3-9].
#[derive(Debug)]
pub(super) struct WaitingWill {
    pub(super) message: Box<ApplicationMessage>,
    pub(super) at: Instant,
    /// Where it is kept, if it is.
    pub(super) kept: Option<Key>,
    _charge: Charge,
}

impl WaitingWill {
    pub(super) fn new(
        message: Box<ApplicationMessage>,
        at: Instant,
        kept: Option<Key>,
        memory: &Memory,
    ) -> Self {
        Self {
            _charge: memory.charge(message.footprint()),
            message,
            at,
            kept,
        }
    }
}

impl Session {
    pub(super) fn new(client_id: Rc<str>, memory: &Memory, charge: Charge) -> Self {
        Self {
            client_id,
            user: None,
            kept: None,
            permissions: None,
            link: None,
            expiry_seconds: 0,
            expires_at: Instant::FAR_FUTURE,
            will: None,
            armed: Instant::FAR_FUTURE,
            queue: Queue::new(memory),
            inflight: Inflight::new(memory),
            received: Received::new(memory),
            over: Vec::new(),
            is_unsure: false,
            is_searched: false,
            shares: Vec::new(),
            _charge: charge,
        }
    }

    /// What a new session is charged.
    pub(super) fn cost(client_id: &str) -> usize {
        // The client id is there once, and the table of sessions holds a pointer to it.
        size_of::<Self>() + client_id.len() + 64
    }

    /// Whether its client may be delivered to from this topic.
    pub(super) fn may_receive(&self, topic: &str) -> bool {
        let permissions = self.permissions.as_ref();
        permissions.is_none_or(|permissions| permissions.may_receive(topic))
    }

    /// When it ends if its client is gone at `now`.
    pub(super) fn end_after(&self, now: Instant) -> Instant {
        if self.expiry_seconds == NEVER {
            Instant::FAR_FUTURE
        } else {
            now + Duration::from_secs(self.expiry_seconds.into())
        }
    }

    /// When something happens to it while no client is connected; [`Instant::FAR_FUTURE`] if never.
    pub(super) fn due(&self) -> Instant {
        let will = self.will.as_ref();
        will.map_or(self.expires_at, |will| will.at.min(self.expires_at))
    }

    /// Whether there is anything that could be sent, now or once the client acknowledges.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty()
            || self
                .link
                .as_ref()
                .is_some_and(|link| link.resend_from.is_some() || !link.unsent.is_empty())
    }
}

/// Packet identifiers of QoS 2 messages that came and are not released [MQTT-4.3.3-10].
///
/// A client in order has no more of them than our Receive Maximum, and sends those of its last
/// connection again, so the list is short. One that never releases any can have them all.
#[derive(Debug)]
pub(super) struct Received {
    /// Ordered by identifier.
    ids: Vec<ReceivedId>,
    charge: Charge,
}

#[derive(Debug)]
struct ReceivedId {
    id: PacketId,
    /// Whether it counts against the Receive Maximum of the present connection.
    is_counted: bool,
}

/// What a PUBLISH of QoS 2 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A new message.
    New,
    /// A message that we have, sent again on a new connection.
    Resent,
    /// A message that we have, sent twice on this connection.
    Repeated,
}

impl Received {
    fn new(memory: &Memory) -> Self {
        Self {
            ids: Vec::new(),
            charge: memory.charge(0),
        }
    }

    /// What a PUBLISH with this identifier is.
    pub(super) fn arrival(&self, id: PacketId) -> Arrival {
        match self.ids.binary_search_by_key(&id, |received| received.id) {
            Err(_) => Arrival::New,
            Ok(at) if self.ids[at].is_counted => Arrival::Repeated,
            Ok(_) => Arrival::Resent,
        }
    }

    /// Notes a PUBLISH of this connection.
    pub(super) fn note(&mut self, id: PacketId) {
        match self.ids.binary_search_by_key(&id, |received| received.id) {
            Ok(at) => self.ids[at].is_counted = true,
            Err(at) => {
                let is_counted = true;
                self.ids.insert(at, ReceivedId { id, is_counted });
                self.charge_ids();
            }
        }
    }

    /// Every identifier, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = PacketId> {
        self.ids.iter().map(|received| received.id)
    }

    /// PUBREL; whether the identifier was known.
    pub(super) fn release(&mut self, id: PacketId) -> bool {
        match self.ids.binary_search_by_key(&id, |received| received.id) {
            Ok(at) => {
                self.ids.remove(at);
                if self.ids.is_empty() {
                    self.ids = Vec::new();
                }
                self.charge_ids();
                true
            }
            Err(_) => false,
        }
    }

    fn charge_ids(&mut self) {
        self.charge.set(self.ids.len() * size_of::<ReceivedId>());
    }

    /// A new connection counts anew (4.9).
    pub(super) fn reconnect(&mut self) {
        for received in &mut self.ids {
            received.is_counted = false;
        }
    }
}
