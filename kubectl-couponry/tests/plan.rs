//! `kubectl couponry plan` without a cluster, and against a real API server with the CRD.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use couponry_testbed::{Kubernetes, kubectl::wait_established, scratch::Scratch};
use serde_json::Value;

fn plan(kubeconfig: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-couponry"));
    command.arg("--kubeconfig").arg(kubeconfig).arg("plan").args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn example(name: &str) -> String {
    format!("{}/../examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"))
}

/// Writes a manifest, and returns its path.
fn write(scratch: &Scratch, name: &str, spec: &str) -> String {
    let path: PathBuf = scratch.path().join(format!("{name}.yaml"));
    let manifest = format!(
        "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}}}, spec: {{policyName: p, {spec}}}}}"
    );
    fs::write(&path, manifest).unwrap();
    path.display().to_string()
}

const TEN: &str = "totalCount: 10, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]";

#[test]
fn plan_offline_needs_no_cluster() {
    let nowhere = Path::new("/nonexistent");
    let shown = stdout(&plan(nowhere, &["--offline", "-f", &example("summer")]));
    for part in [
        "summer  Summer sale",
        "not checked by an API server",
        "100,000 in total",
        "70,000 of PERCENT:10 are generated",
        "30,000 of AMOUNT:5000 are generated",
        "SUMMER-XXXXXXXXXXXX: one of 11,529,215,046,068 guesses matches a code",
        "about 3.33 MB loaded, 15.50 MB sold out",
        "WARN It has no endTime",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let shown = stdout(&plan(nowhere, &["--offline", "-f", &example("flash")]));
    for part in [
        "admission   all users within 1 min 0 s from the start",
        "drops       34,000 available from the start",
        "16,000 more at 2030-06-01 11:30:00 UTC",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let json: Value =
        serde_json::from_str(&stdout(&plan(nowhere, &["--offline", "-f", &example("flash"), "-o", "json"]))).unwrap();
    assert_eq!((&json[0]["admissionRampSeconds"], &json[0]["availableAtStart"]), (&60.into(), &34_000.into()));
    assert_eq!(json[0]["drops"], serde_json::json!([{"at": "2030-06-01T11:30:00Z", "count": 16_000}]));
    let json: Value =
        serde_json::from_str(&stdout(&plan(nowhere, &["--offline", "-f", &example("summer"), "-o", "json"]))).unwrap();
    assert_eq!((&json[0]["totalCount"], &json[0]["checkedByServer"]), (&100_000.into(), &false.into()));
    assert_eq!(json[0]["added"][1]["count"], 30_000);
    for name in ["counts", "flash", "scheduled"] {
        stdout(&plan(nowhere, &["--offline", "-f", &example(name)]));
    }

    let scratch = Scratch::new("plan").unwrap();
    let wrong = write(&scratch, "wrong", &TEN.replace("100}", "99}"));
    let refused = error(&plan(nowhere, &["--offline", "-f", &wrong]));
    assert!(refused.contains("wrong cannot be applied") && refused.contains("99"), "{refused}");
    assert!(error(&plan(nowhere, &["-f", &example("summer")])).contains("cannot read the kubeconfig"));
    assert!(error(&plan(nowhere, &["--offline", "-f", "/nonexistent"])).contains("cannot read /nonexistent"));
}

#[test]
fn plan_is_checked_by_the_api_server_and_changes_nothing() {
    let kubernetes = Kubernetes::start().unwrap();
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &couponry_crds::crd_yaml()).unwrap();
    wait_established(kubernetes.kubeconfig(), &["crd/couponevents.couponry.dev"]).unwrap();
    let scratch = Scratch::new("plan").unwrap();
    let run = |file: &str| plan(kubernetes.kubeconfig(), &["-f", file]);

    let shown = stdout(&run(&example("flash")));
    assert!(shown.contains("creates the event in the namespace default"), "{shown}");
    assert!(shown.contains("at least 8, 10 min 0 s before the start"), "{shown}");
    assert!(shown.contains("the issuers have no autoscaler"), "{shown}");
    let table = kubernetes.kubectl(&["get", "ce", "--output", "name"]).unwrap();
    assert_eq!(table, "", "a plan creates nothing");

    // A rule that only the API server evaluates.
    let twice =
        "totalCount: 2, discounts: [{type: Percent, value: 10, count: 1}, {type: Percent, value: 10, count: 1}]";
    let refused = error(&run(&write(&scratch, "twice", twice)));
    assert!(refused.contains("twice cannot be applied: ") && refused.contains("discounts"), "{refused}");
    let unknown = error(&run(&write(&scratch, "unknown", &format!("{TEN}, totalcount: 9"))));
    assert!(unknown.contains("totalcount"), "{unknown}");

    let existing = write(&scratch, "existing", TEN);
    kubernetes.kubectl(&["apply", "-f", &existing]).unwrap();
    let shown = stdout(&run(&existing));
    assert!(shown.contains("the event exists, and its spec stays as it is"), "{shown}");
    let more = write(&scratch, "existing", &TEN.replace("totalCount: 10", "totalCount: 20"));
    let shown = stdout(&run(&more));
    assert!(shown.contains("changes an event that has not opened"), "{shown}");
    assert_eq!(kubernetes.kubectl(&["get", "ce", "existing", "--output=jsonpath={.spec.totalCount}"]).unwrap(), "10");
    let opened = r#"{"status":{"openedAt":"2026-01-01T00:00:00Z"}}"#;
    kubernetes.kubectl(&["patch", "ce", "existing", "--subresource=status", "--type=merge", "-p", opened]).unwrap();
    let shown = stdout(&run(&more));
    assert!(shown.contains("tops up the open event by 10 coupons"), "{shown}");
    assert!(shown.contains("10 of PERCENT:10 are generated"), "{shown}");
    let fewer = error(&run(&write(&scratch, "existing", &TEN.replace("totalCount: 10", "totalCount: 9"))));
    assert!(fewer.contains("totalCount cannot be lowered"), "{fewer}");

    for apply in [&["apply"][..], &["apply", "--server-side"], &["create"]] {
        plan_shows_removed_fields(&kubernetes, &scratch, apply);
    }

    let other = stdout(&run(&write(&scratch, "other", TEN)));
    assert!(other.contains("overlaps    existing, 10 coupons, until it is sold out"), "{other}");
    let elsewhere =
        stdout(&plan(kubernetes.kubeconfig(), &["-n", "kube-public", "-f", &write(&scratch, "other", TEN)]));
    assert!(elsewhere.contains("in the namespace kube-public") && !elsewhere.contains("overlaps"), "{elsewhere}");
}

/// The plan for a manifest without the end time of the existing event is what `apply` does then.
fn plan_shows_removed_fields(kubernetes: &Kubernetes, scratch: &Scratch, create: &[&str]) {
    let name = create.join("");
    let with_end = write(scratch, &name, &format!("{TEN}, endTime: '2100-01-01T00:00:00Z'"));
    kubernetes.kubectl(&[create, &["-f", &with_end]].concat()).unwrap();
    // Not a part of the manifest, and not removed.
    kubernetes.kubectl(&["annotate", "ce", &name, "couponry.dev/hold=wrong price"]).unwrap();
    let without_end = write(scratch, &name, TEN);
    let shown = stdout(&plan(kubernetes.kubeconfig(), &["-f", &without_end]));
    assert!(shown.contains("holds it (wrong price)"), "{shown}");
    let apply = if create == ["create"] { &["apply"] } else { create };
    kubernetes.kubectl(&[apply, &["-f", &without_end]].concat()).unwrap();
    let end = kubernetes.kubectl(&["get", "ce", &name, "--output=jsonpath={.spec.endTime}"]).unwrap();
    assert_eq!(end.is_empty(), create != ["create"]);
    assert_eq!(shown.contains("changes an event that has not opened"), end.is_empty(), "{create:?}: {shown}");
    assert_eq!(shown.contains("It has no endTime"), end.is_empty(), "{create:?}: {shown}");
    kubernetes.kubectl(&["delete", "ce", &name]).unwrap();
}
