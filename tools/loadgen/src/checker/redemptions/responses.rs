//! Checks of the responses which shops received.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::super::report::{Category, CheckResult, count};
use super::input::{CLOCK_TOLERANCE, Calls, RedemptionInput, UseRow};
use super::rows::describe;
use crate::checkout::history::{Operation, UseAttempt};

/// A request for messages.
fn describe_call(attempt: &UseAttempt) -> String {
    let call = &attempt.call;
    format!("{} of {} by {} ({})", call.operation.name(), call.coupon, call.order, call.key)
}

/// A time of a response, in milliseconds. None: null, or not a time.
pub(super) fn millis(time: &Value) -> Option<i64> {
    time.as_str()?.parse().ok().map(Timestamp::as_millisecond)
}

/// Whether the response is about this row.
fn confirms(response: &Value, attempt: &UseAttempt, row: &UseRow) -> bool {
    let call = &attempt.call;
    let state = match call.operation {
        Operation::Reserve => "RESERVED",
        Operation::Redeem => "REDEEMED",
        Operation::Release => "ISSUED",
    };
    row.kind == call.operation.kind()
        && row.coupon == call.coupon
        && row.order.as_deref() == Some(&call.order)
        && response["state"] == state
        && response["couponKey"] == *call.coupon
        && response["orderId"] == *call.order
        && millis(&response["changedAt"]) == Some(row.at)
        && millis(&response["reservedUntil"]) == row.until
}

pub(super) fn confirmed_changes_are_stored(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let by_key: BTreeMap<_, _> = input.rows.iter().filter_map(|row| Some((row.key.as_deref()?, row))).collect();
    let confirmed = calls.by_key.values().filter(|call| call.confirmed().is_some()).count();
    let mut result = CheckResult::new(
        Category::Lost,
        "confirmed uses of coupons are in Postgres",
        format!("{} confirmed, {} in Postgres", count(confirmed), count(input.rows.len())),
    );
    for (key, call) in &calls.by_key {
        for (attempt, response) in call.changed() {
            match by_key.get(key) {
                None => result.add_violation(|| format!("{} was confirmed, but is not stored", describe_call(attempt))),
                Some(row) if !confirms(response, attempt, row) => result.add_violation(|| {
                    format!("{} was confirmed as {response}, but stored: {}", describe_call(attempt), describe(row))
                }),
                Some(_) => {}
            }
        }
    }
    result
}

/// The redeemer returns that this order has redeemed the coupon, for each redemption that was confirmed.
pub(super) fn redemptions_are_returned(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let redemptions = calls.by_key.values().filter_map(|call| {
        let (attempt, _) = call.changed().next()?;
        (attempt.call.operation == Operation::Redeem).then_some(attempt)
    });
    let redemptions: Vec<_> = redemptions.collect();
    let mut result = CheckResult::new(
        Category::Lost,
        "the redeemer returns every confirmed redemption",
        format!("{} redemptions", count(redemptions.len())),
    );
    for attempt in redemptions {
        let view = input.views.get(&attempt.call.coupon).unwrap_or(&Value::Null);
        let last = view["history"].as_array().and_then(|history| history.last()).unwrap_or(&Value::Null);
        if view["state"] != "REDEEMED" || last["kind"] != "REDEEMED" || last["orderId"] != *attempt.call.order {
            result.add_violation(|| format!("{} was confirmed, but the view is {view}", describe_call(attempt)));
        }
    }
    result
}

/// Every coupon was returned to its user before a shop used it.
pub(super) fn no_issued_coupon_is_unknown(input: &RedemptionInput) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Lost,
        "no coupon of a user is unknown",
        format!("{} responses", count(input.attempts.len())),
    );
    for attempt in &input.attempts {
        if let Some((404, problem)) = attempt.refused() {
            result.add_violation(|| format!("{}: {problem}", describe_call(attempt)));
        }
    }
    for (coupon, view) in input.views.iter().filter(|(_, view)| !view["state"].is_string()) {
        result.add_violation(|| format!("{coupon}: {view}"));
    }
    result
}

pub(super) fn requests_are_decided(calls: &Calls<'_>) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Undecided,
        "every request has an outcome after its retries",
        format!("{} requests", count(calls.by_key.len())),
    );
    for call in calls.by_key.values() {
        if let Some(last) = call.attempts.last()
            && call.attempts.iter().all(|attempt| attempt.decided().is_none())
        {
            result.add_violation(|| format!("{}: {:?}", describe_call(last), last.outcome));
        }
    }
    result
}

pub(super) fn redeemed_once(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let mut redemptions = BTreeMap::<_, Vec<String>>::new();
    for (key, call) in &calls.by_key {
        if let Some((attempt, _)) = call.changed().next()
            && attempt.call.operation == Operation::Redeem
        {
            redemptions.entry(&*attempt.call.coupon).or_default().push(format!("request {key}"));
        }
    }
    let confirmed = redemptions.len();
    let mut stored = BTreeMap::<_, Vec<String>>::new();
    for row in input.rows.iter().filter(|row| row.kind == "REDEEMED") {
        stored.entry(&*row.coupon).or_default().push(format!("row {}", describe(row)));
    }
    let mut result = CheckResult::new(
        Category::Duplicated,
        "each coupon is redeemed at most once",
        format!("{} redeemed in responses, {} in Postgres", count(confirmed), count(stored.len())),
    );
    for (coupon, redemptions) in redemptions.iter().chain(&stored).filter(|(_, redemptions)| redemptions.len() > 1) {
        result.add_violation(|| format!("{coupon} was redeemed by {}", redemptions.join(" and ")));
    }
    result
}

