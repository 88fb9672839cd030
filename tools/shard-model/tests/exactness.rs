//! The design keeps its promises, and the invariants see when it would not.

use couponry_shard_model::exactness::{Flaw, Tally, run};

const SEEDS: u64 = 1500;

#[test]
fn moving_stock_loses_no_coupon_and_gives_none_twice() {
    let mut sum = Tally::default();
    for seed in 0..SEEDS {
        sum += run(seed, Flaw::None).unwrap_or_else(|what| panic!("{what}"));
    }
    let Tally { recorded, moves, late, forgotten, recoveries, returned, sold_out } = sum;
    // What never happened was not tried.
    for (what, count) in [
        ("coupons recorded", recorded),
        ("transfers", moves),
        ("late calls", late),
        ("shards that forgot", forgotten),
        ("recoveries", recoveries),
        ("coupons that came back", returned),
        ("answers SOLD_OUT", sold_out),
    ] {
        assert!(count > 100, "{count} {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7, Flaw::None), run(7, Flaw::None));
}

/// What the invariants say of the first run in which the flaw shows.
fn found(flaw: Flaw) -> String {
    (0..SEEDS).find_map(|seed| run(seed, flaw).err()).unwrap_or_else(|| panic!("{flaw:?} was not found"))
}

#[test]
fn a_taker_that_does_not_compare_the_number_doubles_coupons() {
    let what = found(Flaw::NoNumber);
    assert!(what.contains("in 2 places"), "{what}");
}

#[test]
fn a_mover_that_forgets_the_transit_first_loses_coupons() {
    let what = found(Flaw::ForgetFirst);
    assert!(what.contains("in 0 places"), "{what}");
}

#[test]
fn a_transfer_from_before_a_recovery_doubles_coupons() {
    let what = found(Flaw::NoEpoch);
    assert!(what.contains("in 2 places") || what.contains("to be given again"), "{what}");
}

#[test]
fn a_shard_that_is_restored_to_what_was_dealt_to_it_loses_or_doubles_coupons() {
    let what = found(Flaw::ByDealAlone);
    assert!(what.contains("places") || what.contains("to be given again"), "{what}");
}

#[test]
fn a_single_look_at_each_shard_does_not_prove_that_all_are_dry() {
    let what = found(Flaw::OneLook);
    assert!(what.contains("SOLD_OUT"), "{what}");
}

#[test]
fn a_mark_that_never_ends_denies_coupons_that_came_back() {
    let what = found(Flaw::LastingMark);
    assert!(what.contains("SOLD_OUT"), "{what}");
}
