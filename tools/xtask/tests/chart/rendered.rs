//! Objects rendered from the values.

use std::fs;

use couponry_testbed::scratch::Scratch;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, chart, find, objects, pods, root, template, variant, variants, with};

#[test]
fn rendering_is_deterministic() {
    for (name, values) in variants() {
        let render = || template(&chart(), NAMESPACE, &["--values", values.to_str().unwrap()]).unwrap();
        assert!(render() == render(), "{name}");
    }
}

#[test]
fn replicas_with_autoscaling_are_unset() {
    let fixed = with(&["redeemer.enabled=true"]);
    for program in ["couponry-operator", "couponry-issuer", "couponry-consumer", "couponry-redeemer"] {
        assert_eq!(find(&fixed, "Deployment", program)["spec"]["replicas"], 2, "{program}");
    }
    let scaled = with(&[
        "issuer.autoscaling.enabled=true",
        "consumer.autoscaling.enabled=true",
        "redeemer.enabled=true",
        "redeemer.autoscaling.enabled=true",
    ]);
    for program in ["couponry-issuer", "couponry-consumer", "couponry-redeemer"] {
        assert_eq!(find(&scaled, "Deployment", program)["spec"].get("replicas"), None, "{program}");
    }
    let autoscalers: Vec<_> = scaled.iter().filter(|it| it["kind"] == "HorizontalPodAutoscaler").collect();
    let scaled_by_chart: Vec<_> = autoscalers.iter().map(|it| &it["spec"]["scaleTargetRef"]["name"]).collect();
    assert_eq!(scaled_by_chart, ["couponry-consumer", "couponry-redeemer"], "the operator creates that of the issuer");
    let without_redeemer = with(&["redeemer.autoscaling.enabled=true"]);
    assert!(!without_redeemer.iter().any(|it| it["kind"] == "HorizontalPodAutoscaler"));
    let operator = environment(find(&scaled, "Deployment", "couponry-operator"));
    assert!(operator.contains(&("ISSUER_DEPLOYMENT".into(), json!("couponry-issuer"))), "{operator:?}");
}

#[test]
fn operator_with_autoscaling_disabled_may_delete_its_autoscaler() {
    let verbs = |objects: &[Value]| -> Vec<(Value, Value)> {
        let rules = find(objects, "Role", "couponry-operator")["rules"].as_array().unwrap();
        let of_autoscalers = rules.iter().filter(|rule| rule["resources"] == json!(["horizontalpodautoscalers"]));
        of_autoscalers.map(|rule| (rule["resourceNames"].clone(), rule["verbs"].clone())).collect()
    };
    let ours = json!(["couponry-issuer"]);
    assert_eq!(verbs(&with(&[])), [(Value::Null, json!(["list"])), (ours.clone(), json!(["delete"]))]);
    let on = with(&["issuer.autoscaling.enabled=true"]);
    assert_eq!(verbs(&on), [(Value::Null, json!(["create"])), (ours, json!(["get", "patch"]))]);
}

#[test]
fn recovery_grace_period_is_at_least_the_response_timeout() {
    let grace_period = |sets: &[&str]| {
        let operator = environment(find(&with(sets), "Deployment", "couponry-operator"));
        operator.into_iter().find(|(key, _)| key == "REDIS_RECOVERY_GRACE_SECONDS").unwrap().1
    };
    assert_eq!(grace_period(&[]), "5");
    assert_eq!(grace_period(&["issuer.responseTimeoutSeconds=30"]), "30");
    assert_eq!(grace_period(&["issuer.responseTimeoutSeconds=1"]), "4");
    assert_eq!(grace_period(&["issuer.responseTimeoutSeconds=10", "operator.redisRecoveryGraceSeconds=12"]), "12");
}

