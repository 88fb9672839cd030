use couponry_domain::{CodeFormat, DiscountType, Seed, Share};
use couponry_redis::Acknowledge;

use super::*;

mod world;

const UID: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);
const NOW: i64 = 1_000_000_000;
const LATER: i64 = NOW + 3_600_000;
const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };
const FIVE_THOUSAND: Discount = Discount { kind: DiscountType::Amount, value: 5000 };

fn wanted(total: u64) -> Wanted {
    Wanted {
        uid: UID,
        name: "summer".parse().unwrap(),
        generation: 1,
        policy_name: "Summer sale".into(),
        format: CodeFormat::default(),
        total,
        shares: vec![(TEN_PERCENT, Share::Percentage(70)), (FIVE_THOUSAND, Share::Percentage(30))],
        window: Window::default(),
        issuance: Issuance::Auto,
        acknowledge: Acknowledge::Redis,
        retire_at: None,
    }
}

fn counts(percent: u64, amount: u64) -> Vec<(Discount, u64)> {
    vec![(TEN_PERCENT, percent), (FIVE_THOUSAND, amount)]
}

fn stored(stock: Vec<(Discount, u64)>, opened_at: Option<i64>) -> StoredEvent {
    StoredEvent {
        uid: UID,
        name: "summer".parse().unwrap(),
        policy_name: "Summer sale".into(),
        seed: Seed::from([0; 32]),
        format: CodeFormat::default(),
        generation: 1,
        stock_epoch: 0,
        stock,
        opened_at,
        record_cutoff: None,
    }
}

/// An event in Redis of which `issued` of `loaded` coupons are given.
fn redis(gate: Gate, loaded: u64, issued: u64) -> Observed {
    Observed {
        uid: UID,
        stock_epoch: 0,
        gate,
        window: Window::default(),
        acknowledge: Acknowledge::Redis,
        generation: 1,
        loaded,
        available: loaded - issued,
        issued,
        completed: 0,
        cancelled: 0,
        voided: 0,
        retired: None,
        outbox: 0,
        now: NOW,
        server: "one".into(),
        is_verified: true,
        token: "first".into(),
    }
}

fn seen(stored: Option<StoredEvent>, redis: Option<Observed>) -> Seen {
    Seen { stored, known_recorded: 0, recorded: 0, redis, rival: None, arrival: None, now: NOW }
}

fn gate(gate: Gate, window: Window, total: u64) -> Plan {
    Plan::Do(Step::SetGate(Opening { gate, window, acknowledge: Acknowledge::Redis, generation: 1, stock_epoch: 0, total }))
}

fn reason_of(plan: &Plan) -> &'static str {
    match plan {
        Plan::Stuck(obstacle) => obstacle.reason,
        other => panic!("{other:?}"),
    }
}

const ALWAYS: Window = Window { start: None, end: None };
const FROM_LATER: Window = Window { start: Some(LATER), end: None };

#[test]
fn the_steps_of_an_event_that_opens_at_once() {
    let whole = counts(7, 3);
    let steps = [
        (None, None, Plan::Do(Step::Register)),
        (Some(stored(vec![], None)), None, Plan::Do(Step::MakeStock(Lot { first_ordinal: 0, counts: whole.clone() }))),
        (Some(stored(whole.clone(), None)), None, Plan::Do(Step::Prepare)),
        (Some(stored(whole.clone(), None)), Some(redis(Gate::Loading, 0, 0)), Plan::Do(Step::Load { from: 0, to: 10 })),
        (Some(stored(whole.clone(), None)), Some(redis(Gate::Loading, 9, 0)), Plan::Do(Step::Load { from: 9, to: 10 })),
        (
            Some(stored(whole.clone(), None)),
            Some(redis(Gate::Loading, 10, 0)),
            Plan::Do(Step::ScheduleOpening { at: NOW }),
        ),
        (Some(stored(whole.clone(), Some(NOW))), Some(redis(Gate::Loading, 10, 0)), gate(Gate::Open, ALWAYS, 10)),
        (Some(stored(whole.clone(), Some(NOW))), Some(redis(Gate::Open, 10, 0)), Plan::Rest),
        (Some(stored(whole, Some(NOW))), Some(redis(Gate::Open, 10, 10)), Plan::Rest),
    ];
    for (stored, redis, next) in steps {
        let seen = seen(stored, redis);
        assert_eq!(plan(&wanted(10), &seen), next, "{seen:?}");
    }
}

