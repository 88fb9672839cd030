//! Prints the numbers of `docs/adr/0018-shards.md`.

use couponry_shard_model::{
    exactness::{Flaw, Tally, run},
    throughput::{Findings, Setting, most_on_a_node, simulate},
};

/// Runs of the first model, unless the first argument says how many.
const SEEDS: u64 = 10_000;
const SETTING: Setting =
    Setting { shards: 16, issuers: 100, rate: 1e6, requests: 2_000_000, stock: 1_000_000, heat: 0.0, low_water: 0 };

fn main() -> Result<(), String> {
    println!("1,000,000 requests per second for two seconds, 1,000,000 coupons, 100 issuers\n");
    head("shards");
    for shards in [1, 2, 4, 8, 16, 32, 64] {
        row(shards, &Setting { shards, ..SETTING });
    }
    println!("\n16 shards, by the number of issuers\n");
    head("issuers");
    for issuers in [10, 25, 50, 100, 200, 400] {
        row(issuers, &Setting { issuers, ..SETTING });
    }
    println!("\n16 shards, 100 issuers, by the number of coupons\n");
    head("coupons");
    for stock in [1000, 10_000, 100_000, 1_000_000] {
        row(stock, &Setting { stock, requests: stock + 500_000, ..SETTING });
    }
    println!(
        "\n16 shards, 100 issuers, 5 % more of all requests for one shard, by the stock at which a shard is brought more\n"
    );
    head("low water");
    for low_water in [0, 1000, 10_000] {
        row(low_water, &Setting { heat: 0.05, low_water, ..SETTING });
    }
    println!("\n16 shards, 100 issuers, by requests per second\n");
    head("rate");
    for rate in [100_000_u32, 250_000, 500_000, 1_000_000, 2_000_000] {
        row(rate, &Setting { rate: f64::from(rate), ..SETTING });
    }
    println!("\n| shards on as many nodes | most on one node, tag `event/shard` | placed tag |\n|---|---|---|");
    for shards in [2, 4, 8, 16, 32] {
        let (plain, placed) = most_on_a_node("summer", shards, shards);
        println!("| {shards} | {plain} | {placed} |");
    }

    let seeds = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    let mut sum = Tally::default();
    for seed in 0..seeds {
        sum += run(seed, Flaw::None)?;
    }
    println!("\nNothing lost or doubled in {seeds} runs: {sum:?}");
    Ok(())
}

fn head(name: &str) {
    println!(
        "| {name} | users per call | Redis busy | given p50, p99 (ms) | refused p50, p99 (ms) | transfers | coupons moved \
         | refused after a wait | given after a wait | end (ms) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

fn row(name: impl std::fmt::Display, setting: &Setting) {
    let Findings {
        batch,
        utilisation,
        given_p50,
        given_p99,
        refused_p50,
        refused_p99,
        moves,
        moved,
        refused,
        held_back,
        rescued,
        end_game,
        left,
    } = simulate(setting, 1);
    assert_eq!(left, 0, "coupons that nobody got");
    let busy = utilisation * 100.0;
    let share =
        100.0 * f64::from(u32::try_from(held_back).unwrap_or(0)) / f64::from(u32::try_from(refused).unwrap_or(1));
    println!(
        "| {name} | {batch:.1} | {busy:.0} % | {given_p50:.1}, {given_p99:.1} | {refused_p50:.1}, {refused_p99:.1} | {moves} | {moved} \
         | {share:.2} % | {rescued} | {end_game:.1} |"
    );
}
