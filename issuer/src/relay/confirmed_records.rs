//! Records that Kafka has confirmed recently.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{Mutex, PoisonError},
};

use couponry_domain::{IssuedCoupon, IssuedRecord, Uuid};

/// The number of records in each of two sets, the older of which is dropped when the younger is full: a few megabytes
/// at most.
const BUCKET_SIZE: usize = 100_000;

/// A bounded set of the latest confirmed records. The relay sends an evicted record once more, which is harmless.
#[derive(Default)]
pub(super) struct ConfirmedRecords {
    hasher: RandomState,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl ConfirmedRecords {
    pub(super) fn remember(&self, records: impl IntoIterator<Item = u64>) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.young.extend(records);
        if buckets.young.len() >= BUCKET_SIZE {
            buckets.old = mem::take(&mut buckets.young);
        }
    }

    pub(super) fn contains(&self, record: u64) -> bool {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.young.contains(&record) || buckets.old.contains(&record)
    }

    pub(super) fn fingerprint(&self, record: &IssuedRecord) -> u64 {
        self.issuance_fingerprint(record.event_uid, &record.issued)
    }

    /// Includes the time, because a cancelled coupon may be issued again.
    pub(super) fn issuance_fingerprint(&self, event: Uuid, issued: &IssuedCoupon) -> u64 {
        self.hasher.hash_one((event, issued.coupon.as_str(), issued.issued_at))
    }
}

#[cfg(test)]
mod tests {
    use couponry_domain::{Discount, DiscountType};

    use super::*;

    #[test]
    fn confirmed_records_evict_the_oldest_bucket() {
        let confirmed = ConfirmedRecords::default();
        let issued = IssuedCoupon {
            user_id: "u1".parse().unwrap(),
            coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 0,
        };
        let issuance =
            |issued_at| confirmed.issuance_fingerprint(Uuid::nil(), &IssuedCoupon { issued_at, ..issued.clone() });
        let first = issuance(1);
        assert!(!confirmed.contains(first));
        confirmed.remember([first]);
        assert!(confirmed.contains(first));
        assert!(!confirmed.contains(issuance(2)), "issued again");
        let many = |from: i64| (from..).take(BUCKET_SIZE - 1).map(issuance);
        confirmed.remember(many(10));
        assert!(confirmed.contains(first));
        confirmed.remember(many(10_000_000));
        confirmed.remember([0]);
        assert!(!confirmed.contains(first));
        assert!(confirmed.contains(issuance(10_000_000)));
    }
}
