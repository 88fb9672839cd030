//! The pages and the API of the dashboard.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use axum::{
    Json, Router,
    extract::{Path, State},
    middleware,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
};
use futures::{Stream, stream};
use http::{StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event as KubernetesEvent;
use kube::{Api, api::ListParams};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    access::{self, Access},
    board::{Board, Received},
    event_view,
};
use crate::{
    change,
    cluster::{Cluster, event_name},
    error_chain::chain,
    exec,
};

/// At least this time between two messages to a page.
const MIN_MESSAGE_INTERVAL: Duration = Duration::from_millis(500);
const MAX_KUBERNETES_EVENTS: usize = 50;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const ASSETS: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("assets/index.html")),
    ("/dashboard.css", CSS, include_str!("assets/dashboard.css")),
    ("/dashboard.js", JAVASCRIPT, include_str!("assets/dashboard.js")),
    ("/event.js", JAVASCRIPT, include_str!("assets/event.js")),
    ("/plot.js", JAVASCRIPT, include_str!("assets/plot.js")),
    ("/words.js", JAVASCRIPT, include_str!("assets/words.js")),
    ("/icon.svg", SVG, include_str!("assets/icon.svg")),
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
    let messages =
        stream::unfold((dashboard, changes, Received::default()), |(dashboard, mut changes, mut received)| async {
            changes.changed().await.ok()?;
            let message = dashboard.board.message(&mut received, Timestamp::now());
            // Further changes until then are in the next message.
            tokio::time::sleep(MIN_MESSAGE_INTERVAL).await;
            Some((Ok(Event::default().data(message.to_string())), (dashboard, changes, received)))
        });
    Sse::new(messages).keep_alive(KeepAlive::new().interval(Duration::from_secs(5)))
}

/// The history of an event, and its Kubernetes Events.
async fn details(State(dashboard): State<Arc<Dashboard>>, Path(name): Path<String>) -> Result<Json<Value>, Failure> {
    event_name(&name).map_err(|rule| Failure(anyhow::anyhow!(rule)))?;
    let cluster = &dashboard.cluster;
    let events: Api<KubernetesEvent> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let fields = format!("involvedObject.kind=CouponEvent,involvedObject.name={name}");
    let (mut found, problem) = match events.list(&ListParams::default().fields(&fields)).await {
        Ok(events) => (events.items.iter().map(event_view::kubernetes_event).collect(), None),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let rule = "{apiGroups: [\"\"], resources: [events], verbs: [list]}";
            (
                Vec::new(),
                Some(format!("Not allowed to list Kubernetes Events: this requires a Role with the rule {rule}.")),
            )
        }
        Err(error) => (Vec::new(), Some(format!("{:#}", cluster.explain(error, "list")))),
    };
    found.sort_by_key(|event: &Value| std::cmp::Reverse(event["at"].as_i64()));
    found.truncate(MAX_KUBERNETES_EVENTS);
    Ok(Json(json!({"counts": dashboard.board.counts(&name), "kubernetesEvents": found, "problem": problem})))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Pause,
    Resume,
    Close,
    Topup,
}

#[derive(Debug, Deserialize)]
struct Confirmation {
    /// The event's name, as the user has typed it.
    name: String,
    /// Number of coupons to add.
    add: Option<u64>,
}

/// Changes an event as the commands of the plugin do. The page sees in the stream when the operator has applied it.
async fn change_event(
    State(dashboard): State<Arc<Dashboard>>,
    Path((name, action)): Path<(String, Action)>,
    Json(confirmation): Json<Confirmation>,
) -> Result<Json<Value>, Failure> {
    event_name(&name).map_err(|rule| Failure(anyhow::anyhow!(rule)))?;
    let cluster = &dashboard.cluster;
    let change = async {
        ensure!(confirmation.name == name, "not confirmed: type {name}");
        match action {
            Action::Pause => change::pause(cluster, &name).await,
            Action::Resume => change::resume(cluster, &name).await,
            Action::Close => change::close(cluster, &name).await,
            Action::Topup => {
                let add = confirmation.add.filter(|add| *add > 0).context("enter the number of coupons to add")?;
                change::topup(cluster, &name, change::Total::Add(add)).await
            }
        }
    };
    change.await.map_err(Failure)?;
    Ok(Json(json!({})))
}

/// Runs `check` in the operator's pod.
async fn check(State(dashboard): State<Arc<Dashboard>>) -> Result<Json<Value>, Failure> {
    let check = async {
        let (_, output) = exec::capture(&dashboard.cluster, &["check", "--output", "json"]).await?;
        serde_json::from_slice(&output).context("the operator has printed no list of results; see its version")
    };
    Ok(Json(check.await.map_err(Failure)?))
}

/// A request that failed, with the reason in words.
struct Failure(anyhow::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": chain(&self.0)}))).into_response()
    }
}
