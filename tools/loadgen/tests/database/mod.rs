//! Databases of one's own on the shared Postgres.

use std::process::Command;

use testbed::{programs, shared};

/// Makes a database and gives its URL.
pub(crate) fn create(name: &str) -> String {
    let server = shared::postgres();
    query(&server, &format!(r#"create database "{name}""#));
    format!("{}/{name}", server.rsplit_once('/').unwrap().0)
}

/// Runs one statement and gives what it printed.
pub(crate) fn query(url: &str, sql: &str) -> String {
    let psql = programs::postgres_bin().unwrap().join("psql");
    let output = Command::new(psql).args([url, "-Atqc", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
