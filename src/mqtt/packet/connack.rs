//! CONNACK (section 3.2).

use crate::mqtt::basic::ProtocolVersion;
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::property::{ConnackProperties, PropertyId};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{Reader, Writer};

use super::PacketType;

/// The server's answer to CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether the server had a session of this client and goes on with it.
    pub session_present: bool,
    /// Success, or why not. Before 5.0 it travels as one of six return codes, see
    /// [`ReasonCode::to_connect_return_code`]; who sends one that has none must close instead, and
    /// if it is encoded nevertheless it says 0x03, server unavailable.
    pub reason: ReasonCode,
    /// None before 5.0.
    pub properties: ConnackProperties<'a>,
}

const SESSION_PRESENT: u8 = 0x01;
const SERVER_UNAVAILABLE: u8 = 0x03;

impl<'a> Connack<'a> {
    pub(super) fn read(
        version: ProtocolVersion,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let flags_at = reader.offset();
        let flags = reader.byte("connect acknowledge flags")?;
        if flags & !SESSION_PRESENT != 0 {
            // [MQTT-3.2.2-1]
            let fault = Fault::BitsReserved;
            return Err(reader.error_at(fault, "connect acknowledge flags", flags_at));
        }
        let session_present = flags & SESSION_PRESENT != 0;
        let code_at = reader.offset();
        let code = reader.byte("reason code")?;
        let reason = if version.is_v5() {
            ReasonCode::from_u8(code).filter(|code| code.is_allowed_in(PacketType::Connack))
        } else {
            ReasonCode::from_connect_return_code(code)
        };
        let Some(reason) = reason else {
            let fault = Fault::ReasonCodeInvalid(code); // [MQTT-3.2.2-8]
            return Err(reader.error_at(fault, "reason code", code_at));
        };
        if session_present && reason != ReasonCode::Success {
            // [MQTT-3.2.2-6]
            let fault = Fault::SessionPresentOnRefusal;
            return Err(reader.error_at(fault, "connect acknowledge flags", flags_at));
        }
        let mut properties = ConnackProperties::default();
        if version.is_v5() {
            let properties_at = reader.offset();
            properties = ConnackProperties::read(reader)?;
            if properties.authentication_data.is_some()
                && properties.authentication_method.is_none()
            {
                let fault = Fault::PropertyMissing(PropertyId::AuthenticationMethod);
                return Err(reader.error_at(fault, "properties", properties_at));
            }
        }
        Ok(Self {
            session_present,
            reason,
            properties,
        })
    }

    pub(super) fn body_len(&self, version: ProtocolVersion) -> usize {
        if version.is_v5() {
            2 + self.properties.section_len()
        } else {
            2
        }
    }

    pub(super) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        writer.byte(if self.session_present {
            SESSION_PRESENT
        } else {
            0
        });
        if version.is_v5() {
            writer.byte(self.reason.code());
            self.properties.write(writer);
        } else {
            let code = self.reason.to_connect_return_code();
            writer.byte(code.unwrap_or(SERVER_UNAVAILABLE));
        }
    }
}
