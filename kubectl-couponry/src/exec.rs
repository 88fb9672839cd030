//! Runs commands of the operator in its pod, where the connection settings of the servers are.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use console::Color;
use couponry_output::{Stderr, Stdout};
use indicatif::{ProgressBar, ProgressStyle};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, ListParams},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    cluster::Cluster,
    pods::{OPERATOR_LABELS, is_ready, is_running, phase},
};

/// Path of the operator in its image.
const PROGRAM: &str = "/couponry-operator";
/// Annotation of a pod with the name of its default container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const BUFFER_SIZE: usize = 64 * 1024;

/// Runs a command of the operator and returns its exit code. Its output goes to standard output, or to `file` if it
/// succeeds.
pub(crate) async fn run(cluster: &Cluster, args: &[&str], file: Option<&Path>) -> anyhow::Result<ExitCode> {
    execute(cluster, args, file, None).await
}

/// Runs a command of the operator with this file, or with standard input for `-`, as its input, and returns its exit
/// code.
pub(crate) async fn run_with_input(cluster: &Cluster, args: &[&str], input: &Path) -> anyhow::Result<ExitCode> {
    execute(cluster, args, None, Some(Input::open(input).await?)).await
}

/// Runs a command of the operator, and returns its exit code and its standard output.
pub(crate) async fn capture(cluster: &Cluster, args: &[&str]) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut sink = Sink::Memory(Vec::new());
    let code = execute_into(&mut sink, cluster, args, ProgressBar::hidden(), None).await?;
    let Sink::Memory(output) = sink else { bail!("the output of the command is elsewhere") };
    Ok((code, output))
}

async fn execute(
    cluster: &Cluster,
    args: &[&str],
    file: Option<&Path>,
    input: Option<Input>,
) -> anyhow::Result<ExitCode> {
    let progress = match &input {
        Some(input) => input.progress(),
        None => progress(args, file.is_some()),
    };
    let mut sink = Sink::new(file)?;
    let code = execute_into(&mut sink, cluster, args, progress, input).await;
    sink.finish(matches!(code, Ok(0)))?;
    code.map(ExitCode::from)
}

async fn execute_into(
    sink: &mut Sink,
    cluster: &Cluster,
    args: &[&str],
    progress: ProgressBar,
    input: Option<Input>,
) -> anyhow::Result<u8> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let (pod, container) = find_operator(cluster, &pods).await?;
    let command: Vec<&str> = std::iter::once(PROGRAM).chain(args.iter().copied()).collect();
    let mut params =
        AttachParams::default().stdin(input.is_some()).stdout(true).stderr(true).max_stdout_buf_size(BUFFER_SIZE);
    params.container = container;
    params.max_stdin_buf_size = Some(BUFFER_SIZE);
    let mut process = pods.exec(&pod, command, &params).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => forbidden(cluster),
        // A rejected upgrade contains the status code only in its text.
        kube::Error::UpgradeConnection(cause) if cause.to_string().contains("403") => forbidden(cluster),
        error => anyhow::Error::new(error).context(format!("cannot run a command in the pod {pod}")),
    })?;
    let (out, err) =
        process.stdout().zip(process.stderr()).context("the connection to the pod has no output stream")?;
    let stdin = process.stdin();
    let status = process.take_status().context("the connection to the pod has no status stream")?;

    // The progress is that of the input, if there is one.
    let output_progress = if input.is_some() { ProgressBar::hidden() } else { progress.clone() };
    let output = stream_output(sink, out, err, status, &output_progress, &progress);
    let code = match input {
        None => output.await,
        Some(input) => {
            let stdin = stdin.context("the connection to the pod has no input stream")?;
            tokio::select! {
                code = output => code,
                error = input.copy_to(stdin, &progress) => Err(error),
            }
        }
    };
    progress.finish_and_clear();
    code
}

/// Copies the output of the command until it ends, and returns its exit code. A failed write returns at once: without
/// a reader the command would block on its output and never end.
async fn stream_output(
    sink: &mut Sink,
    out: impl AsyncRead + Unpin,
    err: impl AsyncRead + Unpin,
    status: impl Future<Output = Option<Status>>,
    progress: &ProgressBar,
    shown: &ProgressBar,
) -> anyhow::Result<u8> {
    let stderr_and_status = async {
        let ((), status) = tokio::join!(copy_to_stderr(err, shown), status);
        Ok(status)
    };
    let ((), status) = tokio::try_join!(sink.copy_from(out, progress), stderr_and_status)?;
    exit_code(status.as_ref())
}

fn forbidden(cluster: &Cluster) -> anyhow::Error {
    anyhow!(
        "not allowed to run commands in the operator's pod in the namespace {}: this requires a Role with the rules \
         {{apiGroups: [\"\"], resources: [pods], verbs: [list]}} and \
         {{apiGroups: [\"\"], resources: [pods/exec], verbs: [get, create]}}",
        cluster.namespace
    )
}

