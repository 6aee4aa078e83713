//! AUTH (section 3.15): 5.0 only.

use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::property::{AuthProperties, PropertyId};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::wire::{Reader, Writer};

use super::ack::read_reason;

/// A step of an extended authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// With an Authentication Method, unless the packet is empty.
    pub properties: AuthProperties<'a>,
}

impl<'a> Auth<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        // An empty one says Success and nothing else (3.15.2.1).
        if reader.is_empty() {
            return Ok(Self {
                reason: ReasonCode::Success,
                properties: AuthProperties::default(),
            });
        }
        let reason = read_reason(reader)?;
        let properties_at = reader.offset();
        let properties = AuthProperties::read(reader)?;
        if properties.authentication_method.is_none() {
            // A Protocol Error (3.15.2.2.2).
            let fault = Fault::PropertyMissing(PropertyId::AuthenticationMethod);
            return Err(reader.error_at(fault, "properties", properties_at));
        }
        Ok(Self { reason, properties })
    }

    pub(super) fn body_len(&self) -> usize {
        if self.reason == ReasonCode::Success && self.properties.is_empty() {
            0
        } else {
            1 + self.properties.section_len()
        }
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        if self.body_len() > 0 {
            writer.byte(self.reason.code());
            self.properties.write(writer);
        }
    }
}
