//! One client's socket: what the poll has said about it, and how it ends.

use std::io::{self, IoSlice};

use super::{Got, Offence, Shaken, Stream, Transport, Trouble};
use crate::buffer::SendQueue;
use crate::host::token::Readiness;

/// Slices of one gathered write. More wait for the next turn.
const SLICES_MAX: usize = 64;

/// A connection of the gateway's.
#[derive(Debug)]
pub(in crate::host) struct Connection {
    transport: Transport,
    /// MQTT's bytes may flow: the transport's beginning is over.
    is_open: bool,
    /// Nothing is read until it is known whose process is at the other end.
    is_held: bool,
    /// The transport's own goodbye has been said.
    has_parted: bool,
    /// There may be something to read: the poll said so, and no read has found the end of it.
    readable: bool,
    /// The poll has said that no further event will come: a short read does not mean drained.
    read_to_end: bool,
    /// The last write was taken whole, or the poll has said that there is room again.
    writable: bool,
    /// A write has failed; what the peer said before is still read.
    write_failed: Option<i32>,
    /// How it is being closed.
    pub(in crate::host) closing: Closing,
    /// On the loop's list of those to be read.
    pub(in crate::host) is_ready_to_read: bool,
    /// On the loop's list of those to be written.
    pub(in crate::host) is_ready_to_write: bool,
}

/// How far a connection's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host) enum Closing {
    /// Not at all.
    No,
    /// The peer has sent its last byte. The gateway hears of it in the next turn, when what it has
    /// to answer has been written.
    PeerDone,
    /// What is queued is written, then the writing half is shut down; the peer's bytes are nobody's
    /// any more.
    Flush,
}

/// How one read ended.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::host) enum ReadOutcome {
    /// So many bytes, and there may be more.
    More(usize),
    /// So many bytes, perhaps none, and that was all: the poll will tell.
    Drained(usize),
    /// The peer has shut down its writing half.
    Ended,
    /// With this error number.
    Failed(i32),
    /// The peer does not keep to its transport's protocol.
    Offended(Offence),
}

/// How far a beginning has come.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::host) enum ShakeOutcome {
    /// It is over; the name is the one that the transport vouches for.
    Open(Option<Box<str>>),
    /// There may be more to read at once.
    More,
    /// The poll will tell.
    Waiting,
    /// The peer has gone.
    Ended,
    /// With this error number.
    Failed(i32),
    /// The peer does not keep to its transport's protocol, or is not let in.
    Offended(Offence),
}

/// How one write ended.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::host) enum WriteOutcome {
    /// Everything that was asked for was taken; whether more waits is the queue's to say.
    Taken,
    /// The socket is full: the poll will tell.
    Blocked,
    /// Nothing can be written before the transport's beginning is over.
    NotOpen,
    /// With this error number.
    Failed(i32),
}

impl Connection {
    /// A socket that was just registered: the poll tells at once what it is ready for.
    pub(in crate::host) fn new(transport: Transport) -> Self {
        Self {
            is_open: transport.is_open_at_once(),
            is_held: false,
            has_parted: false,
            transport,
            readable: false,
            read_to_end: false,
            writable: true,
            write_failed: None,
            closing: Closing::No,
            is_ready_to_read: false,
            is_ready_to_write: false,
        }
    }

    /// A socket whose transport's beginning is over, just registered under its own name. What is
    /// above the socket may have read further than to that beginning's end, which the poll does
    /// not tell.
    pub(in crate::host) fn opened(transport: Transport) -> Self {
        Self {
            is_open: true,
            readable: true,
            ..Self::new(transport)
        }
    }

    /// Notes what the poll has said.
    pub(in crate::host) fn note(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.read_to_end |= readiness.read_closed;
        self.writable |= readiness.writable;
    }

    /// Whether a read may bring something.
    pub(in crate::host) fn is_readable(&self) -> bool {
        self.readable && !self.is_held
    }

    /// Whether MQTT's bytes may flow; if not, [`Connection::shake`] goes on.
    pub(in crate::host) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Nothing is read until [`Connection::release`].
    pub(in crate::host) fn hold(&mut self) {
        self.is_held = true;
    }

    /// See [`Connection::hold`]. `false`: it was not held.
    pub(in crate::host) fn release(&mut self) -> bool {
        std::mem::replace(&mut self.is_held, false)
    }

    /// Who is at the other end, for the log.
    pub(in crate::host) fn peer(&mut self) -> Option<std::net::SocketAddr> {
        self.transport.stream().peer()
    }

