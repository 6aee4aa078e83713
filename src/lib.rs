//! fieldgate: a single-threaded event-loop MQTT gateway for Linux edge hardware.
//!
//! # The map
//!
//! Modules are declared bottom-up. A module may import from the rows above its own, never sideways
//! between the machines and never downwards; `tests/tidy.rs` reads every `use crate::` line against
//! this table.
//!
//! | row | modules | what they are |
//! |---|---|---|
//! | vocabulary | [`time`], [`units`], [`deadlines`], [`rng`], [`id`], [`slab`], [`buffer`], [`point`], [`credential`] | values; no I/O, no policy |
//! | mqtt | [`mqtt`] | bytes to meaning and back, and the sans-I/O client |
//! | machines | [`broker`], [`bridge`], [`journal`], [`field`], [`pipeline`] | sans-I/O; strangers to one another |
//! | composition | [`gateway`] | one deterministic value: (state, now, input) in, outputs out |
//! | configuration | [`config`] | the file as written to the gateway as meant |
//! | operating system | [`host`] | the only code that knows Linux |
//! | verbs | [`cli`] | one file per command; `main` calls it |
//!
//! Nothing above [`host`] in this table reads a clock, a socket, a file, the environment or
//! unseeded randomness: time and chance come in as arguments, so that a simulation can be a second
//! host.

// vocabulary
pub mod buffer;
pub mod credential;
pub mod deadlines;
pub mod id;
pub mod point;
pub mod rng;
pub mod slab;
pub mod time;
pub mod units;

// bytes to meaning and back
pub mod mqtt;

// sans-I/O machines
pub mod bridge;
pub mod broker;
pub mod field;
pub mod journal;
pub mod pipeline;

// composition
pub mod config;
pub mod gateway;

// the operating system, and the verbs
pub mod cli;
pub mod host;
