//! The API server rejects manifests that violate a rule, with a message that describes the required change, and
//! accepts all others.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use changes::{CHANGES, Change};
use cluster::{Cluster, event};
use invalid::{INVALID, Invalid};
use serde_json::{Value, json};

mod changes;
mod cluster;
mod invalid;

#[tokio::test]
async fn invalid_manifests_are_rejected_with_message() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let mut failures = Vec::new();
    for Invalid { description, spec, message } in INVALID {
        match cluster.apply(&event("invalid", spec)?).await.context(*description)? {
            Err(error) if error.contains(message) => {}
            result => failures.push(format!("{description}: {result:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[tokio::test]
async fn changes_are_accepted_unless_they_violate_a_rule() -> Result<()> {
    let cluster = Cluster::connect().await?;
    for (i, Change { description, opened, before, after, message }) in CHANGES.iter().enumerate() {
        let name = format!("change-{i}");
        cluster.apply(&event(&name, before)?).await?.map_err(anyhow::Error::msg).context(*description)?;
        if *opened {
            cluster.merge_status(&name, json!({"openedAt": "2026-11-30T00:00:00Z"})).await.context(*description)?;
        }
        match (cluster.apply(&event(&name, after)?).await?, message) {
            (Ok(_), None) => {}
            (Err(error), Some(message)) => assert!(error.contains(message), "{description}: {error}"),
            (result, _) => panic!("{description}: {result:?}"),
        }
    }
    Ok(())
}

const ONE_COUPON: &str =
    "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 1, allocationPercentage: 100}]}";

#[tokio::test]
async fn name_longer_than_63_characters_is_rejected() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let error = cluster.apply(&event(&"a".repeat(64), ONE_COUPON)?).await?.unwrap_err();
    assert!(error.contains(NAME_TOO_LONG), "{error}");
    cluster.apply(&event(&"a".repeat(63), ONE_COUPON)?).await?.map_err(anyhow::Error::msg)?;
    Ok(())
}

const NAME_TOO_LONG: &str = "metadata.name is the eventId that clients send: use at most 63 characters";

#[tokio::test]
async fn examples_are_accepted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut accepted = 0;
    for file in fs::read_dir(&folder)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let manifest = serde_yaml::from_str(&fs::read_to_string(&path)?)?;
        cluster.apply(&manifest).await?.map_err(anyhow::Error::msg).with_context(|| path.display().to_string())?;
        accepted += 1;
    }
    assert!(accepted >= 3, "{} has only {accepted} files", folder.display());
    Ok(())
}

#[tokio::test]
async fn api_server_sets_defaults() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let stored =
        cluster.apply(&event("defaults", "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 1, allocationPercentage: 100}], code: {}}")?).await?.map_err(anyhow::Error::msg)?;
    let spec = &stored["spec"];
    let defaults = json!([spec["issuance"], spec["acknowledge"], spec["deletionPolicy"], spec["code"]]);
    let code = json!({"source": "Generated", "length": 12});
    assert_eq!(defaults, json!(["Auto", "Redis", "Retain", code]));
    Ok(())
}

/// The API server adds the default of a field to an empty object, which then belongs to no field manager.
#[tokio::test]
async fn manifest_with_empty_code_can_be_applied_again() -> Result<()> {
    let cluster = Cluster::connect().await?;
    for total in [1, 1, 2] {
        let spec = ONE_COUPON.replace("totalCount: 1", &format!("totalCount: {total}, code: {{}}"));
        let stored = cluster.apply(&event("empty-code", &spec)?).await?.map_err(anyhow::Error::msg)?;
        assert_eq!(
            (&stored["spec"]["totalCount"], &stored["spec"]["code"]),
            (&json!(total), &json!({"source": "Generated", "length": 12}))
        );
    }
    Ok(())
}

#[test]
fn every_rule_has_a_violating_manifest() {
    let mut rules = BTreeSet::new();
    collect_messages(&serde_json::to_value(couponry_crds::crd()).unwrap(), &mut rules);
    let tested = INVALID.iter().map(|case| case.message).chain(CHANGES.iter().filter_map(|case| case.message));
    let tested: Vec<_> = tested.chain([NAME_TOO_LONG]).collect();
    assert!(rules.len() >= 12, "{rules:?}");
    for rule in rules {
        assert!(tested.iter().any(|part| rule.contains(part)), "no manifest violates the rule {rule:?}");
    }
}

fn collect_messages(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                messages.insert(rule["message"].as_str().expect("a rule has a message").to_owned());
            }
            fields.values().for_each(|value| collect_messages(value, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_messages(item, messages)),
        _ => {}
    }
}
