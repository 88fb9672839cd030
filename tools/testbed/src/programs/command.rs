//! Runs the long commands (downloads, builds) that install the programs of the tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::path::on_path;
use crate::process::{Launch, OnStop, Process, log_in};
use crate::progress::Step;
use crate::scratch::Scratch;

/// A command which inherits the environment of the user. Its output goes to `log`.
pub(crate) fn tool(program: &Path, log: PathBuf) -> Launch {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Launch::new(&name, program, log).on_stop(OnStop::Terminate)
}

/// Runs a command under a progress line and returns its output, which is printed only on failure.
pub(crate) fn run(what: &str, launch: impl FnOnce(PathBuf) -> Launch) -> Result<String> {
    let scratch = Scratch::new("install")?;
    let step = Step::start(what);
    let process = Process::start(launch(log_in(scratch.path(), "output")?))?;
    let status = process.wait()?;
    if !status.success() {
        bail!("{what}: {} failed ({status}); its output:\n{}", process.name(), process.log_tail());
    }
    step.done();
    Ok(process.log())
}

/// Creates a Python virtual environment in this directory.
pub(super) fn python_venv(dir: &Path) -> Result<()> {
    let python = on_path("python3").context("python3 is not installed")?;
    run("creating a Python environment", |log| tool(&python, log).args(["-m", "venv"]).args([dir])).map(drop)
}
