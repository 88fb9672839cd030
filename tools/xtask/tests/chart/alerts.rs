//! The alerts, evaluated by Prometheus on metrics that were recorded in real faults: each fires in its fault, and none
//! in a normal event.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use couponry_testbed::programs::PROMTOOL;
use couponry_testbed::scratch::Scratch;
use serde_json::{Value, json};

use crate::helm::{find, root, with};

/// The recordings, and the alerts that must fire in each. Others may fire as well: a consumer without Postgres is not
/// ready, and a busy machine is slow. In the normal event, none may fire.
///
/// `cargo xtask chaos --record` makes them again, or `--record NAME` one of them. `issuers-missing` is written
/// manually: its fault needs the controllers of a cluster. So is `erasure-pending`.
const RECORDINGS: [(&str, &[&str]); 22] = [
    ("normal-event", &[]),
    ("commits-refused", &["CouponryDependencyUnavailable"]),
    ("connections-exhausted", &["CouponryConnectionLimit"]),
    ("consumers-gone", &["CouponryNoConsumers", "CouponryRecordingStalled"]),
    ("coupon-lost", &["CouponryInventoryMismatch", "CouponryEventStalled"]),
    ("erasure-pending", &["CouponryErasuresPending"]),
    ("event-not-ready", &["CouponryNotReadyForStart", "CouponryEventStalled"]),
    ("foreign-record", &["CouponryForeignRecords"]),
    ("garbage-record", &["CouponryDeadLetters"]),
    ("issuer-down", &["CouponryTargetDown"]),
    ("issuers-gone", &["CouponryNoIssuers"]),
    ("issuers-missing", &["CouponryIssuersMissing"]),
    ("jwks-down", &["CouponryDependencyUnavailable"]),
    (
        "kafka-down",
        &[
            "CouponryDependencyUnavailable",
            "CouponryHighErrorRate",
            "CouponryErrorBudgetBurn",
            "CouponryKafkaDeliveryFailing",
            "CouponryNoConsumers",
        ],
    ),
    ("operators-gone", &["CouponryNoLeader"]),
    ("postgres-down", &["CouponryConsumerLag", "CouponryDependencyUnavailable", "CouponryNoConsumers"]),
    (
        "redis-down",
        &["CouponryDependencyUnavailable", "CouponryHighErrorRate", "CouponryErrorBudgetBurn", "CouponryEventStalled"],
    ),
    ("redis-out-of-memory", &["CouponryHighErrorRate", "CouponryErrorBudgetBurn"]),
    ("redis-slow", &["CouponryHighLatency"]),
    ("redis-unverified", &["CouponryHighErrorRate", "CouponryEventStalled"]),
    ("status-rejected", &["CouponryReconcileErrors"]),
    ("stock-missing", &["CouponryDeferredRecords", "CouponryNoConsumers"]),
];

/// Recordings of an installation with redeemers, which has one more rule. `normal-redemptions`,
/// `scanner-rejected` and `uses-unsent` are written manually.
const REDEEMER_RECORDINGS: [(&str, &[&str]); 6] = [
    ("callers-rejected", &["CouponryRedemptionsUnauthorized"]),
    ("normal-redemptions", &[]),
    ("redeemers-gone", &["CouponryNoRedeemers"]),
    ("redemptions-failing", &["CouponryHighRedemptionErrorRate"]),
    ("scanner-rejected", &[]),
    ("uses-unsent", &["CouponryUsesUnsent"]),
];

/// The load of the recordings is light.
const LAG_MESSAGES: &str = "metrics.prometheusRule.lagMessages=500";
/// How often the last scrape of a recording is repeated: the fault then lasts longer than any alert waits. Rates need
/// the recorded time alone.
const HELD_SCRAPES: usize = 40;
const SCRAPE_SECONDS: usize = 15;

/// The rules of the chart with these values, as a file for promtool.
fn rules(directory: &Path, values: &[&str]) -> Value {
    let objects = with(&[&["metrics.prometheusRule.enabled=true", LAG_MESSAGES], values].concat());
    let spec = find(&objects, "PrometheusRule", "couponry")["spec"].clone();
    fs::write(directory.join("rules.yaml"), spec.to_string()).unwrap();
    spec
}

fn recordings() -> PathBuf {
    root().join("tools/xtask/tests/recordings")
}

