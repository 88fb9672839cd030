//! Deletes the rows of deleted events whose finalizer could not wait for it.
//!
//! With `deletionPolicy: Delete`, the rows of a deleted event may be locked by another session, or Postgres may be
//! unavailable. The finalizer does not wait for ever; it leaves the deletion to this task.
//!
//! # Guarantees
//! - A pending deletion survives restarts: an event whose deletion has started is marked in Postgres, others are
//!   listed in Redis.
//! - As long as the object exists, only its finalizer deletes its rows, because its deletion policy may still change.
//! - It waits until the redeemers have sent the uses of the event's coupons, up to `--deletion-timeout-seconds`.
//!
//! # Caveats
//! The timeout starts anew when the operator restarts.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use couponry_crds::stored_identity;
use couponry_domain::{EventName, Uuid};
use couponry_runtime::error_chain;

use tokio::time::Instant;

use crate::{context::Context, reconcile::error::ReconcileError, row_deletion};

const INTERVAL: Duration = Duration::from_secs(15);

/// Deletes the rows of these events. Runs until the future is dropped.
pub(crate) async fn run(context: &Context) {
    let mut started: HashMap<Uuid, Instant> = HashMap::new();
    loop {
        let pending = pending(context).await;
        started.retain(|uid, _| pending.iter().any(|(pending, _)| pending == uid));
        for (uid, name) in pending {
            let started = started.entry(uid).or_insert_with(Instant::now);
            delete(context, uid, &name, started.elapsed() < context.deletion_timeout).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Those that can be read: each store has some.
async fn pending(context: &Context) -> BTreeSet<(Uuid, EventName)> {
    let report = |error| {
        tracing::debug!(error, "cannot read the pending deletions");
        Vec::new()
    };
    let marked = context.database.purging_events().await.map_err(error_chain).unwrap_or_else(report);
    let listed = context.redis_store.pending_deletions().await.map_err(error_chain).unwrap_or_else(report);
    marked.into_iter().chain(listed).collect()
}

/// `may_wait`: for uses that were not sent.
async fn delete(context: &Context, uid: Uuid, name: &EventName, may_wait: bool) {
    let deleted: Result<bool, ReconcileError> = async {
        let object = context.events.get_metadata_opt(name.as_str()).await;
        let object = object.map_err(|error| ReconcileError::kubernetes("read whether the event exists", error))?;
        if object.and_then(|object| stored_identity(&object.metadata)).is_some_and(|(existing, _)| existing == uid) {
            return Ok(false);
        }
        let unsent_uses = row_deletion::start_purge(context, uid, name).await?;
        if unsent_uses > 0 && may_wait {
            tracing::info!(%uid, unsent_uses, "deletion waits until the uses of coupons are sent");
            return Ok(false);
        }
        if unsent_uses > 0 {
            tracing::warn!(%uid, unsent_uses, "uses of coupons were not sent within the deletion timeout");
        }
        context.database.delete_event(uid, name).await?;
        context.redis_store.remove_pending_deletion(uid, name).await?;
        Ok(true)
    }
    .await;
    match deleted {
        Ok(false) => {}
        Ok(true) => tracing::info!(%uid, "rows of the deleted event removed from Postgres"),
        Err(error) => {
            tracing::warn!(%uid, error = error_chain(&error), "cannot delete the rows of the event, retrying");
        }
    }
}
