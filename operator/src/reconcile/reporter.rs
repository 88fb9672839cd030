//! Writes the status, and tells what changed with it.

use std::time::Duration;

use crds::{CouponEvent, CouponEventStatus};
use kube::{
    Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Obstacle, Progress, ReconcileError, Seen, Wanted, now, status};
use crate::{context::Context, notices};

/// Whose fields the status is.
pub(crate) const FIELD_MANAGER: &str = "couponry-operator";

/// Changes of mere counts are written at most once in this time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Writes the status of one event during one look at it.
///
/// A report replaces the one that it was computed from, or none: when another operator has reported meanwhile, the write is
/// refused as [`ReconcileError::Outdated`]. So each transition has one writer, and that one tells of it.
pub(crate) struct Reporter<'a> {
    context: &'a Context,
    event: CouponEvent,
    /// Whether there are newer counts than those that were written.
    pub(crate) is_behind: bool,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(context: &'a Context, event: CouponEvent) -> Self {
        Self { context, event, is_behind: false }
    }

    /// Reports what was seen.
    pub(crate) async fn report(
        &mut self,
        wanted: &Wanted,
        seen: &Seen,
        progress: &Progress,
    ) -> Result<(), ReconcileError> {
        let old = self.event.status.clone().unwrap_or_default();
        let new = status::report(&old, wanted, seen, progress, &self.context.remarks, now());
        self.context.metrics.reported(wanted.name.as_str(), &new);
        self.write(&old, new).await
    }

    /// Reports how far a long step is. That the event was changed meanwhile must not end the step.
    pub(crate) async fn report_progress(&mut self, wanted: &Wanted, seen: &Seen, how_far: String) {
        tracing::info!(event = %wanted.name, "{how_far}");
        let reported = match self.report(wanted, seen, &Progress::Working(how_far)).await {
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
        let read = self.context.events.get(&self.event.name_any()).await;
        self.event = read.map_err(|error| ReconcileError::kubernetes("reading the event", error))?;
        Ok(())
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
        let written = self.context.events.patch_status(&name, &params, &Patch::Apply(body)).await;
        self.event = written.map_err(|error| ReconcileError::kubernetes("writing the status", error))?;
        self.context.memory.wrote(&key);
        notices::publish(&self.context.recorder, &self.event, &notices::between(old, &new)).await;
        Ok(())
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
