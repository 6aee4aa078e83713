//! Properties of 5.0 (section 2.2.2): which there are, what they hold, and a typed set for each
//! packet.
//!
//! A set is read in one pass and allocates nothing. What may occur once is a field; User
//! Properties, and the Subscription Identifiers of PUBLISH, stay bytes that have been checked, and
//! are iterated. A property that stands twice where it may not is a Protocol Error; one that is
//! unknown or belongs elsewhere makes the packet malformed (2.2.2.2).

use core::fmt;
use core::num::NonZeroU32;

use crate::mqtt::basic::{PayloadFormat, QoS, ReceiveMaximum, SubscriptionIdentifier, TopicAlias};
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::packet::PacketType;
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::{FIELD_LEN_MAX, Reader, Writer, variable_len};

/// How a property's value is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// One byte.
    Byte,
    /// Two bytes, big-endian.
    TwoByteInteger,
    /// Four bytes, big-endian.
    FourByteInteger,
    /// One to four bytes.
    VariableByteInteger,
    /// Length-prefixed bytes.
    BinaryData,
    /// Length-prefixed UTF-8.
    Utf8String,
    /// Two of those.
    Utf8StringPair,
}

macro_rules! property_ids {
    ($( $id:literal $variant:ident $name:literal $data_type:ident, )*) => {
        /// A property's identifier (table 2-4).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $(
                #[doc = concat!("`", stringify!($id), "`: ", $name, ".")]
                $variant = $id,
            )*
        }

        impl PropertyId {
            /// Every property, in the order of their identifiers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// `None` for an identifier that 5.0 does not define.
            pub const fn from_u8(id: u8) -> Option<Self> {
                match id {
                    $( $id => Some(Self::$variant), )*
                    _ => None,
                }
            }

            /// The standard's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )*
                }
            }

            /// How its value is encoded.
            pub const fn data_type(self) -> DataType {
                match self {
                    $( Self::$variant => DataType::$data_type, )*
                }
            }
        }
    };
}

