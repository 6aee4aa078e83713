//! WebSocket frames (RFC 6455, section 5): a machine without a socket.
//!
//! [`Deframer`] takes what a peer has sent, in pieces of any length, and leaves the data of its
//! binary messages at the front of the same bytes: a frame's data is never longer than the frame,
//! so that nothing is copied elsewhere and nothing is kept but half a header. Where frames and
//! messages begin and end means nothing to MQTT [MQTT-6.0.0-2].

/// The longest header of a frame, which a client's is: two bytes, eight of length, four of mask.
const HEADER_MAX: usize = 14;

/// Bytes of a mask.
const MASK_LEN: usize = 4;

/// The first byte of a whole binary message, of a pong and of a close frame.
pub const BINARY: u8 = 0x82;
const PONG: u8 = 0x8A;
const CLOSE: u8 = 0x88;

/// The longest payload of a control frame (5.5).
pub const CONTROL_MAX: usize = 125;

/// The longest header of a frame that we send as a server: it has at most 65 535 bytes of data and
/// no mask.
pub const OUR_HEADER_MAX: usize = 4;

/// Reads frames.
#[derive(Debug)]
pub struct Deframer {
    /// The longest frame that is taken, in bytes of payload.
    frame_max: u64,
    /// The peer masks its frames: it is a client.
    is_masked: bool,
    at: At,
    /// A binary message has begun and its last frame has not come.
    is_in_message: bool,
    /// Why nothing is read any more.
    end: Option<End>,
}

/// Where in a frame the next byte belongs.
#[derive(Debug)]
enum At {
    /// In its header, of which so much is here.
    Header { here: [u8; HEADER_MAX], len: usize },
    /// In its data.
    Data { left: u64, mask: Mask },
    /// In a control frame's payload.
    Control {
        opcode: Opcode,
        left: usize,
        mask: Mask,
        /// As far as it is here.
        payload: Vec<u8>,
    },
}

/// The masking key, turned so that its first byte is for the next byte of payload. A server's
/// frames have none, which is the same as zeros.
pub type Mask = [u8; MASK_LEN];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Binary,
    Continuation,
    Close,
    Ping,
    Pong,
}

/// What a peer asks besides its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// To be answered by a pong with the same bytes, at most [`CONTROL_MAX`].
    Ping(&'a [u8]),
    /// Nobody asked, which is allowed (5.5.3).
    Pong(&'a [u8]),
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer has closed, and perhaps said why.
    Closed(Option<u16>),
    /// What it sent is not allowed.
    Violation(Violation),
}

/// What a peer may not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// Clients mask every frame (5.1).
    NotMasked,
    /// Servers mask none (5.1).
    Masked,
    /// No extension was agreed that would use the reserved bits (5.2).
    ReservedBits,
    /// Opcodes 3 to 7 and 11 to 15.
    UnknownOpcode,
    /// Only binary frames carry MQTT [MQTT-6.0.0-1].
    Text,
    /// A continuation of nothing (5.4).
    NothingToContinue,
    /// A new message within another (5.4).
    Interleaved,
    /// Control frames are not fragmented, and have at most 125 bytes (5.5).
    ControlTooLong,
    /// A length in more bytes than it needs, or of 2⁶³ and more (5.2).
    BadLength,
    /// Longer than what is taken.
    TooLong,
    /// A close frame with one byte, or with a code that is never sent (7.4).
    BadClose,
    /// A close frame whose reason is not UTF-8.
    BadText,
}

impl Violation {
    /// The code of the close frame that answers it (7.4.1).
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::BadText => 1007,
            Self::TooLong => 1009,
            _ => 1002,
        }
    }

    /// For the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotMasked => "a frame without a mask",
            Self::Masked => "a frame with a mask",
            Self::ReservedBits => "reserved bits are set",
            Self::UnknownOpcode => "an unknown opcode",
            Self::Text => "a text frame",
            Self::NothingToContinue => "a continuation of nothing",
            Self::Interleaved => "a message within another",
            Self::ControlTooLong => "a control frame that is fragmented or too long",
            Self::BadLength => "a length that is not written as it must be",
            Self::TooLong => "a frame longer than any packet may be",
            Self::BadClose => "a close frame that is not right",
            Self::BadText => "a close reason that is not UTF-8",
        }
    }
}

impl Deframer {
    /// For what a client sends on a connection that was just upgraded. Frames with more than
    /// `frame_max` bytes are refused by their length.
    pub const fn new(frame_max: u64) -> Self {
        Self::with(frame_max, true)
    }

