//! A dedicated Kubernetes API server: etcd and kube-apiserver, without nodes and controllers. Programs on this machine
//! can be its pods (see [`pods`](crate::pods)).

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::certificate_authority::generate_key;
use crate::kubectl::{kubectl, write_kubeconfig};
use crate::pod_network::PodNetwork;
use crate::ports;
use crate::process::{Launch, Process, log_in};
use crate::programs::kubernetes::find;
use crate::programs::locate::{etcd, require};
use crate::scratch::Scratch;

const ADMIN: &str = "admin-token";

/// A user who authenticates with a static token.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The bearer token.
    pub token: &'a str,
    /// The user's name, for RBAC.
    pub name: &'a str,
    /// The user's groups, for RBAC.
    pub groups: &'a [&'a str],
}

/// An API server with RBAC, and its etcd.
#[derive(Debug)]
pub struct Kubernetes {
    // Dropped in this order: without etcd the API server would delay its shutdown.
    api_server: Process,
    etcd: Process,
    port: u16,
    kubeconfig: PathBuf,
    _pod_network: PodNetwork,
    scratch: Scratch,
}

impl Kubernetes {
    /// Starts both and waits until the API server is ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with additional users. They have no permissions until a role is bound to them.
    pub fn start_with(users: &[User]) -> Result<Self> {
        let etcd = require(etcd(), "etcd")?;
        let (api_server, _) = require(find(), "kube-apiserver")?;
        ports::retry(|| {
            let scratch = Scratch::new("kubernetes")?;
            let dir = scratch.path();
            let (port, client, peer) = (ports::free()?, url(ports::free()?), url(ports::free()?));
            let etcd = Launch::new("etcd", &etcd, log_in(dir, "etcd")?)
                .clean_env()
                .args(["--data-dir".as_ref(), dir.join("etcd").as_os_str()])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")]);
            let pod_network = PodNetwork::start(dir)?;
            let egress = pod_network.write_configuration(dir)?;
            let api_server = api_server_launch(&api_server, dir, users, port, &client)?
                .args([format!("--egress-selector-config-file={}", egress.display())]);
            let etcd = Process::start(etcd)?;
            let api_server = Process::start(api_server)?;
            let kubeconfig = dir.join("kubeconfig");
            let kubernetes = Self { api_server, etcd, port, kubeconfig, _pod_network: pod_network, scratch };
            kubernetes.wait()?;
            Ok(kubernetes)
        })
    }

    /// Stops both gracefully; [`Kubernetes::restart`] keeps their data.
    pub fn stop(&self) -> Result<()> {
        self.api_server.stop()?;
        self.etcd.stop()
    }

    /// SIGKILL to both.
    pub fn kill9(&self) -> Result<()> {
        self.api_server.kill9()?;
        self.etcd.kill9()
    }

    /// SIGSTOP to the API server: it keeps its connections and does not respond.
    pub fn pause(&self) -> Result<()> {
        self.api_server.pause()
    }

    /// SIGCONT: ends [`Kubernetes::pause`].
    pub fn resume(&self) -> Result<()> {
        self.api_server.resume()
    }

    /// Restarts both on the same port and data, and waits until the API server is ready.
    pub fn restart(&self) -> Result<()> {
        self.etcd.restart()?;
        self.api_server.restart()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let certificate = self.scratch.path().join("certificates/apiserver.crt");
        self.api_server.wait_ready(|| certificate.exists() && ports::accepts(self.port))?;
        // The API server generates its certificate and the CA certificate at its first start; both are in this file.
        let ca = fs::read(&certificate).with_context(|| format!("cannot read {}", certificate.display()))?;
        write_kubeconfig(&self.kubeconfig, "testbed", &self.url(), &ca, "admin", &json!({"token": ADMIN}))?;
        self.api_server.wait_ready(|| {
            let ready = self.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|response| response == "ok");
            if !ready {
                // Each check starts a process, which competes with the API server for the CPU.
                std::thread::sleep(Duration::from_millis(200));
            }
            ready
        })
    }

    /// `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The kubeconfig of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl as the administrator and returns its output.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig, args, None)
    }

    /// Runs kubectl with `input` as its standard input, for `kubectl apply -f -`.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        kubectl(&self.kubeconfig, args, Some(input))
    }

    /// The log of the API server.
    #[must_use]
    pub fn log(&self) -> String {
        self.api_server.log()
    }
}

fn api_server_launch(program: &Path, dir: &Path, users: &[User], port: u16, etcd: &str) -> Result<Launch> {
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let key = generate_key()?;
    write("service-account.key", key.serialize_pem())?;
    write("service-account.pub", key.public_key_pem())?;
    write("tokens.csv", token_file(users))?;
    let file = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
    Ok(Launch::new("kube-apiserver", program, log_in(dir, "kube-apiserver")?)
        .args([format!("--etcd-servers={etcd}"), format!("--secure-port={port}")])
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
        .args([file("cert-dir", "certificates"), file("token-auth-file", "tokens.csv")])
        .args([file("service-account-key-file", "service-account.pub")])
        .args([file("service-account-signing-key-file", "service-account.key")])
        .args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"])
        // This plugin requires service accounts, and no controller runs which would create them.
        .args(["--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.96.0.0/16"]))
}

fn token_file(users: &[User]) -> String {
    let mut text = format!("{ADMIN},admin,admin,\"system:masters\"\n");
    for User { token, name, groups } in users {
        let _ = writeln!(text, "{token},{name},{name},\"{}\"", groups.join(","));
    }
    text
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
