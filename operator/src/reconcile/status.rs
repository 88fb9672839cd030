//! Computes the status from the previous status and the observed state, without I/O.

use couponry_crds::{
    CouponEventStatus, ImportStatus,
    status::{condition, reason},
};
use couponry_domain::{Gate, code_statistic::MIN_GUESS_BITS};
use couponry_postgres::{ImportedCodes, UseCounts};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::{
    blocker::{Blocker, Issuing},
    durable_condition::DurabilityReport,
    reconcile::{
        balance::{Balance, CountMismatch},
        desired_state::DesiredState,
        merge_conditions::{NewCondition, merge, truncate_to_seconds},
        observe::ObservedState,
        progress::Progress,
        recording::{self, RecordingState},
        state::{self, is_sold_out, reported_state},
    },
    scaling::readiness::{ScaledCondition, ScalingReport},
};

/// Inputs of the status other than the observed state.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatusInputs<'a> {
    /// Deviations of the Kafka topics from the settings.
    pub(super) topic_mismatches: &'a [String],
    pub(super) count_mismatch: Option<&'a CountMismatch>,
    pub(super) scaling: &'a ScalingReport,
    pub(super) durability: Option<&'a DurabilityReport>,
    /// Set while Kafka is unavailable, if issuers need it to return the coupons of this event.
    pub(super) kafka_outage: Option<&'a Blocker>,
}

pub(super) fn compute_status(
    old: &CouponEventStatus,
    desired: &DesiredState,
    observed: &ObservedState,
    progress: &Progress,
    inputs: StatusInputs<'_>,
    now: Timestamp,
) -> CouponEventStatus {
    let StatusInputs { topic_mismatches, count_mismatch, scaling, durability, kafka_outage } = inputs;
    let generation = desired.manifest_generation;
    let durability = durability.map(|DurabilityReport { status, reason, message }| {
        NewCondition::with_status(condition::DURABLE, status, reason, message)
    });
    if let Progress::Blocked(blocker) = progress
        && blocker.reason == reason::REDIS_UNVERIFIED
    {
        // The counts in an unverified Redis may be outdated.
        let previous = blocked_status(old, generation, blocker, None, None, now);
        let conditions = merge(&previous.conditions, durability, |_| true, generation, now);
        return CouponEventStatus { observed_generation: Some(generation), conditions, ..previous };
    }
    let balance = Balance::of(desired, observed);
    let in_redis = observed.redis_event(desired);
    // `finishedAt`, plus the TTL, is compared with the clock of Redis before the coupons are removed.
    let redis_clock = in_redis.and_then(|in_redis| Timestamp::from_millisecond(in_redis.now).ok()).unwrap_or(now);
    let hold = desired.hold.as_deref();
    let state = reported_state(in_redis, hold);
    let issued = in_redis.map_or(old.issued.unwrap_or_default(), |in_redis| in_redis.issued);
    let is_all_recorded = observed.recorded >= issued && in_redis.is_none_or(|in_redis| in_redis.outbox == 0);
    let has_ended_or_sold_out = matches!(state, reason::ENDED | reason::CLOSED | reason::SOLD_OUT);
    // A gate that is paused by now may have been open: users may have received times that must not change.
    let has_opened = in_redis.is_some_and(|in_redis| matches!(in_redis.gate, Gate::Open | Gate::Paused));
    let stored = observed.stored.as_ref();
    let opened_at = stored.filter(|stored| has_opened && stored.is_opening_final).and_then(|stored| stored.opens_at);
    let mut conditions = vec![
        ready_condition(desired, observed, progress, state, topic_mismatches),
        preload_condition(desired, observed, progress),
        open_condition(state, hold, progress, kafka_outage),
        recorded_condition(issued, is_all_recorded, observed.recording),
        stalled_condition(progress),
    ];
    conditions.extend(balance.map(|_| balanced_condition(count_mismatch)));
    if let ScalingReport::Known(ScaledCondition { is_scaled, reason, message }) = scaling {
        conditions.push(NewCondition::new(condition::SCALED, *is_scaled, reason, message));
    }
    conditions.extend(durability);
    let keep = |type_: &str| match type_ {
        condition::BALANCED => true,
        condition::SCALED => matches!(scaling, ScalingReport::Unknown),
        _ => false,
    };
    // Most events are not redeemed with Couponry.
    let uses = Some(observed.uses).filter(|uses| *uses != UseCounts::default() || old.redeemed.is_some());
    CouponEventStatus {
        observed_generation: Some(generation),
        conditions: merge(&old.conditions, conditions, keep, generation, now),
        balance: balance.as_ref().map(Balance::status).or(old.balance),
        loaded: Some(in_redis.map_or(0, |in_redis| in_redis.loaded)),
        issued: Some(issued),
        recorded: Some(observed.recorded),
        reserved: uses.map(|uses| uses.reserved),
        redeemed: uses.map(|uses| uses.redeemed),
        voided: uses.map(|uses| uses.voided),
        imported: observed.imports.last().and_then(import_status),
        available: Some(in_redis.map_or(0, |in_redis| in_redis.available)),
        opened_at: old.opened_at.clone().or_else(|| opened_at.and_then(to_time)),
        sold_out_at: since(old.sold_out_at.as_ref(), in_redis.is_some_and(is_sold_out), now),
        finished_at: since(old.finished_at.as_ref(), has_ended_or_sold_out && is_all_recorded, redis_clock),
    }
}

