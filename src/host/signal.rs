//! Signals as something to read: SIGTERM and SIGINT stop, SIGHUP reads the configuration again.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::token::Source;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To stop cleanly; a second time: at once.
    Stop,
    /// To read the configuration again.
    Reload,
}

/// The three signals, blocked for this thread and read from a descriptor. Dropping it restores the
/// thread's mask.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Takes the signals over. Threads that exist already must have them blocked, which
    /// [`super::worker::spawn`] sees to.
    pub(super) fn take_over(registry: &Registry) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        registry.register(
            &mut SourceFd(&fd.as_fd().as_raw_fd()),
            Source::Signal.token(),
            Interest::READABLE,
        )?;
        Ok(Self { fd, before })
    }

    /// The next signal that waits.
    pub(super) fn poll(&mut self) -> Option<Asked> {
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = i32::try_from(info.ssi_signo).ok()?;
        Some(if signal == Signal::SIGHUP as i32 {
            Asked::Reload
        } else {
            Asked::Stop
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A mask that was valid before is valid now; there is nothing to do about a kernel that
        // disagrees.
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn signals_are_read_in_turn_and_the_mask_comes_back() {
        let poll = mio::Poll::new().unwrap();
        let before = SigSet::thread_get_mask().unwrap();
        let mut signals = Signals::take_over(poll.registry()).unwrap();
        assert_eq!(signals.poll(), None);
        raise(Signal::SIGHUP).unwrap();
        assert_eq!(signals.poll(), Some(Asked::Reload));
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(signals.poll(), Some(Asked::Stop));
        assert_eq!(signals.poll(), None);
        drop(signals);
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
