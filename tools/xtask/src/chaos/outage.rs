//! Outages: how long no request was answered.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// Time of an injection in microseconds since the Unix epoch, and the kind of fault.
pub(super) type Injection = (i64, &'static str);

/// An outage that begins at most this long before an injection is its effect: no response arrives at that very moment.
const SIMULTANEOUS: i64 = 500_000;

/// The longest outage of each injection: one that begins after it and before the next one. The injections are in order.
pub(super) fn after_each(history: &Path, injections: &[Injection]) -> Result<Vec<Duration>> {
    let failed = || format!("cannot read {}", history.display());
    let mut responses = Vec::new();
    for line in BufReader::new(File::open(history).with_context(failed)?).lines() {
        let entry: Value = serde_json::from_str(&line.with_context(failed)?).with_context(failed)?;
        if entry["outcome"]["answered"].is_object() {
            responses.extend(entry["finished"].as_i64());
        }
    }
    responses.sort_unstable();
    Ok(longest(&responses, injections))
}

fn longest(responses: &[i64], injections: &[Injection]) -> Vec<Duration> {
    let mut longest = vec![Duration::ZERO; injections.len()];
    for (from, until) in responses.iter().zip(&responses[1.min(responses.len())..]) {
        let next = injections.partition_point(|(at, _)| at <= from);
        let is_effect_of_next = injections.get(next).is_some_and(|(at, _)| at <= until && at - from <= SIMULTANEOUS);
        if let Some(index) = if is_effect_of_next { Some(next) } else { next.checked_sub(1) } {
            longest[index] = longest[index].max(Duration::from_micros(until.abs_diff(*from)));
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_belongs_to_the_injection_before_it() {
        let injections = [(10, "a"), (20, "b"), (30, "c")].map(|(seconds, name)| (1_000_000 * seconds, name));
        let outages = |tenths: &[i64]| {
            let responses: Vec<i64> = tenths.iter().map(|tenths| 100_000 * tenths).collect();
            longest(&responses, &injections).iter().map(Duration::as_secs).collect::<Vec<_>>()
        };
        assert_eq!(outages(&[10, 99, 129, 150, 270, 280, 330]), [12, 5, 0], "it may last beyond the next injection");
        assert_eq!(outages(&[99, 350, 360]), [25, 0, 1], "or beyond two of them");
        assert_eq!(outages(&[99, 199, 260, 360]), [10, 10, 0]);
        assert_eq!(outages(&[10]), [0, 0, 0]);
        assert_eq!(longest(&[], &[]), Vec::<Duration>::new());
    }
}
