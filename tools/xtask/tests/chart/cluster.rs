//! A real API server accepts the rendered objects.

use std::process::Command;
use std::sync::OnceLock;

use couponry_testbed::database::unique_name;
use couponry_testbed::kubectl::wait_established;
use couponry_testbed::{programs, shared};
use serde_json::{Value, json};

use crate::helm::{chart, helm, objects, pods, template, variants};

/// A namespace that enforces Pod Security `restricted`.
fn namespace() -> String {
    let name = unique_name("chart");
    shared::kubectl(&["create", "namespace", &name]).unwrap();
    let restricted = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    shared::kubectl(&["label", "namespace", &name, &restricted[0], &restricted[1]]).unwrap();
    name
}

/// Installs the CRDs of the Prometheus Operator and the Gateway API.
fn install_third_party_crds() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for crds in [&programs::PROMETHEUS_OPERATOR, &programs::GATEWAY_API] {
            for file in crds.find().expect("third-party CRDs are not installed: run `cargo xtask setup`") {
                let file = file.to_str().unwrap();
                shared::kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file]).unwrap();
                wait_established(&shared::kubeconfig(), &["-f", file]).unwrap();
            }
        }
    });
}

fn dry_run(namespace: &str, manifest: &str) -> Result<String, String> {
    let apply = [
        "apply",
        "--namespace",
        namespace,
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    ];
    shared::kubectl_with(&apply, manifest).map_err(|error| format!("{error:#}"))
}

#[test]
fn api_server_accepts_every_variant() {
    install_third_party_crds();
    let namespace = namespace();
    for (name, values) in variants() {
        let manifest = template(&chart(), &namespace, &["--values", values.to_str().unwrap()]).unwrap();
        let output = dry_run(&namespace, &manifest).unwrap_or_else(|output| panic!("{name}: {output}"));
        assert_eq!(output.lines().count(), objects(&manifest).len(), "{name}: {output}");
    }
}

/// For a Deployment, Pod Security only warns, so this test submits the pods themselves.
#[test]
fn pod_security_accepts_every_pod() {
    let namespace = namespace();
    for (name, values) in variants() {
        let rendered = objects(&template(&chart(), &namespace, &["--values", values.to_str().unwrap()]).unwrap());
        for (owner, template) in pods(&rendered) {
            let output = dry_run(&namespace, &pod(&owner, template).to_string());
            assert!(output.is_ok(), "{name}: {owner}: {output:?}");
        }
    }
}

