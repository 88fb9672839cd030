//! Retries an operation until it succeeds or the process shuts down.
//!
//! The crate `backon` would cancel an attempt in progress when the shutdown begins; an attempt here always completes.

use std::{error::Error, time::Duration};

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::error_chain::error_chain;

const INITIAL_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Repeats `attempt` until it succeeds, with exponential backoff of at most five seconds, and logs each failure. None
/// if the shutdown begins first; an attempt in progress is completed, never cancelled.
pub async fn retry_until_ok<T, E, F>(
    operation: &str,
    shutdown: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Option<T>
where
    E: Into<Box<dyn Error + Send + Sync>>,
    F: Future<Output = Result<T, E>>,
{
    let mut delay = INITIAL_DELAY;
    loop {
        if shutdown.is_cancelled() {
            return None;
        }
        match attempt().await {
            Ok(value) => return Some(value),
            Err(error) => tracing::warn!(operation, error = error_chain(error), ?delay, "operation failed, retrying"),
        }
        tokio::select! {
            () = time::sleep(delay) => {}
            () = shutdown.cancelled() => return None,
        }
        delay = (delay * 2).min(MAX_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retry_after_failures_returns_the_first_success() {
        let mut failures = 5;
        let shutdown = CancellationToken::new();
        let result = retry_until_ok("test", &shutdown, || {
            failures -= 1;
            std::future::ready(if failures == 0 { Ok("done") } else { Err(format!("{failures} left")) })
        });
        assert_eq!(result.await, Some("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_ends_with_the_shutdown() {
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            time::sleep(Duration::from_mins(1)).await;
            stop.cancel();
        });
        assert_eq!(retry_until_ok("test", &shutdown, || async { Err::<(), _>("never") }).await, None);
    }
}
