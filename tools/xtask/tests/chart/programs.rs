//! Environment variables and arguments in the chart match the flags of the programs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::helm::{find, pods, variant, variants, with};
use crate::rendered::environment;

/// The programs, and the command that prints their flags.
const PROGRAMS: [(&str, &[&str]); 4] =
    [("operator", &["run", "--help"]), ("issuer", &["--help"]), ("consumer", &["--help"]), ("redeemer", &["--help"])];

/// Environment variables of the program's Deployment, if the variant has one.
fn environments(objects: &[Value], program: &str) -> Vec<(String, Value)> {
    let is_of_program =
        |it: &&Value| it["kind"] == "Deployment" && it["metadata"]["labels"]["app.kubernetes.io/component"] == program;
    objects.iter().filter(is_of_program).flat_map(environment).collect()
}

#[test]
fn every_environment_variable_is_a_flag_of_its_program() {
    for (name, values) in variants() {
        let objects = variant(&values);
        for (program, command) in PROGRAMS {
            let help = help(&format!("couponry-{program}"), command);
            for (variable, value) in environments(&objects, program) {
                // Set through extraEnv.
                if ["RUST_BACKTRACE", "TOKEN"].contains(&variable.as_str()) {
                    continue;
                }
                // Read by other commands of the operator that run in its pod.
                let known = ["=", "]"].iter().any(|end| help.contains(&format!("[env: {variable}{end}")))
                    || (program == "operator" && variable == "KAFKA_GROUP");
                assert!(known, "{name}: {program} has no flag for {variable}={value}");
            }
        }
    }
}

#[test]
fn every_flag_is_set_by_some_variant() {
    let variants: Vec<_> = variants().into_iter().map(|(_, values)| variant(&values)).collect();
    for (program, command) in PROGRAMS {
        let set: BTreeSet<String> =
            variants.iter().flat_map(|it| environments(it, program)).map(|(variable, _)| variable).collect();
        let help = help(&format!("couponry-{program}"), command);
        let flags = help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap());
        let unset: Vec<&str> = flags.filter(|variable| !set.contains(*variable)).collect();
        assert!(unset.is_empty(), "{program}: no variant of the chart sets {unset:?}");
    }
}

#[test]
fn helm_test_uses_existing_command_and_flags() {
    let objects = with(&["issuer.userIdentity=header:X-User"]);
    let (_, pod) = pods(&objects).into_iter().find(|(name, _)| name == "couponry-test").unwrap();
    let args: Vec<&str> =
        pod["spec"]["containers"][0]["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert_eq!(args[0], "install-test");
    let help = help("couponry-operator", &["install-test", "--help"]);
    for flag in args[1..].iter().map(|arg| arg.split('=').next().unwrap()).chain(["--bearer-token"]) {
        assert!(help.contains(&format!("{flag} <")), "install-test has no {flag}");
    }
    let service = find(&objects, "Service", "couponry-issuer");
    assert!(args.contains(&"--issuer-url=http://couponry-issuer:8080"), "{args:?}");
    assert_eq!(service["spec"]["ports"][0]["port"], 8080);

    let without_token = with(&["issuer.userIdentity=jwt", "issuer.jwt.jwksUrl=https://login.example.com/keys"]);
    for objects in [without_token, with(&["test.enabled=false"])] {
        let labels = objects.iter().map(|it| &it["metadata"]["labels"]["app.kubernetes.io/component"]);
        assert_eq!(labels.filter(|component| **component == "test").count(), 0);
    }
}

fn help(program: &str, args: &[&str]) -> String {
    let path = couponry_testbed::shared::program(program);
    let output = Command::new(Path::new(&path)).args(args).env_clear().output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
