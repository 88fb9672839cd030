//! `/openapi.json`: the documentation of the routes, with the patterns of names and the authentication scheme of this
//! issuer.

use couponry_domain::names::{EVENT_NAME_PATTERN, MAX_EVENT_NAME_BYTES, MAX_USER_ID_BYTES, USER_ID_PATTERN};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::{event, issue, user};
use crate::authentication::auth_scheme::AuthScheme;

/// The parts that are not derived from the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Couponry issuer",
        description = "Issues one coupon per user, first come, first served.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(issue::issue, user::user, event::event, event::event_named_issue)
)]
struct ApiDoc;

/// The operations that require authentication.
const AUTHENTICATED: [&str; 2] = ["/paths/~1coupons~1issue/post", "/paths/~1coupons~1{eventId}~1users~1{userId}/get"];

/// The OpenAPI document.
pub(super) fn document(auth_scheme: &AuthScheme) -> Value {
    let mut document = serde_json::to_value(ApiDoc::openapi()).unwrap_or_default();
    // JSON Schema counts characters, not bytes; a character has at least one byte.
    let event_id = json!({"maxLength": MAX_EVENT_NAME_BYTES, "minLength": 1, "pattern": EVENT_NAME_PATTERN});
    let user_id = json!({"maxLength": MAX_USER_ID_BYTES, "minLength": 1, "pattern": USER_ID_PATTERN});
    let rules = [("eventId", event_id), ("userId", user_id)];
    let body = "/components/schemas/IssueRequest";
    for (name, rule) in &rules {
        add(&mut document, &format!("{body}/properties/{name}"), rule);
    }
    for operation in document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
        for parameter in operation.pointer_mut("/get/parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            let rule = rules.iter().find(|(name, _)| parameter["name"] == *name);
            if let Some((_, rule)) = rule {
                add(parameter, "/schema", rule);
            }
        }
    }
    let scheme = match auth_scheme {
        AuthScheme::None => {
            add(&mut document, body, &json!({"required": ["userId", "eventId"]}));
            return document;
        }
        AuthScheme::Header(name) => json!({"type": "apiKey", "in": "header", "name": name.as_str()}),
        AuthScheme::Token => json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}),
    };
    // null is treated as a missing value.
    add(&mut document, &format!("{body}/properties/userId"), &json!({"type": ["string", "null"]}));
    document["components"]["securitySchemes"] = json!({ "user": scheme });
    for operation in AUTHENTICATED {
        add(&mut document, operation, &json!({"security": [{"user": []}]}));
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
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn openapi_document_matches_the_snapshot() {
        let mut document = document(&AuthScheme::None);
        document["info"]["version"] = json!("VERSION");
        // Their order depends on a feature of serde_json that other packages of the same build may enable.
        insta::with_settings!({sort_maps => true}, { insta::assert_yaml_snapshot!("openapi", document) });
    }

    #[test]
    fn openapi_document_describes_the_authentication_scheme() {
        let at = |document: &Value, pointer: &str| document.pointer(pointer).unwrap_or(&Value::Null).clone();
        let required = |auth_scheme| at(&document(auth_scheme), "/components/schemas/IssueRequest/required");
        assert_eq!(required(&AuthScheme::None), json!(["userId", "eventId"]));
        let header = AuthScheme::Header(HeaderName::from_static("x-user-id"));
        for auth_scheme in [&header, &AuthScheme::Token] {
            assert_eq!(required(auth_scheme), json!(["eventId"]));
            let document = document(auth_scheme);
            for operation in AUTHENTICATED {
                assert_eq!(at(&document, operation)["security"], json!([{"user": []}]), "{auth_scheme:?}");
            }
        }
        assert_eq!(at(&document(&header), "/components/securitySchemes/user/name"), "x-user-id");
        assert_eq!(at(&document(&AuthScheme::Token), "/components/securitySchemes/user/scheme"), "bearer");
        assert!(document(&AuthScheme::None).pointer("/components/securitySchemes").is_none());
    }
}
