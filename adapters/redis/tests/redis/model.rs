//! The scripts against a model: a thousand random sequences of steps, after each of which Redis and the model return
//! the same.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use crate::support::{Event, TEN_PERCENT, coupons, gate_settings, mark_verified};
use couponry_domain::{Coupon, Discount, Gate, IssuedCoupon, UserId, Window, WindowState, code::CouponCode};
use couponry_redis::{
    FencedWrite, IssueOutcome, IssuedEntry, IssuedStatus, Recovered, Settled, Settlement, SettlementOutcome,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Issue(Vec<u8>),
    TopUp(u8),
    Gate(Gate, Option<i64>, Option<i64>),
    /// Users with the decision about their coupon, or about another coupon if the flag is true.
    Settle(Vec<(u8, End, bool)>),
    /// Redis restarts without losing data.
    Restart,
    /// Redis restarts and is restored from the database, in chunks of this size.
    Restore(u8),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Completed,
    Voided,
    Cancelled,
    CancelledAndRequeued,
    Replaced,
}

fn step() -> impl Strategy<Value = Step> {
    let user = 0..30u8;
    // A minute in the past or an hour in the future, relative to the clock of Redis.
    let time = prop_oneof![4 => Just(None), 1 => Just(Some(-60_000)), 1 => Just(Some(3_600_000))];
    let gate = prop_oneof![6 => Just(Gate::Open), 1 => Just(Gate::Paused), 1 => Just(Gate::Loading)];
    let end = prop_oneof![
        4 => Just(End::Completed),
        1 => Just(End::Voided),
        1 => Just(End::Cancelled),
        1 => Just(End::CancelledAndRequeued),
        1 => Just(End::Replaced)
    ];
    prop_oneof![
        6 => proptest::collection::vec(user.clone(), 1..12).prop_map(Step::Issue),
        1 => (1..6u8).prop_map(Step::TopUp),
        2 => (gate, time.clone(), time).prop_map(|(gate, start, end)| Step::Gate(gate, start, end)),
        1 => Just(Step::Restart),
        1 => (1..20u8).prop_map(Step::Restore),
        3 => proptest::collection::vec((user, end, proptest::bool::weighted(0.2)), 1..8).prop_map(Step::Settle),
    ]
}

/// The expected content of Redis.
#[derive(Default)]
struct Model {
    queue: VecDeque<(CouponCode, Discount)>,
    issued: BTreeMap<UserId, IssuedEntry>,
    loaded: u64,
    state: Option<WindowState>,
    outbox: u64,
}

impl Model {
    fn issue(&mut self, users: &[UserId]) -> Vec<(&'static str, Option<CouponCode>)> {
        let mut wrote = false;
        let replies = users
            .iter()
            .map(|user| match self.issued.get(user).filter(|entry| entry.status != IssuedStatus::Cancelled) {
                Some(entry) if entry.status == IssuedStatus::Voided => ("voided", None),
                Some(entry) => ("duplicate", Some(entry.issued.coupon.clone())),
                None => match self.state {
                    Some(WindowState::Open) => match self.queue.pop_front() {
                        Some((coupon, discount)) => {
                            wrote = true;
                            let (user_id, coupon_of) = (user.clone(), coupon.clone());
                            let issued = IssuedCoupon { user_id, coupon: coupon_of, discount, issued_at: 0 };
                            self.issued.insert(user.clone(), IssuedEntry { issued, status: IssuedStatus::Pending });
                            ("issued", Some(coupon))
                        }
                        None => ("sold out", None),
                    },
                    Some(WindowState::NotStarted) | None => ("not started", None),
                    Some(WindowState::Ended) => ("ended", None),
                    Some(WindowState::Paused) => ("paused", None),
                },
            })
            .collect();
        self.outbox += u64::from(wrote);
        replies
    }

