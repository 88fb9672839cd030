//! Progress of long steps: a spinner on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

const REMINDER: Duration = Duration::from_secs(30);

/// A step of a longer task. It ends with a line that has its duration; a step which is dropped prints no such line.
#[derive(Debug)]
pub struct Step {
    what: String,
    since: Instant,
    display: Display,
}

#[derive(Debug)]
enum Display {
    Terminal(ProgressBar),
    Plain { done: mpsc::Sender<()>, reminder: JoinHandle<()> },
}

impl Step {
    /// Starts a step of unknown length.
    #[must_use]
    pub fn start(what: impl Into<String>) -> Self {
        Self::with_bar(what.into(), None)
    }

    /// Starts a step of `total` parts; [`Step::at`] reports the progress.
    #[must_use]
    pub fn start_of(total: u64, what: impl Into<String>) -> Self {
        Self::with_bar(what.into(), Some(total))
    }

    fn with_bar(what: String, total: Option<u64>) -> Self {
        let since = Instant::now();
        let display = if std::io::stderr().is_terminal() {
            let (bar, template) = match total {
                Some(total) => (ProgressBar::new(total), "{spinner} {msg} {bar:30} {human_pos}/{human_len} {elapsed}"),
                None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
            };
            bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            Display::Terminal(bar)
        } else {
            let (done, ended) = mpsc::channel();
            let label = what.clone();
            let reminder = std::thread::spawn(move || {
                while ended.recv_timeout(REMINDER) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("  still {label}, {}", format_duration(since.elapsed()));
                }
            });
            Display::Plain { done, reminder }
        };
        Self { what, since, display }
    }

    /// Reports that `position` parts are done.
    pub fn at(&self, position: u64) {
        if let Display::Terminal(bar) = &self.display {
            bar.set_position(position);
        }
    }

    /// Ends the step with the line `✓ what (time)`.
    pub fn done(self) {
        let line = format!("✓ {} ({})", self.what, format_duration(self.since.elapsed()));
        self.close();
        eprintln!("{line}");
    }

    /// Ends the step with the line `✓ result (time)`.
    pub fn done_with(self, result: &str) {
        let line = format!("✓ {result} ({})", format_duration(self.since.elapsed()));
        self.close();
        eprintln!("{line}");
    }

    fn close(self) {
        match self.display {
            Display::Terminal(bar) => bar.finish_and_clear(),
            Display::Plain { done, reminder } => {
                drop(done);
                let _ = reminder.join();
            }
        }
    }
}

/// Formats a duration for people: `0.4s`, `12s`, `2m30s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        _ => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

/// Formats a number with separators: `100,000`.
#[must_use]
pub fn format_count(number: u64) -> String {
    HumanCount(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::format_duration;
    use std::time::Duration;

    #[test]
    fn duration_is_formatted_by_its_magnitude() {
        assert_eq!(format_duration(Duration::from_millis(440)), "0.4s");
        assert_eq!(format_duration(Duration::from_secs(12)), "12s");
        assert_eq!(format_duration(Duration::from_secs(150)), "2m30s");
        assert_eq!(format_duration(Duration::from_secs(3601)), "60m01s");
    }
}
