//! Topic aliases towards one client (5.0, 3.3.2.3.4): a topic that it has been sent once is a
//! number afterwards.
//!
//! The first publication of a topic carries both, the next ones the alias alone. An alias is
//! established by the packet that is put into the send queue with it, and by no other; the queue
//! keeps the order. It ends with the connection, as the table here does [MQTT-3.3.2-7].
//!
//! First come, first served, and when every alias stands for something, the topic that was not sent
//! for longest gives way, if that is long ago: topics that come in turns must not drive one another
//! out. All is looked for by going through the table, which is short.

use crate::buffer::{COPY_MAX, Charge, Memory, SendQueue};
use crate::mqtt::{ProtocolVersion, Publish, PublishProperties, TopicAlias};

/// Aliases towards one client at most, whatever it takes and the settings say.
pub const ALIASES_MAX: u16 = 64;

/// Topics of at most this many bytes have none: the property is as long.
const SHORT: usize = 3;

/// Topics longer than this have none, so that a table has a size that one can count on.
const LONG: usize = 1024;

/// So many times the table's length is long ago, in publications.
const LONG_AGO: u64 = 8;

/// What stands for what.
#[derive(Debug)]
pub(super) struct Aliases {
    /// The first has alias 1. Invariant: no two are of one topic.
    entries: Vec<Entry>,
    /// The client's Topic Alias Maximum, or ours [MQTT-3.1.2-26].
    maximum: usize,
    /// Publications that were sent.
    count: u64,
    /// Of what the table holds.
    charge: Charge,
    memory: Memory,
}

#[derive(Debug)]
struct Entry {
    topic: String,
    /// The publication that it was last used for.
    used: u64,
}

/// How a topic is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// By this entry's alias alone.
    Known(usize),
    /// By itself, and by the alias that this entry, perhaps a new one, is to have from now on.
    New(usize),
}

impl Choice {
    fn alias(self) -> Option<TopicAlias> {
        let (Self::Known(at) | Self::New(at)) = self;
        TopicAlias::new(u16::try_from(at + 1).ok()?) // [MQTT-3.3.2-8]
    }

    fn said<'p>(self, publish: &Publish<'p>) -> Publish<'p> {
        Publish {
            topic: match self {
                Self::Known(_) => "",
                Self::New(_) => publish.topic,
            },
            properties: PublishProperties {
                topic_alias: self.alias(),
                ..publish.properties
            },
            ..*publish
        }
    }
}

impl Aliases {
    /// For a client that takes `theirs`. `None`: it takes none, or is to have none
    /// [MQTT-3.1.2-27].
    pub(super) fn new(theirs: u16, ours: u16, memory: &Memory) -> Option<Box<Self>> {
        let maximum = usize::from(theirs.min(ours).min(ALIASES_MAX)); // [MQTT-3.3.2-11]
        (maximum > 0).then(|| {
            Box::new(Self {
                entries: Vec::new(),
                maximum,
                count: 0,
                charge: memory.charge(size_of::<Self>()),
                memory: memory.clone(),
            })
        })
    }

    fn choose(&self, topic: &str) -> Option<Choice> {
        if !(SHORT + 1..=LONG).contains(&topic.len()) {
            return None;
        }
        let mut oldest = (0, u64::MAX);
        for (at, entry) in self.entries.iter().enumerate() {
            if entry.topic == topic {
                return Some(Choice::Known(at));
            }
            if entry.used < oldest.1 {
                oldest = (at, entry.used);
            }
        }
        let at = if self.entries.len() < self.maximum {
            self.entries.len()
        } else if self.count.saturating_sub(oldest.1) > LONG_AGO * self.maximum as u64 {
            oldest.0
        } else {
            return None;
        };
        let needed = topic.len() + size_of::<Entry>();
        self.memory.has_room(needed).then_some(Choice::New(at))
    }

    /// A publication has been put into the send queue.
    fn sent(&mut self, choice: Option<Choice>, topic: &str) {
        self.count += 1;
        match choice {
            None => {}
            Some(Choice::Known(at)) => self.entries[at].used = self.count,
            Some(Choice::New(at)) => {
                if at == self.entries.len() {
                    let topic = String::new();
                    self.entries.push(Entry { topic, used: 0 });
                }
                let entry = &mut self.entries[at];
                entry.topic.clear();
                entry.topic.push_str(topic);
                entry.used = self.count;
                let topics = self.entries.iter().map(|entry| entry.topic.capacity());
                let entries = self.entries.capacity() * size_of::<Entry>();
                let held = size_of::<Self>() + entries + topics.sum::<usize>();
                self.charge.set(held);
            }
        }
    }
}

