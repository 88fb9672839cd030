//! Serving HTTP so that a slow client holds nothing but its own connection, and a shutdown breaks no answer.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};

use crate::CancellationToken;

/// How long a client may take for the head of a request, and how long a connection may idle before it: hyper has one clock for
/// both. Many proxies keep idle connections for 60 s (nginx, AWS load balancers); who lets go first must be the proxy, or it
/// sends a request into a connection that is just being closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(65);
/// How long the answers under way may take after the shutdown was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a port could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {flag} {address}: {source}")]
pub struct ServeError {
    flag: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Takes the port that `flag` names.
pub async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError { flag, address, source })
}

/// Serves `router` until the shutdown, then lets the answers under way finish.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely no file descriptors are left: give the connections time to end.
                tracing::warn!(%error, "cannot accept a connection");
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Answers are small and complete: waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    if time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy {DRAIN_TIMEOUT:?} after the shutdown, and are cut");
    }
}
