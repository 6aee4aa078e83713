//! Upstream brokers being dialled for the gateway's bridges.
//!
//! A dial is one errand of a worker, which reads secrets and certificates and resolves the name,
//! and then a socket to one address after the other until TLS and WebSocket are open over one of
//! them. From then on it is a connection like a client's, and the loop's affair. Everything
//! together has one limit; each address has an even share of what is left of it, so that one that
//! swallows packets does not keep us from the next.
//!
//! ```text
//! dial ─► preparing on a worker ─► connect, TLS, WebSocket ─► Outcome
//!                                    └── next address ◄┘
//! ```
//!
//! | limit | at the limit |
//! |---|---|
//! | [`DIAL_TIMEOUT`] for all of it | failed |
//! | one errand for each bridge | the next dial waits for its end: a resolver that hangs has one thread |
//! | `ERRANDS_MAX` threads in all | failed |

mod prepare;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use std::sync::Arc;

use mio::Registry;

pub(super) use self::prepare::Prepared;
pub use self::prepare::{Resolver, check, resolve};
use super::dial::{Address, Channel, Opening};
use super::net::Transport;
use super::timer::{TimerKey, Timers};
use super::token::{Readiness, Source};
use super::worker::{Answer, Errands, Mailbox};
use crate::bridge::Credentials;
use crate::buffer::Memory;
use crate::gateway::boundary::DIAL_TIMEOUT;
use crate::gateway::settings::Target;
use crate::id::BridgeId;
use crate::slab::{IdTable, Key};
use crate::time::{Duration, Instant};

/// How upstream brokers are dialled.
#[derive(Clone)]
pub struct Dialling {
    /// From resolving a name to the end of the last handshake: [`DIAL_TIMEOUT`], or less.
    pub limit: Duration,
    /// By default the system's.
    pub resolver: Arc<Resolver>,
}

impl Default for Dialling {
    fn default() -> Self {
        Self {
            limit: DIAL_TIMEOUT,
            resolver: Arc::new(resolve),
        }
    }
}

/// All of them.
pub(super) struct Upstreams {
    mailbox: Mailbox,
    errands: Arc<Errands>,
    dialling: Dialling,
    attempts: IdTable<BridgeId, Attempt>,
    /// The errand that each bridge has under way, also for an attempt that was given up.
    busy: BTreeMap<BridgeId, u64>,
    next_errand: u64,
}

/// One dial.
#[derive(Debug)]
struct Attempt {
    /// For all of it.
    deadline: Instant,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// An errand of an earlier attempt has not ended.
    Queued(Box<Target>),
    /// An errand is under way.
    Preparing,
    /// One address after the other.
    Connecting(Box<Connecting>),
}

#[derive(Debug)]
struct Connecting {
    prepared: Prepared,
    /// Of the address that is being tried.
    at: usize,
    channel: Option<Channel>,
    /// On the loop's ready list.
    is_ready: bool,
    /// What went wrong at the addresses before.
    failures: Vec<String>,
}

/// What came of a dial.
#[derive(Debug)]
pub(super) struct Outcome {
    pub bridge: BridgeId,
    /// Open, with what was read for it; or why not, in words for the log.
    pub outcome: Result<(Transport, Credentials), String>,
}

/// How far an attempt has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// The poll will tell.
    Waiting,
    /// There may be more to read at once.
    More,
    /// It is over.
    Over(Outcome),
}

/// What dialling needs of the loop.
pub(super) struct Cx<'l> {
    pub registry: &'l Registry,
    pub timers: &'l mut Timers,
    pub memory: &'l Memory,
    pub now: Instant,
}

impl Upstreams {
    pub(super) fn new(mailbox: Mailbox, errands: Arc<Errands>, dialling: Dialling) -> Self {
        Self {
            mailbox,
            errands,
            dialling,
            attempts: IdTable::new(),
            busy: BTreeMap::new(),
            next_errand: 0,
        }
    }

