//! What outlives the process: what the broker has kept, and how it comes back after a start.
//!
//! Every change that a power cut must not undo is a [`Change`] with a number, in the order in which
//! they were made; whoever has a journal takes them with [`Broker::poll_change`] and says in
//! [`Broker::end_turn`] how far they are synced. Without one nothing of this happens.
//!
//! | kept | as | until |
//! |---|---|---|
//! | a session that outlives its connection | its [`QueueId`] and key [`KeyKind::Session`] | it ends |
//! | a subscription of it | key [`KeyKind::Subscription`], by a hash of the filter | UNSUBSCRIBE, its session's end |
//! | a message at QoS 1 or 2 for it | an entry of its queue, all takers of one publication in one record; beyond a window not in memory too (`spilled`) | acknowledged, expired, dropped |
//! | a QoS 2 PUBLISH that it has sent | key [`KeyKind::Received`], in the record of the message | PUBREL |
//! | a QoS 2 PUBLISH that a bridge has brought | key [`KeyKind::Brought`], in the record of the message | the bridge's owner says so |
//! | a QoS 2 PUBLISH that it is sent | key [`KeyKind::Sent`], by its sequence number | PUBCOMP, and that of all before it |
//! | a retained message | key [`KeyKind::Retained`] | it is replaced or removed |
//! | a message for a bridge that keeps it | an entry of the bridge's queue, in the same record | the bridge says so |
//! | what a session that is over leaves to its groups | its queue and key [`KeyKind::Estate`] | all has been handed over |
//! | a client's will | key [`KeyKind::Will`] | DISCONNECT, the next CONNECT, its publication is kept; see `wills` |
//!
//! Topics that begin with `$` are not kept.

mod bridges;
mod describe;
mod record;
mod recover;
mod spilled;
mod wills;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use smallvec::SmallVec;

use super::connection::Phase;
use super::queue::Reference;
use super::settings::{Durability, Level};
use super::subscriptions::Subscription;
use super::{Broker, Taker};
use crate::buffer::{Outbox, Payload};
use crate::id::{BridgeId, Lsn, MessageId, QueueId, SessionId};
use crate::mqtt::{PacketId, QoS};
use crate::time::{Duration, Instant, Now};
use bridges::BridgeQueue;
pub(super) use bridges::waits;
pub use bridges::{decode_rule, read_message};
pub use describe::{DescribedMessage, Description, describe};
pub(super) use record::{Note, Stage, encode_message, encode_presence, queue_target};
use record::{
    SentEntry, decode_message, encode_sent, encode_session, encode_subscription, hash,
    kept_identifiers,
};
pub(super) use spilled::Spilled;
pub use spilled::Wanted;
pub use wills::RETURN_GRACE;
use wills::Wills;

/// Something that is to survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Counted up by one with each change.
    pub lsn: Lsn,
    /// How soon it is to be synced. `None`: with the next that is.
    pub level: Option<Level>,
    /// What.
    pub what: What,
}

/// What is to survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A record, alive for each of its targets. The present value of its keys, and one entry more
    /// in its queues.
    Record {
        /// At least one.
        targets: SmallVec<[Target; 2]>,
        /// As `record` says.
        body: Vec<u8>,
    },
    /// A key is no more.
    Delete(Key),
    /// A queue begins.
    MakeQueue(QueueId),
    /// A queue and what is left in it are no more.
    DropQueue(QueueId),
    /// An entry is done with.
    Consumed {
        /// Of which queue.
        queue: QueueId,
        /// Which.
        sequence: u64,
    },
    /// The first entry that is left of those not below a number is done with, if there is one.
    ConsumedFirst {
        /// Of which queue.
        queue: QueueId,
        /// None below this.
        from: u64,
    },
}

/// What a record is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It is the value of this key.
    Key(Key),
    /// It is the next entry of this queue.
    Queue {
        /// Which queue.
        queue: QueueId,
        /// Which entry: higher than those before it, and not always by one.
        sequence: u64,
        /// How this queue's owner takes it.
        note: SmallVec<[u8; 16]>,
    },
}

/// Names a value that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Of which sort.
    pub kind: KeyKind,
    /// The session's number, or the retained message's. 0: a will of a client whose session ends
    /// with its connection.
    pub id: u64,
    /// Within the session.
    pub sub: u64,
}

