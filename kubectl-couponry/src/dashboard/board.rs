//! What the dashboard shows now: filled by the watch of events and by the polls of pods, read by the pages.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::rates::Sample;

/// Half an hour of samples.
const MAX_SAMPLES: usize = 900;
/// Half an hour of changes of an event that changes every 2 seconds.
const MAX_COUNTS: usize = 900;
/// An event whose count has not changed for this time is idle.
const IDLE_MILLIS: i64 = 4000;
/// A rate requires two counts.
const COUNTS_PER_MESSAGE: usize = 2;

/// Where data comes from, and what may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Events,
    Pods,
    Metrics,
}

#[derive(Default)]
pub(super) struct Board {
    content: Mutex<Content>,
    /// Notified after each change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Content {
    /// Number of changes so far.
    version: u64,
    events: BTreeMap<String, EventEntry>,
    samples: VecDeque<(u64, Sample)>,
    pods: Vec<Value>,
    /// Why a source has no data, although the API server has responded.
    problems: BTreeMap<Source, String>,
    /// Since when a source has no contact with the API server.
    lost: BTreeMap<Source, Timestamp>,
}

struct EventEntry {
    version: u64,
    view: Value,
    /// Times and numbers of issued coupons.
    counts: VecDeque<(i64, u64)>,
}

impl EventEntry {
    fn add_count(&mut self, at: i64, issued: u64) {
        self.counts.push_back((at, issued));
        if self.counts.len() > MAX_COUNTS {
            self.counts.pop_front();
        }
    }

    fn latest_counts(&self) -> Vec<&(i64, u64)> {
        self.counts.range(self.counts.len().saturating_sub(COUNTS_PER_MESSAGE)..).collect()
    }
}

/// What a page has received.
#[derive(Default)]
pub(super) struct Received {
    version: u64,
    events: BTreeSet<String>,
}

impl Board {
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Replaces the events by these views. `issued` is the number of issued coupons of each.
    pub(super) fn set_events(&self, events: BTreeMap<String, (Value, u64)>, now: Timestamp) {
        self.change(|content| {
            content.events.retain(|name, _| events.contains_key(name));
            for (name, (view, issued)) in events {
                let version = content.version;
                let new = || EventEntry { version, view: Value::Null, counts: VecDeque::new() };
                let entry = content.events.entry(name).or_insert_with(new);
                if entry.view == view {
                    continue;
                }
                (entry.version, entry.view) = (version, view);
                entry.add_count(now.as_millisecond(), issued);
            }
        });
    }

    /// Adds a count for each event that has not changed, so that an idle time is not mistaken for a slow one. Without
    /// contact with the API server, nothing is known.
    pub(super) fn add_idle_counts(&self, now: Timestamp) {
        let now = now.as_millisecond();
        let mut content = self.lock();
        if content.lost.is_empty() {
            for entry in content.events.values_mut() {
                if let Some(&(_, issued)) = entry.counts.back().filter(|(at, _)| now - at >= IDLE_MILLIS) {
                    entry.add_count(now, issued);
                }
            }
        }
    }

