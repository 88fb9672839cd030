//! The figures that the operator has computed.

use jiff::Timestamp;
use serde_json::Value;

/// The figures of an event.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) name: String,
    pub(super) policy_name: String,
    pub(super) total: u64,
    pub(super) recorded: u64,
    pub(super) sold_out_after_milliseconds: Option<u64>,
    pub(super) discounts: Vec<DiscountFigures>,
    pub(super) reserved: u64,
    pub(super) redeemed: u64,
    pub(super) voided: u64,
    /// None: nothing was issued, or it is not recorded yet.
    pub(super) issuing: Option<Issuing>,
}

#[derive(Debug)]
pub(super) struct DiscountFigures {
    /// As `PERCENT:10`.
    pub(super) discount: String,
    pub(super) total: u64,
    pub(super) recorded: u64,
}

#[derive(Debug)]
pub(super) struct Issuing {
    pub(super) first_at: Timestamp,
    pub(super) last_at: Timestamp,
    pub(super) peak_per_second: u64,
    /// Median, 99th percentile and maximum in milliseconds.
    pub(super) recording_delay: [u64; 3],
    pub(super) seconds_per_point: u64,
    /// The beginning of each point, and the coupons that were issued in it. Points without coupons are omitted.
    pub(super) points: Vec<(Timestamp, u64)>,
}

impl Figures {
    /// None: a figure is missing.
    pub(super) fn parse(report: &Value) -> Option<Self> {
        let text = |name: &str| report[name].as_str().map(str::to_owned);
        let discounts = report["discounts"].as_array()?.iter().map(DiscountFigures::parse);
        let issuing = &report["issuing"];
        Some(Self {
            name: text("name")?,
            policy_name: text("policyName")?,
            total: report["total"].as_u64()?,
            recorded: report["recorded"].as_u64()?,
            sold_out_after_milliseconds: report["soldOutAfterMilliseconds"].as_u64(),
            discounts: discounts.collect::<Option<_>>()?,
            reserved: report["reserved"].as_u64()?,
            redeemed: report["redeemed"].as_u64()?,
            voided: report["voided"].as_u64()?,
            issuing: if issuing.is_null() { None } else { Some(Issuing::parse(issuing)?) },
        })
    }
}

impl DiscountFigures {
    fn parse(discount: &Value) -> Option<Self> {
        Some(Self {
            discount: format!("{}:{}", discount["type"].as_str()?, discount["value"].as_u64()?),
            total: discount["total"].as_u64()?,
            recorded: discount["recorded"].as_u64()?,
        })
    }
}

impl Issuing {
    fn parse(issuing: &Value) -> Option<Self> {
        let time = |value: &Value| value.as_str()?.parse::<Timestamp>().ok();
        let delay = |name: &str| issuing["recordingDelayMilliseconds"][name].as_u64();
        let points = issuing["points"].as_array()?.iter();
        Some(Self {
            first_at: time(&issuing["firstAt"])?,
            last_at: time(&issuing["lastAt"])?,
            peak_per_second: issuing["peakPerSecond"].as_u64()?,
            recording_delay: [delay("p50")?, delay("p99")?, delay("max")?],
            seconds_per_point: issuing["secondsPerPoint"].as_u64().filter(|seconds| *seconds > 0)?,
            points: points.map(|point| Some((time(&point[0])?, point[1].as_u64()?))).collect::<Option<_>>()?,
        })
    }

    /// The coupons per second of at most this many intervals of equal length, and the seconds of an interval.
    pub(super) fn rates(&self, max: u64) -> (u64, Vec<(Timestamp, f64)>) {
        let Some((first, _)) = self.points.first() else { return (1, Vec::new()) };
        let offset = |at: &Timestamp| u64::try_from(at.as_second() - first.as_second()).unwrap_or_default();
        let end = self.points.last().map_or(0, |(at, _)| offset(at)) + self.seconds_per_point;
        let seconds = end.div_ceil(self.seconds_per_point).div_ceil(max) * self.seconds_per_point;
        let mut counts = vec![0; usize::try_from(end.div_ceil(seconds)).unwrap_or_default()];
        for (at, count) in &self.points {
            let index = usize::try_from(offset(at) / seconds).unwrap_or_default();
            if let Some(sum) = counts.get_mut(index) {
                *sum += count;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = |count: u64| count as f64 / seconds as f64;
        let at = |index: u64| {
            let second = first.as_second() + i64::try_from(index * seconds).unwrap_or_default();
            Timestamp::from_second(second).unwrap_or(*first)
        };
        (seconds, (0..).zip(counts).map(|(index, count)| (at(index), rate(count))).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// An event of four seconds, one of them without coupons.
    pub(in super::super) fn summer() -> Figures {
        Figures::parse(&json!({
            "name": "summer", "policyName": "Summer <sale>", "total": 1000, "recorded": 1000,
            "soldOutAfterMilliseconds": 3250, "reserved": 3, "redeemed": 250, "voided": 1,
            "discounts": [
                {"type": "PERCENT", "value": 10, "total": 700, "recorded": 700},
                {"type": "AMOUNT", "value": 5000, "total": 300, "recorded": 300},
            ],
            "issuing": {
                "firstAt": "2026-12-01T00:00:00.010Z", "lastAt": "2026-12-01T00:00:03.250Z", "peakPerSecond": 600,
                "recordingDelayMilliseconds": {"p50": 40, "p99": 900, "max": 61000}, "secondsPerPoint": 1,
                "points": [["2026-12-01T00:00:00Z", 300], ["2026-12-01T00:00:01Z", 600], ["2026-12-01T00:00:03Z", 100]],
            },
        }))
        .unwrap()
    }

    #[test]
    fn rates_cover_the_event_with_intervals_of_equal_length() {
        let rates = |max| {
            let (seconds, rates) = summer().issuing.unwrap().rates(max);
            (seconds, rates.into_iter().map(|(_, rate)| rate).collect::<Vec<_>>())
        };
        assert_eq!(rates(10), (1, vec![300.0, 600.0, 0.0, 100.0]));
        assert_eq!(rates(2), (2, vec![450.0, 50.0]));
        assert_eq!(rates(1), (4, vec![250.0]));
    }

    #[test]
    fn report_that_lacks_a_figure_is_not_accepted() {
        assert!(Figures::parse(&json!({"name": "summer"})).is_none());
    }
}
