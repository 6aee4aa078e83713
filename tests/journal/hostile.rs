//! Bytes that nobody wrote: recovery ends, inspection ends, nothing panics.

use fieldgate::journal::disk::{DiskCommand, Slot};
use fieldgate::journal::{Class, Draw, Event, Found, Key, Target, Unusable, inspect};
use fieldgate::time::Duration;
use proptest::prelude::*;

use super::disk::Disk;
use super::early::make_early;
use super::house::{House, SMALL};
use super::tags;

/// A disk with some of everything on it.
fn filled(seed: u64) -> Disk {
    let mut house = House::started(seed, SMALL);
    let now = house.now;
    let mut queues = Vec::new();
    for _ in 0..2 {
        let id = house.journal.new_queue_id();
        let made = house.journal.make_queue(now, id, Class::Strict);
        made.expect("there is room");
        queues.push(id);
    }
    for round in 0..150_u64 {
        let key = Key {
            kind: 1,
            id: round % 20,
            sub: 0,
        };
        let targets = [
            Target::Key { key, note: b"n" },
            Target::Queue {
                queue: queues[(round % 2) as usize],
                note: b"q",
            },
        ];
        let now = house.now;
        // What is refused is not there: that is fine here.
        let _ = house
            .journal
            .append(now, &targets, &[&[round as u8; 300]], Class::Strict);
        if round % 9 == 0 {
            house.journal.delete(now, key, Class::Lazy);
        }
        house.turn();
        house.turn();
        house.events.clear();
    }
    house.rest();
    house.disk.crash();
    // Half of them as an earlier build has written them.
    if seed.is_multiple_of(2) {
        make_early(&mut house.disk);
    }
    house.disk
}

fn look(disk: &mut Disk) {
    for slot in disk.slots() {
        let bytes = disk.bytes(slot).expect("it is there").clone();
        let mut ends = 0;
        inspect(&bytes, &mut |found| {
            ends += u32::from(matches!(found, Found::End { .. } | Found::NewerVersion(_)));
        });
        assert_eq!(ends, 1, "an inspection ends, once");
    }
}

/// Starts on it, draws everything, and writes a little.
fn live(disk: Disk) {
    let mut house = House::on(disk, SMALL);
    let told = house.recover();
    if told.summary.is_none() {
        return;
    }
    for id in told.queues.keys() {
        let mut drawn = 0;
        while drawn < 10_000 {
            match house.journal.draw(*id) {
                Draw::Ready { .. } => drawn += 1,
                Draw::Pending => {
                    house.rest_for(Duration::from_secs(5));
                    assert!(house.events.contains(&Event::Drawable(*id)));
                    house.events.clear();
                }
                Draw::Empty => break,
            }
        }
    }
    for key in told.keys.keys() {
        let now = house.now;
        house.journal.delete(now, *key, Class::Strict);
    }
    house.rest_for(Duration::from_secs(60));
    assert_eq!(house.journal.synced(), house.journal.last());
}

#[test]
fn a_newer_version_is_refused_and_nothing_is_written() {
    let mut disk = filled(3);
    // The version and the checksum of the first twelve bytes, as version 2 would have them.
    let slot = disk.slots()[0];
    let bytes = disk.bytes(slot).expect("it is there");
    bytes[8] = 2;
    let guard = tags::crc32c_bitwise(&bytes[..12]);
    bytes[12..16].copy_from_slice(&guard.to_le_bytes());
    let mut house = House::on(disk, SMALL);
    let commits = house.disk.commits;
    let mut unusable = None;
    while house.turn() {
        for event in house.events.drain(..) {
            if let Event::Unusable(why) = event {
                unusable = Some(why);
            }
        }
    }
    assert_eq!(unusable, Some(Unusable::NewerVersion { slot, version: 2 }));
    house.rest_for(Duration::from_secs(60));
    assert_eq!(house.disk.commits, commits);
    let key = Key {
        kind: 0,
        id: 0,
        sub: 0,
    };
    let now = house.now;
    let target = [Target::Key { key, note: b"" }];
    let refused = house.journal.append(now, &target, &[], Class::Strict);
    assert!(refused.is_err());
    assert_eq!(house.journal.poll_command(), None::<DiskCommand>);
}

#[test]
fn damage_is_told_from_a_torn_tail() {
    let mut disk = filled(7);
    let mut spoilt = None;
    for slot in disk.slots() {
        let bytes = disk.bytes(slot).expect("it is there");
        let mut batches = Vec::new();
        inspect(bytes, &mut |found| {
            if let Found::Batch { offset, .. } = found {
                batches.push(offset);
            }
        });
        if batches.len() >= 3 {
            bytes[batches[1] as usize + 100] ^= 1;
            spoilt = Some(slot);
            break;
        }
    }
    let spoilt = spoilt.expect("a segment with several batches");
    let mut house = House::on(disk, SMALL);
    let mut damaged = Vec::new();
    let mut summary = None;
    while summary.is_none() && house.turn() {
        for event in house.events.drain(..) {
            match event {
                Event::Damaged { slot, .. } => damaged.push(slot),
                Event::RecoveryDone(done) => summary = Some(done),
                _ => {}
            }
        }
    }
    let summary = summary.expect("recovery always starts the gateway");
    assert_eq!(damaged, [Some(spoilt)]);
    assert_eq!((summary.damaged, summary.torn), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_change_of_a_written_disk_is_survived(
        seed in 0..20_u64,
        changes in prop::collection::vec((any::<u32>(), any::<u32>(), 0..600_usize, any::<u8>()), 1..12),
    ) {
        let mut disk = filled(seed);
        let slots = disk.slots();
        for (which, at, len, with) in changes {
            let slot = slots[which as usize % slots.len()];
            let bytes = disk.bytes(slot).expect("it is there");
            // Most of it within what is used.
            let at = at as usize % bytes.len();
            let end = (at + len).min(bytes.len());
            bytes[at..end].fill(with);
        }
        look(&mut disk);
        live(disk);
    }

    #[test]
    fn segments_of_any_bytes_and_sizes_are_survived(
        files in prop::collection::vec((0..40_u32, prop::collection::vec(any::<u8>(), 0..20_000)), 0..6),
    ) {
        let mut disk = Disk::new(1);
        for (slot, bytes) in files {
            disk.put(Slot(slot), bytes);
        }
        look(&mut disk);
        live(disk);
    }
}
