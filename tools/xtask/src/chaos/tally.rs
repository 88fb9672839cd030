//! What was seen in all rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use couponry_testbed::progress::grouped;
use serde_json::Value;

use super::fault::{Fault, KINDS};

/// Sums over the rounds.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The faults of a kind.
    faults: BTreeMap<&'static str, Faults>,
    /// Requests by outcome.
    requests: BTreeMap<String, u64>,
    /// Broken promises by class.
    broken: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Faults {
    count: u64,
    /// How long they lasted together.
    lasted: Duration,
    /// The longest time without any answer after one of them began.
    silence: Duration,
}

impl Tally {
    pub(super) fn struck(&mut self, fault: &Fault) {
        let faults = self.faults.entry(fault.kind.name()).or_default();
        faults.count += 1;
        faults.lasted += fault.lasts;
    }

    pub(super) fn silent(&mut self, kind: &'static str, silence: Duration) {
        let longest = &mut self.faults.entry(kind).or_default().silence;
        *longest = silence.max(*longest);
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
        let count = grouped(self.faults.values().map(|faults| faults.count).sum());
        writeln!(f, "{count} faults{:>31}  {:>15}", "lasted", "longest silence")?;
        for (name, _) in KINDS {
            if let Some(Faults { count, lasted, silence }) = self.faults.get(name) {
                let (lasted, silence) = (lasted.as_secs_f64(), silence.as_secs_f64());
                writeln!(f, "  {name:<20}{count:>12}  {lasted:>7.1} s  {silence:>13.1} s")?;
            }
        }
        writeln!(f, "{} promises broken", grouped(self.broken.values().sum()))?;
        for (class, count) in &self.broken {
            writeln!(f, "  {class:<20}{:>12}", grouped(*count))?;
        }
        Ok(())
    }
}
