//! Runs Helm and parses its output; prepares the API server.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use couponry_testbed::database::unique_name;
use couponry_testbed::kubectl::wait_established;
use couponry_testbed::scratch::Scratch;
use couponry_testbed::{programs, shared};
use serde_json::Value;

/// Default namespace for rendering.
pub(crate) const NAMESPACE: &str = "shop";

/// Root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Directory of the chart.
pub(crate) fn chart() -> PathBuf {
    root().join("charts/couponry")
}

/// Name and values file of each variant in `ci/`.
pub(crate) fn variants() -> Vec<(String, PathBuf)> {
    let mut variants: Vec<_> = fs::read_dir(chart().join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().replace("-values.yaml", ""), path))
        .collect();
    variants.sort();
    assert!(variants.len() >= 4, "{variants:?}");
    variants
}

/// Runs Helm, isolated from the user's configuration. `Err` contains its output.
pub(crate) fn helm<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<String, String> {
    let program = programs::HELM.find().filter(|program| program.is_file());
    let home = Scratch::new("helm").unwrap();
    let output = Command::new(program.expect("Helm is not installed: run `cargo xtask setup`"))
        .args(args)
        .env("KUBECONFIG", home.path().join("none"))
        .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, home.path())))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

/// Renders a release `couponry` of the chart in this directory with additional arguments.
pub(crate) fn template(chart: &Path, namespace: &str, args: &[&str]) -> Result<String, String> {
    let release = ["template", "couponry", chart.to_str().unwrap(), "--namespace", namespace];
    helm(release.into_iter().chain(args.iter().copied()))
}

/// A namespace on the shared API server that enforces Pod Security `restricted`.
pub(crate) fn namespace() -> String {
    let name = unique_name("chart");
    shared::kubectl(&["create", "namespace", &name]).unwrap();
    let restricted = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    shared::kubectl(&["label", "namespace", &name, &restricted[0], &restricted[1]]).unwrap();
    name
}

/// Installs the CRDs of the Prometheus Operator and the Gateway API.
pub(crate) fn install_third_party_crds() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for crds in [&programs::PROMETHEUS_OPERATOR, &programs::GATEWAY_API] {
            for file in crds.find().expect("third-party CRDs are not installed: run `cargo xtask setup`") {
                let file = file.to_str().unwrap();
                shared::kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file]).unwrap();
                wait_established(&shared::kubeconfig(), &["-f", file]).unwrap();
            }
        }
    });
}

/// The objects rendered with this values file.
pub(crate) fn variant(values: &Path) -> Vec<Value> {
    objects(&template(&chart(), NAMESPACE, &["--values", values.to_str().unwrap()]).unwrap())
}

/// The objects rendered with these values (`--set`).
pub(crate) fn with(sets: &[&str]) -> Vec<Value> {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    objects(&template(&chart(), NAMESPACE, &sets).unwrap())
}

/// The objects of a YAML stream. Fails on a key that occurs twice, as strict parsers do; the JSON type ignores it.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| <serde_yaml::Value as serde::Deserialize>::deserialize(document).unwrap())
        .map(|document| serde_json::to_value(document).unwrap())
        .filter(|object| !object.is_null())
        .collect()
}

/// The only object of this kind and name.
pub(crate) fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found: Vec<_> = objects.iter().filter(|it| it["kind"] == kind && it["metadata"]["name"] == name).collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    found[0]
}

/// Pods and pod templates with the name of their object.
pub(crate) fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let pod = |object: &Value| match object["kind"].as_str() {
        Some("Deployment" | "StatefulSet") => Some("/spec/template"),
        Some("Pod") => Some(""),
        _ => None,
    };
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    objects.iter().filter_map(|object| Some((name(object), object.pointer(pod(object)?)?))).collect()
}
