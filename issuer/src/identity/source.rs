//! Where the keys come from.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{StatusCode, Uri},
};
use couponry_settings::Authorities;
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

/// Far more than a set of keys has.
const MAX_BYTES: usize = 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A place that has keys.
pub(super) enum Source {
    Url { url: Uri, client: Box<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>> },
    File(PathBuf),
}

/// Why a place gives no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    #[error("cannot ask: {}", causes(.0))]
    Ask(hyper_util::client::legacy::Error),
    #[error("the answer is {0}; redirections are not followed")]
    Status(StatusCode),
    #[error("cannot read the answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot read the file: {0}")]
    File(#[from] io::Error),
}

impl Source {
    pub(super) fn url(url: Uri, authorities: Option<&Authorities>) -> Result<Self, IdentityError> {
        let is_secure = match (url.scheme_str(), url.authority()) {
            (Some("https"), Some(_)) => true,
            (Some("http"), Some(_)) => false,
            _ => return Err(IdentityError::Url(url)),
        };
        if !is_secure {
            tracing::warn!(%url, "whoever can change answers on the way from --jwt-jwks-url can be any user: use https");
        }
        let mut roots = RootCertStore::empty();
        match authorities {
            Some(authorities) => {
                for certificate in CertificateDer::pem_slice_iter(authorities.pem().as_bytes()) {
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
        // Asked every few minutes: a kept connection would mostly be a broken one.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https);
        Ok(Self::Url { url, client: Box::new(client) })
    }

    pub(super) async fn read(&self) -> Result<Vec<u8>, SourceError> {
        match self {
            Self::File(path) => Ok(tokio::fs::read(path).await?),
            Self::Url { url, client } => {
                let answer = async {
                    let answer = client.get(url.clone()).await.map_err(SourceError::Ask)?;
                    if answer.status() != StatusCode::OK {
                        return Err(SourceError::Status(answer.status()));
                    }
                    let body =
                        Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(SourceError::Body)?;
                    Ok(body.to_bytes().into())
                };
                time::timeout(TIMEOUT, answer).await.unwrap_or(Err(SourceError::Timeout))
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, .. } => url.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The error with what caused it: "client error (Connect)" alone helps nobody.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
