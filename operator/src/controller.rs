//! Watches the events of one namespace and dispatches each change: invalid object, deletion or reconciliation.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    convert::Infallible,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use couponry_crds::CouponEvent;
use couponry_domain::{EventName, Uuid};
use couponry_redis::{RedisStore, RedisStoreError};
use couponry_runtime::{CancellationToken, error_chain};
use futures::{Stream, StreamExt as _, stream};
use kube::{
    Resource as _,
    core::DeserializeGuard,
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _,
        controller::{Action, Config},
        reflector::{self, Store},
        watcher,
    },
};

use crate::{
    context::Context,
    metrics::ReconcileResult,
    pending_deletions, pending_erasures,
    reconcile::{error::ReconcileError, event, finalizer, invalid_object, restrict_gate::restrict_gate, timing},
};

/// How often the replication ids and the events of Redis, and the start time of Postgres are read.
const STORES_INTERVAL: Duration = Duration::from_secs(2);

/// How often the voids of all events are counted.
const VOIDS_INTERVAL: Duration = Duration::from_secs(15);

/// By how many milliseconds the clock of Redis may move against that of this process between two observations: it is
/// adjusted gradually, and a response may be late.
const MAX_CLOCK_DRIFT: u64 = 10_000;

/// Runs until the shutdown. Running reconciliations are then dropped; the next leader continues them.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let (store, writer) = reflector::store();
    let changes = watcher(context.guarded_events(), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(|event: &_| Some(manifest_hash(event)), PredicateConfig::default());
    let controller = Controller::for_stream(changes, store);
    let (scaling_context, task_context) = (context.clone(), context.clone());
    let scaling = scaling_context.scaling.run(controller.store(), &scaling_context.metrics);
    let redis_changes = redis_changes(context.clone(), controller.store());
    let postgres_changes = stream::select(postgres_restarts(context.clone()).boxed(), voids(context.clone()).boxed());
    let store_changes = stream::select(redis_changes.boxed(), postgres_changes);
    let reconciliations = controller
        .reconcile_all_on(store_changes)
        // Unlimited here: `context.limiter` limits the concurrency, and admits events in the order in which they became
        // due.
        .with_config(Config::default().concurrency(0))
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
        () = pending_deletions::run(&task_context) => {}
        () = pending_erasures::run(&task_context) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Changes when the object has to be reconciled. Changes of the status and the finalizers do not count, because the
/// operator itself makes them: they would override the delay after a failure.
fn manifest_hash(guard: &DeserializeGuard<CouponEvent>) -> u64 {
    let meta = guard.meta();
    let mut hasher = DefaultHasher::new();
    (meta.generation, &meta.annotations).hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    // A status can make an object invalid, too, so any change may correct it.
    let version = guard.0.is_err().then_some(&meta.resource_version);
    version.hash(&mut hasher);
    hasher.finish()
}

/// What the events depend on in Redis.
#[derive(Default, PartialEq)]
struct RedisState {
    replication_ids: Vec<String>,
    /// The loaded events that Redis does not have.
    lost: BTreeSet<String>,
    /// For each master its clock minus the time since this process began to observe it, in milliseconds: changes only
    /// if the clock of Redis is set.
    clock_offsets: Vec<i64>,
}

impl RedisState {
    /// Whether events have to be reconciled that are otherwise reconciled rarely.
    fn requires_reconciliation(&self, before: &Self) -> bool {
        let clocks = self.clock_offsets.iter().zip(&before.clock_offsets);
        self.replication_ids != before.replication_ids
            || !self.lost.is_subset(&before.lost)
            || clocks.into_iter().any(|(now, before)| now.abs_diff(*before) > MAX_CLOCK_DRIFT)
    }
}

/// An item for each restart or failover of Redis, after which every event is unverified, for each loss of events, as by
/// FLUSHALL, and when the clock of Redis was set, which may start or end events. Also verifies the event list, from
/// which the issuers know which events may have been lost.
fn redis_changes(context: Arc<Context>, store: Store<DeserializeGuard<CouponEvent>>) -> impl Stream<Item = ()> {
    let started = Instant::now();
    stream::unfold((context, store, None), move |(context, store, mut known)| async move {
        loop {
            tokio::time::sleep(STORES_INTERVAL).await;
            // No item for an outage: active events notice it in their own reconciliations, and it does not affect
            // finished events, which are reconciled rarely.
            let (Ok(()), Ok(masters)) = (store.wait_until_ready().await, context.redis_store.masters().await) else {
                continue;
            };
            let mut replication_ids: Vec<String> = masters.into_iter().map(|master| master.replication_id).collect();
            replication_ids.sort();
            let Ok(clocks) = context.redis_store.clocks().await else { continue };
            let elapsed = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
            let mut clock_offsets: Vec<i64> = clocks.into_iter().map(|clock| clock - elapsed).collect();
            clock_offsets.sort_unstable();
            let loaded = loaded_events(&store);
            // Before the list: a FLUSHALL after the list was read would go unnoticed, because all events are then
            // added to the list again.
            let is_verified = context.redis_store.is_event_list_verified().await;
            let lost = match context.redis_store.events().await {
                Ok(listed) => {
                    let listed: HashSet<&str> = listed.iter().map(EventName::as_str).collect();
                    loaded.iter().filter(|name| !listed.contains(name.as_str())).cloned().collect()
                }
                Err(_) => known.as_ref().map_or_else(BTreeSet::new, |known: &RedisState| known.lost.clone()),
            };
            let verified = match is_verified {
                Ok(true) => Ok(()),
                Ok(false) => verify_event_list(&context.redis_store, &loaded).await,
                Err(error) => Err(error),
            };
            if let Err(error) = verified {
                tracing::debug!(error = error_chain(error), "cannot verify the event list");
            }
            let current = RedisState { replication_ids, lost, clock_offsets };
            // Events may have been reconciled before the first observation, and Redis may have changed since.
            let is_changed = known.as_ref().is_none_or(|known| current.requires_reconciliation(known));
            known = Some(current);
            if is_changed {
                tracing::info!("reconciling all events after the first observation of Redis or a change in it");
                return Some(((), (context, store, known)));
            }
        }
    })
}

/// An item for each restart or failover of Postgres: it may have lost commits, also of events that are over.
fn postgres_restarts(context: Arc<Context>) -> impl Stream<Item = ()> {
    stream::unfold((context, None), |(context, mut known)| async move {
        loop {
            if let Ok(start) = context.database.server_start().await
                && known.replace(start).is_some_and(|before| before != start)
            {
                context.idle_events.invalidate();
                tracing::info!("reconciling all events after a restart of Postgres");
                return Some(((), (context, known)));
            }
            tokio::time::sleep(STORES_INTERVAL).await;
        }
    })
}

/// An item when coupons were voided. The command may not have changed Redis, and events that are over are reconciled
/// rarely.
fn voids(context: Arc<Context>) -> impl Stream<Item = ()> {
    stream::unfold((context, None), |(context, mut known)| async move {
        loop {
            tokio::time::sleep(VOIDS_INTERVAL).await;
            let Ok(counts) = context.database.void_counts().await else { continue };
            // Events may have been reconciled before the first count.
            let before: HashMap<Uuid, u64> = known.replace(counts.clone()).unwrap_or_default();
            if before == counts {
                continue;
            }
            for uid in before.keys().chain(counts.keys()).filter(|uid| before.get(uid) != counts.get(uid)) {
                context.idle_events.invalidate_event(*uid);
            }
            return Some(((), (context, known)));
        }
    })
}

/// Adds all loaded events to the event list before the first of them is restored.
async fn verify_event_list(redis_store: &RedisStore, loaded: &BTreeSet<String>) -> Result<(), RedisStoreError> {
    redis_store.verify_event_list(loaded).await?;
    tracing::info!(events = loaded.len(), "verified the event list in Redis");
    Ok(())
}

/// The events of which coupons were loaded into Redis, and those that cannot be parsed.
fn loaded_events(store: &Store<DeserializeGuard<CouponEvent>>) -> BTreeSet<String> {
    let loaded = store.state().into_iter().filter_map(|guard| {
        let is_loaded = guard.0.as_ref().map_or(true, |event| {
            event.status.as_ref().is_some_and(|status| status.loaded.is_some_and(|count| count > 0))
        });
        let meta = guard.meta();
        (is_loaded && meta.deletion_timestamp.is_none()).then(|| meta.name.clone()).flatten()
    });
    loaded.collect()
}

/// Reconciles one object and returns when to do it again.
#[tracing::instrument(skip_all, fields(
    event = guard.meta().name.as_deref().unwrap_or_default(),
    uid = guard.meta().uid.as_deref().unwrap_or_default(),
))]
async fn reconcile(guard: Arc<DeserializeGuard<CouponEvent>>, context: Arc<Context>) -> Result<Action, Infallible> {
    if let Ok(event) = &guard.0 {
        restrict_gate(event, &context).await;
    }
    let _permit = context.limiter.acquire(&guard).await;
    let started = Instant::now();
    let uid = couponry_crds::stored_identity(guard.meta()).map(|(uid, _)| uid.to_string()).unwrap_or_default();
    // Boxed, because thousands of events may wait for their permit.
    let reconciled = Box::pin(dispatch(&guard, &context)).await;
    let (result, action) = match reconciled {
        Ok((result, action)) => {
            if result != ReconcileResult::Waiting {
                context.transient.note_success(&uid);
            }
            (result, action)
        }
        Err(ReconcileError::Conflict) if guard.0.is_ok() => {
            (ReconcileResult::Progressing, Action::requeue(timing::CONFLICT_RETRY))
        }
        // For an invalid object, Conflict may also mean that the API server rejects the write because of the invalid
        // field.
        Err(error) => {
            let delay = context.transient.note_failure(&uid, error.max_retry_delay());
            tracing::warn!(error = error_chain(&error), retry_in = ?delay, "reconciliation failed");
            (ReconcileResult::Error, Action::requeue(delay))
        }
    };
    context.metrics.observe_reconciliation(result, started.elapsed());
    Ok(action)
}

async fn dispatch(
    guard: &DeserializeGuard<CouponEvent>,
    context: &Context,
) -> Result<(ReconcileResult, Action), ReconcileError> {
    match &guard.0 {
        Err(invalid) => invalid_object::reconcile_invalid(invalid, context).await,
        Ok(event) if event.metadata.deletion_timestamp.is_some() => {
            Box::pin(finalizer::cleanup(event.clone(), context, context.deletion_timeout)).await
        }
        Ok(event) => Box::pin(event::reconcile_event(event.clone(), context)).await,
    }
}
