//! Kubernetes Events about an event's life, shown by `kubectl describe ce`.
//!
//! They are derived from two consecutive statuses and published by the replica whose status write succeeded, so each
//! transition is published once.

use couponry_crds::{
    CouponEvent, CouponEventStatus,
    status::{condition, reason},
};
use couponry_runtime::error_chain;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Resource as _,
    runtime::events::{Event, EventType, Recorder},
};

// Reasons that are not also the reason of a condition.
const PRELOAD_STARTED: &str = "PreloadStarted";
const PRELOAD_COMPLETED: &str = "PreloadCompleted";
const TOPPED_UP: &str = "ToppedUp";
const OPENED: &str = "Opened";
const PAUSED: &str = "Paused";
const RESUMED: &str = "Resumed";
const HOLD_RELEASED: &str = "HoldReleased";
const SOLD_OUT: &str = "SoldOut";
const ENDED: &str = "Ended";
const BALANCED: &str = "Balanced";
const RECOVERED: &str = "Recovered";
const RECORDING_RESUMED: &str = "RecordingResumed";
const SCALING_UP: &str = "ScalingUp";
const SCALED_UP: &str = "ScaledUp";
/// The operator has recorded issuances, or sent their records, because no record of them was in flight.
pub(crate) const STRANDED_RECORDED: &str = "StrandedIssuancesRecorded";
/// The finalizer was removed before all data of the event was.
pub(crate) const CLEANUP_INCOMPLETE: &str = "CleanupIncomplete";

/// The API server accepts notes of up to 1 kB.
const MAX_NOTE_LEN: usize = 1000;

/// A Kubernetes Event about a `CouponEvent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KubeEvent {
    is_warning: bool,
    reason: String,
    note: String,
}

impl KubeEvent {
    fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self { is_warning: false, reason: reason.to_owned(), note: note.into() }
    }

    pub(crate) fn warning(reason: &str, note: impl Into<String>) -> Self {
        Self { is_warning: true, reason: reason.to_owned(), note: note.into() }
    }
}

/// Status, reason and message of a condition; empty strings when it is absent.
struct ConditionView<'a> {
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

impl<'a> ConditionView<'a> {
    fn of(status: &'a CouponEventStatus, type_: &str) -> Self {
        status.condition(type_).map_or(Self { status: "", reason: "", message: "" }, |found| Self {
            status: &found.status,
            reason: &found.reason,
            message: &found.message,
        })
    }

    fn is_true(&self) -> bool {
        self.status == "True"
    }

    fn is_false(&self) -> bool {
        self.status == "False"
    }
}

/// The transitions from `old` to `new`. `end_time` is that of the manifest.
pub(crate) fn transitions(old: &CouponEventStatus, new: &CouponEventStatus, end_time: Option<&Time>) -> Vec<KubeEvent> {
    let mut events = preload(old, new);
    events.extend(issuance(old, new, end_time));
    events.extend(recording(old, new));
    events.extend(retirement(old, new));
    events.extend(balance(old, new));
    events.extend(scaling(old, new));
    events.extend(stall(old, new));
    events
}

fn preload(old: &CouponEventStatus, new: &CouponEventStatus) -> Vec<KubeEvent> {
    let (before, after) = (ConditionView::of(old, condition::PRELOADED), ConditionView::of(new, condition::PRELOADED));
    let loaded = new.loaded.unwrap_or_default();
    let mut events = Vec::new();
    if after.reason == reason::PRELOADING && before.reason != reason::PRELOADING {
        events.push(KubeEvent::normal(PRELOAD_STARTED, after.message));
    }
    if after.is_true() && !before.is_true() {
        events.push(if before.reason == reason::TOPPING_UP {
            KubeEvent::normal(TOPPED_UP, format!("The event now has {loaded} coupons."))
        } else {
            let note = format!("{loaded} coupons are generated in Postgres and loaded into Redis.");
            KubeEvent::normal(PRELOAD_COMPLETED, note)
        });
    }
    events
}

fn issuance(old: &CouponEventStatus, new: &CouponEventStatus, end_time: Option<&Time>) -> Vec<KubeEvent> {
    let (before, after) = (ConditionView::of(old, condition::OPEN), ConditionView::of(new, condition::OPEN));
    let mut events = Vec::new();
    // An event whose end passed before it could open was never open to users.
    let is_before_end = |at: &Time| end_time.is_none_or(|end| at < end);
    let has_just_opened = old.opened_at.is_none() && new.opened_at.as_ref().is_some_and(is_before_end);
    if has_just_opened || (after.reason == reason::OPEN && before.reason == reason::ENDED) {
        events.push(KubeEvent::normal(OPENED, "Issuing has started."));
    }
    if after.reason == reason::PAUSED && before.reason != reason::PAUSED {
        events.push(KubeEvent::normal(PAUSED, after.message));
    }
    if before.reason == reason::PAUSED
        && matches!(after.reason, reason::OPEN | reason::SCHEDULED | reason::SOLD_OUT)
        && !has_just_opened
    {
        events.push(KubeEvent::normal(RESUMED, "Issuing is no longer paused."));
    }
    let is_over = |state: &str| matches!(state, reason::ENDED | reason::CLOSED);
    match (before.reason == reason::HELD, after.reason == reason::HELD) {
        (false, true) => events.push(KubeEvent::normal(reason::HELD, after.message)),
        (true, false) if !is_over(after.reason) => {
            events.push(KubeEvent::normal(HOLD_RELEASED, "Issuing is no longer held."));
        }
        _ => {}
    }
    if old.sold_out_at.is_none() && new.sold_out_at.is_some() {
        events.push(KubeEvent::normal(SOLD_OUT, "All coupons are issued."));
    }
    if is_over(after.reason) && !is_over(before.reason) {
        events.push(KubeEvent::normal(ENDED, after.message));
    }
    events
}

