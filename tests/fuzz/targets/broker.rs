//! Whole connections: what clients send, when they come and go, and how time passes.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::broker(bytes));
