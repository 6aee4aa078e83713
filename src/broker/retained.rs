//! The last retained message of each topic, and the cursor that replays them to a new subscription.
//!
//! Topics lie in byte order, so that a filter is a range below its literal prefix, and a cursor is
//! a place in that range that stays good while topics come and go. Each stored message has a
//! number: a cursor passes over what was stored after the subscription was made, because that was
//! delivered live.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use super::subscriptions::Subscription;
use crate::buffer::{Charge, Memory};
use crate::id::MessageId;
use crate::mqtt::topic;
use crate::time::Instant;

/// The retained store.
#[derive(Debug)]
pub(super) struct Retained {
    topics: BTreeMap<Rc<str>, Entry>,
    /// Only of those that expire; exactly one for each.
    expiries: BTreeMap<(Instant, u64), Rc<str>>,
    bytes: usize,
    /// The number of the last message that was stored as news; those that were not have 0.
    last: u64,
    /// For the topics; messages are charged where they are kept.
    charge: Charge,
}

/// What a topic takes here beside its text, in a tree that is not full.
const TOPIC_BYTES: usize = 3 * size_of::<(Rc<str>, Entry)>() / 2 + 16;

#[derive(Debug, Clone, Copy)]
struct Entry {
    message: MessageId,
    number: u64,
    /// Under which number it is kept; 0: it is not, or not yet.
    kept: u64,
    bytes: usize,
    expires_at: Instant,
}

/// Whether a stored message is passed over by the replays that are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It was delivered live.
    New,
    /// It was not: they find it, as if it had been there before them.
    Old,
}

/// How much the store may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Retained {
    /// Nothing.
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            topics: BTreeMap::new(),
            expiries: BTreeMap::new(),
            bytes: 0,
            last: 0,
            charge: memory.charge(0),
        }
    }

    /// Stores a topic's message and gives back the one before it. `Err` if the limits have no room
    /// for it; then nothing has changed. The reference is the store's from here on.
    pub(super) fn store(
        &mut self,
        topic: &str,
        message: MessageId,
        bytes: usize,
        expires_at: Instant,
        limits: Limits,
        age: Age,
    ) -> Result<Option<MessageId>, Full> {
        let bytes = bytes + topic.len() + size_of::<Entry>();
        let before = self.topics.get(topic).map_or(0, |entry| entry.bytes);
        let kept = self.topics.get(topic).map_or(0, |entry| entry.kept);
        let messages = self.topics.len() + usize::from(before == 0);
        if messages > limits.messages || self.bytes - before + bytes > limits.bytes {
            return Err(Full);
        }
        let replaced = self.remove(topic);
        let number = match age {
            Age::New => {
                self.last += 1;
                self.last
            }
            Age::Old => {
                debug_assert_eq!(expires_at, Instant::FAR_FUTURE, "expiries go by number");
                0
            }
        };
        let topic: Rc<str> = topic.into();
        self.charge
            .set(self.charge.bytes() + TOPIC_BYTES + topic.len());
        if expires_at < Instant::FAR_FUTURE {
            self.expiries.insert((expires_at, number), topic.clone());
        }
        self.bytes += bytes;
        self.topics.insert(
            topic,
            Entry {
                message,
                number,
                kept,
                bytes,
                expires_at,
            },
        );
        Ok(replaced)
    }

    /// Forgets a topic's message and gives its reference back.
    pub(super) fn remove(&mut self, topic: &str) -> Option<MessageId> {
        let entry = self.topics.remove(topic)?;
        self.bytes -= entry.bytes;
        self.charge
            .set(self.charge.bytes() - TOPIC_BYTES - topic.len());
        if entry.expires_at < Instant::FAR_FUTURE {
            self.expiries.remove(&(entry.expires_at, entry.number));
        }
        Some(entry.message)
    }

    /// Takes out one message that has expired by `now`: its topic, the number under which it is
    /// kept, and itself.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<(Rc<str>, u64, MessageId)> {
        let ((at, _), topic) = self.expiries.first_key_value()?;
        if *at > now {
            return None;
        }
        let topic = topic.clone();
        let number = self.number(&topic);
        let message = self.remove(&topic)?;
        Some((topic, number, message))
    }

    /// A topic's message.
    pub(super) fn get(&self, topic: &str) -> Option<MessageId> {
        self.topics.get(topic).map(|entry| entry.message)
    }

    /// Under which number a topic's message is kept; 0: it is not, or there is none.
    pub(super) fn number(&self, topic: &str) -> u64 {
        self.topics.get(topic).map_or(0, |entry| entry.kept)
    }

    /// See [`Retained::number`].
    pub(super) fn number_mut(&mut self, topic: &str) -> Option<&mut u64> {
        self.topics.get_mut(topic).map(|entry| &mut entry.kept)
    }

    /// When the next message expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first_key_value().map(|((at, _), _)| *at)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All messages in order of their topics.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, MessageId)> {
        self.topics
            .iter()
            .map(|(topic, entry)| (&**topic, entry.message))
    }
}

