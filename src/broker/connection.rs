//! A client's network connection: what ends with it.

use core::net::IpAddr;
use std::rc::Rc;

use super::admission::Excess;
use super::authenticate::Pending;
use super::bucket::Bucket;
use super::keep::Key;
use super::settings::{PublishQuota, Redirect};
use crate::buffer::{Charge, RecvBuffer, SendQueue};
use crate::id::{ConnId, SessionId};
use crate::mqtt::{ApplicationMessage, ProtocolVersion};
use crate::time::{Duration, Instant};

/// What is known of a client before it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Whether its listener lets in clients without credentials.
    pub allow_anonymous: bool,
    /// Connections that its listener had too many when it came, itself included; 0: it has its
    /// place.
    pub excess: u32,
    /// Where it comes from; `None`: from this machine, over a unix socket.
    pub address: Option<IpAddr>,
    /// The limits of one address are not for it.
    pub is_exempt: bool,
    /// To tell it anything takes a handshake first: an address that connects too fast is not told.
    pub is_costly: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) admission: Admission,
    pub(super) phase: Phase,
    /// The name that the transport vouches for: a certificate's, or the kernel's.
    pub(super) identity: Option<Box<str>>,
    /// CONNECT, while a password is compared.
    pub(super) kept: Option<Kept>,
    /// Its name was proven by a password.
    pub(super) has_password: bool,
    /// An authentication that waits for its proof. Invariant: only while authenticating, or live.
    pub(super) exchange: Option<Box<Pending>>,
    /// CONNECT named an authentication method, which may be used again.
    pub(super) has_method: bool,
    /// Of CONNECT.
    pub(super) version: ProtocolVersion,
    /// For the log; empty before CONNECT.
    pub(super) client_id: Rc<str>,
    /// Its listener sends its clients elsewhere.
    pub(super) redirect: Option<Rc<Redirect>>,
    /// One too many: its CONNECT is refused.
    pub(super) excess: Option<Excess>,
    pub(super) opened_at: Instant,
    /// What it has published lately, while there is a quota.
    pub(super) published: Published,
    /// When the last packet came.
    pub(super) heard_at: Instant,
    /// One and a half keep-alives; zero is never.
    pub(super) patience: Duration,
    /// The earliest timer of this connection in the heap.
    pub(super) armed: Instant,
    pub(super) pause: Pause,
    /// The client's Maximum Packet Size.
    pub(super) max_packet_size: u32,
    /// Whether acknowledgements may carry diagnostics [MQTT-3.1.2-29].
    pub(super) wants_diagnostics: bool,
    /// PUBLISH packets of QoS 1 and 2 that we have not finished acknowledging (4.9).
    pub(super) unacknowledged: u16,
    /// What we said in CONNACK.
    pub(super) receive_maximum: u16,
    /// The Maximum Packet Size that we said there; `None` before it.
    pub(super) takes: Option<u32>,
    /// Answers that wait in the settle queue.
    pub(super) waiting: u32,
    /// Of those: PUBACK and PUBREC.
    pub(super) unsettled: u32,
    /// Topics by alias, as long as the highest that the client has used; they end with the
    /// connection [MQTT-3.3.2-7].
    pub(super) aliases: Vec<Option<Box<str>>>,
    /// The Topic Alias Maximum that we said in CONNACK.
    pub(super) alias_maximum: u16,
    /// Of what the aliases and the will hold.
    pub(super) charge: Charge,
    pub(super) will: Option<Box<ApplicationMessage>>,
    /// The will's Will Delay Interval.
    pub(super) will_delay: Duration,
    /// Where the will is kept, if it is.
    pub(super) kept_will: Option<Key>,
    /// The session ends with the connection, and DISCONNECT may not say otherwise (3.14.2.2.2).
    pub(super) ends_session: bool,
}

/// Where a connection is.
///
/// | phase | on | goes to |
/// |---|---|---|
/// | `Fresh` | CONNECT with a password | `Verifying` |
/// | `Verifying` | the password is right | `Live` |
/// | `Verifying` | it is not; it takes too long | `Closing` |
/// | `Fresh` | CONNECT with an authentication method | `Authenticating` |
/// | `Authenticating` | AUTH, and the proof is right | `Live` |
/// | `Authenticating` | it is not; anything else; silence | `Closing` |
/// | `Fresh` | CONNECT, accepted | `Live` |
/// | `Fresh` | CONNECT, refused; anything else; silence | `Closing` |
/// | `Live` | DISCONNECT, error, silence, takeover, stop | `Closing` |
/// | any | the network connection is gone | forgotten |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing but a CONNECT may come.
    Fresh,
    /// CONNECT is here, and its password is being compared.
    Verifying,
    /// CONNECT is here, and nothing but AUTH or DISCONNECT may come.
    Authenticating,
    /// It serves this session.
    Live(SessionId),
    /// We have asked for its end, or will once our last word is settled. What comes is discarded.
    Closing,
}

/// A CONNECT that waits for its password to be compared.
#[derive(Debug)]
pub(super) struct Kept {
    /// The whole packet.
    pub(super) frame: Box<[u8]>,
    /// Whether there is such a user; if not, the password is compared all the same.
    pub(super) is_known: bool,
}

