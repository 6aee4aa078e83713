//! The journal's place in the house: what the broker wants kept goes in, what is synced comes out.
//!
//! ```text
//! broker ── Change ──▶ journal ── DiskCommand ──▶ host
//!   ▲                     │
//!   ├──── synced mark ────┤   end_turn
//!   ├──── entries ────────┤   of a session's queue that it has not in memory and wants
//!   └──── Recovered ──────┘   at the start, before a listener opens
//! ```
//!
//! The broker counts its changes by itself; here a mark says which of its numbers is reached when
//! the journal has synced which of its own.

use std::collections::VecDeque;

use serde_json::{Value, json};
use smallvec::SmallVec;

use super::boundary::{Notice, Output};
use super::bridges::{BRIDGE_OVER, BRIDGE_QUEUE, BRIDGE_SENT, is_step};
use super::settings::JournalSettings;
use super::{Awaited, Gateway, Life, totals};
use crate::broker::keep::{self, Change, KeyKind, What};
use crate::broker::settings::Level;
use crate::buffer::Memory;
use crate::id::{Lsn, QueueId};
use crate::journal::disk::{DiskCommand, DiskError, DiskEvent};
use crate::journal::{self, Class, Damage, Draw, Journal, Recovered, Refused, Unusable};
use crate::mqtt::PublishProperties;
use crate::time::Now;

/// The journal, and what ties its numbers to the broker's.
pub(super) struct Durable {
    pub(super) journal: Journal,
    /// Journal's number, broker's number: of changes that may not be synced yet. One for each turn,
    /// and one for each answer of the disk in it.
    marks: VecDeque<(Lsn, Lsn)>,
    /// Of the broker's.
    synced: Lsn,
    /// Something was appended that somebody waits for since the turn ended.
    is_waited_for: bool,
    /// Changes that were refused: the first of a row is told.
    refused: u64,
    /// Queues that have come back and are no session's, while they do.
    backlogs: Vec<QueueId>,
    /// Something of what was kept has not come back.
    is_damaged: bool,
    /// More than [`BEHIND`] waited for the disk, and not less than half of that since.
    is_behind: bool,
    /// Everything has been read that the start needs, but for what sessions gather.
    is_read: bool,
}

/// Bytes that may wait for the disk before nobody is read any more who brings more of them. What is
/// on its way then, and what nobody can be told to bring later, has as much again.
const BEHIND: usize = journal::UNSYNCED_MAX / 2;

impl Durable {
    /// Something was appended that is to be committed with this turn.
    pub(super) fn wait(&mut self) {
        self.is_waited_for = true;
    }

    pub(super) fn new(settings: &JournalSettings, memory: &Memory) -> Self {
        let settings = journal::Settings {
            size: settings.size,
            segment: settings.segment,
        };
        Self {
            journal: Journal::new(settings, memory),
            marks: VecDeque::new(),
            synced: Lsn(0),
            is_waited_for: false,
            refused: 0,
            backlogs: Vec::new(),
            is_damaged: false,
            is_behind: false,
            is_read: false,
        }
    }

    /// The broker's number that is reached when everything appended so far is synced.
    fn mark(&mut self, ours: Lsn) {
        let theirs = self.journal.last();
        match self.marks.back_mut() {
            Some((last, mark)) if *last == theirs => *mark = ours,
            _ => self.marks.push_back((theirs, ours)),
        }
    }

    /// Whether the next turn has something to commit that has not waited for a deadline.
    pub(super) fn is_waited_for(&self) -> bool {
        self.is_waited_for
    }

    /// Whether much waits for the disk.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether something of what was kept has not come back.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Everything that was appended is on the disk.
    pub(super) fn is_quiet(&self) -> bool {
        self.journal.synced() >= self.journal.last()
    }
}

impl Gateway {
    /// What was kept is still being read: nobody is let in, and nothing is told.
    pub(super) fn is_recovering(&self) -> bool {
        self.awaited.contains(&Awaited::Journal)
    }

