//! The connection to the API server.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, client::ClientBuilder};
use tower::timeout::TimeoutLayer;

/// Field manager of everything that the operator writes, and the reporter of its Kubernetes Events.
pub(crate) const FIELD_MANAGER: &str = "couponry-operator";

/// Time for the first byte of a response. A half-open connection raises no error of its own. It is not the client's
/// read timeout, because that would also end idle watches.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects as the kubeconfig or the service account of the pod says. Returns the client and the namespace:
/// `namespace`, or the default of the configuration.
pub(crate) async fn connect(namespace: Option<&str>) -> anyhow::Result<(Client, String)> {
    let config = kube::Config::infer().await.context(
        "cannot find a Kubernetes configuration: set KUBECONFIG, or run in a pod with a service account token",
    )?;
    let builder =
        ClientBuilder::try_from(config).context("cannot create a Kubernetes client from the configuration")?;
    let client = builder.with_layer(&TimeoutLayer::new(RESPONSE_TIMEOUT)).build();
    let namespace = namespace.unwrap_or_else(|| client.default_namespace()).to_owned();
    Ok((client, namespace))
}
