//! Outgoing MQTT connections for the commands: many clients on one poll, on one thread.
//!
//! `pub` and `sub` drive one connection, `bench` thousands. Each is a [`Client`] machine with a
//! socket; [`Dialer`] owns both, moves bytes between them, and hands up what happened. It decides
//! nothing: when to dial again, what to publish and what to print is its caller's.
//!
//! ```text
//! dial ─► turn(until) ─► poll_happening until None ─► with(link, |client| …) ─► turn …
//! ```
//!
//! | limit | at the limit |
//! |---|---|
//! | [`READ_BUDGET`] bytes of one connection in a turn | the rest is read in the next turn, which does not wait |
//! | the largest packet, and [`READ_BUDGET`], of what a client does not take yet | not read until it does |
//! | [`SHAKE_TIME`] for TLS and WebSocket to open | unreachable |
//! | the client's own limits | it says [`Refusal::Full`](crate::mqtt::client::Refusal), or takes no more input |

mod channel;
mod tls;

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

pub use super::net::upgrade::Upgrade;
pub use channel::Layers;
pub(in crate::host) use channel::{Channel, Opening};
pub use tls::{Names, Secured, TlsOptions, TlsVersion};

use super::clock::monotonic;
use crate::buffer::{Memory, SendQueue};
use crate::mqtt::client::{Client, Event};
use crate::time::{Duration, Instant};

/// Bytes that one connection may bring in one turn, and the size of the buffer that they are read
/// into.
pub const READ_BUDGET: usize = 64 * 1024;

/// From the connected socket to the end of the handshakes over it.
pub const SHAKE_TIME: Duration = Duration::from_secs(30);

/// Readiness events taken from the kernel at once.
const EVENTS: usize = 1024;