/// Sorts of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// A session.
    Session = 1,
    /// A subscription.
    Subscription = 2,
    /// The packet identifier of a QoS 2 message that came and is not released.
    Received = 3,
    /// How far one is that was sent.
    Sent = 4,
    /// A retained message.
    Retained = 5,
    /// A client's will.
    Will = 6,
    /// The packet identifier of a QoS 2 message that a bridge has brought, by the bridge's queue.
    /// It comes back to whoever has the bridges, and ends when they say so.
    Brought = 7,
    /// The queue of a session that is over, while messages of its groups in it are for their other
    /// members: `sub` is the number from which on they are looked for.
    Estate = 8,
}

impl KeyKind {
    /// By its number.
    pub fn from_u8(number: u8) -> Option<Self> {
        [
            Self::Session,
            Self::Subscription,
            Self::Received,
            Self::Sent,
            Self::Retained,
            Self::Will,
            Self::Brought,
            Self::Estate,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// A record as it comes back.
#[derive(Debug)]
pub struct Recovered {
    /// The keys that it is the value of.
    pub keys: Vec<Key>,
    /// What was given.
    pub body: Payload,
}

/// A queue as it comes back: its entries do when they are wanted ([`Broker::poll_wanted`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveredQueue {
    /// Which.
    pub queue: QueueId,
    /// The number of its next entry.
    pub next: u64,
    /// How many are in it.
    pub entries: u64,
    /// About how many bytes these have.
    pub bytes: u64,
}

/// A session's place in what is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) queue: QueueId,
    /// Of the entry that comes next.
    next_sequence: u64,
    /// What has a lower number was there when the process began, and may have been sent by then.
    again_before: u64,
}

/// What the broker knows of what is kept.
#[derive(Debug)]
pub(super) struct Keeper {
    changes: VecDeque<Change>,
    /// For the next session that is to be kept.
    spare: Option<QueueId>,
    /// As far as is known.
    has_room: bool,
    /// That a message of QoS 2 is on its way was not taken, and there has been no room since.
    is_stuck: bool,
    /// The number of the last retained message that was kept.
    last_retained: u64,
    /// How soon what concerns sessions is synced; `None`: sessions are not kept.
    sessions: Option<Level>,
    /// How soon a retained message is to be kept that nobody waits for.
    sync_within: Duration,
    /// Topics whose retained message is to be kept when the time comes.
    dirty: BTreeSet<Rc<str>>,
    /// When that is. `None` if there are none, or no room.
    dirty_due: Option<Instant>,
    /// Bridges whose entries are numbered.
    bridges: BTreeMap<BridgeId, BridgeQueue>,
    /// Those that were kept last, until it is known whether the journal has taken them.
    handed_over: Vec<(Lsn, Rc<str>)>,
    /// Messages that nobody may see, and deliveries that nobody may get, before the sync.
    held: VecDeque<(Lsn, Held)>,
    /// What there is to know of wills beside those that connections and sessions have.
    wills: Wills,
    /// While what was kept comes back.
    recovery: Option<Box<Recovery>>,
    /// Spilled by changes that may not be taken. Invariant: in their order.
    unsettled: VecDeque<(Lsn, Spilled)>,
    /// Sessions that may have room for what is spilled.
    hungry: BTreeSet<SessionId>,
    /// Those that the journal reads for.
    fetching: BTreeMap<QueueId, Option<SessionId>>,
    /// Queues whose session wants nothing for now.
    rested: Vec<QueueId>,
    /// What was under way to sessions before the start, by its number, until it is known where it
    /// stands.
    gathering: BTreeMap<SessionId, Vec<SentEntry>>,
    /// Queues of sessions that are over, or about to be, and what is to be looked through of them.
    estates: BTreeMap<QueueId, Estate>,
}

/// What a session leaves to the other members of its groups.
#[derive(Debug, Clone, Copy)]
struct Estate {
    /// The key that says so.
    key: Key,
    /// What has a lower number has been looked at.
    from: u64,
}

/// Who has sent a QoS 2 message, and may send it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// A client, and its session knows.
    Client(SessionId),
    /// The upstream of a bridge.
    Upstream,
}

