//! A message on the topic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| domain::untrusted::read_message(bytes));
