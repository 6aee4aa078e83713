//! Journals that builds have written which knew queues that were all in memory: entries and states
//! of those have a tag of their own, by which alone they differ.

use fieldgate::journal::{Found, FoundTarget, inspect};

/// As it is written.
pub const NOW: u8 = 3;
/// As it was written of queues that were all in memory.
pub const EARLY: u8 = 2;

/// Where the tags of a segment's entries and states are, by the records they are in.
pub fn tags(segment: &[u8]) -> Vec<(core::ops::Range<usize>, Vec<usize>)> {
    let mut records = Vec::new();
    inspect(segment, &mut |found| match found {
        Found::Data {
            offset,
            len,
            targets,
            ..
        } => {
            let (start, mut at) = (offset as usize, offset as usize + 11);
            let mut tags = Vec::new();
            for target in &targets {
                match target {
                    FoundTarget::Key(_, note) => at += 20 + note.len(),
                    FoundTarget::Entry(.., note) => {
                        tags.push(at);
                        at += 19 + note.len();
                    }
                }
            }
            records.push((start..start + len as usize, tags));
        }
        Found::Queue { offset, len, .. } => {
            let start = offset as usize;
            records.push((start..start + len as usize, vec![start + 17]));
        }
        _ => {}
    });
    records
}

/// Gives a segment's entries and states the early tag; how many had another.
pub fn make_early(segment: &mut [u8]) -> usize {
    let mut life = None;
    inspect(segment, &mut |found| {
        if let Found::Segment {
            epoch, sequence, ..
        } = found
        {
            life = Some((epoch, sequence));
        }
    });
    let Some(life) = life else {
        return 0;
    };
    let mut count = 0;
    for (record, tags) in tags(segment) {
        for at in tags {
            assert!([NOW, EARLY].contains(&segment[at]), "{at} is a tag's place");
            count += usize::from(segment[at] == NOW);
            segment[at] = EARLY;
        }
        sign(&mut segment[record.clone()], life, record.start);
    }
    count
}

/// Gives a record the checksum of its place: epoch and sequence of its segment, and its offset.
pub fn sign(record: &mut [u8], (epoch, sequence): (u64, u64), offset: usize) {
    let mut signed = epoch.to_le_bytes().to_vec();
    signed.extend_from_slice(&sequence.to_le_bytes());
    signed.extend_from_slice(&(offset as u32).to_le_bytes());
    signed.extend_from_slice(&record[8..]);
    record[4..8].copy_from_slice(&crc32c_bitwise(&signed).to_le_bytes());
}

/// Slow, and written differently from the one that is tested.
pub fn crc32c_bitwise(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82F6_3B78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
