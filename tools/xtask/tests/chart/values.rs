//! What the chart's values may be.

use std::fs;
use std::path::Path;

use couponry_testbed::scratch::Scratch;
use serde_json::{Map, Value, json};

use crate::helm::{NAMESPACE, chart, find, helm, objects, template, variants, with};

#[test]
fn lint_has_nothing_against_any_variant() {
    for (name, values) in variants() {
        let told = helm(["lint", "--strict", chart().to_str().unwrap(), "--values", values.to_str().unwrap()]);
        assert!(told.is_ok(), "{name}: {told:?}");
    }
}

/// What a user wrote, and what the answer must name.
const REFUSED: &[(&[&str], &str)] = &[
    (&["issuer.replica=3"], "at '/issuer': additional properties 'replica' not allowed"),
    (&["opreator.replicas=3"], "additional properties 'opreator' not allowed"),
    (&["ingress.hostname=x"], "at '/ingress': additional properties 'hostname' not allowed"),
    (&["consumer.resources.request.cpu=1"], "additional properties 'request' not allowed"),
    (&["redis.external.existingSecret.nam=x"], "additional properties 'nam' not allowed"),
    (&["issuer.replicas=two"], "at '/issuer/replicas': got string, want integer"),
    (&["redis.mode=extern"], "at '/redis/mode': value must be one of 'embedded', 'external'"),
    (&["issuer.userIdentity=cookie"], "/issuer/userIdentity"),
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
    (&["postgres.external.url=u@host/db"], "write postgres://user@host:port/database"),
    (&["postgres.external.url=postgres://host/db"], "write postgres://user@host:port/database"),
    (&["kafka.external.securityProtocol=tls"], "/kafka/external/securityProtocol"),
    (&["redis.mode=external"], "redis.external.url is empty"),
    (&["postgres.mode=external"], "postgres.external.url is empty"),
    (&["kafka.mode=external"], "kafka.external.brokers is empty"),
    (&["redis.mode=external", "redis.external.url=redis://a:1\\,redis://b:1"], "only a Redis Cluster"),
    (&["redis.mode=external", "redis.external.url=redis://a:1", "redis.external.ca.secretName=x"], "rediss://"),
    (&["redis.mode=external", "redis.external.url=redis://a:1", "redis.external.username=x"], "existingSecret"),
    (
        &["kafka.mode=external", "kafka.external.brokers=a:1", "kafka.external.securityProtocol=sasl_ssl"],
        "needs kafka.external.sasl.username",
    ),
    (&["kafka.mode=external", "kafka.external.brokers=a:1", "kafka.external.ca.secretName=x"], "is plaintext"),
    (&["kafka.topic.minInsyncReplicas=2"], "nothing could ever be written"),
    (&["issuer.userIdentity=jwt"], "needs issuer.jwt.jwksUrl"),
    (&["issuer.jwt.jwks.secretName=a", "issuer.jwt.jwks.configMapName=b"], "keep one"),
    (&["consumer.autoscaling.minReplicas=9"], "consumer.autoscaling.minReplicas is more than maxReplicas"),
    (&["httpRoute.enabled=true"], "httpRoute.parentRefs is empty"),
];

#[test]
fn what_cannot_work_is_refused_by_name() {
    for (sets, named) in REFUSED {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let told = template(&chart(), NAMESPACE, &sets).expect_err(&format!("{sets:?} was taken"));
        assert!(told.contains(named), "{sets:?}: {told}");
        assert!(!told.contains("secret@") && !told.contains("=secret"), "{told}");
    }
}

#[test]
fn every_level_of_the_logs_is_taken() {
    for level in ["error", "off", "info\\,stock=debug", "warn\\,a::b=trace\\,info"] {
        with(&[&format!("log.level={level}")]);
    }
}

