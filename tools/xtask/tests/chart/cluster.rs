//! A real API server accepts the rendered objects.

use couponry_testbed::shared;
use serde_json::{Value, json};

use crate::helm::{chart, install_third_party_crds, namespace, objects, pods, template, variants};

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
    permissions(&namespace, "couponry-operator")
}

/// Permissions of this service account in the namespace, according to the API server.
fn permissions(namespace: &str, account: &str) -> Vec<String> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}});
    let user = format!("--as=system:serviceaccount:{namespace}:{account}");
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
            let line = line.replace(namespace, "NAMESPACE");
            permissions.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    permissions.sort();
    permissions
}

#[test]
fn redeem_role_grants_only_redemptions() {
    let namespace = namespace();
    let rendered = objects(&template(&chart(), &namespace, &["--set", "redeemer.enabled=true"]).unwrap());
    for object in rendered.iter().filter(|it| {
        let kind = it["kind"].as_str().unwrap();
        let component = &it["metadata"]["labels"]["app.kubernetes.io/component"];
        component == "redeemer" && ["Role", "ClusterRoleBinding", "ServiceAccount"].contains(&kind)
    }) {
        let apply = ["apply", "--namespace", &namespace, "-f", "-"];
        shared::kubectl_with(&apply, &object.to_string()).unwrap();
    }
    shared::kubectl(&["create", "serviceaccount", "checkout", "--namespace", &namespace]).unwrap();
    assert_eq!(permissions(&namespace, "checkout"), [] as [String; 0]);
    let account = format!("--serviceaccount={namespace}:checkout");
    let bind = ["create", "rolebinding", "checkout", "--role=couponry-redeem", &account, "--namespace", &namespace];
    shared::kubectl(&bind).unwrap();
    assert_eq!(permissions(&namespace, "checkout"), ["couponry.dev couponevents : redeem"]);

    assert_eq!(permissions(&namespace, "couponry-redeemer"), [] as [String; 0]);
    let redeemer = format!("--as=system:serviceaccount:{namespace}:couponry-redeemer");
    for review in ["tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"] {
        let answer = shared::kubectl(&["auth", "can-i", "create", review, &redeemer]).unwrap();
        assert_eq!(answer.trim(), "yes", "{review}");
    }
    let binding = format!("{namespace}-couponry-redeemer-auth-delegator");
    shared::kubectl(&["delete", "clusterrolebinding", &binding]).unwrap();
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
