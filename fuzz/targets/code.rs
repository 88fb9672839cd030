//! Parsers of coupon codes, user ids and event names.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| couponry_domain::fuzz_targets::parse_names(text));