/// Name and default container of a running pod of the operator, preferably a Ready one.
async fn find_operator(cluster: &Cluster, pods: &Api<Pod>) -> anyhow::Result<(String, Option<String>)> {
    let namespace = &cluster.namespace;
    let found = pods.list(&ListParams::default().labels(OPERATOR_LABELS)).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => forbidden(cluster),
        error => cluster.explain(error, "list"),
    })?;
    ensure!(
        !found.items.is_empty(),
        "no operator found in the namespace {namespace}: no pod has the labels {OPERATOR_LABELS}; \
         select another namespace with -n"
    );
    let Some(pod) = preferred(&found.items) else {
        let pods: Vec<String> = found.iter().map(|pod| format!("{} is {}", pod.name_any(), phase(pod))).collect();
        bail!("no operator is running in the namespace {namespace}: {}", pods.join(", "));
    };
    if !is_ready(pod) {
        writeln!(
            Stderr,
            "no operator is Ready in the namespace {namespace}: using {}, which is running",
            pod.name_any()
        );
    }
    Ok((pod.name_any(), pod.annotations().get(DEFAULT_CONTAINER).cloned()))
}

/// A running pod, preferably a Ready one.
fn preferred(pods: &[Pod]) -> Option<&Pod> {
    let mut running = pods.iter().filter(|pod| is_running(pod));
    running.clone().find(|pod| is_ready(pod)).or_else(|| running.next())
}

/// The exit code reported by the container runtime.
fn exit_code(status: Option<&Status>) -> anyhow::Result<u8> {
    let status = status.context("lost the connection to the pod: the result of the command is unknown")?;
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref()?.parse::<u8>().ok());
    code.with_context(|| format!("the command failed: {}", status.message.as_deref().unwrap_or("no reason reported")))
}

/// Shown only while writing to a file, when the terminal has no other output.
fn progress(args: &[&str], to_file: bool) -> ProgressBar {
    let bar = if to_file { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(args.join(" "));
    bar
}

/// Destination of the command's standard output.
enum Sink {
    Terminal,
    Pipe,
    Memory(Vec<u8>),
    /// Written to a temporary file, which is renamed when it is complete.
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
    },
}

impl Sink {
    fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(if console::user_attended() { Self::Terminal } else { Self::Pipe });
        };
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
        Ok(Self::File { file, temporary, path: path.to_owned() })
    }

    async fn copy_from(&mut self, mut from: impl AsyncRead + Unpin, progress: &ProgressBar) -> anyhow::Result<()> {
        let mut buffer = vec![0; BUFFER_SIZE];
        let mut line = Vec::new();
        loop {
            let count = from.read(&mut buffer).await.context("cannot read the output of the command")?;
            if count == 0 {
                return self.write(&colored(&line));
            }
            progress.inc(count as u64);
            match self {
                Self::Terminal => {
                    for byte in &buffer[..count] {
                        line.push(*byte);
                        if *byte == b'\n' {
                            self.write(&colored(&line))?;
                            line.clear();
                        }
                    }
                }
                Self::Pipe | Self::Memory(_) | Self::File { .. } => self.write(&buffer[..count])?,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Terminal | Self::Pipe => Ok(Stdout.write_all(bytes)?),
            Self::Memory(memory) => {
                memory.extend_from_slice(bytes);
                Ok(())
            }
            Self::File { file, temporary, .. } => {
                file.write_all(bytes).with_context(|| format!("cannot write {}", temporary.display()))
            }
        }
    }

    /// Keeps or removes the file.
    fn finish(self, keep: bool) -> anyhow::Result<()> {
        let Self::File { file, temporary, path } = self else { return Ok(()) };
        drop(file);
        if keep {
            fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
        } else {
            fs::remove_file(&temporary).with_context(|| format!("cannot remove {}", temporary.display()))
        }
    }
}

/// The progress bar that is `shown` must not overwrite the text.
async fn copy_to_stderr(mut from: impl AsyncRead + Unpin, shown: &ProgressBar) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if shown.suspend(|| io::stderr().write_all(&buffer[..count])).is_err() {
            return;
        }
    }
}

/// The input of a command.
struct Input {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Its size in bytes, if it is known.
    len: Option<u64>,
    name: String,
}

impl Input {
    async fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self { reader: Box::new(tokio::io::stdin()), len: None, name: "standard input".to_owned() });
        }
        let name = path.display().to_string();
        let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {name}"))?;
        let metadata = file.metadata().await.with_context(|| format!("cannot read {name}"))?;
        Ok(Self { reader: Box::new(file), len: metadata.is_file().then_some(metadata.len()), name })
    }

    fn progress(&self) -> ProgressBar {
        let (bar, template) = match self.len {
            Some(len) => (ProgressBar::new(len), "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg} {bytes} {bytes_per_sec}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(format!("sending {}", self.name));
        bar
    }

    /// Sends the input, then closes the stream. Returns only if the input cannot be read; otherwise the result of the
    /// command decides, also if it has ended early.
    async fn copy_to(mut self, mut stdin: impl AsyncWrite + Unpin, progress: &ProgressBar) -> anyhow::Error {
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            match self.reader.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => {
                    if stdin.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                    progress.inc(count as u64);
                }
                Err(error) => return anyhow::Error::new(error).context(format!("cannot read {}", self.name)),
            }
        }
        progress.set_message("waiting for the operator");
        // Fails if the command has ended.
        let _ = stdin.shutdown().await;
        drop(stdin);
        std::future::pending().await
    }
}

