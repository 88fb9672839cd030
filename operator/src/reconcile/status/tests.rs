use couponry_crds::{CodeSource, IssuingMode};
use couponry_domain::{
    Acknowledge, CodeFormat, CouponBatch, CouponTerms, Discount, DiscountType, Release, Seed, Share, Uuid, Window,
};
use couponry_postgres::{CodeFile, StoredEvent, UseCounts};
use couponry_redis::RedisEvent;
use insta::assert_yaml_snapshot;

use super::*;

const UID: Uuid = Uuid::from_u128(1);
const NOW: i64 = 1_796_083_200_000;
const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };

fn desired() -> DesiredState {
    DesiredState {
        uid: UID,
        name: "summer".parse().unwrap(),
        generation: 3,
        manifest_generation: 3,
        is_continuation: false,
        replaces: None,
        policy_name: "Summer sale".into(),
        format: CodeFormat::default(),
        code_source: CodeSource::Generated,
        terms: CouponTerms::default(),
        release: Release::default(),
        total: 10,
        shares: vec![(TEN_PERCENT, Share::Percentage(100))],
        window: Window::default(),
        issuance: IssuingMode::Auto,
        hold: None,
        acknowledge: Acknowledge::Redis,
        retire_at: None,
    }
}

fn observed(gate: Gate, window: Window, loaded: u64, issued: u64, recorded: u64) -> ObservedState {
    let stored = StoredEvent {
        uid: UID,
        name: "summer".parse().unwrap(),
        policy_name: "Summer sale".into(),
        seed: Seed::from([0; 32]),
        format: CodeFormat::default(),
        terms: CouponTerms::default(),
        release: Release::default(),
        generation: 3,
        stock_epoch: 0,
        discount_counts: vec![(TEN_PERCENT, 10)],
        opens_at: Some(window.start.unwrap_or(NOW - 5000)),
        is_opening_final: window.start.is_none_or(|start| start <= NOW),
        starts_at: window.start,
        openings: 1,
        record_cutoff: None,
        has_pseudonyms: false,
    };
    let redis = RedisEvent {
        uid: UID,
        installation: None,
        stock_epoch: 0,
        gate,
        window,
        acknowledge: Acknowledge::Redis,
        validity: None,
        release: Release::default(),
        damaged_release: None,
        admission_key: None,
        generation: 3,
        loaded,
        available: loaded - issued,
        sold_out_at: None,
        issued,
        marked_recorded: recorded,
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
    };
    ObservedState {
        stored: Some(stored),
        marked_recorded: recorded,
        recorded,
        uses: UseCounts::default(),
        imports: Vec::new(),
        redis: Some(redis),
        name_conflict: None,
        drain: None,
        recording: RecordingState::default(),
        redis_blocker: None,
    }
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap()
}

const NO_INPUTS: StatusInputs<'_> = StatusInputs {
    topic_mismatches: &[],
    count_mismatch: None,
    scaling: &ScalingReport::NotRequested,
    durability: None,
    kafka_outage: None,
};

const ALWAYS: Window = Window { start: None, end: None };

fn status_at(old: &CouponEventStatus, observed: &ObservedState, progress: &Progress, now: i64) -> CouponEventStatus {
    compute_status(old, &desired(), observed, progress, NO_INPUTS, at(now))
}

fn status_done(old: &CouponEventStatus, observed: &ObservedState) -> CouponEventStatus {
    status_at(old, observed, &Progress::Done, NOW)
}

/// The first status of an event.
fn first_status(observed: &ObservedState) -> CouponEventStatus {
    status_done(&CouponEventStatus::default(), observed)
}

fn open_status() -> CouponEventStatus {
    first_status(&observed(Gate::Open, ALWAYS, 10, 4, 4))
}

fn reason_of<'a>(status: &'a CouponEventStatus, type_: &str) -> &'a str {
    &status.condition(type_).unwrap().reason
}

