//! The small values that every packet speaks in: version, quality of service, identifiers.
//!
//! Each is a newtype whose invariant is checked once, where the bytes come in, so that no later
//! code has to ask again.

use core::fmt;
use core::num::{NonZeroU16, NonZeroU32};

use crate::mqtt::wire::VARIABLE_BYTE_INTEGER_MAX;

/// The version that a CONNECT asks for; everything after it on that connection is read and written
/// in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3. Differs from 3.1.1 in CONNECT's name alone, and
    /// in flags that old clients set (DUP on SUBSCRIBE, UNSUBSCRIBE and PUBREL).
    V3,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V4,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

impl ProtocolVersion {
    /// The byte in CONNECT.
    pub const fn level(self) -> u8 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name in CONNECT [MQTT-3.1.2-1].
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::V3 => "MQIsdp",
            Self::V4 | Self::V5 => "MQTT",
        }
    }

    /// Whether packets of this version carry properties and reason codes.
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// As people say it: `3.1`, `3.1.1`, `5.0`.
impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3 => "3.1",
            Self::V4 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

/// Quality of service. Ordered, so that the effective one is `published.min(granted)`
/// [MQTT-3.8.4-8].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// From two bits; `None` for 3, which no packet may carry [MQTT-3.3.1-4].
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The two bits on the wire.
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// `0`, `1` or `2`.
impl fmt::Display for QoS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bits())
    }
}

/// A Packet Identifier; never zero [MQTT-2.2.1-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The first one that a session uses.
    pub const FIRST: Self = Self(NonZeroU16::MIN);

    /// `None` for zero.
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// As on the wire.
    pub const fn value(self) -> u16 {
        self.0.get()
    }

    /// The one after this; after 65 535 comes 1.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(id) => Self(id),
            None => Self::FIRST,
        }
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Topic Alias; never zero [MQTT-3.3.2-8].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicAlias(NonZeroU16);

impl TopicAlias {
    /// `None` for zero.
    pub const fn new(alias: u16) -> Option<Self> {
        match NonZeroU16::new(alias) {
            Some(alias) => Some(Self(alias)),
            None => None,
        }
    }

    /// As on the wire.
    pub const fn value(self) -> u16 {
        self.0.get()
    }
}

/// How many QoS 1 and QoS 2 publications a receiver takes at once; never zero (5.0, 3.1.2.11.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiveMaximum(NonZeroU16);

impl ReceiveMaximum {
    /// What holds when a peer does not say (5.0, 3.1.2.11.3).
    pub const DEFAULT: Self = Self(NonZeroU16::MAX);

    /// `None` for zero.
    pub const fn new(count: u16) -> Option<Self> {
        match NonZeroU16::new(count) {
            Some(count) => Some(Self(count)),
            None => None,
        }
    }

    /// As on the wire.
    pub const fn value(self) -> u16 {
        self.0.get()
    }
}

impl Default for ReceiveMaximum {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A Subscription Identifier, 1 to 268 435 455 (5.0, 3.8.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionIdentifier(NonZeroU32);

impl SubscriptionIdentifier {
    /// `None` for zero and for what a Variable Byte Integer cannot hold.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(nonzero) if id <= VARIABLE_BYTE_INTEGER_MAX => Some(Self(nonzero)),
            _ => None,
        }
    }

    /// As on the wire.
    pub const fn value(self) -> u32 {
        self.0.get()
    }
}

/// What a Payload Format Indicator says about a payload (5.0, 3.3.2.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PayloadFormat {
    /// Unspecified bytes.
    Bytes = 0,
    /// UTF-8 text.
    Utf8 = 1,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_wrap_past_zero() {
        let last = PacketId::new(u16::MAX).unwrap();
        assert_eq!(last.next(), PacketId::FIRST);
        assert_eq!(PacketId::new(0), None);
    }

    #[test]
    fn a_subscription_identifier_has_28_bits_and_is_not_zero() {
        assert_eq!(SubscriptionIdentifier::new(0), None);
        assert_eq!(SubscriptionIdentifier::new(268_435_456), None);
        assert_eq!(
            SubscriptionIdentifier::new(268_435_455).map(SubscriptionIdentifier::value),
            Some(268_435_455)
        );
    }

    #[test]
    fn qos_three_does_not_exist() {
        assert_eq!(QoS::from_bits(3), None);
        assert_eq!(QoS::from_bits(2), Some(QoS::ExactlyOnce));
    }
}
