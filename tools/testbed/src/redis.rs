//! A Redis server of one's own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use crate::process::{Launch, Process, log_in, signals};
use crate::scratch::Scratch;
use crate::{ports, programs};

/// A Redis that loses no acknowledged write when it is killed: append-only file, synced before each answer.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    _scratch: Scratch,
}

signals!(Redis);

impl Redis {
    /// Starts it and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with further settings, which win: `&["--appendfsync", "everysec"]`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        let program = programs::need(programs::redis_server(), "redis-server")?;
        ports::retry(|| {
            let scratch = Scratch::new("redis")?;
            let port = ports::free()?;
            let launch = Launch::new("redis-server", &program, log_in(scratch.path(), "redis")?)
                .dir(scratch.path())
                .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
                .args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"])
                .args(settings.iter().copied());
            let redis = Self { process: Process::start(launch)?, port, _scratch: scratch };
            redis.wait()?;
            Ok(redis)
        })
    }

    /// Starts it again on the same port and data, and waits until it answers.
    pub fn restart(&self) -> Result<()> {
        self.process.start_again()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        self.process.wait_ready(|| answers_ping(self.port).unwrap_or(false))
    }

    /// `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
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
