//! Watches whether issued coupons are recorded, end to end.
//!
//! A coupon can be issued without a record in the outbox, in Kafka or in Postgres: a script failed half-way, an outbox
//! entry was deleted, or Postgres has lost rows. Each observation compares counts:
//!
//! - The *age* of the oldest unrecorded issuance is at least the time since the first observation at which more coupons
//!   were issued than are recorded now.
//! - *Stranded* issuances: once the outbox was empty, the number of issued coupons and then the end of the topic are
//!   noted. When the consumers have passed that end, and fewer coupons are recorded than were issued, no record of the
//!   difference is in flight.
//!
//! # Guarantees
//! Stranded issuances are never reported while their records are in flight. Only the monotonic clock of this process is
//! used.
//!
//! # Caveats
//! Only counts are compared. While issuing continues, issuances recorded after the probe hide stranded ones, so these
//! may be found only when issuing slows down.
//!
//! After a restart of the operator, ages start anew.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::Uuid;
use couponry_kafka::{LagClient, TopicEnd};
use couponry_redis::RedisEvent;

/// Timeout of each Kafka request.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(3);
/// From this age on, the status reports that recording is stalled. The alert uses the metric.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(30);
/// The message of the condition `Recorded` then. Without the age, which would change with every observation.
pub(super) const STALLED_MESSAGE: &str = "Issued coupons have not been recorded in Postgres for more than 30 seconds. \
     Check the consumers, Kafka and Postgres. If no record of an issuance is in flight, the operator sends or \
     records it again.";
/// From this age on, stranded issuances are looked for; until then nothing is requested from Kafka. After an attempt to
/// record them, the delay before the next one starts with this value.
const FIRST_PROBE_AFTER: Duration = Duration::from_secs(5);
/// The longest delay before stranded issuances are looked for again, if recording them has failed.
const MAX_DELAY: Duration = Duration::from_mins(5);
/// The observations that are kept of an event. If there are more, every second one is dropped.
const MAX_SAMPLES: usize = 64;

/// Whether issued coupons of an event are being recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordingState {
    /// A lower bound of the age of the oldest unrecorded issuance.
    pub(super) oldest: Duration,
    /// How many issued coupons are not recorded although no record of them is in flight.
    pub(super) stranded: u64,
}

impl RecordingState {
    pub(super) fn is_stalled(self) -> bool {
        self.oldest >= STALLED_AFTER
    }
}

/// The events with unrecorded issuances.
pub(crate) struct RecordingTracker {
    lag: LagClient,
    events: Mutex<HashMap<Uuid, Recording>>,
}

#[derive(Clone, Default)]
struct Recording {
    /// Times and numbers of issued coupons, both ascending, of which not all are recorded.
    samples: VecDeque<(Instant, u64)>,
    probe: Option<Probe>,
    /// How often stranded issuances were recorded, or sent, since the last time at which everything was recorded.
    attempts: u32,
    /// When they may be looked for again.
    next_probe: Option<Instant>,
}

/// The state at an observation with an empty outbox.
#[derive(Clone)]
struct Probe {
    issued: u64,
    cancelled: u64,
    /// The end of the topic afterwards.
    end: TopicEnd,
    /// Whether the consumers have passed that end.
    is_consumed: bool,
}

impl RecordingTracker {
    pub(crate) fn new(lag: LagClient) -> Self {
        Self { lag, events: Mutex::default() }
    }

    /// Adds an observation. `recorded` was read before `in_redis`.
    pub(super) async fn poll(&self, in_redis: &RedisEvent, recorded: u64) -> RecordingState {
        if !in_redis.is_verified || in_redis.retired.is_some() || recorded >= in_redis.issued {
            self.forget(in_redis.uid);
            return RecordingState::default();
        }
        let mut recording = self.lock().get(&in_redis.uid).cloned().unwrap_or_default();
        let now = Instant::now();
        recording.add_sample(now, in_redis.issued, recorded);
        let oldest = recording.samples.front().map_or(Duration::ZERO, |(at, _)| now - *at);
        let stranded = recording.stranded(in_redis, recorded);
        if stranded == 0 && oldest >= FIRST_PROBE_AFTER {
            self.advance(&mut recording, in_redis, now).await;
        }
        self.lock().insert(in_redis.uid, recording);
        RecordingState { oldest, stranded }
    }

