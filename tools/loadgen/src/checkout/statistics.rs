//! The number of requests of a checkout, and their outcomes.

use std::collections::BTreeMap;
use std::fmt;

use indicatif::HumanCount;

use super::history::{Operation, UseOutcome, problem};

/// Sums over all requests.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Coupons whose script has ended.
    pub coupons: u64,
    /// Attempts by operation and outcome.
    attempts: BTreeMap<(Operation, String), u64>,
    /// Requests whose outcome is not known, also after all retries.
    pub undecided: u64,
}

impl Statistics {
    /// Adds an attempt.
    pub(super) fn add(&mut self, operation: Operation, outcome: &UseOutcome) {
        let label = match outcome {
            UseOutcome::Decided { status: 200, .. } => "done".to_owned(),
            UseOutcome::Decided { status: 409, body } => problem(body).to_owned(),
            UseOutcome::Decided { status, body } => format!("{status} {}", problem(body)),
            UseOutcome::Unknown(_) => "unknown outcome".to_owned(),
        };
        *self.attempts.entry((operation, label)).or_default() += 1;
    }

    /// The attempts that were decided.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.attempts.iter().filter(|((_, label), _)| label == "done").map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((operation, label), count) in &self.attempts {
            writeln!(f, "  {:<8}{label:<26}{:>10}", operation.name(), HumanCount(*count))?;
        }
        let (coupons, undecided) = (HumanCount(self.coupons), HumanCount(self.undecided));
        write!(f, "{coupons} coupons")?;
        if self.undecided > 0 { write!(f, ", {undecided} requests without an outcome") } else { Ok(()) }
    }
}
