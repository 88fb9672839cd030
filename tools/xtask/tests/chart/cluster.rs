//! What a real API server says to what the chart renders.

use std::process::Command;
use std::sync::OnceLock;

use couponry_testbed::database::unique_name;
use couponry_testbed::{programs, shared};
use serde_json::{Value, json};

use crate::helm::{chart, helm, objects, pods, template, variants};

/// A namespace that takes only pods that are as restricted as can be.
fn namespace() -> String {
    let name = unique_name("chart");
    shared::kubectl(&["create", "namespace", &name]).unwrap();
    let restricted = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    shared::kubectl(&["label", "namespace", &name, &restricted[0], &restricted[1]]).unwrap();
    name
}

/// The kinds of others that the chart has objects of.
fn install_kinds() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for kinds in [&programs::PROMETHEUS_OPERATOR, &programs::GATEWAY_API] {
            for file in kinds.find().expect("they are not there: run `cargo xtask setup`") {
                let file = file.to_str().unwrap();
                shared::kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file]).unwrap();
                shared::kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", file]).unwrap();
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
fn the_api_server_takes_every_variant() {
    install_kinds();
    let namespace = namespace();
    for (name, values) in variants() {
        let manifest = template(&chart(), &namespace, &["--values", values.to_str().unwrap()]).unwrap();
        let told = dry_run(&namespace, &manifest).unwrap_or_else(|told| panic!("{name}: {told}"));
        assert_eq!(told.lines().count(), objects(&manifest).len(), "{name}: {told}");
    }
}

/// For a Deployment whose pods break the rules of Pod Security there is only a warning, so the pods themselves are tried.
#[test]
fn pod_security_takes_every_pod() {
    let namespace = namespace();
    for (name, values) in variants() {
        let rendered = objects(&template(&chart(), &namespace, &["--values", values.to_str().unwrap()]).unwrap());
        for (owner, template) in pods(&rendered) {
            let told = dry_run(&namespace, &pod(&owner, template).to_string());
            assert!(told.is_ok(), "{name}: {owner}: {told:?}");
        }
    }
}

/// The test above can fail.
#[test]
fn pod_security_refuses_a_pod_that_may_more() {
    let namespace = namespace();
    let (_, values) = &variants()[0];
    let rendered = objects(&template(&chart(), &namespace, &["--values", values.to_str().unwrap()]).unwrap());
    let (owner, template) = pods(&rendered)[0].clone();
    let mut pod = pod(&owner, template);
    pod["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
    let told = dry_run(&namespace, &pod.to_string()).unwrap_err();
    assert!(told.contains("violates PodSecurity \"restricted"), "{told}");
}

/// What Helm says after an installation, with these values.
fn notes(namespace: &str, sets: &[&str]) -> String {
    let chart = chart();
    let mut args = vec!["install", "couponry", chart.to_str().unwrap(), "--dry-run=server", "--namespace", namespace];
    // The definition is there already, and not Helm's.
    for set in [&["crds.enabled=false"], sets].concat() {
        args.extend(["--set", set]);
    }
    let kubeconfig = shared::kubeconfig();
    args.extend(["--kubeconfig", kubeconfig.to_str().unwrap()]);
    let told = helm(args).unwrap();
    told.split_once("NOTES:").expect(&told).1.to_owned()
}

#[test]
fn the_notes_are_commands_that_can_be_pasted() {
    let namespace = namespace();
    for sets in
        [&[][..], &["ingress.enabled=true", "ingress.hosts={a.example.com}"], &["issuer.userIdentity=header:X-User"]]
    {
        let notes = notes(&namespace, sets);
        let script = notes.split_once("Make an event:\n").expect(&notes).1;
        let (script, _) = script.split_once("Watch it:").expect(&notes);
        let script = script.replace("Ask for a coupon:", "");
        let checked = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
        // Where a text has no end, bash only warns.
        assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}\n{script}");
        let (_, text) = script.split_once("<<'EOF'\n").expect(&script);
        let (event, _) = text.split_once("\nEOF\n").expect(&script);
        let event: Value = serde_yaml::from_str(event).unwrap();
        assert_eq!(event["metadata"]["name"], "hello");
    }
}

#[test]
fn the_notes_name_the_secrets_that_are_not_there() {
    let namespace = namespace();
    let external =
        ["redis.mode=external", "redis.external.url=rediss://r:1", "redis.external.existingSecret.name=login"];
    let sets = [&external[..], &["redis.external.ca.secretName=authority"]].concat();
    assert!(!notes(&namespace, &[]).contains("MISSING"), "it names none");
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
    // Nobody has made the claims of a StatefulSet.
    if let Some(volumes) = spec["volumes"].as_array_mut()
        && !volumes.iter().any(|volume| volume["name"] == "data")
    {
        volumes.push(json!({"name": "data", "emptyDir": {}}));
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": spec})
}

#[test]
fn the_operator_may_what_it_does_and_nothing_else() {
    let mut scaled = MAY.to_vec();
    scaled.extend([
        "apps deployments couponry-issuer: get",
        "autoscaling horizontalpodautoscalers : create",
        "autoscaling horizontalpodautoscalers couponry-issuer: get,patch",
    ]);
    let mut unscaled = MAY.to_vec();
    unscaled.extend([
        "autoscaling horizontalpodautoscalers : list",
        "autoscaling horizontalpodautoscalers couponry-issuer: delete",
    ]);
    for (set, mut may) in [("issuer.autoscaling.enabled=true", scaled), ("issuer.autoscaling.enabled=false", unscaled)]
    {
        may.sort_unstable();
        assert_eq!(rights_of_the_operator(set), may, "{set}");
    }
}

/// What the API server itself says that its account may.
fn rights_of_the_operator(set: &str) -> Vec<String> {
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
    let told =
        shared::kubectl_with(&["create", "--validate=false", &user, "-o", "json", "-f", "-"], &review.to_string())
            .unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    let mut may: Vec<String> = Vec::new();
    for rule in told["status"]["resourceRules"].as_array().unwrap() {
        let words = |field: &str| {
            let words = rule[field].as_array().into_iter().flatten().map(|word| word.as_str().unwrap());
            words.collect::<Vec<_>>().join(",")
        };
        // What everybody may: ask who they are and what they may.
        if !["authorization.k8s.io", "authentication.k8s.io"].contains(&words("apiGroups").as_str()) {
            let line =
                format!("{} {} {}: {}", words("apiGroups"), words("resources"), words("resourceNames"), words("verbs"));
            let line = line.replace(&namespace, "NAMESPACE");
            may.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    may.sort();
    may
}

/// Group, resource, name if it must be that one, verbs: what it may in any case.
const MAY: &[&str] = &[
    "coordination.k8s.io leases : create",
    "coordination.k8s.io leases couponry-operator: get,update",
    "couponry.dev couponevents : get,list,watch,patch,create",
    "couponry.dev couponevents/status : patch",
    "events.k8s.io events : create,patch",
    "namespaces NAMESPACE: get",
    "pods : list",
];
