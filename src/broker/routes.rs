//! What is known of a topic: who takes it, and who may publish to it.
//!
//! Publishers say the same topics again and again. What the trie found for one, and what the rules
//! came to for its takers and publishers, is kept until a subscription or a rule changes; then all
//! of it is stale at once, for a change may concern any topic. A route is found by the hash of its
//! topic and compared by its bytes, so a stranger's topic is never taken for another. A warm table
//! allocates nothing. What it holds is bounded, can be done without, and is not counted in the
//! memory budget, as the pool of free chunks is not.
//!
//! | limit | there |
//! |---|---|
//! | [`SLOTS`] topics | a topic takes the place of another |
//! | [`BYTES_MAX`] | everything is forgotten |
//! | [`WRITERS_MAX`] publishers of a topic | they are asked again |

use core::hash::BuildHasher;

use super::access::Verdict;
use super::session::Session;
use super::subscriptions::{Match, Subscriptions};
use super::taker::Taker;
use crate::id::SessionId;
use crate::rng::{HashState, Rng};
use crate::slab::GenSlab;

/// Topics that can be known at once.
const SLOTS: usize = 4096;

/// What all routes may hold together.
const BYTES_MAX: usize = 1024 * 1024;

/// Publishers whose verdict is kept with one topic.
const WRITERS_MAX: usize = 64;

/// The table.
#[derive(Debug)]
pub(super) struct Routes {
    /// Empty, or [`SLOTS`] long.
    slots: Vec<Option<Box<Route>>>,
    hasher: HashState,
    /// Counts up when rules or what they are about have changed.
    changes: u64,
    /// Of all routes. Invariant: the sum of theirs.
    bytes: usize,
}

/// A topic's takers and publishers.
#[derive(Debug)]
pub(super) struct Route {
    slot: usize,
    topic: String,
    /// When it was looked up.
    generation: u64,
    /// Of takers that may receive from this topic. Invariant: those of one taker are neighbours.
    pub(super) matches: Vec<Match>,
    /// Takers that may not.
    pub(super) refused: u64,
    /// One of the takers does not want what it has published itself.
    pub(super) has_no_local: bool,
    /// What publishers with rules may do. Invariant: each once.
    writers: Vec<(SessionId, Verdict)>,
    /// What it holds, as far as the table knows.
    bytes: usize,
}

impl Routes {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            slots: Vec::new(),
            hasher: rng.hash_state(),
            changes: 0,
            bytes: 0,
        }
    }

    /// Rules have changed, or for whom they are meant.
    pub(super) fn forget(&mut self) {
        self.changes += 1;
    }

    /// Takes a topic's route out of the table, looked up afresh if it is not there or stale; to be
    /// given back with [`Routes::put`].
    #[expect(
        clippy::unnecessary_box_returns,
        reason = "it lies in a box in the table, and goes back there"
    )]
    pub(super) fn take(
        &mut self,
        topic: &str,
        subscriptions: &mut Subscriptions,
        exceptions: &mut Subscriptions,
        sessions: &GenSlab<SessionId, Session>,
    ) -> Box<Route> {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        let slot = self.hasher.hash_one(topic) as usize % SLOTS;
        let generation = self.changes + subscriptions.changes() + exceptions.changes();
        match self.slots[slot].take() {
            Some(route) if route.generation == generation && route.topic == topic => route,
            known => {
                let mut route = known.unwrap_or_else(|| Box::new(Route::new(slot)));
                route.generation = generation;
                route.topic.clear();
                route.topic.push_str(topic);
                route.look_up(subscriptions, exceptions, sessions);
                route
            }
        }
    }

    /// Gives back what [`Routes::take`] has given.
    pub(super) fn put(&mut self, mut route: Box<Route>) {
        let bytes = route.cost();
        if bytes != route.bytes {
            self.bytes = self.bytes - route.bytes + bytes;
            route.bytes = bytes;
            if self.bytes > BYTES_MAX {
                self.slots.fill_with(|| None);
                self.bytes = 0;
                return;
            }
        }
        let slot = route.slot;
        self.slots[slot] = Some(route);
    }
}

impl Route {
    fn new(slot: usize) -> Self {
        Self {
            slot,
            topic: String::new(),
            generation: 0,
            matches: Vec::new(),
            refused: 0,
            has_no_local: false,
            writers: Vec::new(),
            bytes: 0,
        }
    }

    fn look_up(
        &mut self,
        subscriptions: &mut Subscriptions,
        exceptions: &mut Subscriptions,
        sessions: &GenSlab<SessionId, Session>,
    ) {
        self.matches.clear();
        self.writers.clear();
        if subscriptions.matches(&self.topic, &mut self.matches) {
            self.matches.sort_unstable_by_key(|found| found.taker);
        }
        let (topic, mut refused, mut last) = (&*self.topic, 0, None);
        let mut excepted = Vec::new();
        if !exceptions.is_empty() {
            exceptions.matches(topic, &mut excepted);
        }
        self.matches.retain(|found| {
            let Taker::Session(id) = found.taker else {
                return !excepted.iter().any(|it| it.taker == found.taker);
            };
            let may_receive = |session: &Session| session.may_receive(topic);
            if sessions.get(id).is_none_or(may_receive) {
                return true;
            }
            refused += u64::from(last.replace(id) != Some(id));
            false
        });
        self.refused = refused;
        let no_local = |found: &Match| found.subscription.no_local;
        self.has_no_local = self.matches.iter().any(no_local);
    }

