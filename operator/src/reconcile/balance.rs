//! Checks the inventory balance of an event by five invariants. Once all coupons are loaded and none is lost, they
//! imply generated = available + unrecorded + recorded + withheld.
//!
//! Redis and Postgres cannot be read at the same instant while coupons move. Counts of different instants are
//! therefore never compared for equality; only these invariants are checked
//! ([ADR 0010](../../../docs/adr/0010-inventory-balance.md)):
//!
//! - What is loaded is available, issued or withheld. Redis returns these counts atomically.
//! - No coupon exists twice. This does not hold for the moment in which two users have the same one, until the second
//!   issuance is cancelled: only a mismatch that lasts is reported (`status_writer.rs`).
//! - What is loaded in Redis is generated in Postgres, which is read later.
//! - What is recorded in Postgres is issued in Redis, which is read later.
//! - Entries that are marked `COMPLETED` in Redis are recorded in Postgres, which is read later.
//!
//! [`CountMismatch::with_voids`] adds the voids that only one store has. They have no effect on the stock, so no step
//! of the plan waits for them.

use couponry_crds::{BalanceStatus, status::reason};

use crate::{
    blocker::Blocker,
    reconcile::{desired_state::DesiredState, observe::ObservedState, void_comparisons::VoidDifference},
};

/// The inventory of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Balance {
    generated: u64,
    loaded: u64,
    available: u64,
    issued: u64,
    recorded: u64,
    /// How many entries are marked `COMPLETED` in Redis, read before Postgres.
    marked_recorded: u64,
    withheld: u64,
    /// How many coupons exist twice, for example because two users received the same one.
    duplicated: u64,
}

/// Counts that violate an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CountMismatch {
    /// How many coupons are missing, surplus, or voided in only one store.
    pub(super) coupons: u64,
    /// Which counts contradict each other, and what to do.
    pub(super) message: String,
}

impl CountMismatch {
    pub(super) fn blocker(&self) -> Blocker {
        Blocker::new(reason::DRIFT_FOUND, self.message.clone())
    }

    /// Adds the voids that cannot be applied to the other store.
    pub(super) fn with_voids(stock: Option<Self>, voids: VoidDifference) -> Option<Self> {
        let VoidDifference { only_in_postgres, only_in_redis } = voids;
        if voids == VoidDifference::default() {
            return stock;
        }
        let mut findings = Vec::new();
        if only_in_postgres > 0 {
            findings.push(format!(
                "{} voided in Postgres and cannot be voided in Redis, because the user has another entry or none.",
                coupons_are(only_in_postgres)
            ));
        }
        if only_in_redis > 0 {
            findings.push(format!(
                "{} voided in Redis and cannot be voided in Postgres, because the coupon was redeemed or is not recorded.",
                coupons_are(only_in_redis)
            ));
        }
        match &stock {
            Some(stock) => findings.insert(0, stock.message.clone()),
            None => findings.push("Compare the stores with `kubectl couponry audit`.".to_owned()),
        }
        let coupons = stock.map_or(0, |stock| stock.coupons) + only_in_postgres + only_in_redis;
        Some(Self { coupons, message: findings.join(" ") })
    }
}

impl Balance {
    /// None: one of the stores has no stock of the current epoch, or Redis is unverified.
    pub(super) fn of(desired: &DesiredState, observed: &ObservedState) -> Option<Self> {
        let stored = observed.stored.as_ref()?;
        let in_redis = observed.redis_event(desired);
        let in_redis =
            in_redis.filter(|in_redis| in_redis.stock_epoch == stored.stock_epoch && in_redis.is_verified)?;
        Some(Self {
            generated: stored.generated(),
            loaded: in_redis.loaded,
            available: in_redis.available,
            issued: in_redis.issued,
            recorded: observed.recorded,
            marked_recorded: observed.marked_recorded,
            withheld: in_redis.withheld_count(),
            duplicated: in_redis.duplicated_count(),
        })
    }

    pub(super) fn status(&self) -> BalanceStatus {
        BalanceStatus {
            generated: self.generated,
            available: self.available,
            unrecorded: self.issued.saturating_sub(self.recorded),
            recorded: self.recorded,
            withheld: self.withheld,
        }
    }

