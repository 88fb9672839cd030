//! The plugin against a real API server, with a real operator where it waits for one. Commands in the operator's pod
//! require a node and are tested by `cargo xtask e2e`.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use couponry_testbed::{
    Database, Kubernetes, kubectl::wait_established, kubernetes::User, ports, program::Running, shared, unique_name,
};

const DEADLINE: Duration = Duration::from_mins(2);

const BY_SHARES: &str = "{policyName: Summer sale, totalCount: 100, \
     discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}";

fn plugin(kubeconfig: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-couponry"));
    command.arg("--kubeconfig").arg(kubeconfig).args(args).stdin(Stdio::null());
    command
}

/// Standard output of a successful call.
fn stdout(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

/// Standard error of a call with exit code 1.
fn failure(output: &Output) -> String {
    stderr(output, 1)
}

/// Standard error of a call with exit code 2: invalid usage, or a command that could not run.
fn not_run(output: &Output) -> String {
    stderr(output, 2)
}

fn stderr(output: &Output, code: i32) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    err.into_owned()
}

fn manifest(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}"
    )
}

/// A namespace on the shared API server, with the CRD and without an operator.
fn namespace() -> String {
    static CRD: OnceLock<()> = OnceLock::new();
    // Once: concurrent first applications of an object fail.
    CRD.get_or_init(|| {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        shared::kubectl_with(&apply, &couponry_crds::crd_yaml()).unwrap();
        wait_established(&shared::kubeconfig(), &["crd/couponevents.couponry.dev"]).unwrap();
    });
    let namespace = unique_name("plugin");
    shared::kubectl(&["create", "namespace", &namespace]).unwrap();
    namespace
}

/// A namespace with its own operator.
struct Installation {
    namespace: String,
    operator: Running,
    _database: Database,
}

impl Installation {
    fn start() -> Self {
        let namespace = namespace();
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

    /// Waits until the output of `status` contains this text.
    fn wait(&self, name: &str, part: &str) -> String {
        let started = Instant::now();
        loop {
            let shown = stdout(&self.run(&["status", name]));
            if shown.contains(part) {
                return shown;
            }
            assert!(started.elapsed() < DEADLINE, "{part:?} is not in\n{shown}\n{}", self.operator.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn commands_on_running_event_change_its_status() {
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

    let paused = stdout(&installation.run(&["pause", "summer"]));
    assert!(paused.starts_with("summer is paused\nsummer  Paused"), "{paused}");
    until("summer  Paused");
    let resumed = stdout(&installation.run(&["resume", "summer"]));
    assert!(resumed.starts_with("summer is resumed\nsummer  Open"), "{resumed}");

    let held = stdout(&installation.run(&["hold", "summer", "--reason", "wrong discount\u{1b}[2J"]));
    assert!(held.starts_with("summer is held\nsummer  Held"), "{held}");
    assert!(held.contains("HELD: Issuing is held: wrong discount[2J."), "{held}");
    until("summer  Held");
    // The status of the first hold is not that of the second one.
    let held = stdout(&installation.run(&["hold", "summer", "--reason", "wrong price"]));
    assert!(held.starts_with("summer is held\nsummer  Held"), "{held}");
    assert!(held.contains("HELD: Issuing is held: wrong price."), "{held}");
    // A hold and the manifest are independent.
    let resumed = stdout(&installation.run(&["resume", "summer"]));
    assert!(resumed.starts_with("summer is resumed\nsummer  Held"), "{resumed}");
    assert!(installation.wait("summer", "state      Held").contains("wrong price"));
    let released = stdout(&installation.run(&["release-hold", "summer"]));
    assert!(released.starts_with("summer is no longer held\nsummer  Open"), "{released}");
    assert!(stdout(&installation.run(&["release-hold", "summer"])).starts_with("summer is no longer held"));
    assert!(not_run(&installation.run(&["hold", "summer"])).contains("--reason <TEXT>"));

    let topped_up = stdout(&installation.run(&["topup", "summer", "50"]));
    assert!(topped_up.starts_with("summer is topped up to 150 coupons\n"), "{topped_up}");
    assert!(topped_up.contains("loaded 150/150"), "{topped_up}");
    let repeated = stdout(&installation.run(&["topup", "summer", "--to", "150"]));
    assert!(repeated.starts_with("summer is topped up to 150 coupons\n"), "{repeated}");
    assert!(failure(&installation.run(&["topup", "summer", "--to", "120"])).contains("already has 150 coupons"));
    until("loaded 150/150");

    assert!(
        not_run(&installation.run(&["close", "summer"])).contains("closing summer is permanent: confirm with --yes")
    );
    assert!(stdout(&installation.run(&["close", "summer", "--yes"])).starts_with("summer is closed\nsummer  Closed"));
    assert!(failure(&installation.run(&["resume", "summer"])).contains("summer is closed and cannot be resumed"));
    assert!(failure(&installation.run(&["pause", "summer"])).contains("summer is closed"));
    let held = failure(&installation.run(&["hold", "summer", "--reason", "x"]));
    assert!(held.contains("summer is closed and cannot be held"), "{held}");

    let table = stdout(&installation.run(&["status"]));
    let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells[..4], ["summer", "True", "Closed", "150"], "{table}");
    let all_namespaces = stdout(&installation.run(&["status", "-A"]));
    assert!(
        all_namespaces.starts_with("NAMESPACE") && all_namespaces.contains(&installation.namespace),
        "{all_namespaces}"
    );

    shared::kubectl(&["delete", "ce", "summer", "--namespace", &installation.namespace]).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(1));
}

#[test]
fn topup_of_event_with_counts_prints_instructions() {
    let installation = Installation::start();
    let spec = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 9, count: 7}, {type: Percent, value: 10, count: 3}]}";
    installation.apply("counted", spec);
    let error = failure(&installation.run(&["topup", "counted", "5"]));
    assert!(error.contains("(7 of AMOUNT:9, 3 of PERCENT:10)"), "{error}");
    assert!(error.contains("by 5 in total, and totalCount to 15"), "{error}");
    assert!(error.contains("kubectl edit ce counted"), "{error}");
}

