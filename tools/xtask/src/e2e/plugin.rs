//! The commands of `kubectl couponry`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::environment::Environment;
use super::lifecycle::manifest;
use crate::cluster_backends::NAMESPACE;

pub(super) fn run(environment: &Environment) -> Result<()> {
    environment.apply_event("plugin", &manifest("plugin", 100))?;
    let coupon = environment.issue("plugin", "anna")?;
    let key = coupon["couponKey"].as_str().context("anna did not receive a coupon")?;
    for (args, expected) in [
        (&["status", "plugin"][..], "plugin"),
        (&["check"], "OK"),
        (&["pause", "plugin"], "plugin"),
        (&["resume", "plugin"], "plugin"),
        (&["topup", "plugin", "50"], "150"),
        (&["audit", "plugin"], "OK"),
        (&["export", "plugin", "issuances"], key),
    ] {
        let printed = couponry(environment, args)?;
        ensure!(
            printed.contains(expected),
            "the output of kubectl couponry {} has no {expected:?}:\n{printed}",
            args.join(" ")
        );
        println!("$ kubectl couponry {}\n{}", args.join(" "), printed.trim_end());
    }
    check_export_to_closed_output(environment)?;
    let missing = couponry(environment, &["audit", "nothing"]);
    ensure!(missing.is_err(), "the audit of a missing event succeeded: {missing:?}");
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

fn couponry(environment: &Environment, args: &[&str]) -> Result<String> {
    let program = environment.program("kubectl-couponry");
    let ran = Command::new(&program)
        .env("KUBECONFIG", environment.kubeconfig())
        .args(["--namespace", environment.kubectl.namespace()])
        .args(args)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "kubectl couponry {} ({}):\n{printed}{errors}", args.join(" "), ran.status);
    Ok(printed)
}