    fn settle(&mut self, settlements: &[Settlement]) -> Settled {
        let mut counts = Settled::default();
        let mut taken = HashSet::new();
        for Settlement { user, coupon, outcome } in settlements {
            let Some(entry) = self.issued.get_mut(user) else { continue };
            if entry.issued.coupon != *coupon {
                continue;
            }
            if *outcome == SettlementOutcome::Voided && entry.status == IssuedStatus::Completed {
                entry.status = IssuedStatus::Voided;
                counts.voided += 1;
            }
            if entry.status != IssuedStatus::Pending {
                continue;
            }
            let returns = match outcome {
                SettlementOutcome::Completed => {
                    entry.status = IssuedStatus::Completed;
                    counts.marked_recorded += 1;
                    false
                }
                SettlementOutcome::Voided => {
                    entry.status = IssuedStatus::Voided;
                    counts.marked_recorded += 1;
                    counts.voided += 1;
                    false
                }
                SettlementOutcome::Cancelled { requeue } => {
                    entry.status = IssuedStatus::Cancelled;
                    counts.cancelled += 1;
                    *requeue
                }
                SettlementOutcome::Replaced { by, requeue } => {
                    if *requeue {
                        self.queue.push_back((entry.issued.coupon.clone(), entry.issued.discount));
                        counts.requeued += 1;
                    }
                    taken.insert((by.coupon.clone(), by.discount));
                    *entry = IssuedEntry { issued: by.clone(), status: IssuedStatus::Completed };
                    counts.marked_recorded += 1;
                    false
                }
            };
            if returns {
                self.queue.push_back((entry.issued.coupon.clone(), entry.issued.discount));
                counts.requeued += 1;
            }
        }
        self.queue.retain(|item| !taken.contains(item));
        counts
    }
}

fn name(outcome: &IssueOutcome) -> (&'static str, Option<CouponCode>) {
    match outcome {
        IssueOutcome::Issued(issued) => ("issued", Some(issued.coupon.clone())),
        IssueOutcome::Duplicate(entry) => ("duplicate", Some(entry.issued.coupon.clone())),
        IssueOutcome::Voided => ("voided", None),
        IssueOutcome::SoldOut { .. } => ("sold out", None),
        IssueOutcome::Wait { .. } => ("wait", None),
        IssueOutcome::NotStarted => ("not started", None),
        IssueOutcome::Ended => ("ended", None),
        IssueOutcome::Paused => ("paused", None),
        IssueOutcome::Unverified => ("unverified", None),
        IssueOutcome::Undecodable => ("undecodable", None),
    }
}

fn user(number: u8) -> UserId {
    // Characters that a script must not interpret.
    format!("u{number}\",\"status\":\"CANCEL\"}}").parse().unwrap()
}

/// Makes Redis unverified for the event.
async fn unverify(event: &Event) {
    let key = format!("test-{}-couponMeta:{{summer}}", event.uid);
    couponry_testbed::redis::command(&couponry_testbed::shared::redis(), &["HSET", &key, "replicationId", "0123"])
        .unwrap();
    let reply = event.redis_store.issue(&event.id, &[user(0), user(1)]).await.unwrap().unwrap();
    assert_eq!((reply.outcomes, reply.outbox), (vec![IssueOutcome::Unverified; 2], None));
}

