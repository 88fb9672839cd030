//! The scripts against a model: a thousand random sequences of steps, each step answered alike by Redis and by a few lines of Rust.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use crate::support::{Event, TEN_PERCENT, adopt, coupons};
use couponry_domain::{Coupon, Discount, Gate, UserId, Verdict, Window, code::CouponCode};
use couponry_redis::{Holding, Loaded, Outcome, Recovered, Settled, Settlement, SettlementOutcome, Status};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Issue(Vec<u8>),
    TopUp(u8),
    Gate(Gate, Option<i64>, Option<i64>),
    /// The users, and what became of the coupon they now hold; `true`: of a coupon they do not hold.
    Settle(Vec<(u8, End, bool)>),
    /// Redis is another one, and what it holds is found to be whole.
    Change,
    /// Redis is another one and is filled again; the chunks have this size.
    Restore(u8),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Completed,
    Cancelled,
    CancelledAndReturned,
    Replaced,
}

fn step() -> impl Strategy<Value = Step> {
    let user = 0..30u8;
    // A minute in the past or an hour in the future, relative to the clock of Redis.
    let time = prop_oneof![4 => Just(None), 1 => Just(Some(-60_000)), 1 => Just(Some(3_600_000))];
    let gate = prop_oneof![6 => Just(Gate::Open), 1 => Just(Gate::Paused), 1 => Just(Gate::Loading)];
    let end = prop_oneof![
        4 => Just(End::Completed),
        1 => Just(End::Cancelled),
        1 => Just(End::CancelledAndReturned),
        1 => Just(End::Replaced)
    ];
    prop_oneof![
        6 => proptest::collection::vec(user.clone(), 1..12).prop_map(Step::Issue),
        1 => (1..6u8).prop_map(Step::TopUp),
        2 => (gate, time.clone(), time).prop_map(|(gate, start, end)| Step::Gate(gate, start, end)),
        1 => Just(Step::Change),
        1 => (1..20u8).prop_map(Step::Restore),
        3 => proptest::collection::vec((user, end, proptest::bool::weighted(0.2)), 1..8).prop_map(Step::Settle),
    ]
}

/// What Redis should hold.
#[derive(Default)]
struct Model {
    queue: VecDeque<(CouponCode, Discount)>,
    issued: BTreeMap<UserId, Holding>,
    loaded: u64,
    verdict: Option<Verdict>,
    outbox: u64,
}

impl Model {
    fn issue(&mut self, users: &[UserId]) -> Vec<(&'static str, Option<CouponCode>)> {
        let mut wrote = false;
        let answers = users
            .iter()
            .map(|user| match self.issued.get(user).filter(|held| held.status != Status::Cancelled) {
                Some(held) => ("duplicate", Some(held.coupon.clone())),
                None => match self.verdict {
                    Some(Verdict::Open) => match self.queue.pop_front() {
                        Some((coupon, discount)) => {
                            wrote = true;
                            let held =
                                Holding { coupon: coupon.clone(), discount, issued_at: 0, status: Status::Pending };
                            self.issued.insert(user.clone(), held);
                            ("issued", Some(coupon))
                        }
                        None => ("sold out", None),
                    },
                    Some(Verdict::NotStarted) | None => ("not started", None),
                    Some(Verdict::Ended) => ("ended", None),
                    Some(Verdict::Paused) => ("paused", None),
                },
            })
            .collect();
        self.outbox += u64::from(wrote);
        answers
    }

    fn settle(&mut self, settlements: &[Settlement]) -> Settled {
        let mut settled = Settled::default();
        let mut taken = HashSet::new();
        for Settlement { user, coupon, outcome } in settlements {
            let Some(held) = self.issued.get_mut(user) else { continue };
            if held.coupon != *coupon || held.status != Status::Pending {
                continue;
            }
            let returns = match outcome {
                SettlementOutcome::Completed => {
                    held.status = Status::Completed;
                    settled.completed += 1;
                    false
                }
                SettlementOutcome::Cancelled { return_to_stock } => {
                    held.status = Status::Cancelled;
                    settled.cancelled += 1;
                    *return_to_stock
                }
                SettlementOutcome::Replaced { by, return_to_stock } => {
                    if *return_to_stock {
                        self.queue.push_back((held.coupon.clone(), held.discount));
                        settled.returned += 1;
                    }
                    taken.insert((by.coupon.clone(), by.discount));
                    *held = Holding { status: Status::Completed, ..by.clone() };
                    settled.completed += 1;
                    false
                }
            };
            if returns {
                self.queue.push_back((held.coupon.clone(), held.discount));
                settled.returned += 1;
            }
        }
        self.queue.retain(|item| !taken.contains(item));
        settled
    }
}

