//! An event as the page shows it.

use couponry_crds::{CouponEvent, HOLD, status::reason};
use couponry_domain::allocation::split;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{ResourceExt as _, core::DeserializeGuard};
use serde_json::{Value, json};

use crate::view::{self, Health};

/// Longer messages of conditions are cut off.
const MAX_MESSAGE_CHARS: usize = 1000;

pub(super) fn name(event: &DeserializeGuard<CouponEvent>) -> String {
    event.name_any()
}

/// The view. An object that does not match the schema has an error instead of counts.
pub(super) fn event(DeserializeGuard(event): &DeserializeGuard<CouponEvent>) -> Value {
    match event {
        Ok(event) => valid(event),
        Err(invalid) => {
            json!({"name": invalid.metadata.name, "state": reason::INVALID_OBJECT, "error": cut(&invalid.error)})
        }
    }
}

/// Text from the cluster, without control characters.
fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(MAX_MESSAGE_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    view::sanitize(&cut)
}

fn valid(event: &CouponEvent) -> Value {
    let status = event.status.clone().unwrap_or_default();
    let spec = &event.spec;
    let millis = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_millisecond());
    let conditions: Vec<Value> = status.conditions.iter().map(condition).collect();
    json!({
        "name": event.name_any(),
        "uid": event.uid(),
        "policyName": view::sanitize(&spec.policy_name),
        "state": view::state(event),
        "issuance": spec.issuance,
        "hold": event.annotations().get(HOLD).map(|reason| cut(reason)),
        "total": spec.total_count,
        "loaded": status.loaded,
        "issued": status.issued,
        "recorded": status.recorded,
        "available": status.available,
        "redeemed": status.redeemed,
        "balance": status.balance,
        "discounts": discounts(event),
        "currency": spec.currency,
        "startTime": millis(&spec.start_time),
        "endTime": millis(&spec.end_time),
        "openedAt": millis(&status.opened_at),
        "soldOutAt": millis(&status.sold_out_at),
        "finishedAt": millis(&status.finished_at),
        "isObserved": event.status.is_some() && status.observed_generation >= event.metadata.generation,
        "isDeleting": event.metadata.deletion_timestamp.is_some(),
        "conditions": conditions,
    })
}

/// The discounts with their numbers of coupons; empty if the shares of the manifest do not fit.
fn discounts(event: &CouponEvent) -> Vec<Value> {
    let (discounts, shares): (Vec<_>, Vec<_>) = event.spec.shares().unwrap_or_default().into_iter().unzip();
    let counts = split(event.spec.total_count, &shares).unwrap_or_default();
    let discounts = discounts.iter().zip(counts);
    discounts.map(|(it, count)| json!({"type": it.kind, "value": it.value, "count": count})).collect()
}

fn condition(condition: &Condition) -> Value {
    let health = match view::health(condition) {
        Health::Good => "good",
        Health::Bad => "bad",
        Health::Pending => "pending",
        Health::Unknown => "unknown",
    };
    json!({
        "type": view::sanitize(&condition.type_),
        "reason": view::sanitize(&condition.reason),
        "message": cut(&condition.message),
        "since": condition.last_transition_time.0.as_millisecond(),
        "health": health,
    })
}

/// A Kubernetes Event.
pub(super) fn kubernetes_event(event: &k8s_openapi::api::core::v1::Event) -> Value {
    let text = |text: &Option<String>| cut(text.as_deref().unwrap_or_default());
    let times = [event.last_timestamp.as_ref().map(|it| it.0), event.event_time.as_ref().map(|it| it.0)];
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|it| it.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|it| it.0);
    let at: Option<Timestamp> = [series].into_iter().chain(times).flatten().max().or(created);
    json!({
        "at": at.map(Timestamp::as_millisecond),
        "isWarning": event.type_.as_deref() == Some("Warning"),
        "reason": text(&event.reason),
        "message": text(&event.message),
    })
}
