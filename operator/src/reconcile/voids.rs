//! Applies voids to the store that does not have them. Redis has fewer if the command `void` ended before it had
//! changed Redis, or Redis was not available, or has lost the change. Postgres has fewer if it was restored from an
//! older state.
//!
//! # Guarantees
//! - A void is inserted in Postgres first and never undone. So a void in either store proves that it was made.
//! - The voids themselves are compared, not only their numbers. Those of Postgres are looked up in Redis, which has
//!   them later. If Redis had more than were found, read before Postgres, then Postgres has lost some. A void that is
//!   applied meanwhile therefore never looks like a difference.
//! - A recovery that restores Redis restores the voids, too.
//!
//! # Caveats
//! - A void may not be applicable: in Redis, the user has another coupon, or in Postgres, the coupon was redeemed.
//!   `balance.rs` reports it. Each reconciliation tries again, except if the coupon was redeemed, which is final.
//! - The result is remembered while the numbers stay the same, for five minutes (`void_comparisons.rs`).

use std::{collections::HashSet, time::Instant};

use couponry_domain::{EventName, UserId, Uuid, code::CouponCode};
use couponry_postgres::{Database, VoidOutcome};
use couponry_redis::{
    FencedWrite, IssuedEntry, IssuedStatus, RedisEvent, RedisStore, RedisStoreError, Settlement, SettlementOutcome,
};
use couponry_runtime::error_chain;
use futures::TryStreamExt as _;

use crate::{
    context::Context,
    reconcile::{
        desired_state::DesiredState,
        error::ReconcileError,
        observe::ObservedState,
        void_comparisons::{Comparison, Numbers, VoidDifference},
    },
};

/// How many voids are read before they are applied.
const PAGE: usize = 1000;

/// The caller of a void that Postgres has lost, and its reason.
const ACTOR: &str = "couponry-operator";
const REASON: &str = "voided before Postgres was restored from an older state";

/// Applies the voids that a store does not have, and returns how many cannot be applied.
pub(super) async fn apply_missing(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
) -> VoidDifference {
    let uid = desired.uid;
    // Entries of users leave Redis with the retirement.
    let Some(in_redis) = observed.redis_event(desired).filter(|in_redis| in_redis.retired.is_none()) else {
        context.voids.forget(uid);
        return VoidDifference::default();
    };
    let known = context.voids.get(uid);
    let before = known.as_ref().map(Comparison::difference).unwrap_or_default();
    match compare(known, desired, in_redis, observed.uses.voided, context).await {
        Ok(Some(comparison)) => {
            let difference = comparison.difference();
            context.voids.insert(uid, comparison);
            difference
        }
        Ok(None) => {
            context.voids.forget(uid);
            VoidDifference::default()
        }
        Err(error) => {
            tracing::warn!(error = error_chain(error), "cannot compare the voids of the stores, retrying");
            before
        }
    }
}

