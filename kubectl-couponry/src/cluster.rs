//! The connection to Kubernetes, and error messages with the action to take.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use couponry_crds::CouponEvent;
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::DeserializeGuard,
};

use crate::view::sanitize;

/// Minimum similarity of a name suggested for an unknown one.
const MIN_SIMILARITY: f64 = 0.7;

/// The cluster and the namespace.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Path of the kubeconfig. Default: KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Default: the current context.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the events. Default: the namespace of the context.
    #[arg(long, short, global = true, value_name = "NAME", value_parser = namespace_name)]
    namespace: Option<String>,
}

/// A namespace of a connected cluster.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl ClusterArgs {
    pub(crate) async fn connect(self) -> anyhow::Result<Cluster> {
        let Self { kubeconfig, context, namespace } = self;
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = match kubeconfig {
            Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.context("cannot read the kubeconfig")?;
        let client = Client::try_from(config).context("cannot create a Kubernetes client")?;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Cluster { client, namespace })
    }
}

impl Cluster {
    pub(crate) fn events(&self) -> Api<DeserializeGuard<CouponEvent>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Fetches the event of this name.
    pub(crate) async fn event(&self, name: &str) -> anyhow::Result<CouponEvent> {
        match self.events().get_opt(name).await {
            Ok(Some(event)) => parsed(event),
            Ok(None) => Err(self.not_found(name).await),
            Err(error) => Err(self.explain(error, "get")),
        }
    }

    /// Error for an unknown name, with a suggestion if a similar event exists.
    async fn not_found(&self, name: &str) -> anyhow::Error {
        let namespace = &self.namespace;
        let events = match self.events().list_metadata(&ListParams::default()).await {
            Ok(events) => events,
            // The CRD is not installed.
            Err(error) if is_not_found(&error) => return self.explain(error, "list"),
            Err(_) => return anyhow!("event {name:?} not found in the namespace {namespace}"),
        };
        let names = events.iter().map(ResourceExt::name_any);
        match closest(name, names) {
            Some(other) => anyhow!("event {name:?} not found in the namespace {namespace}; did you mean {other:?}?"),
            None if events.items.is_empty() => {
                anyhow!(
                    "event {name:?} not found: the namespace {namespace} has no events; \
                     select another namespace with -n"
                )
            }
            None => anyhow!("event {name:?} not found in the namespace {namespace}"),
        }
    }

    /// Adds to an error of the API server what to do about it. `verb` is the verb of the request.
    pub(crate) fn explain(&self, error: kube::Error, verb: &str) -> anyhow::Error {
        let namespace = &self.namespace;
        match error {
            error if is_not_found(&error) => anyhow!(
                "the cluster has no CRD for CouponEvents: install Couponry, or apply the CRD with \
                 `kubectl apply --server-side -f {}`",
                couponry_crds::CRD_FILE
            ),
            kube::Error::Api(status) if status.code == 403 => anyhow!(
                "not allowed to {verb} events in the namespace {namespace}: this requires a Role with the rule \
                 {{apiGroups: [couponry.dev], resources: [couponevents], verbs: [{verb}]}}"
            ),
            kube::Error::Api(status) if status.code == 401 => {
                anyhow!("the API server rejected the credentials: log in again")
            }
            kube::Error::Api(status) => anyhow!("{}", sanitize(&status.message)),
            kube::Error::Service(cause) => anyhow!(cause).context("cannot reach the Kubernetes API server"),
            error => {
                anyhow::Error::new(error).context(format!("cannot {verb} the events of the namespace {namespace}"))
            }
        }
    }
}

/// The event, or an error if the object does not match the schema, such as one created under an older CRD.
pub(crate) fn parsed(DeserializeGuard(event): DeserializeGuard<CouponEvent>) -> anyhow::Result<CouponEvent> {
    event.map_err(|invalid| {
        let name = invalid.metadata.name.as_deref().unwrap_or_default();
        let error = sanitize(&invalid.error);
        anyhow!("the event {name} is not valid: {error}; correct it with `kubectl edit ce {name}`, or delete it")
    })
}

/// Validates the name of an event. Other characters could change the path of the request.
pub(crate) fn event_name(name: &str) -> Result<String, String> {
    let rule = "lower-case letters, digits, '-' and '.', at most 253, with a letter or digit at both ends";
    if name.len() <= 253 && name.split('.').all(is_label) { Ok(name.to_owned()) } else { Err(format!("use {rule}")) }
}

/// Validates the name of a namespace.
fn namespace_name(name: &str) -> Result<String, String> {
    let rule = "lower-case letters, digits and '-', at most 63, with a letter or digit at both ends";
    if name.len() <= 63 && is_label(name) { Ok(name.to_owned()) } else { Err(format!("use {rule}")) }
}

fn is_label(label: &str) -> bool {
    let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.first().is_some_and(is_edge)
        && bytes.last().is_some_and(is_edge)
        && bytes.iter().all(|byte| is_edge(byte) || *byte == b'-')
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The most similar name.
fn closest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let rated = names.map(|other| (strsim::jaro_winkler(name, &other), other));
    rated.filter(|(rate, _)| *rate > MIN_SIMILARITY).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closest_of_misspelled_name_returns_similar_name() {
        let names = || ["summer", "winter-2026", "spring"].into_iter().map(str::to_owned);
        assert_eq!(closest("sumer", names()).as_deref(), Some("summer"));
        assert_eq!(closest("winter-2025", names()).as_deref(), Some("winter-2026"));
        assert_eq!(closest("zzz", names()), None);
    }

    #[test]
    fn names_with_invalid_characters_or_length_are_rejected() {
        let long = "x".repeat(254);
        for name in ["", " ", "a b", "p3/status", "..", "a..b", "-a", "a-", "A", "여름", "a?watch=true", "a%2f", &long]
        {
            assert!(event_name(name).is_err() && namespace_name(name).is_err(), "{name}");
        }
        assert!(event_name("summer-2026.kr").is_ok() && namespace_name("summer-2026.kr").is_err());
        assert!(event_name(&"x".repeat(253)).is_ok() && namespace_name(&"x".repeat(63)).is_ok());
    }
}
