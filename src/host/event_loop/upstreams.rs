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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;
    use crate::bridge::settings::{Endpoint, Scheme, TlsSettings};
    use crate::host::event_loop::tests::bare_config;
    use crate::host::upstream::Dialling;
    use crate::host::{HostSettings, clock};
    use crate::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn event_loop(dialling: Dialling) -> EventLoop {
        let settings = HostSettings {
            seed: Some(1),
            dialling,
            ..HostSettings::default()
        };
        EventLoop::new(bare_config(), settings).unwrap()
    }

    fn target(host: &str, port: u16) -> Box<Target> {
        Box::new(Target {
            endpoint: Endpoint::Network {
                scheme: Scheme::Mqtt,
                host: host.into(),
                port,
                path: "".into(),
            },
            tls: TlsSettings::default(),
            username: None,
            password: None,
        })
    }

    fn until(event_loop: &mut EventLoop, what: &str, done: impl Fn(&EventLoop) -> bool) {
        let start = clock::monotonic();
        while !done(event_loop) {
            assert!(clock::monotonic().since(start) < PATIENCE, "never: {what}");
            event_loop.turn(Some(Duration::from_secs(1))).unwrap();
        }
    }

    #[test]
    fn a_connection_for_which_nobody_waits_is_taken_in_and_closed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (ended, end) = channel();
        let peer = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let count = socket.read(&mut [0; 10]).unwrap();
            ended.send(count).unwrap();
        });
        let mut event_loop = event_loop(Dialling::default());
        let bridge = BridgeId::from_parts(0, 1);
        event_loop.dial(clock::now(), bridge, target("127.0.0.1", port));
        until(&mut event_loop, "it is closed", |_| end.try_recv() == Ok(0));
        peer.join().unwrap();
        until(&mut event_loop, "its slot is free", |event_loop| {
            event_loop.connections.is_empty() && event_loop.inputs.is_empty()
        });
        let counters = event_loop.counters();
        assert_eq!((counters.dials, counters.dials_failed), (1, 0));
    }

    #[test]
    fn a_dial_that_fails_is_counted_once() {
        let mut event_loop = event_loop(Dialling {
            resolver: Arc::new(|_, _| Ok(Vec::new())),
            ..Dialling::default()
        });
        let bridge = BridgeId::from_parts(0, 1);
        event_loop.dial(clock::now(), bridge, target("empty.example", 1883));
        until(&mut event_loop, "it has failed", |event_loop| {
            event_loop.counters.dials_failed > 0
        });
        assert_eq!(event_loop.counters.dials_failed, 1);
        assert!(event_loop.connections.is_empty());
    }

    #[test]
    fn a_resolver_that_hangs_does_not_hold_up_the_loop() {
        let (release, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let mut event_loop = event_loop(Dialling {
            limit: Duration::from_millis(50),
            resolver: Arc::new(move |_, _| {
                let _ = gate.lock().unwrap().recv();
                Ok(Vec::new())
            }),
        });
        let bridge = BridgeId::from_parts(0, 1);
        event_loop.dial(clock::now(), bridge, target("broker.example", 1883));
        // The thread still hangs while the loop has turned, and has told that it gave up.
        until(&mut event_loop, "it has given up", |event_loop| {
            event_loop.counters.dials_failed > 0
        });
        assert_eq!(event_loop.counters().errands, 1);
        drop(release);
        until(&mut event_loop, "the thread has ended", |event_loop| {
            event_loop.counters().errands == 0
        });
        assert_eq!(event_loop.counters().dials_failed, 1);
    }
}
