//! The throughput model accounts for every request and coupon.

use couponry_shard_model::throughput::{Scenario, simulate};

const SCENARIO: Scenario = Scenario {
    shards: 8,
    issuers: 20,
    rate: 1e6,
    requests: 120_000,
    stock: 60_000,
    hot_share: 0.05,
    low_water_mark: 500,
};

#[test]
fn simulation_responds_to_every_request_and_issues_every_coupon() {
    for (seed, shards) in [(1, 1), (2, 2), (3, 8), (4, 13)] {
        let result = simulate(&Scenario { shards, ..SCENARIO }, seed);
        assert_eq!((result.unissued, result.sold_out), (0, 60_000), "{shards} shards");
        assert!(result.transfers > 0 || shards != 8, "no coupon was moved to the shard with more users");
        assert!(result.sold_out_after_wait <= result.sold_out && result.issued_p50 <= result.issued_p99, "{result:?}");
    }
}

#[test]
fn fewer_issuers_reduce_latency_of_busy_shard() {
    let control = simulate(&SCENARIO, 1);
    let result = simulate(&Scenario { issuers: 5, ..SCENARIO }, 1);
    assert!(result.issued_p50 < control.issued_p50, "{result:?} {control:?}");
}

#[test]
fn simulation_with_same_seed_is_identical() {
    assert_eq!(format!("{:?}", simulate(&SCENARIO, 1)), format!("{:?}", simulate(&SCENARIO, 1)));
}
