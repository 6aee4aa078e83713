//! Readings to messages, command messages to writes: transforms, quality, rates, payload formats.

pub mod command;
pub mod json;
mod number;
pub mod settings;
mod transform;
