//! Running the operator's own commands in its pod: they find the servers and their passwords there.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use console::Color;
use indicatif::{ProgressBar, ProgressStyle};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, ListParams},
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::cluster::Cluster;

/// Where the program is in its image.
const PROGRAM: &str = "/couponry-operator";
const LABELS: &str = "app.kubernetes.io/part-of=couponry,app.kubernetes.io/component=operator";
/// What a pod calls the container that is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const BUFFER: usize = 64 * 1024;

/// Runs this command of the operator. What it prints goes to standard output, or to the file when it succeeds. Its exit code
/// is ours.
pub(crate) async fn run(cluster: &Cluster, args: &[&str], file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let (pod, container) = operator(cluster, &pods).await?;
    let command: Vec<&str> = std::iter::once(PROGRAM).chain(args.iter().copied()).collect();
    let mut how = AttachParams::default().stdin(false).stdout(true).stderr(true).max_stdout_buf_size(BUFFER);
    how.container = container;
    let mut process = pods.exec(&pod, command, &how).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => refused(cluster),
        // The refusal of an upgrade has only its code.
        kube::Error::UpgradeConnection(cause) if cause.to_string().contains("403") => refused(cluster),
        error => anyhow::Error::new(error).context(format!("cannot run a command in the pod {pod}")),
    })?;
    let (out, err) = process.stdout().zip(process.stderr()).context("the pod gives no output")?;
    let status = process.take_status().context("the pod gives no exit code")?;

    let mut target = Target::new(file)?;
    let progress = progress(args, file.is_some());
    let code = follow(&mut target, out, err, status, &progress).await;
    progress.finish_and_clear();
    target.finish(matches!(code, Ok(0)))?;
    match code {
        Ok(code) => Ok(ExitCode::from(code)),
        // Who reads has enough: `export … | head`.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// Passes on what the command prints until it ends, and gives its exit code. What cannot be written is not waited for: the
/// command would never end, since nobody reads what it prints.
async fn follow(
    target: &mut Target,
    out: impl AsyncRead + Unpin,
    err: impl AsyncRead + Unpin,
    status: impl Future<Output = Option<Status>>,
    progress: &ProgressBar,
) -> anyhow::Result<u8> {
    let rest = async {
        let ((), status) = tokio::join!(pass_on(err), status);
        Ok(status)
    };
    let ((), status) = tokio::try_join!(target.take(out, progress), rest)?;
    exit_code(status.as_ref())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn refused(cluster: &Cluster) -> anyhow::Error {
    anyhow!(
        "you may not run commands in the operator's pod in the namespace {}; a Role with these rules is wanted: \
         {{apiGroups: [\"\"], resources: [pods], verbs: [list]}} and \
         {{apiGroups: [\"\"], resources: [pods/exec], verbs: [get, create]}}",
        cluster.namespace
    )
}

/// An operator that runs, if possible a Ready one, and the container to run the command in.
async fn operator(cluster: &Cluster, pods: &Api<Pod>) -> anyhow::Result<(String, Option<String>)> {
    let namespace = &cluster.namespace;
    let found = pods.list(&ListParams::default().labels(LABELS)).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => refused(cluster),
        error => cluster.explain(error, "list"),
    })?;
    ensure!(
        !found.items.is_empty(),
        "there is no operator in the namespace {namespace}: no pod has the labels {LABELS}; choose another namespace with -n"
    );
    let Some(pod) = best(&found.items) else {
        let pods: Vec<String> = found.iter().map(|pod| format!("{} is {}", pod.name_any(), phase(pod))).collect();
        bail!("no operator runs in the namespace {namespace}: {}", pods.join(", "));
    };
    if !is_ready(pod) {
        eprintln!("no operator is Ready in the namespace {namespace}: asking {}, which runs", pod.name_any());
    }
    Ok((pod.name_any(), pod.annotations().get(DEFAULT_CONTAINER).cloned()))
}

/// A pod that runs and is Ready, or else one that runs.
fn best(pods: &[Pod]) -> Option<&Pod> {
    let runs = |pod: &&Pod| phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none();
    let of = || pods.iter().filter(runs);
    of().find(|pod| is_ready(pod)).or_else(|| of().next())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|said| said.type_ == "Ready" && said.status == "True")
}

/// The exit code that the container's runtime reports.
fn exit_code(status: Option<&Status>) -> anyhow::Result<u8> {
    let status = status.context("the connection to the pod was lost: it is not known how the command ended")?;
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref()?.parse::<u8>().ok());
    code.with_context(|| format!("the command failed: {}", status.message.as_deref().unwrap_or("no reason is given")))
}