fn promtool(directory: &Path, args: &[&str]) {
    let program = PROMTOOL.find().expect("promtool is not installed: run `cargo xtask setup`");
    let output = Command::new(program).args(args).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

fn recording(name: &str) -> Value {
    let file = recordings().join(format!("{name}.yaml"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let group: Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(group["interval"], format!("{SCRAPE_SECONDS}s"), "{name}");
    group
}

/// The test group of a recording: `fires` have fired until its end or, if it is empty, no alert has.
fn test_group(name: &str, fires: &[&str]) -> Value {
    let mut group = recording(name);
    let mut scrapes = 0;
    for series in group["input_series"].as_array_mut().unwrap() {
        let values = series["values"].as_str().unwrap();
        scrapes = scrapes.max(values.split(' ').map(count).sum());
        series["values"] = json!(hold(values));
    }
    let alerts = if fires.is_empty() { ".+".to_owned() } else { fires.join("|") };
    group["name"] = json!(name);
    group["promql_expr_test"] = json!([fired_until(SCRAPE_SECONDS * (scrapes + HELD_SCRAPES - 1), &alerts, fires)]);
    group
}

/// Of the alerts that match this expression, exactly `fires` have fired until this time.
fn fired_until(seconds: usize, alerts: &str, fires: &[&str]) -> Value {
    let sample = |alert: &&str| json!({"labels": format!("{{alertname=\"{alert}\"}}"), "value": 1});
    json!({
        "expr": format!(
            "group by (alertname) (max_over_time(ALERTS{{alertstate=\"firing\",alertname=~\"{alerts}\"}}[1d]))"
        ),
        "eval_time": format!("{seconds}s"),
        "exp_samples": fires.iter().map(sample).collect::<Vec<_>>(),
    })
}

/// The number of scrapes of a word in promtool's notation: `1x3` is four times 1, and `_x3` three missing samples.
fn count(word: &str) -> usize {
    match word.split_once('x') {
        Some(("_", times)) => times.parse().unwrap(),
        Some((_, times)) => times.parse::<usize>().unwrap() + 1,
        None => 1,
    }
}

/// Repeats the last sample, unless the series has ended.
fn hold(values: &str) -> String {
    let last = values.rsplit(' ').next().unwrap();
    match last.split('x').next() {
        Some(value) if value.parse::<f64>().is_ok() => format!("{values} {value}x{}", HELD_SCRAPES - 1),
        _ => values.to_owned(),
    }
}

/// Evaluates the rules on each recording.
fn evaluate(directory: &Path, recordings: &[(&str, &[&str])]) {
    let groups: Vec<Value> = recordings.iter().map(|(name, fires)| test_group(name, fires)).collect();
    run_tests(directory, &groups);
}

fn run_tests(directory: &Path, groups: &[Value]) {
    let tests = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": groups});
    fs::write(directory.join("tests.yaml"), tests.to_string()).unwrap();
    promtool(directory, &["test", "rules", "tests.yaml"]);
}

#[test]
fn each_alert_fires_in_its_fault_and_none_in_a_normal_event() {
    let scratch = Scratch::new("alerts").unwrap();
    rules(scratch.path(), &[]);
    promtool(scratch.path(), &["check", "rules", "rules.yaml"]);
    evaluate(scratch.path(), &RECORDINGS);
    let rules = rules(scratch.path(), &["redeemer.enabled=true"]);
    promtool(scratch.path(), &["check", "rules", "rules.yaml"]);
    evaluate(scratch.path(), &REDEEMER_RECORDINGS);

    let defined: BTreeSet<&str> =
        rules["groups"][0]["rules"].as_array().unwrap().iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    let all = || RECORDINGS.iter().chain(&REDEEMER_RECORDINGS);
    let fired: BTreeSet<&str> = all().flat_map(|(_, fires)| *fires).copied().collect();
    assert_eq!(fired, defined, "each alert needs a recording in which it fires");
    let files: BTreeSet<String> = fs::read_dir(recordings())
        .unwrap()
        .map(|file| file.unwrap().file_name().to_string_lossy().trim_end_matches(".yaml").to_owned())
        .collect();
    assert_eq!(files, all().map(|(name, _)| (*name).to_owned()).collect());
}

/// Sets the values of the series that begin with this text.
fn set(group: &mut Value, series: &str, values: &str) {
    let mut count = 0;
    for input in group["input_series"].as_array_mut().unwrap() {
        if input["series"].as_str().unwrap().starts_with(series) {
            input["values"] = json!(values);
            count += 1;
        }
    }
    assert!(count > 0, "the recording has no series {series}");
}

/// As often as Prometheus evaluates the rules and scrapes the programs by default.
#[test]
fn alerts_about_requests_fire_within_a_minute_of_the_fault() {
    /// `BASELINE` of the recordings.
    const FAULT_AT: usize = 20;
    let scratch = Scratch::new("alerts").unwrap();
    rules(scratch.path(), &[]);
    let groups = [
        ("issuers-gone", "CouponryNoIssuers"),
        ("redis-down", "CouponryHighErrorRate"),
        ("redis-down", "CouponryErrorBudgetBurn"),
        ("redis-out-of-memory", "CouponryHighErrorRate"),
        ("redis-unverified", "CouponryHighErrorRate"),
    ];
    let groups = groups.map(|(name, alert)| {
        let mut group = recording(name);
        group["name"] = json!(format!("{alert} in {name}"));
        group["promql_expr_test"] = json!([fired_until(FAULT_AT + 60, alert, &[alert])]);
        group
    });
    run_tests(scratch.path(), &groups);
}

#[test]
fn missing_issuers_are_reported_while_an_event_is_open_stalled_or_starts_soon() {
    let scratch = Scratch::new("alerts").unwrap();
    rules(scratch.path(), &[]);
    let alert = "CouponryNoIssuers";
    let case = |name: &str, change: &dyn Fn(&mut Value), fires: &[&str]| {
        let mut group = recording("issuers-gone");
        change(&mut group);
        group["name"] = json!(name);
        group["promql_expr_test"] = json!([fired_until(90, alert, fires)]);
        group
    };
    // In the recording, the event is open.
    let none_open = |group: &mut Value| {
        for input in group["input_series"].as_array_mut().unwrap() {
            if input["series"].as_str().unwrap().contains("condition=\"Open\"") {
                input["values"] = json!("0x20");
            }
        }
    };
    let starts_at = |group: &mut Value, seconds: i64| {
        let start = group["start_timestamp"].as_i64().unwrap() + seconds;
        let series = "couponry_operator_event_start_time_seconds{namespace=\"shop\",event=\"soon\"}";
        group["input_series"].as_array_mut().unwrap().push(json!({"series": series, "values": format!("{start}x20")}));
    };
    let groups = [
        case("open", &|_| (), &[alert]),
        case("between events", &none_open, &[]),
        case(
            "long before a start",
            &|group| {
                none_open(group);
                starts_at(group, 3600);
            },
            &[],
        ),
        case(
            "before a start",
            &|group| {
                none_open(group);
                starts_at(group, 600);
            },
            &[alert],
        ),
        case(
            "nothing is known about events",
            &|group| {
                let series = group["input_series"].as_array_mut().unwrap();
                series.retain(|input| !input["series"].as_str().unwrap().starts_with("couponry_operator_condition"));
            },
            &[alert],
        ),
    ];
    run_tests(scratch.path(), &groups);
}

/// A normal event in which 2 of 1000 requests fail: few enough for `CouponryHighErrorRate`.
#[test]
fn few_errors_burn_the_budget_of_a_strict_objective_only() {
    let alerts = "CouponryHighErrorRate|CouponryErrorBudgetBurn";
    for (values, fires) in [
        (&[][..], &["CouponryErrorBudgetBurn"][..]),
        (&["metrics.prometheusRule.availabilityObjectivePercent=99.5"], &[]),
    ] {
        let scratch = Scratch::new("alerts").unwrap();
        rules(scratch.path(), values);
        let mut group = recording("normal-event");
        let issuer = |number: u32, code: u32| {
            format!(
                "couponry_issuer_issue_responses_total{{namespace=\"shop\",job=\"couponry-metrics\",pod=\"issuer-{number}\",code=\"{code}\"}}"
            )
        };
        set(&mut group, "couponry_issuer_issue_responses_total", "0x40");
        set(&mut group, &issuer(1, 200), "0x3 0+1000x36");
        set(&mut group, &issuer(1, 503), "0x3 0+2x36");
        group["name"] = json!("few errors");
        group["promql_expr_test"] = json!([fired_until(180, alerts, fires)]);
        run_tests(scratch.path(), &[group]);
    }
}
