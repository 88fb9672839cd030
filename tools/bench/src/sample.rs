//! What was measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Answer;

/// In microseconds: longer ones count as this.
const LONGEST: u64 = 60_000_000;

/// Latencies in microseconds, with three digits.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(LONGEST, 3).expect("three digits of a minute are possible"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    fn quantiles(&self) -> Quantiles {
        let at = |quantile| self.0.value_at_quantile(quantile);
        Quantiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: self.0.max() }
    }
}

/// In microseconds.
#[derive(Debug, Serialize)]
struct Quantiles {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// What the connections have counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    issued: u64,
    refused: u64,
    unavailable: u64,
    other: u64,
    broken: u64,
    served: Latencies,
    turned_away: Latencies,
}

impl Counts {
    /// Counts an answer; None: the connection broke, or the answer did not come in time.
    pub(crate) fn count(&mut self, answer: Option<Answer>, latency: Duration) {
        match answer {
            Some(Answer::Issued) => self.issued += 1,
            Some(Answer::Refused) => self.refused += 1,
            Some(Answer::Unavailable) => self.unavailable += 1,
            Some(Answer::Other) => self.other += 1,
            None => self.broken += 1,
        }
        match answer {
            Some(Answer::Issued | Answer::Refused) => self.served.record(latency),
            Some(Answer::Unavailable) => self.turned_away.record(latency),
            Some(Answer::Other) | None => {}
        }
    }

    /// The sum of it, of a load that took so long and did not send so many requests any more that were due.
    pub(crate) fn sample(&self, took: Duration, unsent: u64) -> Sample {
        Sample {
            seconds: took.as_secs_f64(),
            issued: self.issued,
            refused: self.refused,
            unavailable: self.unavailable,
            other: self.other,
            broken: self.broken,
            unsent,
            served: self.served.quantiles(),
            turned_away: self.turned_away.quantiles(),
        }
    }
}

/// What a load prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    /// From the first request to the last answer.
    seconds: f64,
    /// How many requests gave a coupon.
    issued: u64,
    /// How many were answered with a no.
    refused: u64,
    /// How many were told to come back, with 503 and `Retry-After`.
    unavailable: u64,
    /// How many were answered with anything else.
    other: u64,
    /// How many had no answer.
    broken: u64,
    /// How many were due and could not be sent, because all connections were busy to the end.
    unsent: u64,
    /// How long those took that were answered with yes or no.
    served: Quantiles,
    /// How long those took that were told to come back.
    turned_away: Quantiles,
}
