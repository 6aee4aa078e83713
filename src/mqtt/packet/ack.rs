//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7): one layout for all four.

use crate::mqtt::basic::{PacketId, ProtocolVersion};
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::property::AckProperties;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{Reader, Writer};

use super::PacketType;

/// An acknowledgement of a PUBLISH, or a step of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// That of the PUBLISH [MQTT-2.2.1-5].
    pub packet_id: PacketId,
    /// Always Success before 5.0, which has no way to say anything else.
    pub reason: ReasonCode,
    /// None before 5.0.
    pub properties: AckProperties<'a>,
}

impl<'a> Ack<'a> {
    /// With a reason and no properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            properties: AckProperties::default(),
        }
    }

    /// With Success and no properties.
    pub fn success(packet_id: PacketId) -> Self {
        Self::new(packet_id, ReasonCode::Success)
    }

    /// Reads an acknowledgement that has four bytes, as nearly all have: Success, and no
    /// properties. `None`: it is another packet, or none; [`Packet::parse`](super::Packet::parse)
    /// knows.
    pub fn parse_short(frame: &[u8]) -> Option<(PacketType, PacketId)> {
        let [first_byte, 2, high, low] = *frame else {
            return None;
        };
        let packet_type = match first_byte {
            0x40 => PacketType::Puback,
            0x50 => PacketType::Pubrec,
            0x62 => PacketType::Pubrel,
            0x70 => PacketType::Pubcomp,
            _ => return None,
        };
        let packet_id = PacketId::new(u16::from_be_bytes([high, low]))?;
        Some((packet_type, packet_id))
    }

    pub(super) fn read(
        version: ProtocolVersion,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let mut ack = Self::success(reader.packet_id()?);
        // Reason and properties may be left out, from the end (3.4.2.1, 3.4.2.2.1).
        if version.is_v5() && !reader.is_empty() {
            ack.reason = read_reason(reader)?;
            if !reader.is_empty() {
                ack.properties = AckProperties::read(reader)?;
            }
        }
        Ok(ack)
    }

    pub(super) fn body_len(&self, version: ProtocolVersion) -> usize {
        if !version.is_v5() {
            2
        } else if !self.properties.is_empty() {
            3 + self.properties.section_len()
        } else if self.reason == ReasonCode::Success {
            2
        } else {
            3
        }
    }

    pub(super) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let len = self.body_len(version);
        writer.packet_id(self.packet_id);
        if len > 2 {
            writer.byte(self.reason.code());
        }
        if len > 3 {
            self.properties.write(writer);
        }
    }
}

/// A reason code that this packet may carry [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1]
/// [MQTT-3.7.2-1] [MQTT-3.14.2-1] [MQTT-3.15.2-1].
pub(super) fn read_reason(reader: &mut Reader<'_>) -> Result<ReasonCode, DecodeError> {
    const FIELD: &str = "reason code";
    let at = reader.offset();
    let code = reader.byte(FIELD)?;
    ReasonCode::from_u8(code)
        .filter(|reason| reason.is_allowed_in(reader.packet()))
        .ok_or_else(|| reader.error_at(Fault::ReasonCodeInvalid(code), FIELD, at))
}