    /// Starts to dial. `Some`: it has failed already.
    pub(super) fn dial(
        &mut self,
        timers: &mut Timers,
        now: Instant,
        bridge: BridgeId,
        target: Box<Target>,
    ) -> Option<Outcome> {
        debug_assert!(
            !self.attempts.contains(bridge),
            "a bridge dials once at a time"
        );
        let deadline = now + self.dialling.limit;
        timers.arm(TimerKey::Dial(bridge), deadline);
        let phase = if self.busy.contains_key(&bridge) {
            Phase::Queued(target)
        } else {
            match self.send_errand(bridge, target) {
                Ok(()) => Phase::Preparing,
                Err(why) => return Some(self.failed(timers, bridge, why)),
            }
        };
        self.attempts.insert(bridge, Attempt { deadline, phase });
        None
    }

    /// Forgets a dial, however far it has come.
    pub(super) fn undial(&mut self, timers: &mut Timers, bridge: BridgeId) {
        timers.disarm(TimerKey::Dial(bridge));
        self.attempts.remove(bridge);
    }

    /// Forgets every dial.
    pub(super) fn undial_all(&mut self, timers: &mut Timers) {
        for bridge in self.attempts.keys() {
            self.undial(timers, bridge);
        }
    }

    fn send_errand(&mut self, bridge: BridgeId, target: Box<Target>) -> Result<(), String> {
        let number = self.next_errand;
        self.next_errand += 1;
        let owed = Owed {
            mailbox: self.mailbox.clone(),
            bridge,
            number,
            outcome: Err("internal error".to_owned()),
        };
        let resolver = self.dialling.resolver.clone();
        let errand = move || {
            let mut owed = owed;
            owed.outcome = prepare::prepare(&target, &*resolver);
        };
        // Before it runs: its answer may be there at once.
        self.busy.insert(bridge, number);
        if self.errands.run("dial", errand).is_err() {
            // The errand has been dropped, and its answer belongs to nobody.
            self.busy.remove(&bridge);
            return Err("too many threads are waiting for something already".to_owned());
        }
        Ok(())
    }

    /// An errand has ended.
    pub(super) fn answered(
        &mut self,
        cx: &mut Cx<'_>,
        bridge: BridgeId,
        number: u64,
        outcome: Result<Prepared, String>,
    ) -> Option<Outcome> {
        if self.busy.get(&bridge) != Some(&number) {
            return None;
        }
        self.busy.remove(&bridge);
        let Attempt { deadline, phase } = self.attempts.remove(bridge)?;
        let phase = match (phase, outcome) {
            // The answer is that of an attempt which was given up.
            (Phase::Queued(target), _) => match self.send_errand(bridge, target) {
                Ok(()) => Phase::Preparing,
                Err(why) => return Some(self.failed(cx.timers, bridge, why)),
            },
            (_, Ok(prepared)) => Phase::Connecting(Box::new(Connecting {
                prepared,
                at: 0,
                channel: None,
                is_ready: false,
                failures: Vec::new(),
            })),
            (_, Err(why)) => return Some(self.failed(cx.timers, bridge, why)),
        };
        self.attempts.insert(bridge, Attempt { deadline, phase });
        self.connect(cx, bridge)
    }

    /// Starts with the current address, or with the next one that a socket can be made for.
    fn connect(&mut self, cx: &mut Cx<'_>, bridge: BridgeId) -> Option<Outcome> {
        let attempt = self.attempts.get_mut(bridge)?;
        let Phase::Connecting(connecting) = &mut attempt.phase else {
            return None;
        };
        let token = Source::Upstream(bridge.slot()).token();
        while let Some(address) = connecting.prepared.addresses.get(connecting.at) {
            let layers = &connecting.prepared.layers;
            let opened = Channel::open(address, layers, cx.memory).and_then(|mut channel| {
                channel.stream().register(cx.registry, token)?;
                Ok(channel)
            });
            match opened {
                Ok(channel) => {
                    connecting.channel = Some(channel);
                    let left = connecting.prepared.addresses.len() - connecting.at;
                    let share = attempt.deadline.since(cx.now) / left as u32;
                    cx.timers.arm(TimerKey::Dial(bridge), cx.now + share);
                    return None;
                }
                Err(error) => connecting.fail(&prepare::said(&error)),
            }
        }
        let why = connecting.failures.join("; ");
        Some(self.failed(cx.timers, bridge, why))
    }

