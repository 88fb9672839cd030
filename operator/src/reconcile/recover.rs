//! Verifies a Redis that may have lost data, or restores it ([ADR 0015](../../../docs/adr/0015-redis-data-loss.md)).
//!
//! # Expected flow
//! The drain is complete: all messages up to the noted end of the topic are consumed. Issuances in Redis that are still
//! unrecorded (never sent, or lost by Kafka) are added to the outbox again, from which the issuers send them, and the
//! drain waits for them, too: one *resend round*. What Postgres still does not have afterwards, and what Redis marks as
//! `COMPLETED` although Postgres does not have it, is recorded directly. Then the record cutoff is set: Postgres
//! rejects everything issued before now. Both stores are thus stable. If they have the same coupons with the same
//! holders, Redis is verified; otherwise it is restored from Postgres. The gate is set by the manifest and by Postgres
//! in the step that marks Redis as verified, because Redis may have come back from before a pause or another change.
//! Then issuing resumes.
//!
//! A recovery can also be requested ([`couponry_redis::RedisStore::request_restore`]). Then what only the topic has is
//! recorded as well, and Redis is restored in any case.
//!
//! # Guarantees
//! A recovery may be interrupted anywhere, and several operators may run one concurrently. Each starts with its own
//! recovery id in Redis and sets the record cutoff with compare-and-set, so a stale operator changes nothing. Only the
//! Redis that was observed at the start, by its replication id, is marked as verified.
//!
//! A drain has at most issued / [`MAX_RESENT`] resend rounds (rounded up); a restart of the operator begins a new
//! drain. Holders whose issuance cannot be recorded, or whose value in `couponIssued` cannot be decoded, do not delay
//! the others: the recovery then uses what Postgres has.

use std::time::Instant;

use couponry_domain::{Coupon, Gate, IssuedCoupon};
use couponry_postgres::{CouponWithHolder, DatabaseError, StoredEvent};
use couponry_redis::{FencedWrite, IssuedEntry, IssuedStatus, MAX_RESTORED, Recovered, Recovery, RedisEvent};
use futures::TryStreamExt as _;

use crate::{
    blocker::Blocker,
    context::Context,
    kube_events::STRANDED_RECORDED,
    reconcile::{
        desired_state::DesiredState,
        error::ReconcileError,
        gate::recovered_gate_settings,
        manifest_change::is_changed,
        observe::ObservedState,
        progress::{Progress, REPORT_INTERVAL},
        set_comparison::has_same_coupons,
        status_writer::StatusWriter,
        stranded_issuances::{Delivery, MAX_RESENT, StrandedOutcome, record_stranded_issuances},
        topic_records::record_issuances_from_topic,
    },
};

