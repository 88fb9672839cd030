//! The operator's HTTP API: [`preload`] creates a `CouponEvent` for a caller whom Kubernetes authorizes
//! ([`authorization`]).
//!
//! It is described in `docs/reference/http-api.md` and by `/openapi.json`. Every replica serves it, including standby
//! ones.

mod authorization;
mod preload;
mod state;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    routing::{get, post},
};
use clap::Args;
use couponry_runtime::{CancellationToken, Problem, http};
use kube::Client;
use tokio::task::JoinHandle;
use utoipa::OpenApi;

use crate::admin::state::AdminState;

#[derive(Debug, Args)]
#[command(next_help_heading = "Admin API")]
pub(crate) struct AdminArgs {
    /// Address of POST /coupons/preload, which creates a coupon event. Kubernetes authorizes the callers: the
    /// operator's service account needs the cluster role system:auth-delegator for that. Empty: the API is off.
    #[arg(long, env, default_value = "0.0.0.0:8081", value_name = "ADDRESS:PORT", value_parser = ListenAddress::parse)]
    admin_listen: ListenAddress,
}

/// None: the API is off.
#[derive(Clone, Copy, Debug)]
struct ListenAddress(Option<SocketAddr>);

impl ListenAddress {
    fn parse(text: &str) -> Result<Self, std::net::AddrParseError> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

impl AdminArgs {
    /// Binds the address and serves until the shutdown. None: the API is off.
    pub(crate) async fn start(
        &self,
        client: Client,
        namespace: &str,
        shutdown: CancellationToken,
    ) -> Result<Option<JoinHandle<()>>, http::ServeError> {
        let ListenAddress(Some(address)) = self.admin_listen else { return Ok(None) };
        let listener = http::bind("--admin-listen", address).await?;
        let state = Arc::new(AdminState::new(client, namespace));
        Ok(Some(tokio::spawn(http::serve(listener, router(state), shutdown))))
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Couponry operator",
        description = "Creates coupon events. Callers send a Kubernetes bearer token and must be allowed to create \
                       couponevents.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(preload::preload)
)]
struct ApiDoc;

fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/coupons/preload", post(preload::preload))
        .route("/openapi.json", get(|| async { Json(ApiDoc::openapi()) }))
        .fallback(|| async { Problem::not_found("the path does not exist; see /openapi.json") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed("see /openapi.json") })
        .with_state(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_listen_address_turns_the_api_off() {
        assert!(ListenAddress::parse("").unwrap().0.is_none());
        assert_eq!(ListenAddress::parse("127.0.0.1:1").unwrap().0.unwrap().port(), 1);
        assert!(ListenAddress::parse("here").is_err());
    }

    #[test]
    fn openapi_document_contains_every_route() {
        let document = serde_json::to_value(ApiDoc::openapi()).unwrap();
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(paths, ["/coupons/preload"]);
    }
}