property_ids! {
    0x01 PayloadFormatIndicator "Payload Format Indicator" Byte,
    0x02 MessageExpiryInterval "Message Expiry Interval" FourByteInteger,
    0x03 ContentType "Content Type" Utf8String,
    0x08 ResponseTopic "Response Topic" Utf8String,
    0x09 CorrelationData "Correlation Data" BinaryData,
    0x0B SubscriptionIdentifier "Subscription Identifier" VariableByteInteger,
    0x11 SessionExpiryInterval "Session Expiry Interval" FourByteInteger,
    0x12 AssignedClientIdentifier "Assigned Client Identifier" Utf8String,
    0x13 ServerKeepAlive "Server Keep Alive" TwoByteInteger,
    0x15 AuthenticationMethod "Authentication Method" Utf8String,
    0x16 AuthenticationData "Authentication Data" BinaryData,
    0x17 RequestProblemInformation "Request Problem Information" Byte,
    0x18 WillDelayInterval "Will Delay Interval" FourByteInteger,
    0x19 RequestResponseInformation "Request Response Information" Byte,
    0x1A ResponseInformation "Response Information" Utf8String,
    0x1C ServerReference "Server Reference" Utf8String,
    0x1F ReasonString "Reason String" Utf8String,
    0x21 ReceiveMaximum "Receive Maximum" TwoByteInteger,
    0x22 TopicAliasMaximum "Topic Alias Maximum" TwoByteInteger,
    0x23 TopicAlias "Topic Alias" TwoByteInteger,
    0x24 MaximumQos "Maximum QoS" Byte,
    0x25 RetainAvailable "Retain Available" Byte,
    0x26 UserProperty "User Property" Utf8StringPair,
    0x27 MaximumPacketSize "Maximum Packet Size" FourByteInteger,
    0x28 WildcardSubscriptionAvailable "Wildcard Subscription Available" Byte,
    0x29 SubscriptionIdentifierAvailable "Subscription Identifier Available" Byte,
    0x2A SharedSubscriptionAvailable "Shared Subscription Available" Byte,
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! property_set {
    ($(#[$meta:meta])* $name:ident {
        $( $(#[$field_meta:meta])* $field:ident: $ty:ty = $id:ident, )*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name<'a> {
            $( $(#[$field_meta])* pub $field: $ty, )*
            /// In the order in which they stand [MQTT-3.3.2-18].
            pub user_properties: UserProperties<'a>,
        }

        impl<'a> $name<'a> {
            /// Reads the Property Length and everything that it covers.
            pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                let len = reader.variable("property length")? as usize;
                if len == 0 {
                    return Ok(Self::default());
                }
                Self::read_content(reader.section(len, "properties")?)
            }

            /// Reads properties to the reader's end.
            pub(crate) fn read_content(mut section: Reader<'a>) -> Result<Self, DecodeError> {
                let mut set = Self::default();
                while !section.is_empty() {
                    match read_id(&mut section)? {
                        $( PropertyId::$id => {
                            set.$field.read(PropertyId::$id, &mut section)?;
                        } )*
                        PropertyId::UserProperty => {
                            set.user_properties.read(PropertyId::UserProperty, &mut section)?;
                        }
                        other => {
                            let fault = Fault::PropertyMisplaced(other);
                            return Err(section.error(fault, "property identifier"));
                        }
                    }
                }
                Ok(set)
            }

            /// Bytes of all properties, Property Length not counted.
            pub(crate) fn content_len(&self) -> usize {
                self.user_properties.encoded_len() $( + self.$field.encoded_len() )*
            }

            /// Bytes of all properties with their Property Length.
            pub(crate) fn section_len(&self) -> usize {
                let content = self.content_len();
                variable_len(content) + content
            }

            /// Writes the Property Length, which stands even where it is zero [MQTT-2.2.2-1], and
            /// the properties.
            pub(crate) fn write(&self, writer: &mut Writer<'_>) {
                writer.variable(self.content_len());
                self.write_content(writer);
            }

            /// Writes the properties alone.
            pub(crate) fn write_content(&self, writer: &mut Writer<'_>) {
                $( self.$field.write(PropertyId::$id, writer); )*
                self.user_properties.write(PropertyId::UserProperty, writer);
            }

            /// Whether no property is set.
            pub fn is_empty(&self) -> bool {
                self.content_len() == 0
            }
        }
    };
}

property_set! {
    /// What CONNECT may say (3.1.2.11).
    ConnectProperties {
        /// Seconds that the session outlives its connection; 0xFFFFFFFF is for ever, absent is 0.
        session_expiry_interval: Option<u32> = SessionExpiryInterval,
        /// How many QoS 1 and 2 publications the client takes at once.
        receive_maximum: Option<ReceiveMaximum> = ReceiveMaximum,
        /// The largest packet that the client takes, in bytes; absent is no limit.
        maximum_packet_size: Option<NonZeroU32> = MaximumPacketSize,
        /// The highest Topic Alias that the client takes; absent is 0, none.
        topic_alias_maximum: Option<u16> = TopicAliasMaximum,
        /// Whether the client would like Response Information.
        request_response_information: Option<bool> = RequestResponseInformation,
        /// Whether packets other than PUBLISH, CONNACK and DISCONNECT may carry reasons
        /// [MQTT-3.1.2-29].
        request_problem_information: Option<bool> = RequestProblemInformation,
        /// The method of an extended authentication.
        authentication_method: Option<&'a str> = AuthenticationMethod,
        /// Data of that method.
        authentication_data: Option<&'a [u8]> = AuthenticationData,
    }
}

property_set! {
    /// What CONNECT may say about its Will (3.1.3.2).
    WillProperties {
        /// Seconds between the connection's end and the Will.
        will_delay_interval: Option<u32> = WillDelayInterval,
        /// Whether the payload is text.
        payload_format_indicator: Option<PayloadFormat> = PayloadFormatIndicator,
        /// Seconds that the message lives after it was published.
        message_expiry_interval: Option<u32> = MessageExpiryInterval,
        /// What the payload is, in the application's words.
        content_type: Option<&'a str> = ContentType,
        /// Where an answer goes.
        response_topic: Option<TopicName<'a>> = ResponseTopic,
        /// What that answer repeats.
        correlation_data: Option<&'a [u8]> = CorrelationData,
    }
}

property_set! {
    /// What CONNACK may say (3.2.2.3).
    ConnackProperties {
        /// Seconds that the session outlives its connection, if not what the client asked for.
        session_expiry_interval: Option<u32> = SessionExpiryInterval,
        /// How many QoS 1 and 2 publications the server takes at once.
        receive_maximum: Option<ReceiveMaximum> = ReceiveMaximum,
        /// The highest QoS that the server takes: 0 or 1; absent is 2.
        maximum_qos: Option<QoS> = MaximumQos,
        /// Whether the server keeps retained messages; absent is yes.
        retain_available: Option<bool> = RetainAvailable,
        /// The largest packet that the server takes, in bytes; absent is no limit.
        maximum_packet_size: Option<NonZeroU32> = MaximumPacketSize,
        /// The client identifier that the server chose [MQTT-3.2.2-16].
        assigned_client_identifier: Option<&'a str> = AssignedClientIdentifier,
        /// The highest Topic Alias that the server takes; absent is 0, none.
        topic_alias_maximum: Option<u16> = TopicAliasMaximum,
        /// For people; dropped if the packet becomes too large [MQTT-3.2.2-19].
        reason_string: Option<&'a str> = ReasonString,
        /// Whether filters may have wildcards; absent is yes.
        wildcard_subscription_available: Option<bool> = WildcardSubscriptionAvailable,
        /// Whether SUBSCRIBE may carry an identifier; absent is yes.
        subscription_identifier_available: Option<bool> = SubscriptionIdentifierAvailable,
        /// Whether `$share/` is understood; absent is yes.
        shared_subscription_available: Option<bool> = SharedSubscriptionAvailable,
        /// Seconds of keep-alive that the client must use instead of its own [MQTT-3.1.2-21].
        server_keep_alive: Option<u16> = ServerKeepAlive,
        /// A basis for response topics.
        response_information: Option<&'a str> = ResponseInformation,
        /// Another server to use.
        server_reference: Option<&'a str> = ServerReference,
        /// The method of an extended authentication.
        authentication_method: Option<&'a str> = AuthenticationMethod,
        /// Data of that method.
        authentication_data: Option<&'a [u8]> = AuthenticationData,
    }
}

property_set! {
    /// What PUBLISH may say (3.3.2.3).
    PublishProperties {
        /// Whether the payload is text.
        payload_format_indicator: Option<PayloadFormat> = PayloadFormatIndicator,
        /// Seconds that the message has left to live.
        message_expiry_interval: Option<u32> = MessageExpiryInterval,
        /// A number for the topic, on this connection and in this direction.
        topic_alias: Option<TopicAlias> = TopicAlias,
        /// Where an answer goes [MQTT-3.3.2-14].
        response_topic: Option<TopicName<'a>> = ResponseTopic,
        /// What that answer repeats.
        correlation_data: Option<&'a [u8]> = CorrelationData,
        /// Which subscriptions this message came by; never from a client [MQTT-3.3.4-6].
        subscription_identifiers: SubscriptionIdentifiers<'a> = SubscriptionIdentifier,
        /// What the payload is, in the application's words.
        content_type: Option<&'a str> = ContentType,
    }
}

property_set! {
    /// What PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK may say.
    AckProperties {
        /// For people; dropped if the packet becomes too large [MQTT-3.4.2-2].
        reason_string: Option<&'a str> = ReasonString,
    }
}

property_set! {
    /// What SUBSCRIBE may say (3.8.2.1).
    SubscribeProperties {
        /// Comes back in every PUBLISH that these subscriptions bring.
        subscription_identifier: Option<SubscriptionIdentifier> = SubscriptionIdentifier,
    }
}

property_set! {
    /// What UNSUBSCRIBE may say (3.10.2.1).
    UnsubscribeProperties {}
}

property_set! {
    /// What DISCONNECT may say (3.14.2.2).
    DisconnectProperties {
        /// Seconds that the session outlives this connection; only a client says so
        /// [MQTT-3.14.2-2].
        session_expiry_interval: Option<u32> = SessionExpiryInterval,
        /// For people; dropped if the packet becomes too large [MQTT-3.14.2-3].
        reason_string: Option<&'a str> = ReasonString,
        /// Another server to use.
        server_reference: Option<&'a str> = ServerReference,
    }
}

property_set! {
    /// What AUTH says (3.15.2.2).
    AuthProperties {
        /// The same in every packet of a connection [MQTT-4.12.0-5].
        authentication_method: Option<&'a str> = AuthenticationMethod,
        /// Data of that method.
        authentication_data: Option<&'a [u8]> = AuthenticationData,
        /// For people; dropped if the packet becomes too large [MQTT-3.15.2-2].
        reason_string: Option<&'a str> = ReasonString,
    }
}

/// User Properties: pairs of names and values, of which any may repeat; their order is kept
/// [MQTT-3.3.2-18].
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    /// From the first User Property to the end of the properties. Invariant: well-formed records,
    /// of which `encoded_len` bytes are User Properties.
    records: &'a [u8],
    /// A packet has fewer than 2³² bytes.
    encoded_len: u32,
    /// Of those that were read: at most [`USER_PROPERTIES_MAX`].
    count: u32,
}

/// User Properties that a packet may have: our limit, not the standard's, so that the work for a
/// packet is bounded by more than its length. Devices send a handful.
pub const USER_PROPERTIES_MAX: u32 = 1024;

impl<'a> UserProperties<'a> {
    /// None.
    pub const EMPTY: Self = Self {
        records: &[],
        encoded_len: 0,
        count: 0,
    };

    /// Names and values, in order.
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        UserPropertiesIter(records(self.records))
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.encoded_len == 0
    }

    /// The first value of that name.
    pub fn find(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|pair| pair.0 == name).map(|pair| pair.1)
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.encoded_len == other.encoded_len && self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;

    fn into_iter(self) -> UserPropertiesIter<'a> {
        self.iter()
    }
}

/// Iterates [`UserProperties`].
#[derive(Debug, Clone)]
pub struct UserPropertiesIter<'a>(Reader<'a>);

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        // The records were checked when they were read or made, so an error here means their end.
        while !self.0.is_empty() {
            let id = read_id(&mut self.0).ok()?;
            if id == PropertyId::UserProperty {
                return read_pair(&mut self.0).ok();
            }
            skip_value(id, &mut self.0).ok()?;
        }
        None
    }
}

