//! Decides on the next step for an event, from the observed state alone. An operator that restarts, or that takes over
//! from another one, therefore continues from the state of the stores.
//!
//! # Guarantees
//! - The gate opens only when Redis holds as many coupons as Postgres, and Postgres as many as the manifest specifies.
//! - Before the gate opens, the opening is stored in Postgres. While an opening is stored, the stock in Postgres is
//!   never discarded, so every issued coupon remains valid. The stock in Redis is restored with its holders when Redis
//!   may have lost data; issuing is suspended until then.
//! - An opening is final unless its start is in the future by the clock of Redis, read together with the gate. An
//!   opening that is not final can be withdrawn, after a verified Redis has confirmed that the event has not opened
//!   (the gate is neither `OPEN` nor `PAUSED`, or its window has not begun). An issued or recorded coupon proves that
//!   the event has opened. Clocks of different machines, or of one machine at different times, are not compared ([ADR
//!   0022](../../../docs/adr/0022-openings.md)).
//! - The start and the release of an event are fixed from the moment at which a user may have received a time that
//!   depends on them, although no coupon may be issued yet.
//!
//! # Caveats
//! Observation and execution are not atomic: another operator may act on another generation meanwhile, and a request
//! may take effect long after its operator has ended. Every step is therefore validated again where it takes effect:
//! batches and chunks by their first ordinal, the gate by the count and the generation, discarding by the opening, and
//! steps that depend on the stock by the stock epoch. Before a stock is discarded, Postgres begins the next stock
//! epoch. An operator that observes a newer generation, or a later event with the same name, is stale and leaves the
//! event alone.

use couponry_crds::{CONTINUES, CodeSource, IssuingMode, REPLACES, status::reason};
use couponry_domain::{CouponBatch, Discount, Gate};
use couponry_postgres::StoredEvent;
use couponry_redis::{GateSettings, RedisEvent};

use crate::{
    blocker::Blocker,
    reconcile::{
        balance::Balance,
        desired_state::DesiredState,
        drain::DrainState,
        gate::{final_gate_settings, gate_settings},
        observe::{NameConflict, ObservedState},
        opening::{confirm_opening, has_begun, has_issuances, may_have_opened, schedule_opening, store_start},
        state::state,
        step::{Plan, Step},
        timing::is_recorded_and_marked,
    },
};

pub(super) fn plan(desired: &DesiredState, observed: &ObservedState) -> Plan {
    match next_step(desired, observed) {
        Plan::Done | Plan::AwaitCodes(_) | Plan::Blocked(_) if observed.recording.stranded > 0 => {
            Plan::Apply(Step::RecordStranded)
        }
        Plan::Done if is_retirement_due(desired, observed) => Plan::Apply(Step::Retire),
        plan @ (Plan::Done | Plan::AwaitCodes(_)) => observed.redis_blocker.clone().map_or(plan, Plan::Blocked),
        plan => plan,
    }
}

/// Whether the event is over, its retention period has passed, all issued coupons are recorded, and the counts
/// match.
fn is_retirement_due(desired: &DesiredState, observed: &ObservedState) -> bool {
    let (Some(in_redis), Some(stored)) = (observed.redis_event(desired), &observed.stored) else { return false };
    let is_over = match state(Some(in_redis)) {
        reason::ENDED | reason::CLOSED => true,
        reason::SOLD_OUT => in_redis.window.end.is_none(),
        _ => false,
    };
    is_over
        && is_recorded_and_marked(in_redis, observed.recorded)
        && in_redis.retired.is_none()
        && stored.generation == desired.generation
        && desired.retire_at.is_some_and(|at| at <= in_redis.now)
        && Balance::of(desired, observed).is_some_and(|balance| balance.count_mismatch().is_none())
}

