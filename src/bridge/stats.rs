//! What a bridge counts, and what it has now.

use crate::mqtt::ProtocolVersion;
use crate::time::Duration;

/// What a bridge has met with since it was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Times that an endpoint was dialled.
    pub dials: u64,
    /// Dials that did not end in a transport.
    pub dials_failed: u64,
    /// Times that the peer said yes.
    pub connects: u64,
    /// Times that it said no, with a reason.
    pub refused: u64,
    /// Of those: for a reason that only a person can mend.
    pub refused_for_good: u64,
    /// Connections lost after the peer had said yes.
    pub lost: u64,
    /// Of those: nothing was acknowledged for too long.
    pub stalled: u64,
    /// Of those: the peer broke the protocol.
    pub misbehaved: u64,
    /// Times that an older version was spoken because the peer does not know 5.0.
    pub downgrades: u64,
    /// Times that a better endpoint took over.
    pub failbacks: u64,
    /// Messages taken to be sent.
    pub queued: u64,
    /// Messages given to the transport, each time that they were.
    pub sent: u64,
    /// Of those: out of the backlog.
    pub sent_backlog: u64,
    /// QoS 1 and 2 messages that the peer has acknowledged.
    pub acknowledged: u64,
    /// Messages that the peer refused for now, to be sent again.
    pub put_off: u64,
    /// Messages that the peer never takes.
    pub dead_letters: u64,
    /// Messages sent with a lower QoS than their rule's, for the peer takes no more.
    pub lowered_qos: u64,
    /// Messages sent without the RETAIN that they had, for the peer has none or has a newer one.
    pub cleared_retain: u64,
    /// Commands that a wildcard would have sent.
    pub commands_kept: u64,
    /// Messages whose topic has no name upstream.
    pub unmapped: u64,
    /// Messages that went or came in a circle, and were stopped.
    pub loops: u64,
    /// Messages dropped at the queue's limits.
    pub dropped_full: u64,
    /// Messages dropped because the memory was spent.
    pub dropped_over_budget: u64,
    /// Messages dropped because they were too old.
    pub dropped_aged: u64,
    /// Messages dropped because their own expiry had passed.
    pub expired: u64,
    /// Messages that a later one of their topic took the place of.
    pub coalesced: u64,
    /// Messages dropped because the link was down and their rule keeps none.
    pub dropped_link_down: u64,
    /// Messages that nobody waited for, and that could be kept neither in memory nor on the disk.
    pub dropped_unkept: u64,
    /// Messages that somebody had dropped on purpose.
    pub discarded: u64,
    /// Messages received and handed on.
    pub received: u64,
    /// Messages received twice, and handed on once.
    pub duplicates: u64,
    /// Messages received that no rule takes.
    pub unmatched: u64,
    /// Commands received that a wildcard would have let in.
    pub commands_refused: u64,
    /// Commands received too late, and refused.
    pub commands_late: u64,
    /// Subscriptions that the peer refused.
    pub subscriptions_refused: u64,
}

/// Where a bridge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Stopped.
    Idle,
    /// Between attempts.
    Waiting,
    /// A transport is being opened.
    Dialling,
    /// The peer has been greeted and has not answered.
    Connecting,
    /// Linked.
    Up,
    /// The connection is being ended.
    Closing,
}

impl Phase {
    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Dialling => "dialling",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Closing => "closing",
        }
    }
}

/// How a bridge is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it is.
    pub phase: Phase,
    /// Which endpoint it uses or tries, by its place in the configuration.
    pub endpoint: usize,
    /// What it speaks, or tries.
    pub version: ProtocolVersion,
    /// For how long it has been linked.
    pub up_for: Option<Duration>,
    /// Messages that wait or are under way.
    pub queue_length: u64,
    /// Bytes of them.
    pub queue_bytes: u64,
    /// Of them: those that wait in the backlog.
    pub backlog_length: u64,
    /// Of those, the ones that are on the disk alone.
    pub on_disk: u64,
    /// QoS 1 and 2 messages under way.
    pub inflight: usize,
    /// Of those: what is to be said next of them waits for our own disk.
    pub held: usize,
    /// How long the oldest message has been there.
    pub lag: Duration,
    /// Why the last attempt or connection ended, for people.
    pub last_error: Option<Box<str>>,
}
