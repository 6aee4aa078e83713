//! The operating system: the only code that knows Linux.
//!
//! [`run`] drives one gateway until it is told to stop. The loop ([`EventLoop`]) owns all state and
//! never blocks; what Linux offers no readiness for happens on workers, each of which owns one
//! request and decides nothing.
//!
//! | file | knows |
//! |---|---|
//! | `event_loop` | the order of a turn; budgets; what each output means |
//! | `token`, `timer`, `clock` | the poll's tokens, the host's deadlines, both clocks |
//! | `net/` | listeners, connections, transports, lingering |
//! | `worker` | threads for what blocks, and the mailbox that wakes the loop |
//! | `bus`, `gpio`, `serial` | I2C and the machine's files, lines, ttys |
//! | `control` | the control socket and who may use it |
//! | `signal`, `systemd`, `log` | the process's surroundings |

pub mod dial;
pub mod local_time;
pub mod plant;
pub mod probe;
pub mod scan;