#[test]
fn rate_limits_by_default_are_disabled() {
    let limits = |sets: &[&str]| {
        let issuer = environment(find(&with(sets), "Deployment", "couponry-issuer"));
        issuer.into_iter().filter(|(key, _)| key.starts_with("RATE_LIMIT")).collect::<Vec<_>>()
    };
    assert_eq!(limits(&[]), []);
    let variable = |key: &str, value: &str| (key.to_owned(), json!(value));
    assert_eq!(
        limits(&["issuer.rateLimit.perUser.requestsPerSecond=0.5"]),
        [variable("RATE_LIMIT_PER_USER", "0.5"), variable("RATE_LIMIT_PER_USER_BURST", "10")]
    );
    assert_eq!(
        limits(&["issuer.rateLimit.perAddress.requestsPerSecond=200", "issuer.rateLimit.perAddress.burst=1000000"]),
        [variable("RATE_LIMIT_PER_ADDRESS", "200"), variable("RATE_LIMIT_PER_ADDRESS_BURST", "1000000")]
    );
}

#[test]
fn pages_of_other_origins_are_allowed_only_if_listed() {
    let origins = |sets: &[&str]| {
        let issuer = environment(find(&with(sets), "Deployment", "couponry-issuer"));
        issuer.into_iter().find_map(|(key, value)| (key == "CORS_ALLOWED_ORIGINS").then_some(value))
    };
    assert_eq!(origins(&[]), None);
    assert_eq!(origins(&["issuer.corsAllowedOrigins[0]=*"]), Some(json!("*")));
    let two = ["issuer.corsAllowedOrigins[0]=https://a.example", "issuer.corsAllowedOrigins[1]=http://b.example:81"];
    assert_eq!(origins(&two), Some(json!("https://a.example,http://b.example:81")));
}

#[test]
fn page_has_its_texts_and_colors_and_restarts_the_issuer_with_them() {
    let without = with(&[]);
    let annotation = |objects: &[Value]| {
        find(objects, "Deployment", "couponry-issuer")["spec"]["template"]["metadata"]["annotations"]["checksum/page"]
            .clone()
    };
    assert!(
        !environment(find(&without, "Deployment", "couponry-issuer")).iter().any(|(key, _)| key.starts_with("PAGE"))
    );
    assert_eq!(annotation(&without), Value::Null);
    let objects = with(&[
        "issuer.page.enabled=true",
        "issuer.page.texts.en.title=Sale {{ x }}",
        "issuer.page.colors.dark.text=#ffffff",
    ]);
    let issuer = find(&objects, "Deployment", "couponry-issuer");
    let environment = environment(issuer);
    assert!(environment.contains(&("PAGE".into(), json!("true"))), "{environment:?}");
    assert!(environment.contains(&("PAGE_CONFIG".into(), json!("/etc/couponry/page/page.json"))), "{environment:?}");
    let pod = &issuer["spec"]["template"]["spec"];
    let volume = json!({"name": "page", "configMap": {"name": "couponry-page"}});
    assert!(pod["volumes"].as_array().unwrap().contains(&volume), "{}", pod["volumes"]);
    let config = &find(&objects, "ConfigMap", "couponry-page")["data"]["page.json"];
    let config: Value = serde_json::from_str(config.as_str().unwrap()).unwrap();
    assert_eq!(config, json!({"texts": {"en": {"title": "Sale {{ x }}"}}, "colors": {"dark": {"text": "#ffffff"}}}));
    assert_ne!(annotation(&objects), annotation(&with(&["issuer.page.enabled=true"])));
    let in_euro = with(&["issuer.page.enabled=true", "issuer.page.currency=EUR"]);
    let config = &find(&in_euro, "ConfigMap", "couponry-page")["data"]["page.json"];
    assert_eq!(config, r#"{"colors":{},"currency":"EUR","texts":{}}"#);

    let read = |path: &str| -> Value { serde_json::from_str(&fs::read_to_string(root().join(path)).unwrap()).unwrap() };
    let schema = read("charts/couponry/values.schema.json");
    let page = &schema["$defs"]["page"]["properties"]["texts"]["patternProperties"]["^[a-z]{2,3}$"]["properties"];
    let mut names: Vec<_> = page.as_object().unwrap().keys().cloned().collect();
    let texts = read("issuer/page/texts.json");
    let mut expected: Vec<_> = texts["en"].as_object().unwrap().keys().cloned().collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected, "the schema has the names of the texts");
}

