//! Any bytes as a request for a WebSocket.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::upgrade(bytes));
