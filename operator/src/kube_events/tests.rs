use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::*;

fn time() -> Time {
    Time(Timestamp::UNIX_EPOCH)
}

/// A status with these conditions: type, whether it is true, reason.
fn status(conditions: &[(&str, bool, &str)]) -> CouponEventStatus {
    let conditions = conditions.iter().map(|(type_, is_true, reason)| Condition {
        last_transition_time: time(),
        message: format!("{type_} {reason}"),
        observed_generation: None,
        reason: (*reason).to_owned(),
        status: if *is_true { "True" } else { "False" }.to_owned(),
        type_: (*type_).to_owned(),
    });
    CouponEventStatus { conditions: conditions.collect(), loaded: Some(10), ..Default::default() }
}

fn reasons(old: &CouponEventStatus, new: &CouponEventStatus) -> Vec<String> {
    transitions(old, new, None).into_iter().map(|event| event.reason).collect()
}

#[test]
fn event_lifecycle_publishes_one_kubernetes_event_per_transition() {
    let loading = || status(&[("Preloaded", false, "Preloading"), ("Open", false, "Loading")]);
    let scheduled = || status(&[("Preloaded", true, "StockComplete"), ("Open", false, "Scheduled")]);
    let later = |is_true, reason| CouponEventStatus {
        opened_at: Some(time()),
        ..status(&[("Preloaded", true, "StockComplete"), ("Open", is_true, reason)])
    };
    let topping_up = CouponEventStatus {
        opened_at: Some(time()),
        ..status(&[("Preloaded", false, "ToppingUp"), ("Open", true, "Open")])
    };
    let sold_out = CouponEventStatus { sold_out_at: Some(time()), ..later(false, "SoldOut") };
    let steps: [(CouponEventStatus, &[&str]); 13] = [
        (CouponEventStatus::default(), &[]),
        (loading(), &["PreloadStarted"]),
        (loading(), &[]),
        (scheduled(), &["PreloadCompleted"]),
        (later(true, "Open"), &["Opened"]),
        (later(true, "Open"), &[]),
        (later(false, "Paused"), &["Paused"]),
        (later(true, "Open"), &["Resumed"]),
        (topping_up, &[]),
        (later(true, "Open"), &["ToppedUp"]),
        (sold_out, &["SoldOut"]),
        (later(false, "Ended"), &["Ended"]),
        (later(true, "Open"), &["Opened"]),
    ];
    for pair in steps.windows(2) {
        assert_eq!(reasons(&pair[0].0, &pair[1].0), pair[1].1, "{:?}", pair[1].0);
    }
}

#[test]
fn hold_publishes_its_begin_and_its_release() {
    let open = |reason| status(&[("Preloaded", true, "StockComplete"), ("Open", reason == "Open", reason)]);
    for (from, to, expected) in [
        ("Open", "Held", &["Held"][..]),
        ("Scheduled", "Held", &["Held"]),
        ("Held", "Held", &[]),
        ("Held", "Open", &["HoldReleased"]),
        ("Held", "Scheduled", &["HoldReleased"]),
        ("Paused", "Held", &["Held"]),
        ("Held", "Paused", &["Paused", "HoldReleased"]),
        ("Held", "Ended", &["Ended"]),
        ("Held", "Closed", &["Ended"]),
    ] {
        assert_eq!(reasons(&open(from), &open(to)), expected, "{from} to {to}");
    }
}

#[test]
fn transitions_between_two_statuses_are_all_published() {
    let scheduled = status(&[("Preloaded", true, "StockComplete"), ("Open", false, "Scheduled")]);
    let sold_out = CouponEventStatus {
        opened_at: Some(time()),
        sold_out_at: Some(time()),
        ..status(&[("Preloaded", true, "StockComplete"), ("Open", false, "SoldOut")])
    };
    assert_eq!(reasons(&scheduled, &sold_out), ["Opened", "SoldOut"]);
    assert_eq!(reasons(&CouponEventStatus::default(), &sold_out), ["PreloadCompleted", "Opened", "SoldOut"]);
}

#[test]
fn event_that_ended_before_opening_publishes_no_opened() {
    let at = |second| Time(Timestamp::from_second(second).unwrap());
    let over = CouponEventStatus {
        opened_at: Some(at(100)),
        ..status(&[("Preloaded", true, "StockComplete"), ("Open", false, "Ended")])
    };
    let reasons = |end| -> Vec<String> {
        let events = transitions(&CouponEventStatus::default(), &over, Some(&at(end)));
        events.into_iter().map(|event| event.reason).collect()
    };
    assert_eq!(reasons(99), ["PreloadCompleted", "Ended"]);
    assert_eq!(reasons(101), ["PreloadCompleted", "Opened", "Ended"]);
}

#[test]
fn stall_is_published_once_with_its_message() {
    let fine = status(&[("Stalled", false, "NotStalled")]);
    let down = status(&[("Stalled", true, "BackendUnavailable")]);
    let lost = status(&[("Stalled", true, "RedisUnverified")]);
    assert_eq!(
        transitions(&fine, &down, None),
        [KubeEvent::warning("BackendUnavailable", "Stalled BackendUnavailable")]
    );
    assert_eq!(transitions(&down, &down, None), []);
    assert_eq!(reasons(&down, &lost), ["RedisUnverified"]);
    assert_eq!(reasons(&lost, &fine), ["Recovered"]);
    assert_eq!(reasons(&down, &fine), Vec::<String>::new());
}

#[test]
fn count_mismatch_is_published_once() {
    let fine = status(&[("Balanced", true, "CountsMatch"), ("Stalled", false, "NotStalled")]);
    let mismatched = status(&[("Balanced", false, "DriftFound"), ("Stalled", true, "DriftFound")]);
    let other_cause = status(&[("Stalled", true, "DriftFound")]);
    assert_eq!(transitions(&fine, &mismatched, None), [KubeEvent::warning("DriftFound", "Balanced DriftFound")]);
    assert_eq!(reasons(&mismatched, &mismatched), Vec::<String>::new());
    assert_eq!(reasons(&mismatched, &fine), ["Balanced"]);
    assert_eq!(
        reasons(&fine, &other_cause),
        ["DriftFound"],
        "DriftFound without a count mismatch is published from Stalled"
    );
}

#[test]
fn scaling_publishes_one_kubernetes_event_per_transition() {
    let scaled = |is_true, reason| status(&[("Scaled", is_true, reason)]);
    let steps: [(CouponEventStatus, &[&str]); 9] = [
        (CouponEventStatus::default(), &[]),
        (scaled(false, "ScalingScheduled"), &[]),
        (scaled(false, "IssuersStarting"), &["ScalingUp"]),
        (scaled(false, "QuotaExceeded"), &["QuotaExceeded"]),
        (scaled(false, "IssuersStarting"), &[]),
        (scaled(true, "IssuersReady"), &["ScaledUp"]),
        (scaled(true, "IssuersReady"), &[]),
        (scaled(false, "ScaledDown"), &["ScaledDown"]),
        (scaled(false, "ScalingScheduled"), &[]),
    ];
    for pair in steps.windows(2) {
        assert_eq!(reasons(&pair[0].0, &pair[1].0), pair[1].1, "{:?}", pair[1].0);
    }
}

#[test]
fn long_note_is_truncated() {
    assert_eq!(truncate("short"), "short");
    let long = truncate(&"ä".repeat(1000));
    assert!(long.len() <= 1024 && long.ends_with("ä…"), "{}", long.len());
}
