//! The certificate authorities that a server's certificate may come from.

use std::{fmt, fs};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Certificates of authorities, as a PEM file holds them. Read once, at the start.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities {
    path: String,
    pem: String,
}

impl Authorities {
    /// The value parser for clap: reads the file.
    pub fn read(path: &str) -> Result<Self, AuthoritiesError> {
        let pem = fs::read_to_string(path)
            .map_err(|source| AuthoritiesError::Unreadable { path: path.to_owned(), source })?;
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
            Ok(Self { path: path.to_owned(), pem })
        } else {
            Err(AuthoritiesError::NoCertificates { path: path.to_owned() })
        }
    }

    /// What the file holds.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorities").field(&self.path).finish()
    }
}

/// Why a file gives no authorities.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The file cannot be read.
    #[error("cannot read the file of certificates {path}: {source}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no certificate in it, or something else.
    #[error("{path} holds no certificates in PEM form (-----BEGIN CERTIFICATE-----)")]
    NoCertificates {
        /// Which file.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_certificates_are_taken() {
        let path = std::env::temp_dir().join(format!("authorities-{}", std::process::id()));
        let read = || Authorities::read(path.to_str().unwrap()).map_err(|error| error.to_string());
        assert!(read().unwrap_err().starts_with("cannot read the file of certificates"));
        for held in ["", "nothing", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, held).unwrap();
            assert!(read().unwrap_err().contains("no certificates in PEM form"), "{held}");
        }
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(read().unwrap().pem().contains("AAAA"));
        fs::remove_file(&path).unwrap();
    }
}
