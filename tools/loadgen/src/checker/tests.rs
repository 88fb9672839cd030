//! Consistent data passes; each kind of violation is detected by the check for it.

use std::collections::BTreeMap;

use couponry_domain::DiscountType::{Amount, Percent};
use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, IssuedCoupon, Release, UserId, Window};
use couponry_redis::{IssuedEntry, IssuedStatus};

use super::*;
use crate::history::Attempt;
use crate::outcome::{Failure, IssueResponse, Outcome, Reason};

mod release;

const PERCENT_10: Discount = Discount { kind: Percent, value: 10 };
const AMOUNT_10: Discount = Discount { kind: Amount, value: 10 };

const RESPONSES_RECORDED: &str = "coupons in responses are recorded in Postgres";
const NOT_CANCELLED: &str = "no coupon in a response is cancelled afterwards";
const NO_DENIAL: &str = "no user is denied a coupon after receiving it";
const ONE_HOLDER: &str = "each coupon has one holder";
const ONE_COUPON: &str = "each user has one coupon";
const RESPONSES_AGREE: &str = "all responses to a user agree";
const RECORDED_ONCE: &str = "every issuance is recorded once";
const GENERATED: &str = "every coupon was generated, with the same discount";
const REQUESTED: &str = "every holder sent a request that was not denied";
const VALID_RESPONSES: &str = "no response contradicts itself";
const PLANNED: &str = "Postgres has the planned coupons";
const SAME_COUPONS: &str = "Redis has the same coupons";
const REDIS_AGREES: &str = "Redis and Postgres agree on every issuance";
const KAFKA_AGREES: &str = "Kafka and Postgres agree on every issuance";
const MARKED_RECORDED: &str = "Redis has marked every issuance as recorded";
const NOTHING_UNSENT: &str = "the outbox is empty, no record is dead-lettered or undecodable";
const VERIFIED: &str = "Redis is verified";
const IN_WINDOW: &str = "no coupon is issued outside of the window";
const NO_NOT_STARTED: &str = "no user receives NOT_STARTED after the first coupon";

pub(super) fn code(number: u32) -> CouponCode {
    format!("S-{number}").parse().unwrap()
}

fn user(number: u32) -> UserId {
    format!("u{number}").parse().unwrap()
}

fn discount(number: u32) -> Discount {
    if number.is_multiple_of(2) { PERCENT_10 } else { AMOUNT_10 }
}

fn issued(number: u32) -> IssuedCoupon {
    IssuedCoupon {
        user_id: user(number),
        coupon: code(number),
        discount: discount(number),
        issued_at: 1000 + i64::from(number),
    }
}

pub(super) fn attempt(number: u32, request: u8, invoked: i64, outcome: Outcome) -> Attempt {
    Attempt {
        invoked,
        finished: invoked + 10,
        user: user(number),
        request,
        attempt: 1,
        target: "http://a".into(),
        outcome,
    }
}

fn with_coupon(reason: Option<Reason>, coupon: u32, discount: Discount) -> Outcome {
    Outcome::Answered(IssueResponse {
        success: reason.is_none(),
        reason,
        coupon_key: Some(code(coupon).to_string()),
        message: None,
        discount_type: Some(discount.kind),
        discount_amount: Some(discount.value),
        admitted_at: None,
        next_drop_at: None,
        valid_until: None,
    })
}

pub(super) fn denied(reason: Reason) -> Outcome {
    Outcome::Answered(IssueResponse {
        success: false,
        reason: Some(reason),
        coupon_key: None,
        message: None,
        discount_type: None,
        discount_amount: None,
        admitted_at: None,
        next_drop_at: None,
        valid_until: None,
    })
}

fn unknown() -> Outcome {
    Outcome::Unknown(Failure { message: "no response: timeout".into(), status: None })
}

