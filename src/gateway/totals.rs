//! What of the points outlives the process: how far counters have counted, and which sequence
//! numbers may have been given out.
//!
//! A total is kept when its counter says so (see
//! [`Persist`](crate::field::settings::Persist)), when it is taken out of the configuration, and at
//! a clean stop. Sequence numbers are reserved for all points together, a block at a time: a point
//! begins behind the last block, so that its numbers grow, with gaps. Nothing is read from a device
//! before the first block is on the disk: a process that was killed before that would have given
//! out numbers that the next one gives out again. A disk that does not take it in time is not
//! waited for.

use std::collections::BTreeMap;

use super::{Gateway, Life};
use crate::id::{Lsn, PointId, stable_hash};
use crate::journal::{Class, Key, Refused, Target};
use crate::time::{Duration, Instant, Now};

/// The kinds of the journal's keys; the broker's and the bridges' are others.
pub(super) const SEQUENCES: u8 = 17;
pub(super) const TOTAL: u8 = 18;

/// The version of what their records say.
const VERSION: u8 = 1;

/// Sequence numbers that are reserved at once.
const BLOCK: u64 = 1 << 16;

/// When a reservation that the journal has refused is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// How long the start waits until the first block is on the disk.
const RESERVED_WITHIN: Duration = Duration::from_secs(5);

/// Totals that are kept: more than a machine has lines.
const TOTALS_MAX: usize = 4096;

/// What is known of the points from before.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// By `DEVICE/POINT`. Those of points that the configuration has no more stay.
    by_point: BTreeMap<Box<str>, u64>,
    /// The first sequence number that may not be given out yet.
    reserved: u64,
    /// The journal has refused something; until then it is not asked again.
    quiet_until: Instant,
    /// The start waits for this to be synced, and how long.
    unsynced: Option<(Lsn, Instant)>,
}

impl Totals {
    /// A record of the journal.
    pub(super) fn recover(&mut self, kind: u8, body: &[u8]) {
        let Some((number, rest)) = decode(body) else {
            return log::error!("journal: a record of the points cannot be read");
        };
        match (kind, core::str::from_utf8(rest)) {
            (SEQUENCES, _) => self.reserved = self.reserved.max(number),
            (_, Ok(path)) => {
                self.by_point.insert(path.into(), number);
            }
            (_, Err(_)) => log::error!("journal: a total's point cannot be read"),
        }
    }
}

impl Gateway {
    /// Sequence numbers go on behind those that may have been given out. Whether the start has to
    /// wait for that.
    pub(super) fn resume_sequences(&mut self, now: Now) -> bool {
        self.pipeline.set_first_seq(self.totals.reserved);
        let until = now.monotonic + RESERVED_WITHIN;
        self.totals.unsynced = match self.reserve_sequences(now) {
            Some(Ok(lsn)) => Some((lsn, until)),
            // It soon has room for this.
            Some(Err(Refused::Full)) => Some((Lsn(u64::MAX), until)),
            Some(Err(_)) | None => None,
        };
        self.totals.unsynced.is_some()
    }

    /// The journal takes again what it has refused.
    pub(super) fn retry_sequences(&mut self, now: Now) {
        self.totals.quiet_until = Instant::default();
        if let Some(Ok(lsn)) = self.reserve_sequences(now)
            && let Some((awaited, _)) = &mut self.totals.unsynced
        {
            *awaited = lsn;
        }
    }

    /// Whether the start need not wait any more for the first block.
    pub(super) fn are_sequences_reserved(&self, now: Now) -> bool {
        let synced = self.durable.as_ref().map(|it| it.journal.synced());
        self.totals
            .unsynced
            .is_none_or(|(lsn, until)| now.monotonic >= until || synced.is_none_or(|it| it >= lsn))
    }

    /// Until when the start waits for the first block.
    pub(super) fn reserved_until(&self) -> Option<Instant> {
        self.totals.unsynced.map(|(_, until)| until)
    }

    /// It does not wait, or not any more.
    pub(super) fn give_up_sequences(&mut self) {
        self.totals.unsynced = None;
    }

    /// Reserves the next block if this one is half given out: its number in the journal.
    pub(super) fn reserve_sequences(&mut self, now: Now) -> Option<Result<Lsn, Refused>> {
        let highest = self.pipeline.highest_seq();
        let is_due = highest + BLOCK / 2 >= self.totals.reserved;
        if self.durable.is_none() || !is_due || now.monotonic < self.totals.quiet_until {
            return None;
        }
        let reserved = highest + BLOCK;
        let key = Key {
            kind: SEQUENCES,
            id: 0,
            sub: 0,
        };
        let kept = self.keep_of_points(now, key, reserved, "");
        if matches!(kept, Some(Ok(_))) {
            self.totals.reserved = reserved;
        } else {
            self.totals.quiet_until = now.monotonic + RETRY;
        }
        kept
    }

    /// A counter has counted so far, and wants that kept.
    pub(super) fn keep_total(&mut self, now: Now, point: PointId, total: u64) {
        // It may have been taken out by a reload and be there again, from 0 on.
        self.field.restore_total(point, total);
        let Some(path) = self.registry.path_or_former(point) else {
            return;
        };
        let known = self.totals.by_point.get(&*path).copied();
        if known == Some(total) || known.is_none() && self.totals.by_point.len() >= TOTALS_MAX {
            return;
        }
        let key = Key {
            kind: TOTAL,
            // Among 4096 points two that collide have a chance of one in 10¹².
            id: stable_hash(path.bytes()),
            sub: 0,
        };
        self.keep_of_points(now, key, total, &path);
        self.totals.by_point.insert(path.into(), total);
    }

    /// How far a point had counted when it was last there.
    pub(super) fn restore_total(&mut self, path: &str, point: PointId) {
        if let Some(total) = self.totals.by_point.get(path) {
            self.field.restore_total(point, *total);
        }
    }

    /// Its number in the journal; `None` without one.
    fn keep_of_points(
        &mut self,
        now: Now,
        key: Key,
        number: u64,
        path: &str,
    ) -> Option<Result<Lsn, Refused>> {
        let durable = self.durable.as_mut()?;
        let class = match (self.life, self.config.journal) {
            (Life::Running, Some(settings)) => Class::Interval(settings.sync_within),
            _ => Class::Strict,
        };
        let target = Target::Key { key, note: &[] };
        let body = encode(number, path);
        let appended = durable
            .journal
            .append_needed(now, &[target], &[&body], class);
        if class == Class::Strict {
            durable.wait();
        }
        if let Err(refused) = appended {
            log::warn!("not kept of the points {path:?}: {refused:?}");
        }
        Some(appended)
    }
}

fn encode(number: u64, path: &str) -> Vec<u8> {
    let mut body = vec![VERSION];
    body.extend_from_slice(&number.to_le_bytes());
    body.extend_from_slice(path.as_bytes());
    body
}

fn decode(body: &[u8]) -> Option<(u64, &[u8])> {
    let (version, rest) = body.split_first()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    (*version == VERSION).then(|| (u64::from_le_bytes(*number), rest))
}