fn name(outcome: &Outcome) -> (&'static str, Option<CouponCode>) {
    match outcome {
        Outcome::Issued(held) => ("issued", Some(held.coupon.clone())),
        Outcome::Duplicate(held) => ("duplicate", Some(held.coupon.clone())),
        Outcome::SoldOut => ("sold out", None),
        Outcome::NotStarted => ("not started", None),
        Outcome::Ended => ("ended", None),
        Outcome::Paused => ("paused", None),
        Outcome::Unverified => ("unverified", None),
    }
}

fn user(number: u8) -> UserId {
    // Names that would matter if a script took them for syntax.
    format!("u{number}\",\"status\":\"CANCEL\"}}").parse().unwrap()
}

/// Makes the event believe that Redis is another one since it was known to be whole.
async fn distrust(event: &Event) {
    let key = format!("test-{}-couponMeta:{{summer}}", event.uid);
    couponry_testbed::redis::command(&couponry_testbed::shared::redis(), &["HSET", &key, "server", "0123"]).unwrap();
    let reply = event.stock.issue(&event.id, &[user(0), user(1)]).await.unwrap().unwrap();
    assert_eq!((reply.outcomes, reply.outbox), (vec![Outcome::Unverified; 2], None));
}

/// Fills Redis again with what the model holds, as from a database in which all of it is recorded, and every other coupon free.
async fn restore(event: &Event, model: &mut Model, size: usize) {
    distrust(event).await;
    let left = event.stock.left_behind(&event.id, Duration::ZERO, None, 1000).await.unwrap().entries;
    let left: Vec<_> = left.into_iter().map(|entry| entry.id).collect();
    event.stock.confirm(&event.id, &left).await.unwrap();
    model.outbox = 0;
    model.issued.retain(|_, held| held.status != Status::Cancelled);
    let mut seen = HashSet::new();
    // The database gives a coupon to one user only, and knows none that were never made.
    let all = coupons(0, model.loaded);
    let codes: HashSet<&str> = all.iter().map(|coupon| coupon.code.as_str()).collect();
    model.issued.retain(|_, held| codes.contains(held.coupon.as_str()) && seen.insert(held.coupon.clone()));
    model.issued.values_mut().for_each(|held| held.status = Status::Completed);
    model.queue = all
        .iter()
        .map(|coupon| (coupon.code.parse::<CouponCode>().unwrap(), coupon.discount))
        .filter(|(code, _)| !seen.contains(code))
        .collect();

    let now = event.stock.observe(&event.id).await.unwrap().unwrap();
    let Loaded::Here(recovery) = event.stock.recover(&event.id, &now, true).await.unwrap() else { panic!("{now:?}") };
    for chunk in all.chunks(size) {
        let (first, behind) = (chunk[0].ordinal, chunk[chunk.len() - 1].ordinal + 1);
        let of = |coupon: &Coupon| model.issued.iter().find(|(_, held)| held.coupon.as_str() == coupon.code);
        let held: Vec<_> = chunk.iter().filter_map(of).map(|(user, held)| (user.clone(), held.clone())).collect();
        let available: Vec<_> = chunk.iter().filter(|coupon| of(coupon).is_none()).cloned().collect();
        for _ in 0..2 {
            let loaded = event.stock.restore(&event.id, &now, &recovery, first..behind, &available, &held).await.unwrap();
            assert_eq!(loaded, Loaded::Here(behind));
        }
    }
    let recovered = Recovered { since: recovery.begun_at, recovery, total: model.loaded };
    assert_eq!(event.stock.adopt(&event.id, &now, Some(&recovered)).await.unwrap(), Loaded::Here(()));
}