#[test]
fn crd_is_the_generated_one_and_kept_on_uninstall() {
    let generated = fs::read_to_string(root().join("crds/couponevents.couponry.dev.yaml")).unwrap();
    let copy = fs::read_to_string(chart().join("files/couponevents.couponry.dev.yaml")).unwrap();
    assert!(copy == generated, "the chart's copy of the CRD is outdated: run `cargo xtask codegen`");

    let crd = |sets: &[&str]| find(&with(sets), "CustomResourceDefinition", "couponevents.couponry.dev").clone();
    let rendered = crd(&[]);
    let generated: Value = serde_yaml::from_str(&generated).unwrap();
    // crdgen writes 12.0, Helm writes 12.
    assert_eq!(as_numbers(&rendered["spec"]), as_numbers(&generated["spec"]));
    let policy = |crd: &Value| crd["metadata"]["annotations"]["helm.sh/resource-policy"].clone();
    assert_eq!(policy(&rendered), "keep");
    assert_eq!(policy(&crd(&["crds.keep=false"])), Value::Null);
    assert!(!with(&["crds.enabled=false"]).iter().any(|it| it["kind"] == "CustomResourceDefinition"));
}

fn as_numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(as_numbers).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), as_numbers(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn aggregated_cluster_roles_grant_verbs_of_view_edit_and_admin() {
    let objects = with(&[]);
    for (role, verbs) in [
        ("view", &["get", "list", "watch"][..]),
        ("edit", &["create", "update", "patch", "delete"]),
        ("admin", &["create", "update", "patch", "delete", "deletecollection"]),
    ] {
        let rendered = find(&objects, "ClusterRole", &format!("{NAMESPACE}-couponry-{role}"));
        let labels = rendered["metadata"]["labels"].as_object().unwrap();
        let into: Vec<_> = labels.keys().filter(|key| key.starts_with("rbac.authorization.k8s.io/")).collect();
        assert_eq!(into, [&format!("rbac.authorization.k8s.io/aggregate-to-{role}")]);
        assert_eq!(rendered["rules"].as_array().unwrap().len(), 1);
        assert_eq!(rendered["rules"][0]["verbs"], json!(verbs));
        assert_eq!(rendered["rules"][0]["apiGroups"], json!(["couponry.dev"]));
        let status = json!("couponevents/status");
        let writes_status = rendered["rules"][0]["resources"].as_array().unwrap().contains(&status) && role != "view";
        assert!(!writes_status, "{role}");
    }
    assert!(!with(&["rbac.aggregate=false"]).iter().any(|it| it["kind"] == "ClusterRole"));
}

#[test]
fn only_crd_and_cluster_roles_are_cluster_scoped() {
    for (name, values) in variants() {
        for object in variant(&values) {
            let kind = object["kind"].as_str().unwrap();
            let is_cluster_scoped = ["CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"].contains(&kind);
            let namespace = &object["metadata"]["namespace"];
            assert_eq!(namespace.is_null(), is_cluster_scoped, "{name}: {kind} {}", object["metadata"]["name"]);
        }
    }
    assert!(!with(&[]).iter().any(|it| it["kind"] == "ClusterRoleBinding"), "the admin API is disabled");
}

/// Kinds and names of the redeemer's objects.
fn redeemer_objects(objects: &[Value]) -> Vec<String> {
    let is_of_redeemer = |it: &&Value| it["metadata"]["labels"]["app.kubernetes.io/component"] == "redeemer";
    let name = |it: &Value| format!("{} {}", it["kind"].as_str().unwrap(), it["metadata"]["name"].as_str().unwrap());
    let mut names: Vec<String> = objects.iter().filter(is_of_redeemer).map(name).collect();
    names.sort();
    names
}

#[test]
fn redeemer_and_its_topic_by_default_are_absent() {
    let has_topic = |objects: &[Value]| {
        let operator = environment(find(objects, "Deployment", "couponry-operator"));
        operator.iter().any(|(name, _)| name == "KAFKA_USED_TOPIC")
    };
    let default = with(&[]);
    assert_eq!(redeemer_objects(&default), [] as [String; 0]);
    assert!(!has_topic(&default));
    let enabled = with(&["redeemer.enabled=true"]);
    assert!(has_topic(&enabled));
    assert_eq!(
        redeemer_objects(&enabled),
        [
            "ClusterRoleBinding shop-couponry-redeemer-auth-delegator",
            "Deployment couponry-redeemer",
            "NetworkPolicy couponry-redeemer",
            "PodDisruptionBudget couponry-redeemer",
            "Role couponry-redeem",
            "Service couponry-redeemer",
            "ServiceAccount couponry-redeemer",
        ]
    );
    let selector = &find(&enabled, "Service", "couponry-redeemer")["spec"]["selector"];
    assert_eq!(selector["app.kubernetes.io/component"], "redeemer");
    let postgres = find(&enabled, "NetworkPolicy", "couponry-postgres");
    let programs = &postgres["spec"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]["values"];
    assert_eq!(*programs, json!(["operator", "issuer", "consumer", "redeemer"]));
}

#[test]
fn redeemer_without_authentication_has_no_permissions() {
    let egress = "networkPolicy.egress.enabled=true";
    let token = |objects: &[Value]| {
        let pod = &find(objects, "Deployment", "couponry-redeemer")["spec"]["template"]["spec"];
        pod["automountServiceAccountToken"].as_bool().unwrap()
    };
    let reaches_api_server = |objects: &[Value]| {
        let rules = &find(objects, "NetworkPolicy", "couponry-redeemer")["spec"]["egress"];
        rules.as_array().unwrap().iter().any(|rule| rule["ports"][0]["port"] == 443)
    };
    let authenticated = with(&["redeemer.enabled=true", egress]);
    assert!(token(&authenticated) && reaches_api_server(&authenticated));
    let open = with(&["redeemer.enabled=true", "redeemer.auth=none", egress]);
    assert!(!token(&open) && !reaches_api_server(&open));
    let roles = redeemer_objects(&open).into_iter().filter(|name| name.contains("Role")).count();
    assert_eq!(roles, 0);
    let by_hand = with(&["redeemer.enabled=true", "redeemer.rbac.create=false"]);
    assert!(token(&by_hand) && !redeemer_objects(&by_hand).iter().any(|name| name.contains("Role")));
}

#[test]
fn every_container_has_least_privileges_and_resources() {
    for (name, values) in variants() {
        let objects = variant(&values);
        let pods = pods(&objects);
        assert!(pods.len() >= 3, "{name}: {}", pods.len());
        for (pod, template) in pods {
            let spec = &template["spec"];
            // Redeemers of the other variants verify tokens of service accounts.
            let verifies_jwt = pod.ends_with("-redeemer") && ["all-options", "external-tls"].contains(&name.as_str());
            let calls_api = ["-operator", "-redeemer", "-test"].iter().any(|end| pod.ends_with(end));
            let needs_token = calls_api && !verifies_jwt;
            assert_eq!(spec["automountServiceAccountToken"], needs_token, "{name}: {pod}");
            assert_eq!(spec["enableServiceLinks"], false, "{name}: {pod}");
            for container in spec["containers"].as_array().unwrap() {
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}: {pod}");
                for amount in ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"] {
                    assert!(container.pointer(amount).is_some(), "{name}: {pod} has no {amount}");
                }
                for variable in container["env"].as_array().into_iter().flatten() {
                    let (key, value) = (variable["name"].as_str().unwrap(), variable["value"].as_str());
                    let is_file = value.is_none_or(|value| value.starts_with("@/") || value.starts_with('/'));
                    assert!(!key.contains("PASSWORD") || is_file, "{name}: {pod} has {variable}");
                }
            }
        }
    }
}

