//! WebSocket over a socket, or over TLS: an upgrade, then MQTT's bytes in binary frames.
//!
//! Nothing is buffered on the way in: what a peer sends is read into the gateway's own buffer and
//! freed of its frames there. As a server we buffer nothing on the way out either: what we send
//! stays in its queue, and only the four bytes of a frame's header are added in front. A client has
//! to mask what it sends, so that a frame is copied, and no further one is begun before it is out.
//! A ping is answered by one pong, the latest (5.5.3).
//!
//! Where the listener takes plain MQTT too, the first byte tells: that of `GET`, or any other.

use std::io::{self, IoSlice};
use std::rc::Rc;

use data_encoding::BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use smallvec::SmallVec;

use super::frames::{self, Deframer, End, Mask, OUR_HEADER_MAX, Said};
use super::tls::RECORD_MAX;
use super::upgrade::{self, HEAD_MAX, Refused, Upgrade};
use super::{Got, Layer, Offence, READ_COST_MIN, Shaken, Stream, Tls, Trouble, Wire};
use crate::gateway::settings::{Protocols, TransportSettings};

/// The most that one frame of ours carries: with its header, and a client's mask, it is one TLS
/// record.
const FRAME_MAX: usize = RECORD_MAX - OUR_HEADER_MAX - size_of::<Mask>();

/// How much longer than the longest packet a client's frame may be: it may carry several.
pub(in crate::host) const FRAME_OVERHEAD: u64 = 64 * 1024;

/// The close frame's code when it is we who have said everything.
const NORMAL: u16 = 1000;

/// A connection that speaks WebSocket, or is about to.
#[derive(Debug)]
pub(in crate::host) struct WebSocket<W> {
    wire: W,
    role: Role,
    mode: Mode,
    /// What the wire's own beginning has brought, until we are open.
    identity: Option<Box<str>>,
}

/// Which end of it we are.
#[derive(Debug)]
enum Role {
    Server {
        settings: Rc<TransportSettings>,
        /// The longest frame that is taken.
        frame_max: u64,
    },
    Client(Box<Upgrade>),
}

#[derive(Debug)]
enum Mode {
    /// The wire is not open yet.
    Closed,
    /// We have asked, or are about to.
    Asked(Box<Asked>),
    /// The first byte tells.
    Undecided,
    /// It told that there are no frames.
    Mqtt,
    /// The request's head as far as it is here.
    Head(Vec<u8>),
    /// Frames, both ways.
    Open(Box<Frames>),
}

#[derive(Debug)]
struct Asked {
    key: String,
    /// What of the request is not out.
    request: Vec<u8>,
    /// The answer's head as far as it is here.
    head: Vec<u8>,
}

#[derive(Debug)]
struct Frames {
    deframer: Deframer,
    /// Where a client's masks come from; `None` as a server.
    chance: Option<SystemRandom>,
    /// What came together with the head of the request or its answer; empty soon after.
    early: Vec<u8>,
    /// What goes out before the next frame, some of it perhaps already: the upgrade's answer, a
    /// pong, a close frame, a client's frame.
    control: Vec<u8>,
    /// The answer to the latest ping, which goes out after `control`. A later one takes its place.
    pong: Vec<u8>,
    /// The header of the frame that is being written, and what of it is out.
    header: [u8; OUR_HEADER_MAX],
    header_left: u8,
    header_len: u8,
    /// What of its data is not out.
    data_left: usize,
    /// A close frame is in `control`, or has gone: nothing may follow it.
    has_closed: bool,
}

impl<W: Beneath> WebSocket<W> {
    pub(in crate::host) fn new(wire: W, settings: Rc<TransportSettings>, packet_max: u64) -> Self {
        let frame_max = packet_max.saturating_add(FRAME_OVERHEAD);
        Self::with(
            wire,
            Role::Server {
                settings,
                frame_max,
            },
        )
    }

    /// To a server.
    pub(in crate::host) fn to(wire: W, upgrade: Upgrade) -> Self {
        Self::with(wire, Role::Client(Box::new(upgrade)))
    }

    fn with(wire: W, role: Role) -> Self {
        Self {
            wire,
            role,
            mode: Mode::Closed,
            identity: None,
        }
    }

