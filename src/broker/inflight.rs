//! What a session has sent and not heard back about: QoS 1 and 2 towards a subscriber, in the order
//! of sending.
//!
//! | what was sent | acknowledged by | then |
//! |---|---|---|
//! | PUBLISH QoS 1 | PUBACK | forgotten |
//! | PUBLISH QoS 2 | PUBREC | the message is forgotten, PUBREL is sent |
//! | PUBLISH QoS 2 | PUBREC with an error | forgotten |
//! | PUBREL | PUBCOMP | forgotten |
//!
//! The order survives the connection: after a resumption everything here is sent again in it
//! [MQTT-4.6.0-1].

use std::collections::VecDeque;

use super::queue::Reference;
use crate::buffer::{Charge, Memory};
use crate::mqtt::{PacketId, QoS};

/// Most publications that a subscriber may have unacknowledged, whatever Receive Maximum it names:
/// an acknowledgement looks for its packet identifier from the oldest on.
pub(super) const WINDOW_MAX: u16 = 1024;

/// The unacknowledged publications of a session.
#[derive(Debug)]
pub(super) struct Inflight {
    /// In order of sending, so also of `order`.
    entries: VecDeque<Sent>,
    /// What those that hold a message cost.
    bytes: usize,
    next_id: PacketId,
    next_order: u64,
    /// What is here was partly sent before the process began, under any identifiers.
    is_restored: bool,
    /// For the entries; what they refer to is charged where it is kept.
    charge: Charge,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Sent {
    /// Counts up; a resumption remembers how far it has come by it.
    pub(super) order: u64,
    pub(super) packet_id: PacketId,
    /// Of the message in the session's queue as it is kept; 0: it is not kept.
    pub(super) sequence: u64,
    pub(super) stage: Stage,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum Stage {
    /// PUBLISH was sent.
    Published(Reference),
    /// PUBREL was sent.
    Released,
}

/// What an acknowledgement meant.
#[derive(Debug)]
pub(super) enum Acked {
    /// The PUBLISH is over, and this is let go.
    Done(Option<Reference>),
    /// PUBREL is to be sent; the message is let go, unless this PUBREC came a second time.
    Release(Option<Reference>),
    /// No such identifier is in this stage.
    Unknown,
}

impl Inflight {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            next_id: PacketId::FIRST,
            next_order: 0,
            is_restored: false,
            charge: memory.charge(0),
        }
    }

    /// Takes a message that is sent now, and names its packet identifier, which is unused
    /// [MQTT-2.2.1-4].
    pub(super) fn send(&mut self, reference: Reference) -> PacketId {
        let packet_id = self.unused_id();
        self.bytes += reference.cost;
        self.entries.push_back(Sent {
            order: self.next_order,
            packet_id,
            sequence: reference.sequence,
            stage: Stage::Published(reference),
        });
        self.next_order += 1;
        self.next_id = packet_id.next();
        self.charge_entries();
        packet_id
    }

    /// PUBACK.
    pub(super) fn puback(&mut self, id: PacketId) -> Acked {
        self.finish(id, |stage| {
            matches!(stage, Stage::Published(reference) if reference.qos == QoS::AtLeastOnce)
        })
    }

    /// PUBREC with a reason below 0x80.
    pub(super) fn pubrec(&mut self, id: PacketId) -> Acked {
        let Some(at) = self.position(id) else {
            return Acked::Unknown;
        };
        let stage = &mut self.entries[at].stage;
        match stage {
            Stage::Released => Acked::Release(None),
            Stage::Published(reference) if reference.qos == QoS::ExactlyOnce => {
                match core::mem::replace(stage, Stage::Released) {
                    Stage::Published(reference) => {
                        self.bytes -= reference.cost;
                        Acked::Release(Some(reference))
                    }
                    Stage::Released => Acked::Release(None),
                }
            }
            Stage::Published(_) => Acked::Unknown,
        }
    }

    /// PUBREC with a reason of 0x80 or above: the PUBLISH counts as acknowledged [MQTT-4.4.0-2].
    pub(super) fn pubrec_failed(&mut self, id: PacketId) -> Acked {
        self.finish(id, |stage| {
            matches!(stage, Stage::Published(reference) if reference.qos == QoS::ExactlyOnce)
        })
    }

    /// PUBCOMP.
    pub(super) fn pubcomp(&mut self, id: PacketId) -> Acked {
        self.finish(id, |stage| matches!(stage, Stage::Released))
    }

    /// Puts back what was sent before the process ended: a PUBLISH, or the PUBREL of one. Behind
    /// those that are there.
    pub(super) fn restore(
        &mut self,
        packet_id: PacketId,
        sequence: u64,
        published: Option<Reference>,
    ) {
        self.bytes += published.as_ref().map_or(0, |reference| reference.cost);
        self.entries.push_back(Sent {
            order: self.next_order,
            packet_id,
            sequence,
            stage: published.map_or(Stage::Released, Stage::Published),
        });
        self.next_order += 1;
        self.next_id = packet_id.next();
        self.is_restored = true;
        self.charge_entries();
    }

