//! Fetches the JWKS from a URL or a file.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{StatusCode, Uri},
};
use couponry_settings::CaCertificates;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time;

use super::flags::IdentityError;

/// Far larger than any JWKS.
const MAX_BYTES: usize = 1024 * 1024;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The location of a JWKS.
pub(super) enum JwksSource {
    Url { url: Uri, client: Box<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>> },
    File(PathBuf),
}

/// A JWKS cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no response within {FETCH_TIMEOUT:?}")]
    Timeout,
    #[error("cannot fetch the JWKS")]
    Request(#[source] hyper_util::client::legacy::Error),
    #[error("the response is {0}; redirects are not followed")]
    Status(StatusCode),
    #[error("cannot read the response")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot read the file")]
    File(#[from] io::Error),
}

impl JwksSource {
    pub(super) fn url(url: Uri, ca_certificates: Option<&CaCertificates>) -> Result<Self, IdentityError> {
        let is_secure = match (url.scheme_str(), url.authority()) {
            (Some("https"), Some(_)) => true,
            (Some("http"), Some(_)) => false,
            _ => return Err(IdentityError::Url(url)),
        };
        if !is_secure {
            tracing::warn!(%url, "--jwt-jwks-url without https: an attacker on the network can impersonate any user");
        }
        let mut roots = RootCertStore::empty();
        match ca_certificates {
            Some(ca_certificates) => {
                for certificate in CertificateDer::pem_slice_iter(ca_certificates.pem().as_bytes()) {
                    roots.add(certificate?)?;
                }
            }
            None => {
                roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let https =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        // Fetches are minutes apart: an idle connection would mostly be closed by the server.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https);
        Ok(Self::Url { url, client: Box::new(client) })
    }

    pub(super) async fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::File(path) => Ok(tokio::fs::read(path).await?),
            Self::Url { url, client } => {
                let exchange = async {
                    let response = client.get(url.clone()).await.map_err(FetchError::Request)?;
                    if response.status() != StatusCode::OK {
                        return Err(FetchError::Status(response.status()));
                    }
                    let body =
                        Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(FetchError::Body)?;
                    Ok(body.to_bytes().into())
                };
                time::timeout(FETCH_TIMEOUT, exchange).await.unwrap_or(Err(FetchError::Timeout))
            }
        }
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, .. } => url.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
