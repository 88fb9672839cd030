//! Events as JSON, for `status --output json`.

use anyhow::Context as _;
use couponry_crds::{CouponEvent, status::reason};
use kube::{ResourceExt as _, core::DeserializeGuard};
use serde_json::{Value, json};

use crate::view;

/// An event: its manifest and its status, with the fields of the CRD, and its state.
pub(crate) fn event(event: &CouponEvent) -> anyhow::Result<Value> {
    let serialized = serde_json::to_value(event).context("cannot serialize the event")?;
    Ok(json!({
        "name": event.name_any(),
        "namespace": event.namespace(),
        "state": view::state(event),
        "spec": serialized["spec"],
        "status": serialized["status"],
    }))
}

/// A list of events. One that does not match the current schema has an error instead of its manifest.
pub(crate) fn events(events: &[DeserializeGuard<CouponEvent>]) -> anyhow::Result<Value> {
    let events = events.iter().map(|guard| match &guard.0 {
        Ok(event) => self::event(event),
        Err(invalid) => Ok(json!({
            "name": invalid.metadata.name,
            "namespace": invalid.metadata.namespace,
            "state": reason::INVALID_OBJECT,
            "error": invalid.error,
        })),
    });
    events.collect()
}
