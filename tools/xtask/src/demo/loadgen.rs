//! The commands of `loadgen` on an event of the demo.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use couponry_testbed::process::Launch;

use super::programs::Programs;
use crate::cargo;
use crate::servers::Servers;

/// The number of shops, each with one order at a time: enough for all coupons that shops let expire.
const SHOPS: &str = "64";

pub(super) struct Loadgen<'a> {
    pub(super) programs: &'a Programs,
    pub(super) servers: &'a Servers,
    pub(super) event: &'a str,
}

impl Loadgen<'_> {
    /// Sends the requests of users to all issuers. Returns false if none got a response.
    pub(super) fn request(&self, users: u32, history: &Path) -> Result<bool> {
        let mut run = self.on_terminal("run")?.args(["--users", &users.to_string()]);
        for target in self.programs.issuers() {
            run = run.args(["--target", &target]);
        }
        let run = run.args(["--history".as_ref(), history.as_os_str()]);
        Ok(cargo::in_foreground(run).context("cannot run loadgen")?.success())
    }

    /// Shops that use the coupons in this history.
    pub(super) fn redeem(&self, issued: &Path, history: &Path) -> Result<Launch> {
        self.with_shops(self.on_terminal("redeem")?, issued, history)
    }

    /// The same in the background.
    pub(super) fn redeem_in_background(&self, issued: &Path, history: &Path, log: PathBuf) -> Result<Launch> {
        self.with_shops(self.command(Launch::new("loadgen", program()?, log), "redeem"), issued, history)
    }

    fn with_shops(&self, redeem: Launch, issued: &Path, history: &Path) -> Result<Launch> {
        Ok(redeem.args(["--target", &self.redeemer()?, "--shops", SHOPS]).args([
            "--issued".as_ref(),
            issued.as_os_str(),
            "--history".as_ref(),
            history.as_os_str(),
        ]))
    }

    /// The check of all stores, without the histories.
    pub(super) fn check(&self, total: u64) -> Result<Launch> {
        let Servers { redis, postgres, kafka, .. } = self.servers;
        Ok(self
            .on_terminal("check")?
            .args(["--total", &total.to_string(), "--redeemer", &self.redeemer()?])
            .args(["--redis-url", &redis.url(), "--postgres-url", &postgres.url()])
            .args(["--kafka-brokers", &kafka.brokers()]))
    }

    fn redeemer(&self) -> Result<String> {
        self.programs.redeemers().pop().context("no redeemer is running")
    }

    fn on_terminal(&self, command: &str) -> Result<Launch> {
        Ok(self.command(Launch::in_foreground("loadgen", program()?), command))
    }

    /// Without environment variables which could select other servers.
    fn command(&self, loadgen: Launch, command: &str) -> Launch {
        loadgen.clean_env().dir(cargo::root()).args([command, "--event", self.event])
    }
}

fn program() -> Result<PathBuf> {
    Ok(cargo::built("release")?.join("loadgen"))
}
