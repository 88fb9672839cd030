//! `kubectl couponry status`.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use console::Term;
use couponry_crds::{
    CouponEvent,
    status::{condition, reason},
};
use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, ObjectMeta},
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};

use crate::{
    cluster::{Cluster, event_name, parsed},
    table::table,
    view,
};

const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

const HEADINGS: [&str; 8] = ["NAME", "READY", "STATE", "TOTAL", "ISSUED", "RECORDED", "AVAILABLE", "NEXT"];

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Name of the event. Default: all events.
    #[arg(value_parser = event_name)]
    name: Option<String>,
    /// Update the display until the event is deleted, or Ctrl-C. If standard output is not a terminal, print a line
    /// per change.
    #[arg(long, short, requires = "name")]
    watch: bool,
    /// List the events of all namespaces.
    #[arg(long, short = 'A', conflicts_with = "name")]
    all_namespaces: bool,
}

impl Status {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        match &self.name {
            None => list(cluster, self.all_namespaces).await?,
            Some(name) => {
                let event = cluster.event(name).await?;
                if self.watch {
                    watch(cluster, event).await?;
                } else {
                    for line in view::details(&event, Timestamp::now()) {
                        println!("{line}");
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(cluster: &Cluster, all_namespaces: bool) -> anyhow::Result<()> {
    let api = if all_namespaces { Api::all(cluster.client.clone()) } else { cluster.events() };
    let events = api.list(&ListParams::default()).await.map_err(|error| cluster.explain(error, "list"))?.items;
    if events.is_empty() {
        let scope =
            if all_namespaces { "the cluster".to_owned() } else { format!("the namespace {}", cluster.namespace) };
        eprintln!("No events found in {scope}.");
        return Ok(());
    }
    print!("{}", events_table(&events, all_namespaces, Timestamp::now()));
    Ok(())
}

fn events_table(events: &[DeserializeGuard<CouponEvent>], all_namespaces: bool, now: Timestamp) -> String {
    let mut headings = HEADINGS.to_vec();
    if all_namespaces {
        headings.insert(0, "NAMESPACE");
    }
    let rows: Vec<_> = events
        .iter()
        .map(|guard| {
            let mut row =
                guard.0.as_ref().map_or_else(|invalid| invalid_row(&invalid.metadata), |event| row(event, now));
            if all_namespaces {
                row.insert(0, guard.namespace().unwrap_or_default());
            }
            row
        })
        .collect();
    table(&headings, &rows)
}

/// An object that does not match the current schema. `status NAME` prints the reason.
fn invalid_row(metadata: &ObjectMeta) -> Vec<String> {
    let unknown = || "-".to_owned();
    let name = metadata.name.clone().unwrap_or_default();
    let state = reason::INVALID_OBJECT.to_owned();
    vec![name, unknown(), state, unknown(), unknown(), unknown(), unknown(), String::new()]
}

fn row(event: &CouponEvent, now: Timestamp) -> Vec<String> {
    let status = event.status.clone().unwrap_or_default();
    let ready = status.condition(condition::READY).map_or("-", |ready| &ready.status).to_owned();
    vec![
        event.name_any(),
        ready,
        view::state(event),
        view::count(Some(event.spec.total_count)),
        view::count(status.issued),
        view::count(status.recorded),
        view::count(status.available),
        next_transition(event, now),
    ]
}

/// Time until the event starts or ends.
fn next_transition(event: &CouponEvent, now: Timestamp) -> String {
    let times = [("starts in", &event.spec.start_time), ("ends in", &event.spec.end_time)];
    let next = times.into_iter().find_map(|(what, at)| {
        let left = at.as_ref()?.0.duration_since(now);
        left.is_positive().then(|| format!("{what} {}", view::duration(left)))
    });
    next.unwrap_or_default()
}

async fn watch(cluster: &Cluster, event: CouponEvent) -> anyhow::Result<()> {
    let name = event.name_any();
    let mut screen = if Term::stdout().is_term() { Some(Screen::default()) } else { None };
    let mut current = event;
    let mut printed = String::new();
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = watcher(cluster.events(), config).default_backoff().boxed();
    loop {
        if let Some(screen) = &mut screen {
            screen.draw(&view::details(&current, Timestamp::now()));
        } else {
            let line = view::summary(&current);
            if line != printed {
                println!("{}  {line}", Timestamp::now().strftime("%H:%M:%S"));
                printed = line;
            }
        }
        let change = tokio::select! {
            change = changes.try_next() => change,
            // Redraws the countdowns.
            () = tokio::time::sleep(REDRAW_INTERVAL) => continue,
        };
        match change {
            Ok(Some(Event::Apply(event) | Event::InitApply(event))) => current = parsed(event)?,
            Ok(Some(Event::Delete(_))) => bail!("the event {name} was deleted"),
            Ok(None) => bail!("the watch of the event {name} ended"),
            Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) => {
                if let kube::Error::Api(status) = &error
                    && status.code == 403
                {
                    return Err(cluster.explain(error, "watch"));
                }
            }
            // The watcher restarts after an error.
            Ok(Some(Event::Init | Event::InitDone)) | Err(_) => {}
        }
    }
}

/// Redraws a block of lines on the terminal.
#[derive(Default)]
struct Screen {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Screen {
    fn draw(&mut self, lines: &[String]) {
        while self.lines.len() > lines.len() {
            if let Some(line) = self.lines.pop() {
                self.all.remove(&line);
            }
        }
        while self.lines.len() < lines.len() {
            let line = self.all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                line.set_style(style);
            }
            self.lines.push(line);
        }
        for (line, text) in self.lines.iter().zip(lines) {
            line.set_message(text.clone());
            line.tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "
- apiVersion: couponry.dev/v1alpha1
  kind: CouponEvent
  metadata: {name: summer, namespace: shop}
  spec:
    policyName: Summer sale
    totalCount: 100000
    discounts: [{type: Percent, value: 10, allocationPercentage: 100}]
    endTime: '2026-12-02T00:00:00Z'
  status:
    loaded: 100000
    issued: 50000
    recorded: 49000
    available: 50000
    conditions:
      - {type: Ready, status: 'True', reason: StockComplete, message: '', lastTransitionTime: '2026-12-01T00:00:00Z'}
      - {type: Open, status: 'True', reason: Open, message: '', lastTransitionTime: '2026-12-01T00:00:00Z'}
- apiVersion: couponry.dev/v1alpha1
  kind: CouponEvent
  metadata: {name: new, namespace: shop}
  spec:
    policyName: Not observed yet
    totalCount: 10
    discounts: [{type: Amount, value: 1, count: 10}]
    startTime: '2026-12-01T02:00:00Z'
- apiVersion: couponry.dev/v1alpha1
  kind: CouponEvent
  metadata: {name: odd, namespace: shop}
  spec: {policyName: Invalid, totalCount: many, discounts: []}
";

    fn rendered(all_namespaces: bool) -> String {
        let events: Vec<DeserializeGuard<CouponEvent>> = serde_yaml::from_str(EVENTS).unwrap();
        events_table(&events, all_namespaces, "2026-12-01T01:00:00Z".parse().unwrap())
    }

    #[test]
    fn events_table_shows_counts_state_and_next_transition() {
        insta::assert_snapshot!(rendered(false), @r"
        NAME     READY   STATE             TOTAL   ISSUED   RECORDED   AVAILABLE   NEXT
        summer   True    Open            100,000   50,000     49,000      50,000   ends in 23 h 0 min
        new      -       Unknown              10        -          -           -   starts in 1 h 0 min
        odd      -       InvalidObject         -        -          -           -
        ");
    }

    #[test]
    fn events_table_of_all_namespaces_has_namespace_column() {
        insta::assert_snapshot!(rendered(true), @r"
        NAMESPACE   NAME     READY   STATE             TOTAL   ISSUED   RECORDED   AVAILABLE   NEXT
        shop        summer   True    Open            100,000   50,000     49,000      50,000   ends in 23 h 0 min
        shop        new      -       Unknown              10        -          -           -   starts in 1 h 0 min
        shop        odd      -       InvalidObject         -        -          -           -
        ");
    }
}
