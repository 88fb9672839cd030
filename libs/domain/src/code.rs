//! Coupon codes: unguessable, unique within an event, and easy to read.

use std::{fmt, str::FromStr};

use rand::{Rng as _, SeedableRng as _, rngs::ChaCha20Rng};

use crate::permutation::Permutation;

/// The characters of a code: A-Z without I and O, and 2-9, of which no two look alike. Each encodes five bits.
pub const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// The maximum number of characters after the prefix: 64 bits suffice for 12 characters of 5 bits.
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

/// The stream of the seed for the key of the codes. The other streams are for shuffling.
const CODE_STREAM: u64 = 0;

/// Generates the codes of an event, which the seed, the format and the ordinal determine. Different ordinals have
/// different codes.
pub struct CodeGenerator {
    permutation: Permutation,
    format: CodeFormat,
}

impl CodeGenerator {
    /// A generator of the codes with this seed and format.
    #[must_use]
    pub fn new(seed: Seed, format: CodeFormat) -> Self {
        let mut key = [0; 32];
        seed.stream(CODE_STREAM).fill_bytes(&mut key);
        // 32^length numbers: as many as there are codes, so none has to be skipped.
        Self { permutation: Permutation::new(&key, 5 * format.length), format }
    }

    /// Returns the code of the coupon with this ordinal.
    ///
    /// # Panics
    /// If the ordinal is not below 32^length.
    #[must_use]
    pub fn code(&self, ordinal: u64) -> CouponCode {
        let mut number = self.permutation.apply(ordinal);
        let mut code = String::with_capacity(32);
        if let Some(prefix) = &self.format.prefix {
            code.push_str(prefix);
            code.push('-');
        }
        for _ in 0..self.format.length {
            code.push(char::from(ALPHABET[(number & 31) as usize]));
            number >>= 5;
        }
        CouponCode(code)
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
    use std::{
        collections::{HashMap, HashSet},
        ops::Range,
        time::Instant,
    };

    use super::*;

    fn format(length: u8) -> CodeFormat {
        CodeFormat { prefix: Some("SUMMER".into()), length }
    }

    fn codes(seed: Seed, length: u8, ordinals: Range<u64>) -> Vec<String> {
        let generator = CodeGenerator::new(seed, format(length));
        ordinals.map(|ordinal| generator.code(ordinal).to_string()).collect()
    }

    #[test]
    fn codes_of_a_seed_never_change() {
        // If these change, a top-up after an upgrade may repeat codes.
        assert_eq!(codes(Seed::from([7; 32]), 12, 0..2), ["SUMMER-BWGD59S2YRUP", "SUMMER-767WZVTTXZSE"]);
        assert_eq!(codes(Seed::from([7; 32]), 11, 0..1), ["SUMMER-VQVNF7YRWEY"]);
        assert_eq!(codes(Seed::from([7; 32]), 10, 9_999_999..10_000_000), ["SUMMER-FPTYKQUSQR"]);
    }

    #[test]
    fn one_million_codes_are_unique_and_match_the_format() {
        let codes: HashSet<_> = codes(Seed::generate(), 10, 0..1_000_000).into_iter().collect();
        assert_eq!(codes.len(), 1_000_000);
        for code in &codes {
            let letters = code.strip_prefix("SUMMER-").unwrap();
            assert_eq!(letters.len(), 10);
            assert!(letters.bytes().all(|b| ALPHABET.contains(&b)), "{code}");
            assert_eq!(code.parse::<CouponCode>().unwrap().as_str(), code);
        }
    }

    #[test]
    fn every_code_of_a_small_format_is_generated_once() {
        for length in 1..=3 {
            let count = 32_u64.pow(u32::from(length));
            let codes: HashSet<_> = codes(Seed::generate(), length, 0..count).into_iter().collect();
            assert_eq!(codes.len() as u64, count);
        }
    }

    #[test]
    fn every_character_is_equally_frequent_at_every_position() {
        const COUNT: u32 = 100_000;
        let codes = codes(Seed::from([4; 32]), 12, 0..u64::from(COUNT));
        for position in "SUMMER-".len().."SUMMER-".len() + 12 {
            let mut counts = HashMap::new();
            for code in &codes {
                *counts.entry(code.as_bytes()[position]).or_insert(0_u32) += 1;
            }
            let expected = f64::from(COUNT) / 32.0;
            let chi_square: f64 = counts.values().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
            // 31 degrees of freedom: above 80 with a probability of 0.000004.
            assert!(counts.len() == 32 && chi_square < 80.0, "position {position}: {chi_square}");
        }
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p couponry-domain -- --ignored --nocapture"]
    fn time_per_code() {
        const COUNT: u32 = 2_000_000;
        let generator = CodeGenerator::new(Seed::generate(), format(12));
        let started = Instant::now();
        let len: usize = (0..u64::from(COUNT)).map(|ordinal| generator.code(ordinal).as_str().len()).sum();
        println!("{:?} per code ({len} characters)", started.elapsed() / COUNT);
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
        let one: HashSet<_> = codes(Seed::from([1; 32]), 12, 0..1000).into_iter().collect();
        assert!(codes(Seed::from([2; 32]), 12, 0..1000).iter().all(|code| !one.contains(code)));
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
