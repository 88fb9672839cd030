//! HTTP server which slow clients cannot block and whose shutdown interrupts no response.
//!
//! # Shutdown
//! A proxy notices the shutdown late, and it reuses the connections that it keeps open. So there are two phases.
//! While the server is *draining*, it serves requests as before, but each response has the header `Connection:
//! close`, so the next request arrives over another connection, at another replica. After the *stop*, the server
//! accepts no connections and finishes the requests in progress.

mod connection_state;
mod connections;
mod head_timeout;
mod request_id;
mod strict_requests;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, Request, header},
    response::{IntoResponse as _, Response},
};
pub use hyper::body::Incoming;
use hyper::{server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;

use self::{connections::Connections, head_timeout::HeadTimeoutStream};
pub use self::{
    connections::{ConnectionLimits, ConnectionMetrics, address_block},
    request_id::{REQUEST_ID, is_loggable},
};
use crate::problem::Problem;

/// Default keep-alive timeout of an idle connection: longer than that of Envoy (one hour) and of other proxies. The
/// proxy must close an idle connection first, otherwise it may send a request over a connection that is being closed.
pub const KEEP_ALIVE: Duration = Duration::from_secs(4000);
/// Default maximum number of connections. Each buffers up to [`MAX_HEAD`] for the head of a request and as much again
/// for the body: about 320 MB for all in the worst case, about 50 MB while they are idle.
pub const MAX_CONNECTIONS: usize = 5000;
/// More than nginx and most other proxies accept. A longer head is rejected with 431.
const MAX_HEAD: usize = 32 * 1024;
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// How long the requests in progress may take after the stop.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);

/// A port cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {flag} {address}")]
pub struct ServeError {
    flag: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds the address that was set with `flag`, and logs it with its actual port, which may be set as 0.
pub async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        Ok((listener.local_addr()?, listener))
    };
    let (address, listener) = bound.await.map_err(|source| ServeError { flag, address, source })?;
    tracing::info!(flag, %address, "listening");
    Ok(listener)
}

/// An HTTP server. Each response has the id of its request ([`REQUEST_ID`]), except to a head that cannot be parsed.
#[derive(Clone, Debug)]
pub struct HttpServer {
    /// Keep-alive timeout of an idle connection.
    pub keep_alive: Duration,
    /// Maximum number of connections. Beyond it, the longest idle connections are closed.
    pub limits: ConnectionLimits,
    /// Metrics of the connections.
    pub metrics: ConnectionMetrics,
    /// Whether requests carry the address of the peer as [`ConnectInfo`].
    pub needs_peer_address: bool,
    /// When cancelled, each response closes its connection.
    pub draining: CancellationToken,
    /// When cancelled, no connection is accepted any more.
    pub stop: CancellationToken,
}

/// Serves `router` until the shutdown, then finishes the requests in progress.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    HttpServer {
        keep_alive: KEEP_ALIVE,
        limits: ConnectionLimits { total: MAX_CONNECTIONS, per_address: 0 },
        metrics: ConnectionMetrics::default(),
        needs_peer_address: false,
        draining: shutdown.clone(),
        stop: shutdown,
    }
    .run(listener, router)
    .await;
}

/// Responds to the requests of a server, which clones it for each of them.
pub trait Handler: Clone + Send + 'static {
    /// Responds to a request: with `rejection`, if the server does not accept it.
    fn respond(self, request: Request<Incoming>, rejection: Option<Problem>) -> impl Future<Output = Response> + Send;
}

impl Handler for Router {
    async fn respond(self, request: Request<Incoming>, rejection: Option<Problem>) -> Response {
        if let Some(problem) = rejection {
            return problem.into_response();
        }
        TowerToHyperService::new(self).call(request).await.unwrap_or_else(|never: Infallible| match never {})
    }
}

impl HttpServer {
    /// Responds to requests with `handler` until the stop, then finishes the requests in progress.
    pub async fn run(self, listener: TcpListener, handler: impl Handler) {
        let Self { keep_alive, limits, metrics, needs_peer_address, draining, stop } = self;
        let graceful = GracefulShutdown::new();
        let mut connections = Connections::new(limits, metrics, draining);
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely the process is out of file descriptors: wait until connections are closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(slot) = stop.run_until_cancelled(connections.slot(peer.ip())).await else { break };
            let Some((slot, state)) = slot else { continue };
            // Responses are small and complete; Nagle's algorithm would only delay them.
            let _ = stream.set_nodelay(true);
            let stream = HeadTimeoutStream::new(stream, state.clone());
            let handler = handler.clone();
            let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                state.begin_request();
                if needs_peer_address {
                    request.extensions_mut().insert(ConnectInfo(peer));
                }
                let rejection = strict_requests::check(&request, MAX_HEAD).err();
                // Here rather than in a layer of the router, which would allocate two objects for each request.
                let id = request_id::identify(request.headers_mut());
                let (handler, state) = (handler.clone(), state.clone());
                async move {
                    let is_rejected = rejection.is_some();
                    let mut response = handler.respond(request, rejection).await;
                    let is_last = state.end_request() || is_rejected;
                    let headers = response.headers_mut();
                    headers.insert(REQUEST_ID, id);
                    if is_last {
                        headers.insert(header::CONNECTION, CLOSE);
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            // hyper has one timeout from the last response to the end of the next head; HeadTimeoutStream limits the
            // head itself.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(keep_alive)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            let watched = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = watched.await {
                    tracing::debug!(%error, "connection failed");
                }
                drop(slot);
            });
        }
        drop(listener);
        if time::timeout(FINISH_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::warn!(timeout = ?FINISH_TIMEOUT, "connections are aborted, their requests did not end in time");
        }
    }
}
