//! Says in plain words what a crash of Redis can lose, as the condition `Durable` of every event: from Redis's own settings,
//! which are looked at again and again, for a person may change them at any time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use couponry_crds::status::{condition, reason};
use couponry_redis::{Durability, DurabilitySettings, Stock};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tokio::sync::Mutex;

/// How long an answer of Redis is good for.
const LASTS: Duration = Duration::from_secs(10);

/// What Redis promises, remembered for a moment, for all events.
#[derive(Default)]
pub(crate) struct DurabilityWatch(Mutex<Option<(Instant, Promise)>>);

/// Whether what users are told survives a crash of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Of the condition: True, False or Unknown.
    pub(crate) status: &'static str,
    reason: &'static str,
    /// What can be lost, and what to change.
    pub(crate) message: String,
}

impl DurabilityWatch {
    /// What Redis promises now, or did a moment ago.
    pub(crate) async fn look(&self, stock: &Stock) -> Promise {
        let mut last = self.0.lock().await;
        if let Some((since, promise)) = &*last
            && since.elapsed() < LASTS
        {
            return promise.clone();
        }
        let promise = match (stock.durability().await, &*last) {
            (Ok(found), _) => judge(&found),
            // That it does not answer is told elsewhere, and changes none of its settings.
            (Err(_), Some((_, promise))) => promise.clone(),
            (Err(error), None) => {
                Promise { status: "Unknown", reason: reason::BACKEND_UNAVAILABLE, message: error.to_string() }
            }
        };
        let before = last.replace((Instant::now(), promise.clone()));
        if before.is_none_or(|(_, before)| before != promise) {
            let Promise { status, message, .. } = &promise;
            if *status == "True" {
                tracing::info!("Redis: {message}");
            } else {
                tracing::warn!("Redis: {message}");
            }
        }
        promise
    }
}

impl Promise {
    /// Puts the condition among the others, where it belongs.
    pub(crate) fn report(&self, old: &[Condition], conditions: &mut Vec<Condition>, generation: i64, now: Time) {
        let Self { status, reason, message } = self;
        let since = old.iter().find(|old| old.type_ == condition::DURABLE && old.status == *status);
        conditions.retain(|condition| condition.type_ != condition::DURABLE);
        conditions.push(Condition {
            last_transition_time: since.map_or(now, |old| old.last_transition_time.clone()),
            message: message.clone(),
            observed_generation: Some(generation),
            reason: (*reason).to_owned(),
            status: (*status).to_owned(),
            type_: condition::DURABLE.to_owned(),
        });
        conditions.sort_by_key(|one| condition::ALL.iter().position(|type_| *type_ == one.type_));
    }
}

/// From what each master says. The worst of them counts.
pub(crate) fn judge(found: &[Durability]) -> Promise {
    let losses: BTreeSet<String> = found.iter().flat_map(losses).collect();
    if !losses.is_empty() {
        let losses: Vec<_> = losses.into_iter().collect();
        return Promise { status: "False", reason: reason::WRITES_MAY_BE_LOST, message: losses.join("; ") };
    }
    if found.is_empty() || found.iter().any(|one| one.settings.is_none()) {
        let message = "Redis does not tell its settings (CONFIG GET is refused): see to it that it has appendonly yes, \
                       appendfsync always and maxmemory-policy noeviction";
        return Promise { status: "Unknown", reason: reason::SETTINGS_UNAVAILABLE, message: message.to_owned() };
    }
    let mut message = "appendfsync always: what users were told is on the disk of Redis".to_owned();
    if found.iter().any(|one| one.replicas > 0) {
        message.push_str(
            "; but a replica follows a moment later: what was told in that moment is missing where it is made the master",
        );
    }
    Promise { status: "True", reason: reason::WRITES_SYNCED, message }
}

