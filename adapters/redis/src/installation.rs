//! The installation that the keys belong to.

use couponry_domain::Uuid;

use crate::{
    error::{RedisStoreError, invalid_value},
    key,
    redis_store::RedisStore,
};

impl RedisStore {
    /// The id of the installation that the keys with this prefix belong to. None: no operator has claimed them since
    /// Redis was empty.
    pub async fn installation(&self) -> Result<Option<Uuid>, RedisStoreError> {
        const OPERATION: &str = "cannot read the installation from Redis";
        let id: Option<String> = redis::cmd("GET")
            .arg(key::installation(self.prefix()))
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        id.map(|id| id.parse().map_err(|_| invalid_value(OPERATION, &id))).transpose()
    }

    /// Claims the keys with this prefix for the installation, unless another one has claimed them. Returns the
    /// installation that they belong to.
    pub async fn claim_installation(&self, id: Uuid) -> Result<Uuid, RedisStoreError> {
        const OPERATION: &str = "cannot claim the keys in Redis";
        let existing: Option<String> = redis::cmd("SET")
            .arg(key::installation(self.prefix()))
            .arg(id.to_string())
            .arg("NX")
            .arg("GET")
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        existing.map_or(Ok(id), |existing| existing.parse().map_err(|_| invalid_value(OPERATION, &existing)))
    }
}
