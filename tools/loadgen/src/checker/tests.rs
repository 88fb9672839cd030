//! A good history passes; each way to break it is found by the finding that is there for it.

use couponry_domain::DiscountType::{Amount, Percent};

use super::*;
use crate::history::{Answer, Outcome, Problem, Reason};

const TEN: Discount = Discount { kind: Percent, value: 10 };
const WON: Discount = Discount { kind: Amount, value: 10 };

const TOLD_RECORDED: &str = "who was told a coupon has it in Postgres";
const TOLD_AGAIN: &str = "a coupon once told is told again";
const ONE_USER: &str = "no coupon in two hands";
const ONE_COUPON: &str = "no user with two coupons";
const ONE_ANSWER: &str = "a user hears of one coupon, and wins once";
const RECORDED_ONCE: &str = "every issuance is recorded once";
const STOCKED: &str = "every coupon is of the stock, at its worth";
const ASKED: &str = "no coupon for who never asked or was denied";
const WELL_FORMED: &str = "no answer contradicts itself";
const PLANNED: &str = "Postgres has the planned stock";
const SAME_STOCK: &str = "Redis has the same stock";
const REDIS_AGREES: &str = "Redis and Postgres agree on every user";
const KAFKA_AGREES: &str = "Kafka and Postgres agree on every user";
const COMPLETED: &str = "Redis knows that everything is recorded";
const LEFT_OVER: &str = "nothing is stuck or dead on the way";
const WINDOW: &str = "nothing was issued outside of the window";
const BEGUN: &str = "what has begun has begun for everyone";

fn code(number: u32) -> CouponCode {
    format!("S-{number}").parse().unwrap()
}

fn user(number: u32) -> UserId {
    format!("u{number}").parse().unwrap()
}

fn worth(number: u32) -> Discount {
    if number.is_multiple_of(2) { TEN } else { WON }
}

fn holding(number: u32) -> Holding {
    Holding { user: user(number), coupon: code(number), discount: worth(number), issued_at: 1000 + i64::from(number) }
}

fn attempt(who: u32, ask: u8, invoked: i64, outcome: Outcome) -> Attempt {
    Attempt { invoked, finished: invoked + 10, user: user(who), ask, attempt: 1, target: "http://a".into(), outcome }
}

fn given(reason: Option<Reason>, coupon: u32, discount: Discount) -> Outcome {
    Outcome::Ok(Answer {
        success: reason.is_none(),
        reason,
        coupon_key: Some(code(coupon).to_string()),
        message: None,
        discount_type: Some(discount.kind),
        discount_amount: Some(discount.value),
    })
}

fn denied(reason: Reason) -> Outcome {
    Outcome::Ok(Answer {
        success: false,
        reason: Some(reason),
        coupon_key: None,
        message: None,
        discount_type: None,
        discount_amount: None,
    })
}

fn unknown() -> Outcome {
    Outcome::Unknown(Problem { why: "no answer in time".into(), status: None })
}

/// Ten coupons, users 0 to 5 have those of their number, 6 to 9 are available:
/// 0 to 2 were told; 3 was told when asking again; 4 never heard; 5 asked twice; 6 came too late.
fn good() -> Evidence {
    let coupons: Vec<_> = (0..10).map(|number| (code(number), worth(number))).collect();
    let holdings: Vec<_> = (0..6).map(holding).collect();
    let mut history: Vec<_> = (0..3).map(|who| attempt(who, 1, 100, given(None, who, worth(who)))).collect();
    history.extend([
        attempt(3, 1, 100, unknown()),
        attempt(3, 1, 200, given(Some(Reason::Duplicate), 3, worth(3))),
        attempt(4, 1, 100, unknown()),
        attempt(5, 1, 100, given(None, 5, worth(5))),
        // Sent before the other was answered, so it may have come first.
        attempt(5, 2, 105, denied(Reason::NotStarted)),
        attempt(5, 3, 200, given(Some(Reason::Duplicate), 5, worth(5))),
        attempt(6, 1, 300, denied(Reason::Ended)),
        attempt(7, 1, 300, Outcome::Refused(Problem { why: "cannot connect".into(), status: None })),
    ]);
    let mut records = holdings.clone();
    records.push(holding(2));
    Evidence {
        total: 10,
        expected: BTreeMap::from([(TEN, 5), (WON, 5)]),
        history,
        redis: RedisSide {
            queue: coupons[6..].to_vec(),
            issued: holdings.iter().map(|holding| (holding.clone(), Status::Completed)).collect(),
            outbox: 0,
            window: Window { start: Some(1000), end: Some(2000) },
        },
        kafka: KafkaSide { records, ..KafkaSide::default() },
        postgres: PostgresSide { coupons, issuances: holdings },
    }
}

