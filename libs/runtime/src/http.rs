//! Serving HTTP so that a slow client holds nothing but its own connection, and a shutdown breaks no answer.
//!
//! # Shutdown
//! A proxy in front learns late that we end, and it sends requests into the connections that it keeps. So there are two steps:
//! while we are *draining*, everything is served as before, but each answer says `Connection: close`, and the next request
//! comes over another connection, to somebody else. When the *stop* comes, nothing new is accepted, and what is under way is
//! finished.

mod pace;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, Request, header},
};
use hyper::{body::Incoming, couponry_runtime::Service as _, server::conn::http1};
use hyper_util::{
    couponry_runtime::TowerToHyperService,
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

use self::pace::Paced;
use crate::CancellationToken;

/// How long an unused connection is kept when nobody says otherwise: longer than Envoy (one hour) and any other proxy keeps one.
/// Who lets go first must be the proxy, or it sends a request into a connection that is just being closed.
pub const KEEP_ALIVE: Duration = Duration::from_secs(4000);
/// How many connections there may be when nobody says otherwise. One takes up to [`MAX_HEAD`] for a head, and as much again for
/// a body: all of them some 320 MB at the worst, and some 50 MB while they wait.
pub const MAX_CONNECTIONS: usize = 5000;
/// Longer than nginx and most others let through. More is answered with 431.
const MAX_HEAD: usize = 32 * 1024;
/// How often it is said that there are too many connections.
const SAY_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answers under way may take after the stop.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);

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

/// How a port is served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// How long a connection may be without a request.
    pub keep_alive: Duration,
    /// How many connections there may be; more wait until one ends.
    pub max_connections: usize,
    /// Whether requests know the address that they come from, as [`ConnectInfo`].
    pub with_peers: bool,
    /// From then on clients are sent away after each answer.
    pub draining: CancellationToken,
    /// From then on nobody is let in.
    pub stop: CancellationToken,
}

/// Serves `router` until the shutdown, then lets the answers under way finish.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    Serving {
        keep_alive: KEEP_ALIVE,
        max_connections: MAX_CONNECTIONS,
        with_peers: false,
        draining: shutdown.clone(),
        stop: shutdown,
    }
    .run(listener, router)
    .await;
}

impl Serving {
    /// Serves `router` until the stop, then lets the answers under way finish.
    pub async fn run(self, listener: TcpListener, router: Router) {
        let Self { keep_alive, max_connections, with_peers, draining, stop } = self;
        let router = TowerToHyperService::new(router);
        let graceful = GracefulShutdown::new();
        let mut slots = Slots::new(max_connections);
        loop {
            let Some(Some(slot)) = stop.run_until_cancelled(slots.next()).await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely no file descriptors are left: give the connections time to end.
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Answers are small and complete: waiting to fill a packet would only delay them.
            let _ = stream.set_nodelay(true);
            let (stream, turn) = Paced::new(stream);
            // A token of its own: asking the common one for every answer would make the connections wait for each other.
            let draining = draining.child_token();
            let router = router.clone();
            let answer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                turn.begin();
                if with_peers {
                    request.extensions_mut().insert(ConnectInfo(peer));
                }
                let (turn, draining, answer) = (turn.clone(), draining.clone(), router.call(request));
                async move {
                    let mut answer = answer.await;
                    turn.end();
                    if let Ok(answer) = &mut answer
                        && draining.is_cancelled()
                    {
                        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    answer
                }
            });
            // hyper has one clock from the last answer to the end of the next head; the pace of the head itself is ours.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(keep_alive)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), answer);
            let watched = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = watched.await {
                    tracing::debug!(%error, "a connection broke");
                }
                drop(slot);
            });
        }
        drop(listener);
        if time::timeout(FINISH_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections were still busy {FINISH_TIMEOUT:?} after the stop, and are cut");
        }
    }
}

/// Places for connections.
struct Slots {
    free: Arc<Semaphore>,
    /// When it was said that there are none.
    said: Option<Instant>,
}

impl Slots {
    fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))), said: None }
    }

    /// A place for one more connection, as soon as there is one.
    async fn next(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = self.free.clone().try_acquire_owned() {
            return Some(slot);
        }
        // Every new connection comes by here while there are too many.
        if self.said.is_none_or(|said| said.elapsed() > SAY_INTERVAL) {
            tracing::warn!("there are as many connections as there may be: new ones wait");
            self.said = Some(Instant::now());
        }
        self.free.clone().acquire_owned().await.ok()
    }
}