    /// Goes on with the transport's beginning.
    pub(in crate::host) fn shake(&mut self) -> ShakeOutcome {
        let shaken = loop {
            match self.transport.shake() {
                Err(Trouble::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.note_flush();
        match shaken {
            Ok(Shaken::Open(identity)) => {
                self.is_open = true;
                ShakeOutcome::Open(identity)
            }
            Ok(Shaken::More) => ShakeOutcome::More,
            Ok(Shaken::End) => {
                self.readable = false;
                ShakeOutcome::Ended
            }
            Err(Trouble::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                ShakeOutcome::Waiting
            }
            Err(Trouble::Io(error)) => {
                self.readable = false;
                ShakeOutcome::Failed(errno(&error))
            }
            Err(Trouble::Peer(offence)) => {
                self.readable = false;
                ShakeOutcome::Offended(offence)
            }
        }
    }

    /// Reading may have made something to write. What the socket does not take waits for its edge.
    fn note_flush(&mut self) {
        if let Err(error) = self.transport.flush()
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.writable = false;
        }
    }

    /// A write has failed with this error number: nothing more is written, and what is left is read
    /// to its end.
    pub(in crate::host) fn fail(&mut self, errno: i32) {
        self.write_failed = Some(errno);
        self.writable = false;
        self.readable = true;
        self.read_to_end = true;
    }

    /// See [`Connection::fail`].
    pub(in crate::host) fn write_failed(&self) -> Option<i32> {
        self.write_failed
    }

    /// Whether a write may be taken.
    pub(in crate::host) fn is_writable(&self) -> bool {
        self.writable && self.write_failed.is_none()
    }

    /// Reads once into `buffer`, which is not empty.
    pub(in crate::host) fn read(&mut self, buffer: &mut [u8]) -> ReadOutcome {
        debug_assert!(!buffer.is_empty(), "a read into nothing looks like an end");
        let got = loop {
            match self.transport.read(buffer) {
                Err(Trouble::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let is_plain = self.transport.short_read_is_all();
        if !is_plain {
            self.note_flush();
        }
        match got {
            Ok(Got::End) => {
                self.readable = false;
                ReadOutcome::Ended
            }
            // Data and FIN that arrive together make one event: then only an end or an error is
            // one.
            Ok(Got::Bytes(count)) if is_plain && count < buffer.len() && !self.read_to_end => {
                self.readable = false;
                ReadOutcome::Drained(count)
            }
            Ok(Got::Bytes(count)) => ReadOutcome::More(count),
            Err(Trouble::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                ReadOutcome::Drained(0)
            }
            Err(Trouble::Io(error)) => {
                self.readable = false;
                ReadOutcome::Failed(errno(&error))
            }
            Err(Trouble::Peer(offence)) => {
                self.readable = false;
                ReadOutcome::Offended(offence)
            }
        }
    }

    /// Writes the front of `queue`, at most `budget` bytes, and forgets what was taken: with one
    /// system call, or one for each frame or record.
    pub(in crate::host) fn write(&mut self, queue: &mut SendQueue, budget: usize) -> WriteOutcome {
        let mut left = budget;
        loop {
            match self.write_once(queue, left) {
                Ok(None) if !self.is_open => return WriteOutcome::NotOpen,
                Ok(None) => return WriteOutcome::Taken,
                Ok(Some((taken, asked))) if taken < asked => {
                    self.writable = false;
                    return WriteOutcome::Blocked;
                }
                Ok(Some((taken, _))) => left -= taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return WriteOutcome::Blocked;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return WriteOutcome::Failed(errno(&error)),
            }
            if left == 0 || matches!(self.transport, Transport::Plain(_)) {
                return match self.flush() {
                    Ok(true) => WriteOutcome::Taken,
                    Ok(false) => WriteOutcome::Blocked,
                    Err(errno) => WriteOutcome::Failed(errno),
                };
            }
        }
    }

    /// What was taken before goes first. `None`: there is nothing to write, or it may not be yet.
    fn write_once(
        &mut self,
        queue: &mut SendQueue,
        budget: usize,
    ) -> io::Result<Option<(usize, usize)>> {
        self.transport.flush()?;
        if !self.is_open {
            return Ok(None);
        }
        let budget = budget.min(self.transport.take_max());
        let front = queue.front();
        if front.len() == queue.len() {
            // Nearly all that is said lies in one piece.
            let asked = front.len().min(budget);
            if asked == 0 {
                return Ok(None);
            }
            let taken = self.transport.write(&[IoSlice::new(&front[..asked])])?;
            queue.consume(taken);
            return Ok(Some((taken, asked)));
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = queue.gather(&mut slices, budget);
        let slices = &slices[..count];
        let asked: usize = slices.iter().map(|slice| slice.len()).sum();
        if asked == 0 {
            return Ok(None);
        }
        let taken = self.transport.write(slices)?;
        queue.consume(taken);
        Ok(Some((taken, asked)))
    }

    /// Writes what the transport has of its own. `false`: not all of it, and the poll will tell.
    fn flush(&mut self) -> Result<bool, i32> {
        loop {
            match self.transport.flush() {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
    }

    /// Says goodbye in the transport's words. `false`: it is not out yet, and the poll will tell.
    pub(in crate::host) fn part(&mut self) -> Result<bool, i32> {
        if !self.has_parted {
            self.transport.goodbye();
        }
        let is_out = self.flush()?;
        if is_out && !self.has_parted {
            // A WebSocket's wire parts when the close frame is out.
            self.has_parted = true;
            self.transport.goodbye();
            return self.flush();
        }
        Ok(is_out)
    }

    /// Hands the socket to whoever lets it linger, its writing half shut down; `None` if there is
    /// nobody at the other end.
    pub(in crate::host) fn into_lingering(self) -> Option<Stream> {
        let stream = self.transport.into_stream();
        stream.shutdown_write().ok()?;
        Some(stream)
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(nix::libc::EIO)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use mio::net::UnixStream;
    use mio::{Events, Poll, Token};

    use super::*;
    use crate::buffer::{Memory, Payload};
    use crate::time::Duration;

    fn pair() -> (Poll, Connection, UnixStream) {
        let poll = Poll::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::Unix(ours);
        stream.register(poll.registry(), Token(0)).unwrap();
        (poll, Connection::new(Transport::Plain(stream)), theirs)
    }

    fn wait(poll: &mut Poll, connection: &mut Connection) {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::from_secs(10)))
            .unwrap();
        for event in &events {
            connection.note(Readiness::from(event));
        }
    }

    #[test]
    fn data_and_end_that_come_together_are_both_seen() {
        let (mut poll, mut connection, mut peer) = pair();
        peer.write_all(b"last words").unwrap();
        drop(peer);
        wait(&mut poll, &mut connection);
        let mut buffer = [0; 100];
        assert_eq!(connection.read(&mut buffer), ReadOutcome::More(10));
        assert_eq!(connection.read(&mut buffer), ReadOutcome::Ended);
    }

    #[test]
    fn a_short_read_is_the_end_of_it_while_nobody_hangs_up() {
        let (mut poll, mut connection, mut peer) = pair();
        peer.write_all(b"0123456789").unwrap();
        wait(&mut poll, &mut connection);
        assert_eq!(connection.read(&mut [0; 10]), ReadOutcome::More(10));
        assert_eq!(connection.read(&mut [0; 10]), ReadOutcome::Drained(0));
        peer.write_all(b"0123").unwrap();
        wait(&mut poll, &mut connection);
        assert!(connection.is_readable());
        assert_eq!(connection.read(&mut [0; 10]), ReadOutcome::Drained(4));
        assert!(!connection.is_readable());
    }

    #[test]
    fn a_full_socket_waits_for_its_edge_and_loses_nothing() {
        let (mut poll, mut connection, mut peer) = pair();
        let memory = Memory::new(usize::MAX);
        let mut queue = SendQueue::new(&memory);
        let body: Vec<u8> = (0..2_000_000_u32).map(|index| index as u8).collect();
        queue.push_payload(&Payload::from(body.clone()));
        let mut heard = Vec::new();
        while heard.len() < body.len() {
            match connection.write(&mut queue, 64 * 1024) {
                WriteOutcome::Taken => {}
                WriteOutcome::Blocked => {
                    assert!(!connection.is_writable());
                    let mut part = vec![0; 1 << 20];
                    let count = peer.read(&mut part).unwrap();
                    heard.extend_from_slice(&part[..count]);
                    while !connection.is_writable() && !queue.is_empty() {
                        wait(&mut poll, &mut connection);
                    }
                }
                WriteOutcome::NotOpen => panic!("plain bytes need no beginning"),
                WriteOutcome::Failed(errno) => panic!("{errno}"),
            }
            if queue.is_empty() {
                let mut part = vec![0; 1 << 20];
                let count = peer.read(&mut part).unwrap();
                heard.extend_from_slice(&part[..count]);
            }
        }
        assert!(heard == body, "bytes were lost or changed");
    }

    #[test]
    fn writing_to_nobody_fails() {
        let (_poll, mut connection, peer) = pair();
        drop(peer);
        let memory = Memory::new(usize::MAX);
        let mut queue = SendQueue::new(&memory);
        queue.reserve(1).fill(0);
        let outcome = connection.write(&mut queue, 100);
        assert_eq!(outcome, WriteOutcome::Failed(nix::libc::EPIPE));
    }
}
