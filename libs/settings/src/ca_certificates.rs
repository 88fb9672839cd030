//! CA certificates that a server's certificate is verified with.

use std::{fmt, fs};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// CA certificates in PEM form, read once at startup.
#[derive(Clone)]
pub struct CaCertificates {
    path: String,
    pem: String,
}

impl CaCertificates {
    /// The value parser for clap: reads the file.
    pub fn read(path: &str) -> Result<Self, CaCertificatesError> {
        let pem =
            fs::read_to_string(path).map_err(|source| CaCertificatesError::Read { path: path.to_owned(), source })?;
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
            Ok(Self { path: path.to_owned(), pem })
        } else {
            Err(CaCertificatesError::Invalid { path: path.to_owned() })
        }
    }

    /// The content of the file.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

impl fmt::Debug for CaCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CaCertificates").field(&self.path).finish()
    }
}

/// CA certificates cannot be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum CaCertificatesError {
    /// The file cannot be read.
    #[error("cannot read the CA certificates {path}")]
    Read {
        /// The file.
        path: String,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The file contains no certificate, or something that is not valid PEM.
    #[error("{path} contains no certificates in PEM form (-----BEGIN CERTIFICATE-----)")]
    Invalid {
        /// The file.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_without_certificates_is_rejected() {
        let path = std::env::temp_dir().join(format!("ca-certificates-{}", std::process::id()));
        let read = || CaCertificates::read(path.to_str().unwrap()).map_err(|error| error.to_string());
        assert!(read().unwrap_err().starts_with("cannot read the CA certificates"));
        for content in ["", "nothing", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, content).unwrap();
            assert!(read().unwrap_err().contains("no certificates in PEM form"), "{content}");
        }
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(read().unwrap().pem().contains("AAAA"));
        fs::remove_file(&path).unwrap();
    }
}