#[test]
fn status_of_open_event() {
    let durable = DurabilityReport { status: "True", reason: reason::WRITES_SYNCED, message: "Durable.".into() };
    let scaling = ScalingReport::Known(ScaledCondition {
        is_scaled: true,
        reason: reason::ISSUERS_READY,
        message: "All 8 required issuers are ready.".into(),
    });
    let inputs = StatusInputs {
        topic_mismatches: &["topic coupon-issued: partitions is 1, expected 12".to_owned()],
        scaling: &scaling,
        durability: Some(&durable),
        ..NO_INPUTS
    };
    let observed = observed(Gate::Open, ALWAYS, 10, 4, 3);
    let status = compute_status(&CouponEventStatus::default(), &desired(), &observed, &Progress::Done, inputs, at(NOW));
    assert_yaml_snapshot!(status);
}

#[test]
fn status_of_event_during_preload() {
    let observed = ObservedState { redis: None, ..observed(Gate::Loading, ALWAYS, 0, 0, 0) };
    assert_yaml_snapshot!(status_at(&CouponEventStatus::default(), &observed, &Progress::generated(3, 10), NOW));
}

#[test]
fn status_of_event_during_top_up() {
    let observed = observed(Gate::Open, ALWAYS, 5, 5, 5);
    assert_yaml_snapshot!(status_at(&CouponEventStatus::default(), &observed, &Progress::loaded(5, 10), NOW));
}

#[test]
fn status_of_event_blocked_by_impossible_change() {
    let blocker = Blocker::new(reason::CHANGE_NOT_POSSIBLE, "Raise totalCount to at least 10.");
    let observed = observed(Gate::Open, ALWAYS, 10, 4, 4);
    assert_yaml_snapshot!(status_at(&CouponEventStatus::default(), &observed, &Progress::Blocked(blocker), NOW));
}

#[test]
fn status_during_outage_keeps_the_last_counts() {
    let outage = Blocker::new(reason::BACKEND_UNAVAILABLE, "Connection refused.");
    assert_yaml_snapshot!(blocked_status(&open_status(), 4, &outage, None, None, at(NOW)));
    assert_yaml_snapshot!(
        "status_during_outage_of_new_event",
        blocked_status(&CouponEventStatus::default(), 1, &outage, None, None, at(NOW))
    );
}

#[test]
fn status_during_outage_of_postgres_follows_the_state_in_redis() {
    let outage = Blocker::new(reason::BACKEND_UNAVAILABLE, "Connection refused.");
    for (old, state, expected) in [
        (open_status(), reason::ENDED, ("False", reason::ENDED)),
        (open_status(), reason::OPEN, ("True", reason::OPEN)),
        (first_status(&observed(Gate::Paused, ALWAYS, 10, 4, 4)), reason::OPEN, ("True", reason::OPEN)),
    ] {
        let status = blocked_status(&old, 4, &outage, Some(state), None, at(NOW));
        let open = status.condition(condition::OPEN).unwrap();
        assert_eq!((&*open.status, &*open.reason), expected);
    }
}

#[test]
fn outage_changes_only_what_may_have_changed() {
    let outage = Blocker::new(reason::BACKEND_UNAVAILABLE, "Connection refused.");
    let finished = first_status(&observed(Gate::Closed, ALWAYS, 10, 4, 4));
    let during = blocked_status(&finished, 4, &outage, None, None, at(NOW));
    assert_eq!(reason_of(&during, condition::RECORDED), reason::ALL_RECORDED, "nothing is issued any more");
    assert_eq!(reason_of(&during, condition::BALANCED), reason::COUNTS_MATCH);
}

