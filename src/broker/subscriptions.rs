//! The subscription trie: topic filters by level, and which takers a topic has.
//!
//! Each level of a topic is looked up once in a table of interned levels; after that the walk
//! compares numbers. The walk is a loop with a stack of its own, and visits each node at most once,
//! so its cost is bounded by the subscriptions there are, however a topic is made. Answers come in
//! an order that depends on nothing but what was subscribed.
//!
//! `routes` keeps what [`Subscriptions::matches`] has found until [`Subscriptions::changes`].

use std::collections::BTreeMap;
use std::rc::Rc;

use slab::Slab;

use super::taker::Taker;
use crate::buffer::{Charge, Memory};
use crate::mqtt::{QoS, SubscriptionIdentifier, SubscriptionOptions};
use crate::rng::{HashMap, Rng};

/// How a taker has subscribed, as far as it matters when a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// The highest QoS that it gets.
    pub maximum_qos: QoS,
    /// Not what it published itself.
    pub no_local: bool,
    /// Keep the RETAIN flag.
    pub retain_as_published: bool,
    /// Comes back with every message.
    pub identifier: Option<SubscriptionIdentifier>,
}

impl Subscription {
    /// What a SUBSCRIBE says.
    pub fn new(options: SubscriptionOptions, identifier: Option<SubscriptionIdentifier>) -> Self {
        Self {
            maximum_qos: options.maximum_qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            identifier,
        }
    }
}

/// One taker's subscription that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Who.
    pub taker: Taker,
    /// How.
    pub subscription: Subscription,
}

/// All subscriptions.
#[derive(Debug)]
pub struct Subscriptions {
    /// Slot 0 is the root, which stands before the first level.
    nodes: Slab<Node>,
    /// Literal children: (parent, level) to node.
    edges: HashMap<(u32, u32), u32>,
    levels: Levels,
    /// Where a taker's filters lie, in order: the trie knows what they are.
    takers: BTreeMap<Taker, Vec<Place>>,
    count: usize,
    changes: u64,
    bytes: usize,
    charge: Charge,
    /// Scratch: the topic's levels, and where the walk has still to go.
    topic: Vec<u32>,
    stack: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    /// An interned level, or [`PLUS`].
    level: u32,
    /// How many edges lead to literal children.
    children: u32,
    /// The `+` child, or [`NONE`].
    plus: u32,
    /// How many of `takers` end here; the others end in `/#` here.
    exact: u32,
    /// Invariant: both parts are ordered by taker, each once.
    takers: Vec<(Taker, Subscription)>,
}

/// Where a filter lies in the trie: a node, and whether it ends there in `/#`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u32);

impl Place {
    fn new(node: u32, is_tail: bool) -> Self {
        debug_assert!(node < 1 << 31, "memory ends long before 2³¹ nodes");
        Self(node << 1 | u32::from(is_tail))
    }

    fn node(self) -> u32 {
        self.0 >> 1
    }

    fn is_tail(self) -> bool {
        self.0 & 1 == 1
    }
}

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;
/// The level number of `+`; no interned level has it.
const PLUS: u32 = u32::MAX;

