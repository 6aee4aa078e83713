//! A socket that is being connected, and what is to lie over it: TLS, WebSocket, both.
//!
//! It is open when the last layer is. From then on it is a [`Transport`] like one that was
//! accepted.

use std::io::{self, ErrorKind, IoSlice};

use mio::net::{TcpStream, UnixStream};

use super::Address;
use super::tls::Secured;
use crate::buffer::Memory;
use crate::host::net::upgrade::Upgrade;
use crate::host::net::{Got, Shaken, Stream, Transport, Trouble, WebSocket};

/// What lies over the sockets of a link.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// TLS.
    pub tls: Option<Secured>,
    /// WebSocket, within TLS if there is that.
    pub websocket: Option<Upgrade>,
}

/// One connection's way from and to its socket.
#[derive(Debug)]
pub(in crate::host) struct Channel {
    transport: Transport,
    has_connected: bool,
}

/// How far opening has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host) enum Opening {
    /// MQTT's bytes may flow.
    Open,
    /// There may be more to read at once.
    More,
    /// The poll will tell.
    Waiting,
}

impl Channel {
    /// Starts to connect.
    pub(in crate::host) fn open(
        address: &Address,
        layers: &Layers,
        memory: &Memory,
    ) -> io::Result<Self> {
        let stream = match address {
            Address::Tcp(address) => Stream::Tcp(TcpStream::connect(*address)?),
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let websocket = layers.websocket.clone();
        let transport = match (&layers.tls, websocket) {
            (None, None) => Transport::Plain(stream),
            (None, Some(upgrade)) => Transport::Ws(Box::new(WebSocket::to(stream, upgrade))),
            (Some(tls), None) => Transport::Tls(Box::new(tls.over(stream, memory)?)),
            (Some(tls), Some(upgrade)) => {
                let tls = tls.over(stream, memory)?;
                Transport::WsTls(Box::new(WebSocket::to(tls, upgrade)))
            }
        };
        Ok(Self {
            transport,
            has_connected: false,
        })
    }

    /// The socket.
    pub(in crate::host) fn stream(&mut self) -> &mut Stream {
        self.transport.stream()
    }

    /// Whether a readiness event may stand for more than one read of its bytes: what is over the
    /// socket takes and gives other amounts than the socket.
    pub(in crate::host) fn is_layered(&self) -> bool {
        !self.transport.short_read_is_all()
    }

    /// Whether the socket is connected, which its first layer may still have to make use of.
    pub(in crate::host) const fn has_connected(&self) -> bool {
        self.has_connected
    }

    /// What opening has come to once the socket is connected, for messages.
    pub(in crate::host) fn shaking(&self) -> &'static str {
        self.transport.shaking()
    }

    /// Goes on with opening it.
    pub(in crate::host) fn go_on(&mut self) -> io::Result<Opening> {
        if !self.has_connected {
            let stream = self.transport.stream();
            if !is_connected(stream)? {
                return Ok(Opening::Waiting);
            }
            send_at_once(stream);
            self.has_connected = true;
        }
        loop {
            return match self.transport.shake() {
                Ok(Shaken::Open(_)) => Ok(Opening::Open),
                Ok(Shaken::More) => Ok(Opening::More),
                Ok(Shaken::End) => {
                    let what = format!("the server has closed in the {}", self.transport.shaking());
                    Err(io::Error::new(ErrorKind::UnexpectedEof, what))
                }
                Err(Trouble::Io(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Err(Trouble::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    Ok(Opening::Waiting)
                }
                Err(trouble) => Err(trouble.into()),
            };
        }
    }

    /// What is open now.
    pub(in crate::host) fn into_transport(self) -> Transport {
        self.transport
    }

    /// 0: the end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.transport.read(into) {
                Ok(Got::Bytes(0)) => {}
                Ok(Got::Bytes(count)) => return Ok(count),
                Ok(Got::End) => return Ok(0),
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    /// How much of it was taken; it may still have to be flushed.
    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.transport.write(slices)
    }

    /// Until the socket has taken what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.transport.flush()
    }

    /// A peer that has closed already is why this may fail, and then there is nothing to say to it.
    pub(super) fn shut_down_writing(&mut self) {
        // A WebSocket's wire parts when the close frame is out.
        for _ in 0..2 {
            self.transport.goodbye();
            let _ = self.transport.flush();
        }
        let _ = self.transport.stream().shutdown_write();
    }
}

/// `false`: not yet.
fn is_connected(socket: &Stream) -> io::Result<bool> {
    let error = match socket {
        Stream::Tcp(stream) => stream.take_error(),
        Stream::Unix(stream) => stream.take_error(),
    };
    if let Some(error) = error? {
        return Err(error);
    }
    let Stream::Tcp(stream) = socket else {
        return Ok(true);
    };
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Without Nagle's delay. A socket that refuses is slower, not broken.
fn send_at_once(socket: &Stream) {
    if let Stream::Tcp(stream) = socket {
        let _ = stream.set_nodelay(true);
    }
}
