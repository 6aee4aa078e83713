//! How far messages of QoS 2 are, for whoever keeps that beyond the process.
//!
//! ```text
//! sent      draw ─► Note::Published ─ synced ─► PUBLISH
//!           PUBREC ─► Note::Released ─ synced ─► PUBREL
//!           PUBCOMP ─► consumed, over
//! received  PUBLISH ─► Output::Publish, with its identifier ─ synced ─► PUBREC
//!           PUBREL ─► Note::Completed ─ synced ─► PUBCOMP
//! ```
//!
//! The notes have numbers of their own, [`Bridge::handle_notes_synced`] says how far they are safe.
//! A note that is not taken is tried again: until then its message goes no further.

use std::collections::{BTreeSet, VecDeque};

use super::queue::{Entry, Lane, Seq};
use super::{Bridge, Cargo, Output, State};
use crate::id::Lsn;
use crate::mqtt::client::{Step, Steps};
use crate::mqtt::{PacketId, QoS};
use crate::time::Instant;

/// Something to be kept of how far a QoS 2 message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// It is sent under this identifier.
    Published(Underway),
    /// The peer has it, and it is not sent again: its identifier is to be released.
    Released(Underway),
    /// It was sent, and is to be sent again as if it had not been.
    Forgotten {
        /// Which one.
        sequence: u64,
    },
    /// The peer has released a message of its own: its identifier may stand for another.
    Completed {
        /// Which.
        packet_id: PacketId,
    },
    /// The peer has no session with us: no identifier of its own stands for anything.
    SessionLost,
}

/// A QoS 2 message on its way to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underway {
    /// Its place among what is kept for the bridge.
    pub sequence: u64,
    /// Its identifier.
    pub packet_id: PacketId,
    /// It is sent as a live one, not as one that has waited.
    pub is_live: bool,
}

/// What is kept for a bridge from before.
#[derive(Debug, Default)]
pub struct Kept {
    /// So many messages.
    pub entries: u64,
    /// Of so many bytes.
    pub bytes: u64,
    /// With numbers below this.
    pub next: u64,
    /// Of those, that have been sent at QoS 2.
    pub published: Vec<Underway>,
    /// Identifiers that the peer is to release, whether the message is still kept or not.
    pub released: Vec<Underway>,
    /// Identifiers of the peer's messages that were taken and that it has not released.
    pub received: Vec<PacketId>,
    /// Nothing of it is missing, as it would be if it had been damaged or had never been there.
    pub is_whole: bool,
}

/// What the bridge knows of its notes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Somebody keeps them.
    pub(super) are_kept: bool,
    /// Up to this they are safe.
    synced: Lsn,
    /// How many have been handed over that nobody has answered.
    unanswered: usize,
    /// Those that may not be.
    unsynced: VecDeque<(Lsn, Note)>,
    /// Those that were not taken.
    refused: Vec<Note>,
    /// Messages of ours whose next packet waits for its note: it is not the peer that is awaited.
    held: BTreeSet<PacketId>,
    /// Messages that an earlier process has sent and that are not here yet.
    underway: VecDeque<Underway>,
    /// Messages that came to nothing here, of which the peer has an identifier to release.
    gone: BTreeSet<u64>,
    /// Messages that are through, until somebody asks.
    pub(super) over: Vec<u64>,
    /// What the peer has of ours is not asked for before the old session is forgotten.
    pub(super) is_forgetting: bool,
}

impl Notes {
    /// Whether something of QoS 2 waits for the disk.
    fn are_awaited(&self) -> bool {
        self.unanswered > 0 || !self.unsynced.is_empty() || !self.refused.is_empty()
    }

    /// Whether what is to be said next of this message of ours waits for the disk.
    pub(super) fn holds(&self, packet_id: PacketId) -> bool {
        self.held.contains(&packet_id)
    }

    /// Whether nothing is to be made of a message that comes back.
    pub(super) fn is_gone(&self, sequence: u64) -> bool {
        self.gone.contains(&sequence)
    }
}

impl Bridge {
    /// What is kept from before, by somebody who keeps notes too. Before [`Bridge::start`].
    pub fn recover(&mut self, kept: Kept) {
        debug_assert!(self.state == State::Idle, "before it is started");
        self.queue.recover(kept.entries, kept.bytes, kept.next);
        self.notes.are_kept = true;
        self.begins_clean = !kept.is_whole;
        self.notes.underway = kept.published.into();
        for released in kept.released {
            self.release_only(released);
        }
        for packet_id in kept.received {
            self.client.restore_received(packet_id);
        }
        self.check_invariants();
    }

