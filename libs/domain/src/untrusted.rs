//! What must hold whatever comes from outside. `cargo xtask fuzz` looks for a counterexample; the tests try its seeds, and so every
//! counterexample that was found.

use crate::{EventName, IssuedRecord, UserId, code::CouponCode};

/// Reads a text as every kind of name that comes over a wire.
///
/// # Panics
/// When a name is taken that comes out otherwise than it went in, or that does not fit where it goes.
pub fn read_name(text: &str) {
    if let Ok(code) = text.parse::<CouponCode>() {
        assert_eq!(code.as_str(), text);
        // It goes between the colons of a stock item, and into JSON as it is.
        assert!(text.len() <= 64 && !text.contains([':', '"', '\\']));
    }
    if let Ok(user) = text.parse::<UserId>() {
        assert_eq!(user.as_str(), text);
        assert!(!text.is_empty() && text.len() <= 256 && !text.contains(char::is_control));
    }
    if let Ok(event) = text.parse::<EventName>() {
        assert_eq!(event.as_str(), text);
        // It goes between the braces of a Redis key.
        assert!(!text.is_empty() && text.len() <= 253 && !text.contains(['{', '}', ':']));
    }
}

/// Reads bytes as a message on the topic: as its value, and as its version.
///
/// # Panics
/// When a record comes out otherwise than it went in.
pub fn read_message(bytes: &[u8]) {
    if let Ok(record) = IssuedRecord::decode(Some(b"1"), bytes) {
        let again = IssuedRecord::decode(Some(b"1"), &record.encode());
        assert_eq!(again.expect("our own record"), record);
    }
    if bytes != b"1" {
        IssuedRecord::decode(Some(bytes), b"{}").expect_err("a version that there is not");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn nothing_breaks_on_the_seeds_of_the_fuzzer() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for seed in fs::read_dir(seeds.join("code")).unwrap() {
            super::read_name(&String::from_utf8_lossy(&fs::read(seed.unwrap().path()).unwrap()));
        }
        for seed in fs::read_dir(seeds.join("record")).unwrap() {
            super::read_message(&fs::read(seed.unwrap().path()).unwrap());
        }
    }
}
