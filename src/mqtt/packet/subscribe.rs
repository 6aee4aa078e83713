//! SUBSCRIBE and SUBACK (sections 3.8 and 3.9).

use core::fmt;

use crate::mqtt::basic::{PacketId, ProtocolVersion, QoS};
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::property::{AckProperties, SubscribeProperties};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::mqtt::wire::{Reader, Writer};

use super::PacketType;

/// A client's wish to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Comes back in SUBACK [MQTT-3.8.4-2].
    pub packet_id: PacketId,
    /// None before 5.0.
    pub properties: SubscribeProperties<'a>,
    /// At least one [MQTT-3.8.3-2].
    pub requests: SubscriptionRequests<'a>,
}

/// One filter of a SUBSCRIBE and how it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionRequest<'a> {
    /// What to receive.
    pub filter: TopicFilter<'a>,
    /// How.
    pub options: SubscriptionOptions,
}

/// Subscription Options (3.8.3.1). Before 5.0 only the QoS is said, and the rest is as
/// [`SubscriptionOptions::new`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// The highest QoS to receive at.
    pub maximum_qos: QoS,
    /// Not what this client published itself [MQTT-3.8.3-3].
    pub no_local: bool,
    /// Keep the RETAIN flag as it was published [MQTT-3.3.1-13].
    pub retain_as_published: bool,
    /// Which retained messages come at once.
    pub retain_handling: RetainHandling,
}

/// Which retained messages a new subscription brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match [MQTT-3.3.1-9].
    #[default]
    Send = 0,
    /// All that match, unless the subscription existed already [MQTT-3.3.1-10].
    SendIfNew = 1,
    /// None [MQTT-3.3.1-11].
    DoNotSend = 2,
}

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED_V5: u8 = 0xC0;
const RESERVED_V4: u8 = 0xFC;
const QOS: u8 = 0x03;

impl SubscriptionOptions {
    /// What 3.1.1 means by a QoS.
    pub const fn new(maximum_qos: QoS) -> Self {
        Self {
            maximum_qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The byte behind a filter.
    pub const fn bits(self, version: ProtocolVersion) -> u8 {
        let qos = self.maximum_qos.bits();
        if !version.is_v5() {
            return qos;
        }
        qos | if self.no_local { NO_LOCAL } else { 0 }
            | if self.retain_as_published {
                RETAIN_AS_PUBLISHED
            } else {
                0
            }
            | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT
    }

    /// From that byte.
    pub const fn from_bits(version: ProtocolVersion, bits: u8) -> Result<Self, Fault> {
        let reserved = if version.is_v5() {
            RESERVED_V5
        } else {
            RESERVED_V4
        };
        if bits & reserved != 0 {
            return Err(Fault::BitsReserved); // [MQTT-3.8.3-5] [MQTT-3.8.3-4/3.1.1]
        }
        let Some(maximum_qos) = QoS::from_bits(bits & QOS) else {
            return Err(Fault::QosInvalid);
        };
        let retain_handling = match bits >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(Fault::RetainHandlingInvalid),
        };
        Ok(Self {
            maximum_qos,
            no_local: bits & NO_LOCAL != 0,
            retain_as_published: bits & RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }
}

/// The filters of a SUBSCRIBE: as they were read, or from a list.
#[derive(Clone, Copy)]
pub struct SubscriptionRequests<'a>(Requests<'a>);

#[derive(Clone, Copy)]
enum Requests<'a> {
    /// Invariant: whole, checked requests.
    Read(ProtocolVersion, &'a [u8]),
    List(&'a [SubscriptionRequest<'a>]),
}

impl<'a> SubscriptionRequests<'a> {
    /// To be sent.
    pub const fn from_slice(list: &'a [SubscriptionRequest<'a>]) -> Self {
        Self(Requests::List(list))
    }

    /// In order.
    pub fn iter(&self) -> SubscriptionRequestsIter<'a> {
        SubscriptionRequestsIter(match self.0 {
            Requests::Read(version, bytes) => {
                RequestsIter::Read(version, Reader::new(PacketType::Subscribe, bytes, 0))
            }
            Requests::List(list) => RequestsIter::List(list.iter()),
        })
    }
}

lazy_list!('a: SubscriptionRequests of SubscriptionRequest<'a>, by SubscriptionRequestsIter);

/// Iterates [`SubscriptionRequests`].
#[derive(Debug, Clone)]
pub struct SubscriptionRequestsIter<'a>(RequestsIter<'a>);

#[derive(Debug, Clone)]
enum RequestsIter<'a> {
    Read(ProtocolVersion, Reader<'a>),
    List(core::slice::Iter<'a, SubscriptionRequest<'a>>),
}

impl<'a> Iterator for SubscriptionRequestsIter<'a> {
    type Item = SubscriptionRequest<'a>;

    fn next(&mut self) -> Option<SubscriptionRequest<'a>> {
        match &mut self.0 {
            RequestsIter::List(list) => list.next().copied(),
            RequestsIter::Read(_, reader) if reader.is_empty() => None,
            // Checked when it was parsed, so an error would mean the end.
            RequestsIter::Read(version, reader) => read_request(*version, reader).ok(),
        }
    }
}

fn read_request<'a>(
    version: ProtocolVersion,
    reader: &mut Reader<'a>,
) -> Result<SubscriptionRequest<'a>, DecodeError> {
    const FIELD: &str = "subscription options";
    let filter = reader.topic_filter("topic filter")?;
    let at = reader.offset();
    let bits = reader.byte(FIELD)?;
    let options = SubscriptionOptions::from_bits(version, bits)
        .map_err(|fault| reader.error_at(fault, FIELD, at))?;
    if options.no_local && filter.is_shared() {
        return Err(reader.error_at(Fault::NoLocalOnShared, FIELD, at)); // [MQTT-3.8.3-4]
    }
    Ok(SubscriptionRequest { filter, options })
}