/// The status when the stores are unavailable or Redis is unverified: the previous counts, and the blocker. What may
/// have changed since it was last observed is Unknown. `state`: that of the event in Redis, if it is known. `hold`: see
/// [`message`](state::message).
pub(super) fn blocked_status(
    old: &CouponEventStatus,
    generation: i64,
    blocker: &Blocker,
    state: Option<&'static str>,
    hold: Option<&str>,
    now: Timestamp,
) -> CouponEventStatus {
    let Blocker { reason, message, issuing: _ } = blocker;
    let mut new = vec![
        NewCondition::new(condition::READY, false, reason, message),
        NewCondition::new(condition::STALLED, true, reason, message),
    ];
    if let Some(state) = state {
        new.push(open_condition(state, hold, &Progress::Blocked(blocker.clone()), None));
    } else if old.may_be_open() {
        new.extend(blocked_open(blocker));
    } else if old.condition(condition::OPEN).is_none() {
        let state = reported_state(None, hold);
        new.push(NewCondition::new(condition::OPEN, false, state, state::message(state, hold)));
    }
    // Nothing changes in an event that is over. A reported problem stays reported until it is resolved.
    let is_unknown =
        |type_: &&str| old.finished_at.is_none() && old.condition(type_).is_some_and(|old| !is_problem(&old.reason));
    let unknown = [condition::RECORDED, condition::BALANCED].into_iter().filter(is_unknown);
    new.extend(unknown.map(|type_| NewCondition::with_status(type_, "Unknown", reason, message)));
    CouponEventStatus { conditions: merge(&old.conditions, new, |_| true, generation, now), ..old.clone() }
}

fn is_problem(reason: &str) -> bool {
    [reason::RECORDING_STALLED, reason::DRIFT_FOUND].contains(&reason)
}

/// Whether the statuses differ in more than counts and messages. Then the new one is written without delay.
pub(super) fn is_transition(old: &CouponEventStatus, new: &CouponEventStatus) -> bool {
    let CouponEventStatus { observed_generation, conditions, opened_at, sold_out_at, finished_at, .. } = new;
    let key = |conditions: &[Condition]| {
        conditions.iter().map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect::<Vec<_>>()
    };
    observed_generation != &old.observed_generation
        || key(conditions) != key(&old.conditions)
        || (opened_at, sold_out_at, finished_at) != (&old.opened_at, &old.sold_out_at, &old.finished_at)
}

/// `kafka_outage`: see [`StatusInputs`].
fn open_condition(
    state: &'static str,
    hold: Option<&str>,
    progress: &Progress,
    kafka_outage: Option<&Blocker>,
) -> NewCondition {
    let blocker = if let Progress::Blocked(blocker) = progress { Some(blocker) } else { None };
    let mut blockers = blocker.into_iter().chain(kafka_outage).filter(|_| state == reason::OPEN);
    let open = || NewCondition::new(condition::OPEN, state == reason::OPEN, state, state::message(state, hold));
    blockers.find_map(blocked_open).unwrap_or_else(open)
}

/// The condition `Open` of an event that would be open without the blocker. None: its coupons are issued all the same.
fn blocked_open(Blocker { reason, message, issuing }: &Blocker) -> Option<NewCondition> {
    let status = match issuing {
        Issuing::Continues => return None,
        Issuing::Suspended => "False",
        Issuing::Unknown => "Unknown",
    };
    Some(NewCondition::with_status(condition::OPEN, status, reason, message))
}

fn ready_condition(
    desired: &DesiredState,
    observed: &ObservedState,
    progress: &Progress,
    state: &'static str,
    topic_mismatches: &[String],
) -> NewCondition {
    let condition = |is_true, reason, message: String| NewCondition::new(condition::READY, is_true, reason, message);
    match progress {
        Progress::Preloading(message) => condition(false, preload_reason(observed), message.clone()),
        Progress::AwaitingCodes(message) => condition(false, reason::AWAITING_CODES, message.clone()),
        Progress::Blocked(Blocker { reason, message, .. }) => condition(false, reason, message.clone()),
        Progress::Done if is_retired(desired, observed) => {
            condition(true, reason::RETIRED, "The event is over, and its coupons were removed from Redis.".to_owned())
        }
        Progress::Done if state == reason::CLOSED => {
            condition(true, reason::CLOSED, state::message(state, None).into_owned())
        }
        Progress::Done => {
            let warning = if topic_mismatches.is_empty() {
                String::new()
            } else {
                format!(" Kafka does not match the operator's settings: {}.", topic_mismatches.join("; "))
            };
            let guessable = guessable_warning(&observed.imports).unwrap_or_default();
            let verb = if observed.imports.is_empty() { "generated" } else { "imported" };
            let message = format!("All {} coupons are {verb} and loaded.{guessable}{warning}", desired.total);
            condition(true, reason::STOCK_COMPLETE, message)
        }
    }
}

