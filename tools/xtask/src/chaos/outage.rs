//! Outages: how long no request was answered.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// Time of an injection in microseconds since the Unix epoch, and the kind of fault.
pub(super) type Injection = (i64, &'static str);

/// The longest outage after each injection, until the next one. The injections are in order.
pub(super) fn after_each(history: &Path, injections: &[Injection]) -> Result<Vec<Duration>> {
    let failed = || format!("cannot read {}", history.display());
    let mut answers = Vec::new();
    for line in BufReader::new(File::open(history).with_context(failed)?).lines() {
        let entry: Value = serde_json::from_str(&line.with_context(failed)?).with_context(failed)?;
        if entry["outcome"]["answered"].is_object() {
            answers.extend(entry["finished"].as_i64());
        }
    }
    answers.sort_unstable();
    Ok(longest(&answers, injections))
}

fn longest(answers: &[i64], injections: &[Injection]) -> Vec<Duration> {
    let mut longest = vec![Duration::ZERO; injections.len()];
    for (from, until) in answers.iter().zip(&answers[1.min(answers.len())..]) {
        // An outage belongs to the first injection within it.
        let next = injections.partition_point(|(at, _)| at <= from);
        let is_within = injections.get(next).is_some_and(|(at, _)| at <= until);
        if let Some(index) = if is_within { Some(next) } else { next.checked_sub(1) } {
            longest[index] = longest[index].max(Duration::from_micros(until.abs_diff(*from)));
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_belongs_to_first_injection_within_it() {
        let injections = [(100, "a"), (200, "b"), (300, "c")];
        let micros = |all: &[u64]| all.iter().copied().map(Duration::from_micros).collect::<Vec<_>>();
        assert_eq!(longest(&[10, 90, 110, 150, 250, 260, 310], &injections), micros(&[40, 100, 50]));
        assert_eq!(
            longest(&[90, 350, 360], &injections),
            micros(&[260, 0, 10]),
            "longer than the time to the next injection"
        );
        assert_eq!(longest(&[10], &injections), micros(&[0, 0, 0]));
        assert_eq!(longest(&[], &[]), micros(&[]));
    }
}
