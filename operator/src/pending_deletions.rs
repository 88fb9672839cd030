//! Deletes the rows of deleted events whose finalizer could not wait for it.
//!
//! With `deletionPolicy: Delete`, the rows of a deleted event may be locked by another session, or Postgres may be
//! unavailable. The finalizer does not wait for ever; it leaves the deletion to this task.
//!
//! # Guarantees
//! A pending deletion survives restarts: an event whose deletion has started is marked in Postgres, others are
//! listed in Redis.

use std::{collections::BTreeSet, time::Duration};

use couponry_domain::Uuid;
use couponry_runtime::error_chain;

use crate::{context::Context, reconcile::error::ReconcileError};

const INTERVAL: Duration = Duration::from_secs(15);

/// Deletes the rows of these events. Runs until the future is dropped.
pub(crate) async fn run(context: &Context) {
    loop {
        match pending(context).await {
            Ok(pending) => {
                for uid in pending {
                    delete(context, uid).await;
                }
            }
            Err(error) => tracing::debug!(error = error_chain(&error), "cannot read the pending deletions"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn pending(context: &Context) -> Result<BTreeSet<Uuid>, ReconcileError> {
    let mut pending: BTreeSet<Uuid> = context.database.deleted_events().await?.into_iter().collect();
    pending.extend(context.redis_store.pending_deletions().await?);
    Ok(pending)
}

async fn delete(context: &Context, uid: Uuid) {
    let deleted: Result<(), ReconcileError> = async {
        context.database.delete_event(uid).await?;
        Ok(context.redis_store.remove_pending_deletion(uid).await?)
    }
    .await;
    match deleted {
        Ok(()) => tracing::info!(%uid, "rows of the deleted event removed from Postgres"),
        Err(error) => {
            tracing::warn!(%uid, error = error_chain(&error), "cannot delete the rows of the event, retrying");
        }
    }
}