fn next_step(desired: &DesiredState, observed: &ObservedState) -> Plan {
    if observed.name_conflict == Some(NameConflict::Successor) {
        return Plan::Done;
    }
    if let Some(blocked) = block_identity(desired, observed) {
        return blocked;
    }
    let Some(stored) = &observed.stored else { return Plan::Apply(Step::Register) };
    if stored.generation > desired.generation {
        return Plan::Done;
    }
    let is_format_outdated = stored.discount_counts.is_empty() && stored.format != desired.format;
    let are_terms_outdated = stored.opens_at.is_none() && !has_same_terms(desired, stored);
    if is_format_outdated
        || are_terms_outdated
        || stored.policy_name != desired.policy_name
        || stored.generation < desired.generation
    {
        return Plan::Apply(Step::Register);
    }
    match &observed.redis {
        Some(other) if other.uid != desired.uid => resolve_name_conflict(desired, other, observed.name_conflict),
        Some(in_redis) if in_redis.stock_epoch != stored.stock_epoch => resolve_stock_epoch(stored, in_redis),
        Some(in_redis) if !stored.is_opening_final && has_issuances(in_redis, observed) => {
            confirm_opening(stored, in_redis)
        }
        Some(in_redis) if !in_redis.is_verified => verify(desired, stored, in_redis, observed),
        Some(in_redis) => match stored.opens_at {
            None => without_opening(desired, stored, Some(in_redis), observed),
            Some(_) if stored.is_opening_final => with_final_opening(desired, stored, in_redis, observed),
            Some(_) if may_have_opened(in_redis) => confirm_opening(stored, in_redis),
            Some(at) => with_provisional_opening(desired, stored, in_redis, at, observed),
        },
        // Redis has lost the event. It may have opened, whatever the clocks say: its metadata is created, then it is
        // recovered.
        None if stored.opens_at.is_some() || observed.recorded > 0 => Plan::Apply(Step::Prepare),
        None => without_opening(desired, stored, None, observed),
    }
}

/// Blocks an event that must not be registered, and a continuation whose stored event is missing or has another name.
fn block_identity(desired: &DesiredState, observed: &ObservedState) -> Option<Plan> {
    let DesiredState { name, uid, is_continuation, .. } = desired;
    match (&observed.stored, observed.name_conflict) {
        (Some(stored), _) if stored.name != *name => Some(Plan::blocked(
            reason::CHANGE_NOT_POSSIBLE,
            format!("The event {uid} in Postgres has the name {}. Correct the annotation {CONTINUES}.", stored.name),
        )),
        (None, _) if *is_continuation => Some(Plan::blocked(
            reason::CHANGE_NOT_POSSIBLE,
            format!("Postgres does not have the event {uid}. Restore Postgres, or correct the annotation {CONTINUES}."),
        )),
        (_, Some(NameConflict::NotDeleted { uid, generation })) => Some(Plan::blocked(
            reason::NAME_CONFLICT,
            format!(
                "Another event with the name {name} (uid {uid}) exists in the stores, and is not marked as \
                 deleted. Its coupons belong to users, so nothing is changed. If Kubernetes was restored, continue that \
                 event with `couponry-operator take-over`, or with the annotation {CONTINUES}: {uid}/{generation}. If it \
                 is obsolete, discard it with the annotation {REPLACES}: {uid}."
            ),
        )),
        (None, Some(NameConflict::Unknown)) => observed.redis.as_ref().map(|other| unknown_event(desired, other)),
        _ => None,
    }
}

/// Redis and Postgres have different stock epochs.
fn resolve_stock_epoch(stored: &StoredEvent, in_redis: &RedisEvent) -> Plan {
    // A stock is only discarded before anything is issued. With an opening, Redis came back from before that: the next
    // steps prepare and recover it.
    let is_empty = in_redis.issued == 0 && in_redis.cancelled == 0 && in_redis.outbox == 0;
    if in_redis.stock_epoch < stored.stock_epoch && is_empty {
        return Plan::Apply(Step::RemoveStockEpoch(in_redis.stock_epoch));
    }
    Plan::blocked(
        reason::DRIFT_FOUND,
        format!(
            "Redis holds stock epoch {}, Postgres stock epoch {}: one of them was probably restored from a backup. \
             Set issuance to Paused and compare the stores with `kubectl couponry audit`.",
            in_redis.stock_epoch, stored.stock_epoch
        ),
    )
}

