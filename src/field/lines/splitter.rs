//! Bytes of a serial port to lines of text.
//!
//! A line ends with `\n`, `\r` or both; empty lines are nothing. A line that grows beyond the
//! limit is discarded up to its end, and said so once. Reading may begin in the middle of a line,
//! and half a number is a wrong number: bytes that come right after the port was opened belong to
//! a line whose beginning nobody has seen.

use crate::time::{Duration, Instant};

/// A byte that comes so soon after the port was opened belongs to a line that had begun before: at
/// 300 baud a character takes 33 ms, and USB adapters deliver every 16 ms.
pub const FIRST_LINE_QUIET: Duration = Duration::from_millis(50);

/// Keeps the beginning of a line until its end comes.
#[derive(Debug)]
pub(in crate::field) struct Splitter {
    line_max: usize,
    line: Vec<u8>,
    state: State,
    /// The last byte was `\r`: a `\n` belongs to it.
    after_return: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Opened at this time, and nothing has come yet.
    Opened(Instant),
    /// Between lines, or in one.
    Collecting,
    /// In a line whose beginning is missing.
    SkippingPartial,
    /// In a line that is too long.
    SkippingLong,
}

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::field) enum Piece<'a> {
    /// A line without its end, not empty.
    Line(&'a [u8]),
    /// A line was too long.
    TooLong,
    /// The end of a line whose beginning is missing.
    Partial,
}

impl Splitter {
    /// For lines of at most `line_max` bytes, without their end.
    pub(in crate::field) fn new(line_max: usize) -> Self {
        Self {
            line_max: line_max.max(1),
            line: Vec::new(),
            state: State::Collecting,
            after_return: false,
        }
    }

    /// Changes the limit; a line that is being collected meets it when it grows.
    pub(in crate::field) fn set_line_max(&mut self, line_max: usize) {
        self.line_max = line_max.max(1);
    }

    /// The port has been opened: what was collected is void.
    pub(in crate::field) fn open(&mut self, now: Instant) {
        self.line.clear();
        self.after_return = false;
        self.state = State::Opened(now);
    }

    /// We have sent something: what comes now is an answer, from its beginning.
    pub(in crate::field) fn expect_answer(&mut self) {
        if matches!(self.state, State::Opened(_)) {
            self.state = State::Collecting;
        }
    }

    /// Takes bytes in and hands out what they complete.
    pub(in crate::field) fn feed(
        &mut self,
        now: Instant,
        bytes: &[u8],
        mut on: impl FnMut(Piece<'_>),
    ) {
        if let State::Opened(at) = self.state
            && !bytes.is_empty()
        {
            self.state = if now.since(at) < FIRST_LINE_QUIET {
                State::SkippingPartial
            } else {
                State::Collecting
            };
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if core::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', rest);
            let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.collect(part, &mut on);
            rest = after;
            if let [terminator, after @ ..] = after {
                self.after_return = *terminator == b'\r';
                rest = after;
                self.finish(&mut on);
            }
        }
    }

    fn collect(&mut self, part: &[u8], on: &mut impl FnMut(Piece<'_>)) {
        if self.state != State::Collecting {
            return;
        }
        if self.line.len() + part.len() > self.line_max {
            self.line.clear();
            self.state = State::SkippingLong;
            on(Piece::TooLong);
            return;
        }
        self.line.extend_from_slice(part);
    }

    fn finish(&mut self, on: &mut impl FnMut(Piece<'_>)) {
        match self.state {
            State::Collecting if !self.line.is_empty() => on(Piece::Line(&self.line)),
            State::SkippingPartial => on(Piece::Partial),
            _ => {}
        }
        self.line.clear();
        self.state = State::Collecting;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(splitter: &mut Splitter, bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        splitter.feed(Instant::default(), bytes, |piece| {
            seen.push(match piece {
                Piece::Line(line) => String::from_utf8_lossy(line).into_owned(),
                Piece::TooLong => "(too long)".to_owned(),
                Piece::Partial => "(partial)".to_owned(),
            });
        });
        seen
    }

    #[test]
    fn lines_end_in_three_ways() {
        let mut splitter = Splitter::new(80);
        assert_eq!(
            split(&mut splitter, b"one\ntwo\r\nthree\rfour\n\n\r\r\nfi"),
            ["one", "two", "three", "four"]
        );
        assert_eq!(split(&mut splitter, b"ve\r"), ["five"]);
        assert_eq!(split(&mut splitter, b"\nsix\n"), ["six"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_discarded_to_its_end_and_said_once() {
        let mut splitter = Splitter::new(5);
        assert_eq!(split(&mut splitter, b"12345\n123"), ["12345"]);
        assert_eq!(split(&mut splitter, b"456"), ["(too long)"]);
        assert!(split(&mut splitter, b"7890123456789").is_empty());
        assert_eq!(split(&mut splitter, b"0\nok\n"), ["ok"]);
    }

    #[test]
    fn half_a_line_right_after_opening_is_not_a_line() {
        let mut splitter = Splitter::new(80);
        splitter.open(Instant::default());
        assert_eq!(
            split(&mut splitter, b"4.2 kg\n14.2 kg\n"),
            ["(partial)", "14.2 kg"]
        );
        splitter.open(Instant::default());
        splitter.expect_answer();
        assert_eq!(split(&mut splitter, b"14.2 kg\n"), ["14.2 kg"]);
        splitter.open(Instant::default());
        let later = Instant::default() + FIRST_LINE_QUIET;
        let mut lines = 0;
        splitter.feed(later, b"14.2 kg\n", |piece| {
            assert_eq!(piece, Piece::Line(b"14.2 kg"));
            lines += 1;
        });
        assert_eq!(lines, 1);
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0..200_usize, 0..20),
        ) {
            let whole = split(&mut Splitter::new(7), &bytes);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut splitter = Splitter::new(7);
            let parts: Vec<_> = cuts
                .windows(2)
                .flat_map(|pair| split(&mut splitter, &bytes[pair[0]..pair[1]]))
                .collect();
            prop_assert_eq!(parts, whole);
            prop_assert!(splitter.line.len() <= 7);
        }
    }
}
