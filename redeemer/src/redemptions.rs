//! Changes and lookups of coupons, also of those whose issuance is not recorded yet.

use couponry_domain::{
    EventName, IssuedRecord, UserId,
    code::CouponCode,
    redemption::{CouponUse, RedeemableCoupon},
};
use couponry_postgres::{
    CouponLookup, CouponSnapshot, Database, FoundEvent, RecordOutcome, Rejection, UseOutcome, UseRequest,
};
use couponry_redis::{IssuedEntry, IssuedStatus, Lookup, RedisStore};
use couponry_runtime::Problem;

use crate::{
    metrics::Metrics,
    problems::{
        change_failed, lookup_failed, not_recorded, not_recorded_yet, redis_failed, refused, request_id_reused,
        unknown_coupon, unknown_event,
    },
};

/// The stores of the coupons.
pub(crate) struct Redemptions {
    pub(crate) database: Database,
    pub(crate) redis_store: RedisStore,
    pub(crate) metrics: Metrics,
}

impl Redemptions {
    /// Changes the coupon as requested, and returns it with the entry of its history.
    pub(crate) async fn change(&self, request: &UseRequest) -> Result<(RedeemableCoupon, CouponUse), Problem> {
        let mut outcome = self.database.use_coupon(request).await.map_err(change_failed)?;
        if let UseOutcome::NotRecorded(event) = outcome {
            self.record_if_issued(&request.event, event, &request.user, &request.coupon).await?;
            outcome = self.database.use_coupon(request).await.map_err(change_failed)?;
        }
        match outcome {
            UseOutcome::Changed { coupon, entry } => Ok((coupon, entry)),
            UseOutcome::Refused(refusal) => Err(refused(&refusal)),
            UseOutcome::RequestIdReused => Err(request_id_reused()),
            UseOutcome::NotRecorded(_) => Err(unknown_coupon()),
            UseOutcome::UnknownEvent => Err(unknown_event(&request.event)),
        }
    }

    /// Looks up a coupon. One that is not recorded yet is found only if its user is known.
    pub(crate) async fn find(
        &self,
        event: &EventName,
        code: &CouponCode,
        user: Option<&UserId>,
    ) -> Result<CouponSnapshot, Problem> {
        let mut lookup = self.database.find_coupon(event, code).await.map_err(lookup_failed)?;
        if let (CouponLookup::NotRecorded(found), Some(user)) = (&lookup, user) {
            self.record_if_issued(event, *found, user, code).await?;
            lookup = self.database.find_coupon(event, code).await.map_err(lookup_failed)?;
        }
        match lookup {
            CouponLookup::Recorded(coupon) => Ok(coupon),
            CouponLookup::NotRecorded(_) if user.is_none() => Err(not_recorded()),
            CouponLookup::NotRecorded(_) => Err(unknown_coupon()),
            CouponLookup::UnknownEvent => Err(unknown_event(event)),
        }
    }

    /// Records the issuance of the coupon, which Postgres does not have, if Redis has issued the coupon to the user: as
    /// a consumer does, which may record it at the same time. Afterwards, Postgres has to be read again: if it does not
    /// have the issuance then, the coupon was not issued to the user.
    async fn record_if_issued(
        &self,
        event: &EventName,
        found: FoundEvent,
        user: &UserId,
        code: &CouponCode,
    ) -> Result<(), Problem> {
        let lookup = self.redis_store.lookup(event, user).await.map_err(redis_failed)?;
        let (issued, validity) = match lookup {
            // A verified Redis has the holder of every coupon that is not recorded. A retired event has none.
            Some(Lookup { uid, is_verified: true, entry, validity, .. }) if uid == found.uid => match entry {
                Some(IssuedEntry { issued, status: IssuedStatus::Pending | IssuedStatus::Completed })
                    if issued.coupon == *code =>
                {
                    (issued, validity)
                }
                _ => return Ok(()),
            },
            // A deletion waits until everything is recorded, as long as `--deletion-timeout-seconds` of the operator.
            _ if found.is_deleted => return Ok(()),
            _ => return Err(not_recorded_yet()),
        };
        let valid_until = validity.map(|validity| validity.valid_until(issued.issued_at));
        let record = IssuedRecord { event_id: event.clone(), event_uid: found.uid, issued, valid_until };
        match self.database.record_concurrently(record).await.map_err(lookup_failed)? {
            RecordOutcome::Recorded => {
                self.metrics.issuances_recorded.inc();
                Ok(())
            }
            RecordOutcome::AlreadyRecorded => Ok(()),
            // It is not known whether the operator records it, or a recovery replaces it.
            RecordOutcome::Deferred(_) | RecordOutcome::Rejected(Rejection::BeforeRecordCutoff) => {
                Err(not_recorded_yet())
            }
            // Postgres is authoritative, and the consumer cancels the coupon in Redis.
            RecordOutcome::Rejected(rejection) => {
                tracing::warn!(%event, reason = rejection.reason(), "Redis has a coupon that Postgres rejects");
                Ok(())
            }
        }
    }
}
