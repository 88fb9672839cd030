//! The table: each row a figure with its goal.

use std::fmt;

use super::figures::Spread;

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// It is only to be known.
    Stated,
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::Stated => true,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::AtMost(most) => write!(f, "at most {most:.3}"),
            Self::Stated => f.write_str("stated"),
        }
    }
}

/// One figure.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) work: String,
    pub(super) control: String,
    pub(super) goal: Goal,
    /// The figure in each round.
    pub(super) result: Spread,
    /// What it was made from.
    pub(super) details: String,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match self.goal {
            Goal::Stated => "",
            goal if goal.is_met(self.result.median()) => "met",
            _ => "MISSED",
        }
    }
}

/// A curve of a plot.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    /// What an issuer gave at the most, in coupons a second.
    pub(super) highest: Option<f64>,
    /// Answers a second against requests a second.
    pub(super) throughput: Vec<Curve>,
    /// Milliseconds against requests a second.
    pub(super) latency: Vec<Curve>,
    /// Seconds against coupons.
    pub(super) preload: Vec<Curve>,
}

impl Table {
    pub(super) fn add(&mut self, work: &str, control: &str, goal: Goal, result: Spread, details: String) {
        let row = Row { work: work.to_owned(), control: control.to_owned(), goal, result, details };
        eprintln!("  {}: {} {}  [{}]", row.work, row.result, row.verdict(), row.details);
        self.rows.push(row);
    }
}

/// As Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| work | control in the same run | goal | result | | measured |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let Row { work, control, goal, result, details } = row;
            writeln!(f, "| {work} | {control} | {goal} | {result} | {} | {details} |", row.verdict())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_is_missed_says_so() {
        let row = |goal, value| Row {
            work: String::new(),
            control: String::new(),
            goal,
            result: Spread::from_iter([value]),
            details: String::new(),
        };
        assert_eq!(row(Goal::AtLeast(0.7), 0.7).verdict(), "met");
        assert_eq!(row(Goal::AtLeast(0.7), 0.69).verdict(), "MISSED");
        assert_eq!(row(Goal::AtMost(1.4), 1.5).verdict(), "MISSED");
        assert_eq!(row(Goal::Stated, 9.0).verdict(), "");
    }
}
