//! Where a packet ends: the fixed header, read from however many bytes have arrived.

use crate::mqtt::error::{DecodeError, Fault};
use crate::mqtt::packet::PacketType;
use crate::mqtt::wire;

/// The longest fixed header: the first byte and four of Remaining Length.
pub const FIXED_HEADER_LEN_MAX: usize = 5;

/// The largest packet that the protocol can say, fixed header included. As a limit it means none.
pub const PACKET_SIZE_MAX: u32 = wire::VARIABLE_BYTE_INTEGER_MAX + FIXED_HEADER_LEN_MAX as u32;

/// What the bytes received so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed.
    Incomplete {
        /// How long the whole packet will be, once its header is complete.
        needed: Option<usize>,
    },
    /// A whole packet is there: `bytes[..total_len]` goes to
    /// [`Packet::parse`](crate::mqtt::Packet::parse).
    Complete {
        /// Type and flags.
        first_byte: u8,
        /// Bytes of the fixed header.
        header_len: usize,
        /// Bytes of the whole packet.
        total_len: usize,
    },
}

/// Looks for one packet at the start of `bytes`.
///
/// A packet longer than `max_packet_size`, fixed header included, is refused as soon as its header
/// says so, before any of it needs to be kept. So is a packet type that no version defines.
pub fn peek(bytes: &[u8], max_packet_size: u32) -> Result<Frame, DecodeError> {
    let Some((&first_byte, rest)) = bytes.split_first() else {
        return Ok(Frame::Incomplete { needed: None });
    };
    let packet = PacketType::from_first_byte(first_byte);
    if packet.is_none() {
        return Err(DecodeError {
            fault: Fault::PacketTypeReserved,
            packet,
            field: "packet type",
            offset: 0,
        });
    }
    let error = |fault| DecodeError {
        fault,
        packet,
        field: "remaining length",
        offset: 1,
    };
    let Some((remaining, len_of_len)) = wire::read_variable(rest).map_err(error)? else {
        return Ok(Frame::Incomplete { needed: None });
    };
    let header_len = 1 + len_of_len;
    let total = remaining + header_len as u32;
    if total > max_packet_size {
        return Err(error(Fault::PacketTooLarge {
            len: total,
            max: max_packet_size,
        }));
    }
    let total_len = total as usize;
    if bytes.len() < total_len {
        return Ok(Frame::Incomplete {
            needed: Some(total_len),
        });
    }
    Ok(Frame::Complete {
        first_byte,
        header_len,
        total_len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_known_before_the_packet_is_there() {
        let bytes = [0x30, 0x80, 0x01, 0x00];
        assert_eq!(peek(&[], 1000), Ok(Frame::Incomplete { needed: None }));
        assert_eq!(
            peek(&bytes[..1], 1000),
            Ok(Frame::Incomplete { needed: None })
        );
        assert_eq!(
            peek(&bytes[..2], 1000),
            Ok(Frame::Incomplete { needed: None })
        );
        let known = Frame::Incomplete { needed: Some(131) };
        assert_eq!(peek(&bytes[..3], 1000), Ok(known));
        assert_eq!(peek(&bytes, 1000), Ok(known));
    }

    #[test]
    fn a_packet_may_be_as_large_as_the_limit_and_no_larger() {
        let header = [0x30, 0x05];
        assert!(peek(&header, 7).is_ok());
        let error = peek(&header, 6).unwrap_err();
        assert_eq!(error.fault, Fault::PacketTooLarge { len: 7, max: 6 });
        assert_eq!(error.reason().code(), 0x95);
    }

    #[test]
    fn type_zero_is_refused_at_its_first_byte() {
        assert_eq!(
            peek(&[0x0F], 100).unwrap_err().fault,
            Fault::PacketTypeReserved
        );
    }
}
