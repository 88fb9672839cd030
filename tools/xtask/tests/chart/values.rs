//! Validation of the chart's values.

use std::fs;
use std::path::Path;

use couponry_testbed::scratch::Scratch;
use serde_json::{Map, Value, json};

use crate::helm::{NAMESPACE, chart, find, helm, objects, pods, template, variants, with};

#[test]
fn lint_accepts_every_variant() {
    for (name, values) in variants() {
        let output = helm(["lint", "--strict", chart().to_str().unwrap(), "--values", values.to_str().unwrap()]);
        assert!(output.is_ok(), "{name}: {output:?}");
    }
}

/// Values, and the part of the error message that must be present.
const INVALID: &[(&[&str], &str)] = &[
    (&["issuer.replica=3"], "at '/issuer': additional properties 'replica' not allowed"),
    (&["opreator.replicas=3"], "additional properties 'opreator' not allowed"),
    (&["ingress.hostname=x"], "at '/ingress': additional properties 'hostname' not allowed"),
    (&["consumer.resources.request.cpu=1"], "additional properties 'request' not allowed"),
    (&["redis.external.existingSecret.nam=x"], "additional properties 'nam' not allowed"),
    (&["issuer.replicas=two"], "at '/issuer/replicas': got string, want integer"),
    (&["redis.mode=extern"], "at '/redis/mode': value must be one of 'embedded', 'external'"),
    (&["issuer.userIdentity=cookie"], "/issuer/userIdentity"),
    (&["issuer.corsAllowedOrigins[0]=https://shop.example.com/"], "/issuer/corsAllowedOrigins"),
    (&["issuer.corsAllowedOrigins[0]=https://shop.example.com:443"], "/issuer/corsAllowedOrigins"),
    (&["issuer.corsAllowedOrigins[0]=*", "issuer.corsAllowedOrigins[1]=http://a"], "/issuer/corsAllowedOrigins"),
    (&["issuer.page.colors.light.accent=red"], "at '/issuer/page/colors/light/accent'"),
    (&["issuer.page.texts.English.title=x"], "/issuer/page/texts"),
    (&["issuer.page.currency=euro"], "at '/issuer/page/currency'"),
    (&["issuer.rateLimit.perUser.requestsPerSecond=-1"], "/issuer/rateLimit/perUser/requestsPerSecond"),
    (&["issuer.rateLimit.perAddress.burst=0"], "/issuer/rateLimit/perAddress/burst"),
    (&["operator.image.digest=latest"], "/operator/image/digest"),
    (&["log.level=verbose"], "at '/log/level': 'verbose' does not match pattern"),
    (&["log.level=info\\,stock"], "at '/log/level'"),
    (&["redis.external.url=redis://:secret@redis:6379"], "redis.external.existingSecret.name"),
    (&["redis.external.url=redis:6379"], "redis.external.url must begin with redis://, or with rediss:// for TLS"),
    (&["redis.external.url=redis://a:1\\,b:1"], "redis.external.url must begin with redis://"),
    (&["postgres.external.url=postgres://u:secret@host/db"], "postgres.external.existingSecret.name"),
    (&["postgres.external.url=postgres://u@host/db?password=secret"], "postgres.external.existingSecret.name"),
    (&["postgres.external.url=u@host/db"], "use postgres://user@host:port/database"),
    (&["postgres.external.url=postgres://host/db"], "use postgres://user@host:port/database"),
    (&["kafka.external.securityProtocol=tls"], "/kafka/external/securityProtocol"),
    (&["redis.mode=external"], "redis.external.url is empty"),
    (&["postgres.mode=external"], "postgres.external.url is empty"),
    (&["kafka.mode=external"], "kafka.external.brokers is empty"),
    (&["redis.mode=external", "redis.external.url=redis://a:1\\,redis://b:1"], "this requires a Redis Cluster"),
    (&["redis.mode=external", "redis.external.url=redis://a:1", "redis.external.ca.secretName=x"], "rediss://"),
    (&["redis.mode=external", "redis.external.url=redis://a:1", "redis.external.username=x"], "existingSecret"),
    (
        &["kafka.mode=external", "kafka.external.brokers=a:1", "kafka.external.securityProtocol=sasl_ssl"],
        "requires kafka.external.sasl.username",
    ),
    (&["kafka.mode=external", "kafka.external.brokers=a:1", "kafka.external.ca.secretName=x"], "is plaintext"),
    (&["kafka.topic.minInsyncReplicas=2"], "every write would fail"),
    (&["operator.redisRecoveryGraceSeconds=3"], "/operator/redisRecoveryGraceSeconds"),
    (
        &["operator.redisRecoveryGraceSeconds=9", "issuer.responseTimeoutSeconds=10"],
        "operator.redisRecoveryGraceSeconds 9 is shorter than issuer.responseTimeoutSeconds 10",
    ),
    (&["issuer.userIdentity=jwt"], "requires issuer.jwt.jwksUrl"),
    (&["issuer.jwt.jwks.secretName=a", "issuer.jwt.jwks.configMapName=b"], "remove one"),
    (&["consumer.autoscaling.minReplicas=9"], "consumer.autoscaling.minReplicas exceeds maxReplicas"),
    (&["httpRoute.enabled=true"], "httpRoute.parentRefs is empty"),
    (
        &["issuer.drainSeconds=50", "issuer.terminationGracePeriodSeconds=79"],
        "issuer.terminationGracePeriodSeconds 79 is shorter than issuer.drainSeconds 50 plus 30",
    ),
    (
        &["redeemer.drainSeconds=50", "redeemer.terminationGracePeriodSeconds=74"],
        "redeemer.terminationGracePeriodSeconds 74 is shorter than redeemer.drainSeconds 50 plus 25",
    ),
    (&["redeemer.auth=token"], "at '/redeemer/auth': value must be one of 'service-account', 'jwt', 'none'"),
    (&["redeemer.enabled=true", "redeemer.auth=jwt"], "redeemer.auth jwt requires redeemer.jwt.audience"),
    (
        &["redeemer.enabled=true", "redeemer.auth=jwt", "redeemer.jwt.audience=a"],
        "redeemer.auth jwt requires redeemer.jwt.jwksUrl",
    ),
    (&["redeemer.autoscaling.minReplicas=11"], "redeemer.autoscaling.minReplicas exceeds maxReplicas"),
    (&["redeemer.extraEnv[0].name=A", "redeemer.extraEnv[1].name=A"], "redeemer.extraEnv contains A more than once"),
    (&["kafka.usedTopic=coupon-issued"], "kafka.usedTopic and kafka.topic.name are equal"),
    (&["operator.terminationGracePeriodSeconds=44"], "/operator/terminationGracePeriodSeconds"),
    (&["redis.embedded.maxMemory=1gb"], "redis.embedded.maxMemory 1gb is not below"),
    (&["redis.embedded.maxMemory=0mb"], "redis.embedded.maxMemory 0mb is not below"),
    (&["redis.embedded.resources.limits.memory=734003200"], "redis.embedded.resources.limits.memory 734003200"),
    (&["kafka.embedded.heap=2g"], "kafka.embedded.heap 2g is not below kafka.embedded.resources.limits.memory 1280Mi"),
    (&["issuer.extraEnv[0].name=A", "issuer.extraEnv[1].name=A"], "issuer.extraEnv contains A more than once"),
    (&["networkPolicy.egress.apiServerPorts=null"], "missing property 'apiServerPorts'"),
    (
        &["networkPolicy.egress.enabled=true", "kafka.mode=external", "kafka.external.brokers=a:1"],
        "networkPolicy.egress.enabled blocks connections to kafka.external: add their addresses",
    ),
    (
        &["networkPolicy.egress.enabled=true", "tracing.otlpEndpoint=http://a:1"],
        "networkPolicy.egress.enabled blocks connections to tracing.otlpEndpoint",
    ),
    (
        &["networkPolicy.egress.enabled=true", "issuer.userIdentity=jwt", "issuer.jwt.jwksUrl=https://a"],
        "networkPolicy.egress.enabled blocks connections to issuer.jwt.jwksUrl",
    ),
];