#[test]
fn invalid_event_is_reported_and_others_are_shown() {
    let kubernetes = Kubernetes::start().unwrap();
    let run = |args: &[&str]| plugin(kubernetes.kubeconfig(), args).output().unwrap();
    let mut older = serde_json::to_value(couponry_crds::crd()).unwrap();
    let end = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/endTime";
    *older.pointer_mut(end).unwrap() = serde_json::json!({"type": "string"});
    let rules = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations";
    older.pointer_mut(rules).unwrap().as_array_mut().unwrap().clear();
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &older.to_string()).unwrap();
    wait_established(kubernetes.kubeconfig(), &["crd/couponevents.couponry.dev"]).unwrap();
    let unsupported = BY_SHARES.replace("totalCount", "endTime: '9999-12-31T23:59:59Z', totalCount");
    for (name, spec) in [("forever", unsupported.as_str()), ("summer", BY_SHARES)] {
        kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest("default", name, spec)).unwrap();
    }
    let table = stdout(&run(&["status"]));
    let state = |line: usize| table.lines().nth(line).unwrap().split_whitespace().nth(2).unwrap();
    assert_eq!((state(1), state(2)), ("InvalidObject", "Unknown"), "{table}");
    for args in [&["status", "forever"][..], &["pause", "forever"]] {
        let error = failure(&run(args));
        assert!(
            error.contains("the event forever is not valid: ") && error.contains("kubectl edit ce forever"),
            "{error}"
        );
    }
    assert!(stdout(&run(&["status", "summer"])).contains("Summer sale"));
    assert!(failure(&run(&["status", "sumer"])).contains("did you mean"));
}

