//! The reference page of the fields of a `CouponEvent`.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Where the annotations are defined.
pub(super) const ANNOTATIONS: &str = "crds/src/conversions.rs";

/// `annotations`: the content of [`ANNOTATIONS`].
pub(super) fn generate(crd: &str, annotations: &str) -> Result<String> {
    let crd: Value = serde_yaml::from_str(crd).context("the CRD is not valid YAML")?;
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let name = version["name"].as_str().context("the CRD has no version")?;
    let mut page = format!(
        "Fields of `couponry.dev/{name}`, kind `CouponEvent` (short name `ce`). The operator writes `status`.\n\
         See the [example](../../examples/summer.yaml) and the [conditions](conditions.md).\n"
    );
    for section in ["spec", "status"] {
        let _ = write!(page, "\n## {section}\n\n| Field | Type | Description |\n|---|---|---|\n");
        let rows = page.lines().count();
        write_fields(&mut page, "", &schema["properties"][section], section == "spec");
        ensure!(page.lines().count() > rows, "the CRD has no fields in {section}");
    }
    let _ = write!(page, "\n## Annotations\n\n| Annotation | Effect |\n|---|---|\n");
    write_annotations(&mut page, annotations)?;
    let mut rules = Vec::new();
    collect_rules(schema, &mut rules);
    let _ = write!(page, "\n## Rules\n\nThe API server rejects manifests which violate a rule, with its message:\n\n");
    for rule in rules {
        let _ = writeln!(page, "- {rule}");
    }
    Ok(page)
}

/// Reads the public constants with their doc comments.
fn write_annotations(page: &mut String, source: &str) -> Result<()> {
    let (mut doc, mut count) = (String::new(), 0);
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else {
            let value = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": &str = \""));
            if let Some((_, value)) = value {
                ensure!(!doc.is_empty(), "the annotation {value} has no doc comment");
                let _ = writeln!(page, "| `{}` | {} |", value.trim_end_matches("\";"), cell(&doc));
                count += 1;
            }
            doc.clear();
        }
    }
    ensure!(count > 0, "no annotations found in {ANNOTATIONS}");
    Ok(())
}

fn write_fields(page: &mut String, prefix: &str, schema: &Value, is_spec: bool) {
    let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let is_list = field["type"] == "array";
        let path = format!("{prefix}{name}{}", if is_list { "[]" } else { "" });
        let item = if is_list { &field["items"] } else { field };
        let mut description = cell(field["description"].as_str().unwrap_or_default());
        if is_spec && required(name) {
            description.push_str(" Required.");
        }
        if let Some(default) = field.get("default") {
            let _ = write!(description, " Default: `{}`.", text(default));
        }
        let _ = writeln!(page, "| `{path}` | {} | {} |", type_of(item, is_list), description.trim());
        // The fields of a condition are the same in all resources of Kubernetes.
        if path != "conditions[]" {
            write_fields(page, &format!("{path}."), item, is_spec);
        }
    }
}

fn type_of(schema: &Value, is_list: bool) -> String {
    let kind = match (schema["enum"].as_array(), schema["format"].as_str()) {
        (Some(values), _) => values.iter().map(|value| format!("`{}`", text(value))).collect::<Vec<_>>().join(", "),
        (_, Some("date-time")) => "time".to_owned(),
        _ => schema["type"].as_str().unwrap_or("value").to_owned(),
    };
    let kind = if is_list { format!("list of {kind}s") } else { kind };
    let limit = |name: &str| schema.get(name).map(text);
    let unit = if schema["type"] == "string" { " characters" } else { "" };
    match (limit("minimum").or(limit("minLength")), limit("maximum").or(limit("maxLength"))) {
        (Some(min), Some(max)) => format!("{kind}, {min} to {max}{unit}"),
        (Some(min), None) => format!("{kind}, at least {min}{unit}"),
        (None, Some(max)) => format!("{kind}, at most {max}{unit}"),
        (None, None) => kind,
    }
}

fn collect_rules(schema: &Value, rules: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = cell(rule["message"].as_str().unwrap_or_default());
        if !message.is_empty() && !rules.contains(&message) {
            rules.push(message);
        }
    }
    match schema {
        Value::Object(fields) => fields.values().for_each(|field| collect_rules(field, rules)),
        Value::Array(items) => items.iter().for_each(|item| collect_rules(item, rules)),
        _ => {}
    }
}

/// A value without quotes, and without the fraction of a number such as `12.0`.
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Text for a cell of a table: one line, without column separators.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::generate;

    #[test]
    fn fields_have_paths_types_limits_and_descriptions() {
        let crd = r"
spec:
  versions:
  - name: v1
    schema:
      openAPIV3Schema:
        properties:
          spec:
            properties:
              parts:
                description: |-
                  The
                  parts.
                type: array
                items: {type: object, required: [size], properties: {size: {type: integer, minimum: 1.0, maximum: 9.0}}}
            x-kubernetes-validations: [{rule: x, message: parts must fit}]
          status: {properties: {at: {type: string, format: date-time}}}
";
        let annotations = "/// Holds\n/// it.\npub const HOLD: &str = \"x.dev/hold\";\n";
        let page = generate(crd, annotations).unwrap();
        for line in [
            "| `parts[]` | list of objects | The parts. |",
            "| `parts[].size` | integer, 1 to 9 | Required. |",
            "| `at` | time |  |",
            "- parts must fit",
            "| `x.dev/hold` | Holds it. |",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
    }
}
