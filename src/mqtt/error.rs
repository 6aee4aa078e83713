//! Why bytes are not a packet. All of it is the peer's to fix; a fault maps to exactly one reason
//! code.

use core::fmt;

use crate::mqtt::packet::PacketType;
use crate::mqtt::property::{PropertyId, USER_PROPERTIES_MAX};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicError;

/// What is wrong with a packet, in which field, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError {
    /// What is wrong.
    pub fault: Fault,
    /// The packet's type; `None` if its first byte names none.
    pub packet: Option<PacketType>,
    /// The field, in the standard's words.
    pub field: &'static str,
    /// Where that field starts, counted from the packet's first byte.
    pub offset: usize,
}

impl DecodeError {
    /// What DISCONNECT or CONNACK says about it in 5.0.
    pub fn reason(&self) -> ReasonCode {
        self.fault.into()
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packet {
            Some(packet) => write!(f, "{packet}")?,
            None => f.write_str("packet")?,
        }
        write!(
            f,
            ": {} at byte {}: {}",
            self.field, self.offset, self.fault
        )
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeError> for ReasonCode {
    fn from(error: DecodeError) -> Self {
        error.fault.into()
    }
}

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The packet ends inside a field.
    Truncated,
    /// Bytes are left after the last field.
    TrailingBytes,
    /// A Variable Byte Integer goes on after four bytes.
    VariableByteIntegerTooLong,
    /// A Variable Byte Integer uses more bytes than it needs [MQTT-1.5.5-1].
    VariableByteIntegerNotMinimal,
    /// A string is not UTF-8, or encodes a surrogate [MQTT-1.5.4-1].
    NotUtf8,
    /// A string contains U+0000 [MQTT-1.5.4-2].
    NullCharacter,
    /// Packet type 0, or AUTH before 5.0.
    PacketTypeReserved,
    /// The fixed header's flags are not those that the type demands [MQTT-2.1.3-1].
    FlagsReserved,
    /// Bits that must be 0 are not [MQTT-3.1.2-3] [MQTT-3.8.3-5].
    BitsReserved,
    /// Both QoS bits are set [MQTT-3.3.1-4].
    QosInvalid,
    /// DUP on a QoS 0 PUBLISH [MQTT-3.3.1-2].
    DupWithoutQos,
    /// CONNECT's flags contradict one another [MQTT-3.1.2-11] [MQTT-3.1.2-13]
    /// [MQTT-3.1.2-22/3.1.1].
    ConnectFlagsInconsistent,
    /// A property identifier that 5.0 does not define.
    PropertyUnknown(u32),
    /// A property that this packet does not have (5.0, 2.2.2.2).
    PropertyMisplaced(PropertyId),

    /// A property that may stand once stands twice.
    PropertyDuplicate(PropertyId),
    /// A property's value is outside its range.
    PropertyValueInvalid(PropertyId),
    /// A property that this packet needs is missing, or one that another of its properties needs.
    PropertyMissing(PropertyId),
    /// Packet Identifier 0 [MQTT-2.2.1-3].
    PacketIdZero,
    /// A PUBLISH with neither a topic nor an alias (5.0, 3.3.2.1).
    TopicMissing,
    /// A SUBSCRIBE or UNSUBSCRIBE without a filter [MQTT-3.8.3-2] [MQTT-3.10.3-2].
    FiltersMissing,
    /// A SUBACK, or an UNSUBACK of 5.0, without a reason code.
    ReasonCodesMissing,
    /// A reason code that this packet may not carry.
    ReasonCodeInvalid(u8),
    /// Retain Handling 3 (5.0, 3.8.3.1).
    RetainHandlingInvalid,
    /// No Local on a shared subscription [MQTT-3.8.3-4].
    NoLocalOnShared,
    /// Session Present together with a refusal [MQTT-3.2.2-6].
    SessionPresentOnRefusal,

    /// CONNECT's protocol name is neither `MQTT` nor `MQIsdp` [MQTT-3.1.2-1].
    ProtocolNameUnknown,
    /// CONNECT's protocol level is not one that we speak under that name [MQTT-3.1.2-2].
    ProtocolLevelUnsupported(u8),

    /// A Topic Name that is not one [MQTT-3.3.2-2].
    TopicName(TopicError),
    /// A Topic Filter that is not one [MQTT-4.7.1-1] [MQTT-4.7.1-2].
    TopicFilter(TopicError),
    /// Topic Alias 0 [MQTT-3.3.2-8].
    TopicAliasZero,
    /// More than [`USER_PROPERTIES_MAX`]: our limit, not the standard's.
    UserPropertiesTooMany,
    /// The packet is larger than we said we take.
    PacketTooLarge {
        /// Its length, fixed header included.
        len: u32,
        /// Our Maximum Packet Size.
        max: u32,
    },
}

impl From<Fault> for ReasonCode {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Truncated
            | Fault::TrailingBytes
            | Fault::VariableByteIntegerTooLong
            | Fault::VariableByteIntegerNotMinimal
            | Fault::NotUtf8
            | Fault::NullCharacter
            | Fault::PacketTypeReserved
            | Fault::FlagsReserved
            | Fault::BitsReserved
            | Fault::QosInvalid
            | Fault::DupWithoutQos
            | Fault::ConnectFlagsInconsistent
            | Fault::PropertyUnknown(_)
            | Fault::PropertyMisplaced(_) => Self::MalformedPacket,
            Fault::PropertyDuplicate(_)
            | Fault::PropertyValueInvalid(_)
            | Fault::PropertyMissing(_)
            | Fault::PacketIdZero
            | Fault::TopicMissing
            | Fault::FiltersMissing
            | Fault::ReasonCodesMissing
            | Fault::ReasonCodeInvalid(_)
            | Fault::RetainHandlingInvalid
            | Fault::NoLocalOnShared
            | Fault::SessionPresentOnRefusal => Self::ProtocolError,
            Fault::ProtocolNameUnknown | Fault::ProtocolLevelUnsupported(_) => {
                Self::UnsupportedProtocolVersion
            }
            Fault::TopicName(_) => Self::TopicNameInvalid,
            Fault::TopicFilter(_) => Self::TopicFilterInvalid,
            Fault::TopicAliasZero => Self::TopicAliasInvalid,
            Fault::UserPropertiesTooMany => Self::QuotaExceeded,
            Fault::PacketTooLarge { .. } => Self::PacketTooLarge,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the packet ends inside this field"),
            Self::TrailingBytes => f.write_str("bytes are left after the last field"),
            Self::VariableByteIntegerTooLong => f.write_str("a length of more than four bytes"),
            Self::VariableByteIntegerNotMinimal => {
                f.write_str("a number in more bytes than it needs")
            }
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::NullCharacter => f.write_str("contains the null character"),
            Self::PacketTypeReserved => f.write_str("no such packet type in this version"),
            Self::FlagsReserved => f.write_str("the flags are not those of this packet type"),
            Self::BitsReserved => f.write_str("reserved bits are set"),
            Self::QosInvalid => f.write_str("QoS 3 does not exist"),
            Self::DupWithoutQos => f.write_str("DUP is set on a QoS 0 message"),
            Self::ConnectFlagsInconsistent => f.write_str("the flags contradict one another"),
            Self::PropertyUnknown(id) => write!(f, "unknown property 0x{id:02X}"),
            Self::PropertyMisplaced(id) => write!(f, "{id} does not belong here"),
            Self::PropertyDuplicate(id) => write!(f, "{id} stands twice"),
            Self::PropertyValueInvalid(id) => write!(f, "{id} has a value out of range"),
            Self::PropertyMissing(id) => write!(f, "{id} is missing"),
            Self::PacketIdZero => f.write_str("a packet identifier is never 0"),
            Self::TopicMissing => f.write_str("neither a topic nor an alias"),
            Self::FiltersMissing => f.write_str("no topic filter"),
            Self::ReasonCodesMissing => f.write_str("no reason code"),
            Self::ReasonCodeInvalid(code) => write!(f, "reason code 0x{code:02X} is not allowed"),
            Self::RetainHandlingInvalid => f.write_str("Retain Handling 3 does not exist"),
            Self::NoLocalOnShared => f.write_str("No Local on a shared subscription"),
            Self::SessionPresentOnRefusal => f.write_str("Session Present with a refusal"),
            Self::ProtocolNameUnknown => f.write_str("neither MQTT nor MQIsdp"),
            Self::ProtocolLevelUnsupported(level) => {
                write!(f, "protocol level {level} is not supported")
            }
            Self::TopicName(error) | Self::TopicFilter(error) => error.fmt(f),
            Self::TopicAliasZero => f.write_str("a topic alias is never 0"),
            Self::UserPropertiesTooMany => {
                write!(f, "more than {USER_PROPERTIES_MAX} user properties")
            }
            Self::PacketTooLarge { len, max } => {
                write!(f, "{len} bytes, but at most {max} are taken")
            }
        }
    }
}
