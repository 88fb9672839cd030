//! Alerts and the dashboard: referenced metrics exist, and each alert has a section in the runbook.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::helm::{chart, find, root, with};

const ON: &[&str] = &["metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true", "redeemer.enabled=true"];

#[test]
fn alerts_and_dashboard_reference_only_exported_metrics() {
    let objects = with(ON);
    let rules = find(&objects, "PrometheusRule", "couponry").to_string();
    let dashboard = find(&objects, "ConfigMap", "couponry-dashboard")["data"]["couponry.json"].as_str().unwrap();
    let file = fs::read_to_string(chart().join("files/dashboard.json")).unwrap();
    let json: Value = serde_json::from_str(dashboard).unwrap();
    assert_eq!(json, serde_json::from_str::<Value>(&file).unwrap());

    let exported = exported();
    let referenced: BTreeSet<String> = names(&rules).into_iter().chain(names(dashboard)).collect();
    assert!(referenced.len() > 15, "{referenced:?}");
    for name in referenced {
        let suffixes = ["_total", "_bucket", "_sum", "_count", ""];
        let known = suffixes.iter().filter_map(|suffix| name.strip_suffix(suffix)).any(|base| exported.contains(base));
        assert!(known, "no program exports {name}: {exported:?}");
    }
}

/// Names of the exported metrics without the suffixes of the text format: every string literal in the metrics modules
/// that looks like a name.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for program in ["operator", "issuer", "consumer", "redeemer"] {
        let sources = [&format!("{program}/src/metrics.rs"), "libs/runtime/src/health.rs"];
        let source = sources.map(|source| fs::read_to_string(root().join(source)).unwrap()).concat();
        for name in source.split('"').skip(1).step_by(2).filter(|literal| literal.chars().all(is_name)) {
            names.extend(["", "_seconds"].map(|unit| format!("couponry_{program}_{name}{unit}")));
        }
    }
    names
}

fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

fn names(text: &str) -> BTreeSet<String> {
    let starts = ["couponry_operator_", "couponry_issuer_", "couponry_consumer_", "couponry_redeemer_"];
    let words = text.split(|c: char| !is_name(c));
    words.filter(|word| starts.iter().any(|start| word.starts_with(start))).map(str::to_owned).collect()
}

#[test]
fn every_alert_has_a_runbook_section() {
    let published = "metrics.prometheusRule.runbookUrl=https://docs.example.com/runbook";
    let objects = with(&[ON, &[published]].concat());
    let runbook = fs::read_to_string(root().join("docs/operate/runbook.md")).unwrap();
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let rules = find(&objects, "PrometheusRule", "couponry")["spec"]["groups"][0]["rules"].as_array().unwrap();
    let mut alerts = BTreeSet::new();
    for rule in rules {
        let alert = rule["alert"].as_str().unwrap();
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert_eq!(url, format!("https://docs.example.com/runbook#{}", alert.to_lowercase()));
        for required in ["summary", "description"] {
            assert!(rule["annotations"][required].is_string(), "{alert} has no {required}");
        }
        assert!(rule["labels"]["severity"].is_string(), "{alert}");
        alerts.insert(alert);
    }
    assert_eq!(alerts, sections);

    // Without a published runbook, alerts must not link to one.
    let unpublished = find(&with(ON), "PrometheusRule", "couponry")["spec"]["groups"][0]["rules"].clone();
    for rule in unpublished.as_array().unwrap() {
        assert_eq!(rule["annotations"].get("runbook_url"), None, "{}", rule["alert"]);
    }
}
