//! Scales the issuers ahead of an event, before its load arrives.
//!
//! The operator owns the `HorizontalPodAutoscaler` of the issuers' Deployment. Kubernetes scales by load; the operator
//! sets the minimum: `--issuer-min-replicas`, or what an event requires around its time
//! ([ADR 0011](../../../docs/adr/0011-scheduled-scaling.md)).
//!
//! [`min_replicas`] computes the minimum, [`autoscaler`] applies it, [`readiness`] reports the result; [`scaler`] runs
//! them.

mod autoscaler;
mod min_replicas;
pub(crate) mod readiness;
pub(crate) mod scaler;