/// Slices of one gathered write.
const SLICES: usize = 16;

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// By number and port.
    Tcp(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// One connection of a [`Dialer`], for as long as the dialer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(usize);

impl LinkId {
    /// Counted from 0 in the order of [`Dialer::add`].
    pub const fn index(self) -> usize {
        self.0
    }
}

/// What a turn has brought.
#[derive(Debug)]
pub enum Happening {
    /// A client has something to say.
    Client(LinkId, Event),
    /// The transport did not open; the client has not noticed. Dial another address, or give up.
    Unreachable(LinkId, io::Error),
    /// The transport is closed, whoever closed it, and may be dialled again.
    Down(LinkId),
    /// [`Wake::wake`] was called, once or more often.
    Woken,
    /// SIGINT or SIGTERM has come ([`Dialer::catch_signals`]).
    Stop,
}

/// Clients and their sockets.
#[derive(Debug)]
pub struct Dialer {
    poll: Poll,
    events: Events,
    timer: TimerFd,
    /// What the timer is set to.
    armed: Option<Instant>,
    waker: Arc<Waker>,
    signals: Option<SignalFd>,
    memory: Memory,
    scratch: Box<[u8]>,
    links: Vec<Link>,
    /// Links whose client may have something to send or to say.
    touched: BTreeSet<LinkId>,
    /// Links that used up their budget: their sockets may hold more, and will not say so again.
    unread: BTreeSet<LinkId>,
    happenings: VecDeque<Happening>,
    /// No client's deadline is before this. Invariant: looked at afresh when it has passed.
    earliest: Instant,
}

#[derive(Debug)]
struct Link {
    client: Client,
    layers: Layers,
    transport: Option<Channel>,
    state: State,
    /// When what lies over the socket has to be open.
    shake_until: Instant,
    /// What broke the last connection, if it was not just closed.
    trouble: Option<io::Error>,
    /// The start of a packet whose rest has not come.
    partial: Vec<u8>,
    out: SendQueue,
    /// The last write took everything it was offered.
    writable: bool,
    /// The peer has closed, or the socket is broken: read to the end, for there will be no further
    /// event.
    ending: bool,
    /// Not read, because `partial` holds as much as it may and the client takes nothing.
    paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Connecting,
    Open,
    /// Nothing more is written; what comes is discarded until the peer closes too.
    HalfClosed,
}

const WAKE: Token = Token(0);
const TIMER: Token = Token(1);
const SIGNAL: Token = Token(2);
const FIRST_LINK: usize = 3;

impl Dialer {
    /// Without connections.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        poll.registry().register(
            &mut SourceFd(&timer.as_fd().as_raw_fd()),
            TIMER,
            Interest::READABLE,
        )?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            timer,
            armed: None,
            waker,
            signals: None,
            memory: Memory::new(usize::MAX),
            scratch: vec![0; READ_BUDGET].into_boxed_slice(),
            links: Vec::new(),
            touched: BTreeSet::new(),
            unread: BTreeSet::new(),
            happenings: VecDeque::new(),
            earliest: Instant::FAR_FUTURE,
        })
    }

    /// `CLOCK_MONOTONIC`, in which deadlines are told.
    pub fn now(&self) -> Instant {
        monotonic()
    }

    /// Turns SIGINT and SIGTERM into [`Happening::Stop`], for this thread and for those that it
    /// starts from here on.
    pub fn catch_signals(&mut self) -> io::Result<()> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        self.poll.registry().register(
            &mut SourceFd(&fd.as_fd().as_raw_fd()),
            SIGNAL,
            Interest::READABLE,
        )?;
        self.signals = Some(fd);
        Ok(())
    }

    /// For another thread that has something for this one.
    pub fn wake_handle(&self) -> Wake {
        Wake(Arc::clone(&self.waker))
    }

    /// Takes over a client. It is not connected before [`Dialer::dial`].
    pub fn add(&mut self, client: Client) -> LinkId {
        self.links.push(Link {
            client,
            layers: Layers::default(),
            transport: None,
            state: State::Closed,
            shake_until: Instant::FAR_FUTURE,
            trouble: None,
            partial: Vec::new(),
            out: SendQueue::new(&self.memory),
            writable: false,
            ending: false,
            paused: false,
        });
        LinkId(self.links.len() - 1)
    }

    /// Puts TLS or WebSocket, or both, over the sockets that are dialled from here on.
    pub fn put_over(&mut self, link: LinkId, layers: Layers) {
        self.links[link.0].layers = layers;
    }

    /// What broke the last connection of a link, if it was not just closed.
    pub fn trouble(&self, link: LinkId) -> Option<&io::Error> {
        self.links[link.0].trouble.as_ref()
    }

    /// Starts to connect. Whether that succeeds is a later happening.
    ///
    /// # Panics
    /// If the link is not down.
    pub fn dial(&mut self, link: LinkId, address: &Address) -> io::Result<()> {
        let slot = &mut self.links[link.0];
        assert!(
            slot.transport.is_none(),
            "a link has one connection at a time"
        );
        let mut transport = Channel::open(address, &slot.layers, &self.memory)?;
        let token = Token(link.0 + FIRST_LINK);
        transport.stream().register(self.poll.registry(), token)?;
        slot.transport = Some(transport);
        slot.state = State::Connecting;
        slot.shake_until = Instant::FAR_FUTURE;
        slot.trouble = None;
        slot.writable = false;
        Ok(())
    }

    /// The client of a link, to look at.
    pub fn client(&self, link: LinkId) -> &Client {
        &self.links[link.0].client
    }

    /// Does something with a client. What it then has to send or to say is seen to in the next
    /// turn.
    pub fn with<T>(&mut self, link: LinkId, act: impl FnOnce(&mut Client) -> T) -> T {
        self.touched.insert(link);
        act(&mut self.links[link.0].client)
    }

    /// Waits until something happens, or until `until`, and deals with all that has.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.settle();
        let ready = !self.happenings.is_empty() || !self.unread.is_empty();
        let deadline = until.unwrap_or(Instant::FAR_FUTURE).min(self.earliest);
        let timeout = if ready || deadline <= monotonic() {
            Some(Duration::ZERO)
        } else {
            self.arm(deadline)?;
            None
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        let mut readable = std::mem::take(&mut self.unread);
        for event in &self.events {
            match event.token() {
                WAKE => self.happenings.push_back(Happening::Woken),
                TIMER => {
                    // Its count says nothing that the clock does not.
                    let _ = self.timer.wait();
                    self.armed = None;
                }
                SIGNAL => {
                    let signals = self.signals.as_mut();
                    while let Some(Ok(Some(_))) = signals.as_ref().map(|fd| fd.read_signal()) {
                        self.happenings.push_back(Happening::Stop);
                    }
                }
                Token(token) => {
                    let link = LinkId(token - FIRST_LINK);
                    let slot = &mut self.links[link.0];
                    if event.is_writable() || event.is_error() || event.is_write_closed() {
                        slot.writable = true;
                        self.touched.insert(link);
                    }
                    let ending = event.is_read_closed() || event.is_error();
                    slot.ending |= ending;
                    if ending || event.is_readable() {
                        readable.insert(link);
                    }
                }
            }
        }
        for link in readable {
            if self.links[link.0].state == State::Connecting {
                self.open(link);
            }
            self.read(link);
        }
        self.settle();
        Ok(())
    }

    /// What the last turns have brought, in order.
    pub fn poll_happening(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// Closes a transport at once, without a word.
    pub fn hang_up(&mut self, link: LinkId) {
        self.close(link);
    }

    fn arm(&mut self, deadline: Instant) -> io::Result<()> {
        if self.armed == Some(deadline) || deadline == Instant::FAR_FUTURE {
            if deadline == Instant::FAR_FUTURE && self.armed.take().is_some() {
                self.timer.unset()?;
            }
            return Ok(());
        }
        let at = TimeSpec::from_duration(Duration::from_nanos(deadline.as_nanos().max(1)));
        self.timer.set(
            Expiration::OneShot(at),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME,
        )?;
        self.armed = Some(deadline);
        Ok(())
    }

    /// Deadlines, bytes to send, and events of the clients that were touched, without waiting for
    /// anything. A turn begins and ends with this.
    pub fn settle(&mut self) {
        let now = monotonic();
        if self.earliest <= now {
            self.earliest = Instant::FAR_FUTURE;
            for (index, slot) in self.links.iter_mut().enumerate() {
                slot.client.handle_timeout(now);
                self.touched.insert(LinkId(index));
            }
            self.give_up_shaking(now);
        }
        while let Some(link) = self.touched.pop_first() {
            if self.links[link.0].state == State::Connecting && self.links[link.0].writable {
                self.open(link);
            }
            self.write(link, now);
            if !self.links[link.0].partial.is_empty() {
                // Now that answers have been sent, it may take more.
                self.take_in(link);
            }
            let slot = &mut self.links[link.0];
            while let Some(event) = slot.client.poll_event() {
                self.happenings.push_back(Happening::Client(link, event));
            }
            if let Some(timeout) = slot.client.poll_timeout() {
                self.earliest = self.earliest.min(timeout);
            }
        }
    }

    /// Who does not answer in time is not reached.
    fn give_up_shaking(&mut self, now: Instant) {
        for index in 0..self.links.len() {
            if self.links[index].shake_until <= now {
                self.deregister(LinkId(index));
                let error = io::Error::new(ErrorKind::TimedOut, "the server does not answer");
                self.happenings
                    .push_back(Happening::Unreachable(LinkId(index), error));
            } else {
                self.earliest = self.earliest.min(self.links[index].shake_until);
            }
        }
    }

    /// Whether the transport has opened is known once it is writable; what lies over it may have to
    /// hear and say more.
    fn open(&mut self, link: LinkId) {
        let slot = &mut self.links[link.0];
        let Some(transport) = &mut slot.transport else {
            return;
        };
        let opening = loop {
            match transport.go_on() {
                Ok(Opening::More) => {}
                other => break other,
            }
        };
        match opening {
            Ok(Opening::Open) => {
                slot.shake_until = Instant::FAR_FUTURE;
                slot.state = State::Open;
                slot.client.handle_connected(monotonic());
                self.touched.insert(link);
                if transport.is_layered() {
                    // The socket may have been read further than to the end of the handshakes.
                    self.unread.insert(link);
                }
            }
            Ok(Opening::More | Opening::Waiting) => {
                if transport.has_connected() && slot.shake_until == Instant::FAR_FUTURE {
                    slot.shake_until = monotonic() + SHAKE_TIME;
                    self.earliest = self.earliest.min(slot.shake_until);
                }
            }
            Err(error) => {
                self.deregister(link);
                self.happenings
                    .push_back(Happening::Unreachable(link, error));
            }
        }
    }

    fn read(&mut self, link: LinkId) {
        let slot = &mut self.links[link.0];
        if slot.state == State::Connecting {
            return;
        }
        if slot.partial.len() >= slot.partial_max() {
            slot.paused = true;
            return;
        }
        let Some(transport) = slot.transport.as_mut() else {
            return;
        };
        let count = loop {
            match transport.read(&mut self.scratch) {
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    slot.trouble = Some(error);
                    break 0;
                }
            }
        };
        if count == 0 {
            self.close(link);
            return;
        }
        if count == self.scratch.len() || slot.ending || transport.is_layered() {
            self.unread.insert(link);
        }
        if slot.state == State::HalfClosed {
            return;
        }
        self.touched.insert(link);
        let fresh = &self.scratch[..count];
        if slot.partial.is_empty() {
            let consumed = consume(&mut slot.client, fresh, link, &mut self.happenings);
            slot.partial.extend_from_slice(&fresh[consumed..]);
        } else {
            slot.partial.extend_from_slice(fresh);
            self.take_in(link);
        }
    }

    /// Gives the client what it has left before.
    fn take_in(&mut self, link: LinkId) {
        let slot = &mut self.links[link.0];
        let consumed = consume(&mut slot.client, &slot.partial, link, &mut self.happenings);
        slot.partial.drain(..consumed);
        if slot.paused && slot.partial.len() < slot.partial_max() {
            slot.paused = false;
            self.unread.insert(link);
        }
    }

    fn write(&mut self, link: LinkId, now: Instant) {
        let slot = &mut self.links[link.0];
        if slot.state != State::Open {
            return;
        }
        let Some(transport) = slot.transport.as_mut() else {
            return;
        };
        loop {
            if slot.writable && transport.is_layered() {
                match transport.flush() {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => slot.writable = false,
                    Err(error) => {
                        slot.trouble = Some(error);
                        self.close(link);
                        return;
                    }
                }
            }
            let more = slot.client.poll_transmit(now, &mut slot.out);
            if !slot.writable || slot.out.is_empty() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = slot.out.gather(&mut slices, usize::MAX);
            match transport.write_vectored(&slices[..count]) {
                Ok(written) => slot.out.consume(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => slot.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    slot.trouble = Some(error);
                    self.close(link);
                    return;
                }
            }
            if !more && slot.out.is_empty() {
                break;
            }
        }
        if slot.client.is_finished() && slot.out.is_empty() {
            // The peer closes when it has read this; what it still sends must not make the kernel
            // answer with RST.
            transport.shut_down_writing();
            slot.state = State::HalfClosed;
            self.unread.insert(link);
        }
    }

    fn close(&mut self, link: LinkId) {
        self.deregister(link);
        let client = &mut self.links[link.0].client;
        client.handle_closed();
        // What the client says of it comes first.
        while let Some(event) = client.poll_event() {
            self.happenings.push_back(Happening::Client(link, event));
        }
        self.happenings.push_back(Happening::Down(link));
    }

    fn deregister(&mut self, link: LinkId) {
        let slot = &mut self.links[link.0];
        if let Some(mut transport) = slot.transport.take() {
            // Closing it takes it out of the poll in any case.
            let _ = self.poll.registry().deregister(transport.stream().source());
        }
        slot.state = State::Closed;
        slot.shake_until = Instant::FAR_FUTURE;
        slot.partial.clear();
        slot.out.clear();
        slot.writable = false;
        slot.ending = false;
        slot.paused = false;
        self.unread.remove(&link);
    }
}

