//! Checks of the end of the validity of coupons.

use super::super::report::{Category, CheckResult, count};
use super::input::RedemptionInput;
use super::responses::millis;
use super::rows::describe;

/// By the clock of Postgres, no coupon is reserved or redeemed after its end, or reserved beyond it.
pub(super) fn no_use_after_the_end(input: &RedemptionInput) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Unexpected,
        "no coupon is used after the end of its validity",
        format!("{} coupons that expire", count(input.valid_until.len())),
    );
    for row in input.rows.iter().filter(|row| row.kind == "RESERVED" || row.kind == "REDEEMED") {
        if let Some(end) = input.valid_until.get(&row.coupon)
            && (row.at >= *end || row.until.is_some_and(|until| until > *end))
        {
            result.add_violation(|| format!("{}, but valid until {end}", describe(row)));
        }
    }
    result
}

/// The redeemer returns the same end of the validity as the response to the user.
pub(super) fn redeemer_returns_the_end(input: &RedemptionInput) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Consistency,
        "users and the redeemer have the same end of validity",
        format!("{} coupons", count(input.views.len())),
    );
    for (coupon, view) in input.views.iter().filter(|(_, view)| view["state"].is_string()) {
        let (told, returned) = (input.valid_until.get(coupon).copied(), millis(&view["validUntil"]));
        if told != returned {
            result.add_violation(|| {
                format!("{coupon}: the user received {told:?}, but the redeemer returned {returned:?}")
            });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, failed_checks, redeem, refused_attempt, row, timestamp};

    const IN_TIME: &str = "no coupon is used after the end of its validity";
    const SAME_END: &str = "users and the redeemer have the same end of validity";
    const REASON: &str = "every other refusal has a reason in the history of the coupon";

    #[test]
    fn use_after_the_end_of_validity_is_detected() {
        let failed = |end: i64| {
            failed_checks(|input| {
                input.valid_until.insert("B".into(), end);
                row(input, "B", 1).until = Some(at(11));
            })
        };
        assert!(!failed(at(13)).contains(&IN_TIME), "{:?}", failed(at(13)));
        assert!(failed(at(12)).contains(&IN_TIME), "redeemed at its end");
        let reserved_beyond = failed_checks(|input| {
            input.valid_until.insert("A".into(), 800_000);
            input.views.get_mut("A").unwrap()["validUntil"] = json!(timestamp(800_000));
        });
        assert_eq!(reserved_beyond, [IN_TIME]);
    }

    #[test]
    fn refusal_as_expired_before_the_end_is_detected() {
        let refuse = |coupon: &str, end: Option<i64>| {
            failed_checks(|input| {
                if let Some(end) = end {
                    input.valid_until.insert(coupon.to_owned(), end);
                    input.views.get_mut(coupon).unwrap()["validUntil"] = json!(timestamp(end));
                    input.rows.retain(|row| row.coupon != coupon || row.seq == 1);
                }
                input.attempts.push(refused_attempt(20, &redeem(coupon, "9"), "coupon-expired"));
            })
        };
        assert!(!refuse("D", Some(20_000)).contains(&REASON));
        assert!(refuse("D", Some(22_000)).contains(&REASON), "two seconds later");
        assert!(refuse("D", None).contains(&REASON), "it does not expire");
    }

    #[test]
    fn other_end_of_validity_at_the_redeemer_is_detected() {
        let failed = failed_checks(|input| {
            input.valid_until.insert("E".into(), 900_000);
            input.views.insert("E".into(), json!({"state": "ISSUED", "history": [], "validUntil": timestamp(900_001)}));
        });
        assert_eq!(failed, [SAME_END]);
        let failed = failed_checks(|input| input.views.get_mut("A").unwrap()["validUntil"] = json!(timestamp(900_000)));
        assert_eq!(failed, [SAME_END]);
    }
}
