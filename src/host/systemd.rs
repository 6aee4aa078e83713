//! What the service manager hears: ready, reloading, stopping, alive.
//!
//! Outside of systemd every message goes nowhere. The watchdog is fed only by a turn that has
//! finished, so it vouches for the loop and for nothing else: a stuck worker is a health fault, not
//! a restart.

use sd_notify::NotifyState;

use crate::time::Duration;

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct Systemd {
    watchdog_interval: Option<Duration>,
    /// Nothing is sent without a manager, not even a look for its socket.
    is_there: bool,
}

impl Systemd {
    /// Reads the environment that the manager has left.
    pub(super) fn from_environment() -> Self {
        Self {
            // Half of what it allows, as sd_watchdog_enabled(3) advises.
            watchdog_interval: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            is_there: std::env::var_os("NOTIFY_SOCKET").is_some(),
        }
    }

    /// How often [`Systemd::alive`] must be said.
    pub(super) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog_interval
    }

    /// Everything that was configured has been tried once.
    pub(super) fn ready(&self) {
        self.tell(&[NotifyState::Ready, NotifyState::Status("running")]);
    }

    /// The start takes its time, and goes on: the manager is to wait for so long more.
    pub(super) fn starting(&self, patience: Duration) {
        let usec = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::ExtendTimeoutUsec(usec),
            NotifyState::Status("reading the journal"),
        ]);
    }

    /// The configuration is being read again.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[
                NotifyState::Reloading,
                now,
                NotifyState::Status("reading the configuration again"),
            ]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// A clean stop has begun.
    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// A turn has finished.
    pub(super) fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.is_there
            && let Err(error) = sd_notify::notify(states)
        {
            log::warn!("systemd does not listen: {error}");
        }
    }
}
