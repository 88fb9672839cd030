//! The decoder of Kafka messages.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| couponry_domain::fuzz_targets::decode_message(bytes));
