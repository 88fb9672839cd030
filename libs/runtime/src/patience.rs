//! Waiting for a server that is not there yet: said, never given up, ended by the shutdown.

use std::{fmt::Display, time::Duration};

use tokio::time;

use crate::CancellationToken;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Repeats `attempt` until it succeeds, with growing pauses of at most five seconds, and warns of each failure. None when the
/// shutdown came first; an attempt under way is finished, never cut.
pub async fn patiently<T, E, F>(what: &str, shutdown: &CancellationToken, mut attempt: impl FnMut() -> F) -> Option<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut delay = FIRST_DELAY;
    loop {
        if shutdown.is_cancelled() {
            return None;
        }
        match attempt().await {
            Ok(done) => return Some(done),
            Err(error) => tracing::warn!(%error, "{what}: trying again in {delay:?}"),
        }
        tokio::select! {
            () = time::sleep(delay) => {}
            () = shutdown.cancelled() => return None,
        }
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_until_it_works() {
        let mut left = 5;
        let shutdown = CancellationToken::new();
        let done = patiently("test", &shutdown, || {
            left -= 1;
            std::future::ready(if left == 0 { Ok("done") } else { Err(format!("{left} left")) })
        });
        assert_eq!(done.await, Some("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shutdown_ends_it() {
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            time::sleep(Duration::from_mins(1)).await;
            stop.cancel();
        });
        assert_eq!(patiently("test", &shutdown, || async { Err::<(), _>("never") }).await, None);
    }
}
