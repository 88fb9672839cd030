//! A Kubernetes API server of one's own: etcd and kube-apiserver, no nodes and no controllers.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::process::{Launch, Process, log_in, output};
use crate::scratch::Scratch;
use crate::{ports, programs};

const ADMIN: &str = "admin-token";

/// A user who authenticates with a fixed token.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// What the user sends as bearer token.
    pub token: &'a str,
    /// The user's name, for RBAC.
    pub name: &'a str,
    /// The user's groups, for RBAC.
    pub groups: &'a [&'a str],
}

/// An API server with RBAC, and the etcd behind it.
#[derive(Debug)]
pub struct Kubernetes {
    // Stopped in this order: the API server would wait for an etcd that is gone.
    api_server: Process,
    etcd: Process,
    port: u16,
    kubeconfig: PathBuf,
    scratch: Scratch,
}

impl Kubernetes {
    /// Starts both and waits until the API server is ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with users beside the administrator. They may do nothing until a role is bound to them.
    pub fn start_with(users: &[User]) -> Result<Self> {
        let etcd = programs::need(programs::etcd(), "etcd")?;
        let (api_server, _) = programs::need(programs::kubernetes(), "kube-apiserver")?;
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
            let api_server = api_server_launch(&api_server, dir, users, port, &client)?;
            let etcd = Process::start(etcd)?;
            let api_server = Process::start(api_server)?;
            let kubeconfig = dir.join("kubeconfig");
            let kubernetes = Self { api_server, etcd, port, kubeconfig, scratch };
            kubernetes.wait()?;
            Ok(kubernetes)
        })
    }

    /// Stops both in order; their data stay for [`Kubernetes::restart`].
    pub fn stop(&self) -> Result<()> {
        self.api_server.stop()?;
        self.etcd.stop()
    }

    /// SIGKILL to both.
    pub fn kill9(&self) -> Result<()> {
        self.api_server.kill9()?;
        self.etcd.kill9()
    }

    /// SIGSTOP to the API server: it keeps its connections and answers nothing.
    pub fn pause(&self) -> Result<()> {
        self.api_server.pause()
    }

    /// SIGCONT: undoes [`Kubernetes::pause`].
    pub fn resume(&self) -> Result<()> {
        self.api_server.resume()
    }

    /// Starts both again on the same port and data, and waits until the API server is ready.
    pub fn restart(&self) -> Result<()> {
        self.etcd.start_again()?;
        self.api_server.start_again()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let certificate = self.scratch.path().join("certificates/apiserver.crt");
        self.api_server.wait_ready(|| certificate.exists() && ports::accepts(self.port))?;
        // It made its certificate and the authority behind it at its first start; both are in this file.
        let authority = fs::read(&certificate).with_context(|| format!("cannot read {}", certificate.display()))?;
        write_kubeconfig(&self.kubeconfig, &self.url(), &authority, ADMIN)?;
        self.api_server.wait_ready(|| {
            let ready = self.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|answer| answer == "ok");
            if !ready {
                // Each question is a process, and all processors are busy with what it asks about.
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

    /// A kubeconfig of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl as the administrator and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig, args, None)
    }

    /// Runs kubectl with `input` as its standard input, for `kubectl apply -f -`.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        kubectl(&self.kubeconfig, args, Some(input))
    }

    /// Everything that the API server printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.api_server.log()
    }
}

/// Runs our kubectl on the API server of this kubeconfig, whatever the user's own environment says.
pub fn kubectl(kubeconfig: &Path, args: &[&str], input: Option<&str>) -> Result<String> {
    let (_, kubectl) = programs::need(programs::kubernetes(), "kubectl")?;
    let mut all = vec!["--kubeconfig".as_ref(), kubeconfig.as_os_str()];
    // Its cache would otherwise go to the user's home, under a port that another server will have.
    let cache = kubeconfig.with_file_name("kubectl-cache");
    all.extend(["--cache-dir".as_ref(), cache.as_os_str()]);
    all.extend(args.iter().map(OsStr::new));
    output(&kubectl, &all, input)
}

fn api_server_launch(program: &Path, dir: &Path, users: &[User], port: u16, etcd: &str) -> Result<Launch> {
    let key = dir.join("service-account.key");
    let openssl = programs::need(programs::openssl(), "openssl")?;
    output(&openssl, &["genrsa".as_ref(), "-out".as_ref(), key.as_os_str(), "2048".as_ref()], None)?;
    let tokens = dir.join("tokens.csv");
    fs::write(&tokens, token_file(users)).with_context(|| format!("cannot write {}", tokens.display()))?;
    let file = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
    Ok(Launch::new("kube-apiserver", program, log_in(dir, "kube-apiserver")?)
        .args([format!("--etcd-servers={etcd}"), format!("--secure-port={port}")])
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
        .args([file("cert-dir", "certificates"), file("token-auth-file", "tokens.csv")])
        .args([file("service-account-key-file", "service-account.key")])
        .args([file("service-account-signing-key-file", "service-account.key")])
        .args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"])
        // No controller runs that would make the service accounts which this plugin demands.
        .args(["--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.96.0.0/16"]))
}

fn token_file(users: &[User]) -> String {
    let mut text = format!("{ADMIN},admin,admin,\"system:masters\"\n");
    for User { token, name, groups } in users {
        let _ = writeln!(text, "{token},{name},{name},\"{}\"", groups.join(","));
    }
    text
}

fn write_kubeconfig(path: &Path, server: &str, authority: &[u8], token: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority-data": base64(authority)}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "admin", "namespace": "default"}}],
        "current-context": "testbed",
    });
    fs::write(path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { ALPHABET[index as usize].into() } else { '=' });
        }
    }
    text
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads_to_groups_of_four() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
