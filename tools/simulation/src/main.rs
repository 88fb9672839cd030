//! Tries the design of `docs/adr/0018-shards.md` with many seeds.

use simulation::exactness::{Flaw, Tally, run};

fn main() -> Result<(), String> {
    let mut sum = Tally::default();
    for seed in 0..10_000 {
        sum += run(seed, Flaw::None)?;
    }
    println!("{sum:?}");
    Ok(())
}
