//! Flags, and the loop that keeps the minimum number of issuers.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use couponry_crds::{
    CouponEvent,
    status::{condition, reason},
};
use k8s_openapi::{api::autoscaling::v2::HorizontalPodAutoscaler, jiff::Timestamp};
use kube::{Api, Client, core::DeserializeGuard, runtime::reflector::Store};

use crate::{
    metrics::Metrics,
    scaling::{
        autoscaler::{self, Autoscaler},
        min_replicas::{Demand, Limits, Phase, min_replicas},
        readiness::{self, Issuers, ScaledCondition, ScalingReport},
    },
};

const INTERVAL: Duration = Duration::from_secs(5);
/// While issuers are missing.
const SCALE_UP_INTERVAL: Duration = Duration::from_secs(2);
/// Between attempts to delete the autoscaler of an earlier configuration.
const REMOVAL_RETRY: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::MAX;

#[derive(Debug, Args)]
#[command(next_help_heading = "Scaling of the issuers")]
#[expect(clippy::struct_field_names, reason = "the fields name the flags")]
pub(crate) struct ScalingArgs {
    /// Deployment of the issuers. The operator creates and owns its `HorizontalPodAutoscaler`, of the same name, so
    /// that events can require issuers ahead of time (spec.scaling). Default: the operator does not scale, and deletes
    /// the autoscaler that it created.
    #[arg(long, env, value_name = "NAME")]
    issuer_deployment: Option<String>,
    /// Minimum number of issuers when no event requires more.
    #[arg(long, env, default_value_t = 2, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    issuer_min_replicas: u32,
    /// Maximum number of issuers, even if an event requires more.
    #[arg(long, env, default_value_t = 10, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    issuer_max_replicas: u32,
    /// Target CPU utilization of the issuers, in percent of their CPU request.
    #[arg(long, env, default_value_t = 70, value_name = "PERCENT",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    issuer_target_cpu_percent: u32,
}

impl ScalingArgs {
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (min, max) = (self.issuer_min_replicas, self.issuer_max_replicas);
        if min > max {
            return Err(format!("--issuer-min-replicas {min} exceeds --issuer-max-replicas {max}"));
        }
        Ok(())
    }

    pub(crate) fn scaler(&self, client: &Client, namespace: &str) -> Scaler {
        let limits = Limits { min: self.issuer_min_replicas, max: self.issuer_max_replicas };
        let autoscaler = self.issuer_deployment.as_ref().map(|deployment| {
            Autoscaler::new(client, namespace, deployment, limits.max, self.issuer_target_cpu_percent)
        });
        let autoscalers = Api::namespaced(client.clone(), namespace);
        Scaler { limits, autoscaler, autoscalers, issuers: Mutex::default() }
    }
}

/// Scales the issuers, and keeps their last observed state.
pub(crate) struct Scaler {
    limits: Limits,
    /// None: scaling is off.
    autoscaler: Option<Autoscaler>,
    /// All autoscalers of the namespace, one of which may be left from an earlier configuration.
    autoscalers: Api<HorizontalPodAutoscaler>,
    issuers: Mutex<Issuers>,
}

impl Scaler {
    /// What the status of the event reports.
    pub(crate) fn report(&self, event: &CouponEvent) -> ScalingReport {
        let Some(demand) = Demand::of(event) else { return ScalingReport::NotRequested };
        if self.autoscaler.is_none() {
            let message =
                "The event requires issuers, but scaling is disabled. Start the operator with --issuer-deployment."
                    .to_owned();
            return ScalingReport::Known(ScaledCondition {
                is_scaled: false,
                reason: reason::SCALING_DISABLED,
                message,
            });
        }
        let issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        readiness::report(&demand, self.limits, &issuers, now())
    }

    /// How soon the report of the event may differ from the one in its status. `None`: not before the event changes.
    pub(crate) fn next_report(&self, event: &CouponEvent) -> Option<Duration> {
        let demand = Demand::of(event).filter(|_| self.autoscaler.is_some())?;
        let next_phase = demand.next_phase_change(now()).map(|change| until(Some(change)));
        // The issuers change without a change of the event. The status that was just written may end the demand,
        // but its `Scaled` condition was computed before that.
        if demand.phase(now()) == Phase::Active || !self.is_reported(event) {
            return Some(next_phase.map_or(SCALE_UP_INTERVAL, |next_phase| next_phase.min(SCALE_UP_INTERVAL)));
        }
        next_phase
    }

    /// Whether the status of the event has the current report.
    fn is_reported(&self, event: &CouponEvent) -> bool {
        let ScalingReport::Known(report) = self.report(event) else { return false };
        let status = event.status.as_ref();
        let reported = status.and_then(|status| status.condition(condition::SCALED));
        reported.is_some_and(|reported| reported.reason == report.reason && reported.message == report.message)
    }

    /// Keeps the minimum number of issuers that the events require, until it is dropped. When scaling is off, it only
    /// deletes the autoscaler of an earlier configuration.
    pub(crate) async fn run(&self, events: Store<DeserializeGuard<CouponEvent>>, metrics: &Metrics) {
        let Some(autoscaler) = &self.autoscaler else {
            while let Err(error) = autoscaler::delete_obsolete(&self.autoscalers).await {
                tracing::warn!(error, "cannot delete the obsolete HorizontalPodAutoscaler, retrying");
                tokio::time::sleep(REMOVAL_RETRY).await;
            }
            return std::future::pending().await;
        };
        if events.wait_until_ready().await.is_err() {
            // The watch has ended, which ends the operator.
            return std::future::pending().await;
        }
        let mut last = None;
        loop {
            let demands = demands(&events.state());
            let minimum = min_replicas(self.limits, &demands, now());
            let issuers = autoscaler.apply(minimum).await.unwrap_or_else(Issuers::Failed);
            metrics.issuer_min_replicas.set(minimum.into());
            if let Issuers::Observed { ready, .. } = issuers {
                metrics.issuers_ready.set(ready.into());
            }
            if last.as_ref() != Some(&(minimum, issuers.clone())) {
                match &issuers {
                    Issuers::Failed(error) => tracing::warn!(minimum, error, "cannot scale the issuers, retrying"),
                    observed => tracing::info!(minimum, ?observed, "issuers observed"),
                }
            }
            let are_missing = !matches!(issuers, Issuers::Observed { ready, .. } if ready >= minimum);
            self.issuers.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&issuers);
            last = Some((minimum, issuers));
            let next_phase = demands.iter().filter_map(|demand| demand.next_phase_change(now())).min();
            let pause = until(next_phase).min(if are_missing { SCALE_UP_INTERVAL } else { INTERVAL });
            tokio::time::sleep(pause).await;
        }
    }
}

fn demands(events: &[Arc<DeserializeGuard<CouponEvent>>]) -> Vec<Demand> {
    events.iter().filter_map(|guard| guard.0.as_ref().ok()).filter_map(Demand::of).collect()
}

/// One millisecond late, so that the clock has passed that time.
fn until(time: Option<i64>) -> Duration {
    let wait = time.and_then(|time| u64::try_from(time - now() + 1).ok());
    wait.map_or(NEVER, Duration::from_millis)
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}
