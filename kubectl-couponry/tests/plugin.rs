//! The plugin against a real API server, and a real operator where it waits for one. What it runs in the operator's pod needs a
//! node: `cargo xtask e2e` has one.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use couponry_testbed::{Database, Kubernetes, kubernetes::User, ports, program::Running, shared, unique_name};

const DEADLINE: Duration = Duration::from_mins(2);

const BY_SHARES: &str = "{policyName: Summer sale, totalCount: 100, \
     discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}";

fn plugin(kubeconfig: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-couponry"));
    command.arg("--kubeconfig").arg(kubeconfig).args(args).stdin(Stdio::null());
    command
}

/// Standard output of a call that succeeds.
fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

/// Standard error of a call that fails.
fn refused(output: &Output) -> String {
    ended(output, 1)
}

/// Standard error of a call that was used wrongly, or could not find out.
fn unanswered(output: &Output) -> String {
    ended(output, 2)
}

fn ended(output: &Output, code: i32) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    err.into_owned()
}

fn manifest(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}"
    )
}

/// A namespace with an operator of its own.
struct Installation {
    namespace: String,
    operator: Running,
    _database: Database,
}

impl Installation {
    fn start() -> Self {
        let namespace = unique_name("plugin");
        shared::kubectl_with(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            &couponry_crds::definition_yaml(),
        )
        .unwrap();
        shared::kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/couponevents.couponry.dev"])
            .unwrap();
        shared::kubectl(&["create", "namespace", &namespace]).unwrap();
        let database = Database::create().unwrap();
        let operator = couponry_testbed::program("couponry-operator")
            .args(["--namespace", &namespace, "--redis-url", &shared::redis()])
            .args(["--redis-key-prefix", &format!("{namespace}-"), "--postgres-url", &database.url()])
            .args(["--kafka-brokers", &shared::kafka(), "--kafka-topic", &namespace, "--kafka-partitions", "1"])
            .args(["--monitor-listen", &format!("127.0.0.1:{}", ports::free().unwrap()), "--admin-listen", ""])
            .env("KUBECONFIG", shared::kubeconfig())
            .start()
            .unwrap();
        Self { namespace, operator, _database: database }
    }

    fn apply(&self, name: &str, spec: &str) {
        shared::kubectl_with(&["apply", "-f", "-"], &manifest(&self.namespace, name, spec)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        plugin(&shared::kubeconfig(), &[&["-n", &self.namespace], args].concat())
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Waits until `status` shows this.
    fn wait(&self, name: &str, part: &str) -> String {
        let begun = Instant::now();
        loop {
            let shown = said(&self.run(&["status", name]));
            if shown.contains(part) {
                return shown;
            }
            assert!(begun.elapsed() < DEADLINE, "{part:?} is not in\n{shown}\n{}", self.operator.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn an_event_is_watched_paused_resumed_topped_up_and_closed() {
    let installation = Installation::start();
    installation.apply("summer", BY_SHARES);
    let shown = installation.wait("summer", "state      Open");
    assert!(shown.contains("summer  Summer sale"), "{shown}");
    assert!(shown.contains("100 / 100"), "{shown}");
    assert!(shown.contains("✓ Ready"), "{shown}");

    let mut watch = installation.command(&["status", "summer", "-w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut until = |part: &str| lines.by_ref().map(Result::unwrap).find(|line| line.contains(part)).unwrap();
    assert!(until("summer  Open").contains("available 100"));

    let paused = said(&installation.run(&["pause", "summer"]));
    assert!(paused.starts_with("summer is paused\nsummer  Paused"), "{paused}");
    until("summer  Paused");
    let resumed = said(&installation.run(&["resume", "summer"]));
    assert!(resumed.starts_with("summer is resumed\nsummer  Open"), "{resumed}");
    let more = said(&installation.run(&["topup", "summer", "50"]));
    assert!(more.starts_with("summer is topped up to 150 coupons\n"), "{more}");
    assert!(more.contains("loaded 150/150"), "{more}");
    assert!(refused(&installation.run(&["topup", "summer", "--to", "120"])).contains("has 150 coupons already"));
    until("loaded 150/150");

    assert!(unanswered(&installation.run(&["close", "summer"])).contains("closing summer is final; say --yes"));
    assert!(said(&installation.run(&["close", "summer", "--yes"])).starts_with("summer is closed\nsummer  Closed"));
    assert!(refused(&installation.run(&["resume", "summer"])).contains("closed, which is final"));
    assert!(refused(&installation.run(&["pause", "summer"])).contains("summer is closed"));

    let table = said(&installation.run(&["status"]));
    let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells[..4], ["summer", "True", "Closed", "150"], "{table}");
    let everywhere = said(&installation.run(&["status", "-A"]));
    assert!(everywhere.starts_with("NAMESPACE") && everywhere.contains(&installation.namespace), "{everywhere}");

    shared::kubectl(&["delete", "ce", "summer", "--namespace", &installation.namespace]).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(1));
}

#[test]
fn an_event_by_counts_says_how_to_top_it_up() {
    let installation = Installation::start();
    let spec = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 9, count: 7}, {type: Percent, value: 10, count: 3}]}";
    installation.apply("counted", spec);
    let advice = refused(&installation.run(&["topup", "counted", "5"]));
    assert!(advice.contains("(AMOUNT:9 has 7, PERCENT:10 has 3)"), "{advice}");
    assert!(advice.contains("by 5 in all, and totalCount to 15"), "{advice}");
    assert!(advice.contains("kubectl edit ce counted"), "{advice}");
}

#[test]
fn an_event_that_cannot_be_read_is_named_and_hides_no_other() {
    let kubernetes = Kubernetes::start().unwrap();
    let run = |args: &[&str]| plugin(kubernetes.kubeconfig(), args).output().unwrap();
    let mut older = serde_json::to_value(couponry_crds::definition()).unwrap();
    let end = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/endTime";
    *older.pointer_mut(end).unwrap() = serde_json::json!({"type": "string"});
    let rules = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations";
    older.pointer_mut(rules).unwrap().as_array_mut().unwrap().clear();
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &older.to_string()).unwrap();
    kubernetes
        .kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/couponevents.couponry.dev"])
        .unwrap();
    let odd = BY_SHARES.replace("totalCount", "endTime: '9999-12-31T23:59:59Z', totalCount");
    for (name, spec) in [("forever", odd.as_str()), ("summer", BY_SHARES)] {
        kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest("default", name, spec)).unwrap();
    }
    let table = said(&run(&["status"]));
    let state = |line: usize| table.lines().nth(line).unwrap().split_whitespace().nth(2).unwrap();
    assert_eq!((state(1), state(2)), ("InvalidObject", "Unknown"), "{table}");
    for args in [&["status", "forever"][..], &["pause", "forever"]] {
        let why = refused(&run(args));
        assert!(why.contains("the event forever cannot be read: ") && why.contains("kubectl edit ce forever"), "{why}");
    }
    assert!(said(&run(&["status", "summer"])).contains("Summer sale"));
    assert!(refused(&run(&["status", "sumer"])).contains("did you mean"));
}

#[test]
fn what_is_missing_or_forbidden_is_said() {
    let eve = User { token: "eve-token", name: "eve", groups: &["system:authenticated"] };
    let kubernetes = Kubernetes::start_with(&[eve]).unwrap();
    let run = |args: &[&str]| plugin(kubernetes.kubeconfig(), args).output().unwrap();

    for args in [&["status"][..], &["status", "summer"], &["pause", "summer"]] {
        assert!(refused(&run(args)).contains("the cluster knows no CouponEvents: install Couponry"), "{args:?}");
    }
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &couponry_crds::definition_yaml()).unwrap();
    kubernetes
        .kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/couponevents.couponry.dev"])
        .unwrap();
    let none = run(&["status"]);
    assert_eq!(said(&none), "");
    assert_eq!(String::from_utf8_lossy(&none.stderr), "There are no events in the namespace default.\n");
    assert!(refused(&run(&["status", "summer"])).contains("the namespace default has no events"));

    kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest("default", "summer", BY_SHARES)).unwrap();
    for name in ["summer/status", "a b", "", "summer?watch=true"] {
        for command in ["status", "pause", "audit"] {
            let wrong = unanswered(&run(&[command, name]));
            assert!(wrong.contains(&format!("invalid value '{name}'")) || name.is_empty(), "{wrong}");
            assert!(wrong.contains("lower-case letters, digits") || name.is_empty(), "{wrong}");
        }
    }
    assert!(unanswered(&run(&["status", "-n", "a b"])).contains("lower-case letters, digits"));

    let slip = refused(&run(&["pause", "sumer"]));
    assert!(slip.contains(r#"there is no event "sumer" in the namespace default; did you mean "summer"?"#), "{slip}");
    let shown = said(&run(&["status", "summer"]));
    assert!(shown.contains("no operator has seen it yet"), "{shown}");
    let alone = refused(&run(&["pause", "summer", "--timeout", "1"]));
    assert!(alone.contains("no operator has followed it after 1 s"), "{alone}");
    assert!(said(&run(&["resume", "summer", "--no-wait"])).contains("when the operator has followed"));
    for args in [&["check"][..], &["audit", "summer"], &["export", "summer", "coupons"]] {
        let nobody = unanswered(&run(args));
        assert!(nobody.contains("there is no operator in the namespace default"), "{nobody}");
    }

    let kubeconfig = std::fs::read_to_string(kubernetes.kubeconfig()).unwrap();
    let hers = kubernetes.kubeconfig().with_file_name("eve");
    std::fs::write(&hers, kubeconfig.replace("admin-token", eve.token)).unwrap();
    let forbidden = refused(&plugin(&hers, &["status", "summer"]).output().unwrap());
    assert!(forbidden.contains("{apiGroups: [couponry.dev], resources: [couponevents], verbs: [get]}"), "{forbidden}");
    let forbidden = unanswered(&plugin(&hers, &["check"]).output().unwrap());
    assert!(forbidden.contains("resources: [pods/exec]"), "{forbidden}");
    let nowhere = refused(&run(&["--context", "nowhere", "status"]));
    assert!(nowhere.contains("nowhere"), "{nowhere}");
}
