//! The HTTP API. Documentation: `docs/reference/http-api.md`, and `/openapi.json` for machines.

pub(crate) mod app;
mod change;
mod coupon;
mod openapi;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    http::{Method, header::CONTENT_TYPE},
    routing::{get, post},
};
use couponry_runtime::Problem;

use self::app::App;

/// `OPTIONS *` asks about the server, so its method is not allowed rather than its path unknown.
async fn no_route(method: Method) -> Problem {
    if method == Method::OPTIONS {
        return Problem::method_not_allowed("see /openapi.json");
    }
    Problem::not_found("the path does not exist; see /openapi.json")
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let document = Bytes::from(openapi::document(app.authenticator.requires_token()).to_string());
    Router::new()
        .route("/redemptions/validate", post(change::validate))
        .route("/redemptions/reserve", post(change::reserve))
        .route("/redemptions/redeem", post(change::redeem))
        .route("/redemptions/release", post(change::release))
        .route("/redemptions/{eventId}/{couponKey}", get(coupon::coupon))
        .route("/openapi.json", get(|| async { ([(CONTENT_TYPE, "application/json")], document) }))
        .fallback(no_route)
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed("see /openapi.json") })
        .with_state(app)
}
