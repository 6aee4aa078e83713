//! Who may come in before anything is known but an address: how many connections one address has,
//! and how fast it makes them.
//!
//! | an address that | is answered | until |
//! |---|---|---|
//! | has `max_connections_per_address` connections | 0x97 | one of them ends |
//! | connects faster than `connect_rate`, beyond [`BURST`] of it at once | 0x9F | a back-off is over |
//!
//! The first back-off is [`BACKOFF_MIN`]; each that follows before the address has been quiet for
//! twice as long is twice as long, up to [`BACKOFF_MAX`]. What comes during a back-off does not
//! lengthen it: who goes on trying once a second gets in. A CONNECT that is refused for what it
//! says (a wrong password, no packet at all, nothing in time) counts as [`FAILURE_COST`] more
//! connections, so that guessing passwords meets the back-off early.
//!
//! An IPv6 address is its /64, which is what one customer has. An address is forgotten when it has
//! no connection and its last back-off is long over; at most [`QUIET_MAX`] addresses without a
//! connection are remembered, and beyond that those are forgotten first that would be anyway.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::bucket::Bucket;
use super::settings::Settings;
use crate::buffer::{Charge, Memory};
use crate::time::{Duration, Instant};

/// An address may be ahead of its rate by this much: a site whose power comes back connects with
/// everything it has.
pub const BURST: Duration = Duration::from_secs(10);

/// How long an address that is too fast for the first time is refused.
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// How long at most.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// How many connections a failed one counts as, beside itself.
pub const FAILURE_COST: u64 = 9;

/// Addresses without a connection that are remembered.
pub const QUIET_MAX: usize = 4096;

/// Why an address is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// The broker or the listener has too many connections.
    Everybody,
    /// The address has.
    Address,
    /// It connects too fast.
    Rate,
}

/// All addresses that somebody has connected from lately.
#[derive(Debug)]
pub(super) struct Addresses {
    known: BTreeMap<Block, Known>,
    /// Those without a connection, by when they are forgotten. Invariant: exactly those.
    quiet: BTreeSet<(Instant, Block)>,
    charge: Charge,
}

/// Addresses that count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Block {
    V4(u32),
    /// The upper half.
    V6(u64),
}

#[derive(Debug, Default)]
struct Known {
    connections: u32,
    bucket: Bucket,
    /// Of the last back-off; zero: there was none.
    backoff: Duration,
    blocked_until: Instant,
}

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Addresses {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            known: BTreeMap::new(),
            quiet: BTreeSet::new(),
            charge: memory.charge(0),
        }
    }

    /// Somebody has connected. `Ok`: the connection counts until [`Addresses::leave`].
    pub(super) fn enter(
        &mut self,
        now: Instant,
        address: IpAddr,
        settings: &Settings,
    ) -> Result<(), Excess> {
        self.forget(now);
        let block = address.into();
        let most = settings.max_connections_per_address.unwrap_or(u32::MAX);
        let outcome = self.with(block, |known| {
            if known.blocked_until > now {
                return Err(Excess::Rate);
            }
            if let Some(rate) = settings.connect_rate {
                if known.is_too_fast(now) {
                    return Err(Excess::Rate);
                }
                known.bucket.pour(now, rate, 1);
            }
            if known.connections >= most {
                return Err(Excess::Address);
            }
            known.connections += 1;
            Ok(())
        });
        self.forget_beyond(QUIET_MAX);
        outcome
    }

    /// A connection that was let in has ended.
    pub(super) fn leave(&mut self, address: IpAddr) {
        let block = Block::from(address);
        if self.known.contains_key(&block) {
            self.with(block, |known| {
                debug_assert!(known.connections > 0, "who leaves has come");
                known.connections = known.connections.saturating_sub(1);
            });
        }
    }

    /// A connection of this address, which was let in, has failed.
    pub(super) fn blame(&mut self, now: Instant, address: IpAddr, settings: &Settings) {
        if let Some(rate) = settings.connect_rate {
            self.with(address.into(), |known| {
                known.bucket.pour(now, rate, FAILURE_COST);
            });
        }
    }

    /// Addresses that are remembered.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    fn with<T>(&mut self, block: Block, change: impl FnOnce(&mut Known) -> T) -> T {
        let known = self.known.entry(block).or_default();
        if known.connections == 0 {
            self.quiet.remove(&(known.calm_at(), block));
        }
        let outcome = change(known);
        if known.connections == 0 {
            self.quiet.insert((known.calm_at(), block));
        }
        self.charge.set(self.known.len() * KNOWN_BYTES);
        outcome
    }

    /// Forgets who has been quiet for long enough.
    fn forget(&mut self, now: Instant) {
        while let Some((calm_at, block)) = self.quiet.first().copied() {
            if calm_at > now {
                break;
            }
            self.quiet.pop_first();
            self.known.remove(&block);
        }
    }

    fn forget_beyond(&mut self, most: usize) {
        while self.quiet.len() > most {
            if let Some((_, block)) = self.quiet.pop_first() {
                self.known.remove(&block);
            }
        }
        self.charge.set(self.known.len() * KNOWN_BYTES);
    }
}