/// User Properties in the making, for whoever sends them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserPropertiesBuf {
    encoded: Vec<u8>,
}

impl UserPropertiesBuf {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            encoded: Vec::new(),
        }
    }

    /// Adds a pair; `false`, and nothing is added, if a string is longer than 65 535 bytes or
    /// contains U+0000 [MQTT-1.5.7-1].
    #[must_use = "a pair that cannot be encoded is not added"]
    pub fn push(&mut self, name: &str, value: &str) -> bool {
        let fits = |text: &str| text.len() <= FIELD_LEN_MAX && !text.as_bytes().contains(&0);
        if !fits(name) || !fits(value) {
            return false;
        }
        let start = self.encoded.len();
        self.encoded
            .resize(start + 1 + 2 + name.len() + 2 + value.len(), 0);
        let mut writer = Writer::new(&mut self.encoded[start..]);
        writer.byte(PropertyId::UserProperty as u8);
        writer.text(name);
        writer.text(value);
        true
    }

    /// As a packet carries them.
    pub fn as_properties(&self) -> UserProperties<'_> {
        UserProperties {
            records: &self.encoded,
            encoded_len: self.encoded.len() as u32,
            count: 0,
        }
    }

    /// Forgets them all, and keeps the memory.
    pub fn clear(&mut self) {
        self.encoded.clear();
    }
}

