//! What every process of ours needs, whatever it does: [`telemetry`], [`health`] and the [`monitor`] endpoint that shows it,
//! [`http`] serving that slow clients cannot hold, with JSON requests read by [`body`] and errors told as [`problem`]s,
//! [`patience`] with servers that are not there yet,
//! and a [`shutdown`] signal.

pub mod body;
pub mod health;
pub mod http;
pub mod monitor;
pub mod patience;
pub mod problem;
pub mod telemetry;

use std::io;

pub use health::Health;
pub use patience::patiently;
pub use problem::Problem;
use tokio::signal::unix::{Signal, SignalKind, signal};
pub use tokio_util::sync::CancellationToken;

/// A sixth of an issuer's own time went into taking and giving back memory with glibc's allocator, and musl's, which our images would
/// have, has one lock for all threads ([ADR 0019](../../../docs/adr/0019-costs.md)).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A token that is cancelled when the process is told to end (SIGTERM or SIGINT). A second signal ends the process at once.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn shutdown() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = token.clone();
    tokio::spawn(async move {
        let signal = either(&mut terminate, &mut interrupt).await;
        tracing::info!(signal, "shutting down");
        told.cancel();
        let signal = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal, "told again: ending without waiting");
        std::process::exit(130);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
