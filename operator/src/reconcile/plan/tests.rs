use couponry_crds::CouponEvent;
use couponry_domain::{Acknowledge, CodeFormat, CouponTerms, DiscountType, Release, Seed, Share, Uuid, Window};
use couponry_postgres::{CodeFile, ImportedCodes, UseCounts};

use super::*;
use crate::reconcile::{
    gate::{final_start, recovered_gate_settings},
    recording::RecordingState,
};

mod model;

const UID: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);
const NOW: i64 = 1_000_000_000;
const LATER: i64 = NOW + 3_600_000;
const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };
const FIVE_THOUSAND: Discount = Discount { kind: DiscountType::Amount, value: 5000 };

fn desired(total: u64) -> DesiredState {
    DesiredState {
        uid: UID,
        name: "summer".parse().unwrap(),
        generation: 1,
        manifest_generation: 1,
        is_continuation: false,
        replaces: None,
        policy_name: "Summer sale".into(),
        format: CodeFormat::default(),
        code_source: CodeSource::Generated,
        terms: CouponTerms::default(),
        release: Release::default(),
        total,
        shares: vec![(TEN_PERCENT, Share::Percentage(70)), (FIVE_THOUSAND, Share::Percentage(30))],
        window: Window::default(),
        issuance: IssuingMode::Auto,
        hold: None,
        acknowledge: Acknowledge::Redis,
        retire_at: None,
    }
}

fn in_euro() -> CouponTerms {
    CouponTerms { currency: Some("EUR".parse().unwrap()), ..CouponTerms::default() }
}

fn valid_for(duration: &str) -> CouponTerms {
    CouponTerms { validity: Some(format!("{duration} UTC").parse().unwrap()), ..CouponTerms::default() }
}

fn counts(percent: u64, amount: u64) -> Vec<(Discount, u64)> {
    vec![(TEN_PERCENT, percent), (FIVE_THOUSAND, amount)]
}

/// An opening at [`LATER`] is not final.
fn stored(discount_counts: Vec<(Discount, u64)>, opens_at: Option<i64>) -> StoredEvent {
    StoredEvent {
        uid: UID,
        name: "summer".parse().unwrap(),
        policy_name: "Summer sale".into(),
        seed: Seed::from([0; 32]),
        format: CodeFormat::default(),
        terms: CouponTerms::default(),
        release: Release::default(),
        generation: 1,
        stock_epoch: 0,
        discount_counts,
        opens_at,
        is_opening_final: opens_at.is_some_and(|at| at != LATER),
        starts_at: opens_at.filter(|at| *at == LATER),
        openings: opens_at.is_some().into(),
        record_cutoff: None,
        has_pseudonyms: false,
    }
}

/// An event in Redis with `issued` of `loaded` coupons issued.
fn redis(gate: Gate, loaded: u64, issued: u64) -> RedisEvent {
    RedisEvent {
        uid: UID,
        installation: None,
        stock_epoch: 0,
        gate,
        window: Window::default(),
        acknowledge: Acknowledge::Redis,
        validity: None,
        release: Release::default(),
        damaged_release: None,
        admission_key: None,
        generation: 1,
        loaded,
        available: loaded - issued,
        sold_out_at: None,
        issued,
        marked_recorded: 0,
        voided: 0,
        cancelled: 0,
        withheld: 0,
        has_pseudonym_key: false,
        retired: None,
        outbox: 0,
        now: NOW,
        replication_id: "one".into(),
        is_verified: true,
        is_restore_requested: false,
        recovery_id: "first".into(),
    }
}

fn observed(stored: Option<StoredEvent>, redis: Option<RedisEvent>) -> ObservedState {
    ObservedState {
        stored,
        marked_recorded: 0,
        recorded: 0,
        uses: UseCounts::default(),
        imports: Vec::new(),
        redis,
        name_conflict: None,
        drain: None,
        recording: RecordingState::default(),
        redis_blocker: None,
    }
}

fn gate(gate: Gate, window: Window, total: u64) -> Plan {
    Plan::Apply(Step::SetGate(GateSettings {
        gate,
        window,
        acknowledge: Acknowledge::Redis,
        validity: None,
        release: Release::default(),
        admission_key: None,
        generation: 1,
        stock_epoch: 0,
        total,
    }))
}

fn reason_of(plan: &Plan) -> &'static str {
    match plan {
        Plan::Blocked(blocker) => blocker.reason,
        other => panic!("{other:?}"),
    }
}

const ALWAYS: Window = Window { start: None, end: None };
const FROM_LATER: Window = Window { start: Some(LATER), end: None };

#[test]
fn plan_of_event_without_start_leads_to_an_open_gate() {
    let full = counts(7, 3);
    let steps = [
        (None, None, Plan::Apply(Step::Register)),
        (
            Some(stored(vec![], None)),
            None,
            Plan::Apply(Step::GenerateStock(CouponBatch { first_ordinal: 0, counts: full.clone() })),
        ),
        (Some(stored(full.clone(), None)), None, Plan::Apply(Step::Prepare)),
        (
            Some(stored(full.clone(), None)),
            Some(redis(Gate::Loading, 0, 0)),
            Plan::Apply(Step::Load { from: 0, to: 10 }),
        ),
        (
            Some(stored(full.clone(), None)),
            Some(redis(Gate::Loading, 9, 0)),
            Plan::Apply(Step::Load { from: 9, to: 10 }),
        ),
        (
            Some(stored(full.clone(), None)),
            Some(redis(Gate::Loading, 10, 0)),
            Plan::Apply(Step::ScheduleOpening { at: NOW, start: None, is_final: true }),
        ),
        (Some(stored(full.clone(), Some(NOW))), Some(redis(Gate::Loading, 10, 0)), gate(Gate::Open, ALWAYS, 10)),
        (Some(stored(full.clone(), Some(NOW))), Some(redis(Gate::Open, 10, 0)), Plan::Done),
        (Some(stored(full, Some(NOW))), Some(redis(Gate::Open, 10, 10)), Plan::Done),
    ];
    for (stored, redis, next) in steps {
        let observed = observed(stored, redis);
        assert_eq!(plan(&desired(10), &observed), next, "{observed:?}");
    }
}

