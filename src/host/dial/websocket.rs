//! WebSocket of outgoing connections: the request, its answer, and frames (RFC 6455).
//!
//! What is sent goes in binary frames, masked as a client's are; what comes may be split anywhere.

use std::io::{self, ErrorKind, IoSlice};

use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Response, Status};
use ring::rand::{SecureRandom, SystemRandom};

use crate::host::net::upgrade::accept_key;

/// The longest answer to the request that is read.
const ANSWER_MAX: usize = 16 * 1024;

/// The most data of one frame.
const FRAME_MAX: usize = 16 * 1024;

/// The longest payload of a control frame (5.5).
const CONTROL_MAX: usize = 125;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Instead of a length: it is in the next two bytes, or eight (5.2).
const LENGTH_IN_TWO: u8 = 0x7E;
const LENGTH_IN_EIGHT: u8 = 0x7F;

/// Of the close frame that ends a connection in order.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// What is asked of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// Name and port, as in the URL.
    pub authority: String,
    /// Where MQTT is: `/mqtt`.
    pub path: String,
}

/// One connection; the bytes go where its caller says.
#[derive(Debug)]
pub(super) struct WebSocket {
    random: SystemRandom,
    /// What the server has to answer with; `None` once it has.
    accept: Option<String>,
    /// The answer, as far as it is here; then what came behind it.
    answer: Vec<u8>,
    /// What is to be written.
    pub(super) out: Vec<u8>,
    at: At,
    has_ended: bool,
}

/// Where in a frame the next byte belongs.
#[derive(Debug)]
enum At {
    /// In its header, as far as that is here.
    Header(Vec<u8>),
    /// In its data.
    Data(u64),
    /// In a control frame's payload.
    Control {
        opcode: u8,
        left: usize,
        payload: Vec<u8>,
    },
}

impl WebSocket {
    /// The request is in `out`.
    pub(super) fn new(upgrade: &Upgrade) -> io::Result<Self> {
        let random = SystemRandom::new();
        let mut nonce = [0; 16];
        fill(&random, &mut nonce)?;
        let key = BASE64.encode(&nonce);
        let Upgrade { authority, path } = upgrade;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        Ok(Self {
            random,
            accept: Some(accept_key(&key)),
            answer: Vec::new(),
            out: request.into_bytes(),
            at: At::Header(Vec::new()),
            has_ended: false,
        })
    }

    /// Whether the server has agreed.
    pub(super) fn is_open(&self) -> bool {
        self.accept.is_none()
    }