#[test]
fn an_event_with_a_start_to_come_is_armed_at_once_and_can_still_change() {
    let scheduled = Wanted { window: FROM_LATER, ..wanted(10) };
    let whole = counts(7, 3);
    let at = |stored_at, gate, window| {
        seen(Some(stored(whole.clone(), stored_at)), Some(Observed { window, ..redis(gate, 10, 0) }))
    };
    assert_eq!(
        plan(&scheduled, &at(None, Gate::Loading, ALWAYS)),
        Plan::Do(Step::ScheduleOpening { at: LATER }),
        "Postgres knows the time before the gate opens"
    );
    assert_eq!(plan(&scheduled, &at(Some(LATER), Gate::Loading, ALWAYS)), gate(Gate::Open, FROM_LATER, 10));
    let armed = at(Some(LATER), Gate::Open, FROM_LATER);
    assert_eq!(plan(&scheduled, &armed), Plan::Rest);

    let sooner = Window { start: Some(NOW + 1), end: None };
    for changed in [
        Wanted { total: 9, ..scheduled.clone() },
        Wanted { total: 11, ..scheduled.clone() },
        Wanted { shares: vec![(TEN_PERCENT, Share::Percentage(100))], ..scheduled.clone() },
        Wanted { window: sooner, ..scheduled.clone() },
        Wanted { window: ALWAYS, ..scheduled.clone() },
        Wanted { issuance: Issuance::Paused, ..scheduled.clone() },
    ] {
        assert_eq!(plan(&changed, &armed), gate(Gate::Loading, FROM_LATER, 10), "disarmed first: {changed:?}");
        let disarmed = at(Some(LATER), Gate::Loading, FROM_LATER);
        assert_eq!(plan(&changed, &disarmed), Plan::Do(Step::WithdrawOpening));
    }
    let fewer = Wanted { total: 9, ..scheduled };
    assert_eq!(plan(&fewer, &at(None, Gate::Loading, FROM_LATER)), Plan::Do(Step::DiscardStock));
    let next = StoredEvent { stock_epoch: 1, ..stored(vec![], None) };
    let earlier = redis(Gate::Loading, 10, 0);
    assert_eq!(plan(&fewer, &seen(Some(next.clone()), Some(earlier.clone()))), Plan::Do(Step::RemoveStockEpoch(0)));
    let given = redis(Gate::Open, 10, 1);
    assert_eq!(reason_of(&plan(&fewer, &seen(Some(next), Some(given)))), reason::DRIFT_FOUND, "somebody has one");
    let opened = StoredEvent { stock_epoch: 1, ..stored(whole.clone(), Some(NOW)) };
    assert_eq!(reason_of(&plan(&fewer, &seen(Some(opened), Some(earlier)))), reason::DRIFT_FOUND);
}

#[test]
fn once_opened_the_stock_only_grows() {
    let opened = |issued| seen(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(Gate::Open, 10, issued)));
    assert_eq!(
        plan(&wanted(20), &opened(10)),
        Plan::Do(Step::MakeStock(Lot { first_ordinal: 10, counts: counts(7, 3) }))
    );
    let topped_up = seen(Some(stored(counts(14, 6), Some(NOW - 1))), Some(redis(Gate::Open, 10, 10)));
    assert_eq!(plan(&wanted(20), &topped_up), Plan::Do(Step::Load { from: 10, to: 20 }));
    let fewer = plan(&wanted(9), &opened(0));
    assert_eq!(reason_of(&fewer), reason::CHANGE_NOT_POSSIBLE);
    let others = Wanted { shares: vec![(TEN_PERCENT, Share::Percentage(100))], ..wanted(10) };
    assert_eq!(reason_of(&plan(&others, &opened(0))), reason::CHANGE_NOT_POSSIBLE);
    let later = Wanted { window: FROM_LATER, ..wanted(10) };
    assert_eq!(reason_of(&plan(&later, &opened(1))), reason::CHANGE_NOT_POSSIBLE);
}

