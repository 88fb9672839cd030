//! Child processes with their logs and signals.
//!
//! # Guarantees
//! A child never outlives its parent. Dropping its [`Process`] stops it, [`crate::cleanup_guard::run_all`] stops it
//! after a signal, and after SIGKILL of the parent the kernel kills it, because it is started through
//! `setpriv --pdeathsig KILL`.
//!
//! # Implementation
//! - The kernel sends the parent-death signal when the *thread* which started the child ends. The thread of a test or
//!   of a blocking call may end long before the process, so one thread which lives as long as the process starts all
//!   children.
//! - Each child has its own process group: Ctrl-C in a terminal reaches only the parent, which stops the children in
//!   order.
//! - A signal is sent to the child and to all its descendants: `PostgreSQL` has one process per connection, and a
//!   signal to the first process only would not affect the others.
//!
//! # Caveats
//! Without `setpriv` (part of Debian's base system) children outlive a killed parent. The parent-death signal does not
//! cover the children of a child: they must detect the death of their parent, as `PostgreSQL` does.

mod helper;
mod launch;
mod tree;
mod usage;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::cleanup_guard::{self, CleanupGuard};
use tree::{family, is_alive, send};
pub use usage::Usage;

pub use helper::output;
pub use launch::{Launch, OnStop};

/// The time between the stop signal and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may take to become ready. Generous, because machines are shared.
const READY_TIMEOUT: Duration = Duration::from_mins(3);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The number of log lines in an error message.
const TAIL_LINES: usize = 25;

/// A child process. Dropping it stops it.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    state: Arc<Mutex<State>>,
    _cleanup: CleanupGuard,
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    /// The offset in the log at which the output of the current child starts.
    log_offset: u64,
}

impl Process {
    /// Starts it. [`Process::wait_ready`] waits until it is ready.
    pub fn start(launch: Launch) -> Result<Self> {
        let state = Arc::<Mutex<State>>::default();
        let cleanup = CleanupGuard::new({
            let (state, on_stop) = (state.clone(), launch.stopping());
            move || {
                if let Some(child) = &mut lock(&state).child {
                    let _ = stop(child, on_stop);
                }
            }
        });
        let process = Self { launch, state, _cleanup: cleanup };
        process.restart()?;
        Ok(process)
    }

    /// Starts it again with the same arguments, data and ports. It must not be running.
    pub fn restart(&self) -> Result<()> {
        self.restart_with(&[])
    }

    /// Restarts it with additional environment variables for this run only.
    pub fn restart_with(&self, env: &[(String, String)]) -> Result<()> {
        let name = self.name();
        if cleanup_guard::is_shutting_down() {
            bail!("{name} is not started during the shutdown");
        }
        let mut state = lock(&self.state);
        if let Some(child) = &mut state.child
            && child.try_wait()?.is_none()
        {
            bail!("{name} is already running");
        }
        state.log_offset = self.launch.log().and_then(|log| log.metadata().ok()).map_or(0, |m| m.len());
        let mut command = self.launch.command()?;
        command.envs(env.iter().map(|(key, value)| (key, value)));
        let child =
            spawn(command).with_context(|| format!("cannot start {name} ({})", self.launch.program().display()))?;
        state.child = Some(child);
        Ok(())
    }

    /// Waits until `ready` returns true. Fails with the end of the log if the process ends first, or after three
    /// minutes.
    pub fn wait_ready(&self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(status) = self.exited()? {
                bail!("{} ended before it was ready ({status}); its log:\n{}", self.name(), self.log_tail());
            }
            if ready() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {READY_TIMEOUT:?}; its log:\n{}", self.name(), self.log_tail());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until it ends.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            // Child::wait would hold the lock which the handler of Ctrl-C needs.
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Its exit status, or None while it runs.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        match &mut lock(&self.state).child {
            Some(child) => child.try_wait().with_context(|| format!("cannot wait for {}", self.name())),
            None => bail!("{} was never started", self.name()),
        }
    }

