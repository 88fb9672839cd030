//! Recovery of a Redis that has restarted, was replaced, or has lost data.

use std::time::{Duration, Instant};

use couponry_domain::{
    Acknowledge, AdmissionKey, Coupon, EventName, Gate, IssuedCoupon, Release, Seed, UserId, Uuid, Window,
};
use couponry_redis::{
    FencedWrite, GateSettings, IssueOutcome, IssuedEntry, IssuedStatus, Recovered, Recovery, RedisEvent, RedisStore,
};
use couponry_testbed::{Redis, redis::command};

use crate::support::{SOLD_OUT, chain, coupons, gate_settings, mark_verified, record_all, users};

struct Event {
    redis: Redis,
    redis_store: RedisStore,
    id: EventName,
    uid: Uuid,
}

impl Event {
    /// An open event with 100 coupons, on a Redis of its own.
    async fn open() -> Self {
        let redis = Redis::start().unwrap();
        let redis_store = RedisStore::connect(&redis.url(), "").unwrap();
        let event = Self { redis_store, id: "summer".parse().unwrap(), uid: Uuid::new_v4(), redis };
        let Self { redis_store, id, uid, .. } = &event;
        redis_store.prepare(id, *uid, 0).await.unwrap();
        let before = redis_store.issue(id, &users(0..1)).await.unwrap().unwrap();
        assert_eq!(before.outcomes, [IssueOutcome::Unverified], "just prepared");
        assert_eq!(redis_store.load(id, *uid, 0, &coupons(0, 100)).await.unwrap(), FencedWrite::Stale);
        mark_verified(redis_store, id).await;
        redis_store.load(id, *uid, 0, &coupons(0, 100)).await.unwrap();
        redis_store.set_gate(id, *uid, &gate_settings(Gate::Open, Window::default(), 100)).await.unwrap();
        event
    }

