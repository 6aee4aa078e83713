//! The link to an upstream broker, without I/O.
//!
//! A [`Bridge`] is one upstream. It decides when to dial and whom, speaks MQTT through the
//! [client machine](crate::mqtt::client), keeps what is to be sent until the peer has it, and hands
//! on what it receives. Its host does what [`Bridge::poll_output`] says and reports back.
//!
//! ```text
//!          ┌──────────── pause over ────────────┐
//!          ▼                                    │
//! idle ─► dialling ─ transport ─► connecting ─ CONNACK ─► up
//!          │  ▲                       │                   │
//!          │  └── next endpoint ──────┤                   │
//!          └───── none left ──────► waiting ◄── closing ◄─┘
//! ```
//!
//! * **Endpoints** are tried in their order; after the last one there is a pause, which doubles up
//!   to a longest one, with jitter. What only a person can mend (a wrong password, an identifier
//!   that is not allowed, another client that has ours) makes the pause the longest at once. A
//!   connection that lasts [`STEADY`] makes the next pause the shortest. Linked to another endpoint
//!   than the first, the first is dialled every `failback` while the link stays up, and takes over
//!   when its transport is open.
//! * **Version** `auto` tries 5.0, and 3.1.1 on the same endpoint if the peer says that it does not
//!   know 5.0, which is remembered, or closes without a word or with nonsense, which is tried anew
//!   the next time.
//! * **Stalled** is a link on which something is under way and nothing is acknowledged for
//!   `stalled_after`.
//! * **Sending**: each message waits in the queue until the peer has acknowledged it; see
//!   [`mapping`] for its topic. What the peer or its
//!   profile cannot take is adapted where it may be (QoS, RETAIN) and else handed up as
//!   [`Output::DeadLetter`]: a message that is too large, has a topic or a payload that the peer
//!   refuses, that it refuses [`TRIES_MAX`] times without saying why, or for which alone it closes
//!   the connection [`SUSPECT_MAX`] times in a row.
//! * **Two lanes**: what waits when the link comes up is backlog, and is drawn at `replay_rate` and
//!   with at most three quarters of the window, so that live messages are not held up. A backlog
//!   message has the user properties [`BACKLOG_PROPERTY`] and `time`, and no RETAIN if a retained
//!   message of its topic came after it.
//! * **Loops** are broken three times: we ask the peer not to send us our own (no local, 5.0);
//!   [`ORIGIN_PROPERTY`] and [`HOPS_PROPERTY`] say where a message entered a bridge first and how
//!   many it has crossed; and towards a peer of 3.1.1, what was sent on a topic that a receiving
//!   rule matches is remembered for [`ECHO_TIME`], and taken for the echo when it comes in.
//! * **QoS 2** is exactly once across a power cut too, where what is sent is kept: before PUBLISH,
//!   PUBREL and PUBCOMP the bridge has it noted how far the message is; see [`Note`]. Where nothing
//!   is kept, or that was damaged, a bridge that sends at QoS 2 begins with a clean session: its
//!   peer would take new messages for those that an earlier process has left half way.
//! * **Receiving**: a QoS 1 message with DUP and the user properties
//!   [`ORIGIN_PROPERTY`] and `seq` is handed on once. A command is *late* if it has RETAIN, or if
//!   the peer kept our session and the command comes within [`LATE_QUIET`] of the connection or of
//!   the last late one, and within [`LATE_MAX`] of the connection: what waited upstream comes in
//!   one go, so a second's silence ends it. A rule refuses late commands unless it says
//!   otherwise; other messages are taken.
//! * A peer, whatever it sends, can do nothing but be disconnected.
//!
//! | limit | at the limit | counter |
//! |---|---|---|
//! | the queue's bytes, messages, age, and the memory budget | as configured | [`Stats::dropped_full`] and its neighbours |
//! | window: the peer's Receive Maximum, `inflight_maximum`, the profile's | messages wait | [`Status::inflight`] |
//! | [`HOPS_MAX`] | not sent, not taken | [`Stats::loops`] |
//! | [`REMEMBERED_MAX`] fingerprints of each kind | the oldest is forgotten | |
//! | [`FILTERS_MAX`] filters in a SUBSCRIBE | another SUBSCRIBE | |

mod backoff;
pub mod mapping;
mod memory;
mod message;
mod pace;
mod queue;
mod receive;
mod send;
pub mod settings;
mod stats;
mod steps;

use core::fmt;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use self::backoff::Backoff;
use self::mapping::{Mapping, MappingError};
use self::memory::Remembered;
pub use self::memory::{ECHO_TIME, REMEMBERED_MAX};
use self::pace::Pace;
use self::queue::{Lane, Queue, Seq};
use self::settings::{Endpoint, SendRule, Settings, Version};
pub use self::stats::{Phase, Stats, Status};
use self::steps::Notes;
pub use self::steps::{Kept, Note, Underway};
use crate::buffer::{Memory, Payload};
use crate::id::{ConnId, Lsn, RuleId};
use crate::mqtt::client::{
    AckToken, Acknowledge, Client, CloseCause, ConnectOptions, Event, OptionsError, Steps,
    WillOptions,
};
use crate::mqtt::{
    ApplicationMessage, PacketId, ProtocolVersion, PublishProperties, QoS, ReasonCode,
    ReceiveMaximum, TopicError, TopicName, UserPropertiesBuf,
};
use crate::rng::Rng;
use crate::time::{Duration, Instant, Now, WallTime};
use crate::units::Rate;

/// The user property that names the gateway which put a message on a bridge first.
pub const ORIGIN_PROPERTY: &str = "fieldgate-origin";

/// The user property that says how many bridges a message has crossed.
pub const HOPS_PROPERTY: &str = "fieldgate-hops";

