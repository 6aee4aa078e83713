//! The control socket: one JSON object a line, both ways, for those whom the kernel vouches for.
//!
//! Allowed in are root, the user that we run as, and members of the socket's group (`SO_PEERCRED`,
//! `SO_PEERGROUPS`). What the lines mean is the gateway's affair. Clients, their lines and what
//! waits for them are bounded.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use mio::net::UnixStream;
use mio::{Interest, Registry};
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{getegid, geteuid};

use super::net::{Accepted, Listener, Stream, group_id};
use super::timer::{TimerKey, Timers};
use super::token::{Readiness, Source};
use crate::gateway::boundary::{CONTROL_LINE_MAX, ControlEvent, Peer};
use crate::gateway::settings::Bind;
use crate::id::ControlId;
use crate::slab::{GenSlab, Key};
use crate::time::{Duration, Instant};

/// Where the control socket is, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// Its path. Its mode is 0660.
    pub path: Box<str>,
    /// The group that owns it, by name or number; `None`: the group that we run as.
    pub group: Option<Box<str>>,
}

/// Clients at once. One more is closed as it comes.
const CLIENTS_MAX: usize = 16;

/// Bytes that may wait for one client. One that does not read them is closed.
const WRITE_QUEUE_MAX: usize = 1024 * 1024;

/// Bytes read of one client in one turn.
const READ_PER_TURN: usize = 64 * 1024;

/// A client that has shut down its writing half, as `socat` does at the end of its input, is
/// answered for this long.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// What has gone wrong on the control socket, for the host's counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// Turned away: not allowed, or too many.
    pub refused: u64,
    /// Closed for a line without an end or for not reading.
    pub overflowed: u64,
}

/// The socket and its clients.
#[derive(Debug)]
pub(super) struct Control {
    listener: Listener,
    allowed_group: u32,
    clients: GenSlab<ControlId, Client>,
    health: Health,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    /// Bytes of a line without its end, at most [`CONTROL_LINE_MAX`] and a read.
    input: Vec<u8>,
    /// What waits to be written, at most [`WRITE_QUEUE_MAX`].
    output: Vec<u8>,
    readable: bool,
    writable: bool,
    /// The peer has shut down its writing half.
    is_half_closed: bool,
    is_ready: bool,
}

/// What became of one client's turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// It waits for the poll.
    Waiting,
    /// Its budget is spent.
    More,
    /// It is gone.
    Closed,
}

impl Control {
    pub(super) fn open(settings: &ControlSettings, registry: &Registry) -> io::Result<Self> {
        let allowed_group = match &settings.group {
            Some(group) => group_id(group)?,
            None => getegid(),
        };
        let bind = Bind::Unix {
            path: settings.path.clone(),
            mode: 0o660,
            group: settings.group.clone(),
        };
        let (listener, _) = Listener::open(
            &bind,
            Rc::default(),
            registry,
            Source::ControlListener.token(),
        )?;
        Ok(Self {
            listener,
            allowed_group: allowed_group.as_raw(),
            clients: GenSlab::new(),
            health: Health::default(),
        })
    }

