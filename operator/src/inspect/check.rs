//! `couponry-operator check`.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use clap::Args;
use couponry_audit::Stores;
use couponry_crds::{
    CouponEvent,
    status::{condition, reason},
};
use couponry_kafka::{JournalError, KafkaSettings, Lag, TopicSettings};
use couponry_runtime::telemetry::Telemetry;
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};
use serde::Serialize;

use super::{
    Output, StoreArgs,
    definition::{Drift, drift},
    pods,
    words::grouped,
};
use crate::{
    config::TopicArgs,
    durability::{Promise, judge},
};

/// How long a server may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Consumers that work have recorded something after this time.
const PROGRESS: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// How to say it.
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORM")]
    output: Output,
    /// The namespace of the events. Without it: that of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The pod that this runs in: then all pods of its release are looked at.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod: Option<String>,
    #[command(flatten)]
    stores: StoreArgs,
    #[command(flatten)]
    pub(crate) topics: TopicArgs,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

/// How it is with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Level {
    Ok,
    Warn,
    Fail,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    level: Level,
    about: String,
    found: String,
    /// What to do about it; empty when nothing is to be done.
    advice: String,
}

impl Finding {
    pub(super) fn new(
        level: Level,
        about: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level, about: about.into(), found: found.into(), advice: advice.into() }
    }

    pub(super) fn ok(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, about, found, "")
    }
}

