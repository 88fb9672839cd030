//! The current state of some suspects in Redis and Postgres.

use std::collections::HashMap;

use couponry_domain::{EventName, IssuedCoupon, UserId, Uuid, code::CouponCode};
use couponry_redis::{IssuedEntry, IssuedStatus};

use crate::{discrepancy::Discrepancy, error::AuditError, stores::Stores};

/// The result of checking a suspect again.
pub(crate) enum Check {
    Ok,
    /// In flight; a discrepancy if there is no backlog.
    InFlight(Discrepancy),
    Discrepancy(Discrepancy),
}

/// The current entries and issuances of some users and coupons.
pub(crate) struct CurrentState {
    by_user: HashMap<UserId, IssuedCoupon>,
    by_coupon: HashMap<CouponCode, IssuedCoupon>,
    /// Empty if Redis does not have the event.
    entries: HashMap<UserId, IssuedEntry>,
}

impl CurrentState {
    /// Reads Redis first: entries that are COMPLETED must be recorded in Postgres, which is read later.
    pub(crate) async fn read(
        stores: &Stores,
        name: &EventName,
        uid: Uuid,
        is_in_redis: bool,
        suspects: impl Iterator<Item = &IssuedCoupon> + Clone,
    ) -> Result<Self, AuditError> {
        let users: Vec<UserId> = suspects.clone().map(|issued| issued.user_id.clone()).collect();
        let codes: Vec<CouponCode> = suspects.map(|issued| issued.coupon.clone()).collect();
        let entries = if is_in_redis { stores.redis_store.issued_to(name, &users).await? } else { Vec::new() };
        let entries =
            entries.into_iter().flatten().flatten().map(|entry| (entry.issued.user_id.clone(), entry)).collect();
        let issuances = stores.database.find_issuances(uid, &users, &codes).await?;
        let recorded: Vec<IssuedCoupon> = issuances.into_iter().map(|issuance| issuance.issued).collect();
        Ok(Self {
            by_user: recorded.iter().map(|issued| (issued.user_id.clone(), issued.clone())).collect(),
            by_coupon: recorded.into_iter().map(|issued| (issued.coupon.clone(), issued)).collect(),
            entries,
        })
    }

    /// Checks a coupon that was issued in Redis, but not recorded.
    pub(crate) fn check_unrecorded(&self, issued: &IssuedCoupon) -> Check {
        // None: the event was removed from Redis meanwhile.
        let Some(IssuedEntry { issued: redis, status }) = self.entries.get(&issued.user_id) else { return Check::Ok };
        let (redis, status) = (redis.clone(), *status);
        let in_flight_if_pending = |discrepancy| match status {
            IssuedStatus::Pending => Check::InFlight(discrepancy),
            IssuedStatus::Completed | IssuedStatus::Voided | IssuedStatus::Cancelled => Check::Discrepancy(discrepancy),
        };
        if status == IssuedStatus::Cancelled {
            return Check::Ok;
        }
        if let Some(postgres) = self.by_user.get(&redis.user_id).cloned() {
            return if postgres == redis {
                Check::Ok
            } else if postgres.coupon == redis.coupon {
                Check::Discrepancy(Discrepancy::DetailsDiffer { redis, postgres })
            } else {
                let (user, redis, postgres) = (redis.user_id, redis.coupon, postgres.coupon);
                in_flight_if_pending(Discrepancy::TwoCoupons { user, redis, postgres })
            };
        }
        in_flight_if_pending(match self.by_coupon.get(&redis.coupon) {
            Some(other) => {
                let (coupon, redis, postgres) = (redis.coupon, redis.user_id, other.user_id.clone());
                Discrepancy::TwoHolders { coupon, redis, postgres }
            }
            None => Discrepancy::NotRecorded { issued: redis, status },
        })
    }

    /// Checks an issuance that was recorded, but PENDING in Redis.
    pub(crate) fn check_pending(&self, issued: &IssuedCoupon) -> Check {
        match self.entries.get(&issued.user_id) {
            Some(entry) if entry.status == IssuedStatus::Pending => {
                Check::InFlight(Discrepancy::StillPending(issued.clone()))
            }
            _ => Check::Ok,
        }
    }

    /// Checks a record that was in Kafka, but not recorded.
    pub(crate) fn check_only_in_kafka(&self, issued: &IssuedCoupon, dead_letters: &[IssuedCoupon]) -> Check {
        if self.by_user.get(&issued.user_id) == Some(issued) || dead_letters.contains(issued) {
            return Check::Ok;
        }
        let postgres = self.by_coupon.get(&issued.coupon).or_else(|| self.by_user.get(&issued.user_id)).cloned();
        let entry = self.entries.get(&issued.user_id).filter(|entry| entry.status != IssuedStatus::Cancelled);
        let is_in_redis = entry.is_some_and(|entry| entry.issued == *issued);
        Check::InFlight(Discrepancy::OnlyInKafka { issued: issued.clone(), postgres, is_in_redis })
    }
}
