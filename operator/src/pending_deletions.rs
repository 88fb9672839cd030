//! Deletes the rows of deleted events whose finalizer could not wait for it.
//!
//! With `deletionPolicy: Delete`, the rows of a deleted event may be locked by another session, or Postgres may be
//! unavailable. The finalizer does not wait for ever; it leaves the deletion to this task.
//!
//! # Guarantees
//! A pending deletion survives restarts: an event whose deletion has started is marked in Postgres, others are
//! listed in Redis.

use std::{collections::BTreeSet, time::Duration};

use couponry_domain::{EventName, Uuid};
use couponry_runtime::error_chain;

use crate::{context::Context, reconcile::error::ReconcileError};

const INTERVAL: Duration = Duration::from_secs(15);

/// Deletes the rows of these events. Runs until the future is dropped.
pub(crate) async fn run(context: &Context) {
    loop {
        for (uid, name) in pending(context).await {
            delete(context, uid, &name).await;
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

async fn delete(context: &Context, uid: Uuid, name: &EventName) {
    let deleted: Result<(), ReconcileError> = async {
        context.database.delete_event(uid, name).await?;
        Ok(context.redis_store.remove_pending_deletion(uid, name).await?)
    }
    .await;
    match deleted {
        Ok(()) => tracing::info!(%uid, "rows of the deleted event removed from Postgres"),
        Err(error) => {
            tracing::warn!(%uid, error = error_chain(&error), "cannot delete the rows of the event, retrying");
        }
    }
}