    async fn advance(&self, recording: &mut Recording, in_redis: &RedisEvent, now: Instant) {
        match &mut recording.probe {
            None if in_redis.outbox == 0 && recording.next_probe.is_none_or(|at| at <= now) => {
                // Without Kafka nothing is known about records in flight.
                if let Ok(end) = self.lag.topic_end(KAFKA_TIMEOUT).await {
                    let RedisEvent { issued, cancelled, .. } = *in_redis;
                    recording.probe = Some(Probe { issued, cancelled, end, is_consumed: false });
                }
            }
            Some(probe) if !probe.is_consumed => {
                let lag = self.lag.measure_up_to(&probe.end, KAFKA_TIMEOUT).await;
                probe.is_consumed = matches!(lag, Ok(0));
            }
            _ => {}
        }
    }

    /// Stranded issuances are about to be recorded, or sent. They are looked for again after a delay that doubles each
    /// time. Returns how often this was done since the last time at which everything was recorded.
    pub(super) fn note_attempt(&self, uid: Uuid) -> u32 {
        let mut all = self.lock();
        let recording = all.entry(uid).or_default();
        recording.probe = None;
        let delay = FIRST_PROBE_AFTER.saturating_mul(1 << recording.attempts.min(10)).min(MAX_DELAY);
        recording.next_probe = Some(Instant::now() + delay);
        recording.attempts += 1;
        recording.attempts - 1
    }

    pub(crate) fn forget(&self, uid: Uuid) {
        self.lock().remove(&uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Recording>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    fn add_sample(&mut self, now: Instant, issued: u64, recorded: u64) {
        while self.samples.front().is_some_and(|(_, issued)| *issued <= recorded) {
            self.samples.pop_front();
        }
        // A cancellation reduces the number.
        while self.samples.back().is_some_and(|(_, earlier)| *earlier > issued) {
            let (at, _) = self.samples.pop_back().unwrap_or((now, issued));
            if self.samples.back().is_none_or(|(_, earlier)| *earlier < issued) {
                self.samples.push_back((at, issued));
                break;
            }
        }
        if self.samples.back().is_none_or(|(_, earlier)| *earlier < issued) {
            self.samples.push_back((now, issued));
        }
        if self.samples.len() > MAX_SAMPLES {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    /// `recorded` was read after the probe was consumed, if it was.
    fn stranded(&mut self, in_redis: &RedisEvent, recorded: u64) -> u64 {
        let Some(probe) = &self.probe else { return 0 };
        let expected =
            probe.issued.saturating_sub(in_redis.cancelled.saturating_sub(probe.cancelled)).min(in_redis.issued);
        let missing = expected.saturating_sub(recorded);
        if missing == 0 {
            self.probe = None;
            return 0;
        }
        if probe.is_consumed { missing } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(recording: &mut Recording, start: Instant, second: u64, issued: u64, recorded: u64) -> Option<u64> {
        recording.add_sample(start + Duration::from_secs(second), issued, recorded);
        recording.samples.front().map(|(at, _)| (*at - start).as_secs())
    }

    #[test]
    fn oldest_sample_is_the_first_with_unrecorded_issuances() {
        let (mut recording, start) = (Recording::default(), Instant::now());
        for (second, issued, recorded, oldest) in [
            (0, 10, 5, 0),
            (2, 20, 9, 0),
            (4, 30, 10, 2),
            (6, 30, 19, 2),
            (8, 40, 30, 8),
            (9, 38, 30, 8),
            (9, 30, 29, 8),
        ] {
            assert_eq!(sample(&mut recording, start, second, issued, recorded), Some(oldest), "second {second}");
        }
    }

    #[test]
    fn number_of_samples_is_bounded_and_the_oldest_is_kept() {
        let (mut recording, start) = (Recording::default(), Instant::now());
        for second in 0..10_000 {
            assert_eq!(sample(&mut recording, start, second, second + 2, 1), Some(0));
        }
        assert!(recording.samples.len() <= MAX_SAMPLES);
    }
}
