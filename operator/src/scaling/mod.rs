//! Has as many issuers ready as the events ask for, before their crowds come.
//!
//! The operator alone makes and changes the `HorizontalPodAutoscaler` of the issuers' Deployment. What load asks for is decided by
//! Kubernetes; the operator decides how many there are at least: as many as `--issuer-min-replicas`, or as an event asks for
//! around its time. Why: [ADR 0011](../../../docs/adr/0011-scheduled-scaling.md).
//!
//! [`floor`] says how many from when on, [`autoscaler`] writes it down, [`readiness`] says what came of it.

mod autoscaler;
mod floor;
mod readiness;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::{Args, CommandFactory as _, error::ErrorKind};
use couponry_crds::{CouponEvent, status::reason};
use k8s_openapi::{api::autoscaling::v2::HorizontalPodAutoscaler, jiff::Timestamp};
use kube::{Api, Client, core::DeserializeGuard, runtime::reflector::Store};

pub(crate) use self::readiness::Scaled;
use self::{
    autoscaler::Autoscaler,
    floor::{Demand, Limits, Phase},
    readiness::Issuers,
};
use crate::{config::Config, metrics::Metrics};

/// How often the issuers are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same while an event waits for them. Also how often such an event is looked at.
const WAITING: Duration = Duration::from_secs(2);
/// How long until it is tried again to delete an autoscaler that nobody wants any more.
const RETRY: Duration = Duration::from_secs(30);
/// Nothing is expected to happen.
const NEVER: Duration = Duration::MAX;

/// Which issuers there are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Scaling the issuers")]
#[expect(clippy::struct_field_names, reason = "the fields name the flags")]
pub(crate) struct ScalingArgs {
    /// The Deployment of the issuers. The operator makes and owns its `HorizontalPodAutoscaler`, of the same name, so that events can
    /// ask for issuers ahead of time (spec.scaling). Without it the operator scales nothing, and deletes the one that it made before.
    #[arg(long, env, value_name = "NAME")]
    issuer_deployment: Option<String>,
    /// How many issuers there are at least, when no event asks for more.
    #[arg(long, env, default_value_t = 2, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    issuer_min_replicas: u32,
    /// How many issuers there are at most, also when an event asks for more.
    #[arg(long, env, default_value_t = 10, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    issuer_max_replicas: u32,
    /// How busy the issuers may be, in percent of the CPU that they request, before there are more of them.
    #[arg(long, env, default_value_t = 70, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    issuer_target_cpu_percent: u32,
}

impl ScalingArgs {
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let (min, max) = (self.issuer_min_replicas, self.issuer_max_replicas);
        if min > max {
            let message = format!("--issuer-min-replicas {min} is more than --issuer-max-replicas {max}");
            return Err(Config::command().error(ErrorKind::ValueValidation, message));
        }
        Ok(())
    }

    pub(crate) fn watch(&self, client: &Client, namespace: &str) -> Scaling {
        let limits = Limits { min: self.issuer_min_replicas, max: self.issuer_max_replicas };
        let autoscaler = self.issuer_deployment.as_ref().map(|deployment| {
            Autoscaler::new(client, namespace, deployment, limits.max, self.issuer_target_cpu_percent)
        });
        let autoscalers = Api::namespaced(client.clone(), namespace);
        Scaling { limits, autoscaler, autoscalers, issuers: Mutex::default() }
    }
}

/// The issuers, and what is known of them.
pub(crate) struct Scaling {
    limits: Limits,
    autoscaler: Option<Autoscaler>,
    /// Among them may be one that is left from when there was a Deployment to scale.
    autoscalers: Api<HorizontalPodAutoscaler>,
    issuers: Mutex<Issuers>,
}

/// What an event hears of the issuers that it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It asks for none.
    Nothing,
    /// Nobody knows yet.
    Unknown,
    /// This.
    Known(Scaled),
}

