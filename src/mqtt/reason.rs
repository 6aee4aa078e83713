//! Reason codes of 5.0 (section 2.4), where each may stand, and what is left of them in 3.1.1.
//!
//! One table serves all packets: [`ReasonCode::is_allowed_in`] says which code may stand where, and
//! CONNACK's return codes of 3.1.1 are mapped here and nowhere else.

use core::fmt;

use crate::mqtt::packet::PacketType;

macro_rules! reason_codes {
    ($( $code:literal $variant:ident $name:literal [$($packet:ident)*], )*) => {
        /// Why something went as it did. 0x80 and above are failures.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $(
                #[doc = concat!("`", stringify!($code), "`: ", $name, ".")]
                $variant = $code,
            )*
        }

        impl ReasonCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// `None` for a number that 5.0 does not define.
            pub const fn from_u8(code: u8) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$variant), )*
                    _ => None,
                }
            }

            /// The standard's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )*
                }
            }

            /// Whether a packet of this type may carry the code (the table of 2.4).
            pub const fn is_allowed_in(self, packet: PacketType) -> bool {
                match self {
                    $( Self::$variant => matches!(packet, $(PacketType::$packet)|*), )*
                }
            }
        }
    };
}

reason_codes! {
    0x00 Success "Success" [Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth],
    0x01 GrantedQos1 "Granted QoS 1" [Suback],
    0x02 GrantedQos2 "Granted QoS 2" [Suback],
    0x04 DisconnectWithWillMessage "Disconnect with Will Message" [Disconnect],
    0x10 NoMatchingSubscribers "No matching subscribers" [Puback Pubrec],
    0x11 NoSubscriptionExisted "No subscription existed" [Unsuback],
    0x18 ContinueAuthentication "Continue authentication" [Auth],
    0x19 ReAuthenticate "Re-authenticate" [Auth],
    0x80 UnspecifiedError "Unspecified error" [Connack Puback Pubrec Suback Unsuback Disconnect],
    0x81 MalformedPacket "Malformed Packet" [Connack Disconnect],
    0x82 ProtocolError "Protocol Error" [Connack Disconnect],
    0x83 ImplementationSpecificError "Implementation specific error"
        [Connack Puback Pubrec Suback Unsuback Disconnect],
    0x84 UnsupportedProtocolVersion "Unsupported Protocol Version" [Connack],
    0x85 ClientIdentifierNotValid "Client Identifier not valid" [Connack],
    0x86 BadUserNameOrPassword "Bad User Name or Password" [Connack],
    0x87 NotAuthorized "Not authorized" [Connack Puback Pubrec Suback Unsuback Disconnect],
    0x88 ServerUnavailable "Server unavailable" [Connack],
    0x89 ServerBusy "Server busy" [Connack Disconnect],
    0x8A Banned "Banned" [Connack],
    0x8B ServerShuttingDown "Server shutting down" [Disconnect],
    0x8C BadAuthenticationMethod "Bad authentication method" [Connack Disconnect],
    0x8D KeepAliveTimeout "Keep Alive timeout" [Disconnect],
    0x8E SessionTakenOver "Session taken over" [Disconnect],
    0x8F TopicFilterInvalid "Topic Filter invalid" [Suback Unsuback Disconnect],
    0x90 TopicNameInvalid "Topic Name invalid" [Connack Puback Pubrec Disconnect],
    0x91 PacketIdentifierInUse "Packet Identifier in use" [Puback Pubrec Suback Unsuback],
    0x92 PacketIdentifierNotFound "Packet Identifier not found" [Pubrel Pubcomp],
    0x93 ReceiveMaximumExceeded "Receive Maximum exceeded" [Disconnect],
    0x94 TopicAliasInvalid "Topic Alias invalid" [Disconnect],
    0x95 PacketTooLarge "Packet too large" [Connack Disconnect],
    0x96 MessageRateTooHigh "Message rate too high" [Disconnect],
    0x97 QuotaExceeded "Quota exceeded" [Connack Puback Pubrec Suback Disconnect],
    0x98 AdministrativeAction "Administrative action" [Disconnect],
    0x99 PayloadFormatInvalid "Payload format invalid" [Connack Puback Pubrec Disconnect],
    0x9A RetainNotSupported "Retain not supported" [Connack Disconnect],
    0x9B QosNotSupported "QoS not supported" [Connack Disconnect],
    0x9C UseAnotherServer "Use another server" [Connack Disconnect],
    0x9D ServerMoved "Server moved" [Connack Disconnect],
    0x9E SharedSubscriptionsNotSupported "Shared Subscriptions not supported" [Suback Disconnect],
    0x9F ConnectionRateExceeded "Connection rate exceeded" [Connack Disconnect],
    0xA0 MaximumConnectTime "Maximum connect time" [Disconnect],
    0xA1 SubscriptionIdentifiersNotSupported "Subscription Identifiers not supported"
        [Suback Disconnect],
    0xA2 WildcardSubscriptionsNotSupported "Wildcard Subscriptions not supported"
        [Suback Disconnect],
}

