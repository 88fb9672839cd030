//! The `CouponEvent` of the demo.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use couponry_testbed::Kubernetes;
use couponry_testbed::progress::{Step, grouped};
use serde_json::Value;

use super::programs::Programs;
use crate::cargo;
use crate::coupon_event::{condition, get, number};

/// The event's name in the example.
pub(super) const NAME: &str = "summer";

const EXAMPLE: &str = "examples/summer.yaml";
const POLL: Duration = Duration::from_millis(300);
/// How long a preload may stand still before the demo gives up.
const STILL: Duration = Duration::from_mins(3);

/// An applied event.
#[derive(Debug)]
pub(super) struct Event {
    total: u64,
    expected: Vec<String>,
}

impl Event {
    /// Applies the example, with another number of coupons when one is given.
    pub(super) fn apply(kubernetes: &Kubernetes, coupons: Option<u64>) -> Result<Self> {
        let path = cargo::root().join(EXAMPLE);
        let mut manifest = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if let Some(coupons) = coupons {
            manifest = with_total(&manifest, coupons)?;
        }
        let answer = kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest)?;
        println!("\n$ kubectl apply -f {EXAMPLE}\n{answer}");
        let event = get(kubernetes, NAME)?;
        let total = number(&event, "/spec/totalCount").context("the event has no totalCount")?;
        Ok(Self { total, expected: split(&event, total).unwrap_or_default() })
    }

    /// How many coupons of each discount the manifest promises, as `PERCENT:10=70000`. Empty when the shares leave a
    /// remainder: how that is dealt with is not for us to say again.
    pub(super) fn expected(&self) -> &[String] {
        &self.expected
    }

    /// How many coupons the event has.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Waits for the condition Ready, showing how many coupons are loaded.
    pub(super) fn wait_ready(&self, kubernetes: &Kubernetes, programs: &Programs) -> Result<()> {
        let step = Step::start_of(self.total, "making and loading the coupons");
        let mut last = (0, Instant::now());
        loop {
            programs.check()?;
            let event = get(kubernetes, NAME)?;
            let preloaded = number(&event, "/status/loaded").unwrap_or(0);
            step.at(preloaded);
            if condition(&event, "Ready").is_some_and(|c| c["status"] == "True") {
                step.done_with(&format!("{} coupons are made and loaded: the event is Ready", grouped(self.total)));
                return Ok(());
            }
            if preloaded > last.0 {
                last = (preloaded, Instant::now());
            }
            if last.1.elapsed() > STILL {
                let ready = condition(&event, "Ready").cloned().unwrap_or_default();
                bail!("the event is not Ready, and has loaded nothing for {STILL:?}; its condition: {ready}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until the status says that all issued coupons are recorded; false when it does not in time.
    pub(super) fn wait_recorded(kubernetes: &Kubernetes, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            let event = get(kubernetes, NAME)?;
            let (issued, recorded) = (number(&event, "/status/issued"), number(&event, "/status/recorded"));
            if issued.is_some_and(|issued| issued > 0) && issued == recorded {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(POLL);
        }
    }
}

fn split(event: &Value, total: u64) -> Option<Vec<String>> {
    let one = |discount: &Value| {
        let count = number(discount, "/count").or_else(|| {
            let parts = number(discount, "/allocationPercentage")? * total;
            parts.is_multiple_of(100).then_some(parts / 100)
        })?;
        Some(format!("{}:{}={count}", discount["type"].as_str()?.to_uppercase(), number(discount, "/value")?))
    };
    event.pointer("/spec/discounts")?.as_array()?.iter().map(one).collect()
}

/// The manifest with another totalCount.
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
    fn the_split_is_told_when_there_is_no_remainder() {
        let event = json!({"spec": {"discounts": [
            {"type": "Percent", "value": 10, "allocationPercentage": 70},
            {"type": "Amount", "value": 5000, "allocationPercentage": 30},
        ]}});
        assert_eq!(split(&event, 1000).unwrap(), ["PERCENT:10=700", "AMOUNT:5000=300"]);
        assert_eq!(split(&event, 1001), None);
    }

    #[test]
    fn the_number_of_coupons_can_be_changed() {
        let manifest = "spec:\n  totalCount: 100000 # a lot\n  discounts: []\n";
        assert_eq!(with_total(manifest, 7).unwrap(), "spec:\n  totalCount: 7\n  discounts: []\n");
        assert!(with_total("spec: {}\n", 7).is_err());
    }
}