impl<'a> Subscribe<'a> {
    pub(super) fn read(
        version: ProtocolVersion,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            SubscribeProperties::read(reader)?
        } else {
            SubscribeProperties::default()
        };
        if reader.is_empty() {
            return Err(reader.error(Fault::FiltersMissing, "payload")); // [MQTT-3.8.3-2]
        }
        let mut check = reader.clone();
        while !check.is_empty() {
            read_request(version, &mut check)?;
        }
        Ok(Self {
            packet_id,
            properties,
            requests: SubscriptionRequests(Requests::Read(version, reader.rest())),
        })
    }

    pub(super) fn body_len(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() {
            self.properties.section_len()
        } else {
            0
        };
        let requests = match self.requests.0 {
            Requests::Read(_, bytes) => bytes.len(),
            Requests::List(list) => list
                .iter()
                .map(|request| 2 + request.filter.as_str().len() + 1)
                .sum(),
        };
        2 + properties + requests
    }

    pub(super) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        writer.packet_id(self.packet_id);
        if version.is_v5() {
            self.properties.write(writer);
        }
        for request in &self.requests {
            writer.text(request.filter.as_str());
            writer.byte(request.options.bits(version));
        }
    }
}

/// What became of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suback<'a> {
    /// That of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// None before 5.0.
    pub properties: AckProperties<'a>,
    /// One for each filter, in their order [MQTT-3.9.3-1]: a granted QoS or a failure. Before 5.0
    /// every failure is 0x80, [`ReasonCode::UnspecifiedError`].
    pub reasons: ReasonCodes<'a>,
}

impl<'a> Suback<'a> {
    pub(super) fn read(
        version: ProtocolVersion,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            AckProperties::read(reader)?
        } else {
            AckProperties::default()
        };
        let reasons = ReasonCodes::read(reader, |reason| {
            let allowed_before_v5 = !reason.is_error() || reason == ReasonCode::UnspecifiedError;
            version.is_v5() || allowed_before_v5 // [MQTT-3.9.3-2/3.1.1]
        })?;
        Ok(Self {
            packet_id,
            properties,
            reasons,
        })
    }

    pub(super) fn body_len(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() {
            self.properties.section_len()
        } else {
            0
        };
        2 + properties + self.reasons.len()
    }

    pub(super) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        writer.packet_id(self.packet_id);
        if version.is_v5() {
            self.properties.write(writer);
        }
        for reason in &self.reasons {
            writer.byte(if version.is_v5() {
                reason.code()
            } else {
                reason.to_suback_return_code()
            });
        }
    }
}

/// The reason codes of a SUBACK or UNSUBACK: as they were read, or from a list.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Codes<'a>);

#[derive(Clone, Copy)]
enum Codes<'a> {
    /// Invariant: each byte is a reason code.
    Read(&'a [u8]),
    List(&'a [ReasonCode]),
}

impl<'a> ReasonCodes<'a> {
    /// To be sent.
    pub const fn from_slice(list: &'a [ReasonCode]) -> Self {
        Self(Codes::List(list))
    }

    /// In order.
    pub fn iter(&self) -> ReasonCodesIter<'a> {
        match self.0 {
            Codes::Read(bytes) => ReasonCodesIter { bytes, list: &[] },
            Codes::List(list) => ReasonCodesIter { bytes: &[], list },
        }
    }

    /// How many.
    pub const fn len(&self) -> usize {
        match self.0 {
            Codes::Read(bytes) => bytes.len(),
            Codes::List(list) => list.len(),
        }
    }

    /// Whether there are none, as in an UNSUBACK before 5.0.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads codes to the packet's end: at least one, all allowed in this packet [MQTT-3.9.3-2]
    /// [MQTT-3.11.3-2].
    pub(super) fn read(
        reader: &mut Reader<'a>,
        allowed: impl Fn(ReasonCode) -> bool,
    ) -> Result<Self, DecodeError> {
        const FIELD: &str = "reason codes";
        if reader.is_empty() {
            return Err(reader.error(Fault::ReasonCodesMissing, FIELD));
        }
        let start = reader.offset();
        let bytes = reader.rest();
        for (index, &byte) in bytes.iter().enumerate() {
            ReasonCode::from_u8(byte)
                .filter(|reason| reason.is_allowed_in(reader.packet()) && allowed(*reason))
                .ok_or_else(|| {
                    reader.error_at(Fault::ReasonCodeInvalid(byte), FIELD, start + index)
                })?;
        }
        Ok(Self(Codes::Read(bytes)))
    }
}

impl Default for ReasonCodes<'_> {
    fn default() -> Self {
        Self::from_slice(&[])
    }
}

lazy_list!('a: ReasonCodes of ReasonCode, by ReasonCodesIter);

/// Iterates [`ReasonCodes`].
#[derive(Debug, Clone)]
pub struct ReasonCodesIter<'a> {
    bytes: &'a [u8],
    list: &'a [ReasonCode],
}

impl Iterator for ReasonCodesIter<'_> {
    type Item = ReasonCode;

    fn next(&mut self) -> Option<ReasonCode> {
        if let Some((&byte, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return ReasonCode::from_u8(byte);
        }
        let (&reason, rest) = self.list.split_first()?;
        self.list = rest;
        Some(reason)
    }
}
