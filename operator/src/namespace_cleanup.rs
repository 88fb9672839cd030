//! Cleanup of all events at shutdown, when the namespace is being deleted.
//!
//! Kubernetes deletes the pods of a namespace before its custom resources. The operator would be gone before the
//! events are deleted, their finalizers would never be removed, and the namespace would stay in `Terminating`. An
//! operator that shuts down therefore checks whether the namespace is being deleted, and then cleans up every event as
//! if it were deleted already.

use std::time::{Duration, Instant};

use couponry_crds::CouponEvent;
use couponry_runtime::error_chain;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use tracing::Instrument as _;

use crate::{
    context::Context,
    reconcile::{error::ReconcileError, finalizer, invalid_object, timing},
};

/// Slightly less than the pod's terminationGracePeriodSeconds.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(45);
/// Issuers and consumers shut down at the same time, so what is not recorded by then will not be.
const DELETION_TIMEOUT: Duration = Duration::from_secs(15);

/// Cleans up every event if the namespace is being deleted.
pub(crate) async fn clean_up_terminating_namespace(client: Client, namespace: &str, context: &Context) {
    match is_terminating(client, namespace).await {
        Ok(false) => return,
        Ok(true) => tracing::info!(namespace, "namespace is being deleted: cleaning up its events"),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(namespace, error, "cannot determine whether the namespace is being deleted");
            return;
        }
    }
    let deadline = Instant::now() + CLEANUP_TIMEOUT;
    loop {
        match Box::pin(clean_up_all(context)).await {
            Ok(0) => return tracing::info!(namespace, "all events are cleaned up"),
            Ok(count) => tracing::debug!(namespace, count, "cleaning up events"),
            Err(error) => tracing::warn!(namespace, error = error_chain(&error), "cannot clean up events, retrying"),
        }
        if Instant::now() > deadline {
            return tracing::error!(
                namespace,
                finalizer = finalizer::NAME,
                "cleanup timed out: remove the finalizer from the remaining events"
            );
        }
        tokio::time::sleep(timing::CONFLICT_RETRY).await;
    }
}

/// Returns how many events still had the finalizer.
async fn clean_up_all(context: &Context) -> Result<usize, ReconcileError> {
    let events = context.raw_events().list(&ListParams::default()).await;
    let events = events.map_err(|error| ReconcileError::kubernetes("list the events", error))?.items;
    let pending: Vec<CouponEvent> =
        events.into_iter().map(invalid_object::parse_or_placeholder).filter(finalizer::is_present).collect();
    let count = pending.len();
    for event in pending {
        let span = tracing::info_span!("namespace_cleanup", event = event.name_any(), uid = event.uid());
        async {
            match finalizer::cleanup(event, context, DELETION_TIMEOUT).await {
                Ok(_) | Err(ReconcileError::Conflict) => {}
                Err(error) => tracing::warn!(error = error_chain(&error), "cannot clean up the event, retrying"),
            }
        }
        .instrument(span)
        .await;
    }
    Ok(count)
}

async fn is_terminating(client: Client, namespace: &str) -> Result<bool, ReconcileError> {
    let found = Api::<Namespace>::all(client).get_opt(namespace).await;
    let found = found.map_err(|error| ReconcileError::kubernetes("read the namespace", error))?;
    Ok(found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}