#[test]
fn missing_or_forbidden_resources_are_reported() {
    let eve = User { token: "eve-token", name: "eve", groups: &["system:authenticated"] };
    let kubernetes = Kubernetes::start_with(&[eve]).unwrap();
    let run = |args: &[&str]| plugin(kubernetes.kubeconfig(), args).output().unwrap();

    for args in [&["status"][..], &["status", "summer"], &["pause", "summer"]] {
        assert!(failure(&run(args)).contains("the cluster has no CRD for CouponEvents: install Couponry"), "{args:?}");
    }
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &couponry_crds::crd_yaml()).unwrap();
    wait_established(kubernetes.kubeconfig(), &["crd/couponevents.couponry.dev"]).unwrap();
    let empty = run(&["status"]);
    assert_eq!(stdout(&empty), "");
    assert_eq!(String::from_utf8_lossy(&empty.stderr), "No events found in the namespace default.\n");
    assert!(failure(&run(&["status", "summer"])).contains("the namespace default has no events"));

    kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest("default", "summer", BY_SHARES)).unwrap();
    for name in ["summer/status", "a b", "", "summer?watch=true"] {
        for command in ["status", "pause", "audit"] {
            let error = not_run(&run(&[command, name]));
            assert!(error.contains(&format!("invalid value '{name}'")) || name.is_empty(), "{error}");
            assert!(error.contains("lower-case letters, digits") || name.is_empty(), "{error}");
        }
    }
    assert!(not_run(&run(&["status", "-n", "a b"])).contains("lower-case letters, digits"));

    let misspelled = failure(&run(&["pause", "sumer"]));
    assert!(
        misspelled.contains(r#"event "sumer" not found in the namespace default; did you mean "summer"?"#),
        "{misspelled}"
    );
    let shown = stdout(&run(&["status", "summer"]));
    assert!(shown.contains("no operator has observed this event yet"), "{shown}");
    let timed_out = failure(&run(&["pause", "summer", "--timeout-seconds", "1"]));
    assert!(timed_out.contains("no operator has observed it within 1 s"), "{timed_out}");
    assert!(stdout(&run(&["resume", "summer", "--no-wait"])).contains("when the operator has applied it"));
    for args in [
        &["check"][..],
        &["audit", "summer"],
        &["export", "summer", "coupons"],
        &["export", "summer", "issuances"],
        &["export", "summer", "redemptions"],
        &["repair", "summer", "--yes"],
        &["replay-dead-letters", "--event", "summer"],
        &["purge", "--older-than", "90d"],
        &["import", "summer", "-"],
    ] {
        let error = not_run(&run(args));
        assert!(error.contains("no operator found in the namespace default"), "{error}");
    }

    let kubeconfig = std::fs::read_to_string(kubernetes.kubeconfig()).unwrap();
    let kubeconfig_of_eve = kubernetes.kubeconfig().with_file_name("eve");
    std::fs::write(&kubeconfig_of_eve, kubeconfig.replace("admin-token", eve.token)).unwrap();
    let forbidden = failure(&plugin(&kubeconfig_of_eve, &["status", "summer"]).output().unwrap());
    assert!(forbidden.contains("{apiGroups: [couponry.dev], resources: [couponevents], verbs: [get]}"), "{forbidden}");
    let forbidden = not_run(&plugin(&kubeconfig_of_eve, &["check"]).output().unwrap());
    assert!(forbidden.contains("resources: [pods/exec]"), "{forbidden}");
    let unknown_context = failure(&run(&["--context", "nowhere", "status"]));
    assert!(unknown_context.contains("nowhere"), "{unknown_context}");
}

/// A namespace with the event `summer`, and commands in it.
struct WithoutOperator {
    namespace: String,
}

impl WithoutOperator {
    fn new() -> Self {
        let namespace = namespace();
        shared::kubectl_with(&["apply", "-f", "-"], &manifest(&namespace, "summer", BY_SHARES)).unwrap();
        Self { namespace }
    }

