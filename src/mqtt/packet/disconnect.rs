//! DISCONNECT (section 3.14): from the client, and in 5.0 from the server too.

use crate::mqtt::basic::ProtocolVersion;
use crate::mqtt::error::DecodeError;
use crate::mqtt::property::DisconnectProperties;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{Reader, Writer};

use super::ack::read_reason;

/// The last packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always [`ReasonCode::NORMAL_DISCONNECTION`] before 5.0.
    pub reason: ReasonCode,
    /// None before 5.0.
    pub properties: DisconnectProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// With a reason and no properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            properties: DisconnectProperties::default(),
        }
    }

    pub(super) fn read(
        version: ProtocolVersion,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let mut disconnect = Self::new(ReasonCode::NORMAL_DISCONNECTION);
        // Reason and properties may be left out, from the end (3.14.2.1, 3.14.2.2.1).
        if version.is_v5() && !reader.is_empty() {
            disconnect.reason = read_reason(reader)?;
            if !reader.is_empty() {
                disconnect.properties = DisconnectProperties::read(reader)?;
            }
        }
        Ok(disconnect)
    }

    pub(super) fn body_len(&self, version: ProtocolVersion) -> usize {
        if !version.is_v5() {
            0
        } else if !self.properties.is_empty() {
            1 + self.properties.section_len()
        } else {
            usize::from(self.reason != ReasonCode::NORMAL_DISCONNECTION)
        }
    }

    pub(super) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        let len = self.body_len(version);
        if len > 0 {
            writer.byte(self.reason.code());
        }
        if len > 1 {
            self.properties.write(writer);
        }
    }
}
