//! What the indicators of an installation say: conditions, probes and metrics of the programs, `check` and `audit`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use couponry_testbed::http;
use couponry_testbed::process::{Launch, Process};
use serde_json::Value;

use super::event::Event;
use super::installation::{Installation, Instance};
use crate::cargo;
use crate::coupon_event;
use crate::programs::OPERATOR;

/// Timeout of `check` and `audit`, which wait for servers that do not respond.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);

/// How a metric reports a fault.
#[derive(Debug, Clone, Copy)]
enum Sign {
    Increases,
    AtLeast(f64),
    Zero,
}

/// The metrics that report faults: the beginning of each series without `couponry_`, and the alert that fires if the
/// fault lasts, if there is one.
const METRICS: [(&str, Sign, &str); 20] = [
    ("issuer_requests_total{outcome=\"unknown_outcome\"", Sign::Increases, "CouponryHighErrorRate"),
    ("issuer_requests_total{outcome=\"unverified\"", Sign::Increases, "CouponryHighErrorRate"),
    ("issuer_requests_total{outcome=\"overloaded\"", Sign::Increases, "CouponryHighErrorRate"),
    ("issuer_requests_total{outcome=\"undecodable\"", Sign::Increases, "CouponryHighErrorRate"),
    ("issuer_requests_total{outcome=\"unknown_event\"", Sign::Increases, ""),
    ("issuer_dependency_available", Sign::Zero, "CouponryDependencyUnavailable"),
    ("consumer_dependency_available", Sign::Zero, "CouponryDependencyUnavailable"),
    ("redeemer_dependency_available", Sign::Zero, "CouponryDependencyUnavailable"),
    ("redeemer_oldest_unsent_use_age_seconds", Sign::AtLeast(10.0), "CouponryUsesUnsent"),
    ("issuer_records_unconfirmed_total", Sign::Increases, "CouponryKafkaDeliveryFailing"),
    ("consumer_dead_letters_total", Sign::Increases, "CouponryDeadLetters"),
    ("consumer_deferred_records", Sign::AtLeast(1.0), "CouponryDeferredRecords"),
    ("consumer_foreign_records_total", Sign::Increases, "CouponryForeignRecords"),
    ("consumer_lag", Sign::AtLeast(50.0), "CouponryConsumerLag"),
    ("operator_reconcile_total{result=\"error\"", Sign::Increases, "CouponryReconcileErrors"),
    ("operator_reconcile_total{result=\"blocked\"", Sign::Increases, ""),
    ("operator_oldest_unrecorded_seconds", Sign::AtLeast(10.0), "CouponryRecordingStalled"),
    ("operator_balance_mismatch", Sign::AtLeast(1.0), "CouponryInventoryMismatch"),
    ("operator_issuances_resent_total", Sign::Increases, ""),
    ("operator_issuances_recorded_again_total", Sign::Increases, ""),
];

/// The end of the text about a program that does not respond.
const NO_RESPONSE: &str = ": no response";
/// The alert about a program that does not respond.
const TARGET_DOWN: &str = "CouponryTargetDown";
/// The alert about the condition `Stalled`.
const STALLED: &str = "CouponryEventStalled";

/// Status and reason of each condition.
pub(super) type Conditions = BTreeMap<String, (String, String)>;

/// The values of all series, by program.
type Series = BTreeMap<String, BTreeMap<String, f64>>;

/// The state of all indicators at one time, except `check` and `audit`.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) conditions: Conditions,
    /// Kinds of programs of which one is not ready or does not respond.
    probes: BTreeSet<String>,
    series: Series,
}

impl Snapshot {
    pub(super) fn read(installation: &Installation, event: &Event) -> Result<Self> {
        let mut snapshot = Self { conditions: conditions(installation, event)?, ..Self::default() };
        for instance in installation.instances() {
            snapshot.read_program(instance);
        }
        Ok(snapshot)
    }