    /// Whether what is below is open.
    pub(super) fn is_above(&self) -> bool {
        !matches!(self.mode, Mode::Closed)
    }

    pub(super) fn shake(&mut self) -> Result<Shaken, Trouble> {
        loop {
            match &mut self.mode {
                Mode::Closed => match self.wire.shake()? {
                    Shaken::Open(identity) => {
                        self.identity = identity;
                        self.mode = self.begin()?;
                    }
                    other => return Ok(other),
                },
                Mode::Asked(_) => {
                    if let Some(early) = self.hear_answer()? {
                        return Ok(early);
                    }
                }
                Mode::Undecided => match self.wire.peek()? {
                    None => return Ok(Shaken::End),
                    // Of GET. No packet of MQTT begins so that is a client's first.
                    Some(b'G') => self.mode = Mode::Head(Vec::new()),
                    Some(_) => self.mode = Mode::Mqtt,
                },
                Mode::Head(_) => {
                    if let Some(early) = self.take_head()? {
                        return Ok(early);
                    }
                }
                Mode::Mqtt | Mode::Open(_) => return Ok(Shaken::Open(self.identity.take())),
            }
        }
    }

    /// What comes first, now that the wire is open.
    fn begin(&self) -> io::Result<Mode> {
        let settings = match &self.role {
            Role::Server { settings, .. } => settings,
            Role::Client(upgrade) => {
                let mut nonce = [0; 16];
                draw(&SystemRandom::new(), &mut nonce)?;
                let key = BASE64.encode(&nonce);
                return Ok(Mode::Asked(Box::new(Asked {
                    request: upgrade.request(&key),
                    key,
                    head: Vec::new(),
                })));
            }
        };
        Ok(match (settings.protocols, self.wire.agreed()) {
            (Protocols::WebSocket, _) | (_, Some(b"http/1.1")) => Mode::Head(Vec::new()),
            (_, Some(_)) => Mode::Mqtt,
            (_, None) => Mode::Undecided,
        })
    }

    /// Asks, and reads more of the answer. `None`: the mode has changed.
    fn hear_answer(&mut self) -> Result<Option<Shaken>, Trouble> {
        let Mode::Asked(asked) = &mut self.mode else {
            return Ok(None);
        };
        while !asked.request.is_empty() {
            let written = self.wire.write(&[IoSlice::new(&asked.request)])?;
            asked.request.drain(..written);
        }
        ignore_full(self.wire.flush())?;
        let seen = asked.head.len();
        let mut scratch = [0; READ_COST_MIN];
        let room = scratch.len().min(HEAD_MAX + 1 - seen);
        let count = match self.wire.read(&mut scratch[..room])? {
            Got::End => return Ok(Some(Shaken::End)),
            Got::Bytes(count) => count,
        };
        asked.head.extend_from_slice(&scratch[..count]);
        match upgrade::head_len(&asked.head, seen) {
            _ if !upgrade::may_be_answer(&asked.head) => {
                Err(offence("the server does not speak WebSocket"))
            }
            Some(len) => {
                upgrade::check_answer(&asked.head[..len], &asked.key).map_err(offence)?;
                let early = asked.head.split_off(len);
                // What it sends is not kept, so that a frame may have any length.
                let deframer = Deframer::of_server(u64::MAX);
                let mut frames = Frames::new(deframer, early);
                frames.chance = Some(SystemRandom::new());
                self.mode = Mode::Open(Box::new(frames));
                Ok(None)
            }
            None if asked.head.len() <= HEAD_MAX => Ok(Some(Shaken::More)),
            None => Err(offence("the server's answer is too long")),
        }
    }

