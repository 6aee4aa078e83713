//! What cannot be read, what is put aside or removed, and what is too much at once.

use fieldgate::id::QueueId;
use fieldgate::journal::disk::Slot;
use fieldgate::journal::{
    BLOCK, Class, Damage, Draw, Event, Found, Key, Refused, Settings, Target, UNSYNCED_MAX, inspect,
};
use fieldgate::time::Duration;

use super::house::{House, SMALL, Told};

const LONG: Duration = Duration::from_secs(60);

fn key(id: u64) -> Key {
    Key {
        kind: 1,
        id,
        sub: 0,
    }
}

fn put(house: &mut House, id: u64, body: &[u8]) -> Result<(), Refused> {
    let (now, key) = (house.now, key(id));
    let target = [Target::Key { key, note: b"" }];
    let appended = house.journal.append(now, &target, &[body], Class::Strict);
    appended.map(|_| ())
}

/// A queue with so many entries on the disk, each its own number less one, after a start.
fn backlog(entries: u64) -> (House, QueueId) {
    let mut house = House::started(1, SMALL);
    let (queue, now) = (house.journal.new_queue_id(), house.now);
    house
        .journal
        .make_queue(now, queue, Class::Strict)
        .expect("there is room");
    for count in 0..entries {
        let (now, target) = (house.now, [Target::Queue { queue, note: b"" }]);
        house
            .journal
            .append(now, &target, &[&count.to_le_bytes()], Class::Strict)
            .expect("there is room");
        if count % 100 == 0 {
            house.rest();
        }
    }
    house.rest();
    let (mut house, told) = house.crash();
    assert_eq!(told.queues[&queue].entries, entries);
    house.rest();
    house.events.clear();
    (house, queue)
}

/// Draws what can be drawn.
fn draw_all(house: &mut House, queue: QueueId) -> Vec<u64> {
    let mut drawn = Vec::new();
    loop {
        match house.journal.draw(queue) {
            Draw::Ready { sequence, body, .. } => {
                assert_eq!(*body, (sequence - 1).to_le_bytes());
                drawn.push(sequence);
            }
            Draw::Pending => {
                house.rest();
                let is_told = house.events.contains(&Event::Drawable(queue));
                assert!(is_told, "nobody is left waiting");
                house.events.clear();
            }
            Draw::Empty => return drawn,
        }
    }
}

/// Lets time pass, second by second, until so many reads have failed.
fn until_failed(house: &mut House, reads: u64) {
    for _ in 0..100 {
        house.rest();
        if house.journal.stats().reads_failed >= reads {
            return;
        }
        house.advance(Duration::from_secs(1));
    }
    panic!("{:?}", house.journal.stats());
}

#[test]
fn a_fetch_that_fails_is_tried_again() {
    let (mut house, queue) = backlog(3);
    house.disk.faults.reads = 1000;
    assert_eq!(house.journal.draw(queue), Draw::Pending);
    until_failed(&mut house, 3);
    let waits = house.journal.poll_timeout();
    assert!(waits.is_some(), "it does not spin");
    assert_eq!(house.journal.draw(queue), Draw::Pending);
    house.disk.faults.reads = 0;
    house.rest_for(LONG);
    assert!(house.events.contains(&Event::Drawable(queue)));
    house.events.clear();
    assert_eq!(draw_all(&mut house, queue), [1, 2, 3]);
    let stats = house.journal.stats();
    assert_eq!((stats.reads_failed, stats.entries_lost), (3, 0));
}

#[test]
fn an_entry_that_cannot_be_read_is_given_up_counted_and_told() {
    let (mut house, queue) = backlog(3);
    house.disk.faults.reads = 1000;
    assert_eq!(house.journal.draw(queue), Draw::Pending);
    // One for all that would be read, and three for the first entry alone.
    until_failed(&mut house, 4);
    house.disk.faults.reads = 0;
    house.rest_for(LONG);
    let damaged = house.events.iter().find_map(|event| match event {
        Event::Damaged { slot, what } => Some((slot.is_some(), *what)),
        _ => None,
    });
    assert_eq!(damaged, Some((true, Damage::Entry(queue, 1))));
    assert!(house.events.contains(&Event::Drawable(queue)));
    house.events.clear();
    let stats = house.journal.stats();
    assert_eq!((stats.reads_failed, stats.entries_lost), (4, 1));
    assert_eq!(draw_all(&mut house, queue), [2, 3]);
    // It does not come back.
    house.rest_for(LONG);
    let (_, told) = house.crash();
    let state = told.queues[&queue];
    assert_eq!((state.head, state.entries), (2, 2));
}

