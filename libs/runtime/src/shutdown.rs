//! Graceful shutdown on SIGTERM or SIGINT.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The conventional exit code after SIGINT.
const EXIT_CODE: i32 = 130;

/// A token that is cancelled on SIGTERM or SIGINT. A second signal ends the process immediately.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn shutdown() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let received = token.clone();
    tokio::spawn(async move {
        let signal = either(&mut terminate, &mut interrupt).await;
        tracing::info!(signal, "shutting down");
        received.cancel();
        let signal = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal, "second signal received, exiting immediately");
        std::process::exit(EXIT_CODE);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