#[test]
fn scheduled_event_opens_its_gate_early_and_can_still_change() {
    let scheduled = DesiredState { window: FROM_LATER, ..desired(10) };
    let full = counts(7, 3);
    let at = |stored_at, gate, window| {
        observed(Some(stored(full.clone(), stored_at)), Some(RedisEvent { window, ..redis(gate, 10, 0) }))
    };
    assert_eq!(
        plan(&scheduled, &at(None, Gate::Loading, ALWAYS)),
        Plan::Apply(Step::ScheduleOpening { at: LATER, start: Some(LATER), is_final: false }),
        "the opening is stored before the gate opens"
    );
    assert_eq!(plan(&scheduled, &at(Some(LATER), Gate::Loading, ALWAYS)), gate(Gate::Open, FROM_LATER, 10));
    let scheduled_open = at(Some(LATER), Gate::Open, FROM_LATER);
    assert_eq!(plan(&scheduled, &scheduled_open), Plan::Done);

    let sooner = Window { start: Some(NOW + 1), end: None };
    for changed in [
        DesiredState { total: 9, ..scheduled.clone() },
        DesiredState { total: 11, ..scheduled.clone() },
        DesiredState { shares: vec![(TEN_PERCENT, Share::Percentage(100))], ..scheduled.clone() },
        DesiredState { window: sooner, ..scheduled.clone() },
        DesiredState { window: ALWAYS, ..scheduled.clone() },
        DesiredState { issuance: IssuingMode::Paused, ..scheduled.clone() },
        DesiredState { terms: in_euro(), ..scheduled.clone() },
        DesiredState { terms: valid_for("P1D"), ..scheduled.clone() },
    ] {
        // Redis confirms that the gate has not opened.
        for gate in [Gate::Open, Gate::Loading, Gate::Paused] {
            let waiting = at(Some(LATER), gate, FROM_LATER);
            assert_eq!(plan(&changed, &waiting), Plan::Apply(Step::WithdrawOpening), "{changed:?}");
        }
    }
    let other_terms = DesiredState { terms: in_euro(), ..scheduled.clone() };
    assert_eq!(plan(&other_terms, &at(None, Gate::Loading, FROM_LATER)), Plan::Apply(Step::Register));
    let fewer = DesiredState { total: 9, ..scheduled };
    assert_eq!(plan(&fewer, &at(None, Gate::Loading, FROM_LATER)), Plan::Apply(Step::DiscardStock));
    let next = StoredEvent { stock_epoch: 1, ..stored(vec![], None) };
    let earlier = redis(Gate::Loading, 10, 0);
    assert_eq!(
        plan(&fewer, &observed(Some(next.clone()), Some(earlier.clone()))),
        Plan::Apply(Step::RemoveStockEpoch(0))
    );
    let issued = redis(Gate::Open, 10, 1);
    assert_eq!(
        reason_of(&plan(&fewer, &observed(Some(next), Some(issued)))),
        reason::DRIFT_FOUND,
        "a coupon is issued"
    );
    let opened = StoredEvent { stock_epoch: 1, ..stored(full.clone(), Some(NOW)) };
    assert_eq!(
        plan(&fewer, &observed(Some(opened), Some(earlier))),
        Plan::Apply(Step::RemoveStockEpoch(0)),
        "Redis came back from before the stock was discarded, and is recovered"
    );
}

#[test]
fn stock_of_opened_event_only_grows() {
    let opened = |issued| observed(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(Gate::Open, 10, issued)));
    assert_eq!(
        plan(&desired(20), &opened(10)),
        Plan::Apply(Step::GenerateStock(CouponBatch { first_ordinal: 10, counts: counts(7, 3) }))
    );
    let topped_up = observed(Some(stored(counts(14, 6), Some(NOW - 1))), Some(redis(Gate::Open, 10, 10)));
    assert_eq!(plan(&desired(20), &topped_up), Plan::Apply(Step::Load { from: 10, to: 20 }));
    let fewer = plan(&desired(9), &opened(0));
    assert_eq!(reason_of(&fewer), reason::CHANGE_NOT_POSSIBLE);
    let others = DesiredState { shares: vec![(TEN_PERCENT, Share::Percentage(100))], ..desired(10) };
    assert_eq!(reason_of(&plan(&others, &opened(0))), reason::CHANGE_NOT_POSSIBLE);
    let later = DesiredState { window: FROM_LATER, ..desired(10) };
    assert_eq!(reason_of(&plan(&later, &opened(1))), reason::CHANGE_NOT_POSSIBLE);
    let other_terms = plan(&DesiredState { terms: in_euro(), ..desired(10) }, &opened(0));
    let message = "The event has opened, so its coupons keep their terms. Restore the previous currency.";
    assert_eq!(other_terms, Plan::blocked(reason::CHANGE_NOT_POSSIBLE, message));
    let release = Release { ramp_seconds: Some(60), drops: "1000000001:5,".parse().unwrap() };
    let released = plan(&DesiredState { release, ..desired(10) }, &opened(0));
    let message =
        "The event has opened, so its coupons become available as planned. Restore the previous admission and drops.";
    assert_eq!(released, Plan::blocked(reason::CHANGE_NOT_POSSIBLE, message));
    let limited = plan(&DesiredState { terms: valid_for("P1D"), ..desired(10) }, &opened(0));
    let message = "The event has opened, so its coupons keep their terms. Restore the previous validity.";
    assert_eq!(limited, Plan::blocked(reason::CHANGE_NOT_POSSIBLE, message));
}

#[test]
fn top_up_by_count_grows_to_the_manifest() {
    let by_count = |percent, amount| DesiredState {
        shares: vec![(TEN_PERCENT, Share::Count(percent)), (FIVE_THOUSAND, Share::Count(amount))],
        ..desired(percent + amount)
    };
    assert_eq!(by_count(7, 13).top_up(&counts(7, 3)), Ok(counts(0, 10)));
    let error = by_count(6, 14).top_up(&counts(7, 3)).unwrap_err();
    assert_eq!(error, "The event already has 7 coupons of PERCENT:10. Raise its count to at least 7.");
}

