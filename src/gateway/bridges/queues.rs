//! Queues of bridges in the journal, by the name of their bridge.

use std::collections::BTreeSet;

use super::{Gateway, KeptQueue};
use crate::bridge::settings::{Keep, SendRule};
use crate::id::{BridgeId, QueueId, RuleId, stable_hash};
use crate::journal::{self, Class};
use crate::time::Now;

/// The kind of the journal's keys that say whose queue is whose; the broker's are below it.
pub(in crate::gateway) const BRIDGE_QUEUE: u8 = 16;

/// The version of what such a key's record says: name, then a hash of each sending rule.
const VERSION: u8 = 1;

impl Gateway {
    /// The queue of a bridge, made if there is none, and the rules that it knows; `None` without a
    /// journal.
    pub(super) fn find_queue(&mut self, now: Now, name: &str) -> Option<(QueueId, Vec<u64>)> {
        let durable = self.durable.as_mut()?;
        if let Some(kept) = self.bridges.queues.get(name) {
            return Some((kept.queue, kept.rules.clone()));
        }
        let queue = durable.journal.new_queue_id();
        let kept = KeptQueue {
            queue,
            rules: Vec::new(),
            is_named: false,
        };
        self.bridges.queues.insert(name.into(), kept);
        self.make_queue(now, queue);
        Some((queue, Vec::new()))
    }

    /// What the journal does not take now is tried again when it has room; until then who waits for
    /// something to be kept there is not answered.
    fn make_queue(&mut self, now: Now, queue: QueueId) {
        let Some(durable) = &mut self.durable else {
            return;
        };
        let journal = &mut durable.journal;
        if let Err(refused) = journal.make_queue(now, queue, Class::Strict) {
            log::error!("no queue for a bridge: {refused:?}");
        }
        durable.wait();
    }

    /// Says in the journal whose queue it is, and what its rules are.
    pub(super) fn name_queue(&mut self, now: Now, name: &str, rules: Vec<u64>) {
        let Some(durable) = &mut self.durable else {
            return;
        };
        let Some(kept) = self.bridges.queues.get_mut(name) else {
            return;
        };
        if kept.rules == rules && kept.is_named {
            return;
        }
        let target = journal::Target::Key {
            key: key_of(kept.queue),
            note: &[],
        };
        let body = encode_name(name, &rules);
        kept.rules = rules;
        kept.is_named = true;
        if let Err(refused) = durable
            .journal
            .append(now, &[target], &[&body], Class::Strict)
        {
            log::error!("bridge {name}: its queue is not named: {refused:?}");
            // Said again when there is room.
            kept.is_named = false;
        }
        durable.wait();
    }

    /// The journal has room again: what it did not take of bridges' queues.
    pub(in crate::gateway) fn make_bridge_queues(&mut self, now: Now) {
        let missing: Vec<_> = self
            .bridges
            .queues
            .iter()
            .map(|(name, kept)| (name.clone(), kept.queue))
            .collect();
        for (name, queue) in missing {
            let Some(durable) = &self.durable else {
                return;
            };
            if durable.journal.queue(queue).is_none() {
                self.make_queue(now, queue);
            }
            let rules = self
                .bridges
                .queues
                .get(&name)
                .map(|kept| kept.rules.clone());
            self.name_queue(now, &name, rules.unwrap_or_default());
        }
        self.try_steps_again(now);
    }

    /// Everything that was kept is read: a queue that nobody has named was about to be made.
    pub(in crate::gateway) fn drop_nameless(&mut self, now: Now, backlogs: &[QueueId]) {
        let Some(durable) = &mut self.durable else {
            return;
        };
        for queue in backlogs {
            let kept = self.bridges.queues.values();
            if !kept.into_iter().any(|kept| kept.queue == *queue) {
                durable.journal.drop_queue(now, *queue, Class::Lazy);
            }
        }
        let queues = self.bridges.queues.values();
        let named: BTreeSet<_> = queues.map(|kept| kept.queue).collect();
        let steps = core::mem::take(&mut self.bridges.steps);
        for (queue, steps) in steps {
            if named.contains(&queue) {
                self.bridges.steps.insert(queue, steps);
            } else {
                steps.drop(now, &mut durable.journal, queue);
            }
        }
    }

