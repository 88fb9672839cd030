//! `kubectl couponry dashboard`: its data come through the API server and a real kubelet.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use couponry_testbed::process::output;
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use serde_json::{Value, json};

use super::environment::Environment;

/// A running dashboard, and a browser that has opened its link.
struct Dashboard {
    process: Child,
    address: String,
    directory: Scratch,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Dashboard {
    fn open(environment: &Environment) -> Result<Self> {
        let mut process = Command::new(environment.program("kubectl-couponry"))
            .env("KUBECONFIG", environment.kubeconfig())
            .args(["--namespace", environment.kubectl.namespace(), "dashboard", "--no-browser"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run kubectl-couponry")?;
        let printed = process.stdout.take().context("no output")?;
        let directory = Scratch::new("dashboard")?;
        let mut dashboard = Self { process, address: String::new(), directory };
        let link = BufReader::new(printed).lines().map_while(Result::ok).find(|line| line.contains("http://"));
        let link = link.context("the dashboard has not printed a link")?;
        let (address, _) = link.trim().split_once("/?token=").context("the link has no token")?;
        address.clone_into(&mut dashboard.address);
        // It sets the cookie, and the browser continues at the page.
        dashboard.curl(&[link.trim()])?;
        let page = dashboard.curl(&[&format!("{}/", dashboard.address)])?;
        ensure!(page.contains("dashboard.js"), "the dashboard returns {page}");
        Ok(dashboard)
    }

    fn curl(&self, args: &[&str]) -> Result<String> {
        let cookies = self.cookies();
        let cookies = cookies.to_str().context("invalid path")?;
        output("curl".as_ref(), &[&["-sS", "-m", "120", "-b", cookies, "-c", cookies], args].concat(), None)
    }

    fn cookies(&self) -> PathBuf {
        self.directory.path().join("cookies")
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let (origin, url) = (format!("Origin: {}", self.address), format!("{}{path}", self.address));
        let json = "Content-Type: application/json";
        let body = self.curl(&["-H", &origin, "-H", json, "-d", &body.to_string(), &url])?;
        serde_json::from_str(&body).with_context(|| format!("{path} returns {body}"))
    }

    /// Reads the stream of changes until `is_done`.
    fn follow(&self, mut is_done: impl FnMut(&Value) -> bool) -> Result<()> {
        let mut stream = Command::new("curl")
            .args(["-sS", "-N", "-m", "60", "-b"])
            .arg(self.cookies())
            .arg(format!("{}/api/stream", self.address))
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run curl")?;
        let lines = BufReader::new(stream.stdout.take().context("no output")?).lines().map_while(Result::ok);
        let mut last = Value::Null;
        let mut messages = lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok());
        let found = messages.any(|message: Value| {
            let is_done = is_done(&message);
            last = message;
            is_done
        });
        // An error means that it has ended already.
        let _ = stream.kill();
        stream.wait()?;
        ensure!(found, "the last message of the dashboard is {last}");
        Ok(())
    }
}

/// `event`: an open event of which a coupon was issued.
pub(super) fn check(environment: &Environment, event: &str) -> Result<()> {
    let step = Step::start("opening the dashboard");
    let dashboard = Dashboard::open(environment)?;
    let (mut shown, mut confirmation) = ([false; 3], Value::Null);
    dashboard.follow(|message| {
        let list = |name: &str| message[name].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let is_ready =
            |component: &str| list("pods").any(|pod| pod["component"] == component && pod["isReady"] == true);
        let components = ["operator", "issuer", "consumer"];
        let has_no_problem = |sources: &Value| {
            sources.as_object().is_some_and(|all| all.values().all(|source| source["problem"].is_null()))
        };
        if let Some(shown) = list("events").find(|shown| shown["name"] == event) {
            confirmation = json!({"name": event, "uid": shown["uid"], "total": shown["total"]});
        }
        let now = [
            list("events").any(|shown| shown["name"] == event && shown["issued"].as_u64() > Some(0)),
            components.into_iter().all(is_ready) && has_no_problem(&message["sources"]),
            list("samples").count() > 0,
        ];
        shown.iter_mut().zip(now).for_each(|(shown, now)| *shown |= now);
        shown == [true; 3]
    })?;
    step.done_with("the dashboard shows the event, its pods and their metrics");

    let step = Step::start("checking the installation from the dashboard");
    let results = dashboard.post("/api/check", &json!({}))?;
    let Some(results) = results.as_array().filter(|results| !results.is_empty()) else { bail!("check: {results}") };
    ensure!(results.iter().all(|result| result["severity"] != "FAIL"), "check: {results:?}");
    step.done();

    let step = Step::start("pausing and resuming from the dashboard");
    for (action, reason) in [("pause", "Paused"), ("resume", "Open")] {
        let path = format!("/api/events/{event}/{action}");
        let unconfirmed = json!({"name": "another", "uid": confirmation["uid"], "total": confirmation["total"]});
        let refused = dashboard.post(&path, &unconfirmed)?;
        ensure!(refused["error"].is_string(), "{action} without the name of the event: {refused}");
        let changed = dashboard.post(&path, &confirmation)?;
        ensure!(changed["error"].is_null(), "{action}: {changed}");
        let open = format!(r#"jsonpath={{.status.conditions[?(@.type=="Open")].reason}}={reason}"#);
        environment.kubectl.wait(&format!("couponevent/{event}"), &open, 60)?;
    }
    step.done();
    Ok(())
}
