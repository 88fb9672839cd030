//! Readiness of a process: the state of the dependencies that it needs.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use crate::error_chain::error_chain;

/// The state of each dependency of a process. Clones share the state.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Health {
    /// No dependency is ready yet.
    #[must_use]
    pub fn new(dependencies: &[&'static str]) -> Self {
        let pending = dependencies.iter().map(|dependency| (*dependency, Err("not reached yet".to_owned())));
        Self(Arc::new(Mutex::new(pending.collect())))
    }

    /// Sets the state of a dependency and logs a change.
    pub fn set<'a, E>(&self, dependency: &'static str, state: Result<(), E>)
    where
        E: Into<Box<dyn Error + Send + Sync + 'a>>,
    {
        let state = state.map_err(error_chain);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(dependency, state.clone());
        drop(all);
        match (before, state) {
            (Some(Ok(())), Ok(())) | (Some(Err(_)), Err(_)) => {}
            (_, Ok(())) => tracing::info!(dependency, "dependency is available"),
            (_, Err(error)) => tracing::warn!(dependency, error, "dependency is not available"),
        }
    }

    /// The readiness no longer depends on this dependency, until its state is set again.
    pub fn remove(&self, dependency: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(dependency);
    }

    /// Makes the process permanently unready, for this reason.
    pub fn end(&self, reason: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert("this process", Err(reason.to_owned()));
    }

    /// The dependencies that are not available, each with the reason. Empty when the process is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(dependency, state)| Some((*dependency, state.clone().err()?))).collect()
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
        health.set("kafka", Err("refused"));
        health.remove("kafka");
        assert!(health.missing().is_empty());
        health.end("shutting down");
        assert_eq!(health.missing(), [("this process", "shutting down".to_owned())]);
    }
}
