//! How often an event is reconciled, and how long one reconciliation may take.

use std::time::Duration;

use couponry_crds::status::reason;
use couponry_redis::RedisEvent;

use crate::reconcile::{observe::ObservedState, state::state};

/// While coupons are issued or recorded, so that the counts in the status are recent.
pub(super) const ACTIVE_INTERVAL: Duration = Duration::from_secs(2);
/// While nothing is expected to change.
pub(super) const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// For finished events, except sold-out ones that may be topped up until their end. A restart of Redis and a loss of
/// events in Redis are noticed earlier.
pub(super) const FINISHED_INTERVAL: Duration = Duration::from_mins(5);
/// While the start of an event is more than [`DISTANT`] away. A restart of Redis, a loss of events in Redis, and a
/// change of its clock are noticed earlier.
pub(super) const SCHEDULED_INTERVAL: Duration = Duration::from_mins(5);
/// How far in the future a start is distant, in milliseconds.
const DISTANT: i64 = 10 * 60 * 1000;
/// While codes have to be imported.
pub(super) const AWAITING_CODES_INTERVAL: Duration = Duration::from_secs(5);
/// While issuing is suspended because Redis is unverified.
pub(super) const UNVERIFIED_INTERVAL: Duration = Duration::from_millis(500);
/// While the deletion of an event waits for issued coupons to be recorded.
pub(super) const DELETION_INTERVAL: Duration = Duration::from_millis(500);
/// While the deletion of an event waits for uses of its coupons to be sent. Each time, all entries of the outbox are
/// read, which grows while Kafka is unavailable: 0.1 s for a million. An index would slow down each use.
pub(super) const UNSENT_USES_INTERVAL: Duration = Duration::from_secs(5);
/// After a conflict with another writer of the object.
pub(crate) const CONFLICT_RETRY: Duration = Duration::from_millis(100);
/// A longer reconciliation ends after its current step or chunk, so that a changed manifest takes effect.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(2);
/// How often a long step reads whether the manifest has changed.
pub(super) const MANIFEST_INTERVAL: Duration = Duration::from_millis(500);
/// The delay before the next observation is at least this many times the duration of the last one, up to
/// [`MAX_DELAY_AFTER_OBSERVATION`].
const DELAY_PER_OBSERVATION: u32 = 20;
/// A server that does not respond also makes an observation long; the status must not be old for that reason.
const MAX_DELAY_AFTER_OBSERVATION: Duration = Duration::from_secs(20);

/// How often to reconcile an event whose stores match its manifest.
pub(super) fn interval(in_redis: &RedisEvent, recorded: u64) -> Duration {
    let is_recorded_and_marked = is_recorded_and_marked(in_redis, recorded);
    match state(Some(in_redis)) {
        _ if !is_recorded_and_marked => ACTIVE_INTERVAL,
        reason::OPEN => ACTIVE_INTERVAL,
        reason::ENDED | reason::CLOSED => FINISHED_INTERVAL,
        reason::SOLD_OUT if in_redis.window.end.is_none() => FINISHED_INTERVAL,
        reason::SCHEDULED if in_redis.window.start.is_some_and(|start| start - in_redis.now > DISTANT) => {
            SCHEDULED_INTERVAL
        }
        _ => IDLE_INTERVAL,
    }
}

/// The delay after an observation of this duration. Counting the recorded issuances takes time in proportion to them.
pub(super) fn delay_after_observation(duration: Duration) -> Duration {
    (duration * DELAY_PER_OBSERVATION).min(MAX_DELAY_AFTER_OBSERVATION)
}

/// Whether everything that was issued is recorded, and marked `COMPLETED` in Redis.
pub(super) fn is_recorded_and_marked(in_redis: &RedisEvent, recorded: u64) -> bool {
    in_redis.outbox == 0 && in_redis.marked_recorded >= in_redis.issued && recorded >= in_redis.issued
}

/// When the state of the event changes by itself (milliseconds since the Unix epoch). `retire_at`: when its coupons are
/// to be removed from Redis.
pub(super) fn changes_at(in_redis: &RedisEvent, retire_at: Option<i64>) -> Option<i64> {
    let changes = [in_redis.window.start, in_redis.window.end, retire_at.filter(|_| in_redis.retired.is_none())];
    // One millisecond later, so that the clock of Redis has passed that time.
    changes.into_iter().flatten().map(|time| time + 1).filter(|time| *time > in_redis.now).min()
}

/// When to reconcile an event whose stores match its manifest.
pub(super) fn next_check(in_redis: Option<&RedisEvent>, observed: &ObservedState, retire_at: Option<i64>) -> Duration {
    let Some(in_redis) = in_redis else { return IDLE_INTERVAL };
    let wait = changes_at(in_redis, retire_at).and_then(|at| u64::try_from(at - in_redis.now).ok());
    let interval = interval(in_redis, observed.recorded);
    wait.map_or(interval, |wait| interval.min(Duration::from_millis(wait)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_after_an_observation_is_in_proportion_and_bounded() {
        assert_eq!(delay_after_observation(Duration::from_millis(50)), Duration::from_secs(1));
        assert_eq!(delay_after_observation(Duration::from_secs(10)), Duration::from_secs(20));
    }
}
