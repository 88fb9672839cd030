//! The `CouponEvent` of the demo.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use couponry_testbed::Kubernetes;
use couponry_testbed::progress::{Step, format_count};
use serde_json::Value;

use super::programs::Programs;
use crate::cargo;
use crate::coupon_event::{condition, get, is_ready, number};

/// The name of the event in the example.
pub(super) const NAME: &str = "summer";

const EXAMPLE: &str = "examples/summer.yaml";
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How long a preload may make no progress before the demo fails.
const PRELOAD_TIMEOUT: Duration = Duration::from_mins(3);

/// An applied event.
#[derive(Debug)]
pub(super) struct Event {
    total: u64,
    expected: Vec<String>,
}

impl Event {
    /// Applies the example, optionally with a different number of coupons.
    pub(super) fn apply(kubernetes: &Kubernetes, coupons: Option<u64>) -> Result<Self> {
        let path = cargo::root().join(EXAMPLE);
        let mut manifest = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(coupons) = coupons {
            manifest = with_total(&manifest, coupons)?;
        }
        let output = kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest)?;
        println!("\n$ kubectl apply -f {EXAMPLE}\n{output}");
        let event = get(kubernetes, NAME)?;
        let total = number(&event, "/spec/totalCount").context("the event has no totalCount")?;
        Ok(Self { total, expected: split(&event, total).unwrap_or_default() })
    }

    /// The number of coupons of each discount, as `PERCENT:10=70000`. Empty if the shares leave a remainder: its
    /// allocation is not repeated here.
    pub(super) fn expected(&self) -> &[String] {
        &self.expected
    }

    /// The number of coupons of the event.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Waits for the condition Ready and shows the progress of loading.
    pub(super) fn wait_ready(&self, kubernetes: &Kubernetes, programs: &Programs) -> Result<()> {
        let step = Step::start_of(self.total, "generating and loading coupons");
        let mut last = (0, Instant::now());
        loop {
            programs.check()?;
            let event = get(kubernetes, NAME)?;
            let loaded = number(&event, "/status/loaded").unwrap_or(0);
            step.at(loaded);
            if is_ready(&event) {
                step.done_with(&format!("the event is Ready with {} loaded coupons", format_count(self.total)));
                return Ok(());
            }
            if loaded > last.0 {
                last = (loaded, Instant::now());
            }
            if last.1.elapsed() > PRELOAD_TIMEOUT {
                let ready = condition(&event, "Ready").cloned().unwrap_or_default();
                bail!(
                    "the event is not Ready, and no coupons were loaded for {PRELOAD_TIMEOUT:?}; its condition: {ready}"
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until the status reports all issued coupons as recorded. Returns false after the timeout.
    pub(super) fn wait_recorded(kubernetes: &Kubernetes, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let event = get(kubernetes, NAME)?;
            let (issued, recorded) = (number(&event, "/status/issued"), number(&event, "/status/recorded"));
            if issued.is_some_and(|issued| issued > 0) && issued == recorded {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

fn split(event: &Value, total: u64) -> Option<Vec<String>> {
    let coupons_of = |discount: &Value| {
        let count = number(discount, "/count").or_else(|| {
            let parts = number(discount, "/allocationPercentage")? * total;
            parts.is_multiple_of(100).then_some(parts / 100)
        })?;
        Some(format!("{}:{}={count}", discount["type"].as_str()?.to_uppercase(), number(discount, "/value")?))
    };
    event.pointer("/spec/discounts")?.as_array()?.iter().map(coupons_of).collect()
}

/// Replaces totalCount in the manifest.
fn with_total(manifest: &str, coupons: u64) -> Result<String> {
    let at = manifest.find("totalCount:").with_context(|| format!("{EXAMPLE} has no totalCount"))?;
    let (before, line) = manifest.split_at(at);
    let after = line.split_once('\n').map_or("", |(_, rest)| rest);
    Ok(format!("{before}totalCount: {coupons}\n{after}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{split, with_total};

    #[test]
    fn split_is_known_without_remainder_only() {
        let event = json!({"spec": {"discounts": [
            {"type": "Percent", "value": 10, "allocationPercentage": 70},
            {"type": "Amount", "value": 5000, "allocationPercentage": 30},
        ]}});
        assert_eq!(split(&event, 1000).unwrap(), ["PERCENT:10=700", "AMOUNT:5000=300"]);
        assert_eq!(split(&event, 1001), None);
    }

    #[test]
    fn total_count_is_replaced() {
        let manifest = "spec:\n  totalCount: 100000 # a lot\n  discounts: []\n";
        assert_eq!(with_total(manifest, 7).unwrap(), "spec:\n  totalCount: 7\n  discounts: []\n");
        assert!(with_total("spec: {}\n", 7).is_err());
    }
}