    /// Carries changes into the journal; whether there were any, or it had something to say. Its
    /// commands wait in it for [`Gateway::poll_disk`].
    pub(super) fn route_journal(&mut self, now: Now) -> bool {
        let mut is_busy = false;
        // What one client has sent is kept as far as it goes, and nothing behind a gap.
        let mut has_gap = false;
        while let Some(change) = self.broker.poll_change() {
            is_busy = true;
            has_gap |= !self.append(now, &change, has_gap);
        }
        // Before everything has come back nobody knows which numbers are free.
        if !self.is_recovering()
            && self.broker.wants_queue()
            && let Some(durable) = &mut self.durable
        {
            self.broker.give_queue(durable.journal.new_queue_id());
        }
        while let Some(durable) = &mut self.durable
            && let Some(event) = durable.journal.poll_event()
        {
            is_busy = true;
            self.handle_journal(now, event);
        }
        self.heed_disk();
        is_busy
    }

    /// Who brings what is to be kept is not read while much of that waits for the disk.
    fn heed_disk(&mut self) {
        let Some(durable) = &mut self.durable else {
            return;
        };
        let unsynced = durable.journal.unsynced();
        let is_behind = unsynced > BEHIND || durable.is_behind && unsynced > BEHIND / 2;
        if core::mem::replace(&mut durable.is_behind, is_behind) != is_behind {
            self.broker.set_behind(is_behind);
            if !is_behind {
                self.resume_jammed();
            }
        }
    }