impl Link {
    /// The largest packet that the client takes is there, and a read's worth besides.
    fn partial_max(&self) -> usize {
        self.client.options().maximum_packet_size as usize + READ_BUDGET
    }
}

/// Feeds a client all that it takes. It takes no more than it has room for events, so they are
/// moved away in between.
fn consume(
    client: &mut Client,
    bytes: &[u8],
    link: LinkId,
    happenings: &mut VecDeque<Happening>,
) -> usize {
    let now = monotonic();
    let mut consumed = 0;
    loop {
        let count = client.handle_input(now, &bytes[consumed..]);
        consumed += count;
        let mut said = false;
        while let Some(event) = client.poll_event() {
            happenings.push_back(Happening::Client(link, event));
            said = true;
        }
        if count == 0 || consumed == bytes.len() || !said {
            return consumed;
        }
    }
}

/// Makes a [`Dialer`]'s turn end, from any thread.
#[derive(Debug, Clone)]
pub struct Wake(Arc<Waker>);

impl Wake {
    /// Wakes it.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;
    use crate::mqtt::client::{CloseCause, ConnectOptions};

    /// CONNACK, and DISCONNECT with 0x8B, server shutting down.
    const WELCOME: [u8; 5] = [0x20, 3, 0, 0, 0];
    const FAREWELL: [u8; 4] = [0xE0, 2, 0x8B, 0];

