//! The MQTT server, without I/O: connections, sessions, subscriptions, retained messages.
//!
//! It speaks 3.1, 3.1.1 and 5.0. Buffers belong to the gateway and are passed in; time comes in as
//! [`Now`], chance as a seeded [`Rng`]. After each call the caller drains [`Broker::poll_output`].
//!
//! # A message's way
//!
//! 1. [`Broker::handle_received`] parses a PUBLISH where it lies; [`Broker::publish`] takes one
//!    from the gateway's other machines. Access decides whether it reaches anybody.
//! 2. The trie names the takers, unless a route is known; overlapping subscriptions of one taker
//!    are merged to one copy.
//! 3. A session at QoS 0 that is connected, has nothing waiting and less than
//!    [`HIGH_WATER`](crate::buffer::HIGH_WATER) unsent gets the bytes at once: encoded once for
//!    each layout, copied for each taker, payloads above [`COPY_MAX`](crate::buffer::COPY_MAX)
//!    shared. No message is kept and nothing is allocated.
//! 4. For every other session the message is kept once, and a reference is queued. [`Broker::fill`]
//!    draws from that queue when the socket can take it, as far as the client's Receive Maximum
//!    goes.
//! 5. Other takers get an [`Output::Delivery`].
//! 6. Its sender's acknowledgement goes through the settle queue and leaves in
//!    [`Broker::end_turn`].
//!
//! # Limits
//!
//! Each is a field of [`Settings`] or a constant here; each has a counter in [`Stats`].
//!
//! | limit | there |
//! |---|---|
//! | `max_connections` | CONNACK 0x97; beyond [`REFUSALS_MAX`] more at once, closed without a word |
//! | [`VERIFICATIONS_MAX`], [`VERIFICATIONS_PER_ADDRESS_MAX`] | CONNACK 0x89 |
//! | `max_sessions`, memory budget | CONNACK 0x97 |
//! | `max_subscriptions`, memory budget | SUBACK 0x97 for that filter |
//! | `max_connections_per_address`, `connect_rate` | CONNACK 0x97, 0x9F; see [`admission`] |
//! | `max_connect_size` | CONNACK 0x95 |
//! | `max_packet_size` | DISCONNECT 0x95 |
//! | 8 KiB, for a packet of a client that authenticates itself | CONNACK 0x95 |
//! | `publish_quota` | not read further until the client has waited for it |
//! | memory budget, for a large packet | its connection waits, after 30 s DISCONNECT 0x97 |
//! | `receive_maximum` | DISCONNECT 0x93 in 5.0; not read further in 3.1.1 until acknowledged |
//! | `queue`, `queues_bytes` | `when_full` |
//! | [`WINDOW`], [`WINDOW_BYTES`] of a session that outlives the process | what is kept waits in the journal alone ([`keep`]) |
//! | memory budget, for a message to be kept | it waits in the journal alone, or is dropped (`refuse`: refused) |
//! | `retained_*`, memory budget | not stored, an older one removed, delivered all the same |
//! | [`DELIVERIES_PER_CALL_MAX`] | the rest of what a connection has sent is parsed next turn |
mod access;
pub mod admission;
mod aliases;
mod authenticate;
mod bucket;
mod connect;
mod connection;
mod draw;
mod inflight;
pub mod keep;
mod message;
mod packets;
mod publish;
mod queue;
mod redirect;
mod retained;
mod routes;
mod session;
pub mod settings;
mod settle;
mod shared;
mod stats;
mod subscribe;
pub mod subscriptions;
mod taker;

use std::collections::VecDeque;
use std::rc::Rc;

pub use aliases::ALIASES_MAX;
pub use connect::Password;
pub use connection::Admission;
pub use publish::Published;
pub use queue::{WINDOW, WINDOW_BYTES};
pub use stats::Stats;
pub use taker::{Origin, Taker};

use self::access::{Access, AccessSettings, Permissions};
use self::admission::{Addresses, Excess};
use self::authenticate::Authenticator;
use self::connection::{CONNECTION_BYTES, Connection, Pause, Phase, Tag};
use self::keep::{Keeper, Key};
use self::message::Messages;
use self::publish::Room;
use self::publish::Scratch;
use self::queue::{Entry, Reference};
use self::retained::Retained;
use self::routes::Routes;
use self::session::{Session, WaitingWill};
use self::settings::Settings;
use self::settle::Settle;
use self::shared::{Away, Shared};
use self::subscriptions::Subscriptions;
use crate::buffer::{Memory, Outbox, OverBudget, Payload, RecvBuffer};
use crate::credential::PasswordHash;
use crate::deadlines::Deadlines;
use crate::id::{ConnId, Lsn, MessageId, SessionId};
use crate::mqtt::frame::{self, Frame};
use crate::mqtt::{ApplicationMessage, DecodeError, Fault, PacketType, QoS, ReasonCode};
use crate::rng::{HashMap, Rng};
use crate::slab::{GenSlab, IdTable};
use crate::time::{Instant, Now};

/// Deliveries after which [`Broker::handle_received`] leaves the rest for the next turn: one
/// publisher with many subscribers must not hold up everybody else.
pub const DELIVERIES_PER_CALL_MAX: u64 = 20_000;

