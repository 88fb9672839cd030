//! The masters of Redis and their durability settings.

use couponry_redis::{DurabilitySettings, MasterInfo, RedisStore};
use couponry_testbed::{Redis, redis::command};

/// The masters without the replication id, which is different for each Redis.
async fn masters(redis_store: &RedisStore) -> Vec<MasterInfo> {
    let found = redis_store.masters().await.unwrap();
    assert!(found.iter().all(|found| found.replication_id.len() == 40), "{found:?}");
    found.into_iter().map(|found| MasterInfo { replication_id: String::new(), ..found }).collect()
}

fn safe() -> MasterInfo {
    MasterInfo {
        is_master: true,
        aof_enabled: Some(true),
        settings: Some(DurabilitySettings {
            appendfsync: "always".to_owned(),
            maxmemory_policy: "noeviction".to_owned(),
            min_replicas_to_write: 0,
        }),
        ..MasterInfo::default()
    }
}

#[tokio::test]
async fn durability_returns_current_settings() {
    let redis = Redis::start().unwrap();
    let redis_store = RedisStore::connect(&redis.url(), "").unwrap();
    assert_eq!(masters(&redis_store).await, [safe()]);
    for (setting, value) in [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("maxmemory-policy", "allkeys-lru"),
        ("min-replicas-to-write", "1"),
    ] {
        command(&redis.url(), &["CONFIG", "SET", setting, value]).unwrap();
    }
    let found = masters(&redis_store).await;
    let settings = DurabilitySettings {
        appendfsync: "everysec".to_owned(),
        maxmemory_policy: "allkeys-lru".to_owned(),
        min_replicas_to_write: 1,
    };
    assert_eq!(found, [MasterInfo { aof_enabled: Some(false), settings: Some(settings), ..safe() }]);
}

#[tokio::test]
async fn durability_without_config_permission_has_no_settings() {
    let redis = Redis::start().unwrap();
    command(&redis.url(), &["ACL", "SETUSER", "default", "-config"]).unwrap();
    let redis_store = RedisStore::connect(&redis.url(), "").unwrap();
    assert_eq!(masters(&redis_store).await, [MasterInfo { settings: None, ..safe() }]);
}

#[tokio::test]
async fn durability_reports_replicas_and_role() {
    let master = Redis::start().unwrap();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]).unwrap();
    let redis_store = RedisStore::connect(&master.url(), "").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(2);
    while masters(&redis_store).await != [MasterInfo { replicas: 1, ..safe() }] {
        assert!(std::time::Instant::now() < deadline, "the replica does not connect: {}", master.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let redis_store = RedisStore::connect(&replica.url(), "").unwrap();
    assert!(!masters(&redis_store).await[0].is_master);
}