/// Verifies or restores Redis, unless another operator has already begun a newer recovery; the next observation shows
/// it.
pub(super) async fn recover(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(), ReconcileError> {
    let (Some(in_redis), mut stored) = (observed.redis_event(desired), observed.stored()?.clone()) else {
        return Ok(());
    };
    let is_requested = in_redis.is_restore_requested;
    let is_difference_known = is_requested || !has_equal_counts(in_redis, observed.recorded, &stored);
    let mut conflicting = 0;
    // Then the stranded issuances are recorded before the recovery begins.
    if is_difference_known {
        let max_rounds = in_redis.issued.div_ceil(MAX_RESENT);
        let delivery =
            if context.drains.resend_rounds(in_redis.uid) < max_rounds { Delivery::Kafka } else { Delivery::Direct };
        let recording = record_stranded_issuances(&stored, &context.database, &context.redis_store, delivery).await?;
        let Some(outcome) = recording else { return Ok(()) };
        report_stranded(outcome, context, writer).await;
        if outcome.resent > 0 {
            context.drains.count_resend(in_redis.uid);
            return Ok(());
        }
        conflicting = outcome.conflicting + outcome.undecodable;
    }
    if is_requested {
        let Some(outcome) = record_issuances_from_topic(&stored, &context.database, &context.kafka).await? else {
            return Ok(());
        };
        report_stranded(outcome, context, writer).await;
    }

    let Some((recovery, issued_at_min)) = begin(in_redis, desired, &mut stored, context, false).await? else {
        return Ok(());
    };
    let recorded = context.database.recorded_count(in_redis.uid).await?;
    let Some(current) = context.redis_store.observe(&desired.name).await? else { return Ok(()) };
    let mut is_complete = !is_requested && conflicting == 0 && has_equal_counts(&current, recorded, &stored);
    if is_complete {
        let progress = format!("{} coupons are compared with Postgres", current.loaded);
        let progress = Progress::Blocked(Blocker::redis_unverified(&progress));
        writer.report_progress(desired, observed, progress).await;
        let Context { redis_store, database, .. } = context;
        is_complete = has_same_coupons(&desired.name, in_redis.uid, current.loaded, redis_store, database).await?;
    }
    let (recovery, issued_at_min, total) = if is_complete {
        (recovery, issued_at_min, current.loaded)
    } else {
        if !is_difference_known {
            // Only the comparison has found the difference. Issuances that only Redis has were returned to users, too.
            let recording =
                record_stranded_issuances(&stored, &context.database, &context.redis_store, Delivery::Direct).await?;
            let Some(outcome) = recording else { return Ok(()) };
            report_stranded(outcome, context, writer).await;
        }
        let Some((recovery, issued_at_min)) = begin(in_redis, desired, &mut stored, context, true).await? else {
            return Ok(());
        };
        let Some(total) = restore(in_redis, &recovery, &stored, desired, observed, context, writer).await? else {
            return Ok(());
        };
        (recovery, issued_at_min, total)
    };
    // An issuance that was recorded meanwhile makes the opening final, which is stored before the gate opens.
    if !stored.is_opening_final && context.database.recorded_count(in_redis.uid).await? > 0 {
        return Ok(());
    }
    let mut settings = recovered_gate_settings(desired, &stored);
    // A comparison or a restore may take minutes. The reconciliation that follows sets the gate by the new manifest.
    if settings.gate == Gate::Open && is_changed(desired, context, writer).await {
        settings.gate = Gate::Paused;
    }
    let recovered = Recovered { recovery, issued_at_min, total, settings };
    let verified = context.redis_store.mark_verified(&desired.name, in_redis, Some(&recovered)).await?;
    if verified == FencedWrite::Applied(()) {
        tracing::info!(total, recorded, issued_at_min, replication_id = in_redis.replication_id, "Redis verified");
        if recovered.settings.gate == Gate::Open {
            couponry_failpoint::crash("operator.after-opening");
        }
    }
    Ok(())
}

/// Records stranded issuances of a verified Redis.
pub(super) async fn record_and_report_stranded(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &StatusWriter<'_>,
) -> Result<(), ReconcileError> {
    let delivery = if context.recording.note_attempt(desired.uid) == 0 { Delivery::Kafka } else { Delivery::Direct };
    if let Some(outcome) =
        record_stranded_issuances(observed.stored()?, &context.database, &context.redis_store, delivery).await?
    {
        report_stranded(outcome, context, writer).await;
    }
    Ok(())
}

async fn report_stranded(outcome: StrandedOutcome, context: &Context, writer: &StatusWriter<'_>) {
    if outcome == StrandedOutcome::default() {
        return;
    }
    outcome.add_to(&context.metrics);
    let StrandedOutcome { resent, recorded, conflicting, undecodable } = outcome;
    tracing::warn!(resent, recorded, conflicting, undecodable, "issuances were missing in Postgres");
    let advice = if conflicting + undecodable > 0 { " Compare the stores with `kubectl couponry audit`." } else { "" };
    let note = format!("Issuances were missing in Postgres: {}.{advice}", outcome.describe());
    writer.publish_warning(STRANDED_RECORDED, note).await;
}

/// Whether Redis has as many holders as Postgres, all of them marked `COMPLETED`, and every other loaded coupon is in
/// its queue or withheld. Necessary, not sufficient: each store may have lost as many issuances as the other one, and
/// different ones.
///
/// A top-up may still be incomplete, but not while the gate is `Loading`: then a restore was interrupted, and users
/// would receive `NOT_STARTED` until the rest is loaded.
fn has_equal_counts(redis: &RedisEvent, recorded: u64, stored: &StoredEvent) -> bool {
    let accounted = i128::from(redis.available) + i128::from(redis.issued) + i128::from(redis.withheld);
    redis.marked_recorded == redis.issued
        && redis.issued == recorded
        && accounted == i128::from(redis.loaded)
        && redis.loaded <= stored.generated()
        && (redis.gate != Gate::Loading || redis.loaded == stored.generated())
}

/// Begins a recovery in Redis and sets the record cutoff in Postgres, which is returned. None: the recovery cannot
/// begin, or another operator is recovering the event concurrently. It is called first without `clear`, and again with
/// `clear` if Redis must be restored: this also removes the coupons from Redis. Issuances may have been recorded
/// between the two calls.
async fn begin(
    in_redis: &RedisEvent,
    desired: &DesiredState,
    stored: &mut StoredEvent,
    context: &Context,
    clear: bool,
) -> Result<Option<(Recovery, i64)>, ReconcileError> {
    let FencedWrite::Applied(recovery) = context.redis_store.begin_recovery(&desired.name, in_redis, clear).await?
    else {
        return Ok(None);
    };
    // The clock of another Redis, or an earlier clock of this one, may have been ahead.
    let latest = context.database.latest_issued_at(in_redis.uid).await?;
    let cutoff =
        [stored.record_cutoff, latest].into_iter().flatten().map(|at| at + 1).fold(recovery.begun_at, i64::max);
    if !context.database.set_record_cutoff(stored, cutoff).await? {
        return Ok(None);
    }
    stored.record_cutoff = Some(cutoff);
    Ok(Some((recovery, cutoff)))
}

/// Fills Redis from Postgres: recorded coupons with their holders, the others into the queue in stock order. Returns
/// how many, or None if another operator is recovering the event concurrently.
async fn restore(
    in_redis: &RedisEvent,
    recovery: &Recovery,
    stored: &StoredEvent,
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<Option<u64>, ReconcileError> {
    let total = stored.generated();
    let mut coupons = context.database.stream_coupons_with_holders(in_redis.uid).try_chunks(MAX_RESTORED);
    let mut reported_at = Instant::now();
    let mut next = 0;
    while let Some(chunk) = coupons.try_next().await.map_err(|error| error.1)? {
        let first = next;
        let (mut available, mut issued) = (Vec::with_capacity(chunk.len()), Vec::new());
        for CouponWithHolder { ordinal, code: coupon, discount, holder, valid_until: _, is_voided } in chunk {
            if ordinal != next {
                return Err(ReconcileError::MissingCoupon(next));
            }
            next += 1;
            match holder {
                Some((user_id, issued_at)) => issued.push(IssuedEntry {
                    issued: IssuedCoupon { user_id, coupon, discount, issued_at },
                    status: if is_voided { IssuedStatus::Voided } else { IssuedStatus::Completed },
                }),
                None => available.push(Coupon { ordinal, code: coupon, discount }),
            }
        }
        let loaded =
            context.redis_store.restore(&desired.name, in_redis, recovery, first..next, &available, &issued).await?;
        if loaded != FencedWrite::Applied(next) {
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
