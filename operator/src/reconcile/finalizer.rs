//! Adds the finalizer to an event, and removes the data of a deleted one.
//!
//! # Expected flow
//! The first reconciliation adds the finalizer. When the event is deleted, each reconciliation closes the gate and
//! reads how many issuances are not recorded yet. Those of which no record is in flight are recorded directly, and so
//! are all others when the timeout has passed. When none is left, the keys are removed from Redis. With
//! `deletionPolicy: Delete`, the use of coupons ends then, the finalizer waits until the redeemers have sent all uses,
//! and the rows are removed from Postgres. At last the finalizer is removed from the object. Meanwhile the conditions
//! say `Deleting`.
//!
//! # Guarantees
//! - A deletion always completes: it continues after `--deletion-timeout-seconds`, and a Kubernetes Event of type
//!   Warning reports what remains.
//! - Rows in Postgres are deleted only after the keys in Redis were removed.
//! - Rows that cannot be deleted within the timeout, for example because another session locks them, are deleted later
//!   by [`crate::pending_deletions`].
//!
//! # Caveats
//! The timeout starts when this process first observes the deletion, so it starts anew when the operator restarts.

use std::time::Duration;

use couponry_crds::{CouponEvent, DeletionPolicy, status::reason};
use couponry_domain::{Acknowledge, EventName, Gate, Release, Uuid};
use couponry_redis::GateSettings;
use couponry_runtime::error_chain;
use kube::{
    ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use crate::{
    blocker::Blocker,
    context::Context,
    kube_events::{self, CLEANUP_INCOMPLETE, KubeEvent},
    metrics::ReconcileResult,
    reconcile::{
        error::ReconcileError,
        status_writer::StatusWriter,
        stranded_issuances::{Delivery, StrandedOutcome, record_stranded_issuances},
        timing::{DELETION_INTERVAL, UNSENT_USES_INTERVAL},
    },
    row_deletion,
};

/// The finalizer on every `CouponEvent`.
pub(crate) const NAME: &str = "couponry.dev/cleanup";

/// Timeout of recording issuances directly. What it has recorded by then stays recorded.
const STRANDED_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of the removal from one store.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(15);

/// Adds the finalizer unless it is present.
pub(super) async fn add(event: CouponEvent, context: &Context) -> Result<CouponEvent, ReconcileError> {
    if is_present(&event) {
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

pub(crate) fn is_present(event: &CouponEvent) -> bool {
    event.finalizers().iter().any(|name| name == NAME)
}

/// Removes the data of a deleted event, then the finalizer. Waits for issuances to be recorded, up to
/// `deletion_timeout`.
#[tracing::instrument(skip_all)]
pub(crate) async fn cleanup(
    event: CouponEvent,
    context: &Context,
    deletion_timeout: Duration,
) -> Result<(ReconcileResult, Action), ReconcileError> {
    if !is_present(&event) {
        return Ok((ReconcileResult::Done, Action::await_change()));
    }
    let key = event.uid().unwrap_or_default();
    let mut event = event;
    if let (Some(uid), Some(name)) = (event.event_uid(), event.event_name()) {
        context.preloads.leave(uid);
        context.idle_events.remove(uid);
        let may_wait = context.transient.deletion_elapsed(&key) < deletion_timeout;
        match close_and_record(&event, context, uid, &name, may_wait).await {
            Ok(backlog) if backlog.is_empty() => {}
            Ok(backlog) if may_wait => {
                report_waiting(event, context, &describe(backlog)).await?;
                return Ok((ReconcileResult::Progressing, Action::requeue(DELETION_INTERVAL)));
            }
            Err(error) if may_wait => {
                let error = error_chain(&error);
                tracing::warn!(error, "cannot read the backlog of the deleted event, retrying");
                report_waiting(event, context, &error).await?;
                return Ok((ReconcileResult::Error, Action::requeue(DELETION_INTERVAL * 2)));
            }
            Ok(backlog) => publish_incomplete(&event, context, &describe(backlog)).await,
            Err(error) => publish_incomplete(&event, context, &error_chain(&error)).await,
        }
        if let Err(error) = context.database.mark_resource_deleted(uid, &name).await {
            let cause = format!("cannot mark it as deleted, so its name stays in use: {}", error_chain(error));
            if may_wait {
                report_waiting(event, context, &cause).await?;
                return Ok((ReconcileResult::Error, Action::requeue(DELETION_INTERVAL * 2)));
            }
            publish_incomplete(&event, context, &cause).await;
        }
        let prepared = prepare_removal(&event, context, uid, &name).await;
        match prepared {
            Ok(unsent_uses) if unsent_uses > 0 && may_wait => {
                report_waiting(event, context, &row_deletion::describe_unsent(unsent_uses)).await?;
                return Ok((ReconcileResult::Progressing, Action::requeue(UNSENT_USES_INTERVAL)));
            }
            Ok(_) => {
                let message = "The event is being deleted: its data is being removed.".to_owned();
                event = report_deleting(event, context, message).await?;
            }
            Err(_) => {}
        }
        match remove_rows(&event, context, uid, &name, prepared).await {
            Ok(0) => {}
            Ok(lost_uses) => publish_incomplete(&event, context, &row_deletion::describe_unsent(lost_uses)).await,
            Err(error) if context.transient.deletion_elapsed(&key) >= deletion_timeout => {
                let rows = schedule_removal(&event, context, uid, &name, &error).await;
                publish_incomplete(&event, context, &format!("{}{rows}", error_chain(&error))).await;
            }
            Err(error) => {
                report_waiting(event, context, &error_chain(&error)).await?;
                return Err(error);
            }
        }
        context.metrics.remove_event(name.as_str());
        context.recording.forget(uid);
        context.voids.forget(uid);
        tracing::info!("deleted event cleaned up");
    }
    remove(&event, context).await?;
    context.transient.forget(&key);
    Ok((ReconcileResult::Done, Action::await_change()))
}

/// Issuances that would be lost with the data of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct EventBacklog {
    /// Outbox entries that Kafka has not confirmed yet.
    outbox: u64,
    /// Issued coupons that are not recorded in Postgres.
    unrecorded: u64,
}

impl EventBacklog {
    const fn is_empty(self) -> bool {
        self.outbox == 0 && self.unrecorded == 0
    }
}

/// Closes the gate and returns the issuances that are not recorded. Issuances of which no record is in flight are
/// recorded directly; when it may not wait any more, all of them are.
async fn close_and_record(
    event: &CouponEvent,
    context: &Context,
    uid: Uuid,
    name: &EventName,
    may_wait: bool,
) -> Result<EventBacklog, ReconcileError> {
    let Context { database, redis_store, .. } = context;
    let closed = GateSettings {
        gate: Gate::Closed,
        window: event.spec.window(),
        acknowledge: Acknowledge::Redis,
        validity: event.spec.terms().ok().and_then(|terms| terms.validity),
        release: Release::default(),
        admission_key: None,
        generation: event.metadata.generation.unwrap_or_default(),
        stock_epoch: 0,
        total: 0,
    };
    redis_store.set_gate(name, uid, &closed).await?;
    let Some(in_redis) = redis_store.observe(name).await?.filter(|redis| redis.uid == uid) else {
        return Ok(EventBacklog::default());
    };
    if in_redis.outbox > 0 {
        redis_store.mark_active(name).await;
    }
    let recorded = database.recorded_count(uid).await?;
    let unrecorded = in_redis.issued.saturating_sub(recorded);
    let backlog = EventBacklog { outbox: in_redis.outbox, unrecorded };
    let stranded = context.recording.poll(&in_redis, recorded).await.stranded;
    if backlog.is_empty() || (may_wait && stranded == 0) {
        return Ok(backlog);
    }
    context.recording.note_attempt(uid);
    let Some(stored) = database.event(uid).await? else { return Ok(backlog) };
    let recording = record_stranded_issuances(&stored, database, redis_store, Delivery::Direct);
    let Ok(outcome) = tokio::time::timeout(STRANDED_TIMEOUT, recording).await else { return Ok(backlog) };
    let Some(outcome) = outcome? else { return Ok(backlog) };
    let StrandedOutcome { resent: _, recorded, conflicting, undecodable } = outcome;
    outcome.add_to(&context.metrics);
    tracing::warn!(recorded, conflicting, undecodable, "recorded issuances of the deleted event directly");
    // The records in the outbox are recorded, too.
    Ok(EventBacklog { outbox: 0, unrecorded: conflicting + undecodable })
}

/// Removes the keys and, if the rows are to be deleted, ends the use of coupons. Returns how many uses were not sent.
async fn prepare_removal(
    event: &CouponEvent,
    context: &Context,
    uid: Uuid,
    name: &EventName,
) -> Result<u64, ReconcileError> {
    // Postgres is cleaned up last: as long as the keys are in Redis, issued coupons can be recorded, and a later event
    // with the same name can identify and remove them.
    with_timeout(async { Ok(context.redis_store.remove(name, uid).await.map(drop)?) }).await?;
    match event.spec.deletion_policy {
        DeletionPolicy::Delete => {
            let start = Box::pin(async { Ok(row_deletion::start_purge(context, uid, name).await?) });
            with_timeout(start).await.map_err(|error| ReconcileError::RowsRemain(Box::new(error)))
        }
        DeletionPolicy::Retain => {
            // The policy may have changed while the deletion of the rows waited.
            let cancel = Box::pin(async {
                context.database.cancel_purge(uid, name).await?;
                Ok(context.redis_store.remove_pending_deletion(uid, name).await?)
            });
            with_timeout(cancel).await?;
            Ok(0)
        }
    }
}

/// `unsent_uses`: they are lost. Returns their number.
async fn remove_rows(
    event: &CouponEvent,
    context: &Context,
    uid: Uuid,
    name: &EventName,
    unsent_uses: Result<u64, ReconcileError>,
) -> Result<u64, ReconcileError> {
    let unsent_uses = unsent_uses?;
    if event.spec.deletion_policy == DeletionPolicy::Delete {
        with_timeout(async { Ok(context.database.delete_event(uid, name).await?) })
            .await
            .map_err(|error| ReconcileError::RowsRemain(Box::new(error)))?;
    }
    Ok(unsent_uses)
}

/// Leaves the deletion of the rows to [`crate::pending_deletions`] after `error`. Returns what remains, to follow the
/// error.
async fn schedule_removal(
    event: &CouponEvent,
    context: &Context,
    uid: Uuid,
    name: &EventName,
    error: &ReconcileError,
) -> String {
    if event.spec.deletion_policy != DeletionPolicy::Delete {
        return String::new();
    }
    // Otherwise the keys are still in Redis, and their coupons may still be recorded.
    let is_removed_from_redis = matches!(error, ReconcileError::RowsRemain(_));
    // Postgres has a mark of it if its purge has started.
    let is_scheduled = is_removed_from_redis
        && match context.redis_store.add_pending_deletion(uid, name).await {
            Ok(()) => true,
            Err(_) => context
                .database
                .purging_events()
                .await
                .is_ok_and(|purging| purging.iter().any(|(purged, _)| *purged == uid)),
        };
    if is_scheduled {
        format!("; the operator deletes the rows of the event {uid} as soon as it can")
    } else {
        format!("; rows of the event {uid} may remain in Postgres")
    }
}

async fn with_timeout<T>(removal: impl Future<Output = Result<T, ReconcileError>>) -> Result<T, ReconcileError> {
    tokio::time::timeout(REMOVAL_TIMEOUT, removal).await.unwrap_or(Err(ReconcileError::RemovalTimedOut))
}

fn describe(EventBacklog { outbox, unrecorded }: EventBacklog) -> String {
    format!("{unrecorded} issued coupons are not recorded in Postgres yet ({outbox} outbox entries are not in Kafka)")
}

/// Returns the event with the status that was written.
async fn report_waiting(event: CouponEvent, context: &Context, cause: &str) -> Result<CouponEvent, ReconcileError> {
    let message = format!(
        "The event is being deleted: {cause}. The deletion continues as soon as this is resolved, and after the deletion \
         timeout in any case."
    );
    report_deleting(event, context, message).await
}

/// Returns the event with the status that was written.
async fn report_deleting(
    event: CouponEvent,
    context: &Context,
    message: String,
) -> Result<CouponEvent, ReconcileError> {
    let generation = event.metadata.generation.unwrap_or_default();
    let mut writer = StatusWriter::new(context, event);
    writer.report_blocked(generation, &Blocker::new(reason::DELETING, message), None).await?;
    Ok(writer.into_event())
}

async fn publish_incomplete(event: &CouponEvent, context: &Context, cause: &str) {
    let note = format!("The event was deleted before its cleanup was complete: {cause}.");
    kube_events::publish(&context.recorder, event, &[KubeEvent::warning(CLEANUP_INCOMPLETE, note)]).await;
}

async fn remove(event: &CouponEvent, context: &Context) -> Result<(), ReconcileError> {
    let Some(index) = event.finalizers().iter().position(|name| name == NAME) else { return Ok(()) };
    let path = format!("/metadata/finalizers/{index}");
    patch(event, context, json!({"op": "remove", "path": path})).await.map(drop)
}

/// Patches the object unless it was changed since it was read.
async fn patch(
    event: &CouponEvent,
    context: &Context,
    change: serde_json::Value,
) -> Result<ObjectMeta, ReconcileError> {
    let unchanged = json!({"op": "test", "path": "/metadata/resourceVersion", "value": event.resource_version()});
    let changes = serde_json::from_value(json!([unchanged, change])).expect("the patch is a valid JSON patch");
    // The response contains only the metadata, so this works for objects that do not match the schema, too.
    let name = event.name_any();
    let patched = context.events.patch_metadata(&name, &PatchParams::default(), &Patch::Json::<()>(changes)).await;
    patched.map(|object| object.metadata).map_err(|error| match error {
        // A failed test operation.
        kube::Error::Api(status) if status.code == 422 => ReconcileError::Conflict,
        other => ReconcileError::kubernetes("change the finalizers", other),
    })
}
