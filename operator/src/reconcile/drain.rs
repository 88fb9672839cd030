//! Waits until the records that were in flight at a restart or failover of Redis are recorded in Postgres.
//!
//! After a restart or failover, Redis may have lost issuances that are still in the memory of an issuer or in the
//! topic. An issuer returns a coupon at most `--response-timeout-seconds` after the request. The grace period must be
//! at least that long. When it has passed since Kafka was available and the outbox empty, no more such coupons are
//! returned, and with `acknowledge: Kafka` the records of all returned ones lie before the current end of the topic.
//! When the consumer group has passed that end, they are recorded. Records in an outbox that Redis has kept are sent by
//! the sweepers of the issuers: the drain waits until the outbox is empty.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::Uuid;
use couponry_kafka::{LagClient, TopicEnd};
use couponry_redis::RedisEvent;
use couponry_runtime::error_chain;

/// Timeout of each Kafka request.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DrainState {
    /// The cause, as a clause such as `waiting for Kafka`.
    Waiting(String),
    Complete,
}

/// The drains of all events whose Redis is unverified. After a restart of the operator each drain starts anew.
pub(crate) struct DrainTracker {
    lag: LagClient,
    grace_period: Duration,
    drains: Mutex<HashMap<Uuid, Drain>>,
}

#[derive(Clone)]
struct Drain {
    /// Replication id, recovery id and load progress. While another operator makes progress with a recovery, this one
    /// keeps waiting.
    redis: (String, String, u64),
    /// Since when Kafka has been available and the outbox empty.
    since: Instant,
    /// The end offsets of the topic, read after the grace period.
    end: Option<TopicEnd>,
    /// How often issuances were added to the outbox again.
    resend_rounds: u64,
}

impl DrainTracker {
    /// `grace_period`: for how long issuers may still send records that Redis has lost.
    pub(crate) fn new(lag: LagClient, grace_period: Duration) -> Self {
        Self { lag, grace_period, drains: Mutex::default() }
    }

    /// Continues or starts the drain of an event whose Redis is unverified.
    pub(crate) async fn poll(&self, in_redis: &RedisEvent) -> DrainState {
        let redis = (in_redis.replication_id.clone(), in_redis.recovery_id.clone(), in_redis.loaded);
        let current = self.lock().get(&in_redis.uid).filter(|drain| drain.redis == redis).cloned();
        let mut drain = current.unwrap_or(Drain { redis, since: Instant::now(), end: None, resend_rounds: 0 });
        let state = self.advance(in_redis, &mut drain).await;
        self.lock().insert(in_redis.uid, drain);
        state
    }

    async fn advance(&self, in_redis: &RedisEvent, drain: &mut Drain) -> DrainState {
        if in_redis.outbox > 0 {
            (drain.since, drain.end) = (Instant::now(), None);
            return DrainState::Waiting(format!("waiting for {} outbox entries to be sent to Kafka", in_redis.outbox));
        }
        let end = match &drain.end {
            Some(end) => end,
            None => match self.lag.topic_end(KAFKA_TIMEOUT).await {
                Ok(end) => {
                    if drain.since.elapsed() < self.grace_period {
                        return DrainState::Waiting("waiting for issuers to send their records".to_owned());
                    }
                    drain.end.insert(end)
                }
                Err(error) => {
                    // The issuers cannot send their records either.
                    drain.since = Instant::now();
                    return DrainState::Waiting(format!("waiting for Kafka ({})", error_chain(&error)));
                }
            },
        };
        match self.lag.measure_up_to(end, KAFKA_TIMEOUT).await {
            Ok(0) => DrainState::Complete,
            Ok(lag) => DrainState::Waiting(format!("waiting for the consumers to record {lag} messages")),
            Err(error) => DrainState::Waiting(format!("waiting for Kafka ({})", error_chain(&error))),
        }
    }

    /// How often [`DrainTracker::count_resend`] was called for the current drain.
    pub(crate) fn resend_rounds(&self, uid: Uuid) -> u64 {
        self.lock().get(&uid).map_or(0, |drain| drain.resend_rounds)
    }

    /// Issuances were added to the outbox again: waits for them, too.
    pub(crate) fn count_resend(&self, uid: Uuid) {
        if let Some(drain) = self.lock().get_mut(&uid) {
            (drain.since, drain.end) = (Instant::now(), None);
            drain.resend_rounds += 1;
        }
    }

    /// Ends the drain: it is complete or not needed.
    pub(crate) fn reset(&self, uid: Uuid) {
        self.lock().remove(&uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Drain>> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