    /// Accepts all who wait; there are few. `Err`: no descriptor is left, try again later.
    pub(super) fn accept(
        &mut self,
        registry: &Registry,
        mut event: impl FnMut(ControlId, ControlEvent),
    ) -> io::Result<()> {
        loop {
            let (stream, uid) = match self.listener.accept() {
                Accepted::Peer(Stream::Unix(stream), Peer::Unix { uid, .. }) => (stream, uid),
                Accepted::Peer(..) | Accepted::Gone => continue,
                Accepted::Nobody => return Ok(()),
                Accepted::Exhausted(error) => return Err(error),
            };
            if self.clients.len() >= CLIENTS_MAX || !self.is_allowed(&stream, uid) {
                self.health.refused += 1;
                log::warn!("control client refused uid={uid}");
                continue;
            }
            let mut client = Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                readable: false,
                writable: true,
                is_half_closed: false,
                is_ready: false,
            };
            let token = Source::Control(self.clients.vacant_key().slot()).token();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = registry.register(&mut client.stream, token, interest) {
                log::warn!("control client refused uid={uid} error={error}");
                continue;
            }
            event(self.clients.insert(client), ControlEvent::Opened);
        }
    }

    /// Notes an event of the poll. `true`: put the client on the ready list, it was not there.
    pub(super) fn event(&mut self, slot: u32, readiness: Readiness) -> bool {
        let Some(id) = self.clients.key_at_slot(slot) else {
            return false;
        };
        let client = self.clients.get_mut(id).expect("the key was read just now");
        client.readable |= readiness.readable;
        client.writable |= readiness.writable;
        !std::mem::replace(&mut client.is_ready, true)
    }

    /// Queues a line for a client. `true`: put it on the ready list, it was not there.
    pub(super) fn send(&mut self, id: ControlId, line: &str) -> bool {
        let Some(client) = self.clients.get_mut(id) else {
            return false;
        };
        client.output.extend_from_slice(line.as_bytes());
        client.output.push(b'\n');
        !std::mem::replace(&mut client.is_ready, true)
    }

    /// Reads and writes for one client within its budget.
    pub(super) fn serve(
        &mut self,
        timers: &mut Timers,
        now: Instant,
        slot: u32,
        mut event: impl FnMut(ControlId, ControlEvent),
    ) -> Served {
        let Some(id) = self.clients.key_at_slot(slot) else {
            return Served::Waiting;
        };
        let client = self.clients.get_mut(id).expect("the key was read just now");
        client.is_ready = false;
        let was_half_closed = client.is_half_closed;
        let outcome = client
            .read(|line| event(id, ControlEvent::Line(line)))
            .and_then(|more| client.write().map(|()| more));
        match outcome {
            Ok(more) => {
                if client.is_half_closed && !was_half_closed {
                    timers.arm(TimerKey::ControlHalfClosed(id), now + HALF_CLOSED);
                }
                if more {
                    client.is_ready = true;
                    Served::More
                } else {
                    Served::Waiting
                }
            }
            Err(end) => {
                self.health.overflowed += u64::from(end == End::Overflowed);
                self.close(timers, id);
                event(id, ControlEvent::Closed);
                Served::Closed
            }
        }
    }

    /// Closes a client. `true`: it was there.
    pub(super) fn close(&mut self, timers: &mut Timers, id: ControlId) -> bool {
        timers.disarm(TimerKey::ControlHalfClosed(id));
        self.clients.remove(id).is_some()
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    fn is_allowed(&self, stream: &UnixStream, uid: u32) -> bool {
        if uid == 0 || uid == geteuid().as_raw() {
            return true;
        }
        let own = getsockopt(stream, sockopt::PeerCredentials).map(|who| who.gid());
        own == Ok(self.allowed_group) || peer_groups(stream).contains(&self.allowed_group)
    }
}

/// Why a client's connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Gone,
    Overflowed,
}

impl Client {
    /// Reads within the budget; `Ok(true)`: there may be more.
    fn read(&mut self, mut line: impl FnMut(Box<[u8]>)) -> Result<bool, End> {
        let mut total = 0;
        while self.readable {
            if total >= READ_PER_TURN {
                return Ok(true);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.readable = false;
                    // Wholly gone, or only done with asking? An event for room to write reads as an
                    // end again.
                    if self.is_gone() {
                        return Err(End::Gone);
                    }
                    self.is_half_closed = true;
                }
                Ok(count) => {
                    total += count;
                    self.take(&buffer[..count], &mut line)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(false)
    }

    fn take(&mut self, mut bytes: &[u8], line: &mut impl FnMut(Box<[u8]>)) -> Result<(), End> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.input.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if self.input.len() > CONTROL_LINE_MAX {
                return Err(End::Overflowed);
            }
            let text = self.input.strip_suffix(b"\r").unwrap_or(&self.input);
            if !text.is_empty() {
                line(text.into());
            }
            self.input.clear();
        }
        self.input.extend_from_slice(bytes);
        if self.input.len() > CONTROL_LINE_MAX {
            return Err(End::Overflowed);
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), End> {
        let mut written = 0;
        while self.writable && written < self.output.len() {
            match self.stream.write(&self.output[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Gone),
            }
        }
        if written == self.output.len() {
            self.output = Vec::new();
        } else {
            self.output.drain(..written);
        }
        if self.output.len() > WRITE_QUEUE_MAX {
            return Err(End::Overflowed);
        }
        Ok(())
    }

    /// Whether the peer has closed both halves (`POLLHUP`), not only its writing one.
    fn is_gone(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        polled.is_ok()
            && fds[0]
                .revents()
                .is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }
}

/// The supplementary groups of a socket's peer, empty if the kernel does not tell (before 4.13).
fn peer_groups(stream: &UnixStream) -> Vec<u32> {
    /// `SO_PEERGROUPS` of `asm-generic/socket.h`, which holds for all targets of ours.
    const SO_PEERGROUPS: libc::c_int = 59;
    /// Linux's own limit is 65 536; whoever is in more than these is not let in by one of the
    /// others.
    const GROUPS_MAX: usize = 1024;

    let mut groups = vec![0_u32; GROUPS_MAX];
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
    // SAFETY: the kernel writes at most `bytes` bytes of `gid_t`, which is `u32`, to a buffer of
    // that size, and then says in `bytes` how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let count = if result == 0 {
        bytes as usize / size_of::<u32>()
    } else {
        0
    };
    groups.truncate(count);
    groups
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use mio::{Events, Poll};

    use super::*;

    struct Bench {
        poll: Poll,
        timers: Timers,
        control: Control,
        path: String,
        seen: Vec<(ControlId, ControlEvent)>,
    }

