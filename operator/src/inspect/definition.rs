//! Whether the cluster's definition of `CouponEvent` is that of this version.

use std::collections::BTreeSet;

use anyhow::Context as _;
use http::Request;
use kube::Client;
use serde_json::Value;

/// What differs between the installed definition and ours, as paths of fields such as `spec.totalCount`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    /// Fields that this version knows and the cluster does not: they would be dropped.
    pub(super) missing: Vec<String>,
    /// Fields that only the cluster knows: its definition is of a later version.
    pub(super) unknown: Vec<String>,
}

/// Compares with what the API server publishes for everyone; the definition itself only administrators may read. None: it is
/// not installed.
pub(super) async fn drift(client: &Client) -> anyhow::Result<Option<Drift>> {
    let request = Request::get("/openapi/v3/apis/couponry.dev/v1alpha1").body(Vec::new())?;
    let published: Value = match client.request(request).await {
        Ok(published) => published,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        Err(error) => return Err(error).context("cannot read what the API server knows of CouponEvents"),
    };
    let schemas = published.pointer("/components/schemas").and_then(Value::as_object);
    let installed = schemas.and_then(|schemas| {
        schemas.iter().find(|(name, _)| name.ends_with(".v1alpha1.CouponEvent")).map(|(_, schema)| schema)
    });
    let Some(installed) = installed else { return Ok(None) };
    let ours = serde_json::to_value(couponry_crds::definition()).context("our definition is no JSON")?;
    let ours = ours.pointer("/spec/versions/0/schema/openAPIV3Schema").context("our definition has no schema")?;
    Ok(Some(compare(installed, ours)))
}

fn compare(installed: &Value, ours: &Value) -> Drift {
    let (installed, ours) = (fields(installed), fields(ours));
    Drift {
        missing: ours.difference(&installed).cloned().collect(),
        unknown: installed.difference(&ours).cloned().collect(),
    }
}

/// The paths of all fields of spec and status.
fn fields(schema: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for part in ["spec", "status"] {
        collect(&schema["properties"][part], part, &mut all);
    }
    all
}

fn collect(schema: &Value, path: &str, all: &mut BTreeSet<String>) {
    // What is published may wrap the schema of a field that has a default or a description of its own.
    for wrapped in schema["allOf"].as_array().into_iter().flatten() {
        collect(wrapped, path, all);
    }
    if let Some(items) = schema.get("items") {
        collect(items, path, all);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect(field, &path, all);
        all.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_one_side_knows_is_named() {
        let object = |fields: Value| json!({"type": "object", "properties": fields});
        let ours = object(json!({
            "spec": object(json!({"a": {"type": "integer"}, "list": {"items": object(json!({"b": {}}))}})),
            "status": object(json!({"c": {}})),
        }));
        let installed = object(json!({
            "metadata": object(json!({"x": {}})),
            "spec": {"allOf": [object(json!({"list": {"items": object(json!({"b": {}, "new": {}}))}}))]},
            "status": object(json!({"c": {}})),
        }));
        let drift = compare(&installed, &ours);
        assert_eq!(drift, Drift { missing: vec!["spec.a".into()], unknown: vec!["spec.list.new".into()] });
        assert_eq!(compare(&ours, &ours), Drift::default());
    }
}