/// The user property of a message that waited while the link was down: `1`.
pub const BACKLOG_PROPERTY: &str = "fieldgate-backlog";

/// Bridges that a message may cross.
pub const HOPS_MAX: u32 = 8;

/// A connection that lasts so long was a good one.
pub const STEADY: Duration = Duration::from_secs(10);

/// Silence after which no more commands that waited upstream are expected.
pub const LATE_QUIET: Duration = Duration::from_secs(1);

/// How long after a connection commands that waited upstream are expected at most.
pub const LATE_MAX: Duration = Duration::from_secs(60);

/// Filters in one SUBSCRIBE; a profile may allow fewer.
pub const FILTERS_MAX: usize = 8;

/// Sending rules of one bridge, and receiving ones.
pub const RULES_MAX: usize = 256;

/// Times that a message is sent which the peer refuses without saying why.
pub const TRIES_MAX: u32 = 3;

/// Times in a row that the peer closes the connection with the same message under way, the last
/// ones with nothing else, before that message is given up.
pub const SUSPECT_MAX: u32 = 5;

/// After so many of them the message is sent alone.
const SUSPECT_ALONE: u32 = 2;

/// How long nothing is sent after the peer has refused something for now.
const PUT_OFF: Duration = Duration::from_secs(5);

/// How long the last words of a connection may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// QoS and RETAIN of a will before the peer has said what it takes.
const WILL_AT_FIRST: (QoS, bool) = (QoS::AtLeastOnce, true);

/// Topic Aliases that we take from the peer, and that we use towards it.
const ALIASES: u16 = 32;

/// What the host has read from where the settings say, for one connection.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: Option<Box<str>>,
    /// The password.
    pub password: Option<Box<[u8]>>,
}

/// Secrets are never printed, and a user name may be one.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("has_username", &self.username.is_some())
            .field("has_password", &self.password.is_some())
            .finish()
    }
}

/// Do this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a transport; answered by [`Bridge::handle_dialled`] or [`Bridge::handle_unreachable`].
    Dial {
        /// Where to.
        endpoint: Endpoint,
    },
    /// Forget the last [`Output::Dial`].
    Undial,
    /// Close a connection; answered by [`Bridge::handle_closed`].
    Close {
        /// Which.
        conn: ConnId,
        /// What was filled in is to be sent first.
        after_flush: bool,
    },
    /// A message has been received: publish it.
    Publish {
        /// With its local topic, and QoS and RETAIN as received.
        message: ApplicationMessage,
        /// Of QoS 2, the identifier under which the peer may send it again: to be kept with the
        /// message, until [`Note::Completed`].
        packet_id: Option<PacketId>,
        /// To be settled ([`Bridge::settle`]) once the message is as safe as it is going to be;
        /// `None` of QoS 0.
        ticket: Option<Ticket>,
    },
    /// How far a QoS 2 message is: to be kept, and answered by [`Bridge::handle_noted`].
    Note(Note),
    /// A message that the peer never takes. It has left the queue: keep it for people to look at.
    DeadLetter {
        /// As it was to be sent.
        message: Rc<ApplicationMessage>,
        /// When it was published; `None` if the clock was not set.
        time: Option<WallTime>,
        /// Why.
        reason: DeadReason,
    },
}

/// The right to settle one received message, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(AckToken);

/// A message's place among what is kept for a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Higher than those before it.
    pub sequence: u64,
    /// The change that keeps it; `None`: it is not kept.
    pub lsn: Option<Lsn>,
    /// It may be sent only once that is synced.
    pub is_held: bool,
}

/// A message that was kept and comes back.
#[derive(Debug, Clone, Copy)]
pub struct Restored<'a> {
    /// The rule that took it; `None`: that cannot be read.
    pub rule: Option<RuleId>,
    /// As it was published; `None`: it cannot be read.
    pub message: Option<&'a ApplicationMessage>,
    /// When it was kept; `None` if the clock was not set.
    pub kept_at: Option<WallTime>,
    /// What is retained here for its topic says the same: nothing newer has been sent, or the same
    /// again.
    pub is_current: bool,
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadReason {
    /// The peer said so.
    Refused(ReasonCode),
    /// Larger than the peer takes, in bytes of the whole packet.
    TooLarge {
        /// What it has.
        len: usize,
        /// What the peer takes.
        max: usize,
    },
    /// Its topic is not one for a broker of this profile.
    TopicOutOfProfile,
    /// It has as many user properties as there may be, so it cannot be marked.
    TooManyProperties,
    /// The peer closes the connection whenever it gets it.
    ClosesConnection,
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::TooLarge { len, max } => write!(f, "{len} bytes, and the peer takes {max}"),
            Self::TopicOutOfProfile => f.write_str("the peer takes no such topic"),
            Self::TooManyProperties => f.write_str("too many user properties"),
            Self::ClosesConnection => f.write_str("the peer closes the connection for it"),
        }
    }
}

