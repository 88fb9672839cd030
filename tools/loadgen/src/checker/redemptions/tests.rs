//! Consistent data passes; each kind of violation is detected by the check for it.

use serde_json::{Value, json};

use super::*;
use crate::checkout::history::{Operation, UseAttempt, UseCall, UseOutcome};
use crate::checkout::void_history::{VoidAttempt, VoidOutcome};

const STORED: &str = "confirmed uses of coupons are in Postgres";
const RETURNED: &str = "the redeemer returns every confirmed redemption";
const KNOWN: &str = "no coupon of a user is unknown";
const DECIDED: &str = "every request has an outcome after its retries";
const ONCE: &str = "each coupon is redeemed at most once";
const EQUAL: &str = "all responses to a request are equal";
const EXCLUDED: &str = "a reserved coupon is not used by another order";
const CAN_FOLLOW: &str = "each use of a coupon can follow the one before it";
const REQUESTED: &str = "every use was requested, and not refused";
const IN_ORDER: &str = "the history of each coupon is in the order of its responses";
const USABLE: &str = "a coupon is refused as reserved only while another order has reserved it";
const REASON: &str = "every other refusal has a reason in the history of the coupon";
const SAME_HISTORY: &str = "the redeemer returns the stored history";

/// The time of Postgres, in milliseconds, at which the request of this second was decided.
pub(super) fn at(second: i64) -> i64 {
    1000 * second + 5
}

pub(super) fn timestamp(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).unwrap().to_string()
}

fn call(operation: Operation, coupon: &str, order: &str) -> UseCall {
    UseCall {
        key: format!("{coupon}-{order}-{}", operation.name()),
        operation,
        coupon: coupon.to_owned(),
        user: "u1".parse().unwrap(),
        order: order.to_owned(),
        ttl_seconds: None,
    }
}

/// A request of this order to redeem the coupon.
pub(super) fn redeem(coupon: &str, order: &str) -> UseCall {
    call(Operation::Redeem, coupon, order)
}

/// An attempt that is sent at this second, and answered 10 ms later.
fn attempt(second: i64, call: &UseCall, outcome: UseOutcome) -> UseAttempt {
    let invoked = 1_000_000 * second;
    UseAttempt { invoked, finished: invoked + 10_000, target: "http://a".into(), call: call.clone(), outcome }
}

fn refused(status: u16, problem: &str) -> UseOutcome {
    UseOutcome::Decided { status, body: json!({"type": format!("https://couponry.dev/problems/{problem}")}) }
}

/// An attempt that is refused for this reason.
pub(super) fn refused_attempt(second: i64, call: &UseCall, problem: &str) -> UseAttempt {
    attempt(second, call, refused(409, problem))
}

fn unknown() -> UseOutcome {
    UseOutcome::Unknown("no response: timeout".into())
}

/// A change at this second, with its row.
fn change(input: &mut RedemptionInput, second: i64, call: &UseCall, seq: i32, until: Option<i64>) {
    let state = match call.operation {
        Operation::Reserve => "RESERVED",
        Operation::Redeem => "REDEEMED",
        Operation::Release => "ISSUED",
    };
    let body = json!({
        "couponKey": call.coupon, "orderId": call.order, "state": state, "changedAt": timestamp(at(second)),
        "reservedUntil": until.map(timestamp),
    });
    input.attempts.push(attempt(second, call, UseOutcome::Decided { status: 200, body }));
    input.rows.push(UseRow {
        coupon: call.coupon.clone(),
        seq,
        kind: call.operation.kind().to_owned(),
        order: Some(call.order.clone()),
        until,
        key: Some(call.key.clone()),
        at: at(second),
    });
}

