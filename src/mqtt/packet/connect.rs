//! CONNECT (section 3.1): the one packet that is read without knowing the version.

use crate::mqtt::basic::{ProtocolVersion, QoS};
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::packet::{PacketType, check_minimal};
use crate::mqtt::property::{ConnectProperties, PropertyId, WillProperties};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::{Reader, Writer, read_variable};

/// A client's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// What this connection speaks from now on.
    pub version: ProtocolVersion,
    /// Clean Start in 5.0, Clean Session before: forget what this client left [MQTT-3.1.2-4].
    pub clean_start: bool,
    /// Seconds; 0 is off.
    pub keep_alive: u16,
    /// May be empty; what that means is the broker's to say [MQTT-3.1.3-6].
    pub client_id: &'a str,
    /// To be published if this client is lost.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password. Never log it.
    pub password: Option<&'a [u8]>,
    /// None before 5.0.
    pub properties: ConnectProperties<'a>,
}

/// A message for when the client is lost (3.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where it goes.
    pub topic: TopicName<'a>,
    /// What it says.
    pub payload: &'a [u8],
    /// At which quality of service.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// None before 5.0.
    pub properties: WillProperties<'a>,
}

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_QOS: u8 = 0b11 << WILL_QOS_SHIFT;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;

/// The bit that bridges set in the protocol level to say what they are. It is not part of any
/// standard; a broker that does not know it refuses in the words of the version below it, and the
/// bridge then connects without.
const BRIDGE_BIT: u8 = 0x80;

impl<'a> Connect<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let header_len = reader.offset();
        let body_len = reader.remaining();
        let version = read_version(reader)?;
        if version.is_v5() {
            check_minimal(PacketType::Connect, body_len as u32, header_len - 1)?;
        }
        let flags_at = reader.offset();
        let flags = reader.byte("connect flags")?;
        let flags_error = |fault| reader_error(flags_at, fault);
        if flags & RESERVED != 0 {
            return Err(flags_error(Fault::BitsReserved)); // [MQTT-3.1.2-3]
        }
        let will_qos = QoS::from_bits((flags & WILL_QOS) >> WILL_QOS_SHIFT)
            .ok_or_else(|| flags_error(Fault::QosInvalid))?; // [MQTT-3.1.2-12]
        if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
            // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
            return Err(flags_error(Fault::ConnectFlagsInconsistent));
        }
        if !version.is_v5() && flags & USERNAME == 0 && flags & PASSWORD != 0 {
            // [MQTT-3.1.2-22/3.1.1]; 5.0 allows a password alone.
            return Err(flags_error(Fault::ConnectFlagsInconsistent));
        }
        let keep_alive = reader.u16("keep alive")?;
        let mut properties = ConnectProperties::default();
        if version.is_v5() {
            properties = ConnectProperties::read(reader)?;
            if properties.authentication_data.is_some()
                && properties.authentication_method.is_none()
            {
                // Data without a method is a Protocol Error (3.1.2.11.10).
                let fault = Fault::PropertyMissing(PropertyId::AuthenticationMethod);
                return Err(reader.error(fault, "properties"));
            }
        }
        // The fields of the payload, in the only order there is [MQTT-3.1.3-1].
        let client_id = reader.text("client identifier")?;
        let will = if flags & WILL == 0 {
            None
        } else {
            let properties = if version.is_v5() {
                WillProperties::read(reader)?
            } else {
                WillProperties::default()
            };
            Some(Will {
                properties,
                topic: reader.topic_name("will topic")?,
                payload: reader.binary("will payload")?,
                qos: will_qos,
                retain: flags & WILL_RETAIN != 0,
            })
        };
        let username = if flags & USERNAME == 0 {
            None
        } else {
            Some(reader.text("user name")?) // [MQTT-3.1.3-12]
        };
        let password = if flags & PASSWORD == 0 {
            None
        } else {
            Some(reader.binary("password")?)
        };
        Ok(Self {
            version,
            clean_start: flags & CLEAN_START != 0,
            keep_alive,
            client_id,
            will,
            username,
            password,
            properties,
        })
    }

    fn flags(&self) -> u8 {
        let flag = |bit, set| if set { bit } else { 0 };
        let will = self.will.map_or(0, |will| {
            WILL | will.qos.bits() << WILL_QOS_SHIFT | flag(WILL_RETAIN, will.retain)
        });
        flag(CLEAN_START, self.clean_start)
            | will
            | flag(USERNAME, self.username.is_some())
            | flag(PASSWORD, self.password.is_some())
    }

    pub(super) fn body_len(&self) -> usize {
        let properties = |len| if self.version.is_v5() { len } else { 0 };
        let will = self.will.map_or(0, |will| {
            properties(will.properties.section_len())
                + 2
                + will.topic.as_str().len()
                + 2
                + will.payload.len()
        });
        2 + self.version.protocol_name().len()
            + 1
            + 1
            + 2
            + properties(self.properties.section_len())
            + 2
            + self.client_id.len()
            + will
            + self.username.map_or(0, |name| 2 + name.len())
            + self.password.map_or(0, |password| 2 + password.len())
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self.version.protocol_name());
        writer.byte(self.version.level());
        writer.byte(self.flags());
        writer.u16(self.keep_alive);
        if self.version.is_v5() {
            self.properties.write(writer);
        }
        writer.text(self.client_id);
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                will.properties.write(writer);
            }
            writer.text(will.topic.as_str());
            writer.binary(will.payload);
        }
        if let Some(name) = self.username {
            writer.text(name);
        }
        if let Some(password) = self.password {
            writer.binary(password);
        }
    }
}

