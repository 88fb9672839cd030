//! Reports what a crash of Redis can lose, as the condition `Durable` of every event. It follows from Redis's own
//! settings, which are read repeatedly because they can be changed at runtime.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use couponry_crds::status::reason;
use couponry_redis::{DurabilitySettings, MasterInfo, RedisStore};
use couponry_runtime::error_chain;
use tokio::sync::Mutex;

/// How long the settings are cached, for all events.
const CACHE_TTL: Duration = Duration::from_secs(10);

/// The cached [`DurabilityReport`].
#[derive(Default)]
pub(crate) struct DurabilityCache(Mutex<Option<(Instant, DurabilityReport)>>);

/// Whether issued coupons survive a crash of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DurabilityReport {
    /// Status of the condition: True, False or Unknown.
    pub(crate) status: &'static str,
    pub(crate) reason: &'static str,
    /// What can be lost and which setting to change.
    pub(crate) message: String,
}

impl DurabilityCache {
    /// The report, at most [`CACHE_TTL`] old while Redis is available.
    pub(crate) async fn current(&self, redis_store: &RedisStore) -> DurabilityReport {
        let mut cached = self.0.lock().await;
        if let Some((since, report)) = &*cached
            && since.elapsed() < CACHE_TTL
        {
            return report.clone();
        }
        let report = match (redis_store.masters().await, &*cached) {
            (Ok(found), _) => assess(&found),
            // The outage is reported by the Stalled condition, and the settings are most likely unchanged.
            (Err(_), Some((_, report))) => report.clone(),
            (Err(error), None) => DurabilityReport {
                status: "Unknown",
                reason: reason::BACKEND_UNAVAILABLE,
                message: format!("The durability of Redis is unknown: {}.", error_chain(&error)),
            },
        };
        let previous = cached.replace((Instant::now(), report.clone()));
        if previous.is_none_or(|(_, previous)| previous != report) {
            let DurabilityReport { status, message, .. } = &report;
            if *status == "True" {
                tracing::info!(message, "durability of Redis assessed");
            } else {
                tracing::warn!(message, "durability of Redis assessed");
            }
        }
        report
    }
}

/// Assesses the settings of all masters. The weakest determines the result.
pub(crate) fn assess(masters: &[MasterInfo]) -> DurabilityReport {
    let risks: BTreeSet<String> = masters.iter().flat_map(risks).collect();
    if !risks.is_empty() {
        let risks: Vec<_> = risks.into_iter().collect();
        return DurabilityReport { status: "False", reason: reason::WRITES_MAY_BE_LOST, message: risks.join(" ") };
    }
    if masters.is_empty() || masters.iter().any(|one| one.settings.is_none()) {
        let message = "The settings of Redis cannot be read because CONFIG GET is rejected. Make sure that Redis runs \
                       with appendonly yes, appendfsync always and maxmemory-policy noeviction.";
        return DurabilityReport {
            status: "Unknown",
            reason: reason::SETTINGS_UNAVAILABLE,
            message: message.to_owned(),
        };
    }
    let mut message =
        "With appendfsync always, Redis writes every issued coupon to its disk before it is returned.".to_owned();
    if masters.iter().any(|one| one.replicas > 0) {
        message.push_str(
            " Replication is asynchronous: a failover to a replica can lose the coupons issued in the moment before \
             it.",
        );
    }
    DurabilityReport { status: "True", reason: reason::WRITES_SYNCED, message }
}

