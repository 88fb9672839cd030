//! Pseudonyms: what replaces a user id when the user is erased.
//!
//! The pseudonym of a user depends on the event, and can be computed only with a secret of that event. So it shows
//! neither the user nor which coupons of different events belong to the same user, but a request of the user can still
//! be recognized.

use std::fmt;

use ring::digest::{SHA256, digest};

use crate::{code::Seed, hash::keyed_sha1, hex::hex, names::UserId};

/// The beginning of every pseudonym. No other user id begins with it: the issuer rejects such requests.
pub const PSEUDONYM_PREFIX: &str = "erased:";

/// The secret from which the pseudonyms of an event are computed.
#[derive(Clone, PartialEq, Eq)]
pub struct PseudonymKey(String);

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudonymKey(secret)")
    }
}

impl PseudonymKey {
    /// The key of the event with this seed. The seed cannot be computed from it.
    #[must_use]
    pub fn of(seed: &Seed) -> Self {
        let labelled = [b"pseudonyms ".as_slice(), seed.as_bytes()].concat();
        Self(hex(digest(&SHA256, &labelled).as_ref()))
    }

    /// The text that `issue.lua` uses.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pseudonym of the user. `issue.lua` computes the same one.
    ///
    /// # Panics
    /// Never: a pseudonym is a valid user id.
    #[must_use]
    pub fn pseudonym(&self, user: &UserId) -> UserId {
        let hash = keyed_sha1(&self.0, user.as_str());
        format!("{PSEUDONYM_PREFIX}{hash}").parse().expect("a pseudonym is a valid user id")
    }
}

impl UserId {
    /// Whether it replaces the id of a user who was erased.
    #[must_use]
    pub fn is_pseudonym(&self) -> bool {
        self.as_str().starts_with(PSEUDONYM_PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonym_depends_on_user_and_event_only() {
        let (key, other) = (PseudonymKey::of(&Seed::from([1; 32])), PseudonymKey::of(&Seed::from([2; 32])));
        let pseudonym = |key: &PseudonymKey, user: &str| key.pseudonym(&user.parse().unwrap());
        let of_user = pseudonym(&key, "u1");
        assert!(of_user.is_pseudonym() && of_user.as_str().len() == PSEUDONYM_PREFIX.len() + 40, "{of_user}");
        assert_eq!(of_user, pseudonym(&key, "u1"));
        assert_ne!(of_user, pseudonym(&key, "u2"));
        assert_ne!(of_user, pseudonym(&other, "u1"));
        assert!(!"u1".parse::<UserId>().unwrap().is_pseudonym());
    }
}
