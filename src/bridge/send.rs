//! What goes up: taking in, drawing, and what becomes of it.

use std::rc::Rc;

use super::message::{Age, Marks, Onward, onward};
use super::queue::{Entry, Lane, Seq};
use super::{
    Bridge, Cargo, DeadReason, HOPS_MAX, Output, PUT_OFF, Place, Restored, SUSPECT_ALONE,
    SUSPECT_MAX, State, TRIES_MAX, window,
};
use crate::buffer::SendQueue;
use crate::id::{ConnId, Lsn, RuleId};
use crate::mqtt::client::Refusal;
use crate::mqtt::{ApplicationMessage, PacketId, QoS, ReasonCode, TopicName};
use crate::time::{Duration, Instant, Now, WallTime};

/// What became of an entry that was to be sent.
enum Sent {
    Yes,
    /// There is no room: try again later.
    NotNow,
    /// It has left the queue.
    Never,
}

impl Bridge {
    /// A message that a sending rule's filter matches. What this bridge itself has brought is not
    /// to be given to it. Without a `place` it is in memory alone.
    pub fn send(
        &mut self,
        now: Now,
        rule: RuleId,
        message: &ApplicationMessage,
        place: Option<Place>,
    ) {
        let time = Some(now.wall).filter(|wall| wall.is_plausible());
        let index = usize::from(rule.0);
        if let Some(entry) = self.entry_of(now, index, message, now.monotonic, time) {
            self.stats.queued += 1;
            self.queue.push(now.monotonic, entry, place);
            self.wake = true;
        } else {
            let is_kept = place.is_some_and(|place| place.lsn.is_some());
            let seq = self.queue.number(place);
            self.queue.let_go(seq, is_kept);
        }
        self.update_stats();
        self.check_invariants();
    }

    /// Whether the next of what is kept and is not in memory is to be brought back
    /// ([`Bridge::restore`]), and from which number on to look for it.
    pub fn wants_kept(&self) -> Option<u64> {
        self.first_underway().or_else(|| self.queue.wanted())
    }

    /// The next of what is kept.
    pub fn restore(&mut self, now: Now, sequence: u64, kept: Restored<'_>) {
        let Restored {
            rule,
            message,
            kept_at,
            is_current,
        } = kept;
        let age = match kept_at {
            Some(at) if now.wall.is_plausible() => now.wall.since(at),
            _ => Duration::ZERO,
        };
        let is_aged = self.settings.queue.age.is_some_and(|most| age >= most);
        let is_over = self.notes.is_gone(sequence);
        let entry = message
            .filter(|_| !is_aged && !is_over)
            .and_then(|message| {
                let index = self.rule_of(rule, message.topic())?;
                // Since the machine started at the most, for the clock has no earlier moments.
                let at = now.monotonic.saturating_sub(age);
                self.entry_of(now, index, message, at, kept_at)
            });
        let seq = Seq(sequence);
        if !self.restore_underway(now.monotonic, seq, entry.as_ref(), !is_current) {
            let is_aged = is_aged && !is_over;
            self.queue.restore(seq, entry, is_aged, !is_current);
        }
        self.wake = true;
        self.update_stats();
        self.check_invariants();
    }

    /// Nothing is kept from the number on that was asked for.
    pub fn nothing_kept(&mut self) {
        if !self.give_up_underway() {
            self.queue.nothing_is_spilled();
        }
        self.wake = true;
    }

    /// Changes up to this are on the disk: what was held back for them may be sent.
    pub fn handle_synced(&mut self, synced: Lsn) {
        self.wake |= self.queue.handle_synced(synced);
    }

    /// A change that keeps messages could not be made. `is_awaited`: their sender is told, and
    /// sends them again.
    pub fn handle_unkept(&mut self, lsn: Lsn, is_awaited: bool) {
        self.queue.handle_unkept(lsn, is_awaited);
        self.update_stats();
        self.check_invariants();
    }

    /// The number of a message that need not be kept any more.
    pub fn poll_consumed(&mut self) -> Option<u64> {
        self.queue.poll_consumed()
    }

    /// The number that the next message without a place gets.
    pub fn next_number(&self) -> u64 {
        self.queue.next_number()
    }

    /// Forgets everything that waits, in memory and elsewhere; what is under way stays.
    pub fn drop_waiting(&mut self) {
        self.queue.drop_waiting();
        self.update_stats();
        self.check_invariants();
    }

    /// The rule by which something was taken, or another one that takes it now.
    fn rule_of(&self, rule: Option<RuleId>, topic: &str) -> Option<usize> {
        let index = rule.map(|rule| usize::from(rule.0));
        let takes = |index: &usize| {
            let mapping = self.send.get(*index);
            mapping.is_some_and(|mapping| mapping.matches(topic))
        };
        let others = 0..self.send.len();
        index.into_iter().chain(others).find(takes)
    }