/// The Subscription Identifiers of a PUBLISH: as they were read, or from a list.
#[derive(Clone, Copy)]
pub struct SubscriptionIdentifiers<'a>(Identifiers<'a>);

#[derive(Clone, Copy)]
enum Identifiers<'a> {
    /// As in [`UserProperties`].
    Read {
        records: &'a [u8],
        encoded_len: usize,
    },
    List(&'a [SubscriptionIdentifier]),
}

impl<'a> SubscriptionIdentifiers<'a> {
    /// None.
    pub const EMPTY: Self = Self(Identifiers::List(&[]));

    /// To be sent.
    pub const fn from_slice(list: &'a [SubscriptionIdentifier]) -> Self {
        Self(Identifiers::List(list))
    }

    /// In order.
    pub fn iter(&self) -> SubscriptionIdentifiersIter<'a> {
        match self.0 {
            Identifiers::Read { records: bytes, .. } => SubscriptionIdentifiersIter {
                read: records(bytes),
                list: [].iter(),
            },
            Identifiers::List(list) => SubscriptionIdentifiersIter {
                read: records(&[]),
                list: list.iter(),
            },
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        match self.0 {
            Identifiers::Read { encoded_len, .. } => encoded_len == 0,
            Identifiers::List(list) => list.is_empty(),
        }
    }
}

