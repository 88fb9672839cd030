//! Kubernetes Events: what `kubectl describe ce` tells of an event's life.
//!
//! Each is derived from two reports that follow each other, and told by the operator whose report the API server took: once
//! for each transition, however often it is looked at, and whoever else looks.

use couponry_crds::{
    CouponEvent, CouponEventStatus,
    status::{condition, reason},
};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Resource as _,
    runtime::events::{Event, EventType, Recorder},
};

/// The reasons of the Events that are not reasons of a condition.
const PRELOAD_STARTED: &str = "PreloadStarted";
const PRELOAD_COMPLETED: &str = "PreloadCompleted";
const TOPPED_UP: &str = "ToppedUp";
const OPENED: &str = "Opened";
const PAUSED: &str = "Paused";
const RESUMED: &str = "Resumed";
const SOLD_OUT: &str = "SoldOut";
const ENDED: &str = "Ended";
const BALANCED: &str = "Balanced";
const RECOVERED: &str = "Recovered";
const SCALING_UP: &str = "ScalingUp";
const SCALED_UP: &str = "ScaledUp";
/// What was left when an event had to be deleted without its backends.
pub(crate) const CLEANUP_INCOMPLETE: &str = "CleanupIncomplete";

/// Something to tell about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) is_warning: bool,
    pub(crate) reason: String,
    pub(crate) note: String,
}

impl Notice {
    fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self { is_warning: false, reason: reason.to_owned(), note: note.into() }
    }

    pub(crate) fn warning(reason: &str, note: impl Into<String>) -> Self {
        Self { is_warning: true, reason: reason.to_owned(), note: note.into() }
    }
}

/// What happened between two reports on an event that ends at `end`.
pub(crate) fn between(old: &CouponEventStatus, new: &CouponEventStatus, end: Option<&Time>) -> Vec<Notice> {
    let reason = |status: &CouponEventStatus, type_: &str| {
        status.condition(type_).map(|condition| condition.reason.clone()).unwrap_or_default()
    };
    let holds =
        |status: &CouponEventStatus, type_: &str| status.condition(type_).is_some_and(|found| found.status == "True");
    let message = |type_: &str| new.condition(type_).map(|condition| condition.message.clone()).unwrap_or_default();
    let (was, is) = (reason(old, condition::OPEN), reason(new, condition::OPEN));
    let (work_before, work_now) = (reason(old, condition::PRELOADED), reason(new, condition::PRELOADED));
    let preloaded = new.loaded.unwrap_or_default();

    let mut notices = Vec::new();
    if work_now == reason::PRELOADING && work_before != reason::PRELOADING {
        notices.push(Notice::normal(PRELOAD_STARTED, message(condition::PRELOADED)));
    }
    if holds(new, condition::PRELOADED) && !holds(old, condition::PRELOADED) {
        if work_before == reason::TOPPING_UP {
            notices.push(Notice::normal(TOPPED_UP, format!("The event has {preloaded} coupons now")));
        } else {
            notices.push(Notice::normal(PRELOAD_COMPLETED, format!("{preloaded} coupons are in Postgres and Redis")));
        }
    }
    // An event whose end was past before it could open has not opened for anyone.
    let before_its_end = |at: &Time| end.is_none_or(|end| at < end);
    let has_opened = old.opened_at.is_none() && new.opened_at.as_ref().is_some_and(before_its_end);
    if has_opened || (is == reason::OPEN && was == reason::ENDED) {
        notices.push(Notice::normal(OPENED, "Users get coupons"));
    }
    if is == reason::PAUSED && was != is {
        notices.push(Notice::normal(PAUSED, "Held by issuance Paused"));
    }
    if was == reason::PAUSED
        && matches!(is.as_str(), reason::OPEN | reason::SCHEDULED | reason::SOLD_OUT)
        && !has_opened
    {
        notices.push(Notice::normal(RESUMED, "No longer held"));
    }
    if old.sold_out_at.is_none() && new.sold_out_at.is_some() {
        notices.push(Notice::normal(SOLD_OUT, "Every coupon is with a user"));
    }
    let over = |state: &str| matches!(state, reason::ENDED | reason::CLOSED);
    if over(&is) && !over(&was) {
        notices.push(Notice::normal(ENDED, message(condition::OPEN)));
    }
    notices.extend(retirement(old, new));
    notices.extend(balance(old, new));
    notices.extend(scaling(old, new));
    let stalled = reason(new, condition::STALLED);
    if reason(old, condition::STALLED) == reason::REDIS_CHANGED && !holds(new, condition::STALLED) {
        notices.push(Notice::normal(RECOVERED, "Redis is whole: coupons are given as the manifest says"));
    }
    let is_told = stalled == reason::DRIFT_FOUND && fails(new, condition::BALANCED);
    if holds(new, condition::STALLED)
        && !is_told
        && (!holds(old, condition::STALLED) || reason(old, condition::STALLED) != stalled)
    {
        notices.push(Notice::warning(&stalled, message(condition::STALLED)));
    }
    notices
}