impl Subscriptions {
    /// None.
    pub fn new(memory: &Memory, rng: &mut Rng) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(NONE, NONE));
        Self {
            nodes,
            edges: HashMap::with_hasher(rng.hash_state()),
            levels: Levels::new(rng),
            takers: BTreeMap::new(),
            count: 0,
            changes: 0,
            bytes: 0,
            charge: memory.charge(0),
            topic: Vec::new(),
            stack: Vec::new(),
        }
    }

    /// Subscribes; gives back what this taker had under the same filter, which is replaced
    /// [MQTT-3.8.4-3]. The filter has been checked and is not shared.
    pub fn insert(
        &mut self,
        taker: Taker,
        filter: &str,
        subscription: Subscription,
    ) -> Option<Subscription> {
        self.changes += 1;
        let place = self.make_place(filter);
        let node = &mut self.nodes[place.node() as usize];
        match node.search(taker, place.is_tail()) {
            Ok(at) => Some(core::mem::replace(&mut node.takers[at].1, subscription)),
            Err(at) => {
                if node.takers.is_empty() {
                    // Most filters are one taker's.
                    node.takers.reserve_exact(1);
                }
                node.takers.insert(at, (taker, subscription));
                node.exact += u32::from(!place.is_tail());
                let places = self.takers.entry(taker).or_default();
                if let Err(at) = places.binary_search(&place) {
                    places.insert(at, place);
                }
                self.count += 1;
                self.bytes += ENTRY_BYTES;
                self.charge.set(self.bytes);
                None
            }
        }
    }

    /// Unsubscribes; `None` if there was no such subscription. Filters are compared byte by byte
    /// [MQTT-3.10.4-1].
    pub fn remove(&mut self, taker: Taker, filter: &str) -> Option<Subscription> {
        let place = self.find_place(filter)?;
        let places = self.takers.get_mut(&taker)?;
        let at = places.binary_search(&place).ok()?;
        places.remove(at);
        if places.is_empty() {
            self.takers.remove(&taker);
        }
        let removed = self.remove_at(taker, place);
        self.charge.set(self.bytes);
        Some(removed)
    }

    /// Unsubscribes from everything.
    pub fn remove_all(&mut self, taker: Taker) {
        for place in self.takers.remove(&taker).unwrap_or_default() {
            self.remove_at(taker, place);
        }
        self.charge.set(self.bytes);
    }

    /// The takers of a topic, appended to `found`. Whether a taker can be among them more than
    /// once: then `found` is not in order of takers either.
    pub fn matches(&mut self, topic: &str, found: &mut Vec<Match>) -> bool {
        self.topic.clear();
        for level in topic.split('/') {
            self.topic.push(self.levels.find(level));
        }
        // Wildcards at the first level do not reach into $SYS and its like [MQTT-4.7.2-1].
        let is_hidden = topic.starts_with('$');
        let mut sources = 0;
        self.stack.push((ROOT, 0));
        while let Some((at, depth)) = self.stack.pop() {
            let node = &self.nodes[at as usize];
            let wildcards = !(is_hidden && depth == 0);
            // `#` stands for the parent level too: `sport/#` matches `sport` (4.7.1.2).
            if wildcards {
                sources += usize::from(extend(found, node.tail()));
            }
            let Some(level) = self.topic.get(depth as usize) else {
                sources += usize::from(extend(found, node.exact()));
                continue;
            };
            if wildcards && node.plus != NONE {
                self.stack.push((node.plus, depth + 1));
            }
            if node.children > 0
                && *level != NONE
                && let Some(child) = self.edges.get(&(at, *level))
            {
                self.stack.push((*child, depth + 1));
            }
        }
        sources > 1
    }

    /// Whether there is a subscription whose filter begins with exactly this level.
    pub fn has_first_level(&self, level: &str) -> bool {
        let known = self.levels.find(level);
        known != NONE && self.edges.contains_key(&(ROOT, known))
    }

    /// How a taker has subscribed to exactly this filter.
    pub fn get(&self, taker: Taker, filter: &str) -> Option<Subscription> {
        let place = self.find_place(filter)?;
        let node = &self.nodes[place.node() as usize];
        let at = node.search(taker, place.is_tail()).ok()?;
        Some(node.takers[at].1)
    }

    /// Every filter that a taker has, and how it has subscribed to it.
    pub fn of(&self, taker: Taker) -> Vec<(String, Subscription)> {
        let places = self.takers.get(&taker).map_or(&[][..], Vec::as_slice);
        let all = places.iter().filter_map(|place| {
            let node = &self.nodes[place.node() as usize];
            let at = node.search(taker, place.is_tail()).ok()?;
            Some((self.filter_at(*place), node.takers[at].1))
        });
        all.collect()
    }

    fn filter_at(&self, place: Place) -> String {
        let mut levels = Vec::new();
        if place.is_tail() {
            levels.push("#");
        }
        let mut at = place.node();
        while at != ROOT {
            let Node { parent, level, .. } = &self.nodes[at as usize];
            levels.push(match *level {
                PLUS => "+",
                level => &self.levels.names[level as usize].0,
            });
            at = *parent;
        }
        levels.reverse();
        levels.join("/")
    }

    /// How many filters a taker has.
    pub fn count_of(&self, taker: Taker) -> usize {
        self.takers.get(&taker).map_or(0, Vec::len)
    }

    /// Counts up whenever [`Subscriptions::matches`] may find something else than before.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Nodes of the trie, the root included: for tests of what is left behind.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The most that one more subscription can cost in memory, so that the budget can be asked
    /// before.
    pub fn cost_of(filter: &str) -> usize {
        let levels = filter.split('/').count();
        ENTRY_BYTES + levels * (NODE_BYTES + LEVEL_BYTES) + filter.len()
    }

    fn make_place(&mut self, filter: &str) -> Place {
        let mut at = ROOT;
        for level in filter.split('/') {
            match level {
                "#" => {
                    return Place::new(at, true);
                }
                "+" => {
                    if self.nodes[at as usize].plus == NONE {
                        let child = self.add_node(at, PLUS);
                        self.nodes[at as usize].plus = child;
                    }
                    at = self.nodes[at as usize].plus;
                }
                literal => {
                    let known = self.levels.find(literal);
                    let child = self.edges.get(&(at, known)).copied();
                    at = child.unwrap_or_else(|| self.add_literal(at, literal));
                }
            }
        }
        Place::new(at, false)
    }

    /// Where a filter lies, if anybody has it or one that goes on from it.
    fn find_place(&self, filter: &str) -> Option<Place> {
        let mut at = ROOT;
        for level in filter.split('/') {
            at = match level {
                "#" => return Some(Place::new(at, true)),
                "+" => Some(self.nodes[at as usize].plus).filter(|plus| *plus != NONE)?,
                literal => *self.edges.get(&(at, self.levels.find(literal)))?,
            };
        }
        Some(Place::new(at, false))
    }

    fn add_literal(&mut self, parent: u32, literal: &str) -> u32 {
        let (level, is_new) = self.levels.intern(literal);
        if is_new {
            self.bytes += LEVEL_BYTES + literal.len();
        }
        let child = self.add_node(parent, level);
        self.nodes[parent as usize].children += 1;
        self.edges.insert((parent, level), child);
        child
    }

    fn add_node(&mut self, parent: u32, level: u32) -> u32 {
        self.bytes += NODE_BYTES;
        let slot = self.nodes.insert(Node::new(parent, level));
        u32::try_from(slot).expect("memory ends long before 2³² nodes")
    }

    fn remove_at(&mut self, taker: Taker, place: Place) -> Subscription {
        self.changes += 1;
        let node = &mut self.nodes[place.node() as usize];
        let at = node
            .search(taker, place.is_tail())
            .expect("a taker's filters lie where its table says");
        let (_, removed) = node.takers.remove(at);
        node.exact -= u32::from(!place.is_tail());
        if node.takers.is_empty() {
            node.takers = Vec::new();
        }
        self.count -= 1;
        self.bytes -= ENTRY_BYTES;
        self.prune(place.node());
        removed
    }

    /// Takes out nodes that lead nowhere, from `at` towards the root.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT && self.nodes[at as usize].is_bare() {
            let Node { parent, level, .. } = self.nodes.remove(at as usize);
            self.bytes -= NODE_BYTES;
            let above = &mut self.nodes[parent as usize];
            if level == PLUS {
                above.plus = NONE;
            } else {
                above.children -= 1;
                self.edges.remove(&(parent, level));
                if let Some(len) = self.levels.release(level) {
                    self.bytes -= LEVEL_BYTES + len;
                }
            }
            at = parent;
        }
    }
}