    /// Whether Redis could issue coupons that already belong to users, or that do not exist.
    pub(super) fn has_surplus(&self) -> bool {
        self.recorded > self.issued || self.missing() < 0 || self.duplicated > 0 || self.loaded > self.generated
    }

    /// Loaded coupons that are missing in Redis; negative if Redis has more than were loaded.
    fn missing(&self) -> i64 {
        to_i64(self.loaded + self.duplicated) - to_i64(self.available) - to_i64(self.issued) - to_i64(self.withheld)
    }

    /// None: the counts match.
    pub(super) fn count_mismatch(&self) -> Option<CountMismatch> {
        let Self { generated, loaded, available, issued, recorded, marked_recorded, withheld, duplicated } = *self;
        let missing = self.missing();
        let mut findings = Vec::new();
        if missing != 0 {
            let mut counts = vec![format!("{available} are available"), format!("{issued} issued")];
            if withheld > 0 {
                counts.push(format!("{withheld} withheld"));
            }
            if loaded < generated {
                counts.push(format!("{} not loaded yet", generated - loaded));
            }
            let last = counts.pop().unwrap_or_default();
            let difference = if missing > 0 {
                format!("{} missing", coupons_are(missing.unsigned_abs()))
            } else {
                surplus(missing.unsigned_abs())
            };
            let counts = counts.join(", ");
            findings.push(format!("Of {generated} coupons in Postgres, {counts} and {last} in Redis: {difference}."));
        }
        if duplicated > 0 {
            findings.push(format!(
                "Of {loaded} coupons loaded into Redis, {available} are available and {issued} issued: {}.",
                surplus(duplicated)
            ));
        }
        if loaded > generated {
            findings.push(format!("{loaded} coupons are loaded into Redis, but only {generated} exist in Postgres."));
        }
        if recorded > issued {
            findings.push(format!(
                "{recorded} issuances are recorded in Postgres, but only {issued} coupons are issued in Redis."
            ));
        }
        if marked_recorded > recorded {
            findings.push(format!(
                "{marked_recorded} coupons are marked as recorded in Redis, but only {recorded} of them are recorded \
                 in Postgres."
            ));
        }
        if findings.is_empty() {
            return None;
        }
        findings.push("Set issuance to Paused and compare the stores with `kubectl couponry audit`.".to_owned());
        let coupons = missing.unsigned_abs()
            + duplicated
            + loaded.saturating_sub(generated)
            + recorded.saturating_sub(issued)
            + marked_recorded.saturating_sub(recorded);
        Some(CountMismatch { coupons, message: findings.join(" ") })
    }
}

/// The counts cannot tell a coupon that exists twice from an entry that is not a coupon.
fn surplus(count: u64) -> String {
    format!("{count} too many, because coupons exist twice or an entry is not a coupon")
}

fn coupons_are(count: u64) -> String {
    if count == 1 { "1 coupon is".to_owned() } else { format!("{count} coupons are") }
}

