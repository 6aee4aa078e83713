//! Clients' connections in the loop: accepted, read, written and closed, each within its budget.

use std::io;

use super::{ACCEPT_AGAIN, EventLoop};
use crate::buffer::RecvBuffer;
use crate::gateway::boundary::{CloseCause, CloseHow, Input};
use crate::host::net::{
    ACCEPTS_PER_TURN, Accepted, CONNECTIONS_MAX, Closing, Connection, Listener, READ_PER_TURN,
    ReadOutcome, Transport, WRITE_PER_TURN, WriteOutcome,
};
use crate::host::timer::TimerKey;
use crate::host::token::{Readiness, Source};
use crate::id::{ConnId, ListenerId};
use crate::slab::Key;
use crate::time::Now;

impl EventLoop {
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
                    let Some(conn) = self.admit(Transport::Plain(stream)) else {
                        continue;
                    };
                    let input = Input::Accepted {
                        conn,
                        listener: id,
                        peer,
                    };
                    self.gateway.handle_input(now, input);
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

    /// Takes a new connection into the tables and the poll.
    pub(super) fn admit(&mut self, mut transport: Transport) -> Option<ConnId> {
        let conn = self.connections.vacant_key();
        let token = Source::Connection(conn.slot()).token();
        let registered = if self.connections.len() < CONNECTIONS_MAX {
            transport.register(self.poll.registry(), token)
        } else {
            Err(io::Error::other("too many connections"))
        };
        if let Err(error) = registered {
            self.counters.accepts_refused += 1;
            log::warn!("connection refused: {error}");
            return None;
        }
        self.counters.accepted += 1;
        Some(self.connections.insert(Connection::new(transport)))
    }

    /// Notes an event of the poll. `true`: put it on the ready list, it was not there.
    pub(super) fn note_connection(&mut self, slot: u32, readiness: Readiness) -> bool {
        let Some(conn) = self.connections.key_at_slot(slot) else {
            return false;
        };
        let Some(connection) = self.connections.get_mut(conn) else {
            return false;
        };
        let was_writable = connection.is_writable();
        connection.note(readiness);
        if connection.is_writable()
            && !was_writable
            && !std::mem::replace(&mut connection.is_ready_to_write, true)
        {
            self.writable.push_back(conn);
        }
        connection.is_readable() && !std::mem::replace(&mut connection.is_ready_to_read, true)
    }

    /// Reads one connection within its budget.
    pub(super) fn read(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        connection.is_ready_to_read = false;
        match connection.closing {
            Closing::No => self.read_to_gateway(now, conn),
            Closing::PeerDone => self.close(now, conn, CloseCause::Peer),
            Closing::Flush => self.read_to_nowhere(now, conn),
        }
    }

    pub(super) fn read_to_gateway(&mut self, now: Now, conn: ConnId) {
        let mut left = READ_PER_TURN;
        loop {
            let Some(connection) = self.connections.get_mut(conn) else {
                return;
            };
            if !connection.is_readable() {
                return;
            }
            if left == 0 {
                connection.is_ready_to_read = true;
                self.ready.push_back(Source::Connection(conn.slot()));
                return;
            }
            // Paused, or a whole frame waits to be parsed: `poll_resumed` says when to go on.
            let buffer = self.gateway.recv_buffer(conn);
            let Some((buffer, room)) = buffer.and_then(with_room) else {
                if let Some(errno) = connection.write_failed() {
                    self.close(now, conn, CloseCause::Failed(errno));
                }
                return;
            };
            let room = room.min(left);
            let outcome = connection.read(&mut buffer.spare()[..room]);
            let count = match outcome {
                ReadOutcome::More(count) | ReadOutcome::Drained(count) => count,
                ReadOutcome::Ended | ReadOutcome::Failed(_) => 0,
            };
            if count > 0 {
                left -= count;
                // The gateway commits what is new.
                self.gateway
                    .handle_input(now, Input::Received { conn, count });
            } else {
                // Room that stayed empty goes back to the pool.
                buffer.commit(0);
            }
            match outcome {
                ReadOutcome::More(_) => {}
                ReadOutcome::Drained(_) => return,
                ReadOutcome::Ended => {
                    self.peer_done(now, conn);
                    return;
                }
                ReadOutcome::Failed(errno) => {
                    self.close(now, conn, CloseCause::Failed(errno));
                    return;
                }
            }
        }
    }

    /// The peer has sent its last byte.
    pub(super) fn peer_done(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if let Some(errno) = connection.write_failed() {
            self.close(now, conn, CloseCause::Failed(errno));
            return;
        }
        // What its last bytes are answered with is written first: the gateway hears of the end in
        // the next turn.
        connection.closing = Closing::PeerDone;
        connection.is_ready_to_read = true;
        self.ready.push_back(Source::Connection(conn.slot()));
    }

