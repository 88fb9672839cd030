//! Coupon codes: unguessable, unique within an event, and easy to read aloud.

use std::{fmt, str::FromStr};

use rand::{Rng, SeedableRng, rngs::ChaCha20Rng};
use rustc_hash::{FxBuildHasher, FxHashSet};

/// The letters of a code: A-Z without I and O, and 2-9, so that no two can be confused. 32 of them: five bits each.
pub const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// The longest code (the letters after the prefix): what fits into 64 random bits.
pub const MAX_LENGTH: u8 = 12;
/// The shortest code: with the largest stock (ten million), a guess still hits with a chance below one in 100 million.
pub const MIN_LENGTH: u8 = 10;

/// How the codes of an event look: `PREFIX-LETTERS`, or the letters alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeFormat {
    /// Capital letters and digits before the dash.
    pub prefix: Option<String>,
    /// How many random letters, from [`MIN_LENGTH`] to [`MAX_LENGTH`].
    pub length: u8,
}

impl Default for CodeFormat {
    fn default() -> Self {
        Self { prefix: None, length: MAX_LENGTH }
    }
}

/// The secret that all coupons of one event follow from. It is made once, from the system's generator, and stored with the
/// event, so that an operator that starts again makes the same coupons.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A new seed from the system's cryptographic generator.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The seed's bytes, to be stored.
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

// Who knows the seed knows every code: it must not get into a log.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// The stream of the seed that the codes are drawn from. Lots shuffle with the others.
const CODE_STREAM: u64 = 0;

/// The codes of an event, in order and without end: the same seed and format give the same codes, no code comes twice.
///
/// It keeps what it gave (some 15 bytes a code) to leave out the rare repetition.
pub struct Codes {
    rng: ChaCha20Rng,
    seen: FxHashSet<u64>,
    format: CodeFormat,
}

impl Codes {
    /// Starts at the first code. With the capacity for all codes, memory is taken once; it would need half as much again while
    /// it grew.
    #[must_use]
    pub fn new(seed: Seed, format: CodeFormat, capacity: usize) -> Self {
        let rng = seed.stream(CODE_STREAM);
        Self { rng, seen: FxHashSet::with_capacity_and_hasher(capacity, FxBuildHasher), format }
    }

    /// Goes past the next `count` codes.
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

impl Iterator for Codes {
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

/// A coupon's code as it came over a wire: at most 64 capital letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CouponCode(String);

impl CouponCode {
    /// The code itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CouponCode {
    type Err = InvalidCode;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-';
        if s.is_empty() || s.len() > 64 || !s.bytes().all(allowed) {
            return Err(InvalidCode);
        }
        Ok(Self(s.to_owned()))
    }
}

impl fmt::Display for CouponCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that no coupon of ours can have as its code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a coupon code is 1 to 64 capital letters, digits and dashes")]
pub struct InvalidCode;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn format(length: u8) -> CodeFormat {
        CodeFormat { prefix: Some("SUMMER".into()), length }
    }

    #[test]
    fn a_seed_gives_the_same_codes_for_ever() {
        // Changing these means that an operator which was interrupted by an upgrade makes other coupons than it began with.
        let codes: Vec<_> = Codes::new(Seed::from([7; 32]), format(12), 0).take(2).collect();
        assert_eq!(codes, ["SUMMER-RAJU25XWL5HJ", "SUMMER-T4HN4FMH56BQ"]);
    }

    #[test]
    fn codes_are_unique_readable_and_of_the_asked_length() {
        let codes: HashSet<_> = Codes::new(Seed::generate(), format(10), 0).take(100_000).collect();
        assert_eq!(codes.len(), 100_000);
        for code in &codes {
            let letters = code.strip_prefix("SUMMER-").unwrap();
            assert_eq!(letters.len(), 10);
            assert!(letters.bytes().all(|b| ALPHABET.contains(&b)), "{code}");
            assert_eq!(code.parse::<CouponCode>().unwrap().as_str(), code);
        }
    }

    #[test]
    fn a_repeated_number_is_left_out() {
        // Two letters have 1,024 numbers: drawing them all needs every repetition to be passed over.
        let codes: HashSet<_> = Codes::new(Seed::from([1; 32]), format(2), 0).take(1024).collect();
        assert_eq!(codes.len(), 1024);
    }

    #[test]
    fn skipping_and_taking_go_the_same_way() {
        let mut skipped = Codes::new(Seed::from([3; 32]), format(12), 0);
        skipped.skip_codes(50);
        let taken: Vec<_> = Codes::new(Seed::from([3; 32]), format(12), 0).skip(50).take(10).collect();
        assert_eq!(skipped.take(10).collect::<Vec<_>>(), taken);
    }

    #[test]
    fn a_guess_hits_with_a_chance_below_one_in_100_million() {
        let largest_stock = 10_000_000_u64;
        let keyspace = (ALPHABET.len() as u64).pow(u32::from(MIN_LENGTH));
        assert!(keyspace / largest_stock > 100_000_000, "{keyspace}");
        // The numbers in docs/operate/security.md.
        assert_eq!((keyspace, 1 << 60), (1 << 50, (ALPHABET.len() as u64).pow(u32::from(MAX_LENGTH))));
    }

    #[test]
    fn another_seed_gives_other_codes() {
        let one: HashSet<_> = Codes::new(Seed::from([1; 32]), format(12), 0).take(1000).collect();
        assert!(Codes::new(Seed::from([2; 32]), format(12), 0).take(1000).all(|code| !one.contains(&code)));
    }

    #[test]
    fn the_seed_stays_out_of_logs() {
        assert_eq!(format!("{:?}", Seed::from([9; 32])), "Seed(..)");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", "a", "A B", "A:PERCENT:10", "Ä", &"A".repeat(65)] {
            assert_eq!(text.parse::<CouponCode>(), Err(InvalidCode), "{text:?}");
        }
    }
}
