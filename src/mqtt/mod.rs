//! MQTT: bytes to meaning and back, for 3.1, 3.1.1 and 5.0 with one set of types.
//!
//! * [`frame`] finds where a packet ends, [`packet`] says what it means: [`Packet`] borrows from
//!   the receive buffer, and parsing a PUBLISH allocates nothing. The version is a parameter, never
//!   a second set of types.
//! * [`property`], [`topic`], [`reason`] and [`basic`] are the words in which packets speak;
//!   [`error`] is why bytes are not a packet, and maps each such fault to exactly one reason code.
//! * [`message`] owns what a session, a queue or the retained store must keep.
//! * [`client`] is the one client machine, without I/O, that bridge, `pub`, `sub` and `bench`
//!   share.
//!
//! Decoding is total: any bytes give a packet or a [`DecodeError`], and never a panic. What needs
//! the connection's state (is this packet allowed now, in this direction, is that alias known) is
//! left to the broker and the client.

pub mod basic;
pub mod client;
pub mod error;
pub mod frame;
pub mod message;
pub mod packet;
pub mod property;
pub mod reason;
pub mod topic;
pub(crate) mod wire;

pub use basic::{
    PacketId, PayloadFormat, ProtocolVersion, QoS, ReceiveMaximum, SubscriptionIdentifier,
    TopicAlias,
};
pub use error::{DecodeError, Fault};
pub use frame::Frame;
pub use message::ApplicationMessage;
pub use packet::{
    Ack, Auth, Connack, Connect, Disconnect, Packet, PacketType, Publish, ReasonCodes,
    RetainHandling, Suback, Subscribe, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests, TopicFilters, Unsuback, Unsubscribe, Will,
};
pub use property::{
    AckProperties, AuthProperties, ConnackProperties, ConnectProperties, DisconnectProperties,
    PropertyId, PublishProperties, SubscribeProperties, SubscriptionIdentifiers,
    USER_PROPERTIES_MAX, UnsubscribeProperties, UserProperties, UserPropertiesBuf, WillProperties,
};
pub use reason::ReasonCode;
pub use topic::{TopicError, TopicFilter, TopicName};