async fn compare(first: u64, steps: Vec<Step>) {
    let event = Event::open(first).await;
    let now = event.stock.observe(&event.id).await.unwrap().unwrap().now;
    let item = |c: Coupon| (c.code.parse::<CouponCode>().unwrap(), c.discount);
    let mut model = Model { verdict: Some(Verdict::Open), loaded: first, ..Model::default() };
    model.queue.extend(coupons(0, first).into_iter().map(item));
    for step in steps {
        match step {
            Step::Issue(numbers) => {
                let users: Vec<_> = numbers.into_iter().map(user).collect();
                let reply = event.stock.issue(&event.id, &users).await.unwrap().unwrap();
                let answers: Vec<_> = reply.outcomes.iter().map(name).collect();
                assert_eq!(answers, model.issue(&users));
            }
            Step::TopUp(count) => {
                let count = u64::from(count);
                event.load(model.loaded, count).await;
                model.queue.extend(coupons(model.loaded, count).into_iter().map(item));
                model.loaded += count;
            }
            Step::Gate(gate, start, end) => {
                let window = Window { start: start.map(|t| now + t), end: end.map(|t| now + t) };
                assert_eq!(event.gate(gate, window, model.loaded).await, Loaded::Here(gate));
                model.verdict = Some(window.verdict(gate, now));
            }
            Step::Settle(ends) => {
                let settlements: Vec<_> = ends
                    .into_iter()
                    .map(|(number, end, wrong)| {
                        let user = user(number);
                        let held = model.issued.get(&user).filter(|_| !wrong).map(|held| held.coupon.clone());
                        // Every third has one that is still in the queue, as if Redis had forgotten who has it.
                        let available = model.queue.get(usize::from(number)).filter(|_| number % 3 == 0).cloned();
                        let (coupon, discount) =
                            available.unwrap_or_else(|| (format!("REPLACED-{number}").parse().unwrap(), TEN_PERCENT));
                        let by = Holding { coupon, discount, issued_at: 1, status: Status::Completed };
                        Settlement {
                            user,
                            coupon: held.unwrap_or_else(|| "ANOTHER".parse().unwrap()),
                            outcome: match end {
                                End::Completed => SettlementOutcome::Completed,
                                End::Cancelled => SettlementOutcome::Cancelled { return_to_stock: false },
                                End::CancelledAndReturned => SettlementOutcome::Cancelled { return_to_stock: true },
                                End::Replaced => SettlementOutcome::Replaced { by, return_to_stock: number % 2 == 0 },
                            },
                        }
                    })
                    .collect();
                let settled = event.stock.settle(&event.id, event.uid, &settlements).await.unwrap();
                assert_eq!(settled, Loaded::Here(model.settle(&settlements)));
                let again = event.stock.settle(&event.id, event.uid, &settlements).await.unwrap();
                assert_eq!(again, Loaded::Here(Settled::default()), "a repetition changes nothing");
            }
            Step::Change => {
                distrust(&event).await;
                adopt(&event.stock, &event.id).await;
            }
            Step::Restore(size) => restore(&event, &mut model, usize::from(size)).await,
        }
    }

    let observed = event.stock.observe(&event.id).await.unwrap().unwrap();
    let with = |status| model.issued.values().filter(|held| held.status == status).count() as u64;
    assert_eq!(observed.available, model.queue.len() as u64);
    assert_eq!(observed.issued, with(Status::Pending) + with(Status::Completed));
    assert_eq!(observed.completed, with(Status::Completed));
    assert_eq!(observed.cancelled, with(Status::Cancelled));
    assert_eq!(observed.outbox, model.outbox);
    let counted = i128::from(observed.available) + i128::from(observed.issued) + i128::from(observed.voided);
    assert_eq!(counted, i128::from(observed.loaded), "it always adds up: {observed:?}");
    assert_eq!(event.stock.scan_queue(&event.id).await.unwrap(), Vec::from(model.queue));
    let scanned = event.stock.scan_issued(&event.id).await.unwrap();
    assert_eq!(scanned.len(), model.issued.len());
    for (user, held) in &model.issued {
        assert_eq!((&scanned[user].coupon, scanned[user].status), (&held.coupon, held.status));
    }
    let holders: HashSet<_> =
        scanned.values().filter(|h| h.status != Status::Cancelled).map(|held| held.coupon.clone()).collect();
    assert_eq!(holders.len() as u64, observed.issued, "a coupon in two hands");
    assert!(event.stock.remove(&event.id, event.uid).await.unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn redis_does_what_the_model_does(first in 0..40u64, steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(first, steps));
    }

    #[test]
    fn batches_change_nothing_of_what_users_get(
        stock in 0..40u64,
        asked in proptest::collection::vec(0..50u8, 1..80),
        sizes in proptest::collection::vec(1..20usize, 1..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let users: Vec<_> = asked.into_iter().map(user).collect();
            let one_by_one = ask(stock, users.chunks(1)).await;
            let mut left = users.as_slice();
            let batches = sizes.iter().cycle().map_while(|size| {
                let (batch, rest) = left.split_at((*size).min(left.len()));
                left = rest;
                (!batch.is_empty()).then_some(batch)
            });
            assert_eq!(ask(stock, batches).await, one_by_one);
        });
    }
}

/// What users are told who ask in these batches.
async fn ask(stock: u64, batches: impl Iterator<Item = &[UserId]>) -> Vec<(&'static str, Option<CouponCode>)> {
    let event = Event::open(stock).await;
    let mut told = Vec::new();
    for batch in batches {
        let reply = event.stock.issue(&event.id, batch).await.unwrap().unwrap();
        told.extend(reply.outcomes.iter().map(name));
    }
    assert!(event.stock.remove(&event.id, event.uid).await.unwrap());
    told
}