/// Restores Redis from a database in which everything that is issued in the model is recorded.
async fn restore(event: &Event, model: &mut Model, size: usize) {
    unverify(event).await;
    let left = event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 1000).await.unwrap().entries;
    let left: Vec<_> = left.into_iter().map(|entry| entry.id).collect();
    event.redis_store.delete_confirmed(&event.id, &left).await.unwrap();
    model.outbox = 0;
    model.issued.retain(|_, entry| entry.status != IssuedStatus::Cancelled);
    let mut issued = HashSet::new();
    // The database records one user per coupon, and only generated coupons.
    let all = coupons(0, model.loaded);
    let codes: HashSet<&str> = all.iter().map(|coupon| coupon.code.as_str()).collect();
    model
        .issued
        .retain(|_, entry| codes.contains(entry.issued.coupon.as_str()) && issued.insert(entry.issued.coupon.clone()));
    for entry in model.issued.values_mut().filter(|entry| entry.status != IssuedStatus::Voided) {
        entry.status = IssuedStatus::Completed;
    }
    model.queue = all
        .iter()
        .map(|coupon| (coupon.code.clone(), coupon.discount))
        .filter(|(code, _)| !issued.contains(code))
        .collect();

    let now = event.redis_store.observe(&event.id).await.unwrap().unwrap();
    let FencedWrite::Applied(recovery) = event.redis_store.begin_recovery(&event.id, &now, true).await.unwrap() else {
        panic!("{now:?}")
    };
    for chunk in all.chunks(size) {
        let (first, behind) = (chunk[0].ordinal, chunk[chunk.len() - 1].ordinal + 1);
        let of = |coupon: &Coupon| model.issued.values().find(|entry| entry.issued.coupon == coupon.code);
        let entry: Vec<_> = chunk.iter().filter_map(of).cloned().collect();
        let available: Vec<_> = chunk.iter().filter(|coupon| of(coupon).is_none()).cloned().collect();
        for _ in 0..2 {
            let loaded =
                event.redis_store.restore(&event.id, &now, &recovery, first..behind, &available, &entry).await.unwrap();
            assert_eq!(loaded, FencedWrite::Applied(behind));
        }
    }
    let recovered = Recovered {
        issued_at_min: recovery.begun_at,
        recovery,
        total: model.loaded,
        settings: gate_settings(now.gate, now.window, model.loaded),
    };
    assert_eq!(
        event.redis_store.mark_verified(&event.id, &now, Some(&recovered)).await.unwrap(),
        FencedWrite::Applied(())
    );
}

