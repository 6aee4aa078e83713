//! Each rule by itself.

use fieldgate::buffer::Memory;
use fieldgate::id::QueueId;
use fieldgate::journal::disk::{DiskCommand, DiskError, DiskEvent, Slot};
use fieldgate::journal::{Class, Draw, Event, Journal, Key, Refused, Settings, Target, Unusable};
use fieldgate::time::Duration;

use super::disk::Faults;
use super::house::{House, SMALL};

fn key(id: u64) -> Key {
    Key {
        kind: 1,
        id,
        sub: 0,
    }
}

fn put(house: &mut House, id: u64, body: &[u8], class: Class) -> Result<(), Refused> {
    let now = house.now;
    let target = [Target::Key {
        key: key(id),
        note: b"",
    }];
    house
        .journal
        .append(now, &target, &[body], class)
        .map(|_| ())
}

fn backlog(house: &mut House) -> QueueId {
    let id = house.journal.new_queue_id();
    let now = house.now;
    house
        .journal
        .make_queue(now, id, Class::Strict)
        .expect("there is room");
    id
}

fn enqueue(house: &mut House, queue: QueueId, body: &[u8]) -> Result<u64, Refused> {
    let now = house.now;
    let target = [Target::Queue { queue, note: b"" }];
    house.journal.append(now, &target, &[body], Class::Strict)?;
    Ok(house.journal.sequences()[0])
}

#[test]
fn nothing_is_taken_before_recovery_and_nothing_with_a_locked_folder() {
    let mut house = House::new(1, SMALL);
    assert_eq!(
        put(&mut house, 1, b"", Class::Strict),
        Err(Refused::NotReady)
    );
    let mut journal = Journal::new(SMALL, &Memory::new(0));
    assert_eq!(journal.poll_command(), Some(DiskCommand::Open));
    let locked = DiskError::Locked(Some(12));
    journal.handle_disk(house.now, DiskEvent::Opened(Err(locked.clone())));
    assert_eq!(
        journal.poll_event(),
        Some(Event::Unusable(Unusable::Disk(locked)))
    );
    assert_eq!(journal.poll_command(), None);
}

#[test]
fn strict_is_committed_at_once_an_interval_within_its_time_and_lazy_goes_along() {
    let mut house = House::started(1, SMALL);
    house.rest();
    put(&mut house, 1, b"lazy", Class::Lazy).expect("room");
    let within = Duration::from_millis(500);
    put(&mut house, 2, b"interval", Class::Interval(within)).expect("room");
    let (start, before) = (house.now.monotonic, house.journal.synced());
    house.rest();
    assert_eq!(house.journal.synced(), before);
    let due = house.journal.poll_timeout().expect("a deadline");
    assert_eq!(due.since(start), within);
    house.rest_for(within);
    assert_eq!(house.journal.synced(), house.journal.last());
    put(&mut house, 3, b"strict", Class::Strict).expect("room");
    house.rest();
    assert_eq!(house.journal.synced(), house.journal.last());
}

#[test]
fn one_commit_is_under_way_and_the_next_takes_all_that_came_meanwhile() {
    let mut house = House::started(1, SMALL);
    house.rest();
    let before = house.journal.stats().commits;
    put(&mut house, 0, b"first", Class::Strict).expect("room");
    let now = house.now;
    house.journal.end_turn(now);
    for id in 1..20 {
        put(&mut house, id, b"more", Class::Strict).expect("room");
        house.journal.end_turn(now);
    }
    house.rest();
    assert_eq!(house.journal.synced(), house.journal.last());
    assert_eq!(house.journal.stats().commits - before, 2);
}

#[test]
fn a_recovered_segment_is_never_written_to() {
    let mut house = House::started(1, SMALL);
    put(&mut house, 1, b"kept", Class::Strict).expect("room");
    house.rest();
    let mut used: Vec<(Slot, Vec<u8>)> = Vec::new();
    for slot in house.disk.slots() {
        let bytes = house.disk.bytes(slot).expect("it is there").clone();
        if bytes.windows(4).any(|window| window == b"kept") {
            used.push((slot, bytes));
        }
    }
    assert_eq!(used.len(), 1);
    let (mut house, told) = house.crash();
    assert_eq!(told.keys[&key(1)], b"kept");
    for id in 2..50 {
        put(&mut house, id, &[1; 500], Class::Strict).expect("room");
        house.rest();
    }
    let (slot, bytes) = &used[0];
    assert_eq!(house.disk.bytes(*slot), Some(&mut bytes.clone()));
}