/// Breaks the good evidence and gives the promises that the checker finds broken.
fn broken(change: impl FnOnce(&mut Evidence)) -> Vec<&'static str> {
    let mut evidence = good();
    change(&mut evidence);
    let report = check(&evidence);
    assert!(!report.is_good(), "not found:\n{report}");
    for finding in report.broken() {
        assert!(!finding.examples.is_empty(), "{finding:?}");
    }
    report.broken().map(|finding| finding.promise).collect()
}

/// Changes user `who`'s holding in all three stores, so that they still agree.
fn everywhere(evidence: &mut Evidence, who: u32, change: impl Fn(&mut Holding)) {
    let redis = evidence.redis.issued.iter_mut().map(|(holding, _)| holding);
    let all = redis.chain(&mut evidence.kafka.records).chain(&mut evidence.postgres.issuances);
    all.filter(|holding| holding.user == user(who)).for_each(change);
}

#[test]
fn a_good_history_passes() {
    let report = check(&good());
    assert!(report.is_good(), "{report}");
    let text = report.to_string();
    assert!(text.contains("All 18 promises held."), "{text}");
    assert!(text.contains("2 unknown: 1 users heard when asking again, 1 have a coupon unheard"));
    assert!(text.contains("7 sent (1 of them again), 6 recorded"), "{text}");
    assert!(text.contains("4 available + 6 issued = 10"), "{text}");
}

#[test]
fn lost_told_and_recorded_nowhere() {
    let found = broken(|evidence| {
        evidence.redis.issued.remove(1);
        evidence.kafka.records.remove(1);
        evidence.postgres.issuances.remove(1);
        evidence.redis.queue.push((code(1), worth(1)));
    });
    assert_eq!(found, [TOLD_RECORDED]);
}

#[test]
fn lost_between_redis_and_kafka() {
    let found = broken(|evidence| {
        evidence.kafka.records.remove(1);
        evidence.postgres.issuances.remove(1);
    });
    assert_eq!(found, [TOLD_RECORDED, REDIS_AGREES]);
}

#[test]
fn lost_between_kafka_and_postgres_also_of_one_who_never_heard() {
    assert_eq!(broken(|evidence| drop(evidence.postgres.issuances.remove(4))), [REDIS_AGREES, KAFKA_AGREES]);
}

#[test]
fn lost_told_one_coupon_and_recorded_another() {
    let found = broken(|evidence| {
        everywhere(evidence, 1, |holding| (holding.coupon, holding.discount) = (code(7), WON));
        evidence.redis.queue[1] = (code(1), WON);
    });
    assert_eq!(found, [TOLD_RECORDED, ONE_COUPON]);
}

#[test]
fn lost_told_a_coupon_and_later_that_there_is_none() {
    let found = broken(|evidence| evidence.history.push(attempt(5, 2, 111, denied(Reason::SoldOut))));
    assert_eq!(found, [TOLD_AGAIN]);
}

#[test]
fn duplicated_one_coupon_told_to_two_users() {
    let found = broken(|evidence| evidence.history.push(attempt(8, 1, 100, given(None, 1, worth(1)))));
    assert_eq!(found, [TOLD_RECORDED, ONE_USER]);
}

#[test]
fn duplicated_one_coupon_in_two_hands_in_every_store() {
    let found = broken(|evidence| {
        everywhere(evidence, 4, |holding| (holding.coupon, holding.discount) = (code(2), worth(2)));
        evidence.redis.queue.push((code(4), worth(4)));
    });
    assert_eq!(found, [ONE_USER, RECORDED_ONCE, SAME_STOCK]);
}

#[test]
fn duplicated_one_user_with_two_coupons_in_kafka() {
    let second = Holding { user: user(1), ..holding(7) };
    let found = broken(|evidence| evidence.kafka.records.push(second));
    assert_eq!(found, [ONE_COUPON, KAFKA_AGREES]);
}

#[test]
fn duplicated_two_answers_that_differ() {
    let found = broken(|evidence| evidence.history.push(attempt(1, 2, 200, given(Some(Reason::Duplicate), 7, WON))));
    assert_eq!(found, [TOLD_RECORDED, ONE_COUPON, ONE_ANSWER]);
    let found = broken(|evidence| evidence.history.push(attempt(1, 2, 200, given(Some(Reason::Duplicate), 1, TEN))));
    assert_eq!(found, [TOLD_RECORDED, ONE_ANSWER, STOCKED]);
}

#[test]
fn duplicated_two_successes_for_one_user() {
    let found = broken(|evidence| evidence.history.push(attempt(1, 2, 200, given(None, 1, worth(1)))));
    assert_eq!(found, [ONE_ANSWER]);
}

#[test]
fn duplicated_recorded_twice() {
    assert_eq!(broken(|evidence| evidence.postgres.issuances.push(holding(1))), [RECORDED_ONCE]);
}

