//! Objects that do not match the schema: stored under an older CRD, or written by another version.
//!
//! Their metadata and some of their fields are known. Their gate stays as the last valid manifest set it, because
//! closing is permanent, and the cause may be a typo. To close it, an administrator corrects or deletes the object.

use couponry_crds::{CouponEvent, CouponEventSpec, DeletionPolicy, status::reason};
use kube::{api::DynamicObject, core::error_boundary::InvalidObject, runtime::controller::Action};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    blocker::Blocker,
    context::Context,
    kube_events::{self, KubeEvent},
    metrics::ReconcileResult,
    reconcile::{error::ReconcileError, finalizer, status_writer::StatusWriter, timing::IDLE_INTERVAL},
};

/// The event, or a placeholder that is sufficient for its cleanup.
pub(crate) fn parse_or_placeholder(object: DynamicObject) -> CouponEvent {
    object.clone().try_parse().unwrap_or_else(|_| placeholder(object))
}

/// Has the metadata, and the deletion policy and status if these are valid. An invalid policy counts as `Retain`.
fn placeholder(DynamicObject { metadata, data, .. }: DynamicObject) -> CouponEvent {
    let spec: CouponEventSpec = serde_json::from_value(json!({"policyName": "", "totalCount": 0, "discounts": []}))
        .expect("all required fields are set");
    let deletion_policy = field(&data, "/spec/deletionPolicy").unwrap_or(DeletionPolicy::Retain);
    let status = field(&data, "/status");
    CouponEvent { metadata, spec: CouponEventSpec { deletion_policy, ..spec }, status }
}

fn field<T: DeserializeOwned>(data: &Value, path: &str) -> Option<T> {
    T::deserialize(data.pointer(path)?).ok()
}

/// Reports that the object is invalid; removes its data if it was deleted.
pub(crate) async fn reconcile_invalid(
    invalid: &InvalidObject,
    context: &Context,
) -> Result<(ReconcileResult, Action), ReconcileError> {
    tracing::warn!(error = %invalid.error, "invalid object");
    let name = invalid.metadata.name.as_deref().unwrap_or_default();
    let blocked_until_changed = Ok((ReconcileResult::Blocked, Action::await_change()));
    let found = context.raw_events().get_opt(name).await;
    let found = found.map_err(|error| ReconcileError::kubernetes("read the invalid object", error))?;
    let Some(object) = found.filter(|found| found.metadata.uid == invalid.metadata.uid) else {
        return blocked_until_changed;
    };
    if object.clone().try_parse::<CouponEvent>().is_ok() {
        // It has been corrected, so the watch will deliver it again.
        return blocked_until_changed;
    }
    let has_status = object.data.get("status").is_some_and(|status| !status.is_null());
    let event = placeholder(object);
    if event.metadata.deletion_timestamp.is_some() {
        return finalizer::cleanup(event, context, context.deletion_timeout).await;
    }
    let message = format!(
        "The object is invalid: {}. Its changes are ignored, and an open event stays open. Correct it with `kubectl \
         edit ce {name}`, or delete it.",
        invalid.error
    );
    if has_status && event.status.is_none() {
        // Replacing a status that cannot be parsed could lose openedAt.
        let kube_event = KubeEvent::warning(reason::INVALID_OBJECT, message);
        kube_events::publish(&context.recorder, &event, &[kube_event]).await;
        return blocked_until_changed;
    }
    let generation = event.metadata.generation.unwrap_or_default();
    let blocker = Blocker::new(reason::INVALID_OBJECT, message);
    StatusWriter::new(context, event).report_blocked(generation, &blocker, None).await?;
    Ok((ReconcileResult::Blocked, Action::requeue(IDLE_INTERVAL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholder_of_invalid_object_has_its_valid_fields() {
        let object = |deletion_policy: &str, status: Value| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "couponry.dev/v1alpha1",
                "kind": "CouponEvent",
                "metadata": {"name": "odd", "finalizers": [finalizer::NAME]},
                "spec": {"policyName": "p", "endTime": "9999-12-31T23:59:59Z", "deletionPolicy": deletion_policy},
                "status": status,
            }))
            .unwrap()
        };
        let event = parse_or_placeholder(object("Delete", json!({"issued": 3})));
        assert!(finalizer::is_present(&event));
        assert_eq!(event.spec.deletion_policy, DeletionPolicy::Delete);
        assert_eq!(event.status.unwrap().issued, Some(3));
        let event = parse_or_placeholder(object("Burn", json!({"issued": "three"})));
        assert_eq!(event.spec.deletion_policy, DeletionPolicy::Retain, "an invalid policy keeps the rows");
        assert_eq!(event.status, None);
    }
}