#[test]
fn status_while_redis_is_unverified_keeps_the_last_counts() {
    let mut wiped = observed(Gate::Loading, ALWAYS, 0, 0, 4);
    wiped.redis.as_mut().unwrap().is_verified = false;
    let blocked = Progress::Blocked(Blocker::redis_unverified("waiting"));
    let durable =
        DurabilityReport { status: "Unknown", reason: reason::SETTINGS_UNAVAILABLE, message: "Unknown.".into() };
    let inputs = StatusInputs { durability: Some(&durable), ..NO_INPUTS };
    let unverified = compute_status(&open_status(), &desired(), &wiped, &blocked, inputs, at(NOW));
    assert_yaml_snapshot!(unverified);

    let verified = status_done(&unverified, &observed(Gate::Open, ALWAYS, 10, 4, 4));
    assert_eq!(reason_of(&verified, condition::OPEN), reason::OPEN);
    let paused = first_status(&observed(Gate::Paused, ALWAYS, 10, 4, 4));
    let unverified = status_at(&paused, &wiped, &blocked, NOW);
    assert_eq!(reason_of(&unverified, condition::OPEN), reason::PAUSED);
}

#[test]
fn status_with_mismatch_keeps_it_while_the_balance_is_unknown() {
    let observed = observed(Gate::Open, ALWAYS, 10, 4, 3);
    let count_mismatch = CountMismatch { coupons: 1, message: "1 coupon is missing.".into() };
    let inputs = StatusInputs { count_mismatch: Some(&count_mismatch), ..NO_INPUTS };
    let mismatched = compute_status(&open_status(), &desired(), &observed, &Progress::Done, inputs, at(NOW));
    assert_yaml_snapshot!(mismatched);

    let unknown = status_done(&mismatched, &ObservedState { redis: None, ..observed });
    assert_eq!(reason_of(&unknown, condition::BALANCED), reason::DRIFT_FOUND);
    assert_eq!(unknown.balance, mismatched.balance);
}

#[test]
fn status_of_event_closed_before_its_preload() {
    let observed = ObservedState { stored: None, ..observed(Gate::Closed, ALWAYS, 0, 0, 0) };
    assert_yaml_snapshot!(first_status(&observed));
}

#[test]
fn status_of_retired_event_keeps_its_counts_and_state() {
    let ended = Window { start: None, end: Some(NOW - 1) };
    for (gate, window, issued, state) in [
        (Gate::Open, ended, 4, reason::ENDED),
        (Gate::Closed, ALWAYS, 4, reason::CLOSED),
        (Gate::Open, ALWAYS, 10, reason::SOLD_OUT),
    ] {
        let before = observed(gate, window, 10, issued, issued);
        let redis = RedisEvent { gate: Gate::Closed, retired: Some(gate), ..before.redis.clone().unwrap() };
        let old = first_status(&before);
        let new = status_done(&old, &ObservedState { redis: Some(redis), ..before });
        let reasons = [condition::READY, condition::PRELOADED, condition::OPEN].map(|type_| reason_of(&new, type_));
        assert_eq!(reasons, [reason::RETIRED, reason::RETIRED, state]);
        let counts = |status: &CouponEventStatus| (status.issued, status.recorded, status.available, status.balance);
        assert_eq!(counts(&new), counts(&old));
        assert_eq!((&new.finished_at, &new.sold_out_at), (&old.finished_at, &old.sold_out_at));
        if state == reason::ENDED {
            assert_yaml_snapshot!("status_of_retired_event", new);
        }
    }
}

#[test]
fn state_of_event_follows_gate_window_and_stock() {
    let before = Window { start: Some(NOW + 1), end: None };
    let during = Window { start: Some(NOW), end: Some(NOW + 1) };
    let after = Window { start: None, end: Some(NOW) };
    for (gate, window, issued, expected) in [
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
        let observed = observed(gate, window, 10, issued, issued);
        assert_eq!(reported_state(observed.redis.as_ref(), None), expected, "{gate:?} {window:?} {issued}");
        assert!(!state::message(expected, None).is_empty(), "{expected}");
    }
    assert_eq!(reported_state(None, None), reason::LOADING);
}

