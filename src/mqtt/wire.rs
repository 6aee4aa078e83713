//! The data types of section 1.5: a cursor that reads them from untrusted bytes, and one that
//! writes them.
//!
//! [`Reader`] is total: every read is checked, and a failure says which field of which packet at
//! which offset. [`Writer`] fills a slice whose length was stated before; running over its end is
//! our bug, and it panics.

use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::packet::PacketType;
use crate::mqtt::topic;

/// The largest Variable Byte Integer, four bytes of seven bits (1.5.5).
pub const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

/// The longest string or binary field: its length has two bytes (1.5.4, 1.5.6).
pub const FIELD_LEN_MAX: usize = 65_535;

/// Bytes of a value as a Variable Byte Integer; a value beyond [`VARIABLE_BYTE_INTEGER_MAX`] has no
/// encoding, and counts as four.
#[inline]
pub(crate) const fn variable_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Reads a Variable Byte Integer: value, bytes used, and whether they were the fewest possible.
/// `None` while more bytes are needed.
#[inline]
pub(crate) fn read_variable(bytes: &[u8]) -> Result<Option<(u32, usize)>, Fault> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 {
        Ok(None)
    } else {
        Err(Fault::VariableByteIntegerTooLong)
    }
}

/// Reads a packet's fields. Offsets are counted from the packet's first byte.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    /// The packet, cut off where this reader must stop.
    bytes: &'a [u8],
    /// Invariant: at most `bytes.len()`.
    at: usize,
    packet: PacketType,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(packet: PacketType, bytes: &'a [u8], at: usize) -> Self {
        let at = at.min(bytes.len());
        Self { bytes, at, packet }
    }

    /// A failure at the current place.
    #[inline]
    pub(crate) fn error(&self, fault: Fault, field: &'static str) -> DecodeError {
        self.error_at(fault, field, self.at)
    }

    #[cold]
    pub(crate) fn error_at(&self, fault: Fault, field: &'static str, at: usize) -> DecodeError {
        DecodeError {
            fault,
            packet: Some(self.packet),
            field,
            offset: at,
        }
    }

    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    #[inline]
    pub(crate) fn packet(&self) -> PacketType {
        self.packet
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    #[inline]
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Everything from `from` to this reader's end.
    pub(crate) fn tail(&self, from: usize) -> &'a [u8] {
        &self.bytes[from..]
    }

    /// What is left, all of it.
    #[inline]
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    pub(crate) fn take(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let end = self.at.saturating_add(len);
        match self.bytes.get(self.at..end) {
            Some(taken) => {
                self.at = end;
                Ok(taken)
            }
            None => Err(self.error(Fault::Truncated, field)),
        }
    }

    /// A reader of the next `len` bytes, which this one steps over.
    pub(crate) fn section(&mut self, len: usize, field: &'static str) -> Result<Self, DecodeError> {
        let start = self.at;
        self.take(len, field)?;
        Ok(Self {
            bytes: &self.bytes[..self.at],
            at: start,
            packet: self.packet,
        })
    }

    #[inline]
    pub(crate) fn byte(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        match self.bytes.get(self.at) {
            Some(&byte) => {
                self.at += 1;
                Ok(byte)
            }
            None => Err(self.error(Fault::Truncated, field)),
        }
    }

    #[inline]
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let bytes = self.take(2, field)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    #[inline]
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let bytes = self.take(4, field)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A Variable Byte Integer in the fewest bytes [MQTT-1.5.5-1].
    pub(crate) fn variable(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        match read_variable(&self.bytes[self.at..]) {
            Ok(Some((value, len))) => {
                if len != variable_len(value as usize) {
                    return Err(self.error(Fault::VariableByteIntegerNotMinimal, field));
                }
                self.at += len;
                Ok(value)
            }
            Ok(None) => Err(self.error(Fault::Truncated, field)),
            Err(fault) => Err(self.error(fault, field)),
        }
    }

    #[inline]
    pub(crate) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        let len = self.u16(field)?;
        match self.take(usize::from(len), field) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(self.error_at(Fault::Truncated, field, start)),
        }
    }

    /// A UTF-8 Encoded String without U+0000 [MQTT-1.5.4-1] [MQTT-1.5.4-2]. Surrogates are not
    /// UTF-8 to Rust either, and a byte order mark is a character like any other [MQTT-1.5.4-3].
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let start = self.at;
        let text = self.text_or_null(field)?;
        if text.as_bytes().contains(&0) {
            return Err(self.error_at(Fault::NullCharacter, field, start));
        }
        Ok(text)
    }

    /// As [`Reader::text`], for a caller that looks for U+0000 itself.
    #[inline]
    fn text_or_null(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let start = self.at;
        let bytes = self.binary(field)?;
        match core::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => Err(self.error_at(Fault::NotUtf8, field, start)),
        }
    }

    /// A Topic Name, which may be empty: whether that is allowed depends on an alias that comes
    /// later.
    #[inline]
    pub(crate) fn topic_name_or_empty(
        &mut self,
        field: &'static str,
    ) -> Result<&'a str, DecodeError> {
        let start = self.at;
        let text = self.text_or_null(field)?;
        match topic::check_name(text) {
            Ok(()) | Err(topic::TopicError::Empty) => Ok(text),
            Err(topic::TopicError::NullCharacter) => {
                Err(self.error_at(Fault::NullCharacter, field, start))
            }
            Err(error) => Err(self.error_at(Fault::TopicName(error), field, start)),
        }
    }

    /// A Topic Name of at least one character [MQTT-4.7.3-1].
    pub(crate) fn topic_name(
        &mut self,
        field: &'static str,
    ) -> Result<topic::TopicName<'a>, DecodeError> {
        let start = self.at;
        let text = self.topic_name_or_empty(field)?;
        match topic::TopicName::new(text) {
            Ok(name) => Ok(name),
            Err(error) => Err(self.error_at(Fault::TopicName(error), field, start)),
        }
    }

    /// A Topic Filter [MQTT-3.8.3-1] [MQTT-3.10.3-1].
    pub(crate) fn topic_filter(
        &mut self,
        field: &'static str,
    ) -> Result<topic::TopicFilter<'a>, DecodeError> {
        let start = self.at;
        let text = self.text(field)?;
        match topic::TopicFilter::new(text) {
            Ok(filter) => Ok(filter),
            Err(error) => Err(self.error_at(Fault::TopicFilter(error), field, start)),
        }
    }

    /// A Packet Identifier, which is never zero [MQTT-2.2.1-3].
    pub(crate) fn packet_id(&mut self) -> Result<crate::mqtt::PacketId, DecodeError> {
        const FIELD: &str = "packet identifier";
        let start = self.at;
        let id = self.u16(FIELD)?;
        match crate::mqtt::PacketId::new(id) {
            Some(id) => Ok(id),
            None => Err(self.error_at(Fault::PacketIdZero, FIELD, start)),
        }
    }

    /// Everything must have been read by now.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.error(Fault::TrailingBytes, "end of packet"))
        }
    }
}

