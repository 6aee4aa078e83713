//! WebSocket over a socket, or over TLS: an upgrade, then MQTT's bytes in binary frames.
//!
//! Nothing is buffered in either direction. What a client sends is read into the gateway's own
//! buffer and freed of its frames there; what we send stays in its queue, and only the four bytes
//! of a frame's header are added in front. A ping is answered by one pong, the latest (5.5.3).
//!
//! Where the listener takes plain MQTT too, the first byte tells: that of `GET`, or any other.

use std::io::{self, IoSlice};
use std::rc::Rc;

use smallvec::SmallVec;

use super::frames::{self, Deframer, End, OUR_HEADER_MAX, Said};
use super::tls::RECORD_MAX;
use super::upgrade::{self, HEAD_MAX, Refused};
use super::{Got, Layer, Offence, READ_COST_MIN, Shaken, Stream, Tls, Trouble, Wire};
use crate::gateway::settings::{Protocols, TransportSettings};

/// The most that one frame of ours carries: with its header it is one TLS record.
const FRAME_MAX: usize = RECORD_MAX - OUR_HEADER_MAX;

/// How much longer than the longest packet a client's frame may be: it may carry several.
pub(in crate::host) const FRAME_OVERHEAD: u64 = 64 * 1024;

/// The close frame's code when it is we who have said everything.
const NORMAL: u16 = 1000;

/// A connection that speaks WebSocket, or is about to.
#[derive(Debug)]
pub(in crate::host) struct WebSocket<W> {
    wire: W,
    settings: Rc<TransportSettings>,
    /// The longest frame that is taken.
    frame_max: u64,
    mode: Mode,
    /// What the wire's own beginning has brought, until we are open.
    identity: Option<Box<str>>,
}

#[derive(Debug)]
enum Mode {
    /// The wire is not open yet.
    Closed,
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
struct Frames {
    deframer: Deframer,
    /// What came together with the request's head; empty soon after.
    early: Vec<u8>,
    /// What goes out before the next frame, some of it perhaps already: the upgrade's answer, a
    /// pong, a close frame.
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
        Self {
            wire,
            settings,
            frame_max: packet_max.saturating_add(FRAME_OVERHEAD),
            mode: Mode::Closed,
            identity: None,
        }
    }

    pub(super) fn shake(&mut self) -> Result<Shaken, Trouble> {
        loop {
            match &mut self.mode {
                Mode::Closed => match self.wire.shake()? {
                    Shaken::Open(identity) => {
                        self.identity = identity;
                        self.mode = match (self.settings.protocols, self.wire.agreed()) {
                            (Protocols::WebSocket, _) | (_, Some(b"http/1.1")) => {
                                Mode::Head(Vec::new())
                            }
                            (_, Some(_)) => Mode::Mqtt,
                            (_, None) => Mode::Undecided,
                        };
                    }
                    other => return Ok(other),
                },
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

    /// Reads more of the request, and answers it when it is whole. `None`: the mode has changed.
    fn take_head(&mut self) -> Result<Option<Shaken>, Trouble> {
        let Mode::Head(head) = &mut self.mode else {
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
                upgrade::accept(&head[..len], &self.settings.websocket).map(|answer| (len, answer))
            }
            None if head.len() <= HEAD_MAX => return Ok(Some(Shaken::More)),
            _ => Err(Refused::TooLong),
        };
        match answered {
            Ok((len, answer)) => {
                let early = head.split_off(len);
                let mut frames = Box::new(Frames::new(self.frame_max, early));
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
        let data = frames
            .deframer
            .decode(&mut buffer[..count], |said| match said {
                Said::Ping(payload) if !has_closed => {
                    pong.clear();
                    frames::pong(pong, payload);
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
    fn new(frame_max: u64, early: Vec<u8>) -> Self {
        Self {
            deframer: Deframer::new(frame_max),
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

    fn close(&mut self, code: u16) {
        if !std::mem::replace(&mut self.has_closed, true) {
            self.pong = Vec::new();
            frames::close(&mut self.control, code);
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
            frames::pong(&mut out, payload);
            out
        };
        for room in 0..pong(b"first").len() {
            let mut frames = Frames::new(1000, Vec::new());
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
}