#[test]
fn extra_environment_variable_replaces_that_of_the_chart() {
    let redeemer = "redeemer.enabled=true";
    for program in ["operator", "issuer", "consumer", "redeemer"] {
        let own = environment(find(&with(&[redeemer]), "Deployment", &format!("couponry-{program}")));
        for (name, _) in &own {
            let sets = [
                redeemer.to_owned(),
                format!("{program}.extraEnv[0].name={name}"),
                format!("{program}.extraEnv[0].value=other"),
            ];
            let objects = with(&sets.each_ref().map(String::as_str));
            let mut expected: Vec<_> = own.iter().filter(|(other, _)| other != name).cloned().collect();
            expected.push((name.clone(), json!("other")));
            assert_eq!(environment(find(&objects, "Deployment", &format!("couponry-{program}"))), expected);
        }
    }
}

#[test]
fn common_labels_do_not_repeat_labels_of_an_object() {
    let shared = "app.kubernetes.io/name: other, app.kubernetes.io/managed-by: other, release: common";
    let own = "{enabled: true, labels: {release: own}}";
    let values = format!(
        "{{commonLabels: {{{shared}}}, metrics: {{serviceMonitor: {own}, prometheusRule: {own}, dashboard: {own}}}}}"
    );
    let scratch = Scratch::new("labels").unwrap();
    let file = scratch.path().join("values.yaml");
    fs::write(&file, values).unwrap();
    for object in objects(&template(&chart(), NAMESPACE, &["--values", file.to_str().unwrap()]).unwrap()) {
        let labels = &object["metadata"]["labels"];
        let kind = object["kind"].as_str().unwrap();
        assert_eq!(labels["app.kubernetes.io/name"], "couponry", "{kind}");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{kind}");
        let is_own =
            ["ServiceMonitor", "PrometheusRule"].contains(&kind) || object["metadata"]["name"] == "couponry-dashboard";
        assert_eq!(labels["release"], if is_own { "own" } else { "common" }, "{kind}");
    }
}