#[test]
fn top_up_by_percentage_splits_the_added_coupons() {
    // Splitting all 11 coupons again would result in 8 and 3, and for other numbers in fewer coupons of a discount.
    assert_eq!(desired(11).top_up(&counts(7, 3)), Ok(counts(1, 0)));
    assert_eq!(desired(13).top_up(&counts(7, 3)), Ok(counts(2, 1)));
}

#[test]
fn gate_of_opened_event_follows_the_manifest() {
    let opened = |gate| observed(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(gate, 10, 4)));
    let paused = DesiredState { issuance: IssuingMode::Paused, ..desired(10) };
    let closed = DesiredState { issuance: IssuingMode::Closed, ..desired(10) };
    assert_eq!(plan(&paused, &opened(Gate::Open)), gate(Gate::Paused, ALWAYS, 10));
    assert_eq!(plan(&paused, &opened(Gate::Paused)), Plan::Done);
    assert_eq!(plan(&desired(10), &opened(Gate::Paused)), gate(Gate::Open, ALWAYS, 10));
    assert_eq!(plan(&closed, &opened(Gate::Open)), gate(Gate::Closed, ALWAYS, 10));
    assert_eq!(plan(&closed, &opened(Gate::Closed)), Plan::Done);
    assert_eq!(plan(&desired(10), &opened(Gate::Closed)), Plan::Done, "closed is final");
    let ends = Window { start: None, end: Some(LATER) };
    let ending = DesiredState { window: ends, ..desired(10) };
    assert_eq!(plan(&ending, &opened(Gate::Open)), gate(Gate::Open, ends, 10));
    assert_eq!(plan(&paused, &opened(Gate::Loading)), gate(Gate::Paused, ALWAYS, 10));
    let fewer_and_paused = DesiredState { issuance: IssuingMode::Paused, ..desired(9) };
    assert_eq!(
        plan(&fewer_and_paused, &opened(Gate::Open)),
        gate(Gate::Paused, ALWAYS, 10),
        "a blocked change does not prevent a pause"
    );
}

#[test]
fn gate_of_held_event_is_paused_until_the_hold_is_released() {
    let manifest = |annotations: &str, issuance: &str, start: &str| {
        let event: CouponEvent = serde_json::from_value(serde_json::json!({
            "apiVersion": "couponry.dev/v1alpha1",
            "kind": "CouponEvent",
            "metadata": {"name": "summer", "uid": UID, "generation": 1,
                "annotations": {"couponry.dev/hold": annotations}},
            "spec": {"policyName": "Summer sale", "totalCount": 10, "issuance": issuance, "startTime": start,
                "discounts": [{"type": "Percent", "value": 10, "allocationPercentage": 70},
                    {"type": "Amount", "value": 5000, "allocationPercentage": 30}]},
        }))
        .unwrap();
        DesiredState::from_manifest(&event).unwrap()
    };
    let (past, later) = ("1970-01-12T13:46:39Z", "1970-01-12T14:46:40Z");
    let (began, starts) = (Some(NOW - 1000), Some(LATER));
    let window = |start| Window { start, end: None };
    let full = |opens_at| Some(StoredEvent { starts_at: opens_at, ..stored(counts(7, 3), opens_at) });
    let with_window = |gate, issued, start| Some(RedisEvent { window: window(start), ..redis(gate, 10, issued) });
    for (case, desired, stored, in_redis, expected) in [
        (
            "open",
            manifest("wrong price", "Auto", past),
            full(began),
            with_window(Gate::Open, 4, began),
            gate(Gate::Paused, window(began), 10),
        ),
        (
            "without a reason",
            manifest("", "Auto", past),
            full(began),
            with_window(Gate::Open, 4, began),
            gate(Gate::Paused, window(began), 10),
        ),
        ("held already", manifest("x", "Auto", past), full(began), with_window(Gate::Paused, 4, began), Plan::Done),
        (
            "scheduled",
            manifest("x", "Auto", later),
            full(starts),
            with_window(Gate::Open, 0, starts),
            Plan::Apply(Step::WithdrawOpening),
        ),
        (
            "held before its start",
            manifest("x", "Auto", later),
            full(None),
            with_window(Gate::Loading, 0, starts),
            gate(Gate::Paused, window(starts), 10),
        ),
        ("paused too", manifest("x", "Paused", past), full(began), with_window(Gate::Paused, 4, began), Plan::Done),
        (
            "closed too",
            manifest("x", "Closed", past),
            full(began),
            with_window(Gate::Open, 4, began),
            gate(Gate::Closed, window(began), 10),
        ),
        (
            "not loaded",
            manifest("x", "Auto", past),
            full(None),
            Some(redis(Gate::Loading, 4, 0)),
            Plan::Apply(Step::Load { from: 4, to: 10 }),
        ),
    ] {
        assert_eq!(plan(&desired, &observed(stored, in_redis)), expected, "{case}");
    }
}

#[test]
fn event_created_paused_or_closed_never_opens() {
    let paused = DesiredState { issuance: IssuingMode::Paused, ..desired(10) };
    let full = || Some(stored(counts(7, 3), None));
    assert_eq!(plan(&paused, &observed(full(), Some(redis(Gate::Loading, 10, 0)))), gate(Gate::Paused, ALWAYS, 10));
    assert_eq!(plan(&paused, &observed(full(), Some(redis(Gate::Paused, 10, 0)))), Plan::Done);
    let closed = DesiredState { issuance: IssuingMode::Closed, ..desired(10) };
    let empty = || Some(stored(vec![], None));
    assert_eq!(plan(&closed, &observed(empty(), None)), Plan::Apply(Step::Prepare), "so that issuers return ENDED");
    assert_eq!(plan(&closed, &observed(empty(), Some(redis(Gate::Loading, 0, 0)))), gate(Gate::Closed, ALWAYS, 0));
    assert_eq!(plan(&closed, &observed(empty(), Some(redis(Gate::Closed, 0, 0)))), Plan::Done);
}

