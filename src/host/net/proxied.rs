//! Sockets whose proxy has not said yet for whom it speaks.
//!
//! The header is looked at where it lies, in the kernel, and taken out of it only when it is whole:
//! so that waiting costs no buffer, and what follows it stays for the transport.

use std::io::{self, Read};

use mio::Registry;
use slab::Slab;

use super::Stream;
use super::proxy::{self, Parsed, V2_MAX};
use crate::gateway::boundary::Peer;
use crate::host::timer::{TimerKey, Timers};
use crate::host::token::Source;
use crate::id::ListenerId;
use crate::time::{Duration, Instant};

/// How long a proxy may take. It has its header before it connects.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sockets that may wait at once. One more is closed as it comes, and counted.
const WAITING_MAX: usize = 256;

/// All of them.
#[derive(Debug, Default)]
pub(in crate::host) struct Proxied {
    sockets: Slab<Waiting>,
    refused: u64,
}

#[derive(Debug)]
struct Waiting {
    stream: Stream,
    listener: ListenerId,
    proxy: Peer,
}

/// Somebody whose proxy has spoken.
#[derive(Debug)]
pub(in crate::host) struct Announced {
    pub stream: Stream,
    pub listener: ListenerId,
    /// The client, or the proxy itself where it speaks for nobody.
    pub peer: Peer,
}

impl Proxied {
    /// Takes a socket of a proxy.
    pub(in crate::host) fn add(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        now: Instant,
        listener: ListenerId,
        mut stream: Stream,
        proxy: Peer,
    ) {
        if self.sockets.len() == WAITING_MAX {
            return self.refuse(&proxy, "too many wait for their header");
        }
        let entry = self.sockets.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("there are few of them");
        if let Err(error) = stream.register(registry, Source::Proxied(slot).token()) {
            return self.refuse(&proxy, &error.to_string());
        }
        entry.insert(Waiting {
            stream,
            listener,
            proxy,
        });
        timers.arm(TimerKey::ProxyHeader(slot), now + PATIENCE);
    }

    /// Looks at what has come. `Some`: the header is whole, and has been taken off.
    pub(in crate::host) fn look(&mut self, timers: &mut Timers, slot: u32) -> Option<Announced> {
        let waiting = self.sockets.get_mut(slot as usize)?;
        let mut bytes = [0; V2_MAX];
        let count = loop {
            match waiting.stream.look(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) | Ok(0) => {
                    // A health check that says nothing is nobody's fault.
                    self.close(timers, slot);
                    return None;
                }
                Ok(count) => break count,
            }
        };
        match proxy::parse(&bytes[..count]) {
            Ok(Parsed::Incomplete) => None,
            Ok(Parsed::Header { len, source }) => {
                let mut waiting = self.close(timers, slot)?;
                if waiting.stream.read_exact(&mut bytes[..len]).is_err() {
                    self.refuse(&waiting.proxy, "its header is gone");
                    return None;
                }
                Some(Announced {
                    stream: waiting.stream,
                    listener: waiting.listener,
                    peer: source.map_or(waiting.proxy, Peer::Tcp),
                })
            }
            Err(error) => {
                let waiting = self.close(timers, slot)?;
                self.refuse(&waiting.proxy, error.as_str());
                None
            }
        }
    }

    /// One has taken too long.
    pub(in crate::host) fn expired(&mut self, timers: &mut Timers, slot: u32) {
        if let Some(waiting) = self.close(timers, slot) {
            self.refuse(&waiting.proxy, "its header does not come");
        }
    }

    /// A listener is gone, and nobody can come in by it.
    pub(in crate::host) fn forget(&mut self, timers: &mut Timers, listener: ListenerId) {
        self.sockets.retain(|slot, waiting| {
            let stays = waiting.listener != listener;
            if !stays {
                timers.disarm(TimerKey::ProxyHeader(slot as u32));
            }
            stays
        });
    }

    /// How many were turned away, for what they said or did not say.
    pub(in crate::host) fn refused(&self) -> u64 {
        self.refused
    }

    fn close(&mut self, timers: &mut Timers, slot: u32) -> Option<Waiting> {
        let waiting = self.sockets.try_remove(slot as usize)?;
        timers.disarm(TimerKey::ProxyHeader(slot));
        Some(waiting)
    }

    fn refuse(&mut self, proxy: &Peer, why: &str) {
        self.refused += 1;
        // The first of them, and then ever fewer: a proxy that is set up wrongly does it always.
        if self.refused.is_power_of_two() {
            log::warn!(
                "proxy refused peer={proxy} so_far={}: PROXY header: {why}",
                self.refused
            );
        }
    }
}
