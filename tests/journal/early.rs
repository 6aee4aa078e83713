//! What an earlier build has kept of a queue that was all in memory: it is a queue like any other.

use std::collections::BTreeMap;

use fieldgate::id::QueueId;
use fieldgate::journal::disk::Slot;
use fieldgate::journal::{BLOCK, Class, Draw, Event, Key, QueueState, RESERVE, Target};
use fieldgate::time::Duration;

use super::disk::Disk;
use super::house::{House, SMALL};
use super::tags;

const QUEUE: QueueId = QueueId(7);
const EPOCH: u64 = 5;
const KEY: Key = Key {
    kind: 1,
    id: 9,
    sub: 4,
};

/// A segment of that build with one batch, by the table of the format.
struct Segment {
    sequence: u64,
    records: Vec<u8>,
}

impl Segment {
    fn new(sequence: u64) -> Self {
        Self {
            sequence,
            records: Vec::new(),
        }
    }

    fn record(&mut self, says: &[u8]) {
        let mut record = (says.len() as u32 + 8).to_le_bytes().to_vec();
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(says);
        let offset = BLOCK as usize + 64 + self.records.len();
        tags::sign(&mut record, (EPOCH, self.sequence), offset);
        self.records.extend_from_slice(&record);
    }

    /// Everything below `head` is consumed.
    fn state(mut self, head: u64, next: u64) -> Self {
        let mut says = vec![3];
        says.extend_from_slice(&QUEUE.0.to_le_bytes());
        says.push(tags::EARLY);
        says.extend_from_slice(&head.to_le_bytes());
        says.extend_from_slice(&next.to_le_bytes());
        self.record(&says);
        self
    }

    /// An entry with a note, whose body is its number.
    fn entry(mut self, number: u64) -> Self {
        let mut says = vec![1, 1, 0];
        says.extend_from_slice(&early_entry(number));
        says.extend_from_slice(&number.to_le_bytes());
        self.record(&says);
        self
    }

    /// The same, which is the value of a key too.
    fn entry_and_value(mut self, number: u64) -> Self {
        let mut says = vec![1, 2, 0, 1, 0, 0, KEY.kind];
        says.extend_from_slice(&KEY.id.to_le_bytes());
        says.extend_from_slice(&KEY.sub.to_le_bytes());
        says.extend_from_slice(&early_entry(number));
        says.extend_from_slice(&number.to_le_bytes());
        self.record(&says);
        self
    }

    /// In the slot before its sequence, as all of those before it are.
    fn put(self, disk: &mut Disk) {
        let mut bytes = vec![0; SMALL.segment as usize];
        let header = BLOCK as usize;
        bytes[..8].copy_from_slice(b"FGJRNSEG");
        bytes[8] = 1;
        put_number(&mut bytes[24..], EPOCH);
        put_number(&mut bytes[32..], self.sequence);
        put_number(&mut bytes[40..], QUEUE.0 + 1);
        put_number(&mut bytes[64..], (1 << (self.sequence - 1)) - 1);
        put_checksum(&mut bytes, 12, 0..12);
        put_checksum(&mut bytes, 16, 24..header);
        let batch = &mut bytes[header..];
        batch[..8].copy_from_slice(b"FGJRNBAT");
        batch[12..16].copy_from_slice(&(self.records.len() as u32).to_le_bytes());
        put_number(&mut batch[16..], EPOCH);
        put_number(&mut batch[24..], self.sequence);
        put_number(&mut batch[32..], self.sequence);
        put_number(&mut batch[40..], self.sequence - 1);
        put_number(&mut batch[48..], QUEUE.0 + 1);
        put_checksum(batch, 8, 12..64);
        batch[64..64 + self.records.len()].copy_from_slice(&self.records);
        disk.put(Slot(self.sequence as u32 - 1), bytes);
    }
}

/// The target: its note is `n`.
fn early_entry(number: u64) -> Vec<u8> {
    let mut says = vec![tags::EARLY, 1, 0];
    says.extend_from_slice(&QUEUE.0.to_le_bytes());
    says.extend_from_slice(&number.to_le_bytes());
    says.push(b'n');
    says
}

/// A disk as an earlier build would have written it; how many tags were others.
pub fn make_early(disk: &mut Disk) -> usize {
    let mut count = 0;
    for slot in disk.slots() {
        let mut segment = disk.bytes(slot).expect("it is there").clone();
        count += tags::make_early(&mut segment);
        disk.put(slot, segment);
    }
    count
}

fn put_number(bytes: &mut [u8], number: u64) {
    bytes[..8].copy_from_slice(&number.to_le_bytes());
}

fn put_checksum(bytes: &mut [u8], at: usize, of: core::ops::Range<usize>) {
    let sum = tags::crc32c_bitwise(&bytes[of]);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Seven entries, 4 to 10, in the order in which cleaning has left them, with what was consumed of
/// the queue still there.
fn kept() -> Disk {
    let mut disk = Disk::new(1);
    let first = Segment::new(1).state(1, 1).entry(1).entry(2).entry(3);
    first.entry(4).entry_and_value(5).entry(6).put(&mut disk);
    // Entry 5 is copied with 7 and 8, of a segment that is no more: before them is what came then.
    let second = Segment::new(2).entry(9).entry(7).entry(8);
    second.state(3, 10).entry_and_value(5).put(&mut disk);
    // What the state was changed for, when its batch was already that long.
    let third = Segment::new(3).entry(10).state(4, 11).entry(3).entry(6);
    third.put(&mut disk);
    disk
}

/// All that is in the queue, drawn.
fn drawn(house: &mut House) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        match house.journal.draw(QUEUE) {
            Draw::Ready {
                sequence,
                note,
                body,
            } => {
                assert_eq!(&note[..], b"n");
                all.push((sequence, body.to_vec()));
            }
            Draw::Pending => {
                house.rest();
                assert!(house.events.contains(&Event::Drawable(QUEUE)));
                house.events.clear();
            }
            Draw::Empty => return all,
        }
    }
}