/// Neither a start in the future nor any clock proves that the gate did not open before Redis lost the event.
#[test]
fn lost_redis_is_recovered_once_an_opening_is_stored() {
    let lost = |opens_at| observed(Some(stored(counts(7, 3), opens_at)), None);
    for opens_at in [None, Some(0), Some(NOW), Some(LATER), Some(i64::MAX)] {
        assert_eq!(plan(&desired(10), &lost(opens_at)), Plan::Apply(Step::Prepare), "{opens_at:?}");
    }
    let fewer = desired(9);
    assert_eq!(plan(&fewer, &lost(None)), Plan::Apply(Step::DiscardStock), "nothing was issued");
    for opened in [lost(Some(LATER)), ObservedState { recorded: 1, ..lost(None) }] {
        assert_eq!(plan(&fewer, &opened), Plan::Apply(Step::Prepare), "{opened:?}");
    }
}

#[test]
fn unverified_redis_is_trusted_only_without_an_opening() {
    let changed = |opens_at, issued| {
        let redis = RedisEvent { is_verified: false, ..redis(Gate::Open, 10, issued) };
        observed(Some(stored(counts(7, 3), opens_at)), Some(redis))
    };
    let mut never_opened = changed(None, 0);
    never_opened.redis.as_mut().unwrap().gate = Gate::Paused;
    assert_eq!(plan(&desired(10), &never_opened), Plan::Apply(Step::MarkVerified));
    for opens_at in [None, Some(NOW - 1), Some(i64::MAX), Some(LATER)] {
        let may_be_issued = changed(opens_at, 0);
        let waiting = ObservedState { drain: Some(DrainState::Waiting("one batch".into())), ..may_be_issued.clone() };
        let Plan::Blocked(Blocker { reason, message, .. }) = plan(&desired(10), &waiting) else {
            panic!("{waiting:?}")
        };
        assert!(
            reason == reason::REDIS_UNVERIFIED && message.contains("after a restart or failover: one batch."),
            "{message}"
        );
        let drained = ObservedState { drain: Some(DrainState::Complete), ..may_be_issued };
        assert_eq!(plan(&desired(10), &drained), Plan::Apply(Step::Recover));
        for issuance in [IssuingMode::Paused, IssuingMode::Closed] {
            assert_eq!(
                plan(&DesiredState { issuance, ..desired(10) }, &drained),
                Plan::Apply(Step::Recover),
                "users still look up their coupons"
            );
        }
    }
    let retired = RedisEvent { is_verified: false, retired: Some(Gate::Open), ..redis(Gate::Closed, 10, 4) };
    let retired = observed(Some(stored(counts(7, 3), Some(NOW - 100))), Some(retired));
    assert_eq!(
        plan(&desired(10), &retired),
        Plan::Apply(Step::MarkVerified),
        "a retired event holds no coupons in Redis"
    );
    let newer = StoredEvent { generation: 2, ..stored(counts(7, 3), Some(NOW - 1)) };
    let changed = RedisEvent { is_verified: false, ..redis(Gate::Open, 10, 4) };
    assert_eq!(plan(&desired(10), &observed(Some(newer), Some(changed))), Plan::Done, "this operator is stale");
}

#[test]
fn issued_or_recorded_coupon_proves_the_opening() {
    let at = |opens_at, redis| observed(Some(stored(counts(7, 3), opens_at)), Some(redis));
    let confirm = |at| {
        let start = Some(at).filter(|at| *at == LATER);
        Plan::Apply(Step::ScheduleOpening { at, start, is_final: true })
    };
    let cancelled = RedisEvent { cancelled: 1, ..redis(Gate::Loading, 10, 0) };
    for is_verified in [true, false] {
        for redis in
            [redis(Gate::Loading, 10, 1), redis(Gate::Open, 10, 1), redis(Gate::Paused, 10, 1), cancelled.clone()]
        {
            let redis = RedisEvent { is_verified, ..redis };
            assert_eq!(plan(&desired(10), &at(None, redis.clone())), confirm(NOW), "{redis:?}");
            assert_eq!(plan(&desired(10), &at(Some(LATER), redis.clone())), confirm(LATER), "{redis:?}");
        }
        let redis = RedisEvent { is_verified, ..redis(Gate::Loading, 10, 0) };
        assert_eq!(plan(&desired(10), &ObservedState { recorded: 1, ..at(None, redis) }), confirm(NOW));
    }
    let without_stock = observed(Some(stored(vec![], None)), Some(redis(Gate::Open, 10, 1)));
    assert_eq!(reason_of(&plan(&desired(10), &without_stock)), reason::DRIFT_FOUND, "Postgres has lost the stock");
}

#[test]
fn opening_becomes_final_when_redis_reaches_the_start() {
    let scheduled = DesiredState { window: FROM_LATER, ..desired(10) };
    let at = |gate, now| {
        let redis = RedisEvent { window: FROM_LATER, now, ..redis(gate, 10, 0) };
        observed(Some(stored(counts(7, 3), Some(LATER))), Some(redis))
    };
    let confirm = Plan::Apply(Step::ScheduleOpening { at: LATER, start: Some(LATER), is_final: true });
    for now in [LATER, LATER + 1] {
        assert_eq!(plan(&scheduled, &at(Gate::Open, now)), confirm);
        // It may have been open before: users may have received times.
        assert_eq!(plan(&scheduled, &at(Gate::Paused, now)), confirm);
        for gate in [Gate::Loading, Gate::Open, Gate::Paused] {
            let mut unverified = at(gate, now);
            unverified.redis.as_mut().unwrap().is_verified = false;
            assert_eq!(plan(&scheduled, &unverified), confirm, "{gate:?}");
        }
        assert_eq!(plan(&scheduled, &at(Gate::Loading, now)), gate(Gate::Open, FROM_LATER, 10), "it was never open");
    }
    assert_eq!(plan(&scheduled, &at(Gate::Open, LATER - 1)), Plan::Done);
}

#[test]
fn clock_of_redis_set_back_does_not_close_an_open_event() {
    for issued in [0, 4] {
        for now in [NOW - 3_600_000, 0, NOW + 3_600_000] {
            let redis = RedisEvent { now, ..redis(Gate::Open, 10, issued) };
            let opened = observed(Some(stored(counts(7, 3), Some(NOW))), Some(redis));
            assert_eq!(plan(&desired(10), &opened), Plan::Done, "the clock is at {now}");
            assert_eq!(reason_of(&plan(&desired(9), &opened)), reason::CHANGE_NOT_POSSIBLE, "the opening is final");
        }
    }
}

