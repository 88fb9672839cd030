//! A Redis server of one's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Launch, Process, log_in, signals};
use crate::scratch::Scratch;
use crate::{ports, programs};

/// Where it keeps its append-only files, as nothing else was said.
const FILES: &str = "appendonlydir";

/// A Redis that loses no acknowledged write when it is killed: append-only file, synced before each answer.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    host: Ipv4Addr,
    port: u16,
    scratch: Scratch,
}

signals!(Redis);

impl Redis {
    /// Starts it and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with further settings, which win: `&["--appendfsync", "everysec"]`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, settings)
    }

    /// Starts it for clients beyond this machine's loopback, who reach it at this address of the machine.
    pub fn start_on(host: Ipv4Addr) -> Result<Self> {
        Self::start_at(host, &["--bind", "127.0.0.1", &host.to_string(), "--protected-mode", "no"])
    }

    fn start_at(host: Ipv4Addr, settings: &[&str]) -> Result<Self> {
        let program = programs::need(programs::redis_server(), "redis-server")?;
        ports::retry(|| {
            let scratch = Scratch::new("redis")?;
            let port = ports::free()?;
            let launch = Launch::new("redis-server", &program, log_in(scratch.path(), "redis")?)
                .dir(scratch.path())
                .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
                .args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"])
                .args(settings.iter().copied());
            let redis = Self { process: Process::start(launch)?, host, port, scratch };
            redis.wait()?;
            Ok(redis)
        })
    }

    /// Starts it again on the same port and data, and waits until it answers.
    pub fn restart(&self) -> Result<()> {
        self.process.start_again()?;
        self.wait()
    }

    /// Copies what it would come back with after a crash to the directory `to`, which must not exist.
    pub fn back_up(&self, to: &Path) -> Result<()> {
        copy(&self.scratch.path().join(FILES), to)
    }

    /// Kills it, and starts it again with what [`Redis::back_up`] has copied: it has forgotten all that came later.
    pub fn roll_back(&self, backup: &Path) -> Result<()> {
        self.kill9()?;
        let files = self.scratch.path().join(FILES);
        fs::remove_dir_all(&files).with_context(|| format!("cannot remove {}", files.display()))?;
        copy(backup, &files)?;
        self.restart()
    }

    fn wait(&self) -> Result<()> {
        self.process.wait_ready(|| answers_ping(self.port).unwrap_or(false))
    }

    /// `redis://HOST:PORT`, with 127.0.0.1 unless it was started on another address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }
}

/// Copies the files of a directory. What is written meanwhile may be missing, or cut off at the end of a file.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir(to).with_context(failed)?;
    for file in fs::read_dir(from).with_context(failed)? {
        let file = file.with_context(failed)?;
        fs::copy(file.path(), to.join(file.file_name())).with_context(failed)?;
    }
    Ok(())
}

/// Sends one command to the Redis at `url` (`redis://HOST:PORT`), as a person with `redis-cli` would, and returns its answer as
/// the protocol has it. Fails when the answer is an error.
pub fn command(url: &str, words: &[&str]) -> Result<String> {
    let server = url.strip_prefix("redis://").with_context(|| format!("{url} is no address of a Redis"))?;
    let mut stream = TcpStream::connect(server).with_context(|| format!("cannot reach the Redis at {url}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut request = Vec::new();
    write!(request, "*{}\r\n", words.len())?;
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len())?;
    }
    // After this Redis closes the connection, so that the answer has an end.
    request.extend(b"QUIT\r\n");
    stream.write_all(&request)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("no answer to {words:?}"))?;
    ensure!(!answer.starts_with('-'), "{words:?}: {answer}");
    Ok(answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned())
}

/// While it still reads its file, Redis answers with an error.
fn answers_ping(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG")
}