/// Why settings make no bridge: the operator's to fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsError {
    /// No endpoint.
    NoEndpoint,
    /// No client identifier.
    NoClientId,
    /// More rules than can be named.
    TooManyRules,
    /// A sending rule, by its place, and what is wrong with it.
    Send(usize, MappingError),
    /// A receiving rule, by its place, and what is wrong with it.
    Receive(usize, MappingError),
    /// The state topic is none.
    StateTopic(TopicError),
    /// No CONNECT can be made.
    Connect(OptionsError),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndpoint => f.write_str("no endpoint"),
            Self::NoClientId => f.write_str("no client identifier"),
            Self::TooManyRules => f.write_str("too many rules"),
            Self::Send(index, error) => write!(f, "sending rule {}: {error}", index + 1),
            Self::Receive(index, error) => write!(f, "receiving rule {}: {error}", index + 1),
            Self::StateTopic(error) => write!(f, "the state topic: {error}"),
            Self::Connect(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SettingsError {}

/// One upstream; see the module's documentation.
#[derive(Debug)]
pub struct Bridge {
    /// For the log.
    name: Box<str>,
    settings: Settings,
    send: Vec<Mapping>,
    /// Of each sending rule, where its backlog goes if that cannot be marked.
    backlog: Vec<Option<Mapping>>,
    receive: Vec<Mapping>,
    rng: Rng,
    state: State,
    /// One for as long as the bridge lives: it has the session.
    client: Client,
    /// The connection that `client` speaks on.
    conn: Option<ConnId>,
    /// The endpoint of `conn`, or of the next attempt.
    endpoint: usize,
    /// The endpoint that is being dialled.
    dial: Option<usize>,
    /// A transport to the first endpoint that takes over when the present one is closed.
    standby: Option<(ConnId, Credentials)>,
    /// Endpoints that failed since the last pause.
    failed: usize,
    /// One of them for a reason that only a person can mend.
    failed_for_good: bool,
    backoff: Backoff,
    /// What to do once the connection is closed.
    next: Next,
    /// The peer does not know 5.0, it said so; or it may be so, and 3.1.1 is tried once.
    older: Older,
    /// The QoS and RETAIN that the peer takes of a will, as far as it has said.
    will: (QoS, bool),
    failback_at: Option<Instant>,
    last_error: Option<Box<str>>,

    queue: Queue,
    /// How far messages of QoS 2 are, as far as somebody keeps that.
    notes: Notes,
    /// To be started once what was under way is back.
    is_to_start: bool,
    /// The first connection ends what an earlier process may have left with the peer.
    begins_clean: bool,
    /// What the client has under way.
    flights: BTreeMap<PacketId, Flight>,
    next_flight: u64,
    /// How often an entry that is not in flight has been refused without a reason.
    refusals: BTreeMap<Seq, u32>,
    /// The first message under way when the peer closed the connection, and how often in a row.
    suspect: Option<(Seq, u32)>,
    /// Everything that the client had was sent on this connection.
    has_flushed: bool,
    /// The transport has been closed just now, by the peer and in order.
    is_closed_by_peer: bool,
    /// When something was acknowledged last, or there was nothing to be.
    progress_at: Instant,
    replay: Pace,
    /// What the profile allows in all.
    pace: Pace,
    /// Until then nothing is sent, for the peer cannot take it.
    hold_until: Option<Instant>,
    /// When a lane that waits for its pace may go on.
    pace_at: Option<Instant>,
    sent_before: Remembered,
    received_before: Remembered,

    /// Receiving rules that the peer is yet to be asked for.
    to_subscribe: VecDeque<usize>,
    /// Those that it was asked for.
    asked: BTreeMap<PacketId, Vec<usize>>,
    /// Filters that it was asked for in this process, and their QoS.
    subscribed: BTreeMap<Box<str>, QoS>,
    /// Filters that it is to be asked to forget.
    to_unsubscribe: Vec<Box<str>>,
    late_until: Instant,
    late_max: Instant,

    outputs: VecDeque<Output>,
    /// Something may be sent.
    wake: bool,
    stats: Stats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Waiting {
        until: Instant,
    },
    Dialling,
    Connecting,
    Up {
        since: Instant,
    },
    /// The client has said its last; the transport is to be closed, and after `deadline` whatever
    /// is unsent.
    Closing {
        deadline: Instant,
        is_asked: bool,
    },
}

/// What follows a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The same endpoint at once: an older version, or a will that it takes.
    Again,
    /// The next endpoint, at once if there is one that was not tried.
    Failed { for_good: bool },
    /// A pause: it was linked for so long.
    Lost { was_steady: bool },
    /// The standby, or else the first endpoint.
    First,
    /// Nothing.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Older {
    /// 5.0 as far as we know.
    No,
    /// 3.1.1 for one attempt, and for as long as that connection lasts.
    Once,
    /// The peer said so.
    Yes,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    /// In the order in which they were given to the client.
    order: u64,
    what: Cargo,
}

#[derive(Debug, Clone, Copy)]
enum Cargo {
    /// The state topic's.
    State { is_online: bool },
    Message {
        seq: Seq,
        lane: Lane,
        /// How far it is is noted.
        is_noted: bool,
    },
    /// A message that is nobody's any more, or that the peer has: only its identifier is to be
    /// released.
    Released { seq: Seq },
}

impl Bridge {
    /// A bridge that does nothing before [`Bridge::start`].
    ///
    /// # Errors
    /// If the settings make none.
    pub fn new(
        name: &str,
        settings: Settings,
        memory: &Memory,
        rng: &mut Rng,
    ) -> Result<Self, SettingsError> {
        let mut rng = rng.fork();
        let Mappings {
            send,
            backlog,
            receive,
        } = mappings(&settings)?;
        let options = connect_options(&settings, first_version(&settings), WILL_AT_FIRST);
        let client = Client::new(options).map_err(SettingsError::Connect)?;
        let mut bridge = Self {
            name: name.into(),
            send,
            backlog,
            receive,
            state: State::Idle,
            client,
            conn: None,
            endpoint: 0,
            dial: None,
            standby: None,
            failed: 0,
            failed_for_good: false,
            backoff: Backoff::default(),
            next: Next::Stop,
            older: Older::No,
            will: WILL_AT_FIRST,
            failback_at: None,
            last_error: None,
            queue: Queue::new(settings.queue, memory, &mut rng),
            notes: Notes::default(),
            is_to_start: false,
            begins_clean: true,
            flights: BTreeMap::new(),
            next_flight: 0,
            refusals: BTreeMap::new(),
            suspect: None,
            has_flushed: false,
            is_closed_by_peer: false,
            progress_at: Instant::default(),
            replay: Pace::new(settings.replay_rate),
            pace: Pace::new(profile_rate(&settings)),
            hold_until: None,
            pace_at: None,
            sent_before: Remembered::new(&mut rng),
            received_before: Remembered::new(&mut rng),
            to_subscribe: VecDeque::new(),
            asked: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            to_unsubscribe: Vec::new(),
            late_until: Instant::default(),
            late_max: Instant::default(),
            outputs: VecDeque::new(),
            wake: false,
            stats: Stats::default(),
            rng,
            settings,
        };
        bridge.update_stats();
        Ok(bridge)
    }

