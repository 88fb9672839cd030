//! Applies voids to Redis that Postgres has and Redis has not: the command `void` ended before it had changed Redis, or
//! Redis was not available, or has lost the change.
//!
//! # Guarantees
//! Postgres decides whether a coupon is voided, and a void is never undone. So a reconciliation that finds fewer voided
//! coupons in Redis than in Postgres applies all of them again, which is idempotent. A recovery that restores Redis
//! restores them, too.

use couponry_domain::{EventName, UserId, Uuid, code::CouponCode};
use couponry_postgres::Database;
use couponry_redis::{FencedWrite, RedisStore, RedisStoreError, Settlement, SettlementOutcome};
use futures::TryStreamExt as _;

use crate::{
    context::Context,
    reconcile::{desired_state::DesiredState, error::ReconcileError, observe::ObservedState},
};

/// How many voids are read before they are applied.
const PAGE: usize = 1000;

/// Applies all voids of the event if some are missing in Redis.
pub(super) async fn apply_missing(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
) -> Result<(), ReconcileError> {
    let Some(in_redis) = observed.redis_event(desired) else { return Ok(()) };
    let missing = observed.uses.voided.saturating_sub(in_redis.voided);
    if in_redis.retired.is_some() || missing == 0 {
        return Ok(());
    }
    let applied = apply_all(&context.database, &context.redis_store, &desired.name, desired.uid).await?;
    tracing::info!(applied, missing, "voids applied to Redis");
    Ok(())
}

/// Stores the key of the pseudonyms of erased users in Redis if it has lost it. Before the plan, which verifies Redis:
/// without the key, erased users would receive another coupon.
pub(super) async fn set_pseudonym_key(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
) -> Result<(), ReconcileError> {
    let (Some(in_redis), Some(stored)) = (observed.redis_event(desired), &observed.stored) else { return Ok(()) };
    if let Some(key) = stored.pseudonym_key().filter(|_| !in_redis.has_pseudonym_key) {
        context.redis_store.set_pseudonym_key(&desired.name, desired.uid, &key).await?;
    }
    Ok(())
}

async fn apply_all(
    database: &Database,
    redis_store: &RedisStore,
    event: &EventName,
    uid: Uuid,
) -> Result<u64, ReconcileError> {
    let mut voided = database.stream_voided(uid).try_chunks(PAGE);
    let mut applied = 0;
    while let Some(page) = voided.try_next().await.map_err(|error| error.1)? {
        match apply(redis_store, event, uid, page).await? {
            FencedWrite::Applied(count) => applied += count,
            FencedWrite::Stale => break,
        }
    }
    Ok(applied)
}

/// Marks these coupons as voided in Redis, and returns how many were not before. A coupon whose user has another entry
/// in Redis is not changed.
pub(crate) async fn apply(
    redis_store: &RedisStore,
    event: &EventName,
    uid: Uuid,
    voided: Vec<(UserId, CouponCode)>,
) -> Result<FencedWrite<u64>, RedisStoreError> {
    let settlement = |(user, coupon)| Settlement { user, coupon, outcome: SettlementOutcome::Voided };
    let settlements: Vec<_> = voided.into_iter().map(settlement).collect();
    Ok(match redis_store.settle(event, uid, &settlements).await? {
        FencedWrite::Applied(counts) => FencedWrite::Applied(counts.voided),
        FencedWrite::Stale => FencedWrite::Stale,
    })
}
