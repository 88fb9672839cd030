//! The design violates no invariant, and the invariants detect each removed part of it.

use couponry_shard_model::exactness::{Flaw, Tally, run};

const SEEDS: u64 = 1500;

#[test]
fn transfers_with_faults_violate_no_invariant() {
    let mut sum = Tally::default();
    for seed in 0..SEEDS {
        sum += run(seed, Flaw::None).unwrap_or_else(|error| panic!("{error}"));
    }
    let Tally { recorded, transfers, late, data_losses, recoveries, returned, sold_out } = sum;
    // A kind of action that never took place was not tested.
    for (what, count) in [
        ("coupons recorded", recorded),
        ("transfers", transfers),
        ("late calls", late),
        ("shards that lost data", data_losses),
        ("recoveries", recoveries),
        ("coupons returned to a queue", returned),
        ("responds with SOLD_OUT", sold_out),
    ] {
        assert!(count > 100, "{count} {what}");
    }
}

#[test]
fn run_with_same_seed_is_identical() {
    assert_eq!(run(7, Flaw::None), run(7, Flaw::None));
}

/// The first violation with this flaw.
fn first_violation(flaw: Flaw) -> String {
    (0..SEEDS).find_map(|seed| run(seed, flaw).err()).unwrap_or_else(|| panic!("{flaw:?} was not detected"))
}

#[test]
fn missing_transfer_number_duplicates_coupons() {
    let violation = first_violation(Flaw::NoTransferNumber);
    assert!(violation.contains("in 2 places"), "{violation}");
}

#[test]
fn transit_record_deleted_first_loses_coupons() {
    let violation = first_violation(Flaw::DeleteTransitFirst);
    assert!(violation.contains("in 0 places"), "{violation}");
}

#[test]
fn missing_epoch_duplicates_coupons() {
    let violation = first_violation(Flaw::NoEpoch);
    assert!(violation.contains("in 2 places") || violation.contains("is available again"), "{violation}");
}

#[test]
fn restore_without_moves_loses_or_duplicates_coupons() {
    let violation = first_violation(Flaw::IgnoreMoves);
    assert!(violation.contains("places") || violation.contains("is available again"), "{violation}");
}

#[test]
fn single_observation_returns_wrong_sold_out() {
    let violation = first_violation(Flaw::SingleObservation);
    assert!(violation.contains("SOLD_OUT"), "{violation}");
}

#[test]
fn sold_out_without_expiry_denies_returned_coupons() {
    let violation = first_violation(Flaw::NoSoldOutExpiry);
    assert!(violation.contains("SOLD_OUT"), "{violation}");
}