/// Proves that the test above can fail.
#[test]
fn pod_security_rejects_root_pod() {
    let namespace = namespace();
    let (_, values) = &variants()[0];
    let rendered = objects(&template(&chart(), &namespace, &["--values", values.to_str().unwrap()]).unwrap());
    let (owner, template) = pods(&rendered)[0].clone();
    let mut pod = pod(&owner, template);
    pod["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
    let output = dry_run(&namespace, &pod.to_string()).unwrap_err();
    assert!(output.contains("violates PodSecurity \"restricted"), "{output}");
}

/// The notes that Helm prints after an installation with these values.
fn notes(namespace: &str, sets: &[&str]) -> String {
    let chart = chart();
    let mut args = vec!["install", "couponry", chart.to_str().unwrap(), "--dry-run=server", "--namespace", namespace];
    // Another test may have installed the CRD without Helm.
    for set in [&["crds.enabled=false"], sets].concat() {
        args.extend(["--set", set]);
    }
    let kubeconfig = shared::kubeconfig();
    args.extend(["--kubeconfig", kubeconfig.to_str().unwrap()]);
    let output = helm(args).unwrap();
    output.split_once("NOTES:").expect(&output).1.to_owned()
}

#[test]
fn notes_contain_valid_shell_commands() {
    let namespace = namespace();
    for sets in
        [&[][..], &["ingress.enabled=true", "ingress.hosts={a.example.com}"], &["issuer.userIdentity=header:X-User"]]
    {
        let notes = notes(&namespace, sets);
        let script = notes.split_once("Create an event:\n").expect(&notes).1;
        let (script, _) = script.split_once("Watch the events:").expect(&notes);
        let script = script.replace("Request a coupon:", "");
        let syntax_check = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
        // An unterminated here-document is only a warning.
        assert!(syntax_check.status.success() && syntax_check.stderr.is_empty(), "{syntax_check:?}\n{script}");
        let (_, text) = script.split_once("<<'EOF'\n").expect(&script);
        let (event, _) = text.split_once("\nEOF\n").expect(&script);
        let event: Value = serde_yaml::from_str(event).unwrap();
        assert_eq!(event["metadata"]["name"], "hello");
    }
}

#[test]
fn notes_list_missing_secrets() {
    let namespace = namespace();
    let external =
        ["redis.mode=external", "redis.external.url=rediss://r:1", "redis.external.existingSecret.name=login"];
    let sets = [&external[..], &["redis.external.ca.secretName=authority"]].concat();
    assert!(!notes(&namespace, &[]).contains("MISSING"), "no Secret is required");
    let both = notes(&namespace, &sets);
    assert!(
        both.contains("  authority (redis.external.ca.secretName)\n  login (redis.external.existingSecret)"),
        "{both}"
    );
    shared::kubectl(&["create", "secret", "generic", "login", "--namespace", &namespace, "--from-literal=password=x"])
        .unwrap();
    let one = notes(&namespace, &sets);
    assert!(one.contains("  authority (") && !one.contains("  login ("), "{one}");
}

fn pod(name: &str, template: &Value) -> Value {
    let mut spec = template["spec"].clone();
    // The volume claims of a StatefulSet do not exist here.
    if let Some(volumes) = spec["volumes"].as_array_mut()
        && !volumes.iter().any(|volume| volume["name"] == "data")
    {
        volumes.push(json!({"name": "data", "emptyDir": {}}));
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": spec})
}

#[test]
fn operator_role_grants_only_required_permissions() {
    let mut scaled = PERMISSIONS.to_vec();
    scaled.extend([
        "apps deployments couponry-issuer: get",
        "autoscaling horizontalpodautoscalers : create",
        "autoscaling horizontalpodautoscalers couponry-issuer: get,patch",
    ]);
    let mut unscaled = PERMISSIONS.to_vec();
    unscaled.extend([
        "autoscaling horizontalpodautoscalers : list",
        "autoscaling horizontalpodautoscalers couponry-issuer: delete",
    ]);
    for (set, mut expected) in
        [("issuer.autoscaling.enabled=true", scaled), ("issuer.autoscaling.enabled=false", unscaled)]
    {
        expected.sort_unstable();
        assert_eq!(operator_permissions(set), expected, "{set}");
    }
}

/// Permissions of the operator's service account, according to the API server.
fn operator_permissions(set: &str) -> Vec<String> {
    let namespace = namespace();
    let sets = ["--set", set, "--set", "operator.admin.enabled=true"];
    let rendered = objects(&template(&chart(), &namespace, &sets).unwrap());
    for object in rendered.iter().filter(|it| {
        let kind = it["kind"].as_str().unwrap();
        it["metadata"]["name"] == "couponry-operator" && ["Role", "RoleBinding", "ServiceAccount"].contains(&kind)
    }) {
        let apply = ["apply", "--namespace", &namespace, "-f", "-"];
        shared::kubectl_with(&apply, &object.to_string()).unwrap();
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}});
    let user = format!("--as=system:serviceaccount:{namespace}:couponry-operator");
    let output =
        shared::kubectl_with(&["create", "--validate=false", &user, "-o", "json", "-f", "-"], &review.to_string())
            .unwrap();
    let output: Value = serde_json::from_str(&output).unwrap();
    let mut permissions: Vec<String> = Vec::new();
    for rule in output["status"]["resourceRules"].as_array().unwrap() {
        let words = |field: &str| {
            let words = rule[field].as_array().into_iter().flatten().map(|word| word.as_str().unwrap());
            words.collect::<Vec<_>>().join(",")
        };
        // Permissions of every authenticated user.
        if !["authorization.k8s.io", "authentication.k8s.io"].contains(&words("apiGroups").as_str()) {
            let line =
                format!("{} {} {}: {}", words("apiGroups"), words("resources"), words("resourceNames"), words("verbs"));
            let line = line.replace(&namespace, "NAMESPACE");
            permissions.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    permissions.sort();
    permissions
}

/// Group, resource, resource name if restricted, and verbs that are granted in any case.
const PERMISSIONS: &[&str] = &[
    "coordination.k8s.io leases : create",
    "coordination.k8s.io leases couponry-operator: get,update",
    "couponry.dev couponevents : get,list,watch,patch,create",
    "couponry.dev couponevents/status : patch",
    "events.k8s.io events : create,patch",
    "namespaces NAMESPACE: get",
    "pods : list",
];
