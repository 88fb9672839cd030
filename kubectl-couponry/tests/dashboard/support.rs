//! Dashboards, installations and events.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use couponry_browser::{Browser, thirtyfour::By};
use couponry_testbed::{
    Database, http, kubectl::wait_established, pods::PodOf, ports, program::Running, shared, unique_name,
};

/// The environment variable with the directory to which the pictures of the documentation are written.
const SCREENSHOTS: &str = "COUPONRY_SCREENSHOTS";

pub(crate) fn apply_crd(kubectl: impl Fn(&[&str], &str), kubeconfig: &Path) {
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &couponry_crds::crd_yaml());
    wait_established(kubeconfig, &["crd/couponevents.couponry.dev"]).unwrap();
}

/// A namespace on the shared API server, with the CRD and without an operator.
pub(crate) fn namespace() -> String {
    create_namespace(unique_name("dashboard"))
}

fn create_namespace(name: String) -> String {
    static CRD: OnceLock<()> = OnceLock::new();
    // Once: concurrent first applications of an object fail.
    CRD.get_or_init(|| {
        apply_crd(|args, input| drop(shared::kubectl_with(args, input).unwrap()), &shared::kubeconfig());
    });
    shared::kubectl(&["create", "namespace", &name]).unwrap();
    name
}

pub(crate) fn manifest(namespace: &str, name: &str, spec: &str) -> String {
    let metadata = format!("{{name: {name}, namespace: {namespace}}}");
    format!("{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {metadata}, spec: {spec}}}")
}

/// An event with one discount of 10 percent and this policy name.
pub(crate) fn spec(policy_name: &str, total: u64) -> String {
    format!(
        "{{policyName: '{policy_name}', totalCount: {total}, \
         discounts: [{{type: Percent, value: 10, allocationPercentage: 100}}]}}"
    )
}

/// The flags of the servers of an installation.
fn servers(namespace: &str) -> [String; 4] {
    [
        format!("--redis-url={}", shared::redis()),
        format!("--redis-key-prefix={namespace}-"),
        format!("--kafka-brokers={}", shared::kafka()),
        format!("--kafka-topic={namespace}"),
    ]
}

/// An operator, an issuer and a consumer, which are pods of the namespace.
pub(crate) struct Installation {
    pub(crate) namespace: String,
    pub(crate) issuer_port: u16,
    /// Operator, issuer and consumer.
    programs: Vec<Running>,
    database: Database,
}

impl Installation {
    pub(crate) fn start() -> Self {
        let namespace = create_namespace(if takes_pictures() { "shop".to_owned() } else { unique_name("dashboard") });
        let database = Database::create().unwrap();
        let issuer_port = ports::free().unwrap();
        let listen = format!("127.0.0.1:{issuer_port}");
        let postgres = database.url();
        let components: [(&str, &[&str]); 3] = [
            (
                "operator",
                &[
                    "--namespace",
                    &namespace,
                    "--postgres-url",
                    &postgres,
                    "--admin-listen",
                    "",
                    "--kafka-partitions",
                    "1",
                ],
            ),
            ("issuer", &["--listen", &listen, "--drain-seconds", "0"]),
            ("consumer", &["--postgres-url", &postgres, "--kafka-group", &namespace]),
        ];
        let mut programs = Vec::new();
        for (component, args) in components {
            let monitor_port = ports::free().unwrap();
            let program = couponry_testbed::program(&format!("couponry-{component}"))
                .args(servers(&namespace))
                .args(["--monitor-listen", &format!("127.0.0.1:{monitor_port}")])
                .args(args.iter().copied())
                .env("KUBECONFIG", shared::kubeconfig());
            let name = format!("couponry-{component}-1");
            PodOf { name: &name, component, monitor_port }.create(&shared::kubeconfig(), &namespace).unwrap();
            programs.push(program.start().unwrap());
        }
        Self { namespace, issuer_port, programs, database }
    }

