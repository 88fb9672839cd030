//! Readiness of a process: the state of the dependencies that it needs. `/readyz` reports it with the reasons, and
//! `/metrics` as gauges, for the alerts.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::error_chain::error_chain;

/// The state of each dependency of a process. Clones share the state.
#[derive(Clone, Debug)]
pub struct Health {
    states: Arc<Mutex<BTreeMap<&'static str, State>>>,
    ready: Gauge,
    dependency_available: Family<DependencyLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DependencyLabels {
    dependency: &'static str,
}

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
        let health = Self {
            states: Arc::new(Mutex::new(pending.collect())),
            ready: Gauge::default(),
            dependency_available: Family::default(),
        };
        for dependency in dependencies {
            health.dependency_available.get_or_create(&DependencyLabels { dependency }).set(0);
        }
        health
    }

    /// Adds the metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let Self { ready, dependency_available, .. } = self;
        registry.register("ready", "1 while /readyz reports that the process is ready, otherwise 0", ready.clone());
        registry.register(
            "dependency_available",
            "1 if the dependency, as listed by /readyz, was available at the last check, otherwise 0",
            dependency_available.clone(),
        );
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
        let is_available = matches!(state, State::Available);
        self.dependency_available.get_or_create(&DependencyLabels { dependency }).set(is_available.into());
        let before = self.insert(dependency, state.clone());
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

    /// Makes the process permanently unready, because it shuts down.
    pub fn set_shutting_down(&self) {
        self.insert("this process", State::Missing("shutting down".to_owned()));
    }

    fn insert(&self, dependency: &'static str, state: State) -> Option<State> {
        let mut all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(dependency, state);
        self.ready.set((!all.values().any(|state| matches!(state, State::Missing(_)))).into());
        before
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
        let all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
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
        health.set_shutting_down();
        assert_eq!(health.missing(), [("this process", "shutting down".to_owned())]);
    }

    #[test]
    fn metrics_report_readiness_and_each_dependency() {
        let mut registry = Registry::with_prefix("couponry");
        let health = Health::new(&["redis", "kafka"]);
        health.register(&mut registry);
        let metrics = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
            ["ready", r#"dependency_available{dependency="redis"}"#, r#"dependency_available{dependency="kafka"}"#]
                .map(|name| value(&format!("couponry_{name}")).unwrap())
        };
        assert_eq!(metrics(), [0, 0, 0], "before the first check");
        health.set("redis", Ok::<_, String>(()));
        assert_eq!(metrics(), [0, 1, 0]);
        health.set("kafka", Ok::<_, String>(()));
        assert_eq!(metrics(), [1, 1, 1]);
        health.degrade("kafka", "refused");
        assert_eq!(metrics(), [1, 1, 0], "ready without it");
        health.set_shutting_down();
        assert_eq!(metrics(), [0, 1, 0]);
    }
}
