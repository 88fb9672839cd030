//! The results of the checks, and their display.

use std::fmt;

use indicatif::HumanCount;

/// How many examples of violations a result keeps.
const MAX_EXAMPLES: usize = 5;

/// The category of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Violations of: coupons in responses are recorded.
    Lost,
    /// Violations of: coupons in responses are not rejected or cancelled afterwards.
    Cancelled,
    /// Violations of: nothing exists twice.
    Duplicated,
    /// Violations of: nothing exists that should not.
    Unexpected,
    /// Requests without a response, or with a 5xx response: their coupon may be issued or not. Not a violation.
    UnknownOutcome,
    /// Violations of: every request has an outcome after its retries.
    Undecided,
    /// Violations of: the stock is exact.
    Stock,
    /// Violations of: the stores agree.
    Consistency,
    /// Violations of: coupons are issued only in the window.
    Window,
}

impl Category {
    /// The name for output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Cancelled => "cancelled",
            Self::Duplicated => "duplicated",
            Self::Unexpected => "unexpected",
            Self::UnknownOutcome => "unknown outcome",
            Self::Undecided => "undecided",
            Self::Stock => "stock",
            Self::Consistency => "consistency",
            Self::Window => "window",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// The category.
    pub category: Category,
    /// The property that was checked.
    pub property: &'static str,
    /// The numbers that were compared.
    pub summary: String,
    /// Number of violations.
    pub violations: u64,
    /// Some of the violations.
    pub examples: Vec<String>,
}

impl CheckResult {
    pub(super) fn new(category: Category, property: &'static str, summary: String) -> Self {
        Self { category, property, summary, violations: 0, examples: Vec::new() }
    }

    pub(super) fn add_violation(&mut self, example: impl FnOnce() -> String) {
        self.violations += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// The results of all checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// One result for each check.
    pub results: Vec<CheckResult>,
}

impl Report {
    /// Whether no check failed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The results with violations.
    pub fn failed(&self) -> impl Iterator<Item = &CheckResult> {
        self.results.iter().filter(|result| result.violations > 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.results.iter().map(|result| result.property.chars().count()).max().unwrap_or(0);
        for CheckResult { category, property, summary, violations, examples } in &self.results {
            let status = if *violations == 0 { "OK    " } else { "FAILED" };
            writeln!(f, "{status}  {:<15}  {property:<width$}  {summary}", category.name())?;
            for example in examples {
                writeln!(f, "          ✗ {example}")?;
            }
            let more = violations.saturating_sub(examples.len() as u64);
            if more > 0 {
                writeln!(f, "          … and {} more", HumanCount(more))?;
            }
        }
        match self.failed().count() {
            0 => writeln!(f, "All {} checks passed.", self.results.len()),
            failed => writeln!(f, "{failed} of {} checks FAILED.", self.results.len()),
        }
    }
}

/// A number for display.
pub(super) fn count(number: usize) -> HumanCount {
    HumanCount(number as u64)
}