#[test]
fn issuer_grace_period_exceeds_drain() {
    for (name, values) in variants() {
        let objects = variant(&values);
        let (_, pod) = pods(&objects).into_iter().find(|(pod, _)| pod.ends_with("-issuer")).unwrap();
        let environment = environment(&json!({"spec": {"template": pod}}));
        let drain = environment.iter().find(|(key, _)| key == "DRAIN_SECONDS").unwrap().1.as_str().unwrap();
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
        // 30 s for requests in flight and 20 s for sending their records to Kafka.
        assert!(grace >= drain.parse::<u64>().unwrap() + 50, "{name}: {grace} s for {drain} s");
    }
}

#[test]
fn changed_password_or_setting_restarts_affected_pods_only() {
    let before = with(&[]);
    let annotations = |objects: &[Value], pod: &str| {
        let (_, template) = pods(objects).into_iter().find(|(name, _)| name == pod).unwrap();
        template["metadata"]["annotations"].clone()
    };
    let seeded = with(&["embeddedPasswordSeed=other"]);
    for pod in ["couponry-operator", "couponry-issuer", "couponry-consumer", "couponry-redis", "couponry-postgres"] {
        assert_ne!(annotations(&before, pod), annotations(&seeded, pod), "{pod}");
    }
    assert_eq!(annotations(&before, "couponry-kafka"), annotations(&seeded, "couponry-kafka"));
    let tuned = with(&["redis.embedded.maxMemory=800mb"]);
    assert_ne!(annotations(&before, "couponry-redis"), annotations(&tuned, "couponry-redis"));
    assert_eq!(annotations(&before, "couponry-issuer"), annotations(&tuned, "couponry-issuer"));
}

/// Environment variables of a workload's first container.
pub(crate) fn environment(workload: &Value) -> Vec<(String, Value)> {
    let variables = workload.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).unwrap();
    variables.iter().map(|it| (it["name"].as_str().unwrap().to_owned(), it["value"].clone())).collect()
}