    /// Whether this client may publish here, if that is known.
    pub(super) fn verdict(&self, writer: SessionId) -> Option<Verdict> {
        let mut writers = self.writers.iter();
        let found = writers.find(|(known, _)| *known == writer);
        found.map(|(_, verdict)| *verdict)
    }

    /// Keeps that, which was not known.
    pub(super) fn note(&mut self, writer: SessionId, verdict: Verdict) {
        if self.writers.len() >= WRITERS_MAX {
            self.writers.clear();
        }
        self.writers.push((writer, verdict));
    }

    fn cost(&self) -> usize {
        size_of::<Self>()
            + self.topic.capacity()
            + self.matches.capacity() * size_of::<Match>()
            + self.writers.capacity() * size_of::<(SessionId, Verdict)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::subscriptions::Subscription;
    use crate::buffer::Memory;
    use crate::mqtt::{QoS, SubscriptionOptions};
    use crate::slab::Key;

    fn taker(number: u32) -> Taker {
        Taker::Session(SessionId::from_parts(number, 0))
    }

    fn takers(route: &Route) -> Vec<Taker> {
        route.matches.iter().map(|found| found.taker).collect()
    }

    #[test]
    fn a_route_is_as_old_as_the_last_change_and_no_older() {
        let memory = Memory::new(usize::MAX);
        let mut rng = Rng::from_seed(1);
        let mut subscriptions = Subscriptions::new(&memory, &mut rng);
        let mut exceptions = Subscriptions::new(&memory, &mut rng);
        let mut routes = Routes::new(&mut rng);
        let sessions = GenSlab::new();
        let plain = Subscription::new(SubscriptionOptions::new(QoS::AtMostOnce), None);
        subscriptions.insert(taker(1), "a/+", plain);
        for _ in 0..2 {
            let mut route = routes.take("a/b", &mut subscriptions, &mut exceptions, &sessions);
            assert_eq!(takers(&route), [taker(1)]);
            let writer = SessionId::from_parts(7, 0);
            if route.verdict(writer).is_none() {
                route.note(writer, Verdict::Allowed);
            }
            routes.put(route);
        }
        let route = routes.take("a/b", &mut subscriptions, &mut exceptions, &sessions);
        let writer = SessionId::from_parts(7, 0);
        assert_eq!(route.verdict(writer), Some(Verdict::Allowed));
        assert_eq!(route.writers.len(), 1);
        routes.put(route);
        subscriptions.insert(taker(2), "a/b", plain);
        let route = routes.take("a/b", &mut subscriptions, &mut exceptions, &sessions);
        assert_eq!(takers(&route), [taker(1), taker(2)]);
        assert_eq!(route.verdict(writer), None);
        routes.put(route);
        subscriptions.remove_all(taker(1));
        let mut route = routes.take("a/b", &mut subscriptions, &mut exceptions, &sessions);
        assert_eq!(takers(&route), [taker(2)]);
        route.note(writer, Verdict::Refused);
        routes.put(route);
        // The other options of the same subscription are a change too.
        let no_local = Subscription {
            no_local: true,
            ..plain
        };
        subscriptions.insert(taker(2), "a/b", no_local);
        let mut route = routes.take("a/b", &mut subscriptions, &mut exceptions, &sessions);
        assert!(route.has_no_local && route.verdict(writer).is_none());
        route.note(writer, Verdict::Refused);
        routes.put(route);
        routes.forget();
        let route = routes.take("a/b", &mut subscriptions, &mut exceptions, &sessions);
        assert_eq!(route.verdict(writer), None);
        routes.put(route);
    }

    #[test]
    fn what_is_known_has_a_limit() {
        let memory = Memory::new(usize::MAX);
        let mut rng = Rng::from_seed(1);
        let mut subscriptions = Subscriptions::new(&memory, &mut rng);
        let mut exceptions = Subscriptions::new(&memory, &mut rng);
        let mut routes = Routes::new(&mut rng);
        let sessions = GenSlab::new();
        for number in 0..3 * SLOTS {
            let topic = format!("{number}/{}", "x".repeat(500));
            let route = routes.take(&topic, &mut subscriptions, &mut exceptions, &sessions);
            assert_eq!(route.topic, topic);
            routes.put(route);
            assert!(routes.bytes <= BYTES_MAX);
        }
        let held = routes.slots.iter().flatten().map(|route| route.cost());
        assert_eq!(held.sum::<usize>(), routes.bytes);
        let mut route = routes.take("w", &mut subscriptions, &mut exceptions, &sessions);
        for number in 0..200 {
            route.note(SessionId::from_parts(number, 0), Verdict::Allowed);
            assert!(route.writers.len() <= WRITERS_MAX);
        }
        routes.put(route);
    }
}
