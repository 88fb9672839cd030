//! The reference page of command-line flags.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs::{NAMES, OPERATOR};

pub(super) fn generate(bin: &Path) -> Result<String> {
    let mut page = String::from(
        "Every flag can also be set by the environment variable in brackets. The chart sets them from its\n\
         [values](../../charts/couponry/values.yaml).\n",
    );
    for name in NAMES {
        // The flags of the operator belong to its command `run`.
        let command = (name == OPERATOR).then_some("run");
        let output = Command::new(bin.join(name))
            .args(command)
            .arg("--help")
            // The help text shows the values of variables, and its width depends on COLUMNS.
            .env_clear()
            .env("COLUMNS", "100")
            .output()
            .with_context(|| format!("cannot run {name}"))?;
        ensure!(output.status.success(), "{name} --help failed ({})", output.status);
        let help = String::from_utf8(output.stdout).with_context(|| format!("{name} --help is not valid UTF-8"))?;
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    }
    Ok(page)
}