/// Maps whose keys are the user's own.
const FREE: &[&str] = &[
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
fn a_typo_is_refused_wherever_it_is() {
    let mut values: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let mut places = Vec::new();
    misspell(&mut values, "", &mut places);
    assert!(places.len() > 50, "{places:?}");
    let scratch = Scratch::new("typos").unwrap();
    let file = scratch.path().join("values.yaml");
    fs::write(&file, values.to_string()).unwrap();
    let told = template(&chart(), NAMESPACE, &["--values", file.to_str().unwrap()]).unwrap_err();
    for place in places {
        let line = format!("at '{place}': additional properties 'typo' not allowed");
        assert!(told.contains(&line), "{place}: {told}");
    }
}

fn misspell(value: &mut Value, place: &str, places: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    for (key, inner) in map.iter_mut().filter(|(key, _)| !FREE.contains(&key.as_str())) {
        misspell(inner, &format!("{place}/{key}"), places);
    }
    map.insert("typo".into(), json!(1));
    places.push(place.to_owned());
}

#[test]
fn every_value_that_can_be_set_is_in_the_reference() {
    let values: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    compare(&schema, &schema, &values, "");
}

fn compare(schema: &Value, root: &Value, values: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let (Some(properties), Some(values)) = (schema["properties"].as_object(), values.as_object()) else { return };
    for (key, inner) in properties {
        // A parent chart's words, and what has no default.
        if ["/global", "/enabled"].contains(&format!("{place}/{key}").as_str()) || key == "claims" || values.is_empty()
        {
            continue;
        }
        let value = values.get(key).unwrap_or_else(|| panic!("{place}/{key} is not in values.yaml"));
        compare(inner, root, value, &format!("{place}/{key}"));
    }
}

#[test]
fn it_lives_inside_a_parent_chart() {
    let parent = Parent::new();
    let rendered = parent.render(&json!({
        "global": {"imageRegistry": "registry.example.com", "anything": {"goes": true}},
        "ours": 1,
        "couponry": {"enabled": true, "issuer": {"replicas": 3}},
    }));
    let rendered = objects(&rendered.unwrap());
    let issuer = find(&rendered, "Deployment", "couponry-issuer");
    assert_eq!(issuer["spec"]["replicas"], 3);

    let off = parent.render(&json!({"couponry": {"enabled": false}})).unwrap();
    assert_eq!(objects(&off), Vec::<Value>::new());

    let told = parent.render(&json!({"couponry": {"enabled": true, "issuer": {"replica": 3}}})).unwrap_err();
    assert!(told.contains("additional properties 'replica' not allowed"), "{told}");
}

/// A chart that has ours as a part.
struct Parent {
    scratch: Scratch,
}

impl Parent {
    fn new() -> Self {
        let scratch = Scratch::new("parent").unwrap();
        let dir = scratch.path();
        let about = json!({
            "apiVersion": "v2", "name": "parent", "version": "1.0.0",
            "dependencies": [{"name": "couponry", "version": "*", "condition": "couponry.enabled"}],
        });
        fs::write(dir.join("Chart.yaml"), about.to_string()).unwrap();
        copy(&chart(), &dir.join("charts/couponry"));
        Self { scratch }
    }

    fn render(&self, values: &Value) -> Result<String, String> {
        let file = self.scratch.path().join("their-values.yaml");
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
fn the_variant_with_all_options_has_none_left_off() {
    let defaults: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let set: Value = serde_yaml::from_str(&read(&chart().join("ci/all-options-values.yaml"))).unwrap();
    let mut off = Vec::new();
    switches(defaults.as_object().unwrap(), "", &mut off);
    for place in off {
        // The external servers have a variant of their own.
        if place.contains("/external/") {
            continue;
        }
        assert_eq!(set.pointer(&place), Some(&json!(true)), "{place} is off");
    }
}

/// The places of all switches that are off.
fn switches(values: &Map<String, Value>, place: &str, off: &mut Vec<String>) {
    for (key, value) in values {
        match value {
            Value::Bool(false) => off.push(format!("{place}/{key}")),
            Value::Object(inner) => switches(inner, &format!("{place}/{key}"), off),
            _ => {}
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