#[test]
fn invalid_values_are_rejected_with_their_name() {
    for (sets, message) in INVALID {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let output = template(&chart(), NAMESPACE, &sets).expect_err(&format!("{sets:?} was accepted"));
        assert!(output.contains(message), "{sets:?}: {output}");
        assert!(!output.contains("secret@") && !output.contains("=secret"), "{output}");
    }
}

#[test]
fn egress_without_api_server_ports_is_rejected() {
    let values = json!({"networkPolicy": {"egress": {"apiServerPorts": []}}});
    let output = render(&values).unwrap_err();
    assert!(output.contains("at '/networkPolicy/egress/apiServerPorts': minItems"), "{output}");
}

#[test]
fn limits_at_their_bounds_are_accepted() {
    with(&["issuer.drainSeconds=50", "issuer.terminationGracePeriodSeconds=80"]);
    with(&["redeemer.drainSeconds=50", "redeemer.terminationGracePeriodSeconds=75"]);
    with(&["redis.embedded.maxMemory=1023mb"]);
    // Without a limit, there is nothing to compare with.
    with(&["redis.embedded.maxMemory=2gb", "redis.embedded.resources.limits.memory=null"]);
    for limit in ["1200M", "1.2Gi", "1.2e9"] {
        with(&["kafka.embedded.heap=1g", &format!("kafka.embedded.resources.limits.memory={limit}")]);
    }
    with(&["networkPolicy.egress.enabled=true"]);
}