/// A block is the only way to its entries.
#[test]
fn a_block_that_cannot_be_read_takes_its_entries_along() {
    const ENTRIES: u64 = 600;
    let (mut house, queue) = backlog(ENTRIES);
    house.disk.faults.reads = 1000;
    let mut lost = 0;
    for _ in 0..100 {
        assert_eq!(house.journal.draw(queue), Draw::Pending);
        house.rest();
        house.advance(Duration::from_secs(1));
        lost = house.journal.stats().entries_lost;
        if lost > 0 {
            break;
        }
    }
    assert!(lost > 0, "{:?}", house.journal.stats());
    house.disk.faults.reads = 0;
    house.rest_for(LONG);
    house.events.clear();
    let drawn = draw_all(&mut house, queue);
    let lost = house.journal.stats().entries_lost;
    assert_eq!(drawn.len() as u64 + lost, ENTRIES);
    assert_eq!(drawn, (lost + 1..=ENTRIES).collect::<Vec<u64>>());
    assert!(lost > 1 && lost < ENTRIES, "a run of them: {lost}");
}

/// Starts again on the same disk with another configuration.
fn restarted(house: House, settings: Settings) -> (House, Told) {
    let mut disk = house.disk;
    disk.crash();
    let mut house = House::on(disk, settings);
    let told = house.recover();
    (house, told)
}

const HALF: Settings = Settings {
    size: SMALL.size / 2,
    segment: SMALL.segment,
};

/// A journal that takes nothing more, and how many values are in it.
fn full() -> (House, u64) {
    let mut house = House::started(1, SMALL);
    let mut count = 0;
    while put(&mut house, count, &[7; 1000]).is_ok() {
        house.rest();
        count += 1;
    }
    house.rest();
    (house, count)
}

#[test]
fn a_smaller_journal_is_emptied_before_its_files_are_removed() {
    let (house, count) = full();
    let most = HALF.size / u64::from(HALF.segment);
    assert!(house.disk.slots().len() as u64 > most);
    let (mut house, told) = restarted(house, HALF);
    assert_eq!(told.keys.len() as u64, count, "nothing is lost by it");
    house.rest();
    let outside = |house: &House| {
        let slots = house.disk.slots().into_iter();
        slots.filter(|slot| u64::from(slot.0) >= most).count()
    };
    assert!(outside(&house) > 0, "what lives there is kept");
    for id in 0..count {
        let now = house.now;
        house.journal.delete(now, key(id), Class::Strict);
        house.rest_for(LONG);
    }
    assert_eq!(outside(&house), 0);
    put(&mut house, 0, b"room").expect("there is room again");
    house.rest();
    let (_, told) = house.crash();
    assert_eq!(told.keys.len(), 1);
}

#[test]
fn files_in_which_nothing_lives_are_removed_at_the_start() {
    let mut house = House::started(1, SMALL);
    let most = HALF.size / u64::from(HALF.segment);
    put(&mut house, 1, b"kept").expect("there is room");
    house.rest();
    // As a journal that was full once would have them.
    for slot in most as u32..16 {
        house.disk.put(Slot(slot), vec![0; SMALL.segment as usize]);
    }
    let (mut house, told) = restarted(house, HALF);
    assert_eq!(told.keys[&key(1)], b"kept");
    house.rest();
    let slots = house.disk.slots();
    assert!(
        slots.iter().all(|slot| u64::from(slot.0) < most),
        "{slots:?}"
    );
}

/// Segments of the log, the youngest last, with the offsets of their batches.
fn log(house: &mut House) -> Vec<(Slot, Vec<u32>)> {
    let mut log = Vec::new();
    for slot in house.disk.slots() {
        let bytes = house.disk.bytes(slot).expect("it is there");
        let (mut order, mut batches) = (0, Vec::new());
        inspect(bytes, &mut |found| match found {
            Found::Segment { sequence, .. } => order = sequence,
            Found::Batch { offset, .. } => batches.push(offset),
            _ => {}
        });
        if !batches.is_empty() {
            log.push((order, slot, batches));
        }
    }
    log.sort();
    log.into_iter()
        .map(|(_, slot, batches)| (slot, batches))
        .collect()
}

