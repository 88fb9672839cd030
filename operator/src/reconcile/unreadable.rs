//! Objects that cannot be read: an older definition let them in, or another version wrote them.
//!
//! What is known of them is their metadata, and some fields of their own. Their gate stays as the last manifest set it that could
//! be read: to close it because of what may be a slip of the pen would be worse than to leave it. Who wants it closed corrects the
//! object, or deletes it.

use couponry_crds::{CouponEvent, CouponEventSpec, DeletionPolicy, status::reason};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::error_boundary::InvalidObject,
    runtime::controller::Action,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{IDLE, Obstacle, ReconcileError, Reporter};
use crate::{
    context::Context,
    finalizer,
    metrics::Outcome,
    notices::{self, Notice},
};

/// The events of our namespace, as they are stored.
pub(crate) fn stored(context: &Context) -> Api<DynamicObject> {
    let kind = ApiResource::erase::<CouponEvent>(&());
    Api::namespaced_with(context.events.clone().into_client(), context.namespace(), &kind)
}

/// The event; of one that cannot be read a stand-in, which has what is needed for its removal.
pub(crate) fn read_or_stand_in(object: DynamicObject) -> CouponEvent {
    object.clone().try_parse().unwrap_or_else(|_| stand_in(object))
}

/// Has the metadata, the deletion policy and the status, as far as they can be read. A policy that cannot be read keeps the rows.
fn stand_in(DynamicObject { metadata, data, .. }: DynamicObject) -> CouponEvent {
    let spec: CouponEventSpec = serde_json::from_value(json!({"policyName": "", "totalCount": 0, "discounts": []}))
        .expect("it has all it must");
    let deletion_policy = field(&data, "/spec/deletionPolicy").unwrap_or(DeletionPolicy::Retain);
    let status = field(&data, "/status");
    CouponEvent { metadata, spec: CouponEventSpec { deletion_policy, ..spec }, status }
}

fn field<T: DeserializeOwned>(data: &Value, path: &str) -> Option<T> {
    T::deserialize(data.pointer(path)?).ok()
}

/// Says on the object that it cannot be read; cleans up after it when it is deleted.
pub(super) async fn look(invalid: &InvalidObject, context: &Context) -> Action {
    let key = invalid.metadata.uid.as_deref().unwrap_or_default();
    match follow(invalid, context).await {
        Ok(action) => {
            context.memory.succeeded(key);
            context.metrics.reconciled(Outcome::Stuck);
            action
        }
        // Also when it is outdated: a refusal that is for the same reason as the object's looks like that.
        Err(error) => {
            context.metrics.reconciled(Outcome::Failed);
            let pause = context.memory.failed(key).pause();
            tracing::warn!(event = invalid.metadata.name, %error, "trying again in {pause:?}");
            Action::requeue(pause)
        }
    }
}

async fn follow(invalid: &InvalidObject, context: &Context) -> Result<Action, ReconcileError> {
    let name = invalid.metadata.name.as_deref().unwrap_or_default();
    let found = stored(context).get_opt(name).await;
    let found = found.map_err(|error| ReconcileError::kubernetes("reading the object that cannot be read", error))?;
    let Some(object) = found.filter(|found| found.metadata.uid == invalid.metadata.uid) else {
        return Ok(Action::await_change());
    };
    if object.clone().try_parse::<CouponEvent>().is_ok() {
        // It was corrected, and the watch will say so.
        return Ok(Action::await_change());
    }
    let has_status = object.data.get("status").is_some_and(|status| !status.is_null());
    let event = stand_in(object);
    if event.metadata.deletion_timestamp.is_some() {
        return finalizer::clean_up(event, context, context.drain_timeout).await;
    }
    let message = format!(
        "The object cannot be read: {}. Its changes are not followed, and if it was open it goes on as it was. Correct it with \
         `kubectl edit ce {name}`, or delete it",
        invalid.error
    );
    if has_status && event.status.is_none() {
        // To replace what nobody understands could forget that the event was opened.
        notices::publish(&context.recorder, &event, &[Notice::warning(reason::INVALID_OBJECT, message)]).await;
        return Ok(Action::await_change());
    }
    let generation = event.metadata.generation.unwrap_or_default();
    Reporter::new(context, event).unavailable(generation, &Obstacle { reason: reason::INVALID_OBJECT, message }).await?;
    Ok(Action::requeue(IDLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_has_what_can_be_read() {
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
        let event = read_or_stand_in(object("Delete", json!({"issued": 3})));
        assert!(finalizer::is_on(&event));
        assert_eq!(event.spec.deletion_policy, DeletionPolicy::Delete);
        assert_eq!(event.status.unwrap().issued, Some(3));
        let event = read_or_stand_in(object("Burn", json!({"issued": "three"})));
        assert_eq!(event.spec.deletion_policy, DeletionPolicy::Retain, "rather too much is kept");
        assert_eq!(event.status, None);
    }
}