/// Ten coupons: 0 to 5 are issued to the users with these numbers, 6 to 9 are available. Users 0 to 2 received their
/// coupon, user 3 after a retry, user 4 received no response, user 5 sent three requests, and user 6 was too late.
pub(super) fn consistent_input() -> CheckInput {
    let coupons: Vec<_> = (0..10).map(|number| (code(number), discount(number))).collect();
    let issuances: Vec<_> = (0..6).map(issued).collect();
    let mut history: Vec<_> =
        (0..3).map(|number| attempt(number, 1, 100, with_coupon(None, number, discount(number)))).collect();
    history.extend([
        attempt(3, 1, 100, unknown()),
        attempt(3, 1, 200, with_coupon(Some(Reason::Duplicate), 3, discount(3))),
        attempt(4, 1, 100, unknown()),
        attempt(5, 1, 100, with_coupon(None, 5, discount(5))),
        // Sent before the previous request was answered, so it may have been executed first.
        attempt(5, 2, 105, denied(Reason::NotStarted)),
        attempt(5, 3, 200, with_coupon(Some(Reason::Duplicate), 5, discount(5))),
        attempt(6, 1, 300, denied(Reason::Ended)),
        attempt(7, 1, 300, Outcome::Rejected(Failure { message: "cannot connect".into(), status: None })),
    ]);
    let mut records = issuances.clone();
    records.push(issued(2));
    CheckInput {
        total: 10,
        expected: BTreeMap::from([(PERCENT_10, 5), (AMOUNT_10, 5)]),
        release: Release::default(),
        voids: Vec::new(),
        redis_clock_back: Vec::new(),
        history,
        redis: RedisData {
            queue: coupons[6..].to_vec(),
            issued: issuances
                .iter()
                .map(|issued| IssuedEntry { issued: issued.clone(), status: IssuedStatus::Completed })
                .collect(),
            outbox: 0,
            window: Window { start: Some(1000), end: Some(2000) },
            release: Release::default(),
            admission_key: None,
            is_verified: true,
        },
        kafka: KafkaData { records, ..KafkaData::default() },
        postgres: PostgresData { coupons, issuances, ..PostgresData::default() },
    }
}

fn dead_letter(number: u32) -> DeadLetter {
    DeadLetter { issued: issued(number), description: "offset 0 (unknown_coupon)".into() }
}

/// The checks which fail after this change to consistent data.
pub(super) fn failed_checks(change: impl FnOnce(&mut CheckInput)) -> Vec<&'static str> {
    let mut input = consistent_input();
    change(&mut input);
    let report = check(&input);
    assert!(!report.is_ok(), "no check failed:\n{report}");
    for result in report.failed() {
        assert!(!result.examples.is_empty(), "{result:?}");
    }
    report.failed().map(|result| result.property).collect()
}

/// Changes the issued coupon of user `number` in all three stores, so that they still agree.
fn change_in_all_stores(input: &mut CheckInput, number: u32, change: impl Fn(&mut IssuedCoupon)) {
    let redis = input.redis.issued.iter_mut().map(|entry| &mut entry.issued);
    let all = redis.chain(&mut input.kafka.records).chain(&mut input.postgres.issuances);
    all.filter(|issued| issued.user_id == user(number)).for_each(change);
}

#[test]
fn consistent_data_passes() {
    let report = check(&consistent_input());
    assert!(report.is_ok(), "{report}");
    let text = report.to_string();
    assert!(text.contains("All 25 checks passed."), "{text}");
    assert!(text.contains("2 unknown: 1 users received their coupon later, 1 received none although one is recorded"));
    assert!(text.contains("6 sent, 1 sent again, 6 recorded"), "{text}");
    assert!(text.contains("4 available + 6 issued = 10, 0 missing"), "{text}");
}

#[test]
fn returned_coupon_missing_in_all_stores_is_lost() {
    let failed = failed_checks(|input| {
        input.redis.issued.remove(1);
        input.kafka.records.remove(1);
        input.postgres.issuances.remove(1);
        input.redis.queue.push((code(1), discount(1)));
    });
    assert_eq!(failed, [RESPONSES_RECORDED]);
}

#[test]
fn issuance_missing_in_kafka_and_postgres_is_lost() {
    let failed = failed_checks(|input| {
        input.kafka.records.remove(1);
        input.postgres.issuances.remove(1);
    });
    assert_eq!(failed, [RESPONSES_RECORDED, REDIS_AGREES]);
}

#[test]
fn issuance_missing_in_postgres_is_inconsistent() {
    assert_eq!(failed_checks(|input| drop(input.postgres.issuances.remove(4))), [REDIS_AGREES, KAFKA_AGREES]);
}

#[test]
fn recorded_coupon_other_than_the_returned_one_is_lost() {
    let failed = failed_checks(|input| {
        change_in_all_stores(input, 1, |issued| (issued.coupon, issued.discount) = (code(7), AMOUNT_10));
        input.redis.queue[1] = (code(1), AMOUNT_10);
    });
    assert_eq!(failed, [RESPONSES_RECORDED, ONE_COUPON]);
}

#[test]
fn denial_after_coupon_is_lost() {
    let failed = failed_checks(|input| input.history.push(attempt(5, 2, 111, denied(Reason::SoldOut))));
    assert_eq!(failed, [NO_DENIAL]);
}

