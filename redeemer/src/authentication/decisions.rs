//! Decisions about tokens, kept for some seconds.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::EventName;
use ring::digest;

/// Clients can send any number of tokens and events: beyond this, expired decisions are removed, then all.
const MAX_DECISIONS: usize = 10_000;

/// What Kubernetes has decided about a token and an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// This caller may redeem coupons of the event.
    Allowed(String),
    /// This caller may not redeem coupons of the event.
    Denied(String),
    /// The token is not valid.
    Unauthenticated,
}

/// A hash of a token, which is not kept itself, and an event.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32], EventName);

impl Key {
    pub(super) fn new(token: &str, event: &EventName) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(hash, event.clone())
    }
}

/// The latest decisions.
pub(super) struct Decisions {
    lifetime: Duration,
    all: Mutex<HashMap<Key, (Instant, Decision)>>,
}

impl Decisions {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, all: Mutex::default() }
    }

    /// The decision, if it is recent.
    pub(super) fn get(&self, key: &Key) -> Option<Decision> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, decision) = all.get(key)?;
        (since.elapsed() < self.lifetime).then(|| decision.clone())
    }

    /// Keeps a decision that was requested at `since`.
    pub(super) fn keep(&self, key: Key, since: Instant, decision: Decision) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_DECISIONS {
            all.retain(|_, (since, _)| since.elapsed() < self.lifetime);
        }
        if all.len() >= MAX_DECISIONS {
            all.clear();
        }
        all.insert(key, (since, decision));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decision_is_kept_for_its_token_and_event_until_it_expires() {
        let (summer, winter) = ("summer".parse().unwrap(), "winter".parse().unwrap());
        let allowed = Decision::Allowed("shop".to_owned());
        let decisions = Decisions::new(Duration::from_hours(1));
        decisions.keep(Key::new("a", &summer), Instant::now(), allowed.clone());
        assert_eq!(decisions.get(&Key::new("a", &summer)), Some(allowed.clone()));
        assert_eq!(decisions.get(&Key::new("b", &summer)), None);
        assert_eq!(decisions.get(&Key::new("a", &winter)), None);
        let disabled = Decisions::new(Duration::ZERO);
        disabled.keep(Key::new("a", &summer), Instant::now(), allowed);
        assert_eq!(disabled.get(&Key::new("a", &summer)), None);
    }

    #[test]
    fn number_of_decisions_is_limited() {
        let (decisions, summer) = (Decisions::new(Duration::from_hours(1)), "summer".parse().unwrap());
        for i in 0..=MAX_DECISIONS {
            decisions.keep(Key::new(&i.to_string(), &summer), Instant::now(), Decision::Denied(String::new()));
        }
        assert_eq!(decisions.all.lock().unwrap().len(), 1);
    }
}
