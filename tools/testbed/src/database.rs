//! A database of one's own on a `PostgreSQL` that others use too.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::process::output;
use crate::{programs, shared};

/// An empty database; dropped with everything in it on drop, also while programs are connected to it.
#[derive(Debug)]
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// Makes one on the shared server.
    ///
    /// # Panics
    /// Outside of `cargo xtask test`.
    pub fn create() -> Result<Self> {
        Self::create_on(&shared::postgres())
    }

    /// Makes one on the server with this URL, which ends in the name of a database.
    pub fn create_on(server: &str) -> Result<Self> {
        let database = Self { server: server.to_owned(), name: unique_name("test").replace('-', "_") };
        psql(server, &format!("CREATE DATABASE {}", database.name))?;
        Ok(database)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        let host = self.server.rsplit_once('/').map_or(self.server.as_str(), |(host, _)| host);
        format!("{host}/{}", self.name)
    }

    /// Runs statements in it and returns what they print: rows as lines, columns separated by `|`.
    pub fn sql(&self, statements: &str) -> Result<String> {
        psql(&self.url(), statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The server may be gone already, and its data with it.
        let _ = psql(&self.server, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// A name that no other test has, in this run or another: for a database, a key prefix, a topic or a namespace.
#[must_use]
pub fn unique_name(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    format!("{label}-{now}-{}-{n}", std::process::id())
}

fn psql(url: &str, statements: &str) -> Result<String> {
    let psql = programs::need(programs::postgres_bin(), "PostgreSQL")?.join("psql");
    let printed = output(&psql, &["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", url, "-c", statements], None);
    Ok(printed.with_context(|| format!("in the database {url}"))?.trim_end().to_owned())
}
