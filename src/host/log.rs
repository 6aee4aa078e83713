//! Log lines on their way to stderr, without ever making the loop wait.
//!
//! `env_logger` formats a line into a bounded ring; a thread of its own writes it out. When
//! journald or a terminal stalls, lines are dropped and counted, and the count is the next line
//! that gets through. Under systemd every line starts with its priority (`<6>`), elsewhere with the
//! time.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use env_logger::{Builder, Target, fmt::Formatter};
use log::{Level, Record};

use super::{clock, worker};
use crate::time::Duration;

/// Bytes that may wait to be written.
const RING_MAX: usize = 256 * 1024;

/// How long the end of the program waits for the last lines.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Lines dropped since the start. Of the process, as the log itself is.
static LINES_LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines have been dropped because whoever reads the log did not.
pub fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Keeps the log going. Dropping it waits, but not long, for what is still to be written.
#[derive(Debug)]
pub struct LogGuard {
    ring: Arc<Ring>,
}

/// Sends the log to stderr. `directives` as in `RUST_LOG` (`info,fieldgate::broker=debug`);
/// `RUST_LOG` itself wins if it is set.
///
/// # Errors
/// If there is no thread for it, or a logger is installed already.
pub fn init(directives: &str) -> io::Result<LogGuard> {
    let style = if is_journal() {
        Style::Journal
    } else {
        Style::Plain
    };
    init_with(directives, style, Box::new(io::stderr()))
}

fn init_with(directives: &str, style: Style, sink: Box<dyn Write + Send>) -> io::Result<LogGuard> {
    let guard = LogGuard::start(style, sink)?;
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| directives.to_owned());
    Builder::new()
        .parse_filters(&directives)
        .format(move |out, record| style.write(out, record))
        .target(Target::Pipe(Box::new(Producer(guard.ring.clone()))))
        .try_init()
        .map_err(io::Error::other)?;
    Ok(guard)
}

/// Whether stderr goes to the journal, which then reads priorities (systemd.exec(5),
/// `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let Some((device, inode)) = stream.to_str().and_then(|text| text.split_once(':')) else {
        return false;
    };
    nix::sys::stat::fstat(io::stderr())
        .is_ok_and(|stat| device == stat.st_dev.to_string() && inode == stat.st_ino.to_string())
}

#[derive(Debug, Clone, Copy)]
enum Style {
    Journal,
    Plain,
}

impl Style {
    fn write(self, out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
        writeln!(out, "{}{}", self.prefix(record.level()), record.args())
    }

    fn prefix(self, level: Level) -> String {
        match self {
            Self::Journal => format!("<{}>", priority(level)),
            Self::Plain => format!("{} {level:5} ", clock::now().wall),
        }
    }
}

/// As sd-daemon(3) numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[derive(Debug, Default)]
struct Ring {
    state: Mutex<State>,
    /// Something is to be written, or nothing will be any more.
    filled: Condvar,
    /// Everything has been written.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines, at most [`RING_MAX`] bytes.
    lines: Vec<u8>,
    /// Lines dropped since the last time that this was told.
    lost: u64,
    /// The thread is writing.
    is_writing: bool,
    is_closed: bool,
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held leaves whole lines at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > RING_MAX {
            state.lost += 1;
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A thread that is writing looks again by itself: no need for a system call.
        let wake = state.lines.is_empty() && !state.is_writing;
        state.lines.extend_from_slice(line);
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Writes to `sink` until the ring is closed and empty.
    fn drain(&self, style: Style, mut sink: impl Write) {
        let mut taken = Vec::new();
        let mut state = self.lock();
        loop {
            if state.lines.is_empty() && state.lost == 0 {
                self.drained.notify_all();
                if state.is_closed {
                    return;
                }
                state = self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            std::mem::swap(&mut state.lines, &mut taken);
            let lost = std::mem::take(&mut state.lost);
            state.is_writing = true;
            drop(state);
            // There is nowhere to complain about a log that cannot be written.
            let _ = sink.write_all(&taken);
            if lost > 0 {
                let prefix = style.prefix(Level::Warn);
                let _ = writeln!(sink, "{prefix}log lines lost count={lost}");
            }
            let _ = sink.flush();
            taken.clear();
            // A burst is not kept as memory for ever.
            taken.shrink_to(RING_MAX / 16);
            state = self.lock();
            state.is_writing = false;
        }
    }
}

/// What `env_logger` writes to: one whole line a call.
#[derive(Debug)]
struct Producer(Arc<Ring>);

impl Write for Producer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogGuard {
    fn start(style: Style, sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let ring = Arc::new(Ring::default());
        let drained = ring.clone();
        worker::spawn("log", move || drained.drain(style, sink))?;
        Ok(Self { ring })
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut state = self.ring.lock();
        state.is_closed = true;
        self.ring.filled.notify_one();
        let _ = self
            .ring
            .drained
            .wait_timeout_while(state, LAST_WORDS, |state| {
                state.is_writing || !state.lines.is_empty() || state.lost > 0
            });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A sink that tells what it was given, and may be held up.
    struct Slow {
        written: Sender<Vec<u8>>,
        gate: Option<Receiver<()>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written.send(bytes.to_vec()).unwrap();
            if let Some(gate) = self.gate.take() {
                let _ = gate.recv();
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_beyond_the_ring_are_lost_and_counted_and_nobody_waits() {
        let (written, lines) = channel();
        let (release, gate) = channel();
        let sink = Slow {
            written,
            gate: Some(gate),
        };
        let guard = LogGuard::start(Style::Journal, Box::new(sink)).unwrap();
        let mut producer = Producer(guard.ring.clone());
        producer.write_all(b"first\n").unwrap();
        assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), b"first\n");
        // The thread is stuck in its sink now.
        let before = lines_lost();
        let line = [b'x'; 1024];
        for _ in 0..RING_MAX / line.len() + 3 {
            producer.write_all(&line).unwrap();
        }
        assert_eq!(lines_lost() - before, 3);
        drop(release);
        drop(guard);
        let all: Vec<u8> = lines.try_iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        assert_eq!(text.matches('x').count(), RING_MAX);
        assert!(text.ends_with("<4>log lines lost count=3\n"), "{text}");
    }

    #[test]
    fn the_last_words_are_written_before_the_end() {
        let (written, lines) = channel();
        let sink = Slow {
            written,
            gate: None,
        };
        let guard = LogGuard::start(Style::Journal, Box::new(sink)).unwrap();
        Producer(guard.ring.clone()).write_all(b"bye\n").unwrap();
        drop(guard);
        let all: Vec<u8> = lines.try_iter().flatten().collect();
        assert_eq!(all, b"bye\n");
    }
}
