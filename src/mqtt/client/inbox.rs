//! The server's messages on their way to us: what has been handed over, what may be acknowledged,
//! and in which order.

use std::collections::{BTreeMap, VecDeque};

use crate::mqtt::basic::{PacketId, QoS, TopicAlias};
use crate::mqtt::packet::Publish;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;

use super::event::{AckToken, Violation};

/// Incoming state. The QoS 2 identifiers are session state; the rest belongs to one connection.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// QoS 2 identifiers from PUBLISH to PUBREL. At most 65 535, the number of identifiers there
    /// are.
    received: BTreeMap<PacketId, Received>,
    /// Messages of this connection that have not been acknowledged, in their order. Bounded by
    /// Receive Maximum in 5.0 and by the identifiers before; the client stops reading above its
    /// limit.
    waiting: VecDeque<Waiting>,
    /// What each Topic Alias stands for on this connection [MQTT-3.3.2-7].
    aliases: Vec<Option<Box<str>>>,
    next_serial: u64,
    /// QoS 1 entries of `waiting`.
    qos_1_waiting: usize,
    /// Entries of `received` that came in on this connection, so count against Receive Maximum.
    qos_2_counted: usize,
}

#[derive(Debug, Clone, Copy)]
struct Received {
    serial: u64,
    /// It is in `waiting`.
    is_waiting: bool,
    /// Whoever got it has said that it may be acknowledged.
    accepted: bool,
    /// It is one of `qos_2_counted`.
    counted: bool,
    released: Released,
    /// It may be of a session that the server has forgotten since.
    is_doubtful: bool,
}

/// Whether PUBREL has come for an identifier that is not free yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Released {
    No,
    /// On this connection.
    Now,
    /// On an earlier one.
    Before,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    packet_id: PacketId,
    serial: u64,
    qos: QoS,
    answer: Option<ReasonCode>,
}

/// What to do with a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Hand it over; it needs no acknowledgement.
    Deliver,
    /// Hand it over with this token.
    DeliverWith(AckToken),
    /// It was handed over before.
    Duplicate,
}

/// An acknowledgement that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub packet_id: PacketId,
    pub qos: QoS,
    pub reason: ReasonCode,
}

