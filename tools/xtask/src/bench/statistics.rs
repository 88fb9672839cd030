//! Statistics of repeated measurements.

use std::fmt;

/// Measurements of the same quantity, in ascending order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|known| *known < value);
        self.0.insert(at, value);
    }

    /// The lower median; 0 without measurements.
    pub(super) fn median(&self) -> f64 {
        self.0.get(self.0.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut samples = Self::default();
        values.into_iter().for_each(|value| samples.push(value));
        samples
    }
}

/// Formats the median, minimum and maximum: `0.72 (0.70 to 0.75)`.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$}", self.median())?;
        match (self.0.first(), self.0.last()) {
            (Some(min), Some(max)) if self.0.len() > 1 => write!(f, " ({min:.digits$} to {max:.digits$})"),
            _ => Ok(()),
        }
    }
}

/// Formats a rounded number as `12,345`.
pub(super) fn format_number(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
    couponry_testbed::progress::format_count(number.max(0.0).round() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_lower_middle_value() {
        let samples: Samples = [0.75, 0.5, 1.0].into_iter().collect();
        assert!((samples.median() - 0.75).abs() < 1e-9);
        assert_eq!(samples.to_string(), "0.75 (0.50 to 1.00)");
        let even: Samples = [1.0, 4.0, 3.0, 2.0].into_iter().collect();
        assert_eq!(format!("{even:.0}"), "2 (1 to 4)");
        assert_eq!(Samples::from_iter([7.0]).to_string(), "7.00");
    }

    #[test]
    fn number_has_thousands_separators() {
        assert_eq!((format_number(12_345.6), format_number(-1.0)), ("12,346".to_owned(), "0".to_owned()));
    }
}
