//! The `CouponEvent`s of a round.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use couponry_testbed::Kubernetes;
use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::{Value, json};

use crate::coupon_event::{condition, get, manifest};

/// The namespace of the second installation.
pub(super) const SECOND_NAMESPACE: &str = "second";

/// How long the API server may fail.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The events of a round.
#[derive(Debug)]
pub(super) struct Events {
    /// The event whose load lasts for the entire round.
    pub(super) main: Event,
    /// Events that a fault has created, with a load of their own.
    pub(super) created: Vec<Event>,
    /// An event that never starts, while a fault changes it.
    pub(super) scheduled: Option<Event>,
}

impl Events {
    pub(super) fn new(main: Event) -> Self {
        Self { main, created: Vec::new(), scheduled: None }
    }

    /// The events that users send requests to.
    pub(super) fn loaded(&self) -> impl Iterator<Item = &Event> {
        [&self.main].into_iter().chain(&self.created)
    }

    /// Applies this many new events at once.
    pub(super) fn create(&mut self, kubernetes: &Kubernetes, count: usize, total: u64) -> Result<()> {
        let first = self.created.len();
        let name = |number| format!("{}-{number}", self.main.name);
        let new = (first..first + count).map(|number| Event::new(name(number), total, self.main.acknowledge));
        let new: Vec<Event> = new.collect();
        let list =
            json!({"apiVersion": "v1", "kind": "List", "items": new.iter().map(Event::manifest).collect::<Vec<_>>()});
        self.created.extend(new);
        retry(|| kubernetes.kubectl_with(&["apply", "-f", "-"], &list.to_string()).map(drop))
    }

    /// Applies an event that starts in the distant future.
    pub(super) fn schedule(&mut self, kubernetes: &Kubernetes, total: u64) -> Result<()> {
        let name = format!("{}-scheduled", self.main.name);
        let event = Event::new(name, total, self.main.acknowledge).starting_at("2100-01-01T00:00:00Z".parse()?);
        self.scheduled.insert(event).apply(kubernetes)
    }
}

/// An event and its current manifest.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) total: u64,
    acknowledge: &'static str,
    is_paused: bool,
    start_time: Option<Timestamp>,
    /// How long its coupons are valid after they were issued.
    validity: Option<&'static str>,
    release: Option<Release>,
}

/// How the coupons of an event are released.
#[derive(Debug)]
struct Release {
    ramp_seconds: u64,
    drops: Vec<(Timestamp, u64)>,
}

impl Event {
    pub(super) fn new(name: String, total: u64, acknowledge: &'static str) -> Self {
        Self { name, total, acknowledge, is_paused: false, start_time: None, validity: None, release: None }
    }

    /// Admits users over a minute from now on, and releases three fifths of the coupons meanwhile.
    pub(super) fn released_over_time(self) -> Self {
        let start: Timestamp = Timestamp::now().round(Unit::Second).expect("a time in range");
        let drops = [30, 45, 75].map(|seconds| (start + SignedDuration::from_secs(seconds), self.total / 5));
        Self { release: Some(Release { ramp_seconds: 60, drops: drops.to_vec() }), ..self.starting_at(start) }
    }

    /// The release, as arguments of `loadgen check`.
    pub(super) fn release_args(&self) -> Vec<String> {
        let Some(Release { ramp_seconds, drops }) = &self.release else { return Vec::new() };
        let drops: Vec<_> = drops.iter().map(|(at, count)| format!("{}:{count},", at.as_millisecond())).collect();
        vec!["--ramp-seconds".to_owned(), ramp_seconds.to_string(), "--drops".to_owned(), drops.concat()]
    }

    pub(super) fn valid_for(self, validity: Option<&'static str>) -> Self {
        Self { validity, ..self }
    }

    pub(super) fn starting_at(self, start_time: Timestamp) -> Self {
        Self { start_time: Some(start_time), ..self }
    }

