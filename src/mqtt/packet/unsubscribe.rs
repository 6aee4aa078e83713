//! UNSUBSCRIBE and UNSUBACK (sections 3.10 and 3.11).

use core::fmt;

use crate::mqtt::basic::{PacketId, ProtocolVersion};
use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::property::{AckProperties, UnsubscribeProperties};
use crate::mqtt::topic::TopicFilter;
use crate::mqtt::wire::{Reader, Writer};

use super::{PacketType, ReasonCodes};

/// A client's wish to receive no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Comes back in UNSUBACK [MQTT-3.10.4-5].
    pub packet_id: PacketId,
    /// None before 5.0.
    pub properties: UnsubscribeProperties<'a>,
    /// At least one [MQTT-3.10.3-2].
    pub filters: TopicFilters<'a>,
}

/// The filters of an UNSUBSCRIBE: as they were read, or from a list.
#[derive(Clone, Copy)]
pub struct TopicFilters<'a>(Filters<'a>);

#[derive(Clone, Copy)]
enum Filters<'a> {
    /// Invariant: whole, checked filters.
    Read(&'a [u8]),
    List(&'a [TopicFilter<'a>]),
}

impl<'a> TopicFilters<'a> {
    /// To be sent.
    pub const fn from_slice(list: &'a [TopicFilter<'a>]) -> Self {
        Self(Filters::List(list))
    }

    /// In order.
    pub fn iter(&self) -> TopicFiltersIter<'a> {
        let (bytes, list): (&[u8], &[TopicFilter<'_>]) = match self.0 {
            Filters::Read(bytes) => (bytes, &[]),
            Filters::List(list) => (&[], list),
        };
        TopicFiltersIter {
            read: Reader::new(PacketType::Unsubscribe, bytes, 0),
            list: list.iter(),
        }
    }
}

lazy_list!('a: TopicFilters of TopicFilter<'a>, by TopicFiltersIter);

/// Iterates [`TopicFilters`].
#[derive(Debug, Clone)]
pub struct TopicFiltersIter<'a> {
    read: Reader<'a>,
    list: core::slice::Iter<'a, TopicFilter<'a>>,
}

impl<'a> Iterator for TopicFiltersIter<'a> {
    type Item = TopicFilter<'a>;

    fn next(&mut self) -> Option<TopicFilter<'a>> {
        if self.read.is_empty() {
            return self.list.next().copied();
        }
        // Checked when it was parsed, so an error would mean the end.
        self.read.topic_filter("topic filter").ok()
    }
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn read(
        version: ProtocolVersion,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            UnsubscribeProperties::read(reader)?
        } else {
            UnsubscribeProperties::default()
        };
        if reader.is_empty() {
            return Err(reader.error(Fault::FiltersMissing, "payload")); // [MQTT-3.10.3-2]
        }
        let mut check = reader.clone();
        while !check.is_empty() {
            check.topic_filter("topic filter")?; // [MQTT-3.10.3-1]
        }
        Ok(Self {
            packet_id,
            properties,
            filters: TopicFilters(Filters::Read(reader.rest())),
        })
    }

    pub(super) fn body_len(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() {
            self.properties.section_len()
        } else {
            0
        };
        let filters = match self.filters.0 {
            Filters::Read(bytes) => bytes.len(),
            Filters::List(list) => list.iter().map(|filter| 2 + filter.as_str().len()).sum(),
        };
        2 + properties + filters
    }

    pub(super) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        writer.packet_id(self.packet_id);
        if version.is_v5() {
            self.properties.write(writer);
        }
        for filter in &self.filters {
            writer.text(filter.as_str());
        }
    }
}

/// What became of an UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// That of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// None before 5.0.
    pub properties: AckProperties<'a>,
    /// One for each filter, in their order [MQTT-3.11.3-1]. None before 5.0, whose UNSUBACK says
    /// nothing more.
    pub reasons: ReasonCodes<'a>,
}

impl<'a> Unsuback<'a> {
    pub(super) fn read(
        version: ProtocolVersion,
        reader: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        if !version.is_v5() {
            return Ok(Self {
                packet_id,
                properties: AckProperties::default(),
                reasons: ReasonCodes::default(),
            });
        }
        Ok(Self {
            packet_id,
            properties: AckProperties::read(reader)?,
            reasons: ReasonCodes::read(reader, |_| true)?,
        })
    }

    pub(super) fn body_len(&self, version: ProtocolVersion) -> usize {
        if version.is_v5() {
            2 + self.properties.section_len() + self.reasons.len()
        } else {
            2
        }
    }

    pub(super) fn write(&self, version: ProtocolVersion, writer: &mut Writer<'_>) {
        writer.packet_id(self.packet_id);
        if version.is_v5() {
            self.properties.write(writer);
            for reason in &self.reasons {
                writer.byte(reason.code());
            }
        }
    }
}
