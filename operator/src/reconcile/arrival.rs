//! Waiting until what was given before Redis changed is in Postgres.
//!
//! Redis may have forgotten what issuers and the topic still have. Who was told that Kafka has their coupon was told within the
//! issuers' `--answer-timeout-seconds`; so that long after the change nobody is told any more, and what they were told of is before
//! the end that the topic has then. When the consumers are past that end, Postgres knows.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::Uuid;
use couponry_kafka::{Lag, TopicEnd};
use couponry_redis::Observed;

/// How long each answer of Kafka may take.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether what was given before Redis changed is in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Not as far as we know. What is waited for, in words.
    Awaited(String),
    /// It is.
    Complete,
}

/// What we wait for, for each event whose Redis has changed. An operator that starts again waits again.
pub(crate) struct Arrivals {
    lag: Lag,
    settle: Duration,
    waiting: Mutex<HashMap<Uuid, Waiting>>,
}

#[derive(Clone)]
struct Waiting {
    /// The Redis, who began to fill it last, and how far they are: while somebody gets on, nobody takes over from them.
    redis: (String, String, u64),
    /// Since when Kafka has answered and nothing was in the outbox.
    since: Instant,
    /// Where the topic ended when that was long enough.
    end: Option<TopicEnd>,
}

impl Arrivals {
    /// `settle`: for how long issuers may still send what Redis does not know of.
    pub(crate) fn new(lag: Lag, settle: Duration) -> Self {
        Self { lag, settle, waiting: Mutex::default() }
    }

    /// Whether everything is in Postgres that was given before Redis became what was seen now.
    pub(crate) async fn look(&self, own: &Observed) -> Arrival {
        let redis = (own.server.clone(), own.token.clone(), own.loaded);
        let known = self.lock().get(&own.uid).filter(|waiting| waiting.redis == redis).cloned();
        let mut waiting = known.unwrap_or(Waiting { redis, since: Instant::now(), end: None });
        let arrival = self.wait(own, &mut waiting).await;
        self.lock().insert(own.uid, waiting);
        arrival
    }

    async fn wait(&self, own: &Observed, waiting: &mut Waiting) -> Arrival {
        if own.outbox > 0 {
            (waiting.since, waiting.end) = (Instant::now(), None);
            return Arrival::Awaited(format!("waiting for {} batches to reach Kafka", own.outbox));
        }
        if waiting.end.is_none() {
            let end = match self.lag.end(KAFKA_TIMEOUT).await {
                Ok(end) => end,
                Err(error) => {
                    // What issuers have in their hands stays there as well.
                    waiting.since = Instant::now();
                    return Arrival::Awaited(format!("waiting for Kafka: {error}"));
                }
            };
            if waiting.since.elapsed() < self.settle {
                return Arrival::Awaited("waiting for what the issuers still have in their hands".to_owned());
            }
            waiting.end = Some(end);
        }
        let Some(end) = &waiting.end else { unreachable!("it is known by now") };
        match self.lag.before(end, KAFKA_TIMEOUT).await {
            Ok(0) => Arrival::Complete,
            Ok(behind) => Arrival::Awaited(format!("waiting for the consumers to record {behind} messages")),
            Err(error) => Arrival::Awaited(format!("waiting for Kafka: {error}")),
        }
    }

    /// There is nothing to wait for, or all of it is to be waited for again.
    pub(crate) fn forget(&self, uid: Uuid) {
        self.lock().remove(&uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
