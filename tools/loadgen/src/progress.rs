//! The progress of a run, and its display: a progress bar, or a line every few seconds without a terminal.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use couponry_output::Stderr;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::outcome::{Outcome, OutcomeKind};

/// Counters which the workers increment.
#[derive(Debug, Default)]
pub struct Progress {
    requests: AtomicU64,
    answered: AtomicU64,
    unanswered: AtomicU64,
    attempts: [AtomicU64; OutcomeKind::ALL.len()],
}

impl Progress {
    pub(crate) fn expect(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    pub(crate) fn count_attempt(&self, outcome: &Outcome) {
        self.attempts[OutcomeKind::from(outcome) as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_request(&self, is_answered: bool) {
        if is_answered { &self.answered } else { &self.unanswered }.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of requests of the run.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that were answered, at the first attempt or a later one.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Requests that were not answered in any attempt.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Attempts with this outcome.
    pub fn attempts(&self, kind: OutcomeKind) -> u64 {
        self.attempts[kind as usize].load(Ordering::Relaxed)
    }

    fn finished(&self) -> u64 {
        self.answered() + self.unanswered()
    }

    /// The counts that are not zero, in one line.
    fn counts(&self) -> String {
        let counts = OutcomeKind::ALL.iter().map(|(kind, name)| (self.attempts(*kind), name));
        let counts = counts.filter(|(count, _)| *count > 0);
        counts.map(|(count, name)| format!("{} {name}", HumanCount(count))).collect::<Vec<_>>().join(", ")
    }
}

/// Displays the progress on standard error until the future is dropped.
pub async fn display(progress: &Progress) {
    if std::io::stderr().is_terminal() { display_bar(progress).await } else { display_lines(progress).await }
}

async fn display_bar(progress: &Progress) {
    let bar = ProgressBar::new(0);
    let template = "{elapsed_precise} {bar:30} {human_pos}/{human_len} requests, {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let bar = ClearOnDrop(bar);
    loop {
        bar.0.set_length(progress.requests());
        bar.0.set_position(progress.finished());
        bar.0.set_message(format!("{:.0}/s: {}", bar.0.per_sec(), progress.counts()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn display_lines(progress: &Progress) {
    let mut last = (Instant::now(), 0);
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let finished = progress.finished();
        #[expect(clippy::cast_precision_loss, reason = "only displayed")]
        let rate = (finished - last.1) as f64 / last.0.elapsed().as_secs_f64();
        last = (Instant::now(), finished);
        let (finished, requests) = (HumanCount(finished), HumanCount(progress.requests()));
        writeln!(Stderr, "  {finished} of {requests} requests, {rate:.0}/s: {}", progress.counts());
    }
}
