//! The gateway as a whole, driven through its public calls: no host, no clock, no device.
//!
//! `house` plays the host: it does what the gateway says at once and writes it down, unless a test
//! tells it to hold an answer back.

mod house;
#[path = "../journal/disk.rs"]
mod platter;
#[path = "../journal/tags.rs"]
mod tags;

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
