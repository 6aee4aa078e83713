//! Random operations and many crashes in a row, against a model that knows only what was reported
//! as synced.

use std::collections::{BTreeMap, BTreeSet};

use fieldgate::id::{Lsn, QueueId};
use fieldgate::journal::{Class, Draw, Event, Key, Target};
use fieldgate::time::Duration;

use super::disk::{Disk, Faults};
use super::early::make_early;
use super::house::{House, SMALL, Told};

/// What has happened to one thing, in order: with the number of the record that did it.
type History<T> = Vec<(Lsn, T)>;

#[derive(Default)]
struct Model {
    /// Values, or the end of one.
    keys: BTreeMap<Key, History<Option<Vec<u8>>>>,
    queues: BTreeMap<QueueId, ModelQueue>,
    ids: BTreeSet<QueueId>,
}

struct ModelQueue {
    made: Lsn,
    dropped: Option<Lsn>,
    entries: BTreeMap<u64, (Lsn, Vec<u8>)>,
    /// Ended by us; may come back.
    consumed: BTreeSet<u64>,
    next: u64,
}

impl Model {
    /// What survived is one of the states since the last that was synced.
    fn check(&mut self, house: &mut House, told: &Told, synced: Lsn, seed: u64) {
        for (key, history) in &self.keys {
            let last = history.iter().rposition(|(lsn, _)| *lsn <= synced);
            let possible: Vec<Option<&Vec<u8>>> = match last {
                Some(last) => history[last..]
                    .iter()
                    .map(|(_, value)| value.as_ref())
                    .collect(),
                None => std::iter::once(None)
                    .chain(history.iter().map(|(_, value)| value.as_ref()))
                    .collect(),
            };
            let found = told.keys.get(key);
            assert!(
                possible.contains(&found),
                "seed {seed}: {key:?} is {found:?}, not one of {possible:?}"
            );
        }
        for key in told.keys.keys() {
            assert!(
                self.keys.contains_key(key),
                "seed {seed}: {key:?} never was"
            );
        }
        for (id, queue) in &self.queues {
            let is_there = told.queues.contains_key(id);
            if queue.dropped.is_some_and(|lsn| lsn <= synced) {
                assert!(!is_there, "seed {seed}: {id:?} was dropped");
            } else if queue.made <= synced && queue.dropped.is_none() {
                assert!(is_there, "seed {seed}: {id:?} is missing");
            }
            if !is_there {
                continue;
            }
            let found = drain(house, *id);
            for (sequence, (lsn, body)) in &queue.entries {
                match found.get(sequence) {
                    Some(found) => assert_eq!(found, body, "seed {seed}: {id:?} {sequence}"),
                    None => assert!(
                        *lsn > synced || queue.consumed.contains(sequence),
                        "seed {seed}: entry {sequence} of {id:?} was synced and is missing"
                    ),
                }
            }
            for sequence in found.keys() {
                assert!(
                    queue.entries.contains_key(sequence),
                    "seed {seed}: never was"
                );
            }
            let state = told.queues[id];
            let synced_next = queue
                .entries
                .iter()
                .filter(|(_, (lsn, _))| *lsn <= synced)
                .map(|(sequence, _)| sequence + 1)
                .max();
            assert!(
                state.next >= synced_next.unwrap_or(1),
                "seed {seed}: {id:?} would use a number again"
            );
        }
        // A name whose queue was not synced may be given again.
        self.ids
            .retain(|id| self.queues.get(id).is_none_or(|queue| queue.made <= synced));
        self.take_over(told, house);
    }