/// All responses to a request that has changed a coupon are equal, and it is not refused later.
pub(super) fn repeated_requests_have_equal_responses(calls: &Calls<'_>) -> CheckResult {
    let repeated = calls.by_key.values().filter(|call| call.attempts.len() > 1).count();
    let mut result = CheckResult::new(
        Category::Duplicated,
        "all responses to a request are equal",
        format!("{} repeated requests", count(repeated)),
    );
    for call in calls.by_key.values() {
        let mut changed = call.changed();
        let Some((first, response)) = changed.next() else { continue };
        for (_, other) in changed.filter(|(_, other)| *other != response) {
            result.add_violation(|| format!("{}: {response} and {other}", describe_call(first)));
        }
        let confirmed = call.confirmed().unwrap_or(i64::MAX);
        for attempt in call.attempts.iter().filter(|attempt| attempt.invoked > confirmed) {
            if let Some((status, problem)) = attempt.refused() {
                result.add_violation(|| format!("{}: done, and later {status} {problem}", describe_call(attempt)));
            }
        }
    }
    result
}

/// Also: a coupon can be used after its reservation was released or has expired.
pub(super) fn refused_as_reserved_only_while_reserved(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let is_reserved = |attempt: &UseAttempt| attempt.refused() == Some((409, "coupon-reserved"));
    let mut result = CheckResult::new(
        Category::Lost,
        "a coupon is refused as reserved only while another order has reserved it",
        format!("{} refusals", count(input.attempts.iter().filter(|attempt| is_reserved(attempt)).count())),
    );
    for attempt in input.attempts.iter().filter(|attempt| is_reserved(attempt)) {
        let has_reserved = |last: Option<&UseRow>| {
            last.is_some_and(|last| {
                last.kind == "RESERVED"
                    && last.order.as_deref() != Some(&attempt.call.order)
                    && last.until.is_some_and(|until| 1000 * until + CLOCK_TOLERANCE > attempt.invoked)
            })
        };
        if !calls.possible_last_rows(attempt).any(has_reserved) {
            let history: Vec<_> = calls.history(&attempt.call.coupon).iter().map(|row| describe(row)).collect();
            result.add_violation(|| format!("{} was refused; history: {}", describe_call(attempt), history.join(", ")));
        }
    }
    result
}

pub(super) fn other_refusals_have_a_reason(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let others = input.attempts.iter().filter_map(|attempt| {
        let (status, problem) = attempt.refused()?;
        // Another check is about these.
        (status != 404 && (status, problem) != (409, "coupon-reserved")).then_some((attempt, status, problem))
    });
    let others: Vec<_> = others.collect();
    let mut result = CheckResult::new(
        Category::Unexpected,
        "every other refusal has a reason in the history of the coupon",
        format!("{} refusals", count(others.len())),
    );
    for (attempt, status, problem) in others {
        let call = &attempt.call;
        let is_own = |last: &UseRow| last.order.as_deref() == Some(&call.order);
        let valid_until = input.valid_until.get(&call.coupon);
        let has_expired = valid_until.is_some_and(|end| 1000 * end < attempt.finished + CLOCK_TOLERANCE);
        let is_reason = |last: Option<&UseRow>| match (status, problem) {
            (409, "coupon-redeemed") => last.is_some_and(|last| last.kind == "REDEEMED" && !is_own(last)),
            (409, "coupon-redeemed-by-order") => last.is_some_and(|last| last.kind == "REDEEMED" && is_own(last)),
            (409, "coupon-voided") => last.is_some_and(|last| last.kind == "VOIDED"),
            (409, "coupon-not-reserved") => {
                call.operation == Operation::Release
                    && !last.is_some_and(|last| last.kind == "RESERVED" && is_own(last))
            }
            (409, "coupon-expired") => {
                has_expired && !last.is_some_and(|last| last.kind == "REDEEMED" || last.kind == "VOIDED")
            }
            // Shops send valid requests of holders.
            _ => false,
        };
        if !calls.possible_last_rows(attempt).any(is_reason) {
            let history: Vec<_> = calls.history(&call.coupon).iter().map(|row| describe(row)).collect();
            result.add_violation(|| {
                format!("{}: {status} {problem}; history: {}", describe_call(attempt), history.join(", "))
            });
        }
    }
    result
}

/// Never fails: shows how many attempts have an unknown outcome.
pub(super) fn unknown_outcomes(input: &RedemptionInput) -> CheckResult {
    let unknown = input.attempts.iter().filter(|attempt| attempt.decided().is_none()).count();
    CheckResult::new(
        Category::UnknownOutcome,
        "requests of unknown outcome may have changed a coupon",
        format!("{} attempts at redemptions, {} unknown", count(input.attempts.len()), count(unknown)),
    )
}
