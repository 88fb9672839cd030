//! `couponry-operator verify`: takes one coupon the whole way, as a user would, and cleans up after itself.
//!
//! It knows nothing but the API server and the issuer's address: what it sees is what users and authors of events see.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use couponry_crds::{CouponEvent, status::condition};
use couponry_runtime::telemetry::Telemetry;
use couponry_settings::Secret;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName},
};
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

/// How often something is looked at that is not there yet.
const POLL: Duration = Duration::from_millis(500);
/// One look.
const ATTEMPT: Duration = Duration::from_secs(10);
/// No answer of the issuer is nearly as long, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// How long the clean-up may take when the rest has taken all the time.
const FAREWELL: Duration = Duration::from_secs(30);

/// What to try.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The namespace of the installation. Without it: that of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The name of the event that is made and deleted. One that exists already is never touched, unless an earlier run left
    /// it behind.
    #[arg(long, env = "VERIFY_EVENT", default_value = "couponry-verify", value_name = "NAME")]
    event: String,
    /// Where the issuer is: `http://host:port`.
    #[arg(long, env, value_name = "URL")]
    issuer_url: Uri,
    /// The user who asks, where no token says who it is.
    #[arg(long, env = "VERIFY_USER", default_value = "couponry-verify", value_name = "USER")]
    user: String,
    /// The header in which an issuer with `--user-identity header:NAME` wants the user.
    #[arg(long, env, value_name = "NAME")]
    user_header: Option<HeaderName>,
    /// What an issuer with `--user-identity jwt` wants. `@PATH` reads it from a file.
    #[arg(long, env, value_name = "TOKEN", value_parser = Secret::parse, hide_env_values = true)]
    bearer_token: Option<Secret>,
    /// How long it may take all in all.
    #[arg(long, env = "VERIFY_TIMEOUT_SECONDS", default_value_t = 120, value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..))]
    timeout_seconds: u32,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

/// Says that an event is from here, so that a later run may delete it.
const MARK: &str = "couponry.dev/verify";

impl Verify {
    /// Goes the whole way; the event is deleted whatever happens.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let cluster = kube::Config::infer().await.context("no Kubernetes cluster is configured")?;
        let client = Client::try_from(cluster).context("cannot speak to Kubernetes as it is configured")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let events = Api::namespaced(client, &namespace);
        let until = Instant::now() + Duration::from_secs(self.timeout_seconds.into());

