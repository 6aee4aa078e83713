//! Everything that crosses between the gateway and its host, in both directions.
//!
//! A host reports what happened with [`Input`] and does what [`Output`] says. There are two hosts:
//! `crate::host`, which knows Linux, and the simulation in `tests/`, which knows only a seed.

use core::fmt;

use super::settings::{Bind, Config, Target, TransportSettings};
use crate::bridge::Credentials;
use crate::broker::Password;
use crate::buffer::Payload;
use crate::credential::PasswordHash;
use crate::field::bus::{BusOp, BusOutcome, BusSettings};
use crate::field::line::{LineCommand, LineEvent};
use crate::field::port::{PortCommand, PortEvent};
use crate::id::{BridgeId, BusId, ConnId, ControlId, LineId, ListenerId, PortId, RequestId};
use crate::journal::disk::{DiskCommand, DiskEvent};
use crate::time::{Duration, Instant};

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A listener is open (with the port that it got), or could not be opened.
    Listening {
        /// Of [`Output::Listen`].
        listener: ListenerId,
        /// The address as bound, or what the system said.
        outcome: Result<Box<str>, Box<str>>,
    },
    /// A client has connected; its buffers exist from here on. Behind a proxy, once the proxy has
    /// said for whom it speaks.
    Accepted {
        /// Minted by the host.
        conn: ConnId,
        /// Through which listener.
        listener: ListenerId,
        /// For the log and for limits: the client's own address, also behind a proxy.
        peer: Peer,
    },
    /// An upstream broker was dialled; see [`Output::Dial`]. The connection's buffers exist from
    /// here on. If its bridge did not wait for it (see [`Output::Undial`]), the gateway closes it.
    Dialled {
        /// Who asked.
        bridge: BridgeId,
        /// The transport is wholly open, TLS and WebSocket included; or what went wrong, for the
        /// log.
        outcome: Result<Dialled, Box<str>>,
    },
    /// Bytes lie in the connection's receive buffer. A count of 0 asks to parse what is kept there
    /// (see `poll_resumed`).
    Received {
        /// Whose.
        conn: ConnId,
        /// How many are new.
        count: usize,
    },
    /// A connection is gone. Exactly once for each, also after [`Output::Close`]; its slot is
    /// reused only afterwards.
    Closed {
        /// Whose.
        conn: ConnId,
        /// Why.
        cause: CloseCause,
    },
    /// The transport vouches for who is at the other end: a certificate's name, or the kernel's.
    /// Before the first [`Input::Received`].
    Identified {
        /// Whose.
        conn: ConnId,
        /// The name, which becomes the user's.
        name: Box<str>,
    },
    /// A password has been compared; see [`Output::Verify`].
    Verified {
        /// Whose.
        conn: ConnId,
        /// Whether it is the right one. A host that cannot tell says no.
        is_right: bool,
    },
    /// Of a GPIO line.
    Line {
        /// Of the command that asked for it.
        line: LineId,
        /// What.
        event: LineEvent,
    },
    /// A transfer's answer.
    Bus {
        /// Of [`Output::Bus`].
        request: RequestId,
        /// What it brought.
        outcome: BusOutcome,
    },
    /// Of a serial port; bytes lie in the port's receive buffer.
    Port {
        /// Of the command that asked for it.
        port: PortId,
        /// What.
        event: PortEvent,
    },
    /// Of a connection on the control socket.
    Control {
        /// Minted by the host.
        client: ControlId,
        /// What.
        event: ControlEvent,
    },
    /// The configuration was read again: as meant, or every error as text.
    Loaded {
        /// Who asked with [`Output::Load`]; `None`: a signal did.
        request: Option<RequestId>,
        /// What was read.
        outcome: Result<Box<Config>, Box<str>>,
    },
    /// An answer of the journal.
    Journal(JournalEvent),
    /// An answer of the disk that the journal is on.
    Disk(DiskEvent),
    /// Stop cleanly: outputs to their safe state, `offline`, DISCONNECT. [`Notice::Stopped`] says
    /// when it is done.
    Stop,
}

