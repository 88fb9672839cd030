//! `kubectl couponry status --watch`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use console::Term;
use couponry_crds::{CouponEvent, status::reason};
use couponry_output::Stdout;
use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};

use crate::{
    cluster::{Cluster, parsed},
    events_table::events_table,
    view,
    watched_events::{Events, Key, WatchedEvents},
};

const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the event of this name, or all events of `api`, and their changes.
pub(crate) async fn run(
    api: Api<DeserializeGuard<CouponEvent>>,
    cluster: &Cluster,
    name: Option<&str>,
    all_namespaces: bool,
) -> anyhow::Result<()> {
    let mut config = watcher::Config::default();
    let mut events = WatchedEvents::default();
    if let Some(name) = name {
        config = config.fields(&format!("metadata.name={name}"));
        events.insert(DeserializeGuard(Ok(cluster.event(name).await?)));
    } else {
        let found = api.list(&ListParams::default()).await.map_err(|error| cluster.explain(error, "list"))?;
        found.items.into_iter().for_each(|event| events.insert(event));
    }
    let mut display = Display::new();
    let mut changes = watcher(api, config).default_backoff().boxed();
    loop {
        display.show(events.current(), name.is_none(), all_namespaces)?;
        let change = tokio::select! {
            change = changes.try_next() => change,
            // Redraws the countdowns.
            () = tokio::time::sleep(REDRAW_INTERVAL) => continue,
        };
        match change {
            Ok(Some(change)) => events.apply(change),
            Ok(None) => bail!("the watch ended"),
            Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) => {
                if let kube::Error::Api(status) = &error
                    && status.code == 403
                {
                    return Err(cluster.explain(error, "watch"));
                }
            }
            // The watcher restarts after an error.
            Err(_) => {}
        }
        if let Some(name) = name
            && events.current().is_empty()
        {
            bail!("the event {name} was deleted");
        }
    }
}

enum Display {
    Screen(Screen),
    /// A line per change: the last line of each event.
    Lines(BTreeMap<Key, String>),
}

impl Display {
    fn new() -> Self {
        if Term::stdout().is_term() { Self::Screen(Screen::default()) } else { Self::Lines(BTreeMap::new()) }
    }

    fn show(&mut self, events: &Events, as_table: bool, all_namespaces: bool) -> anyhow::Result<()> {
        let now = Timestamp::now();
        match self {
            Self::Screen(screen) if as_table => {
                let table = events_table(events.values(), all_namespaces, now);
                screen.draw(table.lines());
            }
            Self::Screen(screen) => {
                for event in events.values() {
                    screen.draw(view::details(parsed(event)?, now).iter().map(String::as_str));
                }
            }
            Self::Lines(printed) => {
                for (key, event) in events {
                    let line = if as_table { summary(event) } else { view::summary(parsed(event)?) };
                    if printed.get(key) != Some(&line) {
                        print_line(now, key, all_namespaces, &line)?;
                        printed.insert(key.clone(), line);
                    }
                }
                for (key, _) in printed.extract_if(.., |key, _| !events.contains_key(key)) {
                    print_line(now, &key, all_namespaces, &format!("{}  deleted", key.1))?;
                }
            }
        }
        Ok(())
    }
}

/// One event of several: one that does not match the current schema does not end the watch of the others.
fn summary(event: &DeserializeGuard<CouponEvent>) -> String {
    match &event.0 {
        Ok(event) => view::summary(event),
        Err(_) => format!("{}  {}", event.name_any(), reason::INVALID_OBJECT),
    }
}

fn print_line(now: Timestamp, (namespace, _): &Key, all_namespaces: bool, line: &str) -> anyhow::Result<()> {
    let namespace = if all_namespaces { format!("{namespace}/") } else { String::new() };
    Ok(writeln!(Stdout, "{}  {namespace}{line}", now.strftime("%H:%M:%S"))?)
}

/// Redraws a block of lines on the terminal.
#[derive(Default)]
struct Screen {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Screen {
    fn draw<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        let lines: Vec<&str> = lines.collect();
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
            line.set_message(text.to_owned());
            line.tick();
        }
    }
}
