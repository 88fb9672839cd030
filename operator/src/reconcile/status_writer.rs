//! Writes the status and publishes its transitions as Kubernetes Events.
//!
//! # Guarantees
//! A status replaces exactly the one that it was computed from. If another operator has written one meanwhile, the
//! write fails with [`ReconcileError::Conflict`]. Each transition is therefore written and published once.

use std::time::Duration;

use couponry_crds::{CouponEvent, CouponEventStatus, status::condition};
use couponry_runtime::error_chain;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
};
use serde_json::json;

use crate::{
    blocker::Blocker,
    context::Context,
    kube_events::{self, KubeEvent},
    kubernetes::FIELD_MANAGER,
    reconcile::{
        balance::{Balance, CountMismatch},
        desired_state::DesiredState,
        error::ReconcileError,
        observe::ObservedState,
        progress::Progress,
        status::{self, StatusInputs},
        void_comparisons::VoidDifference,
    },
};

/// Changes of counts and messages are written at most once per interval.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// A mismatch is confirmed when every observation has shown one for this long.
const MISMATCH_CONFIRMATION: Duration = Duration::from_secs(3);

/// Writes the status of one event during one reconciliation.
pub(super) struct StatusWriter<'a> {
    context: &'a Context,
    event: CouponEvent,
    /// Whether the last write was skipped, so that newer counts than the written ones exist.
    pub(super) is_behind: bool,
    /// The mismatch of the last observation.
    observed_mismatch: Option<CountMismatch>,
    confirmed_mismatch: Option<CountMismatch>,
}

impl<'a> StatusWriter<'a> {
    pub(super) fn new(context: &'a Context, event: CouponEvent) -> Self {
        Self { context, event, is_behind: false, observed_mismatch: None, confirmed_mismatch: None }
    }

    /// The event, as it was last read or written.
    pub(super) const fn event(&self) -> &CouponEvent {
        &self.event
    }

    /// Publishes a Kubernetes Event about something that is not part of the status.
    pub(super) async fn publish_warning(&self, reason: &str, note: String) {
        kube_events::publish(&self.context.recorder, &self.event, &[KubeEvent::warning(reason, note)]).await;
    }

    pub(super) fn into_event(self) -> CouponEvent {
        self.event
    }

    /// Checks the balance of an observation, and the voids that only one store has. Returns whether the stores match.
    pub(super) fn check_balance(
        &mut self,
        desired: &DesiredState,
        observed: &ObservedState,
        voids: VoidDifference,
    ) -> bool {
        self.observed_mismatch = Balance::of(desired, observed)
            .and_then(|balance| CountMismatch::with_voids(balance.count_mismatch(), voids));
        let is_balanced = self.observed_mismatch.is_none();
        let duration = self.context.transient.note_balance(&desired.uid.to_string(), is_balanced);
        let old = self.event.status.as_ref().and_then(|status| status.condition(condition::BALANCED));
        // A reported mismatch stays reported until it is resolved, even if another operator reported it.
        let is_reported = old.is_some_and(|old| old.status == "False");
        let is_confirmed = is_reported || duration >= MISMATCH_CONFIRMATION;
        self.confirmed_mismatch = self.observed_mismatch.clone().filter(|_| is_confirmed);
        is_balanced
    }

    /// Confirms the observed mismatch at once, because it blocks the plan.
    pub(super) fn confirm_mismatch(&mut self) {
        self.confirmed_mismatch.clone_from(&self.observed_mismatch);
    }

    pub(super) const fn confirmed_mismatch(&self) -> Option<&CountMismatch> {
        self.confirmed_mismatch.as_ref()
    }

    /// Reports an observation.
    #[tracing::instrument(name = "status", level = "debug", skip_all)]
    pub(super) async fn report(
        &mut self,
        desired: &DesiredState,
        observed: &ObservedState,
        progress: &Progress,
    ) -> Result<(), ReconcileError> {
        let old = self.event.status.clone().unwrap_or_default();
        let kafka_outage = self.context.kafka_outage(desired.acknowledge);
        let inputs = StatusInputs {
            topic_mismatches: &self.context.topic_mismatches,
            count_mismatch: self.confirmed_mismatch.as_ref(),
            scaling: &self.context.scaling.report(&self.event),
            kafka_outage: kafka_outage.as_ref(),
            durability: Some(&self.context.durability.current(&self.context.redis_store).await),
        };
        let new = status::compute_status(&old, desired, observed, progress, inputs, Timestamp::now());
        let difference = self.confirmed_mismatch.as_ref().map_or(0, |count_mismatch| count_mismatch.coupons);
        self.context.metrics.set_counts(desired.name.as_str(), &new, difference);
        self.write(&old, new).await
    }

