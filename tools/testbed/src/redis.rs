//! A dedicated Redis server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::Clock;
use crate::path::on_path;
use crate::ports;
use crate::process::{Launch, Process, log_in, output, signals};
use crate::programs::locate::{redis_server, require};
use crate::scratch::Scratch;

/// The default directory of the append-only files.
const FILES: &str = "appendonlydir";

/// A Redis which loses no acknowledged write when it is killed: the append-only file is synced before each reply.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    host: Ipv4Addr,
    port: u16,
    scratch: Scratch,
}

signals!(Redis);

impl Redis {
    /// Starts it and waits until it replies to commands.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with additional settings, which take precedence: `&["--appendfsync", "everysec"]`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        Ok(Self::start_at(Ipv4Addr::LOCALHOST, settings, false)?.0)
    }

    /// Starts it for clients which reach it at this address of the machine instead of loopback.
    pub fn start_on(host: Ipv4Addr) -> Result<Self> {
        let settings = ["--bind", "127.0.0.1", &host.to_string(), "--protected-mode", "no"];
        Ok(Self::start_at(host, &settings, false)?.0)
    }

    /// Starts it with a clock that can be set. Required: gcc.
    pub fn start_with_clock() -> Result<(Self, Clock)> {
        let (redis, clock) = Self::start_at(Ipv4Addr::LOCALHOST, &[], true)?;
        Ok((redis, clock.context("the clock was not started")?))
    }

    fn start_at(host: Ipv4Addr, settings: &[&str], has_clock: bool) -> Result<(Self, Option<Clock>)> {
        let program = require(redis_server(), "redis-server")?;
        ports::retry(|| {
            let scratch = Scratch::new("redis")?;
            let port = ports::free()?;
            let clock = if has_clock { Some(Clock::new(scratch.path())?) } else { None };
            let mut launch = Launch::new("redis-server", &program, log_in(scratch.path(), "redis")?)
                .dir(scratch.path())
                .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
                .args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"])
                .args(settings.iter().copied());
            for (name, value) in clock.iter().flat_map(Clock::env) {
                launch = launch.env(name, value);
            }
            let redis = Self { process: Process::start(launch)?, host, port, scratch };
            redis.wait()?;
            Ok((redis, clock))
        })
    }

    /// Restarts it on the same port and data, and waits until it replies to commands.
    pub fn restart(&self) -> Result<()> {
        self.process.restart()?;
        self.wait()
    }

    /// Copies the files which a restart after a crash would read to the directory `to`, which must not exist.
    pub fn back_up(&self, to: &Path) -> Result<()> {
        copy(&self.scratch.path().join(FILES), to)
    }

    /// Kills it, and restarts it with the files of [`Redis::back_up`]: all later writes are lost.
    pub fn roll_back(&self, backup: &Path) -> Result<()> {
        self.kill9()?;
        let files = self.scratch.path().join(FILES);
        fs::remove_dir_all(&files).with_context(|| format!("cannot remove {}", files.display()))?;
        copy(backup, &files)?;
        self.restart()
    }

    /// Writes a backup to this file as `redis-cli --rdb` does: as a replica, which is attached for a moment.
    pub fn dump(&self, to: &Path) -> Result<()> {
        let cli = require(on_path("redis-cli"), "redis-cli")?;
        let port = self.port.to_string();
        output(&cli, &["-p".as_ref(), port.as_ref(), "--rdb".as_ref(), to.as_os_str()], None).map(drop)
    }

    /// Starts a replica of it, and waits until the replica has its data.
    pub fn start_replica(&self) -> Result<Self> {
        let replica = Self::start()?;
        replica.follow(self)?;
        Ok(replica)
    }

    /// Makes it a replica of another one, and waits until it has its data.
    pub fn follow(&self, master: &Self) -> Result<()> {
        command(&self.url(), &["REPLICAOF", "127.0.0.1", &master.port.to_string()])?;
        let is_connected =
            || command(&self.url(), &["INFO", "replication"]).is_ok_and(|i| i.contains("link_status:up"));
        self.process.wait_ready(is_connected)
    }

    /// Makes it a master.
    pub fn promote(&self) -> Result<()> {
        command(&self.url(), &["REPLICAOF", "NO", "ONE"]).map(drop)
    }

    fn wait(&self) -> Result<()> {
        self.process.wait_ready(|| replies_to_ping(self.port).unwrap_or(false))
    }

    /// `redis://HOST:PORT`, with 127.0.0.1 unless it was started on another address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }
}

/// Copies the files of a directory. Concurrent writes may be missing or truncated in the copy.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir(to).with_context(failed)?;
    for file in fs::read_dir(from).with_context(failed)? {
        let file = file.with_context(failed)?;
        fs::copy(file.path(), to.join(file.file_name())).with_context(failed)?;
    }
    Ok(())
}

/// Sends one command to the Redis at `url` (`redis://HOST:PORT`) and returns the reply in the encoding of the protocol.
/// Fails if the reply is an error.
pub fn command(url: &str, words: &[&str]) -> Result<String> {
    let server = url.strip_prefix("redis://").with_context(|| format!("{url} is not a valid Redis URL"))?;
    let mut stream = TcpStream::connect(server).with_context(|| format!("cannot reach the Redis at {url}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut request = Vec::new();
    write!(request, "*{}\r\n", words.len())?;
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len())?;
    }
    // QUIT makes Redis close the connection, which ends the reply.
    request.extend(b"QUIT\r\n");
    stream.write_all(&request)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).with_context(|| format!("no reply to {words:?}"))?;
    ensure!(!reply.starts_with('-'), "{words:?} failed: {reply}");
    Ok(reply.strip_suffix("+OK\r\n").unwrap_or(&reply).to_owned())
}

/// While Redis loads its files, it replies with an error.
fn replies_to_ping(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply)?;
    Ok(&reply == b"+PONG")
}