/// Renders a release with these values from a file, where, unlike with `--set`, every number is a float.
fn render(values: &Value) -> Result<String, String> {
    let scratch = Scratch::new("values").unwrap();
    let file = scratch.path().join("values.yaml");
    fs::write(&file, values.to_string()).unwrap();
    template(&chart(), NAMESPACE, &["--values", file.to_str().unwrap()])
}

#[test]
fn log_level_accepts_levels_and_lists() {
    for level in ["error", "off", "info\\,couponry_redis=debug", "warn\\,a::b=trace\\,info"] {
        with(&[&format!("log.level={level}")]);
    }
}

/// Maps with arbitrary keys.
const OPEN_MAPS: &[&str] = &[
    "labels",
    "commonLabels",
    "podLabels",
    "annotations",
    "podAnnotations",
    "nodeSelector",
    "affinity",
    "requests",
    "limits",
];

#[test]
fn unknown_value_at_any_level_is_rejected() {
    let mut values: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let mut paths = Vec::new();
    add_typos(&mut values, "", &mut paths);
    assert!(paths.len() > 50, "{paths:?}");
    let output = render(&values).unwrap_err();
    for path in paths {
        let line = format!("at '{path}': additional properties 'typo' not allowed");
        assert!(output.contains(&line), "{path}: {output}");
    }
}

/// Values that may be null: the chart derives them.
const NULLABLE: &[&str] = &[
    "/operator/redisRecoveryGraceSeconds",
    "/issuer/terminationGracePeriodSeconds",
    "/kafka/topic/replication",
    "/kafka/topic/minInsyncReplicas",
];

#[test]
fn null_at_any_level_is_rejected_unless_the_value_is_derived() {
    let defaults: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let mut nullable = Vec::new();
    // All values of one level at a time: a null hides the levels below it.
    for level in 1.. {
        let (mut values, mut paths) = (defaults.clone(), Vec::new());
        set_null(&mut values, "", level, &mut paths);
        if paths.is_empty() {
            break;
        }
        let output = render(&values).expect_err("null was accepted");
        for path in paths {
            let (parent, key) = path.rsplit_once('/').unwrap();
            let missing = format!("at '{parent}': missing ");
            let line = output.lines().find(|line| line.contains(&missing));
            if !line.is_some_and(|line| line.contains(&format!("'{key}'"))) {
                nullable.push(path);
            }
        }
    }
    nullable.sort_by_key(|path| NULLABLE.iter().position(|known| known == path));
    assert_eq!(nullable, NULLABLE);
    let derived = NULLABLE.iter().map(|path| path.trim_start_matches('/').replace('/', ".") + "=null");
    with(&derived.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>());
}

/// Sets the values of this level to null, except those below which keys are arbitrary, or in `global`, which belongs to
/// a parent chart.
fn set_null(value: &mut Value, path: &str, level: usize, paths: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    for (key, inner) in map.iter_mut() {
        let path = format!("{path}/{key}");
        if path == "/global" {
            continue;
        }
        if level == 1 {
            *inner = Value::Null;
            paths.push(path);
        } else if !OPEN_MAPS.contains(&key.as_str()) && key != "resources" {
            set_null(inner, &path, level - 1, paths);
        }
    }
}

fn add_typos(value: &mut Value, path: &str, paths: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    for (key, inner) in map.iter_mut().filter(|(key, _)| !OPEN_MAPS.contains(&key.as_str())) {
        add_typos(inner, &format!("{path}/{key}"), paths);
    }
    // Values of a parent chart may have any name.
    if path != "/global" {
        map.insert("typo".into(), json!(1));
        paths.push(path.to_owned());
    }
}

#[test]
fn large_numbers_are_rendered_without_exponent() {
    let defaults: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    let mut count = 0;
    let mut large = large_numbers(&schema, &schema, &defaults, &mut count);
    assert!(count > 40, "{count}");
    large["crds"]["enabled"] = json!(false);
    let scratch = Scratch::new("large").unwrap();
    let file = scratch.path().join("values.yaml");
    fs::write(&file, large.to_string()).unwrap();
    for (name, values) in variants() {
        let files = ["--values", values.to_str().unwrap(), "--values", file.to_str().unwrap()];
        let rendered = template(&chart(), NAMESPACE, &files).unwrap();
        assert!(rendered.contains("2000000"), "{name}");
        for line in rendered.lines() {
            assert!(!line.contains("e+0"), "{name}: {line}");
        }
    }
}