impl Scaling {
    /// What to report to the event.
    pub(crate) fn of(&self, event: &CouponEvent) -> Asked {
        let Some(demand) = Demand::of(event) else { return Asked::Nothing };
        if self.autoscaler.is_none() {
            let message = "This operator scales no issuers: start it with --issuer-deployment".to_owned();
            return Asked::Known(Scaled { holds: false, reason: reason::SCALING_OFF, message });
        }
        let issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        readiness::scaled(&demand, self.limits, &issuers, now()).map_or(Asked::Unknown, Asked::Known)
    }

    /// When there will be something new to report to the event.
    pub(crate) fn next_look(&self, event: &CouponEvent) -> Duration {
        let Some(demand) = Demand::of(event).filter(|_| self.autoscaler.is_some()) else { return NEVER };
        let turn = until(demand.next_turn(now()));
        let waits = match self.of(event) {
            Asked::Unknown => true,
            Asked::Known(Scaled { holds, .. }) => !holds && demand.phase(now()) == Phase::Now,
            Asked::Nothing => false,
        };
        if waits { turn.min(WAITING) } else { turn }
    }

    /// Keeps the least number of issuers as the events ask for, until it is dropped. Without a Deployment it only deletes what is left of a time with one.
    pub(crate) async fn run(&self, events: Store<DeserializeGuard<CouponEvent>>, metrics: &Metrics) {
        let Some(autoscaler) = &self.autoscaler else {
            while let Err(why) = autoscaler::remove_leftovers(&self.autoscalers).await {
                tracing::warn!("scaling is off: {why}");
                tokio::time::sleep(RETRY).await;
            }
            return std::future::pending().await;
        };
        if events.wait_until_ready().await.is_err() {
            // The watch has ended, and with it the operator.
            return std::future::pending().await;
        }
        let mut last = None;
        loop {
            let demands = demands(&events.state());
            let floor = floor::floor(self.limits, &demands, now());
            let issuers = autoscaler.settle(floor).await.unwrap_or_else(Issuers::Failed);
            metrics.issuers_floor.set(floor.into());
            if let Issuers::Seen { ready, .. } = issuers {
                metrics.issuers_ready.set(ready.into());
            }
            if last.as_ref() != Some(&(floor, issuers.clone())) {
                match &issuers {
                    Issuers::Failed(why) => tracing::warn!(floor, "the issuers: {why}"),
                    seen => tracing::info!(floor, ?seen, "the issuers"),
                }
            }
            let are_missing = !matches!(issuers, Issuers::Seen { ready, .. } if ready >= floor);
            self.issuers.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&issuers);
            last = Some((floor, issuers));
            let turn = demands.iter().filter_map(|demand| demand.next_turn(now())).min();
            let pause = until(turn).min(if are_missing { WAITING } else { INTERVAL });
            tokio::time::sleep(pause).await;
        }
    }
}

fn demands(events: &[Arc<DeserializeGuard<CouponEvent>>]) -> Vec<Demand> {
    events.iter().filter_map(|guard| guard.0.as_ref().ok()).filter_map(Demand::of).collect()
}

/// A millisecond late, so that the clock has passed it.
fn until(turn: Option<i64>) -> Duration {
    let wait = turn.and_then(|turn| u64::try_from(turn - now() + 1).ok());
    wait.map_or(NEVER, Duration::from_millis)
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        scaling: ScalingArgs,
    }

    #[test]
    fn limits_that_exclude_each_other_are_refused() {
        let read = |min: &str, max: &str| {
            let args = ["p", "--issuer-min-replicas", min, "--issuer-max-replicas", max];
            Program::try_parse_from(args).unwrap().scaling.check().map_err(|error| error.to_string())
        };
        assert_eq!(read("3", "3"), Ok(()));
        assert!(read("4", "3").unwrap_err().contains("--issuer-min-replicas 4 is more than --issuer-max-replicas 3"));
    }
}
