//! Sockets that have said everything and wait for their peer to have read it.
//!
//! A close with unread input makes the kernel send a reset, which may overtake the reason code that
//! was just written. So the writing half is shut down and input is discarded until the peer hangs
//! up, but not for long and not for many.

use std::collections::VecDeque;
use std::io::{self, Read};

use mio::Registry;
use slab::Slab;

use super::{READ_PER_TURN, Stream};
use crate::host::timer::{TimerKey, Timers};
use crate::host::token::Source;
use crate::time::{Duration, Instant};

/// How long a socket lingers at most.
pub(in crate::host) const LINGER: Duration = Duration::from_secs(1);

/// Sockets that may linger at once. For one more, the oldest is closed at once, and counted.
const LINGERING_MAX: usize = 256;

/// All of them.
#[derive(Debug, Default)]
pub(in crate::host) struct Lingering {
    sockets: Slab<Stream>,
    /// Slots by age, at most [`LINGERING_MAX`]: each of `sockets` once.
    by_age: VecDeque<u32>,
    cut_short: u64,
}

impl Lingering {
    /// Takes over a socket whose writing half has been shut down.
    pub(in crate::host) fn add(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        now: Instant,
        mut stream: Stream,
    ) {
        if self.by_age.len() == LINGERING_MAX
            && let Some(&oldest) = self.by_age.front()
        {
            self.cut_short += 1;
            self.close(timers, oldest);
        }
        let entry = self.sockets.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("there are few of them");
        if let Err(error) = stream.reregister(registry, Source::Linger(slot).token()) {
            log::debug!("a socket cannot linger: {error}");
            return;
        }
        entry.insert(stream);
        self.by_age.push_back(slot);
        timers.arm(TimerKey::Linger(slot), now + LINGER);
    }

    /// Discards what has come, within the budget. `true`: there may be more.
    pub(in crate::host) fn discard(&mut self, timers: &mut Timers, slot: u32) -> bool {
        let Some(stream) = self.sockets.get_mut(slot as usize) else {
            return false;
        };
        let mut scratch = [0; 4096];
        let mut total = 0;
        while total < READ_PER_TURN {
            match stream.read(&mut scratch) {
                Ok(0) => break,
                Ok(count) => total += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if total >= READ_PER_TURN {
            return true;
        }
        self.close(timers, slot);
        false
    }

    /// Closes one, whether or not its peer has hung up.
    pub(in crate::host) fn close(&mut self, timers: &mut Timers, slot: u32) {
        if self.sockets.try_remove(slot as usize).is_some() {
            self.by_age.retain(|other| *other != slot);
            timers.disarm(TimerKey::Linger(slot));
        }
    }

    /// Whether nobody lingers.
    pub(in crate::host) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// How many there are.
    pub(in crate::host) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Sockets that were closed early because too many lingered.
    pub(in crate::host) fn cut_short(&self) -> u64 {
        self.cut_short
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use mio::Poll;
    use mio::net::UnixStream;

    use super::*;

    fn socket(poll: &Poll) -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::Unix(ours);
        stream
            .register(poll.registry(), Source::Connection(0).token())
            .unwrap();
        (stream, theirs)
    }

    #[test]
    fn input_is_discarded_until_the_peer_hangs_up() {
        let poll = Poll::new().unwrap();
        let mut timers = Timers::default();
        let mut lingering = Lingering::default();
        let (stream, mut peer) = socket(&poll);
        lingering.add(poll.registry(), &mut timers, Instant::from_nanos(5), stream);
        assert_eq!(timers.next(), Some(Instant::from_nanos(5) + LINGER));
        peer.write_all(&[0; 1000]).unwrap();
        assert!(!lingering.discard(&mut timers, 0));
        assert_eq!(lingering.len(), 1);
        drop(peer);
        assert!(!lingering.discard(&mut timers, 0));
        assert!(lingering.is_empty());
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let poll = Poll::new().unwrap();
        let mut timers = Timers::default();
        let mut lingering = Lingering::default();
        let peers: Vec<_> = (0..=LINGERING_MAX as u64)
            .map(|index| {
                let (stream, peer) = socket(&poll);
                let now = Instant::from_nanos(index);
                lingering.add(poll.registry(), &mut timers, now, stream);
                peer
            })
            .collect();
        assert_eq!((lingering.len(), lingering.cut_short()), (LINGERING_MAX, 1));
        let mut first = &peers[0];
        assert_eq!(
            Read::read(&mut first, &mut [0; 1]).unwrap(),
            0,
            "it was closed"
        );
    }
}
