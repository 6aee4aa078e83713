//! Any filter against any topic, and against a matcher that is only the definition.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::topic(bytes));
