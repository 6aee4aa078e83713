//! The gateway as a whole, driven through its public calls: no host, no clock, no device.
//!
//! `house` plays the host: it does what the gateway says at once and writes it down, unless a test
//! tells it to hold an answer back.

mod house;

mod bridges;
mod commands;
mod control;
mod health;
mod reload;
mod stop;
mod system;