#[test]
fn a_failed_sync_is_told_and_written_again_elsewhere() {
    let mut house = House::started(1, SMALL);
    house.rest();
    house.disk.faults = Faults {
        commits: 1000,
        ..Faults::default()
    };
    put(&mut house, 1, b"again", Class::Strict).expect("room");
    house.turn();
    assert!(matches!(
        house.events.pop_front(),
        Some(Event::CommitFailed(_))
    ));
    assert!(house.journal.synced() < house.journal.last());
    house.rest();
    assert_eq!(put(&mut house, 2, b"", Class::Strict), Err(Refused::Failed));
    house.disk.faults = Faults::default();
    house.rest_for(Duration::from_secs(120));
    assert_eq!(house.journal.synced(), house.journal.last());
    assert!(house.events.contains(&Event::Full));
    assert!(house.events.contains(&Event::Room));
    let (_, told) = house.crash();
    assert_eq!(told.keys[&key(1)], b"again");
}

#[test]
fn a_disk_that_fails_for_a_day_is_written_to_when_it_works_again() {
    for seed in 0..8 {
        let mut house = House::started(seed, SMALL);
        house.rest();
        put(&mut house, 1, b"before", Class::Strict).expect("room");
        house.rest();
        // Now and then a segment is begun, and spoilt by what is written into it.
        house.disk.faults.commits = 950;
        put(&mut house, 2, b"meanwhile", Class::Strict).expect("room");
        house.rest_for(Duration::from_secs(24 * 3600));
        house.disk.faults.commits = 0;
        house.rest_for(Duration::from_secs(120));
        assert_eq!(
            house.journal.synced(),
            house.journal.last(),
            "seed {seed}: {:?}",
            house.journal.stats()
        );
        let (_, told) = house.crash();
        assert_eq!(told.keys[&key(1)], b"before");
        assert_eq!(told.keys[&key(2)], b"meanwhile");
    }
}

#[test]
fn a_disk_without_space_is_used_as_far_as_it_goes_and_again_when_there_is_space() {
    let mut house = House::started(1, SMALL);
    house.rest();
    house.disk.faults.makes = 1000;
    let mut id = 0;
    while put(&mut house, id, &[7; 1000], Class::Strict).is_ok() {
        house.rest();
        id += 1;
    }
    house.rest();
    assert!(house.events.contains(&Event::Full));
    assert!(house.journal.stats().makes_failed > 0);
    // What ends something is taken all the same.
    let now = house.now;
    house.journal.delete(now, key(0), Class::Strict);
    house.rest();
    assert_eq!(house.journal.synced(), house.journal.last());
    house.events.clear();
    house.disk.faults.makes = 0;
    house.rest_for(Duration::from_secs(120));
    assert!(house.events.contains(&Event::Room));
    put(&mut house, 1_000_000, b"", Class::Strict).expect("there is space again");
}

#[test]
fn a_full_journal_takes_what_is_needed_to_empty_it() {
    let mut house = House::started(1, SMALL);
    let mut id = 0;
    while put(&mut house, id, &[7; 1000], Class::Strict).is_ok() {
        house.rest();
        id += 1;
    }
    let now = house.now;
    let needed = Key {
        kind: 9,
        id: 0,
        sub: 0,
    };
    let target = [Target::Key {
        key: needed,
        note: &[],
    }];
    // As often as it takes: each ends the one before.
    for round in 0..200_u32 {
        let body = round.to_le_bytes();
        let appended = house
            .journal
            .append_needed(now, &target, &[&body], Class::Strict);
        appended.expect("it is needed");
        house.rest();
        assert_eq!(house.journal.synced(), house.journal.last());
    }
    assert_eq!(
        put(&mut house, id, &[7; 1000], Class::Strict),
        Err(Refused::Full)
    );
    house.journal.delete(now, key(0), Class::Strict);
    house.rest();
    assert_eq!(house.journal.synced(), house.journal.last());
}

#[test]
fn a_full_journal_says_when_it_takes_again_what_is_needed() {
    let mut house = House::started(1, SMALL);
    let mut id = 0;
    while put(&mut house, id, &[7; 1000], Class::Strict).is_ok() {
        house.rest();
        id += 1;
    }
    let target = [Target::Key {
        key: key(0),
        note: &[],
    }];
    let need = |house: &mut House| {
        let now = house.now;
        let journal = &mut house.journal;
        journal.append_needed(now, &target, &[b"needed"], Class::Strict)
    };
    house.disk.faults.commits = 1000;
    need(&mut house).expect("it is needed");
    house.rest();
    assert_eq!(need(&mut house), Err(Refused::Failed));
    house.disk.faults.commits = 0;
    house.events.clear();
    house.rest_for(Duration::from_secs(120));
    assert!(house.events.contains(&Event::Reserve));
    assert!(!house.events.contains(&Event::Room));
    need(&mut house).expect("it is needed");
}

