//! Clients' connections in the loop: read, written and closed, each within its budget.

use super::EventLoop;
use crate::buffer::RecvBuffer;
use crate::gateway::boundary::{CloseCause, CloseHow, Input};
use crate::host::net::{
    Closing, Connection, Layer, Offence, READ_COST_MIN, READ_PER_TURN, ReadOutcome, ShakeOutcome,
    WRITE_PER_TURN, WriteOutcome,
};
use crate::host::timer::TimerKey;
use crate::host::token::{Readiness, Source};
use crate::id::ConnId;
use crate::slab::Key;
use crate::time::Now;

impl EventLoop {
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
            Closing::No if connection.is_open() => self.read_to_gateway(now, conn),
            Closing::No => self.shake(now, conn),
            Closing::PeerDone => self.close(now, conn, CloseCause::Peer),
            Closing::Flush => self.read_to_nowhere(now, conn),
        }
    }

    /// Goes on with a transport's beginning, and reads when that is over.
    fn shake(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if !connection.is_readable() {
            return;
        }
        match connection.shake() {
            ShakeOutcome::Open(identity) => {
                // What it has to be told may be queued already.
                if !std::mem::replace(&mut connection.is_ready_to_write, true) {
                    self.writable.push_back(conn);
                }
                if let Some(name) = identity {
                    self.gateway
                        .handle_input(now, Input::Identified { conn, name });
                }
                self.read_to_gateway(now, conn);
            }
            ShakeOutcome::More => {
                connection.is_ready_to_read = true;
                self.ready.push_back(Source::Connection(conn.slot()));
            }
            ShakeOutcome::Waiting => {}
            ShakeOutcome::Ended => self.peer_done(now, conn),
            ShakeOutcome::Failed(errno) => self.close(now, conn, CloseCause::Failed(errno)),
            ShakeOutcome::Offended(offence) => self.offended(now, conn, &offence),
        }
    }

    /// A peer does not keep to its transport's protocol. It has been told, and gets the time to
    /// read that.
    fn offended(&mut self, now: Now, conn: ConnId, offence: &Offence) {
        let Some(mut connection) = self.connections.remove(conn) else {
            return;
        };
        let (layer, count) = match offence.layer {
            Layer::Tls => ("tls", &mut self.counters.tls_failed),
            Layer::WebSocket => ("websocket", &mut self.counters.websocket_failed),
        };
        *count += 1;
        // The first of them, and then ever fewer: on a public port strangers do it all day.
        if count.is_power_of_two() {
            let peer = connection.peer().map(|peer| peer.to_string());
            log::info!(
                "{layer} failed conn={conn} peer={} so_far={count}: {}",
                peer.as_deref().unwrap_or("?"),
                offence.what
            );
        } else {
            log::debug!("{layer} failed conn={conn}: {}", offence.what);
        }
        self.timers.disarm(TimerKey::Flush(conn));
        let cause = CloseCause::Failed(nix::libc::EPROTO);
        self.gateway
            .handle_input(now, Input::Closed { conn, cause });
        if let Some(stream) = connection.into_lingering() {
            let registry = self.poll.registry();
            self.lingering
                .add(registry, &mut self.timers, now.monotonic, stream);
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
                ReadOutcome::Ended | ReadOutcome::Failed(_) | ReadOutcome::Offended(_) => 0,
            };
            if count > 0 {
                // The gateway commits what is new.
                self.gateway
                    .handle_input(now, Input::Received { conn, count });
                self.relieve();
            } else {
                // Room that stayed empty goes back to the pool.
                buffer.commit(0);
            }
            left = left.saturating_sub(count.max(READ_COST_MIN));
            match outcome {
                ReadOutcome::More(_) => {}
                ReadOutcome::Drained(_) => return,
                ReadOutcome::Ended => {
                    self.peer_done(now, conn);
                    return;
                }
                ReadOutcome::Offended(offence) => {
                    self.offended(now, conn, &offence);
                    return;
                }
                ReadOutcome::Failed(errno) => {
                    self.close(now, conn, CloseCause::Failed(errno));
                    return;
                }
            }
        }
    }

    /// Sends early what would otherwise pile up until the turn's end. Nothing is drawn for it.
    fn relieve(&mut self) {
        while let Some((conn, queue)) = self.gateway.poll_pressed() {
            if let Some(connection) = self.connections.get_mut(conn)
                && connection.closing == Closing::No
                && connection.is_writable()
                && let WriteOutcome::Failed(errno) = connection.write(queue, WRITE_PER_TURN)
            {
                connection.fail(errno);
                if !std::mem::replace(&mut connection.is_ready_to_read, true) {
                    self.ready.push_back(Source::Connection(conn.slot()));
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
                ReadOutcome::More(count) => left = left.saturating_sub(count.max(READ_COST_MIN)),
                // It may still read what we have to say.
                ReadOutcome::Drained(_) | ReadOutcome::Ended => return,
                ReadOutcome::Failed(_) | ReadOutcome::Offended(_) => {
                    self.close(now, conn, CloseCause::Ours);
                    return;
                }
            }
        }
    }

    /// The end of a connection: out of the tables, and one `Closed` for the gateway, before its
    /// slot is anybody else's.
    pub(super) fn close(&mut self, now: Now, conn: ConnId, cause: CloseCause) {
        if let Some(mut connection) = self.connections.remove(conn) {
            if cause == CloseCause::Peer && connection.is_open() {
                // It may have shut down its writing half alone. What the socket does not take now
                // is lost, and so is the rest.
                let _ = connection.part();
            }
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
            self.hear_workers(now);
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
            WriteOutcome::Taken | WriteOutcome::NotOpen if is_closing => self.linger(now, conn),
            // An open transport or an edge brings it back.
            WriteOutcome::Taken | WriteOutcome::Blocked | WriteOutcome::NotOpen => {}
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
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if connection.is_open() && connection.part() == Ok(false) {
            // The edge brings it back here.
            return;
        }
        let stream = self
            .close_later(conn, CloseCause::Ours)
            .and_then(Connection::into_lingering);
        if let Some(stream) = stream {
            let registry = self.poll.registry();
            self.lingering
                .add(registry, &mut self.timers, now.monotonic, stream);
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
