//! What an administrator should know before a manifest is applied.

use couponry_crds::{CodeSource, CouponEvent, DeletionPolicy, HOLD, IssuingMode};
use couponry_domain::{DiscountType, Window};
use indicatif::HumanCount;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::estimate::{Estimate, has_opened};
use crate::view;

/// A preload may take this many times as long as estimated: the servers are busy, or their disks slow.
const PRELOAD_RESERVE: f64 = 10.0;
/// More coupons attract users faster than autoscaling starts issuers.
const LARGE: u64 = 100_000;

/// What the cluster has besides the manifest.
pub(super) struct Surroundings<'a> {
    /// The event of the same name.
    pub(super) existing: Option<&'a CouponEvent>,
    /// The other events of the namespace.
    pub(super) others: &'a [CouponEvent],
    pub(super) issuer_limit: IssuerLimit,
}

/// How many issuers the autoscaler may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IssuerLimit {
    /// It cannot be read.
    Unknown,
    NoAutoscaler,
    Max(u32),
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// What the manifest does to the event of the same name. None: the event is new, or that is not known.
    pub(super) change: Option<String>,
    /// Events that can be open at the same time.
    pub(super) overlaps: Vec<Overlap>,
    /// Complete sentences.
    pub(super) warnings: Vec<String>,
}

/// Another event whose window overlaps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) event: String,
    pub(super) total: u64,
    /// Its window in words.
    pub(super) window: String,
}

impl Findings {
    /// `surroundings`: None without a cluster.
    pub(super) fn new(
        event: &CouponEvent,
        estimate: &Estimate,
        surroundings: Option<&Surroundings<'_>>,
        now: Timestamp,
    ) -> Self {
        let existing = surroundings.and_then(|surroundings| surroundings.existing);
        let mut warnings = window_warnings(event, estimate, existing.is_some_and(has_opened), now);
        warnings.extend(drop_warnings(event, estimate, now));
        warnings.extend(manifest_warnings(event, estimate));
        warnings.extend(scaling_warnings(
            event,
            surroundings.map_or(IssuerLimit::Unknown, |surroundings| surroundings.issuer_limit),
        ));
        let others = surroundings.map_or(&[][..], |surroundings| surroundings.others);
        let overlaps = others.iter().filter(|other| can_overlap(event, other, now)).map(|other| Overlap {
            event: other.name_any(),
            total: other.spec.total_count,
            window: view::window(other, now).unwrap_or_else(|| "until it is sold out".to_owned()),
        });
        Self { change: existing.map(|existing| change(event, existing)), overlaps: overlaps.collect(), warnings }
    }
}

fn change(event: &CouponEvent, existing: &CouponEvent) -> String {
    let (old, new) = (existing.spec.total_count, event.spec.total_count);
    if existing.metadata.deletion_timestamp.is_some() {
        "the event of this name is being deleted: apply the manifest again afterwards".to_owned()
    } else if event.spec == existing.spec {
        "the event exists, and its spec stays as it is".to_owned()
    } else if has_opened(existing) && new > old {
        format!("tops up the open event by {} coupons", HumanCount(new - old))
    } else if has_opened(existing) {
        "changes an event that has opened".to_owned()
    } else {
        "changes an event that has not opened: its coupons are generated again if their numbers differ".to_owned()
    }
}

