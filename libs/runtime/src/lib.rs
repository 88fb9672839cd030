//! What every long-running program of the workspace needs: logs and traces ([`telemetry`]), [`health`] and the
//! [`monitor`] endpoint that publishes it, an HTTP server ([`http`]) that slow clients cannot block, JSON request
//! bodies ([`body`]) and error responses ([`problem`]), retries at startup ([`retry`]) and graceful [`shutdown`].

pub mod body;
mod error_chain;
pub mod health;
pub mod http;
pub mod monitor;
mod otlp;
pub mod problem;
pub mod retry;
pub mod shutdown;
pub mod telemetry;

pub use error_chain::error_chain;
pub use health::Health;
pub use problem::Problem;
pub use retry::retry_until_ok;
pub use shutdown::shutdown;
pub use tokio_util::sync::CancellationToken;

/// An issuer spent a sixth of its CPU time allocating memory with glibc's allocator; musl's, which the images would
/// use, has one lock for all threads ([ADR 0019](../../../docs/adr/0019-costs.md)).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
