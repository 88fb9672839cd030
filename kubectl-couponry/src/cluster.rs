//! The connection to Kubernetes, and error messages with the action to take.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::Args;
use couponry_crds::CouponEvent;
use couponry_domain::EventName;
use http::{HeaderValue, Uri, header::USER_AGENT};
use jiff::SignedDuration;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, PostParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
    core::DeserializeGuard,
};
use secrecy::SecretString;

use crate::view::sanitize;

/// The API server uses the name as the field manager of a change.
const USER_AGENT_OF_PLUGIN: &str = concat!("kubectl-couponry/", env!("CARGO_PKG_VERSION"));

/// The cluster, the identity and the namespace, with the flags of kubectl.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Path of the kubeconfig. Default: KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Default: the current context.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Cluster of the kubeconfig. Default: that of the context.
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// User of the kubeconfig. Default: that of the context. It precedes the command, because `void` has a flag of this
    /// name.
    #[arg(id = "kubeconfig_user", long = "user", value_name = "NAME")]
    user: Option<String>,
    /// URL of the API server. Default: that of the cluster.
    #[arg(long, short, global = true, value_name = "URL", value_parser = server_url)]
    server: Option<Uri>,
    /// Bearer token, instead of the credentials of the kubeconfig.
    #[arg(long, global = true, value_name = "TOKEN")]
    token: Option<SecretString>,
    /// User to impersonate.
    #[arg(long = "as", global = true, value_name = "USER")]
    impersonate: Option<String>,
    /// Group to impersonate. Repeatable.
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "impersonate")]
    impersonate_groups: Vec<String>,
    /// How long to wait for a response of the API server, such as 10s; 0: without limit.
    #[arg(long, global = true, value_name = "DURATION", default_value = "0", value_parser = request_timeout)]
    request_timeout: Duration,
    /// Namespace of the events. Default: the namespace of the context.
    #[arg(long, short, global = true, value_name = "NAME", value_parser = namespace_name)]
    namespace: Option<String>,
}

/// A namespace of a connected cluster.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    server: Uri,
}

impl ClusterArgs {
    pub(crate) async fn connect(self) -> anyhow::Result<Cluster> {
        let Self {
            kubeconfig,
            context,
            cluster,
            user,
            server,
            token,
            impersonate,
            impersonate_groups,
            request_timeout,
            namespace,
        } = self;
        let kubeconfig = kubeconfig.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
        let kubeconfig = kubeconfig.context("cannot read the kubeconfig")?;
        let options = KubeConfigOptions { context, cluster, user };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.context("cannot use the kubeconfig")?;
        if let Some(server) = server {
            config.cluster_url = server;
        }
        if token.is_some() {
            config.auth_info = AuthInfo { token, ..AuthInfo::default() };
        }
        if impersonate.is_some() {
            config.auth_info.impersonate = impersonate;
            config.auth_info.impersonate_groups = Some(impersonate_groups);
        }
        if !request_timeout.is_zero() {
            config.connect_timeout = Some(request_timeout);
            config.read_timeout = Some(request_timeout);
        }
        config.headers.push((USER_AGENT, HeaderValue::from_static(USER_AGENT_OF_PLUGIN)));
        // A change whose response is lost must not be repeated, and the dashboard must notice errors at once.
        config.default_retry = false;
        let server = config.cluster_url.clone();
        let client = Client::try_from(config).context("cannot create a Kubernetes client")?;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Cluster { client, namespace, server })
    }
}

impl Cluster {
    /// The URL of the API server.
    pub(crate) fn server(&self) -> String {
        self.server.to_string()
    }

    pub(crate) fn events(&self) -> Api<DeserializeGuard<CouponEvent>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Fetches the event of this name.
    pub(crate) async fn event(&self, name: &str) -> anyhow::Result<CouponEvent> {
        match self.events().get_opt(name).await {
            Ok(Some(event)) => parsed(&event).cloned(),
            Ok(None) => Err(self.not_found(name).await),
            Err(error) => Err(self.explain(error, "get")),
        }
    }

