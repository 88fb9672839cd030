//! A `PostgreSQL` server of one's own.

use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::process::{Launch, OnStop, Process, log_in, output, signals};
use crate::scratch::Scratch;
use crate::{Authority, Certificate, ports, programs};

/// `PostgreSQL` does not run as root; Debian's package makes this user.
const USER: &str = "postgres";

/// A `PostgreSQL` that anyone on this machine may use as superuser `postgres`, with `fsync` on.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    host: Ipv4Addr,
    port: u16,
    scratch: Scratch,
}

signals!(Postgres);

impl Postgres {
    /// Makes a database cluster, starts it and waits until it accepts connections.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with further settings, which win: `&["synchronous_commit=off"]`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, settings)
    }

    /// Starts it for clients beyond this machine's loopback, who reach it at this address of the machine. Whoever can
    /// reach it is believed.
    pub fn start_on(host: Ipv4Addr) -> Result<Self> {
        Self::start_at(host, &[&format!("listen_addresses=127.0.0.1,{host}")])
    }

    fn start_at(host: Ipv4Addr, settings: &[&str]) -> Result<Self> {
        let bin = programs::need(programs::postgres_bin(), "PostgreSQL")?;
        ports::retry(|| {
            let scratch = Scratch::new("postgres")?;
            let user = rustix::process::geteuid().is_root().then_some(USER);
            let data = scratch.path().join("data");
            make_dir(&data, user)?;
            init(&bin, &scratch, &data, user)?;
            if !host.is_loopback() {
                let rules = data.join("pg_hba.conf");
                std::fs::write(&rules, "host all all all trust\n")
                    .with_context(|| format!("cannot write {}", rules.display()))?;
            }
            let port = ports::free()?;
            let mut launch = Launch::new("postgres", bin.join("postgres"), log_in(scratch.path(), "postgres")?)
                .dir(&data)
                .user(user)
                .on_stop(OnStop::Interrupt)
                .args(["-D".as_ref(), data.as_os_str()])
                .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"])
                // Its sockets live in its own directory: the usual one is the system's.
                .args(["-c", &format!("unix_socket_directories={}", data.display())]);
            for setting in settings {
                launch = launch.args(["-c", setting]);
            }
            let postgres = Self { process: Process::start(launch)?, host, port, scratch };
            postgres.wait()?;
            Ok(postgres)
        })
    }

    /// Starts it with TLS. Everyone but `postgres` must use it and log in (SCRAM).
    pub fn start_tls(authority: &Authority) -> Result<Self> {
        let Certificate { certificate, key, .. } = authority.certify("postgres")?;
        let rules = key.with_file_name("pg_hba.conf");
        std::fs::write(&rules, "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")?;
        if rustix::process::geteuid().is_root() {
            give_to(&key, USER)?;
        }
        Self::start_with(&[
            "ssl=on",
            &format!("ssl_cert_file={}", certificate.display()),
            &format!("ssl_key_file={}", key.display()),
            &format!("hba_file={}", rules.display()),
        ])
    }

    /// Stops it at once, as `pg_ctl stop -m immediate` does: nothing is brought to an end, and the next start recovers.
    pub fn stop_immediately(&self) -> Result<()> {
        self.process.signal(Signal::QUIT)?;
        self.process.wait().map(drop)
    }

    /// Starts it again on the same port and data, and waits until it accepts connections.
    pub fn restart(&self) -> Result<()> {
        self.process.start_again()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let is_ready = programs::need(programs::postgres_bin(), "PostgreSQL")?.join("pg_isready");
        let port = self.port.to_string();
        self.process.wait_ready(|| output(&is_ready, &["-q", "-h", "127.0.0.1", "-p", &port], None).is_ok())
    }

    /// `postgres://postgres@HOST:PORT/postgres`, with 127.0.0.1 unless it was started on another address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}:{}/postgres", self.host, self.port)
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

fn make_dir(path: &Path, user: Option<&str>) -> Result<()> {
    let failed = || format!("cannot make {}", path.display());
    std::fs::DirBuilder::new().mode(0o700).create(path).with_context(failed)?;
    user.map_or(Ok(()), |user| give_to(path, user))
}

fn give_to(path: &Path, user: &str) -> Result<()> {
    let [uid, gid] = ["-u", "-g"].map(|which| output("id".as_ref(), &[which, user], None));
    let number = |text: Result<String>| -> Result<u32> { Ok(text?.trim().parse()?) };
    chown(path, Some(number(uid)?), Some(number(gid)?))
        .with_context(|| format!("cannot give {} to {user}", path.display()))
}

fn init(bin: &Path, scratch: &Scratch, data: &Path, user: Option<&str>) -> Result<()> {
    let launch = Launch::new("initdb", bin.join("initdb"), log_in(scratch.path(), "initdb")?)
        .dir(data)
        .user(user)
        .args(["-D".as_ref(), data.as_os_str()])
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"])
        // Nothing is in it yet that a crash of the machine could lose.
        .args(["--no-sync", "--no-instructions"]);
    let initdb = Process::start(launch)?;
    let status = initdb.wait()?;
    ensure!(status.success(), "initdb ended with {status}; it printed:\n{}", initdb.log_tail());
    Ok(())
}
