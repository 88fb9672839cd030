//! Makes a Redis that may have lost something whole again ([ADR 0015](../../../docs/adr/0015-redis-that-forgets.md)).
//!
//! # Expected flow
//! Everything that was on its way is in Postgres. What Redis says users have and Postgres does not know is sent once more, and
//! waited for. Then the event is sealed: Postgres takes nothing any more that was issued until now. So both stores stand still,
//! and either they agree, or Redis is filled again from Postgres. Then coupons may be given.
//!
//! # Guarantees
//! It may be cut off anywhere, and several operators may do it at once. Each begins with a token of its own in Redis, and seals by
//! comparing with what it has seen: whoever was overtaken changes nothing any more. Nothing is adopted from another Redis than
//! the one that was looked at first.

use std::{collections::HashMap, time::Instant};

use couponry_crds::status::reason;
use couponry_domain::{Coupon, Gate, UserId};
use couponry_postgres::{CouponStatus, DatabaseError, StoredEvent};
use couponry_redis::{Holding, Loaded, MAX_RESTORED, Observed, Recovered, Recovery, Status};
use futures::TryStreamExt as _;

use super::{
    Obstacle, Progress, ReconcileError, Reporter, Seen, Wanted, execute::PROGRESS_INTERVAL, plan::opening_now,
};
use crate::context::Context;

/// How many users Postgres is asked about at a time.
const PAGE: usize = 2000;

/// What to report while nobody gets a coupon.
pub(super) fn obstacle(how_far: &str) -> Obstacle {
    let message =
        format!("Redis has restarted or changed, and nobody gets a coupon before it is known to be whole: {how_far}");
    Obstacle { reason: reason::REDIS_CHANGED, message }
}

/// Finds Redis whole or makes it so, unless somebody else was faster: the next glance shows what is there.
pub(super) async fn recover(
    wanted: &Wanted,
    seen: &Seen,
    context: &Context,
    reporter: &mut Reporter<'_>,
) -> Result<(), ReconcileError> {
    let (Some(own), mut stored) = (seen.own(wanted), seen.stored()?.clone()) else { return Ok(()) };
    if !is_whole(own, seen.recorded, &stored) {
        let missing = unrecorded(own, wanted, context).await?;
        if !missing.is_empty() {
            tracing::warn!(event = %wanted.name, users = missing.len(), "Redis has coupons with users whom Postgres does not know: sending them again");
            context.stock.resend(&wanted.name, own.uid, &missing).await?;
            context.arrivals.forget(own.uid);
            return Ok(());
        }
    }

    let Some((recovery, since)) = begin(own, wanted, &mut stored, context, false).await? else { return Ok(()) };
    let recorded = context.database.issued_count(own.uid).await?;
    let Some(current) = context.stock.observe(&wanted.name).await? else { return Ok(()) };
    let recovered = if is_whole(&current, recorded, &stored) {
        Recovered { recovery, since, total: current.loaded }
    } else {
        let Some((recovery, since)) = begin(own, wanted, &mut stored, context, true).await? else { return Ok(()) };
        let Some(total) = restore(own, &recovery, &stored, wanted, seen, context, reporter).await? else {
            return Ok(());
        };
        Recovered { recovery, since, total }
    };
    // First the gate: between the two, users would be told that an event that is open has not started.
    if own.gate == Gate::Loading && stored.opened_at.is_some() {
        let opening = opening_now(wanted, &stored, own, recorded > 0);
        context.stock.set_gate(&wanted.name, own.uid, &opening).await?;
    }
    let adopted = context.stock.adopt(&wanted.name, own, Some(&recovered)).await?;
    if adopted == Loaded::Here(()) {
        let Recovered { total, since, .. } = recovered;
        tracing::info!(event = %wanted.name, total, recorded, since, server = own.server, "Redis is whole");
    }
    Ok(())
}

/// Whether all that is recorded is with its users in Redis, and everything else that was loaded in its queue. What Redis says is
/// recorded was recorded: so when there are as many, they are the same.
///
/// A top-up may still be on its way, but not where the gate is still to be set: there somebody was cut off while restoring, and
/// until the rest was loaded users would be told that the event has not started.
fn is_whole(redis: &Observed, recorded: u64, stored: &StoredEvent) -> bool {
    let held = i128::from(redis.available) + i128::from(redis.issued) + i128::from(redis.voided);
    redis.completed == redis.issued
        && redis.issued == recorded
        && held == i128::from(redis.loaded)
        && redis.loaded <= stored.stock_len()
        && (redis.gate != Gate::Loading || redis.loaded == stored.stock_len())
}

