//! Changes of an event by the buttons of the page, as the commands of the plugin make them.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tokio::time::timeout;

use crate::{
    change::{self, Total},
    cluster::Cluster,
};

/// After this time without a response, it is unknown whether the change was applied.
const TIME_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Pause,
    Resume,
    Close,
    Topup,
}

/// What the user has confirmed.
#[derive(Debug, Deserialize)]
pub(super) struct Confirmation {
    /// The event's name, as the user has typed it.
    name: String,
    /// The UID of the event that was shown.
    uid: String,
    /// The number of coupons that was shown.
    total: u64,
    /// Number of coupons to add to those that were shown. So a repeated request does not add them again.
    add: Option<u64>,
}

/// Applies a change to the event that the user has seen.
pub(super) async fn apply(
    cluster: &Cluster,
    name: &str,
    action: Action,
    confirmation: &Confirmation,
) -> anyhow::Result<()> {
    ensure!(confirmation.name == name, "not confirmed: type {name}");
    let uid = Some(confirmation.uid.as_str());
    let change = async {
        match action {
            Action::Pause => change::pause(cluster, name, uid).await,
            Action::Resume => change::resume(cluster, name, uid).await,
            Action::Close => change::close(cluster, name, uid).await,
            Action::Topup => {
                let add = confirmation.add.filter(|add| *add > 0).context("enter the number of coupons to add")?;
                let from = confirmation.total;
                let to = from.checked_add(add).context("the new number of coupons is too large")?;
                change::topup(cluster, name, Total::Raise { from, to }, uid).await
            }
        }
    };
    match timeout(TIME_LIMIT, change).await {
        Ok(changed) => changed.map(drop),
        Err(_) => bail!(
            "the API server has not confirmed the change within {} s: it may have been applied. Compare the event before \
             you repeat it",
            TIME_LIMIT.as_secs()
        ),
    }
}
