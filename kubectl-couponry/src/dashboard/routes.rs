//! The pages and the API of the dashboard.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, State},
    middleware,
    response::{IntoResponse, Response, Sse, sse::Event},
    routing::{get, post},
};
use futures::{Stream, stream};
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    access::{self, Access},
    board::{Board, Received},
    event_change::{self, Action, Confirmation},
};
use crate::{
    cluster::{Cluster, event_name},
    error_chain::chain,
    exec,
};

/// At least this time between two messages to a page.
const MIN_MESSAGE_INTERVAL: Duration = Duration::from_millis(500);
/// At most this time between two messages, so that the page notices a dead connection.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
const CHECK_TIME_LIMIT: Duration = Duration::from_mins(1);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const ASSETS: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("assets/index.html")),
    ("/dashboard.css", CSS, include_str!("assets/dashboard.css")),
    ("/dashboard.js", JAVASCRIPT, include_str!("assets/dashboard.js")),
    ("/event.js", JAVASCRIPT, include_str!("assets/event.js")),
    ("/change.js", JAVASCRIPT, include_str!("assets/change.js")),
    ("/plot.js", JAVASCRIPT, include_str!("assets/plot.js")),
    ("/verdict.js", JAVASCRIPT, include_str!("assets/verdict.js")),
    ("/words.js", JAVASCRIPT, include_str!("assets/words.js")),
    ("/icon.svg", SVG, include_str!("assets/icon.svg")),
    // Browsers request it for responses that are not HTML.
    ("/favicon.ico", SVG, include_str!("assets/icon.svg")),
];

/// What the handlers share.
pub(super) struct Dashboard {
    pub(super) cluster: Cluster,
    pub(super) board: Board,
    /// User, namespace and server.
    pub(super) identity: Value,
}

pub(super) fn router(dashboard: Arc<Dashboard>, access: Arc<Access>) -> Router {
    let mut router = Router::new();
    for (path, content_type, text) in ASSETS {
        router = router.route(path, get(move || async move { ([(header::CONTENT_TYPE, content_type)], text) }));
    }
    router
        .route("/api/identity", get(identity))
        .route("/api/stream", get(stream_changes))
        .route("/api/events/{name}", get(details))
        .route("/api/events/{name}/{action}", post(change_event))
        .route("/api/check", post(check))
        .with_state(dashboard)
        .layer(middleware::from_fn_with_state(access, access::guard))
}

async fn identity(State(dashboard): State<Arc<Dashboard>>) -> Json<Value> {
    Json(dashboard.identity.clone())
}

/// Server-sent events: first everything, then the changes.
async fn stream_changes(State(dashboard): State<Arc<Dashboard>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut changes = dashboard.board.subscribe();
    changes.mark_changed();
    let state = (dashboard, changes, Received::default(), Duration::ZERO);
    Sse::new(stream::unfold(state, |(dashboard, mut changes, mut received, delay)| async move {
        let _ = timeout(HEARTBEAT_INTERVAL, changes.changed()).await;
        // Further changes until then are in this message.
        sleep(delay).await;
        changes.mark_unchanged();
        let (message, has_more) = dashboard.board.message(&mut received, Timestamp::now());
        if has_more {
            changes.mark_changed();
        }
        Some((Ok(Event::default().data(message.to_string())), (dashboard, changes, received, MIN_MESSAGE_INTERVAL)))
    }))
}

/// The Kubernetes Events about an event.
async fn details(State(dashboard): State<Arc<Dashboard>>, Path(name): Path<String>) -> Json<Value> {
    Json(json!({"kubernetesEvents": dashboard.board.kubernetes_events(&name)}))
}

/// Changes an event. The page sees in the stream when the operator has applied it.
async fn change_event(
    State(dashboard): State<Arc<Dashboard>>,
    Path((name, action)): Path<(String, Action)>,
    Json(confirmation): Json<Confirmation>,
) -> Result<Json<Value>, Failure> {
    event_name(&name).map_err(|rule| Failure(anyhow::anyhow!(rule)))?;
    event_change::apply(&dashboard.cluster, &name, action, &confirmation).await.map_err(Failure)?;
    Ok(Json(json!({})))
}

/// Runs `check` in the operator's pod.
async fn check(State(dashboard): State<Arc<Dashboard>>) -> Result<Json<Value>, Failure> {
    let check = async {
        let (_, output) = exec::capture(&dashboard.cluster, &["check", "--output", "json"]).await?;
        serde_json::from_slice(&output).context("the operator has printed no list of results; see its version")
    };
    let checked = timeout(CHECK_TIME_LIMIT, check).await;
    let checked = checked.context("the check has not ended in time").and_then(|results| results);
    Ok(Json(checked.map_err(Failure)?))
}

/// A request that failed, with the reason in words.
struct Failure(anyhow::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": chain(&self.0)}))).into_response()
    }
}