#[test]
fn stranded_issuances_are_recorded_unless_another_step_comes_first() {
    let recording = RecordingState { stranded: 2, ..RecordingState::default() };
    let opened =
        |gate| ObservedState { recording, ..observed(Some(stored(counts(7, 3), Some(NOW))), Some(redis(gate, 10, 4))) };
    assert_eq!(plan(&desired(10), &opened(Gate::Open)), Plan::Apply(Step::RecordStranded));
    assert_eq!(plan(&desired(10), &opened(Gate::Closed)), Plan::Apply(Step::RecordStranded));
    assert_eq!(plan(&desired(9), &opened(Gate::Open)), Plan::Apply(Step::RecordStranded), "the manifest is blocked");
    assert_eq!(plan(&desired(10), &opened(Gate::Paused)), gate(Gate::Open, ALWAYS, 10));
}

#[test]
fn gate_stays_closed_while_counts_do_not_match() {
    let opened = |redis, recorded| ObservedState {
        recorded,
        ..observed(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis))
    };
    let complete = |gate| redis(gate, 10, 4);
    assert_eq!(plan(&desired(10), &opened(complete(Gate::Paused), 4)), gate(Gate::Open, ALWAYS, 10));
    for (case, redis, recorded) in [
        ("more recorded than issued", complete(Gate::Paused), 5),
        ("more recorded than issued while loading", complete(Gate::Loading), 5),
        ("surplus coupons", RedisEvent { available: 7, ..complete(Gate::Paused) }, 0),
        ("more loaded than generated", redis(Gate::Paused, 11, 0), 0),
        ("missing coupons while loading", RedisEvent { available: 5, ..complete(Gate::Loading) }, 0),
    ] {
        assert_eq!(reason_of(&plan(&desired(10), &opened(redis, recorded))), reason::DRIFT_FOUND, "{case}");
    }
    let fewer = RedisEvent { loaded: 9, ..complete(Gate::Open) };
    assert_eq!(reason_of(&plan(&desired(10), &opened(fewer, 4))), reason::DRIFT_FOUND, "coupons would be loaded twice");
    let paused = DesiredState { issuance: IssuingMode::Paused, ..desired(10) };
    assert_eq!(
        plan(&paused, &opened(complete(Gate::Open), 5)),
        gate(Gate::Paused, ALWAYS, 10),
        "a pause is always possible"
    );
    assert_eq!(
        plan(&desired(10), &opened(complete(Gate::Open), 5)),
        Plan::Done,
        "the plan does not close an open gate"
    );
    let early = |redis| observed(Some(stored(counts(7, 3), None)), Some(redis));
    for (case, redis) in [
        ("missing before the opening", RedisEvent { available: 9, ..redis(Gate::Loading, 10, 0) }),
        ("more loaded than generated", redis(Gate::Loading, 11, 0)),
    ] {
        assert_eq!(reason_of(&plan(&desired(10), &early(redis))), reason::DRIFT_FOUND, "{case}");
    }
}

#[test]
fn finished_event_is_retired_after_its_ttl() {
    let ended = Window { start: None, end: Some(NOW - 10) };
    let running = Window { start: None, end: Some(LATER) };
    let over = |window, gate, issued| RedisEvent { window, marked_recorded: issued, ..redis(gate, 10, issued) };
    let retired = |issued| RedisEvent { retired: Some(Gate::Open), ..over(ended, Gate::Closed, issued) };
    let plan_for = |redis: RedisEvent, recorded, retire_at| {
        let window = redis.window;
        let observed = ObservedState { recorded, ..observed(Some(stored(counts(7, 3), Some(NOW - 100))), Some(redis)) };
        plan(&DesiredState { window, retire_at, ..desired(10) }, &observed)
    };
    let due = Some(NOW);
    for (case, redis, recorded, at, expected) in [
        ("ended", over(ended, Gate::Open, 4), 4, due, Plan::Apply(Step::Retire)),
        ("closed", over(running, Gate::Closed, 4), 4, due, Plan::Apply(Step::Retire)),
        ("sold out without an end", over(ALWAYS, Gate::Open, 10), 10, due, Plan::Apply(Step::Retire)),
        ("sold out before its end", over(running, Gate::Open, 10), 10, due, Plan::Done),
        ("open", over(ALWAYS, Gate::Open, 4), 4, due, Plan::Done),
        ("before the ttl", over(ended, Gate::Open, 4), 4, Some(NOW + 1), Plan::Done),
        ("without a ttl", over(ended, Gate::Open, 4), 4, None, Plan::Done),
        ("not recorded", over(ended, Gate::Open, 4), 3, due, Plan::Done),
        ("not confirmed in Redis", RedisEvent { marked_recorded: 3, ..over(ended, Gate::Open, 4) }, 4, due, Plan::Done),
        ("batches in the outbox", RedisEvent { outbox: 1, ..over(ended, Gate::Open, 4) }, 4, due, Plan::Done),
        ("counts do not match", RedisEvent { available: 5, ..over(ended, Gate::Open, 4) }, 4, due, Plan::Done),
        ("retired already", retired(4), 4, due, Plan::Done),
    ] {
        assert_eq!(plan_for(redis, recorded, at), expected, "{case}");
    }
    let retired = observed(Some(stored(counts(7, 3), Some(NOW - 100))), Some(retired(10)));
    for changed in [DesiredState { window: ended, ..desired(11) }, DesiredState { window: running, ..desired(10) }] {
        assert_eq!(reason_of(&plan(&changed, &retired)), reason::CHANGE_NOT_POSSIBLE, "{changed:?}");
    }
}

