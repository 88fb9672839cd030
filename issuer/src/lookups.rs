//! Reads the coupons of users. As for issuing, the requests for an event that arrive during a call to Redis are
//! collected for the next call.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use couponry_domain::{EventName, UserId};
use couponry_redis::{Lookup, MAX_BATCH, RedisStore, RedisStoreError};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{read_failure::ReadFailure, recent_events::RecentEvents};

type LookupResult = Result<Lookup, ReadFailure>;

struct Request {
    user: UserId,
    response: oneshot::Sender<LookupResult>,
}

/// The requests that wait for Redis.
#[derive(Clone)]
pub(crate) struct Lookups {
    redis_store: RedisStore,
    recent_events: Arc<RecentEvents>,
    /// The runtime that calls Redis. On that of the requests, each call would wait behind all requests.
    runtime: Handle,
    /// An event is a key while a task processes its requests.
    waiting: Arc<Mutex<HashMap<EventName, Vec<Request>>>>,
    max_queued_requests: usize,
}

impl Lookups {
    pub(crate) fn new(redis_store: RedisStore, recent_events: Arc<RecentEvents>, max_queued_requests: u32) -> Self {
        let max_queued_requests = usize::try_from(max_queued_requests).unwrap_or(usize::MAX);
        Self { redis_store, recent_events, runtime: Handle::current(), waiting: Arc::default(), max_queued_requests }
    }

    /// Reads the coupon of `user`.
    pub(crate) async fn get(&self, event: &EventName, user: UserId) -> LookupResult {
        let (response, result) = oneshot::channel();
        self.enqueue(event, Request { user, response })?;
        result.await.unwrap_or(Err(ReadFailure::Unavailable))
    }

    fn enqueue(&self, event: &EventName, request: Request) -> Result<(), ReadFailure> {
        let mut waiting = self.waiting();
        match waiting.get_mut(event) {
            Some(requests) if requests.len() >= self.max_queued_requests => return Err(ReadFailure::Overloaded),
            Some(requests) => requests.push(request),
            None => {
                waiting.insert(event.clone(), vec![request]);
                self.runtime.spawn(self.clone().run(event.clone()));
            }
        }
        Ok(())
    }

    /// Processes the requests for the event until none is left.
    async fn run(self, event: EventName) {
        while let Some(batch) = self.next_batch(&event) {
            let (users, responses): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|request| (request.user, request.response)).unzip();
            let results = self.read(&event, &users).await;
            for (response, result) in responses.into_iter().zip(results) {
                let _ = response.send(result);
            }
        }
    }

    /// Takes the next requests. None: there are none, and the next request starts another task.
    fn next_batch(&self, event: &EventName) -> Option<Vec<Request>> {
        let mut waiting = self.waiting();
        let requests = waiting.get_mut(event)?;
        // A client that has disconnected does not need a result.
        requests.retain(|request| !request.response.is_closed());
        if requests.is_empty() {
            waiting.remove(event);
            return None;
        }
        let rest = requests.split_off(requests.len().min(MAX_BATCH));
        Some(mem::replace(requests, rest))
    }

    async fn read(&self, event: &EventName, users: &[UserId]) -> Vec<LookupResult> {
        let check = |result: Result<Lookup, RedisStoreError>| {
            let lookup = result?;
            if lookup.is_verified { Ok(lookup) } else { Err(ReadFailure::Unverified) }
        };
        let failure = match self.redis_store.lookup_batch(event, users).await {
            Ok(Some(lookups)) => return lookups.into_iter().map(check).collect(),
            Ok(None) => ReadFailure::of_missing(event, &self.recent_events, &self.redis_store).await,
            Err(error) => error.into(),
        };
        users.iter().map(|_| Err(failure)).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<EventName, Vec<Request>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