    fn manifest(&self) -> Value {
        let mut manifest = manifest(&self.name, "Chaos", self.total, self.acknowledge);
        manifest["spec"]["issuance"] = json!(if self.is_paused { "Paused" } else { "Auto" });
        if let Some(duration) = self.validity {
            manifest["spec"]["validity"] = json!({"duration": duration});
        }
        if let Some(start_time) = self.start_time {
            manifest["spec"]["startTime"] = json!(format!("{start_time:.0}"));
        }
        if let Some(Release { ramp_seconds, drops }) = &self.release {
            manifest["spec"]["admission"] = json!({"rampSeconds": ramp_seconds});
            let drops = drops.iter().map(|(at, count)| json!({"at": format!("{at:.0}"), "count": count}));
            manifest["spec"]["drops"] = drops.collect();
        }
        manifest
    }

    pub(super) fn apply(&self, kubernetes: &Kubernetes) -> Result<()> {
        retry(|| kubernetes.kubectl_with(&["apply", "-f", "-"], &self.manifest().to_string()).map(drop))
    }

    /// Applies a closed event of the same name to the second namespace.
    pub(super) fn apply_to_second_namespace(&self, kubernetes: &Kubernetes) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SECOND_NAMESPACE}});
        let mut event = self.manifest();
        event["metadata"]["namespace"] = json!(SECOND_NAMESPACE);
        event["spec"]["issuance"] = json!("Closed");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [namespace, event]});
        retry(|| kubernetes.kubectl_with(&["apply", "-f", "-"], &list.to_string()).map(drop))
    }

    /// Deletes the event from the second namespace. Fails if an operator has reconciled it.
    pub(super) fn delete_from_second_namespace(&self, kubernetes: &Kubernetes) -> Result<()> {
        let in_namespace = ["couponevent", &self.name, "--namespace", SECOND_NAMESPACE];
        let status =
            retry(|| kubernetes.kubectl(&[&["get"], &in_namespace[..], &["-o", "jsonpath={.status}"]].concat()))?;
        ensure!(status.is_empty(), "the operator of the second installation has reconciled {}: {status}", self.name);
        retry(|| kubernetes.kubectl(&[&["delete"], &in_namespace[..], &["--wait=false"]].concat()).map(drop))
    }

    /// Adds a tenth of the coupons.
    pub(super) fn top_up(&mut self, kubernetes: &Kubernetes) -> Result<()> {
        self.total += self.total / 10 + 1;
        self.apply(kubernetes)
    }

    /// Removes half of the coupons. The operator discards the stock and generates a new one.
    pub(super) fn shrink(&mut self, kubernetes: &Kubernetes) -> Result<()> {
        self.total /= 2;
        self.apply(kubernetes)
    }

    /// Pauses or resumes the event.
    pub(super) fn pause(&mut self, kubernetes: &Kubernetes, is_paused: bool) -> Result<()> {
        self.is_paused = is_paused;
        self.apply(kubernetes)
    }

    /// Whether the manifest is loaded, and the event is scheduled, open or sold out.
    pub(super) fn is_ready(&self, kubernetes: &Kubernetes) -> Result<bool> {
        let event = retry(|| get(kubernetes, &self.name))?;
        let is_current = event.pointer("/status/observedGeneration") == event.pointer("/metadata/generation");
        let is_open = condition(&event, "Open").is_some_and(|c| c["status"] == "True");
        let sold_out = event.pointer("/status/soldOutAt").is_some();
        let is_loaded = is_current && event.pointer("/status/loaded") == Some(&json!(self.total));
        Ok(is_loaded && (self.start_time.is_some() || is_open || sold_out))
    }

    pub(super) fn delete(self, kubernetes: &Kubernetes) -> Result<()> {
        let delete = ["delete", "couponevent", &self.name, "--wait=false", "--ignore-not-found"];
        retry(|| kubernetes.kubectl(&delete).map(drop))
    }
}

/// Repeats an idempotent command: on a busy machine, etcd may take longer than its timeout.
pub(super) fn retry<T>(command: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + RETRY_TIMEOUT;
    loop {
        match command() {
            Err(_) if Instant::now() < deadline => thread::sleep(RETRY_PAUSE),
            result => return result,
        }
    }
}