#[test]
fn counts_grow_to_what_the_manifest_says() {
    let by_count = |percent, amount| Wanted {
        shares: vec![(TEN_PERCENT, Share::Count(percent)), (FIVE_THOUSAND, Share::Count(amount))],
        ..wanted(percent + amount)
    };
    assert_eq!(by_count(7, 13).top_up(&counts(7, 3)), Ok(counts(0, 10)));
    let told = by_count(6, 14).top_up(&counts(7, 3)).unwrap_err();
    assert_eq!(told, "the event has opened with 7 coupons of PERCENT:10: raise its count to 7 or more");
}

#[test]
fn the_added_coupons_are_split_by_the_same_shares() {
    // Splitting 11 anew would give 8 and 3, and with other numbers it could take coupons away.
    assert_eq!(wanted(11).top_up(&counts(7, 3)), Ok(counts(1, 0)));
    assert_eq!(wanted(13).top_up(&counts(7, 3)), Ok(counts(2, 1)));
}

#[test]
fn the_gate_follows_the_manifest() {
    let opened = |gate| seen(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(gate, 10, 4)));
    let paused = Wanted { issuance: Issuance::Paused, ..wanted(10) };
    let closed = Wanted { issuance: Issuance::Closed, ..wanted(10) };
    assert_eq!(plan(&paused, &opened(Gate::Open)), gate(Gate::Paused, ALWAYS, 10));
    assert_eq!(plan(&paused, &opened(Gate::Paused)), Plan::Rest);
    assert_eq!(plan(&wanted(10), &opened(Gate::Paused)), gate(Gate::Open, ALWAYS, 10));
    assert_eq!(plan(&closed, &opened(Gate::Open)), gate(Gate::Closed, ALWAYS, 10));
    assert_eq!(plan(&closed, &opened(Gate::Closed)), Plan::Rest);
    assert_eq!(plan(&wanted(10), &opened(Gate::Closed)), Plan::Rest, "closed is final");
    let ends = Window { start: None, end: Some(LATER) };
    let ending = Wanted { window: ends, ..wanted(10) };
    assert_eq!(plan(&ending, &opened(Gate::Open)), gate(Gate::Open, ends, 10));
    assert_eq!(plan(&paused, &opened(Gate::Loading)), gate(Gate::Paused, ALWAYS, 10));
    let fewer_and_paused = Wanted { issuance: Issuance::Paused, ..wanted(9) };
    assert_eq!(
        plan(&fewer_and_paused, &opened(Gate::Open)),
        gate(Gate::Paused, ALWAYS, 10),
        "an obstacle does not keep a pause from being put in force"
    );
}

#[test]
fn an_event_that_is_born_paused_or_closed_never_opens() {
    let paused = Wanted { issuance: Issuance::Paused, ..wanted(10) };
    let whole = || Some(stored(counts(7, 3), None));
    assert_eq!(plan(&paused, &seen(whole(), Some(redis(Gate::Loading, 10, 0)))), gate(Gate::Paused, ALWAYS, 10));
    assert_eq!(plan(&paused, &seen(whole(), Some(redis(Gate::Paused, 10, 0)))), Plan::Rest);
    let closed = Wanted { issuance: Issuance::Closed, ..wanted(10) };
    let empty = || Some(stored(vec![], None));
    assert_eq!(plan(&closed, &seen(empty(), None)), Plan::Do(Step::Prepare), "late callers hear that it is over");
    assert_eq!(plan(&closed, &seen(empty(), Some(redis(Gate::Loading, 0, 0)))), gate(Gate::Closed, ALWAYS, 0));
    assert_eq!(plan(&closed, &seen(empty(), Some(redis(Gate::Closed, 0, 0)))), Plan::Rest);
}