/// Saturates far above the largest stock.
fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCED: Balance = Balance {
        generated: 100,
        loaded: 100,
        available: 60,
        issued: 40,
        recorded: 30,
        marked_recorded: 20,
        withheld: 0,
        duplicated: 0,
    };

    #[test]
    fn balance_while_coupons_move_has_no_mismatch() {
        for (case, balance) in [
            ("nothing issued", Balance { available: 100, issued: 0, recorded: 0, marked_recorded: 0, ..BALANCED }),
            ("partly recorded", BALANCED),
            ("all recorded", Balance { recorded: 40, marked_recorded: 40, ..BALANCED }),
            ("recorded after Redis was read", Balance { recorded: 40, marked_recorded: 0, ..BALANCED }),
            ("withheld", Balance { issued: 38, withheld: 2, ..BALANCED }),
            ("partly loaded", Balance { loaded: 50, available: 10, ..BALANCED }),
        ] {
            assert_eq!(balance.count_mismatch(), None, "{case}");
            assert!(!balance.has_surplus(), "{case}");
        }
        let status = Balance { issued: 38, withheld: 2, ..BALANCED }.status();
        let expected = BalanceStatus { generated: 100, available: 60, unrecorded: 8, recorded: 30, withheld: 2 };
        assert_eq!(status, expected);
        assert_eq!(status.generated, status.available + status.unrecorded + status.recorded + status.withheld);
    }

    #[test]
    fn mismatch_names_the_contradicting_counts() {
        let large = Balance { generated: 100_000, loaded: 100_000, available: 4000, issued: 95_990, ..BALANCED };
        for (balance, coupons, has_surplus, message) in [
            (
                large,
                10,
                false,
                "Of 100000 coupons in Postgres, 4000 are available and 95990 issued in Redis: 10 coupons are missing.",
            ),
            (
                Balance { available: 59, issued: 39, withheld: 1, ..BALANCED },
                1,
                false,
                "Of 100 coupons in Postgres, 59 are available, 39 issued and 1 withheld in Redis: 1 coupon is missing.",
            ),
            (
                Balance { generated: 111, available: 58, ..BALANCED },
                2,
                false,
                "Of 111 coupons in Postgres, 58 are available, 40 issued and 11 not loaded yet in Redis: 2 coupons \
                 are missing.",
            ),
            (
                Balance { available: 61, ..BALANCED },
                1,
                true,
                "Of 100 coupons in Postgres, 61 are available and 40 issued in Redis: 1 too many, because \
                 coupons exist twice or an entry is not a coupon.",
            ),
            (
                Balance { available: 61, duplicated: 1, ..BALANCED },
                1,
                true,
                "Of 100 coupons loaded into Redis, 61 are available and 40 issued: 1 too many, because coupons \
                 exist twice or an entry is not a coupon.",
            ),
            (
                Balance { generated: 90, ..BALANCED },
                10,
                true,
                "100 coupons are loaded into Redis, but only 90 exist in Postgres.",
            ),
            (
                Balance { recorded: 41, ..BALANCED },
                1,
                true,
                "41 issuances are recorded in Postgres, but only 40 coupons are issued in Redis.",
            ),
            (
                Balance { recorded: 19, ..BALANCED },
                1,
                false,
                "20 coupons are marked as recorded in Redis, but only 19 of them are recorded in Postgres.",
            ),
        ] {
            let count_mismatch = balance.count_mismatch().unwrap();
            assert_eq!(count_mismatch.coupons, coupons, "{message}");
            assert_eq!(balance.has_surplus(), has_surplus, "{message}");
            let expected = format!("{message} Set issuance to Paused");
            assert!(count_mismatch.message.starts_with(&expected), "{}", count_mismatch.message);
        }
        let both = Balance { available: 59, recorded: 19, ..BALANCED }.count_mismatch().unwrap();
        assert!(both.coupons == 2 && both.message.contains("missing. 20 coupons are marked"), "{both:?}");
    }

    #[test]
    fn voids_of_one_store_are_added_to_the_mismatch_of_the_stock() {
        let none = VoidDifference::default();
        assert_eq!(CountMismatch::with_voids(None, none), None);
        let stock = Balance { available: 59, ..BALANCED }.count_mismatch();
        assert_eq!(CountMismatch::with_voids(stock.clone(), none), stock);

        let voids = VoidDifference { only_in_postgres: 2, only_in_redis: 1 };
        let mismatch = CountMismatch::with_voids(None, voids).unwrap();
        let expected = "2 coupons are voided in Postgres and cannot be voided in Redis, because the user has another \
                        entry or none. 1 coupon is voided in Redis and cannot be voided in Postgres, because the coupon \
                        was redeemed or is not recorded. Compare the stores with `kubectl couponry audit`.";
        assert_eq!(mismatch, CountMismatch { coupons: 3, message: expected.to_owned() });
        let both = CountMismatch::with_voids(stock, voids).unwrap();
        assert!(both.coupons == 4 && both.message.starts_with("Of 100 coupons"), "{both:?}");
        assert!(both.message.contains("audit`. 2 coupons are voided"), "{both:?}");
    }
}