/// Every number of the values, as large as the schema allows, but at most two million: in a values file, Helm renders a
/// number from a million with an exponent unless the template converts it.
fn large_numbers(schema: &Value, root: &Value, values: &Value, count: &mut u32) -> Value {
    let schema = resolve(schema, root);
    match values {
        Value::Object(map) => {
            let properties = map.iter().filter_map(|(key, value)| {
                let large = large_numbers(&schema["properties"][key], root, value, count);
                (!large.is_null()).then(|| (key.clone(), large))
            });
            Value::Object(properties.collect())
        }
        _ if is_number(schema) => {
            *count += 1;
            let alternatives = schema["anyOf"].as_array().into_iter().flatten().chain([schema]);
            json!(alternatives.filter_map(|it| it["maximum"].as_u64()).max().unwrap_or(2_000_000).min(2_000_000))
        }
        _ => Value::Null,
    }
}

/// Whether the schema accepts a number.
fn is_number(schema: &Value) -> bool {
    let is_integer = |schema: &Value| {
        let types = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
        types.contains(&json!("integer")) || types.contains(&json!("number"))
    };
    is_integer(schema) || schema["anyOf"].as_array().into_iter().flatten().any(is_integer)
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

#[test]
fn every_value_of_the_schema_is_documented_in_values_yaml() {
    let values: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    compare(&schema, &schema, &values, "");
}

fn compare(schema: &Value, root: &Value, values: &Value, path: &str) {
    let schema = resolve(schema, root);
    let (Some(properties), Some(values)) = (schema["properties"].as_object(), values.as_object()) else { return };
    for (key, inner) in properties {
        // Values of a parent chart, and values without a default.
        if ["/global", "/enabled"].contains(&format!("{path}/{key}").as_str()) || key == "claims" || values.is_empty() {
            continue;
        }
        let value = values.get(key).unwrap_or_else(|| panic!("{path}/{key} is not in values.yaml"));
        compare(inner, root, value, &format!("{path}/{key}"));
    }
}

#[test]
fn chart_as_dependency_renders_and_validates() {
    let parent = Parent::new();
    let rendered = parent.render(&json!({
        "global": {
            "imageRegistry": "registry.example.com",
            "imagePullSecrets": ["first", {"name": "second"}],
            "anything": {"goes": true},
        },
        "unrelated": 1,
        "couponry": {"enabled": true, "issuer": {"replicas": 3}},
    }));
    let rendered = objects(&rendered.unwrap());
    let issuer = find(&rendered, "Deployment", "couponry-issuer");
    assert_eq!(issuer["spec"]["replicas"], 3);
    for (pod, template) in pods(&rendered) {
        let spec = &template["spec"];
        let image = spec["containers"][0]["image"].as_str().unwrap();
        assert!(image.starts_with("registry.example.com/"), "{pod}: {image}");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "first"}, {"name": "second"}]), "{pod}");
    }

    let off = parent.render(&json!({"couponry": {"enabled": false}})).unwrap();
    assert_eq!(objects(&off), Vec::<Value>::new());

    let output = parent.render(&json!({"couponry": {"enabled": true, "issuer": {"replica": 3}}})).unwrap_err();
    assert!(output.contains("additional properties 'replica' not allowed"), "{output}");
}

/// A chart that has this chart as a dependency.
struct Parent {
    scratch: Scratch,
}

impl Parent {
    fn new() -> Self {
        let scratch = Scratch::new("parent").unwrap();
        let dir = scratch.path();
        let metadata = json!({
            "apiVersion": "v2", "name": "parent", "version": "1.0.0",
            "dependencies": [{"name": "couponry", "version": "*", "condition": "couponry.enabled"}],
        });
        fs::write(dir.join("Chart.yaml"), metadata.to_string()).unwrap();
        copy(&chart(), &dir.join("charts/couponry"));
        Self { scratch }
    }

    fn render(&self, values: &Value) -> Result<String, String> {
        let file = self.scratch.path().join("parent-values.yaml");
        fs::write(&file, values.to_string()).unwrap();
        template(self.scratch.path(), NAMESPACE, &["--values", file.to_str().unwrap()])
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn all_options_variant_enables_every_switch() {
    let defaults: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let set: Value = serde_yaml::from_str(&read(&chart().join("ci/all-options-values.yaml"))).unwrap();
    let mut off = Vec::new();
    switches(defaults.as_object().unwrap(), "", &mut off);
    for path in off {
        // Covered by the external-tls variant.
        if path.contains("/external/") {
            continue;
        }
        assert_eq!(set.pointer(&path), Some(&json!(true)), "{path} is off");
    }
}

/// Paths of all switches that are off.
fn switches(values: &Map<String, Value>, path: &str, off: &mut Vec<String>) {
    for (key, value) in values {
        match value {
            Value::Bool(false) => off.push(format!("{path}/{key}")),
            Value::Object(inner) => switches(inner, &format!("{path}/{key}"), off),
            _ => {}
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
