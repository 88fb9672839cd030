//! A coupon's code, and the names of users and events, as they come over a wire.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| couponry_domain::untrusted::read_name(text));