fn window_warnings(event: &CouponEvent, estimate: &Estimate, has_opened: bool, now: Timestamp) -> Vec<String> {
    let Window { start, end } = event.spec.window();
    let now = now.as_millisecond();
    let mut warnings = Vec::new();
    if end.is_none() {
        warnings.push("It has no endTime: it stays open until it is sold out or closed.".to_owned());
    }
    if end.is_some_and(|end| end <= now) {
        warnings.push("Its end has passed: no coupon would be issued.".to_owned());
    }
    if has_opened {
        return warnings;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seconds")]
    let preload = estimate.preload_seconds.map(|seconds| (seconds * PRELOAD_RESERVE * 1000.0) as i64);
    match (start, preload) {
        (None, _) => warnings.push("It has no startTime: it opens as soon as its coupons are loaded.".to_owned()),
        (Some(start), _) if start <= now => {
            warnings.push("Its startTime has passed: it opens as soon as its coupons are loaded.".to_owned());
        }
        (Some(start), Some(preload)) if start - now < preload => {
            let left = view::duration(SignedDuration::from_millis(start - now));
            let preload = view::duration(SignedDuration::from_millis(preload));
            let text = format!(
                "It starts in {left}, but on busy servers the preload may take {preload}. Apply it earlier, or choose a \
                 later startTime."
            );
            warnings.push(text);
        }
        _ => {}
    }
    warnings
}

fn drop_warnings(event: &CouponEvent, estimate: &Estimate, now: Timestamp) -> Vec<String> {
    let drops = &event.spec.drops;
    let Some(first) = drops.first() else { return Vec::new() };
    let mut warnings = Vec::new();
    if estimate.available_at_start == 0 {
        let at = view::time(&first.at);
        warnings.push(format!(
            "No coupon is available from the start: until the first drop at {at}, users receive SOLD_OUT."
        ));
    }
    let passed = drops.iter().filter(|drop| drop.at.0 <= now).count();
    if passed > 0 {
        warnings
            .push(format!("The time of {passed} of its drops has passed: their coupons are available from the start."));
    }
    warnings
}

fn manifest_warnings(event: &CouponEvent, estimate: &Estimate) -> Vec<String> {
    let spec = &event.spec;
    let mut warnings = Vec::new();
    match spec.issuance {
        IssuingMode::Auto => {}
        IssuingMode::Paused => warnings.push("issuance is Paused: it does not open before that is changed.".to_owned()),
        IssuingMode::Closed => warnings.push("issuance is Closed: it never opens.".to_owned()),
    }
    if let Some(reason) = event.hold() {
        let reason = view::sanitize(&reason);
        warnings.push(format!("The annotation {HOLD} holds it ({reason}): it does not open before its release."));
    }
    for (discount, _) in estimate.added.iter().filter(|(_, count)| *count == 0) {
        warnings.push(format!("No coupon of {discount} would be generated."));
    }
    if spec.discounts.iter().any(|discount| discount.kind == DiscountType::Percent && discount.value == 100) {
        warnings.push("A discount of 100 percent makes an order free.".to_owned());
    }
    if spec.code_source() == CodeSource::Imported {
        let name = event.name_any();
        warnings.push(format!("Its codes have to be imported before it opens: kubectl couponry import {name} FILE"));
    }
    if spec.ttl_seconds_after_finished.is_none() {
        warnings.push("It has no ttlSecondsAfterFinished: it uses memory of Redis until it is deleted.".to_owned());
    }
    if spec.deletion_policy == DeletionPolicy::Delete {
        warnings
            .push("deletionPolicy is Delete: with the event, its coupons and their holders are deleted.".to_owned());
    }
    warnings
}

fn scaling_warnings(event: &CouponEvent, issuer_limit: IssuerLimit) -> Option<String> {
    let spec = &event.spec;
    match (&spec.scaling, issuer_limit) {
        (Some(_), IssuerLimit::NoAutoscaler) => Some(
            "It has spec.scaling, but the issuers have no autoscaler: set issuer.autoscaling.enabled in the chart."
                .to_owned(),
        ),
        (Some(scaling), IssuerLimit::Max(max)) if scaling.min_replicas > max => Some(format!(
            "spec.scaling requires {} issuers, but issuer.autoscaling.maxReplicas is {max}.",
            scaling.min_replicas
        )),
        (None, _) if spec.total_count >= LARGE => {
            Some("It has no spec.scaling: the issuers that run when it opens have to serve the first rush.".to_owned())
        }
        _ => None,
    }
}

/// Whether both can be open at the same time, now or later.
fn can_overlap(event: &CouponEvent, other: &CouponEvent, now: Timestamp) -> bool {
    let is_over = |event: &CouponEvent| {
        event.spec.issuance == IssuingMode::Closed
            || event.status.as_ref().is_some_and(|status| status.finished_at.is_some())
    };
    if is_over(event) || is_over(other) {
        return false;
    }
    let now = now.as_millisecond();
    let range = |event: &CouponEvent| {
        let Window { start, end } = event.spec.window();
        (start.unwrap_or(now).max(now), end.unwrap_or(i64::MAX))
    };
    let ((start, end), (other_start, other_end)) = (range(event), range(other));
    start < other_end && other_start < end
}

#[cfg(test)]
mod tests {
    use super::{super::estimate::PreloadRate, *};

    const NOW: &str = "2026-12-01T00:00:00Z";

    fn event(name: &str, spec: &str, rest: &str) -> CouponEvent {
        let yaml = format!(
            "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}}}, spec: {{policyName: p, \
             totalCount: 1000, discounts: [{{type: Percent, value: 10, allocationPercentage: 100}}], {spec}}}{rest}}}"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    fn findings(event: &CouponEvent, surroundings: Option<&Surroundings<'_>>) -> Findings {
        let existing = surroundings.and_then(|surroundings| surroundings.existing);
        let estimate = Estimate::new(event, existing, PreloadRate::Benchmark).unwrap();
        Findings::new(event, &estimate, surroundings, NOW.parse().unwrap())
    }

    const GOOD: &str =
        "startTime: '2026-12-02T00:00:00Z', endTime: '2026-12-03T00:00:00Z', ttlSecondsAfterFinished: 60";

    #[test]
    fn complete_manifest_has_no_warnings() {
        assert_eq!(findings(&event("summer", GOOD, ""), None), Findings::default());
    }

    #[test]
    fn each_risk_of_a_manifest_has_a_warning() {
        for (replaced, by, expected) in [
            (", endTime: '2026-12-03T00:00:00Z'", "", "no endTime"),
            ("12-03", "12-02", "end has passed"),
            ("startTime: '2026-12-02T00:00:00Z', ", "", "no startTime"),
            ("startTime: '2026-12-02", "startTime: '2026-11-02", "startTime has passed"),
            ("startTime: '2026-12-02T00:00:00Z'", "startTime: '2026-12-01T00:00:05Z'", "It starts in 5 s"),
            (
                "startTime",
                "drops: [{at: '2026-12-02T01:00:00Z', count: 1000}], startTime",
                "first drop at 2026-12-02 01",
            ),
            (
                "startTime",
                "drops: [{at: '2026-11-02T01:00:00Z', count: 1}], startTime",
                "time of 1 of its drops has passed",
            ),
            ("startTime", "issuance: Paused, startTime", "issuance is Paused"),
            ("startTime", "issuance: Closed, startTime", "issuance is Closed"),
            ("startTime", "code: {source: Imported}, startTime", "kubectl couponry import summer FILE"),
            (", ttlSecondsAfterFinished: 60", "", "no ttlSecondsAfterFinished"),
            ("startTime", "deletionPolicy: Delete, startTime", "deletionPolicy is Delete"),
        ] {
            let end = if expected == "end has passed" {
                GOOD.replace("12-03", "11-03").replace("12-02", "11-02")
            } else {
                GOOD.replace(replaced, by)
            };
            let warnings = findings(&event("summer", &end, ""), None).warnings;
            assert!(warnings.iter().any(|warning| warning.contains(expected)), "{expected}: {warnings:?}");
        }
        let mut held = event("summer", GOOD, "");
        held.annotations_mut().insert(HOLD.to_owned(), "not approved".to_owned());
        assert!(findings(&held, None).warnings[0].contains("(not approved)"));
        let mut free = event("summer", GOOD, "");
        free.spec.discounts[0].value = 100;
        free.spec.total_count = LARGE;
        let warnings = findings(&free, None).warnings;
        assert!(warnings[0].contains("100 percent") && warnings[1].contains("no spec.scaling"), "{warnings:?}");
    }

    #[test]
    fn scaling_beyond_the_limit_of_the_autoscaler_has_a_warning() {
        let scaled = event("summer", &format!("{GOOD}, scaling: {{minReplicas: 8}}"), "");
        let warnings = |issuer_limit| {
            findings(&scaled, Some(&Surroundings { existing: None, others: &[], issuer_limit })).warnings
        };
        assert_eq!(warnings(IssuerLimit::Max(8)), Vec::<String>::new());
        assert_eq!(warnings(IssuerLimit::Unknown), Vec::<String>::new());
        assert!(
            warnings(IssuerLimit::Max(7))[0].contains("requires 8 issuers, but issuer.autoscaling.maxReplicas is 7")
        );
        assert!(warnings(IssuerLimit::NoAutoscaler)[0].contains("no autoscaler"));
    }

    #[test]
    fn events_that_can_be_open_at_the_same_time_overlap() {
        let others = [
            event("before", "endTime: '2026-12-02T00:00:00Z'", ""),
            event("during", "startTime: '2026-12-02T12:00:00Z', endTime: '2026-12-02T13:00:00Z'", ""),
            event("after", "startTime: '2026-12-03T00:00:00Z'", ""),
            event("endless", "issuance: Auto", ""),
            event("closed", "issuance: Closed", ""),
            event("finished", "issuance: Auto", ", status: {finishedAt: '2026-11-01T00:00:00Z'}"),
        ];
        let surroundings = Surroundings { existing: None, others: &others, issuer_limit: IssuerLimit::Unknown };
        let found = findings(&event("summer", GOOD, ""), Some(&surroundings)).overlaps;
        let names: Vec<&str> = found.iter().map(|overlap| &*overlap.event).collect();
        assert_eq!(names, ["during", "endless"]);
        assert_eq!(found[1].window, "until it is sold out");
    }

    #[test]
    fn change_describes_the_effect_on_the_existing_event() {
        let change = |spec: &str, existing: &CouponEvent| {
            let surroundings =
                Surroundings { existing: Some(existing), others: &[], issuer_limit: IssuerLimit::Unknown };
            let mut event = event("summer", GOOD, "");
            if spec == "more" {
                event.spec.total_count += 500;
            }
            findings(&event, Some(&surroundings)).change.unwrap()
        };
        let scheduled = event("summer", GOOD, "");
        let opened = event("summer", GOOD, ", status: {openedAt: '2026-11-01T00:00:00Z'}");
        assert!(change("", &scheduled).contains("stays as it is"));
        assert!(change("more", &scheduled).contains("has not opened"));
        assert_eq!(change("more", &opened), "tops up the open event by 500 coupons");
        let mut deleting = scheduled;
        deleting.metadata.deletion_timestamp = opened.status.unwrap().opened_at;
        assert!(change("", &deleting).contains("being deleted"));
    }
}
