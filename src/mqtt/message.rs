//! An application message that somebody keeps: a queue, the retained store, a window of
//! unacknowledged ones.
//!
//! It owns its topic, its properties and its payload, in one allocation each and none for what is
//! empty; the payload can be shared with others. What belongs to one hop is not kept: packet
//! identifier, DUP, topic alias, subscription identifiers. The expiry interval becomes a moment, so
//! that what is left of it can be told later [MQTT-3.3.2-6].

use crate::buffer::Payload;
use crate::mqtt::basic::{ProtocolVersion, QoS};
use crate::mqtt::packet::{PacketType, Publish, Will};
use crate::mqtt::property::PublishProperties;
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::{Reader, Writer};
use crate::time::{Duration, Instant};

/// A message without the journey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationMessage {
    /// Invariant: a Topic Name.
    topic: Box<str>,
    /// Invariant: PUBLISH properties as on the wire, without their length, and without those of one
    /// hop.
    properties: Box<[u8]>,
    payload: Payload,
    qos: QoS,
    retain: bool,
    expiry: Option<Expiry>,
}

/// When a message dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expiry {
    /// Seconds, as published.
    interval: u32,
    /// `None` while the interval does not run: a will that has not been published. Monotonic, so
    /// that a wall clock that is set or stepped neither kills a message nor prolongs its life.
    deadline: Option<Instant>,
}

impl ApplicationMessage {
    /// A message as its sender means it. Of `properties`, those of one hop are left out; its expiry
    /// runs from `now`.
    pub fn new(
        topic: TopicName<'_>,
        payload: Payload,
        qos: QoS,
        retain: bool,
        properties: &PublishProperties<'_>,
        now: Instant,
    ) -> Self {
        let mut message = Self {
            topic: topic.as_str().into(),
            properties: encode(properties),
            payload,
            qos,
            retain,
            expiry: properties.message_expiry_interval.map(|interval| Expiry {
                interval,
                deadline: None,
            }),
        };
        message.start_expiry(now);
        message
    }

    /// A message that has arrived. `topic` is what its alias stands for, or its own; `payload` is
    /// its payload, copied or taken over with the buffer that it was read into.
    pub fn from_publish(
        publish: &Publish<'_>,
        topic: TopicName<'_>,
        payload: Payload,
        now: Instant,
    ) -> Self {
        let Publish { qos, retain, .. } = *publish;
        Self::new(topic, payload, qos, retain, &publish.properties, now)
    }

    /// A will. Its expiry does not run before [`ApplicationMessage::start_expiry`] says that it is
    /// published.
    pub fn from_will(will: &Will<'_>) -> Self {
        let properties = PublishProperties {
            payload_format_indicator: will.properties.payload_format_indicator,
            response_topic: will.properties.response_topic,
            correlation_data: will.properties.correlation_data,
            content_type: will.properties.content_type,
            user_properties: will.properties.user_properties,
            ..PublishProperties::default()
        };
        let expiry = will.properties.message_expiry_interval;
        Self {
            topic: will.topic.as_str().into(),
            properties: encode(&properties),
            payload: Payload::copy_from(will.payload),
            qos: will.qos,
            retain: will.retain,
            expiry: expiry.map(|interval| Expiry {
                interval,
                deadline: None,
            }),
        }
    }

    /// Lets the expiry interval run from `now`, if there is one.
    pub fn start_expiry(&mut self, now: Instant) {
        if let Some(expiry) = &mut self.expiry {
            expiry.deadline = Some(now + Duration::from_secs(u64::from(expiry.interval)));
        }
    }

    /// Where it goes.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What it says.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// As published; what a subscriber gets is at most this.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// As published.
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// When it dies, if ever and if its interval runs.
    pub fn expires_at(&self) -> Option<Instant> {
        self.expiry.and_then(|expiry| expiry.deadline)
    }

    /// Whether its time has passed [MQTT-3.3.2-5].
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at().is_some_and(|deadline| deadline <= now)
    }

    /// Bytes of its topic, its properties and its payload.
    pub fn content_len(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload().len()
    }

    /// Bytes of memory that it keeps alive, for the accountant.
    pub fn footprint(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.properties.len() + self.payload.footprint()
    }

    /// As a packet of this version: `qos` and `retain` as published, no packet identifier, no DUP.
    /// Whoever sends it sets the QoS for its receiver, and with one above 0 a packet identifier;
    /// before that it cannot be encoded. The expiry interval is what is left at `now`.
    pub fn as_publish(&self, version: ProtocolVersion, now: Instant) -> Publish<'_> {
        let properties = if version.is_v5() {
            PublishProperties {
                message_expiry_interval: self.remaining_expiry(now),
                ..self.properties()
            }
        } else {
            PublishProperties::default()
        };
        Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id: None,
            properties,
            payload: &self.payload,
        }
    }

    /// The properties that travel with it unaltered [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16]
    /// [MQTT-3.3.2-17] [MQTT-3.3.2-20].
    pub fn properties(&self) -> PublishProperties<'_> {
        if self.properties.is_empty() {
            return PublishProperties::default();
        }
        PublishProperties::read_content(Reader::new(PacketType::Publish, &self.properties, 0))
            .expect("what was encoded from properties reads as properties")
    }

    /// Seconds left, a begun one counted whole, so that a message that is not dead never says 0.
    fn remaining_expiry(&self, now: Instant) -> Option<u32> {
        let expiry = self.expiry?;
        let Some(deadline) = expiry.deadline else {
            return Some(expiry.interval);
        };
        let left = deadline.since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(u32::try_from(seconds).map_or(expiry.interval, |left| left.min(expiry.interval)))
    }
}