    /// Forgets what waits for a bridge: how many messages that was. `None`: there is no such queue.
    /// What is under way to the peer is not taken back.
    pub(in crate::gateway) fn drop_bridge_queue(&mut self, now: Now, name: &str) -> Option<u64> {
        if let Some(id) = self.bridges.by_name.get(name) {
            let link = self.bridges.links.get_mut(*id)?;
            let before = link.bridge.status(now).queue_length;
            link.bridge.drop_waiting();
            let after = link.bridge.status(now).queue_length;
            self.renew_queue(now, *id, name);
            return Some(before - after);
        }
        let kept = self.bridges.queues.remove(name)?;
        let durable = self.durable.as_mut()?;
        let state = durable.journal.queue(kept.queue);
        durable.journal.delete(now, key_of(kept.queue), Class::Lazy);
        if let Some(steps) = self.bridges.steps.remove(&kept.queue) {
            steps.drop(now, &mut durable.journal, kept.queue);
        }
        durable.journal.drop_queue(now, kept.queue, Class::Strict);
        durable.wait();
        Some(state.map_or(0, |state| state.entries))
    }
}

impl Gateway {
    /// A bridge's queue is dropped with all that is in it, and another one begins. What is under
    /// way is in memory alone from then on.
    fn renew_queue(&mut self, now: Now, id: BridgeId, name: &str) {
        let Some(link) = self.bridges.links.get_mut(id) else {
            return;
        };
        let (Some(old), Some(durable)) = (link.queue, &mut self.durable) else {
            return;
        };
        durable.journal.delete(now, key_of(old), Class::Lazy);
        durable.journal.drop_queue(now, old, Class::Strict);
        link.is_fetching = false;
        self.bridges.queues.remove(name);
        let queue = self.find_queue(now, name).map(|(queue, _)| queue);
        let Some(link) = self.bridges.links.get_mut(id) else {
            return;
        };
        link.queue = queue;
        if let Some(queue) = queue {
            self.move_steps(now, old, queue);
        }
        let Some(link) = self.bridges.links.get_mut(id) else {
            return;
        };
        let rules = link.bridge.settings().send.clone();
        if let Some(queue) = queue {
            let next = link.bridge.next_number();
            self.broker.keep_bridge(id, queue, next, kept_of(&rules));
        }
        let hashes = rules.iter().map(hash_of).collect();
        self.name_queue(now, name, hashes);
    }
}
/// The rules whose messages are kept.
pub(super) fn kept_of(rules: &[SendRule]) -> BTreeSet<RuleId> {
    let rules = rules.iter().enumerate();
    rules
        .filter(|(_, rule)| rule.keep != Keep::Nothing)
        .map(|(index, _)| RuleId(index as u16))
        .collect()
}

fn key_of(queue: QueueId) -> journal::Key {
    journal::Key {
        kind: BRIDGE_QUEUE,
        id: queue.0,
        sub: 0,
    }
}

/// Of what makes a sending rule another one: two that collide cost a new rule the retained messages
/// from before it.
pub(super) fn hash_of(rule: &SendRule) -> u64 {
    let to = rule.to.as_deref().unwrap_or_default();
    stable_hash(rule.filter.bytes().chain([0]).chain(to.bytes()))
}

fn encode_name(name: &str, rules: &[u64]) -> Vec<u8> {
    let mut body = vec![VERSION];
    body.extend_from_slice(&(name.len() as u16).to_le_bytes());
    body.extend_from_slice(name.as_bytes());
    for rule in rules {
        body.extend_from_slice(&rule.to_le_bytes());
    }
    body
}

pub(super) fn decode_name(body: &[u8]) -> Option<(&str, Vec<u64>)> {
    let (version, rest) = body.split_first()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (name, rules) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    if *version != VERSION || rules.len() % 8 != 0 {
        return None;
    }
    let rules = rules.chunks_exact(8).map(|bytes| {
        let bytes = bytes.try_into().expect("chunks are eight bytes long");
        u64::from_le_bytes(bytes)
    });
    Some((core::str::from_utf8(name).ok()?, rules.collect()))
}