fn recording(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<KubeEvent> {
    let (before, after) = (ConditionView::of(old, condition::RECORDED), ConditionView::of(new, condition::RECORDED));
    match (before.reason == reason::RECORDING_STALLED, after.reason == reason::RECORDING_STALLED) {
        (false, true) => Some(KubeEvent::warning(reason::RECORDING_STALLED, after.message)),
        (true, false) => Some(KubeEvent::normal(RECORDING_RESUMED, after.message)),
        _ => None,
    }
}

fn retirement(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<KubeEvent> {
    let (before, after) = (ConditionView::of(old, condition::READY), ConditionView::of(new, condition::READY));
    (after.reason == reason::RETIRED && before.reason != reason::RETIRED)
        .then(|| KubeEvent::normal(reason::RETIRED, after.message))
}

fn balance(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<KubeEvent> {
    let (before, after) = (ConditionView::of(old, condition::BALANCED), ConditionView::of(new, condition::BALANCED));
    match (before.is_false(), after.is_false()) {
        (false, true) => Some(KubeEvent::warning(reason::DRIFT_FOUND, after.message)),
        (true, false) => Some(KubeEvent::normal(BALANCED, after.message)),
        _ => None,
    }
}

fn scaling(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<KubeEvent> {
    let (before, after) = (ConditionView::of(old, condition::SCALED), ConditionView::of(new, condition::SCALED));
    if before.reason == after.reason {
        return None;
    }
    match after.reason {
        reason::ISSUERS_READY => Some(KubeEvent::normal(SCALED_UP, after.message)),
        reason::ISSUERS_STARTING if matches!(before.reason, "" | reason::SCALING_SCHEDULED | reason::SCALED_DOWN) => {
            Some(KubeEvent::normal(SCALING_UP, after.message))
        }
        reason::SCALED_DOWN if !matches!(before.reason, "" | reason::SCALING_SCHEDULED) => {
            Some(KubeEvent::normal(reason::SCALED_DOWN, after.message))
        }
        reason::QUOTA_EXCEEDED
        | reason::POD_CREATION_FAILED
        | reason::PODS_UNSCHEDULABLE
        | reason::PODS_FAILING
        | reason::SCALING_FAILED
        | reason::SCALING_DISABLED => Some(KubeEvent::warning(after.reason, after.message)),
        _ => None,
    }
}

fn stall(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<KubeEvent> {
    let (before, after) = (ConditionView::of(old, condition::STALLED), ConditionView::of(new, condition::STALLED));
    if !after.is_true() {
        return (before.reason == reason::REDIS_UNVERIFIED)
            .then(|| KubeEvent::normal(RECOVERED, "Redis is verified. Coupons are issued as the manifest specifies."));
    }
    // A mismatch of counts is already published for the Balanced condition.
    let is_published = after.reason == reason::DRIFT_FOUND && ConditionView::of(new, condition::BALANCED).is_false();
    let is_new = !before.is_true() || before.reason != after.reason;
    (is_new && !is_published).then(|| KubeEvent::warning(after.reason, after.message))
}

/// Publishes and logs the events. A failure is only logged, because reconciliation must not depend on it.
pub(crate) async fn publish(recorder: &Recorder, event: &CouponEvent, kube_events: &[KubeEvent]) {
    let reference: ObjectReference = event.object_ref(&());
    for KubeEvent { is_warning, reason, note } in kube_events {
        if *is_warning {
            tracing::warn!(reason, note, "event changed");
        } else {
            tracing::info!(reason, note, "event changed");
        }
        let kube_event = Event {
            type_: if *is_warning { EventType::Warning } else { EventType::Normal },
            reason: reason.clone(),
            note: Some(truncate(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&kube_event, &reference).await {
            tracing::warn!(reason, error = error_chain(&error), "cannot publish a Kubernetes Event");
        }
    }
}

fn truncate(note: &str) -> String {
    if note.len() <= MAX_NOTE_LEN {
        return note.to_owned();
    }
    format!("{}…", &note[..note.floor_char_boundary(MAX_NOTE_LEN)])
}

#[cfg(test)]
mod tests;