impl Default for SubscriptionIdentifiers<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl PartialEq for SubscriptionIdentifiers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIdentifiers<'_> {}

impl fmt::Debug for SubscriptionIdentifiers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(SubscriptionIdentifier::value))
            .finish()
    }
}

impl<'a> IntoIterator for &SubscriptionIdentifiers<'a> {
    type Item = SubscriptionIdentifier;
    type IntoIter = SubscriptionIdentifiersIter<'a>;

    fn into_iter(self) -> SubscriptionIdentifiersIter<'a> {
        self.iter()
    }
}

/// Iterates [`SubscriptionIdentifiers`].
#[derive(Debug, Clone)]
pub struct SubscriptionIdentifiersIter<'a> {
    read: Reader<'a>,
    list: core::slice::Iter<'a, SubscriptionIdentifier>,
}

impl Iterator for SubscriptionIdentifiersIter<'_> {
    type Item = SubscriptionIdentifier;

    fn next(&mut self) -> Option<SubscriptionIdentifier> {
        while !self.read.is_empty() {
            let id = read_id(&mut self.read).ok()?;
            if id == PropertyId::SubscriptionIdentifier {
                let value = self.read.variable(id.name()).ok()?;
                return SubscriptionIdentifier::new(value);
            }
            skip_value(id, &mut self.read).ok()?;
        }
        self.list.next().copied()
    }
}

/// A reader of records that have been checked before.
fn records(bytes: &[u8]) -> Reader<'_> {
    Reader::new(PacketType::Publish, bytes, 0)
}

/// A property's identifier: a Variable Byte Integer, although all that are defined fit one byte.
fn read_id(reader: &mut Reader<'_>) -> Result<PropertyId, DecodeError> {
    const FIELD: &str = "property identifier";
    let start = reader.offset();
    let id = reader.variable(FIELD)?;
    match u8::try_from(id).ok().and_then(PropertyId::from_u8) {
        Some(id) => Ok(id),
        None => Err(reader.error_at(Fault::PropertyUnknown(id), FIELD, start)),
    }
}

