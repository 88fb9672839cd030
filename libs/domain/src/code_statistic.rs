//! How hard imported codes are to guess.

use crate::code::CouponCode;

/// Fewer bits mean that more than about one of 100 million guesses matches a code. Generated codes have more.
pub const MIN_GUESS_BITS: u8 = 27;

/// From this number of codes on, the characters at a position are those that occur there. With fewer codes, some are
/// missing by chance.
const MANY: u64 = 1000;

/// The length of the longest code.
const POSITIONS: usize = 64;

/// Which characters occur at each position of the codes, with constant memory.
///
/// It recognizes codes that are short, and codes with consecutive numbers: few of their positions differ. It does not
/// recognize codes that follow a secret formula.
#[derive(Clone, Debug)]
pub struct CodeStatistic {
    count: u64,
    /// A bit for each character, and one for the end of the code.
    characters: [u64; POSITIONS],
}

impl Default for CodeStatistic {
    fn default() -> Self {
        Self { count: 0, characters: [0; POSITIONS] }
    }
}

impl CodeStatistic {
    /// Adds a code.
    pub fn add(&mut self, code: &CouponCode) {
        self.count += 1;
        let bits = code.as_str().bytes().map(bit).chain(std::iter::repeat(1));
        for (characters, bit) in self.characters.iter_mut().zip(bits) {
            *characters |= bit;
        }
    }

    /// One of about 2^n guesses matches a code, if the guesses have the characters of the codes at the positions that
    /// differ, and each is as likely as the others.
    #[must_use]
    pub fn guess_bits(&self) -> u8 {
        let varies = |characters: &&u64| characters.count_ones() > 1 || (self.count == 1 && **characters != 1);
        let varying = self.characters.iter().filter(varies);
        let alphabet = match self.count {
            1 => 36,
            _ => varying.clone().fold(0, |all, characters| all | characters).count_ones(),
        };
        let sizes = varying.map(|characters| if self.count < MANY { alphabet } else { characters.count_ones() });
        let bits: f64 = sizes.map(|size| f64::from(size).log2()).sum();
        #[expect(clippy::cast_precision_loss, reason = "only the magnitude matters")]
        let bits = bits - (self.count.max(1) as f64).log2();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
        let bits = bits.clamp(0.0, 255.0) as u8;
        bits
    }
}

/// The bit of a character of a code; bit 0 is the end of the code.
const fn bit(character: u8) -> u64 {
    match character {
        b'A'..=b'Z' => 1 << (1 + character - b'A'),
        b'0'..=b'9' => 1 << (27 + character - b'0'),
        _ => 1 << 37,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CodeFormat, Seed,
        code::{CodeGenerator, MAX_LENGTH, MIN_LENGTH},
    };

    fn guess_bits(codes: impl IntoIterator<Item = String>) -> u8 {
        let mut statistic = CodeStatistic::default();
        for code in codes {
            statistic.add(&code.parse().unwrap());
        }
        statistic.guess_bits()
    }

    fn generated(length: u8, count: u64) -> impl Iterator<Item = String> {
        let prefix = Some("SUMMER".to_owned());
        let generator = CodeGenerator::new(Seed::from([3; 32]), CodeFormat { prefix, length });
        (0..count).map(move |ordinal| generator.code(ordinal).to_string())
    }

    #[test]
    fn consecutive_numbers_are_guessable_whatever_precedes_them() {
        for (first, count) in [(0, 10), (0, 1000), (8_123_456_789_000_u64, 100_000)] {
            let bits = guess_bits((first..first + count).map(|number| format!("X7GK2M9QXW4TB-{number:012}")));
            assert!(bits <= 4, "{count} from {first}: {bits}");
        }
    }

    #[test]
    fn short_codes_are_guessable() {
        assert!(guess_bits(generated(4, 1000)) < MIN_GUESS_BITS);
        assert!(guess_bits(["ABCD".to_owned()]) < MIN_GUESS_BITS);
    }

    #[test]
    fn generated_codes_are_not_guessable() {
        for count in [1, 2, 10, 999, 1000, 100_000] {
            let bits = guess_bits(generated(MAX_LENGTH, count));
            assert!(bits >= MIN_GUESS_BITS, "{count}: {bits}");
        }
        // 50 bits for one of 100,000 codes of 10 characters: 33.
        assert_eq!(guess_bits(generated(MIN_LENGTH, 100_000)), 33);
    }

    #[test]
    fn codes_of_different_lengths_are_counted() {
        assert!(guess_bits(generated(10, 5000).chain(generated(12, 5000))) >= MIN_GUESS_BITS);
        assert_eq!(guess_bits([]), 0);
    }
}
