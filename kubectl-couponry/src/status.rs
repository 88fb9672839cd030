//! `status`.

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
    cluster::{Cluster, event_name, readable},
    table::table,
    view::{self, grouped, state_word},
};

/// How often countdowns are drawn anew.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The event. Without it: all events.
    #[arg(value_parser = event_name)]
    name: Option<String>,
    /// Go on showing it until it is deleted, or Ctrl-C. Where the output is no terminal: a line for each change.
    #[arg(long, short, requires = "name")]
    watch: bool,
    /// The events of all namespaces.
    #[arg(long, short = 'A', conflicts_with = "name")]
    all_namespaces: bool,
}

impl Status {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        match &self.name {
            None => all(cluster, self.all_namespaces).await?,
            Some(name) => {
                let event = cluster.event(name).await?;
                if self.watch {
                    watch(cluster, event).await?;
                } else {
                    for line in view::lines(&event, Timestamp::now()) {
                        println!("{line}");
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn all(cluster: &Cluster, everywhere: bool) -> anyhow::Result<()> {
    let events = if everywhere { Api::all(cluster.client.clone()) } else { cluster.events() };
    let events: Vec<DeserializeGuard<CouponEvent>> =
        events.list(&ListParams::default()).await.map_err(|error| cluster.explain(error, "list"))?.items;
    if events.is_empty() {
        let place = if everywhere { "the cluster".to_owned() } else { format!("the namespace {}", cluster.namespace) };
        eprintln!("There are no events in {place}.");
        return Ok(());
    }
    let mut heads = vec!["NAME", "READY", "STATE", "TOTAL", "ISSUED", "RECORDED", "AVAILABLE", "NEXT"];
    if everywhere {
        heads.insert(0, "NAMESPACE");
    }
    let rows = events.iter().map(|guard| {
        let mut row = guard.0.as_ref().map_or_else(|invalid| unreadable(&invalid.metadata), row);
        if everywhere {
            row.insert(0, guard.namespace().unwrap_or_default());
        }
        row
    });
    let rows: Vec<_> = rows.collect();
    print!("{}", table(&heads, &rows));
    Ok(())
}

/// `status NAME` says why.
fn unreadable(metadata: &ObjectMeta) -> Vec<String> {
    let unknown = || "-".to_owned();
    let name = metadata.name.clone().unwrap_or_default();
    let state = reason::INVALID_OBJECT.to_owned();
    vec![name, unknown(), state, unknown(), unknown(), unknown(), unknown(), String::new()]
}

fn row(event: &CouponEvent) -> Vec<String> {
    let status = event.status.clone().unwrap_or_default();
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), grouped);
    let ready = status.condition(condition::READY).map_or("-", |ready| &ready.status).to_owned();
    vec![
        event.name_any(),
        ready,
        state_word(event),
        grouped(event.spec.total_count),
        number(status.issued),
        number(status.recorded),
        number(status.available),
        next(event, Timestamp::now()),
    ]
}

/// What the clock does next.
fn next(event: &CouponEvent, now: Timestamp) -> String {
    let times = [("starts in", &event.spec.start_time), ("ends in", &event.spec.end_time)];
    let next = times.into_iter().find_map(|(what, at)| {
        let left = at.as_ref()?.0.duration_since(now);
        left.is_positive().then(|| format!("{what} {}", view::span(left)))
    });
    next.unwrap_or_default()
}

async fn watch(cluster: &Cluster, event: CouponEvent) -> anyhow::Result<()> {
    let name = event.name_any();
    let mut screen = if Term::stdout().is_term() { Some(Screen::default()) } else { None };
    let mut current = event;
    let mut said = String::new();
    let changes = watcher(cluster.events(), watcher::Config::default().fields(&format!("metadata.name={name}")));
    let mut changes = changes.default_backoff().boxed();
    loop {
        if let Some(screen) = &mut screen {
            screen.draw(&view::lines(&current, Timestamp::now()));
        } else {
            let line = view::line(&current);
            if line != said {
                println!("{}  {line}", Timestamp::now().strftime("%H:%M:%S"));
                said = line;
            }
        }
        let change = tokio::select! {
            change = changes.try_next() => change,
            // Countdowns go on.
            () = tokio::time::sleep(TICK) => continue,
        };
        match change {
            Ok(Some(Event::Apply(event) | Event::InitApply(event))) => current = readable(event)?,
            Ok(Some(Event::Delete(_))) => bail!("{name} was deleted"),
            Ok(None) => bail!("the watch of {name} has ended"),
            Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) => {
                if let kube::Error::Api(status) = &error
                    && status.code == 403
                {
                    return Err(cluster.explain(error, "watch"));
                }
            }
            // After an error, it is watched again by itself.
            Ok(Some(Event::Init | Event::InitDone)) | Err(_) => {}
        }
    }
}

/// Some lines of the terminal that are drawn again and again.
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