/// A connection to an upstream broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialled {
    /// Minted by the host, like those of clients.
    pub conn: ConnId,
    /// What [`Target::username`] and [`Target::password`] said when it was dialled.
    pub credentials: Credentials,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// By address.
    Tcp(core::net::SocketAddr),
    /// By the kernel's word (`SO_PEERCRED`).
    Unix {
        /// User.
        uid: u32,
        /// Process, 0 if it is not known.
        pid: i32,
    },
}

/// An address, or user and process.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid, pid } => write!(f, "unix:uid={uid},pid={pid}"),
        }
    }
}

/// Why a connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer closed it.
    Peer,
    /// It failed, with the error number.
    Failed(i32),
    /// We did, with [`Output::Close`].
    Ours,
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("peer"),
            Self::Failed(errno) => write!(f, "error {errno}"),
            Self::Ours => f.write_str("ours"),
        }
    }
}

/// On the control socket. One JSON object a line, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEvent {
    /// Its peer was allowed in.
    Opened,
    /// A line, without its end, of at most [`CONTROL_LINE_MAX`] bytes.
    Line(Box<[u8]>),
    /// It is gone. Exactly once for each.
    Closed,
}

/// The longest line on the control socket; a longer one closes it.
pub const CONTROL_LINE_MAX: usize = 64 * 1024;

/// Do this.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Listen; answered by [`Input::Listening`].
    Listen {
        /// As the gateway will know it.
        listener: ListenerId,
        /// Where.
        bind: Bind,
        /// How its clients' bytes are wrapped.
        transport: Box<TransportSettings>,
    },
    /// From now on a listener's clients are treated like this. Those who are connected stay as
    /// they are.
    Retune {
        /// Which.
        listener: ListenerId,
        /// How.
        transport: Box<TransportSettings>,
    },
    /// Stop listening. Accepted connections stay.
    Unlisten {
        /// Which.
        listener: ListenerId,
    },
    /// Close a connection; answered by [`Input::Closed`].
    Close {
        /// Whose.
        conn: ConnId,
        /// How.
        how: CloseHow,
    },
    /// Connect to an upstream broker; answered by [`Input::Dialled`], within [`DIAL_TIMEOUT`] and
    /// exactly once, unless [`Output::Undial`] comes before. At most one for each bridge at a time.
    Dial {
        /// Named by the answer.
        bridge: BridgeId,
        /// Where to, and how.
        target: Box<Target>,
    },
    /// Forget a [`Output::Dial`] that is not answered yet. An answer that crosses this one is
    /// met with [`Output::Close`].
    Undial {
        /// Whose.
        bridge: BridgeId,
    },
    /// Compare a password; answered by [`Input::Verified`], unless the connection is gone before.
    Verify {
        /// Whose.
        conn: ConnId,
        /// With what.
        hash: PasswordHash,
        /// As the client sent it.
        password: Password,
    },
    /// A bus is needed. Opening it is the host's affair; its failures are its transfers' failures.
    OpenBus {
        /// As transfers will name it.
        bus: BusId,
        /// What to open.
        settings: BusSettings,
    },
    /// A bus is no longer needed. Answers to its transfers may still come.
    CloseBus {
        /// Which.
        bus: BusId,
    },
    /// One transfer; answered by [`Input::Bus`], by `deadline` at the latest.
    Bus {
        /// On which bus.
        bus: BusId,
        /// Named by the answer.
        request: RequestId,
        /// What to do.
        op: BusOp,
        /// After this the host answers [`crate::field::bus::BusError::Timeout`] whatever the worker
        /// does.
        deadline: Instant,
    },
    /// For a GPIO line.
    Line(LineCommand),
    /// For a serial port.
    Port(PortCommand),
    /// A line for a connection on the control socket, without its end.
    Control {
        /// Whose.
        client: ControlId,
        /// JSON.
        line: Box<str>,
    },
    /// Read the configuration again; answered by [`Input::Loaded`].
    Load {
        /// Named by the answer.
        request: RequestId,
    },
    /// For the journal.
    Journal(JournalCommand),
    /// For the disk that the journal is on. In order; answered by [`Input::Disk`].
    Disk(DiskCommand),
    /// Keep a message that an upstream broker never takes, for people to look at.
    DeadLetter {
        /// The bridge's name.
        bridge: Box<str>,
        /// JSON, without a line's end.
        line: Box<str>,
    },
    /// Something that the host's surroundings want to know.
    Notice(Notice),
}