#[test]
fn coupon_returned_to_two_users_is_duplicated() {
    let failed = failed_checks(|input| input.history.push(attempt(8, 1, 100, with_coupon(None, 1, discount(1)))));
    assert_eq!(failed, [RESPONSES_RECORDED, ONE_HOLDER]);
}

#[test]
fn coupon_with_two_holders_in_all_stores_is_duplicated() {
    let failed = failed_checks(|input| {
        change_in_all_stores(input, 4, |issued| (issued.coupon, issued.discount) = (code(2), discount(2)));
        input.redis.queue.push((code(4), discount(4)));
    });
    assert_eq!(failed, [ONE_HOLDER, RECORDED_ONCE, SAME_COUPONS]);
}

#[test]
fn user_with_two_coupons_in_kafka_is_duplicated() {
    let second = IssuedCoupon { user_id: user(1), ..issued(7) };
    let failed = failed_checks(|input| input.kafka.records.push(second));
    assert_eq!(failed, [ONE_COUPON, KAFKA_AGREES]);
}

#[test]
fn different_responses_to_one_user_are_duplicated() {
    let failed = failed_checks(|input| {
        input.history.push(attempt(1, 2, 200, with_coupon(Some(Reason::Duplicate), 7, AMOUNT_10)));
    });
    assert_eq!(failed, [RESPONSES_RECORDED, ONE_COUPON, RESPONSES_AGREE]);
    let failed = failed_checks(|input| {
        input.history.push(attempt(1, 2, 200, with_coupon(Some(Reason::Duplicate), 1, PERCENT_10)));
    });
    assert_eq!(failed, [RESPONSES_RECORDED, RESPONSES_AGREE, GENERATED]);
}

#[test]
fn two_successes_of_one_user_are_duplicated() {
    let failed = failed_checks(|input| input.history.push(attempt(1, 2, 200, with_coupon(None, 1, discount(1)))));
    assert_eq!(failed, [RESPONSES_AGREE]);
}

#[test]
fn issuance_recorded_twice_is_duplicated() {
    assert_eq!(failed_checks(|input| input.postgres.issuances.push(issued(1))), [RECORDED_ONCE]);
}

#[test]
fn coupon_that_was_not_generated_is_unexpected() {
    let failed = failed_checks(|input| {
        change_in_all_stores(input, 4, |issued| issued.coupon = code(99));
        input.redis.queue.push((code(4), discount(4)));
    });
    assert_eq!(failed, [GENERATED, SAME_COUPONS]);
    let failed = failed_checks(|input| input.history.push(attempt(8, 1, 100, with_coupon(None, 99, PERCENT_10))));
    assert_eq!(failed, [RESPONSES_RECORDED, GENERATED]);
}

#[test]
fn wrong_discount_is_unexpected() {
    let failed = failed_checks(|input| change_in_all_stores(input, 4, |issued| issued.discount = AMOUNT_10));
    assert_eq!(failed, [GENERATED]);
    assert_eq!(failed_checks(|input| input.redis.queue[0].1 = AMOUNT_10), [GENERATED]);
}

#[test]
fn holder_without_request_is_unexpected() {
    assert_eq!(failed_checks(|input| input.history.retain(|attempt| attempt.user != user(4))), [REQUESTED]);
    let failed = failed_checks(|input| input.history[5].outcome = denied(Reason::SoldOut));
    assert_eq!(failed, [REQUESTED]);
}

#[test]
fn contradictory_response_is_unexpected() {
    let failed = failed_checks(|input| {
        let Outcome::Answered(response) = &mut input.history[0].outcome else {
            panic!("the first attempt is answered")
        };
        response.reason = Some(Reason::SoldOut);
    });
    assert_eq!(failed, [VALID_RESPONSES]);
}

#[test]
fn unknown_outcome_passes() {
    let mut input = consistent_input();
    input.history.push(attempt(9, 1, 100, unknown()));
    assert!(check(&input).is_ok());
}

#[test]
fn wrong_number_of_coupons_fails() {
    assert_eq!(failed_checks(|input| input.total = 11), [PLANNED]);
    assert_eq!(failed_checks(|input| input.expected = BTreeMap::from([(PERCENT_10, 10)])), [PLANNED]);
    let failed = failed_checks(|input| input.postgres.coupons.push((code(9), AMOUNT_10)));
    assert_eq!(failed, [PLANNED]);
}

#[test]
fn missing_or_duplicate_coupon_in_redis_fails() {
    assert_eq!(failed_checks(|input| drop(input.redis.queue.pop())), [SAME_COUPONS]);
    assert_eq!(failed_checks(|input| input.redis.queue.push((code(6), PERCENT_10))), [SAME_COUPONS]);
    assert_eq!(failed_checks(|input| input.redis.queue.push((code(0), PERCENT_10))), [SAME_COUPONS]);
}

