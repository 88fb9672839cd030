//! Parses the metrics of a program: the text format of Prometheus.

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MetricValue<'a> {
    pub(super) name: &'a str,
    labels: &'a str,
    pub(super) value: f64,
}

impl<'a> MetricValue<'a> {
    /// The value of a label. No label of Couponry contains a quotation mark.
    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            (key.trim() == name).then(|| value.trim().trim_matches('"'))
        })
    }
}

/// All values. Lines that cannot be parsed are skipped.
pub(super) fn parse(text: &str) -> impl Iterator<Item = MetricValue<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = match line.split_once('}') {
            Some((series, value)) => (series, value),
            None => line.split_once(' ')?,
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        // A timestamp or an exemplar may follow.
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some(MetricValue { name, labels, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_labels_are_parsed_and_other_lines_skipped() {
        let text = "# HELP a Text.\n# TYPE a counter\na_total{outcome=\"issued\",code=\"200\"} 12\nb 1.5e3\n\
                    c_bucket{le=\"+Inf\"} 7 # {id=\"x\"} 1.0\nbroken\nd{x=\"y\"} nothing\n# EOF\n";
        let values: Vec<_> = parse(text).map(|it| (it.name, it.value)).collect();
        assert_eq!(values, [("a_total", 12.0), ("b", 1500.0), ("c_bucket", 7.0)]);
        let first = parse(text).next().unwrap();
        assert_eq!(
            (first.label("code"), first.label("outcome"), first.label("x")),
            (Some("200"), Some("issued"), None)
        );
        assert_eq!(parse(text).last().unwrap().label("le"), Some("+Inf"));
    }
}
