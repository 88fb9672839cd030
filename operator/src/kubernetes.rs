//! The connection to the API server.

use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderValue, header::USER_AGENT};
use kube::{Client, client::ClientBuilder};
use tower::timeout::TimeoutLayer;

/// Field manager of everything that the operator writes, and the reporter of its Kubernetes Events.
pub(crate) const FIELD_MANAGER: &str = "couponry-operator";

/// The API server uses the name as the field manager of a write that does not set one.
const USER_AGENT_OF_OPERATOR: &str = concat!("couponry-operator/", env!("CARGO_PKG_VERSION"));

/// Time for the first byte of a response. A half-open connection raises no error of its own. It is not the client's
/// read timeout, because that would also end idle watches.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects with the kubeconfig, or in a pod with its service account. Returns the client and the namespace:
/// `namespace`, or the default of the configuration.
pub(crate) async fn connect(namespace: Option<&str>) -> anyhow::Result<(Client, String)> {
    let mut config = kube::Config::infer().await.context(
        "cannot find a Kubernetes configuration: set KUBECONFIG, or run in a pod with a service account token",
    )?;
    config.headers.push((USER_AGENT, HeaderValue::from_static(USER_AGENT_OF_OPERATOR)));
    let builder =
        ClientBuilder::try_from(config).context("cannot create a Kubernetes client from the configuration")?;
    let client = builder.with_layer(&TimeoutLayer::new(RESPONSE_TIMEOUT)).build();
    let namespace = namespace.unwrap_or_else(|| client.default_namespace()).to_owned();
    Ok((client, namespace))
}