#[test]
fn held_event_is_reported_as_held_unless_it_is_over_or_still_open() {
    let before = Window { start: Some(NOW + 1), end: None };
    let after = Window { start: None, end: Some(NOW) };
    for (gate, window, issued, expected) in [
        (Gate::Loading, ALWAYS, 0, reason::HELD),
        (Gate::Paused, ALWAYS, 0, reason::HELD),
        (Gate::Paused, before, 0, reason::HELD),
        (Gate::Paused, ALWAYS, 10, reason::HELD),
        (Gate::Paused, after, 0, reason::ENDED),
        (Gate::Open, ALWAYS, 0, reason::OPEN),
        (Gate::Closed, ALWAYS, 0, reason::CLOSED),
    ] {
        let observed = observed(gate, window, 10, issued, issued);
        let state = reported_state(observed.redis.as_ref(), Some("wrong price"));
        assert_eq!(state, expected, "{gate:?} {window:?} {issued}");
    }
    let held = DesiredState { hold: Some("wrong price".into()), issuance: IssuingMode::Paused, ..desired() };
    let paused = observed(Gate::Paused, ALWAYS, 10, 4, 4);
    let status = compute_status(&open_status(), &held, &paused, &Progress::Done, NO_INPUTS, at(NOW));
    let open = status.condition(condition::OPEN).unwrap();
    assert_eq!((&*open.status, &*open.reason), ("False", "Held"));
    assert_eq!(open.message, "Issuing is held: wrong price. Remove the annotation couponry.dev/hold to continue.");
    assert!(!status.may_be_open() && status.condition(condition::READY).unwrap().status == "True");

    // While a store is not available, a hold is reported once the gate is known to be paused.
    let outage = Blocker::new(reason::BACKEND_UNAVAILABLE, "Postgres is unavailable.");
    let blocked = |old: &CouponEventStatus, state| blocked_status(old, 4, &outage, state, Some("wrong price"), at(NOW));
    assert_eq!(reason_of(&blocked(&open_status(), Some(reason::HELD)), condition::OPEN), reason::HELD);
    assert_eq!(reason_of(&blocked(&status, None), condition::OPEN), reason::HELD);
    assert_eq!(reason_of(&blocked(&CouponEventStatus::default(), None), condition::OPEN), reason::HELD);
}

#[test]
fn opened_at_is_set_when_coupons_can_be_issued() {
    let before = Window { start: Some(NOW + 1), end: None };
    let scheduled = first_status(&observed(Gate::Open, before, 10, 0, 0));
    assert_eq!(scheduled.opened_at, None);
    for (gate, window) in [(Gate::Loading, ALWAYS), (Gate::Paused, before)] {
        assert_eq!(first_status(&observed(gate, window, 10, 0, 0)).opened_at, None, "{gate:?}");
    }
    // It was paused before the status was written. Otherwise its release could change.
    assert_eq!(first_status(&observed(Gate::Paused, ALWAYS, 10, 0, 0)).opened_at, Some(Time(at(NOW - 5000))));
    let opened = status_done(&scheduled, &observed(Gate::Open, ALWAYS, 10, 0, 0));
    assert_eq!(opened.opened_at, Some(Time(at(NOW - 5000))), "the time of the opening, not of the observation");
    let paused = status_done(&opened, &observed(Gate::Paused, ALWAYS, 10, 0, 0));
    assert_eq!(paused.opened_at, opened.opened_at);
}

#[test]
fn event_is_finished_when_it_is_over_and_recorded() {
    let sold_out = first_status(&observed(Gate::Open, ALWAYS, 10, 10, 9));
    assert!(sold_out.sold_out_at.is_some() && sold_out.finished_at.is_none());
    let finished = status_done(&sold_out, &observed(Gate::Open, ALWAYS, 10, 10, 10));
    assert!(finished.finished_at.is_some());
    assert_eq!(finished.sold_out_at, sold_out.sold_out_at);
    let later = status_at(&sold_out, &observed(Gate::Open, ALWAYS, 10, 10, 10), &Progress::Done, NOW + 3_600_000);
    assert_eq!(later.finished_at, Some(Time(at(NOW))), "the clock of Redis, not that of the operator");
    let topped_up = status_done(&finished, &observed(Gate::Open, ALWAYS, 20, 10, 10));
    assert!(topped_up.sold_out_at.is_none() && topped_up.finished_at.is_none());
}