/// The limits of the store have no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The replay of retained messages to one subscription: a place in the store.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) filter: Box<str>,
    pub(super) subscription: Subscription,
    /// Messages of this number and above were delivered live.
    last: u64,
    /// Literal levels at the filter's start, with their last slash. Its length within `filter`.
    prefix: usize,
    position: Position,
    /// For itself and its filter.
    _charge: Charge,
}

#[derive(Debug)]
enum Position {
    /// Before everything. `a/#` matches `a`, which does not begin with `a/`.
    Parent,
    /// In the range below the prefix, behind this topic.
    Behind(Option<Rc<str>>),
    /// On this topic, which is offered until [`Replay::advance`].
    On(Rc<str>),
}

/// What a cursor sees.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The message to send next.
    Message(MessageId),
    /// The scan's budget is spent; ask again.
    Tired,
    /// There are no more.
    Done,
}

impl Replay {
    /// A replay of what is in the store now.
    pub(super) fn new(
        filter: &str,
        subscription: Subscription,
        retained: &Retained,
        memory: &Memory,
    ) -> Self {
        let wild = filter.find(['+', '#']).unwrap_or(filter.len());
        let prefix = filter[..wild].rfind('/').map_or(0, |slash| slash + 1);
        Self {
            filter: filter.into(),
            subscription,
            last: retained.last,
            prefix,
            position: Position::Parent,
            _charge: memory.charge(size_of::<Self>() + filter.len()),
        }
    }

    /// Looks for the next message, passing at most `budget` topics, which are taken from it.
    pub(super) fn look(&mut self, retained: &Retained, budget: &mut usize) -> Seen {
        if let Position::On(topic) = &self.position {
            match retained.topics.get(topic) {
                Some(entry) if entry.number <= self.last => return Seen::Message(entry.message),
                _ => self.advance(),
            }
        }
        if matches!(self.position, Position::Parent) {
            self.position = Position::Behind(None);
            let whole = if self.filter.contains(['+', '#']) {
                self.filter[self.prefix..]
                    .starts_with('#')
                    .then(|| self.filter[..self.prefix.saturating_sub(1)].as_ref())
            } else {
                Some(&*self.filter)
            };
            let found = whole.and_then(|whole| retained.topics.get_key_value(whole));
            if let Some((topic, entry)) = found
                && entry.number <= self.last
                && topic::matches(&self.filter, topic)
            {
                // Behind the parent comes the whole range, which sorts after it.
                self.position = Position::On(topic.clone());
                return Seen::Message(entry.message);
            }
        }
        if !self.filter.contains(['+', '#']) {
            return Seen::Done;
        }
        let prefix = &self.filter[..self.prefix];
        let behind = match &self.position {
            Position::Behind(Some(topic)) if **topic >= *prefix => Bound::Excluded(topic.clone()),
            _ => Bound::Included(prefix.into()),
        };
        let range = retained.topics.range((behind, Bound::Unbounded));
        for (topic, entry) in range.take_while(|(topic, _)| topic.starts_with(prefix)) {
            if *budget == 0 {
                return Seen::Tired;
            }
            *budget -= 1;
            if entry.number <= self.last && topic::matches(&self.filter, topic) {
                self.position = Position::On(topic.clone());
                return Seen::Message(entry.message);
            }
            self.position = Position::Behind(Some(topic.clone()));
        }
        Seen::Done
    }

