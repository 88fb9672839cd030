//! `/openapi.json`: the documentation of the routes, with the patterns of names and the
//! authentication of this redeemer.

use couponry_domain::names::{
    EVENT_NAME_PATTERN, MAX_EVENT_NAME_BYTES, MAX_ORDER_ID_CHARACTERS, MAX_REQUEST_ID_CHARACTERS, MAX_USER_ID_BYTES,
    USER_ID_PATTERN,
};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::{change, coupon};

/// The parts that are not derived from the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Couponry redeemer",
        description = "Reserves, redeems and releases issued coupons. For the servers of a shop.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(change::validate, change::reserve, change::redeem, change::release, coupon::coupon)
)]
struct ApiDoc;

/// The OpenAPI document.
pub(super) fn document(requires_token: bool) -> Value {
    let mut document = serde_json::to_value(ApiDoc::openapi()).unwrap_or_default();
    // JSON Schema counts characters, not bytes; a character has at least one byte.
    let rules = [
        ("eventId", json!({"minLength": 1, "maxLength": MAX_EVENT_NAME_BYTES, "pattern": EVENT_NAME_PATTERN})),
        ("couponKey", json!({"minLength": 1, "maxLength": 64, "pattern": "^[A-Z0-9-]+$"})),
        ("userId", json!({"minLength": 1, "maxLength": MAX_USER_ID_BYTES, "pattern": USER_ID_PATTERN})),
        ("orderId", json!({"minLength": 1, "maxLength": MAX_ORDER_ID_CHARACTERS, "pattern": "^[!-~]+$"})),
        (
            "Idempotency-Key",
            json!({"minLength": 1, "maxLength": MAX_REQUEST_ID_CHARACTERS, "pattern": r"^[!#-\[\]-~]+$"}),
        ),
    ];
    for (name, rule) in &rules {
        add(&mut document, &format!("/components/schemas/CouponRequest/properties/{name}"), rule);
    }
    let operations = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let operations = operations.flat_map(|path| path.as_object_mut().into_iter().flat_map(|path| path.values_mut()));
    let parameters = operations.filter_map(|operation| operation.get_mut("parameters")?.as_array_mut());
    for parameter in parameters.flatten() {
        if let Some((_, rule)) = rules.iter().find(|(name, _)| parameter["name"] == *name) {
            add(parameter, "/schema", rule);
        }
    }
    if requires_token {
        document["components"]["securitySchemes"] = json!({"caller": {"type": "http", "scheme": "bearer"}});
        document["security"] = json!([{"caller": []}]);
    }
    document
}

fn add(document: &mut Value, pointer: &str, more: &Value) {
    let place = document.pointer_mut(pointer).and_then(Value::as_object_mut);
    if let (Some(place), Some(more)) = (place, more.as_object()) {
        place.extend(more.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openapi_document_matches_the_snapshot() {
        let mut document = document(true);
        document["info"]["version"] = json!("VERSION");
        // Their order depends on a feature of serde_json that other packages of the same build may enable.
        insta::with_settings!({sort_maps => true}, { insta::assert_yaml_snapshot!("openapi", document) });
    }
}
