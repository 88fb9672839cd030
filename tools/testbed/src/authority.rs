//! A certificate authority for the servers' TLS.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::HOST;
use crate::process::output;
use crate::programs;
use crate::scratch::Scratch;

/// An authority that nobody else trusts. Its files go away with it.
#[derive(Debug)]
pub struct Authority {
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

impl Authority {
    /// Makes one.
    pub fn new() -> Result<Self> {
        let authority = Self { scratch: Scratch::new("authority")? };
        authority.make("ca", &["-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE"])?;
        Ok(authority)
    }

    /// Its own certificate, which clients are to trust.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// A certificate for a server at 127.0.0.1, `localhost` or [`HOST`], or for a client of this name.
    pub fn certify(&self, name: &str) -> Result<Certificate> {
        self.issue(name, &format!("/CN={name}"), &format!("IP:127.0.0.1,IP:{HOST},DNS:localhost"))
    }

    /// A certificate for the user or server that `subject` names (`/O=GROUP/CN=USER`), at these addresses and names.
    /// `name` is for its files.
    pub(crate) fn issue(&self, name: &str, subject: &str, addresses: &str) -> Result<Certificate> {
        let (ca, ca_key) = (self.path(), self.file("ca.key"));
        self.make(
            name,
            &[
                "-subj",
                subject,
                "-addext",
                &format!("subjectAltName={addresses}"),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-CA",
                &ca.to_string_lossy(),
                "-CAkey",
                &ca_key.to_string_lossy(),
            ],
        )?;
        let file = |ending: &str| self.file(&format!("{name}.{ending}"));
        let made = Certificate { certificate: file("crt"), key: file("key"), both: file("pem") };
        let both = read(&made.key)? + &read(&made.certificate)?;
        std::fs::write(&made.both, both).with_context(|| format!("cannot write {}", made.both.display()))?;
        Ok(made)
    }

    fn make(&self, name: &str, args: &[&str]) -> Result<()> {
        let openssl = programs::need(programs::openssl(), "openssl")?;
        let (key, certificate) = (self.file(&format!("{name}.key")), self.file(&format!("{name}.crt")));
        let mut all = vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let (key, certificate) = (key.to_string_lossy(), certificate.to_string_lossy());
        all.extend(["-days", "2", "-keyout", &*key, "-out", &*certificate]);
        all.extend(args);
        output(&openssl, &all, None)?;
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