/// What users have in Redis, and Postgres does not know to be theirs; or does, and Redis has not heard of it.
async fn unrecorded(
    own: &Observed,
    wanted: &Wanted,
    context: &Context,
) -> Result<Vec<(UserId, Holding)>, ReconcileError> {
    let mut held = HashMap::new();
    let show = |user, holding: Holding| {
        if holding.status != Status::Cancelled {
            held.insert(user, holding);
        }
    };
    context.stock.each_issued(&wanted.name, show).await?;
    let held: Vec<(UserId, Holding)> = held.into_iter().collect();
    let mut missing = Vec::new();
    for page in held.chunks(PAGE) {
        let users: Vec<UserId> = page.iter().map(|(user, _)| user.clone()).collect();
        let recorded = context.database.issuances_about(own.uid, &users, &[]).await?;
        let recorded: HashMap<_, _> = recorded.into_iter().map(|one| (one.user_id, one.coupon)).collect();
        let is_known = |(user, holding): &&(UserId, Holding)| {
            holding.status == Status::Completed && recorded.get(user) == Some(&holding.coupon)
        };
        missing.extend(page.iter().filter(|held| !is_known(held)).cloned());
    }
    Ok(missing)
}

/// Begins, in Redis and then in Postgres. None: there is nothing to recover, or somebody else has begun as well. The time is that
/// before which nothing is recorded any more.
async fn begin(
    own: &Observed,
    wanted: &Wanted,
    stored: &mut StoredEvent,
    context: &Context,
    from_nothing: bool,
) -> Result<Option<(Recovery, i64)>, ReconcileError> {
    let Loaded::Here(recovery) = context.stock.recover(&wanted.name, own, from_nothing).await? else {
        return Ok(None);
    };
    // Clocks of several servers differ.
    let since = stored.record_cutoff.map_or(recovery.begun_at, |sealed| recovery.begun_at.max(sealed + 1));
    if !context.database.set_record_cutoff(stored, since).await? {
        return Ok(None);
    }
    stored.record_cutoff = Some(since);
    Ok(Some((recovery, since)))
}

/// Fills Redis from Postgres: what is recorded into the hands of its users, the rest into the queue, in the order of the stock.
/// None: somebody else has begun as well.
async fn restore(
    own: &Observed,
    recovery: &Recovery,
    stored: &StoredEvent,
    wanted: &Wanted,
    seen: &Seen,
    context: &Context,
    reporter: &mut Reporter<'_>,
) -> Result<Option<u64>, ReconcileError> {
    let of = stored.stock_len();
    let mut coupons = context.database.stock_with_holders(own.uid).try_chunks(MAX_RESTORED);
    let mut said = Instant::now();
    let mut next = 0;
    while let Some(chunk) = coupons.try_next().await.map_err(|error| error.1)? {
        let first = next;
        let (mut available, mut held) = (Vec::with_capacity(chunk.len()), Vec::new());
        for CouponStatus { ordinal, code: coupon, discount, holder } in chunk {
            if ordinal != next {
                return Err(ReconcileError::Gap(next));
            }
            next += 1;
            match holder {
                Some((user, issued_at)) => {
                    held.push((user, Holding { coupon, discount, issued_at, status: Status::Completed }));
                }
                None => available.push(Coupon { ordinal, code: coupon.to_string(), discount }),
            }
        }
        let loaded = context.stock.restore(&wanted.name, own, recovery, first..next, &available, &held).await?;
        if loaded != Loaded::Here(next) {
            return Ok(None);
        }
        if said.elapsed() > PROGRESS_INTERVAL {
            said = Instant::now();
            let progress = Progress::Stuck(obstacle(&format!("{next} of {of} coupons restored from Postgres")));
            reporter.report_progress(wanted, seen, progress).await;
        }
    }
    // Fewer than the event had when it was seen; those that were added since are loaded like any others.
    if next < of {
        return Err(DatabaseError::Corrupt {
            operation: couponry_postgres::Operation::ReadCoupons,
            what: format!("{next} of {of} coupons"),
        }
        .into());
    }
    tracing::warn!(event = %wanted.name, coupons = next, "Redis had lost something, and was restored from Postgres");
    Ok(Some(next))
}
