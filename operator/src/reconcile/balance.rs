//! Whether every coupon is in one place: generated = in the queue + given and not yet recorded + recorded + voided.
//!
//! Redis and Postgres cannot be read at one instant, and coupons move all the time. So it is never asked whether two counts of
//! different instants are equal, but only what must hold at any time, however many coupons move in between
//! ([ADR 0010](../../../docs/adr/0010-the-balance.md)):
//!
//! - What Redis has loaded is in its queue, with users, or voided. All of that is read in one step of Redis.
//! - No coupon is in two places: not for longer than it takes until the second of two users who were told of it is cancelled.
//! - Redis has loaded nothing that Postgres, asked later, does not have.
//! - What Postgres has recorded, Redis, asked later, has given.
//! - What Redis knows to be recorded, Postgres, asked later, has recorded.

use couponry_crds::{BalanceStatus, status::reason};

use super::{Obstacle, Seen, Wanted};

/// Where all coupons of an event are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Balance {
    generated: u64,
    loaded: u64,
    available: u64,
    issued: u64,
    recorded: u64,
    /// How many Redis knew to be recorded, before Postgres was asked.
    known_recorded: u64,
    /// Below zero while coupons are in two places, as when two users were told of the same one.
    voided: i64,
}

/// What does not add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// How many coupons are missing, or too many.
    pub(crate) coupons: u64,
    /// Which, in words.
    pub(crate) words: String,
}

impl Difference {
    pub(crate) fn obstacle(&self) -> Obstacle {
        Obstacle { reason: reason::DRIFT_FOUND, message: self.words.clone() }
    }
}

impl Balance {
    /// None: there are no two stocks to compare, or Redis has lost its own and is to be restored.
    pub(crate) fn of(wanted: &Wanted, seen: &Seen) -> Option<Self> {
        let stored = seen.stored.as_ref()?;
        let own = seen.own(wanted).filter(|own| own.stock_epoch == stored.stock_epoch && own.is_verified)?;
        Some(Self {
            generated: stored.stock_len(),
            loaded: own.loaded,
            available: own.available,
            issued: own.issued,
            recorded: seen.recorded,
            known_recorded: seen.known_recorded,
            voided: own.voided,
        })
    }

    pub(crate) fn status(&self) -> BalanceStatus {
        BalanceStatus {
            generated: self.generated,
            available: self.available,
            unrecorded: self.issued.saturating_sub(self.recorded),
            recorded: self.recorded,
            voided: u64::try_from(self.voided).unwrap_or_default(),
        }
    }

    /// Whether Redis may give coupons that users have already, or that do not exist.
    pub(crate) fn gives_too_much(&self) -> bool {
        self.recorded > self.issued || self.missing() < 0 || self.voided < 0 || self.loaded > self.generated
    }

    /// How many loaded coupons Redis does not have any more; below zero: how many it has too many.
    fn missing(&self) -> i64 {
        signed(self.loaded) - signed(self.available) - signed(self.issued) - self.voided
    }

    /// What does not add up.
    pub(crate) fn difference(&self) -> Option<Difference> {
        let Self { generated, loaded, available, issued, recorded, known_recorded, voided } = *self;
        let missing = self.missing();
        let mut words = Vec::new();
        if missing != 0 {
            let mut parts = vec![format!("{available} to give"), format!("{issued} given")];
            if voided != 0 {
                parts.push(format!("{voided} voided"));
            }
            if loaded < generated {
                parts.push(format!("{} still to load", generated - loaded));
            }
            let last = parts.pop().unwrap_or_default();
            let verdict = match missing {
                1 => "1 is nowhere".to_owned(),
                2.. => format!("{missing} are nowhere"),
                -1 => "1 is there twice".to_owned(),
                _ => format!("{} are there twice", missing.unsigned_abs()),
            };
            words.push(format!(
                "Postgres has {generated} coupons, Redis has {} and {last}: {verdict}",
                parts.join(", ")
            ));
        }
        let doubled = voided.min(0).unsigned_abs();
        if doubled > 0 {
            let verb = if doubled == 1 { "is" } else { "are" };
            words.push(format!(
                "Redis has loaded {loaded} coupons, {available} are to give and {issued} given: {doubled} {verb} there twice"
            ));
        }
        if loaded > generated {
            words.push(format!("Redis has loaded {loaded} coupons, Postgres has only {generated}"));
        }
        if recorded > issued {
            words.push(format!("Postgres has recorded {recorded} coupons as given, Redis has given only {issued}"));
        }
        if known_recorded > recorded {
            words.push(format!(
                "Redis was told that {known_recorded} coupons are recorded, Postgres has only {recorded} of these records"
            ));
        }
        let coupons = missing.unsigned_abs()
            + doubled
            + loaded.saturating_sub(generated)
            + recorded.saturating_sub(issued)
            + known_recorded.saturating_sub(recorded);
        (!words.is_empty()).then(|| {
            words.push("set issuance to Paused and compare the stores (kubectl couponry audit)".to_owned());
            Difference { coupons, words: words.join("; ") }
        })
    }
}