    pub(crate) fn apply(&self, name: &str, spec: &str) {
        shared::kubectl_with(&["apply", "-f", "-"], &manifest(&self.namespace, name, spec)).unwrap();
    }

    pub(crate) fn delete(&self, name: &str) {
        shared::kubectl(&["delete", "ce", name, "--namespace", &self.namespace]).unwrap();
    }

    /// What `check` of the operator reports about the installation, as JSON.
    pub(crate) fn check(&self) -> String {
        let output = Command::new(shared::program("couponry-operator"))
            .args(["check", "--output", "json", "--namespace", &self.namespace])
            .args(["--postgres-url", &self.database.url(), "--kafka-partitions", "1", "--kafka-group", &self.namespace])
            .args(servers(&self.namespace))
            .env("KUBECONFIG", shared::kubeconfig())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// SIGSTOP to the operator.
    pub(crate) fn pause_operator(&self) {
        self.programs[0].pause().unwrap();
    }

    /// Ends [`Installation::pause_operator`].
    pub(crate) fn resume_operator(&self) {
        self.programs[0].resume().unwrap();
    }

    /// Requests a coupon. The response is an error while the issuer starts.
    pub(crate) fn request_coupon(&self, event: &str, user: u32) -> Option<(u16, String)> {
        let body = format!(r#"{{"userId":"user-{user}","eventId":"{event}"}}"#);
        http::post(self.issuer_port, "/coupons/issue", &body)
    }
}

/// A running `kubectl couponry dashboard`.
pub(crate) struct Dashboard {
    process: Child,
    /// The link that it has printed.
    pub(crate) url: String,
    pub(crate) port: u16,
}

impl Dashboard {
    pub(crate) fn start(kubeconfig: &Path, namespace: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_kubectl-couponry"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["dashboard", "--no-browser", "-n", namespace])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.trim().to_owned()).filter(|it| it.starts_with("http")));
        let url = url.expect("the dashboard prints its link");
        let port = url.split(['/', ':']).nth(4).unwrap().parse().unwrap();
        Self { process, url, port }
    }

    /// Sends a signal, such as `STOP`, to the program.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.process.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) async fn open(&self) -> Browser {
        let browser = Browser::start().await.unwrap();
        browser.goto(&self.url).await.unwrap();
        browser
    }

    /// Sends a request with exactly these headers, and returns status code, head and body.
    pub(crate) fn request(&self, request: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
        let headers: String = headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
        let length = body.len();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{request} HTTP/1.1\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
            .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn click(browser: &Browser, selector: &str) {
    browser.find(By::Css(selector)).await.unwrap().click().await.unwrap();
}

/// Opens the page of an event.
pub(crate) async fn open_event(browser: &Browser, name: &str) {
    let link = format!("a[href='#/{name}']");
    browser.wait_for(&format!("document.querySelector(\"{link}\")")).await.unwrap();
    click(browser, &link).await;
}

pub(crate) async fn type_into(browser: &Browser, selector: &str, text: &str) {
    let field = browser.find(By::Css(selector)).await.unwrap();
    field.clear().await.unwrap();
    field.send_keys(text).await.unwrap();
}

/// Opens the dialog of a button, types the name of the event, and submits.
pub(crate) async fn confirm(browser: &Browser, action: &str, name: &str) {
    click(browser, &format!("[data-action={action}]")).await;
    type_into(browser, "#dialog-name", name).await;
    click(browser, "#dialog-submit").await;
}

/// Writes a picture for the documentation, if the environment variable is set.
pub(crate) async fn picture(browser: &Browser, name: &str) {
    if let Some(directory) = std::env::var_os(SCREENSHOTS) {
        browser.save_screenshot(&PathBuf::from(directory).join(name)).await.unwrap();
    }
}

/// Whether pictures are taken.
pub(crate) fn takes_pictures() -> bool {
    std::env::var_os(SCREENSHOTS).is_some()
}