/// A: reserved at 10 until 900, refused to another order, and redeemed; a request is repeated. B: reserved, released,
/// redeemed by another order. C: reserved until 13, then redeemed by another order; the first one is too late. D: the
/// first attempt to redeem it is unknown, and the second one is refused, but the first one takes effect later.
fn consistent_input() -> RedemptionInput {
    use Operation::{Redeem, Release, Reserve};
    let mut input = RedemptionInput::default();
    change(&mut input, 10, &call(Reserve, "A", "1"), 1, Some(900_000));
    input.attempts.push(attempt(11, &call(Redeem, "A", "2"), refused(409, "coupon-reserved")));
    input.attempts.push(attempt(12, &call(Redeem, "A", "1"), unknown()));
    change(&mut input, 13, &call(Redeem, "A", "1"), 2, None);
    input.attempts.push(attempt(14, &call(Reserve, "A", "1"), input.attempts[0].outcome.clone()));
    input.attempts.push(attempt(15, &call(Release, "A", "1"), refused(409, "coupon-redeemed-by-order")));

    input.attempts.push(attempt(9, &call(Release, "B", "1"), refused(409, "coupon-not-reserved")));
    change(&mut input, 10, &call(Reserve, "B", "1"), 1, Some(900_000));
    change(&mut input, 11, &UseCall { key: "B-1-release-2".into(), ..call(Release, "B", "1") }, 2, None);
    change(&mut input, 12, &call(Redeem, "B", "2"), 3, None);

    change(&mut input, 10, &call(Reserve, "C", "1"), 1, Some(13_000));
    change(&mut input, 14, &call(Redeem, "C", "2"), 2, None);
    input.attempts.push(attempt(15, &call(Redeem, "C", "1"), refused(409, "coupon-redeemed")));

    input.attempts.push(attempt(10, &call(Redeem, "D", "1"), unknown()));
    change(&mut input, 10, &call(Reserve, "D", "2"), 1, Some(900_000));
    input.attempts.push(attempt(11, &call(Redeem, "D", "1"), refused(409, "coupon-reserved")));
    change(&mut input, 12, &call(Release, "D", "2"), 2, None);
    change(&mut input, 13, &call(Redeem, "D", "1"), 3, None);
    // Its response was lost.
    input.attempts.pop();
    set_views(&mut input);
    set_messages(&mut input);
    input
}

/// The messages of the topic for the rows.
fn set_messages(input: &mut RedemptionInput) {
    let messages = input.rows.iter().map(|row| {
        let mut body = json!({"couponKey": row.coupon, "userId": "u1", "seq": row.seq, "kind": row.kind, "at": row.at});
        if let Some(order) = &row.order {
            body["orderId"] = json!(order);
        }
        if let Some(until) = row.until {
            body["reservedUntil"] = json!(until);
        }
        UseMessage { partition: 0, key: Some(row.coupon.clone()), version: Some("1".into()), body }
    });
    input.messages = messages.collect();
}

/// A confirmed void at this time.
pub(super) fn void_coupon(input: &mut RedemptionInput, coupon: &str, at: i64) {
    let coupon = coupon.to_owned();
    let last = input.rows.iter().filter(|row| row.coupon == coupon).map(|row| row.seq).max();
    let (seq, kind) = (last.unwrap_or_default() + 1, "VOIDED".to_owned());
    let view = input.views.entry(coupon.clone()).or_insert_with(|| json!({"history": []}));
    view["state"] = json!(kind);
    view["history"].as_array_mut().unwrap().push(json!({"seq": seq, "kind": kind, "orderId": null}));
    input.rows.push(UseRow { coupon: coupon.clone(), seq, kind, order: None, until: None, key: None, at });
    input.rows.sort_by_key(|row| (row.coupon.clone(), row.seq));
    let outcome = VoidOutcome::Voided;
    input.voids.push(VoidAttempt { coupon, invoked: 1000 * at - 5000, finished: 1000 * at + 5000, outcome });
}

/// The views that a redeemer returns for the rows.
fn set_views(input: &mut RedemptionInput) {
    for row in &input.rows {
        let view = input.views.entry(row.coupon.clone()).or_insert_with(|| json!({"history": []}));
        view["state"] = json!(if row.kind == "RELEASED" { "ISSUED" } else { &row.kind });
        let entry = json!({"seq": row.seq, "kind": row.kind, "orderId": row.order});
        view["history"].as_array_mut().unwrap().push(entry);
    }
}

pub(super) fn row<'a>(input: &'a mut RedemptionInput, coupon: &str, seq: i32) -> &'a mut UseRow {
    input.rows.iter_mut().find(|row| row.coupon == coupon && row.seq == seq).unwrap()
}

fn remove_row(input: &mut RedemptionInput, coupon: &str, seq: i32) {
    input.rows.retain(|row| row.coupon != coupon || row.seq != seq);
}

/// The checks which fail after this change to consistent data. Unless it changes the messages, they are those of the
/// changed rows.
pub(super) fn failed_checks(change: impl FnOnce(&mut RedemptionInput)) -> Vec<&'static str> {
    let mut input = consistent_input();
    let messages = input.messages.clone();
    change(&mut input);
    if input.messages == messages {
        set_messages(&mut input);
    }
    let report = check_redemptions(&input);
    report.failed().map(|result| result.property).collect()
}

#[test]
fn consistent_redemptions_pass() {
    let report = check_redemptions(&consistent_input());
    assert!(report.is_ok(), "{report}");
    assert!(check_redemptions(&RedemptionInput::default()).is_ok());
}