        self.clear_away(&events, until).await?;
        let uid = self.make(&events).await?;
        let tried = self.issue_and_follow(&events, until).await;
        let deleted = self.delete(&events, &uid, until.max(Instant::now() + FAREWELL)).await;
        tried.and(deleted)
    }

    /// An event that an earlier run could not delete.
    async fn clear_away(&self, events: &Api<CouponEvent>, until: Instant) -> anyhow::Result<()> {
        let Some(left) = look("look for the event", events.get_opt(&self.event)).await? else { return Ok(()) };
        ensure!(
            left.labels().contains_key(MARK),
            "there is an event {} that is not from here: use another --event",
            self.event
        );
        self.delete(events, &left.uid().unwrap_or_default(), until).await
    }

    /// Makes the event; its uid.
    async fn make(&self, events: &Api<CouponEvent>) -> anyhow::Result<String> {
        let event = serde_json::from_value(json!({
            "apiVersion": "couponry.dev/v1alpha1",
            "kind": "CouponEvent",
            "metadata": {"name": self.event, "labels": {MARK: "true"}},
            "spec": {
                "policyName": "Does the installation work?",
                "totalCount": 1,
                "discounts": [{"type": "Percent", "value": 1, "allocationPercentage": 100}],
                "code": {"prefix": "VERIFY"},
                "deletionPolicy": "Delete",
            },
        }))
        .context("cannot write the event down")?;
        let made = look("make the event", events.create(&PostParams::default(), &event)).await?;
        tracing::info!(event = self.event, "made an event with one coupon");
        made.uid().context("the API server gave the event no uid")
    }

    async fn issue_and_follow(&self, events: &Api<CouponEvent>, until: Instant) -> anyhow::Result<()> {
        self.wait(events, until, "open", |event| {
            event
                .status
                .as_ref()
                .and_then(|status| status.condition(condition::OPEN))
                .is_some_and(|it| it.status == "True")
        })
        .await?;
        tracing::info!("it is open");

        let first = self.ask(until).await?;
        ensure!(first["success"] == true, "the issuer gave no coupon: {first}");
        let coupon = first["couponKey"].as_str().context("the issuer's answer has no couponKey")?;
        tracing::info!(coupon, "got the coupon");
        let again = self.ask(until).await?;
        ensure!(
            again["reason"] == "DUPLICATE" && again["couponKey"] == coupon,
            "the same user should have heard of the same coupon again: {again}"
        );

        self.wait(events, until, "recorded in Postgres", |event| {
            event.status.as_ref().and_then(|status| status.recorded) == Some(1)
        })
        .await?;
        tracing::info!("it is recorded in Postgres");
        Ok(())
    }

    /// Waits until the event is as it should be; else says how it is instead.
    async fn wait(
        &self,
        events: &Api<CouponEvent>,
        until: Instant,
        what: &str,
        is_so: impl Fn(&CouponEvent) -> bool,
    ) -> anyhow::Result<()> {
        loop {
            let state = match look("look at the event", events.get(&self.event)).await {
                Ok(event) if is_so(&event) => return Ok(()),
                Ok(event) => conditions(&event),
                Err(error) => format!("{error:#}"),
            };
            ensure!(Instant::now() < until, "the event is not {what} in time: {state}");
            sleep(POLL).await;
        }
    }

    /// Asks for the coupon until there is an answer that says something.
    async fn ask(&self, until: Instant) -> anyhow::Result<Value> {
        loop {
            let answer = timeout_at(until.min(Instant::now() + ATTEMPT), self.ask_once()).await;
            let why = match answer {
                Ok(Ok((StatusCode::OK, body))) => {
                    return serde_json::from_slice(&body).context("the issuer's answer is no JSON");
                }
                Ok(Ok((status, body))) => {
                    let told = format!("{status}: {}", String::from_utf8_lossy(&body));
                    // 404: the issuer may not have heard of the event yet, or no endpoint is behind its address.
                    if status.is_client_error()
                        && !matches!(status, StatusCode::NOT_FOUND | StatusCode::REQUEST_TIMEOUT)
                    {
                        bail!("the issuer refuses the request: {told}");
                    }
                    told
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer in time".to_owned(),
            };
            ensure!(Instant::now() < until, "the issuer at {} gives no coupon: {why}", self.issuer_url);
            sleep(POLL).await;
        }
    }

    async fn ask_once(&self) -> anyhow::Result<(StatusCode, Bytes)> {
        let url = format!("{}/coupons/issue", self.issuer_url.to_string().trim_end_matches('/'));
        let mut request = Request::post(url).header(CONTENT_TYPE, "application/json");
        let mut body = json!({"eventId": self.event});
        if let Some(token) = &self.bearer_token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
        } else if let Some(header) = &self.user_header {
            request = request.header(header, &self.user);
        } else {
            body["userId"] = self.user.as_str().into();
        }
        let request = request.body(Full::new(Bytes::from(body.to_string()))).context("cannot ask the issuer so")?;
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        let response = http.request(request).await.context("cannot reach the issuer")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|error| anyhow::anyhow!("the issuer's answer broke off: {error}"))?.to_bytes()))
    }

    /// Deletes the event of this uid and waits until it has gone.
    async fn delete(&self, events: &Api<CouponEvent>, uid: &str, until: Instant) -> anyhow::Result<()> {
        let ours = DeleteParams::default()
            .preconditions(kube::api::Preconditions { uid: Some(uid.into()), resource_version: None });
        loop {
            let failure = match look("delete the event", events.delete(&self.event, &ours)).await {
                Err(error) if is_gone(&error) => {
                    tracing::info!("the event is gone again");
                    return Ok(());
                }
                Err(error) => format!("{error:#}"),
                Ok(_) => "the operator is still cleaning up".to_owned(),
            };
            ensure!(Instant::now() < until, "the event {} is not gone in time: {failure}", self.event);
            sleep(POLL).await;
        }
    }
}

/// Whether the API server says that there is no such event (any more).
fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404 || status.code == 409)
}

/// One call to the API server, which may not take for ever.
async fn look<T>(operation: &'static str, call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(ATTEMPT, call).await {
        Ok(result) => result.with_context(|| format!("cannot {operation}")),
        Err(_) => bail!("cannot {operation}: the API server does not answer"),
    }
}

fn conditions(event: &CouponEvent) -> String {
    let told = |condition: &Condition| {
        let Condition { type_, status, reason, message, .. } = condition;
        format!("{type_}={status} ({reason}: {message})")
    };
    let conditions = event.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if conditions.is_empty() {
        return "no operator has looked at it".to_owned();
    }
    conditions.iter().map(told).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_in_vain_hears_how_it_is_instead() {
        let event: CouponEvent = serde_json::from_value(json!({
            "metadata": {"name": "e"},
            "spec": {"policyName": "p", "totalCount": 1, "discounts": []},
            "status": {"conditions": [{"type": "Open", "status": "False", "reason": "Loading", "message": "0 of 1",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        assert_eq!(conditions(&event), "Open=False (Loading: 0 of 1)");
        assert_eq!(conditions(&CouponEvent { status: None, ..event }), "no operator has looked at it");
    }
}