    /// A message as it is to be sent by the rule with this place; `None` if it is not to be.
    fn entry_of(
        &mut self,
        now: Now,
        index: usize,
        message: &ApplicationMessage,
        at: Instant,
        time: Option<WallTime>,
    ) -> Option<Entry> {
        // A message may cross a reload.
        let (rule, mapping) = (self.settings.send.get(index)?, self.send.get(index)?);
        let topic = message.topic();
        if !mapping.matches(topic) {
            return None;
        }
        if !mapping.source_names(&self.settings.base_topic, topic) {
            self.stats.commands_kept += 1;
            return None;
        }
        let Some(target) = mapping.map(topic) else {
            self.stats.unmapped += 1;
            return None;
        };
        if Marks::of(message).hops >= HOPS_MAX {
            self.stats.loops += 1;
            return None;
        }
        let to = Onward {
            topic: TopicName::new(&target).expect("a mapped topic is one"),
            qos: rule.qos,
            retain: message.retain(),
            origin: Some(&self.settings.origin),
            age: Age::Live,
        };
        let Some(onward) = onward(message, to, now.monotonic) else {
            let message = Rc::new(message.clone());
            self.dead_letter(message, time, DeadReason::TooManyProperties);
            return None;
        };
        let backlog = self.backlog.get(index).and_then(Option::as_ref);
        Some(Entry {
            message: Rc::new(onward),
            backlog_topic: backlog.and_then(|mapping| mapping.map(topic)),
            keep: rule.keep,
            lanes: rule.lanes,
            at,
            time,
        })
    }

    /// Draws and encodes until about `budget` bytes wait in `out`, or nothing more is to be sent.
    pub fn fill(&mut self, now: Now, conn: ConnId, budget: usize, out: &mut SendQueue) {
        if self.conn != Some(conn) {
            return;
        }
        let now = now.monotonic;
        let mut more = false;
        while out.len() < budget {
            more = self.client.poll_transmit(now, out);
            if more {
                break;
            }
            self.has_flushed |= matches!(self.state, State::Up { .. });
            if !self.draw(now) {
                break;
            }
            more = true;
        }
        out.set_more(more);
        self.finish_closing();
        self.update_stats();
        self.check_invariants();
    }

    /// Gives the client what it has room for; whether that was anything.
    fn draw(&mut self, now: Instant) -> bool {
        let mut has_drawn = false;
        while let Some((seq, lane)) = self.next_entry(now) {
            match self.send_entry(now, seq, lane) {
                Sent::Yes => has_drawn = true,
                Sent::Never => {}
                Sent::NotNow => break,
            }
        }
        has_drawn
    }

    /// What is to be sent next: live before backlog.
    fn next_entry(&mut self, now: Instant) -> Option<(Seq, Lane)> {
        self.pace_at = None;
        let is_up = matches!(self.state, State::Up { .. });
        if !is_up || self.hold_until.is_some() || self.queue.is_drained() {
            return None;
        }
        if !self.pace.allows(now) {
            self.pace_at = Some(self.pace.next());
            return None;
        }
        if let Some((seq, _)) = self.queue.front(now, Lane::Live) {
            return Some((seq, Lane::Live));
        }
        if !self.queue.has_backlog() || self.backlog_in_flight() >= self.backlog_window() {
            return None;
        }
        if !self.replay.allows(now) {
            self.pace_at = Some(self.replay.next());
            return None;
        }
        let (seq, _) = self.queue.front(now, Lane::Backlog)?;
        Some((seq, Lane::Backlog))
    }

    fn backlog_in_flight(&self) -> usize {
        let is_backlog =
            |what| matches!(what, Cargo::Message { lane, .. } if lane == Lane::Backlog);
        let flights = self.flights.values();
        flights.filter(|flight| is_backlog(flight.what)).count()
    }

    /// How much of the window the backlog may have, so that a live message finds a place.
    fn backlog_window(&self) -> usize {
        let receive_maximum = self.client.limits().receive_maximum.value();
        let window = receive_maximum.min(self.client.options().inflight_maximum);
        usize::from((window - (window / 4).max(1)).max(1))
    }