/// Otherwise coupons would be issued that have expired: users receive the stored validity.
#[test]
fn window_of_opened_event_ends_with_the_stored_validity() {
    const END: i64 = 1_641_600_000;
    let validity = Some("1970-01-20T00:00:00Z UTC".parse().unwrap());
    let terms = CouponTerms { validity: validity.clone(), ..CouponTerms::default() };
    let stored = StoredEvent { terms, ..stored(counts(7, 3), Some(NOW - 1)) };
    let window = Window { end: Some(END), ..ALWAYS };
    let in_redis = RedisEvent { validity: validity.clone(), window, ..redis(Gate::Open, 10, 1) };
    // The manifest does not specify the validity any more, and would end later.
    for end in [None, Some(END + 1)] {
        let changed = DesiredState { window: Window { end, ..ALWAYS }, ..desired(10) };
        let refused = plan(&changed, &observed(Some(stored.clone()), Some(in_redis.clone())));
        assert_eq!(reason_of(&refused), reason::CHANGE_NOT_POSSIBLE, "{end:?}");
    }
    let sooner = DesiredState { window: Window { end: Some(END - 1), ..ALWAYS }, ..desired(10) };
    let Plan::Apply(Step::SetGate(settings)) = plan(&sooner, &observed(Some(stored), Some(in_redis))) else {
        panic!("the window of the manifest is applied");
    };
    assert_eq!((settings.window.end, settings.validity), (Some(END - 1), validity));
}

#[test]
fn predecessor_with_the_same_name_is_removed() {
    let predecessor = |gate, outbox| RedisEvent { uid: OTHER, outbox, ..redis(gate, 10, 4) };
    let with = |other, name_conflict| ObservedState {
        name_conflict: Some(name_conflict),
        ..observed(Some(stored(vec![], None)), Some(other))
    };
    let close = GateSettings {
        gate: Gate::Closed,
        window: ALWAYS,
        acknowledge: Acknowledge::Redis,
        validity: None,
        release: Release::default(),
        admission_key: None,
        generation: 1,
        stock_epoch: 0,
        total: 10,
    };
    assert_eq!(
        plan(&desired(10), &with(predecessor(Gate::Open, 0), NameConflict::Predecessor)),
        Plan::Apply(Step::ClosePredecessor(OTHER, close))
    );
    let waiting = plan(&desired(10), &with(predecessor(Gate::Closed, 1), NameConflict::Predecessor));
    assert_eq!(reason_of(&waiting), reason::NAME_CONFLICT, "its outbox must be empty first");
    assert_eq!(
        plan(&desired(10), &with(predecessor(Gate::Closed, 0), NameConflict::Predecessor)),
        Plan::Apply(Step::RemovePredecessor(OTHER))
    );
    let unknown = plan(&desired(10), &with(predecessor(Gate::Closed, 0), NameConflict::Unknown));
    assert_eq!(reason_of(&unknown), reason::NAME_CONFLICT, "it may belong to another installation");
}

#[test]
fn event_of_unclear_identity_is_not_registered() {
    let unregistered = |redis, conflict| ObservedState { name_conflict: Some(conflict), ..observed(None, redis) };
    let not_deleted = NameConflict::NotDeleted { uid: OTHER, generation: 7 };
    let conflicting = plan(&desired(10), &unregistered(None, not_deleted));
    let Plan::Blocked(blocker) = &conflicting else { panic!("{conflicting:?}") };
    assert_eq!(blocker.reason, reason::NAME_CONFLICT);
    assert!(blocker.message.contains(&format!("couponry.dev/continues: {OTHER}/7")), "{}", blocker.message);
    let other = RedisEvent { uid: OTHER, ..redis(Gate::Open, 10, 4) };
    for conflict in [not_deleted, NameConflict::Unknown] {
        let refused = plan(&desired(10), &unregistered(Some(other.clone()), conflict));
        assert_eq!(reason_of(&refused), reason::NAME_CONFLICT);
    }
    let registered = plan(&desired(10), &unregistered(Some(other), NameConflict::Predecessor));
    assert_eq!(registered, Plan::Apply(Step::Register));

    let continuation = DesiredState { is_continuation: true, ..desired(10) };
    assert_eq!(reason_of(&plan(&continuation, &observed(None, None))), reason::CHANGE_NOT_POSSIBLE);
    let renamed = StoredEvent { name: "winter".parse().unwrap(), ..stored(counts(7, 3), None) };
    assert_eq!(reason_of(&plan(&continuation, &observed(Some(renamed), None))), reason::CHANGE_NOT_POSSIBLE);
}

#[test]
fn stale_operator_plans_nothing() {
    let later = RedisEvent { uid: OTHER, ..redis(Gate::Open, 10, 4) };
    let superseded = |stored| ObservedState {
        name_conflict: Some(NameConflict::Successor),
        ..observed(stored, Some(later.clone()))
    };
    assert_eq!(plan(&desired(10), &superseded(Some(stored(counts(7, 3), Some(NOW))))), Plan::Done);
    assert_eq!(plan(&desired(10), &superseded(None)), Plan::Done, "it is not registered again");
    let newer = StoredEvent { generation: 2, ..stored(counts(7, 3), Some(NOW - 1)) };
    let paused = RedisEvent { generation: 2, ..redis(Gate::Paused, 10, 4) };
    assert_eq!(
        plan(&desired(10), &observed(Some(newer), Some(paused))),
        Plan::Done,
        "a pause by a newer generation stays"
    );
    let newer = DesiredState { generation: 2, ..desired(10) };
    let older = observed(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(Gate::Open, 10, 4)));
    assert_eq!(plan(&newer, &older), Plan::Apply(Step::Register), "a newer generation is registered first");
}

#[test]
fn redis_restored_from_before_the_opening_stays_closed() {
    let restored = redis(Gate::Loading, 10, 0);
    let observed = ObservedState { recorded: 3, ..observed(Some(stored(counts(7, 3), Some(NOW - 1))), Some(restored)) };
    assert_eq!(reason_of(&plan(&desired(10), &observed)), reason::DRIFT_FOUND);
}

