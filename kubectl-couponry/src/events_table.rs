//! The table of `kubectl couponry status`.

use couponry_crds::{
    CouponEvent,
    status::{condition, reason},
};
use jiff::Timestamp;
use kube::{ResourceExt as _, api::ObjectMeta, core::DeserializeGuard};

use crate::{table::table, view};

const HEADINGS: [&str; 8] = ["NAME", "READY", "STATE", "TOTAL", "ISSUED", "RECORDED", "AVAILABLE", "NEXT"];

/// One row per event.
pub(crate) fn events_table<'a>(
    events: impl IntoIterator<Item = &'a DeserializeGuard<CouponEvent>>,
    all_namespaces: bool,
    now: Timestamp,
) -> String {
    let mut headings = HEADINGS.to_vec();
    if all_namespaces {
        headings.insert(0, "NAMESPACE");
    }
    let rows: Vec<_> = events
        .into_iter()
        .map(|guard| {
            let mut row =
                guard.0.as_ref().map_or_else(|invalid| invalid_row(&invalid.metadata), |event| row(event, now));
            if all_namespaces {
                row.insert(0, guard.namespace().unwrap_or_default());
            }
            row
        })
        .collect();
    table(&headings, &rows)
}

/// An object that does not match the current schema. `status NAME` prints the reason.
fn invalid_row(metadata: &ObjectMeta) -> Vec<String> {
    let unknown = || "-".to_owned();
    let name = metadata.name.clone().unwrap_or_default();
    let state = reason::INVALID_OBJECT.to_owned();
    vec![name, unknown(), state, unknown(), unknown(), unknown(), unknown(), String::new()]
}

fn row(event: &CouponEvent, now: Timestamp) -> Vec<String> {
    let status = event.status.clone().unwrap_or_default();
    let ready = status.condition(condition::READY).map_or("-", |ready| &ready.status).to_owned();
    vec![
        event.name_any(),
        ready,
        view::state(event),
        view::count(Some(event.spec.total_count)),
        view::count(status.issued),
        view::count(status.recorded),
        view::count(status.available),
        next_transition(event, now),
    ]
}

/// Time until the event starts or ends.
fn next_transition(event: &CouponEvent, now: Timestamp) -> String {
    let times = [("starts in", &event.spec.start_time), ("ends in", &event.spec.end_time)];
    let next = times.into_iter().find_map(|(what, at)| {
        let left = at.as_ref()?.0.duration_since(now);
        left.is_positive().then(|| format!("{what} {}", view::duration(left)))
    });
    next.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "
- apiVersion: couponry.dev/v1alpha1
  kind: CouponEvent
  metadata: {name: summer, namespace: shop}
  spec:
    policyName: Summer sale
    totalCount: 100000
    discounts: [{type: Percent, value: 10, allocationPercentage: 100}]
    endTime: '2026-12-02T00:00:00Z'
  status:
    loaded: 100000
    issued: 50000
    recorded: 49000
    available: 50000
    conditions:
      - {type: Ready, status: 'True', reason: StockComplete, message: '', lastTransitionTime: '2026-12-01T00:00:00Z'}
      - {type: Open, status: 'True', reason: Open, message: '', lastTransitionTime: '2026-12-01T00:00:00Z'}
- apiVersion: couponry.dev/v1alpha1
  kind: CouponEvent
  metadata: {name: new, namespace: shop}
  spec:
    policyName: Not observed yet
    totalCount: 10
    discounts: [{type: Amount, value: 1, count: 10}]
    startTime: '2026-12-01T02:00:00Z'
- apiVersion: couponry.dev/v1alpha1
  kind: CouponEvent
  metadata: {name: odd, namespace: shop}
  spec: {policyName: Invalid, totalCount: many, discounts: []}
";

    fn rendered(all_namespaces: bool) -> String {
        let events: Vec<DeserializeGuard<CouponEvent>> = serde_yaml::from_str(EVENTS).unwrap();
        events_table(&events, all_namespaces, "2026-12-01T01:00:00Z".parse().unwrap())
    }

    #[test]
    fn events_table_shows_counts_state_and_next_transition() {
        insta::assert_snapshot!(rendered(false), @r"
        NAME     READY   STATE             TOTAL   ISSUED   RECORDED   AVAILABLE   NEXT
        summer   True    Open            100,000   50,000     49,000      50,000   ends in 23 h 0 min
        new      -       Unknown              10        -          -           -   starts in 1 h 0 min
        odd      -       InvalidObject         -        -          -           -
        ");
    }

    #[test]
    fn events_table_of_all_namespaces_has_namespace_column() {
        insta::assert_snapshot!(rendered(true), @r"
        NAMESPACE   NAME     READY   STATE             TOTAL   ISSUED   RECORDED   AVAILABLE   NEXT
        shop        summer   True    Open            100,000   50,000     49,000      50,000   ends in 23 h 0 min
        shop        new      -       Unknown              10        -          -           -   starts in 1 h 0 min
        shop        odd      -       InvalidObject         -        -          -           -
        ");
    }
}
