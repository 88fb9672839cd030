//! What the operator counts. No user and no coupon is ever in a label.

use std::sync::atomic::AtomicU64;

use crds::CouponEventStatus;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CouponLabels {
    event: String,
    state: CouponState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum CouponState {
    Preloaded,
    Remaining,
    Issued,
    Persisted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: Outcome,
}

/// How a look at an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Settled,
    Working,
    Stuck,
    Failed,
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
        self.reconciliations.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn reported(&self, event: &str, status: &CouponEventStatus) {
        for (state, count) in [
            (CouponState::Preloaded, status.preloaded),
            (CouponState::Remaining, status.remaining),
            (CouponState::Issued, status.issued),
            (CouponState::Persisted, status.persisted),
        ] {
            let labels = CouponLabels { event: event.to_owned(), state };
            self.coupons.get_or_create(&labels).set(count.unwrap_or_default());
        }
    }

    pub(crate) fn forget(&self, event: &str) {
        for state in [CouponState::Preloaded, CouponState::Remaining, CouponState::Issued, CouponState::Persisted] {
            self.coupons.remove(&CouponLabels { event: event.to_owned(), state });
        }
    }
}
