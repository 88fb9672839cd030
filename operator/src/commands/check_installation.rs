//! Checks that the stores belong to this installation.

use std::error::Error;

use couponry_audit::Stores;
use couponry_runtime::error_chain;

use crate::{commands::check_result::CheckResult, installation, kubernetes};

pub(super) async fn check_installation(stores: &Stores, namespace: Option<&str>) -> Vec<CheckResult> {
    const INSTALLATION: &str = "installation";
    vec![match find(stores, namespace).await {
        Ok(found) => CheckResult::ok(INSTALLATION, found),
        Err(error) => CheckResult::fail(INSTALLATION, error_chain(error), ""),
    }]
}

async fn find(stores: &Stores, namespace: Option<&str>) -> Result<String, Box<dyn Error + Send + Sync>> {
    let found = stores.database.installation().await?;
    if let Some(redis) = stores.redis_store.installation().await? {
        installation::require_redis(&found, redis)?;
    }
    let (client, namespace) = kubernetes::connect(namespace).await?;
    let own = installation::owner(&client, &namespace).await?;
    installation::require_owner(&found, &own)?;
    Ok(format!("{} of {own}", found.id))
}