/// What a node costs with its edge, and a level with its two table entries; estimates on the high
/// side.
const NODE_BYTES: usize = size_of::<Node>() + 32;
const LEVEL_BYTES: usize = 80;

/// What a subscription costs beside its nodes: an entry in its node, and one in the taker's table.
const ENTRY_BYTES: usize = size_of::<(Taker, Subscription)>() + 2 * size_of::<Place>() + 16;

fn extend(found: &mut Vec<Match>, list: &[(Taker, Subscription)]) -> bool {
    found.extend(list.iter().map(|(taker, subscription)| Match {
        taker: *taker,
        subscription: *subscription,
    }));
    !list.is_empty()
}

impl Node {
    fn new(parent: u32, level: u32) -> Self {
        Self {
            parent,
            level,
            children: 0,
            plus: NONE,
            exact: 0,
            takers: Vec::new(),
        }
    }

    /// Those that end here.
    fn exact(&self) -> &[(Taker, Subscription)] {
        &self.takers[..self.exact as usize]
    }

    /// Those that end in `/#` here.
    fn tail(&self) -> &[(Taker, Subscription)] {
        &self.takers[self.exact as usize..]
    }

    /// Where a taker's subscription lies in `takers`, or would.
    fn search(&self, taker: Taker, is_tail: bool) -> Result<usize, usize> {
        let (part, before) = if is_tail {
            (self.tail(), self.exact as usize)
        } else {
            (self.exact(), 0)
        };
        let found = part.binary_search_by_key(&taker, |(taker, _)| *taker);
        found.map(|at| before + at).map_err(|at| before + at)
    }

