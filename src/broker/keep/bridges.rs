//! Queues that bridges own.
//!
//! What a bridge is to get is kept in the record of its publication, beside what sessions are: so
//! that all of it survives, or nothing. That is why the broker numbers the entries; what becomes of
//! them is their bridge's affair.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::record::{decode_message, encode_message, kept_at};
use super::{Key, KeyKind, Target, What};
use crate::broker::settings::Level;
use crate::broker::{BridgeEntry, Broker, Origin, Taker};
use crate::buffer::Payload;
use crate::id::{BridgeId, QueueId, RuleId};
use crate::mqtt::{ApplicationMessage, PacketId};
use crate::time::{Now, WallTime};

/// A bridge's place in what is kept.
#[derive(Debug)]
pub(super) struct BridgeQueue {
    queue: QueueId,
    /// Of the entry that comes next.
    next_sequence: u64,
    /// The rules whose messages are kept.
    rules: BTreeSet<RuleId>,
}

/// An entry that is about to be made.
pub(in crate::broker) struct Numbered {
    pub(in crate::broker) sequence: u64,
    /// `None`: it is not kept.
    pub(in crate::broker) target: Option<Target>,
}

/// The note of an entry: the rule by which the bridge takes it.
fn encode_rule(rule: RuleId) -> SmallVec<[u8; 16]> {
    SmallVec::from_slice(&rule.0.to_le_bytes())
}

/// The rule that an entry's note names.
pub fn decode_rule(note: &[u8]) -> Option<RuleId> {
    Some(RuleId(u16::from_le_bytes(note.try_into().ok()?)))
}

/// A message as it was published, from the body of an entry's record, and when it was kept: `None`
/// if the clock was not set.
pub fn read_message(body: &Payload, now: Now) -> Option<(ApplicationMessage, Option<WallTime>)> {
    let message = decode_message(body, now)?;
    Some((message, kept_at(body).filter(|at| at.is_plausible())))
}

impl Broker {
    /// From now on what this bridge is to get is numbered, and what `rules` take is kept in
    /// `queue`, for which the bridge has had numbers below `next`. What changes of it can be said
    /// again.
    pub fn keep_bridge(
        &mut self,
        bridge: BridgeId,
        queue: QueueId,
        next: u64,
        rules: BTreeSet<RuleId>,
    ) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        // Of another queue too: some of its numbers may be on their way to the bridge.
        let before = keeper.bridges.get(&bridge);
        let next_sequence = before.map_or(next, |before| before.next_sequence.max(next));
        let kept = BridgeQueue {
            queue,
            next_sequence,
            rules,
        };
        keeper.bridges.insert(bridge, kept);
    }

    /// Nothing is numbered for this bridge any more.
    pub fn forget_bridge(&mut self, bridge: BridgeId) {
        if let Some(keeper) = &mut self.keeper {
            keeper.bridges.remove(&bridge);
        }
    }

    /// The next entry for a taker, if it is a bridge whose entries are numbered.
    pub(in crate::broker) fn number(&mut self, taker: Taker) -> Option<Numbered> {
        let Taker::Bridge(bridge, rule) = taker else {
            return None;
        };
        let queue = self.keeper.as_mut()?.bridges.get_mut(&bridge)?;
        let sequence = queue.next_sequence;
        queue.next_sequence += 1;
        let target = queue.rules.contains(&rule).then(|| Target::Queue {
            queue: queue.queue,
            sequence,
            note: encode_rule(rule),
        });
        Some(Numbered { sequence, target })
    }

    /// Under which key it is kept that a bridge has brought a message, if anything of it is kept.
    pub(in crate::broker) fn brought_key(
        &self,
        bridge: BridgeId,
        packet_id: PacketId,
    ) -> Option<Key> {
        let queue = self.keeper.as_ref()?.bridges.get(&bridge)?.queue;
        Some(Key {
            kind: KeyKind::Brought,
            id: queue.0,
            sub: packet_id.value().into(),
        })
    }

    /// Makes an entry of a message that was published before.
    pub(in crate::broker) fn keep_replay(
        &mut self,
        taker: Taker,
        message: &ApplicationMessage,
    ) -> Option<BridgeEntry> {
        let Numbered { sequence, target } = self.number(taker)?;
        let level = self.level_of(message.topic());
        let lsn = target.filter(|_| level.is_some()).map(|target| {
            let body = encode_message(message, self.now);
            let targets = SmallVec::from_iter([target]);
            let level = Level::Interval(self.sync_within());
            self.log(Some(level), What::Record { targets, body })
        });
        Some(BridgeEntry {
            sequence,
            lsn,
            is_held: false,
        })
    }

    /// How a publication is kept: what nobody waits for may wait for others.
    pub(in crate::broker) fn level_for(&self, topic: &str, is_awaited: bool) -> Option<Level> {
        match self.level_of(topic)? {
            Level::Strict if !is_awaited => Some(Level::Interval(self.sync_within())),
            level => Some(level),
        }
    }
}

/// Whether who brings a publication at QoS 1 or 2 waits to hear that it is safe.
pub(in crate::broker) fn waits(origin: Origin) -> bool {
    matches!(origin, Origin::Client(_) | Origin::Bridge(_))
}
