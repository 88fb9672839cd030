//! A Redis Cluster.

use std::time::{Duration, Instant};

use couponry_domain::{EventName, Gate, IssuedCoupon, Uuid, Window};
use couponry_redis::{
    FencedWrite, GateSettings, IssueOutcome, RedisSettings, RedisStore, RedisStoreError, Settlement, SettlementOutcome,
};
use couponry_testbed::{RedisCluster, redis::command};

use crate::{
    permissions,
    support::{chain, coupons, gate_settings, mark_verified, users},
};

/// Names of events whose keys are on the first, the second and the third of three nodes.
const ON_EACH_NODE: [&str; 3] = ["b", "c", "a"];

async fn open(redis_store: &RedisStore, id: &EventName, uid: Uuid) {
    redis_store.prepare(id, uid, 0).await.unwrap();
    mark_verified(redis_store, id).await;
    redis_store.load(id, uid, 0, &coupons(0, 100)).await.unwrap();
    redis_store.set_gate(id, uid, &gate_settings(Gate::Open, Window::default(), 100)).await.unwrap();
}

async fn until_done<T>(mut call: impl AsyncFnMut() -> Result<T, RedisStoreError>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "{}", chain(&error)),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_survive_slot_migration_and_failover() {
    let mut cluster = RedisCluster::start(3, &[]).unwrap();
    cluster.add_replica(&[]).unwrap();
    for node in cluster.nodes() {
        let mut rule = vec!["ACL".to_owned(), "SETUSER".to_owned()];
        rule.extend(permissions::acl_rule("s3cret", "coupon*"));
        command(&node.url(), &rule.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    }
    let settings = RedisSettings {
        cluster: true,
        username: Some("couponry".into()),
        password: Some("s3cret".into()),
        // One node is enough to discover the others, and an unavailable one does no harm.
        ..RedisSettings::at(&format!("redis://127.0.0.1:1,{}", cluster.nodes()[1].url()), "")
    };
    let redis_store = RedisStore::open(&settings).unwrap();
    for name in ON_EACH_NODE {
        permissions::run_event(&redis_store, name).await;
    }
    assert_eq!(redis_store.masters().await.unwrap().len(), 3);

    let wrong = RedisStore::open(&RedisSettings { password: Some("s3cret2".into()), ..settings.clone() }).unwrap();
    let error = chain(&wrong.ping().await.unwrap_err());
    assert!(error.to_lowercase().contains("password") && !error.contains("s3cret"), "{error}");
    let error = RedisStore::connect(&cluster.nodes()[0].url(), "")
        .unwrap()
        .prepare(&"c".parse().unwrap(), Uuid::new_v4(), 0)
        .await;
    assert!(chain(&error.unwrap_err()).contains("--redis-cluster"));

    let events: Vec<(EventName, Uuid)> =
        ON_EACH_NODE.iter().map(|name| (name.parse().unwrap(), Uuid::new_v4())).collect();
    for (id, uid) in &events {
        open(&redis_store, id, *uid).await;
        assert!(redis_store.issue(id, &users(0..10)).await.unwrap().is_some());
    }

    // A slot migrates while it is in use.
    let (id, _) = &events[0];
    let slot = command(&cluster.nodes()[0].url(), &["CLUSTER", "KEYSLOT", id.as_str()]).unwrap();
    let slot = slot.trim().trim_start_matches(':').to_owned();
    cluster.move_slot(&slot, 0, 2).unwrap();
    // The new node is not verified, so it issues nothing.
    let reply = until_done(async || redis_store.issue(id, &users(10..20)).await).await.unwrap();
    assert_eq!(reply.outcomes, vec![IssueOutcome::Unverified; 10]);
    mark_verified(&redis_store, id).await;
    let reply = redis_store.issue(id, &users(10..20)).await.unwrap().unwrap();
    assert!(reply.outcomes.iter().all(|outcome| matches!(outcome, IssueOutcome::Issued(_))), "{:?}", reply.outcomes);
    cluster.move_slot(&slot, 2, 0).unwrap();

    // A master is killed, and its replica is promoted.
    let (id, _) = &events[0];
    let confirmed = Instant::now();
    while !command(&cluster.nodes()[3].url(), &["INFO", "replication"]).unwrap().contains("master_link_status:up") {
        assert!(confirmed.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    mark_verified(&redis_store, id).await;
    cluster.nodes()[0].kill9().unwrap();
    let reply = until_done(async || redis_store.issue(id, &users(15..30)).await).await.unwrap();
    assert_eq!(reply.outcomes, vec![IssueOutcome::Unverified; 15], "the replica may lag");
    mark_verified(&redis_store, id).await;
    let reply = until_done(async || redis_store.issue(id, &users(15..30)).await).await.unwrap();
    assert_eq!(reply.outcomes.len(), 15);
    for (i, outcome) in reply.outcomes.iter().enumerate() {
        let is_known = matches!(outcome, IssueOutcome::Duplicate(_));
        assert!(matches!(outcome, IssueOutcome::Issued(_)) || is_known, "{outcome:?}");
        assert!(is_known || i >= 5, "user {} had a coupon already", i + 15);
    }
    for (id, uid) in &events {
        let observed = until_done(async || redis_store.observe(id).await).await.unwrap();
        assert_eq!(observed.available + observed.issued, 100);
        assert!(until_done(async || redis_store.remove(id, *uid).await).await);
    }
}

/// One node is down: the events of the other nodes are issued, recorded, paused and closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unavailable_node_affects_only_its_own_events() {
    let cluster = RedisCluster::start(3, &["--cluster-require-full-coverage", "no"]).unwrap();
    let redis_store = RedisStore::open(&settings(&cluster)).unwrap();
    let events: Vec<(EventName, Uuid)> =
        ON_EACH_NODE.iter().map(|name| (name.parse().unwrap(), Uuid::new_v4())).collect();
    for (id, uid) in &events {
        open(&redis_store, id, *uid).await;
    }
    redis_store.ping().await.unwrap();
    // It has `couponEvents`.
    let node = &cluster.nodes()[1];
    let slot = command(&node.url(), &["CLUSTER", "KEYSLOT", "couponEvents"]).unwrap();
    let count = command(&node.url(), &["CLUSTER", "COUNTKEYSINSLOT", slot.trim().trim_start_matches(':')]).unwrap();
    assert_eq!(count, ":1\r\n");
    let mut next = 0..;
    node.kill9().unwrap();
    let error = chain(&redis_store.issue(&events[1].0, &users(0..1)).await.unwrap_err());
    assert!(!error.contains("--redis-cluster"), "{error}");
    let error = redis_store.ping().await.unwrap_err();
    assert!(error.is_partial_outage() && chain(&error).contains("1 of 3 masters of the Redis Cluster at"), "{error}");
    // A program that is started during the outage.
    let started = RedisStore::open(&settings(&cluster)).unwrap();
    assert!(until_partial(&started).await);
    for redis_store in [&redis_store, &started] {
        for (id, uid) in [&events[0], &events[2]] {
            let user = users(0..1000).swap_remove(next.next().unwrap());
            // A call may time out until the driver has noticed the outage; a retry returns the outcome.
            let reply = until_done(async || redis_store.issue(id, std::slice::from_ref(&user)).await).await;
            let coupon = match reply.unwrap().outcomes.remove(0) {
                IssueOutcome::Issued(IssuedCoupon { coupon, .. }) => coupon,
                IssueOutcome::Duplicate(entry) => entry.issued.coupon,
                other => panic!("{other:?}"),
            };
            let settlement = Settlement { user, coupon, outcome: SettlementOutcome::Completed };
            let settlements = [settlement];
            let settled = until_done(async || redis_store.settle(id, *uid, &settlements).await).await;
            assert!(matches!(settled, FencedWrite::Applied(_)));
            for gate in [Gate::Paused, Gate::Open] {
                let settings = gate_settings(gate, Window::default(), 100);
                let set = until_done(async || redis_store.set_gate(id, *uid, &settings).await).await;
                assert_eq!(set, FencedWrite::Applied(gate));
            }
            let observed = until_done(async || redis_store.observe(id).await).await.unwrap();
            until_done(async || redis_store.mark_verified(id, &observed, None).await).await;
        }
    }
    node.restart().unwrap();
    cluster.wait().unwrap();
    until_done(async || redis_store.ping().await).await;
    let (id, uid) = &events[0];
    let closed = GateSettings { generation: 2, ..gate_settings(Gate::Closed, Window::default(), 100) };
    assert_eq!(redis_store.set_gate(id, *uid, &closed).await.unwrap(), FencedWrite::Applied(Gate::Closed));
}

fn settings(cluster: &RedisCluster) -> RedisSettings {
    RedisSettings { cluster: true, ..RedisSettings::at(&cluster.url(), "") }
}

/// Waits until the store reaches the other nodes.
async fn until_partial(redis_store: &RedisStore) -> bool {
    until_done(async || match redis_store.ping().await {
        Err(error) if error.is_partial_outage() => Ok(true),
        result => result.map(|()| false),
    })
    .await
}
