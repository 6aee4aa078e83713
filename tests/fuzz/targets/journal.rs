//! Any bytes as a segment of a journal, and as what one of its records says.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::journal(bytes));