    /// Begins to dial, once what was under way is back ([`Bridge::recover`]).
    pub fn start(&mut self) {
        self.is_to_start = true;
        self.start_if_whole();
        self.check_invariants();
    }

    /// Says goodbye: `offline`, then DISCONNECT. What waits, waits.
    pub fn stop(&mut self, now: Now) {
        self.is_to_start = false;
        self.undial();
        match self.state {
            State::Idle => {}
            State::Waiting { .. } | State::Dialling => self.state = State::Idle,
            State::Closing { .. } => self.next = Next::Stop,
            State::Connecting | State::Up { .. } => {
                self.say_state("offline", now.monotonic);
                self.client.disconnect(ReasonCode::NORMAL_DISCONNECTION);
                self.close(now.monotonic, Next::Stop);
            }
        }
        self.handle_events(now);
        self.check_invariants();
    }

    /// Whether it is stopped and has no connection.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Other settings hold from here on. What they do not concern is not touched: the connection
    /// stays unless it would be made otherwise, and what waits keeps the rule under which it came.
    ///
    /// # Errors
    /// If the settings make no bridge; then those before stay.
    pub fn reconfigure(&mut self, now: Now, settings: Settings) -> Result<(), SettingsError> {
        let mappings = mappings(&settings)?;
        let options = connect_options(&settings, first_version(&settings), WILL_AT_FIRST);
        options.check().map_err(SettingsError::Connect)?;
        let is_same = is_same_connection(&self.settings, &settings);
        self.queue.set_limits(settings.queue);
        self.replay.set_rate(settings.replay_rate);
        self.pace.set_rate(profile_rate(&settings));
        self.send = mappings.send;
        self.backlog = mappings.backlog;
        self.receive = mappings.receive;
        self.settings = settings;
        if is_same {
            self.update_subscriptions(now.monotonic);
            self.wake = true;
        } else {
            self.will = WILL_AT_FIRST;
            self.older = Older::No;
            self.reconnect(now.monotonic);
        }
        self.handle_events(now);
        self.check_invariants();
        Ok(())
    }

    /// What it is to be.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A transport is open, TLS and WebSocket included. Unless [`Output::Close`] follows, its bytes
    /// are the bridge's from here on.
    pub fn handle_dialled(&mut self, now: Now, conn: ConnId, credentials: Credentials) {
        match (self.dial.take(), self.state) {
            (Some(endpoint), State::Dialling) => {
                self.endpoint = endpoint;
                self.begin(now.monotonic, conn, credentials);
            }
            (Some(_), State::Up { .. }) => {
                log::info!("bridge {} goes back to its first address", self.name);
                self.stats.failbacks += 1;
                self.standby = Some((conn, credentials));
                self.client.disconnect(ReasonCode::NORMAL_DISCONNECTION);
                self.close(now.monotonic, Next::First);
            }
            // It is not wanted any more.
            _ => self.ask_to_close(conn, false),
        }
        self.handle_events(now);
        self.check_invariants();
    }

    /// No transport could be opened. `error` is for people.
    pub fn handle_unreachable(&mut self, now: Now, error: &str) {
        let Some(endpoint) = self.dial.take() else {
            return;
        };
        self.stats.dials_failed += 1;
        if let Some(endpoint) = self.settings.endpoints.get(endpoint) {
            log::info!("bridge {} cannot reach {endpoint}: {error}", self.name);
        }
        if self.state == State::Dialling {
            self.last_error = Some(error.into());
            self.attempt_failed(now.monotonic, false);
        }
        self.check_invariants();
    }

    /// Bytes have come. Returns how many were consumed: if they are not all, the rest is an
    /// incomplete packet, or waits for room: offer it again after [`Bridge::fill`] or
    /// [`Bridge::settle`].
    pub fn handle_input(&mut self, now: Now, conn: ConnId, bytes: &[u8]) -> usize {
        if self.conn != Some(conn) {
            return bytes.len();
        }
        let mut consumed = 0;
        loop {
            let count = self.client.handle_input(now.monotonic, &bytes[consumed..]);
            consumed += count;
            let is_news = self.handle_events(now);
            if count == 0 && !is_news || consumed == bytes.len() {
                break;
            }
        }
        self.wake = true;
        self.check_invariants();
        consumed
    }

    /// A transport is gone; `by_peer` says that the peer closed it in order.
    pub fn handle_closed(&mut self, now: Now, conn: ConnId, by_peer: bool) {
        if self.standby.as_ref().is_some_and(|(it, _)| *it == conn) {
            self.standby = None;
        }
        if self.conn != Some(conn) {
            return;
        }
        self.is_closed_by_peer = by_peer;
        self.client.handle_closed();
        self.handle_events(now);
        self.is_closed_by_peer = false;
        self.conn = None;
        self.give_up_suspect();
        self.go_on(now.monotonic);
        self.check_invariants();
    }