    fn dialer() -> (Dialer, LinkId) {
        let mut dialer = Dialer::new().unwrap();
        let client = Client::new(ConnectOptions::default()).unwrap();
        let link = dialer.add(client);
        (dialer, link)
    }

    /// A server for one connection: reads the CONNECT, then does what it is told with the socket.
    fn server(then: impl FnOnce(std::net::TcpStream) + Send + 'static) -> Address {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = [0; 2];
            socket.read_exact(&mut head).unwrap();
            let mut rest = vec![0; head[1].into()];
            socket.read_exact(&mut rest).unwrap();
            then(socket);
        });
        Address::Tcp(address)
    }

    fn until_down(dialer: &mut Dialer) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            while let Some(happening) = dialer.poll_happening() {
                match happening {
                    Happening::Client(_, event) => events.push(event),
                    Happening::Down(_) => return events,
                    other => panic!("{other:?}"),
                }
            }
            let limit = dialer.now() + Duration::from_secs(30);
            dialer.turn(Some(limit)).unwrap();
            assert!(dialer.now() < limit, "nothing happens: {events:?}");
        }
    }

    #[test]
    fn data_and_fin_that_come_together_are_both_noticed() {
        let (mut dialer, link) = dialer();
        let address = server(|mut socket| {
            let both = [&WELCOME[..], &FAREWELL].concat();
            socket.write_all(&both).unwrap();
        });
        dialer.dial(link, &address).unwrap();
        let events = until_down(&mut dialer);
        assert!(matches!(events[0], Event::Connected { .. }), "{events:?}");
        let farewell = Event::Closed(CloseCause::TransportClosed);
        assert!(
            matches!(events[1], Event::Closed(CloseCause::ServerDisconnected(_))),
            "{events:?}"
        );
        assert!(!events.contains(&farewell), "{events:?}");
    }

    #[test]
    fn a_packet_may_come_byte_by_byte() {
        let (mut dialer, link) = dialer();
        let address = server(|mut socket| {
            socket.set_nodelay(true).unwrap();
            for byte in WELCOME {
                socket.write_all(&[byte]).unwrap();
            }
        });
        dialer.dial(link, &address).unwrap();
        let events = until_down(&mut dialer);
        assert!(matches!(events[0], Event::Connected { .. }), "{events:?}");
        let closed = Event::Closed(CloseCause::TransportClosed);
        assert_eq!(events[1..], [closed]);
    }

    #[test]
    fn a_goodbye_is_read_to_its_end() {
        let (mut dialer, link) = dialer();
        let (heard, hears) = std::sync::mpsc::channel();
        let address = server(move |mut socket| {
            socket.write_all(&WELCOME).unwrap();
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).unwrap();
            heard.send(rest).unwrap();
        });
        dialer.dial(link, &address).unwrap();
        while !dialer.client(link).is_connected() {
            dialer.turn(None).unwrap();
        }
        let reason = crate::mqtt::ReasonCode::NORMAL_DISCONNECTION;
        dialer.with(link, |client| client.disconnect(reason));
        until_down(&mut dialer);
        assert_eq!(hears.recv().unwrap(), [0xE0, 0]);
    }

    #[test]
    fn a_closed_port_is_unreachable_and_can_be_dialled_again() {
        let (mut dialer, link) = dialer();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        drop(listener);
        for _ in 0..2 {
            dialer.dial(link, &address).unwrap();
            let error = loop {
                match dialer.poll_happening() {
                    Some(Happening::Unreachable(_, error)) => break error,
                    Some(other) => panic!("{other:?}"),
                    None => dialer.turn(None).unwrap(),
                }
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn a_turn_ends_in_time_or_when_it_is_woken() {
        let (mut dialer, _) = dialer();
        let until = dialer.now() + Duration::from_millis(2);
        while dialer.now() < until {
            dialer.turn(Some(until)).unwrap();
        }
        let wake = dialer.wake_handle();
        thread::spawn(move || wake.wake().unwrap());
        dialer.turn(None).unwrap();
        assert!(matches!(dialer.poll_happening(), Some(Happening::Woken)));
    }
}
