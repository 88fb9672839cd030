//! The HTTP API. Documentation: `docs/reference/http-api.md`, and `/openapi.json` for machines.

pub(crate) mod app;
mod event;
mod issue;
mod language;
mod messages;
mod openapi;
mod request_log;
mod user;

#[cfg(any(test, fuzzing))]
pub use issue::read_issue_request;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    http::{
        Method, Request,
        header::{CONTENT_TYPE, ORIGIN},
    },
    middleware,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use couponry_runtime::{
    http::{Handler, Incoming},
    problem::Problem,
};

use self::app::App;
use crate::{cors::Cors, rate_limits};

/// `OPTIONS *` asks about the server, so its method is not allowed rather than its path unknown.
async fn no_route(method: Method) -> Problem {
    if method == Method::OPTIONS {
        return Problem::method_not_allowed("see /openapi.json");
    }
    Problem::not_found("the path does not exist; see /openapi.json")
}

/// The path of issue requests.
const ISSUE: &str = "/coupons/issue";

/// Responds to requests. A router and its layers cost each request several allocations, so issue requests do not pass
/// through them unless a layer is enabled.
#[derive(Clone)]
pub(crate) struct Routes {
    app: Arc<App>,
    router: Router,
    has_layers: bool,
    cors: Option<Cors>,
}

impl Routes {
    /// `page` has the routes of the event page, if it is enabled.
    pub(crate) fn new(app: App, cors: Option<Cors>, page: Option<Router>) -> Self {
        let app = Arc::new(app);
        let layers = Layers { limit_addresses: app.limits.limits_addresses(), log_failures: request_log::is_enabled() };
        let has_layers = layers.limit_addresses || layers.log_failures;
        Self { router: router(app.clone(), layers, page.unwrap_or_default()), app, has_layers, cors }
    }

    async fn route(self, request: Request<Incoming>, rejection: Option<Problem>) -> Response {
        if rejection.is_none() && !self.has_layers && request.method() == Method::POST && request.uri().path() == ISSUE
        {
            issue::respond(&self.app, request).await.into_response()
        } else {
            self.router.respond(request, rejection).await
        }
    }
}

impl Handler for Routes {
    async fn respond(mut self, request: Request<Incoming>, rejection: Option<Problem>) -> Response {
        let Some(cors) = self.cors.take() else { return self.route(request, rejection).await };
        if let Some(response) = cors.preflight_response(&request) {
            return response;
        }
        let origin = request.headers().get(ORIGIN).cloned();
        let mut response = self.route(request, rejection).await;
        cors.add_headers(response.headers_mut(), origin.as_ref());
        response
    }
}

/// The layers around all routes.
#[derive(Clone, Copy)]
struct Layers {
    limit_addresses: bool,
    log_failures: bool,
}

/// All routes.
fn router(app: Arc<App>, layers: Layers, page: Router) -> Router {
    let (limits, trusted_proxies) = (app.limits.clone(), app.trusted_proxies);
    // Rendered once: it is the largest response, and any client can request it.
    let document = Bytes::from(openapi::document(&app.authenticator.auth_scheme()).to_string());
    let router = Router::new()
        .route(ISSUE, post(issue::issue).get(event::event_named_issue))
        .route("/coupons/{eventId}", get(event::event))
        .route("/coupons/{eventId}/users/{userId}", get(user::user))
        .route("/openapi.json", get(|| async { ([(CONTENT_TYPE, "application/json")], document) }))
        .fallback(no_route)
        .with_state(app)
        .merge(page)
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed("see /openapi.json") });
    let router = if layers.limit_addresses {
        router.layer(middleware::from_fn_with_state((limits, trusted_proxies), rate_limits::limit_address))
    } else {
        router
    };
    if layers.log_failures {
        router.layer(middleware::from_fn_with_state(trusted_proxies, request_log::log_failure))
    } else {
        router
    }
}
