//! Looking at a queue while it is drawn, filled, moved and read badly: nothing of it is taken.

use std::collections::BTreeSet;

use fieldgate::id::QueueId;
use fieldgate::journal::{Class, Draw, Event, LOOKS_MAX, Looked, Target};

use super::house::{House, SMALL};

/// One that is started, with an empty queue.
fn started() -> (House, QueueId) {
    let mut house = House::started(1, SMALL);
    let (queue, now) = (house.journal.new_queue_id(), house.now);
    house
        .journal
        .make_queue(now, queue, Class::Strict)
        .expect("there is room");
    (house, queue)
}

/// Puts so many entries in, each its own number less one.
fn fill(house: &mut House, queue: QueueId, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let (now, target) = (house.now, [Target::Queue { queue, note: b"n" }]);
        house
            .journal
            .append(now, &target, &[&number.to_le_bytes()], Class::Strict)
            .expect("there is room");
        if number % 100 == 0 {
            house.rest();
        }
    }
}

fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body.try_into().expect("eight bytes"))
}

/// One piece.
fn look(house: &mut House, queue: QueueId, from: u64) -> Looked {
    assert!(house.journal.look(7, queue, from), "it may look");
    house.rest();
    let mut looked = None;
    house.events.retain(|event| match event {
        Event::Looked(it) => {
            assert!(looked.replace(it.clone()).is_none(), "one answer");
            false
        }
        _ => true,
    });
    let looked = looked.expect("an answer");
    assert_eq!(looked.ask, 7);
    looked
}

/// All of it, and how many could not be read.
fn look_through(house: &mut House, queue: QueueId) -> (Vec<u64>, u64) {
    let (mut found, mut unreadable, mut next) = (Vec::new(), 0, Some(0));
    while let Some(from) = next {
        let looked = look(house, queue, from);
        assert!(looked.entries.len() <= 256);
        for entry in &looked.entries {
            assert!(entry.sequence >= from && &entry.note[..] == b"n");
            assert_eq!(number(&entry.body), entry.sequence - 1);
            found.push(entry.sequence);
        }
        unreadable += looked.unreadable;
        assert!(looked.next.is_none_or(|next| next > from));
        next = looked.next;
    }
    (found, unreadable)
}

#[test]
fn a_look_sees_all_in_order_and_whoever_draws_notices_nothing() {
    const ENTRIES: u64 = 2000;
    let (mut house, queue) = started();
    fill(&mut house, queue, 0..ENTRIES);
    // The last ones are in memory still.
    let all: Vec<u64> = (1..=ENTRIES).collect();
    assert_eq!(look_through(&mut house, queue), (all.clone(), 0));
    house.rest();
    assert_eq!(look_through(&mut house, queue), (all.clone(), 0));

    let (mut house, told) = house.crash();
    assert_eq!(told.queues[&queue].entries, ENTRIES);
    house.rest();
    assert_eq!(look_through(&mut house, queue), (all.clone(), 0));
    // While it is drawn, a piece in between; a third of it is consumed.
    let mut from = 0;
    for expected in all {
        let drawn = loop {
            match house.journal.draw(queue) {
                Draw::Ready { sequence, .. } => break sequence,
                Draw::Pending => house.rest(),
                Draw::Empty => panic!("{expected} is not there"),
            }
        };
        assert_eq!(drawn, expected);
        if drawn % 3 == 0 {
            let now = house.now;
            house.journal.consume(now, queue, drawn);
        }
        if drawn % 50 == 0 {
            from = look(&mut house, queue, from).next.unwrap_or(0);
        }
    }
    assert_eq!(house.journal.draw(queue), Draw::Empty);
    let (found, unreadable) = look_through(&mut house, queue);
    assert_eq!(unreadable, 0);
    let left = (1..=ENTRIES).filter(|sequence| sequence % 3 != 0);
    assert_eq!(found, left.collect::<Vec<_>>());
}

/// Cleaning moves what lives out of segments that others use again.
#[test]
fn a_look_finds_what_was_moved() {
    let (mut house, queue) = started();
    let mut kept = BTreeSet::new();
    let mut from = 0;
    for round in 0..60_u64 {
        fill(&mut house, queue, round * 200..(round + 1) * 200);
        for sequence in round * 200 + 1..=(round + 1) * 200 {
            if sequence % 20 == 0 {
                kept.insert(sequence);
            } else {
                let now = house.now;
                house.journal.consume(now, queue, sequence);
            }
        }
        // One that goes on while segments are emptied.
        assert!(house.journal.look(7, queue, from));
        house.rest();
        house.events.retain(|event| match event {
            Event::Looked(looked) => {
                for entry in &looked.entries {
                    assert!(kept.contains(&entry.sequence), "{}", entry.sequence);
                }
                from = looked.next.unwrap_or(0);
                false
            }
            _ => true,
        });
    }
    assert!(house.journal.stats().cleanings > 0, "something was moved");
    let (found, unreadable) = look_through(&mut house, queue);
    assert_eq!((found, unreadable), (kept.into_iter().collect(), 0));
}

#[test]
fn what_cannot_be_read_is_passed_over_and_stays_where_it_is() {
    const ENTRIES: u64 = 600;
    let (mut house, queue) = started();
    fill(&mut house, queue, 0..ENTRIES);
    house.rest();
    let (mut house, _) = house.crash();
    house.rest();
    house.disk.faults.reads = 1000;
    let (found, unreadable) = look_through(&mut house, queue);
    assert_eq!(
        (found, unreadable),
        (vec![], ENTRIES),
        "a failing disk ends it too"
    );
    house.disk.faults.reads = 0;
    let (found, unreadable) = look_through(&mut house, queue);
    assert_eq!((found.len() as u64, unreadable), (ENTRIES, 0));
    house.disk.faults.reads = 300;
    let (found, unreadable) = look_through(&mut house, queue);
    assert_eq!(found.len() as u64 + unreadable, ENTRIES);
    assert_eq!(house.journal.stats().entries_lost, 0);
}

#[test]
fn what_is_no_queue_is_not_looked_at_and_neither_are_too_many_at_once() {
    let (mut house, queue) = started();
    assert!(!house.journal.look(1, QueueId(queue.0 + 1), 0), "nobody's");
    assert!(
        !House::new(2, SMALL).journal.look(1, queue, 0),
        "not read yet"
    );
    let looked = look(&mut house, queue, 0);
    assert_eq!((looked.entries.len(), looked.next), (0, None));
    fill(&mut house, queue, 0..300);
    house.rest();
    let (mut house, _) = house.crash();
    house.rest();
    for ask in 0..LOOKS_MAX as u64 {
        assert!(house.journal.look(ask, queue, ask));
    }
    assert!(!house.journal.look(99, queue, 0));
    // A queue that is dropped ends them.
    let now = house.now;
    house.journal.drop_queue(now, queue, Class::Strict);
    house.rest();
    let is_look = |event: &&Event| matches!(event, Event::Looked(it) if it.next.is_none());
    assert_eq!(house.events.iter().filter(is_look).count(), LOOKS_MAX);
}
