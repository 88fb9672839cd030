//! The commands of `kubectl couponry`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use serde_json::{Value, json};

use super::dashboard;
use super::environment::Environment;
use super::lifecycle::{manifest, manifest_with};
use crate::cluster_backends::NAMESPACE;

/// Number of codes of each imported file: more than the buffers between the plugin and the operator hold.
const IMPORTED: u64 = 50_000;

pub(super) fn run(environment: &Environment) -> Result<()> {
    check_plan(environment)?;
    environment.apply_event("plugin", &manifest("plugin", 100))?;
    let coupon = environment.issue("plugin", "anna")?;
    let key = coupon["couponKey"].as_str().context("anna did not receive a coupon")?;
    for (args, expected) in [
        (&["status", "plugin"][..], "plugin"),
        (&["check"], "OK"),
        (&["pause", "plugin"], "plugin"),
        (&["resume", "plugin"], "plugin"),
        (&["topup", "plugin", "50"], "150"),
        (&["hold", "plugin", "--reason", "wrong price"], "wrong price"),
        (&["release-hold", "plugin"], "plugin"),
        (&["audit", "plugin"], "OK"),
        (&["report", "plugin"], "1 of 150 coupons"),
        (&["export", "plugin", "issuances"], key),
    ] {
        let printed = environment.couponry_text(args)?;
        ensure!(
            printed.contains(expected),
            "the output of kubectl couponry {} has no {expected:?}:\n{printed}",
            args.join(" ")
        );
        println!("$ kubectl couponry {}\n{}", args.join(" "), printed.trim_end());
    }
    check_report(environment)?;
    dashboard::check(environment, "plugin")?;
    check_export_to_closed_output(environment)?;
    let missing = environment.couponry_text(&["audit", "nothing"]);
    ensure!(missing.is_err(), "the audit of a missing event succeeded: {missing:?}");
    check_import(environment)
}

/// Plans an event before it is applied, and a wrong one.
fn check_plan(environment: &Environment) -> Result<()> {
    let step = Step::start("planning an event");
    let scratch = Scratch::new("plan")?;
    let file = scratch.path().join("plugin.yaml");
    let filename = file.display().to_string();
    let plan = |fields: &Value| {
        fs::write(&file, manifest_with("plugin", 100, fields))?;
        environment.couponry(&["plan", "--filename", &filename], Stdio::null())
    };
    let planned = plan(&json!({
        "startTime": "2098-01-01T00:00:00Z", "admission": {"rampSeconds": 60},
        "drops": [{"at": "2098-01-01T01:00:00Z", "count": 40}],
    }))?;
    let parts =
        ["creates the event", "70 of PERCENT:10 are generated", "60 available from the start", "within 1 min 0 s"];
    ensure!(planned.status.success() && parts.iter().all(|part| planned.stdout.contains(part)), "{planned:?}");
    // The API server evaluates this rule.
    let refused = plan(&json!({"admission": {"rampSeconds": 60}}))?;
    ensure!(
        refused.status.code() == Some(1) && refused.stderr.contains("admission requires startTime"),
        "an invalid plan: {refused:?}"
    );
    let existing = environment.kubectl.run(&["get", "couponevent/plugin"]);
    ensure!(existing.is_err(), "the plan has created the event: {existing:?}");
    step.done();
    Ok(())
}

/// The report in the formats for programs and for people.
fn check_report(environment: &Environment) -> Result<()> {
    let step = Step::start("reporting an event");
    let json: Value = serde_json::from_str(&environment.couponry_text(&["report", "plugin", "--output", "json"])?)?;
    // The metrics of the issuers come through a real kubelet.
    ensure!(json["recorded"] == 1 && json["issuers"].is_object(), "the report: {json}");
    let svg = environment.couponry_text(&["report", "plugin", "--output", "svg"])?;
    ensure!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "the report: {svg}");
    step.done();
    Ok(())
}

/// Checks the exit codes of an export whose output is closed or full. The export is larger than the buffer of a pipe.
fn check_export_to_closed_output(environment: &Environment) -> Result<()> {
    environment.apply_event("large", &manifest("large", 20_000))?;
    let export =
        format!("{} --namespace {NAMESPACE} export large coupons", environment.program("kubectl-couponry").display());
    for (script, expected) in
        [(format!("set -o pipefail; {export} | head -3"), Some(141)), (format!("{export} > /dev/full"), Some(2))]
    {
        let script = ["-c", &script];
        let ran = Command::new("timeout")
            .args(["60", "bash"])
            .args(script)
            .env("KUBECONFIG", environment.kubeconfig())
            .output()?;
        let errors = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.code() == expected, "{} ended with {}: {errors}", script[1], ran.status);
    }
    environment.kubectl.run(&["delete", "couponevent/large", "--timeout=120s"]).map(drop)
}

