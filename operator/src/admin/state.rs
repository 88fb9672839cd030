//! Shared state of the routes, and calls to the API server on behalf of a request.

use std::time::Duration;

use couponry_crds::CouponEvent;
use couponry_runtime::{Problem, error_chain};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::Status,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time,
};

const API_SERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that are handled concurrently: each calls the API server, even for an unknown caller.
const CONCURRENCY: usize = 16;

pub(super) struct AdminState {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) events: Api<DynamicObject>,
    slots: Semaphore,
}

impl AdminState {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        let kind = ApiResource::erase::<CouponEvent>(&());
        Self {
            events: Api::namespaced_with(client.clone(), namespace, &kind),
            namespace: namespace.to_owned(),
            client,
            slots: Semaphore::new(CONCURRENCY),
        }
    }

    /// Must be held while calling the API server.
    pub(super) fn acquire_slot(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.slots.try_acquire().map_err(|_| Problem::unavailable("too many concurrent requests"))
    }
}

/// Why a call to the API server failed.
pub(super) enum CallError {
    Rejected(Box<Status>),
    /// No response was received, so the call may have taken effect.
    NoResponse(String),
}

pub(super) async fn call<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match time::timeout(API_SERVER_TIMEOUT, request).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(kube::Error::Api(status))) => Err(CallError::Rejected(status)),
        Ok(Err(error)) => Err(CallError::NoResponse(error_chain(&error))),
        Err(_) => Err(CallError::NoResponse(format!("no response within {API_SERVER_TIMEOUT:?}"))),
    }
}

impl CallError {
    /// The response to a caller who did not cause the error. The cause is only logged.
    pub(super) fn unavailable(&self, operation: &'static str) -> Problem {
        let error = match self {
            Self::Rejected(status) => &status.message,
            Self::NoResponse(error) => error,
        };
        tracing::warn!(operation, error, "call to the API server failed");
        Problem::unavailable("the Kubernetes API server is unavailable; see the operator's log")
    }
}
