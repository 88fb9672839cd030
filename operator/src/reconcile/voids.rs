//! Applies voids to the store that does not have them. Redis has fewer if the command `void` ended before it had
//! changed Redis, or Redis was not available, or has lost the change. Postgres has fewer if it was restored from an
//! older state.
//!
//! # Guarantees
//! A void is inserted in Postgres first and never undone. So a void in either store proves that the coupon was voided,
//! and a reconciliation that finds different numbers applies all of them again, which is idempotent. A recovery that
//! restores Redis restores them, too.

use std::collections::HashSet;

use couponry_domain::{EventName, UserId, Uuid, code::CouponCode};
use couponry_postgres::{Database, VoidOutcome};
use couponry_redis::{
    FencedWrite, IssuedEntry, IssuedStatus, RedisStore, RedisStoreError, Settlement, SettlementOutcome,
};
use futures::TryStreamExt as _;

use crate::{
    context::Context,
    reconcile::{desired_state::DesiredState, error::ReconcileError, observe::ObservedState},
};

/// How many voids are read before they are applied.
const PAGE: usize = 1000;

/// The caller of a void that Postgres has lost, and its reason.
const ACTOR: &str = "couponry-operator";
const REASON: &str = "voided before Postgres was restored from an older state";

/// Applies all voids of the event if a store has fewer than the other one.
pub(super) async fn apply_missing(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
) -> Result<(), ReconcileError> {
    let Some(in_redis) = observed.redis_event(desired) else { return Ok(()) };
    if in_redis.retired.is_some() || in_redis.voided == observed.uses.voided {
        return Ok(());
    }
    if in_redis.is_verified && in_redis.voided > observed.uses.voided {
        restore_in_postgres(&context.database, &context.redis_store, &desired.name, desired.uid).await?;
    }
    let missing = observed.uses.voided.saturating_sub(in_redis.voided);
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

async fn restore_in_postgres(
    database: &Database,
    redis_store: &RedisStore,
    event: &EventName,
    uid: Uuid,
) -> Result<(), ReconcileError> {
    let mut codes = Vec::new();
    let visit = |entry| {
        if let Ok(IssuedEntry { issued, status: IssuedStatus::Voided }) = entry {
            codes.push(issued.coupon);
        }
    };
    redis_store.each_issued(event, visit).await?;
    for page in codes.chunks(PAGE) {
        let known: HashSet<_> = database.voided_among(uid, page).await?.into_iter().collect();
        for coupon in page.iter().filter(|coupon| !known.contains(*coupon)) {
            match database.void_coupon(uid, coupon, ACTOR, REASON).await? {
                VoidOutcome::Voided => tracing::warn!(%coupon, "voided a coupon again, Postgres had lost the void"),
                VoidOutcome::AlreadyVoided => {}
                // Its issuance is recorded again first.
                VoidOutcome::NotRecorded => tracing::debug!(%coupon, "the issuance of a voided coupon is not recorded"),
                VoidOutcome::Refused(refusal) => {
                    let error = refusal.to_string();
                    tracing::error!(%coupon, error, "a coupon that is voided in Redis cannot be voided in Postgres");
                }
            }
        }
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
