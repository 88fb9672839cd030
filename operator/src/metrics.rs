//! The operator's metrics. Labels never contain a user or a coupon.

use std::{sync::atomic::AtomicU64, time::Duration};

use couponry_crds::{BalanceStatus, CouponEventSpec, CouponEventStatus, status::condition};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReconcileResult {
    /// The stores match the manifest.
    Done,
    /// Steps were applied, and more may follow.
    Progressing,
    /// A preload waits until others have finished, or until codes are imported.
    Waiting,
    /// A condition that the operator cannot resolve alone; see the event's Stalled condition.
    Blocked,
    /// An operation failed and will be retried.
    Error,
}

impl ReconcileResult {
    const ALL: [Self; 5] = [Self::Done, Self::Progressing, Self::Waiting, Self::Blocked, Self::Error];

    const fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Progressing => "progressing",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Error => "error",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CouponLabels {
    event: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    event: String,
    condition: &'static str,
}

/// The exported conditions.
const CONDITIONS: [&str; 8] = [
    condition::READY,
    condition::PRELOADED,
    condition::OPEN,
    condition::RECORDED,
    condition::STALLED,
    condition::BALANCED,
    condition::DURABLE,
    condition::SCALED,
];

type EventGauge = Family<EventLabels, Gauge<u64, AtomicU64>>;

/// The inventory balance of each event.
#[derive(Clone, Default)]
struct BalanceMetrics {
    generated: EventGauge,
    available: EventGauge,
    unrecorded: EventGauge,
    recorded: EventGauge,
    withheld: EventGauge,
    mismatch: EventGauge,
}

impl BalanceMetrics {
    /// Name, help text and gauge of each.
    fn all(&self) -> [(&'static str, &'static str, &EventGauge); 6] {
        let Self { generated, available, unrecorded, recorded, withheld, mismatch } = self;
        [
            ("balance_generated", "Coupons that exist in Postgres, by event", generated),
            ("balance_available", "Coupons in the Redis queue, by event", available),
            ("balance_unrecorded", "Issued coupons that are not recorded in Postgres yet, by event", unrecorded),
            ("balance_recorded", "Issued coupons that are recorded in Postgres, by event", recorded),
            ("balance_withheld", "Coupons that were cancelled and not put back into the queue, by event", withheld),
            (
                "balance_mismatch",
                "Coupons missing, surplus or voided in only one store in a confirmed mismatch, by event",
                mismatch,
            ),
        ]
    }
}

/// All metrics of the operator. Clones share their values.
#[derive(Clone)]
pub(crate) struct Metrics {
    coupons: Family<CouponLabels, Gauge<u64, AtomicU64>>,
    conditions: Family<ConditionLabels, Gauge>,
    start_time: EventGauge,
    balance: BalanceMetrics,
    reconciliations: Family<ResultLabels, Counter>,
    reconcile_duration: Histogram,
    pub(crate) coupons_generated: Counter,
    pub(crate) coupons_loaded: Counter,
    oldest_unrecorded: EventGauge,
    pub(crate) issuances_resent: Counter,
    pub(crate) issuances_recorded_again: Counter,
    pub(crate) issuances_undecodable: Counter,
    pub(crate) pending_erasures: Gauge,
    pub(crate) issuer_min_replicas: Gauge,
    pub(crate) issuers_ready: Gauge,
    is_leader: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            coupons: Family::default(),
            conditions: Family::default(),
            start_time: Family::default(),
            balance: BalanceMetrics::default(),
            reconciliations: Family::default(),
            // 1 ms to 16 s: a long step ends after 2 s, but a store may take its full timeout.
            reconcile_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            coupons_generated: Counter::default(),
            coupons_loaded: Counter::default(),
            oldest_unrecorded: Family::default(),
            issuances_resent: Counter::default(),
            issuances_recorded_again: Counter::default(),
            issuances_undecodable: Counter::default(),
            pending_erasures: Gauge::default(),
            issuer_min_replicas: Gauge::default(),
            issuers_ready: Gauge::default(),
            is_leader: Gauge::default(),
        };
        registry.register("coupons", "Coupons by event and state, from the event's status", metrics.coupons.clone());
        registry.register(
            "condition",
            "1 if the condition of the event's status is True, otherwise 0, by event and condition",
            metrics.conditions.clone(),
        );
        registry.register_with_unit(
            "event_start_time",
            "Start time of an event that has not opened yet, in Unix time, by event",
            Unit::Seconds,
            metrics.start_time.clone(),
        );
        for result in ReconcileResult::ALL {
            drop(metrics.reconciliations.get_or_create(&ResultLabels { result: result.label() }));
        }
        for (name, help, family) in metrics.balance.all() {
            registry.register(name, help, family.clone());
        }
        registry.register("reconcile", "Reconciliations of an event, by result", metrics.reconciliations.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of one reconciliation of an event",
            Unit::Seconds,
            metrics.reconcile_duration.clone(),
        );
        registry.register(
            "coupons_generated",
            "Coupons generated in Postgres by this process",
            metrics.coupons_generated.clone(),
        );
        registry.register(
            "coupons_loaded",
            "Coupons loaded from Postgres into Redis by this process",
            metrics.coupons_loaded.clone(),
        );
        registry.register_with_unit(
            "oldest_unrecorded",
            "Lower bound of the age of the oldest unrecorded issuance, by event",
            Unit::Seconds,
            metrics.oldest_unrecorded.clone(),
        );
        registry.register(
            "issuances_resent",
            "Issuances added to the outbox again because no record of them was in flight",
            metrics.issuances_resent.clone(),
        );
        registry.register(
            "issuances_recorded_again",
            "Issuances that the operator recorded in Postgres instead of the consumers",
            metrics.issuances_recorded_again.clone(),
        );
        registry.register(
            "issuances_undecodable",
            "Entries of couponIssued in Redis that could not be decoded when they were compared with Postgres",
            metrics.issuances_undecodable.clone(),
        );
        registry.register(
            "pending_erasures",
            "Erasures of users that are completed in Postgres and not in Redis",
            metrics.pending_erasures.clone(),
        );
        registry.register(
            "issuer_min_replicas",
            "Minimum number of issuer replicas required now by the settings and the events",
            metrics.issuer_min_replicas.clone(),
        );
        registry.register("issuers_ready", "Issuer replicas that are ready", metrics.issuers_ready.clone());
        registry.register(
            "is_leader",
            "1 while this replica is the leader, 0 while it is on standby",
            metrics.is_leader.clone(),
        );
        metrics
    }

    /// A standby replica clears the gauges of events, because it no longer updates them.
    pub(crate) fn set_leader(&self, is_leader: bool) {
        self.is_leader.set(is_leader.into());
        if !is_leader {
            self.pending_erasures.set(0);
            self.issuer_min_replicas.set(0);
            self.issuers_ready.set(0);
            self.coupons.clear();
            self.conditions.clear();
            self.start_time.clear();
            self.oldest_unrecorded.clear();
            for (_, _, family) in self.balance.all() {
                family.clear();
            }
        }
    }

    pub(crate) fn observe_reconciliation(&self, result: ReconcileResult, duration: Duration) {
        self.reconciliations.get_or_create(&ResultLabels { result: result.label() }).inc();
        self.reconcile_duration.observe(duration.as_secs_f64());
    }

    /// `mismatch`: the coupons missing, surplus or voided in only one store in a confirmed mismatch.
    pub(crate) fn set_counts(&self, event: &str, status: &CouponEventStatus, mismatch: u64) {
        for (state, count) in counts_by_state(status) {
            let labels = CouponLabels { event: event.to_owned(), state };
            self.coupons.get_or_create(&labels).set(count.unwrap_or_default());
        }
        if let Some(BalanceStatus { generated, available, unrecorded, recorded, withheld }) = status.balance {
            let counts = [generated, available, unrecorded, recorded, withheld, mismatch];
            for ((_, _, family), count) in self.balance.all().into_iter().zip(counts) {
                family.get_or_create(&EventLabels { event: event.to_owned() }).set(count);
            }
        }
    }

    /// Sets the conditions of the status, and the start time until the event has opened or ended.
    pub(crate) fn set_status(&self, event: &str, spec: &CouponEventSpec, status: &CouponEventStatus) {
        for condition in CONDITIONS {
            let labels = ConditionLabels { event: event.to_owned(), condition };
            if let Some(condition) = status.condition(condition) {
                self.conditions.get_or_create(&labels).set((condition.status == "True").into());
            } else {
                self.conditions.remove(&labels);
            }
        }
        let labels = EventLabels { event: event.to_owned() };
        let start = spec.start_time.as_ref().filter(|_| status.opened_at.is_none() && status.finished_at.is_none());
        if let Some(start) = start.and_then(|start| u64::try_from(start.0.as_second()).ok()) {
            self.start_time.get_or_create(&labels).set(start);
        } else {
            self.start_time.remove(&labels);
        }
    }

    /// `age`: how long at least the oldest unrecorded issuance has been unrecorded.
    pub(crate) fn set_oldest_unrecorded(&self, event: &str, age: Duration) {
        self.oldest_unrecorded.get_or_create(&EventLabels { event: event.to_owned() }).set(age.as_secs());
    }

    /// Removes all series of a deleted event.
    pub(crate) fn remove_event(&self, event: &str) {
        self.oldest_unrecorded.remove(&EventLabels { event: event.to_owned() });
        self.start_time.remove(&EventLabels { event: event.to_owned() });
        for condition in CONDITIONS {
            self.conditions.remove(&ConditionLabels { event: event.to_owned(), condition });
        }
        for (state, _) in counts_by_state(&CouponEventStatus::default()) {
            self.coupons.remove(&CouponLabels { event: event.to_owned(), state });
        }
        for (_, _, family) in self.balance.all() {
            family.remove(&EventLabels { event: event.to_owned() });
        }
    }
}

fn counts_by_state(status: &CouponEventStatus) -> [(&'static str, Option<u64>); 7] {
    [
        ("loaded", status.loaded),
        ("available", status.available),
        ("issued", status.issued),
        ("reserved", status.reserved),
        ("redeemed", status.redeemed),
        ("voided", status.voided),
        ("recorded", status.recorded),
    ]
}
