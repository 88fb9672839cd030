//! Completes erasures of users in Redis that the command `erase-user` could not complete
//! ([ADR 0030](../../docs/adr/0030-voids-and-erasures.md)).
//!
//! # Guarantees
//! - Postgres does not have the erased users any more, so the users of all entries in Redis are compared by their
//!   pseudonyms.
//! - An erasure is finished only if its entry was replaced, or a complete scan of a verified master has not found the
//!   user. The Redis of a deleted event is not verified any more: it is scanned as it is. Anything else stays pending:
//!   it is counted by a metric, and tried again.
//! - A failure affects its event or its user only.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use couponry_domain::{Gate, IssuedCoupon, PseudonymKey, UserId, Uuid};
use couponry_postgres::{DatabaseError, PendingErasure, StoredEvent};
use couponry_redis::{
    ErasedUser, FencedWrite, IssuedEntry, RedisEvent, Settlement, SettlementOutcome, UndecodableValue,
};
use couponry_runtime::error_chain;

use crate::{context::Context, reconcile::error::ReconcileError};

const INTERVAL: Duration = Duration::from_secs(15);

type Pseudonyms = BTreeSet<UserId>;

/// Runs until the future is dropped.
pub(crate) async fn run(context: &Context) {
    loop {
        if let Err(error) = complete_all(context).await {
            tracing::debug!(error = error_chain(&error), "cannot read the pending erasures");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn complete_all(context: &Context) -> Result<(), DatabaseError> {
    let mut events: BTreeMap<(Uuid, bool), Pseudonyms> = BTreeMap::new();
    for PendingErasure { uid, is_deleted, pseudonym } in context.database.pending_erasures().await? {
        events.entry((uid, is_deleted)).or_default().insert(pseudonym);
    }
    let mut pending = 0;
    for ((uid, is_deleted), pseudonyms) in events {
        match complete(context, uid, is_deleted, &pseudonyms).await {
            Ok(finished) => pending += pseudonyms.len() - finished,
            Err(error) => {
                pending += pseudonyms.len();
                tracing::warn!(%uid, error = error_chain(&error), "cannot complete erasures, retrying");
            }
        }
    }
    context.metrics.pending_erasures.set(i64::try_from(pending).unwrap_or(i64::MAX));
    Ok(())
}

/// Erases these users of one event. Returns how many erasures are finished.
async fn complete(
    context: &Context,
    uid: Uuid,
    is_deleted: bool,
    pseudonyms: &Pseudonyms,
) -> Result<usize, ReconcileError> {
    let Context { database, redis_store, .. } = context;
    // Its pending erasures are deleted with it.
    let Some(event) = database.event(uid).await? else { return Ok(pseudonyms.len()) };
    let finished = match redis_store.observe(&event.name).await?.filter(|in_redis| in_redis.uid == uid) {
        None if is_deleted || event.opens_at.is_none() => pseudonyms.clone(),
        // An old state may come back, until the operator has restored the event from Postgres.
        None => {
            tracing::info!(%uid, users = pseudonyms.len(), "erasures wait until the event is restored in Redis");
            return Ok(0);
        }
        // The state of an unverified Redis proves nothing: it may be an old one, or be replaced.
        Some(in_redis) if !is_deleted && (!in_redis.is_verified || in_redis.gate == Gate::Loading) => {
            tracing::info!(%uid, users = pseudonyms.len(), "erasures wait until Redis is verified");
            return Ok(0);
        }
        Some(in_redis) if in_redis.retired.is_some() => pseudonyms.clone(),
        Some(in_redis) => replace(context, &event, is_deleted, &in_redis, pseudonyms).await?,
    };
    for pseudonym in &finished {
        database.finish_erasure(uid, pseudonym).await?;
    }
    if !finished.is_empty() {
        tracing::info!(%uid, users = finished.len(), "erasures completed in Redis");
    }
    Ok(finished.len())
}

/// Replaces the users in Redis by their pseudonyms. Returns the pseudonyms of those that Redis does not name any more.
async fn replace(
    context: &Context,
    event: &StoredEvent,
    is_deleted: bool,
    in_redis: &RedisEvent,
    pseudonyms: &Pseudonyms,
) -> Result<Pseudonyms, ReconcileError> {
    let redis_store = &context.redis_store;
    let key = PseudonymKey::of(&event.seed);
    let (mut found, mut unfinished) = (Vec::new(), Pseudonyms::new());
    let visit = |entry: Result<IssuedEntry, UndecodableValue>| match entry {
        Ok(IssuedEntry { issued, .. }) => {
            if pseudonyms.contains(&key.pseudonym(&issued.user_id)) {
                found.push(issued);
            }
        }
        Err(UndecodableValue { user, .. }) => {
            let user = user.and_then(|user| user.parse::<UserId>().ok());
            unfinished.extend(user.map(|user| key.pseudonym(&user)).filter(|user| pseudonyms.contains(user)));
        }
    };
    redis_store.each_issued(&event.name, visit).await?;
    if !unfinished.is_empty() {
        let users = unfinished.len();
        tracing::warn!(uid = %event.uid, users, "entries of erased users cannot be decoded: compare the stores with `audit`");
    }
    for issued in found {
        let pseudonym = key.pseudonym(&issued.user_id);
        match erase(context, event, &issued, &key).await {
            Ok(FencedWrite::Applied(ErasedUser::Replaced)) => {}
            Ok(result) => {
                tracing::warn!(uid = %event.uid, ?result, "cannot replace an erased user in Redis, retrying");
                unfinished.insert(pseudonym);
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(uid = %event.uid, error, "cannot replace an erased user in Redis, retrying");
                unfinished.insert(pseudonym);
            }
        }
    }
    // Only a scan of one verified master proves that a user is absent. Before, it may have been another one.
    if !is_same_master(context, event, is_deleted, in_redis, pseudonyms).await? {
        tracing::info!(uid = %event.uid, "Redis has changed while erased users were looked for, retrying");
        return Ok(Pseudonyms::new());
    }
    Ok(pseudonyms.difference(&unfinished).cloned().collect())
}

/// Replaces the user of one entry.
async fn erase(
    context: &Context,
    event: &StoredEvent,
    issued: &IssuedCoupon,
    key: &PseudonymKey,
) -> Result<FencedWrite<ErasedUser>, ReconcileError> {
    let (redis_store, StoredEvent { uid, name, .. }) = (&context.redis_store, event);
    let IssuedCoupon { user_id: user, coupon, .. } = issued;
    let erased = redis_store.erase_user(name, *uid, user, key).await?;
    if erased != FencedWrite::Applied(ErasedUser::Pending) {
        return Ok(erased);
    }
    let recorded = context.database.issuance_of(*uid, &key.pseudonym(user)).await?;
    // The record of another coupon is to be consumed first.
    if recorded.is_none_or(|recorded| recorded.issued.coupon != *coupon) {
        return Ok(erased);
    }
    let settlement = Settlement { user: user.clone(), coupon: coupon.clone(), outcome: SettlementOutcome::Completed };
    redis_store.settle(name, *uid, &[settlement]).await?;
    Ok(redis_store.erase_user(name, *uid, user, key).await?)
}

/// Whether Redis is a verified master, unless the event is deleted, and the one of this observation.
async fn is_same_master(
    context: &Context,
    event: &StoredEvent,
    is_deleted: bool,
    before: &RedisEvent,
    pseudonyms: &Pseudonyms,
) -> Result<bool, ReconcileError> {
    let Some(user) = pseudonyms.first() else { return Ok(true) };
    let redis_store = &context.redis_store;
    let lookup = redis_store.lookup(&event.name, user).await?;
    let after = redis_store.observe(&event.name).await?;
    let identity = |event: &RedisEvent| (event.uid, event.replication_id.clone(), event.recovery_id.clone());
    Ok(lookup.is_some_and(|lookup| lookup.uid == event.uid && (is_deleted || lookup.is_verified))
        && after.is_some_and(|after| (is_deleted || after.is_verified) && identity(&after) == identity(before)))
}
