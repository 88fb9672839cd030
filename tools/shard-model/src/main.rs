//! Prints the tables of `docs/adr/0018-shards.md`.

use couponry_shard_model::{
    exactness::{Flaw, Tally, run},
    throughput::{Measurements, Scenario, most_on_a_node, simulate},
};

/// Default number of runs of the exactness model; the first argument overrides it.
const SEEDS: u64 = 10_000;
const SCENARIO: Scenario = Scenario {
    shards: 16,
    issuers: 100,
    rate: 1e6,
    requests: 2_000_000,
    stock: 1_000_000,
    hot_share: 0.0,
    low_water_mark: 0,
};

fn main() -> Result<(), String> {
    println!("1,000,000 requests per second for two seconds, 1,000,000 coupons, 100 issuers\n");
    head("shards");
    for shards in [1, 2, 4, 8, 16, 32, 64] {
        row(shards, &Scenario { shards, ..SCENARIO });
    }
    println!("\n16 shards, by issuers\n");
    head("issuers");
    for issuers in [10, 25, 50, 100, 200, 400] {
        row(issuers, &Scenario { issuers, ..SCENARIO });
    }
    println!("\n16 shards, 100 issuers, by coupons\n");
    head("coupons");
    for stock in [1000, 10_000, 100_000, 1_000_000] {
        row(stock, &Scenario { stock, requests: stock + 500_000, ..SCENARIO });
    }
    println!(
        "\n16 shards, 100 issuers, 5 % of all requests in addition for one shard, by the low-water mark of a shard\n"
    );
    head("low-water mark");
    for low_water_mark in [0, 1000, 10_000] {
        row(low_water_mark, &Scenario { hot_share: 0.05, low_water_mark, ..SCENARIO });
    }
    println!("\n16 shards, 100 issuers, by requests per second\n");
    head("rate");
    for rate in [100_000_u32, 250_000, 500_000, 1_000_000, 2_000_000] {
        row(rate, &Scenario { rate: f64::from(rate), ..SCENARIO });
    }
    println!(
        "\n| shards and nodes | most shards on one node, tag `event/shard` | with the chosen tag |\n|---|---|---|"
    );
    for shards in [2, 4, 8, 16, 32] {
        let (plain, placed) = most_on_a_node("summer", shards, shards);
        println!("| {shards} | {plain} | {placed} |");
    }

    let seeds = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    let mut sum = Tally::default();
    for seed in 0..seeds {
        sum += run(seed, Flaw::None)?;
    }
    println!("\nNo invariant was violated in {seeds} runs: {sum:?}");
    Ok(())
}

fn head(name: &str) {
    println!(
        "| {name} | users per call | Redis busy | issued p50, p99 (ms) | sold out p50, p99 (ms) | transfers \
         | coupons moved | sold out after a retry | issued after a retry | SOLD_OUT known after (ms) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

fn row(name: impl std::fmt::Display, scenario: &Scenario) {
    let Measurements {
        mean_batch,
        utilisation,
        issued_p50,
        issued_p99,
        sold_out_p50,
        sold_out_p99,
        transfers,
        coupons_moved,
        sold_out,
        sold_out_after_wait,
        issued_after_wait,
        sold_out_delay,
        unissued,
    } = simulate(scenario, 1);
    assert_eq!(unissued, 0, "coupons that were not issued");
    let busy = utilisation * 100.0;
    let share = 100.0 * f64::from(u32::try_from(sold_out_after_wait).unwrap_or(0))
        / f64::from(u32::try_from(sold_out).unwrap_or(1));
    println!(
        "| {name} | {mean_batch:.1} | {busy:.0} % | {issued_p50:.1}, {issued_p99:.1} | {sold_out_p50:.1}, \
         {sold_out_p99:.1} | {transfers} | {coupons_moved} | {share:.2} % | {issued_after_wait} | {sold_out_delay:.1} |"
    );
}
