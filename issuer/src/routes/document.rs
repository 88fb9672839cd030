//! `/openapi.json`: what the routes say of themselves, with the rules for names, and who the user is at this issuer.

use axum::http::HeaderName;
use couponry_domain::identity::{MAX_EVENT_NAME_BYTES, MAX_USER_ID_BYTES};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::{event, issue, user};

/// What is in no code.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Couponry issuer",
        description = "Gives one coupon to one user, first come, first served.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(issue::issue, user::user, event::event)
)]
struct ApiDoc;

/// A DNS-1123 subdomain.
const EVENT_ID: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Without control characters, and without white space at its ends.
const USER_ID: &str = concat!(
    r"^[^\u0000-\u0020\u007F-\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]",
    r"([^\u0000-\u001F\u007F-\u009F]*",
    r"[^\u0000-\u0020\u007F-\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000])?$"
);
/// What only a user may ask who is signed in.
const OF_A_USER: [&str; 2] = ["/paths/~1coupons~1issue/post", "/paths/~1coupons~1{eventId}~1users~1{userId}/get"];

/// How a user signs in.
#[derive(Clone, Debug)]
pub(crate) enum SignIn {
    /// Not at all: the request names the user.
    None,
    /// With this header, which a proxy sets.
    Header(HeaderName),
    /// With a token.
    Token,
}

/// The OpenAPI document.
pub(super) fn document(sign_in: &SignIn) -> Value {
    let mut document = serde_json::to_value(ApiDoc::openapi()).unwrap_or_default();
    // In characters, of which each is a byte at least: no schema can count bytes.
    let event_id = json!({"maxLength": MAX_EVENT_NAME_BYTES, "minLength": 1, "pattern": EVENT_ID});
    let user_id = json!({"maxLength": MAX_USER_ID_BYTES, "minLength": 1, "pattern": USER_ID});
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
    let scheme = match sign_in {
        SignIn::None => {
            add(&mut document, body, &json!({"required": ["userId", "eventId"]}));
            return document;
        }
        SignIn::Header(name) => json!({"type": "apiKey", "in": "header", "name": name.as_str()}),
        SignIn::Token => json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}),
    };
    // Null is as good as nothing.
    add(&mut document, &format!("{body}/properties/userId"), &json!({"type": ["string", "null"]}));
    document["components"]["securitySchemes"] = json!({ "user": scheme });
    for operation in OF_A_USER {
        add(&mut document, operation, &json!({"security": [{"user": []}]}));
    }
    document
}

fn add(document: &mut Value, place: &str, more: &Value) {
    let place = document.pointer_mut(place).and_then(Value::as_object_mut);
    if let (Some(place), Some(more)) = (place, more.as_object()) {
        place.extend(more.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(document: &'a Value, place: &str) -> &'a Value {
        document.pointer(place).unwrap_or_else(|| panic!("{place} is not in {document}"))
    }

    #[test]
    fn the_document_names_every_route() {
        let document = document(&SignIn::None);
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(paths, ["/coupons/issue", "/coupons/{eventId}", "/coupons/{eventId}/users/{userId}"]);
        for path in paths {
            for operation in document["paths"][&path].as_object().unwrap().values() {
                let limited = at(operation, "/responses/429");
                assert!(limited["headers"]["Retry-After"].is_object(), "{path}");
            }
        }
    }

    #[test]
    fn the_rules_for_names_are_wherever_names_are() {
        let document = document(&SignIn::None);
        let user = "/paths/~1coupons~1{eventId}~1users~1{userId}/get/parameters";
        for (place, pattern) in [
            ("/components/schemas/IssueRequest/properties/eventId", EVENT_ID),
            ("/components/schemas/IssueRequest/properties/userId", USER_ID),
            ("/paths/~1coupons~1{eventId}/get/parameters/0/schema", EVENT_ID),
            (&format!("{user}/0/schema"), EVENT_ID),
            (&format!("{user}/1/schema"), USER_ID),
        ] {
            assert_eq!(at(&document, place)["pattern"], pattern, "{place}");
            assert_eq!(at(&document, place)["type"], "string", "{place}");
        }
    }

    #[test]
    fn it_says_how_to_sign_in() {
        let required = |sign_in| at(&document(sign_in), "/components/schemas/IssueRequest/required").clone();
        assert_eq!(required(&SignIn::None), json!(["userId", "eventId"]));
        let header = SignIn::Header(HeaderName::from_static("x-user-id"));
        for sign_in in [&header, &SignIn::Token] {
            assert_eq!(required(sign_in), json!(["eventId"]));
            let document = document(sign_in);
            for place in OF_A_USER {
                assert_eq!(at(&document, place)["security"], json!([{"user": []}]), "{sign_in:?}");
            }
        }
        assert_eq!(at(&document(&header), "/components/securitySchemes/user/name"), "x-user-id");
        assert_eq!(at(&document(&SignIn::Token), "/components/securitySchemes/user/scheme"), "bearer");
        assert!(document(&SignIn::None).pointer("/components/securitySchemes").is_none());
    }
}