fn read_pair<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, &'a str), DecodeError> {
    // Both strings obey the rules for strings [MQTT-1.5.7-1].
    let name = reader.text("User Property name")?;
    let value = reader.text("User Property value")?;
    Ok((name, value))
}

fn skip_value(id: PropertyId, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let field = id.name();
    match id.data_type() {
        DataType::Byte => reader.byte(field).map(drop),
        DataType::TwoByteInteger => reader.u16(field).map(drop),
        DataType::FourByteInteger => reader.u32(field).map(drop),
        DataType::VariableByteInteger => reader.variable(field).map(drop),
        DataType::BinaryData | DataType::Utf8String => reader.binary(field).map(drop),
        DataType::Utf8StringPair => {
            reader.binary(field)?;
            reader.binary(field).map(drop)
        }
    }
}

/// A place in a property set: a value that may stand once, or a list.
trait Field<'a> {
    /// Takes in one property, whose identifier has just been read.
    fn read(&mut self, id: PropertyId, reader: &mut Reader<'a>) -> Result<(), DecodeError>;
    /// Bytes, identifiers included; 0 if absent.
    fn encoded_len(&self) -> usize;
    fn write(&self, id: PropertyId, writer: &mut Writer<'_>);
}

impl<'a, T: Value<'a>> Field<'a> for Option<T> {
    fn read(&mut self, id: PropertyId, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        if self.is_some() {
            return Err(reader.error(Fault::PropertyDuplicate(id), id.name()));
        }
        *self = Some(T::read(id, reader)?);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match self {
            Some(value) if value.is_said() => 1 + value.encoded_len(),
            _ => 0,
        }
    }

    fn write(&self, id: PropertyId, writer: &mut Writer<'_>) {
        if let Some(value) = self
            && value.is_said()
        {
            writer.byte(id as u8);
            value.write(writer);
        }
    }
}

impl<'a> Field<'a> for UserProperties<'a> {
    fn read(&mut self, _: PropertyId, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let start = reader.offset() - 1;
        if self.count == USER_PROPERTIES_MAX {
            return Err(reader.error(Fault::UserPropertiesTooMany, "properties"));
        }
        read_pair(reader)?;
        if self.is_empty() {
            self.records = reader.tail(start);
        }
        self.count += 1;
        self.encoded_len += (reader.offset() - start) as u32;
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.encoded_len as usize
    }

    fn write(&self, id: PropertyId, writer: &mut Writer<'_>) {
        if self.encoded_len as usize == self.records.len() {
            // Nothing else stands between or behind them.
            return writer.bytes(self.records);
        }
        for (name, value) in self {
            writer.byte(id as u8);
            writer.text(name);
            writer.text(value);
        }
    }
}

impl<'a> Field<'a> for SubscriptionIdentifiers<'a> {
    fn read(&mut self, id: PropertyId, reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        let start = reader.offset() - 1;
        SubscriptionIdentifier::read(id, reader)?;
        let len = reader.offset() - start;
        self.0 = match self.0 {
            Identifiers::Read {
                records,
                encoded_len,
            } => Identifiers::Read {
                records,
                encoded_len: encoded_len + len,
            },
            Identifiers::List(_) => Identifiers::Read {
                records: reader.tail(start),
                encoded_len: len,
            },
        };
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match self.0 {
            Identifiers::Read { encoded_len, .. } => encoded_len,
            Identifiers::List(list) => list.iter().map(|id| 1 + id.encoded_len()).sum(),
        }
    }

    fn write(&self, id: PropertyId, writer: &mut Writer<'_>) {
        for identifier in self {
            writer.byte(id as u8);
            identifier.write(writer);
        }
    }
}

