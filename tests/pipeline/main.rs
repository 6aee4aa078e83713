//! The pipeline machine in virtual time: what is published when, and what commands end in.
//!
//! [`support::Bench`] plays the gateway and a broker's retained store; the cases read as
//! conversations.

mod commands;
mod interleavings;
mod publishing;
mod quality;
mod reload;
mod support;
