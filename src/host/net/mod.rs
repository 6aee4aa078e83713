//! Sockets that MQTT is spoken over: listeners, connections, and those that only linger.
//!
//! Everything is read and written through a [`Transport`]. Nothing in here knows MQTT or the
//! gateway: the loop lends the gateway's buffers.
//!
//! | file | does |
//! |---|---|
//! | `listener` | accepts |
//! | `proxied` | those whose proxy has not said yet for whom it speaks |
//! | `connection` | what the poll has said about a socket, and how it ends |
//! | `tls`, `websocket` | transports over a socket, or one over the other |
//! | `credentials` | certificates and keys: read on a worker, and again when they change |
//! | `frames`, `proxy`, `upgrade`, `certificate` | the formats, without a socket |
//! | `linger` | those that have said everything |

pub mod certificate;
mod connection;
pub mod credentials;
pub mod frames;
mod linger;
mod listener;
mod proxied;
pub mod proxy;
mod tls;
pub mod upgrade;
mod websocket;

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use nix::sys::socket::{MsgFlags, recv};

pub(super) use connection::{Closing, Connection, ReadOutcome, ShakeOutcome, WriteOutcome};
pub(super) use credentials::Credentials;
pub(super) use linger::Lingering;
pub(super) use listener::{Accepted, Listener, group_id};
pub(super) use proxied::{Announced, Proxied};
pub(super) use tls::Tls;
pub(super) use websocket::WebSocket;

/// Bytes read from one connection in one turn.
pub(super) const READ_PER_TURN: usize = 64 * 1024;

/// Bytes written to one connection in one turn.
pub(super) const WRITE_PER_TURN: usize = 64 * 1024;

/// Connections accepted from one listener in one turn.
pub(super) const ACCEPTS_PER_TURN: usize = 16;

/// Connections at once, whatever their listeners allow. More are closed as they come, and counted.
pub(super) const CONNECTIONS_MAX: usize = 100_000;

/// What a read costs at least of a turn's budget: one that brought nothing for MQTT is work too.
pub(super) const READ_COST_MIN: usize = 4096;

/// How the bytes of an MQTT connection become bytes on a socket: a closed set.
#[derive(Debug)]
pub(super) enum Transport {
    /// As they are.
    Plain(Stream),
    /// Encrypted.
    Tls(Box<Tls>),
    /// In WebSocket frames, or as they are where the listener takes both.
    Ws(Box<WebSocket<Stream>>),
    /// The same, encrypted.
    WsTls(Box<WebSocket<Tls>>),
}

/// A stream socket.
#[derive(Debug)]
pub(super) enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes. None: something came, and none of it is MQTT's.
    Bytes(usize),
    /// The peer's last byte has been read.
    End,
}

/// How far a connection's beginning has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shaken {
    /// MQTT's bytes may flow. The name is the one that the client's certificate vouches for.
    Open(Option<Box<str>>),
    /// There may be more to read at once.
    More,
    /// The peer has gone.
    End,
}

/// Why a transport cannot go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The socket says so; `WouldBlock` is one of these.
    Io(io::Error),
    /// The peer does not keep to the protocol, or is not let in. What there is to say about it has
    /// been said to it, as far as it takes it.
    Peer(Offence),
}

/// What a peer has done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offence {
    pub layer: Layer,
    pub what: Box<str>,
}

/// Where it did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    Tls,
    WebSocket,
}

/// What a peer has done is bad data, for whoever makes no difference.
impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Io(error) => error,
            Trouble::Peer(offence) => {
                Self::new(io::ErrorKind::InvalidData, offence.what.into_string())
            }
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a WebSocket can run over.
pub(super) trait Wire {
    /// Goes on with its beginning.
    fn shake(&mut self) -> Result<Shaken, Trouble>;
    /// The first byte, which stays where it is; `None` at the end.
    fn peek(&mut self) -> Result<Option<u8>, Trouble>;
    /// Reads what is there.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble>;
    /// Takes what it can, at most [`Wire::take_max`] bytes. What it took may still be on its way
    /// out: see [`Wire::flush`].
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Writes what it took before; `WouldBlock` if not all of it could be written.
    fn flush(&mut self) -> io::Result<()>;
    /// Says goodbye as its protocol has it, once. What that takes is on its way out afterwards.
    fn goodbye(&mut self);
    /// The socket below.
    fn stream(&mut self) -> &mut Stream;
    /// The socket below, the rest dropped.
    fn into_stream(self) -> Stream;
}