#[test]
fn what_redis_lost_is_loaded_again_only_before_the_start() {
    let lost = |opened_at| seen(Some(stored(counts(7, 3), opened_at)), None);
    assert_eq!(plan(&wanted(10), &lost(None)), Plan::Do(Step::Prepare));
    assert_eq!(plan(&wanted(10), &lost(Some(LATER))), Plan::Do(Step::WithdrawOpening));
    for opened_at in [NOW - 1, NOW, NOW + CLOCK_TOLERANCE] {
        assert_eq!(plan(&wanted(10), &lost(Some(opened_at))), Plan::Do(Step::Prepare), "to be recovered");
    }
}

#[test]
fn a_redis_that_has_changed_is_adopted_only_before_the_start_and_recovered_after_it() {
    let changed = |opened_at, issued| {
        let redis = Observed { is_verified: false, ..redis(Gate::Open, 10, issued) };
        seen(Some(stored(counts(7, 3), opened_at)), Some(redis))
    };
    assert_eq!(plan(&wanted(10), &changed(None, 0)), Plan::Do(Step::Adopt));
    assert_eq!(plan(&wanted(10), &changed(Some(LATER), 0)), Plan::Do(Step::Adopt));
    let recorded = Seen { recorded: 1, ..changed(Some(LATER), 0) };
    for may_be_given in [changed(Some(NOW - 1), 0), changed(Some(NOW + CLOCK_TOLERANCE), 0), changed(None, 1), recorded]
    {
        let waiting = Seen { arrival: Some(Arrival::Awaited("one batch".into())), ..may_be_given.clone() };
        let Plan::Stuck(Obstacle { reason, message }) = plan(&wanted(10), &waiting) else { panic!("{waiting:?}") };
        assert!(reason == reason::REDIS_CHANGED && message.ends_with("known to be whole: one batch"), "{message}");
        let arrived = Seen { arrival: Some(Arrival::Complete), ..may_be_given };
        assert_eq!(plan(&wanted(10), &arrived), Plan::Do(Step::Recover));
        for issuance in [Issuance::Paused, Issuance::Closed] {
            assert_eq!(
                plan(&Wanted { issuance, ..wanted(10) }, &arrived),
                Plan::Do(Step::Recover),
                "users ask what they have"
            );
        }
    }
    let gone = Observed { is_verified: false, retired: Some(Gate::Open), ..redis(Gate::Closed, 10, 4) };
    let gone = seen(Some(stored(counts(7, 3), Some(NOW - 100))), Some(gone));
    assert_eq!(plan(&wanted(10), &gone), Plan::Do(Step::Adopt), "there is nothing to lose");
    let newer = StoredEvent { generation: 2, ..stored(counts(7, 3), Some(NOW - 1)) };
    let changed = Observed { is_verified: false, ..redis(Gate::Open, 10, 4) };
    assert_eq!(plan(&wanted(10), &seen(Some(newer), Some(changed))), Plan::Rest, "another operator knows better");
}

#[test]
fn nothing_opens_that_does_not_add_up() {
    let opened = |redis, recorded| Seen { recorded, ..seen(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis)) };
    let whole = |gate| redis(gate, 10, 4);
    assert_eq!(plan(&wanted(10), &opened(whole(Gate::Paused), 4)), gate(Gate::Open, ALWAYS, 10));
    for (what, redis, recorded) in [
        ("more is recorded than Redis knows", whole(Gate::Paused), 5),
        ("the same while it is loaded", whole(Gate::Loading), 5),
        ("coupons have appeared", Observed { available: 7, ..whole(Gate::Paused) }, 0),
        ("more is loaded than exists", redis(Gate::Paused, 11, 0), 0),
        ("coupons have vanished while it was loaded", Observed { available: 5, ..whole(Gate::Loading) }, 0),
    ] {
        assert_eq!(reason_of(&plan(&wanted(10), &opened(redis, recorded))), reason::DRIFT_FOUND, "{what}");
    }
    let fewer = Observed { loaded: 9, ..whole(Gate::Open) };
    assert_eq!(reason_of(&plan(&wanted(10), &opened(fewer, 4))), reason::DRIFT_FOUND, "it would be loaded twice");
    let paused = Wanted { issuance: Issuance::Paused, ..wanted(10) };
    assert_eq!(plan(&paused, &opened(whole(Gate::Open), 5)), gate(Gate::Paused, ALWAYS, 10), "it can always be held");
    assert_eq!(plan(&wanted(10), &opened(whole(Gate::Open), 5)), Plan::Rest, "what is open is not the plan's to close");
    let early = |redis| seen(Some(stored(counts(7, 3), None)), Some(redis));
    for (what, redis) in [
        ("given before it opened", redis(Gate::Loading, 10, 1)),
        ("vanished before it opened", Observed { available: 9, ..redis(Gate::Loading, 10, 0) }),
        ("more than exist", redis(Gate::Loading, 11, 0)),
    ] {
        assert_eq!(reason_of(&plan(&wanted(10), &early(redis))), reason::DRIFT_FOUND, "{what}");
    }
}

