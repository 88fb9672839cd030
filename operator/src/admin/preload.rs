//! `POST /coupons/preload`: creates a `CouponEvent`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
};
use couponry_crds::{CouponEvent, CouponEventSpec};
use couponry_runtime::{Problem, body};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{ApiResource, DynamicObject, PostParams},
    core::{DeserializeGuard, Status},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::admin::{
    authorization::authorize,
    state::{AdminState, CallError, call},
};

/// Time for receiving the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Field manager of the manifests that this API creates.
const FIELD_MANAGER: &str = "couponry-admin";
/// Annotation with the caller.
const REQUESTED_BY: &str = "couponry.dev/requested-by";

/// The event to create. The validation rules of `CouponEvent` apply to the values.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PreloadRequest {
    /// The id that clients send: the name of the `CouponEvent`.
    #[schema(max_length = 63, example = "summer")]
    event_id: String,
    /// Name of the promotion.
    #[schema(min_length = 1, max_length = 200, example = "Summer sale")]
    coupon_policy_name: String,
    /// Number of coupons.
    #[schema(minimum = 1, maximum = 10_000_000, example = 100_000)]
    total_coupon_count: i64,
    /// Discounts of the coupons.
    #[schema(min_items = 1, max_items = 20)]
    discount_policies: Vec<DiscountPolicy>,
    /// When issuing starts (RFC 3339). Default: as soon as the coupons are loaded.
    #[schema(format = DateTime, example = "2026-12-01T00:00:00Z")]
    start_time: Option<String>,
    /// When issuing ends (RFC 3339). Default: when the coupons are sold out.
    #[schema(format = DateTime, example = "2026-12-02T00:00:00Z")]
    end_time: Option<String>,
}

/// A discount and its share of the coupons.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DiscountPolicy {
    /// PERCENT or AMOUNT.
    #[schema(example = "PERCENT")]
    r#type: String,
    /// Percent, or minor units of the currency.
    #[schema(minimum = 1, example = 10)]
    value: i64,
    /// Share of the coupons in whole percent. The shares of all discounts sum to 100.
    #[schema(minimum = 1, maximum = 100, example = 70)]
    allocation_percentage: i64,
}

/// The created or existing event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    /// The id that clients send.
    #[schema(example = "summer")]
    event_id: String,
    /// The uid of the `CouponEvent`, which distinguishes it from earlier and later events with the same name.
    uid: String,
    /// The namespace of the `CouponEvent`, whose status shows the progress.
    namespace: String,
    /// Whether this request created it. False: it existed with the same values.
    created: bool,
}

impl PreloadRequest {
    fn spec(&self) -> Value {
        let discounts: Vec<_> = self.discount_policies.iter().map(DiscountPolicy::spec).collect();
        let mut spec = json!({
            "policyName": self.coupon_policy_name,
            "totalCount": self.total_coupon_count,
            "discounts": discounts,
        });
        for (field, time) in [("startTime", &self.start_time), ("endTime", &self.end_time)] {
            if let Some(time) = time {
                spec[field] = json!(time);
            }
        }
        spec
    }
}