/// Whether we read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Yes.
    No,
    /// Not until it is known who it is.
    Verifying,
    /// Not until its publications are settled.
    Unsettled,
    /// It brings a publication of QoS 1 or 2, and the journal is behind.
    Behind,
    /// Not until then: it has published more than its quota.
    Quota(Instant),
    /// Not until the memory budget has room for this many bytes.
    Memory(usize),
    /// It may go on, and waits to be told so by `poll_resumed`.
    Over,
}

impl Connection {
    pub(super) fn new(
        admission: Admission,
        now: Instant,
        excess: Option<Excess>,
        charge: Charge,
    ) -> Self {
        Self {
            admission,
            phase: Phase::Fresh,
            identity: None,
            kept: None,
            has_password: false,
            exchange: None,
            has_method: false,
            version: ProtocolVersion::V4,
            client_id: "".into(),
            redirect: None,
            excess,
            opened_at: now,
            published: Published::default(),
            heard_at: now,
            patience: Duration::ZERO,
            armed: Instant::FAR_FUTURE,
            pause: Pause::No,
            max_packet_size: u32::MAX,
            wants_diagnostics: true,
            unacknowledged: 0,
            receive_maximum: 0,
            takes: None,
            waiting: 0,
            unsettled: 0,
            aliases: Vec::new(),
            alias_maximum: 0,
            charge,
            will: None,
            will_delay: Duration::ZERO,
            kept_will: None,
            ends_session: true,
        }
    }

    /// What it is charged.
    pub(super) fn cost(&self) -> usize {
        let aliases = self.aliases.iter().flatten().map(|topic| topic.len());
        CONNECTION_BYTES
            + self.aliases.len() * size_of::<Option<Box<str>>>()
            + aliases.sum::<usize>()
            + self.will.as_ref().map_or(0, |will| will.footprint())
            + self.kept.as_ref().map_or(0, |kept| kept.frame.len())
            + self
                .exchange
                .as_ref()
                .map_or(0, |pending| pending.footprint())
    }

    /// The address in whose count it is; `None`: in none.
    pub(super) fn counted_address(&self) -> Option<IpAddr> {
        let is_counted = self.excess.is_none() && !self.admission.is_exempt;
        self.admission.address.filter(|_| is_counted)
    }

    /// When the client's silence becomes too long; `None` if it may be silent for ever, or while it
    /// is we who do not listen.
    pub(super) fn deadline(&self, connect_timeout: Duration) -> Option<Instant> {
        let proof = self.proof_deadline(connect_timeout);
        let own = match self.phase {
            Phase::Fresh | Phase::Verifying | Phase::Authenticating => {
                Some(self.opened_at + connect_timeout)
            }
            Phase::Live(_) if matches!(self.pause, Pause::Memory(_)) => {
                Some(self.heard_at + MEMORY_TIMEOUT)
            }
            Phase::Live(_) if let Pause::Quota(until) = self.pause => Some(until),
            Phase::Live(_) if self.patience > Duration::ZERO => Some(self.heard_at + self.patience),
            Phase::Live(_) | Phase::Closing => None,
        };
        match (own, proof) {
            (Some(own), Some(proof)) => Some(own.min(proof)),
            (own, proof) => own.or(proof),
        }
    }

    /// When a client that authenticates itself again has taken too long for it.
    pub(super) fn proof_deadline(&self, connect_timeout: Duration) -> Option<Instant> {
        let pending = self.exchange.as_ref()?;
        matches!(self.phase, Phase::Live(_)).then(|| pending.since + connect_timeout)
    }
}

/// What a client has published, against its quota.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Published {
    messages: Bucket,
    bytes: Bucket,
}

impl Published {
    /// Takes note of a PUBLISH of so many bytes. `Some`: nothing more is to be read until then.
    pub(super) fn note(
        &mut self,
        now: Instant,
        quota: &PublishQuota,
        len: usize,
    ) -> Option<Instant> {
        let kinds = [
            (&mut self.messages, quota.messages, 1),
            (&mut self.bytes, quota.bytes, len as u64),
        ];
        let until = kinds.into_iter().filter_map(|(bucket, rate, count)| {
            bucket.pour(now, rate?, count);
            Some(bucket.at_level(QUOTA_BURST))
        });
        until.max().filter(|until| *until > now)
    }
}

/// What a client may publish at once: this much of its quota.
pub(super) const QUOTA_BURST: Duration = Duration::from_secs(1);

/// What a connection takes at least: itself, its buffers without their bytes, its deadline, and its
/// places in the tables of the gateway and of the host.
pub(super) const CONNECTION_BYTES: usize =
    size_of::<Connection>() + size_of::<RecvBuffer>() + size_of::<SendQueue>() + 192;

/// How long a client waits for the memory budget to have room for its packet; then it is
/// disconnected.
pub(super) const MEMORY_TIMEOUT: Duration = Duration::from_secs(30);

/// The one prefix of every log line about a connection. Client ids come from strangers and are
/// escaped.
pub(super) struct Tag<'a>(pub(super) ConnId, pub(super) &'a str);

/// Where a client comes from, for the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whence(pub(super) Option<IpAddr>);

impl core::fmt::Display for Whence {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(address) => write!(f, "from={address}"),
            None => f.write_str("from=unix"),
        }
    }
}

impl core::fmt::Display for Tag<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "conn={} client={}", self.0, self.1.escape_debug())
    }
}