#[test]
fn the_coupons_of_an_event_that_is_over_leave_redis_in_time() {
    let ended = Window { start: None, end: Some(NOW - 10) };
    let running = Window { start: None, end: Some(LATER) };
    let over = |window, gate, issued| Observed { window, completed: issued, ..redis(gate, 10, issued) };
    let ask = |redis: Observed, recorded, retire_at| {
        let window = redis.window;
        let seen = Seen { recorded, ..seen(Some(stored(counts(7, 3), Some(NOW - 100))), Some(redis)) };
        plan(&Wanted { window, retire_at, ..wanted(10) }, &seen)
    };
    let in_time = Some(NOW);
    for (what, redis, recorded, at, expected) in [
        ("ended", over(ended, Gate::Open, 4), 4, in_time, Plan::Do(Step::Retire)),
        ("closed", over(running, Gate::Closed, 4), 4, in_time, Plan::Do(Step::Retire)),
        ("sold out without an end", over(ALWAYS, Gate::Open, 10), 10, in_time, Plan::Do(Step::Retire)),
        ("sold out before its end", over(running, Gate::Open, 10), 10, in_time, Plan::Rest),
        ("open", over(ALWAYS, Gate::Open, 4), 4, in_time, Plan::Rest),
        ("not yet", over(ended, Gate::Open, 4), 4, Some(NOW + 1), Plan::Rest),
        ("not asked for", over(ended, Gate::Open, 4), 4, None, Plan::Rest),
        ("not recorded", over(ended, Gate::Open, 4), 3, in_time, Plan::Rest),
        ("not told", Observed { completed: 3, ..over(ended, Gate::Open, 4) }, 4, in_time, Plan::Rest),
        ("on its way", Observed { outbox: 1, ..over(ended, Gate::Open, 4) }, 4, in_time, Plan::Rest),
        ("not adding up", Observed { available: 5, ..over(ended, Gate::Open, 4) }, 4, in_time, Plan::Rest),
        ("done", Observed { retired: Some(Gate::Open), ..over(ended, Gate::Closed, 4) }, 4, in_time, Plan::Rest),
    ] {
        assert_eq!(ask(redis, recorded, at), expected, "{what}");
    }
    let gone = Observed { retired: Some(Gate::Open), ..over(ended, Gate::Closed, 10) };
    let gone = seen(Some(stored(counts(7, 3), Some(NOW - 100))), Some(gone));
    for changed in [Wanted { window: ended, ..wanted(11) }, Wanted { window: running, ..wanted(10) }] {
        assert_eq!(reason_of(&plan(&changed, &gone)), reason::CHANGE_NOT_POSSIBLE, "{changed:?}");
    }
}