#[test]
fn lost_redemption_is_detected() {
    let failed = failed_checks(|input| remove_row(input, "A", 2));
    assert!(failed.contains(&STORED), "{failed:?}");
    let failed = failed_checks(|input| input.views.get_mut("A").unwrap()["state"] = json!("RESERVED"));
    assert_eq!(failed, [RETURNED]);
    let failed = failed_checks(|input| {
        input.views.get_mut("B").unwrap()["history"].as_array_mut().unwrap().pop();
    });
    assert_eq!(failed, [RETURNED, SAME_HISTORY]);
    // Of another order, or at another time, than the response says.
    for change in [
        (|row| row.order = Some("9".into())) as fn(&mut UseRow),
        |row| row.at += 1,
        |row| row.key = Some("unknown".into()),
    ] {
        let failed = failed_checks(|input| change(row(input, "C", 2)));
        assert!(failed.contains(&STORED), "{failed:?}");
    }
    let failed = failed_checks(|input| row(input, "A", 1).until = Some(900_001));
    assert_eq!(failed, [STORED]);
}

#[test]
fn unknown_coupon_is_detected() {
    let unknown = |status, problem: &str| {
        failed_checks(|input| {
            input.attempts.push(attempt(20, &call(Operation::Redeem, "A", "3"), refused(status, problem)));
        })
    };
    assert_eq!(unknown(404, "unknown-coupon"), [KNOWN]);
    assert_eq!(unknown(404, "unknown-event"), [KNOWN]);
    let problem = json!({"type": "https://couponry.dev/problems/unknown-coupon"});
    assert!(failed_checks(|input| *input.views.get_mut("A").unwrap() = problem).contains(&KNOWN));
}

#[test]
fn request_without_an_outcome_is_detected() {
    let failed = failed_checks(|input| {
        input.attempts.push(attempt(20, &call(Operation::Reserve, "A", "3"), unknown()));
    });
    assert_eq!(failed, [DECIDED]);
}

#[test]
fn second_redemption_is_detected() {
    let second = |input: &mut RedemptionInput| change(input, 20, &call(Operation::Redeem, "A", "3"), 3, None);
    let failed = failed_checks(second);
    assert!(failed.contains(&ONCE) && failed.contains(&CAN_FOLLOW), "{failed:?}");
    // Only in responses.
    let failed = failed_checks(|input| {
        second(input);
        input.rows.pop();
    });
    assert!(failed.contains(&ONCE) && failed.contains(&STORED), "{failed:?}");
    // Only in Postgres: both requests are of unknown outcome.
    let failed = failed_checks(|input| {
        second(input);
        input.attempts.last_mut().unwrap().outcome = unknown();
    });
    assert!(failed.contains(&ONCE), "{failed:?}");
}

#[test]
fn unequal_response_to_repeated_request_is_detected() {
    let repeat = |outcome: fn(&Value) -> UseOutcome| {
        failed_checks(|input| {
            let first = input.attempts[0].clone();
            let outcome = outcome(first.changed().unwrap());
            input.attempts.push(UseAttempt { invoked: 30_000_000, finished: 30_010_000, outcome, ..first });
        })
    };
    assert_eq!(repeat(|body| UseOutcome::Decided { status: 200, body: body.clone() }), Vec::<&str>::new());
    let failed = repeat(|body| {
        let mut body = body.clone();
        body["discountAmount"] = json!(1);
        UseOutcome::Decided { status: 200, body }
    });
    assert_eq!(failed, [EQUAL]);
    assert_eq!(repeat(|_| refused(409, "coupon-redeemed-by-order")), [EQUAL]);
    let failed = repeat(|_| refused(422, "idempotency-key-reused"));
    assert_eq!(failed, [EQUAL, REASON]);
}

#[test]
fn use_of_coupon_that_another_order_has_reserved_is_detected() {
    let failed = failed_checks(|input| row(input, "C", 1).until = Some(15_000));
    assert!(failed.contains(&EXCLUDED), "{failed:?}");
    // Without the release.
    let failed = failed_checks(|input| {
        remove_row(input, "B", 2);
        row(input, "B", 3).seq = 2;
    });
    assert!(failed.contains(&EXCLUDED), "{failed:?}");
}

#[test]
fn invalid_history_is_detected() {
    for change in [
        (|input| remove_row(input, "B", 1)) as fn(&mut RedemptionInput),
        |input| row(input, "B", 1).at = at(30),
        |input| row(input, "B", 2).order = Some("2".into()),
        |input| row(input, "B", 1).kind = "REDEEMED".into(),
        |input| row(input, "B", 1).kind = "VOIDED".into(),
    ] {
        let failed = failed_checks(change);
        assert!(failed.contains(&CAN_FOLLOW), "{failed:?}");
    }
}

