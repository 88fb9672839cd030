//! `POST /coupons/preload`

use std::sync::Arc;

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

use super::{Admin, BODY_TIMEOUT, Refusal, answer, caller};

/// Whose fields a manifest is that was made here.
const FIELD_MANAGER: &str = "couponry-admin";
/// Who asked for it.
const REQUESTED_BY: &str = "couponry.dev/requested-by";

/// The event to make. What the values may be is up to the rules of `CouponEvent`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PreloadRequest {
    /// The event that clients will name: the name of its `CouponEvent`.
    #[schema(max_length = 63, example = "summer")]
    event_id: String,
    /// What people call the promotion.
    #[schema(min_length = 1, max_length = 200, example = "Summer sale")]
    coupon_policy_name: String,
    /// How many coupons there are.
    #[schema(minimum = 1, maximum = 10_000_000, example = 100_000)]
    total_coupon_count: i64,
    /// What they are worth.
    #[schema(min_items = 1, max_items = 20)]
    discount_policies: Vec<DiscountPolicy>,
    /// From when on users get coupons (RFC 3339). Without it: as soon as the coupons are loaded.
    #[schema(format = DateTime, example = "2026-12-01T00:00:00Z")]
    start_time: Option<String>,
    /// From when on users get no more coupons (RFC 3339). Without it: until they are used up.
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
    /// How many percent, or how many units of currency.
    #[schema(minimum = 1, example = 10)]
    value: i64,
    /// Its share of the coupons, in whole percent. Over all discounts they sum to 100.
    #[schema(minimum = 1, maximum = 100, example = 70)]
    allocation_percentage: i64,
}

/// The event that there is now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    /// The event that clients name.
    #[schema(example = "summer")]
    event_id: String,
    /// What tells it from others that had or will have its name.
    uid: String,
    /// The namespace of its `CouponEvent`, whose status says how far it is.
    namespace: String,
    /// Whether this request made it. False: it was there already, as asked for.
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
        // As manifests write them. What is neither is for the API server to refuse.
        let known = ["Percent", "Amount"].into_iter().find(|kind| kind.eq_ignore_ascii_case(&self.r#type));
        json!({
            "type": known.unwrap_or(&self.r#type),
            "value": self.value,
            "allocationPercentage": self.allocation_percentage,
        })
    }
}

/// Make an event
///
/// Asking again for the same is safe: it is made once.
#[utoipa::path(
    post,
    path = "/coupons/preload",
    request_body = PreloadRequest,
    responses(
        (status = 202, description = "There is such an event now; its coupons are being made", body = Accepted),
        (status = 400, description = "The request cannot be read", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or none that Kubernetes takes", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The caller may not create couponevents, or a quota is used up", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another event has this name", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The event breaks a rule; the detail says which", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The outcome is not known: ask again", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn preload(
    State(admin): State<Arc<Admin>>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let (parts, body) = request.into_parts();
    // Before the body: who may not ask is not listened to.
    let caller = {
        let _slot = admin.slot()?;
        caller::authorize(&admin, &parts.headers).await?
    };
    // Without a slot: who sends slowly must not keep the others out.
    let wanted: PreloadRequest = body::json(&parts.headers, body, BODY_TIMEOUT).await?;
    let _slot = admin.slot()?;

    let kind = ApiResource::erase::<CouponEvent>(&());
    let mut object = DynamicObject::new(&wanted.event_id, &kind).data(json!({"spec": wanted.spec()}));
    object.annotations_mut().insert(REQUESTED_BY.to_owned(), caller.clone());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let (uid, created) = match answer(admin.events.create(&params, &object)).await {
        Ok(made) => (made.uid().unwrap_or_default(), true),
        Err(Refusal::Said(status)) if status.reason == "AlreadyExists" => (existing(&admin, &wanted).await?, false),
        Err(Refusal::Said(status)) => return Err(refused(&status)),
        Err(silent @ Refusal::Silent(_)) => return Err(silent.unavailable("cannot create a CouponEvent")),
    };
    tracing::info!(event = wanted.event_id, caller, created, "asked for an event");
    let accepted = Accepted { event_id: wanted.event_id, uid, namespace: admin.namespace.clone(), created };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// The uid of the event of this name, if it is as wanted: the answer to an earlier request may have been lost.
async fn existing(admin: &Admin, wanted: &PreloadRequest) -> Result<String, Problem> {
    let name = &wanted.event_id;
    let found = Api::<DeserializeGuard<CouponEvent>>::namespaced(admin.client.clone(), &admin.namespace);
    let found = answer(found.get(name)).await.map_err(|refusal| refusal.unavailable("cannot read a CouponEvent"))?;
    if found.meta().deletion_timestamp.is_some() {
        return Err(Problem::conflict(format!("the event {name} is being deleted: wait until it is gone")));
    }
    let found = found.0.map_err(|invalid| {
        let error = invalid.error;
        Problem::conflict(format!(
            "there is an event {name} already, and it cannot be read: {error}; correct it with kubectl"
        ))
    })?;
    let is_as_wanted = serde_json::from_value(wanted.spec()).is_ok_and(|spec| is_same(&found.spec, &spec));
    if !is_as_wanted {
        return Err(Problem::conflict(format!(
            "there is an event {name} already, and it is another one: take another eventId, or change the event with kubectl"
        )));
    }
    Ok(found.uid().unwrap_or_default())
}

/// Whether two events are the same in all that a request can say. An operator may have paused it since, for example.
fn is_same(found: &CouponEventSpec, wanted: &CouponEventSpec) -> bool {
    found.policy_name == wanted.policy_name
        && found.total_count == wanted.total_count
        && found.discounts == wanted.discounts
        && found.window() == wanted.window()
}

/// What the API server says about the event, as it says it.
fn refused(status: &Status) -> Problem {
    match status.code {
        400 => Problem::invalid(&status.message),
        403 => Problem::forbidden(&status.message),
        409 => Problem::conflict(&status.message),
        422 => Problem::refused(&status.message),
        _ => {
            tracing::warn!(error = status.message, "cannot create a CouponEvent");
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
    fn a_request_becomes_a_manifest() {
        let wanted = request(json!({
            "eventId": "summer", "couponPolicyName": "Summer sale", "totalCouponCount": 10,
            "discountPolicies": [
                {"type": "PERCENT", "value": 10, "allocationPercentage": 70},
                {"type": "Amount", "value": 5000, "allocationPercentage": 30},
            ],
            "endTime": "2026-12-02T00:00:00Z",
        }));
        let spec: CouponEventSpec = serde_json::from_value(wanted.unwrap().spec()).unwrap();
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
    fn a_slip_of_the_pen_is_not_passed_over() {
        let slip = json!({"eventId": "e", "couponPolicyName": "p", "totalCouponCount": 1, "discountPolicies": [], "endTme": ""});
        let error = request(slip).map(drop).unwrap_err().to_string();
        assert!(error.contains("unknown field `endTme`"), "{error}");
    }
}