/// Connections beyond a limit, the broker's, a listener's or an address's, that may wait for their
/// CONNACK; the next one is closed at once.
pub const REFUSALS_MAX: usize = 16;

/// The first level of what a broker says about itself.
pub const SYSTEM_LEVEL: &str = "$SYS";

/// The broker. See the module's documentation.
#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    memory: Memory,
    rng: Rng,
    /// Of the last call.
    now: Now,
    connections: IdTable<ConnId, Connection>,
    addresses: Addresses,
    /// Connections that are one too many and wait to be told so. Invariant: those with an excess.
    refusals: usize,
    sessions: GenSlab<SessionId, Session>,
    clients: HashMap<Rc<str>, SessionId>,
    subscriptions: Subscriptions,
    /// What takers that are not clients do not get, whatever they have subscribed to.
    exceptions: Subscriptions,
    routes: Routes,
    shared: Shared,
    retained: Retained,
    messages: Messages,
    access: Access,
    authenticator: Authenticator,
    settle: Settle,
    /// While what must outlive the process is kept.
    keeper: Option<Box<Keeper>>,
    deadlines: Deadlines<Timer>,
    outputs: VecDeque<Output>,
    resumed: VecDeque<ConnId>,
    /// Connections whose large packet waits for memory.
    starved: Vec<ConnId>,
    /// Much waits for the disk.
    is_behind: bool,
    /// Connections that wait until it does not.
    behind: Vec<ConnId>,
    /// Connections that something was queued for where there was no outbox at hand.
    woken: Vec<ConnId>,
    /// Wills to be published before the present call returns; publishing one may bring about the
    /// next.
    /// Invariant: the sessions that have a link.
    connected: usize,
    wills: VecDeque<LastWill>,
    /// Connections in [`Phase::Verifying`], at most [`VERIFICATIONS_MAX`].
    verifying: Vec<ConnId>,
    /// Messages waiting in all queues, and what they cost. Invariant: the sum over all sessions.
    queued: usize,
    queued_bytes: usize,
    /// Of those: in the journal alone. Invariant: the sum over all sessions.
    spilled: usize,
    /// Entries of each that are in memory, of what is kept.
    window: usize,
    /// Deliveries since the start, for [`DELIVERIES_PER_CALL_MAX`].
    deliveries: u64,
    scratch: Scratch,
    is_stopping: bool,
    stats: Stats,
    #[cfg(debug_assertions)]
    mutations: u32,
}

/// Deadlines that nobody waits for any more which are kept before they are looked through.
const STALE_DEADLINES_MAX: usize = 1024;

/// Passwords that may be compared at once; while there are as many, CONNECT is refused with 0x89.
pub const VERIFICATIONS_MAX: usize = 64;

/// Of those: from one address.
pub const VERIFICATIONS_PER_ADDRESS_MAX: usize = 8;

/// A will that is due, and what its client might do.
#[derive(Debug)]
struct LastWill {
    origin: Origin,
    client_id: Rc<str>,
    permissions: Option<Rc<Permissions>>,
    message: Box<ApplicationMessage>,
    /// Where it is kept, if it is.
    kept: Option<Key>,
}

/// Do this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Close a connection; answered by [`Broker::handle_closed`].
    Close {
        /// Whose.
        conn: ConnId,
        /// How.
        how: CloseHow,
    },
    /// A message for a taker that is not a session.
    Delivery {
        /// Who subscribed.
        taker: Taker,
        /// Who published.
        origin: Origin,
        /// The message, with QoS and RETAIN as published, whatever the subscription says.
        message: ApplicationMessage,
        /// It comes from the retained store, because of a subscription, and was published before.
        is_replay: bool,
        /// Of a bridge's queue ([`Broker::keep_bridge`]), the entry that it is.
        entry: Option<BridgeEntry>,
    },
    /// Somebody has subscribed below `$SYS`. What is retained there is not kept current while
    /// nobody looks: [`Broker::restate`] it now, before the subscription draws it.
    SystemSubscribed,
    /// Compare a password; answered by [`Broker::handle_verified`].
    Verify {
        /// Whose.
        conn: ConnId,
        /// With what.
        hash: PasswordHash,
        /// As the client sent it.
        password: Password,
    },
    /// Bring a message's bytes; answered by [`Broker::handle_fetched`].
    Fetch {
        /// Which.
        message: MessageId,
    },
}

/// A message's place in the queue of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeEntry {
    /// Higher than those of the bridge's before it.
    pub sequence: u64,
    /// The change that keeps it; `None`: it is not kept. If it is refused later, the entry is none.
    pub lsn: Option<Lsn>,
    /// Nobody may be sent it before that change is synced.
    pub is_held: bool,
}

/// What waits for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionQueue<'a> {
    /// Whose it is.
    pub client_id: &'a str,
    /// Its client is there.
    pub is_connected: bool,
    /// It outlives the process.
    pub is_kept: bool,
    /// Messages that wait.
    pub messages: usize,
    /// Their bytes, as the limits count them.
    pub bytes: usize,
    /// Of the messages: those that are in the journal and not in memory.
    pub on_disk: usize,
    /// Messages that are sent and not acknowledged.
    pub inflight: usize,
}

/// How to close a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseHow {
    /// Write what is queued first, so that a reason code arrives.
    AfterFlush,
    /// At once.
    Now,
}

