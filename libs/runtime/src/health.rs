//! Readiness of a process: the state of the dependencies that it needs.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use crate::error_chain::error_chain;

/// The state of each dependency of a process. Clones share the state.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, State>>>);

#[derive(Clone, Debug)]
enum State {
    Available,
    /// The process is useful without the dependency, for this reason not available.
    Degraded(String),
    /// The process is not ready, for this reason.
    Missing(String),
}

impl Health {
    /// No dependency is ready yet.
    #[must_use]
    pub fn new(dependencies: &[&'static str]) -> Self {
        let pending = dependencies.iter().map(|dependency| (*dependency, State::Missing("not reached yet".to_owned())));
        Self(Arc::new(Mutex::new(pending.collect())))
    }

    /// Sets the state of a dependency without which the process is not ready, and logs a change.
    pub fn set<'a, E>(&self, dependency: &'static str, state: Result<(), E>)
    where
        E: Into<Box<dyn Error + Send + Sync + 'a>>,
    {
        self.update(dependency, state.map_or_else(|error| State::Missing(error_chain(error)), |()| State::Available));
    }

    /// The dependency is not available, but the process is ready without it. Logs a change.
    pub fn degrade<'a>(&self, dependency: &'static str, error: impl Into<Box<dyn Error + Send + Sync + 'a>>) {
        self.update(dependency, State::Degraded(error_chain(error)));
    }

    fn update(&self, dependency: &'static str, state: State) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(dependency, state.clone());
        drop(all);
        match (before, state) {
            (Some(State::Available), State::Available)
            | (Some(State::Degraded(_)), State::Degraded(_))
            | (Some(State::Missing(_)), State::Missing(_)) => {}
            (_, State::Available) => tracing::info!(dependency, "dependency is available"),
            (_, State::Degraded(error) | State::Missing(error)) => {
                tracing::warn!(dependency, error, "dependency is not available");
            }
        }
    }

    /// Makes the process permanently unready, for this reason.
    pub fn end(&self, reason: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert("this process", State::Missing(reason.to_owned()));
    }

    /// The dependencies that the process needs and that are not available, each with the reason. Empty when the process
    /// is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        self.reasons(|state| if let State::Missing(reason) = state { Some(reason) } else { None })
    }

    /// The dependencies that are not available, but that the process is ready without, each with the reason.
    #[must_use]
    pub fn degraded(&self) -> Vec<(&'static str, String)> {
        self.reasons(|state| if let State::Degraded(reason) = state { Some(reason) } else { None })
    }

    fn reasons(&self, reason: impl Fn(&State) -> Option<&String>) -> Vec<(&'static str, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(dependency, state)| Some((*dependency, reason(state)?.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_ready_only_when_all_dependencies_are_available() {
        let health = Health::new(&["redis", "kafka"]);
        assert_eq!(health.missing().len(), 2);
        health.set("redis", Ok::<_, String>(()));
        health.set("kafka", Err("refused"));
        assert_eq!(health.missing(), [("kafka", "refused".to_owned())]);
        health.set("kafka", Ok::<_, String>(()));
        assert!(health.missing().is_empty());
        health.degrade("kafka", "refused");
        assert!(health.missing().is_empty());
        assert_eq!(health.degraded(), [("kafka", "refused".to_owned())]);
        health.end("shutting down");
        assert_eq!(health.missing(), [("this process", "shutting down".to_owned())]);
    }
}
