//! How many issuers there must be at least, now and from when on another number: from the manifests alone, without a client.

use couponry_crds::{CouponEvent, Issuance, ScalingSpec, status::condition, status::reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What one event asks for. Times are in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// So many issuers.
    pub(crate) replicas: u32,
    /// From then on. None: at once.
    pub(crate) from: Option<i64>,
    /// Until then. None: nobody knows yet.
    pub(crate) until: Option<i64>,
}

/// Where an event is in the time that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It will come.
    Before,
    /// It is here.
    Now,
    /// It is past.
    After,
}

impl Demand {
    /// None: the event leaves it to the load.
    pub(crate) fn of(event: &CouponEvent) -> Option<Self> {
        let ScalingSpec { min_replicas, lead_seconds, cooldown_seconds } = event.spec.scaling.clone()?;
        let milliseconds = |time: &Time| time.0.as_millisecond();
        let status = event.status.as_ref();
        let closed = status.and_then(|status| status.condition(condition::OPEN)).filter(|open| {
            // Before its report, the time of the condition is that of something else.
            event.spec.issuance == Issuance::Closed && open.reason == reason::CLOSED
        });
        let ends = [
            event.spec.end_time.as_ref(),
            status.and_then(|status| status.sold_out_at.as_ref()),
            closed.map(|open| &open.last_transition_time),
            event.metadata.deletion_timestamp.as_ref(),
        ];
        Some(Self {
            replicas: min_replicas,
            from: event.spec.start_time.as_ref().map(|start| milliseconds(start) - i64::from(lead_seconds) * 1000),
            until: ends
                .into_iter()
                .flatten()
                .map(milliseconds)
                .min()
                .map(|end| end + i64::from(cooldown_seconds) * 1000),
        })
    }

    pub(crate) fn phase(&self, now: i64) -> Phase {
        if self.until.is_some_and(|until| until <= now) {
            Phase::After
        } else if self.from.is_some_and(|from| now < from) {
            Phase::Before
        } else {
            Phase::Now
        }
    }

    /// When the phase changes next, as far as is known.
    pub(crate) fn next_turn(&self, now: i64) -> Option<i64> {
        [self.from, self.until].into_iter().flatten().filter(|turn| *turn > now).min()
    }
}

/// How many issuers there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Without any event that asks for more.
    pub(crate) min: u32,
    /// Whatever is asked for.
    pub(crate) max: u32,
}

/// The least number of issuers at `now`: the largest that is asked for, within the limits.
pub(crate) fn floor(limits: Limits, demands: &[Demand], now: i64) -> u32 {
    let asked = demands.iter().filter(|demand| demand.phase(now) == Phase::Now).map(|demand| demand.replicas);
    asked.fold(limits.min, u32::max).min(limits.max)
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
    fn the_largest_demand_of_the_moment_counts() {
        let demand = |replicas, from, until| Demand { replicas, from, until };
        let (small, large, endless) =
            (demand(4, Some(100), Some(300)), demand(8, Some(200), Some(250)), demand(3, None, None));
        for (what, demands, now, expected) in [
            ("nobody asks", vec![], 0, 2),
            ("not yet", vec![small.clone()], 99, 2),
            ("from then on", vec![small.clone()], 100, 4),
            ("until then", vec![small.clone()], 299, 4),
            ("no more", vec![small.clone()], 300, 2),
            ("one of two", vec![small.clone(), large.clone()], 150, 4),
            ("both", vec![small.clone(), large.clone()], 200, 8),
            ("the smaller one is left", vec![large, small.clone()], 250, 4),
            ("nobody knows until when", vec![endless.clone()], i64::MAX, 3),
            ("less than there are anyway", vec![demand(1, None, None)], 0, 2),
            ("more than there may be", vec![demand(11, None, None), endless], 0, 10),
            ("over before it began", vec![demand(8, Some(100), Some(50))], 200, 2),
        ] {
            assert_eq!(floor(LIMITS, &demands, now), expected, "{what}");
        }
        assert_eq!(small.next_turn(0), Some(100));
        assert_eq!(small.next_turn(100), Some(300));
        assert_eq!(small.next_turn(300), None);
    }

    #[test]
    fn the_time_of_an_event_is_in_its_manifest_and_its_status() {
        let closed = format!(
            "{{conditions: [{{type: Open, status: 'False', reason: Closed, message: '', lastTransitionTime: {}}}]}}",
            second(2000)
        );
        let sold_out = format!("{{soldOutAt: {}}}", second(3000));
        let times = format!(", startTime: {}, endTime: {}", second(1000), second(5000));
        for (what, spec, status, from, until) in [
            ("neither start nor end", "", "{}", None, None),
            ("a window", times.as_str(), "{}", Some(700), Some(5300)),
            ("sold out before its end", &times, &sold_out, Some(700), Some(3300)),
            ("closed", &format!("{times}, issuance: Closed"), &closed, Some(700), Some(2300)),
            ("to be closed", &format!("{times}, issuance: Closed"), "{}", Some(700), Some(5300)),
        ] {
            let demand = Demand::of(&event(spec, status)).unwrap();
            let seconds = |time: Option<i64>| time.map(|time| time / 1000);
            assert_eq!((seconds(demand.from), seconds(demand.until)), (from, until), "{what}");
            assert_eq!(demand.replicas, 8);
        }
        let own_times = event(&times.replace("{minReplicas: 8}", ""), "{}");
        assert!(
            Demand::of(&CouponEvent {
                spec: couponry_crds::CouponEventSpec { scaling: None, ..own_times.spec },
                ..own_times
            })
            .is_none()
        );
    }
}