impl Check {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let stores = self.stores.stores()?;
        let topics = self.topics.settings();
        // Each waits for another server.
        let (postgres, redis, kafka, kubernetes) =
            tokio::join!(postgres(&stores), redis(&stores), kafka(&stores, &topics), self.kubernetes());
        let findings = [postgres, redis, kafka, kubernetes].concat();
        match self.output {
            Output::Text => print!("{}", text(&findings)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        }
        let worst = findings.iter().map(|finding| finding.level).max();
        Ok(if worst == Some(Level::Fail) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn kubernetes(&self) -> Vec<Finding> {
        const WHAT: &str = "Kubernetes";
        let (events, namespace) = match super::cluster(self.namespace.as_deref()).await {
            Ok(found) => found,
            Err(error) => return vec![Finding::new(Level::Fail, WHAT, format!("{error:#}"), "")],
        };
        let mut findings = vec![definition(&events).await];
        if let Some(pod) = &self.pod {
            findings.extend(pods::look(events.clone().into_client(), &namespace, pod).await);
        }
        let events: Api<DeserializeGuard<CouponEvent>> = Api::namespaced(events.into_client(), &namespace);
        match tokio::time::timeout(PATIENCE, events.list(&ListParams::default())).await {
            Ok(Ok(events)) => {
                let stories = events.iter().flat_map(|DeserializeGuard(read)| match read {
                    Ok(event) => story(event),
                    Err(invalid) => vec![unreadable(invalid)],
                });
                let before = findings.len();
                findings.extend(stories);
                if findings.len() == before {
                    let count = events.items.len();
                    findings
                        .push(Finding::ok("events", format!("{count} in {namespace}, nothing stands in their way")));
                }
            }
            Ok(Err(error)) => findings.push(Finding::new(Level::Fail, "events", error.to_string(), "")),
            Err(_) => findings.push(Finding::new(Level::Fail, "events", "no answer in time", "")),
        }
        findings
    }
}

async fn postgres(stores: &Stores) -> Vec<Finding> {
    const WHAT: &str = "Postgres";
    const TABLES: &str = "tables";
    let version = match stores.database.schema_version().await {
        Ok(version) => version,
        Err(error) => {
            let advice = "look at --postgres-url, its password and its certificate, and whether Postgres runs";
            return vec![Finding::new(Level::Fail, WHAT, error.to_string(), advice)];
        }
    };
    let couponry_postgres::SchemaVersion { applied, known, missing } = version;
    let tables = if missing > 0 {
        let found = format!("version {applied}; this operator needs {known}");
        Finding::new(Level::Fail, TABLES, found, "start the operator anew, or run `couponry-operator migrate`")
    } else if applied > known {
        let found = format!("version {applied}; this operator knows {known}");
        Finding::new(Level::Ok, TABLES, found, "a later version was here, which is fine")
    } else {
        Finding::ok(TABLES, format!("version {applied}, as this operator wants them"))
    };
    vec![Finding::ok(WHAT, "answers"), tables]
}

async fn redis(stores: &Stores) -> Vec<Finding> {
    const WHAT: &str = "Redis";
    const SETTINGS: &str = "durability";
    if let Err(error) = stores.stock.ping().await {
        let advice = "look at --redis-url, its user, password and certificate, and whether Redis runs";
        return vec![Finding::new(Level::Fail, WHAT, error.to_string(), advice)];
    }
    let settings = match stores.stock.durability().await {
        Ok(found) => {
            let Promise { status, message, .. } = judge(&found);
            match status {
                "True" => Finding::ok(SETTINGS, message),
                _ => Finding::new(Level::Warn, SETTINGS, "a crash of Redis may lose what users were told", message),
            }
        }
        Err(error) => Finding::new(Level::Fail, SETTINGS, error.to_string(), ""),
    };
    vec![Finding::ok(WHAT, "answers"), settings]
}

async fn kafka(stores: &Stores, wanted: &TopicSettings) -> Vec<Finding> {
    const WHAT: &str = "Kafka";
    let (differing, missing) = match couponry_kafka::topics::inspect(&stores.kafka, wanted).await {
        Ok(found) => found,
        Err(error) => {
            let advice = "look at --kafka-brokers, the protocol and login, and whether the brokers run";
            return vec![Finding::new(Level::Fail, WHAT, error.to_string(), advice)];
        }
    };
    let mut findings = vec![Finding::ok(WHAT, "answers")];
    for topic in &missing {
        let advice = "the operator makes it when it starts; look at its log";
        findings.push(Finding::new(Level::Fail, "topics", format!("there is no topic {topic}"), advice));
    }
    for finding in &differing {
        let advice = "change the topic, or the operator's --kafka- flags; topics that exist are never changed";
        findings.push(Finding::new(Level::Warn, "topics", finding.to_string(), advice));
    }
    if findings.len() == 1 {
        let (topic, letters) = (&stores.kafka.topic, stores.kafka.dead_letter_topic());
        findings.push(Finding::ok("topics", format!("{topic} and {letters} are as they should be")));
    }
    if missing.is_empty() {
        findings.push(consumers(stores).await.unwrap_or_else(|error| unmeasured("consumers", &error)));
        findings.push(dead_letters(stores).await.unwrap_or_else(|error| unmeasured("dead letters", &error)));
    }
    findings
}

fn unmeasured(about: &str, error: &JournalError) -> Finding {
    Finding::new(Level::Fail, about, error.to_string(), "")
}

async fn consumers(stores: &Stores) -> Result<Finding, JournalError> {
    const WHAT: &str = "consumers";
    let lag = Lag::new(&stores.kafka, &stores.group)?;
    let before = lag.measure(PATIENCE).await?;
    if before == 0 {
        return Ok(Finding::ok(WHAT, "lag 0: everything on the topic is recorded"));
    }
    tokio::time::sleep(PROGRESS).await;
    let after = lag.measure(PATIENCE).await?;
    let found = format!("lag {}, {} s ago {}", grouped(after), PROGRESS.as_secs(), grouped(before));
    let advice = "look whether consumers of this group run, and at their logs";
    Ok(if after < before {
        Finding::ok(WHAT, found)
    } else {
        Finding::new(Level::Warn, WHAT, found, format!("{advice}: {}", stores.group))
    })
}

async fn dead_letters(stores: &Stores) -> Result<Finding, JournalError> {
    const WHAT: &str = "dead letters";
    let topic = stores.kafka.dead_letter_topic();
    let settings = KafkaSettings { topic: topic.clone(), ..stores.kafka.clone() };
    // A group that nobody is in has committed nothing, so it is behind by all there is.
    Ok(match Lag::new(&settings, "couponry-check")?.measure(PATIENCE).await? {
        0 => Finding::ok(WHAT, "none"),
        count => {
            let advice =
                "users were told of coupons that could not be recorded: `couponry-operator audit EVENT` names them";
            Finding::new(Level::Warn, WHAT, format!("{} on {topic}", grouped(count)), advice)
        }
    })
}

async fn definition(events: &Api<CouponEvent>) -> Finding {
    const WHAT: &str = "definition";
    let apply = format!("kubectl apply --server-side -f {}", couponry_crds::DEFINITION_FILE);
    match tokio::time::timeout(PATIENCE, drift(&events.clone().into_client())).await {
        Err(_) => Finding::new(Level::Fail, "Kubernetes", "no answer in time", ""),
        Ok(Err(error)) => Finding::new(Level::Fail, "Kubernetes", format!("{error:#}"), ""),
        Ok(Ok(None)) => Finding::new(Level::Fail, WHAT, "CouponEvent is not installed", apply),
        Ok(Ok(Some(Drift { missing, unknown }))) => match (&missing[..], &unknown[..]) {
            ([], []) => Finding::ok(WHAT, "CouponEvent v1alpha1, as this operator knows it"),
            ([], unknown) => {
                let found = format!("the cluster's CouponEvent is of a later version: it has {}", unknown.join(", "));
                Finding::new(Level::Warn, WHAT, found, "upgrade the operator")
            }
            (missing, _) => {
                let found = format!("the cluster's CouponEvent is of another version: it lacks {}", missing.join(", "));
                Finding::new(Level::Warn, WHAT, found, apply)
            }
        },
    }
}

fn unreadable(invalid: &InvalidObject) -> Finding {
    let name = invalid.metadata.name.as_deref().unwrap_or_default();
    let found = format!("the object cannot be read: {}", invalid.error);
    Finding::new(Level::Fail, format!("event {name}"), found, format!("kubectl edit ce {name}, or delete it"))
}

/// What an event says that someone should know.
fn story(event: &CouponEvent) -> Vec<Finding> {
    let name = format!("event {}", event.name_any());
    let Some(status) = &event.status else {
        let advice = "look whether the operator runs, and at its log";
        return vec![Finding::new(Level::Warn, name, "no operator has seen it", advice)];
    };
    let mut findings = Vec::new();
    for said in &status.conditions {
        let (holds, denied) = (said.status == "True", said.status == "False");
        let level = match said.type_.as_str() {
            condition::STALLED if holds && said.reason == reason::DELETING => Level::Warn,
            condition::STALLED if holds => Level::Fail,
            // Not the time for it: before the start, and after the end.
            condition::SCALED if [reason::SCALING_SCHEDULED, reason::SCALED_DOWN].contains(&said.reason.as_str()) => {
                continue;
            }
            // What Durable says is of the installation, and said there.
            condition::BALANCED | condition::SCALED if denied => Level::Warn,
            _ => continue,
        };
        findings.push(Finding::new(level, &name, format!("{} ({})", said.type_, said.reason), &said.message));
    }
    if status.observed_generation != event.metadata.generation {
        findings.push(Finding::new(
            Level::Warn,
            &name,
            "the latest change is not followed yet",
            "ask again; if it stays so, look whether the operator runs",
        ));
    }
    findings
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.about.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { level, about, found, advice } in findings {
        let level = match level {
            Level::Ok => "OK",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        writeln!(text, "{level:<4}  {about:<width$}  {found}").expect("a string takes it");
        if !advice.is_empty() {
            writeln!(text, "      {:width$}  → {advice}", "").expect("a string takes it");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_issuers_are_missing_when_it_is_not_the_time_for_them() {
        let about = |reason: &str| {
            let yaml = format!(
                "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: e}}, spec: {{policyName: p, totalCount: 1, \
                 discounts: []}}, status: {{conditions: [{{type: Scaled, status: 'False', reason: {reason}, message: m, \
                 lastTransitionTime: '2026-12-01T00:00:00Z'}}]}}}}"
            );
            let event: CouponEvent = serde_yaml::from_str(&yaml).unwrap();
            story(&event).into_iter().map(|finding| finding.found).collect::<Vec<_>>()
        };
        assert_eq!(about("ScaledDown"), Vec::<String>::new());
        assert_eq!(about("ScalingScheduled"), Vec::<String>::new());
        assert_eq!(about("QuotaExceeded"), ["Scaled (QuotaExceeded)"]);
    }
}
