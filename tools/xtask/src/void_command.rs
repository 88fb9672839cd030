//! Voids of coupons by the command of the operator. Each is a line of the history that `loadgen check` reads.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::json;

use crate::programs::Addresses;

const POLL: Duration = Duration::from_millis(20);
/// A void that takes longer is killed.
const TIMEOUT: Duration = Duration::from_secs(20);

/// `couponry-operator void`.
pub(crate) struct VoidCommand {
    pub(crate) program: PathBuf,
    pub(crate) addresses: Addresses,
    pub(crate) args: &'static [&'static str],
    pub(crate) event: String,
    /// The value of the variable `FAILPOINTS`.
    pub(crate) failpoints: &'static str,
    /// A file for the output.
    pub(crate) log: PathBuf,
}

impl VoidCommand {
    /// Voids a coupon, and appends its outcome to the history.
    pub(crate) fn void(&self, coupon: &str, history: &mut File) -> Result<()> {
        let invoked = Timestamp::now().as_microsecond();
        let outcome = self.run(coupon)?;
        let finished = Timestamp::now().as_microsecond();
        let line = json!({"coupon": coupon, "invoked": invoked, "finished": finished, "outcome": outcome});
        writeln!(history, "{line}").context("cannot write the history of voids")
    }

    /// Returns the outcome as `loadgen check` names it.
    fn run(&self, coupon: &str) -> Result<&'static str> {
        let Self { program, addresses, args, event, failpoints, log } = self;
        let open = |path: &Path| File::create(path).with_context(|| format!("cannot create {}", path.display()));
        let mut process = Command::new(program)
            .env_clear()
            .env("KUBECONFIG", &addresses.kubeconfig)
            .env("POD_NAMESPACE", "default")
            .env("FAILPOINTS", failpoints)
            .args(["void", event, "--code", coupon, "--reason", "test", "--actor", "xtask"])
            .args(["--redis-url", &addresses.redis, "--postgres-url", &addresses.postgres])
            .args(*args)
            .stdin(Stdio::null())
            .stdout(open(log)?)
            .stderr(open(&log.with_extension("void-errors"))?)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = process.try_wait().context("cannot wait for a void")? {
                break status;
            }
            if Instant::now() >= deadline {
                process.kill().context("cannot kill a void")?;
            }
            thread::sleep(POLL);
        };
        let printed = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
        Ok(match status.code() {
            Some(0) => "voided",
            Some(1) if printed.contains("so it cannot be voided") => "redeemed",
            Some(1) if printed.contains("has no user") => "noUser",
            _ => "unknown",
        })
    }
}
