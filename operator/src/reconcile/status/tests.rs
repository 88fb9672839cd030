use crds::Issuance;
use domain::{CodeFormat, Discount, DiscountType, Seed, Share, Uuid, Window};
use ledger::StoredEvent;
use stock::Acknowledge;

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
    }
}

fn seen(gate: Gate, window: Window, loaded: u64, issued: u64, persisted: u64) -> Seen {
    let stored = StoredEvent {
        uid: UID,
        name: "summer".parse().unwrap(),
        policy_name: "Summer sale".into(),
        seed: Seed::from([0; 32]),
        format: CodeFormat::default(),
        generation: 3,
        edition: 0,
        stock: vec![(TEN_PERCENT, 10)],
        opened_at: Some(window.start.unwrap_or(NOW - 5000)),
    };
    let redis = Observed {
        uid: UID,
        edition: 0,
        gate,
        window,
        acknowledge: Acknowledge::Redis,
        generation: 3,
        loaded,
        queued: loaded - issued,
        issued,
        completed: persisted,
        cancelled: 0,
        outbox: 0,
        now: NOW,
    };
    Seen { stored: Some(stored), persisted, redis: Some(redis), rival: None, now: NOW }
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

fn settled(old: &CouponEventStatus, seen: &Seen) -> CouponEventStatus {
    report(old, &wanted(), seen, &Progress::Settled, &[], at(NOW))
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
            "Persisted False CatchingUp",
            "Stalled False Progressing"
        ]
    );
    assert_eq!(status.observed_generation, Some(3));
    let counts = [status.preloaded, status.issued, status.persisted, status.remaining];
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
    let same = report(&one, &wanted(), &seen(Gate::Open, ALWAYS, 10, 4, 4), &Progress::Settled, &[], later);
    assert_eq!(same, one);
    let counted = report(&one, &wanted(), &seen(Gate::Open, ALWAYS, 10, 5, 5), &Progress::Settled, &[], later);
    assert_ne!(counted, one);
    assert!(!is_transition(&one, &counted));
    let paused = report(&one, &wanted(), &seen(Gate::Paused, ALWAYS, 10, 4, 4), &Progress::Settled, &[], later);
    assert!(is_transition(&one, &paused));
    let since = |status: &CouponEventStatus, type_: &str| status.condition(type_).unwrap().last_transition_time.clone();
    assert_eq!(since(&paused, condition::OPEN), Time(later));
    assert_eq!(since(&paused, condition::READY), since(&one, condition::READY));
}

#[test]
fn while_coupons_are_made_it_is_not_ready() {
    let working = Progress::Working("3 of 10".into());
    let first = Seen { redis: None, ..seen(Gate::Loading, ALWAYS, 0, 0, 0) };
    let status = report(&CouponEventStatus::default(), &wanted(), &first, &working, &[], at(NOW));
    assert_eq!(marks(&status)[..3], ["Ready False Preloading", "Preloaded False Preloading", "Open False Loading"]);
    assert_eq!(status.condition(condition::READY).unwrap().message, "3 of 10");
    let more = seen(Gate::Open, ALWAYS, 5, 5, 5);
    let status = report(&CouponEventStatus::default(), &wanted(), &more, &working, &[], at(NOW));
    assert_eq!(marks(&status)[..2], ["Ready False ToppingUp", "Preloaded False ToppingUp"]);
}

#[test]
fn a_stall_says_what_to_do() {
    let obstacle = Obstacle { reason: reason::CHANGE_NOT_POSSIBLE, message: "raise it".into() };
    let stuck = Progress::Stuck(obstacle.clone());
    let status =
        report(&CouponEventStatus::default(), &wanted(), &seen(Gate::Open, ALWAYS, 10, 4, 4), &stuck, &[], at(NOW));
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
            "Persisted True CaughtUp",
            "Stalled True BackendUnavailable"
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
    let status = report(&CouponEventStatus::default(), &wanted(), &seen, &Progress::Settled, &remarks, at(NOW));
    assert_eq!(
        status.condition(condition::READY).unwrap().message,
        "All 10 coupons are in place; but topic coupon-issued: partitions is 1, expected 12"
    );
}
