//! A child process with its log and its signals.
//!
//! # Guarantees
//! A child never outlives us. Dropping its [`Process`] stops it, [`crate::undo::undo_all`] stops it after a signal,
//! and if we are killed with -9 the kernel kills it, because it is started through `setpriv --pdeathsig KILL`.
//!
//! # How
//! - The kernel ties that last signal to the *thread* that started the child. A test's thread, or one that serves
//!   blocking calls, may end long before the process. So one thread, which lives as long as the process, starts them
//!   all, and callers need not care.
//! - Each child has its own process group: Ctrl-C in a terminal reaches only us, and we stop the children in order.
//! - A signal goes to the child and to everything below it: `PostgreSQL` is many processes, and stopping only the first
//!   would leave its clients served.
//!
//! # Caveats
//! Without `setpriv` (it is part of Debian's base system) a killed parent leaves its children behind. What a child
//! starts itself is not covered by the kernel's promise: it must notice that its parent is gone, as `PostgreSQL` does.

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

use crate::undo::{self, Undo};
use tree::{family, is_alive, send};
pub use usage::Usage;

pub use helper::output;
pub use launch::{Launch, OnStop};

/// How long a child may take after its stop signal before it is killed.
const GRACE: Duration = Duration::from_secs(15);
/// How long a server may take to get ready. Generous: the machines are shared.
const READY: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(50);
/// Lines of the log that an error shows.
const TAIL: usize = 25;

/// A child process. Dropping it stops it.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    state: Arc<Mutex<State>>,
    _undo: Undo,
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    /// Where the log of the present child begins.
    log_from: u64,
}

impl Process {
    /// Starts it; whether it gets anywhere is for [`Process::wait_ready`] to see.
    pub fn start(launch: Launch) -> Result<Self> {
        let state = Arc::<Mutex<State>>::default();
        let undo = Undo::new({
            let (state, on_stop) = (state.clone(), launch.stopping());
            move || {
                if let Some(child) = &mut lock(&state).child {
                    let _ = stop(child, on_stop);
                }
            }
        });
        let process = Self { launch, state, _undo: undo };
        process.start_again()?;
        Ok(process)
    }

    /// Starts it anew, as it was started first: same arguments, same data, same ports. It must not be running.
    pub fn start_again(&self) -> Result<()> {
        self.start_again_with(&[])
    }

    /// The same, with a further environment for this time.
    pub fn start_again_with(&self, env: &[(String, String)]) -> Result<()> {
        let name = self.name();
        if undo::is_closing() {
            bail!("{name} is not started: we are stopping");
        }
        let mut state = lock(&self.state);
        if let Some(child) = &mut state.child
            && child.try_wait()?.is_none()
        {
            bail!("{name} is running already");
        }
        state.log_from = self.launch.log().and_then(|log| log.metadata().ok()).map_or(0, |m| m.len());
        let mut command = self.launch.command()?;
        command.envs(env.iter().map(|(key, value)| (key, value)));
        let child =
            spawn(command).with_context(|| format!("cannot start {name} ({})", self.launch.program().display()))?;
        state.child = Some(child);
        Ok(())
    }

    /// Waits until `ready` says so. Fails with the end of the log when the process ends before, or after three minutes.
    pub fn wait_ready(&self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            if let Some(status) = self.exited()? {
                bail!("{} ended before it was ready ({status}); its log:\n{}", self.name(), self.log_tail());
            }
            if ready() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {READY:?}; its log:\n{}", self.name(), self.log_tail());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits for its end.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            // Not Child::wait: that would hold the lock that a handler of Ctrl-C needs.
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
    }

    /// How it ended, or None while it runs.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        match &mut lock(&self.state).child {
            Some(child) => child.try_wait().with_context(|| format!("cannot wait for {}", self.name())),
            None => bail!("{} was never started", self.name()),
        }
    }

    /// Stops it as its owner would (SIGTERM, then SIGKILL after 15 seconds), and waits for its end.
    pub fn stop(&self) -> Result<()> {
        match &mut lock(&self.state).child {
            Some(child) => stop(child, self.launch.stopping()).with_context(|| format!("cannot stop {}", self.name())),
            None => Ok(()),
        }
    }

    /// SIGKILL: it ends at whatever instant it is in. Returns once it and everything below it are gone.
    pub fn kill9(&self) -> Result<()> {
        match &mut lock(&self.state).child {
            Some(child) => kill(child).with_context(|| format!("cannot kill {}", self.name())),
            None => Ok(()),
        }
    }

    /// SIGSTOP: it keeps its connections and answers nothing, like a machine that hangs.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: undoes [`Process::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGINT: what Ctrl-C sends.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Sends a signal to the process and to everything below it.
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

    /// What it has used since it was started last; nothing of what it has started itself.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name()))?;
        Usage::of(pid)
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.launch.name()
    }

    /// Where its log is; None when it prints to our terminal.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.launch.log()
    }

    /// Everything that it printed, also before it was started again.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(self.launch.log(), 0)
    }

    /// What it printed since it was last started.
    #[must_use]
    pub fn log_since_start(&self) -> String {
        read_lossy(self.launch.log(), lock(&self.state).log_from)
    }

    /// The last lines that it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }
}

/// The signals of a [`Process`], for a type that has one in its field `process` and knows how it gets ready.
macro_rules! signals {
    ($type:ty) => {
        impl $type {
            /// Stops it in order and waits for its end; its data stay for `restart`.
            pub fn stop(&self) -> anyhow::Result<()> {
                self.process.stop()
            }

            /// SIGKILL: it ends at whatever instant it is in.
            pub fn kill9(&self) -> anyhow::Result<()> {
                self.process.kill9()
            }

            /// SIGSTOP: it keeps its connections and answers nothing, like a machine that hangs.
            pub fn pause(&self) -> anyhow::Result<()> {
                self.process.pause()
            }

            /// SIGCONT: undoes `pause`.
            pub fn resume(&self) -> anyhow::Result<()> {
                self.process.resume()
            }

            /// Everything that it printed.
            #[must_use]
            pub fn log(&self) -> String {
                self.process.log()
            }

            /// Its process, for whatever else.
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
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

fn read_lossy(path: Option<&Path>, from: u64) -> String {
    let bytes = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// Starts a child from the thread that lives as long as this process.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = mpsc::channel();
    SPAWNER.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
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
    let below = family(child);
    send(Pid::from_child(child), signal);
    for &pid in &below {
        // It may be paused, and would then not hear the signal.
        send(pid, Signal::CONT);
    }
    let deadline = Instant::now() + GRACE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return kill(child);
        }
        std::thread::sleep(POLL);
    }
    for pid in below.into_iter().filter(|&pid| is_alive(pid)) {
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
    // Its successor may need what they hold: PostgreSQL does not start while an old backend has its shared memory.
    let deadline = Instant::now() + GRACE;
    while family.iter().any(|&pid| is_alive(pid)) && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a log file's directory and hands back its path.
pub(crate) fn log_in(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(format!("{name}.log"));
    File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}
