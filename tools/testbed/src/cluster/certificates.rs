//! The certificates of servers and users of the cluster, and kubeconfigs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::network::NODE;
use crate::certificate_authority::{Certificate, CertificateAuthority, generate_key};
use crate::kubectl::write_kubeconfig;

/// The certificate authority of the cluster, and the keys of service account tokens.
#[derive(Debug)]
pub(super) struct Identities {
    authority: CertificateAuthority,
    token_key: PathBuf,
    token_public_key: PathBuf,
}

impl Identities {
    /// Generates the authority, and the keys of tokens in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        let key = generate_key()?;
        Ok(Self {
            authority: CertificateAuthority::new()?,
            token_key: write("service-account.key", key.serialize_pem())?,
            token_public_key: write("service-account.pub", key.public_key_pem())?,
        })
    }

    /// The CA certificate.
    pub(super) fn authority(&self) -> PathBuf {
        self.authority.path()
    }

    /// The key which signs the tokens of service accounts.
    pub(super) fn token_key(&self) -> &Path {
        &self.token_key
    }

    /// The key which verifies the tokens of service accounts.
    pub(super) fn token_public_key(&self) -> &Path {
        &self.token_public_key
    }

    /// Issues a certificate for a server at these addresses and DNS names.
    pub(super) fn server(&self, name: &str, addresses: &[&str]) -> Result<Certificate> {
        self.authority.issue_for(name, name, None, addresses)
    }

    /// Issues a certificate for a user of this group.
    pub(super) fn user(&self, user: &str, group: &str) -> Result<Certificate> {
        self.authority.issue_for(&user.replace(':', "-"), user, Some(group), &[])
    }

    /// Writes a kubeconfig for a user of this group.
    pub(super) fn kubeconfig(&self, path: &Path, user: &str, group: &str) -> Result<()> {
        let Certificate { certificate, key, .. } = self.user(user, group)?;
        let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        let auth = json!({
            "client-certificate-data": STANDARD.encode(read(&certificate)?),
            "client-key-data": STANDARD.encode(read(&key)?),
        });
        let (server, ca) = (format!("https://{NODE}:6443"), read(&self.authority())?);
        write_kubeconfig(path, CONTEXT, &server, &ca, user, &auth)
    }
}

/// The context of every kubeconfig.
pub(super) const CONTEXT: &str = "couponry-node";
