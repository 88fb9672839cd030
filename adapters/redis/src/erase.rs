//! Replacing erased users by their pseudonyms ([ADR 0030](../../../docs/adr/0030-voids-and-erasures.md)).

use couponry_domain::{EventName, PseudonymKey, UserId, Uuid};

use crate::{error::RedisStoreError, fenced_write::FencedWrite, redis_store::RedisStore};

/// The result of erasing a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErasedUser {
    /// The user was replaced by the pseudonym, now or before.
    Replaced,
    /// Redis has no entry of the user.
    Unknown,
    /// The entry of the user is `PENDING`. Nothing was changed.
    Pending,
}

impl RedisStore {
    /// Replaces the user by a pseudonym. From then on, [`RedisStore::issue`] returns
    /// [`IssueOutcome::Voided`](crate::IssueOutcome::Voided) for the user.
    pub async fn erase_user(
        &self,
        event: &EventName,
        uid: Uuid,
        user: &UserId,
        key: &PseudonymKey,
    ) -> Result<FencedWrite<ErasedUser>, RedisStoreError> {
        let keys = self.keys(event);
        let reply: Option<i64> = (self.scripts.erase_user)
            .key(keys.meta)
            .key(keys.issued)
            .arg(uid.to_string())
            .arg(user.as_str())
            .arg(key.pseudonym(user).as_str())
            .arg(key.as_str())
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot erase the user in Redis"))?;
        Ok(FencedWrite::from(reply.map(|reply| match reply {
            0 => ErasedUser::Unknown,
            1.. => ErasedUser::Replaced,
            _ => ErasedUser::Pending,
        })))
    }

    /// Stores the key of the pseudonyms of an event with erased users. Required after Redis has lost it, before Redis
    /// is verified.
    pub async fn set_pseudonym_key(
        &self,
        event: &EventName,
        uid: Uuid,
        key: &PseudonymKey,
    ) -> Result<FencedWrite<()>, RedisStoreError> {
        let keys = self.keys(event);
        let reply: Option<bool> = (self.scripts.set_pseudonym_key)
            .key(keys.meta)
            .arg(uid.to_string())
            .arg(key.as_str())
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot store the key of the pseudonyms in Redis"))?;
        Ok(FencedWrite::from(reply.map(|_| ())))
    }
}
