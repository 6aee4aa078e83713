//! A journal without a disk: what the broker asked to be kept, and what of it is there after a
//! crash.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use fieldgate::broker::keep::{Change, Key, Recovered, RecoveredQueue, Target, What};
use fieldgate::buffer::Payload;
use fieldgate::id::{Lsn, QueueId};

#[derive(Default)]
pub struct Ledger {
    queues: u64,
    changes: Vec<Change>,
    /// What was there when the present broker began.
    base: State,
    /// What is there now.
    present: State,
    /// Records come back in the order in which they were made, and not the other way round.
    pub is_in_order: bool,
}

/// What the changes come to.
#[derive(Default, Clone)]
struct State {
    bodies: Vec<Vec<u8>>,
    keys: BTreeMap<Key, usize>,
    queues: BTreeMap<QueueId, Queue>,
}

#[derive(Default, Clone)]
struct Queue {
    /// Sequence number: record, note, and whether it is done with.
    next: u64,
    entries: BTreeMap<u64, (usize, SmallVec<[u8; 16]>, bool)>,
}

impl Ledger {
    /// Never the same twice.
    pub fn next_queue(&mut self) -> QueueId {
        self.queues += 1;
        QueueId(self.queues)
    }

    pub fn note(&mut self, change: Change) {
        if let Some(last) = self.changes.last() {
            assert_eq!(change.lsn.0, last.lsn.0 + 1, "one after the other");
        }
        self.present.apply(change.what.clone());
        self.changes.push(change);
    }

    fn renew_present(&mut self) {
        self.present = self.base.clone();
        for change in &self.changes {
            self.present.apply(change.what.clone());
        }
    }

    /// The first entry that is left of those not below `from`: its number, note and body.
    pub fn draw(&self, queue: QueueId, from: u64) -> Option<(u64, SmallVec<[u8; 16]>, Payload)> {
        let entries = &self.present.queues.get(&queue)?.entries;
        let mut left = entries
            .range(from..)
            .filter(|(_, (_, _, is_done))| !is_done);
        let (sequence, (at, note, _)) = left.next()?;
        let body = Payload::from(self.present.bodies[*at].clone());
        Some((*sequence, note.clone(), body))
    }

    /// Changes since the start, or the last crash.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Makes nonsense of every record; how many these were.
    pub fn spoil(&mut self) -> usize {
        let mut count = 0;
        for change in &mut self.changes {
            if let What::Record { body, .. } = &mut change.what {
                body.truncate(body.len() / 2);
                count += 1;
            }
        }
        self.renew_present();
        count
    }

    /// Loses every end of something that was kept.
    pub fn lose_ends(&mut self) {
        self.lose(|change| matches!(change.what, What::Delete(_) | What::DropQueue(_)));
    }

    /// Loses what was not taken.
    pub fn refuse(&mut self, lsn: Lsn) {
        self.lose(|change| change.lsn == lsn);
    }

    fn lose(&mut self, is_lost: impl Fn(&Change) -> bool) {
        for change in self.changes.iter_mut().filter(|change| is_lost(change)) {
            change.what = What::MakeQueue(QueueId(u64::MAX));
        }
        self.renew_present();
    }

    /// Only what the mark has passed has happened.
    pub fn crash(&mut self, synced: Lsn) {
        let mut state = std::mem::take(&mut self.base);
        for change in self.changes.drain(..).take_while(|it| it.lsn <= synced) {
            state.apply(change.what);
        }
        // Of what is done with, the journal knows how far everything is.
        for queue in state.queues.values_mut() {
            while let Some(first) = queue.entries.first_entry()
                && first.get().2
            {
                first.remove();
            }
            queue.entries.values_mut().for_each(|entry| entry.2 = false);
        }
        self.base = state;
        self.renew_present();
    }

    /// What comes back, each record once, in an order that means nothing.
    pub fn records(&self) -> Vec<Recovered> {
        let State { bodies, keys, .. } = &self.base;
        let record = |at: usize| Recovered {
            keys: keys
                .iter()
                .filter(|(_, of)| **of == at)
                .map(|(key, _)| *key)
                .collect(),
            body: Payload::from(bodies[at].clone()),
        };
        let mut order: Vec<usize> = (0..bodies.len()).collect();
        if !self.is_in_order {
            order.reverse();
        }
        order
            .into_iter()
            .map(record)
            .filter(|record| !record.keys.is_empty())
            .collect()
    }

    /// Every queue, and how it stands.
    pub fn queues(&self) -> Vec<RecoveredQueue> {
        let queues = self.base.queues.iter();
        let found = |(id, queue): (&QueueId, &Queue)| RecoveredQueue {
            queue: *id,
            next: queue.next.max(1),
            entries: queue.entries.len() as u64,
            bytes: queue
                .entries
                .values()
                .map(|(at, ..)| self.base.bodies[*at].len() as u64)
                .sum(),
        };
        queues.map(found).collect()
    }

    /// How many values and entries there are now.
    pub fn live(&self) -> (usize, usize) {
        let state = &self.present;
        let entries = state
            .queues
            .values()
            .flat_map(|queue| queue.entries.values());
        let left = entries.filter(|(_, _, is_done)| !is_done).count();
        (state.keys.len(), left)
    }
}

impl State {
    fn apply(&mut self, what: What) {
        match what {
            What::Record { targets, body } => {
                let at = self.bodies.len();
                self.bodies.push(body);
                assert!(!targets.is_empty(), "a record is for somebody");
                for target in targets {
                    match target {
                        Target::Key(key) => {
                            self.keys.insert(key, at);
                        }
                        Target::Queue {
                            queue,
                            sequence,
                            note,
                        } => {
                            let queue = self.queues.get_mut(&queue).expect("it was made");
                            let last = queue.entries.keys().next_back();
                            assert!(last.is_none_or(|last| *last < sequence), "in order");
                            assert!(sequence >= queue.next, "a number is used once");
                            queue.next = sequence + 1;
                            let entry = (at, note.clone(), false);
                            queue.entries.insert(sequence, entry);
                        }
                    }
                }
            }
            What::Delete(key) => {
                self.keys.remove(&key);
            }
            What::MakeQueue(queue) => {
                self.queues.entry(queue).or_default();
            }
            What::DropQueue(queue) => {
                self.queues.remove(&queue);
            }
            What::Consumed { queue, sequence } => {
                if let Some(queue) = self.queues.get_mut(&queue)
                    && let Some(entry) = queue.entries.get_mut(&sequence)
                {
                    entry.2 = true;
                }
            }
            What::ConsumedFirst { queue, from } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    let entries = queue.entries.range_mut(from..);
                    let mut left = entries.filter(|(_, entry)| !entry.2);
                    if let Some((_, entry)) = left.next() {
                        entry.2 = true;
                    }
                }
            }
        }
    }
}