    /// Passes the message that [`Replay::look`] has offered.
    pub(super) fn advance(&mut self) {
        if let Position::On(topic) = &self.position {
            self.position = Position::Behind(Some(topic.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::QoS;
    use crate::slab::Key;

    const LIMITS: Limits = Limits {
        messages: 100,
        bytes: 1_000_000,
    };

    fn message(number: u32) -> MessageId {
        MessageId::from_parts(number, 0)
    }

    fn store(topics: &[&str]) -> Retained {
        let mut retained = Retained::new(&Memory::new(0));
        for (number, topic) in topics.iter().enumerate() {
            let id = message(number as u32);
            let stored = retained.store(topic, id, 10, Instant::FAR_FUTURE, LIMITS, Age::New);
            assert_eq!(stored, Ok(None));
        }
        retained
    }

    fn subscription() -> Subscription {
        Subscription {
            maximum_qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            identifier: None,
        }
    }

    fn replay(retained: &Retained, filter: &str, budget: usize) -> Vec<u32> {
        let mut cursor = Replay::new(filter, subscription(), retained, &Memory::new(0));
        let mut found = Vec::new();
        loop {
            match cursor.look(retained, &mut budget.clone()) {
                Seen::Message(id) => found.push(id.slot()),
                Seen::Tired => continue,
                Seen::Done => return found,
            }
            cursor.advance();
        }
    }

    #[test]
    fn a_filter_finds_its_parent_and_stays_below_its_prefix() {
        let retained = store(&["a", "a/b", "a-b", "ab", "a/b/c", "a/", "$SYS/a", "b"]);
        assert_eq!(replay(&retained, "a/#", 100), [0, 5, 1, 4]);
        assert_eq!(replay(&retained, "a", 100), [0]);
        assert_eq!(replay(&retained, "a/+", 100), [5, 1]);
        assert_eq!(replay(&retained, "+/b/#", 100), [1, 4]);
        assert!(replay(&retained, "nothing", 100).is_empty());
        assert_eq!(
            replay(&retained, "#", 100).len(),
            7,
            "not what begins with $"
        );
        assert_eq!(replay(&retained, "$SYS/#", 100), [6]);
    }

    #[test]
    fn what_is_stored_during_a_replay_is_left_to_live_delivery() {
        let mut retained = store(&["a/1", "a/2", "a/3"]);
        let mut cursor = Replay::new("a/+", subscription(), &retained, &Memory::new(0));
        assert_eq!(cursor.look(&retained, &mut 10), Seen::Message(message(0)));
        for (topic, number) in [("a/1", 10), ("a/2", 11), ("a/25", 12)] {
            let id = message(number);
            let stored = retained.store(topic, id, 10, Instant::FAR_FUTURE, LIMITS, Age::New);
            assert!(stored.is_ok());
        }
        assert_eq!(cursor.look(&retained, &mut 10), Seen::Message(message(2)));
        retained.remove("a/3");
        assert_eq!(cursor.look(&retained, &mut 10), Seen::Done);
    }

    #[test]
    fn what_is_restated_during_a_replay_is_found_by_it() {
        let mut retained = store(&["a/1", "a/2"]);
        let mut cursor = Replay::new("a/+", subscription(), &retained, &Memory::new(0));
        for (topic, number) in [("a/0", 10), ("a/2", 11), ("a/3", 12)] {
            let id = message(number);
            let never = Instant::FAR_FUTURE;
            assert!(
                retained
                    .store(topic, id, 10, never, LIMITS, Age::Old)
                    .is_ok()
            );
        }
        let mut found = Vec::new();
        while let Seen::Message(id) = cursor.look(&retained, &mut 10) {
            found.push(id.slot());
            cursor.advance();
        }
        assert_eq!(found, [10, 0, 11, 12]);
    }

    #[test]
    fn a_full_store_changes_nothing_and_replacing_is_not_growing() {
        let mut retained = Retained::new(&Memory::new(0));
        let limits = Limits {
            messages: 1,
            bytes: 1000,
        };
        let never = Instant::FAR_FUTURE;
        assert_eq!(
            retained.store("a", message(0), 10, never, limits, Age::New),
            Ok(None)
        );
        assert_eq!(
            retained.store("b", message(1), 10, never, limits, Age::New),
            Err(Full)
        );
        assert_eq!(
            retained.store("a", message(2), 10, never, limits, Age::New),
            Ok(Some(message(0)))
        );
        assert_eq!(
            retained.store("a", message(3), 5000, never, limits, Age::New),
            Err(Full)
        );
        assert_eq!(retained.iter().collect::<Vec<_>>(), [("a", message(2))]);
    }

    #[test]
    fn expiry_follows_replacement_and_removal() {
        let mut retained = Retained::new(&Memory::new(0));
        let at = Instant::from_nanos;
        for (topic, number, expires_at) in [("a", 0, 10), ("b", 1, 20), ("a", 2, 30)] {
            let id = message(number);
            let stored = retained.store(topic, id, 1, at(expires_at), LIMITS, Age::New);
            assert!(stored.is_ok());
        }
        assert_eq!(retained.next_expiry(), Some(at(20)));
        assert_eq!(retained.pop_expired(at(19)), None);
        assert_eq!(
            retained.pop_expired(at(20)),
            Some(("b".into(), 0, message(1)))
        );
        assert_eq!(retained.remove("a"), Some(message(2)));
        assert_eq!((retained.next_expiry(), retained.bytes()), (None, 0));
    }

    proptest! {
        #[test]
        fn replays_what_a_linear_scan_finds(
            topics in proptest::collection::btree_set("[ab$/]{1,5}", 0..30),
            filter in "(([ab]|\\+|\\$a|)/){0,3}([ab]|\\+|#)",
            budget in 1_usize..5,
        ) {
            let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            let retained = store(&topics);
            let mut expected: Vec<u32> = (0..topics.len() as u32)
                .filter(|number| topic::matches(&filter, topics[*number as usize]))
                .collect();
            let mut found = replay(&retained, &filter, budget);
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