    /// Takes bytes of the server's answer.
    pub(super) fn hear_answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.answer.extend_from_slice(bytes);
        let mut headers = [EMPTY_HEADER; 64];
        let mut response = Response::new(&mut headers);
        let refused = |text: String| Err(io::Error::new(ErrorKind::InvalidData, text));
        let len = match response.parse(&self.answer) {
            Ok(Status::Complete(len)) => len,
            Ok(Status::Partial) if self.answer.len() <= ANSWER_MAX => return Ok(()),
            Ok(Status::Partial) | Err(_) => {
                return refused("the server does not speak WebSocket".to_owned());
            }
        };
        if response.code != Some(101) {
            let code = response.code.unwrap_or_default();
            let reason = response.reason.unwrap_or_default();
            return refused(format!("the server refuses WebSocket: {code} {reason}"));
        }
        let header = |name: &str| {
            let mut all = response.headers.iter();
            all.find(|header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value)
        };
        if header("sec-websocket-accept") != self.accept.as_deref().map(str::as_bytes) {
            return refused("the server's answer to the WebSocket request is not its own".into());
        }
        if header("sec-websocket-protocol") != Some(b"mqtt") {
            return refused("the server does not speak MQTT over this WebSocket".into());
        }
        self.accept = None;
        self.answer.drain(..len);
        Ok(())
    }

    /// What came behind the answer, once.
    pub(super) fn take_early(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answer)
    }

    /// Takes all of `bytes` and leaves at their front what is data, whose length is returned.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (mut taken, mut kept) = (0, 0);
        while taken < bytes.len() && !self.has_ended {
            match &mut self.at {
                At::Header(header) => {
                    header.push(bytes[taken]);
                    taken += 1;
                    if let Some(at) = after_header(header)? {
                        self.at = at;
                    }
                }
                At::Data(left) => {
                    let here = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len() - taken);
                    bytes.copy_within(taken..taken + here, kept);
                    taken += here;
                    kept += here;
                    *left -= here as u64;
                }
                At::Control { left, payload, .. } => {
                    let here = (*left).min(bytes.len() - taken);
                    payload.extend_from_slice(&bytes[taken..taken + here]);
                    taken += here;
                    *left -= here;
                }
            }
            self.end_of_frame()?;
        }
        Ok(kept)
    }

    /// The server has closed.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn end_of_frame(&mut self) -> io::Result<()> {
        match &mut self.at {
            At::Data(0) => self.at = At::Header(Vec::new()),
            At::Control {
                opcode,
                left: 0,
                payload,
            } => {
                let (opcode, payload) = (*opcode, std::mem::take(payload));
                self.at = At::Header(Vec::new());
                match opcode {
                    PING => self.frame(PONG, &[IoSlice::new(&payload)], payload.len())?,
                    CLOSE => {
                        self.has_ended = true;
                        let code = &payload[..payload.len().min(2)];
                        self.frame(CLOSE, &[IoSlice::new(code)], code.len())?;
                    }
                    _ => {}
                }
            }
            At::Header(_) | At::Data(_) | At::Control { .. } => {}
        }
        Ok(())
    }

    /// Puts as much of the data as fits into a frame; how much that is.
    pub(super) fn encode(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let len = len.min(FRAME_MAX);
        self.frame(BINARY, slices, len)?;
        Ok(len)
    }

    /// Nothing more is sent.
    pub(super) fn say_end(&mut self) {
        if self.is_open() && !self.has_ended {
            // Without chance there is no frame, and the socket ends all the same.
            let _ = self.frame(CLOSE, &[IoSlice::new(&NORMAL)], NORMAL.len());
        }
    }

    fn frame(&mut self, opcode: u8, slices: &[IoSlice<'_>], len: usize) -> io::Result<()> {
        let mut mask = [0; 4];
        fill(&self.random, &mut mask)?;
        self.out.push(FINAL | opcode);
        match u16::try_from(len).expect("a frame has at most FRAME_MAX bytes") {
            short if short < LENGTH_IN_TWO.into() => self.out.push(MASKED | short as u8),
            long => {
                self.out.push(MASKED | LENGTH_IN_TWO);
                self.out.extend_from_slice(&long.to_be_bytes());
            }
        }
        self.out.extend_from_slice(&mask);
        let data = slices.iter().flat_map(|slice| slice.iter()).take(len);
        let masked = data
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask);
        self.out.extend(masked);
        Ok(())
    }
}

fn fill(random: &SystemRandom, bytes: &mut [u8]) -> io::Result<()> {
    random
        .fill(bytes)
        .map_err(|_| io::Error::other("the kernel has no chance to give"))
}

