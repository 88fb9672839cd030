//! What the dashboard shows now: filled by the feeds, read by the pages.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::rates::Sample;

/// Ten minutes of samples, as many as the plots show.
const MAX_SAMPLES: usize = 300;
/// Others follow in the next message.
const MAX_EVENTS_PER_MESSAGE: usize = 200;
const MAX_KUBERNETES_EVENTS: usize = 50;

/// Where data comes from, and what may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Events,
    Pods,
    Metrics,
    KubernetesEvents,
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
    /// By UID: the name of the event, and the Kubernetes Event.
    kubernetes_events: BTreeMap<String, (String, Value)>,
    contacts: BTreeMap<Source, Contact>,
}

struct EventEntry {
    version: u64,
    view: Value,
    received_at: Timestamp,
}

/// The latest contact with a source.
#[derive(Default)]
struct Contact {
    /// When it confirmed the data.
    at: Option<Timestamp>,
    /// Why the data is outdated or incomplete.
    problem: Option<String>,
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

    /// Replaces the events by these views.
    pub(super) fn set_events(&self, events: BTreeMap<String, Value>, now: Timestamp) {
        let removed: Vec<String> = {
            let content = self.lock();
            content.events.keys().filter(|name| !events.contains_key(*name)).cloned().collect()
        };
        for name in removed {
            self.remove_event(&name);
        }
        for (name, view) in events {
            self.set_event(name, view, now);
        }
    }

    pub(super) fn set_event(&self, name: String, view: Value, now: Timestamp) {
        if self.lock().events.get(&name).is_none_or(|entry| entry.view != view) {
            self.change(|content| {
                let entry = EventEntry { version: content.version, view, received_at: now };
                content.events.insert(name, entry);
            });
        }
    }

    pub(super) fn remove_event(&self, name: &str) {
        self.change(|content| drop(content.events.remove(name)));
    }

    pub(super) fn set_kubernetes_events(&self, events: BTreeMap<String, (String, Value)>) {
        self.lock().kubernetes_events = events;
    }

    pub(super) fn set_kubernetes_event(&self, (uid, event): (String, (String, Value))) {
        self.lock().kubernetes_events.insert(uid, event);
    }

    pub(super) fn remove_kubernetes_event(&self, uid: &str) {
        self.lock().kubernetes_events.remove(uid);
    }

    /// The Kubernetes Events about an event, the latest first.
    pub(super) fn kubernetes_events(&self, name: &str) -> Vec<Value> {
        let content = self.lock();
        let about = content.kubernetes_events.values().filter(|(about, _)| about == name);
        let mut found: Vec<Value> = about.map(|(_, event)| event.clone()).collect();
        found.sort_by_key(|event| std::cmp::Reverse(event["at"].as_i64()));
        found.truncate(MAX_KUBERNETES_EVENTS);
        found
    }

    pub(super) fn set_pods(&self, pods: Vec<Value>) {
        if self.lock().pods != pods {
            self.change(|content| content.pods = pods);
        }
    }

    pub(super) fn add_sample(&self, sample: Sample) {
        self.change(|content| {
            content.samples.push_back((content.version, sample));
            if content.samples.len() > MAX_SAMPLES {
                content.samples.pop_front();
            }
        });
    }

    /// The source has confirmed its data now.
    pub(super) fn confirm(&self, source: Source, now: Timestamp) {
        self.confirm_with(source, now, None);
    }

    /// The source has confirmed its data now, except for this problem.
    pub(super) fn confirm_with(&self, source: Source, now: Timestamp, problem: Option<String>) {
        let mut content = self.lock();
        let contact = content.contacts.entry(source).or_default();
        contact.at = Some(now);
        let is_known = contact.problem == problem;
        contact.problem = problem;
        drop(content);
        if !is_known {
            self.change(|_| {});
        }
    }

    /// The source has no data now, for this reason.
    pub(super) fn fail(&self, source: Source, problem: String) {
        self.change(|content| content.contacts.entry(source).or_default().problem = Some(problem));
    }

