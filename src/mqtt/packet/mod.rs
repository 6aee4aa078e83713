//! The 15 packet types, one set for all versions.
//!
//! | packet | file | packet | file |
//! |---|---|---|---|
//! | CONNECT | [`connect`] | SUBSCRIBE, SUBACK | [`subscribe`] |
//! | CONNACK | [`connack`] | UNSUBSCRIBE, UNSUBACK | [`unsubscribe`] |
//! | PUBLISH | [`publish`] | DISCONNECT, AUTH | [`disconnect`], [`auth`] |
//! | PUBACK, PUBREC, PUBREL, PUBCOMP | [`ack`] | PINGREQ, PINGRESP | here: they have no fields |
//!
//! [`Packet::parse`] checks a packet completely, lists included, so that iterating it later cannot
//! fail. [`Packet::encoded_len`] states the length that [`Packet::encode`] fills. Whether a packet
//! may be sent now, in this direction, is for the broker and the client to say.

/// What a list is besides its iterator, when it is read lazily: two are equal if they say the same,
/// however each holds it.
macro_rules! lazy_list {
    ($a:lifetime: $name:ident of $item:ty, by $iter:ident) => {
        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.iter().eq(other.iter())
            }
        }

        impl Eq for $name<'_> {}

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.iter()).finish()
            }
        }

        impl<$a> IntoIterator for &$name<$a> {
            type Item = $item;
            type IntoIter = $iter<$a>;

            fn into_iter(self) -> $iter<$a> {
                self.iter()
            }
        }
    };
}

pub mod ack;
pub mod auth;
pub mod connack;
pub mod connect;
pub mod disconnect;
pub mod publish;
pub mod subscribe;
pub mod unsubscribe;

use core::fmt;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::Connack;
pub use connect::{Connect, Will, connack_for};
pub use disconnect::Disconnect;
pub use publish::Publish;
pub use subscribe::{
    ReasonCodes, RetainHandling, Suback, Subscribe, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests,
};
pub use unsubscribe::{TopicFilters, Unsuback, Unsubscribe};

use crate::mqtt::basic::ProtocolVersion;
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::property::UserProperties;
use crate::mqtt::wire::{Reader, Writer, read_variable, variable_len};

