//! Records the metrics of all programs as a Prometheus in a cluster has them: with the labels of a `ServiceMonitor`,
//! `up`, and a stale marker where a series ends. The format is that of `promtool test rules`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use couponry_testbed::http;
use jiff::Timestamp;

/// The interval of scrapes, as in the values of the chart.
pub(super) const INTERVAL: Duration = Duration::from_secs(15);
/// The labels that all series have in a release `couponry` in the namespace `shop`.
const LABELS: &str = r#"namespace="shop",job="couponry-metrics""#;

/// A program whose metrics are recorded.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) pod: String,
    /// The port of `/metrics`.
    pub(super) port: u16,
}

/// The pods that exist now.
pub(super) type Targets = Arc<Mutex<Vec<Target>>>;

/// Scrapes in the background until [`Recorder::finish`].
#[derive(Debug)]
pub(super) struct Recorder {
    stop: Sender<()>,
    thread: JoinHandle<Recording>,
}

/// All scrapes.
#[derive(Debug)]
pub(super) struct Recording {
    start: Timestamp,
    scrapes: usize,
    /// The values of each series; None where it is missing.
    series: BTreeMap<String, Vec<Option<f64>>>,
}

impl Recorder {
    pub(super) fn start(targets: Targets) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            // Without a fraction, so that the samples are exactly at the times of promtool.
            let start = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
            let mut recording = Recording { start, scrapes: 0, series: BTreeMap::new() };
            let mut next = Instant::now();
            loop {
                let current = targets.lock().unwrap_or_else(PoisonError::into_inner).clone();
                recording.add(&scrape(&current));
                next += INTERVAL;
                match stopped.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return recording,
                }
            }
        });
        Self { stop, thread }
    }

    /// Stops and returns everything that was recorded.
    pub(super) fn finish(self) -> Result<Recording> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the thread that records metrics panicked"))
    }
}

/// The samples of all targets, as series and value.
fn scrape(targets: &[Target]) -> Vec<(String, f64)> {
    let scrape = |target: &Target| {
        let labels = format!(r#"{LABELS},pod="{}""#, target.pod);
        let text = http::get(target.port, "/metrics").filter(|(status, _)| *status == 200).map(|(_, text)| text);
        let mut samples = vec![(format!("up{{{labels}}}"), if text.is_some() { 1.0 } else { 0.0 })];
        samples.extend(text.iter().flat_map(|text| text.lines()).filter_map(|line| sample(line, &labels)));
        samples
    };
    thread::scope(|scope| {
        let scrapes: Vec<_> = targets.iter().map(|target| scope.spawn(move || scrape(target))).collect();
        scrapes.into_iter().flat_map(|scrape| scrape.join().unwrap_or_default()).collect()
    })
}

/// A line of `/metrics` with these labels in addition.
fn sample(line: &str, labels: &str) -> Option<(String, f64)> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, own) = series.split_once('{').unwrap_or((series, "}"));
    let own = own.trim_end_matches('}');
    let separator = if own.is_empty() { "" } else { "," };
    Some((format!("{name}{{{labels}{separator}{own}}}"), value.parse().ok()?))
}

impl Recording {
    fn add(&mut self, samples: &[(String, f64)]) {
        for (series, value) in samples {
            let values = self.series.entry(series.clone()).or_default();
            values.resize(self.scrapes, None);
            values.push(Some(*value));
        }
        self.scrapes += 1;
    }

    /// A test group of promtool without expectations. `is_used` selects the metrics.
    pub(super) fn to_yaml(&self, is_used: impl Fn(&str) -> bool) -> String {
        let mut text =
            format!("interval: {}s\nstart_timestamp: {}\ninput_series:\n", INTERVAL.as_secs(), self.start.as_second());
        for (series, values) in &self.series {
            if is_used(series.split('{').next().unwrap_or_default()) {
                let values = notation(values, self.scrapes);
                let _ = writeln!(text, "  - {{series: '{series}', values: '{values}'}}");
            }
        }
        text
    }
}

/// The values in the notation of promtool: `1x3` is four times 1, `_` a missing sample, and `stale` ends a series.
fn notation(values: &[Option<f64>], scrapes: usize) -> String {
    let mut words: Vec<(String, usize)> = Vec::new();
    let mut previous = None;
    for index in 0..scrapes {
        let value = values.get(index).copied().flatten();
        let word = match (value, previous) {
            (Some(value), _) => value.to_string(),
            (None, Some(_)) => "stale".to_owned(),
            (None, None) => "_".to_owned(),
        };
        match words.last_mut() {
            Some((last, count)) if *last == word => *count += 1,
            _ => words.push((word, 1)),
        }
        previous = value;
    }
    let text = |(word, count): &(String, usize)| match (word.as_str(), count) {
        (_, 1) => word.clone(),
        ("_", count) => format!("_x{count}"),
        (_, count) => format!("{word}x{}", count - 1),
    };
    words.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_is_in_the_notation_of_promtool() {
        let mut recording = Recording { start: Timestamp::UNIX_EPOCH, scrapes: 0, series: BTreeMap::new() };
        let up = |value| ("up{}".to_owned(), value);
        let lag = |value| ("lag{}".to_owned(), value);
        for samples in [
            vec![up(1.0)],
            vec![up(1.0)],
            vec![up(1.0), lag(2.5)],
            vec![up(1.0), lag(3.0)],
            vec![up(0.0)],
            vec![up(0.0)],
        ] {
            recording.add(&samples);
        }
        assert_eq!(
            recording.to_yaml(|name| name != "other"),
            "interval: 15s\nstart_timestamp: 0\ninput_series:\n  - {series: 'lag{}', values: '_x2 2.5 3 stale _'}\n  - \
             {series: 'up{}', values: '1x3 0x1'}\n"
        );
        assert!(!recording.to_yaml(|name| name == "lag").contains("up{}"));
    }

    #[test]
    fn sample_has_the_labels_of_the_target() {
        let of = |line| sample(line, "a=\"b\"");
        assert_eq!(of("ready 1"), Some(("ready{a=\"b\"}".to_owned(), 1.0)));
        assert_eq!(
            of("requests_total{outcome=\"x y\"} 2"),
            Some(("requests_total{a=\"b\",outcome=\"x y\"}".to_owned(), 2.0))
        );
        assert_eq!(of("# TYPE ready gauge"), None);
    }
}