fn numbered(numbers: core::ops::RangeInclusive<u64>) -> Vec<(u64, Vec<u8>)> {
    let body = |number: u64| number.to_le_bytes().to_vec();
    numbers.map(|number| (number, body(number))).collect()
}

#[test]
fn a_queue_that_was_all_in_memory_is_drawn_in_order_from_its_head() {
    let mut house = House::on(kept(), SMALL);
    let told = house.recover();
    let summary = told.summary.expect("it opens");
    assert_eq!((summary.damaged, summary.torn), (0, 0));
    assert_eq!((summary.queues, summary.entries), (1, 7));
    let value = 5_u64.to_le_bytes().to_vec();
    assert_eq!(told.keys, BTreeMap::from([(KEY, value.clone())]));
    let QueueState {
        head,
        next,
        entries,
        ..
    } = told.queues[&QUEUE];
    assert_eq!((head, next, entries), (4, 11, 7));
    assert_eq!(drawn(&mut house), numbered(4..=10));

    // It goes on like any other: consumed, added to, and with an end that outlives the power.
    let now = house.now;
    for number in 4..=6 {
        house.journal.consume(now, QUEUE, number);
    }
    let target = [Target::Queue {
        queue: QUEUE,
        note: b"n",
    }];
    let body = 11_u64.to_le_bytes();
    let appended = house.journal.append(now, &target, &[&body], Class::Strict);
    appended.expect("there is room");
    assert_eq!(house.journal.sequences(), [11]);
    house.rest_for(Duration::from_secs(60));
    let (mut house, told) = house.crash();
    let summary = told.summary.expect("it opens");
    assert_eq!((summary.damaged, summary.torn), (0, 0));
    assert_eq!(told.keys, BTreeMap::from([(KEY, value)]));
    let state = told.queues[&QUEUE];
    assert_eq!((state.head, state.next, state.entries), (7, 12, 5));
    assert_eq!(drawn(&mut house), numbered(7..=11));
}

#[test]
fn what_is_written_now_has_one_tag() {
    let mut house = House::on(kept(), SMALL);
    house.recover();
    let early = house.disk.slots();
    let now = house.now;
    house.journal.consume(now, QUEUE, 4);
    let target = [Target::Queue {
        queue: QUEUE,
        note: b"",
    }];
    let appended = house.journal.append(now, &target, &[b"new"], Class::Strict);
    appended.expect("there is room");
    house.rest_for(Duration::from_secs(60));
    let mut found = Vec::new();
    for slot in house.disk.slots() {
        let segment = house.disk.bytes(slot).expect("it is there");
        let tags = tags::tags(segment).into_iter().flat_map(|(_, tags)| tags);
        found.extend(tags.map(|at| (early.contains(&slot), segment[at])));
    }
    assert_eq!(
        found.iter().filter(|(is_early, _)| !is_early).count(),
        2,
        "a state and an entry: {found:?}"
    );
    for (is_early, tag) in found {
        assert_eq!(tag, if is_early { tags::EARLY } else { tags::NOW });
    }
}

/// That build wrote no lists of places: those of everything that it left would not go into what is
/// free.
#[test]
fn a_full_journal_without_blocks_can_be_emptied_and_filled_again() {
    let slots = (SMALL.size / u64::from(SMALL.segment)) as u32;
    let mut disk = Disk::new(1);
    let mut count = 0;
    for sequence in 1..=u64::from(slots - RESERVE) {
        let mut segment = Segment::new(sequence);
        if sequence == 1 {
            segment = segment.state(1, 1);
        }
        while segment.records.len() < (SMALL.segment - 2 * BLOCK) as usize {
            count += 1;
            segment = segment.entry(count);
        }
        segment.put(&mut disk);
    }
    let mut house = House::on(disk, SMALL);
    let told = house.recover();
    assert_eq!(told.queues[&QUEUE].entries, count);
    // Others go on meanwhile, as far as there is room.
    for id in 0..5 {
        let (now, key) = (house.now, Key { id, ..KEY });
        let target = [Target::Key { key, note: b"" }];
        let journal = &mut house.journal;
        let appended = journal.append_needed(now, &target, &[b"x"], Class::Strict);
        appended.expect("it is needed");
        house.rest_for(Duration::from_secs(60));
        let journal = &house.journal;
        assert_eq!(journal.synced(), journal.last(), "{:?}", journal.stats());
    }
    assert_eq!(drawn(&mut house), numbered(1..=count));
    for number in 1..=count {
        let now = house.now;
        house.journal.consume(now, QUEUE, number);
        if number % 100 == 0 {
            house.rest_for(Duration::from_secs(60));
        }
    }
    house.rest_for(Duration::from_secs(60));
    let (mut house, told) = house.crash();
    assert_eq!(told.summary.map(|it| it.damaged), Some(0));
    assert_eq!(told.queues[&QUEUE].entries, 0);
    let target = [Target::Queue {
        queue: QUEUE,
        note: b"n",
    }];
    for number in count + 1..=count + count / 2 {
        let (now, body) = (house.now, number.to_le_bytes());
        let appended = house.journal.append(now, &target, &[&body], Class::Strict);
        appended.expect("there is room");
        if number % 100 == 0 {
            house.rest();
        }
    }
}
