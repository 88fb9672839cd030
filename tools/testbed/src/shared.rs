//! The servers which `cargo xtask test` starts once for a test run.
//!
//! Tests use them concurrently: each has its own database, key prefix, topic and namespace, and none stops a server.

use std::path::PathBuf;

use anyhow::Result;

/// The environment variable with the URL of the shared Redis.
pub const REDIS: &str = "COUPONRY_TEST_REDIS";
/// The environment variable with the URL of the shared `PostgreSQL`, as its superuser.
pub const POSTGRES: &str = "COUPONRY_TEST_POSTGRES";
/// The environment variable with the address of the shared Kafka.
pub const KAFKA: &str = "COUPONRY_TEST_KAFKA";
/// The environment variable with the path of an administrator's kubeconfig for the shared API server.
pub const KUBECONFIG: &str = "COUPONRY_TEST_KUBECONFIG";
/// The environment variable with the directory of the built programs.
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

/// The path of the kubeconfig for the API server.
///
/// # Panics
/// Outside of `cargo xtask test`.
#[must_use]
pub fn kubeconfig() -> PathBuf {
    variable(KUBECONFIG).into()
}

/// Runs kubectl on the shared API server and returns its output.
///
/// # Panics
/// Outside of `cargo xtask test`.
pub fn kubectl(args: &[&str]) -> Result<String> {
    crate::kubectl::kubectl(&kubeconfig(), args, None)
}

/// Runs kubectl with `input` as its standard input, for `kubectl apply -f -`.
///
/// # Panics
/// Outside of `cargo xtask test`.
pub fn kubectl_with(args: &[&str], input: &str) -> Result<String> {
    crate::kubectl::kubectl(&kubeconfig(), args, Some(input))
}

/// The path of a built program, such as `couponry-issuer`.
///
/// # Panics
/// Outside of `cargo xtask test`.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = PathBuf::from(variable(BIN)).join(name);
    assert!(path.is_file(), "{} does not exist: run `cargo xtask test`, which builds it", path.display());
    path
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; this test needs servers: run `cargo xtask test`"))
}
