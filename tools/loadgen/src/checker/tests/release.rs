//! The checks of the admission and of the drops.

use couponry_domain::{AdmissionKey, Seed};

use super::*;

const PLANNED_RELEASE: &str = "Redis has the planned admission and drops";
const AFTER_ADMISSION: &str = "no coupon is issued before its user is admitted";
const AFTER_RELEASE: &str = "no more coupons are issued than are released";

/// Sets the release, with the start of a ramp that is over before the first coupon.
fn set_release(input: &mut CheckInput, ramp_seconds: Option<u32>, drops: &str) {
    let release = Release { ramp_seconds, drops: drops.parse().unwrap() };
    (input.release, input.redis.release) = (release.clone(), release);
    input.redis.admission_key = ramp_seconds.map(|_| AdmissionKey::of(&Seed::from([1; 32])));
    input.redis.window.start = Some(-3_600_000);
}

fn waiting(number: u32, at: i64) -> Attempt {
    let Outcome::Answered(mut response) = denied(Reason::Wait) else { unreachable!() };
    response.admitted_at = Some(jiff::Timestamp::from_millisecond(at).unwrap());
    attempt(number, 1, 50, Outcome::Answered(response))
}

fn admitted_at(input: &CheckInput, number: u32) -> i64 {
    let (key, start) = (input.redis.admission_key.as_ref().unwrap(), input.redis.window.start.unwrap());
    key.admitted_at(start, input.release.ramp_seconds.unwrap(), &user(number))
}

#[test]
fn issuances_after_admission_and_drops_pass() {
    let mut input = consistent_input();
    set_release(&mut input, Some(3600), "1002:5,1005:3,");
    let at = admitted_at(&input, 1);
    input.history.extend([waiting(1, at), waiting(1, at), waiting(9, 5)]);
    let report = check(&input);
    assert!(report.is_ok(), "{report}");
}

#[test]
fn admission_or_drops_other_than_planned_are_detected() {
    let failed = failed_checks(|input| input.release.ramp_seconds = Some(1));
    assert_eq!(failed, [PLANNED_RELEASE]);
    let failed = failed_checks(|input| input.redis.release.drops = "2000:1,".parse().unwrap());
    assert_eq!(failed, [PLANNED_RELEASE]);
    let failed = failed_checks(|input| {
        set_release(input, Some(1), "");
        input.redis.admission_key = None;
    });
    assert_eq!(failed, [PLANNED_RELEASE]);
}

#[test]
fn issuance_before_admission_is_detected() {
    // By the ticket of a user who never received WAIT.
    let failed = failed_checks(|input| {
        set_release(input, Some(3600), "");
        let before = admitted_at(input, 2) - 1;
        change_in_all_stores(input, 2, |issued| issued.issued_at = before);
    });
    assert_eq!(failed, [AFTER_ADMISSION]);
    // By the response to a user.
    assert_eq!(failed_checks(|input| input.history.push(waiting(1, 1002))), [AFTER_ADMISSION]);
    // The response does not agree with the ticket.
    let failed = failed_checks(|input| {
        set_release(input, Some(3600), "");
        let at = admitted_at(input, 1);
        input.history.push(waiting(1, at + 1));
    });
    assert_eq!(failed, [AFTER_ADMISSION]);
    // Two responses do not agree.
    assert_eq!(failed_checks(|input| input.history.extend([waiting(9, 5), waiting(9, 6)])), [AFTER_ADMISSION]);
}

#[test]
fn issuance_before_its_drop_is_detected() {
    // Coupons 0 to 5 are issued from 1000 to 1005.
    assert_eq!(failed_checks(|input| set_release(input, None, "1002:9,")), [AFTER_RELEASE]);
    assert_eq!(failed_checks(|input| set_release(input, None, "1002:5,1006:5,")), [AFTER_RELEASE]);
}