#[test]
fn unchanged_conditions_keep_their_transition_time() {
    let first = open_status();
    let later = NOW + 60_000;
    let unchanged = status_at(&first, &observed(Gate::Open, ALWAYS, 10, 4, 4), &Progress::Done, later);
    assert_eq!(unchanged, first);
    let counted = status_at(&first, &observed(Gate::Open, ALWAYS, 10, 5, 5), &Progress::Done, later);
    assert_ne!(counted, first);
    assert!(!is_transition(&first, &counted));
    let paused = status_at(&first, &observed(Gate::Paused, ALWAYS, 10, 4, 4), &Progress::Done, later);
    assert!(is_transition(&first, &paused));
    let since = |status: &CouponEventStatus, type_: &str| status.condition(type_).unwrap().last_transition_time.clone();
    assert_eq!(since(&paused, condition::OPEN), Time(at(later)));
    assert_eq!(since(&paused, condition::READY), since(&first, condition::READY));
}

#[test]
fn scaled_condition_depends_on_the_scaling_report() {
    let ready = ScalingReport::Known(ScaledCondition {
        is_scaled: true,
        reason: reason::ISSUERS_READY,
        message: "All 8 required issuers are ready.".into(),
    });
    let observed = observed(Gate::Open, ALWAYS, 10, 4, 4);
    let status_with = |old: &CouponEventStatus, scaling: &ScalingReport| {
        compute_status(old, &desired(), &observed, &Progress::Done, StatusInputs { scaling, ..NO_INPUTS }, at(NOW))
    };
    let status = status_with(&CouponEventStatus::default(), &ready);
    assert_eq!(reason_of(&status, condition::SCALED), reason::ISSUERS_READY);
    assert_eq!(status_with(&status, &ScalingReport::Unknown), status, "the previous condition is kept");
    assert!(status_with(&status, &ScalingReport::NotRequested).condition(condition::SCALED).is_none());
}

#[test]
fn event_that_awaits_codes_is_neither_ready_nor_stalled() {
    let batch = CouponBatch { first_ordinal: 0, counts: vec![(TEN_PERCENT, 10)] };
    let progress = Progress::awaiting_codes(&"summer".parse().unwrap(), &batch);
    let observed = ObservedState { redis: None, ..observed(Gate::Loading, ALWAYS, 0, 0, 0) };
    let status = status_at(&CouponEventStatus::default(), &observed, &progress, NOW);
    for type_ in [condition::READY, condition::PRELOADED] {
        let condition = status.condition(type_).unwrap();
        assert_eq!((&*condition.status, &*condition.reason), ("False", reason::AWAITING_CODES));
        assert_eq!(
            condition.message,
            "10 codes have to be imported (10 of PERCENT:10). Run `kubectl couponry import summer FILE`."
        );
    }
    assert_eq!(status.condition(condition::STALLED).unwrap().status, "False");
}

#[test]
fn status_has_latest_import_and_a_warning_for_guessable_codes() {
    let import = |count, guess_bits| ImportedCodes {
        count,
        file: CodeFile { sha256: [0xAB; 32], guess_bits },
        imported_at: NOW,
    };
    let observed = |imports| ObservedState { imports, ..observed(Gate::Open, ALWAYS, 10, 0, 0) };
    let message = |status: &CouponEventStatus| status.condition(condition::READY).unwrap().message.clone();
    let good = status_done(&CouponEventStatus::default(), &observed(vec![import(8, 40), import(2, MIN_GUESS_BITS)]));
    assert_eq!(message(&good), "All 10 coupons are imported and loaded.");
    let imported = good.imported.unwrap();
    assert_eq!((imported.count, imported.sha256), (2, "ab".repeat(32)));
    let guessable = status_done(&CouponEventStatus::default(), &observed(vec![import(8, 3), import(2, 40)]));
    assert_eq!(
        message(&guessable),
        "All 10 coupons are imported and loaded. The imported codes can be guessed: they are short or consecutive, and \
         about one of 8 guesses matches a code."
    );
}
