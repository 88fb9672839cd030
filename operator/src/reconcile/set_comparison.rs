//! Compares the coupons in Redis with those that a restore from Postgres would load.
//!
//! Each store is read once, as a stream, and its set of coupons with their holders is reduced to a fingerprint, so the
//! memory does not depend on the number of coupons.
//!
//! # Assumptions
//! The stores do not change meanwhile: Redis is unverified, and the record cutoff is set.

use std::hash::{BuildHasher as _, Hash, RandomState};

use couponry_domain::{Discount, EventName, UserId, Uuid, code::CouponCode};
use couponry_postgres::{CouponWithHolder, Database};
use couponry_redis::{IssuedEntry, IssuedStatus, RedisStore, RedisStoreError};
use futures::TryStreamExt as _;
use tokio::task::JoinSet;

use crate::reconcile::error::ReconcileError;

/// A fingerprint of a set that does not depend on the order of its elements: the sum of their hashes. The hashes have a
/// random key and 128 bits, so different sets have the same fingerprint with a probability of about 2^-128.
#[derive(Clone, Default)]
struct SetFingerprint {
    /// Each computes 64 bits.
    hashers: [RandomState; 2],
    sum: u128,
}

impl SetFingerprint {
    fn add(&mut self, element: &impl Hash) {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(element)));
        // Not the exclusive or, in which an element that occurs twice would vanish.
        self.sum = self.sum.wrapping_add(high << 64 | low);
    }

    /// `holder`: the user, and whether the coupon is voided.
    fn add_coupon(&mut self, coupon: &CouponCode, discount: Discount, holder: Option<(&UserId, bool)>) {
        self.add(&(coupon, discount, holder));
    }
}

/// Whether the first `loaded` coupons of the stock, and no others, are in Redis, each available, or with its holder in
/// Postgres and voided as there. Withheld coupons and values that cannot be decoded are differences.
pub(super) async fn has_same_coupons(
    event: &EventName,
    uid: Uuid,
    loaded: u64,
    redis_store: &RedisStore,
    database: &Database,
) -> Result<bool, ReconcileError> {
    let empty = SetFingerprint::default();
    // A task of its own: in one task, rows that are always ready would let the requests to Redis time out.
    let reading = JoinSet::from_iter([read_redis(event.clone(), redis_store.clone(), empty.clone())]);
    let in_postgres = read_postgres(uid, loaded, database, empty).await?;
    let in_redis = reading.join_all().await.pop().transpose()?;
    Ok(in_redis == Some(in_postgres))
}

async fn read_redis(
    event: EventName,
    redis_store: RedisStore,
    mut set: SetFingerprint,
) -> Result<u128, RedisStoreError> {
    redis_store
        .each_issued(&event, |entry| match entry {
            Ok(IssuedEntry { status: IssuedStatus::Cancelled, .. }) => {}
            Ok(IssuedEntry { issued, status }) => {
                let holder = (&issued.user_id, status == IssuedStatus::Voided);
                set.add_coupon(&issued.coupon, issued.discount, Some(holder));
            }
            Err(undecodable) => set.add(&undecodable),
        })
        .await?;
    redis_store
        .each_available(&event, |item| match item {
            Ok((coupon, discount)) => set.add_coupon(&coupon, discount, None),
            Err(undecodable) => set.add(&undecodable),
        })
        .await?;
    Ok(set.sum)
}

async fn read_postgres(
    uid: Uuid,
    loaded: u64,
    database: &Database,
    mut set: SetFingerprint,
) -> Result<u128, ReconcileError> {
    let mut coupons = database.stream_coupons_with_holders(uid);
    while let Some(CouponWithHolder { ordinal, code, discount, holder, is_voided, .. }) = coupons.try_next().await? {
        // A coupon that is recorded was loaded: if Redis has not loaded it, it has lost the coupon.
        if ordinal < loaded || holder.is_some() {
            set.add_coupon(&code, discount, holder.as_ref().map(|(user, _)| (user, is_voided)));
        }
    }
    Ok(set.sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_depends_on_elements_and_not_on_order() {
        let empty = SetFingerprint::default();
        let sum = |elements: &[(&str, Option<&str>)]| {
            let mut set = empty.clone();
            for element in elements {
                set.add(element);
            }
            set.sum
        };
        let set = sum(&[("A", Some("u1")), ("B", Some("u2")), ("C", None)]);
        assert_eq!(set, sum(&[("C", None), ("B", Some("u2")), ("A", Some("u1"))]));
        for other in [
            [("A", Some("u2")), ("B", Some("u1")), ("C", None)],
            [("A", Some("u1")), ("B", None), ("C", Some("u2"))],
            [("A", Some("u1")), ("B", Some("u2")), ("B", None)],
        ] {
            assert_ne!(set, sum(&other), "{other:?}");
        }
        assert_ne!(sum(&[("A", None), ("A", None)]), sum(&[]));
    }
}
