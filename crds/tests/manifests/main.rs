//! The API server refuses each manifest that breaks a rule, with words that say what to change, and takes the others.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use changes::{CHANGES, Change};
use cluster::{Cluster, event};
use refused::{REFUSED, Refused};
use serde_json::{Value, json};

mod changes;
mod cluster;
mod refused;

#[tokio::test]
async fn a_manifest_that_breaks_a_rule_is_refused_with_words_that_say_what_to_change() -> Result<()> {
    let cluster = Cluster::join().await?;
    let mut wrong = Vec::new();
    for Refused { why, spec, message } in REFUSED {
        match cluster.apply(&event("refused", spec)?).await.context(*why)? {
            Err(told) if told.contains(message) => {}
            outcome => wrong.push(format!("{why}: {outcome:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_change_goes_through_unless_it_breaks_a_rule() -> Result<()> {
    let cluster = Cluster::join().await?;
    for (i, Change { what, opened, before, after, refused }) in CHANGES.iter().enumerate() {
        let name = format!("change-{i}");
        cluster.apply(&event(&name, before)?).await?.map_err(anyhow::Error::msg).context(*what)?;
        if *opened {
            cluster.merge_status(&name, json!({"openedAt": "2026-11-30T00:00:00Z"})).await.context(*what)?;
        }
        match (cluster.apply(&event(&name, after)?).await?, refused) {
            (Ok(_), None) => {}
            (Err(told), Some(message)) => assert!(told.contains(message), "{what}: {told}"),
            (outcome, _) => panic!("{what}: {outcome:?}"),
        }
    }
    Ok(())
}

const ONE_COUPON: &str =
    "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 1, allocationPercentage: 100}]}";

#[tokio::test]
async fn a_name_that_is_no_label_is_refused() -> Result<()> {
    let cluster = Cluster::join().await?;
    let told = cluster.apply(&event(&"a".repeat(64), ONE_COUPON)?).await?.unwrap_err();
    assert!(told.contains(NAME_TOO_LONG), "{told}");
    cluster.apply(&event(&"a".repeat(63), ONE_COUPON)?).await?.map_err(anyhow::Error::msg)?;
    Ok(())
}

const NAME_TOO_LONG: &str = "metadata.name is the eventId that clients send: use at most 63 characters";

#[tokio::test]
async fn the_examples_are_taken() -> Result<()> {
    let cluster = Cluster::join().await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut taken = 0;
    for file in fs::read_dir(&folder)? {
        let path = file?.path();
        let manifest = serde_yaml::from_str(&fs::read_to_string(&path)?)?;
        cluster.apply(&manifest).await?.map_err(anyhow::Error::msg).with_context(|| path.display().to_string())?;
        taken += 1;
    }
    assert!(taken >= 3, "{} has only {taken} files", folder.display());
    Ok(())
}

#[tokio::test]
async fn the_api_server_fills_in_the_defaults() -> Result<()> {
    let cluster = Cluster::join().await?;
    let stored =
        cluster.apply(&event("defaults", "{policyName: p, totalCount: 1, discounts: [{type: Percent, value: 1, allocationPercentage: 100}], code: {}}")?).await?.map_err(anyhow::Error::msg)?;
    let spec = &stored["spec"];
    let filled = json!([spec["issuance"], spec["acknowledge"], spec["deletionPolicy"], spec["code"]["length"]]);
    assert_eq!(filled, json!(["Auto", "Redis", "Retain", 12]));
    Ok(())
}

#[test]
fn every_rule_has_a_manifest_that_breaks_it() {
    let mut rules = BTreeSet::new();
    collect_messages(&serde_json::to_value(couponry_crds::definition()).unwrap(), &mut rules);
    let tried = REFUSED.iter().map(|case| case.message).chain(CHANGES.iter().filter_map(|case| case.refused));
    let tried: Vec<_> = tried.chain([NAME_TOO_LONG]).collect();
    assert!(rules.len() >= 12, "{rules:?}");
    for rule in rules {
        assert!(tried.iter().any(|part| rule.contains(part)), "no manifest breaks the rule {rule:?}");
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
