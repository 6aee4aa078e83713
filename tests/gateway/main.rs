//! The gateway as a whole, driven through its public calls: no host, no clock, no device.
//!
//! `house` plays the host: it does what the gateway says at once and writes it down, unless a test
//! tells it to hold an answer back.

mod house;
#[expect(
    dead_code,
    reason = "the journal's own tests use all of it, these only a part"
)]
#[path = "../journal/disk.rs"]
mod platter;

mod bridges;
mod commands;
mod control;
mod durable;
mod exactly_once;
mod health;
mod reload;
mod sessions;
mod stop;
mod system;