#[test]
fn use_that_was_not_requested_is_detected() {
    let added = |key: Option<&str>| {
        failed_checks(|input| {
            change(input, 20, &call(Operation::Reserve, "E", "1"), 1, Some(900_000));
            input.attempts.pop();
            row(input, "E", 1).key = key.map(str::to_owned);
        })
    };
    assert_eq!(added(None), [REQUESTED]);
    assert_eq!(added(Some("other")), [REQUESTED]);
    // Of another coupon.
    assert!(added(Some("A-1-reserve")).contains(&REQUESTED));
    // The request was refused, and no attempt of it is unknown.
    let failed = failed_checks(|input| {
        let unknown = |attempt: &UseAttempt| attempt.call.coupon == "D" && attempt.decided().is_none();
        input.attempts.retain(|attempt| !unknown(attempt));
    });
    assert_eq!(failed, [REQUESTED]);
}

#[test]
fn history_in_another_order_than_the_responses_is_detected() {
    let failed = failed_checks(|input| {
        change(input, 10, &call(Operation::Reserve, "E", "1"), 2, Some(900_000));
        change(input, 20, &call(Operation::Release, "E", "1"), 1, None);
        input.rows.sort_by_key(|row| (row.coupon.clone(), row.seq));
    });
    assert!(failed.contains(&IN_ORDER), "{failed:?}");
}

#[test]
fn refusal_of_released_or_expired_coupon_is_detected() {
    let refuse = |second, coupon: &str| {
        failed_checks(|input| {
            let call = call(Operation::Reserve, coupon, "9");
            input.attempts.push(attempt(second, &call, refused(409, "coupon-reserved")));
        })
    };
    assert_eq!(refuse(12, "A"), Vec::<&str>::new());
    assert_eq!(refuse(14, "A"), [USABLE], "it is redeemed");
    assert_eq!(refuse(12, "B"), [USABLE], "it is released");
    assert_eq!(refuse(8, "B"), [USABLE], "it is not reserved yet");
    assert_eq!(refuse(12, "C"), Vec::<&str>::new());
    // Its next use has not begun.
    let expired = failed_checks(|input| {
        remove_row(input, "C", 2);
        let call = call(Operation::Reserve, "C", "9");
        input.attempts.push(attempt(16, &call, refused(409, "coupon-reserved")));
    });
    assert!(expired.contains(&USABLE), "{expired:?}");
    // By its own order.
    let own = failed_checks(|input| {
        let call = UseCall { key: "own".into(), ..call(Operation::Redeem, "A", "1") };
        input.attempts.push(attempt(11, &call, refused(409, "coupon-reserved")));
    });
    assert_eq!(own, [USABLE]);
}

#[test]
fn refusal_without_a_reason_is_detected() {
    use Operation::{Redeem, Release};

    let refuse = |second, operation, (coupon, order): (&str, &str), outcome| {
        failed_checks(|input| {
            let call = UseCall { key: "new".into(), ..call(operation, coupon, order) };
            input.attempts.push(attempt(second, &call, outcome));
        })
    };
    let none = Vec::<&str>::new();
    assert_eq!(refuse(14, Redeem, ("A", "9"), refused(409, "coupon-redeemed")), none);
    assert_eq!(refuse(14, Redeem, ("A", "1"), refused(409, "coupon-redeemed")), [REASON], "redeemed by the order");
    assert_eq!(refuse(14, Redeem, ("A", "1"), refused(409, "coupon-redeemed-by-order")), none);
    assert_eq!(refuse(14, Redeem, ("A", "9"), refused(409, "coupon-redeemed-by-order")), [REASON], "by another order");
    assert_eq!(refuse(11, Redeem, ("A", "9"), refused(409, "coupon-redeemed")), [REASON], "not redeemed yet");
    assert_eq!(refuse(11, Release, ("A", "9"), refused(409, "coupon-not-reserved")), none);
    assert_eq!(refuse(11, Release, ("A", "1"), refused(409, "coupon-not-reserved")), [REASON], "reserved by the order");
    for (status, problem) in [
        (409, "coupon-voided"),
        (409, "coupon-expired"),
        (409, "wrong-user"),
        (409, "below-minimum-order"),
        (400, "invalid-request"),
        (401, "unauthenticated"),
        (422, "idempotency-key-reused"),
    ] {
        assert_eq!(refuse(11, Redeem, ("A", "1"), refused(status, problem)), [REASON], "{problem}");
    }
}

#[test]
fn history_of_redeemer_that_differs_from_the_table_is_detected() {
    let failed = failed_checks(|input| input.views.get_mut("D").unwrap()["history"][1]["orderId"] = json!("1"));
    assert_eq!(failed, [SAME_HISTORY]);
}
