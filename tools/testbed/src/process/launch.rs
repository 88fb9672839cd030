//! The command line, environment, output and stop signal of a child.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::PipeWriter;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, bail};

use crate::path::on_path;

/// The description of a child process.
#[derive(Debug, Clone)]
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    removed_env: Vec<OsString>,
    clean_env: bool,
    dir: Option<PathBuf>,
    user: Option<String>,
    on_stop: OnStop,
    output: Output,
}

/// The destination of the output of a child.
#[derive(Debug, Clone)]
enum Output {
    /// This file. The child runs in the background, in its own process group.
    Log(PathBuf),
    /// Our terminal. The child receives its Ctrl-C too.
    Terminal,
    /// A pipe to this process. The child receives Ctrl-C of our terminal too.
    Pipe(Arc<PipeWriter>),
}

/// How a child is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// SIGTERM, and SIGKILL after a timeout.
    Terminate,
    /// SIGINT, and SIGKILL after a timeout: after SIGTERM `PostgreSQL` would wait for its clients.
    Interrupt,
    /// SIGKILL, for programs without data to save.
    Kill,
    /// Wait until it ends, also after a signal: a package manager must not be interrupted.
    Finish,
}

impl Launch {
    /// `name` is for messages; the output of the child is appended to `log`.
    pub fn new(name: &str, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self::with_output(name, program.into(), Output::Log(log.into()))
    }

    /// A child which shares our terminal, such as a compiler which prints its progress.
    pub fn in_foreground(name: &str, program: impl Into<PathBuf>) -> Self {
        Self::with_output(name, program.into(), Output::Terminal)
    }

    /// Like [`Launch::in_foreground`], but the output is written to `pipe`.
    pub fn into_pipe(name: &str, program: impl Into<PathBuf>, pipe: PipeWriter) -> Self {
        Self::with_output(name, program.into(), Output::Pipe(Arc::new(pipe)))
    }

    fn with_output(name: &str, program: PathBuf, output: Output) -> Self {
        Self {
            name: name.to_owned(),
            program,
            args: Vec::new(),
            env: Vec::new(),
            removed_env: Vec::new(),
            clean_env: false,
            dir: None,
            user: None,
            on_stop: OnStop::Terminate,
            output,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Removes these environment variables.
    #[must_use]
    pub fn remove_env(mut self, keys: impl IntoIterator<Item = OsString>) -> Self {
        self.removed_env.extend(keys);
        self
    }

    /// Removes all environment variables except those which any program needs (`PATH`, `HOME` and the like): the user's
    /// `KUBECONFIG` or `REDIS_URL` must not affect a program under test.
    #[must_use]
    pub fn clean_env(mut self) -> Self {
        self.clean_env = true;
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs it as this user and the group of the same name (requires root).
    #[must_use]
    pub fn user(mut self, user: Option<&str>) -> Self {
        self.user = user.map(str::to_owned);
        self
    }

    /// Sets how it is stopped.
    #[must_use]
    pub fn on_stop(mut self, on_stop: OnStop) -> Self {
        self.on_stop = on_stop;
        self
    }

    pub(super) fn command(&self) -> Result<Command> {
        static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| on_path("setpriv"));
        let mut command = match (&*SETPRIV, &self.user) {
            (Some(setpriv), user) => {
                let mut command = Command::new(setpriv);
                if let Some(user) = user {
                    command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
                }
                if self.on_stop != OnStop::Finish {
                    command.args(["--pdeathsig", "KILL"]);
                }
                command.arg("--").arg(&self.program);
                command
            }
            (None, None) => Command::new(&self.program),
            (None, Some(user)) => bail!("running {} as user {user} requires setpriv (util-linux)", self.name),
        };
        if self.clean_env {
            const KEPT: [&str; 10] = [
                "PATH",
                "HOME",
                "USER",
                "TMPDIR",
                "LANG",
                "TZ",
                "TERM",
                "NO_COLOR",
                "RUST_BACKTRACE",
                "LLVM_PROFILE_FILE",
            ];
            command.env_clear();
            command.envs(KEPT.iter().filter_map(|key| Some((key, std::env::var_os(key)?))));
        }
        for key in &self.removed_env {
            command.env_remove(key);
        }
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        match &self.output {
            Output::Log(path) => {
                let log = OpenOptions::new().create(true).append(true).open(path);
                let log = log.with_context(|| format!("cannot open {}", path.display()))?;
                command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
            }
            Output::Terminal => {}
            Output::Pipe(pipe) => {
                command.stdout(pipe.try_clone()?).stderr(pipe.try_clone()?);
            }
        }
        Ok(command)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn stopping(&self) -> OnStop {
        self.on_stop
    }

    pub(super) fn log(&self) -> Option<&Path> {
        match &self.output {
            Output::Log(path) => Some(path),
            Output::Terminal | Output::Pipe(_) => None,
        }
    }
}
