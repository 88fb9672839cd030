//! The state of a connection, shared by its stream, its requests and the limit of connections.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Times are stored as microseconds since this instant, so that they fit into an atomic integer.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The state of one connection. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ConnectionState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Even while the connection waits for a request, odd while a request is processed.
    phase: AtomicU32,
    /// When the current or last wait began.
    waiting_since: AtomicU64,
    is_evicted: AtomicBool,
    /// The task of the connection, while it waits for data.
    waker: AtomicWaker,
    /// Whether the next response of any connection closes it: a new connection waits, and no other is idle.
    close_next: Arc<AtomicBool>,
    /// When cancelled, each response closes its connection.
    draining: CancellationToken,
}

impl ConnectionState {
    /// The state of a new connection, which waits for its first request.
    pub(super) fn new(close_next: Arc<AtomicBool>, draining: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            phase: AtomicU32::new(0),
            waiting_since: AtomicU64::new(now()),
            is_evicted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            close_next,
            draining,
        }))
    }

    /// The head of a request was received.
    pub(super) fn begin_request(&self) {
        self.0.phase.fetch_or(1, Ordering::SeqCst);
    }

    /// The response is complete. Returns whether it is the last one of this connection.
    pub(super) fn end_request(&self) -> bool {
        self.0.waiting_since.store(now(), Ordering::Relaxed);
        // The order of this operation and the next one, and the reverse order in `Connections::slot`, ensure that a
        // waiting connection finds this one idle, or that this one sees that it has to close.
        self.0.phase.fetch_add(1, Ordering::SeqCst);
        self.0.is_evicted.load(Ordering::SeqCst)
            || (self.0.close_next.load(Ordering::SeqCst) && self.0.close_next.swap(false, Ordering::SeqCst))
            || self.0.draining.is_cancelled()
    }

    /// The phase while the connection waits for a request.
    pub(super) fn waiting(&self) -> Option<u32> {
        Some(self.0.phase.load(Ordering::SeqCst)).filter(|phase| phase % 2 == 0)
    }

    /// Since when the connection waits for a request. None if it does not, or if it was evicted.
    pub(super) fn waiting_since(&self) -> Option<u64> {
        self.waiting()?;
        (!self.0.is_evicted.load(Ordering::SeqCst)).then(|| self.0.waiting_since.load(Ordering::Relaxed))
    }

    /// Closes the connection as soon as it waits for a request.
    pub(super) fn evict(&self) {
        self.0.is_evicted.store(true, Ordering::SeqCst);
        self.0.waker.wake();
    }

    /// Whether the connection was evicted and waits for a request. Called while no data is available.
    pub(super) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        if self.0.is_evicted.load(Ordering::SeqCst) && self.waiting().is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Microseconds since [`EPOCH`].
fn now() -> u64 {
    u64::try_from(EPOCH.elapsed().as_micros()).unwrap_or(u64::MAX)
}
