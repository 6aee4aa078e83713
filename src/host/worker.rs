//! Plumbing for calls that block: threads that own one request at a time, and the mailbox that
//! wakes the loop.
//!
//! A worker decides nothing and keeps no state of the gateway's. Two sorts: a [`Worker`] serves a
//! bounded queue of requests in order (a bus, a GPIO chip), an [`Errands`] thread does one thing
//! and ends (opening a tty, reading the configuration). Requests are bounded, and each has at most
//! one answer, so the mailbox is bounded too.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use mio::{Registry, Waker};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::token::Source;
use super::{bus, disk, gpio, net, serial, upstream};
use crate::gateway::settings::Config;
use crate::id::{BridgeId, ConnId};

/// What has gone wrong with the workers of one sort of device, for the host's counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// Requests that the loop answered because their worker did not.
    pub expired: u64,
    /// Answers that came after that.
    pub late: u64,
    /// Workers that owe an overdue answer now.
    pub stuck: usize,
}

/// What a worker has to say.
#[derive(Debug)]
pub(super) enum Answer {
    /// Of a transfer.
    Bus(bus::Answer),
    /// Of a GPIO operation.
    Line(gpio::Answer),
    /// Of a command for the journal's disk.
    Disk(disk::Answer),
    /// Of a serial port being opened.
    Port(serial::Answer),
    /// Of a password.
    Verified {
        /// Whose.
        conn: ConnId,
        /// Whether it is the right one.
        is_right: bool,
    },
    /// Of certificates being read.
    Credentials {
        /// Which of them.
        number: u64,
        /// What was read.
        outcome: net::credentials::Outcome,
    },
    /// Of what is read and looked up before an upstream broker is dialled.
    Upstream {
        /// For whom.
        bridge: BridgeId,
        /// Which errand.
        number: u64,
        /// What was found, or what went wrong.
        outcome: Box<Result<upstream::Prepared, String>>,
    },
    /// Of dead letters being written.
    Letters {
        /// How many could not be.
        lost: u64,
    },
    /// Of a user's number.
    UserName {
        /// The number.
        uid: u32,
        /// What the system calls it; `None`: nothing, or it does not know.
        name: Option<Box<str>>,
    },
    /// Of the configuration being read.
    Loaded {
        /// Which reading.
        count: u64,
        /// What was read.
        outcome: Result<Box<Config>, Box<str>>,
    },
}

/// Where workers leave their answers. Clones share one box.
#[derive(Debug, Clone)]
pub(super) struct Mailbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    left: Mutex<Left>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Left {
    answers: Vec<Answer>,
    /// The loop has been woken, or is about to be, and will take them all.
    is_woken: bool,
}

impl Mailbox {
    pub(super) fn new(registry: &Registry) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            left: Mutex::default(),
            waker: Waker::new(registry, Source::Waker.token())?,
        })))
    }

    /// Leaves an answer and wakes the loop, once for as many as come before it looks.
    pub(super) fn post(&self, answer: Answer) {
        let mut left = self.lock();
        left.answers.push(answer);
        let is_woken = std::mem::replace(&mut left.is_woken, true);
        drop(left);
        if !is_woken {
            self.wake();
        }
    }

    /// Leaves an answer that is followed by one that is posted.
    pub(super) fn leave(&self, answer: Answer) {
        self.lock().answers.push(answer);
    }

    /// Makes the loop look again, though there is no answer.
    fn wake(&self) {
        if let Err(error) = self.0.waker.wake() {
            log::error!("cannot wake the loop: {error}");
        }
    }

    /// Whether the loop has been woken for answers that it has not taken.
    pub(super) fn has_answers(&self) -> bool {
        self.lock().is_woken
    }

    /// Takes everything, leaving `into`'s spare room behind for the next answers.
    ///
    /// # Panics
    /// If `into` is not empty.
    pub(super) fn take(&self, into: &mut Vec<Answer>) {
        assert!(
            into.is_empty(),
            "taken answers are handled before the next are taken"
        );
        let mut left = self.lock();
        std::mem::swap(&mut left.answers, into);
        left.is_woken = false;
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        // Nothing can panic while it is held; if it did, the answers are whole all the same.
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread with a bounded queue. It ends when this is dropped and its queue is served; nobody
/// waits for that, for it may be stuck.
#[derive(Debug)]
pub(super) struct Worker<R> {
    requests: SyncSender<R>,
}

impl<R: Send + 'static> Worker<R> {
    /// Starts a thread that serves up to `queue_max` waiting requests, one after the other.
    pub(super) fn start(
        name: &str,
        queue_max: usize,
        mut serve: impl FnMut(R) + Send + 'static,
    ) -> io::Result<Self> {
        let (requests, queue) = sync_channel(queue_max);
        spawn(name, move || {
            while let Ok(request) = queue.recv() {
                serve(request);
            }
        })?;
        Ok(Self { requests })
    }

    /// One whose thread is elsewhere.
    #[cfg(test)]
    pub(super) fn over(requests: SyncSender<R>) -> Self {
        Self { requests }
    }

    /// Hands over a request, or gives it back.
    pub(super) fn submit(&self, request: R) -> Result<(), Refused<R>> {
        self.requests
            .try_send(request)
            .map_err(|error| match error {
                TrySendError::Full(request) => Refused::Full(request),
                TrySendError::Disconnected(request) => Refused::Gone(request),
            })
    }
}

