//! The checker's findings, and how they are printed.

use std::fmt;

/// How many examples of one break are kept.
const EXAMPLES: usize = 5;

/// What kind of promise a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// What was told is recorded.
    Lost,
    /// Nothing is there twice.
    Duplicated,
    /// Nothing is there that should not be.
    Unexpected,
    /// Unknown to the client, but recorded.
    Recovered,
    /// The stock is exact.
    Stock,
    /// The stores agree.
    Agreement,
    /// Nothing outside of the window.
    Window,
}

impl Class {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Unexpected => "unexpected",
            Self::Recovered => "recovered",
            Self::Stock => "stock",
            Self::Agreement => "agreement",
            Self::Window => "window",
        }
    }
}

/// What came out of one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of promise it is about.
    pub class: Class,
    /// The promise.
    pub promise: &'static str,
    /// What was compared, with its numbers.
    pub compared: String,
    /// How often it was broken.
    pub broken: u64,
    /// Some of the breaks.
    pub examples: Vec<String>,
}

impl Finding {
    pub(super) fn new(class: Class, promise: &'static str, compared: String) -> Self {
        Self { class, promise, compared, broken: 0, examples: Vec::new() }
    }

    /// Counts one break.
    pub(super) fn break_with(&mut self, example: impl FnOnce() -> String) {
        self.broken += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// One per promise.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether every promise held.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.broken().next().is_none()
    }

    /// The findings that say a promise was broken.
    pub fn broken(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.broken > 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.promise.chars().count()).max().unwrap_or(0);
        for finding in &self.findings {
            let Finding { class, promise, compared, broken, examples } = finding;
            let verdict = if *broken == 0 { "OK    " } else { "BROKEN" };
            writeln!(f, "{verdict}  {:<10}  {promise:<width$}  {compared}", class.name())?;
            for example in examples {
                writeln!(f, "          ✗ {example}")?;
            }
            let more = broken.saturating_sub(examples.len() as u64);
            if more > 0 {
                writeln!(f, "          … and {more} more")?;
            }
        }
        let broken = self.broken().count();
        match broken {
            0 => writeln!(f, "All {} promises held.", self.findings.len()),
            _ => writeln!(f, "{broken} of {} promises were BROKEN.", self.findings.len()),
        }
    }
}
