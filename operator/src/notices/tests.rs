use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::*;

fn time() -> Time {
    Time(Timestamp::UNIX_EPOCH)
}

/// A status with these conditions: type, whether it holds, reason.
fn status(conditions: &[(&str, bool, &str)]) -> CouponEventStatus {
    let conditions = conditions.iter().map(|(type_, holds, reason)| Condition {
        last_transition_time: time(),
        message: format!("{type_} {reason}"),
        observed_generation: None,
        reason: (*reason).to_owned(),
        status: if *holds { "True" } else { "False" }.to_owned(),
        type_: (*type_).to_owned(),
    });
    CouponEventStatus { conditions: conditions.collect(), loaded: Some(10), ..Default::default() }
}

fn told(old: &CouponEventStatus, new: &CouponEventStatus) -> Vec<String> {
    between(old, new, None).into_iter().map(|notice| notice.reason).collect()
}

#[test]
fn the_story_of_an_event() {
    let loading = || status(&[("Preloaded", false, "Preloading"), ("Open", false, "Loading")]);
    let scheduled = || status(&[("Preloaded", true, "StockComplete"), ("Open", false, "Scheduled")]);
    let later = |holds, reason| CouponEventStatus {
        opened_at: Some(time()),
        ..status(&[("Preloaded", true, "StockComplete"), ("Open", holds, reason)])
    };
    let topping_up = CouponEventStatus {
        opened_at: Some(time()),
        ..status(&[("Preloaded", false, "ToppingUp"), ("Open", true, "Open")])
    };
    let sold_out = CouponEventStatus { sold_out_at: Some(time()), ..later(false, "SoldOut") };
    let story: [(CouponEventStatus, &[&str]); 13] = [
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
    for pair in story.windows(2) {
        assert_eq!(told(&pair[0].0, &pair[1].0), pair[1].1, "{:?}", pair[1].0);
    }
}

#[test]
fn what_happened_between_two_looks_is_told_as_well() {
    let scheduled = status(&[("Preloaded", true, "StockComplete"), ("Open", false, "Scheduled")]);
    let sold_out = CouponEventStatus {
        opened_at: Some(time()),
        sold_out_at: Some(time()),
        ..status(&[("Preloaded", true, "StockComplete"), ("Open", false, "SoldOut")])
    };
    assert_eq!(told(&scheduled, &sold_out), ["Opened", "SoldOut"]);
    assert_eq!(told(&CouponEventStatus::default(), &sold_out), ["PreloadCompleted", "Opened", "SoldOut"]);
}

#[test]
fn an_event_that_was_over_before_it_could_open_has_not_opened() {
    let at = |second| Time(Timestamp::from_second(second).unwrap());
    let over = CouponEventStatus {
        opened_at: Some(at(100)),
        ..status(&[("Preloaded", true, "StockComplete"), ("Open", false, "Ended")])
    };
    let told = |end| -> Vec<String> {
        let notices = between(&CouponEventStatus::default(), &over, Some(&at(end)));
        notices.into_iter().map(|notice| notice.reason).collect()
    };
    assert_eq!(told(99), ["PreloadCompleted", "Ended"]);
    assert_eq!(told(101), ["PreloadCompleted", "Opened", "Ended"]);
}

#[test]
fn a_stall_is_told_once_with_its_words() {
    let fine = status(&[("Stalled", false, "NotStalled")]);
    let down = status(&[("Stalled", true, "BackendUnavailable")]);
    let lost = status(&[("Stalled", true, "RedisChanged")]);
    assert_eq!(between(&fine, &down, None), [Notice::warning("BackendUnavailable", "Stalled BackendUnavailable")]);
    assert_eq!(between(&down, &down, None), []);
    assert_eq!(told(&down, &lost), ["RedisChanged"]);
    assert_eq!(told(&lost, &fine), ["Recovered"]);
    assert_eq!(told(&down, &fine), Vec::<String>::new());
}

#[test]
fn what_does_not_add_up_is_told_once() {
    let fine = status(&[("Balanced", true, "CountsMatch"), ("Stalled", false, "NotStalled")]);
    let off = status(&[("Balanced", false, "DriftFound"), ("Stalled", true, "DriftFound")]);
    let unread = status(&[("Stalled", true, "DriftFound")]);
    assert_eq!(between(&fine, &off, None), [Notice::warning("DriftFound", "Balanced DriftFound")]);
    assert_eq!(told(&off, &off), Vec::<String>::new());
    assert_eq!(told(&off, &fine), ["Balanced"]);
    assert_eq!(told(&fine, &unread), ["DriftFound"], "not every drift is one of counts");
}

#[test]
fn the_story_of_the_issuers() {
    let scaled = |holds, reason| status(&[("Scaled", holds, reason)]);
    let story: [(CouponEventStatus, &[&str]); 9] = [
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
    for pair in story.windows(2) {
        assert_eq!(told(&pair[0].0, &pair[1].0), pair[1].1, "{:?}", pair[1].0);
    }
}

#[test]
fn notes_fit_into_an_event() {
    assert_eq!(shortened("short"), "short");
    let long = shortened(&"ä".repeat(1000));
    assert!(long.len() <= 1024 && long.ends_with("ä…"), "{}", long.len());
}
