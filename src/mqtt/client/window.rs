//! Our QoS 1 and 2 messages on their way to the server.
//!
//! | phase | holds | leaves on |
//! |---|---|---|
//! | flight, backlog | message, not queued on this connection: a resumed session whose window is smaller, or its step is not taken | quota, step |
//! | flight, queued | message, waits for the transport | drawn |
//! | flight, sent | message | PUBACK (QoS 1), PUBREC (QoS 2) |
//! | release | packet identifier only, for the server has the message; PUBREL goes when the step is taken | PUBCOMP |
//!
//! Flights are kept in the order of their first publication and resent in it [MQTT-4.6.0-1];
//! releases in the order of their PUBRECs [MQTT-4.6.0-4].

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::mqtt::basic::{PacketId, QoS};
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::reason::ReasonCode;

use super::transmit::Publication;

/// The window.
#[derive(Debug, Default)]
pub(super) struct Window {
    flights: BTreeMap<u64, Flight>,
    releases: BTreeMap<u64, Release>,
    /// Invariant: exactly one entry for each flight and each release.
    by_id: BTreeMap<PacketId, Place>,
    next_seq: u64,
    /// Flights from here on are backlog, those before are not.
    backlog_from: u64,
    /// Invariant: how many those are.
    backlog: usize,
    /// PUBLISH packets that may still be sent (4.9).
    quota: u16,
    /// What the quota of this connection began with, or was widened to.
    granted: u16,
}

#[derive(Debug)]
struct Flight {
    packet_id: PacketId,
    message: Rc<ApplicationMessage>,
    phase: Phase,
    /// It was sent on this connection or an earlier one, so the server may have it.
    ever_sent: bool,
    /// It may not be sent yet.
    is_withheld: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Backlog,
    Queued,
    Sent,
}

#[derive(Debug)]
struct Release {
    packet_id: PacketId,
    /// What PUBREC said.
    reason: ReasonCode,
    /// Its PUBLISH was sent on this connection, so its PUBCOMP gives a place of the quota back.
    counted: bool,
    /// Its PUBREL may not be sent yet.
    is_withheld: bool,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Flight(u64),
    Release(u64),
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acked {
    /// The message is settled.
    Settled(ReasonCode),
    /// The identifier must be released: send PUBREL.
    Release,
    /// The same, once the step may be taken.
    ReleaseWaits,
    /// It is known already, and nothing is to be said.
    Known,
    /// Nothing has this identifier.
    Unknown,
    /// It does not fit what has this identifier.
    Mismatch,
}

/// What became of a message that is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// There is none, or it is on its way.
    No,
    /// Nobody will hear of it.
    Gone,
    /// The server may have it: its identifier is released.
    ToBeReleased,
}

impl Window {
    /// Messages under way.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn contains(&self, id: PacketId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether a new message can be queued at once.
    pub(super) fn has_quota(&self) -> bool {
        usize::from(self.quota) > self.backlog
    }

    /// Takes in a new message; [`Window::poll_queue`] says when it goes, if it is not withheld.
    pub(super) fn insert(
        &mut self,
        packet_id: PacketId,
        message: Rc<ApplicationMessage>,
        is_withheld: bool,
    ) {
        let seq = self.next_seq();
        self.backlog += 1;
        self.flights.insert(
            seq,
            Flight {
                packet_id,
                message,
                phase: Phase::Backlog,
                ever_sent: false,
                is_withheld,
            },
        );
        self.name(packet_id, Place::Flight(seq));
    }

    /// Takes in a message that an earlier process may have sent; `None`: it had its PUBREC.
    pub(super) fn restore(&mut self, packet_id: PacketId, message: Option<Rc<ApplicationMessage>>) {
        match message {
            Some(message) => {
                self.insert(packet_id, message, false);
                let last = self.flights.last_entry().expect("it was inserted just now");
                last.into_mut().ever_sent = true;
            }
            None => self.insert_release(packet_id, ReasonCode::Success, false, false),
        }
    }

    fn insert_release(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        counted: bool,
        is_withheld: bool,
    ) {
        let release = Release {
            packet_id,
            reason,
            counted,
            is_withheld,
        };
        let seq = self.next_seq();
        self.releases.insert(seq, release);
        self.name(packet_id, Place::Release(seq));
    }

