//! What a client tells its owner, and why it refuses a call.

use core::fmt;

use crate::mqtt::basic::{PacketId, SubscriptionIdentifier};
use crate::mqtt::error::DecodeError;
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::packet::PacketType;
use crate::mqtt::reason::ReasonCode;

use super::ServerLimits;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// CONNACK said yes.
    Connected {
        /// Whether the server went on with the session it had. If not, subscriptions must be made
        /// again; messages that were under way are published anew by the client itself.
        session_present: bool,
        /// What the server takes.
        limits: ServerLimits,
    },
    /// A message has arrived.
    Message(ReceivedMessage),
    /// A QoS 1 or 2 message of ours is settled, and its packet identifier free.
    Published {
        /// What [`Client::publish`](super::Client::publish) returned.
        packet_id: PacketId,
        /// Success, or that nobody subscribes, or why the server (or we, if it is too large for a
        /// server that changed its mind) did not take it. It is not sent again either way
        /// [MQTT-4.4.0-2].
        reason: ReasonCode,
    },
    /// With [`Steps::ByCaller`](super::Steps::ByCaller), a QoS 2 message waits for
    /// [`Client::take_step`](super::Client::take_step); [`Step::Publish`] waits without this.
    Waits {
        /// Which step.
        step: Step,
        /// Of the message with this identifier.
        packet_id: PacketId,
    },
    /// SUBACK.
    Subscribed {
        /// What [`Client::subscribe`](super::Client::subscribe) returned.
        packet_id: PacketId,
        /// One for each filter, in their order.
        reasons: Vec<ReasonCode>,
    },
    /// UNSUBACK.
    Unsubscribed {
        /// What [`Client::unsubscribe`](super::Client::unsubscribe) returned.
        packet_id: PacketId,
        /// One for each filter, in their order; none before 5.0.
        reasons: Vec<ReasonCode>,
    },
    /// The connection is over: send what is left, then close the transport. Exactly once for each
    /// connection. Subscribe and unsubscribe requests that had no answer yet get none.
    Closed(CloseCause),
}

/// What is sent of a QoS 2 message when that it was is sure to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// PUBLISH: its identifier stands for this message from here on [MQTT-4.3.3-1].
    Publish,
    /// PUBREL: the message will not be sent again [MQTT-4.3.3-6].
    Release,
    /// PUBCOMP: the identifier of a message that has come is free for another [MQTT-4.3.3-12].
    Complete,
}

/// A message and how it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The message; its expiry runs.
    pub message: ApplicationMessage,
    /// To be handed back if messages are acknowledged by the caller; `None` if this one needs none.
    pub ack: Option<AckToken>,
    /// Of its last hop; for people, who may want to see it.
    pub packet_id: Option<PacketId>,
    /// The server sent it before, and cannot know whether it arrived.
    pub dup: bool,
    /// Which of our subscriptions it came by, as far as they have identifiers.
    pub subscription_identifiers: Vec<SubscriptionIdentifier>,
}

/// The right to acknowledge one message, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AckToken {
    pub(super) packet_id: PacketId,
    /// Different for each message, for packet identifiers are used again.
    pub(super) serial: u64,
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseCause {
    /// CONNACK said no.
    Refused(Farewell),
    /// DISCONNECT from the server.
    ServerDisconnected(Farewell),
    /// The server broke the protocol.
    ServerMisbehaved(Violation),
    /// No CONNACK in time.
    ConnectTimeout,
    /// Nothing came in time after a PINGREQ.
    KeepAliveTimeout,
    /// The transport closed without a word.
    TransportClosed,
    /// We closed it.
    Disconnected,
}

impl CloseCause {
    /// Whether trying again, with the same options, can help.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Refused(farewell) | Self::ServerDisconnected(farewell) => !matches!(
                farewell.reason,
                ReasonCode::UnsupportedProtocolVersion
                    | ReasonCode::ClientIdentifierNotValid
                    | ReasonCode::BadUserNameOrPassword
                    | ReasonCode::NotAuthorized
                    | ReasonCode::Banned
                    | ReasonCode::BadAuthenticationMethod
                    | ReasonCode::SessionTakenOver
                    | ReasonCode::UseAnotherServer
                    | ReasonCode::ServerMoved
            ),
            Self::ServerMisbehaved(_)
            | Self::ConnectTimeout
            | Self::KeepAliveTimeout
            | Self::TransportClosed => true,
            Self::Disconnected => false,
        }
    }
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(farewell) => write!(f, "connection refused: {farewell}"),
            Self::ServerDisconnected(farewell) => write!(f, "server disconnected: {farewell}"),
            Self::ServerMisbehaved(violation) => write!(f, "server misbehaved: {violation}"),
            Self::ConnectTimeout => f.write_str("no answer to CONNECT"),
            Self::KeepAliveTimeout => f.write_str("no answer to PINGREQ"),
            Self::TransportClosed => f.write_str("connection lost"),
            Self::Disconnected => f.write_str("disconnected"),
        }
    }
}

