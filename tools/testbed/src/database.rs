//! A temporary database on a shared `PostgreSQL` server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::process::output;
use crate::programs::locate::{postgres_bin, require};
use crate::shared;

/// An empty database. Dropping it drops the database, even while programs are connected to it.
#[derive(Debug)]
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// Creates a database on the shared server.
    ///
    /// # Panics
    /// Outside of `cargo xtask test`.
    pub fn create() -> Result<Self> {
        Self::create_on(&shared::postgres())
    }

    /// Creates a database on the server with this URL, which ends in the name of a database.
    pub fn create_on(server: &str) -> Result<Self> {
        Self::create_with(server, "")
    }

    /// Creates a database with these options of `CREATE DATABASE`.
    pub fn create_with(server: &str, options: &str) -> Result<Self> {
        let database = Self { server: server.to_owned(), name: unique_name("test").replace('-', "_") };
        psql(server, &format!("CREATE DATABASE {} {options}", database.name))?;
        Ok(database)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        let host = self.server.rsplit_once('/').map_or(self.server.as_str(), |(host, _)| host);
        format!("{host}/{}", self.name)
    }

    /// Runs statements and returns their output: rows as lines, columns separated by `|`.
    pub fn sql(&self, statements: &str) -> Result<String> {
        psql(&self.url(), statements)
    }

    /// Runs statements in a transaction of another session, which keeps its locks until the result is dropped.
    pub fn hold(&self, statements: &str) -> Result<OpenTransaction> {
        OpenTransaction::begin(&self.url(), statements)
    }
}

/// An open transaction, which keeps its locks. It is rolled back when this is dropped.
#[derive(Debug)]
pub struct OpenTransaction {
    child: Child,
    stdin: ChildStdin,
}

impl OpenTransaction {
    /// Runs statements in a transaction of a new session with the database at this URL.
    pub fn begin(url: &str, statements: &str) -> Result<Self> {
        let psql = require(postgres_bin(), "PostgreSQL")?.join("psql");
        let mut child = Command::new(psql)
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start psql")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut transaction = Self { child, stdin: stdin.context("no input")? };
        writeln!(transaction.stdin, "BEGIN; {statements};\n\\echo held")?;
        let mut lines = BufReader::new(stdout.context("no output")?).lines();
        let is_held = lines.any(|line| line.is_ok_and(|line| line == "held"));
        ensure!(is_held, "psql cannot run {statements}");
        Ok(transaction)
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.stdin.write_all(b"ROLLBACK;\n");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // An error means that the server, and with it the database, is already gone.
        let _ = psql(&self.server, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// A name which no other test uses, in this run or another: for a database, a key prefix, a topic or a namespace.
#[must_use]
pub fn unique_name(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    format!("{label}-{now}-{}-{n}", std::process::id())
}

/// Runs statements on the database at this URL, and returns their output.
pub fn psql(url: &str, statements: &str) -> Result<String> {
    let psql = require(postgres_bin(), "PostgreSQL")?.join("psql");
    let printed = output(&psql, &["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", url, "-c", statements], None);
    Ok(printed.with_context(|| format!("psql failed on {url}"))?.trim_end().to_owned())
}
