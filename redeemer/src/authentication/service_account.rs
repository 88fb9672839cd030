//! Tokens of Kubernetes service accounts, verified with `TokenReview` and `SubjectAccessReview`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::http::HeaderMap;
use couponry_authentication::BearerError;
use couponry_crds::CouponEvent;
use couponry_domain::EventName;
use couponry_runtime::{Problem, error_chain};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, Resource as _, api::PostParams};
use tokio::{sync::Semaphore, time};

use super::decisions::{Decision, Decisions, Key};
use crate::metrics::Metrics;

/// The value of WWW-Authenticate (RFC 6750).
const CHALLENGE: &str = r#"Bearer realm="couponry""#;
/// The verb that a caller must be allowed to do with the `CouponEvent`.
const VERB: &str = "redeem";
/// Shorter than the timeout of a request, whose outcome would be unknown after it.
const API_SERVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Tokens that are reviewed concurrently: each calls the API server, even for an unknown caller.
const CONCURRENCY: usize = 16;

/// Authenticates and authorizes service accounts.
pub(crate) struct ServiceAccounts {
    client: Client,
    namespace: String,
    audience: String,
    decisions: Decisions,
    slots: Semaphore,
    metrics: Metrics,
}

impl ServiceAccounts {
    /// With the kubeconfig, or in a pod with its service account.
    pub(super) async fn connect(
        audience: String,
        namespace: Option<&str>,
        cache_time: Duration,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let config = kube::Config::infer().await.context(
            "cannot find a Kubernetes configuration: set KUBECONFIG, or run in a pod with a service account token",
        )?;
        let client = Client::try_from(config).context("cannot create a Kubernetes client from the configuration")?;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace()).to_owned();
        let (decisions, slots) = (Decisions::new(cache_time), Semaphore::new(CONCURRENCY));
        Ok(Self { client, namespace, audience, decisions, slots, metrics })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the name of the caller with this bearer token, who must be allowed to redeem coupons of the event.
    pub(super) async fn authorize(&self, headers: &HeaderMap, event: &EventName) -> Result<String, Problem> {
        let reject = |reason, problem| {
            self.metrics.count_authentication_failure(reason);
            Err(problem)
        };
        let token = match bearer_token(headers) {
            Ok(token) => token,
            Err(problem) => return reject("no_token", problem),
        };
        match self.decide(token, event).await {
            Ok(Decision::Allowed(caller)) => Ok(caller),
            Ok(Decision::Denied(caller)) => {
                let detail = format!(
                    "{caller} is not allowed to {VERB} the couponevent {event} in the namespace {}",
                    self.namespace
                );
                reject("forbidden", Problem::forbidden(detail))
            }
            Ok(Decision::Unauthenticated) => {
                let detail = format!(
                    "Kubernetes rejects the token: it has expired, or is not for the audience {}",
                    self.audience
                );
                let challenge = r#"Bearer realm="couponry", error="invalid_token""#;
                reject("invalid_token", Problem::unauthorized(detail).with_challenge(challenge))
            }
            Err(error) => {
                tracing::warn!(error, "cannot authenticate a caller");
                let detail = "The Kubernetes API server is unavailable. Nothing was changed. Retry later.";
                reject("unavailable", Problem::unavailable(detail))
            }
        }
    }

    async fn decide(&self, token: &str, event: &EventName) -> Result<Decision, String> {
        let key = Key::new(token, event);
        if let Some(decision) = self.decisions.get(&key) {
            return Ok(decision);
        }
        let decide = async {
            let _slot = self.slots.acquire().await.map_err(error_chain)?;
            // Another request may have decided in the meantime.
            if let Some(decision) = self.decisions.get(&key) {
                return Ok(decision);
            }
            let since = Instant::now();
            let decision = self.review(token, event).await.map_err(error_chain)?;
            // Any client can send any number of invalid tokens.
            if decision != Decision::Unauthenticated {
                self.decisions.keep(key, since, decision.clone());
            }
            Ok(decision)
        };
        time::timeout(API_SERVER_TIMEOUT, decide)
            .await
            .unwrap_or_else(|_| Err(format!("no response within {API_SERVER_TIMEOUT:?}")))
    }

    async fn review(&self, token: &str, event: &EventName) -> Result<Decision, kube::Error> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        // An authenticator that does not know audiences returns none.
        let has_audience = status.audiences.is_some_and(|audiences| audiences.contains(&self.audience));
        let user = match status.user {
            Some(user) if status.authenticated == Some(true) && has_audience => user,
            _ => return Ok(Decision::Unauthenticated),
        };
        let UserInfo { username, uid, groups, extra } = user;
        let caller = username.clone().unwrap_or_default();
        let attributes = ResourceAttributes {
            namespace: Some(self.namespace.clone()),
            verb: Some(VERB.to_owned()),
            group: Some(CouponEvent::group(&()).into_owned()),
            version: Some(CouponEvent::version(&()).into_owned()),
            resource: Some(CouponEvent::plural(&()).into_owned()),
            name: Some(event.to_string()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user: username,
            uid,
            groups,
            extra,
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews = Api::<SubjectAccessReview>::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await?;
        let is_allowed = reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true));
        Ok(if is_allowed { Decision::Allowed(caller) } else { Decision::Denied(caller) })
    }
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Problem> {
    couponry_authentication::bearer_token(headers).map_err(|error| {
        let detail = match error {
            BearerError::Missing | BearerError::Repeated => {
                "send exactly one header `Authorization: Bearer TOKEN` with a token of a service account"
            }
            BearerError::NotBearer | BearerError::Empty => "the header Authorization must have the form `Bearer TOKEN`",
        };
        Problem::unauthorized(detail).with_challenge(CHALLENGE)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    #[test]
    fn bearer_token_requires_exactly_one_valid_header() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer_token(&headers).map(str::to_owned).map_err(|problem| problem.status())
        };
        assert_eq!(with(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(with(&["bearer  abc "]), Ok("abc".to_owned()));
        for invalid in [&[][..], &["abc"], &["Bearer "], &["Basic abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(with(invalid), Err(401), "{invalid:?}");
        }
    }
}