/// Loses the gate, the window and the release of an event whose opening is final: nothing of them is read from Redis.
#[test]
fn start_of_final_opening_is_fixed_once_a_user_may_depend_on_it() {
    let release = |drops: &str| Release { ramp_seconds: None, drops: drops.parse().unwrap() };
    let from = |start| Window { start, end: None };
    let opened = |gate, issued, starts_at, release: &Release| {
        let stored = StoredEvent { starts_at, release: release.clone(), ..stored(counts(7, 3), Some(NOW - 100)) };
        let redis = RedisEvent { window: from(starts_at), release: release.clone(), ..redis(gate, 10, issued) };
        observed(Some(stored), Some(redis))
    };
    let (none, drops) = (release(""), release("1000000001:5,"));
    for (gate, issued, release, is_fixed) in [
        (Gate::Loading, 0, &none, false),
        (Gate::Loading, 0, &drops, false),
        (Gate::Loading, 4, &none, true),
        (Gate::Paused, 0, &none, false),
        (Gate::Paused, 0, &drops, true),
        (Gate::Paused, 4, &none, true),
        (Gate::Open, 0, &none, true),
        (Gate::Open, 0, &drops, true),
    ] {
        for previous in [None, Some(NOW - 200), Some(NOW - 100)] {
            let desired = DesiredState { window: from(Some(LATER)), release: release.clone(), ..desired(10) };
            let observed = opened(gate, issued, previous, release);
            let case = format!("{gate:?} {issued} {previous:?} {release:?}");
            let store = Plan::Apply(Step::ScheduleOpening { at: NOW - 100, start: Some(LATER), is_final: true });
            assert_eq!(plan(&desired, &observed) == store, !is_fixed, "{case}");
            let stored = observed.stored.as_ref().unwrap();
            assert_eq!(final_gate_settings(&desired, stored).window.start, previous, "{case}");
        }
    }
    // An earlier version has not stored the start, which was not later than the opening.
    for (start, kept) in [(NOW - 200, Some(NOW - 200)), (NOW - 100, Some(NOW - 100)), (LATER, None)] {
        let desired = DesiredState { window: from(Some(start)), ..desired(10) };
        let observed = opened(Gate::Open, 4, None, &none);
        let (stored, redis) = (observed.stored.as_ref().unwrap(), observed.redis.as_ref().unwrap());
        assert_eq!(final_start(&desired, stored, redis, true), kept);
    }
}

/// Redis came back from before the pause, the close, or another release.
#[test]
fn recovered_gate_is_that_of_the_manifest_and_postgres() {
    let release = Release { ramp_seconds: Some(60), drops: "1000000001:5,".parse().unwrap() };
    let ends = Window { start: Some(NOW - 50), end: Some(LATER) };
    let recovered = |issuance, opens_at| {
        let event = StoredEvent { release: release.clone(), ..stored(counts(7, 3), opens_at) };
        let event = StoredEvent { starts_at: opens_at.map(|_| NOW - 200), ..event };
        let settings = recovered_gate_settings(&DesiredState { issuance, window: ends, ..desired(10) }, &event);
        assert_eq!((settings.release, settings.admission_key), (release.clone(), event.admission_key()));
        (settings.gate, settings.window)
    };
    let opened = Window { start: Some(NOW - 200), ..ends };
    for (issuance, gate) in
        [(IssuingMode::Auto, Gate::Open), (IssuingMode::Paused, Gate::Paused), (IssuingMode::Closed, Gate::Closed)]
    {
        assert_eq!(recovered(issuance, Some(NOW)), (gate, opened));
        // Nothing was issued: the gate opens when the opening is stored, or as it is.
        let before = if gate == Gate::Closed { gate } else { Gate::Loading };
        for opens_at in [None, Some(LATER)] {
            assert_eq!(recovered(issuance, opens_at), (before, ends), "{opens_at:?}");
        }
    }
}

#[test]
fn damaged_release_is_set_again() {
    let open = |damaged_release| {
        let redis = RedisEvent { damaged_release, ..redis(Gate::Open, 10, 4) };
        observed(Some(stored(counts(7, 3), Some(NOW))), Some(redis))
    };
    assert_eq!(plan(&desired(10), &open(None)), Plan::Done);
    assert_eq!(plan(&desired(10), &open(Some("drops=x".to_owned()))), gate(Gate::Open, ALWAYS, 10));
}

#[test]
fn replica_is_not_verified() {
    for opens_at in [None, Some(NOW)] {
        let redis = RedisEvent { is_verified: false, replication_id: String::new(), ..redis(Gate::Paused, 10, 0) };
        let planned = plan(&desired(10), &observed(Some(stored(counts(7, 3), opens_at)), Some(redis)));
        assert_eq!(reason_of(&planned), reason::REDIS_UNVERIFIED, "{opens_at:?}");
    }
}

#[test]
fn paused_gate_is_loading_before_the_first_opening_is_stored() {
    let scheduled = DesiredState { window: FROM_LATER, ..desired(10) };
    let paused = observed(Some(stored(counts(7, 3), None)), Some(redis(Gate::Paused, 10, 0)));
    assert_eq!(plan(&scheduled, &paused), gate(Gate::Loading, FROM_LATER, 10));
}

#[test]
fn policy_name_and_format_are_updated_in_postgres() {
    let renamed = DesiredState { policy_name: "Winter sale".into(), ..desired(10) };
    let opened = observed(Some(stored(counts(7, 3), Some(NOW - 1))), Some(redis(Gate::Open, 10, 0)));
    assert_eq!(plan(&renamed, &opened), Plan::Apply(Step::Register));
    let shorter = DesiredState { format: CodeFormat { prefix: None, length: 10 }, ..desired(10) };
    assert_eq!(plan(&shorter, &observed(Some(stored(vec![], None)), None)), Plan::Apply(Step::Register));
    assert_eq!(plan(&shorter, &opened), Plan::Done, "generated codes stay");
}

/// The state if all coupons have imported codes.
fn with_imports(observed: ObservedState) -> ObservedState {
    let file = CodeFile { sha256: [0; 32], guess_bits: 40 };
    let import = ImportedCodes { count: observed.generated(), file, imported_at: NOW };
    ObservedState { imports: vec![import], ..observed }
}