#[test]
fn different_issue_time_is_inconsistent() {
    assert_eq!(failed_checks(|input| input.redis.issued[0].issued.issued_at += 1), [REDIS_AGREES]);
}

#[test]
fn status_other_than_completed_is_inconsistent() {
    assert_eq!(failed_checks(|input| input.redis.issued[0].status = IssuedStatus::Pending), [MARKED_RECORDED]);
    assert_eq!(
        failed_checks(|input| input.redis.issued[0].status = IssuedStatus::Cancelled),
        [SAME_COUPONS, MARKED_RECORDED]
    );
}

#[test]
fn pending_or_dead_lettered_record_is_inconsistent() {
    assert_eq!(failed_checks(|input| input.redis.outbox = 1), [NOTHING_UNSENT]);
    // The user of the dead letter received no response, or has the coupon.
    for number in [4, 1] {
        assert_eq!(failed_checks(|input| input.kafka.dead_letters.push(dead_letter(number))), [NOTHING_UNSENT]);
    }
    assert_eq!(failed_checks(|input| input.kafka.undecodable.push("x".into())), [NOTHING_UNSENT]);
}

#[test]
fn returned_coupon_that_is_cancelled_in_redis_is_not_lost_but_cancelled() {
    let failed = failed_checks(|input| {
        input.redis.issued[1].status = IssuedStatus::Cancelled;
        input.postgres.issuances.remove(1);
    });
    assert_eq!(failed, [NOT_CANCELLED, SAME_COUPONS, REDIS_AGREES, KAFKA_AGREES, MARKED_RECORDED]);
}

#[test]
fn returned_coupon_that_is_dead_lettered_is_not_lost_but_cancelled() {
    let failed = failed_checks(|input| {
        input.postgres.issuances.remove(1);
        input.kafka.dead_letters.push(dead_letter(1));
    });
    assert_eq!(failed, [NOT_CANCELLED, REDIS_AGREES, KAFKA_AGREES, NOTHING_UNSENT]);
}

#[test]
fn unverified_redis_is_inconsistent() {
    assert_eq!(failed_checks(|input| input.redis.is_verified = false), [VERIFIED]);
}

#[test]
fn records_of_a_deleted_topic_may_be_missing_in_kafka_only() {
    let mut input = consistent_input();
    input.kafka.is_incomplete = true;
    input.kafka.records.truncate(2);
    let report = check(&input);
    assert!(report.is_ok(), "{report}");
    let unrecorded = |input: &mut CheckInput| {
        input.kafka.is_incomplete = true;
        input.kafka.records.push(issued(9));
    };
    assert_eq!(failed_checks(unrecorded), [KAFKA_AGREES]);
}

#[test]
fn coupon_issued_outside_window_fails() {
    assert_eq!(failed_checks(|input| input.redis.window.start = Some(1001)), [IN_WINDOW]);
    assert_eq!(failed_checks(|input| input.redis.window.end = Some(1005)), [IN_WINDOW]);
}

#[test]
fn not_started_after_first_coupon_fails() {
    // The consistent history has such a response to a request which was sent before the first response with a coupon.
    let late = attempt(9, 1, 111, denied(Reason::NotStarted));
    assert_eq!(failed_checks(|input| input.history.push(late)), [NO_NOT_STARTED]);
}

#[test]
fn not_started_while_clock_of_redis_is_back_passes() {
    let late = attempt(9, 1, 111, denied(Reason::NotStarted));
    let is_valid_with = |back| {
        let mut input = consistent_input();
        input.history.push(late.clone());
        input.redis_clock_back = vec![back];
        check(&input).is_ok()
    };
    assert!(is_valid_with(late.finished..=late.finished + 1));
    assert!(is_valid_with(0..=late.invoked));
    assert!(!is_valid_with(late.finished + 1..=late.finished + 2));
    assert!(!is_valid_with(0..=late.invoked - 1));
}

#[test]
fn many_violations_are_counted_and_some_displayed() {
    let mut input = consistent_input();
    input.postgres = PostgresData::default();
    let report = check(&input);
    let lost = &report.results[0];
    assert_eq!((lost.violations, lost.examples.len()), (5, 5));
    let text = report.to_string();
    assert!(text.contains("FAILED  lost             coupons in responses are recorded in Postgres"), "{text}");
    assert!(text.contains("✗ u0 received S-0 PERCENT:10, but it is not recorded"), "{text}");
    assert!(text.contains("… and 1 more"), "{text}");
    assert!(text.contains("checks FAILED."), "{text}");
}
