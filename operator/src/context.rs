//! What every reconciliation uses.

use std::time::Duration;

use couponry_crds::{CouponEvent, status::reason};
use couponry_domain::Acknowledge;
use couponry_postgres::Database;
use couponry_redis::RedisStore;
use couponry_runtime::Health;
use couponry_settings::KafkaSettings;
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::DeserializeGuard,
    runtime::events::Recorder,
};

use crate::{
    blocker::{Blocker, Issuing},
    durable_condition::DurabilityCache,
    limiter::Limiter,
    metrics::Metrics,
    reconcile::{
        drain::DrainTracker, idle::IdleEvents, preload_queue::PreloadQueue, recording::RecordingTracker,
        void_comparisons::VoidComparisons,
    },
    scaling::scaler::Scaler,
    startup,
    transient_state::TransientState,
};

/// Clients and shared state of all reconciliations.
pub(crate) struct Context {
    /// The events of the operator's namespace.
    pub(crate) events: Api<CouponEvent>,
    pub(crate) database: Database,
    pub(crate) redis_store: RedisStore,
    pub(crate) kafka: KafkaSettings,
    /// The state of the servers, as in the readiness probe.
    pub(crate) health: Health,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) limiter: Limiter,
    pub(crate) preloads: PreloadQueue,
    pub(crate) idle_events: IdleEvents,
    pub(crate) transient: TransientState,
    pub(crate) durability: DurabilityCache,
    /// Progress of the drains that precede a recovery of Redis.
    pub(crate) drains: DrainTracker,
    pub(crate) recording: RecordingTracker,
    pub(crate) voids: VoidComparisons,
    /// Deviations of the Kafka topics from the configuration, appended to the message of `Ready` if its reason is
    /// `StockComplete`.
    pub(crate) topic_mismatches: Vec<String>,
    pub(crate) scaling: Scaler,
    /// Whether the uses of coupons are sent to Kafka.
    pub(crate) are_uses_sent: bool,
    /// How long the deletion of an event waits for issued coupons to be recorded, and for their uses to be sent.
    pub(crate) deletion_timeout: Duration,
}

impl Context {
    /// The same events; an object that does not match the schema yields its metadata and the error.
    pub(crate) fn guarded_events(&self) -> Api<DeserializeGuard<CouponEvent>> {
        Api::namespaced(self.events.clone().into_client(), self.namespace())
    }

    /// The same events as untyped JSON.
    pub(crate) fn raw_events(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<CouponEvent>(&());
        Api::namespaced_with(self.events.clone().into_client(), self.namespace(), &kind)
    }

    /// Why issuers may return 503 for an event with this setting while Kafka is unavailable. None: they do not need it.
    pub(crate) fn kafka_outage(&self, acknowledge: Acknowledge) -> Option<Blocker> {
        let (_, error) = self.health.degraded().into_iter().find(|(server, _)| *server == startup::KAFKA)?;
        let message = format!(
            "With acknowledge Kafka, users receive coupons only while Kafka is available, and the operator cannot \
             reach it: {error}."
        );
        let outage = Blocker { issuing: Issuing::Unknown, ..Blocker::new(reason::BACKEND_UNAVAILABLE, message) };
        (acknowledge == Acknowledge::Kafka).then_some(outage)
    }

    fn namespace(&self) -> &str {
        self.events.namespace().expect("the Api is restricted to one namespace")
    }
}
