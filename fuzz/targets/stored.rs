//! What Redis holds: who has which coupon, the stock, the outbox.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| couponry_redis::read_stored(text));