/// On a terminal that shows nothing else.
fn progress(args: &[&str], to_file: bool) -> ProgressBar {
    let bar = if to_file { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(args.join(" "));
    bar
}

/// Where standard output goes.
enum Target {
    Terminal,
    Plain,
    /// Written beside the file, and put in its place at the end.
    File {
        file: File,
        beside: PathBuf,
        path: PathBuf,
    },
}

impl Target {
    fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(if console::user_attended() { Self::Terminal } else { Self::Plain });
        };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let file = File::create(&beside).with_context(|| format!("cannot write {}", beside.display()))?;
        Ok(Self::File { file, beside, path: path.to_owned() })
    }

    async fn take(&mut self, mut from: impl AsyncRead + Unpin, progress: &ProgressBar) -> anyhow::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut line = Vec::new();
        loop {
            let count = from.read(&mut buffer).await.context("cannot read what the pod prints")?;
            if count == 0 {
                self.put(&colored(&line))?;
                return self.flush();
            }
            progress.inc(count as u64);
            match self {
                Self::Terminal => {
                    for byte in &buffer[..count] {
                        line.push(*byte);
                        if *byte == b'\n' {
                            self.put(&colored(&line))?;
                            line.clear();
                        }
                    }
                }
                Self::Plain | Self::File { .. } => self.put(&buffer[..count])?,
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Terminal | Self::Plain => io::stdout().write_all(bytes).context("cannot write to standard output"),
            Self::File { file, beside, .. } => {
                file.write_all(bytes).with_context(|| format!("cannot write {}", beside.display()))
            }
        }
    }

    /// What is left of the last line, which may have no end.
    fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Terminal | Self::Plain => io::stdout().flush().context("cannot write to standard output"),
            Self::File { .. } => Ok(()),
        }
    }

    /// Keeps the file, or not.
    fn finish(self, keep: bool) -> anyhow::Result<()> {
        let Self::File { file, beside, path } = self else { return Ok(()) };
        drop(file);
        if keep {
            fs::rename(&beside, &path).with_context(|| format!("cannot write {}", path.display()))
        } else {
            fs::remove_file(&beside).with_context(|| format!("cannot remove {}", beside.display()))
        }
    }
}

async fn pass_on(mut from: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if io::stderr().write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// The verdict at the beginning of a line in its color.
fn colored(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let colors = [
        ("OK", Color::Green),
        ("WARN", Color::Yellow),
        ("UNCERTAIN", Color::Yellow),
        ("FAIL", Color::Red),
        ("DIFFERS", Color::Red),
        ("  ✗", Color::Red),
    ];
    for (word, color) in colors {
        if let Some(rest) = text.strip_prefix(word) {
            return format!("{}{rest}", console::style(word).fg(color)).into_bytes();
        }
    }
    line.to_vec()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};
    use serde_json::json;

    use super::*;

    /// What becomes of a command that prints without end into this file, and whose end nobody hears of.
    async fn endless(file: File) -> anyhow::Error {
        let mut target = Target::File { file, beside: "beside".into(), path: "path".into() };
        let (silent, _kept) = tokio::io::duplex(1);
        let progress = ProgressBar::hidden();
        let followed = follow(&mut target, tokio::io::repeat(b'x'), silent, pending(), &progress);
        let deadline = std::time::Duration::from_mins(1);
        tokio::time::timeout(deadline, followed).await.expect("it goes on waiting").unwrap_err()
    }

    #[tokio::test]
    async fn nobody_waits_for_a_command_whose_output_has_no_place() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let closed = endless(File::from(std::os::fd::OwnedFd::from(writer))).await;
        assert!(is_broken_pipe(&closed), "{closed:#}");
        let full = endless(File::options().write(true).open("/dev/full").unwrap()).await;
        assert!(!is_broken_pipe(&full) && format!("{full:#}").contains("No space left"), "{full:#}");
    }

    #[test]
    fn a_ready_pod_is_preferred() {
        let pod = |name: &str, phase: &str, ready: &str| -> Pod {
            let status = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
        };
        let (new, old) = (pod("new", "Running", "False"), pod("old", "Running", "True"));
        let name = |pods: &[Pod]| best(pods).map(Pod::name_any);
        assert_eq!(name(&[new.clone(), old]).as_deref(), Some("old"));
        assert_eq!(name(&[pod("waits", "Pending", "False"), new]).as_deref(), Some("new"));
        assert_eq!(name(&[pod("waits", "Pending", "False")]), None);
    }

    #[test]
    fn the_exit_code_is_that_of_the_command() {
        let cause =
            StatusCause { reason: Some("ExitCode".into()), message: Some("2".into()), ..StatusCause::default() };
        let details = StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() };
        let failed = Status { status: Some("Failure".into()), details: Some(details), ..Status::default() };
        assert_eq!(exit_code(Some(&failed)).unwrap(), 2);
        let done = Status { status: Some("Success".into()), ..Status::default() };
        assert_eq!(exit_code(Some(&done)).unwrap(), 0);
        let refused = Status { message: Some("no such file".into()), ..failed.clone() };
        let refused = Status { details: None, ..refused };
        assert!(exit_code(Some(&refused)).unwrap_err().to_string().contains("no such file"));
        assert!(exit_code(None).is_err());
    }

    #[test]
    fn lines_are_only_colored() {
        for line in ["OK    Postgres  answers\n", "FAIL  x\n", "  ✗ coupon\n", "other\n"] {
            let text = String::from_utf8(colored(line.as_bytes())).unwrap();
            assert_eq!(console::strip_ansi_codes(&text), line);
        }
    }
}
