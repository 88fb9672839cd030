//! The notes that Helm prints after an installation.

use std::process::Command;

use couponry_testbed::shared;
use serde_json::Value;

use crate::helm::{chart, helm, install_third_party_crds, namespace, variants};

/// The notes after an installation with these arguments.
fn notes_with(namespace: &str, args: &[&str]) -> String {
    let chart = chart();
    let (chart, kubeconfig) = (chart.to_str().unwrap(), shared::kubeconfig());
    let install = ["install", "couponry", chart, "--dry-run=server", "--namespace", namespace];
    // Another test may have installed the CRD without Helm.
    let common = ["--set", "crds.enabled=false", "--kubeconfig", kubeconfig.to_str().unwrap()];
    let output = helm([&install[..], &common, args].concat()).unwrap();
    output.split_once("NOTES:").expect(&output).1.to_owned()
}

/// The notes after an installation with these values (`--set`).
fn notes(namespace: &str, sets: &[&str]) -> String {
    notes_with(namespace, &sets.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>())
}

/// The settings that the notes advise to change.
fn warnings(notes: &str) -> Vec<&str> {
    let (_, list) = notes.split_once("change these settings").expect(notes);
    list.lines().filter_map(|line| line.strip_prefix("- ")).map(|line| line.split([' ', ':']).next().unwrap()).collect()
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

/// The settings that the notes advise to change after an installation with the defaults, and values that remove the
/// warning.
const DEFAULTS: &[(&str, &[&str])] = &[
    ("issuer.userIdentity", &["issuer.userIdentity=jwt", "issuer.jwt.jwksUrl=https://login/keys"]),
    ("networkPolicy.issuerFrom", &["networkPolicy.issuerFrom[0].podSelector.matchLabels.app=ingress"]),
    ("networkPolicy.monitorFrom", &["networkPolicy.monitorFrom[0].podSelector.matchLabels.app=prometheus"]),
    ("networkPolicy.egress.enabled", &["networkPolicy.egress.enabled=true"]),
    ("embeddedPasswordSeed", &["embeddedPasswordSeed=seed"]),
    ("rbac.aggregate", &["rbac.aggregate=false"]),
    ("redis.mode", REDIS),
    ("postgres.mode", POSTGRES),
    ("kafka.mode", KAFKA),
    // Not a value of the chart, so that nothing removes it.
    ("spec.acknowledge", &[]),
    ("image.registry", &["global.imageRegistry=registry.example.com"]),
    ("issuer.rateLimit.perUser.requestsPerSecond", &["issuer.rateLimit.perUser.requestsPerSecond=0.5"]),
    ("issuer.rateLimit.perAddress.requestsPerSecond", &["issuer.rateLimit.perAddress.requestsPerSecond=9"]),
    ("issuer.autoscaling.enabled", &["issuer.autoscaling.enabled=true"]),
    ("issuer.resources.requests.cpu", &["issuer.resources.requests.cpu=1"]),
    ("issuer.drainSeconds", &["issuer.drainSeconds=30"]),
    (
        "issuer.topologySpreadConstraints",
        &[
            "issuer.topologySpreadConstraints[0].maxSkew=1",
            "issuer.topologySpreadConstraints[0].topologyKey=kubernetes.io/hostname",
            "issuer.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule",
        ],
    ),
    ("metrics.prometheusRule.enabled", &["metrics.prometheusRule.enabled=true"]),
    ("metrics.serviceMonitor.enabled", &["metrics.serviceMonitor.enabled=true"]),
];

const REDIS: &[&str] =
    &["redis.mode=external", "redis.external.url=rediss://redis:1", "redis.external.existingSecret.name=login"];
const POSTGRES: &[&str] = &["postgres.mode=external", "postgres.external.url=postgres://u@h/d?sslmode=verify-full"];
const KAFKA: &[&str] = &["kafka.mode=external", "kafka.external.brokers=k:1", "kafka.external.securityProtocol=ssl"];

#[test]
fn notes_warn_of_each_insecure_or_small_default() {
    install_third_party_crds();
    let namespace = namespace();
    let all: Vec<&str> = DEFAULTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(warnings(&notes(&namespace, &[])), all);
    for (name, sets) in DEFAULTS.iter().filter(|(_, sets)| !sets.is_empty()) {
        let notes = notes(&namespace, sets);
        let left = warnings(&notes);
        let missing: Vec<&&str> = all.iter().filter(|other| !left.contains(other)).collect();
        assert_eq!(missing, [name], "{sets:?}: {notes}");
    }
}

#[test]
fn notes_warn_of_insecure_values() {
    let namespace = namespace();
    let header = &["issuer.userIdentity=header:X-User"][..];
    for (sets, name) in [
        (header, "issuer.userIdentity"),
        (&["networkPolicy.enabled=false"], "networkPolicy.enabled"),
        (&["operator.admin.enabled=true"], "networkPolicy.adminFrom"),
        (&["redeemer.enabled=true"], "networkPolicy.redeemerFrom"),
        (&["redeemer.enabled=true", "redeemer.auth=none"], "redeemer.auth"),
        (&["redis.mode=external", "redis.external.url=redis://r:1"], "redis.external.url"),
        (&["redis.mode=external", "redis.external.url=rediss://r:1"], "redis.external.existingSecret.name"),
        (&["postgres.mode=external", "postgres.external.url=postgres://u@h/d"], "postgres.external.ca"),
        (&["kafka.mode=external", "kafka.external.brokers=k:1"], "kafka.external.securityProtocol"),
        (&["ingress.enabled=true"], "ingress.tls"),
        (&["ingress.enabled=true"], "issuer.trustedProxies"),
        (&["consumer.autoscaling.enabled=true"], "consumer.autoscaling.maxReplicas"),
    ] {
        let notes = notes(&namespace, sets);
        assert!(warnings(&notes).contains(&name), "{sets:?}: {notes}");
    }
}

#[test]
fn notes_describe_how_the_redeemer_authenticates_callers() {
    let namespace = namespace();
    let authenticated = notes(&namespace, &["redeemer.enabled=true", "redeemer.authAudience=shop"]);
    let binding = format!("create rolebinding checkout --role=couponry-redeem --serviceaccount={namespace}:checkout");
    assert!(authenticated.contains(&binding) && authenticated.contains("audience shop."), "{authenticated}");
    assert!(!warnings(&authenticated).contains(&"redeemer.auth"), "{authenticated}");
    let jwt = ["redeemer.enabled=true", "redeemer.auth=jwt", "redeemer.jwt.audience=services"];
    let with_jwt = notes(&namespace, &[&jwt[..], &["redeemer.jwt.jwks.secretName=keys"]].concat());
    assert!(with_jwt.contains("a JWT for the\naudience services.") && !with_jwt.contains("rolebinding"), "{with_jwt}");
    assert!(with_jwt.contains("  keys (redeemer.jwt.jwks.secretName)"), "{with_jwt}");
    let open = notes(&namespace, &["redeemer.enabled=true", "redeemer.auth=none"]);
    assert!(open.contains("without authentication") && !open.contains("rolebinding"), "{open}");
    assert!(!notes(&namespace, &[]).contains("redeem"));
}

/// Only the advice about the events remains, which the chart cannot see.
#[test]
fn notes_of_production_values_contain_no_warnings() {
    install_third_party_crds();
    let (_, values) = variants().into_iter().find(|(name, _)| name == "production").unwrap();
    let notes = notes_with(&namespace(), &["--values", values.to_str().unwrap()]);
    assert_eq!(warnings(&notes), ["spec.acknowledge"], "{notes}");
}
