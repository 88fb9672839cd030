//! Checks of the rows of `coupon_use`.

use serde_json::{Value, json};

use super::super::report::{Category, CheckResult, count};
use super::input::{Calls, RedemptionInput, UseRow};

/// A row for messages.
pub(super) fn describe(row: &UseRow) -> String {
    let UseRow { coupon, seq, kind, order, until, key, at } = row;
    let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
    let (order, key) = (order.as_deref().unwrap_or("no order"), key.as_deref().unwrap_or("no key"));
    format!("{coupon} {seq} {kind}{until} by {order} ({key}) at {at}")
}

/// Each row with the one before it in the history of its coupon.
fn pairs(input: &RedemptionInput) -> impl Iterator<Item = (Option<&UseRow>, &UseRow)> {
    let previous = [None].into_iter().chain(input.rows.iter().map(Some));
    previous.zip(&input.rows).map(|(last, row)| (last.filter(|last| last.coupon == row.coupon), row))
}

/// After a reservation and before its end, only its own order may change the coupon.
pub(super) fn reservations_exclude_other_orders(input: &RedemptionInput) -> CheckResult {
    let reserved = input.rows.iter().filter(|row| row.kind == "RESERVED").count();
    let mut result = CheckResult::new(
        Category::Duplicated,
        "a reserved coupon is not used by another order",
        format!("{} reservations", count(reserved)),
    );
    for (last, row) in pairs(input) {
        if let Some(last) = last
            && last.kind == "RESERVED"
            && last.until.is_none_or(|until| row.at < until)
            && row.kind != "VOIDED"
            && row.order != last.order
        {
            result.add_violation(|| format!("{}, but before: {}", describe(row), describe(last)));
        }
    }
    result
}

pub(super) fn each_row_can_follow(input: &RedemptionInput) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Unexpected,
        "each use of a coupon can follow the one before it",
        format!("{} uses", count(input.rows.len())),
    );
    for (last, row) in pairs(input) {
        let problem = if row.seq != last.map_or(0, |last| last.seq) + 1 {
            "a row is missing before it"
        } else if last.is_some_and(|last| last.at > row.at) {
            "the row before it is later"
        } else if last.is_some_and(|last| last.kind == "REDEEMED" || last.kind == "VOIDED") {
            "the use before it is final"
        } else if row.kind == "RELEASED" && !last.is_some_and(|last| last.kind == "RESERVED" && last.order == row.order)
        {
            "the order has no reservation"
        } else if (row.kind == "RESERVED") != row.until.is_some() {
            "a reservation has no end, or another use has one"
        } else {
            continue;
        };
        result.add_violation(|| format!("{}: {problem}", describe(row)));
    }
    result
}

pub(super) fn rows_were_requested(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Unexpected,
        "every use was requested, and not refused",
        format!("{} uses, {} requests", count(input.rows.len()), count(calls.by_key.len())),
    );
    for row in input.rows.iter().filter(|row| row.kind != "VOIDED") {
        let Some(call) = calls.of_row(row) else {
            result.add_violation(|| format!("{} was not requested", describe(row)));
            continue;
        };
        let is_same = call.attempts.iter().all(|attempt| {
            let call = &attempt.call;
            call.coupon == row.coupon && call.operation.kind() == row.kind && Some(&call.order) == row.order.as_ref()
        });
        if !is_same {
            result.add_violation(|| format!("{} is not what was requested", describe(row)));
        } else if !call.may_have_changed() {
            result.add_violation(|| format!("{} was refused in every response", describe(row)));
        }
    }
    result
}

/// A change that was confirmed before another one was requested is before it in the history.
pub(super) fn rows_are_in_real_time_order(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Consistency,
        "the history of each coupon is in the order of its responses",
        format!("{} uses", count(input.rows.len())),
    );
    for (last, row) in pairs(input) {
        let confirmed = calls.of_row(row).and_then(super::input::Call::confirmed);
        if let (Some(last), Some(confirmed)) = (last, confirmed)
            && calls.of_row(last).is_some_and(|call| confirmed < call.invoked())
        {
            result.add_violation(|| {
                format!("{} was requested after this was confirmed: {}", describe(last), describe(row))
            });
        }
    }
    result
}

/// The redeemer's view of each coupon has the rows of the table.
pub(super) fn redeemer_returns_stored_history(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Consistency,
        "the redeemer returns the stored history",
        format!("{} coupons", count(input.views.len())),
    );
    for (coupon, view) in &input.views {
        let rows = calls.history(coupon).iter();
        let stored: Vec<Value> = rows.map(|row| json!([row.seq, row.kind, row.order])).collect();
        let entries = view["history"].as_array().into_iter().flatten();
        let returned: Vec<Value> =
            entries.map(|entry| json!([entry["seq"], entry["kind"], entry["orderId"]])).collect();
        if stored != returned {
            let (stored, returned) = (Value::from(stored), Value::from(returned));
            result.add_violation(|| format!("{coupon}: stored {stored}, but returned {returned}"));
        }
    }
    result
}