fn encode(properties: &PublishProperties<'_>) -> Box<[u8]> {
    let kept = PublishProperties {
        message_expiry_interval: None,
        topic_alias: None,
        subscription_identifiers: crate::mqtt::SubscriptionIdentifiers::EMPTY,
        ..*properties
    };
    let mut bytes = vec![0; kept.content_len()].into_boxed_slice();
    kept.write_content(&mut Writer::new(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{
        PayloadFormat, SubscriptionIdentifier, SubscriptionIdentifiers, TopicAlias,
        UserPropertiesBuf,
    };

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(1) + Duration::from_secs(seconds)
    }

    fn message(expiry: Option<u32>, now: Instant) -> ApplicationMessage {
        let properties = PublishProperties {
            message_expiry_interval: expiry,
            ..PublishProperties::default()
        };
        let topic = TopicName::new("a/b").unwrap();
        let payload = Payload::copy_from(b"21.4");
        ApplicationMessage::new(topic, payload, QoS::AtLeastOnce, true, &properties, now)
    }

    fn expiry_of(message: &ApplicationMessage, now: Instant) -> Option<u32> {
        let publish = message.as_publish(ProtocolVersion::V5, now);
        publish.properties.message_expiry_interval
    }

    #[test]
    fn what_belongs_to_one_hop_is_left_behind() {
        let ids = [SubscriptionIdentifier::new(7).unwrap()];
        let mut pairs = UserPropertiesBuf::new();
        assert!(pairs.push("unit", "°C") && pairs.push("unit", "K"));
        let properties = PublishProperties {
            payload_format_indicator: Some(PayloadFormat::Utf8),
            message_expiry_interval: Some(60),
            topic_alias: TopicAlias::new(3),
            response_topic: TopicName::new("r").ok(),
            correlation_data: Some(b"\0\xFF"),
            subscription_identifiers: SubscriptionIdentifiers::from_slice(&ids),
            content_type: Some("text/plain"),
            user_properties: pairs.as_properties(),
        };
        let publish = Publish {
            dup: true,
            qos: QoS::ExactlyOnce,
            retain: true,
            topic: "",
            packet_id: crate::mqtt::PacketId::new(9),
            properties,
            payload: b"x",
        };
        let topic = TopicName::new("t").unwrap();
        let payload = Payload::copy_from(publish.payload);
        let message = ApplicationMessage::from_publish(&publish, topic, payload, at(0));
        let back = message.as_publish(ProtocolVersion::V5, at(0));
        let expected = Publish {
            dup: false,
            topic: "t",
            packet_id: None,
            properties: PublishProperties {
                topic_alias: None,
                subscription_identifiers: SubscriptionIdentifiers::EMPTY,
                ..properties
            },
            ..publish
        };
        assert_eq!(back, expected);
        let old = message.as_publish(ProtocolVersion::V4, at(0));
        assert!(old.properties.is_empty());
    }

    #[test]
    fn the_receiver_is_told_what_is_left_of_the_expiry() {
        let message = message(Some(10), at(0));
        assert_eq!(expiry_of(&message, at(0)), Some(10));
        assert_eq!(expiry_of(&message, at(4)), Some(6));
        let almost = at(10).as_nanos() - 1;
        assert_eq!(expiry_of(&message, Instant::from_nanos(almost)), Some(1));
        assert!(!message.is_expired(Instant::from_nanos(almost)));
        assert!(message.is_expired(at(10)));
        assert_eq!(expiry_of(&message, at(11)), Some(0));
    }

    #[test]
    fn a_will_does_not_age_before_it_is_published() {
        let will = Will {
            topic: TopicName::new("w").unwrap(),
            payload: b"gone",
            qos: QoS::AtMostOnce,
            retain: false,
            properties: crate::mqtt::WillProperties {
                message_expiry_interval: Some(5),
                content_type: Some("c"),
                ..Default::default()
            },
        };
        let mut message = ApplicationMessage::from_will(&will);
        assert!(!message.is_expired(at(100)));
        message.start_expiry(at(100));
        assert_eq!(message.expires_at(), Some(at(105)));
        assert_eq!(message.properties().content_type, Some("c"));
    }
}