    /// For what a server sends.
    pub const fn of_server(frame_max: u64) -> Self {
        Self::with(frame_max, false)
    }

    const fn with(frame_max: u64, is_masked: bool) -> Self {
        Self {
            frame_max,
            is_masked,
            at: At::header(),
            is_in_message: false,
            end: None,
        }
    }

    /// Takes all of `bytes` and leaves at their front what is data, whose length is returned; the
    /// rest of them is undefined. Once [`Deframer::end`] says something, what comes is ignored.
    pub fn decode(&mut self, bytes: &mut [u8], mut hear: impl FnMut(Said<'_>)) -> usize {
        let mut taken = 0;
        let mut kept = 0;
        while taken < bytes.len() && self.end.is_none() {
            match &mut self.at {
                At::Header { here, len } => {
                    here[*len] = bytes[taken];
                    *len += 1;
                    taken += 1;
                    let (here, len) = (*here, *len);
                    match self.begin(&here, len) {
                        Ok(None) => {}
                        Ok(Some(at)) => self.at = at,
                        Err(violation) => self.end = Some(End::Violation(violation)),
                    }
                }
                At::Data { left, mask } => {
                    let here = bytes.len() - taken;
                    let count = usize::try_from(*left).map_or(here, |left| here.min(left));
                    unmask(&mut bytes[taken..taken + count], mask);
                    bytes.copy_within(taken..taken + count, kept);
                    taken += count;
                    kept += count;
                    *left -= count as u64;
                }
                At::Control {
                    left,
                    mask,
                    payload,
                    ..
                } => {
                    let count = (*left).min(bytes.len() - taken);
                    let part = &mut bytes[taken..taken + count];
                    unmask(part, mask);
                    payload.extend_from_slice(part);
                    taken += count;
                    *left -= count;
                }
            }
            self.finish_frame(&mut hear);
        }
        kept
    }

    /// Why nothing more comes, if that is so.
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// Looks at a header as far as it is here: `None` if it goes on.
    fn begin(&mut self, bytes: &[u8; HEADER_MAX], len: usize) -> Result<Option<At>, Violation> {
        let first = bytes[0];
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        let is_last = first & 0x80 != 0;
        let opcode = match first & 0x0F {
            0 => Opcode::Continuation,
            1 => return Err(Violation::Text),
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(Violation::UnknownOpcode),
        };
        let is_control = !matches!(opcode, Opcode::Binary | Opcode::Continuation);
        match opcode {
            Opcode::Continuation if !self.is_in_message => {
                return Err(Violation::NothingToContinue);
            }
            Opcode::Binary if self.is_in_message => return Err(Violation::Interleaved),
            _ if is_control && !is_last => return Err(Violation::ControlTooLong),
            _ => {}
        }
        if len < 2 {
            return Ok(None);
        }
        let is_masked = bytes[1] & 0x80 != 0;
        if is_masked != self.is_masked {
            return Err(if is_masked {
                Violation::Masked
            } else {
                Violation::NotMasked
            });
        }
        let (length_end, length) = match bytes[1] & 0x7F {
            126 if len < 4 => return Ok(None),
            126 => (4, u64::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 if len < 10 => return Ok(None),
            127 => {
                let length = bytes[2..10].try_into().expect("eight bytes");
                (10, u64::from_be_bytes(length))
            }
            short => (2, u64::from(short)),
        };
        let is_minimal = match length_end {
            2 => true,
            4 => length > 125,
            _ => length > 0xFFFF && length < 1 << 63,
        };
        if is_control && length > CONTROL_MAX as u64 {
            return Err(Violation::ControlTooLong);
        }
        if !is_minimal {
            return Err(Violation::BadLength);
        }
        if length > self.frame_max {
            return Err(Violation::TooLong);
        }
        let mask_len = if is_masked { MASK_LEN } else { 0 };
        if len < length_end + mask_len {
            return Ok(None);
        }
        let mut mask = Mask::default();
        mask[..mask_len].copy_from_slice(&bytes[length_end..length_end + mask_len]);
        Ok(Some(if is_control {
            At::Control {
                opcode,
                left: length as usize,
                mask,
                payload: Vec::new(),
            }
        } else {
            self.is_in_message = !is_last;
            At::Data { left: length, mask }
        }))
    }

    /// A frame of which nothing is left gives way to the next.
    fn finish_frame(&mut self, hear: &mut impl FnMut(Said<'_>)) {
        match &self.at {
            At::Data { left: 0, .. } => self.at = At::header(),
            At::Control {
                opcode,
                left: 0,
                payload,
                ..
            } => {
                let bytes = &payload[..];
                match opcode {
                    Opcode::Ping => hear(Said::Ping(bytes)),
                    Opcode::Close => {
                        self.end = Some(match closed(bytes) {
                            Ok(code) => End::Closed(code),
                            Err(violation) => End::Violation(violation),
                        });
                    }
                    _ => hear(Said::Pong(bytes)),
                }
                self.at = At::header();
            }
            _ => {}
        }
    }
}

impl At {
    const fn header() -> Self {
        Self::Header {
            here: [0; HEADER_MAX],
            len: 0,
        }
    }
}

/// The code of a close frame (5.5.1, 7.4).
fn closed(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::BadClose),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::BadClose);
    }
    if core::str::from_utf8(reason).is_err() {
        return Err(Violation::BadText);
    }
    Ok(Some(code))
}

