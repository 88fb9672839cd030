//! Numbers that were measured several times.

use std::fmt;

/// The same thing measured several times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Spread(Vec<f64>);

impl Spread {
    pub(super) fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|known| *known < value);
        self.0.insert(at, value);
    }

    /// The value in the middle, or the lower of the two. 0 when nothing was measured.
    pub(super) fn median(&self) -> f64 {
        self.0.get(self.0.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }
}

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut spread = Self::default();
        values.into_iter().for_each(|value| spread.push(value));
        spread
    }
}

/// `0.72 (0.70 to 0.75)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$}", self.median())?;
        match (self.0.first(), self.0.last()) {
            (Some(least), Some(most)) if self.0.len() > 1 => write!(f, " ({least:.digits$} to {most:.digits$})"),
            _ => Ok(()),
        }
    }
}

/// `12,345`: for what is counted.
pub(super) fn whole(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is rounded and not negative")]
    couponry_testbed::progress::grouped(number.max(0.0).round() as u64)
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_value_in_the_middle() {
        let spread: Spread = [0.75, 0.5, 1.0].into_iter().collect();
        assert!((spread.median() - 0.75).abs() < 1e-9);
        assert_eq!(spread.to_string(), "0.75 (0.50 to 1.00)");
        let even: Spread = [1.0, 4.0, 3.0, 2.0].into_iter().collect();
        assert_eq!(format!("{even:.0}"), "2 (1 to 4)");
        assert_eq!(Spread::from_iter([7.0]).to_string(), "7.00");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!((whole(12_345.6), whole(-1.0)), ("12,346".to_owned(), "0".to_owned()));
    }
}
