//! Commits the offsets of processed batches.
//!
//! # Guarantees
//! A failed commit is repeated until the broker has the offsets, also while no more messages arrive. Without that, the
//! lag would stay above zero, and a recovery of Redis would wait for it without end.

use std::time::Duration;

use couponry_kafka::PendingCommit;
use couponry_runtime::{CancellationToken, Health, error_chain};
use tokio::{sync::mpsc, time};

/// The dependency that `/readyz` reports while offsets cannot be committed.
pub(crate) const COMMITS: &str = "offset commits";

/// The pause after a failed commit.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Commits what the queue delivers, until it is closed. During the shutdown a failed commit is not retried: the batches
/// are consumed again.
pub(crate) async fn commit_all(
    mut queue: mpsc::UnboundedReceiver<PendingCommit>,
    health: Health,
    shutdown: CancellationToken,
) {
    while let Some(mut commit) = queue.recv().await {
        if couponry_failpoint::is_on("consumer.drop-commits") {
            continue;
        }
        loop {
            while let Ok(later) = queue.try_recv() {
                commit.merge(later);
            }
            match commit.run().await {
                Ok(()) => break,
                Err(error) => {
                    let error = error_chain(error);
                    tracing::warn!(error, "cannot commit offsets, retrying");
                    health.set(COMMITS, Err(error));
                }
            }
            if shutdown.is_cancelled() {
                break;
            }
            tokio::select! {
                () = time::sleep(RETRY_PAUSE) => {}
                () = shutdown.cancelled() => {}
            }
        }
        health.set(COMMITS, Ok::<_, String>(()));
    }
}
