//! What the operator counts. No user and no coupon is ever in a label.

use std::sync::atomic::AtomicU64;

use crds::CouponEventStatus;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CouponLabels {
    event: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// How a look at an event ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Settled,
    Working,
    Stuck,
    Failed,
}

/// The name of an outcome in the metrics.
const fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Settled => "settled",
        Outcome::Working => "working",
        Outcome::Stuck => "stuck",
        Outcome::Failed => "failed",
    }
}

/// How many coupons of an event are in each state.
fn by_state(status: &CouponEventStatus) -> [(&'static str, Option<u64>); 4] {
    [
        ("preloaded", status.preloaded),
        ("remaining", status.remaining),
        ("issued", status.issued),
        ("persisted", status.persisted),
    ]
}

/// All counters of the operator; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    coupons: Family<CouponLabels, Gauge<u64, AtomicU64>>,
    reconciliations: Family<OutcomeLabels, Counter>,
    pub(crate) coupons_made: Counter,
    pub(crate) coupons_loaded: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("coupons", "Coupons of each event, by state", metrics.coupons.clone());
        registry.register("reconciliations", "Looks at an event, by how they ended", metrics.reconciliations.clone());
        registry.register("coupons_made", "Coupons written to Postgres", metrics.coupons_made.clone());
        registry.register("coupons_loaded", "Coupons copied from Postgres to Redis", metrics.coupons_loaded.clone());
        metrics
    }

    pub(crate) fn reconciled(&self, outcome: Outcome) {
        self.reconciliations.get_or_create(&OutcomeLabels { outcome: label(outcome) }).inc();
    }

    pub(crate) fn reported(&self, event: &str, status: &CouponEventStatus) {
        for (state, count) in by_state(status) {
            let labels = CouponLabels { event: event.to_owned(), state };
            self.coupons.get_or_create(&labels).set(count.unwrap_or_default());
        }
    }

    pub(crate) fn forget(&self, event: &str) {
        for (state, _) in by_state(&CouponEventStatus::default()) {
            self.coupons.remove(&CouponLabels { event: event.to_owned(), state });
        }
    }
}