    /// Something that came by the connection cannot be dealt with: it is given up, so that the peer
    /// sends that again. `why` is for people.
    pub fn give_up_connection(&mut self, now: Now, why: &str) {
        if matches!(self.state, State::Connecting | State::Up { .. }) {
            log::warn!("bridge {} gives up its connection: {why}", self.name);
            self.stats.lost += 1;
            self.last_error = Some(why.into());
            let next = self.next_after_loss(now.monotonic);
            self.cut(now.monotonic, next);
        }
        self.handle_events(now);
        self.check_invariants();
    }

    /// Time has come to [`Bridge::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        let at = now.monotonic;
        match self.state {
            State::Waiting { until } if until <= at => self.dial(self.endpoint),
            State::Closing { deadline, is_asked } if deadline <= at && !is_asked => {
                self.state = State::Closing {
                    deadline,
                    is_asked: true,
                };
                self.ask_to_close_ours(false);
            }
            State::Up { .. } if self.stalled_at().is_some_and(|when| when <= at) => {
                log::warn!("bridge {} is stalled: nothing is acknowledged", self.name);
                self.stats.stalled += 1;
                self.last_error = Some("nothing is acknowledged".into());
                let next = self.next_after_loss(at);
                self.cut(at, next);
            }
            _ => {}
        }
        if self.failback_at.is_some_and(|when| when <= at) {
            self.failback_at = self.settings.failback.map(|after| at + after);
            if self.dial.is_none() && matches!(self.state, State::Up { .. }) {
                self.stats.dials += 1;
                self.dial = Some(0);
                let endpoint = self.settings.endpoints[0].clone();
                self.outputs.push_back(Output::Dial { endpoint });
            }
        }
        if self.hold_until.is_some_and(|when| when <= at) {
            self.try_notes_again();
        }
        if self.pace_at.is_some_and(|when| when <= at) {
            self.pace_at = None;
            self.wake = true;
        }
        self.client.handle_timeout(at);
        if self.client.poll_timeout().is_some_and(|when| when > at) {
            // It may have a PINGREQ to send.
            self.wake = true;
        }
        self.handle_events(now);
        self.check_invariants();
    }

    /// When [`Bridge::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let state = match self.state {
            State::Waiting { until } => Some(until),
            State::Closing {
                deadline,
                is_asked: false,
            } => Some(deadline),
            State::Up { .. } => self.stalled_at(),
            _ => None,
        };
        [
            state,
            self.failback_at,
            self.hold_until,
            self.pace_at,
            self.client.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The connection that [`Bridge::fill`] may have something for; asked once after each call.
    pub fn poll_wake(&mut self) -> Option<ConnId> {
        core::mem::take(&mut self.wake)
            .then_some(self.conn)
            .flatten()
    }

    /// What it has counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How it is.
    pub fn status(&self, now: Now) -> Status {
        let up_for = match self.state {
            State::Up { since } => Some(now.monotonic.since(since)),
            _ => None,
        };
        Status {
            phase: self.phase(),
            endpoint: self.endpoint,
            version: self.client.options().version,
            up_for,
            queue_length: self.queue.len(),
            queue_bytes: self.queue.bytes(),
            backlog_length: self.queue.backlog_len(),
            on_disk: self.queue.spilled(),
            inflight: self.flights.len(),
            held: self.held_flights(),
            lag: self
                .queue
                .oldest()
                .map_or(Duration::ZERO, |at| now.monotonic.since(at)),
            last_error: self.last_error.clone(),
        }
    }

    /// What went wrong last, until it is up again.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Idle => Phase::Idle,
            State::Waiting { .. } => Phase::Waiting,
            State::Dialling => Phase::Dialling,
            State::Connecting => Phase::Connecting,
            State::Up { .. } => Phase::Up,
            State::Closing { .. } => Phase::Closing,
        }
    }

    // ---- attempts

    fn dial(&mut self, endpoint: usize) {
        self.endpoint = endpoint;
        self.state = State::Dialling;
        if self.dial.is_some() {
            // A better address is being dialled already.
            return;
        }
        self.stats.dials += 1;
        self.dial = Some(endpoint);
        let endpoint = self.settings.endpoints[endpoint].clone();
        self.outputs.push_back(Output::Dial { endpoint });
    }

    fn undial(&mut self) {
        if self.dial.take().is_some() {
            self.outputs.push_back(Output::Undial);
        }
        if let Some((conn, _)) = self.standby.take() {
            self.ask_to_close(conn, false);
        }
        self.failback_at = None;
    }

    fn begin(&mut self, now: Instant, conn: ConnId, credentials: Credentials) {
        let version = match (self.settings.version, self.older) {
            (Version::Pinned(version), _) => version,
            (Version::Auto, Older::Once | Older::Yes) => ProtocolVersion::V4,
            (Version::Auto, Older::No) => first_version(&self.settings),
        };
        self.conn = Some(conn);
        let suspicion = self.suspect.map_or(0, |(_, times)| times);
        let mut options = connect_options(&self.settings, version, self.will);
        // A process before this one may have left QoS 2 messages half way, under packet identifiers
        // that the peer would take ours for.
        let has_qos_2 = |rule: &SendRule| rule.qos == QoS::ExactlyOnce;
        options.clean_start |= self.begins_clean && self.settings.send.iter().any(has_qos_2);
        options.steps = self.steps();
        options.username = credentials.username.map(String::from);
        options.password = credentials.password.map(Vec::from);
        if suspicion >= SUSPECT_ALONE {
            options.inflight_maximum = 1;
        }
        if let Err(error) = self.client.set_options(options) {
            log::warn!("bridge {} cannot connect: {error}", self.name);
            self.last_error = Some(error.to_string().into());
            self.cut(now, Next::Failed { for_good: true });
            return;
        }
        if self.client.is_unanswered() {
            // The peer's session may be a new one, whatever it says.
            self.subscribed.clear();
        }
        self.client.handle_connected(now);
        self.has_flushed = false;
        self.state = State::Connecting;
        self.wake = true;
    }

    /// An endpoint has failed: the next one, or a pause after the last.
    fn attempt_failed(&mut self, now: Instant, for_good: bool) {
        self.failed += 1;
        self.failed_for_good |= for_good;
        let count = self.settings.endpoints.len();
        if self.failed < count {
            self.dial((self.endpoint + 1) % count);
        } else {
            self.pause(now, 0);
        }
    }

    fn pause(&mut self, now: Instant, endpoint: usize) {
        let reconnect = self.settings.reconnect;
        let pause = if self.failed_for_good {
            self.backoff.longest(reconnect, &mut self.rng)
        } else {
            self.backoff.next(reconnect, &mut self.rng)
        };
        self.failed = 0;
        self.failed_for_good = false;
        self.endpoint = endpoint;
        self.state = State::Waiting { until: now + pause };
        if self.dial.is_some() {
            // A better address is being dialled already: there is no need to wait for another.
            self.state = State::Dialling;
        }
    }

    /// The connection is closed: what now?
    fn go_on(&mut self, now: Instant) {
        self.failback_at = None;
        let count = self.settings.endpoints.len();
        self.endpoint %= count;
        match self.next {
            Next::Stop => self.state = State::Idle,
            Next::Again => self.dial(self.endpoint),
            Next::Failed { for_good } => self.attempt_failed(now, for_good),
            Next::First => {
                if let Some((conn, credentials)) = self.standby.take() {
                    self.endpoint = 0;
                    self.begin(now, conn, credentials);
                } else {
                    self.dial(0);
                }
            }
            Next::Lost { was_steady: true } => {
                self.backoff.reset();
                self.pause(now, 0);
            }
            // As good as failed, but not so that a flood of connections becomes of it.
            Next::Lost { was_steady: false } => self.pause(now, (self.endpoint + 1) % count),
        }
    }

    fn next_after_loss(&self, now: Instant) -> Next {
        match self.state {
            State::Up { since } => Next::Lost {
                was_steady: now.since(since) >= STEADY,
            },
            _ => Next::Failed { for_good: false },
        }
    }

    /// Ends the connection if there is one, and begins with the first endpoint.
    fn reconnect(&mut self, now: Instant) {
        self.undial();
        self.backoff.reset();
        match self.state {
            State::Idle => {}
            State::Closing { .. } => {
                if self.next != Next::Stop {
                    self.next = Next::First;
                }
            }
            State::Waiting { .. } | State::Dialling => self.dial(0),
            State::Connecting | State::Up { .. } => {
                self.client.disconnect(ReasonCode::NORMAL_DISCONNECTION);
                self.close(now, Next::First);
            }
        }
    }

    // ---- the end of a connection

    /// The client is done, or will be once what it has queued is sent.
    fn close(&mut self, now: Instant, next: Next) {
        self.next = next;
        if matches!(self.state, State::Up { .. }) {
            self.queue.set_up(false);
        }
        self.hold_until = None;
        self.pace_at = None;
        self.failback_at = None;
        self.state = State::Closing {
            deadline: now + FAREWELL,
            is_asked: false,
        };
        self.wake = true;
    }

    /// Closes without a word.
    fn cut(&mut self, now: Instant, next: Next) {
        self.client.handle_closed();
        self.close(now, next);
        self.state = State::Closing {
            deadline: now,
            is_asked: true,
        };
        self.ask_to_close_ours(false);
    }

    fn ask_to_close_ours(&mut self, after_flush: bool) {
        if let Some(conn) = self.conn {
            self.ask_to_close(conn, after_flush);
        }
    }

    fn ask_to_close(&mut self, conn: ConnId, after_flush: bool) {
        self.outputs.push_back(Output::Close { conn, after_flush });
    }

    // ---- what the client says

    /// Whether there was anything.
    fn handle_events(&mut self, now: Now) -> bool {
        let mut is_news = false;
        while let Some(event) = self.client.poll_event() {
            is_news = true;
            match event {
                Event::Connected {
                    session_present, ..
                } => self.on_connected(now, session_present),
                Event::Message(received) => self.on_message(now, received),
                Event::Published { packet_id, reason } => {
                    self.on_published(now.monotonic, packet_id, reason);
                }
                Event::Waits { step, packet_id } => {
                    self.on_step(now.monotonic, step, packet_id);
                }
                Event::Subscribed { packet_id, reasons } => {
                    self.on_subscribed(now.monotonic, packet_id, &reasons);
                }
                Event::Unsubscribed { .. } => self.ask_for_subscriptions(now.monotonic),
                Event::Closed(cause) => self.on_closed(now.monotonic, &cause),
            }
        }
        self.finish_closing();
        self.update_stats();
        is_news
    }

    fn on_connected(&mut self, now: Now, session_present: bool) {
        let at = now.monotonic;
        let version = self.client.options().version;
        log::info!(
            "bridge {} is up endpoint={} version={version} session_present={session_present}",
            self.name,
            self.settings.endpoints[self.endpoint],
        );
        self.stats.connects += 1;
        self.begins_clean = false;
        if !session_present {
            self.note_lost_session();
        }
        let is_clean = self.client.options().clean_start && !self.settings.clean_start;
        if is_clean && !version.is_v5() {
            // There a session that begins clean ends with its connection: this one has only ended
            // the one before.
            self.client.disconnect(ReasonCode::NORMAL_DISCONNECTION);
            return self.close(at, Next::Again);
        }
        self.state = State::Up { since: at };
        self.last_error = None;
        self.failed = 0;
        self.failed_for_good = false;
        self.progress_at = at;
        self.failback_at = self
            .settings
            .failback
            .filter(|_| self.endpoint != 0)
            .map(|after| at + after);
        let limits = *self.client.limits();
        self.will = (
            limits.maximum_qos.min(QoS::AtLeastOnce),
            limits.retain_available,
        );
        // Without a session nothing can have waited for us there.
        self.late_until = at;
        self.late_max = at;
        if session_present {
            self.late_until = at + LATE_QUIET;
            self.late_max = at + LATE_MAX;
        }
        self.queue.set_up(true);
        self.say_state("online", at);
        self.resubscribe(at, session_present);
        self.wake = true;
    }

    fn on_closed(&mut self, now: Instant, cause: &CloseCause) {
        let is_up = matches!(self.state, State::Up { .. });
        if !is_up && self.state != State::Connecting {
            return;
        }
        let next = if is_up {
            self.on_lost(now, cause)
        } else {
            self.on_not_connected(cause)
        };
        self.asked.clear();
        self.last_error = Some(cause.to_string().into());
        match cause {
            CloseCause::ConnectTimeout | CloseCause::KeepAliveTimeout => self.cut(now, next),
            _ => self.close(now, next),
        }
    }

    fn on_lost(&mut self, now: Instant, cause: &CloseCause) -> Next {
        log::warn!("bridge {} is down: {cause}", self.name);
        self.stats.lost += 1;
        if self.older == Older::Once {
            self.older = Older::No;
        }
        match cause {
            CloseCause::ServerMisbehaved(_) => self.stats.misbehaved += 1,
            CloseCause::ServerDisconnected(farewell) if is_of_a_message(farewell.reason) => {
                self.suspect_oldest();
            }
            CloseCause::TransportClosed if self.is_closed_by_peer => self.suspect_oldest(),
            _ => {}
        }
        if matches!(cause, CloseCause::ServerDisconnected(_)) && !cause.may_retry() {
            // Another client has our identifier, or an administrator wants us gone: to come back at
            // once would be a fight.
            self.failed_for_good = true;
        }
        self.next_after_loss(now)
    }

    fn on_not_connected(&mut self, cause: &CloseCause) -> Next {
        let version = self.client.options().version;
        let may_be_older = self.settings.version == Version::Auto && version.is_v5();
        match cause {
            CloseCause::Refused(farewell) => {
                self.stats.refused += 1;
                match farewell.reason {
                    ReasonCode::UnsupportedProtocolVersion if may_be_older => {
                        self.stats.downgrades += 1;
                        self.older = Older::Yes;
                        return Next::Again;
                    }
                    ReasonCode::RetainNotSupported if self.will.1 => {
                        self.will.1 = false;
                        return Next::Again;
                    }
                    ReasonCode::QosNotSupported if self.will.0 != QoS::AtMostOnce => {
                        self.will.0 = QoS::AtMostOnce;
                        return Next::Again;
                    }
                    _ => {}
                }
            }
            CloseCause::ServerMisbehaved(_) => self.stats.misbehaved += 1,
            _ => {}
        }
        let is_wordless = matches!(cause, CloseCause::ServerMisbehaved(_))
            || matches!(cause, CloseCause::TransportClosed) && self.is_closed_by_peer;
        if may_be_older && self.older == Older::No && is_wordless {
            self.stats.downgrades += 1;
            self.older = Older::Once;
            return Next::Again;
        }
        if self.older == Older::Once {
            // It was not that.
            self.older = Older::No;
        }
        let for_good = !cause.may_retry() && matches!(cause, CloseCause::Refused(_));
        if for_good {
            self.stats.refused_for_good += 1;
            log::error!("bridge {}: {cause}", self.name);
        } else {
            log::warn!("bridge {}: {cause}", self.name);
        }
        Next::Failed { for_good }
    }

    /// Asks for the transport to be closed once the client has said all it had to say.
    fn finish_closing(&mut self) {
        if let State::Closing {
            deadline,
            is_asked: false,
        } = self.state
            && self.client.is_finished()
        {
            let is_asked = true;
            self.state = State::Closing { deadline, is_asked };
            self.ask_to_close_ours(true);
        }
    }

    /// Says how we are under the state topic.
    fn say_state(&mut self, word: &'static str, now: Instant) {
        let limits = *self.client.limits();
        let Some(message) = state_message(
            &self.settings,
            word,
            limits.maximum_qos.min(QoS::AtLeastOnce),
            limits.retain_available,
            now,
        ) else {
            return;
        };
        let is_online = word == "online";
        let said = self
            .flights
            .values()
            .filter_map(|flight| match flight.what {
                Cargo::State { is_online } => Some((flight.order, is_online)),
                Cargo::Message { .. } | Cargo::Released { .. } => None,
            });
        if said.max().is_some_and(|(_, last)| last == is_online) {
            // It is under way from an earlier connection, and the client says it again.
            return;
        }
        match self.client.publish(Rc::new(message)) {
            Ok(Some(packet_id)) => self.note_flight(now, packet_id, Cargo::State { is_online }),
            Ok(None) => {}
            Err(refusal) => log::debug!("bridge {} cannot say {word}: {refusal}", self.name),
        }
    }

    fn update_stats(&mut self) {
        let drops = self.queue.drops();
        self.stats.dropped_full = drops.full;
        self.stats.dropped_over_budget = drops.over_budget;
        self.stats.dropped_aged = drops.aged;
        self.stats.expired = drops.expired;
        self.stats.coalesced = drops.coalesced;
        self.stats.dropped_link_down = drops.link_down;
        self.stats.dropped_unkept = drops.unkept;
        self.stats.discarded = drops.discarded;
    }

    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let has_connection = matches!(
            self.state,
            State::Connecting | State::Up { .. } | State::Closing { .. }
        );
        debug_assert_eq!(self.conn.is_some(), has_connection, "{:?}", self.state);
        debug_assert!(self.state != State::Dialling || self.dial.is_some());
        debug_assert!(self.endpoint < self.settings.endpoints.len());
        debug_assert!(self.standby.is_none() || matches!(self.state, State::Closing { .. }));
        debug_assert!(
            self.flights.len() <= self.client.inflight(),
            "what is under way, the client has"
        );
        debug_assert!(
            matches!(self.state, State::Up { .. }) || self.queue.is_down(),
            "nothing is live without a link"
        );
    }
}

