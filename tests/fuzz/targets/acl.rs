//! ACL files, which an operator writes and others may generate.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::acl(bytes));
