//! Exports spans to an OpenTelemetry collector: OTLP over HTTP, protobuf, without TLS.
//!
//! The exporter runs on a thread of its own, outside of tokio, and sends through the hyper client of the workspace,
//! which has a thread of its own as well: the last spans are exported while the program waits for them. A collector
//! usually runs on the same node or in the same cluster; `https` would need another set of TLS flags.

use std::{future, io, thread, time::Duration};

use axum::http::{
    Uri,
    uri::{Builder, Scheme},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::{
    runtime::{Builder as RuntimeBuilder, Handle},
    time,
};

use crate::error_chain::error_chain;

/// How long a collector may take to accept a batch of spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Parses the base URL of a collector and appends the path of its receiver for spans.
pub(crate) fn parse_endpoint(text: &str) -> Result<Uri, String> {
    let base: Uri = text.parse().map_err(|error| format!("not a valid URL: {error}"))?;
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    match base.authority() {
        Some(authority) if base.scheme() == Some(&Scheme::HTTP) => Builder::new()
            .scheme(Scheme::HTTP)
            .authority(authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|error| error.to_string()),
        _ => Err("must be of the form http://HOST:PORT (https is not supported)".to_owned()),
    }
}

/// Collects spans and exports them in batches until it is shut down.
pub(crate) fn provider(endpoint: &Uri, service: &'static str) -> Result<SdkTracerProvider, ExporterError> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(TokioHttpClient { client, runtime: start_runtime()? })
        .with_endpoint(endpoint.to_string())
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

/// The exporter of spans could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// Its settings are not valid.
    #[error(transparent)]
    Build(#[from] ExporterBuildError),
    /// Its thread could not be started.
    #[error("cannot start its thread")]
    Thread(#[from] io::Error),
}

/// Starts a runtime on a thread of its own, until the end of the process.
fn start_runtime() -> io::Result<Handle> {
    let runtime = RuntimeBuilder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("otlp".to_owned()).spawn(move || runtime.block_on(future::pending::<()>()))?;
    Ok(handle)
}

/// Sends the requests of the exporter's thread.
#[derive(Debug)]
struct TokioHttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for TokioHttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let response = client.request(request.map(Full::new)).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(parts, body))
        };
        let result = self.runtime.spawn(async { time::timeout(EXPORT_TIMEOUT, exchange).await? }).await?;
        match &result {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => tracing::warn!(status = response.status().as_u16(), "the collector rejected spans"),
            Err(error) => tracing::warn!(error = error_chain(&**error), "cannot export spans"),
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_the_base_url_of_a_collector() {
        let parse = |text| parse_endpoint(text).map(|uri| uri.to_string());
        assert_eq!(parse("http://collector:4318"), Ok("http://collector:4318/v1/traces".to_owned()));
        assert_eq!(parse("http://collector:4318/base/"), Ok("http://collector:4318/base/v1/traces".to_owned()));
        for invalid in ["collector:4318", "https://collector:4318", "/v1/traces", "", "http://"] {
            assert!(parse_endpoint(invalid).is_err(), "{invalid:?}");
        }
    }
}