    fn read_program(&mut self, instance: &Instance) {
        let (name, port) = (&instance.node.name, instance.node.monitor);
        let kind = name.split(' ').next().unwrap_or(name);
        match http::get(port, "/readyz") {
            None => {
                self.probes.insert(format!("{kind}{NO_RESPONSE}"));
                return;
            }
            Some((200, _)) => {}
            Some(_) => {
                self.probes.insert(format!("{kind}: not ready"));
            }
        }
        let Some((200, metrics)) = http::get(port, "/metrics") else { return };
        let parsed = metrics.lines().filter_map(|line| {
            let (series, value) = line.strip_prefix("couponry_")?.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        self.series.insert(name.clone(), parsed.collect());
    }

    /// Conditions that differ from an earlier snapshot, and from what is normal during an event.
    pub(super) fn changed_conditions(&self, before: &Self) -> BTreeSet<String> {
        let is_normal =
            |reason: &str| ["AllRecorded", "Recording", "NothingIssued", "ToppingUp", "Preloading"].contains(&reason);
        let changed = self.conditions.iter().filter(|(type_, value)| before.conditions.get(*type_) != Some(value));
        changed
            .filter(|(_, (_, reason))| !is_normal(reason))
            .map(|(type_, (status, reason))| format!("{type_}={status} ({reason})"))
            .collect()
    }

    pub(super) fn probes(&self) -> &BTreeSet<String> {
        &self.probes
    }

    /// Metrics that report a fault since an earlier snapshot.
    pub(super) fn reporting_metrics(&self, before: &Self) -> BTreeSet<String> {
        let mut reporting = BTreeSet::new();
        for (program, series) in &self.series {
            for (name, value) in series {
                let old = before.series.get(program).and_then(|series| series.get(name)).copied().unwrap_or(0.0);
                let signs = METRICS.iter().filter(|(prefix, ..)| name.starts_with(prefix));
                let is_reporting = signs.map(|(_, sign, _)| *sign).any(|sign| match sign {
                    // A restarted program counts from 0.
                    Sign::Increases => *value > if *value < old { 0.0 } else { old },
                    Sign::AtLeast(bound) => *value >= bound,
                    Sign::Zero => *value == 0.0,
                });
                if is_reporting {
                    // The name of the event is of no interest.
                    reporting.insert(name.split("{event=").next().unwrap_or(name).to_owned());
                }
            }
        }
        reporting
    }
}

/// The alerts that fire if what these conditions, probes and metrics report lasts.
pub(super) fn alerts(
    conditions: &BTreeSet<String>,
    probes: &BTreeSet<String>,
    metrics: &BTreeSet<String>,
) -> BTreeSet<String> {
    let of_metrics = metrics
        .iter()
        .filter_map(|metric| METRICS.iter().find(|(prefix, ..)| metric.starts_with(prefix)).map(|(.., alert)| *alert));
    let is_down = probes.iter().any(|probe| probe.ends_with(NO_RESPONSE));
    let is_stalled = conditions.iter().any(|condition| condition.starts_with("Stalled=True"));
    let others = [(is_down, TARGET_DOWN), (is_stalled, STALLED)];
    let others = others.into_iter().filter_map(|(fires, alert)| fires.then_some(alert));
    of_metrics.chain(others).filter(|alert| !alert.is_empty()).map(str::to_owned).collect()
}

fn conditions(installation: &Installation, event: &Event) -> Result<Conditions> {
    let event = super::event::retry(|| coupon_event::get(&installation.servers.kubernetes, &event.name))?;
    let conditions = event.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Ok(conditions.iter().map(|c| (text(c, "type"), (text(c, "status"), text(c, "reason")))).collect())
}

/// What `check` and `audit` report.
#[derive(Debug, Default)]
pub(super) struct CommandResults {
    /// The rows of `check` with WARN or FAIL.
    pub(super) check: BTreeSet<String>,
    /// The first word of the result of `audit`, or `error`.
    pub(super) audit: &'static str,
}

/// Runs `check` and `audit` at the same time, with the connections of the operators.
pub(super) fn run_commands(installation: &mut Installation, event: &Event) -> Result<CommandResults> {
    let check = command(installation, &["check", "--namespace", "default"])?;
    let audit = command(installation, &["audit", &event.name, "--namespace", "default", "--wait-seconds", "0"])?;
    installation.supervise(COMMAND_TIMEOUT, |_| Ok(check.exited()?.is_some() && audit.exited()?.is_some()))?;
    let problem = |line: &str| {
        let (severity, rest) = line.split_once(' ')?;
        let about = rest.trim().split("  ").next()?;
        // The name of the event differs between runs.
        let about = if about.starts_with("event ") { "event" } else { about };
        ["WARN", "FAIL"].contains(&severity).then(|| format!("{severity} {about}"))
    };
    let log = audit.log_since_start();
    let verdicts = ["OK", "DIFFERS", "UNCERTAIN", "DELAYED"];
    let verdict = verdicts.into_iter().find(|verdict| log.lines().any(|line| line.starts_with(verdict)));
    let mut results = CommandResults {
        check: check.log_since_start().lines().filter_map(problem).collect(),
        audit: verdict.unwrap_or("error"),
    };
    if check.exited()?.is_none() {
        results.check.insert("no result within a minute".to_owned());
    }
    Ok(results)
}

fn command(installation: &Installation, args: &[&str]) -> Result<Process> {
    let log = installation.dir.join(format!("{}.log", args[0]));
    if log.exists() {
        fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))?;
    }
    let servers = installation.addresses(OPERATOR);
    let launch = Launch::new(args[0], cargo::built("debug")?.join(OPERATOR), log)
        .clean_env()
        .args(args.iter().copied())
        .args(["--redis-url", &servers.redis, "--postgres-url", &servers.postgres, "--kafka-brokers", &servers.kafka])
        .args(installation.redis_args().iter().copied())
        .env("KUBECONFIG", &servers.kubeconfig);
    Process::start(launch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_of_the_table_exist() {
        let rule = cargo::root().join("charts/couponry/templates/monitoring/prometheusrule.yaml");
        let rule = fs::read_to_string(rule).unwrap();
        for alert in METRICS.iter().map(|(.., alert)| *alert).chain([TARGET_DOWN, STALLED]) {
            assert!(alert.is_empty() || rule.contains(&format!("- alert: {alert}\n")), "{alert} does not exist");
        }
    }
}