    /// Whether what follows it may be taken. `has_gap`: something before it was not.
    fn append(&mut self, now: Now, change: &Change, has_gap: bool) -> bool {
        let Some(durable) = &mut self.durable else {
            return true;
        };
        let journal = &mut durable.journal;
        let Change { lsn, level, .. } = *change;
        let class = match level {
            Some(Level::Strict) => Class::Strict,
            Some(Level::Interval(within)) => Class::Interval(within),
            Some(Level::None) | None => Class::Lazy,
        };
        let is_will =
            matches!(&change.what, What::Record { targets, .. } if targets.iter().all(is_will));
        let appended = match &change.what {
            What::Record { .. } if has_gap && class == Class::Strict => Err(Refused::Full),
            What::Record { targets, body } => {
                let is_needed = targets.iter().all(is_needed);
                let targets: SmallVec<[journal::Target<'_>; 4]> =
                    targets.iter().map(target).collect();
                if is_needed {
                    journal.append_needed(now, &targets, &[body], class)
                } else {
                    journal.append(now, &targets, &[body], class)
                }
            }
            What::Delete(of) => Ok(journal.delete(now, key(*of), class)),
            What::MakeQueue(queue) => journal.make_queue(now, *queue, class),
            What::DropQueue(queue) => Ok(journal.drop_queue(now, *queue, class)),
            What::Consumed { queue, sequence } => {
                journal.consume(now, *queue, *sequence);
                return true;
            }
            What::ConsumedFirst { queue, from } => {
                journal.consume_first(now, *queue, *from);
                return true;
            }
        };
        match appended {
            Ok(_) => {
                durable.is_waited_for |= class == Class::Strict;
                true
            }
            Err(refused) => {
                durable.refused += 1;
                if durable.refused.is_power_of_two() {
                    let so_far = durable.refused;
                    log::error!("not kept so_far={so_far}: {}", words(refused));
                }
                self.broker.handle_unkept(now, change, &mut self.outbox);
                self.unkeep_bridges(now, lsn, level == Some(Level::Strict));
                // Nobody waits for a will, and nothing that follows depends on it.
                is_will
            }
        }
    }

    /// Seals what the turn has brought; the broker's number up to which everything is synced.
    pub(super) fn settle_journal(&mut self, now: Now) -> Lsn {
        self.route_journal(now);
        let Some(durable) = &mut self.durable else {
            // Without a journal nothing waits for anything.
            return Lsn(u64::MAX);
        };
        durable.journal.end_turn(now);
        durable.is_waited_for = false;
        durable.mark(self.broker.last_lsn());
        while let Some((theirs, ours)) = durable.marks.front()
            && *theirs <= durable.journal.synced()
        {
            durable.synced = *ours;
            durable.marks.pop_front();
        }
        durable.synced
    }

    pub(super) fn handle_disk(&mut self, now: Now, event: DiskEvent) {
        // All that the broker has said is in the batch that is sealed here if the disk has just
        // become free: who waits for it need not wait for the turn's end to be in the next one.
        self.route_journal(now);
        if let Some(durable) = &mut self.durable {
            durable.mark(self.broker.last_lsn());
            durable.journal.handle_disk(now, event);
        }
    }

    /// The next command for the journal's disk. [`Gateway::poll_output`] gives it too; a host that
    /// asks here after each [`Input::Disk`], in the middle of a turn, keeps the disk busy
    /// meanwhile: nothing that leaves in this turn depends on when a command is begun, only on
    /// what is synced when the turn ends.
    ///
    /// [`Input::Disk`]: super::boundary::Input::Disk
    pub fn poll_disk(&mut self) -> Option<DiskCommand> {
        self.durable.as_mut()?.journal.poll_command()
    }

    /// Whether [`Gateway::poll_disk`] has something to give.
    pub(super) fn wants_disk(&self) -> bool {
        let durable = self.durable.as_ref();
        durable.is_some_and(|durable| durable.journal.has_command())
    }

    fn handle_journal(&mut self, now: Now, event: journal::Event) {
        match event {
            journal::Event::Recovered(Recovered::Record { keys, body }) => {
                for (key, _) in keys.iter().filter(|(key, _)| key.kind == BRIDGE_QUEUE) {
                    self.bridges.recover_name(QueueId(key.id), &body);
                }
                for (key, _) in keys.iter().filter(|(key, _)| is_step(*key)) {
                    self.bridges.recover_step(*key, &body);
                }
                let of_points = |kind: u8| matches!(kind, totals::SEQUENCES | totals::TOTAL);
                for (key, _) in keys.iter().filter(|(key, _)| of_points(key.kind)) {
                    self.totals.recover(key.kind, &body);
                }
                let keys = keys.iter().filter_map(|(key, _)| own_key(*key)).collect();
                self.broker.recover(now, keep::Recovered { keys, body });
            }
            journal::Event::Recovered(Recovered::Queue { queue, state }) => {
                let found = keep::RecoveredQueue {
                    queue,
                    next: state.next,
                    entries: state.entries,
                    bytes: state.bytes,
                };
                if !self.broker.recover_queue(found)
                    && let Some(durable) = &mut self.durable
                {
                    durable.backlogs.push(queue);
                }
            }
            journal::Event::RecoveryDone(summary) => {
                let journal::Summary {
                    segments,
                    bytes,
                    keys,
                    queues,
                    entries,
                    damaged,
                    torn,
                    ..
                } = summary;
                log::info!(
                    "journal read segments={segments} bytes={bytes} values={keys} \
                     queues={queues} entries={entries} damaged={damaged} torn={torn}"
                );
                self.recovered(now);
            }
            journal::Event::Unusable(error) => self.journal_unusable(now, &error),
            journal::Event::Damaged { slot, what } => {
                if let Some(durable) = &mut self.durable {
                    durable.is_damaged = true;
                }
                let slot = slot.map_or("?".to_owned(), |slot| slot.0.to_string());
                let what = match what {
                    Damage::Segment => format!("segment {slot} cannot be read"),
                    Damage::Bytes { offset } => format!("segment {slot} is bad at {offset}"),
                    Damage::Entry(queue, sequence) => {
                        format!("entry {sequence} of queue {} cannot be read", queue.0)
                    }
                };
                log::error!("journal damaged: {what}");
                self.tell_event(now, "journal_damaged", &what);
            }
            journal::Event::CommitFailed(error) => {
                log::error!("journal cannot be written: {error}");
                self.give_up_sequences();
                self.tell_event(now, "journal_failed", &error.to_string());
            }
            journal::Event::Full => {
                log::error!("journal full: what cannot be kept is not acknowledged");
                self.broker
                    .handle_journal_room(now, false, &mut self.outbox);
                self.tell_event(now, "journal_full", "");
            }
            journal::Event::Room => {
                log::info!("journal has room again");
                self.broker.handle_journal_room(now, true, &mut self.outbox);
                self.make_bridge_queues(now);
                self.retry_sequences(now);
                self.tell_event(now, "journal_room", "");
            }
            journal::Event::Reserve => {
                // Who was refused what is needed to take something out tries again. There is
                // no room for anything else.
                self.broker.handle_journal_room(now, true, &mut self.outbox);
                self.broker
                    .handle_journal_room(now, false, &mut self.outbox);
                self.retry_sequences(now);
            }
            journal::Event::Drawable(queue) => {
                self.handle_drawable(queue);
                self.broker.handle_drawable(queue);
            }
            journal::Event::Looked(looked) => self.answer_export(now, &looked),
        }
    }
}

/// The journal's name for a target.
fn target(of: &keep::Target) -> journal::Target<'_> {
    match of {
        keep::Target::Key(of) => journal::Target::Key {
            key: key(*of),
            note: &[],
        },
        keep::Target::Queue {
            queue,
            sequence,
            note,
        } => journal::Target::Numbered {
            queue: *queue,
            sequence: *sequence,
            note,
        },
    }
}

