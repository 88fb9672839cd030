//! How long nobody heard anything.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

/// When a fault struck, in microseconds since the Unix epoch, and the name of its kind.
pub(super) type Strike = (i64, &'static str);

/// The longest time without an answer after each of the strikes, which come in the order of time, until the next one.
pub(super) fn after_each(history: &Path, strikes: &[Strike]) -> Result<Vec<Duration>> {
    let what = || format!("cannot read {}", history.display());
    let mut answers = Vec::new();
    for line in BufReader::new(File::open(history).with_context(what)?).lines() {
        let entry: Value = serde_json::from_str(&line.with_context(what)?).with_context(what)?;
        if entry["outcome"]["ok"].is_object() {
            answers.extend(entry["finished"].as_i64());
        }
    }
    answers.sort_unstable();
    Ok(longest(&answers, strikes))
}

fn longest(answers: &[i64], strikes: &[Strike]) -> Vec<Duration> {
    let mut longest = vec![Duration::ZERO; strikes.len()];
    for (from, until) in answers.iter().zip(&answers[1.min(answers.len())..]) {
        // A silence belongs to the strike that fell into it; the first, if there were several.
        let begun = strikes.partition_point(|(at, _)| at <= from);
        let fell_into_it = strikes.get(begun).is_some_and(|(at, _)| at <= until);
        if let Some(strike) = if fell_into_it { Some(begun) } else { begun.checked_sub(1) } {
            longest[strike] = longest[strike].max(Duration::from_micros(until.abs_diff(*from)));
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_belongs_to_the_strike_that_began_it() {
        let strikes = [(100, "a"), (200, "b"), (300, "c")];
        let micros = |all: &[u64]| all.iter().copied().map(Duration::from_micros).collect::<Vec<_>>();
        assert_eq!(longest(&[10, 90, 110, 150, 250, 260, 310], &strikes), micros(&[40, 100, 50]));
        assert_eq!(longest(&[90, 350, 360], &strikes), micros(&[260, 0, 10]), "longer than until the next");
        assert_eq!(longest(&[10], &strikes), micros(&[0, 0, 0]));
        assert_eq!(longest(&[], &[]), []);
    }
}
