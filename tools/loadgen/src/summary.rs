//! The summary of a run: outcomes, throughput, latencies, and issued coupons.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use couponry_domain::{Discount, UserId};
use indicatif::HumanCount;

use crate::history::Attempt;
use crate::latencies::Latencies;
use crate::outcome::OutcomeKind;

/// The width of the longest bar, in characters.
const BAR: usize = 40;

/// Sums over the attempts of a run.
pub struct Summary {
    attempts: BTreeMap<OutcomeKind, u64>,
    answered: u64,
    /// Of the answered attempts.
    latencies: Latencies,
    coupons: HashMap<UserId, Discount>,
    first: i64,
    last: i64,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            attempts: BTreeMap::new(),
            answered: 0,
            latencies: Latencies::default(),
            coupons: HashMap::new(),
            first: i64::MAX,
            last: i64::MIN,
        }
    }
}

impl Summary {
    /// Adds one attempt.
    pub fn add(&mut self, attempt: &Attempt) {
        *self.attempts.entry(OutcomeKind::from(&attempt.outcome)).or_default() += 1;
        self.first = self.first.min(attempt.invoked);
        self.last = self.last.max(attempt.finished);
        if attempt.response().is_some() {
            self.answered += 1;
            self.latencies.record(micros(attempt.finished - attempt.invoked));
            if let Some((_, discount)) = attempt.coupon() {
                self.coupons.insert(attempt.user.clone(), discount);
            }
        }
    }

    /// Number of attempts.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.attempts.values().sum()
    }

    /// Number of answered attempts.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Number of users who received a coupon, by discount.
    #[must_use]
    pub fn coupons(&self) -> BTreeMap<Discount, u64> {
        let mut coupons = BTreeMap::new();
        for discount in self.coupons.values() {
            *coupons.entry(*discount).or_default() += 1;
        }
        coupons
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.attempts();
        writeln!(f, "Outcomes of {} attempts", HumanCount(attempts))?;
        for (kind, count) in &self.attempts {
            let (share, count) = (percent(*count, attempts), HumanCount(*count).to_string());
            writeln!(f, "  {:<12} {count:>11}  {share:>5.1} %", kind.name())?;
        }
        let seconds = micros(self.last.saturating_sub(self.first)).as_secs_f64();
        let throughput = float(self.answered) / seconds.max(1e-6);
        writeln!(f, "\nThroughput     {throughput:.0} responses/s over {seconds:.1} s")?;
        if self.answered == 0 {
            return Ok(());
        }
        write!(f, "Latency       ")?;
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            write!(f, " {name} {}  ", millis(self.latencies.at(quantile)))?;
        }
        writeln!(f, " max {}", millis(self.latencies.max()))?;

        let coupons = self.coupons();
        let users: u64 = coupons.values().sum();
        writeln!(f, "\n{} users received a coupon", HumanCount(users))?;
        let most = coupons.values().copied().max().unwrap_or(1).max(1);
        for (discount, count) in &coupons {
            let bar = "█".repeat(usize::try_from(count * BAR as u64 / most).unwrap_or(BAR).max(1));
            let (share, count) = (percent(*count, users), HumanCount(*count).to_string());
            writeln!(f, "  {:<14} {bar:<BAR$} {count:>11}  {share:>5.1} %", discount.to_string())?;
        }
        Ok(())
    }
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[expect(clippy::cast_precision_loss, reason = "only displayed")]
fn float(count: u64) -> f64 {
    count as f64
}

fn percent(part: u64, total: u64) -> f64 {
    float(part) * 100.0 / float(total.max(1))
}

fn millis(micros: u64) -> String {
    let millis = float(micros) / 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

#[cfg(test)]
mod tests {
    use couponry_domain::DiscountType::{self, Amount, Percent};

    use super::*;
    use crate::outcome::{Failure, IssueResponse, Outcome, Reason};

    fn attempt(user: &str, invoked: i64, finished: i64, outcome: Outcome) -> Attempt {
        let user = user.parse().unwrap();
        Attempt { invoked, finished, user, request: 1, attempt: 1, target: "t".into(), outcome }
    }

    fn coupon(reason: Option<Reason>, kind: DiscountType, value: u32) -> Outcome {
        Outcome::Answered(IssueResponse {
            success: reason.is_none(),
            reason,
            coupon_key: Some("A-1".into()),
            message: None,
            discount_type: Some(kind),
            discount_amount: Some(value),
            admitted_at: None,
            next_drop_at: None,
            valid_until: None,
        })
    }

    #[test]
    fn summary_has_counts_throughput_and_latencies() {
        let mut summary = Summary::default();
        for user in 0..3 {
            let at = user * 500_000;
            summary.add(&attempt(&format!("u{user}"), at, at + 2000, coupon(None, Percent, 10)));
        }
        summary.add(&attempt("u0", 0, 4000, coupon(Some(Reason::Duplicate), Percent, 10)));
        let unknown = Outcome::Unknown(Failure { message: "x".into(), status: Some(503) });
        summary.add(&attempt("u9", 0, 9000, unknown));
        summary.add(&attempt("u9", 9000, 1_509_000, coupon(Some(Reason::Duplicate), Amount, 5000)));
        let text = summary.to_string();
        assert_eq!(summary.answered(), 5);
        assert_eq!(summary.coupons().values().sum::<u64>(), 4);
        for line in [
            "Outcomes of 6 attempts",
            "  issued                 3   50.0 %",
            "  duplicate              2   33.3 %",
            "  unknown                1   16.7 %",
            "Throughput     3 responses/s over 1.5 s",
            "p50 2.00 ms",
            "max 1500 ms",
            "4 users received a coupon",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        assert!(text.contains(&format!("  PERCENT:10     {}           3   75.0 %", "█".repeat(40))), "{text}");
    }

    #[test]
    fn summary_without_answers_has_outcomes() {
        let mut summary = Summary::default();
        let rejected = Outcome::Rejected(Failure { message: "x".into(), status: None });
        summary.add(&attempt("u", 0, 1, rejected));
        assert!(summary.to_string().contains("unreachable            1  100.0 %"), "{summary}");
        assert!(Summary::default().to_string().contains("Outcomes of 0 attempts"));
    }
}
