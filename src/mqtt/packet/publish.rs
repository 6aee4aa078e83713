//! PUBLISH (section 3.3): the packet that matters. Parsing it borrows everything and allocates
//! nothing.

use crate::mqtt::basic::{PacketId, ProtocolVersion, QoS};
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::property::PublishProperties;
use crate::mqtt::wire::{Reader, Writer, variable_len};

use super::{PacketType, frame_len, open};

/// An application message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent before, perhaps received before [MQTT-3.3.1-1]. Only with QoS 1 and 2 [MQTT-3.3.1-2].
    pub dup: bool,
    /// How it is delivered.
    pub qos: QoS,
    /// To be kept for later subscribers; or, towards one, kept for it.
    pub retain: bool,
    /// A checked Topic Name; empty only in 5.0, and only with a Topic Alias that names the topic.
    pub topic: &'a str,
    /// There exactly with QoS 1 and 2 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// None before 5.0.
    pub properties: PublishProperties<'a>,
    /// Anything, also nothing.
    pub payload: &'a [u8],
}

const DUP: u8 = 0b1000;
const QOS_SHIFT: u8 = 1;
const QOS: u8 = 0b11 << QOS_SHIFT;
const RETAIN: u8 = 0b0001;

impl<'a> Publish<'a> {
    /// As [`Packet::parse`](super::Packet::parse), for a caller that knows from the first byte what
    /// it has.
    #[inline]
    pub fn parse(version: ProtocolVersion, frame: &'a [u8]) -> Result<Self, DecodeError> {
        let (packet, flags, mut reader) = open(version, frame)?;
        if packet != PacketType::Publish {
            return Err(reader.error_at(Fault::PacketTypeReserved, "packet type", 0));
        }
        Self::read(version, flags, &mut reader)
    }

    #[inline]
    pub(super) fn read(
        version: ProtocolVersion,
        flags: u8,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let Some(qos) = QoS::from_bits((flags & QOS) >> QOS_SHIFT) else {
            return Err(reader.error_at(Fault::QosInvalid, "flags", 0)); // [MQTT-3.3.1-4]
        };
        let dup = flags & DUP != 0;
        // 3.1 says nothing about DUP with QoS 0; there it is only ignored.
        let dup_is_wrong = dup && qos == QoS::AtMostOnce;
        if dup_is_wrong && version != ProtocolVersion::V3 {
            return Err(reader.error_at(Fault::DupWithoutQos, "flags", 0)); // [MQTT-3.3.1-2]
        }
        let topic_at = reader.offset();
        let topic = reader.topic_name_or_empty("topic name")?; // [MQTT-3.3.2-1] [MQTT-3.3.2-2]
        let packet_id = match qos {
            QoS::AtMostOnce => None, // [MQTT-2.2.1-2]
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
        };
        let properties = if version.is_v5() {
            PublishProperties::read(reader)?
        } else {
            PublishProperties::default()
        };
        if topic.is_empty() && properties.topic_alias.is_none() {
            // A Protocol Error in 5.0 (3.3.2.1); before, a name has a character [MQTT-4.7.3-1].
            return Err(reader.error_at(Fault::TopicMissing, "topic name", topic_at));
        }
        Ok(Self {
            dup: dup && !dup_is_wrong,
            qos,
            retain: flags & RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload: reader.rest(),
        })
    }

    /// Bytes of everything before a payload of `payload_len` bytes: fixed header, topic, packet
    /// identifier, properties. [`Publish::payload`] is not looked at, so that a large one can be
    /// sent as a segment of its own.
    pub fn head_len(&self, version: ProtocolVersion, payload_len: usize) -> usize {
        frame_len(self.body_len(version, payload_len)) - payload_len
    }

    /// Writes that head. The Remaining Length in it covers the payload.
    ///
    /// # Panics
    /// If `out` is not exactly [`Publish::head_len`] long.
    pub fn encode_head(&self, version: ProtocolVersion, payload_len: usize, out: &mut [u8]) {
        let mut writer = Writer::new(out);
        writer.byte(self.first_byte());
        writer.variable(self.body_len(version, payload_len));
        self.write_head(version, &mut writer);
        let written = writer.position();
        assert_eq!(written, out.len(), "a head is as long as it said");
    }

    /// Bytes of the whole packet.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        frame_len(self.body_len(version, self.payload.len()))
    }

    /// Writes the whole packet.
    ///
    /// # Panics
    /// If `out` is not exactly [`Publish::encoded_len`] long.
    pub fn encode(&self, version: ProtocolVersion, out: &mut [u8]) {
        let mut writer = Writer::new(out);
        writer.byte(self.first_byte());
        writer.variable(self.body_len(version, self.payload.len()));
        self.write_head(version, &mut writer);
        writer.bytes(self.payload);
        let written = writer.position();
        assert_eq!(written, out.len(), "a packet is as long as it said");
    }

    /// Where the packet identifier stands in the encoded packet, so that one encoding can be copied
    /// to many receivers and only these two bytes be different.
    pub fn packet_id_offset(&self, version: ProtocolVersion, payload_len: usize) -> Option<usize> {
        self.packet_id?;
        let len_of_len = variable_len(self.body_len(version, payload_len));
        Some(1 + len_of_len + 2 + self.topic.len())
    }

    pub(super) fn first_byte(&self) -> u8 {
        // DUP is never set with QoS 0 [MQTT-3.3.1-2].
        let dup = self.dup && self.qos != QoS::AtMostOnce;
        PacketType::Publish.first_byte()
            | if dup { DUP } else { 0 }
            | self.qos.bits() << QOS_SHIFT
            | if self.retain { RETAIN } else { 0 }
    }

    pub(super) fn body_len(&self, version: ProtocolVersion, payload_len: usize) -> usize {
        let properties = if version.is_v5() {
            self.properties.section_len()
        } else {
            0
        };
        2 + self.topic.len() + self.packet_id.map_or(0, |_| 2) + properties + payload_len
    }

    pub(super) fn write_head(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        assert_eq!(
            self.packet_id.is_some(),
            self.qos != QoS::AtMostOnce,
            "a packet identifier belongs to QoS 1 and 2"
        );
        writer.text(self.topic);
        if let Some(id) = self.packet_id {
            writer.packet_id(id);
        }
        if version.is_v5() {
            self.properties.write(writer);
        }
    }
}
