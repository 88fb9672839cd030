//! A keyed permutation of numbers, from which unique codes are derived without remembering them.
//!
//! It is a Feistel network: the number is split into two halves, and each round changes one half by a keyed function
//! of the other. Each round can be undone, whatever the function is, so different numbers stay different. The round
//! function is AES-256, truncated. [ADR 0007](../../../docs/adr/0007-codes.md) has the reasons.

use ring::aead::quic::{AES_256, HeaderProtectionKey};

/// As many as in FF1, the standard of NIST for encrypting short texts (SP 800-38G).
const ROUNDS: u8 = 10;

/// A permutation of the numbers of `bits` bits.
pub(crate) struct Permutation {
    /// QUIC masks its headers with the first bytes of a block that is encrypted with AES (RFC 9001, 5.4.3). No other
    /// function of `ring` encrypts a single block.
    key: HeaderProtectionKey,
    bits: u8,
}

impl Permutation {
    /// # Panics
    /// Above 64 bits: the round function returns 32 bits.
    pub(crate) fn new(key: &[u8; 32], bits: u8) -> Self {
        assert!(bits <= 64, "a permutation of at most 64 bits");
        Self { key: HeaderProtectionKey::new(&AES_256, key).expect("a key of 32 bytes"), bits }
    }

    /// Returns the number at this position of the permutation.
    ///
    /// # Panics
    /// If the position has more bits than the permutation.
    pub(crate) fn apply(&self, position: u64) -> u64 {
        assert!(u128::from(position) >> self.bits == 0, "position {position} is outside of the permutation");
        let low_bits = self.bits / 2;
        let mask = |bits: u8| (1 << bits) - 1;
        let (mut high, mut low) = (position >> low_bits, position & mask(low_bits));
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                high ^= self.round(round, low) & mask(self.bits - low_bits);
            } else {
                low ^= self.round(round, high) & mask(low_bits);
            }
        }
        high << low_bits | low
    }

    /// The round function. Its blocks differ in the round, the width and the half.
    fn round(&self, round: u8, half: u64) -> u64 {
        let block = u128::from(half) | u128::from(round) << 64 | u128::from(self.bits) << 72;
        let [a, b, c, d, _] = self.key.new_mask(&block.to_le_bytes()).expect("a block of 16 bytes");
        u64::from(u32::from_le_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn small_permutation_contains_every_number_once(key: [u8; 32], bits in 0..=12_u8) {
            let permutation = Permutation::new(&key, bits);
            let mut numbers: Vec<u64> = (0..1 << bits).map(|position| permutation.apply(position)).collect();
            numbers.sort_unstable();
            prop_assert!(numbers.into_iter().eq(0..1 << bits));
        }

        #[test]
        fn every_bit_of_position_and_key_changes_half_of_the_bits(key: [u8; 32], bits in 50..=60_u8) {
            const POSITIONS: u64 = 50;
            let permutation = Permutation::new(&key, bits);
            let difference = |other: &Permutation, flip: u64| {
                (0..POSITIONS).map(|p| (permutation.apply(p) ^ other.apply(p ^ flip)).count_ones()).sum::<u32>()
            };
            let is_half = |sum: u32| {
                let mean = f64::from(sum) / f64::from(u32::try_from(POSITIONS).unwrap());
                (mean - f64::from(bits) / 2.0).abs() < 5.0
            };
            for bit in 0..bits {
                prop_assert!(is_half(difference(&permutation, 1 << bit)), "bit {} of the position", bit);
            }
            for bit in 0..256 {
                let mut other = key;
                other[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(is_half(difference(&Permutation::new(&other, bits), 0)), "bit {} of the key", bit);
            }
        }
    }

    #[test]
    fn permutations_of_different_widths_are_unrelated() {
        let [narrow, wide] = [50, 60].map(|bits| Permutation::new(&[1; 32], bits));
        assert!((0..1000).all(|position| narrow.apply(position) != wide.apply(position) & ((1 << 50) - 1)));
    }

    #[test]
    #[should_panic(expected = "outside of the permutation")]
    fn position_above_width_is_rejected() {
        Permutation::new(&[1; 32], 50).apply(1 << 50);
    }

    /// The example of FIPS 197, C.3.
    #[test]
    fn round_function_is_aes_256() {
        let key = std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).unwrap());
        let block = std::array::from_fn::<u8, 16, _>(|i| u8::try_from(i * 0x11).unwrap());
        let mask = Permutation::new(&key, 60).key.new_mask(&block).unwrap();
        assert_eq!(mask, [0x8e, 0xa2, 0xb7, 0xca, 0x51]);
    }
}
