//! The operating system: the only code that knows Linux.
//!
//! [`run`] drives one gateway until it is told to stop. The loop ([`EventLoop`]) owns all state and
//! never blocks; what Linux offers no readiness for happens on workers, each of which owns one
//! request and decides nothing.
//!
//! | file | knows |
//! |---|---|
//! | `event_loop/` | the order of a turn; budgets; what each output means |
//! | `token`, `timer`, `clock` | the poll's tokens, the host's deadlines, both clocks |
//! | `net/` | listeners, connections, TLS, WebSocket, PROXY headers, lingering |
//! | `upstream/` | upstream brokers being dialled |
//! | `users` | names of unix sockets' peers |
//! | `worker` | threads for what blocks, and the mailbox that wakes the loop |
//! | `bus`, `gpio/`, `serial` | I2C and the machine's files, lines, ttys |
//! | `disk/` | the journal's folder |
//! | `password` | hashes of passwords |
//! | `control` | the control socket and who may use it |
//! | `signal`, `systemd`, `log`, `footprint` | the process's surroundings |
//! | `dial`, `scan`, `probe`, `secret`, `identity`, `plant`, `local_time` | for the verbs: clients, what is connected, the demo |

mod bus;
mod clock;
mod control;
pub mod dial;
pub mod disk;
mod event_loop;
mod footprint;
mod gpio;
pub mod identity;
mod letters;
pub mod local_time;
pub mod log;
mod net;
pub mod password;
pub mod plant;
pub mod probe;
pub mod scan;
pub mod secret;
mod serial;
mod signal;
pub mod swarm;
mod systemd;
mod timer;
mod token;
pub mod upstream;
mod users;
mod worker;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::gateway::boundary::HostCounters;
pub use control::ControlSettings;
pub use event_loop::{EventLoop, Flow};
pub use net::{certificate, credentials, frames, proxy, upgrade};

use crate::gateway::boundary::Notice;
use crate::gateway::settings::Config;
use crate::id::ListenerId;

/// Reads the configuration again, on a worker: as meant, or every error as text.
pub type Loader = dyn Fn() -> Result<Config, String> + Send + Sync;

/// Hears of [`HostEvent`]s, on the loop. It must not block.
pub type Observer = dyn FnMut(HostEvent<'_>);

/// What the host is asked to do besides running the gateway.
#[derive(Default)]
pub struct HostSettings {
    /// The control socket; `None`: there is none.
    pub control: Option<ControlSettings>,
    /// How SIGHUP and `reload` read the configuration again; `None`: they are told that there is
    /// none.
    pub loader: Option<Arc<Loader>>,
    /// Hears of what the gateway's surroundings may want to know.
    pub on_event: Option<Box<Observer>>,
    /// Whether SIGTERM, SIGINT and SIGHUP are the gateway's, as they are in `run` and `demo`.
    pub handle_signals: bool,
    /// Where the gateway keeps what outlives it; `None`: nowhere. Nothing is touched there before
    /// the gateway asks for it.
    pub data_dir: Option<PathBuf>,
    /// For the gateway's generator; `None`: from the kernel.
    pub seed: Option<u64>,
    /// How upstream brokers are dialled.
    pub dialling: upstream::Dialling,
}

/// Something that the gateway's surroundings may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostEvent<'a> {
    /// A listener is open, with the address that it got, or could not be opened.
    Listening {
        /// Of the gateway.
        listener: ListenerId,
        /// The address as bound, or what the system said.
        outcome: Result<&'a str, &'a str>,
    },
    /// The gateway has said this.
    Notice(&'a Notice),
}

/// Why [`run`] came back without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// It was told to stop, and everything that this asks for is done or its time was up: exit code
    /// 0.
    Stopped,
    /// It was told a second time, before the first stop was done.
    Interrupted,
}

/// Why the gateway cannot start or go on.
#[derive(Debug)]
pub enum HostError {
    /// Something that must work on every Linux did not.
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The control socket cannot be opened: the operator's to mend.
    Control {
        /// Where.
        path: Box<str>,
        /// What the kernel said.
        error: io::Error,
    },
    /// The gateway cannot start, and says why.
    Refused {
        /// For people.
        why: Box<str>,
    },
    /// The loop panicked: a bug of ours. Outputs were made safe as far as it still could.
    Panicked {
        /// Of the panic.
        message: Box<str>,
    },
}

/// Without the cause, which is its source.
impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { what, .. } => f.write_str(what),
            Self::Control { path, .. } => write!(f, "control socket {path}"),
            Self::Refused { why } => f.write_str(why),
            Self::Panicked { message } => write!(f, "internal error: {message}"),
        }
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { error, .. } | Self::Control { error, .. } => Some(error),
            Self::Refused { .. } | Self::Panicked { .. } => None,
        }
    }
}

/// Runs a gateway until a signal stops it.
///
/// Install the logger first ([`log::init`]). Threads that exist already should have been started
/// with signals blocked, or they may catch the signals that are meant for the loop.
///
/// # Errors
/// If the poll or the control socket cannot be set up, or the loop panicked. Listeners and devices
/// that cannot be opened are no errors: the gateway hears of them and publishes them.
pub fn run(config: Config, settings: HostSettings) -> Result<ExitReason, HostError> {
    EventLoop::new(config, settings)?.run()
}