/// Something that waits for the sync.
#[derive(Debug)]
pub(super) enum Held {
    /// A QoS 2 message of this sender and identifier; drawn by nobody, if anybody takes it.
    Taken {
        sender: Sender,
        packet_id: PacketId,
        message: Option<MessageId>,
    },
    /// For a taker that is no session.
    Delivery(super::Output),
    /// This session has something of QoS 2 to send, of this order.
    Session(SessionId, u64),
    /// A QoS 2 message that is in the journal alone for this session, under this number.
    Spilled(SessionId, u64),
    /// The same, drawn back.
    Restored(MessageId),
}

/// What has come back so far.
#[derive(Debug, Default)]
struct Recovery {
    values: Vec<(Key, Payload)>,
    /// The numbers of sessions and of estates, which are those of their queues.
    queued: BTreeSet<u64>,
    queues: BTreeMap<QueueId, RecoveredQueue>,
}

impl Keeper {
    pub(super) fn new(durability: &Durability, sync_within: Duration) -> Self {
        Self {
            sync_within,
            changes: VecDeque::new(),
            spare: None,
            has_room: true,
            is_stuck: false,
            last_retained: 0,
            sessions: level_of_sessions(durability),
            dirty: BTreeSet::new(),
            dirty_due: None,
            bridges: BTreeMap::new(),
            handed_over: Vec::new(),
            held: VecDeque::new(),
            wills: Wills::default(),
            recovery: Some(Box::default()),
            unsettled: VecDeque::new(),
            hungry: BTreeSet::new(),
            fetching: BTreeMap::new(),
            rested: Vec::new(),
            gathering: BTreeMap::new(),
            estates: BTreeMap::new(),
        }
    }

    /// Whether a message of QoS 2 may be begun with, as far as is known: a full journal takes that
    /// too, for a while, or it could not be emptied.
    pub(super) fn may_begin(&self) -> bool {
        !self.is_stuck
    }
}

/// The strictest that any topic may ask for: a session must not be less durable than what it keeps.
fn level_of_sessions(durability: &Durability) -> Option<Level> {
    let rules = durability.rules.iter().map(|(_, level)| *level);
    let levels = rules.chain([durability.default]);
    levels.fold(None, |strictest, level| match (strictest, level) {
        (strictest, Level::None) => strictest,
        (Some(Level::Interval(one)), Level::Interval(other)) => {
            Some(Level::Interval(one.min(other)))
        }
        (Some(Level::Strict), _) | (_, Level::Strict) => Some(Level::Strict),
        (_, interval) => Some(interval),
    })
}

impl Kept {
    pub(super) fn next(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// What [`Kept::next`] gives next.
    pub(super) fn upcoming(self) -> u64 {
        self.next_sequence
    }

    pub(super) fn key(self, kind: KeyKind, sub: u64) -> Key {
        let id = self.queue.0;
        Key { kind, id, sub }
    }
}

impl Broker {
    /// From now on changes are kept: what is yielded by [`Broker::poll_change`] is to be put into a
    /// journal. Before anything else happens, what was kept before comes back through
    /// [`Broker::recover`], and [`Broker::recovered`] ends that. To be called once, while there are
    /// no sessions and nothing is retained. `sync_within` is how soon a retained message is kept
    /// that nobody waits for: a reading of ours, or one that came at QoS 0.
    ///
    /// # Panics
    /// In debug builds, if there are.
    pub fn start_keeping(&mut self, sync_within: Duration) {
        debug_assert!(self.clients.is_empty() && self.retained.iter().next().is_none());
        self.keeper = Some(Box::new(Keeper::new(
            &self.settings.durability,
            sync_within,
        )));
    }

    /// Other settings: they hold for what is kept from now on.
    pub(super) fn reconfigure_keeping(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.sessions = level_of_sessions(&self.settings.durability);
        }
    }

    /// A number for the next session that is to be kept. While [`Broker::wants_queue`], it is to be
    /// given before the next packet is.
    pub fn give_queue(&mut self, queue: QueueId) {
        if let Some(keeper) = &mut self.keeper {
            keeper.spare = Some(queue);
        }
    }

    /// See [`Broker::give_queue`].
    pub fn wants_queue(&self) -> bool {
        let keeper = self.keeper.as_ref();
        keeper.is_some_and(|keeper| keeper.sessions.is_some() && keeper.spare.is_none())
    }

