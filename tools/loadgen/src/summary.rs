//! How a run went, for people: outcomes, throughput, latencies, and what was won.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use couponry_domain::{Discount, UserId};
use hdrhistogram::Histogram;
use indicatif::HumanCount;

use crate::history::Attempt;
use crate::progress::Kind;

/// The width of the longest bar, in characters.
const BAR: usize = 40;

/// The sum of a run's attempts.
pub struct Summary {
    attempts: BTreeMap<Kind, u64>,
    answered: u64,
    /// Of the attempts that were answered, in microseconds.
    latency: Histogram<u64>,
    won: HashMap<UserId, Discount>,
    first: i64,
    last: i64,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            attempts: BTreeMap::new(),
            answered: 0,
            latency: Histogram::new(3).expect("3 is a precision that it has"),
            won: HashMap::new(),
            first: i64::MAX,
            last: i64::MIN,
        }
    }
}

impl Summary {
    /// Adds one attempt.
    ///
    /// # Panics
    /// Never: the histogram grows with its values.
    pub fn add(&mut self, attempt: &Attempt) {
        *self.attempts.entry(Kind::of(&attempt.outcome)).or_default() += 1;
        self.first = self.first.min(attempt.invoked);
        self.last = self.last.max(attempt.finished);
        if attempt.answer().is_some() {
            self.answered += 1;
            let micros = u64::try_from(attempt.finished - attempt.invoked).unwrap_or(0);
            self.latency.record(micros).expect("it grows with its values");
            if let Some((_, discount)) = attempt.coupon() {
                self.won.insert(attempt.user.clone(), discount);
            }
        }
    }

    /// How many attempts there were.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.attempts.values().sum()
    }

    /// How many attempts were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// From the first request to the last answer.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.last.saturating_sub(self.first)).unwrap_or(0))
    }

    /// How many users know that they hold a coupon of each discount.
    #[must_use]
    pub fn won(&self) -> BTreeMap<Discount, u64> {
        let mut won = BTreeMap::new();
        for discount in self.won.values() {
            *won.entry(*discount).or_default() += 1;
        }
        won
    }

    /// Answers per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn throughput(&self) -> f64 {
        self.answered as f64 / self.elapsed().as_secs_f64().max(1e-6)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.attempts.values().sum();
        writeln!(f, "Outcomes of {} requests", HumanCount(all))?;
        for (kind, count) in &self.attempts {
            writeln!(
                f,
                "  {:<12} {:>11}  {:>5.1} %",
                kind.name(),
                HumanCount(*count).to_string(),
                percent(*count, all)
            )?;
        }
        let seconds = self.elapsed().as_secs_f64();
        writeln!(f, "\nThroughput     {:.0} answers/s over {seconds:.1} s", self.throughput())?;
        if self.answered == 0 {
            return Ok(());
        }
        write!(f, "Latency       ")?;
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            write!(f, " {name} {}  ", millis(self.latency.value_at_quantile(quantile)))?;
        }
        writeln!(f, " max {}", millis(self.latency.max()))?;

        let won = self.won();
        let users: u64 = won.values().sum();
        writeln!(f, "\nWon by {} users", HumanCount(users))?;
        let most = won.values().copied().max().unwrap_or(1).max(1);
        for (discount, count) in &won {
            let bar = "█".repeat(usize::try_from(count * BAR as u64 / most).unwrap_or(BAR).max(1));
            let (count_text, share) = (HumanCount(*count).to_string(), percent(*count, users));
            writeln!(f, "  {:<14} {bar:<BAR$} {count_text:>11}  {share:>5.1} %", discount.to_string())?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn millis(micros: u64) -> String {
    let millis = micros as f64 / 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Outcome, Problem, Reason};

    fn attempt(user: &str, invoked: i64, finished: i64, outcome: Outcome) -> Attempt {
        let user = user.parse().unwrap();
        Attempt { invoked, finished, user, ask: 1, attempt: 1, target: "t".into(), outcome }
    }

    fn coupon(reason: Option<Reason>, kind: couponry_domain::DiscountType, value: u32) -> Outcome {
        Outcome::Ok(Answer {
            success: reason.is_none(),
            reason,
            coupon_key: Some("A-1".into()),
            message: None,
            discount_type: Some(kind),
            discount_amount: Some(value),
        })
    }

    #[test]
    fn a_run_is_summed_up() {
        use couponry_domain::DiscountType::{Amount, Percent};
        let mut summary = Summary::default();
        for user in 0..3 {
            let at = user * 500_000;
            summary.add(&attempt(&format!("u{user}"), at, at + 2000, coupon(None, Percent, 10)));
        }
        summary.add(&attempt("u0", 0, 4000, coupon(Some(Reason::Duplicate), Percent, 10)));
        summary.add(&attempt("u9", 0, 9000, Outcome::Unknown(Problem { why: "x".into(), status: Some(503) })));
        summary.add(&attempt("u9", 9000, 1_509_000, coupon(Some(Reason::Duplicate), Amount, 5000)));
        let text = summary.to_string();
        assert_eq!(summary.answered(), 5);
        assert_eq!(summary.won().values().sum::<u64>(), 4);
        for line in [
            "Outcomes of 6 requests",
            "  issued                 3   50.0 %",
            "  duplicate              2   33.3 %",
            "  unknown                1   16.7 %",
            "Throughput     3 answers/s over 1.5 s",
            "p50 2.00 ms",
            "max 1500 ms",
            "Won by 4 users",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        assert!(text.contains(&format!("  PERCENT:10     {}           3   75.0 %", "█".repeat(40))), "{text}");
    }

    #[test]
    fn a_run_without_answers_is_summed_up_too() {
        let mut summary = Summary::default();
        summary.add(&attempt("u", 0, 1, Outcome::Refused(Problem { why: "x".into(), status: None })));
        assert!(summary.to_string().contains("unreachable            1  100.0 %"), "{summary}");
        assert!(Summary::default().to_string().contains("Outcomes of 0 requests"));
    }
}
