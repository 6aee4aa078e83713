//! Sockets of MQTT clients: listeners, connections, and those that only linger.
//!
//! Everything is read and written through a [`Transport`], which is plain bytes for now. Nothing in
//! here knows MQTT or the gateway: the loop lends the gateway's buffers.

mod connection;
mod linger;
mod listener;

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

pub(super) use connection::{Closing, Connection, ReadOutcome, WriteOutcome};
pub(super) use linger::Lingering;
pub(super) use listener::{Accepted, Listener, group_id};

/// Bytes read from one connection in one turn.
pub(super) const READ_PER_TURN: usize = 64 * 1024;

/// Bytes written to one connection in one turn.
pub(super) const WRITE_PER_TURN: usize = 64 * 1024;

/// Connections accepted from one listener in one turn.
pub(super) const ACCEPTS_PER_TURN: usize = 16;

/// Connections at once, whatever their listeners allow. More are closed as they come, and counted.
pub(super) const CONNECTIONS_MAX: usize = 100_000;

/// How the bytes of an MQTT connection become bytes on a socket: a closed set.
#[derive(Debug)]
pub(super) enum Transport {
    /// As they are.
    Plain(Stream),
}

/// A stream socket.
#[derive(Debug)]
pub(super) enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Transport {
    /// Reads what is there.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self::Plain(stream) = self;
        match stream {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    /// Writes what can be taken.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Self::Plain(stream) = self;
        match stream {
            Stream::Tcp(stream) => stream.write_vectored(slices),
            Stream::Unix(stream) => stream.write_vectored(slices),
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        let Self::Plain(stream) = self;
        match stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Puts it in the poll, once, for both directions.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.source().register(registry, token, interest)
    }

    /// Changes what its events are called; what is ready now is told again.
    pub(super) fn reregister(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.source().reregister(registry, token, interest)
    }

    fn source(&mut self) -> &mut dyn Source {
        let Self::Plain(stream) = self;
        match stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }
}