#[test]
fn unexpected_a_coupon_that_was_never_stocked() {
    let found = broken(|evidence| {
        everywhere(evidence, 4, |holding| holding.coupon = code(99));
        evidence.redis.queue.push((code(4), worth(4)));
    });
    assert_eq!(found, [STOCKED, SAME_STOCK]);
    let found = broken(|evidence| evidence.history.push(attempt(8, 1, 100, given(None, 99, TEN))));
    assert_eq!(found, [TOLD_RECORDED, STOCKED]);
}

#[test]
fn unexpected_a_wrong_discount() {
    let found = broken(|evidence| everywhere(evidence, 4, |holding| holding.discount = WON));
    assert_eq!(found, [STOCKED]);
    assert_eq!(broken(|evidence| evidence.redis.queue[0].1 = WON), [STOCKED]);
}

#[test]
fn unexpected_recorded_for_one_who_never_asked_or_was_denied() {
    assert_eq!(broken(|evidence| evidence.history.retain(|attempt| attempt.user != user(4))), [ASKED]);
    let found = broken(|evidence| evidence.history[5].outcome = denied(Reason::SoldOut));
    assert_eq!(found, [ASKED]);
}

#[test]
fn unexpected_an_answer_that_contradicts_itself() {
    let found = broken(|evidence| {
        let Outcome::Ok(answer) = &mut evidence.history[0].outcome else { unreachable!("the first is answered") };
        answer.reason = Some(Reason::SoldOut);
    });
    assert_eq!(found, [WELL_FORMED]);
}

#[test]
fn recovered_is_no_error_however_it_ended() {
    let mut evidence = good();
    evidence.history.push(attempt(9, 1, 100, unknown()));
    assert!(check(&evidence).is_good());
}

#[test]
fn stock_of_another_size_or_split() {
    assert_eq!(broken(|evidence| evidence.total = 11), [PLANNED]);
    assert_eq!(broken(|evidence| evidence.expected = BTreeMap::from([(TEN, 10)])), [PLANNED]);
    let found = broken(|evidence| evidence.postgres.coupons.push((code(9), WON)));
    assert_eq!(found, [PLANNED]);
}

#[test]
fn stock_that_vanished_or_doubled_in_redis() {
    assert_eq!(broken(|evidence| drop(evidence.redis.queue.pop())), [SAME_STOCK]);
    assert_eq!(broken(|evidence| evidence.redis.queue.push((code(6), TEN))), [SAME_STOCK]);
    assert_eq!(broken(|evidence| evidence.redis.queue.push((code(0), TEN))), [SAME_STOCK]);
}

#[test]
fn stores_that_tell_another_time() {
    assert_eq!(broken(|evidence| evidence.redis.issued[0].0.issued_at += 1), [REDIS_AGREES]);
}

#[test]
fn a_status_that_never_came() {
    assert_eq!(broken(|evidence| evidence.redis.issued[0].1 = Status::Pending), [COMPLETED]);
    assert_eq!(broken(|evidence| evidence.redis.issued[0].1 = Status::Cancelled), [SAME_STOCK, COMPLETED]);
}

#[test]
fn leftovers_on_the_way() {
    assert_eq!(broken(|evidence| evidence.redis.outbox = 1), [LEFT_OVER]);
    assert_eq!(broken(|evidence| evidence.kafka.dead_letters.push("x".into())), [LEFT_OVER]);
    assert_eq!(broken(|evidence| evidence.kafka.unreadable.push("x".into())), [LEFT_OVER]);
}

#[test]
fn issued_outside_of_the_window() {
    assert_eq!(broken(|evidence| evidence.redis.window.start = Some(1001)), [WINDOW]);
    assert_eq!(broken(|evidence| evidence.redis.window.end = Some(1005)), [WINDOW]);
}

#[test]
fn told_to_wait_for_a_start_that_has_been() {
    // In the good history, one was told so who had asked before the first heard of a coupon.
    let late = attempt(9, 1, 111, denied(Reason::NotStarted));
    assert_eq!(broken(|evidence| evidence.history.push(late)), [BEGUN]);
}

#[test]
fn many_breaks_are_counted_and_some_are_shown() {
    let mut evidence = good();
    evidence.postgres = PostgresSide::default();
    let report = check(&evidence);
    let lost = &report.findings[0];
    assert_eq!((lost.broken, lost.examples.len()), (5, 5));
    let text = report.to_string();
    assert!(text.contains("BROKEN  lost        who was told a coupon has it in Postgres "), "{text}");
    assert!(text.contains("✗ u0 was told S-0 PERCENT:10, Postgres has nothing"), "{text}");
    assert!(text.contains("… and 1 more"), "{text}");
    assert!(text.contains("promises were BROKEN."), "{text}");
}
