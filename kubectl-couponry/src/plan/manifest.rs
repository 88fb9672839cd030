//! Reads manifests from a file.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use couponry_crds::CouponEvent;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use crate::{cluster::event_name, view::sanitize};

/// A `CouponEvent` of a file.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    /// As it is in the file.
    pub(super) object: Value,
}

/// The `CouponEvent`s of the file, or of standard input for `-`.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Manifest>> {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        ("standard input".to_owned(), io::stdin().read_to_string(&mut text).map(|_| text))
    } else {
        (path.display().to_string(), fs::read_to_string(path))
    };
    let text = text.with_context(|| format!("cannot read {name}"))?;
    parse(&text).with_context(|| format!("{name} is not a manifest"))
}

fn parse(text: &str) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let object = Value::deserialize(document).context("it is neither YAML nor JSON")?;
        match object["kind"].as_str() {
            // An empty document.
            None if object.is_null() => {}
            Some("List" | "CouponEventList") => {
                for item in object["items"].as_array().into_iter().flatten() {
                    manifests.extend(manifest(item.clone())?);
                }
            }
            _ => manifests.extend(manifest(object)?),
        }
    }
    ensure!(!manifests.is_empty(), "it has no object of the kind CouponEvent");
    Ok(manifests)
}

/// None: it is an object of another kind, which `kubectl apply` handles.
fn manifest(object: Value) -> anyhow::Result<Option<Manifest>> {
    let Some(kind) = object["kind"].as_str() else { bail!("an object has no kind") };
    if kind != "CouponEvent" {
        return Ok(None);
    }
    let version = object["apiVersion"].as_str().unwrap_or_default();
    ensure!(version == "couponry.dev/v1alpha1", "the apiVersion of a CouponEvent is couponry.dev/v1alpha1");
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().context("a CouponEvent has no metadata.name")?;
    let name =
        event_name(name).map_err(|rule| anyhow::anyhow!("the name {:?} is not valid: {rule}", sanitize(name)))?;
    let namespace = metadata["namespace"].as_str().map(str::to_owned);
    Ok(Some(Manifest { name, namespace, object }))
}

impl Manifest {
    /// The event, checked as far as possible without the API server.
    pub(super) fn event(&self) -> anyhow::Result<CouponEvent> {
        let event = CouponEvent::deserialize(&self.object)?;
        let known = serde_json::to_value(&event.spec)?;
        if let Some(field) = unknown_field(&self.object["spec"], &known) {
            bail!("unknown field spec{}", sanitize(&field));
        }
        Ok(event)
    }

    /// The JSON merge patch by which `kubectl apply` changes an event to which it has applied `last_applied` before.
    pub(super) fn merge_patch(&self, last_applied: &Value, namespace: &str) -> Value {
        let mut object = self.object.clone();
        let metadata = &mut object["metadata"];
        metadata["namespace"] = json!(namespace);
        // kubectl always has the annotations, since `last_applied` is one of them: other annotations are kept.
        if !metadata["annotations"].is_object() {
            metadata["annotations"] = json!({});
        }
        merge_patch(last_applied, &object)
    }
}

/// The fields of the manifest, and null for each field that only the previous manifest has.
fn merge_patch(last_applied: &Value, manifest: &Value) -> Value {
    let Value::Object(fields) = manifest else { return manifest.clone() };
    let fields = fields.iter().filter(|(_, value)| !value.is_null());
    let mut patch: Map<String, Value> =
        fields.map(|(name, value)| (name.clone(), merge_patch(&last_applied[name], value))).collect();
    for name in last_applied.as_object().into_iter().flat_map(Map::keys) {
        patch.entry(name).or_insert(Value::Null);
    }
    patch.into()
}

/// The path of a field that was not read.
fn unknown_field(written: &Value, read: &Value) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(name, value)| {
            let found = match read.get(name) {
                // A field without a value is not written again.
                None => (!value.is_null()).then(String::new),
                Some(read) => unknown_field(value, read),
            };
            found.map(|path| format!(".{name}{path}"))
        }),
        (Value::Array(written), Value::Array(read)) => {
            let mut pairs = written.iter().zip(read).enumerate();
            pairs.find_map(|(index, (written, read))| Some(format!("[{index}]{}", unknown_field(written, read)?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMER: &str = "{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {name: summer}, spec: \
        {policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}}";

    fn error(text: &str) -> String {
        let parsed = parse(text).and_then(|manifests| manifests[0].event());
        format!("{:#}", parsed.unwrap_err())
    }

    #[test]
    fn events_are_read_from_documents_and_lists() {
        let other = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}";
        let list = format!("{{apiVersion: v1, kind: List, items: [{SUMMER}, {other}]}}");
        let text = format!("---\n{SUMMER}\n---\n# empty\n---\n{other}\n---\n{list}\n");
        let names: Vec<String> = parse(&text).unwrap().into_iter().map(|manifest| manifest.name).collect();
        assert_eq!(names, ["summer", "summer"]);
    }

    #[test]
    fn merge_patch_removes_what_only_the_previous_manifest_has() {
        let last_applied = json!({
            "apiVersion": "couponry.dev/v1alpha1", "kind": "CouponEvent",
            "metadata": {"name": "summer", "namespace": "shop", "annotations": {}, "labels": {"team": "a"}},
            "spec": {"policyName": "p", "endTime": "2026-12-03T00:00:00Z", "code": {"prefix": "A", "length": 8}},
        });
        let object = json!({
            "apiVersion": "couponry.dev/v1alpha1", "kind": "CouponEvent", "metadata": {"name": "summer"},
            "spec": {"policyName": "p", "startTime": null, "code": {"prefix": "A"}},
        });
        let manifest = Manifest { name: "summer".to_owned(), namespace: None, object };
        let patch = json!({
            "apiVersion": "couponry.dev/v1alpha1", "kind": "CouponEvent",
            "metadata": {"name": "summer", "namespace": "shop", "annotations": {}, "labels": null},
            "spec": {"policyName": "p", "endTime": null, "code": {"prefix": "A", "length": null}},
        });
        assert_eq!(manifest.merge_patch(&last_applied, "shop"), patch);
    }

    #[test]
    fn each_invalid_manifest_has_an_error() {
        for (text, expected) in [
            ("", "no object of the kind CouponEvent"),
            ("{apiVersion: v1, kind: ConfigMap}", "no object of the kind CouponEvent"),
            ("a: [", "neither YAML nor JSON"),
            ("a: 1", "has no kind"),
            (&SUMMER.replace("v1alpha1", "v2"), "the apiVersion of a CouponEvent is couponry.dev/v1alpha1"),
            (&SUMMER.replace("name: summer", "name: 'a/b'"), "lower-case letters"),
            (&SUMMER.replace("{name: summer}", "{}"), "no metadata.name"),
            (&SUMMER.replace("totalCount: 10", "totalCount: ten"), "invalid type"),
            (&SUMMER.replace("totalCount: 10", "totalCount: 10, totalcount: 9"), "unknown field spec.totalcount"),
            (&SUMMER.replace("value: 10", "value: 10, weight: 1"), "unknown field spec.discounts[0].weight"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
