//! Admission and drops: which users receive which of the coupons when.

use std::collections::HashSet;

use crate::support::{Event, SOLD_OUT, chain, gate_settings, users};
use couponry_domain::{AdmissionKey, Gate, Release, Seed, StockDrop, UserId, Window};
use couponry_redis::{FencedWrite, GateSettings, IssueOutcome, RedisEvent, Settlement, SettlementOutcome};
use proptest::prelude::*;
use redis::Commands;

fn key() -> AdmissionKey {
    AdmissionKey::of(&Seed::from([1; 32]))
}

fn release(ramp_seconds: Option<u32>, drops: &[(i64, u64)]) -> Release {
    let drops = drops.iter().map(|&(at, count)| StockDrop { at, count }).collect();
    Release { ramp_seconds, drops: couponry_domain::Drops::new(drops).unwrap() }
}

impl Event {
    async fn now(&self) -> i64 {
        self.observe().await.now
    }

    async fn observe(&self) -> RedisEvent {
        self.redis_store.observe(&self.id).await.unwrap().unwrap()
    }

    /// The coupons that are not held back.
    async fn available(&self) -> u64 {
        let observed = self.observe().await;
        observed.available_at(observed.now)
    }

    async fn ask(&self, users: &[UserId]) -> Vec<IssueOutcome> {
        self.redis_store.issue(&self.id, users).await.unwrap().unwrap().outcomes
    }

    /// Sets the gate of an event with `total` coupons.
    async fn release(&self, gate: Gate, start: Option<i64>, release: &Release, total: u64) {
        let settings = GateSettings {
            release: release.clone(),
            admission_key: release.ramp_seconds.map(|_| key()),
            ..gate_settings(gate, Window { start, end: None }, total)
        };
        let set = self.redis_store.set_gate(&self.id, self.uid, &settings).await.unwrap();
        assert_eq!(set, FencedWrite::Applied(gate));
    }

    fn meta(&self) -> (redis::Connection, String) {
        let redis = redis::Client::open(couponry_testbed::shared::redis()).unwrap();
        (redis.get_connection().unwrap(), format!("test-{}-couponMeta:{{summer}}", self.uid))
    }
}

