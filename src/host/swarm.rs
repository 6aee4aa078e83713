//! Many connections that carry ready-made bytes: the sockets of a load generator.
//!
//! A load that costs more than the broker that it measures measures itself. So there is no machine
//! and no queue for each connection here: bytes go to the socket in the call that brings them, what
//! arrives is handed up where it was read, and only what a socket does not take, or the beginning
//! of a packet, is copied.
//!
//! A swarm may take connections as well as open them: then it is what a broker's sockets cost
//! without the broker.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};

use super::clock::monotonic;
use super::dial::Address;
use super::net::Stream;
use crate::time::{Duration, Instant};

/// Bytes read at once.
const READ: usize = 128 * 1024;

/// Readiness events taken from the kernel at once.
const EVENTS: usize = 1024;

/// Of the listener; the others are those of connections.
const LISTENER: Token = Token(usize::MAX);

/// `CLOCK_MONOTONIC`.
pub fn now() -> Instant {
    monotonic()
}

/// Connections, named by their number in the order in which they were opened or taken.
#[derive(Debug)]
pub struct Swarm {
    poll: Poll,
    events: Events,
    scratch: Box<[u8]>,
    members: Vec<Member>,
    listener: Option<TcpListener>,
    /// Spare room for what is answered.
    answers: Vec<u8>,
}

#[derive(Debug)]
struct Member {
    /// `None` once it is closed.
    stream: Option<Stream>,
    /// The start of a packet whose rest has not come.
    partial: Vec<u8>,
    /// What the socket has not taken.
    unsent: Vec<u8>,
    is_shut_down: bool,
}

impl Swarm {
    /// Without connections.
    ///
    /// # Errors
    /// If there can be no poll.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            scratch: vec![0; READ].into_boxed_slice(),
            members: Vec::new(),
            listener: None,
            answers: Vec::new(),
        })
    }

    /// Takes connections at `address` from now on, and no longer at another.
    ///
    /// # Errors
    /// If it is taken.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<()> {
        let mut listener = TcpListener::bind(address)?;
        let registry = self.poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Opens one more connection, and waits until it is open.
    ///
    /// # Errors
    /// If nobody answers, or too many files are open.
    pub fn connect(&mut self, address: &Address) -> io::Result<usize> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = std::net::TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Stream::Tcp(TcpStream::from_std(stream))
            }
            Address::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Stream::Unix(UnixStream::from_std(stream))
            }
        };
        self.add(stream)
    }

    fn add(&mut self, mut stream: Stream) -> io::Result<usize> {
        let index = self.members.len();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(stream.source(), Token(index), interest)?;
        self.members.push(Member {
            stream: Some(stream),
            partial: Vec::new(),
            unsent: Vec::new(),
            is_shut_down: false,
        });
        Ok(index)
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nodelay(true)?;
                    self.add(Stream::Tcp(stream))?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes now, with one system call; what the socket does not take goes when it can.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn write(&mut self, index: usize, bytes: &[u8]) -> io::Result<()> {
        self.members[index].write(bytes)
    }

    /// Whether a socket has not taken all that it was given.
    pub fn is_behind(&self, index: usize) -> bool {
        !self.members[index].unsent.is_empty()
    }

    /// Says that nothing more will be written, and drops what would be.
    pub fn shut_down(&mut self, index: usize) {
        self.members[index].is_shut_down = true;
        if let Some(stream) = &self.members[index].stream {
            // It may fail if the peer has closed already, and then there is nothing to say to it.
            let _ = stream.shutdown_write();
        }
    }

    /// Waits at most `limit`, and hands up what has arrived: `arrived(connection, bytes, answer)`
    /// says how many of the bytes it has used, the others come again with those that follow them;
    /// what it appends to `answer` is written when all that was read has been handed up. The number
    /// of a connection that its peer has closed goes to `closed`.
    ///
    /// # Errors
    /// If the poll fails, or a connection is broken.
    pub fn turn(
        &mut self,
        limit: Option<Duration>,
        mut arrived: impl FnMut(usize, &[u8], &mut Vec<u8>) -> usize,
        mut closed: impl FnMut(usize),
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, limit) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let mut has_callers = false;
        for event in &self.events {
            if event.token() == LISTENER {
                has_callers = true;
                continue;
            }
            let index = event.token().0;
            let member = &mut self.members[index];
            if event.is_writable() && !member.unsent.is_empty() {
                let unsent = std::mem::take(&mut member.unsent);
                member.write(&unsent)?;
            }
            if !(event.is_readable() || event.is_read_closed() || event.is_error()) {
                continue;
            }
            let is_ending = event.is_read_closed() || event.is_error();
            while let Some(count) = member.read(&mut self.scratch)? {
                if count == 0 {
                    member.stream = None;
                    closed(index);
                    break;
                }
                member.hand_up(
                    &self.scratch[..count],
                    |bytes, answers| arrived(index, bytes, answers),
                    &mut self.answers,
                );
                if !self.answers.is_empty() {
                    member.write(&self.answers)?;
                    self.answers.clear();
                }
                if count < READ && !is_ending {
                    break;
                }
            }
        }
        if has_callers {
            self.accept()?;
        }
        Ok(())
    }
}