/// What can be lost with the settings of one master, and what to change.
fn risks(master: &MasterInfo) -> Vec<String> {
    let MasterInfo { replication_id: _, is_master, replicas, aof_enabled, aof_write_failed, settings } = master;
    let mut risks = Vec::new();
    let mut add = |risk: &str| risks.push(risk.to_owned());
    if !is_master {
        add("The configured Redis is a replica, which rejects writes. Set --redis-url to the address of its master.");
    }
    match (aof_enabled, settings.as_ref().map(|settings| settings.appendfsync.as_str())) {
        (Some(false), _) => add(
            "With appendonly no, a restart of Redis loses the coupons issued since its last snapshot. Set appendonly \
             yes and appendfsync always.",
        ),
        (_, Some("everysec")) => add(
            "With appendfsync everysec, a failure of the Redis host loses the coupons issued in up to one second. Set \
             appendfsync always.",
        ),
        (_, Some("no")) => {
            add(
                "With appendfsync no, a host failure loses about 30 seconds of issued coupons. Set appendfsync always.",
            );
        }
        _ => {}
    }
    if *aof_write_failed {
        add("The last write to the append-only file of Redis failed. Check its disk and its log.");
    }
    if let Some(DurabilitySettings { maxmemory_policy, min_replicas_to_write, .. }) = settings {
        if maxmemory_policy != "noeviction" {
            risks.push(format!(
                "With maxmemory-policy {maxmemory_policy}, Redis evicts coupons when its memory is full. Set \
                 maxmemory-policy noeviction."
            ));
        }
        if *replicas > 0 && *min_replicas_to_write == 0 {
            risks.push(
                "With min-replicas-to-write 0, a master that a replica has replaced continues to issue coupons, which \
                 are lost when it rejoins. Set min-replicas-to-write 1."
                    .to_owned(),
            );
        }
    }
    risks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(fsync: &str, policy: &str) -> MasterInfo {
        MasterInfo {
            is_master: true,
            aof_enabled: Some(true),
            settings: Some(DurabilitySettings {
                appendfsync: fsync.to_owned(),
                maxmemory_policy: policy.to_owned(),
                min_replicas_to_write: 0,
            }),
            ..MasterInfo::default()
        }
    }

    #[test]
    fn assess_redis_settings_reports_possible_data_loss() {
        let safe = redis("always", "noeviction");
        let mut replicated = MasterInfo { replicas: 2, ..safe.clone() };
        replicated.settings.as_mut().unwrap().min_replicas_to_write = 1;
        let cases = [
            (vec![safe.clone()], "True", "With appendfsync always"),
            (vec![MasterInfo { replicas: 2, ..safe.clone() }], "False", "min-replicas-to-write 0"),
            (vec![replicated], "True", "Replication is asynchronous"),
            (vec![redis("everysec", "noeviction")], "False", "issued in up to one second"),
            (vec![redis("no", "noeviction")], "False", "about 30 seconds"),
            (vec![redis("always", "allkeys-lru")], "False", "maxmemory-policy allkeys-lru, Redis evicts coupons"),
            (vec![MasterInfo { aof_enabled: Some(false), ..safe.clone() }], "False", "appendonly no"),
            (vec![MasterInfo { aof_write_failed: true, ..safe.clone() }], "False", "The last write"),
            (vec![MasterInfo { is_master: false, ..safe.clone() }], "False", "is a replica"),
            (vec![MasterInfo { settings: None, ..safe.clone() }], "Unknown", "CONFIG GET is rejected"),
            (vec![MasterInfo { settings: None, aof_enabled: Some(false), ..safe.clone() }], "False", "appendonly no"),
            (vec![safe, redis("everysec", "noeviction")], "False", "appendfsync everysec"),
            (vec![], "Unknown", "CONFIG GET is rejected"),
        ];
        for (found, status, text) in cases {
            let report = assess(&found);
            assert_eq!(report.status, status, "{found:?}");
            assert!(report.message.contains(text), "{}", report.message);
        }
    }

    #[test]
    fn risk_shared_by_masters_is_reported_once() {
        let report = assess(&[redis("everysec", "allkeys-lru"), redis("everysec", "allkeys-lru")]);
        assert_eq!(report.message.matches("Set appendfsync always").count(), 1, "{}", report.message);
        assert_eq!(report.message.matches("Set maxmemory-policy noeviction").count(), 1, "{}", report.message);
    }
}