    fn command(&self, args: &[&str]) -> Command {
        plugin(&shared::kubeconfig(), &[&["-n", &self.namespace], args].concat())
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

#[test]
fn closed_or_full_standard_output_ends_the_command_without_a_panic() {
    let installation = WithoutOperator::new();
    for args in [
        &["status"][..],
        &["status", "--output", "json"],
        &["status", "summer"],
        &["status", "--watch"],
        &["status", "summer", "--watch"],
        &["resume", "summer", "--no-wait"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = installation.command(args).stdout(writer).output().unwrap();
        assert_eq!(stderr(&closed, 141), "", "{args:?}");

        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let full = failure(&installation.command(args).stdout(full).output().unwrap());
        assert_eq!(full, "Error: cannot write to standard output: No space left on device (os error 28)\n", "{args:?}");
    }
    // An error that cannot be printed is still an exit code.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(installation.command(&["status", "nothing"]).stderr(full).output().unwrap().status.code(), Some(1));
}

#[test]
fn watch_without_name_prints_each_change_of_each_event() {
    let installation = WithoutOperator::new();
    let mut watch = installation.command(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut until = |part: &str| lines.by_ref().map(Result::unwrap).find(|line| line.contains(part)).unwrap();
    until("  summer  Unknown  loaded -/100");
    shared::kubectl_with(&["apply", "-f", "-"], &manifest(&installation.namespace, "winter", BY_SHARES)).unwrap();
    until("  winter  Unknown  loaded -/100");
    stdout(&installation.run(&["topup", "summer", "--to", "200", "--no-wait"]));
    until("  summer  Unknown  loaded -/200");
    shared::kubectl(&["delete", "ce", "winter", "--namespace", &installation.namespace]).unwrap();
    until("  winter  deleted");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn status_as_json_has_the_fields_of_the_manifest() {
    let installation = WithoutOperator::new();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&stdout(&installation.run(&[&["status", "--output", "json"], args].concat()))).unwrap()
    };
    let event = json(&["summer"]);
    assert_eq!((&event["name"], &event["state"]), (&"summer".into(), &"Unknown".into()), "{event}");
    assert_eq!(
        (&event["namespace"], &event["spec"]["totalCount"]),
        (&installation.namespace.as_str().into(), &100.into())
    );
    assert_eq!(json(&[]), serde_json::json!([event]));
    shared::kubectl(&["delete", "ce", "summer", "--namespace", &installation.namespace]).unwrap();
    assert_eq!(json(&[]), serde_json::json!([]));
}

#[test]
fn changes_have_the_field_manager_of_the_plugin() {
    let installation = WithoutOperator::new();
    stdout(&installation.run(&["pause", "summer", "--no-wait"]));
    let managers = ["get", "ce", "summer", "-o", "jsonpath={.metadata.managedFields[*].manager}"];
    let managers = shared::kubectl(&[&managers[..], &["--namespace", &installation.namespace]].concat()).unwrap();
    assert_eq!(managers, "kubectl-client-side-apply kubectl-couponry");
}

#[test]
fn flags_of_kubectl_select_identity_and_server() {
    let installation = WithoutOperator::new();
    assert!(failure(&installation.run(&["status", "--as", "eve"])).contains("not allowed to list events"));
    stdout(&installation.run(&["status", "--as", "eve", "--as-group", "system:masters"]));
    assert!(not_run(&installation.run(&["status", "--as-group", "system:masters"])).contains("--as <USER>"));
    let rejected = failure(&installation.run(&["status", "--token", "wrong"]));
    assert!(rejected.contains("the API server rejected the credentials"), "{rejected}");

    let unreachable = failure(&installation.run(&["status", "--server", "https://127.0.0.1:1"]));
    let begin = "Error: cannot reach the Kubernetes API server https://127.0.0.1:1/: ";
    assert!(
        unreachable.starts_with(begin) && unreachable.ends_with("Connection refused (os error 111)\n"),
        "{unreachable}"
    );
    // Accepts connections and never responds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let timed_out = failure(&installation.run(&["status", "--server", &url, "--request-timeout", "1s"]));
    assert!(timed_out.starts_with(&format!("Error: cannot reach the Kubernetes API server {url}/: ")), "{timed_out}");
}

#[test]
fn missing_kubeconfig_is_reported_once() {
    let error = failure(&plugin(Path::new("/nonexistent"), &["status"]).output().unwrap());
    assert!(error.starts_with("Error: cannot read the kubeconfig: "), "{error}");
    assert_eq!((error.matches("nonexistent").count(), error.matches("No such file").count()), (1, 1), "{error}");
}

#[test]
fn completion_for_kubectl_lists_commands_and_events() {
    let installation = WithoutOperator::new();
    let scratch = couponry_testbed::scratch::Scratch::new("completion").unwrap();
    let link = scratch.path().join("kubectl_complete-couponry");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kubectl-couponry"), &link).unwrap();
    let complete = |words: &[&str]| {
        let mut command = Command::new(&link);
        command.args(["-n", &installation.namespace]).args(words).env("KUBECONFIG", shared::kubeconfig());
        stdout(&command.output().unwrap())
    };
    assert_eq!(complete(&["pa"]), "pause\tSuspends issuing until the event is resumed\n:4\n");
    assert_eq!(complete(&["pause", ""]), "summer\n:4\n");
    assert_eq!(complete(&["pause", "x"]), ":4\n");
    assert_eq!(complete(&["pause", "--kubeconfig", "/nonexistent", ""]), ":4\n");
}
