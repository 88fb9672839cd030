//! The `CouponEvent` of a round.

use anyhow::Result;
use couponry_testbed::Kubernetes;
use serde_json::json;

use crate::coupon_event::{condition, get, manifest};

/// An event, and what its manifest says now.
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

    /// Applies its manifest.
    pub(super) fn write(&self, kubernetes: &Kubernetes) -> Result<()> {
        let mut manifest = manifest(&self.name, "Chaos", self.total, self.acknowledge);
        manifest["spec"]["issuance"] = json!(if self.is_paused { "Paused" } else { "Auto" });
        kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest.to_string()).map(drop)
    }

    /// A tenth more coupons.
    pub(super) fn top_up(&mut self, kubernetes: &Kubernetes) -> Result<()> {
        self.total += self.total / 10 + 1;
        self.write(kubernetes)
    }

    /// Holds it, or lets it go on.
    pub(super) fn pause(&mut self, kubernetes: &Kubernetes, is_paused: bool) -> Result<()> {
        self.is_paused = is_paused;
        self.write(kubernetes)
    }

    /// Whether it is loaded as its manifest says, and users get coupons, or did until none was left.
    pub(super) fn is_open(&self, kubernetes: &Kubernetes) -> Result<bool> {
        let event = get(kubernetes, &self.name)?;
        let is_current = event.pointer("/status/observedGeneration") == event.pointer("/metadata/generation");
        let holds = |kind: &str| condition(&event, kind).is_some_and(|c| c["status"] == "True");
        let sold_out = event.pointer("/status/soldOutAt").is_some();
        Ok(is_current && event.pointer("/status/loaded") == Some(&json!(self.total)) && (holds("Open") || sold_out))
    }

    /// Takes it away: what it was is proven.
    pub(super) fn delete(self, kubernetes: &Kubernetes) -> Result<()> {
        kubernetes.kubectl(&["delete", "couponevent", &self.name, "--wait=false"]).map(drop)
    }
}