/// How a publication is said to a client that takes at most `limit` bytes, if it can be: with an
/// alias, and without one if only that fits.
fn said<'p>(
    aliases: Option<&Aliases>,
    version: ProtocolVersion,
    publish: &Publish<'p>,
    payload_len: usize,
    limit: usize,
) -> Option<(Publish<'p>, usize, Option<Choice>)> {
    let choice = aliases.and_then(|aliases| aliases.choose(publish.topic));
    let with_head = |publish: Publish<'p>, choice| {
        let head = publish.head_len(version, payload_len);
        (head + payload_len <= limit).then_some((publish, head, choice))
    };
    choice
        .and_then(|choice| with_head(choice.said(publish), Some(choice)))
        .or_else(|| with_head(*publish, None))
}

/// Whether [`write_head`] would write it.
pub(super) fn fits(
    aliases: Option<&Aliases>,
    version: ProtocolVersion,
    publish: &Publish<'_>,
    payload_len: usize,
    limit: usize,
) -> bool {
    said(aliases, version, publish, payload_len, limit).is_some()
}

/// Writes everything of a publication before its payload, which the caller appends. `false`, and
/// nothing has happened, if the whole is larger than `limit` [MQTT-3.1.2-25].
pub(super) fn write_head(
    aliases: Option<&mut Aliases>,
    version: ProtocolVersion,
    publish: &Publish<'_>,
    payload_len: usize,
    limit: usize,
    queue: &mut SendQueue,
) -> bool {
    let found = said(aliases.as_deref(), version, publish, payload_len, limit);
    let Some((packet, head, choice)) = found else {
        return false;
    };
    let space = if payload_len > COPY_MAX {
        queue.reserve_head(head)
    } else {
        queue.reserve(head)
    };
    packet.encode_head(version, payload_len, space);
    if let Some(aliases) = aliases {
        aliases.sent(choice, publish.topic);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(maximum: u16) -> (Memory, Box<Aliases>) {
        let memory = Memory::new(usize::MAX);
        let aliases = Aliases::new(maximum, ALIASES_MAX, &memory).unwrap();
        (memory, aliases)
    }

    fn send(aliases: &mut Aliases, topic: &str) -> Option<Choice> {
        let choice = aliases.choose(topic);
        aliases.sent(choice, topic);
        choice
    }

    #[test]
    fn a_topic_is_said_once_and_is_a_number_then() {
        let (memory, mut aliases) = table(2);
        let empty = memory.used();
        assert_eq!(send(&mut aliases, "room/a"), Some(Choice::New(0)));
        assert_eq!(send(&mut aliases, "room/b"), Some(Choice::New(1)));
        assert!(memory.used() >= empty + 2 * "room/a".len());
        for _ in 0..3 {
            assert_eq!(send(&mut aliases, "room/a"), Some(Choice::Known(0)));
            assert_eq!(send(&mut aliases, "room/c"), None, "there is no third");
        }
        // The other has not been sent for long enough to give way.
        while aliases.choose("room/c").is_none() {
            assert!(aliases.count < 100);
            send(&mut aliases, "room/a");
        }
        assert_eq!(aliases.count - aliases.entries[1].used, LONG_AGO * 2 + 1);
        assert_eq!(send(&mut aliases, "room/c"), Some(Choice::New(1)));
        assert_eq!(send(&mut aliases, "room/c"), Some(Choice::Known(1)));
        assert_eq!(send(&mut aliases, "room/b"), None);
        drop(aliases);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_is_not_worth_it_has_none() {
        let (memory, mut aliases) = table(4);
        for topic in ["a/b", "", &"x".repeat(LONG + 1)] {
            assert_eq!(send(&mut aliases, topic), None);
        }
        memory.set_limit(1);
        assert_eq!(send(&mut aliases, "a/b/c"), None);
        for (theirs, ours) in [(0, 16), (16, 0)] {
            assert!(Aliases::new(theirs, ours, &memory).is_none());
        }
        let most = Aliases::new(u16::MAX, u16::MAX, &memory).unwrap();
        assert_eq!(most.maximum, usize::from(ALIASES_MAX));
    }
}