impl Stream {
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

    /// Says that nothing more will be written.
    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Looks at the first bytes without taking them; 0 is the end.
    pub(super) fn look(&self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::fd::AsRawFd;
        let fd = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        Ok(recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_PEEK)?)
    }

    /// The address at the other end, as the socket knows it.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// As the poll takes it.
    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [one] = slices {
            // The kernel has less to do for it.
            return Write::write(self, one);
        }
        match self {
            Self::Tcp(stream) => stream.write_vectored(slices),
            Self::Unix(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes as they are need no beginning and no end.
impl Wire for Stream {
    fn shake(&mut self) -> Result<Shaken, Trouble> {
        Ok(Shaken::Open(None))
    }

    fn peek(&mut self) -> Result<Option<u8>, Trouble> {
        let mut first = [0];
        Ok((self.look(&mut first)? > 0).then_some(first[0]))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble> {
        match Read::read(self, buffer)? {
            0 => Ok(Got::End),
            count => Ok(Got::Bytes(count)),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn goodbye(&mut self) {}

    fn stream(&mut self) -> &mut Stream {
        self
    }

    fn into_stream(self) -> Stream {
        self
    }
}

impl Transport {
    /// Whether a read that fills less than it was given has read everything. The other transports
    /// hand out what they have in pieces.
    pub(super) fn short_read_is_all(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Whether MQTT's bytes may flow from the start.
    pub(super) fn is_open_at_once(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// What the beginning has come to, for messages about one that went wrong.
    pub(super) fn shaking(&self) -> &'static str {
        match self {
            Self::WsTls(ws) if !ws.is_above() => "TLS handshake",
            Self::Tls(_) => "TLS handshake",
            Self::Plain(_) | Self::Ws(_) | Self::WsTls(_) => "WebSocket request",
        }
    }

    /// Goes on with the beginning.
    pub(super) fn shake(&mut self) -> Result<Shaken, Trouble> {
        match self {
            Self::Plain(stream) => stream.shake(),
            Self::Tls(tls) => tls.shake(),
            Self::Ws(ws) => ws.shake(),
            Self::WsTls(ws) => ws.shake(),
        }
    }

    /// Reads what is there.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble> {
        match self {
            Self::Plain(stream) => Wire::read(stream, buffer),
            Self::Tls(tls) => tls.read(buffer),
            Self::Ws(ws) => ws.read(buffer),
            Self::WsTls(ws) => ws.read(buffer),
        }
    }

    /// How many bytes it would take now at most.
    pub(super) fn take_max(&self) -> usize {
        match self {
            Self::Plain(_) => usize::MAX,
            Self::Tls(_) => tls::RECORD_MAX,
            Self::Ws(ws) => ws.take_max(),
            Self::WsTls(ws) => ws.take_max(),
        }
    }

    /// Takes what can be taken, of at most [`Transport::take_max`] bytes. What was taken may still
    /// be on its way out: see [`Transport::flush`].
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write_vectored(slices),
            Self::Tls(tls) => tls.write(slices),
            Self::Ws(ws) => ws.write(slices),
            Self::WsTls(ws) => ws.write(slices),
        }
    }

    /// Writes what it has of its own; `WouldBlock` if not all of it could be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
            Self::Ws(ws) => ws.flush(),
            Self::WsTls(ws) => ws.flush(),
        }
    }

    /// Says goodbye in its own words, once: nothing is taken afterwards.
    pub(super) fn goodbye(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => tls.goodbye(),
            Self::Ws(ws) => ws.goodbye(),
            Self::WsTls(ws) => ws.goodbye(),
        }
    }

    /// The socket.
    pub(super) fn stream(&mut self) -> &mut Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.stream(),
            Self::Ws(ws) => ws.stream(),
            Self::WsTls(ws) => ws.stream(),
        }
    }

    /// The socket, everything else dropped.
    pub(super) fn into_stream(self) -> Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.into_stream(),
            Self::Ws(ws) => ws.into_stream(),
            Self::WsTls(ws) => ws.into_stream(),
        }
    }
}