async fn compare(first: u64, steps: Vec<Step>) {
    let event = Event::open(first).await;
    let now = event.redis_store.observe(&event.id).await.unwrap().unwrap().now;
    let item = |c: Coupon| (c.code, c.discount);
    let mut model = Model { state: Some(WindowState::Open), loaded: first, ..Model::default() };
    model.queue.extend(coupons(0, first).into_iter().map(item));
    for step in steps {
        match step {
            Step::Issue(numbers) => {
                let users: Vec<_> = numbers.into_iter().map(user).collect();
                let reply = event.redis_store.issue(&event.id, &users).await.unwrap().unwrap();
                let replies: Vec<_> = reply.outcomes.iter().map(name).collect();
                assert_eq!(replies, model.issue(&users));
            }
            Step::TopUp(count) => {
                let count = u64::from(count);
                event.load(model.loaded, count).await;
                model.queue.extend(coupons(model.loaded, count).into_iter().map(item));
                model.loaded += count;
            }
            Step::Gate(gate, start, end) => {
                let window = Window { start: start.map(|t| now + t), end: end.map(|t| now + t) };
                assert_eq!(event.gate(gate, window, model.loaded).await, FencedWrite::Applied(gate));
                model.state = Some(window.state(gate, now));
            }
            Step::Settle(ends) => {
                let settlements: Vec<_> = ends
                    .into_iter()
                    .map(|(number, end, wrong)| {
                        let user = user(number);
                        let entry = model.issued.get(&user).filter(|_| !wrong).map(|entry| entry.issued.coupon.clone());
                        // Every third user is given a coupon that is in the queue, as if Redis had lost its issuance.
                        let available = model.queue.get(usize::from(number)).filter(|_| number % 3 == 0).cloned();
                        let (coupon, discount) =
                            available.unwrap_or_else(|| (format!("REPLACED-{number}").parse().unwrap(), TEN_PERCENT));
                        let by = IssuedCoupon { user_id: user.clone(), coupon, discount, issued_at: 1 };
                        Settlement {
                            user,
                            coupon: entry.unwrap_or_else(|| "ANOTHER".parse().unwrap()),
                            outcome: match end {
                                End::Completed => SettlementOutcome::Completed,
                                End::Voided => SettlementOutcome::Voided,
                                End::Cancelled => SettlementOutcome::Cancelled { requeue: false },
                                End::CancelledAndRequeued => SettlementOutcome::Cancelled { requeue: true },
                                End::Replaced => SettlementOutcome::Replaced { by, requeue: number % 2 == 0 },
                            },
                        }
                    })
                    .collect();
                let counts = event.redis_store.settle(&event.id, event.uid, &settlements).await.unwrap();
                assert_eq!(counts, FencedWrite::Applied(model.settle(&settlements)));
                let again = event.redis_store.settle(&event.id, event.uid, &settlements).await.unwrap();
                assert_eq!(again, FencedWrite::Applied(Settled::default()), "the call is idempotent");
            }
            Step::Restart => {
                unverify(&event).await;
                mark_verified(&event.redis_store, &event.id).await;
            }
            Step::Restore(size) => restore(&event, &mut model, usize::from(size)).await,
        }
    }

    let observed = event.redis_store.observe(&event.id).await.unwrap().unwrap();
    let with = |status| model.issued.values().filter(|entry| entry.status == status).count() as u64;
    assert_eq!(observed.available, model.queue.len() as u64);
    let recorded = with(IssuedStatus::Completed) + with(IssuedStatus::Voided);
    assert_eq!(observed.issued, with(IssuedStatus::Pending) + recorded);
    assert_eq!((observed.marked_recorded, observed.voided), (recorded, with(IssuedStatus::Voided)));
    assert_eq!(observed.cancelled, with(IssuedStatus::Cancelled));
    assert_eq!(observed.outbox, model.outbox);
    let counted = i128::from(observed.available) + i128::from(observed.issued) + i128::from(observed.withheld);
    assert_eq!(counted, i128::from(observed.loaded), "the counts do not match: {observed:?}");
    assert_eq!(event.redis_store.scan_queue(&event.id).await.unwrap(), Vec::from(model.queue));
    let scanned = event.redis_store.scan_issued(&event.id).await.unwrap();
    assert_eq!(scanned.len(), model.issued.len());
    for (user, entry) in &model.issued {
        assert_eq!((&scanned[user].issued.coupon, scanned[user].status), (&entry.issued.coupon, entry.status));
    }
    let holders: HashSet<_> = scanned
        .values()
        .filter(|h| h.status != IssuedStatus::Cancelled)
        .map(|entry| entry.issued.coupon.clone())
        .collect();
    assert_eq!(holders.len() as u64, observed.issued, "a coupon has two holders");
    assert!(event.redis_store.remove(&event.id, event.uid).await.unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn redis_matches_the_model(first in 0..40u64, steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(first, steps));
    }

    #[test]
    fn batch_size_does_not_change_outcomes(
        total in 0..40u64,
        asked in proptest::collection::vec(0..50u8, 1..80),
        sizes in proptest::collection::vec(1..20usize, 1..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let users: Vec<_> = asked.into_iter().map(user).collect();
            let one_by_one = ask(total, users.chunks(1)).await;
            let mut left = users.as_slice();
            let batches = sizes.iter().cycle().map_while(|size| {
                let (batch, rest) = left.split_at((*size).min(left.len()));
                left = rest;
                (!batch.is_empty()).then_some(batch)
            });
            assert_eq!(ask(total, batches).await, one_by_one);
        });
    }
}

/// The outcomes of these batches.
async fn ask(total: u64, batches: impl Iterator<Item = &[UserId]>) -> Vec<(&'static str, Option<CouponCode>)> {
    let event = Event::open(total).await;
    let mut outcomes = Vec::new();
    for batch in batches {
        let reply = event.redis_store.issue(&event.id, batch).await.unwrap().unwrap();
        outcomes.extend(reply.outcomes.iter().map(name));
    }
    assert!(event.redis_store.remove(&event.id, event.uid).await.unwrap());
    outcomes
}