    fn name(&mut self, packet_id: PacketId, place: Place) {
        let before = self.by_id.insert(packet_id, place);
        debug_assert!(
            before.is_none(),
            "a packet identifier is used once at a time"
        );
    }

    /// A message may be sent. Whether there was one that might not.
    pub(super) fn permit_publish(&mut self, id: PacketId) -> bool {
        let Some(Place::Flight(seq)) = self.by_id.get(&id) else {
            return false;
        };
        let flight = self.flights.get_mut(seq);
        flight.is_some_and(|flight| core::mem::take(&mut flight.is_withheld))
    }

    /// A PUBREL may be sent. Whether there was one that might not.
    pub(super) fn permit_release(&mut self, id: PacketId) -> bool {
        let Some(Place::Release(seq)) = self.by_id.get(&id) else {
            return false;
        };
        let release = self.releases.get_mut(seq);
        release.is_some_and(|release| core::mem::take(&mut release.is_withheld))
    }

    /// The next publication that the quota lets go, to be queued.
    pub(super) fn poll_queue(&mut self) -> Option<Publication> {
        if self.quota == 0 {
            return None;
        }
        let (seq, flight) = self.flights.range_mut(self.backlog_from..).next()?;
        if flight.is_withheld {
            // What comes after it does not pass it.
            return None;
        }
        self.backlog_from = seq + 1;
        self.backlog -= 1;
        flight.phase = Phase::Queued;
        self.quota -= 1;
        Some(Publication {
            message: flight.message.clone(),
            packet_id: Some(flight.packet_id),
            // Set exactly when it was sent before [MQTT-3.3.1-1] [MQTT-3.3.1-3].
            dup: flight.ever_sent,
        })
    }

    /// A queued publication has been given to the transport.
    pub(super) fn mark_sent(&mut self, id: PacketId) {
        if let Some(Place::Flight(seq)) = self.by_id.get(&id)
            && let Some(flight) = self.flights.get_mut(seq)
        {
            flight.phase = Phase::Sent;
            flight.ever_sent = true;
        }
    }

    /// PUBACK.
    pub(super) fn puback(&mut self, id: PacketId, reason: ReasonCode) -> Acked {
        match self.sent_flight(id, QoS::AtLeastOnce) {
            Err(acked) => acked,
            Ok(seq) => {
                self.remove_flight(seq, id);
                Acked::Settled(reason)
            }
        }
    }

    /// PUBREC. The server has the message, so it is never sent again [MQTT-4.3.3-6]. Its PUBREL
    /// may be withheld.
    pub(super) fn pubrec(&mut self, id: PacketId, reason: ReasonCode, withholds: bool) -> Acked {
        if let Some(Place::Release(seq)) = self.by_id.get(&id) {
            // It did not see our PUBREL.
            let release = self.releases.get(seq);
            let is_withheld = release.is_some_and(|release| release.is_withheld);
            return if is_withheld {
                Acked::Known
            } else {
                Acked::Release
            };
        }
        let seq = match self.sent_flight(id, QoS::ExactlyOnce) {
            Err(acked) => return acked,
            Ok(seq) => seq,
        };
        if reason.is_error() {
            self.remove_flight(seq, id);
            return Acked::Settled(reason);
        }
        self.flights.remove(&seq);
        self.by_id.remove(&id);
        self.insert_release(id, reason, true, withholds);
        if withholds {
            Acked::ReleaseWaits
        } else {
            Acked::Release
        }
    }

    /// PUBCOMP.
    pub(super) fn pubcomp(&mut self, id: PacketId) -> Acked {
        let seq = match self.by_id.get(&id) {
            None => return Acked::Unknown,
            Some(Place::Flight(_)) => return Acked::Mismatch,
            Some(Place::Release(seq)) => *seq,
        };
        if self.releases.get(&seq).is_some_and(|it| it.is_withheld) {
            // It has not seen a PUBREL.
            return Acked::Mismatch;
        }
        self.by_id.remove(&id);
        let release = self
            .releases
            .remove(&seq)
            .expect("`by_id` names an entry that is there");
        if release.counted {
            self.give_back();
        }
        Acked::Settled(release.reason)
    }

    /// The connection is gone: what was queued or sent on it goes back to the backlog.
    pub(super) fn connection_lost(&mut self) {
        self.quota = 0;
        self.backlog_from = 0;
        self.backlog = self.flights.len();
        for flight in self.flights.values_mut() {
            flight.phase = Phase::Backlog;
        }
        for release in self.releases.values_mut() {
            release.counted = false;
        }
    }

