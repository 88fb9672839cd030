//! Keeps an event's object until its traces are removed.
//!
//! # Expected flow
//! The first look at an event puts the finalizer on it. When the event is deleted, each further look closes the gate and
//! sees how much is still on its way from Redis to Postgres. When that is nothing, the keys leave Redis, the rows leave
//! Postgres (with `deletionPolicy: Delete`), and the finalizer is taken off.
//!
//! # Guarantees
//! Deletion never waits for ever: after `--drain-timeout-seconds` it goes on, and a Warning says what was left. The rows stay where the
//! keys stay.
//!
//! # Caveats
//! The time counts from when this process first saw the deletion: an operator that starts again waits again.

use std::{future::Future, time::Duration};

use couponry_crds::{CouponEvent, DeletionPolicy, status::reason};
use couponry_domain::{EventName, Gate, Uuid};
use couponry_redis::{Acknowledge, Opening};
use kube::{
    ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use crate::{
    context::Context,
    notices::{self, CLEANUP_INCOMPLETE, Notice},
    reconcile::{
        Obstacle, ReconcileError, Reporter,
        observe::{Backlog, backlog},
    },
};

/// The finalizer's name.
pub(crate) const NAME: &str = "couponry.dev/cleanup";

/// How often a deleted event is looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long a store may take for one step of the removal.
const PATIENCE: Duration = Duration::from_secs(15);

/// Puts the finalizer on the event, unless it is there.
pub(crate) async fn ensure(event: CouponEvent, context: &Context) -> Result<CouponEvent, ReconcileError> {
    if is_on(&event) {
        return Ok(event);
    }
    let add = if event.finalizers().is_empty() {
        json!({"op": "add", "path": "/metadata/finalizers", "value": [NAME]})
    } else {
        json!({"op": "add", "path": "/metadata/finalizers/-", "value": NAME})
    };
    let metadata = patch(&event, context, add).await?;
    Ok(CouponEvent { metadata, ..event })
}

/// Whether the finalizer is on the event.
pub(crate) fn is_on(event: &CouponEvent) -> bool {
    event.finalizers().iter().any(|name| name == NAME)
}

/// Removes the traces of a deleted event, then the finalizer. What was issued has `patience` to reach Postgres.
pub(crate) async fn clean_up(
    event: CouponEvent,
    context: &Context,
    patience: Duration,
) -> Result<Action, ReconcileError> {
    if !is_on(&event) {
        return Ok(Action::await_change());
    }
    let key = event.uid().unwrap_or_default();
    if let (Some(uid), Some(name)) = (event.event_uid(), event.event_id()) {
        let drained = drain(&event, context, uid, &name).await;
        let is_patient = context.memory.draining_for(&key) < patience;
        match drained {
            Ok(backlog) if backlog.is_empty() => {}
            Ok(backlog) if is_patient => {
                wait(event, context, &describe(backlog)).await?;
                return Ok(Action::requeue(POLL));
            }
            Err(error) if is_patient => {
                tracing::warn!(event = %name, %error, "cannot drain the event yet");
                wait(event, context, &error.to_string()).await?;
                return Ok(Action::requeue(POLL * 2));
            }
            Ok(backlog) => tell(&event, context, describe(backlog)).await,
            Err(error) => tell(&event, context, error.to_string()).await,
        }
        let may_fail = context.memory.draining_for(&key) >= patience;
        match remove(&event, context, uid, &name).await {
            Ok(()) => {}
            Err(error) if may_fail => tell(&event, context, format!("{error}{}", rows_left(&event, uid))).await,
            Err(error) => return Err(error),
        }
        context.metrics.forget(name.as_str());
        tracing::info!(event = %name, "the event is removed");
    }
    take_off(&event, context).await?;
    context.memory.forget(&key);
    Ok(Action::await_change())
}

/// Closes the gate and sees what is still on its way.
async fn drain(event: &CouponEvent, context: &Context, uid: Uuid, name: &EventName) -> Result<Backlog, ReconcileError> {
    let window = event.spec.window();
    let generation = event.metadata.generation.unwrap_or_default();
    let closed =
        Opening { gate: Gate::Closed, window, acknowledge: Acknowledge::Redis, generation, stock_epoch: 0, total: 0 };
    context.stock.set_gate(name, uid, &closed).await?;
    backlog(&context.database, &context.stock, name, uid).await
}

async fn remove(event: &CouponEvent, context: &Context, uid: Uuid, name: &EventName) -> Result<(), ReconcileError> {
    // Postgres forgets last: as long as Redis may give coupons of the event, they can be recorded, and a later event of the name
    // knows whose they are, and makes room for itself.
    within(async { Ok(context.stock.remove(name, uid).await.map(drop)?) }).await?;
    match event.spec.deletion_policy {
        DeletionPolicy::Delete => within(async { Ok(context.database.delete_event(uid).await?) }).await,
        DeletionPolicy::Retain => Ok(()),
    }
}

async fn within(removal: impl Future<Output = Result<(), ReconcileError>>) -> Result<(), ReconcileError> {
    tokio::time::timeout(PATIENCE, removal).await.unwrap_or(Err(ReconcileError::TooSlow))
}

/// Where rows were to go, and stay.
fn rows_left(event: &CouponEvent, uid: Uuid) -> String {
    match event.spec.deletion_policy {
        DeletionPolicy::Delete => format!("; the rows of event {uid} may still be in Postgres"),
        DeletionPolicy::Retain => String::new(),
    }
}

fn describe(Backlog { outbox, unrecorded }: Backlog) -> String {
    format!("{unrecorded} issued coupons are not recorded in Postgres yet ({outbox} batches are not in Kafka)")
}

async fn wait(event: CouponEvent, context: &Context, what: &str) -> Result<(), ReconcileError> {
    let generation = event.metadata.generation.unwrap_or_default();
    let obstacle = Obstacle { reason: reason::DELETING, message: format!("The event is being deleted: {what}") };
    Reporter::new(context, event).unavailable(generation, &obstacle).await
}

async fn tell(event: &CouponEvent, context: &Context, what: String) {
    let note = format!("Deleted with something left behind: {what}");
    notices::publish(&context.recorder, event, &[Notice::warning(CLEANUP_INCOMPLETE, note)]).await;
}

async fn take_off(event: &CouponEvent, context: &Context) -> Result<(), ReconcileError> {
    let Some(index) = event.finalizers().iter().position(|name| name == NAME) else { return Ok(()) };
    let path = format!("/metadata/finalizers/{index}");
    patch(event, context, json!({"op": "remove", "path": path})).await.map(drop)
}

/// Changes the object unless it was changed since we read it.
async fn patch(
    event: &CouponEvent,
    context: &Context,
    change: serde_json::Value,
) -> Result<ObjectMeta, ReconcileError> {
    let unchanged = json!({"op": "test", "path": "/metadata/resourceVersion", "value": event.resource_version()});
    let changes = serde_json::from_value(json!([unchanged, change])).expect("these are JSON patches");
    // Only the metadata comes back, so that this works for objects that cannot be read.
    let name = event.name_any();
    let patched = context.events.patch_metadata(&name, &PatchParams::default(), &Patch::Json::<()>(changes)).await;
    patched.map(|object| object.metadata).map_err(|error| match error {
        // A test that fails.
        kube::Error::Api(status) if status.code == 422 => ReconcileError::Outdated,
        other => ReconcileError::kubernetes("changing the finalizers", other),
    })
}
