//! The programs of Couponry as processes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use couponry_testbed::program::{Program, Running};
use couponry_testbed::{http, ports};

use crate::servers::Servers;

/// The topic of the uses of coupons: the default of the redeemer. The operator creates it.
const USED_TOPIC: &str = "coupon-used";

pub(crate) const OPERATOR: &str = "couponry-operator";
pub(crate) const ISSUER: &str = "couponry-issuer";
pub(crate) const CONSUMER: &str = "couponry-consumer";
pub(crate) const REDEEMER: &str = "couponry-redeemer";

/// All programs.
pub(crate) const NAMES: [&str; 4] = [OPERATOR, ISSUER, CONSUMER, REDEEMER];

/// The addresses of the servers.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) redis: String,
    pub(crate) postgres: String,
    pub(crate) kafka: String,
    pub(crate) kubeconfig: PathBuf,
}

impl From<&Servers> for Addresses {
    fn from(servers: &Servers) -> Self {
        Self {
            redis: servers.redis.url(),
            postgres: servers.postgres.url(),
            kafka: servers.kafka.brokers(),
            kubeconfig: servers.kubernetes.kubeconfig().to_owned(),
        }
    }
}

/// A running program.
#[derive(Debug)]
pub(crate) struct RunningProgram {
    pub(crate) name: String,
    /// One of [`NAMES`].
    pub(crate) program: String,
    pub(crate) process: Running,
    /// The port of `/readyz` and `/metrics`.
    pub(crate) monitor: u16,
    /// The port for clients, if it has one.
    pub(crate) listen: Option<u16>,
}

impl RunningProgram {
    /// Starts one of [`NAMES`] from the directory `bin` without waiting for it. `args` follow the default arguments,
    /// and `env` replaces default variables.
    pub(crate) fn start(
        bin: &Path,
        (name, program): (&str, &str),
        servers: &Addresses,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let monitor = ports::free()?;
        let listen = if [ISSUER, REDEEMER].contains(&program) { Some(ports::free()?) } else { None };
        let mut launch = Program::at(bin.join(program))
            .args(["--redis-url", &servers.redis])
            .args(["--kafka-brokers", &servers.kafka])
            .args(["--monitor-listen", &format!("127.0.0.1:{monitor}"), "--log-format", "text"]);
        if let Some(port) = listen {
            // No load balancer needs time to remove it.
            launch = launch.args(["--listen", &format!("127.0.0.1:{port}"), "--drain-seconds", "0"]);
        }
        if program != ISSUER {
            launch = launch.args(["--postgres-url", &servers.postgres]);
        }
        if program == REDEEMER && !args.contains(&"--auth") {
            launch = launch.args(["--auth", "none"]);
        }
        if program == OPERATOR {
            launch = launch.args(["--admin-listen", "", "--kafka-used-topic", USED_TOPIC]);
            launch = launch.env("KUBECONFIG", &servers.kubeconfig);
            launch = launch.env("POD_NAMESPACE", "default");
        }
        launch = launch.args(args.iter().copied());
        for (key, value) in env {
            launch = launch.env(key, value);
        }
        Ok(Self { name: name.to_owned(), program: program.to_owned(), process: launch.start()?, monitor, listen })
    }

    /// Waits until it reports that it is ready.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        self.process.wait_ready(|| http::get(self.monitor, "/readyz").is_some_and(|(status, _)| status == 200))
    }

    /// The URL for clients, if it has one.
    pub(crate) fn url(&self) -> Option<String> {
        Some(format!("http://127.0.0.1:{}", self.listen?))
    }
}
