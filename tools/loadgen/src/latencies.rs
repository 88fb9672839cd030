//! A histogram of latencies.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer latencies count as this many microseconds.
const MAX_MICROS: u64 = 60_000_000;

/// Latencies in microseconds, with three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(MAX_MICROS, 3).expect("the bounds of the histogram are valid"))
    }
}

impl Latencies {
    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// The latency at a quantile from 0 to 1, in microseconds.
    #[must_use]
    pub fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// The highest latency, in microseconds.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.max()
    }
}