/// What this one can lose, and what to change.
fn losses(found: &Durability) -> Vec<String> {
    let Durability { is_master, replicas, is_clustered, appends, append_failed, settings } = found;
    let mut losses = Vec::new();
    let mut say = |loss: &str| losses.push(loss.to_owned());
    if !is_master {
        say("this Redis is a replica, which takes no writes: give --redis-url the address of its master");
    }
    match (appends, settings.as_ref().map(|settings| settings.appendfsync.as_str())) {
        (Some(false), _) => say(
            "appendonly no: coupons that were issued since Redis last saved its data are lost when it ends: set appendonly yes \
             and appendfsync always",
        ),
        (_, Some("everysec")) => say(
            "appendfsync everysec: up to one second of issued coupons may be lost when the machine of Redis fails: set \
             appendfsync always",
        ),
        (_, Some("no")) => say(
            "appendfsync no: about half a minute of issued coupons may be lost when the machine of Redis fails: set appendfsync \
             always",
        ),
        _ => {}
    }
    if *append_failed {
        say("the last write to the append-only file failed: look at the disk and the log of Redis");
    }
    if let Some(DurabilitySettings { maxmemory_policy, min_replicas_to_write, .. }) = settings {
        if maxmemory_policy != "noeviction" {
            losses.push(format!(
                "maxmemory-policy {maxmemory_policy}: Redis may throw coupons away when its memory is full: set \
                 maxmemory-policy noeviction"
            ));
        }
        if *is_clustered && *replicas > 0 && *min_replicas_to_write == 0 {
            losses.push(
                "min-replicas-to-write 0 in a Redis Cluster: a master that is cut off goes on giving out coupons after a replica \
                 took its place, and they are lost: set min-replicas-to-write 1"
                    .to_owned(),
            );
        }
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(fsync: &str, policy: &str) -> Durability {
        Durability {
            is_master: true,
            appends: Some(true),
            settings: Some(DurabilitySettings {
                appendfsync: fsync.to_owned(),
                maxmemory_policy: policy.to_owned(),
                min_replicas_to_write: 0,
            }),
            ..Durability::default()
        }
    }

    #[test]
    fn what_a_crash_can_lose_is_said() {
        let safe = redis("always", "noeviction");
        let cases = [
            (vec![safe.clone()], "True", "appendfsync always: what"),
            (vec![Durability { replicas: 2, ..safe.clone() }], "True", "a replica follows a moment later"),
            (vec![redis("everysec", "noeviction")], "False", "up to one second of issued coupons may be lost"),
            (vec![redis("no", "noeviction")], "False", "half a minute"),
            (
                vec![redis("always", "allkeys-lru")],
                "False",
                "maxmemory-policy allkeys-lru: Redis may throw coupons away",
            ),
            (vec![Durability { appends: Some(false), ..safe.clone() }], "False", "appendonly no"),
            (vec![Durability { append_failed: true, ..safe.clone() }], "False", "the last write"),
            (vec![Durability { is_master: false, ..safe.clone() }], "False", "is a replica"),
            (
                vec![Durability { is_clustered: true, replicas: 1, ..safe.clone() }],
                "False",
                "min-replicas-to-write 0 in a Redis Cluster",
            ),
            (vec![Durability { settings: None, ..safe.clone() }], "Unknown", "CONFIG GET is refused"),
            (vec![Durability { settings: None, appends: Some(false), ..safe.clone() }], "False", "appendonly no"),
            (vec![safe, redis("everysec", "noeviction")], "False", "appendfsync everysec"),
            (vec![], "Unknown", "CONFIG GET is refused"),
        ];
        for (found, status, words) in cases {
            let promise = judge(&found);
            assert_eq!(promise.status, status, "{found:?}");
            assert!(promise.message.contains(words), "{}", promise.message);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_once() {
        let promise = judge(&[redis("everysec", "allkeys-lru"), redis("everysec", "allkeys-lru")]);
        assert_eq!(promise.message.matches("set appendfsync always").count(), 1, "{}", promise.message);
        assert_eq!(promise.message.matches("set maxmemory-policy noeviction").count(), 1, "{}", promise.message);
    }

    #[test]
    fn the_condition_keeps_its_place_and_its_age() {
        let time = |second| Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
        let [everysec, always] = ["everysec", "always"].map(|fsync| judge(&[redis(fsync, "noeviction")]));
        let mut first = Vec::new();
        always.report(&[], &mut first, 1, time(1));
        let mut second = first.clone();
        always.report(&first, &mut second, 2, time(2));
        assert_eq!((second.len(), &second[0].last_transition_time), (1, &time(1)));
        let mut third = Vec::new();
        everysec.report(&second, &mut third, 2, time(3));
        assert_eq!((third[0].status.as_str(), &third[0].last_transition_time), ("False", &time(3)));
    }
}