/// Colors the result at the beginning of a line.
fn colored(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let colors = [
        ("OK", Color::Green),
        ("WARN", Color::Yellow),
        ("UNCERTAIN", Color::Yellow),
        ("DELAYED", Color::Yellow),
        ("FAIL", Color::Red),
        ("DIFFERS", Color::Red),
        ("REMAINING", Color::Red),
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

    /// The error of a command that prints into this file without end and never reports a status.
    async fn error_of_endless_output(file: File) -> anyhow::Error {
        let mut sink = Sink::File { file, temporary: "temporary".into(), path: "path".into() };
        let (stderr, _open) = tokio::io::duplex(1);
        let progress = ProgressBar::hidden();
        let streamed = stream_output(&mut sink, tokio::io::repeat(b'x'), stderr, pending(), &progress, &progress);
        let deadline = std::time::Duration::from_mins(1);
        tokio::time::timeout(deadline, streamed).await.expect("must not wait for the command").unwrap_err()
    }

    #[tokio::test]
    async fn stream_output_with_failing_sink_returns_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let closed = error_of_endless_output(File::from(std::os::fd::OwnedFd::from(writer))).await;
        assert!(format!("{closed:#}").contains("Broken pipe"), "{closed:#}");
        let full = error_of_endless_output(File::options().write(true).open("/dev/full").unwrap()).await;
        assert!(format!("{full:#}").contains("No space left"), "{full:#}");
    }

    #[tokio::test]
    async fn stream_output_into_memory_keeps_all_bytes_and_the_exit_code() {
        let mut sink = Sink::Memory(Vec::new());
        let (hidden, done) = (ProgressBar::hidden(), Status { status: Some("Success".into()), ..Status::default() });
        let status = std::future::ready(Some(done));
        let code = stream_output(&mut sink, &b"[1,\n2]"[..], tokio::io::empty(), status, &hidden, &hidden).await;
        assert_eq!(code.unwrap(), 0);
        assert!(matches!(&sink, Sink::Memory(bytes) if bytes == b"[1,\n2]"));
        sink.finish(true).unwrap();
    }

    #[tokio::test]
    async fn input_is_sent_and_closed_and_an_unreadable_one_is_an_error() {
        let (writer, mut reader) = tokio::io::duplex(16);
        let input = Input { reader: Box::new(&b"code\nAAAA\n"[..]), len: None, name: "input".into() };
        let progress = ProgressBar::hidden();
        let mut received = String::new();
        tokio::select! {
            error = input.copy_to(writer, &progress) => panic!("{error:#}"),
            result = reader.read_to_string(&mut received) => drop(result.unwrap()),
        }
        assert_eq!((&*received, progress.position()), ("code\nAAAA\n", 10));

        let missing = Input::open(Path::new("/nonexistent")).await.err().unwrap();
        assert!(format!("{missing:#}").starts_with("cannot read /nonexistent: "), "{missing:#}");
        let directory = Input::open(Path::new("/")).await.unwrap();
        let (writer, _reader) = tokio::io::duplex(16);
        let error = directory.copy_to(writer, &progress).await;
        assert!(format!("{error:#}").starts_with("cannot read /: "), "{error:#}");
    }

    #[test]
    fn ready_pod_is_preferred() {
        let pod = |name: &str, phase: &str, ready: &str| -> Pod {
            let status = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
        };
        let (new, old) = (pod("new", "Running", "False"), pod("old", "Running", "True"));
        let name = |pods: &[Pod]| preferred(pods).map(Pod::name_any);
        assert_eq!(name(&[new.clone(), old]).as_deref(), Some("old"));
        assert_eq!(name(&[pod("pending", "Pending", "False"), new]).as_deref(), Some("new"));
        assert_eq!(name(&[pod("pending", "Pending", "False")]), None);
    }

    #[test]
    fn exit_code_is_that_of_the_command() {
        let cause =
            StatusCause { reason: Some("ExitCode".into()), message: Some("2".into()), ..StatusCause::default() };
        let details = StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() };
        let failed = Status { status: Some("Failure".into()), details: Some(details), ..Status::default() };
        assert_eq!(exit_code(Some(&failed)).unwrap(), 2);
        let done = Status { status: Some("Success".into()), ..Status::default() };
        assert_eq!(exit_code(Some(&done)).unwrap(), 0);
        let not_started = Status { message: Some("no such file".into()), ..failed.clone() };
        let not_started = Status { details: None, ..not_started };
        assert!(exit_code(Some(&not_started)).unwrap_err().to_string().contains("no such file"));
        assert!(exit_code(None).is_err());
    }

    #[test]
    fn colored_line_keeps_its_text() {
        for line in ["OK    Postgres  answers\n", "FAIL  x\n", "REMAINING: 1\n", "  ✗ coupon\n", "other\n"] {
            let text = String::from_utf8(colored(line.as_bytes())).unwrap();
            assert_eq!(console::strip_ansi_codes(&text), line);
        }
    }
}
