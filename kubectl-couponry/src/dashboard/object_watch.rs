//! Follows the objects of a list: lists them, watches their changes, and lists them again after each error.
//!
//! # Guarantees
//! - A connection without data is reported within [`WATCH_SECONDS`] + [`MARGIN`]: each watch ends after that time,
//!   and the API server sends a bookmark before its end. So the next watch also verifies the credentials.
//! - After an error the objects are listed again, so that the contact is known to be back without any change.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use http::StatusCode;
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Duration of one watch.
const WATCH_SECONDS: u32 = 5;
/// How much later than expected the API server may respond.
const MARGIN: Duration = Duration::from_secs(3);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) enum Change<K> {
    /// All objects.
    Listed(Vec<K>),
    Applied(K),
    Deleted(K),
    /// The API server has responded without a change.
    None,
}

/// Why the objects cannot be followed now.
pub(super) enum Failure {
    /// The API server has not responded in time.
    TimedOut,
    Request(kube::Error),
    /// The history of changes is too short: only a new list is necessary.
    Expired,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == StatusCode::GONE => Self::Expired,
            error => Self::Request(error),
        }
    }
}

/// Calls `report` with each change and each failure, until the end of the process.
pub(super) async fn follow<K>(api: Api<K>, selectors: &ListParams, mut report: impl FnMut(Result<Change<K>, Failure>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    loop {
        let failure = list_and_watch(&api, selectors, &mut |change| report(Ok(change))).await;
        if !matches!(failure, Failure::Expired) {
            report(Err(failure));
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// Returns at the first failure.
async fn list_and_watch<K>(api: &Api<K>, selectors: &ListParams, report: &mut impl FnMut(Change<K>)) -> Failure
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let listed = match in_time(api.list(selectors)).await {
        Ok(listed) => listed,
        Err(failure) => return failure,
    };
    let mut version = listed.metadata.resource_version.unwrap_or_default();
    report(Change::Listed(listed.items));
    let params = WatchParams {
        label_selector: selectors.label_selector.clone(),
        field_selector: selectors.field_selector.clone(),
        ..WatchParams::default().timeout(WATCH_SECONDS)
    };
    loop {
        // A server that ends each watch at once must not be asked in a loop.
        let not_before = Instant::now() + RETRY_INTERVAL;
        if let Err(failure) = watch(api, &params, &mut version, report).await {
            return failure;
        }
        sleep_until(not_before).await;
    }
}

/// Reports the changes of one watch, until its regular end.
async fn watch<K>(
    api: &Api<K>,
    params: &WatchParams,
    version: &mut String,
    report: &mut impl FnMut(Change<K>),
) -> Result<(), Failure>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut changes = in_time(api.watch(params, version)).await?.boxed();
    report(Change::None);
    let limit = Duration::from_secs(WATCH_SECONDS.into()) + MARGIN;
    while let Some(change) = timeout(limit, changes.try_next()).await.map_err(|_| Failure::TimedOut)?? {
        let (version_now, change) = match change {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                (object.resource_version(), Change::Applied(object))
            }
            WatchEvent::Deleted(object) => (object.resource_version(), Change::Deleted(object)),
            WatchEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), Change::None),
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        };
        if let Some(version_now) = version_now {
            *version = version_now;
        }
        report(change);
    }
    Ok(())
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(Duration::from_secs(WATCH_SECONDS.into()), request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::TimedOut),
    }
}