/// Whose deadline it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// CONNECT, keep-alive, or memory.
    Connection(ConnId),
    /// The session's end.
    Session(SessionId),
}

impl Broker {
    /// A broker that nobody has connected to. Its memory limit becomes the account's.
    pub fn new(settings: Settings, memory: &Memory, rng: &mut Rng) -> Self {
        memory.set_limit(settings.memory);
        // Of its own: what others are shown of the broker's generator tells nothing about it.
        let mut authenticator = Authenticator::new(&mut rng.fork());
        authenticator.update(&settings.access);
        let mut rng = rng.fork();
        Self {
            settings,
            memory: memory.clone(),
            now: Now {
                monotonic: Instant::default(),
                wall: crate::time::WallTime::default(),
            },
            connections: IdTable::new(),
            addresses: Addresses::new(memory),
            refusals: 0,
            sessions: GenSlab::new(),
            clients: HashMap::with_hasher(rng.hash_state()),
            subscriptions: Subscriptions::new(memory, &mut rng),
            exceptions: Subscriptions::new(memory, &mut rng),
            routes: Routes::new(&mut rng),
            shared: Shared::new(memory, &mut rng),
            retained: Retained::new(memory),
            messages: Messages::new(memory),
            access: Access::default(),
            authenticator,
            settle: Settle::default(),
            keeper: None,
            deadlines: Deadlines::new(),
            outputs: VecDeque::new(),
            resumed: VecDeque::new(),
            starved: Vec::new(),
            is_behind: false,
            behind: Vec::new(),
            woken: Vec::new(),
            wills: VecDeque::new(),
            connected: 0,
            verifying: Vec::new(),
            queued: 0,
            queued_bytes: 0,
            spilled: 0,
            window: WINDOW,
            deliveries: 0,
            scratch: Scratch::default(),
            is_stopping: false,
            stats: Stats::default(),
            rng,
            #[cfg(debug_assertions)]
            mutations: 0,
        }
    }

    /// Applies other settings to what comes from now on; connected clients keep what CONNACK told
    /// them. Access is another matter: what a client may not receive any more is taken out of its
    /// queue, and a client whose password is not the one that it gave is disconnected.
    pub fn reconfigure(&mut self, now: Now, settings: Settings, outbox: &mut Outbox) {
        self.now = now;
        self.memory.set_limit(settings.memory);
        let before = core::mem::replace(&mut self.settings, settings);
        self.reconfigure_keeping();
        if before.access.rules != self.settings.access.rules {
            self.apply_rules();
        }
        if before.access.users != self.settings.access.users {
            self.authenticator.update(&self.settings.access);
            self.dismiss_users(&before.access, outbox);
        }
        self.finish(outbox);
    }

    /// Makes `base_topic/…` the gateway's own: clients may publish there only commands and
    /// requests. What was protected before is not any more.
    pub fn protect(&mut self, base_topic: &str) {
        self.access.protect(base_topic);
        self.routes.forget();
    }

    /// Every first draw of a message is answered `Pending` and yields [`Output::Fetch`]. For
    /// tests, which show by it that nothing depends on a draw being answered at once.
    pub fn set_fetch_every_draw(&mut self, fetch: bool) {
        self.messages.fetch_every_draw = fetch;
    }

    /// Another window than [`WINDOW`] for every session. For tests, in which so little waits that
    /// all of it would be in memory.
    pub fn set_window(&mut self, entries: usize) {
        self.window = entries;
    }

    /// A client has connected. Its send queue is open, and its receive buffer is empty.
    pub fn handle_accepted(
        &mut self,
        now: Now,
        conn: ConnId,
        admission: Admission,
        outbox: &mut Outbox,
    ) {
        debug_assert!(
            outbox.queue(conn).is_some(),
            "a connection has a send queue before anybody hears of it"
        );
        self.now = now;
        self.stats.accepted += 1;
        let excess = self.excess_of(&admission);
        let charge = self.memory.charge(CONNECTION_BYTES);
        let mut connection = Connection::new(admission, now.monotonic, excess, charge);
        let is_crowded = excess.is_some()
            && (self.refusals >= REFUSALS_MAX || admission.excess as usize > REFUSALS_MAX);
        let is_unheard = excess == Some(Excess::Rate) && admission.is_costly;
        self.refusals += usize::from(excess.is_some());
        if self.is_stopping || is_crowded || is_unheard {
            connection.phase = Phase::Closing;
            self.outputs.push_back(Output::Close {
                conn,
                how: CloseHow::Now,
            });
        }
        let before = self.connections.insert(conn, connection);
        debug_assert!(before.is_none(), "a slot is free before it is used again");
        self.arm_connection(conn);
        self.finish(outbox);
    }