    /// What was found is what is there, from now on: nothing of it may change without an operation.
    fn take_over(&mut self, told: &Told, house: &mut House) {
        let base = Lsn(0);
        self.keys = told
            .keys
            .iter()
            .map(|(key, body)| (*key, vec![(base, Some(body.clone()))]))
            .collect();
        let mut queues = BTreeMap::new();
        for (id, state) in &told.queues {
            let old = self.queues.remove(id).expect("it was made");
            let entries = drain(house, *id).into_iter();
            let entries: BTreeMap<u64, (Lsn, Vec<u8>)> = entries
                .map(|(sequence, body)| (sequence, (base, body)))
                .collect();
            assert_eq!(state.entries, entries.len() as u64);
            queues.insert(
                *id,
                ModelQueue {
                    made: base,
                    dropped: None,
                    entries,
                    consumed: old.consumed,
                    next: state.next,
                },
            );
        }
        self.queues = queues;
    }
}

/// Everything in a queue, without consuming it.
fn drain(house: &mut House, id: QueueId) -> BTreeMap<u64, Vec<u8>> {
    let faults = std::mem::take(&mut house.disk.faults);
    let mut found = BTreeMap::new();
    let mut last = 0;
    house.journal.rewind(id);
    loop {
        match house.journal.draw(id) {
            Draw::Ready { sequence, body, .. } => {
                assert!(sequence > last, "drawn in order");
                last = sequence;
                found.insert(sequence, body.to_vec());
            }
            Draw::Pending => {
                house.rest_for(Duration::from_secs(2));
                assert!(
                    house
                        .events
                        .iter()
                        .any(|event| *event == Event::Drawable(id)),
                    "a pending draw is resolved: {:?}",
                    house.journal.stats()
                );
                house.events.clear();
            }
            Draw::Empty => break,
        }
    }
    house.journal.rewind(id);
    house.disk.faults = faults;
    found
}

/// `happens` is done to the disk while the power is off.
fn life(
    seed: u64,
    crashes: usize,
    steps: u64,
    faults: Faults,
    happens: &mut dyn FnMut(&mut Disk),
) -> (u64, u64) {
    let mut house = House::started(seed, SMALL);
    house.disk.faults = faults;
    let mut model = Model::default();
    let (mut cleanings, mut refused) = (0, 0);
    for _ in 0..crashes {
        for _ in 0..steps {
            step(&mut house, &mut model, &mut refused, seed);
        }
        let synced = house.journal.synced();
        cleanings += house.journal.stats().cleanings;
        let told;
        (house, told) = house.crash_then(&mut *happens);
        model.check(&mut house, &told, synced, seed);
        house.disk.faults = faults;
    }
    (cleanings, refused)
}

fn class(house: &mut House) -> Class {
    match house.disk.rng.below(3) {
        0 => Class::Strict,
        1 => Class::Interval(Duration::from_millis(2)),
        _ => Class::Lazy,
    }
}

