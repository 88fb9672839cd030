//! The monitoring endpoint for Kubernetes probes and Prometheus: `/livez`, `/readyz`, `/metrics`.

use std::{fmt::Write, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{health::Health, http};

/// Flags of the monitoring endpoint.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Monitoring")]
pub struct MonitorArgs {
    /// Listen address of /livez, /readyz and /metrics.
    #[arg(long, env, default_value = "0.0.0.0:9090", value_name = "ADDRESS:PORT")]
    pub monitor_listen: SocketAddr,
}

impl MonitorArgs {
    /// Serves the endpoint until the shutdown. The port is bound when this returns.
    pub async fn start(
        &self,
        health: Health,
        mut registry: Registry,
        shutdown: CancellationToken,
    ) -> Result<JoinHandle<()>, http::ServeError> {
        health.register(&mut registry);
        let listener = http::bind("--monitor-listen", self.monitor_listen).await?;
        Ok(tokio::spawn(serve(listener, health, registry, shutdown)))
    }
}

async fn serve(listener: TcpListener, health: Health, registry: Registry, shutdown: CancellationToken) {
    let registry = Arc::new(registry);
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { readiness(&health) }))
        .route("/metrics", get(move || async move { metrics(&registry) }));
    http::serve(listener, router, shutdown).await;
}

/// Lists the dependencies that are not available, also those without which the process is ready.
fn readiness(health: &Health) -> Response {
    let (missing, degraded) = (health.missing(), health.degraded());
    let (status, mut body) = if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, String::new())
    };
    for (dependency, reason) in missing.into_iter().chain(degraded) {
        let _ = writeln!(body, "{dependency}: {reason}");
    }
    (status, body).into_response()
}

fn metrics(registry: &Registry) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, registry) {
        Ok(()) => {
            let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, openmetrics)], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
