//! A program of Couponry under test.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use crate::process::{Launch, Process, log_in, signals};
use crate::scratch::Scratch;
use crate::shared;

/// A program which is not started yet. Of our environment it inherits only `PATH`, `HOME` and the like.
#[derive(Debug, Clone)]
#[must_use = "only `start` starts it"]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

/// A built program, such as `couponry-issuer`.
///
/// # Panics
/// Outside of `cargo xtask test`, which builds the programs.
pub fn program(name: &str) -> Program {
    Program::at(shared::program(name))
}

impl Program {
    /// The program at this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), env: Vec::new() }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Starts it without waiting for it.
    pub fn start(self) -> Result<Running> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scratch = Scratch::new(&name)?;
        let mut launch = Launch::new(&name, self.path, log_in(scratch.path(), &name)?)
            .args(self.args)
            .clean_env()
            .dir(scratch.path());
        for (key, value) in self.env {
            launch = launch.env(key, value);
        }
        Ok(Running { process: Process::start(launch)?, _scratch: scratch })
    }
}

/// A started program. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    process: Process,
    _scratch: Scratch,
}

signals!(Running);

impl Running {
    /// Restarts it with the same arguments, after [`Running::kill9`] or [`Running::stop`].
    pub fn restart(&self) -> Result<()> {
        self.process.restart()
    }

    /// Restarts it with additional environment variables for this run only.
    pub fn restart_with(&self, env: &[(String, String)]) -> Result<()> {
        self.process.restart_with(env)
    }

    /// Waits until `ready` returns true. Fails with the end of the log if the program ends first, or after three
    /// minutes.
    pub fn wait_ready(&self, ready: impl FnMut() -> bool) -> Result<()> {
        self.process.wait_ready(ready)
    }
}