#[test]
fn an_earlier_event_of_the_name_makes_room() {
    let earlier = |gate, outbox| Observed { uid: OTHER, outbox, ..redis(gate, 10, 4) };
    let with = |other, rival| Seen { rival: Some(rival), ..seen(Some(stored(vec![], None)), Some(other)) };
    let close = Opening {
        gate: Gate::Closed,
        window: ALWAYS,
        acknowledge: Acknowledge::Redis,
        generation: 1,
        stock_epoch: 0,
        total: 10,
    };
    assert_eq!(
        plan(&wanted(10), &with(earlier(Gate::Open, 0), Rival::Earlier)),
        Plan::Do(Step::CloseForeign(OTHER, close))
    );
    let waiting = plan(&wanted(10), &with(earlier(Gate::Closed, 1), Rival::Earlier));
    assert_eq!(reason_of(&waiting), reason::NAME_CONFLICT, "what its users were told comes first");
    assert_eq!(
        plan(&wanted(10), &with(earlier(Gate::Closed, 0), Rival::Earlier)),
        Plan::Do(Step::RemoveForeign(OTHER))
    );
    let unknown = plan(&wanted(10), &with(earlier(Gate::Closed, 0), Rival::Unknown));
    assert_eq!(reason_of(&unknown), reason::NAME_CONFLICT, "another installation may be using it");
}

#[test]
fn who_was_overtaken_leaves_everything_alone() {
    let later = Observed { uid: OTHER, ..redis(Gate::Open, 10, 4) };
    let overtaken = |stored| Seen { rival: Some(Rival::Later), ..seen(stored, Some(later.clone())) };
    assert_eq!(plan(&wanted(10), &overtaken(Some(stored(counts(7, 3), Some(NOW))))), Plan::Rest);
    assert_eq!(plan(&wanted(10), &overtaken(None)), Plan::Rest, "not even registered again");
    let newer = StoredEvent { generation: 2, ..stored(counts(7, 3), Some(NOW - 1)) };
    let paused = Observed { generation: 2, ..redis(Gate::Paused, 10, 4) };
    assert_eq!(plan(&wanted(10), &seen(Some(newer), Some(paused))), Plan::Rest, "a pause is not undone");
    let newer = Wanted { generation: 2, ..wanted(10) };
    let older = seen(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(Gate::Open, 10, 4)));
    assert_eq!(plan(&newer, &older), Plan::Do(Step::Register), "a newer manifest is announced first");
}

#[test]
fn a_redis_from_before_the_opening_is_not_opened_again() {
    let restored = redis(Gate::Loading, 10, 0);
    let seen = Seen { recorded: 3, ..seen(Some(stored(counts(7, 3), Some(NOW - 1))), Some(restored)) };
    assert_eq!(reason_of(&plan(&wanted(10), &seen)), reason::DRIFT_FOUND);
}

#[test]
fn what_redis_forgot_opens_with_the_start_that_users_knew() {
    let forgotten = |issued| seen(Some(stored(counts(7, 3), Some(NOW - 100))), Some(redis(Gate::Loading, 10, issued)));
    let from = |start| Wanted { window: Window { start: Some(start), end: None }, ..wanted(10) };
    let opens = |start| gate(Gate::Open, Window { start: Some(start), end: None }, 10);
    for start in [NOW - 200, NOW - 100] {
        assert_eq!(plan(&from(start), &forgotten(4)), opens(start));
    }
    assert_eq!(plan(&from(LATER), &forgotten(4)), opens(NOW - 100), "it has opened");
    assert_eq!(plan(&from(LATER), &forgotten(0)), opens(LATER), "nobody has a coupon");
    assert_eq!(plan(&wanted(10), &forgotten(4)), gate(Gate::Open, ALWAYS, 10));
}

#[test]
fn the_manifests_words_follow() {
    let renamed = Wanted { policy_name: "Winter sale".into(), ..wanted(10) };
    let opened = seen(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(Gate::Open, 10, 0)));
    assert_eq!(plan(&renamed, &opened), Plan::Do(Step::Register));
    let shorter = Wanted { format: CodeFormat { prefix: None, length: 10 }, ..wanted(10) };
    assert_eq!(plan(&shorter, &seen(Some(stored(vec![], None)), None)), Plan::Do(Step::Register));
    assert_eq!(plan(&shorter, &opened), Plan::Rest, "codes that are made stay");
}