/// Imports codes through the standard input of the operator's pod: a plain file, and for a top-up a compressed one.
fn check_import(environment: &Environment) -> Result<()> {
    let (kubectl, event) = (&environment.kubectl, "couponevent/imported");
    let import = |file: &str, stdin: Stdio| environment.couponry(&["import", "imported", file], stdin);
    kubectl.apply(&manifest_with("imported", IMPORTED, &json!({"code": {"source": "Imported"}})))?;
    let reason = |reason| format!(r#"jsonpath={{.status.conditions[?(@.type=="Preloaded")].reason}}={reason}"#);
    kubectl.wait(event, &reason("AwaitingCodes"), 60)?;

    let scratch = Scratch::new("import")?;
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (plain, more) = (codes(0), codes(IMPORTED));
    fs::write(path("codes.csv"), &plain)?;
    fs::write(path("more.csv"), &more)?;
    let compressed = Command::new("gzip").arg(path("more.csv")).status().context("cannot run gzip")?;
    ensure!(compressed.success(), "gzip ended with {compressed}");

    let step = Step::start("importing a file with wrong lines");
    let wrong = plain.replacen(",PERCENT:10", ",PERCENT:11", 2).replacen("AMOUNT:5000\n", "AMOUNT:5000,\n", 1);
    fs::write(path("wrong.csv"), &wrong)?;
    let refused = import(&path("wrong.csv"), Stdio::null())?;
    let problems = [
        "line 2: the event has no such discount: expected AMOUNT:5000 or PERCENT:10",
        "line 3: the event has no such discount: expected AMOUNT:5000 or PERCENT:10",
        &format!("line {}: expected two columns", IMPORTED * 7 / 10 + 2),
        "REFUSED: nothing was imported",
    ];
    ensure!(
        refused.status.code() == Some(1) && problems.iter().all(|problem| refused.stdout.contains(problem)),
        "a wrong file: {refused:?}"
    );
    let truncated = import("-", Stdio::null())?;
    ensure!(
        truncated.status.code() == Some(1) && truncated.stdout.contains("the file has 0 codes of PERCENT:10"),
        "an empty file: {truncated:?}"
    );
    kubectl.wait(event, &reason("AwaitingCodes"), 60)?;
    step.done();

    let step = Step::start("importing codes through standard input");
    for expected in [format!("{IMPORTED} codes imported"), "imported already".to_owned()] {
        let imported = import("-", File::open(path("codes.csv"))?.into())?;
        ensure!(
            imported.status.success() && imported.stdout.replace(',', "").contains(&expected),
            "{expected:?} is missing: {imported:?}"
        );
        environment.wait_ready("imported")?;
    }
    step.done_with("the event opened when its codes were imported");
    let codes: HashSet<&str> = plain.lines().filter_map(|line| line.split(',').next()).collect();
    let coupon = environment.issue("imported", "anna")?;
    let key = coupon["couponKey"].as_str().context("anna did not receive a coupon")?;
    ensure!(codes.contains(key), "anna received {coupon}, which was not imported");

    let step = Step::start("importing a compressed file for a top-up");
    let topped_up = environment.couponry_text(&["topup", "imported", &IMPORTED.to_string()])?;
    ensure!(topped_up.contains("codes have to be imported"), "{topped_up}");
    kubectl.wait(event, &reason("AwaitingCodes"), 60)?;
    let imported = import(&path("more.csv.gz"), Stdio::null())?;
    ensure!(imported.status.success(), "{imported:?}");
    kubectl.wait(event, &format!("jsonpath={{.status.loaded}}={}", 2 * IMPORTED), 180)?;
    step.done();
    let audit = environment.couponry_text(&["audit", "imported"])?;
    ensure!(audit.contains("OK"), "{audit}");
    kubectl.run(&["delete", event, "--timeout=120s"]).map(drop)
}

/// A file with codes for [`manifest`]. Equal numbers have equal codes.
fn codes(first: u64) -> String {
    (first..first + IMPORTED).fold("code,discount\n".to_owned(), |mut file, number| {
        let discount = if number - first < IMPORTED * 7 / 10 { "PERCENT:10" } else { "AMOUNT:5000" };
        // The factor is odd, so all codes are different. They are not consecutive either.
        let _ = writeln!(file, "{:016X},{discount}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        file
    })
}
