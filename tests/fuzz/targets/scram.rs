//! Any bytes as a client's two messages of SCRAM.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::scram(bytes));