impl Inbox {
    /// The topic of a message: its own, or what its alias stands for.
    pub(super) fn resolve<'a>(
        &'a mut self,
        publish: &Publish<'a>,
        alias_maximum: u16,
    ) -> Result<TopicName<'a>, Violation> {
        let topic = match publish.properties.topic_alias {
            None => publish.topic,
            Some(alias) => self.resolve_alias(alias, publish.topic, alias_maximum)?,
        };
        Ok(TopicName::new(topic).expect("the codec lets no other topic through"))
    }

    fn resolve_alias<'a>(
        &'a mut self,
        alias: TopicAlias,
        topic: &'a str,
        alias_maximum: u16,
    ) -> Result<&'a str, Violation> {
        let alias = alias.value();
        // All up to our maximum are accepted [MQTT-3.3.2-10].
        if alias > alias_maximum {
            return Err(Violation::TopicAliasTooHigh(alias));
        }
        let index = usize::from(alias) - 1;
        if topic.is_empty() {
            let known = self.aliases.get(index).and_then(Option::as_deref);
            return known.ok_or(Violation::TopicAliasUnknown(alias));
        }
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, None);
        }
        self.aliases[index] = Some(topic.into());
        Ok(topic)
    }

    /// A PUBLISH has arrived.
    pub(super) fn arrive(
        &mut self,
        qos: QoS,
        packet_id: Option<PacketId>,
        dup: bool,
        receive_maximum: Option<u16>,
    ) -> Result<Arrival, Violation> {
        let Some(packet_id) = packet_id else {
            return Ok(Arrival::Deliver);
        };
        if qos == QoS::ExactlyOnce
            && let Some(received) = self.received.get_mut(&packet_id)
            && core::mem::take(&mut received.is_doubtful)
            && !dup
        {
            // What it has sent before, the server sends with DUP [MQTT-3.3.1-1]: this is another
            // message, of another session.
            self.forget(packet_id);
        }
        if qos == QoS::ExactlyOnce
            && let Some(received) = self.received.get_mut(&packet_id)
        {
            // No second delivery before its PUBREL, only another PUBREC [MQTT-4.3.3-10].
            if !received.counted {
                received.counted = true;
                self.qos_2_counted += 1;
            }
            if !received.is_waiting {
                received.is_waiting = true;
                self.waiting.push_back(Waiting {
                    packet_id,
                    serial: received.serial,
                    qos,
                    answer: received.accepted.then_some(ReasonCode::Success),
                });
            }
            return Ok(Arrival::Duplicate);
        }
        let outstanding = self.qos_1_waiting + self.qos_2_counted;
        if receive_maximum.is_some_and(|maximum| outstanding >= usize::from(maximum)) {
            return Err(Violation::ReceiveMaximumExceeded); // [MQTT-3.3.4-9]
        }
        self.next_serial += 1;
        let serial = self.next_serial;
        if qos == QoS::ExactlyOnce {
            self.received.insert(
                packet_id,
                Received {
                    serial,
                    is_waiting: true,
                    accepted: false,
                    counted: true,
                    released: Released::No,
                    is_doubtful: false,
                },
            );
            self.qos_2_counted += 1;
        } else {
            self.qos_1_waiting += 1;
        }
        self.waiting.push_back(Waiting {
            packet_id,
            serial,
            qos,
            answer: None,
        });
        Ok(Arrival::DeliverWith(AckToken { packet_id, serial }))
    }

    /// Whoever got a message has taken it, or refused it. `false` if that no longer matters: the
    /// connection of a QoS 1 message is gone, and the server will send it again.
    pub(super) fn accept(&mut self, token: AckToken, reason: ReasonCode) -> bool {
        // Mostly the first one.
        let waiting = self
            .waiting
            .iter_mut()
            .find(|waiting| waiting.serial == token.serial);
        let received = self
            .received
            .get_mut(&token.packet_id)
            .filter(|received| received.serial == token.serial);
        match (waiting, received) {
            (Some(waiting), received) if waiting.answer.is_none() => {
                waiting.answer = Some(reason);
                if let Some(received) = received {
                    received.accepted = true;
                }
                true
            }
            // Its connection is gone. When the server sends it again it is answered, not delivered;
            // or, if it was refused, delivered again.
            (None, Some(received)) if !received.accepted => {
                received.accepted = true;
                if reason.is_error() {
                    self.forget(token.packet_id);
                }
                true
            }
            _ => false,
        }
    }

    /// The server may have another session for us than that which identifiers are of.
    pub(super) fn doubt(&mut self) {
        for received in self.received.values_mut() {
            received.is_doubtful = true;
        }
    }

    /// Nobody has taken a message of a connection that is gone, and nobody will.
    pub(super) fn disown(&mut self, token: AckToken) {
        let received = self.received.get(&token.packet_id);
        if received.is_some_and(|it| it.serial == token.serial && !it.accepted && !it.is_waiting) {
            self.forget(token.packet_id);
        }
    }

    /// The next acknowledgement, in the order of the messages [MQTT-4.6.0-2] [MQTT-4.6.0-3].
    pub(super) fn poll_due(&mut self) -> Option<Due> {
        let front = self.waiting.front()?;
        let due = Due {
            packet_id: front.packet_id,
            qos: front.qos,
            reason: front.answer?,
        };
        self.waiting.pop_front();
        if due.qos != QoS::ExactlyOnce {
            self.qos_1_waiting -= 1;
        } else if due.reason.is_error() {
            // The identifier is free again [MQTT-4.3.3-9].
            self.forget(due.packet_id);
        } else if let Some(received) = self.received.get_mut(&due.packet_id) {
            received.is_waiting = false;
        }
        Some(due)
    }

    /// PUBREL. `withholds`: the identifier is free only when [`Inbox::complete`] says so.
    pub(super) fn release(&mut self, packet_id: PacketId, withholds: bool) -> Release {
        match self.received.get_mut(&packet_id) {
            None => Release::Unknown,
            Some(received) if received.is_waiting || !received.accepted => Release::NotYetReceived,
            Some(received) if withholds => {
                match core::mem::replace(&mut received.released, Released::Now) {
                    Released::No => Release::Waits,
                    Released::Now | Released::Before => Release::Known,
                }
            }
            Some(_) => {
                self.forget(packet_id);
                Release::Done
            }
        }
    }

    /// The identifier of a message that was released is free; whether that is to be said on this
    /// connection.
    pub(super) fn complete(&mut self, packet_id: PacketId) -> bool {
        let received = self.received.get(&packet_id);
        let released = received.map_or(Released::No, |received| received.released);
        if released != Released::No {
            self.forget(packet_id);
        }
        released == Released::Now
    }

    /// An identifier that an earlier process has acknowledged and that is not released yet.
    pub(super) fn restore(&mut self, packet_id: PacketId) {
        self.next_serial += 1;
        let received = Received {
            serial: self.next_serial,
            is_waiting: false,
            accepted: true,
            counted: false,
            released: Released::No,
            is_doubtful: true,
        };
        self.received.insert(packet_id, received);
    }

    fn forget(&mut self, packet_id: PacketId) {
        if let Some(received) = self.received.remove(&packet_id)
            && received.counted
        {
            self.qos_2_counted -= 1;
        }
    }

    /// Messages of this connection that the caller has not acknowledged yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn connection_lost(&mut self) {
        self.waiting.clear();
        self.aliases.clear();
        self.qos_1_waiting = 0;
        self.qos_2_counted = 0;
        for received in self.received.values_mut() {
            received.counted = false;
            received.is_waiting = false;
            if received.released == Released::Now {
                received.released = Released::Before;
            }
        }
    }

    /// The server has no session for us [MQTT-3.2.2-5].
    pub(super) fn session_lost(&mut self) {
        self.received.clear();
        self.qos_2_counted = 0;
    }
}

/// What a PUBREL met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    Done,
    /// For [`Inbox::complete`].
    Waits,
    /// It has come before, and waits already.
    Known,
    Unknown,
    /// We never sent a PUBREC for it.
    NotYetReceived,
}
