//! The model of the crowd counts right.

use couponry_shard_model::throughput::{Setting, simulate};

const SETTING: Setting =
    Setting { shards: 8, issuers: 20, rate: 1e6, requests: 120_000, stock: 60_000, heat: 0.05, low_water: 500 };

#[test]
fn everyone_is_answered_and_every_coupon_is_given() {
    for (seed, shards) in [(1, 1), (2, 2), (3, 8), (4, 13)] {
        let found = simulate(&Setting { shards, ..SETTING }, seed);
        assert_eq!((found.left, found.refused), (0, 60_000), "{shards} shards");
        assert!(found.moves > 0 || shards != 8, "nothing was moved to the shard with more users");
        assert!(found.held_back <= found.refused && found.given_p50 <= found.given_p99, "{found:?}");
    }
}

#[test]
fn fewer_issuers_make_a_full_shard_answer_sooner() {
    let control = simulate(&SETTING, 1);
    let found = simulate(&Setting { issuers: 5, ..SETTING }, 1);
    assert!(found.given_p50 < control.given_p50, "{found:?} {control:?}");
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    assert_eq!(format!("{:?}", simulate(&SETTING, 1)), format!("{:?}", simulate(&SETTING, 1)));
}