    /// Stops it (SIGTERM, then SIGKILL after 15 seconds), and waits until it ends.
    pub fn stop(&self) -> Result<()> {
        match &mut lock(&self.state).child {
            Some(child) => stop(child, self.launch.stopping()).with_context(|| format!("cannot stop {}", self.name())),
            None => Ok(()),
        }
    }

    /// Sends SIGKILL. Returns after it and all its descendants have ended.
    pub fn kill9(&self) -> Result<()> {
        match &mut lock(&self.state).child {
            Some(child) => kill(child).with_context(|| format!("cannot kill {}", self.name())),
            None => Ok(()),
        }
    }

    /// Sends SIGSTOP: it keeps its connections and does not respond.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Sends SIGCONT: ends [`Process::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Sends a signal to the process and to all its descendants.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut state = lock(&self.state);
        let Some(child) = state.child.as_mut() else { bail!("{} was never started", self.name()) };
        if child.try_wait()?.is_some() {
            bail!("{} is not running", self.name());
        }
        for pid in family(child) {
            send(pid, signal);
        }
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        lock(&self.state).child.as_ref().map(Child::id)
    }

    /// The resources which it has used since its last start.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.name()))?;
        Usage::of(pid)
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.launch.name()
    }

    /// The path of its log; None if it prints to our terminal.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.launch.log()
    }

    /// Its complete output, also of earlier runs.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(self.launch.log(), 0)
    }

    /// Its output since its last start.
    #[must_use]
    pub fn log_since_start(&self) -> String {
        read_lossy(self.launch.log(), lock(&self.state).log_offset)
    }

    /// The last lines of its output.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }
}

/// Implements the signals of a [`Process`] for a type with a field `process`.
macro_rules! signals {
    ($type:ty) => {
        impl $type {
            /// Stops it gracefully and waits until it ends; `restart` keeps its data.
            pub fn stop(&self) -> anyhow::Result<()> {
                self.process.stop()
            }

            /// Sends SIGKILL and waits until it ends.
            pub fn kill9(&self) -> anyhow::Result<()> {
                self.process.kill9()
            }

            /// Sends SIGSTOP: it keeps its connections and does not respond.
            pub fn pause(&self) -> anyhow::Result<()> {
                self.process.pause()
            }

            /// Sends SIGCONT: ends `pause`.
            pub fn resume(&self) -> anyhow::Result<()> {
                self.process.resume()
            }

            /// Its complete output.
            #[must_use]
            pub fn log(&self) -> String {
                self.process.log()
            }

            /// Its process.
            #[must_use]
            pub fn process(&self) -> &$crate::Process {
                &self.process
            }
        }
    };
}
pub(crate) use signals;

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn read_lossy(path: Option<&Path>, from: u64) -> String {
    let bytes = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// Starts a child from the thread which lives as long as this process.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Request = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let gone = || std::io::Error::other("the thread which starts processes has ended");
    let (reply, result) = mpsc::channel();
    SPAWNER.send((command, reply)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

fn stop(child: &mut Child, on_stop: OnStop) -> std::io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    let signal = match on_stop {
        OnStop::Terminate => Signal::TERM,
        OnStop::Interrupt => Signal::INT,
        OnStop::Kill => return kill(child),
        OnStop::Finish => return child.wait().map(drop),
    };
    let descendants = family(child);
    send(Pid::from_child(child), signal);
    for &pid in &descendants {
        // A paused process handles signals only after SIGCONT.
        send(pid, Signal::CONT);
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return kill(child);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    for pid in descendants.into_iter().filter(|&pid| is_alive(pid)) {
        send(pid, Signal::KILL);
    }
    Ok(())
}

fn kill(child: &mut Child) -> std::io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    let family = family(child);
    for &pid in &family {
        send(pid, Signal::KILL);
    }
    child.wait()?;
    // PostgreSQL does not start while a process of its predecessor is attached to the shared memory.
    let deadline = Instant::now() + STOP_TIMEOUT;
    while family.iter().any(|&pid| is_alive(pid)) && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates an empty log file and returns its path.
pub(crate) fn log_in(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(format!("{name}.log"));
    File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