/// Fills a slice from its start.
#[derive(Debug)]
pub(crate) struct Writer<'b> {
    bytes: &'b mut [u8],
    at: usize,
}

impl<'b> Writer<'b> {
    pub(crate) fn new(bytes: &'b mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        self.bytes[self.at..end].copy_from_slice(bytes);
        self.at = end;
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes[self.at] = byte;
        self.at += 1;
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn variable(&mut self, value: usize) {
        assert!(
            value <= VARIABLE_BYTE_INTEGER_MAX as usize,
            "a length that four bytes cannot say"
        );
        let mut rest = value;
        while rest > 0x7F {
            self.byte((rest & 0x7F) as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }

    /// # Panics
    /// If the field is longer than [`FIELD_LEN_MAX`]: what reaches an encoder was parsed or checked
    /// before.
    pub(crate) fn binary(&mut self, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).expect("fields are checked to fit 65 535 bytes");
        self.u16(len);
        self.bytes(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }

    pub(crate) fn packet_id(&mut self, id: crate::mqtt::PacketId) {
        self.u16(id.value());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> Reader<'_> {
        Reader::new(PacketType::Publish, bytes, 0)
    }

    #[test]
    fn variable_byte_integers_at_every_boundary() {
        // Table 1-1 of section 1.5.5.
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            assert_eq!(variable_len(value), bytes.len());
            let mut written = vec![0; bytes.len()];
            Writer::new(&mut written).variable(value);
            assert_eq!(written, bytes);
            assert_eq!(reader(bytes).variable("v").unwrap() as usize, value);
            for cut in 0..bytes.len() {
                assert_eq!(read_variable(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_variable_byte_integer_has_at_most_four_bytes_and_the_fewest() {
        assert_eq!(
            read_variable(&[0x80, 0x80, 0x80, 0x80]),
            Err(Fault::VariableByteIntegerTooLong)
        );
        for padded in [
            &[0x80, 0x00][..],
            &[0xFF, 0x80, 0x00],
            &[0x81, 0x80, 0x80, 0x00],
        ] {
            let error = reader(padded).variable("v").unwrap_err();
            assert_eq!(error.fault, Fault::VariableByteIntegerNotMinimal);
        }
    }

    #[test]
    fn strings_are_utf_8_without_null() {
        for (bytes, expected) in [
            (&[0, 1, b'a'][..], Ok("a")),
            (&[0, 0], Ok("")),
            (&[0, 3, 0xEF, 0xBB, 0xBF], Ok("\u{FEFF}")),
            (&[0, 3, 0xED, 0xA0, 0x80], Err(Fault::NotUtf8)),
            (&[0, 2, 0xC0, 0x80], Err(Fault::NotUtf8)),
            (&[0, 1, 0xFF], Err(Fault::NotUtf8)),
            (&[0, 3, b'a', 0, b'b'], Err(Fault::NullCharacter)),
            (&[0, 2, b'a'], Err(Fault::Truncated)),
            (&[0], Err(Fault::Truncated)),
        ] {
            let read = reader(bytes).text("s").map_err(|error| error.fault);
            assert_eq!(read, expected, "{bytes:?}");
        }
    }
}