    /// How soon the scaling report of the event may change. `None`: not before the event changes.
    pub(super) fn next_scaling_report(&self) -> Option<Duration> {
        self.context.scaling.next_report(&self.event)
    }

    /// Reports the progress of a long step. A concurrent change of the event must not abort the step.
    pub(super) async fn report_progress(
        &mut self,
        desired: &DesiredState,
        observed: &ObservedState,
        progress: Progress,
    ) {
        tracing::info!(progress = progress.message(), "step in progress");
        let reported = match self.report(desired, observed, &progress).await {
            Err(ReconcileError::Conflict) => self.refresh().await,
            other => other,
        };
        if let Err(error) = reported {
            tracing::warn!(error = error_chain(&error), "cannot report the progress");
        }
    }

    /// Reports that the stores are unavailable, or that the object cannot be reconciled. `state`: that of the event in
    /// Redis, if it is known.
    #[tracing::instrument(name = "status", level = "debug", skip_all)]
    pub(super) async fn report_blocked(
        &mut self,
        generation: i64,
        blocker: &Blocker,
        state: Option<&'static str>,
    ) -> Result<(), ReconcileError> {
        let old = self.event.status.clone().unwrap_or_default();
        let hold = self.event.hold();
        let new = status::blocked_status(&old, generation, blocker, state, hold.as_deref(), Timestamp::now());
        self.write(&old, new).await
    }

    /// Reads the object again.
    pub(super) async fn refresh(&mut self) -> Result<(), ReconcileError> {
        let read = self.context.guarded_events().get(&self.event.name_any()).await;
        let read = read.map_err(|error| ReconcileError::kubernetes("read the event", error))?;
        self.replace_event(read, self.event.status.clone());
        Ok(())
    }

    /// `status`: the status of the object if it does not match the schema; its spec then stays as it was read before.
    fn replace_event(&mut self, read: DeserializeGuard<CouponEvent>, status: Option<CouponEventStatus>) {
        match read.0 {
            Ok(event) => self.event = event,
            Err(invalid) => (self.event.metadata, self.event.status) = (invalid.metadata, status),
        }
    }

    async fn write(&mut self, old: &CouponEventStatus, new: CouponEventStatus) -> Result<(), ReconcileError> {
        let uid = self.event.uid().unwrap_or_default();
        // Before the write, which may fail: the metrics then report what the status cannot.
        self.context.metrics.set_status(&self.event.name_any(), &self.event.spec, &new);
        if *old == new {
            return Ok(());
        }
        self.is_behind =
            !status::is_transition(old, &new) && self.context.transient.status_written_within(&uid, MIN_WRITE_INTERVAL);
        if self.is_behind {
            return Ok(());
        }
        let name = self.event.name_any();
        let body = json!({
            "apiVersion": CouponEvent::api_version(&()),
            "kind": CouponEvent::kind(&()),
            "metadata": {"name": name, "uid": uid, "resourceVersion": self.event.resource_version()},
            "status": new,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = match self.context.guarded_events().patch_status(&name, &params, &Patch::Apply(body)).await {
            Err(kube::Error::Api(status)) if status.message.contains("field not declared in schema") => {
                self.write_known_fields(&name, &new).await
            }
            written => written,
        };
        let written = written.map_err(|error| ReconcileError::kubernetes("write the status", error))?;
        self.replace_event(written, Some(new.clone()));
        self.context.transient.note_status_write(&uid);
        let transitions = kube_events::transitions(old, &new, self.event.spec.end_time.as_ref());
        kube_events::publish(&self.context.recorder, &self.event, &transitions).await;
        Ok(())
    }

    /// Writes the status under a CRD that is older than this program and lacks some fields. A server-side apply is
    /// rejected then; a JSON patch drops the unknown fields.
    async fn write_known_fields(
        &self,
        name: &str,
        new: &CouponEventStatus,
    ) -> kube::Result<DeserializeGuard<CouponEvent>> {
        let version = self.event.resource_version();
        let replace = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": new},
        ]);
        let replace = serde_json::from_value(replace).expect("the patch is a valid JSON patch");
        let events = self.context.guarded_events();
        let replaced = events.patch_status(name, &PatchParams::default(), &Patch::Json::<()>(replace)).await;
        replaced.map_err(|error| match error {
            // A failed test operation: another client has written meanwhile.
            kube::Error::Api(status) if status.code == 422 => {
                kube::Error::Api(Box::new(kube::core::Status { code: 409, ..*status }))
            }
            other => other,
        })
    }
}
