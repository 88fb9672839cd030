//! Statistics over all rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use couponry_testbed::progress::format_count;
use serde_json::Value;

use super::fault::{Fault, KINDS};

/// Sums over all rounds.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    /// Faults by kind.
    faults: BTreeMap<&'static str, Faults>,
    /// Attempts by outcome.
    attempts: BTreeMap<String, u64>,
    /// Attempts of shops by outcome.
    redemptions: BTreeMap<String, u64>,
    /// Voids by outcome.
    voids: BTreeMap<String, u64>,
    /// Violations by category.
    violations: BTreeMap<String, u64>,
    /// The longest time from the end of a load until everything was recorded.
    recorded_after: Duration,
}

#[derive(Debug, Default)]
struct Faults {
    count: u64,
    /// Total duration.
    total_duration: Duration,
    /// The longest outage after one of them.
    outage: Duration,
}

impl Statistics {
    pub(super) fn add_fault(&mut self, fault: &Fault) {
        let faults = self.faults.entry(fault.kind.name()).or_default();
        faults.count += 1;
        faults.total_duration += fault.duration;
    }

    pub(super) fn add_outage(&mut self, kind: &'static str, outage: Duration) {
        let longest = &mut self.faults.entry(kind).or_default().outage;
        *longest = outage.max(*longest);
    }

    /// Adds the output of `loadgen check --json`.
    pub(super) fn add_check(&mut self, counts: &Value) {
        let Self { attempts, redemptions, voids, violations, .. } = self;
        let sums = [(attempts, "attempts"), (redemptions, "redemptions"), (voids, "voids"), (violations, "violations")];
        for (sums, key) in sums {
            for (name, count) in counts[key].as_object().into_iter().flatten() {
                *sums.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        let recorded_after = Duration::from_secs_f64(counts["recordedAfterSeconds"].as_f64().unwrap_or(0.0));
        self.recorded_after = self.recorded_after.max(recorded_after);
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, attempts) in
            [("attempts", &self.attempts), ("attempts at redemptions", &self.redemptions), ("voids", &self.voids)]
        {
            writeln!(f, "{} {name}", format_count(attempts.values().sum()))?;
            for (outcome, count) in attempts {
                writeln!(f, "  {outcome:<20}{:>12}", format_count(*count))?;
            }
        }
        let count = format_count(self.faults.values().map(|faults| faults.count).sum());
        writeln!(f, "{count} faults{:>37}  {:>15}", "duration", "longest outage")?;
        for (name, _) in KINDS {
            if let Some(Faults { count, total_duration, outage }) = self.faults.get(name) {
                let (total_duration, outage) = (total_duration.as_secs_f64(), outage.as_secs_f64());
                writeln!(f, "  {name:<26}{count:>12}  {total_duration:>7.1} s  {outage:>13.1} s")?;
            }
        }
        let recorded_after = self.recorded_after.as_secs_f64();
        writeln!(f, "everything was recorded at most {recorded_after:.1} s after the load of a round had ended")?;
        writeln!(f, "{} violations", format_count(self.violations.values().sum()))?;
        for (category, count) in &self.violations {
            writeln!(f, "  {category:<20}{:>12}", format_count(*count))?;
        }
        Ok(())
    }
}
