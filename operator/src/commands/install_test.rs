//! `couponry-operator install-test`: an end-to-end test with one coupon.
//!
//! It uses only the API server and the issuer's HTTP API, so it tests what authors of events and users depend on.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use couponry_crds::{CouponEvent, status::condition};
use couponry_runtime::telemetry::TelemetryArgs;
use couponry_settings::{ExposeSecret as _, SecretString, parse_secret};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName},
};
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::kubernetes;

/// Interval between polls of a state.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Far more than any response of the issuer, in bytes.
const MAX_RESPONSE_LEN: usize = 64 * 1024;
/// Time for the deletion of the event when the timeout has passed already.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct InstallTest {
    /// Namespace of the installation. Default: the namespace of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Name of the event to create. An existing event is deleted only if an earlier run created it; otherwise the test
    /// fails.
    #[arg(long, env = "INSTALL_TEST_EVENT", default_value = "couponry-install-test", value_name = "NAME")]
    event: String,
    /// URL of the issuer: `http://host:port`.
    #[arg(long, env, value_name = "URL")]
    issuer_url: Uri,
    /// User to issue the coupon to. Ignored with --bearer-token.
    #[arg(long, env = "INSTALL_TEST_USER", default_value = "couponry-install-test", value_name = "USER")]
    user: String,
    /// Header for the user, if the issuer runs with `--user-identity header:NAME`.
    #[arg(long, env, value_name = "NAME")]
    user_header: Option<HeaderName>,
    /// Token, if the issuer runs with `--user-identity jwt`. `@PATH` reads it from a file.
    #[arg(long, env, value_name = "TOKEN", value_parser = parse_secret, hide_env_values = true)]
    bearer_token: Option<SecretString>,
    /// Timeout of the complete test.
    #[arg(long, env = "INSTALL_TEST_TIMEOUT_SECONDS", default_value_t = 120, value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..))]
    timeout_seconds: u32,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Marks an event as created by this command, so that a later run may delete it.
const LABEL: &str = "couponry.dev/install-test";

impl InstallTest {
    /// Runs the test. The event is deleted even if the test fails.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let _telemetry = self.telemetry.init("couponry-operator")?;
        let (client, namespace) = kubernetes::connect(self.namespace.as_deref()).await?;
        let events = Api::namespaced(client, &namespace);
        let deadline = Instant::now() + Duration::from_secs(self.timeout_seconds.into());

