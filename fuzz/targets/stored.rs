//! The parsers of the values that Redis stores: issued entries, stock items and outbox records.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| couponry_redis::parse_stored_value(text));