fn reader_error(offset: usize, fault: Fault) -> DecodeError {
    DecodeError {
        fault,
        packet: Some(PacketType::Connect),
        field: "connect flags",
        offset,
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name_at = reader.offset();
    let name = reader.binary("protocol name")?;
    let level_at = reader.offset();
    let level = match name {
        b"MQTT" | b"MQIsdp" => reader.byte("protocol level")?,
        _ => {
            return Err(reader.error_at(Fault::ProtocolNameUnknown, "protocol name", name_at));
        }
    };
    match (name, level) {
        (b"MQIsdp", 3) => Ok(ProtocolVersion::V3),
        (b"MQTT", 4) => Ok(ProtocolVersion::V4),
        (b"MQTT", 5) => Ok(ProtocolVersion::V5),
        _ => {
            let fault = Fault::ProtocolLevelUnsupported(level);
            Err(reader.error_at(fault, "protocol level", level_at))
        }
    }
}

/// The CONNACK to answer a CONNECT with that could not be read: in which version, and with which
/// reason. `None` where the server closes without one.
///
/// * A protocol level that we do not speak is refused in the words of the version that is nearest
///   to it: 0x01 below 5 [MQTT-3.1.2-2/3.1.1], 0x84 from there [MQTT-3.1.2-2].
/// * What is malformed gets its reason code in 5.0 (3.1.4), and no answer in 3.1.1
///   [MQTT-3.1.4-1/3.1.1].
/// * Who does not say `MQTT` gets none, so that a port scan learns nothing.
pub fn connack_for(frame: &[u8], error: &DecodeError) -> Option<(ProtocolVersion, ReasonCode)> {
    if error.packet != Some(PacketType::Connect) {
        return None;
    }
    match error.fault {
        Fault::ProtocolLevelUnsupported(level) => {
            let is_v5 = level & !BRIDGE_BIT >= ProtocolVersion::V5.level();
            let version = if is_v5 {
                ProtocolVersion::V5
            } else {
                ProtocolVersion::V4
            };
            Some((version, error.reason()))
        }
        Fault::ProtocolNameUnknown => None,
        _ => {
            let (_, len_of_len) = read_variable(frame.get(1..)?).ok()??;
            let mut reader = Reader::new(PacketType::Connect, frame, 1 + len_of_len);
            let version = read_version(&mut reader).ok()?;
            version.is_v5().then(|| (version, error.reason()))
        }
    }
}