    /// The numbers of issued coupons of an event so far, with their times.
    pub(super) fn counts(&self, name: &str) -> Vec<(i64, u64)> {
        self.lock().events.get(name).map(|entry| entry.counts.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn set_pods(&self, pods: Vec<Value>) {
        self.change(|content| content.pods = pods);
    }

    pub(super) fn add_sample(&self, sample: Sample) {
        self.change(|content| {
            content.samples.push_back((content.version, sample));
            if content.samples.len() > MAX_SAMPLES {
                content.samples.pop_front();
            }
        });
    }

    /// The source has current data, or the reason why it has none.
    pub(super) fn reached(&self, source: Source, problem: Option<String>) {
        let is_known = {
            let content = self.lock();
            !content.lost.contains_key(&source) && content.problems.get(&source) == problem.as_ref()
        };
        if !is_known {
            self.change(|content| {
                content.lost.remove(&source);
                match problem {
                    Some(problem) => content.problems.insert(source, problem),
                    None => content.problems.remove(&source),
                };
            });
        }
    }

    /// The API server does not respond.
    pub(super) fn lost(&self, source: Source, now: Timestamp) {
        self.change(|content| {
            content.lost.entry(source).or_insert(now);
        });
    }

    /// What has changed since the page received its last message, as its next message.
    pub(super) fn message(&self, received: &mut Received, now: Timestamp) -> Value {
        let content = self.lock();
        let changed = content.events.iter().filter(|(_, entry)| entry.version > received.version);
        let counts: BTreeMap<&String, _> = changed.clone().map(|(name, entry)| (name, entry.latest_counts())).collect();
        let changed: Vec<&Value> = changed.map(|(_, entry)| &entry.view).collect();
        let names: BTreeSet<String> = content.events.keys().cloned().collect();
        let removed: Vec<&String> = received.events.difference(&names).collect();
        let samples: Vec<&Sample> =
            content.samples.iter().filter(|(version, _)| *version > received.version).map(|(_, it)| it).collect();
        let stale_since = content.lost.values().min().map(|since| since.as_millisecond());
        let problems: Vec<&String> = content.problems.values().collect();
        let message = json!({
            "now": now.as_millisecond(),
            "staleSince": stale_since,
            "problems": problems,
            "events": changed,
            "counts": counts,
            "removed": removed,
            "samples": samples,
            "pods": content.pods,
        });
        *received = Received { version: content.version, events: names };
        message
    }

    fn change(&self, change: impl FnOnce(&mut Content)) {
        let mut content = self.lock();
        content.version += 1;
        change(&mut content);
        drop(content);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(names: &[(&str, u64)]) -> BTreeMap<String, (Value, u64)> {
        let view = |name: &str, issued: u64| json!({"name": name, "issued": issued});
        names.iter().map(|(name, issued)| ((*name).to_owned(), (view(name, *issued), *issued))).collect()
    }

    #[test]
    fn message_has_only_what_changed_since_the_last_one() {
        let board = Board::default();
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let mut received = Received::default();
        let mut next = || {
            let message = board.message(&mut received, now);
            let names = message["events"].as_array().unwrap().iter().map(|event| event["name"].as_str().unwrap());
            (names.map(str::to_owned).collect::<Vec<_>>(), message["removed"].clone(), message["samples"].clone())
        };
        board.set_events(events(&[("a", 1), ("b", 1)]), now);
        assert_eq!(next().0, ["a", "b"]);
        board.set_events(events(&[("a", 1), ("b", 2)]), now);
        board.add_sample(Sample::default());
        let (changed, removed, samples) = next();
        assert_eq!((changed, removed), (vec!["b".to_owned()], json!([])));
        assert_eq!(samples.as_array().unwrap().len(), 1);
        board.set_events(events(&[("a", 1)]), now);
        assert_eq!(next(), (vec![], json!(["b"]), json!([])));
        assert_eq!(board.counts("a"), [(now.as_millisecond(), 1)]);
    }

    #[test]
    fn idle_event_has_counts_while_the_api_server_responds() {
        let board = Board::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        board.set_events(events(&[("a", 7)]), at(0));
        board.add_idle_counts(at(3));
        board.add_idle_counts(at(4));
        board.lost(Source::Events, at(5));
        board.add_idle_counts(at(9));
        assert_eq!(board.counts("a"), [(0, 7), (4000, 7)]);
    }

    #[test]
    fn data_is_stale_until_all_sources_are_reached() {
        let board = Board::default();
        let (first, second) = ("2026-12-01T00:00:00Z", "2026-12-01T00:00:05Z");
        let [first, second]: [Timestamp; 2] = [first, second].map(|time| time.parse().unwrap());
        let stale = || board.message(&mut Received::default(), second)["staleSince"].clone();
        board.lost(Source::Events, first);
        board.lost(Source::Pods, second);
        board.lost(Source::Events, second);
        assert_eq!(stale(), json!(first.as_millisecond()));
        board.reached(Source::Events, None);
        assert_eq!(stale(), json!(second.as_millisecond()));
        board.reached(Source::Pods, Some("forbidden".to_owned()));
        assert_eq!(stale(), Value::Null);
        assert_eq!(board.message(&mut Received::default(), second)["problems"], json!(["forbidden"]));
    }
}
