//! The operator's own HTTP endpoint: [`preload`] makes a `CouponEvent` for a [`caller`] whom Kubernetes lets make one.
//! `docs/reference/http-api.md` is its description for people, `/openapi.json` for machines.
//!
//! Every operator serves it, also one that stands by.

mod caller;
mod preload;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    routing::{get, post},
};
use clap::Args;
use couponry_runtime::{CancellationToken, Problem, http};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinHandle,
    time,
};
use utoipa::OpenApi;

/// How long a client may take for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the API server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many requests are worked on at once: each asks the API server, also for a caller whom it does not know.
const CONCURRENCY: usize = 16;

/// Where events are taken over HTTP.
#[derive(Debug, Args)]
#[command(next_help_heading = "Admin API")]
pub(crate) struct AdminArgs {
    /// Address of POST /coupons/preload, which makes a coupon event. Kubernetes decides who may: the operator's service
    /// account needs the cluster role system:auth-delegator for asking it. Empty: there is none.
    #[arg(long, env, default_value = "0.0.0.0:8081", value_name = "ADDRESS:PORT", value_parser = Listen::parse)]
    admin_listen: Listen,
}

/// An address, or none.
#[derive(Clone, Copy, Debug)]
struct Listen(Option<SocketAddr>);

impl Listen {
    fn parse(text: &str) -> Result<Self, std::net::AddrParseError> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

impl AdminArgs {
    /// Serves until the shutdown. Bound when this returns. None: it is off.
    pub(crate) async fn start(
        &self,
        client: Client,
        namespace: &str,
        shutdown: CancellationToken,
    ) -> Result<Option<JoinHandle<()>>, http::ServeError> {
        let Listen(Some(address)) = self.admin_listen else { return Ok(None) };
        let listener = http::bind("--admin-listen", address).await?;
        let admin = Admin {
            events: Api::namespaced_with(
                client.clone(),
                namespace,
                &ApiResource::erase::<couponry_crds::CouponEvent>(&()),
            ),
            namespace: namespace.to_owned(),
            client,
            slots: Semaphore::new(CONCURRENCY),
        };
        Ok(Some(tokio::spawn(http::serve(listener, router(Arc::new(admin)), shutdown))))
    }
}

/// What the routes work with.
struct Admin {
    client: Client,
    namespace: String,
    events: Api<DynamicObject>,
    slots: Semaphore,
}

impl Admin {
    /// A place among the requests that are worked on.
    fn slot(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.slots.try_acquire().map_err(|_| Problem::unavailable("too many requests at once"))
    }
}

/// The OpenAPI document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Couponry operator",
        description = "Makes coupon events. Callers send a bearer token of Kubernetes and must be allowed to create couponevents.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(preload::preload)
)]
struct ApiDoc;

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/coupons/preload", post(preload::preload))
        .route("/openapi.json", get(|| async { Json(ApiDoc::openapi()) }))
        .fallback(|| async { Problem::not_found("there is no such page; see /openapi.json") })
        .method_not_allowed_fallback(|| async { Problem::method("see /openapi.json") })
        .with_state(admin)
}

/// The API server's answer, unless it takes too long.
async fn answer<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Refusal> {
    match time::timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Refusal::Said(status)),
        Ok(Err(error)) => Err(Refusal::Silent(error.to_string())),
        Err(_) => Err(Refusal::Silent(format!("no answer within {PATIENCE:?}"))),
    }
}

/// Why Kubernetes did not do what it was asked for.
enum Refusal {
    /// It says.
    Said(Box<kube::core::Status>),
    /// It did not answer: it may have done it.
    Silent(String),
}

impl Refusal {
    /// What the caller hears of it where it is not their doing.
    fn unavailable(&self, operation: &str) -> Problem {
        let error = match self {
            Self::Said(status) => &status.message,
            Self::Silent(error) => error,
        };
        tracing::warn!(error, "{operation}");
        Problem::unavailable("Kubernetes cannot be asked at the moment; the operator's log says why")
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;

    use super::*;

    #[test]
    fn an_empty_address_is_none() {
        assert!(Listen::parse("").unwrap().0.is_none());
        assert_eq!(Listen::parse("127.0.0.1:1").unwrap().0.unwrap().port(), 1);
        assert!(Listen::parse("here").is_err());
    }

    #[test]
    fn the_document_names_every_route() {
        let document = serde_json::to_value(ApiDoc::openapi()).unwrap();
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(paths, ["/coupons/preload"]);
    }

    #[test]
    fn the_resource_that_is_asked_for_is_ours() {
        assert_eq!(couponry_crds::CouponEvent::group(&()), "couponry.dev");
        assert_eq!(couponry_crds::CouponEvent::plural(&()), "couponevents");
    }
}
