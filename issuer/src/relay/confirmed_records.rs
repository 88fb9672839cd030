//! Records that Kafka has confirmed recently.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{Mutex, PoisonError},
};

use couponry_domain::{IssuedCoupon, IssuedRecord, Uuid};

/// The number of records in one generation (a set that is dropped as one): a few megabytes at most.
const GENERATION_SIZE: usize = 100_000;

/// A bounded set of the latest confirmed records. A record that is no longer in it is published once more, which is
/// harmless.
#[derive(Default)]
pub(super) struct ConfirmedRecords {
    hasher: RandomState,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl ConfirmedRecords {
    pub(super) fn remember(&self, records: impl IntoIterator<Item = u64>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.extend(records);
        if generations.young.len() >= GENERATION_SIZE {
            generations.old = mem::take(&mut generations.young);
        }
    }

    pub(super) fn contains(&self, record: u64) -> bool {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.contains(&record) || generations.old.contains(&record)
    }

    pub(super) fn record(&self, record: &IssuedRecord) -> u64 {
        self.issuance(record.event_uid, &record.issued)
    }

    /// Includes the time, because a cancelled coupon may be issued again.
    pub(super) fn issuance(&self, event: Uuid, issued: &IssuedCoupon) -> u64 {
        self.hasher.hash_one((event, issued.coupon.as_str(), issued.issued_at))
    }
}

#[cfg(test)]
mod tests {
    use couponry_domain::{Discount, DiscountType};

    use super::*;

    #[test]
    fn confirmed_records_evict_the_oldest_generation() {
        let confirmed = ConfirmedRecords::default();
        let issued = IssuedCoupon {
            user_id: "u1".parse().unwrap(),
            coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 0,
        };
        let issuance = |issued_at| confirmed.issuance(Uuid::nil(), &IssuedCoupon { issued_at, ..issued.clone() });
        let first = issuance(1);
        assert!(!confirmed.contains(first));
        confirmed.remember([first]);
        assert!(confirmed.contains(first));
        assert!(!confirmed.contains(issuance(2)), "issued again");
        let many = |from: i64| (from..).take(GENERATION_SIZE - 1).map(issuance);
        confirmed.remember(many(10));
        assert!(confirmed.contains(first));
        confirmed.remember(many(10_000_000));
        confirmed.remember([0]);
        assert!(!confirmed.contains(first));
        assert!(confirmed.contains(issuance(10_000_000)));
    }
}
