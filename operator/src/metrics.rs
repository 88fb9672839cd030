//! What the operator counts. No user and no coupon is ever in a label.

use std::sync::atomic::AtomicU64;

use couponry_crds::{BalanceStatus, CouponEventStatus};
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
        ("loaded", status.loaded),
        ("available", status.available),
        ("issued", status.issued),
        ("recorded", status.recorded),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: String,
}

type OfEvent = Family<EventLabels, Gauge<u64, AtomicU64>>;

/// Where the coupons of each event are.
#[derive(Clone, Default)]
struct BalanceMetrics {
    generated: OfEvent,
    available: OfEvent,
    unrecorded: OfEvent,
    recorded: OfEvent,
    voided: OfEvent,
    difference: OfEvent,
}

impl BalanceMetrics {
    /// Each with its name and what it counts.
    fn all(&self) -> [(&'static str, &'static str, &OfEvent); 6] {
        let Self { generated, available, unrecorded, recorded, voided, difference } = self;
        [
            ("balance_generated", "Coupons of each event that were made, in Postgres", generated),
            ("balance_available", "Coupons of each event that wait in Redis for users", available),
            ("balance_unrecorded", "Coupons that users have and Postgres has not recorded yet", unrecorded),
            ("balance_recorded", "Coupons that users have and Postgres has recorded", recorded),
            ("balance_voided", "Coupons that were taken back from a user and not given to anyone again", voided),
            ("balance_difference", "Coupons that are missing or too many, and have been for a while", difference),
        ]
    }
}

/// All counters of the operator; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    coupons: Family<CouponLabels, Gauge<u64, AtomicU64>>,
    balance: BalanceMetrics,
    reconciliations: Family<OutcomeLabels, Counter>,
    pub(crate) coupons_generated: Counter,
    pub(crate) coupons_loaded: Counter,
    pub(crate) issuers_floor: Gauge,
    pub(crate) issuers_ready: Gauge,
    leader: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("coupons", "Coupons of each event, by state", metrics.coupons.clone());
        for (name, help, family) in metrics.balance.all() {
            registry.register(name, help, family.clone());
        }
        let (floor, ready) = (metrics.issuers_floor.clone(), metrics.issuers_ready.clone());
        registry.register("issuer_min_replicas", "The least number of issuers that there must be now", floor);
        registry.register("issuers_ready", "Issuers that are ready", ready);
        registry.register("reconcile", "Looks at an event, by how they ended", metrics.reconciliations.clone());
        registry.register("coupons_generated", "Coupons written to Postgres", metrics.coupons_generated.clone());
        registry.register("coupons_loaded", "Coupons copied from Postgres to Redis", metrics.coupons_loaded.clone());
        registry.register("is_leader", "1 while this operator works, 0 while it stands by", metrics.leader.clone());
        metrics
    }

    /// What an operator says of events that it no longer looks at would be wrong soon.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
        if !leads {
            self.issuers_floor.set(0);
            self.issuers_ready.set(0);
            self.coupons.clear();
            for (_, _, family) in self.balance.all() {
                family.clear();
            }
        }
    }

    pub(crate) fn reconciled(&self, outcome: Outcome) {
        self.reconciliations.get_or_create(&OutcomeLabels { outcome: label(outcome) }).inc();
    }

    /// `difference`: how many coupons do not add up, and have not for a while.
    pub(crate) fn reported(&self, event: &str, status: &CouponEventStatus, difference: u64) {
        for (state, count) in by_state(status) {
            let labels = CouponLabels { event: event.to_owned(), state };
            self.coupons.get_or_create(&labels).set(count.unwrap_or_default());
        }
        if let Some(BalanceStatus { generated, available, unrecorded, recorded, voided }) = status.balance {
            let counts = [generated, available, unrecorded, recorded, voided, difference];
            for ((_, _, family), count) in self.balance.all().into_iter().zip(counts) {
                family.get_or_create(&EventLabels { event: event.to_owned() }).set(count);
            }
        }
    }

    pub(crate) fn forget(&self, event: &str) {
        for (state, _) in by_state(&CouponEventStatus::default()) {
            self.coupons.remove(&CouponLabels { event: event.to_owned(), state });
        }
        for (_, _, family) in self.balance.all() {
            family.remove(&EventLabels { event: event.to_owned() });
        }
    }
}