    /// Reads more of the request, and answers it when it is whole. `None`: the mode has changed.
    fn take_head(&mut self) -> Result<Option<Shaken>, Trouble> {
        let (
            Mode::Head(head),
            Role::Server {
                settings,
                frame_max,
            },
        ) = (&mut self.mode, &self.role)
        else {
            return Ok(None);
        };
        let seen = head.len();
        let mut scratch = [0; READ_COST_MIN];
        let room = scratch.len().min(HEAD_MAX + 1 - seen);
        let count = match self.wire.read(&mut scratch[..room])? {
            Got::End => return Ok(Some(Shaken::End)),
            Got::Bytes(count) => count,
        };
        head.extend_from_slice(&scratch[..count]);
        let is_letter = head.first().is_none_or(u8::is_ascii_uppercase);
        let answered = match upgrade::head_len(head, seen) {
            _ if !is_letter => Err(Refused::BadRequest("this is not HTTP")),
            Some(len) if len <= HEAD_MAX => {
                upgrade::accept(&head[..len], &settings.websocket).map(|answer| (len, answer))
            }
            None if head.len() <= HEAD_MAX => return Ok(Some(Shaken::More)),
            _ => Err(Refused::TooLong),
        };
        match answered {
            Ok((len, answer)) => {
                let early = head.split_off(len);
                let mut frames = Box::new(Frames::new(Deframer::new(*frame_max), early));
                frames.control = answer;
                let answered = frames.flush_control(&mut self.wire);
                self.mode = Mode::Open(frames);
                ignore_full(answered)?;
                Ok(None)
            }
            Err(refused) => {
                // It is short, and the first that we write to it: a socket takes it.
                let _ = self.wire.write(&[IoSlice::new(&refused.answer())]);
                let _ = self.wire.flush();
                Err(offence(format!("upgrade refused: {}", refused.as_str())))
            }
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble> {
        let Mode::Open(frames) = &mut self.mode else {
            return self.wire.read(buffer);
        };
        match frames.deframer.end() {
            Some(End::Closed(_)) => return Ok(Got::End),
            Some(End::Violation(violation)) => return Err(offence(violation.as_str())),
            None => {}
        }
        let count = if frames.early.is_empty() {
            match self.wire.read(buffer)? {
                Got::End => return Ok(Got::End),
                Got::Bytes(count) => count,
            }
        } else {
            let count = frames.early.len().min(buffer.len());
            buffer[..count].copy_from_slice(&frames.early[..count]);
            frames.early.drain(..count);
            if frames.early.is_empty() {
                frames.early = Vec::new();
            }
            count
        };
        let (pong, has_closed) = (&mut frames.pong, frames.has_closed);
        let chance = frames.chance.as_ref();
        let data = frames
            .deframer
            .decode(&mut buffer[..count], |said| match said {
                Said::Ping(payload) if !has_closed => {
                    pong.clear();
                    // Without chance there is no pong.
                    if let Ok(mask) = mask(chance) {
                        frames::pong(pong, payload, mask);
                    }
                }
                Said::Ping(_) | Said::Pong(_) => {}
            });
        match frames.deframer.end() {
            // The answer has the same code (5.5.1).
            Some(End::Closed(code)) => frames.close(code.unwrap_or(NORMAL)),
            Some(End::Violation(violation)) => frames.close(violation.close_code()),
            None => {}
        }
        ignore_full(frames.flush_control(&mut self.wire))?;
        Ok(Got::Bytes(data))
    }

    /// See [`super::Transport::take_max`]. A frame that was begun is finished first.
    pub(super) fn take_max(&self) -> usize {
        match &self.mode {
            Mode::Open(frames) if frames.data_left > 0 => frames.data_left,
            _ => FRAME_MAX,
        }
    }

    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Mode::Open(frames) = &mut self.mode else {
            return self.wire.write(slices);
        };
        let asked: usize = slices.iter().map(|slice| slice.len()).sum();
        if frames.data_left == 0 {
            frames.flush_control(&mut self.wire)?;
            if frames.has_closed {
                // Nobody would take it.
                return Ok(asked);
            }
            if frames.chance.is_some() {
                let taken = frames.copy(slices)?;
                ignore_full(frames.flush_control(&mut self.wire))?;
                return Ok(taken);
            }
            frames.begin(asked);
        }
        debug_assert!(
            asked <= frames.data_left,
            "a frame's data is asked for whole"
        );
        let (header, left) = (frames.header, usize::from(frames.header_left));
        let len = usize::from(frames.header_len);
        let mut all: SmallVec<[IoSlice<'_>; 16]> = SmallVec::new();
        all.push(IoSlice::new(&header[len - left..len]));
        all.extend(slices.iter().map(|slice| IoSlice::new(slice)));
        let written = self.wire.write(&all)?;
        let of_header = written.min(left);
        frames.header_left -= of_header as u8;
        frames.data_left -= written - of_header;
        Ok(written - of_header)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Mode::Open(frames) = &mut self.mode
            && frames.data_left == 0
        {
            frames.flush_control(&mut self.wire)?;
        }
        self.wire.flush()
    }

    pub(super) fn goodbye(&mut self) {
        if let Mode::Open(frames) = &mut self.mode {
            frames.close(NORMAL);
            if frames.data_left > 0 || frames.flush_control(&mut self.wire).is_err() {
                return; // What is below says goodbye when this is out.
            }
        }
        self.wire.goodbye();
    }

    pub(super) fn stream(&mut self) -> &mut Stream {
        self.wire.stream()
    }

    pub(super) fn into_stream(self) -> Stream {
        self.wire.into_stream()
    }
}

impl Frames {
    fn new(deframer: Deframer, early: Vec<u8>) -> Self {
        Self {
            deframer,
            chance: None,
            early,
            control: Vec::new(),
            pong: Vec::new(),
            header: [0; OUR_HEADER_MAX],
            header_left: 0,
            header_len: 0,
            data_left: 0,
            has_closed: false,
        }
    }

    fn begin(&mut self, len: usize) {
        let (header, header_len) = frames::binary_header(len);
        self.header = header;
        self.header_len = header_len as u8;
        self.header_left = self.header_len;
        self.data_left = len;
    }

    /// Takes as much as fits into a client's frame.
    fn copy(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mask = mask(self.chance.as_ref())?;
        let mut left = FRAME_MAX;
        let mut parts: SmallVec<[&[u8]; 16]> = SmallVec::new();
        for slice in slices {
            let count = slice.len().min(left);
            parts.push(&slice[..count]);
            left -= count;
        }
        frames::frame(&mut self.control, frames::BINARY, &parts, mask);
        Ok(FRAME_MAX - left)
    }

    fn close(&mut self, code: u16) {
        if !std::mem::replace(&mut self.has_closed, true) {
            self.pong = Vec::new();
            // Without chance the socket ends all the same.
            if let Ok(mask) = mask(self.chance.as_ref()) {
                frames::close(&mut self.control, code, mask);
            }
        }
    }

    /// Writes what comes before the next frame; not within one.
    fn flush_control(&mut self, wire: &mut impl Wire) -> io::Result<()> {
        if self.data_left > 0 {
            return Ok(());
        }
        loop {
            if self.control.is_empty() {
                // An empty vector holds no memory, so this gives back what was sent.
                self.control = std::mem::take(&mut self.pong);
            }
            if self.control.is_empty() {
                return Ok(());
            }
            match wire.write(&[IoSlice::new(&self.control)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.control.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a WebSocket runs over, with what its own beginning has agreed on.
pub(in crate::host) trait Beneath: Wire {
    /// The protocol that was agreed to be spoken above.
    fn agreed(&self) -> Option<&[u8]>;
}

impl Beneath for Stream {
    fn agreed(&self) -> Option<&[u8]> {
        None
    }
}

impl Beneath for Tls {
    fn agreed(&self) -> Option<&[u8]> {
        self.protocol()
    }
}

/// A fresh one for each frame of a client (5.3); none for a server's.
fn mask(chance: Option<&SystemRandom>) -> io::Result<Option<Mask>> {
    let Some(chance) = chance else {
        return Ok(None);
    };
    let mut mask = Mask::default();
    draw(chance, &mut mask)?;
    Ok(Some(mask))
}

fn draw(chance: &SystemRandom, bytes: &mut [u8]) -> io::Result<()> {
    chance
        .fill(bytes)
        .map_err(|_| io::Error::other("the kernel has no chance to give"))
}

fn offence(what: impl Into<Box<str>>) -> Trouble {
    Trouble::Peer(Offence {
        layer: Layer::WebSocket,
        what: what.into(),
    })
}

/// A full socket is no trouble for whoever reads: the poll tells when it has room.
fn ignore_full(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wire that takes so many bytes and is full then.
    #[derive(Default)]
    struct Narrow {
        room: usize,
        written: Vec<u8>,
    }

    impl Wire for Narrow {
        fn shake(&mut self) -> Result<Shaken, Trouble> {
            Ok(Shaken::Open(None))
        }

        fn peek(&mut self) -> Result<Option<u8>, Trouble> {
            Ok(None)
        }

        fn read(&mut self, _: &mut [u8]) -> Result<Got, Trouble> {
            Ok(Got::Bytes(0))
        }

        fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let count = slices[0].len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.written.extend_from_slice(&slices[0][..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn goodbye(&mut self) {}

        fn stream(&mut self) -> &mut Stream {
            unreachable!("nobody asks for it")
        }

        fn into_stream(self) -> Stream {
            unreachable!("nobody asks for it")
        }
    }

    #[test]
    fn a_pong_that_is_half_out_is_finished_and_the_latest_follows_it() {
        let pong = |payload: &[u8]| {
            let mut out = Vec::new();
            frames::pong(&mut out, payload, None);
            out
        };
        for room in 0..pong(b"first").len() {
            let mut frames = Frames::new(Deframer::new(1000), Vec::new());
            let mut wire = Narrow {
                room,
                ..Narrow::default()
            };
            for payload in [b"first", b"other", b"third"] {
                frames.pong = pong(payload);
                let _ = frames.flush_control(&mut wire);
            }
            wire.room = 1000;
            frames.flush_control(&mut wire).unwrap();
            // The first was taken up before the others came, whatever the wire took of it.
            assert_eq!(
                wire.written,
                [pong(b"first"), pong(b"third")].concat(),
                "room for {room}"
            );
        }
    }
    /// A wire whose other end is a server that has sent this, read in pieces of a length.
    struct Served {
        sent: Vec<u8>,
        step: usize,
        written: Vec<u8>,
    }

    impl Wire for Served {
        fn shake(&mut self) -> Result<Shaken, Trouble> {
            Ok(Shaken::Open(None))
        }

        fn peek(&mut self) -> Result<Option<u8>, Trouble> {
            Ok(self.sent.first().copied())
        }

        fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble> {
            let count = buffer.len().min(self.step).min(self.sent.len());
            if count == 0 {
                return Err(Trouble::Io(io::ErrorKind::WouldBlock.into()));
            }
            buffer[..count].copy_from_slice(&self.sent[..count]);
            self.sent.drain(..count);
            Ok(Got::Bytes(count))
        }

        fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            for slice in slices {
                self.written.extend_from_slice(slice);
            }
            Ok(slices.iter().map(|slice| slice.len()).sum())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn goodbye(&mut self) {}

        fn stream(&mut self) -> &mut Stream {
            unreachable!("nobody asks for it")
        }

        fn into_stream(self) -> Stream {
            unreachable!("nobody asks for it")
        }
    }

    impl Beneath for Served {
        fn agreed(&self) -> Option<&[u8]> {
            None
        }
    }

    /// A client whose server agrees and then sends this.
    fn opened(step: usize, frames: &[u8]) -> WebSocket<Served> {
        let upgrade = Upgrade {
            authority: "broker.example:80".to_owned(),
            path: "/mqtt".to_owned(),
        };
        let wire = Served {
            sent: Vec::new(),
            step,
            written: Vec::new(),
        };
        let mut socket = WebSocket::to(wire, upgrade);
        assert!(matches!(socket.shake(), Err(Trouble::Io(_))));
        let request = std::mem::take(&mut socket.wire.written);
        let answer = upgrade::accept(&request, &TransportSettings::default().websocket).unwrap();
        socket.wire.sent = [&answer[..], frames].concat();
        loop {
            match socket.shake() {
                Ok(Shaken::Open(None)) => return socket,
                Ok(Shaken::More) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// All that comes.
    fn heard(socket: &mut WebSocket<Served>) -> Vec<u8> {
        let mut data = Vec::new();
        let mut buffer = [0; 7];
        while let Ok(Got::Bytes(count)) = socket.read(&mut buffer) {
            data.extend_from_slice(&buffer[..count]);
        }
        data
    }

    #[test]
    fn a_client_takes_data_out_of_frames_that_are_split_anywhere() {
        // Two frames of one message, a ping between them, an empty frame, a long one.
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let stream = [
            &[0x02, 3, 1, 2, 3][..],
            &[0x89, 2, 9, 9],
            &[0x80, 1, 4],
            &[0x82, 0],
            &long,
        ]
        .concat();
        for step in 1..stream.len() {
            let mut socket = opened(step, &stream);
            let expected = [&[1, 2, 3, 4][..], &[7; 256]].concat();
            assert_eq!(heard(&mut socket), expected, "in steps of {step}");
            // The pong, masked.
            let [0x8A, 0x82, mask @ .., a, b] = &socket.wire.written[..] else {
                panic!("{:x?}", socket.wire.written);
            };
            assert_eq!([a ^ mask[0], b ^ mask[1]], [9, 9]);
        }
    }

    #[test]
    fn what_a_client_sends_is_what_a_server_takes() {
        for len in [1, 125, 126, 5000, FRAME_MAX, FRAME_MAX + 1] {
            let mut socket = opened(usize::MAX, b"");
            let data: Vec<u8> = (0..len).map(|byte| (byte / 3) as u8).collect();
            let (first, second) = data.split_at(len / 3);
            let taken = socket
                .write(&[IoSlice::new(first), IoSlice::new(second)])
                .unwrap();
            assert_eq!(taken, len.min(FRAME_MAX));
            let mut wire = socket.wire.written;
            let kept = Deframer::new(u64::MAX).decode(&mut wire, |_| panic!("it is data"));
            assert!(wire[..kept] == data[..taken], "{len}");
        }
    }

    #[test]
    fn every_frame_of_a_client_has_a_mask_of_its_own() {
        let mut socket = opened(usize::MAX, b"");
        for _ in 0..2 {
            socket.write(&[IoSlice::new(&[0; 4])]).unwrap();
        }
        let (one, other) = socket.wire.written.split_at(10);
        assert_eq!(one[..2], other[..2]);
        assert_ne!(one[2..6], other[2..6]);
    }

    #[test]
    fn a_server_that_closes_is_answered_and_heard_no_more() {
        let mut socket = opened(usize::MAX, &[0x88, 2, 3, 0xE8, 0x82, 1, 1]);
        assert!(heard(&mut socket).is_empty());
        assert_eq!(socket.read(&mut [0; 7]).unwrap(), Got::End);
        assert_eq!(socket.wire.written[..2], [0x88, 0x82]);
    }

    #[test]
    fn a_server_that_is_not_right_is_named() {
        for (frame, wanted) in [
            (&[0x82, 0x81, 0, 0, 0, 0, 1][..], "with a mask"),
            (&[0xC2, 0], "reserved bits"),
            (&[0x81, 1, 1], "a text frame"),
        ] {
            let mut socket = opened(usize::MAX, frame);
            assert_eq!(socket.read(&mut [0; 100]).unwrap(), Got::Bytes(0));
            let Err(Trouble::Peer(offence)) = socket.read(&mut [0; 100]) else {
                panic!("{frame:x?} is taken");
            };
            assert!(offence.what.contains(wanted), "{}", offence.what);
        }
        for (answer, wanted) in [
            (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "403 Forbidden"),
            (b"220 mail.example ESMTP\r\n", "does not speak WebSocket"),
            (
                &[b"HTTP/1.1 101 Yes\r\n", &[b'x'; HEAD_MAX][..]].concat(),
                "too long",
            ),
        ] {
            let upgrade = Upgrade {
                authority: String::new(),
                path: "/".to_owned(),
            };
            let wire = Served {
                sent: answer.to_vec(),
                step: 1000,
                written: Vec::new(),
            };
            let mut socket = WebSocket::to(wire, upgrade);
            let offence = loop {
                match socket.shake() {
                    Ok(Shaken::More) => {}
                    Err(Trouble::Peer(offence)) => break offence,
                    other => panic!("{other:?}"),
                }
            };
            assert!(offence.what.contains(wanted), "{}", offence.what);
        }
    }
}