    /// Discards what the peer of a closing connection still says.
    pub(super) fn read_to_nowhere(&mut self, now: Now, conn: ConnId) {
        let mut scratch = [0; 4096];
        let mut left = READ_PER_TURN;
        while let Some(connection) = self.connections.get_mut(conn) {
            if !connection.is_readable() {
                return;
            }
            if left == 0 {
                connection.is_ready_to_read = true;
                self.ready.push_back(Source::Connection(conn.slot()));
                return;
            }
            match connection.read(&mut scratch) {
                ReadOutcome::More(count) => left = left.saturating_sub(count),
                // It may still read what we have to say.
                ReadOutcome::Drained(_) | ReadOutcome::Ended => return,
                ReadOutcome::Failed(_) => {
                    self.close(now, conn, CloseCause::Ours);
                    return;
                }
            }
        }
    }

    /// The end of a connection: out of the tables, and one `Closed` for the gateway, before its
    /// slot is anybody else's.
    pub(super) fn close(&mut self, now: Now, conn: ConnId, cause: CloseCause) {
        if self.connections.remove(conn).is_some() {
            self.timers.disarm(TimerKey::Flush(conn));
            self.gateway
                .handle_input(now, Input::Closed { conn, cause });
        }
    }

    /// As [`EventLoop::close`], for when outputs are being done: the gateway hears of it at the
    /// start of the next turn.
    pub(super) fn close_later(&mut self, conn: ConnId, cause: CloseCause) -> Option<Connection> {
        let connection = self.connections.remove(conn)?;
        self.timers.disarm(TimerKey::Flush(conn));
        self.inputs.push_back(Input::Closed { conn, cause });
        Some(connection)
    }

    /// One write for each connection that has something to say and room to say it.
    pub(super) fn write_out(&mut self, now: Now) {
        while let Some(conn) = self.gateway.poll_writable() {
            if let Some(connection) = self.connections.get_mut(conn)
                && !std::mem::replace(&mut connection.is_ready_to_write, true)
            {
                self.writable.push_back(conn);
            }
        }
        let mut writing = std::mem::take(&mut self.writing);
        writing.extend(self.writable.drain(..));
        for conn in writing.drain(..) {
            self.write(now, conn);
        }
        self.writing = writing;
    }

    pub(super) fn write(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        connection.is_ready_to_write = false;
        if !connection.is_writable() {
            // Its edge brings it back. Nothing is drawn for a socket that cannot take it.
            return;
        }
        let is_closing = connection.closing == Closing::Flush;
        let Some(queue) = self.gateway.fill(now, conn, WRITE_PER_TURN) else {
            if is_closing {
                self.linger(now, conn);
            }
            return;
        };
        match connection.write(queue, WRITE_PER_TURN) {
            WriteOutcome::Taken if !queue.is_empty() || (queue.has_more() && !is_closing) => {
                connection.is_ready_to_write = true;
                self.writable.push_back(conn);
            }
            WriteOutcome::Taken if is_closing => self.linger(now, conn),
            WriteOutcome::Taken | WriteOutcome::Blocked => {}
            WriteOutcome::Failed(_) if is_closing => {
                self.close_later(conn, CloseCause::Ours);
            }
            WriteOutcome::Failed(errno) => {
                // Its last words may lie unread: a DISCONNECT among them means that no will is to
                // be sent.
                connection.fail(errno);
                if !std::mem::replace(&mut connection.is_ready_to_read, true) {
                    self.ready.push_back(Source::Connection(conn.slot()));
                }
            }
        }
    }

    /// Everything is written: the gateway is done with the connection, the socket waits for its
    /// peer.
    pub(super) fn linger(&mut self, now: Now, conn: ConnId) {
        let transport = self
            .close_later(conn, CloseCause::Ours)
            .and_then(Connection::into_lingering);
        if let Some(transport) = transport {
            let registry = self.poll.registry();
            self.lingering
                .add(registry, &mut self.timers, now.monotonic, transport);
        }
    }

    pub(super) fn start_to_close(&mut self, conn: ConnId, how: CloseHow) {
        match how {
            CloseHow::Now => {
                self.close_later(conn, CloseCause::Ours);
            }
            CloseHow::AfterFlush { deadline } => {
                let Some(connection) = self.connections.get_mut(conn) else {
                    return;
                };
                connection.closing = Closing::Flush;
                self.timers.arm(TimerKey::Flush(conn), deadline);
                // Even if nothing is queued: then it is over as soon as it is looked at.
                if !std::mem::replace(&mut connection.is_ready_to_write, true) {
                    self.writable.push_back(conn);
                }
            }
        }
    }
}

/// A buffer with the room that it has; `None`: it has none.
fn with_room(buffer: &mut RecvBuffer) -> Option<(&mut RecvBuffer, usize)> {
    let room = buffer.spare().len();
    (room > 0).then_some((buffer, room))
}
