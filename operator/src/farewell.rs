//! The last work of an operator whose namespace is being deleted.
//!
//! Kubernetes deletes a namespace's pods before its other objects, and so this operator before the events: nobody would be left
//! to take the finalizers off, and the namespace would be terminating for ever. An operator that is told to end therefore asks
//! why, and when it is the namespace that goes, cleans up after every event as if it were deleted already, which it is about
//! to be.

use std::time::{Duration, Instant};

use couponry_crds::CouponEvent;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use crate::{
    context::Context,
    finalizer,
    reconcile::{AT_ONCE, ReconcileError, unreadable},
};

/// How long the last work may take: a little less than the pod has between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long what was issued may take to reach Postgres. The issuers and consumers are told to end at the same time: what they
/// leave is not moved any more.
const DRAIN: Duration = Duration::from_secs(15);

/// Cleans up after every event when the namespace is being deleted; otherwise does nothing.
pub(crate) async fn farewell(client: Client, namespace: &str, context: &Context) {
    match is_terminating(client, namespace).await {
        Ok(false) => return,
        Ok(true) => tracing::info!(namespace, "the namespace is being deleted: cleaning up after its events"),
        Err(error) => {
            tracing::warn!(namespace, %error, "cannot see whether the namespace is being deleted");
            return;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match clean_up_all(context).await {
            Ok(0) => return tracing::info!(namespace, "no event is left to clean up after"),
            Ok(left) => tracing::debug!(namespace, left, "cleaning up"),
            Err(error) => tracing::warn!(namespace, %error, "cannot clean up yet"),
        }
        if Instant::now() > deadline {
            return tracing::error!(
                namespace,
                "not all events could be cleaned up after: take the finalizer {} off those that are left",
                finalizer::NAME
            );
        }
        tokio::time::sleep(AT_ONCE).await;
    }
}

/// How many are left.
async fn clean_up_all(context: &Context) -> Result<usize, ReconcileError> {
    let events = unreadable::stored(context).list(&ListParams::default()).await;
    let events = events.map_err(|error| ReconcileError::kubernetes("listing the events", error))?.items;
    let ours: Vec<CouponEvent> =
        events.into_iter().map(unreadable::read_or_stand_in).filter(finalizer::is_on).collect();
    let left = ours.len();
    for event in ours {
        let name = event.name_any();
        match finalizer::clean_up(event, context, DRAIN).await {
            Ok(_) | Err(ReconcileError::Outdated) => {}
            Err(error) => tracing::warn!(event = name, %error, "cannot clean up after the event yet"),
        }
    }
    Ok(left)
}

async fn is_terminating(client: Client, namespace: &str) -> Result<bool, ReconcileError> {
    let found = Api::<Namespace>::all(client).get_opt(namespace).await;
    let found = found.map_err(|error| ReconcileError::kubernetes("reading the namespace", error))?;
    Ok(found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}
