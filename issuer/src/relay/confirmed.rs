//! Which records Kafka has confirmed lately.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{Mutex, PoisonError},
};

use couponry_domain::{IssuedRecord, Uuid, code::CouponCode};

/// How many are remembered at least, once there were so many. A few megabytes at the most.
const REMEMBERED: usize = 100_000;

/// A memory that forgets the oldest. What it has forgotten is sent once more, which does no harm.
#[derive(Default)]
pub(super) struct Confirmed {
    hasher: RandomState,
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Confirmed {
    pub(super) fn remember(&self, records: impl IntoIterator<Item = u64>) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.young.extend(records);
        if sets.young.len() >= REMEMBERED {
            sets.old = mem::take(&mut sets.young);
        }
    }

    pub(super) fn contains(&self, record: u64) -> bool {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.young.contains(&record) || sets.old.contains(&record)
    }

    pub(super) fn record(&self, record: &IssuedRecord) -> u64 {
        self.issuance(record.event_uid, &record.coupon, record.issued_at)
    }

    /// The coupon alone would not do: one that was cancelled may be given again, at another time.
    pub(super) fn issuance(&self, event: Uuid, coupon: &CouponCode, issued_at: i64) -> u64 {
        self.hasher.hash_one((event, coupon.as_str(), issued_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let confirmed = Confirmed::default();
        let (event, coupon) = (Uuid::nil(), "SUMMER-7GK2M9QXW4TB".parse().unwrap());
        let first = confirmed.issuance(event, &coupon, 1);
        assert!(!confirmed.contains(first));
        confirmed.remember([first]);
        assert!(confirmed.contains(first));
        assert!(!confirmed.contains(confirmed.issuance(event, &coupon, 2)), "given again");
        let many = |from: i64| (from..).take(REMEMBERED - 1).map(|time| confirmed.issuance(event, &coupon, time));
        confirmed.remember(many(10));
        assert!(confirmed.contains(first));
        confirmed.remember(many(10_000_000));
        confirmed.remember([0]);
        assert!(!confirmed.contains(first));
        assert!(confirmed.contains(confirmed.issuance(event, &coupon, 10_000_000)));
    }
}
