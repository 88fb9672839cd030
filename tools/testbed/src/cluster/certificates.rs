//! Who is who in the cluster: certificates of its servers and users, and kubeconfigs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::network::NODE;
use crate::kubernetes::base64;
use crate::process::output;
use crate::{Authority, Certificate, programs};

/// The cluster's authority, and the key that signs the tokens of service accounts.
#[derive(Debug)]
pub(super) struct Identities {
    authority: Authority,
    tokens: PathBuf,
}

impl Identities {
    /// New ones; the key for tokens is in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let tokens = dir.join("service-account.key");
        let openssl = programs::need(programs::openssl(), "openssl")?;
        output(&openssl, &["genrsa".as_ref(), "-out".as_ref(), tokens.as_os_str(), "2048".as_ref()], None)?;
        Ok(Self { authority: Authority::new()?, tokens })
    }

    /// The certificate that all trust.
    pub(super) fn authority(&self) -> PathBuf {
        self.authority.path()
    }

    /// The key that signs the tokens of service accounts.
    pub(super) fn token_key(&self) -> &Path {
        &self.tokens
    }

    /// A certificate for a server at these addresses and names, such as `IP:127.0.0.1,DNS:localhost`.
    pub(super) fn server(&self, name: &str, addresses: &str) -> Result<Certificate> {
        self.authority.issue(name, &format!("/CN={name}"), addresses)
    }

    /// A certificate for a user of this group.
    pub(super) fn user(&self, user: &str, group: &str) -> Result<Certificate> {
        // A certificate must name something, and no server is called that.
        self.authority.issue(&user.replace(':', "-"), &format!("/O={group}/CN={user}"), "DNS:user.invalid")
    }

    /// Writes a kubeconfig for a user of this group.
    pub(super) fn kubeconfig(&self, path: &Path, user: &str, group: &str) -> Result<()> {
        let Certificate { certificate, key, .. } = self.user(user, group)?;
        let data = |file: &Path| -> Result<String> {
            Ok(base64(&fs::read(file).with_context(|| format!("cannot read {}", file.display()))?))
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CONTEXT, "cluster": {
                "server": format!("https://{NODE}:6443"),
                "certificate-authority-data": data(&self.authority())?,
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": data(&certificate)?,
                "client-key-data": data(&key)?,
            }}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user, "namespace": "default"}}],
            "current-context": CONTEXT,
        });
        fs::write(path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What every kubeconfig calls the cluster.
pub(super) const CONTEXT: &str = "couponry-node";
