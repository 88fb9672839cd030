//! Short-lived helper programs.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a short-lived program and returns its output.
pub fn output(program: &Path, args: &[impl AsRef<OsStr>], stdin: Option<&str>) -> Result<String> {
    let described = || {
        let args: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
        format!("{} {}", program.file_name().unwrap_or_default().to_string_lossy(), args.join(" "))
    };
    let mut command = Command::new(program);
    command.args(args).env_remove("KUBECONFIG").stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().with_context(|| format!("cannot start {}", described()))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        pipe.write_all(text.as_bytes()).with_context(|| format!("cannot write to {}", described()))?;
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {}", described()))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}{}",
            described(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end(),
            String::from_utf8_lossy(&output.stdout).trim_end(),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