/// Users of an event whose ramp began now, in the order in which they are admitted, with the seconds until then.
fn by_admission(count: u64, ramp_seconds: u32) -> Vec<(i64, UserId)> {
    let mut users: Vec<_> =
        users(0..count).into_iter().map(|user| (key().admitted_at(0, ramp_seconds, &user), user)).collect();
    users.sort();
    users
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// Redis and the domain agree on each outcome, whatever the ramp and the drops. What Redis decides is between the
    /// times that it returned before and after the call.
    #[test]
    fn random_release_is_applied_as_in_the_domain(
        ramp_seconds in proptest::option::of(1..2000_u32),
        started_before in 0..1_500_000_i64,
        total in 1..30_u64,
        drops in proptest::collection::btree_map(-600_000..600_000_i64, 1..10_u64, 0..6),
        batches in proptest::collection::vec(proptest::collection::vec(0..60_u64, 1..20), 1..8),
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let event = Event::prepared().await;
            event.load(0, total).await;
            let created = event.now().await;
            let start = created - started_before;
            let drops: Vec<_> = drops.into_iter().map(|(offset, count)| (created + offset, count)).collect();
            let release = release(ramp_seconds, &drops);
            event.release(Gate::Open, Some(start), &release, total).await;
            prop_assert_eq!(&event.observe().await.release, &release);

            let mut holders = HashSet::new();
            for batch in batches {
                let batch: Vec<UserId> = batch.into_iter().flat_map(|user| users(user..user + 1)).collect();
                let before = event.now().await;
                let outcomes = event.ask(&batch).await;
                let after = event.now().await;
                let issued_before = holders.len() as u64;
                // At the earliest and at the latest time of the call.
                let released = |now| total.saturating_sub(release.drops.held_back(now));
                for (user, outcome) in batch.iter().zip(&outcomes) {
                    let admitted_at = ramp_seconds.map_or(start, |ramp| key().admitted_at(start, ramp, user));
                    match outcome {
                        IssueOutcome::Duplicate(_) => prop_assert!(holders.contains(user)),
                        IssueOutcome::Issued(_) => {
                            prop_assert!(admitted_at <= after, "{user} was not admitted");
                            prop_assert!(holders.insert(user.clone()));
                        }
                        IssueOutcome::Wait { admitted_at: at } => {
                            prop_assert_eq!(*at, admitted_at);
                            prop_assert!(before < admitted_at && issued_before < released(after));
                        }
                        IssueOutcome::SoldOut { next_drop_at: next } => {
                            prop_assert!(*next == release.drops.next_at(before) || *next == release.drops.next_at(after));
                            let issued = outcomes.iter().filter(|o| matches!(o, IssueOutcome::Issued(_))).count() as u64;
                            prop_assert!(issued_before + issued >= released(before), "coupons were available");
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                    if holders.contains(user) {
                        prop_assert!(matches!(outcome, IssueOutcome::Issued(_) | IssueOutcome::Duplicate(_)));
                    }
                }
                prop_assert!(holders.len() as u64 <= released(after).max(issued_before), "more than was released");
            }
            let observed = event.observe().await;
            prop_assert_eq!((observed.issued, observed.available), (holders.len() as u64, total - observed.issued));
            let held_back = release.drops.held_back(observed.now);
            prop_assert_eq!(observed.available_at(observed.now), observed.available.saturating_sub(held_back));
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn all_users_receive_a_coupon_at_their_time_and_the_stock_is_exact() {
    let (count, event) = (100, Event::prepared().await);
    event.load(0, count).await;
    let start = event.now().await + 100;
    let release = release(Some(1), &[(start + 300, 30), (start + 600, 30), (start + 1200, 20)]);
    event.release(Gate::Open, Some(start), &release, count).await;

    let (mut waiting, mut last_issued) = (users(0..count), 0);
    while !waiting.is_empty() {
        let before = event.now().await;
        let outcomes = event.ask(&waiting).await;
        let mut left = Vec::new();
        for (user, outcome) in waiting.into_iter().zip(outcomes) {
            match outcome {
                IssueOutcome::Issued(issued) => {
                    assert!(issued.issued_at >= key().admitted_at(start, 1, &user), "{user}: {issued:?}");
                    last_issued = last_issued.max(issued.issued_at);
                }
                IssueOutcome::Wait { .. }
                | IssueOutcome::SoldOut { next_drop_at: Some(_) }
                | IssueOutcome::NotStarted => {
                    left.push(user);
                }
                other => panic!("{user}: {other:?}"),
            }
        }
        let issued = count - left.len() as u64;
        let released = count - release.drops.held_back(event.now().await);
        assert!(issued <= released, "{issued} of {released} coupons are issued");
        let released_before = count - release.drops.held_back(before);
        let all_admitted = before >= start + 1000;
        assert!(!all_admitted || issued >= released_before, "{issued} of {released_before} coupons are issued");
        waiting = left;
    }
    assert!(last_issued >= start + 1200, "the last drop was issued early");
    assert_eq!(event.ask(&users(200..201)).await, [SOLD_OUT]);
    let observed = event.observe().await;
    assert_eq!((observed.issued, observed.available, observed.loaded), (count, 0, count));
}

/// Closed gates and holders come first, then an empty stock, then the admission.
#[tokio::test]
async fn outcome_has_the_documented_precedence() {
    let ramp = 3600;
    let by_time = by_admission(300, ramp);
    let (early, late) = (by_time[0].1.clone(), by_time[299].1.clone());
    let late_at = by_time[299].0;
    assert!(by_time[0].0 < 60_000 && late_at > 3_000_000, "{:?}", (by_time[0].0, late_at));
    let both = [early.clone(), late.clone()];

    let event = Event::prepared().await;
    event.load(0, 4).await;
    let now = event.now().await;
    // The early one is admitted, the late one is not.
    let start = now - 60_000;
    let next = now + 600_000;
    let ramp_only = release(Some(ramp), &[]);
    let wait = IssueOutcome::Wait { admitted_at: start + late_at };

    event.release(Gate::Open, Some(now + 3_600_000), &ramp_only, 4).await;
    assert_eq!(event.ask(&both).await, [IssueOutcome::NotStarted, IssueOutcome::NotStarted]);
    event.release(Gate::Paused, Some(start), &ramp_only, 4).await;
    assert_eq!(event.ask(&both).await, [IssueOutcome::Paused, IssueOutcome::Paused]);

    // No coupon is released yet: also users who are not admitted receive SOLD_OUT.
    let sold_out = IssueOutcome::SoldOut { next_drop_at: Some(next) };
    event.release(Gate::Open, Some(start), &release(Some(ramp), &[(next, 3), (next + 1, 1)]), 4).await;
    assert_eq!(event.ask(&both).await, [sold_out.clone(), sold_out.clone()]);

    event.release(Gate::Open, Some(start), &release(Some(ramp), &[(next, 3)]), 4).await;
    assert_eq!(event.ask(std::slice::from_ref(&late)).await, std::slice::from_ref(&wait));
    assert!(matches!(event.ask(std::slice::from_ref(&early)).await[..], [IssueOutcome::Issued(_)]));
    let outcomes = event.ask(&both).await;
    assert!(matches!(outcomes[0], IssueOutcome::Duplicate(_)), "{outcomes:?}");
    assert_eq!(outcomes[1], sold_out);

    event.release(Gate::Open, Some(start), &ramp_only, 4).await;
    assert_eq!(event.ask(&both).await[1], wait);
    // The holder keeps the coupon also if the ramp begins later.
    event.release(Gate::Open, Some(now - 1), &ramp_only, 4).await;
    assert!(matches!(event.ask(&both).await[0], IssueOutcome::Duplicate(_)));
    event.release(Gate::Paused, Some(start), &ramp_only, 4).await;
    let outcomes = event.ask(&both).await;
    assert!(matches!(outcomes[..], [IssueOutcome::Duplicate(_), IssueOutcome::Paused]), "{outcomes:?}");

    // Closing keeps the release, which it does not know.
    event.release(Gate::Closed, Some(start), &Release::default(), 4).await;
    assert_eq!(event.ask(&both).await[1], IssueOutcome::Ended);
    let observed = event.observe().await;
    assert_eq!((observed.release, observed.admission_key), (ramp_only, Some(key())));
}

/// A cancelled coupon is not part of any drop.
#[tokio::test]
async fn requeued_and_added_coupons_are_available_before_the_next_drop() {
    let event = Event::prepared().await;
    event.load(0, 4).await;
    let next = event.now().await + 600_000;
    let drops = release(None, &[(next, 2)]);
    event.release(Gate::Open, None, &drops, 4).await;
    let sold_out = IssueOutcome::SoldOut { next_drop_at: Some(next) };
    let outcomes = event.ask(&users(0..3)).await;
    let IssueOutcome::Issued(issued) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(outcomes[2], sold_out);
    assert_eq!(event.available().await, 0);

    let (user, coupon) = (issued.user_id.clone(), issued.coupon.clone());
    let cancelled = Settlement { user, coupon, outcome: SettlementOutcome::Cancelled { requeue: true } };
    event.redis_store.settle(&event.id, event.uid, &[cancelled]).await.unwrap();
    assert_eq!(event.available().await, 1);
    assert!(matches!(event.ask(&users(2..4)).await[..], [IssueOutcome::Issued(_), IssueOutcome::SoldOut { .. }]));

    event.load(4, 1).await;
    event.release(Gate::Open, None, &drops, 5).await;
    assert!(matches!(event.ask(&users(3..5)).await[..], [IssueOutcome::Issued(_), IssueOutcome::SoldOut { .. }]));
    assert_eq!(event.ask(&users(4..5)).await, [sold_out]);
}

/// Otherwise all coupons would be released at once.
#[tokio::test]
async fn damaged_release_issues_nothing() {
    let event = Event::prepared().await;
    event.load(0, 10).await;
    let now = event.now().await;
    let (start, release) = (Some(now - 1000), release(Some(1), &[(now - 500, 2)]));
    event.release(Gate::Open, start, &release, 10).await;
    let holder = users(0..1);
    assert!(matches!(event.ask(&holder).await[..], [IssueOutcome::Issued(_)]));

    let (mut redis, meta) = event.meta();
    for (field, values) in [
        ("rampSeconds", &["", "x", "1.5", "-1", " 1"][..]),
        ("admissionKey", &["", "x", "0123456789abcdef"]),
        ("drops", &["x", "1", "1:", "1:2", "1:2,x", "1:2,3:4", ",", "-1:2,", "1:2,,3:4,"]),
        ("start", &[""]),
    ] {
        let intact: String = redis.hget(&meta, field).unwrap();
        for value in values {
            let _: u8 = redis.hset(&meta, field, value).unwrap();
            let observed = event.observe().await;
            let is_in_force =
                observed.release == release && observed.admission_key == Some(key()) && observed.window.start == start;
            assert!(!is_in_force, "{field}={value}: the operator does not set the gate again");
            let error = event.redis_store.issue(&event.id, &users(0..3)).await.unwrap_err();
            assert!(chain(&error).contains("no valid rampSeconds, admissionKey or drops"), "{field}={value}: {error}");
            let outcomes = event.ask(&holder).await;
            assert!(matches!(outcomes[..], [IssueOutcome::Duplicate(_)]), "{field}={value}: {outcomes:?}");
        }
        let _: u8 = redis.hset(&meta, field, intact).unwrap();
    }
    let _: u8 = redis.hdel(&meta, "rampSeconds").unwrap();
    event.redis_store.issue(&event.id, &users(0..3)).await.unwrap_err();
    let _: u8 = redis.hset(&meta, "drops", "x").unwrap();
    let damaged = event.observe().await;
    assert_eq!((damaged.damaged_release.is_some(), &damaged.release), (true, &Release::default()));
    event.release(Gate::Open, start, &release, 10).await;
    let repaired = event.observe().await;
    assert_eq!((repaired.issued, repaired.damaged_release.is_some(), &repaired.release), (1, false, &release));
    assert!(matches!(event.ask(&users(1..2)).await[..], [IssueOutcome::Issued(_)]));
    assert!(!format!("{:?}", event.observe().await).contains(key().as_str()), "the key is secret");
}
