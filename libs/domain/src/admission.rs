//! Admission: the users of an event are admitted one after the other, in a random order.
//!
//! Each user has a ticket, a number from 0 (inclusive) to 1 (exclusive), which depends on the user and a secret of the
//! event only. The user is admitted when that part of the ramp has passed. Early or repeated requests do not change the
//! time, and no state is stored. `issue.lua` decides, by the same rule and the clock of Redis.

use std::fmt;

use ring::hmac;

use crate::{code::Seed, hash::keyed_sha1, hex::hex, names::UserId};

/// The secret from which the tickets of an event are computed.
#[derive(Clone, PartialEq, Eq)]
pub struct AdmissionKey(String);

/// The digits of the ticket: Lua has floating-point numbers only, which represent 13 hexadecimal digits exactly.
const DIGITS: usize = 13;
/// The number of different tickets, 16^13.
const TICKETS: f64 = 4_503_599_627_370_496.0;

impl fmt::Debug for AdmissionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmissionKey(secret)")
    }
}

impl AdmissionKey {
    /// The key of the event with this seed. The seed cannot be computed from it.
    #[must_use]
    pub fn of(seed: &Seed) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, seed.as_bytes());
        Self(hex(hmac::sign(&key, b"admission").as_ref()))
    }

    /// The key with this text, which Redis stores.
    #[must_use]
    pub const fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text that `issue.lua` uses.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the user is admitted, if the ramp begins at `start` (milliseconds since the Unix epoch): before the end of
    /// the ramp.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a ticket has 52 bits, and the result is shorter than the ramp; Lua computes with the same numbers"
    )]
    pub fn admitted_at(&self, start: i64, ramp_seconds: u32, user: &UserId) -> i64 {
        let digits = &keyed_sha1(&self.0, user.as_str())[..DIGITS];
        let ticket = u64::from_str_radix(digits, 16).unwrap_or_default() as f64 / TICKETS;
        start + (ticket * (f64::from(ramp_seconds) * 1000.0)).floor() as i64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_796_083_200_000;

    fn admitted_at(seed: u8, ramp_seconds: u32, user: &str) -> i64 {
        AdmissionKey::of(&Seed::from([seed; 32])).admitted_at(START, ramp_seconds, &user.parse().unwrap())
    }

    /// `adapters/redis/tests/redis/release.rs` checks that `issue.lua` computes the same times.
    #[test]
    fn admission_has_the_documented_values() {
        assert_eq!(AdmissionKey::of(&Seed::from([1; 32])).as_str().len(), 64);
        for (seed, ramp_seconds, user, offset) in VECTORS {
            assert_eq!(admitted_at(seed, ramp_seconds, user) - START, offset, "{user}");
        }
    }

    /// Computed by another implementation of HMAC and SHA-1.
    const VECTORS: [(u8, u32, &str, i64); 5] = [
        (1, 60, "u1", 14_460),
        (1, 60, "u2", 40_523),
        (2, 60, "u1", 22_504),
        (1, 86_400, "u1", 20_823_165),
        (1, 1, "사용자", 579),
    ];

    #[test]
    fn admission_is_spread_evenly_over_the_ramp() {
        let key = AdmissionKey::of(&Seed::from([1; 32]));
        let mut admitted = [0; 10];
        for i in 0..10_000 {
            let at = key.admitted_at(0, 10, &format!("user-{i}").parse().unwrap());
            admitted[usize::try_from(at / 1000).unwrap()] += 1;
        }
        // The standard deviation of each count is 30.
        assert!(admitted.iter().all(|count| (850..1150).contains(count)), "{admitted:?}");
    }

    proptest! {
        #[test]
        fn user_is_admitted_within_the_ramp(
            seed: [u8; 32],
            start in 0..4_000_000_000_000_i64,
            ramp_seconds in 1..=86_400_u32,
            user in "[a-z0-9]{1,40}",
        ) {
            let at = AdmissionKey::of(&Seed::from(seed)).admitted_at(start, ramp_seconds, &user.parse().unwrap());
            prop_assert!((start..start + i64::from(ramp_seconds) * 1000).contains(&at));
        }
    }
}
