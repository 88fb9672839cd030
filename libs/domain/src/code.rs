//! Coupon codes: unguessable, unique within an event, and easy to read.

use std::{fmt, str::FromStr};

use rand::{Rng, SeedableRng, rngs::ChaCha20Rng};
use rustc_hash::{FxBuildHasher, FxHashSet};

/// The characters of a code: A-Z without I and O, and 2-9, of which no two look alike. Each encodes five bits.
pub const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// The maximum number of characters after the prefix: 64 random bits encode no more.
pub const MAX_LENGTH: u8 = 12;
/// The minimum number of characters after the prefix: for the largest stock (ten million coupons), the probability
/// that a guess is valid is below one in 100 million.
pub const MIN_LENGTH: u8 = 10;

/// The format of the codes of an event: `PREFIX-CHARACTERS`, or only the characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeFormat {
    /// Capital letters and digits before the dash.
    pub prefix: Option<String>,
    /// The number of random characters, from [`MIN_LENGTH`] to [`MAX_LENGTH`].
    pub length: u8,
}

impl Default for CodeFormat {
    fn default() -> Self {
        Self { prefix: None, length: MAX_LENGTH }
    }
}

/// The secret from which all coupons of an event are derived. It is generated once and stored with the event, so that
/// an interrupted preload resumes with the same coupons.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// Generates a seed with the cryptographic generator of the system.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// One of the independent random sequences of this seed.
    pub(crate) fn stream(self, number: u64) -> ChaCha20Rng {
        let mut rng = ChaCha20Rng::from_seed(self.0);
        rng.set_stream(number);
        rng
    }
}

impl From<[u8; 32]> for Seed {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

// The seed determines every code, so it must not be logged.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// The stream of the seed for the codes. The other streams are for shuffling.
const CODE_STREAM: u64 = 0;

/// Generates the codes of an event: an infinite sequence without duplicates, which the seed and the format determine.
///
/// It remembers every code (about 15 bytes each) to skip duplicates.
pub struct CodeGenerator {
    rng: ChaCha20Rng,
    seen: FxHashSet<u64>,
    format: CodeFormat,
}

impl CodeGenerator {
    /// Starts at the first code. With the capacity for all codes, memory is allocated once; growing would need half as
    /// much again.
    #[must_use]
    pub fn new(seed: Seed, format: CodeFormat, capacity: usize) -> Self {
        let rng = seed.stream(CODE_STREAM);
        Self { rng, seen: FxHashSet::with_capacity_and_hasher(capacity, FxBuildHasher), format }
    }

    /// Skips the next `count` codes.
    pub fn skip_codes(&mut self, count: u64) {
        for _ in 0..count {
            self.next_number();
        }
    }

    fn next_number(&mut self) -> u64 {
        let unused_bits = 64 - 5 * u32::from(self.format.length);
        loop {
            let number = self.rng.next_u64() >> unused_bits;
            if self.seen.insert(number) {
                return number;
            }
        }
    }
}

impl Iterator for CodeGenerator {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut number = self.next_number();
        let mut code = String::with_capacity(32);
        if let Some(prefix) = &self.format.prefix {
            code.push_str(prefix);
            code.push('-');
        }
        for _ in 0..self.format.length {
            code.push(char::from(ALPHABET[(number & 31) as usize]));
            number >>= 5;
        }
        Some(code)
    }
}

/// A valid coupon code: 1 to 64 capital letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CouponCode(String);

impl CouponCode {
    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CouponCode {
    type Err = InvalidCouponCode;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-';
        if s.is_empty() || s.len() > 64 || !s.bytes().all(allowed) {
            return Err(InvalidCouponCode);
        }
        Ok(Self(s.to_owned()))
    }
}

impl fmt::Display for CouponCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a valid coupon code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a coupon code is 1 to 64 capital letters, digits and dashes")]
pub struct InvalidCouponCode;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn format(length: u8) -> CodeFormat {
        CodeFormat { prefix: Some("SUMMER".into()), length }
    }

    #[test]
    fn codes_of_a_seed_never_change() {
        // If these change, a preload that an upgrade interrupts resumes with other coupons.
        let codes: Vec<_> = CodeGenerator::new(Seed::from([7; 32]), format(12), 0).take(2).collect();
        assert_eq!(codes, ["SUMMER-RAJU25XWL5HJ", "SUMMER-T4HN4FMH56BQ"]);
    }

    #[test]
    fn codes_are_unique_and_match_the_format() {
        let codes: HashSet<_> = CodeGenerator::new(Seed::generate(), format(10), 0).take(100_000).collect();
        assert_eq!(codes.len(), 100_000);
        for code in &codes {
            let letters = code.strip_prefix("SUMMER-").unwrap();
            assert_eq!(letters.len(), 10);
            assert!(letters.bytes().all(|b| ALPHABET.contains(&b)), "{code}");
            assert_eq!(code.parse::<CouponCode>().unwrap().as_str(), code);
        }
    }

    #[test]
    fn duplicate_number_is_skipped() {
        // Two characters encode 1,024 numbers: generating all of them requires skipping every duplicate.
        let codes: HashSet<_> = CodeGenerator::new(Seed::from([1; 32]), format(2), 0).take(1024).collect();
        assert_eq!(codes.len(), 1024);
    }

    #[test]
    fn skip_codes_equals_taking_codes() {
        let mut skipped = CodeGenerator::new(Seed::from([3; 32]), format(12), 0);
        skipped.skip_codes(50);
        let taken: Vec<_> = CodeGenerator::new(Seed::from([3; 32]), format(12), 0).skip(50).take(10).collect();
        assert_eq!(skipped.take(10).collect::<Vec<_>>(), taken);
    }

    #[test]
    fn guess_of_shortest_code_is_below_one_in_100_million() {
        let largest_stock = 10_000_000_u64;
        let keyspace = (ALPHABET.len() as u64).pow(u32::from(MIN_LENGTH));
        assert!(keyspace / largest_stock > 100_000_000, "{keyspace}");
        // The numbers in docs/operate/security.md.
        assert_eq!((keyspace, 1 << 60), (1 << 50, (ALPHABET.len() as u64).pow(u32::from(MAX_LENGTH))));
    }

    #[test]
    fn different_seeds_generate_different_codes() {
        let one: HashSet<_> = CodeGenerator::new(Seed::from([1; 32]), format(12), 0).take(1000).collect();
        assert!(CodeGenerator::new(Seed::from([2; 32]), format(12), 0).take(1000).all(|code| !one.contains(&code)));
    }

    #[test]
    fn debug_output_of_seed_is_redacted() {
        assert_eq!(format!("{:?}", Seed::from([9; 32])), "Seed(..)");
    }

    #[test]
    fn invalid_code_is_rejected() {
        for text in ["", "a", "A B", "A:PERCENT:10", "Ä", &"A".repeat(65)] {
            assert_eq!(text.parse::<CouponCode>(), Err(InvalidCouponCode), "{text:?}");
        }
    }
}