/// A request that a worker did not take.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused<R> {
    /// Its queue is full.
    Full(R),
    /// Its thread has ended, which only a panic brings about.
    Gone(R),
}

/// Errands at once. Each is a thread; more than this means that devices hang, and another thread
/// would hang too.
pub(super) const ERRANDS_MAX: usize = 32;

/// Threads that do one thing and end.
#[derive(Debug)]
pub(super) struct Errands {
    running: Arc<AtomicUsize>,
    mailbox: Mailbox,
}

impl Errands {
    /// `mailbox` wakes the loop when one has ended.
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            running: Arc::default(),
            mailbox,
        }
    }

    /// Does `body` on a thread of its own; gives it back if too many are running already.
    pub(super) fn run<F: FnOnce() + Send + 'static>(&self, name: &str, body: F) -> Result<(), F> {
        if self.running() >= ERRANDS_MAX {
            return Err(body);
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let (running, mailbox) = (self.running.clone(), self.mailbox.clone());
        // The body is kept outside so that it can be given back if there is no thread for it.
        let body = Arc::new(Mutex::new(Some(body)));
        let taken = body.clone();
        let spawned = spawn(name, move || {
            let body = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(body) = body {
                // A panic has printed itself; whoever waits for this errand has a deadline.
                let _ = catch_unwind(AssertUnwindSafe(body));
            }
            running.fetch_sub(1, Ordering::Release);
            mailbox.wake();
        });
        if let Err(error) = spawned {
            self.running.fetch_sub(1, Ordering::Relaxed);
            log::warn!("no thread for {name}: {error}");
            let body = body.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(body.expect("a thread that did not start took nothing"));
        }
        Ok(())
    }

    /// Errands that have not ended.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }
}

/// Starts a thread with every signal blocked, so that signals stay the loop's, without a moment in
/// which they are not.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    before.thread_set_mask()?;
    spawned.map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn answers_arrive_in_order_and_wake_the_loop() {
        let mut poll = mio::Poll::new().unwrap();
        let mailbox = Mailbox::new(poll.registry()).unwrap();
        let worker = {
            let mailbox = mailbox.clone();
            Worker::start("test", 4, move |text: &'static str| {
                mailbox.post(Answer::Loaded {
                    count: 0,
                    outcome: Err(text.into()),
                });
            })
            .unwrap()
        };
        worker.submit("one").unwrap();
        worker.submit("two").unwrap();
        let mut seen = Vec::new();
        let mut events = mio::Events::with_capacity(4);
        while seen.len() < 2 {
            poll.poll(&mut events, Some(PATIENCE)).unwrap();
            assert!(!events.is_empty(), "nobody woke the loop");
            let mut answers = Vec::new();
            mailbox.take(&mut answers);
            for answer in answers {
                match answer {
                    Answer::Loaded {
                        outcome: Err(text), ..
                    } => seen.push(text),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(seen, ["one".into(), "two".into()]);
    }

    #[test]
    fn a_full_queue_gives_the_request_back() {
        let (release, gate) = channel::<()>();
        let (started, start) = channel();
        let worker = Worker::start("test", 1, move |_: u8| {
            let _ = started.send(());
            let _ = gate.recv();
        })
        .unwrap();
        worker.submit(1).unwrap();
        start.recv_timeout(PATIENCE).unwrap();
        worker.submit(2).unwrap();
        assert_eq!(worker.submit(3), Err(Refused::Full(3)));
        drop(release);
    }

    #[test]
    fn threads_of_ours_take_no_signals() {
        let (send, masks) = channel();
        spawn("test", move || {
            send.send(SigSet::thread_get_mask().unwrap()).unwrap();
        })
        .unwrap();
        assert!(
            masks
                .recv_timeout(PATIENCE)
                .unwrap()
                .contains(Signal::SIGTERM)
        );
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
    }

    #[test]
    fn errands_are_limited_and_a_panic_frees_its_place() {
        let poll = mio::Poll::new().unwrap();
        let errands = Errands::new(Mailbox::new(poll.registry()).unwrap());
        let (release, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..ERRANDS_MAX {
            let gate = gate.clone();
            let waits = move || drop(gate.lock().map(|gate| gate.recv()));
            assert!(errands.run("test", waits).is_ok());
        }
        assert!(errands.run("test", || ()).is_err());
        drop(release);
        wait_until_idle(&errands);
        assert!(errands.run("test", || panic!("on purpose")).is_ok());
        wait_until_idle(&errands);
    }

    fn wait_until_idle(errands: &Errands) {
        let start = super::super::clock::monotonic();
        while errands.running() > 0 {
            assert!(super::super::clock::monotonic().since(start) < PATIENCE);
            thread::yield_now();
        }
    }
}
