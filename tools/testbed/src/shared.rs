//! The servers that `cargo xtask test` starts once for the whole run.
//!
//! Tests run side by side on them: each takes its own database, key prefix, topic and namespace, and none stops them.

use std::path::PathBuf;

use anyhow::Result;

/// Holds the URL of the shared Redis.
pub const REDIS: &str = "COUPONRY_TEST_REDIS";
/// Holds the URL of the shared `PostgreSQL`, as its superuser.
pub const POSTGRES: &str = "COUPONRY_TEST_POSTGRES";
/// Holds the address of the shared Kafka.
pub const KAFKA: &str = "COUPONRY_TEST_KAFKA";
/// Holds the path of a kubeconfig for the shared API server, as its administrator.
pub const KUBECONFIG: &str = "COUPONRY_TEST_KUBECONFIG";
/// Holds the directory with our built programs.
pub const BIN: &str = "COUPONRY_TEST_BIN";

/// `redis://127.0.0.1:PORT`.
///
/// # Panics
/// Outside of `cargo xtask test`.
#[must_use]
pub fn redis() -> String {
    variable(REDIS)
}

/// `postgres://postgres@127.0.0.1:PORT/postgres`.
///
/// # Panics
/// Outside of `cargo xtask test`.
#[must_use]
pub fn postgres() -> String {
    variable(POSTGRES)
}

/// `127.0.0.1:PORT`.
///
/// # Panics
/// Outside of `cargo xtask test`.
#[must_use]
pub fn kafka() -> String {
    variable(KAFKA)
}

/// The path of the API server's kubeconfig.
///
/// # Panics
/// Outside of `cargo xtask test`.
#[must_use]
pub fn kubeconfig() -> PathBuf {
    variable(KUBECONFIG).into()
}

/// Runs kubectl on the shared API server and returns what it printed.
///
/// # Panics
/// Outside of `cargo xtask test`.
pub fn kubectl(args: &[&str]) -> Result<String> {
    crate::kubernetes::kubectl(&kubeconfig(), args, None)
}

/// Runs kubectl with `input` as its standard input, for `kubectl apply -f -`.
///
/// # Panics
/// Outside of `cargo xtask test`.
pub fn kubectl_with(args: &[&str], input: &str) -> Result<String> {
    crate::kubernetes::kubectl(&kubeconfig(), args, Some(input))
}

/// The path of one of our built programs, such as `couponry-issuer`.
///
/// # Panics
/// Outside of `cargo xtask test`.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = PathBuf::from(variable(BIN)).join(name);
    assert!(path.is_file(), "{} is not there: run `cargo xtask test`, which builds it", path.display());
    path
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: this test needs servers; run `cargo xtask test`"))
}