#[test]
fn event_with_imported_codes_waits_for_exactly_what_is_missing() {
    let imported = |total| DesiredState { code_source: CodeSource::Imported, ..desired(total) };
    let await_codes = |first_ordinal, counts| Plan::AwaitCodes(CouponBatch { first_ordinal, counts });
    let unopened = |counts, redis| with_imports(observed(Some(stored(counts, None)), redis));
    assert_eq!(plan(&imported(10), &unopened(vec![], None)), await_codes(0, counts(7, 3)));

    // The imported codes are loaded, also while more are awaited.
    assert_eq!(plan(&imported(10), &unopened(counts(7, 3), None)), Plan::Apply(Step::Prepare));
    assert_eq!(plan(&imported(20), &unopened(counts(7, 3), None)), Plan::Apply(Step::Prepare));
    let (empty, loaded) = (Some(redis(Gate::Loading, 0, 0)), Some(redis(Gate::Loading, 10, 0)));
    assert_eq!(plan(&imported(20), &unopened(counts(7, 3), empty)), Plan::Apply(Step::Load { from: 0, to: 10 }));
    assert_eq!(plan(&imported(20), &unopened(counts(7, 3), loaded.clone())), await_codes(10, counts(7, 3)));
    // They are discarded only if some of them do not belong to the event any more.
    assert_eq!(plan(&imported(9), &unopened(counts(7, 3), loaded.clone())), Plan::Apply(Step::DiscardStock));
    // Generated coupons are generated again, all of them in one shuffled order.
    let generated = observed(Some(stored(counts(7, 3), None)), loaded);
    assert_eq!(plan(&desired(20), &generated), Plan::Apply(Step::DiscardStock));
    // A paused event waits as well, and a closed one does not.
    let paused = DesiredState { issuance: IssuingMode::Paused, ..imported(10) };
    assert_eq!(plan(&paused, &unopened(vec![], None)), await_codes(0, counts(7, 3)));
    let closed = DesiredState { issuance: IssuingMode::Closed, ..imported(10) };
    assert_eq!(plan(&closed, &unopened(vec![], None)), Plan::Apply(Step::Prepare));
}

#[test]
fn open_event_with_imported_codes_issues_while_it_waits_for_a_top_up() {
    let imported = |total| DesiredState { code_source: CodeSource::Imported, ..desired(total) };
    let open =
        |gate, loaded| with_imports(observed(Some(stored(counts(7, 3), Some(NOW))), Some(redis(gate, loaded, 4))));
    let awaited = Plan::AwaitCodes(CouponBatch { first_ordinal: 10, counts: counts(7, 3) });
    assert_eq!(plan(&imported(20), &open(Gate::Paused, 10)), gate(Gate::Open, Window::default(), 10));
    assert_eq!(plan(&imported(20), &open(Gate::Open, 10)), awaited);
    assert_eq!(plan(&imported(20), &open(Gate::Open, 8)), Plan::Apply(Step::Load { from: 8, to: 10 }));
    assert_eq!(plan(&imported(10), &open(Gate::Open, 10)), Plan::Done);
    let stranded = ObservedState {
        recording: RecordingState { stranded: 1, ..RecordingState::default() },
        ..open(Gate::Open, 10)
    };
    assert_eq!(plan(&imported(20), &stranded), Plan::Apply(Step::RecordStranded));
}

#[test]
fn changed_source_of_codes_is_refused_and_the_event_continues() {
    let imported = |total| DesiredState { code_source: CodeSource::Imported, ..desired(total) };
    let message = |source: &str, previous| {
        let rest = "so their source cannot change. Restore code.source";
        format!("The codes of the event are {source}, {rest} {previous}, or delete and recreate the event.")
    };
    let to_imported = Plan::blocked(reason::CHANGE_NOT_POSSIBLE, message("generated", "Generated"));
    let to_generated = Plan::blocked(reason::CHANGE_NOT_POSSIBLE, message("imported", "Imported"));
    let loading = || Some(redis(Gate::Loading, 10, 0));
    for total in [9, 10, 20] {
        let unopened = observed(Some(stored(counts(7, 3), None)), loading());
        assert_eq!(plan(&imported(total), &unopened), to_imported, "{total}");
        assert_eq!(plan(&desired(total), &with_imports(unopened)), to_generated, "{total}");
    }
    for total in [10, 20] {
        let opened = |gate| observed(Some(stored(counts(7, 3), Some(NOW))), Some(redis(gate, 10, 4)));
        assert_eq!(plan(&imported(total), &opened(Gate::Open)), to_imported, "{total}");
        assert_eq!(plan(&desired(total), &with_imports(opened(Gate::Open))), to_generated, "{total}");
        let resumed = gate(Gate::Open, Window::default(), 10);
        assert_eq!(plan(&desired(total), &with_imports(opened(Gate::Paused))), resumed, "{total}");
    }
    // Part of the stock is generated: with the rules of this version that cannot happen.
    let mixed = |observed| with_imports(ObservedState { imports: vec![], ..observed });
    let mut mixed = mixed(observed(Some(stored(counts(7, 3), Some(NOW))), Some(redis(Gate::Open, 10, 4))));
    mixed.imports[0].count = 4;
    assert_eq!(plan(&imported(10), &mixed), to_imported);
    // A scheduled event opens as planned.
    let later = DesiredState { window: FROM_LATER, ..desired(10) };
    let scheduled = |gate| with_imports(observed(Some(stored(counts(7, 3), Some(LATER))), Some(redis(gate, 10, 0))));
    assert_eq!(plan(&later, &scheduled(Gate::Loading)), gate(Gate::Open, FROM_LATER, 10));
    // An event without codes can still change.
    let waiting = observed(Some(stored(vec![], None)), None);
    let first = CouponBatch { first_ordinal: 0, counts: counts(7, 3) };
    assert_eq!(plan(&desired(10), &waiting), Plan::Apply(Step::GenerateStock(first)));
}

#[test]
fn awaited_codes_are_those_of_the_plan() {
    let imported = |total| DesiredState { code_source: CodeSource::Imported, ..desired(total) };
    let batch = |first_ordinal, counts| Ok(CouponBatch { first_ordinal, counts });
    assert_eq!(imported(10).awaited_codes(&stored(vec![], None)), batch(0, counts(7, 3)));
    assert_eq!(imported(20).awaited_codes(&stored(counts(7, 3), None)), batch(10, counts(7, 3)));
    assert_eq!(imported(20).awaited_codes(&stored(counts(7, 3), Some(NOW))), batch(10, counts(7, 3)));
    assert!(imported(10).awaited_codes(&stored(counts(7, 3), Some(NOW))).unwrap().is_empty());
    assert!(imported(9).awaited_codes(&stored(counts(7, 3), None)).unwrap_err().contains("discards"));
    assert!(imported(9).awaited_codes(&stored(counts(7, 3), Some(NOW))).unwrap_err().contains("Raise totalCount"));
}
