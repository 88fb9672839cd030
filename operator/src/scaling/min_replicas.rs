//! The minimum number of issuers, from the manifests and statuses alone.

use couponry_crds::{CouponEvent, IssuingMode, ScalingSpec, status::condition, status::reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How many issuers an event requires, and when. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) replicas: u32,
    /// Inclusive. None: immediately.
    pub(super) from: Option<i64>,
    /// Exclusive. None: not known yet.
    pub(super) until: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Before,
    Active,
    After,
}

impl Demand {
    /// None: the event has no spec.scaling.
    pub(super) fn of(event: &CouponEvent) -> Option<Self> {
        let ScalingSpec { min_replicas, lead_seconds, cooldown_seconds } = event.spec.scaling.clone()?;
        let milliseconds = |time: &Time| time.0.as_millisecond();
        let status = event.status.as_ref();
        let closed = status.and_then(|status| status.condition(condition::OPEN)).filter(|open| {
            // Until the operator has reported the closing, the condition has the time of an earlier transition.
            event.spec.issuance == IssuingMode::Closed && open.reason == reason::CLOSED
        });
        let ends = [
            event.spec.end_time.as_ref(),
            status.and_then(|status| status.sold_out_at.as_ref()),
            closed.map(|open| &open.last_transition_time),
            event.metadata.deletion_timestamp.as_ref(),
        ];
        let end = ends.into_iter().flatten().map(milliseconds).min();
        Some(Self {
            replicas: min_replicas,
            from: event.spec.start_time.as_ref().map(|start| milliseconds(start) - i64::from(lead_seconds) * 1000),
            until: end.map(|end| end + i64::from(cooldown_seconds) * 1000),
        })
    }

    pub(super) fn phase(&self, now: i64) -> Phase {
        if self.until.is_some_and(|until| until <= now) {
            Phase::After
        } else if self.from.is_some_and(|from| now < from) {
            Phase::Before
        } else {
            Phase::Active
        }
    }

    /// None: no change is known.
    pub(super) fn next_phase_change(&self, now: i64) -> Option<i64> {
        [self.from, self.until].into_iter().flatten().filter(|change| *change > now).min()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The minimum when no event requires more.
    pub(super) min: u32,
    /// The maximum, whatever the events require.
    pub(super) max: u32,
}

/// The largest active demand at `now`, within the limits.
pub(super) fn min_replicas(limits: Limits, demands: &[Demand], now: i64) -> u32 {
    let active = demands.iter().filter(|demand| demand.phase(now) == Phase::Active).map(|demand| demand.replicas);
    active.fold(limits.min, u32::max).min(limits.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { min: 2, max: 10 };

    fn event(spec: &str, status: &str) -> CouponEvent {
        let spec = format!("{{policyName: p, totalCount: 1, discounts: [], scaling: {{minReplicas: 8}}{spec}}}");
        let text = format!("{{metadata: {{name: e}}, spec: {spec}, status: {status}}}");
        serde_yaml::from_str(&text).unwrap()
    }

    fn second(second: i64) -> String {
        format!("'{}'", k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn min_replicas_is_the_largest_active_demand_within_the_limits() {
        let demand = |replicas, from, until| Demand { replicas, from, until };
        let (small, large, endless) =
            (demand(4, Some(100), Some(300)), demand(8, Some(200), Some(250)), demand(3, None, None));
        for (case, demands, now, expected) in [
            ("no demand", vec![], 0, 2),
            ("before its start", vec![small.clone()], 99, 2),
            ("at its start", vec![small.clone()], 100, 4),
            ("before its end", vec![small.clone()], 299, 4),
            ("at its end", vec![small.clone()], 300, 2),
            ("one of two active", vec![small.clone(), large.clone()], 150, 4),
            ("both active", vec![small.clone(), large.clone()], 200, 8),
            ("the smaller one remains", vec![large, small.clone()], 250, 4),
            ("without an end", vec![endless.clone()], i64::MAX, 3),
            ("below the minimum", vec![demand(1, None, None)], 0, 2),
            ("above the maximum", vec![demand(11, None, None), endless], 0, 10),
            ("ended before its start", vec![demand(8, Some(100), Some(50))], 200, 2),
        ] {
            assert_eq!(min_replicas(LIMITS, &demands, now), expected, "{case}");
        }
        assert_eq!(small.next_phase_change(0), Some(100));
        assert_eq!(small.next_phase_change(100), Some(300));
        assert_eq!(small.next_phase_change(300), None);
    }

    #[test]
    fn demand_of_event_follows_its_manifest_and_status() {
        let closed = format!(
            "{{conditions: [{{type: Open, status: 'False', reason: Closed, message: '', lastTransitionTime: {}}}]}}",
            second(2000)
        );
        let sold_out = format!("{{soldOutAt: {}}}", second(3000));
        let times = format!(", startTime: {}, endTime: {}", second(1000), second(5000));
        for (case, spec, status, from, until) in [
            ("no start and no end", "", "{}", None, None),
            ("a window", times.as_str(), "{}", Some(700), Some(5300)),
            ("sold out before its end", &times, &sold_out, Some(700), Some(3300)),
            ("closed", &format!("{times}, issuance: Closed"), &closed, Some(700), Some(2300)),
            ("closing, not reported yet", &format!("{times}, issuance: Closed"), "{}", Some(700), Some(5300)),
        ] {
            let demand = Demand::of(&event(spec, status)).unwrap();
            let seconds = |time: Option<i64>| time.map(|time| time / 1000);
            assert_eq!((seconds(demand.from), seconds(demand.until)), (from, until), "{case}");
            assert_eq!(demand.replicas, 8);
        }
        let mut unscaled = event("", "{}");
        unscaled.spec.scaling = None;
        assert_eq!(Demand::of(&unscaled), None);
    }
}