    /// Bytes lie in the connection's receive buffer. Parses every complete packet, unless the
    /// connection is paused; then the rest is parsed when this is called again after
    /// [`Broker::poll_resumed`] has named the connection.
    pub fn handle_received(
        &mut self,
        now: Now,
        conn: ConnId,
        recv: &mut RecvBuffer,
        outbox: &mut Outbox,
    ) {
        self.now = now;
        let first = self.deliveries;
        loop {
            let Some(connection) = self.connections.get_mut(conn) else {
                recv.clear();
                break;
            };
            if connection.phase == Phase::Closing {
                recv.clear();
                break;
            }
            if connection.pause != Pause::No {
                break;
            }
            let is_full = !connection.version.is_v5()
                && matches!(connection.phase, Phase::Live(_))
                && connection.unsettled >= connection.receive_maximum.into();
            if is_full && !recv.bytes().is_empty() {
                connection.pause = Pause::Unsettled;
                self.stats.pauses += 1;
                break;
            }
            if self.is_behind
                && matches!(connection.phase, Phase::Live(_))
                && recv
                    .bytes()
                    .first()
                    .is_some_and(|byte| wants_keeping(*byte))
            {
                connection.pause = Pause::Behind;
                self.stats.pauses += 1;
                self.stats.journal_pauses += 1;
                self.behind.push(conn);
                break;
            }
            if self.deliveries - first >= DELIVERIES_PER_CALL_MAX && !recv.bytes().is_empty() {
                connection.pause = Pause::Over;
                self.resumed.push_back(conn);
                break;
            }
            let (most, first) = (
                self.settings.max_packet_size,
                self.settings.max_connect_size,
            );
            let limit = connection.takes.unwrap_or(most.min(first));
            let frame = frame::peek(recv.bytes(), limit);
            match frame {
                Err(error) => self.refuse_bytes(conn, recv.bytes(), &error, outbox),
                Ok(Frame::Incomplete { needed }) => {
                    self.await_rest(conn, needed, recv, outbox);
                    break;
                }
                Ok(Frame::Complete { total_len, .. }) => {
                    if let Some(frame) = recv.take_frame() {
                        let charge = self.memory.charge(frame.capacity());
                        let len = frame.len();
                        let frame = Payload::from_vec_charged(frame, 0..len, charge);
                        self.on_frame(conn, &frame, Some(&frame), outbox);
                    } else {
                        self.on_frame(conn, &recv.bytes()[..total_len], None, outbox);
                        recv.consume(total_len);
                    }
                }
            }
        }
        let connection = self.connections.get(conn);
        if connection.is_some_and(|connection| matches!(connection.phase, Phase::Live(_))) {
            recv.trust();
        }
        self.finish(outbox);
    }

    /// The network connection is gone, whoever closed it.
    pub fn handle_closed(&mut self, now: Now, conn: ConnId, outbox: &mut Outbox) {
        self.now = now;
        if let Some(connection) = self.connections.get(conn)
            && let Phase::Live(_) = connection.phase
        {
            self.stats.lost_connections += 1;
            let client = Tag(conn, &connection.client_id);
            log::info!("connection lost {client}");
            self.detach(conn, Fate::Publish);
        }
        if let Some(connection) = self.connections.remove(conn) {
            self.refusals -= usize::from(connection.excess.is_some());
            if let Some(address) = connection.counted_address() {
                self.addresses.leave(address);
            }
        }
        self.verifying.retain(|other| *other != conn);
        self.finish(outbox);
    }

    /// Something is due; see [`Broker::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now, outbox: &mut Outbox) {
        self.now = now;
        while let Some(timer) = self.deadlines.pop_due(now.monotonic) {
            match timer {
                Timer::Connection(conn) => self.on_connection_timer(conn, outbox),
                Timer::Session(session) => self.on_session_timer(session),
            }
        }
        while let Some((topic, number, message)) = self.retained.pop_expired(now.monotonic) {
            self.forget_retained(number, &topic, None);
            self.messages.release(message);
            self.stats.retained_expired += 1;
        }
        self.keep_dirty();
        self.lose_strays();
        self.finish(outbox);
    }

    /// A message's bytes are here: whoever waits for them is offered to the host again.
    pub fn handle_fetched(&mut self, now: Now, message: MessageId, outbox: &mut Outbox) {
        self.now = now;
        for session in self.messages.fetched(message) {
            if let Some(session) = self.sessions.get(session)
                && let Some(link) = &session.link
            {
                outbox.wake(link.conn);
            }
        }
        self.finish(outbox);
    }

    /// The end of a turn: what the journal has synced may leave. `synced` never falls; without a
    /// journal it is [`Broker::last_lsn`], or anything above.
    pub fn end_turn(&mut self, now: Now, synced: Lsn, outbox: &mut Outbox) {
        self.now = now;
        self.settle_to(synced, outbox);
        self.feed_starved();
        self.finish(outbox);
    }

    /// The last number that was given to a change: what the journal must have synced for everything
    /// to be settled.
    pub fn last_lsn(&self) -> Lsn {
        self.settle.last()
    }

    /// Whether nothing is to be read from this connection now: it is paused, or its end has been
    /// asked for, or it is gone.
    pub fn is_paused(&self, conn: ConnId) -> bool {
        self.connections.get(conn).is_none_or(|connection| {
            connection.phase == Phase::Closing || connection.pause != Pause::No
        })
    }

    /// A connection that may go on: what is kept in its buffer is to be parsed, then it is to be
    /// read again.
    pub fn poll_resumed(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.resumed.pop_front() {
            if let Some(connection) = self.connections.get_mut(conn)
                && connection.pause == Pause::Over
            {
                connection.pause = Pause::No;
                // It was we who did not listen.
                connection.heard_at = self.now.monotonic;
                self.arm_connection(conn);
                return Some(conn);
            }
        }
        None
    }

    /// What to do next; to be asked until it says nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Broker::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = [
            self.deadlines.next(),
            self.retained.next_expiry(),
            self.next_dirty(),
            self.next_stray(),
        ];
        next.into_iter().flatten().min()
    }

    /// Ends every connection, 5.0 clients with 0x8B, and refuses new ones. Sessions stay as they
    /// are.
    pub fn stop(&mut self, now: Now, outbox: &mut Outbox) {
        self.now = now;
        self.is_stopping = true;
        for conn in self.connections.keys() {
            self.disconnect(conn, ReasonCode::ServerShuttingDown, "", outbox);
        }
        self.keep_dirty();
        self.finish(outbox);
    }

    /// Whether anybody has subscribed to something below `$SYS`.
    pub fn is_system_watched(&self) -> bool {
        self.subscriptions.has_first_level(SYSTEM_LEVEL)
    }

    /// Counters and gauges.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether what is retained for the topic of this message says the same.
    pub fn has_retained(&self, message: &ApplicationMessage) -> bool {
        let found = self.retained.get(message.topic());
        found.is_some_and(|id| self.messages.get(id).message.payload() == message.payload())
    }

    /// What waits for each session that has something waiting or under way.
    pub fn queues(&self) -> impl Iterator<Item = SessionQueue<'_>> {
        let queues = self.sessions.iter().map(|(_, session)| SessionQueue {
            client_id: &session.client_id,
            is_connected: session.link.is_some(),
            is_kept: session.kept.is_some(),
            messages: session.queue.messages(),
            bytes: session.queue.bytes(),
            on_disk: session.queue.spilled(),
            inflight: session.inflight.len(),
        });
        queues.filter(|queue| queue.messages + queue.inflight > 0)
    }

    /// Connections that are open, those that only wait for a refusal or for their end included.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }
}