impl Member {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.is_shut_down {
            return Ok(());
        }
        if self.unsent.is_empty()
            && let Some(stream) = &mut self.stream
        {
            while !bytes.is_empty() {
                match stream.write(bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    /// `None`: nothing more for now. 0: the end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        loop {
            match stream.read(into) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Some(0)),
                Err(error) => return Err(error),
            }
        }
    }

    fn hand_up(
        &mut self,
        fresh: &[u8],
        mut arrived: impl FnMut(&[u8], &mut Vec<u8>) -> usize,
        answers: &mut Vec<u8>,
    ) {
        if self.partial.is_empty() {
            let used = arrived(fresh, answers);
            self.partial.extend_from_slice(&fresh[used..]);
        } else {
            self.partial.extend_from_slice(fresh);
            let used = arrived(&self.partial, answers);
            self.partial.drain(..used);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    #[test]
    fn bytes_come_back_in_order_however_they_are_cut() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let echo = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut from = socket.try_clone().unwrap();
            io::copy(&mut from, &mut socket).unwrap();
        });
        let mut swarm = Swarm::new().unwrap();
        let one = swarm.connect(&address).unwrap();
        // More than a socket takes at once.
        let sent: Vec<u8> = (0..8_000_000_u32).map(|number| number as u8).collect();
        swarm.write(one, &sent).unwrap();
        let mut heard = Vec::new();
        let mut is_open = true;
        while is_open {
            let limit = Some(Duration::from_secs(30));
            let arrived = |index, bytes: &[u8], _: &mut Vec<u8>| {
                assert_eq!(index, one);
                // All but the last third are used, unless there is little.
                let used = if bytes.len() < 100 {
                    bytes.len()
                } else {
                    bytes.len() * 2 / 3
                };
                heard.extend_from_slice(&bytes[..used]);
                used
            };
            swarm.turn(limit, arrived, |_| is_open = false).unwrap();
            if !swarm.is_behind(one) {
                swarm.shut_down(one);
            }
        }
        heard.extend_from_slice(&swarm.members[one].partial);
        assert!(heard == sent, "bytes were lost or changed");
        echo.join().unwrap();
    }

    #[test]
    fn an_answer_is_written() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let peer = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"who?").unwrap();
            let mut answer = [0; 2];
            socket.read_exact(&mut answer).unwrap();
            answer
        });
        let mut swarm = Swarm::new().unwrap();
        swarm.connect(&address).unwrap();
        let mut is_open = true;
        while is_open {
            let arrived = |_, bytes: &[u8], answer: &mut Vec<u8>| {
                if bytes.len() < 4 {
                    return 0;
                }
                answer.extend_from_slice(b"me");
                4
            };
            let limit = Some(Duration::from_secs(30));
            swarm.turn(limit, arrived, |_| is_open = false).unwrap();
        }
        assert_eq!(peer.join().unwrap(), *b"me");
    }
}
