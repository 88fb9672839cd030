//! Authentication and authorization of the callers: the servers of a shop.

mod decisions;
mod service_account;

use std::time::Duration;

use anyhow::Context as _;
use axum::http::HeaderMap;
use clap::{Args, ValueEnum};
use couponry_authentication::{JwtArgs, Verifier};
use couponry_domain::EventName;
use couponry_runtime::{CancellationToken, Health, Problem};

use self::service_account::ServiceAccounts;
use crate::metrics::Metrics;

#[derive(Debug, Args)]
#[command(next_help_heading = "Authentication")]
pub(crate) struct AuthenticationArgs {
    /// How callers are authenticated.
    #[arg(long, env, value_enum, default_value_t = Method::ServiceAccount, value_name = "METHOD")]
    auth: Method,
    /// Audience of the tokens of service accounts. A token for another audience is rejected.
    #[arg(long, env, default_value = "couponry-redeemer", value_name = "AUDIENCE")]
    auth_audience: String,
    /// How long the decision about a token and an event is used again. Until then, a token that was revoked is
    /// accepted.
    #[arg(
        long,
        env,
        default_value_t = 10,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u16).range(0..=300)
    )]
    auth_cache_seconds: u16,
    #[command(flatten)]
    jwt: JwtArgs,
    /// Namespace of the coupon events. Default: that of the kubeconfig or of the pod.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// A token of a Kubernetes service account, as a bearer token. The account must be allowed to `redeem` the coupon
    /// event. The service account of the redeemer needs the cluster role system:auth-delegator.
    ServiceAccount,
    /// A JWT of a service, as a bearer token. Every valid token may redeem coupons of every event, so its audience must
    /// not be that of users' tokens.
    Jwt,
    /// Callers are not authenticated: every client that reaches the port can redeem coupons. For trials.
    None,
}

impl AuthenticationArgs {
    /// Whether tokens are verified with keys.
    pub(crate) fn needs_keys(&self) -> bool {
        self.auth == Method::Jwt
    }

    /// Creates the authenticator. Fails if Kubernetes is needed and not configured; the API server is not called.
    pub(crate) async fn authenticator(
        self,
        metrics: Metrics,
        health: &Health,
        stop: CancellationToken,
    ) -> anyhow::Result<Authenticator> {
        if !self.needs_keys() && self.jwt.has_key_source() {
            anyhow::bail!("--jwt-jwks-url and --jwt-jwks-file require --auth jwt");
        }
        match self.auth {
            Method::Jwt => {
                // Otherwise the tokens of users, if they have the same issuer, would be accepted.
                anyhow::ensure!(self.jwt.has_audience(), "--auth jwt requires --jwt-audience");
                let verifier = Verifier::start(self.jwt, health, |_, _| {}, stop)?;
                Ok(Authenticator::Jwt(Box::new(verifier), metrics))
            }
            Method::None => {
                tracing::warn!("callers are not authenticated: every client that reaches the port can redeem coupons");
                Ok(Authenticator::None)
            }
            Method::ServiceAccount => {
                let cache_time = Duration::from_secs(self.auth_cache_seconds.into());
                let accounts =
                    ServiceAccounts::connect(self.auth_audience, self.namespace.as_deref(), cache_time, metrics)
                        .await
                        .context("cannot authenticate callers; --auth none is for trials without Kubernetes")?;
                Ok(Authenticator::ServiceAccount(Box::new(accounts)))
            }
        }
    }
}

/// Authenticates and authorizes callers.
pub(crate) enum Authenticator {
    None,
    ServiceAccount(Box<ServiceAccounts>),
    Jwt(Box<Verifier>, Metrics),
}

impl Authenticator {
    /// Whether callers must send a bearer token.
    pub(crate) fn requires_token(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// The namespace in which callers are authorized. None: they are not authorized.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::None | Self::Jwt(..) => None,
            Self::ServiceAccount(accounts) => Some(accounts.namespace()),
        }
    }

    /// Returns the name of the caller, who must be allowed to redeem coupons of this event. None: callers are not
    /// authenticated.
    pub(crate) async fn authorize(&self, headers: &HeaderMap, event: &EventName) -> Result<Option<String>, Problem> {
        match self {
            Self::None => Ok(None),
            Self::ServiceAccount(accounts) => accounts.authorize(headers, event).await.map(Some),
            Self::Jwt(verifier, metrics) => match verifier.verify(headers).await {
                Ok(caller) => Ok(Some(caller)),
                Err(failure) => {
                    metrics.count_authentication_failure(failure.reason().label());
                    Err(failure.into())
                }
            },
        }
    }
}