    /// The user name of the caller, as the API server has authenticated it.
    pub(crate) async fn own_user(&self) -> anyhow::Result<String> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
        let review = review.map_err(|error| self.explain(error, "review"))?;
        let user = review.status.and_then(|status| status.user_info?.username);
        user.context("the API server has not returned the name of the user")
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
            kube::Error::Service(cause) => {
                anyhow!(cause).context(format!("cannot reach the Kubernetes API server {}", self.server))
            }
            error => {
                anyhow::Error::new(error).context(format!("cannot {verb} the events of the namespace {namespace}"))
            }
        }
    }
}

/// The event, or an error if the object does not match the schema, such as one created under an older CRD.
pub(crate) fn parsed(DeserializeGuard(event): &DeserializeGuard<CouponEvent>) -> anyhow::Result<&CouponEvent> {
    event.as_ref().map_err(|invalid| {
        let name = invalid.metadata.name.as_deref().unwrap_or_default();
        let error = sanitize(&invalid.error);
        anyhow!("the event {name} is not valid: {error}; correct it with `kubectl edit ce {name}`, or delete it")
    })
}

/// Validates the name of an event. Other characters could change the path of the request.
pub(crate) fn event_name(name: &str) -> Result<String, String> {
    let rule = "lower-case letters, digits, '-' and '.', at most 63, with a letter or digit at both ends";
    name.parse::<EventName>().map(Into::into).map_err(|_| format!("use {rule}"))
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

/// The most similar name, if at most every third character differs.
fn closest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let rated = names.map(|other| (strsim::damerau_levenshtein(name, &other), other));
    rated.filter(|(typos, _)| typos * 3 <= name.chars().count()).min().map(|(_, other)| other)
}

fn server_url(text: &str) -> Result<Uri, String> {
    let url = text.parse::<Uri>().ok().filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
    url.filter(|url| url.host().is_some()).ok_or_else(|| "expected a URL, such as https://host:6443".to_owned())
}

fn request_timeout(text: &str) -> Result<Duration, String> {
    let timeout = if text == "0" { Some(SignedDuration::ZERO) } else { text.parse().ok() };
    let timeout = timeout.and_then(|timeout: SignedDuration| timeout.try_into().ok());
    timeout.ok_or_else(|| "expected a time with its unit, such as 10s, or 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closest_of_misspelled_name_returns_similar_name() {
        let names = || ["summer", "winter-2026", "spring"].into_iter().map(str::to_owned);
        assert_eq!(closest("sumer", names()).as_deref(), Some("summer"));
        assert_eq!(closest("winter-2025", names()).as_deref(), Some("winter-2026"));
        for different in ["zzz", "nope", "s", "winter"] {
            assert_eq!(closest(different, names().chain(["open".to_owned()])), None, "{different}");
        }
    }

    #[test]
    fn request_timeout_has_a_unit() {
        let seconds = |text| request_timeout(text).map(|timeout| timeout.as_secs());
        assert_eq!([seconds("0"), seconds("10s"), seconds("2m")], [Ok(0), Ok(10), Ok(120)]);
        for invalid in ["", "10", "-1s", "soon"] {
            assert!(request_timeout(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn server_url_has_scheme_and_host() {
        assert!(server_url("https://[::1]:6443").is_ok() && server_url("http://localhost/prefix").is_ok());
        for invalid in ["", "localhost:6443", "ftp://host", "/path"] {
            assert!(server_url(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn names_with_invalid_characters_or_length_are_rejected() {
        let long = "x".repeat(64);
        for name in ["", " ", "a b", "p3/status", "..", "a..b", "-a", "a-", "A", "여름", "a?watch=true", "a%2f", &long]
        {
            assert!(event_name(name).is_err() && namespace_name(name).is_err(), "{name}");
        }
        assert!(event_name("summer-2026.kr").is_ok() && namespace_name("summer-2026.kr").is_err());
        assert!(event_name(&"x".repeat(63)).is_ok() && namespace_name(&"x".repeat(63)).is_ok());
    }
}
