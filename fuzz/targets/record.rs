//! A message on the topic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| couponry_domain::untrusted::read_message(bytes));