/// Stocks are far smaller than that.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Balance =
        Balance { generated: 100, loaded: 100, available: 60, issued: 40, recorded: 30, known_recorded: 20, voided: 0 };

    #[test]
    fn what_moves_adds_up() {
        for (what, balance) in [
            ("before the first", Balance { available: 100, issued: 0, recorded: 0, known_recorded: 0, ..WHOLE }),
            ("on the way", WHOLE),
            ("all recorded", Balance { recorded: 40, known_recorded: 40, ..WHOLE }),
            ("recorded since Redis was asked", Balance { recorded: 40, known_recorded: 0, ..WHOLE }),
            ("voided", Balance { issued: 38, voided: 2, ..WHOLE }),
            ("while it is loaded", Balance { loaded: 50, available: 10, ..WHOLE }),
        ] {
            assert_eq!(balance.difference(), None, "{what}");
            assert!(!balance.gives_too_much(), "{what}");
        }
        let shown = Balance { issued: 38, voided: 2, ..WHOLE }.status();
        let expected = BalanceStatus { generated: 100, available: 60, unrecorded: 8, recorded: 30, voided: 2 };
        assert_eq!(shown, expected);
        assert_eq!(shown.generated, shown.available + shown.unrecorded + shown.recorded + shown.voided);
    }

    #[test]
    fn what_differs_has_words() {
        let gone = "Redis was told that 20 coupons are recorded, Postgres has only 19 of these records";
        for (balance, coupons, too_much, words) in [
            (
                Balance { generated: 100_000, loaded: 100_000, available: 4000, issued: 95_990, ..WHOLE },
                10,
                false,
                "Postgres has 100000 coupons, Redis has 4000 to give and 95990 given: 10 are nowhere",
            ),
            (
                Balance { available: 59, issued: 39, voided: 1, ..WHOLE },
                1,
                false,
                "Postgres has 100 coupons, Redis has 59 to give, 39 given and 1 voided: 1 is nowhere",
            ),
            (
                Balance { generated: 111, available: 58, ..WHOLE },
                2,
                false,
                "Postgres has 111 coupons, Redis has 58 to give, 40 given and 11 still to load: 2 are nowhere",
            ),
            (
                Balance { available: 61, ..WHOLE },
                1,
                true,
                "Postgres has 100 coupons, Redis has 61 to give and 40 given: 1 is there twice",
            ),
            (
                Balance { available: 61, voided: -1, ..WHOLE },
                1,
                true,
                "Redis has loaded 100 coupons, 61 are to give and 40 given: 1 is there twice",
            ),
            (Balance { generated: 90, ..WHOLE }, 10, true, "Redis has loaded 100 coupons, Postgres has only 90"),
            (
                Balance { recorded: 41, ..WHOLE },
                1,
                true,
                "Postgres has recorded 41 coupons as given, Redis has given only 40",
            ),
            (Balance { recorded: 19, ..WHOLE }, 1, false, gone),
        ] {
            let difference = balance.difference().unwrap();
            assert_eq!(difference.coupons, coupons, "{words}");
            assert_eq!(balance.gives_too_much(), too_much, "{words}");
            assert!(difference.words.starts_with(&format!("{words}; set issuance to Paused")), "{}", difference.words);
        }
        let both = Balance { available: 59, recorded: 19, ..WHOLE }.difference().unwrap();
        assert!(both.coupons == 2 && both.words.contains("nowhere; Redis was told"), "{both:?}");
    }
}
