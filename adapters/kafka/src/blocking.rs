//! Blocking librdkafka calls.

/// Runs `call` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and dropped the call; it will not poll this future again either.
            Err(_) => std::future::pending().await,
        },
    }
}