/// What an address that is remembered takes, its place in both trees included.
const KNOWN_BYTES: usize = size_of::<(Block, Known)>() + size_of::<(Instant, Block)>() + 32;

impl Known {
    /// Whether it is ahead of its rate by more than it may be; then it is refused for a while.
    fn is_too_fast(&mut self, now: Instant) -> bool {
        if self.calm_at() <= now {
            self.backoff = Duration::ZERO;
        }
        if self.bucket.level(now) < BURST {
            return false;
        }
        self.backoff = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        self.blocked_until = now + self.backoff;
        true
    }

    /// When nothing of what it has done matters any more.
    fn calm_at(&self) -> Instant {
        let blocked = self.blocked_until + self.backoff * 2;
        self.bucket.empty_at().max(blocked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rate;

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(1_000_000 + millis)
    }

    fn settings() -> Settings {
        Settings {
            max_connections_per_address: Some(3),
            connect_rate: Some(Rate::per_second(1)),
            ..Settings::default()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_others_have_theirs() {
        let mut addresses = Addresses::new(&Memory::new(0));
        let (settings, one) = (settings(), address("192.0.2.1"));
        for _ in 0..3 {
            assert_eq!(addresses.enter(at(0), one, &settings), Ok(()));
        }
        assert_eq!(addresses.enter(at(0), one, &settings), Err(Excess::Address));
        let same = address("::ffff:192.0.2.1");
        assert_eq!(
            addresses.enter(at(0), same, &settings),
            Err(Excess::Address)
        );
        let other = address("192.0.2.2");
        assert_eq!(addresses.enter(at(0), other, &settings), Ok(()));
        addresses.leave(one);
        assert_eq!(addresses.enter(at(0), one, &settings), Ok(()));
    }

    #[test]
    fn an_ipv6_address_is_its_network() {
        let mut addresses = Addresses::new(&Memory::new(0));
        let settings = settings();
        for last in 1..=3 {
            let one = address(&format!("2001:db8::{last}"));
            assert_eq!(addresses.enter(at(0), one, &settings), Ok(()));
        }
        let fourth = address("2001:db8::ffff:4");
        let refused = addresses.enter(at(0), fourth, &settings);
        assert_eq!(refused, Err(Excess::Address));
        let other = address("2001:db8:0:1::1");
        assert_eq!(addresses.enter(at(0), other, &settings), Ok(()));
        assert_eq!(addresses.len(), 2);
    }

    /// Connects and leaves again, every `step`, and says at which millisecond it was refused first
    /// and when it got in after that.
    fn refused(addresses: &mut Addresses, from: u64, step: u64) -> (u64, u64) {
        let (settings, one) = (settings(), address("192.0.2.1"));
        let mut first = None;
        for now in (from..).step_by(step as usize) {
            match (addresses.enter(at(now), one, &settings), first) {
                (Ok(()), Some(first)) => {
                    addresses.leave(one);
                    return (first, now);
                }
                (Ok(()), None) => addresses.leave(one),
                (Err(excess), _) => {
                    assert_eq!(excess, Excess::Rate);
                    first.get_or_insert(now);
                }
            }
        }
        unreachable!("every back-off ends")
    }

    #[test]
    fn who_is_too_fast_waits_twice_as_long_each_time_and_is_forgotten_when_quiet() {
        let memory = Memory::new(0);
        let mut addresses = Addresses::new(&memory);
        let mut from = 0;
        let mut waits = Vec::new();
        for _ in 0..10 {
            let (first, again) = refused(&mut addresses, from, 1);
            waits.push(again - first);
            from = again;
        }
        let secs = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300];
        assert_eq!(waits, secs.map(|seconds| seconds * 1000));
        assert_eq!(addresses.len(), 1);
        let other = address("192.0.2.2");
        assert_eq!(addresses.enter(at(from), other, &settings()), Ok(()));
        addresses.leave(other);
        // Quiet for twice as long.
        let later = from + 900_000;
        assert_eq!(addresses.enter(at(later), other, &settings()), Ok(()));
        assert_eq!(addresses.len(), 1, "the first is forgotten");
        let (first, again) = refused(&mut addresses, later, 1);
        assert_eq!(again - first, 1000);
        assert!(memory.used() > 0);
        drop(addresses);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn failures_count_more() {
        let mut addresses = Addresses::new(&Memory::new(0));
        let (settings, one) = (settings(), address("192.0.2.1"));
        assert_eq!(addresses.enter(at(0), one, &settings), Ok(()));
        addresses.blame(at(0), one, &settings);
        addresses.leave(one);
        assert_eq!(addresses.enter(at(0), one, &settings), Err(Excess::Rate));
    }

    #[test]
    fn the_table_has_an_end() {
        let mut addresses = Addresses::new(&Memory::new(0));
        let settings = settings();
        let kept = address("198.51.100.1");
        assert_eq!(addresses.enter(at(0), kept, &settings), Ok(()));
        for number in 0..2 * QUIET_MAX as u32 {
            let one = IpAddr::from(number.to_be_bytes());
            assert_eq!(addresses.enter(at(1), one, &settings), Ok(()));
            addresses.leave(one);
        }
        assert!(addresses.len() <= QUIET_MAX + 2);
        addresses.leave(kept);
    }
}
