//! Listeners in the loop: opened, changed and closed, and who comes in by them.

use std::io;
use std::rc::Rc;

use super::{ACCEPT_AGAIN, EventLoop, Locked};
use crate::gateway::boundary::{CloseCause, Input, Peer};
use crate::gateway::settings::{Bind, Protocols, TransportSettings};
use crate::host::HostEvent;
use crate::host::net::{
    ACCEPTS_PER_TURN, Accepted, Announced, CONNECTIONS_MAX, Connection, Listener, Stream, Tls,
    Transport, WebSocket, credentials,
};
use crate::host::timer::TimerKey;
use crate::host::token::Source;
use crate::host::users::Asked;
use crate::id::{ConnId, ListenerId};
use crate::slab::Key;
use crate::time::Now;

/// Whether the poll knows a socket already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsNew {
    Yes,
    /// As one whose proxy had not spoken.
    No,
}

impl EventLoop {
    /// Opens a listener, or has its certificates read first: nobody is let in who could not be
    /// served.
    pub(super) fn listen(&mut self, id: ListenerId, bind: Bind, transport: TransportSettings) {
        let transport = Rc::new(transport);
        self.want_credentials(id, &transport);
        if transport.tls.is_none() || self.credentials.in_force(id).is_some() {
            self.open(id, &bind, transport);
        } else {
            self.locked.push(Locked {
                listener: id,
                bind,
                transport,
                is_told: false,
            });
        }
    }

    fn open(&mut self, id: ListenerId, bind: &Bind, transport: Rc<TransportSettings>) {
        let token = Source::Listener(id.slot()).token();
        let outcome = match Listener::open(bind, transport, self.poll.registry(), token) {
            Ok((listener, bound)) => {
                self.listeners.insert(id, listener);
                Ok(bound)
            }
            Err(error) => Err(error.to_string().into_boxed_str()),
        };
        self.report(id, outcome);
    }

    fn report(&mut self, id: ListenerId, outcome: Result<Box<str>, Box<str>>) {
        self.tell(HostEvent::Listening {
            listener: id,
            outcome: outcome.as_deref().map_err(|text| &**text),
        });
        self.inputs.push_back(Input::Listening {
            listener: id,
            outcome,
        });
    }

