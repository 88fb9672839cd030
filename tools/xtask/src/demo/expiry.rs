//! An event of the demo whose coupons expire. Shops use them while the large event runs: some are reserved in time and
//! redeemed too late.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::Process;
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use serde_json::json;

use super::loadgen::Loadgen;
use crate::cargo;
use crate::coupon_event::{get, is_ready, manifest};

pub(super) const EVENT: &str = "brief";
/// Shops let one of a hundred coupons expire.
const TOTAL: u32 = 1000;
/// The shortest validity that a manifest can have.
const VALIDITY: &str = "PT1M";
const READY_TIMEOUT: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Shops that use the coupons.
pub(super) struct Expiry {
    shops: Process,
    scratch: Scratch,
}

impl Expiry {
    /// Creates the event, issues its coupons, and starts the shops.
    pub(super) fn start(loadgen: &Loadgen) -> Result<Self> {
        let kubernetes = &loadgen.servers.kubernetes;
        let mut event = manifest(EVENT, "Brief sale", TOTAL.into(), "Redis");
        event["spec"]["validity"] = json!({"duration": VALIDITY});
        kubernetes.kubectl_with(&["apply", "-f", "-"], &event.to_string())?;
        let deadline = Instant::now() + READY_TIMEOUT;
        while !is_ready(&get(kubernetes, EVENT)?) {
            loadgen.programs.check()?;
            ensure!(Instant::now() < deadline, "the event {EVENT} is not Ready after {READY_TIMEOUT:?}");
            std::thread::sleep(POLL_INTERVAL);
        }
        println!("\n{TOTAL} users request coupons of the event {EVENT}, which are valid for one minute");
        let scratch = Scratch::new("expiry")?;
        let [issued, redemptions] = ["responses", "redemptions"].map(|name| scratch.path().join(name));
        ensure!(loadgen.request(TOTAL, &issued)?, "no request got a response");
        let log = scratch.path().join("loadgen.log");
        let shops = loadgen.redeem_in_background(&issued, &redemptions, log)?;
        Ok(Self { shops: Process::start(shops)?, scratch })
    }

    /// Waits until the coupons are used or expired, and checks the guarantees. Returns false if one was violated.
    pub(super) fn check(self, loadgen: &Loadgen) -> Result<bool> {
        let step = Step::start(format!("waiting until the unused coupons of the event {EVENT} have expired"));
        let status = self.shops.wait()?;
        step.done_with(&format!("the unused coupons of the event {EVENT} have expired"));
        let statistics = self.shops.log();
        println!("\n{}\n", statistics.trim());
        ensure!(statistics.contains("coupon-expired"), "no coupon has expired");
        let path = |name| self.scratch.path().join(name);
        let check = loadgen
            .check(TOTAL.into())?
            .args(["--history".as_ref(), path("responses").as_os_str()])
            .args(["--redemptions".as_ref(), path("redemptions").as_os_str()]);
        let guarantees_hold = cargo::in_foreground(check).context("cannot check the guarantees")?.success();
        Ok(status.success() && guarantees_hold)
    }
}
