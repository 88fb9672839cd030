//! How far the crowd is: counters that the workers raise, and the bar (or, without a terminal, the lines) that shows them.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::history::{Outcome, Reason};

/// How an attempt ended, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Kind {
    /// Got a coupon.
    Issued,
    /// Had one already.
    Duplicate,
    /// None was left.
    SoldOut,
    /// Before the window.
    NotStarted,
    /// After the window.
    Ended,
    /// Held by the manifest.
    Paused,
    /// Turned away: a status from 400 to 499.
    Refused,
    /// No connection: never sent.
    Unreachable,
    /// May have happened or not: 503, a timeout, a broken connection.
    Unknown,
}

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Issued,
        Self::Duplicate,
        Self::SoldOut,
        Self::NotStarted,
        Self::Ended,
        Self::Paused,
        Self::Refused,
        Self::Unreachable,
        Self::Unknown,
    ];

    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Duplicate => "duplicate",
            Self::SoldOut => "sold out",
            Self::NotStarted => "not started",
            Self::Ended => "ended",
            Self::Paused => "paused",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }

    /// The kind of this outcome.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ok(answer) => match answer.reason {
                None => Self::Issued,
                Some(Reason::Duplicate) => Self::Duplicate,
                Some(Reason::SoldOut) => Self::SoldOut,
                Some(Reason::NotStarted) => Self::NotStarted,
                Some(Reason::Ended) => Self::Ended,
                Some(Reason::Paused) => Self::Paused,
            },
            Outcome::Refused(problem) if problem.status.is_some() => Self::Refused,
            Outcome::Refused(_) => Self::Unreachable,
            Outcome::Unknown(_) => Self::Unknown,
        }
    }
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Tally {
    asks: AtomicU64,
    settled: AtomicU64,
    given_up: AtomicU64,
    attempts: [AtomicU64; Kind::ALL.len()],
}

impl Tally {
    pub(crate) fn expect(&self, asks: u64) {
        self.asks.fetch_add(asks, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, outcome: &Outcome) {
        self.attempts[Kind::of(outcome) as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// How many asks there are in all.
    pub fn asks(&self) -> u64 {
        self.asks.load(Ordering::Relaxed)
    }

    /// How many asks got an answer.
    pub fn asks_settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// How many asks ended without an answer.
    pub fn asks_given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// How many attempts ended so.
    pub fn attempts(&self, kind: Kind) -> u64 {
        self.attempts[kind as usize].load(Ordering::Relaxed)
    }

    fn ended(&self) -> u64 {
        self.asks_settled() + self.asks_given_up()
    }

    /// The counts that are not zero, in one line.
    fn counts(&self) -> String {
        let mut line = String::new();
        for kind in Kind::ALL {
            let count = self.attempts(kind);
            if count > 0 {
                let comma = if line.is_empty() { "" } else { ", " };
                let _ = write!(line, "{comma}{} {}", HumanCount(count), kind.name());
            }
        }
        line
    }
}

/// Shows the tally on the standard error, for as long as the future is polled.
pub async fn show(tally: &Tally) {
    if std::io::stderr().is_terminal() { bar(tally).await } else { lines(tally).await }
}

async fn bar(tally: &Tally) {
    let bar = ProgressBar::new(0);
    let template = "{elapsed_precise} {bar:30} {human_pos}/{human_len} asks, {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let bar = ClearOnDrop(bar);
    loop {
        bar.0.set_length(tally.asks());
        bar.0.set_position(tally.ended());
        bar.0.set_message(format!("{:.0}/s: {}", bar.0.per_sec(), tally.counts()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn lines(tally: &Tally) {
    let mut last = (Instant::now(), 0);
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let ended = tally.ended();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (ended - last.1) as f64 / last.0.elapsed().as_secs_f64();
        last = (Instant::now(), ended);
        eprintln!("  {} of {} asks, {rate:.0}/s: {}", HumanCount(ended), HumanCount(tally.asks()), tally.counts());
    }
}