    /// The next change, in order. One that is not kept is to be said so before this is asked again
    /// ([`Broker::handle_unkept`]).
    pub fn poll_change(&mut self) -> Option<Change> {
        let keeper = self.keeper.as_mut()?;
        let change = keeper.changes.pop_front();
        if change.is_none() {
            keeper.wills.settle();
        }
        let next = change.as_ref().map_or(Lsn(u64::MAX), |change| change.lsn);
        while keeper.unsettled.front().is_some_and(|(lsn, _)| *lsn < next) {
            keeper.unsettled.pop_front();
        }
        change
    }

    /// A change is not kept, for the journal has no room for it or no disk. Who waits for it gets
    /// no answer and is disconnected: it sends again when it is back, and nobody has been promised
    /// anything. What was held back for it is taken back.
    pub fn handle_unkept(&mut self, now: Now, change: &Change, outbox: &mut Outbox) {
        self.now = now;
        self.stats.unkept += 1;
        self.unspill_unkept(change);
        let Change { lsn, level, .. } = *change;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        self.stats.unkept_wills += u64::from(keeper.unkeep_will(lsn));
        if level != Some(Level::Strict) {
            return self.retain_again(&change.what);
        }
        // Of a value that nobody waits for, the present one is kept when there is room.
        let again = keeper.handed_over.iter().filter(|(at, _)| *at == lsn);
        keeper.dirty.extend(again.map(|(_, topic)| topic.clone()));
        let mut gone = Vec::new();
        for (at, held) in core::mem::take(&mut keeper.held) {
            if at == lsn {
                gone.push(held);
            } else {
                keeper.held.push_back((at, held));
            }
        }
        for held in gone {
            match held {
                Held::Taken {
                    sender,
                    packet_id,
                    message,
                } => {
                    if let Sender::Client(session) = sender
                        && let Some(session) = self.sessions.get_mut(session)
                    {
                        session.received.release(packet_id);
                    }
                    if let Some(message) = message {
                        self.take_back(message, outbox);
                    }
                }
                Held::Session(id, order) => {
                    if let Some(keeper) = &mut self.keeper {
                        // What is refused for another reason is tried again.
                        keeper.is_stuck = !keeper.has_room;
                    }
                    self.unsend(id, order, outbox);
                }
                Held::Delivery(_) | Held::Spilled(..) | Held::Restored(_) => {}
            }
        }
        for conn in self.settle.waiting_for(lsn) {
            let phase = self
                .connections
                .get(conn)
                .map(|connection| connection.phase);
            if let Some(Phase::Live(id)) = phase {
                self.session_mut(id).is_unsure = true;
            }
            self.stats.disconnected_unkept += 1;
            self.settle.silence(conn);
            self.detach(conn, super::Fate::Publish);
            self.outputs.push_back(super::Output::Close {
                conn,
                how: super::CloseHow::Now,
            });
        }
        self.finish(outbox);
    }

    /// A retained message that nobody waits for was not kept with its publication: then by itself.
    fn retain_again(&mut self, what: &What) {
        let What::Record { targets, body } = what else {
            return;
        };
        let is_retained =
            |target: &Target| matches!(target, Target::Key(key) if key.kind == KeyKind::Retained);
        if targets.iter().any(is_retained)
            && let Some(message) = decode_message(&Payload::copy_from(body), self.now)
        {
            let within = self.keeper.as_ref().map(|keeper| keeper.sync_within);
            self.keep_retained_within(message.topic(), within.unwrap_or_default());
        }
    }

    /// Whether the journal takes anything now.
    pub fn handle_journal_room(&mut self, now: Now, has_room: bool, outbox: &mut Outbox) {
        self.now = now;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.has_room = has_room;
        if has_room {
            keeper.is_stuck = false;
            if !keeper.dirty.is_empty() {
                keeper.dirty_due = Some(now.monotonic);
            }
            for id in self.sessions.keys() {
                self.wake_session(id, outbox);
            }
        }
        self.finish(outbox);
    }

