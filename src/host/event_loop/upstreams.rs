//! Upstream brokers in the loop: dialled, and taken in among the connections once they are open.

use std::io;

use super::EventLoop;
use crate::gateway::boundary::{Dialled, Input};
use crate::gateway::settings::Target;
use crate::host::net::{CONNECTIONS_MAX, Connection, Transport};
use crate::host::token::Source;
use crate::host::upstream::{Cx, Outcome, Prepared, Progress};
use crate::id::{BridgeId, ConnId};
use crate::slab::Key;
use crate::time::Now;

impl EventLoop {
    pub(super) fn dial(&mut self, now: Now, bridge: BridgeId, target: Box<Target>) {
        self.counters.dials += 1;
        let failed = self
            .upstreams
            .dial(&mut self.timers, now.monotonic, bridge, target);
        if let Some(outcome) = failed {
            let input = self.dialled(outcome);
            self.inputs.push_back(input);
        }
    }

    pub(super) fn upstream_prepared(
        &mut self,
        now: Now,
        bridge: BridgeId,
        number: u64,
        outcome: Result<Prepared, String>,
    ) {
        let mut cx = Cx {
            registry: self.poll.registry(),
            timers: &mut self.timers,
            memory: self.gateway.memory(),
            now: now.monotonic,
        };
        let over = self.upstreams.answered(&mut cx, bridge, number, outcome);
        self.dial_is_over(now, over);
    }

    pub(super) fn serve_upstream(&mut self, now: Now, slot: u32) {
        let mut cx = Cx {
            registry: self.poll.registry(),
            timers: &mut self.timers,
            memory: self.gateway.memory(),
            now: now.monotonic,
        };
        match self.upstreams.serve(&mut cx, slot) {
            Progress::Waiting => {}
            Progress::More => self.ready.push_back(Source::Upstream(slot)),
            Progress::Over(outcome) => self.dial_is_over(now, Some(outcome)),
        }
    }

    pub(super) fn dial_expired(&mut self, now: Now, bridge: BridgeId) {
        let mut cx = Cx {
            registry: self.poll.registry(),
            timers: &mut self.timers,
            memory: self.gateway.memory(),
            now: now.monotonic,
        };
        let over = self.upstreams.expired(&mut cx, bridge);
        self.dial_is_over(now, over);
    }

    fn dial_is_over(&mut self, now: Now, over: Option<Outcome>) {
        if let Some(outcome) = over {
            let input = self.dialled(outcome);
            self.gateway.handle_input(now, input);
        }
    }

    /// What the gateway is told of a dial.
    fn dialled(&mut self, outcome: Outcome) -> Input {
        let Outcome { bridge, outcome } = outcome;
        let outcome = outcome.and_then(|(transport, credentials)| {
            let conn = self.take_over(transport)?;
            Ok((conn, credentials))
        });
        let outcome = match outcome {
            Ok((conn, credentials)) => Ok(Dialled { conn, credentials }),
            Err(why) => {
                self.counters.dials_failed += 1;
                Err(why.into_boxed_str())
            }
        };
        Input::Dialled { bridge, outcome }
    }

    /// An open transport is a connection from here on.
    fn take_over(&mut self, mut transport: Transport) -> Result<ConnId, String> {
        let conn = self.connections.vacant_key();
        let token = Source::Connection(conn.slot()).token();
        let registered = if self.connections.len() >= CONNECTIONS_MAX {
            Err(io::Error::other("there are too many connections already"))
        } else {
            transport.stream().reregister(self.poll.registry(), token)
        };
        registered.map_err(|error| error.to_string())?;
        let mut connection = Connection::opened(transport);
        // Both are looked at once: the end of a handshake may have to be written yet, and what
        // came with it has been read already.
        connection.is_ready_to_read = true;
        connection.is_ready_to_write = true;
        self.ready.push_back(Source::Connection(conn.slot()));
        self.writable.push_back(conn);
        Ok(self.connections.insert(connection))
    }
}
