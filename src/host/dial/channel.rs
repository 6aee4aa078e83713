//! A socket, and what may lie over it: TLS, WebSocket, both.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use mio::net::{TcpStream, UnixStream};

use super::tls::{Secured, Tls};
use super::websocket::{Upgrade, WebSocket};
use super::{Address, READ_BUDGET};
use crate::host::net::Stream;

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
pub(super) struct Channel {
    socket: Stream,
    tls: Option<Box<Tls>>,
    websocket: Option<Box<WebSocket>>,
    has_connected: bool,
}

impl Channel {
    /// Starts to connect.
    pub(super) fn open(address: &Address, layers: &Layers) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp(address) => Stream::Tcp(TcpStream::connect(*address)?),
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        let tls = layers.tls.as_ref().map(Secured::session).transpose()?;
        let websocket = layers.websocket.as_ref().map(WebSocket::new).transpose()?;
        Ok(Self {
            socket,
            tls: tls.map(Box::new),
            websocket: websocket.map(Box::new),
            has_connected: false,
        })
    }

    pub(super) fn as_source(&mut self) -> &mut dyn mio::event::Source {
        self.socket.source()
    }

    /// Whether a readiness event may stand for more than one read of its bytes: what is over the
    /// socket takes and gives other amounts than the socket.
    pub(super) const fn is_layered(&self) -> bool {
        self.tls.is_some() || self.websocket.is_some()
    }

    /// Whether the socket is connected, which its first layer may still have to make use of.
    pub(super) const fn has_connected(&self) -> bool {
        self.has_connected
    }

    /// Goes on with opening it. `false`: not yet.
    pub(super) fn is_open(&mut self) -> io::Result<bool> {
        if !self.has_connected {
            if !is_connected(&self.socket)? {
                return Ok(false);
            }
            send_at_once(&self.socket);
            self.has_connected = true;
        }
        if let Some(tls) = &mut self.tls
            && !tls.shake(&mut self.socket)?
        {
            return Ok(false);
        }
        self.is_upgraded()
    }

    fn is_upgraded(&mut self) -> io::Result<bool> {
        while self.websocket.as_ref().is_some_and(|it| !it.is_open()) {
            match self.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                outcome => outcome?,
            }
            let mut bytes = [0; 4096];
            let count = match self.read_below(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                outcome => outcome?,
            };
            if count == 0 {
                let what = "the server has closed instead of answering the WebSocket request";
                return Err(io::Error::new(ErrorKind::UnexpectedEof, what));
            }
            if let Some(websocket) = &mut self.websocket {
                websocket.hear_answer(&bytes[..count])?;
            }
        }
        Ok(true)
    }

    /// 0: the end. Into at least as much as [`READ_BUDGET`].
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        debug_assert!(into.len() >= READ_BUDGET, "an answer's rest has to fit");
        loop {
            let Some(websocket) = &mut self.websocket else {
                return self.read_below(into);
            };
            if websocket.has_ended() {
                return Ok(0);
            }
            let early = websocket.take_early();
            let count = if early.is_empty() {
                self.read_below(into)?
            } else {
                into[..early.len()].copy_from_slice(&early);
                early.len()
            };
            let Some(websocket) = &mut self.websocket else {
                return Ok(count);
            };
            if count == 0 {
                return Ok(0);
            }
            let data = websocket.decode(&mut into[..count])?;
            if !websocket.out.is_empty() {
                // A pong that does not go out at once goes with what is written next.
                match self.flush() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            if data > 0 {
                return Ok(data);
            }
        }
    }

    /// How much of it was taken; it may still have to be flushed.
    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(websocket) = &mut self.websocket else {
            return self.write_below(slices);
        };
        if !websocket.out.is_empty() {
            self.flush()?;
        }
        let Some(websocket) = &mut self.websocket else {
            return Ok(0);
        };
        let taken = websocket.encode(slices)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Until the socket has taken what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(websocket) = &mut self.websocket
            && !websocket.out.is_empty()
        {
            let out = std::mem::take(&mut websocket.out);
            let outcome = self.write_below(&[IoSlice::new(&out)]);
            let written = outcome.as_ref().map_or(0, |written| *written);
            if let Some(websocket) = &mut self.websocket {
                websocket.out = out;
                websocket.out.drain(..written);
            }
            outcome?;
        }
        match &mut self.tls {
            Some(tls) => tls.flush(&mut self.socket),
            None => Ok(()),
        }
    }

    /// A peer that has closed already is why this may fail, and then there is nothing to say to it.
    pub(super) fn shut_down_writing(&mut self) {
        if let Some(websocket) = &mut self.websocket {
            websocket.say_end();
            let _ = self.flush();
        }
        if let Some(tls) = &mut self.tls {
            tls.say_end(&mut self.socket);
        }
        let _ = self.socket.shutdown_write();
    }

    fn read_below(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(&mut self.socket, into),
            None => self.socket.read(into),
        }
    }

    fn write_below(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.write(&mut self.socket, slices),
            None => self.socket.write_vectored(slices),
        }
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
