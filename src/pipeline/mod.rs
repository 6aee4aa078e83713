//! Readings to messages, command messages to writes: transforms, quality, rates, payload formats.

pub mod settings;