/// What a server says when it closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Why.
    pub reason: ReasonCode,
    /// The same for people.
    pub reason_string: Option<String>,
    /// Where to go instead.
    pub server_reference: Option<String>,
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        if let Some(text) = &self.reason_string {
            write!(f, ", {text:?}")?;
        }
        if let Some(server) = &self.server_reference {
            write!(f, ", use {server:?}")?;
        }
        Ok(())
    }
}

/// How a server broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// Bytes that are no packet, or a packet larger than we take.
    Decode(DecodeError),
    /// A packet that a server may not send, or not now.
    Unexpected(PacketType),
    /// Session Present although we asked for a clean start [MQTT-3.2.2-2].
    SessionPresentUnasked,
    /// More unacknowledged messages than we take [MQTT-3.3.4-9].
    ReceiveMaximumExceeded,
    /// A Topic Alias above our maximum [MQTT-3.3.2-11].
    TopicAliasTooHigh(u16),
    /// A Topic Alias that stands for nothing yet (5.0, 3.3.2.3.4).
    TopicAliasUnknown(u16),
    /// An acknowledgement that does not fit what it acknowledges: the wrong kind, or of something
    /// not sent.
    AckMismatch(PacketType, PacketId),
    /// An answer with another number of reason codes than the request has filters [MQTT-3.8.4-6].
    ReasonCountMismatch(PacketType, PacketId),
    /// A Session Expiry Interval in a server's DISCONNECT [MQTT-3.14.2-2].
    SessionExpiryFromServer,
}

impl From<Violation> for ReasonCode {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Decode(error) => error.into(),
            Violation::ReceiveMaximumExceeded => Self::ReceiveMaximumExceeded,
            Violation::TopicAliasTooHigh(_) => Self::TopicAliasInvalid,
            Violation::Unexpected(_)
            | Violation::SessionPresentUnasked
            | Violation::TopicAliasUnknown(_)
            | Violation::AckMismatch(..)
            | Violation::ReasonCountMismatch(..)
            | Violation::SessionExpiryFromServer => Self::ProtocolError,
        }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::Unexpected(packet) => write!(f, "{packet} is not a server's to send now"),
            Self::SessionPresentUnasked => {
                f.write_str("CONNACK: a session although none was to be")
            }
            Self::ReceiveMaximumExceeded => {
                f.write_str("PUBLISH: more unacknowledged messages than we take")
            }
            Self::TopicAliasTooHigh(alias) => {
                write!(f, "PUBLISH: topic alias {alias} is above our maximum")
            }
            Self::TopicAliasUnknown(alias) => {
                write!(f, "PUBLISH: topic alias {alias} stands for nothing")
            }
            Self::AckMismatch(packet, id) => {
                write!(f, "{packet}: {id} is not an identifier that waits for it")
            }
            Self::ReasonCountMismatch(packet, id) => {
                write!(f, "{packet}: not one reason code for each filter of {id}")
            }
            Self::SessionExpiryFromServer => {
                f.write_str("DISCONNECT: the session's expiry is not a server's to change")
            }
        }
    }
}

/// Why a publication or a request was not taken. The client is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no connection: wait for [`Event::Connected`].
    NotConnected,
    /// As much is under way as may be: ask again after [`Event::Published`] or when more has been
    /// sent.
    Full,
    /// Larger than the server takes [MQTT-3.2.2-15].
    PacketTooLarge {
        /// Bytes, fixed header included.
        len: usize,
        /// What the server takes.
        max: u32,
    },
    /// Above the server's Maximum QoS [MQTT-3.2.2-11].
    QosNotSupported,
    /// The server keeps no retained messages [MQTT-3.2.2-14].
    RetainNotSupported,
    /// The server takes no subscription identifiers, or they do not exist before 5.0.
    SubscriptionIdentifierNotSupported,
    /// A request without a filter.
    NoFilters,
}

impl Refusal {
    /// Whether the same call can succeed later, on this connection or the next.
    pub const fn may_retry(self) -> bool {
        matches!(self, Self::NotConnected | Self::Full)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("not connected"),
            Self::Full => f.write_str("as much is under way as may be"),
            Self::PacketTooLarge { len, max } => {
                write!(f, "the packet has {len} bytes, the server takes {max}")
            }
            Self::QosNotSupported => f.write_str("the server does not take this QoS"),
            Self::RetainNotSupported => f.write_str("the server does not take retained messages"),
            Self::SubscriptionIdentifierNotSupported => {
                f.write_str("the server does not take subscription identifiers")
            }
            Self::NoFilters => f.write_str("no topic filter"),
        }
    }
}

impl std::error::Error for Refusal {}
