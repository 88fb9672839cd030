//! The way to Kubernetes, and what its refusals mean.

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

use crate::view::plain;

/// Names that are as similar as this are worth a question.
const SIMILAR: f64 = 0.7;

/// Which cluster, and which of its namespaces.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// The kubeconfig. Without it: what KUBECONFIG names, or ~/.kube/config.
    #[arg(long, global = true, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Without it: its current one.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace. Without it: that of the context.
    #[arg(long, short, global = true, value_name = "NAME", value_parser = namespace_name)]
    namespace: Option<String>,
}

/// A namespace of a cluster.
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
        let client = Client::try_from(config).context("cannot speak to Kubernetes as it is configured")?;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Cluster { client, namespace })
    }
}

impl Cluster {
    pub(crate) fn events(&self) -> Api<DeserializeGuard<CouponEvent>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The event of this name.
    pub(crate) async fn event(&self, name: &str) -> anyhow::Result<CouponEvent> {
        match self.events().get_opt(name).await {
            Ok(Some(event)) => readable(event),
            Ok(None) => Err(self.no_event(name).await),
            Err(error) => Err(self.explain(error, "get")),
        }
    }

    /// Why there is no event of this name.
    async fn no_event(&self, name: &str) -> anyhow::Error {
        let namespace = &self.namespace;
        let events = match self.events().list_metadata(&ListParams::default()).await {
            Ok(events) => events,
            // It is more likely that this is why.
            Err(error) if is_not_found(&error) => return self.explain(error, "list"),
            Err(_) => return anyhow!("there is no event {name:?} in the namespace {namespace}"),
        };
        let names = events.iter().map(ResourceExt::name_any);
        match closest(name, names) {
            Some(other) => anyhow!("there is no event {name:?} in the namespace {namespace}; did you mean {other:?}?"),
            None if events.items.is_empty() => {
                anyhow!(
                    "there is no event {name:?}: the namespace {namespace} has no events; choose another one with -n"
                )
            }
            None => anyhow!("there is no event {name:?} in the namespace {namespace}"),
        }
    }

    /// What went wrong when this was done to the events.
    pub(crate) fn explain(&self, error: kube::Error, verb: &str) -> anyhow::Error {
        let namespace = &self.namespace;
        match &error {
            error if is_not_found(error) => anyhow!(
                "the cluster knows no CouponEvents: install Couponry, or its definition with \
                 `kubectl apply --server-side -f {}`",
                couponry_crds::DEFINITION_FILE
            ),
            kube::Error::Api(status) if status.code == 403 => anyhow!(
                "you may not {verb} the events of the namespace {namespace}; a Role with this rule is wanted: \
                 {{apiGroups: [couponry.dev], resources: [couponevents], verbs: [{verb}]}}"
            ),
            kube::Error::Api(status) if status.code == 401 => anyhow!("the cluster does not know you: log in again"),
            kube::Error::Api(status) => anyhow!("{}", plain(&status.message)),
            kube::Error::Service(cause) => {
                // Its causes say which of the many ways to fail it was.
                let causes = anyhow!("{cause:?}");
                anyhow::Error::new(error).context(format!("the cluster does not answer ({causes})"))
            }
            _ => anyhow::Error::new(error).context(format!("cannot {verb} the events of the namespace {namespace}")),
        }
    }
}

/// The event, unless it cannot be read: then why, and what to do.
pub(crate) fn readable(DeserializeGuard(read): DeserializeGuard<CouponEvent>) -> anyhow::Result<CouponEvent> {
    read.map_err(|invalid| {
        let name = invalid.metadata.name.as_deref().unwrap_or_default();
        let error = plain(&invalid.error);
        anyhow!("the event {name} cannot be read: {error}; correct it with `kubectl edit ce {name}`, or delete it")
    })
}

/// The name of an event, as Kubernetes has them. Others would be taken for a part of its paths.
pub(crate) fn event_name(name: &str) -> Result<String, String> {
    let rule = "lower-case letters, digits, '-' and '.', at most 253, with a letter or digit at both ends";
    if name.len() <= 253 && name.split('.').all(is_label) { Ok(name.to_owned()) } else { Err(format!("use {rule}")) }
}

/// The name of a namespace.
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

pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The name that was probably meant.
fn closest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let rated = names.map(|other| (strsim::jaro_winkler(name, &other), other));
    rated.filter(|(rate, _)| *rate > SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        let names = || ["summer", "winter-2026", "spring"].into_iter().map(str::to_owned);
        assert_eq!(closest("sumer", names()).as_deref(), Some("summer"));
        assert_eq!(closest("winter-2025", names()).as_deref(), Some("winter-2026"));
        assert_eq!(closest("zzz", names()), None);
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let long = "x".repeat(254);
        for name in ["", " ", "a b", "p3/status", "..", "a..b", "-a", "a-", "A", "여름", "a?watch=true", "a%2f", &long]
        {
            assert!(event_name(name).is_err() && namespace_name(name).is_err(), "{name}");
        }
        assert!(event_name("summer-2026.kr").is_ok() && namespace_name("summer-2026.kr").is_err());
        assert!(event_name(&"x".repeat(253)).is_ok() && namespace_name(&"x".repeat(63)).is_ok());
    }
}
