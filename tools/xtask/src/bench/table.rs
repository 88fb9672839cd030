//! The table of results and goals.

use std::fmt;

use super::statistics::Samples;

/// The goal of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// No goal: the result is only informative.
    None,
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::None => true,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::AtMost(most) => write!(f, "at most {most:.3}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) work: String,
    pub(super) control: String,
    pub(super) goal: Goal,
    /// The results of all rounds.
    pub(super) result: Samples,
    /// The underlying measurements.
    pub(super) details: String,
}

impl Row {
    fn goal_status(&self) -> &'static str {
        match self.goal {
            Goal::None => "",
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

/// All results.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    /// The highest throughput of an issuer, in coupons per second.
    pub(super) highest: Option<f64>,
    /// Responses per second by requests per second.
    pub(super) throughput: Vec<Curve>,
    /// Milliseconds by requests per second.
    pub(super) latency: Vec<Curve>,
    /// Seconds by coupons.
    pub(super) preload: Vec<Curve>,
}

impl Table {
    pub(super) fn add(&mut self, work: &str, control: &str, goal: Goal, result: Samples, details: String) {
        let row = Row { work: work.to_owned(), control: control.to_owned(), goal, result, details };
        eprintln!("  {}: {} {}  [{}]", row.work, row.result, row.goal_status(), row.details);
        self.rows.push(row);
    }
}

/// Formats the table as Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| work | control in the same run | goal | result | | measured |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let Row { work, control, goal, result, details } = row;
            writeln!(f, "| {work} | {control} | {goal} | {result} | {} | {details} |", row.goal_status())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_below_goal_is_missed() {
        let row = |goal, value| Row {
            work: String::new(),
            control: String::new(),
            goal,
            result: Samples::from_iter([value]),
            details: String::new(),
        };
        assert_eq!(row(Goal::AtLeast(0.7), 0.7).goal_status(), "met");
        assert_eq!(row(Goal::AtLeast(0.7), 0.69).goal_status(), "MISSED");
        assert_eq!(row(Goal::AtMost(1.4), 1.5).goal_status(), "MISSED");
        assert_eq!(row(Goal::None, 9.0).goal_status(), "");
    }
}
