//! One deterministic value that is the whole gateway: (state, now, input) in, outputs out.

pub mod boundary;
pub mod settings;