fn preload_condition(desired: &DesiredState, observed: &ObservedState, progress: &Progress) -> NewCondition {
    let condition =
        |is_true, reason, message: String| NewCondition::new(condition::PRELOADED, is_true, reason, message);
    let len = observed.generated();
    let loaded = observed.redis_event(desired).map_or(0, |in_redis| in_redis.loaded);
    match progress {
        Progress::Preloading(message) => condition(false, preload_reason(observed), message.clone()),
        Progress::AwaitingCodes(message) => condition(false, reason::AWAITING_CODES, message.clone()),
        _ if is_retired(desired, observed) => {
            let message = format!("All {len} coupons were removed from Redis after the end; they remain in Postgres.");
            condition(true, reason::RETIRED, message)
        }
        _ if len > 0 && loaded == len => {
            condition(true, reason::STOCK_COMPLETE, format!("All {len} coupons in Postgres are loaded into Redis."))
        }
        Progress::Blocked(Blocker { reason, message, .. }) => condition(false, reason, message.clone()),
        Progress::Done => {
            condition(false, reason::CLOSED, "The event was closed before its coupons were loaded.".to_owned())
        }
    }
}

/// A sentence if codes of an import are easier to guess than generated ones.
fn guessable_warning(imports: &[ImportedCodes]) -> Option<String> {
    let bits = imports.iter().map(|import| import.file.guess_bits).min().filter(|bits| *bits < MIN_GUESS_BITS)?;
    Some(format!(
        " The imported codes can be guessed: they are short or consecutive, and about one of {} guesses matches a \
         code.",
        1_u64 << bits
    ))
}

fn import_status(import: &ImportedCodes) -> Option<ImportStatus> {
    Some(ImportStatus { count: import.count, sha256: import.file.hash(), imported_at: to_time(import.imported_at)? })
}

fn is_retired(desired: &DesiredState, observed: &ObservedState) -> bool {
    observed.redis_event(desired).is_some_and(|in_redis| in_redis.retired.is_some())
}

fn preload_reason(observed: &ObservedState) -> &'static str {
    let is_opening_final = observed.stored.as_ref().is_some_and(|stored| stored.is_opening_final);
    let was_complete = observed.redis.as_ref().is_some_and(|redis| redis.gate != Gate::Loading);
    if is_opening_final && was_complete { reason::TOPPING_UP } else { reason::PRELOADING }
}

fn recorded_condition(issued: u64, is_all_recorded: bool, recording: RecordingState) -> NewCondition {
    let (reason, message) = match (issued, is_all_recorded) {
        (0, true) => (reason::NOTHING_ISSUED, "No coupons have been issued yet."),
        (_, true) => (reason::ALL_RECORDED, "All issued coupons are recorded in Postgres."),
        (_, false) if recording.is_stalled() => (reason::RECORDING_STALLED, recording::STALLED_MESSAGE),
        (_, false) => (reason::RECORDING, "Issued coupons are being recorded in Postgres."),
    };
    NewCondition::new(condition::RECORDED, is_all_recorded, reason, message)
}

fn balanced_condition(count_mismatch: Option<&CountMismatch>) -> NewCondition {
    match count_mismatch {
        None => NewCondition::new(condition::BALANCED, true, reason::COUNTS_MATCH, "All coupons are accounted for."),
        Some(CountMismatch { message, .. }) => {
            NewCondition::new(condition::BALANCED, false, reason::DRIFT_FOUND, message)
        }
    }
}

fn stalled_condition(progress: &Progress) -> NewCondition {
    match progress {
        Progress::Blocked(Blocker { reason, message, .. }) => {
            NewCondition::new(condition::STALLED, true, reason, message)
        }
        Progress::Preloading(_) | Progress::AwaitingCodes(_) | Progress::Done => {
            NewCondition::new(condition::STALLED, false, reason::NOT_STALLED, "The reconciliation is not blocked.")
        }
    }
}

/// Since when a state holds: the previous time, or now.
fn since(previous: Option<&Time>, holds: bool, now: Timestamp) -> Option<Time> {
    holds.then(|| previous.cloned().unwrap_or_else(|| truncate_to_seconds(now)))
}

fn to_time(milliseconds: i64) -> Option<Time> {
    Timestamp::from_millisecond(milliseconds).ok().map(truncate_to_seconds)
}

#[cfg(test)]
mod tests;
