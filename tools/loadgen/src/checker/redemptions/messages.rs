//! Checks of the messages of the topic of uses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::report::{Category, CheckResult, count};
use super::input::{RedemptionInput, UseMessage, UseRow};
use super::rows::describe;

/// The version of the records.
const VERSION: &str = "1";

/// Whether the message is about this row. A field that does not apply is absent.
fn is_of_row(message: &UseMessage, row: &UseRow) -> bool {
    let UseMessage { key, version, body, .. } = message;
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    key.as_deref() == Some(&*row.coupon)
        && version.as_deref() == Some(VERSION)
        && text("couponKey") == Some(&*row.coupon)
        && text("kind") == Some(&*row.kind)
        && text("orderId") == row.order.as_deref()
        && text("userId").is_some()
        && body.get("reservedUntil").and_then(Value::as_i64) == row.until
        && body.get("at").and_then(Value::as_i64) == Some(row.at)
}

/// The coupon and the position in its history, as the message says.
fn place(message: &UseMessage) -> Option<(&str, i64)> {
    Some((message.body.get("couponKey")?.as_str()?, message.body.get("seq")?.as_i64()?))
}

pub(super) fn uses_are_sent(input: &RedemptionInput) -> CheckResult {
    let sent: BTreeSet<_> = input.messages.iter().filter_map(place).collect();
    let mut result = CheckResult::new(
        Category::Lost,
        "every use is in the topic",
        format!("{} uses, {} sent", count(input.rows.len()), count(sent.len())),
    );
    for row in &input.rows {
        if !sent.contains(&(&*row.coupon, i64::from(row.seq))) {
            result.add_violation(|| format!("{} is not in the topic", describe(row)));
        }
    }
    result
}

pub(super) fn messages_are_of_uses(input: &RedemptionInput) -> CheckResult {
    let rows: BTreeMap<_, _> = input.rows.iter().map(|row| ((&*row.coupon, i64::from(row.seq)), row)).collect();
    let mut result = CheckResult::new(
        Category::Unexpected,
        "every message of the topic is a use, keyed by its coupon",
        format!("{} messages", count(input.messages.len())),
    );
    for message in &input.messages {
        let row = place(message).and_then(|place| rows.get(&place));
        if !row.is_some_and(|row| is_of_row(message, row)) {
            let row = row.map_or("none".to_owned(), |row| describe(row));
            result.add_violation(|| format!("{message:?}; use: {row}"));
        }
    }
    result
}

/// Repeated messages are not new. A consumer that ignores them sees the history of each coupon in its order.
pub(super) fn messages_are_in_order(input: &RedemptionInput) -> CheckResult {
    let mut last = BTreeMap::<&str, (i32, i64)>::new();
    let mut repeated = 0;
    let mut violations = Vec::new();
    for message in &input.messages {
        let Some((coupon, seq)) = place(message) else { continue };
        let seen = last.entry(coupon).or_insert((message.partition, 0));
        if seen.0 == message.partition && seq <= seen.1 {
            repeated += 1;
        } else if *seen == (message.partition, seq - 1) {
            seen.1 = seq;
        } else {
            violations.push(format!("{message:?} after partition {} and seq {}", seen.0, seen.1));
        }
    }
    let mut result = CheckResult::new(
        Category::Consistency,
        "the messages of each coupon are in the order of its history",
        format!("{} coupons, {} repeated messages", count(last.len()), count(repeated)),
    );
    for violation in violations {
        result.add_violation(|| violation);
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::failed_checks;
    use super::*;

    const SENT: &str = "every use is in the topic";
    const OF_USES: &str = "every message of the topic is a use, keyed by its coupon";
    const IN_ORDER: &str = "the messages of each coupon are in the order of its history";
    const NONE: [&str; 0] = [];

    fn position(input: &RedemptionInput, coupon: &str, seq: i64) -> usize {
        input.messages.iter().position(|message| place(message) == Some((coupon, seq))).unwrap()
    }

    #[test]
    fn use_that_was_not_sent_is_detected() {
        let remove = |seq| {
            failed_checks(|input| {
                let position = position(input, "A", seq);
                input.messages.remove(position);
            })
        };
        assert_eq!(remove(2), [SENT]);
        assert_eq!(remove(1), [SENT, IN_ORDER]);
    }

    #[test]
    fn message_that_is_not_a_use_is_detected() {
        for change in [
            (|message| message.key = None) as fn(&mut UseMessage),
            |message| message.key = Some("B".into()),
            |message| message.version = None,
            |message| message.version = Some("2".into()),
            |message| message.body["kind"] = json!("VOIDED"),
            |message| message.body["orderId"] = json!("9"),
            |message| message.body["reservedUntil"] = json!(1),
            |message| message.body["at"] = json!(1),
            |message| message.body["userId"] = Value::Null,
        ] {
            let failed = failed_checks(|input| {
                let position = position(input, "A", 2);
                change(&mut input.messages[position]);
            });
            assert_eq!(failed, [OF_USES]);
        }
        let add = |body: Value| {
            failed_checks(|input| {
                let mut message = input.messages[position(input, "A", 2)].clone();
                message.body = body;
                input.messages.push(message);
            })
        };
        assert_eq!(add(Value::Null), [OF_USES]);
        assert_eq!(add(json!({"couponKey": "A", "seq": 3, "kind": "REDEEMED"})), [OF_USES]);
    }

    #[test]
    fn message_in_another_order_than_the_history_is_detected() {
        let failed = failed_checks(|input| {
            let (first, second) = (position(input, "B", 1), position(input, "B", 2));
            input.messages.swap(first, second);
        });
        assert_eq!(failed, [IN_ORDER]);
        let failed = failed_checks(|input| {
            let position = position(input, "B", 2);
            input.messages[position].partition += 1;
        });
        assert!(failed.contains(&IN_ORDER), "{failed:?}");
    }

    #[test]
    fn repeated_messages_are_not_a_violation() {
        let failed = failed_checks(|input| {
            let repeated = input.messages.clone();
            input.messages.extend(repeated);
        });
        assert_eq!(failed, NONE);
    }
}