    fn is_bare(&self) -> bool {
        self.children == 0 && self.plus == NONE && self.takers.is_empty()
    }
}

/// Level names as numbers.
#[derive(Debug)]
struct Levels {
    numbers: HashMap<Rc<str>, u32>,
    /// Name, and how many nodes bear it.
    names: Slab<(Rc<str>, u32)>,
}

impl Levels {
    fn new(rng: &mut Rng) -> Self {
        Self {
            numbers: HashMap::with_hasher(rng.hash_state()),
            names: Slab::new(),
        }
    }

    /// [`NONE`] if no filter has this level.
    fn find(&self, name: &str) -> u32 {
        self.numbers.get(name).copied().unwrap_or(NONE)
    }

    /// The number for one more node, and whether the level is new.
    fn intern(&mut self, name: &str) -> (u32, bool) {
        let known = self.find(name);
        if known != NONE {
            self.names[known as usize].1 += 1;
            return (known, false);
        }
        let name: Rc<str> = name.into();
        let slot = self.names.insert((name.clone(), 1));
        let number = u32::try_from(slot).expect("memory ends long before 2³² levels");
        self.numbers.insert(name, number);
        (number, true)
    }

    /// One node less; the name's length if it was the last.
    fn release(&mut self, number: u32) -> Option<usize> {
        let (_, nodes) = &mut self.names[number as usize];
        *nodes -= 1;
        if *nodes > 0 {
            return None;
        }
        let (name, _) = self.names.remove(number as usize);
        self.numbers.remove(&name);
        Some(name.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::SessionId;
    use crate::mqtt::topic;
    use crate::rng::Rng;
    use crate::slab::Key;

    fn trie() -> Subscriptions {
        Subscriptions::new(&Memory::new(usize::MAX), &mut Rng::from_seed(1))
    }

    fn taker(number: u32) -> Taker {
        Taker::Session(SessionId::from_parts(number, 0))
    }

    fn subscription(identifier: u32) -> Subscription {
        Subscription {
            maximum_qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            identifier: SubscriptionIdentifier::new(identifier),
        }
    }

    fn takers(trie: &mut Subscriptions, topic: &str) -> Vec<Taker> {
        let mut found = Vec::new();
        trie.matches(topic, &mut found);
        let mut takers: Vec<_> = found.iter().map(|found| found.taker).collect();
        takers.sort();
        takers
    }

    #[test]
    fn overlapping_filters_of_one_taker_are_found_each_and_announced() {
        let mut trie = trie();
        for (number, filter) in ["a/b", "a/+", "a/#", "#", "+/b"].iter().enumerate() {
            trie.insert(taker(0), filter, subscription(number as u32 + 1));
        }
        let mut found = Vec::new();
        assert!(trie.matches("a/b", &mut found));
        assert_eq!(found.len(), 5);
        found.clear();
        trie.remove_all(taker(0));
        trie.insert(taker(0), "a/b", subscription(1));
        trie.insert(taker(1), "a/b", subscription(1));
        assert!(
            !trie.matches("a/b", &mut found),
            "one node, so each taker once and in order"
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn subscribing_again_replaces() {
        let mut trie = trie();
        assert_eq!(trie.insert(taker(0), "a", subscription(1)), None);
        assert_eq!(
            trie.insert(taker(0), "a", subscription(2)),
            Some(subscription(1))
        );
        assert_eq!(trie.get(taker(0), "a"), Some(subscription(2)));
        assert_eq!((trie.len(), trie.count_of(taker(0))), (1, 1));
        assert_eq!(trie.remove(taker(0), "a"), Some(subscription(2)));
        assert_eq!(trie.remove(taker(0), "a"), None);
    }

    #[test]
    fn nothing_is_left_of_what_was_unsubscribed() {
        let memory = Memory::new(usize::MAX);
        let mut trie = Subscriptions::new(&memory, &mut Rng::from_seed(1));
        for filter in ["a/b/c", "a/+/c/#", "#", "//", "+"] {
            trie.insert(taker(0), filter, subscription(0));
            trie.insert(taker(1), filter, subscription(0));
        }
        assert!(memory.used() > 0);
        trie.remove_all(taker(0));
        for filter in ["a/b/c", "a/+/c/#", "#", "//", "+"] {
            assert!(trie.remove(taker(1), filter).is_some());
        }
        assert_eq!((trie.node_count(), memory.used()), (1, 0));
        assert!(trie.edges.is_empty());
        assert!(trie.levels.names.is_empty());
        assert!(trie.levels.numbers.is_empty());
    }

    #[test]
    fn one_subscription_never_costs_more_than_was_asked_for() {
        for filter in ["a", "a/b/c/d", "+/+/#", "$SYS/#", &"x".repeat(5000)] {
            let memory = Memory::new(usize::MAX);
            let mut trie = Subscriptions::new(&memory, &mut Rng::from_seed(1));
            trie.insert(taker(0), filter, subscription(0));
            assert!(memory.used() <= Subscriptions::cost_of(filter), "{filter}");
        }
    }

    /// Few words, so that filters overlap often.
    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just("+"), Just(""), Just("$s")];
        (proptest::collection::vec(level, 1..5), any::<bool>()).prop_map(|(levels, tail)| {
            let mut filter = levels.join("/");
            if tail {
                filter.push_str("/#");
            }
            if filter.is_empty() {
                "#".into()
            } else {
                filter
            }
        })
    }

    fn name() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just(""), Just("c"), Just("$s")];
        proptest::collection::vec(level, 1..6).prop_map(|levels| match levels.join("/") {
            name if name.is_empty() => "a".into(),
            name => name,
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_linear_scan_finds(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..6, filter()), 0..80),
            topics in proptest::collection::vec(name(), 1..20),
        ) {
            let mut trie = trie();
            let mut model: BTreeMap<(Taker, String), Subscription> = BTreeMap::new();
            for (number, (subscribe, who, filter)) in steps.into_iter().enumerate() {
                let key = (taker(who), filter.clone());
                if subscribe {
                    let new = subscription(number as u32 + 1);
                    prop_assert_eq!(trie.insert(taker(who), &filter, new), model.insert(key, new));
                } else {
                    prop_assert_eq!(trie.remove(taker(who), &filter), model.remove(&key));
                }
                prop_assert_eq!(trie.len(), model.len());
            }
            for topic in topics {
                let expected: Vec<_> = model.keys()
                    .filter(|(_, filter)| topic::matches(filter, &topic))
                    .map(|(taker, _)| *taker)
                    .collect();
                prop_assert_eq!(takers(&mut trie, &topic), expected, "{}", topic);
            }
        }
    }
}