    /// Those who connect from now on are treated differently.
    pub(super) fn retune(&mut self, id: ListenerId, transport: TransportSettings) {
        let transport = Rc::new(transport);
        self.want_credentials(id, &transport);
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.transport = transport;
        } else if let Some(place) = self.locked.iter().position(|door| door.listener == id) {
            let mut door = self.locked.swap_remove(place);
            door.transport = transport;
            if door.transport.tls.is_none() || self.credentials.in_force(id).is_some() {
                self.open(id, &door.bind, door.transport);
            } else {
                self.locked.push(door);
            }
        }
    }

    fn want_credentials(&mut self, id: ListenerId, transport: &TransportSettings) {
        let registry = self.poll.registry();
        self.credentials
            .want(registry, &mut self.timers, id, transport);
    }

    pub(super) fn unlisten(&mut self, id: ListenerId) {
        self.timers.disarm(TimerKey::AcceptAgain(id));
        self.listeners.remove(id);
        self.locked.retain(|door| door.listener != id);
        self.proxied.forget(&mut self.timers, id);
        self.credentials.forget(self.poll.registry(), id);
    }

    /// Certificates have been read: listeners that waited for them open, or are told why not.
    pub(super) fn credentials_settled(&mut self, now: Now, settled: credentials::Settled) {
        for id in settled.listeners {
            let Some(place) = self.locked.iter().position(|door| door.listener == id) else {
                continue;
            };
            match &settled.outcome {
                Ok(()) => {
                    let door = self.locked.swap_remove(place);
                    self.open(id, &door.bind, door.transport);
                }
                Err(why) => {
                    if !std::mem::replace(&mut self.locked[place].is_told, true) {
                        self.report(id, Err(why.clone()));
                    }
                }
            }
        }
        // Answers are taken in first of all in a turn: what they bring belongs to it.
        while let Some(input) = self.inputs.pop_front() {
            self.gateway.handle_input(now, input);
        }
    }

    pub(super) fn listener_at(&mut self, slot: u32) -> Option<(ListenerId, &mut Listener)> {
        let id = self.listeners.key_at_slot(slot)?;
        Some((id, self.listeners.get_mut(id)?))
    }

    pub(super) fn accept(&mut self, now: Now, slot: u32) {
        let Some((id, listener)) = self.listener_at(slot) else {
            return;
        };
        listener.is_ready = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get_mut(id) else {
                return;
            };
            match listener.accept() {
                Accepted::Peer(stream, peer) => {
                    listener.is_paused = false;
                    self.let_in(now, id, stream, peer);
                }
                Accepted::Gone => {}
                Accepted::Nobody => return,
                Accepted::Exhausted(error) => {
                    self.counters.accepts_exhausted += 1;
                    if !std::mem::replace(&mut listener.is_paused, true) {
                        log::error!("cannot accept clients: {error}");
                    }
                    let again = now.monotonic + ACCEPT_AGAIN;
                    self.timers.arm(TimerKey::AcceptAgain(id), again);
                    return;
                }
            }
        }
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.is_ready = true;
            self.ready.push_back(Source::Listener(slot));
        }
    }

    /// Somebody has connected: a client, or a proxy that has to say first for whom it speaks.
    fn let_in(&mut self, now: Now, id: ListenerId, stream: Stream, peer: Peer) {
        let Some(listener) = self.listeners.get(id) else {
            return;
        };
        let proxies = &listener.transport.proxies;
        let is_proxy = match &peer {
            Peer::Tcp(address) => proxies.iter().any(|net| net.contains(address.ip())),
            Peer::Unix { .. } => false,
        };
        if is_proxy {
            let (registry, timers) = (self.poll.registry(), &mut self.timers);
            self.proxied
                .add(registry, timers, now.monotonic, id, stream, peer);
        } else {
            let announced = Announced {
                stream,
                listener: id,
                peer,
            };
            self.welcome(now, announced, IsNew::Yes);
        }
    }

    /// A client is here, and its address is known: the gateway hears of it.
    pub(super) fn welcome(&mut self, now: Now, announced: Announced, is_new: IsNew) {
        let Announced {
            stream,
            listener: id,
            peer,
        } = announced;
        let Some(listener) = self.listeners.get(id) else {
            return;
        };
        let settings = listener.transport.clone();
        let Some(transport) = self.wrap(id, stream, &settings) else {
            self.counters.tls_failed += 1;
            return;
        };
        let Some(conn) = self.admit(transport, is_new) else {
            return;
        };
        let uid = match &peer {
            Peer::Unix { uid, .. } if settings.peer_credentials => Some(*uid),
            _ => None,
        };
        let input = Input::Accepted {
            conn,
            listener: id,
            peer,
        };
        self.gateway.handle_input(now, input);
        if let Some(uid) = uid {
            self.ask_who(now, conn, uid);
        }
    }

    /// What a listener's clients speak, over a socket. `None`: a listener that has just been
    /// given TLS has no certificate yet.
    fn wrap(
        &self,
        id: ListenerId,
        stream: Stream,
        settings: &Rc<TransportSettings>,
    ) -> Option<Transport> {
        let packet_max = u64::from(self.gateway.config().broker.max_packet_size);
        let is_plain = settings.protocols == Protocols::Mqtt;
        if settings.tls.is_none() {
            return Some(if is_plain {
                Transport::Plain(stream)
            } else {
                let settings = settings.clone();
                Transport::Ws(Box::new(WebSocket::new(stream, settings, packet_max)))
            });
        }
        let in_force = self.credentials.in_force(id)?;
        let memory = self.gateway.memory();
        let tls = Tls::new(stream, in_force.config.clone(), in_force.identity, memory);
        let tls = tls.ok()?;
        Some(if is_plain {
            Transport::Tls(Box::new(tls))
        } else {
            let settings = settings.clone();
            Transport::WsTls(Box::new(WebSocket::new(tls, settings, packet_max)))
        })
    }

    /// Takes a new connection into the tables and the poll.
    fn admit(&mut self, mut transport: Transport, is_new: IsNew) -> Option<ConnId> {
        let conn = self.connections.vacant_key();
        let token = Source::Connection(conn.slot()).token();
        let registry = self.poll.registry();
        let stream = transport.stream();
        let registered = if self.connections.len() >= CONNECTIONS_MAX {
            Err(io::Error::other("too many connections"))
        } else if is_new == IsNew::Yes {
            stream.register(registry, token)
        } else {
            stream.reregister(registry, token)
        };
        if let Err(error) = registered {
            self.counters.accepts_refused += 1;
            log::warn!("connection refused: {error}");
            return None;
        }
        self.counters.accepted += 1;
        Some(self.connections.insert(Connection::new(transport)))
    }

    /// The kernel says whose process it is; nothing is read from it before that has a name.
    fn ask_who(&mut self, now: Now, conn: ConnId, uid: u32) {
        match self.users.ask(uid, conn) {
            Asked::Known(name) => {
                self.gateway
                    .handle_input(now, Input::Identified { conn, name });
            }
            Asked::Waiting => {
                if let Some(connection) = self.connections.get_mut(conn) {
                    connection.hold();
                }
            }
            Asked::Nobody => {
                log::error!("no thread for the name of a user uid={uid}");
                self.close(now, conn, CloseCause::Ours);
            }
        }
    }

    /// The name of a user: who waited for it is read.
    pub(super) fn user_named(&mut self, now: Now, uid: u32, name: Option<Box<str>>) {
        let (waiting, name) = self.users.answered(uid, name);
        for conn in waiting {
            let Some(connection) = self.connections.get_mut(conn) else {
                continue;
            };
            if !connection.release() {
                continue;
            }
            if connection.is_readable()
                && !std::mem::replace(&mut connection.is_ready_to_read, true)
            {
                self.ready.push_back(Source::Connection(conn.slot()));
            }
            let name = name.clone();
            self.gateway
                .handle_input(now, Input::Identified { conn, name });
        }
    }
}
