#![no_main]
// What it uses of that.
#![allow(dead_code)]

#[path = "../../native/snakepit_client/tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| support::check(bytes));
