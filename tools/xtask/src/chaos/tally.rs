//! What was seen in all rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;
use testbed::progress::grouped;

use super::fault::{Fault, KINDS};

/// Sums over the rounds.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Number of faults of a kind, and how long they lasted together.
    faults: BTreeMap<&'static str, (u64, Duration)>,
    /// Requests by outcome.
    requests: BTreeMap<String, u64>,
    /// Broken promises by class.
    broken: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn struck(&mut self, fault: &Fault) {
        let (count, time) = self.faults.entry(fault.kind.name()).or_default();
        *count += 1;
        *time += fault.lasts;
    }

    /// Adds what `loadgen check --json` wrote.
    pub(super) fn checked(&mut self, numbers: &Value) {
        for (sums, part) in [(&mut self.requests, "requests"), (&mut self.broken, "broken")] {
            for (name, count) in numbers[part].as_object().into_iter().flatten() {
                *sums.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} requests", grouped(self.requests.values().sum()))?;
        for (outcome, count) in &self.requests {
            writeln!(f, "  {outcome:<20}{:>12}", grouped(*count))?;
        }
        writeln!(f, "{} faults", grouped(self.faults.values().map(|(count, _)| count).sum()))?;
        for (name, _) in KINDS {
            if let Some((count, time)) = self.faults.get(name) {
                writeln!(f, "  {name:<20}{count:>12}  {:>7.1} s", time.as_secs_f64())?;
            }
        }
        writeln!(f, "{} promises broken", grouped(self.broken.values().sum()))?;
        for (class, count) in &self.broken {
            writeln!(f, "  {class:<20}{:>12}", grouped(*count))?;
        }
        Ok(())
    }
}