    /// A message that was about to be sent goes back to where it came from.
    fn unsend(&mut self, id: SessionId, order: u64, outbox: &mut Outbox) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if let Some(link) = &mut session.link {
            let before = link.unsent.len();
            link.unsent.retain(|(other, _)| *other != order);
            if link.unsent.len() == before {
                return;
            }
            link.unacknowledged = link.unacknowledged.saturating_sub(1);
        }
        let sent = session.inflight.remove(order);
        if let Some(super::inflight::Sent {
            stage: super::inflight::Stage::Published(reference),
            ..
        }) = sent
        {
            self.queued += 1;
            self.queued_bytes += reference.cost;
            let expires_at = self.messages.get(reference.message).expires_at();
            self.session_mut(id).queue.put_back(reference, expires_at);
            self.wake_session(id, outbox);
        }
    }

    /// Nobody is to get a message that was held back.
    fn take_back(&mut self, message: MessageId, outbox: &mut Outbox) {
        if !self.messages.contains(message) {
            return; // Nobody refers to it any more, as when it was retained and has been replaced.
        }
        self.messages.retain(message);
        for id in self.messages.free(message) {
            // What stands behind it may go on.
            self.wake_session(id, outbox);
        }
        for id in self.sessions.keys() {
            let session = self.session_mut(id);
            let mut gone = Vec::new();
            let (count, bytes) = session.queue.purge(
                |reference| reference.message == message,
                |reference| gone.push(reference),
            );
            self.queued -= count;
            self.queued_bytes -= bytes;
            for reference in gone {
                self.let_go(id, &reference);
            }
            self.look_at(id);
        }
        self.messages.release(message);
    }

    /// How soon a retained message is to be kept that nobody waits for.
    pub(super) fn sync_within(&self) -> Duration {
        let keeper = self.keeper.as_ref();
        keeper.map_or(Duration::ZERO, |keeper| keeper.sync_within)
    }

    /// How a publication to this topic is kept; `None`: not.
    pub(super) fn level_of(&self, topic: &str) -> Option<Level> {
        self.keeper.as_ref()?;
        if topic.starts_with('$') {
            return None;
        }
        let level = self.settings.durability.level_of(topic);
        (level != Level::None).then_some(level)
    }

    /// Notes a change.
    pub(super) fn log(&mut self, level: Option<Level>, what: What) -> Lsn {
        let Some(keeper) = &mut self.keeper else {
            return Lsn(0);
        };
        let lsn = self.settle.log();
        // What would go along with the next sync has none to come.
        let level = level.or(self.is_stopping.then_some(Level::Strict));
        keeper.changes.push_back(Change { lsn, level, what });
        lsn
    }

    /// Notes the value of a key.
    fn log_value(&mut self, level: Option<Level>, key: Key, body: Vec<u8>) -> Lsn {
        let targets = SmallVec::from_iter([Target::Key(key)]);
        self.log(level, What::Record { targets, body })
    }

    /// How soon what concerns sessions is synced, and what else answers wait for; `None`: it is not
    /// kept.
    pub fn session_level(&self) -> Option<Level> {
        self.keeper.as_ref().and_then(|keeper| keeper.sessions)
    }

    /// What an answer about a session waits for, if something was logged since `before`.
    pub(super) fn logged_since(&self, before: Lsn) -> Lsn {
        let last = self.settle.last();
        if last > before && self.session_level() == Some(Level::Strict) {
            last
        } else {
            Lsn(0)
        }
    }

    /// Holds something back until the sync of `lsn`.
    pub(super) fn hold(&mut self, lsn: Lsn, held: Held) {
        if let Held::Taken {
            message: Some(message),
            ..
        } = held
        {
            self.messages.hold(message);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.held.push_back((lsn, held));
        }
    }

    /// What was held back and is synced now goes its way.
    pub(super) fn release_held(&mut self, synced: Lsn, outbox: &mut Outbox) {
        while let Some(keeper) = &mut self.keeper
            && keeper.held.front().is_some_and(|(lsn, _)| *lsn <= synced)
            && let Some((_, held)) = keeper.held.pop_front()
        {
            match held {
                Held::Taken {
                    message: Some(message),
                    ..
                }
                | Held::Restored(message) => {
                    for id in self.messages.free(message) {
                        self.wake_session(id, outbox);
                    }
                }
                Held::Delivery(delivery) => self.outputs.push_back(delivery),
                Held::Session(id, _) => self.wake_session(id, outbox),
                Held::Taken { message: None, .. } | Held::Spilled(..) => {}
            }
        }
    }

    fn wake_session(&mut self, id: SessionId, outbox: &mut Outbox) {
        let link = self
            .sessions
            .get(id)
            .and_then(|session| session.link.as_ref());
        if let Some(link) = link {
            outbox.wake(link.conn);
        }
    }

    /// A session's client is there, and it is to outlive the connection, or not any more.
    pub(super) fn keep_session(&mut self, id: SessionId) {
        let level = self.session_level();
        let is_kept = self.session_mut(id).kept.is_some();
        let is_to_be = level.is_some() && self.session_mut(id).expiry_seconds > 0;
        match (is_kept, is_to_be) {
            (false, false) => {}
            (true, true) => {
                // Without effect if it is there, as it is unless the journal did not take it.
                if let Some(kept) = self.session_mut(id).kept {
                    self.log(level, What::MakeQueue(kept.queue));
                }
                self.log_session(id, level);
                if core::mem::take(&mut self.session_mut(id).is_unsure) {
                    self.keep_underway(id);
                }
            }
            // What is in the journal alone is still to be sent. The session ends with its
            // connection, or with the next start.
            (true, false) if self.session_mut(id).queue.is_spilling() => {
                self.log_session(id, level);
            }
            (true, false) => {
                for what in self.end_of_kept(id) {
                    self.log(level, what);
                }
                self.session_mut(id).kept = None;
            }
            (false, true) => {
                let keeper = self.keeper.as_mut();
                let Some(queue) = keeper.and_then(|keeper| keeper.spare.take()) else {
                    debug_assert!(false, "a number is given before a packet is");
                    return;
                };
                self.session_mut(id).kept = Some(Kept {
                    queue,
                    next_sequence: 1,
                    again_before: 0,
                });
                self.log(level, What::MakeQueue(queue));
                self.log_session(id, level);
                self.keep_what_it_has(id);
            }
        }
    }

    /// How far the QoS 2 messages of a session are, once more: of some it may not be known.
    fn keep_underway(&mut self, id: SessionId) {
        let sent: Vec<_> = self
            .session_mut(id)
            .inflight
            .iter()
            .filter_map(|sent| {
                let stage = match &sent.stage {
                    super::inflight::Stage::Released => Stage::Released,
                    super::inflight::Stage::Published(it) if it.qos == QoS::ExactlyOnce => {
                        Stage::Published
                    }
                    super::inflight::Stage::Published(_) => return None,
                };
                Some((sent.packet_id, stage, sent.sequence))
            })
            .collect();
        for (packet_id, stage, sequence) in sent {
            self.keep_sent(id, packet_id, stage, sequence);
        }
    }

    /// What a session had before it was to be kept.
    fn keep_what_it_has(&mut self, id: SessionId) {
        for (filter, subscription) in self.subscriptions_of(id) {
            self.keep_subscription(id, &filter, subscription);
        }
        for at in 0..self.session_mut(id).queue.messages() {
            let Some(mut reference) = self.session_mut(id).queue.reference(at).cloned() else {
                break;
            };
            self.keep_entry(id, &mut reference);
            self.session_mut(id).queue.number(at, reference.sequence);
        }
    }

    fn level_of_message(&self, message: MessageId) -> Option<Level> {
        self.level_of(self.messages.get(message).message.topic())
    }

    /// Every filter that a session has, shared ones too.
    fn subscriptions_of(&self, id: SessionId) -> Vec<(String, Subscription)> {
        let mut all = self.subscriptions.of(Taker::Session(id));
        if let Some(session) = self.sessions.get(id) {
            all.extend(self.shared.of(id, &session.shares));
        }
        all
    }

    /// Who a kept session is, and when it ends.
    pub(super) fn log_session(&mut self, id: SessionId, level: Option<Level>) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let Some(kept) = session.kept else {
            return;
        };
        let body = encode_session(session, self.now);
        self.log_value(level, kept.key(KeyKind::Session, 0), body);
    }

    /// A session is to be kept no more: what is to be logged then. What its groups get of it is
    /// theirs before that, or a power cut in between would lose it.
    pub(super) fn end_of_kept(&mut self, id: SessionId) -> Vec<What> {
        let Some(session) = self.sessions.get(id) else {
            return Vec::new();
        };
        let Some(kept) = session.kept else {
            return Vec::new();
        };
        let mut keys = kept_identifiers(kept, session);
        for (filter, _) in self.subscriptions_of(id) {
            keys.push(kept.key(KeyKind::Subscription, hash(&filter)));
        }
        let gathering = self.keeper.as_ref().and_then(|it| it.gathering.get(&id));
        for entry in gathering.into_iter().flatten() {
            keys.push(kept.key(KeyKind::Sent, entry.sequence));
        }
        keys.push(kept.key(KeyKind::Session, 0));
        let mut end = self.bequeath(id);
        end.extend(keys.into_iter().map(What::Delete));
        if !self.forget_spilled(id, kept.queue) {
            end.push(What::DropQueue(kept.queue));
        }
        end
    }

    pub(super) fn keep_subscription(
        &mut self,
        id: SessionId,
        filter: &str,
        subscription: Subscription,
    ) {
        let Some(kept) = self.session_mut(id).kept else {
            return;
        };
        let body = encode_subscription(filter, subscription);
        let key = kept.key(KeyKind::Subscription, hash(filter));
        self.log_value(self.session_level(), key, body);
    }

    pub(super) fn forget_subscription(&mut self, id: SessionId, filter: &str) {
        if let Some(kept) = self.session_mut(id).kept {
            let key = kept.key(KeyKind::Subscription, hash(filter));
            self.log(self.session_level(), What::Delete(key));
        }
    }

    /// A session is done with an entry of its queue; its message loses a reference.
    pub(super) fn let_go(&mut self, id: SessionId, reference: &Reference) {
        self.consumed(id, reference.sequence);
        self.messages.release(reference.message);
    }

    pub(super) fn consumed(&mut self, id: SessionId, sequence: u64) {
        if sequence == 0 {
            return;
        }
        if let Some(kept) = self.sessions.get(id).and_then(|session| session.kept) {
            let queue = kept.queue;
            self.log(None, What::Consumed { queue, sequence });
            self.forget_over(id);
        }
    }

    /// Those that are over and have nothing unfinished before them are forgotten.
    fn forget_over(&mut self, id: SessionId) {
        let session = self.sessions.get(id);
        if session.is_none_or(|session| session.over.is_empty()) {
            return;
        }
        let first = self.first_unfinished(id);
        let over = &mut self.session_mut(id).over;
        let count = over.partition_point(|sequence| *sequence < first);
        let gone: Vec<u64> = over.drain(..count).collect();
        for sequence in gone {
            self.forget_sent(id, sequence);
        }
    }

    /// Keeps an entry by itself: a message of a group that goes to another member, or one that was
    /// there before its session was to be kept.
    /// The change by which it is; `None`: it is not.
    pub(super) fn keep_entry(&mut self, id: SessionId, reference: &mut Reference) -> Option<Lsn> {
        reference.sequence = 0;
        let level = self.level_of_message(reference.message)?;
        let session = self.sessions.get_mut(id)?;
        let kept = session
            .kept
            .as_mut()
            .filter(|_| reference.qos > QoS::AtMostOnce)?;
        reference.sequence = kept.next();
        let note = Note::of(reference);
        let target = queue_target(kept.queue, reference.sequence, &note, &self.shared);
        let body = encode_message(&self.messages.get(reference.message).message, self.now);
        let targets = SmallVec::from_iter([target]);
        Some(self.log(Some(level), What::Record { targets, body }))
    }

    /// How far a QoS 2 message is on its way to a client: `Some` if what follows may be sent only
    /// after the sync of this.
    pub(super) fn keep_sent(
        &mut self,
        id: SessionId,
        packet_id: PacketId,
        stage: Stage,
        sequence: u64,
    ) -> Option<Lsn> {
        let level = match stage {
            Stage::Published | Stage::Released => self.session_level(),
            Stage::Over => None,
        };
        let key = self.sent_key(id, sequence)?;
        let body = encode_sent(stage, packet_id);
        let lsn = self.log_value(level, key, body);
        (level == Some(Level::Strict)).then_some(lsn)
    }

    /// `None`: the message is not kept.
    fn sent_key(&self, id: SessionId, sequence: u64) -> Option<Key> {
        let kept = self.sessions.get(id)?.kept?;
        (sequence != 0).then(|| kept.key(KeyKind::Sent, sequence))
    }

    /// PUBCOMP has come. What is consumed is a mark below which everything is, so while there is
    /// something unfinished before it, that it is over is all that keeps it from being sent again.
    pub(super) fn sent_is_over(&mut self, id: SessionId, packet_id: PacketId, sequence: u64) {
        if self.sent_key(id, sequence).is_none() {
            return;
        }
        if sequence < self.first_unfinished(id) {
            return self.forget_sent(id, sequence);
        }
        self.keep_sent(id, packet_id, Stage::Over, sequence);
        let over = &mut self.session_mut(id).over;
        let at = over.partition_point(|other| *other < sequence);
        over.insert(at, sequence);
    }

    /// The first sequence number that is not done with.
    fn first_unfinished(&self, id: SessionId) -> u64 {
        let Some(session) = self.sessions.get(id) else {
            return 0;
        };
        let sent = session
            .inflight
            .iter()
            .filter_map(|sent| match &sent.stage {
                super::inflight::Stage::Published(reference) => Some(reference.sequence),
                super::inflight::Stage::Released => None,
            });
        let sent = sent.filter(|sequence| *sequence != 0);
        let first = sent.chain(session.queue.first_sequence()).min();
        first.unwrap_or(u64::MAX)
    }

    /// It need not be known any more. Nobody waits for this.
    pub(super) fn forget_sent(&mut self, id: SessionId, sequence: u64) {
        if let Some(key) = self.sent_key(id, sequence) {
            self.log(None, What::Delete(key));
        }
    }

    /// A client has released a QoS 2 message.
    pub(super) fn forget_received(&mut self, id: SessionId, packet_id: PacketId) {
        if let Some(kept) = self.sessions.get(id).and_then(|session| session.kept) {
            let key = kept.key(KeyKind::Received, packet_id.value().into());
            self.log(self.session_level(), What::Delete(key));
        }
    }

    /// The key under which a topic's retained message is kept; `None`: there is no such message.
    pub(super) fn retained_key(&mut self, topic: &str) -> Option<Key> {
        let keeper = self.keeper.as_mut()?;
        let number = self.retained.number_mut(topic)?;
        if *number == 0 {
            keeper.last_retained += 1;
            *number = keeper.last_retained;
        }
        keeper.dirty.remove(topic);
        Some(Key {
            kind: KeyKind::Retained,
            id: *number,
            sub: 0,
        })
    }

    /// A topic's retained message is to be kept within this time, as it is then.
    pub(super) fn keep_retained_within(&mut self, topic: &str, within: Duration) {
        let due = self.now.monotonic + within;
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.dirty_due = Some(keeper.dirty_due.map_or(due, |first| first.min(due)));
        if !keeper.dirty.contains(topic) {
            keeper.dirty.insert(topic.into());
        }
    }

    /// A topic has no retained message any more. The number of that change; 0: none was kept.
    pub(super) fn forget_retained(
        &mut self,
        number: u64,
        topic: &str,
        level: Option<Level>,
    ) -> Lsn {
        let Some(keeper) = &mut self.keeper else {
            return Lsn(0);
        };
        keeper.dirty.remove(topic);
        if number == 0 {
            return Lsn(0);
        }
        let key = Key {
            kind: KeyKind::Retained,
            id: number,
            sub: 0,
        };
        self.log(level, What::Delete(key))
    }

    /// When retained messages are to be kept that nobody waits for.
    pub(super) fn next_dirty(&self) -> Option<Instant> {
        self.keeper.as_ref()?.dirty_due
    }

    pub(super) fn keep_dirty(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let due = keeper.dirty_due;
        if due.is_none_or(|due| due > self.now.monotonic && !self.is_stopping) {
            return;
        }
        keeper.dirty_due = None;
        if !keeper.has_room && !self.is_stopping {
            return;
        }
        keeper.handed_over.clear();
        // One sync for all of them.
        for topic in core::mem::take(&mut keeper.dirty) {
            self.keep_topic(topic);
        }
    }

    /// If a topic's retained message is to be kept some time, that is done now.
    fn keep_dirty_topic(&mut self, topic: &str) {
        let keeper = self.keeper.as_mut();
        if let Some(topic) = keeper.and_then(|keeper| keeper.dirty.take(topic)) {
            self.keep_topic(topic);
        }
    }

    fn keep_topic(&mut self, topic: Rc<str>) {
        let Some(key) = self.retained_key(&topic) else {
            return;
        };
        let Some(message) = self.retained.get(&topic) else {
            return;
        };
        let body = encode_message(&self.messages.get(message).message, self.now);
        let lsn = self.log_value(Some(Level::Strict), key, body);
        if let Some(keeper) = &mut self.keeper {
            keeper.handed_over.push((lsn, topic));
        }
    }

    /// How much is on its way to the disk and holds something up: for tests.
    pub fn held(&self) -> usize {
        self.keeper.as_ref().map_or(0, |keeper| keeper.held.len())
    }
}