    /// A note is kept with this number, 0 if there was nothing to be kept; `None`: it was not
    /// taken, and will be offered again by [`Bridge::try_notes_again`].
    pub fn handle_noted(&mut self, now: Instant, note: Note, lsn: Option<Lsn>) {
        self.notes.unanswered = self.notes.unanswered.saturating_sub(1);
        match (lsn, note) {
            (Some(lsn), _) if lsn <= self.notes.synced => self.on_noted(now, note),
            (Some(lsn), _) => self.notes.unsynced.push_back((lsn, note)),
            (None, Note::Published(it)) => {
                // It has not been sent.
                self.notes.held.remove(&it.packet_id);
                if self.client.withdraw(it.packet_id) {
                    self.flights.remove(&it.packet_id);
                    self.queue.rewind(Seq(it.sequence));
                }
                self.hold_until = Some(now + super::PUT_OFF);
            }
            (None, _) => {
                self.notes.refused.push(note);
                self.hold_until = Some(now + super::PUT_OFF);
            }
        }
        self.check_invariants();
    }

    /// What was not taken is offered again, for there may be room now.
    pub fn try_notes_again(&mut self) {
        for note in core::mem::take(&mut self.notes.refused) {
            // Of what has been settled since there is nothing to say.
            match note {
                Note::Released(it) if !self.flights.contains_key(&it.packet_id) => {
                    self.notes.held.remove(&it.packet_id);
                }
                _ => self.note(note),
            }
        }
        self.hold_until = None;
        self.wake = true;
    }

    /// Notes up to this are safe: what waited for them goes on.
    pub fn handle_notes_synced(&mut self, now: Instant, synced: Lsn) {
        if synced <= self.notes.synced {
            return;
        }
        self.notes.synced = synced;
        while let Some((lsn, note)) = self.notes.unsynced.front().copied()
            && lsn <= synced
        {
            self.notes.unsynced.pop_front();
            self.on_noted(now, note);
        }
        self.check_invariants();
    }

    /// The number of a QoS 2 message that is through, after its
    /// [consumption](Bridge::poll_consumed).
    pub fn poll_over(&mut self) -> Option<u64> {
        let sequence = self.notes.over.pop()?;
        self.notes.gone.remove(&sequence);
        Some(sequence)
    }

    /// Nothing with a number below this is waiting or under way.
    pub fn first_unfinished(&self) -> u64 {
        self.queue.first_unfinished()
    }

    pub(super) fn steps(&self) -> Steps {
        if self.notes.are_kept {
            Steps::ByCaller
        } else {
            Steps::AtOnce
        }
    }

    pub(super) fn start_if_whole(&mut self) {
        let is_whole = self.notes.underway.is_empty() && !self.notes.are_awaited();
        if self.is_to_start && is_whole && self.state == State::Idle {
            self.is_to_start = false;
            self.dial(0);
        }
    }

    fn on_noted(&mut self, now: Instant, note: Note) {
        match note {
            Note::Published(it) => {
                self.owe(now, it.packet_id);
                self.client.take_step(Step::Publish, it.packet_id);
            }
            Note::Released(it) => {
                self.owe(now, it.packet_id);
                self.client.take_step(Step::Release, it.packet_id);
            }
            Note::Completed { packet_id } => {
                self.client.take_step(Step::Complete, packet_id);
            }
            Note::SessionLost => {
                self.notes.is_forgetting = false;
                self.ask_for_subscriptions(now);
            }
            Note::Forgotten { .. } => {}
        }
        self.wake = true;
        self.start_if_whole();
    }

    /// From now on it is the peer that has to answer.
    fn owe(&mut self, now: Instant, packet_id: PacketId) {
        let is_first = !self.awaits_peer();
        if self.notes.held.remove(&packet_id) && is_first {
            self.progress_at = self.progress_at.max(now);
        }
    }

    fn note(&mut self, note: Note) {
        self.notes.unanswered += 1;
        if let Note::Published(it) | Note::Released(it) = note {
            self.notes.held.insert(it.packet_id);
        }
        self.outputs.push_back(Output::Note(note));
    }

    /// A QoS 2 message is about to be sent; whether that is noted.
    pub(super) fn note_sent(&mut self, seq: Seq, packet_id: PacketId, lane: Lane) -> bool {
        if self.notes.are_kept {
            self.note(Note::Published(Underway {
                sequence: seq.0,
                packet_id,
                is_live: lane == Lane::Live,
            }));
        }
        self.notes.are_kept
    }