/// Whether a session cannot be sent what waits for it without this: that it is there again, and
/// how far a message of QoS 2 is.
fn is_needed(of: &keep::Target) -> bool {
    matches!(of, keep::Target::Key(of) if matches!(of.kind, KeyKind::Session | KeyKind::Sent))
}

fn is_will(of: &keep::Target) -> bool {
    matches!(of, keep::Target::Key(of) if of.kind == KeyKind::Will)
}

fn words(refused: Refused) -> &'static str {
    match refused {
        Refused::Full => "the journal is full",
        Refused::TooLarge => "a message is longer than a segment of the journal",
        Refused::NotReady => "the journal is not read yet",
        Refused::Failed => "no disk takes anything",
        Refused::NoQueue => "the session's queue was damaged",
    }
}

/// What a value is for whose key is not the broker's.
pub fn key_name(kind: u8) -> Option<&'static str> {
    match kind {
        BRIDGE_QUEUE => Some("queue of a bridge"),
        BRIDGE_SENT => Some("message sent to an upstream"),
        BRIDGE_OVER => Some("messages that an upstream has"),
        totals::SEQUENCES => Some("sequence numbers"),
        totals::TOTAL => Some("total of a counter"),
        _ => None,
    }
}

fn key(of: keep::Key) -> journal::Key {
    journal::Key {
        kind: of.kind as u8,
        id: of.id,
        sub: of.sub,
    }
}

/// `None`: it is another owner's.
fn own_key(of: journal::Key) -> Option<keep::Key> {
    Some(keep::Key {
        kind: KeyKind::from_u8(of.kind)?,
        id: of.id,
        sub: of.sub,
    })
}

impl Gateway {
    /// Everything that was kept is there again: the house is opened.
    fn recovered(&mut self, now: Now) {
        self.broker.recovered(now, &mut self.outbox);
        let backlogs = self.durable.as_mut();
        let backlogs = backlogs.map(|durable| core::mem::take(&mut durable.backlogs));
        self.drop_nameless(now, &backlogs.unwrap_or_default());
        if let Some(durable) = &mut self.durable {
            durable.is_read = true;
        }
        self.open_if_gathered(now);
    }