/// What a refusing DISCONNECT may say of a message that came just before it.
fn is_of_a_message(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::NotAuthorized
            | ReasonCode::TopicNameInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::PayloadFormatInvalid
            | ReasonCode::RetainNotSupported
            | ReasonCode::QosNotSupported
    )
}

/// What the rules of settings say of topics.
struct Mappings {
    send: Vec<Mapping>,
    backlog: Vec<Option<Mapping>>,
    receive: Vec<Mapping>,
}

fn mappings(settings: &Settings) -> Result<Mappings, SettingsError> {
    if settings.endpoints.is_empty() {
        return Err(SettingsError::NoEndpoint);
    }
    if settings.client_id.is_empty() {
        return Err(SettingsError::NoClientId);
    }
    if settings.send.len() > RULES_MAX || settings.receive.len() > RULES_MAX {
        return Err(SettingsError::TooManyRules);
    }
    if let Some(topic) = &settings.state_topic {
        TopicName::new(topic).map_err(SettingsError::StateTopic)?;
    }
    let mut mappings = Mappings {
        send: Vec::new(),
        backlog: Vec::new(),
        receive: Vec::new(),
    };
    for (index, rule) in settings.send.iter().enumerate() {
        let wrong = |error| SettingsError::Send(index, error);
        let mapping = Mapping::new(&rule.filter, rule.to.as_deref(), &rule.except);
        mappings.send.push(mapping.map_err(wrong)?);
        let backlog = rule.backlog_to.as_deref();
        let backlog = backlog.map(|to| Mapping::new(&rule.filter, Some(to), &[]));
        mappings.backlog.push(backlog.transpose().map_err(wrong)?);
    }
    for (index, rule) in settings.receive.iter().enumerate() {
        let mapping = Mapping::new(&rule.filter, rule.to.as_deref(), &[]);
        let mapping = mapping.map_err(|error| SettingsError::Receive(index, error))?;
        mappings.receive.push(mapping);
    }
    Ok(mappings)
}