impl LastWill {
    fn of(
        id: SessionId,
        session: &Session,
        message: Box<ApplicationMessage>,
        kept: Option<Key>,
    ) -> Self {
        Self {
            origin: Origin::Client(id),
            client_id: session.client_id.clone(),
            permissions: session.permissions.clone(),
            message,
            kept,
        }
    }
}

/// How loud a line is that strangers can cause as often as they like: a warning for the first time
/// and each doubling, so that the log shows that and how fast it grows, and cannot be flooded.
fn level_of(count: u64) -> log::Level {
    if count.is_power_of_two() {
        log::Level::Warn
    } else {
        log::Level::Debug
    }
}

/// What becomes of the will when a session loses its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is published [MQTT-3.1.2-8].
    Publish,
    /// It is forgotten [MQTT-3.14.4-3].
    Discard,
}

impl Broker {
    /// Why a new connection is one too many, if it is.
    fn excess_of(&mut self, admission: &Admission) -> Option<Excess> {
        let room = self.settings.max_connections as usize;
        let is_full = self.connections.len() - self.refusals >= room || admission.excess > 0;
        let excess = if is_full {
            Err(Excess::Everybody)
        } else {
            let address = admission.address.filter(|_| !admission.is_exempt);
            let now = self.now.monotonic;
            address.map_or(Ok(()), |address| {
                self.addresses.enter(now, address, &self.settings)
            })
        };
        let excess = excess.err()?;
        let (count, what) = match excess {
            Excess::Everybody => (&mut self.stats.refused_connections, "connections"),
            Excess::Address => (
                &mut self.stats.refused_per_address,
                "connections of an address",
            ),
            Excess::Rate => (&mut self.stats.refused_connect_rate, "connections at once"),
        };
        *count += 1;
        if let Some(address) = admission.address {
            let (level, count) = (level_of(*count), *count);
            log::log!(level, "too many {what} address={address} count={count}");
        }
        Some(excess)
    }

    /// A connection has come to nothing by its own fault: its address pays for it.
    fn blame(&mut self, conn: ConnId) {
        let connection = self.connections.get(conn);
        if let Some(address) = connection.and_then(Connection::counted_address) {
            let now = self.now.monotonic;
            self.addresses.blame(now, address, &self.settings);
        }
    }

