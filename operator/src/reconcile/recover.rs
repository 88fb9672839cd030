//! Verifies a Redis that may have lost data, or restores it ([ADR 0015](../../../docs/adr/0015-redis-data-loss.md)).
//!
//! # Expected flow
//! The drain is complete: everything that was in flight is recorded. Issuances that Redis holds but Postgres has not
//! recorded are sent to Kafka again, and drained. Then the record cutoff is set: Postgres rejects everything issued
//! before now. Both stores are thus stable. If they match, Redis is verified; otherwise it is restored from Postgres.
//! Then issuing resumes.
//!
//! # Guarantees
//! A recovery may be interrupted anywhere, and several operators may run one concurrently. Each starts with its own
//! recovery id in Redis and sets the record cutoff only if it is still the one observed, so a stale operator changes
//! nothing. Only the Redis that was observed at the start, by its replication id, is marked as verified.

use std::{collections::HashMap, time::Instant};

use couponry_domain::{Coupon, Gate, IssuedCoupon, UserId};
use couponry_postgres::{CouponStatus, DatabaseError, Issuance, StoredEvent};
use couponry_redis::{Fenced, IssuedEntry, MAX_RESTORED, Observed, Recovered, Recovery, Status};
use futures::TryStreamExt as _;

use crate::{
    blocker::Blocker,
    context::Context,
    reconcile::{
        desired_state::DesiredState,
        error::ReconcileError,
        gate::due_gate_settings,
        observe::ObservedState,
        progress::{Progress, REPORT_INTERVAL},
        status_writer::StatusWriter,
    },
};

/// How many issuances a recovery sends to Kafka again before it waits until they are recorded: they need memory in
/// Redis meanwhile, about 100 bytes each.
const MAX_RESENT: usize = 1_000_000;