/// Whether a connection made by one is as good for the other.
fn is_same_connection(one: &Settings, other: &Settings) -> bool {
    let of_connection = |settings: &Settings| Settings {
        failback: None,
        reconnect: settings::Reconnect::default(),
        stalled_after: None,
        queue: settings::QueueLimits::default(),
        replay_rate: None,
        send: Vec::new(),
        receive: Vec::new(),
        base_topic: "".into(),
        ..settings.clone()
    };
    of_connection(one) == of_connection(other)
}

fn first_version(settings: &Settings) -> ProtocolVersion {
    match settings.version {
        Version::Pinned(version) => version,
        Version::Auto => settings.profile.limits().version,
    }
}

fn profile_rate(settings: &Settings) -> Option<Rate> {
    let rate = settings.profile.limits().publish_rate?;
    Some(Rate::per_second(u64::from(rate)))
}

fn window(settings: &Settings) -> u16 {
    let most = settings.profile.limits().inflight_maximum;
    settings.inflight_maximum.min(most).max(1)
}

fn connect_options(
    settings: &Settings,
    version: ProtocolVersion,
    (will_qos, will_retain): (QoS, bool),
) -> ConnectOptions {
    let (shortest, longest) = settings.profile.limits().keep_alive;
    let keep_alive = match settings.keep_alive {
        0 if shortest > 0 => longest,
        seconds => seconds.clamp(shortest, longest),
    };
    let will = state_message(
        settings,
        "offline",
        will_qos,
        will_retain,
        Instant::default(),
    );
    let receive_maximum = settings
        .receive_maximum
        .min(settings.profile.limits().inflight_maximum);
    ConnectOptions {
        version,
        client_id: settings.client_id.to_string(),
        clean_start: settings.clean_start,
        keep_alive,
        username: None,
        password: None,
        will: will.map(|message| WillOptions {
            message,
            delay_interval: 0,
        }),
        session_expiry_interval: settings.session_expiry,
        receive_maximum: ReceiveMaximum::new(receive_maximum.max(1)).expect("it is not 0"),
        maximum_packet_size: settings.max_packet_size,
        topic_alias_maximum: ALIASES,
        outgoing_topic_aliases: ALIASES,
        user_properties: UserPropertiesBuf::new(),
        connect_timeout: Duration::from_secs(30),
        inflight_maximum: window(settings),
        acknowledge: Acknowledge::ByCaller,
        steps: Steps::AtOnce,
    }
}

fn state_message(
    settings: &Settings,
    word: &str,
    qos: QoS,
    retain: bool,
    now: Instant,
) -> Option<ApplicationMessage> {
    let limits = settings.profile.limits();
    let topic = TopicName::new(settings.state_topic.as_deref()?).ok()?;
    Some(ApplicationMessage::new(
        topic,
        Payload::copy_from(word.as_bytes()),
        qos.min(limits.maximum_qos),
        retain && limits.retain,
        &PublishProperties::default(),
        now,
    ))
}
