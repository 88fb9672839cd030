//! Writes the status, and tells what changed with it.

use std::time::Duration;

use couponry_crds::{CouponEvent, CouponEventStatus, status::condition};
use kube::{
    Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
};
use serde_json::json;

use super::{
    Balance, Obstacle, Progress, ReconcileError, Seen, Wanted,
    balance::Difference,
    now,
    status::{self, Beside},
};
use crate::{context::Context, notices};

/// Whose fields the status is.
pub(crate) const FIELD_MANAGER: &str = "couponry-operator";

/// Changes of mere counts are written at most once in this time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// A difference is reported when every look has seen one for so long.
const LASTING: Duration = Duration::from_secs(3);

/// Writes the status of one event during one look at it.
///
/// A report replaces the one that it was computed from, or none: when another operator has reported meanwhile, the write is
/// refused as [`ReconcileError::Outdated`]. So each transition has one writer, and that one tells of it.
pub(crate) struct Reporter<'a> {
    context: &'a Context,
    event: CouponEvent,
    /// Whether there are newer counts than those that were written.
    pub(crate) is_behind: bool,
    /// What did not add up at the last look.
    suspicion: Option<Difference>,
    /// What does not add up, and has not for a while.
    difference: Option<Difference>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(context: &'a Context, event: CouponEvent) -> Self {
        Self { context, event, is_behind: false, suspicion: None, difference: None }
    }

    /// Looks whether everything adds up, and since when it does not. Returns whether it does.
    pub(crate) fn balance(&mut self, wanted: &Wanted, seen: &Seen) -> bool {
        let balance = Balance::of(wanted, seen);
        self.suspicion = balance.and_then(|balance| balance.difference());
        let is_balanced = self.suspicion.is_none();
        let since = self.context.memory.differs(&wanted.uid.to_string(), !is_balanced);
        let old = self.event.status.as_ref().and_then(|status| status.condition(condition::BALANCED));
        // What was told stays told until it is over, also when another operator told it.
        let is_told = old.is_some_and(|old| old.status == "False");
        self.difference = self.suspicion.clone().filter(|_| is_told || since >= LASTING);
        is_balanced
    }

    /// Takes what did not add up at the last look for certain, since something was not done because of it.
    pub(crate) fn believe(&mut self) {
        self.difference.clone_from(&self.suspicion);
    }

    /// What does not add up, and has not for a while.
    pub(crate) fn lasting_difference(&self) -> Option<&Difference> {
        self.difference.as_ref()
    }

    /// Reports what was seen.
    pub(crate) async fn report(
        &mut self,
        wanted: &Wanted,
        seen: &Seen,
        progress: &Progress,
    ) -> Result<(), ReconcileError> {
        let old = self.event.status.clone().unwrap_or_default();
        let scaled = self.context.scaling.of(&self.event);
        let beside = Beside {
            remarks: &self.context.remarks,
            difference: self.difference.as_ref().map(|difference| difference.words.as_str()),
            scaling: &scaled,
        };
        let mut new = status::report(&old, wanted, seen, progress, beside, now());
        let promise = self.context.durability.look(&self.context.stock).await;
        promise.report(&old.conditions, &mut new.conditions, wanted.generation, status::whole_second(now()));
        let differing = self.difference.as_ref().map_or(0, |difference| difference.coupons);
        self.context.metrics.reported(wanted.name.as_str(), &new, differing);
        self.write(&old, new).await
    }

    /// When to look at the event again for its issuers' sake.
    pub(crate) fn next_scaling(&self) -> Duration {
        self.context.scaling.next_look(&self.event)
    }

    /// Reports how far a long step is. That the event was changed meanwhile must not end the step.
    pub(crate) async fn report_progress(&mut self, wanted: &Wanted, seen: &Seen, progress: Progress) {
        tracing::info!(event = %wanted.name, "{}", progress.words());
        let reported = match self.report(wanted, seen, &progress).await {
            Err(ReconcileError::Outdated) => self.read_again().await,
            other => other,
        };
        if let Err(error) = reported {
            tracing::warn!(event = %wanted.name, %error, "cannot report the progress");
        }
    }

    /// Reports that the stores could not be asked, or that the manifest has no meaning.
    pub(crate) async fn unavailable(&mut self, generation: i64, obstacle: &Obstacle) -> Result<(), ReconcileError> {
        let old = self.event.status.clone().unwrap_or_default();
        let new = status::unavailable(&old, generation, obstacle, now());
        self.write(&old, new).await
    }

    async fn read_again(&mut self) -> Result<(), ReconcileError> {
        let read = self.context.guarded_events().get(&self.event.name_any()).await;
        let read = read.map_err(|error| ReconcileError::kubernetes("reading the event", error))?;
        self.adopt(read, self.event.status.clone());
        Ok(())
    }

    /// Takes the object as it is now. Of one that cannot be read, which then has this status, what was known before stays.
    fn adopt(&mut self, DeserializeGuard(read): DeserializeGuard<CouponEvent>, status: Option<CouponEventStatus>) {
        match read {
            Ok(event) => self.event = event,
            Err(invalid) => (self.event.metadata, self.event.status) = (invalid.metadata, status),
        }
    }

    async fn write(&mut self, old: &CouponEventStatus, new: CouponEventStatus) -> Result<(), ReconcileError> {
        let key = self.event.uid().unwrap_or_default();
        if *old == new {
            return Ok(());
        }
        self.is_behind = !status::is_transition(old, &new) && self.context.memory.wrote_within(&key, SHORTEST_PAUSE);
        if self.is_behind {
            return Ok(());
        }
        let name = self.event.name_any();
        let body = json!({
            "apiVersion": CouponEvent::api_version(&()),
            "kind": CouponEvent::kind(&()),
            "metadata": {"name": name, "uid": key, "resourceVersion": self.event.resource_version()},
            "status": new,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = match self.context.guarded_events().patch_status(&name, &params, &Patch::Apply(body)).await {
            Err(kube::Error::Api(status)) if status.message.contains("field not declared in schema") => {
                self.write_what_is_known(&name, &new).await
            }
            written => written,
        };
        let written = written.map_err(|error| ReconcileError::kubernetes("writing the status", error))?;
        self.adopt(written, Some(new.clone()));
        self.context.memory.wrote(&key);
        notices::publish(
            &self.context.recorder,
            &self.event,
            &notices::between(old, &new, self.event.spec.end_time.as_ref()),
        )
        .await;
        Ok(())
    }

    /// Writes the status under a definition that is older than this program, and that knows less. A server-side apply is
    /// refused then; what this does, leaves out what is not known.
    async fn write_what_is_known(
        &self,
        name: &str,
        new: &CouponEventStatus,
    ) -> kube::Result<DeserializeGuard<CouponEvent>> {
        let version = self.event.resource_version();
        let replace = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": new},
        ]);
        let replace = serde_json::from_value(replace).expect("these are JSON patches");
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let replaced = self.context.guarded_events().patch_status(name, &params, &Patch::Json::<()>(replace)).await;
        replaced.map_err(|error| match error {
            // A test that fails: somebody else has written meanwhile.
            kube::Error::Api(status) if status.code == 422 => {
                kube::Error::Api(Box::new(kube::core::Status { code: 409, ..*status }))
            }
            other => other,
        })
    }
}

impl ReconcileError {
    /// What the API server said, with what was asked of it. A conflict or a missing object is [`Self::Outdated`].
    pub(crate) fn kubernetes(operation: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Outdated,
            other => Self::Kubernetes { operation, source: Box::new(other) },
        }
    }
}
