//! A certificate authority for the TLS of the servers.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

use crate::cluster::network::HOST;
use crate::scratch::Scratch;

/// The modes of files with certificates and with private keys.
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// A new certificate authority. Dropping it removes its files.
#[derive(Debug)]
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    scratch: Scratch,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
    /// Both in one file.
    pub both: PathBuf,
}

impl CertificateAuthority {
    /// Generates the key and the certificate of the authority.
    pub fn new() -> Result<Self> {
        let mut params = parameters("test authority", None, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (key, scratch) = (generate_key()?, Scratch::new("certificate-authority")?);
        let certificate = params.self_signed(&key).context("cannot sign the certificate of the authority")?;
        let authority = Self { issuer: Issuer::new(params, key), scratch };
        write(&authority.path(), &certificate.pem(), PUBLIC)?;
        Ok(authority)
    }

    /// The authority's certificate, which clients must trust.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("ca.crt")
    }

    /// Issues a certificate for a server at 127.0.0.1, `localhost` or [`HOST`], or for a client of this name.
    pub fn issue(&self, name: &str) -> Result<Certificate> {
        self.issue_for(name, name, None, &["127.0.0.1", &HOST.to_string(), "localhost"])
    }

    /// Issues a certificate with this common name, organization, and subject alternative names (IP addresses or DNS
    /// names). `file` is the name of its files.
    pub(crate) fn issue_for(
        &self,
        file: &str,
        common_name: &str,
        organization: Option<&str>,
        addresses: &[&str],
    ) -> Result<Certificate> {
        let params = parameters(common_name, organization, addresses)?;
        let key = generate_key()?;
        let signed = params.signed_by(&key, &self.issuer);
        let certificate = signed.with_context(|| format!("cannot sign the certificate of {common_name}"))?.pem();
        let key = key.serialize_pem();
        let path = |extension: &str| self.scratch.path().join(format!("{file}.{extension}"));
        let paths = Certificate { certificate: path("crt"), key: path("key"), both: path("pem") };
        write(&paths.certificate, &certificate, PUBLIC)?;
        write(&paths.key, &key, PRIVATE)?;
        write(&paths.both, &(key + &certificate), PRIVATE)?;
        Ok(paths)
    }
}

/// Generates an EC key (P-256).
pub(crate) fn generate_key() -> Result<KeyPair> {
    KeyPair::generate().context("cannot generate a key")
}

fn parameters(common_name: &str, organization: Option<&str>, addresses: &[&str]) -> Result<CertificateParams> {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(addresses).context("invalid subject alternative name")?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

/// Writes a file. `PostgreSQL` rejects private keys which other users can read.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