impl DiscountPolicy {
    fn spec(&self) -> Value {
        // As in manifests. The API server rejects any other value.
        let known = ["Percent", "Amount"].into_iter().find(|kind| kind.eq_ignore_ascii_case(&self.r#type));
        json!({
            "type": known.unwrap_or(&self.r#type),
            "value": self.value,
            "allocationPercentage": self.allocation_percentage,
        })
    }
}

/// Create an event
///
/// Idempotent: a repeated request with the same values does not create another event.
#[utoipa::path(
    post,
    path = "/coupons/preload",
    request_body = PreloadRequest,
    responses(
        (status = 202, description = "The event exists and its coupons are being generated", body = Accepted),
        (status = 400, description = "The request is not valid",
            body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing, or Kubernetes rejects it",
            body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The caller is not allowed to create couponevents, or a quota is exceeded",
            body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body was not received in time",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A different event has this name",
            body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large",
            body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The event violates a validation rule, which the detail names",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The outcome is unknown: retry the request",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn preload(
    State(state): State<Arc<AdminState>>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let (parts, body) = request.into_parts();
    // Before the body is read, so that an unauthorized caller cannot make the server read it.
    let caller = {
        let _slot = state.acquire_slot()?;
        authorize(&state, &parts.headers).await?
    };
    // Without a slot, so that a slow sender does not block other callers.
    let requested: PreloadRequest = body::json(&parts.headers, body, BODY_TIMEOUT).await?;
    let _slot = state.acquire_slot()?;

    let kind = ApiResource::erase::<CouponEvent>(&());
    let mut object = DynamicObject::new(&requested.event_id, &kind).data(json!({"spec": requested.spec()}));
    object.annotations_mut().insert(REQUESTED_BY.to_owned(), caller.clone());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let (uid, created) = match call(state.events.create(&params, &object)).await {
        Ok(created) => (created.uid().unwrap_or_default(), true),
        Err(CallError::Rejected(status)) if status.reason == "AlreadyExists" => {
            (find_existing(&state, &requested).await?, false)
        }
        Err(CallError::Rejected(status)) => return Err(to_problem(&status)),
        Err(error @ CallError::NoResponse(_)) => return Err(error.unavailable("create a CouponEvent")),
    };
    tracing::info!(event = requested.event_id, caller, created, "preload requested");
    let accepted = Accepted { event_id: requested.event_id, uid, namespace: state.namespace.clone(), created };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// The uid of the existing event, if it has the requested values: the response to an earlier request may have been
/// lost.
async fn find_existing(state: &AdminState, requested: &PreloadRequest) -> Result<String, Problem> {
    let name = &requested.event_id;
    let found = Api::<DeserializeGuard<CouponEvent>>::namespaced(state.client.clone(), &state.namespace);
    let found = call(found.get(name)).await.map_err(|error| error.unavailable("read a CouponEvent"))?;
    if found.meta().deletion_timestamp.is_some() {
        return Err(Problem::conflict(format!("the event {name} is being deleted; retry when it no longer exists")));
    }
    let found = found.0.map_err(|invalid| {
        let error = invalid.error;
        Problem::conflict(format!("the event {name} already exists and is invalid: {error}; correct it with kubectl"))
    })?;
    let is_as_requested = serde_json::from_value(requested.spec()).is_ok_and(|spec| is_same(&found.spec, &spec));
    if !is_as_requested {
        return Err(Problem::conflict(format!(
            "the event {name} already exists with different values; use another eventId, or change the event with \
             kubectl"
        )));
    }
    Ok(found.uid().unwrap_or_default())
}

/// Whether two events are the same in all fields of a request. Other fields may differ, for example if it was paused
/// since.
fn is_same(found: &CouponEventSpec, requested: &CouponEventSpec) -> bool {
    found.policy_name == requested.policy_name
        && found.total_count == requested.total_count
        && found.discounts == requested.discounts
        && found.window() == requested.window()
}

/// The API server's message, unchanged.
fn to_problem(status: &Status) -> Problem {
    match status.code {
        400 => Problem::invalid(&status.message),
        403 => Problem::forbidden(&status.message),
        409 => Problem::conflict(&status.message),
        422 => Problem::unprocessable(&status.message),
        _ => {
            tracing::warn!(error = status.message, operation = "create a CouponEvent", "call to the API server failed");
            Problem::unavailable(&status.message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Value) -> Result<PreloadRequest, serde_json::Error> {
        serde_json::from_value(body)
    }

    #[test]
    fn request_maps_to_the_same_spec_as_a_manifest() {
        let requested = request(json!({
            "eventId": "summer", "couponPolicyName": "Summer sale", "totalCouponCount": 10,
            "discountPolicies": [
                {"type": "PERCENT", "value": 10, "allocationPercentage": 70},
                {"type": "Amount", "value": 5000, "allocationPercentage": 30},
            ],
            "endTime": "2026-12-02T00:00:00Z",
        }));
        let spec: CouponEventSpec = serde_json::from_value(requested.unwrap().spec()).unwrap();
        let manifest: CouponEventSpec = serde_json::from_value(json!({
            "policyName": "Summer sale", "totalCount": 10, "endTime": "2026-12-02T09:00:00+09:00",
            "discounts": [
                {"type": "Percent", "value": 10, "allocationPercentage": 70},
                {"type": "Amount", "value": 5000, "allocationPercentage": 30},
            ],
            "issuance": "Paused",
        }))
        .unwrap();
        assert!(is_same(&manifest, &spec));
        assert!(!is_same(&CouponEventSpec { total_count: 11, ..manifest }, &spec));
    }

    #[test]
    fn request_with_unknown_field_is_rejected() {
        let misspelled = json!({
            "eventId": "e", "couponPolicyName": "p", "totalCouponCount": 1, "discountPolicies": [], "endTme": "",
        });
        let error = request(misspelled).map(drop).unwrap_err().to_string();
        assert!(error.contains("unknown field `endTme`"), "{error}");
    }
}
