//! The `CouponEvent` of a round.

use anyhow::Result;
use couponry_testbed::Kubernetes;
use serde_json::json;

use crate::coupon_event::{condition, get, manifest};

/// An event and its current manifest.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) total: u64,
    acknowledge: &'static str,
    is_paused: bool,
}

impl Event {
    pub(super) fn new(name: String, total: u64, acknowledge: &'static str) -> Self {
        Self { name, total, acknowledge, is_paused: false }
    }

    pub(super) fn apply(&self, kubernetes: &Kubernetes) -> Result<()> {
        let mut manifest = manifest(&self.name, "Chaos", self.total, self.acknowledge);
        manifest["spec"]["issuance"] = json!(if self.is_paused { "Paused" } else { "Auto" });
        kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest.to_string()).map(drop)
    }

    /// Adds a tenth of the coupons.
    pub(super) fn top_up(&mut self, kubernetes: &Kubernetes) -> Result<()> {
        self.total += self.total / 10 + 1;
        self.apply(kubernetes)
    }

    /// Pauses or resumes the event.
    pub(super) fn pause(&mut self, kubernetes: &Kubernetes, is_paused: bool) -> Result<()> {
        self.is_paused = is_paused;
        self.apply(kubernetes)
    }

    /// Whether the manifest is loaded, and the event is open or sold out.
    pub(super) fn is_open(&self, kubernetes: &Kubernetes) -> Result<bool> {
        let event = get(kubernetes, &self.name)?;
        let is_current = event.pointer("/status/observedGeneration") == event.pointer("/metadata/generation");
        let holds = |kind: &str| condition(&event, kind).is_some_and(|c| c["status"] == "True");
        let sold_out = event.pointer("/status/soldOutAt").is_some();
        Ok(is_current && event.pointer("/status/loaded") == Some(&json!(self.total)) && (holds("Open") || sold_out))
    }

    pub(super) fn delete(self, kubernetes: &Kubernetes) -> Result<()> {
        kubernetes.kubectl(&["delete", "couponevent", &self.name, "--wait=false"]).map(drop)
    }
}