/// The condition with this type.
fn found<'a>(status: &'a CouponEventStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    status.condition(type_).map_or(("", "", ""), |one| (&one.status, &one.reason, &one.message))
}

fn fails(status: &CouponEventStatus, type_: &str) -> bool {
    found(status, type_).0 == "False"
}

fn retirement(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<Notice> {
    let ((_, was, _), (_, is, message)) = (found(old, condition::READY), found(new, condition::READY));
    (is == reason::RETIRED && was != is).then(|| Notice::normal(reason::RETIRED, message))
}

fn balance(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<Notice> {
    let (_, _, message) = found(new, condition::BALANCED);
    match (fails(old, condition::BALANCED), fails(new, condition::BALANCED)) {
        (false, true) => Some(Notice::warning(reason::DRIFT_FOUND, message)),
        (true, false) => Some(Notice::normal(BALANCED, message)),
        _ => None,
    }
}

fn scaling(old: &CouponEventStatus, new: &CouponEventStatus) -> Option<Notice> {
    let ((_, was, _), (_, is, message)) = (found(old, condition::SCALED), found(new, condition::SCALED));
    if was == is {
        return None;
    }
    match is {
        reason::ISSUERS_READY => Some(Notice::normal(SCALED_UP, message)),
        reason::ISSUERS_STARTING if matches!(was, "" | reason::SCALING_SCHEDULED | reason::SCALED_DOWN) => {
            Some(Notice::normal(SCALING_UP, message))
        }
        reason::SCALED_DOWN if !matches!(was, "" | reason::SCALING_SCHEDULED) => {
            Some(Notice::normal(reason::SCALED_DOWN, message))
        }
        reason::QUOTA_EXCEEDED
        | reason::PODS_REFUSED
        | reason::PODS_PENDING
        | reason::PODS_FAILING
        | reason::SCALING_FAILED
        | reason::SCALING_OFF => Some(Notice::warning(is, message)),
        _ => None,
    }
}

/// Tells them. What cannot be told is logged: an event's life does not depend on its story.
pub(crate) async fn publish(recorder: &Recorder, event: &CouponEvent, notices: &[Notice]) {
    let reference: ObjectReference = event.object_ref(&());
    for Notice { is_warning, reason, note } in notices {
        let name = reference.name.as_deref().unwrap_or_default();
        if *is_warning {
            tracing::warn!(event = name, reason, "{note}");
        } else {
            tracing::info!(event = name, reason, "{note}");
        }
        let event = Event {
            type_: if *is_warning { EventType::Warning } else { EventType::Normal },
            reason: reason.clone(),
            note: Some(shortened(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &reference).await {
            tracing::warn!(event = name, reason, %error, "cannot publish a Kubernetes Event");
        }
    }
}

/// The API server takes notes of up to 1 kB.
fn shortened(note: &str) -> String {
    if note.len() <= 1000 {
        return note.to_owned();
    }
    let end = (0..=1000).rev().find(|&end| note.is_char_boundary(end)).unwrap_or_default();
    format!("{}…", &note[..end])
}

#[cfg(test)]
mod tests;