    /// A message whose steps are noted is through, or is to be sent again.
    pub(super) fn note_settled(&mut self, seq: Seq) {
        if !self.notes.are_kept {
            return;
        }
        if self.queue.get(seq).is_some() {
            self.note(Note::Forgotten { sequence: seq.0 });
        } else {
            self.notes.over.push(seq.0);
        }
    }

    /// The client has something to say that is to be noted first.
    pub(super) fn on_step(&mut self, now: Instant, step: Step, packet_id: PacketId) {
        let sequence = match self.flights.get(&packet_id).map(|flight| flight.what) {
            Some(Cargo::Message { seq, .. } | Cargo::Released { seq }) => seq.0,
            Some(Cargo::State { .. }) | None => 0,
        };
        match step {
            Step::Publish => {}
            Step::Release => {
                self.progress_at = now;
                self.note(Note::Released(Underway {
                    sequence,
                    packet_id,
                    is_live: false,
                }));
            }
            Step::Complete => self.note(Note::Completed { packet_id }),
        }
    }

    /// A message of ours was taken back from the client, which may have its identifier to release.
    pub(super) fn withdraw_flight(&mut self, packet_id: PacketId) {
        if self.client.has_to_release(packet_id)
            && let Some(flight) = self.flights.get_mut(&packet_id)
            && let Cargo::Message { seq, .. } = flight.what
        {
            flight.what = Cargo::Released { seq };
        } else {
            self.flights.remove(&packet_id);
        }
    }

    /// The peer has no session with us.
    pub(super) fn note_lost_session(&mut self) {
        if self.notes.are_kept && !self.notes.is_forgetting {
            self.notes.is_forgetting = true;
            self.note(Note::SessionLost);
        }
    }

    /// Whether [`Bridge::wants_kept`] asks for what was under way: after that it begins again with
    /// the first that is kept.
    pub fn wants_underway(&self) -> bool {
        !self.notes.underway.is_empty()
    }

    /// The first message that an earlier process has sent and that is not here yet.
    pub(super) fn first_underway(&self) -> Option<u64> {
        self.notes.underway.front().map(|it| it.sequence)
    }

    /// What was asked for by [`Bridge::first_underway`] is here, or something after it. Whether
    /// that is all that was to be done.
    pub(super) fn restore_underway(
        &mut self,
        now: Instant,
        seq: Seq,
        entry: Option<&Entry>,
        is_superseded: bool,
    ) -> bool {
        let Some(first) = self.notes.underway.front().copied() else {
            return false;
        };
        let lane = if first.is_live {
            Lane::Live
        } else {
            Lane::Backlog
        };
        let outgoing = entry.filter(|_| seq.0 == first.sequence).and_then(|entry| {
            let retain = entry.message.retain() && !is_superseded;
            // Whatever the rule says now: the peer may have it under this identifier.
            self.outgoing(now, entry, lane, QoS::ExactlyOnce, retain)
        });
        let (Some(outgoing), Some(entry)) = (outgoing, entry) else {
            return self.give_up_underway();
        };
        self.notes.underway.pop_front();
        if self.client.restore_sent(first.packet_id, Some(outgoing)) {
            self.queue.restore_drawn(seq, entry.clone(), is_superseded);
            let cargo = Cargo::Message {
                seq,
                lane,
                is_noted: true,
            };
            self.note_flight(now, first.packet_id, cargo);
        }
        self.start_if_whole();
        true
    }

    /// What was asked for by [`Bridge::first_underway`] is no more. If the peer has it, it is to
    /// give its identifier free. Whether anything was asked for.
    pub(super) fn give_up_underway(&mut self) -> bool {
        let Some(gone) = self.notes.underway.pop_front() else {
            return false;
        };
        self.release_only(gone);
        self.note(Note::Released(gone));
        self.start_if_whole();
        true
    }

    /// The peer may have a message that an earlier process has sent under this identifier, and
    /// nothing is left to be done about it but to release that.
    fn release_only(&mut self, underway: Underway) {
        let Underway {
            sequence,
            packet_id,
            ..
        } = underway;
        self.notes.gone.insert(sequence);
        if self.client.restore_sent(packet_id, None) {
            let seq = Seq(sequence);
            self.note_flight(Instant::default(), packet_id, Cargo::Released { seq });
        }
    }
}