/// A packet that borrows its strings and its payload from the bytes that it was read from, or is to
/// be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client to server, first and once.
    Connect(Connect<'a>),
    /// The answer to it.
    Connack(Connack<'a>),
    /// An application message, either way.
    Publish(Publish<'a>),
    /// A QoS 1 message has arrived.
    Puback(Ack<'a>),
    /// A QoS 2 message has arrived.
    Pubrec(Ack<'a>),
    /// Its identifier may be forgotten.
    Pubrel(Ack<'a>),
    /// It has been.
    Pubcomp(Ack<'a>),
    /// Client to server.
    Subscribe(Subscribe<'a>),
    /// The answer to it.
    Suback(Suback<'a>),
    /// Client to server.
    Unsubscribe(Unsubscribe<'a>),
    /// The answer to it.
    Unsuback(Unsuback<'a>),
    /// Client to server: are you there?
    Pingreq,
    /// Yes.
    Pingresp,
    /// The last packet of a connection; from the server only in 5.0.
    Disconnect(Disconnect<'a>),
    /// A step of an extended authentication; 5.0 only.
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Reads one whole packet, as [`frame::peek`](crate::mqtt::frame::peek) has measured it.
    ///
    /// `version` is that of the connection. A CONNECT is read without it, for it is what says the
    /// version.
    pub fn parse(version: ProtocolVersion, frame: &'a [u8]) -> Result<Self, DecodeError> {
        // Nearly all packets are this one, so nothing of the others is in its way.
        if frame
            .first()
            .is_some_and(|byte| byte >> 4 == PacketType::Publish as u8)
        {
            return Ok(Self::Publish(Publish::parse(version, frame)?));
        }
        Self::parse_other(version, frame)
    }

    #[inline(never)]
    fn parse_other(version: ProtocolVersion, frame: &'a [u8]) -> Result<Self, DecodeError> {
        let (packet, flags, mut reader) = open(version, frame)?;
        let packet = match packet {
            PacketType::Publish => Self::Publish(Publish::read(version, flags, &mut reader)?),
            PacketType::Connect => Self::Connect(Connect::read(&mut reader)?),
            PacketType::Connack => Self::Connack(Connack::read(version, &mut reader)?),
            PacketType::Puback => Self::Puback(Ack::read(version, &mut reader)?),
            PacketType::Pubrec => Self::Pubrec(Ack::read(version, &mut reader)?),
            PacketType::Pubrel => Self::Pubrel(Ack::read(version, &mut reader)?),
            PacketType::Pubcomp => Self::Pubcomp(Ack::read(version, &mut reader)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::read(version, &mut reader)?),
            PacketType::Suback => Self::Suback(Suback::read(version, &mut reader)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::read(version, &mut reader)?),
            PacketType::Unsuback => Self::Unsuback(Unsuback::read(version, &mut reader)?),
            PacketType::Pingreq => Self::Pingreq,
            PacketType::Pingresp => Self::Pingresp,
            PacketType::Disconnect => Self::Disconnect(Disconnect::read(version, &mut reader)?),
            PacketType::Auth => Self::Auth(Auth::read(&mut reader)?),
        };
        reader.finish()?;
        Ok(packet)
    }

    /// Which of the 15 this is.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Bytes of the whole packet, fixed header included. What a version has no place for is left
    /// out: properties, and reason codes of acknowledgements, before 5.0. CONNECT is written in the
    /// version that it carries.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        frame_len(self.body_len(version))
    }

    /// Writes the packet.
    ///
    /// # Panics
    /// If `out` is not exactly [`Packet::encoded_len`] long, or a field is longer than the wire can
    /// say; strings that were parsed, or checked as topics and [user
    /// properties](crate::mqtt::UserPropertiesBuf) are, never are.
    pub fn encode(&self, version: ProtocolVersion, out: &mut [u8]) {
        let mut writer = Writer::new(out);
        writer.byte(self.first_byte());
        writer.variable(self.body_len(version));
        self.write_body(version, &mut writer);
        let written = writer.position();
        assert_eq!(written, out.len(), "a packet is as long as it said");
    }

    /// The packet, if it is an acknowledgement of four bytes, as nearly all are: what
    /// [`Packet::encode`] would write, without a look at what it has not.
    pub fn encode_short(&self, version: ProtocolVersion) -> Option<[u8; 4]> {
        let (Self::Puback(ack) | Self::Pubrec(ack) | Self::Pubrel(ack) | Self::Pubcomp(ack)) = self
        else {
            return None;
        };
        let [high, low] = ack.packet_id.value().to_be_bytes();
        (ack.body_len(version) == 2).then_some([self.first_byte(), 2, high, low])
    }

    /// Appends the packet to `out`.
    pub fn encode_into(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.encoded_len(version), 0);
        self.encode(version, &mut out[start..]);
    }

    /// The packet as it can be sent to a peer that takes at most `max_packet_size` bytes: without
    /// its User Properties if that helps, then without its Reason String, `None` if it is still too
    /// large [MQTT-3.2.2-19] [MQTT-3.2.2-20]. Only packets that answer something are cut; the User
    /// Properties of others are the application's.
    #[must_use]
    pub fn fit(mut self, version: ProtocolVersion, max_packet_size: u32) -> Option<Self> {
        let fits = |packet: &Self| packet.encoded_len(version) <= max_packet_size as usize;
        if fits(&self) {
            return Some(self);
        }
        let (user_properties, _) = self.diagnostics()?;
        *user_properties = UserProperties::EMPTY;
        if fits(&self) {
            return Some(self);
        }
        let (_, reason_string) = self.diagnostics()?;
        *reason_string = None;
        fits(&self).then_some(self)
    }

    /// Without reason string and user properties, which a client may have asked not to get
    /// [MQTT-3.1.2-29].
    #[must_use]
    pub fn without_diagnostics(mut self) -> Self {
        if let Some((user_properties, reason_string)) = self.diagnostics() {
            *user_properties = UserProperties::EMPTY;
            *reason_string = None;
        }
        self
    }

    /// What may be dropped from a packet.
    fn diagnostics(&mut self) -> Option<(&mut UserProperties<'a>, &mut Option<&'a str>)> {
        let ack = match self {
            Self::Puback(packet)
            | Self::Pubrec(packet)
            | Self::Pubrel(packet)
            | Self::Pubcomp(packet) => &mut packet.properties,
            Self::Suback(packet) => &mut packet.properties,
            Self::Unsuback(packet) => &mut packet.properties,
            Self::Connack(Connack { properties, .. }) => {
                return Some((
                    &mut properties.user_properties,
                    &mut properties.reason_string,
                ));
            }
            Self::Disconnect(Disconnect { properties, .. }) => {
                return Some((
                    &mut properties.user_properties,
                    &mut properties.reason_string,
                ));
            }
            Self::Auth(Auth { properties, .. }) => {
                return Some((
                    &mut properties.user_properties,
                    &mut properties.reason_string,
                ));
            }
            _ => return None,
        };
        Some((&mut ack.user_properties, &mut ack.reason_string))
    }

    fn first_byte(&self) -> u8 {
        match self {
            Self::Publish(publish) => publish.first_byte(),
            _ => self.packet_type().first_byte(),
        }
    }

    /// Remaining Length.
    fn body_len(&self, version: ProtocolVersion) -> usize {
        match self {
            Self::Connect(packet) => packet.body_len(),
            Self::Connack(packet) => packet.body_len(version),
            Self::Publish(packet) => packet.body_len(version, packet.payload.len()),
            Self::Puback(packet)
            | Self::Pubrec(packet)
            | Self::Pubrel(packet)
            | Self::Pubcomp(packet) => packet.body_len(version),
            Self::Subscribe(packet) => packet.body_len(version),
            Self::Suback(packet) => packet.body_len(version),
            Self::Unsubscribe(packet) => packet.body_len(version),
            Self::Unsuback(packet) => packet.body_len(version),
            Self::Pingreq | Self::Pingresp => 0,
            Self::Disconnect(packet) => packet.body_len(version),
            Self::Auth(packet) => packet.body_len(),
        }
    }

    fn write_body(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        match self {
            Self::Connect(packet) => packet.write(writer),
            Self::Connack(packet) => packet.write(version, writer),
            Self::Publish(packet) => {
                packet.write_head(version, writer);
                writer.bytes(packet.payload);
            }
            Self::Puback(packet)
            | Self::Pubrec(packet)
            | Self::Pubrel(packet)
            | Self::Pubcomp(packet) => packet.write(version, writer),
            Self::Subscribe(packet) => packet.write(version, writer),
            Self::Suback(packet) => packet.write(version, writer),
            Self::Unsubscribe(packet) => packet.write(version, writer),
            Self::Unsuback(packet) => packet.write(version, writer),
            Self::Pingreq | Self::Pingresp => {}
            Self::Disconnect(packet) => packet.write(version, writer),
            Self::Auth(packet) => packet.write(writer),
        }
    }
}

/// Reads the fixed header and checks its flags.
#[inline]
fn open(
    version: ProtocolVersion,
    frame: &[u8],
) -> Result<(PacketType, u8, Reader<'_>), DecodeError> {
    let first_byte = frame.first().copied().unwrap_or(0);
    let error = |packet, fault, field, offset| DecodeError {
        fault,
        packet,
        field,
        offset,
    };
    let packet = match PacketType::from_first_byte(first_byte) {
        Some(PacketType::Auth) if !version.is_v5() => None,
        packet => packet,
    };
    let Some(packet) = packet else {
        return Err(error(None, Fault::PacketTypeReserved, "packet type", 0));
    };
    let flags = first_byte & 0x0F;
    if !packet.allows_flags(version, flags) {
        // [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.15.1-1]
        return Err(error(Some(packet), Fault::FlagsReserved, "flags", 0));
    }
    let length_error = |fault| error(Some(packet), fault, "remaining length", 1);
    let header = read_variable(&frame[1..]).map_err(length_error)?;
    let Some((remaining, len_of_len)) = header else {
        return Err(length_error(Fault::Truncated));
    };
    if version.is_v5() && packet != PacketType::Connect {
        check_minimal(packet, remaining, len_of_len)?;
    }
    let start = 1 + len_of_len;
    match (frame.len() - start).cmp(&(remaining as usize)) {
        core::cmp::Ordering::Less => Err(length_error(Fault::Truncated)),
        core::cmp::Ordering::Greater => Err(length_error(Fault::TrailingBytes)),
        core::cmp::Ordering::Equal => Ok((packet, flags, Reader::new(packet, frame, start))),
    }
}

/// Remaining Length in the fewest bytes. 5.0 demands that [MQTT-1.5.5-1]; 3.1.1 does not, and small
/// clients that fill in the length afterwards pad it.
fn check_minimal(packet: PacketType, remaining: u32, len_of_len: usize) -> Result<(), DecodeError> {
    if len_of_len == variable_len(remaining as usize) {
        return Ok(());
    }
    Err(DecodeError {
        fault: Fault::VariableByteIntegerNotMinimal,
        packet: Some(packet),
        field: "remaining length",
        offset: 1,
    })
}

/// Bytes of a packet whose Remaining Length is `body_len`.
const fn frame_len(body_len: usize) -> usize {
    1 + variable_len(body_len) + body_len
}

/// What the upper four bits of a packet's first byte say (table 2-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(
    missing_docs,
    reason = "they are their own names; `Packet` documents each"
)]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Connack,
        Self::Publish,
        Self::Puback,
        Self::Pubrec,
        Self::Pubrel,
        Self::Pubcomp,
        Self::Subscribe,
        Self::Suback,
        Self::Unsubscribe,
        Self::Unsuback,
        Self::Pingreq,
        Self::Pingresp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// From a packet's first byte; `None` for type 0.
    pub const fn from_first_byte(byte: u8) -> Option<Self> {
        match byte >> 4 {
            0 => None,
            number => Some(Self::ALL[number as usize - 1]),
        }
    }

    /// The first byte of a packet of this type; a PUBLISH adds its own flags (table 2-2).
    pub const fn first_byte(self) -> u8 {
        let flags = match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }

    /// The standard's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// Whether a packet of this type may have these flags [MQTT-2.1.3-1]. PUBLISH checks its own.
    const fn allows_flags(self, version: ProtocolVersion, flags: u8) -> bool {
        const DUP: u8 = 0b1000;
        match self {
            Self::Publish => true,
            // 3.1 clients resend these with DUP (3.1, section 2.1), and 3.1 has no rule about the
            // last bit.
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe
                if matches!(version, ProtocolVersion::V3) =>
            {
                flags & !DUP & !1 == 0b0010
            }
            _ => flags == self.first_byte() & 0x0F,
        }
    }
}

/// `PUBLISH`.
impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