    /// The topic that an entry has for this peer.
    fn topic_of<'a>(&self, entry: &'a Entry, lane: Lane) -> &'a str {
        let is_v5 = self.client.options().version.is_v5();
        match &entry.backlog_topic {
            Some(topic) if lane == Lane::Backlog && !is_v5 => topic,
            _ => entry.message.topic(),
        }
    }

    /// An entry's message for this peer; `None`: it has too many user properties to be marked.
    pub(super) fn outgoing(
        &self,
        now: Instant,
        entry: &Entry,
        lane: Lane,
        qos: QoS,
        retain: bool,
    ) -> Option<Rc<ApplicationMessage>> {
        let message = &entry.message;
        let topic = self.topic_of(entry, lane);
        let is_marked = lane == Lane::Backlog && self.client.options().version.is_v5();
        let is_changed = topic != message.topic()
            || qos != message.qos()
            || retain != message.retain()
            || is_marked;
        if !is_changed {
            return Some(message.clone());
        }
        let to = Onward {
            topic: TopicName::new(topic).expect("a mapped topic is one"),
            qos,
            retain,
            origin: None,
            age: match lane {
                Lane::Live => Age::Live,
                Lane::Backlog => Age::Backlog(entry.time),
            },
        };
        Some(Rc::new(onward(message, to, now)?))
    }

    fn send_entry(&mut self, now: Instant, seq: Seq, lane: Lane) -> Sent {
        let Some(entry) = self.queue.get(seq) else {
            return Sent::Never;
        };
        let limits = *self.client.limits();
        let profile = self.settings.profile.limits();
        let is_v5 = self.client.options().version.is_v5();
        let is_backlog = lane == Lane::Backlog;
        let message = entry.message.clone();
        let topic = self.topic_of(entry, lane);
        if topic.len() > profile.topic_len_max
            || topic.matches('/').count() > profile.topic_separators_max
        {
            return self.give_up(seq, DeadReason::TopicOutOfProfile);
        }
        let len = message.payload().len();
        if len > profile.payload_max {
            let max = profile.payload_max;
            return self.give_up(seq, DeadReason::TooLarge { len, max });
        }
        let qos = message
            .qos()
            .min(limits.maximum_qos)
            .min(profile.maximum_qos);
        if !self.client.can_publish(qos) {
            return Sent::NotNow;
        }
        // A newer value is not to be overwritten by an older one.
        let is_superseded = is_backlog && self.queue.is_superseded(seq);
        let has_retain = limits.retain_available && profile.retain && !is_superseded;
        let retain = message.retain() && has_retain;
        let Some(outgoing) = self.outgoing(now, entry, lane, qos, retain) else {
            return self.give_up(seq, DeadReason::TooManyProperties);
        };
        let packet_id = match self.client.publish(outgoing.clone()) {
            Ok(packet_id) => packet_id,
            Err(Refusal::PacketTooLarge { len, max }) => {
                let max = max as usize;
                return self.give_up(seq, DeadReason::TooLarge { len, max });
            }
            Err(Refusal::QosNotSupported) => {
                return self.give_up(seq, DeadReason::Refused(ReasonCode::QosNotSupported));
            }
            Err(Refusal::RetainNotSupported) => {
                return self.give_up(seq, DeadReason::Refused(ReasonCode::RetainNotSupported));
            }
            Err(_) => return Sent::NotNow,
        };
        self.stats.lowered_qos += u64::from(qos < message.qos());
        self.stats.cleared_retain += u64::from(retain != message.retain());
        self.stats.sent += 1;
        self.stats.sent_backlog += u64::from(is_backlog);
        self.pace.spend(now);
        if is_backlog {
            self.replay.spend(now);
        }
        if !is_v5
            && self
                .receive
                .iter()
                .any(|rule| rule.matches(outgoing.topic()))
        {
            let topic = outgoing.topic().as_bytes();
            let echo = self.sent_before.fingerprint(&[topic, outgoing.payload()]);
            self.sent_before.insert(now, echo);
        }
        self.queue.draw(seq);
        match packet_id {
            Some(packet_id) => {
                let is_noted = qos == QoS::ExactlyOnce && self.note_sent(seq, packet_id, lane);
                let cargo = Cargo::Message {
                    seq,
                    lane,
                    is_noted,
                };
                self.note_flight(now, packet_id, cargo);
            }
            // Nobody will say what became of it.
            None => self.queue.consume(seq),
        }
        Sent::Yes
    }

    /// A message of ours is settled, one way or another.
    pub(super) fn on_published(&mut self, now: Instant, packet_id: PacketId, reason: ReasonCode) {
        // What was withdrawn is settled too, and nobody's any more.
        let Some(flight) = self.flights.remove(&packet_id) else {
            return;
        };
        self.progress_at = now;
        self.wake = true;
        let (seq, is_noted) = match flight.what {
            Cargo::State { .. } => return,
            Cargo::Released { seq } => {
                self.queue.consume(seq);
                return self.note_settled(seq);
            }
            Cargo::Message { seq, is_noted, .. } => (seq, is_noted),
        };
        if self.suspect.take().is_some() {
            self.client.set_inflight_maximum(window(&self.settings));
        }
        if reason.is_error() {
            self.on_refused(now, seq, reason);
        } else {
            self.refusals.remove(&seq);
            self.stats.acknowledged += 1;
            self.queue.consume(seq);
        }
        if is_noted {
            self.note_settled(seq);
        }
    }

    /// The peer does not take a message, or not now.
    fn on_refused(&mut self, now: Instant, seq: Seq, reason: ReasonCode) {
        match reason {
            // Of our own client: this peer takes less than the one before, so it goes as that
            // one does.
            ReasonCode::QosNotSupported | ReasonCode::RetainNotSupported => self.put_back(seq),
            ReasonCode::QuotaExceeded => {
                self.hold_until = Some(now + PUT_OFF);
                self.put_back(seq);
            }
            ReasonCode::PacketTooLarge => {
                // Of our own client too, which says no more; the topic and properties are the rest.
                let len = self.queue.get(seq).map_or(0, |it| it.message.footprint());
                let max = self.client.limits().maximum_packet_size as usize;
                self.give_up(seq, DeadReason::TooLarge { len, max });
            }
            ReasonCode::NotAuthorized
            | ReasonCode::TopicNameInvalid
            | ReasonCode::PayloadFormatInvalid => {
                self.give_up(seq, DeadReason::Refused(reason));
            }
            _ => {
                let tries = self.refusals.entry(seq).or_default();
                *tries += 1;
                if *tries >= TRIES_MAX {
                    self.give_up(seq, DeadReason::Refused(reason));
                } else {
                    self.hold_until = Some(now + PUT_OFF);
                    self.put_back(seq);
                }
            }
        }
    }

    fn put_back(&mut self, seq: Seq) {
        self.stats.put_off += 1;
        self.queue.rewind(seq);
    }

    /// When the link counts as stalled.
    pub(super) fn stalled_at(&self) -> Option<Instant> {
        let after = self.settings.stalled_after?;
        self.awaits_peer().then_some(self.progress_at + after)
    }

    /// Whether the peer has something to acknowledge. What our own disk holds up it has not.
    pub(super) fn awaits_peer(&self) -> bool {
        let mut flights = self.flights.keys();
        !self.asked.is_empty() || flights.any(|packet_id| !self.notes.holds(*packet_id))
    }

    pub(super) fn held_flights(&self) -> usize {
        let flights = self.flights.keys();
        flights.filter(|id| self.notes.holds(**id)).count()
    }

    pub(super) fn note_flight(&mut self, now: Instant, packet_id: PacketId, what: Cargo) {
        if !self.awaits_peer() {
            self.progress_at = now;
        }
        let order = self.next_flight;
        self.next_flight += 1;
        let flight = super::Flight { order, what };
        self.flights.insert(packet_id, flight);
    }

    /// The peer has closed the connection: it may be for the message that has waited longest for
    /// its acknowledgement.
    pub(super) fn suspect_oldest(&mut self) {
        let oldest = self.flights.values().min_by_key(|flight| flight.order);
        let Some(Cargo::Message { seq, .. }) = oldest.map(|flight| flight.what) else {
            return;
        };
        if !self.has_flushed {
            return;
        }
        self.suspect = match self.suspect {
            Some((before, times)) if before == seq => Some((seq, times + 1)),
            _ => Some((seq, 1)),
        };
        if self
            .suspect
            .is_some_and(|(_, times)| times == SUSPECT_ALONE)
        {
            let name = &self.name;
            log::warn!("bridge {name}: a message may be what the peer closes the connection for");
        }
    }

    /// Takes out the message that the peer has closed the connection for too often. Between two
    /// connections.
    pub(super) fn give_up_suspect(&mut self) {
        let Some((seq, times)) = self.suspect else {
            return;
        };
        let is_it = |what| matches!(what, Cargo::Message { seq: it, .. } if it == seq);
        let found = self.flights.iter().find(|(_, flight)| is_it(flight.what));
        if times < SUSPECT_MAX {
            return;
        }
        if let Some(packet_id) = found.map(|(id, _)| *id)
            && self.client.withdraw(packet_id)
        {
            self.withdraw_flight(packet_id);
            self.give_up(seq, DeadReason::ClosesConnection);
        }
        self.suspect = None;
    }

    fn give_up(&mut self, seq: Seq, reason: DeadReason) -> Sent {
        self.refusals.remove(&seq);
        if let Some(entry) = self.queue.get(seq) {
            let (message, time) = (entry.message.clone(), entry.time);
            self.queue.consume(seq);
            self.dead_letter(message, time, reason);
        }
        Sent::Never
    }

    fn dead_letter(
        &mut self,
        message: Rc<ApplicationMessage>,
        time: Option<WallTime>,
        reason: DeadReason,
    ) {
        self.stats.dead_letters += 1;
        log::warn!(
            "bridge {} gives up topic={} {reason}",
            self.name,
            message.topic()
        );
        self.outputs.push_back(Output::DeadLetter {
            message,
            time,
            reason,
        });
    }
}
