//! Properties of the parsers of untrusted input. `cargo xtask fuzz` searches for counterexamples; the unit tests run
//! the seed corpus, which includes every counterexample that was found.

use crate::{
    code::CouponCode,
    names::{EventName, UserId},
    record::IssuedRecord,
};

/// Parses a text as a coupon code, a user id and an event name.
///
/// # Panics
/// If an accepted text is stored differently, or contains a character that its storage does not allow.
pub fn parse_names(text: &str) {
    if let Ok(code) = text.parse::<CouponCode>() {
        assert_eq!(code.as_str(), text);
        // It is written between the colons of a stock item, and into JSON without escaping.
        assert!(text.len() <= 64 && !text.contains([':', '"', '\\']));
    }
    if let Ok(user) = text.parse::<UserId>() {
        assert_eq!(user.as_str(), text);
        assert!(!text.is_empty() && text.len() <= 256 && !text.contains(char::is_control));
    }
    if let Ok(event) = text.parse::<EventName>() {
        assert_eq!(event.as_str(), text);
        // It is written between the braces of a Redis key.
        assert!(!text.is_empty() && text.len() <= 63 && !text.contains(['{', '}', ':']));
    }
}

/// Decodes bytes as a Kafka message: as its value, and as its version header.
///
/// # Panics
/// If a decoded record is encoded differently, or an unknown version is accepted.
pub fn decode_message(bytes: &[u8]) {
    if let Ok(record) = IssuedRecord::decode(Some(b"1"), bytes) {
        let again = IssuedRecord::decode(Some(b"1"), &record.encode());
        assert_eq!(again.expect("a valid record"), record);
    }
    if bytes != b"1" {
        IssuedRecord::decode(Some(bytes), b"{}").expect_err("an unknown version");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn fuzz_seeds_are_handled() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for seed in fs::read_dir(seeds.join("code")).unwrap() {
            super::parse_names(&String::from_utf8_lossy(&fs::read(seed.unwrap().path()).unwrap()));
        }
        for seed in fs::read_dir(seeds.join("record")).unwrap() {
            super::decode_message(&fs::read(seed.unwrap().path()).unwrap());
        }
    }
}