/// Takes the mask off, and turns it for what follows.
fn unmask(bytes: &mut [u8], mask: &mut Mask) {
    if *mask == Mask::default() {
        return;
    }
    let mut words = bytes.chunks_exact_mut(4);
    let key = u32::from_ne_bytes(*mask);
    for word in &mut words {
        let plain = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]) ^ key;
        word.copy_from_slice(&plain.to_ne_bytes());
    }
    let rest = words.into_remainder();
    for (byte, key) in rest.iter_mut().zip(*mask) {
        *byte ^= key;
    }
    mask.rotate_left(rest.len());
}

/// The header of a binary frame of ours, and how many bytes of it there are.
///
/// # Panics
/// If `len` is beyond 65 535, which no frame of ours is.
pub fn binary_header(len: usize) -> ([u8; OUR_HEADER_MAX], usize) {
    let Ok(long) = u16::try_from(len) else {
        panic!("frames of ours are short");
    };
    let [high, low] = long.to_be_bytes();
    if len <= 125 {
        ([BINARY, low, 0, 0], 2)
    } else {
        ([BINARY, 126, high, low], 4)
    }
}

/// Appends a whole frame with this first byte, masked if it is a client's.
///
/// # Panics
/// If it has more than 65 535 bytes, which no frame of ours has.
pub fn frame(out: &mut Vec<u8>, first: u8, payload: &[&[u8]], mask: Option<Mask>) {
    let len = payload.iter().map(|part| part.len()).sum();
    let (mut header, header_len) = binary_header(len);
    header[0] = first;
    if mask.is_some() {
        header[1] |= 0x80;
    }
    out.extend_from_slice(&header[..header_len]);
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| &mask[..]));
    let start = out.len();
    for part in payload {
        out.extend_from_slice(part);
    }
    if let Some(mut mask) = mask {
        // Putting it on is the same as taking it off.
        unmask(&mut out[start..], &mut mask);
    }
}

/// Appends a pong with the bytes of its ping, at most [`CONTROL_MAX`].
pub fn pong(out: &mut Vec<u8>, payload: &[u8], mask: Option<Mask>) {
    frame(out, PONG, &[payload], mask);
}