#[test]
fn a_full_journal_can_be_emptied_in_any_order_and_filled_again() {
    for reverse in [false, true] {
        let mut house = House::started(1, SMALL);
        let queue = backlog(&mut house);
        let mut filled = Vec::new();
        for _ in 0..3 {
            let mut entries = Vec::new();
            while let Ok(sequence) = enqueue(&mut house, queue, &[7; 700]) {
                entries.push(sequence);
                house.rest();
            }
            if reverse {
                entries.reverse();
            }
            for sequence in &entries {
                let now = house.now;
                house.journal.consume(now, queue, *sequence);
                house.rest_for(Duration::from_secs(20));
            }
            let state = house.journal.queue(queue).expect("it is there");
            assert_eq!((state.entries, state.bytes), (0, 0));
            assert_eq!(house.journal.synced(), house.journal.last());
            assert!(
                house.events.contains(&Event::Room),
                "there is room again: {:?}",
                house.journal.stats()
            );
            house.events.clear();
            filled.push(entries.len());
        }
        assert!(filled.iter().all(|count| *count > 250), "{filled:?}");
    }
}

#[test]
fn a_long_backlog_takes_little_memory_and_is_drawn_in_large_reads() {
    const ENTRIES: u64 = 1_000_000;
    let settings = Settings {
        size: 256 * 1024 * 1024,
        segment: 8 * 1024 * 1024,
    };
    let mut house = House::started(1, settings);
    let queue = backlog(&mut house);
    let mut sequence = 0;
    while sequence < ENTRIES {
        sequence = enqueue(&mut house, queue, &sequence.to_le_bytes()).expect("there is room");
        if sequence.is_multiple_of(1000) {
            house.rest();
        }
    }
    house.rest_for(Duration::from_secs(20));
    // A tenth of what ten million may take.
    let memory = house.journal.stats().memory;
    assert!(memory < 4_000_000, "{memory} bytes");
    let before = house.disk.reads;
    let mut drawn = 0_u64;
    while drawn < ENTRIES {
        match house.journal.draw(queue) {
            Draw::Ready { sequence, body, .. } => {
                assert_eq!(sequence, drawn + 1);
                assert_eq!(*body, drawn.to_le_bytes());
                drawn += 1;
            }
            Draw::Pending => house.rest(),
            Draw::Empty => panic!("{drawn} drawn"),
        }
    }
    assert_eq!(house.journal.draw(queue), Draw::Empty);
    // A block, and its 256 entries in two or three parts, as the window has room.
    let reads = house.disk.reads - before;
    assert!(reads < 4 * ENTRIES / 256, "{reads} reads");
    assert!(house.disk.read_max <= 256 * 1024);
    assert!(house.journal.stats().memory < 4_000_000);
}

#[test]
fn many_queues_that_are_drawn_from_at_once_take_little_memory() {
    const QUEUES: usize = 64;
    const ENTRIES: u64 = 300;
    let settings = Settings {
        size: 256 * 1024 * 1024,
        segment: 8 * 1024 * 1024,
    };
    let mut house = House::started(1, settings);
    let queues: Vec<QueueId> = (0..QUEUES).map(|_| backlog(&mut house)).collect();
    let body = |queue: usize, sequence: u64| {
        let mut body = vec![queue as u8; 2048];
        body[..8].copy_from_slice(&sequence.to_le_bytes());
        body
    };
    for (at, queue) in queues.iter().enumerate() {
        for sequence in 1..=ENTRIES {
            let taken = enqueue(&mut house, *queue, &body(at, sequence));
            assert_eq!(taken, Ok(sequence));
        }
        house.rest();
    }
    house.rest_for(Duration::from_secs(20));
    let mut drawn = vec![0; QUEUES];
    // As clients do that all come back at once, and take what they get slowly.
    while drawn.iter().any(|count| *count < ENTRIES) {
        for (at, queue) in queues.iter().enumerate() {
            match house.journal.draw(*queue) {
                Draw::Ready {
                    sequence, body: it, ..
                } => {
                    drawn[at] += 1;
                    assert_eq!(sequence, drawn[at]);
                    assert_eq!(*it, body(at, sequence));
                }
                Draw::Pending => {}
                Draw::Empty => assert_eq!(drawn[at], ENTRIES),
            }
        }
        house.rest();
        let memory = house.journal.stats().memory;
        assert!(memory < 12_000_000, "{memory} bytes");
    }
    assert!(house.journal.stats().reads_crowded > 0);
}

#[test]
fn device_bytes_for_each_byte_of_payload_stay_within_bounds() {
    for (batch, most) in [(1, 22.0), (20, 2.5), (100, 1.5)] {
        let settings = Settings {
            size: 256 * 1024 * 1024,
            segment: 8 * 1024 * 1024,
        };
        let mut house = House::started(1, settings);
        let queue = backlog(&mut house);
        house.rest();
        let before = house.journal.stats().bytes_written;
        let messages = 20_000;
        for count in 0..messages {
            enqueue(&mut house, queue, &[7; 200]).expect("there is room");
            if (count + 1) % batch == 0 {
                house.rest();
            }
        }
        house.rest();
        let written = house.journal.stats().bytes_written - before;
        let ratio = written as f64 / f64::from(200 * messages);
        assert!(ratio <= most, "{batch} a commit: {ratio}");
    }
}