    /// The server has no session for us. What it had received (PUBREC) is settled and returned;
    /// everything else will be published as new, so nothing is lost that was not acknowledged.
    pub(super) fn session_lost(&mut self) -> Vec<(PacketId, ReasonCode)> {
        for flight in self.flights.values_mut() {
            flight.ever_sent = false;
        }
        let releases = core::mem::take(&mut self.releases);
        releases
            .into_values()
            .map(|release| {
                self.by_id.remove(&release.packet_id);
                (release.packet_id, release.reason)
            })
            .collect()
    }

    /// A connection begins, with this many places.
    pub(super) fn begin(&mut self, quota: u16) {
        debug_assert!(
            self.flights
                .values()
                .all(|flight| flight.phase == Phase::Backlog),
            "nothing was sent on this connection yet"
        );
        self.quota = quota;
        self.granted = quota;
    }

    /// There are as many places as this, if that is more than before on this connection.
    pub(super) fn widen(&mut self, granted: u16) {
        self.quota += granted.saturating_sub(self.granted);
        self.granted = self.granted.max(granted);
    }

    /// Forgets a message that is not queued or sent on this connection. If the server may have it,
    /// its identifier is left to be released, which may be withheld.
    pub(super) fn withdraw(&mut self, id: PacketId, withholds: bool) -> Withdrawn {
        let Some(Place::Flight(seq)) = self.by_id.get(&id) else {
            return Withdrawn::No;
        };
        let seq = *seq;
        if self.flights[&seq].phase != Phase::Backlog {
            return Withdrawn::No;
        }
        self.by_id.remove(&id);
        self.backlog -= 1;
        let flight = self.flights.remove(&seq);
        if flight.is_some_and(|it| it.ever_sent && it.message.qos() == QoS::ExactlyOnce) {
            self.insert_release(id, ReasonCode::Success, false, withholds);
            return Withdrawn::ToBeReleased;
        }
        Withdrawn::Gone
    }

    /// Whether it is an identifier that is to be released.
    pub(super) fn has_release(&self, id: PacketId) -> bool {
        matches!(self.by_id.get(&id), Some(Place::Release(_)))
    }

    /// Whether a message waits for its first step.
    pub(super) fn is_withheld(&self, id: PacketId) -> bool {
        let Some(Place::Flight(seq)) = self.by_id.get(&id) else {
            return false;
        };
        self.flights[seq].is_withheld
    }

    /// Takes out the messages that the server of this connection does not take.
    pub(super) fn refuse(
        &mut self,
        refusal: impl Fn(&ApplicationMessage) -> Option<ReasonCode>,
    ) -> Vec<(PacketId, ReasonCode)> {
        let mut refused = Vec::new();
        self.flights
            .retain(|_, flight| match refusal(&flight.message) {
                None => true,
                Some(reason) => {
                    refused.push((flight.packet_id, reason));
                    false
                }
            });
        for (id, _) in &refused {
            self.by_id.remove(id);
        }
        // Nothing has been queued on this connection yet.
        self.backlog = self.flights.len();
        refused
    }

    /// Identifiers to be released again on a resumed session, in order.
    pub(super) fn releases(&self) -> impl Iterator<Item = PacketId> {
        let releases = self.releases.values();
        let releases = releases.filter(|release| !release.is_withheld);
        releases.map(|release| release.packet_id)
    }

    fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// The flight with this identifier, if it was sent on this connection at this QoS.
    fn sent_flight(&self, id: PacketId, qos: QoS) -> Result<u64, Acked> {
        match self.by_id.get(&id) {
            None => Err(Acked::Unknown),
            Some(Place::Release(_)) => Err(Acked::Mismatch),
            Some(Place::Flight(seq)) => {
                let flight = &self.flights[seq];
                if flight.phase == Phase::Sent && flight.message.qos() == qos {
                    Ok(*seq)
                } else {
                    Err(Acked::Mismatch)
                }
            }
        }
    }

    fn remove_flight(&mut self, seq: u64, id: PacketId) {
        self.flights.remove(&seq);
        self.by_id.remove(&id);
        self.give_back();
    }

    fn give_back(&mut self) {
        // Each place was taken by one `poll_queue` on this connection, so this never exceeds where
        // it began.
        self.quota = self.quota.saturating_add(1);
    }
}