        self.delete_leftover(&events, deadline).await?;
        let uid = self.create(&events).await?;
        let tested = self.issue_and_wait(&events, deadline).await;
        let deleted = self.delete(&events, &uid, deadline.max(Instant::now() + CLEANUP_TIMEOUT)).await;
        tested.and(deleted)
    }

    /// Deletes the event of an interrupted run.
    async fn delete_leftover(&self, events: &Api<CouponEvent>, deadline: Instant) -> anyhow::Result<()> {
        let Some(leftover) = call("read the event", events.get_opt(&self.event)).await? else { return Ok(()) };
        ensure!(
            leftover.labels().contains_key(LABEL),
            "the event {} exists and was not created by this command: use another --event",
            self.event
        );
        self.delete(events, &leftover.uid().unwrap_or_default(), deadline).await
    }

    /// Returns the uid of the event.
    async fn create(&self, events: &Api<CouponEvent>) -> anyhow::Result<String> {
        let event = serde_json::from_value(json!({
            "apiVersion": "couponry.dev/v1alpha1",
            "kind": "CouponEvent",
            "metadata": {"name": self.event, "labels": {LABEL: "true"}},
            "spec": {
                "policyName": "End-to-end test of the installation",
                "totalCount": 1,
                "discounts": [{"type": "Percent", "value": 1, "allocationPercentage": 100}],
                "code": {"prefix": "TEST"},
                "deletionPolicy": "Delete",
            },
        }))
        .context("cannot build the event")?;
        let created = call("create the event", events.create(&PostParams::default(), &event)).await?;
        tracing::info!(event = self.event, "event with one coupon created");
        created.uid().context("the API server returned no uid")
    }

    async fn issue_and_wait(&self, events: &Api<CouponEvent>, deadline: Instant) -> anyhow::Result<()> {
        self.wait(events, deadline, "open", |event| {
            event
                .status
                .as_ref()
                .and_then(|status| status.condition(condition::OPEN))
                .is_some_and(|it| it.status == "True")
        })
        .await?;
        tracing::info!("event open");

        let first = self.issue(deadline).await?;
        ensure!(first["success"] == true, "the issuer did not issue a coupon: {first}");
        let coupon = first["couponKey"].as_str().context("the response of the issuer has no couponKey")?;
        tracing::info!("coupon issued");
        let again = self.issue(deadline).await?;
        ensure!(
            again["reason"] == "DUPLICATE" && again["couponKey"] == coupon,
            "a repeated request must return DUPLICATE with the same coupon, but returned {again}"
        );

        self.wait(events, deadline, "recorded in Postgres", |event| {
            event.status.as_ref().and_then(|status| status.recorded) == Some(1)
        })
        .await?;
        tracing::info!("coupon recorded in Postgres");
        Ok(())
    }

    /// Waits until `is_reached`. The error contains the current conditions.
    async fn wait(
        &self,
        events: &Api<CouponEvent>,
        deadline: Instant,
        state: &str,
        is_reached: impl Fn(&CouponEvent) -> bool,
    ) -> anyhow::Result<()> {
        loop {
            let current = match call("read the event", events.get(&self.event)).await {
                Ok(event) if is_reached(&event) => return Ok(()),
                Ok(event) => conditions(&event),
                Err(error) => format!("{error:#}"),
            };
            ensure!(Instant::now() < deadline, "the event was not {state} in time: {current}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Requests a coupon until the response is conclusive.
    async fn issue(&self, deadline: Instant) -> anyhow::Result<Value> {
        loop {
            let response = timeout_at(deadline.min(Instant::now() + REQUEST_TIMEOUT), self.issue_once()).await;
            let failure = match response {
                Ok(Ok((StatusCode::OK, body))) => {
                    return serde_json::from_slice(&body).context("the response of the issuer is not valid JSON");
                }
                Ok(Ok((status, body))) => {
                    let response = format!("{status}: {}", String::from_utf8_lossy(&body));
                    // 404: the issuer may not know the event yet, or its Service has no endpoints.
                    if status.is_client_error()
                        && !matches!(status, StatusCode::NOT_FOUND | StatusCode::REQUEST_TIMEOUT)
                    {
                        bail!("the issuer rejected the request: {response}");
                    }
                    response
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no response in time".to_owned(),
            };
            ensure!(
                Instant::now() < deadline,
                "the issuer at {} did not issue a coupon in time: {failure}",
                self.issuer_url
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn issue_once(&self) -> anyhow::Result<(StatusCode, Bytes)> {
        let url = format!("{}/coupons/issue", self.issuer_url.to_string().trim_end_matches('/'));
        let mut request = Request::post(url).header(CONTENT_TYPE, "application/json");
        let mut body = json!({"eventId": self.event});
        if let Some(token) = &self.bearer_token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        } else if let Some(header) = &self.user_header {
            request = request.header(header, &self.user);
        } else {
            body["userId"] = self.user.as_str().into();
        }
        let request =
            request.body(Full::new(Bytes::from(body.to_string()))).context("cannot build the request to the issuer")?;
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        let response = http.request(request).await.context("cannot reach the issuer")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE_LEN).collect().await;
        Ok((
            status,
            body.map_err(|error| anyhow::anyhow!("cannot read the response of the issuer: {error}"))?.to_bytes(),
        ))
    }

    /// Deletes the event with this uid and waits until it no longer exists.
    async fn delete(&self, events: &Api<CouponEvent>, uid: &str, deadline: Instant) -> anyhow::Result<()> {
        let params = DeleteParams::default()
            .preconditions(kube::api::Preconditions { uid: Some(uid.into()), resource_version: None });
        loop {
            let failure = match call("delete the event", events.delete(&self.event, &params)).await {
                Err(error) if is_absent(&error) => {
                    tracing::info!("event deleted");
                    return Ok(());
                }
                Err(error) => format!("{error:#}"),
                Ok(_) => "the operator is still cleaning up".to_owned(),
            };
            ensure!(Instant::now() < deadline, "the event {} was not deleted in time: {failure}", self.event);
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Whether no event with this name and uid exists.
fn is_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404 || status.code == 409)
}

/// Calls the API server with a timeout.
async fn call<T>(operation: &'static str, request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result.with_context(|| format!("cannot {operation}")),
        Err(_) => bail!("cannot {operation}: the API server did not respond in time"),
    }
}

fn conditions(event: &CouponEvent) -> String {
    let describe = |condition: &Condition| {
        let Condition { type_, status, reason, message, .. } = condition;
        format!("{type_}={status} ({reason}: {message})")
    };
    let conditions = event.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if conditions.is_empty() {
        return "not reconciled by any operator yet".to_owned();
    }
    conditions.iter().map(describe).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_event_are_listed_in_the_error() {
        let event: CouponEvent = serde_json::from_value(json!({
            "metadata": {"name": "e"},
            "spec": {"policyName": "p", "totalCount": 1, "discounts": []},
            "status": {"conditions": [{"type": "Open", "status": "False", "reason": "Loading", "message": "0 of 1",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        assert_eq!(conditions(&event), "Open=False (Loading: 0 of 1)");
        assert_eq!(conditions(&CouponEvent { status: None, ..event }), "not reconciled by any operator yet");
    }
}
