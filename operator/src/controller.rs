//! Watches the events of one namespace and dispatches each change: invalid object, deletion or reconciliation.

use std::{convert::Infallible, sync::Arc, time::Instant};

use couponry_crds::CouponEvent;
use couponry_runtime::{CancellationToken, error_chain};
use futures::StreamExt as _;
use kube::{
    Resource as _,
    core::DeserializeGuard,
    runtime::{
        Controller,
        controller::{Action, Config},
        watcher,
    },
};

use crate::{
    context::Context,
    metrics::ReconcileResult,
    reconcile::{error::ReconcileError, event, finalizer, invalid_object, timing},
};

/// Events that are reconciled concurrently, so that the preload of one does not delay the others.
const CONCURRENCY: u16 = 4;

/// Runs until the shutdown. Running reconciliations are then dropped; the next leader continues them.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let controller = Controller::new(context.guarded_events(), watcher::Config::default());
    let scaling_context = context.clone();
    let scaling = scaling_context.scaling.run(controller.store(), &scaling_context.metrics);
    let reconciliations = controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .run(reconcile, |_, never, _| -> Action { match *never {} }, context)
        .for_each(async |reconciled| {
            if let Err(error) = reconciled {
                // An event that was deleted meanwhile, or a watch that is about to be re-established.
                tracing::debug!(error = error_chain(&error), "controller error");
            }
        });
    tokio::select! {
        () = reconciliations => tracing::error!("the watch ended unexpectedly"),
        () = scaling => {}
        () = shutdown.cancelled() => {}
    }
}

/// Reconciles one object and returns when to do it again.
#[tracing::instrument(skip_all, fields(
    event = guard.meta().name.as_deref().unwrap_or_default(),
    uid = guard.meta().uid.as_deref().unwrap_or_default(),
))]
async fn reconcile(guard: Arc<DeserializeGuard<CouponEvent>>, context: Arc<Context>) -> Result<Action, Infallible> {
    let started = Instant::now();
    let uid = guard.meta().uid.clone().unwrap_or_default();
    let reconciled = dispatch(&guard, &context).await;
    let (result, action) = match reconciled {
        Ok((result, action)) => {
            context.transient.record_success(&uid);
            (result, action)
        }
        Err(ReconcileError::Outdated) if guard.0.is_ok() => {
            (ReconcileResult::Progressing, Action::requeue(timing::CONFLICT_RETRY))
        }
        // For an invalid object, Outdated may also mean that the API server rejects the write because of the invalid
        // field.
        Err(error) => {
            let delay = context.transient.record_failure(&uid);
            tracing::warn!(error = error_chain(&error), retry_in = ?delay, "reconciliation failed");
            (ReconcileResult::Error, Action::requeue(delay))
        }
    };
    context.metrics.record_reconciliation(result, started.elapsed());
    Ok(action)
}

async fn dispatch(
    guard: &DeserializeGuard<CouponEvent>,
    context: &Context,
) -> Result<(ReconcileResult, Action), ReconcileError> {
    match &guard.0 {
        Err(invalid) => invalid_object::reconcile_invalid(invalid, context).await,
        Ok(event) if event.metadata.deletion_timestamp.is_some() => {
            finalizer::cleanup(event.clone(), context, context.drain_timeout).await
        }
        Ok(event) => event::reconcile_event(event.clone(), context).await,
    }
}