#[test]
fn a_segment_without_a_header_is_set_aside_at_the_start() {
    let mut house = House::started(1, SMALL);
    for id in 0..40 {
        put(&mut house, id, &[7; 1000]).expect("there is room");
        house.rest();
    }
    let (spoilt, _) = log(&mut house)[0];
    let bytes = house.disk.bytes(spoilt).expect("it is there");
    bytes[..2 * BLOCK as usize].fill(0xA5);
    let spoilt_bytes = bytes.clone();
    house.disk.put(spoilt, spoilt_bytes);
    let (mut house, told) = restarted(house, SMALL);
    assert!(!told.keys.is_empty() && told.keys.len() < 40);
    house.rest();
    assert_eq!(house.disk.set_aside, [spoilt]);
    let stats = house.journal.stats();
    assert_eq!((stats.set_aside, stats.damaged), (1, 1));
    // The slot gets a new file when one is needed.
    for id in 100..400 {
        put(&mut house, id, &[7; 1000]).ok();
        house.rest();
    }
    assert!(house.disk.slots().contains(&spoilt));
}

#[test]
fn damaged_segments_are_set_aside_when_nothing_lives_in_them_and_not_too_many() {
    let (mut house, count) = full();
    let mut spoilt = Vec::new();
    for (slot, batches) in log(&mut house).into_iter().take(6) {
        // In the first batch's record: the second says that it was synced.
        assert!(batches.len() > 1);
        let bytes = house.disk.bytes(slot).expect("it is there");
        bytes[batches[0] as usize + 100] ^= 1;
        let bytes = bytes.clone();
        house.disk.put(slot, bytes);
        spoilt.push(slot);
    }
    assert_eq!(spoilt.len(), 6);
    let (mut house, told) = restarted(house, SMALL);
    assert_eq!(told.keys.len() as u64, count - 6);
    house.rest();
    assert!(
        house.disk.set_aside.is_empty(),
        "what lives there is read first"
    );
    for id in 0..count {
        let now = house.now;
        house.journal.delete(now, key(id), Class::Strict);
        house.rest_for(LONG);
    }
    let aside = &house.disk.set_aside;
    assert_eq!(aside.len(), 4, "the disk is not filled with them");
    assert!(aside.iter().all(|slot| spoilt.contains(slot)), "{aside:?}");
    assert_eq!(house.journal.stats().set_aside, 4);
}

#[test]
fn a_record_that_no_segment_holds_is_refused_and_the_largest_is_kept() {
    let mut house = House::started(1, SMALL);
    house.rest();
    let whole = (SMALL.segment - 2 * BLOCK) as usize;
    // Length, checksum, what it is, how many targets; a target with its key.
    let most = whole - (8 + 1 + 2) - (1 + 2 + 17);
    let (small, large) = (vec![7; most], vec![7; most + 1]);
    assert_eq!(put(&mut house, 1, &large), Err(Refused::TooLarge));
    let (now, note) = (house.now, vec![0; 65_536]);
    let key_of = key(2);
    let target = [Target::Key {
        key: key_of,
        note: &note,
    }];
    let refused = house.journal.append(now, &target, &[], Class::Strict);
    assert_eq!(refused, Err(Refused::TooLarge));
    assert_eq!(house.journal.stats().refused_too_large, 2);
    // The journal is not full for that.
    house.rest();
    assert!(!house.events.contains(&Event::Full));
    for id in 3..6 {
        put(&mut house, id, &small).expect("it fits");
        house.rest();
    }
    let (_, told) = house.crash();
    assert_eq!(told.keys.len(), 3);
    assert!(told.keys.values().all(|body| *body == small));
}

#[test]
fn too_much_that_waits_for_the_disk_is_refused_until_it_is_synced() {
    let settings = Settings {
        size: 256 * 1024 * 1024,
        segment: 8 * 1024 * 1024,
    };
    let mut house = House::started(1, settings);
    house.rest();
    let body = vec![7; 10_000];
    let mut taken = 0;
    let refused = loop {
        // The disk does not answer.
        let now = house.now;
        house.journal.end_turn(now);
        match put(&mut house, taken, &body) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, Refused::Full);
    assert_eq!(house.journal.stats().refused_behind, 1);
    let now = house.now;
    house.journal.end_turn(now);
    let unsynced = house.journal.stats().unsynced;
    assert!(unsynced <= UNSYNCED_MAX, "{unsynced}");
    assert!(unsynced > UNSYNCED_MAX - 2 * body.len(), "{unsynced}");
    let memory = house.journal.stats().memory;
    assert!(memory < 3 * UNSYNCED_MAX, "{memory}");
    house.rest();
    assert!(house.events.contains(&Event::Full));
    assert!(house.events.contains(&Event::Room));
    put(&mut house, taken, &body).expect("there is room again");
    house.rest();
    let (_, told) = house.crash();
    assert_eq!(told.keys.len() as u64, taken + 1);
}
