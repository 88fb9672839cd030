//! Compares the installed CRD `CouponEvent` with the one of this version.

use std::collections::BTreeSet;

use anyhow::Context as _;
use http::Request;
use kube::Client;
use serde_json::Value;

/// Differing fields as paths such as `spec.totalCount`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SchemaDifference {
    /// Fields that only this version has: the API server drops them.
    pub(super) missing: Vec<String>,
    /// Fields that only the installed CRD has, because it is newer.
    pub(super) unknown: Vec<String>,
}

/// Reads the published OpenAPI schema, because reading the CRD itself requires cluster-wide permissions. None: the CRD
/// is not installed.
pub(super) async fn compare_installed(client: &Client) -> anyhow::Result<Option<SchemaDifference>> {
    let request = Request::get("/openapi/v3/apis/couponry.dev/v1alpha1").body(Vec::new())?;
    let published: Value = match client.request(request).await {
        Ok(published) => published,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        Err(error) => return Err(error).context("cannot read the published schema of CouponEvent"),
    };
    let schemas = published.pointer("/components/schemas").and_then(Value::as_object);
    let installed = schemas.and_then(|schemas| {
        schemas.iter().find(|(name, _)| name.ends_with(".v1alpha1.CouponEvent")).map(|(_, schema)| schema)
    });
    let Some(installed) = installed else { return Ok(None) };
    let expected = serde_json::to_value(couponry_crds::crd()).context("cannot serialize the CRD of this version")?;
    let expected =
        expected.pointer("/spec/versions/0/schema/openAPIV3Schema").context("the CRD of this version has no schema")?;
    Ok(Some(compare(installed, expected)))
}

fn compare(installed: &Value, expected: &Value) -> SchemaDifference {
    let (installed, expected) = (fields(installed), fields(expected));
    SchemaDifference {
        missing: expected.difference(&installed).cloned().collect(),
        unknown: installed.difference(&expected).cloned().collect(),
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
    // The published schema wraps a field with its own default or description in `allOf`.
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
    fn fields_of_only_one_schema_are_listed() {
        let object = |fields: Value| json!({"type": "object", "properties": fields});
        let expected = object(json!({
            "spec": object(json!({"a": {"type": "integer"}, "list": {"items": object(json!({"b": {}}))}})),
            "status": object(json!({"c": {}})),
        }));
        let installed = object(json!({
            "metadata": object(json!({"x": {}})),
            "spec": {"allOf": [object(json!({"list": {"items": object(json!({"b": {}, "new": {}}))}}))]},
            "status": object(json!({"c": {}})),
        }));
        let difference = compare(&installed, &expected);
        assert_eq!(
            difference,
            SchemaDifference { missing: vec!["spec.a".into()], unknown: vec!["spec.list.new".into()] }
        );
        assert_eq!(compare(&expected, &expected), SchemaDifference::default());
    }
}