/// What stands behind a property's identifier.
trait Value<'a>: Sized {
    fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
    /// Bytes without the identifier.
    fn encoded_len(&self) -> usize;
    fn write(&self, writer: &mut Writer<'_>);
    /// Whether the wire has a way to say this value, other than leaving the property out.
    fn is_said(&self) -> bool {
        true
    }
}

/// A number that became a value, or the fault of one that is out of range.
fn in_range<T>(
    value: Option<T>,
    id: PropertyId,
    at: usize,
    reader: &Reader<'_>,
) -> Result<T, DecodeError> {
    value.ok_or_else(|| reader.error_at(Fault::PropertyValueInvalid(id), id.name(), at))
}

/// Flags are 0 or 1 (3.1.2.11.6 and its like).
impl Value<'_> for bool {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let flag = match reader.byte(id.name())? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        in_range(flag, id, at, reader)
    }

    fn encoded_len(&self) -> usize {
        1
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.byte(u8::from(*self));
    }
}

impl Value<'_> for PayloadFormat {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let is_text = bool::read(id, reader)?;
        Ok(if is_text { Self::Utf8 } else { Self::Bytes })
    }

    fn encoded_len(&self) -> usize {
        1
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.byte(*self as u8);
    }
}

/// Maximum QoS is 0 or 1; who supports 2 says nothing (3.2.2.3.4).
impl Value<'_> for QoS {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at_least_once = bool::read(id, reader)?;
        Ok(if at_least_once {
            Self::AtLeastOnce
        } else {
            Self::AtMostOnce
        })
    }

    fn encoded_len(&self) -> usize {
        1
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.byte(self.bits());
    }

    fn is_said(&self) -> bool {
        *self != Self::ExactlyOnce
    }
}

impl Value<'_> for u16 {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u16(id.name())
    }

    fn encoded_len(&self) -> usize {
        2
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u16(*self);
    }
}

impl Value<'_> for u32 {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u32(id.name())
    }

    fn encoded_len(&self) -> usize {
        4
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u32(*self);
    }
}

/// A Receive Maximum of 0 is a Protocol Error (3.1.2.11.3).
impl Value<'_> for ReceiveMaximum {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let count = reader.u16(id.name())?;
        in_range(Self::new(count), id, at, reader)
    }

    fn encoded_len(&self) -> usize {
        2
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u16(self.value());
    }
}

/// A Maximum Packet Size of 0 is a Protocol Error (3.1.2.11.4).
impl Value<'_> for NonZeroU32 {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let size = reader.u32(id.name())?;
        in_range(Self::new(size), id, at, reader)
    }

    fn encoded_len(&self) -> usize {
        4
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u32(self.get());
    }
}

/// A Topic Alias of 0 has a reason code of its own [MQTT-3.3.2-8].
impl Value<'_> for TopicAlias {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let alias = reader.u16(id.name())?;
        Self::new(alias).ok_or_else(|| reader.error_at(Fault::TopicAliasZero, id.name(), at))
    }

    fn encoded_len(&self) -> usize {
        2
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u16(self.value());
    }
}

/// A Subscription Identifier of 0 is a Protocol Error (3.8.2.1.2).
impl Value<'_> for SubscriptionIdentifier {
    fn read(id: PropertyId, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let value = reader.variable(id.name())?;
        in_range(Self::new(value), id, at, reader)
    }

    fn encoded_len(&self) -> usize {
        variable_len(self.value() as usize)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.variable(self.value() as usize);
    }
}

impl<'a> Value<'a> for &'a str {
    fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.text(id.name())
    }

    fn encoded_len(&self) -> usize {
        2 + self.len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self);
    }
}

impl<'a> Value<'a> for &'a [u8] {
    fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.binary(id.name())
    }

    fn encoded_len(&self) -> usize {
        2 + self.len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.binary(self);
    }
}

impl<'a> Value<'a> for TopicName<'a> {
    fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.topic_name(id.name())
    }

    fn encoded_len(&self) -> usize {
        2 + self.as_str().len()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self.as_str());
    }
}