/// Redis has restarted or failed over since it was verified and may have lost data, or was prepared only now. With an
/// opening, coupons may have been issued, even if its time is in the future: the clock may have been ahead. Without
/// one, an open gate is that of an opening that was withdrawn, or that Postgres has lost.
fn verify(desired: &DesiredState, stored: &StoredEvent, in_redis: &RedisEvent, observed: &ObservedState) -> Plan {
    if in_redis.replication_id.is_empty() {
        return Plan::Blocked(Blocker::redis_unverified("it is a replica, waiting for a master"));
    }
    if (stored.opens_at.is_none() && in_redis.gate != Gate::Open) || in_redis.retired.is_some() {
        return Plan::Apply(Step::MarkVerified);
    }
    // Users may have been served, of which neither store has a trace.
    if stored.opens_at.is_some() && !stored.is_opening_final && has_begun(stored.opens_at, in_redis) {
        return confirm_opening(stored, in_redis);
    }
    if let Some(plan) = store_start(desired, stored, in_redis, observed) {
        return plan;
    }
    match &observed.drain {
        Some(DrainState::Complete) => Plan::Apply(Step::Recover),
        Some(DrainState::Waiting(progress)) => Plan::Blocked(Blocker::redis_unverified(progress)),
        None => Plan::Blocked(Blocker::redis_unverified("waiting for issuance records in flight")),
    }
}

/// Another event with this name holds the keys in Redis. A predecessor is removed once its issuances are in Kafka.
fn resolve_name_conflict(desired: &DesiredState, other: &RedisEvent, conflict: Option<NameConflict>) -> Plan {
    let uid = other.uid;
    if conflict != Some(NameConflict::Predecessor) {
        return unknown_event(desired, other);
    }
    if other.gate != Gate::Closed {
        let closed = GateSettings {
            gate: Gate::Closed,
            window: other.window,
            acknowledge: desired.acknowledge,
            validity: other.validity.clone(),
            release: other.release.clone(),
            admission_key: other.admission_key.clone(),
            generation: desired.generation,
            stock_epoch: other.stock_epoch,
            total: other.loaded,
        };
        return Plan::Apply(Step::ClosePredecessor(uid, closed));
    }
    if other.outbox > 0 {
        return Plan::blocked(
            reason::NAME_CONFLICT,
            format!(
                "A deleted event with the same name (uid {uid}) still has {} outbox entries that are not in Kafka. \
                 The operator waits for them; if this persists, check Kafka and the issuers.",
                other.outbox
            ),
        );
    }
    Plan::Apply(Step::RemovePredecessor(uid))
}

/// The event in Redis is not in Postgres.
fn unknown_event(desired: &DesiredState, other: &RedisEvent) -> Plan {
    let installation = other.installation.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    Plan::blocked(
        reason::NAME_CONFLICT,
        format!(
            "The keys of the event {} in Redis belong to an event that Postgres does not have (uid {}, installation \
             {installation}). Set a different --redis-key-prefix for each installation; if Postgres has lost the event, \
             restore it from a backup; delete the keys only if the event is obsolete.",
            desired.name, other.uid
        ),
    )
}

/// No opening is stored, so no coupon can have been issued.
fn without_opening(
    desired: &DesiredState,
    stored: &StoredEvent,
    in_redis: Option<&RedisEvent>,
    observed: &ObservedState,
) -> Plan {
    if let Some(in_redis) = in_redis.filter(|in_redis| in_redis.gate == Gate::Open) {
        // Steps of two operators have interleaved. Store the opening at once, as if it had come first.
        return schedule_opening(in_redis.window, stored, in_redis);
    }
    if let Some(plan) = close(desired, stored, in_redis) {
        return plan;
    }
    if let Some(plan) = block_other_source(desired, observed) {
        return plan;
    }
    let missing = match desired.missing(&stored.discount_counts) {
        Ok(missing) => missing,
        Err(message) => return Plan::blocked(reason::PRELOAD_FAILED, message),
    };
    let len = stored.generated();
    // Generated coupons are generated again instead, all of them in one shuffled order.
    let Some(missing) = missing.filter(|missing| match desired.code_source {
        CodeSource::Imported => true,
        CodeSource::Generated => stored.discount_counts.is_empty() || is_empty(missing),
    }) else {
        return Plan::Apply(Step::DiscardStock);
    };
    let add = add_stock(desired, stored, missing);
    let Some(in_redis) = in_redis else {
        return add.filter(|_| len == 0).unwrap_or(Plan::Apply(Step::Prepare));
    };
    if len == 0
        && let Some(add) = add
    {
        return count_mismatch(desired, observed).unwrap_or(add);
    }
    if let Some(load) = load(in_redis, len) {
        return load;
    }
    if let Some(plan) = count_mismatch(desired, observed).or(add) {
        return plan;
    }
    if desired.issuance == IssuingMode::Paused {
        let paused = gate_settings(desired, stored, Gate::Paused, desired.window);
        return set_gate(in_redis, paused).unwrap_or(Plan::Done);
    }
    if in_redis.gate == Gate::Paused {
        // While an opening is stored, PAUSED means that the gate may have been open.
        let loading = gate_settings(desired, stored, Gate::Loading, desired.window);
        return set_gate(in_redis, loading).unwrap_or(Plan::Done);
    }
    schedule_opening(desired.window, stored, in_redis)
}