/// What follows a header; `None` as long as it is not complete.
fn after_header(header: &[u8]) -> io::Result<Option<At>> {
    let wrong = |what| Err(io::Error::new(ErrorKind::InvalidData, what));
    let &[first, second, ref rest @ ..] = header else {
        return Ok(None);
    };
    if second & MASKED != 0 || first & 0x70 != 0 {
        return wrong("the server sent a WebSocket frame that is not right");
    }
    let extended = match second {
        LENGTH_IN_TWO => 2,
        LENGTH_IN_EIGHT => 8,
        _ => 0,
    };
    if rest.len() < extended {
        return Ok(None);
    }
    let len = rest.iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
    let len = if extended == 0 { second.into() } else { len };
    match first & 0x0F {
        BINARY | CONTINUATION => Ok(Some(At::Data(len))),
        opcode @ (CLOSE | PING | PONG) if len <= CONTROL_MAX as u64 && first & FINAL != 0 => {
            Ok(Some(At::Control {
                opcode,
                left: len as usize,
                payload: Vec::new(),
            }))
        }
        _ => wrong("the server sent a WebSocket frame that MQTT has no use for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> WebSocket {
        let upgrade = Upgrade {
            authority: "broker.example:80".to_owned(),
            path: "/mqtt".to_owned(),
        };
        let mut socket = WebSocket::new(&upgrade).unwrap();
        let request = String::from_utf8(std::mem::take(&mut socket.out)).unwrap();
        let (_, key) = request.split_once("Sec-WebSocket-Key: ").unwrap();
        let accept = accept_key(key.split("\r\n").next().unwrap());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        for byte in answer.bytes() {
            assert!(!socket.is_open());
            socket.hear_answer(&[byte]).unwrap();
        }
        assert!(socket.is_open());
        socket
    }

    #[test]
    fn data_comes_out_of_frames_that_are_split_anywhere() {
        // Two frames of one message, a ping between them, an empty frame, a long one.
        let mut long = vec![0x82, 126, 1, 0];
        long.extend_from_slice(&[7; 256]);
        let stream = [
            &[0x02, 3, 1, 2, 3][..],
            &[0x89, 2, 9, 9],
            &[0x80, 1, 4],
            &[0x82, 0],
            &long,
        ]
        .concat();
        for step in 1..stream.len() {
            let mut socket = opened();
            let mut data = Vec::new();
            for piece in stream.chunks(step) {
                let mut piece = piece.to_vec();
                let len = socket.decode(&mut piece).unwrap();
                data.extend_from_slice(&piece[..len]);
            }
            let expected = [&[1, 2, 3, 4][..], &[7; 256]].concat();
            assert_eq!(data, expected, "in steps of {step}");
            // The pong, masked.
            assert_eq!(socket.out[..2], [0x8A, 0x82]);
        }
    }

    #[test]
    fn what_is_sent_is_masked_and_says_its_length() {
        for len in [0, 1, 125, 126, 5000, 20_000] {
            let mut socket = opened();
            let data: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let slices = [
                IoSlice::new(&data[..len / 3]),
                IoSlice::new(&data[len / 3..]),
            ];
            let taken = socket.encode(&slices).unwrap();
            assert_eq!(taken, len.min(FRAME_MAX));
            let (at, said) = match socket.out[1] & 0x7F {
                126 => (
                    4,
                    usize::from(u16::from_be_bytes([socket.out[2], socket.out[3]])),
                ),
                short => (2, short.into()),
            };
            assert_eq!((socket.out[0], socket.out[1] & MASKED), (0x82, MASKED));
            assert_eq!(said, taken);
            let mask = &socket.out[at..at + 4];
            let plain = socket.out[at + 4..].iter().zip(mask.iter().cycle());
            assert!(
                plain
                    .map(|(byte, mask)| byte ^ mask)
                    .eq(data[..taken].iter().copied())
            );
        }
    }

    #[test]
    fn a_server_that_closes_is_answered_and_heard_no_more() {
        let mut socket = opened();
        let mut bytes = [0x88, 2, 3, 0xE8, 0x82, 1, 1];
        assert_eq!(socket.decode(&mut bytes).unwrap(), 0);
        assert!(socket.has_ended());
        assert_eq!(socket.out[..2], [0x88, 0x82]);
    }

    #[test]
    fn what_is_not_right_is_an_error() {
        for bytes in [
            [0x82, 0x80, 0, 0],
            [0xC2, 0, 0, 0],
            [0x81, 1, 1, 1],
            [0x09, 1, 1, 1],
            [0x89, 126, 1, 1],
        ] {
            let mut socket = opened();
            assert!(socket.decode(&mut bytes.clone()).is_err(), "{bytes:x?}");
        }
        let upgrade = Upgrade {
            authority: String::new(),
            path: "/".to_owned(),
        };
        for (answer, wanted) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"),
            ("220 mail.example ESMTP\r\n\r\n", "does not speak WebSocket"),
            (
                "HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\n\r\n",
                "not its own",
            ),
        ] {
            let mut socket = WebSocket::new(&upgrade).unwrap();
            let error = socket.hear_answer(answer.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
