//! Reads the coupons of users, those of many requests in one call to Redis.

use std::sync::Arc;

use couponry_domain::{EventName, UserId};
use couponry_redis::{Lookup, MAX_BATCH, RedisStore, RedisStoreError};

use crate::{
    event_queues::{BatchProcessor, EventQueues, QueueError, Responses},
    read_failure::ReadFailure,
    recent_events::RecentEvents,
};

/// The requests that wait for Redis.
pub(crate) struct Lookups(EventQueues<Reader>);

#[derive(Clone)]
struct Reader {
    redis_store: RedisStore,
    recent_events: Arc<RecentEvents>,
}

impl Lookups {
    pub(crate) fn new(redis_store: RedisStore, recent_events: Arc<RecentEvents>, max_queued_requests: u32) -> Self {
        Self(EventQueues::new(Reader { redis_store, recent_events }, MAX_BATCH, max_queued_requests))
    }

    /// Reads the coupon of `user`.
    pub(crate) async fn get(&self, event: &EventName, user: UserId) -> Result<Lookup, ReadFailure> {
        match self.0.request(event, user).await {
            Ok(result) => result,
            Err(QueueError::Full) => Err(ReadFailure::Overloaded),
            Err(QueueError::Dropped) => Err(ReadFailure::Unavailable),
        }
    }
}

impl BatchProcessor for Reader {
    type Result = Result<Lookup, ReadFailure>;

    async fn process(&self, event: &EventName, users: Vec<UserId>, responses: Responses<Self::Result>) -> Option<bool> {
        let check = |result: Result<Lookup, RedisStoreError>| {
            let lookup = result?;
            if lookup.is_verified { Ok(lookup) } else { Err(ReadFailure::Unverified) }
        };
        let (failure, exists) = match self.redis_store.lookup_batch(event, &users).await {
            Ok(Some(lookups)) => {
                for (response, lookup) in responses.into_iter().zip(lookups) {
                    let _ = response.send(check(lookup));
                }
                return Some(true);
            }
            Ok(None) => {
                let failure = ReadFailure::of_missing(event, &self.recent_events, &self.redis_store).await;
                (failure, Some(self.recent_events.contains(event)))
            }
            Err(error) => (error.into(), None),
        };
        for response in responses {
            let _ = response.send(Err(failure));
        }
        exists
    }
}