/// Appends a close frame.
pub fn close(out: &mut Vec<u8>, code: u16, mask: Option<Mask>) {
    frame(out, CLOSE, &[&code.to_be_bytes()], mask);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 1 << 20;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8], mask: Mask) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..=125 => bytes.push(0x80 | len as u8),
            len @ 126..=0xFFFF => {
                bytes.push(0xFE);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0xFF);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        bytes
    }

    /// What came of bytes in pieces.
    #[derive(Debug, Default, PartialEq)]
    struct Heard {
        data: Vec<u8>,
        controls: Vec<(bool, Vec<u8>)>,
        end: Option<End>,
    }

    fn hear(pieces: &[&[u8]]) -> Heard {
        let mut deframer = Deframer::new(LIMIT);
        let mut heard = Heard::default();
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let controls = &mut heard.controls;
            let kept = deframer.decode(&mut bytes, |said| match said {
                Said::Ping(payload) => controls.push((true, payload.to_vec())),
                Said::Pong(payload) => controls.push((false, payload.to_vec())),
            });
            heard.data.extend_from_slice(&bytes[..kept]);
        }
        heard.end = deframer.end();
        heard
    }

    fn violation(bytes: &[u8]) -> Option<Violation> {
        match hear(&[bytes]).end {
            Some(End::Violation(violation)) => Some(violation),
            _ => None,
        }
    }

    const MASK: Mask = [0x37, 0xFA, 0x21, 0x3D];

    #[test]
    fn data_comes_without_frames_and_masks() {
        let mut bytes = frame(0x02, b"Hel", MASK);
        bytes.extend(frame(0x89, b"are you there", [1, 2, 3, 4]));
        bytes.extend(frame(0x00, b"", [9; 4]));
        bytes.extend(frame(0x80, b"lo", [0; 4]));
        bytes.extend(frame(0x8A, b"", MASK));
        bytes.extend(frame(0x88, b"\x03\xE8bye", MASK));
        bytes.extend(b"this is not looked at any more");
        let heard = hear(&[&bytes]);
        assert_eq!(heard.data, b"Hello");
        assert_eq!(
            heard.controls,
            [(true, b"are you there".to_vec()), (false, Vec::new())]
        );
        assert_eq!(heard.end, Some(End::Closed(Some(1000))));
    }

    #[test]
    fn lengths_of_each_sort() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let heard = hear(&[&frame(0x82, &payload, MASK)]);
            assert_eq!(heard.end, None);
            assert!(heard.data == payload, "{len}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let long = LIMIT + 1;
        let mut too_long = vec![0x82, 0xFF];
        too_long.extend_from_slice(&long.to_be_bytes());
        let mut negative = vec![0x82, 0xFF];
        negative.extend_from_slice(&(1_u64 << 63).to_be_bytes());
        let cases: &[(&[u8], Violation)] = &[
            (&[0x82, 0x01, b'x'], Violation::NotMasked),
            (&[0xC2], Violation::ReservedBits),
            (&[0x83], Violation::UnknownOpcode),
            (&[0x8F], Violation::UnknownOpcode),
            (&[0x81], Violation::Text),
            (&[0x01], Violation::Text),
            (&[0x80], Violation::NothingToContinue),
            (&[0x02, 0x80, 0, 0, 0, 0, 0x82], Violation::Interleaved),
            (&[0x09], Violation::ControlTooLong),
            (&[0x89, 0xFE, 0, 126], Violation::ControlTooLong),
            (&[0x82, 0xFE, 0, 125], Violation::BadLength),
            (
                &[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
                Violation::BadLength,
            ),
            (&negative, Violation::BadLength),
            (&too_long, Violation::TooLong),
            (&frame(0x88, b"\x03", MASK), Violation::BadClose),
            (&frame(0x88, b"\x03\xED", MASK), Violation::BadClose),
            (&frame(0x88, b"\x03\xE8\xFF", MASK), Violation::BadText),
        ];
        for (bytes, expected) in cases {
            assert_eq!(violation(bytes), Some(*expected), "{bytes:x?}");
            assert!(!expected.as_str().is_empty());
        }
        let mut of_server = Deframer::of_server(LIMIT);
        of_server.decode(&mut [0x82, 0x80], |_| panic!("it says nothing"));
        assert_eq!(of_server.end(), Some(End::Violation(Violation::Masked)));
        assert_eq!(Violation::Text.close_code(), 1003);
        assert_eq!(Violation::TooLong.close_code(), 1009);
        assert_eq!(Violation::NotMasked.close_code(), 1002);
    }

    #[test]
    fn headers_of_ours_say_their_length() {
        assert_eq!(binary_header(125), ([0x82, 125, 0, 0], 2));
        assert_eq!(binary_header(126), ([0x82, 126, 0, 126], 4));
        assert_eq!(binary_header(16_384), ([0x82, 126, 0x40, 0], 4));
    }

    proptest! {
        #[test]
        fn where_a_stream_is_cut_does_not_matter(
            frames in proptest::collection::vec(
                (prop_oneof![
                    Just(0x02_u8), Just(0x82), Just(0x00), Just(0x80), Just(0x89), Just(0x8A),
                    Just(0x88), any::<u8>(),
                ], proptest::collection::vec(any::<u8>(), 0..300), any::<Mask>()), 0..8),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
            damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(first, payload, mask)| {
                    let cut = if *first >= 0x88 { payload.len().min(125) } else { payload.len() };
                    frame(*first, &payload[..cut], *mask)
                })
                .collect();
            if let Some((at, byte)) = damage && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let whole = hear(&[&bytes]);
            prop_assert!(whole.data.len() <= bytes.len());
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&hear(&single), &whole);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&hear(&pieces), &whole);
        }
    }
}
