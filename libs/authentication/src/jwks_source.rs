//! Fetches the JWKS from a URL or a file.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderValue, Request, StatusCode, Uri, header::AUTHORIZATION},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use couponry_settings::{CaCertificates, ExposeSecret as _, SecretString};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::percent_decode_str;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time;

use crate::flags::JwtArgsError;

/// Far larger than any JWKS.
const MAX_BYTES: usize = 1024 * 1024;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The location of a JWKS.
pub(crate) enum JwksSource {
    Url { url: Uri, credentials: Option<HeaderValue>, client: Box<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>> },
    File(PathBuf),
}

/// A JWKS cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
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
    pub(crate) fn url(url: &SecretString, ca_certificates: Option<&CaCertificates>) -> Result<Self, JwtArgsError> {
        let url: Uri = url.expose_secret().parse().map_err(|_| JwtArgsError::Url)?;
        let is_secure = match (url.scheme_str(), url.authority()) {
            (Some("https"), Some(_)) => true,
            (Some("http"), Some(_)) => false,
            _ => return Err(JwtArgsError::Url),
        };
        if !is_secure {
            tracing::warn!(
                url = redacted(&url),
                "--jwt-jwks-url without https: an attacker on the network can impersonate any user"
            );
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
        Ok(Self::Url { credentials: basic_credentials(&url), url, client: Box::new(client) })
    }

    pub(crate) async fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::File(path) => Ok(tokio::fs::read(path).await?),
            Self::Url { url, credentials, client } => {
                let mut request = Request::new(Empty::new());
                *request.uri_mut() = url.clone();
                if let Some(credentials) = credentials {
                    request.headers_mut().insert(AUTHORIZATION, credentials.clone());
                }
                let exchange = async {
                    let response = client.request(request).await.map_err(FetchError::Request)?;
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
            Self::Url { url, .. } => f.write_str(&redacted(url)),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The URL without the parts that may be secret: credentials and query.
fn redacted(url: &Uri) -> String {
    let host = url.authority().map_or("", |authority| authority.as_str());
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{}://{host}{}", url.scheme_str().unwrap_or_default(), url.path())
}

/// The `Authorization` header for the user and the password in the URL.
fn basic_credentials(url: &Uri) -> Option<HeaderValue> {
    let (credentials, _) = url.authority()?.as_str().rsplit_once('@')?;
    let credentials: Vec<u8> = percent_decode_str(credentials).collect();
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_query_of_url_are_redacted() {
        let url: Uri = "https://me:s3c%40ret@login.example:8443/jwks?key=t0ken".parse().unwrap();
        assert_eq!(redacted(&url), "https://login.example:8443/jwks");
        let value = format!("Basic {}", BASE64_STANDARD.encode("me:s3c@ret"));
        assert_eq!(basic_credentials(&url).unwrap(), value.as_str());
        assert_eq!(basic_credentials(&"http://login.example/jwks".parse().unwrap()), None);
    }
}