/// Verifies or restores Redis, unless another operator is ahead; the next observation shows it.
pub(super) async fn recover(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(), ReconcileError> {
    let (Some(own), mut stored) = (observed.redis_event(desired), observed.stored()?.clone()) else { return Ok(()) };
    if !is_complete(own, observed.recorded, &stored) {
        let count = resend_unrecorded(own, desired, context).await?;
        if count > 0 {
            tracing::warn!(count, "sent issuances to Kafka again that Postgres has not recorded");
            context.drains.reset(own.uid);
            return Ok(());
        }
    }

    let Some((recovery, issued_at_min)) = begin(own, desired, &mut stored, context, false).await? else {
        return Ok(());
    };
    let recorded = context.database.recorded_count(own.uid).await?;
    let Some(current) = context.stock.observe(&desired.name).await? else { return Ok(()) };
    let recovered = if is_complete(&current, recorded, &stored) {
        Recovered { recovery, issued_at_min, total: current.loaded }
    } else {
        let Some((recovery, issued_at_min)) = begin(own, desired, &mut stored, context, true).await? else {
            return Ok(());
        };
        let Some(total) = restore(own, &recovery, &stored, desired, observed, context, writer).await? else {
            return Ok(());
        };
        Recovered { recovery, issued_at_min, total }
    };
    // The gate is set first: a verified event with a closed gate would return NOT_STARTED although it is open.
    if own.gate == Gate::Loading && stored.opened_at.is_some() {
        let settings = due_gate_settings(desired, &stored, own, recorded > 0);
        context.stock.set_gate(&desired.name, own.uid, &settings).await?;
    }
    let verified = context.stock.mark_verified(&desired.name, own, Some(&recovered)).await?;
    if verified == Fenced::Applied(()) {
        let Recovered { total, issued_at_min, .. } = recovered;
        tracing::info!(total, recorded, issued_at_min, replication_id = own.replication_id, "Redis verified");
    }
    Ok(())
}

/// Whether Redis holds all that is recorded with its holders, and everything else that was loaded in its queue. What
/// Redis marks as recorded was recorded, so equal counts mean equal sets.
///
/// A top-up may still be incomplete, but not while the gate is `Loading`: then a restore was interrupted, and users
/// would receive `NOT_STARTED` until the rest is loaded.
fn is_complete(redis: &Observed, recorded: u64, stored: &StoredEvent) -> bool {
    let accounted = i128::from(redis.available) + i128::from(redis.issued) + i128::from(redis.voided);
    redis.completed == redis.issued
        && redis.issued == recorded
        && accounted == i128::from(redis.loaded)
        && redis.loaded <= stored.generated()
        && (redis.gate != Gate::Loading || redis.loaded == stored.generated())
}

/// Sends issuances to Kafka again that Redis holds but Postgres has not recorded, or that Redis does not know to be
/// recorded, and returns how many. Memory is constant: the issuances are read, compared and sent in pages. The next
/// recovery continues after [`MAX_RESENT`].
async fn resend_unrecorded(own: &Observed, desired: &DesiredState, context: &Context) -> Result<usize, ReconcileError> {
    let mut count = 0;
    let mut cursor = Some(0);
    while let Some(at) = cursor.filter(|_| count < MAX_RESENT) {
        let (mut entries, next) = context.stock.issued_page(&desired.name, at).await?;
        entries.retain(|entry| entry.status != Status::Cancelled);
        let users: Vec<UserId> = entries.iter().map(|entry| entry.issued.user_id.clone()).collect();
        let recorded = context.database.find_issuances(own.uid, &users, &[]).await?;
        let recorded: HashMap<_, _> =
            recorded.into_iter().map(|Issuance { issued, .. }| (issued.user_id, issued.coupon)).collect();
        entries.retain(|IssuedEntry { issued, status }| {
            *status != Status::Completed || recorded.get(&issued.user_id) != Some(&issued.coupon)
        });
        context.stock.resend(&desired.name, own.uid, &entries).await?;
        count += entries.len();
        cursor = next;
    }
    Ok(count)
}

/// Begins a recovery in Redis and sets the record cutoff in Postgres, which is returned. None: there is nothing to
/// recover, or another operator is recovering the event, too.
async fn begin(
    own: &Observed,
    desired: &DesiredState,
    stored: &mut StoredEvent,
    context: &Context,
    clear: bool,
) -> Result<Option<(Recovery, i64)>, ReconcileError> {
    let Fenced::Applied(recovery) = context.stock.begin_recovery(&desired.name, own, clear).await? else {
        return Ok(None);
    };
    // The clock of another Redis may have been ahead.
    let cutoff = stored.record_cutoff.map_or(recovery.begun_at, |previous| recovery.begun_at.max(previous + 1));
    if !context.database.set_record_cutoff(stored, cutoff).await? {
        return Ok(None);
    }
    stored.record_cutoff = Some(cutoff);
    Ok(Some((recovery, cutoff)))
}

/// Fills Redis from Postgres: recorded coupons with their holders, the others into the queue in stock order. Returns
/// how many, or None if another operator is recovering the event, too.
async fn restore(
    own: &Observed,
    recovery: &Recovery,
    stored: &StoredEvent,
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<Option<u64>, ReconcileError> {
    let total = stored.generated();
    let mut coupons = context.database.stream_coupon_status(own.uid).try_chunks(MAX_RESTORED);
    let mut reported_at = Instant::now();
    let mut next = 0;
    while let Some(chunk) = coupons.try_next().await.map_err(|error| error.1)? {
        let first = next;
        let (mut available, mut issued) = (Vec::with_capacity(chunk.len()), Vec::new());
        for CouponStatus { ordinal, code: coupon, discount, holder } in chunk {
            if ordinal != next {
                return Err(ReconcileError::MissingCoupon(next));
            }
            next += 1;
            match holder {
                Some((user_id, issued_at)) => issued.push(IssuedEntry {
                    issued: IssuedCoupon { user_id, coupon, discount, issued_at },
                    status: Status::Completed,
                }),
                None => available.push(Coupon { ordinal, code: coupon.to_string(), discount }),
            }
        }
        let loaded = context.stock.restore(&desired.name, own, recovery, first..next, &available, &issued).await?;
        if loaded != Fenced::Applied(next) {
            return Ok(None);
        }
        if reported_at.elapsed() > REPORT_INTERVAL {
            reported_at = Instant::now();
            let progress = format!("{next} of {total} coupons are restored from Postgres");
            let progress = Progress::Blocked(Blocker::redis_unverified(&progress));
            writer.report_progress(desired, observed, progress).await;
        }
    }
    // Coupons that were added since the observation are loaded as a top-up, but none may be missing.
    if next < total {
        return Err(DatabaseError::Corrupt {
            operation: couponry_postgres::Operation::ReadCoupons,
            detail: format!("{next} of {total} coupons"),
        }
        .into());
    }
    tracing::warn!(count = next, "Redis restored from Postgres after data loss");
    Ok(Some(next))
}