/// None: neither store has voids.
async fn compare(
    known: Option<Comparison>,
    desired: &DesiredState,
    in_redis: &RedisEvent,
    in_postgres: u64,
    context: &Context,
) -> Result<Option<Comparison>, ReconcileError> {
    let Context { database, redis_store, .. } = context;
    let DesiredState { name, uid, .. } = desired;
    let RedisEvent { voided, is_verified, ref recovery_id, .. } = *in_redis;
    let numbers = Numbers { in_postgres, in_redis: voided, is_verified, recovery_id: recovery_id.clone() };
    if let Some(mut known) = known.filter(|known| known.is_current(&numbers)) {
        known.only_in_postgres = apply_where_missing(redis_store, name, *uid, known.only_in_postgres).await?;
        (known.not_recorded, _) = restore_in_postgres(database, *uid, known.not_recorded).await?;
        return Ok(Some(known));
    }
    if in_postgres == 0 && voided == 0 {
        return Ok(None);
    }
    let compared_at = Instant::now();
    let (mut in_both, mut only_in_postgres) = (0, Vec::new());
    let mut pages = database.stream_voided(*uid).try_chunks(PAGE);
    while let Some(page) = pages.try_next().await.map_err(|error| error.1)? {
        let count = page.len();
        let missing = apply_where_missing(redis_store, name, *uid, page).await?;
        in_both += to_u64(count - missing.len());
        only_in_postgres.extend(missing);
    }
    // `in_redis` was read before Postgres.
    let lost = if is_verified && voided > in_both {
        find_lost_by_postgres(database, redis_store, name, *uid).await?
    } else {
        Vec::new()
    };
    let (not_recorded, redeemed) = restore_in_postgres(database, *uid, lost).await?;
    Ok(Some(Comparison { numbers, compared_at, only_in_postgres, not_recorded, redeemed }))
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

/// The coupons that Redis has as voided, and Postgres has not.
async fn find_lost_by_postgres(
    database: &Database,
    redis_store: &RedisStore,
    event: &EventName,
    uid: Uuid,
) -> Result<Vec<CouponCode>, ReconcileError> {
    let mut codes = Vec::new();
    let visit = |entry| {
        if let Ok(IssuedEntry { issued, status: IssuedStatus::Voided }) = entry {
            codes.push(issued.coupon);
        }
    };
    redis_store.each_issued(event, visit).await?;
    let mut lost = Vec::new();
    for page in codes.chunks(PAGE) {
        let known: HashSet<_> = database.voided_among(uid, page).await?.into_iter().collect();
        lost.extend(page.iter().filter(|coupon| !known.contains(*coupon)).cloned());
    }
    Ok(lost)
}

/// Voids these coupons in Postgres. Returns those whose issuance is not recorded, and how many were redeemed.
async fn restore_in_postgres(
    database: &Database,
    uid: Uuid,
    coupons: Vec<CouponCode>,
) -> Result<(Vec<CouponCode>, u64), ReconcileError> {
    let (mut not_recorded, mut redeemed, mut restored) = (Vec::new(), 0, 0);
    for coupon in coupons {
        match database.void_coupon(uid, &coupon, ACTOR, REASON).await? {
            VoidOutcome::Voided => restored += 1,
            VoidOutcome::AlreadyVoided => {}
            VoidOutcome::NotRecorded => not_recorded.push(coupon),
            VoidOutcome::Refused(_) => redeemed += 1,
        }
    }
    if restored > 0 {
        tracing::warn!(restored, redeemed, "voided coupons again in Postgres, which had lost their voids");
    }
    Ok((not_recorded, redeemed))
}

/// Voids in Redis those of the coupons that it does not have as voided. Returns those that cannot be voided, because
/// the user has another entry, or none.
async fn apply_where_missing(
    redis_store: &RedisStore,
    event: &EventName,
    uid: Uuid,
    voided: Vec<(UserId, CouponCode)>,
) -> Result<Vec<(UserId, CouponCode)>, RedisStoreError> {
    let mut rest = Vec::new();
    for page in voided.chunks(PAGE) {
        let missing = not_voided(redis_store, event, uid, page).await?;
        if missing.is_empty() {
            continue;
        }
        if let FencedWrite::Applied(applied @ 1..) = apply(redis_store, event, uid, missing.clone()).await? {
            tracing::info!(applied, "voids applied to Redis");
        }
        rest.extend(not_voided(redis_store, event, uid, &missing).await?);
    }
    Ok(rest)
}

/// Those of the coupons that Redis does not have as voided.
async fn not_voided(
    redis_store: &RedisStore,
    event: &EventName,
    uid: Uuid,
    voided: &[(UserId, CouponCode)],
) -> Result<Vec<(UserId, CouponCode)>, RedisStoreError> {
    let users: Vec<UserId> = voided.iter().map(|(user, _)| user.clone()).collect();
    let lookups = redis_store.lookup_batch(event, &users).await?;
    // Redis has lost the event.
    let Some(lookups) = lookups else { return Ok(voided.to_vec()) };
    let missing = voided.iter().zip(lookups).filter(|((_, coupon), lookup)| {
        let entry = lookup.as_ref().ok().filter(|lookup| lookup.uid == uid).and_then(|lookup| lookup.entry.as_ref());
        entry.is_none_or(|entry| entry.status != IssuedStatus::Voided || entry.issued.coupon != *coupon)
    });
    Ok(missing.map(|(voided, _)| voided.clone()).collect())
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

fn to_u64(count: usize) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}