    /// The order of what was sent last.
    pub(super) fn last_order(&self) -> u64 {
        self.next_order.saturating_sub(1)
    }

    /// The number of the message under this packet identifier in the queue as it is kept; 0: there
    /// is none, or it is not kept.
    pub(super) fn sequence_of(&self, packet_id: PacketId) -> u64 {
        let at = self.position(packet_id);
        at.map_or(0, |at| self.entries[at].sequence)
    }

    /// The first entry of this order or a later one.
    pub(super) fn first_since(&self, order: u64) -> Option<&Sent> {
        let at = self.entries.partition_point(|sent| sent.order < order);
        self.entries.get(at)
    }

    /// Takes out one entry by its order, whatever its stage.
    pub(super) fn remove(&mut self, order: u64) -> Option<Sent> {
        let at = self.entries.partition_point(|sent| sent.order < order);
        if self.entries.get(at)?.order != order {
            return None;
        }
        let removed = self.entries.remove(at);
        if let Some(Stage::Published(reference)) = removed.as_ref().map(|sent| &sent.stage) {
            self.bytes -= reference.cost;
        }
        self.charge_entries();
        removed
    }

    /// Everything, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sent> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What the messages cost that are not acknowledged.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(&mut self, id: PacketId, fits: impl Fn(&Stage) -> bool) -> Acked {
        match self.position(id) {
            Some(at) if fits(&self.entries[at].stage) => {
                let sent = self.entries.remove(at).expect("it was found there");
                self.charge_entries();
                Acked::Done(match sent.stage {
                    Stage::Published(reference) => {
                        self.bytes -= reference.cost;
                        Some(reference)
                    }
                    Stage::Released => None,
                })
            }
            _ => Acked::Unknown,
        }
    }

    fn charge_entries(&mut self) {
        self.charge.set(self.entries.len() * size_of::<Sent>());
    }

    fn position(&self, id: PacketId) -> Option<usize> {
        self.entries.iter().position(|sent| sent.packet_id == id)
    }

    /// The identifier that [`Inflight::send`] will name next.
    pub(super) fn unused_id(&self) -> PacketId {
        let mut id = self.next_id;
        // Identifiers go round in 65 535 sends; only what is older than that can be met again.
        let oldest = self
            .entries
            .front()
            .map_or(self.next_order, |sent| sent.order);
        if self.next_order - oldest >= u64::from(u16::MAX) || self.is_restored {
            while self.position(id).is_some() {
                id = id.next();
            }
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::MessageId;
    use crate::slab::Key;

    fn reference(qos: QoS) -> Reference {
        Reference {
            message: MessageId::from_parts(0, 0),
            qos,
            retain: false,
            is_again: false,
            identifiers: crate::broker::queue::Identifiers::new(),
            share: None,
            cost: 1,
            sequence: 0,
        }
    }

    #[test]
    fn an_identifier_in_use_is_passed_over_when_the_numbers_come_round() {
        let mut inflight = Inflight::new(&Memory::new(0));
        let stuck = inflight.send(reference(QoS::AtLeastOnce));
        assert_eq!(stuck.value(), 1);
        for expected in (2..=u16::MAX).chain([2, 3]) {
            let id = inflight.send(reference(QoS::AtLeastOnce));
            assert_eq!(id.value(), expected);
            assert!(matches!(inflight.puback(id), Acked::Done(Some(_))));
        }
        assert!(matches!(inflight.puback(stuck), Acked::Done(Some(_))));
        assert_eq!(inflight.len(), 0);
    }

    #[test]
    fn acknowledgements_of_the_wrong_kind_change_nothing() {
        let mut inflight = Inflight::new(&Memory::new(0));
        let one = inflight.send(reference(QoS::AtLeastOnce));
        let two = inflight.send(reference(QoS::ExactlyOnce));
        assert!(matches!(inflight.puback(two), Acked::Unknown));
        assert!(matches!(inflight.pubrec(one), Acked::Unknown));
        assert!(matches!(inflight.pubrec_failed(one), Acked::Unknown));
        assert!(matches!(inflight.pubcomp(two), Acked::Unknown));
        assert!(matches!(inflight.pubrec(two), Acked::Release(Some(_))));
        assert!(matches!(inflight.pubrec(two), Acked::Release(None)));
        assert!(matches!(inflight.pubrec_failed(two), Acked::Unknown));
        assert!(matches!(inflight.pubcomp(two), Acked::Done(None)));
        assert!(matches!(inflight.pubcomp(two), Acked::Unknown));
        assert_eq!(inflight.len(), 1);
    }
}