fn step(house: &mut House, model: &mut Model, refused: &mut u64, seed: u64) {
    let class = class(house);
    let now = house.now;
    let ids: Vec<QueueId> = model
        .queues
        .iter()
        .filter(|(_, queue)| queue.dropped.is_none())
        .map(|(id, _)| *id)
        .collect();
    let key = Key {
        kind: 1,
        id: house.disk.rng.below(40),
        sub: 0,
    };
    match house.disk.rng.below(100) {
        0..=1 if ids.len() < 5 => {
            let id = house.journal.new_queue_id();
            if let Ok(made) = house.journal.make_queue(now, id, class) {
                assert!(model.ids.insert(id), "seed {seed}: {id:?} was used before");
                model.queues.insert(
                    id,
                    ModelQueue {
                        made,
                        dropped: None,
                        entries: BTreeMap::new(),
                        consumed: BTreeSet::new(),
                        next: 1,
                    },
                );
            }
        }
        2 if ids.len() > 3 => {
            let id = ids[0];
            let lsn = house.journal.drop_queue(now, id, class);
            model.queues.get_mut(&id).expect("it is there").dropped = Some(lsn);
        }
        3..=45 => {
            let mut targets = Vec::new();
            let mut queues = Vec::new();
            if house.disk.rng.chance(1, 2) || ids.is_empty() {
                targets.push(Target::Key { key, note: b"k" });
            }
            for id in &ids {
                if house.disk.rng.chance(1, 2) {
                    targets.push(Target::Queue {
                        queue: *id,
                        note: b"",
                    });
                    queues.push(*id);
                }
            }
            if targets.is_empty() {
                return;
            }
            let len = house.disk.rng.below(1500) as usize;
            let mut body = house.disk.rng.next_u64().to_le_bytes().to_vec();
            body.resize(body.len().max(len), 7);
            match house.journal.append(now, &targets, &[&body], class) {
                Ok(lsn) => {
                    if matches!(targets[0], Target::Key { .. }) {
                        let history = model.keys.entry(key).or_default();
                        history.push((lsn, Some(body.clone())));
                    }
                    let sequences = house.journal.sequences().to_vec();
                    assert_eq!(sequences.len(), queues.len());
                    for (id, sequence) in queues.into_iter().zip(sequences) {
                        let queue = model.queues.get_mut(&id).expect("it is there");
                        assert_eq!(sequence, queue.next, "seed {seed}: numbers count up");
                        queue.next += 1;
                        queue.entries.insert(sequence, (lsn, body.clone()));
                    }
                }
                Err(_) => *refused += 1,
            }
        }
        46..=55 => {
            if model
                .keys
                .get(&key)
                .is_some_and(|h| h.last().is_some_and(|(_, v)| v.is_some()))
            {
                let lsn = house.journal.delete(now, key, class);
                model.keys.entry(key).or_default().push((lsn, None));
            }
        }
        56..=75 => {
            for id in ids {
                let queue = model.queues.get_mut(&id).expect("it is there");
                let skip = house.disk.rng.below(4) as usize % 3;
                let many = house.disk.rng.below(4) as usize;
                let chosen: Vec<u64> = queue
                    .entries
                    .keys()
                    .filter(|sequence| !queue.consumed.contains(sequence))
                    .skip(skip)
                    .take(many)
                    .copied()
                    .collect();
                for sequence in chosen {
                    house.journal.consume(now, id, sequence);
                    queue.consumed.insert(sequence);
                }
            }
        }
        76..=79 => {
            house.advance(Duration::from_millis(5));
        }
        80..=84 => {
            if let Some(id) = house.disk.rng.choose(&ids).copied() {
                if house.disk.rng.chance(1, 8) {
                    house.journal.rewind(id);
                }
                let drawn = house.journal.draw(id);
                if let Draw::Ready { sequence, body, .. } = drawn {
                    let queue = &model.queues[&id];
                    assert!(
                        !queue.consumed.contains(&sequence)
                            || queue.entries.contains_key(&sequence)
                    );
                    assert_eq!(&*body, &queue.entries[&sequence].1[..], "seed {seed}");
                }
            }
        }
        _ => {
            house.turn();
            house.events.clear();
        }
    }
}

#[test]
fn nothing_synced_is_lost_and_nothing_ended_comes_back() {
    let mut cleanings = 0;
    for seed in 0..40 {
        cleanings += life(seed, 12, 700, Faults::default(), &mut |_| {}).0;
    }
    assert!(cleanings > 100, "room was made: {cleanings}");
}

/// An earlier build has written some of it, now and then.
#[test]
fn also_of_queues_that_were_all_in_memory() {
    let (mut cleanings, mut early) = (0, 0);
    for seed in 2000..2040 {
        let mut happens = |disk: &mut Disk| {
            if disk.rng.chance(1, 2) {
                early += make_early(disk);
            }
        };
        cleanings += life(seed, 12, 700, Faults::default(), &mut happens).0;
    }
    assert!(cleanings > 100, "room was made: {cleanings}");
    assert!(early > 10_000, "there was something of it: {early}");
}

#[test]
fn also_when_syncs_and_makes_fail() {
    for seed in 1000..1040 {
        life(
            seed,
            8,
            500,
            Faults {
                makes: 100,
                commits: 40,
                reads: 0,
            },
            &mut |_| {},
        );
    }
}