    async fn observe(&self) -> RedisEvent {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.redis_store.observe(&self.id).await {
                Ok(observed) => return observed.unwrap(),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, range: std::ops::Range<u64>) -> Vec<IssueOutcome> {
        self.redis_store.issue(&self.id, &users(range)).await.unwrap().unwrap().outcomes
    }

    async fn begin(&self, observed: &RedisEvent, clear: bool) -> Recovery {
        match self.redis_store.begin_recovery(&self.id, observed, clear).await.unwrap() {
            FencedWrite::Applied(recovery) => recovery,
            FencedWrite::Stale => panic!("nothing to recover: {observed:?}"),
        }
    }

    /// Restores ten coupons, of which the first ones are issued to these users.
    async fn restore(
        &self,
        observed: &RedisEvent,
        recovery: &Recovery,
        first: u64,
        users: &[UserId],
    ) -> FencedWrite<u64> {
        let ten = coupons(first, 10);
        let issued: Vec<_> = users.iter().zip(&ten).map(|(user, coupon)| recorded(user, coupon)).collect();
        let available = &ten[issued.len()..];
        self.redis_store.restore(&self.id, observed, recovery, first..first + 10, available, &issued).await.unwrap()
    }
}

fn recorded(user: &UserId, Coupon { ordinal: _, code, discount }: &Coupon) -> IssuedEntry {
    let issued = IssuedCoupon { user_id: user.clone(), coupon: code.clone(), discount: *discount, issued_at: 7 };
    IssuedEntry { issued, status: IssuedStatus::Completed }
}

fn is_issued(outcomes: &[IssueOutcome]) -> bool {
    outcomes.iter().all(|outcome| matches!(outcome, IssueOutcome::Issued(_)))
}

#[tokio::test]
async fn redis_after_restart_issues_nothing_until_verified() {
    let event = Event::open().await;
    assert!(is_issued(&event.ask(0..10).await));
    record_all(&event.redis_store, &event.id, event.uid).await;
    let before = event.observe().await;
    event.redis.kill9().unwrap();
    event.redis.restart().unwrap();
    let observed = event.observe().await;
    assert!(before.is_verified && !observed.is_verified && before.replication_id != observed.replication_id);
    assert_eq!(event.ask(0..20).await, vec![IssueOutcome::Unverified; 20], "neither new coupons nor existing ones");
    assert!(!event.redis_store.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap().is_verified);
    assert_eq!(event.redis_store.load(&event.id, event.uid, 0, &coupons(100, 5)).await.unwrap(), FencedWrite::Stale);
    assert_eq!(event.redis_store.retire(&event.id, event.uid, 0, 1).await.unwrap(), FencedWrite::Applied(false));
    let untouched = event.observe().await;
    assert_eq!((untouched.available, untouched.issued, untouched.outbox), (90, 10, 0), "nothing was written");

    assert_eq!(
        event.redis_store.mark_verified(&event.id, &before, None).await.unwrap(),
        FencedWrite::Stale,
        "another replication id"
    );
    let recovery = event.begin(&observed, false).await;
    let settings = gate_settings(Gate::Open, Window::default(), 100);
    let wrong = Recovered { recovery: recovery.clone(), issued_at_min: 0, total: 99, settings: settings.clone() };
    let error = chain(&event.redis_store.mark_verified(&event.id, &observed, Some(&wrong)).await.unwrap_err());
    assert!(error.contains("loaded 100, counted 100, expected 99"), "{error}");
    // As if the clock of this Redis were a day behind that of the previous one.
    let issued_at_min = recovery.begun_at + 86_400_000;
    let found = Recovered { recovery, issued_at_min, total: 100, settings };
    assert_eq!(
        event.redis_store.mark_verified(&event.id, &observed, Some(&found)).await.unwrap(),
        FencedWrite::Applied(())
    );
    for (user, outcome) in event.ask(5..15).await.into_iter().enumerate() {
        match outcome {
            IssueOutcome::Duplicate(entry) if user < 5 => assert!(entry.issued.issued_at < issued_at_min),
            IssueOutcome::Issued(issued) if user >= 5 => assert_eq!(issued.issued_at, issued_at_min),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        event.redis_store.begin_recovery(&event.id, &observed, true).await.unwrap(),
        FencedWrite::Stale,
        "already verified"
    );
}

/// Redis may have come back from before the settings were changed.
#[tokio::test]
async fn recovered_redis_is_verified_with_the_current_gate() {
    let event = Event::open().await;
    let uid = event.uid;
    event.redis.kill9().unwrap();
    event.redis.restart().unwrap();
    let observed = event.observe().await;
    let recovery = event.begin(&observed, false).await;
    let current = GateSettings {
        gate: Gate::Paused,
        window: Window { start: Some(1), end: Some(i64::MAX / 2000) },
        acknowledge: Acknowledge::Kafka,
        validity: Some("P1D UTC".parse().unwrap()),
        release: Release { ramp_seconds: Some(60), drops: "1796083200000:50,".parse().unwrap() },
        admission_key: Some(AdmissionKey::of(&Seed::from([1; 32]))),
        generation: 7,
        stock_epoch: 0,
        total: 100,
    };
    let recovered = |settings: &GateSettings| Recovered {
        recovery: recovery.clone(),
        issued_at_min: 0,
        total: 100,
        settings: settings.clone(),
    };
    let mark = async |settings: &GateSettings| {
        event.redis_store.mark_verified(&event.id, &observed, Some(&recovered(settings))).await.unwrap()
    };
    // As if an operator with a newer manifest had paused the event meanwhile.
    let newer = GateSettings { generation: 8, ..gate_settings(Gate::Paused, Window::default(), 100) };
    event.redis_store.set_gate(&event.id, uid, &newer).await.unwrap();
    assert_eq!(mark(&current).await, FencedWrite::Stale);
    assert!(!event.observe().await.is_verified);

    let current = GateSettings { generation: 8, ..current };
    assert_eq!(mark(&current).await, FencedWrite::Applied(()));
    let verified = event.observe().await;
    assert!(verified.is_verified);
    let RedisEvent { gate, window, acknowledge, validity, release, admission_key, generation, stock_epoch, .. } =
        verified;
    let total = 100;
    let found =
        GateSettings { gate, window, acknowledge, validity, release, admission_key, generation, stock_epoch, total };
    assert_eq!(found, current);

    // A gate that is closed stays closed.
    event.redis_store.set_gate(&event.id, uid, &GateSettings { gate: Gate::Closed, ..current.clone() }).await.unwrap();
    event.redis.kill9().unwrap();
    event.redis.restart().unwrap();
    let observed = event.observe().await;
    let recovery = event.begin(&observed, false).await;
    let open = GateSettings { gate: Gate::Open, ..current };
    let recovered = Recovered { recovery, issued_at_min: 0, total: 100, settings: open };
    let verified = event.redis_store.mark_verified(&event.id, &observed, Some(&recovered)).await.unwrap();
    assert_eq!((verified, event.observe().await.gate), (FencedWrite::Applied(()), Gate::Closed));
}

#[tokio::test]
async fn later_recovery_fences_earlier_one() {
    let event = Event::open().await;
    event.ask(0..10).await;
    command(&event.redis.url(), &["FLUSHALL"]).unwrap();
    assert!(event.redis_store.issue(&event.id, &users(0..1)).await.unwrap().is_none());
    event.redis_store.prepare(&event.id, event.uid, 0).await.unwrap();
    let (observed, five) = (event.observe().await, users(0..5));

    let first = event.begin(&observed, true).await;
    assert_eq!(event.restore(&observed, &first, 0, &five).await, FencedWrite::Applied(10));
    assert_eq!(event.restore(&observed, &first, 0, &five).await, FencedWrite::Applied(10), "again");
    assert_eq!(event.restore(&observed, &first, 20, &[]).await, FencedWrite::Applied(10), "not the next chunk");
    let second = event.begin(&observed, true).await;
    assert_eq!(event.restore(&observed, &first, 10, &[]).await, FencedWrite::Stale);
    let settings = gate_settings(Gate::Open, Window::default(), 10);
    let found = |recovery: &Recovery, total| Recovered {
        recovery: recovery.clone(),
        issued_at_min: 9,
        total,
        settings: settings.clone(),
    };
    assert_eq!(
        event.redis_store.mark_verified(&event.id, &observed, Some(&found(&first, 10))).await.unwrap(),
        FencedWrite::Stale
    );
    assert_eq!(
        event.redis_store.mark_verified(&event.id, &observed, None).await.unwrap(),
        FencedWrite::Stale,
        "observed before the recovery"
    );
    assert_eq!(event.restore(&observed, &second, 0, &five).await, FencedWrite::Applied(10));
    assert_eq!(event.restore(&observed, &second, 10, &[]).await, FencedWrite::Applied(20));
    let counts = event.redis_store.settle(&event.id, event.uid, &[]).await.unwrap();
    assert_eq!(counts, FencedWrite::Applied(couponry_redis::Settled::default()));
    assert!(
        event.redis_store.mark_verified(&event.id, &observed, Some(&found(&second, 10))).await.is_err(),
        "not all coupons are loaded"
    );
    assert_eq!(
        event.redis_store.mark_verified(&event.id, &observed, Some(&found(&second, 20))).await.unwrap(),
        FencedWrite::Applied(())
    );

    let verified = event.observe().await;
    assert_eq!((verified.loaded, verified.available, verified.issued, verified.marked_recorded), (20, 15, 5, 5));
    assert!(verified.is_verified);
    event.redis_store.set_gate(&event.id, event.uid, &gate_settings(Gate::Open, Window::default(), 20)).await.unwrap();
    let outcomes = event.ask(0..20).await;
    let is_restored = |outcome: &_| matches!(outcome, IssueOutcome::Duplicate(entry) if entry.issued.issued_at == 7);
    assert!(outcomes[..5].iter().all(is_restored), "{outcomes:?}");
    assert!(is_issued(&outcomes[5..]));
    assert_eq!(event.ask(30..31).await, [SOLD_OUT]);
}

#[tokio::test]
async fn promoted_replica_is_unverified_on_same_connection() {
    let event = Event::open().await;
    event.ask(0..10).await;
    let replica = Redis::start().unwrap();
    let follow = |one: &Redis, port: &str| command(&one.url(), &["REPLICAOF", "127.0.0.1", port]).unwrap();
    let wait = async |one: &Redis| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !command(&one.url(), &["INFO", "replication"]).unwrap().contains("master_link_status:up") {
            assert!(Instant::now() < deadline, "the replica does not follow");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    follow(&replica, &event.redis.port().to_string());
    wait(&replica).await;
    // The first replica that connects to a master changes its replication id.
    let observed = event.observe().await;
    if !observed.is_verified {
        mark_verified(&event.redis_store, &event.id).await;
    }
    // The replica lags: it does not receive the last coupons. Then it is promoted, and the master loads its data.
    follow(&replica, "1");
    assert!(is_issued(&event.ask(10..20).await));
    command(&replica.url(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    follow(&event.redis, &replica.port().to_string());
    wait(&event.redis).await;
    command(&event.redis.url(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    let observed = event.observe().await;
    assert_eq!((observed.issued, observed.is_verified), (10, false));
    assert_eq!(event.ask(10..20).await, vec![IssueOutcome::Unverified; 10], "their coupons could be issued to others");
}

#[tokio::test]
async fn add_to_outbox_adds_issued_coupons_of_this_event() {
    let event = Event::open().await;
    event.ask(0..3).await;
    let issued: Vec<_> = event.redis_store.scan_issued(&event.id).await.unwrap().into_values().collect();
    let first = event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 10).await.unwrap().entries;
    event.redis_store.delete_confirmed(&event.id, &[first[0].id.clone()]).await.unwrap();
    event.redis_store.add_to_outbox(&event.id, event.uid, &issued).await.unwrap();
    let again = event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 10).await.unwrap().entries;
    let users = |records: &[couponry_domain::IssuedRecord]| {
        let mut users: Vec<_> = records.iter().map(|record| record.issued.clone()).collect();
        users.sort();
        users
    };
    assert_eq!(users(&again[0].records), users(&first[0].records));
    event.redis_store.add_to_outbox(&event.id, Uuid::new_v4(), &issued).await.unwrap();
    assert_eq!(event.observe().await.outbox, 1, "another event is not resent");
    event.redis.kill9().unwrap();
    event.redis.restart().unwrap();
    let observed = event.observe().await;
    assert_eq!(
        event.redis_store.begin_recovery(&event.id, &observed, false).await.unwrap(),
        FencedWrite::Stale,
        "the outbox is not empty"
    );
}
