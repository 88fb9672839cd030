use couponry_crds::Issuance;
use couponry_domain::{CodeFormat, Discount, DiscountType, Seed, Share, Uuid, Window};
use couponry_postgres::StoredEvent;
use couponry_redis::Acknowledge;

use super::*;

const UID: Uuid = Uuid::from_u128(1);
const NOW: i64 = 1_796_083_200_000;
const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };

fn wanted() -> Wanted {
    Wanted {
        uid: UID,
        name: "summer".parse().unwrap(),
        generation: 3,
        policy_name: "Summer sale".into(),
        format: CodeFormat::default(),
        total: 10,
        shares: vec![(TEN_PERCENT, Share::Percentage(100))],
        window: Window::default(),
        issuance: Issuance::Auto,
        acknowledge: Acknowledge::Redis,
        retire_at: None,
    }
}

fn seen(gate: Gate, window: Window, loaded: u64, issued: u64, recorded: u64) -> Seen {
    let stored = StoredEvent {
        uid: UID,
        name: "summer".parse().unwrap(),
        policy_name: "Summer sale".into(),
        seed: Seed::from([0; 32]),
        format: CodeFormat::default(),
        generation: 3,
        stock_epoch: 0,
        stock: vec![(TEN_PERCENT, 10)],
        opened_at: Some(window.start.unwrap_or(NOW - 5000)),
        record_cutoff: None,
    };
    let redis = Observed {
        uid: UID,
        stock_epoch: 0,
        gate,
        window,
        acknowledge: Acknowledge::Redis,
        generation: 3,
        loaded,
        available: loaded - issued,
        issued,
        completed: recorded,
        cancelled: 0,
        voided: 0,
        retired: None,
        outbox: 0,
        now: NOW,
        server: "one".into(),
        is_verified: true,
        token: "first".into(),
    };
    Seen {
        stored: Some(stored),
        known_recorded: recorded,
        recorded,
        redis: Some(redis),
        rival: None,
        arrival: None,
        now: NOW,
    }
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

fn told(old: &CouponEventStatus, seen: &Seen, progress: &Progress, now: Timestamp) -> CouponEventStatus {
    report(old, &wanted(), seen, progress, BESIDE, now)
}

const BESIDE: Beside<'_> = Beside { remarks: &[], difference: None, scaling: &Asked::Nothing };

fn settled(old: &CouponEventStatus, seen: &Seen) -> CouponEventStatus {
    told(old, seen, &Progress::Settled, at(NOW))
}

fn marks(status: &CouponEventStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{} {} {}", c.type_, c.status, c.reason)).collect()
}

const ALWAYS: Window = Window { start: None, end: None };

#[test]
fn an_open_event() {
    let status = settled(&CouponEventStatus::default(), &seen(Gate::Open, ALWAYS, 10, 4, 3));
    assert_eq!(
        marks(&status),
        [
            "Ready True StockComplete",
            "Preloaded True StockComplete",
            "Open True Open",
            "Recorded False Recording",
            "Stalled False NotStalled",
            "Balanced True CountsMatch"
        ]
    );
    assert_eq!(status.observed_generation, Some(3));
    let counts = [status.loaded, status.issued, status.recorded, status.available];
    assert_eq!(counts, [Some(10), Some(4), Some(3), Some(6)]);
    assert_eq!(status.opened_at, Some(Time(at(NOW - 5000))), "when it opened, not when we saw it");
}

#[test]
fn the_state_of_an_event_has_one_word() {
    let before = Window { start: Some(NOW + 1), end: None };
    let during = Window { start: Some(NOW), end: Some(NOW + 1) };
    let after = Window { start: None, end: Some(NOW) };
    for (gate, window, issued, word) in [
        (Gate::Loading, ALWAYS, 0, reason::LOADING),
        (Gate::Loading, before, 0, reason::LOADING),
        (Gate::Open, before, 0, reason::SCHEDULED),
        (Gate::Open, during, 0, reason::OPEN),
        (Gate::Open, during, 10, reason::SOLD_OUT),
        (Gate::Paused, during, 0, reason::PAUSED),
        (Gate::Paused, before, 0, reason::PAUSED),
        (Gate::Open, after, 0, reason::ENDED),
        (Gate::Paused, after, 10, reason::ENDED),
        (Gate::Closed, before, 0, reason::CLOSED),
        (Gate::Closed, after, 10, reason::CLOSED),
    ] {
        let seen = seen(gate, window, 10, issued, issued);
        assert_eq!(state(seen.redis.as_ref()), word, "{gate:?} {window:?} {issued}");
    }
    assert_eq!(state(None), reason::LOADING);
}

#[test]
fn openings_are_noted_when_users_get_coupons() {
    let before = Window { start: Some(NOW + 1), end: None };
    let status = settled(&CouponEventStatus::default(), &seen(Gate::Open, before, 10, 0, 0));
    assert_eq!(status.opened_at, None);
    let paused = settled(&CouponEventStatus::default(), &seen(Gate::Paused, ALWAYS, 10, 0, 0));
    assert_eq!(paused.opened_at, None);
    let opened = settled(&status, &seen(Gate::Open, ALWAYS, 10, 0, 0));
    assert!(opened.opened_at.is_some());
    let kept = settled(&opened, &seen(Gate::Paused, ALWAYS, 10, 0, 0));
    assert_eq!(kept.opened_at, opened.opened_at);
}

#[test]
fn it_is_finished_when_it_is_over_and_everything_is_recorded() {
    let sold_out = settled(&CouponEventStatus::default(), &seen(Gate::Open, ALWAYS, 10, 10, 9));
    assert!(sold_out.sold_out_at.is_some() && sold_out.finished_at.is_none());
    let finished = settled(&sold_out, &seen(Gate::Open, ALWAYS, 10, 10, 10));
    assert!(finished.finished_at.is_some());
    assert_eq!(finished.sold_out_at, sold_out.sold_out_at);
    let topped_up = settled(&finished, &seen(Gate::Open, ALWAYS, 20, 10, 10));
    assert!(topped_up.sold_out_at.is_none() && topped_up.finished_at.is_none());
}

#[test]
fn times_and_words_change_only_with_what_they_tell() {
    let one = settled(&CouponEventStatus::default(), &seen(Gate::Open, ALWAYS, 10, 4, 4));
    let later = at(NOW + 60_000);
    let same = told(&one, &seen(Gate::Open, ALWAYS, 10, 4, 4), &Progress::Settled, later);
    assert_eq!(same, one);
    let counted = told(&one, &seen(Gate::Open, ALWAYS, 10, 5, 5), &Progress::Settled, later);
    assert_ne!(counted, one);
    assert!(!is_transition(&one, &counted));
    let paused = told(&one, &seen(Gate::Paused, ALWAYS, 10, 4, 4), &Progress::Settled, later);
    assert!(is_transition(&one, &paused));
    let since = |status: &CouponEventStatus, type_: &str| status.condition(type_).unwrap().last_transition_time.clone();
    assert_eq!(since(&paused, condition::OPEN), Time(later));
    assert_eq!(since(&paused, condition::READY), since(&one, condition::READY));
}

#[test]
fn while_coupons_are_made_it_is_not_ready() {
    let working = Progress::Working("3 of 10".into());
    let first = Seen { redis: None, ..seen(Gate::Loading, ALWAYS, 0, 0, 0) };
    let status = told(&CouponEventStatus::default(), &first, &working, at(NOW));
    assert_eq!(marks(&status)[..3], ["Ready False Preloading", "Preloaded False Preloading", "Open False Loading"]);
    assert_eq!(status.condition(condition::READY).unwrap().message, "3 of 10");
    let more = seen(Gate::Open, ALWAYS, 5, 5, 5);
    let status = told(&CouponEventStatus::default(), &more, &working, at(NOW));
    assert_eq!(marks(&status)[..2], ["Ready False ToppingUp", "Preloaded False ToppingUp"]);
}

#[test]
fn a_stall_says_what_to_do() {
    let obstacle = Obstacle { reason: reason::CHANGE_NOT_POSSIBLE, message: "raise it".into() };
    let stuck = Progress::Stuck(obstacle.clone());
    let status = told(&CouponEventStatus::default(), &seen(Gate::Open, ALWAYS, 10, 4, 4), &stuck, at(NOW));
    assert_eq!(marks(&status)[0], "Ready False ChangeNotPossible");
    assert_eq!(marks(&status)[1], "Preloaded True StockComplete", "what is there is there");
    assert_eq!(marks(&status)[4], "Stalled True ChangeNotPossible");

    let open = settled(&CouponEventStatus::default(), &seen(Gate::Open, ALWAYS, 10, 4, 4));
    let down = Obstacle { reason: reason::BACKEND_UNAVAILABLE, message: "refused".into() };
    let unknown = unavailable(&open, 3, &down, at(NOW));
    assert_eq!(
        marks(&unknown),
        [
            "Ready False BackendUnavailable",
            "Preloaded True StockComplete",
            "Open True Open",
            "Recorded True AllRecorded",
            "Stalled True BackendUnavailable",
            "Balanced True CountsMatch"
        ]
    );
    assert_eq!(unknown.issued, Some(4), "the last counts stay");
    let fresh = unavailable(&CouponEventStatus::default(), 1, &down, at(NOW));
    assert_eq!(marks(&fresh)[1], "Open False Loading");
}

#[test]
fn remarks_about_the_servers_are_in_the_report() {
    let remarks = ["topic coupon-issued: partitions is 1, expected 12".to_owned()];
    let seen = seen(Gate::Open, ALWAYS, 10, 0, 0);
    let beside = Beside { remarks: &remarks, ..BESIDE };
    let status = report(&CouponEventStatus::default(), &wanted(), &seen, &Progress::Settled, beside, at(NOW));
    assert_eq!(
        status.condition(condition::READY).unwrap().message,
        "All 10 coupons are in place; but topic coupon-issued: partitions is 1, expected 12"
    );
}

#[test]
fn the_balance_is_in_the_report() {
    let seen = seen(Gate::Open, ALWAYS, 10, 4, 3);
    let status = settled(&CouponEventStatus::default(), &seen);
    let expected = couponry_crds::BalanceStatus { generated: 10, available: 6, unrecorded: 1, recorded: 3, voided: 0 };
    assert_eq!(status.balance, Some(expected));
    let beside = Beside { difference: Some("1 is nowhere"), ..BESIDE };
    let differing = report(&status, &wanted(), &seen, &Progress::Settled, beside, at(NOW));
    assert_eq!(marks(&differing)[5], "Balanced False DriftFound");
    assert_eq!(differing.condition(condition::BALANCED).unwrap().message, "1 is nowhere");
    let lost = settled(&differing, &Seen { redis: None, ..seen });
    assert_eq!(marks(&lost)[5], "Balanced False DriftFound", "nothing is known any more, and nothing better");
    assert_eq!(lost.balance, Some(expected));
}

#[test]
fn scaling_is_reported_to_who_asks_for_it() {
    let seen = seen(Gate::Open, ALWAYS, 10, 4, 4);
    let ready = Asked::Known(Scaled { holds: true, reason: reason::ISSUERS_READY, message: "8 of 8".into() });
    let with = |old: &CouponEventStatus, scaling: &Asked| {
        report(old, &wanted(), &seen, &Progress::Settled, Beside { scaling, ..BESIDE }, at(NOW))
    };
    let status = with(&CouponEventStatus::default(), &ready);
    assert_eq!(marks(&status)[6], "Scaled True IssuersReady");
    assert_eq!(with(&status, &Asked::Unknown), status, "known from the last report");
    assert!(with(&status, &Asked::Nothing).condition(condition::SCALED).is_none());
}

#[test]
fn what_has_left_redis_stays_in_the_report() {
    let ended = Window { start: None, end: Some(NOW - 1) };
    for (gate, window, issued, state) in [
        (Gate::Open, ended, 4, reason::ENDED),
        (Gate::Closed, ALWAYS, 4, reason::CLOSED),
        (Gate::Open, ALWAYS, 10, reason::SOLD_OUT),
    ] {
        let before = seen(gate, window, 10, issued, issued);
        let after = Observed { gate: Gate::Closed, retired: Some(gate), ..before.redis.clone().unwrap() };
        let (old, after) = (settled(&CouponEventStatus::default(), &before), Seen { redis: Some(after), ..before });
        let new = settled(&old, &after);
        assert_eq!(
            marks(&new)[..3],
            ["Ready True Retired".into(), "Preloaded True Retired".into(), format!("Open False {state}")]
        );
        let counts = |status: &CouponEventStatus| (status.issued, status.recorded, status.available, status.balance);
        assert_eq!(counts(&new), counts(&old));
        assert_eq!((new.finished_at, new.sold_out_at), (old.finished_at, old.sold_out_at));
    }
}

#[test]
fn while_redis_is_not_trusted_its_counts_are_not_reported() {
    let open = settled(&CouponEventStatus::default(), &seen(Gate::Open, ALWAYS, 10, 4, 4));
    let mut wiped = seen(Gate::Loading, ALWAYS, 0, 0, 4);
    wiped.redis.as_mut().unwrap().is_verified = false;
    let stuck = Progress::Stuck(super::super::recover::obstacle("waiting"));
    let changed = told(&open, &wiped, &stuck, at(NOW));
    assert_eq!((changed.issued, changed.available, changed.loaded), (Some(4), Some(6), Some(10)));
    let marks = marks(&changed);
    for mark in
        ["Ready False RedisChanged", "Open False RedisChanged", "Stalled True RedisChanged", "Recorded True AllRecorded"]
    {
        assert!(marks.iter().any(|one| one == mark), "{marks:?}");
    }
    let back = settled(&changed, &seen(Gate::Open, ALWAYS, 10, 4, 4));
    assert_eq!(back.condition("Open").unwrap().reason, "Open");
    let paused = settled(&CouponEventStatus::default(), &seen(Gate::Paused, ALWAYS, 10, 4, 4));
    let changed = told(&paused, &wiped, &stuck, at(NOW));
    assert_eq!(changed.condition("Open").unwrap().reason, "Paused");
}