    /// Nobody is let in before his session knows again what it had under way.
    fn open_if_gathered(&mut self, now: Now) {
        let is_read = self.durable.as_ref().is_some_and(|durable| durable.is_read);
        if !is_read || !self.is_recovering() || self.broker.is_gathering() {
            return;
        }
        self.awaited.remove(&Awaited::Journal);
        if self.life == Life::Starting {
            self.start(now);
        }
    }

    /// Draws for sessions what is in the journal alone; whether anything was wanted.
    pub(super) fn route_sessions(&mut self, now: Now) -> bool {
        let mut is_busy = false;
        while let Some(durable) = &mut self.durable
            && let Some(queue) = self.broker.poll_rested()
        {
            durable.journal.rewind(queue);
        }
        while let Some(durable) = &mut self.durable
            && let Some(wanted) = self.broker.poll_wanted()
        {
            is_busy = true;
            let outbox = &mut self.outbox;
            match durable.journal.draw_from(wanted.queue, wanted.from) {
                Draw::Ready {
                    sequence,
                    note,
                    body,
                } => self
                    .broker
                    .restore(now, wanted, sequence, &note, &body, outbox),
                Draw::Pending => self.broker.handle_fetching(wanted),
                Draw::Empty => self.broker.handle_drained(now, wanted, outbox),
            }
        }
        self.open_if_gathered(now);
        is_busy
    }

    /// Nothing can be read, or may be. What another process has locked, or a later version has
    /// written, is not touched: that ends the start. Otherwise the gateway runs, and keeps nothing:
    /// who waits for that is not answered.
    fn journal_unusable(&mut self, now: Now, error: &Unusable) {
        let why = match error {
            Unusable::Disk(error) => error.to_string(),
            Unusable::NewerVersion { slot, version } => format!(
                "segment {} has been written by a newer version of fieldgate: format {version}, \
                 this one reads up to {}",
                slot.0,
                journal::VERSION
            ),
        };
        log::error!("journal cannot be used: {why}");
        let is_final = matches!(
            error,
            Unusable::Disk(DiskError::Locked(_)) | Unusable::NewerVersion { .. }
        );
        if is_final && self.life == Life::Starting {
            let why = format!("journal cannot be used: {why}").into_boxed_str();
            self.outputs
                .push_back(Output::Notice(Notice::Failed { why }));
            return;
        }
        self.recovered(now);
        self.tell_event(now, "journal_unusable", &why);
    }

    /// Counters of the journal; null without one.
    pub(super) fn journal_json(&self) -> Value {
        let Some(durable) = &self.durable else {
            return Value::Null;
        };
        let stats = durable.journal.stats();
        json!({
            "segments": stats.segments,
            "segments_free": stats.segments_free,
            "segments_begun": stats.segments_begun,
            "live_bytes": stats.live_bytes,
            "unsynced_bytes": stats.unsynced,
            "memory": stats.memory,
            "reads_crowded": stats.reads_crowded,
            "records": stats.records,
            "commits": stats.commits,
            "commits_failed": stats.commits_failed,
            "bytes_written": stats.bytes_written,
            "bytes_copied": stats.bytes_copied,
            "cleanings": stats.cleanings,
            "makes_failed": stats.makes_failed,
            "reads_failed": stats.reads_failed,
            "refused_full": stats.refused_full,
            "refused_behind": stats.refused_behind,
            "refused_failed": stats.refused_failed,
            "refused_too_large": stats.refused_too_large,
            "damaged": stats.damaged,
            "torn": stats.torn,
            "last_error": stats.last_error.as_ref().map(ToString::to_string),
        })
    }

    /// Something that people should know, once: `BASE/gateway/events/NAME`.
    pub(super) fn tell_event(&mut self, now: Now, name: &str, what: &str) {
        let topic = format!("{}/gateway/events/{name}", self.config.base_topic);
        self.publish_text(now, &topic, what, false, &PublishProperties::default());
    }
}
