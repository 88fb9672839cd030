//! A dedicated `PostgreSQL` server.

use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::certificate_authority::{Certificate, CertificateAuthority};
use crate::ports;
use crate::process::{Launch, OnStop, Process, log_in, output, signals};
use crate::programs::locate::{postgres_bin, require};
use crate::scratch::Scratch;

/// `PostgreSQL` refuses to run as root; Debian's package creates this user.
const USER: &str = "postgres";

/// A `PostgreSQL` with `fsync` on. Every local connection has superuser access as `postgres`.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    host: Ipv4Addr,
    port: u16,
    scratch: Scratch,
}

signals!(Postgres);

impl Postgres {
    /// Creates a database cluster, starts the server and waits until it accepts connections.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with additional settings, which take precedence: `&["synchronous_commit=off"]`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, settings)
    }

    /// Starts it for clients which reach it at this address of the machine too. They are not authenticated.
    pub fn start_on(host: Ipv4Addr) -> Result<Self> {
        Self::start_at(host, &[&format!("listen_addresses=127.0.0.1,{host}")])
    }

    fn start_at(host: Ipv4Addr, settings: &[&str]) -> Result<Self> {
        let bin = require(postgres_bin(), "PostgreSQL")?;
        ports::retry(|| {
            let scratch = Scratch::new("postgres")?;
            let user = rustix::process::geteuid().is_root().then_some(USER);
            let data = scratch.path().join("data");
            create_dir(&data, user)?;
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
                // The default directory of the sockets belongs to the system's server.
                .args(["-c", &format!("unix_socket_directories={}", data.display())]);
            for setting in settings {
                launch = launch.args(["-c", setting]);
            }
            let postgres = Self { process: Process::start(launch)?, host, port, scratch };
            postgres.wait()?;
            Ok(postgres)
        })
    }

    /// Starts it with TLS. All users except `postgres` must use TLS and authenticate (SCRAM).
    pub fn start_tls(authority: &CertificateAuthority) -> Result<Self> {
        let Certificate { certificate, key, .. } = authority.issue("postgres")?;
        let rules = key.with_file_name("pg_hba.conf");
        std::fs::write(&rules, "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")?;
        if rustix::process::geteuid().is_root() {
            change_owner(&key, USER)?;
        }
        Self::start_with(&[
            "ssl=on",
            &format!("ssl_cert_file={}", certificate.display()),
            &format!("ssl_key_file={}", key.display()),
            &format!("hba_file={}", rules.display()),
        ])
    }

    /// Stops it as `pg_ctl stop -m immediate` does: without a checkpoint, so the next start runs crash recovery.
    pub fn stop_immediately(&self) -> Result<()> {
        self.process.signal(Signal::QUIT)?;
        self.process.wait().map(drop)
    }

    /// Restarts it on the same port and data, and waits until it accepts connections.
    pub fn restart(&self) -> Result<()> {
        self.process.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let is_ready = require(postgres_bin(), "PostgreSQL")?.join("pg_isready");
        let port = self.port.to_string();
        self.process.wait_ready(|| output(&is_ready, &["-q", "-h", "127.0.0.1", "-p", &port], None).is_ok())
    }

    /// `postgres://postgres@HOST:PORT/postgres`, with 127.0.0.1 unless it was started on another address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}:{}/postgres", self.host, self.port)
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

fn create_dir(path: &Path, user: Option<&str>) -> Result<()> {
    let failed = || format!("cannot create {}", path.display());
    std::fs::DirBuilder::new().mode(0o700).create(path).with_context(failed)?;
    user.map_or(Ok(()), |user| change_owner(path, user))
}

fn change_owner(path: &Path, user: &str) -> Result<()> {
    let [uid, gid] = ["-u", "-g"].map(|which| output("id".as_ref(), &[which, user], None));
    let number = |text: Result<String>| -> Result<u32> { Ok(text?.trim().parse()?) };
    chown(path, Some(number(uid)?), Some(number(gid)?))
        .with_context(|| format!("cannot change the owner of {} to {user}", path.display()))
}

fn init(bin: &Path, scratch: &Scratch, data: &Path, user: Option<&str>) -> Result<()> {
    let launch = Launch::new("initdb", bin.join("initdb"), log_in(scratch.path(), "initdb")?)
        .dir(data)
        .user(user)
        .args(["-D".as_ref(), data.as_os_str()])
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"])
        // The new cluster has no data which a crash of the machine could lose.
        .args(["--no-sync", "--no-instructions"]);
    let initdb = Process::start(launch)?;
    let status = initdb.wait()?;
    ensure!(status.success(), "initdb failed ({status}); its output:\n{}", initdb.log_tail());
    Ok(())
}