    /// Ends a connection from our side. Its client is told why in 5.0, unless it has not connected
    /// yet.
    fn disconnect(&mut self, conn: ConnId, reason: ReasonCode, why: &str, outbox: &mut Outbox) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        match connection.phase {
            Phase::Closing => {}
            // Nothing but CONNACK is said before it [MQTT-3.14.0-1].
            Phase::Authenticating if reason.is_allowed_in(PacketType::Connack) => {
                self.refuse_connect(conn, reason, why, outbox);
            }
            Phase::Fresh | Phase::Verifying | Phase::Authenticating => {
                connection.phase = Phase::Closing;
                connection.exchange = None;
                connection.charge.set(connection.cost());
                self.outputs.push_back(Output::Close {
                    conn,
                    how: CloseHow::Now,
                });
                if !self.is_stopping {
                    self.blame(conn);
                }
            }
            Phase::Live(_) => {
                self.detach(conn, Fate::Publish);
                self.goodbye(conn, reason, why, outbox);
            }
        }
    }

    /// Takes the session off a live connection, which is `Closing` from here on.
    fn detach(&mut self, conn: ConnId, fate: Fate) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let Phase::Live(id) = connection.phase else {
            return;
        };
        connection.phase = Phase::Closing;
        let will = connection.will.take();
        let kept = connection.kept_will.take();
        connection.aliases = Vec::new();
        connection.exchange = None;
        connection.charge.set(connection.cost());
        let will = will.filter(|_| fate == Fate::Publish);
        let delay = connection.will_delay;
        let session = self
            .sessions
            .get_mut(id)
            .expect("a live connection has a session");
        session.link = None;
        self.connected -= 1;
        let ends = session.expiry_seconds == 0;
        if let Some(will) = will {
            if ends || delay.is_zero() {
                self.wills.push_back(LastWill::of(id, session, will, kept));
            } else {
                let at = self.now.monotonic + delay;
                session.will = Some(WaitingWill::new(will, at, kept, &self.memory));
                self.keep_waiting_will(id, delay);
            }
        } else {
            self.forget_will(id, kept);
        }
        if ends {
            return self.remove_session(id); // [MQTT-4.1.0-2]
        }
        self.hand_over(id, Away::Lost);
        let session = self.sessions.get_mut(id).expect("it stays");
        // QoS 0 was for a client that is there; only the rest is session state (4.1), and nothing
        // else is kept.
        let messages = &mut self.messages;
        let stats = &mut self.stats;
        let (count, bytes) = session.queue.purge(
            |reference| reference.qos == QoS::AtMostOnce,
            |reference| {
                messages.release(reference.message);
                stats.dropped_offline += 1;
            },
        );
        self.queued -= count;
        self.queued_bytes -= bytes;
        session.expires_at = session.end_after(self.now.monotonic);
        self.rest(id);
        // Nobody waits for this to be synced: without it, its time runs from the next start.
        self.log_session(id, None);
        self.arm_session(id);
    }

    /// Sees to it that a timer stands at or before what happens next to a session without a client.
    fn arm_session(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            let due = session.due();
            if due < session.armed {
                session.armed = due;
                self.deadlines.arm(due, Timer::Session(id));
            }
        }
    }

    /// Forgets a session and everything in it, but for a will that waits, which is published now
    /// [MQTT-3.1.2-8]. Its client is not connected.
    fn remove_session(&mut self, id: SessionId) {
        let end = self.end_of_kept(id);
        let Some(mut session) = self.sessions.remove(id) else {
            return;
        };
        self.leave_all_shares(id, &mut session);
        for what in end {
            self.log(self.session_level(), what);
        }
        if let Some(will) = session.will.take() {
            self.wills
                .push_back(LastWill::of(id, &session, will.message, will.kept));
        }
        debug_assert!(
            session.link.is_none(),
            "a connected session stays [MQTT-4.1.0-1]"
        );
        self.clients.remove(&session.client_id);
        self.subscriptions.remove_all(Taker::Session(id));
        self.queued -= session.queue.messages();
        self.queued_bytes -= session.queue.bytes();
        self.spilled -= session.queue.spilled();
        for entry in session.queue.iter() {
            if let Entry::Message(Reference { message, .. }) = entry {
                self.messages.release(*message);
            }
        }
        for sent in session.inflight.iter() {
            if let inflight::Stage::Published(reference) = &sent.stage {
                self.messages.release(reference.message);
            }
        }
    }

    /// Bytes are not a packet.
    fn refuse_bytes(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        error: &DecodeError,
        outbox: &mut Outbox,
    ) {
        if matches!(error.fault, Fault::PacketTooLarge { .. }) {
            self.stats.oversized_packets += 1;
        }
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        if connection.phase == Phase::Fresh {
            self.refuse_connect_bytes(conn, bytes, error, outbox);
        } else {
            self.violate(conn, error.reason(), &error.to_string(), outbox);
        }
    }

    /// A client broke the rules: it is counted, logged, and disconnected [MQTT-4.13.1-1].
    #[cold]
    fn violate(&mut self, conn: ConnId, reason: ReasonCode, what: &str, outbox: &mut Outbox) {
        self.stats.protocol_errors += 1;
        if let Some(connection) = self.connections.get(conn) {
            let client = Tag(conn, &connection.client_id);
            let count = self.stats.protocol_errors;
            let level = level_of(count);
            log::log!(
                level,
                "protocol error {client} reason={reason} count={count}: {what}"
            );
        }
        self.disconnect(conn, reason, what, outbox);
    }

    /// A packet is not whole yet. A large one is reserved in memory, or its connection waits for
    /// that.
    fn await_rest(
        &mut self,
        conn: ConnId,
        needed: Option<usize>,
        recv: &mut RecvBuffer,
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let first = recv.bytes().first().copied();
        let first_type = first.and_then(PacketType::from_first_byte);
        if connection.phase == Phase::Fresh
            && first_type.is_some_and(|first_type| first_type != PacketType::Connect)
        {
            // Nothing but a CONNECT is waited for [MQTT-3.1.0-1].
            let why = "the first packet is not CONNECT";
            return self.violate(conn, ReasonCode::ProtocolError, why, outbox);
        }
        if connection.phase == Phase::Authenticating
            && first.is_some()
            && !authenticate::is_awaited(first_type)
        {
            let why = "neither AUTH nor DISCONNECT before CONNACK"; // [MQTT-3.1.2-30]
            return self.violate(conn, ReasonCode::ProtocolError, why, outbox);
        }
        let Some(total) = needed else {
            return;
        };
        if recv.expect_frame(total) == Err(OverBudget) {
            connection.pause = Pause::Memory(total);
            // From here its patience is with the memory.
            connection.heard_at = self.now.monotonic;
            self.stats.over_budget_packets += 1;
            self.stats.pauses += 1;
            self.starved.push(conn);
            self.arm_connection(conn);
        }
    }

    /// Whether more waits for the disk than should: then publications of QoS 1 and 2 are not taken
    /// from their connections, which is the way to tell their clients. What needs no disk goes on.
    pub fn set_behind(&mut self, is_behind: bool) {
        self.is_behind = is_behind;
        if is_behind {
            return;
        }
        for conn in core::mem::take(&mut self.behind) {
            if let Some(connection) = self.connections.get_mut(conn)
                && connection.pause == Pause::Behind
            {
                connection.pause = Pause::Over;
                self.resumed.push_back(conn);
            }
        }
    }

    /// Lets connections go on whose packets the memory budget has room for again.
    fn feed_starved(&mut self) {
        let connections = &mut self.connections;
        let (memory, resumed) = (&self.memory, &mut self.resumed);
        self.starved.retain(|conn| {
            let Some(connection) = connections.get_mut(*conn) else {
                return false;
            };
            match connection.pause {
                Pause::Memory(needed) if !memory.has_room(needed) => true,
                Pause::Memory(_) => {
                    connection.pause = Pause::Over;
                    resumed.push_back(*conn);
                    false
                }
                _ => false,
            }
        });
    }

    fn on_connection_timer(&mut self, conn: ConnId, outbox: &mut Outbox) {
        let now = self.now.monotonic;
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if connection.armed > now {
            return; // A later entry is the one that counts.
        }
        connection.armed = Instant::FAR_FUTURE;
        let is_starved = matches!(connection.pause, Pause::Memory(_));
        if !is_starved && connection.pause != Pause::No {
            // While we do not read a client its keep-alive does not run.
            connection.heard_at = now;
        }
        if connection
            .deadline(self.settings.connect_timeout)
            .is_none_or(|deadline| deadline > now)
        {
            return self.arm_connection(conn);
        }
        match connection.phase {
            Phase::Closing => {}
            Phase::Live(_) if matches!(connection.pause, Pause::Quota(until) if until <= now) => {
                connection.pause = Pause::Over;
                self.resumed.push_back(conn);
            }
            Phase::Fresh | Phase::Verifying | Phase::Authenticating => {
                self.stats.connect_timeouts += 1;
                log::debug!("no CONNECT came conn={conn}");
                self.disconnect(conn, ReasonCode::MaximumConnectTime, "", outbox);
            }
            Phase::Live(_)
                if connection
                    .proof_deadline(self.settings.connect_timeout)
                    .is_some_and(|deadline| deadline <= now) =>
            {
                let why = "no proof came in time";
                self.dismiss(conn, ReasonCode::NotAuthorized, why, outbox);
            }
            Phase::Live(_) if is_starved => {
                let why = "no memory for this packet";
                self.disconnect(conn, ReasonCode::QuotaExceeded, why, outbox);
            }
            Phase::Live(_) => {
                self.stats.keep_alive_timeouts += 1;
                let client = Tag(conn, &connection.client_id);
                log::info!("keep-alive expired {client}");
                // [MQTT-3.1.2-22]
                self.disconnect(conn, ReasonCode::KeepAliveTimeout, "", outbox);
            }
        }
    }

    fn on_session_timer(&mut self, id: SessionId) {
        let now = self.now.monotonic;
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if session.armed > now {
            return;
        }
        session.armed = Instant::FAR_FUTURE;
        if session.link.is_some() {
            return; // It is armed again when its client goes.
        }
        if let Some(will) = session.will.take_if(|will| will.at <= now) {
            self.wills
                .push_back(LastWill::of(id, session, will.message, will.kept));
        }
        if session.expires_at > now {
            return self.arm_session(id);
        }
        log::info!(
            "session expired client={}",
            session.client_id.escape_debug()
        );
        self.stats.expired_sessions += 1;
        self.remove_session(id); // [MQTT-4.1.0-2]
    }

    /// Sees to it that a timer stands at or before the connection's deadline.
    fn arm_connection(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(conn)
            && let Some(deadline) = connection.deadline(self.settings.connect_timeout)
            && deadline < connection.armed
        {
            connection.armed = deadline;
            self.deadlines.arm(deadline, Timer::Connection(conn));
        }
    }

    /// The end of every call: wills that it brought about are published, gauges are set, invariants
    /// hold.
    fn finish(&mut self, outbox: &mut Outbox) {
        while let Some(will) = self.wills.pop_front() {
            self.publish_will(&will, outbox);
        }
        for conn in self.woken.drain(..) {
            outbox.wake(conn);
        }
        self.sweep_deadlines();
        self.update_gauges();
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    /// Deadlines of connections and sessions that are gone, or have come forward, stand until they
    /// pass, which may be in a week: when most of them are such, these are taken out.
    fn sweep_deadlines(&mut self) {
        let live = self.connections.len() + self.sessions.len();
        if self.deadlines.len() > STALE_DEADLINES_MAX + 2 * live {
            let (connections, sessions) = (&self.connections, &self.sessions);
            self.deadlines.retain(|at, timer| match timer {
                Timer::Connection(conn) => connections.get(conn).is_some_and(|it| it.armed == at),
                Timer::Session(id) => sessions.get(id).is_some_and(|it| it.armed == at),
            });
        }
    }

    fn update_gauges(&mut self) {
        self.stats.connections = self.connections.len() as u64;
        self.stats.addresses = self.addresses.len() as u64;
        self.stats.deadlines = self.deadlines.len() as u64;
        self.stats.sessions = self.sessions.len() as u64;
        self.stats.connected = self.connected as u64;
        // A group is one taker in the trie.
        let unshared = self.subscriptions.len() - self.shared.groups();
        self.stats.subscriptions = (unshared + self.shared.members()) as u64;
        self.stats.retained = self.retained.len() as u64;
        self.stats.retained_bytes = self.retained.bytes() as u64;
        self.stats.messages = self.messages.len() as u64;
        self.stats.queued = self.queued as u64;
        self.stats.queued_bytes = self.queued_bytes as u64;
        self.stats.queued_on_disk = self.spilled as u64;
    }

    /// What must hold between calls. Every call while there is little to look at, later one in 64.
    #[cfg(debug_assertions)]
    fn check_invariants(&mut self) {
        use std::collections::BTreeMap;

        self.mutations = self.mutations.wrapping_add(1);
        let is_large = self.messages.len() + self.sessions.len() > 100;
        if is_large && !self.mutations.is_multiple_of(64) {
            return;
        }
        let mut references: BTreeMap<MessageId, u32> = BTreeMap::new();
        let (mut queued, mut queued_bytes, mut spilled) = (0, 0, 0);
        for (id, session) in self.sessions.iter() {
            assert_eq!(self.clients.get(&session.client_id), Some(&id));
            queued += session.queue.messages();
            queued_bytes += session.queue.bytes();
            spilled += session.queue.spilled();
            let (mut messages, mut bytes) = (0, 0);
            for entry in session.queue.iter() {
                if let Entry::Message(reference) = entry {
                    *references.entry(reference.message).or_default() += 1;
                    messages += 1;
                    bytes += reference.cost;
                }
            }
            session.queue.check_invariants(messages, bytes);
            let is_spilling = session.queue.is_spilling();
            assert!(!is_spilling || session.kept.is_some());
            for sent in session.inflight.iter() {
                if let inflight::Stage::Published(reference) = &sent.stage {
                    *references.entry(reference.message).or_default() += 1;
                }
            }
            match &session.link {
                Some(link) => {
                    let connection = self
                        .connections
                        .get(link.conn)
                        .expect("a link leads somewhere");
                    assert_eq!(connection.phase, Phase::Live(id));
                    assert!(
                        session.will.is_none(),
                        "a client that is back keeps its will"
                    );
                    // A client may come back with a smaller window than it has released.
                    let most = session.inflight.len().max(link.window.into());
                    assert!(usize::from(link.unacknowledged) <= most);
                }
                None => assert!(session.armed <= session.due()),
            }
        }
        assert_eq!((queued, queued_bytes), (self.queued, self.queued_bytes));
        assert_eq!(spilled, self.spilled);
        assert_eq!(self.clients.len(), self.sessions.len());
        let linked = self.sessions.iter().filter(|(_, one)| one.link.is_some());
        assert_eq!(linked.count(), self.connected);
        for (_, message) in self.retained.iter() {
            *references.entry(message).or_default() += 1;
        }
        let kept: BTreeMap<_, _> = self.messages.references().collect();
        assert_eq!(
            references, kept,
            "every reference is counted, and no message is left over"
        );
        let live = |phase| matches!(phase, Phase::Live(_));
        for (conn, connection) in self.connections.iter() {
            if let Phase::Live(id) = connection.phase {
                let session = self
                    .sessions
                    .get(id)
                    .expect("a live connection has a session");
                assert_eq!(session.link.as_ref().map(|link| link.conn), Some(conn));
            }
            assert!(live(connection.phase) || connection.will.is_none());
            let is_authenticating = connection.phase == Phase::Authenticating;
            assert!(is_authenticating || live(connection.phase) || connection.exchange.is_none());
            assert!(!is_authenticating || connection.exchange.is_some());
        }
        let waiting: u32 = self
            .connections
            .iter()
            .map(|(_, connection)| connection.waiting)
            .sum();
        assert!(waiting as usize <= self.settle.len());
        let excess = self
            .connections
            .iter()
            .filter(|(_, one)| one.excess.is_some());
        assert_eq!(excess.count(), self.refusals);
        assert!(self.wills.is_empty());
        assert!(self.verifying.len() <= VERIFICATIONS_MAX);
        for conn in &self.verifying {
            let connection = self.connections.get(*conn);
            assert!(connection.is_some(), "who is gone is not verified");
        }
    }
}

/// Whether a packet that begins so is a PUBLISH of QoS 1 or 2 (5.0, 3.3.1).
fn wants_keeping(first: u8) -> bool {
    first >> 4 == 3 && first & 0b110 != 0
}
