//! Remembers which voids of an event the stores could not take over, so that Redis is not scanned again while nothing
//! changes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::{UserId, Uuid, code::CouponCode};

/// How long the result of a comparison is valid while the numbers of voids stay the same.
const MAX_AGE: Duration = Duration::from_mins(5);

/// How many voids of an event cannot be applied to the store that does not have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VoidDifference {
    pub(super) only_in_postgres: u64,
    pub(super) only_in_redis: u64,
}

/// The last comparison of each event that has voids.
#[derive(Default)]
pub(crate) struct VoidComparisons(Mutex<HashMap<Uuid, Comparison>>);

#[derive(Clone)]
pub(super) struct Comparison {
    pub(super) numbers: Numbers,
    pub(super) compared_at: Instant,
    /// Voids of Postgres that cannot be applied to Redis.
    pub(super) only_in_postgres: Vec<(UserId, CouponCode)>,
    /// Voids of Redis that cannot be applied to Postgres, because the issuance is not recorded. It is recorded again.
    pub(super) not_recorded: Vec<CouponCode>,
    /// Voids of Redis that cannot be applied to Postgres, because the coupon was redeemed.
    pub(super) redeemed: u64,
}

/// What changes if a store has other voids than before.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) in_postgres: u64,
    pub(super) in_redis: u64,
    pub(super) is_verified: bool,
    pub(super) recovery_id: String,
}

impl VoidComparisons {
    pub(super) fn get(&self, uid: Uuid) -> Option<Comparison> {
        self.lock().get(&uid).cloned()
    }

    pub(super) fn insert(&self, uid: Uuid, comparison: Comparison) {
        self.lock().insert(uid, comparison);
    }

    pub(super) fn forget(&self, uid: Uuid) {
        self.lock().remove(&uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Comparison>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Comparison {
    /// Whether the result is still valid.
    pub(super) fn is_current(&self, numbers: &Numbers) -> bool {
        self.numbers == *numbers && self.compared_at.elapsed() < MAX_AGE
    }

    pub(super) fn difference(&self) -> VoidDifference {
        VoidDifference {
            only_in_postgres: u64::try_from(self.only_in_postgres.len()).unwrap_or(u64::MAX),
            only_in_redis: u64::try_from(self.not_recorded.len()).unwrap_or(u64::MAX).saturating_add(self.redeemed),
        }
    }
}