    /// Notes an event of the poll. `true`: put it on the ready list, it was not there.
    pub(super) fn event(&mut self, slot: u32, _: Readiness) -> bool {
        // Whatever it says: whether the socket is connected is asked of the socket.
        match self.connecting_at(slot) {
            Some((_, connecting)) => !std::mem::replace(&mut connecting.is_ready, true),
            None => false,
        }
    }

    fn connecting_at(&mut self, slot: u32) -> Option<(BridgeId, &mut Connecting)> {
        let bridge = self.attempts.key_at_slot(slot)?;
        match &mut self.attempts.get_mut(bridge)?.phase {
            Phase::Connecting(connecting) => Some((bridge, connecting)),
            Phase::Queued(_) | Phase::Preparing => None,
        }
    }

    /// Goes on with an attempt that is ready.
    pub(super) fn serve(&mut self, cx: &mut Cx<'_>, slot: u32) -> Progress {
        let Some((bridge, connecting)) = self.connecting_at(slot) else {
            return Progress::Waiting;
        };
        connecting.is_ready = false;
        let Some(channel) = &mut connecting.channel else {
            return Progress::Waiting;
        };
        match channel.go_on() {
            Ok(Opening::Waiting) => return Progress::Waiting,
            Ok(Opening::More) => {
                connecting.is_ready = true;
                return Progress::More;
            }
            Ok(Opening::Open) => {}
            Err(error) => {
                connecting.fail(&prepare::said(&error));
                return self.connect(cx, bridge).into();
            }
        }
        cx.timers.disarm(TimerKey::Dial(bridge));
        let attempt = self.attempts.remove(bridge);
        let Some(Phase::Connecting(connecting)) = attempt.map(|attempt| attempt.phase) else {
            return Progress::Waiting;
        };
        let Connecting {
            prepared, channel, ..
        } = *connecting;
        match channel {
            Some(channel) => Progress::Over(Outcome {
                bridge,
                outcome: Ok((channel.into_transport(), prepared.credentials)),
            }),
            None => Progress::Waiting,
        }
    }

    /// An attempt's time, or its current address's share of it, is over.
    pub(super) fn expired(&mut self, cx: &mut Cx<'_>, bridge: BridgeId) -> Option<Outcome> {
        let attempt = self.attempts.get_mut(bridge)?;
        match &mut attempt.phase {
            Phase::Connecting(connecting) => {
                let why = match &connecting.channel {
                    Some(channel) if channel.has_connected() => {
                        format!("no answer in the {}", channel.shaking())
                    }
                    _ => "no answer".to_owned(),
                };
                connecting.fail(&why);
                self.connect(cx, bridge)
            }
            Phase::Queued(target) => {
                let why = format!("{} is still being looked up", target.endpoint);
                Some(self.failed(cx.timers, bridge, why))
            }
            Phase::Preparing => {
                let why = "looking up its name and reading its files takes too long".to_owned();
                Some(self.failed(cx.timers, bridge, why))
            }
        }
    }

    fn failed(&mut self, timers: &mut Timers, bridge: BridgeId, why: String) -> Outcome {
        self.undial(timers, bridge);
        Outcome {
            bridge,
            outcome: Err(why),
        }
    }
}

impl Connecting {
    /// The current address is no good; the next one is current.
    fn fail(&mut self, why: &str) {
        self.channel = None;
        self.is_ready = false;
        if let Some(address) = self.prepared.addresses.get(self.at) {
            self.failures.push(format!("{why} ({address})"));
        }
        self.at += 1;
    }
}

impl From<Option<Outcome>> for Progress {
    fn from(outcome: Option<Outcome>) -> Self {
        outcome.map_or(Self::Waiting, Self::Over)
    }
}

/// An errand's answer, which comes whatever becomes of the errand.
struct Owed {
    mailbox: Mailbox,
    bridge: BridgeId,
    number: u64,
    outcome: Result<Prepared, String>,
}

impl Drop for Owed {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Err(String::new()));
        self.mailbox.post(Answer::Upstream {
            bridge: self.bridge,
            number: self.number,
            outcome: Box::new(outcome),
        });
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
