//! Pauses or closes an open event before anything else.
//!
//! A reconciliation reads Postgres before it sets the gate, and may take long: Postgres is slow or unavailable, or a
//! large preload is in progress. Neither must delay an administrator who stops an event, so this uses only Redis.
//!
//! # Guarantees
//! It never opens a gate, and never extends a window. A gate that follows a newer generation stays as it is, unless the
//! manifest is the current one: then the API server was restored from an older snapshot.

use couponry_crds::{
    CouponEvent, IssuingMode,
    status::{condition, reason},
    stored_identity,
};
use couponry_domain::{Gate, Window};
use couponry_redis::{FencedWrite, GateSettings};
use couponry_runtime::error_chain;
use kube::ResourceExt as _;

use crate::{context::Context, reconcile::error::ReconcileError};

/// Pauses or closes the gate if it is open and the manifest requires it. After a failure, the reconciliation that
/// follows does it.
pub(crate) async fn restrict_gate(event: &CouponEvent, context: &Context) {
    let Some(gate) = restriction(event) else { return };
    let (Some(uid), Some(name)) = (event.event_uid(), event.event_name()) else { return };
    let generation = event.stored_generation();
    let restricted = async {
        let Some(in_redis) = context.redis_store.observe(&name).await? else { return Ok(false) };
        if in_redis.uid != uid || in_redis.gate != Gate::Open {
            return Ok(false);
        }
        if in_redis.generation > generation && !is_current(event, context).await? {
            return Ok(false);
        }
        let end = [in_redis.window.end, event.spec.window().end].into_iter().flatten().min();
        let window = Window { start: in_redis.window.start, end };
        let settings = GateSettings {
            gate,
            window,
            acknowledge: event.spec.acknowledge,
            validity: in_redis.validity,
            // If it is damaged, the reconciliation that follows sets it before the gate opens again.
            release: in_redis.release,
            admission_key: in_redis.admission_key,
            generation: generation.max(in_redis.generation),
            stock_epoch: in_redis.stock_epoch,
            total: in_redis.loaded,
        };
        Ok::<_, ReconcileError>(
            context.redis_store.set_gate(&name, uid, &settings).await? == FencedWrite::Applied(gate),
        )
    };
    match restricted.await {
        Ok(true) => tracing::info!(event = event.name_any(), gate = gate.as_str(), "gate set"),
        Ok(false) => {}
        Err(error) => tracing::warn!(event = event.name_any(), error = error_chain(&error), "cannot set the gate"),
    }
}

/// Whether the API server has this generation of the manifest, not a newer one.
async fn is_current(event: &CouponEvent, context: &Context) -> Result<bool, ReconcileError> {
    let found = context.events.get_metadata_opt(&event.name_any()).await;
    let found = found.map_err(|error| ReconcileError::kubernetes("read the current generation", error))?;
    Ok(found.is_some_and(|found| stored_identity(&found.metadata) == stored_identity(&event.metadata)))
}

/// The gate that the manifest specifies. None: the gate may stay open, or the status shows that it is not.
fn restriction(event: &CouponEvent) -> Option<Gate> {
    let gate = match event.issuance() {
        _ if event.metadata.deletion_timestamp.is_some() => Gate::Closed,
        IssuingMode::Auto => return None,
        IssuingMode::Paused => Gate::Paused,
        IssuingMode::Closed => Gate::Closed,
    };
    let status = event.status.as_ref()?;
    let is_held = status.condition(condition::OPEN).is_some_and(|open| open.reason == reason::HELD);
    // A hold does not change the generation.
    let is_current = status.observed_generation == event.metadata.generation && event.hold().is_some() == is_held;
    (status.may_be_open() || !is_current).then_some(gate)
}