/// The opening is scheduled at `at`, and according to a verified Redis no coupon could be issued yet: everything may
/// still change.
fn with_provisional_opening(
    desired: &DesiredState,
    stored: &StoredEvent,
    in_redis: &RedisEvent,
    at: i64,
    observed: &ObservedState,
) -> Plan {
    let len = stored.generated();
    if let Some(plan) = close(desired, stored, Some(in_redis)) {
        return plan;
    }
    let is_as_desired = desired.issuance == IssuingMode::Auto
        && desired.window.start == Some(at)
        && in_redis.loaded == len
        && has_same_terms(desired, stored)
        && desired.full_stock().is_ok_and(|target| is_same_stock(&stored.discount_counts, &target));
    if is_as_desired {
        let open = gate_settings(desired, stored, Gate::Open, desired.window);
        return set_gate(in_redis, open).or_else(|| block_other_source(desired, observed)).unwrap_or(Plan::Done);
    }
    Plan::Apply(Step::WithdrawOpening)
}

/// The opening is final: coupons may belong to users.
fn with_final_opening(
    desired: &DesiredState,
    stored: &StoredEvent,
    in_redis: &RedisEvent,
    observed: &ObservedState,
) -> Plan {
    let len = stored.generated();
    if let Some(plan) = close(desired, stored, Some(in_redis)) {
        return plan;
    }
    // Redis may be older than Postgres. Opening the gate would issue the same coupons again.
    let would_open = in_redis.gate != Gate::Open && desired.issuance == IssuingMode::Auto;
    if would_open && Balance::of(desired, observed).is_some_and(|balance| balance.has_surplus()) {
        return count_mismatch(desired, observed).unwrap_or(Plan::Done);
    }
    if in_redis.gate == Gate::Loading
        && let Some(plan) = count_mismatch(desired, observed).or_else(|| load(in_redis, len))
    {
        return plan;
    }
    if let Some(plan) = store_start(desired, stored, in_redis, observed) {
        return plan;
    }
    let settings = final_gate_settings(desired, stored);
    let start = settings.window.start;
    if let Some(plan) = set_gate(in_redis, settings) {
        return plan;
    }
    let other_source = block_other_source(desired, observed);
    let add = match desired.top_up(&stored.discount_counts) {
        Err(message) => return Plan::blocked(reason::CHANGE_NOT_POSSIBLE, message),
        Ok(_) if other_source.is_some() => other_source,
        Ok(counts) => add_stock(desired, stored, counts),
    };
    if let Some(generate @ Plan::Apply(_)) = add {
        return generate;
    }
    // If `loaded` in Redis is too low, the same coupons would be loaded twice.
    if let Some(load) = load(in_redis, len) {
        return count_mismatch(desired, observed).unwrap_or(load);
    }
    if start != desired.window.start {
        return Plan::blocked(
            reason::CHANGE_NOT_POSSIBLE,
            "The event has opened, so its start cannot change. Restore the previous startTime.",
        );
    }
    let changed = desired.release.differences(&stored.release).join(" and ");
    if !changed.is_empty() {
        return Plan::blocked(
            reason::CHANGE_NOT_POSSIBLE,
            format!(
                "The event has opened, so its coupons become available as planned. Restore the previous {changed}."
            ),
        );
    }
    let changed = desired.terms.differences(&stored.terms).join(", ");
    if !changed.is_empty() {
        return Plan::blocked(
            reason::CHANGE_NOT_POSSIBLE,
            format!("The event has opened, so its coupons keep their terms. Restore the previous {changed}."),
        );
    }
    add.unwrap_or(Plan::Done)
}