    impl Bench {
        fn new(name: &str) -> Self {
            let name = format!("fieldgate-control-{name}-{}.sock", std::process::id());
            let path = std::env::temp_dir().join(name).to_str().unwrap().to_owned();
            let poll = Poll::new().unwrap();
            let settings = ControlSettings {
                path: path.as_str().into(),
                group: None,
            };
            let control = Control::open(&settings, poll.registry()).unwrap();
            Self {
                poll,
                timers: Timers::default(),
                control,
                path,
                seen: Vec::new(),
            }
        }

        fn connect(&self) -> StdStream {
            let stream = StdStream::connect(&self.path).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream
        }

        /// Serves events until something has been seen.
        fn until(&mut self, done: impl Fn(&[(ControlId, ControlEvent)]) -> bool) {
            let mut events = Events::with_capacity(8);
            while !done(&self.seen) {
                self.poll
                    .poll(&mut events, Some(Duration::from_secs(10)))
                    .unwrap();
                assert!(!events.is_empty(), "nothing happens: {:?}", self.seen);
                for event in &events {
                    match Source::from_token(event.token()) {
                        Some(Source::ControlListener) => {
                            let seen = &mut self.seen;
                            self.control
                                .accept(self.poll.registry(), |id, event| {
                                    seen.push((id, event));
                                })
                                .unwrap();
                        }
                        Some(Source::Control(slot)) => {
                            self.control.event(slot, event.into());
                            while self.serve(slot) == Served::More {}
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }

        fn serve(&mut self, slot: u32) -> Served {
            let seen = &mut self.seen;
            let now = Instant::from_nanos(0);
            self.control
                .serve(&mut self.timers, now, slot, |id, event| {
                    seen.push((id, event));
                })
        }
    }

    fn line(text: &str) -> ControlEvent {
        ControlEvent::Line(text.as_bytes().into())
    }

    #[test]
    fn lines_come_whole_and_are_answered() {
        let mut bench = Bench::new("lines");
        let mut client = bench.connect();
        client.write_all(b"{\"a\":1}\r\n\n{\"b\"").unwrap();
        bench.until(|seen| seen.len() == 2);
        client.write_all(b":2}\n").unwrap();
        bench.until(|seen| seen.len() == 3);
        let id = bench.seen[0].0;
        let expected = [ControlEvent::Opened, line("{\"a\":1}"), line("{\"b\":2}")];
        assert_eq!(bench.seen, expected.map(|event| (id, event)));
        assert!(bench.control.send(id, "{\"ok\":true}"));
        assert_eq!(bench.serve(id.slot()), Served::Waiting);
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"{\"ok\":true}\n");
        drop(client);
        bench.until(|seen| {
            seen.last()
                .is_some_and(|(_, event)| *event == ControlEvent::Closed)
        });
        assert_eq!(bench.seen.len(), 4, "closed once");
    }

    #[test]
    fn who_only_stops_asking_is_still_answered() {
        let mut bench = Bench::new("half");
        let mut client = bench.connect();
        client.write_all(b"{}\n").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        bench.until(|seen| seen.len() == 2);
        let id = bench.seen[0].0;
        assert!(bench.timers.next().is_some(), "but not for ever");
        assert!(bench.control.send(id, "{}"));
        bench.serve(id.slot());
        let mut answer = [0; 3];
        client.read_exact(&mut answer).unwrap();
        drop(client);
        bench.until(|seen| seen.len() == 3);
        assert_eq!(bench.timers.next(), None);
    }

    #[test]
    fn a_line_without_an_end_closes() {
        let mut bench = Bench::new("endless");
        let client = bench.connect();
        client.set_nonblocking(true).unwrap();
        let mut left = CONTROL_LINE_MAX + 1;
        while !bench
            .seen
            .iter()
            .any(|(_, event)| *event == ControlEvent::Closed)
        {
            if let Ok(count) = (&client).write(&vec![b'x'; left]) {
                left -= count;
            }
            let before = bench.seen.len();
            if left > 0 && before > 0 {
                let slot = bench.seen[0].0.slot();
                bench.control.event(
                    slot,
                    Readiness {
                        readable: true,
                        ..Readiness::default()
                    },
                );
                bench.serve(slot);
            } else {
                bench.until(|seen| seen.len() > before);
            }
        }
        assert_eq!(bench.control.health().overflowed, 1);
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut bench = Bench::new("many");
        let clients: Vec<_> = (0..=CLIENTS_MAX).map(|_| bench.connect()).collect();
        bench.until(|seen| seen.len() == CLIENTS_MAX);
        assert_eq!(bench.control.health().refused, 1);
        let mut last = clients.last().unwrap();
        assert_eq!(last.read(&mut [0]).unwrap(), 0, "it was closed");
    }

    #[test]
    fn the_kernel_tells_a_peers_groups() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut own: Vec<_> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(nix::unistd::Gid::as_raw)
            .collect();
        let mut seen = peer_groups(&ours);
        own.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, own);
    }
}