    /// What has changed since the page received its last message, as its next message, and whether more is left.
    pub(super) fn message(&self, received: &mut Received, now: Timestamp) -> (Value, bool) {
        let content = self.lock();
        let mut changed: Vec<&EventEntry> =
            content.events.values().filter(|entry| entry.version > received.version).collect();
        changed.sort_by_key(|entry| entry.version);
        let is_complete = changed.len() <= MAX_EVENTS_PER_MESSAGE;
        changed.truncate(MAX_EVENTS_PER_MESSAGE);
        let last = changed.last().map_or(content.version, |entry| entry.version);
        let version = if is_complete { content.version } else { last };
        let new_samples = content.samples.iter().filter(|(added, _)| *added > received.version && *added <= version);
        let samples: Vec<&Sample> = new_samples.map(|(_, sample)| sample).collect();
        let events: Vec<Value> = changed.into_iter().map(EventEntry::message).collect();
        let names: BTreeSet<String> = content.events.keys().cloned().collect();
        let removed: Vec<&String> = received.events.difference(&names).collect();
        let contacts: BTreeMap<_, _> =
            content.contacts.iter().map(|(source, it)| (name(*source), it.message())).collect();
        let message = json!({
            "now": now.as_millisecond(),
            "sources": contacts,
            "events": events,
            "removed": removed,
            "samples": samples,
            "pods": content.pods,
        });
        *received = Received { version, events: names };
        (message, !is_complete)
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

impl EventEntry {
    fn message(&self) -> Value {
        let mut view = self.view.clone();
        view["receivedAt"] = json!(self.received_at.as_millisecond());
        view
    }
}

impl Contact {
    fn message(&self) -> Value {
        json!({"at": self.at.map(Timestamp::as_millisecond), "problem": self.problem})
    }
}

const fn name(source: Source) -> &'static str {
    match source {
        Source::Events => "events",
        Source::Pods => "pods",
        Source::Metrics => "metrics",
        Source::KubernetesEvents => "kubernetesEvents",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str, issued: u64) -> Value {
        json!({"name": name, "issued": issued})
    }

    fn events(names: &[(&str, u64)]) -> BTreeMap<String, Value> {
        names.iter().map(|(name, issued)| ((*name).to_owned(), view(name, *issued))).collect()
    }

    fn names(message: &Value) -> Vec<&str> {
        message["events"].as_array().unwrap().iter().map(|event| event["name"].as_str().unwrap()).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn message_has_only_what_changed_since_the_last_one() {
        let board = Board::default();
        let mut received = Received::default();
        let mut next = || board.message(&mut received, at(9)).0;
        board.set_events(events(&[("a", 1), ("b", 1)]), at(1));
        assert_eq!(names(&next()), ["a", "b"]);
        board.set_events(events(&[("a", 1), ("b", 2)]), at(2));
        board.add_sample(Sample::default());
        let message = next();
        assert_eq!((names(&message), &message["removed"]), (vec!["b"], &json!([])));
        assert_eq!(
            (&message["events"][0]["receivedAt"], message["samples"].as_array().unwrap().len()),
            (&json!(2000), 1)
        );
        board.set_event("a".to_owned(), view("a", 7), at(3));
        board.set_events(events(&[("a", 7)]), at(4));
        let message = next();
        assert_eq!((names(&message), &message["removed"], &message["samples"]), (vec!["a"], &json!(["b"]), &json!([])));
    }

    #[test]
    fn many_changes_are_spread_over_messages() {
        let board = Board::default();
        let mut received = Received::default();
        let names = (0..450).map(|number| (number.to_string(), json!({})));
        board.set_events(names.collect(), at(1));
        board.add_sample(Sample::default());
        let mut next = || {
            let (message, has_more) = board.message(&mut received, at(1));
            let count = |key: &str| message[key].as_array().unwrap().len();
            (count("events"), count("samples"), has_more)
        };
        assert_eq!([next(), next(), next(), next()], [(200, 0, true), (200, 0, true), (50, 1, false), (0, 0, false)]);
    }

    #[test]
    fn outdated_data_has_the_time_of_the_last_contact_and_the_reason() {
        let board = Board::default();
        let events = || board.message(&mut Received::default(), at(9)).0["sources"]["events"].clone();
        assert_eq!(events(), Value::Null);
        board.confirm(Source::Events, at(1));
        board.fail(Source::Events, "no response".to_owned());
        board.confirm(Source::Pods, at(2));
        assert_eq!(events(), json!({"at": 1000, "problem": "no response"}));
        board.confirm(Source::Events, at(3));
        assert_eq!(events(), json!({"at": 3000, "problem": null}));
    }

    #[test]
    fn kubernetes_events_are_those_of_the_event_and_the_latest_first() {
        let board = Board::default();
        let about = |name: &str, at: i64| (name.to_owned(), json!({"at": at}));
        board.set_kubernetes_events(BTreeMap::from([("1".to_owned(), about("a", 1)), ("2".to_owned(), about("b", 2))]));
        board.set_kubernetes_event(("3".to_owned(), about("a", 3)));
        assert_eq!(board.kubernetes_events("a"), [json!({"at": 3}), json!({"at": 1})]);
        board.remove_kubernetes_event("3");
        assert_eq!(board.kubernetes_events("a"), [json!({"at": 1})]);
    }
}