/// Blocks a change of the source of the codes: the CRD refuses it, unless it is an older one. Generated codes among
/// imported ones would not be known to the shop, and imported ones may exist nowhere else, so they are not discarded.
/// Coupons are issued as before.
fn block_other_source(desired: &DesiredState, observed: &ObservedState) -> Option<Plan> {
    let imported: u64 = observed.imports.iter().map(|import| import.count).sum();
    let (has, previous) = match desired.code_source {
        CodeSource::Imported => (observed.generated() > imported, "Generated"),
        CodeSource::Generated => (imported > 0, "Imported"),
    };
    let message = format!(
        "The codes of the event are {}, so their source cannot change. Restore code.source {previous}, or delete and \
         recreate the event.",
        previous.to_lowercase()
    );
    has.then(|| Plan::blocked(reason::CHANGE_NOT_POSSIBLE, message))
}

/// Adds these coupons to the stock: generates them, or waits until their codes are imported. None: there are none.
fn add_stock(desired: &DesiredState, stored: &StoredEvent, counts: Vec<(Discount, u64)>) -> Option<Plan> {
    if is_empty(&counts) {
        return None;
    }
    let batch = CouponBatch { first_ordinal: stored.generated(), counts };
    Some(match desired.code_source {
        CodeSource::Generated => Plan::Apply(Step::GenerateStock(batch)),
        CodeSource::Imported => Plan::AwaitCodes(batch),
    })
}

fn is_empty(counts: &[(Discount, u64)]) -> bool {
    counts.iter().all(|(_, count)| *count == 0)
}

/// Loads what is missing of `len` coupons.
fn load(in_redis: &RedisEvent, len: u64) -> Option<Plan> {
    (in_redis.loaded < len).then_some(Plan::Apply(Step::Load { from: in_redis.loaded, to: len }))
}

/// Handles an event that is closed or to be closed; one that Redis does not have is prepared first. Blocks a manifest
/// that would continue a retired event. None: neither applies.
fn close(desired: &DesiredState, stored: &StoredEvent, in_redis: Option<&RedisEvent>) -> Option<Plan> {
    match in_redis {
        Some(in_redis) if in_redis.retired.is_some() && extends_retired_event(desired, stored, in_redis) => {
            Some(Plan::blocked(
                reason::CHANGE_NOT_POSSIBLE,
                "The event is over and its coupons were removed from Redis, so it cannot continue. Create another event, \
             and set issuance to Closed in this one.",
            ))
        }
        Some(in_redis) if in_redis.gate == Gate::Closed => Some(Plan::Done),
        _ if desired.issuance != IssuingMode::Closed => None,
        None => Some(Plan::Apply(Step::Prepare)),
        Some(_) => Some(Plan::Apply(Step::SetGate(gate_settings(desired, stored, Gate::Closed, desired.window)))),
    }
}

/// Whether the manifest extends an event that is over and retired.
fn extends_retired_event(desired: &DesiredState, stored: &StoredEvent, in_redis: &RedisEvent) -> bool {
    let is_extended = desired.total > stored.generated() || desired.window.end != in_redis.window.end;
    is_extended && desired.issuance != IssuingMode::Closed
}

/// Blocks when the counts of the stores do not match, because some steps would make it worse.
fn count_mismatch(desired: &DesiredState, observed: &ObservedState) -> Option<Plan> {
    let count_mismatch = Balance::of(desired, observed)?.count_mismatch()?;
    Some(Plan::Blocked(count_mismatch.blocker()))
}

/// None: the settings are in force already.
fn set_gate(in_redis: &RedisEvent, settings: GateSettings) -> Option<Plan> {
    let is_in_force = in_redis.gate == settings.gate
        && in_redis.window == settings.window
        && in_redis.acknowledge == settings.acknowledge
        && in_redis.validity == settings.validity
        && in_redis.damaged_release.is_none()
        && in_redis.release == settings.release
        && in_redis.admission_key == settings.admission_key
        && in_redis.generation == settings.generation;
    (!is_in_force).then_some(Plan::Apply(Step::SetGate(settings)))
}

/// Whether the terms of the coupons and their release are stored as the manifest specifies them.
fn has_same_terms(desired: &DesiredState, stored: &StoredEvent) -> bool {
    desired.terms == stored.terms && desired.release == stored.release
}

/// Compares without regard to the order.
fn is_same_stock(one: &[(Discount, u64)], other: &[(Discount, u64)]) -> bool {
    one.len() == other.len() && one.iter().all(|entry| other.contains(entry))
}

#[cfg(test)]
mod tests;
