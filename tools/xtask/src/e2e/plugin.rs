//! `kubectl couponry`, as its users call it.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::life::manifest;
use super::stage::Stage;
use crate::beside::NAMESPACE;

pub(super) fn play(stage: &Stage) -> Result<()> {
    stage.ready("plugin", &manifest("plugin", 100))?;
    let coupon = stage.ask("plugin", "anna")?;
    let key = coupon["couponKey"].as_str().context("anna got no coupon")?;
    for (args, expected) in [
        (&["status", "plugin"][..], "plugin"),
        (&["check"], "OK"),
        (&["pause", "plugin"], "plugin"),
        (&["resume", "plugin"], "plugin"),
        (&["topup", "plugin", "50"], "150"),
        (&["audit", "plugin"], "OK"),
        (&["export", "plugin", "issuances"], key),
    ] {
        let printed = couponry(stage, args)?;
        ensure!(printed.contains(expected), "kubectl couponry {}: no {expected:?} in\n{printed}", args.join(" "));
        println!("$ kubectl couponry {}\n{}", args.join(" "), printed.trim_end());
    }
    a_closed_output_ends_an_export(stage)?;
    let missing = couponry(stage, &["audit", "nothing"]);
    ensure!(missing.is_err(), "an event that does not exist was audited: {missing:?}");
    Ok(())
}

/// Of an event of which no pipe holds everything.
fn a_closed_output_ends_an_export(stage: &Stage) -> Result<()> {
    stage.ready("large", &manifest("large", 20_000))?;
    let export =
        format!("{} --namespace {NAMESPACE} export large coupons", stage.program("kubectl-couponry").display());
    for (script, expected) in
        [(format!("set -o pipefail; {export} | head -3"), Some(0)), (format!("{export} > /dev/full"), Some(2))]
    {
        let script = ["-c", &script];
        let ran =
            Command::new("timeout").args(["60", "bash"]).args(script).env("KUBECONFIG", stage.kubeconfig()).output()?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.code() == expected, "{} ended with {}: {said}", script[1], ran.status);
    }
    stage.kubectl.run(&["delete", "couponevent/large", "--timeout=120s"]).map(drop)
}

fn couponry(stage: &Stage, args: &[&str]) -> Result<String> {
    let program = stage.program("kubectl-couponry");
    let ran = Command::new(&program)
        .env("KUBECONFIG", stage.kubeconfig())
        .args(["--namespace", stage.kubectl.namespace()])
        .args(args)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "kubectl couponry {} ({}):\n{printed}{said}", args.join(" "), ran.status);
    Ok(printed)
}
