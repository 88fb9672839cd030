//! Which of the servers that a process needs are there.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// The state of each server that a process needs. Cheap to clone; all clones show the same.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Health {
    /// Nothing is ready yet.
    #[must_use]
    pub fn new(needs: &[&'static str]) -> Self {
        Self(Arc::new(Mutex::new(needs.iter().map(|need| (*need, Err("not reached yet".to_owned()))).collect())))
    }

    /// Says how a server is; what changed is logged.
    pub fn set<E: fmt::Display>(&self, need: &'static str, state: Result<(), E>) {
        let state = state.map_err(|error| error.to_string());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(need, state.clone());
        drop(all);
        match (before, state) {
            (Some(Ok(())), Ok(())) | (Some(Err(_)), Err(_)) => {}
            (_, Ok(())) => tracing::info!("{need} is there"),
            (_, Err(error)) => tracing::warn!(%error, "{need} is not there"),
        }
    }

    /// Never ready again, for this reason.
    pub fn end(&self, reason: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert("this process", Err(reason.to_owned()));
    }

    /// What is missing: each server with its reason. Empty when the process is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(need, state)| Some((*need, state.clone().err()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_everything_is_there() {
        let health = Health::new(&["redis", "kafka"]);
        assert_eq!(health.missing().len(), 2);
        health.set("redis", Ok::<_, String>(()));
        health.set("kafka", Err("refused"));
        assert_eq!(health.missing(), [("kafka", "refused".to_owned())]);
        health.set("kafka", Ok::<_, String>(()));
        assert!(health.missing().is_empty());
        health.end("shutting down");
        assert_eq!(health.missing(), [("this process", "shutting down".to_owned())]);
    }
}