impl ReasonCode {
    /// 0x00 in DISCONNECT.
    pub const NORMAL_DISCONNECTION: Self = Self::Success;
    /// 0x00 in SUBACK.
    pub const GRANTED_QOS_0: Self = Self::Success;

    /// As on the wire in 5.0.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// 0x80 and above.
    pub const fn is_error(self) -> bool {
        self.code() >= 0x80
    }

    /// What SUBACK says for a granted subscription.
    pub const fn granted(qos: crate::mqtt::QoS) -> Self {
        match qos {
            crate::mqtt::QoS::AtMostOnce => Self::GRANTED_QOS_0,
            crate::mqtt::QoS::AtLeastOnce => Self::GrantedQos1,
            crate::mqtt::QoS::ExactlyOnce => Self::GrantedQos2,
        }
    }

    /// CONNACK's return code in 3.1.1 (its table 3.1). `None` if none applies: then the server
    /// closes without a CONNACK [MQTT-3.2.2-6/3.1.1].
    pub const fn to_connect_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0x00),
            Self::UnsupportedProtocolVersion => Some(0x01),
            Self::ClientIdentifierNotValid => Some(0x02),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(0x03),
            Self::BadUserNameOrPassword => Some(0x04),
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => Some(0x05),
            _ => None,
        }
    }

    /// The other way round. `None` for the numbers that 3.1.1 reserves.
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        match code {
            0x00 => Some(Self::Success),
            0x01 => Some(Self::UnsupportedProtocolVersion),
            0x02 => Some(Self::ClientIdentifierNotValid),
            0x03 => Some(Self::ServerUnavailable),
            0x04 => Some(Self::BadUserNameOrPassword),
            0x05 => Some(Self::NotAuthorized),
            _ => None,
        }
    }

    /// SUBACK's return code in 3.1.1: a granted QoS, or 0x80 for every failure
    /// [MQTT-3.9.3-2/3.1.1].
    pub const fn to_suback_return_code(self) -> u8 {
        if self.is_error() { 0x80 } else { self.code() }
    }
}

/// Name and number: `Not authorized (0x87)`.
impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_code_or_none_and_comes_back() {
        let mut count = 0;
        for byte in 0..=u8::MAX {
            if let Some(code) = ReasonCode::from_u8(byte) {
                assert_eq!(code.code(), byte);
                assert_eq!(ReasonCode::ALL[count], code);
                count += 1;
            }
        }
        assert_eq!(count, ReasonCode::ALL.len());
        assert_eq!(count, 43);
    }

    #[test]
    fn return_codes_of_3_1_1_survive_the_mapping() {
        for code in 0..=5 {
            let reason = ReasonCode::from_connect_return_code(code).unwrap();
            assert_eq!(reason.to_connect_return_code(), Some(code));
        }
        for code in 6..=u8::MAX {
            assert_eq!(ReasonCode::from_connect_return_code(code), None);
        }
        assert_eq!(ReasonCode::MalformedPacket.to_connect_return_code(), None);
    }

    #[test]
    fn no_connack_code_becomes_a_number_that_3_1_1_reserves() {
        for code in ReasonCode::ALL {
            assert!(code.to_connect_return_code().is_none_or(|byte| byte <= 5));
            assert!(matches!(code.to_suback_return_code(), 0..=2 | 0x04..=0x19 | 0x80));
        }
    }
}
