//! kubectl for one cluster and one namespace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use couponry_testbed::kubectl::kubectl;
use serde_json::Value;

/// kubectl as the administrator of a cluster, in one namespace.
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

    /// Runs kubectl and returns its output.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig, &[&["--namespace", &self.namespace], args].concat(), None)
    }

    /// `kubectl apply -f -`.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        let args = ["--namespace", &self.namespace, "apply", "-f", "-"];
        kubectl(&self.kubeconfig, &args, Some(manifest))
    }

    /// Returns an object or a list of objects.
    pub(crate) fn get(&self, args: &[&str]) -> Result<Value> {
        let json = self.run(&[&["get"], args, &["-o", "json"]].concat())?;
        serde_json::from_str(&json).context("the output of kubectl is not valid JSON")
    }

    /// The names of the objects of a kind with a label, such as `component=issuer`.
    pub(crate) fn names(&self, kind: &str, selector: &str) -> Result<Vec<String>> {
        let names = self.run(&["get", kind, "--selector", selector, "-o", "name"])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Waits until a condition of an object is true, in the syntax of `kubectl wait --for`.
    pub(crate) fn wait(&self, object: &str, condition: &str, seconds: u32) -> Result<()> {
        let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={seconds}s"));
        self.run(&["wait", object, &condition, &timeout]).map(drop)
    }
}
