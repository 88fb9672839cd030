//! kubectl as the administrator of one cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use couponry_testbed::kubernetes;
use serde_json::Value;

/// kubectl on one cluster and one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
    namespace: String,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: &Path, namespace: &str) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), namespace: namespace.to_owned() }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What kubectl printed.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        kubernetes::kubectl(&self.kubeconfig, &[&["--namespace", &self.namespace], args].concat(), None)
    }

    /// `kubectl apply -f -`.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        let args = ["--namespace", &self.namespace, "apply", "-f", "-"];
        kubernetes::kubectl(&self.kubeconfig, &args, Some(manifest))
    }

    /// An object, or a list of them.
    pub(crate) fn get(&self, what: &[&str]) -> Result<Value> {
        let json = self.run(&[&["get"], what, &["-o", "json"]].concat())?;
        serde_json::from_str(&json).context("kubectl printed something that is not JSON")
    }

    /// The names of the objects of a kind that have a label, such as `component=issuer`.
    pub(crate) fn names(&self, kind: &str, selector: &str) -> Result<Vec<String>> {
        let names = self.run(&["get", kind, "--selector", selector, "-o", "name"])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Waits until an object is as `condition` says, in the words of `kubectl wait --for`.
    pub(crate) fn wait(&self, object: &str, condition: &str, seconds: u32) -> Result<()> {
        let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={seconds}s"));
        self.run(&["wait", object, &condition, &timeout]).map(drop)
    }
}