/// How to close a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseHow {
    /// Write what is queued, shut down writing, discard input until EOF or a second has passed: so
    /// that a reason code arrives.
    AfterFlush {
        /// Until then.
        deadline: Instant,
    },
    /// At once.
    Now,
}

/// How long [`CloseHow::AfterFlush`] may take.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Output::Dial`] may take, from resolving a name to the end of the last handshake.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// For systemd, the log, and the exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Every listener and every output has had its first answer: `READY=1`.
    Ready,
    /// A reload is under way (`RELOADING=1`), and is over (`READY=1`).
    Reloading,
    /// See [`Notice::Reloading`].
    Reloaded,
    /// Everything that [`Input::Stop`] asked for is done, or its time is up.
    Stopped,
    /// The start cannot go on, and nothing was touched: the process ends with this.
    Failed {
        /// What is wrong, for people.
        why: Box<str>,
    },
}

/// What is asked for a message that is not in memory. None is ever elsewhere, unless a test host
/// says so (`Broker::set_fetch_every_draw`); what the journal asks of its disk is [`Output::Disk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalCommand {
    /// Bring this message's bytes; answered by [`JournalEvent::Fetched`].
    Fetch {
        /// Which.
        message: crate::id::MessageId,
    },
}

/// What the journal answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEvent {
    /// The bytes of a message; `None` while the journal keeps them in memory anyway.
    Fetched {
        /// Which.
        message: crate::id::MessageId,
        /// Its body.
        payload: Option<Payload>,
    },
}

/// What the host has met with since it started, and what it has now.
///
/// It is the host's to count and the gateway's to publish: the host keeps it up to date in the
/// gateway (`Gateway::host_counters_mut`), before each end of a turn. No input, for nothing happens
/// by it that the gateway must decide.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct HostCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Times that no descriptor was left to accept with.
    pub accepts_exhausted: u64,
    /// Connections closed as they came, for there were too many in all or they could not be polled.
    pub accepts_refused: u64,
    /// TLS handshakes that failed, and connections whose TLS broke later.
    pub tls_failed: u64,
    /// WebSocket requests that were refused, and connections whose frames were wrong.
    pub websocket_failed: u64,
    /// Connections of proxies that did not say rightly for whom they speak.
    pub proxies_refused: u64,
    /// Times that an upstream broker was dialled.
    pub dials: u64,
    /// Times that none of its addresses led to one, or it could not be dialled at all.
    pub dials_failed: u64,
    /// Messages that upstream brokers never take and that could not be written down either.
    pub dead_letters_lost: u64,
    /// Times that certificates or keys could not be used.
    pub credentials_failed: u64,
    /// Connections now.
    pub connections: u64,
    /// Sockets that linger now.
    pub lingering: u64,
    /// Sockets that stopped lingering because others had to.
    pub linger_cut_short: u64,
    /// Closes that did not write everything in time.
    pub flushes_expired: u64,
    /// Requests that the loop answered because a worker did not.
    pub worker_expired: u64,
    /// Answers of workers that came after that.
    pub worker_late: u64,
    /// Buses, GPIO chips and disks whose worker owes an overdue answer now: a health fault.
    pub workers_stuck: u64,
    /// Threads that open, close or load something now.
    pub errands: u64,
    /// Control clients turned away.
    pub control_refused: u64,
    /// Control clients closed for a line without an end, or for not reading.
    pub control_overflowed: u64,
    /// Lines of the log that were dropped because whoever reads it did not.
    pub log_lines_lost: u64,
}

/// Which machine's deadline the next one is: for the log and for tests that count wake-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// A keep-alive, an expiry, a delay.
    Broker,
    /// A pause between attempts, a keep-alive, the pace of a backlog.
    Bridge,
    /// A schedule, a back-off, a pulse's end.
    Field,
    /// An interval, a silence, an unanswered command.
    Pipeline,
    /// A batch that is due, another try.
    Journal,
    /// The end of a clean stop, a status interval.
    Gateway,
}
